"""Painters of label maps: layouts, losses against their equations, and scores against loops."""

import functools
import shlex

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, train_batch
from scipy import ndimage

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.metrics import image as image_metrics
from segjax.protocol import Input
from segjax.spec import IGNORE
from segjax.tasks import segmentation, translation

SIZE = (32, 32)
PLACES = 6
ROW = (('vgg', 'vgg19.pth'),)


def make_config(net='pix2pixhd_global', **sections):
    """Returns the config of a painter with tiny nets, and plain gradient descent."""
    config = config_lib.defaults('label_to_image')
    config_lib.choose(config, 'painter.model', net)
    sgd = dict(name='sgd', momentum=0.0, learning_rate=0.02, schedule='constant')
    config_lib.update(
        config,
        train=dict(batch_size=4, num_steps=10),
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE),
        painter=dict(
            model=dict(width=1 / 16, halvings=2, blocks=1),
            discriminator=dict(width=1 / 16, num_layers=2, forms='naive'),
            features=dict(width=1 / 16),
            optim=sgd,
            optim_discriminator=sgd,
        ),
        init_from=dict(sources=ROW),
    )
    if net == 'mask_to_image':
        config.painter.input = 'crop'
    for section, values in sections.items():
        config_lib.update(config, **{section: values})
    return config


def input_of(config):
    names = translation.features(config.painter)
    return Input(split='val', batch_size=4, features=names, size=SIZE)


def stage_of(config, **options):
    inputs = input_of(config)
    return translation.make_stage(
        config,
        SPEC,
        config.painter,
        name='painter',
        train_input=inputs,
        eval_input=inputs,
        num_steps=config.train.num_steps,
        num_examples=PLACES,
        **options,
    )


def system_of(config, segmenter=None):
    return translation.make_system(config, SPEC, config.painter, segmenter, PLACES)


def painted(system, state, example):
    return jax.jit(functools.partial(translation.painted, system))(state, example)


def make_batch(rows=4, seed=0):
    """Returns smooth photos whose brightness follows the label, with instances and boxes."""
    rng = np.random.default_rng(seed)
    batch = train_batch(rows, SIZE, seed)
    noise = ndimage.gaussian_filter(rng.normal(0, 90, batch['image'].shape), (0, 1, 1, 0))
    batch['image'] = np.clip(batch['image'] + noise, 0, 255).astype(np.uint8)
    batch['instance'] = rng.integers(0, 3, (rows, 8, 8)).repeat(4, 1).repeat(4, 2).astype(np.int32)
    batch['mask_box'] = np.zeros((rows, *SIZE), np.int32)
    for row in range(rows):
        batch['mask_box'][row, 6 + row : 24, 7 : 20 + row] = 1
    return batch


def evaluation_batch(rows=PLACES, seed=0):
    batch = make_batch(rows, seed)
    size = np.tile(np.array(SIZE, np.int32), (rows, 1))
    return batch | {'size': size, 'label_size': size}


def of_nets(tree):
    return {net: tree[net] for net in (translation.NET, translation.DISCRIMINATOR)}


def run_steps(config, num_steps=1, devices=1, mode='pmap', batch=None, start=None):
    """Returns (state at the start, state after the steps, metrics of each step)."""
    stage = stage_of(config)
    topology = parallel.topology(mode, devices)
    batch = make_batch() if batch is None else batch
    root = rng.root(0, 'test')

    def step(state, batch):
        state, metrics = stage.train_step(state, batch, {})
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    step = topology.spmd(step, num_args=2)
    if start is None:
        start = parallel.to_host(stage.init(root, batch, {}))
    state, history = topology.put_replicated(start), []
    for _ in range(num_steps):
        state, metrics, mismatch = jax.block_until_ready(step(state, topology.put_batch(batch)))
        history.append({name: float(parallel.to_host(m).value()) for name, m in metrics.items()})
        assert int(mismatch) == 0
    return start, parallel.to_host(state), history


# --- layouts --------------------------------------------------------------------------------------


def test_a_layout_has_a_channel_for_each_class_for_void_and_for_edges():
    label = np.array([[[0, 4, 255, 5]]])
    layout = translation.make_layout(label, SPEC)
    assert layout.shape == (1, 1, 4, NUM_CLASSES + 1)
    assert layout.argmax(-1).tolist() == [[[0, 4, NUM_CLASSES, NUM_CLASSES]]]
    np.testing.assert_array_equal(layout.sum(-1), 1)
    edges = np.array([[[True, False, True, False]]])
    with_edges = translation.make_layout(label, SPEC, edges)
    np.testing.assert_array_equal(with_edges[..., :-1], layout)
    np.testing.assert_array_equal(with_edges[..., -1], edges)
    assert translation.num_channels(make_config().painter, SPEC) == NUM_CLASSES + 2


