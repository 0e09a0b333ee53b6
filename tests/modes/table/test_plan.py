"""Tests the planned runs: the config, the seed and the folder of each."""

import html
import pathlib
import re
import shlex

import pytest
from paper_table import FILE, start

from segjax import config as config_lib
from segjax.config.config_file import Assignment
from segjax.errors import InputError
from segjax.modes.table.plan import _check_evaluated, config_argument, make_table_plan
from segjax.modes.table.spec import Row


def test_every_run_has_its_own_config(table_file, trained):
    plan = make_table_plan(
        str(table_file), 'quick', 'runs', assignments=[Assignment('train.batch_size', '4')]
    )
    assert [run.config.model.width for run in plan.runs[:3]] == [
        0.25,
        0.5,
        0.25,
    ]  # smoke has a width of 0.25
    assert [run.config.augment.rotate for run in plan.runs[:3]] == [0.0, 0.0, 5.0]
    assert {run.config.train.batch_size for run in plan.runs} == {4}
    assert [run.config.seed for run in plan.runs] == [0] * 3 + [1] * 3 + [2] * 3
    assert plan.runs[4].folder == pathlib.Path.cwd() / 'runs/thin/seed_1'


def test_the_fix_of_a_row_that_evaluates_another_net_names_both_rows():
    row = Row('da_test', 'DA(Test)', 'configs/semantic_inpainting.py:smoke', evaluates='twosm')
    trained = config_lib.defaults('supervised')
    config = trained.copy_and_resolve_references()
    config.train.num_steps = trained.train.num_steps + 1
    with pytest.raises(InputError, match='change what the net means') as caught:
        _check_evaluated(row, config, trained)
    _, override, *_ = shlex.split(caught.value.fix)
    pattern, _, assignment = override.partition(':')
    assert assignment == 'train.num_steps=VALUE'
    matching = [key for key in ('twosm', 'da_test', 'da_train') if re.search(pattern, key)]
    assert matching == ['twosm', 'da_test']


def test_keys_of_the_command_line_come_after_the_row_and_those_after_the_scale(table_file):
    text = FILE.replace(
        "Scale('smoke', (0, 1, 2)",
        "Scale('smoke', (0,), ('model.width=0.75', 'train.batch_size=2')",
    )
    table_file.write_text(text)
    plan = make_table_plan(
        str(table_file), 'quick', 'runs', assignments=[Assignment('train.batch_size', '16')]
    )
    assert [run.config.model.width for run in plan.runs] == [0.75, 0.5, 0.75]
    assert {run.config.train.batch_size for run in plan.runs} == {16}


def test_the_scale_of_the_paper_has_no_variant(table_file):
    plan = make_table_plan(str(table_file), 'paper', 'runs')
    assert [run.config.data.name for run in plan.runs] == ['cityscapes'] * 3
    assert {run.config.train.batch_size for run in plan.runs} == {16}
    assert [run.config.augment.rotate for run in plan.runs] == [0.0, 0.0, 5.0]


@pytest.mark.parametrize(
    'template, variant, expected',
    [
        ('x.py:{scale},noise=max', 'quick', 'x.py:quick,noise=max'),
        ('x.py:{scale},noise=max', '', 'x.py:noise=max'),
        ('x.py:{scale}', '', 'x.py'),
        ('x.py:{scale}', 'quick,bits=2', 'x.py:quick,bits=2'),
        ('x.py:noise=max', 'quick', 'x.py:noise=max'),
        ('x.py', 'quick', 'x.py'),
    ],
)
def test_the_variant_is_filled_in_and_an_empty_one_leaves_no_comma(template, variant, expected):
    assert config_argument(template, variant) == expected


def test_rows_that_are_timed_in_turn_are_timed_equally_often(table_file):
    uneven = FILE.replace("'model.width=0.5'", "'bench.warmup=9'")
    table_file.write_text(uneven)
    make_table_plan(str(table_file), 'quick', 'runs')
    table_file.write_text(uneven.replace("'mIoU', 'mIoU'", "'mIoU', 'speed/train/ms_per_image'"))
    with pytest.raises(
        InputError,
        match=r"row 'thin': config.bench\n.*10 calls after 9 .*\n.*10 calls after 2 .*'base'",
    ):
        make_table_plan(str(table_file), 'quick', 'runs')
    make_table_plan(str(table_file), 'quick', 'runs', assignments=[Assignment('bench.warmup', '1')])


