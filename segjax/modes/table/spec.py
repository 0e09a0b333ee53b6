"""The vocabulary of table files: tables, rows, columns, claims, and the checks of a table."""

import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from segjax.config import config_file
from segjax.errors import InputError, unknown_name
from segjax.modes import bench
from segjax.schema import is_number

EMPTY = MappingProxyType({})
SPEED = 'speed'
"""The first name in the score of a column that shows times."""


class Speed(NamedTuple):
    """The time in a column of times.

    part  of bench.PARTS: which program of the row's stage is timed
    over  key of the row by whose time it is divided, in each round; '' shows milliseconds per image
    """

    part: str
    over: str = ''


class Column(NamedTuple):
    """One number of every row: a score, or a speed, which is measured once for all rows (speed.py).

    name    heading, as in the paper: 'mIoU'
    score   its place in the scores of the row's stage: 'mIoU', 'watermark/none/PSNR'. A missing
            score, or null, leaves the cell empty. Or a time of that stage, at the config of the
            first seed: 'speed/predict/ms_per_image', or 'speed/train/over/KEY', the time per image
            over the time of row KEY. The parts are those of bench.PARTS: train, evaluate, predict
    unit    of the printed and the published numbers: '%', 'dB'
    factor  times the score is the number in that unit: 100 for a share in per cent
    better  'max' or 'min': which of our means is printed in bold; '' for none
    digits  after the point
    """

    name: str
    score: str
    unit: str = ''
    factor: float = 1.0
    better: str = ''
    digits: int = 1

    @property
    def speed(self) -> Speed | None:
        """Returns the time that the column shows; None for a score."""
        first, *names = self.score.split('/')
        if first != SPEED:
            return None
        return Speed(names[0], names[2] if names[1] == 'over' else '')


class Row(NamedTuple):
    """One line of the table: an experiment.

    key        name of its folder, unique: 'gaussian_7.38dB'
    name       as printed
    config     as after --config, where '{scale}' is replaced by the scale's variant:
               'configs/x.py:{scale},noise=max'. The file is searched in the current folder, in the
               folder of the table, and in the repository
    published  {column name: number}, in the column's unit; no entry if none was published
    overrides  'section.key=value', as after --config.; they come after the overrides of the scale
    labels     further descriptive cells by heading: {'# of bits': '2'}
    stage      whose scores are printed; '' is the last stage
    after      key of the row whose finished run this row begins from, seed by seed: 'common', or
               'holistic/depth' for one stage of that run. The run folder becomes this row's
               init_from.path
    evaluates  key of the row whose finished run this row evaluates under its own config, seed by
               seed, instead of a training. The configs may differ in the keys that --mode evaluate
               leaves free, such as evaluate.crop
    hidden     whether the row only serves as a start: trained, but not printed, plotted or timed
    """

    key: str
    name: str
    config: str
    published: Mapping[str, float] = EMPTY
    overrides: tuple[str, ...] = ()
    labels: Mapping[str, str] = EMPTY
    stage: str = ''
    after: str = ''
    evaluates: str = ''
    hidden: bool = False

    @property
    def start(self) -> str:
        """Returns the key of the row whose run this row needs; '' if there is none."""
        return self.evaluates or self.after.partition('/')[0]


class Literature(NamedTuple):
    """Published numbers of a method that no row trains. It is printed above the rows.

    name       as printed
    published  {column name: number}, in the column's unit
    labels     further descriptive cells by heading
    """

    name: str
    published: Mapping[str, float]
    labels: Mapping[str, str] = EMPTY


class Scale(NamedTuple):
    """The size of the experiments.

    variant    replaces '{scale}' in a row's config; '' also removes its comma
    seeds      trained unless --seeds names other seeds
    overrides  'section.key=value' for every row
    note       what a reader must know about the scale
    """

    variant: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    note: str = ''


def small_scale(variant: str, data: str, *overrides: str) -> Scale:
    """Builds a scale for quick runs: three seeds, trainings of minutes, final scores only.

    Args:
      variant: as in Scale.
      data: the training data, as the note names them: 'CamVid at 128x96'.
      *overrides: further overrides.
    """
    scores_alone = ('logging.num_pictures=0', 'logging.eval_every=0', 'logging.checkpoint_every=0')
    note = (
        f'Narrow nets from scratch on {data}, a training of minutes: an experiment of its own. '
        'Its numbers are not comparable with the published numbers. Only their order is.'
    )
    return Scale(variant, (0, 1, 2), (*scores_alone, *overrides), note)


STREETS = 'the procedural world `streets`'
"""The name of the data set `streets` for `small_scale`."""


