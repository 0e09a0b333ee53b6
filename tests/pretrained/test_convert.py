"""Import and export of weights: axes, tensors that may be absent, and all errors of files."""

import types

import chex
import jax
import numpy as np
import pytest
from release_nets import ALIKE, B1, NETS, TINY, abstract, variables_of

from segjax import models, pretrained
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.pretrained.sources import SOURCES


def imported(key, tensors, variables, **options):
    tree, report = pretrained.import_weights(
        tensors, variables, SOURCES[key], where='w.npz', **options
    )
    return named_leaves(tree), report


# --- arrays and their axes ------------------------------------------------------------------------


@pytest.mark.parametrize('key', SOURCES)
def test_there_and_back_in_every_naming(key):
    variables = variables_of(key)
    tensors = pretrained.export_weights(variables, SOURCES[key])
    assert pretrained.detect(tensors, 'w.npz', key if key in ALIKE else '') == key
    empty = jax.tree.map(np.zeros_like, variables)
    loaded, report = imported(key, tensors, empty)
    original = named_leaves(variables)
    assert len(loaded) == len(tensors) == len(report.loaded) and not report.unused
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, original[name])
    if NETS[key] == B1 or (not SOURCES[key].anchor and key != 'erfnet_encoder'):
        assert loaded.keys() == original.keys()  # a whole net's naming has a place for everything


def test_kernels_have_torchs_axes():
    # In torch y[o] is the sum over i, a, b of w[o, i, a, b] x[i, a, b]. Transposed convolutions
    # have w[i, o, a, b].
    forward = named_leaves(variables_of('coin'))['params/sp/conv1/conv/kernel']
    tensor = pretrained.export_weights(variables_of('coin'), SOURCES['coin'])[
        'sp.conv1.conv.weight'
    ]
    chex.assert_shape(tensor, (forward.shape[3], 3, 7, 7))
    assert tensor[2, 1, 3, 5] == forward[3, 5, 1, 2]
    transposed = named_leaves(variables_of('erfnet'))['params/decoder/layers_0/conv/kernel']
    tensor = pretrained.export_weights(variables_of('erfnet'), SOURCES['erfnet'])[
        'decoder.layers.0.conv.weight'
    ]
    chex.assert_shape(tensor, (32, 16, 3, 3))
    assert tensor[7, 2, 0, 1] == transposed[0, 1, 7, 2]


def test_kernels_of_linear_layers_have_torchs_axes():
    kernel = named_leaves(variables_of('efficientnet_timm'))['params/classifier/kernel']
    tensor = pretrained.export_weights(
        variables_of('efficientnet_timm'), SOURCES['efficientnet_timm']
    )
    chex.assert_shape(tensor['classifier.weight'], (5, 80))
    assert tensor['classifier.weight'][3, 7] == kernel[7, 3]


def test_a_linear_layer_on_flattened_features_is_a_convolution():
    variables = variables_of('vgg')
    tensors = pretrained.export_weights(variables, SOURCES['vgg'])
    out, channels, height, width = tensors['classifier.0.weight'].shape
    assert (height, width) == (7, 7)
    linear = np.random.default_rng(1).standard_normal((out, channels * 49)).astype(np.float32)
    loaded, _ = imported('vgg', tensors | {'classifier.0.weight': linear}, variables)
    x = np.random.default_rng(2).standard_normal((channels, 7, 7)).astype(np.float32)
    convolved = np.einsum('abio,iab->o', loaded['params/color/fc6/kernel'], x)
    np.testing.assert_allclose(convolved, linear @ x.ravel(), atol=1e-4)


def test_wrappers_and_older_names():
    variables = variables_of('kazuto')
    tensors = pretrained.export_weights(variables, SOURCES['kazuto'])
    older = {
        'module.scale.'
        + name.replace('.shortcut.', '.proj.').replace('aspp.', 'aspp.stages.'): tensor
        for name, tensor in tensors.items()
    } | {'module.scale.layer1.conv1.bn.num_batches_tracked': np.array(7)}
    assert pretrained.detect(older, 'w.npz') == 'kazuto'
    loaded, report = imported('kazuto', older, variables)
    assert len(loaded) == len(tensors) and not report.unused


# --- tensors that may be absent -------------------------------------------------------------------


