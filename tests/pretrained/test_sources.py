"""Namings of releases: pairs of our names and theirs, and how a source is detected."""

import numpy as np
import pytest
from release_nets import ALIKE, NETS, variables_of

from segjax import pretrained
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.ops import images
from segjax.pretrained.sources import SOURCES

TIMM_EFFICIENTNET = {
    'params/efficientnet/bn0/scale': 'bn1.weight',
    'params/efficientnet/conv_head/kernel': 'conv_head.weight',
    'params/efficientnet/bn1/scale': 'bn2.weight',
    'params/efficientnet/blocks_0_1/depthwise_conv/kernel': 'blocks.0.1.conv_dw.weight',
    'params/efficientnet/blocks_0_1/bn1/scale': 'blocks.0.1.bn1.weight',
    'params/efficientnet/blocks_0_1/project_conv/kernel': 'blocks.0.1.conv_pw.weight',
    'params/efficientnet/blocks_0_1/bn2/bias': 'blocks.0.1.bn2.bias',
    'params/efficientnet/blocks_3_2/expand_conv/kernel': 'blocks.3.2.conv_pw.weight',
    'params/efficientnet/blocks_3_2/bn0/bias': 'blocks.3.2.bn1.bias',
    'params/efficientnet/blocks_3_2/se_reduce/kernel': 'blocks.3.2.se.conv_reduce.weight',
    'params/efficientnet/blocks_3_2/project_conv/kernel': 'blocks.3.2.conv_pwl.weight',
    'params/efficientnet/blocks_3_2/bn2/scale': 'blocks.3.2.bn3.weight',
}
"""Pairs of both sources of timm, which differ in padding only."""

TIMM_LITE = {
    'params/efficientnet/conv_stem/kernel': 'conv_stem.weight',
    'params/efficientnet/bn0/scale': 'bn1.weight',
    'params/efficientnet/blocks_0_0/depthwise_conv/kernel': 'blocks.0.0.conv_dw.weight',
    'params/efficientnet/blocks_0_0/bn1/scale': 'blocks.0.0.bn1.weight',
    'params/efficientnet/blocks_0_0/project_conv/kernel': 'blocks.0.0.conv_pw.weight',
    'params/efficientnet/blocks_0_0/bn2/bias': 'blocks.0.0.bn2.bias',
    'params/efficientnet/blocks_1_2/expand_conv/kernel': 'blocks.1.2.conv_pw.weight',
    'params/efficientnet/blocks_1_2/bn0/bias': 'blocks.1.2.bn1.bias',
    'batch_stats/efficientnet/blocks_1_2/bn1/var': 'blocks.1.2.bn2.running_var',
    'params/efficientnet/blocks_6_0/project_conv/kernel': 'blocks.6.0.conv_pwl.weight',
    'params/efficientnet/bn1/scale': 'bn2.weight',
    'params/classifier/bias': 'classifier.bias',
}
"""Pairs of the lite family of timm, whose blocks have no squeeze and excitation."""

