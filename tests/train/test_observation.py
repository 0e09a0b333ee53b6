"""Evaluation on the host: sums over devices and processes, padding, and checks before training."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import toy_chain

from segjax.core import means, parallel
from segjax.errors import InputError
from segjax.protocol import Mean, Observation
from segjax.train import checks, driver, evaluation, initialization, observation

NUM_VAL = 10


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
    """Returns a run, its last stage, which observes, and a state of this stage on the host."""
    workdir = tmp_path_factory.mktemp('observed')
    run, stages = driver.open_run(toy_chain.make_config(), str(workdir), 'train')
    earlier = initialization.abstract_earlier(run, stages[:2])
    colour = np.float32([0.3, 0.2, 0.1])
    state = initialization.initial_state(run, stages[2], {**earlier, 'refine/colour': colour})
    return run, stages[2], state


def evaluated(judged, devices=1, mode='pmap', **parts):
    """Returns the sums of an evaluation on some devices."""
    run, stage, state = judged
    run = run._replace(topology=parallel.topology(mode, devices))
    stage = stage._replace(**parts)
    functions = driver.map_functions(run, stage)
    root = driver.root_key(run, stage, 'evaluate')
    on_devices = run.topology.put_replicated(state)
    return evaluation.totals(run, stage, functions.evaluate, root, on_devices)


# --- sums -----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def one_device(judged):
    """Returns the sums of an evaluation on one device."""
    return evaluated(judged)


@pytest.mark.parametrize('devices', [2, 8])
@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_one_device_equals_several_devices(judged, one_device, mode, devices):
    sums = evaluated(judged, devices, mode)
    assert sums.keys() == one_device.keys()
    for name, mean in one_device.items():
        np.testing.assert_array_equal(sums[name].count, mean.count, err_msg=name)
        np.testing.assert_allclose(sums[name].sum, mean.sum, rtol=1e-6, err_msg=name)


def test_every_example_is_observed_once_in_its_place(judged, one_device):
    run, stage, state = judged
    source = run.open_input(stage.eval_input)
    kernel = np.asarray(state.params['head']['kernel'], np.float64)
    losses = []
    for number in range(len(source)):
        image = np.asarray(source[number]['image'])
        label = np.asarray(source[number]['label']).reshape(image.shape[:2])
        logits = image / 255 @ kernel + np.asarray(state.params['head']['bias'])
        rows, columns = np.nonzero(label < 255)
        norm = np.log(np.exp(logits).sum(-1))[rows, columns]
        losses.append((norm - logits[rows, columns, label[rows, columns]]).mean())
    by_example = one_device['by_example']
    assert by_example.sum.dtype == np.float64
    np.testing.assert_array_equal(by_example.count, np.ones((NUM_VAL, 1)))
    np.testing.assert_allclose(by_example.sum[:, 0], losses, rtol=1e-5)


@pytest.mark.parametrize('devices', [1, 8])
def test_padding_is_never_observed_and_every_row_meets_its_outputs(judged, devices):
    """Ten examples come in batches of eight. The padding is NaN on the device."""
    seen = []

    def outputs(state, batch, keys):
        poison = jnp.where(batch['weight'] > 0, 0.0, jnp.nan)
        brightness = batch['image'].astype(jnp.float32).mean((1, 2, 3)) + poison
        return {'brightness': brightness, 'index': batch['index']}

    def observe(batch, outputs):
        assert np.all(batch['weight'] == 1)
        np.testing.assert_array_equal(batch['index'], outputs['index'])
        image = batch['image'].astype(np.float64).mean((1, 2, 3))
        np.testing.assert_allclose(outputs['brightness'], image, rtol=1e-5)
        seen.extend(batch['index'].tolist())
        return {'brightness': Mean(outputs['brightness'].sum(), len(image))}

    sums = evaluated(judged, devices, observation=Observation(outputs, observe))
    assert seen == list(range(NUM_VAL))
    assert np.isfinite(sums['brightness'].sum) and sums['brightness'].count == NUM_VAL


def test_metrics_and_outputs_share_one_pass_through_the_net(judged):
    """The net is a single matrix product, so the costs of the programs count the passes."""
    run, stage, state = judged
    run = run._replace(topology=parallel.topology('shard_map', 1))
    shapes = checks.evaluation_batch(stage.eval_input, 8, run.spec_of(stage.eval_input))
    root = driver.root_key(run, stage, 'evaluate')

    def net(state, batch):
        x = batch['image'].astype(jnp.float32).reshape(8, -1)
        return x @ (state.params['head']['kernel'].sum() * jnp.ones((x.shape[1], 64)))

    def flops(*observed):
        changed = stage._replace(
            eval_step=lambda state, batch, keys: {'a': Mean(net(state, batch).sum(), 1.0)},
            observation=Observation(*observed) if observed else None,
        )
        evaluate = driver.map_functions(run, changed).evaluate
        lowered = evaluate.lower(state, shapes, root, np.int32(0))
        return lowered.compile().cost_analysis()['flops']

    outputs = functools.partial(lambda state, batch, keys: {'b': net(state, batch)})
    assert flops(outputs, None) < 1.1 * flops()


def test_large_float64_sums_lose_no_digit(judged):
    """2**53 - 1 is the largest odd number of float64. Float32 would round it."""
    large = float(2**53 - 1)
    sums = {'a': Mean(np.array([large, 1.0]), np.float64(3)), 'b': Mean(np.eye(2), np.ones(()))}
    total = observation.over_processes(sums)
    assert list(total) == ['a', 'b']
    np.testing.assert_array_equal(total['a'].sum, [large, 1.0])
    assert total['b'].sum.shape == (2, 2) and total['b'].count.shape == ()
    assert observation.over_processes({}) == {}


def test_the_sums_reach_finalize_with_the_metrics(judged, one_device):
    _, stage, _ = judged
    assert set(one_device) == {'loss', 'by_example', 'seen', 'pixels'}
    assert stage.finalize(one_device)['seen'] == 1.0


# --- checks ---------------------------------------------------------------------------------------


def observing(stage, observe, outputs=None):
    """Returns a stage with another observation."""
    return stage._replace(observation=Observation(outputs or stage.observation.outputs, observe))


def names_by_number(batch, outputs):
    return {f'rows_{len(batch["index"])}': Mean(1.0, 1.0)}


def shape_by_number(batch, outputs):
    return {'losses': Mean(outputs['loss'], 1.0)}


def refuses_no_rows(batch, outputs):
    return {'worst': Mean(outputs['loss'].max(), 1.0)}


def name_of_a_metric(batch, outputs):
    return {'loss': Mean(outputs['loss'].sum(), 1.0)}


@pytest.mark.parametrize(
    'observe, message',
    [
        (names_by_number, r"'rows_0' .* for 0 rows, 'rows_1' .* for 1 row"),
        (shape_by_number, r"'losses' \[0\] / \[\] for 0 rows, 'losses' \[1\]"),
        (refuses_no_rows, 'ValueError.*for 0 rows of zeros'),
        (name_of_a_metric, "the name 'loss', which eval_step also returns"),
    ],
)
def test_observations_that_an_evaluation_would_refuse_are_refused_before_training(
    judged, observe, message
):
    run, stage, state = judged
    with pytest.raises(InputError, match=message) as caught:
        checks._trace_evaluation(run, observing(stage, observe), state)
    assert caught.value.where == "stage 'judge': Observation.observe"


def test_outputs_without_a_row_for_each_example_are_refused(judged):
    run, stage, state = judged

    def outputs(state, batch, keys):
        return {'total': batch['weight'].sum()}

    with pytest.raises(InputError, match=r"'total' of shape \[\]"):
        checks._trace_evaluation(run, observing(stage, names_by_number, outputs), state)


def test_a_shape_that_depends_on_the_data_is_refused_at_its_batch(judged):
    _, stage, _ = judged

    def observe(batch, outputs):
        return {'found': Mean(np.zeros(int(outputs['loss'].sum())), 1.0)}

    sums = {}
    batch = {'weight': np.ones(1)}
    observation.add(sums, observing(stage, observe), batch, {'loss': np.ones(1)})
    with pytest.raises(InputError, match=r"'found' \[2\] .*for this batch"):
        observation.add(sums, observing(stage, observe), batch, {'loss': np.full(1, 2)})


def test_the_batch_is_not_copied_without_padding(judged):
    _, stage, _ = judged
    image = np.ones((2, 4, 4, 3), np.uint8)
    batches = []

    def observe(batch, outputs):
        batches.append(batch)
        return {'a': Mean(1.0, 1.0)}

    for weight in ([1, 1], [1, 0]):
        batch = {'image': image, 'weight': np.float32(weight)}
        observation.add({}, observing(stage, observe), batch, {})
    assert batches[0]['image'] is image and batches[1]['image'].shape[0] == 1


def test_rows_of_the_host_add_up_to_the_order_of_the_split():
    first = means.rows(np.array([[1.0, 2.0]]), np.array([2]), 3)
    second = means.rows(np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0, 1]), 3)
    total = Mean(first.sum + second.sum, first.count + second.count)
    np.testing.assert_array_equal(total.value(), [[3, 4], [5, 6], [1, 2]])
