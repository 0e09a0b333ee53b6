"""Membership inference on segmentation nets, and its defences (He, thesis, chapter 7; ECCV 2020).

  bash launch/local.sh --config configs/membership.py:quick --workdir runs/membership

Variants:
  (none)    the dependent attack A1 of the thesis on Cityscapes. Victim and shadow are PSPNet-101
            on 1,488 and 555 images. 912 and 520 images are non-members. Published: a precision of
            0.83 at a recall of 0.8 after 30,000 steps of the shadow, and 0.75 after 15,000.
            --config.data.root=/data/cityscapes
  bdd100k   the independent attack A2: DeepLab-v3+ with Xception-71 on 4,000 images of BDD100K. The
            victim is the released PSPNet-101 of Cityscapes (2,975 members, 500 non-members).
            --config.data.root=/data/cityscapes --config.shadow_data.root=/data/bdd100k
            --config.init_from.path=pspnet101_cityscapes.pth
  vistas    the same with DPC on 10,000 images of Mapillary Vistas, whose labels are merged into the
            19 classes. --config.shadow_data.root=/data/vistas
  camvid    CamVid at 120x160 with narrow nets: about 20 minutes on a CPU core. Lists have pairs
            of frames of all clips, more than 3 frames apart. --config.data.root=/data/camvid
  quick     the embedded world `streets` at 96x192 with narrow nets: about 15 minutes on a CPU core
  smoke     seconds, for tests

Arguments:
  `adversary=dependent|independent`  A1 or A2. For Cityscapes A2 is the variant bdd100k. quick and
          smoke have A2 with another world and another net
  `defence=none|argmax|dropout|gaussian|obfuscate|temperature|top_k`  of the victim in the audit
  `strength=`  of the defence: 0.1 and 0.9 of dropout, 0.5 and 1.0 of gaussian, 0.75 and 0.95 of
          obfuscate are published, and the first number is the default
  `victim=train|load|features`  trains the victim, or loads it from --config.init_from.path.
          `features` also loads the generator of the defence obfuscate, which implies it. The path
          is then the folder RUN/features of a run of configs/dense_features.py on the same members
  `private=true|false`  trains the victim with clipped and noised gradients (DP-SGD)
  `references=`  further nets of the adversary, for LiRA and RMIA
  `reading=posteriors|loss`  input of the attack net
  `shadow_steps=`  of the shadow
A trained run is audited with another defence by
  --config configs/membership.py:quick,defence=gaussian,strength=0.5 --mode evaluate --workdir RUN

Not the thesis', or not said there: the optimiser of the attack net is SGD with momentum 0.9, a
cosine from 0.01, weight decay 1e-4 and batches of 32 patches for 50 epochs. The thesis pretrains
victim and shadow on the coarse annotations: --config.init_from.sources takes such a file for the
nets 'segmenter|shadow'.
"""

from segjax import config as config_lib

