"""Losses of self-supervised depth, and losses that align semantic edges with depth edges.

Each loss returns a `protocol.Mean(sum, count)` that is not divided yet. The count is the number of
pixels. A loss that adds up means over maps of different sizes counts images instead. Each loss
covers a single scale. The caller sums over scales.

Images are floating point in [0, 1]. The n sources of a target are [B, n, H, W, 3]: frames that
segjax/ops/warp.py has warped onto the target.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError, unknown_name
from segjax.losses.image import REDUCTIONS
from segjax.ops.gradients import absolute
from segjax.protocol import Array, Mean, PRNGKey

# --- photometric ----------------------------------------------------------------------------------

SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
"""Constants that keep the denominator of SSIM above 0, for images in [0, 1]."""

SSIM_SHARE = 0.85
"""Weight of SSIM against L1, as in monodepth2."""

TIE_BREAKER = 1e-5
"""Standard deviation of the noise that breaks ties between sources, as in monodepth2."""


def photometric_l1(
    target: Array, warped: Array, valid: Array, weight: Array, reduction: str = 'sum_channels'
) -> Mean:
    """Computes the L1 distance between the target and its reconstructions.

        L = 1 / |V| sum_{p in V} || I_t(p) - I'_t(p) ||_1

    V is the set of pixels that fall onto the source. Pixels outside V count for nothing and get no
    gradient. Papadopoulos et al., "Semantic Image Segmentation Guided by Scene Geometry".

    Args:
      target: [B, H, W, 3], the frame I_t.
      warped: [B, n, H, W, 3], the reconstructions I'_t. Pixels outside V may hold anything.
      valid: [B, n, H, W] bool, the set V.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      reduction: over channels. 'sum_channels' is the norm of the formula, 'mean' a third of it.

    Returns:
      Mean whose count is the number of valid pixels of all sources.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name('reduction of the photometric loss', reduction, REDUCTIONS)
    _check_sources(target, warped, valid)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    # Mask before subtracting, so that invalid pixels get no gradient.
    warped = jnp.where(valid[..., None], warped, target[:, None])
    distance = _l1(target, warped)  # [B, n, H, W, 3]
    distance = distance.sum(-1) if reduction == 'sum_channels' else distance.mean(-1)
    return masked_mean(distance, valid, weight)


def photometric_all_pixels(
    target: Array, warped: Array, weight: Array, keep: Array | None = None
) -> Mean:
    """Computes SfMLearner's view synthesis loss over all pixels.

        L = sum_s mean_p ( keep_s(p) mean_c | I_t(p) - I_s(p) | )

    Pixels outside the source also count: there `warped` is 0. The original has images in [-1, 1].
    With that range the loss doubles inside the source, and the 0 outside means gray.
    Zhou et al. 2017, Eq. 3.

    Args:
      target: [B, H, W, 3], the frame I_t.
      warped: [B, n, H, W, 3], the warped sources I_s.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      keep: [B, n, H, W] factor of each residual: `explainability` of the mask logits, or the valid
        mask as in the PyTorch version. None means 1 everywhere.

    Returns:
      Mean whose count is the number of pixels of the target, whatever n is.
    """
    _check_sources(target, warped, keep)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    distance = _l1(target, warped).mean(-1)  # [B, n, H, W]
    if keep is not None:
        distance = distance * keep
    distance = distance.sum(1)  # [B, H, W]
    return masked_mean(distance, jnp.ones_like(distance), weight)


def explainability(logits: Array) -> Array:
    """Returns the probability that each pixel can be explained by the warp.

    It is channel 1 of the softmax over two channels: [..., 2] -> [...] float32. Zhou et al. 2017.
    """
    return jax.nn.softmax(logits.astype(jnp.float32))[..., 1]


def explainability_cross_entropy(logits: Array, weight: Array) -> Mean:
    """Computes the regulariser that keeps explainability masks from hiding all pixels.

        L = sum_s mean_p ( -log p_s(p) ),     p_s = softmax(logits_s) of channel 1

    Zhou et al. 2017, L_reg.

    Args:
      logits: [B, n, H, W, 2].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of pixels of a mask, whatever n is.
    """
    logits = without_padding(weight, logits)
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    loss = -log_probabilities[..., 1].sum(1)  # [B, H, W]
    return masked_mean(loss, jnp.ones_like(loss), weight)


