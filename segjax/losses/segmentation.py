"""Losses between logits and label maps, and the class weights that go with them.

Every loss here returns a `protocol.Mean(sum, count)` that is not divided yet: pixels that are ignored are
spread unevenly over devices, so only psum(sum) / psum(count) is the mean over the global batch.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core import means
from segjax.errors import InputError, unknown_name
from segjax.protocol import Array, Mean
from segjax.spec import IGNORE


def pixel_cross_entropy(
    logits: Array, label: Array, *, class_weights: Array | None = None, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Cross-entropy of every pixel in float32, and what the pixel counts for.

        loss   = (1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c)
        weight = w_y

    with p = softmax(logits), y the label, w the class weights and s = label_smoothing. Smoothing is that of
    torch.nn.functional.cross_entropy: the smoothed part carries the weights of all classes, while the mean
    still divides by the sum of w_y.

    Args:
      logits: [..., C], any float type.
      label: [...] integer train ids; 255 is ignored (loss 0, weight 0). Any other value outside 0 .. C-1
        makes the loss of that pixel and its gradient NaN: labels are checked when data is prepared, so it is
        a bug, and a jitted function has no quieter way to say so that cannot be overlooked.
      class_weights: [C] or None for ones.
      label_smoothing: in [0, 1).

    Returns:
      (loss, weight), both float32 of label's shape.
    """
    num_classes = logits.shape[-1]
    ignored = label == IGNORE
    # Ignored pixels are cut off before the softmax, or a non-finite logit there would reach the gradient.
    logits = jnp.where(ignored[..., None], 0.0, logits.astype(jnp.float32))
    # A comparison instead of a gather: the gradient of a gather is a scatter, which accelerators do badly. A
    # `where` instead of a product: 0 * -inf would turn the logits of a masked class into NaN.
    is_truth = label[..., None] == jnp.arange(num_classes)
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(-1))
    loss = log_sum - jnp.where(is_truth, shifted, 0.0).sum(-1)
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
    return jnp.where(ignored, 0.0, loss) * jnp.where(out_of_range, jnp.nan, 1.0), weight


