"""Flags and dispatch of the command line.

python -m segjax.main --config configs/supervised.py:quick --workdir runs/first

Exit codes: 0 finished, 1 wrong input or a failed run (the reason is printed last), 75 preempted
(the state was saved, and the same command resumes).
"""

import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from segjax.core import paths
from segjax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_WRONG, InputError, unknown_name

# --- flags ----------------------------------------------------------------------------------------


Flags = dict[str, tuple[Any, str]]
"""{name: (default, meaning)}. The type of the default is the type of the flag."""

COMMON: Flags = {
    'config': ('', 'Config file, file.py:variant,key=value; without it, that of --workdir'),
    'workdir': ('', 'Run folder: checkpoints, logs, pictures, report.html'),
    'mode': (
        'train',
        'train, evaluate, predict, export, compare, audit, config, doctor, bench, table, prepare '
        'or cache',
    ),
}
PREDICT: Flags = {
    'input': ('', 'folder of images, an image, a video, or a JSON list of examples'),
    'pack': (
        '',
        'also a ZIP file for a server: cityscapes, ade20k or bdd100k, as NAME or NAME:SPLIT',
    ),
}
OUTPUT: Flags = {
    'output': (
        '',
        'folder for the results: label maps and colours, compare.html, audit.html, or a program',
    ),
    'stage': ('', 'name of the stage; without it, the last stage that can predict'),
}
EXPORT: Flags = {
    'formats': ('stablehlo', 'what to write, separated by commas: stablehlo, safetensors, onnx'),
    'platforms': ('cpu,cuda,tpu', 'platforms of the program, separated by commas'),
    'batch': ('any', 'number of examples of a call, or any'),
}
COMPARE: Flags = {
    'runs': ('', 'folders of finished runs, separated by commas; FOLDER:STAGE names a stage'),
    'names': ('', 'names of the runs, separated by commas; without it, those of the folders'),
    'pictures': (8, 'number of images to show'),
}
AUDIT: Flags = {
    'members': ('', 'training images: a file of names, a CSV of name and member, or a split'),
    'nonmembers': ('', 'further images: a file of names, or a split'),
    'posteriors': ('', 'folder of saved posteriors, in place of a run'),
    'shadow': ('', 'runs of shadow nets, or folders of their posteriors, separated by commas'),
}
CHECKPOINT: Flags = {'checkpoint': ('last', 'last or best')}
TRAIN: Flags = {'extend': (False, 'allow more steps than planned, in the same run folder')}
TABLE: Flags = {
    'table': ('', 'file with the rows of a table'),
    'scale': ('quick', 'name of a scale in the file'),
    'rows': ('', 'regular expression for the rows to train; without it, all rows'),
    'seeds': ('', 'as 0,1,2; without it, the seeds of the scale'),
    'override': ([], 'ROWS:section.key=value, a key for rows that match ROWS; repeatable'),
}
CACHE: Flags = {'delete': ([], 'name of the prepared data to delete; repeatable')}
PROCESSES: Flags = {
    'distributed': (False, 'Find the other processes through SLURM or TPU metadata'),
    'coordinator': ('', 'host:port of process 0, for several processes by hand'),
    'num_processes': (1, 'With --coordinator'),
    'process_id': (0, 'With --coordinator'),
}
OF_RUNS = ('evaluate', 'predict', 'audit', 'export')
"""Modes that need the folder of a run."""
GROUPS = (
    ((), COMMON),
    (('predict',), PREDICT),
    (('predict', 'compare', 'audit', 'export'), OUTPUT),
    (('export',), EXPORT),
    (('compare',), COMPARE),
    (('audit',), AUDIT),
    (OF_RUNS, CHECKPOINT),
    (('train',), TRAIN),
    (('table',), TABLE),
    (('cache',), CACHE),
    ((), PROCESSES),
)
"""Flags with the modes that read them, () for all modes, in the order of --help."""

