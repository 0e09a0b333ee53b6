"""Maps of surface normals: unit vectors towards the camera, 0 where no normal is known."""

import jax.numpy as jnp


def is_measured(normals):
    """Returns the pixels [...] bool of normals [..., 3] that have a true normal."""
    return (normals != 0).any(-1)


def normalised(vectors):
    """Returns vectors [..., 3] divided by their length, with a finite gradient at 0."""
    return vectors / jnp.sqrt((vectors**2).sum(-1, keepdims=True) + 1e-12)


def paint(normals):
    """Paints normals [..., 3] as 255 (n + 1) / 2 in uint8, and black where there are none."""
    colors = jnp.round(255 * (jnp.clip(normals, -1, 1) + 1) / 2)
    return jnp.where(is_measured(normals)[..., None], colors, 0).astype(jnp.uint8)