def cross_entropy(
    logits: Array,
    label: Array,
    weight: Array,
    *,
    class_weights: Array | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """Cross-entropy over the pixels that are not ignored: sum(w_y l) / sum(w_y), torch's weighted mean.

    Args:
      logits: [B, H, W, C], any float type; computed in float32.
      label: [B, H, W] integer train ids, 255 ignored; see `pixel_cross_entropy` for other values.
      weight: [B] weight of each example, multiplies sum and count.
      class_weights: [C] or None.
      label_smoothing: in [0, 1); see `pixel_cross_entropy`.

    Example:
      >>> loss = cross_entropy(logits, batch['label'], batch['weight'])   # loss.value() on one device
    """
    loss, pixel_weight = pixel_cross_entropy(
        means.without_padding(weight, logits),
        label,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
    )
    return means.masked_mean(loss, pixel_weight, weight)


def ohem_cross_entropy(
    logits: Array,
    label: Array,
    weight: Array,
    *,
    threshold: float = 0.7,
    min_kept_fraction: float = 1 / 16,
    class_weights: Array | None = None,
) -> Mean:
    """Cross-entropy over hard pixels only: online hard example mining (Shrivastava et al. 2016).

    Kept are the pixels whose true class has a probability below `threshold`, -log p_y > -ln(threshold). If
    those are fewer than n = max(1, floor(min_kept_fraction * valid pixels)), the n pixels with the largest
    losses are kept. Ignored pixels are neither kept nor valid; hardness is judged without class weights. The
    choice is made among the pixels of one device, as in distributed torch training, and the mean is taken
    over the kept pixels of the global batch.

    Pixels that tie at the smallest kept loss share the places that are left evenly, each with a fraction of
    one. Without class weights sum and count are then those of any choice among them, and nothing depends on
    the order of pixels.

    Args:
      logits: [B, H, W, C].
      label: [B, H, W] integer train ids, 255 ignored.
      weight: [B] weight of each example; examples of weight 0 are not valid.
      threshold: probability in [0, 1]; 0 calls no pixel hard and keeps the n largest losses.
      min_kept_fraction: in [0, 1].
      class_weights: [C] or None; weigh the kept pixels as in `cross_entropy`.
    """
    logits = means.without_padding(weight, logits)
    hardness, _ = pixel_cross_entropy(jax.lax.stop_gradient(logits), label)
    valid = (label != IGNORE) & (weight > 0)[:, None, None]
    cut = -math.log(threshold) if threshold > 0 else math.inf
    share = _kept_share(hardness, valid, cut, min_kept_fraction)
    loss, pixel_weight = pixel_cross_entropy(logits, label, class_weights=class_weights)
    return means.masked_mean(share * loss, share * pixel_weight, weight)


def _kept_share(loss: Array, valid: Array, cut: float, min_kept_fraction: float) -> Array:
    """1 for kept pixels, 0 for others, a fraction for pixels that tie at the boundary; shape of loss."""
    num_valid = valid.sum()
    min_kept = jnp.floor(num_valid * min_kept_fraction).astype(jnp.int32)
    min_kept = jnp.minimum(jnp.maximum(min_kept, 1), num_valid)
    hard = valid & ~(loss <= cut)  # not `loss > cut`, which would drop a NaN in silence
    # Floats >= 0 are ordered like their bit patterns, so that integers rank them; -1 is below them all.
    rank = jnp.where(valid, jax.lax.bitcast_convert_type(loss, jnp.int32), -1)
    smallest = _kth_largest(rank, min_kept)
    above, tied = rank > smallest, rank == smallest
    share_of_tied = (min_kept - above.sum()) / jnp.maximum(tied.sum(), 1)
    # Where hard pixels are enough they contain the n largest losses, else they are among them: take both.
    return jnp.maximum(
        (hard | above).astype(jnp.float32), jnp.where(tied & valid, share_of_tied, 0.0)
    )


def _kth_largest(rank: Array, k: Array) -> Array:
    """The k-th largest of int32 numbers, k of which are >= 0, bit by bit: faster than a sort (2 ms against 95
    ms for 4x256x512 numbers on two cores)."""

    def fix_bit(i, found):
        candidate = found | (1 << (30 - i))
        return jnp.where((rank >= candidate).sum() >= k, candidate, found)

    return jax.lax.fori_loop(0, 31, fix_bit, jnp.zeros_like(k))


WEIGHT_RULES = ('none', 'enet', 'median_frequency', 'inverse')


def class_weights(
    class_pixels: Sequence[int], void_pixels: int, rule: str, *, k: float = 1.10
) -> np.ndarray:
    """Class weights from the pixel counts of a split (host side).

    With p_c = class_pixels_c / (sum class_pixels + void_pixels), the share of ALL pixels, void included:

    none              1
    enet              1 / ln(k + p_c). Paszke et al. 2016 (ENet); ERFNet: k = 1.10, in its encoder stage 1.20
    median_frequency  median(p) / p_c. Eigen and Fergus 2015, but with frequencies over the whole split; the
                      median is that of the classes that occur
    inverse           1 / p_c, scaled to a mean of 1 over all classes

    A class that never occurs has p_c = 0: 'enet' gives it its largest weight, the finite 1 / ln(k);
    'median_frequency' and 'inverse' give it the weight of the rarest class that does occur. No pixel carries
    that weight, only label smoothing sees it.

    Args:
      class_pixels: [C] labelled pixels of each class.
      void_pixels: ignored pixels.
      rule: a name of WEIGHT_RULES.
      k: > 1, only for 'enet'.

    Returns:
      float32 [C].

    Raises:
      InputError: an unknown rule; no labelled pixel at all.
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
    occurring = share[share > 0]
    weights = np.median(occurring) / np.where(share > 0, share, occurring.min())
    return (weights if rule == 'median_frequency' else weights / weights.mean()).astype(np.float32)
