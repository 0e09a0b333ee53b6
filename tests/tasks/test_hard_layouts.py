"""Hard layouts against a plain Python list, on one and on eight devices."""

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from scipy import stats

from segjax.config import tree
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.tasks import hard_layouts

SIZE = (2, 3)
ROWS = 8
STEPS = 13


def settings_of(**keys):
    settings = ml_collections.ConfigDict(tree.defaults_of(hard_layouts.HARD_LAYOUTS))
    settings.update(keys)
    return settings


def batch_of(step):
    """Returns patches that are filled with their number, some of weight 0. Losses have ties."""
    random = np.random.default_rng(step)
    numbers = (step * ROWS + np.arange(ROWS)) % 251
    losses = random.integers(0, 6, ROWS).astype(np.float32)
    losses[random.random(ROWS) < 0.1] = np.nan
    weight = (random.random(ROWS) < 0.7).astype(np.float32)
    if step == 4:
        weight[:] = 0
    labels = np.broadcast_to(numbers[:, None, None], (ROWS, *SIZE)).astype(np.int32)
    return {'labels': labels, 'losses': losses, 'weight': weight}


class Reference:
    """The same pool as Python lists of (number of a patch, loss)."""

    def __init__(self, settings):
        self.settings = settings
        self.places = []
        self.offered = 0
        self.active = []

    def offer(self, labels, losses, weight, step):
        for label, loss, counts in zip(labels, losses, weight, strict=True):
            if counts == 0:
                continue
            candidate = (label[0, 0], -np.inf if np.isnan(loss) else loss)
            if self.offered < self.settings.candidates:
                self.places.append(candidate)
            else:
                self.places[self.offered % self.settings.candidates] = candidate
            self.offered += 1
        if (step + 1) % self.settings.refresh == 0 and self.places:
            ranked = sorted(self.places, key=lambda candidate: -candidate[1])  # stable
            count = max(1, round(self.settings.share * len(ranked)))
            self.active = [label for label, _ in ranked[:count]]
            self.places = []
            self.offered = 0


def make_step(settings, devices):
    """Returns (pool, batch, step) -> pool, mapped over devices."""
    topology = parallel.topology('pmap', devices)

    def offer(pool, batch, step):
        pool = hard_layouts.offer(pool, **batch, step=step, settings=settings)
        return pool, parallel.replica_mismatch(pool)

    mapped = topology.spmd(offer, num_args=3)

    def step(pool, batch, number):
        pool, mismatch = mapped(pool, topology.put_batch(batch), jnp.int32(number))
        assert mismatch == 0
        return pool

    return topology, step


def run(settings, devices, first=0, pool=None):
    """Returns the pools after each step, as numpy arrays."""
    topology, step = make_step(settings, devices)
    pool = hard_layouts.empty(settings, SIZE) if pool is None else pool
    pool = topology.put_replicated(pool)
    pools = []
    for number in range(first, STEPS):
        pool = step(pool, batch_of(number), number)
        pools.append(parallel.to_host(pool))
    return pools


# Places that are overwritten, batches that are larger than the pool, places that stay free.
CASES = [
    dict(candidates=10, share=0.3, refresh=4),
    dict(candidates=3, share=1.0, refresh=2),
    dict(candidates=64, share=0.1, refresh=1),
]


@pytest.fixture(scope='module', params=CASES, ids=str)
def on_one_device(request):
    """Returns the settings and the pools after each step, on a device."""
    settings = settings_of(**request.param)
    return settings, run(settings, 1)


def test_pools_are_those_of_a_list(on_one_device):
    settings, pools = on_one_device
    reference = Reference(settings)
    for number, pool in enumerate(pools):
        reference.offer(**batch_of(number), step=number)
        assert pool['offered'] == reference.offered
        stored = pool['candidates'][: len(reference.places), 0, 0]
        np.testing.assert_array_equal(stored, [label for label, _ in reference.places])
        losses = pool['losses'][: len(reference.places)]
        np.testing.assert_array_equal(losses, [loss for _, loss in reference.places])
        assert pool['num_active'] == len(reference.active)
        active = pool['active'][: len(reference.active)]
        np.testing.assert_array_equal(active[:, 0, 0], reference.active)
        assert (active == active[:, :1, :1]).all(), 'layouts are not mixed'


