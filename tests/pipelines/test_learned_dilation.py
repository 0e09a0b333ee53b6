"""Learned dilation as a pipeline: its step next to the supervised one, rules, stages, scores."""

import functools
import math
import pathlib
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, eval_batches, train_batch

from segjax import config as config_lib
from segjax import models, pipelines
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.models import dilated
from segjax.models.layers import Conv
from segjax.models.segmentation.deeplab import DeepLabLargeFOV
from segjax.modes import table
from segjax.ops import resize
from segjax.pipelines import learned_dilation
from segjax.protocol import Mean, TrainState
from segjax.tasks.evaluation import Evaluation
from segjax.tasks.segmentation import Net

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
LEARNING_RATE, RATE = 0.05, 20_000.0
NAMES = ('conv5_1/dilation', 'head/fc6/dilation')
SPANS = {'conv5_1/dilation': (1, 4), 'head/fc6/dilation': (1, 8)}


class Head(nn.Module):
    conv: types.FunctionType

    @nn.compact
    def __call__(self, x):
        return nn.elu(self.conv(6, (3, 3), dilation=4, name='fc6')(x))


class Tiny(DeepLabLargeFOV):
    """A net with two dilated convolutions and LargeFOV's arguments. Compiles fast."""

    @nn.compact
    def __call__(self, x, train: bool):
        conv, dilated_conv = (
            functools.partial(c or Conv, dtype=self.dtype) for c in (Conv, self.dilated_conv)
        )
        y = nn.elu(conv(6, (3, 3), strides=4, name='first')(x))
        y = Head(dilated_conv, name='head')(
            nn.elu(dilated_conv(6, (3, 3), dilation=2, name='conv5_1')(y))
        )
        y = conv(self.num_classes, (1, 1), name='fc8')(y)
        return {'logits': resize.bilinear_on_grid(y.astype(jnp.float32), x.shape[1:3], 4)}


@pytest.fixture(autouse=True, scope='module')
def tiny_net():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NETS['segmentation'], 'deeplab_largefov', Tiny)
        yield


def make_config(pipeline='learned_dilation', **sections):
    config = config_lib.defaults(pipeline)
    config_lib.choose(config, 'model', 'deeplab_largefov')
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=30),
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64)),
        optim=dict(name='sgd', momentum=0.0, learning_rate=LEARNING_RATE, schedule='constant'),
    )
    if pipeline == 'learned_dilation':
        config.dilation.rate = RATE
    config_lib.update(config, **sections)
    return config


def stages_of(config):
    return pipelines.load(config.pipeline).make_stages(config, SPEC)


def with_factors(state, **factors):
    """Returns a state with other factors, which are given by the module that has them."""
    net = jax.tree.map(np.asarray, state.params['segmenter'])
    net['conv5_1']['dilation'] = np.float32(factors['conv5_1'])
    net['head']['fc6']['dilation'] = np.float32(factors['fc6'])
    return state.replace(params={'segmenter': net})


# Below, inside and above the ranges.
OUTSIDE = dict(conv5_1=[0.25, 0.5, 2.5, 3.25, 4.5, 6.0], fc6=[0.5, 0.75, 3.5, 8.5, 9.0, 11.0])


def moves(pipeline, devices, **dilation):
    """Returns the start, and (state, metrics, moves of parameters) of SGD steps.

    The first step begins from the start, the second with factors outside their ranges. The numbers
    are float64: in float32, an activation that rounds to the other side of a ReLU moves gradients
    by per cents.
    """
    with jax.enable_x64(True):
        sections = dict(dilation=dilation) if dilation else {}
        (stage,) = stages_of(make_config(pipeline, train=dict(dtype='float64'), **sections))
        topology, root = parallel.topology('pmap', devices), rng.root(0, 'test')

        def train_step(state, batch):
            keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
            state, metrics = stage.train_step(state, batch, keys)
            return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

        step = topology.spmd(train_step, num_args=2)
        start = parallel.to_host(stage.init(root, train_batch(), {}))
        steps = []
        for state in (
            (start, with_factors(start, **OUTSIDE)) if pipeline == 'learned_dilation' else (start,)
        ):
            args = topology.put_replicated(state), topology.put_batch(train_batch())
            after, metrics, mismatch = parallel.to_host(jax.block_until_ready(step(*args)))
            assert int(mismatch) == 0
            steps.append(
                (after, metrics, jax.tree.map(np.subtract, after.params, state.params)['segmenter'])
            )
        return start, steps


