"""--mode table: what is trained in which order, what the outputs say, and which table files are refused."""

import csv
import io
import json
import pathlib
import re
import xml.etree.ElementTree as ElementTree

import pytest

from segjax import config as config_lib
from segjax import driver, health, logs, parallel, tables
from segjax.config_file import Assignment
from segjax.errors import InputError
from segjax.tables import Cell, Claim, Column, Row, Table

# Rows 'base', 'thin' and 'strong' of a supervised run; strong is claimed to be better than base, thin to be worse.
FILE = """
from segjax.tables import Claim, Column, Row, Scale, Table


def get_table():
    rows = (
        Row('base', 'as published', 'configs/supervised.py:{scale}', {'mIoU': 40.2}),
        Row('thin', 'half | as wide', 'configs/supervised.py:{scale}', {'mIoU': 38, 'error': 0.5},
            overrides=('model.width=0.5',), labels={'width': '1/2'}),
        Row('strong', 'strong <aug>', 'configs/supervised.py:{scale},augment=strong', {'mIoU': 43.3}),
    )
    return Table(
        title='A table',
        source='A paper, Table 2',
        columns=(
            Column('mIoU', 'mIoU', unit='%', factor=100.0, better='max'),
            Column('error', 'depth/near/error', better='min', digits=2),
        ),
        rows=rows,
        scales={'quick': Scale('smoke', (0, 1, 2), note='tiny'), 'paper': Scale('', (0,), ('train.batch_size=16',))},
        notes='Some notes.',
        compare=('strong', 'base'),
        claims=(
            Claim('augmentation helps', 'mIoU', 'strong', 'base'),
            Claim('width helps', 'mIoU', 'base', 'thin'),
            Claim('thin errs more', 'error', 'thin', 'base'),
        ),
    )
"""


def found(miou, error=None, **classes):
    """What a run finds: the scores of two stages, of which the last counts."""
    return {'first': {'mIoU': 0.99}, 'last': {'mIoU': miou, 'depth': {'near': {'error': error}}, 'IoU': classes}}


RESULTS = {
    ('base', 0): found(0.40, 0.5, road=0.5, car=None),
    ('base', 1): found(0.42, 0.25, road=0.75, car=None),
    ('base', 2): found(0.44, 0.75, road=1.0, car=None),
    ('thin', 0): found(0.40),
    ('thin', 1): found(0.43),
    ('thin', 2): health.Diverged("stage 'last', step 7: the loss is nan\n  got: ..."),
    ('strong', 0): found(0.45, road=0.25, car=0.125),
    ('strong', 1): found(0.46, road=0.25, car=0.125),
    ('strong', 2): found(0.44, road=0.25, car=0.125),
}


ENVIRONMENT = {'device': 'abacus', 'devices': 2, 'processes': 1, 'host cores': 8, 'python': '3.11', 'jax': '0.1'}


@pytest.fixture
def table_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the configs of the rows are found from anywhere
    path = tmp_path / 'table.py'
    path.write_text(FILE)
    return path


@pytest.fixture
def trained(monkeypatch):
    """A stand-in for driver.train that leaves its files at once; -> the (row, seed) it was called for, in order."""
    calls = []

    def train(config, workdir):
        folder = pathlib.Path(workdir)
        calls.append((folder.parent.name, config.seed))
        logs.write_json(folder / 'config.json', config_lib.to_json(config))
        logs.write_json(folder / 'environment.json', ENVIRONMENT)
        result = RESULTS[calls[-1]]
        if isinstance(result, Exception):
            raise result
        logs.write_json(folder / 'scores.json', result)

    monkeypatch.setattr(driver, 'train', train)
    monkeypatch.setattr(tables.jax, 'clear_caches', lambda: calls.append('cleared'))
    return calls


def start(path, workdir='runs', **kwargs):
    tables.run(tables.make_plan(str(path), kwargs.pop('scale', 'quick'), str(workdir), **kwargs))


def runs(calls):
    return [call for call in calls if call != 'cleared']


# --- what is trained --------------------------------------------------------------------------------------------------

ROWS = ('base', 'thin', 'strong')


