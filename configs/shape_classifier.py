"""Shape classifier of the metric Sem (He et al.), and how Sem reacts to degraded shapes.

  bash launch/local.sh --config configs/shape_classifier.py:quick --workdir runs/shapes

Variants:
  (none)    the paper's classifier: EfficientNet-B7 behind a gated convolution, on the 80 classes of
            things of COCO's panoptic segmentations. Objects below 1 % of their image are left out:
            332,310 remain for training and 14,343 for testing. 50 epochs of Adam 1e-5, x 0.7 every
            10 epochs. The classifier of the paper is the checkpoint of the highest accuracy: other
            runs load it as runs/shapes:best, and --checkpoint best evaluates it. The paper starts
            from published weights:
            --config.init_from.path=FILE, with the names of EfficientNet-PyTorch or of timm
            --config.data.root=/data/coco (or $COCO_DATASET)
  lite0     the same with EfficientNet-lite0, for smaller machines
  cityscapes  B7 on the 8 movable classes of Cityscapes, from squares around objects of 128 pixels
            and more: the maps that semantic inpainting works on.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  quick     the movable objects of the embedded world `streets`, with a narrow lite0 on planes of
            64x64: minutes on two CPU cores. Measured (seed 0): 65.2 % accuracy, where the
            commonest class has 33.8 % and chance 12.5 %. With 75 % of the objects flipped, 1 - Sem
            falls by 14.4 points, hamm by 18.2 and tIOU by 25.0
  smoke     seconds, for tests

Not the paper's, or not said there: the batch size, the size of the planes (256, the size of the
maps in semantic inpainting), and the stretch of whole maps to a square. Noise is added to the
pixels and not clipped: `shapes.noise_form` and `shapes.clip_noise`.
"""

from segjax import config as config_lib

VARIANTS = ('lite0', 'cityscapes', 'quick', 'smoke')
MOVABLE = ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
BACKBONE = ('classifier/net/efficientnet/',)
"""Modules with published weights. The gated convolution and the last layer are new."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(arg, variants=VARIANTS)
    config = config_lib.defaults('shape_classifier')
    _paper(config)
    if args.variant == 'lite0':
        config.shapes.model.backbone = 'lite0'
        config.init_from.expected = 'an EfficientNet-lite0 of ImageNet'
    elif args.variant == 'cityscapes':
        _cityscapes(config)
    elif args.variant == 'quick':
        _quick(config)
    elif args.variant == 'smoke':
        _smoke(config)
    return config


def _paper(config):
    """Sets EfficientNet-B7 on the things of COCO."""
    epoch = 332_310 // 32
    config_lib.update(
        config,
        data=dict(name='coco_panoptic', class_map='things'),
        train=dict(batch_size=32, num_steps=50 * epoch),
        evaluate=dict(batch_size=32),
        shapes=dict(
            model=dict(backbone='b7'),
            # Four drops, at the epochs 10, 20, 30 and 40.
            optim=dict(
                name='adam',
                learning_rate=1e-5,
                schedule='step',
                step_factor=0.7,
                milestones=(0.2, 0.4, 0.6, 0.8),
            ),
        ),
        logging=dict(log_every=100, eval_every=epoch, checkpoint_every=epoch),
        init_from=dict(expected='an EfficientNet-B7 of ImageNet', nets=BACKBONE, preprocess='keep'),
    )


def _cityscapes(config):
    """Sets the movable objects of Cityscapes, cut as for semantic inpainting."""
    config_lib.update(
        config,
        data=dict(name='cityscapes', class_map=''),
        train=dict(batch_size=32, num_steps=20_000),
        shapes=dict(classes=MOVABLE, min_share=0.0, min_side=128.0, whole_map=False, margin=2.0),
        logging=dict(eval_every=1000, checkpoint_every=1000),
    )


def _streets(config):
    """Sets the movable objects of rendered streets, and a net that starts at random."""
    _cityscapes(config)
    config_lib.update(
        config,
        data=dict(name='streets'),
        init_from=dict(expected='', nets=('.*',), preprocess='adopt'),
    )
    config.shapes.model.backbone = 'lite0'


def _quick(config):
    """Sets 400 rendered maps, and a training of minutes."""
    _streets(config)
    config_lib.update(
        config,
        data=dict(world=dict(num_train=400, num_val=120, size=(96, 192))),
        train=dict(batch_size=32, num_steps=300),
        shapes=dict(
            # In 300 steps, slow statistics would not reach those of the trained net.
            model=dict(width=0.25, norm_decay=0.9, drop_connect=0.0),
            optim=dict(learning_rate=3e-3, schedule='cosine'),
            size=64,
            min_side=10.0,
            flip=0.5,
        ),
        logging=dict(log_every=20, eval_every=150, checkpoint_every=150, num_pictures=3),
    )


def _smoke(config):
    """Sets the smallest net that the architecture allows, and four steps."""
    _streets(config)
    config_lib.smoke(config)
    config.shapes.model.update(width=0.125, forms='naive')  # compiles sooner
    config.shapes.update(size=32, min_side=4.0, max_objects=6)