def ssim(a: Array, b: Array) -> Array:
    """Computes the structural similarity of two images over windows of 3x3 pixels.

        SSIM = (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_aa + s_bb + C2))

    m are the means and s the (co)variances of a window. All nine pixels have the same weight, and
    the image is mirrored at its border. C1 = 1e-4 and C2 = 9e-4. Wang et al. 2004, in the form of
    Godard et al. 2019.

    Args:
      a: [..., H, W, C] in [0, 1], H and W at least 2.
      b: [..., H, W, C]. Leading axes broadcast.

    Returns:
      [..., H, W, C] float32. Apart from rounding, values lie in [-1, 1].
    """
    a = a.astype(jnp.float32)
    b = b.astype(jnp.float32)
    mean_a = _window_mean(a)
    mean_b = _window_mean(b)
    variance_a = _window_mean(a**2) - mean_a**2
    variance_b = _window_mean(b**2) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    return numerator / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2))


def _window_mean(x):
    """Averages x [..., H, W, C] over 3x3 pixels. Mirroring does not repeat the border pixels."""
    margins = [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)]
    x = jnp.pad(x, margins, mode='reflect')  # [..., H + 2, W + 2, C]
    x = x[..., :-2, :, :] + x[..., 1:-1, :, :] + x[..., 2:, :, :]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9


def photometric_map(a: Array, b: Array, ssim_share: float = SSIM_SHARE) -> Array:
    """Mixes SSIM and L1 at every pixel, both averaged over channels.

        pe = share mean_c clip((1 - SSIM) / 2, 0, 1) + (1 - share) mean_c |a - b|

    The SSIM of a pixel depends on its eight neighbours, valid or not. Godard et al. 2019
    (monodepth2).

    Args:
      a: [..., H, W, 3] in [0, 1].
      b: [..., H, W, 3]. Leading axes broadcast.
      ssim_share: in [0, 1].

    Returns:
      [..., H, W] float32.
    """
    dissimilarity = jnp.clip((1 - ssim(a, b)) / 2, 0, 1)
    structure = ssim_share * dissimilarity.mean(-1)
    colour = (1 - ssim_share) * absolute(_difference(a, b)).mean(-1)
    return structure + colour


def photometric_mixture(
    target: Array, warped: Array, valid: Array, weight: Array, ssim_share: float = SSIM_SHARE
) -> Mean:
    """Averages `photometric_map` over the pixels that fall onto the source.

    Invalid pixels count for nothing, but SSIM compares them in the windows of their neighbours.
    Therefore `warped` must be finite around valid pixels.

    Args:
      target: [B, H, W, 3] in [0, 1].
      warped: [B, n, H, W, 3].
      valid: [B, n, H, W] bool.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      ssim_share: as in `photometric_map`.

    Returns:
      Mean whose count is the number of valid pixels of all sources.
    """
    _check_sources(target, warped, valid)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    loss = photometric_map(target[:, None], warped, ssim_share)  # [B, n, H, W]
    return masked_mean(jnp.where(valid, loss, 0.0), valid, weight)


