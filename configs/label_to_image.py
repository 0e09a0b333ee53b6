"""Label maps to images: pix2pixHD (Wang et al. 2018), and Hong et al.'s image generator on crops.

  bash launch/local.sh --config configs/label_to_image.py:quick --workdir runs/painter

Variants:
  (none)    the global generator of pix2pixHD on Cityscapes with 34 classes and void, at 1024x512:
            batch 1, 200 epochs, Adam 2e-4 (0.5, 0.999), whose rate falls linearly to 0 in the
            second half.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  local     the local enhancer at 2048x1024: 100 epochs, of which the global generator stays fixed
            for the first 10. --config.init_from.path= names the run of the global generator
  box       the image generator of Hong et al. on crops of 256x256 around objects of Cityscapes:
            batch 8, 200 epochs. It paints the box of the object, and sees the image outside
  quick     the embedded world `streets` at 128x64 with narrow nets: about five minutes on two CPU
            cores. Measured (seed 0): PSNR 19.8 dB. Painted borders are blurred. After 4,000 steps
            ERFNet reads painted images as well as real images
            (docs/results/label_to_image_streets.md)
  smoke     seconds, for tests

Arguments of quick and smoke: `net=pix2pixhd_global|pix2pixhd_local|mask_to_image`, as in
--config configs/label_to_image.py:quick,net=mask_to_image. The last net paints crops.

The perceptual loss needs VGG19 of torchvision:
--config.init_from.sources="(('vgg', 'vgg19.pth'),)". --config.painter.weights.vgg=0 leaves this
loss out. quick and smoke have the L1 loss of pix2pix in its place, and batch norm.

A frozen segmentation net scores the painted images:
--config.segmenter.use=load --config.init_from.sources="(('segmenter', 'runs/erfnet'),)". Its keys
are those of the section `segmenter`.

Not the papers', or not said there: the discriminator of the local enhancer starts at random. Crops
are drawn anew in each epoch, and in evaluation each object gives a crop.
"""

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

VARIANTS = ('local', 'box', 'quick', 'smoke')
NETS = ('pix2pixhd_global', 'pix2pixhd_local', 'mask_to_image')
OF_VARIANT = ''
"""Net: as the variant sets it."""
MOVABLE_CLASSES = ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
"""The 8 movable classes of Cityscapes."""
IMAGES = 2975
"""Training images of Cityscapes."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(arg, variants=VARIANTS, net=OF_VARIANT)
    config = config_lib.defaults('label_to_image')
    adam = dict(
        name='adam', learning_rate=2e-4, beta1=0.5, schedule='linear_tail', constant_fraction=0.5
    )
    epoch = 20 * IMAGES
    config_lib.update(
        config,
        augment=dict(resize=(512, 1024), crop=(512, 1024), flip=0.5),
        data=dict(name='cityscapes_all', eval_size=(512, 1024)),
        train=dict(batch_size=1, num_steps=200 * IMAGES),
        evaluate=dict(batch_size=1),
        painter=dict(optim=adam, optim_discriminator=adam),
        boxes=dict(classes=MOVABLE_CLASSES, margin=3.0),
        # A run of configs/supervised.py has the head.
        segmenter=dict(model=dict(encoder_head=True)),
        logging=dict(log_every=100, eval_every=epoch, checkpoint_every=epoch),
    )
    small = {'quick': _quick, 'smoke': _smoke}
    if args.net and args.variant not in small:
        raise InputError(
            '--config configs/label_to_image.py:...,net=',
            got=f'variant {args.variant!r}',
            expected='quick or smoke; further variants have their own net',
        )
    if args.net not in (OF_VARIANT, *NETS):
        raise unknown_name('--config configs/label_to_image.py:...,net=', args.net, NETS)
    if args.variant == 'local':
        _local(config)
    elif args.variant == 'box':
        _box(config)
    elif args.variant in small:
        small[args.variant](config, args.net or NETS[0])
    return config


def _local(config):
    """Sets the local enhancer at twice the size, for 50 + 50 epochs."""
    config_lib.choose(config, 'painter.model', 'pix2pixhd_local')
    config_lib.update(
        config,
        augment=dict(resize=(1024, 2048), crop=(1024, 2048)),
        data=dict(eval_size=(1024, 2048)),
        train=dict(num_steps=100 * IMAGES),
        painter=dict(discriminator=dict(num_scales=3), fix_global=10 * IMAGES),
        init_from=dict(
            nets=('painter/trunk',),
            expected='a run of configs/label_to_image.py (global generator)',
        ),
    )


def _box(config):
    """Sets the image generator of Hong et al. on crops around objects, for 100 + 100 epochs."""
    steps = 200 * IMAGES // 8
    _mask_to_image(config, 256)
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=steps),
        evaluate=dict(batch_size=8),
        logging=dict(eval_every=steps // 10, checkpoint_every=steps // 10),
    )


def _mask_to_image(config, size):
    """Sets the net that paints a box, on crops of a size."""
    config_lib.choose(config, 'painter.model', 'mask_to_image')
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(size, size)),
        data=dict(eval_size=(size, size)),
        painter=dict(input='crop', instance_edges=False),
        boxes=dict(size=size),
    )


def _quick(config, net):
    """Sets rendered images and narrow nets."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(64, 128)),
        data=dict(
            name='streets',
            eval_size=(64, 128),
            world=dict(num_train=400, num_val=64, size=(64, 128)),
        ),
        train=dict(batch_size=4, num_steps=800, ema=0.99),
        evaluate=dict(batch_size=8),
        boxes=dict(min_side=10.0, max_side=40.0),
        logging=dict(log_every=20, eval_every=200, checkpoint_every=400, num_pictures=4),
    )
    _small(config, net, 64)
    if net == 'pix2pixhd_local':
        # A global generator of the variant quick has half of this size.
        large = (128, 256)
        config_lib.update(
            config, augment=dict(crop=large), data=dict(eval_size=large, world=dict(size=large))
        )


def _smoke(config, net):
    """Sets the smallest nets, and four steps."""
    config_lib.smoke(config)
    config.boxes.update(min_side=6.0, max_side=20.0, max_objects=4)
    _small(config, net, 32)
    config.painter.model.width = 0.1


def _small(config, net, size):
    """Sets narrow nets with few halvings, and the L1 loss of pix2pix in the place of VGG19."""
    if net == 'mask_to_image':
        _mask_to_image(config, size)
    else:
        config_lib.choose(config, 'painter.model', net)
    # Small images lose details in more halvings.
    halvings = 2 if net == 'mask_to_image' else 1
    config.painter.model.update(width=0.25, halvings=halvings, blocks=4, norm='batch')
    config.painter.discriminator.update(width=0.25, forms='naive')
    config.painter.weights.update(vgg=0.0, l1=100.0)
    # A training of minutes needs larger steps.
    config.painter.optim.learning_rate = 1e-3
    if net == 'pix2pixhd_local':
        config.init_from.nets = ('painter/trunk',)
