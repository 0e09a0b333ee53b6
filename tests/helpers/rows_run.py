"""The pipeline of rows_pipeline.py as a config, and as a program of several processes.

usage: python rows_run.py WORKDIR CACHE [port=N process_id=N num_processes=N workers=N]
"""

import sys

import toy_run

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel
from segjax.train import driver


def make_config(cache, **sections):
    pipelines.REGISTRY['rows'] = 'rows_pipeline'
    config = config_lib.defaults('rows')
    plain = toy_run.make_config()
    for section in ('augment', 'data', 'train', 'evaluate', 'logging'):
        config[section] = plain[section]
    config_lib.update(config, data=dict(cache=str(cache)), logging=dict(num_pictures=2))
    config_lib.update(config, **sections)
    return config


def main(workdir, cache, *pairs):
    """Trains in a folder."""
    options = dict(port='', process_id='0', num_processes='1', workers='0')
    options.update(pair.split('=') for pair in pairs)
    coordinator = f'127.0.0.1:{options["port"]}' if options['port'] else ''
    parallel.initialize(
        False, coordinator, int(options['num_processes']), int(options['process_id'])
    )
    config = make_config(cache, data=dict(workers=int(options['workers'])))
    driver.train(config, workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