VARIANTS = ('bdd100k', 'vistas', 'camvid', 'quick', 'smoke')
STRENGTHS = {'dropout': 0.1, 'gaussian': 0.5, 'obfuscate': 0.75, 'temperature': 2.0, 'top_k': 1.0}
"""Strengths of the defences that have a strength."""
CHOICES = {
    'adversary': ('', 'dependent', 'independent'),
    'defence': ('none', 'argmax', *STRENGTHS),
    'victim': ('', 'train', 'load', 'features'),
    'reading': ('posteriors', 'loss'),
}
"""Values of arguments. An empty text is the choice of the variant."""
CLIP = 8
"""Frames of a clip of `streets`."""
OF_VARIANT = -1
"""A number that the variant or the defence sets."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(
        arg,
        variants=VARIANTS,
        adversary='',
        defence='none',
        strength=float(OF_VARIANT),
        victim='',
        private=False,
        references=0,
        reading='posteriors',
        shadow_steps=OF_VARIANT,
    )
    config_lib.check_choices('configs/membership.py', args, CHOICES)
    config = config_lib.defaults('membership')
    _cityscapes(config)
    variants = {
        'bdd100k': _bdd100k,
        'vistas': _vistas,
        'camvid': _camvid,
        'quick': _quick,
        'smoke': _smoke,
    }
    # The queried victim of Cityscapes is its own variant.
    is_cityscapes = args.adversary == 'dependent' and args.variant in ('bdd100k', 'vistas')
    if args.variant and not is_cityscapes:
        variants[args.variant](config)
    _set_arguments(config, args)
    return config


def _cityscapes(config):
    """Sets the dependent attack with PSPNet-101 on Cityscapes."""
    # New layers learn at ten times the rate, and norms and biases decay, as in the release.
    new_layers = ((r'(segmenter|shadow)/(ppm|cls_\d|aux_\d)/.*', 10.0),)
    poly = dict(_sgd(1e-2, 'poly'), factors=new_layers, decay_norm_and_bias=True)
    config_lib.update(
        config,
        data=dict(
            name='cityscapes',
            eval_size=(1024, 2048),
            lists=config_lib.published_lists('cityscapes'),
            train_split='victim_members',
            eval_split='victim_non_members',
        ),
        augment=dict(crop=(713, 713), scale=(0.5, 2.0), rotate=10.0, blur=0.5, flip=0.5),
        model=dict(num_layers=101),
        preprocess='imagenet',
        train=dict(batch_size=16, num_steps=30_000),
        optim=poly,
        init_from=dict(expected='training on the coarse annotations, for segmenter|shadow'),
        evaluate=dict(batch_size=1, crop=(713, 713)),
        shadow=dict(model=dict(num_layers=101), num_steps=30_000, batch_size=16, optim=poly),
        # 50 epochs of 1,075 images.
        attacker=dict(
            num_steps=50 * 1075 // 8, batch_size=8, patches=4, optim=_sgd(1e-2, 'cosine')
        ),
        features=dict(tap='conv4_12'),
        logging=dict(log_every=50, eval_every=5000, checkpoint_every=2500),
    )


def _sgd(learning_rate, schedule, weight_decay=1e-4):
    """Returns stochastic gradient descent, as published for PSPNet."""
    return dict(
        name='sgd',
        learning_rate=learning_rate,
        momentum=0.9,
        weight_decay=weight_decay,
        schedule=schedule,
        power=0.9,
    )


def _independent(config, name, num_images):
    """Sets the independent attack with DeepLab-v3+ on another data set."""
    config_lib.choose(config, 'shadow.model', 'deeplab_v3plus')
    of_deeplab = dict(factors=(), decay_norm_and_bias=False)
    config_lib.update(
        config,
        augment=dict(blur=0.0),
        data=dict(lists=(), train_split='train', eval_split='val'),
        victim=dict(use='load'),
        init_from=dict(expected="semseg's PSPNet-101 of Cityscapes"),
        shadow_data=dict(name=name, lists=config_lib.published_lists(name)),
        shadow=dict(
            adversary='independent',
            batch_size=7,
            optim=dict(_sgd(1e-2, 'poly', weight_decay=4e-5), **of_deeplab),
        ),
        attacker=dict(num_steps=50 * num_images // 8),
    )


def _bdd100k(config):
    """Sets the attack from BDD100K, with crops of 705."""
    _independent(config, 'bdd100k', 8000)
    config.augment.crop = (705, 705)


def _vistas(config):
    """Sets the attack by DPC from Mapillary Vistas in 19 classes, with crops of 721."""
    _independent(config, 'vistas', 20_000)
    config.augment.crop = (721, 721)
    config.shadow_data.class_map = 'cityscapes'
    config.shadow.model.head = 'dpc'
    config_lib.update(config, shadow=dict(batch_size=9, optim=dict(learning_rate=2e-2)))


def _lists(victim, shadow, rule='', split='train'):
    """Returns lists without a common image, drawn by a rule: pairs of the same size."""
    sizes = {
        'victim_members': victim,
        'victim_non_members': victim,
        'shadow_members': shadow,
        'shadow_non_members': shadow,
    }
    return tuple(f'{name}={split}:draw({size}, seed=0{rule})' for name, size in sizes.items())


def _narrow(config, size):
    """Sets narrow nets on images of a size."""
    adam = dict(
        name='adam',
        learning_rate=2e-3,
        weight_decay=0.0,
        factors=(),
        decay_norm_and_bias=False,
    )
    config_lib.update(
        config,
        data=dict(eval_size=size),
        augment=dict(crop=size, scale=(1.0, 1.0), rotate=0.0, blur=0.0),
        evaluate=dict(batch_size=8, crop=()),
        preprocess='unit',
        init_from=dict(expected=''),
        model=dict(num_layers=18, width=0.25),
        optim=adam,
        shadow=dict(model=dict(num_layers=18, width=0.25), batch_size=8, optim=adam),
        attacker=dict(
            model=dict(num_layers=18, width=0.25),
            optim=dict(name='adam', learning_rate=1e-3, weight_decay=1e-4),
        ),
        bicycle=dict(
            model=dict(width=0.25, layout_features=32, num_downs=3),
            encoder=dict(width=0.25),
            discriminator=dict(width=0.25, layout_features=32, num_layers=1),
        ),
    )


def _camvid(config):
    """Sets CamVid at 120x160. Each list has pairs of frames of all clips, apart in time."""
    size = (120, 160)
    _minutes(config, size)
    config_lib.update(
        config,
        data=dict(name='camvid', lists=_lists(48, 45, ', whole=2of5', split='train+val')),
        augment=dict(resize=size),
    )


def _quick(config):
    """Sets 384 rendered clips of 96x192. Each list has a frame of each of its 96 clips."""
    size = (96, 192)
    _minutes(config, size)
    config_lib.update(
        config,
        data=dict(
            name='streets',
            lists=_lists(96, 96, ', single=sequence'),
            world=dict(size=size, num_train=384 * CLIP, num_val=8),
        ),
    )


def _minutes(config, size):
    """Sets trainings of minutes."""
    _narrow(config, size)
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=600),
        shadow=dict(num_steps=600),
        attacker=dict(stride=4, patch=(16, 16), num_steps=300, batch_size=8, patches=8),
        features=dict(tap='conv4_2'),
        logging=dict(log_every=20, eval_every=0, checkpoint_every=200),
    )


def _smoke(config):
    """Sets trainings of seconds."""
    config_lib.smoke(config)
    size = (32, 64)
    _narrow(config, size)
    # Nets that compile quickly. The victim has a rate of drop-out and no batch norm.
    config_lib.choose(config, 'model', 'deeplab_largefov')
    config_lib.choose(config, 'shadow.model', 'erfnet')
    config_lib.update(
        config,
        data=dict(
            name='streets', lists=_lists(8, 8), world=dict(size=size, num_train=32, num_val=8)
        ),
        model=dict(width=0.0625),
        shadow=dict(model=dict(width=0.25, blocks=(0, 0, 0, 0)), num_steps=2),
        attacker=dict(stride=4, patch=(8, 8), num_steps=2, patches=2, model=dict(width=0.0625)),
        testing=dict(num_patches=2, resamples=50),
        features=dict(tap='conv1_2'),
        bicycle=dict(model=dict(num_downs=1, layout_features=8)),
    )


def _set_arguments(config, args):
    """Sets the adversary, the victim and the defence of the arguments."""
    if args.adversary == 'independent' and args.variant in ('quick', 'smoke'):
        # The same kind of streets in other scenes, and a net of another width.
        config.shadow.adversary = 'independent'
        config.shadow_data.name = 'streets'
        config.shadow_data.lists = config.data.lists
        config.shadow_data.world.update(config.data.world)
        config.shadow_data.world.seed = config.data.world.seed + 1
        config.shadow.model.width *= 1.5
    elif args.adversary == 'independent' and args.variant == '':
        _bdd100k(config)
    elif args.adversary:
        config.shadow.adversary = args.adversary
    needs_features = args.victim == 'features' or args.defence == 'obfuscate'
    if args.victim:
        config.victim.use = 'train' if args.victim == 'train' else 'load'
    if needs_features:
        config.victim.use = 'load'
        config.features.use = 'load'
    if config.victim.use == 'load':
        # The adversary does not begin with the weights of the victim.
        config.init_from.nets = ('segmenter', 'bicycle')
    config.privacy.use = args.private
    config.references.count = args.references
    config.attacker.reading = args.reading
    config.testing.defence = args.defence
    config.testing.strength = args.strength
    if args.strength == OF_VARIANT:
        config.testing.strength = STRENGTHS.get(args.defence, 0.0)
    if args.shadow_steps != OF_VARIANT:
        config.shadow.num_steps = args.shadow_steps
