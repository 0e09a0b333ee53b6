"""Warping against loops, SciPy, finite differences and the geometry of the world `streets`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from segjax.data import transforms
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.ops import warp

RNG = np.random.default_rng(0)
# A camera whose x points to the left, and a camera with a rotated image. A warp must accept both.
FLIPPED = np.array([[-7.0, 0, 3.2], [0, 6.5, 2.1], [0, 0, 1]])
ROTATED = np.array([[6.0, 1.5, 2.5], [-1.2, 5.5, 1.8], [0, 0, 1]])
SIZE = (5, 7)
SOURCE_SIZE = (6, 8)
DEPTH = RNG.uniform(2, 5, (2, *SIZE))
SOURCE = RNG.random((2, *SOURCE_SIZE, 3))
VECTOR = np.array([[0.05, -0.1, 0.2, 0.3, -0.2, 0.1], [-0.1, 0.06, -0.1, -0.1, 0.4, -0.2]])
K = np.stack([FLIPPED, ROTATED])
SOURCE_K = np.stack([ROTATED, FLIPPED])

axis_angle = jax.jit(warp.rotation_from_axis_angle)
euler = jax.jit(warp.rotation_from_euler)
relative_motion = jax.jit(warp.relative_motion)
warped = jax.jit(warp.warp)
sample = jax.jit(warp.sample, static_argnames='padding')


def in_float64(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    return run


def motion_by_hand(vector, convention):
    motion = np.eye(4)
    if convention == 'axis_angle':
        motion[:3, :3] = Rotation.from_rotvec(vector[:3]).as_matrix()
        motion[:3, 3] = vector[3:]
    else:  # upper case: about the axes as they turn with the body, which is the product Rx Ry Rz
        motion[:3, :3] = Rotation.from_euler('XYZ', vector[3:]).as_matrix()
        motion[:3, 3] = vector[:3]
    return motion


def bilinear_by_hand(image, u, v):
    """Sums all pixels with triangle weights. Returns None outside the image."""
    height, width = image.shape[:2]
    if not (0 <= u <= width - 1 and 0 <= v <= height - 1):
        return None
    rows, columns = (
        np.maximum(0, 1 - np.abs(x - np.arange(n))) for x, n in ((v, height), (u, width))
    )
    return np.einsum('h,w,hwc->c', rows, columns, image)


def warp_by_hand(source, depth, motion, k, source_k):
    image = np.zeros((*depth.shape, source.shape[-1]))
    valid = np.zeros(depth.shape, bool)
    z = np.zeros(depth.shape)
    for v, u in np.ndindex(*depth.shape):
        x, y, z[v, u], _ = motion @ [*(depth[v, u] * np.linalg.inv(k) @ [u, v, 1]), 1]
        if z[v, u] > 0 and depth[v, u] > 0:
            colour = bilinear_by_hand(source, *(source_k @ [x, y, z[v, u]] / z[v, u])[:2])
            if colour is not None:
                image[v, u] = colour
                valid[v, u] = True
    return image, valid, z


# --- motions --------------------------------------------------------------------------------------


@in_float64
def test_axis_angle_is_scipy_at_any_angle():
    axis = RNG.normal(size=(9, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.array(
        [0, 1e-12, 1e-6, 1e-3, 0.0316, 0.0317, 1, np.pi, 5]
    )  # the series ends at sqrt(1e-3) = 0.03162
    got = axis_angle(axis * angle[:, None])
    np.testing.assert_allclose(
        got, Rotation.from_rotvec(axis * angle[:, None]).as_matrix(), atol=1e-14
    )


@in_float64
def test_axis_angle_has_its_derivatives_down_to_zero():
    jacobian = jax.jit(jax.jacobian(warp.rotation_from_axis_angle))
    # At 0 these are the generators of rotations: d(R p) = v x p.
    expected = np.stack([np.cross(np.eye(3)[k], np.eye(3)).T for k in range(3)], -1)
    np.testing.assert_array_equal(jacobian(np.zeros(3)), expected)
    for vector in (
        np.array([1e-9, 0, 2e-9]),
        np.array([0.02, -0.01, 0.02]),
        np.array([0.1, 2, -1]),
    ):
        for k, step in enumerate(1e-6 * np.eye(3)):
            after, before = (
                Rotation.from_rotvec(vector + sign * step).as_matrix() for sign in (1, -1)
            )
            np.testing.assert_allclose(jacobian(vector)[..., k], (after - before) / 2e-6, atol=1e-8)


def test_rotations_hold_in_float32():
    vector = np.float32([[1e-4, 2e-4, -1e-4], [0.03, 0.01, 0.02], [1e9, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(
        axis_angle(vector)[:2], Rotation.from_rotvec(vector[:2]).as_matrix(), atol=1e-7
    )
    gradient = jax.jit(jax.grad(lambda x: warp.rotation_from_axis_angle(x).sum()))(vector)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize('convention', warp.CONVENTIONS)
def test_motions_in_both_conventions_and_their_inverses(convention):
    @jax.jit
    def run(vector):
        motion = warp.rigid_motion(vector, convention)
        return motion, warp.invert_motion(motion)

    expected = np.stack([motion_by_hand(vector, convention) for vector in VECTOR])
    for got, wanted in zip(
        run(np.float32(VECTOR)), (expected, np.linalg.inv(expected)), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_sfmlearner_multiplies_about_x_y_z_in_this_order_and_clips_angles():
    quarters, half = np.asarray(euler(np.float32([[np.pi / 2, 0, np.pi / 2], [0, 4, 0]])))
    # Rz first takes x to y, then Rx takes y to z.
    np.testing.assert_allclose(quarters @ [1, 0, 0], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(half, np.diag([-1, 1, -1]), atol=1e-6)


def test_relative_motion_takes_points_of_the_target_to_the_source():
    target, source = (motion_by_hand(vector, 'axis_angle') for vector in VECTOR)
    target[:3, 3] += 500  # far from the origin of the world
    source[:3, 3] += 500
    got = relative_motion(np.float32(target), np.float32(source))
    np.testing.assert_allclose(got, np.linalg.inv(source) @ target, atol=1e-4)
    point = np.array([1, -2, 4, 1])
    np.testing.assert_allclose(source @ (np.asarray(got) @ point), target @ point, atol=1e-3)


def test_unknown_convention_is_named():
    with pytest.raises(InputError, match='axis_angle'):
        warp.rigid_motion(jnp.zeros(6), 'monodepth')


# --- cameras --------------------------------------------------------------------------------------


@in_float64
def test_points_project_to_the_pixels_they_came_from():
    @jax.jit
    def run(depth, k):
        points = warp.back_project(depth, k)
        return points, *warp.project(points, k)

    points, pixels, z = run(DEPTH, K)
    for b, v, u in np.ndindex(*DEPTH.shape):
        np.testing.assert_allclose(
            points[b, v, u], DEPTH[b, v, u] * np.linalg.inv(K[b]) @ [u, v, 1], atol=1e-12
        )
    np.testing.assert_allclose(
        pixels, np.broadcast_to(warp.pixel_grid(SIZE), pixels.shape), atol=1e-12
    )
    np.testing.assert_allclose(z, DEPTH, atol=1e-12)


def test_what_is_behind_the_camera_has_finite_pixels_without_gradient():
    points = np.float32([[[[1, 2, 4], [1, 2, 0], [1, 2, -4], [0, 0, 1e-30]]]])

    @jax.jit
    @jax.value_and_grad
    def total(points):
        return warp.project(points, np.float32(FLIPPED)[None])[0].sum()

    value, gradient = total(points)
    chex.assert_tree_all_finite((value, gradient))
    assert not gradient[0, 0, 1:].any()
    np.testing.assert_allclose(
        gradient[0, 0, 0], [-7 / 4, 6.5 / 4, 7 / 16 - 2 * 6.5 / 16], rtol=1e-6
    )


def test_intrinsics_of_a_resized_map_are_those_of_the_transforms():
    for before, after in (((128, 416), (64, 208)), ((128, 416), (16, 52)), ((10, 20), (7, 33))):
        expected = transforms.resize_matrix(before, after) @ K
        np.testing.assert_allclose(
            warp.scale_intrinsics(jnp.float32(K), before, after), expected, atol=1e-5
        )


# --- images ---------------------------------------------------------------------------------------

POSITIONS = np.stack([RNG.uniform(-3, 10, (2, 4, 50)), RNG.uniform(-3, 8, (2, 4, 50))], -1)


@in_float64
@pytest.mark.parametrize('padding, mode', [('zeros', None), ('border', 'nearest')])
def test_samples_are_scipy(padding, mode):
    values, inside = sample(SOURCE, POSITIONS, padding)
    u, v = np.moveaxis(POSITIONS, -1, 0)
    np.testing.assert_array_equal(inside, (u >= 0) & (u <= 7) & (v >= 0) & (v <= 5))
    assert 50 < inside.sum() < 350
    for b, c in np.ndindex(2, 3):
        expected = ndimage.map_coordinates(
            SOURCE[b, ..., c], (v[b], u[b]), order=1, mode=mode or 'nearest'
        )
        np.testing.assert_allclose(
            values[b, ..., c], expected if mode else np.where(inside[b], expected, 0), atol=1e-12
        )


def test_whole_positions_are_the_pixels_the_last_ones_included():
    grid = np.broadcast_to(warp.pixel_grid(SOURCE_SIZE), (2, *SOURCE_SIZE, 2))
    values, inside = sample(np.float32(SOURCE), grid)
    np.testing.assert_allclose(values, SOURCE, atol=1e-6)
    assert inside.all()
    odd = grid.copy()
    odd[0, 0, :6] = [-2e-3, 0], [0, 5.002], [7.002, 1], [np.nan, 1], [np.inf, 1], [-5e-4, 5.0005]
    values, inside = sample(np.float32(SOURCE), odd)
    np.testing.assert_array_equal(
        inside[0, 0, :6], [False] * 5 + [True]
    )  # the last position is rounding noise
    np.testing.assert_array_equal(values[0, 0, :5], 0)


def test_an_image_of_one_pixel_can_be_sampled():
    values, inside = sample(
        np.float32(SOURCE[:, :1, :1]), np.float32([[[[0, 0], [1, 0]]]] * 2), 'border'
    )
    np.testing.assert_array_equal(inside, [[[True, False]]] * 2)
    np.testing.assert_allclose(values, np.repeat(SOURCE[:, :1, :1], 2, axis=2), atol=1e-6)


def test_sources_are_warped_as_if_alone():
    motion = np.float32([motion_by_hand(vector, 'axis_angle') for vector in VECTOR])
    sources = np.float32(np.stack([SOURCE, SOURCE[::-1]], 1))
    motions = np.stack([motion, np.linalg.inv(motion)], 1)
    depth = np.float32(DEPTH)
    k = np.float32(K)
    together = warped(sources, depth[:, None], motions, k[:, None])
    for s in range(2):
        alone = warped(sources[:, s], depth, motions[:, s], k)
        of_source = jax.tree.map(lambda x: x[:, s], together)  # noqa: B023
        chex.assert_trees_all_close(of_source, alone, rtol=1e-7, atol=1e-5)
    # Two examples and two sources: a forgotten axis would fit, and mix them up.
    with pytest.raises(InputError, match='leading axes'):
        warped(sources, depth, motions, k)
    with pytest.raises(InputError, match='leading axes'):
        warped(sources, depth[:, None], motions[..., :3, :], k[:, None])


def test_standing_still_changes_nothing():
    size = (24, 832)
    image = RNG.random((1, *size, 3), np.float32)
    depth = RNG.uniform(0.1, 80, (1, *size)).astype(np.float32)
    k = np.float32([[[-566.6, 0, 414.6], [0, 566.9, 11.7], [0, 0, 1]]])
    got = warped(image, depth, np.eye(4, dtype=np.float32)[None], k)
    assert got.valid.all()
    np.testing.assert_allclose(got.image, image, atol=2e-4)


def test_bad_samples_are_named():
    with pytest.raises(InputError, match='border'):
        warp.sample(SOURCE, POSITIONS, 'boarder')
    with pytest.raises(InputError, match='h, w, 2'):
        warp.sample(SOURCE, POSITIONS[0])


# --- warps and their gradients --------------------------------------------------------------------

DIRECTION = RNG.normal(size=(2, *SIZE, 3))


def weighed(source, depth, vector, k, source_k, padding, convention):
    """Returns (a scalar to which every pixel contributes with its own weight, the warp)."""
    seen = warp.warp(source, depth, warp.rigid_motion(vector, convention), k, source_k, padding)
    return (DIRECTION * seen.image).sum(), seen


run = jax.jit(
    jax.value_and_grad(weighed, argnums=(0, 1, 2), has_aux=True),
    static_argnames=('padding', 'convention'),
)
KINDS = pytest.mark.parametrize(
    'padding, convention', [('zeros', 'axis_angle'), ('border', 'euler')]
)


def vectors(convention):
    return VECTOR if convention == 'axis_angle' else np.roll(VECTOR, 3, axis=1)


@KINDS
@in_float64
def test_warp_is_the_loop(padding, convention):
    depth = DEPTH.copy()
    depth[0, 2, 3] = 0  # not measured
    (_, got), _ = run(SOURCE, depth, vectors(convention), K, SOURCE_K, padding, convention)
    for b in range(2):
        motion = motion_by_hand(vectors(convention)[b], convention)
        image, valid, z = warp_by_hand(SOURCE[b], depth[b], motion, K[b], SOURCE_K[b])
        assert 0.3 < valid.mean() < 0.95
        np.testing.assert_array_equal(got.valid[b], valid)
        np.testing.assert_allclose(got.depth[b], z, atol=1e-12)
        np.testing.assert_allclose(got.image[b][valid], image[valid], atol=1e-12)
    outside = np.asarray(got.image)[~np.asarray(got.valid)]
    assert outside.all() if padding == 'border' else not outside.any()
    assert not got.valid[0, 2, 3]


@KINDS
@in_float64
def test_gradients_are_finite_differences(padding, convention):
    fn = functools.partial(run, k=K, source_k=SOURCE_K, padding=padding, convention=convention)
    point = [SOURCE, DEPTH, vectors(convention)]
    _, gradients = fn(*point)
    for k, gradient in enumerate(gradients):
        step = 1e-6 * np.random.default_rng(k).normal(size=gradient.shape)
        after, before = (
            fn(*point[:k], point[k] + sign * step, *point[k + 1 :])[0][0] for sign in (1, -1)
        )
        assert abs(after - before) > 1e-8
        np.testing.assert_allclose((gradient * step).sum(), (after - before) / 2, rtol=1e-6)


@KINDS
@in_float64
def test_gradients_are_finite_where_points_pass_through_the_camera(padding, convention):
    # The scene moves around the source camera's plane. Some points have z < 0, a point lies exactly
    # in the camera's centre.
    depth = DEPTH.copy()
    depth[:, 0], depth[0, 2, 3] = 0, 3
    k = np.array([[[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]] * 2)
    vector = np.zeros((2, 6))
    vector[:, 5 if convention == 'axis_angle' else 2] = -3
    (_, seen), gradients = run(SOURCE, depth, vector, k, k, padding, convention)
    chex.assert_tree_all_finite((seen.image, seen.pixels, gradients))
    behind = np.asarray(seen.depth) <= 0
    assert behind.any() and seen.valid.any() and not (behind & seen.valid).any()
    assert gradients[2].any() and gradients[1].any() and not gradients[1][behind].any()


@in_float64
def test_no_scatter_unless_the_image_itself_learns():
    def program(*argnums):
        fn = functools.partial(weighed, padding='zeros', convention='axis_angle')
        return str(
            jax.make_jaxpr(jax.grad(fn, argnums, has_aux=True))(SOURCE, DEPTH, VECTOR, K, SOURCE_K)
        )

    assert 'gather' in program(1, 2) and 'scatter' not in program(1, 2)
    assert 'scatter' in program(0)


# --- the world `streets`, where everything is known -----------------------------------------------


@pytest.fixture(scope='module')
def two_frames():
    """Returns frames 10 and 13 of a clip in which nothing moves, and the motion between them.

    The frames have no sensor noise.
    """
    patch = pytest.MonkeyPatch()
    clip = streets._clip(0, 'train', 1)
    light = clip.scene.light._replace(noise=0.0)
    patch.setattr(
        streets, '_clip', lambda *_: clip._replace(scene=clip.scene._replace(light=light))
    )
    target, source = (streets.frame(0, 'train', 1, index, (48, 96)) for index in (10, 13))
    patch.undo()
    assert not target['moving'].any() and not source['moving'].any()
    return target, source, relative_motion(target['pose'], source['pose'])


def errors(target, source, motion, both=None):
    """Returns the median colour errors of the warp and of no warp, and the compared pixels.

    By default these are the pixels that both frames see.
    """
    colours = [np.float32(frame['image']) / 255 for frame in (target, source)]
    seen = warped(colours[1][None], target['depth'][None], motion[None], target['intrinsics'][None])
    image, valid, z, pixels = (np.asarray(x[0]) for x in seen)
    u, v = (
        np.clip(np.floor(pixels[..., k]).astype(int), 0, n - 2)
        for k, n in ((0, valid.shape[1]), (1, valid.shape[0]))
    )
    around = np.stack([source['depth'][v + i, u + j] for i, j in np.ndindex(2, 2)])
    if both is None:
        both = valid & (around.min(0) > 0) & (z < 1.05 * around.max(0)) & (z > around.min(0) / 1.05)
    moved, still = (
        np.median(np.abs(colours[0] - other).mean(-1)[both]) for other in (image, colours[1])
    )
    return moved, still, both


def moved(frame, matrix, size):
    return transforms.apply_geometry(
        {k: frame[k] for k in ('image', 'depth', 'intrinsics', 'pose')}, matrix, size
    )


def test_depth_and_pose_of_the_world_warp_one_frame_onto_another(two_frames):
    target, source, motion = two_frames
    error, without, both = errors(target, source, motion)
    assert both.mean() > 0.5
    assert error < 0.01 and error < 0.25 * without
    # With a fifth more depth, or with the inverted motion, the error grows.
    wrong = {**target, 'depth': 1.2 * target['depth']}
    assert errors(wrong, source, motion, both)[0] > 1.4 * error
    assert errors(target, source, np.linalg.inv(motion), both)[0] > without


@pytest.mark.parametrize(
    'matrix, size',
    [
        (transforms.flip_matrix(96), (48, 96)),
        (transforms.translation_matrix(-9, -5), (36, 72)),
        (transforms.resize_matrix((48, 96), (36, 72)), (36, 72)),
        (
            transforms.flip_matrix(96)
            @ transforms.translation_matrix(-7, 2)
            @ transforms.rotation_matrix(5, (48, 96))
            @ transforms.scale_matrix(1.1, 1.1),
            (48, 96),
        ),
    ],
    ids=['flip', 'crop', 'resize', 'all'],
)
def test_warps_hold_through_the_geometry_of_augmentation(two_frames, matrix, size):
    target, source, motion = two_frames
    plain, _, _ = errors(target, source, motion)
    target = moved(target, matrix, size)
    source = moved(source, matrix, size)
    error, without, both = errors(target, source, relative_motion(target['pose'], source['pose']))
    assert both.mean() > 0.4
    assert error < 1.25 * plain and error < 0.35 * without


def test_a_flipped_pair_fits_the_mirrored_motion_as_the_pair_fits_its_own(two_frames):
    """Checks that flipped images show the mirrored motion, not the original motion."""
    target, source, motion = two_frames
    plain, _, both = errors(target, source, motion)
    flip = transforms.flip_matrix(96)
    flipped = moved(target, flip, (48, 96)), moved(source, flip, (48, 96))
    mirror = np.diag([-1.0, 1, 1, 1])
    error, *_ = errors(*flipped, mirror @ motion @ mirror, both[:, ::-1])
    assert error == pytest.approx(plain, rel=1e-3)
    assert errors(*flipped, motion, both[:, ::-1])[0] > 3 * plain
