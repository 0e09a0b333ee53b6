"""Images from landmarks or normal maps by pix2pix or BicycleGAN, the rivals of dropout_codes.

  bash launch/local.sh --config configs/conditional_gan.py:quick --workdir runs/bicycle

Variants:
  (none)    LFW at 128x128 from 68 heat maps: the released settings with 300 epochs in the place of
            200. Published in the thesis for BicycleGAN: RMSE 9.948, best of 10 6.856, SSIM 0.621,
            best 0.715; for pix2pix 9.952, 9.649, 0.696 and 0.708. --config.data.root=/data/lfw
  pets      heads of Oxford-IIIT Pet from normal maps at 128x128, in the place of 96x96: both
            nets halve images seven times. --config.data.root=/data/oxford_pet
  photos    faces at 64x64 with narrow nets, from a folder of images with landmarks.
            --config.data.root=/data/faces
  photos_quick  the same faces at 48x48: ten minutes on a core
  quick     the embedded world `faces` at 64x64 with narrow nets: minutes on two CPU cores
  smoke     seconds, for tests

Arguments: `gan=bicycle|pix2pix`, `world=` faces or heads of quick and smoke,
`features=load|random`, `steps` of the GAN. The diversity of features reads VGG19 of torchvision:
--config.init_from.sources="(('vgg', 'vgg19.pth'),)". photos reads VGG16. quick and smoke take
VGG16 with random weights.

Not the thesis', or not said there: half of the 300 epochs have a constant rate, as half of the
released 200. The normal net of `dropout_codes.py:pets` has learned at 96x96. Images are not
enlarged and cropped.
"""

from segjax import config as config_lib

FILE = 'configs/conditional_gan.py'
FACES = 4038
"""Training images of LFW."""
HEADS = 3000
"""Training images of Oxford-IIIT Pet."""
BATCH = {'bicycle': 2, 'pix2pix': 1}
"""Released batch sizes."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.portrait_args(FILE, arg, {'gan': tuple(BATCH)}, gan='bicycle')
    config = config_lib.defaults('conditional_gan')
    config_lib.portraits(config)
    batch_size = BATCH[args.gan]
    adam = dict(
        name='adam', learning_rate=2e-4, beta1=0.5, schedule='linear_tail', constant_fraction=0.5
    )
    config_lib.update(
        config,
        gan=args.gan,
        train=dict(batch_size=batch_size, num_steps=300 * FACES // batch_size),
        bicycle=dict(optim=adam, optim_discriminator=adam),
        pix2pix=dict(optim=adam, optim_discriminator=adam),
        logging=dict(eval_every=30 * FACES, checkpoint_every=10 * FACES),
    )
    _set_depth(config, 7, 3)
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


def _set_depth(config, num_downs, blocks):
    """Sets how often the nets halve an image."""
    config.bicycle.model.num_downs = num_downs
    config.pix2pix.model.num_downs = num_downs
    config.bicycle.encoder.blocks = blocks


def _set_width(config, width):
    """Sets the share of the published channels of all nets."""
    for section in (config.bicycle, config.pix2pix):
        section.model.width = width
        section.discriminator.width = width
    config.bicycle.encoder.width = width


def _pets(config):
    """Sets heads of Oxford-IIIT Pet."""
    config.data.name = 'oxford_pet'
    steps = 300 * HEADS // config.train.batch_size
    config_lib.update(
        config,
        train=dict(num_steps=steps),
        testing=dict(num_samples=72),
        logging=dict(eval_every=steps // 10, checkpoint_every=steps // 30),
    )
    config_lib.condition_on_normals(config)


def _photos(config):
    """Sets a folder of faces at 64x64, and narrow nets."""
    config_lib.small_portraits(config)
    # As many samples as dropout_codes has branches.
    config.testing.num_samples = 6
    _set_depth(config, 6, 2)
    _set_width(config, 0.25)
    config.bicycle.discriminator.num_layers = 2
    config.pix2pix.discriminator.num_layers = 2
    # With 8 examples a batch, the released sum would weigh the divergence four times as much.
    config.bicycle.kl_reduction = 'mean'


def _photos_quick(config):
    """Sets faces at 48x48, of which pix2pix draws a single image each."""
    _photos(config)
    config_lib.smaller_portraits(config)
    _set_depth(config, 4, 2)
    # Four halvings leave pix2pix no level with drop-out, so its samples would be equal.
    if config.gan == 'pix2pix':
        config.testing.num_samples = 1


def _quick(config):
    """Sets rendered faces, and a narrow Phi with random weights."""
    _photos(config)
    config_lib.rendered_portraits(config)
    config.testing.num_samples = 4


def _smoke(config):
    """Sets a training of seconds."""
    config_lib.smoke_portraits(config)
    config.testing.num_samples = 3 if config.gan == 'bicycle' else 1
    _set_depth(config, 5, 1)
    _set_width(config, 0.05)
    config.bicycle.discriminator.num_layers = 1
    config.pix2pix.discriminator.num_layers = 1
