"""Segmentation with synthetic dense features as training data (He, thesis, chapter 6).

  bash launch/local.sh --config configs/dense_features.py:quick --workdir runs/features

Variants:
  (none)    the thesis' setting on Cityscapes: PSPNet-101, features of conv4_12 from a generator
            with atrous pooling, 60 epochs of 3,000 patches. Refit with 30 % synthetic features,
            SGD 1e-6, poly 0.9. Published: mIoU 79.73 before and 80.30 after, ClassAcc 86.34 and
            87.29, PSPNet-score 74.33 (86.15 for real features).
            --config.data.root=/data/cityscapes --config.init_from.path=pspnet101_cityscapes.pth
  ade20k    the thesis' setting on ADE20K: PSPNet-50, features of conv4_3, 20 epochs of 40,000
            patches, SGD 1e-7. Published: mIoU 41.68 before and 42.02 after, ClassAcc 51.75 and
            53.83. --config.data.root=/data/ADE20K --config.init_from.path=pspnet50_ade20k.pth
  camvid    PSPNet-50 of half the width on CamVid at 360x480. All three stages are trained.
            --config.data.root=/data/camvid
  camvid_quick  CamVid at 120x160 with the narrow nets of quick: about twenty minutes on a CPU core.
            The last fifth of the training images is held back: the nets learn from the rest, and
            `layouts=other` and `layouts=pseudo` take its layouts
  quick     the embedded world `streets` at 96x192 with a narrow PSPNet-18: about ten minutes on a
            CPU core
  smoke     seconds, for tests

Arguments:
  `tap=`  inner tensor that is synthesised: image, or a name of models/backbones/resnet.py. The
          names early, middle, late and last are four blocks of the third stage or behind it, stem,
          stage2 and stage3 earlier tensors: the rows of Table 6.3
  `generator=atrous|resize`  layouts at full resolution are encoded by atrous pooling, or shrunk
          to the size of the features (Table 6.2)
  `source=generator|noise|mixup|painter|none`  synthetic data of the refit. painter needs a run of
          configs/label_to_image.py: --config.init_from.sources="(('painter', 'runs/painter'),)"
  `layouts=train|val`  layouts of the training split alone, or with a quarter of layouts from the
          evaluation split (Table 6.4). `layouts=other` takes this quarter from Synscapes, and
          `layouts=pseudo` from predictions on the coarsely annotated images. quick and smoke take
          another world for both, and camvid_quick the fifth that is held back
  `mining=true|false`  online hard negative mining of layouts (Fig. 6.6)
  `stages=all|segmentation|features|refit`  stages that are trained. The nets of the stages before
          are loaded from --config.init_from.path, and later stages are left out
  `share=` of synthetic examples in a batch (Fig. 6.3), whose size stays. `steps=` of the refit
E.g. --config configs/dense_features.py:quick,tap=last,mining=false

On Cityscapes, `layouts=other` needs --config.layout_data.root=/data/synscapes. `layouts=pseudo`
needs --config.layout_data.root=/data/cityscapes, with the images of train_extra.

Not the thesis', or not said there: the batch size 2 of the generator is BicycleGAN's, and its
patches are drawn anew in every step. `generator=resize` changes the generator alone, and averages
the layout (--config.bicycle.model.shrink=nearest keeps one label). With `tap=image`, images come
from the same nets, whose discriminator sees the layout. The refit has 10,000 steps. The published
learning rates belong to a released training in Caffe. Here losses are means over pixels: try larger
rates too (--config.optim.learning_rate=1e-4). PSPNet is the release in PyTorch, with crops of 713
and 473.
"""

import math

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

