"""Denoise Activation: hand-made maps, a plain loop over the equations, gradients, devices."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops import denoise_activation as da
from segjax.ops.denoise_activation import DenoiseActivation

K = 7
ACTIVATIONS = [
    DenoiseActivation(mode, train_filter, test_filter, both_input=both_input)
    for mode in da.MODES
    for train_filter in da.TRAIN_FILTERS
    for test_filter in da.TEST_FILTERS
    for both_input in da.BOTH_INPUTS
]


def box(height, width, *corners):
    """Returns [1, H, W] bool, True in rows top .. bottom and columns left .. right, inclusive."""
    top, left, bottom, right = corners
    mask = np.zeros((1, height, width), bool)
    mask[0, top : bottom + 1, left : right + 1] = True
    return mask


def random_case(seed=0, batch=4, height=9, width=11, k=K):
    """Returns (logits, label, mask, target) with boxes that may touch the border."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(batch):
        top, bottom = np.sort(rng.integers(0, height, 2))
        left, right = np.sort(rng.integers(0, width, 2))
        masks.append(box(height, width, top, left, bottom, right)[0])
    # Half of the classes are rare, so that many boxes do not touch them.
    label = rng.choice(np.int32([0, 1, 2, 3, 4, 5, 6, 255]), (batch, height, width), p=_RARE)
    logits = rng.normal(scale=3, size=(batch, height, width, k))
    return logits, label, np.stack(masks), rng.integers(0, k, batch)


_RARE = np.array([40, 40, 2, 2, 2, 2, 2, 10]) / 100


# --- the equations as loops -----------------------------------------------------------------------


def boundary_by_loop(mask):
    ring = np.zeros_like(mask)
    _, height, width = mask.shape
    for b, y, x in np.ndindex(mask.shape):
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            v = y + dy
            u = x + dx
            if 0 <= v < height and 0 <= u < width and mask[b, v, u] and not mask[b, y, x]:
                ring[b, y, x] = True
    return ring


def filter_by_loop(label, mask, target, k):
    total = np.zeros((len(label), k))
    ring = boundary_by_loop(mask)
    for b, y, x in np.ndindex(label.shape):
        if ring[b, y, x] and label[b, y, x] < k:
            total[b, label[b, y, x]] += 1
    for b, c in enumerate(target):
        total[b, c] += 1
    return np.minimum(total, 1)


def softmax_by_loop(values):
    largest = max(values)
    powers = [math.exp(v - largest) for v in values]
    return [p / sum(powers) for p in powers]


def denoised_by_loop(logits, allowed, train_filter, slope):
    result = np.zeros_like(logits)
    for b, y, x in np.ndindex(logits.shape[:3]):
        values = list(logits[b, y, x])
        activated = [v if v >= 0 else slope * v for v in values]
        f = allowed[b]
        if train_filter == 'zero_logit':
            first = softmax_by_loop([v * w for v, w in zip(activated, f, strict=True)])
        elif train_filter == 'neg_inf':
            kept = [v if w else -math.inf for v, w in zip(activated, f, strict=True)]
            first = softmax_by_loop(kept)
        else:
            kept = [p * w for p, w in zip(softmax_by_loop(activated), f, strict=True)]
            first = [p / sum(kept) for p in kept]
        result[b, y, x] = np.add(first, softmax_by_loop(values))
    return result


def inpainted_by_loop(activation, logits, label, mask, target):
    """Returns the completed maps, in the words of the paper."""
    f = filter_by_loop(label, mask, target, logits.shape[-1])
    result = label.copy()
    for b, y, x in np.ndindex(label.shape):
        if not mask[b, y, x]:
            continue
        values = logits[b, y, x]
        scores = np.array(softmax_by_loop(list(values)))
        if activation.mode in ('train', 'both'):
            pixel = logits[b : b + 1, y : y + 1, x : x + 1]
            scores = denoised_by_loop(
                pixel, f[b : b + 1], activation.train_filter, activation.slope
            )[0, 0, 0]
        of_generated = activation.mode == 'test' or activation.both_input == 'generated'
        if activation.mode in ('test', 'both'):
            if of_generated and activation.test_filter != 'prob':
                scores = values
            if activation.test_filter == 'neg_inf':
                scores = np.where(f[b] > 0, scores, -np.inf)
            else:
                scores = scores * f[b]
        result[b, y, x] = np.argmax(scores)
    return result


