"""Learned perceptual distance of images (LPIPS), from the features of a net and linear heads.

The caller computes the features after normalising images with ImageNet's mean and standard
deviation (ops/images.py, 'imagenet'), as the publication does. It compares VGG16 after the ReLU of
conv1_2, conv2_2, conv3_3, conv4_3 and conv5_3. The source 'lpips' of pretrained/sources.py reads
published heads. Without heads all channels count equally, which serves any net.

Source: Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric, CVPR 2018.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from segjax.errors import InputError
from segjax.protocol import Array, PyTree

VGG16_LAYERS = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3')
"""Layers of VGG16 that the published heads compare, in the order of the heads."""
SMALLEST_LENGTH = 1e-10
"""Added to the length of a feature vector before the division by it."""

Features = Mapping[str, Array]
"""Layers by name, each [..., h, w, C] of any float type."""
Heads = Mapping[str, Array]
"""Weight of each channel of a layer by the layer's name, each [C], not negative."""


def distance(first: Features, second: Features, heads: Heads | None = None) -> Array:
    """Computes the perceptual distance of images from their features.

        d = sum_l mean_p sum_c w_lc (u_lpc - v_lpc)^2

    u_lp and v_lp are the feature vectors of pixel p in layer l, divided by their lengths. The
    distance of a data set is the mean over its images.

    Args:
      first: layers [..., h, w, C].
      second: the same layers. Axes before h broadcast: [B, 1, h, w, C] against [B, n, h, w, C].
      heads: weights w. None: 1 for all channels.

    Returns:
      [...] float32, 0 for equal features.

    Raises:
      InputError: the layers of both features differ, or the heads do not fit them.
    """
    if set(first) != set(second):
        raise _misfit(f'layers {", ".join(second)}', f'layers {", ".join(first)}')
    weights = _weights(first, heads)
    total = jnp.zeros((), jnp.float32)
    for layer, weight in weights.items():
        difference = _unit(first[layer]) - _unit(second[layer])
        total += (weight * difference**2).sum(-1).mean((-2, -1))
    return total


def mean_of_pairs(features: Features, heads: Heads | None = None) -> Array:
    """Computes the mean perceptual distance of all pairs of samples, a measure of diversity.

        2 / (n (n - 1)) sum_{i < j} d_ij = 2 / (n - 1) sum_i d_i

    d_ij is `distance`. d_i is the same sum for the deviation of sample i from the mean over the
    samples of the vectors u. So the memory does not grow with the number of pairs.

    Args:
      features: layers [B, n, h, w, C] of n samples for each input.
      heads: as in `distance`.

    Returns:
      [B] float32, NaN for n = 1.

    Raises:
      InputError: the heads do not fit the layers.
    """
    weights = _weights(features, heads)
    total = jnp.zeros((), jnp.float32)
    for layer, weight in weights.items():
        vectors = _unit(features[layer])
        deviation = vectors - vectors.mean(1, keepdims=True)
        per_pixel = (weight * deviation**2).sum((1, -1))
        num_samples = vectors.shape[1]
        # A single sample has no pair. Its deviation of 0 times infinity is NaN.
        total += per_pixel.mean((-2, -1)) * jnp.divide(2.0, num_samples - 1)
    return total


def equal_heads(channels: Mapping[str, int]) -> dict[str, dict[str, Array]]:
    """Returns heads of weight 1 as the parameters of a net, into which published heads are loaded.

    Args:
      channels: number of channels of each compared layer.

    Returns:
      {layer: {'kernel': [1, 1, C, 1]}}, a 1x1 convolution for each layer.
    """
    return {layer: {'kernel': jnp.ones((1, 1, count, 1))} for layer, count in channels.items()}


def heads_of(params: Mapping[str, Mapping[str, PyTree]]) -> Heads:
    """Returns the weights of the channels in parameters of the form of `equal_heads`."""
    return {layer: head['kernel'].reshape(-1) for layer, head in params.items()}


def _weights(features: Features, heads: Heads | None) -> dict[str, Array]:
    """Returns the weights of the channels of each layer, after a check that they fit."""
    channels = {layer: feature.shape[-1] for layer, feature in features.items()}
    if heads is None:
        return {layer: jnp.ones(count, jnp.float32) for layer, count in channels.items()}
    sizes = {layer: head.shape[-1] for layer, head in heads.items()}
    if sizes != channels:
        raise _misfit(f'heads for the channels {sizes}', f'heads for the channels {channels}')
    return {layer: jnp.asarray(head, jnp.float32) for layer, head in heads.items()}


def _misfit(got: str, expected: str) -> InputError:
    """Returns the error about features or heads that do not belong together."""
    fix = 'take features and heads of the same net at its full width'
    return InputError('LPIPS', got=got, expected=expected, fix=fix)


def _unit(feature: Array) -> Array:
    """Divides the feature vector of every pixel by its length. The result is float32."""
    feature = feature.astype(jnp.float32)
    length = jnp.sqrt((feature**2).sum(-1, keepdims=True))
    return feature / (length + SMALLEST_LENGTH)
