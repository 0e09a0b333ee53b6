"""The description of a data set: its features, classes, splits and sizes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from segjax.errors import InputError, unknown_name

IGNORE = 255
"""Label without effect on losses, metrics and class statistics. It fills padding."""


class Feature(NamedTuple):
    """The kind of a feature, and its shape. A batch adds an axis in front.

    kind   a name of KINDS (segjax/data/kinds.py): how values are stored, moved and padded
    shape  of a value. Maps: the axes behind (height, width), as (2,) for flow
    pairs  points: places whose points swap under a flip, as ((0, 1),) for the left and right eye
    dtype  of numbers ('float32' or 'int32') and planes ('uint8' or 'float32'). '': the first type
    """

    kind: str
    shape: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    dtype: str = ''


def with_tuples(value: Any) -> Any:
    """Returns a value of JSON with tuples instead of lists."""
    if isinstance(value, Mapping):
        return {key: with_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(with_tuples(item) for item in value)
    return value


def features_from_json(stored: Mapping[str, Any]) -> dict[str, Feature]:
    """Returns declared features by key, from a round trip through JSON."""
    return {key: Feature(*with_tuples(values)) for key, values in stored.items()}


@dataclasses.dataclass(frozen=True)
class ClassSpec:
    """The classes of a data set, in the order of their train ids 0 .. C-1.

    names    a name per class
    palette  (r, g, b) per class
    ids      id per class in the files of the data set, which --mode predict writes (in Cityscapes,
             road has the train id 0 and the id 7)
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """Returns the number of classes C."""
        return len(self.names)


NO_CLASSES = ClassSpec((), (), ())
"""The classes of a data set whose examples have no feature 'label'."""


class ClassMap(NamedTuple):
    """A merge of the classes of a data set into fewer classes.

    classes    the merged classes
    train_ids  by train id of the data set: train id among the merged classes, or IGNORE
    """

    classes: ClassSpec
    train_ids: tuple[int, ...]


class Merge(NamedTuple):
    """The classes of the files of a data set, and their merge into the classes of a config section.

    classes    of the files
    train_ids  by train id of the files: train id among the merged classes, or IGNORE
    """

    classes: ClassSpec
    train_ids: tuple[int, ...]


def split_names(split: str) -> tuple[str, ...]:
    """Returns the plain splits of a TFDS expression: ('train', 'val') for 'train[:10%]+val'."""
    return tuple(part.split('[')[0].strip() for part in split.split('+'))


class SplitSpec(NamedTuple):
    """The size of a split. A slice (train[:10%]) has the numbers of the whole split.

    num_examples  largest number of examples
    max_size      (height, width) that holds every label, or every image without labels
    class_pixels  [C] labelled pixels of each class
    void_pixels   ignored pixels
    num_labelled  largest number of examples with a labelled pixel
    labelled_void_pixels  ignored pixels of the examples with a labelled pixel
    """

    num_examples: int
    max_size: tuple[int, int]
    class_pixels: tuple[int, ...]
    void_pixels: int
    num_labelled: int
    labelled_void_pixels: int


