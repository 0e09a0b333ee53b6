"""CycleGAN-ERFNet with noise injected into the latent segmentation (Löhdefink and Fingscheidt).

  bash launch/local.sh --config configs/noise_cyclegan.py:quick --workdir runs/cyclegan

Variants:
  (none)    the paper's setting: Cityscapes at 512x256, batch 4, 200 epochs, Adam 2e-4 (0.5, 0.999).
            The rate is constant for 100 epochs and then falls linearly to 0. Void is trained as
            class 20. Published mIoU and PSNR: 2-bit quantisation 45.1, 25.30 dB; no noise 39.4,
            25.37 dB; plain ERFNet 40.2.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  camvid    the same on CamVid (SegNet's split, 11 classes) at 480x360.
            --config.data.root=/data/camvid
  camvid_quick  CamVid at 128x96 with the nets and rates of quick: minutes a system on two CPU cores
  quick     the embedded world `streets` at 128x64 with nets of half the width: about five minutes
            on two idle CPU cores. G is trained alone first. Two systems begin from it, without
            noise and with noise. The report shows them side by side. Measured (seed 0): 25.5 mIoU
            and 18.1 dB without noise, 25.0 mIoU and 15.6 dB with 2-bit quantisation
  smoke     seconds, for tests

The latent that the noise works on is tanh(logits / 8). The softmax sees the logits. The paper does
not bound its latent, but publishes the signal-to-noise ratios of its noise: 0.22 dB for the maximum
alone, 21.02, 14.50, 7.38 and -0.55 dB for 4, 3, 2 and 1 bits. On trained ERFNets, tanh(logits / 8)
measures 0.3, 21, 14.5, 7 and -3.3 dB. One bit is 3 dB noisier than published. All other ratios
agree within 0.5 dB. Raw logits measure 1.9 dB at any number of bits, and tanh without the gain 32,
26, 20 and 12 dB. A net that has not learned yet has small logits and more noise.
`range=raw,gain=1` is the text to the letter.

Not the paper's, or not said there: images are flipped. Each cycle keeps its own batch statistics.
mIoU is scored at the size of the images that the net sees (Cityscapes: 512x256, as in the paper).
--config.evaluate.resolution=label scores at the label's own size.

Arguments: `noise=none|max_only|quantize|gaussian`, `bits=2`, `snr=7.38`,
`norm=eq11_consistent|eq13_literal`, `range=tanh_noise_only|tanh|raw`, `gain=0.125`. `steps` and
`start` replace the variant's steps of a system and of the training of G before it. `start=0` leaves
that training out. `system=erfnet` is the plain ERFNet of the comparison: the supervised pipeline
with the same data, net, optimiser and number of steps. `system=start` is plain ERFNet with the
steps of `start`: a run from which other runs can begin. E.g.
--config configs/noise_cyclegan.py:camvid,noise=gaussian,snr=7.38
"""

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

