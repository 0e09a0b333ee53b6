"""Geometric losses against loops over their formulas, and against small maps computed by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.losses import geometry

RNG = np.random.default_rng(0)
B, N, H, W, C = 3, 2, 4, 5, 4
TARGET = RNG.random((B, H, W, 3), np.float32)
WARPED, SOURCES = RNG.random((2, B, N, H, W, 3), np.float32)
VALID = RNG.random((B, N, H, W)) < 0.7
MASK_LOGITS = RNG.normal(size=(B, N, H, W, 2)).astype(np.float32)
DEPTH = RNG.uniform(0.5, 2, (B, H, W)).astype(np.float32)
LOGITS = RNG.normal(size=(B, H, W, C))
PROBABILITIES = (np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)).astype(np.float32)
CLASSES = RNG.integers(0, 2, (B, H, W))
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)
KEYS = jax.random.split(jax.random.key(0), B)


@functools.cache
def jitted(loss):
    """Returns the compiled loss, shared by all tests that call it with the same shapes."""
    return (
        jax.jit(loss, static_argnames='reduction')
        if loss is geometry.photometric_l1
        else jax.jit(loss)
    )


def by_hand(values, counts):
    """Returns (sum, count) of float64 values [B, ...] and of their weights."""
    return tuple(
        sum(w * np.sum(x, dtype=np.float64) for w, x in zip(WEIGHT, part))
        for part in (values, counts)
    )


def steps(x):
    """Returns |forward differences| of [B, H, W, ...] along x and along y."""
    return np.abs(np.diff(x.astype(np.float64), axis=2)), np.abs(
        np.diff(x.astype(np.float64), axis=1)
    )


def image_means(*terms):
    """Returns (sum, count) over images of the sum of each image's means."""
    return by_hand([sum(term[b].mean() for term in terms) for b in range(B)], np.ones(B))


# --- photometric ----------------------------------------------------------------------------------


@pytest.mark.parametrize('reduction, share', [('sum_channels', 1), ('mean', 3)])
def test_photometric_l1_is_the_mean_over_valid_pixels_of_all_sources(reduction, share):
    total = np.zeros((B, N, H, W))
    for b, s, i, j, c in np.ndindex(*WARPED.shape):
        if VALID[b, s, i, j]:
            total[b, s, i, j] += (
                abs(float(TARGET[b, i, j, c]) - float(WARPED[b, s, i, j, c])) / share
            )
    got = jitted(geometry.photometric_l1)(TARGET, WARPED, VALID, WEIGHT, reduction)
    np.testing.assert_allclose(got, by_hand(total, VALID), rtol=1e-6)


def test_what_is_not_valid_leaves_no_trace_in_value_or_gradient():
    run = jax.jit(
        jax.value_and_grad(
            lambda warped: jitted(geometry.photometric_l1)(TARGET, warped, VALID, WEIGHT).value()
        )
    )
    value, gradient = run(np.where(VALID[..., None], WARPED, np.nan))
    np.testing.assert_array_equal(value, run(WARPED)[0])
    sign = np.sign(WARPED - TARGET[:, None]) * (VALID * WEIGHT[:, None, None, None])[..., None]
    np.testing.assert_allclose(gradient, sign / by_hand(VALID, VALID)[1], rtol=1e-6)


def test_what_is_right_already_is_not_pushed():
    same = np.stack([TARGET] * N, 1)
    gradient = jax.jit(
        jax.grad(lambda warped: jitted(geometry.photometric_l1)(TARGET, warped, VALID, WEIGHT).sum)
    )(same)
    np.testing.assert_array_equal(gradient, 0)


def test_nothing_valid_counts_as_nothing():
    got = jitted(geometry.photometric_l1)(TARGET, WARPED, np.zeros_like(VALID), WEIGHT)
    np.testing.assert_array_equal(got, (0, 0))


@pytest.mark.parametrize('masked', [False, True])
def test_all_pixels_of_all_sources_are_summed_as_in_sfmlearner(masked):
    keep = RNG.random((B, N, H, W), np.float32) if masked else None
    expected = sum(
        np.mean([np.abs(TARGET[b] - WARPED[b, s]).mean(-1) * (keep[b, s] if masked else 1)])
        * WEIGHT[b]
        for b, s in np.ndindex(B, N)
    )
    got = jitted(geometry.photometric_all_pixels)(TARGET, WARPED, WEIGHT, keep)
    np.testing.assert_allclose(got, (expected * H * W, WEIGHT.sum() * H * W), rtol=1e-6)


