"""Segmentation losses against NumPy loops that follow the formulas pixel by pixel."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from segjax.core import means
from segjax.errors import InputError
from segjax.losses import segmentation as losses

C = 5
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0], np.float32)


@pytest.fixture(scope='module')
def example():
    """Returns logits [3, 4, 6, 5], a label with a fifth ignored, and weights with padding."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 4, 6, C)).astype(np.float32)
    label = rng.integers(0, C, (3, 4, 6)).astype(np.int32)
    label[rng.random(label.shape) < 0.2] = 255
    return logits, label, np.array([1.0, 0.0, 0.25], np.float32)


def reference(logits, label, weight, class_weights=None, smoothing=0.0):
    """Computes (sum, count) of torch's definition in float64, pixel by pixel."""
    class_weights = np.ones(logits.shape[-1]) if class_weights is None else class_weights
    total = count = 0.0
    for b, h, w in np.ndindex(label.shape):
        y = label[b, h, w]
        if y == 255:
            continue
        x = logits[b, h, w].astype(np.float64)
        log_p = x - np.log(np.exp(x).sum())
        loss = -(1 - smoothing) * class_weights[y] * log_p[y]
        loss -= smoothing / len(x) * (class_weights * log_p).sum()
        total += weight[b] * loss
        count += weight[b] * class_weights[y]
    return total, count


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
@pytest.mark.parametrize('class_weights', [None, WEIGHTS])
def test_cross_entropy_is_the_formula(example, class_weights, smoothing):
    got = losses.cross_entropy(*example, class_weights=class_weights, label_smoothing=smoothing)
    np.testing.assert_allclose(got, reference(*example, class_weights, smoothing), rtol=2e-6)


def test_literal_values():
    # Probabilities 1/2, 1/4, 1/4. Truth is class 0 twice and class 1 once. A pixel is ignored.
    logits = np.log(np.broadcast_to([0.5, 0.25, 0.25], (1, 1, 4, 3))).astype(np.float32)
    label = np.array([[[0, 0, 1, 255]]])
    one = np.ones(1, np.float32)
    ln2 = np.log(2)
    np.testing.assert_allclose(losses.cross_entropy(logits, label, one), (4 * ln2, 3), rtol=1e-6)
    weighted = losses.cross_entropy(logits, label, one, class_weights=np.array([1.0, 4.0, 9.0]))
    np.testing.assert_allclose(weighted, (10 * ln2, 6), rtol=1e-6)
    # Smoothed part of every pixel: (1 + 2 + 2) / 3 ln 2.
    smooth = losses.cross_entropy(logits, label, one, label_smoothing=0.3)
    np.testing.assert_allclose(smooth, (0.7 * 4 * ln2 + 0.3 * 5 * ln2, 3), rtol=1e-6)


def test_agrees_with_optax_per_pixel(example):
    logits, label, _ = example
    valid = label != 255
    loss, weight = losses.pixel_cross_entropy(logits, label)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, np.where(valid, label, 0))
    np.testing.assert_allclose(loss[valid], expected[valid], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss[~valid], 0)
    np.testing.assert_array_equal(weight, valid)


def test_gradient_is_weighted_softmax_minus_truth(example):
    logits, label, weight = example
    grad = jax.grad(
        lambda x: losses.cross_entropy(x, label, weight, class_weights=WEIGHTS).value()
    )(logits)
    valid = label != 255
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    pixel = weight[:, None, None] * np.where(valid, WEIGHTS[np.where(valid, label, 0)], 0)
    expected = pixel[..., None] * (p - np.eye(C)[np.where(valid, label, 0)]) / pixel.sum()
    np.testing.assert_allclose(grad, expected, atol=1e-7)
    np.testing.assert_array_equal(np.asarray(grad)[~valid], 0)


def test_ignored_and_padding_pixels_leave_no_trace(example):
    logits, label, weight = example
    poisoned = np.where((label == 255)[..., None], np.inf, logits)
    poisoned[1] = np.nan  # the example of weight 0

    def loss(x):
        return losses.cross_entropy(x, label, weight).value()

    assert loss(poisoned) == loss(logits)
    grad = jax.grad(loss)(poisoned)
    clean = jax.grad(loss)(logits)
    np.testing.assert_array_equal(grad[::2], clean[::2])
    kept = label[2] != 255
    alone = losses.cross_entropy(logits[2:, kept], label[2:, kept], np.ones(1)).value()
    np.testing.assert_allclose(
        losses.cross_entropy(logits[2:], label[2:], np.ones(1)).value(), alone, rtol=1e-6
    )


def test_everything_ignored_counts_nothing(example):
    logits, label, weight = example
    for fn in (losses.cross_entropy, losses.ohem_cross_entropy):
        assert tuple(map(float, fn(logits, np.full_like(label, 255), weight))) == (0, 0)


