"""Self-supervised depth: losses with known answers, scores of the truth, baselines, pictures."""

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from segjax import config as config_lib
from segjax import models
from segjax.data.worlds import streets
from segjax.models.depth import pose as pose_nets
from segjax.ops import images, warp
from segjax.protocol import Mean
from segjax.spec import ClassSpec, DataSpec
from segjax.tasks import monodepth

SIZE = (32, 64)
SPEC = DataSpec(
    name='video',
    classes=ClassSpec(('a',), ((0, 0, 0),), (0,)),
    features=('image', 'label', 'depth', 'intrinsics', 'pose', 'sequence', 'frame', 'name'),
    num_examples={'train': 4, 'val': 2},
    max_size={'train': SIZE, 'val': SIZE},
    class_pixels={'train': (1,), 'val': (1,)},
    void_pixels={'train': 0, 'val': 0},
)


def make_config(**depth):
    config = config_lib.defaults('scene_geometry')
    config_lib.update(config, depth=depth)
    return config


@pytest.fixture(scope='module')
def video():
    """Returns an evaluation batch of two frames of a clip, with their neighbours.

    Only the camera moves, and no object of the clip.
    """
    clip = next(
        c
        for c in range(20)
        if not streets.frame(0, 'train', c, 10, SIZE)['moving'][: SIZE[0] // 2].any()
    )
    frames = [streets.frame(0, 'train', clip, i, SIZE) for i in range(9, 13)]
    batch = {
        key: np.stack([frames[i][key] for i in (1, 2)])
        for key in ('image', 'depth', 'intrinsics', 'pose')
    }
    for key in ('image', 'pose'):
        batch[f'{key}_frames'] = np.stack(
            [[frames[i - 1][key], frames[i + 1][key]] for i in (1, 2)]
        )
    rows = dict(weight=np.ones(2, np.float32), index=np.arange(2, dtype=np.int32))
    sizes = np.tile(np.int32(SIZE), (2, 1))
    return {**batch, **rows, 'size': sizes, 'label_size': sizes}


def true_motions(batch):
    return warp.relative_motion(batch['pose'][:, None], batch['pose_frames'])


# --- losses ---------------------------------------------------------------------------------------


def pyramid_of(value):
    return [jnp.full((2, SIZE[0] >> s, SIZE[1] >> s), value) for s in range(4)]


def terms_of(batch, motions, disparities=None, **settings):
    config = make_config(**settings)
    config_lib.validate(config)
    terms = monodepth.make_terms(config.depth, lambda d: 1 / d)
    keys = {'tie_breaker': jax.random.key(0)}
    values = jax.jit(lambda d, m: terms(d, m, None, batch, keys))(
        disparities or pyramid_of(0.1), motions
    )
    return {name: float(term.value()) for name, term in values.items()}


STILL = jnp.broadcast_to(jnp.eye(4), (2, 2, 4, 4))


def test_without_motion_every_scale_compares_the_frames_themselves(video):
    terms = terms_of(video, STILL)
    target, frames = video['image'] / 255.0, video['image_frames'] / 255.0
    for s in range(4):
        blocks = [
            x.reshape(*x.shape[:-3], SIZE[0] >> s, 2**s, SIZE[1] >> s, 2**s, 3).mean((-4, -2))
            for x in (target, frames)
        ]
        expected = np.abs(blocks[0][:, None] - blocks[1]).sum(-1).mean()
        assert terms[f'photometric_{s}'] == pytest.approx(expected, rel=1e-4)
        assert terms[f'smoothness_{s}'] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    'photometric, others',
    # In all_pixels, pixels that leave the image count, so far away is cheap.
    [('l1', (0.5, 2.0)), ('all_pixels', (0.5,)), ('mixture', (0.5, 2.0)), ('minimum', (0.5, 2.0))],
)
def test_the_true_depth_costs_less_than_any_other(video, photometric, others):
    settings = dict(
        photometric=photometric, full_resolution=True, smoothness='edge_aware', num_scales=1
    )
    depth = np.where(video['depth'] > 0, video['depth'], 1e3)
    costs = {
        factor: terms_of(
            video, true_motions(video), [jnp.asarray(1 / (factor * depth))], **settings
        )['photometric_0']
        for factor in (1.0, *others)
    }
    assert costs[1.0] < 0.9 * min(costs[factor] for factor in others), costs


