"""Decoders on any encoder: layers in NumPy, depth of sigmoids, names, features that do not fit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from depth_nets import Decoder, conv, elu, maps_of, sigmoid, tiny_shapes, uniform
from nets import random_variables, shapes_of

from segjax import models
from segjax.errors import InputError
from segjax.models.depth.decoder import (
    PYRAMIDS,
    DepthDecoder,
    SegmentationDecoder,
    pyramid,
    sigmoid_to_depth,
    sigmoid_to_disparity,
)

KEY = jax.random.key(0)


def test_depth_of_a_sigmoid_is_the_formula():
    sigmoid = np.linspace(0, 1, 11)
    depth = np.array([1 / (1 / 80 + (1 / 0.5 - 1 / 80) * y) for y in sigmoid])
    np.testing.assert_allclose(sigmoid_to_depth(sigmoid, 0.5, 80), depth, rtol=1e-12)
    np.testing.assert_allclose(sigmoid_to_disparity(sigmoid, 0.5, 80), 1 / depth, rtol=1e-12)
    np.testing.assert_allclose([depth[0], depth[-1]], [80, 0.5])


def test_decoders_are_their_layers():
    def reflect(x):
        return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')

    size = (7, 10)
    channels = (5, 4, 3)
    shapes = maps_of(size, (2, 4, 6), examples=2)  # 4 x 5, 2 x 3 and 1 x 2
    features = [uniform(*shape, seed=i) - 0.5 for i, shape in enumerate(shapes)]
    depth = DepthDecoder(channels, num_scales=2)
    classes = SegmentationDecoder(3, channels)
    variables = [
        random_variables(Decoder(module, shapes, size), seed=i)
        for i, module in enumerate((depth, classes))
    ]

    def maps(p):
        x = features[-1]
        decoded = []
        for scale, (h, w) in ((2, (2, 3)), (1, (4, 5)), (0, size)):
            x = elu(conv(x, p[f'upconv_{scale}_0'], pad=reflect))
            x = x.repeat(2, 1).repeat(2, 2)[:, :h, :w]
            x = np.concatenate([x, features[scale - 1]], -1) if scale else x
            x = elu(conv(x, p[f'upconv_{scale}_1'], pad=reflect))
            decoded.append(x)
        return decoded[::-1]

    @jax.jit
    def run(variables, features):
        return depth.apply(variables[0], features, size), classes.apply(
            variables[1], features, size
        )

    sigmoids, logits = run(variables, features)
    p = variables[0]['params']
    x = maps(p)
    assert len(sigmoids) == 2
    for scale, y in enumerate(sigmoids):
        np.testing.assert_allclose(
            y, sigmoid(conv(x[scale], p[f'dispconv_{scale}'], pad=reflect))[..., 0], atol=1e-5
        )
    p = variables[1]['params']
    np.testing.assert_allclose(logits, conv(maps(p)[0], p['segconv_0'], pad=reflect), atol=1e-5)


def test_names_are_those_of_the_release():
    decoder = tiny_shapes('monodepth2')[1]['params']['decoder']
    convolutions = {f'upconv_{i}_{j}' for i in range(5) for j in (0, 1)}
    assert set(decoder) == convolutions | {f'dispconv_{s}' for s in range(4)}


def test_initialisation_is_torchs_except_the_biases_of_the_heads():
    @jax.jit
    def decoder():
        maps = [jnp.zeros(shape) for shape in maps_of((8, 8), (4, 4))]
        params = DepthDecoder((6, 4), 2, head_bias=5.0).init(KEY, maps, (8, 8))['params']
        return [params[name] for name in ('upconv_1_0', 'dispconv_1', 'dispconv_0')]

    inner, *heads = decoder()
    assert (
        0.5 / 6 < np.abs(inner['bias']).max() <= 1 / 6
        and 0.9 / 6 < np.abs(inner['kernel']).max() <= 1 / 6
    )
    for head, channels in zip(heads, (6, 4), strict=True):
        assert 0 < abs(float(head['bias'][0]) - 5) <= (9 * channels) ** -0.5


# --- foreign encoders -----------------------------------------------------------------------------


def test_a_decoder_works_on_the_context_path_of_a_bisenet():
    stem = '3x3'
    bisenet = models.build(
        'segmentation',
        'bisenet',
        num_classes=5,
        dtype='float32',
        axis_name=None,
        stem=stem,
        width=0.125,
        taps=PYRAMIDS[stem],
    )
    outputs, _ = shapes_of(bisenet, (1, 50, 65, 3))

    def decode(features):
        return DepthDecoder((8, 8, 4, 4, 2)).init_with_output(
            KEY, pyramid(features, stem), (50, 65)
        )

    sigmoids, _ = jax.eval_shape(decode, outputs['features'])
    chex.assert_shape(sigmoids, [(1, 50, 65), (1, 25, 33), (1, 13, 17), (1, 7, 9)])


def test_the_stem_is_tapped_before_its_relu_and_the_stages_after():
    features = {name: np.float32([-1, 2]) for name in PYRAMIDS['7x7']}
    stem, *stages = pyramid(features)
    np.testing.assert_array_equal(stem, [0, 2])
    assert [y.tolist() for y in stages] == [[-1, 2]] * 4


def test_a_dilated_encoder_has_maps_of_one_size_below_each_other():
    shapes = [(1, 17, 25, 4), (1, 9, 13, 4), (1, 5, 7, 4), (1, 5, 7, 4), (1, 5, 7, 4)]
    logits, _ = shapes_of(Decoder(SegmentationDecoder(3, (4, 4, 4, 4, 4)), shapes, (33, 50)))
    chex.assert_shape(logits, (1, 33, 50, 3))


@pytest.mark.parametrize(
    'shapes, num_scales, message',
    [
        (maps_of((64, 96), (4, 4, 4)), 2, '3 maps'),
        ([(1, 32, 48, 4), (1, 15, 24, 4)], 2, '15 x 24 below one of 32 x 48'),
        (maps_of((64, 96), (4, 4)), 3, '1 .. 2, one head a scale'),
    ],
)
def test_features_that_do_not_fit_are_explained(shapes, num_scales, message):
    with pytest.raises(InputError, match=message):
        shapes_of(Decoder(DepthDecoder((4, 4), num_scales), shapes, (64, 96)))