# --- the ring -------------------------------------------------------------------------------------


def test_the_ring_is_a_pixel_wide_with_corners():
    expected = [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(da.boundary(box(5, 6, 2, 2, 2, 3))[0], expected)


def test_at_the_border_of_the_image_only_the_sides_inside_count():
    corner = [[0, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]]
    np.testing.assert_array_equal(da.boundary(box(3, 4, 0, 0, 1, 1))[0], corner)
    whole = da.boundary(box(3, 4, 0, 0, 2, 3))
    assert not whole.any()
    assert not da.boundary(np.zeros((1, 3, 4), bool)).any()


def test_the_ring_is_equal_to_a_loop():
    _, _, mask, _ = random_case(1, batch=12)
    np.testing.assert_array_equal(da.boundary(mask), boundary_by_loop(mask))


# --- the filter -----------------------------------------------------------------------------------


def hand_made():
    """Returns a map with classes 1 and 2 on the ring, 3 two pixels away, 4 inside the box."""
    label = np.full((1, 7, 8), 3, np.int32)
    label[0, 1:6, 1:7] = 1
    label[0, 5, 3] = 2
    label[0, 2:5, 2:6] = 4
    return label, box(7, 8, 2, 2, 4, 5), np.array([5])


def test_classes_on_the_ring_and_the_target_are_allowed_and_no_further():
    label, mask, target = hand_made()
    allowed = da.noise_filter(label, mask, target, K)
    np.testing.assert_array_equal(allowed, [[0, 1, 1, 0, 0, 1, 0]])
    # A class at a corner of the ring counts.
    label[0, 1, 1] = 6
    np.testing.assert_array_equal(da.noise_filter(label, mask, target, K), [[0, 1, 1, 0, 0, 1, 1]])


def test_the_pixels_inside_the_box_do_not_enter():
    label, mask, target = hand_made()
    filled = np.where(mask, target[:, None, None], label)
    unknown = np.where(mask, 255, label)
    expected = da.noise_filter(label, mask, target, K)
    np.testing.assert_array_equal(da.noise_filter(filled, mask, target, K), expected)
    np.testing.assert_array_equal(da.noise_filter(unknown, mask, target, K), expected)


def test_ignored_pixels_on_the_ring_add_no_class():
    label, mask, target = hand_made()
    label[0, 1] = 255
    label[0, 5] = 255
    label[0, :, 1] = 255
    label[0, :, 6] = 255
    np.testing.assert_array_equal(da.noise_filter(label, mask, target, K), [[0, 0, 0, 0, 0, 1, 0]])


@pytest.mark.parametrize('seed', range(4))
def test_the_filter_is_equal_to_a_loop(seed):
    _, label, mask, target = random_case(seed, batch=8)
    allowed = jax.jit(da.noise_filter, static_argnums=3)(label, mask, target, K)
    assert allowed.dtype == bool
    np.testing.assert_array_equal(allowed, filter_by_loop(label, mask, target, K))


def test_a_filter_follows_its_example():
    _, label, mask, target = random_case(3)
    order = np.array([2, 0, 3, 1])
    moved = da.noise_filter(label[order], mask[order], target[order], K)
    np.testing.assert_array_equal(moved, da.noise_filter(label, mask, target, K)[order])
    mapped = jax.vmap(lambda *x: da.noise_filter(*(a[None] for a in x), K)[0])(label, mask, target)
    np.testing.assert_array_equal(mapped, da.noise_filter(label, mask, target, K))


# --- training (Eq. 5, 6) --------------------------------------------------------------------------


@pytest.mark.parametrize('slope', [0.01, 0.2])
@pytest.mark.parametrize('train_filter', da.TRAIN_FILTERS)
def test_the_denoised_map_is_equal_to_a_loop(train_filter, slope):
    logits, label, mask, target = random_case(5)
    allowed = filter_by_loop(label, mask, target, K)
    expected = denoised_by_loop(logits, allowed, train_filter, slope)
    with jax.enable_x64(True):
        denoised = np.asarray(da.denoised(jnp.asarray(logits), allowed > 0, train_filter, slope))
    assert denoised.dtype == jnp.float64
    np.testing.assert_allclose(denoised, expected, rtol=1e-12)
    np.testing.assert_allclose(denoised.sum(-1), 2)


def test_the_literal_filter_leaks():
    # 44 filtered classes with logit 0 against 5 for the allowed class: 44 / (44 + e^5) = 23 %.
    logits = np.full((1, 1, 1, 45), 5.0)
    allowed = np.arange(45)[None] == 0
    first = {
        name: da.denoised(logits, allowed, name) - jax.nn.softmax(logits)
        for name in da.TRAIN_FILTERS
    }
    np.testing.assert_allclose(first['zero_logit'][..., 1:].sum(), 44 / (44 + np.exp(5)), rtol=1e-5)
    for name in ('neg_inf', 'post_softmax'):
        np.testing.assert_allclose(first[name][0, 0, 0], allowed[0], atol=1e-6)


def test_a_large_filtered_logit_gives_no_nan():
    logits = np.float32([[[[1000, -1000, -2000]]]])
    allowed = np.array([[False, True, True]])
    for name in da.TRAIN_FILTERS:
        value, gradient = jax.value_and_grad(
            lambda x, name=name: da.denoised(x, allowed, name)[0, 0, 0, 1]
        )(jnp.asarray(logits))
        assert np.isfinite(value) and np.isfinite(gradient).all(), name


@pytest.mark.parametrize('train_filter', da.TRAIN_FILTERS)
def test_gradients_are_equal_to_finite_differences(train_filter):
    logits, label, mask, target = random_case(2, batch=2, height=3, width=4)
    # Away from the kink of the leaky ReLU.
    logits = np.where(np.abs(logits) < 0.01, 0.5, logits)
    direction = np.random.default_rng(1).standard_normal(logits.shape)
    cotangent = np.random.default_rng(2).standard_normal(logits.shape)
    allowed = filter_by_loop(label, mask, target, K) > 0
    with jax.enable_x64(True):

        def value(x):
            return (da.denoised(x, allowed, train_filter, 0.2) * cotangent).sum()

        gradient = jax.grad(value)(jnp.asarray(logits))
        step = 1e-6 * direction
        difference = (value(logits + step) - value(logits - step)) / 2e-6
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-7)