@pytest.fixture(scope='module')
def learned():
    return moves('learned_dilation', 1)


def test_filters_learn_as_those_of_the_fixed_net(learned):
    start, ((_, metrics, moved), _) = learned
    fixed_start, ((_, fixed_metrics, expected),) = moves('supervised', 1)
    np.testing.assert_allclose(metrics['loss'].value(), fixed_metrics['loss'].value(), rtol=1e-6)
    for module, params in (('first', None), ('conv5_1', None), ('fc8', None), ('head', 'fc6')):
        ours, theirs, begun, fixed_begun = (
            tree[module] if params is None else tree[module][params]
            for tree in (
                moved,
                expected,
                start.params['segmenter'],
                fixed_start.params['segmenter'],
            )
        )
        assert set(ours) - set(theirs) == ({'dilation'} if module in ('conv5_1', 'head') else set())
        for name in theirs:
            np.testing.assert_array_equal(begun[name], fixed_begun[name])
            assert (
                np.linalg.norm(ours[name] - theirs[name])
                <= 1e-4 * np.linalg.norm(theirs[name]) + 1e-7
            ), module


def gradients_of_each_image(state):
    """Returns {factor parameter: [images, I]}: gradients of the loss of the whole batch, by image.

    Each image is alone in the net, and there is no gate. The loss of an image is the sum over its
    pixels, divided by the number of pixels that count in all images.
    """
    config = make_config(dilation=dict(gate='batch'), train=dict(dtype='float64'))
    plan = learned_dilation.make_dilations(config, NUM_CLASSES)
    loss = learned_dilation.make_loss(config, SPEC, plan.net)
    batch = train_batch()
    pixels = (batch['label'] != 255).sum()

    @jax.jit
    def gradient(part):
        def total(params):
            terms, _, _ = loss(params, state.model_state, part, {'dropout': jax.random.key(0)})
            return terms['main'].sum / pixels

        return learned_dilation.factors_of(jax.grad(total)(state.params), plan)

    alone = [
        jax.device_get(gradient({k: x[b : b + 1] for k, x in batch.items()})) for b in range(8)
    ]
    return {name: np.stack([one[name] for one in alone]) for name in plan.ranges}


def test_gate_acts_on_each_image(learned):
    """The update sums the gradients that lead back, image by image, as in the authors' layers."""
    start, (_, (_, _, moved)) = learned
    with jax.enable_x64(True):
        state = with_factors(start, **OUTSIDE)
        by_image = gradients_of_each_image(state)
    factors = learned_dilation.factors_of(state.params, types.SimpleNamespace(ranges=SPANS))
    moves_of_factors = {
        'conv5_1/dilation': moved['conv5_1']['dilation'],
        'head/fc6/dilation': moved['head']['fc6']['dilation'],
    }
    differs = 0
    for name, (low, high) in SPANS.items():
        expected = np.zeros(6)
        for image in by_image[name]:
            for c in range(6):
                leads_out = (factors[name][c] > high and image[c] < 0) or (
                    factors[name][c] < low and image[c] > 0
                )
                expected[c] -= 0 if leads_out else RATE * LEARNING_RATE * image[c]
        np.testing.assert_allclose(
            moves_of_factors[name], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
        )
        total = by_image[name].sum(0)
        held = ((factors[name] > high) & (total < 0)) | ((factors[name] < low) & (total > 0))
        differs += (held & (expected != 0)).sum()
    assert differs > 0, 'a gate on the sum of the batch would be another'


def test_gate_of_the_batch_acts_on_the_sum(learned):
    start, _ = learned
    _, (_, (_, _, moved)) = moves('learned_dilation', 2, gate='batch')
    with jax.enable_x64(True):
        state = with_factors(start, **OUTSIDE)
        total = {name: images.sum(0) for name, images in gradients_of_each_image(state).items()}
    moves_of_factors = {
        'conv5_1/dilation': moved['conv5_1']['dilation'],
        'head/fc6/dilation': moved['head']['fc6']['dilation'],
    }
    for (name, (low, high)), factors in zip(SPANS.items(), OUTSIDE.values(), strict=True):
        factors = np.array(factors)
        held = ((factors > high) & (total[name] < 0)) | ((factors < low) & (total[name] > 0))
        assert held.any() and (moves_of_factors[name][held] == 0).all()
        expected = np.where(held, 0, -RATE * LEARNING_RATE * total[name])
        np.testing.assert_allclose(
            moves_of_factors[name], expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
        )


