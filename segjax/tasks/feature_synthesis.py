"""Inner features of a segmentation net, synthesised from layouts: statistics, samples and scores.

A segmentation net S is split at an inner tensor, the tap, into an encoder En and a decoder De
(segjax/models/split.py). A generator G maps a layout Y and a code z to features:

    x = (En(X) - mean) / std        standardised features of each channel, which G learns
    De(mean + std G(Y, z))          logits of synthetic features

mean and std are those of the training images. They are stored with the generator, together with a
fingerprint of S. So a generator is used with the net and the tap that it was trained for, and with
no other.

Source: He, Improved Methods and Analysis for Semantic Image Segmentation, thesis, chapter 6.
"""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import means, optim, rng
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.losses import segmentation as losses
from segjax.metrics import features as feature_metrics
from segjax.models import split
from segjax.models.generators import layout
from segjax.ops import images, resize
from segjax.protocol import (
    Array,
    Batch,
    HandOn,
    Keys,
    Mean,
    Metrics,
    Picture,
    PyTree,
    Scores,
    TrainState,
)
from segjax.schema import Choice
from segjax.spec import DataSpec
from segjax.tasks import bicycle, segmentation, supervised, translation
from segjax.tasks.evaluation import Evaluation, Pictures

SEGMENTER = 'segmenter'
"""Name of S in a state."""
START = 'start'
"""Entry of `TrainState.extra` with the net S from which a refit began.

It holds 'params' and 'model_state', which no source of parameters replaces.
"""
STRIDE = 'stride'
"""Field of the nets that read layouts: their size divided by that of the features."""
SHOWN = 6
"""Channels in a picture, the most discriminative first."""
SHOWN_RANGE = 3.0
"""Pictures show standardised features from -SHOWN_RANGE to SHOWN_RANGE."""
CHANNEL_LEGEND = {
    f'channel {-SHOWN_RANGE:+g} std': images.HEAT[0],
    'channel mean': images.HEAT[len(images.HEAT) // 2],
    f'channel {SHOWN_RANGE:+g} std': images.HEAT[-1],
}
"""Colours of the smallest, the mean and the largest shown value of a channel."""
PREDICTION_OF = 'prediction_of_'
"""Prefix of pictures that show a segmentation, by what was segmented."""
CURVES = 2
"""Channels whose histograms are drawn as curves."""
COMMON_CLASSES = 4
"""Classes in a curve, the most frequent first."""


def _without_stride(choice: Choice) -> Choice:
    """Returns the choice of a net without the field `stride`, which the tap decides."""
    options = {}
    for name, fields in choice.options.items():
        options[name] = {key: field for key, field in fields.items() if key != STRIDE}
    return choice._replace(options=options)


GAN = {
    **bicycle.FEATURES,
    'model': _without_stride(bicycle.FEATURES['model']),
    'discriminator': _without_stride(bicycle.FEATURES['discriminator']),
}
"""Keys of the section `bicycle`."""


class Synthesis(NamedTuple):
    """The inputs that all functions share.

    config  of the run
    spec    of the data set
    net     S, a linen module
    tap     name of the inner tensor that is synthesised
    stride  distance of its features in pixels: feature (i, j) lies on pixel (stride i, stride j)
    channels  of its features, C
    gan     the generator and its rivals. None: nothing is synthesised by a generator
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    net: nn.Module
    tap: str
    stride: int
    channels: int
    gan: bicycle.System | None = None

    @property
    def num_shown(self) -> int:
        """Returns the number of channels in pictures."""
        return min(SHOWN, self.channels)


def make_synthesis(
    config: ml_collections.ConfigDict, spec: DataSpec, net: nn.Module, tap: str
) -> Synthesis:
    """Splits a net for images of the size `augment.crop`. `with_gan` adds a generator.

    Raises:
      InputError: an unknown tap, or a tap that does not split the net. The error lists taps.
    """
    size = tuple(config.augment.crop)
    split.check_split('config.features.tap', net, tap, size)
    height, width, channels = split.feature_shape(net, tap, size)
    stride = layout.fitting_stride(size, (height, width))
    if stride is None:
        raise InputError(
            'config.features.tap',
            got=f'{tap!r} with {height}x{width} features of images of {size[0]}x{size[1]}',
            expected=f'a tap at a stride of {", ".join(map(str, layout.STRIDES))}',
        )
    return Synthesis(config, spec, net, tap, stride, channels)


def scale_name(tap: str) -> str:
    """Returns the name of the statistics of a tap in a state.

    It begins like the names of the nets of the generator, so that the pattern 'bicycle' of
    `init_from.sources` loads them too. It names the tap, so that no generator of another tap is
    loaded. Paths of a net have no slash in the names of nets.
    """
    return f'{bicycle.GENERATOR}_{tap.replace("/", "_")}'


# --- the split net --------------------------------------------------------------------------------


def on_images(synthesis: Synthesis, net: nn.Module) -> segmentation.Net:
    """Returns S, or a variant of S, as a net on uint8 images."""
    prepare = functools.partial(images.normalize, scheme=synthesis.config.preprocess)
    return segmentation.net_of(net, prepare)


def encode(synthesis: Synthesis, params: PyTree, model_state: PyTree, image: Array) -> Array:
    """Returns En(X) of images [B, H, W, 3] uint8 in evaluation mode, [B, h, w, C] float32."""
    x = images.normalize(image, synthesis.config.preprocess)
    return split.encode(synthesis.net, synthesis.tap, params, model_state, x)


def decoded_logits(
    synthesis: Synthesis,
    params: PyTree,
    model_state: PyTree,
    features: Array,
    size: tuple[int, int],
) -> Array:
    """Returns the logits De of features [B, h, w, C] in evaluation mode, [B, H, W, K] float32."""
    outputs, _ = split.decode(
        synthesis.net, synthesis.tap, params, model_state, features, size, train=False
    )
    return outputs['logits'].astype(jnp.float32)


def standardised(scale: Mapping[str, Array], features: Array) -> Array:
    """Returns (features - mean) / std of each channel."""
    return (features - scale['mean']) / scale['std']


def restored(scale: Mapping[str, Array], features: Array) -> Array:
    """Inverts `standardised`."""
    return scale['mean'] + scale['std'] * features


def patch_losses(logits: Array, label: Array) -> Array:
    """Returns the mean cross-entropy of each example, [B] float32 without a gradient.

    Args:
      logits: [B, h, w, K], which are resized to the label.
      label: [B, H, W] train ids. An example without a valid pixel has the loss 0.
    """
    logits = resize.bilinear(jax.lax.stop_gradient(logits), label.shape[1:])
    loss, weight = losses.pixel_cross_entropy(logits.astype(jnp.float32), label)
    return loss.sum((1, 2)) / jnp.maximum(weight.sum((1, 2)), 1)


# --- the generator --------------------------------------------------------------------------------


def with_gan(
    synthesis: Synthesis, config: ml_collections.ConfigDict, pair_of: bicycle.PairOf
) -> Synthesis:
    """Returns the split net with the generator of the section `bicycle`, and its rivals.

    Args:
      synthesis: without a generator.
      config: whose section `train` is that of the generator.
      pair_of: layouts and standardised features of a batch.
    """
    section = config.bicycle.copy_and_resolve_references().unlock()
    for key, kind in (('model', 'generator'), ('discriminator', 'discriminator')):
        if STRIDE in models.schema(kind, section[key].name):
            section[key][STRIDE] = synthesis.stride
    gan = bicycle.make_system(
        config, section, pair_of, synthesis.channels, batch_key='features.batch_size'
    )
    return synthesis._replace(gan=gan)


def generated(
    synthesis: Synthesis,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    label: Array,
    codes: Array,
) -> Array:
    """Returns the standardised features G(Y, z) of label maps, [B, h, w, C] float32.

    Args:
      synthesis: with a generator.
      params: of a state, or its averages.
      model_state: of the same.
      label: [B, H, W] train ids. 255 and the class of void are void.
      codes: [B, ...] a code for each layout.
    """
    assert synthesis.gan is not None
    condition = translation.make_layout(label, synthesis.spec)
    features = bicycle.sample(synthesis.gan, params, model_state, condition, codes[:, None])
    return features[:, 0]


def drawn_codes(synthesis: Synthesis, key: Array, index: Array, name: str = 'codes') -> Array:
    """Draws a code from N(0, I) for each example, which depends on key, name and index alone."""
    assert synthesis.gan is not None
    return bicycle.normal_codes(rng.named(key, name), index, *synthesis.gan.code_shape)


# --- statistics of the features -------------------------------------------------------------------


def fingerprint(params: PyTree, model_state: PyTree) -> Array:
    """Returns 32 bits of all parameters and batch statistics of a net, [1] uint32.

    It is a sum of the bits of all numbers, with factors by name and place. Sums of integers are
    equal on all machines.
    """
    total = jnp.zeros(1, jnp.uint32)
    for name, leaf in named_leaves({'params': params, 'model_state': model_state}).items():
        numbers = jnp.ravel(jnp.asarray(leaf)).astype(jnp.float32)
        bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
        # Odd factors lose no bit.
        place = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(2654435761) | np.uint32(1)
        factor = np.uint32(zlib.crc32(name.encode()) | 1)
        total += (bits * place * factor).sum(dtype=jnp.uint32)
    return total


def check_fingerprint(synthesis: Synthesis, state: TrainState) -> None:
    """Raises InputError for a generator that was trained on another net than that of a state."""
    known = state.params[scale_name(synthesis.tap)]['net']
    own = fingerprint(state.params[SEGMENTER], state.model_state[SEGMENTER])
    if np.array_equal(known, own):
        return
    fix = '--config.init_from.path=RUN/features of the run that trained both'
    if synthesis.config.features.use == 'train':
        fix += f'; or --config.init_from.nets="(\'{SEGMENTER}/\',)", which trains a new generator'
    raise InputError(
        'config.init_from',
        got='a generator that was trained on the features of another net',
        expected=f'the generator of the tap {synthesis.tap!r} of this net, because every net has '
        'features of its own',
        fix=fix,
    )


def statistics_of(synthesis: Synthesis, earlier: Mapping[str, Any], stage: str) -> dict[str, Array]:
    """Returns the statistics of a tap for `Stage.init`, as a net that no optimiser owns.

    Args:
      synthesis: with the tap.
      earlier: states and arrays of the stages before. Without the arrays of `hand_on`, the
        statistics are placeholders, which `init_from` replaces.
      stage: name of the stage that has trained S.

    Returns:
      'mean' and 'std' [C], 'channels' [n] int32, and 'net': the fingerprint of S.
    """
    shapes = hand_on(synthesis).shapes
    if f'{stage}/mean' not in earlier:
        empty = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        return {**empty, 'net': jnp.zeros(1, jnp.uint32)}
    params, model_state = supervised.evaluated_nets(earlier[stage], synthesis.config.train.ema)
    own = fingerprint(params[SEGMENTER], model_state[SEGMENTER])
    return {**{name: earlier[f'{stage}/{name}'] for name in shapes}, 'net': own}


def hand_on(synthesis: Synthesis) -> HandOn:
    """Returns the measurement of the features of the training images by the stage that trains S.

    It hands on 'mean' and 'std' of each channel, and 'channels': the most discriminative channels,
    whose share of the variance between the classes is largest.
    """
    config = synthesis.config
    of_channel = jax.ShapeDtypeStruct((synthesis.channels,), jnp.float32)
    return HandOn(
        shapes={
            'mean': of_channel,
            'std': of_channel,
            'channels': jax.ShapeDtypeStruct((synthesis.num_shown,), jnp.int32),
        },
        inputs=segmentation.eval_input(config)._replace(split=config.data.train_split),
        eval_step=functools.partial(_count_features, synthesis),
        finalize=functools.partial(_statistics, shown=synthesis.num_shown),
    )


def _count_features(synthesis: Synthesis, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Sums features, their squares, and the features of each class."""
    params, model_state = optim.averaged(state, synthesis.config.train.ema)
    features = encode(synthesis, params[SEGMENTER], model_state[SEGMENTER], batch['image'])
    weight = batch['weight']
    valid, label = on_grid(synthesis, batch)
    features = means.without_padding(weight, features)
    counted = (valid & (weight > 0)[:, None, None]).astype(jnp.float32)

    # Labels outside of 0 .. K - 1 have no class.
    of_class = jax.nn.one_hot(label, synthesis.spec.classes.num_classes) * counted[..., None]
    number = counted.sum()
    return {
        'mean': Mean(jnp.einsum('bhw,bhwc->c', counted, features), number),
        'square': Mean(jnp.einsum('bhw,bhwc->c', counted, features**2), number),
        'class': Mean(jnp.einsum('bhwk,bhwc->kc', of_class, features), of_class.sum((0, 1, 2))),
    }


def on_grid(synthesis: Synthesis, batch: Batch) -> tuple[Array, Array]:
    """Returns the pixels under the features of an evaluation batch.

    Returns:
      (bool [B, h, w], whether the pixel is no padding; train ids [B, h, w], 255 in the padding).
    """
    stride = synthesis.stride
    valid = segmentation.valid_pixels(batch['size'], batch['image'])
    label = segmentation.label_of_image(batch, synthesis.config, synthesis.spec)
    return valid[:, ::stride, ::stride], label[:, ::stride, ::stride]


def _statistics(sums: Mapping[str, Mean], shown: int) -> dict[str, np.ndarray]:
    """Returns mean and std of each channel, and the most discriminative channels."""
    mean = np.asarray(sums['mean'].value(), np.float64)
    variance = np.maximum(np.asarray(sums['square'].value(), np.float64) - mean**2, 0)
    # A channel without variance is constant, and stays at its mean.
    std = np.sqrt(np.maximum(variance, 1e-8))

    # Share of the variance that lies between the means of the classes.
    number = np.asarray(sums['class'].count, np.float64)[:, None]
    of_class = np.asarray(sums['class'].sum, np.float64) / np.maximum(number, 1)
    between = (number * (of_class - mean) ** 2).sum(0) / max(number.sum(), 1)
    channels = np.argsort(-between / std**2, kind='stable')[:shown]
    return {
        'mean': mean.astype(np.float32),
        'std': std.astype(np.float32),
        'channels': channels.astype(np.int32),
    }


# --- evaluation of synthetic features -------------------------------------------------------------


def make_evaluation(synthesis: Synthesis) -> Evaluation:
    """Builds the evaluation of a generator on the layouts of the evaluation split.

    mIoU, pixel_accuracy, class_accuracy, fwIoU  of De(G(Y, z)) against Y: the "PSPNet-score"
    synthetic_mIoU  the mIoU, under a name that no other stage has
    baseline_real_features  the same scores of De(En(X)) = S(X), the limit of the generator
    diversity      standard deviation of features over codes, in standard deviations of a channel
    entropy, histogram_iou  statistics of real features by class (metrics/features.py, Table 6.3)
    channel_NUMBER  histograms of the most discriminative channels, for frequent classes (Fig. 6.5)

    Every layout has a code of its own, which depends on its index alone.
    """
    config, spec = synthesis.config, synthesis.spec
    infer = functools.partial(segment, synthesis)
    evidence = functools.partial(synthetic_evidence, synthesis)
    real = segmentation.make_evaluation(config, spec, infer)
    synthetic = segmentation.make_evaluation(config, spec, infer, evidence)
    both = with_baseline(synthetic, real, 'real_features')
    return both._replace(
        eval_step=functools.partial(_eval_step, synthesis, both.eval_step),
        finalize=functools.partial(_finalize, synthesis, both.finalize),
        render=functools.partial(_render, synthesis, both.render),
        predict=None,
    )


def segment(synthesis: Synthesis, state: TrainState, image: Array) -> Array:
    """Returns the logits S(X) of images [B, H, W, 3] uint8, [B, H, W, K] float32."""
    net = on_images(synthesis, synthesis.net)
    outputs = segmentation.averaged_net(net, state, synthesis.config.train.ema)(image)
    return outputs['logits'].astype(jnp.float32)


def segment_start(synthesis: Synthesis, state: TrainState, image: Array) -> Array:
    """Returns the logits of the net in state.extra[START], as `segment`."""
    start = state.extra[START]
    net = on_images(synthesis, synthesis.net)
    outputs, _ = net.apply(start['params'], start['model_state'], image, train=False)
    return outputs['logits'].astype(jnp.float32)


def synthetic_evidence(synthesis: Synthesis, state: TrainState, batch: Batch) -> Array:
    """Returns the logits De(G(Y, z)) of an evaluation batch, see `evidence_of_maps`."""
    label = segmentation.label_of_image(batch, synthesis.config, synthesis.spec)
    codes = evaluation_codes(synthesis, batch)[0]
    params, model_state = optim.averaged(state, synthesis.config.train.ema)
    scale = state.params[scale_name(synthesis.tap)]

    def read(label: Array) -> Array:
        features = restored(scale, generated(synthesis, params, model_state, label, codes))
        return decoded_logits(
            synthesis, params[SEGMENTER], model_state[SEGMENTER], features, label.shape[1:3]
        )

    return segmentation.evidence_of_maps(synthesis.config.evaluate, read, label, batch['size'])


def evaluation_codes(synthesis: Synthesis, batch: Batch) -> Array:
    """Returns `features.num_codes` codes for each example, [n, B, ...], the same in every run."""
    key = rng.root(0, 'codes of evaluation')
    number = synthesis.config.features.num_codes
    codes = [drawn_codes(synthesis, key, batch['index'], str(n)) for n in range(number)]
    return jnp.stack(codes)


def _eval_step(
    synthesis: Synthesis, scores_of: Callable, state: TrainState, batch: Batch, keys: Keys
) -> Metrics:
    """Counts confusions, histograms of real features, and the spread over codes."""
    config = synthesis.config
    metrics = dict(scores_of(state, batch, keys))
    params, model_state = optim.averaged(state, config.train.ema)
    weight = batch['weight']
    scale = state.params[scale_name(synthesis.tap)]
    valid, label = on_grid(synthesis, batch)

    # Statistics of real features.
    if config.features.bins:
        real = encode(synthesis, params[SEGMENTER], model_state[SEGMENTER], batch['image'])
        metrics['histograms'] = feature_metrics.histograms(
            feature_metrics.on_ball(real, valid),
            label,
            weight,
            synthesis.spec.classes.num_classes,
            _bins(synthesis, batch['image'].shape[1:3]),
        )
        metrics['channels'] = Mean(scale['channels'].astype(jnp.float32), jnp.float32(1))

    # Diversity. A single code has no spread.
    if config.features.num_codes > 1:
        of_codes = functools.partial(generated, synthesis, params, model_state)
        label = segmentation.label_of_image(batch, config, synthesis.spec)
        drawn = jax.lax.map(
            functools.partial(of_codes, label), evaluation_codes(synthesis, batch)
        )  # [n, B, h, w, C]
        spread = drawn.std(0).mean(-1)
        value = jnp.where(valid, spread, 0)
        metrics['diversity'] = means.masked_mean(value, valid.astype(jnp.float32), weight)
    return metrics


def _bins(synthesis: Synthesis, size: tuple[int, int]) -> feature_metrics.Bins:
    """Returns the bins of the histograms of images of a size (height, width)."""
    shape = (*layout.encoded_size(*size, synthesis.stride), synthesis.channels)
    return feature_metrics.ball_bins(shape, synthesis.config.features.bins)


def _finalize(synthesis: Synthesis, scores_of: Callable, metrics: Mapping[str, Mean]) -> Scores:
    """Turns sums into scores, see `make_evaluation`."""
    scores = dict(scores_of(metrics))
    scores['synthetic_mIoU'] = scores['mIoU']
    if 'diversity' in metrics:
        scores['diversity'] = float(metrics['diversity'].value())
    if 'histograms' not in metrics or not metrics['histograms'].sum.any():
        return scores

    # Curves show the most frequent classes.
    names = synthesis.spec.classes.names
    counts = metrics['histograms'].sum
    bins = _bins(synthesis, tuple(synthesis.config.data.eval_size))
    scores |= feature_metrics.scores(counts, names)
    frequent = np.argsort(-counts[:, 0].sum(-1), kind='stable')[:COMMON_CLASSES]
    classes = {names[train_id]: int(train_id) for train_id in frequent}
    channels = np.round(metrics['channels'].value()).astype(int)
    for channel in channels[:CURVES]:
        scores[f'channel_{channel}'] = feature_metrics.distribution(
            counts, bins, int(channel), classes
        )
    return scores


def with_baseline(main: Evaluation, other: Evaluation, name: str) -> Evaluation:
    """Returns an evaluation that also scores and shows another segmentation as a baseline.

    Args:
      main: of `segmentation.make_evaluation`.
      other: the same, of another segmentation of the same images.
      name: of the other segmentation. Its scores are 'baseline_NAME', and its picture is
        'prediction_of_NAME'.
    """

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        compared = other.eval_step(state, batch, keys)['confusion']
        return {**main.eval_step(state, batch, keys), f'{name}/confusion': compared}

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        compared = other.finalize({'confusion': metrics[f'{name}/confusion']})
        values = {key: value for key, value in compared.items() if isinstance(value, float)}
        return {**main.finalize(metrics), f'baseline_{name}': values}

    def render(state: TrainState, batch: Batch, keys: Keys) -> Pictures:
        assert main.render is not None
        assert other.render is not None
        compared = other.render(state, batch, keys)
        shown = main.render(state, batch, keys)
        return {**shown, f'{PREDICTION_OF}{name}': compared['prediction']}

    return main._replace(eval_step=eval_step, finalize=finalize, render=render)


# --- pictures -------------------------------------------------------------------------------------


def _render(
    synthesis: Synthesis, scores_of: Callable, state: TrainState, batch: Batch, keys: Keys
) -> Pictures:
    """Shows the predictions, and discriminative channels of real and of synthetic features."""
    pictures = {}
    for panel, picture in scores_of(state, batch, keys).items():
        is_main = panel == 'prediction'
        pictures[f'{PREDICTION_OF}synthetic_features' if is_main else panel] = picture
    params, model_state = optim.averaged(state, synthesis.config.train.ema)
    scale = state.params[scale_name(synthesis.tap)]
    label = segmentation.label_of_image(batch, synthesis.config, synthesis.spec)
    codes = evaluation_codes(synthesis, batch)[0]
    real = encode(synthesis, params[SEGMENTER], model_state[SEGMENTER], batch['image'])
    maps = {
        'real channels': standardised(scale, real),
        'synthetic channels': generated(synthesis, params, model_state, label, codes),
    }
    for panel, features in maps.items():
        pictures[panel] = _show_channels(features, scale['channels'], batch)
    # Features at the tap `image` are images.
    if synthesis.tap == split.IMAGE:
        drawn = maps['synthetic channels']
        pictures['synthetic image'] = _synthetic_image(synthesis, scale, drawn, batch)
    return pictures


def _synthetic_image(
    synthesis: Synthesis, scale: Mapping[str, Array], features: Array, batch: Batch
) -> Picture:
    """Paints standardised features of the tap `image`, [B, H, W, 3]."""
    pixels = images.to_uint8(restored(scale, features), synthesis.config.preprocess)
    return Picture(pixels, batch['size'])


def _show_channels(features: Array, channels: Array, batch: Batch) -> Picture:
    """Paints channels of standardised features at the size of the images, [B, n, H, W, 3]."""
    chosen = features[..., channels]  # [B, h, w, n]
    level = jnp.clip((chosen + SHOWN_RANGE) / (2 * SHOWN_RANGE), 0, 1)
    large = resize.nearest(level, batch['image'].shape[1:3])
    strip = images.heat(jnp.moveaxis(large, -1, 1))
    number = jnp.broadcast_to(channels, strip.shape[:2])
    return Picture(strip, batch['size'], {'channel': number}, CHANNEL_LEGEND)
