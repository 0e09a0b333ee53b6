"""The GAN rivals of drop-out codes: their inputs, samples, codes, and the steps of a stage."""

import functools

import jax
import numpy as np
import pytest
from conditional_batches import FACES, POINTS, make_batch

from segjax import config as config_lib
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.pipelines import conditional_gan as pipeline

GANS = ('pix2pix', 'bicycle')
SIZE = (64, 64)
"""The smallest images of a U-Net with drop-out."""


def make_config(gan='bicycle', **sections):
    """Returns a config of tiny nets."""
    config = config_lib.defaults('conditional_gan')
    config_lib.choose(config, 'features.model', 'vgg16')
    config.features.use = 'random'
    config.features.model.width = 0.05
    config_lib.update(
        config,
        gan=gan,
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE),
        condition=dict(sigma=1.0),
        train=dict(batch_size=8, num_steps=10),
        evaluate=dict(batch_size=4),
        testing=dict(num_samples=3),
    )
    for section in (config.bicycle, config.pix2pix):
        section.model.update(num_downs=6, width=0.05, init_std=0.3)
        section.discriminator.update(num_layers=1, width=0.05)
        section.optim.update(name='adam', learning_rate=1e-3, schedule='constant')
        section.optim_discriminator.update(name='adam', learning_rate=1e-3, schedule='constant')
    config.bicycle.encoder.update(blocks=1, width=0.05)
    config_lib.update(config, **sections)
    return config


@functools.cache
def started(gan):
    """Returns the stage of a system and its first state."""
    (stage,) = pipeline.make_stages(make_config(gan), FACES)
    return stage, stage.init(rng.root(0, 'test'), make_batch(size=SIZE), {})


def prediction_of(stage, state, rows=4):
    points = make_batch(size=SIZE)[POINTS][:rows]
    inputs = {POINTS: points, 'weight': np.ones(rows, np.float32)}
    return np.asarray(jax.jit(stage.prediction.apply)(state, inputs, {})['samples'])


@pytest.mark.parametrize('gan', GANS)
def test_a_step_trains_generators_and_discriminators(gan):
    stage, before = started(gan)
    topology = parallel.topology('pmap', 1)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics)

    state, metrics = topology.spmd(step, num_args=2)(
        topology.put_replicated(parallel.to_host(before)), topology.put_batch(make_batch(size=SIZE))
    )
    after = parallel.to_host(state)
    assert all(np.isfinite(mean.value()).all() for mean in parallel.to_host(metrics).values())
    for net, params in before.params.items():
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(after.params[net]), strict=True)
        changed = any((np.asarray(a) != b).any() for a, b in pairs)
        assert changed == (net != 'vgg'), net


@pytest.mark.parametrize('gan', GANS)
def test_samples_differ_and_do_not_depend_on_their_batch(gan):
    stage, state = started(gan)
    drawn = prediction_of(stage, state)
    assert drawn.shape == (4, 3, *SIZE, 3)
    apart = np.abs(drawn[:, 0].astype(int) - drawn[:, 1]).mean()
    # The last bits of sums may depend on the batch, and norms amplify them.
    of_fewer = prediction_of(stage, state, 2).astype(int)
    assert np.abs(of_fewer - drawn[:2]).mean() < 0.02 * apart


def test_codes_of_a_prediction_draw_the_same_samples(tmp_path):
    stage, state = started('bicycle')
    drawn = prediction_of(stage, state)
    codes = np.asarray(stage.prediction.codes(state)['codes'])
    np.savez(tmp_path / 'codes.npz', codes=codes[[1]])
    config = make_config('bicycle', predict=dict(codes=str(tmp_path / 'codes.npz')))
    (again,) = pipeline.make_stages(config, FACES)
    np.testing.assert_array_equal(prediction_of(again, state), drawn[:, [1]])
    assert started('pix2pix')[0].prediction.codes is None


def test_codes_may_be_maps(tmp_path):
    sections = dict(bicycle=dict(code_map=(2, 4)))
    (stage,) = pipeline.make_stages(make_config('bicycle', **sections), FACES)
    codes = np.asarray(stage.prediction.codes({})['codes'])
    assert codes.shape == (3, 2, 4, 8)
    np.savez(tmp_path / 'codes.npz', codes=codes[[1]])
    sections['predict'] = dict(codes=str(tmp_path / 'codes.npz'))
    (again,) = pipeline.make_stages(make_config('bicycle', **sections), FACES)
    np.testing.assert_array_equal(again.prediction.codes({})['codes'], codes[[1]])


def test_codes_of_another_length_are_refused(tmp_path):
    np.savez(tmp_path / 'codes.npz', codes=np.zeros((2, 5)))
    config = make_config('bicycle', predict=dict(codes=str(tmp_path / 'codes.npz')))
    with pytest.raises(InputError, match='shape'):
        pipeline.make_stages(config, FACES)


def test_samples_of_pix2pix_without_dropout_are_refused():
    config = make_config('pix2pix')
    config.pix2pix.model.dropout = 0.0
    with pytest.raises(InputError, match='equal') as caught:
        pipeline.make_stages(config, FACES)
    assert caught.value.fix == '--config.testing.num_samples=1'
    config.testing.num_samples = 1
    pipeline.make_stages(config, FACES)
