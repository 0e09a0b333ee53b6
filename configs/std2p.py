"""STD2P (He, Chiu, Keuper, Fritz, CVPR 2017): RGB-D video segmentation by data-driven pooling.

  bash launch/local.sh --config configs/std2p.py:quick --workdir runs/std2p

Variants:
  (none)    the paper's setting on NYUDv2 with 40 classes: FCN-16s on RGB and HHA at 425x560, 11 of
            up to 101 frames around each target, fine-tuned for 1,000 steps of 10 targets behind
            pool4. Published (pixel accuracy, class accuracy, mIoU, fwIoU): FCN 65.4, 46.1, 34.0,
            49.5; superpixel 68.5, 48.7, 36.0, 52.9; superpixel+ 68.4, 52.1, 38.1, 54.0; full 70.1,
            53.8, 40.1, 55.7. Needs a trained FCN: --config.init_from.path=FILE
            --config.data.root=/data/nyu
  nyu13     the same with 13 classes. Published (pixel accuracy, class accuracy): superpixel+ 74.8,
            67.0; full 75.8, 68.4
  nyu4      the same with 4 classes. Published: superpixel+ 82.7, 81.3; full 83.6, 82.5
  folder    RGB-D video of your own (docs/data.md), with frames of 480x640. A first stage trains the
            net on labelled frames. Needs --config.data.root=/data/mine
            --config.data.classes=/data/mine/classes.yaml. --mode doctor proposes other sizes
  quick     the embedded world `rooms`: hand-held video of furnished rooms, with narrow nets.
            Minutes on two CPU cores. A first stage trains the net on labelled frames
  smoke     seconds, for tests

Not the paper's, or not said there: losses are means over pixels, so the rate of 1e-14 for sums is
1e-14 * 425 * 560 = 2.38e-9. Images are not flipped, because the paper stores the results of pool4
for training. Biases learn at the rate of weights, which FCN doubles. HHA has the mean of FCN's
release. Frames are drawn anew for each step in training, and are the same in every evaluation.
Clips with fewer frames are used whole.

Arguments: `use=none|superpixel|full|pixel` is the pooling in training, `test=...` that in
evaluation (as in training if it is left out). `spatial=mean|max` and `temporal=mean|max` are the
poolings of Table 3.3. `hha=false` shows colour alone to the net. `net=fcn|erfnet|pspnet` or another
net replaces the net of the variant. `steps` replaces its steps. `system=std2p|fcn`: `fcn` trains
the net alone, a run that can be tested with all poolings, and from which other runs can begin.
E.g. --config configs/std2p.py:quick,use=full,test=superpixel
"""

from segjax import config as config_lib
from segjax.errors import unknown_name

