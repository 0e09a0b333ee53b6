"""Learned dilation against its definition, fixed convs, Eq. 4.4 and finite differences."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.errors import InputError
from segjax.ops import dilated
from segjax.ops.conv import conv2d
from segjax.ops.dilated import conv_dilated

RANGE = (1, 4)
FORMS = ('shifts', 'gathers', 'naive')  # 'fast' is either of the first two


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def problem(channels=4, features=2, size=(6, 7), kernel_size=(3, 3), batch=2):
    """Returns x, kernel, dy in float64."""
    x = normal(0, batch, *size, channels)
    dy = normal(2, batch, *size, features)
    return x, normal(1, *kernel_size, channels, features), dy


def pixel_of(x, b, m, n, c):
    inside = 0 <= m < x.shape[1] and 0 <= n < x.shape[2]
    return x[b, m, n, c] if inside else 0.0


def bilinear(x, b, m, n, c):
    """Interpolates x_c at real coordinates, with floors of coordinates instead of dilations."""
    top = math.floor(m)
    left = math.floor(n)
    value = 0.0
    for r, s in itertools.product((top, top + 1), (left, left + 1)):
        value += max(0, 1 - abs(m - r)) * max(0, 1 - abs(n - s)) * pixel_of(x, b, r, s, c)
    return value


def taps_of(kernel):
    kh, kw = kernel.shape[:2]
    for i, j in itertools.product(range(kh), range(kw)):
        yield i - kh // 2, j - kw // 2, kernel[i, j]


def definition(x, kernel, factors):
    """Computes Eq. 4.2, pixel by pixel."""
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for b, m, n, c in np.ndindex(x.shape):
        for i, j, weights in taps_of(kernel):
            y[b, m, n] += weights[c] * bilinear(x, b, m + i * factors[c], n + j * factors[c], c)
    return y


def factor_gradient_by_eq_4_4(x, kernel, factors, dy):
    """Computes Eq. 4.4 for i and j in -1, 0, 1.

    Floor and ceil are of the dilation, so they count away from the centre. ceil = floor + 1.
    """
    gradient = np.zeros(len(factors))
    for b, m, n, c in np.ndindex(x.shape):
        near = math.floor(factors[c])
        far = near + 1
        a = factors[c] - near
        for i, j, weights in taps_of(kernel):
            slope = (2 * a - 2) * pixel_of(x, b, m + i * near, n + j * near, c)
            slope += (1 - 2 * a) * pixel_of(x, b, m + i * near, n + j * far, c)
            slope += (1 - 2 * a) * pixel_of(x, b, m + i * far, n + j * near, c)
            slope += 2 * a * pixel_of(x, b, m + i * far, n + j * far, c)
            gradient[c] += slope * (weights[c] @ dy[b, m, n])
    return gradient


@functools.partial(jax.jit, static_argnums=(4, 5))
def value_and_gradients(x, kernel, factors, dy, dilation_range, forms):
    y, vjp = jax.vjp(lambda *args: conv_dilated(*args, dilation_range, forms), x, kernel, factors)
    return y, *vjp(dy)


@functools.partial(jax.jit, static_argnums=(3, 4))
def value(x, kernel, factors, dilation_range, forms):
    return conv_dilated(x, kernel, factors, dilation_range, forms)


def float64(fn):
    @functools.wraps(fn)
    def run(*args, **kwargs):
        with jax.enable_x64(True):
            return fn(*args, **kwargs)

    return run


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('forms', FORMS)
@pytest.mark.parametrize(
    'kernel_size, dilation_range, factors',
    [
        ((3, 3), (1, 4), [1, 1.3, 2.75, 4]),
        ((3, 3), (0.5, 2.5), [0.5, 0.9, 2, 2.5]),
        ((3, 3), (0, 12), [0, 3.4, 8.5, 12]),  # from a single pixel to beyond the image
        ((1, 5), (1, 3), [1, 1.4, 2.2, 3]),  # the outer taps at twice the factor
        ((3, 1), (2, 2), [2, 2, 2, 2]),
    ],
)
@float64
def test_output_is_the_definition(kernel_size, dilation_range, factors, forms):
    x, kernel, _ = problem(kernel_size=kernel_size, batch=1)
    y = value(x, kernel, np.array(factors, float), dilation_range, forms)
    np.testing.assert_allclose(y, definition(x, kernel, factors), atol=1e-12)


@pytest.mark.parametrize('forms', dilated.FORMS)
@pytest.mark.parametrize('dilation', [1, 2, 4])  # both ends of the range among them
def test_whole_factors_are_the_fixed_conv(dilation, forms):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.integers(-8, 9, shape).astype(np.float32) for shape in ((2, 9, 7, 5), (3, 3, 5, 3))
    )
    y = value(x, kernel, np.full(5, dilation, np.float32), RANGE, forms)
    np.testing.assert_array_equal(
        y, conv2d(x, kernel, dilation=dilation)
    )  # whole numbers: no rounding


@pytest.mark.parametrize('forms', FORMS)
def test_neighbours_outside_the_image_are_zero_each_on_its_own(forms):
    x = np.ones((1, 6, 6, 1), np.float32)
    taps = np.zeros((3, 3, 1, 2), np.float32)
    taps[0, 0, 0, 0] = taps[1, 2, 0, 1] = 1  # the upper left tap, and the right tap
    y = value(x, taps, np.array([2.25], np.float32), RANGE, forms)
    # Pixel 2 reads at -0.25: a quarter of it lies outside.
    inside = np.array([0, 0, 0.75, 1, 1, 1])
    np.testing.assert_array_equal(y[0, :, :, 0], np.outer(inside, inside))
    np.testing.assert_array_equal(y[0, :, :, 1], np.tile(inside[::-1], (6, 1)))


@pytest.mark.parametrize('forms', FORMS)
def test_beyond_the_image_only_the_centre_counts(forms):
    x, kernel, dy = (a.astype(np.float32) for a in problem())
    factors = np.array([7, 8.5, 12, 17], np.float32)
    y, dx, dkernel, dfactors = value_and_gradients(x, kernel, factors, dy, (7, 17), forms)
    np.testing.assert_allclose(y, x @ kernel[1, 1], atol=1e-5)
    np.testing.assert_allclose(dx, dy @ kernel[1, 1].T, atol=1e-5)
    assert np.asarray(dkernel[1, 1]).all() and np.count_nonzero(dkernel) == dkernel[1, 1].size
    np.testing.assert_array_equal(dfactors, 0)


@pytest.mark.parametrize('forms', FORMS)
@float64
def test_channels_do_not_mix(forms):
    x, kernel, dy = problem()
    factors = np.array([1.2, 2.5, 3.1, 3.9])
    moved = np.array([1.2, 2.5, 1.7, 3.9])
    y, *gradients = value_and_gradients(x, kernel, factors, dy, RANGE, forms)
    moved_y, *moved_gradients = value_and_gradients(x, kernel, moved, dy, RANGE, forms)
    third = slice(2, 3)
    alone, moved_alone = (
        value(x[..., third], kernel[:, :, third], f[third], RANGE, forms) for f in (factors, moved)
    )
    np.testing.assert_allclose(moved_y - y, moved_alone - alone, atol=1e-12)
    for before, after, axis in zip(gradients, moved_gradients, (3, 2, 0), strict=True):
        before, after = (np.moveaxis(np.asarray(g), axis, 0) for g in (before, after))
        np.testing.assert_array_equal(after[[0, 1, 3]], before[[0, 1, 3]])
        assert np.abs(after[2] - before[2]).max() > 0.1


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize('forms', FORMS)
@float64
def test_gradients_are_central_differences(forms):
    x, kernel, dy = problem()
    args = [x, kernel, np.array([1.3, 2.5, 3.9, 1.01])]
    _, *gradients = value_and_gradients(*args, dy, RANGE, forms)
    # The output is linear in x and kernel, and quadratic in a factor.
    step = 1e-4  # no error except rounding
    for which, gradient in enumerate(gradients):
        expected = np.zeros(gradient.shape)
        for index in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(a) for a in args]
                moved[which][index] += sign * step
                ends.append((value(*moved, RANGE, forms) * dy).sum())
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, atol=1e-8)


@pytest.mark.parametrize('forms', FORMS)
@float64
def test_kernels_wider_than_three_have_the_slope_of_their_distance(forms):
    x, kernel, dy = problem(kernel_size=(1, 5))
    factors = np.array([1.1, 1.6, 2.2, 2.9])
    step = 1e-4
    gradient = value_and_gradients(x, kernel, factors, dy, (1, 3), forms)[-1]
    for c in range(4):
        moved = step * (np.arange(4) == c)
        difference = definition(x, kernel, factors + moved) - definition(x, kernel, factors - moved)
        np.testing.assert_allclose(gradient[c], (difference * dy).sum() / (2 * step), atol=1e-8)


@pytest.mark.parametrize('forms', FORMS)
@pytest.mark.parametrize('factors', [[1.3, 2.5, 3.99, 2.01], [1, 2, 3, 2]])
@float64
def test_factor_gradient_is_eq_4_4(factors, forms):
    x, kernel, dy = problem()
    gradient = value_and_gradients(x, kernel, np.array(factors, float), dy, RANGE, forms)[-1]
    np.testing.assert_allclose(
        gradient, factor_gradient_by_eq_4_4(x, kernel, factors, dy), atol=1e-11
    )


@pytest.mark.parametrize('forms', FORMS)
@pytest.mark.parametrize(
    'dilation_range, factors, sides',
    [
        ((1, 4), [1, 2, 3, 4], [1, 1, 1, -1]),  # from the right, but from the left at the upper end
        ((1.5, 3.5), [1.5, 2, 3, 3.5], [1, 1, 1, -1]),
    ],
)
@float64
def test_convention_at_kinks_and_ends(dilation_range, factors, sides, forms):
    x, kernel, dy = problem()
    factors = np.array(factors, float)
    sides = np.array(sides)
    step = 1e-6
    gradient = value_and_gradients(x, kernel, factors, dy, dilation_range, forms)[-1]

    def one_sided(c, side):
        moved = factors + side * step * (np.arange(4) == c)
        difference = value(x, kernel, moved, dilation_range, forms) - value(
            x, kernel, factors, dilation_range, forms
        )
        return (difference * dy).sum() / (side * step)

    np.testing.assert_allclose(
        gradient, [one_sided(c, side) for c, side in enumerate(sides)], atol=1e-3
    )
    inner = [
        c for c in range(4) if factors[c] == round(factors[c]) and factors[c] not in dilation_range
    ]
    assert all(
        abs(one_sided(c, 1) - one_sided(c, -1)) > 0.1 for c in inner
    )  # there is a kink to have a convention for


@pytest.mark.parametrize('forms', FORMS)
def test_forms_agree_in_float32_with_many_channels(forms):
    x, kernel, dy = (a.astype(np.float32) for a in problem(channels=33, size=(23, 21), features=5))
    factors = np.random.default_rng(3).uniform(5, 9, 33).astype(np.float32)
    with jax.enable_x64(True):
        args = [np.float64(a) for a in (x, kernel, factors, dy)]
        expected = value_and_gradients(*args, (5, 9), 'naive')
    got_all = value_and_gradients(x, kernel, factors, dy, (5, 9), forms)
    chex.assert_type(got_all, np.float32)
    for got, want in zip(got_all, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize('forms', ['shifts', 'gathers'])
@float64
def test_second_order_gradients_are_those_of_the_naive_form(forms):
    x, kernel, dy = problem(kernel_size=(3, 1))
    factors = np.array([1.3, 2.5, 3.9, 1.01])

    def penalty(
        x, kernel, factors, forms
    ):  # the norm of an input gradient, differentiated once more
        gradient = jax.grad(
            lambda x: (jnp.tanh(conv_dilated(x, kernel, factors, RANGE, forms)) * dy).sum()
        )(x)
        return (gradient**2).sum()

    second = jax.jit(jax.grad(penalty, (0, 1, 2)), static_argnums=3)
    for a, b in zip(
        second(x, kernel, factors, forms), second(x, kernel, factors, 'naive'), strict=True
    ):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize('forms', ['shifts', 'gathers'])
def test_forward_mode_raises_instead_of_being_wrong(forms):
    x, kernel, _ = problem()
    factors = jnp.array([1.0, 2, 3, 4])
    with pytest.raises(TypeError, match='forward-mode'):
        jax.jvp(
            lambda f: conv_dilated(jnp.asarray(x), jnp.asarray(kernel), f, RANGE, forms),
            (factors,),
            (factors,),
        )


@pytest.mark.devices(8)
def test_gradient_on_eight_devices_sums_to_the_full_batch():
    x, kernel, dy = (a.astype(np.float32) for a in problem(batch=8))
    factors = np.array([1.3, 2, 3.5, 4], np.float32)

    def gradients(x, dy):
        return value_and_gradients(x, kernel, factors, dy, RANGE, 'fast')[2:]

    parts = jax.pmap(gradients, devices=jax.devices()[:8])(x[:, None], dy[:, None])
    for part, whole in zip(parts, gradients(x, dy), strict=True):
        np.testing.assert_allclose(part.sum(0), whole, atol=1e-4)


# --- range and gate -------------------------------------------------------------------------------


@pytest.mark.parametrize('forms', FORMS)
@float64
def test_a_factor_outside_acts_as_the_end_of_its_range(forms):
    x, kernel, dy = problem()
    outside = np.array([-3, 0.9, 4.1, 1e6])
    ends = np.array([1, 1, 4, 4.0])
    chex.assert_trees_all_equal(
        value_and_gradients(x, kernel, outside, dy, RANGE, forms),
        value_and_gradients(x, kernel, ends, dy, RANGE, forms),
    )


def test_gate_lets_pass_what_leads_back():
    factors = np.array([0.9, 0.9, 1, 1, 2.5, 4, 4, 4.1, 4.1], np.float32)
    gradient = np.array([1, -1, 1, -1, 1, 1, -1, 1, -1], np.float32)
    # p -= rate * g: a negative gradient raises a factor.
    expected = [0, -1, 1, -1, 1, 1, -1, 1, 0]
    np.testing.assert_array_equal(dilated.gate_gradient(gradient, factors, RANGE), expected)


@pytest.mark.parametrize('forms', dilated.FORMS)
@float64
def test_a_factor_for_each_image_is_that_of_the_image_alone(forms):
    x, kernel, dy = problem(batch=3)
    factors = np.random.default_rng(5).uniform(*RANGE, (3, 4))
    y, dx, dkernel, dfactors = value_and_gradients(x, kernel, factors, dy, RANGE, forms)
    alone = [
        value_and_gradients(x[b : b + 1], kernel, factors[b], dy[b : b + 1], RANGE, forms)
        for b in range(3)
    ]
    np.testing.assert_allclose(y, np.concatenate([parts[0] for parts in alone]), atol=1e-12)
    np.testing.assert_allclose(dx, np.concatenate([parts[1] for parts in alone]), atol=1e-12)
    np.testing.assert_allclose(dkernel, sum(parts[2] for parts in alone), atol=1e-11)
    np.testing.assert_allclose(dfactors, np.stack([parts[3] for parts in alone]), atol=1e-11)


@pytest.mark.parametrize('forms', dilated.FORMS)
@float64
def test_gate_per_image_sums_what_leads_back_in_each_image(forms):
    """Compares with Eq. 4.4 for each image alone, gated and then summed.

    Factors are below, inside and above the range.
    """
    x, kernel, dy = problem(channels=9, batch=5)
    factors = np.repeat([0.5, 2.25, 4.75], 3)

    def loss(factors):
        copies = dilated.gate_per_image(factors, 5, RANGE)
        return (conv_dilated(jnp.asarray(x), jnp.asarray(kernel), copies, RANGE, forms) * dy).sum()

    expected = np.zeros(9)
    ungated = np.zeros(9)
    for b in range(5):
        image = x[b : b + 1]
        slope = dy[b : b + 1]
        near_ends = np.where(
            factors > 4, 4 - 1e-9, np.clip(factors, *RANGE)
        )  # the left derivative at the upper end
        gradient = factor_gradient_by_eq_4_4(image, kernel, near_ends, slope)
        ungated += gradient
        for c, factor in enumerate(factors):
            leads_out = (factor > 4 and gradient[c] < 0) or (factor < 1 and gradient[c] > 0)
            expected[c] += 0 if leads_out else gradient[c]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(factors), expected, atol=1e-6)
    of_the_sum = dilated.gate_gradient(ungated, factors, RANGE)
    assert (expected[6:] > 0).all() and (of_the_sum[6:] == 0).any(), (
        'an image brings back what the sum would hold'
    )


def test_gate_per_image_in_bfloat16_keeps_float32_factors():
    x, kernel, dy = (jnp.asarray(a, jnp.float32) for a in problem(channels=6, batch=4))
    factors = jnp.array([0.5, 0.75, 2.25, 3.5, 4.5, 5.0])

    def gradient(dtype):
        def loss(factors):
            y = conv_dilated(
                x.astype(dtype), kernel, dilated.gate_per_image(factors, 4, RANGE), RANGE
            )
            return (y.astype(jnp.float32) * dy).sum()

        return jax.jit(jax.grad(loss))(factors)

    half = gradient(jnp.bfloat16)
    full = gradient(jnp.float32)
    chex.assert_type(half, jnp.float32)
    np.testing.assert_allclose(half, full, atol=0.03 * np.abs(full).max())
    assert (half[:2] <= 0).all() and (half[4:] >= 0).all()


@pytest.mark.devices(8)
def test_gate_per_image_on_eight_devices_sums_to_the_full_batch():
    """Checks that gates act before the sum: devices may disagree about the sign."""
    x, kernel, dy = (a.astype(np.float32) for a in problem(batch=8))
    factors = np.array([0.5, 2.25, 4.5, 5], np.float32)

    def gradient(x, dy):
        def loss(factors):
            return (
                conv_dilated(x, kernel, dilated.gate_per_image(factors, x.shape[0], RANGE), RANGE)
                * dy
            ).sum()

        return jax.grad(loss)(factors)

    parts = jax.pmap(gradient, devices=jax.devices()[:8])(x[:, None], dy[:, None])
    np.testing.assert_allclose(parts.sum(0), jax.jit(gradient)(x, dy), atol=1e-4)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize('start', [1.5, 4.0])
def test_gradient_descent_finds_the_best_dilation(start):
    # Smooth images: only there does an error two pixels away have a slope that points home.
    x = ndimage.gaussian_filter(normal(0, 4, 20, 20, 3), (0, 2, 2, 0)).astype(np.float32)
    x /= x.std()
    kernel = normal(1, 3, 3, 3, 4).astype(np.float32)
    target = conv2d(x, kernel, dilation=3)

    def distance(factors):
        return ((conv_dilated(x, kernel, factors, (1, 5)) - target) ** 2).mean()

    @jax.jit
    def descend(factors):
        def step(_, factors):
            gradient = jax.grad(distance)(factors)
            return factors - 0.03 * dilated.gate_gradient(gradient, factors, (1, 5))

        return jax.lax.fori_loop(0, 400, step, factors)

    np.testing.assert_allclose(descend(jnp.full(3, start)), 3, atol=0.02)


# --- dtypes, programs, errors ---------------------------------------------------------------------


@pytest.mark.parametrize('forms', FORMS)
def test_bfloat16_computes_with_float32_factors(forms):
    x, kernel, dy = (jnp.asarray(a, jnp.float32) for a in problem(kernel_size=(3, 1)))
    factors = jnp.array([1.3, 2.51, 3.77, 4])
    half = value_and_gradients(
        x.astype(jnp.bfloat16), kernel, factors, dy.astype(jnp.bfloat16), RANGE, forms
    )
    full = value_and_gradients(x, kernel, factors, dy, RANGE, forms)
    chex.assert_type(half, [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32])
    for a, b in zip(half, full, strict=True):
        np.testing.assert_allclose(np.float32(a), b, atol=0.02 * np.abs(b).max())
    # bfloat16's neighbours of 12.03 are 12 and 12.0625.
    impulse = jnp.zeros((1, 1, 20, 1), jnp.bfloat16).at[0, 0, 13].set(1)
    right = np.array([0, 0, 1], np.float32).reshape(1, 3, 1, 1)
    read = value(impulse, right, jnp.array([12.03]), (12, 13), forms)
    np.testing.assert_allclose(np.float32(read[0, 0, :2, 0]), [0.03, 0.97], rtol=2**-8)


def programs_for(platform):
    x, kernel, _ = (a.astype(np.float32) for a in problem())

    def gradients(x, kernel, factors):
        return jax.grad(lambda *args: conv_dilated(*args, RANGE).sum(), (0, 1, 2))(
            x, kernel, factors
        )

    exported = jax.export.export(jax.jit(gradients), platforms=[platform])(
        x, kernel, np.full(4, 2.5, np.float32)
    )
    return exported.mlir_module()


@pytest.mark.parametrize(
    'platform, gathers', [('cpu', False), ('tpu', False), ('cuda', True), ('rocm', True)]
)
def test_fast_form_never_scatters_and_gathers_only_on_a_gpu(platform, gathers):
    program = programs_for(platform)
    assert 'dot_general' in program and 'stablehlo.scatter' not in program
    assert ('stablehlo.gather' in program) == gathers


@pytest.mark.parametrize('dilation_range', [(4, 1), (-1, 3), (0, 0), (1, math.inf), (math.nan, 3)])
def test_impossible_ranges(dilation_range):
    x, kernel, _ = problem()
    with pytest.raises(InputError, match='dilation_range'):
        conv_dilated(x, kernel, np.full(4, 2.0), dilation_range)


def test_other_bad_input():
    x, kernel, _ = problem()
    factors = np.full(4, 2.0)
    with pytest.raises(InputError, match='2x3'):
        conv_dilated(x, kernel[:2], factors, RANGE)
    # A factor for each output channel, or for each image of a different batch.
    for wrong in (factors[:3], np.float64(2), np.full(2, 2.0), np.full((3, 4), 2.0)):
        with pytest.raises(InputError, match='one factor for each input channel'):
            conv_dilated(x, kernel, wrong, RANGE)
    with pytest.raises(InputError, match="did you mean 'shifts'"):
        conv_dilated(x, kernel, factors, RANGE, 'shift')


# --- whole factors --------------------------------------------------------------------------------


def test_rounding_goes_to_the_nearest_whole_factor_inside_the_range():
    factors = np.array([-2, 1, 1.49, 1.5, 2.5, 3.51, 3.7, 9], np.float32)
    rounded = dilated.round_factors(factors, (1, 4))
    np.testing.assert_array_equal(rounded, [1, 1, 1, 2, 3, 4, 4, 4])
    chex.assert_type(rounded, np.int32)
    np.testing.assert_array_equal(
        dilated.round_factors(factors, (1.2, 3.6)), [2, 2, 2, 2, 3, 3, 3, 3]
    )
    with pytest.raises(InputError, match='whole number'):
        dilated.round_factors(factors, (1.2, 1.8))


@pytest.mark.parametrize('dilation_range', [(1, 4), (1.2, 3.6)])
def test_rounding_is_the_same_inside_jit(dilation_range):
    factors = np.array([-2, 1, 1.49, 1.5, 2.5, 3.51, 3.7, 9], np.float32)
    rounded = dilated.nearest_whole(factors, dilation_range)
    assert isinstance(rounded, np.ndarray)
    np.testing.assert_array_equal(rounded, dilated.round_factors(factors, dilation_range))
    compiled = jax.jit(lambda x: dilated.nearest_whole(x, dilation_range))(factors)
    chex.assert_trees_all_equal(np.asarray(compiled), rounded, strict=True)


@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 3)])
@float64
def test_conv_at_whole_factors_is_the_definition(kernel_size):
    x, kernel, _ = problem(channels=6, kernel_size=kernel_size, batch=1)
    factors = np.array([2, 0, 3, 2, 11, 1])
    y = dilated.conv_at_whole_factors(x, kernel, factors)
    np.testing.assert_allclose(y, definition(x, kernel, factors), atol=1e-12)


def test_conv_at_whole_factors_keeps_the_dtype():
    x, kernel, _ = problem()
    y = dilated.conv_at_whole_factors(jnp.asarray(x, jnp.bfloat16), kernel, np.array([1, 2, 2, 3]))
    chex.assert_type(y, jnp.bfloat16)
