"""Draws: lists of examples by chance, as a function of a seed and of the names of the examples.

`data.lists` takes draws in place of files: NAME=SPLIT:draw(SIZE), with seed=SEED and a rule as
options. A draw takes examples of SPLIT that no earlier list has. So the draws of a config are
disjoint, also if their splits overlap.

The MD5 hashes of (seed, name of the list, name of the example) order the examples. Thus a draw
depends on no random generator, and the orders of two lists are independent. With a common order, a
list would get the examples that an earlier draw left behind, and their splits would show it.

  draw(SIZE)                 the first SIZE examples
  draw(SIZE, spread=GROUP)   SIZE examples, with equal shares of the examples of every group
  draw(SIZE, whole=GROUP)    whole groups, so that no other draw has an example of the same group.
                             The sum of their sizes is the largest possible sum of at most SIZE
  draw(SIZE, single=GROUP)   an example of each of SIZE groups. No other draw has a part of them

GROUP is `city` (the first part of a name of Cityscapes), `sequence` (the clip of an example), or
`9of12`: the first 9 of 12 consecutive examples of a sequence. No draw has the last 3, so frames of
other groups are more than 3 frames apart. Blocks count the examples of SPLIT, so all draws of
blocks need the same SPLIT.
Members and non-members of other cities differ in more than membership: `spread` excludes this.
Members and non-members of the same sequence show nearly the same scene: `whole` excludes this.
Few whole sequences differ in their scenes, and their frames are no independent examples. `single`
draws independent scenes. With few long sequences, `whole=9of12` draws parts of all of them.
"""

import collections
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segjax.data.builders.cityscapes import FRAME_NAME
from segjax.data.index import Index
from segjax.errors import InputError
from segjax.schema import DRAW

PUBLISHED = {
    'cityscapes': (
        ('victim_members', 'train', 1488),
        ('victim_non_members', 'train', 912),
        ('shadow_members', 'train+val', 555),
        ('shadow_non_members', 'train+val', 520),
    ),
    'bdd100k': (
        ('shadow_members', 'train', 4000),
        ('shadow_non_members', 'train+val', 4000),
    ),
    'vistas': (
        ('shadow_members', 'train', 10_000),
        ('shadow_non_members', 'train+val', 10_000),
    ),
}
"""By data set: (list, split, size) of the published study of membership inference, in order.

The lists of a data set have no example in common. The last list is the rest of its split.
Source: He et al., Segmentations-Leak, ECCV 2020: the numbers of lines of the files in `splits`
(SSAW14/segmentation_membership_inference). The thesis prints 1448 and 952 for the victim, with the
same sum. Its Table 7.1 has the numbers of BDD100K and of Mapillary Vistas.
"""


class Draw(NamedTuple):
    """A draw of an entry of `data.lists`.

    name   of the list
    size   number of examples
    seed   another seed gives another draw
    rule   '', 'spread', 'whole' or 'single'
    group  'city', 'sequence' or a text like '9of12', '' without a rule
    """

    name: str
    size: int
    seed: int = 0
    rule: str = ''
    group: str = ''


def parse(name: str, text: str) -> Draw | None:
    """Returns the draw that a text describes, None for the path of a file.

    Args:
      name: of the list.
      text: behind the split of an entry of `data.lists`.
    """
    match = DRAW.fullmatch(text)
    if match is None:
        return None
    size, seed, rule, group = match.groups()
    return Draw(name, int(size), int(seed or 0), rule or '', group or '')


def as_text(draw: Draw) -> str:
    """Returns the text of a draw, which `parse` reads."""
    rule = f', {draw.rule}={draw.group}' if draw.rule else ''
    return f'draw({draw.size}, seed={draw.seed}{rule})'


def published_lists(data_set: str, options: str = '') -> tuple[str, ...]:
    """Returns `data.lists` with draws of the published sizes.

    Args:
      data_set: a key of `PUBLISHED`.
      options: of the draws, as 'seed=1, spread=city'.
    """
    behind = f', {options}' if options else ''
    return tuple(
        f'{name}={split}:draw({size}{behind})' for name, split, size in PUBLISHED[data_set]
    )


def groups(draw: Draw, facts: Index, where: str) -> list[str]:
    """Returns the group of each example, '' for an example that no draw may have.

    Without a rule, each example is a group of its own.

    Args:
      draw: names the kind of the groups.
      facts: of the examples of a split.
      where: the entry of `data.lists`, for errors.

    Raises:
      InputError: an example without such a group, or blocks that keep more examples than they have.
        The fix is the text of a draw that has groups.
    """
    names = facts.name.tolist()
    if not draw.group:
        return names
    group_of = facts.sequence.tolist()
    expected = 'video, whose examples have a sequence'
    if draw.group == 'city':
        group_of = [_city(name) for name in names]
        expected = 'names of Cityscapes, as aachen_000000_000019'
    without = [name for name, group in zip(names, group_of, strict=True) if not group]
    if without:
        plain = draw._replace(size=min(draw.size, len(names)), rule='', group='')
        raise InputError(
            where,
            got=f'{len(without)} of {len(names)} examples without a {draw.group}, '
            f'the first is {without[0]!r}',
            expected=expected,
            fix=as_text(plain),
        )
    return _blocks(draw, facts, where) if 'of' in draw.group else group_of


