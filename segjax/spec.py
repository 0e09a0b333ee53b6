"""What the rest of the house knows about a data set: its classes, splits and sizes."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from segjax.errors import unknown_name

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


def split_names(split: str) -> tuple[str, ...]:
    """The plain splits of a TFDS expression: ('train', 'val') for 'train[:10%]+val'."""
    return tuple(part.split('[')[0].strip() for part in split.split('+'))


class SplitSpec(NamedTuple):
    """What is known of a split; of a slice (train[:10%]) bounds and shares are those of the whole split.

    num_examples  at most this many
    max_size      (height, width) that holds every label
    class_pixels  [C] labelled pixels of each class
    void_pixels   ignored pixels
    num_labelled  at most this many examples have a labelled pixel
    labelled_void_pixels  ignored pixels of these examples
    """

    num_examples: int
    max_size: tuple[int, int]
    class_pixels: tuple[int, ...]
    void_pixels: int
    num_labelled: int
    labelled_void_pixels: int


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
    num_unlabelled  by split, where it is not 0: examples without a labelled pixel
    unlabelled_pixels  by split, where it is not 0: pixels of these examples, all of them void
    digest        by split: hexadecimal hash of the content of its examples in order; {} where it is unknown
    """

    name: str
    classes: ClassSpec
    features: tuple[str, ...]
    num_examples: Mapping[str, int]
    max_size: Mapping[str, tuple[int, int]]
    class_pixels: Mapping[str, tuple[int, ...]]
    void_pixels: Mapping[str, int]
    num_unlabelled: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unlabelled_pixels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    digest: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def split(self, expression: str) -> SplitSpec:
        """Of 'train', 'train+val' or 'train[:10%]'; raises InputError for a split that there is not."""
        names = split_names(expression)
        for name in names:
            if name not in self.num_examples:
                raise unknown_name(
                    f'split {expression!r} of data set {self.name!r}', name, self.num_examples
                )
        return SplitSpec(
            num_examples=sum(self.num_examples[n] for n in names),
            max_size=(
                max(self.max_size[n][0] for n in names),
                max(self.max_size[n][1] for n in names),
            ),
            class_pixels=tuple(
                sum(counts) for counts in zip(*(self.class_pixels[n] for n in names))
            ),
            void_pixels=sum(self.void_pixels[n] for n in names),
            num_labelled=sum(self.num_examples[n] - self.num_unlabelled.get(n, 0) for n in names),
            labelled_void_pixels=sum(
                self.void_pixels[n] - self.unlabelled_pixels.get(n, 0) for n in names
            ),
        )

    def to_json(self) -> dict:
        """Plain values, as `spec.json` of a run folder keeps them."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(stored: Mapping) -> 'DataSpec':
        """The inverse of `to_json`, also after a round trip through a file."""

        def tuples(value):
            if isinstance(value, Mapping):
                return {k: tuples(v) for k, v in value.items()}
            return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

        fields = tuples(stored)
        return DataSpec(**{**fields, 'classes': ClassSpec(**fields['classes'])})
