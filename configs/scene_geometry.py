"""Segmentation guided by scene geometry (Papadopoulos, Mademlis, Pitas), and the compared methods.

  bash launch/local.sh --config configs/scene_geometry.py:quick --workdir runs/geometry

Variants:
  (none)    Apolloscape at 832x256 (the rows of the paper's crop), BiSeNet on a ResNet-50. Published
            mIoU: baseline 39.557, with L_h 40.597. --config.data.root=/data/apolloscape
  cityscapes  the official sequences (leftImg8bit_sequence) at 512x256. Every 30th frame has a
            label: depth learns from all frames, segmentation from the labelled frames.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  cityscapes_quick  the same video at 256x128 with the small nets of `quick`: minutes on two CPU
            cores. Start from a `quick,method=depth` run: --config.init_from.path=RUN
  quick     the embedded world `streets` with nets of a quarter of the width: minutes on two CPU
            cores
  smoke     seconds, for tests

Methods, `method=`:
  holistic         L_h with a depth net trained beforehand: the proposal
  per_class        L_p instead
  baseline         BiSeNet alone [1]
  klingner         one ResNet-18 under a depth and a segmentation decoder, gradients scaled by 0.9
                   and 0.1 [2]
  novosel          BiSeNet and a depth decoder on its context path, losses added [3]
  chen             the regulariser of [4] with a depth net trained beforehand
  chen_multitask   as novosel, and the regulariser of [4] on the depth that is learned
  depth            depth and motion from video alone, without any segmentation
  pose             the pose net alone, on the data set's own depth, to see whether rotation is
                   learned; quick takes two minutes on a CPU core

The paper leaves these open:
  BiSeNet      The recipe is that of its authors' release: batch 16, SGD at 1e-2 with poly decay,
               ten times the rate outside the ResNet, OHEM on all three heads. Differences: the
               ResNet of the release begins from ImageNet (--config.init_from.path). The release
               scales images by 0.75 to 2 and crops them. Its OHEM keeps at least 1/16 of all
               pixels, ours 1/16 of the labelled pixels.
  depth net    SfMLearner's, as in the paper's figures, with its rate. The other choice is
               --config.depth_net.name=monodepth2. SfMLearner also enlarges images by up to 15 %,
               and scales them to [-1, 1].
  L_h          Its weight is 1. Its edges are edges of probabilities and of disparity over its mean.
               See --config.geometry.weight, .sharpness, .semantic_map and .depth_map.
  image rows   The builder of Apolloscape says which rows are kept.

The compared methods have no code. These parts differ from their papers, or are unknown:
  [2]          Class weights of ERFNet, Adam, a tenth of the rate after 3/4 of the steps.
               Differences: its ResNet begins from ImageNet. Its batch is 6 labelled images and 6
               frames of video. Here each image of a batch trains both tasks, so joint training sees
               the labelled frames and their neighbours alone. It also scales images by up to 1.5
               and crops them.
  monodepth2   Its nets see jittered colours, and its losses compare images without jitter. Here
               both see the same images, without jitter. Batch statistics of pose are over all
               pairs.
  [3]          The losses of both tasks are added. The published text has no weights and no encoder.
               Colourisation is left out. The batches are as in [2].
  [4]          Probabilities replace one-hot maps where depth is frozen, and a y term is added. The
               consistency of left and right views needs stereo and is left out.

The small variants train narrow nets from scratch, with Adam at one rate, and with class weights.

A run of method=depth can be reused: --config.init_from.path=RUN --config.depth.num_steps=0.
"""

from segjax import config as config_lib
from segjax.errors import unknown_name

VARIANTS = ('cityscapes', 'cityscapes_quick', 'quick', 'smoke')
METHODS = {
    'holistic': ('pretrained', 'holistic'),
    'per_class': ('pretrained', 'per_class'),
    'baseline': ('none', 'none'),
    'klingner': ('multitask', 'none'),
    'novosel': ('multitask', 'none'),
    'chen': ('pretrained', 'chen'),
    'chen_multitask': ('multitask', 'chen'),
    'depth': ('alone', 'none'),
    'pose': ('truth', 'none'),
}
"""Argument `method` -> (geometry.depth_from, geometry.regulariser)."""
NEW_LAYERS = (('segmenter/(sp/|cp/(?!resnet/)|ffm/|conv_out).*', 10.0),)
"""The layers of BiSeNet outside its ResNet learn at ten times the rate, as in its authors' release.

The pattern names BiSeNet's modules. Other nets have none of them, and are refused until they get
factors of their own.
"""
ADAM = dict(name='adam', learning_rate=2e-4, beta1=0.9, schedule='constant')


