"""The rows of a table as examples: `Input.each`.

A table is a feature [n] of whole numbers. Row r of image i has the index n i + r. Rows whose value
is 0 are no examples, so the indices of the examples may have gaps. The position of an example
counts the examples alone. For an input without a table, index and position are equal.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data import kinds
from segjax.data.index import Chosen, Source
from segjax.errors import InputError, unknown_name
from segjax.protocol import Input
from segjax.spec import DataSpec, Feature


def check(inputs: Input, spec: DataSpec, where: str) -> None:
    """Refuses an input whose table is no table. An input without a table is accepted.

    Args:
      inputs: an input of a stage.
      spec: of its data set, with the derived features.
      where: the name of the data set in errors.

    Raises:
      InputError: no feature of this name, another kind, type or shape, or neighbouring frames.
    """
    if not inputs.each:
        return
    if inputs.each not in spec.features:
        raise unknown_name(f'feature {inputs.each!r} of {where}', inputs.each, spec.features)
    feature = kinds.feature_of(inputs.each, spec.declared)
    described = (feature.kind, feature.dtype, len(feature.shape))
    if described != ('number', 'int32', 1) or feature.shape[0] < 1:
        raise InputError(
            f'feature {inputs.each!r} of {where}, the table of an input',
            got=f'kind {feature.kind!r}, type {feature.dtype!r}, shape {feature.shape}',
            expected="kind 'number', type 'int32', shape (n,)",
            fix=f"declare it: {inputs.each!r}: Feature('number', (n,), dtype='int32')",
        )
    if inputs.frames:
        raise InputError(
            f'frames of an input whose examples are the rows of {inputs.each!r}',
            got=f'{inputs.frames}',
            expected='no frames: rows are read without neighbours',
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of the tables of a source as its examples. It can be pickled if the source can.

    Inputs are opened before derived tables are computed, so the tables are read when the first
    example is counted.

    images  the examples of the source
    read    returns the tables [N, n] of all images
    """

    images: Source
    read: Callable[[], np.ndarray]

    @property
    def declared(self) -> Mapping[str, Feature]:
        """Returns the declared features of the source."""
        return getattr(self.images, 'declared', {})

    @functools.cached_property
    def present(self) -> np.ndarray:
        """Returns which rows are examples, bool [N, n]."""
        return self.read() != 0

    @functools.cached_property
    def indices(self) -> np.ndarray:
        """Returns the index of each example, ascending."""
        return np.flatnonzero(self.present)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Mapping[str, Any]:
        image, row = self.place(int(self.indices[position]))
        return {**self.images[image], 'row': np.int32(row)}

    def place(self, index: int) -> tuple[int, int]:
        """Returns (position of the image, row) of an index."""
        return divmod(index, self.present.shape[1])

    def of_images(self, positions: Sequence[int]) -> 'Rows':
        """Returns the rows of some images, in their order."""
        present = self.present[np.asarray(positions, np.int64)]
        return Rows(Chosen(self.images, tuple(positions)), functools.partial(np.copy, present))


def images_of(source: Source) -> Source:
    """Returns the images of a source, whose rows may not be computed yet."""
    return source.images if isinstance(source, Rows) else source


def index_at(source: Source, position: int) -> int:
    """Returns batch['index'] of the example at a position of a source."""
    return int(source.indices[position]) if isinstance(source, Rows) else position


def position_of(source: Source, index: int) -> int:
    """Returns the position of the example with an index. Raises IndexError if there is none."""
    if not isinstance(source, Rows):
        return index
    position = int(np.searchsorted(source.indices, index))
    if position == len(source) or source.indices[position] != index:
        raise IndexError(f'no example has the index {index}')
    return position


def image_at(source: Source, position: int) -> int:
    """Returns the position of the image of the example at a position of a source."""
    if not isinstance(source, Rows):
        return position
    image, _ = source.place(index_at(source, position))
    return image


def end_of(source: Source) -> int:
    """Returns the number of places of a vector over a source: the first index of no example."""
    return source.present.size if isinstance(source, Rows) else len(source)


def name_of(source: Source, index: int) -> str:
    """Returns the name of an example in errors."""
    if not isinstance(source, Rows):
        return f'example {index}'
    image, row = source.place(index)
    return f'row {row} of example {image}'


def no_row(source: Rows, inputs: Input) -> InputError:
    """Returns the error for an input none of whose images has a row that is an example."""
    num_images, num_rows = source.present.shape
    images = f'{num_images} images' if num_images > 1 else 'one image'
    part = ''
    if inputs.part != (0.0, 1.0):
        part = f' in the part {inputs.part[0]:g} to {inputs.part[1]:g}'
    return InputError(
        f'split {inputs.split!r}{part}, whose examples are the rows of {inputs.each!r}',
        got=f'no row with a value other than 0: {images} with {num_rows} empty rows each',
        expected='at least one such row',
        fix='other images, or a table with wider limits, as more classes or smaller objects',
    )