VARIANTS = ('ade20k', 'camvid', 'camvid_quick', 'quick', 'smoke')
CHOICES = {
    'generator': ('atrous', 'resize'),
    'source': ('generator', 'noise', 'mixup', 'painter', 'none'),
    'layouts': ('train', 'val', 'other', 'pseudo'),
    'mining': ('true', 'false'),
    'stages': ('all', 'segmentation', 'features', 'refit'),
}
"""Values of arguments."""
OF_VARIANT = -1
"""A number that the variant sets."""
SHARE_OF_VARIANT = math.nan
"""A share that the variant sets."""
SHARE = 0.3
"""Published share of synthetic examples in a batch."""
LEARNED = 'train[:80%]'
HELD_BACK = 'train[80%:]'
"""Training images of camvid_quick that the nets learn from, and those that are held back."""
TAPS = {
    '': dict(
        stem='conv1_3',
        stage2='conv2_3',
        stage3='conv3_4',
        early='conv4_6',
        middle='conv4_12',
        late='conv4_18',
        last='conv4_23',
    ),
    'ade20k': dict(
        stem='conv1_3',
        stage2='conv2_3',
        stage3='conv3_4',
        early='conv4_2',
        middle='conv4_3',
        late='conv4_5',
        last='conv4_6',
    ),
    'quick': dict(
        stem='conv1_3',
        stage2='conv2_2',
        stage3='conv3_2',
        early='conv4_1',
        middle='conv4_2',
        late='conv5_1',
        last='conv5_2',
    ),
    'smoke': dict(
        stem='encoder/initial_block',
        stage2='encoder/layers_0',
        stage3='encoder/layers_1',
        early='encoder/layers_1',
        middle='encoder/layers_0',
        late='decoder/layers_0',
        last='decoder/layers_1',
    ),
}
"""Taps of the rows of Table 6.3 by variant: of PSPNet-101, PSPNet-50, PSPNet-18 and ERFNet."""
HALVINGS = {'image': 3, 'conv1': 2, 'conv2': 1}
"""Halvings of the U-Net in addition to those of features at 1/8, by the first letters of a tap."""
SIMILAR = {'camvid': 'ade20k', 'camvid_quick': 'quick'}
"""Variants with the taps of another variant."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(
        arg,
        variants=VARIANTS,
        tap='middle',
        generator='atrous',
        source='generator',
        layouts='train',
        mining='true',
        stages='all',
        share=SHARE_OF_VARIANT,
        steps=OF_VARIANT,
    )
    for name, values in CHOICES.items():
        if args[name] not in values:
            where = f'--config configs/dense_features.py:...,{name}='
            raise unknown_name(where, args[name], values)
    _check_share(args)
    config = config_lib.defaults('dense_features')
    _cityscapes(config)
    variants = {
        'ade20k': _ade20k,
        'camvid': _camvid,
        'camvid_quick': _camvid_quick,
        'quick': _quick,
        'smoke': _smoke,
    }
    if args.variant:
        variants[args.variant](config)
    _set_generator(config, args)
    _set_layouts(config, args)
    _set_stages(config, args)
    _set_batch(config, args)
    config.mining.use = args.mining == 'true' and args.source == 'generator'
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps
    return config


def _cityscapes(config):
    """Sets PSPNet-101 on crops of 713 of Cityscapes."""
    config_lib.update(
        config,
        data=dict(name='cityscapes', eval_size=(1024, 2048)),
        augment=dict(crop=(713, 713), scale=(0.5, 2.0), flip=0.5),
        model=dict(num_layers=101),
        evaluate=dict(batch_size=1, crop=(713, 713)),
        segmentation=dict(
            use='load', num_steps=90_000, batch_size=16, optim=_sgd(1e-2, weight_decay=1e-4)
        ),
        # 60 epochs of 3,000 patches.
        features=dict(num_steps=60 * 3000 // 2, batch_size=2),
        train=dict(batch_size=16, num_steps=10_000),
        refit=dict(share=SHARE, label_smoothing=1e-4),
        optim=_sgd(1e-6),
        init_from=dict(expected="semseg's PSPNet-101 of Cityscapes, or a run of this net"),
        logging=dict(log_every=50, eval_every=2500, checkpoint_every=2500),
    )
    config.bicycle.optim.update(_adam(2e-4))
    config.bicycle.optim_discriminator.update(_adam(2e-4))


def _sgd(learning_rate, weight_decay=5e-4):
    """Returns the published optimiser of segmentation nets."""
    return dict(
        name='sgd',
        learning_rate=learning_rate,
        momentum=0.9,
        weight_decay=weight_decay,
        decay_norm_and_bias=True,
        schedule='poly',
        power=0.9,
    )


def _adam(learning_rate):
    """Returns the published optimiser of BicycleGAN."""
    return dict(
        name='adam',
        learning_rate=learning_rate,
        beta1=0.5,
        schedule='linear_tail',
        constant_fraction=0.5,
    )


def _ade20k(config):
    """Sets PSPNet-50 on crops of 473 of ADE20K."""
    config_lib.update(
        config,
        data=dict(name='ade20k', eval_size=(512, 683)),
        augment=dict(crop=(473, 473)),
        model=dict(num_layers=50),
        evaluate=dict(batch_size=1, crop=(473, 473)),
        segmentation=dict(num_steps=150_000),
        # 20 epochs of 40,000 patches. 150 classes need much memory for their histograms.
        features=dict(num_steps=20 * 40_000 // 2, bins=32),
        refit=dict(label_smoothing=0.1),
        optim=dict(learning_rate=1e-7),
        init_from=dict(expected="semseg's PSPNet-50 of ADE20K, or a run of this net"),
    )


def _camvid(config):
    """Sets a PSPNet-50 of half the width on whole images of CamVid."""
    size = (360, 480)
    config_lib.update(
        config,
        data=dict(name='camvid', eval_size=size),
        augment=dict(crop=size, scale=(1.0, 1.0)),
        model=dict(num_layers=50, width=0.5),
        evaluate=dict(batch_size=2, crop=()),
        segmentation=dict(use='train', num_steps=20_000, batch_size=8),
        features=dict(num_steps=20_000),
        train=dict(batch_size=10, num_steps=2000),
        # A net from scratch, and a training of its own: larger steps than published.
        optim=dict(learning_rate=1e-4),
        init_from=dict(expected=''),
        logging=dict(eval_every=2000, checkpoint_every=2000),
    )


def _small(config):
    """Sets a narrow PSPNet-18, a narrow generator, and trainings of minutes."""
    config_lib.update(
        config,
        augment=dict(scale=(1.0, 1.0)),
        model=dict(num_layers=18, width=0.25),
        evaluate=dict(batch_size=8, crop=()),
        bicycle=dict(
            model=dict(width=0.25, layout_features=32, num_downs=3),
            encoder=dict(width=0.25),
            discriminator=dict(width=0.25, layout_features=32, num_layers=1),
            # With larger batches, the released sum would weigh the divergence more.
            kl_reduction='mean',
        ),
        init_from=dict(expected=''),
    )
    for optim in (config.bicycle.optim, config.bicycle.optim_discriminator):
        optim.learning_rate = 2e-3


def _minutes(config, size):
    """Sets narrow nets on images of a size, and trainings of minutes."""
    _small(config)
    config_lib.update(
        config,
        data=dict(eval_size=size),
        augment=dict(crop=size),
        segmentation=dict(use='train', num_steps=500, batch_size=8),
        features=dict(num_steps=400, batch_size=4),
        train=dict(batch_size=10, num_steps=150),
        logging=dict(log_every=10, eval_every=0, checkpoint_every=100),
    )
    config.segmentation.optim.update(name='adam', learning_rate=2e-3, weight_decay=0.0)
    config.optim.learning_rate = 1e-3


def _quick(config):
    """Sets 400 rendered images of 96x192."""
    size = (96, 192)
    _minutes(config, size)
    config_lib.update(
        config, data=dict(name='streets', world=dict(num_train=400, num_val=64, size=size))
    )


def _camvid_quick(config):
    """Sets CamVid at 120x160, without the last fifth of its training images."""
    size = (120, 160)
    _minutes(config, size)
    config_lib.update(
        config,
        data=dict(name='camvid', train_split=LEARNED),
        augment=dict(resize=size),
        segmentation=dict(num_steps=1500),
    )


def _smoke(config):
    """Sets a training of seconds."""
    config_lib.smoke(config)
    _small(config)
    # ERFNet compiles in half the time.
    config_lib.choose(config, 'model', 'erfnet')
    config_lib.update(
        config,
        model=dict(width=0.25, blocks=(0, 0, 0, 0)),
        segmentation=dict(use='train', num_steps=2, batch_size=8),
        features=dict(num_steps=2, batch_size=16, num_codes=2, bins=16),
        # 8 real and 8 synthetic examples.
        train=dict(batch_size=16),
        refit=dict(share=0.5),
        mining=dict(candidates=8, refresh=2),
        bicycle=dict(
            model=dict(num_downs=1, layout_features=8),
            encoder=dict(blocks=1, width=0.1),
            discriminator=dict(num_scales=1, padding=2, layout_features=8),
        ),
    )


# --- arguments ------------------------------------------------------------------------------------


def _check_share(args):
    """Raises InputError for a share of synthetic examples that leaves no real example."""
    if not math.isnan(args.share) and not 0 <= args.share < 1:
        raise InputError(
            '--config configs/dense_features.py:...,share=',
            got=f'{args.share:g}',
            expected='a number in [0, 1), the share of synthetic examples in a batch',
            fix=f'share={SHARE}',
        )


def _set_generator(config, args):
    """Sets the tap, and the generator of its features."""
    # Taps of nets have a digit or a slash. A word is a row of Table 6.3.
    taps = TAPS[SIMILAR.get(args.variant, args.variant)]
    if args.tap.isalpha() and args.tap not in (*taps, 'image'):
        where = '--config configs/dense_features.py:...,tap='
        raise unknown_name(where, args.tap, (*taps, 'image'))
    config.features.tap = taps.get(args.tap, args.tap)
    config.bicycle.model.encoder = args.generator
    # The U-Net halves larger features more often.
    stem = args.tap if args.tap == 'image' else config.features.tap[:5]
    config.bicycle.model.num_downs += HALVINGS.get(stem, 0)


def _set_batch(config, args):
    """Sets the real examples of a batch, which leave room for the share of synthetic examples.

    The batch of a variant keeps its size: 16 examples are 11 real and 5 synthetic examples.
    """
    if not math.isnan(args.share):
        config.refit.share = args.share
    real = math.floor(config.train.batch_size * (1 - config.refit.share) + 1e-6)
    config.train.batch_size = max(1, real)


def _set_layouts(config, args):
    """Sets the source of additional layouts."""
    uses = {'train': 'none', 'val': 'labels', 'other': 'labels', 'pseudo': 'pseudo'}
    config.layouts.use = uses[args.layouts]
    if args.layouts in ('train', 'val'):
        return
    config.layouts.split = 'train'
    if args.variant in ('quick', 'smoke'):
        # The same streets in other scenes.
        config.layout_data.name = config.data.name
        config.layout_data.world.update(config.data.world)
        config.layout_data.world.seed = config.data.world.seed + 1
    elif args.variant == 'camvid_quick':
        config.layouts.split = HELD_BACK
    elif args.variant == '':
        names = {'other': 'synscapes', 'pseudo': 'cityscapes_coarse'}
        config.layout_data.name = names[args.layouts]
    else:
        raise InputError(
            '--config configs/dense_features.py:...,layouts=',
            got=f'{args.layouts!r} with the variant {args.variant!r}',
            expected='train or val, or a data set in the section layout_data',
            fix='layouts=train, then --config.layouts.use=labels --config.layout_data.name=folder',
        )


def _set_stages(config, args):
    """Sets which stages are trained, and where the nets of the remaining stages come from."""
    config.refit.source = args.source
    has_generator = args.source == 'generator'
    if args.stages == 'all':
        config.features.use = 'train' if has_generator else 'none'
        return
    config.segmentation.use = 'load'
    config.features.use = 'load' if has_generator else 'none'
    if args.stages == 'segmentation':
        small = args.variant in ('camvid', 'camvid_quick', 'quick', 'smoke')
        config.segmentation.use = 'train' if small else 'load'
        config.features.use = 'none'
    if args.stages == 'features':
        config.features.use = 'train'
    if args.stages != 'refit':
        config.refit.use = 'none'
