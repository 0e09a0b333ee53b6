"""Tests that wrong table files are refused."""

import pathlib

import pytest
from paper_table import FILE, start

from segjax.errors import InputError
from segjax.modes.table import spec


@pytest.mark.parametrize(
    'old, new, fragments',
    [
        ("Row('thin'", "Row('base'", ['rows', "'base' 2 times", 'a name of its own']),
        ("Row('thin'", "Row('a/b'", ["row 'a/b'", 'the name of a folder']),
        ("Row('thin'", "Row('..'", ["row '..'", 'the name of a folder']),
        ("Column('error'", "Column('mIoU'", ['columns', "'mIoU' 2 times"]),
        ("'error': 0.5", "'eror': 0.5", ["row 'thin': published", "did you mean 'error'?"]),
        ("'error': 0.5", "'error': '0.5'", ["row 'thin': published", "error: '0.5'", 'a number']),
        ("'mIoU', 'strong', 'base'", "'mIuO', 'strong', 'base'",
         ["claim 'augmentation helps'", "mean 'mIoU'?"]),
        ("'mIoU', 'strong', 'base'", "'mIoU', 'strng', 'base'",
         ["claim 'augmentation helps'", "mean 'strong'?"]),
        ("compare=('strong',", "compare=('stron',", ['compare', "did you mean 'strong'?"]),
        ("compare=('strong', 'base')", "compare='strong'", ['compare', "'strong'", "('...',)"]),
        ("better='max'", "better='mx'", ["better of column 'mIoU'", "did you mean 'max'?"]),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed/predct/ms_per_image'",
         ["score of column 'mIoU'", "mean 'predict'?"]),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed/predct/over/base'",
         ["score of column 'mIoU'", "did you mean 'predict'?"]),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed/train/over/thn'",
         ["score of column 'mIoU'", "did you mean 'thin'?"]),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed/train/ms'",
         ["score of column 'mIoU'", "'speed/predict/over/base'"]),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed'",
         ["score of column 'mIoU'", 'train, evaluate, predict']),
        ("overrides=('model.width=0.5',)", "overrides=('model.width=0.5')",
         ["row 'thin': overrides", "('...',)"]),
        ("'model.width=0.5'", "'model.width'",
         ["row 'thin': overrides", "'model.width'", "'section.key=value'"]),
        ("'model.width=0.5'", "'model.widht=0.5'", ["row 'thin'", "did you mean 'width'?"]),
        ("'model.width=0.5'", "'train.batch_size=0'",
         ["row 'thin'", 'config.train.batch_size', '>= 1']),
        ("'model.width=0.5'", "'seed=3'", ["row 'thin'", 'config.seed=3', '--seeds']),
        ("labels={'width': '1/2'}", "after='bse'", ["row 'thin': after", "did you mean 'base'?"]),
        ("labels={'width': '1/2'}", "after='thin'",
         ["row 'thin': after", 'a circle: thin after thin']),
        ("labels={'width': '1/2'}", "evaluates='bse'",
         ["row 'thin': evaluates", "did you mean 'base'?"]),
        ("labels={'width': '1/2'}", "evaluates='base', after='strong'",
         ["row 'thin'", "and after='strong'", 'leave one of both out']),
        ("labels={'width': '1/2'}", "evaluates='base'",
         ["row 'thin': evaluates='base'", 'model.width', '(base|thin)$:model.width=VALUE']),
        ("'model.width=0.5',)", "'init_from.path=x',), after='base'",
         ['init_from.path', "'x', and after"]),
        ("compare=(", "headlines=(Difference('gap', 'mIoU', 'base', 'thn'),), compare=(",
         ["'gap'", "'thin'?"]),
        ("compare=(", "scatters=(Scatter('mIoU', 'eror'),), compare=(",
         ['scatters', "did you mean 'error'?"]),
        ("compare=(", "scatters=(('mIoU', 'error'),), compare=(", ['scatters', '(Scatter(...),)']),
        ("'mIoU', 'mIoU'", "'mIoU', 'speed/train/over/base'",
         ["column 'mIoU'", 'over a hidden row']),
        ('augment=strong', 'augment=strng', ["row 'strong'", "did you mean 'strong'?"]),
        ('supervised.py:{scale},', 'supervisd.py:{scale},',
         ["row 'strong'", 'no file configs/supervisd.py']),
        ("{'mIoU': 40.2}", '40.2', ["row 'base': published", '40.2', 'a dict']),
        ("{'mIoU': 30.5}", "{'mIuO': 30.5}",
         ["literature 'an older net': published", "mean 'mIoU'?"]),
        ("{'mIoU': 30.5}", "{'mIoU': '30.5'}", ["literature 'an older net'", 'a number']),
        ("(Literature('an", "(('an", ['literature', 'Literature(']),
        ("{'width': '1/2'}", "('width', '1/2')",
         ["row 'thin': labels", "('width', '1/2')", 'a dict']),
        ("Scale('', (0,), ('train.batch_size=16',))", "('', (0,))", ['scales', 'a dict', 'Scale(']),
        ('(0, 1, 2)', '(0, 1, 1)', ["seeds of scale 'quick'", '1 2 times']),
        ('(0, 1, 2)', '0', ["seeds of scale 'quick'", '(0, 1, 2)']),
        ('(0, 1, 2)', '(0, -1)', ['config.seed', '-1', '>= 0']),
        ("'smoke'", "'smok'", ["row 'base'", "did you mean 'smoke'?"]),
        ('        rows=rows,', '        rows=rows[0],', ['rows', "Row(key='base'", '(Row(...),)']),
        ('        rows=rows,', '        rows=(),', ['rows', '()', '(Row(...),)']),
        ('    return Table(', '    return dict(',
         ['a dict from get_table', 'segjax.modes.table.Table']),
        ('def get_table', 'def get_tabel', ['no function get_table']),
        ("{'mIoU': 40.2})", "{'mIoU': 40.2}, bits=2)", ['line 7', 'TypeError', "'bits'"]),
        ('def get_table', 'def def get_table', ['line 5', 'Python']),
    ],
)  # fmt: skip
def test_a_wrong_table_file_is_named_with_what_is_wrong(table_file, trained, old, new, fragments):
    assert old in FILE
    text = FILE.replace(old, new).replace(
        'Claim, Column', 'Claim, Column, Condition, Difference, Scatter'
    )
    if 'hidden row' in fragments[-1]:
        text = text.replace("{'mIoU': 40.2})", "{'mIoU': 40.2}, hidden=True)")
    table_file.write_text(text)
    with pytest.raises(InputError) as raised:
        start(table_file)
    for fragment in fragments:
        assert fragment in str(raised.value)
    assert str(table_file) in str(raised.value) or 'config.seed' in str(raised.value)
    assert trained == [] and not pathlib.Path('runs').exists()