def test_the_filter_has_no_gradient_and_filtered_classes_learn_by_the_second_softmax_alone():
    logits, label, mask, target = random_case(2)
    logits = jnp.asarray(logits, jnp.float32)
    allowed = da.noise_filter(label, mask, target, K)
    cotangent = np.random.default_rng(2).standard_normal(logits.shape).astype(np.float32)

    def first_softmax(x):
        difference = da.denoised(x, allowed, 'zero_logit') - jax.nn.softmax(x)
        return (difference * cotangent).sum()

    gradient = jax.grad(first_softmax)(logits)
    filtered = np.broadcast_to(~allowed[:, None, None], logits.shape)
    np.testing.assert_allclose(gradient[filtered], 0, atol=1e-6)
    assert np.abs(gradient[~filtered]).max() > 0.01


def test_the_map_is_float32_for_bfloat16_logits():
    logits, label, mask, target = random_case()
    allowed = da.noise_filter(label, mask, target, K)
    logits = jnp.asarray(logits, jnp.bfloat16)
    for activation in ACTIVATIONS:
        assert da.training_map(activation, logits, allowed).dtype == jnp.float32
        assert da.testing_map(activation, logits, allowed).dtype == jnp.float32


# --- testing (Eq. 2, 8, 9) ------------------------------------------------------------------------


@pytest.mark.parametrize('test_filter', ['prob', 'neg_inf'])
@pytest.mark.parametrize('scale', [1, 1000])
def test_only_allowed_classes_appear_and_outside_nothing_changes(test_filter, scale):
    label, mask, target = hand_made()
    allowed = da.noise_filter(label, mask, target, K)
    activation = DenoiseActivation('test', test_filter=test_filter)
    logits = scale * np.random.default_rng(0).standard_normal((1, 7, 8, K)).astype(np.float32)
    logits[0, 2, 2:6] = scale * np.eye(K)[[0, 3, 4, 6]]  # noise wins by a large margin
    logits[0, 3, 2:5] = scale * np.eye(K)[[1, 2, 5]]
    result = da.inpainted(da.testing_map(activation, logits, allowed), label, mask)
    np.testing.assert_array_equal(result[~mask], label[~mask])
    assert set(np.unique(result[mask])) == {1, 2, 5}
    np.testing.assert_array_equal(result[0, 3, 2:5], [1, 2, 5])
    plain = da.inpainted(logits, label, mask)
    assert set(np.unique(plain[mask])) > {0, 3, 4, 6}


