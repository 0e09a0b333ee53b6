"""Defences against loops in NumPy, their special cases, and the keys of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.ops import posteriors

RNG = np.random.default_rng(0)
B, H, W, C = 2, 3, 4, 5
LOGITS = RNG.normal(0, 2, (2, B, H, W, C)).astype(np.float32)
REAL, SYNTHETIC = np.asarray(jax.nn.softmax(LOGITS))
KEYS = jax.random.split(jax.random.key(0), B)
IMAGES = RNG.integers(0, 256, (4, 6, 7, 3), np.uint8)
KEY = jax.random.key(1)

DEFENCES = {
    'argmax': posteriors.argmax,
    'gaussian': lambda p: posteriors.gaussian(p, KEYS, 0.5),
    'gaussian_all': lambda p: posteriors.gaussian(p, KEYS, 0.5, 'all_classes'),
    'temperature': lambda p: posteriors.temperature(p, 3.0),
    'top_k': lambda p: posteriors.top_k(p, 2),
    'obfuscate': lambda p: posteriors.obfuscate(p, SYNTHETIC, 0.75),
}


@pytest.mark.parametrize('name', DEFENCES)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_defence_returns_posteriors(name, dtype):
    got = jax.jit(DEFENCES[name])(jnp.asarray(REAL, dtype))
    assert got.shape == REAL.shape and got.dtype == jnp.float32
    assert (got >= 0).all()
    tolerance = 1e-6 if dtype == jnp.float32 else 4e-3
    np.testing.assert_allclose(got.sum(-1), 1, atol=tolerance)


def test_argmax_keeps_the_label_alone_and_is_idempotent():
    once = posteriors.argmax(REAL)
    for place in np.ndindex(B, H, W):
        label = max(range(C), key=lambda c: REAL[place][c])
        np.testing.assert_array_equal(once[place], np.arange(C) == label)
    np.testing.assert_array_equal(posteriors.argmax(once), once)
    tied = jnp.full((1, 3), 1 / 3)
    np.testing.assert_array_equal(posteriors.argmax(tied), [[1, 0, 0]])


def noisy_by_a_loop(image, noise, floor):
    """Adds noise [H, W, C] to an image [H, W, C], bounds and divides, pixel by pixel."""
    result = np.zeros((H, W, C))
    for y, x in np.ndindex(H, W):
        bounded = [max(float(p) + n, floor) for p, n in zip(image[y, x], noise[y, x], strict=True)]
        result[y, x] = np.array(bounded) / sum(bounded)
    return result


def test_the_first_reading_of_gaussian_has_a_variance_on_the_predicted_label():
    got = posteriors.gaussian(REAL, KEYS, 0.5)
    for b in range(B):
        drawn = np.asarray(jax.random.normal(KEYS[b], (H, W, 1)), np.float64)
        is_label = np.eye(C)[REAL[b].argmax(-1)]
        expected = noisy_by_a_loop(REAL[b], np.sqrt(0.5) * drawn * is_label, 1e-4)
        np.testing.assert_allclose(got[b], expected, rtol=1e-4)


def test_the_second_reading_of_gaussian_has_a_deviation_on_all_classes():
    got = posteriors.gaussian(REAL, KEYS, 0.5, 'all_classes')
    for b in range(B):
        drawn = np.asarray(jax.random.normal(KEYS[b], (H, W, C)), np.float64)
        expected = noisy_by_a_loop(REAL[b], 0.5 * drawn, 1e-6)
        np.testing.assert_allclose(got[b], expected, rtol=1e-4)


def test_the_noise_has_the_printed_variance():
    """Below the floor nothing is lost if the label is far from it."""
    sure = np.zeros((1, 60, 60, C), np.float32)
    sure[..., 2] = 1
    small = 0.01
    keys = KEYS[:1]
    by_variance = posteriors.gaussian(sure, keys, small)
    # The further posteriors are the floor: p_2 = (1 + n) / (1 + n + 4 floor).
    noise = 4e-4 * by_variance[..., 2] / (1 - by_variance[..., 2]) - 1
    assert float(noise.var()) == pytest.approx(small, rel=0.1)
    assert abs(float(noise.mean())) < 0.01


@pytest.mark.parametrize('reading', posteriors.READINGS)
def test_noise_of_an_image_depends_on_its_key_alone(reading):
    together = posteriors.gaussian(REAL, KEYS, 0.5, reading)
    alone = posteriors.gaussian(REAL[1:], KEYS[1:], 0.5, reading)
    np.testing.assert_array_equal(together[1:], alone)
    swapped = posteriors.gaussian(REAL, KEYS[::-1], 0.5, reading)
    assert (np.asarray(swapped) != np.asarray(together)).any((1, 2, 3)).all()


@pytest.mark.parametrize('reading', posteriors.READINGS)
def test_noise_of_strength_0_bounds_alone(reading):
    got = posteriors.gaussian(REAL, KEYS, 0.0, reading)
    np.testing.assert_allclose(got, REAL, atol=5 * posteriors.READINGS[reading])


def test_a_temperature_divides_the_logits():
    for degree in (0.5, 1.0, 4.0):
        expected = np.exp(LOGITS[0].astype(np.float64) / degree)
        expected /= expected.sum(-1, keepdims=True)
        np.testing.assert_allclose(
            posteriors.temperature(REAL, degree), expected, rtol=1e-4, atol=1e-7
        )
    flat = posteriors.temperature(posteriors.argmax(REAL), 1e6)
    np.testing.assert_allclose(flat, 1 / C, rtol=1e-3)
    traced = jax.jit(posteriors.temperature)(REAL, 4.0)
    np.testing.assert_allclose(traced, posteriors.temperature(REAL, 4.0), rtol=1e-6)


def test_the_k_largest_posteriors_are_kept():
    for k in range(1, C + 1):
        got = posteriors.top_k(REAL, k)
        for place in np.ndindex(B, H, W):
            pixel = REAL[place].astype(np.float64)
            kept = sorted(range(C), key=lambda c: -pixel[c])[:k]
            expected = [pixel[c] / pixel[kept].sum() if c in kept else 0 for c in range(C)]
            np.testing.assert_allclose(got[place], expected, rtol=1e-5)
    np.testing.assert_allclose(posteriors.top_k(REAL, 1), posteriors.argmax(REAL))
    np.testing.assert_allclose(posteriors.top_k(REAL, C), REAL, rtol=1e-5)


@pytest.mark.parametrize('factor', [0.0, 0.75, 1.0])
def test_obfuscation_is_eq_7_1(factor):
    got = np.asarray(posteriors.obfuscate(REAL, SYNTHETIC, factor))
    masks = []
    for place in np.ndindex(B, H, W):
        real, synthetic = REAL[place], SYNTHETIC[place]
        mask = int(real.argmax() != synthetic.argmax())
        mixed = (1 - factor) * real + factor * synthetic
        np.testing.assert_allclose(got[place], mask * mixed + (1 - mask) * synthetic, rtol=1e-6)
        masks.append(mask)
    assert 0 < sum(masks) < len(masks)


def test_the_ends_of_the_factor():
    """0 keeps the labels of the real features, 1 is the synthetic prediction."""
    lowest = np.asarray(posteriors.obfuscate(REAL, SYNTHETIC, 0.0))
    np.testing.assert_array_equal(lowest.argmax(-1), REAL.argmax(-1))
    agree = REAL.argmax(-1) == SYNTHETIC.argmax(-1)
    np.testing.assert_array_equal(lowest[agree], SYNTHETIC[agree])
    np.testing.assert_array_equal(lowest[~agree], REAL[~agree])
    highest = posteriors.obfuscate(REAL, SYNTHETIC, 1.0)
    np.testing.assert_allclose(highest, SYNTHETIC, rtol=1e-6)
    np.testing.assert_allclose(posteriors.obfuscate(REAL, REAL, 0.5), REAL, rtol=1e-6)


# --- keys of images -------------------------------------------------------------------------------


def mixed(x):
    """The finaliser of MurmurHash3 in Python's integers."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def hash_by_a_loop(image, salt):
    height, width, _ = image.shape
    total = 0
    for row, column in np.ndindex(height, width):
        red, green, blue = map(int, image[row, column])
        place = mixed((row * 2**16 + column + mixed(salt)) % 2**32)
        total += mixed(place ^ (red * 2**16 + green * 2**8 + blue))
    return mixed((height * 2**16 + width + total) % 2**32)


