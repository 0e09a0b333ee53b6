"""Pure array functions: they know shapes and dtypes, but neither nets nor data sets."""

from segjax.ops import (
    conv,
    denoise_activation,
    depthwise,
    dilated,
    edges,
    gradients,
    image_pool,
    images,
    noise,
    pool,
    regions,
    residual,
    resize,
    squares,
    warp,
    windows,
)

__all__ = [
    'conv',
    'denoise_activation',
    'depthwise',
    'dilated',
    'edges',
    'gradients',
    'image_pool',
    'images',
    'noise',
    'pool',
    'regions',
    'residual',
    'resize',
    'squares',
    'warp',
    'windows',
]