def test_all_rows_of_a_seed_come_before_the_next_seed(table_file, trained, capsys):
    start(table_file)
    order = [(row, seed) for seed in range(3) for row in ROWS]
    assert trained == [item for job in order for item in (job, 'cleared')]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('[')]
    assert lines == [f'[{i}/9] {row}, seed {seed}' for i, (row, seed) in enumerate(order, start=1)]


def test_every_run_has_its_own_config(table_file, trained):
    plan = tables.make_plan(str(table_file), 'quick', 'runs', assignments=[Assignment('train.batch_size', '4')])
    assert [job.config.model.width for job in plan.jobs[:3]] == [0.25, 0.5, 0.25]  # smoke has a width of 0.25
    assert [job.config.augment.rotate for job in plan.jobs[:3]] == [0.0, 0.0, 5.0]
    assert {job.config.train.batch_size for job in plan.jobs} == {4}
    assert [job.config.seed for job in plan.jobs] == [0] * 3 + [1] * 3 + [2] * 3
    assert plan.jobs[4].folder == pathlib.Path.cwd() / 'runs/thin/seed_1'


def test_keys_of_the_command_line_come_after_the_row_and_those_after_the_scale(table_file):
    text = FILE.replace("Scale('smoke', (0, 1, 2)", "Scale('smoke', (0,), ('model.width=0.75', 'train.batch_size=2')")
    table_file.write_text(text)
    plan = tables.make_plan(str(table_file), 'quick', 'runs', assignments=[Assignment('train.batch_size', '16')])
    assert [job.config.model.width for job in plan.jobs] == [0.75, 0.5, 0.75]
    assert {job.config.train.batch_size for job in plan.jobs} == {16}


def test_the_scale_of_the_paper_has_no_variant(table_file):
    plan = tables.make_plan(str(table_file), 'paper', 'runs')
    assert [job.config.data.name for job in plan.jobs] == ['cityscapes'] * 3
    assert {job.config.train.batch_size for job in plan.jobs} == {16}
    assert [job.config.augment.rotate for job in plan.jobs] == [0.0, 0.0, 5.0]


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
    assert tables.config_argument(template, variant) == expected


def test_rows_and_seeds_may_be_chosen_and_the_outputs_show_all_rows(table_file, trained):
    start(table_file, rows='^s|in$', seeds='1, 0')
    assert runs(trained) == [('thin', 1), ('strong', 1), ('thin', 0), ('strong', 0)]
    lines = pathlib.Path('runs/table.md').read_text().splitlines()
    (base,) = [line for line in lines if line.startswith('| as published')]
    assert [cell.strip() for cell in base.split('|')[1:-1]] == ['as published', '', '', '40.2', '', '']


# --- going on ---------------------------------------------------------------------------------------------------------


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
    monkeypatch.setitem(RESULTS, ('thin', 1), health.Preempted('saved at step 3'))
    with pytest.raises(health.Preempted, match='step 3'):
        start(table_file)
    assert runs(trained)[-1] == ('thin', 1)
    cells = next(csv.DictReader(io.StringIO(pathlib.Path('runs/table.csv').read_text())))
    assert (cells['mIoU [%] seed 0'], cells['mIoU [%] seed 1'], cells['mIoU [%] seed 2']) == ('40', '42', '')
    monkeypatch.undo()
    del trained[:]
    monkeypatch.setattr(driver, 'train', lambda config, workdir: trained.append(pathlib.Path(workdir).parent.name))
    monkeypatch.chdir(table_file.parent)
    start(table_file)
    assert trained[:3] == ['thin', 'strong', 'base'], 'the interrupted one first, then the rest'


def test_keys_that_change_no_result_do_not_make_a_run_again_and_the_policy_does(table_file, trained):
    start(table_file, seeds='0')
    trained.clear()
    start(table_file, seeds='0', assignments=[Assignment('run.num_pictures', '0'), Assignment('data.threads', '2')])
    assert trained == []
    start(table_file, seeds='0', assignments=[Assignment('evaluate.policy', 'absent_zero')])
    assert runs(trained) == [('base', 0), ('thin', 0), ('strong', 0)]


