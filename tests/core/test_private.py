"""Clipped and noised gradients of single examples against a loop over the examples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from optax import contrib

from segjax.core import parallel, private
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.protocol import Mean

ROWS = 16
CLIP = 0.7
CLASSES = 3


class Net(nn.Module):
    """Two convolutions, with a batch norm between them if `norm` is set."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Conv(CLASSES, (1, 1))(nn.relu(x))


def make_batch():
    """Returns examples of very different numbers of counted pixels, and two of weight 0."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, CLASSES, (ROWS, 5, 6))
    for row in range(ROWS):
        label[row][draw.random((5, 6)) < row / ROWS] = 255
    label[3] = 255  # no pixel counts
    weight = np.ones(ROWS, np.float32)
    weight[[6, 15]] = 0
    image = draw.normal(size=(ROWS, 5, 6, 2)).astype(np.float32)
    image *= draw.uniform(0.1, 4, (ROWS, 1, 1, 1)).astype(np.float32)
    image[15] = np.nan  # padding may hold anything
    return {
        'image': image,
        'label': label.astype(np.int32),
        'weight': weight,
        'index': np.arange(ROWS, dtype=np.int32),
    }


WEIGHTS = {'main': 1.0, 'size': 0.3}


def loss_fn(net, train=False):
    def fn(params, model_state, batch, keys):
        variables = {'params': params, **model_state}
        logits = net.apply(variables, batch['image'], train=train)
        main = losses.cross_entropy(logits, batch['label'], batch['weight'])
        pixels = jnp.float32(logits[..., 0].size)
        terms = {'main': main, 'size': Mean(jnp.square(logits).sum(), pixels)}
        return terms, model_state, {'index': batch['index']}

    return fn


def make_state(net=None):
    variables = dict((net or Net()).init(jax.random.key(1), jnp.zeros((1, 5, 6, 2))))
    return variables.pop('params'), variables


def single_gradients(params, model_state, batch):
    """Returns loss and gradient of every example whose weight is not 0, by plain jax.grad."""
    fn = loss_fn(Net())
    results = []
    for row in np.flatnonzero(batch['weight']):
        example = {key: value[row : row + 1] for key, value in batch.items()}

        def loss(params, example=example):
            terms, *_ = fn(params, model_state, example, {})
            means = {k: m.sum / jnp.maximum(m.count, 1) for k, m in terms.items()}
            return sum(WEIGHTS[name] * mean for name, mean in means.items())

        results.append(jax.device_get(jax.value_and_grad(loss)(params)))
    return results


def by_hand(clip):
    """Returns (loss, gradient, share of clipped examples) by a loop in NumPy."""
    params, model_state = make_state()
    total = jax.tree.map(np.zeros_like, jax.device_get(params))
    results = single_gradients(params, model_state, make_batch())
    clipped = 0
    for _, grads in results:
        norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(grads)))
        factor = min(1.0, clip / norm)
        clipped += factor < 1
        total = jax.tree.map(lambda t, g, f=factor: t + f * g, total, grads)
    loss = np.mean([loss for loss, _ in results])
    return loss, jax.tree.map(lambda t: t / ROWS, total), clipped / len(results)


def run(clip, noise, devices=1, mode='pmap', key=7, net=None, train=False, **arguments):
    """Returns ((loss, terms, model_state, aux), grads) and the number of differing bits."""
    topology = parallel.topology(mode, devices)
    net = net or Net()

    def step(state, batch):
        fn = private.private_value_and_grad(
            loss_fn(net, train), WEIGHTS.__getitem__, clip, noise, ROWS, **arguments
        )
        keys = {'privacy': jax.random.key(key)}
        (loss, terms, state, aux), grads = fn(*state, batch, keys)
        terms = parallel.sum_over_devices(terms)
        rows = jax.tree.map(parallel.all_rows, aux)
        return (loss, terms, state, rows), grads, parallel.replica_mismatch(grads)

    mapped = topology.spmd(step, num_args=2)
    state = topology.put_replicated(make_state(net))
    return parallel.to_host(mapped(state, topology.put_batch(make_batch())))


@pytest.mark.parametrize('clip', [0.05, CLIP, 1e6])
def test_the_formula_is_that_of_a_loop_over_the_examples(clip):
    loss, grads, share = by_hand(clip)
    (got_loss, terms, model_state, aux), got_grads, _ = run(clip, 0.0)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    chex.assert_trees_all_close(got_grads, grads, rtol=2e-5, atol=1e-7)
    assert terms['clipped'].value() == pytest.approx(share)
    assert (share > 0) == (clip < 1e6)
    # The example without a counted pixel has no mean of this term.
    assert terms['main'].count == ROWS - 3 and terms['size'].count == ROWS - 2
    assert model_state == {}
    np.testing.assert_array_equal(aux['index'], np.arange(ROWS))


def test_some_examples_are_clipped_and_some_are_not():
    assert 0.2 < by_hand(CLIP)[2] < 0.9


@pytest.mark.parametrize('noise', [0.0, 1.3])
@pytest.mark.parametrize(
    'mode, devices, accumulate',
    [
        ('pmap', 1, 4),
        ('pmap', 2, 1),
        ('pmap', 2, 8),
        ('pmap', 8, 1),
        ('pmap', 8, 2),
        ('shard_map', 1, 1),
        ('shard_map', 8, 2),
    ],
)
def test_devices_and_micro_batches_change_nothing(mode, devices, accumulate, noise):
    expected, expected_grads, _ = run(CLIP, noise)
    got, grads, mismatch = run(CLIP, noise, devices, mode, accumulate=accumulate)
    chex.assert_trees_all_close((got, grads), (expected, expected_grads), rtol=2e-5, atol=1e-6)
    assert mismatch == 0, 'a single draw of noise for all devices'


def test_without_clip_and_noise_it_is_the_gradient_of_the_mean_of_single_losses():
    """The gradient of one loss over the batch, in which every example has its own mean."""
    params, _ = make_state()
    batch = make_batch()
    kept = batch['weight'] > 0

    def mean_loss(params):
        logits = Net().apply({'params': params}, batch['image'][kept])
        label = batch['label'][kept]
        counted = label != 255
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label * counted)
        of_example = (entropy * counted).sum((1, 2)) / jnp.maximum(counted.sum((1, 2)), 1)
        size = jnp.square(logits).mean((1, 2)).sum(-1)
        return (of_example + WEIGHTS['size'] * size).sum() / kept.sum()

    loss, grads = jax.value_and_grad(mean_loss)(params)
    (got_loss, terms, *_), got_grads, _ = run(np.inf, 0.0, accumulate=2)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    # The divisor is the batch size, whatever the number of examples that count.
    scaled = jax.tree.map(lambda g: g * kept.sum() / ROWS, grads)
    chex.assert_trees_all_close(got_grads, scaled, rtol=2e-5, atol=1e-6)
    assert terms['clipped'].sum == 0


def test_it_is_the_aggregate_of_optax_on_one_device():
    """The noise too, for the same key."""
    params, model_state = make_state()
    zero = jax.tree.map(lambda leaf: np.zeros((2, *leaf.shape), np.float32), params)
    single = [grads for _, grads in single_gradients(params, model_state, make_batch())]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *single)
    # The aggregate divides by the number of rows, so the padding needs rows of zeros.
    rows = jax.tree.map(lambda a, b: np.concatenate([a, b]), stacked, zero)
    aggregate = contrib.differentially_private_aggregate(CLIP, 1.3, jax.random.key(7))
    expected, _ = aggregate.update(rows, aggregate.init(params))
    _, grads, _ = run(CLIP, 1.3)
    chex.assert_trees_all_close(grads, expected, rtol=2e-5, atol=1e-6)


def test_the_noise_has_its_standard_deviation_and_another_key_draws_another_noise():
    """The noise of a large leaf, over the mean of the clipped gradients."""
    tree = {'a': jnp.zeros((200, 300)), 'b': jnp.zeros(100_000)}
    noised = private.add_noise(tree, jax.random.key(0), 0.42)
    for leaf in noised.values():
        assert float(leaf.std()) == pytest.approx(0.42, rel=0.02)
        assert abs(float(leaf.mean())) < 0.01
    shared = min(leaf.size for leaf in noised.values())
    pair = [leaf.ravel()[:shared] for leaf in noised.values()]
    assert abs(np.corrcoef(*pair)[0, 1]) < 0.02, 'independent leaves'

    # Before the division by the batch size, the deviation is noise_multiplier * clip_norm.
    _, silent, _ = run(CLIP, 0.0)
    differences = []
    for key in range(8):
        _, grads, _ = run(CLIP, 2.0, key=key)
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(silent), strict=True)
        differences += [(a - b).ravel() * ROWS for a, b in pairs]
    values = np.concatenate(differences)
    assert values.std() == pytest.approx(2.0 * CLIP, rel=0.1)
    assert len(np.unique(values)) > 0.9 * len(values)


@pytest.mark.parametrize('weight', [0.0, 1.0])
def test_a_single_example_moves_the_sum_by_at_most_the_clip_norm(weight):
    """The promise of the method: one example with an extreme gradient."""
    params, model_state = make_state()
    batch = make_batch()

    def gradient(batch):
        fn = private.private_value_and_grad(loss_fn(Net()), WEIGHTS.__getitem__, CLIP, 0.0, ROWS)
        topology = parallel.topology('pmap', 1)
        step = topology.spmd(lambda state, batch: fn(*state, batch, {})[1], num_args=2)
        return parallel.to_host(
            step(topology.put_replicated((params, model_state)), topology.put_batch(batch))
        )

    changed = {**batch, 'image': batch['image'].copy(), 'weight': batch['weight'].copy()}
    changed['image'][0] *= 1000
    changed['weight'][0] = weight
    without = {**batch, 'weight': batch['weight'].copy()}
    without['weight'][0] = 0
    difference = jax.tree.map(lambda a, b: (a - b) * ROWS, gradient(changed), gradient(without))
    norm = float(optax.tree.norm(difference))
    assert norm == pytest.approx(CLIP * weight, rel=1e-3, abs=1e-6)


def test_every_example_gets_keys_of_its_own_except_shared_keys():
    seen = jax.random.key(3)

    def fn(params, model_state, batch, keys):
        drawn = {name: jax.random.normal(key, (1,)) for name, key in keys.items()}
        return {'main': Mean(params * drawn['own'].sum(), jnp.float32(1))}, model_state, drawn

    def draws(accumulate):
        topology = parallel.topology('pmap', 1)
        value_and_grad = private.private_value_and_grad(
            fn, lambda name: 1.0, CLIP, 0.0, ROWS, accumulate, shared=('all',)
        )

        def step(state, batch):
            return value_and_grad(state, {}, batch, {'own': seen, 'all': seen})[0][3]

        mapped = topology.spmd(step, num_args=2)
        batch = {'weight': np.ones(ROWS, np.float32)}
        return parallel.to_host(mapped(jnp.float32(1), topology.put_batch(batch)))

    whole = draws(1)
    assert len(np.unique(whole['own'])) == ROWS
    assert len(np.unique(whole['all'])) == 1
    chex.assert_trees_all_equal(whole, draws(4))


def test_a_batch_norm_with_running_statistics_is_frozen():
    net = Net(norm=True)
    (_, _, model_state, _), grads, _ = run(CLIP, 0.0, devices=2, net=net)
    chex.assert_trees_all_equal(model_state, parallel.to_host(make_state(net)[1]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_batch_norm_over_the_batch_is_refused_by_name():
    with pytest.raises(InputError, match=r'batch norm BatchNorm_0[\s\S]*train=False'):
        run(CLIP, 0.0, net=Net(norm=True), train=True)


def test_a_loss_that_changes_the_statistics_is_refused():
    def fn(params, model_state, batch, keys):
        term = Mean(params * batch['weight'].sum(), jnp.float32(1))
        return {'main': term}, {'mean': model_state['mean'] + 1}, {}

    value_and_grad = private.private_value_and_grad(fn, lambda name: 1.0, CLIP, 0.0, ROWS)
    batch = {'weight': np.ones(2, np.float32)}
    with pytest.raises(InputError, match='model_state that the loss changes'):
        value_and_grad(jnp.float32(1), {'mean': jnp.float32(0)}, batch, {})


@pytest.mark.parametrize('clip, noise', [(0.0, 1.0), (-1.0, 0.0), (1.0, -0.1), (np.inf, 1.0)])
def test_numbers_without_a_meaning_are_refused(clip, noise):
    with pytest.raises(InputError):
        private.private_value_and_grad(loss_fn(Net()), lambda name: 1.0, clip, noise, ROWS)
