"""Flags and dispatch only: `python -m segjax.main --config configs/supervised.py:quick --workdir runs/first`.

Exit codes: 0 finished, 1 wrong input or a failed run (the reason is the last thing printed), 75 preempted: the state
was saved and the same command goes on.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from segjax.errors import InputError, unknown_name

MODES = ('train', 'evaluate', 'predict', 'doctor', 'bench')
EXIT_WRONG, EXIT_PREEMPTED = 1, 75

_CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file, file.py:variant,key=value; single keys are set with --config.section.key=value',
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string('workdir', '', 'Run folder: checkpoints, logs, pictures, report.html')
_MODE = flags.DEFINE_string('mode', 'train', 'One of ' + ', '.join(MODES))
_INPUT = flags.DEFINE_string('input', '', '--mode predict: folder of images')
_OUTPUT = flags.DEFINE_string('output', '', '--mode predict: folder for label maps, colours and overlays')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'Which one --mode evaluate and predict use')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Find the other processes through SLURM or TPU metadata')
_COORDINATOR = flags.DEFINE_string('coordinator', '', 'host:port of process 0, for several processes by hand')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', 1, 'With --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'With --coordinator')


def _parse_flags(argv):
    try:
        return app.parse_flags_with_usage(argv)
    except InputError as error:
        _fail(error)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections raises these for --config.<unknown key>, wrong types and missing files.
        _fail(
            InputError(
                '--config',
                got=' '.join(a for a in argv[1:] if 'config' in a),
                expected=str(error.args[0]) if error.args else repr(error),
                fix='keys and their meaning: segjax/config.py',
            )
        )


def _fail(error: Exception):
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(EXIT_WRONG)


def _load_config():
    """The config of --config, or that of the run folder where only --workdir is given."""
    from segjax import config, logs

    if _CONFIG.value is not None:
        return _CONFIG.value
    stored = pathlib.Path(_WORKDIR.value).expanduser() / 'config.json'
    if not _WORKDIR.value or not stored.exists():
        raise InputError(
            '--config',
            got='nothing',
            expected='a config file, as configs/supervised.py:quick',
            fix='or --workdir with the folder of an earlier run',
        )
    return config.from_json(logs.read_json(stored))


def _dispatch() -> None:
    from segjax import parallel

    if _MODE.value not in MODES:
        raise unknown_name('--mode', _MODE.value, MODES)
    parallel.initialize(_DISTRIBUTED.value, _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    config = _load_config()
    if _MODE.value == 'doctor':
        from segjax import doctor

        sys.exit(doctor.main(config))
    from segjax import bench, driver, predict

    if not _WORKDIR.value:
        raise InputError('--workdir', got='nothing', expected='a folder for this run', fix='--workdir runs/first')
    if _MODE.value == 'train':
        driver.train(config, _WORKDIR.value)
    elif _MODE.value == 'evaluate':
        driver.evaluate(config, _WORKDIR.value, _CHECKPOINT.value)
    elif _MODE.value == 'predict':
        predict.main(config, _WORKDIR.value, _INPUT.value, _OUTPUT.value, _CHECKPOINT.value)
    else:
        bench.main(config, _WORKDIR.value)


def main(argv) -> None:
    if len(argv) > 1:
        _fail(InputError('command line', got=' '.join(argv[1:]), expected='flags only, as --workdir runs/first'))
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    from segjax import checkpoints, driver

    try:
        _dispatch()
    except driver.Preempted as error:
        print(f'preempted: {error}; the same command goes on', file=sys.stderr, flush=True)
        sys.exit(EXIT_PREEMPTED)
    except (InputError, checkpoints.CheckpointError, driver.Diverged) as error:
        _fail(error)


def run() -> None:
    # A second start of the same program skips compilation; set before jax is imported.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path('~/.cache/segjax/jax').expanduser()))
    app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
    run()
