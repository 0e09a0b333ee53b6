"""The pipeline of contract_pipeline.py as a config, and as a program that tests kill.

usage: python contract_run.py WORKDIR CACHE [batch_size=N] [port=N process_id=N num_processes=N]
"""

import sys

import contract_data

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel
from segjax.train import driver


def make_config(cache, **sections):
    contract_data.register()
    pipelines.REGISTRY['contract'] = 'contract_pipeline'
    config = config_lib.defaults('contract')
    config_lib.update(
        config,
        augment=dict(crop=contract_data.SIZE, scale=(0.8, 1.25)),
        data=dict(
            cache=str(cache),
            eval_size=contract_data.SIZE,
            threads=1,
            world=dict(num_train=16, num_val=10, size=contract_data.SIZE),
        ),
        train=dict(batch_size=4, num_steps=4),
        evaluate=dict(batch_size=4),
        logging=dict(log_every=1, eval_every=3, checkpoint_every=2, num_pictures=1),
    )
    config_lib.update(config, **sections)
    return config


def main(workdir, cache, *pairs):
    """Trains in a folder."""
    options = dict(batch_size='4', port='', process_id='0', num_processes='1')
    options.update(pair.split('=') for pair in pairs)
    coordinator = f'127.0.0.1:{options["port"]}' if options['port'] else ''
    parallel.initialize(
        False, coordinator, int(options['num_processes']), int(options['process_id'])
    )
    batch = dict(batch_size=int(options['batch_size']))
    driver.train(make_config(cache, train=batch, evaluate=batch), workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
