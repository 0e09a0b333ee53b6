"""CycleGAN-ERFNet with noise injected into the latent segmentation (Löhdefink and Fingscheidt).

  bash launch/local.sh --config configs/noise_cyclegan.py:quick --workdir runs/first

Variants:
  (none)    the paper's setting: Cityscapes at 512x256, batch 4, 200 epochs, Adam 2e-4 (0.5, 0.999). The rate is
            constant for 100 epochs and then falls linearly to 0. Void is trained as class 20. Published mIoU and PSNR:
            2-bit quantisation 45.1, 25.30 dB; no noise 39.4, 25.37 dB; plain ERFNet 40.2.
            --config.data.root=/data/cityscapes (or $CITYSCAPES_DATASET)
  camvid    the same on CamVid (SegNet's split, 11 classes) at 480x360. --config.data.root=/data/camvid
  camvid_quick  CamVid at 128x96 with the nets and rates of quick: minutes a system on two CPU cores
  quick     the embedded world `streets` at 128x64 with nets of half the width: minutes on two CPU cores. Trains G alone
            first. Two systems begin from it, without noise and with noise; the report shows them side by side.
            Evaluation has 200 images: rare classes cover few pixels, and of 64 images their IoU is noise in the mean
  smoke     seconds, for tests

The latent that the noise works on is tanh(logits / 8); the softmax sees the logits. The paper bounds its latent by
nothing, but publishes the signal-to-noise ratios of its noise: 0.22 dB for the maximum alone, 21.02, 14.50, 7.38 and
-0.55 dB for 4, 3, 2 and 1 bits. On trained ERFNets, tanh(logits / 8) measures 0.3, 21, 14.5, 7 and -3.3 dB. One bit is
3 dB noisier than published; the rest agrees within 0.5 dB. Raw logits measure 1.9 dB at any number of bits, and tanh
without the gain 32, 26, 20 and 12 dB. A net that has not learned yet has small logits and more noise.
`range=raw,gain=1` is the text to the letter.

Not the paper's, or not said there: images are flipped; each cycle keeps its own batch statistics. mIoU is scored at
the size of the images that the net sees (Cityscapes: 512x256, as in the paper).
--config.evaluate.resolution=label scores at the label's own size.

Arguments: `noise=none|max_only|quantize|gaussian`, `bits=2`, `snr=7.38`, `norm=eq11_consistent|eq13_literal`,
`range=tanh_noise_only|tanh|raw`, `gain=0.125`. `steps` and `start` replace the variant's steps of a system and of the
training of G before it; `start=0` leaves that training out. `system=erfnet` is the plain ERFNet of the comparison: the
supervised pipeline with the same data, net, optimiser and number of steps. `system=start` is plain ERFNet with the
steps of `start`: a run from which other runs can begin. E.g.
--config configs/noise_cyclegan.py:camvid,noise=gaussian,snr=7.38
"""

from segjax import config as config_lib
from segjax.errors import InputError, unknown_name

SHALLOW = (1, 1, 0, 0)  # blocks of ERFNet, for tests
SYSTEMS = {'cyclegan': 'noise_cyclegan', 'erfnet': 'supervised', 'start': 'supervised'}
START_STEPS = {'quick': 1000}  # of G alone, by variant; other variants train none
OF_VARIANT = -1  # steps as the variant has them


def get_config(arg=''):
    args = config_lib.parse_arg(
        arg,
        variants=('camvid', 'camvid_quick', 'quick', 'smoke'),
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
    given = [
        name for name in ('noise', 'bits', 'snr', 'norm', 'range', 'gain') if f'{name}=' in arg
    ]
    if args.system != 'cyclegan' and given:
        where = f'configs/noise_cyclegan.py:...,system={args.system}'
        raise InputError(
            where, got=', '.join(f'{n}=' for n in given), expected='no noise: there is no latent'
        )
    config = config_lib.defaults(SYSTEMS[args.system])
    adam = dict(
        name='adam', learning_rate=2e-4, beta1=0.5, schedule='linear_tail', constant_fraction=0.5
    )
    config_lib.update(
        config,
        augment=dict(resize=(256, 512), crop=(256, 512), flip=0.5),
        data=dict(name='cityscapes', eval_size=(256, 512), void_class=True),
        train=dict(batch_size=4, num_steps=200 * 2975 // 4),
        evaluate=dict(batch_size=4, resolution='image'),
        optim=adam,
        model=dict(init_std=0.02),
        logging=dict(log_every=50, eval_every=20 * 2975 // 4, checkpoint_every=20 * 2975 // 4),
    )
    if args.system != 'cyclegan':
        config.preprocess = 'symmetric'
    else:
        config_lib.update(
            config,
            optim_discriminator=adam,
            noise=dict(name=args.noise, bits=args.bits, snr=args.snr, snr_norm=args.norm),
            cycle=dict(latent_range=args.range, latent_gain=args.gain),
        )
    variants = {
        '': lambda c: None,
        'camvid': _camvid,
        'camvid_quick': _camvid_quick,
        'quick': _quick,
        'smoke': _smoke,
    }
    variants[args.variant](config)
    _set_steps(config, args)
    return config


def _set_steps(config, args):
    """Sets the steps of the system and of the first stage, where the arguments name them."""
    start = START_STEPS.get(args.variant, 0) if args.start == OF_VARIANT else args.start
    if args.steps != OF_VARIANT:
        config.train.num_steps = args.steps
    if args.system == 'cyclegan':
        config.start.num_steps = start
    if args.system == 'start':
        config.train.num_steps = start


def _camvid(config):
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(360, 480)),
        data=dict(name='camvid', eval_size=(360, 480)),
        train=dict(num_steps=200 * 367 // 4),
        logging=dict(log_every=20, eval_every=1000, checkpoint_every=1000),
    )


def _camvid_quick(config):
    _camvid(config)
    config_lib.update(
        config, augment=dict(resize=(96, 128), crop=(96, 128)), data=dict(eval_size=(96, 128))
    )
    _short(config)


def _quick(config):
    config_lib.update(
        config,
        augment=dict(resize=(), crop=(64, 128)),
        data=dict(
            name='streets',
            eval_size=(64, 128),
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
    config_lib.smoke(config)
    _narrow(config, 0.25, features=8)
    config.model.blocks = SHALLOW
    if config.pipeline == 'noise_cyclegan':
        config.painter.blocks = SHALLOW
        config.cycle.pool_size = 6
        config.probes = ('none',)


def _narrow(config, width, features):
    """Sets nets for small machines. F's 20 channels have to grow in each of F's first two blocks."""
    config.model.update(
        width=width, forms='naive'
    )  # at this size as fast as 'fast', and compiled sooner
    if config.pipeline == 'noise_cyclegan':
        config.painter.update(width=0.5, first_maps=52, forms='naive')
        config.discriminator.update(features=features, forms='naive')


def _faster(config, rate):
    """Sets a larger rate for a training that is a hundred times shorter."""
    config.optim.learning_rate = rate
    if config.pipeline == 'noise_cyclegan':
        config.optim_discriminator.learning_rate = rate