EXAMPLES = {
    'config': 'configs/supervised.py:quick',
    'workdir': 'runs/first',
    'mode': 'train',
    'input': 'photos',
    'pack': 'cityscapes:val',
    'output': 'labelled',
    'stage': 'segmentation',
    'formats': 'stablehlo',
    'platforms': 'cpu,cuda,tpu',
    'batch': 'any',
    'runs': 'runs/first,runs/second',
    'names': 'first,second',
    'pictures': '8',
    'members': 'members.txt',
    'nonmembers': 'nonmembers.txt',
    'posteriors': 'saved',
    'shadow': 'runs/shadow_0,runs/shadow_1',
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
"""Values that flags may have, for errors. '' for flags without a value."""

DEFINE: dict[type, Callable] = {
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    list: flags.DEFINE_multi_string,
}
"""Functions that define a flag, by the type of its default."""

CHECKPOINTS = ('last', 'best')

HELP = """\
usage: python -m segjax.main --config FILE.py[:VARIANT,KEY=VALUE] --workdir FOLDER
                             [--config.SECTION.KEY=X]

  --config configs/supervised.py:quick --workdir runs/first     train, or resume the run
  --workdir runs/first --mode evaluate                          a run folder knows its config
  --workdir runs/first --mode predict --input photos --output labelled
  --workdir runs/first --mode export --output exported          a program that needs no segjax
  --mode compare --runs runs/a,runs/b --output compared         compare finished runs
  --workdir runs/first --mode audit --output audited            what the net leaks of its data
  --config configs/supervised.py:quick --mode config            print keys, values and meanings
  --config configs/supervised.py:quick --mode doctor            check data and config
  --config configs/supervised.py:quick --mode prepare           only prepare the data
  --mode cache [--delete NAME]                                  list or delete prepared data
  --mode table --table configs/tables/FILE.py --workdir runs/t  make the table of a paper

Config keys with meanings: --mode config, docs/config.md. Variants: docstring of the config file.
Exit codes: 0 finished, 1 wrong input or a failed run, 75 told to stop by SIGTERM and saved: start
the same command again to resume.
"""


def _define_flags() -> tuple[flags.FlagHolder, ...]:
    """Defines all flags. The help of a flag begins with the modes that read it."""
    holders = []
    for modes, group in GROUPS:
        prefix = f'--mode {" and ".join(modes)}: ' if modes else ''
        for name, (default, meaning) in group.items():
            define = DEFINE[type(default)]
            holders.append(define(name, default, prefix + meaning))
    return tuple(holders)


FLAGS = _define_flags()
given = flags.FLAGS
"""The values on the command line: `given.workdir`."""


def help_text() -> str:
    """Returns the usage, and every flag with its meaning and default."""
    lines = [HELP]
    for flag in FLAGS:
        default = f' ({flag.default})' if flag.default else ''
        lines.append(f'  {"--" + flag.name:16}{given[flag.name].help}{default}')
    return '\n'.join(lines)


def parse_arguments(argv: Sequence[str]) -> list:
    """Parses a command line: fills `given`, and returns its --config.key=value assignments.

    Exits for --help, and for arguments that are no flags.

    Args:
      argv: the program and its arguments.
    """
    if set(argv[1:]) & {'-h', '--help', '--helpshort', '--helpfull'}:
        print(help_text())
        sys.exit(0)
    from segjax.config import config_file

    rest, assignments = config_file.split_arguments(argv)
    try:
        _check_repeated(rest)
        _check_values(rest)
        _check_surplus(given(rest)[1:])
    except flags.UnrecognizedFlagError as error:
        _fail(unknown_name('command line', error.flagname, [flag.name for flag in FLAGS]))
    except flags.Error as error:  # of a flag that absl defines
        name = re.search(r'flag -*(\w+)', str(error))
        fix = f'leave --{name[1]} out' if name else 'leave that flag out'
        expected = 'flags with a value of their type'
        _fail(InputError('command line', got=str(error), expected=expected, fix=fix))
    except InputError as error:
        _fail(error)
    return assignments


def _check_repeated(argv: Sequence[str]) -> None:
    """Raises InputError for a repeated flag with a single value. absl would use the last value."""
    names = [word.lstrip('-').partition('=')[0] for word in argv[1:] if word.startswith('--')]
    for flag in FLAGS:
        if names.count(flag.name) > 1 and not isinstance(flag.default, list):
            got = f'--{flag.name} {names.count(flag.name)} times'
            fix = f'keep one --{flag.name}'
            raise InputError('command line', got=got, expected='each flag once', fix=fix)


def _check_values(argv: Sequence[str]) -> None:
    """Raises InputError for a flag without a value, or with a value of another type."""
    waiting = list(argv[1:])
    while waiting:
        word = waiting.pop(0)
        if word == '--':
            return
        name, equals, value = word.lstrip('-').partition('=')
        if not word.startswith('-') or name not in EXAMPLES:
            continue
        if not equals:
            if given[name].boolean:
                continue
            if not waiting or waiting[0].startswith('--'):
                got = 'no value' + (f': {waiting[0]!r} follows' if waiting else '')
                raise _wrong_value(name, got, given[name].help)
            value = waiting.pop(0)
        _check_type(name, value)


def _check_type(name: str, value: str) -> None:
    """Raises InputError for a value that has another type than its flag."""
    flag = given[name]
    try:
        flag.parser.parse(value)
    except (ValueError, TypeError):
        kind = 'true or false' if flag.boolean else 'a whole number'
        raise _wrong_value(name, repr(value), f'{kind}: {flag.help}') from None


def _wrong_value(name: str, got: str, expected: str) -> InputError:
    """Returns the error for the value of a flag. Its fix is the flag with an example."""
    fix = f'--{name} {EXAMPLES[name]}'.strip()
    return InputError(f'--{name}', got=got, expected=expected, fix=fix)


def _check_surplus(words: Sequence[str]) -> None:
    """Raises InputError for words that belong to no flag."""
    if words:
        surplus = ' '.join(words)
        raise InputError(
            'command line',
            got=surplus,
            expected='flags only, as --workdir runs/first',
            fix=f'leave {surplus} out, or put a flag before it',
        )


def _fail(error: Exception) -> None:
    print(f'error: {error}', file=sys.stderr, flush=True)
    sys.exit(EXIT_WRONG)


# --- checks of the flags of a mode ----------------------------------------------------------------


def _check_flags() -> None:
    """Raises InputError for flags that do not fit the mode, and for flags that the mode lacks."""
    if given.mode not in MODES:
        raise unknown_name('--mode', given.mode, MODES)
    for name in ('config', 'workdir', 'input', 'output', 'table', 'posteriors', 'members'):
        paths.local(f'--{name}', given[name].value)
    _check_flags_of_modes()
    if given.mode == 'table':
        _check_table_flags()
    # A comparison writes to --output and has no run folder of its own.
    if given.mode == 'compare':
        _check_compare_flags()
        return
    if given.checkpoint not in CHECKPOINTS:
        raise unknown_name('--checkpoint', given.checkpoint, CHECKPOINTS)
    if given.mode in ('config', 'doctor', 'prepare', 'cache'):
        return
    if given.mode == 'audit' and given.posteriors:
        _check_saved_flags()
        return
    if not given.workdir:
        begins = given.mode in ('train', 'bench') and not given.config
        fix = '--config configs/supervised.py:quick ' * begins + '--workdir runs/first'
        raise InputError('--workdir', got='nothing', expected='a folder for this run', fix=fix)
    needed = {'predict': ('input', 'output'), 'audit': ('output',), 'export': ('output',)}
    _check_folders(needed.get(given.mode, ()))


def _check_folders(names: Sequence[str]) -> None:
    """Raises InputError for a missing folder. The folder --output must be writable."""
    for name in names:
        if not given[name].value:
            raise _wrong_value(name, 'nothing', 'a folder')
    if 'output' in names:
        paths.check_writable('--output', paths.local('--output', given.output).absolute())


def _check_saved_flags() -> None:
    """Raises InputError for an audit of saved posteriors with flags of a run, or without lists."""
    for name in ('config', 'workdir', 'stage', 'checkpoint'):
        if given[name].present and given[name].value:
            expected = 'none: --posteriors names a folder of posteriors, not a run'
            fix = f'leave --{name} out, or leave --posteriors out'
            raise InputError(f'--{name}', got=given[name].value, expected=expected, fix=fix)
    if not given.members:
        raise _wrong_value('members', 'nothing', given['members'].help)
    _check_folders(('output',))


def _check_flags_of_modes() -> None:
    """Raises InputError for a flag that the mode would not read."""
    for modes, group in GROUPS:
        for name in group:
            if modes and given[name].present and given.mode not in modes:
                expected = ' or '.join(f'--mode {mode}' for mode in modes)
                fix = f'--mode {modes[0]}, or leave --{name} out'
                raise InputError(
                    f'--{name}', got=f'--mode {given.mode}', expected=expected, fix=fix
                )


def _check_table_flags() -> None:
    """Raises InputError for a table without a file, or with a config."""
    if not given.table:
        raise _wrong_value('table', 'nothing', 'a table file')
    if given.config:
        raise InputError(
            '--config',
            got=given.config,
            expected='none: the rows name their configs',
            fix='leave --config out; --config.section.key=value holds for every row',
        )


def _check_compare_flags() -> None:
    """Raises InputError for a comparison without runs or output, or with a config or a folder."""
    for name in ('config', 'workdir'):
        if given[name].value:
            fix = f'leave --{name} out, and name the runs: --runs {EXAMPLES["runs"]}'
            expected = 'none: each run knows its config'
            raise InputError(f'--{name}', got=given[name].value, expected=expected, fix=fix)
    for name in ('runs', 'output'):
        if not given[name].value:
            raise _wrong_value(name, 'nothing', given[name].help)
    paths.check_writable('--output', paths.local('--output', given.output).absolute())


# --- modes ----------------------------------------------------------------------------------------
# Imports stand inside the functions: --help and unknown flags answer without loading jax.


def _no_config(workdir, file: str) -> InputError:
    """Returns the error for neither --config nor a folder with the config `file` of a run."""
    if not given.workdir or given.mode not in OF_RUNS:
        return InputError(
            '--config',
            got=f'nothing, and no run in {workdir}' if given.workdir else 'nothing',
            expected='a config file, as configs/supervised.py:quick',
            fix=f'--config {EXAMPLES["config"]}, or the --workdir of an earlier run',
        )
    # The folder of a stage or of its checkpoints lies in that of its run.
    run = next((path for path in workdir.parents if (path / file).exists()), None)
    kind = f'without {file}' if workdir.exists() else 'which does not exist'
    return InputError(
        '--workdir',
        got=f'{workdir}, {kind}',
        expected=f'the folder of a run, for --mode {given.mode}',
        fix=f'--workdir {run}' if run else 'the --workdir with which the run was trained',
    )


def _load_config(assignments):
    """Returns the config of --config, else of the run folder --workdir, with assigned keys."""
    from segjax import config
    from segjax.config import config_file
    from segjax.train import stored

    workdir = paths.local('--workdir', given.workdir)
    if given.config:
        loaded = config_file.load(given.config)
    elif given.workdir and (workdir / stored.CONFIG).exists():
        loaded = config.from_json(stored.read_config(workdir / stored.CONFIG))
    else:
        raise _no_config(workdir, stored.CONFIG)
    config_file.assign(loaded, assignments)
    return loaded


def _join_processes() -> None:
    """Joins the processes of the run, before anything touches a device."""
    from segjax.core import host, parallel

    parallel.initialize(given.distributed, given.coordinator, given.num_processes, given.process_id)
    host.keep_heap()


def run_train(assignments) -> None:
    """Trains, or resumes the run in --workdir."""
    config = _load_config(assignments)
    from segjax.train import driver

    _join_processes()
    driver.train(config, given.workdir, extend=given.extend)


def run_evaluate(assignments) -> None:
    """Scores a checkpoint."""
    config = _load_config(assignments)
    from segjax.train import driver

    _join_processes()
    driver.evaluate(config, given.workdir, given.checkpoint)


def run_predict(assignments) -> None:
    """Predicts images, a video, or examples of a list."""
    config = _load_config(assignments)
    from segjax.modes import predict

    _join_processes()
    source = str(paths.local('--input', given.input))
    target = str(paths.local('--output', given.output))
    predict.main(config, given.workdir, source, target, given.checkpoint, given.stage, given.pack)


def run_export(assignments) -> None:
    """Writes the prediction of a stage as files that need no segjax."""
    config = _load_config(assignments)
    from segjax.modes import export

    _join_processes()
    export.main(
        config,
        given.workdir,
        str(paths.local('--output', given.output)),
        given.checkpoint,
        given.stage,
        given.formats,
        given.platforms,
        given.batch,
    )


def run_compare(assignments) -> None:
    """Compares finished runs on one page."""
    from segjax.modes import compare

    _join_processes()
    target = str(paths.local('--output', given.output))
    compare.main(given.runs, given.names, given.stage, target, given.pictures, assignments)


def run_audit(assignments) -> None:
    """Measures how much a net leaks about its training images."""
    from segjax.modes import audit

    if given.posteriors and assignments:
        key = assignments[0].key
        expected = 'no config keys: --posteriors names no run'
        fix = f'leave --config.{key} out'
        raise InputError(f'--config.{key}', got='a config key', expected=expected, fix=fix)
    config = None if given.posteriors else _load_config(assignments)
    _join_processes()
    order = audit.Order(
        workdir=given.workdir,
        stage=given.stage,
        checkpoint=given.checkpoint,
        posteriors=given.posteriors,
        members=given.members,
        nonmembers=given.nonmembers,
        shadow=given.shadow,
        output=str(paths.local('--output', given.output)),
    )
    audit.main(config, order, assignments)


def run_config(assignments) -> None:
    """Prints the config with the meaning of every key."""
    config = _load_config(assignments)
    from segjax.modes import config as config_mode

    config_mode.main(config)


def run_doctor(assignments) -> None:
    """Checks data and config, and exits with 1 if anything is wrong."""
    config = _load_config(assignments)
    from segjax.modes import doctor

    sys.exit(doctor.main(config, given.workdir))


def run_bench(assignments) -> None:
    """Measures the speed of the variants of a config."""
    config = _load_config(assignments)
    from segjax.modes import bench

    _join_processes()
    bench.main(config, given.workdir)


def run_table(assignments) -> None:
    """Trains the rows of a paper's table, and compares them."""
    from segjax.modes import table

    plan = table.make_table_plan(
        given.table,
        given.scale,
        given.workdir,
        given.rows,
        given.seeds,
        assignments,
        given.override,
    )
    _join_processes()
    table.run_table(plan)


def run_prepare(assignments) -> None:
    """Prepares the data of a config, and the derived features of its stages. Needs no GPU."""
    config = _load_config(assignments)
    from segjax import config as config_lib
    from segjax.train import data_sets, features
    from segjax.train.stop import StopSignal

    config_lib.validate(config)
    with StopSignal() as stop:
        datasets = data_sets.prepare(config, stop.check_preparing)
        folders = features.prepare(config, datasets, stop.check_preparing)
    for prepared in {each.folder: each for each in datasets.values()}.values():
        numbers = prepared.spec.num_examples.items()
        counts = ', '.join(f'{split} {count:,}' for split, count in numbers)
        print(f'prepared: {prepared.folder} ({counts} examples)', flush=True)
    for folder in folders:
        print(f'prepared: {folder}', flush=True)


def run_cache(assignments) -> None:
    """Lists the cache, or deletes folders of it. Without a config, $SEGJAX_CACHE names it."""
    from segjax import config as config_lib
    from segjax.config import config_file
    from segjax.data import cache

    if given.config or given.workdir:
        config = _load_config(assignments)
    else:
        config = config_lib.defaults('supervised')
        config_file.assign(config, assignments)
    root = cache.folder(config.data.cache)
    if root.exists():
        cache.check_place(config.data.cache)
    cache.delete(root, given.delete)
    print(cache.describe(root), flush=True)


MODES = {
    'train': run_train,
    'evaluate': run_evaluate,
    'predict': run_predict,
    'export': run_export,
    'compare': run_compare,
    'audit': run_audit,
    'config': run_config,
    'doctor': run_doctor,
    'bench': run_bench,
    'table': run_table,
    'prepare': run_prepare,
    'cache': run_cache,
}


# --- the program ----------------------------------------------------------------------------------


def main(assignments, argv: Sequence[str] = ()) -> None:
    """Runs a mode, and turns errors into messages and exit codes.

    Args:
      assignments: from `parse_arguments`.
      argv: not used. absl passes the program.
    """
    del argv
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without a score
    from segjax.core import host, processes
    from segjax.train import checkpoints
    from segjax.train.stop import Preempted, PreemptedAlone

    host.raise_open_files()
    try:
        _check_flags()
        MODES[given.mode](assignments)
    except PreemptedAlone as error:
        _end(f'preempted: {error}; the same command resumes', EXIT_PREEMPTED)
    except Preempted as error:
        print(f'preempted: {error}; the same command resumes', file=sys.stderr, flush=True)
        sys.exit(EXIT_PREEMPTED)
    except KeyboardInterrupt:
        message = 'interrupted; the same command resumes from the newest checkpoint'
        _end(message, EXIT_INTERRUPTED)
    except Exception as error:
        if isinstance(error, checkpoints.CheckpointError):
            # Threads of orbax print what happened to each array. The reason must come last.
            time.sleep(1)
        if not isinstance(error, InputError):
            processes.listen()  # another process may know the reason
        _end_with(error)


def _end_with(error: Exception) -> None:
    """Prints an error from outside and exits. Raises any other error again."""
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
    """Returns the flag and folder that a mode writes to, for disk errors that name no file."""
    if given.mode in ('predict', 'export', 'compare', 'audit'):
        return f'--output {given.output}'
    if given.mode in ('prepare', 'cache'):
        return 'prepared data (config.data.cache or $SEGJAX_CACHE)'
    return f'--workdir {given.workdir}'


def _end(message: str, code: int) -> None:
    """Prints a message and exits. The remaining processes of the run learn the reason and exit."""
    from segjax.core import processes

    _drop_closed_output()
    print(message, file=sys.stderr, flush=True)
    processes.leave(code, message)
    sys.exit(code)


def _drop_closed_output() -> None:
    """Discards the standard output if its reader has gone: the interpreter flushes it."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Opens standard streams that the caller has closed: files would get their numbers."""
    for number, name in ((0, 'stdin'), (1, 'stdout'), (2, 'stderr')):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the smallest free number.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, 'w' if number else 'r', closefd=False))