def test_factors_outside_their_range_do_not_go_further(learned):
    _, (_, (after, metrics, moved)) = learned
    net = {
        'conv5_1/dilation': moved['conv5_1']['dilation'],
        'head/fc6/dilation': moved['head']['fc6']['dilation'],
    }
    outside = np.array(list(OUTSIDE.values()))
    moved = np.stack([net[name] for name in NAMES])
    below, above = (outside < 1), np.stack([outside[0] > 4, outside[1] > 8])
    assert (moved[below] >= 0).all() and (moved[above] <= 0).all()
    assert (moved[~(below | above)] != 0).all(), 'those inside pass'
    np.testing.assert_allclose(metrics['factor_move'].value(), np.abs(moved).mean(), rtol=1e-4)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(after.params)), (
        'parameters stay float32'
    )


@pytest.mark.slow
def test_a_step_is_the_same_on_eight_devices(learned):
    """This holds inside and outside the ranges.

    Each of eight devices has one image, so its gate acts on that image.
    """
    _, eight = moves('learned_dilation', 8)
    for (_, metrics, moved), (_, expected_metrics, expected) in zip(eight, learned[1], strict=True):
        for name, m in expected_metrics.items():
            np.testing.assert_allclose(metrics[name].value(), m.value(), rtol=1e-5, err_msg=name)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(moved), jax.tree.leaves(expected)
        ):
            assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path


@pytest.mark.slow
def test_frozen_norms_do_not_move():
    """Running statistics, scales and biases stay, in a net whose norms have several names."""
    config = make_config(
        preprocess='imagenet',
        loss=dict(aux_weight=1.0),
        train=dict(batch_size=2),
        optim=dict(momentum=0.9, decay_norm_and_bias=True, weight_decay=0.1),
    )
    config_lib.choose(config, 'model', 'pspnet')
    config.model.update(num_layers=18, width=0.1, frozen_norm=True)
    (stage,) = stages_of(config)
    batch = {key: x[:2] for key, x in train_batch(rows=8).items()}
    topology, root = parallel.topology('pmap', 1), rng.root(0, 'test')

    def train_step(state, batch):
        return stage.train_step(
            state, batch, rng.streams(root, stage.streams, state.step, parallel.device_index())
        )[0]

    start = parallel.to_host(stage.init(root, batch, {}))
    step = topology.spmd(train_step, num_args=2)
    after = parallel.to_host(step(topology.put_replicated(start), topology.put_batch(batch)))
    norms = {
        name.rpartition('/')[0]
        for name in named_leaves(start.model_state['segmenter']['batch_stats'])
    }
    assert {'resnet/conv1_1', 'resnet/layer2_0/downsample_1', 'ppm/features_0_2', 'cls_1'} <= norms
    jax.tree.map(np.testing.assert_array_equal, after.model_state, start.model_state)
    before, params = (named_leaves(state.params['segmenter']) for state in (start, after))
    for name, value in before.items():
        still = name.rpartition('/')[0] in norms
        assert np.array_equal(value, params[name]) == still, name


def test_a_random_control_starts_uniform_and_stays():
    config = config_file.load(f'{REPOSITORY}/configs/learned_dilation.py:smoke,dilation=random')
    assert config.dilation.start == 'uniform' and config.dilation.rate == 0
    with jax.enable_x64(True):
        start, ((_, metrics, moved), _) = moves('learned_dilation', 1, start='uniform', rate=0.0)
    factors = start.params['segmenter']['conv5_1']['dilation']
    assert len(np.unique(factors)) == 6 and factors.min() >= 1 and factors.max() <= 4
    assert not moved['conv5_1']['dilation'].any() and not moved['head']['fc6']['dilation'].any()
    assert moved['conv5_1']['kernel'].any() and metrics['factor_move'].value() == 0


def test_factors_have_a_rate_of_their_own():
    config = make_config(dilation=dict(learn=('conv5_1',), replace=(('head/fc6', 2.35),)))
    plan = learned_dilation.make_dilations(config, NUM_CLASSES)
    assert plan.ranges == {NAMES[0]: (1, 4)} and plan.held == (NAMES[1],)
    factors = learned_dilation.with_rates(config, plan).optim.factors
    assert factors == ((r'segmenter/conv5_1/dilation', RATE), (r'segmenter/head/fc6/dilation', 0.0))
    assert config.optim.factors == (), 'the config that was given is as it was'


