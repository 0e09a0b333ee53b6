"""Tests the order of training, resuming, and the times at which outputs are written."""

import csv
import dataclasses
import io
import os
import pathlib
import shlex
import signal
import subprocess

import jax
import pytest
from paper_table import FILE, RESULTS, runs, start

from segjax import data
from segjax.config.config_file import Assignment
from segjax.core import files, parallel
from segjax.errors import InputError
from segjax.modes import bench
from segjax.modes.table import loop, plan
from segjax.train import driver
from segjax.train.stop import Preempted, StopSignal

ROWS = ('base', 'thin', 'strong')


def test_all_rows_of_a_seed_come_before_the_next_seed(table_file, trained, capsys):
    start(table_file)
    order = [(row, seed) for seed in range(3) for row in ROWS]
    assert trained == [item for run in order for item in (run, 'cleared')]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('[')]
    assert lines == [f'[{i}/9] {row}, seed {seed}' for i, (row, seed) in enumerate(order, start=1)]


def test_rows_and_seeds_may_be_chosen_and_the_outputs_show_all_rows(table_file, trained):
    start(table_file, rows='^s|in$', seeds='1, 0')
    assert runs(trained) == [('thin', 1), ('strong', 1), ('thin', 0), ('strong', 0)]
    lines = pathlib.Path('runs/table.md').read_text().splitlines()
    (base,) = [line for line in lines if line.startswith('| as published')]
    assert [cell.strip() for cell in base.split('|')[1:-1]] == [
        'as published',
        '',
        '',
        '40.2',
        '',
        '',
    ]


def test_what_is_finished_is_not_trained_again(table_file, trained, capsys):
    start(table_file)
    outputs = {p.name: p.read_bytes() for p in pathlib.Path('runs').glob('table.*')}
    assert set(outputs) == {'table.md', 'table.csv', 'table.json', 'table.html'}
    for name in outputs:
        (pathlib.Path('runs') / name).unlink()
    trained.clear()
    capsys.readouterr()
    start(table_file)
    assert trained == [], 'neither the finished nor the diverged'
    assert {p.name: p.read_bytes() for p in pathlib.Path('runs').glob('table.*')} == outputs
    assert 'A table (A paper, Table 2)' in capsys.readouterr().out


def test_an_interrupted_table_has_what_was_finished_and_goes_on(table_file, trained, monkeypatch):
    monkeypatch.setitem(RESULTS, ('thin', 1), Preempted('saved at step 3'))
    with pytest.raises(Preempted, match='step 3'):
        start(table_file)
    assert runs(trained)[-1] == ('thin', 1)
    _, cells, *_ = csv.DictReader(io.StringIO(pathlib.Path('runs/table.csv').read_text()))
    assert (cells['mIoU [%] seed 0'], cells['mIoU [%] seed 1'], cells['mIoU [%] seed 2']) == (
        '40',
        '42',
        '',
    )
    monkeypatch.undo()
    del trained[:]
    monkeypatch.setattr(
        driver,
        'train',
        lambda config, workdir, stop: trained.append(pathlib.Path(workdir).parent.name),
    )
    monkeypatch.chdir(table_file.parent)
    start(table_file)
    assert trained[:3] == ['thin', 'strong', 'base'], 'the interrupted one first, then the rest'


@pytest.mark.parametrize('place', ['at the end of a run', 'while the outputs are written'])
def test_a_signal_between_two_runs_ends_the_table_in_order(table_file, trained, monkeypatch, place):
    ignored = signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # what is not heard must not end the tests
    told = {
        'at the end of a run': (driver, 'train'),
        'while the outputs are written': (loop, 'write'),
    }[place]
    original = getattr(*told)

    def then_told_to_stop(*args):
        original(*args)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(*told, then_told_to_stop)
    try:
        with pytest.raises(Preempted, match='thin, seed 0 had not begun'):
            start(table_file)
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert runs(trained) == [('base', 0)] and pathlib.Path('runs/table.md').exists()


def test_all_runs_listen_to_the_signal_of_the_table(table_file, trained, monkeypatch):
    heard = []
    monkeypatch.setattr(driver, 'train', lambda config, workdir, stop: heard.append(stop))
    start(table_file, seeds='0')
    assert len(heard) == len(ROWS) and isinstance(heard[0], StopSignal) and len(set(heard)) == 1


@pytest.mark.parametrize('error', [InputError('x', got='y', expected='z'), MemoryError('a bug')])
def test_other_errors_end_the_table(table_file, trained, monkeypatch, error):
    monkeypatch.setitem(RESULTS, ('thin', 0), error)
    with pytest.raises(type(error)):
        start(table_file)
    assert runs(trained) == [('base', 0), ('thin', 0)]
    assert not pathlib.Path('runs/thin/seed_0/failed.json').exists()


