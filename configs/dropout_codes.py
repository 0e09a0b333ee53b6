"""Diverse images from landmarks or normal maps, by latent drop-out codes (He et al., ECCV 2018).

  bash launch/local.sh --config configs/dropout_codes.py:quick --workdir runs/faces

Variants:
  (none)    the thesis' setting on LFW: 128x128 faces from 68 heat maps, 10 branches with shared
            parameters, neighbours, 90,000 steps, Adam 1e-4, poly 0.9. Published: RMSE 8.956, best
            of 10 5.679, SSIM 0.686, best 0.764, standard deviation of features at pool1 0.310.
            --config.data.root=/data/lfw
  pets      the thesis' setting on heads of Oxford-IIIT Pet: 96x96 heads from normal maps, 72
            branches, 110,000 steps. Published error of the normals, best of 72: mean 11.7 degrees.
            --config.data.root=/data/oxford_pet
  photos    faces at 64x64 with narrow nets, from a folder of images with landmarks.
            --config.data.root=/data/faces
  photos_quick  the same faces at 48x48, the first two blocks of VGG alone: ten minutes on a core
  quick     the embedded world `faces` at 64x64 with narrow nets: minutes on two CPU cores
  smoke     seconds, for tests

The perceptual loss and the diversity of features read VGG19 of torchvision:
--config.init_from.sources="(('vgg', 'vgg19.pth'),)". photos reads VGG16 (vgg16.pth).
`features=random` takes fixed random weights, as quick and smoke do with VGG16. Scores of different
features cannot be compared.

Arguments:
  `branches=shared|separate|late|single`  branches with shared parameters and codes, with their own
            parameters, images of one last layer (CRN), or one image (regression)
  `number`  of branches, with a neighbour less. `neighbours=`  true for Eq. 5.5, false for Eq. 5.4
  `dropout=channel|classic`  whole channels, or single activations
  `world=`  faces or heads, of quick and smoke: landmarks, or normal maps
  `features=load|random`  weights of VGG. `steps`  of the generator
E.g. --config configs/dropout_codes.py:quick,branches=late,neighbours=false

Not the thesis', or not said there: batch size 8, the width 1.5 of heat maps in pixels, the split
behind the second module, equal shares of all layers (CRN gives the last the tenfold share), a share
of 0.001 of the loss for all branches of `late` (CRN) and of photos_quick, 9 neighbours of the
nearest 5 per cent of all pairs, clusters by histograms of colours. The thesis finds landmarks and
normals by released nets. Here a first stage trains a landmark net or a normal net on the training
images.
"""

from segjax import config as config_lib

FILE = 'configs/dropout_codes.py'
CHOICES = {
    'branches': ('shared', 'separate', 'late', 'single'),
    'dropout': ('channel', 'classic'),
    'neighbours': ('', 'true', 'false'),
}
"""Values of arguments. '': as the variant sets it."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.portrait_args(
        FILE,
        arg,
        CHOICES,
        branches='shared',
        number=config_lib.OF_VARIANT,
        neighbours='',
        dropout='channel',
    )
    config = config_lib.defaults('dropout_codes')
    config_lib.portraits(config)
    config_lib.update(
        config,
        model=dict(num_branches=10),
        neighbours=dict(num_clusters=9),
        train=dict(batch_size=8, num_steps=90_000),
        optim=dict(name='adam', learning_rate=1e-4, schedule='poly', power=0.9),
        logging=dict(eval_every=9000, checkpoint_every=3000),
    )
    variants = {
        'pets': _pets,
        'photos': _photos,
        'photos_quick': _photos_quick,
        'quick': _quick,
        'smoke': _smoke,
    }
    if args.variant:
        variants[args.variant](config)
    config_lib.set_portrait_args(config, FILE, args)
    _set_arguments(config, args)
    return config


def _set_arguments(config, args):
    """Sets branches, neighbours and drop-out, and the loss of other features and steps."""
    config.model.branches = args.branches
    config.model.dropout = args.dropout
    # The rows `late` are CRN, whose release gives all branches a small share of the loss.
    if args.branches == 'late':
        config.loss.relaxation = 0.001
    if args.number != config_lib.OF_VARIANT:
        config.model.num_branches = args.number
        config.neighbours.num_clusters = max(args.number - 1, 1)
    number = 1 if args.branches == 'single' else config.model.num_branches
    config.testing.num_samples = number

    # Neighbours need landmarks, and a branch for each of them.
    wanted = args.neighbours or ('true' if number > 1 else 'false')
    has_landmarks = config.condition.name == 'landmarks'
    config.neighbours.use = wanted == 'true' and (has_landmarks or bool(args.neighbours))
    if args.features:
        config.loss.factors = ()
    if args.steps != config_lib.OF_VARIANT:
        half = max(1, args.steps // 2)
        config.loss.calibrate_steps = min(config.loss.calibrate_steps, half)
        config.loss.relaxed_steps = min(config.loss.relaxed_steps, args.steps // 3)


def _pets(config):
    """Sets heads of Oxford-IIIT Pet at 96x96, and 72 branches."""
    config_lib.update(
        config,
        data=dict(name='oxford_pet', eval_size=(96, 96)),
        augment=dict(resize=(96, 96), crop=(96, 96)),
        model=dict(num_branches=72, first_height=6),
        train=dict(num_steps=110_000),
        logging=dict(eval_every=11_000, checkpoint_every=5500),
    )
    config_lib.condition_on_normals(config)


def _photos(config):
    """Sets a folder of faces at 64x64, and narrow nets."""
    config_lib.small_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.125, num_branches=6),
        neighbours=dict(num_clusters=5),
        loss=dict(layers=('conv1_2', 'conv2_2', 'conv3_2')),
        # Fifty times fewer steps need larger steps.
        optim=dict(learning_rate=1e-3),
    )


def _photos_quick(config):
    """Sets faces at 48x48, and as much of VGG as a core can afford."""
    _photos(config)
    config_lib.smaller_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.0625, first_height=3),
        # Two neighbours instead of five: a step takes three quarters of the time.
        neighbours=dict(num_clusters=2),
        # Weights were calibrated with trained VGG16 over the first 100 steps of such a run.
        # Without relaxation, branches with parameters of their own are lost in the first steps.
        loss=dict(
            layers=('conv1_2', 'conv2_2'),
            factors=(1.0, 0.045, 0.18),
            relaxation=0.001,
            relaxed_steps=200,
        ),
    )


def _quick(config):
    """Sets rendered faces, and a narrow Phi with random weights."""
    _photos(config)
    config_lib.rendered_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.0625, num_branches=4),
        neighbours=dict(num_clusters=3),
        # Calibrated in a run of this variant, so that all rows of a table have equal weights.
        loss=dict(factors=(1.0, 4.6, 8.5, 10.0)),
    )


def _smoke(config):
    """Sets a training of seconds."""
    config_lib.smoke_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.03, num_branches=3),
        neighbours=dict(num_clusters=2),
        loss=dict(layers=('conv1_2',), calibrate_steps=2),
        testing=dict(interpolation=3),
    )
