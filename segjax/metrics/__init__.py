"""Metrics: device side sums, as `protocol.Mean`s, and the host side functions that turn them into scores."""

from segjax.metrics import confusion, depth, image

__all__ = ['confusion', 'depth', 'image']
