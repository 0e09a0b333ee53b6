"""Drop-out codes: branches, losses against loops, calibration, samples, devices, wrong configs."""

import functools
import pathlib

import chex
import jax
import numpy as np
import pytest
from conditional_batches import FACES, HEADS, POINTS, SIZE, make_batch

from segjax import config as config_lib
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.losses import samples as losses
from segjax.models.generators import crn
from segjax.modes.table import plan as plan_lib
from segjax.ops import codes as code_ops
from segjax.pipelines import dropout_codes as pipeline
from segjax.tasks import conditional_images

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
LAYERS = ('conv1_1', 'conv1_2')
FACTORS = (1.0, 0.5, 2.0)


def make_config(branches='shared', neighbours=True, **sections):
    """Returns a config of tiny nets with plain gradient descent."""
    config = config_lib.defaults('dropout_codes')
    config_lib.choose(config, 'features.model', 'vgg16')
    config.features.use = 'random'
    config.features.model.width = 0.05
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(eval_size=SIZE),
        condition=dict(sigma=1.0),
        model=dict(width=0.01, branches=branches, num_branches=4, split_at=1, first_height=8),
        neighbours=dict(use=neighbours, num_clusters=2),
        loss=dict(layers=LAYERS, factors=FACTORS),
        branches_at_once=2,
        train=dict(batch_size=8, num_steps=10),
        evaluate=dict(batch_size=4),
        # Without features of the scores, Phi ends with the layers of the loss.
        testing=dict(num_samples=1 if branches == 'single' else 4, interpolation=3, features=False),
        landmarks=dict(use='none'),
        normals=dict(use='none'),
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
    )
    config_lib.update(config, **sections)
    return config


@functools.cache
def started(branches='shared', neighbours=True):
    """Returns the system of a config, its stage and its first state."""
    config = make_config(branches, neighbours)
    system = pipeline.make_system(config, FACES)
    (stage,) = pipeline.make_stages(config, FACES)
    return system, stage, stage.init(rng.root(0, 'test'), make_batch(), {})


@functools.cache
def all_images(branches, neighbours):
    """Returns (params, batch) -> images of all branches by a single call of the net, compiled."""
    system, _, state = started(branches, neighbours)
    codes = state.extra.get('codes')

    def images(params, batch):
        condition = conditional_images.batch_condition(system.task, batch)
        variables = {'params': params['generator']}
        return system.net.apply(variables, condition, codes, train=False)['image']

    return jax.jit(images)


@functools.cache
def all_features(branches, neighbours):
    """Returns batch -> features of the images of all branches, and of the targets, compiled."""
    system, _, state = started(branches, neighbours)
    phi = functools.partial(conditional_images.features_of, system.task.phi, state.params)
    images = all_images(branches, neighbours)

    def features(batch):
        targets, present = pipeline.targets_of(system, batch)
        return phi(images(state.params, batch)), phi(targets), present

    return jax.jit(features)


@functools.cache
def gradient_of(branches, neighbours):
    """Returns batch -> (gradient of the loss, errors by layer), compiled."""
    system, _, state = started(branches, neighbours)
    loss_fn = pipeline.make_loss(system, state)

    def total(params, batch):
        terms, _, _ = loss_fn(params, state.model_state, batch, {})
        means = {layer: mean.value() for layer, mean in terms.items()}
        return sum(f * means[k] for k, f in zip(system.layers, FACTORS)), means

    gradient = jax.jit(jax.grad(total, has_aux=True))
    return functools.partial(gradient, {'generator': state.params['generator']})


# --- the loss -------------------------------------------------------------------------------------


