"""The command line from outside: a mistake gets a message and exit code 1 before a compilation."""

import errno
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import compiler
import cv2
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags

from segjax import main

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
SMOKE = f'{REPOSITORY}/configs/supervised.py:smoke'
STEPS = 6  # the same in all runs: another number is another schedule, and compiles again
ENVIRONMENT = {**os.environ, 'XLA_FLAGS': compiler.QUICKLY, 'PYTHONPATH': str(REPOSITORY)}


def start(*arguments, **kwargs):
    command = [sys.executable, '-m', 'segjax.main', *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def run(*arguments, code=0, **kwargs):
    """Runs a process of its own. Returns its stdout and stderr."""
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (arguments, out[-1000:], err[-3000:])
    return out, err


def assert_message(err: str, *fragments: str):
    """Checks that stderr ends with a message and holds no traceback. Returns the message."""
    assert 'Traceback' not in err
    message = err[err.index('error: ') :]
    for fragment in fragments:
        assert fragment in message, message
    return message


@pytest.fixture
def call(capsys, monkeypatch):
    """Returns a function that runs main in this process, but fails before a training.

    It returns exit code, stdout and stderr.
    """

    def call(*arguments):
        # Training and evaluating map their steps here, before anything compiles.
        monkeypatch.setattr(
            'segjax.train.driver.map_functions',
            lambda *_: pytest.fail('a wrong input came through'),
        )
        for flag in main.FLAGS:
            flags.FLAGS[flag.name].unparse()
        code = 0
        try:
            main.main(main.parse_arguments(['segjax.main', *map(str, arguments)]))
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


# --- what is wrong with the command line ----------------------------------------------------------


WRONG = [
    (
        ['--config', SMOKE, '--config.optim.learning_rat=1'],
        ['--config.optim.learning_rat', "'learning_rate'?"],
    ),
    (
        ['--config', f'{REPOSITORY}/configs/supervised.py:quik'],
        ['--config file.py:<variant>', "did you mean 'quick'?"],
    ),
    (
        ['--config', SMOKE, '--config.data.name=street'],
        ['config.data.name', "did you mean 'streets'?"],
    ),
]


@pytest.mark.parametrize('arguments, fragments', WRONG, ids=['key', 'variant', 'data set'])
def test_wrong_input(call, tmp_path, arguments, fragments):
    code, out, err = call(*arguments, '--workdir', tmp_path / 'run')
    message = assert_message(err, 'got:', 'expected:', *fragments)
    assert code == 1 and err.strip().endswith(message.strip()) and not out
    assert not (tmp_path / 'run').exists(), 'a wrong command leaves nothing behind'


def test_wrong_input_from_outside(tmp_path):
    arguments, fragments = WRONG[-1]
    out, err = run(*arguments, '--workdir', tmp_path / 'run', code=1)
    message = assert_message(err, 'got:', 'expected:', *fragments)
    assert err.strip().endswith(message.strip()) and not out
    assert not (tmp_path / 'run').exists(), 'a wrong command leaves nothing behind'


@pytest.mark.parametrize(
    'arguments, fragments',
    [
        (['--config.optm.learning_rate=1'], ['--config.optm', "did you mean 'optim'?"]),
        (['--config.optim.lrr=1'], ['--config.optim.lrr', 'learning_rate']),
        (
            ['--config.optim.learning_rate=abc'],
            ['--config.optim.learning_rate', "'abc'", 'a number', '0.0005'],
        ),
        (['--config.train.num_steps=1.5'], ['--config.train.num_steps', "'1.5'", 'a whole number']),
        (['--config.train.num_steps=-1'], ['config.train.num_steps', '-1', '>= 0']),
        (['--config.optim.nesterov=maybe'], ["'maybe'", 'true or false']),
        (['--config.augment.crop=64'], ["--config.augment.crop='(32, 64)'"]),
        (['--config.augment.crop=(64,64'], ["'(64,64'", 'a tuple']),
        (['--config.augment=strong'], ['a whole section', 'brightness']),
        (['--config.augment.flip.x=1'], ['--config.augment.flip', 'no section']),
        (['--config.optim.learning_rate'], ['--config.optim.learning_rate', 'nothing']),
        (['--config.model.name=erfnett'], ["did you mean 'erfnet'?"]),
        (['--config.train.batch_size=0'], ['config.train.batch_size', '>= 1']),
        (['--config.data.train_split=tain'], ["'tain'", "did you mean 'train'?"]),
        (['--config.pipeline=superwised'], ["did you mean 'supervised'?"]),
        (['--mode', 'trian'], ['--mode', "did you mean 'train'?"]),
        (['--mode', 'evaluate'], ['no checkpoint', 'train first']),
        (['--mode', 'predict'], ['--input', 'nothing']),
        (['--mode', 'predict', '--input', '.'], ['--output', 'nothing']),
        (
            ['--mode', 'predict', '--input', '/no/such', '--output', 'out'],
            ['--input', '/no/such', 'existing folder'],
        ),
        (['--workdir', ''], ['--workdir', 'nothing']),
        (['--workdir', __file__], [__file__]),
        (['--workdri=x'], ['command line', "did you mean 'workdir'?"]),
        (['--mode=evaluate', '--checkpoint=newest'], ['--checkpoint', "'newest'", 'best, last']),
        (['--mode=evaluate', '--checkpoint=bset'], ['--checkpoint', "did you mean 'best'?"]),
        (
            ['--checkpoint=best'],
            ['--checkpoint', '--mode train', '--mode evaluate or --mode predict'],
        ),
        (['--mode=evaluate', '--output=out'], ['--output', '--mode evaluate', '--mode predict']),
        (['--mode=doctor', '--extend'], ['--extend', '--mode doctor', '--mode train']),
        (['--extend'], ['--extend', 'no checkpoint in', 'leave --extend out']),
        (['--mode=train', '--mode=doctor'], ['--mode 2 times', 'keep one --mode']),
        (
            ['--process_id=two'],
            ['--process_id', "'two'", 'a whole number', 'fix:      --process_id 0'],
        ),
        (
            ['--num_processes', '1.5'],
            ['--num_processes', "'1.5'", 'a whole number', 'fix:      --num_processes 2'],
        ),
        (['--extend=maybe'], ['--extend', "'maybe'", 'true or false', 'fix:      --extend']),
        (['--rows'], ['--rows', 'no value', 'fix:      --rows base']),
        (
            ['--override', '--seeds=0'],
            ['--override', "'--seeds=0' follows", 'fix:      --override base:'],
        ),
        (['--checkpoint'], ['--checkpoint', 'no value', 'fix:      --checkpoint last']),
        (['-checkpoint'], ['--checkpoint', 'no value', 'fix:      --checkpoint last']),
        (['--workdir'], ['--workdir', 'no value', 'fix:      --workdir runs/first']),
        (
            ['--workdir', '--mode', 'train'],
            ['--workdir', "'--mode' follows", 'fix:      --workdir runs/first'],
        ),
        (['--verbosity=abc'], ['--verbosity=abc', 'leave --verbosity out']),
        (['stray'], ['stray', 'flags only']),
        (
            ['--workdir=gs://bucket/run'],
            ['--workdir', 'gs://bucket/run', 'gcsfuse bucket', '--workdir=/mnt/bucket/run'],
        ),
        (
            ['--mode=predict', '--input=s3://b/x', '--output=o'],
            ['--input', 's3://b/x', 'mount-s3', '--input=/mnt/b/x'],
        ),
        (
            ['--mode=predict', '--input=.', '--output=gs://b/x'],
            ['--output', 'gs://b/x', '--output=/mnt/b/x'],
        ),
        (
            ['--config.data.cache=hdfs://b/x'],
            ['config.data.cache', 'hdfs://b/x', '--config.data.cache=/mnt/b/x'],
        ),
        (
            ['--config.init_from.path=gs://b/x.npz'],
            ['config.init_from.path', '--config.init_from.path=/mnt/b/x.npz'],
        ),
        (['--workdir=~nobody-of-that-name/run'], ['--workdir', 'no home folder']),
        (['--workdir=/dev/null/run'], ['--workdir', '/dev/null, which is a file']),
        (['--coordinator=node', '--num_processes=2'], ['--coordinator', 'node', 'node1:12345']),
    ],
    ids=lambda value: ' '.join(value) if str(value[0]).startswith(('--', 'stray')) else '',
)
def test_wrong_flags_and_keys(call, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    workdir = () if arguments[0].startswith('--workdir') else ('--workdir', 'run')
    code, out, err = call('--config', SMOKE, *workdir, *arguments)
    assert code == 1
    assert_message(err, 'got:', 'expected:', *fragments)
    assert not out and not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'argument, fix',
    [
        ('--config.augment.flip.x=1', '--config.augment.flip=0.5'),
        (
            '--config.bench=1',
            "--config.bench.parts=\"('train', 'evaluate', 'predict', 'input')\"",
        ),
        ('--config.evaluate=1', '--config.evaluate.batch_size=8'),
        ('--config.data.name=cityscapes', '--config.data.root=/data/cityscapes'),
        ('--config.data.name=camvid', '--config.data.root=/data/camvid'),
        ('--checkpoint=best', '--mode evaluate'),
        ('--workdir=/dev/null/run', 'another --workdir, as --workdir=some/folder'),
    ],
)
def test_the_fix_can_be_typed(call, tmp_path, monkeypatch, argument, fix):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('CITYSCAPES_DATASET', raising=False)
    workdir = () if argument.startswith('--workdir') else ('--workdir', 'run')
    code, _, err = call('--config', SMOKE, *workdir, argument)
    assert code == 1
    assert_message(err, f'fix:      {fix}')


@pytest.mark.parametrize(
    'config, fragments',
    [
        ('configs/supervisd.py:quick', ['no file', "did you mean 'supervised.py'?"]),
        ('nowhere/supervised.py', ['no file nowhere/supervised.py', 'no folder nowhere']),
        ('configs/supervised.py:quick,modle=x', ["'modle'", "did you mean 'model'?"]),
        ('configs/supervised.py:quick,augment=strng', ["did you mean 'strong'?"]),
        ('configs/supervised.py:folder', ['config.data.classes', "''"]),
        ('configs/supervised.py:camvid', ['config.data.root', "''"]),
    ],
)
def test_wrong_config_argument(call, tmp_path, monkeypatch, config, fragments):
    monkeypatch.chdir(REPOSITORY)
    code, _, err = call('--config', config, '--workdir', tmp_path / 'run')
    assert code == 1
    assert_message(err, 'got:', 'expected:', *fragments)


def test_a_config_without_a_value(call, tmp_path):
    code, _, err = call('--config', '--workdir', tmp_path / 'run')
    assert code == 1
    assert_message(
        err, '--config', "'--workdir' follows", 'fix:      --config configs/supervised.py:quick'
    )


@pytest.mark.parametrize(
    'arguments, fix',
    [
        (
            ['--table', 'config/tables/learned_dilation_camvd.py'],
            '--table configs/tables/learned_dilation_camvid.py',
        ),
        (
            ['--table', 'configs/table/noise_cyclegan_table2.py'],
            '--table configs/tables/noise_cyclegan_table2.py',
        ),
        (['--table', 'config/tables/mine.py'], '--table configs/tables/noise_cyclegan_table2.py'),
        (
            ['--config', 'config/scene_geometry.py:quick'],
            '--config configs/scene_geometry.py:quick',
        ),
        (['--config', 'config/mine.py:quick'], '--config configs/supervised.py:quick'),
    ],
)
def test_a_misspelled_folder_names_the_file_that_is_meant(
    call, tmp_path, monkeypatch, arguments, fix
):
    monkeypatch.chdir(REPOSITORY)
    mode = ('--mode', 'table') if arguments[0] == '--table' else ()
    code, _, err = call(*mode, *arguments, '--workdir', tmp_path / 'run')
    assert code == 1
    message = assert_message(err, arguments[1].partition(':')[0], f'fix:      {fix}')
    folder = REPOSITORY / 'configs' / ('tables' if mode else '')
    assert all(path.name in message for path in folder.glob('*.py'))
    monkeypatch.chdir(tmp_path)
    _, _, err = call(*mode, *arguments, '--workdir', tmp_path / 'run')
    assert f'fix:      {fix.replace("configs", f"{REPOSITORY}/configs")}' in err


def test_no_config_and_no_run(call, tmp_path):
    for arguments in ([], ['--config.optim.learning_rate=1e-3']):
        code, _, err = call(*arguments, '--workdir', tmp_path)
        assert code == 1
        assert_message(err, '--config', f'no run in {tmp_path}', 'configs/supervised.py:quick')


@pytest.mark.parametrize('mode', ['predict', 'evaluate'])
def test_a_mode_of_runs_without_a_run_asks_for_its_folder(call, tmp_path, mode):
    arguments = ('--mode', mode)
    if mode == 'predict':
        arguments += ('--input', tmp_path, '--output', tmp_path / 'out')
    for folder, words in {'gone': 'does not exist', '.': 'without config.json'}.items():
        code, _, err = call(*arguments, '--workdir', tmp_path / folder)
        assert code == 1
        assert_message(err, '--workdir', words, f'--mode {mode}', 'was trained')
    (tmp_path / 'config.json').write_text('{}')
    _, _, err = call(*arguments, '--workdir', tmp_path / 'segmentation')
    assert_message(err, '--workdir', f'fix:      --workdir {tmp_path}')


def test_the_fix_for_no_arguments_is_a_whole_command(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call()
    assert code == 1
    assert_message(err, '--workdir', '--config configs/supervised.py:quick --workdir runs/first')


@pytest.mark.parametrize(
    'name, content, fragments',
    [
        ('JAX_ENABLE_X64', None, ['$JAX_ENABLE_X64', "'maybe'", 'unset JAX_ENABLE_X64']),
        ('PIL.py', 'x = 1', ['package PIL', 'PIL.py', '$PYTHONPATH']),
    ],
)
def test_an_environment_that_stops_the_imports_is_named(
    tmp_path, monkeypatch, name, content, fragments
):
    if content is None:
        monkeypatch.setitem(ENVIRONMENT, name, 'maybe')
    else:
        (tmp_path / name).write_text(content)
        monkeypatch.setitem(ENVIRONMENT, 'PYTHONPATH', f'{tmp_path}:{REPOSITORY}')
    _, err = run('--config', SMOKE, '--mode', 'doctor', code=1)
    assert_message(err, *fragments)


TABLE = f"""
from segjax.modes.table import Column, Row, Scale, Table

def get_table():
    base = Row('base', 'base', '{SMOKE}')
    rows = (base, Row('wide', 'wide', '{SMOKE}', overrides=('model.width=0.5',)))
    return Table('t', 's', (Column('mIoU', 'mIoU'),), rows, {{'quick': Scale('', (0,))}})
"""


@pytest.mark.parametrize(
    'arguments, fragments',
    [
        ([], ['--table', 'nothing', 'configs/tables']),
        (['--table', 'tabel.py'], ['--table', 'no file', "did you mean 'table.py'?"]),
        (['--table', 'tables/table.py'], ['--table', 'no file', 'no folder']),
        (['--table', 'table.py', '--scale=quik'], ['--scale', "did you mean 'quick'?"]),
        (['--table', 'table.py', '--rows=bass'], ['--rows', "'bass'", 'fix:      --rows base']),
        (['--table', 'table.py', '--rows=wied'], ['--rows', 'base, wide', 'fix:      --rows wide']),
        (['--table', 'table.py', '--rows=('], ['--rows', "'('", 'regular expression']),
        (['--table', 'table.py', '--seeds=0,x'], ['--seeds', "'0,x'", '0,1,2']),
        (['--table', 'table.py', '--seeds=-1'], ['--seeds', "'-1'", '0,1,2']),
        (['--table', 'table.py', '--seeds=1,01'], ['--seeds', "'1,01'", 'different']),
        (
            ['--table', 'table.py', '--config', SMOKE],
            ['--config', SMOKE, 'the rows name their configs'],
        ),
        (
            ['--table', 'table.py', '--config.optim.lrr=1'],
            ["row 'base'", '--config.optim.lrr', 'learning_rate'],
        ),
        (['--table', 'table.py', '--config.seed=1'], ["row 'base'", 'config.seed=1', '--seeds']),
        (
            ['--table', 'table.py', '--override=base'],
            ['--override', "'base'", 'ROWS:section.key=value'],
        ),
        (
            ['--table', 'table.py', '--override=(:seed=1'],
            ['--override', "'(:seed=1'", 'regular expression'],
        ),
        (['--table', 'table.py', '--override=bass:a.b=1'], ['--override', "'bass'", 'base, wide']),
        (
            ['--table', 'table.py', '--override=base:seed=1', '--override=bass:seed=1'],
            ['--override', "'bass'"],
        ),
        (
            ['--table', 'table.py', '--override=base:optim.lrr=1'],
            ["row 'base'", 'optim.lrr', 'learning_rate'],
        ),
        (
            ['--table', 'table.py', '--override=base:seed=1'],
            ["row 'base'", 'config.seed=1', '--seeds'],
        ),
        (['--table', 'table.py', '--workdir='], ['--workdir', 'nothing']),
        (
            ['--table', 'table.py', '--workdir=gs://b/t'],
            ['--workdir', 'gs://b/t', '--workdir=/mnt/b/t'],
        ),
    ],
    ids=lambda value: ' '.join(value[-1:]),
)
def test_wrong_flags_of_a_table(call, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'table.py').write_text(TABLE)
    given = any(argument.startswith('--workdir') for argument in arguments)
    workdir = () if given else ('--workdir', 'run')
    code, out, err = call('--mode', 'table', *workdir, *arguments)
    assert code == 1
    assert_message(err, 'got:', 'expected:', *fragments)
    assert not out and not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'flag', ['--table=table.py', '--scale=quick', '--rows=base', '--seeds=0', '--override=a:b=1']
)
@pytest.mark.parametrize('mode', ['train', 'doctor'])
def test_flags_of_a_table_belong_to_its_mode(call, tmp_path, mode, flag):
    code, _, err = call('--config', SMOKE, '--workdir', tmp_path / 'run', '--mode', mode, flag)
    assert code == 1
    assert_message(err, flag.partition('=')[0], f'--mode {mode}', '--mode table')


def test_a_table_hands_its_rows_to_the_training(call, tmp_path, monkeypatch):
    (tmp_path / 'table.py').write_text(TABLE)
    trained = []
    monkeypatch.setattr(
        'segjax.train.driver.train', lambda config, workdir, stop: trained.append((config, workdir))
    )
    arguments = ('--seeds=4,2', '--rows=wide', '--config.train.num_steps=7')
    code, out, err = call(
        '--mode=table', '--table', tmp_path / 'table.py', '--workdir', tmp_path / 'run', *arguments
    )
    assert code == 0, err
    assert [(c.seed, c.model.width, c.train.num_steps) for c, _ in trained] == [
        (4, 0.5, 7),
        (2, 0.5, 7),
    ]
    assert [workdir for _, workdir in trained] == [
        f'{tmp_path}/run/wide/seed_{seed}' for seed in (4, 2)
    ]
    assert (
        out.startswith('[1/2] wide, seed 4\n[2/2] wide, seed 2\n')
        and f'table: {tmp_path}/run/table.html' in out
    )


def test_a_full_disk_is_named_by_what_the_mode_writes(call, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(main, '_load_config', full)
    common = ('--workdir', tmp_path / 'run')
    for arguments, place in (
        (
            ('--mode=predict', '--input=photos', '--output', tmp_path / 'out', *common),
            f'--output {tmp_path}/out',
        ),
        (('--mode=prepare', *common), 'prepared data (config.data.cache or $SEGJAX_CACHE)'),
        (common, f'--workdir {tmp_path}/run'),
    ):
        code, _, err = call(*arguments)
        assert code == 1 and err.startswith(f'error: {place}\n  got:      No space left on device')


def test_a_cache_that_is_a_file_is_refused(call, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('SEGJAX_CACHE', str(tmp_path / 'file'))
    code, out, err = call('--mode=cache')
    assert code == 1 and not out
    assert_message(err, '$SEGJAX_CACHE', 'which is a file')


def test_missing_folders_and_a_wrong_label_file(call, tmp_path):
    folder = (
        '--config',
        f'{REPOSITORY}/configs/supervised.py:folder',
        '--workdir',
        tmp_path / 'run',
    )
    classes = f'--config.data.classes={tmp_path}/classes.yaml'
    code, _, err = call(*folder, f'--config.data.root={tmp_path}/mine', classes)
    assert code == 1
    assert_message(err, 'classes.yaml', 'no such file')
    (tmp_path / 'classes.yaml').write_text('[background, car]')
    code, _, err = call(*folder, f'--config.data.root={tmp_path}/mine', classes)
    assert code == 1
    assert_message(err, 'config.data.root', f'no folder {tmp_path}/mine')
    for split in ('train', 'val'):
        for kind, value in (('images', 7), ('masks', 5)):
            path = tmp_path / 'mine' / kind / split / f'{split}.png'
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), np.full((8, 8), value, np.uint8))
    code, _, err = call(*folder, f'--config.data.root={tmp_path}/mine', classes)
    assert code == 1
    assert_message(err, 'mine/masks/train/train.png', 'label ids 5', 'expected: ids 0..1, 255')
    code, out, err = call(*folder, f'--config.data.root={tmp_path}/mine', classes, '--mode=doctor')
    assert code == 1 and 'mine/masks/train/train.png' in out and not err


# --- config files with errors of their own --------------------------------------------------------

BROKEN = {
    'a key that there is not': (
        'config_lib.update(config, train=dict(bach_size=3))',
        ['line 4', 'bach_size'],
    ),
    'a value of another type': (
        "config.optim.learning_rate = 'high'",
        ['line 4', 'TypeError', "= 'high'"],
    ),
    'a syntax error': ('config.seed = = 3', ['line 4', 'config.seed = = 3']),
    'a missing module': ('import modules_that_nobody_has', ['line 4', 'ModuleNotFoundError']),
    'another return value': ('return {}', ['ConfigDict', 'dict']),
    'an impossible value': (
        'config.optim.learning_rate = -1.0',
        ['config.optim.learning_rate', 'a number > 0'],
    ),
}


@pytest.mark.parametrize('line, fragments', BROKEN.values(), ids=BROKEN)
def test_a_broken_config_file_is_named_with_its_line(call, tmp_path, line, fragments):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from segjax import config as config_lib\n'
        'def get_config():\n'
        "    config = config_lib.defaults('supervised')\n"
        f'    {line}\n'
        '    return config\n'
    )
    code, _, err = call('--config', path, '--workdir', tmp_path / 'run')
    assert code == 1
    message = assert_message(err, *fragments)
    assert str(path) in message or 'config.optim.learning_rate' in message