# --- evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def evaluated(learned):
    """Returns (state, summed metrics, scores) after a step.

    Its fractional factors round to the dilations of the fixed net.
    """
    (stage,) = stages_of(make_config())
    factors = dict(
        conv5_1=[1.5, 1.75, 2.0, 2.25, 2.375, 2.4], fc6=[3.5, 3.75, 4.0, 4.125, 4.25, 4.45]
    )
    state = with_factors(learned[1][0][0], **factors)
    (batch,) = eval_batches(10)
    topology = parallel.topology('pmap', 2)
    step = topology.spmd(
        lambda s, b: parallel.sum_over_devices(dict(stage.eval_step(s, b, {}))), num_args=2
    )
    totals = parallel.to_host(step(topology.put_replicated(state), topology.put_batch(batch)))
    return state, totals, stage.finalize(totals)


def test_the_rounded_net_is_the_fixed_one(evaluated):
    state, totals, scores = evaluated
    (fixed,) = stages_of(make_config('supervised'))
    net = state.params['segmenter']
    without = {**net, 'conv5_1': dict(net['conv5_1']), 'head': {'fc6': dict(net['head']['fc6'])}}
    without['conv5_1'].pop('dilation')
    without['head']['fc6'].pop('dilation')
    (batch,) = eval_batches(10)
    expected = jax.jit(lambda s: fixed.eval_step(s, batch, {}))(
        state.replace(params={'segmenter': without})
    )
    # Interpolation at whole numbers sums in another order, which may decide pixels between classes.
    difference = np.abs(totals['confusion_whole'].sum - expected['confusion'].sum).sum()
    assert difference <= 0.002 * expected['confusion'].sum.sum()
    assert np.abs(totals['confusion'].sum - expected['confusion'].sum).sum() > 4 * difference + 4
    assert scores['mIoU_whole_factors'] == pytest.approx(
        fixed.finalize(parallel.to_host(expected))['mIoU'], abs=0.005
    )
    assert scores['mIoU_change_by_rounding'] == pytest.approx(
        scores['mIoU_whole_factors'] - scores['mIoU']
    )


def test_scores_tell_of_the_factors(evaluated):
    _, _, scores = evaluated
    assert next(iter(scores)) == 'mIoU'
    row = scores['dilation']['conv5_1']
    assert (row['mean'], row['min'], row['max']) == pytest.approx((2.045833, 1.5, 2.4))
    assert row['std'] == pytest.approx(np.std([1.5, 1.75, 2.0, 2.25, 2.375, 2.4]))
    assert row['rounding_error'] == pytest.approx((0.5 + 0.25 + 0 + 0.25 + 0.375 + 0.4) / 6)
    histogram = scores['factor_histograms']['head/fc6']
    assert set(histogram['counts']) == {'start', 'now'}, (
        'the second quarter has not begun after one step'
    )
    width = 7 / 24
    by_hand = [0] * 24
    for factor in (3.5, 3.75, 4.0, 4.125, 4.25, 4.45):
        by_hand[math.floor((factor - 1) / width)] += 1
    assert histogram['counts']['now'] == by_hand
    assert histogram['counts']['start'] == [6 * (i == math.floor(3 / width)) for i in range(24)]
    np.testing.assert_allclose(histogram['edges'], [1 + i * width for i in range(25)])


def judge_of(mious):
    """Returns the inputs of the evaluation, with evaluations that return known numbers."""
    config = make_config()
    dilations = learned_dilation.Dilations(None, {'fc6/dilation': (1, 8)}, ())
    evaluations = []
    for miou in mious:
        evaluations.append(
            Evaluation(
                eval_step=lambda state, batch, keys, miou=miou: {'confusion': miou},
                finalize=lambda metrics, miou=miou: {
                    'mIoU': miou,
                    'confusion': metrics['confusion'],
                },
                monitor=('mIoU', 'max'),
            )
        )
    return learned_dilation.Judge(config, dilations, *evaluations)


