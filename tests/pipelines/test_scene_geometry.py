"""Scene geometry: stages and nets of each method, the reach of each loss, devices, wrong input."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, eval_batches, train_batch

from segjax import config as config_lib
from segjax import models, pipelines
from segjax.config import config_file
from segjax.core import optim, parallel, rng
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.losses import geometry as losses
from segjax.models.depth import decoder, dispnet
from segjax.models.depth import depth_and_segmentation as depth_nets
from segjax.models.depth import pose as pose_nets
from segjax.models.segmentation import bisenet
from segjax.modes import table
from segjax.modes.table import plan
from segjax.pipelines import scene_geometry
from segjax.tasks import monodepth
from segjax.train import driver, stage_functions

SPEC = dataclasses.replace(
    SPEC, features=('image', 'label', 'intrinsics', 'sequence', 'frame', 'name')
)
METHODS = {  # whose depth, regulariser, nets of the last stage, those that are trained
    'baseline': ('none', 'none', {'segmenter'}, {'segmenter'}),
    'holistic': ('pretrained', 'holistic', {'segmenter', 'depth'}, {'segmenter'}),
    'per_class': ('pretrained', 'per_class', {'segmenter', 'depth'}, {'segmenter'}),
    'chen': ('pretrained', 'chen', {'segmenter', 'depth'}, {'segmenter'}),
    'novosel': (
        'multitask',
        'none',
        {'segmenter', 'depth', 'pose'},
        {'segmenter', 'depth', 'pose'},
    ),
    'chen_multitask': (
        'multitask',
        'chen',
        {'segmenter', 'depth', 'pose'},
        {'segmenter', 'depth', 'pose'},
    ),
    'klingner': ('multitask', 'none', {'segmenter', 'pose'}, {'segmenter', 'pose'}),
    'depth': ('alone', 'none', {'depth', 'pose'}, {'depth', 'pose'}),
    'pose': ('truth', 'none', {'pose'}, {'pose'}),
}
SPEC_WITH_TRUTH = dataclasses.replace(SPEC, features=(*SPEC.features, 'depth', 'pose'))
ONE_LOSS = dict(smoothness='none', num_scales=1)


def conv(features, name, strides=1, dtype=jnp.float32):
    return nn.Conv(features, (3, 3), strides, dtype=dtype, name=name)


class TinySegmenter(bisenet.BiSeNet):
    """A net with a convolution for each tap of a pyramid, and BiSeNet's arguments."""

    @nn.compact
    def __call__(self, x, train: bool):
        features, y = {}, x
        for tap in decoder.PYRAMIDS[self.stem]:
            features[tap] = y = nn.elu(conv(4, tap, 2, self.dtype)(y))
        logits = conv(self.num_classes, 'last', 1, self.dtype)(features['conv1_1'])
        size = (x.shape[0], *x.shape[1:3], self.num_classes)
        outputs = {'logits': jax.image.resize(logits, size, 'linear').astype(jnp.float32)}
        return outputs | (
            {'features': {tap: features[tap] for tap in self.taps}} if self.taps else {}
        )


class TinyDepth(dispnet.DispNet):
    @nn.compact
    def __call__(self, x, train: bool):
        y, disparities = x.astype(self.dtype), []
        for scale in range(4):
            y = nn.elu(conv(4, f'at_{scale}', 2 if scale else 1, self.dtype)(y))
            disparities.append(0.2 + nn.sigmoid(conv(1, f'head_{scale}', 1, self.dtype)(y))[..., 0])
        return {'disparity': disparities}


class TinyBoth(depth_nets.DepthAndSegmentation):
    @nn.compact
    def __call__(self, x, train: bool):
        y, disparities = nn.elu(conv(4, 'shared', 1, self.dtype)(x)), []
        for scale in range(4):
            small = jax.image.resize(
                y, (len(y), y.shape[1] >> scale, y.shape[2] >> scale, 4), 'linear'
            )
            disparities.append(nn.sigmoid(conv(1, f'head_{scale}', 1, self.dtype)(small))[..., 0])
        return {
            'disparity': disparities,
            'logits': conv(self.num_classes, 'last', 1, self.dtype)(y),
        }