@pytest.mark.parametrize('bad', [-1, C, 254, 256])
@pytest.mark.parametrize('fn', [losses.cross_entropy, losses.ohem_cross_entropy])
def test_label_out_of_range_is_nan(example, bad, fn):
    logits, label, weight = example
    label = label.copy()
    label[0, 1, 2] = bad

    def loss(x):
        return fn(x, label, weight).value()

    value, grad = jax.jit(jax.value_and_grad(loss))(logits)
    assert np.isnan(value)
    assert np.isnan(grad[0, 1, 2]).all()
    chex.assert_tree_all_finite(fn(logits, label[[1, 0, 2]], weight))  # now it is in the padding


@pytest.mark.parametrize('fn', [losses.cross_entropy, losses.ohem_cross_entropy])
@pytest.mark.parametrize('bad', [np.nan, -np.nan, np.inf])
def test_logits_that_are_not_finite_are_not_hidden(example, bad, fn):
    logits, label, weight = example
    logits = logits.copy()
    row, column = np.argwhere(label[0] != 255)[3]
    logits[0, row, column] = bad
    assert np.isnan(fn(logits, label, weight).value())


def test_masked_class_and_large_logits_stay_finite():
    logits = np.array([[[[0.0, 0.0, -np.inf], [1e4, 0.0, -1e4]]]], np.float32)
    label = np.array([[[1, 0]]])
    value, grad = jax.value_and_grad(lambda x: losses.cross_entropy(x, label, np.ones(1)).sum)(
        logits
    )
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, [[[[0.5, -0.5, 0], [0, 0, 0]]]], atol=1e-7)


def test_bfloat16_logits_are_computed_in_float32(example):
    logits, label, weight = example
    logits = jnp.asarray(logits, jnp.bfloat16)
    for fn in (losses.cross_entropy, losses.ohem_cross_entropy):
        got = fn(logits, label, weight)
        exact = fn(logits.astype(jnp.float32), label, weight)
        chex.assert_type(tuple(got), jnp.float32)
        np.testing.assert_array_equal(got, exact)
    grad = jax.grad(lambda x: losses.cross_entropy(x, label, weight).value())(logits)
    chex.assert_type(grad, jnp.bfloat16)


def test_counts_beyond_float32_integers():
    # Nine images of 2**21 - 1 pixels: the count needs more than the 24 bits of a running sum.
    ones = jnp.ones((9, 2**21 - 1), jnp.uint8)
    count = jax.jit(lambda x: means.masked_mean(x, x, jnp.ones(9)).count)(ones)
    assert abs(int(count) - 9 * (2**21 - 1)) <= 1  # odd, so that float32 has to round


# --- OHEM -----------------------------------------------------------------------------------------


def ohem_reference(logits, label, weight, threshold, fraction, class_weights=None):
    """Computes (sum, count): sorts, then chooses, as the reference implementations for torch do."""
    class_weights = np.ones(logits.shape[-1]) if class_weights is None else class_weights
    pixels = []
    for b, h, w in np.ndindex(label.shape):
        if label[b, h, w] != 255 and weight[b] > 0:
            x = logits[b, h, w].astype(np.float64)
            y = label[b, h, w]
            pixels.append((np.log(np.exp(x).sum()) - x[y], weight[b] * class_weights[y]))
    pixels.sort(reverse=True)
    hard = [p for p in pixels if p[0] > -np.log(threshold)]
    least = max(1, int(fraction * len(pixels)))
    kept = hard if len(hard) >= least else pixels[:least]
    return sum(loss * w for loss, w in kept), sum(w for _, w in kept)


@pytest.mark.parametrize('class_weights', [None, WEIGHTS])
@pytest.mark.parametrize(
    ('threshold', 'fraction'),
    [(0.7, 1 / 16), (1e-4, 1 / 16), (0.05, 0.5), (0.05, 1.0), (1e-9, 0.0)],
)
def test_ohem_is_sort_and_choose(example, threshold, fraction, class_weights):
    got = losses.ohem_cross_entropy(
        *example, threshold=threshold, min_kept_fraction=fraction, class_weights=class_weights
    )
    expected = ohem_reference(*example, threshold, fraction, class_weights)
    np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_ohem_gradient_goes_through_kept_pixels_only(example):
    logits, label, weight = example
    keep = functools.partial(losses.ohem_cross_entropy, threshold=0.01, min_kept_fraction=0.25)
    grad = jax.grad(lambda x: keep(x, label, weight).sum)(logits)
    loss = np.asarray(losses.pixel_cross_entropy(logits, label)[0])
    valid = (label != 255) & (weight > 0)[:, None, None]
    ranked = np.sort(loss[valid])[::-1]
    kept = valid & (loss >= ranked[int(0.25 * valid.sum()) - 1])
    assert (ranked > -np.log(0.01)).sum() < kept.sum() == int(0.25 * valid.sum())
    np.testing.assert_array_equal(np.abs(grad).sum(-1) > 0, kept)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = weight[:, None, None, None] * (p - np.eye(C)[np.where(label == 255, 0, label)])
    np.testing.assert_allclose(np.asarray(grad)[kept], expected[kept], atol=1e-6)