def test_eval_step_alone_clips_the_factors():
    factors = jnp.array([0.5, 2.5, 9.0])
    state = TrainState(
        step=jnp.int32(3),
        params={'segmenter': {'fc6': {'dilation': factors}}},
        model_state={},
        opt_state={},
        extra={'factors': {'fc6/dilation': jnp.stack([factors] * 4)}},
    )
    metrics = learned_dilation.eval_step(judge_of(['learned', 'whole']), state, {}, {})
    assert (metrics['confusion'], metrics['confusion_whole']) == ('learned', 'whole')
    assert metrics['step'].value() == 3
    np.testing.assert_array_equal(metrics['factors/fc6/dilation'].value(), [1, 2.5, 8])
    np.testing.assert_array_equal(metrics['kept/fc6/dilation'].value(), [[1, 2.5, 8]] * 4)


def test_finalize_alone_compares_learned_with_whole_factors():
    once = np.float32(1)
    metrics = {
        'confusion': 'learned',
        'confusion_whole': 'whole',
        'step': Mean(np.float32(10), once),
        'factors/fc6/dilation': Mean(np.float32([2, 4]), once),
        'kept/fc6/dilation': Mean(np.ones((4, 2), np.float32), once),
    }
    scores = learned_dilation.finalize(judge_of([0.25, 0.75]), metrics)
    assert (scores['mIoU'], scores['mIoU_whole_factors']) == (0.25, 0.75)
    assert scores['mIoU_change_by_rounding'] == 0.5
    assert scores['confusion'] == 'learned'
    assert scores['dilation']['fc6']['mean'] == 3
    # Step 10 of 30 is in the second quarter.
    assert set(scores['factor_histograms']['fc6']['counts']) == {'start', '25 %', 'now'}
    unknown = learned_dilation.finalize(judge_of([None, 0.75]), metrics)
    assert unknown['mIoU_change_by_rounding'] is None


def test_survey_lists_dilated_layers_and_builds_nothing():
    dilations, norms = learned_dilation.survey(make_config(), NUM_CLASSES)
    assert dilations == {'conv5_1': 2, 'head/fc6': 4}
    assert norms == ()


@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(), (4.0, (1, 8), True)),
        (dict(start='uniform'), ('uniform', (1, 8), True)),
        (dict(learn=()), (4.0, None, False)),
        (dict(learn=(), replace=(('fc6', 2.5),)), (2.5, (2.5, 2.5), False)),
        (dict(replace=(('fc6', 3.0),), ranges=(('fc6', 2.0, 5.0),)), (3.0, (2.0, 5.0), True)),
    ],
)
def test_choose_layer(settings, expected):
    section = make_config(dilation=settings).dilation
    assert learned_dilation.choose_layer(section, 'fc6', 4) == expected


def test_factors_are_kept_at_every_quarter():
    plan = learned_dilation.make_dilations(make_config(), NUM_CLASSES)
    state = TrainState(
        jnp.int32(0), {}, {}, {}, {'factors': {name: jnp.zeros((4, 2)) for name in plan.ranges}}
    )
    for step in range(30):
        factors = {name: jnp.full(2, 100.0 + step) for name in plan.ranges}
        state = learned_dilation.keep_factors(state.replace(step=jnp.int32(step)), factors, 30)
    for kept in state.extra['factors'].values():
        assert kept[:, 0].tolist() == [100, 107, 115, 122]


def test_whole_factors_are_those_of_freeze():
    net = {
        'a': {'dilation': np.float32([0.2, 1.49, 1.5, 2.5, 3.7, 9]), 'kernel': np.float32([1.5])}
    }
    ranges = {'a/dilation': (1.25, 4)}
    frozen, _ = dilated.freeze(net, ranges)
    ours = jax.tree.map(np.asarray, learned_dilation.whole_factors(net, ranges))
    np.testing.assert_array_equal(ours['a']['dilation'], frozen['a']['dilation'])
    assert ours['a']['kernel'] == 1.5 and frozen['a']['dilation'].tolist() == [2, 2, 2, 3, 4, 4]


def test_the_fixed_net_is_scored_as_any_other():
    (stage,) = stages_of(make_config(dilation=dict(learn=())))
    state = jax.eval_shape(stage.init, rng.root(0, 'x'), train_batch(), {})
    assert state.extra['factors'] == {} and 'dilation' not in state.params['segmenter']['conv5_1']
    (batch,) = eval_batches(10)
    metrics = jax.eval_shape(stage.eval_step, state, batch, {})
    assert set(metrics) == {'confusion', 'image_score'}


# --- the parts ------------------------------------------------------------------------------------


