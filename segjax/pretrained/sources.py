"""The releases whose weights can be read: how they name our arrays, what may differ, and how they prepare images.

A source is data. Its rules turn a path of ours into the release's name; the importer asks the file for that name, and
the exporter writes it, so the two cannot disagree.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from segjax.errors import InputError, unknown_name
from segjax.models.backbones.vgg import STAGES

NOTHING = r'(?!)'  # a pattern that matches nothing


class Naming(NamedTuple):
    """One naming of weights. Patterns match whole names; paths of ours are 'layer1_0/conv1', without the array's name.

    release     whose it is, for messages
    fits        the nets of ours that take it, for messages
    scheme      how its images were prepared, a key of ops.images.SCHEMES
    marks       patterns of tensor names, all of which a file in this naming has
    names       (pattern, replacement) of re.sub, in turn: a path of ours -> the release's name; '/' becomes '.' last
    anchor      module of ours that the names are relative to the parent of, wherever it is; '': the whole net
    scope       paths of ours, from there, that the release has
    aliases     (pattern, replacement) of re.sub on the file's names, for older versions of the release
    may_lack    paths of ours that the file need not have
    classifier  paths of ours that depend on the number of classes: another number, or none, is no error
    may_differ  paths of ours that may have any other shape, or be absent
    surplus     tensor names that need no place with us
    transposed  paths of ours that are transposed convolutions
    sampled     (pattern of paths of ours, (outputs, inputs, extent)): layers of which a net of ours
                may have a sample. The release's layer has so many times our outputs and inputs, and
                a kernel of extent x extent
    numbered    what stands in paths of ours, and is left in place by `names`, for modules that the release numbers
                through: it becomes its place, from 0, among all that the net has, in the order of the numbers in it
    notes       (pattern of a path of ours, what to tell the user of a net that has it)
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
        """What `theirs` puts for each match of `numbered`, in a net with the modules `paths`."""
        inside = (path for path in paths if re.fullmatch(self.scope, path))
        found = {match[0] for path in inside if (match := re.search(self.numbered, path))}
        order = sorted(found, key=lambda one: [int(n) for n in re.findall(r'\d+', one)])
        return {one: str(i) for i, one in enumerate(order)}

    def theirs(self, path: str, numbers: Mapping[str, str]) -> str:
        """The release's name of a module of ours; `numbers` of the net that it is of."""
        for pattern, replacement in self.names:
            path = re.sub(pattern, replacement, path)
        return re.sub(self.numbered, lambda match: numbers[match[0]], path).replace('/', '.')

    def canonical(self, name: str) -> str:
        """A tensor's name without what wrappers and older versions put into it."""
        for pattern, replacement in ((r'^module\.', ''), *self.aliases):
            name = re.sub(pattern, replacement, name)
        return name


_RESNET = (
    (r'layer(\d)_(\d+)', r'layer\1.\2'),
    (r'downsample_(\d)', r'downsample.\1'),
    (r'\bconv1_(\d)', r'conv1.\1'),
)
_STRIDES = (
    'aspp/c0',
    "trained with strides on the 3x3 convolutions; those of deeplab_v2, as of source 'kazuto', are on the 1x1",
)
_VGG_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_VGG_LAYERS = [
    f'conv{i}_{j}' for i, (count, _) in enumerate(STAGES, start=1) for j in range(1, count + 1)
]

# VGG16's classifier has arrays of 4096 x 512 x 7 x 7 and 4096 x 4096 x 1 x 1. Those of LargeFOV have
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
        # timm counts layers that are there: blocks of the first stage do not expand.
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