def test_of_several_processes_the_main_one_decides_and_writes(
    table_file, trained, monkeypatch, capsys
):
    monkeypatch.setattr(parallel, 'is_main', lambda: False)
    monkeypatch.setattr(parallel, 'of_main', lambda number: 0)  # nothing to run
    start(table_file)
    assert trained == []
    monkeypatch.setattr(parallel, 'of_main', lambda number: 1)
    start(table_file, seeds='2')
    assert runs(trained) == [('base', 2), ('thin', 2), ('strong', 2)]
    assert not list(pathlib.Path('runs').glob('table.*')) and not list(
        pathlib.Path('runs').rglob('failed.json')
    )
    assert capsys.readouterr().out == ''


AFTER = FILE.replace(
    "augment=strong', {'mIoU': 43.3}", "augment=strong', {'mIoU': 43.3}, after='thin'"
)


def test_what_chosen_rows_begin_from_is_trained_too_and_said(table_file, trained, capsys):
    table_file.write_text(AFTER)
    start(table_file, rows='strong', seeds='0')
    assert runs(trained) == [('thin', 0), ('strong', 0)]
    assert 'also trained, because chosen rows begin from them: thin\n' in capsys.readouterr().out


def test_a_row_whose_start_diverged_is_left_out_and_the_table_says_so(table_file, trained, capsys):
    table_file.write_text(AFTER)
    start(table_file, seeds='2')
    assert runs(trained) == [('base', 2), ('thin', 2)]
    assert '[3/3] strong, seed 2 cannot begin: thin, seed 2 diverged' in capsys.readouterr().out
    assert (
        '- strong, seed 2 cannot begin: thin, seed 2 diverged'
        in pathlib.Path('runs/table.md').read_text()
    )


def test_a_hidden_row_is_trained_and_not_printed(table_file, trained):
    table_file.write_text(AFTER.replace("labels={'width': '1/2'}", 'hidden=True'))
    start(table_file, seeds='0')
    assert ('thin', 0) in trained
    for name in ('md', 'csv'):
        assert 'half' not in pathlib.Path(f'runs/table.{name}').read_text(), name
    page = pathlib.Path('runs/table.html').read_text()
    assert 'half' not in page and 'thin/seed_0/report.html' in page


TOY = """
import toy_run
from segjax import config as config_lib


def get_config(arg=''):
    args = config_lib.parse_arg(arg, variants=('tiny',), flip=0.5)
    config = toy_run.make_config()
    config.augment.flip = args.flip
    return config
"""

TOY_TABLE = """
from segjax.modes.table import Claim, Column, Row, Scale, Table


def get_table():
    return Table(
        'Toys', 'no paper',
        (
            Column('mIoU', 'mIoU', '%', 100, 'max', 2),
            Column('time', 'speed/predict/ms_per_image', 'ms', better='min'),
            Column('training / plain', 'speed/train/over/plain', digits=2),
        ),
        (
            Row('next', 'next', 'toy.py:{scale}', after='plain/pretrain', hidden=True),
            Row('plain', 'plain', 'toy.py:{scale},flip=0'),
            Row('flipped', 'flipped', 'toy.py:{scale}'),
            Row('policy', 'other policy', 'toy.py:{scale}',
                overrides=('evaluate.policy=absent_one',), evaluates='flipped', hidden=True),
        ),
        {'quick': Scale('tiny', (3,), ('bench.repetitions=3',))},
        claims=(Claim('flipping helps', 'mIoU', 'flipped', 'plain'),),
    )
"""


