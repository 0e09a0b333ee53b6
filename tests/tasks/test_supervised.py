"""The parts of a supervised step, each alone: weights of heads, and the state of step 0."""

import jax.numpy as jnp
import numpy as np
from fakes import SPEC, train_batch

from segjax import config as config_lib
from segjax.tasks import supervised


def make_config(**sections):
    config = config_lib.defaults('supervised')
    config_lib.update(config, **sections)
    return config


def test_the_main_head_has_weight_1_and_auxiliary_heads_that_of_the_config():
    weight_of = supervised.head_weight(make_config(loss=dict(aux_weight=0.3)))
    assert (weight_of('main'), weight_of('aux_encoder')) == (1.0, 0.3)


def test_every_head_has_a_term():
    batch = train_batch()
    logits = jnp.zeros((8, 4, 8, 5))
    terms = supervised.make_terms(make_config(), SPEC)({'logits': logits}, batch)
    assert set(terms) == {'main'}
    both = supervised.make_terms(make_config(), SPEC)(
        {'logits': logits, 'aux': {'encoder': logits}}, batch
    )
    assert set(both) == {'main', 'aux_encoder'}
    # Equal logits have the cross-entropy ln 5.
    np.testing.assert_allclose(both['main'].value(), np.log(5), rtol=1e-6)
    np.testing.assert_allclose(both['aux_encoder'].value(), np.log(5), rtol=1e-6)


def test_nets_without_an_optimiser_are_frozen_and_not_averaged():
    params = {'trained': {'w': jnp.ones(2)}, 'frozen': {'w': jnp.zeros(2)}}
    statistics = {'trained': {}, 'frozen': {}}
    optimiser = supervised.Optimiser(make_config().optim, ('trained',))
    state = supervised.fresh_state(params, statistics, {'first': optimiser}, num_steps=10, ema=0.9)
    assert set(state.params) == {'trained', 'frozen'}
    assert set(state.opt_state) == {'first'}
    assert set(state.extra['ema']['params']) == {'trained'}
    assert int(state.step) == 0


def test_select_keeps_the_order_that_is_asked_for():
    nets = {'a': 1, 'b': 2, 'c': 3}
    assert list(supervised.select(nets, ['c', 'a']).items()) == [('c', 3), ('a', 1)]
