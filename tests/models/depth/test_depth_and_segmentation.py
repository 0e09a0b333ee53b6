"""Depth and segmentation: the gradients of both tasks in the shared layers."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from depth_nets import uniform

from segjax.models.depth import decoder, depth_and_segmentation
from segjax.models.depth.decoder import PYRAMIDS
from segjax.models.depth.depth_and_segmentation import DepthAndSegmentation

IMAGENET_STD = (0.229, 0.224, 0.225)


class Power(nn.Module):
    """Replaces a decoder: w times the sum of all maps to some power, and the bias of the heads."""

    power: int
    head_bias: float

    @nn.compact
    def __call__(self, features, size):
        w = self.param('w', nn.initializers.zeros, ())
        return w * sum((y**self.power).sum() for y in features) + self.head_bias


@pytest.fixture
def stand_ins(monkeypatch):
    """Replaces the maps of the ResNet by the image times 1 to 5, and the decoders by Power."""

    def resnet(image):
        return None, {name: (i + 1) * image for i, name in enumerate(PYRAMIDS['7x7'])}

    both = depth_and_segmentation
    monkeypatch.setattr(decoder, 'make_resnet', lambda *args, **fields: resnet)
    monkeypatch.setattr(
        both, 'DepthDecoder', lambda *args, head_bias, dtype, name: Power(2, head_bias, name=name)
    )
    monkeypatch.setattr(both, 'SegmentationDecoder', lambda *args, name: Power(3, 0.0, name=name))
    return {name: {'w': np.float32(0.5)} for name in ('depth_decoder', 'segmentation_decoder')}


def stand_in_maps(image):
    z = (image - np.array([0.485, 0.456, 0.406])) / np.array(IMAGENET_STD)
    return [np.maximum(z, 0), *((i + 1) * z for i in range(1, 5))]


def test_gradients_of_the_two_tasks_meet_in_the_shared_layers_with_their_factors(stand_ins):
    net = DepthAndSegmentation(3, gradient_factors=(0.75, 4.0))
    image = uniform(1, 2, 3, 3)

    def loss(params, image):
        outputs = net.apply({'params': params}, image, train=True)
        return outputs['disparity'] + outputs['logits']

    own, shared = jax.jit(jax.grad(loss, (0, 1)))(stand_ins, image)
    maps = stand_in_maps(image)
    for_depth = sum((i + 1) * 2 * y for i, y in enumerate(maps))
    for_classes = sum((i + 1) * 3 * y**2 for i, y in enumerate(maps))
    expected = 0.5 * (0.75 * for_depth + 4.0 * for_classes) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(shared, expected, rtol=1e-4)
    unscaled = [sum((y**power).sum() for y in maps) for power in (2, 3)]
    np.testing.assert_allclose([own[name]['w'] for name in stand_ins], unscaled, rtol=1e-4)
