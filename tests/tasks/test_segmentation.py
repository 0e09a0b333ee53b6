"""The segmentation task: void as a class, padded labels, scores and pictures, averaged nets."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, eval_batches

from segjax import config as config_lib
from segjax.core import optim
from segjax.data import transforms
from segjax.modes import predict
from segjax.ops import resize
from segjax.protocol import Mean, TrainState
from segjax.report.scores import scored_at
from segjax.spec import IGNORE
from segjax.tasks import segmentation

LABEL = np.array([[[0, 4, IGNORE], [1, IGNORE, IGNORE], [2, 3, 0]]])


def make_config(**data):
    config = config_lib.defaults('supervised')
    config_lib.update(config, data=data, augment=dict(crop=(32, 64)))
    return config


def test_ignored_pixels_become_a_class_only_where_that_is_asked_for():
    void, plain = make_config(void_class=True), make_config()
    np.testing.assert_array_equal(segmentation.train_label(LABEL, plain, SPEC), LABEL)
    np.testing.assert_array_equal(
        segmentation.train_label(LABEL, void, SPEC), [[[0, 4, 5], [1, 5, 5], [2, 3, 0]]]
    )
    assert (
        segmentation.num_outputs(plain, SPEC) == NUM_CLASSES
        and segmentation.num_outputs(void, SPEC) == NUM_CLASSES + 1
    )
    assert segmentation.class_pixels(plain, SPEC) == ((900, 500, 300, 200, 100), 100)
    assert segmentation.class_pixels(void, SPEC) == ((900, 500, 300, 200, 100, 100), 0)


def test_padding_of_labels_is_no_void():
    batch = {'label': jnp.asarray(LABEL), 'label_size': jnp.array([[3, 2]])}
    expected = [[[0, 4, IGNORE], [1, 5, IGNORE], [2, 3, IGNORE]]]
    np.testing.assert_array_equal(
        segmentation.eval_label(batch, make_config(void_class=True), SPEC), expected
    )
    inside = segmentation.valid_pixels(batch['label_size'], batch['label'])
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
    config = make_config()
    moved = jax.jit(lambda batch: segmentation.label_of_image(batch, config, SPEC))(batch)
    np.testing.assert_array_equal(moved, [[[0, 0, 1, 1], [2, 2, 3, 3], [IGNORE] * 4, [IGNORE] * 4]])


def scores_of(config, prediction, label):
    """Returns the scores of a net that predicts these train ids."""
    outputs = segmentation.num_outputs(config, SPEC)
    functions = segmentation.make_evaluation(
        config, SPEC, lambda state, image: jax.nn.one_hot(prediction, outputs)
    )
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
    metrics = jax.jit(functions.eval_step)(None, batch, {})
    return functions.finalize(
        {k: Mean(np.asarray(m.sum), np.asarray(m.count)) for k, m in metrics.items()}
    )


def test_void_predicted_is_a_miss_and_void_truth_counts_only_in_its_own_mean():
    label = jnp.array([[[0, 0, 0, 0], [1, 1, IGNORE, IGNORE]]])
    prediction = jnp.array([[[0, 0, 0, 5], [1, 1, 5, 1]]])
    scores = scores_of(make_config(void_class=True), prediction, label)
    assert scores['IoU']['class 0'] == pytest.approx(3 / 4), 'one pixel was given to void'
    assert scores['IoU']['class 1'] == 1, 'where the truth is void nothing counts'
    assert scores['mIoU'] == pytest.approx((3 / 4 + 1) / 2)
    # Among all classes, void has a hit, a false alarm and a miss. Class 1 has a false alarm.
    assert [sum(row) for row in scores['confusion'][:2]] == [4, 2], (
        'with the pixel that was given to void'
    )
    assert scores['mIoU_with_void'] == pytest.approx((3 / 4 + 2 / 3 + 1 / 3) / 3)
    plain = scores_of(make_config(), jnp.minimum(prediction, 4), label)
    assert plain['IoU']['class 1'] == 1 and 'mIoU_with_void' not in plain


def judge_of(config, infer=None):
    return segmentation.Judge(config, SPEC, infer, SPEC.split('val').num_labelled)


def test_finalize_alone_reads_the_confusion_matrix():
    """Two classes occur. A quarter of the pixels of class 0 is predicted as class 1."""
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES))
    counts[0, 0] = 3
    counts[0, 1] = 1
    counts[1, 1] = 4
    judge = judge_of(make_config())
    scores = segmentation.finalize(judge, {'confusion': Mean(counts, np.float32(1))})
    assert scores['IoU']['class 0'] == pytest.approx(3 / 4)
    assert scores['IoU']['class 1'] == pytest.approx(4 / 5)
    assert scores['confusion'] == counts.astype(int).tolist()
    baselines = segmentation.baseline_scores(judge, counts)
    assert {name: scores[name] for name in baselines} == baselines
    # Class 0 is the commonest in training, and is the truth of one half of the pixels.
    assert baselines['baseline_commonest']['pixel_accuracy'] == pytest.approx(1 / 2)


def test_eval_step_alone_counts_pixels_and_ranks_images():
    label = jnp.array([[[0, 1]], [[0, 0]]])
    batch = {
        'image': jnp.zeros((2, 1, 2, 3), jnp.uint8),
        'label': label,
        'weight': jnp.ones(2),
        'index': jnp.array([1, 0]),
        'size': jnp.array([[1, 2], [1, 2]]),
        'label_size': jnp.array([[1, 2], [1, 2]]),
    }
    logits = jax.nn.one_hot(jnp.array([[[0, 0]], [[0, 0]]]), NUM_CLASSES)
    judge = judge_of(make_config(), lambda state, image: logits)._replace(num_examples=2)
    metrics = jax.jit(functools.partial(segmentation.eval_step, judge))(None, batch, {})
    matrix = metrics['confusion'].sum[:NUM_CLASSES, :NUM_CLASSES]
    assert matrix[0, 0] == 3 and matrix[1, 0] == 1 and matrix.sum() == 4
    # Image 1 has one of two pixels right: IoU of 1/2 and 0. Image 0 is right.
    np.testing.assert_allclose(metrics['image_score'].value(), [1, 1 / 4])


def test_render_alone_marks_wrong_pixels():
    config = make_config()
    config.evaluate.resolution = 'image'
    prediction = jnp.array([[[0, 1, 1]]])
    judge = judge_of(config, lambda state, image: jax.nn.one_hot(prediction, NUM_CLASSES))
    batch = {
        'image': jnp.zeros((1, 1, 3, 3), jnp.uint8),
        'label': jnp.array([[[0, 0, IGNORE]]]),
        'size': jnp.array([[1, 3]]),
        'label_size': jnp.array([[1, 3]]),
    }
    pictures = jax.jit(functools.partial(segmentation.render, judge))(None, batch, {})
    wrong = (pictures['errors'].pixels == jnp.array(segmentation.ERROR_COLOR)).all(-1)
    np.testing.assert_array_equal(wrong, [[[False, True, False]]])
    expected = segmentation.paint(prediction, SPEC)
    np.testing.assert_array_equal(pictures['prediction'].pixels, expected)


@pytest.mark.parametrize('resolution, shape', [('label', (40, 70)), ('image', (32, 64))])
def test_label_maps_and_pictures_are_the_pixels_that_are_scored(resolution, shape):
    """The confusion matrix of the label maps is the matrix of the scores."""
    config = make_config()
    config.evaluate.resolution = resolution
    judge = judge_of(config, lambda state, image: class_probabilities_of(image))
    (batch,) = eval_batches(10)
    maps = jax.jit(functools.partial(segmentation.label_maps, judge))(None, batch, {})
    chex.assert_shape([maps.prediction, maps.truth], (10, *shape))
    size = batch['label_size' if resolution == 'label' else 'size']
    np.testing.assert_array_equal(maps.size, size)
    inside = segmentation.valid_pixels(maps.size, maps.truth)
    assert np.all(maps.truth[~inside] == IGNORE)

    counted = maps.truth != IGNORE
    pairs = NUM_CLASSES * maps.truth[counted] + maps.prediction[counted]
    matrix = np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)
    metrics = jax.jit(functools.partial(segmentation.eval_step, judge))(None, batch, {})
    scored = metrics['confusion'].sum
    np.testing.assert_array_equal(scored[:NUM_CLASSES, :NUM_CLASSES], matrix)

    pictures = jax.jit(functools.partial(segmentation.render, judge))(None, batch, {})
    np.testing.assert_array_equal(pictures['truth'].pixels, segmentation.paint(maps.truth, SPEC))
    for picture in pictures.values():
        np.testing.assert_array_equal(picture.size, size)


def test_predict_alone_never_says_void():
    logits = jnp.zeros((1, 2, 2, NUM_CLASSES + 1)).at[..., -1].set(9.0)
    judge = judge_of(make_config(void_class=True), lambda state, image: logits)
    probabilities = segmentation.predict(judge, None, jnp.zeros((1, 2, 2, 3), jnp.uint8))
    chex.assert_shape(probabilities, (1, 2, 2, NUM_CLASSES))
    np.testing.assert_allclose(probabilities, 1 / NUM_CLASSES, rtol=1e-6)


SIZES = [
    (24, 40),
    (24, 31),
    (17, 40),
]  # of the images on their canvas of 24x40: two are letterboxed
LABEL_SIZES = [(48, 80), (37, 51), (21, 50)]


def letterboxed_batch():
    """Returns images and labels of three sizes on common canvases, and an example of weight 0."""
    rng = np.random.default_rng(5)
    label = np.full((4, 48, 80), IGNORE)
    for row, (height, width) in enumerate(LABEL_SIZES):
        label[row, :height, :width] = rng.integers(0, NUM_CLASSES, (height, width))
        label[row, :height, :width][rng.random((height, width)) < 0.2] = IGNORE
    label[3] = label[0]
    return {
        'image': rng.integers(0, 256, (4, 24, 40, 3)).astype(np.uint8),
        'label': label,
        'weight': np.array([1, 1, 1, 0], np.float32),
        'index': np.arange(4),
        'size': np.array([*SIZES, SIZES[0]]),
        'label_size': np.array([*LABEL_SIZES, LABEL_SIZES[0]]),
    }


def counted_at_image(prediction, batch, outputs):
    """Counts the confusion matrix [outputs, outputs] of each image, pixel by pixel."""
    matrices = np.zeros((3, outputs, outputs), int)
    for row in range(3):
        (height, width), (tall, wide) = SIZES[row], LABEL_SIZES[row]
        for i, j in np.ndindex(height, width):
            y, x = int((i + 0.5) * tall / height), int((j + 0.5) * wide / width)
            truth = batch['label'][row, y, x]
            truth = outputs - 1 if truth == IGNORE and outputs > NUM_CLASSES else truth
            if truth != IGNORE:
                matrices[row, truth, prediction[row, i, j]] += 1
    return matrices


@pytest.mark.parametrize('void', [False, True])
def test_scores_at_the_size_of_the_images_are_those_of_a_loop_over_their_pixels(void):
    config, batch = make_config(void_class=void, eval_size=(24, 40)), letterboxed_batch()
    config.evaluate.resolution = 'image'
    outputs = segmentation.num_outputs(config, SPEC)
    prediction = np.random.default_rng(6).integers(0, outputs, (4, 24, 40))
    functions = segmentation.make_evaluation(
        config, SPEC, lambda state, image: jax.nn.one_hot(prediction, outputs)
    )
    metrics = jax.jit(functions.eval_step)(None, batch, {})
    expected = counted_at_image(prediction, batch, outputs)
    np.testing.assert_array_equal(metrics['confusion'].sum[:outputs, :outputs], expected.sum(0))
    assert int(metrics['confusion'].sum.sum()) == expected.sum(), 'padding counts nowhere'
    scores = functions.finalize(
        {k: Mean(np.asarray(m.sum), np.asarray(m.count)) for k, m in metrics.items()}
    )
    assert scores['resolution'] == '24x40'
    of_classes = expected.sum(0)[:NUM_CLASSES]
    hit = np.diagonal(of_classes)
    union = of_classes.sum(1) + of_classes[:, :NUM_CLASSES].sum(0) - hit
    assert scores['mIoU'] == pytest.approx(np.mean(hit / union))
    of_images = metrics['image_score'].value()
    for row in range(3):
        matrix = expected[row, :NUM_CLASSES]
        hit = np.diagonal(matrix)
        union = matrix.sum(1) + matrix[:, :NUM_CLASSES].sum(0) - hit
        assert of_images[row] == pytest.approx(np.mean(hit / union)), (
            'the pictures are ranked by the same pixels'
        )
    pictures = jax.eval_shape(functions.render, None, batch, {})
    assert {picture.pixels.shape for picture in pictures.values()} == {(4, 24, 40, 3)}


def class_probabilities_of(image):
    """Returns logits that are mixed from the colours of each pixel, without its neighbours."""
    mixed = np.random.default_rng(3).normal(size=(3, NUM_CLASSES)).astype(np.float32)
    return jnp.einsum(
        'bhwc,cd->bhwd', jnp.sin(jnp.asarray(image, jnp.float32)), mixed, precision='highest'
    )


@pytest.mark.parametrize('resolution', ['image', 'label'])
def test_crops_change_nothing_for_a_net_of_single_pixels(resolution):
    """At the size of the image the matrices are equal.

    At the size of the label probabilities are resized in place of logits.
    """
    batch, matrices = letterboxed_batch(), {}
    for crop in ((), (16, 20)):
        config = make_config(eval_size=(24, 40))
        config_lib.update(config, evaluate=dict(resolution=resolution, crop=crop))
        functions = segmentation.make_evaluation(
            config, SPEC, lambda state, image: class_probabilities_of(image)
        )
        matrices[crop] = np.asarray(jax.jit(functions.eval_step)(None, batch, {})['confusion'].sum)
    whole, crops = matrices.values()
    assert whole.sum() == crops.sum()
    np.testing.assert_allclose(crops, whole, atol=0 if resolution == 'image' else 0.2 * whole.max())


def test_crops_decide_as_prediction_of_the_same_tiles_does():
    """The label map is that of --mode predict.

    Evaluation sees the image at half its size. The output of the net depends on the place in the
    crop.
    """
    original = np.random.default_rng(8).integers(0, 256, (44, 70, 3)).astype(np.uint8)
    ramp = jnp.linspace(0, 1, 12)[:, None, None] * jnp.linspace(0, 3, NUM_CLASSES)

    def infer(state, image):
        return class_probabilities_of(image) * ramp

    config = make_config(eval_size=(24, 40))
    config_lib.update(
        config,
        evaluate=dict(crop=(12, 20), stride=0.75),
        predict=dict(tile=(12, 20), overlap=0.25, batch_size=1),
    )
    spec = dataclasses.replace(SPEC, max_size={'train': (44, 70), 'val': (44, 70)})
    plan = predict.make_predict_plan(config, spec)
    assembly = predict.Assembly(None, original, plan, NUM_CLASSES)
    functions = segmentation.make_evaluation(config, spec, infer)
    predict_tile = jax.jit(functions.predict)
    for place, pixels in assembly.cuttings():
        probabilities = predict_tile(None, pixels[None])[0]
        assembly.add(place, np.moveaxis(np.asarray(probabilities), -1, 0))
    (net_size,) = predict.net_sizes((44, 70), plan)
    image = np.zeros((1, 24, 40, 3), np.uint8)
    image[0, : net_size[0], : net_size[1]] = transforms.resize_image(original, net_size)
    batch = {
        'image': image,
        'label': assembly.classes[None].astype(int),
        'weight': np.ones(1, np.float32),
        'index': np.arange(1),
        'size': np.array([net_size]),
        'label_size': np.array([[44, 70]]),
    }
    counts = jax.jit(functions.eval_step)(None, batch, {})['confusion'].sum
    assert int(counts.sum()) == 44 * 70 and len(np.unique(assembly.classes)) == NUM_CLASSES
    assert int(np.diagonal(counts).sum()) >= 44 * 70 - 2, 'but for ties the decisions are the same'


def test_scores_say_in_which_crops_the_net_saw_the_images():
    config = make_config()
    config.evaluate.crop = (713, 713)
    assert scored_at(config) == 'label size, crops of 713x713, stride 0.667'


def test_scores_say_that_they_are_of_the_size_of_the_labels():
    label = jnp.array([[[0, 1]]])
    assert scores_of(make_config(), label, label)['resolution'] == 'label size'


def test_pictures_of_void_are_black():
    np.testing.assert_array_equal(
        segmentation.paint(jnp.array([[NUM_CLASSES, IGNORE]]), SPEC), np.zeros((1, 2, 3))
    )
    np.testing.assert_array_equal(
        segmentation.paint(jnp.array([[1]]), SPEC)[0, 0], SPEC.classes.palette[1]
    )


def state_of(step, params, extra):
    return TrainState(
        jnp.int32(step), params, {net: {'mean': p} for net, p in params.items()}, {}, extra
    )


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


# --- many classes ---------------------------------------------------------------------------------


@pytest.mark.parametrize('resolution', ['label', 'image'])
@pytest.mark.parametrize('crop', [(), (16, 16)], ids=['whole', 'crops'])
def test_predictions_of_few_images_and_classes_at_a_time_are_those_of_all(
    monkeypatch, resolution, crop
):
    config = make_config()
    config_lib.update(config, evaluate=dict(resolution=resolution, crop=crop))
    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(3, NUM_CLASSES)), jnp.float32)

    def infer(state, image):
        calls.append(image.shape)
        return jnp.sin(image.astype(jnp.float32)) @ kernel

    judge = judge_of(config, infer)
    batch = letterboxed_batch()

    def predicted():
        return jax.jit(lambda batch: segmentation.predict_labels(judge, None, batch))(batch)

    calls = []
    expected = predicted()
    assert {shape[0] for shape in calls} == {4}

    # Two images have the logits of half of the batch. Every class is resized alone.
    of_image = 4 * 24 * 40 * segmentation.num_outputs(config, SPEC)
    monkeypatch.setattr(resize, 'WHOLE_BYTES', 2 * of_image)
    in_parts = functools.partial(resize.argmax_valid, whole_bytes=0, chunk_bytes=1)
    monkeypatch.setattr(resize, 'argmax_valid', in_parts)
    calls = []
    np.testing.assert_array_equal(predicted(), expected)
    assert {shape[0] for shape in calls} == {2}


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [(8, 512, 683), (1, 2100, 2100), (8, 2100, 2100)])
def test_the_evaluation_of_150_classes_stays_below_2_gigabytes(sizes):
    """docs/results/evaluation_memory.md lists the measurements of this test."""
    arguments = [str(number) for number in (150, *sizes)]
    command = [sys.executable, '-m', 'tests.helpers.evaluation_memory', *arguments]
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = {**os.environ, 'XLA_FLAGS': ''}
    result = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout.splitlines()[-1])['peak'] < 2000