def minimum_reprojection(
    target: Array,
    warped: Array,
    weight: Array,
    *,
    sources: Array | None = None,
    keys: PRNGKey | None = None,
    valid: Array | None = None,
    ssim_share: float = SSIM_SHARE,
) -> Mean:
    """Computes the photometric loss of the source that fits best, pixel by pixel.

        L = mean_p min_s pe(I_t, I_s->t)(p),     pe = `photometric_map`

    A pixel that is hidden in a source may be visible in another source. `sources` switches
    auto-masking on: the minimum then also covers the unwarped frames, pe(I_t, I_s) + 1e-5 N(0, 1).
    Where they fit better than their warps, the pixel did not move relative to the camera. The pixel
    then gets no gradient, but still counts in the mean. The noise breaks ties.
    Godard et al. 2019 (monodepth2), Eq. 4 and 5, as released.

    Args:
      target: [B, H, W, 3] in [0, 1].
      warped: [B, n, H, W, 3], finite. monodepth2 warps with padding 'border'.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      sources: [B, n, H, W, 3], the frames before warping. None: no auto-masking.
      keys: [B], keys of each example's noise. Needed with `sources`.
      valid: [B, n, H, W] bool. Only valid pixels of a warp compete. None: all, as in monodepth2.
      ssim_share: as in `photometric_map`.

    Returns:
      Mean whose count is the number of pixels of the target. Without auto-masking only pixels that
      are valid in a source count.
    """
    _check_sources(target, warped, valid)
    if sources is not None:
        _check_sources(target, sources, None)
        _check_keys(keys)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    loss = photometric_map(target[:, None], warped, ssim_share)  # [B, n, H, W]
    counted = jnp.ones(target.shape[:3], bool)
    if valid is not None:
        loss = jnp.where(valid, loss, jnp.inf)
        counted = valid.any(1)
    if sources is not None:
        sources = without_padding(weight, sources)
        unwarped = _noisy_map(target, sources, keys, ssim_share)
        loss = jnp.concatenate([unwarped, loss], 1)  # [B, 2 n, H, W]
        counted = jnp.ones_like(counted)
    loss = jnp.where(counted, loss.min(1), 0.0)
    return masked_mean(loss, counted, weight)


def _check_keys(keys: PRNGKey | None) -> None:
    """Raises InputError if auto-masking has no keys."""
    if keys is None:
        raise InputError(
            'minimum reprojection',
            got='sources without keys',
            expected='a key for each example',
        )


def _noisy_map(target: Array, sources: Array, keys: PRNGKey, ssim_share: float) -> Array:
    """Returns `photometric_map` of the unwarped sources plus noise [B, n, H, W]."""
    unwarped = photometric_map(target[:, None], sources, ssim_share)
    noise = jax.vmap(lambda key: jax.random.normal(key, unwarped.shape[1:]))(keys)
    return unwarped + TIE_BREAKER * noise


# --- smoothness -----------------------------------------------------------------------------------


def edge_aware_smoothness(disparity: Array, image: Array, weight: Array) -> Mean:
    """Computes the smoothness loss that lets disparity change where the image changes.

        L = mean |dd*/dx| e^-mean_c|dI/dx| + mean |dd*/dy| e^-mean_c|dI/dy|
        d* = d / (mean d + 1e-7)

    Derivatives are forward differences. The mean of d is over each image. Godard et al. 2019
    (monodepth2), Eq. 3.

    Args:
      disparity: [B, H, W] > 0.
      image: [B, H, W, 3] in [0, 1].
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of images.
    """
    if disparity.shape != image.shape[:3]:
        raise InputError(
            'edge-aware smoothness',
            got=f'a disparity {disparity.shape} and an image {image.shape}',
            expected='[B, H, W] and [B, H, W, 3]',
        )
    image = without_padding(weight, image)
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    # Without the division a net could lower the loss by making all disparities small.
    disparity = disparity / (disparity.mean((1, 2), keepdims=True) + 1e-7)
    image_steps = _steps(image.astype(jnp.float32))
    disparity_steps = _steps(disparity)
    terms = []
    for disparity_step, image_step in zip(disparity_steps, image_steps, strict=True):
        edge = absolute(image_step).mean(-1)
        terms.append(absolute(disparity_step) * jnp.exp(-edge))
    return _mean_over_images(weight, *terms)


def second_order_smoothness(disparity: Array, weight: Array) -> Mean:
    """Computes the mean absolute second derivatives of disparity.

        L = mean |d_xx| + mean |d_xy| + mean |d_yx| + mean |d_yy|

    Derivatives are forward differences. SfMLearner (Zhou et al. 2017). The original smooths
    disparity, its PyTorch version depth.

    Args:
      disparity: [B, H, W], H and W at least 3.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of images.
    """
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    x, y = _steps(disparity)
    xx, xy = _steps(x)
    _, yy = _steps(y)
    # d_xy and d_yx are equal.
    return _mean_over_images(weight, absolute(xx), 2 * absolute(xy), absolute(yy))