NAMES = {
    'resnet': {
        'params/cp/resnet/conv1/kernel': 'conv1.weight',
        'batch_stats/cp/resnet/layer2_0/downsample_1/var': 'layer2.0.downsample.1.running_var',
        'params/cp/resnet/layer4_1/bn2/scale': 'layer4.1.bn2.weight',
    },
    'vgg': {
        'params/color/vgg/conv1_1/kernel': 'features.0.weight',
        'params/color/vgg/conv3_2/bias': 'features.12.bias',
        'params/color/vgg/conv5_3/kernel': 'features.28.weight',
        'params/color/fc7/bias': 'classifier.3.bias',
    },
    'vgg19': {
        'params/vgg/conv1_1/kernel': 'features.0.weight',
        'params/vgg/conv3_4/bias': 'features.16.bias',
        'params/vgg/conv4_3/kernel': 'features.23.weight',
        'params/vgg/conv5_1/kernel': 'features.28.weight',
    },
    'lpips': {
        'params/conv1_2/kernel': 'lin0.model.1.weight',
        'params/conv4_3/kernel': 'lin3.model.1.weight',
        'params/conv5_3/kernel': 'lin4.model.1.weight',
    },
    'vgg_caffe': {
        'params/color/vgg/conv3_2/bias': 'conv3_2.bias',
        'params/color/fc6/kernel': 'fc6.weight',
    },
    'largefov_caffe': {
        'params/vgg/conv1_1/kernel': 'conv1_1.weight',
        'params/fc7/bias': 'fc7.bias',
        'params/fc8/kernel': 'fc8_voc12.weight',
    },
    'xception': {
        'params/xception/stem_1/conv/kernel': 'stem.1.conv.weight',
        'batch_stats/xception/blocks_11/stack/conv3/bn_pw/mean': (
            'blocks.11.stack.conv3.bn_pw.running_mean'
        ),
        'params/xception/blocks_0/shortcut/bn/bias': 'blocks.0.shortcut.bn.bias',
    },
    'efficientnet_torchvision': {
        'params/efficientnet/conv_stem/kernel': 'features.0.0.weight',
        'batch_stats/efficientnet/bn0/var': 'features.0.1.running_var',
        'params/efficientnet/blocks_0_1/depthwise_conv/kernel': 'features.1.1.block.0.0.weight',
        'params/efficientnet/blocks_0_0/se_expand/bias': 'features.1.0.block.1.fc2.bias',
        'params/efficientnet/blocks_0_0/bn2/scale': 'features.1.0.block.2.1.weight',
        'params/efficientnet/blocks_5_4/bn0/scale': 'features.6.4.block.0.1.weight',
        'params/efficientnet/blocks_5_4/se_reduce/bias': 'features.6.4.block.2.fc1.bias',
        'params/efficientnet/blocks_5_4/bn2/bias': 'features.6.4.block.3.1.bias',
        'params/efficientnet/bn1/scale': 'features.8.1.weight',
        'params/classifier/kernel': 'classifier.1.weight',
    },
    'efficientnet_timm': {
        **TIMM_EFFICIENTNET,
        'params/classifier/bias': 'classifier.bias',
    },
    'efficientnet_timm_tf': TIMM_EFFICIENTNET,
    'efficientnet_lite_timm': TIMM_LITE,
    'efficientnet_lite_timm_tf': TIMM_LITE,
    'efficientnet_pytorch': {
        'params/efficientnet/conv_stem/kernel': '_conv_stem.weight',
        'batch_stats/efficientnet/bn0/mean': '_bn0.running_mean',
        'params/efficientnet/blocks_0_1/bn2/scale': '_blocks.1._bn2.weight',
        'params/efficientnet/blocks_1_0/expand_conv/kernel': '_blocks.2._expand_conv.weight',
        'params/efficientnet/blocks_6_1/se_reduce/bias': '_blocks.22._se_reduce.bias',
        'params/efficientnet/bn1/bias': '_bn1.bias',
        'params/classifier/kernel': '_fc.weight',
    },
    'semseg': {
        'params/resnet/conv1_6/kernel': 'layer0.6.weight',
        'params/resnet/bn1/scale': 'layer0.7.weight',
        'params/resnet/layer3_5/conv1/kernel': 'layer3.5.conv1.weight',
        'batch_stats/ppm/features_2_2/mean': 'ppm.features.2.2.running_mean',
        'params/cls_4/bias': 'cls.4.bias',
    },
    'semseg_resnet': {
        'params/resnet/conv1_3/kernel': 'conv2.weight',
        'params/resnet/conv1_1/scale': 'bn1.weight',
        'params/resnet/bn1/scale': 'bn3.weight',
        'params/resnet/layer1_0/bn1/scale': 'layer1.0.bn1.weight',
    },
    'coin': {
        'params/cp/arm16/conv_atten/kernel': 'cp.arm16.conv_atten.weight',
        'params/cp/resnet/layer1_0/conv1/kernel': 'cp.resnet.layer1.0.conv1.weight',
        'params/conv_out16/conv/bn/bias': 'conv_out16.conv.bn.bias',
    },
    'erfnet': {
        'params/encoder/layers_3/conv1x3_2/kernel': 'encoder.layers.3.conv1x3_2.weight',
        'params/decoder/output_conv/bias': 'decoder.output_conv.bias',
    },
    'erfnet_encoder': {
        'params/encoder/initial_block/conv/kernel': 'features.encoder.initial_block.conv.weight',
    },
    'kazuto': {
        'params/resnet/conv1/kernel': 'layer1.conv1.conv.weight',
        'params/resnet/layer1_0/downsample_0/kernel': 'layer2.block1.shortcut.conv.weight',
        'batch_stats/resnet/layer4_2/bn3/var': 'layer5.block3.increase.bn.running_var',
        'params/resnet/layer2_3/conv2/kernel': 'layer3.block4.conv3x3.conv.weight',
        'params/aspp/c3/bias': 'aspp.c3.bias',
    },
}
"""{source: {our name: name in the release}}, read off the code of the releases.

A new source starts here, with pairs for each kind of layer.
"""


