"""Random keys as a function of (seed, stage, stream name, step, device).

No key is stored in a state. So a resumed run computes the same numbers again, and an additional
stream changes no existing stream.
"""

import zlib
from collections.abc import Iterable

import jax


def name_digest(name: str) -> int:
    """Returns 32 bits of a name, the same in every process. `named` folds with them."""
    # `hash` instead of crc32 would give other numbers in each process.
    return zlib.crc32(name.encode())


def named(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of a name, for example of a net in `Stage.init`."""
    return jax.random.fold_in(key, name_digest(name))


def root(seed: int, *names: str) -> jax.Array:
    """Returns the key of a stage, or of any purpose: `root(0, 'segmentation', 'train')`."""
    key = jax.random.key(seed)
    for name in names:
        key = named(key, name)
    return key


def derived_seed(seed: int, name: str) -> int:
    """Returns a seed for random numbers outside JAX, such as the order of an additional input."""
    return zlib.crc32(f'{seed}/{name}'.encode()) >> 1


def streams_of_rows(
    root_key: jax.Array, names: Iterable[str], digests: jax.Array
) -> dict[str, jax.Array]:
    """Returns a key per stream name and row. The keys of a row depend on its digest alone.

    Args:
      root_key: from `root`.
      names: purposes of the streams.
      digests: [B] uint32, for example `name_digest` of the name of each example.

    Returns:
      {name: [B] keys}.
    """
    fold_rows = jax.vmap(jax.random.fold_in, (None, 0))
    return {name: fold_rows(named(root_key, name), digests) for name in names}


def of_examples(key: jax.Array, index: jax.Array) -> jax.Array:
    """Returns a key for each example [B] that does not depend on its row, device or micro-batch.

    Args:
      key: of a stream of `Stage.shared_streams`.
      index: [B] positions of the examples in their split, batch['index'].
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def streams(
    root_key: jax.Array,
    names: Iterable[str],
    step: jax.typing.ArrayLike,
    device: jax.typing.ArrayLike,
) -> dict[str, jax.Array]:
    """Returns a key per stream name for a step on a device.

    Args:
      root_key: from `root`.
      names: purposes of the streams: 'params', 'dropout', 'noise', 'latent', 'codes', 'pool'.
      step: int scalar, may be traced.
      device: int scalar, may be traced (`parallel.device_index()`).
    """
    step_key = jax.random.fold_in(root_key, step)
    device_key = jax.random.fold_in(step_key, device)
    return {name: named(device_key, name) for name in names}
