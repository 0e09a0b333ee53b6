"""The toy pipeline as a config, and as a program.

Tests kill the program, or run it in several processes.

usage: python toy_run.py WORKDIR NUM_STEPS [KEY=VALUE ...]
keys: mode, noise, optimiser, port, process_id, num_processes
"""

import sys

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel
from segjax.train import driver


def make_config(pipeline='toy', **sections):
    pipelines.REGISTRY['toy'] = 'toy_pipeline'
    config = config_lib.defaults(pipeline)
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(
            eval_size=(32, 64), threads=1, world=dict(num_train=16, num_val=10, size=(32, 64))
        ),
        train=dict(batch_size=8, num_steps=5),
        # Ten examples in batches of eight: the last batch is padded. Only some devices get padding.
        evaluate=dict(batch_size=8),
        logging=dict(log_every=2, eval_every=3, checkpoint_every=2, num_pictures=1),
    )
    config_lib.update(config, **sections)
    return config


def main(workdir, num_steps, *pairs):
    options = dict(
        mode='pmap', noise='0.1', optimiser='adam', port='', process_id='0', num_processes='1'
    )
    options.update(pair.split('=') for pair in pairs)
    coordinator = f'127.0.0.1:{options["port"]}' if options['port'] else ''
    parallel.initialize(
        False, coordinator, int(options['num_processes']), int(options['process_id'])
    )
    config = make_config(
        train=dict(num_steps=int(num_steps)),
        noise=float(options['noise']),
        optim=dict(name=options['optimiser']),
        optim_critic=dict(name=options['optimiser']),
        parallel=dict(mode=options['mode'], check_replicas=True),
    )
    driver.train(config, workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
