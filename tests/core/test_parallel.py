"""One device = eight devices = shard_map = micro-batches, on sums and on gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from segjax.core import parallel
from segjax.errors import InputError
from segjax.protocol import Mean

ROWS = 16


class Net(nn.Module):
    """Dense, batch norm, dense: gradients pass through the statistics of the global batch."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, momentum=0.9)(x)
        return nn.Dense(3)(nn.relu(x))


def make_batch():
    rng = np.random.default_rng(0)
    # Most rows of the first half do not count, so the devices have very different counts.
    mask = np.r_[rng.random(ROWS // 2) < 0.2, np.ones(ROWS // 2)].astype(np.float32)
    return {
        'x': rng.normal(size=(ROWS, 4)).astype(np.float32),
        'y': rng.normal(size=(ROWS, 3)).astype(np.float32),
        'mask': mask,
    }


def loss_fn(net):
    def fn(params, model_state, batch, keys):
        y, updates = net.apply(
            {'params': params, **model_state}, batch['x'], True, mutable=['batch_stats']
        )
        error = jnp.abs(y - batch['y']).sum(-1)
        terms = {
            'main': Mean(jnp.sum(error * batch['mask']), jnp.sum(batch['mask'])),
            # A count that depends on the data itself, as with mined pixels.
            'hard': Mean(jnp.sum(error * (batch['y'][:, 0] > 0)), jnp.sum(batch['y'][:, 0] > 0)),
        }
        return terms, updates, {'row': batch['x'][:, 0]}

    return fn


WEIGHTS = {'main': 1.0, 'hard': 0.3}


def reference():
    """Computes the same objective without mapping: plain jax.grad over the whole batch."""
    net, batch = Net(), make_batch()
    variables = net.init(jax.random.key(0), batch['x'], False)
    params = variables.pop('params')

    def objective(params):
        terms, updates, _ = loss_fn(net)(params, variables, batch, {})
        return sum(WEIGHTS[k] * m.sum / m.count for k, m in terms.items()), updates

    (loss, updates), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return params, variables, loss, updates, grads


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
@pytest.mark.parametrize('devices', [1, 2, 8])
def test_loss_gradients_and_batch_statistics_are_those_of_the_global_batch(mode, devices):
    params, variables, loss, updates, grads = reference()
    topology = parallel.topology(mode, devices)

    def step(state, batch):
        fn = parallel.global_value_and_grad(loss_fn(Net(parallel.AXIS)), WEIGHTS.__getitem__)
        (loss, terms, model_state, _), grads = fn(*state, batch, {})
        return (
            loss,
            parallel.sum_over_devices(terms),
            model_state,
            grads,
            parallel.replica_mismatch(grads),
        )

    mapped = topology.spmd(step, num_args=2)
    got_loss, terms, got_updates, got_grads, mismatch = parallel.to_host(
        mapped(topology.put_replicated((params, variables)), topology.put_batch(make_batch()))
    )
    np.testing.assert_allclose(got_loss, loss, rtol=1e-6)
    assert terms['main'].count == make_batch()['mask'].sum()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got_grads, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got_updates, updates)
    assert mismatch == 0


class Plain(nn.Module):
    """A net without batch norm, for which micro-batches equal the whole batch."""

    @nn.compact
    def __call__(self, x, train):
        self.variable('batch_stats', 'seen', jnp.zeros, ()).value += x.shape[0]
        return nn.Dense(3)(nn.relu(nn.Dense(5)(x)))


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
@pytest.mark.parametrize('devices, accumulate', [(1, 1), (1, 4), (2, 4), (4, 2)])
def test_micro_batches_give_the_gradient_of_the_whole_batch(mode, devices, accumulate):
    net, batch = Plain(), make_batch()
    variables = net.init(jax.random.key(0), batch['x'], False)
    params = variables.pop('params')

    def objective(params):
        terms, *_ = loss_fn(net)(params, variables, batch, {})
        return sum(WEIGHTS[k] * m.sum / m.count for k, m in terms.items())

    topology = parallel.topology(mode, devices)

    def step(state, batch):
        keys = {'dropout': jax.random.key(1)}
        fn = parallel.global_value_and_grad(loss_fn(net), WEIGHTS.__getitem__, accumulate)
        (loss, terms, model_state, aux), grads = fn(*state, batch, keys)
        rows = jnp.sum(jnp.abs(aux['row'] - batch['x'][:, 0]))
        return loss, parallel.sum_over_devices(terms), model_state, grads, rows

    loss, terms, model_state, grads, rows = parallel.to_host(
        topology.spmd(step, num_args=2)(
            topology.put_replicated((params, variables)), topology.put_batch(batch)
        )
    )
    expected, expected_grads = jax.value_and_grad(objective)(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), grads, expected_grads)
    np.testing.assert_allclose(terms['main'].count, batch['mask'].sum())
    seen_by_init_and_step = ROWS + ROWS // devices
    assert model_state['batch_stats']['seen'] == seen_by_init_and_step, (
        'statistics pass through every micro-batch'
    )
    assert rows == 0, 'aux keeps the order of the rows'


