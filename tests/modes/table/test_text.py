"""Tests the terminal text, table.md, table.csv and table.json."""

import pathlib
import re
import types

import pytest
from paper_table import RESULTS

from segjax.core import files
from segjax.modes.table.cells import Cell
from segjax.modes.table.loop import write
from segjax.modes.table.numbers import measure
from segjax.modes.table.plan import make_table_plan
from segjax.modes.table.runs import OPEN, Outcome
from segjax.modes.table.spec import Column
from segjax.modes.table.text import _open_fact, cell_text, run_steps


@pytest.mark.parametrize(
    'values, diverged, digits, sign, text',
    [
        ([41.0, 43.0], 0, 1, '', '42.0 ± 1.4 (2 seeds)'),  # (1 + 1) / (2 - 1), its root
        ([41.0, 43.0, 45.0], 1, 0, '', '43 ± 2 (3 seeds, 1 diverged)'),
        ([24.376], 0, 2, '', '24.38 (1 seed)'),
        ([0.5], 0, 1, '+', '+0.5 (1 seed)'),
        ([-0.01], 0, 1, '', '0.0 (1 seed)'),
        ([], 2, 1, '', 'diverged'),
        ([], 0, 1, '', ''),
    ],
)
def test_a_cell_says_mean_spread_and_how_many_seeds(values, diverged, digits, sign, text):
    assert (
        cell_text(Cell(dict(enumerate(values)), diverged), Column('x', 'x', digits=digits), sign)
        == text
    )


def test_a_speed_is_one_number():
    speed = Column('x', 'speed/train/ms_per_image')
    assert (
        cell_text(Cell({3: 24.37}, quartiles=(20.0, 30.0)), speed, bold='<{}>'.format) == '<24.4>'
    )
    assert cell_text(Cell({}), speed) == ''


MARKDOWN = """
# A table

A paper, Table 2

Some notes.

```bash
python -m segjax.main --mode table --table table.py --scale quick --workdir runs \
--config.data.threads=1
```

- scale: quick (tiny)
- seeds: 0, 1, 2
- data: streets
- steps: 4
- image size: 32x64 (height x width)
- batch: 8
- dtype: float32
- mIoU policy: cityscapes
- scored at: label size
- device: 2 x abacus, 1 process(es), 8 host cores, Python 3.11, jax 0.1

| row | width | mIoU [%] | published | error | published |
| - | -: | -: | -: | -: | -: |
| an older net | 2 | | 30.5 | | |
| as published | | 42.0 ± 2.0 (3 seeds) | 40.2 | 0.50 ± 0.25 (3 seeds) | |
| half \\| as wide | 1/2 | 41.5 ± 2.1 (2 seeds, 1 diverged) | 38.0 | diverged | 0.50 |
| strong <aug> | | **45.0 ± 1.0** (3 seeds) | 43.3 | | |

Ours: mean ± sample standard deviation over the seeds, the best in bold. Published: as in the \
paper. An empty cell was not measured, or not published.

| claim | difference in | published | ours | smallest effect | seeds that agree | verdict |
| - | -: | -: | -: | -: | -: | -: |
| augmentation helps | mIoU [%] | +3.1 | +3.0 ± 2.6 (3 seeds) | 6.6 | 2 of 3 | \
holds, within spread |
| width helps | mIoU [%] | +2.2 | -0.5 ± 0.7 (2 seeds) | 6.4 | 0 of 2 | \
does not hold, within spread |
| thin errs more | error | | | | | not measured |

Ours: difference of the two rows, paired by seed, ± sample standard deviation. "holds" is the \
sign of the mean, "within spread" a mean that a t-test at 5 % cannot tell from 0, "undecided" a \
mean of exactly 0, "withheld" a claim whose conditions do not hold. Smallest effect: the size \
that a mean needs to be told from 0. 2 claims were tested at 5%. If no row differed from another, \
chance alone would put 0.1 of them beyond the spread, 0.05 with the claimed sign.

- thin, seed 2 diverged: stage 'last', step 7: the loss is nan
"""


def without_padding(text):
    """Removes the padding of the columns of a Markdown table."""
    return re.sub(r'-+(:?) \|', r'-\1 |', re.sub(r' +', ' ', text)).strip()


