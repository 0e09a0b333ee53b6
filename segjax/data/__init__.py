"""Data sets: `prepare` writes a data set's records once and says what is in them, `open_split` reads them."""

from collections.abc import Sequence
from typing import Any

from segjax.data import builders, records
from segjax.data.records import SplitSource
from segjax.data.spec import DataSpec


def prepare(config: Any) -> DataSpec:
    """Prepares the data set of `config.data` unless that was done before; what it consists of.

    Raises:
      InputError: the first thing that is wrong with it, naming the file. `--mode doctor` names all.
    """
    return records.load_spec(records.prepared(builders.load(config), config.cache))


def open_split(config: Any, split: str, features: Sequence[str]) -> SplitSource:
    """Random access to a split of the data set of `config.data`, prepared if need be.

    Args:
      config: `config.data`.
      split: a TFDS split: 'train', 'val[:10%]', 'train+val'.
      features: keys of the examples, from `DataSpec.features`.

    Raises:
      InputError: as `prepare`; for an unknown or empty split, or a feature that the data set does not have.
    """
    dataset = builders.load(config)
    return SplitSource(records.prepared(dataset, config.cache), split, features, dataset.where)
