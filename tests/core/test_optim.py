"""Optimisers against NumPy loops in float64, schedules against literal values."""

import ast
import functools
import shlex
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import optim
from segjax.errors import InputError
from segjax.pipelines import noise_cyclegan, scene_geometry
from segjax.protocol import TrainState
from segjax.schema import OPTIM

STEPS = 5
RATE = 0.1


def settings(**changes):
    config = ml_collections.ConfigDict({k: field.default for k, field in OPTIM.items()}).lock()
    config.update({'learning_rate': RATE, 'schedule': 'constant', **changes})
    return config


def draw(seed):
    """Returns params (or gradients) of two nets, 'net' and 'head'.

    'net' is {'conv': kernel and bias, 'norm': scale and bias}.
    """
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        'net': {
            'conv': {'kernel': array(3, 3, 2, 4), 'bias': array(4)},
            'norm': {'scale': array(4), 'bias': array(4)},
        },
        'head': {'conv': {'kernel': array(1, 1, 4, 3)}},
    }


PARAMS = draw(0)
GRADS = [draw(1 + i) for i in range(STEPS)]


def state_of(params, **transforms):
    opt_state = {
        name: t.init({net: params[net] for net in nets}) for name, (t, nets) in transforms.items()
    }
    return TrainState(
        step=jnp.int32(0), params=params, model_state={}, opt_state=opt_state, extra={}
    )


def train(config, num_steps=STEPS, params=PARAMS, grads=GRADS):
    """Returns params after an update for each of `grads`."""
    transform = optim.make(config, num_steps, params)

    @jax.jit
    def step(state, g):
        state = optim.apply(state, 'all', transform, g)
        return state.replace(step=state.step + 1)

    state = state_of(params, all=(transform, params))
    for g in grads:
        state = step(state, g)
    return state.params


def expected(update, decays=lambda path: path[-1].key == 'kernel', rate=lambda t: RATE):
    """Returns params after `p -= rate(t) * update(memory, g, p, t, decays)` for t = 0, 1, ...

    The loop runs in float64, leaf by leaf.
    """

    def leaf(path, p, *grads):
        memory, p = {}, p.astype(np.float64)
        for t, g in enumerate(grads):
            p = p - rate(t) * update(memory, g.astype(np.float64), p, t, decays(path))
        return p

    return jax.tree_util.tree_map_with_path(leaf, PARAMS, *GRADS)


