"""The task of classification: loss, step, scores and pictures, on any number of devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import models
from segjax.core import optim, parallel, rng
from segjax.errors import InputError
from segjax.models.backbones import efficientnet
from segjax.models.backbones.efficientnet import Scaling
from segjax.protocol import Mean, TrainState
from segjax.report import scores as report_scores
from segjax.tasks import classification, segmentation

NAMES = tuple(f'shape {i}' for i in range(7))
NUM_EXAMPLES = 11


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Reduces lite0 to its second stage of two blocks, with an eighth of the channels."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[1:2])
    monkeypatch.setitem(efficientnet.VARIANTS, 'lite0', Scaling(1 / 8, 1.0, 0.2, lite=True))


def make_config(loss=None, **sections):
    """Returns a config with the sections that the task reads."""
    base = config_lib.defaults('supervised')
    choice = models.net_choice('classifier', 'shape_classifier', 'Net that classifies shapes.')
    fields = choice.options['shape_classifier']
    config = ml_collections.ConfigDict(
        {
            'model': {
                'name': 'shape_classifier',
                **{key: field.default for key, field in fields.items()},
                # Without random numbers a step can be compared between numbers of devices.
                'dropout': 0.0,
                'drop_connect': 0.0,
                'forms': 'naive',
            },
            'loss': {key: field.default for key, field in classification.LOSS.items()},
            'train': base.train,
            'optim': base.optim,
        }
    )
    config.optim.update(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant')
    config.optim.update(weight_decay=0.0)
    config.train.update(num_steps=30, batch_size=8)
    config.loss.update(loss or {})
    for section, values in sections.items():
        config[section].update(values)
    return config


def task_of(config, names=NAMES):
    return classification.make_task(config, names, planes='planes', truth='number_class')


def shapes(rows=8, seed=0, size=16):
    """Returns bars of a length that tells the class, and their boxes."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, len(NAMES), rows).astype(np.int32)
    planes = np.zeros((rows, size, size, 2), np.uint8)
    for row, class_id in enumerate(truth):
        top, left = generator.integers(0, 4, 2)
        planes[row, top : top + 8, left : left + 10, 1] = 1
        planes[row, top + 2 : top + 4, left : left + 2 + class_id, 0] = 1
    return {
        'planes': planes,
        'number_class': truth,
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }


def classify(task, state, planes):
    return jax.jit(functools.partial(classification.classify, task))(state, planes)


# --- training -------------------------------------------------------------------------------------


def run_steps(config, num_steps=1, devices=1, mode='pmap', batch=None):
    """Returns (state on the host, losses) after some steps on one batch."""
    task = task_of(config)
    optimisers = classification.optimisers(config.optim)
    train_step = classification.make_train_step(
        task,
        optimisers,
        num_steps=config.train.num_steps,
        accumulate=config.train.accumulate,
    )
    topology = parallel.topology(mode, devices)
    batch = shapes() if batch is None else batch
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, ('dropout',), state.step, parallel.device_index())
        state, metrics = train_step(state, batch, keys)
        return state, parallel.sum_over_devices(dict(metrics)), parallel.replica_mismatch(state)

    step = topology.spmd(step, num_args=2)
    init = classification.make_init(task, optimisers, config.train.num_steps)
    state = topology.put_replicated(parallel.to_host(init(root, batch, {})))
    losses = []
    for _ in range(num_steps):
        state, metrics, mismatch = jax.block_until_ready(step(state, topology.put_batch(batch)))
        losses.append(float(parallel.to_host(metrics['loss']).value()))
        assert int(mismatch) == 0
    return parallel.to_host(state), losses


