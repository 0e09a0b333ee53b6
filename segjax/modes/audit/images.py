"""The images that a net of a run is asked about: members and non-members of its training set."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segjax.data import index
from segjax.data.index import Index
from segjax.errors import InputError
from segjax.modes.audit import members
from segjax.modes.audit.order import Order
from segjax.protocol import Input, Stage
from segjax.train.run import Run

LIST_SUFFIXES = (members.CSV, '.txt')
"""Endings of files of names. Any further value of --members and --nonmembers names a split."""


class Images(NamedTuple):
    """Some examples of a split of the records.

    named     split of the config section, for messages
    data      config section of their data set
    split     plain splits of the records: 'train', or 'train+val'
    places    positions of the examples in the split
    names     of the examples
    clips     their sequences, '' for stills
    contents  texts that tell their contents apart
    """

    named: str
    data: str
    split: str
    places: tuple[int, ...]
    names: tuple[str, ...]
    clips: tuple[str, ...]
    contents: tuple[str, ...]

    def chosen(self, rows: Sequence[int]) -> 'Images':
        """Returns some of the examples, in the order of `rows`."""
        return self._replace(
            places=tuple(self.places[row] for row in rows),
            names=tuple(self.names[row] for row in rows),
            clips=tuple(self.clips[row] for row in rows),
            contents=tuple(self.contents[row] for row in rows),
        )


class Questions(NamedTuple):
    """Members and non-members.

    members, nonmembers  the images
    where                the flags that name them, for errors and for the page
    trained              number of non-members that the run has trained on, 0 if all is right
    """

    members: Images
    nonmembers: Images
    where: str
    trained: int

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of all images, members first."""
        return self.members.names + self.nonmembers.names

    @property
    def member(self) -> np.ndarray:
        """Returns which images are members, [N] bool."""
        return np.arange(len(self.names)) < len(self.members.names)

    @property
    def contents(self) -> tuple[str, ...]:
        """Returns the contents of all images, members first."""
        return self.members.contents + self.nonmembers.contents


# --- the images of an input -----------------------------------------------------------------------


def of_input(run: Run, inputs: Input) -> Images:
    """Returns the examples that an input reads, with its part of them.

    Args:
      run: the run.
      inputs: of a stage.
    """
    view = run.data_of(inputs).view
    product = None if inputs.chosen is None else run.product(inputs.chosen)
    split, positions = view.choose(inputs, product)
    facts = view.records(split)
    view.check_complete(facts)
    places = np.arange(len(facts.frame)) if positions is None else np.array(positions)
    if inputs.part != (0.0, 1.0):
        kept = index.part_positions(len(places), *inputs.bounds(len(places)))
        places = places[np.sort(kept)]
    return _images(inputs, split, places, facts)


def of_split(run: Run, split: str, like: Input) -> Images:
    """Returns the labelled examples of a split.

    Args:
      run: the run.
      split: with slices and sums, as 'train[:10%]'.
      like: an input of the data set.
    """
    inputs = Input(split, 1, ('image', 'label'), like.size, examples='labelled', data=like.data)
    return of_input(run, inputs)


def _images(inputs: Input, split: str, places: np.ndarray, facts: Index) -> Images:
    """Returns the examples of an input, at some positions of a split of the records."""
    taken = index.taken(facts, places.tolist())
    contents = [f'name {name}' for name in taken.name]
    if taken.digest.shape[1]:
        contents = [row.tobytes().hex() for row in taken.digest]
    return Images(
        inputs.split,
        inputs.data,
        split,
        tuple(places.tolist()),
        tuple(taken.name.tolist()),
        tuple(taken.sequence.tolist()),
        tuple(contents),
    )


# --- the command line -----------------------------------------------------------------------------


