"""Statistics of features by class and channel: entropy, and overlap of distributions (Table 6.3).

The activations of each class and channel are counted in a histogram. On the device `histograms`
counts pixels as exact integers. The driver adds them up over devices, hosts and batches. On the
host `scores` turns the sum into numbers, and `distribution` into a curve.

    values = on_ball(features)                                    # patches of L2 norm 100
    bins = ball_bins(features.shape[1:])
    counts = histograms(values, label, weight, num_classes, bins)  # in eval_step
    scores(counts.sum, class_names)                               # in finalize

Features with a low entropy and little overlap between classes are easy to generate. Source: He,
thesis Sec. 6.3.2, Table 6.3 and Fig. 6.5.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from segjax.errors import InputError
from segjax.metrics import curves
from segjax.ops import resize
from segjax.protocol import Array, Mean

NORM = 100.0
"""L2 norm to which each patch of features is scaled, as in the thesis."""


class Bins(NamedTuple):
    """Equal bins of a histogram. Smaller and larger values count in the first and the last bin.

    number  of bins
    low     lower limit of the first bin
    high    upper limit of the last bin
    """

    number: int
    low: float
    high: float

    def centres(self) -> np.ndarray:
        """Returns the centre of each bin, [number] float64."""
        edges = np.linspace(self.low, self.high, self.number + 1)
        return (edges[1:] + edges[:-1]) / 2


# --- counting -------------------------------------------------------------------------------------


def on_ball(features: Array, valid: Array | None = None, norm: float = NORM) -> Array:
    """Scales each patch of features to the same L2 norm, over its pixels and channels.

        x norm sqrt(s) / |x|

    s is the share of pixels that are no padding. So values keep their root mean square,
    norm / sqrt(h w C), whatever the padding.

    Args:
      features: [B, h, w, C]. A patch of zeros stays a patch of zeros.
      valid: bool [B, h, w], False in the padding, whose features count as 0. None: no padding.
      norm: of the scaled patches without padding.

    Returns:
      [B, h, w, C] float32.
    """
    features = features.astype(jnp.float32)
    if valid is not None:
        features = jnp.where(valid[..., None], features, 0)
        norm = norm * jnp.sqrt(valid.mean((1, 2)))[:, None, None, None]
    length = jnp.sqrt((features**2).sum((1, 2, 3), keepdims=True))
    return features * jnp.where(length > 0, norm / length, 0)


def ball_bins(
    shape: tuple[int, int, int], number: int = 256, spread: float = 8.0, norm: float = NORM
) -> Bins:
    """Returns bins for patches of `on_ball`, which fit patches of every size.

    Values of a patch of norm R with n numbers have the root mean square R / sqrt(n). The limits
    are multiples of it. So a patch with more pixels or channels falls into the same bins, and no
    pass over the data is needed to find the limits. The thesis publishes no bins.

    Args:
      shape: (h, w, C) of a patch.
      number: of bins.
      spread: the bins end at -spread and at +spread times the root mean square.
      norm: of the patches.

    Raises:
      InputError: fewer than 2 bins, or a spread that is not positive.
    """
    if number < 2 or spread <= 0:
        raise InputError(
            'bins of features',
            got=f'{number} bins with spread {spread:g}',
            expected='2 bins or more, and a spread above 0',
            fix='ball_bins(shape, number=256, spread=8.0)',
        )
    limit = spread * norm / float(np.sqrt(np.prod(shape)))
    return Bins(number, -limit, limit)


def histograms(values: Array, label: Array, weight: Array, num_classes: int, bins: Bins) -> Mean:
    """Counts the values of each class and channel in bins.

    Labels are brought to the size of the features with `resize.nearest`: a feature gets the label
    at the centre of its cell. Nets that enlarge with `resize.bilinear_on_grid` have their features
    on every s-th pixel instead. Give label[:, ::s, ::s] for such nets.

    Memory: 4 bytes for each class, channel and bin, 20 MB for 19 classes and 1024 channels in 256
    bins. Examples follow each other, so memory does not grow with the batch.

    Args:
      values: [B, h, w, C], of `on_ball` for Table 6.3. NaN is not counted.
      label: [B, H, W] integer train ids. 255 and further values outside 0 .. K-1 are not counted.
      weight: [B]. Examples of weight 0 (padding) are not counted. Any positive weight counts once.
      num_classes: K.
      bins: of all channels.

    Returns:
      Mean(counts, 1), whose `sum` is read. The counts are [K, C, number of bins] int32. Each may
      count fewer than 2**31 pixels over all devices.
    """
    height, width, channels = values.shape[1:]
    label = resize.nearest(label, (height, width)).astype(jnp.int32)
    counted = (label >= 0) & (label < num_classes) & (weight > 0)[:, None, None]
    size = num_classes * channels * bins.number

    # Adding integers is exact in any order, so a scatter is deterministic here.
    def add_example(counts: Array, example: tuple[Array, Array, Array]) -> tuple[Array, None]:
        values, label, counted = example
        place = jnp.floor((values - bins.low) * (bins.number / (bins.high - bins.low)))
        place = jnp.clip(place, 0, bins.number - 1)
        row = label[..., None] * channels + jnp.arange(channels)  # [h, w, C]
        cell = row * bins.number + place.astype(jnp.int32)
        # Cell `size` does not exist, so it is dropped.
        cell = jnp.where(counted[..., None] & ~jnp.isnan(values), cell, size)
        return counts.at[cell.ravel()].add(1, mode='drop'), None

    examples = (values.astype(jnp.float32), label, counted)
    counts, _ = jax.lax.scan(add_example, jnp.zeros(size, jnp.int32), examples)
    counts = counts.reshape(num_classes, channels, bins.number)
    return Mean(counts, jnp.ones((), jnp.int32))


# --- scores ---------------------------------------------------------------------------------------


def _shares(counts: np.ndarray) -> np.ndarray:
    """Returns histograms whose bins sum to 1, in float64. NaN where nothing was counted."""
    counts = np.asarray(counts, np.float64)
    with np.errstate(invalid='ignore'):
        return counts / counts.sum(-1, keepdims=True)


def entropy(counts: np.ndarray) -> np.ndarray:
    """Computes the entropy of each class and channel, in nats.

        H = - sum_b p_b ln p_b,     0 ln 0 = 0

    It is at most ln(number of bins). Few pixels lower it: on average by about (m - 1) / (2 N) for
    N pixels in m occupied bins. The thesis names no unit.

    Args:
      counts: [K, C, number of bins] of `histograms`, or their sum.

    Returns:
      [K, C] float64, NaN for a class without pixels.
    """
    shares = _shares(counts)
    logarithms = np.log(np.where(shares > 0, shares, 1))
    return -(shares * logarithms).sum(-1)


def overlap(counts: np.ndarray) -> np.ndarray:
    """Computes the intersection over union of the histograms of all pairs of classes.

        IoU = sum_b min(p_b, q_b) / sum_b max(p_b, q_b)

    It is computed for each channel and averaged over the channels. p and q sum to 1, so the number
    of pixels of a class has no influence. The value is 1 for equal distributions, and 0 for
    distributions without a common bin.

    Args:
      counts: [K, C, number of bins] of `histograms`, or their sum.

    Returns:
      [K, K] float64, symmetric. NaN for pairs with a class without pixels.
    """
    shares = _shares(counts)
    num_classes = len(shares)
    result = np.full((num_classes, num_classes), np.nan)
    for first in range(num_classes):
        for second in range(first, num_classes):
            intersection = np.minimum(shares[first], shares[second]).sum(-1)  # [C]
            value = (intersection / (2 - intersection)).mean()
            result[first, second] = value
            result[second, first] = value
    return result


def scores(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Computes the two statistics of Table 6.3, on the host.

    Args:
      counts: [K, C, number of bins] of `histograms`, or their sum.
      class_names: K names.

    Returns:
      'entropy' in nats, the mean over classes and channels. 'histogram_iou', the mean of `overlap`
      over pairs of different classes. 'class_entropy', by class the mean over channels. Classes
      without pixels are left out, and None stands where nothing is left.

    Raises:
      InputError: another number of names than classes.
    """
    if len(class_names) != len(counts):
        raise InputError(
            'class names',
            got=f'{len(class_names)} names',
            expected=f'{len(counts)}, the classes of the histograms',
        )
    by_class = entropy(counts).mean(-1)
    first, second = np.triu_indices(len(counts), 1)
    pairs = overlap(counts)[first, second]
    names_and_values = zip(class_names, by_class, strict=True)
    return {
        'entropy': _mean(by_class),
        'histogram_iou': _mean(pairs),
        'class_entropy': {name: _mean(value) for name, value in names_and_values},
    }