def test_eight_devices_have_the_pools_of_a_device(on_one_device):
    settings, pools = on_one_device
    chex.assert_trees_all_equal(run(settings, 8), pools, strict=True)


def test_a_resumed_run_has_the_same_pools():
    settings = settings_of(**CASES[0])
    whole = run(settings, 1)
    # Step 6 is between two refreshes.
    chex.assert_trees_all_equal(run(settings, 1, 6, whole[5]), whole[6:], strict=True)


def test_a_refresh_without_a_candidate_keeps_the_active_layouts():
    pools = run(settings_of(**CASES[2]), 1)
    assert not batch_of(4)['weight'].any()
    chex.assert_trees_all_equal(pools[4], pools[3])
    assert pools[3]['num_active'] > 0


# --- drawing --------------------------------------------------------------------------------------

KEY = rng.root(0, 'test')
OWN = np.full((6, *SIZE), 200, np.int32)


def drawn_numbers(pool, index, key=KEY):
    own = np.full((len(index), *SIZE), 200, np.int32)
    labels = hard_layouts.draw(pool, key, jnp.asarray(index), own)
    assert labels.dtype == np.int32 and labels.shape == own.shape
    return np.asarray(labels)[:, 0, 0]


def test_layouts_are_random_before_the_first_refresh_and_hard_afterwards(on_one_device):
    settings, pools = on_one_device
    new = hard_layouts.empty(settings, SIZE)
    assert (drawn_numbers(new, range(6)) == 200).all()
    reference = Reference(settings)
    for number, pool in enumerate(pools):
        reference.offer(**batch_of(number), step=number)
        expected = reference.active or [200]
        assert np.isin(drawn_numbers(pool, range(6)), expected).all()


def test_active_layouts_are_drawn_with_equal_probability():
    pool = run(settings_of(**CASES[0]), 1)[-1]
    numbers = drawn_numbers(pool, range(900))
    expected, counts = np.unique(numbers, return_counts=True)
    assert set(expected) == set(pool['active'][: pool['num_active'], 0, 0])
    assert len(counts) == 3 and stats.chisquare(counts).pvalue > 1e-3


def test_draws_depend_on_the_key_and_the_index_alone():
    pool = run(settings_of(**CASES[0]), 1)[-1]
    whole = drawn_numbers(pool, range(40))
    np.testing.assert_array_equal(drawn_numbers(pool, [7, 30, 7]), whole[[7, 30, 7]])
    assert (drawn_numbers(pool, range(40), rng.root(1, 'test')) != whole).any()


def test_without_mining_nothing_is_stored():
    settings = settings_of(use=False)
    pool = hard_layouts.empty(settings, SIZE)
    assert pool == {}
    assert hard_layouts.offer(pool, OWN, OWN[:, 0, 0], OWN[:, 0, 0], 0, settings) == {}
    np.testing.assert_array_equal(hard_layouts.draw(pool, KEY, np.arange(6), OWN), OWN)


def test_a_pool_of_the_paper_fits_into_a_state():
    pool = jax.eval_shape(lambda: hard_layouts.empty(settings_of(), (713, 713)))
    chex.assert_shape([pool['candidates'], pool['active']], [(64, 713, 713), (16, 713, 713)])
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pool)) < 42e6


def test_labels_of_another_size_are_refused():
    settings = settings_of()
    pool = hard_layouts.empty(settings, SIZE)
    with pytest.raises(InputError, match='the size for which the pool was made'):
        hard_layouts.offer(pool, np.zeros((8, 3, 3)), np.zeros(8), np.ones(8), 0, settings)
