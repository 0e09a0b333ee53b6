"""EfficientNet: published counts and layouts, blocks in NumPy, drop-connect, stem, training."""

import functools
import itertools
import math
import pathlib
import subprocess

import chex
import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from nets import count, random_variables, shapes_of

from segjax import pretrained
from segjax.errors import InputError
from segjax.models.backbones import efficientnet
from segjax.models.backbones.efficientnet import (
    VARIANTS,
    EfficientNet,
    MBConv,
    Scaling,
    drop_connect,
    rounded,
)
from segjax.models.layers import Conv, DepthwiseConv, GatedConv, batch_norm
from segjax.ops import images
from segjax.ops.conv import conv2d

PUBLISHED = {
    'b0': (5_288_548, 32, 1280, '16x1 24x2 40x2 80x3 112x3 192x4 320x1', 0.2),
    'b1': (7_794_184, 32, 1280, '16x2 24x3 40x3 80x4 112x4 192x5 320x2', 0.2),
    'b2': (9_109_994, 32, 1408, '16x2 24x3 48x3 88x4 120x4 208x5 352x2', 0.3),
    'b3': (12_233_232, 40, 1536, '24x2 32x3 48x3 96x5 136x5 232x6 384x2', 0.3),
    'b4': (19_341_616, 48, 1792, '24x2 32x4 56x4 112x6 160x6 272x8 448x2', 0.4),
    'b5': (30_389_784, 48, 2048, '24x3 40x5 64x5 128x7 176x7 304x9 512x3', 0.4),
    'b6': (43_040_704, 56, 2304, '32x3 40x6 72x6 144x8 200x8 344x11 576x3', 0.5),
    'b7': (66_347_960, 64, 2560, '32x4 48x7 80x7 160x10 224x10 384x13 640x4', 0.5),
    'lite0': (4_652_008, 32, 1280, '16x1 24x2 40x2 80x3 112x3 192x4 320x1', 0.2),
    'lite1': (5_416_680, 32, 1280, '16x1 24x3 40x3 80x4 112x4 192x5 320x1', 0.2),
    'lite2': (6_092_072, 32, 1280, '16x1 24x3 48x3 88x4 120x4 208x5 352x1', 0.3),
    'lite3': (8_197_096, 32, 1280, '24x1 32x3 48x3 96x5 136x5 232x6 384x1', 0.3),
    'lite4': (13_006_568, 32, 1280, '24x1 32x4 56x4 112x6 160x6 272x8 448x1', 0.3),
}
"""Variant -> (parameters with 1000 classes, channels of the stem, of the head, stages, dropout).

A stage is channels x blocks.
"""

EXPANSIONS_AND_KERNELS = ((1, 3), (6, 3), (6, 5), (6, 3), (6, 5), (6, 5), (6, 3))
"""By stage."""

# Tests of ops compare the forms of the depthwise convolution. The naive form is traced faster.
Net = functools.partial(EfficientNet, forms='naive')


@pytest.fixture
def shallow(monkeypatch):
    """Reduces B0 to two stages of three blocks, with an eighth of the channels."""
    monkeypatch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
    monkeypatch.setitem(efficientnet.VARIANTS, 'b0', Scaling(1 / 8, 1.0, 0.2))


def rates_and_parameters(net):
    """Returns (rates of dropout in the order of their calls, parameters)."""
    rates = []

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        return rates, shapes_of(net)[1]['params']


@functools.cache
def published(variant):
    return rates_and_parameters(Net(1000, variant))


@pytest.mark.parametrize('variant', PUBLISHED)
def test_published_parameters_and_layout(variant):
    total, stem, head, stages, dropout = PUBLISHED[variant]
    rates, params = published(variant)
    assert count({'params': params}) == total
    params = params['efficientnet']
    chex.assert_shape(params['conv_stem']['kernel'], (3, 3, 3, stem))
    chex.assert_shape(params['conv_head']['kernel'], (1, 1, None, head))
    outputs = {
        name: block['project_conv']['kernel'].shape[-1]
        for name, block in params.items()
        if 'blocks' in name
    }
    expected = [tuple(map(int, stage.split('x'))) for stage in stages.split()]
    assert outputs == {
        f'blocks_{s}_{j}': n for s, (n, blocks) in enumerate(expected) for j in range(blocks)
    }
    # Every block except the first of a stage has a shortcut and the rate 0.2 i / n. The last rate
    # is the classifier's.
    firsts = [0, *itertools.accumulate(blocks for _, blocks in expected)]
    residual = [i for i in range(firsts[-1]) if i not in firsts]
    np.testing.assert_allclose(rates, [*(0.2 * i / firsts[-1] for i in residual), dropout])


