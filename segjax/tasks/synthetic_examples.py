"""Synthetic examples of a refit: layouts, and the rivals of a generator of features.

Layouts are label maps of the training split. A share of them may be additional: labels of another
split or data set, or predictions of the starting net on images. With mining they are hard layouts
(segjax/tasks/hard_layouts.py).

Rivals need no generator of features. Real features are noised or mixed
(segjax/tasks/feature_mixing.py). Or a painter makes images of layouts
(segjax/tasks/translation.py).

Source: He, thesis, Secs. 6.2.3, 6.2.4 and Table 6.1.
"""

import fractions
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import parallel
from segjax.errors import InputError
from segjax.ops import images
from segjax.protocol import Array, Batch, Input, Keys, Mean, TrainState
from segjax.schema import Field, below_one, between, one_of
from segjax.spec import IGNORE, DataSpec, Feature
from segjax.tasks import (
    feature_mixing,
    feature_synthesis,
    hard_layouts,
    pseudo_labels,
    segmentation,
    translation,
)
from segjax.tasks.feature_synthesis import SEGMENTER, Synthesis

LAYOUT_SOURCES = ('generator', 'painter')
"""Values of `refit.source` that make examples of layouts alone."""
MIXING_SOURCES = ('noise', 'mixup')
"""Values of `refit.source` that change features of real images."""
PAINTERS = ('pix2pixhd_global', 'pix2pixhd_local')
"""Generators that paint whole images."""
POOL = 'pool'
"""Entry of `TrainState.extra` with the hard layouts."""
LAYOUT = 'layout'
ADDITIONAL = 'additional'
"""Names of the unpaired inputs of the refit."""
INSIDE = 'inside'
"""Feature of images without labels: a map that tells the image from its padding."""
SHOWN_CLASSES = 3
"""Names of classes in an error."""
LARGEST_PERIOD = 1000
"""Largest number of examples after which the pattern of additional layouts repeats."""

LAYOUTS = {
    'use': Field(
        'none',
        'Additional layouts: none, labels of `layout_data`, or predictions of the starting '
        'net on its images.',
        one_of('none', 'labels', 'pseudo'),
    ),
    'split': Field('val', 'TFDS split of the additional layouts.'),
    'share': Field(
        0.25, 'Share of additional layouts among the layouts of a batch.', between(0, 1)
    ),
    'threshold': Field(
        0.7,
        'Smallest probability of a predicted label. Less certain pixels get the nearest '
        'certain label.',
        below_one,
    ),
}
"""Keys of the section `layouts`."""
PAINTER = {
    'model': models.net_choice(
        'generator', PAINTERS[0], 'Painter of `refit.source=painter`.', only=PAINTERS
    ),
    'instance_edges': translation.PAINTER['instance_edges'],
}
"""Keys of the section `painter`."""


# --- layouts --------------------------------------------------------------------------------------


def num_synthetic(config: ml_collections.ConfigDict) -> int:
    """Returns n for a batch of B real and n synthetic examples, where n / (B + n) is the share.

    n is rounded to a whole number, at least 1. Mixup mixes pairs, so its n is rounded to an even
    number.
    """
    refit = config.refit
    if refit.source == 'none' or not (refit.num_synthetic or refit.share):
        return 0
    unit = 2 if refit.source == 'mixup' else 1
    number = config.train.batch_size * refit.share / (1 - refit.share)
    return refit.num_synthetic or unit * max(1, round(number / unit))


def layout_inputs(synthesis: Synthesis) -> tuple[tuple[str, Input], ...]:
    """Returns the inputs of the layouts, which have orders of their own."""
    config = synthesis.config
    number = num_synthetic(config)
    if not number:
        return ()

    # Rivals in the feature space read images, and the painter may read edges of instances.
    features = ('label',)
    if config.refit.source in MIXING_SOURCES:
        features = ('image', 'label')
    elif config.refit.source == 'painter' and config.painter.instance_edges:
        features = ('label', 'instance')
    own = segmentation.train_input(config)._replace(
        batch_size=number, batch_key='refit.num_synthetic', features=features
    )
    if config.layouts.use == 'none':
        return ((LAYOUT, own),)
    is_pseudo = config.layouts.use == 'pseudo'
    additional = own._replace(
        split=config.layouts.split,
        part=(0.0, 1.0),
        features=features,
        examples='labelled',
        data='layout_data',
    )
    if is_pseudo:
        additional = additional._replace(
            features=('image', INSIDE),
            examples='all',
            transform=with_inside,
            reads=('image',),
            made=((INSIDE, Feature('label')),),
        )
    return ((LAYOUT, own), (ADDITIONAL, additional))


