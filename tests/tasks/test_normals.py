"""Normals of the data set: scores, the estimator, loss and pictures.

The pipeline monocular_normals has the same stage. Its tests cover devices, stops and kills.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_heads
from fakes import SPEC as WITHOUT_NORMALS
from scored_pipeline import build_one_layer, make_config

from segjax import models
from segjax.core import rng
from segjax.errors import InputError
from segjax.metrics import normals as metrics
from segjax.ops import images
from segjax.ops import normals as ops
from segjax.tasks import normals


@pytest.fixture(autouse=True)
def small_nets(monkeypatch):
    """Replaces all segmentation nets by a convolution, and guesses fewer constant normals."""
    monkeypatch.setattr(models, 'build_from', build_one_layer)
    few = np.float32([[0, 0, -1], [0, -1, 0], [1, 0, 0]])
    monkeypatch.setattr(normals, 'constants', lambda: few)


def make_stage(**sections):
    config = make_config(**sections)
    return config, normals.make_stage(config, toy_heads.SPEC, config.normals, name='normals')


def test_a_data_set_without_normals_is_refused():
    config = make_config()
    with pytest.raises(InputError, match="no feature 'normals'") as error:
        normals.make_stage(config, WITHOUT_NORMALS, config.normals, name='normals')
    assert error.value.fix == '--config.data.name=heads'


def test_scores_are_those_of_the_estimator_and_of_the_best_constant():
    config, stage = make_stage(train=dict(ema=0.0))
    batch = toy_heads.batch_of()
    state = stage.init(rng.root(0, 'test'), batch, {})
    sums = jax.jit(stage.eval_step)(state, batch, {})
    scores = stage.finalize(jax.tree.map(np.asarray, sums))

    estimate = normals.make_scorer(config, toy_heads.SPEC, config.normals)
    net = (state.params['normal_net'], state.model_state['normal_net'])
    estimate = jax.jit(estimate)
    vectors = estimate(*net, batch['image'])
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1, rtol=1e-4)
    np.testing.assert_array_equal(vectors, estimate(*net, batch['image'].astype(np.float32)))
    measured = ops.is_measured(batch['normals'])
    angle = np.asarray(metrics.angles(vectors, batch['normals']))[measured]
    assert scores['mean_angle'] == pytest.approx(angle.mean(), rel=1e-4)
    assert scores['rms_angle'] == pytest.approx(np.sqrt((angle**2).mean()), rel=1e-4)

    # The mean normal of a ball faces the camera.
    facing = metrics.angles(np.float32([0, 0, -1]), batch['normals'])
    expected = np.asarray(facing)[measured].mean()
    assert scores['baseline_constant']['mean_angle'] == pytest.approx(expected, rel=1e-3)


def test_the_loss_falls_to_zero_at_the_true_normals():
    batch = toy_heads.batch_of()
    exact = normals.terms({'logits': 7.0 * batch['normals']}, batch)['cosine']
    opposite = normals.terms({'logits': -batch['normals']}, batch)['cosine']
    assert exact.value() == pytest.approx(0, abs=1e-5)
    assert opposite.value() == pytest.approx(2, rel=1e-5)


def test_pictures_show_the_truth_and_the_error():
    _, stage = make_stage(train=dict(ema=0.0))
    batch = toy_heads.batch_of(rows=2)
    state = stage.init(rng.root(0, 'test'), batch, {})
    pictures = jax.jit(stage.render)(state, batch, {})
    np.testing.assert_array_equal(pictures['truth'].pixels, ops.paint(batch['normals']))
    outside = ~np.asarray(ops.is_measured(batch['normals']))
    np.testing.assert_array_equal(pictures['error'].pixels[outside][0], images.heat(jnp.zeros(())))
