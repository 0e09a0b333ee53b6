r"""The releases whose weights can be read: names, allowed differences, preparation of images.

A `Naming` is data. Its rules turn the path of a module of ours into the name in the release. The
importer asks the file for that name, and the exporter writes it, so the two cannot disagree.

A worked example, SOURCES['resnet']. Its three rules and the final '/' turn a module of ours, inside
any net with a ResNet, into the name of torchvision:

    cp/resnet/layer2_0/downsample_1    our module, where `anchor` = 'resnet' removes 'cp/'
    resnet/layer2_0/downsample_1       rule ('^resnet/', '')
    layer2_0/downsample_1              rule (r'layer(\d)_(\d+)', r'layer\1.\2')
    layer2.0/downsample_1              rule (r'downsample_(\d)', r'downsample.\1')
    layer2.0/downsample.1              '/' becomes '.'
    layer2.0.downsample.1              convert.py adds the name of the array: '.running_var'

To add a source:

  1. Write pairs of our names and theirs into NAMES of tests/pretrained/test_sources.py, for each
     kind of layer, from the code or a file of the release.
  2. Add a Naming with rules until the test of the pairs passes.
  3. Choose `marks` that no file of another release has. If the names cannot be told apart, the user
     must choose (see `detect`).
  4. Say in `notes` how a net must be built for these weights, where their shapes do not show it.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from segjax.errors import InputError, unknown_name

NOTHING = r'(?!)'
"""A pattern that matches nothing."""


class Naming(NamedTuple):
    """The names of the tensors of one release.

    Paths of ours are paths of modules, e.g. 'resnet/layer1_0/conv1'. If there is an `anchor`, they
    are relative to its parent. Patterns match whole names, except in `names` and `aliases`.

    release     the release, for messages
    fits        the nets of ours that load it, for messages
    scheme      how its images were prepared, a key of ops.images.SCHEMES
    marks       patterns of tensor names, all of which a file in this naming has
    names       (pattern, replacement) of re.sub, applied in turn to a path of ours. The result is
                the release's name, with '/' for '.'
    anchor      module of ours that the release consists of, anywhere in a net. '': the whole net
    scope       pattern of the paths of ours that the release has
    aliases     (pattern, replacement) of re.sub on the names in a file, for older versions
    may_lack    pattern of paths that a file need not have
    classifier  pattern of paths that depend on the number of classes. Another number, or an absent
                tensor, is no error
    may_differ  pattern of paths that may have any other shape, or be absent
    surplus     pattern of tensor names that need no place in a net of ours
    transposed  pattern of paths that are transposed convolutions
    sampled     (pattern of paths, (outputs, inputs, extent)) of layers of which a net of ours may
                have a sample. The release's layer has `outputs` times our outputs, `inputs`
                times our inputs, and a kernel of extent x extent
    numbered    pattern of the part of a path that becomes a running number, for modules that a
                release numbers through. `names` must leave this part as it is. Numbers start at 0
                and follow the numbers inside the part, among all modules of the net
    notes       (pattern of a path, note for the user of a net that has it)
    """

    release: str
    fits: str
    scheme: str
    marks: tuple[str, ...]
    names: tuple[tuple[str, str | Callable], ...]
    anchor: str = ''
    scope: str = '.*'
    aliases: tuple[tuple[str, str], ...] = ()
    may_lack: str = NOTHING
    classifier: str = NOTHING
    may_differ: str = NOTHING
    surplus: str = NOTHING
    transposed: str = NOTHING
    sampled: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    numbered: str = NOTHING
    notes: tuple[tuple[str, str], ...] = ()

    def numbers(self, paths: Iterable[str]) -> dict[str, str]:
        """Returns {match of `numbered`: running number} of a net with the modules `paths`."""
        matches = set()
        for path in paths:
            match = re.search(self.numbered, path)
            if match and re.fullmatch(self.scope, path):
                matches.add(match[0])
        order = sorted(matches, key=lambda match: [int(n) for n in re.findall(r'\d+', match)])
        return {match: str(i) for i, match in enumerate(order)}

    def theirs(self, path: str, numbers: Mapping[str, str]) -> str:
        """Returns the release's name of a module of ours.

        Args:
          path: of our module.
          numbers: from `numbers`, of the net with this module.
        """
        for pattern, replacement in self.names:
            path = re.sub(pattern, replacement, path)
        path = re.sub(self.numbered, lambda match: numbers[match[0]], path)
        return path.replace('/', '.')

    def canonical(self, name: str) -> str:
        """Returns a tensor's name without the parts that wrappers and older versions add."""
        for pattern, replacement in ((r'^module\.', ''), *self.aliases):
            name = re.sub(pattern, replacement, name)
        return name


