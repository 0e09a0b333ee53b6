"""Losses of self-supervised depth, and losses that make semantic edges agree with depth edges.

Each returns a `protocol.Mean(sum, count)` that is not divided yet; its docstring says what is counted: pixels, or
images where a loss is a sum of means over maps of different sizes. Images are floating point in [0, 1]; with n sources
(frames warped onto the target, segjax/ops/warp.py) they are [B, n, H, W, 3]. Everything is of one scale: scales are
added up by whoever has them.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError, unknown_name
from segjax.losses.image import REDUCTIONS
from segjax.protocol import Array, Mean, PRNGKey

# --- photometric --------------------------------------------------------------------------------------------

SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
SSIM_SHARE = 0.85
TIE_BREAKER = 1e-5


def photometric_l1(
    target: Array, warped: Array, valid: Array, weight: Array, reduction: str = 'sum_channels'
) -> Mean:
    """L1 between the target and its reconstructions, over the pixels that fell onto the source.

        L = 1 / |V| sum_{p in V} || I_t(p) - I'_t(p) ||_1

    Papadopoulos et al., "Semantic Image Segmentation Guided by Scene Geometry".

    Args:
      target: [B, H, W, 3].
      warped: [B, n, H, W, 3]; where not valid it may hold anything.
      valid: [B, n, H, W] bool, the set V.
      weight: [B] weight of each example.
      reduction: over channels: 'sum_channels' is the norm of the formula, 'mean' a third of it.

    Returns:
      Mean whose count is that of the valid pixels of all sources.
    """
    if reduction not in REDUCTIONS:
        raise unknown_name('reduction of the photometric loss', reduction, REDUCTIONS)
    _check_sources(target, warped, valid)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    # Put out before the difference is taken, so that not even the gradient sees what stands there.
    distance = _l1(target, jnp.where(valid[..., None], warped, target[:, None]))
    return masked_mean(
        distance.sum(-1) if reduction == 'sum_channels' else distance.mean(-1), valid, weight
    )


def photometric_all_pixels(
    target: Array, warped: Array, weight: Array, keep: Array | None = None
) -> Mean:
    """SfMLearner's view synthesis loss: the sum over sources of the mean over ALL pixels and the channels.

        L = sum_s mean_p ( keep_s(p) mean_c | I_t(p) - I_s(p) | )

    Zhou et al. 2017, Eq. 3. Pixels outside of the source count as they are (there, `warped` is 0). The original has
    images in [-1, 1]: that doubles the loss inside, and makes the 0 outside a mean gray.

    Args:
      target: [B, H, W, 3].
      warped: [B, n, H, W, 3].
      weight: [B] weight of each example.
      keep: [B, n, H, W] what each residual is multiplied by: `explainability` of the mask logits; the valid mask in the
        PyTorch version; None for ones.

    Returns:
      Mean whose count is that of the target's pixels, whatever n is.
    """
    _check_sources(target, warped, keep)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    distance = _l1(target, warped).mean(-1)
    distance = (distance if keep is None else distance * keep).sum(1)
    return masked_mean(distance, jnp.ones_like(distance), weight)


def explainability(logits: Array) -> Array:
    """Softmax over two channels, of which channel 1 says that a pixel can be explained: [..., 2] -> [...]."""
    return jax.nn.softmax(logits.astype(jnp.float32))[..., 1]


def explainability_cross_entropy(logits: Array, weight: Array) -> Mean:
    """What keeps explainability masks from hiding everything: sum over sources of mean -log p(channel 1).

    Zhou et al. 2017, L_reg.

    Args:
      logits: [B, n, H, W, 2].
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the pixels of one mask, whatever n is.
    """
    logits = without_padding(weight, logits)
    loss = -jax.nn.log_softmax(logits.astype(jnp.float32))[..., 1].sum(1)
    return masked_mean(loss, jnp.ones_like(loss), weight)


def ssim(a: Array, b: Array) -> Array:
    """Structural similarity over windows of 3x3 pixels, the image mirrored at its border.

        (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_aa + s_bb + C2))

    with means m and (co)variances s of the window, all nine pixels weighing the same, C1 = 1e-4, C2 = 9e-4 (Wang et al.
    2004, in the form of Godard et al. 2019).

    Args:
      a: [..., H, W, C] in [0, 1], H, W >= 2.
      b: [..., H, W, C]; leading axes broadcast.

    Returns:
      [..., H, W, C] float32 in [-1, 1], but for rounding.
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    variance_a = _window_mean(a**2) - mean_a**2
    variance_b = _window_mean(b**2) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    return numerator / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variance_a + variance_b + SSIM_C2))


