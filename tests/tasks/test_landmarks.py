"""Landmarks: the stage, its loss, mean shape, scores, devices, pictures, and real faces."""

import dataclasses
import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_heads
from fakes import SPEC as WITHOUT_POINTS
from scored_pipeline import build_one_layer, make_config

from segjax import models
from segjax.core import parallel, rng
from segjax.data import transforms
from segjax.errors import InputError
from segjax.losses import landmarks as losses
from segjax.metrics import landmarks as metrics
from segjax.ops import heat_maps
from segjax.spec import Feature
from segjax.tasks import landmarks, scorers

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def small_nets(request, monkeypatch):
    """Replaces all segmentation nets by a convolution, except in tests on real faces."""
    if 'real_data' not in request.fixturenames:
        monkeypatch.setattr(models, 'build_from', build_one_layer)


def make_stage(config=None, spec=toy_heads.SPEC):
    config = config or make_config(train=dict(ema=0.0))
    return landmarks.make_stage(config, spec, config.landmarks, name='landmarks')


def initial(stage, batch):
    return stage.init(rng.root(0, 'test'), batch, {})


# --- settings -------------------------------------------------------------------------------------


def test_a_data_set_without_points_is_refused():
    with pytest.raises(InputError, match="no feature 'points_face'") as error:
        make_stage(spec=WITHOUT_POINTS)
    assert error.value.fix == '--config.data.name=faces'


@pytest.mark.parametrize(
    'change, fix',
    [
        (dict(eyes=(36, 45)), '--config.landmarks.eyes="()"'),
        (dict(loss=dict(points=0.0, heat_map=0.0)), '--config.landmarks.loss.points=1.0'),
    ],
)
def test_settings_that_contradict_the_points_are_refused(change, fix):
    config = make_config()
    config.landmarks.update(change)
    with pytest.raises(InputError) as error:
        make_stage(config)
    assert error.value.fix == fix


def test_a_flip_needs_pairs():
    declared = {'points_face': toy_heads.POINTS._replace(pairs=())}
    spec = dataclasses.replace(toy_heads.SPEC, declared=declared)
    config = make_config()
    with pytest.raises(InputError, match='without pairs') as error:
        make_stage(config, spec)
    assert error.value.fix == '--config.landmarks.augment.flip=0.0'
    config.landmarks.augment.flip = 0.0
    assert make_stage(config, spec).num_steps == 3


# --- the loss -------------------------------------------------------------------------------------


def system_of(config):
    """Returns the inputs of the functions of a stage."""
    training = scorers.training_of(config, None, 'net', config.landmarks, 'landmarks')
    return landmarks.System(training, config.landmarks, 'points_face', 5, 8)


def loss_terms(config, outputs, batch):
    return jax.jit(functools.partial(landmarks.loss_terms, system_of(config)))(outputs, batch)


def test_the_loss_has_the_terms_whose_weight_is_not_zero():
    config = make_config()
    batch = toy_heads.batch_of()
    logits = np.random.default_rng(0).normal(size=(8, 16, 16, 5)).astype(np.float32)
    terms = loss_terms(config, {'logits': logits}, batch)
    points = heat_maps.expected_points(logits, SIZE)
    expected = losses.coordinates(points, batch['points_face'], batch['weight'], SIZE)
    np.testing.assert_allclose(terms['points'], expected, rtol=1e-6)
    assert terms['heat_map'].count == 8 * 5
    config.landmarks.loss.heat_map = 0.0
    assert set(loss_terms(config, {'logits': logits}, batch)) == {'points'}


def test_a_flipped_example_has_the_loss_of_the_flipped_maps():
    """The maps of a net that sees the flipped image are mirrored, and pairs swap places."""
    example = toy_heads.head(4)
    declared = {'points_face': toy_heads.POINTS}
    moved = transforms.apply_geometry(example, transforms.flip_matrix(32), SIZE, declared)
    logits = np.random.default_rng(0).normal(size=(1, *SIZE, 5)).astype(np.float32)
    swapped = logits[:, :, ::-1][..., [1, 0, 2, 4, 3]]
    config = make_config()
    terms = []
    for maps, points in ((logits, example['points_face']), (swapped, moved['points_face'])):
        batch = toy_heads.batch_of(rows=1) | {'points_face': np.float32(points[None])}
        terms.append(loss_terms(config, {'logits': maps}, batch))
    for name, mean in terms[0].items():
        np.testing.assert_allclose(terms[1][name], mean, rtol=1e-4)


# --- the step -------------------------------------------------------------------------------------


