"""Losses between logits and label maps, and the class weights that go with them.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet. Ignored pixels are spread
unevenly over devices, so only psum(sum) / psum(count) is the mean over the global batch.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE


def pixel_cross_entropy(
    logits: Array, label: Array, *, class_weights: Array | None = None, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Computes the cross-entropy and the weight of every pixel, in float32.

        loss   = (1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c)
        weight = w_y

    p = softmax(logits), y is the label, w are the class weights, and s = label_smoothing. Smoothing
    follows torch.nn.functional.cross_entropy: the smoothed part has the weights of all classes, and
    the mean divides by the sum of w_y.

    Args:
      logits: [..., C], any float type.
      label: [...] integer train ids. 255 is ignored: loss 0 and weight 0. Further values outside
        0 .. C-1 make the loss of their pixel and its gradient NaN. Such a value is a bug, because
        labels are checked when data is prepared. A jitted function can only report it by a NaN.
      class_weights: [C], or None for 1 everywhere.
      label_smoothing: in [0, 1).

    Returns:
      (loss, weight), both float32 of the shape of label.
    """
    num_classes = logits.shape[-1]
    ignored = label == IGNORE

    # Mask ignored pixels before the softmax. A non-finite logit there would reach the gradient.
    logits = jnp.where(ignored[..., None], 0.0, logits.astype(jnp.float32))

    # Compare instead of gathering: the gradient of a gather is a scatter, slow on accelerators.
    # `where` instead of a product: 0 * -inf would turn the logits of a masked class into NaN.
    is_truth = label[..., None] == jnp.arange(num_classes)  # [..., C]
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(-1))
    loss = log_sum - jnp.where(is_truth, shifted, 0.0).sum(-1)

    # Class weights multiply the loss before smoothing, and are the weights of pixels.
    if class_weights is None:
        class_weights = jnp.ones(num_classes, jnp.float32)
        weight = (~ignored).astype(jnp.float32)
    else:
        class_weights = jnp.asarray(class_weights, jnp.float32)
        weight = jnp.where(is_truth, class_weights, 0.0).sum(-1)
    loss = weight * loss
    if label_smoothing > 0:
        of_all_classes = class_weights.sum() * log_sum - (class_weights * shifted).sum(-1)
        loss = (1 - label_smoothing) * loss + label_smoothing / num_classes * of_all_classes

    out_of_range = ~ignored & ((label < 0) | (label >= num_classes))
    loss = jnp.where(ignored, 0.0, loss) * jnp.where(out_of_range, jnp.nan, 1.0)
    return loss, weight


