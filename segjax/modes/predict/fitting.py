"""Fits the inputs of a `Prediction` into the size of its net, and brings its outputs back.

Maps are letterboxed as in evaluation (`transforms.letterbox_matrix`): resized into the top left
corner with their aspect ratio kept. Points, boxes, cameras and flow follow. Outputs lose the
padding, and are resized to the size of the files.

A prediction without `resize` keeps all pixels: maps are padded, and outputs lose the padding.
"""

from collections.abc import Mapping

import numpy as np

from segjax.data import transforms
from segjax.protocol import Prediction
from segjax.spec import Feature

Size = tuple[int, int]


def fit(
    values: Mapping[str, np.ndarray], prediction: Prediction
) -> tuple[dict[str, np.ndarray], Size | None]:
    """Fits an example into the size of a prediction.

    Args:
      values: by feature.
      prediction: gives the kinds of the features and the (height, width) of the result.

    Returns:
      The moved example, and the (height, width) of its files. None without maps.
    """
    inputs = prediction.inputs
    file_size = transforms.map_size(values, None, inputs)
    if file_size is None:
        return dict(values), None
    matrix = transforms.resize_matrix(file_size, filled_size(file_size, prediction))
    return transforms.apply_geometry(values, matrix, prediction.size, inputs), file_size


def filled_size(file_size: Size, prediction: Prediction) -> Size:
    """Returns the (height, width) of the part of `prediction.size` that a file fills."""
    if not prediction.resize:
        return file_size
    return transforms.letterbox_matrix(file_size, prediction.size)[1]


RESTORED = {
    'classes': 'label',
    'image': 'image',
    'probabilities': 'planes',
    'depth': 'depth',
    'normals': 'normals',
    'mask': 'instance',
}
"""Kinds of features (segjax/data/kinds.py) that are resized like the kinds of outputs."""


TYPES = {'classes': 'int32', 'mask': 'uint8', 'image': 'uint8'}
"""Types in which kinds of outputs are resized. All further kinds are float32."""


def restore(
    kind: str, value: np.ndarray, file_size: Size | None, prediction: Prediction
) -> np.ndarray:
    """Brings an output of the size of the net to the size of the files.

    Pictures and probabilities are interpolated. All further kinds take the nearest pixel.

    Args:
      kind: of the output, see `Prediction`.
      value: [H, W, ...], or [n, H, W, 3] for 'images'. Another (H, W) than that of the net stays
        as it is.
      file_size: (height, width) of the files of the example. None without maps.
      prediction: gives the (height, width) of the net.
    """
    if kind == 'images':
        return np.stack([restore('image', picture, file_size, prediction) for picture in value])
    if kind == 'table' or file_size is None or value.shape[:2] != prediction.size:
        return value
    filled = filled_size(file_size, prediction)
    part = value[: filled[0], : filled[1]].astype(TYPES.get(kind, 'float32'), copy=False)
    feature = Feature(RESTORED[kind], part.shape[2:], dtype=part.dtype.name)
    matrix = transforms.resize_matrix(filled, file_size)
    return transforms.apply_geometry({kind: part}, matrix, file_size, {kind: feature})[kind]
