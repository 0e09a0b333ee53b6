"""Signals of membership: numbers per image that are different for training images, on the device.

An attacker queries a net with an image and compares the posteriors with the label. Nets
fit their training images better, so these images have a smaller loss. segjax/metrics/membership.py
turns signals into attacks.

All functions run under jit and accept NumPy arrays. They read posteriors, not logits, because a
defence changes posteriors (segjax/ops/posteriors.py).
"""

import jax.numpy as jnp

from segjax.errors import InputError
from segjax.ops.edges import instance_edges
from segjax.ops.pool import max_pool
from segjax.protocol import Array

FLOOR = 1e-30
"""Smallest probability in a logarithm. Float32 on an accelerator has nothing below 1e-38."""


def pixel_signals(posteriors: Array, label: Array) -> dict[str, Array]:
    """Computes the signals of every pixel, in float32.

        loss       = -log p_y
        confidence = max_c p_c
        logit      = log p_y - log sum_{c != y} p_c

    y is the label. `logit` equals log p_y - log(1 - p_y), but stays exact where p_y is nearly 1,
    because the probabilities of the further classes are summed. Probabilities below FLOOR count as
    FLOOR.

    Args:
      posteriors: [..., C], any float type. They sum to 1.
      label: [...] integer train ids. Pixels with another label, such as 255, get 0.

    Returns:
      {'loss', 'confidence', 'logit'}, each [...].

    Sources: Yeom et al., Privacy Risk in Machine Learning, CSF 2018 (loss). Salem et al., ML-Leaks,
    NDSS 2019 (confidence). Carlini et al., Membership Inference Attacks From First Principles,
    S&P 2022 (logit).
    """
    posteriors = jnp.asarray(posteriors, jnp.float32)
    label = jnp.asarray(label)
    _check_shapes(posteriors, label)
    is_truth = label[..., None] == jnp.arange(posteriors.shape[-1])  # [..., C]
    of_truth = jnp.where(is_truth, posteriors, 0).sum(-1)
    of_rest = jnp.where(is_truth, 0, posteriors).sum(-1)
    log_truth = jnp.log(jnp.maximum(of_truth, FLOOR))
    log_rest = jnp.log(jnp.maximum(of_rest, FLOOR))
    signals = {
        'loss': -log_truth,
        'confidence': posteriors.max(-1),
        'logit': log_truth - log_rest,
    }
    valid = is_truth.any(-1)
    return {name: jnp.where(valid, values, 0) for name, values in signals.items()}


def image_signals(posteriors: Array, label: Array, reach: int = 0) -> dict[str, Array]:
    """Averages the signals of every image over its labelled pixels.

    Args:
      posteriors: [B, H, W, C], as in `pixel_signals`.
      label: [B, H, W]. Padding has the label 255.
      reach: with a reach of 1 or more, the result has the means over boundary and interior pixels
        too. Boundary pixels are those of `boundary_pixels`.

    Returns:
      {'loss', 'confidence', 'logit'}, each [B] float32. With a `reach` also 'boundary_loss',
      'interior_loss' and so on. NaN for images without such a pixel.
    """
    signals = pixel_signals(posteriors, label)
    valid = _is_class(label, posteriors.shape[-1])
    means = {name: _mean(values, valid) for name, values in signals.items()}
    if reach:
        boundary = boundary_pixels(label, posteriors.shape[-1], reach)
        for name, values in signals.items():
            means[f'boundary_{name}'] = _mean(values, boundary)
            means[f'interior_{name}'] = _mean(values, valid & ~boundary)
    return means


def class_signals(posteriors: Array, label: Array) -> dict[str, Array]:
    """Averages the signals of every image over the pixels of each class.

    Args:
      posteriors: [B, H, W, C], as in `pixel_signals`.
      label: [B, H, W].

    Returns:
      {'loss', 'confidence', 'logit'}, each [B, C] float32. NaN for classes without a pixel.
    """
    signals = pixel_signals(posteriors, label)
    of_class = jnp.asarray(label)[..., None] == jnp.arange(posteriors.shape[-1])  # [B, H, W, C]
    return {name: _mean(values[..., None], of_class) for name, values in signals.items()}


def boundary_pixels(label: Array, num_classes: int, reach: int) -> Array:
    """Marks the labelled pixels near a boundary between two classes.

    A pixel at a boundary has a 4-neighbour of another class. Pixels that are less than `reach` rows
    and columns away from such a pixel are marked. With `reach` 1 only the pixels at a boundary are.

    Args:
      label: [B, H, W] integer train ids. Pixels without a class make no boundary and are not
        marked.
      num_classes: C.
      reach: at least 1.

    Returns:
      [B, H, W] bool.
    """
    if reach < 1:
        raise InputError('boundary_pixels: reach', got=f'{reach}', expected='1 or more pixels')
    label = jnp.asarray(label)
    valid = _is_class(label, num_classes)
    edges = instance_edges(label, valid)
    near = max_pool(edges[..., None].astype(jnp.float32), 2 * reach - 1, 1, padding=reach - 1)
    return (near[..., 0] > 0) & valid


def _is_class(label: Array, num_classes: int) -> Array:
    """Returns which labels are classes."""
    label = jnp.asarray(label)
    return (label >= 0) & (label < num_classes)


def _mean(values: Array, counted: Array) -> Array:
    """Averages values [B, H, W, ...] over the counted pixels. NaN where no pixel counts."""
    # Rows first: a float32 sum over all pixels of a large image would lose digits.
    total = jnp.where(counted, values, 0).sum(2).sum(1)
    return total / counted.sum((1, 2))


def _check_shapes(posteriors: Array, label: Array) -> None:
    """Raises InputError unless posteriors [..., C] and label [...] belong together."""
    if posteriors.ndim < 1 or posteriors.shape[:-1] != label.shape:
        raise InputError(
            'signals of membership',
            got=f'posteriors {list(posteriors.shape)} and label {list(label.shape)}',
            expected='posteriors [..., C] and label [...]',
            fix='resize the posteriors to the size of the label',
        )
