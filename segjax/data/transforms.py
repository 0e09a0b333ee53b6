"""Geometry and colour of one example, in NumPy and OpenCV.

All geometry of an example (resize, scale, rotation, shift, crop, padding, flip) is composed into one 3x3
matrix A that maps homogeneous pixel coordinates of the input to those of the output, and every map is
interpolated once. Images that shrink by more than 2 are averaged over blocks of pixels before. Pixel
centres lie at whole coordinates: the image covers [-0.5, width - 0.5] x [-0.5, height - 0.5], as
`cv2.resize` has it.

Keys are treated by kind, so `image_prev` is an image and `label_prev` a label; maps may have leading axes
(frames).

    image*       [..., H, W, 3] uint8   bilinear   0 outside
    label*       [..., H, W]            nearest    255 outside
    instance*    [..., H, W]            nearest    0 outside
    depth*       [..., H, W]            nearest    0 (= not measured) outside; distances along z, unchanged
    intrinsics*  [..., 3, 3]            A K Q^T
    pose*        [..., 4, 4]            D T Q^T, all frames alike

The camera turns with its image: Q rolls it by the turn of A, and a motion T between cameras becomes
Q T Q^T. A flip mirrors the world: D is diag(-1, 1, 1, 1) where A mirrors, and Q mirrors, too. A flip alone
has Q = D. So focal lengths stay positive, and a moved example is an ordinary example of another scene: a
net can read every target off the images. `MIRRORED` says how each kind of feature changes under a flip.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.errors import InputError
from segjax.spec import IGNORE

Example = Mapping[str, Any]
Size = tuple[int, int]  # (height, width)


class MapKind(NamedTuple):
    """How a kind of map is moved."""

    interpolation: int
    fill: int
    ndim: int  # of one map; further leading axes are frames
    dtypes: tuple[str, ...]


COUNTED = ('uint8', 'uint16', 'int32')
MAPS = {
    'image': MapKind(cv2.INTER_LINEAR, 0, 3, ('uint8',)),
    'label': MapKind(cv2.INTER_NEAREST, IGNORE, 2, COUNTED),
    'instance': MapKind(cv2.INTER_NEAREST, 0, 2, COUNTED),
    'depth': MapKind(cv2.INTER_NEAREST, 0, 2, (*COUNTED, 'float32')),
}

MIRRORED = {
    'maps': 'pixels swap left and right; class ids, instance ids and depth keep their values',
    'points': 'positions follow A, as all positions do',
    'landmarks': 'positions follow A; left and right landmarks swap names (left eye, right eye)',
    'boxes': 'edges follow A; the left and the right edge swap',
    'flow': 'pixels swap; the vectors follow the linear part of A, so u changes sign',
    'normals': 'pixels swap; the component along x changes sign',
    'intrinsics': 'K becomes A K D: the focal length stays positive, cx becomes width - 1 - cx',
    'poses': 'T becomes D T D: turns about y and z and the translation along x change sign',
}
"""Says what a horizontal flip does to each kind of feature.

