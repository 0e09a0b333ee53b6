"""The kinds of features: how values are stored, moved, padded and typed.

Every module that treats features differently reads the table `KINDS`. A key has the kind that the
data set declares for it (`DataSpec.declared`, `Input.made`). An undeclared key has the kind that
its first word names: 'image_prev' is an image, 'label_frames' are labels.

    kind        value                     augmentation by a matrix A       outside, absent
    image       [H, W, 3] uint8, RGB      bilinear, colour jitter          0
    planes      [H, W, C] uint8, float32  bilinear                         0
    label       [H, W] train ids          nearest                          255
    instance    [H, W] 16-bit ids         nearest                          0
    ids         [H, W] 32-bit ids         nearest                          0
    regions     [H, W] numbers of regions nearest                          -1, no region
    depth       [H, W] float32            nearest                          0, not measured
    flow        [H, W, 2] float32         nearest, vectors by L            NaN, not measured
    normals     [H, W, 3] float32         nearest, vectors by Q            0, not measured
    points      [n, 2] float32            A p, pairs swap under a flip     NaN, absent
    boxes       [n, 4] float32            hull of the moved corners        NaN, absent
    intrinsics  [3, 3] float32            A K Q^T
    pose        [4, 4] float32            D T Q^T
    number      any, float32, int32       unchanged
    text        str                       unchanged

L is the linear part of A. Q is the turn of the camera, and D mirrors the world
(`transforms.camera_turn`). Values may have leading axes: frames.

flow     (u, v) in pixels: the pixel (x, y) moves to (x + u, y + v)
normals  unit vectors towards the camera, in its coordinates: x to the right, y down, z forward.
         Level ground has (0, -1, 0)
points   (x, y). Pixel centres lie at whole coordinates
boxes    (x0, y0, x1, y1). The image covers [-0.5, W - 0.5] x [-0.5, H - 0.5]
depth    distance along z, in metres
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.errors import InputError, unknown_name
from segjax.spec import IGNORE, Feature

FRAMES = '_frames'
"""'image_frames' is the feature 'image' of the neighbours, [n, ...] in the order of the offsets."""

MAPS = ('pixels', 'flow', 'normals')
"""Motions of maps: all move pixels, and two move the vectors of the pixels too."""


PRESENT = f'present{FRAMES}'
"""Whether each row of a table has a neighbour, [n]. Only drawn `TableFrames` have it."""


class Kind(NamedTuple):
    """Rules of a kind of feature.

    dtypes   types that a value may have on the host. Records have the first, or the declared type
    storage  form of a value in records: 'image' (an encoded file), 'array' (its bytes, which are
             compressed if they are whole numbers), 'numbers' (a list) or 'text'
    motion   how augmentation moves a value: a name of MAPS, 'points', 'boxes', 'intrinsics',
             'pose' or 'none'
    shape    axes of a value. Maps: the axes behind (height, width). None in place of a length: it
             must be declared. None instead of a shape: any shape, which must be declared
    smooth   whether a map is interpolated. Labels, ids and measurements are never averaged
    jitter   whether colours are augmented
    resized  maps in evaluation: True for inputs of nets, which are resized like images. False for
             targets, which keep their pixels and are padded
    fill     value outside of a moved map
    absent   value in rows that only fill an evaluation batch. None: that of a real example, so that
             the outputs of nets are finite
    travels  type on the way to a device. '': the type of the feature
    seen     type inside a step. '': the type that travels
    """

    dtypes: tuple[str, ...]
    storage: str
    motion: str = 'none'
    shape: tuple[int | None, ...] | None = ()
    smooth: bool = False
    jitter: bool = False
    resized: bool = False
    fill: float = 0
    absent: float | None = None
    travels: str = ''
    seen: str = ''

    @property
    def is_map(self) -> bool:
        """Returns whether values have the axes (height, width)."""
        return self.motion in MAPS


NAN = float('nan')
FLOAT = ('float32',)
KINDS = {
    'image': Kind(('uint8',), 'image', 'pixels', (3,), smooth=True, jitter=True, resized=True),
    'planes': Kind(('uint8', 'float32'), 'array', 'pixels', (None,), smooth=True, resized=True),
    'label': Kind(
        ('uint8', 'uint16', 'int32'),
        'image',
        'pixels',
        fill=IGNORE,
        absent=IGNORE,
        travels='uint8',
        seen='int32',
    ),
    'instance': Kind(('uint16', 'uint8', 'int32'), 'image', 'pixels', absent=0, travels='int32'),
    # Compressed bytes are smaller than a PNG of four channels, and decode in a third of the time.
    'ids': Kind(('int32',), 'array', 'pixels', absent=0),
    'regions': Kind(('int32',), 'array', 'pixels', fill=-1, absent=-1),
    'depth': Kind(
        ('float32', 'uint8', 'uint16', 'int32'), 'array', 'pixels', absent=0, travels='float32'
    ),
    'flow': Kind(FLOAT, 'array', 'flow', (2,), fill=NAN, absent=NAN),
    'normals': Kind(FLOAT, 'array', 'normals', (3,), absent=0),
    'points': Kind(FLOAT, 'array', 'points', (None, 2), absent=NAN),
    'boxes': Kind(FLOAT, 'array', 'boxes', (None, 4), absent=NAN),
    'intrinsics': Kind(FLOAT, 'numbers', 'intrinsics', (3, 3)),
    'pose': Kind(FLOAT, 'numbers', 'pose', (4, 4)),
    'number': Kind(('float32', 'int32'), 'array', shape=None),
    'text': Kind(('str',), 'text'),
}

NAMED = {
    'name': Feature('text'),
    'sequence': Feature('text'),
    'frame': Feature('number', dtype='int32'),
    'index': Feature('number', dtype='int32'),
    'row': Feature('number', dtype='int32'),
    'weight': Feature('number'),
    'size': Feature('number', (2,), dtype='int32'),
    'label_size': Feature('number', (2,), dtype='int32'),
    'present': Feature('number'),
}
"""Features that every data set or every batch may have, under names that are no kinds."""


def feature_of(key: str, declared: Mapping[str, Feature] = {}) -> Feature:
    """Returns kind, shape and type of a feature.

    A declared feature wins. 'x_frames' is the feature 'x' of the neighbours, and 'photo/x' the
    feature 'x' of an unpaired input.

    Args:
      key: of an example or a batch.
      declared: features by key.

    Returns:
      The feature, with its shape and type filled in. Leading axes are not part of the shape.

    Raises:
      InputError: an unknown key, a declaration that contradicts its kind, or a kind whose shape
        must be declared.
    """
    for name in (key, key.removesuffix(FRAMES)):
        if name in declared:
            return _completed(key, declared[name])

    feature = _named(key)
    if feature is None:
        raise unknown_name(f'feature {key!r}', key, (*declared, *KINDS, *NAMED))
    return feature


@functools.cache
def _named(key: str) -> Feature | None:
    """Returns the feature that the first words of a key name, None if they name none.

    The result is remembered, because every example asks for its features several times.
    """
    words = key.rpartition('/')[2].split('_')
    for length in range(len(words), 0, -1):
        name = '_'.join(words[:length])
        if name in NAMED:
            return _completed(key, NAMED[name])
        if name in KINDS:
            return _completed(key, Feature(name))
    return None


def kind_of(key: str, declared: Mapping[str, Feature] = {}) -> Kind:
    """Returns the rules of the kind of a feature. Raises InputError like `feature_of`."""
    return KINDS[feature_of(key, declared).kind]


@functools.cache
def _completed(key: str, feature: Feature) -> Feature:
    """Returns a feature with the shape and type of its kind where it declares none.

    Raises:
      InputError: the kind is unknown, or shape or type contradict it.
    """
    if feature.kind not in KINDS:
        raise unknown_name(f'kind of feature {key!r}', feature.kind, KINDS)

    # The first type of a kind is its usual type.
    kind = KINDS[feature.kind]
    dtype = feature.dtype or kind.dtypes[0]
    if dtype not in kind.dtypes:
        raise InputError(
            f'type of feature {key!r}', got=repr(dtype), expected=' or '.join(kind.dtypes)
        )
    if kind.shape is None:
        return feature._replace(dtype=dtype)

    # Pairs are places of points.
    num_points = feature.shape[0] if feature.kind == 'points' and feature.shape else 0
    if any(place not in range(num_points) for pair in feature.pairs for place in pair):
        raise InputError(
            f'pairs of feature {key!r}',
            got=f'{feature.pairs}',
            expected='pairs of points, each from 0 to n - 1 for n points',
        )

    # Lengths that the kind leaves open must be declared.
    shape = feature.shape or kind.shape
    fits = len(shape) == len(kind.shape) and all(
        rule in (None, length) for length, rule in zip(shape, kind.shape, strict=True)
    )
    if None in shape or not fits:
        axes = ', '.join('n' if length is None else str(length) for length in kind.shape)
        example = tuple(68 if length is None else length for length in kind.shape)
        raise InputError(
            f'shape of feature {key!r} of kind {feature.kind!r}',
            got=f'{feature.shape}',
            expected=f'({axes})',
            fix=f'declare its shape: {key!r}: Feature({feature.kind!r}, {example})',
        )
    return feature._replace(shape=shape, dtype=dtype)


# --- shapes and types -----------------------------------------------------------------------------


def value_shape(feature: Feature, size: tuple[int, int]) -> tuple[int, ...]:
    """Returns the shape of a value whose maps have the (height, width) `size`."""
    return (*size, *feature.shape) if KINDS[feature.kind].is_map else feature.shape


def num_axes(feature: Feature) -> int:
    """Returns the number of axes of a value. Additional leading axes are frames."""
    return len(value_shape(feature, (0, 0)))


def device_dtype(key: str, feature: Feature) -> np.dtype:
    """Returns the type that values have on the way to a device.

    Args:
      key: names the feature in errors.
      feature: from `feature_of`.

    Raises:
      InputError: text, which no device holds.
    """
    if feature.kind == 'text':
        raise InputError(f'feature {key!r} of a batch', got='text', expected='numbers')
    return np.dtype(KINDS[feature.kind].travels or feature.dtype)


def step_dtype(key: str, feature: Feature) -> np.dtype:
    """Returns the type that values have inside a step. Arguments and errors: `device_dtype`."""
    return np.dtype(KINDS[feature.kind].seen or device_dtype(key, feature))


def in_step(batch: Mapping[str, Any], declared: Mapping[str, Feature] = {}) -> dict[str, Any]:
    """Returns a batch of the loader with the types that a step sees: labels become int32.

    A label travels as a byte, a quarter of the transfer.

    Args:
      batch: arrays of NumPy or JAX, also traced.
      declared: features by key of the batch.
    """
    seen = {}
    for key, value in batch.items():
        dtype = step_dtype(key, feature_of(key, declared))
        seen[key] = value if value.dtype == dtype else value.astype(dtype)
    return seen