@pytest.mark.parametrize(
    'conditions, fragments',
    [
        ("(Condition('mIuO', 'base', 'thin', 1),)", ["did you mean 'mIoU'?"]),
        ("(Condition('mIoU', 'base', 'tin', 1),)", ["did you mean 'thin'?"]),
        ("(Condition('mIoU', 'base', 'thin'),)", ['at_least=None, at_most=None', 'at_least=3']),
        ("(Condition('mIoU', 'base', 'thin', '1'),)", ["at_least='1'", 'a number']),
        ("Condition('mIoU', 'base', 'thin', 1)", ['a tuple, as (Condition(...),)']),
    ],
)
def test_a_wrong_condition_is_named_with_its_claim(table_file, conditions, fragments):
    claim = "'mIoU', 'base', 'thin'),"
    assert claim in FILE
    text = FILE.replace(claim, f'{claim[:-2]}, {conditions}),').replace(
        'Claim, Column', 'Claim, Column, Condition'
    )
    table_file.write_text(text)
    with pytest.raises(InputError) as raised:
        start(table_file)
    for fragment in ("claim 'width helps': only_if", *fragments):
        assert fragment in str(raised.value)


def test_numbers_that_were_not_published_have_no_entry():
    assert spec.published_numbers(('a', 'b', 'c'), (1.5, None, 0.0)) == {'a': 1.5, 'c': 0.0}
    with pytest.raises(ValueError):
        spec.published_numbers(('a', 'b'), (1.5,))


def test_columns_of_shares_are_per_cent_of_which_the_largest_is_best():
    first, second = spec.share_columns({'mIoU': 'mIoU', 'car': 'IoU/car'}, digits=2)
    assert first == spec.Column('mIoU', 'mIoU', '%', 100, 'max', 2)
    assert second.score == 'IoU/car'


def test_rows_get_their_published_numbers_by_key():
    rows = (spec.Row('a', 'A', 'x.py', published={'mIoU': 1.0}), spec.Row('b', 'B', 'x.py'))
    first, second = spec.with_published(rows, ('mIoU', 'error'), {'b': (2.0, None)})
    assert first == rows[0]
    assert second == rows[1]._replace(published={'mIoU': 2.0})


def test_methods_of_the_literature_get_their_published_numbers():
    first, second = spec.literature({'mIoU': 'mIoU', 'error': 'x'}, {'a': (1, 2), 'b': (None, 3)})
    assert first == spec.Literature('a', {'mIoU': 1, 'error': 2})
    assert second == spec.Literature('b', {'error': 3})


def test_rows_begin_from_a_row_with_common_overrides_in_front():
    trained = spec.Row('a', 'A', 'x.py', overrides=('train.num_steps=3',))
    tested = spec.Row('b', 'B', 'x.py', evaluates='a')
    rows = spec.starting_from('first/depth', (trained, tested), 'seed=1')
    assert [row.after for row in rows] == ['first/depth', '']
    assert [row.overrides for row in rows] == [('seed=1', 'train.num_steps=3'), ('seed=1',)]
