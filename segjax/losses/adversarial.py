"""Losses of generators and discriminators.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import unknown_name
from segjax.protocol import Array, Mean


def least_squares(logits: Array, target: float, weight: Array) -> Mean:
    """Computes the least-squares GAN loss.

        L = mean over patches and examples of (logits - target)^2

    The generator wants its pictures at target 1. The discriminator wants real pictures at 1 and
    generated pictures at 0. CycleGAN halves the discriminator's sum of the two terms.
    Mao et al. 2017. Eq. 2 and 8 of Löhdefink and Fingscheidt's noise injection.

    Args:
      logits: [B, h, w, 1], or [B, ...] of any shape, before any sigmoid.
      target: value that the logits should have.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of patches.
    """
    logits = without_padding(weight, logits.astype(jnp.float32))
    square = (logits - target) ** 2
    return masked_mean(square, jnp.ones_like(square), weight)


def least_squares_of_scales(logits: Sequence[Array], target: float, weight: Array) -> Mean:
    """Computes the least-squares GAN loss of a discriminator of several scales.

        L = mean over examples of sum_s mean over patches of (logits_s - target)^2

    The sum is not divided by the number of scales, as released by Wang et al. 2018 (pix2pixHD).

    Args:
      logits: [B, h_s, w_s, 1] of each scale, before any sigmoid.
      target: value that the logits should have, see `least_squares`.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.
    """
    return _sum_of_scales(_square, logits, target, weight)


def logistic_of_scales(logits: Sequence[Array], target: float, weight: Array) -> Mean:
    """Computes the GAN loss of Goodfellow et al. 2014 of a discriminator of several scales.

        L = mean over examples of sum_s mean over patches of
            -target log sigmoid(logits_s) - (1 - target) log(1 - sigmoid(logits_s))

    The generator minimises -log D, the form that does not saturate. Released by Isola et al. 2017
    (pix2pix), with a single scale.

    Args:
      logits: [B, h_s, w_s, 1] of each scale, before the sigmoid.
      target: probability of a real map that the discriminator should return, in [0, 1].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.
    """
    return _sum_of_scales(_cross_entropy, logits, target, weight)


LOSSES = {'least_squares': least_squares_of_scales, 'logistic': logistic_of_scales}
"""Losses of all scales of a discriminator, by name."""


def of_scales(kind: str, logits: Sequence[Array], target: float, weight: Array) -> Mean:
    """Computes the loss of LOSSES with a name. Arguments: `least_squares_of_scales`.

    Raises:
      InputError: the name is unknown.
    """
    if kind not in LOSSES:
        raise unknown_name('GAN loss', kind, LOSSES)
    return LOSSES[kind](logits, target, weight)


def _square(logits: Array, target: float) -> Array:
    """Returns the squared distance of each logit from the target."""
    return (logits - target) ** 2


def _cross_entropy(logits: Array, target: float) -> Array:
    """Returns the cross-entropy of sigmoid(logits) with the target, without overflow."""
    return jax.nn.softplus(logits) - target * logits


def _sum_of_scales(
    patch_loss: Callable, logits: Sequence[Array], target: float, weight: Array
) -> Mean:
    """Sums the mean of the patches over all scales, and then over the examples."""
    total = jnp.zeros(weight.shape, jnp.float32)
    for of_scale in logits:
        of_scale = without_padding(weight, of_scale.astype(jnp.float32))
        total = total + patch_loss(of_scale, target).mean((1, 2, 3))
    return masked_mean(total, jnp.ones_like(total), weight)
