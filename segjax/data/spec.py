"""What the rest of the house knows about a data set: its classes, splits and sizes."""

import dataclasses
from collections.abc import Mapping

IGNORE = 255
"""The label that counts nowhere: not in losses, metrics, class statistics; fill value of padding and augmentation."""


@dataclasses.dataclass(frozen=True)
class ClassSpec:
    """The classes of a data set, in the order of their train ids 0 .. C-1.

    names    one per class
    palette  (r, g, b) per class
    ids      the data set's own id per class, written by --mode predict (Cityscapes: road is train id 0, id 7)
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """A prepared data set.

    name          its name in the registry
    classes       ClassSpec
    features      keys that an example has: image, label, instance, depth, intrinsics, pose, sequence, frame, name
    num_examples  by split
    max_size      by split: (height, width) that holds every label of the split
    class_pixels  by split: labelled pixels of each class (length C); void pixels are in void_pixels
    void_pixels   by split
    """

    name: str
    classes: ClassSpec
    features: tuple[str, ...]
    num_examples: Mapping[str, int]
    max_size: Mapping[str, tuple[int, int]]
    class_pixels: Mapping[str, tuple[int, ...]]
    void_pixels: Mapping[str, int]
