"""Metrics: sums on the device as `protocol.Mean`s, and functions on the host that score them."""

from segjax.metrics import (
    classification,
    confusion,
    curves,
    depth,
    image,
    intervals,
    ranking,
    sem,
    shape,
)

__all__ = [
    'classification',
    'confusion',
    'curves',
    'depth',
    'image',
    'intervals',
    'ranking',
    'sem',
    'shape',
]