def sgd(memory, g, p, t, decays, momentum=0.9, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * p * decays
    memory['v'] = (
        g if t == 0 else momentum * memory['v'] + g
    )  # as torch.optim.SGD starts its buffer
    return g + momentum * memory['v'] if nesterov else memory['v']


def adam(
    memory, g, p, t, decays, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False
):
    if not decoupled:
        g = g + weight_decay * p * decays
    memory['m'] = beta1 * memory.get('m', 0) + (1 - beta1) * g
    memory['v'] = beta2 * memory.get('v', 0) + (1 - beta2) * g * g
    m, v = memory['m'] / (1 - beta1 ** (t + 1)), memory['v'] / (1 - beta2 ** (t + 1))
    return m / (np.sqrt(v) + eps) + (weight_decay * p * decays if decoupled else 0)


def assert_close(got, want, rtol=2e-5, atol=1e-5):
    # Adam's 1 - beta2^t has four to five digits in float32, so that its steps of 0.1 do.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, want)


@pytest.mark.parametrize(
    ('changes', 'update'),
    [
        ({'name': 'sgd', 'momentum': 0.0}, functools.partial(sgd, momentum=0)),
        ({'name': 'sgd', 'momentum': 0.8}, functools.partial(sgd, momentum=0.8)),
        ({'name': 'sgd', 'nesterov': True}, functools.partial(sgd, nesterov=True)),
        ({'name': 'sgd', 'weight_decay': 0.3}, functools.partial(sgd, weight_decay=0.3)),
        ({'name': 'adam'}, adam),
        ({'name': 'adam', 'beta1': 0.5, 'eps': 1e-3}, functools.partial(adam, beta1=0.5, eps=1e-3)),
        ({'name': 'adam', 'weight_decay': 0.3}, functools.partial(adam, weight_decay=0.3)),
        (
            {'name': 'adamw', 'weight_decay': 0.3},
            functools.partial(adam, weight_decay=0.3, decoupled=True),
        ),
    ],
)
def test_optimiser_is_the_formula(changes, update):
    assert_close(train(settings(**changes)), expected(update))


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_decay_spares_norms_and_biases_unless_told(name):
    update = functools.partial(sgd if name == 'sgd' else adam, weight_decay=0.3)
    if name == 'adamw':
        update = functools.partial(update, decoupled=True)
    decayed = train(settings(name=name, weight_decay=0.3))
    plain = train(settings(name=name))
    for module, leaf in (('conv', 'bias'), ('norm', 'scale'), ('norm', 'bias')):
        np.testing.assert_array_equal(decayed['net'][module][leaf], plain['net'][module][leaf])
    everything = train(settings(name=name, weight_decay=0.3, decay_norm_and_bias=True))
    assert_close(everything, expected(update, decays=lambda path: True))


def test_stacked_norms_and_vectors_do_not_decay():
    params = {
        'net': {'norm': {'scale': np.ones((6, 4), np.float32)}, 'dilation': np.ones(4, np.float32)}
    }
    zero = jax.tree.map(np.zeros_like, params)
    got = train(settings(name='sgd', weight_decay=0.5), params=params, grads=[zero])
    jax.tree.map(np.testing.assert_array_equal, got, params)


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'steps', 'values'),
    [
        ({'schedule': 'constant'}, (0, 50, 99, 100), (1, 1, 1, 1)),
        (
            {'schedule': 'poly', 'power': 0.9},
            (0, 50, 99, 100, 101),
            (1, 0.535886731, 0.0158489319, 0, 0),
        ),
        ({'schedule': 'poly', 'power': 2.0}, (0, 10, 75), (1, 0.81, 0.0625)),
        ({'schedule': 'linear_tail'}, (0, 50, 51, 75, 99, 100), (1, 1, 0.98, 0.5, 0.02, 0)),
        ({'schedule': 'linear_tail', 'constant_fraction': 1.0}, (0, 99), (1, 1)),
        ({'schedule': 'linear_tail', 'constant_fraction': 0.0}, (0, 25), (1, 0.75)),
        ({'schedule': 'cosine'}, (0, 50, 75, 100), (1, 0.5, 0.146446609, 0)),
        # torch's MultiStepLR: the step of a milestone has the lower rate.
        ({'schedule': 'step', 'milestones': (0.75,)}, (0, 74, 75, 99, 200), (1, 1, 0.1, 0.1, 0.1)),
        (
            {'schedule': 'step', 'milestones': (30, 60, 90), 'step_factor': 0.3},
            (0, 29, 30, 59, 60, 89, 90, 100),
            (1, 1, 0.3, 0.3, 0.09, 0.09, 0.027, 0.027),
        ),
        (
            {'schedule': 'step', 'milestones': (0.5, 80), 'warmup_steps': 10},
            (5, 49, 50, 80),
            (0.5, 1, 0.1, 0.01),
        ),
        ({'schedule': 'step', 'milestones': (30, 200)}, (30, 250), (0.1, 0.1)),
        ({'schedule': 'step', 'milestones': (0.001,)}, (0, 1), (1, 0.1)),
        ({'warmup_steps': 10}, (0, 5, 9, 10, 11), (0, 0.5, 0.9, 1, 1)),
        ({'warmup_steps': 10, 'warmup_factor': 0.1}, (0, 5, 10), (0.1, 0.55, 1)),
        (
            {'schedule': 'poly', 'power': 1.0, 'warmup_steps': 10},
            (0, 5, 10, 50),
            (0, 0.475, 0.9, 0.5),
        ),
    ],
)
def test_schedule_values(changes, steps, values):
    rate = optim.schedule(settings(learning_rate=0.01, **changes), 100)
    got = [rate(t) for t in steps]
    np.testing.assert_allclose(got, 0.01 * np.array(values), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(jax.jit(jax.vmap(rate))(jnp.array(steps)).dtype, jnp.float32)
    np.testing.assert_allclose(
        optim.learning_rate(settings(**changes), 100, steps[1]).value(), RATE * values[1], 1e-6
    )


def test_schedule_keeps_its_digits_at_the_end_of_long_trainings():
    total = 1_000_000
    got = optim.schedule(settings(schedule='poly', power=0.9), total)(total - 1)
    np.testing.assert_allclose(got, RATE * (1 / total) ** 0.9, rtol=1e-6)


def test_the_step_schedule_is_that_of_optax():
    own = optim.schedule(settings(schedule='step', milestones=(3, 8, 15), step_factor=0.3), 20)
    expected = optax.piecewise_constant_schedule(RATE, {3: 0.3, 8: 0.3, 15: 0.3})
    np.testing.assert_allclose(
        [own(t) for t in range(21)], [expected(t) for t in range(21)], rtol=1e-6
    )


@pytest.mark.parametrize(
    'milestones', [(), (0.5, 0.5), (30, 20), (0,), (1.5,), (-0.1,), ('0.5',), (True,)]
)
def test_malformed_milestones_are_refused(milestones):
    config = config_lib.defaults('supervised')
    config.optim.schedule = 'step'
    with pytest.raises(InputError, match=r'config\.optim\.milestones'):
        config.optim.milestones = milestones
        config_lib.validate(config)


@pytest.mark.parametrize('section', ['optim', 'optim_depth'])
@pytest.mark.parametrize('schedule, milestones', [('poly', (0.5,)), ('step', ())])
def test_milestones_and_schedule_must_fit_and_the_advice_works(section, schedule, milestones):
    config = config_lib.defaults('scene_geometry')
    config[section].update(schedule=schedule, milestones=milestones)
    with pytest.raises(
        InputError, match=rf'config\.{section}\.milestones.*\n.*{schedule!r}'
    ) as error:
        config_lib.validate(config)
    key, _, value = error.value.fix.removeprefix('--config.').partition('=')
    assert key == f'{section}.milestones'
    config_file.assign(config, [config_file.Assignment(key, value.strip('"'))])
    config_lib.validate(config)


def test_schedule_errors():
    with pytest.raises(InputError, match='1000 in a training of 100 steps'):
        optim.schedule(settings(warmup_steps=1000), 100)
    with pytest.raises(InputError, match="did you mean 'poly'"):
        optim.schedule(settings(schedule='polly'), 100)
    assert (
        optim.schedule(settings(warmup_steps=10), 0)(0) == 0
    )  # a stage that only evaluates has no steps


def test_the_rate_of_a_step_is_the_rate_of_the_train_state():
    # Update t uses rate(t). The first update has the full rate, the last has a rate above 0.
    config = settings(name='sgd', schedule='linear_tail', constant_fraction=0.0)
    want = expected(sgd, rate=lambda t: RATE * (STEPS - t) / STEPS)
    assert_close(train(config), want)
    # An optimiser that acts only at step 3 uses the rate of step 3, not its own first rate.
    transform = optim.make(config, STEPS, PARAMS)
    state = state_of(PARAMS, all=(transform, PARAMS)).replace(step=jnp.int32(3))
    got = optim.apply(state, 'all', transform, GRADS[0])
    assert got.step == 3
    assert_close(got.params, jax.tree.map(lambda p, g: p - RATE * 0.4 * g, PARAMS, GRADS[0]))


# --- factors, clipping, precision -----------------------------------------------------------------


def test_factors_multiply_the_rate():
    factors = (('head/.*', 10.0), ('.*/bias', 2.0), ('net/norm/.*', 0.0), ('.*/norm/bias', 3.0))
    config = settings(name='adamw', weight_decay=0.1, factors=factors)
    for path, factor in (
        (('head', 'conv', 'kernel'), 10),
        (('net', 'conv', 'bias'), 2),
        (('net', 'conv', 'kernel'), 1),
    ):
        update = functools.partial(adam, weight_decay=0.1, decoupled=True)
        got, want = train(config), expected(update, rate=lambda t, factor=factor: RATE * factor)
        for key in path:
            got, want = got[key], want[key]
        assert_close(got, want)
    jax.tree.map(np.testing.assert_array_equal, train(config)['net']['norm'], PARAMS['net']['norm'])


def test_a_pattern_that_matches_nothing_is_an_error_that_shows_paths():
    for pattern in ('conv', 'net/conv', 'decoder/.*'):  # whole paths only
        with pytest.raises(InputError, match=r'matches no parameter[\s\S]*net/conv/kernel'):
            optim.make(settings(factors=((pattern, 10.0),)), STEPS, PARAMS)


@pytest.mark.parametrize('pattern, kept', [('conv', (('.*/conv/.*', 10.0),)), ('decoder/.*', ())])
def test_the_fix_of_a_pattern_is_an_argument(pattern, kept):
    with pytest.raises(InputError) as error:
        optim.make(settings(factors=((pattern, 10.0),)), STEPS, PARAMS, 'optim_depth')
    assert error.value.where == 'optim_depth.factors'
    argument, text = shlex.split(error.value.fix)[0].split('=', 1)
    assert argument == '--config.optim_depth.factors' and ast.literal_eval(text) == kept
    optim.make(settings(factors=kept), STEPS, PARAMS)


@pytest.mark.parametrize(
    'pipeline, section',
    [('noise_cyclegan', 'optim_discriminator'), ('scene_geometry', 'optim_depth')],
)
@pytest.mark.parametrize('key, value', [('warmup_steps', 1000), ('factors', (('nothing', 1.0),))])
def test_errors_name_the_section_of_the_optimiser(pipeline, section, key, value):
    config = config_file.load(f'configs/{pipeline}.py:smoke')
    config[section][key] = value
    if pipeline == 'noise_cyclegan':
        params = {
            net: {'w': jnp.zeros((2, 2))} for net in ('segmenter', 'painter', 'discriminator')
        }
        with pytest.raises(InputError) as error:
            noise_cyclegan.optimisers(config, params)
    else:
        optimiser = scene_geometry.make_optimisers(
            config, types.SimpleNamespace(pose=object(), decoder=None)
        )
        with pytest.raises(InputError) as error:
            optimiser['geometry'].make(10, {'pose': {'w': jnp.zeros((2, 2))}})
    assert error.value.where == f'{section}.{key}'
    assert f'--config.{section}.{key}=' in error.value.fix


def test_unknown_optimiser():
    with pytest.raises(InputError, match="did you mean 'adam'"):
        optim.make(settings(name='adm'), STEPS, PARAMS)


def test_clipping_by_the_norm_over_all_nets():
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in jax.tree.leaves(GRADS[0])))
    config = settings(name='sgd', momentum=0.0, clip_norm=0.5)
    got = train(config, grads=GRADS[:1])
    assert_close(got, jax.tree.map(lambda p, g: p - RATE * 0.5 / norm * g, PARAMS, GRADS[0]))
    loose = train(settings(name='sgd', momentum=0.0, clip_norm=float(norm) * 1.01), grads=GRADS[:1])
    assert_close(loose, jax.tree.map(lambda p, g: p - RATE * g, PARAMS, GRADS[0]))


