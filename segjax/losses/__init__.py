"""Losses: pure functions from arrays to a `protocol.Mean`.

They compute in float32, whatever the dtype of the nets. Each `Mean(sum, count)` is not divided yet:
sums and counts are first added up over devices, hosts and micro-batches.
"""

from segjax.losses import (
    adversarial,
    geometry,
    image,
    inpainting,
    landmarks,
    latent,
    normals,
    perceptual,
    samples,
    segmentation,
)

__all__ = [
    'adversarial',
    'geometry',
    'image',
    'inpainting',
    'landmarks',
    'latent',
    'normals',
    'perceptual',
    'samples',
    'segmentation',
]
