"""Lists of examples: files of names, or draws, that make further splits of a data set.

An entry of `data.lists` is NAME=SPLIT:FILE. FILE has the name of an example of SPLIT on each line.
NAME is a split like any other: with slices, as NAME[:10%], and in sums, as NAME+val. In
NAME=SPLIT:draw(SIZE) chance chooses the examples (segjax/data/draws.py).

Lists may share examples. An input of a stage names splits that it shares no example with
(`Input.excludes`), as members and non-members.
"""

import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from segjax.core import text_files
from segjax.data import draws
from segjax.data.index import Index
from segjax.errors import InputError, unknown_name
from segjax.schema import LIST, typed_text


class ExampleList(NamedTuple):
    """Some examples of a split.

    split      plain splits: 'train', or 'train+val'
    positions  of the examples in the split. In the order of the file, or ascending in a draw
    """

    split: str
    positions: tuple[int, ...]


def read(
    entries: Sequence[str],
    splits: Collection[str],
    facts_of: Callable[[str], Index],
    where: str,
) -> dict[str, ExampleList]:
    """Reads the lists of a data section.

    Args:
      entries: `data.lists`, NAME=SPLIT:FILE or NAME=SPLIT:draw(SIZE) texts.
      splits: plain splits of the data set.
      facts_of: returns the facts of the examples of 'train' or 'train+val', in order.
      where: the name of the data set in errors.

    Returns:
      The lists by NAME.

    Raises:
      InputError: NAME is a split already, SPLIT is unknown, or FILE is missing, empty, or has an
        unknown or a repeated name. A draw has too few examples.
    """
    lists: dict[str, ExampleList] = {}
    taken: set[tuple[str, int]] = set()
    for number, entry in enumerate(entries):
        name, split, file = LIST.fullmatch(entry).groups()
        if name in splits:
            raise InputError(
                'config.data.lists',
                got=f'{entry!r}: {name!r} is a split of {where}',
                expected='a new name for the split of the list',
                fix=_typed(entries, number, f'{name}_list={split}:{file}'),
            )
        for plain in split.split('+'):
            if plain not in splits:
                raise unknown_name(f'config.data.lists {entry!r}: split', plain, splits)

        # Later draws leave the examples of this list out.
        facts = facts_of(split)
        places = _places(split, facts_of)
        draw = draws.parse(name, file)
        if draw is None:
            positions = _positions(
                pathlib.Path(file).expanduser(), split, facts.name.tolist(), where
            )
        else:
            is_free = [place not in taken for place in places]
            try:
                positions = _drawn(draw, facts, is_free, f'config.data.lists {entry!r} of {where}')
            except InputError as error:
                text = _tried_fix(error.fix, name, facts, is_free)
                fix = _typed(entries, number, f'{name}={split}:{text}') if text else ''
                raise error.replaced(fix=fix) from error
        taken |= {places[position] for position in positions}
        lists[name] = ExampleList(split, positions)
    return lists


def _typed(entries: Sequence[str], number: int, entry: str) -> str:
    """Returns the argument with which a user replaces an entry of `data.lists`."""
    changed = (*entries[:number], entry, *entries[number + 1 :])
    return f'--config.data.lists={typed_text(changed)}'


def _places(split: str, facts_of: Callable[[str], Index]) -> list[tuple[str, int]]:
    """Returns (plain split, position in the plain split) of each example of a sum of splits."""
    places: list[tuple[str, int]] = []
    for plain in split.split('+'):
        places += [(plain, position) for position in range(len(facts_of(plain).name))]
    return places


def _drawn(draw: draws.Draw, facts: Index, is_free: Sequence[bool], where: str) -> tuple[int, ...]:
    """Returns the positions of the examples that a draw chooses.

    Args:
      draw: the draw.
      facts: of the examples of the split.
      is_free: whether no earlier list has the example.
      where: the entry, for errors.
    """
    group_of = draws.groups(draw, facts, where)
    # These rules draw from groups of which no earlier list has a part.
    if draw.rule in ('whole', 'single'):
        used = {group for group, free in zip(group_of, is_free, strict=True) if not free}
        is_free = [group not in used for group in group_of]
    free = [position for position, is_own in enumerate(is_free) if is_own and group_of[position]]
    names = [str(facts.name[position]) for position in free]
    free_groups = [group_of[position] for position in free]
    chosen = draws.choose(draw, names, free_groups, where)
    return tuple(free[position] for position in chosen)


def _tried_fix(text: str, name: str, facts: Index, is_free: Sequence[bool]) -> str:
    """Returns the text of a draw that can be drawn, '' if there is none.

    Args:
      text: fix of an error of a draw. A draw by this text may raise another error, whose fix is
        tried next.
      name: of the list.
      facts, is_free: as in `_drawn`.
    """
    while text:
        try:
            _drawn(draws.parse(name, text), facts, is_free, '')
        except InputError as error:
            text = error.fix
        else:
            break
    return text


def _positions(path: pathlib.Path, split: str, names: Sequence[str], where: str) -> tuple[int, ...]:
    """Returns the positions of the names in a file among the names of a split.

    Raises:
      InputError: repeated or unknown names. The error has the first and the number of the rest.
    """
    position_of = {name: position for position, name in enumerate(names)}
    line_of: dict[str, int] = {}
    repeated = []
    unknown = []
    for number, name in _lines(path):
        if name in line_of:
            repeated.append((number, name))
        elif name not in position_of:
            unknown.append((number, name))
        line_of.setdefault(name, number)

    # The first problem, with the number of the rest.
    if repeated:
        number, name = repeated[0]
        raise InputError(
            f'{path}, line {number}',
            got=f'{name!r}, which is line {line_of[name]} too{_more(repeated, "repeated")}',
            expected='every name once',
            fix=f'remove line {number}',
        )
    if unknown:
        number, name = unknown[0]
        place = f'{path}, line {number}: example of split {split!r} of {where}'
        raise _unknown_example(place, name, names, _more(unknown, 'unknown'))
    return tuple(position_of[name] for name in line_of)


def _more(problems: Sequence[tuple[int, str]], kind: str) -> str:
    """Returns the number of further problems as text, '' if there is none."""
    if len(problems) == 1:
        return ''
    lines = ', '.join(str(number) for number, _ in problems[1:4])
    dots = ', ...' if len(problems) > 4 else ''
    return f' ({len(problems) - 1} more {kind} names, in lines {lines}{dots})'


def _lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """Returns (line number, name) for each line of a file that is not empty.

    Raises:
      InputError: the file cannot be read, or has no names.
    """
    expected = 'a text file with the name of an example on each line'
    try:
        text = text_files.read(path)
    except (OSError, UnicodeDecodeError) as error:
        got = 'no such file' if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f'config.data.lists {path}', got=got, expected=expected) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    names = [(number, name) for number, name in lines if name]
    if not names:
        raise InputError(f'config.data.lists {path}', got='no names', expected=expected)
    return names


def _unknown_example(where: str, name: str, names: Sequence[str], more: str) -> InputError:
    """Returns the error for a name that a split lacks. It shows a few names of the split.

    Args:
      where: file and line.
      name: the unknown name.
      names: of the split.
      more: tells of further unknown names.
    """
    nearest = unknown_name(where, name, names)
    shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
    expected = f'one of its {len(names)} names: {shown}'
    return nearest.replaced(got=f'{name!r}{more}', expected=expected)