def test_another_number_of_classes_keeps_the_initial_classifier():
    tensors = pretrained.export_weights(variables_of('semseg', 3), SOURCES['semseg'])
    loaded, report = imported('semseg', tensors, variables_of('semseg', 5))
    original = named_leaves(variables_of('semseg', 5))
    assert original.keys() - loaded.keys() == {
        f'params/{head}_4/{leaf}' for head in ('cls', 'aux') for leaf in ('kernel', 'bias')
    }
    assert any(
        'cls_4: keeps its random initialisation (3 classes in the file, 5 here)' in line
        for line in report.initialised
    )
    assert 'cls.4.weight' in report.unused


def test_classifier_of_imagenet_and_auxiliary_heads_are_listed():
    tensors = pretrained.export_weights(variables_of('resnet'), SOURCES['resnet'])
    _, report = imported(
        'resnet',
        tensors | {'fc.weight': np.ones((1000, 32)), 'fc.bias': np.ones(1000)},
        variables_of('resnet'),
    )
    assert report.unused == ('fc.weight', 'fc.bias')
    outside = {line.split(':')[0] for line in report.initialised}
    assert {'ffm', 'sp', 'cp/arm16', 'cp/conv_avg'} <= outside and 'cp' not in outside
    assert 'fc.bias' in str(report) and 'cp: ' in str(report)
    tensors = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
    tested = {name: tensor for name, tensor in tensors.items() if not name.startswith('aux.')}
    loaded, report = imported('semseg', tested, variables_of('semseg'))
    assert (
        len(loaded) == len(tested)
        and sum('not in the file' in line for line in report.initialised) == 3
    )


def test_arrays_that_no_release_has_keep_their_initialisation():
    variables = variables_of('kazuto')
    tensors = pretrained.export_weights(variables, SOURCES['kazuto'])
    params = variables['params'] | {
        'aspp': variables['params']['aspp']
        | {'c0': variables['params']['aspp']['c0'] | {'dilation': np.ones(3)}}
    }
    loaded, report = imported('kazuto', tensors, variables | {'params': params})
    assert len(loaded) == len(tensors)
    assert [line.split(':')[0] for line in report.initialised] == ['aspp/c0/dilation']


def test_a_backbone_with_other_strides_is_noted():
    net = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), abstract(*NETS['kazuto']))
    tensors = pretrained.export_weights(net, SOURCES['resnet'])
    assert 'on the 1x1' in str(imported('resnet', tensors, net)[1])


LARGEFOV = NETS['largefov_caffe']


@pytest.mark.parametrize(
    'key, fc6, fc7', [('vgg', 'classifier.0', 'classifier.3'), ('vgg_caffe', 'fc6', 'fc7')]
)
@pytest.mark.parametrize('linear', [False, True])
def test_fc6_and_fc7_of_largefov_are_samples_of_vggs(key, fc6, fc7, linear):
    """Checks all numbers: every fourth output, third tap of 7x7, and fourth input of fc7."""
    vgg = pretrained.export_weights(variables_of(key), SOURCES[key])
    draw = np.random.default_rng(3)
    wide = (
        draw.standard_normal((64, 8, 7, 7), np.float32),
        draw.standard_normal((64, 64, 1, 1), np.float32),
    )
    biases = draw.standard_normal((2, 64), np.float32)
    for name, weight, bias in zip((fc6, fc7), wide, biases, strict=True):
        vgg[f'{name}.weight'] = weight.reshape(64, -1) if linear else weight
        vgg[f'{name}.bias'] = bias
    net = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), abstract(*LARGEFOV))
    loaded, report = imported(key, vgg, net)
    chex.assert_shape(loaded['params/fc6/kernel'], (3, 3, 8, 16))
    chex.assert_shape(loaded['params/fc7/kernel'], (1, 1, 16, 16))
    for o in range(16):
        assert (
            loaded['params/fc6/bias'][o] == biases[0][4 * o]
            and loaded['params/fc7/bias'][o] == biases[1][4 * o]
        )
        for i in range(8):
            for row in range(3):
                for column in range(3):
                    expected = wide[0][4 * o, i, 3 * row, 3 * column]
                    assert loaded['params/fc6/kernel'][row, column, i, o] == expected
        for i in range(16):
            assert loaded['params/fc7/kernel'][0, 0, i, o] == wide[1][4 * o, 4 * i, 0, 0]
    assert 'fc8: keeps its random initialisation' in str(report) and '(64, 8, 7, 7)' in str(report)