def test_clipping_comes_before_decay():
    zero = jax.tree.map(np.zeros_like, PARAMS)
    got = train(settings(name='sgd', weight_decay=0.5, clip_norm=1e-3), grads=[zero])
    np.testing.assert_allclose(
        got['head']['conv']['kernel'], PARAMS['head']['conv']['kernel'] * (1 - RATE / 2), 1e-6
    )


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_bfloat16_gradients_leave_everything_float32(name):
    config = settings(name=name, weight_decay=0.1, clip_norm=1.0, factors=(('.*/bias', 2.0),))
    transform = optim.make(config, STEPS, PARAMS)
    grads = [jax.tree.map(lambda g: jnp.asarray(g, jnp.bfloat16), g) for g in GRADS]
    state = optim.apply(state_of(PARAMS, all=(transform, PARAMS)), 'all', transform, grads[0])
    arrays = jax.tree.leaves((state.params, state.opt_state))
    floats = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype('float32')}
    exact = [jax.tree.map(lambda g: g.astype(jnp.float32), g) for g in grads]
    assert_close(train(config, grads=grads), train(config, grads=exact), atol=1e-6)


# --- several optimisers ---------------------------------------------------------------------------


def test_two_optimisers_over_three_nets_with_one_frozen():
    params = {
        name: draw(i)['net'] for i, name in enumerate(('generator', 'discriminator', 'segmenter'))
    }
    grads = {name: draw(7 + i)['net'] for i, name in enumerate(params)}
    first = optim.make(settings(name='adam'), STEPS, {'generator': params['generator']})
    second = optim.make(settings(name='sgd'), STEPS, {'discriminator': params['discriminator']})
    state = state_of(params, first=(first, ['generator']), second=(second, ['discriminator']))
    structure = jax.tree.structure(state)

    @jax.jit
    def step(state):
        state = optim.apply(state, 'first', first, {'generator': grads['generator']})
        state = optim.apply(state, 'second', second, {'discriminator': grads['discriminator']})
        return state.replace(step=state.step + 1)

    once = optim.apply(state, 'first', first, {'generator': grads['generator']})
    jax.tree.map(np.testing.assert_array_equal, once.opt_state['second'], state.opt_state['second'])
    jax.tree.map(
        np.testing.assert_array_equal, once.params['discriminator'], params['discriminator']
    )
    assert once.step == 0
    after = step(step(state))
    assert after.step == 2 and jax.tree.structure(after) == structure
    jax.tree.map(np.testing.assert_array_equal, after.params['segmenter'], params['segmenter'])
    # With the same gradient twice: v = g, then 1.9 g; Adam moves by its rate along the sign.
    assert_close(
        after.params['discriminator'],
        jax.tree.map(
            lambda p, g: p - RATE * 2.9 * g, params['discriminator'], grads['discriminator']
        ),
    )
    assert_close(
        after.params['generator'],
        jax.tree.map(
            lambda p, g: p - RATE * 2 * np.sign(g), params['generator'], grads['generator']
        ),
    )


