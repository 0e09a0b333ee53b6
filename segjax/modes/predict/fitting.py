"""Fits the inputs of a `Prediction` into the size of its net, and brings its outputs back.

Maps are letterboxed as in evaluation (`transforms.letterbox_matrix`): resized into the top left
corner with their aspect ratio kept. Points, boxes, cameras and flow follow. Outputs lose the
padding, and are resized to the size of the files.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from segjax.data import transforms
from segjax.modes.predict import reading
from segjax.spec import IGNORE, Feature

Size = tuple[int, int]


def fit(
    values: Mapping[str, np.ndarray], inputs: Mapping[str, Feature], size: Size
) -> tuple[dict[str, np.ndarray], Size | None]:
    """Fits an example into `size`.

    Args:
      values: by feature. Maps have one size.
      inputs: kinds of the features.
      size: (height, width) of the maps in the result.

    Returns:
      The moved example, and the (height, width) of its files. None without maps.
    """
    maps = [key for key in values if reading.is_map(inputs[key])]
    if not maps:
        return dict(values), None
    in_size = values[maps[0]].shape[:2]
    matrix, _ = transforms.letterbox_matrix(in_size, size)
    return {key: _moved(value, inputs[key], matrix, size) for key, value in values.items()}, in_size


def filled_size(file_size: Size, size: Size) -> Size:
    """Returns the (height, width) of the part of `size` that a letterboxed file fills."""
    return transforms.letterbox_matrix(file_size, size)[1]


def _moved(value: np.ndarray, feature: Feature, matrix: np.ndarray, size: Size) -> np.ndarray:
    """Moves a value by the matrix of a letterbox, which only scales and shifts.

    Args:
      value: of an example.
      feature: its kind.
      matrix: [3, 3], from pixels of the file to pixels of the net.
      size: (height, width) of moved maps.
    """
    kind = feature.kind
    if kind == 'image':
        return transforms.apply_geometry({'image': value}, matrix, size)['image']
    if kind == 'flow':
        value = value * matrix[[0, 1], [0, 1]].astype(np.float32)
    if reading.is_map(feature):
        return nearest(value, matrix, size, FILL.get(kind, 0))
    if kind in ('points', 'boxes'):
        corners = value.reshape(-1, 2) * matrix[[0, 1], [0, 1]] + matrix[:2, 2]
        return corners.reshape(value.shape).astype(np.float32)
    if kind == 'intrinsics':
        return (matrix @ value).astype(np.float32)
    return value


FILL = {'label': IGNORE, 'flow': np.nan}
"""Values of the padding of maps. For all other kinds it is 0."""


def nearest(value: np.ndarray, matrix: np.ndarray, size: Size, fill: float) -> np.ndarray:
    """Moves a map [H, W, ...] of any type by nearest neighbours.

    Args:
      value: the map.
      matrix: [3, 3], from its pixels to the pixels of the result.
      size: (height, width) of the result.
      fill: value outside of the map.
    """
    # Numbers of pixels are moved in place of the pixels. 0 is outside.
    height, width = value.shape[:2]
    numbers = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    moved = transforms.apply_geometry({'instance': numbers}, matrix, size)['instance']
    outside = np.full((1, *value.shape[2:]), fill, value.dtype)
    pixels = np.concatenate([outside, value.reshape(height * width, *value.shape[2:])])
    return pixels[moved]


# --- outputs --------------------------------------------------------------------------------------


def restore(kind: str, value: np.ndarray, file_size: Size | None, size: Size) -> np.ndarray:
    """Brings an output of the size of the net to the size of the files.

    Pictures and probabilities are interpolated. Classes, depth and normals take the nearest pixel.

    Args:
      kind: of the output, see `Prediction`.
      value: [H, W, ...], or [n, H, W, 3] for 'images'. Another (H, W) than `size` stays as it is.
      file_size: (height, width) of the files of the example. None without maps.
      size: (height, width) of the net.
    """
    if kind == 'images':
        return np.stack([restore('image', picture, file_size, size) for picture in value])
    if kind == 'table' or file_size is None or value.shape[:2] != size:
        return value
    filled = filled_size(file_size, size)
    part = value[: filled[0], : filled[1]]
    if part.shape[:2] == file_size:
        return part
    if kind == 'image':
        return transforms.resize_image(np.ascontiguousarray(part), file_size)
    if kind == 'probabilities':
        planes = np.moveaxis(part, -1, 0).astype(np.float32)
        resized = [cv2.resize(np.ascontiguousarray(plane), file_size[::-1]) for plane in planes]
        return np.stack(resized, axis=-1)
    return nearest(part, transforms.resize_matrix(filled, file_size), file_size, 0)