def test_a_config_file_without_get_config_or_without_arguments(call, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('x = 3')
    assert_message(call('--config', path, '--workdir', tmp_path)[2], str(path), 'get_config')
    path.write_text('def get_config(): return None')
    assert_message(
        call('--config', f'{path}:quick', '--workdir', tmp_path)[2], "'quick' after the colon"
    )


@pytest.mark.parametrize(
    'content, fragments',
    [
        (b'\0\0', ['null bytes', 'save the file as text']),
        (b'import sys\nsys.exit(0)', ['sys.exit(0)', 'returns a config']),
        (b'def get_config(a, b): return 1', ['get_config(a, b)', "def get_config(arg=''):"]),
    ],
)
def test_a_config_file_that_cannot_be_called(call, tmp_path, content, fragments):
    path = tmp_path / 'mine.py'
    path.write_bytes(content)
    code, _, err = call('--config', path, '--workdir', tmp_path / 'run')
    assert code == 1
    assert_message(err, str(path), *fragments)


def test_a_folder_is_no_config_file(call, tmp_path):
    code, _, err = call('--config', tmp_path, '--workdir', tmp_path / 'run')
    assert code == 1
    assert_message(err, f'the folder {tmp_path}', '--config configs/supervised.py:quick')


def test_errors_of_our_own_keep_their_traceback(call, tmp_path, monkeypatch):
    """A bug, in the loop or called from a config file, must not look like a mistake of the user."""

    def bug(*_):
        raise TypeError('a bug')

    monkeypatch.setattr('segjax.train.driver.open_run', bug)
    with pytest.raises(TypeError, match='a bug'):
        call('--config', SMOKE, '--workdir', tmp_path)
    monkeypatch.setattr('segjax.pipelines.load', lambda name: {}['key'])
    package = pathlib.Path(main.__file__).parent
    monkeypatch.setattr('segjax.pipelines.load', _compiled_in(package / 'pipelines' / 'some.py'))
    with pytest.raises(ZeroDivisionError):
        call('--config', SMOKE, '--workdir', tmp_path)


def _compiled_in(path):
    """Returns a function whose frames seem to be in a file of the package."""
    names = {}
    exec(compile('def load(name): return 1 / 0', str(path), 'exec'), names)
    return names['load']


def test_help_names_every_flag_and_succeeds(call):
    code, out, err = call('--help')
    assert code == 0 and not err
    names = (
        'config',
        'workdir',
        'mode',
        'input',
        'output',
        'checkpoint',
        'table',
        'scale',
        'rows',
        'seeds',
    )
    names += ('override', 'runs', 'names', 'pictures', 'stage')
    names += ('members', 'nonmembers', 'posteriors', 'shadow')
    for name in (*names, 'distributed', 'coordinator'):
        assert re.search(rf'^  --{name} ', out, re.MULTILINE)
    for mode in main.MODES:
        assert mode in out
    assert call('--helpfull')[1] == out


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp('main') / 'run'
    out, err = run('--config', SMOKE, '--workdir', workdir, f'--config.train.num_steps={STEPS}')
    assert 'mIoU' in out and f'report: {workdir}/report.html' in out
    assert 'Traceback' not in err
    return workdir


def run_here(*arguments):
    """Runs main in this process."""
    for flag in main.FLAGS:
        flags.FLAGS[flag.name].unparse()
    main.main(main.parse_arguments(['segjax.main', *map(str, arguments)]))


def test_a_finished_run_needs_no_config(finished, one_device, tmp_path):
    """evaluate and predict need only the run folder. Keys that change no result may be set."""
    workdir = shutil.copytree(finished, tmp_path / 'run')
    out, _ = run('--workdir', workdir, '--mode', 'evaluate', '--config.logging.num_pictures=0')
    assert 'mIoU' in out
    assert (workdir / 'scores_last.json').read_bytes() == (finished / 'scores.json').read_bytes()
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / 'photos/a.jpg'), np.zeros((20, 30, 3), np.uint8))
    folders = ('--input', tmp_path / 'photos', '--output', tmp_path / 'out')
    run_here('--workdir', workdir, '--mode=predict', *folders)
    assert cv2.imread(str(tmp_path / 'out/ids/a.png'), cv2.IMREAD_UNCHANGED).shape == (20, 30)


