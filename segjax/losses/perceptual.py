"""Losses between the features of two images.

Each loss is a pure function of features. It returns a `protocol.Mean(sum, count)` that is not
divided yet. The features of the target get no gradient.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError
from segjax.ops.gradients import absolute
from segjax.protocol import Array, Mean

VGG_WEIGHTS = {
    'conv1_1': 1 / 32,
    'conv2_1': 1 / 16,
    'conv3_1': 1 / 8,
    'conv4_1': 1 / 4,
    'conv5_1': 1.0,
}
"""Weights of the layers of VGG19 in the perceptual loss of pix2pixHD."""


def weighted_l1(
    prediction: Sequence[Array], target: Sequence[Array], factors: Sequence[float], weight: Array
) -> Mean:
    """Computes a weighted sum of the mean absolute differences of pairs of maps.

        L = mean over examples of sum_k factor_k mean_{p, c} |prediction_k - target_k|

    Args:
      prediction: maps [B, h_k, w_k, C_k], of any sizes.
      target: maps of the same shapes. They get no gradient.
      factors: factor of each pair.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.

    Raises:
      InputError: numbers or shapes of the maps differ.
    """
    shapes = [x.shape for x in prediction]
    target_shapes = [x.shape for x in target]
    if shapes != target_shapes or len(factors) != len(shapes):
        raise InputError(
            'L1 of features',
            got=f'shapes {shapes} and {target_shapes}, {len(factors)} factors',
            expected='equal shapes, and a factor for each pair',
        )
    total = jnp.zeros(weight.shape, jnp.float32)
    for ours, theirs, factor in zip(prediction, target, factors, strict=True):
        fixed = jax.lax.stop_gradient(theirs)
        difference = ours.astype(jnp.float32) - fixed.astype(jnp.float32)
        difference = without_padding(weight, difference)
        distance = absolute(difference)
        total = total + factor * distance.mean((1, 2, 3))
    return masked_mean(total, jnp.ones_like(total), weight)


def feature_matching(
    generated: Sequence[Sequence[Array]], real: Sequence[Sequence[Array]], weight: Array
) -> Mean:
    """Computes the feature matching loss of a multi-scale discriminator.

        L = 1 / D sum_s 4 / (N + 1) sum_{k = 1 .. N + 1} mean |generated_sk - real_sk|

    D is the number of scales and N the number of convolutions of stride 2. The logits do not count.
    Wang et al. 2018, Eq. 4, with the factors of the released code.

    Args:
      generated: for each scale the features of N + 1 layers and the logits, for generated maps.
      real: features and logits of real maps, in the same order. They get no gradient.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.
    """
    ours = []
    theirs = []
    factors = []
    for of_generated, of_real in zip(generated, real, strict=True):
        ours.extend(of_generated[:-1])
        theirs.extend(of_real[:-1])
        layers = len(of_generated) - 1
        factors.extend([4 / layers / len(generated)] * layers)
    return weighted_l1(ours, theirs, factors, weight)


def vgg_l1(
    prediction: Mapping[str, Array],
    target: Mapping[str, Array],
    weight: Array,
    factors: Mapping[str, float] = VGG_WEIGHTS,
) -> Mean:
    """Computes the perceptual loss of pix2pixHD from features of VGG19.

        L = sum_k factor_k mean |prediction_k - target_k|

    Wang et al. 2018, Sec. 3.5, with the factors of the released code.

    Args:
      prediction: {layer: [B, h, w, C]} after the ReLU, of `VGG19Features`.
      target: features of the true images, with equal keys and shapes. They get no gradient.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      factors: factor of each layer. Layers without a factor do not count.

    Returns:
      Mean whose count is the weight of all examples.
    """
    ours = [prediction[layer] for layer in factors]
    theirs = [target[layer] for layer in factors]
    return weighted_l1(ours, theirs, list(factors.values()), weight)