def parameters_by_table(stem, head, stages, num_classes, squeeze):
    """Adds up the parameters of a net, layer by layer, without building it."""
    tables = [tuple(map(int, stage.split('x'))) for stage in stages.split()]
    total = 3 * 3 * 3 * stem + 2 * stem  # the first convolution, scales and biases of its norm
    channels = stem
    for (outputs, blocks), (expand, kernel) in zip(tables, EXPANSIONS_AND_KERNELS, strict=True):
        for _ in range(blocks):
            inner = expand * channels
            if expand != 1:
                total += channels * inner + 2 * inner
            total += kernel**2 * inner + 2 * inner
            if squeeze:
                total += 2 * inner * (channels // 4) + channels // 4 + inner
            total += inner * outputs + 2 * outputs
            channels = outputs
    total += channels * head + 2 * head
    return total + (head + 1) * num_classes


@pytest.mark.parametrize('variant', PUBLISHED)
def test_published_parameters_follow_from_the_table_of_layers(variant):
    total, stem, head, stages, _ = PUBLISHED[variant]
    squeeze = not variant.startswith('lite')
    assert parameters_by_table(stem, head, stages, 1000, squeeze) == total


def test_resolutions_are_those_of_the_publication():
    of_variants = {name: scaling.resolution for name, scaling in VARIANTS.items()}
    squeezed = [224, 240, 260, 300, 380, 456, 528, 600]
    lite = [224, 240, 260, 280, 300]
    assert list(of_variants) == list(PUBLISHED)
    assert list(of_variants.values()) == squeezed + lite


def test_published_parameters_of_b7_with_80_classes():
    assert count({'params': published('b7')[1]['efficientnet']}) + 80 * (2560 + 1) == 63_991_840


def test_rates_can_be_given(shallow):
    rates, _ = rates_and_parameters(Net(5, drop_connect=0.3, dropout=0.7))
    # In so narrow a net the first block has a shortcut.
    np.testing.assert_allclose(rates, [0, 0.3 * 2 / 3, 0.7])


def test_channels_are_rounded_to_eights_but_not_down_by_more_than_a_tenth():
    assert [rounded(n) for n in (1, 11, 12, 28.8, 35.2, 1408.0)] == [8, 16, 16, 32, 32, 1408]


def seen_layers(net, image=(1, 64, 64, 3)):
    """Returns [(side, strides, padding)] of the convolutions larger than 1x1, in order of calls."""
    seen = []

    def note(next_fun, args, kwargs, context):
        layer = context.module
        if isinstance(layer, DepthwiseConv):
            seen.append((layer.size, layer.strides, layer.padding))
        elif isinstance(layer, Conv) and layer.kernel_size != (1, 1):
            seen.append((layer.kernel_size[0], layer.strides, layer.padding))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(net, image)
    return seen


def test_kernels_strides_and_padding_are_those_of_b0():
    depthwise = (
        [(3, 1)] + [(3, 2), (3, 1)] + [(5, 2), (5, 1)] + [(3, 2)] + [(3, 1)] * 2 + [(5, 1)] * 3
    )
    depthwise += [(5, 2)] + [(5, 1)] * 3 + [(3, 1)]
    assert seen_layers(Net(5)) == [(*layer, 'same') for layer in [(3, 2), *depthwise]]


def test_padding_can_be_torchs(shallow):
    assert {padding for _, _, padding in seen_layers(Net(5, padding='symmetric'))} == {None}


def test_taps_have_the_strides_of_their_stages_at_any_size():
    taps = ('stem', *(f'blocks_{s}' for s in range(7)), 'blocks_3_1', 'head')
    outputs, _ = shapes_of(Net(5, taps=taps), (2, 65, 84, 3))
    strides = [2, 2, 4, 8, 16, 16, 32, 32, 16, 32]
    channels = [32, 16, 24, 40, 80, 112, 192, 320, 80, 1280]
    assert set(outputs['features']) == set(taps)
    for tap, s, n in zip(taps, strides, channels, strict=True):
        chex.assert_shape(outputs['features'][tap], (2, -(-65 // s), -(-84 // s), n))
    chex.assert_shape(outputs['logits'], (2, 5))


# --- a block --------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block with the call of a net."""

    features: int
    expand: int
    kernel: int
    strides: int
    rate: float = 0.0
    padding: str | None = None
    lite: bool = False

    @nn.compact
    def __call__(self, x, train):
        return MBConv(
            *(self.features, self.expand, self.kernel, self.strides, self.rate),
            conv=Conv,
            depthwise=functools.partial(DepthwiseConv, padding=self.padding),
            norm=batch_norm(train, frozen=True),
            drop_connect=drop_connect(train),
            act=nn.relu6 if self.lite else nn.silu,
            squeeze=not self.lite,
            name='block',
        )(x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def block_by_hand(x, variables, block, before):
    """Computes a block in NumPy; `before` zeros are in front of the depthwise convolution."""
    params, statistics = (variables[key]['block'] for key in ('params', 'batch_stats'))

    def norm(y, name):
        y = (y - statistics[name]['mean']) / np.sqrt(statistics[name]['var'] + 1e-5)
        return y * params[name]['scale'] + params[name]['bias']

    def pointwise(y, name):
        return y @ params[name]['kernel'][0, 0] + params[name].get('bias', 0)

    def act(y):
        return np.clip(y, 0, 6) if block.lite else y * sigmoid(y)

    y = x
    if block.expand != 1:
        y = act(norm(pointwise(y, 'expand_conv'), 'bn0'))
    padded = np.pad(y, ((0, 0), (before, 9), (before, 9), (0, 0)))
    rows, columns = (-(-n // block.strides) for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, y.shape[-1]))
    for i, j, r, s in np.ndindex(rows, columns, block.kernel, block.kernel):
        y[:, i, j] += (
            padded[:, block.strides * i + r, block.strides * j + s]
            * (params['depthwise_conv']['kernel'][r, s, 0])
        )
    y = act(norm(y, 'bn1'))
    if not block.lite:
        squeezed = pointwise(y.mean((1, 2), keepdims=True), 'se_reduce')
        y = y * sigmoid(pointwise(squeezed * sigmoid(squeezed), 'se_expand'))
    y = norm(pointwise(y, 'project_conv'), 'bn2')
    return x + y if x.shape == y.shape else y


@pytest.mark.parametrize(
    'block, before',
    [
        (Block(8, 6, 5, 1), 2),
        (Block(4, 1, 3, 1), 1),
        (Block(8, 2, 3, 2), 1),
        (Block(8, 2, 3, 2, padding='same'), 0),
        (Block(8, 6, 5, 1, lite=True), 2),
        (Block(4, 1, 3, 2, padding='same', lite=True), 0),
    ],
    ids=['shortcut', 'no expansion', 'strided', 'strided, same', 'lite', 'lite, strided, same'],
)
def test_a_block_is_its_formula(block, before):
    # Inputs are so large that ReLU6 clips on both sides.
    x = (3 * np.random.default_rng(0).standard_normal((2, 6, 8, 8))).astype(np.float32)
    variables = random_variables(block, x.shape)
    # The gate reduces the channels of the input to a quarter.
    if block.lite:
        assert not {'se_reduce', 'se_expand'} & set(variables['params']['block'])
    else:
        chex.assert_axis_dimension(variables['params']['block']['se_reduce']['kernel'], -1, 2)
    assert ('expand_conv' in variables['params']['block']) == (block.expand != 1)
    y = jax.jit(functools.partial(block.apply, train=False))(variables, x)
    np.testing.assert_allclose(y, block_by_hand(x, variables, block, before), atol=1e-4)


def test_drop_connect_drops_whole_examples_and_scales_the_kept_examples():
    block = Block(8, 1, 3, 1, rate=0.25)
    x = np.random.default_rng(0).standard_normal((64, 3, 3, 8)).astype(np.float32)
    variables = random_variables(block, x.shape)
    apply = jax.jit(block.apply, static_argnames='train')
    branch = apply(variables, x, train=False) - x
    dropped = apply(variables, x, train=True, rngs={'dropout': jax.random.key(0)}) - x
    kept = np.abs(dropped).max((1, 2, 3)) > 0
    assert 36 <= kept.sum() <= 60  # 48 expected
    np.testing.assert_allclose(
        dropped, np.where(kept[:, None, None, None], branch / 0.75, 0), atol=1e-4
    )
    again = [
        apply(variables, x, train=True, rngs={'dropout': jax.random.key(seed)}) - x
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(again[0], dropped)
    assert np.any(np.asarray(again[1]) != dropped)


# --- the whole net --------------------------------------------------------------------------------


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(shallow):
    outputs, variables = shapes_of(Net(5, dtype=jnp.bfloat16, taps=('blocks_1',)))
    assert outputs.pop('features')['blocks_1'].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves((variables, outputs))} == {np.dtype('float32')}


def test_every_batch_norm_sums_over_devices_unless_frozen(shallow):
    def reductions(train, **args):
        net = Net(5, axis_name='data', **args)
        variables = shapes_of(net)[1]
        run = lambda v, x: net.apply(  # noqa: E731
            v, x, train=train, rngs={'dropout': jax.random.key(1)}, mutable=['batch_stats']
        )
        return str(
            jax.make_jaxpr(run, axis_env=[('data', 8)])(variables, jnp.zeros((1, 32, 32, 3)))
        ).count('= psum')

    norms = 2 + 2 + 3 * 2  # stem and head, the first block, two further blocks
    assert reductions(train=True) == 2 * norms  # the mean, then the deviations from it
    assert reductions(train=False) == 0
    assert reductions(train=True, frozen_norm=True) == 0


def test_a_step_of_training_moves_everything(shallow):
    net = Net(5)
    x = np.random.default_rng(0).standard_normal((4, 33, 40, 3)).astype(np.float32)
    variables = random_variables(net, x.shape)

    @jax.jit
    def step(params):
        def loss(params):
            outputs, updates = net.apply(
                {**variables, 'params': params},
                x,
                train=True,
                rngs={'dropout': jax.random.key(0)},
                mutable=['batch_stats'],
            )
            return (outputs['logits'] ** 2).mean(), updates['batch_stats']

        return jax.grad(loss, has_aux=True)(params)

    gradients, statistics = step(variables['params'])
    chex.assert_tree_all_finite(gradients)
    for gradient in jax.tree.leaves(gradients):
        assert np.abs(gradient).max() > 0
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.all(a != b), dict(statistics), variables['batch_stats'])
    )


def test_epsilon_and_decay_reach_every_batch_norm(shallow):
    seen = set()

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, nn.BatchNorm):
            seen.add((context.module.epsilon, context.module.momentum))
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(Net(5))
        assert seen == {(1e-3, 0.99)}, 'the authors'
        shapes_of(Net(5, norm_epsilon=1e-5, norm_decay=0.9))
    assert seen == {(1e-3, 0.99), (1e-5, 0.9)}


def test_another_stem_takes_the_place_of_the_first_convolution(shallow):
    outputs, variables = shapes_of(Net(5, stem=GatedConv), (1, 32, 32, 2))
    chex.assert_shape(outputs['logits'], (1, 5))
    params = variables['params']['efficientnet']
    plain = shapes_of(Net(5))[1]['params']['efficientnet']
    chex.assert_shape(params.pop('conv_stem')['kernel'], (3, 3, 2, 16))
    chex.assert_shape(plain.pop('conv_stem')['kernel'], (3, 3, 3, 8))
    chex.assert_trees_all_equal_shapes(params, plain)


def test_the_start_is_the_authors(shallow):
    @jax.jit
    def start(key):
        params = Net(50, width=8.0).init(key, jnp.zeros((1, 32, 32, 3)), train=False)['params']
        block = params['efficientnet']['blocks_1_1']
        return (
            block['depthwise_conv'],
            block['expand_conv'],
            block['se_reduce'],
            params['classifier'],
        )

    depthwise, expand, squeeze, classifier = start(jax.random.key(0))
    np.testing.assert_allclose(depthwise['kernel'].std(), math.sqrt(2 / 9), rtol=0.03)
    np.testing.assert_allclose(expand['kernel'].std(), math.sqrt(2 / (6 * 24)), rtol=0.03)
    assert not squeeze['bias'].any() and not classifier['bias'].any()
    assert 0.98 / math.sqrt(50) < np.abs(classifier['kernel']).max() <= 1 / math.sqrt(50)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'variant': 'b8'}, 'one of b0, b1'),
        ({'padding': 'SAME'}, "did you mean 'same'|one of same, symmetric"),
        ({'taps': ('blocks_7',)}, 'did you mean'),
        ({'dropout': 1.0}, r'efficientnet: dropout\n.*1\.0\n.*below 1'),
        ({'drop_connect': -0.1}, r'efficientnet: drop_connect'),
    ],
)
def test_impossible_fields_are_explained(fields, message, shallow):
    with pytest.raises(InputError, match=message):
        shapes_of(Net(5, **fields))