SEGMENTATION_SCORES = {
    'PixelAcc': 'pixel_accuracy',
    'ClassAcc': 'class_accuracy',
    'mIoU': 'mIoU',
    'fwIoU': 'fwIoU',
}
"""{name of a column: score} of the four customary scores of segmentation, for `share_columns`."""


def share_columns(scores: Mapping[str, str], digits: int = 1) -> tuple[Column, ...]:
    """Builds columns of shares, printed in per cent, of which the largest is the best.

    Args:
      scores: {name of the column: its score}, as in Column.
      digits: after the point.
    """
    columns = []
    for name, score in scores.items():
        columns.append(Column(name, score, unit='%', factor=100, better='max', digits=digits))
    return tuple(columns)


def published_numbers(columns: Iterable[str], values: Iterable[float | None]) -> dict[str, float]:
    """Returns {column name: number} for `Row.published`, without numbers that were not published.

    Args:
      columns: names of the columns.
      values: a number for each column, None if it was not published.
    """
    pairs = zip(columns, values, strict=True)
    return {column: value for column, value in pairs if value is not None}


def literature(
    columns: Collection[str], numbers: Mapping[str, Sequence[float | None]]
) -> tuple[Literature, ...]:
    """Returns entries of `Table.literature` without further labels.

    Args:
      columns: names of columns.
      numbers: by name of a method, as `values` of `published_numbers`.
    """
    entries = []
    for name, values in numbers.items():
        entries.append(Literature(name, published_numbers(columns, values)))
    return tuple(entries)


def with_published(
    rows: Iterable[Row], columns: Collection[str], numbers: Mapping[str, Sequence[float | None]]
) -> tuple[Row, ...]:
    """Returns rows with their published numbers. Rows without an entry keep theirs.

    Args:
      rows: of a table.
      columns: names of columns.
      numbers: by key of a row, as `values` of `published_numbers`.
    """
    completed = []
    for row in rows:
        if row.key in numbers:
            row = row._replace(published=published_numbers(columns, numbers[row.key]))
        completed.append(row)
    return tuple(completed)


def starting_from(start: str, rows: Iterable[Row], *overrides: str) -> tuple[Row, ...]:
    """Returns rows that begin from the run of another row.

    Args:
      start: as `Row.after`. A row that evaluates a run has no start of its own.
      rows: of a table.
      *overrides: of all these rows, in front of their own.
    """
    begun = []
    for row in rows:
        after = '' if row.evaluates else start
        begun.append(row._replace(after=after, overrides=(*overrides, *row.overrides)))
    return tuple(begun)


class Condition(NamedTuple):
    """Bounds the mean difference of two rows: `column` in row `higher` minus row `lower`.

    The difference is paired by seed.

    at_least  smallest accepted difference; None for no such bound
    at_most   largest accepted size of the difference, of either sign; None for no such bound
    why       reason, printed if the condition fails
    """

    column: str
    higher: str
    lower: str
    at_least: float | None = None
    at_most: float | None = None
    why: str = ''


class Claim(NamedTuple):
    """An ordering that the paper claims: `column` is larger in row `higher` than in row `lower`.

    The verdict is withheld unless every condition of `only_if` holds for the measured means.
    """

    text: str
    column: str
    higher: str
    lower: str
    only_if: tuple[Condition, ...] = ()


class Difference(NamedTuple):
    """A figure above the table: the mean of `column` in row `higher` minus row `lower`.

    The difference is paired by seed.

    name    of the figure
    unit    of the figure; '' is the unit of the column
    wanted  the size that the experiment needs, in words: 'at least 3'
    """

    name: str
    column: str
    higher: str
    lower: str
    unit: str = ''
    wanted: str = ''


class Scatter(NamedTuple):
    """A plot of all rows by two columns, such as accuracy over diversity.

    x  name of the column of the horizontal axis
    y  name of the column of the vertical axis
    """

    x: str
    y: str


class Table(NamedTuple):
    """The content of a table file.

    title      as printed
    source     the paper, and the number of the table in it
    columns    in order
    rows       in order
    scales     by name: 'quick', 'paper'
    notes      a paragraph below the title
    compare    keys of the rows whose classes are compared; () is the first five
    claims     orderings that the paper claims
    headlines  differences printed above the table
    literature published numbers of further methods, in order
    scatters   plots of the rows by two columns, in order
    """

    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    scales: Mapping[str, Scale]
    notes: str = ''
    compare: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    headlines: tuple[Difference, ...] = ()
    literature: tuple[Literature, ...] = ()
    scatters: tuple[Scatter, ...] = ()

    @property
    def shown(self) -> tuple[Row, ...]:
        """Returns the rows that the outputs print."""
        return tuple(row for row in self.rows if not row.hidden)

    def row(self, key: str) -> Row:
        """Returns the row of a key."""
        return next(row for row in self.rows if row.key == key)

    def column(self, name: str) -> Column:
        """Returns the column of a name."""
        return next(column for column in self.columns if column.name == name)


