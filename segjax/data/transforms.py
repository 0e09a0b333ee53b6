"""Geometry and colour of a single example, in NumPy and OpenCV.

All geometry of an example (resize, scale, rotation, shift, crop, padding, flip) is composed into
one 3x3 matrix A. A maps homogeneous pixel coordinates of the input to pixel coordinates of the
output, and every map is interpolated once. Images that shrink by more than 2 are first averaged
over blocks of pixels. Pixel centres lie at whole coordinates: the image covers
[-0.5, width - 0.5] x [-0.5, height - 0.5], which is the convention of `cv2.resize`.

`segjax/data/kinds.py` lists the kinds of features, their motion, and their value outside of the
input. Maps may have leading axes (frames). The functions of this file take `declared`, the features
that the data set declares.

Depth is a distance along z. The camera turns with its image: Q rolls it by the turn of A, and a
motion T between cameras becomes Q T Q^T. A flip mirrors the world: where A mirrors, D is
diag(-1, 1, 1, 1) and Q mirrors with it. A flip alone has Q = D. So focal lengths stay positive, and
a moved example is an ordinary example of another scene. A net can read every target from the
images. Under a flip

    maps        pixels swap left and right; ids and depth keep their values
    flow        u changes sign
    normals     the component along x changes sign
    points      x becomes width - 1 - x; left and right landmarks swap places (`Feature.pairs`)
    boxes       the left and the right edge swap
    intrinsics  K becomes A K D: the focal length stays positive, cx becomes width - 1 - cx
    pose        T becomes D T D: turns about y and z and the translation along x change sign
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.data.kinds import KINDS, Kind, feature_of, kind_of, num_axes
from segjax.errors import InputError
from segjax.spec import Feature

Example = Mapping[str, Any]
Size = tuple[int, int]  # (height, width)


TIE = 1e-3
"""Shift of nearest look-ups, in pixels.

With the shift, positions halfway between two pixels go to the larger coordinate, like in
INTER_NEAREST_EXACT. Without it, rounding noise would choose. All positions are halfway if a map is
halved.
"""

EXACT_CHANNELS = (1, 3, 4)
"""Numbers of channels for which OpenCV has exact kernels.

It rounds positions to 1/32 pixel for two channels, and fills borders of at most four channels.
"""

GRAY = np.array([0.299, 0.587, 0.114])


def map_size(
    example: Example, keys: Iterable[str] | None = None, declared: Mapping[str, Feature] = {}
) -> Size | None:
    """Returns the common (height, width) of the maps of an example, None without maps.

    Args:
      example: values by key.
      keys: the features to compare, None for all.
      declared: features by key.

    Raises:
      InputError: the sizes differ, or a map has the wrong shape or dtype.
    """
    sizes = {}
    for key in example if keys is None else keys:
        feature = feature_of(key, declared)
        if not KINDS[feature.kind].is_map:
            continue
        value = example[key]
        _check_map(key, value, feature)
        # Leading axes are frames.
        first = value.ndim - num_axes(feature)
        sizes[key] = value.shape[first : first + 2]
    if len(set(sizes.values())) > 1:
        raise InputError(
            ' and '.join(sizes),
            got=', '.join(f'{k} {h} x {w}' for k, (h, w) in sizes.items()),
            expected='one (height x width) for all maps of an example',
            fix='bring them to one size when the data set is prepared',
        )
    return next(iter(sizes.values()), None)


def _check_map(key: str, value: np.ndarray, feature: Feature) -> None:
    """Raises InputError for a map of the wrong shape or dtype."""
    dtypes = KINDS[feature.kind].dtypes
    last = value.shape[value.ndim - len(feature.shape) :]
    if value.ndim >= num_axes(feature) and last == feature.shape and value.dtype.name in dtypes:
        return
    axes = ', '.join(['...', 'height', 'width', *map(str, feature.shape)])
    raise InputError(
        key,
        got=f'{value.dtype} of shape {value.shape}',
        expected=f'{" or ".join(dtypes)} of shape [{axes}]',
    )


# --- matrices -------------------------------------------------------------------------------------


def translation_matrix(dx: float, dy: float) -> np.ndarray:
    """Returns the 3x3 matrix of a shift: x' = x + dx, y' = y + dy."""
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], np.float64)


def scale_matrix(sy: float, sx: float) -> np.ndarray:
    """Returns the 3x3 matrix of a scaling about the corner of the image.

    x' + 1/2 = sx (x + 1/2) and y' + 1/2 = sy (y + 1/2). The centre of the first pixel moves.
    """
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]], np.float64)


def resize_matrix(in_size: Size, out_size: Size) -> np.ndarray:
    """Returns the 3x3 matrix of a resize between two (height, width)."""
    return scale_matrix(out_size[0] / in_size[0], out_size[1] / in_size[1])


def rotation_matrix(degrees: float, size: Size) -> np.ndarray:
    """Returns the 3x3 matrix of a rotation about the centre of an image of this size.

    Positive angles turn counter-clockwise on the screen.
    """
    angle = np.deg2rad(degrees)
    cos = np.cos(angle)
    sin = np.sin(angle)
    cy = (size[0] - 1) / 2
    cx = (size[1] - 1) / 2
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float64)
    return translation_matrix(cx, cy) @ turn @ translation_matrix(-cx, -cy)


def flip_matrix(width: int) -> np.ndarray:
    """Returns the 3x3 matrix of a horizontal flip: x' = width - 1 - x."""
    return np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], np.float64)


