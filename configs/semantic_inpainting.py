"""Semantic inpainting of label maps with Denoise Activation (He et al.).

  bash launch/local.sh --config configs/semantic_inpainting.py:quick --workdir runs/inpainting

Variants:
  (none)    the paper's setting on Cityscapes with 35 classes: boxes of the 8 movable classes in
            squares of 256x256, batch 16, 200 epochs, Adam 2e-5, all loss weights 1. Published for
            TwoSM and for TwoSM with Denoise Activation in training: tIOU 82.85 and 83.30, hamm
            84.28 and 84.77, noise pixels 5.519 and 4.832, Sem 0.2756 and 0.2850.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  bedroom   the paper's setting on the bedrooms of ADE20K: 49 classes, objects of 7 classes,
            batch 8. --config.data.root=/data/ADE20K
  video     predicted label maps of Cityscapes sequences, in squares of 64x64 with narrow nets:
            minutes on two CPU cores. --config.data.root=/data/cityscapes_video
  folder    label maps of your own with instances (README, "Your own images and labels"), in squares
            of 64x64 with narrow nets. Objects of all classes. boxes.classes and shapes.classes
            choose some. --config.data.root=mine --config.data.classes=mine/classes.yaml
  quick     the embedded world `streets`: objects in squares of 64x64 with narrow nets, about eight
            minutes on two idle CPU cores. The shape classifier takes the first three
  smoke     seconds, for tests

Not the paper's, or not said there: Adam's beta1 of 0.5, flips, batch sizes and the cut around the
object are those of the released code of Hong et al. 2018. `release=true` also takes its weights and
rate: 0.1 for the adversarial loss, and 2e-4. Every object of the evaluation images is scored once.
The released code draws a box of each image, and some of these boxes have no object. `adnet` is
ADCNN, `unetd` is the denoiser of DANet without the adversarial training of DANet, and `ffdnet` gets
the noise level 0.1.
All denoisers are trained by the loss of the generator. Sem compares the squares around boxes, also
with a classifier that was trained on whole maps.

Sem needs a shape classifier. The small variants train a narrow classifier in a first stage. With
`sem=load` the variants of the paper take the row 'classifier' of init_from.sources, the run of
configs/shape_classifier.py: --config.init_from.sources="(('classifier', 'runs/shapes:best'),)".
`:best` takes the checkpoint of the highest accuracy, as the paper. Without it, the newest counts.
Its 80 outputs are the things of COCO. A run of configs/shape_classifier.py:cityscapes has the 8
classes of the boxes: --config.shapes.num_outputs=0.
With `sem=train` they train EfficientNet-B7 on the classes of their boxes, from random parameters.
`picture=train` trains a painter of photos in a stage of its own, for 300 epochs in the variants of
the paper. `picture=load` takes the row 'painter' of init_from.sources, a run of
configs/label_to_image.py:box or :quick,net=mask_to_image. The report then shows painted boxes
(Figs. 7 and 8).

Arguments: `da=none|train|test|both` is the use of Denoise Activation.
`denoiser=adnet|unetd|ridnet|ffdnet` trains a denoising net in its place. `sem=none|train|load` and
`picture=none|train|load` are the origins of classifier and painter. `steps` replaces the variant's
number of steps.
`system=shapes` is the shape classifier alone: a run from which other runs can take it. E.g.
--config configs/semantic_inpainting.py:quick,da=none,denoiser=ridnet
"""

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

VARIANTS = ('bedroom', 'video', 'folder', 'quick', 'smoke')
DENOISERS = ('none', 'adnet', 'unetd', 'ridnet', 'ffdnet')
NAMES_OF_PAPER = {'adcnn': 'adnet', 'danet': 'unetd'}
"""Denoisers that the paper calls otherwise."""
MODES = ('none', 'train', 'test', 'both')
"""Uses of Denoise Activation."""
USES = ('none', 'train', 'load')
"""Origins of the shape classifier and of the painter."""
SYSTEMS = ('inpainting', 'shapes')
"""Pipelines: the whole system, or the shape classifier alone."""
SMALL = ('video', 'folder', 'quick', 'smoke')
"""Variants with narrow nets, which train a classifier of their own."""
OF_VARIANT = -1
"""Number of steps: as the variant sets them."""

