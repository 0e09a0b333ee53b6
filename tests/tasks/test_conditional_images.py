"""Frozen nets of features, of the loss and of the scores."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conditional_batches import FACES

from segjax import config as config_lib
from segjax import models, pretrained
from segjax.core import rng
from segjax.errors import InputError
from segjax.metrics import lpips
from segjax.pretrained.sources import SOURCES
from segjax.protocol import TrainState
from segjax.tasks import conditional_images, sampling, supervised
from segjax.train import initialization, net_sources

SIZE = (32, 32)
"""The smallest images of which conv5_3 has a pixel to pool."""
POOLED = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3')
LAYERS = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3')


def make_config(**score_features):
    """Returns a config of narrow nets of features with random weights."""
    config = config_lib.defaults('conditional_gan')
    for section in ('features', 'score_features'):
        config_lib.choose(config, f'{section}.model', 'vgg16')
        config[section].model.width = 0.05
    config.features.use = 'random'
    config.score_features.update(score_features)
    config_lib.update(config, augment=dict(crop=SIZE), data=dict(eval_size=SIZE))
    config_lib.update(config, landmarks=dict(use='none'), normals=dict(use='none'))
    return config


def make_state(task, seed=0):
    """Returns a state that holds the frozen nets of a task alone."""
    variables = conditional_images.frozen_variables(task, rng.root(seed, 'test'), {})
    params, model_state = supervised.fields_of(variables)
    return TrainState(jnp.int32(0), params, model_state, {}, {})


def make_photos(rows=2):
    return np.random.default_rng(0).uniform(-1, 1, (rows, *SIZE, 3)).astype(np.float32)


def features_of(phi, params, photos):
    return jax.jit(functools.partial(conditional_images.features_of, phi))(params, photos)


def test_loss_and_scores_share_a_net_of_all_their_layers():
    task = conditional_images.make_task(make_config(), FACES, ('conv1_2', 'conv2_1'))
    assert task.phis == (task.phi,)
    assert task.phi.net.layers == ('conv1_2', 'conv2_1', *POOLED[1:])
    assert set(make_state(task).params) == {'vgg'}


def test_scores_can_have_a_net_of_their_own():
    config = make_config(use='random')
    task = conditional_images.make_task(config, FACES, ('conv1_2',))
    assert task.phi.net.layers == ('conv1_2',)
    assert task.score_phi.net.layers == POOLED
    assert conditional_images.make_task(config, FACES).phi is None

    # The weights of both nets differ. They do not depend on the seed.
    state = make_state(task)
    first = {name: params['vgg']['conv1_1']['kernel'] for name, params in state.params.items()}
    assert set(first) == {'vgg', 'score_vgg'}
    assert not np.array_equal(first['vgg'], first['score_vgg'])
    chex.assert_trees_all_equal(make_state(task, seed=1).params, state.params)

    # The scores read their own net.
    judge = conditional_images.make_judge(task, lambda *_: None, None)
    photos = make_photos()
    pooled = jax.jit(lambda photos: judge.frozen.features(state, photos).pooled)(photos)
    layers = features_of(task.score_phi, state.params, photos)
    assert list(pooled) == ['pool1', 'pool2', 'pool3', 'pool4']
    expected = layers['conv2_2'].reshape(2, 8, 2, 8, 2, -1).max((2, 4))
    np.testing.assert_array_equal(pooled['pool2'], expected)


def test_the_loss_does_not_depend_on_the_net_of_the_scores():
    states = []
    for use in ('same', 'random'):
        task = conditional_images.make_task(make_config(use=use), FACES, ('conv1_2',))
        states.append((task, make_state(task)))
    photos = make_photos()
    maps = [features_of(task.phi, state.params, photos)['conv1_2'] for task, state in states]
    np.testing.assert_array_equal(*maps)


def test_a_net_of_the_scores_that_is_loaded_needs_a_source_and_the_fix_works():
    config = make_config(use='load')
    with pytest.raises(InputError, match="'score_vgg'") as caught:
        conditional_images.make_task(config, FACES)
    assert "('score_vgg', 'vgg16.pth')" in caught.value.fix
    config.init_from.sources = (('score_vgg', 'vgg16.pth'),)
    task = conditional_images.make_task(config, FACES)
    assert conditional_images.loaded_nets(task) == ('score_vgg',)


# --- the perceptual distance between samples ------------------------------------------------------


def lpips_config(tmp_path):
    """Returns a config with files of a net of features and of heads, and the heads by layer."""
    config = make_config(use='load', lpips=True)
    model = config.score_features.model
    net = models.build_from('features', model, layers=LAYERS, dtype='float32')
    shapes = jax.eval_shape(net.init, jax.random.key(0), make_photos())
    generator = np.random.default_rng(1)
    weights = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype('f4'), shapes)
    heads = {}
    for layer in LAYERS:
        channels = len(weights['params']['vgg'][layer]['bias'])
        heads[layer] = generator.random(channels).astype('f4')

    # Both files have the names and the layouts of their releases.
    tensors = {}
    for number, head in enumerate(heads.values()):
        tensors[f'lin{number}.model.1.weight'] = head.reshape(1, -1, 1, 1)
    files = {'score_vgg': pretrained.export_weights(weights, SOURCES['vgg']), 'lpips': tensors}
    rows = []
    for net, content in files.items():
        path = str(tmp_path / f'{net}.npz')
        pretrained.write(path, content)
        rows.append((net, path))
    config.init_from.sources = tuple(rows)
    return config, heads


def test_the_distance_of_samples_is_the_mean_over_all_pairs(tmp_path):
    config, heads = lpips_config(tmp_path)
    config.testing.features = False
    task = conditional_images.make_task(config, FACES)
    assert conditional_images.loaded_nets(task) == ('score_vgg', 'lpips')
    rows = initialization.open_net_sources(config.init_from)
    state, _ = net_sources.load(rows, make_state(task), partial=False)

    # Features of the samples and of the true image, and the heads of the file.
    judge = conditional_images.make_judge(task, lambda *_: None, None)
    photos = make_photos(4)
    maps = jax.jit(judge.frozen.features)(state, photos)
    assert not maps.pooled
    assert tuple(maps.compared) == LAYERS
    chex.assert_trees_all_equal(dict(maps.heads), heads)

    frozen = sampling.Frozen(features=lambda state, image: maps)
    feature_scores = jax.jit(lambda *photos: sampling.feature_scores(frozen, state, *photos, 0))
    scores = feature_scores(photos[:3], photos[3])
    assert set(scores) == {'spread/LPIPS'}
    distance = jax.jit(lpips.distance)
    distances = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        first = {layer: maps.compared[layer][i] for layer in LAYERS}
        second = {layer: maps.compared[layer][j] for layer in LAYERS}
        distances.append(distance(first, second, heads))
    np.testing.assert_allclose(scores['spread/LPIPS'], np.mean(distances), rtol=1e-4)


def test_heads_need_a_source_and_the_features_that_they_belong_to():
    config = make_config(lpips=True)
    with pytest.raises(InputError, match="'lpips'"):
        conditional_images.make_task(config, FACES)
    config.init_from.sources = (('lpips', 'vgg.pth'),)
    with pytest.raises(InputError, match=r"features\.use='random'") as caught:
        conditional_images.make_task(config, FACES)
    assert caught.value.where == 'config.score_features.lpips'
    config.init_from.sources += (('score_vgg', 'vgg16.pth'),)
    config.score_features.use = 'load'
    task = conditional_images.make_task(config, FACES)
    assert task.score_phi.net.layers == (*POOLED, 'conv5_3')


def test_features_of_images_have_the_leading_axes_of_the_images():
    task = conditional_images.make_task(make_config(), FACES)
    state = make_state(task)
    photos = make_photos(6).reshape(2, 3, *SIZE, 3)
    layers = features_of(task.phi, state.params, photos)
    assert jax.tree.map(jnp.shape, layers)['conv2_2'][:4] == (2, 3, 16, 16)
    flat = features_of(task.phi, state.params, photos[0])
    np.testing.assert_allclose(layers['conv2_2'][0], flat['conv2_2'], atol=1e-5)
    # Without a net the image is the only layer.
    assert list(conditional_images.features_of(None, {}, photos)) == ['image']
