"""The shape classifier: parameters, the two places of the gate, published weights, training."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import count, random_variables, shapes_of

from segjax import models, pretrained
from segjax.errors import InputError
from segjax.models.backbones import efficientnet
from segjax.models.backbones.efficientnet import EfficientNet, Scaling
from segjax.models.classification.shape_classifier import ShapeClassifier

PLANES = (1, 32, 32, 2)
PARAMETERS = {'b7': 63_991_840, 'lite0': 4_652_008 - 920 * 1281}
"""Backbone -> parameters with 80 classes and without a gate."""
FRONT = 3 * 3 * 2 * 6 + 6
"""Parameters of the gate in front: two planes to two halves of three channels."""

Net = functools.partial(ShapeClassifier, forms='naive')


@pytest.fixture
def shallow(monkeypatch):
    """Reduces lite0 to two stages of three blocks, with an eighth of the channels."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
    monkeypatch.setitem(efficientnet.VARIANTS, 'lite0', Scaling(1 / 8, 1.0, 0.2, lite=True))


def stem_difference(channels):
    """Returns the additional parameters of a gated stem of two planes over a stem of RGB."""
    return (3 * 3 * 2 * 2 * channels + 2 * channels) - 3 * 3 * 3 * channels


@pytest.mark.parametrize('backbone, stem', [('b7', 64), ('lite0', 32)])
def test_parameters_are_those_of_the_backbone_and_of_the_gate(backbone, stem):
    plain = PARAMETERS[backbone]
    assert count(shapes_of(EfficientNet(80, backbone, forms='naive'))[1]) == plain
    assert count(shapes_of(Net(80, backbone, 'front'), PLANES)[1]) == plain + FRONT
    expected = plain + stem_difference(stem)
    assert count(shapes_of(Net(80, backbone, 'stem'), PLANES)[1]) == expected


def test_parameters_of_the_papers_net():
    """The net of the paper: EfficientNet-B7 for the 80 classes of PS-COCO."""
    assert count(shapes_of(Net(80, 'b7', 'front'), PLANES)[1]) == 63_991_954
    assert count(shapes_of(Net(80, 'b7', 'stem'), PLANES)[1]) == 63_992_544


def test_the_registry_builds_it_with_docs_of_all_fields():
    net = models.build(
        'classifier',
        'shape_classifier',
        num_classes=80,
        dtype='float32',
        axis_name=None,
        backbone='b3',
        gated='stem',
    )
    assert net == ShapeClassifier(80, 'b3', 'stem', dtype=jnp.dtype('float32'))
    choice = models.net_choice('classifier', 'shape_classifier', 'Net that classifies shapes.')
    fields = choice.options['shape_classifier']
    assert fields['backbone'].default == 'lite0' and fields['gated'].default == 'front'
    assert all(field.doc.endswith('.') for field in fields.values())


def apply(net, variables, x):
    return net.apply(variables, x, train=False)['logits']


def test_in_front_the_net_is_efficientnet_on_the_gated_planes(shallow):
    x = np.random.default_rng(0).random((2, 32, 32, 2)).astype(np.float32)
    net = Net(5)
    variables = random_variables(net, x.shape)

    kernel, bias = (variables['params']['gate'][name] for name in ('kernel', 'bias'))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((2, 32, 32, 6))
    for r, s in np.ndindex(3, 3):
        y += padded[:, r : r + 32, s : s + 32] @ kernel[r, s]
    y += bias
    elu = np.where(y[..., :3] > 0, y[..., :3], np.expm1(y[..., :3]))
    gated = elu / (1 + np.exp(-y[..., 3:]))

    inner = {key: tree['net'] for key, tree in variables.items()}
    whole = EfficientNet(5, 'lite0', forms='naive')
    expected = jax.jit(functools.partial(apply, whole))(inner, gated.astype(np.float32))
    logits = jax.jit(functools.partial(apply, net))(variables, x)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize('gated', ['front', 'stem'])