def test_a_run_of_another_config_is_refused_with_the_key(finished, call):
    code, _, err = call('--workdir', finished, '--config.optim.learning_rate=1e-3')
    assert code == 1
    assert_message(
        err, str(finished), 'optim.learning_rate: 0.0005, now 0.001', 'another --workdir'
    )
    for mode in (
        ('--mode=evaluate',),
        ('--mode=predict', '--input', finished / 'segmentation/pictures', '--output=o'),
    ):
        code, _, err = call('--workdir', finished, '--config.model.width=0.5', *mode)
        assert code == 1
        fix = f'--workdir {finished} {mode[0].replace("=", " ")}, without'
        assert_message(err, str(finished), 'model.width: 0.25, now 0.5', fix)


@pytest.mark.parametrize(
    'argument, fragment',
    [("--config.init_from.nets=('nix',)", 'match nothing'), ('--config.model.width=0.5', '(16,)')],
)
def test_a_start_that_does_not_fit_leaves_no_folder(finished, call, tmp_path, argument, fragment):
    code, _, err = call(
        '--config',
        SMOKE,
        '--workdir',
        tmp_path / 'r',
        f'--config.init_from.path={finished}',
        argument,
    )
    assert code == 1
    assert_message(err, 'config.init_from', fragment)
    assert not (tmp_path / 'r').exists()


