"""launch/device_check.sh: independent parts, valid commands, and a small check on a CPU."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks import nets, options
from segjax import config as config_lib
from segjax.config import config_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location(
    'device_check', REPOSITORY / 'launch/device_check.py'
)
device_check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(device_check)


def check(tmp_path, minutes=1.0):
    return device_check.Check(tmp_path, minutes, dry_run=False)


def part(name, code, limit=20.0, **more):
    """Returns a part that runs Python code, and whose figures are what it prints."""
    task = device_check.Task(name, ('-c', code))
    return device_check.Part(name, (task,), limit, lambda out, texts: texts[name].strip(), **more)


def test_a_failed_part_ends_neither_the_check_nor_its_report(tmp_path):
    checked = check(tmp_path)
    assert checked.run(part('broken', 'print(1); print("no memory"); raise SystemExit(3)')) is None
    assert checked.run(part('fine', 'print(7)')) == '7'
    assert checked.failed() == ['broken']
    parts = json.loads((tmp_path / 'device_check.json').read_text())['parts']
    assert parts['broken']['status'] == 'failed' and parts['fine']['figures'] == '7'
    assert 'exit code 3 (no memory), see logs/broken.log' in parts['broken']['reason']
    text = (tmp_path / 'device_check.txt').read_text()
    assert 'broken' in text and 'no memory' in text and '7' in text


def test_a_part_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(device_check, 'FORCE_AFTER', 0.5)
    sleeps = 'import time; time.sleep(60)'
    code = (
        'import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);'
        f'child = subprocess.Popen([sys.executable, "-c", "{sleeps}"]);'
        'print(child.pid, flush=True); child.wait()'
    )
    checked = check(tmp_path)
    started = time.monotonic()
    assert checked.run(part('hangs', code, limit=2)) is None
    assert time.monotonic() - started < 10
    assert 'time was up' in checked.report['parts']['hangs']['reason']
    child = pathlib.Path('/proc') / (tmp_path / 'logs/hangs.log').read_text().strip() / 'stat'
    while child.exists() and child.read_text().split()[2] != 'Z':
        assert time.monotonic() - started < 20, 'the child lives'
        time.sleep(0.05)


def test_a_training_that_saves_when_its_time_is_up_passed(tmp_path):
    code = (
        'import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75));'
        'print(5, flush=True); time.sleep(60)'
    )
    checked = check(tmp_path)
    assert checked.run(part('trains', code, limit=2, codes=(0, 75), untimed=True)) == '5'
    assert not checked.failed()


def test_no_part_starts_when_the_budget_is_used_up(tmp_path):
    checked = check(tmp_path, minutes=(device_check.FORCE_AFTER + 1) / 60)
    assert checked.run(part('late', 'print(1)', limit=100)) is None
    entry = checked.report['parts']['late']
    assert entry['status'] == 'skipped' and 'of the budget' in entry['reason']
    assert not checked.failed()


@pytest.mark.parametrize('data, reason', [('', 'no --data'), ('{}', 'no folder {}/camvid')])
def test_the_training_is_skipped_without_data(tmp_path, data, reason):
    made = device_check.camvid_part(data.format(tmp_path), tmp_path, False, 60, 100)
    assert made.skip == reason.format(tmp_path)


def test_a_score_that_is_not_finite_fails_the_smoke(tmp_path):
    for name, score in (('good', 0.5), ('bad', float('nan'))):
        (tmp_path / 'runs' / name).mkdir(parents=True)
        scores = {'segmentation': {'mIoU': score, 'IoU': {'car': None}}}
        (tmp_path / 'runs' / name / 'scores.json').write_text(json.dumps(scores))
    good = {'segmentation': {'mIoU': 0.5, 'IoU': {'car': None}}}
    assert device_check.read_scores(tmp_path, {'good': ''}) == {'good': good}
    with pytest.raises(ValueError, match='bad: a score is not finite'):
        device_check.read_scores(tmp_path, {'good': '', 'bad': ''})


def test_the_curve_has_the_evaluations(tmp_path):
    folder = tmp_path / 'runs/camvid/segmentation'
    folder.mkdir(parents=True)
    lines = [{'step': 1, 'kind': 'train', 'loss': 2.0}, {'step': 2, 'kind': 'eval', 'mIoU': 0.25}]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert device_check.read_curve(tmp_path, {'camvid': ''}) == [[2, 0.25]]


def test_the_steps_on_camvid_are_half_of_what_the_measured_speed_allows():
    # 360 x 480 images at 160 images/s are 20 steps of 8 images a second.
    measured = {'segmentation train base': {'images_per_second': 160.0, 'size': [360, 480]}}
    assert device_check.camvid_steps(measured, seconds=100, small=False) == 1000
    slower = {'segmentation train base': {'images_per_second': 160.0, 'size': [180, 480]}}
    assert device_check.camvid_steps(slower, seconds=100, small=False) == 500


@pytest.mark.parametrize(
    'python, platform, small, skip',
    [
        ('/t/python', 'gpu', False, ''),
        ('', 'gpu', False, 'no SEGJAX_TORCH'),
        ('/t/python', 'gpu', True, 'torch is timed on a GPU at full size alone'),
        ('/t/python', 'tpu', False, 'torch is timed on a GPU at full size alone'),
    ],
)
def test_torch_is_timed_on_a_gpu(tmp_path, monkeypatch, python, platform, small, skip):
    made = device_check.torch_part(python, tmp_path, platform, small, 60)
    assert made.skip == skip
    monkeypatch.setattr(options, 'check_torch', lambda python: None)
    (task,) = made.tasks
    assert task.arguments[:2] == ('-m', 'benchmarks.nets')
    assert nets.parse(task.arguments[2:]).device == 'gpu'


def test_the_rows_of_the_comparison_with_torch_are_reported(tmp_path):
    row = '| ERFNet | train | torch | 6 | 4 | 1.50 | 1.50 |'
    page = tmp_path / 'torch.md'
    page.write_text(f'# Speed\n\n{row}\n\nFailed:\n\n- BiSeNet R18, segjax: no memory\n')
    assert device_check.read_torch(tmp_path, {}) == {
        '1': row,
        '2': '- BiSeNet R18, segjax: no memory',
    }
    page.write_text('Failed:\n\n- ERFNet, segjax: no memory\n')
    with pytest.raises(ValueError, match='no net has finished'):
        device_check.read_torch(tmp_path, {})


@pytest.mark.parametrize('small', [False, True], ids=['full', 'small'])
def test_every_command_has_a_valid_config(tmp_path, small):
    parts = [device_check.bench_part(net, tmp_path, small, 60) for net in device_check.NETS]
    parts.append(device_check.smoke_part(tmp_path, small, 60))
    parts.append(device_check.camvid_part(str(tmp_path), tmp_path, small, 60, 100))
    for task in [task for made in parts for task in made.tasks]:
        flags, assignments = config_file.split_arguments(list(task.arguments))
        (name,) = [flag.partition('=')[2] for flag in flags if flag.startswith('--config=')]
        config = config_file.load(name)
        config_file.assign(config, assignments)
        config_lib.validate(config)
        for overrides in config.bench.variants:
            config_lib.validate(config_file.overridden(config, overrides))


def run(*arguments, **env):
    """Runs the script with the interpreter of the tests."""
    return subprocess.run(
        ['bash', 'launch/device_check.sh', *arguments],
        cwd=REPOSITORY,
        env={**os.environ, 'SEGJAX_PYTHON': sys.executable, **env},
        capture_output=True,
        text=True,
    )


def test_without_an_accelerator_it_stops_at_once(tmp_path):
    started = time.monotonic()
    done = run('--out', str(tmp_path), JAX_PLATFORMS='cpu')
    assert time.monotonic() - started < 30
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'no device but the CPU' in done.stderr and 'SEGJAX_PYTHON' in done.stderr


def test_with_an_accelerator_that_jax_cannot_use_it_stops_at_once(tmp_path):
    done = run('--out', str(tmp_path), JAX_PLATFORMS='cuda')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'JAX_PLATFORMS=cuda' in done.stderr and 'fix:' in done.stderr
    parts = json.loads((tmp_path / 'device_check.json').read_text())['parts']
    assert list(parts) == ['devices']


def test_the_dry_run_prints_every_part_and_changes_nothing(tmp_path):
    done = run('--dry-run', '--out', str(tmp_path / 'out'), SEGJAX_REAL_DATA='')
    assert done.returncode == 0 and not (tmp_path / 'out').exists()
    for word in (*device_check.NETS, *device_check.PIPELINES, 'pytest', 'camvid would be skipped'):
        assert word in done.stdout


@pytest.mark.slow
def test_it_runs_small_on_a_cpu(tmp_path):
    done = run('--small', '--minutes', '8', '--out', str(tmp_path), SEGJAX_REAL_DATA='')
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / 'device_check.json').read_text())
    statuses = {name: entry['status'] for name, entry in report['parts'].items()}
    assert statuses.pop('camvid') == statuses.pop('torch') == 'skipped'
    assert set(statuses.values()) == {'passed'}
    assert {'devices', 'bench-erfnet', 'smoke', 'tests'} == set(statuses)
    train = report['parts']['bench-erfnet']['figures']['segmentation train base']
    assert train['images_per_second'] > 0 and train['compile_seconds'] > 0
