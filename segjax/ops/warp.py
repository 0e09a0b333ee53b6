"""From depth and camera motion to the image that another camera saw: the geometry of self-supervised depth.

    p_s ~ K_s T (D(p_t) K_t^-1 p_t)

takes a pixel p_t of the target to the pixel p_s of the source that shows the same point, if nothing moved and nothing
is in the way (Zhou et al. 2017, SfMLearner, Eq. 2).

Conventions. Pixel (u, v) with whole u, v is a pixel's centre. Cameras look along z, x to the right, y down; depth is
measured along z, and 0 means not measured. Intrinsics K belong to the pixels of their map; their last row is (0, 0, 1)
and nothing else is taken for granted: K[0, 1] and K[1, 0] may hold anything. A motion T [4, 4] takes points of the
target camera to the source camera, p_s = T p_t.

All arguments of a function have the same number of leading axes, and those broadcast. For n sources [B, n, ...], what
belongs to the target is given as `depth[:, None]`, `intrinsics[:, None]`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name

# Accelerators round the factors of a default product to 10 bits or fewer: pixels would be off by a whole one.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

MIN_Z = 1e-3
"""Points nearer to the camera's plane than this, in units of depth, are not seen: 1 / z and its derivative would be
anything (the same bound as in the PyTorch version of SfMLearner)."""

SLACK = 1e-3
"""How far outside of the image, in pixels, a position may lie and still be inside: rounding noise, which a motion that
is the identity makes at the border, shall not decide."""


# --- motions --------------------------------------------------------------------------------------


def rotation_from_axis_angle(vector):
    """Rodrigues' formula, for any angle down to 0, where value and derivatives are right as well.

        R = cos(a) I + sin(a) / a [v]_x + (1 - cos(a)) / a^2 v v^T,     a = |v|

    Args:
      vector: [..., 3] axis of rotation times angle in radians.

    Returns:
      [..., 3, 3].
    """
    square = (vector**2).sum(-1)[..., None, None]
    # The square root has no derivative at 0, so small angles never reach it: they go through power series, whose next
    # terms are below the precision of a float64.
    small = square < 1e-3
    angle, s = jnp.sqrt(jnp.where(small, 1.0, square)), jnp.where(small, square, 0.0)
    sine = jnp.where(small, 1 - s / 6 + s**2 / 120 - s**3 / 5040, jnp.sin(angle) / angle)
    versine = 2 * (jnp.sin(angle / 2) / angle) ** 2  # (1 - cos) / a^2 without its cancellation
    versine = jnp.where(small, 1 / 2 - s / 24 + s**2 / 720 - s**3 / 40320, versine)
    x, y, z = jnp.moveaxis(vector, -1, 0)
    zero = jnp.zeros_like(x)
    cross = _matrix((zero, -z, y), (z, zero, -x), (-y, x, zero))
    outer = vector[..., :, None] * vector[..., None, :]
    return (1 - versine * square) * jnp.eye(3, dtype=vector.dtype) + sine * cross + versine * outer


def rotation_from_euler(angles):
    """Rx(angles[0]) Ry(angles[1]) Rz(angles[2]), each about its axis and counter-clockwise seen from its tip.

    The order of SfMLearner, which also clips angles to [-pi, pi].

    Args:
      angles: [..., 3] radians.

    Returns:
      [..., 3, 3].
    """
    angles = jnp.clip(angles, -np.pi, np.pi)
    (cx, cy, cz), (sx, sy, sz) = (jnp.moveaxis(fn(angles), -1, 0) for fn in (jnp.cos, jnp.sin))
    zero, one = jnp.zeros_like(cx), jnp.ones_like(cx)
    about_x = _matrix((one, zero, zero), (zero, cx, -sx), (zero, sx, cx))
    about_y = _matrix((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    about_z = _matrix((cz, -sz, zero), (sz, cz, zero), (zero, zero, one))
    return _product(_product(about_x, about_y), about_z)


def _matrix(*rows):
    """[..., r, c] from r rows of c arrays [...]."""
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _product(a, b):
    return _einsum('...ij,...jk->...ik', a, b)


CONVENTIONS = {
    'euler': 'translation first, then Euler angles: T = [Rx Ry Rz | t] (Zhou et al. 2017)',
    'axis_angle': 'axis-angle first, then translation: T = [R | t], turned before it is moved (Godard et al. 2019)',
}


def rigid_motion(vector, convention: str):
    """Motion from the six numbers that a pose net says.

    Args:
      vector: [..., 6].
      convention: a key of CONVENTIONS.

    Returns:
      [..., 4, 4].
    """
    if convention not in CONVENTIONS:
        raise unknown_name('convention of motions', convention, CONVENTIONS)
    first, second = vector[..., :3], vector[..., 3:]
    if convention == 'euler':
        return _motion(rotation_from_euler(second), first)
    return _motion(rotation_from_axis_angle(first), second)


def _motion(rotation, translation):
    upper = jnp.concatenate([rotation, translation[..., None]], -1)
    last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], upper.dtype), (*upper.shape[:-2], 1, 4))
    return jnp.concatenate([upper, last], -2)


def invert_motion(motion):
    """[R | t] -> [R^T | -R^T t], the inverse of a rigid motion [..., 4, 4]."""
    back = jnp.swapaxes(motion[..., :3, :3], -1, -2)
    return _motion(back, -_einsum('...ij,...j->...i', back, motion[..., :3, 3]))


def relative_motion(pose_target, pose_source):
    """The motion from target to source camera, inv(pose_source) pose_target.

    Args:
      pose_target: [..., 4, 4] camera to world.
      pose_source: [..., 4, 4] camera to world; leading axes broadcast.

    Returns:
      [..., 4, 4].
    """
    back = jnp.swapaxes(pose_source[..., :3, :3], -1, -2)
    # The difference first: both cameras may be far from the origin of the world.
    shift = pose_target[..., :3, 3] - pose_source[..., :3, 3]
    return _motion(
        _product(back, pose_target[..., :3, :3]), _einsum('...ij,...j->...i', back, shift)
    )


def transform(motion, points):
    """R p + t for maps of points.

    Args:
      motion: [..., 4, 4].
      points: [..., H, W, 3].

    Returns:
      [..., H, W, 3].
    """
    return (
        _einsum('...ij,...hwj->...hwi', motion[..., :3, :3], points)
        + motion[..., None, None, :3, 3]
    )


# --- cameras --------------------------------------------------------------------------------------


def pixel_grid(size: tuple[int, int]) -> np.ndarray:
    """[H, W, 2] float32, the coordinates (u, v) of every pixel of an image of size (H, W)."""
    return np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), -1).astype(np.float32)


def back_project(depth, intrinsics):
    """The points that the pixels of a depth map show, D(p) K^-1 (u, v, 1), in the camera's coordinates.

    Args:
      depth: [..., H, W] along z.
      intrinsics: [..., 3, 3].

    Returns:
      [..., H, W, 3].
    """
    a, b, c, d = (intrinsics[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    inverse = _matrix((d, -b), (-c, a)) / (a * d - b * c)[..., None, None]
    from_centre = pixel_grid(depth.shape[-2:]) - intrinsics[..., None, None, :2, 2]
    xy = _einsum('...ij,...hwj->...hwi', inverse, from_centre)
    return depth[..., None] * jnp.concatenate([xy, jnp.ones_like(xy[..., :1])], -1)


def project(points, intrinsics):
    """Where a camera sees points.

    Points with z <= MIN_Z are not seen. Their pixels are finite (those of z = MIN_Z) and hold no gradient.

    Args:
      points: [..., H, W, 3] in the camera's coordinates.
      intrinsics: [..., 3, 3].

    Returns:
      (pixels [..., H, W, 2] as (u, v), z [..., H, W], which may be negative).
    """
    z = points[..., 2:]
    seen = z > MIN_Z
    xy = jnp.where(seen, points[..., :2], lax.stop_gradient(points[..., :2])) / jnp.where(
        seen, z, MIN_Z
    )
    pixels = (
        _einsum('...ij,...hwj->...hwi', intrinsics[..., :2, :2], xy)
        + intrinsics[..., None, None, :2, 2]
    )
    return pixels, z[..., 0]


def scale_intrinsics(intrinsics, from_size: tuple[int, int], to_size: tuple[int, int]):
    """Intrinsics of a map that was resized, with half-pixel centres as in ops/resize.py and data/transforms.py.

        u' + 1/2 = s (u + 1/2),     s = new width / old width

    Args:
      intrinsics: [..., 3, 3] in pixels of from_size.
      from_size: (H, W).
      to_size: (H, W).

    Returns:
      [..., 3, 3] in pixels of to_size.
    """
    sy, sx = (to / before for to, before in zip(to_size, from_size, strict=True))
    matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return _product(jnp.asarray(matrix, intrinsics.dtype), intrinsics)


# --- images ---------------------------------------------------------------------------------------

PADDINGS = {
    'zeros': '0 wherever a position is not inside (SfMLearner)',
    'border': 'the nearest pixel of the border, with no gradient along the axis that left the image (monodepth2)',
}


def sample(image, pixels, padding: str = 'zeros'):
    """Bilinear interpolation at any positions.

    The gradient with respect to `pixels` is that of the interpolation (at whole positions: towards the larger
    coordinate, on the last pixel towards the smaller one). It is gathered, as the values are. Only the gradient with
    respect to `image` scatters, slowly and on GPUs in no fixed order; real frames are constants, and then it is not
    computed.

    Args:
      image: [..., H, W, C] floating point.
      pixels: [..., h, w, 2] positions (u, v) in pixels of `image`.
      padding: a key of PADDINGS, what values are outside.

    Returns:
      (values [..., h, w, C], inside [..., h, w] bool). A position is inside if it lies in [0, W - 1] x [0, H - 1], give
      or take SLACK. Positions that are NaN are not inside.
    """
    if padding not in PADDINGS:
        raise unknown_name('padding of samples', padding, PADDINGS)
    if image.ndim != pixels.ndim or pixels.shape[-1] != 2:
        raise InputError(
            'sample',
            got=f'an image {image.shape} and positions {pixels.shape}',
            expected='[..., H, W, C] and [..., h, w, 2] with the same number of axes',
        )
    height, width, channels = image.shape[-3:]
    lead = jnp.broadcast_shapes(image.shape[:-3], pixels.shape[:-3])
    flat = jnp.broadcast_to(image, (*lead, height, width, channels)).reshape(
        -1, height * width, channels
    )
    pixels = jnp.broadcast_to(pixels, (*lead, *pixels.shape[-3:]))
    u_inside, left, right, u_share = _neighbours(pixels[..., 0], width)
    v_inside, top, bottom, v_share = _neighbours(pixels[..., 1], height)

    def look_up(row, column):
        index = (row * width + column).reshape(len(flat), -1, 1)
        # Both were clipped; the default would look for positions outside once more.
        taken = jnp.take_along_axis(flat, index, axis=1, mode='promise_in_bounds')
        return taken.reshape(*row.shape, channels)

    upper = _between(look_up(top, left), look_up(top, right), u_share)
    lower = _between(look_up(bottom, left), look_up(bottom, right), u_share)
    values, inside = _between(upper, lower, v_share), u_inside & v_inside
    return (jnp.where(inside[..., None], values, 0) if padding == 'zeros' else values), inside


def _neighbours(position, length: int):
    """(inside, whole position before, the one after, share of the latter) along an axis of `length` pixels."""
    inside = (position >= -SLACK) & (position <= length - 1 + SLACK)
    position = jnp.where(inside, position, jnp.clip(lax.stop_gradient(position), 0, length - 1))
    # Clipped as integers, once more: what a NaN becomes as an integer is not said.
    before = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, max(length - 2, 0))
    return inside, before, jnp.minimum(before + 1, length - 1), position - before


def _between(a, b, share):
    return a + share[..., None] * (b - a)


class Warped(NamedTuple):
    """A source as the target camera sees it, on the target's pixels.

    image   [..., H, W, C]
    valid   [..., H, W] bool, the pixels that fell onto the source: its position is inside, z > MIN_Z, depth > 0
    depth   [..., H, W] z of the target's points in the source camera: larger than the source's own depth there means
            that something is in the way
    pixels  [..., H, W, 2] where they lie in the source
    """

    image: jax.Array
    valid: jax.Array
    depth: jax.Array
    pixels: jax.Array


def warp(
    source_image, depth, motion, intrinsics, source_intrinsics=None, padding: str = 'zeros'
) -> Warped:
    """The target image, made of the source's colours, the target's depth and the motion between them.

    The image's gradients with respect to depth and motion are finite everywhere, and 0 where a point is not in front of
    the source camera or leaves its image (with padding 'border', along the axis on which it left).

    Args:
      source_image: [..., H_s, W_s, C] floating point.
      depth: [..., H, W] of the target.
      motion: [..., 4, 4] from target to source.
      intrinsics: [..., 3, 3] of the target.
      source_intrinsics: [..., 3, 3]; None: those of the target.
      padding: a key of PADDINGS. With 'zeros' the image is 0 wherever it is not valid.

    Example:
      >>> seen = warp(frames, depth[:, None], motions, intrinsics[:, None])   # frames [B, n, H, W, 3]
    """
    source_intrinsics = intrinsics if source_intrinsics is None else source_intrinsics
    matrices = (motion.shape[-2:], intrinsics.shape[-2:], source_intrinsics.shape[-2:])
    axes = {
        source_image.ndim - 3,
        depth.ndim - 2,
        motion.ndim - 2,
        intrinsics.ndim - 2,
        source_intrinsics.ndim - 2,
    }
    if len(axes) > 1 or matrices != (
        (4, 4),
        (3, 3),
        (3, 3),
    ):  # else a batch may pass for sources, and the reverse
        raise InputError(
            'warp',
            got=f'image {source_image.shape}, depth {depth.shape}, motion {motion.shape}, intrinsics '
            f'{intrinsics.shape} and {source_intrinsics.shape}',
            expected='[..., H, W, C], [..., H, W], [..., 4, 4] and [..., 3, 3] with the same number of leading axes',
            fix='for n sources give the target as depth[:, None], intrinsics[:, None]',
        )
    points = transform(motion, back_project(depth, intrinsics))
    pixels, z = project(points, source_intrinsics)
    image, inside = sample(source_image, pixels, padding)
    valid = inside & (z > MIN_Z) & (depth > 0)
    return Warped(
        jnp.where(valid[..., None], image, 0) if padding == 'zeros' else image, valid, z, pixels
    )