def test_the_literal_filter_prefers_noise_to_negative_logits():
    label, mask, target = hand_made()
    allowed = da.noise_filter(label, mask, target, K)
    logits = jax.nn.log_softmax(np.random.default_rng(0).standard_normal((1, 7, 8, K)))
    result = da.inpainted(da.filtered(logits, allowed, 'logit_literal'), label, mask)
    assert set(np.unique(result[mask])) == {0}  # the first filtered class


def test_the_filters_of_probabilities_and_logits_agree():
    logits, label, mask, target = random_case(7, batch=8)
    allowed = da.noise_filter(label, mask, target, K)
    maps = [
        da.inpainted(da.filtered(logits, allowed, name), label, mask)
        for name in ('prob', 'neg_inf')
    ]
    np.testing.assert_array_equal(*maps)
    literal = jax.nn.softmax(logits) * allowed[:, None, None]
    np.testing.assert_array_equal(maps[0], da.inpainted(literal, label, mask))


@pytest.mark.parametrize('activation', ACTIVATIONS, ids=lambda a: '-'.join(map(str, a)))
def test_the_completed_map_is_equal_to_a_loop(activation):
    logits, label, mask, target = random_case(11)

    @jax.jit
    def complete(logits, label, mask, target):
        allowed = da.noise_filter(label, mask, target, K)
        return da.inpainted(da.testing_map(activation, logits, allowed), label, mask)

    result = complete(logits.astype(np.float32), label, mask, target)
    np.testing.assert_array_equal(
        result, inpainted_by_loop(activation, logits, label, mask, target)
    )


def test_modes_say_where_the_activation_acts():
    logits, label, mask, target = random_case(4)
    allowed = da.noise_filter(label, mask, target, K)
    for activation in ACTIVATIONS:
        training = da.training_map(activation, logits, allowed)
        in_training = activation.mode in ('train', 'both')
        np.testing.assert_allclose(training.sum(-1), 2 if in_training else 1, rtol=1e-5)
        assert activation.in_training == in_training
        assert activation.in_testing == (activation.mode in ('test', 'both'))


def test_the_dtype_of_labels_stays():
    logits, label, mask, _ = random_case()
    for dtype in (np.uint8, np.int32):
        assert da.inpainted(logits, label.astype(dtype), mask).dtype == dtype


# --- devices and errors ---------------------------------------------------------------------------


@pytest.mark.devices(8)
def test_eight_devices_give_the_map_of_a_single_device():
    case = random_case(6, batch=16)
    case = (case[0].astype(np.float32), *case[1:])
    activation = DenoiseActivation('both')

    def complete(logits, label, mask, target):
        allowed = da.noise_filter(label, mask, target, K)
        denoised = da.training_map(activation, logits, allowed)
        return denoised, da.inpainted(da.testing_map(activation, logits, allowed), label, mask)

    shards = [x.reshape(8, 2, *x.shape[1:]) for x in case]
    by_eight = jax.pmap(complete, devices=jax.devices()[:8])(*shards)
    by_eight = jax.tree.map(lambda x: np.asarray(x).reshape(16, *x.shape[2:]), by_eight)
    chex.assert_trees_all_close(by_eight, jax.jit(complete)(*case), rtol=1e-6)


@pytest.mark.parametrize(
    'field, value, nearest',
    [
        ('mode', 'bothh', 'both'),
        ('train_filter', 'neginf', 'neg_inf'),
        ('test_filter', 'probs', 'prob'),
        ('both_input', 'denoise', 'denoised'),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(field, value, nearest):
    activation = DenoiseActivation()._replace(**{field: value})
    with pytest.raises(InputError, match=f'config.da.{field}') as error:
        da.check_activation(activation, 'config.da')
    assert f'did you mean {nearest!r}' in str(error.value)


def test_a_slope_outside_its_range_is_refused():
    with pytest.raises(InputError, match=r'--config\.da\.slope=0\.2'):
        da.check_activation(DenoiseActivation(slope=-1), 'config.da')
    for activation in ACTIVATIONS:
        da.check_activation(activation, 'config.da')


def test_the_functions_refuse_unknown_filters():
    logits = np.zeros((1, 2, 2, 3))
    allowed = np.ones((1, 3), bool)
    with pytest.raises(InputError, match='zero_logit'):
        da.denoised(logits, allowed, 'prob')
    with pytest.raises(InputError, match='logit_literal'):
        da.filtered(logits, allowed, 'zero_logit')