def get_config(arg=''):
    """Returns the config of a variant and a method."""
    args = config_lib.parse_arg(arg, variants=VARIANTS, method='holistic')
    if args.method not in METHODS:
        raise unknown_name('--config configs/scene_geometry.py:...,method=', args.method, METHODS)
    config = config_lib.defaults('scene_geometry')
    depth_from, regulariser = METHODS[args.method]
    config_lib.update(
        config,
        preprocess='imagenet',
        augment=dict(crop=(256, 832), flip=0.5),
        data=dict(name='apolloscape', eval_size=(256, 832)),
        train=dict(batch_size=16, num_steps=80_000),
        evaluate=dict(batch_size=4),
        model=dict(num_layers=50),
        geometry=dict(depth_from=depth_from, regulariser=regulariser),
        depth=dict(num_steps=200_000, batch_size=4),
        loss=dict(name='ohem', aux_weight=1.0),
        optim=dict(
            name='sgd',
            learning_rate=1e-2,
            momentum=0.9,
            weight_decay=5e-4,
            schedule='poly',
            power=0.9,
            factors=NEW_LAYERS,
        ),
        optim_depth=ADAM,
        logging=dict(log_every=50, eval_every=5000, checkpoint_every=5000),
    )
    if args.method == 'klingner':
        _klingner(config)

    if args.variant == 'cityscapes':
        _cityscapes(config)
    elif args.variant == 'cityscapes_quick':
        _cityscapes_quick(config)
    elif args.variant == 'quick':
        _quick(config)
    elif args.variant == 'smoke':
        _smoke(config)

    if args.method == 'pose':
        _pose(config, args.variant)
    return config


def _klingner(config):
    """Sets the net of [2], which prepares images itself, and losses of monodepth2 and ERFNet."""
    dropped = dict(learning_rate=1e-4, schedule='step', milestones=(0.75,), step_factor=0.1)
    config_lib.choose(config, 'model', 'depth_and_segmentation')
    config_lib.choose(config, 'pose_net', 'pose_resnet')
    config_lib.update(
        config,
        preprocess='unit',
        loss=dict(name='cross_entropy', class_weights='enet', weight_k=1.10),
        depth=dict(
            photometric='minimum',
            automask=True,
            smoothness='edge_aware',
            smooth_weight=1e-3,
            full_resolution=True,
        ),
        optim={**ADAM, **dropped, 'weight_decay': 0.0, 'factors': ()},
        optim_depth={**ADAM, **dropped},
    )


def _pose(config, variant):
    """Sets the one loss that reaches the pose net.

    Neighbours are two frames away: between adjacent frames of `streets` turns are half a pixel.
    """
    settings = dict(
        frames=(-2, 2), photometric='l1', automask=False, smoothness='none', num_scales=1
    )
    config_lib.update(config, depth=settings)
    if variant == 'quick':
        config_lib.update(
            config,
            data=dict(world=dict(num_train=1200, num_val=64)),
            depth=dict(num_steps=1200),
            optim_depth=dict(learning_rate=5e-4),
            logging=dict(log_every=50, eval_every=300, checkpoint_every=300),
        )


def _cityscapes(config):
    """Sets the sequences of Cityscapes at a quarter of their size."""
    config_lib.update(
        config,
        augment=dict(resize=(256, 512), crop=(256, 512)),
        data=dict(name='cityscapes_video', eval_size=(256, 512)),
        # Below is the bonnet. SfMLearner and monodepth2 cut it off.
        depth=dict(rows=(0.0, 0.75)),
    )


def _cityscapes_quick(config):
    """Sets small images of the sequences and small nets."""
    _cityscapes(config)
    config_lib.update(
        config, augment=dict(resize=(128, 256), crop=(128, 256)), data=dict(eval_size=(128, 256))
    )
    _short(config)
    # At this size roads have almost no texture. Without auto-masking the net learns that the road
    # is far away and explains rotation as sideways motion.
    config_lib.update(
        config,
        depth=dict(num_steps=1000, batch_size=4, photometric='minimum', automask=True),
        optim_depth=dict(learning_rate=2e-4, factors=(('pose/.*', 5.0),)),
    )


def _quick(config):
    """Sets 400 rendered images and small nets."""
    config_lib.update(
        config,
        augment=dict(crop=(64, 128)),
        data=dict(
            name='streets',
            eval_size=(64, 128),
            world=dict(num_train=400, num_val=64, size=(64, 128)),
        ),
    )
    _short(config)


def _short(config):
    """Sets two trainings of minutes.

    After so few steps depth would be constant under SfMLearner's smoothness.
    """
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=300),
        depth=dict(num_steps=600, batch_size=8, smoothness='edge_aware', smooth_weight=1e-3),
        evaluate=dict(batch_size=8),
        logging=dict(log_every=10, eval_every=150, checkpoint_every=150, num_pictures=3),
    )
    _from_scratch(config, 0.25)


def _smoke(config):
    """Sets the smallest nets that the architectures allow, and four steps of each stage."""
    config_lib.smoke(config)
    config_lib.update(config, depth=dict(num_steps=4, batch_size=8, num_scales=2))
    _from_scratch(config, 0.0625)


def _from_scratch(config, width):
    """Sets narrow nets without trained weights, and Adam for all of them."""
    config.model.update(num_layers=18, width=width)
    config.depth_net.width = width
    config.pose_net.width = width
    config_lib.update(
        config,
        loss=dict(class_weights='enet'),
        optim=dict(name='adam', learning_rate=1e-3, weight_decay=0.0, factors=()),
        optim_depth=dict(learning_rate=1e-3),
    )
