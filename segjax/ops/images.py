"""Between uint8 pictures and what nets see; label maps as pictures. All of it runs on the device, under jit."""

import jax.numpy as jnp
import numpy as np

from segjax.errors import unknown_name

SCHEMES = {
    # name: (channels taken from RGB in this order, divisor, mean, standard deviation); (image / divisor - mean) / std
    'unit': ((0, 1, 2), 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    'symmetric': ((0, 1, 2), 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    'imagenet': ((0, 1, 2), 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    'caffe': ((2, 1, 0), 1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    'deeplab': ((2, 1, 0), 1.0, (104.008, 116.669, 122.675), (1.0, 1.0, 1.0)),
    'cityscapes': ((0, 1, 2), 255.0, (0.3257, 0.369, 0.3223), (0.2112, 0.2148, 0.2115)),
}
"""unit: [0, 1]. symmetric: [-1, 1]. imagenet: torchvision's mean and standard deviation of RGB in [0, 1].
caffe: BGR in [0, 255] minus the mean of the original VGG and ResNet releases. deeplab: the same with the mean of the
DeepLab releases. cityscapes: RGB in [0, 1] with mean and standard deviation of Cityscapes, as CoinCheung's BiSeNet."""

OUT_OF_RANGE_COLOR = (255, 0, 255)
HEAT = ((0, 0, 4), (80, 18, 123), (182, 54, 121), (251, 136, 97), (252, 253, 191))


def normalize(image, scheme: str):
    """[..., 3] uint8 RGB -> [..., 3] float32 as the scheme says (see SCHEMES)."""
    channels, divisor, mean, std = _constants(scheme)
    image = image[..., np.array(channels)].astype(jnp.float32) / divisor
    return (image - np.float32(mean)) / np.float32(std)


def to_uint8(image, scheme: str):
    """The inverse of `normalize`: [..., 3] floating point in the range of the scheme -> [..., 3] uint8 RGB.

    Rounded; what lies outside the scheme's range is clipped to 0 .. 255.
    """
    channels, divisor, mean, std = _constants(scheme)
    image = (image.astype(jnp.float32) * np.float32(std) + np.float32(mean)) * divisor
    return jnp.clip(jnp.round(image[..., np.argsort(channels)]), 0, 255).astype(jnp.uint8)


def _constants(scheme: str):
    if scheme not in SCHEMES:
        raise unknown_name('normalisation scheme', scheme, SCHEMES)
    return SCHEMES[scheme]


def colorize(label, palette, ignore: int = 255):
    """Label map -> picture.

    Args:
      label: [...] integers, train ids.
      palette: [C, 3] (r, g, b) in 0 .. 255 per class, a ClassSpec's palette.
      ignore: the label that counts nowhere.

    Returns:
      [..., 3] uint8; ignored pixels are black, ids that are neither a class nor ignored are magenta, to be seen.
    """
    palette = jnp.asarray(palette, jnp.uint8)
    known = (label >= 0) & (label < len(palette))
    colors = jnp.where(
        known[..., None], palette[jnp.where(known, label, 0)], np.uint8(OUT_OF_RANGE_COLOR)
    )
    return jnp.where((label == ignore)[..., None], np.uint8(0), colors)


def heat(x):
    """[...] in [0, 1] -> [..., 3] uint8, from black through purple and orange to pale yellow; ever brighter."""
    stops = np.linspace(0, 1, len(HEAT))
    channels = [jnp.interp(x, stops, np.asarray(channel, np.float32)) for channel in zip(*HEAT)]
    return jnp.round(jnp.stack(channels, -1)).astype(jnp.uint8)


def overlay(image, colors, alpha: float = 0.5):
    """round((1 - alpha) image + alpha colors): two [..., 3] uint8 pictures -> one."""
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
    """Paints the differences to the next pixel on the right and to the next pixel below.

    Of all channels the largest absolute difference counts. The sum of both directions is clipped to 1.

    Args:
      values: [B, H, W, C] floating point.

    Returns:
      [B, H, W, 3] uint8.
    """
    right = jnp.pad(jnp.abs(jnp.diff(values, axis=2)).max(-1), ((0, 0), (0, 0), (0, 1)))
    below = jnp.pad(jnp.abs(jnp.diff(values, axis=1)).max(-1), ((0, 0), (0, 1), (0, 0)))
    return heat(jnp.clip(right + below, 0, 1))