def test_the_hash_is_the_loop():
    for salt in (1, 2):
        got = jax.jit(posteriors.image_hash, static_argnums=(1, 2))(IMAGES, None, salt)
        assert got.dtype == jnp.uint32
        assert got.tolist() == [hash_by_a_loop(image, salt) for image in IMAGES]


def data_of(keys):
    return np.asarray(jax.random.key_data(keys))


def test_a_repeated_query_has_the_same_key_in_any_batch():
    keys = data_of(posteriors.image_keys(KEY, jnp.asarray(IMAGES)))
    again = data_of(posteriors.image_keys(KEY, jnp.asarray(IMAGES[[2, 0]])))
    np.testing.assert_array_equal(again, keys[[2, 0]])
    other_secret = data_of(posteriors.image_keys(jax.random.key(2), jnp.asarray(IMAGES)))
    assert (other_secret != keys).any(-1).all()


def test_a_pixel_a_swap_and_a_shift_change_the_key():
    image = IMAGES[0]
    variants = [image, image[::-1], image[:, ::-1], image[..., ::-1], np.roll(image, 1, 1)]
    for row, column, channel in ((0, 0, 0), (5, 6, 2), (3, 2, 1)):
        changed = image.copy()
        changed[row, column, channel] ^= 1
        variants.append(changed)
    variants += [np.full_like(image, value) for value in (0, 1, 255)]
    keys = data_of(posteriors.image_keys(KEY, jnp.asarray(np.stack(variants))))
    assert len(np.unique(keys, axis=0)) == len(variants)


