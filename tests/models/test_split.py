"""Nets split at an inner tensor: the halves make the net, whatever the tap.

Results are compared to the bit inside one compiled program, `computed`. There XLA makes the same
code of equal operations. Separate programs may round differently.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import random_variables

from segjax import models
from segjax.core import parallel
from segjax.errors import InputError
from segjax.models import split
from segjax.models.backbones import efficientnet, resnet, xception

SIZE = (32, 40)


def resnet_taps(stem, *blocks):
    """Returns the names of models/backbones/resnet.py, in the order of the layers."""
    names = [f'conv1_{i}' for i in range(1, stem + 1)]
    for stage, count in enumerate(blocks, start=1):
        names += [f'conv{stage + 1}_{i}' for i in range(1, count + 1)]
        names.append(f'layer{stage}')
    return names


def vgg_taps(*convolutions):
    """Returns the names of models/backbones/vgg.py, in the order of the layers."""
    names = []
    for stage, count in enumerate(convolutions, start=1):
        names += [f'conv{stage}_{i}' for i in range(1, count + 1)]
        names.append(f'pool{stage}')
    return names


ERFNET_TAPS = [
    'encoder/initial_block',
    *(f'encoder/layers_{i}' for i in range(4)),
    *(f'decoder/layers_{i}' for i in range(4)),
]
BLOCKS = {18: (2, 1, 1, 1), 50: (1, 1, 1, 1)}
"""Blocks of the stages of ResNets in this file. Tracing the published nets takes long."""

# Net -> (fields, taps, number of taps that split the net). All later taps can be bypassed.
NETS = {
    'bisenet': ({}, resnet_taps(1, *BLOCKS[18]), 0),  # the spatial path sees the image itself
    'deeplab_largefov': ({}, vgg_taps(2, 2, 3, 3, 3), 18),
    'deeplab_v2': ({'num_layers': 18}, resnet_taps(1, *BLOCKS[18]), 10),
    'deeplab_v3plus': ({'backbone': 'resnet50'}, resnet_taps(3, *BLOCKS[50]), 5),  # up to layer1
    'depth_and_segmentation': ({}, [], 0),
    'erfnet': ({'blocks': (1, 1, 1, 1), 'width': 0.125}, ERFNET_TAPS, 9),
    'fcn': ({}, vgg_taps(2, 2, 3, 3, 3), 10),  # up to pool3
    'pspnet': ({'num_layers': 18}, resnet_taps(3, *BLOCKS[18]), 12),
}


@pytest.fixture(autouse=True, scope='module')
def shallow_nets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, 'BLOCKS', BLOCKS)
        patch.setitem(xception.MIDDLE_BLOCKS, 41, 1)
        patch.setattr(efficientnet, 'STAGES', efficientnet.STAGES[:2])
        yield
    split._trace.cache_clear()


def build(name, **fields):
    shared = dict(num_classes=3, dtype=jnp.float32, axis_name=None, width=1 / 16)
    return models.build('segmentation', name, **{**shared, **fields})


@functools.cache
def case(name):
    """Returns (net, params, batch statistics, images) of a net of NETS."""
    net = build(name, **NETS[name][0])
    return net, *random_arguments(net)


def random_arguments(net, channels=3):
    """Returns (params, batch statistics, images [2, H, W, channels]) of a net."""
    variables = random_variables(net, (1, *SIZE, channels))
    params = variables.pop('params')
    image = np.random.default_rng(1).standard_normal((2, *SIZE, channels))
    return params, variables, image.astype(np.float32)


def computed(function, *arguments):
    """Returns the result of a function, compiled without optimisations that cost time."""
    options = {'xla_backend_optimization_level': 0}
    return jax.jit(function).lower(*arguments).compile(compiler_options=options)(*arguments)


def cuts(name):
    """Returns the taps that split a net of NETS."""
    _, taps, count = NETS[name]
    return ['image', *taps[:count]]


# --- the halves -----------------------------------------------------------------------------------


def test_every_net_is_here():
    assert set(NETS) == set(models.NETS['segmentation'])


@pytest.mark.parametrize('name', NETS)
def test_taps_are_in_the_order_of_the_layers_and_some_split_the_net(name):
    net, taps = case(name)[0], ['image', *NETS[name][1]]
    assert list(split.tap_names(net, SIZE)) == taps
    for tap in cuts(name):
        split.check_split('tap', net, tap, SIZE)
    for tap in taps[len(cuts(name)) :]:
        with pytest.raises(InputError, match='by a path around this tap'):
            split.check_split('tap', net, tap, SIZE)


@pytest.mark.parametrize('name', NETS)
def test_the_decoder_of_the_encoder_is_the_net(name):
    net, params, statistics, x = case(name)

    def run(params, statistics, x):
        variables = {'params': params, **statistics}
        tapped = net.clone(taps=('all',)) if NETS[name][1] else net
        whole = tapped.apply(variables, x, train=False)
        tensors = {'image': x, **whole.pop('features', {})}
        encoded = {
            tap: split.encode(net, tap, params, statistics, x) for tap in {'image', [*tensors][-1]}
        }
        decoded = {
            tap: split.decode(net, tap, params, statistics, tensors[tap], SIZE)
            for tap in cuts(name)
        }
        return whole, tensors, encoded, decoded

    whole, tensors, encoded, decoded = computed(run, params, statistics, x)
    assert np.std(whole['logits']) > 0.01
    for tap, tensor in tensors.items():
        assert split.feature_shape(net, tap, SIZE) == tensor.shape[1:], tap
    for tap, tensor in encoded.items():
        np.testing.assert_array_equal(tensor, tensors[tap], err_msg=tap)
    for tap, (outputs, after) in decoded.items():
        np.testing.assert_array_equal(outputs['logits'], whole['logits'], err_msg=tap)
        chex.assert_trees_all_equal(outputs, {key: whole[key] for key in outputs})
        chex.assert_trees_all_equal(after, statistics)
    chex.assert_trees_all_equal(decoded['image'][0], whole)


def test_separate_programs_agree_and_that_of_the_decoder_has_its_own_convolutions_alone():
    net, params, statistics, x = case('pspnet')
    tapped = net.clone(taps=('layer3',))
    outputs = jax.jit(lambda p, s, x: tapped.apply({'params': p, **s}, x, train=False))(
        params, statistics, x
    )
    features = outputs['features']['layer3']
    decoder = jax.jit(lambda p, s, y: split.decode(net, 'layer3', p, s, y, SIZE)[0]['logits'])
    logits = decoder(params, statistics, features)
    scale = np.abs(outputs['logits']).max()
    np.testing.assert_allclose(logits, outputs['logits'], rtol=0, atol=1e-6 * scale)
    # A block of layer4 with its shortcut, the pyramid, the classifier.
    program = decoder.lower(params, statistics, features).as_text()
    assert program.count('stablehlo.convolution') == 3 + 4 + 2


def test_features_of_a_bfloat16_net_are_exact_in_float32():
    net = build('erfnet', **NETS['erfnet'][0], dtype=jnp.bfloat16)
    params, statistics, x = random_arguments(net)
    tap = 'encoder/layers_2'

    def run(params, statistics, x):
        features = split.encode(net, tap, params, statistics, x)
        outputs, _ = split.decode(net, tap, params, statistics, features, SIZE)
        return features, outputs, net.apply({'params': params, **statistics}, x, train=False)

    features, outputs, whole = computed(run, params, statistics, x)
    assert features.dtype == np.float32
    chex.assert_trees_all_equal(outputs, whole)


def test_the_encoder_gets_no_gradient_and_the_decoder_that_of_the_net():
    net, params, statistics, x = case('erfnet')
    tap = 'encoder/layers_2'
    weights = np.random.default_rng(2).standard_normal((2, *SIZE, 3)).astype(np.float32)

    def run(params, statistics, x):
        features = split.encode(net, tap, params, statistics, x)

        def of_decoder(params):
            outputs, _ = split.decode(net, tap, params, statistics, features, SIZE)
            return jnp.sum(weights * outputs['logits'])

        def of_net(params):
            outputs = net.apply({'params': params, **statistics}, x, train=False)
            return jnp.sum(weights * outputs['logits'])

        return jax.grad(of_decoder)(params), jax.grad(of_net)(params)

    of_decoder, of_net = map(flatten_dict, computed(run, params, statistics, x))
    in_front = ('initial_block', 'layers_0', 'layers_1', 'layers_2')
    for path, gradient in of_decoder.items():
        is_in_front = path[0] == 'encoder' and path[1] in in_front
        assert np.any(of_net[path]), path
        expected = np.zeros_like(gradient) if is_in_front else of_net[path]
        np.testing.assert_array_equal(gradient, expected, err_msg=str(path))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'tap, updated',
    [
        ('conv3_1', ('resnet/layer3', 'resnet/layer4', 'ppm', 'cls', 'aux')),
        # The auxiliary head sees layer3.
        ('layer4', ('ppm', 'cls')),
    ],
)
def test_training_updates_the_statistics_behind_the_tap_and_draws_the_same_dropout(tap, updated):
    net, params, statistics, x = case('pspnet')

    def run(params, statistics, x, key):
        keys = {'dropout': key}
        whole, after = net.clone(taps=(tap,)).apply(
            {'params': params, **statistics}, x, train=True, rngs=keys, mutable=['batch_stats']
        )
        features = whole.pop('features')[tap]
        decoded = split.decode(net, tap, params, statistics, features, SIZE, train=True, keys=keys)
        return whole, after, *decoded

    whole, after, outputs, statistics_after = computed(
        run, params, statistics, x, jax.random.key(3)
    )
    if 'aux' not in updated:
        del whole['aux']
    chex.assert_trees_all_equal(outputs, whole)

    before = flatten_dict(statistics, sep='/')
    after = flatten_dict(after, sep='/')
    for name, value in flatten_dict(statistics_after, sep='/').items():
        is_behind = name.removeprefix('batch_stats/').startswith(updated)
        assert not np.array_equal(after[name], before[name]), name
        expected = after[name] if is_behind else before[name]
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.devices(2)
@pytest.mark.parametrize('mode', ['pmap', 'shard_map'])
def test_devices_share_the_statistics_behind_the_tap_alone(mode):
    net, params, statistics, _ = case('pspnet')
    net = net.clone(axis_name=parallel.AXIS)
    split._trace.cache_clear()  # so that the net is traced in this mode
    topology = parallel.topology(mode, 2)

    def step(variables, batch):
        keys = {'dropout': jax.random.key(0)}
        return split.decode(net, 'layer4', *variables, batch['y'], SIZE, train=True, keys=keys)[1]

    features = np.zeros((4, *split.feature_shape(net, 'layer4', SIZE)), np.float32)
    variables = topology.put_replicated((params, statistics))
    batch = topology.put_batch({'y': features})
    program = topology.spmd(step, num_args=2).lower(variables, batch).as_text()
    # Mean and deviations of the four norms of the pyramid, and of the norm of the classifier.
    assert program.count('stablehlo.all_reduce') == 2 * (4 + 1)


# --- replaced tensors -----------------------------------------------------------------------------

V2_TWO_SCALES = ('deeplab_v2', {'num_layers': 18, 'scales': (0.5,)})
TWO_STREAMS = ('fcn', {'output_stride': 32, 'streams': ('color', 'hha')})
XCEPTION = ('deeplab_v3plus', {'backbone': 'xception41'})


@pytest.mark.parametrize(
    'name, fields, deepest',
    [
        ('fcn', {'output_stride': 32}, 'pool5'),
        ('fcn', {'output_stride': 16}, 'pool4'),
        (*V2_TWO_SCALES, 'image'),
        (*TWO_STREAMS, 'image'),
        # The low-level feature of the decoder is inside block 1, which has a shortcut.
        (*XCEPTION, 'blocks_0'),
    ],
)
def test_the_deepest_tap_that_splits_a_net_is_named(name, fields, deepest):
    net = build(name, **fields)
    split.check_split('features.tap', net, deepest, SIZE)
    last = split.tap_names(net, SIZE)[-1]
    if deepest != last:
        with pytest.raises(InputError) as error:
            split.check_split('features.tap', net, last, SIZE)
        assert error.value.where == 'features.tap'
        assert error.value.expected.endswith(deepest)
        assert error.value.fix == f"choose '{deepest}', the last of them"


@pytest.mark.parametrize(
    'name, fields, channels, taps',
    [
        ('deeplab_v3plus', {'backbone': 'resnet50'}, 3, ('layer1', 'layer4')),
        # The last block has no shortcut.
        (*XCEPTION, 3, ('blocks_1/conv2', 'blocks_5/conv2')),
        ('fcn', {}, 3, ('pool3', 'pool4', 'pool5')),
        (*TWO_STREAMS, 6, ('color/pool5', 'hha/conv5_3')),
    ],
)
def test_several_replaced_tensors_together_stand_for_the_image(name, fields, channels, taps):
    net = build(name, **fields)
    params, statistics, x = random_arguments(net, channels)

    def run(params, statistics, x):
        variables = {'params': params, **statistics}
        whole = net.clone(taps=('all',)).apply(variables, x, train=False)
        given = {tap: whole['features'][tap] for tap in taps}
        outputs = net.apply(variables, jnp.zeros_like(x), train=False, given=given)
        return outputs['logits'], whole['logits']

    np.testing.assert_array_equal(*computed(run, params, statistics, x))


def test_the_context_path_of_bisenet_sees_replaced_tensors_and_the_spatial_path_the_image():
    net, params, statistics, x = case('bisenet')
    taps = ('layer2', 'layer3', 'layer4')

    def run(params, statistics, x):
        variables = {'params': params, **statistics}
        whole = net.clone(taps=taps).apply(variables, x, train=False)
        image = jnp.zeros_like(x)
        return whole, net.apply(variables, image, train=False, given=whole.pop('features'))

    whole, outputs = computed(run, params, statistics, x)
    chex.assert_trees_all_equal(outputs['aux'], whole['aux'])
    assert not np.allclose(outputs['logits'], whole['logits'], atol=0.01)


@pytest.mark.parametrize('tap', ['stem', 'blocks_0', 'blocks_1_1', 'head'])
def test_tensors_of_efficientnet_are_replaced(tap):
    net = efficientnet.EfficientNet(5, width=0.25)
    params, statistics, x = random_arguments(net)

    def run(params, statistics, x):
        variables = {'params': params, **statistics}
        whole = net.clone(taps=(tap,)).apply(variables, x, train=False)
        image = jnp.zeros_like(x)
        outputs = net.apply(variables, image, train=False, given=whole['features'])
        return outputs['logits'], whole['logits']

    np.testing.assert_array_equal(*computed(run, params, statistics, x))


# --- errors ---------------------------------------------------------------------------------------


def test_unknown_taps_are_answered_with_the_nearest():
    net, params, statistics, x = case('pspnet')
    for call in (
        lambda: split.check_split('features.tap', net, 'layer_4', SIZE),
        lambda: split.feature_shape(net, 'layer_4', SIZE),
        lambda: split.encode(net, 'layer_4', params, statistics, x),
        lambda: split.decode(net, 'layer_4', params, statistics, x, SIZE),
    ):
        with pytest.raises(InputError, match=r'(?s)conv1_1, .*image, layer1.*did you mean'):
            jax.eval_shape(call)
    net, params, statistics, x = case('depth_and_segmentation')
    with pytest.raises(InputError, match='one of image'):
        jax.eval_shape(lambda: split.encode(net, 'layer4', params, statistics, x))


def test_decode_refuses_a_tap_that_the_logits_bypass_and_features_of_another_shape():
    net, params, statistics, _ = case('deeplab_v3plus')
    features = np.zeros((2, *split.feature_shape(net, 'layer4', SIZE)), np.float32)
    with pytest.raises(InputError, match=r'(?s)decode: tap.*by a path around this tap'):
        split.decode(net, 'layer4', params, statistics, features, SIZE)
    with pytest.raises(InputError, match=r"(?s)given 'layer1'.*\(2, 2, 3, 128\).*\(2, 8, 10, 16\)"):
        jax.eval_shape(lambda y: split.decode(net, 'layer1', params, statistics, y, SIZE), features)


@pytest.mark.parametrize(
    'name, fields, channels, given, message',
    [
        (*V2_TWO_SCALES, 3, 'layer4', 'inner tensors of one scale'),
        (*TWO_STREAMS, 6, 'pool5', "a name as 'color/conv4_3'"),
        (*TWO_STREAMS, 6, 'hha/pool6', "did you mean 'pool5'"),
        ('erfnet', NETS['erfnet'][0], 3, 'encoder/layer_0', "did you mean 'encoder/layers_0'"),
    ],
)
def test_replaced_tensors_that_a_net_does_not_have_are_refused(
    name, fields, channels, given, message
):
    net = build(name, **fields)
    x = jax.ShapeDtypeStruct((1, *SIZE, channels), jnp.float32)
    with pytest.raises(InputError, match=f'(?s)given.*{message}'):
        jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False, given={given: x}), x)