class TinyPose(pose_nets.PoseCNN):
    by_inverse_depth = False

    @nn.compact
    def __call__(self, target, sources, train: bool):
        both = jnp.concatenate([target[:, None] - sources, sources], -1)
        y = nn.elu(nn.Conv(4, (1, 3, 3), dtype=self.dtype, name='first')(both))
        return {'motion': 0.1 * nn.Dense(6, dtype=self.dtype, name='last')(y.mean((2, 3)))}


@pytest.fixture(autouse=True, scope='module')
def tiny_nets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NETS['segmentation'], 'bisenet', TinySegmenter)
        patch.setitem(models.NETS['segmentation'], 'depth_and_segmentation', TinyBoth)
        patch.setitem(models.NETS['depth'], 'dispnet', TinyDepth)
        patch.setitem(models.NETS['pose'], 'pose_cnn', TinyPose)
        yield


def make_config(method='holistic', **sections):
    depth, regulariser, *_ = METHODS[method]
    config = config_lib.defaults('scene_geometry')
    if method == 'klingner':
        config_lib.choose(config, 'model', 'depth_and_segmentation')
    config_lib.choose(config, 'pose_net', 'pose_cnn')
    sgd = dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant')
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=30),
        depth=dict(batch_size=8, num_steps=20),
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64)),
        geometry=dict(depth_from=depth, regulariser=regulariser),
        model=dict(width=0.0625),  # of decoders next to the stand-ins
        optim=sgd,
        optim_depth=sgd,
    )
    config_lib.update(config, **sections)
    return config


def stages_of(config, spec=SPEC):
    return pipelines.load('scene_geometry').make_stages(config, spec)


CAMERA = np.array([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]], np.float32)


def video_batch(rows=8):
    batch = train_batch(rows)
    frames = np.stack([np.roll(batch['image'], shift, axis=2) for shift in (1, -1)], 1)
    return {**batch, 'image_frames': frames, 'intrinsics': np.tile(CAMERA, (rows, 1, 1))}


def begin(stage, earlier=None):
    return parallel.to_host(stage.init(rng.root(0, 'test'), video_batch(), earlier or {}))


def step_once(stage, state, batch, devices=1, mode='pmap'):
    topology, root = parallel.topology(mode, devices), rng.root(0, 'test')

    def step(state, batch):
        keys = stage_functions.stage_keys(stage, root, state.step, 0, state.step)
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    args = topology.put_replicated(state), topology.put_batch(batch)
    after, metrics, mismatch = parallel.to_host(
        jax.block_until_ready(topology.spmd(step, num_args=2)(*args))
    )
    assert int(mismatch) == 0
    return after, {name: float(m.value()) for name, m in metrics.items()}


def moved(before, after):
    return {
        net
        for net in before
        if not jax.tree.all(jax.tree.map(np.array_equal, before[net], after[net]))
    }


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize('method', sorted(set(METHODS) - {'depth', 'pose'}))
def test_stages_nets_and_what_is_trained(method):
    depth, regulariser, nets, trained = METHODS[method]
    stages, earlier = stages_of(make_config(method)), {}
    assert [stage.name for stage in stages] == ['depth'] * (depth == 'pretrained') + [
        'segmentation'
    ]
    for stage in stages:
        earlier[stage.name] = jax.eval_shape(
            stage.init, jax.random.key(0), video_batch(), dict(earlier)
        )
    state, (*_, stage) = earlier['segmentation'], stages
    assert set(state.params) == nets
    owners = {'segmenter': {'segmenter'}, 'geometry': trained - {'segmenter'}}
    assert set(state.opt_state) == {name for name, owned in owners.items() if owned}
    assert (
        ('image_frames' in stage.train_input.features)
        == (depth == 'multitask')
        == bool(stage.train_input.frames)
    )
    step = parallel.topology('pmap', 1).spmd(
        lambda state, batch: stage.train_step(
            state, batch, stage_functions.stage_keys(stage, rng.root(0, 't'), 0, 0, 0)
        ),
        num_args=2,
    )
    _, metrics = jax.eval_shape(step, state, jax.tree.map(lambda x: x[None], video_batch()))
    assert ('loss_regulariser' in metrics) == (regulariser != 'none')
    assert ('loss_photometric_3' in metrics) == (depth == 'multitask')


