"""Metrics: sums on the device as `protocol.Mean`s, and functions on the host that score them."""

from segjax.metrics import (
    boundary,
    classification,
    confusion,
    curves,
    depth,
    image,
    intervals,
    kernel_distance,
    landmarks,
    lpips,
    normals,
    ranking,
    regions,
    samples,
    sem,
    shape,
)

__all__ = [
    'boundary',
    'classification',
    'confusion',
    'curves',
    'depth',
    'image',
    'intervals',
    'kernel_distance',
    'landmarks',
    'lpips',
    'normals',
    'ranking',
    'regions',
    'samples',
    'sem',
    'shape',
]
