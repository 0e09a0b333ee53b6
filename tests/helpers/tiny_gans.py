"""Nets of a few parameters that stand in for generators, encoders and discriminators of GANs."""

import chex
import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import config as config_lib
from segjax.config import tree
from segjax.core import parallel, rng

RATE = 0.1
SGD = dict(name='sgd', learning_rate=RATE, momentum=0.0, weight_decay=0.0, schedule='constant')
ADAM = dict(name='adam', learning_rate=2e-3, beta1=0.5, schedule='constant')


class Generator(nn.Module):
    """tanh of a linear map of each pixel's condition, and of the code if there is one."""

    out_channels: int = 2

    @nn.compact
    def __call__(self, condition, *code, train: bool, keys=None):
        x = condition
        for z in code:
            planes = jnp.broadcast_to(z[:, None, None], (*x.shape[:3], z.shape[-1]))
            x = jnp.concatenate([x, planes], -1)
        return {'image': jnp.tanh(nn.Dense(self.out_channels, name='dense')(x))}


class Encoder(nn.Module):
    """Two linear maps of the mean over all pixels."""

    code_size: int = 3

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.mean((1, 2))
        return {name: nn.Dense(self.code_size, name=name)(x) for name in ('mean', 'log_variance')}


class Discriminator(nn.Module):
    """Two scales: a linear map of each pixel, and another of every second pixel."""

    @nn.compact
    def __call__(self, x, train: bool):
        fine = nn.Dense(1, name='fine')(x)
        coarse = nn.Dense(1, name='coarse')(x[:, ::2, ::2])
        return (fine,), (coarse,)


def settings(schema, batch_size, accumulate=1, **section):
    """Returns (config, section) of a schema, in which all nets use gradient descent."""
    config = config_lib.defaults('supervised')
    train = dict(batch_size=batch_size, accumulate=accumulate, ema=0.0)
    config_lib.update(config, train=train)
    keys = ml_collections.ConfigDict(tree.defaults_of(schema))
    keys.update({'optim': SGD, 'optim_discriminator': SGD, **section})
    return config, keys


def make_step(train_step, streams, devices=1):
    """Returns (state, batch) -> (state on the devices, metrics as floats), compiled at first use.

    All devices get equal keys, as those of shared streams.
    """
    topology = parallel.topology('pmap', devices)
    root = rng.root(0, 'test')

    def run(state, batch):
        keys = rng.streams(root, streams, state.step, 0)
        state, metrics = train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics)

    run = topology.spmd(run, num_args=2)

    def step(state, batch):
        state, metrics = run(topology.put_replicated(state), topology.put_batch(batch))
        values = {name: mean.value() for name, mean in parallel.to_host(metrics).items()}
        return state, values

    return step


def step(train_step, streams, state, batch, devices=1):
    """Returns (state on the host, metrics as floats) after a step on the first devices."""
    state, values = make_step(train_step, streams, devices)(state, batch)
    return parallel.to_host(state), values


def make_batch(rows, size, channels, target_channels, seed=0):
    """Returns a batch with random 'condition' and 'target' in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return {
        'condition': rng.uniform(-1, 1, (rows, *size, channels)).astype(np.float32),
        'target': rng.uniform(-1, 1, (rows, *size, target_channels)).astype(np.float32),
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32) + 5,
    }


def pair_of(batch):
    """Returns condition and target of a batch."""
    return batch['condition'], batch['target']


def check_that_a_net_learns(task, config, section, stride=1):
    """Trains published nets on coloured squares in images of 32x32 pixels.

    The step is traced once. The L1 distance decreases. All parameters stay finite. Targets are
    smaller than their conditions by the stride.
    """
    traces = []

    def traced_pair(batch):
        traces.append(batch)
        return pair_of(batch)

    system = task.make_system(config, section, traced_pair, out_channels=3)
    batch = make_batch(4, (32, 32), 2, 3)
    squares = make_batch(4, (4, 4), 2, 3)['condition']
    batch['condition'] = np.kron(squares, np.ones((1, 8, 8, 1), np.float32))
    small = batch['condition'][:, ::stride, ::stride]
    batch['target'] = np.tanh(small @ np.float32([[1, -1, 0.5], [0.5, 1, -1]]))
    state = task.make_init(system, 50)(rng.root(0, 'init'), batch, {})
    step = make_step(task.make_train_step(system, 50), task.STREAMS)
    distances = []
    first = 0
    for _ in range(25):
        state, metrics = step(state, batch)
        distances.append(float(metrics['loss_l1']))
        first = first or len(traces)
    assert len(traces) == first
    assert state.step == 25
    chex.assert_tree_all_finite(parallel.to_host((state.params, state.opt_state)))
    assert np.mean(distances[-3:]) < 0.8 * distances[0], distances
