"""The command `python -m benchmarks.nets`: wrong arguments, the page of a record, a real bench."""

import json
import sys

import pytest

from benchmarks import nets, options, table
from benchmarks.workers import WorkerError
from segjax.errors import InputError


@pytest.fixture
def any_torch(monkeypatch):
    monkeypatch.setattr(options, 'check_torch', lambda python: None)


@pytest.mark.parametrize(
    'argv, where, got, fix',
    [
        (['--nets', 'erfnet,bisnet'], '--nets', "'bisnet'", "did you mean 'bisenet'?"),
        (['--nets', ','], '--nets', 'no name', '--nets erfnet'),
        (['--size', '256'], '--size', "'256'", '--size 256x512'),
        (['--size', '0x8'], '--size', "'0x8'", '--size 256x512'),
        (['--batch', '0'], '--batch', '0', '--batch 1'),
        (['--rounds', '0'], '--rounds', '0', '--rounds 1'),
        (['--warmup', '-1'], '--warmup', '-1', '--warmup 0'),
        (['--width', '2'], '--width', '2.0', '--width 1'),
        (['--threads', '0'], '--threads', '0', '--threads 1'),
        (
            ['--threads', '100000'],
            '--threads',
            f'100000 on {options.usable_cores()} usable cores',
            f'--threads {options.usable_cores()}',
        ),
    ],
)
def test_wrong_arguments(any_torch, argv, where, got, fix):
    with pytest.raises(InputError) as caught:
        nets.parse(argv)
    assert (caught.value.where, caught.value.got, caught.value.fix) == (where, got, fix)


@pytest.mark.parametrize('argv', [['--batch', 'x'], ['--nonsense'], ['--device', 'tpu']])
def test_arguments_that_the_parser_refuses(any_torch, argv):
    with pytest.raises(InputError, match=r'python -m benchmarks\.nets --help'):
        nets.parse(argv)


def test_arguments_are_read(any_torch):
    args = nets.parse(['--nets', 'pspnet,erfnet', '--size', '64x128', '--threads', '1'])
    assert args.nets == ['pspnet', 'erfnet'] and args.size == (64, 128)


@pytest.mark.parametrize(
    'python, got', [('', 'nothing'), ('/no/python', '/no/python: No such file or directory')]
)
def test_without_torch_the_error_has_the_command_that_makes_the_environment(python, got):
    with pytest.raises(InputError) as caught:
        options.check_torch(python)
    assert caught.value.got == got
    assert 'pip install torch torchvision timm' in caught.value.fix


def test_a_python_without_torch_says_which_module_it_lacks(tmp_path):
    fake = tmp_path / 'python'
    fake.write_text('#!/bin/sh\necho "No module named torch" >&2\nexit 1\n')
    fake.chmod(0o755)
    with pytest.raises(InputError) as caught:
        options.check_torch(str(fake))
    assert caught.value.got == f'{fake}: No module named torch'


def test_nets_of_other_sizes_are_refused():
    nets.check_parameters('segjax', {'parameters': 7}, {})
    nets.check_parameters('torch', {'parameters': 7}, {'parameters': 7})
    with pytest.raises(WorkerError, match='torch: 8 parameters, segjax has 7'):
        nets.check_parameters('torch', {'parameters': 8}, {'parameters': 7})


# --- the page -------------------------------------------------------------------------------------


def test_the_ratio_is_that_of_each_round():
    """The machine is twice as slow in the second round, which changes no ratio."""
    assert table.ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == (0.5, 0.5, 0.5)
    median, low, high = table.ratio([1, 2, 3, 4, 5], [1, 1, 1, 1, 1])
    assert (low, median, high) == (2, 3, 4)


def times(*seconds):
    return {'seconds': list(seconds), 'cpu_seconds': [2 * value for value in seconds]}


