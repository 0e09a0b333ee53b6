"""Random examples, with which an exported program is compared with the run."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from segjax.modes.export.uses import SIZE, Use, kind_of


class Drawing(NamedTuple):
    """Facts that random values depend on.

    generator    of the values
    shape        of a batch of values
    size         (height, width) of maps
    num_classes  C of the data set
    """

    generator: np.random.Generator
    shape: tuple[int, ...]
    size: tuple[int, int]
    num_classes: int


def _pixels(drawing: Drawing) -> np.ndarray:
    return drawing.generator.integers(0, 256, drawing.shape)


def _train_ids(drawing: Drawing) -> np.ndarray:
    return drawing.generator.integers(0, max(1, drawing.num_classes), drawing.shape)


def _metres(drawing: Drawing) -> np.ndarray:
    return drawing.generator.uniform(1, 10, drawing.shape)


def _normals(drawing: Drawing) -> np.ndarray:
    vectors = drawing.generator.normal(size=drawing.shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _points(drawing: Drawing) -> np.ndarray:
    height, width = drawing.size
    return drawing.generator.uniform((0, 0), (width - 1, height - 1), drawing.shape)


def _boxes(drawing: Drawing) -> np.ndarray:
    """Draws [..., 4] boxes (x0, y0, x1, y1) from a quarter of the extent to all of it."""
    height, width = drawing.size
    low = drawing.generator.uniform(0, 0.375, (*drawing.shape[:-1], 2))
    high = drawing.generator.uniform(0.625, 1, (*drawing.shape[:-1], 2))
    return np.concatenate([low, high], axis=-1) * (width, height, width, height)


def _camera(drawing: Drawing) -> np.ndarray:
    height, width = drawing.size
    matrix = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
    return np.broadcast_to(matrix, drawing.shape)


def _numbers(drawing: Drawing) -> np.ndarray:
    return drawing.generator.integers(0, 2, drawing.shape)


KINDS: Mapping[str, Callable[[Drawing], np.ndarray]] = {
    'image': _pixels,
    'planes': _pixels,
    'label': _train_ids,
    'depth': _metres,
    'normals': _normals,
    'points': _points,
    'boxes': _boxes,
    'intrinsics': _camera,
}
"""Functions that draw values of a kind. All further kinds are 0 or 1."""


def draw(
    use: Use, inputs: Mapping[str, jax.ShapeDtypeStruct], rows: int, num_classes: int
) -> dict[str, np.ndarray]:
    """Draws a batch of random inputs, the same in every call.

    Args:
      use: gives the kinds of the inputs and the size of maps.
      inputs: of a program: shapes and types of an example.
      rows: of the batch.
      num_classes: C of the data set.
    """
    generator = np.random.default_rng(0)
    batch = {}
    for name, shape in inputs.items():
        drawing = Drawing(generator, (rows, *shape.shape), use.size, num_classes)
        if name == SIZE:
            values = np.broadcast_to(use.size, drawing.shape)
        else:
            values = KINDS.get(kind_of(use, name), _numbers)(drawing)
        batch[name] = values.astype(shape.dtype)
    return batch


class Difference(NamedTuple):
    """The difference between two results of an output.

    largest  |a - b| of the value that differs most
    scale    largest |b| of a value
    share    of the values that differ
    far      share of the values that differ by more than a hundredth of `scale`
    """

    largest: float
    scale: float
    share: float
    far: float


def compare(
    values: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, Difference]:
    """Returns the difference of each output. NaN equals NaN."""
    differences = {}
    for name, reference in expected.items():
        one = np.asarray(values[name]).astype(np.float64)
        other = np.asarray(reference).astype(np.float64)
        both_nan = np.isnan(one) & np.isnan(other)
        gaps = np.where(both_nan, 0, np.abs(one - other))
        scale = float(np.abs(np.nan_to_num(other)).max(initial=0))
        differences[name] = Difference(
            largest=float(gaps.max(initial=0)),
            scale=scale,
            share=float((gaps != 0).mean()),
            far=float((gaps > scale / 100).mean()),
        )
    return differences