def cityscapes_ids(label, instance):
    """Returns ids as in `instanceIds` of Cityscapes: the class, or 1000 times class plus number."""
    return np.where(instance > 0, 1000 * (label + 1) + instance, label)


def by_loop(ids, counts=lambda p, q: True):
    edge = np.zeros(ids.shape, bool)
    height, width = ids.shape
    for i, j in np.ndindex(height, width):
        for k, m in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            inside = 0 <= k < height and 0 <= m < width
            if inside and ids[k, m] != ids[i, j] and counts((i, j), (k, m)):
                edge[i, j] = True
    return edge


def small_maps():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (9, 12))
    instance = rng.integers(0, 3, (9, 12))
    mask = np.zeros((9, 12), np.int32)
    mask[2:7, 3:9] = 1
    return label, instance, mask


def test_edges_of_photos_are_the_edges_of_the_ids_of_cityscapes():
    label, instance, _ = small_maps()
    expected = by_loop(cityscapes_ids(label, instance))
    ours = translation.true_edges(label[None], instance[None])[0]
    np.testing.assert_array_equal(ours, expected)
    # Padding makes no edge.
    valid = np.arange(12) < 8
    cut = translation.true_edges(label[None], instance[None], np.tile(valid, (1, 9, 1)))[0]
    np.testing.assert_array_equal(
        cut[:, :8], by_loop(cityscapes_ids(label[:, :8], instance[:, :8]))
    )
    assert not cut[:, 8:].any()


def test_edges_of_a_completed_box_come_from_its_classes():
    label, instance, mask = small_maps()
    expected = by_loop(label) | by_loop(instance, lambda p, q: mask[p] == 0 and mask[q] == 0)
    ours = translation.completed_edges(label[None], instance[None], mask[None])[0]
    np.testing.assert_array_equal(ours, expected)
    unread = np.where(mask, 77, instance)
    again = translation.completed_edges(label[None], unread[None], mask[None])[0]
    np.testing.assert_array_equal(again, ours)


# --- the step -------------------------------------------------------------------------------------


def written_out(config, state, batch):
    """Returns the losses and gradients of the equations at the nets of a state.

    Layouts, sums and weights are written out in plain arrays. Nets are applied as they are.
    """
    system = system_of(config)
    weight = batch['weight']
    x = jnp.asarray(batch['image'], jnp.float32) / 127.5 - 1
    label = np.minimum(batch['label'], NUM_CLASSES)
    layout = np.eye(NUM_CLASSES + 1, dtype=np.float32)[label]
    if config.painter.instance_edges:
        ids = cityscapes_ids(batch['label'], batch['instance'])
        edge = np.stack([by_loop(each) for each in ids])
        layout = np.concatenate([layout, edge[..., None]], -1).astype(np.float32)
    is_box = config.painter.model.name == 'mask_to_image'
    mask = batch['mask_box'][..., None].astype(np.float32)

    def paint(params):
        inputs = (x, layout, mask) if is_box else (layout,)
        return system.painter.apply({'params': params}, *inputs, train=True)['image']

    def judge(params, picture):
        seen = jnp.concatenate([layout, picture], -1) * (mask if is_box else 1)
        return system.discriminator.apply({'params': params}, seen, train=True)

    def mean(values):
        """Averages [B, ...] over each example, then over the examples that count."""
        of_each = values.reshape(len(values), -1).mean(1)
        return (of_each * weight).sum() / weight.sum()

    def lsgan(verdicts, target):
        return sum(mean((scale[-1] - target) ** 2) for scale in verdicts)

    def of_painter(params):
        picture = paint(params)
        painted = judge(state.params['painter_discriminator'], picture)
        real = judge(state.params['painter_discriminator'], x)
        num_layers = config.painter.discriminator.num_layers
        losses = {'adversarial': lsgan(painted, 1), 'feature_matching': 0, 'vgg': 0}
        for ours, theirs in zip(painted, real, strict=True):
            for k in range(num_layers + 1):  # all maps but the logits
                distance = mean(jnp.abs(ours[k] - theirs[k]))
                losses['feature_matching'] += 4 / (num_layers + 1) / len(real) * distance
        features = [system.vgg.apply({'params': state.params['vgg']}, y) for y in (picture, x)]
        for layer, factor in zip(
            ('conv1_1', 'conv2_1', 'conv3_1', 'conv4_1', 'conv5_1'),
            (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1),
            strict=True,
        ):
            losses['vgg'] += factor * mean(jnp.abs(features[0][layer] - features[1][layer]))
        losses['l1'] = mean(jnp.abs(picture - x))
        total = losses['adversarial'] + 10 * losses['feature_matching'] + 10 * losses['vgg']
        return total + 5 * losses['l1'], losses

    def of_discriminator(params):
        picture = paint(state.params['painter'])
        return 0.5 * lsgan(judge(params, x), 1) + 0.5 * lsgan(judge(params, picture), 0)

    painter_gradient = jax.jit(jax.value_and_grad(of_painter, has_aux=True))
    discriminator_gradient = jax.jit(jax.value_and_grad(of_discriminator))
    (total, losses), grads = painter_gradient(state.params['painter'])
    d_total, d_grads = discriminator_gradient(state.params['painter_discriminator'])
    values = {f'loss_{name}': value for name, value in losses.items()}
    values |= {'loss': total, 'loss_discriminator': d_total}
    return values, {'painter': grads, 'painter_discriminator': d_grads}


