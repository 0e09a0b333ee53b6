"""Pooling over regions against loops from the equations, their gradients, and moved scenes."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
from segjax.ops import regions

RNG = np.random.default_rng(0)
N, H, W, C, P = 3, 6, 7, 4, 5
FEATURES = RNG.normal(size=(N, H, W, C))
# Ids -1, P and P + 3 belong to no region. Region 3 is empty in every frame, region 4 in frame 1.
IDS = RNG.choice([-1, 0, 1, 2, 4, P, P + 3], size=(N, H, W)).astype(np.int32)
IDS[1][IDS[1] == 4] = 0
TARGET = IDS[1].copy()
TARGET[0, :3] = (3, 4, 4)
MODES = tuple(itertools.product(regions.MODES, repeat=2))

pool_pixels = jax.jit(regions.pool_pixels, static_argnames=('num_regions', 'mode'))
pool_frames = jax.jit(regions.pool_frames, static_argnames='mode')
to_pixels = jax.jit(regions.to_pixels, static_argnames='blend')
border_weights = jax.jit(regions.border_weights, static_argnames='border')
OPTIONS = ('num_regions', 'spatial', 'temporal', 'border', 'blend')
pool_sequence = jax.jit(regions.pool_sequence, static_argnames=OPTIONS)
pool_hierarchy = jax.jit(regions.pool_hierarchy, static_argnames=OPTIONS)
pool_along_flow = jax.jit(regions.pool_along_flow)


def in_float64(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    return run


# --- the equations, as loops ----------------------------------------------------------------------


def pixels_by_hand(features, ids, mode='mean', weights=None):
    """Returns (values [P, C], counts [P]) by Eq. 3.1, region by region."""
    weights = np.ones(ids.shape) if weights is None else weights
    values = np.zeros((P, features.shape[-1]))
    counts = np.zeros(P)
    for j in range(P):
        pixels = [(y, x) for y in range(H) for x in range(W) if ids[y, x] == j]
        counts[j] = sum(weights[p] for p in pixels)
        for c in range(features.shape[-1]):
            if pixels and mode == 'max':
                values[j, c] = max(features[p][c] for p in pixels)
            elif pixels:
                values[j, c] = sum(weights[p] * features[p][c] for p in pixels) / counts[j]
    return values, counts


def frames_by_hand(values, counts, mode='mean', weights=None):
    """Returns (pooled [P, C], K [P]) by Eq. 3.3, region by region."""
    weights = np.ones(len(values)) if weights is None else weights
    pooled = np.zeros(values.shape[1:])
    matched = np.zeros(values.shape[1], int)
    for j in range(values.shape[1]):
        frames = [i for i in range(len(values)) if counts[i, j] > 0 and weights[i] > 0]
        matched[j] = len(frames)
        if frames and mode == 'max':
            pooled[j] = np.max([values[i, j] for i in frames], axis=0)
        elif frames:
            total = sum(weights[i] for i in frames)
            pooled[j] = sum(weights[i] * values[i, j] for i in frames) / total
    return pooled, matched


def map_by_hand(values, ids, blend=0, known=None):
    """Returns (map [H, W, C], has_value [H, W]): Eq. 3.5, averaged over windows."""
    known = np.ones(P, bool) if known is None else known
    image = np.zeros((H, W, values.shape[-1]))
    has_value = np.zeros((H, W), bool)
    for y, x in np.ndindex(H, W):
        window = ids[max(y - blend, 0) : y + blend + 1, max(x - blend, 0) : x + blend + 1]
        rows = [values[j] for j in window.ravel() if 0 <= j < P and known[j]]
        if rows:
            image[y, x] = np.mean(rows, axis=0)
            has_value[y, x] = True
    return image, has_value


def distance_by_hand(ids):
    """Returns the chessboard distance of each pixel to the nearest pixel of another id."""
    distance = np.full(ids.shape, 1000)
    for region in np.unique(ids):
        if (ids != region).any():
            inside = ids == region
            from_border = ndimage.distance_transform_cdt(inside, 'chessboard')
            distance[inside] = from_border[inside]
    return distance


def sequence_by_hand(features, ids, target, spatial='mean', temporal='mean', border=0, blend=0):
    frames = []
    for image, frame in zip(features, ids, strict=True):
        weights = np.minimum(distance_by_hand(frame), border + 1) / (border + 1)
        frames.append(pixels_by_hand(image, frame, spatial, weights if border else None))
    values = np.stack([frame[0] for frame in frames])
    counts = np.stack([frame[1] for frame in frames])
    pooled, matched = frames_by_hand(values, counts, temporal)
    return map_by_hand(pooled, target, blend, matched > 0)


# --- spatial pooling ------------------------------------------------------------------------------


@pytest.mark.parametrize('mode', regions.MODES)
@in_float64
def test_spatial_pooling_is_equation_3_1(mode):
    for image, ids in zip(FEATURES, IDS, strict=True):
        expected, number = pixels_by_hand(image, ids, mode)
        values, counts = pool_pixels(image, ids, P, mode)
        np.testing.assert_allclose(values, expected, atol=1e-14)
        np.testing.assert_array_equal(counts, number)
        assert counts[3] == 0 and not values[3].any()


@in_float64
def test_weights_of_pixels():
    weights = RNG.random((H, W))
    weights[IDS[0] == 2] = 0  # a region whose pixels have no weight is empty
    expected, total = pixels_by_hand(
        FEATURES[0], np.where(IDS[0] == 2, -1, IDS[0]), 'mean', weights
    )
    values, counts = pool_pixels(FEATURES[0], IDS[0], P, weights=weights)
    np.testing.assert_allclose(values, expected, atol=1e-14)
    np.testing.assert_allclose(counts, total, atol=1e-14)


@in_float64
def test_the_gradient_of_a_mean_is_equation_3_2():
    above = RNG.normal(size=(P, C))
    gradient = jax.grad(lambda x: (above * pool_pixels(x, IDS[0], P)[0]).sum())(FEATURES[0])
    for y, x in np.ndindex(H, W):
        j = IDS[0, y, x]
        expected = above[j] / (IDS[0] == j).sum() if 0 <= j < P else np.zeros(C)
        np.testing.assert_allclose(gradient[y, x], expected, atol=1e-14)


@in_float64
def test_the_gradient_of_a_maximum_goes_to_the_first_of_equal_pixels():
    # Features in quarters: most maxima are reached several times.
    features = np.round(FEATURES[0] * 2) / 4
    above = RNG.normal(size=(P, C))
    gradient = jax.grad(lambda x: (above * pool_pixels(x, IDS[0], P, 'max')[0]).sum())(features)
    expected = np.zeros((H * W, C))
    ties = 0
    for j, c in np.ndindex(P, C):
        pixels = np.flatnonzero(IDS[0] == j)
        if len(pixels):
            column = features.reshape(-1, C)[pixels, c]
            expected[pixels[column.argmax()], c] += above[j, c]
            ties += (column == column.max()).sum() > 1
    assert ties > 3
    np.testing.assert_array_equal(gradient, expected.reshape(H, W, C))


def test_nan_wins_a_maximum_and_gets_its_gradient():
    features = np.float32([[[1.0], [np.nan], [5.0], [2.0]]])
    ids = np.int32([[0, 0, 0, 1]])
    np.testing.assert_array_equal(pool_pixels(features, ids, 2, 'max')[0], [[np.nan], [2]])
    gradient = jax.grad(lambda x: pool_pixels(x, ids, 2, 'max')[0].sum())(features)
    np.testing.assert_array_equal(gradient[..., 0], [[0, 1, 0, 1]])


@pytest.mark.parametrize('mode', regions.MODES)
def test_pixels_without_a_region_count_nowhere_not_even_as_nan(mode):
    features = np.where((IDS[0] < 0)[..., None] | (IDS[0] >= P)[..., None], np.nan, FEATURES[0])
    features = features.astype(np.float32)
    values, _ = pool_pixels(features, IDS[0], P, mode)
    np.testing.assert_allclose(values, pixels_by_hand(FEATURES[0], IDS[0], mode)[0], atol=1e-6)
    gradient = jax.grad(lambda x: (pool_pixels(x, IDS[0], P, mode)[0] ** 2).sum())(features)
    chex.assert_tree_all_finite(gradient)
    assert not np.asarray(gradient)[np.isnan(features)].any()


@pytest.mark.parametrize('mode', regions.MODES)
def test_the_numbering_of_regions_and_the_order_of_pixels_mean_nothing(mode):
    features = FEATURES[0].astype(np.float32)
    values, counts = pool_pixels(features, IDS[0], P, mode)
    order = RNG.permutation(P)
    renamed = np.where((IDS[0] >= 0) & (IDS[0] < P), order[IDS[0].clip(0, P - 1)], -1)
    other, number = pool_pixels(features, renamed, P, mode)
    np.testing.assert_array_equal(number[order], counts)
    np.testing.assert_allclose(other[order], values, atol=1e-6)
    turned, _ = pool_pixels(np.rot90(features), np.rot90(IDS[0]), P, mode)
    np.testing.assert_allclose(turned, values, atol=1e-6)


@pytest.mark.parametrize('mode', regions.MODES)
def test_bfloat16_is_pooled_in_float32(mode):
    features = jnp.asarray(RNG.normal(size=(40, 50, 2)), jnp.bfloat16)
    ids = np.zeros((40, 50), np.int32)
    values, counts = pool_pixels(features, ids, 1, mode)
    exact, _ = pool_pixels(features.astype(jnp.float32), ids, 1, mode)
    chex.assert_type([values, counts], jnp.float32)
    np.testing.assert_array_equal(values, exact)
    gradient = jax.grad(lambda x: pool_pixels(x, ids, 1, mode)[0].sum())(features)
    chex.assert_type(gradient, jnp.bfloat16)


def test_the_mean_of_a_region_as_large_as_an_image_is_precise():
    ids = np.zeros((425, 560), np.int32)
    constant = pool_pixels(np.full((425, 560, 1), 0.1, np.float32), ids, 1)[0]
    np.testing.assert_allclose(constant, 0.1, rtol=2e-4)  # a plain float32 sum is wrong by 2e-3
    noise = RNG.normal(1, 1, (425, 560, 1)).astype(np.float32)
    np.testing.assert_allclose(pool_pixels(noise, ids, 1)[0][0], noise.mean((0, 1), float), 1e-5)


# --- temporal pooling -----------------------------------------------------------------------------

VALUES = RNG.normal(size=(N, P, C))
COUNTS = RNG.choice([0, 1, 7, 1000], size=(N, P))
COUNTS[:, 0] = 0
COUNTS[:, 1] = (0, 3, 0)


@pytest.mark.parametrize('weights', [None, (1.0, 0.0, 3.0)])
@pytest.mark.parametrize('mode', regions.MODES)
@in_float64
def test_temporal_pooling_is_equation_3_3_with_equal_weights_of_frames(mode, weights):
    weights = None if weights is None else np.array(weights)
    # Regions that a frame does not show may hold anything.
    values = np.where(COUNTS[..., None] > 0, VALUES, np.nan)
    expected, matched = frames_by_hand(VALUES, COUNTS, mode, weights)
    pooled, num_matched = pool_frames(values, COUNTS, mode, weights)
    np.testing.assert_allclose(pooled, expected, atol=1e-14)
    np.testing.assert_array_equal(num_matched, matched)
    chex.assert_type(num_matched, jnp.int32)
    assert matched[0] == 0 and not pooled[0].any()


@in_float64
def test_the_gradient_over_frames_is_equation_3_4():
    above = RNG.normal(size=(P, C))
    values = np.where(COUNTS[..., None] > 0, VALUES, np.nan)
    gradient = jax.grad(lambda x: (above * pool_frames(x, COUNTS)[0]).sum())(values)
    for i, j in np.ndindex(N, P):
        shown = COUNTS[i, j] > 0
        expected = above[j] / (COUNTS[:, j] > 0).sum() if shown else np.zeros(C)
        np.testing.assert_allclose(gradient[i, j], expected, atol=1e-14)


def test_the_gradient_of_a_maximum_goes_to_the_first_of_equal_frames():
    values = np.float32([9, 2, 5, 5, 1]).reshape(5, 1, 1)
    counts = np.float32([0, 4, 1, 2, 3]).reshape(5, 1)
    gradient = jax.grad(lambda x: pool_frames(x, counts, 'max')[0].sum())(values)
    np.testing.assert_array_equal(gradient.ravel(), [0, 0, 1, 0, 0])


# --- regions to pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize('blend', [0, 1, 2, 9])
@in_float64
def test_region_to_pixel_is_equation_3_5_averaged_over_windows(blend):
    for ids in IDS:
        expected, has_value = map_by_hand(VALUES[0], ids, blend)
        image = to_pixels(VALUES[0], ids, blend)
        np.testing.assert_allclose(image, expected, atol=1e-14)
        assert not image[~has_value].any()


@in_float64
def test_the_gradient_of_region_to_pixel_is_equation_3_6():
    above = RNG.normal(size=(H, W, C))
    gradient = jax.grad(lambda x: (above * to_pixels(x, IDS[0])).sum())(VALUES[0])
    for j in range(P):
        np.testing.assert_allclose(gradient[j], above[IDS[0] == j].sum(0), atol=1e-14)


def test_pixels_without_a_region_are_zero_and_ids_do_not_count_from_the_end():
    values = np.float32([[1], [2], [3]])
    image = to_pixels(values, np.int32([[-3, -1, 0], [2, 3, 2**31 - 1]]))
    np.testing.assert_array_equal(image[..., 0], [[0, 0, 1], [3, 0, 0]])


def test_region_to_pixel_keeps_the_dtype():
    for blend in (0, 1):
        chex.assert_type(to_pixels(VALUES[0].astype(jnp.bfloat16), IDS[0], blend), jnp.bfloat16)


def test_blending_changes_pixels_near_borders_alone():
    ids = np.repeat(np.int32([[0] * 6 + [1] * 6]), 5, axis=0)
    image = to_pixels(np.float32([[1.0], [4.0]]), ids, 2)[..., 0]
    expected = [1, 1, 1, 1, 1.6, 2.2, 2.8, 3.4, 4, 4, 4, 4]
    np.testing.assert_allclose(image, np.tile(expected, (5, 1)), rtol=1e-6)


def test_matches_are_looked_up_and_unmatched_pixels_stay_unmatched():
    matches = np.int32([[0, 1, 2], [2, -1, 0]])
    ids = np.int32([[[0, 2, -1, 3]], [[0, 1, 2, -1]]])
    looked_up = jax.jit(regions.target_ids)(matches, ids)
    np.testing.assert_array_equal(looked_up, [[[0, 2, -1, -1]], [[2, -1, 0, -1]]])
    chex.assert_type(looked_up, jnp.int32)


# --- soft borders ---------------------------------------------------------------------------------


@pytest.mark.parametrize('border', [0, 1, 3])
def test_weights_fall_off_by_the_chessboard_distance_to_a_border(border):
    y, x = np.mgrid[:30, :40]
    ids = (y // 9 + 5 * (x // 11)).astype(np.int32)
    ids[(y - 15) ** 2 + (x - 20) ** 2 < 60] = -1
    ids[5] = 77
    expected = np.minimum(distance_by_hand(ids), border + 1) / (border + 1)
    weights = border_weights(ids, border)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.max() == 1
    np.testing.assert_allclose(weights[5], 1 / (border + 1), rtol=1e-6)  # a thin region remains


# --- the whole layer ------------------------------------------------------------------------------

SOFT = [(0, 0), (1, 0), (0, 2), (2, 1)]
"""Radii (border, blend)."""
CASES = [
    *((*modes, 0, 0) for modes in MODES),
    *(('mean', 'mean', *radii) for radii in SOFT[1:]),
    ('max', 'max', 0, 2),
]
"""Spatial mode, temporal mode, border, blend."""


@pytest.mark.parametrize('spatial, temporal, border, blend', CASES)
@in_float64
def test_the_layer_is_the_loop(spatial, temporal, border, blend):
    options = dict(spatial=spatial, temporal=temporal, border=border, blend=blend)
    expected, _ = sequence_by_hand(FEATURES, IDS, TARGET, **options)
    image = pool_sequence(FEATURES, IDS, TARGET, P, **options)
    # Weights of borders are float32.
    np.testing.assert_allclose(image, expected, atol=1e-6 if border else 1e-14)
    if not blend:
        assert not image[0, 0].any()  # region 3, which no frame shows


@pytest.mark.parametrize('spatial, temporal, border, blend', CASES)
@in_float64
def test_gradients_are_finite_differences(spatial, temporal, border, blend):
    options = dict(spatial=spatial, temporal=temporal, border=border, blend=blend)
    above = np.random.default_rng(1).normal(size=(H, W, C))

    @jax.jit
    def scalar(features):
        return (above * regions.pool_sequence(features, IDS, TARGET, P, **options)).sum()

    gradient = jax.jit(jax.grad(scalar))(FEATURES)
    step = 1e-6 * np.random.default_rng(2).normal(size=FEATURES.shape)
    difference = scalar(FEATURES + step) - scalar(FEATURES - step)
    assert abs(difference) > 1e-7
    np.testing.assert_allclose((gradient * step).sum(), difference / 2, rtol=1e-6)


@pytest.mark.parametrize('border, blend', SOFT)
def test_constants_stay_constants(border, blend):
    constant = np.float32([0.1, -3, 1 / 3, 1e6])
    features = np.broadcast_to(constant, (N, H, W, C))
    image = pool_sequence(features, IDS, IDS[0], P, border=border, blend=blend)
    inside = (IDS[0] >= 0) & (IDS[0] < P)
    np.testing.assert_allclose(image[inside], features[0][inside], rtol=1e-6)


@pytest.mark.parametrize('border, blend', SOFT)
def test_the_layer_of_a_moved_scene_is_the_moved_map(border, blend):
    features = FEATURES.astype(np.float32)
    run = functools.partial(pool_sequence, num_regions=P, border=border, blend=blend)
    image = run(features, IDS, TARGET)
    flipped = run(features[:, :, ::-1], IDS[:, :, ::-1], TARGET[:, ::-1])
    np.testing.assert_allclose(flipped, image[:, ::-1], atol=1e-6)
    turned = run(features[:, ::-1, ::-1], IDS[:, ::-1, ::-1], TARGET[::-1, ::-1])
    np.testing.assert_allclose(turned, image[::-1, ::-1], atol=1e-6)


def test_the_order_of_frames_means_nothing_and_a_frame_of_weight_0_is_absent():
    features = FEATURES.astype(np.float32)
    image = pool_sequence(features, IDS, TARGET, P)
    reversed_frames = pool_sequence(features[::-1], IDS[::-1], TARGET, P)
    np.testing.assert_allclose(reversed_frames, image, atol=1e-6)
    weights = np.float32([1, 0, 1])
    without = pool_sequence(features, IDS, TARGET, P, frame_weights=weights)
    np.testing.assert_allclose(
        without, pool_sequence(features[::2], IDS[::2], TARGET, P), atol=1e-6
    )


def test_a_single_frame_is_painted_with_the_means_of_its_regions():
    image = pool_sequence(FEATURES[:1].astype(np.float32), IDS[:1], IDS[0], P)
    for j in range(P):
        inside = IDS[0] == j
        if inside.any():
            mean = FEATURES[0][inside].mean(0)
            np.testing.assert_allclose(image[inside], np.tile(mean, (inside.sum(), 1)), atol=1e-6)


@pytest.mark.parametrize('spatial, temporal', MODES)
def test_a_batch_by_vmap_has_the_bits_of_its_examples(spatial, temporal):
    features = RNG.normal(size=(4, N, H, W, C)).astype(np.float32)
    ids = RNG.integers(-1, P, (4, N, H, W)).astype(np.int32)
    run = functools.partial(pool_sequence, num_regions=P, spatial=spatial, temporal=temporal)
    batch = jax.jit(jax.vmap(run))(features, ids, ids[:, 0])
    for example, image in enumerate(batch):
        alone = run(features[example], ids[example], ids[example, 0])
        np.testing.assert_array_equal(image, alone)


def test_the_layer_keeps_the_dtype_and_sums_in_float32():
    features = jnp.asarray(FEATURES, jnp.bfloat16)
    image = pool_sequence(features, IDS, TARGET, P)
    exact = pool_sequence(features.astype(jnp.float32), IDS, TARGET, P)
    chex.assert_type(image, jnp.bfloat16)
    np.testing.assert_array_equal(image, exact.astype(jnp.bfloat16))


def compiled(function, num_regions, size=(64, 80)):
    """Compiles a function of (features, ids, target_ids) for P regions."""
    features = jax.ShapeDtypeStruct((2, *size, C), jnp.float32)
    ids = jax.ShapeDtypeStruct((2, *size), jnp.int32)
    target = jax.ShapeDtypeStruct(size, jnp.int32)
    fn = functools.partial(function, num_regions)
    return jax.jit(fn).lower(features, ids, target).compile()


def gradient_of_layer(num_regions, features, ids, target):
    def energy(features):
        return (regions.pool_sequence(features, ids, target, num_regions) ** 2).sum()

    return jax.grad(energy)(features)


def test_memory_grows_with_the_number_of_regions_and_not_with_its_product_with_pixels():
    few, many = (
        compiled(gradient_of_layer, number).memory_analysis().temp_size_in_bytes
        for number in (1000, 3000)
    )
    bytes_of_values = 4 * C * 2000
    assert few < many < few + 60 * bytes_of_values  # a one-hot matrix has 5120 numbers a region


def test_a_maximum_without_gradients_searches_no_pixel():
    def spatial_maximum(num_regions, features, ids, _):
        return regions.pool_pixels(features[0], ids[0], num_regions, 'max')

    def with_gradient(num_regions, features, ids, _):
        return jax.grad(lambda x: spatial_maximum(num_regions, x, ids, _)[0].sum())(features)

    assert 'gather' not in compiled(spatial_maximum, P).as_text()
    assert 'gather' in compiled(with_gradient, P).as_text()


# --- hierarchies ----------------------------------------------------------------------------------

COARSE = np.where(IDS < 0, IDS, IDS // 2)
LEVELS = np.stack([IDS, COARSE])
TARGETS = np.stack([TARGET, COARSE[0]])


@pytest.mark.parametrize('blend', [0, 1])
@pytest.mark.parametrize('weights', [None, (1.0, 3.0), (1.0, 0.0)])
@in_float64
def test_a_hierarchy_averages_the_levels_that_have_a_value(weights, blend):
    image = pool_hierarchy(FEATURES, LEVELS, TARGETS, P, level_weights=weights, blend=blend)
    total = np.zeros((H, W, C))
    share = np.zeros((H, W, 1))
    for weight, ids, target in zip(weights or (1, 1), LEVELS, TARGETS, strict=True):
        level, has_value = sequence_by_hand(FEATURES, ids, target, blend=blend)
        total += weight * level
        share += weight * has_value[..., None]
    expected = total / np.where(share > 0, share, 1)
    np.testing.assert_allclose(image, expected, atol=1e-14)
    assert share.min() < share.max() or blend


@pytest.mark.parametrize('spatial, temporal', MODES)
def test_a_single_level_is_the_layer(spatial, temporal):
    features = FEATURES.astype(np.float32)
    modes = dict(spatial=spatial, temporal=temporal)
    image = pool_hierarchy(features, IDS[None], TARGET[None], P, **modes)
    expected = pool_sequence(features, IDS, TARGET, P, **modes)
    np.testing.assert_array_equal(image, expected)


@in_float64
def test_gradients_of_a_hierarchy_are_finite_differences():
    above = np.random.default_rng(1).normal(size=(H, W, C))
    weights = np.array([1.0, 3.0])

    @jax.jit
    def scalar(features, weights):
        image = regions.pool_hierarchy(
            features, LEVELS, TARGETS, P, level_weights=weights, border=1
        )
        return (above * image).sum()

    point = (FEATURES, weights)
    gradients = jax.jit(jax.grad(scalar, (0, 1)))(*point)
    for k, gradient in enumerate(gradients):
        step = 1e-6 * np.random.default_rng(2).normal(size=gradient.shape)
        after, before = (
            scalar(*point[:k], point[k] + sign * step, *point[k + 1 :]) for sign in (1, -1)
        )
        np.testing.assert_allclose((gradient * step).sum(), (after - before) / 2, rtol=1e-5)


# --- pixel correspondences ------------------------------------------------------------------------


def along_flow_by_hand(features, flows):
    total = np.zeros((H, W, C))
    number = np.zeros((H, W, 1))
    for image, flow in zip(features, flows, strict=True):
        for y, x in np.ndindex(H, W):
            u = x + flow[y, x, 0]
            v = y + flow[y, x, 1]
            if 0 <= u <= W - 1 and 0 <= v <= H - 1:  # false for NaN
                position = np.full((1, 2), (v, u)).T
                for c in range(C):
                    total[y, x, c] += ndimage.map_coordinates(image[..., c], position, order=1)[0]
                number[y, x] += 1
    return total / np.maximum(number, 1), number


@in_float64
def test_pooling_along_flow_is_the_loop():
    flows = RNG.normal(0, 2, (N, H, W, 2))
    flows[0, 1, 2] = np.nan
    flows[1, 2, 3, 1] = np.inf
    flows[:, 4, 4] = np.nan
    expected, number = along_flow_by_hand(FEATURES, flows)
    assert set(np.unique(number)) == {0, 1, 2, 3}
    image = pool_along_flow(FEATURES, flows)
    np.testing.assert_allclose(image, expected, atol=1e-12)
    assert not image[4, 4].any()


def test_a_moved_scene_with_its_flow_is_the_scene():
    scene = RNG.normal(size=(H + 4, W + 4, C)).astype(np.float32)
    shifts = [(0, 0), (2, 1), (-1, 2)]  # (u, v) of the content
    frames = np.stack([scene[2 - v : 2 - v + H, 2 - u : 2 - u + W] for u, v in shifts])
    flows = np.broadcast_to(np.float32(shifts)[:, None, None], (3, H, W, 2))
    np.testing.assert_allclose(pool_along_flow(frames, flows), frames[0], atol=1e-6)
    np.testing.assert_allclose(pool_along_flow(frames, 0 * flows), frames.mean(0), atol=1e-6)


@in_float64
def test_gradients_along_flow_are_finite_and_right():
    flows = np.random.default_rng(3).normal(0, 2, (N, H, W, 2))
    flows[0, 1, 2] = np.nan
    flows[2, 3, 3] = np.inf
    above = np.random.default_rng(1).normal(size=(H, W, C))

    def scalar(features):
        return (above * pool_along_flow(features, flows)).sum()

    gradient = jax.jit(jax.grad(scalar))(FEATURES)
    chex.assert_tree_all_finite(gradient)
    step = 1e-6 * np.random.default_rng(2).normal(size=FEATURES.shape)
    difference = scalar(FEATURES + step) - scalar(FEATURES - step)
    np.testing.assert_allclose((gradient * step).sum(), difference / 2, rtol=1e-6)


def test_pooling_along_flow_keeps_the_dtype():
    flows = np.zeros((N, H, W, 2), np.float32)
    chex.assert_type(pool_along_flow(FEATURES.astype(jnp.bfloat16), flows), jnp.bfloat16)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: regions.pool_pixels(FEATURES[0], IDS[0], P, 'median'), 'one of max, mean'),
        (lambda: regions.pool_pixels(FEATURES[0], IDS[0], P, 'maxx'), "did you mean 'max'"),
        (lambda: regions.pool_pixels(FEATURES, IDS, P), 'jax.vmap'),
        (lambda: regions.pool_pixels(FEATURES[0], IDS[0].T, P), r'\[H, W, C\] and \[H, W\]'),
        (lambda: regions.pool_frames(VALUES, COUNTS.T), r'\[N, P, C\] and \[N, P\]'),
        (lambda: regions.pool_frames(VALUES, COUNTS, 'avg'), 'mode of pool_frames'),
        (lambda: regions.to_pixels(VALUES, IDS), r'\[P, C\] and \[H, W\]'),
        (lambda: regions.target_ids(COUNTS[:2], IDS), r'\[N, P\] and \[N, H, W\]'),
        (lambda: regions.pool_sequence(FEATURES, IDS[:2], TARGET, P), 'pool_sequence'),
        (lambda: regions.pool_hierarchy(FEATURES, IDS, TARGET, P), r'\[L, N, H, W\]'),
        (lambda: regions.pool_along_flow(FEATURES, FEATURES), r'\[N, H, W, 2\]'),
        (
            lambda: regions.pool_sequence(FEATURES, IDS, TARGET, P, 'max', border=1),
            'a maximum has no weights',
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