def test_explainability():
    e = np.exp(MASK_LOGITS.astype(np.float64))
    share = e[..., 1] / e.sum(-1)
    np.testing.assert_allclose(jitted(geometry.explainability)(MASK_LOGITS), share, rtol=1e-6)
    got = jitted(geometry.explainability_cross_entropy)(MASK_LOGITS, WEIGHT)
    np.testing.assert_allclose(got, by_hand(-np.log(share).sum(1), np.ones((B, H, W))), rtol=1e-6)
    # A mask that always says 'keep' costs nothing, an undecided mask ln 2 per source.
    sure = np.broadcast_to(np.float32([-50, 50]), MASK_LOGITS.shape)
    assert jitted(geometry.explainability_cross_entropy)(sure, WEIGHT).value() == 0
    undecided = jitted(geometry.explainability_cross_entropy)(np.zeros_like(MASK_LOGITS), WEIGHT)
    np.testing.assert_allclose(undecided.value(), N * np.log(2), rtol=1e-6)


def ssim_by_hand(a, b):
    """Computes SSIM [H, W] of two float64 images, with 3x3 windows mirrored about the border."""
    result = np.zeros(a.shape)
    for i, j in np.ndindex(*a.shape):
        rows, columns = (
            [abs(k) if k < n else 2 * n - 2 - k for k in (x - 1, x, x + 1)]
            for x, n in zip((i, j), a.shape)
        )
        p, q = (np.array([image[r, c] for r in rows for c in columns]) for image in (a, b))
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        result[i, j] = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance + 9e-4)
        result[i, j] /= (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)
    return result


def ssim_of_sources():
    expected = np.zeros((B, N, H, W, 3))
    for b, s, c in np.ndindex(B, N, 3):
        expected[b, s, ..., c] = ssim_by_hand(
            *(x[..., c].astype(np.float64) for x in (TARGET[b], WARPED[b, s]))
        )
    return expected


def mixture_by_hand(other=WARPED):
    """Computes the mixture of SSIM and L1 of every pixel, [B, N, H, W]."""
    result = np.zeros((B, N, H, W))
    for b, s, c in np.ndindex(B, N, 3):
        p, q = (x[..., c].astype(np.float64) for x in (TARGET[b], other[b, s]))
        result[b, s] += (
            0.85 * np.clip((1 - ssim_by_hand(p, q)) / 2, 0, 1) + 0.15 * np.abs(p - q)
        ) / 3
    return result


def test_ssim_is_the_loop():
    ssim = jax.jit(geometry.ssim)
    np.testing.assert_allclose(ssim(TARGET[:, None], WARPED), ssim_of_sources(), atol=2e-5)
    np.testing.assert_allclose(ssim(WARPED, WARPED), 1, atol=2e-5)


def test_photometric_mixture_is_the_loop():
    expected = by_hand(mixture_by_hand() * VALID, VALID)
    got = jitted(geometry.photometric_mixture)(TARGET, WARPED, VALID, WEIGHT)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


minimum = jitted(geometry.minimum_reprojection)


def test_minimum_reprojection_takes_the_best_source_of_each_pixel():
    loss = mixture_by_hand()
    expected = by_hand(loss.min(1), np.ones((B, H, W)))
    np.testing.assert_allclose(minimum(TARGET, WARPED, WEIGHT), expected, rtol=1e-5)
    visible = VALID.any(1)
    assert not visible.all()
    best = np.where(VALID, loss, np.inf).min(1)
    expected = by_hand(np.where(visible, best, 0), visible)
    np.testing.assert_allclose(minimum(TARGET, WARPED, WEIGHT, valid=VALID), expected, rtol=1e-5)


def test_auto_masking_lets_unwarped_sources_win():
    candidates = np.concatenate([mixture_by_hand(), mixture_by_hand(SOURCES)], 1)
    got = minimum(TARGET, WARPED, WEIGHT, sources=SOURCES, keys=KEYS)
    np.testing.assert_allclose(
        got, by_hand(candidates.min(1), np.ones((B, H, W))), atol=1e-4 * B * H * W
    )
    # They also win where no warp is valid, and the pixel counts.
    candidates[:, :N] = np.where(VALID, candidates[:, :N], np.inf)
    got = minimum(TARGET, WARPED, WEIGHT, sources=SOURCES, keys=KEYS, valid=VALID)
    np.testing.assert_allclose(
        got, by_hand(candidates.min(1), np.ones((B, H, W))), atol=1e-4 * B * H * W
    )


