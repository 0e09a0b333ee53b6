"""Registry of all nets by kind and name, with the fields that a config may set.

Every net is a linen module. The pipeline sets the fields of `GIVEN`. A config may set all fields
whose default is a number, a bool, a string or a tuple. Initialisers and layers come from code.

    kind            call                           result
    segmentation    net(image, train)              {'logits': [B, H, W, num_classes] float32}
    depth           net(image, train)              {'disparity': [full size, half, ...]}
    pose            net(target, sources, train)    {'motion': [B, sources, 6]}
    generator       see the net                    {'image': [B, H, W, out_channels] float32}, of
                                                   crn [B, n, H, W, out_channels], of two_stream
                                                   {'context': .., 'object': ..} logits
    encoder         net(x, train)                  {'mean', 'log_variance': [B, code_size] float32},
                                                   with a code_map (h, w) [B, h, w, code_size]
    discriminator   net(x, train, gate=None)       ((features .., logits), ...) of every scale
                    layout_discriminator:
                    net(layout, features, train)
    features        net(image)                     {layer: [B, h, w, C]}
    denoiser        net(maps, train)               {'logits': [B, H, W, k] float32}, k as in maps
    classifier      net(x, train)                  {'logits': [B, num_classes] float32}
    boundary        net(image)                     {'logits': [B, H, W, 1] float32, 'sides': ..}

Auxiliary heads of a segmentation net are under 'aux': {head: [B, h, w, num_classes]}. With a field
`taps`, the net returns the named tensors of its backbone under 'features': {tap: [B, h, w, C]}.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import unknown_name
from segjax.models.backbones.vgg import VGG16Features, VGG19Features
from segjax.models.boundary.hed import HED
from segjax.models.classification.resnet_classifier import ResNetClassifier
from segjax.models.classification.shape_classifier import ShapeClassifier
from segjax.models.denoisers.adnet import ADNet
from segjax.models.denoisers.ffdnet import FFDNet
from segjax.models.denoisers.ridnet import RIDNet
from segjax.models.denoisers.unetd import UNetD
from segjax.models.depth.depth_and_segmentation import DepthAndSegmentation
from segjax.models.depth.dispnet import DispNet
from segjax.models.depth.monodepth2 import Monodepth2
from segjax.models.depth.pose import PoseCNN, PoseExpNet, PoseResNet
from segjax.models.generators.crn import CRN
from segjax.models.generators.encoder import ConvEncoder, ResNetEncoder
from segjax.models.generators.feature_unet import FeatureUNet
from segjax.models.generators.latent_unet import LatentUNet
from segjax.models.generators.layout_discriminator import LayoutDiscriminator
from segjax.models.generators.mask_to_image import MaskToImage
from segjax.models.generators.multiscale import MultiscaleDiscriminator
from segjax.models.generators.pix2pixhd import GlobalGenerator, LocalEnhancer
from segjax.models.generators.two_stream import TwoStream
from segjax.models.generators.unet import UNet
from segjax.models.segmentation.bisenet import BiSeNet
from segjax.models.segmentation.deeplab import DeepLabLargeFOV, DeepLabV2
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus
from segjax.models.segmentation.erfnet import ERFNet
from segjax.models.segmentation.fcn import FCN
from segjax.models.segmentation.pspnet import PSPNet
from segjax.schema import Choice, Field, argument_of_net

NETS: dict[str, dict[str, type[nn.Module]]] = {
    'segmentation': {
        'bisenet': BiSeNet,
        'deeplab_largefov': DeepLabLargeFOV,
        'deeplab_v2': DeepLabV2,
        'deeplab_v3plus': DeepLabV3Plus,
        'depth_and_segmentation': DepthAndSegmentation,
        'erfnet': ERFNet,
        'fcn': FCN,
        'pspnet': PSPNet,
    },
    'depth': {
        'dispnet': DispNet,
        'monodepth2': Monodepth2,
    },
    'pose': {
        'pose_cnn': PoseCNN,
        'pose_exp_net': PoseExpNet,
        'pose_resnet': PoseResNet,
    },
    'generator': {
        'crn': CRN,
        'feature_unet': FeatureUNet,
        'latent_unet': LatentUNet,
        'mask_to_image': MaskToImage,
        'pix2pixhd_global': GlobalGenerator,
        'pix2pixhd_local': LocalEnhancer,
        'two_stream': TwoStream,
        'unet': UNet,
    },
    'encoder': {
        'conv_encoder': ConvEncoder,
        'resnet_encoder': ResNetEncoder,
    },
    'discriminator': {
        'layout_discriminator': LayoutDiscriminator,
        'multiscale': MultiscaleDiscriminator,
    },
    'features': {
        'vgg16': VGG16Features,
        'vgg19': VGG19Features,
    },
    'denoiser': {
        'adnet': ADNet,
        'ffdnet': FFDNet,
        'ridnet': RIDNet,
        'unetd': UNetD,
    },
    'classifier': {
        'resnet_classifier': ResNetClassifier,
        'shape_classifier': ShapeClassifier,
    },
    'boundary': {
        'hed': HED,
    },
}

GIVEN = {
    'segmentation': ('num_classes', 'dtype', 'axis_name'),
    'depth': ('dtype', 'axis_name'),
    'pose': ('earlier', 'dtype', 'axis_name'),
    'generator': ('out_channels', 'dtype', 'axis_name'),
    'encoder': ('code_size', 'code_map', 'dtype', 'axis_name'),
    'discriminator': ('dtype', 'axis_name'),
    'features': ('dtype',),
    'denoiser': ('dtype', 'axis_name'),
    'classifier': ('num_classes', 'dtype', 'axis_name'),
    'boundary': ('dtype',),
}
"""Fields that the pipeline sets, by kind.