@pytest.mark.slow
def test_a_step_is_the_same_on_one_device_and_on_eight():
    """In float64, a ReLU does not turn rounding into a difference."""
    with jax.enable_x64(True):
        config = make_config(loss={'label_smoothing': 0.1}, train={'dtype': 'float64'})
        batch = shapes()
        batch['number_class'][3] = 255  # devices have different numbers of counted examples
        start, _ = run_steps(config, 0, batch=batch)
        expected, expected_losses = run_steps(config, 1, batch=batch)
        state, losses = run_steps(config, 1, devices=8, batch=batch)
    np.testing.assert_allclose(losses, expected_losses, rtol=2e-6)
    moves = []
    for after in (state, expected):
        moves.append(jax.tree.map(np.subtract, after.params, start.params))
    assert np.linalg.norm(moves[1]['classifier']['gate']['kernel']) > 1e-4
    leaves = jax.tree_util.tree_leaves_with_path(moves[0])
    for (path, a), b in zip(leaves, jax.tree.leaves(moves[1]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path


@pytest.mark.slow
@pytest.mark.parametrize(
    'sections',
    [
        {},
        {'loss': {'label_smoothing': 0.1}, 'train': {'ema': 0.9}},
        {'model': {'dropout': 0.2, 'drop_connect': 0.2, 'gated': 'stem'}},
        # The task of shapes learns with these settings in every test run.
        pytest.param({'train': {'accumulate': 2, 'dtype': 'bfloat16'}}, marks=pytest.mark.slow),
    ],
    ids=['plain', 'smoothing and ema', 'dropout and gated stem', 'micro-batches and bfloat16'],
)
def test_it_learns_what_can_be_learned(sections):
    config = make_config(**sections)
    config.optim.update(name='adam', learning_rate=0.01)
    state, losses = run_steps(config, 12)
    assert losses[-1] < losses[0] - 0.1
    chex.assert_tree_all_finite(state.params)
    assert state.step == 12


def test_dropout_depends_on_the_step_and_repeats():
    config = make_config(model={'dropout': 0.5, 'drop_connect': 0.5})
    config.optim.update(learning_rate=0.0)
    _, first = run_steps(config, 3)
    _, second = run_steps(config, 3)
    assert first == second and len(set(first)) == 3


def loss_of(task, logits, truth, weight):
    """Returns the loss of given logits."""
    net = segmentation.Net(None, lambda *_, **__: ({'logits': logits}, {}))
    batch = {'planes': None, 'number_class': truth, 'weight': weight}
    loss = classification.make_loss(task._replace(net=net))
    terms, _, _ = loss({'classifier': {}}, {'classifier': {}}, batch, {'dropout': None})
    return terms['main']


def log_softmax(row):
    return row - np.log(np.exp(row).sum())


def test_the_loss_is_the_smoothed_cross_entropy_of_the_counted_examples():
    task = task_of(make_config(loss={'label_smoothing': 0.3}))
    logits = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    truth = np.array([2, 255, 6, 0])
    loss = loss_of(task, logits, truth, np.array([1, 1, 0.5, 0]))

    expected = 0.0
    for row, weight in ((0, 1.0), (2, 0.5)):
        target = np.full(7, 0.3 / 7)
        target[truth[row]] += 0.7
        expected -= weight * (target * log_softmax(logits[row])).sum()
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-5)
    np.testing.assert_allclose(loss.count, 1.5)


def test_weights_of_classes_multiply_the_loss_and_its_count():
    class_weights = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5)
    task = task_of(make_config(loss={'class_weights': class_weights}))
    logits = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    truth = np.array([2, 6, 255])
    loss = loss_of(task, logits, truth, np.ones(3))

    expected = -3.0 * log_softmax(logits[0])[2] - 0.5 * log_softmax(logits[1])[6]
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-5)
    np.testing.assert_allclose(loss.count, 3.5)


def test_another_number_of_weights_than_classes_is_an_error():
    with pytest.raises(InputError, match=r'2 weights[\s\S]*7 weights, for shape 0'):
        task_of(make_config(loss={'class_weights': (1.0, 2.0)}))


def test_padding_has_no_gradient_and_gradients_are_finite():
    task = task_of(make_config())
    batch = shapes(4)
    batch['weight'] = np.array([1, 1, 0, 0], np.float32)
    variables = jax.jit(task.net.init)(jax.random.key(0), batch['planes'])
    params = variables.pop('params')

    def gradient(batch):
        # Running statistics, so that examples do not see each other.
        def loss(params):
            outputs, _ = task.net.apply(params, variables, batch['planes'], train=False)
            net = segmentation.Net(None, lambda *_, **__: (outputs, {}))
            terms, _, _ = classification.make_loss(task._replace(net=net))(
                {'classifier': {}}, {'classifier': {}}, batch, {'dropout': None}
            )
            return terms['main'].sum

        return jax.jit(jax.grad(loss))(params)

    with_padding = gradient(batch)
    chex.assert_tree_all_finite(with_padding)
    truth = np.array([*batch['number_class'][:2], 0, 255])
    changed = {**batch, 'planes': batch['planes'].copy(), 'number_class': truth}
    changed['planes'][2:] = 255
    jax.tree.map(np.testing.assert_array_equal, gradient(changed), with_padding)


