"""Data sets: `prepare` writes the records of a data set once, describes them and opens them."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from segjax.core.notes import tell
from segjax.data import builders, index, records
from segjax.data.clips import Clips
from segjax.data.derived import Store
from segjax.data.index import Chosen
from segjax.data.joined import Joined
from segjax.data.records import SplitSource, never_stop
from segjax.errors import InputError
from segjax.protocol import Derived, Input
from segjax.spec import DataSpec


class Prepared(NamedTuple):
    """A data set as it was when it was prepared.

    Later changes in the user's folder change no running job.

    spec     classes, splits and features of the data set
    folder   the folder with the records
    where    the name of the data set in errors
    derived  features that are computed from the records (segjax/data/derived.py)
    """

    spec: DataSpec
    folder: pathlib.Path
    where: str
    derived: tuple[Derived, ...] = ()

    @property
    def store(self) -> Store:
        """Returns the derived features with their places."""
        return Store(self.folder, self.where, self.derived)

    def open_split(self, split: str, features: Sequence[str]) -> SplitSource | Joined:
        """Opens a split for random access.

        Args:
          split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
          features: keys of the examples, from `spec.features`.

        Raises:
          InputError: an unknown or empty split, or a feature that the data set does not have.
        """
        return self.store.open_split(split, features)

    def open_input(self, inputs: Input, *additional: str) -> SplitSource | Joined | Clips | Chosen:
        """Opens the chosen examples of an input's split, with their neighbours if it asks for them.

        Args:
          inputs: an input of a stage.
          additional: features in addition to `inputs.features`.

        Raises:
          InputError: an error of `open_split`. No example is chosen, or no chosen example has its
            neighbours. A feature 'x_frames' is requested, but no frames.
        """
        features = (*inputs.features, *additional)
        chosen = self._chosen(inputs)
        if inputs.frames:
            return Clips(
                self.folder,
                inputs.split,
                features,
                inputs.frames,
                self.where,
                chosen,
                self.store.open_split,
            )
        source = self.open_split(inputs.split, features)
        return source if chosen is None else Chosen(source, chosen)

    def _chosen(self, inputs: Input) -> tuple[int, ...] | None:
        """Returns the positions of the examples that an input chooses, None for the whole split."""
        if inputs.examples == 'all':
            return None
        num_examples = len(self.open_split(inputs.split, ()))
        positions = index.positions(index.load(self.folder, inputs.split), inputs.examples)
        if len(positions) == 0:
            raise self._no_chosen_example(inputs, num_examples)
        return None if len(positions) == num_examples else tuple(positions.tolist())

    def _no_chosen_example(self, inputs: Input, num_examples: int) -> InputError:
        """Returns the error for a split without chosen examples. It lists splits that have some."""
        labelled = []
        for split in self.spec.num_examples:
            count = self.spec.split(split).num_labelled
            if count:
                labelled.append(f'{split} ({count})')
        splits = ', '.join(labelled) or 'none'
        return InputError(
            f'split {inputs.split!r} of {self.where}',
            got=f'no {inputs.examples} example among its {num_examples}',
            expected=f'at least one; splits with labelled examples: {splits}',
        )


def prepare(config: Any, check_stop: Callable[[], None] = never_stop) -> Prepared:
    """Prepares the data set of `config.data`, unless an earlier call did.

    Args:
      config: `config.data`.
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
    return Prepared(records.load_spec(folder), folder, dataset.where)