def test_depth_alone_is_the_stage_before_the_proposal():
    (alone,), (first, _) = stages_of(make_config('depth')), stages_of(make_config('holistic'))
    assert alone.name == first.name == 'depth' and alone.train_input == first.train_input
    states = [
        jax.eval_shape(stage.init, jax.random.key(0), video_batch(), {}) for stage in (alone, first)
    ]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    assert set(states[0].params) == {'depth', 'pose'}


def test_depth_learns_from_every_frame_and_segmentation_from_labelled_ones():
    few = dict(data=dict(labelled_fraction=0.5))
    first, second = stages_of(make_config('holistic', **few))
    for inputs in (first.train_input, first.eval_input):
        assert (inputs.examples, inputs.part) == ('all', (0.0, 1.0))
    assert (second.train_input.examples, second.train_input.part) == ('labelled', (0.0, 0.5))
    assert (first.train_input.batch_key, second.train_input.batch_key) == (
        'depth.batch_size',
        'train.batch_size',
    )
    assert second.eval_input.examples == 'labelled'
    (joint,) = stages_of(make_config('novosel', **few))
    assert (joint.train_input.examples, joint.train_input.frames) == ('labelled', (-1, 1))


@pytest.mark.parametrize('method', ['holistic', 'novosel', 'depth'])
def test_noise_is_shared_over_devices(method):
    assert all(stage.shared_streams == ('tie_breaker',) for stage in stages_of(make_config(method)))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['depth', pytest.param('novosel', marks=pytest.mark.slow)])
def test_noise_is_shared_over_micro_batches(method):
    """Equal frames tie everywhere, so the photometric loss is the noise of the tie breaker."""
    still = video_batch()
    still['image_frames'] = np.stack([still['image']] * 2, 1)
    depth = dict(photometric='minimum', automask=True, smoothness='none', mask_weight=0.0)
    losses_of = {}
    for parts in (1, 2):
        config = make_config(method, depth=depth, train=dict(accumulate=parts))
        (stage,) = stages_of(config)
        _, metrics = step_once(stage, begin(stage), still)
        losses_of[parts] = metrics['loss_photometric_0']
    assert losses_of[1] < 0
    assert losses_of[2] == pytest.approx(losses_of[1], rel=1e-3)


@pytest.fixture(scope='module')
def pretrained():
    """Returns (stages, depth state, state before and after a step of the second stage, metrics)."""
    first, second = stages_of(make_config('holistic', geometry=dict(weight=3.0)))
    depth, _ = step_once(first, begin(first), video_batch())
    before = begin(second, {'depth': depth})
    after, metrics = step_once(second, before, train_batch())
    return (first, second), depth, before, after, metrics


def test_the_depth_net_is_frozen(pretrained):
    _, depth, before, after, _ = pretrained
    jax.tree.map(np.testing.assert_array_equal, before.params['depth'], depth.params['depth'])
    assert moved(before.params, after.params) == {'segmenter'}