def test_values_do_not_depend_on_jit_and_both_planes_matter(shallow, gated):
    x = np.random.default_rng(0).random((2, 32, 32, 2)).astype(np.float32)
    net = Net(5, gated=gated)
    variables = random_variables(net, x.shape)
    logits = apply(net, variables, x)
    chex.assert_shape(logits, (2, 5))
    jitted = jax.jit(functools.partial(apply, net))
    np.testing.assert_allclose(logits, jitted(variables, x), atol=1e-5)
    for plane in (0, 1):
        changed = x.copy()
        changed[..., plane] = 0
        assert np.abs(jitted(variables, changed) - logits).max() > 1e-3


@pytest.mark.parametrize('gated', ['front', 'stem'])
def test_a_step_of_training_has_finite_gradients_and_moves_the_gate(shallow, gated):
    x = np.zeros((4, 32, 32, 2), np.float32)
    x[:2, 8:20, 8:20] = 1  # two shapes, and two empty examples
    net = Net(5, gated=gated)
    variables = random_variables(net, x.shape)

    @jax.jit
    def gradient(params):
        def loss(params):
            outputs, _ = net.apply(
                {**variables, 'params': params},
                x,
                train=True,
                rngs={'dropout': jax.random.key(0)},
                mutable=['batch_stats'],
            )
            return (outputs['logits'] ** 2).mean()

        return jax.grad(loss)(params)

    gradients = gradient(variables['params'])
    chex.assert_tree_all_finite(gradients)
    gate = gradients['gate'] if gated == 'front' else gradients['net']['efficientnet']['conv_stem']
    assert np.abs(gate['kernel']).max() > 0 and np.abs(gate['bias']).max() > 0


def test_dropout_and_drop_connect_need_their_stream(shallow):
    x = np.random.default_rng(0).random((4, 32, 32, 2)).astype(np.float32)
    net = Net(5, dropout=0.5, drop_connect=0.5)
    variables = random_variables(net, x.shape)

    def train(**options):
        return net.apply(variables, x, train=True, mutable=['batch_stats'], **options)[0]['logits']

    with pytest.raises(Exception, match='dropout'):
        train()
    first, again, second = (train(rngs={'dropout': jax.random.key(seed)}) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0


def test_a_negative_dropout_is_that_of_the_backbone():
    def rates(net):
        seen = []

        def note(next_fun, args, kwargs, context):
            if isinstance(context.module, efficientnet.nn.Dropout):
                seen.append(context.module.rate)
            return next_fun(*args, **kwargs)

        with efficientnet.nn.intercept_methods(note):
            shapes_of(net, PLANES)
        return seen

    assert rates(Net(5, 'lite2'))[-1] == 0.3
    assert rates(Net(5, 'lite2', dropout=0.0))[-1] == 0.0


def released_tensors():
    """Returns random tensors of a lite0, in the names of EfficientNet-PyTorch."""
    variables = random_variables(EfficientNet(1000, 'lite0', forms='naive'))
    return pretrained.export_weights(variables, pretrained.SOURCES['efficientnet_pytorch'])


@pytest.mark.parametrize('gated', ['front', 'stem'])
def test_published_weights_fill_everything_but_gate_and_last_layer(shallow, gated):
    tensors = released_tensors()
    variables = shapes_of(Net(80, gated=gated), PLANES)[1]
    if gated == 'stem':
        # An import leaves the replaced stem out, and its tensor of the release has no place.
        del variables['params']['net']['efficientnet']['conv_stem']
        del tensors['_conv_stem.weight']
    tree, report = pretrained.import_weights(
        tensors, variables, pretrained.SOURCES['efficientnet_pytorch']
    )
    loaded = tree['params']['net']
    assert set(loaded) == {'efficientnet'} and 'gate' not in tree['params']
    assert set(loaded['efficientnet']) == set(variables['params']['net']['efficientnet'])
    assert set(report.unused) == {'_fc.weight', '_fc.bias'}
    assert any('classifier' in name for name in report.initialised)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'gated': 'stam'}, "did you mean 'stem'"),
        ({'backbone': 'lite5'}, 'did you mean'),
        ({'padding': 'sane'}, "did you mean 'same'"),
        ({'drop_connect': 1.0}, 'drop_connect'),
    ],
)
def test_impossible_fields_are_explained(fields, message, shallow):
    with pytest.raises(InputError, match=message):
        shapes_of(Net(5, **fields), PLANES)