def test_no_gradient_comes_from_pixels_that_stand_still():
    gradient = jax.jit(
        jax.grad(
            lambda warped, sources: minimum(TARGET, warped, WEIGHT, sources=sources, keys=KEYS).sum
        )
    )
    still = np.stack(
        [TARGET, WARPED[:, 1]], 1
    )  # the first source is the target itself: nothing moved
    np.testing.assert_array_equal(gradient(WARPED, still), 0)
    assert (
        np.asarray(gradient(WARPED, 1 - np.round(TARGET)[:, None].repeat(N, 1))).any(-1)[0].mean()
        > 0.4
    )


def test_the_tie_breaker_deals_out_ties():
    # The warp changes nothing. So min(pe, pe + 1e-5 N(0, 1)) lies below pe by 1e-5 times the mean
    # of max(0, N).
    drawn = np.array(
        [
            minimum(
                TARGET, WARPED, WEIGHT, sources=WARPED, keys=jax.random.split(jax.random.key(k), B)
            ).sum
            for k in range(8)
        ]
    )
    gap = minimum(TARGET, WARPED, WEIGHT).sum - drawn
    assert len(set(drawn.tolist())) > 1
    assert 0.5 < gap.mean() / (1e-5 / np.sqrt(2 * np.pi) * H * W * WEIGHT.sum()) < 1.5


# --- smoothness -----------------------------------------------------------------------------------


def test_edge_aware_smoothness_is_the_loop():
    totals = []
    for b in range(B):
        d = DEPTH[b].astype(np.float64)
        image = TARGET[b].astype(np.float64)
        d = d / (d.mean() + 1e-7)
        x = [
            abs(d[i, j + 1] - d[i, j]) * np.exp(-np.abs(image[i, j + 1] - image[i, j]).mean())
            for i, j in np.ndindex(H, W - 1)
        ]
        y = [
            abs(d[i + 1, j] - d[i, j]) * np.exp(-np.abs(image[i + 1, j] - image[i, j]).mean())
            for i, j in np.ndindex(H - 1, W)
        ]
        totals.append(np.mean(x) + np.mean(y))
    got = jitted(geometry.edge_aware_smoothness)(DEPTH, TARGET, WEIGHT)
    np.testing.assert_allclose(got, by_hand(totals, np.ones(B)), rtol=1e-5)
    np.testing.assert_allclose(
        jitted(geometry.edge_aware_smoothness)(7 * DEPTH, TARGET, WEIGHT), got, rtol=1e-5
    )  # no scale


def test_second_order_smoothness_is_the_loop_and_spares_planes():
    d = DEPTH.astype(np.float64)
    xx = d[:, :, 2:] - 2 * d[:, :, 1:-1] + d[:, :, :-2]
    yy = d[:, 2:] - 2 * d[:, 1:-1] + d[:, :-2]
    xy = d[:, 1:, 1:] - d[:, 1:, :-1] - d[:, :-1, 1:] + d[:, :-1, :-1]
    expected = image_means(np.abs(xx), np.abs(xy), np.abs(xy), np.abs(yy))
    np.testing.assert_allclose(
        jitted(geometry.second_order_smoothness)(DEPTH, WEIGHT), expected, rtol=1e-5
    )
    plane = 2 * np.arange(W) + 3.0 * np.arange(H)[:, None] + np.ones((B, 1, 1))
    assert jitted(geometry.second_order_smoothness)(np.float32(plane), WEIGHT).sum == 0


# --- semantic edges and depth edges ---------------------------------------------------------------

ONE = np.ones(1, np.float32)
LEFT = np.float32([[1, 1, 0, 0]] * 4)  # a vertical edge in the middle of 4x4 pixels
SPLIT = np.stack([LEFT, 1 - LEFT], -1)[None]
STEP = (3 * LEFT)[None]
FLAT = np.ones((1, 4, 4), np.float32)


@pytest.mark.parametrize(
    'loss, edges', [(geometry.per_class_consistency, 2), (geometry.holistic_consistency, 1)]
)
def test_consistency_of_maps_made_by_hand(loss, edges):
    # In each row a single one of three differences is an edge of 1, of both classes. Along y there
    # is no edge.
    def value(probabilities, depth):
        return jitted(loss)(probabilities, depth, ONE).value()

    np.testing.assert_allclose(value(SPLIT, FLAT), edges / 3, rtol=1e-6)
    np.testing.assert_allclose(value(SPLIT, STEP), edges / 3 * np.exp(-3), rtol=1e-6)
    # The second term looks at the depth along y, not along x.
    above = SPLIT.swapaxes(1, 2)
    step_above = STEP.swapaxes(1, 2)
    np.testing.assert_allclose(value(above, step_above), edges / 3 * np.exp(-3), rtol=1e-6)
    np.testing.assert_allclose(value(above, STEP), edges / 3, rtol=1e-6)
    # A corner: an edge in 2 of 12 differences along each axis. Depth has an edge along x alone.
    corner = LEFT * LEFT.T
    expected = edges * 2 / 12 * (np.exp(-3) + 1)
    np.testing.assert_allclose(
        value(np.stack([corner, 1 - corner], -1)[None], STEP), expected, rtol=1e-6
    )
    # Without semantic edges nothing, whatever depth does.
    assert value(np.full((1, 4, 4, 2), 0.5, np.float32), STEP) == 0


