"""Functions with a gradient of their own.

They return simple values, such as their argument or its absolute value. Their gradient differs from
the gradient that JAX would derive.
"""

import jax
import jax.numpy as jnp


def absolute(x):
    """Returns |x|, with derivative 0 at 0.

    `jnp.abs` has derivative 1 at 0, which would push predictions that are exactly right.
    """
    return x * jax.lax.stop_gradient(jnp.sign(x))


# `x + stop_gradient(value - x)` has the same gradient, but may differ from `value` by rounding.
@jax.custom_jvp
def straight_through(x, value):
    """Returns `value` unchanged, with the gradient of `x`.

    Args:
      x: floating point, the array that gets the gradient.
      value: shape and dtype of x, for instance x rounded or clipped. It gets no gradient.
    """
    return value


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def scale_gradient(x, factor):
    """Returns `x` unchanged, and multiplies the gradient that comes back through it by `factor`.

    Where tasks share an encoder, the factor sets each task's share of the encoder's gradient.
    Weights of the losses would also change the gradients of each task's own layers. A factor of 0
    stops the gradient. A negative factor reverses the gradient.

    Args:
      x: an array, or a tree of arrays.
      factor: a number, or a scalar array. Its own gradient is 0.

    Returns:
      x. Differentiable in reverse mode. Forward mode (`jax.jvp`) raises.
    """
    return _scale_gradient(x, jnp.asarray(factor, jnp.float32))


@jax.custom_vjp
def _scale_gradient(x, factor):
    return x


def _forward(x, factor):
    return x, factor


def _backward(factor, gradient):
    scaled = jax.tree.map(lambda g: g * factor.astype(g.dtype), gradient)
    return scaled, jnp.zeros_like(factor)


_scale_gradient.defvjp(_forward, _backward)
