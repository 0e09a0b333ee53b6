"""Patches of posteriors and labels that an attack net on membership reads, and their fusion.

The attack net A reads the posteriors that a segmentation net returns for an image, and its label.
It sees patches, because segmentation nets are trained on patches. The verdicts on several patches
of an image are fused to the score of the image.

    planes = attack_planes(*thinned(posteriors, label, 8), 'posteriors')    # [B, h, w, 2 C]
    places = random_places(keys, grid_size(size, 8), (90, 90), number=10)
    logits = A(cut(planes, places.corners, (90, 90)))                       # [B, P, 2]
    scores = fused(logits, places.weight, 'mean_probability')               # [B]

Class 1 of the attack net is 'member'.

Sources: He, Rahimian, Schiele, Fritz: Segmentations-Leak, ECCV 2020, and its released code. He,
thesis, chapter 7.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.metrics.membership_signals import pixel_signals
from segjax.ops import windows
from segjax.protocol import Array

READINGS = ('posteriors', 'loss')
"""Inputs of the attack net, see `attack_planes`."""
FUSIONS = ('mean_probability', 'sum_logits')
"""Scores of an image from its patches, see `fused`."""
MEMBER = 1
"""Class of members."""
NUM_CLASSES = 2
"""Classes of the attack net."""


class Places(NamedTuple):
    """The patches of a batch of images.

    corners  [B, P, 2] int32: first row and first column of each patch
    weight   [B, P] float32: 1 for a patch, 0 for a place without a patch
    """

    corners: Array
    weight: Array


# --- planes ---------------------------------------------------------------------------------------


def thinned(posteriors: Array, label: Array, stride: int) -> tuple[Array, Array]:
    """Returns every pixel (stride i, stride j): posteriors [B, h, w, C] and labels [B, h, w].

    A patch of 713 pixels has 90 such rows with a stride of 8.
    """
    return posteriors[:, ::stride, ::stride], label[:, ::stride, ::stride]


def grid_size(size: Array, stride: int) -> Array:
    """Returns the rows and columns of `thinned` inside the valid part of each image, [B, 2]."""
    return -(-size // stride)


def attack_planes(posteriors: Array, label: Array, reading: str) -> Array:
    """Returns the input of the attack net.

        posteriors: p_1 .. p_C, and the one-hot label     2 C planes
        loss:       -log p_y, 0 for an ignored pixel      1 plane

    Args:
      posteriors: [B, h, w, C].
      label: [B, h, w] train ids. Pixels without a class have no plane of a label.
      reading: a name of READINGS.

    Raises:
      InputError: an unknown reading.
    """
    if reading not in READINGS:
        raise unknown_name('attack_planes: reading', reading, READINGS)
    if reading == 'loss':
        return pixel_signals(posteriors, label)['loss'][..., None]
    posteriors = posteriors.astype(jnp.float32)
    one_hot = jax.nn.one_hot(label, posteriors.shape[-1])
    return jnp.concatenate([posteriors, one_hot], -1)


def inside(planes: Array, size: Array) -> Array:
    """Replaces planes [B, h, w, ...] outside of the first rows and columns by 0.

    Args:
      planes: of an image with padding.
      size: [B, 2] rows and columns without padding.
    """
    rows = jnp.arange(planes.shape[1])[:, None] < size[:, :1, None]
    columns = jnp.arange(planes.shape[2]) < size[:, 1:, None]
    valid = rows & columns  # [B, h, w]
    return jnp.where(valid.reshape(*valid.shape, *[1] * (planes.ndim - 3)), planes, 0)


# --- places of patches ----------------------------------------------------------------------------


def random_places(keys: Array, size: Array, patch: tuple[int, int], number: int) -> Places:
    """Draws places of patches, uniformly inside of each image.

    Args:
      keys: [B] keys.
      size: [B, 2] rows and columns of each image. Patches of a smaller image begin at its corner.
      patch: (rows, columns) of a patch.
      number: P.
    """
    room = jnp.maximum(size - jnp.asarray(patch), 0)  # [B, 2]

    def draw(key: Array, room: Array) -> Array:
        return jax.random.randint(key, (number, 2), 0, room + 1)

    corners = jax.vmap(draw)(keys, room)
    return Places(corners, jnp.ones(corners.shape[:2], jnp.float32))


def sliding_places(
    size: Array, canvas: tuple[int, int], patch: tuple[int, int], overlap: float
) -> Places:
    """Returns the places of sliding patches that cover each image.

    Args:
      size: [B, 2] rows and columns of each image.
      canvas: rows and columns of the largest image.
      patch: (rows, columns) of a patch.
      overlap: smallest share of a patch in common with the next patch.
    """
    rows = windows.cut_axis(size[:, 0], canvas[0], patch[0], overlap)
    columns = windows.cut_axis(size[:, 1], canvas[1], patch[1], overlap)

    # Windows that an image does not need have no weight at any pixel.
    has_row = rows.weights.sum(-1) > 0  # [B, N]
    has_column = columns.weights.sum(-1) > 0  # [B, M]
    shape = (*has_row.shape, has_column.shape[1])
    first_row = jnp.broadcast_to(rows.starts[:, :, None], shape)
    first_column = jnp.broadcast_to(columns.starts[:, None], shape)
    corners = jnp.stack([first_row, first_column], -1)  # [B, N, M, 2]
    weight = has_row[:, :, None] & has_column[:, None]
    batch = len(size)
    return Places(
        corners.reshape(batch, -1, 2).astype(jnp.int32),
        weight.reshape(batch, -1).astype(jnp.float32),
    )


def cut(planes: Array, corners: Array, patch: tuple[int, int]) -> Array:
    """Cuts patches out of planes.

    Args:
      planes: [B, h, w, C]. Planes that are smaller than a patch are filled up with 0.
      corners: [B, P, 2].
      patch: (rows, columns).

    Returns:
      [B, P, *patch, C].
    """
    missing = [max(side - length, 0) for side, length in zip(patch, planes.shape[1:3], strict=True)]
    planes = jnp.pad(planes, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))

    def of_image(planes: Array, corners: Array) -> Array:
        def at(corner: Array) -> Array:
            start = (corner[0], corner[1], 0)
            return jax.lax.dynamic_slice(planes, start, (*patch, planes.shape[-1]))

        return jax.vmap(at)(corners)

    return jax.vmap(of_image)(planes, corners)


def flipped(keys: Array, patches: Array) -> Array:
    """Mirrors half of the patches [B, P, h, w, C] by chance, left to right.

    Args:
      keys: [B] keys.
      patches: of B images.
    """
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, patches.shape[1:2]))(keys)
    return jnp.where(chosen[..., None, None, None], patches[..., ::-1, :], patches)


# --- verdicts -------------------------------------------------------------------------------------


def patch_scores(logits: Array) -> Array:
    """Returns the log-odds of 'member' of each patch: logits [..., 2] -> [...]."""
    return logits[..., MEMBER] - logits[..., 1 - MEMBER]


def fused(logits: Array, weight: Array, rule: str) -> Array:
    """Fuses the verdicts on the patches of each image.

        mean_probability: mean over the patches of P(member)             (thesis)
        sum_logits:       sum over the patches of the logit of 'member'  (released code)

    Args:
      logits: [B, P, 2].
      weight: [B, P], 1 for a patch.
      rule: a name of FUSIONS.

    Returns:
      [B], high for members.

    Raises:
      InputError: an unknown rule.
    """
    if rule not in FUSIONS:
        raise unknown_name('fusion of patches', rule, FUSIONS)
    if rule == 'sum_logits':
        return (weight * logits[..., MEMBER]).sum(-1)
    probability = jax.nn.softmax(logits)[..., MEMBER]
    return (weight * probability).sum(-1) / weight.sum(-1)