@pytest.mark.parametrize('kept', ['scores.json', 'last/checkpoints/4/record'])
def test_a_folder_of_another_config_is_refused_before_the_first_run(table_file, trained, kept):
    start(table_file, seeds='0')
    trained.clear()
    folder = pathlib.Path('runs/strong/seed_0')
    (folder / 'scores.json').unlink()
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    (folder / kept).write_text('{}')
    table_file.write_text(FILE.replace(',augment=strong', ''))
    with pytest.raises(
        InputError,
        match=r'strong/seed_0\n.*augment.blur: 0.1, now 0.0.*\n.*strong, seed 0\n.*--workdir',
    ):
        start(table_file, seeds='1,0')
    assert trained == []


AFTER = FILE.replace("labels={'width': '1/2'})", "after='strong')").replace(
    "'configs/supervised.py:{scale}', {'mIoU': 40.2})",
    "'configs/supervised.py:{scale}', {'mIoU': 40.2}, after='thin/first')",
)


def test_a_row_begins_from_the_run_of_another_row_of_its_seed(table_file):
    table_file.write_text(AFTER)
    plan = make_table_plan(str(table_file), 'quick', 'runs', seeds='1,0')
    assert [run.name for run in plan.runs[:3]] == ['strong, seed 1', 'thin, seed 1', 'base, seed 1']
    assert [run.seed for run in plan.runs] == [1] * 3 + [0] * 3
    starts = {run.name: run.config.init_from.path for run in plan.runs}
    here = pathlib.Path.cwd() / 'runs'
    assert starts['strong, seed 0'] == '' and starts['thin, seed 0'] == str(here / 'strong/seed_0')
    assert starts['base, seed 1'] == str(here / 'thin/seed_1/first')
    assert [plan.start(run) and plan.start(run).name for run in plan.runs[:2]] == [
        None,
        'strong, seed 1',
    ]


def test_chosen_rows_bring_the_rows_that_they_begin_from(table_file):
    table_file.write_text(AFTER)
    plan = make_table_plan(str(table_file), 'quick', 'runs', rows='base', seeds='0')
    assert [run.row.key for run in plan.todo] == ['strong', 'thin', 'base'] and plan.added == (
        'thin',
        'strong',
    )
    plan = make_table_plan(str(table_file), 'quick', 'runs', rows='strong', seeds='0')
    assert [run.row.key for run in plan.todo] == ['strong'] and plan.added == ()


def test_a_start_for_all_rows_and_a_row_after_another_contradict(table_file):
    table_file.write_text(AFTER)
    with pytest.raises(
        InputError, match=r"row 'base': config.init_from.path\n.*'x', and after='thin/first'"
    ):
        make_table_plan(
            str(table_file), 'quick', 'runs', assignments=[Assignment('init_from.path', 'x')]
        )


def test_an_override_of_the_command_line_holds_for_the_rows_in_which_it_is_found(table_file):
    overrides = [
        '^(?:thin|strong)$:train.batch_size=2',
        'thin:model.width=0.75',
        'base:data.root=hf:a/b=c',
    ]
    every = [Assignment('train.batch_size', '4')]
    plan = make_table_plan(str(table_file), 'quick', 'runs', assignments=every, overrides=overrides)
    configs = {run.row.key: run.config for run in plan.runs}
    assert [configs[key].train.batch_size for key in ('base', 'thin', 'strong')] == [4, 2, 2]
    assert configs['thin'].model.width == 0.75 and configs['base'].data.root == 'hf:a/b=c'
    shown = shlex.split(plan.command)
    assert [word for word in shown if word.startswith('--override')] == [
        f'--override={text}' for text in overrides
    ]


def test_an_error_about_two_starts_names_an_override_that_works(table_file):
    table_file.write_text(AFTER)
    with pytest.raises(InputError) as raised:
        make_table_plan(
            str(table_file), 'quick', 'runs', assignments=[Assignment('init_from.path', 'x')]
        )
    (fix,) = re.findall(r"--override '(.*?)'", raised.value.fix)
    plan = make_table_plan(
        str(table_file), 'quick', 'runs', seeds='0', overrides=[fix.replace('...', 'x')]
    )
    assert [run.row.key for run in plan.runs if run.config.init_from.path == 'x'] == ['strong']


def test_the_command_of_a_part_of_the_table_names_its_rows(table_file, trained):
    start(table_file, rows='^(base|thin)$', seeds='0')
    command = (
        'python -m segjax.main --mode table --table table.py --scale quick --workdir runs '
        "--rows '^(base|thin)$'"
    )
    for name in ('table.md', 'table.json'):
        assert command + ' --seeds 0' in pathlib.Path('runs', name).read_text(), name
    assert html.escape(command) in pathlib.Path('runs/table.html').read_text()
