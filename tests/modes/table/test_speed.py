"""Tests which rows are timed and when, the content of speed.json, and the printed times.

Nothing compiles: calls take as long as SECONDS says.
"""

import csv
import io
import os
import pathlib
import shutil
import signal
import types

import jax.numpy as jnp
import pytest
from clock import Clock
from paper_table import ENVIRONMENT, FILE, runs, start

from segjax.config.config_file import Assignment
from segjax.core import environment, files, parallel
from segjax.modes import bench
from segjax.modes.bench import stages
from segjax.train import initialization
from segjax.train.stop import Preempted

TIMES = FILE.replace(
    'columns=(',
    """columns=(
            Column('time', 'speed/predict/ms_per_image', unit='ms', better='min'),
            Column('time / base', 'speed/train/over/base', unit='%', factor=100, digits=2),""",
).replace('claims=(', "claims=(Claim('narrow nets are faster', 'time', 'base', 'thin'),")
ROUNDS = [Assignment('bench.repetitions', '3'), Assignment('bench.warmup', '1')]

# Seconds of a batch, by round. The first round warms up. 4 images are predicted, 8 trained on.
# 'strong' has no training.
SECONDS = {
    ('predict', 'base'): (9, 0.5, 1, 4),
    ('predict', 'thin'): (9, 0.25, 1, 0.5),
    ('predict', 'strong'): (9, 1.25, 1.25, 1.25),
    ('train', 'base'): (9, 1, 2, 4),
    ('train', 'thin'): (9, 1.5, 4, 5),
}
IMAGES = {'predict': 4, 'train': 8}


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def timed(table_file, trained, clock, monkeypatch):
    """Replaces opening and compiling. Returns the calls that trained and prepared, in order."""
    table_file.write_text(TIMES)

    def open_untrained(config, folder):
        key = pathlib.Path(folder).parent.name
        steps = 0 if key == 'strong' else 4
        opened = [
            types.SimpleNamespace(name=name, num_steps=steps, predict=abs, hand_on=None)
            for name in ('first', 'last', 'more')
        ]
        return types.SimpleNamespace(config=config, key=key), tuple(
            opened[:2] if key != 'thin' else opened
        )

    def prepare(part):
        def prepared(run):
            trained.append((part, run.run.key, run.stage.name))
            durations = iter(SECONDS[part, run.run.key])
            call = clock.call(run.run.key[0], lambda _: next(durations))
            return bench.Timed(call, None, IMAGES[part], (32, 64))

        return prepared

    monkeypatch.setattr(bench, 'open_untrained', open_untrained)
    monkeypatch.setattr(initialization, 'initial_state', lambda run, stage, earlier: jnp.zeros(()))
    monkeypatch.setattr(environment, 'describe_topology', lambda *_: ENVIRONMENT)
    for part in IMAGES:
        monkeypatch.setattr(stages, f'prepare_{part}', prepare(part))
    return trained


def prepared(calls):
    return [call[:2] for call in calls if len(call) == 3]


def rows_of(name='runs/table.csv'):
    return {
        line['key']: line for line in csv.DictReader(io.StringIO(pathlib.Path(name).read_text()))
    }


EVERYTHING = [
    ('train', 'base'),
    ('train', 'thin'),
    *(('predict', key) for key in ('base', 'thin', 'strong')),
]


def test_all_rows_are_timed_in_turn_when_the_last_one_is_trained(table_file, timed, clock, capsys):
    start(table_file, assignments=ROUNDS)
    done = runs(timed)
    assert [len(call) for call in done] == [2] * 9 + [3] * 5, 'nine runs, then five programs'
    assert prepared(timed) == EVERYTHING
    assert ''.join(clock.log) == 'bttbbttb' + 'btsstbbtsstb'
    printed = capsys.readouterr().out
    assert 'speed: train, 3 rows in turn\nspeed: predict, 3 rows in turn\n' in printed


def test_the_stage_that_is_timed_is_that_of_the_row(table_file, timed):
    start(table_file, seeds='0', assignments=ROUNDS)
    assert [call[1:] for call in timed if call[0] == 'predict'] == [
        ('base', 'last'), ('thin', 'more'), ('strong', 'last')
    ]  # fmt: skip
    timed.clear()
    table_file.write_text(
        TIMES.replace("labels={'width': '1/2'}", "labels={'width': '1/2'}, stage='first'")
    )
    start(table_file, seeds='0', assignments=ROUNDS)
    assert [call[1:] for call in timed if call[0] == 'predict'] == [
        ('base', 'last'), ('thin', 'first'), ('strong', 'last')
    ]  # fmt: skip