@pytest.mark.parametrize(
    'net',
    [
        'pix2pixhd_global',
        'mask_to_image',
        pytest.param('pix2pixhd_local', marks=pytest.mark.slow),
    ],
)
def test_a_step_is_that_of_the_equations(net):
    config = make_config(net)
    config.painter.instance_edges = net != 'mask_to_image'
    config.painter.weights.l1 = 5.0
    batch = make_batch()
    batch['weight'][2] = 0  # counts for nothing
    start, state, (metrics,) = run_steps(config, batch=batch)
    values, grads = written_out(config, start, batch)
    for name, value in values.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name
    for player, expected in grads.items():
        moved = jax.tree.map(np.subtract, state.params[player], start.params[player])
        pairs = zip(jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(expected))
        for (path, step), gradient in pairs:
            # Biases in front of an instance norm have no gradient but rounding.
            rounding = 2e-4 if path[-1].key == 'bias' else 2e-6
            error = np.linalg.norm(step + 0.02 * gradient)
            assert error <= 0.02 * np.linalg.norm(0.02 * gradient) + rounding, (player, path)
    chex.assert_trees_all_equal(state.params['vgg'], start.params['vgg'])
    assert state.step == 1 and set(state.opt_state) == {'painter', 'painter_discriminator'}


def test_a_weight_of_0_leaves_a_term_and_its_net_out():
    weights = dict(vgg=0.0, feature_matching=0.0)
    config = make_config(painter=dict(weights=weights), init_from=dict(sources=()))
    start, _, (metrics,) = run_steps(config)
    assert set(start.params) == {'painter', 'painter_discriminator'}
    assert metrics['loss'] == pytest.approx(metrics['loss_adversarial'], rel=1e-6)
    assert not {'loss_vgg', 'loss_feature_matching', 'loss_l1'} & set(metrics)


def test_the_box_alone_is_painted_and_judged():
    config = make_config('mask_to_image')
    system = system_of(config)
    state = stage_of(config).init(rng.root(0, 'test'), make_batch(), {})
    example = translation.training_example(system, make_batch())
    judge = jax.jit(
        functools.partial(
            translation.judge_pictures, system, state.params['painter_discriminator'], {}, example
        )
    )
    other = jnp.where(example.mask[..., None], example.photo, 0.3)
    chex.assert_trees_all_equal(judge(example.photo)[0], judge(other)[0])
    picture = painted(system, state, example)
    outside = ~np.asarray(example.mask)
    np.testing.assert_array_equal(picture[outside], example.photo[outside])
    assert np.abs(picture - example.photo)[~outside].mean() > 0.05


@pytest.mark.slow
def test_steps_are_the_same_on_any_number_of_devices_and_in_micro_batches():
    """In float64, a ReLU does not turn rounding into a difference. Losses are float32."""
    with jax.enable_x64(True):
        batch = make_batch(8)
        batch['weight'][3] = 0

        def run(**options):
            train = dict(dtype='float64', accumulate=options.pop('accumulate', 1))
            return run_steps(make_config(train=train), batch=batch, **options)

        start, expected, (metrics,) = run()
        runs = [run(devices=8), run(accumulate=2, devices=2, mode='shard_map')]
    for _, state, (others,) in runs:
        for name, value in metrics.items():
            assert others[name] == pytest.approx(value, rel=1e-5), name
        moved, wanted = (
            jax.tree.map(np.subtract, of_nets(after.params), of_nets(start.params))
            for after in (state, expected)
        )
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(wanted), strict=True
        ):
            assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 2e-6, path