def cross_entropy(
    logits: Array,
    label: Array,
    weight: Array,
    *,
    class_weights: Array | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """Computes the cross-entropy over the pixels that are not ignored.

        L = sum_p loss_p / sum_p weight_p

    This is torch's weighted mean of `pixel_cross_entropy`.

    Args:
      logits: [B, H, W, C], any float type. The loss is computed in float32.
      label: [B, H, W] integer train ids. 255 is ignored and counts for nothing. For values out of
        range see `pixel_cross_entropy`.
      weight: [B] weight of each example, which multiplies sum and count. Examples of weight 0 count
        for nothing.
      class_weights: [C], or None for 1 everywhere.
      label_smoothing: in [0, 1), see `pixel_cross_entropy`.

    Returns:
      Mean whose count is the weighted number of pixels.

    Example:
      >>> loss = cross_entropy(logits, batch['label'], batch['weight'])
      >>> loss.value()  # on a single device
    """
    loss, pixel_weight = pixel_cross_entropy(
        without_padding(weight, logits),
        label,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    return masked_mean(loss, pixel_weight, weight)


def ohem_cross_entropy(
    logits: Array,
    label: Array,
    weight: Array,
    *,
    threshold: float = 0.7,
    min_kept_fraction: float = 1 / 16,
    class_weights: Array | None = None,
) -> Mean:
    """Computes the cross-entropy over hard pixels only (online hard example mining).

        kept = {p: -log p_y > -ln(threshold)}, or the n pixels with the largest losses if fewer
        n    = max(1, floor(min_kept_fraction * valid pixels))
        L    = sum_{p in kept} loss_p / sum_{p in kept} weight_p

    Ignored pixels are neither valid nor kept. Hardness is judged without class weights. Each
    device selects among its own pixels, as in distributed torch training. The mean is over the kept
    pixels of the global batch.

    Pixels that tie at the smallest kept loss share the remaining places evenly, each with a
    fraction. Without class weights, any choice among the ties would have the same sum and count.
    Nothing depends on the order of pixels. Shrivastava et al. 2016.

    Args:
      logits: [B, H, W, C].
      label: [B, H, W] integer train ids. 255 is ignored and counts for nothing.
      weight: [B] weight of each example. Pixels of examples of weight 0 are not valid.
      threshold: probability in [0, 1]. 0 calls no pixel hard and keeps the n largest losses.
      min_kept_fraction: in [0, 1].
      class_weights: [C], or None for 1 everywhere. They weight the kept pixels as in
        `cross_entropy`.

    Returns:
      Mean whose count is the weighted number of kept pixels.
    """
    logits = without_padding(weight, logits)

    # Choose the pixels, without class weights and without a gradient.
    hardness, _ = pixel_cross_entropy(jax.lax.stop_gradient(logits), label)
    valid = (label != IGNORE) & (weight > 0)[:, None, None]
    cut = -math.log(threshold) if threshold > 0 else math.inf
    share = _kept_share(hardness, valid, cut, min_kept_fraction)

    loss, pixel_weight = pixel_cross_entropy(logits, label, class_weights=class_weights)
    return masked_mean(share * loss, share * pixel_weight, weight)


def _kept_share(loss: Array, valid: Array, cut: float, min_kept_fraction: float) -> Array:
    """Returns how much of each pixel is kept, in the shape of loss.

    The share is 1 for kept pixels and 0 for dropped pixels. Pixels that tie at the smallest kept
    loss get a fraction.
    """
    num_valid = valid.sum()
    min_kept = jnp.floor(num_valid * min_kept_fraction).astype(jnp.int32)
    min_kept = jnp.minimum(jnp.maximum(min_kept, 1), num_valid)
    # Not `loss > cut`, which would silently drop a NaN.
    hard = valid & ~(loss <= cut)

    # Floats >= 0 have the order of their bit patterns, so integers rank them. -1 is below all
    # ranks.
    rank = jnp.where(valid, jax.lax.bitcast_convert_type(loss, jnp.int32), -1)
    smallest = _kth_largest(rank, min_kept)
    above = rank > smallest
    tied = rank == smallest
    share_of_tied = (min_kept - above.sum()) / jnp.maximum(tied.sum(), 1)

    # If the hard pixels suffice, they contain the n largest losses. If they are too few, the n
    # largest losses contain them. The union is right in both cases.
    return jnp.maximum(
        (hard | above).astype(jnp.float32), jnp.where(tied & valid, share_of_tied, 0.0)
    )


def _kth_largest(rank: Array, k: Array) -> Array:
    """Returns the k-th largest of int32 numbers, of which at least k are >= 0.

    The result is built bit by bit. For 4x256x512 numbers on two cores this takes 2 ms, a sort 95
    ms.
    """

    def fix_bit(i, result):
        candidate = result | (1 << (30 - i))
        return jnp.where((rank >= candidate).sum() >= k, candidate, result)

    return jax.lax.fori_loop(0, 31, fix_bit, jnp.zeros_like(k))


WEIGHT_RULES = ('none', 'enet', 'median_frequency', 'inverse')
"""Names of the rules of `class_weights`."""


def class_weights(
    class_pixels: Sequence[int], void_pixels: int, rule: str, *, k: float = 1.10
) -> np.ndarray:
    """Computes class weights from the pixel counts of a split, on the host.

    p_c = class_pixels_c / (sum class_pixels + void_pixels) is the share of ALL pixels, void
    included.

    none              1
    enet              1 / ln(k + p_c). Paszke et al. 2016 (ENet). ERFNet: k = 1.10, encoder stage
                      1.20
    median_frequency  median(p) / p_c. Eigen and Fergus 2015, with frequencies over the whole split.
                      The median is over the classes that occur
    inverse           1 / p_c, scaled to a mean of 1 over all classes

    A class that never occurs has p_c = 0. 'enet' gives it the largest weight, the finite 1 / ln(k).
    'median_frequency' and 'inverse' give it the weight of the rarest class that occurs. No pixel
    has this weight, so it matters for label smoothing only.

    Args:
      class_pixels: [C] labelled pixels of each class.
      void_pixels: number of ignored pixels.
      rule: a name of WEIGHT_RULES.
      k: > 1, only for 'enet'.

    Returns:
      [C] float32.

    Raises:
      InputError: the rule is unknown, or no pixel is labelled.
    """
    pixels = np.asarray(class_pixels, np.float64)
    if rule not in WEIGHT_RULES:
        raise unknown_name('class weights', rule, WEIGHT_RULES)
    if rule == 'none':
        return np.ones(len(pixels), np.float32)
    if pixels.sum() <= 0:
        raise InputError(
            f'class weights {rule!r}',
            got='no labelled pixel in any class',
            expected='a split in which at least one class occurs',
            fix="check the labels with --mode doctor, or use the rule 'none'",
        )
    share = pixels / (pixels.sum() + void_pixels)
    if rule == 'enet':
        return (1 / np.log(k + share)).astype(np.float32)
    # A class without pixels counts like the rarest class that occurs.
    occurring = share[share > 0]
    weights = np.median(occurring) / np.where(share > 0, share, occurring.min())
    if rule == 'inverse':
        weights = weights / weights.mean()
    return weights.astype(np.float32)