def test_the_file_says_what_was_measured_on_what(table_file, timed):
    start(table_file, assignments=ROUNDS)
    stored = files.read_json(pathlib.Path('runs/speed.json'))
    rows = stored.pop('rows')
    assert stored == {
        'environment': ENVIRONMENT,
        'repetitions': 3,
        'warmup': 1,
        'parts': ['train', 'predict'],
    }
    base = rows['base']
    assert (
        base['config']['model']['width'] == 0.25 and rows['thin']['config']['model']['width'] == 0.5
    )
    assert (base['config']['seed'], base['stage'], base['dtype']) == (0, '', 'float32')
    assert base['parts']['predict'] == {
        'batch_size': 4,
        'size': [32, 64],
        'ms_per_image': {'median': 250.0, 'quartiles': [187.5, 625.0]},  # of 125, 250, 1000
        'seconds_per_image': [0.125, 0.25, 1.0],
    }
    assert list(rows['strong']['parts']) == ['predict']


MARKDOWN_ROWS = """
| an older net    |     2 |           |  |                 |
| as published    |       |     250.0 |  |          100.00 |
| half \\| as wide |   1/2 | **125.0** |  |          150.00 |
| strong <aug>    |       |     312.5 |  |                 |
"""
NOTE = (
    'Times: median of 3 calls after 1 to warm up, all rows in turn in one process, '
    'at fresh parameters, on 2 x abacus, 1 process(es), 8 host cores, Python 3.11, jax 0.1. '
    'train: batch to the devices, forward, backward, update, metrics; '
    'float32, 32x64 (height x width), images per batch: 8; quartiles within 50% of the median. '
    'predict: tiles to one device, forward; images are tiles; '
    'float32, 32x64 (height x width), images per batch: 4; quartiles within 150% of the median.'
)


def raising(error):
    def fail(*_):
        raise error

    return fail


def cells(line, count):
    return [cell.strip() for cell in line.replace('\\|', '').split('|')[1 : count + 1]]


def test_text_shows_one_number_and_what_was_timed(table_file, timed, capsys):
    start(table_file, assignments=ROUNDS)
    blocks = pathlib.Path('runs/table.md').read_text().split('\n\n')
    (table,) = [block for block in blocks if block.startswith('| row')]
    expected = [cells(line, 5) for line in MARKDOWN_ROWS.strip().splitlines()]
    assert [cells(line, 5) for line in table.splitlines()[2:]] == expected
    assert cells(table, 5) == ['row', 'width', 'time [ms]', 'published', 'time / base [%]']
    assert NOTE in blocks
    (claim,) = [line for line in '\n'.join(blocks).splitlines() if line.startswith('| narrow nets')]
    assert cells(claim, 7) == [
        'narrow nets are faster',
        'time [ms]',
        '',
        '+125.0',
        '',
        '',
        'holds, one measurement',
    ]
    printed = capsys.readouterr().out
    assert table in printed and NOTE in printed and 'no time of' not in printed


def test_files_have_the_quartiles(table_file, timed):
    start(table_file, seeds='0,1', assignments=ROUNDS)
    heads = pathlib.Path('runs/table.csv').read_text().splitlines()[0].split(',')
    assert heads[3:8] == [
        f'time [ms] {x}' for x in ('published', 'median', 'lower quartile', 'upper quartile')
    ] + ['time / base [%] published']
    thin = rows_of()['thin']
    # Paired by round 1.5, 2 and 1.25; the medians alone would give 4 / 2.
    quartiles = [
        thin[f'time / base [%] {x}'] for x in ('median', 'lower quartile', 'upper quartile')
    ]
    assert quartiles == ['150', '137.5', '175']
    table = files.read_json(pathlib.Path('runs/table.json'))
    assert table['speed'] == NOTE
    assert table['rows']['thin']['speed'] == {
        'time': {'median': 125.0, 'quartiles': [93.75, 187.5]},  # of 62.5, 250, 125
        'time / base': {'median': 1.5, 'quartiles': [1.375, 1.75]},
    }
    assert table['rows']['strong']['speed']['time / base'] is None
    assert set(table['rows']['thin']['seeds']['0']) == {'mIoU', 'error', 'IoU'}


def test_the_page_shows_them(table_file, timed):
    start(table_file, assignments=ROUNDS)
    page = pathlib.Path('runs/table.html').read_text()
    assert f'<p class="soft">{NOTE}</p>' in page and '<b>125.0</b>' in page
    assert 'as published; ours: median, quartiles 250, 187.5 to 625<' in page
    assert 'as published; ours: mean, min to max 42, 40 to 44; published 40.2<' in page