def loss_by_loop(branches, neighbours, batch):
    """Computes Eqs. 5.4 to 5.6 example by example, target by target, in numpy."""
    system, *_ = started(branches, neighbours)
    drawn, known, present = jax.tree.map(np.asarray, all_features(branches, neighbours)(batch))
    total = dict.fromkeys(system.layers, 0.0)
    for b in range(len(batch['image'])):
        taken = set()
        costs = np.zeros((system.num_branches, present.shape[1]))
        for i, j in np.ndindex(*costs.shape):
            for layer, factor in zip(system.layers, FACTORS):
                costs[i, j] += factor * np.abs(drawn[layer][b, i] - known[layer][b, j]).mean()

        # Y^0 comes first. Then rounds of proposals follow.
        pairs = {0: int(costs[:, 0].argmin())}
        taken = set(pairs.values())
        waiting = [j for j in range(1, costs.shape[1]) if present[b, j]]
        while waiting:
            free = [i for i in range(len(costs)) if i not in taken]
            wishes = {j: min(free, key=lambda i: costs[i, j]) for j in waiting}
            for branch in set(wishes.values()):
                rivals = [j for j in waiting if wishes[j] == branch]
                pairs[min(rivals, key=lambda j: costs[branch, j])] = branch
            taken = set(pairs.values())
            waiting = [j for j in waiting if j not in pairs]
        for j, i in pairs.items():
            for layer in system.layers:
                total[layer] += np.abs(drawn[layer][b, i] - known[layer][b, j]).mean()
    return {layer: value / len(batch['image']) for layer, value in total.items()}


@pytest.mark.parametrize('neighbours', [True, False])
@pytest.mark.parametrize('branches', ['shared', 'separate', 'late'])
def test_the_errors_are_those_of_a_loop(branches, neighbours):
    batch = make_batch()
    _, errors = gradient_of(branches, neighbours)(batch)
    for layer, error in loss_by_loop(branches, neighbours, batch).items():
        np.testing.assert_allclose(errors[layer], error, rtol=2e-4)


def test_a_single_image_learns_the_target_alone():
    batch = make_batch()
    _, errors = gradient_of('single', False)(batch)
    drawn, known, _ = all_features('single', False)(batch)
    for layer, error in errors.items():
        expected = np.abs(drawn[layer][:, 0] - known[layer][:, 0]).mean()
        np.testing.assert_allclose(error, expected, rtol=2e-4)


@pytest.mark.parametrize('branches', ['shared', 'separate', 'late'])
def test_the_gradient_is_that_of_all_branches_in_a_single_pass(branches):
    system, _, state = started(branches)
    batch = make_batch()
    grads, _ = gradient_of(branches, True)(batch)
    phi = functools.partial(conditional_images.features_of, system.task.phi, state.params)
    _, known, present = all_features(branches, True)(batch)
    factors = dict(zip(system.layers, FACTORS))

    def single_pass(params):
        drawn = phi(all_images(branches, True)(params, batch))
        costs = losses.feature_distances(drawn, known, factors)
        matched = losses.match(costs, present)
        return losses.neighbours_enhanced(costs, matched, batch['weight']).value()

    expected = jax.jit(jax.grad(single_pass))({'generator': state.params['generator']})
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    for (path, b), a in zip(leaves, jax.tree.leaves(grads), strict=True):
        scale = np.linalg.norm(b)
        assert np.linalg.norm(a - b) <= 2e-3 * scale + 1e-7, path


def test_an_example_without_weight_changes_nothing():
    batch = make_batch()
    weight = batch['weight'].copy()
    weight[3] = 0
    other = {**batch, 'image': batch['image'].copy(), 'weight': weight}
    other['image'][3] = 255 - other['image'][3]
    gradient = gradient_of('shared', True)
    grads, errors = gradient({**batch, 'weight': weight})
    other_grads, other_errors = gradient(other)
    np.testing.assert_allclose(errors['image'], other_errors['image'], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_the_memory_of_a_step_does_not_grow_with_shared_branches():
    def bytes_of(number):
        config = make_config(neighbours=False)
        config.model.num_branches = number
        system = pipeline.make_system(config, FACES)
        state = jax.eval_shape(
            functools.partial(pipeline.make_init(system), earlier={}),
            rng.root(0, 'test'),
            make_batch(),
        )

        def total(params, state, batch):
            loss_fn = pipeline.make_loss(system, state)
            terms, _, _ = loss_fn(params, state.model_state, batch, {})
            return sum(mean.value() for mean in terms.values())

        params = {'generator': state.params['generator']}
        lowered = jax.jit(jax.grad(total)).lower(params, state, make_batch())
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(32) < 1.1 * bytes_of(4)


# --- training -------------------------------------------------------------------------------------


def run_steps(config, num_steps=1, devices=1, mode='pmap'):
    """Returns (state before, state after, metrics of each step) on one batch."""
    (stage,) = pipeline.make_stages(config, FACES)
    before = parallel.to_host(stage.init(rng.root(0, 'test'), make_batch(), {}))
    return before, *run_stage(stage, before, num_steps, devices, mode)


def run_stage(stage, start, num_steps=1, devices=1, mode='pmap'):
    """Returns (state after, metrics of each step) of a stage from a state, on one batch."""
    topology = parallel.topology(mode, devices)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.shared_streams, state.step, 0)
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics), parallel.replica_mismatch(state)

    run = topology.spmd(step, num_args=2)
    state = topology.put_replicated(parallel.to_host(start))
    batch = topology.put_batch(make_batch())
    history = []
    for _ in range(num_steps):
        state, metrics, mismatch = run(state, batch)
        assert int(mismatch) == 0
        history.append(parallel.to_host(metrics))
    return parallel.to_host(state), history


