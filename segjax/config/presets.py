"""Settings that several config files begin with."""

import ml_collections

from segjax.config.tree import update


def smoke(config: ml_collections.ConfigDict) -> None:
    """Sets the values that all `:smoke` variants share: four steps on a few small images.

    The images show `streets`. The run logs, evaluates, saves and writes its report.
    """
    update(
        config,
        augment=dict(resize=(), crop=(32, 64)),
        data=dict(
            name='streets',
            eval_size=(32, 64),
            threads=1,
            world=dict(num_train=16, num_val=10, size=(32, 64)),
        ),
        train=dict(batch_size=8, num_steps=4),
        evaluate=dict(batch_size=8),
        logging=dict(log_every=1, eval_every=2, checkpoint_every=2, num_pictures=1),
    )
