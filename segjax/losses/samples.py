"""Losses of several generated images against several true images of the same condition.

A generator draws n branches for a condition. The true images are m samples: sample 0 belongs to the
condition, the further samples are neighbours with a similar condition. All losses begin with the
costs [B, n, m] of every pair of branch and sample:

    feature_distances   costs from features
    match               a branch for each sample
    best_neighbour, neighbours_enhanced, assigned_errors
                        a `protocol.Mean(sum, count)` that is not divided yet
    layer_errors, calibrated
                        factors that give all layers of the features the same share

Source: He, Schiele, Fritz, Diverse Conditional Image Generation by Stochastic Regression with
Latent Drop-Out Codes, ECCV 2018, section 3.2. The features and their factors are by Chen and
Koltun, Photographic Image Synthesis with Cascaded Refinement Networks (CRN), ICCV 2017.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.core.means import masked_mean, without_padding
from segjax.errors import InputError
from segjax.protocol import Array, Mean, PyTree

IMAGE = 'image'
"""Key of the image itself among the layers of its features."""

CITYSCAPES_256 = {
    IMAGE: 1.0,
    'conv1_2': 1 / 1.6,
    'conv2_2': 1 / 2.3,
    'conv3_2': 1 / 1.8,
    'conv4_2': 1 / 2.8,
    'conv5_2': 10 / 0.8,
}
"""Factors of CRN on Cityscapes at 256 rows.