# --- published weights ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def lite0(weights):
    """Returns (net, its variables, tensors) of the published lite0."""
    file = weights / 'efficientnet_lite0.safetensors'
    if not file.exists():
        pytest.skip(f'{file.name} is not among the weights')
    tensors = pretrained.read(str(file))
    net = Net(1000, 'lite0')
    source = pretrained.SOURCES[pretrained.detect(tensors, file.name)]
    variables, report = pretrained.import_weights(tensors, shapes_of(net)[1], source)
    assert not report.unused and not report.initialised
    return net, variables, tensors


@pytest.fixture(scope='module')
def photographs(real_data):
    """Returns five photographs of 224x224, uint8."""
    files = sorted((real_data / 'camvid' / 'val').glob('*.jpg'))[::20][:5]
    # Averages over areas keep the contrast of neighbouring pixels natural.
    squares = [
        cv2.resize(cv2.imread(str(file))[..., ::-1], (224, 224), interpolation=cv2.INTER_AREA)
        for file in files
    ]
    return np.stack(squares)


def test_published_lite0_has_the_logits_of_a_twin_in_torch(
    lite0, photographs, torch_python, tmp_path
):
    net, variables, tensors = lite0
    prepared = np.asarray(images.normalize(photographs, 'symmetric'))
    logits = jax.jit(functools.partial(net.apply, train=False))(variables, prepared)['logits']

    np.savez(tmp_path / 'tensors.npz', **tensors)
    np.save(tmp_path / 'images.npy', prepared)
    script = pathlib.Path(__file__).parents[2] / 'helpers' / 'torch_lite0.py'
    files = [tmp_path / name for name in ('tensors.npz', 'images.npy', 'logits.npy')]
    subprocess.run([torch_python, script, *files], check=True)
    expected = np.load(tmp_path / 'logits.npy')

    assert len(expected) == 5 and np.ptp(expected) > 5
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def test_published_lite0_was_trained_on_images_from_minus_1_to_1(lite0, photographs):
    """The running statistics of its first norm fit the preparation 'symmetric' and no other."""
    _, variables, _ = lite0
    kernel = variables['params']['efficientnet']['conv_stem']['kernel']
    statistics = variables['batch_stats']['efficientnet']['bn0']
    used = statistics['var'] > 1e-3  # some channels are zero everywhere
    ratios = {}
    for scheme in ('symmetric', 'imagenet', 'unit'):
        y = conv2d(images.normalize(photographs, scheme), kernel, 2, padding='same')
        variance = np.asarray(y).var((0, 1, 2))
        ratios[scheme] = np.median(variance[used] / statistics['var'][used])
    assert 1 / 2 < ratios['symmetric'] < 2
    assert ratios['imagenet'] > 3 and ratios['unit'] < 1 / 3
