"""Metrics: sums on the device as `protocol.Mean`s, and functions on the host that score them."""

from segjax.metrics import confusion, curves, depth, image, ranking, shape

__all__ = ['confusion', 'curves', 'depth', 'image', 'ranking', 'shape']