Only `maps` (MAPS), intrinsics and poses are implemented. `apply_geometry` refuses every other array, so
no new kind is carried along unchanged."""

TIE = 1e-3
"""Shift in pixels of nearest look-ups: positions halfway between two pixels (every one of them when halving a
map) go to the larger coordinate, as INTER_NEAREST_EXACT has it, not wherever rounding noise sends them."""

GRAY = np.array([0.299, 0.587, 0.114])


def map_kind(key: str) -> MapKind | None:
    """The kind of map a key names, None if it is no map."""
    return next((kind for name, kind in MAPS.items() if key.startswith(name)), None)


def map_size(example: Example, keys: Iterable[str] | None = None) -> Size | None:
    """(height, width) that the maps of an example (those in `keys`) have in common; None without any.

    Raises:
      InputError: they differ, or a map has the wrong rank or dtype.
    """
    sizes = {}
    for key in example if keys is None else keys:
        kind = map_kind(key)
        if kind is None:
            continue
        value = example[key]
        if value.ndim < kind.ndim or value.dtype.name not in kind.dtypes:
            axes = '[..., height, width, channels]' if kind.ndim == 3 else '[..., height, width]'
            raise InputError(
                key,
                got=f'{value.dtype} of shape {value.shape}',
                expected=f'{" or ".join(kind.dtypes)} of shape {axes}',
            )
        first = value.ndim - kind.ndim
        sizes[key] = value.shape[first : first + 2]
    if len(set(sizes.values())) > 1:
        raise InputError(
            ' and '.join(sizes),
            got=', '.join(f'{k} {h} x {w}' for k, (h, w) in sizes.items()),
            expected='one (height x width) for all maps of an example',
            fix='bring them to one size when the data set is prepared',
        )
    return next(iter(sizes.values()), None)


# --- matrices -----------------------------------------------------------------------------------------------


def translation_matrix(dx: float, dy: float) -> np.ndarray:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], np.float64)


def scale_matrix(sy: float, sx: float) -> np.ndarray:
    """x' + 1/2 = sx (x + 1/2): the corner of the image stays, not the centre of its first pixel."""
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]], np.float64)


def resize_matrix(in_size: Size, out_size: Size) -> np.ndarray:
    return scale_matrix(out_size[0] / in_size[0], out_size[1] / in_size[1])


def rotation_matrix(degrees: float, size: Size) -> np.ndarray:
    """Counter-clockwise on the screen, about the centre of an image of this size."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    cy, cx = (size[0] - 1) / 2, (size[1] - 1) / 2
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float64)
    return translation_matrix(cx, cy) @ turn @ translation_matrix(-cx, -cy)


def flip_matrix(width: int) -> np.ndarray:
    """x' = width - 1 - x."""
    return np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]], np.float64)