def gradients_of_images(in_loop, parts=6):
    """Returns the sum of gradients of images that a kernel filters four times, and its inputs."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 8, 8)), jnp.float32) / 8
    images = jnp.asarray(rng.normal(size=(parts, 1, 32, 32, 8)), jnp.float32)

    def loss(kernel, image):
        for _ in range(4):
            image = jnp.tanh(
                lax.conv_general_dilated(
                    image, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
                )
            )
        return jnp.sum(image**2)

    def step(carry, image):
        number, total = carry
        value, grad = jax.value_and_grad(loss)(kernel, image)
        return (number + 1, total + grad), {'loss': value, 'number': number}

    start = (0, jnp.zeros_like(kernel))
    return lambda images: parallel.scan_parts(step, start, images, in_loop), images


def test_steps_of_micro_batches_are_those_of_a_loop():
    results = []
    for in_loop in (True, False):
        function, images = gradients_of_images(in_loop)
        results.append(jax.jit(function)(images))
    chex.assert_trees_all_close(*results, rtol=1e-4, atol=1e-4)
    assert results[1][1]['number'].tolist() == list(range(6))


def test_a_cpu_holds_the_arrays_of_one_micro_batch_and_has_no_loop():
    function, images = gradients_of_images(None)
    compiled = jax.jit(function).lower(images).compile()
    single = jax.jit(function).lower(images[:1]).compile()
    temporary = [each.memory_analysis().temp_size_in_bytes for each in (single, compiled)]
    assert temporary[1] < 2 * temporary[0]
    assert 'while' not in compiled.as_text()


def test_infinite_gradients_stay_infinite():
    function, images = gradients_of_images(None)
    (_, total), outputs = jax.jit(function)(images.at[0].set(jnp.inf))
    assert not np.isfinite(total).any() and not np.isfinite(outputs['loss'][0])


@pytest.mark.parametrize('devices, accumulate', [(1, 4), (2, 2), (2, 4), (4, 2)])
def test_numbers_from_a_shared_key_are_those_of_the_example_in_any_micro_batch(devices, accumulate):
    topology, batch = parallel.topology('pmap', devices), make_batch()
    batch = {'x': batch['x'], 'index': np.arange(len(batch['x'])) + 7}
    shared, own = jax.random.key(3), jax.random.key(4)

    def drawn(key, index):
        return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i)))(index)

    def loss_fn(params, model_state, batch, keys):
        rows = {name: drawn(key, batch['index']) for name, key in keys.items()}
        return (
            {'main': Mean((params * rows['noise']).sum(), jnp.float32(len(rows['noise'])))},
            model_state,
            rows,
        )

    def step(params, batch):
        keys = {'noise': shared, 'dropout': own}
        fn = parallel.global_value_and_grad(
            loss_fn, lambda name: 1.0, accumulate, shared=('noise',)
        )
        (_, _, _, rows), grads = fn(params, {}, batch, keys)
        return {name: parallel.all_rows(value) for name, value in rows.items()}, grads

    rows, grads = parallel.to_host(
        topology.spmd(step, num_args=2)(
            topology.put_replicated(jnp.float32(1)), topology.put_batch(batch)
        )
    )
    expected = drawn(shared, batch['index'])
    np.testing.assert_array_equal(rows['noise'], expected)
    np.testing.assert_allclose(grads, expected.mean(), rtol=1e-5)
    assert not np.any(rows['dropout'] == drawn(own, batch['index'])), (
        'the other streams differ by micro-batch'
    )


def test_a_batch_in_which_nothing_counts_gives_zero_not_nan():
    topology = parallel.topology('pmap', 1)
    net, batch = Net(parallel.AXIS), make_batch()
    batch['mask'][:] = 0
    batch['y'][:, 0] = -1
    variables = net.init(jax.random.key(0), batch['x'], False)
    params = variables.pop('params')

    def step(state, batch):
        (loss, *_), grads = parallel.global_value_and_grad(loss_fn(net), WEIGHTS.__getitem__)(
            *state, batch, {}
        )
        return loss, grads

    loss, grads = topology.spmd(step, num_args=2)((params, variables), topology.put_batch(batch))
    assert loss == 0
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize('mode, devices', [('pmap', 1), ('pmap', 8), ('shard_map', 8)])
def test_rows_of_all_devices_come_in_the_order_of_the_batch_and_go_back(mode, devices):
    topology = parallel.topology(mode, devices)

    def fn(offset, batch):
        rows = parallel.all_rows(batch['x'])
        own = parallel.own_rows(rows)
        return rows + offset, parallel.sum_over_devices(jnp.abs(own - batch['x']).sum())

    x = make_batch()['x']
    rows, difference = topology.spmd(fn, num_args=2)(jnp.float32(0), topology.put_batch({'x': x}))
    np.testing.assert_array_equal(parallel.to_host(rows), x)
    assert parallel.to_host(difference) == 0


@pytest.mark.devices(8)
@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_replica_mismatch_counts_numbers_that_differ(mode):
    topology = parallel.topology(mode, 4)

    def step(x, batch):
        index = parallel.device_index()
        same = {'a': x, 'nan': jnp.full(3, jnp.nan)}
        differing = x.at[0].add(index.astype(x.dtype))
        return parallel.replica_mismatch(same), parallel.replica_mismatch([differing])

    same, differing = topology.spmd(step, num_args=2)(
        jnp.ones(5), topology.put_batch({'x': np.zeros(4)})
    )
    assert int(same) == 0
    assert int(differing) == 1


@pytest.mark.devices(8)
def test_batch_size_that_does_not_divide_is_an_error_with_the_next_that_does():
    topology = parallel.topology('pmap', 8)
    topology.check_batch_size('train.batch_size', 32, accumulate=2)
    with pytest.raises(InputError, match=r'train.batch_size=32'):
        topology.check_batch_size('train.batch_size', 20, accumulate=2)


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
@pytest.mark.parametrize('devices', [1, 4])
def test_a_step_is_traced_once(mode, devices):
    topology = parallel.topology(mode, devices)
    traces = []

    def step(state, batch):
        traces.append(1)
        return {
            'sum': state['sum'] + parallel.sum_over_devices(batch['x'].sum()),
            'step': state['step'] + 1,
        }

    step = topology.spmd(step, num_args=2, donate=(0,))
    state = topology.put_replicated({'sum': np.float32(0), 'step': np.int32(0)})
    for _ in range(3):
        before = state
        state = jax.block_until_ready(
            step(before, topology.put_batch({'x': np.ones(4, np.float32)}))
        )
        assert before['sum'].is_deleted(), 'its memory is free for the new state'
    assert len(traces) == 1
    assert state['sum'] == 12 and state['step'] == 3


@pytest.mark.parametrize('devices', [1, 2, 8])
@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_rows_that_stay_split_come_back_in_the_order_of_the_batch(mode, devices):
    topology = parallel.topology(mode, devices)
    x = np.arange(2 * ROWS * 3, dtype=np.float32).reshape(2 * ROWS, 3)

    def fn(state, batch):
        rows = {'double': 2 * batch['x'], 'first': batch['x'][:, 0].astype(jnp.int32)}
        return parallel.sum_over_devices(batch['x'].sum()), rows

    mapped = topology.spmd(fn, num_args=2, split=(False, True))
    total, rows = mapped(jnp.float32(0), topology.put_batch({'x': x}))
    rows = topology.rows_of_process(rows)
    assert parallel.to_host(total) == x.sum()
    np.testing.assert_array_equal(rows['double'], 2 * x)
    np.testing.assert_array_equal(rows['first'], x[:, 0])
    assert topology.rows_of_process({}) == {}


def test_bytes_and_sums_of_a_single_process_are_its_own():
    assert parallel.bytes_of_main(b'\x00\xff') == b'\x00\xff'
    values = np.array([2.0**53 - 1, np.pi])
    np.testing.assert_array_equal(parallel.sum_over_processes(values), values)


@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
@pytest.mark.parametrize('devices', [1, 4, 8])
def test_rows_are_split_over_the_devices_and_keep_their_order(mode, devices):
    topology = parallel.topology(mode, devices)
    shapes = []

    def scaled(state, rows):
        shapes.append(rows['x'].shape)
        return {'y': state['factor'] * rows['x'] + jnp.arange(3.0)}

    mapped = topology.map_rows(scaled, row_args=(1,), num_args=2)
    state = topology.put_replicated({'factor': np.float32(2)})
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    rows = topology.put_rows({'x': x})
    assert len(rows['x'].sharding.device_set) == devices
    np.testing.assert_array_equal(mapped(state, rows)['y'], 2 * x + np.arange(3))
    assert shapes == [(8 // devices, 3)]
    assert [topology.whole_batch(rows) for rows in (1, 8, 9)] == [
        devices,
        8,
        9 if devices == 1 else 8 + devices,
    ]