@pytest.mark.slow
@pytest.mark.parametrize(
    'net', ['pix2pixhd_global', pytest.param('mask_to_image', marks=pytest.mark.slow)]
)
def test_it_learns_in_bfloat16_with_averages(net):
    config = make_config(net, train=dict(dtype='bfloat16', ema=0.9))
    config.painter.optim.update(name='adam', learning_rate=3e-3)
    _, state, history = run_steps(config, 12)
    chex.assert_tree_all_finite(state.params)
    assert history[-1]['loss_feature_matching'] < history[0]['loss_feature_matching']
    assert set(state.extra['ema']['params']) == {'painter'}


# --- the local enhancer ---------------------------------------------------------------------------


def local_config(first):
    config = make_config('pix2pixhd_local', init_from=dict(path='runs/global'))
    config.painter.fix_global = first
    config.painter.optim.update(name='adam', learning_rate=1e-3, beta1=0.5)
    return config


@pytest.mark.slow
def test_the_global_generator_stays_fixed_and_then_begins_like_a_new_optimiser():
    start, fixed, _ = run_steps(local_config(3), 3)
    chex.assert_trees_all_equal(fixed.params['painter']['trunk'], start.params['painter']['trunk'])
    head = 'head'
    assert (
        np.abs(
            fixed.params['painter'][head]['conv']['kernel']
            - start.params['painter'][head]['conv']['kernel']
        ).max()
        > 0
    )

    # The next step is the first step of a painter whose optimiser has taken none.
    _, joint, _ = run_steps(local_config(3), 1, start=fixed)
    fresh = stage_of(local_config(0)).init(rng.root(0, 'test'), make_batch(), {}).opt_state
    begun = fixed.replace(opt_state={**fixed.opt_state, 'painter': fresh['painter']})
    _, expected, _ = run_steps(local_config(0), 1, start=begun)
    chex.assert_trees_all_close(joint.params['painter'], expected.params['painter'], atol=1e-7)
    moved = jax.tree.map(
        np.subtract, joint.params['painter']['trunk'], fixed.params['painter']['trunk']
    )
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(moved))
    assert largest == pytest.approx(1e-3, rel=0.01), 'a first step of Adam is the learning rate'


# --- settings -------------------------------------------------------------------------------------


def complaint_of(config, segmenter=None):
    with pytest.raises(InputError) as raised:
        translation.check_section(config, config.painter, segmenter)
    return raised.value


def typed(fix):
    """Returns the first argument of a fix, as a shell reads it."""
    (argument,) = [text for text in shlex.split(fix.split('; or ')[0]) if text.startswith('--')]
    return argument.rstrip(',').removeprefix('--config.')


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        (lambda c: c.painter.update(input='image'), 'config.painter.input'),
        (lambda c: c.painter.update(fix_global=3), 'config.painter.fix_global'),
        (
            lambda c: c.painter.features.update(layers=('conv1_2',)),
            'config.painter.features.layers',
        ),
        (lambda c: c.init_from.update(sources=()), 'config.init_from.sources'),
        (lambda c: c.init_from.update(sources=(('seg', 'a b.pth'),)), 'config.init_from.sources'),
    ],
)
def test_contradictions_are_refused_with_a_fix_that_works(change, where):
    config = make_config('mask_to_image')
    translation.check_section(config, config.painter)
    change(config)
    error = complaint_of(config)
    assert error.where == where
    fixed = config_file.overridden(config, typed(error.fix))
    translation.check_section(fixed, fixed.painter)


def test_a_fixed_global_generator_needs_a_source_and_no_decay():
    config = local_config(3)
    config.init_from.path = ''
    error = complaint_of(config)
    assert error.where == 'config.init_from.path'
    fixed = config_file.overridden(config, typed(error.fix))
    translation.check_section(fixed, fixed.painter)
    fixed.painter.optim.weight_decay = 0.1
    again = complaint_of(fixed)
    assert again.where == 'config.painter.optim.weight_decay'
    fixed = config_file.overridden(fixed, typed(again.fix))
    translation.check_section(fixed, fixed.painter)


