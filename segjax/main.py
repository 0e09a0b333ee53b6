"""Flags and dispatch only: `python -m segjax.main --config configs/supervised.py:quick --workdir runs/first`.

Exit codes: 0 finished, 1 wrong input or a failed run (the reason is the last thing printed), 75 preempted: the state
was saved and the same command goes on.
"""

import os
import re
import sys
import time
import traceback

from absl import app, flags, logging

from segjax.core import paths
from segjax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_WRONG, InputError, unknown_name

CHECKPOINTS = ('last', 'best')
MODES = ('train', 'evaluate', 'predict', 'config', 'doctor', 'bench', 'table', 'prepare', 'cache')
HELP = """usage: python -m segjax.main --config FILE.py[:VARIANT,KEY=VALUE] --workdir FOLDER [--config.SECTION.KEY=X]

  --config configs/supervised.py:quick --workdir runs/first     train, or go on where the run stopped
  --workdir runs/first --mode evaluate                          a run folder knows its config
  --workdir runs/first --mode predict --input photos --output labelled
  --config configs/supervised.py:quick --mode config            print all keys, their values and meanings
  --config configs/supervised.py:quick --mode doctor            check data and config
  --config configs/supervised.py:quick --mode prepare           only prepare the data
  --mode cache [--delete NAME]                                  list prepared data, or delete some
  --mode table --table configs/tables/FILE.py --workdir runs/t  train the rows of a paper's table, and compare

Every config key and its meaning: --mode config, docs/config.md. The variants: the docstring of the config file.
Exit codes: 0 finished, 1 wrong input or a failed run, 75 told to stop by SIGTERM and saved: start it again.
"""