def test_ohem_ties_share_the_places_that_are_left():
    # 8 places for 16 valid pixels, of which 14 have the same loss ln 2 and two are harder.
    logits = np.zeros((1, 4, 5, 2), np.float32)
    logits[0, 0, :2, 1] = 3.0
    label = np.zeros((1, 4, 5), np.int32)
    label[0, :, 4] = 255

    def loss(x):
        return losses.ohem_cross_entropy(
            x, label, np.ones(1), threshold=0.01, min_kept_fraction=0.5
        )

    got = loss(logits)
    np.testing.assert_allclose(got, (2 * np.log(1 + np.exp(3)) + 6 * np.log(2), 8), rtol=1e-6)
    grad = np.asarray(jax.grad(lambda x: loss(x).sum)(logits))[0, ..., 0]
    np.testing.assert_allclose(
        grad[1:, :4], -0.5 * 6 / 14, rtol=1e-6
    )  # the order of pixels plays no part
    np.testing.assert_array_equal(grad[:, 4], 0)


@pytest.mark.parametrize('nan', [np.nan, -np.nan])  # the sign bit of a NaN depends on the hardware
def test_ohem_keeps_every_nan(nan):
    loss = jnp.array([[[3.0, nan, 0.1, 2.0]]], jnp.float32)
    share = losses._kept_share(loss, jnp.ones((1, 1, 4), bool), 2.5, 0.25)
    np.testing.assert_array_equal(share, [[[1, 1, 0, 0]]])


def test_ohem_under_shard_map_is_the_mean_over_all_kept(example):
    logits, label, _ = example
    logits = np.concatenate([logits] * 2)[:4]
    label = np.concatenate([label] * 2)[:4]
    weight = np.array([1.0, 1.0, 1.0, 0.5], np.float32)
    mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P('data'), out_specs=P())
    def total(*arrays):
        return jax.lax.psum(losses.ohem_cross_entropy(*arrays, min_kept_fraction=0.3), 'data')

    halves = [losses.ohem_cross_entropy(logits[i], label[i], weight[i], min_kept_fraction=0.3)
              for i in (slice(2), slice(2, 4))]  # fmt: skip
    got = jax.block_until_ready(jax.jit(total)(logits, label, weight))
    np.testing.assert_allclose(got, np.sum(halves, 0), rtol=1e-6)


# --- class weights --------------------------------------------------------------------------------

# ERFNet's published weights for the 19 classes of Cityscapes: full network (k = 1.10) and encoder
# (k = 1.20).
ERFNET_FULL = np.array([
    2.8149201869965, 6.9850029945374, 3.7890393733978, 9.9428062438965, 9.7702074050903,
    9.5110931396484, 10.311357498169, 10.026463508606, 4.6323022842407, 9.5608062744141,
    7.8698215484619, 9.5168733596802, 10.373730659485, 6.6616044044495, 10.260489463806,
    10.287888526917, 10.289801597595, 10.405355453491, 10.138095855713,
])  # fmt: skip
ERFNET_ENCODER = np.array([
    2.3653597831726, 4.4237880706787, 2.9691488742828, 5.3442072868347, 5.2983593940735,
    5.2275490760803, 5.4394111633301, 5.3659925460815, 3.4170460700989, 5.2414722442627,
    4.7376127243042, 5.2286224365234, 5.455126285553, 4.3019247055054, 5.4264230728149,
    5.4331531524658, 5.433765411377, 5.4631009101868, 5.3947434425354,
])  # fmt: skip


def test_enet_rule_reproduces_published_weights():
    # The k = 1.10 column determines the shares of pixels. The k = 1.20 column must follow from
    # them. Its labels had an eighth of the size, so the shares of the columns differ by up to 0.8
    # %.
    share = np.exp(1 / ERFNET_FULL) - 1.10
    pixels = np.round(share * 1e9).astype(np.int64)
    void = 10**9 - pixels.sum()
    assert 0.11 < void / 1e9 < 0.12
    np.testing.assert_allclose(
        losses.class_weights(pixels, void, 'enet', k=1.10), ERFNET_FULL, rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.class_weights(pixels, void, 'enet', k=1.20), ERFNET_ENCODER, rtol=4e-3
    )
    road = losses.class_weights([3265, 5588], 1147, 'enet')[0]
    np.testing.assert_allclose(road, ERFNET_FULL[0], rtol=1e-4)


@pytest.mark.parametrize(
    ('rule', 'expected'),
    [
        ('none', [1, 1, 1, 1]),
        ('enet', 1 / np.log(1.1 + np.array([0.4, 0.2, 0.1, 0.0]))),
        (
            'median_frequency',
            [0.5, 1, 2, 2],
        ),  # median share 0.2, the class without pixels is like the rarest
        ('inverse', np.array([2.5, 5, 10, 10]) / 6.875),
    ],
)
def test_class_weight_rules(rule, expected):
    got = losses.class_weights([400, 200, 100, 0], 300, rule)
    chex.assert_type(got, np.float32)
    chex.assert_tree_all_finite(got)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_class_weight_errors():
    with pytest.raises(InputError, match="did you mean 'enet'"):
        losses.class_weights([1, 2], 0, 'ent')
    with pytest.raises(InputError, match='no labelled pixel'):
        losses.class_weights([0, 0], 10, 'inverse')
