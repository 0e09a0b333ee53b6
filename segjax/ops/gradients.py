"""Identities that change the gradient."""

import jax
import jax.numpy as jnp


def scale_gradient(x, factor):
    """x itself; the gradient that comes back through it is multiplied by `factor`.

    Where tasks share an encoder, each task's share of the encoder's gradient is set without changing the gradients of
    the task's own layers, as weights of the losses would. 0 stops the gradient, a negative factor turns it round.

    Args:
      x: an array, or a tree of arrays.
      factor: a number, or a scalar array; its own gradient is 0.

    Returns:
      x. Differentiable in reverse mode; forward mode (`jax.jvp`) raises.
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
