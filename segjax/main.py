"""Flags and dispatch only: `python -m segjax.main --config configs/supervised.py:quick --workdir runs/first`.

Exit codes: 0 finished, 1 wrong input or a failed run (the reason is the last thing printed), 75 preempted: the state
was saved and the same command goes on.
"""

import errno
import os
import pathlib
import sys
import time

from absl import app, flags, logging

from segjax.errors import InputError, unknown_name

MODES = ('train', 'evaluate', 'predict', 'doctor', 'bench', 'table', 'prepare', 'cache')
EXIT_WRONG, EXIT_PREEMPTED = 1, 75
# What the user's disk may refuse at any moment; every other OSError is a bug and keeps its traceback.
DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST),
)
HELP = """usage: python -m segjax.main --config FILE.py[:VARIANT,KEY=VALUE] --workdir FOLDER [--config.SECTION.KEY=X]

  --config configs/supervised.py:quick --workdir runs/first     train, or go on where the run stopped
  --workdir runs/first --mode evaluate                          a run folder knows its config
  --workdir runs/first --mode predict --input photos --output labelled
  --config configs/supervised.py:quick --mode doctor            check data and config
  --config configs/supervised.py:quick --mode prepare           only prepare the data
  --mode cache [--delete NAME]                                  list prepared data, or delete some
  --mode table --table configs/tables/FILE.py --workdir runs/t  train the rows of a paper's table, and compare

Every config key, its meaning and its check: segjax/config.py. The variants: the docstring of the config file.
Exit codes: 0 finished, 1 wrong input or a failed run, 75 told to stop by SIGTERM and saved: start it again.
"""

