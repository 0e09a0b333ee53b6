"""Synthetic dense features: the steps a second time, who is trained by what, and the refusals."""

import ast
import dataclasses
import functools
import shlex
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gans
import toy_split
from fakes import NUM_CLASSES, SPEC, train_batch
from run_folders import REPOSITORY, assert_same_run, final_state, stop_at

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.data import transforms
from segjax.errors import InputError
from segjax.models import split
from segjax.modes.table import spec as tables
from segjax.ops import images
from segjax.pipelines import dense_features as pipeline
from segjax.tasks import bicycle, feature_synthesis, synthetic_examples, translation
from segjax.tasks.feature_synthesis import SEGMENTER
from segjax.train import checks, driver
from segjax.train.run import Run
from segjax.train.stop import Preempted

B = 8
SCALE = feature_synthesis.scale_name('second')
GAN_NETS = (
    bicycle.GENERATOR,
    bicycle.ENCODER,
    bicycle.DISCRIMINATOR,
    bicycle.RANDOM_DISCRIMINATOR,
)


def make_batch(inputs=('layout',)):
    """Returns a training batch, with entries of unpaired inputs that have other examples."""
    batch = train_batch(B, toy_split.SIZE)
    for number, name in enumerate(inputs, start=1):
        other = train_batch(B, toy_split.SIZE, seed=number)
        other['index'] = other['index'] + 20 * number
        batch |= {f'{name}/{key}': value for key, value in other.items()}
    return batch


@functools.cache
def started():
    """Returns the earlier states and arrays of a refit: of S and of the generator."""
    synthesis = toy_split.make_synthesis(toy_split.make_config())
    key = rng.root(0, 'init')
    stage = pipeline.segmentation_stage(synthesis)
    variables = synthesis.net.init(key, jnp.zeros((1, *toy_split.SIZE, 3)), train=False)
    statistics = jax.tree.map(lambda x: x + 0.1, variables['batch_stats'])
    state = pipeline.supervised.fresh_state(
        {SEGMENTER: variables['params']},
        {SEGMENTER: {'batch_stats': statistics}},
        {},
        num_steps=1,
        ema=0.0,
    )
    rng_numpy = np.random.default_rng(0)
    arrays = {
        'mean': rng_numpy.normal(size=toy_split.CHANNELS).astype(np.float32),
        'std': rng_numpy.uniform(0.5, 2, toy_split.CHANNELS).astype(np.float32),
        'channels': np.arange(toy_split.CHANNELS, dtype=np.int32),
    }
    assert stage.hand_on.shapes.keys() == arrays.keys()
    earlier = {pipeline.SEGMENTATION: state}
    earlier |= {f'{pipeline.SEGMENTATION}/{name}': array for name, array in arrays.items()}
    features = pipeline.features_stage(synthesis)
    earlier[pipeline.FEATURES] = parallel.to_host(features.init(key, make_batch(), earlier))
    return earlier


def run_step(stage, state, batch, devices=1):
    """Returns (state on the host, metrics as floats) after a step."""
    topology = parallel.topology('pmap', devices)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        keys |= rng.streams(root, stage.shared_streams, state.step, 0)
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics))

    state, metrics = topology.spmd(step, num_args=2)(
        topology.put_replicated(parallel.to_host(state)), topology.put_batch(batch)
    )
    values = {name: float(mean.value()) for name, mean in parallel.to_host(metrics).items()}
    return parallel.to_host(state), values


def keys_of(stage):
    """Returns the keys of the first step of `run_step` on device 0."""
    return rng.streams(rng.root(0, 'test'), (*stage.streams, *stage.shared_streams), 0, 0)


def changed_nets(before, after):
    """Returns the nets with a parameter that differs."""
    nets = set()
    for net, params in before.params.items():
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(after.params[net]), strict=True)
        if any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs):
            nets.add(net)
    return nets


# --- the stage of the generator -------------------------------------------------------------------


@functools.cache
def features_step():
    synthesis = toy_split.make_synthesis(toy_split.make_config())
    stage = pipeline.features_stage(synthesis)
    before = started()[pipeline.FEATURES]
    return synthesis, stage, before, *run_step(stage, before, make_batch(()))