# --- rules that several namings share -------------------------------------------------------------

_RESNET = (
    (r'layer(\d)_(\d+)', r'layer\1.\2'),
    (r'downsample_(\d)', r'downsample.\1'),
    (r'\bconv1_(\d)', r'conv1.\1'),
)
_STRIDES = (
    'aspp/c0',
    'trained with strides on the 3x3 convolutions; deeplab_v2 has them on the 1x1 convolutions, '
    "as the weights of source 'kazuto'",
)
_VGG = (
    *(('conv1_1', 0), ('conv1_2', 2), ('conv2_1', 5), ('conv2_2', 7)),
    *(('conv3_1', 10), ('conv3_2', 12), ('conv3_3', 14)),
    *(('conv4_1', 17), ('conv4_2', 19), ('conv4_3', 21)),
    *(('conv5_1', 24), ('conv5_2', 26), ('conv5_3', 28)),
)
_VGG19 = (
    *(('conv1_1', 0), ('conv1_2', 2), ('conv2_1', 5), ('conv2_2', 7)),
    *(('conv3_1', 10), ('conv3_2', 12), ('conv3_3', 14), ('conv3_4', 16)),
    *(('conv4_1', 19), ('conv4_2', 21), ('conv4_3', 23), ('conv4_4', 25)),
    *(('conv5_1', 28), ('conv5_2', 30), ('conv5_3', 32), ('conv5_4', 34)),
)


def _layers_of(numbers: Iterable[tuple[str, int]]) -> str:
    """Returns the pattern of the tensors of all convolutions of a VGG, and of its classifier.

    A net of features ends with its deepest layer. The layers behind it have no place there.
    """
    layers = '|'.join(str(number) for _, number in numbers)
    return rf'features\.({layers})\..*|classifier\..*'


_LPIPS = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3')
"""Layers of VGG16 with a linear head, in the order of the heads."""

# fc6 and fc7 of VGG16 have 4096 x 512 x 7 x 7 and 4096 x 4096 x 1 x 1 numbers. LargeFOV has
# 1024 x 512 x 3 x 3 and 1024 x 1024 x 1 x 1.
_VGG_CLASSIFIER = (('fc6', (4, 1, 7)), ('fc7', (4, 4, 1)))
_IN_VGG = dict(anchor='vgg', scope='vgg/.*|fc6|fc7', may_differ='fc6|fc7', sampled=_VGG_CLASSIFIER)

_IN_EFFICIENTNET = dict(
    anchor='efficientnet', scope='efficientnet/.*|classifier', classifier='classifier'
)
_STEM = r'(.*/)?efficientnet/conv_stem'
_ADVPROP = (
    _STEM,
    "AdvProp's weights (adv-efficientnet, .ap_) were trained with images prepared as 'symmetric'",
)
_TIMM_EFFICIENTNET = dict(
    marks=(
        r'conv_stem\.weight',
        r'blocks\.0\.0\.se\.conv_reduce\.weight',
        r'conv_head\.weight',
        r'bn2\.weight',
    ),
    names=(
        (r'^efficientnet/', ''),
        # timm counts existing layers only. Blocks of the first stage do not expand.
        (r'^(?!blocks_0_)(.*)\bbn(\d)$', lambda m: f'{m[1]}bn{int(m[2]) + 1}'),
        (r'^(blocks_0_\d+)/project_conv$', r'\1/conv_pw'),
        ('expand_conv$', 'conv_pw'),
        ('depthwise_conv$', 'conv_dw'),
        ('project_conv$', 'conv_pwl'),
        ('se_(reduce|expand)$', r'se.conv_\1'),
        (r'^blocks_(\d)_', r'blocks.\1.'),
    ),
    surplus=r'classifier\..*',
    **_IN_EFFICIENTNET,
)

