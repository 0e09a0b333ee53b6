"""Fractional factors as He's thesis draws them (Figs. 4.1 and 4.2), with numbers to check by hand.

A 3x3 kernel looks from the centre of a map at factor 2.5 and sees 15. A signal that wants more
moves the factor towards 2.7, a signal that wants less towards 2.3. Channels have own factors.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import dilated

RANGE = (1.0, 3.0)
# The distance |m| + |n| from the centre is linear between the pixels of a quadrant. Four taps
# read d, four read 2 d, the centre reads 0. With weights of 1/2 the output is 6 d.
ROWS, COLUMNS = np.mgrid[-3:4, -3:4]
DISTANCE = (np.abs(ROWS) + np.abs(COLUMNS)).astype(np.float32)
KERNEL = np.full((3, 3, 1, 1), 0.5, np.float32)


def seen(factor, forms='fast'):
    """Returns the output at the centre of the map."""
    x = jnp.asarray(DISTANCE)[None, :, :, None]
    return dilated.conv_dilated(x, KERNEL, jnp.reshape(factor, 1), RANGE, forms)[0, 3, 3, 0]


@pytest.mark.parametrize('forms', dilated.FORMS)
@pytest.mark.parametrize('factor, output', [(2.3, 13.8), (2.5, 15.0), (2.7, 16.2)])
def test_three_factors_see_three_outputs(factor, output, forms):
    np.testing.assert_allclose(seen(factor, forms), output, rtol=1e-6)


@pytest.mark.parametrize('forms', dilated.FORMS)
@pytest.mark.parametrize('wanted, factor', [(16.2, 2.7), (13.8, 2.3)])
def test_a_signal_moves_the_factor_to_the_output_that_it_wants(wanted, factor, forms):
    """Checks a step of Newton's method on (y - wanted)^2 / 2, which arrives because dy/dd is 6."""
    gradient = jax.grad(lambda d: (seen(d, forms) - wanted) ** 2 / 2)(2.5)
    np.testing.assert_allclose(gradient, 6 * (15 - wanted), rtol=1e-5)
    np.testing.assert_allclose(2.5 - gradient / 6**2, factor, rtol=1e-6)


def test_every_channel_has_its_own_factor():
    x = jnp.stack([jnp.asarray(DISTANCE), 10 * jnp.asarray(DISTANCE)], -1)[None]
    y = dilated.conv_dilated(x, np.repeat(KERNEL, 2, 2), jnp.array([2.3, 1.5]), RANGE)
    np.testing.assert_allclose(y[0, 3, 3, 0], 13.8 + 90, rtol=1e-6)