def load(path: pathlib.Path) -> Table:
    """Loads and checks the table of a file.

    Raises:
      InputError: no such file, an error in it (with its line), or a table that contradicts itself.
    """
    get_table = config_file.function(
        path, 'get_table', '--table', 'configs/tables/noise_cyclegan_table2.py'
    )
    table = config_file.call(path, get_table)
    if not isinstance(table, Table):
        got = f'a {type(table).__name__} from get_table'
        raise InputError(str(path), got=got, expected='a segjax.modes.table.Table')
    _check(table, str(path))
    return table


# --- checks of a table ----------------------------------------------------------------------------


def _check(table: Table, where: str) -> None:
    """Raises InputError if names are not unique, or name nothing that exists."""
    # Types first: the checks below read fields of the entries.
    entries = {
        'columns': Column,
        'rows': Row,
        'claims': Claim,
        'compare': str,
        'headlines': Difference,
        'literature': Literature,
        'scatters': Scatter,
    }
    for field, kind in entries.items():
        empty = field not in ('columns', 'rows')
        _check_tuple(f'{where}: {field}', getattr(table, field), kind, empty)
    # Names, before the checks that look them up.
    columns = _unique(f'{where}: columns', (column.name for column in table.columns))
    keys = _unique(f'{where}: rows', (row.key for row in table.rows))
    for column in table.columns:
        _check_column(table, column, where, keys)
    for row in table.rows:
        _check_row(f'{where}: row {row.key!r}', row, columns)
    for entry in table.literature:
        _check_published(f'{where}: literature {entry.name!r}', entry, columns)
    for scatter in table.scatters:
        for name in scatter:
            _known(f'{where}: scatters', name, columns)
    _check_starts(table, where)
    # Scales and their seeds.
    _check_mapping(f'{where}: scales', table.scales, Scale, "{'quick': Scale('quick', (0, 1, 2))}")
    for name, scale in table.scales.items():
        _check_tuple(f'{where}: seeds of scale {name!r}', scale.seeds, int)
        _unique(f'{where}: seeds of scale {name!r}', scale.seeds)
        _check_overrides(f'{where}: scale {name!r}', scale.overrides)
    # Everything that compares rows refers to columns and rows by name.
    for claim in table.claims:
        _check_claim(f'{where}: claim {claim.text!r}', claim, columns, keys)
    for headline in table.headlines:
        _check_difference(f'{where}: headline {headline.name!r}', headline, columns, keys)
    for key in table.compare:
        _known(f'{where}: compare', key, keys)


def _check_column(table: Table, column: Column, where: str, keys: Sequence[str]) -> None:
    """Raises InputError for a column with an unknown `better`, or a time that is not measured."""
    better = ('max', 'min', '')
    if column.better not in better:
        raise unknown_name(f'{where}: better of column {column.name!r}', column.better, better)
    _check_score(f'{where}: score of column {column.name!r}', column.score, keys)
    if column.speed and column.speed.over and table.row(column.speed.over).hidden:
        raise InputError(
            f'{where}: column {column.name!r}',
            got=f'{column.score!r}, over a hidden row',
            expected='a row that is shown and timed',
        )


def _check_score(where: str, score: str, keys: Sequence[str]) -> None:
    """Raises InputError for a speed that cannot be measured.

    Scores that are no speeds are known only after the first run.
    """
    match score.split('/'):
        case [first, *_] if first != SPEED:
            return
        case [_, part, 'ms_per_image']:
            _known(where, part, bench.PARTS)
        case [_, part, 'over', key]:
            _known(where, part, bench.PARTS)
            _known(where, key, keys)
        case _:
            part = bench.PARTS[-1]
            expected = (
                f"'{SPEED}/{part}/ms_per_image', "
                f"or '{SPEED}/{part}/over/{keys[0]}' with the key of a row"
            )
            raise InputError(
                where, got=repr(score), expected=f'{expected}; parts: {", ".join(bench.PARTS)}'
            )


def _check_row(where: str, row: Row, columns: Sequence[str]) -> None:
    """Raises InputError for a row with a wrong key, published number, label or override."""
    if not re.fullmatch(r'[\w+-][\w.+-]*', row.key):
        expected = 'the name of a folder: letters, digits and any of _ . + -'
        raise InputError(where, got=repr(row.key), expected=expected)
    _check_published(where, row, columns)
    _check_overrides(where, row.overrides)


