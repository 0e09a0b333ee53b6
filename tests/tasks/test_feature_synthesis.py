"""Statistics, fingerprints and scores of synthetic features, on a net of three convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_split
from fakes import NUM_CLASSES, SPEC, eval_batches

from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.pipelines import dense_features as pipeline
from segjax.tasks import feature_synthesis as task


@functools.cache
def started():
    """Returns (synthesis, state of S, arrays that its stage hands on, state of the generator)."""
    synthesis = toy_split.make_synthesis(toy_split.make_config())
    key = rng.root(0, 'init')
    image = np.zeros((8, *toy_split.SIZE, 3), np.uint8)
    batch = {
        'image': image,
        'label': np.zeros(image.shape[:3], np.int32),
        'weight': np.ones(8, np.float32),
        'index': np.arange(8, dtype=np.int32),
    }
    stage = pipeline.segmentation_stage(synthesis)
    variables = synthesis.net.init(key, jnp.zeros((1, *toy_split.SIZE, 3)), train=False)
    params = {task.SEGMENTER: variables['params']}
    statistics = {'batch_stats': jax.tree.map(lambda x: x + 0.1, variables['batch_stats'])}
    state = pipeline.supervised.fresh_state(
        params, {task.SEGMENTER: statistics}, {}, num_steps=1, ema=0.0
    )
    arrays = stage.hand_on.finalize(sums_of(stage.hand_on.eval_step, state))
    earlier = {pipeline.SEGMENTATION: state}
    earlier |= {f'{pipeline.SEGMENTATION}/{name}': array for name, array in arrays.items()}
    features = pipeline.features_stage(synthesis).init(key, batch, earlier)
    return synthesis, state, arrays, features


def sums_of(eval_step, state, batch_size=5):
    """Returns the sums of the ten validation examples, two batches of five."""
    step = jax.jit(lambda state, batch: eval_step(state, batch, {}))
    total = None
    for batch in eval_batches(batch_size):
        sums = parallel.to_host(dict(step(state, batch)))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return total


def real_features(synthesis, state):
    """Returns the features of the validation images and the labels under them, [n, C] and [n]."""
    features = []
    labels = []
    net = (state.params[task.SEGMENTER], state.model_state[task.SEGMENTER])
    encode = jax.jit(functools.partial(task.encode, synthesis))
    for batch in eval_batches(1):
        x = encode(*net, batch['image'])
        height, width = batch['size'][0]
        label = np.asarray(task.segmentation.to_image(batch['label'], batch))[0]
        for i, j in np.ndindex(x.shape[1:3]):
            row, column = toy_split.STRIDE * i, toy_split.STRIDE * j
            if row < height and column < width:
                features.append(np.asarray(x[0, i, j], np.float64))
                labels.append(label[row, column])
    return np.stack(features), np.array(labels)


def test_mean_and_deviation_are_those_of_the_features_inside_the_images():
    synthesis, state, arrays, _ = started()
    features, _ = real_features(synthesis, state)
    np.testing.assert_allclose(arrays['mean'], features.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(arrays['std'], features.std(0), rtol=1e-3)


def test_the_channels_are_those_whose_class_means_differ_most():
    synthesis, state, arrays, _ = started()
    features, labels = real_features(synthesis, state)
    between = np.zeros(toy_split.CHANNELS)
    for train_id in range(NUM_CLASSES):
        mine = features[labels == train_id]
        between += len(mine) * (mine.mean(0) - features.mean(0)) ** 2
    expected = np.argsort(-between / features.var(0))
    np.testing.assert_array_equal(arrays['channels'], expected)


def test_standardised_features_are_restored():
    *_, arrays, _ = started()
    x = np.random.default_rng(0).normal(size=(2, 3, 4, toy_split.CHANNELS)).astype(np.float32)
    again = task.restored(arrays, task.standardised(arrays, x))
    np.testing.assert_allclose(again, x, rtol=1e-5, atol=1e-6)


# --- fingerprints ---------------------------------------------------------------------------------


def test_a_fingerprint_changes_with_every_number_and_name():
    params = {'a': np.float32([[1, 2], [3, 4]]), 'b': np.float32([0.0])}
    own = task.fingerprint(params, {})
    assert own.dtype == jnp.uint32
    np.testing.assert_array_equal(jax.jit(task.fingerprint)(params, {}), own)
    changed = [
        {**params, 'a': np.float32([[1, 2], [4, 3]])},
        {**params, 'a': np.nextafter(params['a'], np.float32(9), dtype=np.float32)},
        {**params, 'b': np.float32([-0.0])},
        {'a': params['a'], 'c': params['b'] + np.float32(1)},
    ]
    fingerprints = [int(task.fingerprint(each, {})[0]) for each in changed]
    assert len({int(own[0]), *fingerprints}) == 1 + len(changed)
    assert task.fingerprint(params, {'b': np.float32([1])}) != own


def test_a_generator_of_another_net_is_refused():
    synthesis, _, _, state = started()
    task.check_fingerprint(synthesis, state)
    other = jax.tree.map(lambda x: x * 1.001, state.params[task.SEGMENTER])
    state = state.replace(params={**state.params, task.SEGMENTER: other})
    with pytest.raises(InputError, match='another net') as caught:
        task.check_fingerprint(synthesis, state)
    assert "'second'" in caught.value.expected
    # A training may begin anew with the net alone.
    assert '--config.init_from.nets="(\'segmenter/\',)"' in caught.value.fix
    synthesis = synthesis._replace(config=toy_split.make_config(features=dict(use='load')))
    with pytest.raises(InputError, match='RUN/features') as caught:
        task.check_fingerprint(synthesis, state)
    assert 'init_from.nets' not in caught.value.fix


def test_statistics_of_a_tap_with_slashes_have_no_slash_in_their_name():
    assert task.scale_name('encoder/layers_1') == 'bicycle_encoder_layers_1'


def synthetic_evidence(synthesis, state, batch):
    return jax.jit(functools.partial(task.synthetic_evidence, synthesis))(state, batch)


# --- scores ---------------------------------------------------------------------------------------


@functools.cache
def scores():
    synthesis, _, _, state = started()
    evaluation = task.make_evaluation(synthesis)
    return evaluation.finalize(sums_of(evaluation.eval_step, state))


def test_the_scores_of_real_features_are_those_of_the_net():
    synthesis, state, _, _ = started()
    infer = functools.partial(task.segment, synthesis)
    whole = task.segmentation.make_evaluation(synthesis.config, SPEC, infer)
    expected = whole.finalize(sums_of(whole.eval_step, state))
    for name, value in scores()['baseline_real_features'].items():
        assert value == expected[name], name
    assert scores()['mIoU'] != expected['mIoU']
    assert scores()['synthetic_mIoU'] == scores()['mIoU']


def test_synthetic_features_are_decoded_in_the_units_of_the_net():
    synthesis, _, arrays, state = started()
    batch = next(eval_batches(2))
    label = task.segmentation.label_of_image(batch, synthesis.config, SPEC)
    codes = task.evaluation_codes(synthesis, batch)[0]
    generated = jax.jit(functools.partial(task.generated, synthesis))
    drawn = generated(state.params, state.model_state, label, codes)
    features = arrays['mean'] + arrays['std'] * np.asarray(drawn)
    logits, _ = pipeline.split.decode(
        synthesis.net,
        'second',
        state.params[task.SEGMENTER],
        state.model_state[task.SEGMENTER],
        features,
        label.shape[1:],
    )
    evidence = synthetic_evidence(synthesis, state, batch)
    np.testing.assert_allclose(evidence, logits['logits'], rtol=1e-4, atol=1e-5)


def test_diversity_is_the_deviation_over_codes():
    synthesis, _, _, state = started()
    generated = jax.jit(functools.partial(task.generated, synthesis))
    spreads = []
    for batch in eval_batches(1):
        label = task.segmentation.label_of_image(batch, synthesis.config, SPEC)
        codes = task.evaluation_codes(synthesis, batch)
        assert codes.shape == (2, 1, toy_split.NUM_CODES)
        drawn = [
            np.asarray(generated(state.params, state.model_state, label, code)) for code in codes
        ]
        height, width = batch['size'][0]
        inside = np.std(drawn, 0)[0, : -(-height // 4), : -(-width // 4)]
        spreads.append(inside.mean(-1).ravel())
    expected = np.concatenate(spreads).mean()
    np.testing.assert_allclose(scores()['diversity'], expected, rtol=1e-4)


def test_codes_of_evaluation_depend_on_the_example_alone():
    synthesis, *_ = started()
    whole = task.evaluation_codes(synthesis, {'index': np.arange(6)})
    part = task.evaluation_codes(synthesis, {'index': np.array([5, 2])})
    np.testing.assert_array_equal(part, whole[:, [5, 2]])
    assert np.abs(whole[0] - whole[1]).min() > 0


def test_histograms_and_curves_belong_to_the_discriminative_channels():
    *_, arrays, _ = started()
    found = scores()
    assert 0 <= found['histogram_iou'] <= 1 and found['entropy'] > 0
    names = [name for name in found if name.startswith('channel_')]
    assert names == [f'channel_{channel}' for channel in arrays['channels'][:2]]
    for name in names:
        for line in found[name]['series']:
            assert line['name'] in SPEC.classes.names
            assert sum(line['y']) == pytest.approx(1)


def test_pictures_show_predictions_and_channels():
    synthesis, _, _, state = started()
    evaluation = task.make_evaluation(synthesis)
    batch = next(eval_batches(2))
    pictures = jax.eval_shape(lambda s, b: evaluation.render(s, b, {}), state, batch)
    assert set(pictures) == {
        *('prediction_of_synthetic_features', 'truth', 'errors', 'prediction_of_real_features'),
        *('real channels', 'synthetic channels'),
    }
    for panel in ('real channels', 'synthetic channels'):
        assert pictures[panel].pixels.shape == (2, toy_split.CHANNELS, 32, 64, 3)


def test_the_legend_of_channels_has_the_colours_of_their_values():
    values = np.array([-3.0, 0.0, 3.0], np.float32)
    features = np.broadcast_to(values, (1, 1, 1, 3))
    batch = {'image': np.zeros((1, 1, 1, 3)), 'size': np.ones((1, 2), np.int32)}
    picture = task._show_channels(features, np.arange(3), batch)
    assert list(picture.legend) == ['channel -3 std', 'channel mean', 'channel +3 std']
    for color, pixel in zip(picture.legend.values(), picture.pixels[0, :, 0, 0], strict=True):
        np.testing.assert_array_equal(pixel, color)


def test_a_generator_of_images_shows_its_image():
    synthesis = started()[0]
    scale = {'mean': np.full(3, 0.5), 'std': np.full(3, 0.25)}
    picture = task._synthetic_image(synthesis, scale, np.full((1, 8, 8, 3), -0.4), {'size': None})
    np.testing.assert_array_equal(picture.pixels, np.full((1, 8, 8, 3), round(0.4 * 255)))


def test_windows_read_layouts_as_whole_images_do_where_a_window_is_the_image():
    synthesis, _, _, state = started()
    batch = next(eval_batches(2))
    batch['size'] = np.full_like(batch['size'], (32, 64))
    config = toy_split.make_config(evaluate=dict(crop=(32, 64)))
    cropped = toy_split.make_synthesis(config)
    whole = jax.nn.softmax(synthetic_evidence(synthesis, state, batch))
    np.testing.assert_allclose(
        synthetic_evidence(cropped, state, batch), whole, rtol=1e-4, atol=1e-6
    )


def test_losses_of_patches_are_means_over_their_pixels():
    rng_numpy = np.random.default_rng(0)
    logits = rng_numpy.normal(size=(3, 4, 6, NUM_CLASSES)).astype(np.float32)
    label = rng_numpy.integers(0, NUM_CLASSES, (3, 4, 6)).astype(np.int32)
    label[1, :2] = 255
    label[2] = 255
    expected = []
    for row in range(3):
        losses = []
        for i, j in np.ndindex(4, 6):
            if label[row, i, j] < NUM_CLASSES:
                shares = np.exp(logits[row, i, j]) / np.exp(logits[row, i, j]).sum()
                losses.append(-np.log(shares[label[row, i, j]]))
        expected.append(np.mean(losses) if losses else 0.0)
    np.testing.assert_allclose(task.patch_losses(logits, label), expected, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: task.patch_losses(x, label).sum()))(jnp.asarray(logits))
    assert not np.any(gradient)