class PartSpec(NamedTuple):
    """Exact numbers of the labelled examples in a part of a split.

    split         a TFDS split, as 'train[:10%]'
    part          `Input.part`: (from, to) as shares of the labelled examples
    num_examples  labelled examples of the part
    class_pixels  [C] labelled pixels of each class
    void_pixels   ignored pixels
    """

    split: str
    part: tuple[float, float]
    num_examples: int
    class_pixels: tuple[int, ...]
    void_pixels: int


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The description of a prepared data set.

    name          its name in the registry
    classes       ClassSpec. NO_CLASSES: the examples have no label
    features      keys that an example has: image, label, instance, depth, intrinsics, pose,
                  sequence, frame, name
    num_examples  by split
    max_size      by split: (height, width) that holds every label of the split. Without labels:
                  that holds every image
    class_pixels  by split: [C] labelled pixels of each class, without void pixels
    void_pixels   by split: ignored pixels
    num_unlabelled  by split, where it is not 0: examples without a labelled pixel
    unlabelled_pixels  by split, where it is not 0: pixels of the examples without a labelled pixel
    digest        by split: hexadecimal hash of the examples in order; {} where it is unknown
    declared      Feature by key, for features whose kind does not follow from their key
    class_maps    by name: merges of the classes into fewer classes
    parts         exact numbers of the slices and shares that the config of a run names
    derived       by name of a derived feature: hash of everything that its values depend on in
                  addition to the examples
    merge         the classes of the files and their merge into `classes`. None: no class map
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
    declared: Mapping[str, Feature] = dataclasses.field(default_factory=dict)
    class_maps: Mapping[str, ClassMap] = dataclasses.field(default_factory=dict)
    parts: tuple[PartSpec, ...] = ()
    derived: Mapping[str, str] = dataclasses.field(default_factory=dict)
    merge: Merge | None = None

    def split(self, expression: str) -> SplitSpec:
        """Returns the sizes of 'train', 'train+val' or 'train[:10%]'.

        Raises:
          InputError: the data set has no such split.
        """
        names = split_names(expression)
        for name in names:
            if name not in self.num_examples:
                where = f'split {expression!r} of data set {self.name!r}'
                raise unknown_name(where, name, self.num_examples)
        heights = [self.max_size[name][0] for name in names]
        widths = [self.max_size[name][1] for name in names]
        counts = zip(*(self.class_pixels[name] for name in names))
        num_examples = sum(self.num_examples[name] for name in names)
        num_unlabelled = sum(self.num_unlabelled.get(name, 0) for name in names)
        void_pixels = sum(self.void_pixels[name] for name in names)
        unlabelled_pixels = sum(self.unlabelled_pixels.get(name, 0) for name in names)
        return SplitSpec(
            num_examples=num_examples,
            max_size=(max(heights), max(widths)),
            class_pixels=tuple(sum(class_counts) for class_counts in counts),
            void_pixels=void_pixels,
            num_labelled=num_examples - num_unlabelled,
            labelled_void_pixels=void_pixels - unlabelled_pixels,
        )

    def part(self, expression: str, part: tuple[float, float] = (0.0, 1.0)) -> PartSpec:
        """Returns the numbers of the labelled examples in a part of a split.

        They are exact for whole splits and for `parts`. Slices and shares that are not among
        `parts` have the numbers of the whole split, as in specifications that older runs stored.

        Args:
          expression: a TFDS split.
          part: (from, to) as shares of the labelled examples.

        Raises:
          InputError: the data set has no such split.
        """
        for known in self.parts:
            if (known.split, known.part) == (expression, tuple(part)):
                return known
        whole = self.split(expression)
        return PartSpec(
            split=expression,
            part=(0.0, 1.0),
            num_examples=whole.num_labelled,
            class_pixels=whole.class_pixels,
            void_pixels=whole.labelled_void_pixels,
        )

    def check_labels(self, reader: str, section: str = 'data') -> None:
        """Refuses a data set without classes.

        Args:
          reader: names the part of the program that reads labels.
          section: config section of the data set.

        Raises:
          InputError: the data set has no classes.
        """
        if self.classes.num_classes:
            return
        raise InputError(
            f'data set {self.name!r}',
            got='no classes: its examples have no labels',
            expected=f'labels, which {reader} reads',
            fix=f'--config.{section}.name=streets, or another data set with labels',
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, as `spec.json` of a run folder keeps them.

        A run of whole splits has no key `parts`. A run without a class map has no key `merge`.
        """
        fields = dataclasses.asdict(self)
        empty = [key for key in ('parts', 'merge') if not fields[key]]
        return {key: value for key, value in fields.items() if key not in empty}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> 'DataSpec':
        """Inverts `to_json`, also after a round trip through a file."""
        fields = with_tuples(stored)
        class_maps = fields.get('class_maps', {})
        merge = fields.get('merge')
        fields |= {
            'classes': ClassSpec(**fields['classes']),
            'declared': features_from_json(fields.get('declared', {})),
            'class_maps': {
                name: ClassMap(ClassSpec(**classes), train_ids)
                for name, (classes, train_ids) in class_maps.items()
            },
            'parts': tuple(PartSpec(*values) for values in fields.get('parts', ())),
            'merge': Merge(ClassSpec(**merge[0]), merge[1]) if merge else None,
        }
        return DataSpec(**fields)