def test_the_loss_is_the_supervised_one_and_the_weighted_regulariser(pretrained):
    _, _, before, _, metrics = pretrained
    assert metrics['loss'] == pytest.approx(
        metrics['loss_main'] + 3.0 * metrics['loss_regulariser'], rel=1e-5
    )
    image, size = np.float32(train_batch()['image']) / 255, (8, 32, 64)
    logits = TinySegmenter(NUM_CLASSES).apply({'params': before.params['segmenter']}, image, True)[
        'logits'
    ]
    disparity = TinyDepth().apply({'params': before.params['depth']}, image, True)['disparity'][0]
    probabilities, near = np.asarray(jax.nn.softmax(logits)), np.asarray(disparity)
    near = near / near.mean((1, 2), keepdims=True)
    expected = 0.0
    for axis in (1, 2):
        edges = np.abs(np.diff(probabilities, axis=axis)).max(-1)
        expected += (edges * np.exp(-np.abs(np.diff(near, axis=axis)))).mean()
    assert near.shape == size
    assert metrics['loss_regulariser'] == pytest.approx(expected, rel=1e-4)


def test_no_gradient_reaches_the_depth_map():
    keys = jax.random.split(jax.random.key(0))
    logits, disparity = (
        jax.random.normal(keys[0], (2, 8, 9, 3)),
        jax.random.uniform(keys[1], (2, 8, 9)) + 0.1,
    )
    for method in ('holistic', 'per_class', 'chen'):
        regulariser = scene_geometry.make_regulariser(make_config(method), lambda d: 1 / d)
        value = lambda y, d, regulariser=regulariser: regulariser(y, d, jnp.ones(2)).value()  # noqa: E731
        of_logits, of_depth = jax.grad(value, (0, 1))(logits, disparity)
        assert np.abs(of_logits).max() > 0 and np.abs(of_depth).max() == 0, method
    regulariser = scene_geometry.make_regulariser(make_config('chen_multitask'), lambda d: 1 / d)
    of_logits, of_depth = jax.grad(lambda y, d: regulariser(y, d, jnp.ones(2)).value(), (0, 1))(
        logits, disparity
    )
    assert np.abs(of_logits).max() == 0 and np.abs(of_depth).max() > 0