def test_the_first_steps_calibrate_the_weights_once():
    config = make_config(loss=dict(factors=(), calibrate_steps=2))
    _, after, history = run_steps(config, num_steps=4)
    errors = []
    for metrics in history[:2]:
        errors.append([metrics[f'loss_{layer}'].value() for layer in ('image', *LAYERS)])
    mean = np.mean(errors, 0)
    factors = [after.params['loss_factors'][layer] for layer in ('image', *LAYERS)]
    np.testing.assert_allclose(factors, mean[0] / mean, rtol=1e-4)
    # The loss of the first steps is the plain sum, and then every layer counts as the image.
    np.testing.assert_allclose(history[0]['loss'].value(), sum(errors[0]), rtol=1e-4)
    later = [history[3][f'loss_{layer}'].value() for layer in ('image', *LAYERS)]
    weighted = np.dot(factors, later)
    np.testing.assert_allclose(history[3]['loss'].value(), weighted, rtol=1e-4)


def test_a_later_run_has_the_weights_that_an_earlier_run_has_calibrated():
    config = make_config(loss=dict(factors=(), use='load'), init_from=dict(path='runs/single'))
    (stage,) = pipeline.make_stages(config, FACES)
    assert stage.frozen == ('loss_factors',)
    calibrated = dict(zip(('image', *LAYERS), FACTORS, strict=True))
    start = stage.init(rng.root(0, 'test'), make_batch(), {})
    start = start.replace(params={**start.params, 'loss_factors': calibrated})
    after, (metrics,) = run_stage(stage, start)
    expected = sum(calibrated[layer] * metrics[f'loss_{layer}'].value() for layer in calibrated)
    np.testing.assert_allclose(metrics['loss'].value(), expected, rtol=1e-5)
    chex.assert_trees_all_equal(after.params['loss_factors'], calibrated)


@pytest.mark.parametrize('branches', crn.BRANCHES)
def test_a_checkpoint_can_hold_the_state(branches):
    _, _, state = started(branches, False)
    assert all(np.size(leaf) for leaf in jax.tree.leaves(state.extra))
    assert ('codes' in state.extra) == (branches == 'shared')


