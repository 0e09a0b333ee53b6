"""Supervised segmentation: the baseline of every paper.

  bash launch/local.sh --config configs/supervised.py:quick --workdir runs/first

Variants:
  (none)    ERFNet on Cityscapes as its authors trained it: 1024x512, batch 6, Adam 5e-4, poly 0.9
            over 150 epochs, weighted cross-entropy w = 1 / ln(1.10 + share). The original trains
            the encoder first and then the decoder. Here both are trained at once, with the
            encoder's head as auxiliary loss. Published from scratch: 69-70 val mIoU (with an
            ImageNet encoder: 72.1).
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  camvid    the same net on CamVid (SegNet's split, 11 classes) at 360x480.
            --config.data.root=/data/camvid
  bdd100k   the same net on the 7,000 images of BDD100K, crops of 512x1024 at full resolution.
            --config.data.root=/data/bdd100k
  vistas    the same net on Mapillary Vistas 1.x (65 classes), crops of 512x512 of images at a
            quarter to three quarters of their size. Decoding images of 12 megapixels takes most of
            the time: see data.workers. --config.data.root=/data/vistas,
            --config.data.class_map=cityscapes for the 19 classes of Cityscapes,
            --config.data.name=vistas_v2 for release 2.0 (116 classes)
  folder    your own images and masks.
            --config.data.root=/data/mine --config.data.classes=/data/mine/classes.yaml
  quick     the embedded world `streets` at 256x128: minutes on two CPU cores
  smoke     seconds, for tests

Arguments: `augment=basic|strong`,
`model=erfnet|bisenet|deeplab_largefov|deeplab_v2|deeplab_v3plus|depth_and_segmentation|fcn|pspnet`.
Every net is trained by the recipe above, which is that of ERFNet alone.
E.g. --config configs/supervised.py:camvid,augment=strong
"""

from segjax import config as config_lib
from segjax.errors import unknown_name

VARIANTS = ('camvid', 'bdd100k', 'vistas', 'folder', 'quick', 'smoke')
AUGMENTATIONS = {
    'basic': dict(flip=0.5, translate=2),  # ERFNet's
    'strong': dict(
        flip=0.5,
        scale=(0.5, 2.0),
        rotate=5.0,
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        hue=0.03,
        blur=0.1,
    ),
}
SMALL = dict(width=0.25, blocks=(1, 1, 0, 0), num_layers=18, backbone='xception41')
"""Arguments that make nets small, for the nets that have them."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(arg, variants=VARIANTS, model='erfnet', augment='basic')
    if args.augment not in AUGMENTATIONS:
        where = '--config configs/supervised.py:...,augment='
        raise unknown_name(where, args.augment, AUGMENTATIONS)
    config = config_lib.defaults('supervised')
    config_lib.choose(config, 'model', args.model)
    if 'encoder_head' in config.model:
        config.model.encoder_head = True
    config_lib.update(
        config,
        augment=dict(resize=(512, 1024), crop=(512, 1024), **AUGMENTATIONS[args.augment]),
        data=dict(name='cityscapes', eval_size=(512, 1024)),
        train=dict(batch_size=6, num_steps=150 * 2975 // 6),  # 150 epochs of 2,975 images
        evaluate=dict(batch_size=4),
        loss=dict(class_weights='enet', aux_weight=1.0),
        optim=dict(name='adam', learning_rate=5e-4, weight_decay=1e-4, schedule='poly', power=0.9),
        logging=dict(log_every=50, eval_every=2500, checkpoint_every=2500),
    )
    if args.variant == 'camvid':
        _camvid(config)
    elif args.variant == 'bdd100k':
        _bdd100k(config)
    elif args.variant == 'vistas':
        _vistas(config)
    elif args.variant == 'folder':
        _folder(config)
    elif args.variant == 'quick':
        _quick(config)
    elif args.variant == 'smoke':
        _smoke(config)
    return config


def _camvid(config):
    """Sets CamVid at half its size, for 300 epochs of 367 images."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(360, 480)),
        data=dict(name='camvid', eval_size=(360, 480)),
        train=dict(batch_size=8, num_steps=300 * 367 // 8),
        logging=dict(log_every=20, eval_every=500, checkpoint_every=500),
    )


def _bdd100k(config):
    """Sets BDD100K at full resolution, for 150 epochs of 7,000 images."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(512, 1024)),
        data=dict(name='bdd100k', eval_size=(720, 1280)),
        train=dict(batch_size=6, num_steps=150 * 7000 // 6),
    )


def _vistas(config):
    """Sets Mapillary Vistas for 50 epochs of 18,000 images, which have many sizes and aspects."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(512, 512), scale=(0.25, 0.75)),
        data=dict(name='vistas', eval_size=(768, 1024)),
        train=dict(batch_size=12, num_steps=50 * 18_000 // 12),
    )


def _folder(config):
    """Sets a folder of images, with crops that fit images of any size."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(512, 512), scale=(0.5, 2.0)),
        data=dict(name='folder', eval_size=(512, 512)),
        train=dict(batch_size=8, num_steps=20_000),
        logging=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )


def _quick(config):
    """Sets 400 rendered images, for a training of minutes."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(128, 256)),
        data=dict(
            name='streets',
            eval_size=(128, 256),
            world=dict(num_train=400, num_val=64, size=(128, 256)),
        ),
        train=dict(batch_size=8, num_steps=330),
        evaluate=dict(batch_size=8),
        optim=dict(learning_rate=1e-3),  # the training is a hundred times shorter
        logging=dict(log_every=10, eval_every=110, checkpoint_every=110),
    )


def _smoke(config):
    """Sets the smallest net that the architecture allows, and four steps."""
    config_lib.smoke(config)
    for key, value in SMALL.items():
        if key in config.model:
            config.model[key] = value