def _window_mean(x):
    """Means over 3x3 pixels of [..., H, W, C]; mirrored without repeating the border."""
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(1, 1), (1, 1), (0, 0)], mode='reflect')
    x = x[..., :-2, :, :] + x[..., 1:-1, :, :] + x[..., 2:, :, :]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9


def photometric_map(a: Array, b: Array, ssim_share: float = SSIM_SHARE) -> Array:
    """The mixture of SSIM and L1 of every pixel, averaged over channels.

        share mean_c clip((1 - SSIM) / 2, 0, 1) + (1 - share) mean_c |a - b|

    Godard et al. 2019 (monodepth2). A pixel's SSIM looks at its eight neighbours, valid or not.

    Args:
      a: [..., H, W, 3] in [0, 1].
      b: [..., H, W, 3]; leading axes broadcast.
      ssim_share: in [0, 1].

    Returns:
      [..., H, W] float32.
    """
    dissimilarity = jnp.clip((1 - ssim(a, b)) / 2, 0, 1)
    return ssim_share * dissimilarity.mean(-1) + (1 - ssim_share) * _absolute(
        _difference(a, b)
    ).mean(-1)


def photometric_mixture(
    target: Array, warped: Array, valid: Array, weight: Array, ssim_share: float = SSIM_SHARE
) -> Mean:
    """Mean of `photometric_map` over the pixels that fell onto the source; arguments and count as in `photometric_l1`.

    Around pixels that are not valid `warped` must be finite, for their neighbours' sake: SSIM sees it.
    """
    _check_sources(target, warped, valid)
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    loss = photometric_map(target[:, None], warped, ssim_share)
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
    """The loss of the source that fits best, pixel by pixel, and auto-masking.

        L = mean_p min_s pe(I_t, I_s->t)(p)

    with pe = `photometric_map`: what one source does not see, another may. With `sources` the minimum is also over the
    frames as they are, pe(I_t, I_s) + 1e-5 N(0, 1): where they fit better than their warps, nothing moved before the
    camera, and no gradient comes from the pixel, which still counts in the mean. The noise breaks ties.
    Godard et al. 2019 (monodepth2), Eq. 4 and 5, as released.

    Args:
      target: [B, H, W, 3] in [0, 1].
      warped: [B, n, H, W, 3], finite; monodepth2 has it with padding 'border'.
      weight: [B] weight of each example.
      sources: [B, n, H, W, 3], the frames before they were warped; None: no auto-masking.
      keys: [B], for the noise of each example; needed with `sources`.
      valid: [B, n, H, W] bool: a warp takes part only where it is valid; None: everywhere, as in monodepth2.
      ssim_share: see `photometric_map`.

    Returns:
      Mean whose count is that of the target's pixels, without auto-masking of those that are valid in any source.
    """
    _check_sources(target, warped, valid)
    if sources is not None:
        _check_sources(target, sources, None)
        if keys is None:
            raise InputError(
                'minimum reprojection',
                got='sources without keys',
                expected='a key for each example',
            )
    target = without_padding(weight, target)
    warped = without_padding(weight, warped)
    loss = photometric_map(target[:, None], warped, ssim_share)
    counted = jnp.ones(target.shape[:3], bool)
    if valid is not None:
        loss, counted = jnp.where(valid, loss, jnp.inf), valid.any(1)
    if sources is not None:
        sources = without_padding(weight, sources)
        unwarped = photometric_map(target[:, None], sources, ssim_share)
        noise = jax.vmap(lambda key: jax.random.normal(key, unwarped.shape[1:]))(keys)
        unwarped += TIE_BREAKER * noise
        loss, counted = jnp.concatenate([unwarped, loss], 1), jnp.ones_like(counted)
    return masked_mean(jnp.where(counted, loss.min(1), 0.0), counted, weight)


# --- smoothness ---------------------------------------------------------------------------------------------