def test_what_was_timed_is_not_timed_again(table_file, timed):
    start(table_file, assignments=ROUNDS)
    outputs = {p.name: p.read_bytes() for p in pathlib.Path('runs').glob('*.*')}
    assert 'speed.json' in outputs
    timed.clear()
    start(table_file, assignments=ROUNDS)
    assert (
        timed == []
        and {p.name: p.read_bytes() for p in pathlib.Path('runs').glob('*.*')} == outputs
    )


def other_machine(table_file, monkeypatch):
    monkeypatch.setattr(
        environment, 'describe_topology', lambda *_: ENVIRONMENT | {'host cores': 9}
    )


def other_column(table_file, monkeypatch):
    table_file.write_text(TIMES.replace('speed/train/over/base', 'speed/evaluate/over/base'))
    monkeypatch.setattr(stages, 'prepare_evaluate', stages.prepare_predict)


def fewer_columns(table_file, monkeypatch):
    table_file.write_text(TIMES.replace('speed/train/over/base', 'speed/predict/over/thin'))


def lost_file(table_file, monkeypatch):
    pathlib.Path('runs/speed.json').unlink()


def as_it_was(table_file, monkeypatch):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    'change, keys, again',
    [
        (as_it_was, 'predict.batch_size=2', True),
        (as_it_was, 'parallel.mode=shard_map', True),
        (as_it_was, 'bench.warmup=0', True),
        (as_it_was, 'logging.num_pictures=0', False),
        (as_it_was, 'data.threads=2', False),
        (as_it_was, 'init_from.partial=true', False),
        (other_machine, 'logging.num_pictures=1', True),
        (other_column, 'logging.num_pictures=1', True),
        (fewer_columns, 'logging.num_pictures=1', False),
        (lost_file, 'logging.num_pictures=1', True),
    ],
)
def test_what_changes_the_cost_is_timed_again(table_file, timed, monkeypatch, change, keys, again):
    start(table_file, seeds='0', assignments=ROUNDS)
    timed.clear()
    change(table_file, monkeypatch)
    start(table_file, seeds='0', assignments=[*ROUNDS, Assignment(*keys.split('='))])
    assert runs(timed) == [call for call in timed if len(call) == 3], 'nothing is trained again'
    assert bool(timed) == again
    assert {key for _, key in prepared(timed)} == ({'base', 'thin', 'strong'} if again else set())


def test_another_first_seed_costs_the_same(table_file, timed):
    start(table_file, seeds='0', assignments=ROUNDS)
    start(table_file, seeds='1', assignments=ROUNDS)
    assert prepared(timed) == EVERYTHING and rows_of()['base']['time [ms] median'] == '250'


def test_an_old_time_does_not_stand_beside_a_new_config(table_file, timed, monkeypatch):
    start(table_file, seeds='0', assignments=ROUNDS)
    shutil.rmtree('runs/strong')
    table_file.write_text(
        TIMES.replace("{'mIoU': 43.3}", "{'mIoU': 43.3}, overrides=('model.width=0.75',)")
    )
    timed.clear()
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(stages, 'prepare_train', raising(Preempted('before the first program')))
        start(table_file, seeds='0', assignments=ROUNDS)
    assert runs(timed) == [('strong', 0)]
    found = rows_of()
    assert [found[key]['time [ms] median'] for key in ('base', 'strong')] == ['250', '']
    assert found['strong']['mIoU [%] mean'] == '45'
    start(table_file, seeds='0', assignments=ROUNDS)
    assert prepared(timed) == EVERYTHING and rows_of()['strong']['time [ms] median'] == '312.5'


def test_a_row_that_is_open_again_has_no_time(table_file, timed):
    start(table_file, seeds='0', assignments=ROUNDS)
    shutil.rmtree('runs/strong')
    start(table_file, rows='base', seeds='0', assignments=ROUNDS)
    assert prepared(timed) == EVERYTHING, 'once'
    assert [rows_of()[key]['time [ms] median'] for key in ('base', 'strong')] == ['250', '']


def test_rows_that_start_from_a_run_are_timed(table_file, timed):
    start(table_file, seeds='0', assignments=[*ROUNDS, Assignment('init_from.path', 'elsewhere')])
    assert prepared(timed) == EVERYTHING


