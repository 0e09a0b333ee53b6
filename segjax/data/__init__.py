"""Data sets: `prepare` writes the records of a data set once, describes them and opens them."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax.core.notes import tell
from segjax.data import builders, derived, index, records, table_rows
from segjax.data.clips import Clips
from segjax.data.derived import Store
from segjax.data.index import Chosen, Source
from segjax.data.records import never_stop
from segjax.data.table_rows import Rows
from segjax.data.view import Choice, View, make_view
from segjax.protocol import Derived, Input
from segjax.spec import DataSpec


class Prepared(NamedTuple):
    """A data set as it was when it was prepared.

    Later changes in the user's folder change no running job.

    spec     classes, splits and features of the data set, as its config section sees them
    folder   the folder with the records
    where    the name of the data set in errors
    seen     the class map and the lists of the config section; None: neither
    derived  features that are computed from the records (segjax/data/derived.py)
    """

    spec: DataSpec
    folder: pathlib.Path
    where: str
    seen: View | None = None
    derived: tuple[Derived, ...] = ()

    @property
    def view(self) -> View:
        """Returns the examples as the config section sees them."""
        own = functools.partial(index.of_split, self.folder)
        return self.seen or View(self.where, self.spec.num_examples, own)

    @property
    def store(self) -> Store:
        """Returns the records with the derived features, in the classes of `spec`."""
        class_map = self.seen.class_map if self.seen is not None else None
        return Store(self.folder, self.where, self.derived, class_map)

    def open_split(self, split: str, features: Sequence[str]) -> Source:
        """Opens a split for random access.

        Args:
          split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
          features: keys of the examples, from `spec.features`.

        Raises:
          InputError: an unknown or empty split, or a feature that the data set does not have.
        """
        return self._open(self.view.in_records(split), features)

    def open_input(
        self, inputs: Input, *additional: str, positions: np.ndarray | None = None
    ) -> Source:
        """Opens the chosen examples of an input's split, with their neighbours if it asks for them.

        The rows of `inputs.each` are read when the first example is counted or read.

        Args:
          inputs: an input of a stage.
          additional: features in addition to `inputs.stored`.
          positions: the array of `inputs.chosen`; None: no further choice.

        Raises:
          InputError: an error of `open_split`. No example is chosen, a position is outside the
            split, or no chosen example has its neighbours. A feature 'x_frames' is requested, but
            no frames. `inputs.each` is no table.
        """
        table_rows.check(inputs, self.spec, self.where)
        derived.check_read(inputs, self.derived, self.where)
        features = tuple(dict.fromkeys((*inputs.stored, *additional)))
        choice = self.view.choose(inputs, positions)
        if inputs.each:
            column = self.store.column
            read = functools.partial(column, choice.split, inputs.each, choice.positions)
            return Rows(self._open(choice, features), read)
        if not inputs.frames:
            return self._open(choice, features)
        split, chosen = choice
        open_split = self.store.open_split
        frames = inputs.frames
        return Clips(self.folder, split, features, frames, self.where, chosen, open_split)

    def _open(self, choice: Choice, features: Sequence[str]) -> Source:
        """Opens some examples of a split of the records."""
        source = self.store.open_split(choice.split, features)
        return source if choice.positions is None else Chosen(source, choice.positions)


def prepare(config: Any, check_stop: Callable[[], None] = never_stop) -> Prepared:
    """Prepares the data set of `config.data`, unless an earlier call did.

    Args:
      config: `config.data`, or another data section with the keys of `config.data`.
      check_stop: called between examples. It raises an exception to stop the preparation, and
        another call of `prepare` continues it.

    Raises:
      InputError: the first problem of the data set, with the file. `--mode doctor` lists all.
    """
    dataset = builders.load(config)
    for note in dataset.notes_of_folders():
        tell(note)
    folder = records.prepared(dataset, config.cache, check_stop)
    for note in dataset.notes_of_files():
        tell(note)

    # Records do not depend on class maps and lists.
    own = dataclasses.replace(records.load_spec(folder), class_maps=dict(dataset.class_maps))
    view = make_view(config, dataset.where, own, functools.partial(index.of_split, folder))
    if view.class_map is None and not view.lists:
        return Prepared(own, folder, dataset.where)
    return Prepared(view.described(own), folder, dataset.where, view)
