"""Lists of examples: files of names that make further splits of a data set.

An entry of `data.lists` is NAME=SPLIT:FILE. FILE has the name of an example of SPLIT on each line.
NAME is a split like any other: with slices, as NAME[:10%], and in sums, as NAME+val.
"""

import pathlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from segjax.core import text_files
from segjax.errors import InputError, unknown_name
from segjax.schema import LIST


class ExampleList(NamedTuple):
    """Some examples of a split.

    split      plain splits: 'train', or 'train+val'
    positions  of the examples in the split, in the order of the file
    """

    split: str
    positions: tuple[int, ...]


def read(
    entries: Iterable[str],
    splits: Collection[str],
    names_of: Callable[[str], Sequence[str]],
    where: str,
) -> dict[str, ExampleList]:
    """Reads the lists of a data section.

    Args:
      entries: `data.lists`, NAME=SPLIT:FILE texts.
      splits: plain splits of the data set.
      names_of: returns the names of the examples of 'train' or 'train+val', in order.
      where: the name of the data set in errors.

    Returns:
      The lists by NAME.

    Raises:
      InputError: NAME is a split already, SPLIT is unknown, or FILE is missing, empty, or has an
        unknown or a repeated name.
    """
    lists = {}
    for entry in entries:
        name, split, file = LIST.fullmatch(entry).groups()
        if name in splits:
            raise InputError(
                'config.data.lists',
                got=f'{entry!r}: {name!r} is a split of {where}',
                expected='a new name for the split of the list',
                fix=f'--config.data.lists="(\'{name}_list={split}:{file}\',)"',
            )
        for plain in split.split('+'):
            if plain not in splits:
                raise unknown_name(f'config.data.lists {entry!r}: split', plain, splits)
        positions = _positions(pathlib.Path(file).expanduser(), split, names_of(split), where)
        lists[name] = ExampleList(split, positions)
    return lists


def _positions(path: pathlib.Path, split: str, names: Sequence[str], where: str) -> tuple[int, ...]:
    """Returns the positions of the names in a file among the names of a split."""
    position_of = {name: position for position, name in enumerate(names)}
    lines = _lines(path)
    line_of: dict[str, int] = {}
    for number, name in lines:
        if name in line_of:
            raise InputError(
                f'{path}, line {number}',
                got=f'{name!r}, which is line {line_of[name]} too',
                expected='every name once',
                fix=f'remove line {number}',
            )
        if name not in position_of:
            place = f'{path}, line {number}: example of split {split!r} of {where}'
            raise _unknown_example(place, name, names)
        line_of[name] = number
    return tuple(position_of[name] for name in line_of)


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


def _unknown_example(where: str, name: str, names: Sequence[str]) -> InputError:
    """Returns the error for a name that a split lacks. It shows a few names of the split."""
    nearest = unknown_name(where, name, names)
    shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
    return nearest.replaced(expected=f'one of its {len(names)} names: {shown}')
