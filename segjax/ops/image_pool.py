"""A pool of images that a generator made earlier, for the discriminator to be trained on.

Shrivastava et al. 2017 (learning from simulated images), with the rule of the CycleGAN release (Zhu et al. 2017): a
discriminator that sees old fakes as well does not forget them.
"""

import jax
import jax.numpy as jnp

from segjax.errors import InputError


def init(size: int, image_shape: tuple[int, ...], dtype=jnp.float32) -> dict:
    """An empty pool.

    Args:
      size: places for images; 0 switches the pool off.
      image_shape: (H, W, C).
      dtype: images are kept in.

    Returns:
      {'images': [size, H, W, C], 'count': int32 places taken}; {} for size 0, since no checkpoint takes an empty array.
    """
    if size < 0:
        raise InputError(
            'image pool: size', got=str(size), expected='at least 0; 0 switches the pool off'
        )
    if size == 0:
        return {}
    return {'images': jnp.zeros((size, *image_shape), dtype), 'count': jnp.int32(0)}


def query(pool: dict, images, key) -> tuple[jax.Array, dict]:
    """Gives images to the pool and gets as many back, one after the other.

    While places are free, an image takes the next one and is given back itself. Once all are taken, a coin is tossed
    for each image: it is given back itself and not kept, or it changes places with one of the pool, drawn uniformly.

    The result depends on the order of the images. Where a batch is dealt out over devices, give every device all
    images and the same key, and the pools stay equal.

    Args:
      pool: from `init` or `query`.
      images: [B, H, W, C].
      key: one key.

    Returns:
      (images [B, H, W, C] in the dtype they came in, pool).
    """
    if not pool:
        return images, pool
    stored, batch = pool['images'], images.shape[0]
    size = stored.shape[0]
    if images.shape[1:] != stored.shape[1:]:
        raise InputError(
            'image pool',
            got=f'images of shape {images.shape[1:]}',
            expected=f'{stored.shape[1:]}, as the pool was made for',
        )

    # First who goes where, in numbers: 0 .. size-1 are the images of the pool, size + i is row i of the batch. Carrying
    # the images themselves through the scan would copy the whole pool for each row.
    def decide(carry, row):
        holds, count = carry
        number, key = row
        coin, place = jax.random.split(key)
        full = count == size
        swap = full & (jax.random.uniform(coin) > 0.5)
        slot = jnp.where(full, jax.random.randint(place, (), 0, size), count)
        given = jnp.where(swap, holds[slot], number)
        holds = holds.at[slot].set(jnp.where(swap | ~full, number, holds[slot]))
        return (holds, jnp.minimum(count + 1, size)), given

    numbers = size + jnp.arange(batch)
    rows = (numbers, jax.random.split(key, batch))
    (holds, count), given = jax.lax.scan(decide, (jnp.arange(size), pool['count']), rows)

    from_batch = images[jnp.maximum(given - size, 0)]
    from_pool = stored[jnp.minimum(given, size - 1)].astype(images.dtype)
    is_old = (given < size).reshape(batch, *[1] * (images.ndim - 1))
    # The place in which a row ended; `size`, which does not exist, for one that is not kept.
    kept = holds == numbers[:, None]
    slots = jnp.where(kept.any(1), kept.argmax(1), size)
    pool = {
        'images': stored.at[slots].set(images.astype(stored.dtype), mode='drop'),
        'count': count,
    }
    return jnp.where(is_old, from_pool, from_batch), pool
