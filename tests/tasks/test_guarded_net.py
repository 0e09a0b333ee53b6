"""Answers of a net behind a defence, SynFeat (Eq. 7.1) included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_split
from fakes import NUM_CLASSES
from toy_membership import eval_batch, make_config, make_state, make_system, numpy_posteriors

from segjax.ops import posteriors
from segjax.tasks import bicycle, feature_synthesis, guarded_net, supervised
from segjax.tasks.feature_synthesis import SEGMENTER


def answers(state, batch, **testing):
    system = make_system(testing=testing)
    return np.asarray(guarded_net.defended_query(system.victim, state, batch))


@pytest.mark.parametrize(
    ('testing', 'expected'),
    [
        (dict(defence='argmax'), posteriors.argmax),
        (dict(defence='temperature', strength=4.0), lambda p: posteriors.temperature(p, 4.0)),
        (dict(defence='top_k', strength=2.0), lambda p: posteriors.top_k(p, 2)),
    ],
)
def test_defences_are_functions_of_the_posteriors(testing, expected):
    state = make_state()
    batch = eval_batch()
    plain = answers(state, batch)
    np.testing.assert_allclose(
        plain, numpy_posteriors(state.params[SEGMENTER], batch['image']), atol=1e-5
    )
    np.testing.assert_allclose(answers(state, batch, **testing), expected(plain), atol=1e-5)


@pytest.mark.parametrize(
    'testing', [dict(defence='gaussian', strength=0.5), dict(defence='dropout', strength=0.5)]
)
def test_a_repeated_query_has_the_same_answer(testing):
    state = make_state()
    batch = eval_batch()
    first = answers(state, batch, **testing)
    turned = {key: value[::-1] for key, value in batch.items()}
    np.testing.assert_allclose(answers(state, turned, **testing)[::-1], first, atol=1e-5)
    np.testing.assert_allclose(first.sum(-1), 1, atol=1e-5)
    assert abs(first - answers(state, batch)).max() > 0.05
    assert abs(first - answers(state, batch, **testing, secret=1)).max() > 0.05


def test_dropout_drops_channels_of_the_layer_of_the_net():
    state = make_state()
    batch = eval_batch()
    np.testing.assert_allclose(
        answers(state, batch, defence='dropout', strength=0.0), answers(state, batch), atol=1e-5
    )
    # Without any channel only the bias of the last layer is left.
    nothing = answers(state, batch, defence='dropout', strength=0.999999)
    bias = np.asarray(state.params[SEGMENTER]['second']['bias'], np.float64)
    expected = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(nothing, np.broadcast_to(expected, nothing.shape), atol=1e-5)


@pytest.mark.parametrize(
    ('testing', 'words'),
    [
        (dict(defence='none', strength=0.5), 'none'),
        (dict(defence='argmax'), 'argmax'),
        (dict(defence='top_k', strength=3.0), 'top_k 3'),
        (
            dict(defence='gaussian', strength=0.5, gaussian_reading='all_classes'),
            'gaussian 0.5 (all_classes)',
        ),
    ],
)
def test_a_defence_in_words(testing, words):
    assert guarded_net.defence_in_words(make_config(testing=testing).testing) == words


# --- synthetic features ---------------------------------------------------------------------------


@functools.cache
def synthetic():
    """Returns the split toy net with its generator, and a state with both."""
    synthesis = toy_split.make_synthesis(toy_split.make_config())
    net = synthesis.net.init(jax.random.key(1), jnp.zeros((1, *toy_split.SIZE, 3)), train=False)
    made = guarded_net.new_generator(synthesis, jax.random.key(2))
    scale = feature_synthesis.scale_name(synthesis.tap)
    channels = toy_split.CHANNELS
    numbers = {'mean': jnp.linspace(-1, 1, channels), 'std': jnp.linspace(1, 3, channels)}
    made[scale] = {'params': {**made[scale]['params'], **numbers}}
    fields = supervised.fields_of({SEGMENTER: net, **made})
    return synthesis, supervised.fresh_state(*fields, {}, num_steps=0, ema=0.0)


def obfuscated(batch, factor, secret=0):
    """Returns the answers of the toy net behind SynFeat."""
    synthesis, state = synthetic()
    testing = dict(defence='obfuscate', strength=factor, secret=secret)
    guarded = guarded_net.GuardedNet(
        make_config(testing=testing), synthesis.spec, synthesis.net, synthesis
    )
    return np.asarray(jax.jit(functools.partial(guarded_net.defended_query, guarded))(state, batch))


def plain(batch):
    """Returns the answers of the toy net without a defence."""
    synthesis, state = synthetic()
    guarded = guarded_net.GuardedNet(make_config(), synthesis.spec, synthesis.net)
    own = (state.params[SEGMENTER], state.model_state[SEGMENTER])
    return np.asarray(guarded_net.query(guarded, *own, batch))


def test_synthetic_features_are_drawn_for_the_predicted_labels():
    """A factor of 1 leaves D(G(y)) alone: the generator, its statistics, and the decoder."""
    synthesis, state = synthetic()
    batch = eval_batch()
    label = plain(batch).argmax(-1)
    keys = posteriors.image_keys(guarded_net.secret_key(0), batch['image'], batch['size'])
    for row in range(3):
        layout = (label[row][..., None] == np.arange(NUM_CLASSES + 1)).astype(np.float32)
        code = jax.random.normal(keys[row], synthesis.gan.code_shape)
        generator = {'params': state.params[bicycle.GENERATOR]}
        drawn = synthesis.gan.generator.apply(generator, layout[None], code[None], train=False)
        scale = state.params[feature_synthesis.scale_name(synthesis.tap)]
        features = scale['mean'] + scale['std'] * drawn['image']
        net = {'params': state.params[SEGMENTER], **state.model_state[SEGMENTER]}
        image = jnp.zeros((1, *toy_split.SIZE, 3))
        given = {synthesis.tap: features}
        logits = synthesis.net.apply(net, image, train=False, given=given)['logits']
        expected = jax.nn.softmax(logits)[0]
        np.testing.assert_allclose(obfuscated(batch, 1.0)[row], expected, atol=1e-5)


@pytest.mark.parametrize('factor', [0.0, 0.75])
def test_obfuscated_posteriors_are_those_of_equation_7_1(factor):
    batch = eval_batch()
    real = plain(batch)
    synthetic_alone = obfuscated(batch, 1.0)
    mask = real.argmax(-1) != synthetic_alone.argmax(-1)
    assert 0.05 < mask.mean() < 0.95
    mixed = (1 - factor) * real + factor * synthetic_alone
    expected = np.where(mask[..., None], mixed, synthetic_alone)
    np.testing.assert_allclose(obfuscated(batch, factor), expected, atol=1e-5)


def test_a_repeated_query_has_the_same_synthetic_features():
    batch = eval_batch()
    first = obfuscated(batch, 0.75)
    turned = {key: value[::-1] for key, value in batch.items()}
    np.testing.assert_allclose(obfuscated(turned, 0.75)[::-1], first, atol=1e-5)
    assert abs(first - obfuscated(batch, 0.75, secret=1)).max() > 0.01
    np.testing.assert_allclose(first.sum(-1), 1, atol=1e-5)


def test_a_generator_of_another_net_is_refused():
    synthesis, state = synthetic()
    guarded = guarded_net.GuardedNet(make_config(), synthesis.spec, synthesis.net, synthesis)
    with pytest.raises(guarded_net.InputError, match='features of another net') as error:
        guarded_net.check_start(guarded, state)
    assert 'config.features.use=none' in error.value.fix
    scale = feature_synthesis.scale_name(synthesis.tap)
    own = feature_synthesis.fingerprint(state.params[SEGMENTER], state.model_state[SEGMENTER])
    fitting = {**state.params, scale: {**state.params[scale], 'net': own}}
    guarded_net.check_start(guarded, state.replace(params=fitting))