def test_markdown(outputs):
    assert without_padding((outputs / 'table.md').read_text()) == without_padding(MARKDOWN)


def test_runs_that_are_left_are_named_once_some_are_done():
    def fact(**outcomes):
        by_run = {(key, seed): each for key, pair in outcomes.items() for seed, each in pair}
        return _open_fact(types.SimpleNamespace(outcomes=by_run))

    done = Outcome({'mIoU': 0.5})
    failed = Outcome({}, 'the loss is nan')
    assert fact(a=[(0, done), (1, failed)]) == {}
    assert fact(a=[(0, OPEN)], b=[(0, OPEN)]) == {}
    left = fact(a=[(0, done), (1, OPEN)], b=[(0, OPEN), (1, OPEN)])
    assert left == {'not run yet': '3 of 4 runs (seed 0: b; seed 1: a, b)'}


def test_the_terminal_shows_the_same_table(capsys, outputs):
    printed = capsys.readouterr().out
    table, claims = (
        b for b in (outputs / 'table.md').read_text().split('\n\n') if b.startswith('| ')
    )
    assert table in printed and claims in printed and 'thin, seed 2 diverged' in printed
    assert len({len(line) for line in table.splitlines()}) == 1, 'pipes below each other'
    assert printed.endswith(f'\ntable: {outputs.absolute()}/table.html\n')


def test_csv_has_every_seed(outputs):
    heads = 'key,name,width'
    for name in ('mIoU [%]', 'error'):
        heads += ''.join(
            f',{name} {x}' for x in ('published', 'mean', 'std', 'n', 'seed 0', 'seed 1', 'seed 2')
        )
    assert (outputs / 'table.csv').read_text().splitlines() == [
        heads,
        ',an older net,2,30.5,,,,,,,,,,,,,',
        'base,as published,,40.2,42,2,3,40,42,44,,0.5,0.25,3,0.5,0.25,0.75',
        'thin,half | as wide,1/2,38,41.5,2.1213203,2,40,43,diverged,0.5,,,0,,,diverged',
        'strong,strong <aug>,,43.3,45,1,3,45,46,44,,,,0,,,',
    ]


def test_json_has_the_scores_as_they_were(outputs):
    content = files.read_json(outputs / 'table.json')
    base = content['rows']['base']
    assert base['config'] == 'configs/supervised.py:smoke' and base['published'] == {'mIoU': 40.2}
    assert base['seeds']['1'] == {'mIoU': 0.42, 'error': 0.25, 'IoU': {'road': 0.75, 'car': None}}
    assert content['rows']['thin']['seeds']['2'] == {'diverged': str(RESULTS['thin', 2])}
    assert content['rows']['thin']['labels'] == {'width': '1/2'}
    assert content['claims'][0]['ours'] == pytest.approx({'0': 5.0, '1': 4.0, '2': 0.0}, abs=1e-9)
    assert content['literature'][0]['published'] == {'mIoU': 30.5}
    assert content['columns'][0]['factor'] == 100.0 and content['source'] == 'A paper, Table 2'


def test_nothing_measured_yet_leaves_cells_empty(table_file):
    measured = measure(make_table_plan(str(table_file), 'quick', 'runs'))
    write(measured)
    text = pathlib.Path('runs/table.md').read_text()
    assert (
        '- device: nothing was run yet' in text
        and text.count('not measured |') == 3
        and '±' in text
    )
    assert 'published 40.2' in (pathlib.Path('runs') / 'table.html').read_text()


@pytest.mark.parametrize(
    'stages, steps, text',
    [
        (['pose'], [1200], '1,200'),
        (['depth', 'segmentation'], [600, 300], 'depth 600, segmentation 300'),
        (['depth', 'segmentation'], [0, 300], '300'),
        (['depth'], [0], '0'),
    ],
)
def test_steps_are_those_of_the_stages_that_were_trained(outputs, table_file, stages, steps, text):
    plan = make_table_plan(str(table_file), 'quick', 'runs')
    for run in plan.runs:
        files.write_json(
            run.folder / 'start.json',
            {'stages': stages, 'steps': steps, 'init_from': {}, 'digest': ''},
        )
    assert run_steps(plan.runs[0]) == text