def state_after(num_steps, devices=1):
    """Returns the state after steps on one batch, computed in float64."""
    with jax.enable_x64(True):
        config = make_config(train=dict(ema=0.0))
        config.landmarks.optim.update(name='sgd', momentum=0.0, learning_rate=0.1)
        stage = make_stage(config)
        topology = parallel.topology('pmap', devices)
        root = rng.root(0, 'test')
        batch = toy_heads.batch_of()
        # Devices have different numbers of points.
        batch['points_face'][0] = np.nan
        batch['points_face'][3, 2] = (40, 5)

        def step(state, batch):
            keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
            state, _ = stage.train_step(state, batch, keys)
            return state, parallel.replica_mismatch(state)

        step = topology.spmd(step, num_args=2)
        state = topology.put_replicated(parallel.to_host(stage.init(root, batch, {})))
        for _ in range(num_steps):
            state, mismatch = step(state, topology.put_batch(batch))
            assert int(mismatch) == 0
        return parallel.to_host(state), batch


def test_a_step_is_the_same_on_eight_devices_and_remembers_the_mean_shape():
    start, batch = state_after(0)
    alone, _ = state_after(1)
    together, _ = state_after(1, devices=8)
    nets = [state.params['landmark_net'] for state in (alone, together, start)]
    for one, eight, before in zip(*map(jax.tree.leaves, nets), strict=True):
        np.testing.assert_allclose(eight - before, one - before, rtol=1e-3, atol=1e-7)
    assert not np.array_equal(nets[0]['conv']['kernel'], nets[2]['conv']['kernel'])

    points = batch['points_face'][1:].copy()
    points[2, 2] = np.nan
    expected = np.nanmean((points + 0.5) / 32, 0)
    for state in (alone, together):
        shape = state.extra['mean_shape']
        np.testing.assert_array_equal(shape['count'][:, 0], [7, 7, 6, 7, 7])
        np.testing.assert_allclose(shape['sum'] / shape['count'], expected, rtol=1e-5)
        wide = landmarks.mean_points(shape, np.array([[16, 64]]))
        np.testing.assert_allclose((np.asarray(wide)[0] + 0.5) / [64, 16], expected, rtol=1e-5)


# --- evaluation -----------------------------------------------------------------------------------


def test_scores_are_those_of_the_detector():
    config = make_config(train=dict(ema=0.0))
    stage = make_stage(config)
    batch = toy_heads.batch_of()
    batch['points_face'][2, 4] = np.nan
    batch['points_face'][5] = np.nan
    batch['weight'][7] = 0
    batch['size'][:, 1] = 24
    state = initial(stage, batch)
    sums = jax.jit(stage.eval_step)(state, batch, {})
    scores = stage.finalize(jax.tree.map(np.asarray, sums))

    detect = jax.jit(landmarks.make_scorer(config, toy_heads.SPEC, config.landmarks))
    net = (state.params['landmark_net'], state.model_state['landmark_net'])
    points = np.asarray(detect(*net, batch['image']))
    np.testing.assert_array_equal(points, detect(*net, batch['image'].astype(np.float32)))
    truth = batch['points_face']
    rows = [0, 1, 2, 3, 4, 6]
    distance = np.linalg.norm(points - truth, axis=-1)[rows]
    eyes = np.linalg.norm(truth[rows, 0] - truth[rows, 1], axis=-1)
    nme = 100 * np.nanmean(distance, 1) / eyes
    assert scores['width_error'] == pytest.approx(100 / 24 * np.nanmean(distance, 1).mean(), 1e-4)
    assert scores['sum_error'] == pytest.approx(np.nansum(distance, 1).mean() / 24, 1e-4)
    assert scores['nme'] == pytest.approx(nme.mean(), 1e-4)
    assert scores['accuracy_5'] == (nme < 5).mean()
    assert 'baseline_mean_shape' not in scores, 'no step was made'
    (line,) = scores['cumulative']['series']
    assert line['x'][9] == 5 and line['name'] == 'net'

    # The report shows the largest errors.
    score = np.asarray(sums['image_score'].value())
    np.testing.assert_allclose(-score[rows] * 24, np.nanmean(distance, 1), rtol=1e-4)
    assert np.isnan(score[[5, 7]]).all()


def test_without_eyes_there_is_no_nme():
    config = make_config(train=dict(ema=0.0))
    config.landmarks.eyes = ()
    stage = make_stage(config)
    batch = toy_heads.batch_of()
    sums = jax.jit(stage.eval_step)(initial(stage, batch), batch, {})
    scores = stage.finalize(jax.tree.map(np.asarray, sums))
    assert set(scores) == {'width_error', 'sum_error'}