def test_nets_that_are_loaded_need_a_row():
    config = make_config()
    config.segmenter.use = 'load'
    error = complaint_of(config, config.segmenter)
    fixed = config_file.overridden(config, typed(error.fix))
    assert fixed.init_from.sources[0] == ROW[0], 'the row of VGG19 stays'
    translation.check_section(fixed, fixed.painter, fixed.segmenter)
    # Both alternatives are typed, too.
    config.init_from.sources = ()
    config_lib.update(config, painter=dict(weights=dict(vgg=0.0)), segmenter=dict(use='none'))
    translation.check_section(config, config.painter, config.segmenter)


# --- painting -------------------------------------------------------------------------------------


@pytest.mark.parametrize('net', ['pix2pixhd_global', 'mask_to_image'])
def test_a_trained_painter_completes_photos(net):
    config = make_config(net)
    state = stage_of(config).init(rng.root(0, 'test'), make_batch(), {})
    example = translation.training_example(system_of(config), make_batch())
    mask = jnp.asarray(make_batch()['mask_box'])
    paint = jax.jit(translation.make_paint(config, SPEC, config.painter))
    arguments = (state.params['painter'], state.model_state['painter'])
    picture = paint(*arguments, example.layout, example.photo, mask)
    outside = np.asarray(mask) == 0
    np.testing.assert_array_equal(picture[outside], example.photo[outside])
    assert picture.dtype == jnp.float32 and np.abs(picture).max() <= 1
    if net == 'pix2pixhd_global':
        whole = paint(*arguments, example.layout, example.photo, None)
        np.testing.assert_array_equal(picture[~outside], whole[~outside])
    with pytest.raises(InputError, match='6 channels'):
        paint(*arguments, example.layout[..., :-1], example.photo, mask)


def test_a_prediction_paints_the_pictures_of_the_evaluation():
    for net in ('pix2pixhd_global', 'mask_to_image'):
        config = make_config(net)
        stage = stage_of(config)
        state = stage.init(rng.root(0, 'test'), make_batch(), {})
        batch = evaluation_batch()
        rendered = jax.jit(stage.render)(state, batch, {})['painted']
        given = {key: batch[key] for key in (*stage.prediction.inputs, 'size', 'weight')}
        predicted = jax.jit(stage.prediction.apply)(state, given, {})['painted']
        np.testing.assert_array_equal(predicted, rendered.pixels)
        assert ('image' in stage.prediction.inputs) == (net == 'mask_to_image')


# --- scores ---------------------------------------------------------------------------------------


def scores_of(config, batches, segmenter=None, state=None):
    stage = stage_of(config, segmenter=segmenter)
    if state is None:
        state = stage.init(rng.root(0, 'test'), make_batch(), {})
    total = None
    for batch in batches:
        metrics = parallel.to_host(jax.jit(stage.eval_step)(state, batch, {}))
        total = metrics if total is None else jax.tree.map(np.add, total, metrics)
    return stage.finalize(total), state, total