def record():
    versions = {'segjax': {'jax': '1.2', 'device': 'cpu'}, 'torch': {'torch': '3.4'}}
    ours = dict(versions=versions['segjax'], parameters=2066836, prepare_seconds=31.4)
    ours |= dict(peak_bytes=2_000_000_000, parts={'train': times(0.3, 0.6, 0.9)})
    theirs = dict(versions=versions['torch'], parameters=2066836, prepare_seconds=5.0)
    theirs |= dict(peak_bytes=None, parts={'train': times(0.2, 0.4, 0.6)})
    failed = {'error': 'torch.compile: no compiler'}
    settings = dict(nets=['erfnet', 'pspnet'], size=[128, 256], batch=4, width=1.0, rounds=3)
    settings |= dict(warmup=2, threads=1, device='cpu', dtype='float32', compile=True)
    settings |= dict(channels_last=False, limit=60.0)
    return {
        'settings': settings,
        'machine': {
            'processor': 'A processor',
            'python': '3.11',
            'commit': 'abc',
            'load at start': [0.5, 1, 1],
            'load at end': [1.5, 1, 1],
        },
        'nets': {
            'erfnet': {'sides': {'segjax': ours, 'torch': theirs, 'torch.compile': failed}},
            'pspnet': {'sides': {'segjax': {'error': 'segjax: exit code 9 in prepare (killed)'}}},
        },
    }


def test_the_page_of_a_record():
    lines = table.page(record()).splitlines()
    assert lines[0] == '# Speed of nets against torch on a CPU'
    assert (
        '| ERFNet | train | torch | 600 (450 to 750) | 400 (300 to 500) | 1.50 (1.50 to 1.50) '
        '| 1.50 |'
    ) in lines
    assert '| ERFNet | segjax | 2,066,836 | 2000 | 31 |' in lines
    assert '| ERFNet | torch | 2,066,836 | - | 5 |' in lines
    assert lines[-2:] == [
        '- ERFNet, torch.compile: no compiler',
        '- PSPNet R50, segjax: exit code 9 in prepare (killed)',
    ]
    assert '- Load average 0.5 at the start, 1.5 at the end' in lines
    assert '- Commit abc, Python 3.11, jax 1.2, torch 3.4' in lines


def test_the_command_of_a_page_can_be_typed(any_torch):
    settings = record()['settings']
    words = table.command('benchmarks.nets', settings).split()
    assert words[:3] == ['python', '-m', 'benchmarks.nets']
    args = vars(nets.parse(words[3:]))
    del settings['limit']
    assert {key: args[key] for key in settings} == {**settings, 'size': (128, 256)}


def test_a_page_says_whether_the_machine_was_shared():
    made = record()
    busy = '- Other processes were working. Only the ratios can be compared'
    assert busy in table.page(made).splitlines()
    made['machine']['load at start'] = [0.4, 1, 1]
    assert busy not in table.page(made)


def test_every_net_has_a_name():
    assert set(nets.NETS) == set(table.NAMES)
    assert set(nets.DEFAULT_NETS.split(',')) <= set(nets.NETS)


def test_a_page_is_made_of_what_json_keeps():
    assert table.page(json.loads(json.dumps(record()))) == table.page(record())


# --- a bench --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_narrow_erfnet_is_timed_on_both_sides(torch_python, tmp_path):
    argv = ['--torch', torch_python, '--nets', 'erfnet', '--size', '32x64', '--batch', '2']
    argv += ['--width', '0.125', '--rounds', '2', '--warmup', '1', '--threads', '1']
    nets.main([*argv, '--output', str(tmp_path / 'bench')])
    written = json.loads((tmp_path / 'bench.json').read_text())
    sides = written['nets']['erfnet']['sides']
    assert sides.keys() == {'segjax', 'torch'} and not any('error' in s for s in sides.values())
    assert sides['segjax']['parameters'] == sides['torch']['parameters']
    for side in sides.values():
        assert side['parts'].keys() == {'train', 'predict'}
        for part in side['parts'].values():
            assert len(part['seconds']) == 2 and min(part['seconds']) > 0
    assert '| ERFNet | predict | torch |' in (tmp_path / 'bench.md').read_text()


def test_torch_is_started_with_its_own_python(monkeypatch, tmp_path):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,4')
    started = {}

    def worker(name, command, log, variables):
        started[name] = (command, variables)

    monkeypatch.setattr(nets, 'Worker', worker)
    args = nets.argparse.Namespace(torch='/t/python', threads=1, device='gpu')
    for side in ('segjax', 'torch'):
        nets.start_worker(side, args, tmp_path)
    assert started['segjax'][0] == [sys.executable, '-m', 'benchmarks.segjax_worker', '1']
    assert started['torch'][0] == ['/t/python', '-m', 'benchmarks.torch_worker', '1']
    assert started['segjax'][1]['JAX_PLATFORMS'] == 'cuda'
    assert started['torch'][1]['CUDA_VISIBLE_DEVICES'] == '3'
    assert started['torch'][1]['OMP_NUM_THREADS'] == '1'
