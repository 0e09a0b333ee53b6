"""Noise injection: ratios against closed forms and integrals, gradients, keys, errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from segjax.errors import InputError
from segjax.ops import noise
from segjax.ops.noise import Injector

S = 20


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def normal(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def quantiles(distribution):
    """Returns a latent [1, 32, 128, 20] of evenly spaced quantiles of a distribution.

    Sums over it approximate integrals.
    """
    count = 32 * 128 * S
    return (
        distribution.ppf((np.arange(count) + 0.5) / count).astype(np.float32).reshape(1, 32, 128, S)
    )


def keys_of(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


@functools.partial(jax.jit, static_argnums=0)
def ratio_of(injector, latent):
    """Returns the ratio in dB of a deterministic injector on the latent of a single image."""
    return noise.measured_snr(latent, noise.inject(injector, latent, None))[0]


gaussian = jax.jit(noise.gaussian, static_argnums=3)


# --- max-only -------------------------------------------------------------------------------------


def test_max_only_keeps_the_largest_even_if_it_is_negative():
    latent = np.float32([[[[1, 5, -2], [-3, -1, -2], [4, 4, 0]]]])
    np.testing.assert_array_equal(noise.max_only(latent), [[[[0, 5, 0], [0, -1, 0], [4, 0, 0]]]])


def test_max_only_passes_the_gradient_through_the_largest():
    latent = normal(2, 3, 4, 5)
    cotangent = normal(2, 3, 4, 5, seed=1)
    _, vjp = jax.vjp(noise.max_only, latent)
    expected = np.where(latent == latent.max(-1, keepdims=True), cotangent, 0)
    np.testing.assert_array_equal(vjp(cotangent)[0], expected)


def test_max_only_on_codes_of_plus_and_minus_one_has_the_published_ratio():
    latent = 2 * np.eye(S, dtype=np.float32)[np.random.default_rng(0).integers(0, S, (1, 8, 8))] - 1
    got = ratio_of(Injector('max_only'), latent)
    np.testing.assert_allclose(got, 10 * np.log10(S / (S - 1)), rtol=1e-4)
    assert round(float(got), 2) == 0.22  # Table 2


def test_max_only_on_normal_numbers():
    # E max^2 of S normal numbers by integration over the density of their maximum, S cdf^(S-1) pdf.
    largest = integrate.quad(
        lambda x: x**2 * S * stats.norm.cdf(x) ** (S - 1) * stats.norm.pdf(x), -10, 10
    )[0]
    got = ratio_of(Injector('max_only'), normal(1, 128, 128, S))
    np.testing.assert_allclose(got, 10 * np.log10(S / (S - largest)), atol=0.01)


# --- quantisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize('bits', [1, 2, 3, 4, 8])
def test_quantize_is_the_nearest_level(bits):
    latent = np.concatenate([uniform(2000), normal(2000, scale=3), [-np.inf, np.inf]]).astype(
        np.float32
    )
    levels = np.linspace(-1, 1, 2**bits)
    expected = levels[
        np.argmin((np.clip(latent, -5, 5)[:, None].astype(np.float64) - levels) ** 2, -1)
    ]
    got = noise.quantize(latent, bits)
    np.testing.assert_allclose(got, expected, atol=1e-7)
    assert len(np.unique(got)) == 2**bits


def test_half_way_the_lower_level_is_taken():
    np.testing.assert_array_equal(noise.quantize(jnp.zeros(1), 1), [-1])
    # Levels -1, -1/3, 1/3, 1 in whole sixths, so that the middles are exact. argmin returns the
    # first of two equals.
    for middle, level in ((-4, -6), (0, -2), (4, 2)):
        assert np.argmin((middle - np.array([-6, -2, 2, 6])) ** 2) == [-6, -2, 2, 6].index(level)
    np.testing.assert_allclose(noise.quantize(jnp.zeros(1), 2), [-1 / 3])
    assert np.isnan(noise.quantize(jnp.array([jnp.nan]), 2))


@pytest.mark.parametrize('bits', [1, 2, 3, 4])
def test_quantize_uniform_numbers(bits):
    # Signal 1/3, error D^2 / 12 with D = 2 / (2^n - 1): 0.00, 9.54, 16.90 and 23.52 dB.
    got = ratio_of(Injector('quantize', bits=bits), quantiles(stats.uniform(-1, 2)))
    np.testing.assert_allclose(got, 20 * np.log10(2**bits - 1), atol=1e-3)


def expected_ratio(bits, sigma):
    """Returns the ratio in dB of the quantiser on N(0, sigma^2).

    The squared error is integrated over the cell of each level.
    """
    levels = np.linspace(-1, 1, 2**bits)
    edges = [-np.inf, *(levels[1:] + levels[:-1]) / 2, np.inf]
    error = sum(
        integrate.quad(lambda x: (x - level) ** 2 * stats.norm.pdf(x, scale=sigma), low, high)[0]  # noqa: B023
        for level, low, high in zip(levels, edges, edges[1:])
    )
    return 10 * np.log10(sigma**2 / error)


@pytest.mark.parametrize('sigma', [0.2, 0.44, 1.0, 3.0])
@pytest.mark.parametrize('bits', [1, 2, 4])
def test_quantize_normal_numbers(bits, sigma):
    got = ratio_of(Injector('quantize', bits=bits), quantiles(stats.norm(scale=sigma)))
    np.testing.assert_allclose(got, expected_ratio(bits, sigma), atol=5e-3)


def test_straight_through_gradient():
    latent = normal(2, 3, 4, 5, scale=2)
    cotangent = normal(2, 3, 4, 5, seed=1)
    assert (np.abs(latent) > 1).any() and (np.abs(latent) < 1).any()

    def gradient(ste_clip):
        return jax.jit(
            lambda x: jax.vjp(lambda x: noise.quantize(x, 2, ste_clip), x)[1](cotangent)[0]
        )(latent)

    np.testing.assert_array_equal(gradient(False), cotangent)
    np.testing.assert_array_equal(gradient(True), np.where(np.abs(latent) > 1, 0, cotangent))


def test_gradient_is_taken_at_the_noisy_point():
    # d/dx of q(x)^2 / 2 is q(x) times the derivative 1 that replaces q's own.
    latent = np.float32([-7, -0.4, 0.1, 0.9])
    gradient = jax.grad(lambda x: (noise.quantize(x, 2) ** 2).sum() / 2)(latent)
    np.testing.assert_allclose(gradient, [-1, -1 / 3, 1 / 3, 1], rtol=1e-6)


# --- Gaussian noise -------------------------------------------------------------------------------


@pytest.mark.parametrize('snr', [-20.0, 7.38, 40.0])
@pytest.mark.parametrize('draw', [uniform, normal])
def test_gaussian_has_the_ratio_asked_for(draw, snr):
    latent = np.concatenate(
        [draw(1, 64, 64, S), 50 + draw(1, 64, 64, S)]
    )  # each image by its own energy
    for norm, less in (('eq11_consistent', 0), ('eq13_literal', 10 * np.log10(S))):
        got = noise.measured_snr(latent, gaussian(latent, keys_of(1, 2), snr, norm))
        np.testing.assert_allclose(
            got, snr - less, atol=0.1
        )  # 4 standard errors: 10 / ln 10 sqrt(2 / N) = 0.02
    assert round(10 * np.log10(S), 2) == 13.01


def test_gaussian_noise_is_white_and_normal():
    latent = np.ones((1, 64, 64, S), np.float32)
    white = (np.asarray(gaussian(latent, keys_of(3), 0.0)) - 1).astype(np.float64)
    assert stats.kstest(white.ravel(), 'norm').pvalue > 1e-3
    for axis in (1, 2, 3):
        assert abs((white * np.roll(white, 1, axis)).mean()) < 4 / np.sqrt(white.size)


def test_an_example_gets_its_noise_wherever_it_stands():
    latent = normal(4, 5, 6, S)
    keys = keys_of(*range(4))
    together = gaussian(latent, keys, 7.38)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        gaussian(latent[order], keys[order], 7.38), together[order], atol=1e-6
    )
    for i in range(4):
        alone = gaussian(latent[i : i + 1], keys[i : i + 1], 7.38)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-6)
    same = gaussian(latent[[0, 0, 0, 0]], keys, 7.38)
    assert np.abs(same[0] - same[1]).max() > 0.1


@pytest.mark.parametrize('norm', noise.SNR_NORMS)
def test_gaussian_gradient_is_the_identity(norm):
    latent = normal(2, 3, 4, 5)
    cotangent = normal(2, 3, 4, 5, seed=1)
    gradient = jax.jit(
        lambda x: jax.vjp(lambda x: noise.gaussian(x, keys_of(0, 1), 3.0, norm), x)[1](cotangent)[0]
    )
    for x in (latent, 0 * latent):  # at 0 the derivative of sigma would be infinite
        np.testing.assert_array_equal(gradient(x), cotangent)


# --- the measured ratio ---------------------------------------------------------------------------


def test_measured_snr_is_the_formula():
    clean = normal(2, 4, 5, 3)
    noisy = normal(2, 4, 5, 3, seed=1)
    valid = np.random.default_rng(2).random((2, 4, 5)) < 0.7
    for mask in (None, valid):
        expected = []
        for b in range(2):
            signal = error = 0.0
            for i, j in np.ndindex(4, 5):
                if mask is None or mask[b, i, j]:
                    signal += float(clean[b, i, j] @ clean[b, i, j])
                    error += float(((noisy - clean)[b, i, j] ** 2).sum())
            expected.append(10 * np.log10(signal / error))
        np.testing.assert_allclose(noise.measured_snr(clean, noisy, mask), expected, atol=1e-4)


def test_measured_snr_at_its_ends():
    clean = normal(3, 2, 2, 4)
    valid = np.array([True, True, False])[:, None, None] & np.ones((3, 2, 2), bool)
    valid[1, 0, 0] = False
    noisy = clean.copy()
    noisy[1, 0, 0] = np.nan  # in a pixel that does not count
    noisy[1, 1, 1] += 1
    got = noise.measured_snr(clean, noisy, valid)
    assert got[0] == np.inf and np.isfinite(got[1]) and np.isnan(got[2])
    assert np.isnan(noise.measured_snr(clean, noisy)[1])  # a NaN that counts is not hidden
    assert noise.measured_snr(0 * clean, clean)[0] == -np.inf
    assert noise.measured_snr(0 * clean, 0 * clean)[0] == np.inf


# --- the injector ---------------------------------------------------------------------------------

INJECTORS = [
    Injector('none'),
    Injector('max_only'),
    Injector('quantize', bits=3),
    Injector('gaussian', snr=10.0),
    Injector('gaussian', snr=10.0, snr_norm='eq13_literal'),
]


@pytest.mark.parametrize('injector', INJECTORS, ids=noise.label)
def test_inject_is_the_named_function_in_both_dtypes(injector):
    noise.check_injector(injector, 'noise')
    keys = keys_of(4, 5)
    # bfloat16 holds these numbers exactly, but not the sum of their 5120 squares.
    half = jnp.asarray(uniform(2, 16, 16, S), jnp.bfloat16)
    latent = half.astype(jnp.float32)
    inject = jax.jit(lambda x: noise.inject(injector, x, keys))
    got = inject(latent)
    expected = {
        'none': lambda: latent,
        'max_only': lambda: noise.max_only(latent),
        'quantize': lambda: noise.quantize(latent, 3),
        'gaussian': lambda: gaussian(latent, keys, 10.0, injector.snr_norm),
    }[injector.name]()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    chex.assert_type(inject(half), jnp.bfloat16)
    np.testing.assert_array_equal(inject(half), got.astype(jnp.bfloat16))


def test_bits_and_snr_may_be_traced():
    latent = uniform(2, 8, 8, S)
    keys = keys_of(4, 5)
    assert jax.grad(lambda x, bits: noise.quantize(x, bits).sum(), (0, 1))(0.3, 2.0) == (1, 0)

    chex.clear_trace_counter()

    # Once for each name and each dtype of bits, whatever the numbers.
    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=3)
    def traced(name, bits, snr):
        return noise.inject(Injector(name, bits=bits, snr=snr), latent, keys)

    for bits in (1, 2, 3, 4, 8):
        expected = noise.quantize(latent, bits)
        for kind in (jnp.int32, jnp.float32):
            np.testing.assert_allclose(traced('quantize', kind(bits), 0.0), expected, atol=1e-7)
    for snr in (-20.0, 7.38):
        np.testing.assert_allclose(
            traced('gaussian', 2, snr), gaussian(latent, keys, snr), rtol=1e-4, atol=1e-6
        )


def test_ste_clip_and_norm_reach_the_functions():
    latent = np.float32([[[[3.0]]]])
    for clip, slope in ((False, 1), (True, 0)):
        injector = Injector('quantize', ste_clip=clip)
        assert jax.grad(lambda x: noise.inject(injector, x, None).sum())(latent) == slope  # noqa: B023


def test_labels():
    injectors = (
        *INJECTORS[:4],
        Injector('gaussian'),
        Injector('gaussian', snr=-20.0),
        Injector('quantize'),
    )
    assert [noise.label(i) for i in injectors] == [
        'none',
        'max_only',
        'quantize_3bit',
        'gaussian_10dB',
        'gaussian_7.38dB',
        'gaussian_-20dB',
        'quantize_2bit',
    ]


def test_parse():
    assert noise.parse('none', 'here') == Injector('none')
    assert noise.parse('max_only', 'here') == Injector('max_only')
    assert noise.parse('quantize:4', 'here') == Injector('quantize', bits=4)
    assert noise.parse('gaussian:-0.55', 'here') == Injector('gaussian', snr=-0.55)
    shared = dict(bits=3, snr=1.0, snr_norm='eq13_literal', ste_clip=True)
    assert noise.parse('gaussian:21.02', 'here', **shared) == Injector(
        'gaussian', **{**shared, 'snr': 21.02}
    )
    assert noise.parse('quantize', 'here', **shared) == Injector('quantize', **shared)


@pytest.mark.parametrize(
    'text, message',
    [
        ('quantise:2', "did you mean 'quantize'"),
        ('', 'one of gaussian, max_only, none, quantize'),
        ('quantize:2.5', "as in 'quantize:2'"),
        ('quantize:', "as in 'quantize:2'"),
        ('quantize:0', 'from 1 to 16'),
        ('quantize:17', 'from 1 to 16'),
        ('gaussian:loud', "as in 'gaussian:7.38'"),
        ('gaussian:inf', "'none' injects no noise"),
        ('gaussian:nan', 'a finite number of dB'),
        ('none:3', "'none' alone"),
        ('max_only:1', "'max_only' alone"),
    ],
)
def test_texts_that_are_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        noise.parse(text, 'config.noise')
    assert error.value.where.startswith('config.noise')


@pytest.mark.parametrize(
    'injector, message',
    [
        (Injector('gausian'), "did you mean 'gaussian'"),
        (Injector('none', bits=0), 'from 1 to 16'),
        (Injector('quantize', bits=2.0), 'a whole number'),
        (Injector('gaussian', snr=float('-inf')), 'a finite number of dB'),
        (Injector('gaussian', snr_norm='eq13'), 'eq13_literal'),
    ],
)
def test_injectors_that_are_refused(injector, message):
    with pytest.raises(InputError, match=message):
        noise.check_injector(injector, 'config.noise')


def test_functions_refuse_unknown_names_themselves():
    with pytest.raises(InputError, match='eq11_consistent'):
        noise.gaussian(uniform(1, 2, 2, 3), keys_of(0), 1.0, 'eq11')
    with pytest.raises(InputError, match="did you mean 'max_only'"):
        noise.inject(Injector('maxonly'), uniform(1, 2, 2, 3), keys_of(0))