VARIANTS = ('camvid', 'camvid_quick', 'quick', 'smoke')
SYSTEMS = {'cyclegan': 'noise_cyclegan', 'erfnet': 'supervised', 'start': 'supervised'}
"""Argument `system` -> pipeline."""
NOISE_ARGUMENTS = ('noise', 'bits', 'snr', 'norm', 'range', 'gain')
SHALLOW = (1, 1, 0, 0)
"""Blocks of ERFNet, for tests."""
OF_VARIANT = -1
"""Number of steps: as the variant sets them."""


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(
        arg,
        variants=VARIANTS,
        system='cyclegan',
        noise='quantize',
        bits=2,
        snr=7.38,
        norm='eq11_consistent',
        range='tanh_noise_only',
        gain=0.125,
        steps=OF_VARIANT,
        start=OF_VARIANT,
    )
    if args.system not in SYSTEMS:
        raise unknown_name('--config configs/noise_cyclegan.py:...,system=', args.system, SYSTEMS)
    _check_noise(arg, args.system)

    config = config_lib.defaults(SYSTEMS[args.system])
    adam = dict(
        name='adam', learning_rate=2e-4, beta1=0.5, schedule='linear_tail', constant_fraction=0.5
    )
    config_lib.update(
        config,
        augment=dict(resize=(256, 512), crop=(256, 512), flip=0.5),
        data=dict(name='cityscapes', eval_size=(256, 512), void_class=True),
        train=dict(batch_size=4, num_steps=200 * 2975 // 4),  # 200 epochs of 2,975 images
        evaluate=dict(batch_size=4, resolution='image'),
        optim=adam,
        model=dict(init_std=0.02),
        logging=dict(log_every=50, eval_every=20 * 2975 // 4, checkpoint_every=20 * 2975 // 4),
    )
    if args.system == 'cyclegan':
        config_lib.update(
            config,
            optim_discriminator=adam,
            noise=dict(name=args.noise, bits=args.bits, snr=args.snr, snr_norm=args.norm),
            cycle=dict(latent_range=args.range, latent_gain=args.gain),
        )
    else:
        config.preprocess = 'symmetric'  # as G sees its images

    start_steps = 0
    if args.variant == 'camvid':
        _camvid(config)
    elif args.variant == 'camvid_quick':
        _camvid_quick(config)
    elif args.variant == 'quick':
        _quick(config)
        start_steps = 1000
    elif args.variant == 'smoke':
        _smoke(config)
    _set_steps(config, args, start_steps)
    return config


def _check_noise(arg, system):
    """Raises InputError for arguments about noise if the system has no latent."""
    if system == 'cyclegan':
        return
    given = {item.partition('=')[0] for item in arg.split(',') if '=' in item}
    unused = [f'{name}=' for name in NOISE_ARGUMENTS if name in given]
    if unused:
        raise InputError(
            f'configs/noise_cyclegan.py:...,system={system}',
            got=', '.join(unused),
            expected='no noise: there is no latent',
        )


def _set_steps(config, args, start_steps):
    """Sets the steps of the system and of the first stage. Arguments replace the variant's."""
    if args.start != OF_VARIANT:
        start_steps = args.start
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps
    if args.system == 'cyclegan':
        config.start.num_steps = start_steps
    elif args.system == 'start':
        config.train.num_steps = start_steps


def _camvid(config):
    """Sets CamVid at half its size, for 200 epochs of 367 images."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(360, 480)),
        data=dict(name='camvid', eval_size=(360, 480)),
        train=dict(num_steps=200 * 367 // 4),
        logging=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )


def _camvid_quick(config):
    """Sets small images of CamVid and small nets."""
    _camvid(config)
    config_lib.update(
        config, augment=dict(resize=(96, 128), crop=(96, 128)), data=dict(eval_size=(96, 128))
    )
    _short(config)


def _quick(config):
    """Sets 400 rendered images and small nets."""
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(64, 128)),
        data=dict(
            name='streets',
            eval_size=(64, 128),
            # Rare classes cover few pixels. On 64 images their IoU would be noise in the mean.
            world=dict(num_train=400, num_val=200, size=(64, 128)),
        ),
    )
    _short(config)
    # Three trainings in ten minutes, compilation included.
    config_lib.update(
        config, train=dict(num_steps=300), logging=dict(eval_every=0, checkpoint_every=300)
    )
    if config.pipeline == 'noise_cyclegan' and config.noise.name != 'none':
        config.compare = ('none',)


def _short(config):
    """Sets a training of minutes: small nets, a larger rate, and weights that help rare classes."""
    config_lib.update(
        config,
        train=dict(num_steps=500),
        evaluate=dict(batch_size=16),
        loss=dict(class_weights='enet'),
        logging=dict(log_every=20, eval_every=250, checkpoint_every=250, num_pictures=3),
    )
    _narrow(config, 0.5, features=16)
    _faster(config, 1e-3)


def _smoke(config):
    """Sets the smallest nets that the architecture allows, and four steps."""
    config_lib.smoke(config)
    _narrow(config, 0.25, features=8)
    config.model.blocks = SHALLOW
    if config.pipeline == 'noise_cyclegan':
        config.painter.blocks = SHALLOW
        config.cycle.pool_size = 6
        config.probes = ('none',)


def _narrow(config, width, features):
    """Sets nets for small machines.

    The naive forms of the convolutions are as fast as 'fast' at this size, and compile sooner.
    """
    config.model.update(width=width, forms='naive')
    if config.pipeline == 'noise_cyclegan':
        # F's 20 channels have to grow in each of F's first two blocks.
        config.painter.update(width=0.5, first_maps=52, forms='naive')
        config.discriminator.update(features=features, forms='naive')


def _faster(config, rate):
    """Sets a larger rate, for a training that is a hundred times shorter."""
    config.optim.learning_rate = rate
    if config.pipeline == 'noise_cyclegan':
        config.optim_discriminator.learning_rate = rate
