"""Two-stream net: the published layer table, and which stream reads which part of the encoder."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import shapes_at, size

from segjax.errors import InputError
from segjax.models.generators.two_stream import TwoStream


def conv(side, inputs, outputs, bias=True):
    return side**2 * inputs * outputs + bias * outputs


def expected_parts(classes, norm, dilated):
    """Counts the parameters by the layer table: (encoder, context stream, object stream)."""
    scale_and_shift = 2 if norm == 'batch' else 0

    def residual_blocks(number, bias=True):
        return number * (2 * conv(3, 256, 256, bias) + 2 * scale_and_shift * 256)

    def pairs(sizes):
        """A 1x1 and a 4x4 convolution with a norm each."""
        return sum(conv(1, i, o) + conv(4, i, o) + 2 * scale_and_shift * o for i, o in sizes)

    encoder = conv(7, 2 * classes, 64) + scale_and_shift * 64
    encoder += pairs([(64, 96), (96, 128), (128, 256)])
    encoder += residual_blocks(3) + dilated * residual_blocks(2, bias=False)
    context = residual_blocks(3) + pairs([(256, 128), (256, 96), (192, 64), (128, 32)])
    context += conv(3, 32, classes)
    object_ = residual_blocks(3) + pairs([(256, 128), (128, 96), (96, 64), (64, 32)])
    object_ += conv(3, 32, 1)
    return encoder, context, object_


@pytest.mark.parametrize(
    'classes, norm, dilated, parameters',
    [(35, 'batch', False, 13_896_484), (49, 'instance', True, 16_333_810)],
)
def test_parameters_of_the_published_trainings(classes, norm, dilated, parameters):
    net = TwoStream(classes, norm=norm, dilated=dilated)
    logits, variables = shapes_at(net, 2, 256, 256, 2 * classes, train=True)
    chex.assert_shape(logits['context'], (2, 256, 256, classes))
    chex.assert_shape(logits['object'], (2, 256, 256, 1))
    params = variables['params']
    context = size({k: v for k, v in params.items() if k.startswith('context')})
    object_ = size({k: v for k, v in params.items() if k.startswith('object')})
    encoder = size(params) - context - object_
    assert (encoder, context, object_) == expected_parts(classes, norm, dilated)
    assert size(params) == parameters
    assert ('batch_stats' in variables) == (norm == 'batch')


def test_initialisation_is_torchs_default():
    net = TwoStream(5, width=1 / 4, blocks=1)
    params = jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))(
        jnp.zeros((1, 32, 32, 10))
    )['params']
    layer = params['context_head']
    limit = (9 * 8) ** -0.5
    for leaf in ('kernel', 'bias'):
        values = np.abs(layer[leaf])
        assert limit / 2 < values.max() < limit
    np.testing.assert_array_equal(params['stem_norm']['scale'], 1)
    np.testing.assert_array_equal(params['stem_norm']['bias'], 0)


@pytest.mark.slow
def test_the_object_stream_alone_ignores_the_skips():
    """Changes the decoder of a stream: the logits of the other stream stay."""
    net = TwoStream(5, width=1 / 8, blocks=1, norm='instance')
    condition = np.random.default_rng(0).normal(size=(1, 32, 32, 10)).astype(np.float32)
    params = jax.jit(lambda x: net.init(jax.random.key(0), x, train=True))(condition)['params']
    apply = jax.jit(lambda p: net.apply({'params': p}, condition, train=True))
    before = apply(params)
    for stream, other in (('context', 'object'), ('object', 'context')):
        changed = {k: jax.tree.map(lambda x: 2 * x, v) for k, v in params.items() if stream in k}
        after = apply({**params, **changed})
        np.testing.assert_array_equal(after[other], before[other])
        assert np.any(after[stream] != before[stream])


def test_widths_scale_and_sizes_are_multiples_of_16():
    logits, variables = shapes_at(TwoStream(5, width=1 / 8), 1, 32, 80, 10, train=True)
    chex.assert_shape(logits['context'], (1, 32, 80, 5))
    assert variables['params']['down_2']['deep_conv']['kernel'].shape == (4, 4, 16, 32)
    with pytest.raises(InputError, match='multiples of 16'):
        shapes_at(TwoStream(5), 1, 250, 256, 10, train=True)