def camera_turn(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how a 3x3 matrix turns the camera, and how it mirrors the world.

    Returns:
      Q [4, 4]: a point p of the camera is the point Q p of the moved camera. The linear part of the
        matrix is an upper triangle with a positive diagonal times Q.
      D [4, 4]: a point x of the world is the point D x of the moved world.
    """
    # The second row of Q is the normalised second row of the linear part.
    below, right = matrix[1, :2] / np.hypot(*matrix[1, :2])
    sign = 1.0 if np.linalg.det(matrix[:2, :2]) > 0 else -1.0
    turn = np.eye(4)
    turn[:2, :2] = [[sign * right, -sign * below], [below, right]]
    return turn, np.diag([sign, 1.0, 1.0, 1.0])


def letterbox_matrix(in_size: Size, out_size: Size) -> tuple[np.ndarray, Size]:
    """Returns a resize into the top left corner that keeps the aspect ratio.

    Returns:
      The 3x3 matrix, and the (height, width) that the resized image fills.
    """
    scale = min(out_size[0] / in_size[0], out_size[1] / in_size[1])
    filled = tuple(max(1, round(length * scale)) for length in in_size)
    return resize_matrix(in_size, filled), filled


def sample_matrix(rng: np.random.Generator, augment, in_size: Size) -> np.ndarray:
    """Samples the geometry of a training example.

    The order is resize, scale, rotate, translate, crop, flip. Crop and shift are whole pixels, so
    that no pixel is interpolated without scale and rotation. A map smaller than the crop gets a
    random place inside it.

    Random numbers are consumed for every option, on or off, so switching one option does not change
    the remaining numbers.

    Args:
      rng: source of the random numbers.
      augment: `config.augment`.
      in_size: (height, width) of the example's maps.

    Returns:
      3x3 matrix from input to output pixels, for `apply_geometry(example, matrix, augment.crop)`.
    """
    # The order of the calls is part of the augmentation of a seed.
    scale = rng.uniform(*augment.scale)
    degrees = rng.uniform(-augment.rotate, augment.rotate)
    shift_y, shift_x = rng.integers(-augment.translate, augment.translate, size=2, endpoint=True)
    share_y, share_x = rng.random(2)
    flip = rng.random() < augment.flip

    # Place the crop in the scaled image.
    resized = tuple(augment.resize) or tuple(in_size)
    size = tuple(max(1, round(length * scale)) for length in resized)
    top = _crop_offset(share_y, size[0], augment.crop[0])
    left = _crop_offset(share_x, size[1], augment.crop[1])

    # Compose the matrix from the first to the last operation.
    matrix = scale_matrix(scale, scale) @ resize_matrix(in_size, resized)
    matrix = (
        translation_matrix(shift_x - left, shift_y - top) @ rotation_matrix(degrees, size) @ matrix
    )
    return flip_matrix(augment.crop[1]) @ matrix if flip else matrix


def _crop_offset(share: float, length: int, crop: int) -> int:
    """Returns a crop's offset along an axis. A negative offset is padding.

    Args:
      share: in [0, 1), chooses among the |length - crop| + 1 offsets.
      length: of the image.
      crop: length of the crop.
    """
    return min(0, length - crop) + int(share * (abs(length - crop) + 1))


# --- moving maps ----------------------------------------------------------------------------------


class Motion(NamedTuple):
    """A motion of the pixels, and of the camera with them.

    matrix  [3, 3] A, from input pixels to output pixels
    turn    [4, 4] Q of `camera_turn`
    mirror  [4, 4] D of `camera_turn`
    """

    matrix: np.ndarray
    turn: np.ndarray
    mirror: np.ndarray


def apply_geometry(
    example: Example, matrix: np.ndarray, out_size: Size, declared: Mapping[str, Feature] = {}
) -> dict[str, Any]:
    """Moves every map of an example once, and its places, vectors and cameras with the maps.

    `kinds` lists the rules. A pixel of an image is black exactly where the label is 255, that is,
    where its centre falls outside the input. Points and boxes may leave the image.

    Args:
      example: maps of one size, points, boxes, cameras, poses, numbers and text.
      matrix: 3x3 affine, from input pixels to output pixels.
      out_size: (height, width) of the result.
      declared: features by key, where the kind does not follow from the key.

    Raises:
      InputError: maps differ in size, or a feature is of no known kind.
    """
    # All maps have the same size, so they share the work that depends on sizes.
    in_size = map_size(example, None, declared)
    matrix = np.asarray(matrix, np.float64)
    motion = Motion(matrix, *camera_turn(matrix))
    move = _mover(matrix, in_size, tuple(out_size)) if in_size else None

    # Pixels move first, then the vectors that they hold.
    moved = {}
    for key, value in example.items():
        feature = feature_of(key, declared)
        kind = KINDS[feature.kind]
        if kind.is_map:
            axes = num_axes(feature)
            value = _each_frame(lambda frame, kind=kind: move(frame, kind), value, axes)
        if kind.motion in _MOTIONS:
            value = _MOTIONS[kind.motion](value, motion, feature).astype(np.float32)
        moved[key] = value
    return moved


def _move_flow(flow: np.ndarray, motion: Motion, _: Feature) -> np.ndarray:
    """Returns the differences of places [..., 2], moved by the linear part of A."""
    return _linear(flow, motion.matrix[:2, :2])


def _move_normals(normals: np.ndarray, motion: Motion, _: Feature) -> np.ndarray:
    """Returns directions [..., 3] of the camera in the turned camera."""
    return _linear(normals, motion.turn[:3, :3])


def _linear(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns M v for every vector [..., n]. Maps that do not turn cost nothing."""
    if np.array_equal(matrix, np.eye(len(matrix))):
        return vectors
    # A product with 0 would carry the NaN of one coordinate to the next, and negate zeros.
    rows = []
    for row in matrix:
        rows.append(sum(m * vectors[..., i] for i, m in enumerate(row) if m != 0))
    return np.stack(rows, axis=-1)


def _move_points(points: np.ndarray, motion: Motion, feature: Feature) -> np.ndarray:
    """Returns A p for points [..., n, 2]. The places of a pair swap if A mirrors."""
    moved = np.asarray(points, np.float64) @ motion.matrix[:2, :2].T + motion.matrix[:2, 2]
    if motion.mirror[0, 0] > 0:
        return moved
    order = np.arange(moved.shape[-2])
    for left, right in feature.pairs:
        order[[left, right]] = order[[right, left]]
    return moved[..., order, :]


def _move_boxes(boxes: np.ndarray, motion: Motion, _: Feature) -> np.ndarray:
    """Returns the smallest upright boxes [..., n, 4] around the moved corners of boxes."""
    corners = np.asarray(boxes, np.float64)[..., [[0, 1], [2, 1], [0, 3], [2, 3]]]
    moved = corners @ motion.matrix[:2, :2].T + motion.matrix[:2, 2]
    return np.concatenate([moved.min(axis=-2), moved.max(axis=-2)], axis=-1)


def _move_intrinsics(camera: np.ndarray, motion: Motion, _: Feature) -> np.ndarray:
    """Returns A K Q^T for camera matrices K [..., 3, 3]."""
    return motion.matrix @ np.asarray(camera, np.float64) @ motion.turn[:3, :3].T


def _move_pose(pose: np.ndarray, motion: Motion, _: Feature) -> np.ndarray:
    """Returns D T Q^T for camera-to-world motions T [..., 4, 4]."""
    return motion.mirror @ np.asarray(pose, np.float64) @ motion.turn.T


_MOTIONS = {
    'flow': _move_flow,
    'normals': _move_normals,
    'points': _move_points,
    'boxes': _move_boxes,
    'intrinsics': _move_intrinsics,
    'pose': _move_pose,
}
"""For each `Kind.motion` that changes values a function (value, motion, feature) -> value."""


def _each_frame(fn: Callable[[np.ndarray], np.ndarray], value: np.ndarray, ndim: int) -> np.ndarray:
    """Applies a function of maps with `ndim` axes to a map, or to each frame of leading axes."""
    if value.ndim == ndim:
        return fn(value)
    return np.stack([_each_frame(fn, frame, ndim) for frame in value])


def _mover(
    matrix: np.ndarray, in_size: Size, out_size: Size
) -> Callable[[np.ndarray, Kind], np.ndarray]:
    """Returns a function (map, kind) -> map that moves maps by a matrix.

    The function copies pixels if the matrix only shifts by whole pixels and flips. Otherwise it
    interpolates.
    """
    # Is the matrix a shift by whole pixels, perhaps with a flip?
    flip = matrix[0, 0] < 0
    shift = np.rint(matrix[:2, 2]).astype(int)
    whole = translation_matrix(*shift)
    whole[0, 0] = -1 if flip else 1
    if np.allclose(matrix, whole, rtol=0, atol=1e-9):
        return lambda value, kind: _copy(value, shift[0], shift[1], flip, out_size, kind.fill)

    # Positions in the input of the output's pixels: for nearest look-ups, and in averaged images.
    to_input = np.linalg.inv(matrix)
    to_nearest = to_input[:2] + np.array([[0, 0, TIE], [0, 0, TIE]])
    inside = _inside(to_nearest, in_size, out_size)
    block = _block_size(matrix)
    to_means = (scale_matrix(1 / block[0], 1 / block[1]) @ to_input)[:2]

    def warp(value, kind):
        if value.ndim == 3 and value.shape[2] not in EXACT_CHANNELS:
            parts = [warp(part, kind) for part in _in_groups(value)]
            return np.concatenate(parts, axis=2)
        if not kind.smooth:
            return _warp(value, to_nearest, out_size, kind, cv2.BORDER_CONSTANT)
        # A constant border would darken the outermost half pixel, which belongs to the image.
        image = _warp(_block_means(value, block), to_means, out_size, kind, cv2.BORDER_REPLICATE)
        if inside is None:
            return image
        return cv2.bitwise_and(image, image, mask=inside).reshape(image.shape)

    return warp


def _in_groups(value: np.ndarray) -> list[np.ndarray]:
    """Splits the channels of a map [H, W, C] into groups of three, and single channels."""
    channels = value.shape[2]
    bounds = [*range(3, channels, 3)]
    if channels % 3 == 2:
        bounds.append(channels - 1)
    return np.split(value, bounds, axis=2)


def _block_size(matrix: np.ndarray) -> Size:
    """Returns the (rows, columns) of the blocks that are averaged before images are interpolated.

    Bilinear interpolation reads two pixels of a line. Down to half the size, it misses no pixel.
    Below half the size, blocks of floor(1 / scale) pixels are averaged. The remaining scale then
    lies in (2/3, 1].
    """
    across, down = 1 / np.hypot(matrix[0, :2], matrix[1, :2])
    return _block_length(down), _block_length(across)


def _block_length(shrink: float) -> int:
    """Returns the pixels to average along an axis that shrinks by this factor."""
    noise = (
        1e-6  # of rounding, so that an exact factor of 2 needs no blocks, and 3 gives blocks of 3
    )
    return int(shrink + noise) if shrink > 2 + noise else 1


def _block_means(image: np.ndarray, block: Size) -> np.ndarray:
    """Averages blocks of pixels.

    Blocks that reach beyond the image repeat its last row and column.
    """
    if block == (1, 1):
        return image
    rows, columns = block
    height, width, *channels = image.shape
    below = -height % rows
    right = -width % columns
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // columns, image.shape[0] // rows)
    means = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return means.reshape(*size[::-1], *channels)


def _warp(
    value: np.ndarray, to_input: np.ndarray, out_size: Size, kind: Kind, border: int
) -> np.ndarray:
    """Moves a map with OpenCV.

    Args:
      value: [H, W], or [H, W, C] with C in EXACT_CHANNELS.
      to_input: [2, 3], from output pixels to input pixels.
      out_size: (height, width) of the result.
      kind: interpolation and fill value.
      border: border mode of OpenCV.
    """
    pixels = value
    fill = (kind.fill,) * 4
    if value.dtype == np.int32:
        # OpenCV's kernel for int32 rounds positions more coarsely than its kernels for smaller
        # types. A label would disagree with an instance at a few border pixels. Nearest look-ups
        # only copy, so an int32 can be moved as four bytes.
        pixels = np.ascontiguousarray(value)[..., None].view(np.uint8)
        fill = np.array([kind.fill], np.int32).view(np.uint8).tolist()
    interpolation = cv2.INTER_LINEAR if kind.smooth else cv2.INTER_NEAREST
    flags = interpolation | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        pixels,
        to_input,
        (out_size[1], out_size[0]),
        flags=flags,
        borderMode=border,
        borderValue=fill,
    )
    return moved.view(value.dtype).reshape(*out_size, *value.shape[2:])


