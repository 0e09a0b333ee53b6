"""The toy pipeline with derived features as a config, and as a program of several processes.

usage: python featured_run.py FOLDER PORT PROCESS_ID NUM_PROCESSES
"""

import pathlib
import sys

import toy_run

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel
from segjax.train import driver


def make_config(folder, **sections):
    """Returns a config whose cache and journal are in a folder."""
    pipelines.REGISTRY['featured'] = 'featured_pipeline'
    config = config_lib.defaults('featured')
    plain = toy_run.make_config()
    for section in ('augment', 'data', 'train', 'evaluate', 'logging'):
        config[section] = plain[section]
    small = dict(cache=str(folder / 'cache'), workers=1)
    config_lib.update(config, journal=str(folder / 'journal'), data=small)
    config_lib.update(config, **sections)
    return config


def main(folder, port, process_id, num_processes):
    """Trains in `FOLDER/run`."""
    parallel.initialize(False, f'127.0.0.1:{port}', int(num_processes), int(process_id))
    folder = pathlib.Path(folder)
    driver.train(make_config(folder), str(folder / 'run'))


if __name__ == '__main__':
    main(*sys.argv[1:])
