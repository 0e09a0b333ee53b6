"""Pose nets: published counts, forward passes by scipy, and the direction of motions."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from nets import count, random_variables
from scipy import signal, special

from segjax import models
from segjax.errors import InputError
from segjax.models.depth import pose as pose_lib
from segjax.models.depth.pose import PoseCNN, PoseExpNet, PoseResNet

KEY = jax.random.key(0)
BEFORE_AND_AFTER = (True, False)
NETS = pytest.mark.parametrize('name', models.NETS['pose'])


class Called:
    """A pose net with the call of a net of one image, for the helpers."""

    def __init__(self, net, sources=None):
        self.net, self.sources = net, sources or len(net.earlier)

    def init_with_output(self, key, x, train):
        sources = jnp.zeros((len(x), self.sources, *x.shape[1:]))
        return self.net.init_with_output(key, x, sources, train=train)


def shapes_of(net, image=(1, 32, 32, 3), sources=None):
    called = Called(net, sources)
    return jax.eval_shape(lambda x: called.init_with_output(KEY, x, train=False), jnp.zeros(image))


def tiny(name, earlier=BEFORE_AND_AFTER, **args):
    given = {'earlier': earlier, 'dtype': 'float32', 'axis_name': None, 'width': 0.125}
    return models.build('pose', name, **{**given, **args})


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)


# --- counts and sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'net, expected',
    [
        (PoseExpNet(BEFORE_AND_AFTER), 1_590_668),
        (PoseExpNet(BEFORE_AND_AFTER, 'pytorch'), 1_590_668),
        (PoseExpNet(BEFORE_AND_AFTER, 'pytorch', masks=True), 3_340_388),
        (PoseExpNet(BEFORE_AND_AFTER, 'tf', masks=True), 2_639_180),
        (PoseCNN((True,)), 1_586_774),
        (PoseCNN(BEFORE_AND_AFTER), 1_586_774),
        (PoseResNet(BEFORE_AND_AFTER), 11_176_512 + 7 * 7 * 3 * 64 + 1_314_572),
    ],
)
def test_published_parameter_counts(net, expected):
    variables = shapes_of(net)[1]
    assert count(variables) == expected
    if isinstance(net, PoseResNet):
        assert count({'params': variables['params']['decoder']}) == 1_314_572


@NETS
@pytest.mark.parametrize('size, earlier', [((37, 50), (True, False, True)), ((2, 3), (False,))])
def test_motions_of_any_number_of_sources_from_images_of_any_size(name, size, earlier):
    outputs, variables = shapes_of(tiny(name, earlier, dtype='bfloat16'), (2, *size, 3))
    assert set(outputs) == {'motion'}
    chex.assert_shape(outputs['motion'], (2, len(earlier), 6))
    assert {x.dtype for x in jax.tree.leaves((outputs, variables))} == {np.dtype('float32')}, (
        'bfloat16 is inside'
    )


@pytest.mark.parametrize('release', ['tf', 'pytorch'])
def test_masks_are_of_the_image_halved_and_rounded_up(release):
    outputs, _ = shapes_of(
        tiny('pose_exp_net', release=release, masks=True, dtype='bfloat16'), (2, 37, 50, 3)
    )
    sizes = ((37, 50), (19, 25), (10, 13), (5, 7))
    chex.assert_shape(outputs['masks'], [(2, 2, *size, 2) for size in sizes])
    assert {m.dtype for m in outputs['masks']} == {np.dtype('float32')}


# --- forward passes, by scipy ---------------------------------------------------------------------


def conv(x, layer, strides=1, release='pytorch'):
    """Correlates [H, W, I] with a kernel: [h, w, O].

    Zeros are padded as by the release.
    """
    kernel = layer['kernel']
    k = len(kernel)
    total = [max((-(-n // strides) - 1) * strides + k - n, 0) for n in x.shape[:2]]
    sides = [(n // 2, n - n // 2) if release == 'tf' else (k // 2, k // 2) for n in total]
    x = np.pad(x, (*sides, (0, 0)))
    y = [
        sum(signal.correlate2d(x[..., i], kernel[..., i, o], 'valid') for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(y, -1)[::strides, ::strides] + layer['bias']


def up_conv(x, layer, padding):
    """Applies a transposed convolution: [H, W, I] -> [2 H, 2 W, O].

    It is the full convolution of the image with zeros between its pixels, cut at `padding`.
    """
    h, w, channels = x.shape
    apart = np.zeros((2 * h, 2 * w, channels))
    apart[::2, ::2] = x
    kernel, end = layer['kernel'], (2 * h + padding, 2 * w + padding)
    y = [
        sum(signal.convolve2d(apart[..., i], kernel[..., i, o]) for i in range(channels))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(y, -1)[padding : end[0], padding : end[1]] + layer['bias']


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize('release', ['tf', 'pytorch'])
def test_pose_exp_net_is_its_layers(release):
    net = tiny('pose_exp_net', release=release, masks=True)
    tf = release == 'tf'
    target = uniform(1, 20, 13, 3)
    sources = uniform(1, 2, 20, 13, 3, seed=1)
    variables = random_variables(Called(net), target.shape)
    p = variables['params']
    y = 2.0 * np.concatenate([target[0], sources[0, 0], sources[0, 1]], -1) - 1
    maps = []
    sizes = [y.shape[:2]]
    for level in range(1, 8):
        y = relu(conv(y, p[f'conv{level}_0'], 2, release))
        maps.append(y)
        sizes.append(y.shape[:2])
    motion = 0.01 * conv(y, p['pose_pred']).mean((0, 1)).reshape(2, 6)
    y = maps[4]
    masks = {}
    for level in range(5, 0, -1):
        h, w = sizes[level - 1]
        padding = {1: 2, 2: 1}.get(level, 0) if tf else 1  # kernels of 7, 5 and 3, or of 4
        y = relu(up_conv(y, p[f'upconv{level}_0'], padding)[:h, :w])
        if level < 5:
            z = conv(y, p[f'predict_mask{level}'])
            if tf:  # The second of a source's two classes is the mask.
                z = np.exp(z.reshape(h, w, 2, 2))
                masks[level - 1] = (z / z.sum(-1, keepdims=True))[..., 1]
            else:
                masks[level - 1] = 1 / (1 + np.exp(-z))
    outputs = jax.jit(functools.partial(net.apply, train=False))(variables, target, sources)
    assert np.abs(motion).max() > 1e-4
    np.testing.assert_allclose(outputs['motion'][0], motion, atol=1e-3 * np.abs(motion).max())
    for scale, mask in enumerate(outputs['masks']):
        spread = np.ptp(masks[scale])
        assert spread > 0.01
        keep = special.softmax(mask[0], -1)[..., 1]
        np.testing.assert_allclose(keep, masks[scale].transpose(2, 0, 1), atol=1e-3 * spread)


def test_pose_cnn_sees_pairs_in_temporal_order():
    net = tiny('pose_cnn')
    target = uniform(2, 20, 13, 3)
    sources = uniform(2, 2, 20, 13, 3, seed=1)
    variables = random_variables(Called(net), target.shape)
    motion = jax.jit(functools.partial(net.apply, train=False))(variables, target, sources)[
        'motion'
    ]
    for b, i in np.ndindex(2, 2):
        y = np.concatenate([sources[b, 0], target[b]] if i == 0 else [target[b], sources[b, 1]], -1)
        for level in range(7):
            y = relu(conv(y, variables['params'][f'net_{level}'], 2))
        expected = 0.01 * conv(y, variables['params']['pose_conv']).mean((0, 1))
        assert np.abs(expected).max() > 1e-4
        np.testing.assert_allclose(motion[b, i], expected, atol=1e-3 * np.abs(expected).max())


def test_pose_resnet_decodes_the_first_motion_of_its_last_stage(monkeypatch):
    """Replaces the ResNet: its last stage is the pair itself."""
    monkeypatch.setattr(
        pose_lib, 'make_resnet', lambda *args, **fields: lambda pairs: ({'layer4': pairs}, {})
    )
    net = tiny('pose_resnet', (False, True))
    target = uniform(1, 4, 5, 3)
    sources = uniform(1, 2, 4, 5, 3, seed=1)
    variables = random_variables(Called(net), target.shape)
    motion = jax.jit(functools.partial(net.apply, train=False))(variables, target, sources)[
        'motion'
    ]
    for i in range(2):
        y = np.concatenate([sources[0, 1], target[0]] if i == 1 else [target[0], sources[0, 0]], -1)
        y = (y - 0.45) / 0.225
        for level in range(3):
            y = relu(conv(y, variables['params']['decoder'][f'net_{level}']))
        expected = 0.01 * conv(y, variables['params']['decoder']['net_3']).mean((0, 1))[:6]
        np.testing.assert_allclose(motion[0, i], expected, rtol=1e-3, atol=1e-6)


@NETS
def test_vectors_are_read_as_the_net_says(name):
    net = tiny(name, (False, True, True))
    if name == 'pose_exp_net':
        assert (net.convention, net.inverted) == ('euler', (False, False, False))
    else:
        assert (net.convention, net.inverted) == ('axis_angle', (False, True, True))


# --- training -------------------------------------------------------------------------------------


def test_statistics_are_of_all_pairs_and_move_in_training_alone():
    """Checks the first batch norm only. XLA removes all layers behind it."""
    net = tiny('pose_resnet')
    target = uniform(2, 12, 14, 3)
    sources = uniform(2, 2, 12, 14, 3, seed=1)
    variables = random_variables(Called(net), target.shape)

    def statistics(variables, train):
        _, updates = net.apply(variables, target, sources, train=train, mutable=['batch_stats'])
        return updates['batch_stats']['resnet']['bn1']

    before = variables['batch_stats']['resnet']['bn1']
    kernel = {'kernel': variables['params']['resnet']['conv1']['kernel'], 'bias': 0}
    y = [
        conv((np.concatenate(pair, -1) - 0.45) / 0.225, kernel, 2)
        for b in range(2)
        for pair in ((sources[b, 0], target[b]), (target[b], sources[b, 1]))
    ]
    after, resting = jax.jit(
        lambda variables: (statistics(variables, True), statistics(variables, False))
    )(variables)
    np.testing.assert_allclose(
        after['mean'], 0.9 * before['mean'] + 0.1 * np.mean(y, (0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        after['var'], 0.9 * before['var'] + 0.1 * np.var(y, (0, 1, 2)), rtol=1e-4
    )
    chex.assert_trees_all_equal(resting, before)


def test_batch_norms_sum_over_devices():
    net = tiny('pose_resnet', axis_name='data')
    _, variables = shapes_of(net)

    def run(variables, image):
        return net.apply(
            variables, image, jnp.stack([image] * 2, 1), train=True, mutable=['batch_stats']
        )

    jaxpr = jax.make_jaxpr(run, axis_env=[('data', 8)])(variables, jnp.zeros((1, 32, 32, 3)))
    assert str(jaxpr).count('= psum') == 2 * 20  # the mean, then the deviations from it


def test_nets_predict_small_motions_at_first(monkeypatch):
    """Replaces the last stage of the ResNet by the images."""
    monkeypatch.setattr(
        pose_lib, 'make_resnet', lambda *args, **fields: lambda pairs: ({'layer4': pairs}, {})
    )
    target = uniform(2, 6, 7, 3)
    sources = uniform(2, 2, 6, 7, 3, seed=1)
    start = jax.jit(tiny('pose_resnet').init_with_output, static_argnames='train')
    motion = start(KEY, target, sources, train=False)[0]['motion']
    assert 0 < np.abs(motion).max() < 0.01


@pytest.mark.parametrize(
    'net, layer, bound, biased',
    [
        (tiny('pose_exp_net', masks=True), 'pose_pred', np.sqrt(6 / (32 + 12)), False),
        (tiny('pose_exp_net', masks=True), 'upconv5_0', np.sqrt(6 / (9 * (32 + 32))), False),
        (tiny('pose_cnn'), 'pose_conv', 32**-0.5, True),
    ],
)
def test_starts_are_those_of_the_releases(net, layer, bound, biased):
    """Checks Glorot's initialisation without biases, and torch's."""

    @jax.jit
    def start():
        images = jnp.zeros((1, 8, 8, 3))
        return net.init(KEY, images, jnp.stack([images] * 2, 1), train=False)['params'][layer]

    start = start()
    assert 0.9 * bound < np.abs(start['kernel']).max() <= bound
    assert np.abs(start['bias']).max() <= biased * bound and np.any(start['bias']) == biased


# --- the table ------------------------------------------------------------------------------------


@NETS
def test_schema_is_a_config_and_builds_the_default_net(name):
    args = models.schema('pose', name)
    assert not set(args) & {'earlier', 'dtype', 'axis_name', 'name', 'parent'}
    config = ml_collections.ConfigDict(args)
    net = models.build(
        'pose', name, earlier=[True, False], dtype='bfloat16', axis_name=None, **config
    )
    assert net == models.NETS['pose'][name](
        BEFORE_AND_AFTER, dtype=jnp.dtype('bfloat16'), axis_name=None
    )
    assert isinstance(net, nn.Module)


def test_schemas_list_what_a_config_may_say():
    assert models.schema('pose', 'pose_exp_net') == {'release': 'tf', 'masks': False, 'width': 1.0}
    assert models.schema('pose', 'pose_resnet') == {'num_layers': 18, 'width': 1.0}
    assert models.schema('pose', 'pose_cnn') == {'width': 1.0}


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: tiny('pose_resnets'), "did you mean 'pose_resnet'"),
        (lambda: models.schema('pose', 'pose_exp'), "did you mean 'pose_exp_net'"),
        (lambda: tiny('pose_exp_net', mask=True), "did you mean 'masks'"),
        (lambda: shapes_of(tiny('pose_exp_net', release='torch')), 'one of pytorch, tf'),
        (lambda: shapes_of(tiny('pose_cnn'), sources=3), r'\(1, 3, 32, 32, 3\)'),
        (lambda: shapes_of(tiny('pose_cnn', ()), sources=1), 'as many entries in earlier'),
    ],
)
def test_impossible_input_is_explained(build, message):
    with pytest.raises(InputError, match=message):
        build()
