"""The geometry of self-supervised depth: from depth and motion to the image of another camera.

    p_s ~ K_s T (D(p_t) K_t^-1 p_t)

The formula takes a pixel p_t of the target to the pixel p_s of the source that shows the same
point. It holds if nothing moved and nothing hides the point (Zhou et al. 2017, SfMLearner, Eq. 2).

Conventions. Pixel (u, v) with whole u, v is a pixel's centre. Cameras look along z, x points right,
y points down. Depth is measured along z, and 0 means not measured. Intrinsics K belong to the
pixels of their map. Their last row is (0, 0, 1), K[0, 1] and K[1, 0] are arbitrary. A motion T [4,
4] takes points of the target camera to the source camera, p_s = T p_t.

All arguments of a function have the same number of leading axes, which broadcast. For n sources
[B, n, ...], arguments of the target are given as `depth[:, None]` and `intrinsics[:, None]`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from segjax.errors import InputError, unknown_name

# By default accelerators round the factors of a product to 10 bits or fewer. Pixels would be wrong
# by a whole pixel.
_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

MIN_Z = 1e-3
"""Smallest z of visible points, in units of depth.

Nearer to the camera's plane, 1 / z and its derivative are arbitrary. The PyTorch version of
SfMLearner has the same bound.
"""

SLACK = 1e-3
"""Distance from the image, in pixels, up to which a position counts as inside.

Rounding noise must not decide. The identity motion causes such noise at the border.
"""


# --- motions --------------------------------------------------------------------------------------


def rotation_from_axis_angle(vector):
    """Returns rotation matrices by Rodrigues' formula.

        R = cos(a) I + sin(a) / a [v]_x + (1 - cos(a)) / a^2 v v^T,     a = |v|

    Value and derivatives are right for any angle, including 0.

    Args:
      vector: [..., 3], axis of rotation times angle in radians.

    Returns:
      [..., 3, 3].
    """
    square = (vector**2).sum(-1)[..., None, None]  # [..., 1, 1]
    # The square root has no derivative at 0, so small angles never reach it. They are computed by
    # power series, whose next terms are below the precision of a float64.
    small = square < 1e-3
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    s = jnp.where(small, square, 0.0)
    # sin(a) / a
    sine = jnp.where(small, 1 - s / 6 + s**2 / 120 - s**3 / 5040, jnp.sin(angle) / angle)
    # (1 - cos(a)) / a^2 without its cancellation
    versine = 2 * (jnp.sin(angle / 2) / angle) ** 2
    versine = jnp.where(small, 1 / 2 - s / 24 + s**2 / 720 - s**3 / 40320, versine)
    x, y, z = jnp.moveaxis(vector, -1, 0)
    zero = jnp.zeros_like(x)
    cross = _matrix((zero, -z, y), (z, zero, -x), (-y, x, zero))
    outer = vector[..., :, None] * vector[..., None, :]
    return (1 - versine * square) * jnp.eye(3, dtype=vector.dtype) + sine * cross + versine * outer


def rotation_from_euler(angles):
    """Returns the rotation matrices Rx(angles[0]) Ry(angles[1]) Rz(angles[2]).

    Each rotation is about its axis, counter-clockwise when viewed from the axis' tip. Order and
    clipping of the angles to [-pi, pi] follow SfMLearner.

    Args:
      angles: [..., 3] radians.

    Returns:
      [..., 3, 3].
    """
    angles = jnp.clip(angles, -np.pi, np.pi)
    cosines = jnp.moveaxis(jnp.cos(angles), -1, 0)
    sines = jnp.moveaxis(jnp.sin(angles), -1, 0)
    cx, cy, cz = cosines
    sx, sy, sz = sines
    zero = jnp.zeros_like(cx)
    unit = jnp.ones_like(cx)
    about_x = _matrix((unit, zero, zero), (zero, cx, -sx), (zero, sx, cx))
    about_y = _matrix((cy, zero, sy), (zero, unit, zero), (-sy, zero, cy))
    about_z = _matrix((cz, -sz, zero), (sz, cz, zero), (zero, zero, unit))
    return _product(_product(about_x, about_y), about_z)


def _matrix(*rows):
    """Builds [..., r, c] from r rows of c arrays [...]."""
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def _product(a, b):
    return _einsum('...ij,...jk->...ik', a, b)


CONVENTIONS = {
    'euler': 'translation first, then Euler angles: T = [Rx Ry Rz | t] (Zhou et al. 2017)',
    'axis_angle': 'axis-angle first, then translation: T = [R | t] (Godard et al. 2019)',
}
"""Meanings of the six numbers that a pose net predicts.