_CONFIG = flags.DEFINE_string(
    'config', '', 'Config file, file.py:variant,key=value; without it, that of --workdir'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', '', 'Run folder: checkpoints, logs, pictures, report.html'
)
_MODE = flags.DEFINE_string('mode', 'train', 'One of ' + ', '.join(MODES))
_INPUT = flags.DEFINE_string('input', '', '--mode predict: folder of images')
_OUTPUT = flags.DEFINE_string(
    'output', '', '--mode predict: folder for label maps, colours and overlays'
)
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'last', '--mode evaluate and predict: last or best')
_EXTEND = flags.DEFINE_bool(
    'extend', False, '--mode train: allow more steps than planned, in the same run folder'
)
_TABLE = flags.DEFINE_string('table', '', '--mode table: file with the rows of a table')
_SCALE = flags.DEFINE_string('scale', 'quick', '--mode table: how large, a name of its scales')
_ROWS = flags.DEFINE_string(
    'rows', '', '--mode table: regular expression for the rows to train; all of them without'
)
_SEEDS = flags.DEFINE_string('seeds', '', '--mode table: as 0,1,2; those of the scale without')
_OVERRIDE = flags.DEFINE_multi_string(
    'override',
    [],
    '--mode table: ROWS:section.key=value, a key for the rows in whose names ROWS is found; repeatable',
)
_DELETE = flags.DEFINE_multi_string(
    'delete', [], '--mode cache: name of the prepared data to delete; repeatable'
)
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Find the other processes through SLURM or TPU metadata'
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', '', 'host:port of process 0, for several processes by hand'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', 1, 'With --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', 0, 'With --coordinator')
FLAGS_OF_MODES = {
    ('table',): (_TABLE, _SCALE, _ROWS, _SEEDS, _OVERRIDE),
    ('predict',): (_INPUT, _OUTPUT),
    ('evaluate', 'predict'): (_CHECKPOINT,),
    ('train',): (_EXTEND,),
    ('cache',): (_DELETE,),
}
PROCESSES = (_DISTRIBUTED, _COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
FLAGS = (
    *(_CONFIG, _WORKDIR, _MODE, _INPUT, _OUTPUT, _CHECKPOINT, _EXTEND),
    *(_TABLE, _SCALE, _ROWS, _SEEDS, _OVERRIDE, _DELETE),
    *PROCESSES,
)
EXAMPLES = {
    'config': 'configs/supervised.py:quick',
    'workdir': 'runs/first',
    'mode': 'train',
    'input': 'photos',
    'output': 'labelled',
    'checkpoint': 'last',
    'extend': '',
    'table': 'configs/tables/noise_cyclegan_table2.py',
    'scale': 'quick',
    'rows': 'base',
    'seeds': '0,1,2',
    'override': 'base:train.batch_size=4',
    'delete': 'NAME',
    'distributed': '',
    'coordinator': 'node1:12345',
    'num_processes': '2',
    'process_id': '0',
}
"""Values that flags may have, for errors; '' for flags without a value."""


def _parse_flags(argv):
    """[program, the --config.key=value assignments]; exits for --help and for anything else that is no flag."""
    if set(argv[1:]) & {'-h', '--help', '--helpshort', '--helpfull'}:
        print(help_text())
        sys.exit(0)
    from segjax.config import config_file

    rest, assignments = config_file.split_arguments(argv)
    try:
        _check_repeated(rest)
        _check_values(rest)
        surplus = flags.FLAGS(rest)[1:]
        if surplus:
            fix = f'leave {" ".join(surplus)} out, or put a flag before it'
            raise InputError(
                'command line',
                got=' '.join(surplus),
                expected='flags only, as --workdir runs/first',
                fix=fix,
            )
    except flags.UnrecognizedFlagError as error:
        _fail(unknown_name('command line', error.flagname, [flag.name for flag in FLAGS]))
    except flags.Error as error:  # of a flag that is absl's own
        name = re.search(r'flag -*(\w+)', str(error))
        fix = f'leave --{name[1]} out' if name else 'leave that flag out'
        _fail(
            InputError(
                'command line', got=str(error), expected='flags with a value of their type', fix=fix
            )
        )
    except InputError as error:
        _fail(error)
    return [argv[0], assignments]


def _check_repeated(argv) -> None:
    """Raises InputError for a flag that is given twice with one value each, of which absl takes the last."""
    names = [word.lstrip('-').partition('=')[0] for word in argv[1:] if word.startswith('--')]
    for flag in FLAGS:
        if names.count(flag.name) > 1 and flag.name not in (_OVERRIDE.name, _DELETE.name):
            got = f'--{flag.name} {names.count(flag.name)} times'
            raise InputError(
                'command line', got=got, expected='each flag once', fix=f'keep one --{flag.name}'
            )


def _check_values(argv) -> None:
    """Raises InputError for a flag without a value, or with a value of another type."""
    waiting = list(argv[1:])
    while waiting:
        word = waiting.pop(0)
        if word == '--':
            return
        name, equals, value = word.lstrip('-').partition('=')
        if not word.startswith('-') or name not in EXAMPLES:
            continue
        flag, example = flags.FLAGS[name], f'--{name} {EXAMPLES[name]}'.strip()
        if flag.boolean and not equals:
            continue
        if not equals:
            if not waiting or waiting[0].startswith('--'):
                got = 'no value' + (f': {waiting[0]!r} follows' if waiting else '')
                raise InputError(f'--{name}', got=got, expected=flag.help, fix=example)
            value = waiting.pop(0)
        try:
            flag.parser.parse(value)
        except (ValueError, TypeError):
            kind = 'true or false' if flag.boolean else 'a whole number'
            raise InputError(
                f'--{name}', got=repr(value), expected=f'{kind}: {flag.help}', fix=example
            ) from None


def help_text() -> str:
    """The usage, and every flag with its meaning and default."""
    rows = [(f'--{flag.name}', flags.FLAGS[flag.name].help, flag.default) for flag in FLAGS]
    return (
        HELP
        + '\n'
        + '\n'.join(
            f'  {name:16}{text}' + f' ({default})' * bool(default) for name, text, default in rows
        )
    )


def _fail(error: Exception):
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(EXIT_WRONG)


def _load_config(assignments):
    """The config of --config, or that of the run folder where only --workdir is given, with single keys set."""
    from segjax import config
    from segjax.config import config_file
    from segjax.train import stored

    workdir = paths.local('--workdir', _WORKDIR.value)
    if _CONFIG.value:
        loaded = config_file.load(_CONFIG.value)
    elif _WORKDIR.value and (workdir / 'config.json').exists():
        loaded = config.from_json(stored.read_config(workdir / 'config.json'))
    else:
        raise InputError(
            '--config',
            got=f'nothing, and no run in {workdir}' if _WORKDIR.value else 'nothing',
            expected='a config file, as configs/supervised.py:quick',
            fix=f'--config {EXAMPLES["config"]}, or the --workdir of an earlier run',
        )
    config_file.assign(loaded, assignments)
    return loaded


def _check_flags() -> None:
    if _MODE.value not in MODES:
        raise unknown_name('--mode', _MODE.value, MODES)
    for flag in (_CONFIG, _WORKDIR, _INPUT, _OUTPUT, _TABLE):
        paths.local(f'--{flag.name}', flag.value)
    _check_flags_of_modes()
    if _CHECKPOINT.value not in CHECKPOINTS:
        raise unknown_name('--checkpoint', _CHECKPOINT.value, CHECKPOINTS)
    if _MODE.value in ('config', 'doctor', 'prepare', 'cache'):
        return
    if not _WORKDIR.value:
        begins = _MODE.value in ('train', 'bench') and not _CONFIG.value
        fix = '--config configs/supervised.py:quick ' * begins + '--workdir runs/first'
        raise InputError('--workdir', got='nothing', expected='a folder for this run', fix=fix)
    if _MODE.value == 'predict':
        for flag in (_INPUT, _OUTPUT):
            if not flag.value:
                raise InputError(
                    f'--{flag.name}',
                    got='nothing',
                    expected='a folder',
                    fix=f'--{flag.name} {EXAMPLES[flag.name]}',
                )
        paths.check_writable('--output', paths.local('--output', _OUTPUT.value).absolute())


def _check_flags_of_modes() -> None:
    """Raises InputError for a flag that the mode would not look at, and for what a table needs."""
    for modes, own in FLAGS_OF_MODES.items():
        for flag in own:
            if flags.FLAGS[flag.name].present and _MODE.value not in modes:
                expected = ' or '.join(f'--mode {mode}' for mode in modes)
                fix = f'--mode {modes[0]}, or leave --{flag.name} out'
                raise InputError(
                    f'--{flag.name}', got=f'--mode {_MODE.value}', expected=expected, fix=fix
                )
    if _MODE.value == 'table':
        if not _TABLE.value:
            raise InputError(
                '--table',
                got='nothing',
                expected='a table file',
                fix=f'--table {EXAMPLES["table"]}',
            )
        if _CONFIG.value:
            fix = 'leave --config out; --config.section.key=value holds for every row'
            raise InputError(
                '--config', got=_CONFIG.value, expected='none: the rows name their configs', fix=fix
            )


def _dispatch(assignments) -> None:
    _check_flags()
    if _MODE.value == 'table':
        _dispatch_table(assignments)
        return
    if _MODE.value == 'cache':
        _dispatch_cache(assignments)
        return
    config = _load_config(assignments)
    if _MODE.value == 'config':
        from segjax.modes import config as config_mode

        config_mode.main(config)
        return
    if _MODE.value == 'prepare':
        _prepare(config)
        return
    if _MODE.value == 'doctor':
        from segjax.modes import doctor

        sys.exit(doctor.main(config, _WORKDIR.value))
    from segjax.core import host, parallel
    from segjax.modes import bench, predict
    from segjax.train import driver

    parallel.initialize(*(flag.value for flag in PROCESSES))
    host.keep_heap()
    if _MODE.value == 'train':
        driver.train(config, _WORKDIR.value, extend=_EXTEND.value)
    elif _MODE.value == 'evaluate':
        driver.evaluate(config, _WORKDIR.value, _CHECKPOINT.value)
    elif _MODE.value == 'predict':
        folders = [str(paths.local(f'--{flag.name}', flag.value)) for flag in (_INPUT, _OUTPUT)]
        predict.main(config, _WORKDIR.value, *folders, _CHECKPOINT.value)
    else:
        bench.main(config, _WORKDIR.value)


def _dispatch_table(assignments) -> None:
    from segjax.core import host, parallel
    from segjax.modes import table

    chosen = (_TABLE.value, _SCALE.value, _WORKDIR.value, _ROWS.value, _SEEDS.value)
    plan = table.make_table_plan(*chosen, assignments, _OVERRIDE.value)
    parallel.initialize(*(flag.value for flag in PROCESSES))
    host.keep_heap()
    table.run_table(plan)


def _prepare(config) -> None:
    """Prepares the data of a config. A GPU is not needed."""
    from segjax import config as config_lib
    from segjax import data
    from segjax.train.stop import StopSignal

    config_lib.validate(config)
    with StopSignal() as stop:
        prepared = data.prepare(config.data, stop.check_preparing)
    counts = ', '.join(f'{split} {count:,}' for split, count in prepared.spec.num_examples.items())
    print(f'prepared: {prepared.folder} ({counts} examples)', flush=True)


def _dispatch_cache(assignments) -> None:
    """Lists the cache, or deletes folders of it. Without a config, $SEGJAX_CACHE says where it is."""
    from segjax import config as config_lib
    from segjax.config import config_file
    from segjax.data import cache

    if _CONFIG.value or _WORKDIR.value:
        config = _load_config(assignments)
    else:
        config = config_lib.defaults('supervised')
        config_file.assign(config, assignments)
    root = cache.folder(config.data.cache)
    if root.exists():
        cache.check_place(config.data.cache)
    cache.delete(root, _DELETE.value)
    print(cache.describe(root), flush=True)


def main(argv) -> None:
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    from segjax.core import host, processes
    from segjax.train import checkpoints
    from segjax.train.stop import Preempted, PreemptedAlone

    host.raise_open_files()
    try:
        _dispatch(argv[1])
    except PreemptedAlone as error:
        _end(f'preempted: {error}; the same command goes on', EXIT_PREEMPTED)
    except Preempted as error:
        print(f'preempted: {error}; the same command goes on', file=sys.stderr, flush=True)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        _end('interrupted; the same command goes on from the newest checkpoint', EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, checkpoints.CheckpointError):
            time.sleep(
                1
            )  # threads of orbax print what happened to each array; the reason comes last
        if not isinstance(error, InputError):
            processes.listen()  # another process may know the reason
        _end_with(error)


def _end_with(error: Exception) -> None:
    """Prints an error from outside and exits; raises any other error again."""
    from segjax.core import processes
    from segjax.train import failures

    message = failures.explained(error, _written_place())
    if message is not None:
        _end(f'error: {message}', EXIT_WRONG)
    if processes.joined():
        traceback.print_exception(error)
        processes.leave(EXIT_WRONG, f'{type(error).__name__}: {error}')
    raise error


def _written_place() -> str:
    """Returns what a mode writes to, for errors of the disk that name no file."""
    if _MODE.value == 'predict':
        return f'--output {_OUTPUT.value}'
    if _MODE.value in ('prepare', 'cache'):
        return 'prepared data (config.data.cache or $SEGJAX_CACHE)'
    return f'--workdir {_WORKDIR.value}'


def _end(message: str, code: int) -> None:
    """Prints a message and exits; the remaining processes of the run learn the reason and exit, too."""
    from segjax.core import processes

    _drop_closed_output()
    print(message, file=sys.stderr, flush=True)
    processes.leave(code, message)
    sys.exit(code)


def _drop_closed_output() -> None:
    """Directs the standard output to nowhere if its reader has gone: the interpreter writes to it at its end."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Opens the output and error streams that the caller has closed: files would get their numbers."""
    for number, name in ((0, 'stdin'), (1, 'stdout'), (2, 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest free number
            setattr(sys, name, os.fdopen(number, 'w' if number else 'r', closefd=False))


def run() -> None:
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='backslashreplace')  # names of files that the locale cannot show
    # A second start of the same program skips compilation; set before jax is imported.
    home = os.path.expanduser('~')
    if os.path.isabs(home):
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(home, '.cache/segjax/jax'))
    try:
        app.run(main, flags_parser=_parse_flags)
    except BrokenPipeError:  # while flags are parsed: --help | head -1
        _drop_closed_output()
        sys.exit(EXIT_WRONG)
    except (ImportError, ValueError) as error:
        _fail_at_import(error)
        raise


def _fail_at_import(error: Exception) -> None:
    """Prints an error of the packages around the program and exits; returns for any other error."""
    if isinstance(error, ImportError) and error.name and error.name.partition('.')[0] != 'segjax':
        fix = 'bash launch/local.sh installs them; $PYTHONPATH may name a folder with a file that hides the package'
        _fail(
            InputError(
                f'package {error.name}',
                got=str(error),
                expected='those of requirements.txt',
                fix=fix,
            )
        )
    # jax reads its variables when it is imported.
    variable = re.search(r"^invalid truth value .* for environment '(JAX_\w+)'$", str(error))
    if variable:
        fix = f'unset {variable.group(1)}'
        _fail(
            InputError(f'${variable.group(1)}', got=str(error), expected='true or false', fix=fix)
        )


if __name__ == '__main__':
    run()
