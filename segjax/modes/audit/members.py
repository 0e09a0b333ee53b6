"""Lists of members and non-members: text files of names, or a CSV of both."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segjax.core import text_files
from segjax.errors import InputError, unknown_name
from segjax.metrics.confound import FOLDS

CSV = '.csv'
HEAD = ['name', 'member']
TRUTHS = {'1': True, 'true': True, '0': False, 'false': False}
"""Values of the column `member`, in lower case."""

SUFFIX = '.npz'
"""Ending of a file of posteriors. Names in lists may have it."""


class Lists(NamedTuple):
    """Names as the user lists them.

    members      names of members, each once
    nonmembers   names of non-members, each once. None: not listed
    where        the files, for errors
    """

    members: tuple[str, ...]
    nonmembers: tuple[str, ...] | None
    where: str


class Asked(NamedTuple):
    """The images that the net is asked about, members first.

    names   of the images
    member  [N] bool
    """

    names: tuple[str, ...]
    member: np.ndarray


# --- reading --------------------------------------------------------------------------------------


def read(members: pathlib.Path, nonmembers: pathlib.Path | None = None) -> Lists:
    """Reads the lists of a user.

    Args:
      members: a text file with a name on each line, or a CSV with the columns name and member.
      nonmembers: a text file. None: the CSV names them, or they are not listed.

    Raises:
      InputError: a file that cannot be read or has no names, a name twice or in both lists, or a
        CSV with a second file.
    """
    if members.suffix.lower() == CSV:
        if nonmembers is not None:
            raise InputError(
                '--nonmembers',
                got=f'{nonmembers}, and the column member of {members}',
                expected='a CSV of both kinds, or a text file of each kind',
                fix='leave --nonmembers out',
            )
        lists = _read_csv(members)
    else:
        of_rest = None if nonmembers is None else read_names('--nonmembers', nonmembers)
        where = f'--members {members}' + (f' --nonmembers {nonmembers}' if nonmembers else '')
        lists = Lists(read_names('--members', members), of_rest, where)
    check_disjoint(lists)
    return lists


def read_names(flag: str, path: pathlib.Path, empty: bool = False) -> tuple[str, ...]:
    """Reads a text file with a name on each line. Empty lines and lines behind # are skipped.

    Args:
      flag: names the file in errors.
      path: of the file.
      empty: whether a file without names is right.

    Raises:
      InputError: no readable file, no name, or a name twice.
    """
    lines = _text(flag, path).splitlines()
    names = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if name and not name.startswith('#'):
            names.append((number, name.removesuffix(SUFFIX)))
    return _unique(flag, path, names, empty)


def _read_csv(path: pathlib.Path) -> Lists:
    """Reads a CSV with the columns name and member."""
    where = f'--members {path}'
    rows = list(csv.reader(io.StringIO(_text('--members', path))))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if head != HEAD:
        raise InputError(
            f'{where}, line 1',
            got=','.join(head) or 'nothing',
            expected=','.join(HEAD),
            fix=f'{",".join(HEAD)} as first line, then lines such as aachen_000000_000019,1',
        )
    # Names of members and of non-members, with their lines.
    kinds: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        truth = TRUTHS.get(row[1].strip().lower()) if len(row) == 2 else None
        if truth is None:
            raise InputError(
                f'{where}, line {number}', got=','.join(row), expected='a name, and 1 or 0'
            )
        kinds[truth].append((number, row[0].strip().removesuffix(SUFFIX)))
    members = _unique('--members', path, kinds[True], False)
    if not kinds[False]:
        return Lists(members, None, where)
    return Lists(members, _unique('--members', path, kinds[False], False), where)


def _text(flag: str, path: pathlib.Path) -> str:
    """Returns the text of a list."""
    try:
        return text_files.read(path)
    except (OSError, UnicodeDecodeError) as error:
        got = 'no such file' if isinstance(error, FileNotFoundError) else str(error)
        expected = 'a text file with the name of an image on each line, or a CSV'
        raise InputError(f'{flag} {path}', got=got, expected=expected) from error


def _unique(
    flag: str, path: pathlib.Path, names: Sequence[tuple[int, str]], empty: bool
) -> tuple[str, ...]:
    """Returns names without their lines. Raises InputError for no name, and for a name twice."""
    if not names and not empty:
        raise InputError(
            f'{flag} {path}', got='no names', expected='the name of an image on each line'
        )
    line_of: dict[str, int] = {}
    for number, name in names:
        if name in line_of:
            raise InputError(
                f'{flag} {path}, line {number}',
                got=f'{name!r}, which is in line {line_of[name]} too',
                expected='every name once',
                fix=f'remove line {number}',
            )
        line_of[name] = number
    return tuple(line_of)


# --- checks ---------------------------------------------------------------------------------------


def check_disjoint(lists: Lists) -> None:
    """Raises InputError for images that are listed as members and as non-members."""
    both = sorted(set(lists.members) & set(lists.nonmembers or ()))
    if both:
        raise InputError(
            lists.where,
            got=f'{len(both)} images that are members and non-members: {shortened(both)}',
            expected='lists without a common image',
            fix='remove them from one of the lists',
        )


def choose(lists: Lists, known: Sequence[str], place: str) -> Asked:
    """Returns the listed images. Without a list of non-members, all further images are.

    Args:
      lists: of the user.
      known: names of all images that can be asked about.
      place: of these images, for errors.

    Raises:
      InputError: a listed name that is unknown, an image in no list, or too few images of a kind.
    """
    rest = lists.nonmembers
    if rest is None:
        listed = set(lists.members)
        rest = tuple(name for name in known if name not in listed)
    check_known(lists.where, (*lists.members, *rest), known, place)
    _check_listed(lists, known, place)
    are_listed = lists.nonmembers is not None
    check_numbers(lists.where, len(lists.members), len(rest), are_listed)
    member = np.arange(len(lists.members) + len(rest)) < len(lists.members)
    return Asked((*lists.members, *rest), member)


def _check_listed(lists: Lists, known: Sequence[str], place: str) -> None:
    """Raises InputError for images that are in neither of two lists."""
    if lists.nonmembers is None:
        return
    listed = {*lists.members, *lists.nonmembers}
    unlisted = [name for name in known if name not in listed]
    if unlisted:
        raise InputError(
            lists.where,
            got=f'{len(unlisted)} images of {place} in no list: {shortened(unlisted)}',
            expected='every image in a list',
            fix='list them, move their files away, or list members alone: all further images are '
            'then non-members',
        )


def check_known(where: str, names: Iterable[str], known: Iterable[str], place: str) -> None:
    """Raises InputError for the first listed name that is unknown.

    Args:
      where: the lists, for errors.
      names: listed.
      known: names of all images.
      place: of the known images.
    """
    of_place = set(known)
    unknown = [name for name in names if name not in of_place]
    if unknown:
        nearest = unknown_name(where, unknown[0], of_place)
        shown = shortened(sorted(of_place)) if of_place else 'no image'
        more = f', and {len(unknown) - 1} more' if unknown[1:] else ''
        raise InputError(
            where,
            got=f'{unknown[0]!r}{more}, which {place} lacks',
            expected=f'names of images in {place}, as {shown}',
            fix=nearest.fix or f'remove {unknown[0]!r} from the list',
        )


def check_numbers(where: str, num_members: int, num_rest: int, are_listed: bool = True) -> None:
    """Raises InputError unless there are enough images of both kinds to compare them.

    Args:
      where: the lists, for errors.
      num_members: number of members.
      num_rest: number of non-members.
      are_listed: whether the user names the non-members.
    """
    fixes = {'members': 'list more members', 'non-members': 'list fewer images as members'}
    if are_listed:
        fixes['non-members'] = 'list more non-members, or leave --nonmembers out'
    for kind, number in (('members', num_members), ('non-members', num_rest)):
        if number < FOLDS:
            raise InputError(
                where,
                got=f'{number} {kind}',
                expected=f'at least {FOLDS} members and {FOLDS} non-members',
                fix=fixes[kind],
            )


def shortened(names: Sequence[str]) -> str:
    """Returns the first three names, with dots for further names."""
    return ', '.join(names[:3]) + (', ...' if names[3:] else '')