@pytest.mark.parametrize('method, over_classes', [('holistic', np.max), ('per_class', np.sum)])
def test_sharpness_multiplies_depth_edges(method, over_classes):
    keys = jax.random.split(jax.random.key(0))
    logits = jax.random.normal(keys[0], (2, 8, 9, 3))
    disparity = jax.random.uniform(keys[1], (2, 8, 9)) + 0.1
    config = make_config(method, geometry=dict(sharpness=7.0))
    loss = scene_geometry.make_regulariser(config, lambda d: 1 / d)(
        logits, disparity, jnp.ones(2)
    ).value()
    semantic, near = np.asarray(jax.nn.softmax(logits)), np.asarray(disparity)
    near = near / near.mean((1, 2), keepdims=True)
    expected = 0.0
    for axis in (1, 2):
        edges = over_classes(np.abs(np.diff(semantic, axis=axis)), -1)
        expected += (edges * np.exp(-7 * np.abs(np.diff(near, axis=axis)))).mean()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    'kind, reference', [('disparity', lambda d: d), ('depth', lambda d: 1 / d)]
)
def test_depth_edges_have_no_unit(kind, reference):
    disparity = jax.random.uniform(jax.random.key(0), (2, 4, 5)) + 0.1
    edges = scene_geometry.depth_map(disparity, lambda d: 1 / d, kind)
    np.testing.assert_allclose(edges, losses.normalised_depth(reference(disparity)), rtol=1e-6)
    np.testing.assert_allclose(
        scene_geometry.depth_map(7 * disparity, lambda d: 1 / d, kind), edges, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize('method', ['novosel', 'klingner'])
def test_both_tasks_train_what_they_share(method):
    (stage,) = stages_of(make_config(method))
    before = begin(stage)
    after, metrics = step_once(stage, before, video_batch())
    assert moved(before.params, after.params) == METHODS[method][3]
    terms = {name: value for name, value in metrics.items() if name.startswith('loss_')}
    weights = {'main': 1.0, **{f'photometric_{s}': 1 / 4 for s in range(4)}}
    weights |= {f'smoothness_{s}': 0.5 / 4 / 2**s for s in range(4)}
    assert metrics['loss'] == pytest.approx(
        sum(weights[k[5:]] * v for k, v in terms.items()), rel=1e-4
    )

    # Without the losses of depth, the shared layers move differently.
    alone = dict(geometry=dict(multitask_weight=0.0))
    (silent,) = stages_of(make_config(method, **alone))
    quiet, _ = step_once(silent, before, video_batch())
    shared = 'layer4' if method == 'novosel' else 'shared'
    kernels = [state.params['segmenter'][shared]['kernel'] for state in (before, quiet, after)]
    assert not np.array_equal(kernels[1], kernels[2])
    assert moved(before.params, quiet.params) == {'segmenter'}


@pytest.mark.slow
def test_steps_are_the_same_on_eight_devices(pretrained):
    (first, second), _, before, _, _ = pretrained
    for stage, start, batch in (
        (first, begin(first), video_batch()),
        (second, before, train_batch()),
    ):
        one, of_one = step_once(stage, start, batch)
        eight, of_eight = step_once(stage, start, batch, devices=8)
        for name, value in of_one.items():
            assert of_eight[name] == pytest.approx(value, rel=1e-4), name
        for a, b, origin in zip(
            *(jax.tree.leaves(s.params) for s in (eight, one, start)), strict=True
        ):
            assert np.linalg.norm(a - b) <= 0.01 * np.linalg.norm(b - origin) + 1e-6


# --- the pose net alone ---------------------------------------------------------------------------


def batch_with_depth(rows=8):
    """Returns a batch whose left half is near and whose upper quarter of rows has no depth."""
    batch = video_batch(rows)
    depth = np.full(batch['image'].shape[:3], 20, np.float32)
    depth[:, :, :32] = 5
    depth[:, :8] = 0
    return {**batch, 'depth': depth}


@pytest.fixture(scope='module')
def pose_alone():
    """Returns (stage, state before and after a step, its metrics)."""
    (stage,) = stages_of(make_config('pose', depth=ONE_LOSS), SPEC_WITH_TRUTH)
    before = begin(stage)
    return (stage, before, *step_once(stage, before, batch_with_depth()))


def test_the_pose_net_learns_alone_on_the_true_depth(pose_alone):
    stage, before, after, metrics = pose_alone
    assert stage.name == 'pose' and 'depth' in stage.train_input.features
    assert set(before.params) == moved(before.params, after.params) == {'pose'}
    assert metrics['loss'] == pytest.approx(metrics['loss_photometric_0'], rel=1e-6)
    assert {name for name in metrics if name.startswith('loss_')} == {'loss_photometric_0'}


def test_a_step_to_the_side_moves_what_is_near_by_its_true_depth(pose_alone):
    """The camera moves by half a metre along x, at a focal length of 40.

    That is 4 pixels where depth is 5, and 1 pixel where depth is 20.
    """
    stage, before, *_ = pose_alone
    params = jax.tree.map(np.zeros_like, before.params)
    params['pose']['last']['bias'] = np.float32([0, 0, 0, 5, 0, 0])
    batch = batch_with_depth()
    _, metrics = step_once(stage, before.replace(params=params), batch)
    target = batch['image'] / 255
    total, count = 0.0, 0
    for source, direction in (
        (0, -1),
        (1, 1),
    ):  # the earlier frame lies half a metre to the other side
        frame = batch['image_frames'][:, source] / 255
        for columns, shift in ((range(32), 4), (range(32, 64), 1)):
            for column in columns:
                if 0 <= column + direction * shift < 64:
                    total += np.abs(
                        target[:, 8:, column] - frame[:, 8:, column + direction * shift]
                    ).sum()
                    count += 8 * 24
    assert metrics['loss_photometric_0'] == pytest.approx(total / count, rel=1e-3)


def test_steps_of_the_pose_net_are_the_same_on_eight_devices(pose_alone):
    stage, before, one, of_one = pose_alone
    eight, of_eight = step_once(stage, before, batch_with_depth(), devices=8)
    assert of_eight['loss'] == pytest.approx(of_one['loss'], rel=1e-5)
    for a, b, origin in zip(
        *(jax.tree.leaves(s.params) for s in (eight, one, before)), strict=True
    ):
        assert np.linalg.norm(a - b) <= 0.01 * np.linalg.norm(b - origin) + 1e-6


def test_motion_is_scored_where_depth_is_given(pose_alone):
    """Depth comes at the size of the labels, larger than the images and padded."""
    stage, _, state, _ = pose_alone
    batch = {**batch_with_depth(), 'size': np.tile(np.int32([32, 64]), (8, 1))}
    poses = np.tile(np.eye(4, dtype=np.float32), (8, 3, 1, 1))
    poses[:, 2, 0, 3] = 1
    large = np.pad(batch['depth'].repeat(2, 1).repeat(2, 2), ((0, 0), (0, 6), (0, 3)))
    labels = dict(depth=large, label_size=np.tile(np.int32([64, 128]), (8, 1)))
    batch |= dict(pose=poses[:, 1], pose_frames=poses[:, ::2])
    small = dict(label_size=batch['size'])
    metrics = [jax.jit(stage.eval_step)(state, {**batch, **other}, {}) for other in (small, labels)]
    jax.tree.map(np.testing.assert_array_equal, *metrics)
    scores = stage.finalize(jax.tree.map(np.asarray, metrics[0]))
    assert 'abs_rel' not in scores and set(scores['baseline_still']) == {
        'rotation_error',
        'trajectory_error',
    }
    pictures = jax.eval_shape(stage.render, state, {**batch, **labels}, {})
    assert pictures['disparity'].pixels.shape == (8, 32, 64, 3)


@pytest.mark.parametrize(
    'change, word',
    [
        (dict(smoothness='edge_aware'), '--config.depth.smoothness=none'),
        (dict(num_scales=2), '--config.depth.num_scales=1'),
        (dict(photometric='minimum'), '--config.depth.photometric=l1'),
    ],
)
def test_losses_that_the_true_depth_does_not_fit_are_refused(change, word):
    with pytest.raises(InputError) as error:
        stages_of(make_config('pose', depth={**ONE_LOSS, **change}), SPEC_WITH_TRUTH)
    assert word in str(error.value)
    config = make_config('pose', depth={**ONE_LOSS, **change})
    key, _, value = word.removeprefix('--config.depth.').partition('=')
    config.depth[key] = type(config.depth[key])(value)
    assert stages_of(config, SPEC_WITH_TRUTH), 'the fix works'


def test_the_table_of_the_pose_net_resolves(tmp_path):
    plan = table.make_table_plan('configs/tables/scene_geometry_pose.py', 'quick', str(tmp_path))
    shares = {job.row.key: job.config.augment.flip for job in plan.runs}
    assert shares == {'flip_0.0': 0.0, 'flip_0.5': 0.5}
    assert all(job.config.geometry.depth_from == 'truth' for job in plan.runs)


def test_the_pose_net_alone_needs_depth():
    with pytest.raises(InputError, match='no depth'):
        stages_of(make_config('pose', depth=ONE_LOSS))


@pytest.mark.parametrize('method', ['depth', 'pose', 'novosel'])
def test_translations_in_units_of_inverse_depth_are_scaled_wherever_motions_are_used(
    method, monkeypatch
):
    scaled = []
    monkeypatch.setattr(TinyPose, 'by_inverse_depth', True)
    monkeypatch.setattr(
        monodepth, 'by_inverse_depth', lambda motions, depth: scaled.append(depth.shape) or motions
    )
    settings = dict(depth=ONE_LOSS) if method == 'pose' else {}
    (stage,) = stages_of(make_config(method, **settings), SPEC_WITH_TRUTH)
    state, batch = begin(stage), batch_with_depth()
    step_once(stage, state, batch)
    assert scaled
    if method == 'novosel':
        return
    scaled.clear()
    poses = np.tile(np.eye(4, dtype=np.float32), (8, 3, 1, 1))
    sizes = {key: np.tile(np.int32([32, 64]), (8, 1)) for key in ('size', 'label_size')}
    jax.eval_shape(
        stage.eval_step,
        state,
        {**batch, **sizes, 'pose': poses[:, 1], 'pose_frames': poses[:, ::2]},
        {},
    )
    assert scaled


# --- evaluation -----------------------------------------------------------------------------------


def test_segmentation_is_scored_without_depth_and_shown_with_it(pretrained):
    (_, stage), _, _, state, _ = pretrained
    (batch,) = eval_batches(10)
    without = state.replace(params={'segmenter': state.params['segmenter']})
    metrics = jax.eval_shape(stage.eval_step, without, batch, {})
    assert set(metrics) == {'confusion', 'image_score'}
    assert jax.eval_shape(stage.predict, without, batch['image']).shape == (10, 32, 64, NUM_CLASSES)
    pictures = jax.eval_shape(stage.render, state, batch, {})
    assert {'prediction', 'truth', 'disparity', 'depth_edges', 'semantic_edges'} <= set(pictures)
    painted = [picture.pixels for picture in pictures.values()]
    assert all(p.shape[-1] == 3 and p.dtype == np.uint8 for p in painted)


# --- wrong settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'method, sections, words',
    [
        (
            'baseline',
            dict(geometry=dict(regulariser='holistic')),
            ["'holistic' with config.geometry.depth_from=none"],
        ),
        (
            'chen',
            dict(geometry=dict(sharpness=2.0)),
            ['config.geometry.sharpness', '2.0', 'holistic, per_class'],
        ),
        (
            'depth',
            dict(geometry=dict(regulariser='chen')),
            ['config.geometry.regulariser', 'alone'],
        ),
        (
            'holistic',
            dict(geometry=dict(regulariser='none')),
            ['config.geometry.regulariser', 'chen'],
        ),
        ('holistic', dict(augment=dict(crop=(36, 64))), ['config.augment.crop', 'multiples of 8']),
        ('holistic', dict(depth=dict(rows=(0.5, 0.6))), ['config.depth.rows', 'one of the 4 rows']),
        (
            'novosel',
            dict(depth=dict(rows=(0, 0.75)), augment=dict(resize=(40, 80))),
            ['rows', '40 rows', 'cropped'],
        ),
        (
            'depth',
            dict(depth=dict(rows=(0, 0.75)), augment=dict(scale=(1.0, 2.0))),
            ['rows', 'scaled'],
        ),
        ('holistic', dict(depth=dict(mask_weight=0.2)), ['mask_weight', 'all_pixels']),
        ('holistic', dict(depth=dict(automask=True)), ['automask', 'minimum']),
        (
            'holistic',
            dict(depth=dict(photometric='all_pixels', mask_weight=0.2)),
            ['pose_net.name', 'pose_exp_net'],
        ),
    ],
)
def test_wrong_settings(method, sections, words):
    config = make_config(method, **sections)
    config_lib.validate(config)
    with pytest.raises(InputError) as error:
        stages_of(config)
    for word in words:
        assert word in str(error.value)