MOVABLE_CLASSES = ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
"""The 8 movable classes of Cityscapes."""
BEDROOM_CLASSES = ('bed', 'table', 'lamp', 'painting', 'pillow', 'cushion', 'chair')
"""7 frequent classes of bedrooms. The paper ranks classes by objects and does not name its 7."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(
        arg,
        variants=VARIANTS,
        da='',
        denoiser='none',
        sem='',
        picture='none',
        release=False,
        steps=OF_VARIANT,
        system='inpainting',
    )
    if args.system not in SYSTEMS:
        raise unknown_name(
            '--config configs/semantic_inpainting.py:...,system=', args.system, SYSTEMS
        )
    config = config_lib.defaults('semantic_inpainting')
    adam = dict(name='adam', learning_rate=2e-5, beta1=0.5, schedule='constant')
    config_lib.update(
        config,
        data=dict(name='cityscapes_all', void_class=True, eval_size=(256, 256)),
        augment=dict(crop=(256, 256), flip=0.0),
        boxes=dict(classes=MOVABLE_CLASSES, flip=0.5),
        train=dict(batch_size=16, num_steps=200 * 2975 // 16),  # 200 epochs of 2,975 images
        evaluate=dict(batch_size=16),
        optim=adam,
        optim_discriminator=adam,
        logging=dict(log_every=50, eval_every=3719, checkpoint_every=3719),
    )
    _painter(config)
    if args.variant not in SMALL:
        _classifier_of_sem(config)
    if args.variant == 'bedroom':
        _bedroom(config)
    elif args.variant == 'video':
        _small(config)
        _video(config)
    elif args.variant == 'folder':
        _small(config)
        _folder(config)
    elif args.variant == 'quick':
        _small(config)
        _quick(config)
    elif args.variant == 'smoke':
        _small(config)
        _smoke(config)
    if args.release:
        _release(config)
    _set_remedy(config, args)
    _set_frozen_nets(config, args)
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps
    return config if args.system == 'inpainting' else _shapes_alone(config)


def _set_remedy(config, args):
    """Sets Denoise Activation and the denoiser. A denoiser replaces the activation in training."""
    where = '--config configs/semantic_inpainting.py:...,'
    if args.denoiser not in DENOISERS:
        error = unknown_name(f'{where}denoiser=', args.denoiser, DENOISERS)
        name = NAMES_OF_PAPER.get(args.denoiser.lower())
        raise error.replaced(fix=f'denoiser={name}') if name else error
    mode = args.da or ('train' if args.denoiser == 'none' else 'none')
    if mode not in MODES:
        raise unknown_name(f'{where}da=', mode, MODES)
    if args.denoiser != 'none' and mode in ('train', 'both'):
        raise InputError(
            f'{where}denoiser={args.denoiser},da={mode}',
            got='a denoiser and Denoise Activation in training',
            expected='da=none, or da=test, with a denoiser',
            fix='da=none',
        )
    width = config.model.width
    config_lib.choose(config, 'denoiser', args.denoiser)
    if 'width' in config.denoiser:
        config.denoiser.width = width
    config.activation.train_filter = 'zero_logit' if mode in ('train', 'both') else 'none'
    config.testing.filter = 'prob' if mode in ('test', 'both') else 'none'


def _set_frozen_nets(config, args):
    """Sets where the shape classifier and the painter come from."""
    small = args.variant in SMALL
    uses = {'sem': args.sem or ('train' if small else 'none'), 'picture': args.picture}
    for name, use in uses.items():
        if use not in USES:
            where = f'--config configs/semantic_inpainting.py:...,{name}='
            raise unknown_name(where, use, USES)
    config.classifier.use = uses['sem']
    config.picture.use = uses['picture']
    if not small and uses['sem'] == 'load':
        # The paper's classifier tells the 80 classes of things of COCO apart.
        config.shapes.num_outputs = 80


def _painter(config):
    """Sets the image generator of Hong et al., as configs/label_to_image.py:box."""
    adam = dict(
        name='adam', learning_rate=2e-4, beta1=0.5, schedule='linear_tail', constant_fraction=0.5
    )
    config_lib.choose(config, 'painter.model', 'mask_to_image')
    config_lib.update(
        config,
        picture=dict(num_steps=300 * 2975 // 8),  # 300 epochs of 2,975 images
        painter=dict(instance_edges=False, optim=adam, optim_discriminator=adam),
    )


def _classifier_of_sem(config):
    """Sets EfficientNet-B7 on the objects that have boxes, as configs/shape_classifier.py."""
    config_lib.update(
        config,
        classifier=dict(num_steps=20_000),
        shapes=dict(
            model=dict(backbone='b7'),
            optim=dict(
                name='adam',
                learning_rate=1e-5,
                schedule='step',
                step_factor=0.7,
                milestones=(0.2, 0.4, 0.6, 0.8),
            ),
            # The squares that inpainting scores.
            classes=MOVABLE_CLASSES,
            min_share=0.0,
            min_side=128.0,
            whole_map=False,
            margin=2.0,
            transformations=(),
        ),
    )


def _shapes_alone(config):
    """Returns the config of the shape classifier alone, as the stage `shapes` would train it."""
    alone = config_lib.defaults('shape_classifier')
    for section in ('data', 'augment', 'evaluate', 'logging', 'shapes'):
        alone[section].update(config[section])
    config_lib.update(
        alone,
        train=dict(num_steps=config.classifier.num_steps, batch_size=config.classifier.batch_size),
        data=dict(void_class=False),
        shapes=dict(num_outputs=0),
    )
    return alone


def _bedroom(config):
    """Sets the bedrooms of ADE20K, with the nets and boxes of the released training."""
    config_lib.update(
        config,
        data=dict(name='ade20k_bedroom', void_class=False),
        model=dict(norm='instance', dilated=True),
        discriminator=dict(norm='instance'),
        boxes=dict(
            classes=BEDROOM_CLASSES, margin=3.0, min_side=32.0, background=0.05, enlarge=0.01
        ),
        shapes=dict(classes=BEDROOM_CLASSES, margin=3.0, min_side=32.0, enlarge=0.01),
        picture=dict(num_steps=300 * 1239 // 8),
        train=dict(batch_size=8, num_steps=200 * 1239 // 8),  # 200 epochs of 1,239 images
        evaluate=dict(batch_size=8),
        logging=dict(eval_every=3097, checkpoint_every=3097),
    )


def _small(config):
    """Sets narrow nets and squares of 64x64."""
    config_lib.update(
        config,
        data=dict(eval_size=(64, 64)),
        augment=dict(crop=(64, 64)),
        boxes=dict(size=64, min_side=16.0, max_side=64.0),
        train=dict(batch_size=16, num_steps=1200),
        evaluate=dict(batch_size=32),
        # A hundred times fewer steps need larger steps, which shrink towards the end.
        optim=dict(learning_rate=1e-3, schedule='cosine'),
        optim_discriminator=dict(learning_rate=1e-3, schedule='cosine'),
        logging=dict(log_every=50, eval_every=400, checkpoint_every=400),
    )
    config.model.width = 0.25
    config.discriminator.width = 0.25

    # The classifier of Sem sees the same squares.
    config_lib.update(
        config,
        classifier=dict(num_steps=400),
        shapes=dict(
            model=dict(backbone='lite0', width=0.25, norm_decay=0.9, drop_connect=0.0),
            optim=dict(learning_rate=3e-3, schedule='cosine'),
            classes=MOVABLE_CLASSES,
            min_share=0.0,
            min_side=16.0,
            size=64,
            whole_map=False,
            flip=0.5,
            transformations=(),
        ),
    )
    # As configs/label_to_image.py:quick,net=mask_to_image.
    config_lib.update(
        config,
        picture=dict(num_steps=1000),
        painter=dict(
            model=dict(width=0.25, halvings=2, blocks=4, norm='batch'),
            discriminator=dict(width=0.25, forms='naive'),
            weights=dict(vgg=0.0, l1=100.0),
            optim=dict(learning_rate=1e-3),
        ),
    )


def _video(config):
    """Sets predicted label maps of sequences of Cityscapes."""
    config_lib.update(
        config,
        data=dict(name='cityscapes_video', void_class=False),
        boxes=dict(min_side=32.0, max_side=256.0),
        shapes=dict(min_side=32.0),
    )


def _folder(config):
    """Sets label maps of the user, with the objects of all classes."""
    config_lib.update(
        config,
        data=dict(name='folder', void_class=False),
        boxes=dict(classes=()),
        shapes=dict(classes=()),
    )


def _quick(config):
    """Sets the label maps of 800 rendered images."""
    config_lib.update(
        config,
        data=dict(
            name='streets',
            void_class=False,
            world=dict(num_train=800, num_val=64, size=(128, 256)),
        ),
    )


def _smoke(config):
    """Sets a training of seconds."""
    config_lib.smoke(config)
    config_lib.update(
        config,
        data=dict(name='streets', void_class=False),
        augment=dict(crop=(32, 32)),
        boxes=dict(size=32, min_side=8.0, max_side=32.0, max_objects=4),
    )
    config.data.eval_size = (32, 32)
    config.model.blocks = 1
    config_lib.update(
        config,
        classifier=dict(num_steps=2, batch_size=8),
        shapes=dict(model=dict(width=0.125, forms='naive'), size=32, min_side=4.0, max_objects=4),
        picture=dict(num_steps=2),
    )


def _release(config):
    """Sets the weights and the rate of the released code of Hong et al. 2018."""
    config_lib.update(
        config,
        loss=dict(adversarial=0.1),
        optim=dict(learning_rate=2e-4),
        optim_discriminator=dict(learning_rate=2e-4),
        train=dict(num_steps=2 * config.train.num_steps),
    )
    config.loss.control = config.data.name == 'ade20k_bedroom'