@pytest.mark.parametrize(
    'loss, over_classes',
    [(geometry.per_class_consistency, np.sum), (geometry.holistic_consistency, np.max)],
)
def test_consistency_is_the_formula(loss, over_classes):
    sx, sy = steps(PROBABILITIES)
    dx, dy = steps(DEPTH)
    expected = image_means(over_classes(sx, -1) * np.exp(-dx), over_classes(sy, -1) * np.exp(-dy))
    np.testing.assert_allclose(jitted(loss)(PROBABILITIES, DEPTH, WEIGHT), expected, rtol=1e-5)


@pytest.mark.parametrize('sharpness', [0.0, 0.5, 1.0, 20.0])
@pytest.mark.parametrize(
    'loss, over_classes',
    [(geometry.per_class_consistency, np.sum), (geometry.holistic_consistency, np.max)],
)
def test_sharpness_multiplies_the_steps_of_depth(loss, over_classes, sharpness):
    sx, sy = steps(PROBABILITIES)
    dx, dy = steps(DEPTH)
    near_x = np.exp(-sharpness * dx)
    near_y = np.exp(-sharpness * dy)
    expected = image_means(over_classes(sx, -1) * near_x, over_classes(sy, -1) * near_y)
    value = jitted(loss)(PROBABILITIES, DEPTH, WEIGHT, sharpness)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


FROZEN = (
    geometry.per_class_consistency,
    geometry.holistic_consistency,
    geometry.depth_edges_without_semantic_edges,
)


@pytest.mark.parametrize('loss', FROZEN)
def test_depth_gets_no_gradient_and_the_segmentation_the_right_one(loss):
    run = jax.jit(jax.value_and_grad(lambda p, d: loss(p, d, WEIGHT).sum, argnums=(0, 1)))
    _, (gradient, of_depth) = run(PROBABILITIES, DEPTH)
    np.testing.assert_array_equal(of_depth, 0)
    direction = np.random.default_rng(1).normal(size=PROBABILITIES.shape).astype(np.float32)
    after, before = (run(PROBABILITIES + sign * 1e-3 * direction, DEPTH)[0] for sign in (1, -1))
    np.testing.assert_allclose((gradient * direction).sum(), (after - before) / 2e-3, rtol=5e-3)


def test_normalised_depth_has_mean_one_over_what_was_measured():
    depth = DEPTH.copy()
    depth[0, 0], depth[1] = 0, 0
    got = np.asarray(jitted(geometry.normalised_depth)(depth))
    np.testing.assert_allclose(got[0], depth[0] / depth[0, 1:].astype(np.float64).mean(), rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)
    np.testing.assert_allclose(got[2].mean(), 1, rtol=1e-6)
    np.testing.assert_allclose(jitted(geometry.normalised_depth)(5 * depth), got, rtol=1e-6)


def test_chen_with_a_frozen_depth_net_is_the_formula():
    sx, sy = steps(PROBABILITIES)
    dx, dy = steps(DEPTH)
    expected = image_means(dx * (1 - sx.sum(-1) / 2), dy * (1 - sy.sum(-1) / 2))
    got = jitted(geometry.depth_edges_without_semantic_edges)(PROBABILITIES, DEPTH, WEIGHT)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # A depth edge on a semantic edge is free. Elsewhere it costs its height in a third of the
    # differences.
    assert jitted(geometry.depth_edges_without_semantic_edges)(SPLIT, STEP, ONE).value() == 0
    even = np.full((1, 4, 4, 2), 0.5, np.float32)
    np.testing.assert_allclose(
        jitted(geometry.depth_edges_without_semantic_edges)(even, STEP, ONE).value(), 1, rtol=1e-6
    )


