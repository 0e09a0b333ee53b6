"""Data sets: `prepare` writes a data set's records once, says what is in them and opens them."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from segjax.data import builders, records
from segjax.data.clips import Clips
from segjax.data.records import SplitSource
from segjax.data.spec import DataSpec
from segjax.protocol import Input


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

    def open_input(self, inputs: Input, *more: str) -> SplitSource | Clips:
        """What a stage is fed with: the examples of its split, with their neighbours where it wants some.

        Args:
          inputs: of the stage.
          more: features beside those of `inputs`.

        Raises:
          InputError: as `open_split`; no example has neighbours; 'x_frames' among the features, and no frames.
        """
        features = (*inputs.features, *more)
        if inputs.frames:
            return Clips(self.folder, inputs.split, features, inputs.frames, self.where)
        return self.open_split(inputs.split, features)


def prepare(config: Any) -> Prepared:
    """Prepares the data set of `config.data` unless that was done before.

    Raises:
      InputError: the first thing that is wrong with it, naming the file. `--mode doctor` names all.
    """
    dataset = builders.load(config)
    folder = records.prepared(dataset, config.cache)
    return Prepared(records.load_spec(folder), folder, dataset.where)