def test_an_odd_batch_of_the_generator_names_its_own_key():
    synthesis = pipeline.make_synthesis(small_config(features=dict(batch_size=3)), SPEC, SPEC)
    batch = {'layout': np.zeros((3, 8, 8, 2)), 'features': np.zeros((3, 2, 2, 4))}
    with pytest.raises(InputError, match=r'--config\.features\.batch_size=6'):
        bicycle.halves_of(synthesis.gan, batch)


def test_the_generator_learns_and_the_net_stays_as_it_is():
    _, _, before, after, metrics = features_step()
    assert changed_nets(before, after) == set(GAN_NETS)
    chex.assert_trees_all_equal(after.model_state[SEGMENTER], before.model_state[SEGMENTER])
    assert np.isfinite(list(metrics.values())).all()


def test_pairs_are_layouts_and_standardised_features():
    synthesis, _, state, *_ = features_step()
    batch = make_batch(())
    layout, features = pipeline.pair_of(pipeline.with_pairs(synthesis, state, batch))
    assert layout.shape == (B, *toy_split.SIZE, NUM_CLASSES + 1)
    np.testing.assert_array_equal(layout.argmax(-1), np.minimum(batch['label'], NUM_CLASSES))
    outputs = dataclasses.replace(synthesis.net, taps=('second',)).apply(
        {'params': state.params[SEGMENTER], **state.model_state[SEGMENTER]},
        images.normalize(batch['image'], synthesis.config.preprocess),
        train=False,
    )
    arrays = started()
    mean, std = (arrays[f'{pipeline.SEGMENTATION}/{name}'] for name in ('mean', 'std'))
    expected = (np.asarray(outputs['features']['second']) - mean) / std
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_the_distance_of_codes_does_not_train_the_encoder():
    synthesis, stage, state, *_ = features_step()
    gan = synthesis.gan
    pairs = pipeline.with_pairs(synthesis, state, make_batch(()))
    nets = GAN_NETS[:2]
    loss = bicycle.generator_loss(gan, state)
    model_state = {net: state.model_state[net] for net in nets}

    def value(params, term):
        terms, _, _ = loss(params, model_state, pairs, keys_of(stage))
        return terms[term].value()

    params = {net: state.params[net] for net in nets}
    for term, trains in (('code', False), ('l1', True)):
        gradient = jax.grad(value)(params, term)
        moved = {net: bool(any(map(np.any, jax.tree.leaves(gradient[net])))) for net in nets}
        assert moved == {bicycle.GENERATOR: True, bicycle.ENCODER: trains}, term


@pytest.mark.devices(8)
def test_a_step_of_the_generator_is_the_same_on_four_devices():
    _, stage, before, after, metrics = features_step()
    other, values = run_step(stage, before, make_batch(()), devices=4)
    chex.assert_trees_all_close(other.params, after.params, rtol=1e-4, atol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, err_msg=name)


# --- the refit ------------------------------------------------------------------------------------


def refit(**sections):
    """Returns (stage, its first state) of a refit."""
    synthesis = toy_split.make_synthesis(toy_split.make_config(**sections))
    stage = pipeline.refit_stage(synthesis)
    return synthesis, stage, stage.init(rng.root(0, 'init'), make_batch(), started())


def synthetic_by_hand(synthesis, state, batch, keys):
    """Returns G(Y, z) in the units of S, [n, h, w, C], without helpers of the pipeline."""
    label = batch['layout/label']
    layout = np.eye(NUM_CLASSES + 1, dtype=np.float32)[np.minimum(label, NUM_CLASSES)]
    key = rng.named(keys['latent'], 'codes')
    codes = [
        jax.random.normal(jax.random.fold_in(key, index), (toy_split.NUM_CODES,))
        for index in batch['layout/index']
    ]
    generator = {'params': state.params[bicycle.GENERATOR]}
    drawn = synthesis.gan.generator.apply(generator, layout, jnp.stack(codes), train=False)
    arrays = started()
    mean, std = (arrays[f'{pipeline.SEGMENTATION}/{name}'] for name in ('mean', 'std'))
    return mean + std * drawn['image']


