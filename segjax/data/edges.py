"""Boundary strengths of images, from which region hierarchies grow.

A strength is a map [H, W] float32 in [0, 1]: high on the boundaries of objects. Methods:

    gradients    contrast of colour, and steps of depth. It needs no file
    structured   random forests of Dollar, Zitnick, Structured Forests for Fast Edge Detection, ICCV
                 2013, with a model file of the user
    stored       a strength that an earlier derived feature holds

segjax/tasks/edges.py adds a method that runs a net.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.errors import InputError, first_line
from segjax.protocol import Derived, Example
from segjax.spec import Feature

COLOR_SIGMA = 1.5
"""Blur of an image before its contrast is measured, in pixels."""
COLOR_HALF = 18.0
"""Contrast of colour that has the strength 1/2, in units of CIELAB a pixel."""
DEPTH_NOISE = 0.01
"""Step of the inverse depth that is noise of the camera, in 1 / metre."""
DEPTH_HALF = 0.1
"""Step of depth that has the strength 1/2, relative to the depth behind it."""
DEPTH_WINDOW = 4
"""Pixels on each side of a boundary to which a line of inverse depths is fitted."""
MIN_VALID = 0.5
"""Share of measured pixels in a window that a step of depth needs."""


class EdgeMethod(NamedTuple):
    """A method that computes the boundary strength of an example.

    name      of the method
    reads     features that `compute` reads
    compute   example -> strength [H, W] float32 in [0, 1]. A function of a module, or a
              `functools.partial` of one
    settings  numbers and texts that the strength depends on, as JSON
    """

    name: str
    reads: tuple[str, ...]
    compute: Callable[[Example], np.ndarray]
    settings: Mapping[str, Any]


def strength_feature(method: EdgeMethod, name: str = 'planes_edges', data: str = 'data') -> Derived:
    """Returns the boundary strength as a derived feature, [H, W, 1] float32.

    Several features can read a slow strength with `stored`, so it is computed once.

    Args:
      method: of the strength.
      name: of the feature.
      data: config section of the data set.
    """
    return Derived(
        name,
        Feature('planes', (1,), dtype='float32'),
        reads=method.reads,
        compute=functools.partial(_planes, compute=method.compute),
        settings={'method': method.name, **method.settings},
        data=data,
    )


def _planes(example: Example, compute: Callable[[Example], np.ndarray]) -> np.ndarray:
    """Returns the strength of an example with an axis of channels, [H, W, 1]."""
    return compute(example)[..., None]


def stored(name: str = 'planes_edges') -> EdgeMethod:
    """Returns the method that reads the strength from a feature of `strength_feature`."""
    return EdgeMethod('stored', (name,), functools.partial(_stored, name=name), {'feature': name})


def _stored(example: Example, name: str) -> np.ndarray:
    """Returns the strength [H, W] that a feature of an example holds."""
    return example[name][..., 0]


# --- gradients ------------------------------------------------------------------------------------


def gradients(depth: bool = False) -> EdgeMethod:
    """Returns the method that measures contrast of colour and steps of depth.

    Args:
      depth: whether examples have 'depth', which is read.
    """
    settings = {
        'color': [COLOR_SIGMA, COLOR_HALF],
        'depth': [DEPTH_NOISE, DEPTH_HALF, DEPTH_WINDOW, MIN_VALID] if depth else [],
    }
    reads = ('image', 'depth') if depth else ('image',)
    compute = functools.partial(_example_gradients, depth=depth)
    return EdgeMethod('gradients', reads, compute, settings)


def _example_gradients(example: Example, depth: bool) -> np.ndarray:
    """Returns the strength of an example by `gradient_strength`, of colour alone if not `depth`."""
    return gradient_strength(example['image'], example['depth'] if depth else None)


def gradient_strength(image: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
    """Returns the boundary strength of an image by its contrast, and by the steps of its depth.

        strength = 1 - (1 - color) (1 - step)

    A boundary needs contrast or a step, not both. Weak evidence of both adds up.

    Args:
      image: [H, W, 3] uint8, RGB.
      depth: [H, W] float32 in metres, 0 where it is not measured. None: colour alone.

    Returns:
      [H, W] float32 in [0, 1).

    Raises:
      InputError: a depth map of another size, or without a measured pixel.
    """
    color = color_strength(image)
    if depth is None:
        return color
    check_depth(depth, image.shape[:2])
    return 1 - (1 - color) * (1 - depth_strength(depth))


def check_depth(depth: np.ndarray, size: tuple[int, ...]) -> None:
    """Raises InputError for a depth map of another size, or without a measured pixel.

    Args:
      depth: metres, 0 where it is not measured.
      size: (height, width) of the image.
    """
    if depth.shape != tuple(size):
        raise InputError(
            'depth of an image',
            got=f'shape {depth.shape} for an image of height and width {tuple(size)}',
            expected='a depth for each pixel of the image',
            fix='resize the depth map to the image by nearest neighbours',
        )
    if not (depth > 0).any():
        raise InputError(
            'depth of an image',
            got='a map without a measured pixel (all are 0)',
            expected='distances in metres',
            fix='compute regions of colour alone: depth=False',
        )


def color_strength(image: np.ndarray) -> np.ndarray:
    """Returns the boundary strength of an image by its contrast of colour.

        strength = g / (g + COLOR_HALF)
        g        = norm of the gradient of the blurred image in CIELAB

    g takes the largest singular value of the derivatives of all three channels (Di Zenzo, A note on
    the gradient of a multi-image, 1986). So opposite changes of two channels do not cancel.

    Args:
      image: [H, W, 3] uint8, RGB.

    Returns:
      [H, W] float32 in [0, 1).
    """
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), COLOR_SIGMA, borderType=cv2.BORDER_REPLICATE)
    along_x = _half_difference(lab, axis=1)
    along_y = _half_difference(lab, axis=0)

    # The larger eigenvalue of the 2x2 matrix of products of derivatives.
    xx = (along_x * along_x).sum(-1)
    yy = (along_y * along_y).sum(-1)
    xy = (along_x * along_y).sum(-1)
    largest = (xx + yy) / 2 + np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    contrast = np.sqrt(largest)
    return contrast / (contrast + np.float32(COLOR_HALF))


def _half_difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns half the difference of the next and the previous pixel, by repeated border pixels."""
    length = values.shape[axis]
    after = np.take(values, np.minimum(np.arange(length) + 1, length - 1), axis)
    before = np.take(values, np.maximum(np.arange(length) - 1, 0), axis)
    return (after - before) / 2


