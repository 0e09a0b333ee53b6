"""Fits the inputs of a `Prediction` into the size of its net, and brings its outputs back.

Maps are letterboxed as in evaluation (`transforms.letterbox_matrix`): resized into the top left
corner with their aspect ratio kept. Points, boxes, cameras and flow follow. Outputs lose the
padding, and are resized to the size of the files.
"""

from collections.abc import Mapping

import numpy as np

from segjax.data import transforms
from segjax.spec import Feature

Size = tuple[int, int]


def fit(
    values: Mapping[str, np.ndarray], inputs: Mapping[str, Feature], size: Size
) -> tuple[dict[str, np.ndarray], Size | None]:
    """Fits an example into `size`.

    Args:
      values: by feature.
      inputs: kinds of the features.
      size: (height, width) of the maps in the result.

    Returns:
      The moved example, and the (height, width) of its files. None without maps.
    """
    file_size = transforms.map_size(values, None, inputs)
    if file_size is None:
        return dict(values), None
    matrix, _ = transforms.letterbox_matrix(file_size, size)
    return transforms.apply_geometry(values, matrix, size, inputs), file_size


def filled_size(file_size: Size, size: Size) -> Size:
    """Returns the (height, width) of the part of `size` that a letterboxed file fills."""
    return transforms.letterbox_matrix(file_size, size)[1]


RESTORED = {
    'classes': 'label',
    'image': 'image',
    'probabilities': 'planes',
    'depth': 'depth',
    'normals': 'normals',
}
"""Kinds of features (segjax/data/kinds.py) that are resized like the kinds of outputs."""


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
    if kind != 'image':
        part = part.astype(np.int32 if kind == 'classes' else np.float32)
    feature = Feature(RESTORED[kind], part.shape[2:], dtype=part.dtype.name)
    matrix = transforms.resize_matrix(filled, file_size)
    return transforms.apply_geometry({kind: part}, matrix, file_size, {kind: feature})[kind]