def test_depth_needs_a_camera():
    bare = dataclasses.replace(SPEC, features=('image', 'label', 'name'))
    with pytest.raises(InputError, match='intrinsics') as error:
        stages_of(make_config('holistic'), bare)
    for name in ('streets', 'apolloscape', 'cityscapes_video'):
        assert f'--config.data.name={name}' in error.value.fix
    assert stages_of(make_config('baseline'), bare)


def test_a_net_without_a_pyramid_cannot_share_it():
    config = make_config('novosel')
    config_lib.choose(config, 'model', 'erfnet')
    with pytest.raises(InputError, match='bisenet, '):
        stages_of(config)


@pytest.mark.parametrize(
    'key, value',
    [
        *(('frames', v) for v in ((), (0, 1), (1, -1), (1, 1))),
        *(('rows', v) for v in ((), (0.5,), (1, 0), (0, 1.5))),
    ],
)
def test_malformed_neighbours_and_rows_fail_the_schema(key, value):
    with pytest.raises(InputError, match=rf'config\.depth\.{key}'):
        config_lib.validate(make_config(depth={key: value}))


@pytest.mark.parametrize('method', METHODS)
def test_methods_of_the_config(method):
    config = config_file.load(f'configs/scene_geometry.py:quick,method={method}')
    config_lib.validate(config)
    assert (config.geometry.depth_from, config.geometry.regulariser) == METHODS[method][:2]
    assert (config.model.name == 'depth_and_segmentation') == (method == 'klingner')


