"""Edges of maps of ids."""

import jax.numpy as jnp


def instance_edges(ids, valid=None):
    """Marks the pixels that have a neighbour of another id.

        edge(p) = 1 if ids(q) != ids(p) for a pixel q above, below, left or right of p, else 0

    Both pixels of such a pair are marked. Pixels outside the image are no neighbours. It is the
    boundary map that pix2pixHD adds to the label map (Wang et al., CVPR 2018, Sec. 3.3).

    Args:
      ids: [B, H, W] integers, e.g. the ids of instances.
      valid: [B, H, W] bool. Pairs of pixels count if both are valid. None: all pairs.

    Returns:
      [B, H, W] bool.
    """
    edge = jnp.zeros(ids.shape, bool)
    for axis in (1, 2):
        differs = jnp.diff(ids, axis=axis) != 0
        if valid is not None:
            differs &= _both(valid, axis)
        behind = [(0, 0)] * 3
        behind[axis] = (1, 0)
        before = [(0, 0)] * 3
        before[axis] = (0, 1)
        edge = edge | jnp.pad(differs, behind) | jnp.pad(differs, before)
    return edge


def _both(valid, axis: int):
    """Returns for each pair of neighbours along an axis of [B, H, W] whether both are valid."""
    length = valid.shape[axis]
    first = jnp.take(valid, jnp.arange(length - 1), axis)
    second = jnp.take(valid, jnp.arange(1, length), axis)
    return first & second
