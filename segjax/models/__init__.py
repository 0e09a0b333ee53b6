"""The nets, by name. `build` makes one, `schema` lists what a config may say about it.

Every net is a linen module with the fields num_classes, dtype and axis_name, which the pipeline gives, and fields with
defaults. It is called as `net(x, train)` and returns {'logits': [B, H, W, num_classes] float32}, with auxiliary heads
under 'aux': {head: [B, h, w, num_classes]}. Nets with a field `taps`, names of tensors inside their backbone, return
those under 'features': {tap: [B, h, w, C]} of the activations' dtype.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from segjax.models import registry
from segjax.models.depth_.nets import DepthAndSegmentation
from segjax.models.segmentation.bisenet import BiSeNet
from segjax.models.segmentation.deeplab import DeepLabLargeFOV, DeepLabV2
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus
from segjax.models.segmentation.erfnet import ERFNet
from segjax.models.segmentation.fcn import FCN
from segjax.models.segmentation.pspnet import PSPNet

REGISTRY = {
    'bisenet': BiSeNet,
    'deeplab_largefov': DeepLabLargeFOV,
    'deeplab_v2': DeepLabV2,
    'deeplab_v3plus': DeepLabV3Plus,
    'depth_and_segmentation': DepthAndSegmentation,
    'erfnet': ERFNet,
    'fcn': FCN,
    'pspnet': PSPNet,
}

_GIVEN_BY_PIPELINE = frozenset({'num_classes', 'dtype', 'axis_name'})


def schema(name: str) -> dict[str, Any]:
    """{argument: default} of what a config may set: fields whose default is a number, a bool, a str or a tuple.

    Initialisers and the like are not among them; pipelines hand those to `build`.
    """
    return registry.schema(REGISTRY, 'model', name, _GIVEN_BY_PIPELINE)


def build(name: str, *, num_classes: int, dtype: Any, axis_name: str | None, **args) -> nn.Module:
    """The net called `name`.

    Args:
      name: a key of REGISTRY.
      num_classes: channels of its logits.
      dtype: of activations, e.g. 'bfloat16' or jnp.float32; parameters stay float32.
      axis_name: mapped axis over which batch statistics are summed; None: this device's own.
      **args: fields of the net that shall differ from their defaults.

    Raises:
      InputError: unknown name or argument, with the nearest one that exists.
    """
    given = dict(num_classes=num_classes, dtype=jnp.dtype(dtype), axis_name=axis_name)
    return registry.build(REGISTRY, 'model', name, given, args)
