"""Randomness as a function of (seed, stage, stream name, step, device): no key lives in a state, a resumed run replays
the same numbers, and adding a stream changes no other."""

import zlib
from collections.abc import Iterable

import jax


def named(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of a name, for example of a net in `Stage.init`."""
    # crc32 rather than hash(): the latter changes from process to process.
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def root(seed: int, *names: str) -> jax.Array:
    """The key of a stage (or of any purpose): `root(0, 'segmentation', 'train')`."""
    key = jax.random.key(seed)
    for name in names:
        key = named(key, name)
    return key


def derived_seed(seed: int, name: str) -> int:
    """Another seed for what is not drawn by JAX: the order of a further input, for instance."""
    return zlib.crc32(f'{seed}/{name}'.encode()) >> 1


def streams(root_key: jax.Array, names: Iterable[str], step, device) -> dict[str, jax.Array]:
    """One key per stream name for this step on this device.

    Args:
      root_key: from `root`.
      names: stream names that say what they are for: 'params', 'dropout', 'noise', 'latent', 'codes', 'pool'.
      step: int scalar, may be traced.
      device: int scalar, may be traced (`parallel.device_index()`).
    """
    here = jax.random.fold_in(jax.random.fold_in(root_key, step), device)
    return {name: named(here, name) for name in names}