def test_old_scores_are_not_taken_for_those_of_an_interrupted_run(table_file, trained, monkeypatch):
    start(table_file, seeds='0')
    policy = [Assignment('evaluate.policy', 'absent_zero')]
    monkeypatch.setitem(RESULTS, ('base', 0), health.Preempted('in the evaluation'))
    with pytest.raises(health.Preempted):
        start(table_file, seeds='0', assignments=policy)
    jobs = tables.make_plan(str(table_file), 'quick', 'runs', seeds='0', assignments=policy).jobs
    assert logs.read_json(jobs[0].folder / 'config.json')['evaluate']['policy'] == 'absent_zero'
    assert tables.outcome(jobs[0]) == tables.OPEN


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
        InputError, match=r'strong/seed_0\n.*augment.blur: 0.1, now 0.0.*\n.*strong, seed 0\n.*--workdir'
    ):
        start(table_file, seeds='1,0')
    assert trained == []


def test_a_run_that_diverged_is_noted_and_tried_again_only_without_the_note(table_file, trained, capsys):
    start(table_file, seeds='2')
    assert runs(trained) == [('base', 2), ('thin', 2), ('strong', 2)]
    assert "diverged: thin, seed 2: stage 'last', step 7" in capsys.readouterr().out
    note = pathlib.Path('runs/thin/seed_2/failed.json')
    assert json.loads(note.read_text()) == {'message': str(RESULTS['thin', 2])}
    note.unlink()
    trained.clear()
    start(table_file, seeds='2')
    assert runs(trained) == [('thin', 2)] and note.exists()


@pytest.mark.parametrize('error', [InputError('x', got='y', expected='z'), MemoryError('a bug')])
def test_other_errors_end_the_table(table_file, trained, monkeypatch, error):
    monkeypatch.setitem(RESULTS, ('thin', 0), error)
    with pytest.raises(type(error)):
        start(table_file)
    assert runs(trained) == [('base', 0), ('thin', 0)]
    assert not pathlib.Path('runs/thin/seed_0/failed.json').exists()


def test_of_several_processes_the_main_one_decides_and_writes(table_file, trained, monkeypatch, capsys):
    monkeypatch.setattr(parallel, 'is_main', lambda: False)
    monkeypatch.setattr(parallel, 'of_main', lambda number: 0)  # nothing to run
    start(table_file)
    assert trained == []
    monkeypatch.setattr(parallel, 'of_main', lambda number: 1)
    start(table_file, seeds='2')
    assert runs(trained) == [('base', 2), ('thin', 2), ('strong', 2)]
    assert not list(pathlib.Path('runs').glob('table.*')) and not list(pathlib.Path('runs').rglob('failed.json'))
    assert capsys.readouterr().out == ''


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_scores_are_found_by_their_path():
    scores = {'mIoU': 0.5, 'watermark': {'none': {'PSNR': 24}, 'max': {'PSNR': None}}, 'policy': 'x', 'ok': True}
    assert tables.score_at(scores, 'mIoU') == 0.5
    assert tables.score_at(scores, 'watermark/none/PSNR') == 24.0
    for path in ('PSNR', 'watermark', 'watermark/max/PSNR', 'watermark/none/SNR', 'mIoU/x', 'policy', 'ok'):
        assert tables.score_at(scores, path) is None


def test_the_stage_of_a_row_is_the_last_unless_it_says_so():
    scores = found(0.5)
    assert tables.stage_scores(Row('a', 'a', ''), scores)['mIoU'] == 0.5
    assert tables.stage_scores(Row('a', 'a', '', stage='first'), scores)['mIoU'] == 0.99
    assert tables.stage_scores(Row('a', 'a', '', stage='second'), scores) == {}
    assert tables.stage_scores(Row('a', 'a', ''), {}) == {}


CLAIMED = Table(
    '', '', (Column('x', 'x'),), (Row('a', '', '', {'x': 3.5}), Row('b', '', '', {'x': 2.0}), Row('c', '', '')), {}
)