def test_disparity_is_enlarged_for_comparison_at_full_resolution(video):
    terms = terms_of(video, STILL, full_resolution=True, smoothness='none')
    assert set(terms) == {f'photometric_{s}' for s in range(4)}
    assert len({round(value, 6) for value in terms.values()}) == 1, 'the same images at every scale'


@pytest.mark.parametrize('photometric', monodepth.PHOTOMETRIC)
def test_rows_below_are_not_compared(video, photometric):
    below = {**video, 'image': video['image'].copy()}
    below['image'][:, SIZE[0] * 3 // 4 :] = 255 - below['image'][:, SIZE[0] * 3 // 4 :]
    settings = dict(photometric=photometric, automask=photometric == 'minimum', smoothness='none')
    whole, part = (
        [terms_of(batch, true_motions(video), rows=rows, **settings) for batch in (video, below)]
        for rows in ((0.0, 1.0), (0.0, 0.75))
    )
    assert part[0] == part[1]
    assert all(whole[0][name] < 0.9 * whole[1][name] for name in whole[0])


@pytest.mark.slow
def test_the_tie_breaker_of_an_example_depends_on_its_index_alone():
    # The frames equal the target, so the loss is the mean of min(0, 1e-5 N(0, 1)): noise alone.
    image = np.random.default_rng(0).integers(0, 255, (4, *SIZE, 3)).astype(np.uint8)
    camera = np.tile(np.float32([[40, 0, 31.5], [0, 40, 15.5], [0, 0, 1]]), (4, 1, 1))
    batch = {'image': image, 'image_frames': image[:, None].repeat(2, 1), 'intrinsics': camera}
    batch['index'] = np.int32([7, 0, 3, 5])

    def noise(rows):
        part = {key: value[rows] for key, value in batch.items()}
        noise_of_examples = []
        for i in range(len(rows)):
            weighted = {**part, 'weight': np.eye(len(rows), dtype=np.float32)[i]}
            disparities = [jnp.full((len(rows), *SIZE), 0.1)]
            settings = dict(photometric='minimum', automask=True, smoothness='none', num_scales=1)
            motions = jnp.broadcast_to(jnp.eye(4), (len(rows), 2, 4, 4))
            noise_of_examples.append(
                terms_of(weighted, motions, disparities, **settings)['photometric_0']
            )
        return np.array(noise_of_examples)

    whole = noise([0, 1, 2, 3])
    assert (whole < -1e-6).all() and len(set(whole.tolist())) == 4
    np.testing.assert_allclose(np.concatenate([noise([0, 1]), noise([2, 3])]), whole, rtol=1e-4)
    np.testing.assert_allclose(noise([3, 0, 2, 1]), whole[[3, 0, 2, 1]], rtol=1e-4)


def test_weights_are_a_mean_over_scales_and_smoothness_halves():
    weights = monodepth.loss_weights(make_config(num_scales=2, smooth_weight=0.5).depth)
    expected = {
        'photometric_0': 0.5,
        'photometric_1': 0.5,
        'smoothness_0': 0.25,
        'smoothness_1': 0.125,
    }
    assert weights == {**expected, 'explainability_0': 0.0, 'explainability_1': 0.0}


def test_masks_hide_what_they_are_told_to(video):
    config = make_config(photometric='all_pixels', mask_weight=0.2, smoothness='none', num_scales=1)
    terms = monodepth.make_terms(config.depth, lambda d: 1 / d)
    keys = {'tie_breaker': jax.random.key(0)}
    masked = jax.jit(lambda mask: terms(pyramid_of(0.1), STILL, [mask], video, keys))
    hidden, open_ = (masked(jnp.full((2, 2, *SIZE, 2), jnp.array([0.0, z]))) for z in (-30.0, 30.0))
    assert float(hidden['photometric_0'].value()) < 1e-6 < float(open_['photometric_0'].value())
    assert float(hidden['explainability_0'].value()) == pytest.approx(60, rel=1e-3)
    assert float(open_['explainability_0'].value()) < 1e-6


# --- nets -----------------------------------------------------------------------------------------


def test_motions_forward_in_time_are_inverted_for_earlier_frames(monkeypatch):
    vector = np.float32([0.1, -0.2, 0.3, 1.0, 2.0, 3.0])

    class Known(pose_nets.PoseCNN):
        def __call__(self, target, sources, train: bool):
            return {'motion': jnp.broadcast_to(vector, (*sources.shape[:2], 6))}

    monkeypatch.setitem(models.NETS['pose'], 'pose_cnn', Known)
    net = monodepth.make_pose_net(
        ml_collections.ConfigDict({'name': 'pose_cnn'}), (-1, 1), False, 'float32'
    )
    image = np.zeros((1, 8, 8, 3), np.uint8)
    outputs, _ = net.apply({}, {}, image, image[:, None].repeat(2, 1), train=False)
    before, after = net.motions(outputs)[0]
    np.testing.assert_allclose(
        after, warp.rigid_motion(jnp.asarray(vector), 'axis_angle'), atol=1e-6
    )
    np.testing.assert_allclose(before @ after, np.eye(4), atol=1e-6)


def monodepth2_matrix(axis_angle, translation, invert):
    """Returns the matrix of the release's `transformation_from_parameters`, with SciPy's rotation.

    It is [R | t], or [R' | -R' t] if inverted.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(axis_angle).as_matrix()
    if invert:
        matrix[:3, :3] = matrix[:3, :3].T
        translation = -matrix[:3, :3] @ translation
    matrix[:3, 3] = translation
    return matrix


@pytest.mark.parametrize('name', ['pose_cnn', 'pose_resnet', 'pose_exp_net'])
def test_translations_of_pose_cnn_are_in_units_of_the_mean_inverse_depth(name, monkeypatch):
    vector = np.float32([0.1, -0.2, 0.3, 1.0, 2.0, 3.0])

    class Known(models.NETS['pose'][name]):
        def __call__(self, target, sources, train: bool):
            return {'motion': jnp.broadcast_to(vector, (*sources.shape[:2], 6))}

    monkeypatch.setitem(models.NETS['pose'], name, Known)
    net = monodepth.make_pose_net(
        ml_collections.ConfigDict({'name': name}), (-1, 1), False, 'float32'
    )
    images = np.zeros((2, 8, 8, 3), np.uint8)
    outputs, _ = net.apply({}, {}, images, images[:, None].repeat(2, 1), train=False)
    depth = np.random.default_rng(0).uniform(1, 9, (2, 4, 6)).astype(np.float32)
    motions = net.motions(outputs)
    scaled = net.at_depth(motions, depth)
    if name != 'pose_cnn':
        np.testing.assert_array_equal(scaled, motions)
        return
    for example in range(2):
        for source, earlier in enumerate((True, False)):
            expected = monodepth2_matrix(
                vector[:3], vector[3:] * (1 / depth[example]).mean(), earlier
            )
            np.testing.assert_allclose(scaled[example, source], expected, atol=1e-5)


def test_every_scale_moves_by_the_depth_of_its_own(video):
    config = make_config(smoothness='none')
    disparities = [jnp.full((2, SIZE[0] >> s, SIZE[1] >> s), 0.1 * (s + 1)) for s in range(4)]

    def by_inverse_depth(motions, depth):
        return motions.at[..., :3, 3].multiply((1 / depth).mean((1, 2))[:, None, None])

    motions = true_motions(video)
    keys = {'tie_breaker': jax.random.key(0)}
    make = monodepth.make_terms(config.depth, lambda d: 1 / d, by_inverse_depth)
    terms = jax.jit(lambda d, m: make(d, m, None, video, keys))(disparities, motions)
    for s in range(config.depth.num_scales):
        scaled = motions.at[..., :3, 3].multiply(0.1 * (s + 1))
        expected = terms_of(video, scaled, disparities, smoothness='none')[f'photometric_{s}']
        assert float(terms[f'photometric_{s}'].value()) == pytest.approx(expected, rel=1e-5)


# --- evaluation -----------------------------------------------------------------------------------


def evaluate_the_truth(video, **settings):
    """Returns scores, metrics and pictures of the true prediction.

    Its disparity is 1 / depth, with all depths three times as large as they are.
    """
    depth = jnp.where(video['depth'] > 0, video['depth'], 1e3)

    def infer(state, batch):
        motions = true_motions(video)
        return 1 / (3 * depth), lambda d: 1 / d, motions.at[..., :3, 3].multiply(3)

    stage = monodepth.make_evaluation(make_config(**settings), SPEC, infer)
    metrics = jax.jit(lambda batch: stage.eval_step(None, batch, {}))(video)
    pictures = jax.jit(lambda batch: stage.render(None, batch, {}))(video)
    return stage.finalize(jax.tree.map(np.asarray, metrics)), metrics, pictures


def judge_of(infer, truth=(), **settings):
    return monodepth.Judge(infer, make_config(**settings).depth, truth, num_examples=2)


def far_away_and_still(state, batch):
    """Predicts a depth of 10 everywhere and a camera that does not move, so nothing is warped."""
    return jnp.full((2, *SIZE), 0.1), lambda d: 1 / d, STILL


def test_eval_step_alone_compares_frames(video):
    judge = judge_of(far_away_and_still)
    metrics = jax.jit(lambda video: monodepth.eval_step(judge, None, video, {}))(video)
    assert set(metrics) == {'photometric', 'photometric_no_warp', 'image_score'}
    target = video['image'] / 255.0
    difference = np.abs(target[:, None] - video['image_frames'] / 255.0)
    expected = pytest.approx(difference.mean(), rel=1e-3)
    assert float(metrics['photometric'].value()) == expected
    assert float(metrics['photometric_no_warp'].value()) == expected
    by_image = difference.mean((1, 2, 3, 4))
    np.testing.assert_allclose(metrics['image_score'].value(), -by_image, rtol=1e-3)


def test_finalize_alone_sorts_scores_by_baseline():
    one = np.float32(1)
    metrics = {
        'photometric': Mean(np.float32(3), np.float32(2)),
        'image_score': Mean(np.zeros(2), np.ones(2)),
        'rmse': Mean(np.float32(4), one),
        'plane/rmse': Mean(np.float32(5), one),
        'still/rotation_error': Mean(np.float32(6), one),
    }
    assert monodepth.finalize(metrics) == {
        'photometric': 1.5,
        'rmse': 4.0,
        'baseline_plane': {'rmse': 5.0},
        'baseline_still': {'rotation_error': 6.0},
    }


def test_render_alone_shows_the_unwarped_neighbour(video):
    pictures = monodepth.render(judge_of(far_away_and_still), None, video, {})
    assert 'true_disparity' not in pictures
    chex.assert_shape([picture.pixels for picture in pictures.values()], (2, *SIZE, 3))
    np.testing.assert_allclose(
        np.int32(pictures['warped'].pixels), np.int32(video['image_frames'][:, 0]), atol=1
    )


@pytest.fixture(scope='module')
def scores_of_the_truth(video):
    return evaluate_the_truth(video)


def test_the_truth_has_no_error_whatever_its_scale(scores_of_the_truth):
    scores, metrics, _ = scores_of_the_truth
    assert scores['abs_rel'] < 1e-3 and scores['rmse_log'] < 1e-3 and scores['a1'] == 1
    assert scores['trajectory_error'] < 1e-4 and scores['rotation_error'] < 0.01
    assert scores['photometric'] < 0.6 * scores['photometric_no_warp']
    values = metrics['image_score'].value()
    assert values.shape == (2,) and (values < 0).all()
    assert -float(np.mean(values)) == pytest.approx(scores['photometric'], rel=0.1)


def test_rows_below_are_not_scored(scores_of_the_truth, video):
    seam = SIZE[0] * 3 // 4
    below = {**video, 'image': video['image'].copy()}
    below['image'][:, seam:] = 0
    scores, _, pictures = evaluate_the_truth(below, rows=(0.0, 0.75))
    whole, _, pictures_of_whole = scores_of_the_truth
    error, of_whole = (
        np.asarray(painted['photometric_error'].pixels) for painted in (pictures, pictures_of_whole)
    )
    np.testing.assert_array_equal(error[:, :seam], of_whole[:, :seam])
    assert (error[:, seam:] == np.asarray(images.heat(jnp.zeros(())))).all()
    assert scores['photometric'] < 1.2 * whole['photometric'], (
        'black rows would cost more than everything else'
    )


def test_baselines_are_what_they_say(scores_of_the_truth, video):
    scores, *_ = scores_of_the_truth
    errors = {'constant': [], 'plane': []}
    for depth, intrinsics in zip(video['depth'], video['intrinsics'], strict=True):
        judged = (depth > 1e-3) & (depth < 80)
        true = depth[judged]
        errors['constant'].append(np.mean(np.abs(np.median(true) - true) / true))
        rows = (np.arange(SIZE[0]) - intrinsics[1, 2]) / intrinsics[1, 1]
        ground = np.repeat(rows[:, None] > 1e-3, SIZE[1], 1)[judged]
        guess = np.repeat((1 / np.maximum(rows, 1e-3))[:, None], SIZE[1], 1)[judged]
        guess *= np.median(true[ground]) / np.median(guess[ground])
        guess = np.where(ground, np.clip(guess, 1e-3, 80), np.median(true[~ground]))
        errors['plane'].append(np.mean(np.abs(guess - true) / true))
    for name, values in errors.items():
        assert scores[f'baseline_{name}']['abs_rel'] == pytest.approx(np.mean(values), rel=1e-3)


def test_no_motion_is_a_baseline_of_motion(scores_of_the_truth, video):
    scores, *_ = scores_of_the_truth
    turns, ways = [], []
    for pose, frames in zip(
        video['pose'].astype(float), video['pose_frames'].astype(float), strict=True
    ):
        for other in frames:
            cosine = (np.trace(other[:3, :3].T @ pose[:3, :3]) - 1) / 2
            turns.append(np.rad2deg(np.arccos(cosine)))
        places = np.stack([p[:3, 3] for p in (frames[0], pose, frames[1])])
        ways.append(np.sqrt(((places - places[0]) ** 2).sum()) / 3)
    still = scores['baseline_still']
    assert still['rotation_error'] == pytest.approx(np.mean(turns), rel=1e-2)
    assert still['trajectory_error'] == pytest.approx(np.mean(ways), rel=1e-3)
    assert still['rotation_error'] > 10 * scores['rotation_error']
    assert scores['yaw_correlation'] == pytest.approx(1, abs=1e-3)
    assert 'yaw' not in scores


def test_pictures_show_what_was_seen(scores_of_the_truth, video):
    *_, pictures = scores_of_the_truth
    assert set(pictures) == {
        'disparity',
        'true_disparity',
        'neighbour',
        'warped',
        'photometric_error',
    }
    pixels = {name: picture.pixels for name, picture in pictures.items()}
    assert all(p.shape == (2, *SIZE, 3) and p.dtype == np.uint8 for p in pixels.values())
    near = np.asarray(video['depth'] > 0)
    close = (
        np.abs(np.int32(pixels['disparity']) - np.int32(pixels['true_disparity'])).max(-1)[near]
        < 16
    )
    assert close.mean() > 0.9
    np.testing.assert_array_equal(pixels['neighbour'], video['image_frames'][:, 0])
