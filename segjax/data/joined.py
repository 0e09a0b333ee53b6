"""Examples whose features come from the records of a data set and from derived values."""

import bisect
import functools
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.class_maps import Relabelled
from segjax.data.index import Slice
from segjax.data.records import SplitSource
from segjax.spec import Feature


class Joined:
    """Random access to examples with features of the records and derived features.

    Several threads may read a source, and it can be pickled. Derived values are opened at the first
    example, because inputs are checked before the values are computed.

    Args:
      source: the features of the records.
      features: keys of the examples, in order.
      slices: of plain splits, in the order of the source.
      folders: by derived feature among `features`: the folder of the plain split of each slice.
      derived: Feature by name of all derived features of the data set.
      where: the name of the data set in errors.
    """

    def __init__(
        self,
        source: SplitSource | Relabelled,
        features: Sequence[str],
        slices: Sequence[Slice],
        folders: Mapping[str, Sequence[pathlib.Path]],
        derived: Mapping[str, Feature],
        where: str,
    ):
        self._arguments = (source, features, slices, folders, derived, where)
        self._source = source
        self._slices = slices
        self._ends = list(itertools.accumulate(part.end - part.first for part in slices))
        self._folders = folders
        self._where = where
        self.features = tuple(features)
        self.declared = {**source.declared, **derived}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._source[index]
        # The position of the example in its plain split.
        number = bisect.bisect_right(self._ends, index)
        part = self._slices[number]
        position = part.end + index - self._ends[number]
        for sources in self._sources.values():
            example |= sources[number][position]
        return {feature: example[feature] for feature in self.features}

    @functools.cached_property
    def _sources(self) -> dict[str, list[SplitSource]]:
        """Returns the derived values by feature: the whole plain split of each slice."""
        opened = {}
        for feature, folders in self._folders.items():
            opened[feature] = [
                SplitSource(folder, part.split, (feature,), self._where)
                for folder, part in zip(folders, self._slices, strict=True)
            ]
        return opened

    def __reduce__(self):
        return Joined, self._arguments
