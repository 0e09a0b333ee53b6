"""Narrow nets for all sources of weights, with random variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax import models
from segjax.metrics import lpips
from segjax.models.backbones.efficientnet import EfficientNet

TINY = 1 / 16
LITE1 = ('efficientnet', dict(variant='lite1', width=TINY, forms='naive'))
B1 = ('efficientnet', dict(variant='b1', width=TINY, forms='naive'))
NETS = {
    'resnet': ('bisenet', dict(width=TINY)),
    'vgg': ('fcn', dict(width=1 / 64)),
    'vgg19': ('vgg19', dict(width=1 / 64)),
    'lpips': ('lpips', dict(conv1_2=4, conv2_2=5, conv3_3=6, conv4_3=7, conv5_3=8)),
    'vgg_caffe': ('fcn', dict(width=1 / 64)),
    'largefov_caffe': ('deeplab_largefov', dict(width=1 / 64)),
    'xception': ('deeplab_v3plus', dict(width=TINY, backbone='xception41')),
    'efficientnet_torchvision': B1,
    'efficientnet_timm': B1,
    'efficientnet_timm_tf': B1,
    'efficientnet_lite_timm': LITE1,
    'efficientnet_lite_timm_tf': LITE1,
    'efficientnet_pytorch': B1,
    'semseg': ('pspnet', dict(width=TINY)),
    'semseg_resnet': ('pspnet', dict(width=TINY)),
    'coin': ('bisenet', dict(width=TINY, release='coin')),
    'erfnet': ('erfnet', dict(width=1 / 4, first_maps=32, encoder_head=True)),
    'erfnet_encoder': ('erfnet', dict(width=1 / 4, first_maps=32)),
    'kazuto': ('deeplab_v2', dict(width=TINY, num_layers=50)),
}
"""{source: (name, fields) of a net that loads its weights}."""

ALIKE = (
    'efficientnet_timm',
    'efficientnet_timm_tf',
    'efficientnet_lite_timm',
    'efficientnet_lite_timm_tf',
)
"""Sources of which another has equal names and different padding."""


def abstract(name, args, num_classes=5):
    """Returns the shapes of a net's variables."""
    if name == 'efficientnet':  # a backbone, which the registry does not have
        net = EfficientNet(num_classes, **args)
    elif name == 'lpips':  # heads, by the channels of their layers
        return {'params': lpips.equal_heads(args)}
    elif name == 'vgg19':  # features without classes
        net = models.build('features', name, dtype='float32', **args)
        return jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    else:
        net = models.build(
            'segmentation', name, num_classes=num_classes, dtype='float32', axis_name=None, **args
        )
    return jax.eval_shape(
        lambda: net.lazy_init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )


def variables_of(source, num_classes=5):
    """Returns random variables of the net of a source. They are equal for equal nets."""
    name, fields = NETS[source]
    return _random(name, tuple(fields.items()), num_classes)


@functools.cache
def _random(name, fields, num_classes):
    shapes = abstract(name, dict(fields), num_classes)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
