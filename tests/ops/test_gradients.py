"""Identities that change the gradient, against finite differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.gradients import absolute, scale_gradient, straight_through

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def test_absolute_has_no_slope_at_zero():
    x = np.float32([-2, -0.5, 0, 0.25, 3])
    np.testing.assert_array_equal(absolute(x), np.abs(x))
    gradient = jax.grad(lambda x: absolute(x).sum())
    np.testing.assert_array_equal(gradient(x), [-1, -1, 0, 1, 1])
    np.testing.assert_array_equal(jax.jit(gradient)(x), gradient(x))


def test_straight_through_has_the_bits_of_the_value_and_the_gradient_of_the_argument():
    # Here x + (value - x) would round to another number.
    x = np.float32([1e8, 0.1, -3])
    value = np.float32([0.3, 1 / 3, 1e-7])
    assert (x + (value - x) != value).any()
    result, vjp = jax.vjp(straight_through, x, value)
    np.testing.assert_array_equal(result, value)
    cotangent = np.float32([2, -1, 5])
    chex.assert_trees_all_equal(vjp(cotangent), (cotangent, np.zeros_like(value)))


def test_the_value_is_untouched():
    tree = {'a': X, 'b': [jnp.asarray(X, jnp.bfloat16)]}
    same = scale_gradient(tree, 0.1)
    chex.assert_trees_all_equal(same, tree, strict=True)


def test_two_tasks_on_shared_features_pull_with_their_factors():
    def shared(x):
        return np.tanh(x) * x

    tasks = (lambda y: (y**3).sum(), lambda y: (1 / (1 + y**2)).sum())

    def loss(x, factors):
        y = jnp.tanh(x) * x
        return sum(
            task(scale_gradient(y, factor)) for task, factor in zip(tasks, factors, strict=True)
        )

    expected = np.zeros((2, *X.shape))
    for index in np.ndindex(*X.shape):
        step = np.zeros(X.shape)
        step[index] = 1e-4
        for i, task in enumerate(tasks):
            expected[(i, *index)] = (task(shared(X + step)) - task(shared(X - step))) / 2e-4
    gradient = jax.jit(jax.grad(loss))
    for factors in ((0.9, 0.1), (1.0, 1.0), (0.0, 2.0), (-1.0, 0.5)):  # numbers or, as here, traced
        mixed = factors[0] * expected[0] + factors[1] * expected[1]
        np.testing.assert_allclose(gradient(X, factors), mixed, rtol=1e-3, atol=1e-4)


def test_a_factor_is_a_number_or_an_array_without_a_gradient_of_its_own():
    def loss(x, factor):
        return (scale_gradient(x, factor) ** 2).sum()

    np.testing.assert_array_equal(jax.grad(loss)(X, 3), 6 * X)
    assert jax.grad(loss, 1)(X, jnp.float32(3)) == 0


def test_gradients_keep_the_dtype_of_what_they_belong_to():
    gradient = jax.grad(lambda x: scale_gradient(x, 0.3).astype(jnp.float32).sum())(
        jnp.asarray(X, jnp.bfloat16)
    )
    chex.assert_type(gradient, jnp.bfloat16)
    np.testing.assert_allclose(np.float32(gradient), 0.3, rtol=2**-8)


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match='forward'):
        jax.jvp(lambda x: scale_gradient(x, 0.5), (X,), (X,))
