"""Membership inference: who is trained on which images, the attack by numpy, and the refusals."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import NUM_CLASSES, SPEC, train_batch
from run_folders import REPOSITORY
from toy_membership import (
    PATCH,
    POOL,
    SGD,
    SIZE,
    STRIDE,
    Toy,
    eval_batch,
    make_config,
    make_state,
    make_system,
    numpy_posteriors,
    queries,
)

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel
from segjax.errors import InputError
from segjax.modes.table import spec as tables
from segjax.pipelines import membership as pipeline
from segjax.protocol import Mean, Product
from segjax.spec import ClassSpec
from segjax.tasks import accountant, supervised
from segjax.tasks.feature_synthesis import SEGMENTER
from segjax.train import driver, net_sources

# --- stages ---------------------------------------------------------------------------------------


def test_the_queried_victim_chooses_the_members_of_the_shadow():
    victim, shadow, attacker, audit = pipeline.make_stages(make_config(), SPEC, SPEC)
    assert victim.train_input.split == 'train' and victim.train_input.excludes == ('val',)
    assert victim.hand_on.inputs.split == shadow.train_input.split == 'train+val'
    assert victim.eval_input.excludes == ('train',), 'evaluation reads no input of the training'
    assert victim.hand_on.inputs.excludes == attacker.eval_input.excludes == ('train', 'val')
    assert victim.hand_on.shapes['members'].shape == (16,)
    assert shadow.train_input.chosen == Product('victim', 'members')
    assert shadow.train_input.excludes == ('train', 'val')
    assert shadow.eval_input.chosen == Product('victim', 'non_members')
    assert attacker.train_input.split == attacker.eval_input.split == 'train+val'
    assert audit.num_steps == 0 and audit.eval_input.split == 'train+val'
    assert audit.train_input == victim.train_input, 'the members of --mode audit'
    data = {inputs.data for stage in (shadow, attacker) for inputs in stage.all_inputs}
    assert data == {'data'}


def test_the_independent_adversary_never_asks():
    config = make_config(shadow=dict(adversary='independent'), shadow_data=dict(name='bdd100k'))
    victim, shadow, attacker, _ = pipeline.make_stages(config, SPEC, SPEC)
    assert victim.hand_on is None
    assert shadow.train_input.chosen is None
    assert shadow.train_input.split == 'train' and shadow.train_input.excludes == ('val',)
    assert attacker.eval_input.excludes == ()
    assert shadow.eval_input.split == 'val'
    data = {inputs.data for stage in (shadow, attacker) for inputs in stage.all_inputs}
    assert data == {'shadow_data'}


def test_the_independent_adversary_may_have_other_lists_of_the_same_data():
    config = make_config(shadow=dict(adversary='independent'))
    _, shadow, attacker, _ = pipeline.make_stages(config, SPEC, SPEC)
    assert shadow.train_input.excludes == ('train', 'val', 'val')
    assert attacker.eval_input.excludes == ('train', 'val')
    # Lists of a section of its own could not be compared with those of the victim.
    config.shadow_data.update(name=config.data.name, lists=('train=val:draw(3)',))
    with pytest.raises(InputError, match='the images of the victim') as error:
        pipeline.make_stages(config, SPEC, SPEC)
    assert error.value.where == 'config.shadow_data.name'
    config.shadow_data.world.seed = config.data.world.seed + 1
    assert pipeline.make_stages(config, SPEC, SPEC)


def test_references_see_halves_of_the_images_of_the_adversary():
    config = make_config(references=dict(count=3))
    stages = pipeline.make_stages(config, SPEC, SPEC)
    assert [stage.name for stage in stages[3:-1]] == ['reference_0', 'reference_1', 'reference_2']
    parts = [stage.train_input.part for stage in stages[3:-1]]
    assert parts == [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0)]
    assert {stage.train_input.split for stage in stages[3:-1]} == {'train+val'}


def test_the_victim_alone_is_compared_with_further_runs():
    stages = pipeline.make_stages(make_config(references=dict(count=1)), SPEC, SPEC)
    compared = [stage.name for stage in stages if stage.label_maps is not None]
    assert compared == ['victim']


def test_the_audit_alone_answers_behind_the_defence():
    testing = dict(defence='gaussian', strength=0.5)
    stages = pipeline.make_stages(make_config(testing=testing), SPEC, SPEC)
    assert [stage.predict_defence for stage in stages] == ['', '', '', 'gaussian 0.5']
    assert pipeline.make_stages(make_config(), SPEC, SPEC)[-1].predict_defence == 'none'


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
    batch = queries()
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
    batch = queries()
    keys = {'patches': jax.random.key(3)}
    patches = jax.jit(functools.partial(pipeline.with_patches, system))
    whole = patches(state, batch, keys)['patches'].reshape(8, 2, *PATCH, -1)
    turned = {key: value[::-1] for key, value in batch.items()}
    again = patches(state, turned, keys)['patches'].reshape(8, 2, *PATCH, -1)
    np.testing.assert_allclose(again[::-1], whole, atol=1e-6)


def test_patches_lie_inside_of_small_images():
    """The canvas of a training image has black pixels, as that of an evaluation."""
    system = make_system(attacker=dict(flip=False, patches=40))
    state = attacker_state(system)
    batch = queries()
    batch['filled'][:, 1] = 20  # five columns of planes, two places of a patch
    patches = jax.jit(functools.partial(pipeline.with_patches, system))
    made = patches(state, batch, {'patches': jax.random.key(3)})
    answer = numpy_posteriors(state.params['shadow'], batch['image'])[:, ::STRIDE, ::STRIDE]
    columns = np.asarray(made['patches'])[:, 0, 0, :NUM_CLASSES].reshape(8, 40, NUM_CLASSES)
    for image in range(8):
        inside = answer[image, :, :2].reshape(-1, NUM_CLASSES)
        distance = abs(columns[image][:, None] - inside).max(-1).min(1)
        assert distance.max() < 1e-5


def test_a_step_trains_the_attacker_alone():
    system = make_system()
    before = attacker_state(system)
    batch = queries()
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
    matrix = np.diag([1.0] * NUM_CLASSES + [0.0])
    counts = {'confusion': Mean(matrix, np.ones(()))}
    scores = pipeline.victim_stage(make_system(privacy=privacy)).finalize(counts)
    assert scores['epsilon'] == accountant.epsilon(16, 8, 3, 2.0, 1e-4, 'rdp')
    # Nobody knows how a loaded net was trained.
    source = dict(path='runs/victim', nets=(SEGMENTER,))
    loaded = dict(victim=dict(use='load'), init_from=source)
    stage = pipeline.victim_stage(make_system(privacy=privacy, **loaded))
    assert 'epsilon' not in stage.finalize(counts)


def test_what_epsilon_lacks_is_said_before_the_training(monkeypatch):
    privacy = dict(use=True, accountant='pld')

    def refusal(**sections):
        return pipeline.victim_stage(make_system(privacy=privacy, **sections)).train_input.refusal

    monkeypatch.setattr(accountant, 'load_library', lambda: None)
    assert refusal() is None
    assert '17' in refusal(train=dict(batch_size=17)).got
    monkeypatch.undo()
    monkeypatch.setattr(accountant, 'load_library', without_library)
    assert 'pip install' in refusal().fix
    assert pipeline.victim_stage(make_system(privacy=dict(use=True))).train_input.refusal is None


def without_library():
    raise InputError('privacy accountant', got='no package', expected='it', fix='pip install it')


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
        (dict(victim=dict(use='load'), features=dict(use='load')), 'config.init_from.path'),
        (dict(victim=dict(use='load'), init_from=dict(path='victim.pth')), 'config.init_from.nets'),
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
    config = make_config(shadow=dict(adversary='independent'), shadow_data=dict(name='bdd100k'))
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


COMMON = {
    'a non-member that is a member': ('train', '', 'data.eval_split', 'train'),
    'a member of S that is a non-member': ('train', '', 'shadow.non_members', 'shadow_members'),
    'of A2': ('train', 'adversary=independent', 'shadow.non_members', 'shadow_members'),
    'in evaluation': ('evaluate', 'victim=load', 'data.eval_split', 'train'),
}
"""{name: (use, argument of the config, key, a list with common images)}"""


@pytest.mark.parametrize('name', COMMON)
def test_lists_with_common_images_are_refused(name, tmp_path):
    use, argument, key, same = COMMON[name]
    config = config_file.load(f'configs/membership.py:smoke,{argument}')
    config_file.assign(config, [config_file.Assignment(key, same)])
    config.init_from.path = 'runs/victim' if 'load' in argument else ''
    with pytest.raises(InputError, match=r'no common example|every example in one'):
        driver.checked_run(config, str(tmp_path / 'run'), use, trace_steps=False, has_start=False)


# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize('scale', ['quick', 'paper'])
def test_rows_of_the_table_audit_a_run_with_another_test_alone(scale):
    table = tables.load(REPOSITORY / 'configs/tables/membership_table7_2.py')
    variant = table.scales[scale].variant

    def config_of(row):
        text = str(REPOSITORY / row.config.format(scale=variant)).replace(':,', ':')
        return config_lib.to_json(config_file.load(text))

    audits = [row for row in table.rows if row.evaluates]
    assert len(audits) == 12
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


@pytest.mark.parametrize(
    'variant, head, crop, batch_size, rate',
    [('bdd100k', 'aspp', 705, 7, 0.01), ('vistas', 'dpc', 721, 9, 0.02)],
)
def test_shadows_of_the_independent_adversary(variant, head, crop, batch_size, rate):
    """Table 7.1 and Sec. 7.4.1.2 of the thesis."""
    config = config_file.load(f'configs/membership.py:{variant}')
    net = config.shadow.model
    assert (net.name, net.backbone, net.head) == ('deeplab_v3plus', 'xception71', head)
    assert tuple(config.augment.crop) == (crop, crop)
    assert config.shadow.batch_size == batch_size
    optim = config.shadow.optim
    assert (optim.learning_rate, optim.momentum, optim.weight_decay) == (rate, 0.9, 4e-5)
    assert (optim.schedule, optim.power) == ('poly', 0.9)
