"""Merges of the classes of a data set: offered by the data set, or read from a file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.core import paths
from segjax.data.clips import SUFFIX
from segjax.data.index import Source, evaluation_generator, read_example
from segjax.data.labels import load_merge_file
from segjax.errors import unknown_name
from segjax.spec import IGNORE, ClassMap, ClassSpec, Feature

LABEL = 'label'
"""The feature whose values are train ids. 'label_moving' is a mask, which no map changes."""


def load(name: str, classes: ClassSpec, offered: Mapping[str, ClassMap]) -> ClassMap | None:
    """Returns the class map that `data.class_map` names, None for ''.

    Args:
      name: '', a name of `offered`, or the path of a YAML or JSON file.
      classes: of the data set.
      offered: `Dataset.class_maps`.

    Raises:
      InputError: an unknown name, or a file that does not place every class once.
    """
    if not name:
        return None
    if name in offered:
        return offered[name]
    path = paths.local('config.data.class_map', name)
    if path.suffix not in ('.json', '.yaml', '.yml') and not path.exists():
        error = unknown_name('config.data.class_map', name, offered)
        known = ', '.join(sorted(offered))
        expected = f'{known}, or' if known else 'this data set offers no class map;'
        raise error.replaced(expected=f'{expected} a YAML or JSON file')
    return load_merge_file(path, classes)


def table(class_map: ClassMap) -> np.ndarray:
    """Returns the merged train id of every train id, [256] uint8. Void stays void."""
    ids = np.full(256, IGNORE, np.uint8)
    ids[: len(class_map.train_ids)] = class_map.train_ids
    return ids


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """The examples of a source with other train ids. It can be pickled if the source can.

    source  the examples
    table   [256] uint8, the new train id of every train id
    """

    source: Source
    table: np.ndarray

    @property
    def declared(self) -> Mapping[str, Feature]:
        """Returns the declared features of the source."""
        return getattr(self.source, 'declared', {})

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.draw(index, evaluation_generator(index))

    def draw(self, index: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """Reads an example with the random choices of a generator."""
        example = dict(read_example(self.source, index, rng))
        for key in (LABEL, LABEL + SUFFIX):
            if key in example:
                example[key] = self.table[example[key]]
        return example