def test_the_papers_rate_falls_to_seven_tenths_every_ten_of_fifty_epochs():
    config = make_config()
    config.optim.update(
        learning_rate=1e-5, schedule='step', step_factor=0.7, milestones=(0.2, 0.4, 0.6, 0.8)
    )
    steps_per_epoch = 13
    rate = optim.schedule(config.optim, 50 * steps_per_epoch)
    rates = [float(rate(step)) for step in range(50 * steps_per_epoch)]
    expected = [1e-5 * 0.7 ** (step // (10 * steps_per_epoch)) for step in range(len(rates))]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


# --- evaluation -----------------------------------------------------------------------------------


def known_task(names=NAMES, ema=0.0):
    """Returns a task whose net takes its planes [B, 1, 1, K] for logits."""
    net = segmentation.Net(None, lambda params, _, x, **__: ({'logits': x[:, 0, 0]}, {}))
    return classification.Task(net, names, 'planes', 'number_class', 0.0, (), ema)


STATE = TrainState(jnp.int32(0), {'classifier': {}}, {'classifier': {}}, opt_state={}, extra={})


def logits_batches(batch_size):
    """Yields the eleven examples in padded batches. Example 4 has no class."""
    generator = np.random.default_rng(3)
    logits = generator.standard_normal((NUM_EXAMPLES, 1, 1, 7)).astype(np.float32)
    truth = generator.integers(0, 6, NUM_EXAMPLES).astype(np.int32)  # class 6 never occurs
    truth[4] = 255
    for start in range(0, NUM_EXAMPLES, batch_size):
        rows = np.arange(start, start + batch_size)
        places = np.where(rows < NUM_EXAMPLES, rows, 0)
        yield {
            'planes': logits[places],
            'number_class': truth[places],
            'weight': (rows < NUM_EXAMPLES).astype(np.float32),
            'index': places.astype(np.int32),
        }


def totals(batch_size, topology):
    """Returns the sums over the split on the host."""
    evaluation = classification.make_evaluation(known_task(), NUM_EXAMPLES)

    def evaluate(state, batch):
        return parallel.sum_over_devices(evaluation.eval_step(state, batch, {}))

    step = topology.spmd(evaluate, num_args=2)
    state = topology.put_replicated(STATE)
    sums = [
        parallel.to_host(step(state, topology.put_batch(batch)))
        for batch in logits_batches(batch_size)
    ]
    return jax.tree.map(lambda *x: sum(x), *sums)


def test_scores_are_those_of_a_loop_over_the_examples():
    scores = classification.finalize(known_task(), totals(11, parallel.topology('pmap', 1)))
    (batch,) = logits_batches(11)
    logits = batch['planes'][:, 0, 0]
    truth = batch['number_class']
    matrix = np.zeros((7, 7), int)
    first = top5 = entropy = 0
    for row, y in zip(logits, truth, strict=True):
        if y == 255:
            continue
        order = list(np.argsort(-row))
        matrix[y, order[0]] += 1
        first += order[0] == y
        top5 += y in order[:5]
        entropy -= row[y] - np.log(np.exp(row).sum())
    assert scores['confusion'] == matrix.tolist() and matrix.sum() == 10
    assert scores['accuracy'] == pytest.approx(first / 10)
    assert scores['top5_accuracy'] == pytest.approx(top5 / 10)
    assert scores['cross_entropy'] == pytest.approx(entropy / 10, rel=1e-5)

    recalls = []
    for i, name in enumerate(NAMES):
        row = scores['per_class'][name]
        number = matrix[i].sum()
        assert row['examples'] == number
        assert row['accuracy'] == (pytest.approx(matrix[i, i] / number) if number else None)
        guesses = matrix[:, i].sum()
        assert row['precision'] == (pytest.approx(matrix[i, i] / guesses) if guesses else None)
        recalls += [matrix[i, i] / number] if number else []
    assert scores['class_accuracy'] == pytest.approx(np.mean(recalls))
    assert scores['baseline_commonest']['accuracy'] == matrix.sum(1).max() / 10


@pytest.mark.parametrize('batch_size, devices, mode', [(8, 8, 'pmap'), (4, 2, 'shard_map')])
def test_scores_do_not_depend_on_batch_size_or_devices(batch_size, devices, mode):
    whole = totals(11, parallel.topology('pmap', 1))
    parts = totals(batch_size, parallel.topology(mode, devices))
    for name in ('confusion', 'accuracy', 'top5_accuracy', 'image_score'):
        np.testing.assert_array_equal(parts[name].sum, whole[name].sum, err_msg=name)
    np.testing.assert_allclose(parts['cross_entropy'].sum, whole['cross_entropy'].sum, rtol=1e-6)
    assert np.isnan(whole['image_score'].value()[4]), 'an example without a class has no rank'


def test_metrics_do_not_depend_on_jit():
    evaluation = classification.make_evaluation(known_task(), NUM_EXAMPLES)
    (batch,) = logits_batches(11)
    plain = evaluation.eval_step(STATE, batch, {})
    jitted = jax.jit(evaluation.eval_step)(STATE, batch, {})
    chex.assert_trees_all_close(plain, jitted, rtol=1e-6)


def test_the_averaged_parameters_are_evaluated():
    config = make_config(train={'ema': 0.5})
    task = task_of(config)
    state, _ = run_steps(config, 2)
    planes = shapes()['planes']
    averages = state.extra['ema']
    expected, _ = jax.jit(functools.partial(task.net.apply, train=False))(
        averages['params']['classifier'], averages['model_state']['classifier'], planes
    )
    logits = classify(task, state, planes)
    np.testing.assert_allclose(logits, expected['logits'], atol=1e-6)
    raw = classify(task._replace(ema=0.0), state, planes)
    assert np.abs(logits - raw).max() > 1e-6


def test_a_label_that_is_no_class_ends_the_evaluation():
    counts = np.zeros((8, 8))
    counts[7, 0] = 1
    sums = {
        name: Mean(np.float32(0), np.float32(1))
        for name in ('accuracy', 'top5_accuracy', 'cross_entropy')
    }
    with pytest.raises(InputError, match='labels of the evaluation split'):
        classification.finalize(known_task(), {**sums, 'confusion': Mean(counts, 1)})


def test_a_split_without_a_class_has_no_scores():
    sums = {
        name: Mean(np.float32(0), np.float32(0))
        for name in ('accuracy', 'top5_accuracy', 'cross_entropy')
    }
    scores = classification.finalize(known_task(), {**sums, 'confusion': Mean(np.zeros((8, 8)), 1)})
    assert scores['accuracy'] is None and scores['class_accuracy'] is None
    assert 'baseline_commonest' not in scores


def test_the_report_shows_examples_by_class_and_no_pixels():
    scores = classification.finalize(known_task(), totals(11, parallel.topology('pmap', 1)))
    table = report_scores.split_scores(scores).tables[report_scores.PER_CLASS]
    assert all(set(row) == {'accuracy', 'precision', 'examples'} for row in table.values())
    assert 'top5 accuracy' in report_scores.score_table(scores)


def test_pictures_are_the_shapes_with_their_classes():
    task = task_of(make_config())
    batch = shapes(3)
    variables = jax.jit(task.net.init)(jax.random.key(0), batch['planes'])
    params = {'classifier': variables.pop('params')}
    state = STATE.replace(params=params, model_state={'classifier': variables})
    evaluation = classification.make_evaluation(task, 3, classification.paint_shape)
    picture = jax.jit(evaluation.render)(state, batch, {})['input']

    assert picture.pixels.dtype == jnp.uint8
    object_pixels = batch['planes'][..., 0] > 0
    box = batch['planes'][..., 1] > 0
    assert (picture.pixels[object_pixels] == classification.OBJECT).all()
    assert (picture.pixels[box & ~object_pixels] == classification.INSIDE).all()
    assert (picture.pixels[~box] == classification.OUTSIDE).all()

    logits = classify(task, state, batch['planes'])
    np.testing.assert_array_equal(picture.values['true class'], batch['number_class'])
    np.testing.assert_array_equal(picture.values['predicted class'], logits.argmax(-1))
    probabilities = jax.nn.softmax(logits)[np.arange(3), batch['number_class']]
    np.testing.assert_allclose(
        picture.values['probability of the true class'], probabilities, atol=1e-5
    )


def test_ids_up_to_254_are_classes():
    names = tuple(str(i) for i in range(256))
    assert len(task_of(make_config(), names[:255]).names) == 255
    for wrong in ((), names):
        with pytest.raises(InputError, match='classes of the classifier'):
            task_of(make_config(), wrong)