def edge_aware_smoothness(disparity: Array, image: Array, weight: Array) -> Mean:
    """Disparity may change where the image does.

        mean |d*/dx| e^-mean_c|dI/dx| + mean |d*/dy| e^-mean_c|dI/dy|,     d* = d / (mean d + 1e-7)

    by forward differences, with the mean of each image. Godard et al. 2019 (monodepth2), Eq. 3.

    Args:
      disparity: [B, H, W] > 0.
      image: [B, H, W, 3] in [0, 1].
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the images.
    """
    if disparity.shape != image.shape[:3]:
        raise InputError(
            'edge-aware smoothness',
            got=f'a disparity {disparity.shape} and an image {image.shape}',
            expected='[B, H, W] and [B, H, W, 3]',
        )
    image = without_padding(weight, image)
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    disparity = disparity / (disparity.mean((1, 2), keepdims=True) + 1e-7)
    edges = (_absolute(step).mean(-1) for step in _steps(image.astype(jnp.float32)))
    terms = [
        _absolute(step) * jnp.exp(-edge)
        for step, edge in zip(_steps(disparity), edges, strict=True)
    ]
    return _mean_over_images(weight, *terms)


def second_order_smoothness(disparity: Array, weight: Array) -> Mean:
    """mean |d_xx| + mean |d_xy| + mean |d_yx| + mean |d_yy|, by forward differences.

    SfMLearner (Zhou et al. 2017), of disparity in the original and of depth in its PyTorch version.

    Args:
      disparity: [B, H, W], H, W >= 3.
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the images.
    """
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    x, y = _steps(disparity)
    (xx, xy), (_, yy) = _steps(x), _steps(y)
    return _mean_over_images(
        weight, _absolute(xx), 2 * _absolute(xy), _absolute(yy)
    )  # d_xy and d_yx are the same


# --- semantic edges and depth edges -------------------------------------------------------------------------


def normalised_depth(depth: Array) -> Array:
    """depth / its mean over the measured pixels (> 0) of each image: e^-|dD| has no meaning in metres.

    Args:
      depth: [B, H, W]; 0 = not measured, and stays 0.

    Returns:
      [B, H, W] float32; 0 for an image without any measured pixel.
    """
    depth = depth.astype(jnp.float32)
    measured = depth > 0
    mean = jnp.where(measured, depth, 0.0).sum((1, 2)) / jnp.maximum(measured.sum((1, 2)), 1)
    return depth / jnp.where(mean > 0, mean, 1.0)[:, None, None]


def per_class_consistency(
    probabilities: Array, depth: Array, weight: Array, sharpness: float = 1.0
) -> Mean:
    """Semantic edges cost where depth has none, every class by itself.

        L_p = sum_c mean( |dS_c/dx| e^-k|dD/dx| ) + mean( |dS_c/dy| e^-k|dD/dy| )

    Papadopoulos et al., "Semantic Image Segmentation Guided by Scene Geometry". Derivatives are differences of
    neighbours, S(i + 1) - S(i); means are over those that exist. The depth net is trained beforehand: no gradient
    reaches `depth`.

    Args:
      probabilities: [B, H, W, C] softmax of the segmentation net.
      depth: [B, H, W] in the units in which an edge shall matter, see `normalised_depth`.
      weight: [B] weight of each example.
      sharpness: k; the paper has 1. Where |dD| is small, L_p with k = 1 is close to plain smoothing.

    Returns:
      Mean whose count is that of the images.
    """
    probabilities = without_padding(weight, probabilities)
    depth = without_padding(weight, depth)
    edges = _edges_and_flatness(probabilities, depth, sharpness)
    terms = [_absolute(s).sum(-1) * f for s, f in edges]
    return _mean_over_images(weight, *terms)


def holistic_consistency(
    probabilities: Array, depth: Array, weight: Array, sharpness: float = 1.0
) -> Mean:
    """Semantic edges cost where depth has none, the strongest class of each edge alone.

        L_h = mean( S'_x e^-k|dD/dx| ) + mean( S'_y e^-k|dD/dy| ),     S'_x = max_c |dS_c/dx|

    The loss of the paper's best row. It prints dD/dx in both terms; the second one is dD/dy here, as in its L_p.
    Everything else as in `per_class_consistency`.
    """
    probabilities = without_padding(weight, probabilities)
    depth = without_padding(weight, depth)
    edges = _edges_and_flatness(probabilities, depth, sharpness)
    terms = [_absolute(s).max(-1) * f for s, f in edges]
    return _mean_over_images(weight, *terms)