def test_bits_of_hashes_are_even_and_two_salts_are_independent():
    """Images that differ in a single number have hashes like random numbers."""
    images = np.zeros((1024, 2, 2, 3), np.uint8)
    images[:, 0, 0, 2] = np.arange(1024) % 256
    images[:, 1, 1, 0] = np.arange(1024) // 256
    hashes = [np.asarray(posteriors.image_hash(jnp.asarray(images), None, s)) for s in (1, 2)]
    bits = [(values[:, None] >> np.arange(32, dtype=np.uint32)) & 1 for values in hashes]
    assert all(len(np.unique(values)) == 1024 for values in hashes)
    for of_salt in bits:
        assert np.abs(of_salt.mean(0) - 0.5).max() < 0.08, 'five standard deviations'
    assert abs((bits[0] == bits[1]).mean() - 0.5) < 0.02


def test_padding_does_not_change_the_key_but_the_size_does():
    padded = np.full((4, 9, 8, 3), 77, np.uint8)
    padded[:, :6, :7] = IMAGES
    size = jnp.array([[6, 7]] * 4)
    keys = data_of(posteriors.image_keys(KEY, jnp.asarray(IMAGES)))
    with_padding = data_of(posteriors.image_keys(KEY, jnp.asarray(padded), size))
    np.testing.assert_array_equal(with_padding, keys)
    whole = data_of(posteriors.image_keys(KEY, jnp.asarray(padded)))
    assert (whole != keys).any(-1).all()


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: posteriors.gaussian(REAL, KEYS, 0.5, 'labels'), 'reading'),
        (lambda: posteriors.gaussian(REAL, KEYS, -0.5), 'strength'),
        (lambda: posteriors.temperature(REAL, 0.0), 'degree'),
        (lambda: posteriors.top_k(REAL, 0), 'k = 0'),
        (lambda: posteriors.top_k(REAL, C + 1), 'k = 6'),
        (lambda: posteriors.obfuscate(REAL, SYNTHETIC, 1.5), 'factor'),
        (lambda: posteriors.obfuscate(REAL, SYNTHETIC[:1], 0.5), 'equal shape'),
        (lambda: posteriors.image_keys(KEY, jnp.zeros((1, 2, 2, 3))), 'uint8'),
        (lambda: posteriors.image_keys(KEY, jnp.zeros((1, 2, 2, 1), jnp.uint8)), 'uint8'),
        (lambda: posteriors.image_keys('secret', jnp.asarray(IMAGES)), "got: *'secret'"),
        (lambda: posteriors.image_keys(KEYS, jnp.asarray(IMAGES)), 'a single key'),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_seed_is_no_key_and_the_fix_makes_it_a_key():
    with pytest.raises(InputError, match='image_keys: key') as error:
        posteriors.image_keys(7, jnp.asarray(IMAGES))
    key = eval(error.value.fix, {'jax': jax})
    assert posteriors.image_keys(key, jnp.asarray(IMAGES)).shape == (len(IMAGES),)