def test_chen_as_published_moves_the_disparity_inside_classes_alone():
    expected = np.zeros(B)
    for b, i, j in np.ndindex(B, H, W - 1):
        if CLASSES[b, i, j] == CLASSES[b, i, j + 1]:
            expected[b] += abs(float(DEPTH[b, i, j]) - float(DEPTH[b, i, j + 1])) / (H * (W - 1))
    got = jitted(geometry.semantic_guided_smoothness)(DEPTH, CLASSES, WEIGHT)
    np.testing.assert_allclose(got, by_hand(expected, np.ones(B)), rtol=1e-5)
    run = jax.jit(jax.grad(lambda d: geometry.semantic_guided_smoothness(d, LEFT[None], ONE).sum))
    np.testing.assert_allclose(
        run(STEP + np.float32([0, 0, 0, 1]))[0], [[0, 0, -1 / 12, 1 / 12]] * 4, rtol=1e-6
    )


# --- all of them ----------------------------------------------------------------------------------

ALL = {
    'photometric_l1': (geometry.photometric_l1, (TARGET, WARPED, VALID)),
    'photometric_all_pixels': (geometry.photometric_all_pixels, (TARGET, WARPED)),
    'explainability_cross_entropy': (geometry.explainability_cross_entropy, (MASK_LOGITS,)),
    'photometric_mixture': (geometry.photometric_mixture, (TARGET, WARPED, VALID)),
    'minimum_reprojection': (geometry.minimum_reprojection, (TARGET, WARPED)),
    'edge_aware_smoothness': (geometry.edge_aware_smoothness, (DEPTH, TARGET)),
    'second_order_smoothness': (geometry.second_order_smoothness, (DEPTH,)),
    'per_class_consistency': (geometry.per_class_consistency, (PROBABILITIES, DEPTH)),
    'holistic_consistency': (geometry.holistic_consistency, (PROBABILITIES, DEPTH)),
    'depth_edges_without_semantic_edges': (
        geometry.depth_edges_without_semantic_edges,
        (PROBABILITIES, DEPTH),
    ),
    'semantic_guided_smoothness': (geometry.semantic_guided_smoothness, (DEPTH, CLASSES)),
}


@pytest.mark.parametrize('loss, args', ALL.values(), ids=ALL)
def test_padding_leaves_no_trace_and_parts_of_a_batch_add_up(loss, args):
    def at(part, weight, poison=None):
        chosen = [np.array(x[part]) for x in args]
        for x in chosen:
            if poison is not None and x.dtype == np.float32:
                x[poison] = np.nan
        return jitted(loss)(*chosen, weight)

    # The batch on two devices: the first has two examples, the second an example and padding.
    whole = at([0, 1, 2], np.float32([1, 1, 0.5]))
    parts = (
        at([0, 1, 1], np.float32([1, 1, 0]), poison=2),
        at([2, 0, 0], np.float32([0.5, 0, 0]), poison=[1, 2]),
    )
    np.testing.assert_allclose(whole, [sum(x) for x in zip(*parts, strict=True)], rtol=1e-5)
    chex.assert_type(tuple(whole), jnp.float32)
    chex.assert_shape(tuple(whole), ())
    assert whole.sum > 0


@pytest.mark.parametrize(
    'call, message',
    [
        (
            functools.partial(geometry.photometric_l1, TARGET, WARPED, VALID, WEIGHT, 'sum'),
            'sum_channels',
        ),
        (
            functools.partial(geometry.photometric_l1, TARGET, WARPED[:, 0], VALID, WEIGHT),
            r'\[B, n, H, W, 3\]',
        ),
        (
            functools.partial(geometry.photometric_mixture, TARGET, WARPED, VALID[:, :1], WEIGHT),
            'mask',
        ),
        (functools.partial(geometry.photometric_all_pixels, TARGET[:1], WARPED, WEIGHT), 'target'),
        (
            functools.partial(
                geometry.minimum_reprojection, TARGET, WARPED, WEIGHT, sources=SOURCES
            ),
            'a key',
        ),
        (
            functools.partial(geometry.edge_aware_smoothness, DEPTH[:, :2], TARGET, WEIGHT),
            r'\[B, H, W\]',
        ),
        (functools.partial(geometry.second_order_smoothness, DEPTH[:, :2], WEIGHT), '3 for second'),
        (
            functools.partial(geometry.holistic_consistency, PROBABILITIES, DEPTH[:, ::2], WEIGHT),
            'resize the depth',
        ),
        (
            functools.partial(geometry.semantic_guided_smoothness, DEPTH, PROBABILITIES, WEIGHT),
            r'both \[B, H, W\]',
        ),
    ],
)
def test_shapes_that_would_broadcast_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