def test_the_mean_shape_of_equal_faces_is_exact():
    stage = make_stage()
    batch = toy_heads.batch_of()
    batch['points_face'][:] = batch['points_face'][0]
    state = initial(stage, batch)
    shape = {
        'sum': 3 * (batch['points_face'][0] + 0.5) / 32,
        'count': np.full((5, 1), 3, np.float32),
    }
    state = state.replace(extra={**state.extra, 'mean_shape': shape})
    sums = jax.jit(stage.eval_step)(state, batch, {})
    scores = stage.finalize(jax.tree.map(np.asarray, sums))
    baseline = scores['baseline_mean_shape']
    assert baseline['width_error'] == pytest.approx(0, abs=1e-3)
    assert baseline['accuracy_5'] == 1


def test_pictures_show_predicted_and_true_points():
    stage = make_stage()
    batch = toy_heads.batch_of(rows=2)
    pictures = jax.jit(stage.render)(initial(stage, batch), batch, {})
    for name, color in (('prediction', landmarks.PREDICTED), ('truth', landmarks.TRUE)):
        picture = pictures[name]
        assert picture.pixels.shape == (2, 256, 256, 3)
        np.testing.assert_array_equal(picture.size, [[256, 256]] * 2)
        assert (np.asarray(picture.pixels) == color).all(-1).any((1, 2)).all()
    # The centre of the pixel 10 of the image is at 83.5 of the picture.
    x, y = np.round((batch['points_face'][0, 2] + 0.5) * 8 - 0.5).astype(int)
    np.testing.assert_array_equal(pictures['truth'].pixels[0, y, x], landmarks.TRUE)
    assert pictures['prediction'].values['error in % of the width'].shape == (2,)


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize('form', losses.FORMS)
def test_a_map_learns_its_point(form):
    """Gradient descent on the maps themselves, from maps that are constant."""
    config = make_config()
    config.landmarks.loss.form = form
    system = system_of(config)
    batch = toy_heads.batch_of(rows=2)

    def loss(logits):
        terms = landmarks.loss_terms(system, {'logits': logits}, batch)
        return terms['points'].value() + terms['heat_map'].value()

    @jax.jit
    def descend(logits):
        return jax.lax.fori_loop(0, 300, lambda _, x: x - 30 * jax.grad(loss)(x), logits)

    points = heat_maps.expected_points(descend(jnp.zeros((2, *SIZE, 5))), SIZE)
    errors = metrics.image_error(points, batch['points_face'], SIZE[1], 'mean')
    assert (np.asarray(errors) < 0.02).all()


def faces_of(folder, number, size):
    """Returns a batch of the first real faces of a folder at a small size."""
    points = np.load(folder / 'landmarks.npz')
    declared = {'points_face': Feature('points', (68, 2))}
    examples = []
    for name in list(points)[:number]:
        image = cv2.imread(str(folder / f'image/{name}.jpg'))[..., ::-1]
        example = {'image': np.ascontiguousarray(image), 'points_face': points[name]}
        examples.append(transforms.resized(example, size, declared))
    batch = {key: np.stack([each[key] for each in examples]) for key in examples[0]}
    batch['points_face'] = batch['points_face'].astype(np.float32)
    return {
        **batch,
        'weight': np.ones(number, np.float32),
        'index': np.arange(number, dtype=np.int32),
        'size': np.tile(np.int32(size), (number, 1)),
    }


@pytest.mark.slow
def test_the_net_finds_landmarks_of_real_faces_better_than_the_mean_shape(real_data):
    config = make_config(num_steps=200, train=dict(ema=0.0))
    config.landmarks.update(eyes=metrics.EYES, optim=dict(learning_rate=4e-3))
    config.landmarks.augment.flip = 0.0
    config.landmarks.model.update(width=0.5, blocks=(1, 3, 1, 1), dropout=(0.0, 0.0))
    config.landmarks.loss.sigma = 4.0
    declared = {'points_face': Feature('points', (68, 2))}
    count = {'train': 320, 'val': 120}
    spec = dataclasses.replace(toy_heads.SPEC, declared=declared, num_examples=count)
    stage = make_stage(config, spec)
    train = faces_of(real_data / 'faces_68_train', 320, SIZE)
    test = faces_of(real_data / 'faces_68', 120, SIZE)

    # A step on 16 faces at a time.
    topology = parallel.topology('pmap', 1)
    root = rng.root(0, 'test')
    generator = np.random.default_rng(0)

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        return stage.train_step(state, batch, keys)[0]

    step = topology.spmd(step, num_args=2)
    state = topology.put_replicated(parallel.to_host(stage.init(root, train, {})))
    for _ in range(stage.num_steps):
        chosen = generator.choice(320, 16, replace=False)
        batch = {key: values[chosen] for key, values in train.items()}
        state = step(state, topology.put_batch(batch))
    sums = jax.jit(stage.eval_step)(parallel.to_host(state), test, {})
    scores = stage.finalize(jax.tree.map(np.asarray, sums))
    assert scores['nme'] < 0.8 * scores['baseline_mean_shape']['nme']
