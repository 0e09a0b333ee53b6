"""Images from landmarks or normal maps by pixel-wise nearest neighbours, a rival of dropout_codes.

  bash launch/local.sh --config configs/pixel_neighbours.py:quick --workdir runs/neighbours

Variants:
  (none)    LFW at 128x128 from 68 heat maps, 10 samples. --config.data.root=/data/lfw
  pets      heads of Oxford-IIIT Pet at 96x96 from normal maps, 72 samples. Published in the thesis
            for the best of 72: mean error of the normals 13.8 degrees, median 11.9, and 46.9 per
            cent of the pixels below 11.25 degrees. --config.data.root=/data/oxford_pet
  photos    faces at 64x64 with narrow nets, from a folder of images with landmarks.
            --config.data.root=/data/faces
  photos_quick  the same faces at 48x48: ten minutes on a core
  quick     the embedded world `faces` at 64x64 with narrow nets: minutes on two CPU cores
  smoke     seconds, for tests

Arguments: `world=` faces or heads of quick and smoke, `features=load|random`, `steps` of the
regression net. Pixels are compared by the features of VGG19 of torchvision:
--config.init_from.sources="(('vgg', 'vgg19.pth'),)". photos reads VGG16. quick and smoke take
VGG16 with random weights.

Not the thesis', or not said there: the regression net and its training, which are those of
dropout_codes with a single image, the layers of VGG19, 32 nearest images of which a sample uses 8,
and copies from at most 8 pixels away.
"""

from segjax import config as config_lib

FILE = 'configs/pixel_neighbours.py'


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.portrait_args(FILE, arg)
    config = config_lib.defaults('pixel_neighbours')
    config_lib.portraits(config)
    config_lib.update(
        config,
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
    return config


def _pets(config):
    """Sets heads of Oxford-IIIT Pet at 96x96, and 72 samples."""
    config_lib.update(
        config,
        data=dict(name='oxford_pet', eval_size=(96, 96)),
        augment=dict(resize=(96, 96), crop=(96, 96)),
        model=dict(first_height=6),
        train=dict(num_steps=110_000),
        testing=dict(num_samples=72),
        logging=dict(eval_every=11_000, checkpoint_every=5500),
    )
    config_lib.condition_on_normals(config)


def _photos(config):
    """Sets a folder of faces at 64x64, narrow nets, and fewer images for each sample."""
    config_lib.small_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.125),
        matching=dict(num_images=16, images_of_sample=4, radius=4),
        # As many samples as dropout_codes has branches.
        testing=dict(num_samples=6),
        # Fifty times fewer steps need larger steps.
        optim=dict(learning_rate=1e-3),
    )


def _photos_quick(config):
    """Sets faces at 48x48, and two layers of VGG16."""
    _photos(config)
    config_lib.smaller_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.0625, first_height=3),
        matching=dict(layers=('conv1_2', 'conv2_2'), num_images=8),
    )


def _quick(config):
    """Sets rendered faces, and a narrow Phi with random weights."""
    _photos(config)
    config_lib.rendered_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.0625),
        matching=dict(num_images=8),
        testing=dict(num_samples=4),
    )


def _smoke(config):
    """Sets a training of seconds."""
    config_lib.smoke_portraits(config)
    config_lib.update(
        config,
        model=dict(width=0.03),
        matching=dict(layers=('conv1_2', 'conv2_2'), num_images=4, images_of_sample=2),
        # Two stages are evaluated. The smoke of dropout_codes has these scores.
        landmarks=dict(use='none'),
        testing=dict(num_samples=3, fsim=False),
    )