# A file of B0 to B7 has these marks, and a mark of squeeze and excitation: the closer fit.
_TIMM_LITE = {
    **_TIMM_EFFICIENTNET,
    'marks': (
        r'conv_stem\.weight',
        r'blocks\.0\.0\.conv_dw\.weight',
        r'conv_head\.weight',
    ),
}

# --- the namings ----------------------------------------------------------------------------------

SOURCES = {
    'resnet': Naming(
        release='torchvision and timm, ResNet (ImageNet)',
        fits="nets with a ResNet of the file's depth and stem; timm's resnet50s has the stem of "
        'PSPNet',
        scheme='imagenet',
        marks=(r'conv1(\.0)?\.weight', r'bn1\.weight', r'layer1\.0\.conv1\.weight'),
        names=((r'^resnet/', ''), *_RESNET),
        anchor='resnet',
        scope='resnet/.*',
        surplus=r'fc\..*',
        notes=(_STRIDES,),
    ),
    'vgg': Naming(
        release='torchvision, VGG16 (ImageNet)',
        fits='fcn, deeplab_largefov, which has every fourth channel of fc6 and fc7, and vgg16, the '
        'features of perceptual losses',
        scheme='imagenet',
        marks=(r'features\.0\.weight', r'features\.2\.weight', r'features\.28\.weight'),
        names=(
            *((f'^vgg/{ours}$', f'features.{number}') for ours, number in _VGG),
            ('^fc6$', 'classifier.0'),
            ('^fc7$', 'classifier.3'),
        ),
        surplus=_layers_of(_VGG),
        **_IN_VGG,
    ),
    'vgg19': Naming(
        release='torchvision, VGG19 (ImageNet)',
        fits='vgg19, the features of perceptual losses',
        scheme='imagenet',
        marks=(
            r'features\.0\.weight',
            r'features\.2\.weight',
            r'features\.16\.weight',
            r'features\.23\.weight',
            r'features\.28\.weight',
        ),
        names=tuple((f'^vgg/{ours}$', f'features.{number}') for ours, number in _VGG19),
        anchor='vgg',
        scope='vgg/.*',
        surplus=_layers_of(_VGG19),
    ),
    'lpips': Naming(
        release='the package lpips, linear heads on VGG16 (lpips/weights/v0.1/vgg.pth)',
        fits='the heads of the perceptual distance LPIPS on a vgg16 of full width',
        scheme='imagenet',
        marks=(r'lin0\.model\.1\.weight', r'lin4\.model\.1\.weight'),
        names=tuple((f'^{layer}$', f'lin{number}.model.1') for number, layer in enumerate(_LPIPS)),
        scope='|'.join(_LPIPS),
        # Heads without drop-out, and a file with the net.
        aliases=((r'^lin(\d)\.model\.0\.', r'lin\1.model.1.'),),
        surplus=r'(net|lins|scaling_layer)\..*',
    ),
    'vgg_caffe': Naming(
        release='Caffe, VGG16 (ImageNet), each array as layer.weight or layer.bias',
        fits='fcn, and deeplab_largefov, which has every fourth channel of fc6 and fc7',
        scheme='caffe',
        marks=(r'conv1_1\.weight', r'conv5_3\.weight'),
        names=((r'^vgg/', ''),),
        surplus=r'fc8\..*',
        **_IN_VGG,
    ),
    'largefov_caffe': Naming(
        release='Caffe, DeepLab-LargeFOV, each array as layer.weight or layer.bias',
        fits='deeplab_largefov',
        scheme='deeplab',
        marks=(r'conv1_1\.weight', r'conv5_3\.weight', r'fc6\.weight', r'fc8_voc12\.weight'),
        names=((r'^vgg/', ''), ('^fc8$', 'fc8_voc12')),
        # Of the four branches of DeepLab-v2's VGG16 the second has LargeFOV's dilation of 12.
        aliases=((r'^fc([67])_2\.', r'fc\1.'), (r'^fc8_[a-z]+\d*(_2)?\.', 'fc8_voc12.')),
        classifier='fc8',
        # The other branches, and learned dilations, which are biases of these layers.
        surplus=r'fc[678]_(\w+_)?[134]\..*|hole_conv\w*\..*',
    ),
    'xception': Naming(
        release='timm, Xception-41, 65, 71 (ImageNet, converted from the DeepLab release)',
        fits="deeplab_v3plus with a Xception of the file's depth",
        scheme='symmetric',
        marks=(r'stem\.0\.conv\.weight', r'blocks\.0\.stack\.conv1\.conv_dw\.weight'),
        names=((r'^xception/', ''), (r'(stem|blocks)_(\d+)', r'\1.\2')),
        anchor='xception',
        scope='xception/.*',
        surplus=r'head\.fc\..*',
    ),
    'efficientnet_torchvision': Naming(
        release='torchvision, EfficientNet-B0 to B7 (ImageNet)',
        fits="nets with an EfficientNet of the file's variant",
        scheme='imagenet',
        marks=(
            r'features\.0\.0\.weight',
            r'features\.1\.0\.block\.1\.fc1\.weight',
            r'features\.8\.0\.weight',
        ),
        names=(
            (r'^efficientnet/', ''),
            ('^conv_stem$', 'features.0.0'),
            ('^bn0$', 'features.0.1'),
            ('^conv_head$', 'features.8.0'),
            ('^bn1$', 'features.8.1'),
            ('^classifier$', 'classifier.1'),
            (r'^blocks_(\d)_(\d+)/', lambda m: f'features.{int(m[1]) + 1}.{m[2]}.block.'),
            ('expand_conv$', '0.0'),
            ('bn0$', '0.1'),
            ('depthwise_conv$', '1.0'),
            ('bn1$', '1.1'),
            ('se_reduce$', '2.fc1'),
            ('se_expand$', '2.fc2'),
            ('project_conv$', '3.0'),
            ('bn2$', '3.1'),
            # Blocks of the first stage do not expand.
            (r'^(features\.1\.\d+\.block)\.(\d)', lambda m: f'{m[1]}.{int(m[2]) - 1}'),
        ),
        surplus=r'classifier\..*',
        **_IN_EFFICIENTNET,
        notes=(
            (
                _STEM,
                "run with padding='symmetric', and norm_epsilon=1e-5, norm_decay=0.9 for b0 to b4; "
                "1e-3 and 0.99 for b5 to b7, which are the authors' weights",
            ),
        ),
    ),
    'efficientnet_timm': Naming(
        release='timm, efficientnet_b0 to b7 (ImageNet, trained in torch)',
        fits="nets with an EfficientNet of the file's variant and padding='symmetric'",
        scheme='imagenet',
        **_TIMM_EFFICIENTNET,
        notes=(
            (_STEM, "trained with padding='symmetric', norm_epsilon=1e-5, norm_decay=0.9"),
            (_STEM, "weights called .ra4_ were trained with images prepared as 'symmetric'"),
        ),
    ),
    'efficientnet_timm_tf': Naming(
        release="timm, tf_efficientnet_b0 to b7 (ImageNet, the authors' weights)",
        fits="nets with an EfficientNet of the file's variant and padding='same'",
        scheme='imagenet',
        **_TIMM_EFFICIENTNET,
        notes=(
            (_STEM, "trained with padding='same', norm_epsilon=1e-3, norm_decay=0.99"),
            _ADVPROP,
        ),
    ),
    'efficientnet_lite_timm': Naming(
        release='timm, efficientnet_lite0 (ImageNet, trained in torch)',
        fits="nets with an EfficientNet lite0 and padding='symmetric'",
        scheme='imagenet',
        **_TIMM_LITE,
        notes=((_STEM, "trained with padding='symmetric', norm_epsilon=1e-5, norm_decay=0.9"),),
    ),
    'efficientnet_lite_timm_tf': Naming(
        release="timm, tf_efficientnet_lite0 to lite4 (ImageNet, the authors' weights)",
        fits="nets with an EfficientNet of the file's variant and padding='same'",
        scheme='symmetric',
        **_TIMM_LITE,
        notes=((_STEM, "trained with padding='same', norm_epsilon=1e-3, norm_decay=0.99"),),
    ),
    'efficientnet_pytorch': Naming(
        release='lukemelas/EfficientNet-PyTorch, EfficientNet-B0 to B7, and ports of lite0 to '
        "lite4 in its names (ImageNet, the authors' weights)",
        fits="nets with an EfficientNet of the file's variant and padding='same'",
        scheme='imagenet',
        marks=(
            r'_conv_stem\.weight',
            r'_blocks\.0\._depthwise_conv\.weight',
            r'_conv_head\.weight',
        ),
        names=(
            ('^classifier$', 'fc'),
            (r'^efficientnet/', ''),
            (r'(\w+)$', r'_\1'),
            ('^blocks_', '_blocks/'),
        ),
        surplus=r'_fc\..*',
        numbered=r'\d+_\d+',
        **_IN_EFFICIENTNET,
        notes=(
            (_STEM, "trained with padding='same', norm_epsilon=1e-3, norm_decay=0.99"),
            _ADVPROP,
            (_STEM, "weights of lite0 to lite4 were trained with images prepared as 'symmetric'"),
        ),
    ),
    'semseg': Naming(
        release='hszhao/semseg, PSPNet',
        fits="pspnet of the file's depth",
        scheme='imagenet',
        marks=(r'layer0\.0\.weight', r'ppm\.features\.0\.1\.weight', r'cls\.0\.weight'),
        names=(
            (r'^resnet/bn1$', 'layer0.7'),
            (r'^resnet/conv1_(\d)$', r'layer0.\1'),
            (r'^resnet/', ''),
            *_RESNET,
            (r'features_(\d)_(\d)', r'features.\1.\2'),
            (r'^(cls|aux)_(\d)$', r'\1.\2'),
        ),
        may_lack=r'aux_\d',
        classifier=r'(cls|aux)_4',
        surplus=r'aux\..*',
    ),
    'semseg_resnet': Naming(
        release='hszhao/semseg, ResNet with three convolutions in its stem (ImageNet)',
        fits="pspnet of the file's depth, deeplab_v3plus with a ResNet and bisenet with stem='3x3'",
        scheme='imagenet',
        marks=(r'conv1\.weight', r'conv3\.weight', r'bn3\.weight', r'layer1\.0\.conv1\.weight'),
        names=(
            (r'^resnet/', ''),
            (r'^bn1$', 'bn3'),
            (r'^conv1_0$', 'conv1'),
            (r'^conv1_1$', 'bn1'),
            (r'^conv1_3$', 'conv2'),
            (r'^conv1_4$', 'bn2'),
            (r'^conv1_6$', 'conv3'),
            *_RESNET,
        ),
        anchor='resnet',
        scope='resnet/.*',
        surplus=r'fc\..*',
        notes=(_STRIDES,),
    ),
    'coin': Naming(
        release='CoinCheung/BiSeNet, first version',
        fits="bisenet with release='coin'",
        scheme='cityscapes',
        marks=(
            r'cp\.resnet\.conv1\.weight',
            r'sp\.conv1\.conv\.weight',
            r'ffm\.convblk\.conv\.weight',
        ),
        names=_RESNET,
        may_lack=r'conv_out(16|32)/.*',
        classifier=r'conv_out(16|32)?/conv_out',
    ),
    'erfnet': Naming(
        release='Eromera/erfnet_pytorch',
        fits='erfnet',
        scheme='unit',
        marks=(r'encoder\.initial_block\.conv\.weight', r'decoder\.output_conv\.weight'),
        names=((r'layers_(\d+)', r'layers.\1'),),
        may_lack='encoder/output_conv',
        classifier='(en|de)coder/output_conv',
        surplus=r'encoder\.output_conv\..*',
        transposed=r'decoder/(layers_\d+/conv|output_conv)',
    ),
    'erfnet_encoder': Naming(
        release='Eromera/erfnet_pytorch, encoder (ImageNet)',
        fits='erfnet',
        scheme='imagenet',
        marks=(r'features\.encoder\.initial_block\.conv\.weight',),
        names=((r'^encoder/', 'features.encoder/'), (r'layers_(\d+)', r'layers.\1')),
        scope=r'encoder/(initial_block|layers_\d+)/.*',
        surplus=r'classifier\..*',
    ),
    'kazuto': Naming(
        release='kazuto1011/deeplab-pytorch, DeepLab-v2',
        fits="deeplab_v2 of the file's depth",
        scheme='deeplab',
        marks=(r'layer1\.conv1\.conv\.weight', r'layer2\.block1\.reduce\.conv\.weight'),
        names=(
            (r'^resnet/(conv|bn)1$', r'layer1.conv1.\1'),
            (r'^resnet/layer(\d)_(\d+)', lambda m: f'layer{int(m[1]) + 1}.block{int(m[2]) + 1}'),
            (r'/(conv|bn)1$', r'.reduce.\1'),
            (r'/(conv|bn)2$', r'.conv3x3.\1'),
            (r'/(conv|bn)3$', r'.increase.\1'),
            (r'/downsample_0$', '.shortcut.conv'),
            (r'/downsample_1$', '.shortcut.bn'),
        ),
        aliases=(
            (r'^(scale|base)\.', ''),
            (r'\.proj\.', '.shortcut.'),
            (r'^aspp\.stages\.', 'aspp.'),
        ),
        classifier=r'aspp/c\d',
        # The weights of MS-COCO have a single convolution instead of the pyramid.
        surplus=r'fc\..*',
    ),
}
"""Names that config.init_from.source can have -> namings."""