def test_the_recipe_of_bisenet_is_that_of_its_authors():
    config = config_file.load('configs/scene_geometry.py:')
    assert (config.loss.name, config.loss.ohem_threshold, config.loss.ohem_min_kept) == (
        'ohem',
        0.7,
        1 / 16,
    )
    assert (config.optim.learning_rate, config.optim.weight_decay, config.loss.aux_weight) == (
        1e-2,
        5e-4,
        1.0,
    )
    net = bisenet.BiSeNet(NUM_CLASSES, width=0.0625)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda: net.lazy_init(jax.random.key(0), image, train=False))['params']
    (pattern, factor), *others = config.optim.factors
    fast = {name for name in named_leaves({'segmenter': params}) if re.fullmatch(pattern, name)}
    backbone = {name for name in named_leaves({'segmenter': params}) if '/resnet/' in name}
    assert factor == 10 and not others and len(backbone) == 60
    assert fast == set(named_leaves({'segmenter': params})) - backbone


def test_the_recipe_of_klingner_has_class_weights_and_a_drop_of_the_rate():
    config = config_file.load('configs/scene_geometry.py:method=klingner')
    assert (config.loss.name, config.loss.class_weights, config.loss.weight_k) == (
        'cross_entropy',
        'enet',
        1.10,
    )
    for section in (config.optim, config.optim_depth):
        rate = optim.schedule(section, 20)
        np.testing.assert_allclose(
            [rate(t) for t in (0, 14, 15, 19)], [1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-6
        )


def test_the_table_trains_a_depth_net_once_for_each_seed(tmp_path):
    made = plan.make_table_plan('configs/tables/scene_geometry_results.py', 'quick', str(tmp_path))
    steps = {(job.row.key, job.seed): job.config.depth.num_steps for job in made.runs}
    depth = [job for job in made.runs if job.config.geometry.depth_from in ('pretrained', 'alone')]
    assert {job.row.key for job in depth} == {'depth', 'chen', 'per_class', 'holistic'}
    for job in depth:
        assert (steps[job.row.key, job.seed] > 0) == (job.row.key == 'depth')
        if job.row.key != 'depth':
            start = made.start(job)
            assert start.row.key == 'depth' and start.seed == job.seed
            assert (
                start.config.depth_net == job.config.depth_net
                and start.config.pose_net == job.config.pose_net
            )
            assert job.config.init_from.path == str(start.folder)
    assert 'depth' not in {row.key for row in made.table.shown}


def test_a_clip_of_one_frame_is_refused_before_anything_compiles(tmp_path, monkeypatch):
    config = config_file.load('configs/scene_geometry.py:smoke')
    config.data.world.num_val = 1
    monkeypatch.setattr(
        driver, 'map_functions', lambda *_: pytest.fail('compiled before the data were looked at')
    )
    with pytest.raises(InputError, match=r"split 'val'.*\n.*no frame with neighbours at -1, \+1"):
        driver.train(config, str(tmp_path))