def _edges_and_flatness(probabilities, depth, sharpness):
    """Returns ((dS/dx, e^-k|dD/dx|), (dS/dy, e^-k|dD/dy|)), k the sharpness, without gradient to depth."""
    _check_segmentation(probabilities, depth)
    depth = lax.stop_gradient(depth).astype(jnp.float32)
    flatness = (jnp.exp(-sharpness * jnp.abs(step)) for step in _steps(depth))
    return zip(_steps(probabilities.astype(jnp.float32)), flatness, strict=True)


def depth_edges_without_semantic_edges(probabilities: Array, depth: Array, weight: Array) -> Mean:
    """Chen et al.'s regulariser for a frozen depth net: segmentation that is smooth where depth jumps costs.

        mean( |dD/dx| (1 - 1/2 sum_c |dS_c/dx|) ) + the same in y

    The one-hot maps of the original, which have no gradient, are replaced by probabilities (half the L1 distance of two
    distributions is 0 where they are equal and 1 where they have nothing in common), and the y term is added. No
    gradient reaches `depth`. After Chen, Liu, Liu, Wang, CVPR 2019. Arguments and count as in `per_class_consistency`.
    """
    _check_segmentation(probabilities, depth)
    probabilities = without_padding(weight, probabilities)
    depth = without_padding(weight, depth)
    depth_steps = _steps(lax.stop_gradient(depth).astype(jnp.float32))
    semantic_steps = _steps(probabilities.astype(jnp.float32))
    terms = [
        jnp.abs(d) * (1 - _absolute(s).sum(-1) / 2)
        for d, s in zip(depth_steps, semantic_steps, strict=True)
    ]
    return _mean_over_images(weight, *terms)


def semantic_guided_smoothness(disparity: Array, classes: Array, weight: Array) -> Mean:
    """Chen et al.'s semantic regulariser of disparity: it may change only between classes.

        mean( |d(p) - d(p + 1)| (1 - [class(p) != class(p + 1)]) )     p + 1 the pixel to the right

    The gradient goes into the disparity; classes have none. Chen, Liu, Liu, Wang, CVPR 2019, along x as there.

    Args:
      disparity: [B, H, W].
      classes: [B, H, W] integers, the arg-max of a segmentation net or labels (255 is a class like any other).
      weight: [B] weight of each example.

    Returns:
      Mean whose count is that of the images.
    """
    if disparity.shape != classes.shape:
        raise InputError(
            'semantic-guided smoothness',
            got=f'a disparity {disparity.shape} and classes {classes.shape}',
            expected='both [B, H, W]',
        )
    disparity = without_padding(weight, disparity.astype(jnp.float32))
    step, _ = _steps(disparity)
    same = classes[:, :, 1:] == classes[:, :, :-1]
    return _mean_over_images(weight, jnp.where(same, _absolute(step), 0.0))


# --- parts --------------------------------------------------------------------------------------------------


def _absolute(x):
    """|x| with derivative 0 at 0, where that of jnp.abs is 1: what is right already would be pushed."""
    return x * lax.stop_gradient(jnp.sign(x))


def _difference(a, b):
    return a.astype(jnp.float32) - b.astype(jnp.float32)


def _l1(target, warped):
    """[B, n, H, W, 3] |target - warped|."""
    return _absolute(_difference(target[:, None], warped))


def _steps(x):
    """Forward differences of [B, H, W, ...] along x, [B, H, W - 1, ...], and along y, [B, H - 1, W, ...]."""
    return x[:, :, 1:] - x[:, :, :-1], x[:, 1:] - x[:, :-1]


def _mean_over_images(weight, *terms) -> Mean:
    """The sum of each image's means of [B, ...] terms, averaged over images."""
    if not all(term.size for term in terms):
        raise InputError(
            'loss of differences between pixels',
            got='a map with no neighbours: ' + ', '.join(str(term.shape) for term in terms),
            expected='at least 2 pixels along both axes, 3 for second derivatives',
        )
    total = functools.reduce(jnp.add, (term.mean(tuple(range(1, term.ndim))) for term in terms))
    return masked_mean(total, jnp.ones_like(total), weight)


def _check_sources(target, warped, mask):
    """Broadcasting would accept shapes that were not meant."""
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
    if probabilities.ndim != 4 or probabilities.shape[:3] != depth.shape:
        raise InputError(
            'consistency of segmentation and depth',
            got=f'probabilities {probabilities.shape} and depth {depth.shape}',
            expected='[B, H, W, C] and [B, H, W] of one size',
            fix='resize the depth map to the size of the segmentation',
        )