def depth_strength(depth: np.ndarray) -> np.ndarray:
    """Returns the boundary strength of a depth map by its steps.

        strength = s / (s + DEPTH_HALF)
        s        = max(|a - b| - DEPTH_NOISE, 0) / max(a, b)

    a and b are the inverse depths 1 / z half a pixel from a boundary. Each is extrapolated from
    a line, fitted to the DEPTH_WINDOW pixels on its side. The inverse depth of a plane is linear in
    the pixel coordinates, so slanted planes have no step. Noise of a depth camera grows with z^2,
    so noise of 1 / z is equal at all distances. Without noise, s is the step relative to the depth
    of the surface behind. The larger s of all boundaries of a pixel counts, after a slight blur.

    Pixels that are not measured take no part in the fits. A step needs MIN_VALID measured pixels in
    both windows. So the border of an unmeasured area is no boundary by itself.

    Args:
      depth: [H, W] float32 in metres, 0 where it is not measured.

    Returns:
      [H, W] float32 in [0, 1).
    """
    valid = (depth > 0).astype(np.float64)
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-6), 0).astype(np.float64)
    step = np.zeros(depth.shape, np.float32)
    for transpose in (False, True):
        turned = _step_along_x(inverse.T if transpose else inverse, valid.T if transpose else valid)
        step = np.maximum(step, turned.T if transpose else turned)
    step = cv2.GaussianBlur(step, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    return step / (step + np.float32(DEPTH_HALF))


def _step_along_x(inverse: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns the largest step [H, W] at the left and right boundary of each pixel."""
    left, left_valid = _extrapolated(inverse, valid)
    right, right_valid = _extrapolated(inverse[:, ::-1], valid[:, ::-1])

    # The boundary behind pixel x has pixel x on its left, and pixel x + 1 on its right.
    first = left[:, :-1]
    second = right[:, ::-1][:, 1:]
    excess = np.maximum(np.abs(first - second) - DEPTH_NOISE, 0)
    between = excess / np.maximum(np.maximum(first, second), DEPTH_NOISE)
    between *= left_valid[:, :-1] & right_valid[:, ::-1][:, 1:]
    step = np.zeros(inverse.shape, np.float32)
    step[:, :-1] = between
    step[:, 1:] = np.maximum(step[:, 1:], between)
    return step


def _extrapolated(inverse: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inverse depth half a pixel behind each pixel, by the line through a window.

    The window has the pixel itself and the DEPTH_WINDOW - 1 pixels before it. It is averaged over
    the rows above and below.

    Args:
      inverse: [H, W] float64, 0 where it is not measured.
      valid: [H, W] float64, 1 where it is measured.

    Returns:
      (values [H, W], bool [H, W] where enough pixels are measured).
    """
    # Sums of x^n and of x^n y over the measured pixels of a window. x counts back from the pixel.
    place = np.arange(-DEPTH_WINDOW + 1, 1, dtype=np.float64)
    sums = []
    for values, power in ((valid, 0), (valid, 1), (valid, 2), (inverse, 0), (inverse, 1)):
        kernel = np.ones((3, 1)) * place**power
        anchor = (DEPTH_WINDOW - 1, 1)
        border = cv2.BORDER_CONSTANT
        values = np.ascontiguousarray(values)
        sums.append(cv2.filter2D(values, cv2.CV_64F, kernel, anchor=anchor, borderType=border))
    count, x, xx, y, xy = sums

    # Where all pixels have the same x, their mean is the line.
    enough = count >= MIN_VALID * 3 * DEPTH_WINDOW
    spread = count * xx - x * x
    slope = np.where(spread > 0.5, count * xy - x * y, 0) / np.maximum(spread, 0.5)
    count = np.maximum(count, 1)
    return (y - slope * x) / count + slope / 2, enough


# --- structured forests ---------------------------------------------------------------------------


def structured(model_file: str) -> EdgeMethod:
    """Returns the method of structured forests, with a model file of OpenCV (.yml or .yml.gz).

    Args:
      model_file: path of the file.

    Raises:
      InputError: there is no such file.
    """
    check_file(model_file, "a model file of OpenCV's structured forests, model.yml.gz")
    compute = functools.partial(_example_structured, model_file=str(model_file))
    settings = {'model': file_digest(model_file)}
    return EdgeMethod('structured', ('image',), compute, settings)


def check_file(path: str, expected: str) -> None:
    """Raises InputError if there is no file at a path.

    Args:
      path: of the file.
      expected: content of the file, for the error.
    """
    if not pathlib.Path(path).expanduser().is_file():
        raise InputError(
            'file of an edge detector',
            got=f'{path}, which is no file',
            expected=expected,
            fix="give the path of the file, or use the edges 'gradients', which need no file",
        )


def file_digest(path: str) -> str:
    """Returns 16 hexadecimal digits of the content of a file."""
    file = pathlib.Path(path).expanduser()
    facts = file.stat()
    return _digest(str(file), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _digest(path: str, size: int, changed: int) -> str:
    """Returns the digest of a file. Size and time of the last change tell versions apart."""
    with open(path, 'rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()[:16]


def _example_structured(example: Example, model_file: str) -> np.ndarray:
    """Returns the strength of 'image' by structured forests."""
    return structured_strength(example['image'], model_file)


def structured_strength(image: np.ndarray, model_file: str) -> np.ndarray:
    """Returns the boundary strength of an image by structured forests, [H, W] float32.

    Args:
      image: [H, W, 3] uint8, RGB.
      model_file: path of the model of OpenCV.

    Raises:
      InputError: the file is no such model.
    """
    detector = _detector(str(pathlib.Path(model_file).expanduser()))
    strength = detector.detectEdges(image.astype(np.float32) / 255)
    return np.clip(strength, 0, 1).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _detector(model_file: str) -> cv2.ximgproc.StructuredEdgeDetection:
    """Returns the detector of a model file. A process loads it once."""
    try:
        return cv2.ximgproc.createStructuredEdgeDetection(model_file)
    except cv2.error as error:
        raise InputError(
            model_file,
            got=f'a file that OpenCV cannot read ({first_line(error)})',
            expected="a model file of OpenCV's structured forests, model.yml.gz",
            fix='fetch the file again',
        ) from error
