"""The toy pipeline as a config, and as a program for tests that kill it: `python toy_run.py WORKDIR [num_steps]`."""

import sys

from segjax import config as config_lib
from segjax import pipelines


def make_config(**sections):
    pipelines.REGISTRY['toy'] = 'toy_pipeline'
    config = config_lib.defaults('toy')
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64), threads=1, world=dict(num_train=16, num_val=10, size=(32, 64))),
        train=dict(batch_size=8, num_steps=5),
        evaluate=dict(batch_size=8),
        run=dict(log_every=2, eval_every=3, checkpoint_every=2, num_pictures=1),
    )
    config_lib.update(config, **sections)
    return config


if __name__ == '__main__':
    from segjax import driver

    driver.train(make_config(train=dict(num_steps=int(sys.argv[2]))), sys.argv[1])