def _check_published(where: str, entry: Row | Literature, columns: Sequence[str]) -> None:
    """Raises InputError for a wrong published number or label."""
    for field in ('published', 'labels'):
        mapping = getattr(entry, field)
        _check_mapping(f'{where}: {field}', mapping, (str, int, float), "{'name': ...}")
    for name, number in entry.published.items():
        _known(f'{where}: published', name, columns)
        if not is_number(number):
            raise InputError(
                f'{where}: published', got=f'{name}: {number!r}', expected='a number, or no entry'
            )


def _check_starts(table: Table, where: str) -> None:
    """Raises InputError if rows need an unknown row, or each other in a circle."""
    starts = {row.key: row.start for row in table.rows}
    for row in table.rows:
        at_row = f'{where}: row {row.key!r}'
        if row.start:
            _known(f'{at_row}: {"evaluates" if row.evaluates else "after"}', row.start, starts)
        if row.evaluates and (row.after or table.row(row.evaluates).evaluates):
            also = f'after={row.after!r}' if row.after else f'row {row.evaluates!r} trains nothing'
            raise InputError(
                at_row,
                got=f'evaluates={row.evaluates!r}, and {also}',
                expected='a row that trains, as evaluates, and no `after`',
                fix='leave one of both out',
            )
    for key in starts:
        path = [key]
        while starts[path[-1]]:
            path.append(starts[path[-1]])
            if path[-1] == key:
                raise InputError(
                    f'{where}: row {key!r}: after',
                    got=f'a circle: {" after ".join(path)}',
                    expected='a row that does not wait for this one',
                )
            # A circle further down the path, which is found from one of its own rows.
            if path[-1] in path[:-1]:
                break


def _check_claim(where: str, claim: Claim, columns: Sequence[str], keys: Sequence[str]) -> None:
    """Raises InputError for a claim or a condition about unknown rows or columns."""
    _check_difference(where, claim, columns, keys)
    _check_tuple(f'{where}: only_if', claim.only_if, Condition, empty=True)
    for condition in claim.only_if:
        _check_difference(f'{where}: only_if', condition, columns, keys)
        _check_bounds(f'{where}: only_if', condition)


def _check_difference(
    where: str,
    difference: Claim | Condition | Difference,
    columns: Sequence[str],
    keys: Sequence[str],
) -> None:
    """Raises InputError for a column or a row that the table does not have."""
    _known(f'{where}: column', difference.column, columns)
    for key in (difference.higher, difference.lower):
        _known(where, key, keys)


def _check_bounds(where: str, condition: Condition) -> None:
    """Raises InputError for a condition without a bound, or with a bound that is no number."""
    bounds = [x for x in (condition.at_least, condition.at_most) if x is not None]
    if not bounds or not all(map(is_number, bounds)):
        got = f'at_least={condition.at_least!r}, at_most={condition.at_most!r}'
        raise InputError(
            where, got=got, expected='a number for at least one of the two', fix='at_least=3'
        )


# --- checks of values -----------------------------------------------------------------------------


def _check_tuple(where: str, value: Any, kind: type, empty: bool = False) -> None:
    """Raises InputError unless the value is a tuple of `kind`.

    A comma is easily forgotten: (Row(...)) and ('a=1') are no tuples.
    """
    plain = isinstance(value, (tuple, list)) and not hasattr(value, '_fields')
    if not plain or not all(isinstance(v, kind) for v in value) or not (value or empty):
        example = {str: "('...',)", int: '(0, 1, 2)'}.get(kind, f'({kind.__name__}(...),)')
        raise InputError(where, got=repr(value)[:80], expected=f'a tuple, as {example}')


def _check_mapping(where: str, value: Any, kind: type | tuple[type, ...], example: str) -> None:
    """Raises InputError unless the value is a mapping to values of `kind`."""
    if not isinstance(value, Mapping) or not all(isinstance(v, kind) for v in value.values()):
        raise InputError(where, got=repr(value)[:80], expected=f'a dict, as {example}')


def _check_overrides(where: str, overrides: Sequence[str]) -> None:
    """Raises InputError unless all overrides are 'section.key=value'."""
    _check_tuple(f'{where}: overrides', overrides, str, empty=True)
    for item in overrides:
        if '=' not in item:
            raise InputError(f'{where}: overrides', got=repr(item), expected="'section.key=value'")


def _unique(where: str, names: Iterable[Any]) -> list[Any]:
    """Returns the names as a list. Raises InputError if a name occurs twice."""
    names = list(names)
    for name in names:
        if names.count(name) > 1:
            got = f'{name!r} {names.count(name)} times'
            raise InputError(where, got=got, expected='a name of its own for each')
    return names


def _known(where: str, name: str, names: Iterable[str]) -> None:
    """Raises InputError for an unknown name."""
    if name not in names:
        raise unknown_name(where, name, names)
