"""DeepLab, first two versions: names, dilations, and the largest of several scales."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import random_variables, shapes_of

from segjax.errors import InputError
from segjax.models.layers import Conv
from segjax.models.segmentation.deeplab import ASPP, DeepLabLargeFOV, DeepLabV2
from segjax.ops import resize

IMAGE = np.random.default_rng(0).standard_normal((1, 33, 40, 3)).astype(np.float32)


def names(variables):
    return {'/'.join(path[:-1]) for path in flatten_dict(variables['params'])}


def test_largefov_has_the_layers_of_the_caffe_net():
    outputs, variables = shapes_of(
        DeepLabLargeFOV(21, taps=('conv1_1', 'pool3', 'pool5')), (1, 321, 321, 3)
    )
    vgg = {
        f'vgg/conv{i}_{j}' for i, n in enumerate((2, 2, 3, 3, 3), start=1) for j in range(1, n + 1)
    }
    assert names(variables) == vgg | {'fc6', 'fc7', 'fc8'}
    sizes = {name: y.shape[1:] for name, y in outputs['features'].items()}
    assert sizes == {'conv1_1': (321, 321, 64), 'pool3': (41, 41, 256), 'pool5': (41, 41, 512)}


def test_largefov_predicts_on_every_eighth_pixel_and_drops_single_elements():
    net = DeepLabLargeFOV(2, width=1 / 32)
    variables = random_variables(net)

    @jax.jit
    def run(variables):
        outputs, inner = net.apply(variables, IMAGE, train=False, capture_intermediates=True)
        return outputs['logits'], inner['intermediates']['fc8']['__call__'][0]

    logits, small = run(variables)
    # Sizes are rounded up: the sixth column lies on pixel 40, behind the last.
    chex.assert_shape(small, (1, 5, 6, 2))
    np.testing.assert_allclose(logits[:, ::8, ::8], small[:, :, :5], atol=1e-6)
    dropout = {'dropout': jax.random.key(0)}
    jaxpr = str(jax.make_jaxpr(lambda v: net.apply(v, IMAGE, train=True, rngs=dropout))(variables))
    assert 'bool[1,5,6,32]' in jaxpr


def test_aspp_is_the_sum_of_its_branches():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 9, 8, 2)).astype(np.float32)
    params = {
        f'c{i}': {
            'kernel': rng.standard_normal((3, 3, 2, 4)).astype(np.float32),
            'bias': rng.standard_normal(4).astype(np.float32),
        }
        for i in range(2)
    }
    expected = np.zeros((1, 9, 8, 4))
    for i, rate in enumerate((2, 5)):
        padded = np.pad(x, ((0, 0), (rate, rate), (rate, rate), (0, 0)))
        expected += params[f'c{i}']['bias']
        for r, s in np.ndindex(3, 3):
            expected += (
                padded[:, r * rate : r * rate + 9, s * rate : s * rate + 8]
                @ params[f'c{i}']['kernel'][r, s]
            )
    np.testing.assert_allclose(
        ASPP(4, (2, 5), Conv).apply({'params': params}, x), expected, atol=1e-5
    )


def test_v2_takes_the_largest_logit_over_scales():
    fields = dict(num_layers=18, rates=(2,), width=1 / 16)
    single = DeepLabV2(3, **fields)
    several = DeepLabV2(3, **fields, scales=(0.5,))
    variables = random_variables(single)
    apply = jax.jit(lambda net, v, x: net.apply(v, x, train=False), static_argnums=0)
    whole = apply(single, variables, IMAGE)['logits']
    half = apply(single, variables, np.asarray(resize.bilinear(IMAGE, (17, 21))))['logits']
    half = resize.bilinear(half, (33, 40))
    outputs = apply(several, variables, IMAGE)
    scale = 1e-5 * np.abs(whole).max()
    np.testing.assert_allclose(outputs['aux']['scale_1'], whole, atol=scale)
    np.testing.assert_allclose(outputs['aux']['scale_0.5'], half, atol=scale)
    np.testing.assert_allclose(outputs['logits'], np.maximum(whole, half), atol=scale)


@pytest.mark.parametrize('scale, pixels', [(0.75, 241), (0.5, 161)])
def test_v2_scales_321_pixels_to_sizes_of_the_same_form(scale, pixels):
    """Checks sizes of the form 8 k + 1, as published. 0.5 x 321 = 160.5 is no size."""
    sizes = []
    net = DeepLabV2(3, num_layers=18, rates=(2,), width=1 / 16, scales=(scale,))

    def note(call, args, kwargs, context):
        if context.module.name == 'conv1' and context.method_name == '__call__':
            sizes.append(args[0].shape[1:3])
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(
            lambda: net.init(jax.random.key(0), jnp.zeros((1, 321, 321, 3)), train=False)
        )
    assert sizes[0] == (321, 321) and (pixels, pixels) in sizes and pixels % 8 == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    'net',
    [DeepLabLargeFOV(3, width=1 / 32), DeepLabV2(3, num_layers=18, width=1 / 16, scales=(0.6,))],
)
@pytest.mark.parametrize('stride', [8, 3])
def test_logits_of_some_pixels_are_those_of_all_pixels_there(net, stride):
    variables = random_variables(net)
    args = dict(train=True, rngs={'dropout': jax.random.key(0)}, mutable=['batch_stats'])
    whole, _ = net.apply(variables, IMAGE, **args)
    some, _ = net.clone(logit_stride=stride).apply(variables, IMAGE, **args)
    scale = 1e-6 * np.abs(whole['logits']).max()
    for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b[:, ::stride, ::stride], atol=scale)
    evaluated = net.clone(logit_stride=stride).apply(variables, IMAGE, train=False)
    chex.assert_shape(evaluated['logits'], (1, *IMAGE.shape[1:3], 3))


def test_v2_names():
    _, variables = shapes_of(DeepLabV2(5, num_layers=50))
    assert {n for n in names(variables) if not n.startswith('resnet/')} == {
        f'aspp/c{i}' for i in range(4)
    }


def test_impossible_scales_are_explained():
    with pytest.raises(InputError, match='above 0'):
        shapes_of(DeepLabV2(5, num_layers=18, scales=(0.5, 0.0)))