def layouts_of(
    synthesis: Synthesis, state: TrainState, batch: Batch, keys: Keys
) -> dict[str, Array]:
    """Returns the layouts of a batch: label, weight, index, and what the source reads further.

    With mining, the labels are hard layouts. With additional layouts, every device has rows of both
    inputs, of which `is_additional` chooses.
    """
    own = entries_of(batch, LAYOUT)
    config = synthesis.config
    if config.mining.use:
        pool = state.extra[POOL]
        own['label'] = hard_layouts.draw(pool, keys['mining'], own['index'], own['label'])
    if config.layouts.use == 'none':
        return own
    additional = entries_of(batch, ADDITIONAL)
    if config.layouts.use == 'pseudo':
        additional['label'] = predicted_layouts(
            synthesis, state, additional['image'], additional[INSIDE]
        )

    # Each row comes from one of the two inputs.
    chosen = {}
    additional_rows = is_additional(config, state.step, len(own['weight']))
    for key, value in own.items():
        mask = additional_rows.reshape(-1, *[1] * (value.ndim - 1))
        chosen[key] = jnp.where(mask, additional[key], value)
    return chosen


def is_additional(config: ml_collections.ConfigDict, step: Array, rows: int) -> Array:
    """Returns whether each row of this device is an additional layout, bool [rows].

    The synthetic examples of all steps and devices are counted from 0 on, in the order of the
    global batches. Example i is additional if floor((i + 1) s) > floor(i s) with s =
    `layouts.share`. So every n examples have n s additional layouts, rounded down or up, even if a
    batch is too small for one. A device takes the same rows whatever the number of devices.
    """
    # The pattern repeats after `period` examples, so integers stay small and exact.
    share = fractions.Fraction(config.layouts.share).limit_denominator(LARGEST_PERIOD)
    period = share.denominator
    place = parallel.device_index() * rows + jnp.arange(rows)
    place = (step % period * num_synthetic(config) + place) % period
    before = place * share.numerator // period
    after = (place + 1) * share.numerator // period
    return after > before


def entries_of(batch: Batch, name: str) -> dict[str, Array]:
    """Returns the entries of an unpaired input, without its name in front."""
    prefix = f'{name}/'
    return {
        key.removeprefix(prefix): value for key, value in batch.items() if key.startswith(prefix)
    }