Both motions rotate before they translate.
"""


def rigid_motion(vector, convention: str):
    """Returns the motions of the six numbers that a pose net predicts.

    Args:
      vector: [..., 6].
      convention: a key of CONVENTIONS.

    Returns:
      [..., 4, 4].
    """
    if convention not in CONVENTIONS:
        raise unknown_name('convention of motions', convention, CONVENTIONS)
    first = vector[..., :3]
    second = vector[..., 3:]
    if convention == 'euler':
        return _motion(rotation_from_euler(second), first)
    return _motion(rotation_from_axis_angle(first), second)


def _motion(rotation, translation):
    """Builds motions [..., 4, 4] from rotations [..., 3, 3] and translations [..., 3]."""
    upper = jnp.concatenate([rotation, translation[..., None]], -1)  # [..., 3, 4]
    last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], upper.dtype), (*upper.shape[:-2], 1, 4))
    return jnp.concatenate([upper, last], -2)


def invert_motion(motion):
    """Inverts rigid motions [..., 4, 4]: [R | t] -> [R^T | -R^T t]."""
    back = jnp.swapaxes(motion[..., :3, :3], -1, -2)
    shift = _einsum('...ij,...j->...i', back, motion[..., :3, 3])
    return _motion(back, -shift)


def relative_motion(pose_target, pose_source):
    """Returns the motion from target to source camera, inv(pose_source) pose_target.

    Args:
      pose_target: [..., 4, 4] camera to world.
      pose_source: [..., 4, 4] camera to world. Leading axes broadcast.

    Returns:
      [..., 4, 4].
    """
    back = jnp.swapaxes(pose_source[..., :3, :3], -1, -2)
    # Subtract before rotating: both cameras may be far from the origin of the world.
    shift = pose_target[..., :3, 3] - pose_source[..., :3, 3]
    rotation = _product(back, pose_target[..., :3, :3])
    return _motion(rotation, _einsum('...ij,...j->...i', back, shift))


def transform(motion, points):
    """Moves maps of points: R p + t.

    Args:
      motion: [..., 4, 4].
      points: [..., H, W, 3].

    Returns:
      [..., H, W, 3].
    """
    rotated = _einsum('...ij,...hwj->...hwi', motion[..., :3, :3], points)
    return rotated + motion[..., None, None, :3, 3]


# --- cameras --------------------------------------------------------------------------------------


def pixel_grid(size: tuple[int, int]) -> np.ndarray:
    """Returns the coordinates (u, v) of all pixels of an image (H, W), as [H, W, 2] float32."""
    rows, columns = size
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).astype(np.float32)


def back_project(depth, intrinsics):
    """Returns the points that the pixels of a depth map show, in the camera's coordinates.

        D(p) K^-1 (u, v, 1)

    Args:
      depth: [..., H, W] along z.
      intrinsics: [..., 3, 3].

    Returns:
      [..., H, W, 3].
    """
    a, b, c, d = (intrinsics[..., i, j] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    inverse = _matrix((d, -b), (-c, a)) / (a * d - b * c)[..., None, None]  # [..., 2, 2]
    from_centre = pixel_grid(depth.shape[-2:]) - intrinsics[..., None, None, :2, 2]
    xy = _einsum('...ij,...hwj->...hwi', inverse, from_centre)
    depth = depth[..., None]
    ray = jnp.concatenate([xy, jnp.ones_like(xy[..., :1])], -1)  # [..., H, W, 3]
    return depth * ray


def project(points, intrinsics):
    """Returns the pixels at which a camera sees points.

    Points with z <= MIN_Z are invisible. They get the finite pixels of z = MIN_Z, without gradient.

    Args:
      points: [..., H, W, 3] in the camera's coordinates.
      intrinsics: [..., 3, 3].

    Returns:
      (pixels [..., H, W, 2] as (u, v), z [..., H, W], which may be negative).
    """
    z = points[..., 2:]
    visible = z > MIN_Z
    xy = jnp.where(visible, points[..., :2], lax.stop_gradient(points[..., :2]))
    xy = xy / jnp.where(visible, z, MIN_Z)
    from_centre = _einsum('...ij,...hwj->...hwi', intrinsics[..., :2, :2], xy)
    pixels = from_centre + intrinsics[..., None, None, :2, 2]
    return pixels, z[..., 0]


def scale_intrinsics(intrinsics, from_size: tuple[int, int], to_size: tuple[int, int]):
    """Returns the intrinsics of a resized map.

        u' + 1/2 = s (u + 1/2),     s = new width / old width

    Pixel centres are half-pixel, as in ops/resize.py and data/transforms.py.

    Args:
      intrinsics: [..., 3, 3] in pixels of from_size.
      from_size: (H, W).
      to_size: (H, W).

    Returns:
      [..., 3, 3] in pixels of to_size.
    """
    sy = to_size[0] / from_size[0]
    sx = to_size[1] / from_size[1]
    matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return _product(jnp.asarray(matrix, intrinsics.dtype), intrinsics)


# --- images ---------------------------------------------------------------------------------------

PADDINGS = {
    'zeros': '0 wherever a position is not inside (SfMLearner)',
    'border': 'nearest border pixel, without gradient along the axis that left it (monodepth2)',
}
"""Values of positions outside the image."""


def sample(image, pixels, padding: str = 'zeros'):
    """Interpolates an image bilinearly at any positions.

    The gradient with respect to `pixels` is the gradient of the interpolation, and is gathered like
    the values. At whole positions it is the slope towards the larger coordinate, on the last pixel
    towards the smaller. Only the gradient with respect to `image` scatters: slowly, and on GPUs in
    no fixed order. Real frames are constants, for which it is not computed.

    Args:
      image: [..., H, W, C] floating point.
      pixels: [..., h, w, 2], positions (u, v) in pixels of `image`.
      padding: a key of PADDINGS.

    Returns:
      (values [..., h, w, C], inside [..., h, w] bool). A position is inside if it lies in
      [0, W - 1] x [0, H - 1], up to SLACK. Positions that are NaN are not inside.
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
    image = jnp.broadcast_to(image, (*lead, height, width, channels))
    flat = image.reshape(-1, height * width, channels)
    pixels = jnp.broadcast_to(pixels, (*lead, *pixels.shape[-3:]))
    u_inside, left, right, u_share = _neighbours(pixels[..., 0], width)
    v_inside, top, bottom, v_share = _neighbours(pixels[..., 1], height)

    def look_up(row, column):
        index = (row * width + column).reshape(len(flat), -1, 1)
        # Both are clipped already. The default mode would check the positions once more.
        values = jnp.take_along_axis(flat, index, axis=1, mode='promise_in_bounds')
        return values.reshape(*row.shape, channels)

    upper = _between(look_up(top, left), look_up(top, right), u_share)
    lower = _between(look_up(bottom, left), look_up(bottom, right), u_share)
    values = _between(upper, lower, v_share)
    inside = u_inside & v_inside
    if padding == 'zeros':
        values = jnp.where(inside[..., None], values, 0)
    return values, inside


