"""Surface normals from one image, on the embedded world `streets` at 256x128.

  bash launch/local.sh --config configs/monocular_normals.py:quick --workdir runs/normals

Variants:
  (none)    ERFNet on 2,000 rendered images, for 10,000 steps
  quick     ERFNet of half the width on 400 images: minutes on two CPU cores
  smoke     seconds, for tests
"""

from segjax import config as config_lib

VARIANTS = ('quick', 'smoke')


def get_config(arg=''):
    """Returns the config of a variant."""
    args = config_lib.parse_arg(arg, variants=VARIANTS)
    config = config_lib.defaults('monocular_normals')
    config_lib.update(
        config,
        augment=dict(crop=(128, 256), flip=0.5),
        data=dict(
            name='streets',
            eval_size=(128, 256),
            world=dict(num_train=2000, num_val=200, size=(128, 256)),
        ),
        train=dict(batch_size=8, num_steps=10_000),
        evaluate=dict(batch_size=8),
        optim=dict(learning_rate=1e-3),
    )
    if args.variant == 'quick':
        _quick(config)
    elif args.variant == 'smoke':
        config_lib.smoke(config)
        config.model.update(width=0.25, blocks=(0, 0, 0, 0))
    return config


def _quick(config):
    """Sets 400 rendered images, for a training of minutes."""
    config_lib.update(
        config,
        data=dict(world=dict(num_train=400, num_val=64)),
        train=dict(num_steps=300),
        logging=dict(log_every=10, eval_every=100, checkpoint_every=100),
    )
    config.model.width = 0.5
