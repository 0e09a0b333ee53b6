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
DEPTHS = {'pix2pix': 6, 'bicycle': 5}
"""Halvings of the smallest U-Net with drop-out, and of the smallest U-Net."""


def size_of(gan):
    """Returns the size of the smallest images, which the U-Net reduces to a pixel."""
    side = 2 ** DEPTHS[gan]
    return (side, side)


def make_config(gan='bicycle', **sections):
    """Returns a config of tiny nets."""
    config = config_lib.defaults('conditional_gan')
    config_lib.choose(config, 'features.model', 'vgg16')
    config.features.use = 'random'
    config.features.model.width = 0.05
    size = size_of(gan)
    config_lib.update(
        config,
        gan=gan,
        augment=dict(crop=size),
        data=dict(eval_size=size),
        condition=dict(sigma=1.0),
        train=dict(batch_size=8, num_steps=10),
        evaluate=dict(batch_size=4),
        testing=dict(num_samples=3),
    )
    for section in (config.bicycle, config.pix2pix):
        section.model.update(num_downs=DEPTHS[gan], width=0.05, init_std=0.3)
        section.discriminator.update(num_layers=1, num_scales=1, width=0.05)
        section.optim.update(name='adam', learning_rate=1e-3, schedule='constant')
        section.optim_discriminator.update(name='adam', learning_rate=1e-3, schedule='constant')
    config.bicycle.encoder.update(blocks=1, width=0.05)
    config_lib.update(config, **sections)
    return config


@functools.cache
def started(gan):
    """Returns the stage of a system and its first state."""
    (stage,) = pipeline.make_stages(make_config(gan), FACES)
    return stage, stage.init(rng.root(0, 'test'), make_batch(size=size_of(gan)), {})


@functools.cache
def predict_of(gan):
    """Returns the compiled prediction of a system."""
    return jax.jit(started(gan)[0].prediction.apply)


def samples_of(predict, state, points):
    """Returns the samples of four conditions."""
    inputs = {POINTS: points, 'weight': np.ones(4, np.float32)}
    return np.asarray(predict(state, inputs, {})['samples'])


CONDITIONS = make_batch()[POINTS]


@pytest.mark.slow
@pytest.mark.parametrize('gan', GANS)
def test_a_step_trains_generators_and_discriminators(gan):
    stage, before = started(gan)
    topology = parallel.topology('pmap', 1)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics)

    state = topology.put_replicated(parallel.to_host(before))
    batch = topology.put_batch(make_batch(size=size_of(gan)))
    state, metrics = topology.spmd(step, num_args=2)(state, batch)
    after = parallel.to_host(state)
    assert all(np.isfinite(mean.value()).all() for mean in parallel.to_host(metrics).values())
    for net, params in before.params.items():
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(after.params[net]), strict=True)
        changed = any((np.asarray(a) != b).any() for a, b in pairs)
        assert changed == (net != 'vgg'), net


@pytest.mark.parametrize('gan', GANS)
def test_samples_differ_and_do_not_depend_on_their_batch(gan):
    _, state = started(gan)
    drawn = samples_of(predict_of(gan), state, CONDITIONS[:4])
    assert drawn.shape == (4, 3, *size_of(gan), 3)
    apart = np.abs(drawn[:, 0].astype(int) - drawn[:, 1]).mean()
    assert apart > 0
    # The last bits of sums may depend on the batch, and norms amplify them.
    others = np.concatenate([CONDITIONS[:2], CONDITIONS[5:7]])
    again = samples_of(predict_of(gan), state, others).astype(int)
    assert np.abs(again[:2] - drawn[:2]).mean() < 0.02 * apart
    assert np.abs(again[2:] - drawn[2:]).mean() > 0


def test_codes_of_a_prediction_draw_the_same_samples(tmp_path):
    stage, state = started('bicycle')
    drawn = samples_of(predict_of('bicycle'), state, CONDITIONS[:4])
    codes = np.asarray(stage.prediction.codes(state)['codes'])
    np.savez(tmp_path / 'codes.npz', codes=codes[[1]])
    config = make_config('bicycle', predict=dict(codes=str(tmp_path / 'codes.npz')))
    (again,) = pipeline.make_stages(config, FACES)
    repeated = samples_of(jax.jit(again.prediction.apply), state, CONDITIONS[:4])
    np.testing.assert_array_equal(repeated, drawn[:, [1]])
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