@pytest.mark.parametrize(
    'a, b, differences, std, agreeing, verdict',
    [
        # Differences 3, 3.5, 4: mean 3.5, sum of squares 0.5, std 0.5, t(2) = 4.303 standard errors are 1.24.
        ({0: 5, 1: 6, 2: 7}, {0: 2, 1: 2.5, 2: 3}, {0: 3, 1: 3.5, 2: 4}, 0.5, 3, 'holds'),
        # 5, 4, 0: mean 3, squares 4 + 1 + 9, std sqrt(7) = 2.6458, 4.303 standard errors are 6.57 > 3.
        ({0: 45, 1: 46, 2: 44}, {0: 40, 1: 42, 2: 44}, {0: 5, 1: 4, 2: 0}, 7**0.5, 2, 'holds, within spread'),
        # The same without the third seed: std sqrt(1/2), 12.7 standard errors are 6.35. Unpaired seeds do not count.
        ({0: 45, 1: 46, 3: 9}, {0: 40, 1: 42, 2: 44}, {0: 5, 1: 4}, 0.5**0.5, 2, 'holds, within spread'),
        ({0: 1, 1: 2}, {0: 4, 1: 5}, {0: -3, 1: -3}, 0.0, 0, 'does not hold'),
        ({0: 1, 1: 6}, {0: 4, 1: 5}, {0: -3, 1: 1}, 8**0.5, 1, 'does not hold, within spread'),
        ({0: 2}, {0: 1}, {0: 1}, None, 1, 'holds, one seed'),
        ({0: 2}, {0: 2}, {0: 0}, None, 0, 'does not hold, one seed'),
        ({0: 2}, {1: 1}, {}, None, 0, 'not measured'),
    ],
)
def test_a_claim_is_judged_by_the_differences_of_each_seed(a, b, differences, std, agreeing, verdict):
    cells = {('a', 'x'): Cell(a), ('b', 'x'): Cell(b), ('c', 'x'): Cell({})}
    compared = tables.compare(CLAIMED, Claim('', 'x', 'a', 'b'), cells)
    assert compared.published == 1.5 and compared.ours.values == differences
    assert compared.ours.std == (None if std is None else pytest.approx(std))
    assert (compared.agreeing, compared.verdict) == (agreeing, verdict)
    other = tables.compare(CLAIMED, Claim('', 'x', 'c', 'a'), cells)
    assert (other.published, other.verdict) == (None, 'not measured')


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
    assert tables.cell_text(Cell(dict(enumerate(values)), diverged), digits, sign) == text


# --- outputs ----------------------------------------------------------------------------------------------------------

MARKDOWN = """
# A table

A paper, Table 2

Some notes.

```bash
python -m segjax.main --mode table --table table.py --scale quick --workdir runs --config.data.threads=1
```

- scale: quick (tiny)
- seeds: 0, 1, 2
- data: streets
- steps: 4
- image size: 32x64 (height x width)
- batch: 8
- dtype: float32
- mIoU policy: cityscapes
- device: 2 x abacus, 1 process(es), 8 host cores, Python 3.11, jax 0.1

| row             | width |                         mIoU [%] | published |                  error | published |
| --------------- | ----: | -------------------------------: | --------: | ---------------------: | --------: |
| as published    |       |             42.0 ± 2.0 (3 seeds) |      40.2 | 0.50 ± 0.25 (3 seeds) |           |
| half \\| as wide |   1/2 | 41.5 ± 2.1 (2 seeds, 1 diverged) |      38.0 |               diverged |      0.50 |
| strong <aug>    |       |         **45.0 ± 1.0** (3 seeds) |      43.3 |                        |           |

Ours: mean ± sample standard deviation over the seeds, the best in bold. Published: as in the paper. What was not \
measured, or not published, is empty.

| claim | difference in | published | ours | seeds that agree | verdict |
| - | -: | -: | -: | -: | -: |
| augmentation helps | mIoU [%] | +3.1 | +3.0 ± 2.6 (3 seeds) | 2 of 3 | holds, within spread |
| width helps | mIoU [%] | +2.2 | -0.5 ± 0.7 (2 seeds) | 0 of 2 | does not hold, within spread |
| thin errs more | error | | | | not measured |

Ours: difference of the two rows, paired by seed, ± sample standard deviation. "holds" is the sign of the mean, \
"within spread" a mean that a t-test at 5 % cannot tell from 0.

- thin, seed 2 diverged: stage 'last', step 7: the loss is nan
"""


@pytest.fixture
def outputs(table_file, trained):
    """The folder of the outputs of a table with RESULTS."""
    start(table_file, assignments=[Assignment('data.threads', '1')])
    return pathlib.Path('runs')


