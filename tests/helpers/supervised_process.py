"""One process of a supervised smoke run on simulated devices: `python supervised_process.py WORKDIR MODE [PORT ID N]`.

Plain SGD, no drop-out and 64-bit activations (JAX_ENABLE_X64=1), so that the numbers do not depend on how the batch is
dealt out to devices.
"""

import sys

from segjax import config as config_lib
from segjax import driver, parallel


def main(workdir, mode, port='', process_id='0', num_processes='1'):
    parallel.initialize(False, f'127.0.0.1:{port}' if port else '', int(num_processes), int(process_id))
    config = config_lib.defaults('supervised')
    config.model.width = 0.25
    config.model.dropout = (0.0, 0.0)
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64), threads=1, world=dict(num_train=16, num_val=10, size=(32, 64))),
        train=dict(batch_size=8, num_steps=3, dtype='float64'),
        # Ten examples in batches of eight: the last batch is padded, and its padding falls on some devices only.
        evaluate=dict(batch_size=8),
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05),
        run=dict(log_every=1, eval_every=0, checkpoint_every=2, num_pictures=1),
        parallel=dict(mode=mode, check_replicas=True),
    )
    driver.train(config, workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