@pytest.mark.parametrize('source', SOURCES)
def test_names_are_those_of_the_release(source):
    variables = variables_of(source)
    arrays = named_leaves(variables)
    tensors = pretrained.export_weights(variables, SOURCES[source])
    for ours, theirs in NAMES[source].items():
        # Values are random, so equal values in some order mean the same array.
        np.testing.assert_array_equal(
            np.sort(tensors[theirs], None), np.sort(arrays[ours], None), err_msg=theirs
        )


def test_modules_that_are_numbered_through_are_counted_in_their_order():
    source = SOURCES['efficientnet_pytorch']
    paths = [
        f'efficientnet/blocks_{s}_{j}/bn1'
        for s, count in ((10, 1), (2, 12), (0, 1))
        for j in range(count)
    ]
    numbers = source.numbers([*paths, 'decoder/blocks_1_0'])  # the decoder is none of the release's
    assert [numbers[one] for one in ('0_0', '2_0', '2_9', '2_10', '10_0')] == [
        '0',
        '1',
        '10',
        '11',
        '13',
    ]
    assert source.theirs('efficientnet/blocks_2_10/bn1', numbers) == '_blocks.11._bn1'


@pytest.mark.parametrize('source', SOURCES)
def test_a_source_is_detected_by_its_names(source):
    tensors = pretrained.export_weights(variables_of(source), SOURCES[source])
    assert pretrained.detect(tensors, 'w.npz', source if source in ALIKE else '') == source


def test_detection_names_the_tensors_and_the_known_sources():
    with pytest.raises(InputError, match=r'head\.weight.*in no known naming') as caught:
        pretrained.detect({'head.weight': 0}, 'w.npz')
    assert caught.value.where == 'w.npz' and 'hszhao/semseg' in caught.value.expected
    with pytest.raises(InputError, match="did you mean 'resnet'"):
        pretrained.detect({}, 'w.npz', source='resnt')


def test_detection_without_a_source_gives_an_argument():
    with pytest.raises(InputError) as caught:
        pretrained.detect({'head.weight': 0}, 'w.npz')
    assert caught.value.fix.startswith('--config.init_from.path= ')
    with pytest.raises(InputError) as caught:
        pretrained.detect({'layer0.0.weight': 0, 'ppm.features.0.1.weight': 0}, 'w.npz')
    assert caught.value.fix.startswith('--config.init_from.source=semseg ')


@pytest.mark.parametrize('source', ['efficientnet_timm', 'efficientnet_lite_timm'])
def test_names_that_two_sources_share_are_asked_about(source):
    tensors = pretrained.export_weights(variables_of(source), SOURCES[source])
    with pytest.raises(InputError, match=f' {source} or {source}_tf') as caught:
        pretrained.detect(tensors, 'w.npz')
    assert 'config.init_from.source' in caught.value.fix


def test_every_source_names_a_scheme_and_a_net():
    assert SOURCES.keys() == NETS.keys()
    assert {source.scheme for source in SOURCES.values()} <= images.SCHEMES.keys()
