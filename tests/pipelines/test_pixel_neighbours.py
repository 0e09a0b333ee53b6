"""Pixel-wise nearest neighbours: the regression, the stored images, samples, wrong configs."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
from conditional_batches import FACES, POINTS, SIZE, make_batch

from segjax import config as config_lib
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.pipelines import pixel_neighbours as pipeline
from segjax.tasks import conditional_images

NUM_IMAGES = 10
SPEC = dataclasses.replace(FACES, num_examples={'train': NUM_IMAGES, 'val': 10})
WHOLE = make_batch(NUM_IMAGES)
"""All training images."""


def make_config(**sections):
    """Returns a config of tiny nets with plain gradient descent."""
    config = config_lib.defaults('pixel_neighbours')
    config_lib.choose(config, 'features.model', 'vgg16')
    config.features.model.width = 0.05
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE),
        condition=dict(sigma=1.0),
        features=dict(use='random'),
        model=dict(width=0.01, split_at=1),
        matching=dict(layers=('conv1_2',), num_images=4, images_of_sample=2, radius=0),
        train=dict(batch_size=4, num_steps=10),
        evaluate=dict(batch_size=4),
        testing=dict(num_samples=3, features=False),
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
    )
    config_lib.update(config, **sections)
    return config


@functools.cache
def started():
    """Returns both stages and their first states."""
    regression, matching = pipeline.make_stages(make_config(), SPEC)
    key = rng.root(0, 'test')
    first = regression.init(key, make_batch(), {})
    # Images of a new net leave [-1, 1], and would be cut off.
    small = jax.tree.map(lambda leaf: 0.3 * leaf, first.params['regressor'])
    first = first.replace(params={**first.params, 'regressor': small})
    second = matching.init(key, make_batch(), {'regression': first})
    return regression, matching, parallel.to_host(first), parallel.to_host(second)


def run_steps(stage, state, batches, devices=1):
    """Returns the state and the losses after a step on each of some batches."""
    topology = parallel.topology('pmap', devices)

    def step(state, batch):
        state, metrics = stage.train_step(state, batch, {})
        return state, parallel.sum_over_devices(metrics), parallel.replica_mismatch(state)

    run = topology.spmd(step, num_args=2)
    state = topology.put_replicated(state)
    history = []
    for batch in batches:
        state, metrics, mismatch = run(state, topology.put_batch(batch))
        assert int(mismatch) == 0
        history.append(float(parallel.to_host(metrics)['loss'].value()))
    return parallel.to_host(state), history


def drawn(stage, state, rows):
    """Returns the samples of the conditions of some training images, [B, n, H, W, 3] uint8."""
    inputs = {POINTS: WHOLE[POINTS][rows], 'weight': np.ones(len(rows), np.float32)}
    return np.asarray(jax.jit(stage.prediction.apply)(state, inputs, {})['samples'])


@functools.cache
def smooth_images():
    """Returns the smooth images of all training images, [N, H, W, 3] uint8."""
    regression, _, first, _ = started()
    return drawn(regression, first, np.arange(NUM_IMAGES))[:, 0]


@functools.cache
def stored(devices=1):
    """Returns the batches of the matching, the state that holds their images, and the losses."""
    _, matching, _, state = started()
    order = np.resize(np.random.default_rng(3).permutation(NUM_IMAGES), 12).reshape(3, 4)
    batches = [{key: value[rows] for key, value in WHOLE.items()} for rows in order]
    # The last two examples begin the next pass. Their images are stored already.
    batches[2]['image'][2:] = 7
    return batches, *run_steps(matching, state, batches, devices)


# --- training -------------------------------------------------------------------------------------


def test_the_net_learns_by_the_squared_error_of_its_images():
    regression, _, first, _ = started()
    batch = {key: value[:4] for key, value in WHOLE.items()}
    _, losses = run_steps(regression, first, [batch] * 3)
    assert losses[2] < losses[1] < losses[0]
    # The smooth images have 8 bits.
    error = (smooth_images()[:4].astype(float) - batch['image']) / 127.5
    np.testing.assert_allclose(losses[0], (error**2).mean(), rtol=1e-2)


@pytest.mark.parametrize('devices', [1, 4])
def test_all_training_images_are_stored_once(devices):
    _, matching, _, state = started()
    assert matching.num_steps == 3
    assert matching.train_input.augment is None
    batches, after, losses = stored(devices)
    bank = after.extra['bank']
    np.testing.assert_array_equal(bank['sharp'], WHOLE['image'])
    # Roundings of the net may move a value to the next of 256.
    smooth = smooth_images()
    assert np.abs(bank['smooth'].astype(int) - smooth).max() <= 1
    error = (smooth[batches[0]['index']].astype(float) - batches[0]['image']) / 127.5
    np.testing.assert_allclose(losses[0], (error**2).mean(), rtol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(bank['features'], axis=-1), 1, rtol=1e-5)
    chex.assert_trees_all_equal(after.params, state.params)


# --- samples --------------------------------------------------------------------------------------


def test_every_pixel_comes_from_the_most_similar_of_the_images_of_its_sample():
    _, matching, _, _ = started()
    _, state, _ = stored()
    bank = state.extra['bank']

    # The colour of an image is its number, so that samples show where their pixels come from.
    numbers = np.arange(NUM_IMAGES, dtype=np.uint8)[:, None, None, None]
    coloured = np.broadcast_to(20 * numbers, bank['sharp'].shape)
    state = state.replace(extra={'bank': {**bank, 'sharp': coloured}})
    rows = np.array([8, 2, 5, 0])
    samples = drawn(matching, state, rows)
    assert samples.shape == (4, 3, *SIZE, 3)
    source = samples[..., 0] // 20

    # Features of all smooth images, and of the images as wholes.
    task = conditional_images.make_task(make_config(), SPEC, ('conv1_2',))
    values = bank['smooth'] / np.float32(127.5) - 1
    maps = conditional_images.features_of(task.phi, state.params, values)['conv1_2']
    maps = np.asarray(maps / np.linalg.norm(maps, axis=-1, keepdims=True))
    members = pipeline.member_sets(make_config())
    for row, query in enumerate(rows):
        nearest = np.argsort(-bank['features'] @ bank['features'][query])[:4]
        assert nearest[0] == query
        similarity = np.einsum('hwc,khwc->khw', maps[query], maps[nearest])
        for sample in range(3):
            allowed = nearest[members[sample]]
            assert set(source[row, sample].flat) <= set(allowed)
            best = allowed[similarity[members[sample]].argmax(0)]
            # Roundings decide between equal similarities.
            assert (source[row, sample] == best).mean() > 0.97
        # The first sample may use the nearest images, and finds the training image itself.
        assert (source[row, 0] == query).mean() > 0.97


def test_samples_have_sets_of_images_that_depend_on_the_seed_alone():
    members = pipeline.member_sets(make_config(testing=dict(num_samples=6)))
    np.testing.assert_array_equal(members.sum(1), 2)
    np.testing.assert_array_equal(members[:3], pipeline.member_sets(make_config()))
    other = pipeline.member_sets(make_config(testing=dict(num_samples=6, codes_seed=1)))
    assert (members != other).any()


# --- wrong configs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'sections, where, fix',
    [
        (dict(matching=dict(num_images=11)), 'matching.num_images', 10),
        (dict(matching=dict(images_of_sample=4)), 'matching.images_of_sample', 3),
        (dict(model=dict(branches='late')), 'model.branches', 'single'),
        (dict(data=dict(train_split='train[:5]')), 'data.train_split', 'train'),
    ],
)
def test_wrong_configs_are_refused_and_the_fix_works(sections, where, fix):
    config = make_config(**sections)
    with pytest.raises(InputError) as caught:
        pipeline.make_stages(config, SPEC)
    assert caught.value.where == f'config.{where}'
    assert caught.value.fix == f'--config.{where}={fix}'
    section, key = where.split('.')
    config[section][key] = fix
    pipeline.make_stages(config, SPEC)


def test_a_single_image_has_a_single_sample():
    config = make_config(matching=dict(num_images=1, images_of_sample=1))
    with pytest.raises(InputError) as caught:
        pipeline.make_stages(config, SPEC)
    assert caught.value.fix == '--config.testing.num_samples=1'
    config.testing.num_samples = 1
    pipeline.make_stages(config, SPEC)
