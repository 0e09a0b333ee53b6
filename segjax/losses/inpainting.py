"""Losses of inpainted label maps.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet.
"""

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import unknown_name
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE

RECONSTRUCTIONS = ('neg_log', 'nll_direct')
"""Names the forms of the reconstruction loss, see `reconstruction`."""

SMALLEST = 1e-30
"""Smallest number whose logarithm is taken. Its reciprocal is a float32."""


def reconstruction(
    scores: Array,
    label: Array,
    weight: Array,
    *,
    region: Array | None = None,
    form: str = 'neg_log',
    smallest: float = SMALLEST,
) -> Mean:
    """Computes the reconstruction loss between a denoised map and the true classes (Eq. 7).

        -log max(P_y, smallest)     'neg_log'
        -P_y                        'nll_direct'

    P_y is the number of the true class y. He et al. define no loss for numbers that add up to 2. A
    division of them by 2 would add log 2 to 'neg_log' and change no gradient. 'nll_direct' is the
    result of torch's NLLLoss on the numbers themselves.

    Args:
      scores: [B, H, W, k] numbers >= 0, from `ops.denoise_activation.training_map`.
      label: [B, H, W] integer train ids. 255 is ignored and counts for nothing. Further values
        outside 0 .. k-1 make the loss NaN.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      region: [B, H, W] bool, the pixels that count: the box, the enlarged box of the release, or
        None for the whole map.
      form: a name of RECONSTRUCTIONS.
      smallest: lower limit of P_y in 'neg_log'. Below the limit the gradient is 0.

    Returns:
      Mean whose count is the weighted number of pixels.

    Source: He et al., Reducing Noise Pixels and Metric Bias in Semantic Inpainting on Segmentation
    Map, section 3.2.
    """
    if form not in RECONSTRUCTIONS:
        raise unknown_name('form of the reconstruction loss', form, RECONSTRUCTIONS)
    num_classes = scores.shape[-1]
    scores = without_padding(weight, scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
    counted = label != IGNORE
    if region is not None:
        counted &= region

    # Pixels that do not count get the score 1 before the logarithm, so no gradient is 0 / 0.
    is_truth = label[..., None] == jnp.arange(num_classes)
    score = jnp.where(is_truth & counted[..., None], scores, 0).sum(-1)
    score = jnp.where(counted, score, 1)
    loss = -score if form == 'nll_direct' else -jnp.log(jnp.maximum(score, smallest))

    out_of_range = counted & ~is_truth.any(-1)
    loss = jnp.where(out_of_range, jnp.nan, loss)
    return masked_mean(jnp.where(counted, loss, 0), counted.astype(jnp.float32), weight)


def object_reconstruction(
    logits: Array, truth: Array, weight: Array, *, region: Array | None = None
) -> Mean:
    """Computes the binary cross-entropy between an object map and the true object (Eq. 1).

        -t log p - (1 - t) log(1 - p),    p = sigmoid(logits)

    Pixels outside the region cost nothing, but all pixels of the map are counted, as in the
    released code of Hong et al. 2018, which multiplies p by the region.

    Args:
      logits: [B, H, W].
      truth: [B, H, W] bool, the pixels of the object. They lie inside the region.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      region: [B, H, W] bool, None for the whole map.

    Returns:
      Mean whose count is the weighted number of pixels of the maps.
    """
    logits = without_padding(weight, logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    # -log p = softplus(-x) and -log(1 - p) = softplus(x), without an overflow.
    loss = jax.nn.softplus(jnp.where(truth, -logits, logits))
    if region is not None:
        loss = jnp.where(region, loss, 0)
    return masked_mean(loss, jnp.ones_like(loss), weight)
