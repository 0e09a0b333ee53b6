"""Losses: pure functions from arrays to `protocol.Mean`s; float32 inside, whatever the dtype of the nets."""

from segjax.losses import adversarial, geometry, image, segmentation

__all__ = ['adversarial', 'geometry', 'image', 'segmentation']