def _neighbours(position, length: int):
    """Returns the neighbours of positions along an axis of `length` pixels.

    Returns:
      (inside, pixel before, pixel after, share of the pixel after), each of the shape of position.
    """
    inside = (position >= -SLACK) & (position <= length - 1 + SLACK)
    position = jnp.where(inside, position, jnp.clip(lax.stop_gradient(position), 0, length - 1))
    # Clip again as integers: the conversion of NaN to an integer is undefined.
    before = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, max(length - 2, 0))
    after = jnp.minimum(before + 1, length - 1)
    return inside, before, after, position - before


def _between(a, b, share):
    return a + share[..., None] * (b - a)


class Warped(NamedTuple):
    """A source as the target camera sees it, on the target's pixels.

    image   [..., H, W, C]
    valid   [..., H, W] bool, pixels that fall onto the source: position inside, z > MIN_Z, depth >
            0
    depth   [..., H, W] z of the target's points in the source camera. If the source's own depth
            there is smaller, something hides the point
    pixels  [..., H, W, 2] positions of the points in the source
    """

    image: jax.Array
    valid: jax.Array
    depth: jax.Array
    pixels: jax.Array


def warp(
    source_image, depth, motion, intrinsics, source_intrinsics=None, padding: str = 'zeros'
) -> Warped:
    """Builds the target image from the source's colours, the target's depth and their motion.

    The gradients of the image with respect to depth and motion are finite everywhere. They are 0
    where a point is not in front of the source camera or leaves its image. With padding 'border'
    they are 0 only along the axis that left the image.

    Args:
      source_image: [..., H_s, W_s, C] floating point.
      depth: [..., H, W] of the target.
      motion: [..., 4, 4] from target to source.
      intrinsics: [..., 3, 3] of the target.
      source_intrinsics: [..., 3, 3]. None: the intrinsics of the target.
      padding: a key of PADDINGS. With 'zeros' the image is 0 wherever it is not valid.

    Example:
      >>> view = warp(frames, depth[:, None], motions, intrinsics[:, None])  # frames [B, n, H, W,
      3]
    """
    if source_intrinsics is None:
        source_intrinsics = intrinsics
    _check_warp(source_image, depth, motion, intrinsics, source_intrinsics)
    points = transform(motion, back_project(depth, intrinsics))  # [..., H, W, 3]
    pixels, z = project(points, source_intrinsics)
    image, inside = sample(source_image, pixels, padding)
    valid = inside & (z > MIN_Z) & (depth > 0)
    if padding == 'zeros':
        image = jnp.where(valid[..., None], image, 0)
    return Warped(image, valid, z, pixels)


def _check_warp(source_image, depth, motion, intrinsics, source_intrinsics) -> None:
    """Raises InputError unless all arguments of `warp` have the same number of leading axes."""
    matrices = (motion.shape[-2:], intrinsics.shape[-2:], source_intrinsics.shape[-2:])
    leading_axes = {
        source_image.ndim - 3,
        depth.ndim - 2,
        motion.ndim - 2,
        intrinsics.ndim - 2,
        source_intrinsics.ndim - 2,
    }
    # Broadcasting could otherwise mistake a batch for sources, and the reverse.
    if len(leading_axes) > 1 or matrices != ((4, 4), (3, 3), (3, 3)):
        raise InputError(
            'warp',
            got=f'image {source_image.shape}, depth {depth.shape}, motion {motion.shape}, '
            f'intrinsics {intrinsics.shape} and {source_intrinsics.shape}',
            expected='[..., H, W, C], [..., H, W], [..., 4, 4] and [..., 3, 3] with the same '
            'number of leading axes',
            fix='for n sources give the target as depth[:, None], intrinsics[:, None]',
        )