def test_the_loss_reads_every_so_many_th_pixel():
    config = make_config(loss=dict(label_stride=4))
    logits = np.random.default_rng(0).standard_normal((8, 32, 64, NUM_CLASSES)).astype(np.float32)
    net = Net(None, lambda *args, **kwargs: ({'logits': jnp.asarray(logits)}, {}))
    batch = train_batch()
    loss = learned_dilation.make_loss(config, SPEC, net)
    terms, _, _ = loss({'segmenter': {}}, {'segmenter': {}}, batch, {'dropout': None})
    total, count = 0.0, 0
    for b in range(8):
        for y in range(0, 32, 4):
            for x in range(0, 64, 4):
                label = batch['label'][b, y, x]
                if label != 255:
                    scores = np.float64(logits[b, y, x])
                    total += np.log(np.exp(scores).sum()) - scores[label]
                    count += 1
    assert float(terms['main'].count) == count
    assert float(terms['main'].sum) == pytest.approx(total, rel=1e-5)


def test_pretraining_is_a_stage_that_the_next_begins_from():
    config = make_config(pretrain=dict(split='val', num_steps=12), dilation=dict(start='uniform'))
    first, second = stages_of(config)
    assert (first.name, first.num_steps, first.train_input.split) == ('pretraining', 12, 'val')
    assert (second.name, second.num_steps, second.train_input.split) == (
        'segmentation',
        30,
        'train',
    )
    before = parallel.to_host(first.init(rng.root(0, 'a'), train_batch(), {}))
    before = before.replace(step=np.int32(12))
    after = second.init(rng.root(0, 'b'), train_batch(), {'pretraining': before})
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert after.step == 0


@pytest.mark.parametrize('name, depth, layers', [('deeplab_v2', 50, 13), ('pspnet', 50, 9)])
def test_ranges_are_the_papers(name, depth, layers):
    config = make_config()
    config_lib.choose(config, 'model', name)
    config.model.update(num_layers=depth, width=0.1)
    ranges = learned_dilation.make_dilations(config, NUM_CLASSES).ranges
    assert len(ranges) == layers
    assert ranges['resnet/layer3_5/conv2/dilation'] == (1, 4) and ranges[
        'resnet/layer4_2/conv2/dilation'
    ] == (1, 8)
    if name == 'deeplab_v2':
        pyramid = [ranges[f'aspp/c{i}/dilation'] for i in range(4)]
        assert pyramid == [(1, 11), (7, 17), (13, 23), (19, 29)]


@pytest.mark.parametrize(
    'sections, words',
    [
        (dict(dilation=dict(ranges=(('head/fc6', 8.0, 1.0),))), ["layer 'head/fc6'", '(8.0, 1.0)']),
        (dict(dilation=dict(ranges=(('head/fc6', 3.2, 3.8),))), ['(3.2, 3.8)', 'whole number']),
        (dict(dilation=dict(learn=('conv6_1',))), ["'conv6_1'", 'conv5_1, head/fc6']),
        (
            dict(dilation=dict(replace=(('fc6', 2.0),))),
            ['config.dilation.replace', "'fc6'", 'head/fc6'],
        ),
        (
            dict(dilation=dict(replace=(('conv5_1', 5.0),))),
            ['config.dilation.replace', 'range (1, 4)'],
        ),
        (dict(pretrain=dict(split='val')), ['config.pretrain', 'both, or neither']),
        (dict(pretrain=dict(split='train_extra', num_steps=5)), ["'train_extra'", 'train, val']),
    ],
)
def test_wrong_settings(sections, words):
    config = make_config(**sections)
    config_lib.validate(config)
    with pytest.raises(InputError) as error:
        stages_of(config)
    for word in words:
        assert word in str(error.value)


def test_a_net_without_dilated_convolutions():
    config = make_config()
    config_lib.choose(config, 'model', 'erfnet')
    with pytest.raises(InputError, match='deeplab_largefov, deeplab_v2, pspnet'):
        stages_of(config)


@pytest.mark.parametrize(
    'key, value', [('replace', (('a', 0.0),)), ('ranges', (('a', 1.0),)), ('start', 'unifrom')]
)
def test_malformed_settings_fail_the_schema(key, value):
    with pytest.raises(InputError, match=f'config.dilation.{key}'):
        config_lib.validate(make_config(dilation={key: value}))


