"""Heat maps of points: Gaussian bumps, the expected position of a softmax, and drawn points.

Points are (x, y). Pixel centres lie at whole coordinates, and an image of (height, width) covers
[-0.5, width - 0.5] x [-0.5, height - 0.5]. A point with a coordinate NaN is absent.
"""

import jax
import jax.numpy as jnp


def is_present(points):
    """Returns which points [..., n, 2] are present, [..., n] bool."""
    return ~jnp.isnan(points).any(-1)


def is_inside(points, size: tuple[int, int]):
    """Returns which points are present and inside of the image.

    Args:
      points: [..., n, 2] in pixels.
      size: (height, width) of the image.

    Returns:
      [..., n] bool.
    """
    last = jnp.array(size[::-1], jnp.float32) - 0.5
    # A comparison with NaN is False.
    return ((points >= -0.5) & (points <= last)).all(-1)


def on_grid(points, size: tuple[int, int], grid: tuple[int, int]):
    """Returns the positions of points on an image that is resized to another size.

        p' = (p + 1/2) n' / n - 1/2     per axis, with n and n' pixels

    Args:
      points: [..., 2] in pixels of `size`.
      size: (height, width) of the image.
      grid: (height, width) of the resized image.

    Returns:
      [..., 2] float32 in pixels of `grid`.
    """
    before = jnp.array(size[::-1], jnp.float32)
    after = jnp.array(grid[::-1], jnp.float32)
    return (points + 0.5) * (after / before) - 0.5


def log_gaussian(points, size: tuple[int, int], sigma: float):
    """Computes the logarithm of a Gaussian bump around each point.

        g(q) = -|q - p|^2 / (2 sigma^2)

    Args:
      points: p [..., n, 2] in pixels.
      size: (H, W).
      sigma: standard deviation in pixels.

    Returns:
      [..., H, W, n] float32, NaN for an absent point.
    """
    height, width = size
    points = points.astype(jnp.float32)
    across = jnp.arange(width, dtype=jnp.float32)[:, None] - points[..., None, :, 0]  # [.., W, n]
    down = jnp.arange(height, dtype=jnp.float32)[:, None] - points[..., None, :, 1]  # [.., H, n]
    squared = down[..., :, None, :] ** 2 + across[..., None, :, :] ** 2
    return -squared / (2 * sigma**2)


def gaussian(points, size: tuple[int, int], sigma: float):
    """Paints a Gaussian bump around each point, which is 1 at the point.

    Args:
      points: [..., n, 2] in pixels.
      size: (H, W).
      sigma: standard deviation in pixels.

    Returns:
      [..., H, W, n] float32 in [0, 1]. The map of an absent point is 0.
    """
    present = is_present(points)
    # Without the replacement, the gradient of an absent point would be 0 * NaN.
    known = jnp.where(present[..., None], points, 0)
    bumps = jnp.exp(log_gaussian(known, size, sigma))
    return bumps * present[..., None, None, :]


def expected_points(logits, size: tuple[int, int]):
    """Computes the expected position of each map, the soft-argmax.

        p = sum_q softmax(logits)(q) q

    The maps may be coarser than the image. Their pixels are then squares of the image, whose
    centres are the positions q.

    Args:
      logits: [..., h, w, n].
      size: (height, width) of the image.

    Returns:
      [..., n, 2] float32 in pixels of the image.
    """
    height, width = logits.shape[-3:-1]
    probability = jax.nn.softmax(logits.astype(jnp.float32), axis=(-3, -2))
    columns = jnp.arange(width, dtype=jnp.float32)[:, None]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    x = (probability.sum(-3) * columns).sum(-2)
    y = (probability.sum(-2) * rows).sum(-2)
    return on_grid(jnp.stack([x, y], -1), (height, width), size)


def draw_points(image, points, color: tuple[int, int, int], radius: float):
    """Draws discs around points, with smooth edges.

    Args:
      image: [B, H, W, 3] uint8.
      points: [B, n, 2] in pixels. Absent points are not drawn.
      color: (r, g, b) of the discs.
      radius: in pixels.

    Returns:
      [B, H, W, 3] uint8.
    """
    height, width = image.shape[1:3]
    rows = jnp.arange(height)[:, None]
    columns = jnp.arange(width)

    # A point at a time: the distances of all points to all pixels may not fit into memory.
    def add_disc(cover, point):
        x = point[:, 0, None, None]
        y = point[:, 1, None, None]
        distance = jnp.sqrt((columns - x) ** 2 + (rows - y) ** 2)
        disc = jnp.clip(radius + 0.5 - distance, 0, 1)
        return jnp.maximum(cover, jnp.nan_to_num(disc)), None

    cover, _ = jax.lax.scan(add_disc, jnp.zeros(image.shape[:3]), jnp.moveaxis(points, 1, 0))
    share = cover[..., None]
    mixed = (1 - share) * image + share * jnp.array(color, jnp.float32)
    return jnp.round(mixed).astype(jnp.uint8)
