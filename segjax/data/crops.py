"""Parts of an example: a drawn object, a box, a window. Building blocks of `Input.transform`.

A box is (x0, y0, x1, y1) in pixels, as a feature of kind 'boxes'. Pixel centres lie at whole
coordinates, so the box of a whole image is (-0.5, -0.5, W - 0.5, H - 0.5). The box of pixels 2 .. 5
reaches from 1.5 to 5.5.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.data import transforms
from segjax.data.transforms import Example, Size
from segjax.errors import InputError
from segjax.ops import windows
from segjax.spec import IGNORE, Feature


class Object(NamedTuple):
    """An instance of an example.

    box       [4] float32, the smallest box that contains its pixels
    train_id  class of most of its labelled pixels
    instance  id in the instance map
    """

    box: np.ndarray
    train_id: int
    instance: int


def object_box(
    example: Example,
    rng: np.random.Generator,
    *,
    share: tuple[float, float] = (0.0, 1.0),
    classes: Collection[int] | None = None,
    label: str = 'label',
    instance: str = 'instance',
) -> Object | None:
    """Draws an instance. All instances within the limits have the same probability.

    Args:
      example: has a map of train ids and a map of instance ids, [H, W] of one size.
      rng: source of the random numbers.
      share: smallest and largest pixels of the instance / pixels of the map.
      classes: allowed train ids, None for all. An instance without a labelled pixel has no class,
        and is never drawn.
      label: key of the train ids.
      instance: key of the instance ids. 0 is no instance.

    Returns:
      The instance, None if no instance is within the limits.
    """
    transforms.map_size(example, (label, instance))
    ids, pixels = np.unique(example[instance], return_counts=True)
    shares = pixels / example[instance].size
    candidates = ids[(ids != 0) & (share[0] <= shares) & (shares <= share[1])]

    # The first allowed instance of a random order. Classes are read only up to this instance.
    for candidate in rng.permutation(candidates):
        mask = example[instance] == candidate
        labels = example[label][mask]
        labels = labels[labels != IGNORE]
        if not labels.size:
            continue
        train_id = int(np.bincount(labels).argmax())
        if classes is None or train_id in classes:
            return Object(extent(mask), train_id, int(candidate))
    return None


def extent(mask: np.ndarray) -> np.ndarray:
    """Returns the smallest box [4] float32 that contains the pixels of a mask [H, W] bool.

    At least one pixel of the mask is set.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    first = np.array([columns[0], rows[0]]) - 0.5
    last = np.array([columns[-1], rows[-1]]) + 0.5
    return np.concatenate([first, last]).astype(np.float32)


def with_context(box: np.ndarray, factor: float, size: Size) -> np.ndarray:
    """Returns the smallest box with the aspect ratio of `size` that contains an enlarged box.

    Both boxes have the same centre. The result may reach beyond the image.

    Args:
      box: [4].
      factor: of the width and the height of the box, before the aspect ratio is corrected.
      size: (height, width) whose ratio the result has.

    Returns:
      [4] float32.
    """
    box = np.asarray(box, np.float64)
    centre = (box[:2] + box[2:]) / 2
    width, height = factor * (box[2:] - box[:2])
    scale = max(height / size[0], width / size[1])
    half = scale * np.array([size[1], size[0]]) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def crop_matrix(box: np.ndarray, size: Size) -> np.ndarray:
    """Returns the 3x3 matrix that maps a box onto an image of this size.

    x' + 1/2 = (x - x0) W / (x1 - x0),    y' + 1/2 = (y - y0) H / (y1 - y0)

    Args:
      box: [4].
      size: (height, width) of the result.

    Raises:
      InputError: a box without an area.
    """
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if not (x0 < x1 and y0 < y1):
        raise InputError('box', got=f'{(x0, y0, x1, y1)}', expected='x0 < x1 and y0 < y1')
    shift = transforms.translation_matrix(-x0 - 0.5, -y0 - 0.5)
    return transforms.resize_matrix((y1 - y0, x1 - x0), size) @ shift


def crop_and_resize(
    example: Example, box: np.ndarray, size: Size, declared: Mapping[str, Feature] = {}
) -> dict[str, Any]:
    """Cuts a box out of every map of an example, and resizes it.

    One matrix moves all features by the rules of `segjax/data/kinds.py`. So points, boxes, cameras
    and depth describe the visible scene. A box of whole pixels that has the size of the result is
    copied. Outside of the input, labels are 255 and images black.

    Args:
      example: maps of one size, and features that follow them.
      box: [4]. It may reach beyond the maps.
      size: (height, width) of the result.
      declared: features by key, where the kind does not follow from the key.
    """
    return transforms.apply_geometry(example, crop_matrix(box, size), size, declared)


def random_window(
    example: Example,
    rng: np.random.Generator,
    size: Size,
    declared: Mapping[str, Feature] = {},
) -> dict[str, Any]:
    """Cuts a window out of every map of an example, at a random place of whole pixels.

    All places inside the maps have the same probability. Maps that are smaller than the window get
    a random place inside of it.

    Args:
      example: maps of one size, and features that follow them.
      rng: source of the random numbers.
      size: (height, width) of the window.
      declared: as in `crop_and_resize`.

    Raises:
      InputError: an example without maps.
    """
    in_size = transforms.map_size(example, None, declared)
    if in_size is None:
        raise InputError('example', got=f'{", ".join(example)}', expected='at least one map')
    room = np.subtract(in_size, size)
    top, left = rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True)
    return crop_and_resize(example, _window(top, left, size), size, declared)


def sliding_boxes(in_size: Size, size: Size, overlap: float) -> np.ndarray:
    """Returns the boxes [N, 4] float32 of evenly spread windows, row by row.

    The windows are as few as possible such that neighbours share a fraction of their length
    (`ops.windows.positions`). An axis that is shorter than a window has a single window.

    Args:
      in_size: (height, width) of the maps.
      size: (height, width) of a window.
      overlap: smallest share of a window in common with the next window, in [0, 1).
    """
    boxes = []
    for top in windows.positions(in_size[0], size[0], overlap):
        for left in windows.positions(in_size[1], size[1], overlap):
            boxes.append(_window(top, left, size))
    return np.stack(boxes)


def _window(top: int, left: int, size: Size) -> np.ndarray:
    """Returns the box [4] float32 of a window whose first pixel is (left, top)."""
    return np.array([left, top, left + size[1], top + size[0]], np.float32) - np.float32(0.5)