# --- semantic edges and depth edges ---------------------------------------------------------------


def normalised_depth(depth: Array) -> Array:
    """Divides depth by its mean over the measured pixels (> 0) of each image.

        D' = D / mean_{p: D(p) > 0} D(p)

    The consistency losses contain e^-|dD|, which would depend on the unit of depth.

    Args:
      depth: [B, H, W]. Pixels of depth 0 are not measured and keep the value 0.

    Returns:
      [B, H, W] float32. All zeros for an image without any measured pixel.
    """
    depth = depth.astype(jnp.float32)
    measured = depth > 0
    total = jnp.where(measured, depth, 0.0).sum((1, 2))
    mean = total / jnp.maximum(measured.sum((1, 2)), 1)  # [B]
    return depth / jnp.where(mean > 0, mean, 1.0)[:, None, None]


def per_class_consistency(
    probabilities: Array, depth: Array, weight: Array, sharpness: float = 1.0
) -> Mean:
    """Penalises semantic edges where depth has no edge, for every class separately.

        L_p = sum_c mean( |dS_c/dx| e^-k|dD/dx| ) + mean( |dS_c/dy| e^-k|dD/dy| )

    Derivatives are differences of neighbours, S(i + 1) - S(i). Means are over all differences. The
    depth net is trained beforehand: `depth` gets no gradient. Papadopoulos et al., "Semantic Image
    Segmentation Guided by Scene Geometry".

    Args:
      probabilities: [B, H, W, C], the softmax S of the segmentation net.
      depth: [B, H, W], the depth D in the units in which an edge matters, see `normalised_depth`.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      sharpness: k, 1 in the paper. Where |dD| is small, L_p with k = 1 is close to plain smoothing.

    Returns:
      Mean whose count is the number of images.
    """
    return _consistency(probabilities, depth, weight, sharpness, over_classes=jnp.sum)


def holistic_consistency(
    probabilities: Array, depth: Array, weight: Array, sharpness: float = 1.0
) -> Mean:
    """Penalises semantic edges where depth has no edge, for the strongest class of each edge.

        L_h = mean( S'_x e^-k|dD/dx| ) + mean( S'_y e^-k|dD/dy| ),     S'_x = max_c |dS_c/dx|

    This is the loss of the paper's best row. The paper prints dD/dx in both terms. The second term
    has dD/dy here, as in the paper's L_p.

    Args:
      probabilities: [B, H, W, C], as in `per_class_consistency`.
      depth: [B, H, W], as in `per_class_consistency`. It gets no gradient.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      sharpness: k, 1 in the paper.

    Returns:
      Mean whose count is the number of images.
    """
    return _consistency(probabilities, depth, weight, sharpness, over_classes=jnp.max)


def _consistency(
    probabilities: Array, depth: Array, weight: Array, sharpness: float, over_classes: Callable
) -> Mean:
    """Computes L_p (`over_classes` = jnp.sum) or L_h (jnp.max)."""
    probabilities = without_padding(weight, probabilities)
    depth = without_padding(weight, depth)
    _check_segmentation(probabilities, depth)
    depth = lax.stop_gradient(depth).astype(jnp.float32)
    depth_steps = _steps(depth)
    semantic_steps = _steps(probabilities.astype(jnp.float32))
    terms = []
    for semantic_step, depth_step in zip(semantic_steps, depth_steps, strict=True):
        flatness = jnp.exp(-sharpness * jnp.abs(depth_step))
        edge = over_classes(absolute(semantic_step), axis=-1)
        terms.append(edge * flatness)
    return _mean_over_images(weight, *terms)