def _inside(to_input: np.ndarray, in_size: Size, out_size: Size) -> np.ndarray | None:
    """Returns the uint8 mask [H, W] of output pixels whose centre lies in the input.

    Returns None if all centres lie in the input.
    """
    height, width = out_size
    corners = np.array(
        [[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]
    )
    x, y = to_input @ corners.T
    if x.min() > 0 and y.min() > 0 and x.max() < in_size[1] - 1 and y.max() < in_size[0] - 1:
        return None
    return _warp(
        np.ones(in_size, np.uint8), to_input, out_size, KINDS['instance'], cv2.BORDER_CONSTANT
    )


def _copy(
    value: np.ndarray, dx: int, dy: int, flip: bool, out_size: Size, fill: float
) -> np.ndarray:
    """Moves a map by whole pixels with slices: x' = x + dx (dx - x with `flip`), y' = y + dy."""
    # The part of the output that the input covers. With a flip, dx becomes the shift of the flipped
    # map.
    height, width = value.shape[:2]
    if flip:
        dx -= width - 1
    x0 = max(0, dx)
    x1 = min(out_size[1], dx + width)
    y0 = max(0, dy)
    y1 = min(out_size[0], dy + height)
    if x0 >= x1 or y0 >= y1:
        return np.full((*out_size, *value.shape[2:]), fill, value.dtype)

    # Cut the covering part from the input.
    columns = slice(x0 - dx, x1 - dx)
    if flip:
        columns = slice(width - columns.stop, width - columns.start)
    part = value[y0 - dy : y1 - dy, columns]
    if flip:
        part = cv2.flip(part, 1).reshape(part.shape)

    # Copy it into the output, unless it fills the output.
    if part.shape[:2] == tuple(out_size):
        return part
    moved = np.full((*out_size, *value.shape[2:]), fill, value.dtype)
    moved[y0:y1, x0:x1] = part
    return moved


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes an image [H, W, 3] uint8 like training and evaluation.

    An image of that size is returned without a copy.
    """
    in_size = image.shape[:2]
    if in_size == tuple(size):
        return image
    return apply_geometry({'image': image}, resize_matrix(in_size, size), size)['image']


# --- colour ---------------------------------------------------------------------------------------


class Colour(NamedTuple):
    """A sample of the photometric augmentation."""

    brightness: float  # factor
    contrast: float  # factor
    saturation: float  # factor
    hue: float  # share of the colour circle
    blur: bool


def sample_colour(rng: np.random.Generator, augment) -> Colour:
    """Samples brightness, contrast, saturation, hue and blur from their ranges in `augment`.

    Random numbers are consumed for every option, on or off.
    """
    ranges = augment.brightness, augment.contrast, augment.saturation
    brightness, contrast, saturation = (1 + rng.uniform(-r, r) for r in ranges)
    hue = rng.uniform(-augment.hue, augment.hue)
    return Colour(brightness, contrast, saturation, hue, blur=bool(rng.random() < augment.blur))


def apply_colour(image: np.ndarray, colour: Colour) -> np.ndarray:
    """Changes brightness, contrast, saturation, hue and blur of an RGB image, in this order.

    Let g(x) be the gray value (0.299 R + 0.587 G + 0.114 B) and m the image's mean gray value. The
    first three changes are

        x <- b x,    x <- c x + (1 - c) b m,    x <- s x + (1 - s) g(x)

    Together they are one affine map of colours, so values are rounded and clipped once. Hue turns
    in HSV space. Blur is a Gaussian of 5x5 pixels with sigma 1.1. Neutral values cost nothing and
    change nothing.

    Args:
      image: [H, W, 3] uint8.
      colour: a sample of `sample_colour`.
    """
    b = colour.brightness
    c = colour.contrast
    s = colour.saturation
    if (b, c, s) != (1, 1, 1):
        gray = np.dot(GRAY, cv2.mean(image)[:3]) if c != 1 else 0.0
        linear = b * c * (s * np.eye(3) + (1 - s) * GRAY)
        offset = np.full((3, 1), (1 - c) * b * gray)
        image = cv2.transform(image, np.concatenate([linear, offset], axis=1))
    steps = round(colour.hue * 256) % 256
    if steps:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(steps)  # uint8 wraps at 256, which is the full circle
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return cv2.GaussianBlur(image, (5, 5), 0) if colour.blur else image


def photometric(
    example: Example, rng: np.random.Generator, augment, declared: Mapping[str, Feature] = {}
) -> dict[str, Any]:
    """Changes all images of an example by the same sample of colours.

    So the frames of a video stay alike. Planes are no images, and keep their values.
    """
    colour = sample_colour(rng, augment)
    paint = functools.partial(apply_colour, colour=colour)
    painted = dict(example)
    for key, value in example.items():
        if kind_of(key, declared).jitter:
            painted[key] = _each_frame(paint, value, 3)
    return painted


# --- whole examples -------------------------------------------------------------------------------


def training(
    example: Example, rng: np.random.Generator, augment, declared: Mapping[str, Feature] = {}
) -> dict[str, Any]:
    """Applies random geometry and then random colours. The result has the size `augment.crop`."""
    size = map_size(example, None, declared)
    matrix = sample_matrix(rng, augment, size) if size else np.eye(3)
    moved = apply_geometry(example, matrix, augment.crop, declared)
    return photometric(moved, rng, augment, declared)


def resized(example: Example, size: Size, declared: Mapping[str, Feature] = {}) -> dict[str, Any]:
    """Letterboxes all maps, including labels, to `size`: training without augmentation."""
    in_size = map_size(example, None, declared)
    matrix = letterbox_matrix(in_size, size)[0] if in_size else np.eye(3)
    return apply_geometry(example, matrix, size, declared)


def evaluation(
    example: Example, eval_size: Size, max_size: Size, declared: Mapping[str, Feature] = {}
) -> dict[str, Any]:
    """Resizes images to the size that the net sees, and pads targets at their own size.

    Images and planes are resized into the top left corner of `eval_size`, with their aspect ratio
    kept. The remaining pixels are black. Points, boxes and intrinsics follow the images. The
    remaining maps are targets: they are padded at the bottom and right to `max_size`. Without
    images, points, boxes and intrinsics keep the pixels of the targets.

    Args:
      example: values by key.
      eval_size: (height, width) of the images in the result.
      max_size: (height, width) of the targets in the result.
      declared: features by key.

    Returns:
      The example with two additional keys, both [2] int32 (height, width):
      size        the part of the images that is not padding (eval_size for its aspect ratio)
      label_size  the part of the targets that is not padding (without targets: the images' own
                  size)

    Raises:
      InputError: a target is larger than `max_size`.
    """
    # Images, and everything that follows them.
    kinds = {key: kind_of(key, declared) for key in example}
    targets = [key for key, kind in kinds.items() if kind.is_map and not kind.resized]
    result = {key: value for key, value in example.items() if key not in targets}
    in_size = map_size(result, None, declared)
    if in_size:
        matrix, filled = letterbox_matrix(in_size, eval_size)
        result = apply_geometry(result, matrix, eval_size, declared)
        result['size'] = np.array(filled, np.int32)

    # Labels, instances, depth and further targets keep their pixels.
    label_size = map_size(example, targets, declared) or in_size
    if label_size:
        result['label_size'] = np.array(label_size, np.int32)
    for key in targets:
        if label_size[0] > max_size[0] or label_size[1] > max_size[1]:
            raise InputError(
                key,
                got='{} x {}'.format(*label_size),
                expected='at most {} x {}, the largest label of the split'.format(*max_size),
                fix='prepare the data set again: its files have changed',
            )
    maps = {key: example[key] for key in targets}
    return result | apply_geometry(maps, np.eye(3), max_size, declared)