def camera_turn(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns how a 3x3 matrix turns the camera, and how it mirrors the world.

    Returns:
      Q [4, 4]: a point p of the camera is Q p of the moved camera. The linear part of the matrix is an
        upper triangle with a positive diagonal times Q.
      D [4, 4]: a point x of the world is D x of the moved world.
    """
    below, right = matrix[1, :2] / np.hypot(*matrix[1, :2])
    sign = 1.0 if np.linalg.det(matrix[:2, :2]) > 0 else -1.0
    turn = np.eye(4)
    turn[:2, :2] = [[sign * right, -sign * below], [below, right]]
    return turn, np.diag([sign, 1.0, 1.0, 1.0])


def letterbox_matrix(in_size: Size, out_size: Size) -> tuple[np.ndarray, Size]:
    """Resize that keeps the aspect ratio, into the top left corner, and the (height, width) it fills."""
    scale = min(out_size[0] / in_size[0], out_size[1] / in_size[1])
    filled = tuple(max(1, round(length * scale)) for length in in_size)
    return resize_matrix(in_size, filled), filled


def sample_matrix(rng: np.random.Generator, augment, in_size: Size) -> np.ndarray:
    """Draws the geometry of a training example: resize, scale, rotate, translate, crop, flip, in this order.

    Crop and shift are whole pixels, so that without scale and rotation no pixel is interpolated. A map
    smaller than the crop lands anywhere inside it. Every option draws whether it is on or off, so turning one
    on leaves the others' draws as they were.

    Args:
      rng: source of the draws.
      augment: `config.augment`.
      in_size: (height, width) of the example's maps.

    Returns:
      3x3 matrix from input to output pixels, for `apply_geometry(example, matrix, augment.crop)`.
    """
    scale = rng.uniform(*augment.scale)
    degrees = rng.uniform(-augment.rotate, augment.rotate)
    shift_y, shift_x = rng.integers(-augment.translate, augment.translate, size=2, endpoint=True)
    where_y, where_x = rng.random(2)
    flip = rng.random() < augment.flip

    resized = tuple(augment.resize) or tuple(in_size)
    size = tuple(max(1, round(length * scale)) for length in resized)
    top = _crop_offset(where_y, size[0], augment.crop[0])
    left = _crop_offset(where_x, size[1], augment.crop[1])
    matrix = scale_matrix(scale, scale) @ resize_matrix(in_size, resized)
    matrix = (
        translation_matrix(shift_x - left, shift_y - top) @ rotation_matrix(degrees, size) @ matrix
    )
    return flip_matrix(augment.crop[1]) @ matrix if flip else matrix


def _crop_offset(where: float, length: int, crop: int) -> int:
    """Where in [0, 1) picks one of the |length - crop| + 1 offsets; negative ones are padding."""
    return min(0, length - crop) + int(where * (abs(length - crop) + 1))


# --- moving maps --------------------------------------------------------------------------------------------


def apply_geometry(example: Example, matrix: np.ndarray, out_size: Size) -> dict[str, Any]:
    """Moves every map of an example once, and its cameras with them (see the table at the top).

    A pixel of an image is black exactly where the label is 255: where its centre falls outside the input.

    Args:
      example: maps of one size and whatever belongs to them.
      matrix: 3x3 affine, from input pixels to output pixels.
      out_size: (height, width) of the result.

    Raises:
      InputError: maps differ in size, or an array is of no known kind and may have to move, too.
    """
    in_size = map_size(example)
    matrix = np.asarray(matrix, np.float64)
    turn, mirror = camera_turn(matrix)
    move = _mover(matrix, in_size, tuple(out_size)) if in_size else None
    moved = {}
    for key, value in example.items():
        if kind := map_kind(key):
            moved[key] = _each_frame(lambda frame, kind=kind: move(frame, kind), value, kind.ndim)
        elif key.startswith('intrinsics'):
            camera = np.asarray(value, np.float64)
            moved[key] = (matrix @ camera @ turn[:3, :3].T).astype(np.float32)
        elif key.startswith('pose'):
            moved[key] = (mirror @ np.asarray(value, np.float64) @ turn.T).astype(np.float32)
        elif np.ndim(value) < 2:
            moved[key] = value
        else:
            raise InputError(
                key,
                got=f'an array of shape {np.shape(value)} whose geometry is unknown',
                expected=f'a key that starts with {", ".join(MAPS)}, intrinsics or pose',
            )
    return moved


def _each_frame(fn: Callable[[np.ndarray], np.ndarray], value: np.ndarray, ndim: int) -> np.ndarray:
    if value.ndim == ndim:
        return fn(value)
    return np.stack([_each_frame(fn, frame, ndim) for frame in value])


def _mover(
    matrix: np.ndarray, in_size: Size, out_size: Size
) -> Callable[[np.ndarray, MapKind], np.ndarray]:
    """(map, kind) -> map. Copies pixels where the matrix only shifts and flips, interpolates otherwise."""
    flip = matrix[0, 0] < 0
    shift = np.rint(matrix[:2, 2]).astype(int)
    whole = translation_matrix(*shift)
    whole[0, 0] = -1 if flip else 1
    if np.allclose(matrix, whole, rtol=0, atol=1e-9):
        return lambda value, kind: _copy(value, shift[0], shift[1], flip, out_size, kind.fill)

    to_input = np.linalg.inv(matrix)
    to_nearest = to_input[:2] + np.array([[0, 0, TIE], [0, 0, TIE]])
    inside = _inside(to_nearest, in_size, out_size)
    block = _block_size(matrix)
    to_means = (scale_matrix(1 / block[0], 1 / block[1]) @ to_input)[:2]

    def warp(value, kind):
        if kind.interpolation == cv2.INTER_NEAREST:
            return _warp(value, to_nearest, out_size, kind, cv2.BORDER_CONSTANT)
        # A constant border would darken the outermost half pixel, which belongs to the image.
        image = _warp(_block_means(value, block), to_means, out_size, kind, cv2.BORDER_REPLICATE)
        return (
            image
            if inside is None
            else cv2.bitwise_and(image, image, mask=inside).reshape(image.shape)
        )

    return warp


def _block_size(matrix: np.ndarray) -> Size:
    """Returns the (rows, columns) of the blocks that are averaged before images are interpolated.

    Bilinear interpolation reads two pixels of a line, which misses none down to half the size. Below,
    blocks of floor(1 / scale) pixels are averaged. The rest of the scale then lies in (2/3, 1].
    """
    noise = 1e-6  # of rounding: a half is not less than a half, a third is a third
    across, down = 1 / np.hypot(matrix[0, :2], matrix[1, :2])
    rows, columns = (int(shrink + noise) if shrink > 2 + noise else 1 for shrink in (down, across))
    return rows, columns


def _block_means(image: np.ndarray, block: Size) -> np.ndarray:
    """Averages blocks of pixels; blocks that reach beyond the image repeat its last row and column."""
    if block == (1, 1):
        return image
    rows, columns = block
    height, width = image.shape[:2]
    below, right = -height % rows, -width % columns
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // columns, image.shape[0] // rows)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _warp(
    value: np.ndarray, to_input: np.ndarray, out_size: Size, kind: MapKind, border: int
) -> np.ndarray:
    pixels, fill = value, (kind.fill,) * 4
    if value.dtype == np.int32:
        # OpenCV's own kernel for int32 rounds positions more coarsely than those for the other types, and a label
        # would disagree with an instance at a few border pixels. Nearest only copies, so four bytes do as well.
        pixels = np.ascontiguousarray(value)[..., None].view(np.uint8)
        fill = np.array([kind.fill], np.int32).view(np.uint8).tolist()
    flags = kind.interpolation | cv2.WARP_INVERSE_MAP
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
    """uint8 mask [H, W] of output pixels whose centre lies in the input; None where that is all of them."""
    height, width = out_size
    corners = np.array(
        [[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]
    )
    x, y = to_input @ corners.T
    if x.min() > 0 and y.min() > 0 and x.max() < in_size[1] - 1 and y.max() < in_size[0] - 1:
        return None
    return _warp(
        np.ones(in_size, np.uint8), to_input, out_size, MAPS['instance'], cv2.BORDER_CONSTANT
    )


def _copy(value: np.ndarray, dx: int, dy: int, flip: bool, out_size: Size, fill: int) -> np.ndarray:
    """x' = x + dx (dx - x with `flip`), y' = y + dy: slices, no interpolation."""
    height, width = value.shape[:2]
    if flip:
        dx -= width - 1  # of the flipped map, then
    x0, x1 = max(0, dx), min(out_size[1], dx + width)
    y0, y1 = max(0, dy), min(out_size[0], dy + height)
    if x0 >= x1 or y0 >= y1:
        return np.full((*out_size, *value.shape[2:]), fill, value.dtype)
    first, last = x0 - dx, x1 - dx
    if flip:
        first, last = width - last, width - first
    part = value[y0 - dy : y1 - dy, first:last]
    if flip:
        part = cv2.flip(part, 1).reshape(part.shape)
    if part.shape[:2] == tuple(out_size):
        return part
    moved = np.full((*out_size, *value.shape[2:]), fill, value.dtype)
    moved[y0:y1, x0:x1] = part
    return moved


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes an image [H, W, 3] uint8 as training and evaluation do; no copy at the same size."""
    in_size = image.shape[:2]
    if in_size == tuple(size):
        return image
    return apply_geometry({'image': image}, resize_matrix(in_size, size), size)['image']


# --- colour -------------------------------------------------------------------------------------------------


class Colour(NamedTuple):
    """One draw of the photometric augmentation."""

    brightness: float  # factor
    contrast: float  # factor
    saturation: float  # factor
    hue: float  # share of the colour circle
    blur: bool


def sample_colour(rng: np.random.Generator, augment) -> Colour:
    """Draws from `augment.brightness`, `contrast`, `saturation`, `hue` and `blur`, on or off."""
    ranges = augment.brightness, augment.contrast, augment.saturation
    brightness, contrast, saturation = (1 + rng.uniform(-r, r) for r in ranges)
    hue = rng.uniform(-augment.hue, augment.hue)
    return Colour(brightness, contrast, saturation, hue, blur=bool(rng.random() < augment.blur))


def apply_colour(image: np.ndarray, colour: Colour) -> np.ndarray:
    """Brightness, contrast, saturation, hue and blur of an RGB image, in this order.

    With g(x) the gray value (0.299 R + 0.587 G + 0.114 B) and m the image's mean gray value, the first three
    are

        x <- b x,    x <- c x + (1 - c) b m,    x <- s x + (1 - s) g(x)

    and together one affine map of colours, so values are rounded and clipped once. Hue turns in HSV space;
    blur is a Gaussian of 5x5 pixels with sigma 1.1. Neutral values cost nothing and change nothing.

    Args:
      image: [H, W, 3] uint8.
      colour: a draw of `sample_colour`.
    """
    b, c, s = colour.brightness, colour.contrast, colour.saturation
    if (b, c, s) != (1, 1, 1):
        gray = np.dot(GRAY, cv2.mean(image)[:3]) if c != 1 else 0.0
        linear = b * c * (s * np.eye(3) + (1 - s) * GRAY)
        offset = np.full((3, 1), (1 - c) * b * gray)
        image = cv2.transform(image, np.concatenate([linear, offset], axis=1))
    steps = round(colour.hue * 256) % 256
    if steps:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        hsv[..., 0] += np.uint8(steps)  # wraps at 256, as the circle does
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return cv2.GaussianBlur(image, (5, 5), 0) if colour.blur else image


def photometric(example: Example, rng: np.random.Generator, augment) -> dict[str, Any]:
    """Applies one draw of colours to all images of an example, so that frames of a video stay alike."""
    colour = sample_colour(rng, augment)
    images = {key: value for key, value in example.items() if key.startswith('image')}
    paint = functools.partial(apply_colour, colour=colour)
    return {**example, **{key: _each_frame(paint, value, 3) for key, value in images.items()}}


# --- whole examples -----------------------------------------------------------------------------------------


def training(example: Example, rng: np.random.Generator, augment) -> dict[str, Any]:
    """Random geometry, then random colours, at the size `augment.crop`."""
    size = map_size(example)
    matrix = sample_matrix(rng, augment, size) if size else np.eye(3)
    return photometric(apply_geometry(example, matrix, augment.crop), rng, augment)


def resized(example: Example, size: Size) -> dict[str, Any]:
    """All maps, labels included, letterboxed to `size`: training without augmentation."""
    in_size = map_size(example)
    matrix = letterbox_matrix(in_size, size)[0] if in_size else np.eye(3)
    return apply_geometry(example, matrix, size)


def evaluation(example: Example, eval_size: Size, max_size: Size) -> dict[str, Any]:
    """Images at the size the net sees, everything to compare with at its own size.

    Images are resized to fit `eval_size` with their aspect ratio kept, into the top left corner; the rest is
    black. Intrinsics go with them. Labels, instances and depth are padded at the bottom and right to
    `max_size`.

    Returns:
      The example with two more keys, both [2] int32 (height, width):
      size        the part of the images that is not padding (eval_size for images of that aspect ratio)
      label_size  the part of the labels that is not padding (without labels: the images' own size)

    Raises:
      InputError: a label is larger than `max_size`.
    """
    targets = [key for key in example if map_kind(key) and not key.startswith('image')]
    result = {key: value for key, value in example.items() if key not in targets}
    in_size = map_size(result)
    if in_size:
        matrix, filled = letterbox_matrix(in_size, eval_size)
        result = apply_geometry(result, matrix, eval_size)
        result['size'] = np.array(filled, np.int32)
    label_size = map_size(example, targets) or in_size
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
    return result | apply_geometry({key: example[key] for key in targets}, np.eye(3), max_size)