def find(run: Run, stages: Sequence[Stage], stage: Stage, order: Order) -> Questions:
    """Returns the members and the non-members that the command line names.

    Without --members, members are the training images of the stage. Without --nonmembers,
    non-members are the images of its evaluation, see `_evaluated`.

    Args:
      run: the run.
      stages: of the run.
      stage: that is audited.
      order: of the command line.

    Raises:
      InputError: an unknown split or name, an empty list, a common image, too few images, or a run
        without training images.
    """
    # Files of names may name any image of the data set.
    trained = of_training(run, stages, stage)
    lists = _lists(order)
    pool = of_split(run, '+'.join(run.data_of(stage.eval_input).view.counts), stage.eval_input)

    # Members are listed, or a split, or the training images.
    inside = trained
    if lists is not None:
        inside = _named(pool, lists.members, lists.where)
    elif order.members:
        inside = of_split(run, order.members, stage.eval_input)
    if inside is None:
        raise InputError(
            '--members',
            got=f'nothing, and stage {stage.name!r} trains on no images',
            expected='the images that the net was trained on',
            fix='--members members.txt',
        )
    # Non-members are listed, or a split, or the images of the evaluation.
    if lists is not None and lists.nonmembers is not None:
        outside = _named(pool, lists.nonmembers, lists.where)
    elif order.nonmembers:
        outside = of_split(run, order.nonmembers, stage.eval_input)
    else:
        outside = _evaluated(run, stage, inside)
    where = f'--members {order.members or inside.named}'
    if lists is None or lists.nonmembers is None or order.nonmembers:
        where += f' --nonmembers {order.nonmembers or outside.named}'
    _check(inside, outside, where)
    seen = set() if trained is None else set(trained.contents)
    return Questions(inside, outside, where, sum(text in seen for text in outside.contents))


def of_training(run: Run, stages: Sequence[Stage], stage: Stage) -> Images | None:
    """Returns the labelled images that a stage, or the last stage before it, was trained on."""
    for each in reversed(stages[: list(stages).index(stage) + 1]):
        inputs = each.train_input
        if inputs is not None and 'label' in inputs.features:
            return of_input(run, inputs._replace(frames=(), each=''))
    return None


def _evaluated(run: Run, stage: Stage, inside: Images) -> Images:
    """Returns the images of the evaluation of a stage, as non-members.

    A stage that evaluates all members next to the non-members loses the members.
    """
    evaluated = of_input(run, stage.eval_input._replace(frames=(), each=''))
    members_of = set(inside.contents)
    if not members_of < set(evaluated.contents):
        return evaluated
    rows = []
    for row, content in enumerate(evaluated.contents):
        if content not in members_of:
            rows.append(row)
    return evaluated.chosen(rows)._replace(named=f'{evaluated.named} without the members')


def is_list(value: str) -> bool:
    """Returns whether the value of a flag is a file of names. Otherwise it names a split."""
    return value.lower().endswith(LIST_SUFFIXES) or pathlib.Path(value).expanduser().is_file()


def _lists(order: Order) -> members.Lists | None:
    """Returns the lists of the command line, None if --members is no file."""
    if order.members and is_list(order.members):
        rest = None
        if order.nonmembers and is_list(order.nonmembers):
            rest = pathlib.Path(order.nonmembers).expanduser()
        return members.read(pathlib.Path(order.members).expanduser(), rest)
    if order.nonmembers and is_list(order.nonmembers):
        raise InputError(
            '--nonmembers',
            got=f'the file {order.nonmembers}, without a file of members',
            expected='a split, or files for both kinds',
            fix='--members members.txt',
        )
    return None


def _named(pool: Images, names: Iterable[str], where: str) -> Images:
    """Returns the images of a data set with some names.

    Raises:
      InputError: an unknown name, or a name that several splits have.
    """
    members.check_known(where, names, pool.names, 'the data set')
    row_of: dict[str, int] = {}
    twice = set()
    for row, name in enumerate(pool.names):
        if name in row_of:
            twice.add(name)
        row_of[name] = row
    ambiguous = [name for name in names if name in twice]
    if ambiguous:
        raise InputError(
            where,
            got=f'{ambiguous[0]!r}, a name that several splits have',
            expected='names that each belong to an image',
            fix='--members train, or another split',
        )
    return pool.chosen([row_of[name] for name in names])


def _check(inside: Images, outside: Images, where: str) -> None:
    """Raises InputError for common images, and for too few images."""
    contents = set(inside.contents)
    both = []
    for name, content in zip(outside.names, outside.contents, strict=True):
        if content in contents:
            both.append(name)
    if both:
        raise InputError(
            where,
            got=f'{len(both)} images that are members and non-members: {members.shortened(both)}',
            expected='images of one kind each',
            fix='another split, as --nonmembers val, or lists without a common image',
        )
    members.check_numbers(where, len(inside.names), len(outside.names))
