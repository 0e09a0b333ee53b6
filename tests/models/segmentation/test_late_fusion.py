"""Late fusion: every image has a net of its own, and the logits are averaged."""

import jax
import numpy as np
import pytest

from segjax import models
from segjax.models.segmentation.late_fusion import LateFusion


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'fields'),
    [
        ('erfnet', {'width': 0.25, 'blocks': (1, 1, 0, 0)}),
        ('fcn', {'width': 0.0625, 'output_stride': 16}),
    ],
)
def test_logits_are_the_mean_of_both_nets(name, fields):
    net = models.build('segmentation', name, num_classes=5, dtype='float32', **fields)
    fused = LateFusion(net, ('color', 'hha'))
    images = jax.random.normal(jax.random.key(0), (2, 32, 48, 6))
    variables = fused.lazy_init(jax.random.key(1), images, train=False)
    # Scores of FCN begin as 0, so all parameters are moved.
    variables = jax.tree.map(lambda value: value + 0.01, variables)
    logits = jax.jit(fused.apply, static_argnames='train')(variables, images, train=False)['logits']

    apply = jax.jit(net.apply, static_argnames='train')
    expected = 0
    for stream, image in (('color', images[..., :3]), ('hha', images[..., 3:])):
        own = {kind: values[stream] for kind, values in variables.items()}
        expected = expected + apply(own, image, train=False)['logits'] / 2
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_streams_have_parameters_and_statistics_of_their_own():
    fields = {'width': 0.25, 'blocks': (1, 1, 0, 0)}
    net = models.build('segmentation', 'erfnet', num_classes=5, dtype='float32', **fields)
    fused = LateFusion(net, ('color', 'hha'))
    images = jax.random.normal(jax.random.key(0), (2, 16, 24, 6))
    variables = fused.lazy_init(jax.random.key(1), images, train=False)
    rngs = {'dropout': jax.random.key(2)}
    apply = jax.jit(fused.apply, static_argnames=('train', 'mutable'))
    _, updates = apply(variables, images, train=True, rngs=rngs, mutable=('batch_stats',))
    for kind in ('params', 'batch_stats'):
        assert set(variables[kind]) == {'color', 'hha'}
    color = jax.tree.leaves(updates['batch_stats']['color'])
    hha = jax.tree.leaves(updates['batch_stats']['hha'])
    assert any(np.any(a != b) for a, b in zip(color, hha, strict=True))


def test_auxiliary_heads_are_averaged():
    net = models.build('segmentation', 'bisenet', num_classes=5, dtype='float32', width=0.25)
    fused = LateFusion(net, ('color', 'hha'))
    outputs = jax.eval_shape(
        lambda key, x: fused.init_with_output(key, x, train=False)[0],
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 64, 64, 6), np.float32),
    )
    assert set(outputs) == {'logits', 'aux'}