def test_vgg19_has_layers_behind_the_features_of_the_perceptual_loss():
    variables = variables_of('vgg19')
    tensors = pretrained.export_weights(variables, SOURCES['vgg19'])
    behind = {f'features.{i}.weight': np.zeros((8, 8, 3, 3), np.float32) for i in (30, 32, 34)}
    behind['classifier.0.weight'] = np.zeros((64, 392), np.float32)
    assert pretrained.detect(tensors | behind, 'w.npz') == 'vgg19'
    loaded, _ = imported('vgg19', tensors | behind, variables)
    assert len(loaded) == len(tensors) == 2 * 13


def test_heads_without_drop_out_or_in_a_file_with_their_net_are_loaded():
    variables = variables_of('lpips')
    tensors = pretrained.export_weights(variables, SOURCES['lpips'])
    tensors = {name.replace('model.1', 'model.0'): array for name, array in tensors.items()}
    whole = tensors | {'net.slice1.0.weight': np.ones((64, 3, 3, 3), np.float32)}
    assert pretrained.detect(whole, 'w.npz') == 'lpips'
    loaded, report = imported('lpips', whole, variables)
    assert report.unused == ('net.slice1.0.weight',)
    for name, array in named_leaves(variables).items():
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize('key, deepest', [('vgg', 13), ('vgg19', 16)])
def test_layers_behind_the_features_of_a_vgg_are_no_surplus(key, deepest):
    name = {'vgg': 'vgg16', 'vgg19': 'vgg19'}[key]
    last = {'vgg': 'conv5_3', 'vgg19': 'conv5_4'}[key]
    variables = {}
    for layers in (('conv2_2',), (last,)):
        net = models.build('features', name, dtype='float32', width=TINY, layers=layers)
        shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
        variables[layers] = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    tensors = pretrained.export_weights(variables[(last,)], SOURCES[key])
    behind = {'vgg': 'features.28.bias', 'vgg19': 'features.34.bias'}[key]
    assert len(tensors) == 2 * deepest and behind in tensors
    loaded, report = imported(key, tensors, variables[('conv2_2',)])
    assert len(loaded) == 2 * 4 and len(report.unused) == 2 * (deepest - 4)
    with pytest.raises(InputError, match='1 have no place here'):
        imported(key, tensors | {'features.1.weight': np.zeros(3)}, variables[('conv2_2',)])


def test_vgg_without_a_classifier_keeps_the_initial_fc6_and_fc7():
    tensors = pretrained.export_weights(variables_of('vgg'), SOURCES['vgg'])
    short = {name: tensor for name, tensor in tensors.items() if name.startswith('features.')}
    net = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), abstract(*LARGEFOV))
    loaded, report = imported('vgg', short, net)
    assert len(loaded) == 26 and not any('fc' in name for name in loaded)
    assert {'fc6', 'fc7'} <= {line.split(':')[0] for line in report.initialised}


@pytest.mark.parametrize('head', ['fc8_cityscapes_2', 'fc8_coco', 'fc8_voc12_2'])
def test_largefov_as_a_branch_of_version_2(head):
    variables = variables_of('largefov_caffe')
    tensors = pretrained.export_weights(variables, SOURCES['largefov_caffe'])
    branch = '_2' if head.endswith('_2') else ''
    older = {
        name.replace('fc8_voc12', head)
        .replace('fc6', f'fc6{branch}')
        .replace('fc7', f'fc7{branch}'): tensor
        for name, tensor in tensors.items()
    }
    for name in ('fc6_1', 'fc7_4', 'fc8_voc12_3', 'hole_conv_5_1'):
        older |= {f'{name}.weight': np.ones((2, 2, 3, 3)), f'{name}.bias': np.ones(2)}
    assert pretrained.detect(older, 'w.npz') == 'largefov_caffe'
    loaded, _ = imported('largefov_caffe', older, variables)
    assert len(loaded) == len(tensors)
    original = named_leaves(variables)
    for name in ('params/fc6/kernel', 'params/fc8/bias'):
        np.testing.assert_array_equal(loaded[name], original[name])


