"""What pipelines that segment have in common: void as a class, padded labels, averaged nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC

from segjax import config as config_lib
from segjax import optim, segmenter
from segjax.data.spec import IGNORE
from segjax.protocol import Mean, TrainState

LABEL = np.array([[[0, 4, IGNORE], [1, IGNORE, IGNORE], [2, 3, 0]]])


def make_config(**data):
    config = config_lib.defaults('supervised')
    config_lib.update(config, data=data, augment=dict(crop=(32, 64)))
    return config


def test_ignored_pixels_become_a_class_only_where_that_is_asked_for():
    void, plain = make_config(void_class=True), make_config()
    np.testing.assert_array_equal(segmenter.train_label(LABEL, plain, SPEC), LABEL)
    np.testing.assert_array_equal(segmenter.train_label(LABEL, void, SPEC), [[[0, 4, 5], [1, 5, 5], [2, 3, 0]]])
    assert segmenter.num_outputs(plain, SPEC) == NUM_CLASSES and segmenter.num_outputs(void, SPEC) == NUM_CLASSES + 1
    assert segmenter.class_pixels(plain, SPEC) == ((900, 500, 300, 200, 100), 100)
    assert segmenter.class_pixels(void, SPEC) == ((900, 500, 300, 200, 100, 100), 0)


def test_padding_of_labels_is_no_void():
    batch = {'label': jnp.asarray(LABEL), 'label_size': jnp.array([[3, 2]])}
    expected = [[[0, 4, IGNORE], [1, 5, IGNORE], [2, 3, IGNORE]]]
    np.testing.assert_array_equal(segmenter.eval_label(batch, make_config(void_class=True), SPEC), expected)
    inside = segmenter.valid_pixels(batch['label_size'], batch['label'])
    np.testing.assert_array_equal(inside, [[[True, True, False]] * 3])


def test_labels_as_input_lie_where_the_image_lies():
    """A label of 4x8 on a canvas of 6x8 goes to the valid 2x4 of an image canvas of 4x4."""
    label = np.full((1, 6, 8), IGNORE)
    label[0, :4] = np.arange(4)[:, None] // 2 * 2 + np.arange(8) // 4
    batch = {
        'image': np.zeros((1, 4, 4, 3), np.uint8),
        'label': jnp.asarray(label),
        'label_size': jnp.array([[4, 8]]),
        'size': jnp.array([[2, 4]]),
    }
    moved = segmenter.label_of_image(batch, make_config(), SPEC)
    np.testing.assert_array_equal(moved, [[[0, 0, 1, 1], [2, 2, 3, 3], [IGNORE] * 4, [IGNORE] * 4]])


def scores_of(config, prediction, label):
    """Through eval_step and finalize, for a net that predicts just that."""
    outputs = segmenter.num_outputs(config, SPEC)
    functions = segmenter.make_evaluation(config, SPEC, lambda state, image: jax.nn.one_hot(prediction, outputs))
    rows, height, width = label.shape
    size = jnp.full((rows, 2), jnp.array([height, width]))
    batch = {
        'image': jnp.zeros((*label.shape, 3), jnp.uint8),
        'label': label,
        'weight': jnp.ones(rows),
        'index': jnp.arange(rows),
        'size': size,
        'label_size': size,
    }
    metrics = jax.jit(functions['eval_step'])(None, batch, {})
    return functions['finalize']({k: Mean(np.asarray(m.sum), np.asarray(m.count)) for k, m in metrics.items()})


def test_void_predicted_is_a_miss_and_void_truth_counts_only_in_its_own_mean():
    label = jnp.array([[[0, 0, 0, 0], [1, 1, IGNORE, IGNORE]]])
    prediction = jnp.array([[[0, 0, 0, 5], [1, 1, 5, 1]]])
    scores = scores_of(make_config(void_class=True), prediction, label)
    assert scores['IoU']['class 0'] == pytest.approx(3 / 4), 'one pixel was given to void'
    assert scores['IoU']['class 1'] == 1, 'where the truth is void nothing counts'
    assert scores['mIoU'] == pytest.approx((3 / 4 + 1) / 2)
    # Among all classes: void is hit once, said once too often and missed once; class 1 was said once too often.
    assert scores['mIoU_with_void'] == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)
    plain = scores_of(make_config(), jnp.minimum(prediction, 4), label)
    assert plain['IoU']['class 1'] == 1 and 'mIoU_with_void' not in plain


def test_pictures_of_void_are_black():
    np.testing.assert_array_equal(segmenter.paint(jnp.array([[NUM_CLASSES, IGNORE]]), SPEC), np.zeros((1, 2, 3)))
    np.testing.assert_array_equal(segmenter.paint(jnp.array([[1]]), SPEC)[0, 0], SPEC.classes.palette[1])


def state_of(step, params, extra):
    return TrainState(jnp.int32(step), params, {net: {'mean': p} for net, p in params.items()}, {}, extra)


def test_averaged_nets_serve_from_the_first_update_on_and_others_stay_as_they_are():
    first = {'net': jnp.zeros(2), 'frozen': jnp.ones(2)}
    start = optim.start_average({'net': first['net']}, {'net': {'mean': first['net']}}, 0.5)
    assert optim.start_average(first, {}, 0.0) == {}
    state = state_of(0, first, start)
    params, statistics = optim.averaged(state, 0.5)
    np.testing.assert_array_equal(params['net'], first['net'])
    state = optim.update_average(state_of(0, {**first, 'net': jnp.full(2, 3.0)}, start), 0.5)
    params, statistics = optim.averaged(state.replace(step=jnp.int32(1)), 0.5)
    # Without bias: the first average is the first value.
    np.testing.assert_allclose(params['net'], 3.0)
    np.testing.assert_allclose(statistics['net']['mean'], 3.0)
    np.testing.assert_array_equal(params['frozen'], first['frozen'])
    assert optim.update_average(state, 0.0) is state