def with_inside(
    example: Mapping[str, np.ndarray], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns an image with a map of zeros, which augmentation pads by 255 as it pads labels."""
    del generator
    image = example['image']
    return {'image': image, INSIDE: np.zeros(image.shape[:2], np.uint8)}


def predicted_layouts(
    synthesis: Synthesis, state: TrainState, image: Array, inside: Array
) -> Array:
    """Returns the predictions of the starting net on images, with holes filled.

    Args:
      synthesis: of S.
      state: with the starting net.
      image: [B, H, W, 3] uint8.
      inside: [B, H, W], 255 in the padding of the images, whose layout is 255 too.

    Returns:
      [B, H, W] int32 train ids.
    """
    logits = feature_synthesis.segment_start(synthesis, state, image)
    is_inside = inside != IGNORE
    probabilities = jnp.where(is_inside[..., None], jax.nn.softmax(logits), 0)
    label = pseudo_labels.pseudo_label(probabilities, synthesis.config.layouts.threshold)
    return jnp.where(is_inside, label, IGNORE)


def check_layouts(config: ml_collections.ConfigDict, spec: DataSpec, layout_data: DataSpec) -> None:
    """Raises InputError for layouts that no source reads, or that have other classes."""
    # Sources that read images of their own need no layout.
    source = config.refit.source
    if config.layouts.use != 'none' and source not in LAYOUT_SOURCES:
        raise InputError(
            'config.layouts.use',
            got=f'{config.layouts.use!r} with config.refit.source={source}',
            expected=f"'none', or a source that reads layouts: {', '.join(LAYOUT_SOURCES)}",
            fix='--config.layouts.use=none',
        )
    if config.mining.use and source != 'generator':
        raise InputError(
            'config.mining.use',
            got=f'True with config.refit.source={source}',
            expected='False, because only features are generated of hard layouts',
            fix='--config.mining.use=False',
        )
    # Predictions have the classes of the net.
    if config.layouts.use != 'labels' or layout_data.classes.names == spec.classes.names:
        return
    raise InputError(
        'config.layout_data.name',
        got=f'{layout_data.name!r} with {_named_classes(layout_data)}',
        expected=f'the classes of {spec.name!r} in the same order, {_named_classes(spec)}',
        fix='--config.layout_data.class_map=FILE merges classes; '
        'or --config.layouts.use=pseudo, which reads images alone',
    )


def _named_classes(spec: DataSpec) -> str:
    """Returns the number of classes and the first names, for an error."""
    names = spec.classes.names
    more = ', ...' if len(names) > SHOWN_CLASSES else ''
    return f'{len(names)} classes: {", ".join(names[:SHOWN_CLASSES])}{more}'


# --- rivals ---------------------------------------------------------------------------------------


def mixed_features(
    synthesis: Synthesis, state: TrainState, layouts: Mapping[str, Array], keys: Keys
) -> dict[str, Array]:
    """Returns noised or mixed features of real images, with the labels of both partners."""
    settings = synthesis.config.mixing
    index = layouts['index']
    features = feature_synthesis.encode(
        synthesis, state.params[SEGMENTER], state.model_state[SEGMENTER], layouts['image']
    )
    if synthesis.config.refit.source == 'noise':
        noised = feature_mixing.add_noise(features, keys['mixing'], index, settings)
        return {'features': noised}

    # The error of an odd number of examples names the key of this batch.
    try:
        mixed = feature_mixing.mixup(
            features, layouts['label'], layouts['weight'], keys['mixing'], index, settings
        )
    except InputError as error:
        number = 2 * num_synthetic(synthesis.config)
        key = 'config.refit.num_synthetic'
        raise error.replaced(where=key, fix=f'--{key}={number}') from None
    own_label, other_label = mixed.labels
    own_weight, other_weight = mixed.weights
    return {
        'features': mixed.features,
        'label': own_label,
        'weight': own_weight,
        'other_label': other_label,
        'other_weight': other_weight,
    }


def painted_images(synthesis: Synthesis, state: TrainState, layouts: Mapping[str, Array]) -> Array:
    """Returns images of the painter as the net S reads them, [n, H, W, 3]."""
    config = synthesis.config
    edges = None
    if config.painter.instance_edges:
        edges = translation.true_edges(layouts['label'], layouts['instance'])
    layout = translation.make_layout(layouts['label'], synthesis.spec, edges)
    paint = translation.make_paint(config, synthesis.spec, config.painter)
    name = translation.NET
    photo = jnp.zeros((*layout.shape[:3], 3))
    picture = paint(state.params[name], state.model_state[name], layout, photo, None)
    return images.normalize((picture + 1) * 127.5, config.preprocess)


def summed_terms(
    outputs: Mapping, synthetic: Mapping[str, Array], terms_of: Callable
) -> dict[str, Mean]:
    """Returns the terms of synthetic examples. Mixed examples have two labels with a weight each.

    Args:
      outputs: of the decoder.
      synthetic: entries of the examples, without their prefix.
      terms_of: (outputs, {'label', 'weight'}) -> named terms.
    """
    terms = terms_of(outputs, synthetic)
    if 'other_label' not in synthetic:
        return terms
    other = {'label': synthetic['other_label'], 'weight': synthetic['other_weight']}
    partners = terms_of(outputs, other)
    return {
        name: Mean(term.sum + partners[name].sum, term.count + partners[name].count)
        for name, term in terms.items()
    }
