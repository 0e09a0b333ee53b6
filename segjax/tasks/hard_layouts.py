"""Online hard negative mining of layouts: features are generated where the net is wrong.

A pool collects the label maps of training patches with their losses. Every `refresh` steps the
patches with the largest losses become the active layouts. The next steps draw their layouts from
these. Before the first refresh a step uses layouts of its own, which are random.

    pool = hard_layouts.empty(settings, size)                        # in init, in TrainState.extra
    labels = hard_layouts.draw(pool, key, index, fallback_labels)    # layouts of this step
    pool = hard_layouts.offer(pool, label, losses, weight, step, settings)

A pool is part of the state, so a resumed run draws the same layouts. It is equal on all devices.

Source: He, thesis Sec. 6.2.3 and Fig. 6.6. Numbers of candidates and steps are not published.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.protocol import Array, PRNGKey
from segjax.schema import Field, at_least, share_above_0

HARD_LAYOUTS = {
    'use': Field(True, 'Generate features of hard layouts. False draws all layouts at random.'),
    'candidates': Field(
        64, 'Number of the newest training patches among which layouts are ranked.', at_least(1)
    ),
    'share': Field(
        0.25, 'Share of the candidates, those with the largest losses, to draw from.', share_above_0
    ),
    'refresh': Field(50, 'Steps from a choice of hard layouts to the next choice.', at_least(1)),
}
"""Keys of the settings."""


def empty(settings: ml_collections.ConfigDict, size: tuple[int, int]) -> dict[str, Array]:
    """Returns a pool without layouts.

    Args:
      settings: of the keys HARD_LAYOUTS.
      size: (H, W) of the label maps.

    Returns:
      {} if mining is switched off, because a checkpoint cannot hold an empty array. Else

      candidates  [N, H, W] uint8 label maps, of which the newest N are kept
      losses      [N] float32, -inf in a free place
      offered     int32 number of candidates since the last refresh
      active      [n, H, W] uint8 hardest label maps of the last refresh
      num_active  int32 number of them, 0 before the first refresh

      64 candidates of 713x713 pixels and 16 active layouts take 41 MB.
    """
    if not settings.use:
        return {}
    num_active = int(_num_hardest(settings)[-1])
    return {
        'candidates': jnp.zeros((settings.candidates, *size), jnp.uint8),
        'losses': jnp.full(settings.candidates, -jnp.inf, jnp.float32),
        'offered': jnp.int32(0),
        'active': jnp.zeros((num_active, *size), jnp.uint8),
        'num_active': jnp.int32(0),
    }


def _num_hardest(settings: ml_collections.ConfigDict) -> np.ndarray:
    """Returns the number of active layouts for 0 .. N candidates, [N + 1] int32.

    It is the rounded share, and at least 1 of a candidate or more.
    """
    numbers = [max(1, round(settings.share * n)) for n in range(1, settings.candidates + 1)]
    return np.array([0, *numbers], np.int32)


# --- offering -------------------------------------------------------------------------------------


def offer(
    pool: dict[str, Array],
    labels: Array,
    losses: Array,
    weight: Array,
    step: Array,
    settings: ml_collections.ConfigDict,
) -> dict[str, Array]:
    """Adds the patches of a step, and chooses the active layouts anew after every `refresh` steps.

    It is called in a mapped step, once for each step, with the rows of a device. The rows of all
    devices enter the pool in the order of the global batch. The newest candidates replace the
    oldest, whose losses come from older parameters. A refresh empties the candidates. Of equal
    losses, the candidate in the lower place wins. A refresh without any candidate keeps the active
    layouts.

    Args:
      pool: from `empty` or `offer`.
      labels: [B, H, W] integer train ids of training patches, 255 ignored.
      losses: [B] loss of each patch. NaN ranks last.
      weight: [B]. Patches of weight 0 (padding) are not candidates.
      step: number of the step, from 0 on (`TrainState.step`).
      settings: of the keys HARD_LAYOUTS.

    Returns:
      The pool after the step.

    Raises:
      InputError: labels of another size than the pool.
    """
    if not pool:
        return pool
    _check_size(pool, labels)
    rows = [labels.astype(jnp.uint8), losses.astype(jnp.float32), weight > 0]
    pool = _insert(pool, *map(parallel.all_rows, rows))
    is_due = (step + 1) % settings.refresh == 0
    num_hardest = jnp.asarray(_num_hardest(settings))
    return jax.lax.cond(
        is_due & (pool['offered'] > 0),
        lambda pool: _refresh(pool, num_hardest),
        lambda pool: pool,
        pool,
    )


def _check_size(pool: dict[str, Array], labels: Array) -> None:
    """Raises InputError for labels of another size than the pool."""
    if labels.shape[1:] != pool['active'].shape[1:]:
        raise InputError(
            'hard layouts',
            got=f'labels of shape {labels.shape[1:]}',
            expected=f'{pool["active"].shape[1:]}, the size for which the pool was made',
        )


def _insert(
    pool: dict[str, Array], labels: Array, losses: Array, counts: Array
) -> dict[str, Array]:
    """Writes the rows that count into the places of the oldest candidates, in their order."""
    num_places = len(pool['losses'])
    number = pool['offered'] + jnp.cumsum(counts) - 1  # of each row, among all offered
    offered = pool['offered'] + counts.sum(dtype=jnp.int32)

    # A row that does not count, or that later rows of this batch replace, gets a place that does
    # not exist, and is dropped.
    is_kept = counts & (number >= offered - num_places)
    place = jnp.where(is_kept, number % num_places, num_places)
    losses = jnp.where(jnp.isnan(losses), -jnp.inf, losses)
    return {
        **pool,
        'candidates': pool['candidates'].at[place].set(labels, mode='drop'),
        'losses': pool['losses'].at[place].set(losses, mode='drop'),
        'offered': offered,
    }


def _refresh(pool: dict[str, Array], num_hardest: Array) -> dict[str, Array]:
    """Makes the hardest candidates active, and empties the candidates.

    Args:
      pool: with at least one candidate.
      num_hardest: [N + 1] number of active layouts for a number of candidates.
    """
    num_places = len(pool['losses'])
    num_candidates = jnp.minimum(pool['offered'], num_places)
    # Candidates fill the first places, so that a NaN still ranks before a free place.
    _, places = jax.lax.top_k(pool['losses'], len(pool['active']))
    return {
        **pool,
        'losses': jnp.full_like(pool['losses'], -jnp.inf),
        'offered': jnp.int32(0),
        'active': pool['candidates'][places],
        'num_active': num_hardest[num_candidates],
    }


# --- drawing --------------------------------------------------------------------------------------


def draw(pool: dict[str, Array], key: PRNGKey, index: Array, fallback_labels: Array) -> Array:
    """Draws a layout for each example uniformly from the active layouts.

    Args:
      pool: from `empty` or `offer`.
      key: of a stream of `Stage.shared_streams`. Draws depend on key and index alone.
      index: [B] batch['index'] of the examples.
      fallback_labels: [B, H, W] layouts while no layout is active, and without mining.

    Returns:
      [B, H, W] in the dtype of `fallback_labels`.
    """
    if not pool:
        return fallback_labels
    keys = rng.of_examples(key, index)
    num_active = pool['num_active']

    def draw_place(key: PRNGKey) -> Array:
        return jax.random.randint(key, (), 0, jnp.maximum(num_active, 1))

    drawn = pool['active'][jax.vmap(draw_place)(keys)]
    return jnp.where(num_active > 0, drawn.astype(fallback_labels.dtype), fallback_labels)