def run() -> None:
    """Parses the command line and runs the program through absl."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold characters that the locale cannot show.
        stream.reconfigure(errors='backslashreplace')
    # A second start of the same program skips compilation. Set this before jax is imported.
    home = os.path.expanduser('~')
    if os.path.isabs(home):
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(home, '.cache/segjax/jax'))
    try:
        app.define_help_flags()
        assignments = parse_arguments(sys.argv)
        app.run(functools.partial(main, assignments), flags_parser=lambda argv: argv[:1])
    except BrokenPipeError:  # while flags are parsed: --help | head -1
        _drop_closed_output()
        sys.exit(EXIT_WRONG)
    except (ImportError, ValueError) as error:
        _fail_at_import(error)
        raise


def _fail_at_import(error: Exception) -> None:
    """Prints an error of the packages around the program and exits. Returns for any other error."""
    if isinstance(error, ImportError) and error.name and error.name.partition('.')[0] != 'segjax':
        fix = (
            'bash launch/local.sh installs them; $PYTHONPATH may name a folder with a file that '
            'hides the package'
        )
        where = f'package {error.name}'
        _fail(InputError(where, got=str(error), expected='those of requirements.txt', fix=fix))
    # jax reads its variables when it is imported.
    variable = re.search(r"^invalid truth value .* for environment '(JAX_\w+)'$", str(error))
    if variable:
        name = variable.group(1)
        fix = f'unset {name}'
        _fail(InputError(f'${name}', got=str(error), expected='true or false', fix=fix))


if __name__ == '__main__':
    run()