def test_coco_weights_of_kazuto_have_one_convolution_in_place_of_the_pyramid():
    variables = variables_of('kazuto')
    tensors = pretrained.export_weights(variables, SOURCES['kazuto'])
    coco = {name: tensor for name, tensor in tensors.items() if not name.startswith('aspp')}
    coco |= {'fc.weight': np.ones((91, 128, 1, 1)), 'fc.bias': np.ones(91)}
    assert pretrained.detect(coco, 'w.npz') == 'kazuto'
    loaded, report = imported('kazuto', coco, variables)
    assert len(loaded) == len(coco) - 2 and set(report.unused) == {'fc.weight', 'fc.bias'}
    assert {f'aspp/c{i}' for i in range(4)} == {line.split(':')[0] for line in report.initialised}


# --- errors ---------------------------------------------------------------------------------------


def broken(tensors, change):
    tensors = dict(tensors)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.pop('layer1.0.bn2.running_var'), r'no tensor layer1\.0\.bn2\.running_var'),
        (
            lambda t: t.update({'layer9.0.conv1.weight': np.ones((1, 1))}),
            r'layer9\.0\.conv1\.weight \(1, 1\) that has no',
        ),
        (
            lambda t: t.update({'layer0.0.weight': t['layer0.0.weight'].transpose(2, 3, 1, 0)}),
            r'layer0\.0\.weight: \(3, 3, 3, 4\), not \(4, 3, 3, 3\)',
        ),
        (
            lambda t: t.update({'cls.0.weight': t['cls.0.weight'] * np.nan}),
            r'NaN or infinity in cls\.0\.weight',
        ),
    ],
    ids=['missing', 'surplus', 'transposed', 'nan'],
)
def test_a_tensor_that_does_not_fit_is_an_error_with_file_and_tensor(change, message):
    tensors = broken(pretrained.export_weights(variables_of('semseg'), SOURCES['semseg']), change)
    with pytest.raises(InputError, match=message) as caught:
        imported('semseg', tensors, variables_of('semseg'))
    assert caught.value.where == 'w.npz' and caught.value.got and caught.value.expected


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda t: t.pop('_blocks.3._se_expand.bias'),
            r'no tensor _blocks\.3\._se_expand\.bias \(48,\)',
        ),
        (
            lambda t: t.update({'_blocks.23._bn1.bias': np.ones(8)}),
            r'_blocks\.23\._bn1\.bias \(8,\) that has no place',
        ),
        (
            lambda t: t.update({'_fc.weight': t['_fc.weight'].T}),
            r'_fc\.weight: \(80, 5\), not \(5, 80\)',
        ),
        (
            lambda t: t.update({'_blocks.0._depthwise_conv.weight': np.ones((3, 3, 1, 8))}),
            r'_blocks\.0\._depthwise_conv\.weight: \(3, 3, 1, 8\), not \(8, 1, 3, 3\)',
        ),
    ],
    ids=['missing', 'surplus', 'linear transposed', 'depthwise transposed'],
)
def test_a_tensor_that_does_not_fit_an_efficientnet_is_named(change, message):
    variables = variables_of('efficientnet_pytorch')
    tensors = broken(pretrained.export_weights(variables, SOURCES['efficientnet_pytorch']), change)
    with pytest.raises(InputError, match=message):
        imported('efficientnet_pytorch', tensors, variables)


def test_padding_and_batch_norm_of_a_source_are_noted():
    for key, padding in (
        ('timm', 'symmetric'),
        ('timm_tf', 'same'),
        ('torchvision', 'symmetric'),
        ('pytorch', 'same'),
    ):
        source = SOURCES[f'efficientnet_{key}']
        variables = variables_of(f'efficientnet_{key}')
        _, report = imported(
            f'efficientnet_{key}', pretrained.export_weights(variables, source), variables
        )
        assert f"padding='{padding}'" in str(report) and 'norm_epsilon=1e-' in str(report)