def without_padding(text):
    """Columns of a Markdown table are as wide as their widest cell: of no interest here."""
    return re.sub(r'-+(:?) \|', r'-\1 |', re.sub(r' +', ' ', text)).strip()


def test_markdown(outputs):
    assert without_padding((outputs / 'table.md').read_text()) == without_padding(MARKDOWN)


def test_the_terminal_shows_the_same_table(capsys, outputs):
    printed = capsys.readouterr().out
    table, claims = (b for b in (outputs / 'table.md').read_text().split('\n\n') if b.startswith('| '))
    assert table in printed and claims in printed and 'thin, seed 2 diverged' in printed
    assert len({len(line) for line in table.splitlines()}) == 1, 'pipes below each other'
    assert printed.endswith(f'\ntable: {outputs.absolute()}/table.html\n')


def test_csv_has_every_seed(outputs):
    heads = 'key,name,width'
    for name in ('mIoU [%]', 'error'):
        heads += ''.join(f',{name} {x}' for x in ('published', 'mean', 'std', 'n', 'seed 0', 'seed 1', 'seed 2'))
    assert (outputs / 'table.csv').read_text().splitlines() == [
        heads,
        'base,as published,,40.2,42,2,3,40,42,44,,0.5,0.25,3,0.5,0.25,0.75',
        'thin,half | as wide,1/2,38,41.5,2.1213203,2,40,43,diverged,0.5,,,0,,,diverged',
        'strong,strong <aug>,,43.3,45,1,3,45,46,44,,,,0,,,',
    ]


def test_json_has_the_scores_as_they_were(outputs):
    content = logs.read_json(outputs / 'table.json')
    base = content['rows']['base']
    assert base['config'] == 'configs/supervised.py:smoke' and base['published'] == {'mIoU': 40.2}
    assert base['seeds']['1'] == {'mIoU': 0.42, 'error': 0.25, 'IoU': {'road': 0.75, 'car': None}}
    assert content['rows']['thin']['seeds']['2'] == {'diverged': str(RESULTS['thin', 2])}
    assert content['rows']['thin']['labels'] == {'width': '1/2'}
    assert content['claims'][0]['ours'] == pytest.approx({'0': 5.0, '1': 4.0, '2': 0.0}, abs=1e-9)
    assert content['columns'][0]['factor'] == 100.0 and content['source'] == 'A paper, Table 2'


def page_of(outputs) -> ElementTree.Element:
    text = (outputs / 'table.html').read_text()
    assert not re.search(r'<script|<link|url\(|@import', text)
    return ElementTree.fromstring(re.search(r'<main>.*</main>', text, re.DOTALL)[0].replace('<br>', '<br/>'))


def words(element) -> str:
    return ' '.join(' '.join(element.itertext()).split())


def test_page_has_the_table_and_links_to_the_reports(outputs):
    page = page_of(outputs)
    first, claims, listing = page.iter('table')
    lines = [[words(cell) for cell in row] for row in first.iter('tr')]
    assert lines[0] == ['row', 'width', 'mIoU [%]', 'published', 'error', 'published']
    assert lines[3] == ['strong <aug>', '', '45.0 ± 1.0 (3 seeds)', '43.3', '', '']
    assert [b.text for b in first.iter('b')] == ['45.0 ± 1.0']
    assert 'holds, within spread' in words(claims)
    links = {a.get('href'): a.text for a in listing.iter('a')}
    assert len(links) == 9 and links['thin/seed_2/report.html'] == 'diverged' and links['base/seed_0/report.html']
    assert "thin, seed 2 diverged: stage 'last', step 7" in words(page)


def test_page_compares_the_classes_of_the_rows_that_the_table_names(outputs):
    (chart,) = [f for f in page_of(outputs).iter('figure') if 'IoU [%], mean over the seeds' in words(f)]
    titles = [title.text for title in chart.iter('title')]
    # base: (50 + 75 + 100) / 3 for road, no car in any of its runs; thin is not compared.
    assert titles == ['road, strong <aug>: 25', 'car, strong <aug>: 12.5', 'road, as published: 75']