def depth_edges_without_semantic_edges(probabilities: Array, depth: Array, weight: Array) -> Mean:
    """Penalises segmentation that is smooth where a frozen depth net has edges.

        L = mean( |dD/dx| (1 - 1/2 sum_c |dS_c/dx|) ) + the same in y

    After the regulariser of Chen, Liu, Liu, Wang, CVPR 2019, with two changes. Probabilities
    replace the one-hot maps of the original, which have no gradient. Half the L1 distance of two
    equal distributions is 0. It is 1 where they have no class in common. The y term is added.

    Args:
      probabilities: [B, H, W, C], the softmax S of the segmentation net.
      depth: [B, H, W], as in `per_class_consistency`. It gets no gradient.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of images.
    """
    _check_segmentation(probabilities, depth)
    probabilities = without_padding(weight, probabilities)
    depth = without_padding(weight, depth)
    depth_steps = _steps(lax.stop_gradient(depth).astype(jnp.float32))
    semantic_steps = _steps(probabilities.astype(jnp.float32))
    terms = []
    for depth_step, semantic_step in zip(depth_steps, semantic_steps, strict=True):
        depth_edge = jnp.abs(depth_step)
        semantic_edge = absolute(semantic_step).sum(-1) / 2
        terms.append(depth_edge * (1 - semantic_edge))
    return _mean_over_images(weight, *terms)


def semantic_guided_smoothness(disparity: Array, classes: Array, weight: Array) -> Mean:
    """Penalises changes of disparity between neighbours of the same class.

        L = mean( |d(p) - d(p + 1)| [class(p) = class(p + 1)] ),     p + 1 = the pixel to the right

    The semantic regulariser of Chen, Liu, Liu, Wang, CVPR 2019, along x as in the paper. Only the
    disparity gets a gradient. Pairs of pixels of different classes add 0, and count.

    Args:
      disparity: [B, H, W].
      classes: [B, H, W] integers, the argmax of a segmentation net or labels. 255 is a class like
        all classes.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the number of images.
    """
    if disparity.shape != classes.shape:
        raise InputError(
            'semantic-guided smoothness',
            got=f'a disparity {disparity.shape} and classes {classes.shape}',
            expected='both [B, H, W]',
        )
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    step, _ = _steps(disparity)  # [B, H, W - 1]
    same = classes[:, :, 1:] == classes[:, :, :-1]
    return _mean_over_images(weight, jnp.where(same, absolute(step), 0.0))


# --- parts ----------------------------------------------------------------------------------------


def _difference(a, b):
    return a.astype(jnp.float32) - b.astype(jnp.float32)


def _l1(target, warped):
    """Returns |target - warped| [B, n, H, W, 3]."""
    return absolute(_difference(target[:, None], warped))


def _steps(x):
    """Returns the forward differences of x [B, H, W, ...] along x and along y.

    The shapes are [B, H, W - 1, ...] and [B, H - 1, W, ...].
    """
    return x[:, :, 1:] - x[:, :, :-1], x[:, 1:] - x[:, :-1]


def _mean_over_images(weight, *terms) -> Mean:
    """Averages each term [B, ...] over each image, and the sum of these means over images."""
    if not all(term.size for term in terms):
        raise InputError(
            'loss of differences between pixels',
            got='a map with no neighbours: ' + ', '.join(str(term.shape) for term in terms),
            expected='at least 2 pixels along both axes, 3 for second derivatives',
        )
    means = (term.mean(tuple(range(1, term.ndim))) for term in terms)  # [B] each
    total = functools.reduce(jnp.add, means)
    return masked_mean(total, jnp.ones_like(total), weight)


def _check_sources(target, warped, mask):
    """Raises InputError for shapes that do not fit, which broadcasting might accept."""
    batch, *size = target.shape
    fits = warped.ndim == 5 and (warped.shape[0], *warped.shape[2:]) == (batch, *size)
    if not fits or (mask is not None and mask.shape != warped.shape[:4]):
        raise InputError(
            'photometric loss',
            got=f'target {target.shape}, sources {warped.shape}'
            + (f', mask {mask.shape}' if mask is not None else ''),
            expected='[B, H, W, 3], [B, n, H, W, 3] and [B, n, H, W]',
        )


def _check_segmentation(probabilities, depth):
    """Raises InputError unless a segmentation and a depth map have the same size."""
    if probabilities.ndim != 4 or probabilities.shape[:3] != depth.shape:
        raise InputError(
            'consistency of segmentation and depth',
            got=f'probabilities {probabilities.shape} and depth {depth.shape}',
            expected='[B, H, W, C] and [B, H, W] of the same size',
            fix='resize the depth map to the size of the segmentation',
        )