def test_rows_of_the_toy_pipeline(tmp_path, monkeypatch, capsys):
    (tmp_path / 'tables').mkdir()
    (tmp_path / 'tables/toy.py').write_text(TOY)
    (tmp_path / 'tables/table.py').write_text(TOY_TABLE)
    start(
        tmp_path / 'tables/table.py',
        tmp_path / 'run',
        assignments=[Assignment('logging.num_pictures', '0')],
    )
    table = files.read_json(tmp_path / 'run/table.json')
    scores = {}
    for key, flip in (('plain', 0.0), ('flipped', 0.5)):
        folder = tmp_path / 'run' / key / 'seed_3'
        config = files.read_json(folder / 'config.json')
        assert config['seed'] == 3 and config['augment']['flip'] == flip
        scores[key] = files.read_json(folder / 'scores.json')['adversarial']
        assert table['rows'][key]['seeds']['3']['mIoU'] == scores[key]['mIoU'] > 0
        assert table['rows'][key]['seeds']['3']['IoU'] == scores[key]['IoU']
        assert (folder / 'report.html').exists()
    (claim,) = table['claims']
    assert claim['ours']['3'] == pytest.approx(
        100 * (scores['flipped']['mIoU'] - scores['plain']['mIoU'])
    )
    speeds = files.read_json(tmp_path / 'run/speed.json')
    assert speeds['environment']['jax'] == jax.__version__
    for key, flip in (('plain', 0.0), ('flipped', 0.5)):
        timed = speeds['rows'][key]['parts']['predict']
        assert speeds['rows'][key]['config']['augment']['flip'] == flip
        assert len(timed['seconds_per_image']) == 3 and (timed['batch_size'], timed['size']) == (
            4,
            [32, 64],
        )
        assert (
            table['rows'][key]['speed']['time'] == timed['ms_per_image']
            and timed['ms_per_image']['median'] > 0
        )
    ratios = [
        table['rows'][key]['speed']['training / plain']['median'] for key in ('plain', 'flipped')
    ]
    assert ratios[0] == 1 and ratios[1] > 0
    order = [line for line in capsys.readouterr().out.splitlines() if line.startswith('[')]
    keys = ['plain', 'next', 'flipped', 'policy']
    assert order == [f'[{i + 1}/4] {key}, seed 3' for i, key in enumerate(keys)]

    # A row that evaluates another row's run has no checkpoint. Its scores are of that run.
    evaluated = tmp_path / 'run/policy/seed_3'
    assert not list(evaluated.glob('*/checkpoints'))
    again = files.read_json(evaluated / 'scores.json')['adversarial']
    assert again['IoU'] == scores['flipped']['IoU']
    assert again['made_by']['config']['evaluate']['policy'] == 'absent_one'
    assert not (tmp_path / 'run/flipped/seed_3/scores_last.json').exists()

    path = files.read_json(tmp_path / 'run/next/seed_3/config.json')['init_from']['path']
    assert path == str(tmp_path / 'run/plain/seed_3/pretrain') and 'next' not in speeds['rows']
    monkeypatch.setattr(driver, 'train', lambda *_: pytest.fail('it was finished'))
    monkeypatch.setattr(bench, 'prepare', lambda *_: pytest.fail('it was timed'))
    start(
        tmp_path / 'tables/table.py',
        tmp_path / 'run',
        assignments=[Assignment('logging.num_pictures', '0')],
    )


def test_a_row_that_its_run_would_refuse_is_found_before_the_first_row_is_trained(
    table_file, trained, monkeypatch
):
    monkeypatch.setattr(loop, 'check_runs', plan.check_runs)
    with pytest.raises(InputError, match="row 'strong': erfnet: input") as error:
        start(table_file, overrides=['strong:data.eval_size=(33, 65)'])
    assert trained == []
    assert error.value.fix == '--config.data.eval_size="(32, 64)"'


def test_a_finished_row_whose_data_changed_is_not_mixed_with_new_rows(
    table_file, trained, monkeypatch
):
    monkeypatch.setattr(loop, 'check_runs', plan.check_runs)
    start(table_file, rows='base|thin', seeds='0')
    prepared = data.prepare(
        plan.make_table_plan(str(table_file), 'quick', 'runs').runs[0].config.data
    )
    folders = [pathlib.Path('runs', key, 'seed_0').absolute() for key in ('base', 'thin')]
    for folder in folders:
        files.write_json(folder / 'spec.json', prepared.spec.to_json())
    trained.clear()
    start(table_file, rows='base|thin', seeds='0')
    assert trained == []
    for folder, split in zip(folders, ('train', 'val'), strict=True):
        changed = dataclasses.replace(prepared.spec, digest={**prepared.spec.digest, split: 'abc'})
        files.write_json(folder / 'spec.json', changed.to_json())
    with pytest.raises(
        InputError, match=r"base/seed_0 and 1 more\n.*changed since: split 'train' has other"
    ) as error:
        start(table_file, seeds='0')
    assert trained == []
    command = shlex.split(error.value.fix.partition(', ')[0])
    assert command == ['rm', '-r', *map(str, folders)]
    subprocess.run(command, check=True)
    start(table_file, seeds='0')
    assert runs(trained) == [('base', 0), ('thin', 0), ('strong', 0)]


def test_rows_of_other_data_do_not_compare(table_file, trained, monkeypatch):
    monkeypatch.setattr(loop, 'check_runs', plan.check_runs)
    other = ['base:data.world.seed=7']
    start(table_file, rows='base', seeds='0', overrides=other)
    prepared = data.prepare(
        plan.make_table_plan(str(table_file), 'quick', 'runs', overrides=other).runs[1].config.data
    )
    spec = dataclasses.replace(prepared.spec, digest={'train': 'abc', 'val': 'abc'})
    files.write_json(pathlib.Path('runs/base/seed_0/spec.json'), spec.to_json())
    trained.clear()
    start(table_file, rows='thin', seeds='0', overrides=other)
    assert runs(trained) == [('thin', 0)]