def detect(names: Collection[str], where: str, source: str = '') -> str:
    """Returns the key of SOURCES that the names of a file's tensors belong to.

    Args:
      names: of the tensors.
      where: name of the file, for errors.
      source: the key that the user chose. It is returned without a check of the names. '': detect.

    Raises:
      InputError: no naming fits, or several, or there is no such source.
    """
    if source:
        if source not in SOURCES:
            raise unknown_name('config.init_from.source', source, SOURCES)
        return source
    candidates = [key for key, naming in SOURCES.items() if has_marks(naming, names)]
    # More marks are a closer fit. semseg's ResNet has all names of torchvision's, and a conv3.
    most = max((len(SOURCES[key].marks) for key in candidates), default=0)
    candidates = [key for key in candidates if len(SOURCES[key].marks) == most]
    if len(candidates) == 1:
        return candidates[0]
    fit = f'which could be {" or ".join(candidates)}' if candidates else 'in no known naming'
    known = '; '.join(f'{naming.release} ({key})' for key, naming in SOURCES.items())
    raise InputError(
        where,
        got=f'{len(names)} tensors: {", ".join(sorted(names)[:4])}, ... {fit}',
        expected=f'weights in the naming of {known}',
        fix=_source_argument(candidates, names),
    )


def _source_argument(candidates: Sequence[str], names: Collection[str]) -> str:
    """Returns the argument that names a source.

    If several sources fit, the user chooses. If none fits, the nearest has the largest share of its
    marks in the file.
    """
    if candidates:
        return f'--config.init_from.source={" or ".join(candidates)}'
    shares = {key: _share_of_marks(naming, names) for key, naming in SOURCES.items()}
    nearest = max(shares, key=shares.__getitem__)
    if shares[nearest] > 0:
        return f'--config.init_from.source={nearest} is the nearest naming, and lists what differs'
    return '--config.init_from.path= starts without weights'


def has_marks(naming: Naming, names: Collection[str]) -> bool:
    """Returns whether the tensor names have all marks of a naming."""
    return _share_of_marks(naming, names) == 1


def _share_of_marks(naming: Naming, names: Collection[str]) -> float:
    """Returns the share of a naming's marks that the tensor names have."""
    known = [naming.canonical(name) for name in names]
    hits = [any(re.fullmatch(mark, name) for name in known) for mark in naming.marks]
    return sum(hits) / len(hits)