def test_divergence_names_step_and_group(finished, tmp_path):
    """The run resumes from a state with a broken number in one layer."""
    workdir = shutil.copytree(finished, tmp_path / 'run')
    saved = workdir / 'segmentation/checkpoints'
    shutil.rmtree(saved / str(STEPS))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(saved / '4/state')
        state['params']['segmenter']['encoder']['initial_block']['conv']['kernel'][0, 0, 0, 0] = (
            np.nan
        )
        shutil.rmtree(saved / '4/state')
        checkpointer.save(saved / '4/state', state)
    _, err = run('--workdir', workdir, code=1)
    assert_message(
        err,
        "stage 'segmentation', step 5: the loss is nan",
        'segmenter/encoder',
        'checkpoint: step 4',
    )
    assert_message(err, 'learning_rate')
    assert (workdir / 'report.html').stat().st_mtime > (finished / 'report.html').stat().st_mtime


def wait_for_lines(process, log, lines):
    end = time.monotonic() + 240
    while not log.exists() or log.read_bytes().count(b'\n') < lines:
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()[-2000:]
        time.sleep(0.01)


def test_sigterm_saves_and_the_same_command_goes_on(finished, tmp_path):
    command = ('--config', SMOKE, '--workdir', tmp_path, f'--config.train.num_steps={STEPS}')
    process = start(*command)
    wait_for_lines(process, tmp_path / 'segmentation/metrics.jsonl', 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err[-2000:]
    step = int(
        re.search(
            r"preempted: stage 'segmentation' saved at step (\d+); the same command resumes", err
        )[1]
    )
    assert 1 <= step < STEPS and 'Traceback' not in err
    assert (tmp_path / 'segmentation/checkpoints' / str(step)).is_dir()
    run(*command)
    for name in ('segmentation/metrics.jsonl', 'scores.json'):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoint(finished, tmp_path):
    """After the first checkpoint the size of files is limited, so the next checkpoint fails."""
    command = ('--config', SMOKE, '--workdir', tmp_path, f'--config.train.num_steps={STEPS}')
    process = start(*command)
    checkpoints = tmp_path / 'segmentation/checkpoints'
    wait_for_lines(process, tmp_path / 'segmentation/metrics.jsonl', 3)
    while not (checkpoints / '2').exists():
        time.sleep(0.001)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err[-2000:]
    message = err[err.index('error: ') :]  # between what threads of orbax have to say
    assert str(checkpoints) in message and 'free disk space' in message
    assert [p.name for p in checkpoints.iterdir() if p.name.isdigit()] == ['2']
    run(*command)
    assert (tmp_path / 'scores.json').read_bytes() == (finished / 'scores.json').read_bytes()