def test_codes_and_frozen_nets_stay():
    _, stage, before = started()
    other = dict.fromkeys(('image', *LAYERS), np.float32(7))
    start = before.replace(params={**before.params, 'loss_factors': other})
    after, _ = run_stage(stage, start, num_steps=2)
    # Weights of the config are handed on to later runs.
    assert after.params['loss_factors'] == before.params['loss_factors']
    np.testing.assert_array_equal(before.extra['codes'], after.extra['codes'])
    for a, b in zip(
        jax.tree.leaves(before.params['vgg']), jax.tree.leaves(after.params['vgg']), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    pairs = zip(
        jax.tree.leaves(before.params['generator']), jax.tree.leaves(after.params['generator'])
    )
    assert any((a != b).any() for a, b in pairs)


@functools.cache
def run_of_devices(devices, mode):
    """Returns the state before and after a step that calibrates, in float64."""
    config = make_config(loss=dict(factors=(), calibrate_steps=1, relaxation=0.25))
    with jax.enable_x64(True):
        return run_steps(config, devices=devices, mode=mode)[:2]


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['pmap', pytest.param('shard_map', marks=pytest.mark.slow)])
def test_the_gradient_is_the_same_on_eight_devices(mode):
    start, expected = run_of_devices(1, 'pmap')
    _, after = run_of_devices(8, mode)
    move = jax.tree.map(np.subtract, after.params['generator'], start.params['generator'])
    wanted = jax.tree.map(np.subtract, expected.params['generator'], start.params['generator'])
    leaves = jax.tree_util.tree_leaves_with_path(move)
    for (path, a), b in zip(leaves, jax.tree.leaves(wanted), strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-7, path
    chex.assert_trees_all_close(
        after.params['loss_factors'], expected.params['loss_factors'], rtol=1e-4
    )


def relaxation_of(step, **loss):
    """Returns the share and the random branches of a step, and the batch."""
    system = pipeline.make_system(make_config(loss=loss), FACES)
    batch = make_batch()
    keys = {name: rng.root(step, name) for name in pipeline.STREAMS}
    return pipeline.make_relaxation(system, np.int32(step), batch, keys), batch, keys, system


def test_the_loss_of_the_thesis_has_no_random_branches():
    relaxation, *_ = relaxation_of(0)
    assert relaxation is None


@pytest.mark.parametrize('step, share', [(0, 1.0), (1, 0.75), (3, 0.25), (4, 0.125), (9, 0.125)])
def test_the_share_of_all_branches_falls_linearly_to_its_last_value(step, share):
    relaxation, *_ = relaxation_of(step, relaxation=0.125, relaxed_steps=4)
    np.testing.assert_allclose(relaxation.share, share)


def test_the_random_branch_of_an_example_depends_on_its_index_and_the_step():
    relaxation, batch, keys, system = relaxation_of(1, relaxation=0.125)
    backwards = jax.tree.map(lambda x: x[::-1], batch)
    again = pipeline.make_relaxation(system, np.int32(1), backwards, keys)
    np.testing.assert_array_equal(again.branches[::-1], relaxation.branches)
    later, *_ = relaxation_of(2, relaxation=0.125)
    assert (later.branches != relaxation.branches).any()
    assert set(np.asarray(relaxation.branches)) <= set(range(4))


# --- codes and samples ----------------------------------------------------------------------------


def test_new_codes_follow_those_of_the_training():
    _, _, state = started()

    def codes(**testing):
        system = pipeline.make_system(make_config(testing=testing), FACES)
        return np.asarray(pipeline.testing_codes(system, state))

    trained = np.asarray(state.extra['codes'])
    np.testing.assert_array_equal(codes(num_samples=3), trained[:3])
    both = codes(num_samples=6, codes='both')
    np.testing.assert_array_equal(both[:4], trained)
    np.testing.assert_array_equal(codes(num_samples=2, codes='both'), trained[:2])
    new = codes(num_samples=5, codes='new')
    np.testing.assert_array_equal(both[4:], new[:2])
    np.testing.assert_array_equal(codes(num_samples=2, codes='new'), new[:2])
    assert (codes(num_samples=5, codes='new', codes_seed=1) != new).any()


def test_samples_follow_from_their_codes_alone(tmp_path):
    _, stage, state = started()
    batch = make_batch(4)
    inputs = {POINTS: batch[POINTS], 'weight': batch['weight']}
    first = np.asarray(jax.jit(stage.prediction.apply)(state, inputs, {})['samples'])
    expected = np.clip(all_images('shared', True)(state.params, batch), -1, 1)
    np.testing.assert_allclose(first / 127.5 - 1, expected, atol=0.51 / 127.5)

    # Codes of a file, in another order and number.
    path = tmp_path / 'codes.npz'
    codes = np.asarray(stage.prediction.codes(state)['codes'])
    np.savez(path, codes=codes[[2, 0]])
    config = make_config()
    config.predict.codes = str(path)
    (repeated,) = pipeline.make_stages(config, FACES)
    again = jax.jit(repeated.prediction.apply)(state, inputs, {})['samples']
    np.testing.assert_array_equal(again, first[:, [2, 0]])


def test_a_picture_interpolates_from_the_first_code_to_the_second():
    _, stage, state = started()
    batch = {**make_batch(2), 'size': np.full((2, 2), 16), 'label_size': np.full((2, 2), 16)}
    pictures = jax.jit(stage.render)(state, batch, {})
    assert set(pictures) == {'condition', 'samples', 'interpolation'}
    between = np.asarray(pictures['interpolation'].pixels)
    shown = np.asarray(pictures['samples'].pixels)
    np.testing.assert_array_equal(between[:, 0], shown[:, 0])
    np.testing.assert_array_equal(between[:, -1], shown[:, 1])
    first, second = state.extra['codes'][:2]
    assert code_ops.interpolate(first, second, 0.5).shape == first.shape


def test_normals_are_a_condition():
    config = make_config(neighbours=False, condition=dict(name='normals'))
    system = pipeline.make_system(config, HEADS)
    state = jax.eval_shape(
        functools.partial(pipeline.make_init(system), earlier={}), rng.root(0, 'test'), make_batch()
    )
    batch = make_batch()
    batch['normals'] = np.random.default_rng(0).normal(size=(8, *SIZE, 3)).astype(np.float32)
    condition = conditional_images.batch_condition(system.task, batch)
    np.testing.assert_array_equal(condition, batch['normals'])
    draw = functools.partial(pipeline.draw_samples, system)
    drawn = jax.eval_shape(draw, state, condition, state.extra['codes'])
    assert drawn.shape == (8, 4, *SIZE, 3)

    # In evaluation normals keep the pixels of the files, and the padding of the largest file.
    large = batch['normals'].repeat(2, 1).repeat(2, 2)
    padded = np.pad(large, ((0, 0), (0, 3), (0, 5), (0, 0)))
    sizes = {'size': np.full((8, 2), 16), 'label_size': np.full((8, 2), 32)}
    evaluated = {**batch, **sizes, 'normals': padded}
    shown = conditional_images.batch_condition(system.task, evaluated)
    np.testing.assert_array_equal(shown, batch['normals'])


# --- wrong configs --------------------------------------------------------------------------------


def refused(changes, spec=FACES, **options):
    """Returns the error of a config with changed keys."""
    config = make_config(**options)
    for path, value in changes.items():
        config_lib.update(config, **{path.split('.')[0]: {path.split('.')[1]: value}})
    with pytest.raises(InputError) as caught:
        pipeline.make_stages(config, spec)
    return caught.value


@pytest.mark.parametrize(
    'changes, options, where',
    [
        ({'model.num_branches': 1}, {}, 'config.model.num_branches'),
        ({'neighbours.num_clusters': 4}, {}, 'config.neighbours.num_clusters'),
        ({'testing.num_samples': 5}, {}, 'config.testing.num_samples'),
        ({'testing.codes': 'new'}, {'branches': 'late'}, 'config.testing.codes'),
        ({'loss.factors': (1.0,)}, {}, 'config.loss.factors'),
        ({'loss.relaxed_steps': 10}, {}, 'config.loss.relaxed_steps'),
        ({'loss.factors': (), 'loss.use': 'load'}, {}, 'config.init_from.sources'),
        ({'condition.name': 'normals'}, {'spec': HEADS}, 'config.neighbours.use'),
        ({}, {'spec': HEADS}, 'config.condition.name'),
        ({'features.use': 'load'}, {}, 'config.init_from.sources'),
        ({'landmarks.use': 'load'}, {}, 'config.init_from.sources'),
        ({'normals.use': 'train'}, {}, 'config.normals.use'),
        ({'augment.resize': (8, 8)}, {}, 'config.augment.resize'),
        ({'data.eval_size': (32, 32)}, {}, 'config.data.eval_size'),
        ({'predict.codes': 'nowhere.npz'}, {}, 'config.predict.codes'),
    ],
)
def test_wrong_configs_are_refused_with_a_fix(changes, options, where):
    error = refused(changes, **options)
    assert error.where == where
    assert error.fix or 'predict' in where


def test_the_fix_of_a_scorer_without_targets_keeps_the_condition():
    changes = {'condition.name': 'normals', 'landmarks.use': 'train'}
    error = refused(changes, spec=HEADS, neighbours=False)
    assert (error.where, error.fix) == ('config.landmarks.use', '--config.landmarks.use=none')


@pytest.mark.parametrize('factors', [('a', 1.0, 1.0), (1.0, -1.0, 1.0)])
def test_weights_of_layers_that_are_no_weights_are_refused(factors):
    with pytest.raises(InputError, match='loss'):
        config_lib.validate(make_config(loss=dict(factors=factors)))


def test_the_image_may_be_the_only_layer():
    changes = dict(loss=dict(layers=(), factors=(1.0,)))
    _, _, (metrics,) = run_steps(make_config(neighbours=False, **changes))
    assert set(metrics) >= {'loss', 'loss_image'}


def test_codes_of_another_net_are_refused(tmp_path):
    path = tmp_path / 'codes.npz'
    np.savez(path, codes=np.zeros((2, 7)))
    with pytest.raises(InputError, match='shape'):
        conditional_images.read_codes(str(path), (5,))
    np.savez(path, other=np.zeros((2, 5)))
    with pytest.raises(InputError, match='codes'):
        conditional_images.read_codes(str(path), (5,))


@pytest.mark.parametrize('damage', ['npy', 'empty', 'cut', 'text', 'nan', 'folder'])
def test_damaged_files_of_codes_are_refused(tmp_path, damage):
    path = tmp_path / 'codes.npz'
    np.savez(path, codes=np.zeros((2, 5)))
    if damage == 'npy':
        with path.open('wb') as file:
            np.save(file, np.zeros((2, 5)))
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'cut':
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == 'text':
        np.savez(path, codes=np.full((2, 5), 'a'))
    elif damage == 'nan':
        np.savez(path, codes=np.full((2, 5), np.nan))
    else:
        path = tmp_path
    with pytest.raises(InputError) as caught:
        conditional_images.read_codes(str(path), (5,))
    assert caught.value.where == 'config.predict.codes'


def test_landmarks_outside_of_the_image_are_refused():
    points = np.zeros((4, 2), np.float32)
    conditional_images.check_points(SIZE, {POINTS: points})
    points[2] = (3.0, 16.0)
    with pytest.raises(InputError, match='landmark 2'):
        conditional_images.check_points(SIZE, {POINTS: points})


# --- tables ---------------------------------------------------------------------------------------


def configs_of(table, scale):
    """Returns the config of each row of a table."""
    path = REPOSITORY / f'configs/tables/dropout_codes_{table}.py'
    plan = plan_lib.make_table_plan(str(path), scale, '')
    return {run.row.key: run.config for run in plan.runs}


@pytest.mark.parametrize('scale', ['quick', 'paper'])
def test_the_best_of_72_samples_counts_for_all_rivals_of_table_5_1(scale):
    configs = configs_of('table5_1', scale)
    for row in ('pix2pix', 'bicycle', 'pixel_neighbours', 'crn_72', 'separate_72', 'shared_72'):
        assert configs[row].testing.num_samples == 72


@pytest.mark.parametrize('scale', ['quick', 'photos', 'photos_quick', 'paper'])
def test_rows_of_table_5_2_draw_the_same_number_of_samples(scale):
    configs = configs_of('table5_2', scale)
    alone = {'single'}
    if scale == 'photos_quick':
        alone.add('pix2pix')  # its U-Net has too few levels for drop-out at 48x48
    numbers = {c.testing.num_samples for row, c in configs.items() if row not in alone}
    assert len(numbers) == 1


@pytest.mark.parametrize('table, scorer', [('table5_1', 'normals'), ('table5_2', 'landmarks')])
def test_rows_of_a_table_have_the_scorer_and_the_loss_of_their_first_row(table, scorer):
    configs = configs_of(table, 'paper')
    first = configs.pop('single')
    assert (first[scorer].use, first.loss.use) == ('train', 'calibrate')
    for row, config in configs.items():
        assert config[scorer].use == 'load', row
        assert config.pipeline != 'dropout_codes' or config.loss.use == 'load', row
        # Only these nets come from the first row.
        assert config.init_from.path.endswith('single/seed_0'), row
        assert config.init_from.nets == (f'{scorer[:-1]}_net', 'loss_factors'), row
