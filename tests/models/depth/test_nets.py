"""Depth nets: published counts, sizes, and whole forward passes against NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import count, random_variables, shapes_of

from segjax import models
from segjax.errors import InputError
from segjax.models.depth import decoder, depth_and_segmentation
from segjax.models.depth.decoder import (
    PYRAMIDS,
    DepthDecoder,
    SegmentationDecoder,
    pyramid,
    sigmoid_to_depth,
    sigmoid_to_disparity,
)
from segjax.models.depth.depth_and_segmentation import DepthAndSegmentation
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2

KEY = jax.random.key(0)
IMAGENET_STD = (0.229, 0.224, 0.225)
RELEASES = pytest.mark.parametrize('release', ['tf', 'pytorch'])
TINY = {
    'dispnet': DispNet(width=0.125),
    'monodepth2': Monodepth2(width=0.125),
    'klingner': DepthAndSegmentation(5, width=0.125),
}


class Decoder:
    """A decoder on maps of given shapes, with the call of a net."""

    def __init__(self, module, shapes, size):
        self.module, self.shapes, self.size = module, shapes, size

    def init_with_output(self, key, x, train):
        return self.module.init_with_output(
            key, [jnp.zeros(shape) for shape in self.shapes], self.size
        )


def maps_of(size, channels, examples=1):
    """Shapes of an encoder's maps at strides 2, 4, ..."""
    return [(examples, *(-(-n // 2**i) for n in size), c) for i, c in enumerate(channels, start=1)]


# --- counts and sizes -------------------------------------------------------------------------------------------------


@RELEASES
def test_both_releases_of_dispnet_have_the_published_count(release):
    assert count(shapes_of(DispNet(release))[1]) == 31_596_900


@pytest.mark.parametrize(
    'net, expected',
    [
        (Monodepth2(18), {'resnet': 11_176_512, 'decoder': 3_152_724}),
        (Monodepth2(50), {'resnet': 23_508_032, 'decoder': 9_014_100}),
        (
            DepthAndSegmentation(20),
            {
                'resnet': 11_176_512,
                'depth_decoder': 3_152_724,
                # The heads, of 16, 32, 64 and 128 channels, give way to one of 20 classes.
                'segmentation_decoder': 3_152_724
                - (9 * (16 + 32 + 64 + 128) + 4)
                + (9 * 16 * 20 + 20),
            },
        ),
    ],
)
def test_nets_on_a_resnet_have_the_published_counts(net, expected):
    params = shapes_of(net)[1]['params']
    assert {name: count({'params': part}) for name, part in params.items()} == expected


@functools.cache
def tiny_shapes(name, size=(37, 50)):
    """(outputs, variables) of a tiny net in bfloat16."""
    return shapes_of(TINY[name].clone(dtype=jnp.bfloat16), (2, *size, 3))


@pytest.mark.parametrize('name, size', [(name, (37, 50)) for name in TINY] + [('dispnet', (3, 2))])
def test_scale_s_is_the_image_halved_s_times_rounded_up(name, size):
    outputs, _ = tiny_shapes(name, size)
    expected = [(2, *(-(-n // 2**s) for n in size)) for s in range(4)]
    assert [d.shape for d in outputs['disparity']] == expected
    if name == 'klingner':
        assert outputs['logits'].shape == (2, *size, 5)


@pytest.mark.parametrize('name', TINY)
def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(name):
    assert {x.dtype for x in jax.tree.leaves(tiny_shapes(name))} == {np.dtype('float32')}


# --- disparity and depth ----------------------------------------------------------------------------------------------


def test_depth_of_a_sigmoid_is_the_formula():
    sigmoid = np.linspace(0, 1, 11)
    depth = np.array([1 / (1 / 80 + (1 / 0.5 - 1 / 80) * y) for y in sigmoid])
    np.testing.assert_allclose(sigmoid_to_depth(sigmoid, 0.5, 80), depth, rtol=1e-12)
    np.testing.assert_allclose(sigmoid_to_disparity(sigmoid, 0.5, 80), 1 / depth, rtol=1e-12)
    np.testing.assert_allclose([depth[0], depth[-1]], [80, 0.5])


def test_every_net_says_what_its_disparities_mean():
    d = np.float32([[0.01, 0.25, 1.0]])
    np.testing.assert_allclose(DispNet().depth_of(d), [[100, 4, 1]])
    for net in (
        Monodepth2(min_depth=0.5, max_depth=80.0),
        DepthAndSegmentation(5, min_depth=0.5, max_depth=80.0),
    ):
        np.testing.assert_allclose(net.depth_of(d), 1 / (1 / 80 + (2 - 1 / 80) * d), rtol=1e-6)
    nearer = TINY['monodepth2'].depth_of(np.float32([0, 0.001, 0.5, 1]))
    np.testing.assert_allclose([nearer[0], nearer[-1]], [100, 0.1], rtol=1e-6)
    assert (np.diff(nearer) < 0).all()


# --- layers, in NumPy -------------------------------------------------------------------------------------------------


def conv(x, layer, strides=1, release='pytorch', pad=None):
    """Correlation; zeros on both sides as the release pads them, or around a map padded by `pad` already."""
    kernel = layer['kernel']
    k = len(kernel)
    sizes = [-(-n // strides) for n in x.shape[1:3]]
    if pad is not None:
        x, sizes = pad(x), x.shape[1:3]
    else:
        sides = [(k // 2, k)] * 2
        if release == 'tf':
            total = [
                max((m - 1) * strides + k - n, 0) for m, n in zip(sizes, x.shape[1:3], strict=True)
            ]
            sides = [(n // 2, k) for n in total]
        x = np.pad(x, ((0, 0), *sides, (0, 0)))
    y = 0
    for t, u in np.ndindex(k, k):
        y = y + x[:, t::strides, u::strides][:, : sizes[0], : sizes[1]] @ kernel[t, u]
    return y + layer.get('bias', 0)


def up_conv(x, kernel, padding):
    """Every input pixel adds its kernel to the output."""
    b, h, w, _ = x.shape
    y = np.zeros((b, 2 * h, 2 * w, kernel.shape[3]))
    for i, j, t, u in np.ndindex(h, w, *kernel.shape[:2]):
        row, column = 2 * i + t - padding, 2 * j + u - padding
        if 0 <= row < 2 * h and 0 <= column < 2 * w:
            y[:, row, column] += x[:, i, j] @ kernel[t, u]
    return y


def enlarge(x, size, half_pixel):
    """Bilinear, from half the size rounded up; samples are clamped to the map."""
    for axis, n in zip((1, 2), size, strict=True):
        position = (np.arange(n) + 0.5) / 2 - 0.5 if half_pixel else np.arange(n) / 2
        position = np.clip(position, 0, x.shape[axis] - 1)
        x = np.apply_along_axis(
            lambda row, p=position: np.interp(p, np.arange(len(row)), row), axis, x
        )
    return x


def relu(x):
    return np.maximum(x, 0)


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


@functools.cache
def dispnet_variables():
    return random_variables(TINY['dispnet'])


@RELEASES
def test_dispnet_is_its_layers(release):
    net, image, variables = (
        DispNet(release, width=0.125),
        uniform(1, 20, 13, 3),
        dispnet_variables(),
    )
    p, tf = variables['params'], release == 'tf'
    y, skips = 2.0 * image - 1, []
    for level in range(1, 8):
        y = relu(conv(y, p[f'conv{level}_0'], 2, release))
        y = relu(conv(y, p[f'conv{level}_2'], 1, release))
        skips.append(y)
    expected = {}
    for level in range(7, 0, -1):
        h, w = (skips[level - 2] if level > 1 else image).shape[1:3]
        up = p[f'upconv{level}_0']
        joined = [relu(up_conv(y, up['kernel'], 0 if tf else 1)[:, :h, :w] + up['bias'])]
        joined += [skips[level - 2]] if level > 1 else []
        joined += [enlarge(expected[level], (h, w), half_pixel=not tf)] if level < 4 else []
        y = relu(conv(np.concatenate(joined, -1), p[f'iconv{level}_0']))
        if level <= 4:
            expected[level - 1] = 10 * sigmoid(conv(y, p[f'predict_disp{level}_0'])) + 0.01
    outputs = jax.jit(functools.partial(net.apply, train=False))(variables, image)
    for scale, d in enumerate(outputs['disparity']):
        assert np.ptp(expected[scale]) > 0.1
        np.testing.assert_allclose(d, expected[scale][..., 0], rtol=1e-4)
        assert d.min() >= 0.01 and d.max() <= 10.01


def test_decoders_are_their_layers():
    def reflect(x):
        return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), 'reflect')

    size, channels = (7, 10), (5, 4, 3)
    shapes = maps_of(size, (2, 4, 6), examples=2)  # 4 x 5, 2 x 3 and 1 x 2
    features = [uniform(*shape, seed=i) - 0.5 for i, shape in enumerate(shapes)]
    depth, classes = DepthDecoder(channels, num_scales=2), SegmentationDecoder(3, channels)
    variables = [
        random_variables(Decoder(module, shapes, size), seed=i)
        for i, module in enumerate((depth, classes))
    ]

    def maps(p):
        x, decoded = features[-1], []
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
    p, x = variables[0]['params'], maps(variables[0]['params'])
    assert len(sigmoids) == 2
    for scale, y in enumerate(sigmoids):
        np.testing.assert_allclose(
            y, sigmoid(conv(x[scale], p[f'dispconv_{scale}'], pad=reflect))[..., 0], atol=1e-5
        )
    p = variables[1]['params']
    np.testing.assert_allclose(logits, conv(maps(p)[0], p['segconv_0'], pad=reflect), atol=1e-5)


def test_names_are_those_of_the_releases():
    names = {'.'.join(path[1:-1]) for path in flatten_dict(dict(tiny_shapes('dispnet')[1]))}
    expected = {f'conv{i}_{j}' for i in range(1, 8) for j in (0, 2)} | {
        f'predict_disp{i}_0' for i in range(1, 5)
    }
    assert names == expected | {f'{kind}{i}_0' for kind in ('upconv', 'iconv') for i in range(1, 8)}
    decoder = tiny_shapes('monodepth2')[1]['params']['decoder']
    assert set(decoder) == {f'upconv_{i}_{j}' for i in range(5) for j in (0, 1)} | {
        f'dispconv_{s}' for s in range(4)
    }


# --- foreign encoders -------------------------------------------------------------------------------------------------


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
    assert [y.shape for y in sigmoids] == [(1, 50, 65), (1, 25, 33), (1, 13, 17), (1, 7, 9)]


def test_the_stem_is_tapped_before_its_relu_and_the_stages_after():
    features = {name: np.float32([-1, 2]) for name in PYRAMIDS['7x7']}
    stem, *stages = pyramid(features)
    np.testing.assert_array_equal(stem, [0, 2])
    assert [y.tolist() for y in stages] == [[-1, 2]] * 4


def test_a_dilated_encoder_has_maps_of_one_size_below_each_other():
    shapes = [(1, 17, 25, 4), (1, 9, 13, 4), (1, 5, 7, 4), (1, 5, 7, 4), (1, 5, 7, 4)]
    logits, _ = shapes_of(Decoder(SegmentationDecoder(3, (4, 4, 4, 4, 4)), shapes, (33, 50)))
    assert logits.shape == (1, 33, 50, 3)


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


# --- training ---------------------------------------------------------------------------------------------------------


def test_running_statistics_follow_the_normalised_batch_in_training_alone():
    """One look at the first batch norm: what is behind it does not compile."""
    net, image = TINY['monodepth2'], uniform(2, 16, 24, 3)
    variables = random_variables(net, image.shape)

    def statistics(variables, train):
        return net.apply(variables, image, train=train, mutable=['batch_stats'])[1]['batch_stats'][
            'resnet'
        ]['bn1']

    before = variables['batch_stats']['resnet']['bn1']
    y = conv((image - 0.45) / 0.225, variables['params']['resnet']['conv1'], 2)
    after, resting = jax.jit(
        lambda variables: (statistics(variables, True), statistics(variables, False))
    )(variables)
    np.testing.assert_allclose(
        after['mean'], 0.9 * before['mean'] + 0.1 * y.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        after['var'], 0.9 * before['var'] + 0.1 * y.var((0, 1, 2)), rtol=1e-4
    )
    jax.tree.map(np.testing.assert_array_equal, resting, before)


def test_batch_norms_sum_over_devices():
    net, variables = TINY['monodepth2'].clone(axis_name='data'), tiny_shapes('monodepth2')[1]

    def run(variables, image):
        return net.apply(variables, image, train=True, mutable=['batch_stats'])

    jaxpr = jax.make_jaxpr(run, axis_env=[('data', 8)])(variables, jnp.zeros((1, 32, 32, 3)))
    assert str(jaxpr).count('= psum') == 2 * 20  # the mean, then the deviations from it


class Power(nn.Module):
    """Stands in for a decoder: w times the sum of all maps to some power, and the bias of the heads."""

    power: int
    head_bias: float

    @nn.compact
    def __call__(self, features, size):
        w = self.param('w', nn.initializers.zeros, ())
        return w * sum((y**self.power).sum() for y in features) + self.head_bias


@pytest.fixture
def stand_ins(monkeypatch):
    """The ResNet's maps are the normalised image, times 1 to 5; the decoders are Power(2) and Power(3)."""

    def resnet(image):
        return None, {name: (i + 1) * image for i, name in enumerate(PYRAMIDS['7x7'])}

    both = depth_and_segmentation
    monkeypatch.setattr(decoder, 'make_resnet', lambda *args, **fields: resnet)
    monkeypatch.setattr(
        both, 'DepthDecoder', lambda *args, head_bias, dtype, name: Power(2, head_bias, name=name)
    )
    monkeypatch.setattr(both, 'SegmentationDecoder', lambda *args, name: Power(3, 0.0, name=name))
    return {name: {'w': np.float32(0.5)} for name in ('depth_decoder', 'segmentation_decoder')}


def stand_in_maps(image):
    z = (image - np.array([0.485, 0.456, 0.406])) / np.array(IMAGENET_STD)
    return [np.maximum(z, 0), *((i + 1) * z for i in range(1, 5))]


def test_gradients_of_the_two_tasks_meet_in_the_shared_layers_with_their_factors(stand_ins):
    net, image = DepthAndSegmentation(3, gradient_factors=(0.75, 4.0)), uniform(1, 2, 3, 3)

    def loss(params, image):
        outputs = net.apply({'params': params}, image, train=True)
        return outputs['disparity'] + outputs['logits']

    own, shared = jax.jit(jax.grad(loss, (0, 1)))(stand_ins, image)
    maps = stand_in_maps(image)
    for_depth = sum((i + 1) * 2 * y for i, y in enumerate(maps))
    for_classes = sum((i + 1) * 3 * y**2 for i, y in enumerate(maps))
    expected = 0.5 * (0.75 * for_depth + 4.0 * for_classes) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(shared, expected, rtol=1e-4)
    unscaled = [sum((y**power).sum() for y in maps) for power in (2, 3)]
    np.testing.assert_allclose([own[name]['w'] for name in stand_ins], unscaled, rtol=1e-4)


def test_the_decoders_start_is_torchs_but_for_the_heads_biases():
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


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', models.NETS['depth'])
def test_schema_is_a_config_and_builds_the_default_net(name):
    args = models.schema('depth', name)
    assert not set(args) & {'dtype', 'axis_name', 'name', 'parent'}
    net = models.build(
        'depth', name, dtype='bfloat16', axis_name=None, **ml_collections.ConfigDict(args)
    )
    assert net == models.NETS['depth'][name](dtype=jnp.dtype('bfloat16'), axis_name=None)


def test_schemas_list_what_a_config_may_say():
    assert models.schema('depth', 'dispnet') == {'release': 'tf', 'width': 1.0}
    assert models.schema('depth', 'monodepth2') == {
        'num_layers': 18,
        'min_depth': 0.1,
        'max_depth': 100.0,
        'width': 1.0,
    }


@pytest.mark.parametrize(
    'build, message',
    [
        (
            lambda: models.build('depth', 'dispnets', dtype='float32', axis_name=None),
            "did you mean 'dispnet'",
        ),
        (lambda: models.schema('depth', 'monodepth'), "did you mean 'monodepth2'"),
        (
            lambda: models.build('depth', 'dispnet', dtype='float32', axis_name=None, with_=1),
            "did you mean 'width'",
        ),
        (lambda: shapes_of(DispNet('torch')), 'one of pytorch, tf'),
        (lambda: shapes_of(Monodepth2(min_depth=2.0, max_depth=1.0)), '0 < min_depth < max_depth'),
        (lambda: shapes_of(Monodepth2(num_layers=20)), 'one of .18, 34, 50'),
        (lambda: shapes_of(DepthAndSegmentation(5, gradient_factors=(1.0,))), 'two factors'),
        (lambda: pyramid({}, '5x5'), 'one of 3x3, 7x7'),
    ],
)
def test_impossible_input_is_explained(build, message):
    with pytest.raises(InputError, match=message):
        build()