num_classes: channels of the logits.
out_channels: channels of the image, or of two_stream the number of classes.
code_size: length of the latent code.
code_map: (height, width) of a map of codes. (): a single code.
dtype: of activations, e.g. 'bfloat16'. Parameters stay float32.
axis_name: mapped axis of the devices that share batch statistics. None: not shared.
earlier: for each source frame, whether it precedes the target, e.g. (True, False) for frames
    (-1, 1).
"""


def schema(kind: str, name: str) -> dict[str, Any]:
    """Returns {field: default} of the fields that a config may set.

    Args:
      kind: a key of NETS.
      name: a key of NETS[kind].

    Raises:
      InputError: unknown name, with the nearest name that exists.
    """
    fields = _fields(kind, name)
    settable = bool | int | float | str | tuple
    return {key: default for key, default in fields.items() if isinstance(default, settable)}


NO_NET = 'none'
"""Name of the choice of no net, in sections of `net_choice` that are optional."""


def net_choice(
    kind: str,
    default: str,
    doc: str,
    only: Sequence[str] = (),
    optional: bool = False,
    **defaults: Any,
) -> Choice:
    """Returns the config section that chooses a net of a kind and sets its fields.

    Args:
      kind: a key of NETS.
      default: name of the net that configs start with, a key of NETS[kind].
      doc: meaning of the section.
      only: names of the nets that may be chosen. (): all nets of the kind.
      optional: whether NO_NET may be chosen. Such a section has no fields.
      **defaults: defaults of fields, which replace the defaults of nets with such a field.
    """
    options: dict[str, dict[str, Field]] = {NO_NET: {}} if optional else {}
    for name in only or NETS[kind]:
        net = NETS[kind][name]
        docs = field_docs(net)
        options[name] = {
            key: Field(defaults.get(key, value), docs[key], argument_of_net(key, value))
            for key, value in schema(kind, name).items()
        }
    return Choice(default, doc, options)


def field_docs(net: type[nn.Module]) -> dict[str, str]:
    """Returns {field: meaning} from the two columns of a net's docstring, as sentences."""
    docs: dict[str, str] = {}
    field = ''
    for line in inspect.cleandoc(net.__doc__ or '').splitlines():
        column = re.match(r'(\w+) {2,}(.+)', line) or re.match(r'(\w+) (.+)', line)
        is_field = column is not None and column[1] in net.__dataclass_fields__
        if is_field:
            field = column[1]
            docs[field] = column[2]
        elif field and line.startswith('  '):
            docs[field] += ' ' + line.strip()
        else:
            field = ''
    return {key: f'{text[0].upper()}{text[1:].rstrip(".")}.' for key, text in docs.items()}


def build(kind: str, name: str, **fields: Any) -> nn.Module:
    """Returns a net.

    Args:
      kind: a key of NETS.
      name: a key of NETS[kind].
      **fields: the fields of GIVEN[kind], and fields that differ from their defaults.

    Raises:
      InputError: unknown name or field, with the nearest name that exists.
    """
    known = _fields(kind, name)
    for key in fields:
        if key not in known and key not in GIVEN[kind]:
            raise unknown_name(f'argument of {kind} net {name!r}', key, known)
    # JSON turns tuples into lists, which are not hashable.
    for key, value in fields.items():
        if isinstance(value, list):
            fields[key] = tuple(value)
    fields['dtype'] = jnp.dtype(fields['dtype'])
    return NETS[kind][name](**fields)


def build_from(kind: str, section: Mapping[str, Any], **fields: Any) -> nn.Module:
    """Returns the net of a config section of `net_choice`.

    Args:
      kind: a key of NETS.
      section: the section, with the net's `name` and its fields.
      **fields: the fields of GIVEN[kind], and fields that replace fields of the section.

    Raises:
      InputError: unknown name or field, with the nearest name that exists.
    """
    arguments = {**section, **fields}
    name = arguments.pop('name')
    return build(kind, name, **arguments)


def _fields(kind: str, name: str) -> dict[str, Any]:
    """Returns {field: default} of the fields that the pipeline does not set."""
    nets = NETS[kind]
    if name not in nets:
        raise unknown_name(f'{kind} net', name, nets)
    hidden = {*GIVEN[kind], 'parent', 'name'}
    fields = dataclasses.fields(nets[name])
    return {field.name: field.default for field in fields if field.name not in hidden}