VARIANTS = ('nyu13', 'nyu4', 'folder', 'quick', 'smoke')
USES = ('none', 'superpixel', 'full', 'pixel')
SYSTEMS = ('std2p', 'fcn')
"""The whole system, or the net alone."""
OF_VARIANT = -1
"""Number of steps: as the variant sets them."""
FROZEN = 'segmenter/(color|hha)/vgg/conv[1-4]_.*'
"""Layers of FCN before pool4, which the paper does not train."""
SIZE = (425, 560)
"""(height, width) of the frames of NYUDv2 that the thesis keeps."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(
        arg,
        variants=VARIANTS,
        use='full',
        test='',
        spatial='mean',
        temporal='mean',
        hha=True,
        net='',
        system='std2p',
        steps=OF_VARIANT,
    )
    if args.system not in SYSTEMS:
        raise unknown_name('--config configs/std2p.py:...,system=', args.system, SYSTEMS)
    for name in ('use', 'test'):
        if args[name] not in ('', *USES):
            raise unknown_name(f'--config configs/std2p.py:...,{name}=', args[name], USES)
    config = config_lib.defaults('std2p')
    small = args.variant in ('folder', 'quick', 'smoke')
    config_lib.choose(config, 'model', args.net or ('erfnet' if small else 'fcn'))
    config_lib.update(
        config,
        hha=args.hha,
        preprocess='deeplab',
        data=dict(name='nyu_depth', eval_split='test', eval_size=SIZE),
        augment=dict(crop=SIZE, flip=0.0),  # the paper stores inner features, so images stay
        train=dict(batch_size=10, num_steps=1000),
        evaluate=dict(batch_size=1),
        pooling=dict(use=args.use, spatial=args.spatial, temporal=args.temporal),
        testing=dict(use=args.test),
        optim=dict(
            name='sgd',
            learning_rate=1e-14 * SIZE[0] * SIZE[1],  # the published rate is that of a sum
            momentum=0.9,
            weight_decay=5e-4,
            schedule='constant',
        ),
        logging=dict(log_every=10, eval_every=500, checkpoint_every=500),
    )
    if config.model.name == 'fcn':
        config.model.output_stride = 16
        config.optim.factors = ((FROZEN, 0.0),)
    if args.variant == 'nyu13':
        config.data.class_map = '13'
    elif args.variant == 'nyu4':
        config.data.class_map = '4'
    elif args.variant == 'folder':
        _folder(config)
    elif args.variant == 'quick':
        _quick(config)
    elif args.variant == 'smoke':
        _smoke(config)
    if args.system == 'fcn':
        _net_alone(config)
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps
    return config


def _net_alone(config):
    """Makes the first stage the only stage: a run from which other runs can begin."""
    config_lib.update(
        config,
        train=dict(num_steps=config.frames.num_steps, batch_size=config.frames.batch_size),
        frames=dict(num_steps=0),
        pooling=dict(use='none'),
        optim=config.optim_frames.to_dict(),
    )


def _from_scratch(config, size):
    """Sets the training of a new net on frames of a size, in windows of 31 consecutive frames."""
    config_lib.update(
        config,
        preprocess='unit',
        augment=dict(resize=(), crop=size, flip=0.5),
        data=dict(eval_split='val', eval_size=size),
        pooling=dict(reach=15, interval=1),
        optim=dict(name='adam', learning_rate=1e-4, weight_decay=1e-4, schedule='constant'),
        optim_frames=dict(name='adam', learning_rate=1e-3, weight_decay=1e-4, schedule='poly'),
    )


def _folder(config):
    """Sets RGB-D video of the user, whose consecutive frames have consecutive numbers."""
    _from_scratch(config, (480, 640))
    config_lib.update(
        config,
        data=dict(name='rgbd_folder', rgbd=dict(interval=1, steps=15)),
        frames=dict(num_steps=10_000, batch_size=8),
        train=dict(batch_size=2, num_steps=1000),
        logging=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )


def _rooms(config, size, num_train, num_val):
    """Sets the world `rooms`, whose clips have 31 frames."""
    _from_scratch(config, size)
    config_lib.update(
        config,
        data=dict(
            name='rooms',
            class_map='13',
            world=dict(num_train=31 * num_train, num_val=31 * num_val, size=size),
        ),
        regions=dict(num_regions=200),
    )


def _quick(config):
    """Sets 120 rooms for training and 40 for the test, with a net of half the width."""
    _rooms(config, (96, 128), 120, 40)
    config_lib.update(
        config,
        testing=dict(boundary_thresholds=20),
        # At 0.2, images as small as these have 28 superpixels, which mix classes.
        regions=dict(thresholds=(0.05,)),
        frames=dict(num_steps=600, batch_size=8),
        train=dict(batch_size=2, num_steps=100),
        evaluate=dict(batch_size=2),
        logging=dict(log_every=10, eval_every=300, checkpoint_every=300),
    )
    if 'width' in config.model:
        config.model.width = 0.5


def _smoke(config):
    """Sets the smallest net that the architecture allows, and four steps."""
    config_lib.smoke(config)
    _rooms(config, (32, 64), 1, 1)
    config_lib.update(
        config,
        data=dict(world=dict(num_train=36, num_val=5)),
        frames=dict(num_steps=3, batch_size=8),
        train=dict(batch_size=8, num_steps=3),
        evaluate=dict(batch_size=8),
        pooling=dict(num_frames=3),
        testing=dict(num_frames=3, boundary_thresholds=5),
        regions=dict(num_regions=50),
    )
    for key, value in dict(width=0.25, blocks=(0, 0, 0, 0), num_layers=18).items():
        if key in config.model:
            config.model[key] = value