def test_without_a_choice_the_first_five_rows_are_compared(table_file, trained):
    table_file.write_text(FILE.replace("compare=('strong', 'base'),", ''))
    start(table_file, seeds='0')
    titles = [title.text for title in page_of(pathlib.Path('runs')).iter('title')]
    assert 'road, as published: 50' in titles and 'road, strong <aug>: 25' in titles


def test_page_plots_each_column_beside_the_published_numbers(outputs):
    figures = {words(f.find('figcaption/b')): f for f in page_of(outputs).iter('figure')}
    titles = [title.text for title in figures['mIoU [%]'].iter('title')]
    assert titles[0] == 'as published; ours: mean, min to max 42, 40 to 44; published 40.2'
    assert len(titles) == 3
    titles = [title.text for title in figures['error'].iter('title')]
    assert titles[1] == 'half | as wide; published 0.5' and titles[2] == 'strong <aug>'


def test_plots_call_rows_of_one_name_by_their_keys(table_file, trained):
    table_file.write_text(FILE.replace("'strong <aug>'", "'as published'"))
    start(table_file, seeds='0')
    titles = [title.text for title in page_of(pathlib.Path('runs')).iter('title')]
    assert 'strong; ours: mean, min to max 45, 45 to 45; published 43.3' in titles
    assert {'road, strong: 25', 'road, base: 50'} <= set(titles)
    assert pathlib.Path('runs/table.md').read_text().count('\n| as published ') == 2


def test_nothing_measured_yet_leaves_cells_empty(table_file):
    measured = tables.measure(tables.make_plan(str(table_file), 'quick', 'runs'))
    tables.write(measured)
    text = pathlib.Path('runs/table.md').read_text()
    assert '- device: nothing was run yet' in text and text.count('not measured |') == 3 and '±' in text
    assert 'published 40.2' in (pathlib.Path('runs') / 'table.html').read_text()


def test_a_score_or_stage_that_no_run_has_is_said(table_file, trained):
    text = FILE.replace("'mIoU', unit", "'mIuO', unit").replace(
        "augment=strong', {'mIoU': 43.3}", "augment=strong', stage='lst'"
    )
    table_file.write_text(text)
    start(table_file, seeds='0')
    text = pathlib.Path('runs/table.md').read_text()
    assert "- no run has a score 'mIuO' for column mIoU; there are: mIoU, depth/near/error, IoU/road, IoU/car" in text
    assert "- strong has no stage 'lst'; there are: first, last" in text