This table and the tables below belong to VGG19 of MatConvNet with average pooling. The image is RGB
in 0..255. Further weights or ranges need factors of their own, see `calibrated`.
"""

GTA_256 = {
    IMAGE: 1.0,
    'conv1_2': 1 / 1.4,
    'conv2_2': 1 / 1.8,
    'conv3_2': 1 / 1.3,
    'conv4_2': 1 / 2.2,
    'conv5_2': 10 / 0.62,
}
"""Factors of CRN on GTA at 256 rows, where it draws nine images."""

CITYSCAPES_512 = {
    IMAGE: 1.0,
    'conv1_2': 1 / 2.6,
    'conv2_2': 1 / 4.8,
    'conv3_2': 1 / 3.7,
    'conv4_2': 1 / 5.6,
    'conv5_2': 10 / 1.5,
}
"""Factors of CRN on Cityscapes at 512 and 1024 rows."""

EMPHASIS = {'conv5_2': 10.0}
"""Multiples of the typical share that CRN gives to some layers, for `calibrated`."""


# --- costs ----------------------------------------------------------------------------------------


def feature_distances(
    outputs: Mapping[str, Array],
    targets: Mapping[str, Array],
    factors: Mapping[str, float | Array],
) -> Array:
    """Computes the perceptual distance of every output to every target (Eq. 5.6).

        l_bij = sum_k factor_k mean_{p, c} |outputs_k[b, i] - targets_k[b, j]|

    No array of [B, n, m, h, w, C] exists, in the gradient either: the targets are compared one by
    one. The derivative of the distance is 0 where two features are equal.

    Args:
      outputs: {layer: [B, n, h, w, C]}. Layers may differ in h, w and C.
      targets: {layer: [B, m, h, w, C]} of any dtype. They get no gradient.
      factors: factor of each layer. Layers without a factor do not count.

    Returns:
      [B, n, m] float32.

    Raises:
      InputError: a layer has a factor but no features, or shapes do not fit, or there is no factor.

    Source: He, Schiele, Fritz 2018, Eq. 6. The image is a layer like the features of a net.
    """
    _check_layers(outputs, targets, factors)
    total = jnp.zeros((), jnp.float32)
    for layer, factor in factors.items():
        total = total + factor * _layer_distances(outputs[layer], targets[layer])
    return total


def _check_layers(outputs, targets, factors):
    """Raises InputError unless all layers of `factors` can be compared."""
    missing = [k for k in factors if k not in outputs or k not in targets]
    if missing or not factors:
        raise InputError(
            'distances of features',
            got=f'factors of {sorted(factors)}, outputs with {sorted(outputs)}, '
            f'targets with {sorted(targets)}',
            expected='at least one factor, and features of each layer that has a factor',
        )
    for layer in factors:
        ours = outputs[layer].shape
        theirs = targets[layer].shape
        if len(ours) != 5 or ours[:1] + ours[2:] != theirs[:1] + theirs[2:]:
            raise InputError(
                f'distances of the layer {layer}',
                got=f'shapes {ours} and {theirs}',
                expected='[B, n, h, w, C] and [B, m, h, w, C]',
            )


def _layer_distances(outputs, targets):
    """Returns the mean |difference| of outputs [B, n, h, w, C] and targets [B, m, h, w, C]."""
    # Gradients of all targets are added up in the dtype of `outputs`.
    outputs = outputs.astype(jnp.float32)

    # Without the checkpoint, the loop would keep the signs of all differences for the gradient.
    @jax.checkpoint
    def compare(target):
        difference = outputs - target[:, None].astype(jnp.float32)
        return _absolute(difference).mean((2, 3, 4))

    by_target = jnp.moveaxis(jax.lax.stop_gradient(targets), 1, 0)
    return jnp.moveaxis(jax.lax.map(compare, by_target), 0, -1)


def _absolute(x):
    """Returns |x|, with derivative 0 at 0, and no trace of NaN in a gradient that is 0."""
    # `ops.gradients.absolute` multiplies the gradient by the sign. The product 0 * NaN of an
    # example without weight would be NaN.
    return jnp.where(x < 0, -x, jnp.where(x == 0, 0, x))


# --- assignment -----------------------------------------------------------------------------------


def match(costs: Array, present: Array) -> Array:
    """Assigns every sample to a branch, and no branch to two samples.

    Sample 0 gets its best branch. Then follow rounds. In a round, every waiting sample proposes to
    its best free branch. A branch with several proposals takes the sample of the smallest cost.
    The losers propose again in the next round. Between equal costs, the lower branch and the lower
    sample win.

    Costs of NaN or infinity count as the largest float32, so that every sample gets a branch.

    Args:
      costs: [B, n, m] cost of each pair of branch and sample, see `feature_distances`. They get no
        gradient.
      present: [B, m], bool or > 0 for samples that exist.

    Returns:
      [B, m] int32 branch of each sample, -1 for absent samples.

    Raises:
      InputError: there are fewer branches than samples.

    Source: He, Schiele, Fritz 2018, section 3.2, assignment of neighbours.
    """
    _check_branches(*costs.shape[1:])
    costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
    largest = jnp.finfo(jnp.float32).max
    finite = jnp.where(jnp.isnan(costs), largest, jnp.clip(costs, -largest, largest))
    return jax.vmap(_match_example)(finite, present > 0)


def _check_branches(num_branches, num_samples):
    """Raises InputError for more samples than branches."""
    if num_branches < num_samples:
        raise InputError(
            'assignment of samples to branches',
            got=f'{num_branches} branches for {num_samples} samples: fewer branches than samples',
            expected='a branch for the true image and for each of its neighbours',
            fix=f'at least {num_samples} branches, or at most {num_branches - 1} neighbours',
        )


def _match_example(costs, present):
    """Returns the branch [m] of each sample from finite costs [n, m] and bool [m]."""
    num_branches, num_samples = costs.shape
    branch = jnp.arange(num_branches)[:, None]
    sample = jnp.arange(num_samples)

    # Only the true image is aligned with the condition, so it comes before its neighbours.
    first = (branch[:, 0] == jnp.argmin(costs[:, 0])) & present[0]
    pairs = first[:, None] & (sample == 0)

    def play_round(_, pairs):
        free = ~pairs.any(1, keepdims=True)
        waiting = present & ~pairs.any(0)
        favourite = jnp.argmin(jnp.where(free, costs, jnp.inf), 0)
        proposed = (branch == favourite) & waiting
        winner = jnp.argmin(jnp.where(proposed, costs, jnp.inf), 1)
        return pairs | (proposed & (sample == winner[:, None]))

    # A round assigns at least one waiting sample, so the number of neighbours bounds the rounds.
    pairs = jax.lax.fori_loop(1, num_samples, play_round, pairs)
    return jnp.where(pairs.any(0), jnp.argmax(pairs, 0), -1).astype(jnp.int32)


# --- losses ---------------------------------------------------------------------------------------


def best_neighbour(costs: Array, weight: Array) -> Mean:
    """Computes the loss of the best branch for the true image (Eq. 5.4).

        L = mean over examples of min_i costs[b, i, 0]

    The equation adds up the examples of a batch. Here their mean is taken, so that the loss does
    not depend on the batch size. Of several best branches, the first gets the whole gradient.

    Args:
      costs: [B, n, m] cost of each pair of branch and sample. Only sample 0 counts.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.

    Source: He, Schiele, Fritz 2018, Eq. 4.
    """
    costs = without_padding(weight, costs[..., 0].astype(jnp.float32))
    best = jnp.argmin(jax.lax.stop_gradient(costs), 1, keepdims=True)
    smallest = jnp.take_along_axis(costs, best, 1)[:, 0]
    return masked_mean(smallest, jnp.ones_like(smallest), weight)


def neighbours_enhanced(costs: Array, branches: Array, weight: Array) -> Mean:
    """Computes the loss of all assigned pairs (Eq. 5.5).

        L = mean over examples of sum_{j: branches[b, j] >= 0} costs[b, branches[b, j], j]

    The equation adds up the examples of a batch, see `best_neighbour`. Both losses are equal if
    there are no neighbours.

    Args:
      costs: [B, n, m] cost of each pair of branch and sample.
      branches: [B, m] branch of each sample, -1 for absent samples, see `match`.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      Mean whose count is the weight of all examples.

    Source: He, Schiele, Fritz 2018, Eq. 5.
    """
    places = jnp.maximum(branches, 0)[:, None]
    assigned = jnp.take_along_axis(costs.astype(jnp.float32), places, 1)[:, 0]
    return _sum_of_pairs(assigned, branches, weight)


def _sum_of_pairs(costs, branches, weight):
    """Adds up the costs [B, m] of samples that have a branch. The count is that of examples."""
    costs = without_padding(weight, costs)
    total = jnp.where(branches >= 0, costs, 0).sum(1)
    return masked_mean(total, jnp.ones_like(total), weight)


class Relaxation(NamedTuple):
    """A share of the loss that trains all branches, so that none is lost.

        L = (1 - s) neighbours_enhanced + s mean over examples of costs[b, r_b, 0]

    Its expectation has the mean over all branches. A branch that is the best for no example gets no
    gradient from Eq. 5.4, and stays as it began. CRN has s = 0.001.

    share     s in [0, 1], the share of the mean over all branches, a number or a scalar array
    branches  [B] int32, a random branch r_b of each example
    """

    share: float | Array
    branches: Array


def assigned_errors(
    render: Callable[[PyTree, Array], Mapping[str, Array]],
    source: PyTree,
    targets: Mapping[str, Array],
    present: Array,
    factors: Mapping[str, float | Array],
    weight: Array,
    *,
    num_branches: int,
    chunk: int,
    relaxation: Relaxation | None = None,
) -> tuple[dict[str, Mean], Array]:
    """Computes the neighbours enhanced loss by layer, with a gradient of assigned branches alone.

    The sum of the errors with their factors, and its gradient, are equal to

        costs = feature_distances(render(source, all branches), targets, factors)
        neighbours_enhanced(costs, match(costs, present), weight)

    The first pass has no gradient. It computes the costs of `chunk` branches at a time, and assigns
    the samples. The second pass draws the m assigned branches with gradient. Its memory does not
    depend on the number of branches n. With m = n a single pass needs as much memory, and is taken.
    With a single sample in `targets`, the result is the loss of `best_neighbour`.

    Args:
      render: (source, branches [B, k] int32) -> {layer: [B, k, h, w, C]}, features of the images
        that these branches draw. Each image depends on its own branch alone.
      source: everything that `render` needs and that gets a gradient: parameters, or the features
        that all branches share. Arrays that `render` closes over should need no gradient.
      targets: {layer: [B, m, h, w, C]} features of the samples. They get no gradient.
      present: [B, m], bool or > 0 for samples that exist.
      factors: factor of each layer, see `feature_distances`.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.
      num_branches: n, the number of branches that samples may get.
      chunk: number of branches that the first pass draws at a time. Chunks have equal lengths: the
        last branch is drawn again to fill the last chunk.
      relaxation: share and random branches. None: a share of 0.

    Returns:
      {layer: Mean} without factors, whose counts are the weight of all examples, and [B, m] int32
      branches as of `match`.

    Raises:
      InputError: there are fewer branches than samples, or layers do not fit.
    """
    num_samples = present.shape[1]
    _check_branches(num_branches, num_samples)

    # Random branches are drawn behind the assigned branches.
    share, random = relaxation or Relaxation(0, jnp.zeros((len(weight), 0), jnp.int32))
    random = random.reshape(len(weight), -1)
    if num_samples == num_branches:
        outputs, branches = _single_pass(render, source, targets, present, factors, random)
    else:
        costs = _costs_in_chunks(render, source, targets, factors, num_branches, chunk)
        branches = match(costs, present)
        outputs = render(source, _chosen(branches, random))

    mixed = functools.partial(_mixed_error, branches=branches, share=share, weight=weight)
    return {layer: mixed(outputs[layer], targets[layer]) for layer in factors}, branches


def _chosen(branches, random):
    """Returns the branches to draw: of the samples [B, m], and the random branches [B, r]."""
    # An absent sample has the image of branch 0, because shapes are fixed. It is not counted.
    return jnp.concatenate([jnp.maximum(branches, 0), random], 1)


def _single_pass(render, source, targets, present, factors, random):
    """Returns the features of the chosen branches, and the assigned branches, for m = n."""
    everything = jnp.broadcast_to(jnp.arange(present.shape[1]), present.shape)
    drawn = render(source, everything)
    costs = feature_distances(jax.lax.stop_gradient(drawn), targets, factors)
    branches = match(costs, present)
    places = _chosen(branches, random)[..., None, None, None]
    return {layer: jnp.take_along_axis(x, places, 1) for layer, x in drawn.items()}, branches


def _mixed_error(outputs, targets, *, branches, share, weight):
    """Computes the error of a layer for assigned pairs, and for random branches with their share.

    Args:
      outputs: [B, m, ...] of assigned branches, or [B, m + 1, ...] with a random branch at the end.
      targets: [B, m, ...] of the samples.
      branches: [B, m] branch of each sample.
      share: of random branches.
      weight: [B] weight of each example.
    """
    num_samples = targets.shape[1]
    assigned = _sum_of_pairs(_pair_errors(outputs[:, :num_samples], targets), branches, weight)
    if outputs.shape[1] == num_samples:
        return assigned
    first = jnp.zeros((len(weight), 1), jnp.int32)
    errors = _pair_errors(outputs[:, num_samples:], targets[:, :1])
    random = _sum_of_pairs(errors, first, weight)
    return Mean((1 - share) * assigned.sum + share * random.sum, assigned.count)


def _pair_errors(outputs, targets):
    """Returns the mean |difference| [B, k] of outputs and targets [B, k, h, w, C]."""
    # Pairs are compared as examples with one sample.
    ours = {IMAGE: _as_examples(outputs)}
    theirs = {IMAGE: _as_examples(targets)}
    return feature_distances(ours, theirs, {IMAGE: 1}).reshape(outputs.shape[:2])


def _costs_in_chunks(render, source, targets, factors, num_branches, chunk):
    """Returns the costs [B, n, m] of all branches without gradient, `chunk` branches at a time."""
    num_examples = next(iter(targets.values())).shape[0]
    chunk = min(chunk, num_branches)
    num_chunks = -(-num_branches // chunk)
    numbers = jnp.minimum(jnp.arange(num_chunks * chunk, dtype=jnp.int32), num_branches - 1)

    # The gradient is stopped before the loop. Otherwise the loop keeps what a gradient would need.
    fixed = jax.lax.stop_gradient(source)

    def costs_of(branches):
        branches = jnp.broadcast_to(branches, (num_examples, chunk))
        return feature_distances(render(fixed, branches), targets, factors)

    costs = jax.lax.map(costs_of, numbers.reshape(num_chunks, chunk))  # [chunks, B, chunk, m]
    costs = jnp.moveaxis(costs, 0, 1)
    return costs.reshape(num_examples, num_chunks * chunk, -1)[:, :num_branches]


def _as_examples(x):
    """Turns the m samples of B examples into B m examples with one sample: [B m, 1, h, w, C]."""
    return x.reshape(-1, 1, *x.shape[2:])


# --- factors of the layers ------------------------------------------------------------------------


def layer_errors(
    features: Mapping[str, Array], other: Mapping[str, Array], weight: Array
) -> dict[str, Mean]:
    """Computes the mean absolute difference of two images in each layer, for `calibrated`.

    Args:
      features: {layer: [B, ...]} features of generated images.
      other: features of true images, with equal keys and shapes.
      weight: [B] weight of each example. Examples of weight 0 count for nothing.

    Returns:
      {layer: Mean} whose counts are the weight of all examples.

    Raises:
      InputError: keys or shapes differ.
    """
    shapes = {layer: x.shape for layer, x in features.items()}
    other_shapes = {layer: x.shape for layer, x in other.items()}
    if shapes != other_shapes:
        raise InputError(
            'errors of layers',
            got=f'shapes {shapes} and {other_shapes}',
            expected='equal layers of equal shapes',
        )
    errors = {}
    for layer, ours in features.items():
        difference = ours.astype(jnp.float32) - other[layer].astype(jnp.float32)
        axes = tuple(range(1, difference.ndim))
        per_example = _absolute(without_padding(weight, difference)).mean(axes)
        errors[layer] = masked_mean(per_example, jnp.ones_like(per_example), weight)
    return errors


def calibrated(
    errors: Mapping[str, Mean], emphasis: Mapping[str, float] | None = None
) -> dict[str, Array]:
    """Returns factors that give each layer the share of the image in a typical distance.

        factor_k = emphasis_k error_image / error_k,     factor_image = 1

    CRN chose its factors so, after 100 epochs, with ten times the share for conv5_2.

    Args:
      errors: {layer: Mean} of typical pairs of images, from `layer_errors`, with the layer 'image'.
      emphasis: multiple of the share of the image that a layer gets, 1 for layers without an entry.
        EMPHASIS is that of CRN.

    Returns:
      {layer: factor} for `feature_distances`. A layer whose error is 0 gets the factor 0: it has no
      scale.

    Raises:
      InputError: there is no layer 'image', or `emphasis` names a layer without errors.
    """
    emphasis = emphasis or {}
    missing = {IMAGE, *emphasis} - set(errors)
    if missing:
        raise InputError(
            'calibration of layers',
            got=f'errors of {sorted(errors)}, without {sorted(missing)}',
            expected=f'the errors of {IMAGE!r}, and of all layers with an emphasis',
        )
    image_error = errors[IMAGE].value()
    factors = {}
    for layer, mean in errors.items():
        error = mean.value()
        ratio = jnp.where(error > 0, image_error / jnp.where(error > 0, error, 1), 0)
        factors[layer] = emphasis.get(layer, 1.0) * ratio
    return factors
