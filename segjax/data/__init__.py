"""Data sets: `prepare` writes a data set's records once, says what is in them and opens them."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from segjax.core.notes import tell
from segjax.data import builders, index, records
from segjax.data.clips import Clips
from segjax.data.index import Chosen
from segjax.data.records import SplitSource, never_stop
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.spec import DataSpec


class Prepared(NamedTuple):
    """A data set as it was when it was prepared: what happens in the user's folder later changes no running job.

    spec    what it consists of
    folder  with the records
    where   what errors call it
    """

    spec: DataSpec
    folder: pathlib.Path
    where: str

    def open_split(self, split: str, features: Sequence[str]) -> SplitSource:
        """Random access to a split.

        Args:
          split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
          features: keys of the examples, from `spec.features`.

        Raises:
          InputError: for an unknown or empty split, or a feature that the data set does not have.
        """
        return SplitSource(self.folder, split, features, self.where)

    def open_input(self, inputs: Input, *more: str) -> SplitSource | Clips | Chosen:
        """Opens the chosen examples of an input's split, on demand with their neighbours.

        Args:
          inputs: of the stage.
          more: features beside those of `inputs`.

        Raises:
          InputError: as `open_split`; no chosen example, or none with neighbours; 'x_frames' among
            the features, and no frames.
        """
        features = (*inputs.features, *more)
        chosen = self._chosen(inputs)
        if inputs.frames:
            return Clips(self.folder, inputs.split, features, inputs.frames, self.where, chosen)
        source = self.open_split(inputs.split, features)
        return source if chosen is None else Chosen(source, chosen)

    def _chosen(self, inputs: Input) -> tuple[int, ...] | None:
        """Returns the positions of the examples that an input names, None for all of the split."""
        if inputs.examples == 'all':
            return None
        num_examples = len(self.open_split(inputs.split, ()))
        positions = index.positions(index.load(self.folder, inputs.split), inputs.examples)
        if not len(positions):
            counts = {
                split: self.spec.split(split).num_labelled for split in self.spec.num_examples
            }
            labelled = [f'{split} ({count})' for split, count in counts.items() if count]
            raise InputError(
                f'split {inputs.split!r} of {self.where}',
                got=f'no {inputs.examples} example among its {num_examples}',
                expected=f'at least one; splits with labelled examples: {", ".join(labelled) or "none"}',
            )
        return None if len(positions) == num_examples else tuple(positions.tolist())


def prepare(config: Any, check_stop: Callable[[], None] = never_stop) -> Prepared:
    """Prepares the data set of `config.data` unless that was done before.

    Args:
      config: `config.data`.
      check_stop: called between examples, raises to stop. Another call continues.

    Raises:
      InputError: the first thing that is wrong with it, naming the file. `--mode doctor` names all.
    """
    dataset = builders.load(config)
    for note in dataset.notes_of_folders():
        tell(note)
    folder = records.prepared(dataset, config.cache, check_stop)
    for note in dataset.notes_of_files():
        tell(note)
    return Prepared(records.load_spec(folder), folder, dataset.where)