# --- configs and tables ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    'arg, batch_size, crop, rate, steps',
    [
        (':net=largefov', 10, 321, 1e-3, 20_000),
        (':net=deeplab_v2', 10, 321, 2.5e-4, 20_000),
        (':net=pspnet', 16, 561, 1e-4, 20_000),
        (':camvid,net=deeplab_v2', 10, 321, 2.5e-4, 15_000),
        (':camvid,net=pspnet', 10, 473, 1e-4, 10_000),
    ],
)
def test_hyperparameters_of_table_4_1(arg, batch_size, crop, rate, steps):
    config = config_file.load(f'{REPOSITORY}/configs/learned_dilation.py{arg}')
    assert (config.train.batch_size, config.train.num_steps) == (batch_size, steps)
    assert config.augment.crop == (crop, crop)
    optim = config.optim
    assert (optim.name, optim.learning_rate, optim.momentum, optim.weight_decay) == (
        'sgd',
        rate,
        0.9,
        5e-4,
    )
    assert (optim.schedule, optim.power) == ('poly', 0.9)


@pytest.mark.parametrize(
    'name, scale, rows',
    [
        ('table4_2', 'quick', 10),
        ('table4_3', 'paper', 4),
        ('table4_4', 'paper', 6),
        ('camvid', 'quick', 5),
    ],
)
def test_tables_resolve(name, scale, rows, tmp_path):
    path = REPOSITORY / f'configs/tables/learned_dilation_{name}.py'
    plan = table.make_table_plan(str(path), scale, str(tmp_path))
    assert len(plan.table.rows) == rows and len({job.row.key for job in plan.runs}) == rows


def test_rows_of_the_ablation_change_the_layers_that_they_say(monkeypatch, tmp_path):
    monkeypatch.setitem(models.NETS['segmentation'], 'deeplab_largefov', DeepLabLargeFOV)
    plan = table.make_table_plan(
        str(REPOSITORY / 'configs/tables/learned_dilation_table4_2.py'), 'quick', str(tmp_path)
    )
    dilations = {
        job.row.key: learned_dilation.make_dilations(job.config, 19)
        for job in plan.runs
        if job.seed == 0
    }
    conv5 = {f'vgg/conv5_{i}/dilation': (1, 4) for i in (1, 2, 3)}
    fc6 = {'fc6/dilation': (4.0, 20.0)}
    assert dilations['learned'].ranges == dilations['learned_uniform'].ranges == {**conv5, **fc6}
    assert dilations['learned_conv5'].ranges == conv5 and dilations['learned_fc6'].ranges == fc6
    assert dilations['fixed_3'].ranges == {} and dilations['fixed_3'].held == ()
    assert dilations['fixed_mean'].held == tuple(conv5)
    (random,) = (
        job.config.dilation for job in plan.runs if job.row.key == 'random' and job.seed == 0
    )
    assert dilations['random'].ranges == {**conv5, **fc6} and (random.start, random.rate) == (
        'uniform',
        0.0,
    )


def test_rows_from_a_trained_net_differ_in_their_factors_alone(monkeypatch, tmp_path):
    monkeypatch.setitem(models.NETS['segmentation'], 'deeplab_largefov', DeepLabLargeFOV)
    path = REPOSITORY / 'configs/tables/learned_dilation_camvid.py'
    overrides = ['^start$:init_from.path=vgg16.safetensors']
    plan = table.make_table_plan(str(path), 'quick', str(tmp_path), overrides=overrides)
    rows = {job.row.key: job.config for job in plan.runs if job.seed == 0}
    start = rows.pop('start')
    assert start.init_from.path == 'vgg16.safetensors' and start.dilation.learn == ()
    for config in rows.values():
        assert config.init_from.path == str(tmp_path / 'start/seed_0')
        assert config.optim.learning_rate == pytest.approx(start.optim.learning_rate / 10)
    fixed = config_lib.to_json(rows['fixed'])
    for config in list(rows.values())[1:]:
        different = config_lib.differences(fixed, config_lib.to_json(config))
        assert all(line.startswith('dilation.') for line in different), different
    for key in ('learned', 'uniform'):
        assert rows[key].dilation.rate * rows[key].optim.learning_rate == pytest.approx(0.1)
    assert rows['random'].dilation.rate == 0 and rows['random'].dilation.start == 'uniform'
    span = learned_dilation.make_dilations(rows['learned'], 11).ranges['fc6/dilation']
    assert span == (1.5, 8.0)
