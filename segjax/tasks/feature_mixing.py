"""Two simple augmentations of features, to compare generated features with.

`mixup` mixes the features of two examples, and their losses with the same share. `add_noise` adds
Gaussian noise to features. All random numbers depend on (key, index of the example). Partners are
neighbours in the batch, which are on the same device and in the same micro-batch. So the result
depends on neither.

    mixed = feature_mixing.mixup(features, label, weight, key, index, settings)
    logits = decode(mixed.features)
    loss = feature_mixing.mixed_mean(functools.partial(losses.cross_entropy, logits), mixed)

Sources: Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML
2019, with a single layer. Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.core import rng
from segjax.errors import InputError
from segjax.protocol import Array, Mean, PRNGKey
from segjax.schema import Field, above, at_least

FEATURE_MIXING = {
    'alpha': Field(
        0.2,
        'Parameter a of the distribution Beta(a, a) of the shares by which features are mixed. '
        '1 is uniform, and small values seldom mix.',
        above(0),
    ),
    'noise': Field(
        0.1,
        'Standard deviation of the noise on features, as a share of the standard deviation of '
        'each channel.',
        at_least(0),
    ),
}
"""Keys of the settings."""


class Mixed(NamedTuple):
    """Features of mixed examples, and the two labels of each with their weights.

    features  [B, h, w, C]
    labels    (own labels, labels of the partners), each [B, H, W]
    weights   (share of the own label, share of the partner's label) of each example, [B] float32.
              Their sum is the weight of the example
    """

    features: Array
    labels: tuple[Array, Array]
    weights: tuple[Array, Array]


def mixup(
    features: Array,
    label: Array,
    weight: Array,
    key: PRNGKey,
    index: Array,
    settings: ml_collections.ConfigDict,
) -> Mixed:
    """Mixes the features of each example with those of its neighbour.

        x' = l x + (1 - l) x_partner,     l ~ Beta(a, a)
        weights  l w and (1 - l) w

    Rows 0 and 1 are partners, then rows 2 and 3. Both draw a share of their own. An example keeps
    its features if the weight of its partner is 0 (padding).

    Args:
      features: x, [B, h, w, C] floating point.
      label: [B, H, W] train ids.
      weight: w, [B] weight of each example.
      key: of a stream of `Stage.shared_streams`.
      index: [B] batch['index'].
      settings: of the keys FEATURE_MIXING.

    Returns:
      Mixed, with features in their dtype.

    Raises:
      InputError: a device has an odd number of examples.
    """
    partner = _partners(len(features))
    keys = rng.of_examples(rng.named(key, 'mixup'), index)
    share = jax.vmap(lambda key: jax.random.beta(key, settings.alpha, settings.alpha))(keys)
    is_mixed = weight[partner] > 0
    share = jnp.where(is_mixed, share, 1)

    # `where` keeps a NaN in padding out of the features of its partner.
    of_pixels = share[:, None, None, None]
    mixed = of_pixels * features + (1 - of_pixels) * features[partner]
    mixed = jnp.where(is_mixed[:, None, None, None], mixed.astype(features.dtype), features)
    return Mixed(mixed, (label, label[partner]), (share * weight, (1 - share) * weight))


def _partners(rows: int) -> np.ndarray:
    """Returns the row of the partner of each row, [rows]: 1, 0, 3, 2, ..

    Raises:
      InputError: the number of rows is odd.
    """
    if rows % 2:
        raise InputError(
            'mixup of features',
            got=f'{rows} example{"s" * (rows > 1)} for each device and micro-batch',
            expected='an even number of examples, which are mixed in pairs',
            fix='double --config.train.batch_size',
        )
    return np.arange(rows) ^ 1


def mixed_mean(loss_of: Callable[[Array, Array], Mean], mixed: Mixed) -> Mean:
    """Computes the loss of mixed examples towards both labels.

        sum   = sum_b w_b (l_b sum_p loss(own label) + (1 - l_b) sum_p loss(label of the partner))
        count = the same sum over the weights of the pixels

    Args:
      loss_of: (label [B, H, W], weight [B]) -> Mean, whose sum and count are linear in the
        weights.
      mixed: from `mixup`.
    """
    own, other = map(loss_of, mixed.labels, mixed.weights)
    return Mean(own.sum + other.sum, own.count + other.count)


def add_noise(
    features: Array, key: PRNGKey, index: Array, settings: ml_collections.ConfigDict
) -> Array:
    """Adds Gaussian noise in proportion to the standard deviation of each channel.

        x' = x + share std_c e,     e ~ N(0, 1)

    std_c is the standard deviation of channel c over the pixels of the example itself, so it does
    not depend on the batch. A constant channel gets no noise. std_c passes no gradient.

    Args:
      features: x, [B, h, w, C] floating point.
      key: of a stream of `Stage.shared_streams`.
      index: [B] batch['index'].
      settings: of the keys FEATURE_MIXING.

    Returns:
      [B, h, w, C] in the dtype of the features.
    """
    keys = rng.of_examples(rng.named(key, 'noise'), index)
    shape = features.shape[1:]
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    deviation = features.astype(jnp.float32).std((1, 2), keepdims=True)
    deviation = jax.lax.stop_gradient(deviation)
    return features + (settings.noise * deviation * noise).astype(features.dtype)
