"""Metrics: sums on the device as `protocol.Mean`s, and functions on the host that score them."""

from segjax.metrics import confusion, depth, image

__all__ = ['confusion', 'depth', 'image']
