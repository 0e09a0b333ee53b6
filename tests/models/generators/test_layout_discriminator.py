"""Discriminator of layouts with features: sizes, parameters, its parts, both inputs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import size

from segjax.errors import InputError
from segjax.models.generators.layout import make_layout_encoder
from segjax.models.generators.layout_discriminator import LayoutDiscriminator
from segjax.models.generators.multiscale import (
    BICYCLE_FIELDS,
    MultiscaleDiscriminator,
    output_size,
)

K, C = 4, 5
TINY = dict(stride=4, layout_features=32, num_layers=1, width=1 / 16)


def shapes(net, layout, features):
    """Returns (outputs, variables) as shapes, for shapes of the inputs."""
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (layout, features)]
    return jax.eval_shape(
        lambda *x: net.init_with_output(jax.random.key(0), *x, train=True), *inputs
    )


def test_90_features_of_713_pixels():
    outputs, variables = shapes(LayoutDiscriminator(), (1, 713, 713, 20), (1, 90, 90, 1024))
    for scale, maps in enumerate(outputs):
        assert len(maps) == 4
        chex.assert_shape(maps[-1], (1, *output_size(90, 90, 2, scale, padding=1), 1))
    assert [maps[0].shape[1:] for maps in outputs] == [(45, 45, 64), (22, 22, 32)]

    count = 0
    channels = 20
    for features in (64, 128, 256):
        count += 3 * (9 * channels * features + features) + 9 * 3 * features**2 + features
        channels = features
    for first in (64, 32):
        channels = 256 + 1024
        for features in (first, 2 * first, 4 * first, 1):
            count += 16 * channels * features + features
            channels = features
    assert size(variables) == count


def test_the_patchgans_are_those_of_bicycle():
    _, variables = shapes(LayoutDiscriminator(), (1, 256, 256, K), (1, 32, 32, C))
    net = MultiscaleDiscriminator(**BICYCLE_FIELDS, num_layers=2)
    expected = jax.eval_shape(
        lambda: net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 256 + C)), train=True)
    )
    scales = {name: x for name, x in variables['params'].items() if name != 'layout'}
    chex.assert_trees_all_equal_shapes(scales, expected['params'])


@pytest.fixture(scope='module')
def tiny():
    """Returns a net, its variables, and a layout with features."""
    net = LayoutDiscriminator(**TINY)
    rng = np.random.default_rng(0)
    layout = np.eye(K, dtype=np.float32)[rng.integers(0, K, (2, 63, 50))]
    features = rng.normal(size=(2, 16, 13, C)).astype(np.float32)
    _, variables = shapes(net, layout.shape, features.shape)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.3, dict(variables)
    )
    return net, variables, layout, features


def test_it_is_the_encoded_layout_and_the_features_before_patchgans(tiny):
    net, variables, layout, features = tiny
    params = variables['params']
    encoded = jax.jit(
        lambda x: make_layout_encoder(net, True).apply({'params': params['layout']}, x)
    )(layout)
    pair = np.concatenate([encoded, features], -1)
    patches = MultiscaleDiscriminator(**BICYCLE_FIELDS, num_layers=1, width=1 / 16)
    scales = {'params': {name: params[name] for name in ('scale_0', 'scale_1')}}
    expected = jax.jit(lambda x: patches.apply(scales, x, train=True))(pair)
    got = jax.jit(lambda *x: net.apply(variables, *x, train=True))(layout, features)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_both_inputs_of_an_example_have_gradients(tiny):
    net, variables, layout, features = tiny

    def first_verdict(layout, features):
        verdicts = net.apply(variables, layout, features, train=True)
        return sum((maps[-1][0] ** 2).sum() for maps in verdicts)

    gradients = jax.jit(jax.grad(first_verdict, (0, 1)))(layout, features)
    chex.assert_tree_all_finite(gradients)
    for gradient in gradients:
        assert np.all(np.abs(gradient[0]).max((0, 1)) > 0)
        np.testing.assert_array_equal(gradient[1], 0)


def test_other_sizes_are_refused_with_a_remedy():
    net = LayoutDiscriminator(**TINY)
    with pytest.raises(InputError, match='layout_discriminator: features') as error:
        shapes(net, (1, 128, 256, K), (1, 16, 32, C))
    assert error.value.fix == 'set stride=8'
    with pytest.raises(InputError, match='fewer layers or fewer scales'):
        shapes(net, (1, 8, 8, K), (1, 2, 2, C))
    with pytest.raises(InputError, match='padding'):
        shapes(LayoutDiscriminator(**TINY, padding=0), (1, 32, 32, K), (1, 8, 8, C))