def padded_batches(batch, size):
    """Cuts a batch into batches of a size, the last with examples of weight 0."""
    number = -(-PLACES // size)
    for first in range(0, number * size, size):
        rows = np.arange(first, first + size)
        part = {key: value[np.minimum(rows, PLACES - 1)].copy() for key, value in batch.items()}
        part['weight'] = (rows < PLACES).astype(np.float32)
        yield part


@pytest.mark.parametrize('net', ['pix2pixhd_global', 'mask_to_image'])
def test_scores_are_means_over_images_of_any_batch_size(net):
    config = make_config(net)
    batch = evaluation_batch()
    batch['size'][1] = [20, 27]
    batch['label_size'][1] = [20, 27]
    scores, state, _ = scores_of(config, [batch])
    others, _, _ = scores_of(config, padded_batches(batch, 4), state=state)
    ending = '_box' if net == 'mask_to_image' else ''
    for name in (f'PSNR{ending}', f'SSIM{ending}'):
        assert others[name] == pytest.approx(scores[name], rel=1e-5)
    baseline = f'PSNR{ending}'
    assert others['baseline_class_color'][baseline] == pytest.approx(
        scores['baseline_class_color'][baseline], rel=1e-4
    )
    assert stage_of(config).monitor == (baseline, 'max')

    # PSNR and SSIM of each picture.
    example, valid = translation.evaluation_example(config.painter, SPEC, batch)
    picture = painted(system_of(config), state, example)
    region = np.asarray(valid & (batch['mask_box'] > 0) if ending else valid)
    psnr = []
    for ours, photo, counted in zip(picture, example.photo, region):
        error = np.asarray(ours - photo, np.float64)[counted]
        psnr.append(10 * np.log10(4 / (error**2).mean()))
    assert scores[f'PSNR{ending}'] == pytest.approx(np.mean(psnr), abs=1e-3)
    ssim = image_metrics.ssim((example.photo + 1) / 2, (picture + 1) / 2, 1.0, valid, region)
    assert scores[f'SSIM{ending}'] == pytest.approx(float(ssim.mean()), abs=1e-4)


def test_the_baseline_paints_classes_in_their_mean_colours():
    config = make_config()
    batch = evaluation_batch()
    batch['size'][1] = [20, 27]
    batch['label_size'][1] = [20, 27]
    scores, _, _ = scores_of(config, [batch])
    example, valid = translation.evaluation_example(config.painter, SPEC, batch)
    photo = np.asarray(example.photo, np.float64)
    label = np.asarray(example.label)
    painted = np.zeros_like(photo)
    for train_id in (*range(NUM_CLASSES), IGNORE):
        pixels = np.asarray(valid) & (label == train_id)
        if pixels.any():
            painted[pixels] = photo[pixels].mean(0)
    expected = []
    for row in range(PLACES):
        error = (painted - photo)[row][np.asarray(valid)[row]]
        expected.append(10 * np.log10(4 / (error**2).mean()))
    assert scores['baseline_class_color']['PSNR'] == pytest.approx(np.mean(expected), abs=1e-3)


def test_images_that_the_baseline_paints_without_an_error_are_left_out():
    """Rows of (pixels, three sums, three sums of squares) for the classes of an image."""
    plain = [[4, 2, 2, 2, 1, 1, 1], [0] * 7]
    rounded = [[4, 2, 2, 2, 1, 1, 1 - 1e-6], [0] * 7]
    # Half of the pixels of the second class are -1, and half of them 1: the error is 1.
    mixed = [[0] * 7, [4, 0, 0, 0, 4, 4, 4]]
    psnr = translation.psnr_of_class_colors(np.array([plain, rounded, mixed], np.float64))
    assert psnr == pytest.approx(10 * np.log10(4))
    assert translation.psnr_of_class_colors(np.array([plain, rounded], np.float64)) is None


def test_a_segmenter_scores_painted_images_and_photos():
    config = make_config()
    config_lib.update(
        config,
        segmenter=dict(use='load', model=dict(width=0.25, forms='naive', blocks=(1, 1, 0, 0))),
        init_from=dict(sources=(*ROW, ('segmenter', 'runs/erfnet'))),
    )
    batch = evaluation_batch()
    scores, state, total = scores_of(config, padded_batches(batch, 4), config.segmenter)
    assert stage_of(config, segmenter=config.segmenter).monitor == ('mIoU', 'max')
    assert scores['mIoU_ratio'] == pytest.approx(scores['mIoU'] / scores['mIoU_real'])
    counted = (batch['label'] != IGNORE).sum()
    assert total['confusion_real'].sum.sum() == total['confusion_painted'].sum.sum() == counted

    # The photos are scored as a segmentation pipeline scores them.
    other = config_lib.defaults('supervised')
    config_lib.update(other, evaluate=dict(resolution='image'), model=config.segmenter.model)
    net = segmentation.make_image_net(other, NUM_CLASSES)
    judge = segmentation.make_evaluation(other, SPEC, segmentation.make_infer(other, net))
    metrics = jax.jit(judge.eval_step)(state, batch, {})
    assert scores['mIoU_real'] == pytest.approx(
        judge.finalize(parallel.to_host(metrics))['mIoU'], abs=1e-6
    )
    assert set(scores['per_class']) == set(SPEC.classes.names)


def test_pictures_show_label_map_and_painting():
    batch = evaluation_batch()
    for net, further in (('pix2pixhd_global', set()), ('mask_to_image', {'outside the box'})):
        config = make_config(net)
        stage = stage_of(config)
        state = stage.init(rng.root(0, 'test'), make_batch(), {})
        pictures = jax.jit(stage.render)(state, batch, {})
        assert set(pictures) == {'label map', 'painted', *further}
        if further:
            shown = np.asarray(pictures['outside the box'].pixels)
            assert not shown[batch['mask_box'] > 0].any()
            assert set(pictures['painted'].values) == {'PSNR_box'}