def test_another_stem_is_left_out_of_an_import():
    variables = variables_of('efficientnet_pytorch')
    inner = variables['params']['efficientnet'] | {
        'conv_stem': {'kernel': np.ones((3, 3, 2, 16)), 'bias': np.ones(16)}
    }
    ours = {'sem': variables['params'] | {'efficientnet': inner}}
    state = types.SimpleNamespace(
        params=ours, model_state={'sem': {'batch_stats': variables['batch_stats']}}
    )
    tensors = pretrained.export_weights(variables, SOURCES['efficientnet_pytorch'])
    weights = pretrained.Weights('w.npz', tensors, 'efficientnet_pytorch')
    options = dict(partial=False, nets=('(?!.*conv_stem)',))
    loaded, printed = pretrained.load_for(state, weights, types.SimpleNamespace(**options))
    names = set(named_leaves(loaded['params']['sem']))
    assert set(named_leaves(ours['sem'])) - names == {
        f'efficientnet/conv_stem/{leaf}' for leaf in ('kernel', 'bias')
    }
    assert '_conv_stem.weight' in printed
    with pytest.raises(
        InputError, match=r'_conv_stem\.weight: \(8, 3, 3, 3\), not \(16, 2, 3, 3\)'
    ):
        pretrained.load_for(state, weights, types.SimpleNamespace(**options | dict(nets=('.*',))))


def test_a_deeper_net_of_the_same_release_is_an_error():
    deeper = jax.tree.map(
        lambda s: np.zeros(s.shape, np.float32),
        abstract('pspnet', dict(width=TINY, num_layers=101)),
    )
    tensors = pretrained.export_weights(deeper, SOURCES['semseg'])
    with pytest.raises(InputError, match=r'layer3\.\d+\.\S+ .*that has no place here') as caught:
        imported('semseg', tensors, variables_of('semseg'))
    assert "pspnet of the file's depth" in caught.value.expected
    with pytest.raises(InputError, match=r'no tensor layer3\.\d+\.'):
        shallow = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
        imported('semseg', shallow, deeper)


def test_partial_loads_fitting_tensors_and_lists_all_others():
    tensors = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
    del tensors['layer1.0.bn2.running_var']
    tensors['layer9.weight'] = np.ones(3)
    tensors['layer0.0.weight'] = np.ones((1, 2, 3, 3))
    loaded, report = imported('semseg', tensors, variables_of('semseg'), partial=True)
    assert (
        'params/resnet/conv1_0/kernel' not in loaded
        and 'params/resnet/layer1_0/bn2/scale' not in loaded
    )
    assert 'layer9.weight' in report.unused
    assert {'resnet/conv1_0', 'resnet/layer1_0/bn2'} <= {
        line.split(':')[0] for line in report.initialised
    }


def test_only_wanted_arrays_must_be_in_the_file():
    tensors = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
    short = {name: tensor for name, tensor in tensors.items() if name.startswith('layer')}
    loaded, _ = imported(
        'semseg', short, variables_of('semseg'), wanted=lambda name: name.startswith('resnet/')
    )
    assert len(loaded) == len(short)


def test_weights_of_another_net_are_counted():
    tensors = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
    del tensors['layer1.0.bn2.running_var']
    tensors |= {'layer9.weight': np.ones(3), 'layer0.0.weight': np.ones((1, 2, 3, 3))}
    with pytest.raises(InputError) as caught:
        imported('semseg', tensors, variables_of('semseg'))
    count = len(pretrained.export_weights(variables_of('semseg'), SOURCES['semseg']))
    counts = f'{count - 2} of {count} tensors match, 1 are missing, 1 have another shape, '
    counts += '1 have no place here'
    assert counts in caught.value.got and 'hszhao/semseg, PSPNet' in caught.value.got
    assert 'layer0.0.weight: (1, 2, 3, 3), not (4, 3, 3, 3)' in caught.value.got
    assert caught.value.fix.startswith('--config.init_from.partial=True ')


def test_weights_of_no_net_name_their_own():
    tensors = pretrained.export_weights(variables_of('semseg'), SOURCES['semseg'])
    weights = pretrained.Weights('w.npz', tensors, 'semseg')
    error = pretrained.nothing_fits(weights, types.SimpleNamespace(nets=('.*',)), {'segmenter': {}})
    assert 'hszhao/semseg, PSPNet' in error.got and 'pspnet' in error.expected
    error = pretrained.nothing_fits(
        weights, types.SimpleNamespace(nets=('depth/.*',)), {'segmenter': {}}
    )
    assert 'depth/.*' in error.got and '--config.init_from.nets=(".*",)' in error.fix
