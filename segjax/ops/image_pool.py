"""A pool of earlier generated images, on which a discriminator is trained.

Shrivastava et al. 2017 (learning from simulated images), with the rule of the CycleGAN release (Zhu
et al. 2017). A discriminator that also sees old fakes does not forget them.
"""

import jax
import jax.numpy as jnp

from segjax.errors import InputError


def init(size: int, image_shape: tuple[int, ...], dtype=jnp.float32) -> dict:
    """Returns an empty pool.

    Args:
      size: number of images that the pool holds. 0 switches the pool off.
      image_shape: (H, W, C).
      dtype: of the stored images.

    Returns:
      {'images': [size, H, W, C], 'count': int32 number of stored images}. {} for size 0, because a
      checkpoint cannot hold an empty array.
    """
    if size < 0:
        raise InputError(
            'image pool: size', got=str(size), expected='0 or more, where 0 switches the pool off'
        )
    if size == 0:
        return {}
    return {'images': jnp.zeros((size, *image_shape), dtype), 'count': jnp.int32(0)}


def query(pool: dict, images, key) -> tuple[jax.Array, dict]:
    """Exchanges images with the pool, in the order of the batch.

    While the pool has free slots, it stores each image and returns the same image. A full pool
    tosses a coin for each image. Either it returns the image and does not store it. Or it samples a
    stored image uniformly, returns it, and stores the new image in its slot.

    The result depends on the order of the images. If a batch is distributed over devices, give
    every device all images and the same key. Then the pools stay equal.

    Args:
      pool: from `init` or `query`.
      images: [B, H, W, C].
      key: a single key.

    Returns:
      (images [B, H, W, C] in their own dtype, pool).
    """
    if not pool:
        return images, pool
    stored = pool['images']
    batch = images.shape[0]
    size = stored.shape[0]
    if images.shape[1:] != stored.shape[1:]:
        raise InputError(
            'image pool',
            got=f'images of shape {images.shape[1:]}',
            expected=f'{stored.shape[1:]}, the shape for which the pool was made',
        )
    numbers = size + jnp.arange(batch)
    holds, returned, count = _exchange_numbers(size, pool['count'], numbers, key)

    # Look the returned images up.
    from_batch = images[jnp.maximum(returned - size, 0)]
    from_pool = stored[jnp.minimum(returned, size - 1)].astype(images.dtype)
    is_old = (returned < size).reshape(batch, *[1] * (images.ndim - 1))

    # Store each row in its final slot. A row that is not stored gets slot `size`, which does not
    # exist, and is dropped.
    kept = holds == numbers[:, None]  # [B, size]
    slots = jnp.where(kept.any(1), kept.argmax(1), size)
    pool = {
        'images': stored.at[slots].set(images.astype(stored.dtype), mode='drop'),
        'count': count,
    }
    return jnp.where(is_old, from_pool, from_batch), pool


def _exchange_numbers(size: int, count, numbers, key):
    """Decides which image goes where, in numbers that stand for images.

    Numbers 0 .. size-1 are the images of the pool, size + i is row i of the batch. Carrying the
    images themselves through the scan would copy the whole pool for each row.

    Args:
      size: slots of the pool.
      count: number of stored images.
      numbers: [B] numbers of the rows.
      key: a single key.

    Returns:
      (holds [size], the number in each slot, returned [B], the number returned for each row,
      count).
    """

    def decide(carry, row):
        holds, count = carry
        number, key = row
        coin, place = jax.random.split(key)
        full = count == size
        swap = full & (jax.random.uniform(coin) > 0.5)
        slot = jnp.where(full, jax.random.randint(place, (), 0, size), count)
        returned = jnp.where(swap, holds[slot], number)
        holds = holds.at[slot].set(jnp.where(swap | ~full, number, holds[slot]))
        return (holds, jnp.minimum(count + 1, size)), returned

    rows = (numbers, jax.random.split(key, len(numbers)))
    (holds, count), returned = jax.lax.scan(decide, (jnp.arange(size), count), rows)
    return holds, returned, count
