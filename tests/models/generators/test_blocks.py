"""Parts of image-to-image nets: mirrored borders, norms, sizes."""

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.models.generators.blocks import check_size, make_norm, reflect


def test_reflect_mirrors_without_the_border():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1)
    y = np.asarray(reflect(x, 2))[0, :, :, 0]
    rows, columns = [2, 1, 0, 1, 2, 1, 0], [2, 1, 0, 1, 2, 3, 2, 1]
    np.testing.assert_array_equal(y, x[0, :, :, 0][np.ix_(rows, columns)])


def test_an_instance_norm_is_the_same_in_training():
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    results = [
        make_norm('instance', train, dtype=jnp.float32, axis_name=None)(name='norm')(x)
        for train in (True, False)
    ]
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(np.mean(results[0], (1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.std(results[0], (1, 2)), 1, rtol=1e-3)


def test_bad_input():
    with pytest.raises(InputError, match="did you mean 'instance'"):
        make_norm('instanc', True)
    check_size('net', np.zeros((1, 32, 48, 3)), 16)
    for size in ((40, 64), (16, 64), (64, 16)):
        with pytest.raises(InputError, match='multiples of 16, at least 32'):
            check_size('net', np.zeros((1, *size, 3)), 16)
