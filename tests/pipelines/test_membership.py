"""Membership inference: who is trained on which images, the attack by numpy, and the refusals."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, train_batch
from run_folders import REPOSITORY

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.metrics import membership
from segjax.metrics.membership_signals import image_signals
from segjax.modes.table import spec as tables
from segjax.ops import images, posteriors
from segjax.pipelines import membership as pipeline
from segjax.protocol import Mean, Product
from segjax.spec import ClassSpec
from segjax.tasks import guarded_net, membership_attack, segmentation, supervised
from segjax.tasks.feature_synthesis import SEGMENTER
from segjax.train import driver, net_sources

SIZE = (16, 32)
STRIDE = 4
PATCH = (3, 4)
POOL = SPEC.num_examples['train'] + SPEC.num_examples['val']
SGD = dict(name='sgd', learning_rate=0.5, momentum=0.0, weight_decay=0.0, schedule='constant')


class Toy(nn.Module):
    """Two layers with drop-out between them."""

    dropout: float = 0.5
    num_classes: int = NUM_CLASSES

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Conv(6, (3, 3), name='first')(x))
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        return {'logits': nn.Conv(self.num_classes, (1, 1), name='second')(x)}


class ToyAttacker(nn.Module):
    """A linear layer on the mean of the planes."""

    @nn.compact
    def __call__(self, x, train: bool):
        activation = nn.Dense(membership_attack.NUM_CLASSES, name='fc')(x)
        return {'logits': activation.mean((1, 2)), 'activation': activation}


def make_config(**sections):
    config = config_lib.defaults('membership')
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE, train_split='train', eval_split='val'),
        train=dict(batch_size=8, num_steps=3),
        optim=SGD,
        shadow=dict(members='train', non_members='val', num_steps=4, batch_size=8, optim=SGD),
        attacker=dict(stride=STRIDE, patch=PATCH, patches=2, num_steps=5, batch_size=8, optim=SGD),
        testing=dict(num_patches=3, resamples=50),
    )
    for section, keys in sections.items():
        config_lib.update(config, **{section: keys})
    return config


def make_system(**sections):
    """Returns the system with toy nets."""
    config = make_config(**sections)
    system = pipeline.make_system(config, SPEC, SPEC)
    attacker = segmentation.net_of(ToyAttacker(), lambda planes: planes)
    return system._replace(
        victim=system.victim._replace(net=Toy()),
        shadow=system.shadow._replace(net=Toy()),
        attacker=attacker,
    )


def eval_batch(seed=0):
    """Returns a batch of images of the audit, members and non-members, with padding."""
    batch = train_batch(8, SIZE, seed)
    size = np.tile(np.array(SIZE, np.int32), (8, 1))
    size[1] = (12, 28)
    batch['label'][1, 12:] = 255
    batch['label'][1, :, 28:] = 255
    batch['label'][0] = 0
    index = np.array([0, 5, 15, 16, 17, 20, 24, 25], np.int32)
    return {**batch, 'index': index, 'size': size, 'label_size': size}


def variables_of(net, key, shape):
    return net.init(jax.random.key(key), jnp.zeros(shape), train=False)['params']


def make_state(references=0):
    """Returns the state of an audit with random nets."""
    image = (1, *SIZE, 3)
    params = {
        SEGMENTER: variables_of(Toy(), 1, image),
        'attacker': variables_of(ToyAttacker(), 2, (1, *PATCH, 2 * NUM_CLASSES)),
    }
    for number in range(references):
        params[f'reference_{number}'] = variables_of(Toy(), 10 + number, image)
    params = jax.tree.map(lambda x: 3 * x, params)
    model_state = {name: {} for name in params}
    return supervised.fresh_state(params, model_state, {}, num_steps=0, ema=0.0)


def numpy_posteriors(params, image):
    """Returns the posteriors of the toy net, without a defence."""
    x = images.normalize(jnp.asarray(image), 'unit')
    logits = np.asarray(Toy().apply({'params': params}, x, train=False)['logits'], np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# --- stages ---------------------------------------------------------------------------------------


def test_the_queried_victim_chooses_the_members_of_the_shadow():
    victim, shadow, attacker, audit = pipeline.make_stages(make_config(), SPEC, SPEC)
    assert victim.train_input.split == 'train' and victim.train_input.excludes == ('val',)
    assert victim.hand_on.inputs.split == shadow.train_input.split == 'train+val'
    assert victim.hand_on.inputs.excludes == ('train', 'val')
    assert victim.hand_on.shapes['members'].shape == (16,)
    assert shadow.train_input.chosen == Product('victim', 'members')
    assert shadow.train_input.excludes == ('train', 'val')
    assert shadow.eval_input.chosen == Product('victim', 'non_members')
    assert attacker.train_input.split == attacker.eval_input.split == 'train+val'
    assert audit.num_steps == 0 and audit.eval_input.split == 'train+val'
    data = {inputs.data for stage in (shadow, attacker) for inputs in stage.all_inputs}
    assert data == {'data'}


def test_the_independent_adversary_never_asks():
    config = make_config(shadow=dict(adversary='independent'))
    victim, shadow, attacker, _ = pipeline.make_stages(config, SPEC, SPEC)
    assert victim.hand_on is None
    assert shadow.train_input.chosen is None
    assert shadow.train_input.split == 'train' and shadow.train_input.excludes == ('val',)
    assert shadow.eval_input.split == 'val'
    data = {inputs.data for stage in (shadow, attacker) for inputs in stage.all_inputs}
    assert data == {'shadow_data'}


def test_references_see_halves_of_the_images_of_the_adversary():
    config = make_config(references=dict(count=3))
    stages = pipeline.make_stages(config, SPEC, SPEC)
    assert [stage.name for stage in stages[3:-1]] == ['reference_0', 'reference_1', 'reference_2']
    parts = [stage.train_input.part for stage in stages[3:-1]]
    assert parts == [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0)]
    assert {stage.train_input.split for stage in stages[3:-1]} == {'train+val'}


def test_loaded_nets_are_frozen():
    config = make_config(victim=dict(use='load'), attacker=dict(use='load'))
    config.init_from.path = 'runs/membership'
    config.shadow.members = 'none'
    victim, audit = pipeline.make_stages(config, SPEC, SPEC)
    assert victim.num_steps == 0 and victim.frozen == (SEGMENTER,)
    assert audit.frozen == ('attacker',)


def test_the_most_confident_images_become_members():
    confidence = np.array([0.2, 0.9, 0.5, 0.9, 0.1, 0.7])
    chosen = pipeline.chosen_members({'confidence': Mean(confidence, np.ones(6))}, 3)
    assert chosen['members'].tolist() == [1, 3, 5]
    assert chosen['non_members'].tolist() == [0, 2, 4]
    assert {array.dtype for array in chosen.values()} == {np.dtype('int32')}


def test_confidence_is_the_mean_of_the_largest_posterior():
    system = make_system()
    batch = eval_batch()
    state = make_state()
    measure = pipeline.make_hand_on(system).eval_step
    mean = jax.jit(functools.partial(measure, keys={}))(state, batch)['confidence']
    largest = numpy_posteriors(state.params[SEGMENTER], batch['image']).max(-1)
    for row, index in enumerate(batch['index']):
        expected = largest[row][batch['label'][row] < NUM_CLASSES].mean()
        assert mean.value()[index] == pytest.approx(expected, rel=1e-5)
    assert mean.count.sum() == 8


# --- the attacker ---------------------------------------------------------------------------------


def attacker_state(system):
    shadow = supervised.fresh_state(
        {'shadow': make_state().params[SEGMENTER]}, {'shadow': {}}, {}, num_steps=1, ema=0.0
    )
    members = jnp.array([0, 2, 3, 7], jnp.int32)
    earlier = {'shadow': shadow, 'victim/members': members}
    return pipeline.init_attacker(system, jax.random.key(0), {}, earlier)


def test_the_table_of_members_follows_the_adversary():
    member = attacker_state(make_system()).extra[pipeline.MEMBER]
    assert np.flatnonzero(member).tolist() == [0, 2, 3, 7]
    assert member.shape == (POOL,)
    independent = make_system(shadow=dict(adversary='independent'))
    member = attacker_state(independent).extra[pipeline.MEMBER]
    assert np.flatnonzero(member).tolist() == list(range(SPEC.num_examples['train']))


def test_patches_show_answers_and_labels_of_the_shadow():
    system = make_system(attacker=dict(flip=False))
    state = attacker_state(system)
    batch = train_batch(8, SIZE)
    keys = {'patches': jax.random.key(3)}
    made = jax.jit(functools.partial(pipeline.with_patches, system))(state, batch, keys)
    answer = numpy_posteriors(state.params['shadow'], batch['image'])[:, ::STRIDE, ::STRIDE]
    label = batch['label'][:, ::STRIDE, ::STRIDE]
    planes = np.concatenate([answer, label[..., None] == np.arange(NUM_CLASSES)], -1)

    # Every patch is a part of the planes of its image.
    assert made['patches'].shape == (16, *PATCH, 2 * NUM_CLASSES)
    for number, patch in enumerate(np.asarray(made['patches'])):
        parts = np.lib.stride_tricks.sliding_window_view(planes[number // 2], PATCH, (0, 1))
        parts = np.moveaxis(parts, 2, -1)
        assert np.isclose(parts, patch, atol=1e-5).all((2, 3, 4)).any()
    assert made['truth'].tolist() == [1, 1, 0, 0, 1, 1, 1, 1, *[0] * 6, 1, 1]
    assert made['weight'].tolist() == [1.0] * 16


def test_patches_of_an_image_do_not_depend_on_its_place():
    system = make_system()
    state = attacker_state(system)
    batch = train_batch(8, SIZE)
    keys = {'patches': jax.random.key(3)}
    patches = jax.jit(functools.partial(pipeline.with_patches, system))
    whole = patches(state, batch, keys)['patches'].reshape(8, 2, *PATCH, -1)
    turned = {key: value[::-1] for key, value in batch.items()}
    again = patches(state, turned, keys)['patches'].reshape(8, 2, *PATCH, -1)
    np.testing.assert_allclose(again[::-1], whole, atol=1e-6)


def test_a_step_trains_the_attacker_alone():
    system = make_system()
    before = attacker_state(system)
    batch = train_batch(8, SIZE)
    keys = {'patches': jax.random.key(3), 'dropout': jax.random.key(4)}
    topology = parallel.topology('pmap', 1)
    step = pipeline.make_attacker_step(system)
    after, metrics = topology.spmd(lambda state, batch: step(state, batch, keys), num_args=2)(
        topology.put_replicated(parallel.to_host(before)), topology.put_batch(batch)
    )
    after = parallel.to_host(after)
    chex.assert_trees_all_equal(after.params['shadow'], parallel.to_host(before.params['shadow']))

    # A linear layer: the gradient by hand.
    made = pipeline.with_patches(system, before, batch, keys)
    x = np.asarray(made['patches'], np.float64).mean((1, 2))
    layer = before.params['attacker']['fc']
    logits = x @ np.asarray(layer['kernel'], np.float64) + np.asarray(layer['bias'])
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    error = probability - np.eye(2)[np.asarray(made['truth'])]
    expected = layer['kernel'] - SGD['learning_rate'] * x.T @ error / len(x)
    np.testing.assert_allclose(after.params['attacker']['fc']['kernel'], expected, atol=1e-5)
    loss = -np.log(probability[np.arange(16), np.asarray(made['truth'])]).mean()
    assert float(parallel.to_host(metrics)['loss'].value()) == pytest.approx(loss, rel=1e-4)


def test_the_scores_of_the_attacker_are_about_the_images_of_the_adversary():
    system = make_system()
    sums = {
        'verdict': Mean(np.array([0.9, 0.1, 0.8, 0.4]), np.ones(4)),
        'member': Mean(np.array([1, 0, 0, 1]), np.ones(4)),
    }
    assert pipeline.shadow_scores(sums)['AUC'] == 0.75
    state = attacker_state(system)
    batch = eval_batch()
    metrics = jax.jit(functools.partial(pipeline.attack_shadow, system, keys={}))(state, batch)
    places = np.flatnonzero(metrics['member'].count)
    assert places.tolist() == batch['index'].tolist()
    np.testing.assert_array_equal(
        metrics['member'].sum, state.extra['member'] * (metrics['member'].count > 0)
    )


# --- the audit ------------------------------------------------------------------------------------


def attacked(system, state, batch):
    return jax.jit(lambda: pipeline.attack(system, state, batch, {}))()


def test_verdicts_and_signals_by_numpy():
    system = make_system()
    state = make_state()
    batch = eval_batch()
    outputs = attacked(system, state, batch)
    answer = numpy_posteriors(state.params[SEGMENTER], batch['image']).astype(np.float32)
    for name, expected in image_signals(answer, batch['label']).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)

    # The verdict on an image is the mean probability of its patches.
    odds = np.asarray(outputs['verdict_patch'], np.float64)
    assert odds.shape == (8, 3)
    expected = (1 / (1 + np.exp(-odds))).mean(1)
    np.testing.assert_allclose(outputs['verdict_image'], expected, rtol=1e-5)


def test_a_verdict_depends_on_the_image_alone():
    """Neither the place in the batch nor the key of the evaluation matters."""
    system = make_system(testing=dict(defence='gaussian', strength=0.5))
    state = make_state()
    batch = eval_batch()
    attack = jax.jit(functools.partial(pipeline.attack, system, state))
    first = attack(batch, rng.streams(rng.root(0, 'any'), ('a',), 0, 0))
    turned = {key: value[::-1] for key, value in batch.items()}
    again = attack(turned, rng.streams(rng.root(7, 'any'), ('a',), 0, 0))
    for name, values in first.items():
        np.testing.assert_allclose(again[name][::-1], values, rtol=1e-4, atol=1e-5)


def test_sliding_patches_of_the_authors():
    testing = dict(places='sliding', fusion='sum_logits')
    outputs = attacked(make_system(testing=testing), make_state(), eval_batch())
    # Maps of 4 x 8 in patches of 3 x 4, and a map of 3 x 7.
    assert outputs['verdict_weight'].sum(1).tolist() == [4, 2, 4, 4, 4, 4, 4, 4]


def test_references_answer_without_a_defence():
    system = make_system(references=dict(count=2), testing=dict(defence='argmax'))
    state = make_state(references=2)
    batch = eval_batch()
    outputs = attacked(system, state, batch)
    answer = numpy_posteriors(state.params['reference_1'], batch['image']).astype(np.float32)
    expected = image_signals(answer, batch['label'])['loss']
    np.testing.assert_allclose(outputs['reference_1/loss'], expected, rtol=1e-4)
    # The victim is one-hot.
    assert (np.asarray(outputs['confidence']) == 1).all()


def test_confusions_of_members_and_of_others():
    system = make_system()
    state = make_state()
    batch = eval_batch()
    judge = pipeline.make_judge(system)
    count = functools.partial(pipeline.score_segmentation, system, judge, keys={})
    metrics = jax.jit(count)(state, batch)
    prediction = numpy_posteriors(state.params[SEGMENTER], batch['image']).argmax(-1)
    for kind, rows in (('members', [0, 1, 2]), ('non_members', [3, 4, 5, 6, 7])):
        expected = np.zeros((NUM_CLASSES, NUM_CLASSES))
        for row in rows:
            valid = batch['label'][row] < NUM_CLASSES
            pairs = (batch['label'][row][valid], prediction[row][valid])
            np.add.at(expected, pairs, 1)
        matrix = np.asarray(metrics[kind].sum)
        np.testing.assert_array_equal(matrix[:NUM_CLASSES, :NUM_CLASSES], expected)


def test_an_untrained_victim_tells_nothing():
    """The interval of the AUC holds 0.5, for a victim that has seen no image."""
    system = make_system()
    state = make_state()
    attack = jax.jit(lambda batch: pipeline.attack(system, state, batch, {}))
    verdicts = []
    losses = []
    for seed in range(16):
        outputs = attack(eval_batch(seed))
        verdicts.append(np.asarray(outputs['verdict_image']))
        losses.append(np.asarray(outputs['loss']))
    member = np.random.default_rng(0).random(128) < 0.5
    for scores in (np.concatenate(verdicts), -np.concatenate(losses)):
        kept = np.isfinite(scores)
        interval = membership.auc_interval(scores[kept], member[kept])
        assert interval['low'] < 0.5 < interval['high']


def test_the_scores_of_an_audit():
    system = make_system()
    judge = pipeline.make_judge(system)
    state = make_state()
    batch = eval_batch()
    outputs = {name: np.asarray(x) for name, x in attacked(system, state, batch).items()}
    sums = pipeline.observe(system, batch, outputs)
    count = functools.partial(pipeline.score_segmentation, system, judge, keys={})
    metrics = jax.jit(count)(state, batch)
    with np.errstate(invalid='ignore'):  # most images of the splits are in no batch
        scores = pipeline.finalize(system, judge, {**parallel.to_host(metrics), **sums})
    member = batch['index'] < SPEC.num_examples['train']
    verdict = outputs['verdict_image']
    pairs = verdict[member][:, None] - verdict[~member]
    assert scores['AUC'] == pytest.approx((pairs > 0).mean())
    assert scores['attacks']['loss']['AUC'] is not None
    gap = scores['members_mIoU'] - scores['mIoU']
    assert scores['gap_mIoU'] == pytest.approx(gap)


def test_pictures_show_where_the_attacker_looks():
    system = make_system()
    batch = eval_batch()
    render = functools.partial(pipeline.render, system, pipeline.make_judge(system), keys={})
    pictures = jax.jit(render)(make_state(), batch)
    assert set(pictures) == {'prediction', 'truth', 'errors', 'activation'}
    shown = np.asarray(pictures['activation'].pixels)
    assert shown.shape == (8, *SIZE, 3) and shown.dtype == np.uint8
    # Every image has its own range.
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 5 for picture in shown)


# --- defences -------------------------------------------------------------------------------------


def answers(state, batch, **testing):
    system = make_system(testing=testing)
    return np.asarray(guarded_net.defended_query(system.victim, state, batch))


@pytest.mark.parametrize(
    ('testing', 'expected'),
    [
        (dict(defence='argmax'), posteriors.argmax),
        (dict(defence='temperature', strength=4.0), lambda p: posteriors.temperature(p, 4.0)),
        (dict(defence='top_k', strength=2.0), lambda p: posteriors.top_k(p, 2)),
    ],
)
def test_defences_are_functions_of_the_posteriors(testing, expected):
    state = make_state()
    batch = eval_batch()
    plain = answers(state, batch)
    np.testing.assert_allclose(
        plain, numpy_posteriors(state.params[SEGMENTER], batch['image']), atol=1e-5
    )
    np.testing.assert_allclose(answers(state, batch, **testing), expected(plain), atol=1e-5)


@pytest.mark.parametrize(
    'testing', [dict(defence='gaussian', strength=0.5), dict(defence='dropout', strength=0.5)]
)
def test_a_repeated_query_has_the_same_answer(testing):
    state = make_state()
    batch = eval_batch()
    first = answers(state, batch, **testing)
    turned = {key: value[::-1] for key, value in batch.items()}
    np.testing.assert_allclose(answers(state, turned, **testing)[::-1], first, atol=1e-5)
    np.testing.assert_allclose(first.sum(-1), 1, atol=1e-5)
    assert abs(first - answers(state, batch)).max() > 0.05
    assert abs(first - answers(state, batch, **testing, secret=1)).max() > 0.05


def test_dropout_drops_channels_of_the_layer_of_the_net():
    state = make_state()
    batch = eval_batch()
    np.testing.assert_allclose(
        answers(state, batch, defence='dropout', strength=0.0), answers(state, batch), atol=1e-5
    )
    # Without any channel only the bias of the last layer is left.
    nothing = answers(state, batch, defence='dropout', strength=0.999999)
    bias = np.asarray(state.params[SEGMENTER]['second']['bias'], np.float64)
    expected = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(nothing, np.broadcast_to(expected, nothing.shape), atol=1e-5)


# --- private training -----------------------------------------------------------------------------


def test_a_private_step_is_shorter_than_the_norm_allows():
    clip = 0.01
    privacy = dict(use=True, clip_norm=clip, noise_multiplier=0.0)
    system = make_system(privacy=privacy)
    stage = pipeline.victim_stage(system)
    assert stage.shared_streams == ('privacy',)
    state = stage.init(jax.random.key(0), train_batch(8, SIZE), {})
    topology = parallel.topology('pmap', 1)
    keys = {'privacy': jax.random.key(1), 'dropout': jax.random.key(2)}
    step = topology.spmd(lambda state, batch: stage.train_step(state, batch, keys), num_args=2)
    before = parallel.to_host(state)
    after, metrics = step(topology.put_replicated(before), topology.put_batch(train_batch(8, SIZE)))
    moves = jax.tree.map(lambda a, b: a - b, parallel.to_host(after).params, before.params)
    length = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(moves)))
    # Seven of the eight examples have a label.
    assert 0 < length <= SGD['learning_rate'] * clip * 7 / 8 * 1.001
    assert parallel.to_host(metrics)['loss_clipped'].sum == 7


def test_epsilon_is_a_score_of_a_private_victim():
    pytest.importorskip('dp_accounting')
    privacy = dict(use=True, accountant='rdp', noise_multiplier=2.0)
    system = make_system(privacy=privacy)
    scores = pipeline.with_epsilon(system, lambda metrics: {'mIoU': 0.5}, {})
    expected = pipeline.accountant.epsilon(16, 8, 3, 2.0, 1e-4, 'rdp')
    assert scores == {'mIoU': 0.5, 'epsilon': expected}


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('sections', 'where'),
    [
        (dict(shadow=dict(members='train[:50%]')), 'config.shadow.members'),
        (dict(data=dict(train_split='train[:8]')), 'config.data.train_split'),
        (dict(data=dict(labelled_fraction=0.5)), 'config.data.labelled_fraction'),
        (dict(victim=dict(use='load')), 'config.init_from.sources'),
        (dict(attacker=dict(use='load')), 'config.init_from.sources'),
        (dict(features=dict(use='load')), 'config.features.use'),
        (dict(testing=dict(defence='dropout', strength=1.0)), 'config.testing.strength'),
        (dict(testing=dict(defence='obfuscate', strength=2.0)), 'config.testing.strength'),
        (dict(testing=dict(defence='obfuscate', strength=0.5)), 'config.testing.defence'),
        (dict(testing=dict(defence='temperature')), 'config.testing.strength'),
        (dict(testing=dict(defence='top_k', strength=2.5)), 'config.testing.strength'),
    ],
)
def test_settings_that_contradict_each_other(sections, where):
    with pytest.raises(InputError) as error:
        pipeline.make_stages(make_config(**sections), SPEC, SPEC)
    assert error.value.where == where
    assert error.value.fix


def test_an_unknown_list_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'train'"):
        pipeline.make_stages(make_config(shadow=dict(members='trian')), SPEC, SPEC)


def test_a_net_without_a_rate_of_dropout_has_no_such_defence():
    config = make_config(testing=dict(defence='dropout', strength=0.5))
    config_lib.choose(config, 'model', 'erfnet')
    with pytest.raises(InputError, match="'dropout' of a ERFNet"):
        pipeline.make_stages(config, SPEC, SPEC)


def test_data_of_other_classes_are_refused():
    other = ClassSpec(('a', 'b'), ((0, 0, 0), (1, 1, 1)), (0, 1))
    further = SPEC.__class__(**{**SPEC.__dict__, 'classes': other})
    config = make_config(shadow=dict(adversary='independent'))
    with pytest.raises(InputError, match='2 classes') as error:
        pipeline.make_stages(config, SPEC, further)
    assert error.value.where == 'config.shadow_data.class_map'
    # The dependent adversary does not read them.
    assert pipeline.make_stages(make_config(), SPEC, further)


def test_a_victim_with_another_number_of_classes_is_refused():
    stage = pipeline.victim_stage(make_system())
    state = jax.eval_shape(lambda: stage.init(jax.random.key(0), train_batch(8, SIZE), {}))
    other = jax.eval_shape(
        lambda: Toy(num_classes=NUM_CLASSES + 1).init(
            jax.random.key(0), jnp.zeros((1, *SIZE, 3)), train=False
        )
    )
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), other['params'])
    source = {'params': {SEGMENTER: params}, 'model_state': {SEGMENTER: {}}}
    init_from = config_lib.defaults('membership').init_from
    init_from.sources = ((SEGMENTER, 'runs/other'),)
    rows = net_sources.open_rows(init_from, lambda path, release: source)
    with pytest.raises(InputError, match=r'second/bias: \(6,\), not \(5,\)'):
        net_sources.check(rows, {stage.name: state}, partial=False)


@pytest.mark.parametrize('key', ['data.eval_split', 'shadow.non_members'])
def test_lists_with_common_images_are_refused(key, tmp_path):
    config = config_file.load('configs/membership.py:smoke')
    same = {'data.eval_split': 'train', 'shadow.non_members': 'victim_members'}[key]
    config_file.assign(config, [config_file.Assignment(key, same)])
    with pytest.raises(InputError, match='no common example'):
        driver.checked_run(config, str(tmp_path / 'run'), 'train', trace_steps=False)


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale', ['quick', 'paper'])
def test_rows_of_the_table_audit_a_run_with_another_test_alone(scale):
    table = tables.load(REPOSITORY / 'configs/tables/membership_table7_2.py')
    variant = table.scales[scale].variant

    def config_of(row):
        text = str(REPOSITORY / row.config.format(scale=variant)).replace(':,', ':')
        return config_lib.to_json(config_file.load(text))

    audits = [row for row in table.rows if row.evaluates]
    assert len(audits) == 10
    for row in audits:
        own = config_of(row)
        start = config_of(table.row(row.evaluates))
        assert own.pop('testing') != start.pop('testing'), row.key
        assert own == start, row.key


def test_the_published_lists_have_the_published_sizes():
    config = config_file.load('configs/membership.py')
    sizes = [re.search(r'draw\((\d+)', entry)[1] for entry in config.data.lists]
    assert sizes == ['1488', '912', '555', '520']
    assert tuple(config.attacker.patch) == (90, 90) and config.attacker.stride == 8
    other = config_file.load('configs/membership.py:vistas')
    assert other.shadow_data.class_map == 'cityscapes' and other.data.lists == ()
