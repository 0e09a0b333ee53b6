"""The answers of a net that are audited: its posteriors, and its posteriors behind a defence."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from segjax.core import rng
from segjax.ops import posteriors as posteriors_lib
from segjax.protocol import Array

NONE = 'none'
"""The answer without a defence."""

STRENGTHS = (0.5, 1.0)
"""Variances of the Gaussian defence, those of the thesis."""

DEGREE = 4.0
"""Temperature of the defence that flattens posteriors."""

LARGEST = 3
"""Number of posteriors that the defence `top_k` keeps."""

SEED = 0
"""Of the secrets of the defences. Fixed secrets make an audit repeatable."""

VICTIM = 'victim'
"""Name of the secret of the audited net."""

Answer = Callable[[Array, Array], Array]
"""(posteriors [B, H, W, C], keys [B]) -> posteriors [B, H, W, C]."""


def answers(num_classes: int) -> dict[str, Answer]:
    """Returns the audited answers by name, the answer without a defence first.

    Args:
      num_classes: C. With few classes, `top_k` would keep all of them, and is left out.
    """
    table: dict[str, Answer] = {
        NONE: lambda posteriors, keys: posteriors,
        'argmax': lambda posteriors, keys: posteriors_lib.argmax(posteriors),
    }
    for strength in STRENGTHS:
        table[f'gaussian_{strength:g}'] = partial(posteriors_lib.gaussian, strength=strength)
    table[f'temperature_{DEGREE:g}'] = lambda posteriors, keys: posteriors_lib.temperature(
        posteriors, DEGREE
    )
    if num_classes > LARGEST:
        table[f'top_{LARGEST}'] = lambda posteriors, keys: posteriors_lib.top_k(posteriors, LARGEST)
    return table


def secret(name: str = VICTIM) -> jax.Array:
    """Returns the secret key of the defences of a net.

    An attacker does not know the secret of the victim. So his shadow nets have secrets of their
    own, and noise of their own on the same image.
    """
    return rng.root(SEED, 'audit', 'defences', name)


def key_of_digest(digest: bytes) -> jax.Array:
    """Returns the key of an image that is known by its posteriors alone.

    The same posteriors have the same key in any folder, under any name.

    Args:
      digest: at least 8 bytes of a hash of the posteriors.
    """
    first, second = np.frombuffer(digest[:8], np.uint32)
    return jax.random.fold_in(jax.random.fold_in(secret(), first), second)