def test_rows_that_diverged_or_are_open_have_no_time(table_file, timed):
    start(
        table_file, rows='base|thin', seeds='2', assignments=ROUNDS
    )  # thin diverges with this seed
    assert prepared(timed) == [('train', 'base'), ('predict', 'base')]
    (thin,) = [
        line
        for line in pathlib.Path('runs/table.md').read_text().splitlines()
        if line.startswith('| half')
    ]
    assert cells(thin, 8) == ['half  as wide', '1/2', '', '', '', '', 'diverged', '38.0']
    found = rows_of()
    assert [found[key]['time [ms] median'] for key in ('base', 'thin', 'strong')] == ['250', '', '']
    timed.clear()
    start(table_file, rows='strong', seeds='2', assignments=ROUNDS)
    assert prepared(timed) == [('train', 'base'), ('predict', 'base'), ('predict', 'strong')], (
        'together'
    )


def test_a_row_to_compare_with_that_was_not_timed_is_said(table_file, timed):
    start(table_file, rows='thin', seeds='0', assignments=ROUNDS)
    text = pathlib.Path('runs/table.md').read_text()
    assert '- no time of train for row base, which column time / base needs' in text
    assert 'which column time needs' not in text


def test_a_part_that_no_row_has_is_said(table_file, timed):
    table_file.write_text(TIMES.replace('speed/train/over/base', 'speed/train/ms_per_image'))
    start(table_file, rows='strong', seeds='0', assignments=ROUNDS)
    text = pathlib.Path('runs/table.md').read_text()
    assert (
        '- no time of train for any row, which column time / base needs' in text
        and 'train: not measured.' in text
    )


def test_a_stage_that_does_not_exist_is_not_tried_again_and_again(table_file, timed):
    table_file.write_text(TIMES.replace("{'mIoU': 43.3}", "{'mIoU': 43.3}, stage='lst'"))
    for _ in range(2):
        start(table_file, seeds='0', assignments=ROUNDS)
        assert prepared(timed) == EVERYTHING[:-1]
    assert "strong has no stage 'lst'" in pathlib.Path('runs/table.md').read_text()


def test_before_the_first_measurement_nothing_is_claimed(table_file, timed, monkeypatch):
    monkeypatch.setattr(bench, 'measure_calls', raising(MemoryError('too many rows')))
    with pytest.raises(MemoryError):
        start(table_file, seeds='0', assignments=ROUNDS)
    text = pathlib.Path('runs/table.md').read_text()
    assert (
        '\n\nTimes: not measured yet.\n\n' in text
        and 'no time of' not in text
        and 'no run has' not in text
    )


def test_nothing_is_timed_for_a_table_of_scores_or_without_a_run(table_file, timed, monkeypatch):
    monkeypatch.setattr(bench, 'prepare', raising(AssertionError('there is nothing to time')))
    start(table_file, rows='thin', seeds='2', assignments=ROUNDS)  # diverges
    table_file.write_text(FILE)
    start(table_file, workdir='scores', seeds='0', assignments=ROUNDS)
    assert (
        not pathlib.Path('runs/speed.json').exists()
        and not pathlib.Path('scores/speed.json').exists()
    )
    assert 'Times' not in pathlib.Path('scores/table.md').read_text()


def test_of_several_processes_all_measure_and_the_main_one_writes(
    table_file, timed, monkeypatch, capsys
):
    monkeypatch.setattr(parallel, 'is_main', lambda: False)
    monkeypatch.setattr(parallel, 'of_main', lambda number: 1)
    start(table_file, seeds='0', assignments=ROUNDS)
    assert prepared(timed) == EVERYTHING and capsys.readouterr().out == ''
    assert not list(pathlib.Path('runs').glob('*.*'))
    timed.clear()
    monkeypatch.setattr(parallel, 'of_main', lambda number: 0)  # it finds nothing to do
    start(table_file, seeds='0', assignments=ROUNDS)
    assert timed == []


def test_a_signal_ends_the_measurement_in_order(table_file, timed, monkeypatch):
    ignored = signal.signal(
        signal.SIGTERM, lambda *_: None
    )  # what is not heard must not end the tests
    prepare = stages.prepare_train

    def then_told_to_stop(run):
        os.kill(os.getpid(), signal.SIGTERM)
        return prepare(run)

    try:
        with (
            monkeypatch.context() as patch,
            pytest.raises(Preempted, match='the rows had not been timed'),
        ):
            patch.setattr(stages, 'prepare_train', then_told_to_stop)
            start(table_file, seeds='0', assignments=ROUNDS)
    finally:
        signal.signal(signal.SIGTERM, ignored)
    assert prepared(timed) == [('train', 'base')] and not pathlib.Path('runs/speed.json').exists()
    timed.clear()
    start(table_file, seeds='0', assignments=ROUNDS)
    assert (
        runs(timed) == [call for call in timed if len(call) == 3] and prepared(timed) == EVERYTHING
    )