def test_make_reads_only_shapes():
    config = settings(name='adamw', weight_decay=0.1, factors=(('.*/kernel', 2.0),))
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    from_arrays, from_shapes = (optim.make(config, STEPS, p) for p in (PARAMS, shapes))
    state = from_arrays.init(PARAMS)
    got, want = (
        t.update(GRADS[0], state, PARAMS, step=jnp.int32(0))[0] for t in (from_shapes, from_arrays)
    )
    jax.tree.map(np.testing.assert_array_equal, got, want)


# --- averages -------------------------------------------------------------------------------------


def test_ema_is_the_recursion():
    average = PARAMS
    for t, p in enumerate(GRADS):
        average = jax.jit(optim.ema_update, static_argnums=2)(average, p, 0.9, t)
    want = jax.tree.map(
        lambda a, *ps: (
            0.9**STEPS * a + sum(0.1 * 0.9 ** (STEPS - 1 - t) * p for t, p in enumerate(ps))
        ),
        PARAMS,
        *GRADS,
    )
    assert_close(average, want)


@pytest.mark.parametrize('decay', [0.0, 0.9, 0.9999])
def test_debiased_ema_forgets_where_it_began(decay):
    average = jax.tree.map(lambda p: p + 100, PARAMS)
    for t, p in enumerate(GRADS):
        average = optim.ema_update(average, p, decay, jnp.int32(t), debias=True)
    weights = np.array([decay ** (STEPS - 1 - t) if t < STEPS - 1 else 1.0 for t in range(STEPS)])
    weights /= weights.sum()
    assert_close(
        average,
        jax.tree.map(lambda *ps: sum(w * p for w, p in zip(weights, ps)), *GRADS),
        atol=2e-5,
    )


def test_ema_keeps_dtypes_and_float32_precision():
    average = {'x': jnp.ones(3), 'y': jnp.ones(3, jnp.bfloat16)}
    new = optim.ema_update(average, {'x': jnp.zeros(3, jnp.bfloat16), 'y': jnp.zeros(3)}, 0.9999, 0)
    assert new['x'].dtype == jnp.float32 and new['y'].dtype == jnp.bfloat16
    np.testing.assert_allclose(new['x'], 0.9999, rtol=1e-7)