SOURCES = {
    'resnet': Naming(
        'torchvision and timm, ResNet (ImageNet)',
        "nets with a ResNet of the file's depth and stem; timm's resnet50s has the stem of PSPNet",
        'imagenet',
        (r'conv1(\.0)?\.weight', r'bn1\.weight', r'layer1\.0\.conv1\.weight'),
        ((r'^resnet/', ''), *_RESNET),
        anchor='resnet',
        scope='resnet/.*',
        surplus=r'fc\..*',
        notes=(_STRIDES,),
    ),
    'vgg': Naming(
        'torchvision, VGG16 (ImageNet)',
        'fcn, and deeplab_largefov, which has every fourth channel of fc6 and fc7',
        'imagenet',
        (r'features\.0\.weight', r'features\.2\.weight', r'features\.28\.weight'),
        (
            *(
                (f'^vgg/{ours}$', f'features.{place}')
                for ours, place in zip(_VGG_LAYERS, _VGG_PLACES, strict=True)
            ),
            ('^fc6$', 'classifier.0'),
            ('^fc7$', 'classifier.3'),
        ),
        surplus=r'classifier\..*',
        **_IN_VGG,
    ),
    'vgg_caffe': Naming(
        'Caffe, VGG16 (ImageNet), each array as layer.weight or layer.bias',
        'fcn, and deeplab_largefov, which has every fourth channel of fc6 and fc7',
        'caffe',
        (r'conv1_1\.weight', r'conv5_3\.weight'),
        ((r'^vgg/', ''),),
        surplus=r'fc8\..*',
        **_IN_VGG,
    ),
    'largefov_caffe': Naming(
        'Caffe, DeepLab-LargeFOV, each array as layer.weight or layer.bias',
        'deeplab_largefov',
        'deeplab',
        (r'conv1_1\.weight', r'conv5_3\.weight', r'fc6\.weight', r'fc8_voc12\.weight'),
        ((r'^vgg/', ''), ('^fc8$', 'fc8_voc12')),
        # The second of the four branches of DeepLab-v2's VGG16 has a dilation of 12, as LargeFOV.
        aliases=((r'^fc([67])_2\.', r'fc\1.'), (r'^fc8_[a-z]+\d*(_2)?\.', 'fc8_voc12.')),
        classifier='fc8',
        # The other branches; learned dilations, which are biases of these layers, start anew.
        surplus=r'fc[678]_(\w+_)?[134]\..*|hole_conv\w*\..*',
    ),
    'xception': Naming(
        'timm, Xception-41, 65, 71 (ImageNet, converted from the DeepLab release)',
        "deeplab_v3plus with a Xception of the file's depth",
        'symmetric',
        (r'stem\.0\.conv\.weight', r'blocks\.0\.stack\.conv1\.conv_dw\.weight'),
        ((r'^xception/', ''), (r'(stem|blocks)_(\d+)', r'\1.\2')),
        anchor='xception',
        scope='xception/.*',
        surplus=r'head\.fc\..*',
    ),
    'efficientnet_torchvision': Naming(
        'torchvision, EfficientNet-B0 to B7 (ImageNet)',
        "nets with an EfficientNet of the file's variant",
        'imagenet',
        (
            r'features\.0\.0\.weight',
            r'features\.1\.0\.block\.1\.fc1\.weight',
            r'features\.8\.0\.weight',
        ),
        (
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
                "run with padding='symmetric', and norm_epsilon=1e-5, norm_decay=0.9 for b0 to b4; 1e-3 and 0.99 for "
                "b5 to b7, which are the authors' weights",
            ),
        ),
    ),
    'efficientnet_timm': Naming(
        'timm, efficientnet_b0 to b7 (ImageNet, trained in torch)',
        "nets with an EfficientNet of the file's variant and padding='symmetric'",
        'imagenet',
        **_TIMM_EFFICIENTNET,
        notes=(
            (_STEM, "trained with padding='symmetric', norm_epsilon=1e-5, norm_decay=0.9"),
            (_STEM, "weights called .ra4_ were trained with images prepared as 'symmetric'"),
        ),
    ),
    'efficientnet_timm_tf': Naming(
        "timm, tf_efficientnet_b0 to b7 (ImageNet, the authors' weights)",
        "nets with an EfficientNet of the file's variant and padding='same'",
        'imagenet',
        **_TIMM_EFFICIENTNET,
        notes=(
            (_STEM, "trained with padding='same', norm_epsilon=1e-3, norm_decay=0.99"),
            _ADVPROP,
        ),
    ),
    'efficientnet_pytorch': Naming(
        "lukemelas/EfficientNet-PyTorch, EfficientNet-B0 to B7 (ImageNet, the authors' weights)",
        "nets with an EfficientNet of the file's variant and padding='same'",
        'imagenet',
        (r'_conv_stem\.weight', r'_blocks\.0\._depthwise_conv\.weight', r'_conv_head\.weight'),
        (
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
        ),
    ),
    'semseg': Naming(
        'hszhao/semseg, PSPNet',
        "pspnet of the file's depth",
        'imagenet',
        (r'layer0\.0\.weight', r'ppm\.features\.0\.1\.weight', r'cls\.0\.weight'),
        (
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
        'hszhao/semseg, ResNet with three convolutions in its stem (ImageNet)',
        "pspnet of the file's depth, deeplab_v3plus with a ResNet and bisenet with stem='3x3'",
        'imagenet',
        (r'conv1\.weight', r'conv3\.weight', r'bn3\.weight', r'layer1\.0\.conv1\.weight'),
        (
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
        'CoinCheung/BiSeNet, first version',
        "bisenet with release='coin'",
        'cityscapes',
        (r'cp\.resnet\.conv1\.weight', r'sp\.conv1\.conv\.weight', r'ffm\.convblk\.conv\.weight'),
        _RESNET,
        may_lack=r'conv_out(16|32)/.*',
        classifier=r'conv_out(16|32)?/conv_out',
    ),
    'erfnet': Naming(
        'Eromera/erfnet_pytorch',
        'erfnet',
        'unit',
        (r'encoder\.initial_block\.conv\.weight', r'decoder\.output_conv\.weight'),
        ((r'layers_(\d+)', r'layers.\1'),),
        may_lack='encoder/output_conv',
        classifier='(en|de)coder/output_conv',
        surplus=r'encoder\.output_conv\..*',
        transposed=r'decoder/(layers_\d+/conv|output_conv)',
    ),
    'erfnet_encoder': Naming(
        'Eromera/erfnet_pytorch, encoder (ImageNet)',
        'erfnet',
        'imagenet',
        (r'features\.encoder\.initial_block\.conv\.weight',),
        ((r'^encoder/', 'features.encoder/'), (r'layers_(\d+)', r'layers.\1')),
        scope=r'encoder/(initial_block|layers_\d+)/.*',
        surplus=r'classifier\..*',
    ),
    'kazuto': Naming(
        'kazuto1011/deeplab-pytorch, DeepLab-v2',
        "deeplab_v2 of the file's depth",
        'deeplab',
        (r'layer1\.conv1\.conv\.weight', r'layer2\.block1\.reduce\.conv\.weight'),
        (
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
        surplus=r'fc\..*',  # the weights of MS-COCO end in one convolution in place of the pyramid
    ),
}
"""By the name that config.init_from.source knows them by."""


def detect(names: Collection[str], where: str, source: str = '') -> str:
    """The key of SOURCES that tensor `names` are in; InputError if none or several are.

    Args:
      names: of the file's tensors.
      where: the file, for the error.
      source: the key that the user gave, which is taken; '': find out.
    """
    if source:
        if source not in SOURCES:
            raise unknown_name('config.init_from.source', source, SOURCES)
        return source
    found = [key for key, one in SOURCES.items() if _has_marks(one, names)]
    # A naming with more marks is the closer one: semseg's ResNet has all names of torchvision's, and a conv3.
    most = max((len(SOURCES[key].marks) for key in found), default=0)
    found = [key for key in found if len(SOURCES[key].marks) == most]
    if len(found) == 1:
        return found[0]
    raise InputError(
        where,
        got=f'{len(names)} tensors: {", ".join(sorted(names)[:4])}, ... '
        + (f'which could be {" or ".join(found)}' if found else 'in no known naming'),
        expected='weights in the naming of '
        + '; '.join(f'{one.release} ({key})' for key, one in SOURCES.items()),
        fix=_source_argument(found, names),
    )


def _source_argument(found: Sequence[str], names: Collection[str]) -> str:
    """Returns the argument that names a source: of those that fit, or the one of whose marks most are there."""
    if found:
        return f'--config.init_from.source={" or ".join(found)}'

    def share(source: Naming) -> float:
        known = [source.canonical(name) for name in names]
        return sum(any(re.fullmatch(mark, name) for name in known) for mark in source.marks) / len(
            source.marks
        )

    nearest = max(SOURCES, key=lambda key: share(SOURCES[key]))
    if share(SOURCES[nearest]) > 0:
        return f'--config.init_from.source={nearest} is the nearest naming, and lists what differs'
    return '--config.init_from.path= starts without weights'


def _has_marks(source: Naming, names: Collection[str]) -> bool:
    known = [source.canonical(name) for name in names]
    return all(any(re.fullmatch(mark, name) for name in known) for mark in source.marks)