def _mean(values: ArrayLike) -> float | None:
    """Returns the mean of the values that are not NaN, None if there are none."""
    values = np.asarray(values)
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else None


def distribution(
    counts: np.ndarray, bins: Bins, channel: int, classes: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the histograms of a channel as a curve, with a line for each class (Fig. 6.5).

    The bins before the first and after the last occupied bin are left out.

    Args:
      counts: [K, C, number of bins] of `histograms`, or their sum.
      bins: of the counts.
      channel: its position, from 0 on.
      classes: {name: train id} of the lines. A class without pixels has no line.

    Returns:
      A score of `curves.curve`: share of the pixels of the class over the centre of the bin.

    Raises:
      ValueError: no class has pixels.
    """
    shares = _shares(counts)[:, channel]  # [K, number of bins]
    present = {name: shares[k] for name, k in classes.items() if not np.isnan(shares[k]).any()}
    if not present:
        raise ValueError(f'channel {channel}: no class of {", ".join(classes)} has pixels')
    occupied = np.flatnonzero(sum(present.values()))
    shown = slice(occupied[0], occupied[-1] + 1)
    centres = bins.centres()[shown]
    lines = {name: (centres, line[shown]) for name, line in present.items()}
    return curves.curve(lines, f'activation (patches of norm {NORM:g})', 'share of pixels')