def _blocks(draw: Draw, facts: Index, where: str) -> list[str]:
    """Returns the block of each frame, '' for the last frames of a block, which separate blocks."""
    kept, length = (int(number) for number in draw.group.split('of'))
    if kept > length:
        raise InputError(
            where,
            got=f'{draw.rule}={draw.group}: the first {kept} of {length} examples',
            expected='a number of kept examples up to the length of a block',
            fix=as_text(draw._replace(group=f'{length}of{kept}')),
        )
    # Places of a sequence count its examples in this split, in the order of their frames.
    group_of = [''] * len(facts.name)
    places: collections.Counter[str] = collections.Counter()
    for position in np.lexsort((facts.frame, facts.sequence)).tolist():
        sequence = str(facts.sequence[position])
        block, place = divmod(places[sequence], length)
        places[sequence] += 1
        if place < kept:
            group_of[position] = f'{sequence} {block}'
    return group_of


def _city(name: str) -> str:
    """Returns the city of a frame of Cityscapes, '' for another form of name."""
    match = FRAME_NAME.fullmatch(name)
    return match['city'] if match else ''


def choose(draw: Draw, names: Sequence[str], group_of: Sequence[str], where: str) -> list[int]:
    """Returns the positions of the drawn examples, ascending.

    Args:
      draw: the draw.
      names: of the examples that may be drawn.
      group_of: the group of each of them. `whole` and `single` draw from groups of which every
        example may be drawn.
      where: the entry of `data.lists`, for errors.

    Raises:
      InputError: there are fewer examples or groups, or every group is larger than the draw. The
        fix is the text of a draw that can be drawn, '' if no example may be drawn.
    """
    if draw.rule == 'single':
        return _single(draw, names, group_of, where)
    if len(names) < draw.size:
        raise InputError(
            where,
            got=f'{draw.size} examples, of {len(names)} that may be drawn',
            expected='a size up to the number of examples that no earlier list has',
            fix=as_text(draw._replace(size=len(names))) if names else '',
        )
    if draw.rule == 'whole':
        return _whole(draw, group_of, where)
    hashes = [_hash(draw, name) for name in names]
    if draw.rule == 'spread':
        hashes = _shares(hashes, group_of)
    order = sorted(range(len(names)), key=hashes.__getitem__)
    return sorted(order[: draw.size])


def _hash(draw: Draw, name: str) -> str:
    """Returns hexadecimal digits that order the names of examples or groups by chance."""
    return hashlib.md5(f'{draw.seed} {draw.name} {name}'.encode()).hexdigest()


def _shares(hashes: Sequence[str], group_of: Sequence[str]) -> list[tuple[float, str]]:
    """Returns (share, hash) for each example, an order in which groups are mixed evenly.

    Example i of the n examples of a group, in the order of the hashes, has the share (i + 1/2) / n.
    The first examples in the order of the shares have equal shares of every group.
    """
    members = collections.defaultdict(list)
    for position, group in enumerate(group_of):
        members[group].append(position)
    shares: list[tuple[float, str]] = [(0.0, '')] * len(hashes)
    for positions in members.values():
        ordered = sorted(positions, key=hashes.__getitem__)
        for rank, position in enumerate(ordered):
            shares[position] = ((rank + 0.5) / len(ordered), hashes[position])
    return shares


def _whole(draw: Draw, group_of: Sequence[str], where: str) -> list[int]:
    """Returns the examples of whole groups, ascending: as many as possible up to the size.

    Of the possible choices, the choice has the first groups in the order of their hashes.
    """
    sizes = collections.Counter(group_of)
    order = sorted(sizes, key=lambda group: _hash(draw, group))

    # reachable[i][s]: whether some of the groups i, i + 1, ... have s examples together.
    reachable = [np.arange(draw.size + 1) == 0]
    for group in reversed(order):
        sums = reachable[0].copy()
        if sizes[group] <= draw.size:
            sums[sizes[group] :] |= reachable[0][: draw.size + 1 - sizes[group]]
        reachable.insert(0, sums)
    left = int(np.flatnonzero(reachable[0])[-1])
    if left == 0:
        smallest = min(sizes.values())
        raise InputError(
            where,
            got=f'at most {draw.size} examples, but the smallest {draw.group} has {smallest}',
            expected=f'the size of at least one {draw.group}',
            fix=as_text(draw._replace(size=smallest)),
        )

    # Take each group whose rest can still be reached by later groups.
    taken = set()
    for group, after in zip(order, reachable[1:], strict=True):
        if sizes[group] <= left and after[left - sizes[group]]:
            taken.add(group)
            left -= sizes[group]
    return [position for position, group in enumerate(group_of) if group in taken]


def _single(draw: Draw, names: Sequence[str], group_of: Sequence[str], where: str) -> list[int]:
    """Returns an example of each drawn group, ascending. Hashes order groups and their examples."""
    members = collections.defaultdict(list)
    for position, group in enumerate(group_of):
        members[group].append(position)
    if len(members) < draw.size:
        raise InputError(
            where,
            got=f'{draw.size} groups ({draw.group}), of {len(members)} that may be drawn',
            expected=f'a size up to the number of groups ({draw.group}) of no earlier list',
            fix=as_text(draw._replace(size=len(members))) if members else '',
        )
    order = sorted(members, key=lambda group: _hash(draw, group))
    chosen = []
    for group in order[: draw.size]:
        chosen.append(min(members[group], key=lambda position: _hash(draw, names[position])))
    return sorted(chosen)