def cross_entropy(logits, label, epsilon):
    """The mean of - sum_k q(k) log p(k) over labelled pixels, with q of Eq. 6.3."""
    shares = jax.nn.log_softmax(logits)
    is_class = np.arange(NUM_CLASSES) == label[..., None]
    q = np.where(is_class, 1 - (NUM_CLASSES - 1) / NUM_CLASSES * epsilon, epsilon / NUM_CLASSES)
    valid = label < NUM_CLASSES
    return -jnp.where(valid, (q * shares).sum(-1), 0).sum() / valid.sum()


@pytest.mark.parametrize('weights', ['mixture', 'sum'])
def test_a_step_descends_equation_6_1(weights):
    epsilon = 0.3
    section = dict(num_synthetic=4, weights=weights, label_smoothing=epsilon)
    synthesis, stage, state = refit(refit=section)
    batch = make_batch()
    batch = {key: x[:4] if key.startswith('layout/') else x for key, x in batch.items()}
    after, metrics = run_step(stage, state, batch)
    made = synthetic_by_hand(synthesis, state, batch, keys_of(stage))
    net = synthesis.net
    statistics = state.model_state[SEGMENTER]
    factors = {'mixture': (2 / 3, 1 / 3), 'sum': (1, 1)}[weights]

    def loss(params):
        variables = {'params': params, **statistics}
        x = images.normalize(batch['image'], synthesis.config.preprocess)
        real = net.apply(variables, x, train=False)['logits']
        given = {'second': made}
        synthetic = net.apply(variables, jnp.zeros_like(x[:4]), train=False, given=given)['logits']
        terms = (
            cross_entropy(real, batch['label'], 0.0),
            cross_entropy(synthetic, batch['layout/label'], epsilon),
        )
        return factors[0] * terms[0] + factors[1] * terms[1], terms

    (value, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        state.params[SEGMENTER]
    )
    np.testing.assert_allclose(metrics['loss'], value, rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_main'], terms[0], rtol=1e-5)
    np.testing.assert_allclose(metrics['loss_synthetic_main'], terms[1], rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - tiny_gans.RATE * g, state.params[SEGMENTER], gradient)
    chex.assert_trees_all_close(after.params[SEGMENTER], expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(after.model_state, parallel.to_host(state.model_state))
    assert changed_nets(state, after) == {SEGMENTER}


def gradient_of(term, **sections):
    """Returns the gradient of one term of the refit for S."""
    synthesis, stage, state = refit(**sections)
    keys = keys_of(stage)
    batch = pipeline.with_synthetic(synthesis, state, make_batch(), keys)
    loss = pipeline.make_refit_loss(synthesis)
    own = {SEGMENTER: state.model_state[SEGMENTER]}

    def value(params):
        terms, _, _ = loss({SEGMENTER: params}, own, batch, keys)
        return terms[term].value()

    return jax.grad(value)(state.params[SEGMENTER])


def test_synthetic_features_train_the_decoder_alone():
    layers = ('first', 'norm', 'second', 'head')
    for term, trained in (('main', layers), ('synthetic_main', ('head',))):
        gradient = gradient_of(term)
        moved = {name for name in layers if any(map(np.any, jax.tree.leaves(gradient[name])))}
        assert moved == set(trained), term


@pytest.mark.slow
@pytest.mark.devices(8)
@pytest.mark.parametrize(
    'sections',
    [dict(mining=dict(use=True, refresh=1, candidates=4)), dict(layouts=dict(use='labels'))],
)
def test_two_steps_of_the_refit_are_the_same_on_eight_devices(sections):
    _, stage, state = refit(**sections)
    batch = make_batch(('layout', 'additional'))
    states = {}
    for devices in (1, 8):
        after = state
        for _ in range(2):
            after, _ = run_step(stage, after, batch, devices)
        states[devices] = after
    chex.assert_trees_all_close(states[8].params, states[1].params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(states[8].extra, states[1].extra, rtol=1e-4, atol=1e-5)


def test_the_control_takes_the_same_steps_on_real_images_alone():
    _, stage, state = refit(refit=dict(source='none'), features=dict(use='none'))
    assert stage.train_input.unpaired == ()
    assert set(state.params) == {SEGMENTER}
    _, metrics = run_step(stage, state, make_batch(()))
    assert metrics['loss'] == metrics['loss_main']


@pytest.mark.parametrize('source', ['noise', 'mixup'])
def test_rivals_change_features_of_images(source):
    sections = dict(refit=dict(source=source), features=dict(use='none'))
    synthesis, stage, state = refit(**sections)
    assert stage.train_input.unpaired[0][1].features == ('image', 'label')
    batch = make_batch()
    made = synthetic_examples.entries_of(
        pipeline.with_synthetic(synthesis, state, batch, keys_of(stage)), 'synthetic'
    )
    real = feature_synthesis.encode(
        synthesis,
        state.params[SEGMENTER],
        state.model_state[SEGMENTER],
        batch['layout/image'],
    )
    if source == 'mixup':
        share = made['weight'][:, None, None, None]
        expected = share * real + (1 - share) * real[np.arange(B) ^ 1]
        np.testing.assert_allclose(made['features'], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(made['other_label'], batch['layout/label'][np.arange(B) ^ 1])
        np.testing.assert_allclose(made['weight'] + made['other_weight'], 1, rtol=1e-6)
    else:
        shares = np.asarray(made['features'] - real) / np.asarray(real).std((1, 2), keepdims=True)
        assert shares.std() == pytest.approx(0.1, rel=0.1)
    gradient = gradient_of('synthetic_main', **sections)
    assert not np.any(gradient['first']['kernel']) and np.any(gradient['head']['kernel'])


def test_the_painter_makes_images_for_the_whole_net():
    painter = dict(model=dict(width=0.05, halvings=1, blocks=1, norm='batch'), instance_edges=True)
    sections = dict(refit=dict(source='painter'), features=dict(use='none'), painter=painter)
    config = toy_split.make_config(**sections)
    synthesis = toy_split.make_synthesis(config)._replace(tap='image', stride=1, channels=3)
    stage = pipeline.refit_stage(synthesis)
    assert stage.frozen == (translation.NET,)
    assert stage.train_input.unpaired[0][1].features == ('label', 'instance')
    state = stage.init(rng.root(0, 'init'), make_batch(), started())
    label = make_batch()['layout/label']
    layouts = {'label': label, 'instance': np.zeros_like(label)}
    painted = synthetic_examples.painted_images(synthesis, state, layouts)
    assert painted.shape == (B, *toy_split.SIZE, 3)
    assert float(painted.min()) >= 0 and float(painted.max()) <= 1


# --- layouts --------------------------------------------------------------------------------------


def test_a_quarter_of_the_layouts_is_additional():
    synthesis, stage, state = refit(layouts=dict(use='labels'))
    batch = make_batch(('layout', 'additional'))

    def choose(batch):
        layouts = synthetic_examples.layouts_of(synthesis, state, batch, keys_of(stage))
        return {key: parallel.all_rows(value) for key, value in layouts.items()}

    for devices in (1, 4):
        topology = parallel.topology('pmap', devices)
        layouts = topology.spmd(choose, batch_args=(0,), num_args=1)(topology.put_batch(batch))
        additional = np.arange(B) % 4 == 3
        for key in ('label', 'index', 'weight'):
            own, other = batch[f'layout/{key}'], batch[f'additional/{key}']
            mask = additional.reshape(-1, *[1] * (own.ndim - 1))
            np.testing.assert_array_equal(layouts[key], np.where(mask, other, own))


@pytest.mark.parametrize('share, number', [(0.25, 3), (0.25, 5), (0.3, 4), (1 / 3, 7), (1.0, 3)])
def test_batches_that_are_too_small_share_additional_layouts_over_steps(share, number):
    # A quarter of 3 examples is no whole example.
    config = toy_split.make_config(
        refit=dict(num_synthetic=number), layouts=dict(use='labels', share=share)
    )
    synthesis = toy_split.make_synthesis(config)
    batch = {}
    for value, name in enumerate((synthetic_examples.LAYOUT, synthetic_examples.ADDITIONAL)):
        batch |= {f'{name}/{key}': np.full(number, value) for key in ('label', 'index', 'weight')}

    def choose(step):
        state = types.SimpleNamespace(step=step)
        return synthetic_examples.layouts_of(synthesis, state, batch, {})['index']

    steps = 40
    per_device = jax.vmap(choose, axis_name=parallel.AXIS, axis_size=1, in_axes=None)
    chosen = np.concatenate([np.ravel(per_device(step)) for step in range(steps)])
    position = np.arange(steps * number)
    expected = np.floor((position + 1) * share + 1e-9) > np.floor(position * share + 1e-9)
    np.testing.assert_array_equal(chosen, expected)


def test_predictions_of_the_starting_net_are_layouts():
    synthesis, _, state = refit(layouts=dict(use='pseudo'))
    batch = make_batch()
    logits = feature_synthesis.segment_start(synthesis, state, batch['image'])
    shares = np.asarray(jax.nn.softmax(logits))
    threshold = float(np.median(shares.max(-1)))
    synthesis.config.layouts.threshold = threshold
    inside = np.zeros(shares.shape[:3], np.uint8)
    inside[:, :, -8:] = 255
    predicted = synthetic_examples.predicted_layouts(synthesis, state, batch['image'], inside)
    predicted = np.asarray(predicted)
    sure = (shares.max(-1) > threshold) & (inside == 0)
    np.testing.assert_array_equal(predicted[sure], shares.argmax(-1)[sure])
    assert predicted[inside == 0].max() < NUM_CLASSES
    assert (predicted[inside == 255] == 255).all()
    _, additional = synthetic_examples.layout_inputs(synthesis)
    assert additional[1].features == ('image', 'inside') and additional[1].examples == 'all'
    assert additional[1].data == 'layout_data'


def test_predicted_layouts_are_void_in_the_padding_of_an_image():
    # At half of its size, an image fills a quarter of its crop.
    augment = dict(crop=(32, 64), scale=(0.5, 0.5))
    config = toy_split.make_config(layouts=dict(use='pseudo'), augment=augment)
    synthesis = toy_split.make_synthesis(config)
    (_, (_, inputs)) = synthetic_examples.layout_inputs(synthesis)
    generator = np.random.default_rng(0)
    example = {'image': np.full((32, 64, 3), 200, np.uint8)}
    example = inputs.transform(example, generator)
    moved = transforms.training(example, generator, inputs.augment, dict(inputs.made))
    is_padding = (moved['image'] == 0).all(-1)
    assert is_padding.mean() == pytest.approx(0.75, abs=0.05)
    np.testing.assert_array_equal(moved['inside'] == 255, is_padding)


def test_hard_layouts_are_those_of_the_largest_losses():
    mining = dict(use=True, refresh=1, candidates=B, share=1 / B)
    synthesis, stage, state = refit(mining=mining)
    batch = make_batch()
    after, _ = run_step(stage, state, batch)
    infer = functools.partial(feature_synthesis.segment, synthesis)
    losses = feature_synthesis.patch_losses(infer(state, batch['image']), batch['label'])
    hardest = batch['label'][int(np.argmax(losses))]
    np.testing.assert_array_equal(after.extra['pool']['active'][0], hardest)
    layouts = synthetic_examples.layouts_of(synthesis, after, batch, keys_of(stage))
    np.testing.assert_array_equal(layouts['label'], np.broadcast_to(hardest, (B, *hardest.shape)))


@pytest.mark.parametrize(
    'batch_size, share, number', [(7, 0.3, 3), (11, 0.3, 5), (8, 0.5, 8), (16, 0.1, 2), (8, 0, 0)]
)
def test_the_share_decides_the_number_of_synthetic_examples(batch_size, share, number):
    config = toy_split.make_config(
        train=dict(batch_size=batch_size), refit=dict(num_synthetic=0, share=share)
    )
    assert synthetic_examples.num_synthetic(config) == number
    weight = pipeline.refit_weights(config)
    total = batch_size + number
    assert weight('main') == pytest.approx(batch_size / total)
    assert weight('synthetic_main') == pytest.approx(number / total)
    assert weight('synthetic_aux_layer3') == pytest.approx(0.4 * number / total)


@pytest.mark.parametrize('variant, size', [('', 16), ('quick', 10), ('camvid', 10), ('smoke', 16)])
def test_a_batch_keeps_its_size_whatever_the_share(variant, size):
    for share, tolerance in ((0.0, 0), (0.1, 0), (0.2, 1), (0.3, 0), (0.4, 1), (0.5, 0)):
        path = f'{REPOSITORY}/configs/dense_features.py:{variant},share={share}'
        config = config_file.load(path.replace(':,', ':'))
        number = synthetic_examples.num_synthetic(config)
        assert size - tolerance <= config.train.batch_size + number <= size
        assert number / (config.train.batch_size + number) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize('batch_size, number', [(7, 4), (11, 4), (1, 2), (14, 6)])
def test_mixup_gets_an_even_number_of_examples(batch_size, number):
    config = toy_split.make_config(
        train=dict(batch_size=batch_size), refit=dict(source='mixup', num_synthetic=0)
    )
    assert synthetic_examples.num_synthetic(config) == number


# --- nets and configs -----------------------------------------------------------------------------


def small_config(arguments='', **sections):
    config = config_file.load(f'{REPOSITORY}/configs/dense_features.py:smoke{arguments}')
    pipeline_config = config.copy_and_resolve_references()
    for section, values in sections.items():
        pipeline_config[section].update(values)
    return pipeline_config


@pytest.mark.parametrize(
    'tap', ['image', 'encoder/initial_block', 'encoder/layers_1', 'decoder/layers_1']
)
def test_every_tap_has_a_generator_of_its_size(tap):
    config = small_config(f',tap={tap}')
    synthesis = pipeline.make_synthesis(config, SPEC, SPEC)
    size = tuple(config.augment.crop)
    stage = pipeline.features_stage(synthesis)
    batch = train_batch(2, size)
    first = pipeline.segmentation_stage(synthesis)
    key = rng.root(0, 'init')
    earlier = {'segmentation': jax.eval_shape(first.init, key, batch, {})}
    earlier |= {f'segmentation/{name}': x for name, x in first.hand_on.shapes.items()}
    state = jax.eval_shape(stage.init, key, batch, earlier)
    drawn = jax.eval_shape(
        functools.partial(feature_synthesis.generated, synthesis),
        state.params,
        state.model_state,
        batch['label'],
        jnp.zeros((2, 8)),
    )
    assert drawn.shape[1:] == split.feature_shape(synthesis.net, tap, size)
    assert state.params[feature_synthesis.scale_name(tap)]['mean'].shape == drawn.shape[-1:]


def refusal(**sections):
    config = small_config(**sections)
    with pytest.raises(InputError) as caught:
        pipeline.make_stages(config, SPEC, SPEC)
    return caught.value


def test_an_unknown_tap_lists_the_taps():
    error = refusal(features=dict(tap='conv4_12'))
    assert error.where == 'config.features.tap'
    assert 'encoder/layers_1' in error.expected and 'image' in error.expected


def test_an_unknown_row_of_table_6_3_has_a_near_name():
    with pytest.raises(InputError, match="did you mean 'middle'") as caught:
        config_file.load(f'{REPOSITORY}/configs/dense_features.py:smoke,tap=midle')
    assert caught.value.where.endswith('tap=') and 'early' in caught.value.expected


def test_a_refit_without_a_generator_is_refused():
    error = refusal(features=dict(use='none'))
    assert error.where == 'config.refit.source' and "'generator'" in error.got


def test_a_generator_without_a_source_is_refused():
    error = refusal(features=dict(use='load'), segmentation=dict(use='load'), init_from={})
    assert error.where == 'config.init_from.sources' and "'segmenter'" in error.got
    rows = dict(sources=(('segmenter', 'runs/a'),))
    error = refusal(features=dict(use='load'), segmentation=dict(use='load'), init_from=rows)
    assert "'bicycle'" in error.got and '--config.init_from.path=RUN ' in error.fix


def test_a_generator_and_the_statistics_of_another_run_are_refused():
    # Taps of one shape differ in their statistics alone.
    scale = 'bicycle_encoder_layers_0'
    use = dict(features=dict(use='load'), segmentation=dict(use='load'))
    rows = (('segmenter', 'runs/net'), (scale, 'runs/b'))
    error = refusal(**use, init_from=dict(path='runs/a', sources=rows))
    assert 'runs/a' in error.got and 'runs/b' in error.got and scale in error.got
    key, _, typed = shlex.split(error.fix)[0].partition('=')
    assert key == '--config.init_from.sources'
    rows = ast.literal_eval(typed)
    assert rows == (('segmenter', 'runs/net'), ('bicycle', 'runs/b'))
    sections = dict(**use, init_from=dict(path='runs/a', sources=rows))
    pipeline.make_stages(small_config(**sections), SPEC, SPEC)


def test_a_source_without_synthetic_examples_is_refused():
    error = refusal(refit=dict(share=0.0))
    assert error.where == 'config.refit.share' and 'source=generator' in error.got
    # Both fixes work.
    first, second = error.fix.split('; or ')
    assert first == '--config.refit.share=0.3'
    changes = dict(item.removeprefix('--config.').split('=') for item in second.split())
    assert changes == {'refit.source': 'none', 'features.use': 'none', 'mining.use': 'False'}
    sections = dict(refit=dict(share=0.0, source='none'), features=dict(use='none'))
    pipeline.make_stages(small_config(**sections, mining=dict(use=False)), SPEC, SPEC)


@pytest.mark.parametrize('bins, complaint', [(0, None), (2, None), (1, 'a number >= 2, or 0')])
def test_a_histogram_has_two_bins_or_more(bins, complaint):
    assert pipeline.SCHEMA['features']['bins'].check(bins) == complaint


@pytest.mark.parametrize('share', [-1, -0.2, 1, 1.5])
def test_a_share_without_real_examples_is_refused(share):
    path = f'{REPOSITORY}/configs/dense_features.py:smoke,share={share}'
    with pytest.raises(InputError, match=r'share=0\.3'):
        config_file.load(path)


def test_statistics_of_features_may_change_in_an_evaluation():
    config = small_config()
    other = small_config(features=dict(num_codes=9, bins=4))
    stored = config_lib.to_json(config), config_lib.to_json(other)
    assert config_lib.differences(*stored, free=config_lib.FREE_IN['evaluate']) == []
    assert len(config_lib.differences(*stored, free=config_lib.FREE_IN['train'])) == 2


def test_a_loaded_generator_with_a_trained_net_is_refused():
    error = refusal(features=dict(use='load'), init_from=dict(path='runs/features'))
    assert error.where == 'config.features.use'


def test_a_generator_next_to_a_painter_is_refused():
    # It would be trained on images instead of the features of the tap.
    error = refusal(refit=dict(source='painter'), mining=dict(use=False))
    assert error.where == 'config.features.use' and 'painter' in error.got


def test_label_smoothing_that_the_loss_would_ignore_is_refused():
    error = refusal(loss=dict(name='ohem'))
    assert error.where == 'config.refit.label_smoothing' and 'ohem' in error.got
    unsmoothed = dict(label_smoothing=0.0)
    pipeline.make_stages(small_config(loss=dict(name='ohem'), refit=unsmoothed), SPEC, SPEC)


def test_layouts_of_other_classes_are_refused():
    classes = dataclasses.replace(
        SPEC.classes,
        names=SPEC.classes.names[:3],
        palette=SPEC.classes.palette[:3],
        ids=SPEC.classes.ids[:3],
    )
    other = dataclasses.replace(SPEC, name='other', classes=classes)
    with pytest.raises(InputError, match='3 classes') as caught:
        pipeline.make_stages(small_config(layouts=dict(use='labels')), SPEC, other)
    assert caught.value.where == 'config.layout_data.name'
    assert ', '.join(SPEC.classes.names[:3]) in caught.value.expected
    pipeline.make_stages(small_config(layouts=dict(use='pseudo')), SPEC, other)


@pytest.mark.parametrize('key', ['mining', 'layouts'])
def test_layouts_of_a_source_that_reads_images_are_refused(key):
    section = dict(use=True) if key == 'mining' else dict(use='labels')
    sections = dict(refit=dict(source='noise'), mining=dict(use=False), features=dict(use='none'))
    error = refusal(**{**sections, key: section})
    assert error.where == f'config.{key}.use'


def test_a_generator_of_another_tap_is_refused_before_anything_compiles(tmp_path):
    config = small_config(',stages=refit')
    config.init_from.path = 'runs/features'
    other = small_config(',tap=early')
    _, trained = pipeline.make_stages(other, SPEC, SPEC)[:2]
    first, *_ = pipeline.make_stages(other, SPEC, SPEC)
    key = rng.root(0, 'init')
    batch = train_batch(2, tuple(config.augment.crop))
    earlier = {'segmentation': jax.eval_shape(first.init, key, batch, {})}
    earlier |= {f'segmentation/{name}': x for name, x in first.hand_on.shapes.items()}
    state = jax.eval_shape(trained.init, key, batch, earlier)
    source = {
        field: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), getattr(state, field))
        for field in ('params', 'model_state')
    }
    data = types.SimpleNamespace(spec=SPEC, open_input=lambda inputs: range(10))
    run = Run(
        config,
        {'data': data, 'layout_data': data},
        tmp_path,
        parallel.topology('pmap', 1),
        source=lambda: source,
    )
    stages = pipeline.make_stages(config, SPEC, SPEC)
    problem = next(checks.problems(run, stages, 'train', begun=False, trace_steps=False))
    assert "'bicycle_encoder_layers_0'" in problem.got
    others = problem.got.partition('in runs/features, which has the nets ')[2].split(', ')
    assert {'bicycle', 'bicycle_encoder_layers_1', 'segmenter'} <= set(others)


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_run_in_each_stage(tmp_path, monkeypatch):
    config = small_config(logging=dict(eval_every=0, checkpoint_every=0, num_pictures=0))
    config.train.num_steps = 2
    driver.train(config, str(tmp_path / 'whole'))
    for stage in (pipeline.FEATURES, pipeline.REFIT):
        with monkeypatch.context() as patch, pytest.raises(Preempted):
            stop_at(patch, stage, 1)
            driver.train(config, str(tmp_path / 'parts'))
    driver.train(config, str(tmp_path / 'parts'))
    stages = (pipeline.SEGMENTATION, pipeline.FEATURES, pipeline.REFIT)
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=stages)

    # A refit of these nets in another folder begins from the same state.
    again = small_config(',stages=refit', logging=dict(eval_every=0, num_pictures=0))
    again.train.num_steps = 2
    again.init_from.path = str(tmp_path / 'whole/features')
    scores = driver.train(again, str(tmp_path / 'again'))
    first = final_state(tmp_path / 'whole', pipeline.REFIT)
    chex.assert_trees_all_equal(final_state(tmp_path / 'again', pipeline.REFIT), first)
    assert scores[pipeline.REFIT]['baseline_start']['mIoU'] == scores[pipeline.SEGMENTATION]['mIoU']


@pytest.mark.parametrize(
    'table', ['table6_1', 'table6_2', 'table6_3', 'table6_4', 'table6_5', 'figures']
)
def test_tables_have_rows_that_begin_from_each_other(table):
    loaded = tables.load(REPOSITORY / f'configs/tables/dense_features_{table}.py')
    for row in loaded.rows:
        scale = next(iter(loaded.scales.values()))
        config = config_file.load(str(REPOSITORY / row.config.format(scale=scale.variant)))
        is_loaded = {'segmentation': config.segmentation.use, 'features': config.features.use}
        if row.after:
            assert is_loaded['segmentation'] == 'load', row.key
        start = loaded.row(row.after) if row.after else None
        if is_loaded['features'] == 'load':
            before = config_file.load(str(REPOSITORY / start.config.format(scale=scale.variant)))
            assert before.features.use == 'train' and before.features.tap == config.features.tap
