"""Merges of the classes of a data set: offered by the data set, or read from a file."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.core import paths
from segjax.data import labels
from segjax.data.records import SplitSource
from segjax.errors import unknown_name
from segjax.spec import IGNORE, ClassMap, ClassSpec, Feature, Merge

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
    return labels.load_merge_file(path, classes)


def table(class_map: ClassMap | Merge) -> np.ndarray:
    """Returns the merged train id of every train id, [256] uint8. Void stays void."""
    ids = np.full(256, IGNORE, np.uint8)
    ids[: len(class_map.train_ids)] = class_map.train_ids
    return ids


def coding_of(classes: ClassSpec, merge: Merge | None) -> labels.LabelCoding:
    """Returns the coding of label files of which only the classes are known.

    Args:
      classes: of the data set, as its config section sees them.
      merge: the classes of the files, and their merge into `classes`. None: no class map.

    Returns:
      The coding, with merged train ids.
    """
    if merge is None:
        return labels.coding_of(classes)
    own = labels.coding_of(merge.classes)
    merged = table(merge)
    colors = {color: int(merged[train_id]) for color, train_id in own.colors.items()}
    return own._replace(train_ids=merged[own.train_ids], colors=colors)


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """The examples of a split of the records with other train ids. It can be pickled.

    source  the examples
    table   [256] uint8, the new train id of every train id
    """

    source: SplitSource
    table: np.ndarray

    @property
    def features(self) -> tuple[str, ...]:
        """Returns the features of the source."""
        return self.source.features

    @property
    def declared(self) -> Mapping[str, Feature]:
        """Returns the declared features of the source."""
        return self.source.declared

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = dict(self.source[index])
        if LABEL in example:
            example[LABEL] = self.table[example[LABEL]]
        return example