# --- wrong table files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'old, new, fragments',
    [
        ("Row('thin'", "Row('base'", ['rows', "'base' 2 times", 'a name of its own']),
        ("Row('thin'", "Row('a/b'", ["row 'a/b'", 'the name of a folder']),
        ("Row('thin'", "Row('..'", ["row '..'", 'the name of a folder']),
        ("Column('error'", "Column('mIoU'", ['columns', "'mIoU' 2 times"]),
        ("'error': 0.5", "'eror': 0.5", ["row 'thin': published", "did you mean 'error'?"]),
        ("'error': 0.5", "'error': '0.5'", ["row 'thin': published", "error: '0.5'", 'a number']),
        ("'mIoU', 'strong', 'base'", "'mIuO', 'strong', 'base'", ["claim 'augmentation helps'", "mean 'mIoU'?"]),
        ("'mIoU', 'strong', 'base'", "'mIoU', 'strng', 'base'", ["claim 'augmentation helps'", "mean 'strong'?"]),
        ("compare=('strong',", "compare=('stron',", ['compare', "did you mean 'strong'?"]),
        ("compare=('strong', 'base')", "compare='strong'", ['compare', "'strong'", "('...',)"]),
        ("better='max'", "better='mx'", ["better of column 'mIoU'", "did you mean 'max'?"]),
        ("overrides=('model.width=0.5',)", "overrides=('model.width=0.5')", ["row 'thin': overrides", "('...',)"]),
        ("'model.width=0.5'", "'model.width'", ["row 'thin': overrides", "'model.width'", "'section.key=value'"]),
        ("'model.width=0.5'", "'model.widht=0.5'", ["row 'thin'", "did you mean 'width'?"]),
        ("'model.width=0.5'", "'train.batch_size=0'", ["row 'thin'", 'config.train.batch_size', '>= 1']),
        ("'model.width=0.5'", "'seed=3'", ["row 'thin'", 'config.seed=3', '--seeds']),
        ('augment=strong', 'augment=strng', ["row 'strong'", "did you mean 'strong'?"]),
        ('supervised.py:{scale},', 'supervisd.py:{scale},', ["row 'strong'", 'no file configs/supervisd.py']),
        ("{'mIoU': 40.2}", '40.2', ["row 'base': published", '40.2', 'a dict']),
        ("{'width': '1/2'}", "('width', '1/2')", ["row 'thin': labels", "('width', '1/2')", 'a dict']),
        ("Scale('', (0,), ('train.batch_size=16',))", "('', (0,))", ['scales', 'a dict', 'Scale(']),
        ('(0, 1, 2)', '(0, 1, 1)', ["seeds of scale 'quick'", '1 2 times']),
        ('(0, 1, 2)', '0', ["seeds of scale 'quick'", '(0, 1, 2)']),
        ('(0, 1, 2)', '(0, -1)', ['config.seed', '-1', '>= 0']),
        ("'smoke'", "'smok'", ["row 'base'", "did you mean 'smoke'?"]),
        ('        rows=rows,', '        rows=rows[0],', ['rows', "Row(key='base'", '(Row(...),)']),
        ('        rows=rows,', '        rows=(),', ['rows', '()', '(Row(...),)']),
        ('    return Table(', '    return dict(', ['a dict from get_table', 'segjax.tables.Table']),
        ('def get_table', 'def get_tabel', ['no function get_table']),
        ("{'mIoU': 40.2})", "{'mIoU': 40.2}, bits=2)", ['line 7', 'TypeError', "'bits'"]),
        ('def get_table', 'def def get_table', ['line 5', 'Python']),
    ],
)  # fmt: skip
def test_a_wrong_table_file_is_named_with_what_is_wrong(table_file, trained, old, new, fragments):
    assert old in FILE
    table_file.write_text(FILE.replace(old, new))
    with pytest.raises(InputError) as raised:
        start(table_file)
    for fragment in fragments:
        assert fragment in str(raised.value)
    assert str(table_file) in str(raised.value) or 'config.seed' in str(raised.value)
    assert trained == [] and not pathlib.Path('runs').exists()


# --- a real one -------------------------------------------------------------------------------------------------------

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
from segjax.tables import Claim, Column, Row, Scale, Table


def get_table():
    return Table(
        'Toys', 'no paper', (Column('mIoU', 'mIoU', '%', 100, 'max', 2),),
        (Row('plain', 'plain', 'toy.py:{scale},flip=0'), Row('flipped', 'flipped', 'toy.py:{scale}')),
        {'quick': Scale('tiny', (3,))},
        claims=(Claim('flipping helps', 'mIoU', 'flipped', 'plain'),),
    )
"""


def test_two_rows_of_the_toy_pipeline(tmp_path, monkeypatch):
    (tmp_path / 'tables').mkdir()
    (tmp_path / 'tables/toy.py').write_text(TOY)
    (tmp_path / 'tables/table.py').write_text(TOY_TABLE)
    start(tmp_path / 'tables/table.py', tmp_path / 'run', assignments=[Assignment('run.num_pictures', '0')])
    table = logs.read_json(tmp_path / 'run/table.json')
    scores = {}
    for key, flip in (('plain', 0.0), ('flipped', 0.5)):
        folder = tmp_path / 'run' / key / 'seed_3'
        config = logs.read_json(folder / 'config.json')
        assert config['seed'] == 3 and config['augment']['flip'] == flip
        scores[key] = logs.read_json(folder / 'scores.json')['adversarial']
        assert table['rows'][key]['seeds']['3']['mIoU'] == scores[key]['mIoU'] > 0
        assert table['rows'][key]['seeds']['3']['IoU'] == scores[key]['IoU']
        assert (folder / 'report.html').exists()
    (claim,) = table['claims']
    assert claim['ours']['3'] == pytest.approx(100 * (scores['flipped']['mIoU'] - scores['plain']['mIoU']))
    monkeypatch.setattr(driver, 'train', lambda *_: pytest.fail('it was finished'))
    start(tmp_path / 'tables/table.py', tmp_path / 'run', assignments=[Assignment('run.num_pictures', '0')])
