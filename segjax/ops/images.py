"""Conversions between uint8 pictures and the input of nets, and pictures of labels and numbers.

All functions run on the device, under jit.
"""

import jax.numpy as jnp
import numpy as np

from segjax.errors import unknown_name

SCHEMES = {
    # name: (order of the channels, divisor, mean, standard deviation)
    'unit': ((0, 1, 2), 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'symmetric': ((0, 1, 2), 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    'imagenet': ((0, 1, 2), 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'caffe': ((2, 1, 0), 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    'deeplab': ((2, 1, 0), 1.0, (104.008, 116.669, 122.675), (1.0, 1.0, 1.0)),
    'cityscapes': ((0, 1, 2), 255.0, (0.3257, 0.369, 0.3223), (0.2112, 0.2148, 0.2115)),
}
"""Normalises the channels of an RGB image as (image[channels] / divisor - mean) / std.

unit        [0, 1]
symmetric   [-1, 1]
imagenet    torchvision's mean and standard deviation of RGB in [0, 1]
caffe       BGR in [0, 255] minus the mean of the original VGG and ResNet releases
deeplab     BGR in [0, 255] minus the mean of the DeepLab releases
cityscapes  mean and standard deviation of Cityscapes for RGB in [0, 1], as CoinCheung's BiSeNet
"""

OUT_OF_RANGE_COLOR = (255, 0, 255)
"""Magenta, the colour of labels that are neither a class nor ignored."""

HEAT = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))
"""Colours of `heat` at 0, 1/4, 1/2, 3/4 and 1."""


def normalize(image, scheme: str):
    """Normalises [..., 3] uint8 RGB to [..., 3] float32.

    Args:
      image: [..., 3] uint8, RGB.
      scheme: a key of SCHEMES.
    """
    channels, divisor, mean, std = _constants(scheme)
    image = image[..., np.array(channels)].astype(jnp.float32) / divisor
    return (image - np.float32(mean)) / np.float32(std)


def to_uint8(image, scheme: str):
    """Inverts `normalize`: converts [..., 3] floating point to [..., 3] uint8 RGB.

    Values are rounded, and clipped to 0 .. 255.

    Args:
      image: [..., 3] floating point in the range of the scheme.
      scheme: a key of SCHEMES.
    """
    channels, divisor, mean, std = _constants(scheme)
    image = (image.astype(jnp.float32) * np.float32(std) + np.float32(mean)) * divisor
    image = jnp.round(image[..., np.argsort(channels)])
    return jnp.clip(image, 0, 255).astype(jnp.uint8)


def _constants(scheme: str):
    """Returns the entry of SCHEMES, or raises InputError."""
    if scheme not in SCHEMES:
        raise unknown_name('normalisation scheme', scheme, SCHEMES)
    return SCHEMES[scheme]


def colorize(label, palette, ignore: int = 255):
    """Paints a label map with the colours of its classes.

    Args:
      label: [...] integers, train ids.
      palette: [C, 3] (r, g, b) in 0 .. 255 per class, the palette of a ClassSpec.
      ignore: the ignored label.

    Returns:
      [..., 3] uint8. Ignored pixels are black. Ids that are neither a class nor ignored are
      magenta, so that they catch the eye.
    """
    palette = jnp.asarray(palette, jnp.uint8)
    known = (label >= 0) & (label < len(palette))
    is_class = known[..., None]
    of_classes = palette[jnp.where(known, label, 0)]  # [..., 3]
    colors = jnp.where(is_class, of_classes, np.uint8(OUT_OF_RANGE_COLOR))
    return jnp.where((label == ignore)[..., None], np.uint8(0), colors)


def heat(x):
    """Paints numbers [...] in [0, 1] as [..., 3] uint8.

    Colours go from black through purple and orange to pale yellow. Larger numbers are brighter.
    """
    stops = np.linspace(0, 1, len(HEAT))
    channels = [jnp.interp(x, stops, np.asarray(channel, np.float32)) for channel in zip(*HEAT)]
    return jnp.round(jnp.stack(channels, -1)).astype(jnp.uint8)


def overlay(image, colors, alpha: float = 0.5):
    """Mixes two [..., 3] uint8 pictures: round((1 - alpha) image + alpha colors)."""
    mixed = (1 - alpha) * image.astype(jnp.float32) + alpha * colors.astype(jnp.float32)
    return jnp.round(mixed).astype(jnp.uint8)


def paint_disparity(disparity):
    """Paints disparity maps: bright is near.

    The range of colours ends at the 95th percentile of each image.

    Args:
      disparity: [B, H, W], not negative.

    Returns:
      [B, H, W, 3] uint8.
    """
    top = jnp.percentile(disparity, 95, axis=(1, 2), keepdims=True)
    return heat(jnp.clip(disparity / jnp.maximum(top, 1e-9), 0, 1))


def paint_edges(values):
    """Paints the difference of each pixel to the next pixels on the right and below.

    The largest absolute difference of all channels counts. The sum of both directions is clipped to
    1.

    Args:
      values: [B, H, W, C] floating point.

    Returns:
      [B, H, W, 3] uint8.
    """
    to_right = jnp.abs(jnp.diff(values, axis=2)).max(-1)
    right = jnp.pad(to_right, ((0, 0), (0, 0), (0, 1)))
    to_below = jnp.abs(jnp.diff(values, axis=1)).max(-1)
    below = jnp.pad(to_below, ((0, 0), (0, 1), (0, 0)))
    return heat(jnp.clip(right + below, 0, 1))