_CONFIG = flags.DEFINE_string('config', '', 'Config file, file.py:variant,key=value; without it, that of --workdir')
_WORKDIR = flags.DEFINE_string('workdir', '', 'Run folder: checkpoints, logs, pictures, report.html')
_MODE = flags.DEFINE_string('mode', 'train', 'One of ' + ', '.join(MODES))
_INPUT = flags.DEFINE_string('input', '', '--mode predict: folder of images')
_OUTPUT = flags.DEFINE_string('output', '', '--mode predict: folder for label maps, colours and overlays')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'Which one --mode evaluate and predict use')
_TABLE = flags.DEFINE_string('table', '', '--mode table: file with the rows of a table')
_SCALE = flags.DEFINE_string('scale', 'quick', '--mode table: how large, a name of its scales')
_ROWS = flags.DEFINE_string('rows', '', '--mode table: regular expression for the rows to train; all of them without')
_SEEDS = flags.DEFINE_string('seeds', '', '--mode table: as 0,1,2; those of the scale without')
_OVERRIDE = flags.DEFINE_multi_string(
    'override', [], '--mode table: ROWS:section.key=value, a key for the rows in whose names ROWS is found; repeatable'
)
_DELETE = flags.DEFINE_multi_string('delete', [], '--mode cache: name of the prepared data to delete; repeatable')
_DISTRIBUTED = flags.DEFINE_bool('distributed', False, 'Find the other processes through SLURM or TPU metadata')
_COORDINATOR = flags.DEFINE_string('coordinator', '', 'host:port of process 0, for several processes by hand')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', 1, 'With --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'With --coordinator')
PROCESSES = (_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
FLAGS = (
    *(_CONFIG, _WORKDIR, _MODE, _INPUT, _OUTPUT, _CHECKPOINT),
    *(_TABLE, _SCALE, _ROWS, _SEEDS, _OVERRIDE, _DELETE),
    *PROCESSES,
)


def _parse_flags(argv):
    """[program, the --config.key=value assignments]; exits for --help and for anything else that is no flag."""
    from segjax import config_file

    if set(argv[1:]) & {'-h', '--help', '--helpshort', '--helpfull'}:
        print(help_text())
        sys.exit(0)
    rest, assignments = config_file.split_arguments(argv)
    try:
        surplus = flags.FLAGS(rest)[1:]
        if surplus:
            raise InputError('command line', got=' '.join(surplus), expected='flags only, as --workdir runs/first')
    except flags.UnrecognizedFlagError as error:
        _fail(unknown_name('command line', error.flagname, [flag.name for flag in FLAGS]))
    except flags.Error as error:
        _fail(InputError('command line', got=str(error), expected='flags with a value of their type', fix='--help'))
    except InputError as error:
        _fail(error)
    return [argv[0], assignments]


def help_text() -> str:
    """The usage, and every flag with its meaning and default."""
    rows = [(f'--{flag.name}', flags.FLAGS[flag.name].help, flag.default) for flag in FLAGS]
    return (
        HELP + '\n' + '\n'.join(f'  {name:16}{text}' + f' ({default})' * bool(default) for name, text, default in rows)
    )


def _fail(error: Exception):
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(EXIT_WRONG)


def _load_config(assignments):
    """The config of --config, or that of the run folder where only --workdir is given, with single keys set."""
    from segjax import config, config_file, logs

    workdir = pathlib.Path(_WORKDIR.value).expanduser()
    if _CONFIG.value:
        loaded = config_file.load(_CONFIG.value)
    elif _WORKDIR.value and (workdir / 'config.json').exists():
        loaded = config.from_json(logs.read_json(workdir / 'config.json'))
    else:
        raise InputError(
            '--config',
            got=f'nothing, and no run in {workdir}' if _WORKDIR.value else 'nothing',
            expected='a config file, as configs/supervised.py:quick',
            fix='or --workdir with the folder of an earlier run',
        )
    config_file.assign(loaded, assignments)
    return loaded


def _check_flags() -> None:
    if _MODE.value not in MODES:
        raise unknown_name('--mode', _MODE.value, MODES)
    _check_table_flags()
    if _DELETE.present and _MODE.value != 'cache':
        raise InputError('--delete', got=f'--mode {_MODE.value}', expected='--mode cache')
    if _MODE.value in ('doctor', 'prepare', 'cache'):
        return
    if not _WORKDIR.value:
        raise InputError('--workdir', got='nothing', expected='a folder for this run', fix='--workdir runs/first')
    if _MODE.value == 'predict':
        for flag in (_INPUT, _OUTPUT):
            if not flag.value:
                raise InputError(f'--{flag.name}', got='nothing', expected='a folder', fix=f'--{flag.name} FOLDER')


def _check_table_flags() -> None:
    if _MODE.value == 'table':
        if not _TABLE.value:
            raise InputError('--table', got='nothing', expected='a table file', fix='--table configs/tables/FILE.py')
        if _CONFIG.value:
            fix = 'leave --config out; --config.section.key=value holds for every row'
            raise InputError('--config', got=_CONFIG.value, expected='none: the rows name their configs', fix=fix)
        return
    for flag in (_TABLE, _SCALE, _ROWS, _SEEDS, _OVERRIDE):
        if flags.FLAGS[flag.name].present:
            raise InputError(f'--{flag.name}', got=f'--mode {_MODE.value}', expected='--mode table')


def _dispatch(assignments) -> None:
    _check_flags()
    if _MODE.value == 'table':
        _dispatch_table(assignments)
        return
    if _MODE.value == 'cache':
        _dispatch_cache(assignments)
        return
    config = _load_config(assignments)
    if _MODE.value == 'prepare':
        _prepare(config)
        return
    if _MODE.value == 'doctor':
        from segjax import doctor

        sys.exit(doctor.main(config))
    from segjax import bench, driver, host, parallel, predict

    parallel.initialize(*(flag.value for flag in PROCESSES))
    host.keep_heap()
    if _MODE.value == 'train':
        driver.train(config, _WORKDIR.value)
    elif _MODE.value == 'evaluate':
        driver.evaluate(config, _WORKDIR.value, _CHECKPOINT.value)
    elif _MODE.value == 'predict':
        predict.main(config, _WORKDIR.value, _INPUT.value, _OUTPUT.value, _CHECKPOINT.value)
    else:
        bench.main(config, _WORKDIR.value)


def _dispatch_table(assignments) -> None:
    from segjax import host, parallel, tables

    chosen = (_TABLE.value, _SCALE.value, _WORKDIR.value, _ROWS.value, _SEEDS.value)
    plan = tables.make_plan(*chosen, assignments, _OVERRIDE.value)
    parallel.initialize(*(flag.value for flag in PROCESSES))
    host.keep_heap()
    tables.run(plan)


def _prepare(config) -> None:
    """Prepares the data of a config. A GPU is not needed."""
    from segjax import config as config_lib
    from segjax import data, health

    config_lib.validate(config)
    with health.StopSignal() as stop:
        prepared = data.prepare(config.data, stop.check_preparing)
    counts = ', '.join(f'{split} {count:,}' for split, count in prepared.spec.num_examples.items())
    print(f'prepared: {prepared.folder} ({counts} examples)', flush=True)


def _dispatch_cache(assignments) -> None:
    """Lists the cache, or deletes folders of it. Without a config, $SEGJAX_CACHE says where it is."""
    from segjax import config as config_lib
    from segjax import config_file
    from segjax.data import cache

    if _CONFIG.value or _WORKDIR.value:
        config = _load_config(assignments)
    else:
        config = config_lib.defaults('supervised')
        config_file.assign(config, assignments)
    root = cache.folder(config.data.cache)
    cache.delete(root, _DELETE.value)
    print(cache.describe(root), flush=True)


def main(argv) -> None:
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    from segjax import checkpoints, health, host

    host.raise_open_files()
    try:
        _dispatch(argv[1])
    except health.Preempted as error:
        print(f'preempted: {error}; the same command goes on', file=sys.stderr, flush=True)
        sys.exit(EXIT_PREEMPTED)
    except checkpoints.CheckpointError as error:
        time.sleep(1)  # threads of orbax print what happened to each array; the reason comes last
        _fail(error)
    except (InputError, health.Diverged) as error:
        _fail(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where, fix = error.filename or f'--workdir {_WORKDIR.value}', 'free disk space or check permissions'
        _fail(InputError(str(where), got=error.strerror, expected='a place to write to', fix=fix))


def run() -> None:
    # A second start of the same program skips compilation; set before jax is imported.
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path('~/.cache/segjax/jax').expanduser()))
    app.run(main, flags_parser=_parse_flags)


if __name__ == '__main__':
    run()
