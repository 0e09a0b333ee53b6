"""An attack net A: its patches of the answers of a net, its verdicts, and its scores.

A reads a patch of posteriors and labels, and says whether the image is in the training set of the
net that answered. segjax/tasks/membership_attack.py has the patches.

    planes [B, h, w, C'] of posteriors and labels -> patches -> logits of (non-member, member)

Source: He, thesis, Secs. 7.2 and 7.4.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models, schema
from segjax.core import rng
from segjax.data import transforms
from segjax.losses import segmentation as losses
from segjax.metrics import ranking
from segjax.protocol import Array, Batch, Input, Mean, PRNGKey, PyTree, Scores
from segjax.schema import OPTIM, Field, at_least, between, one_of
from segjax.spec import Feature
from segjax.tasks import membership_attack, segmentation

ATTACKER = 'attacker'
"""Name of A in a state, and of its section."""
STREAM = 'patches'
"""Random stream of the patches of a training step. Its key is equal for all examples."""
FILLED = 'filled'
"""Feature of a training example: (height, width) of the image in its canvas, the rest is black."""

SECTION = {
    'use': Field(
        'train',
        "Attack net A: trained in the stage `attacker`, or loaded from the row 'attacker' of "
        'init_from.sources.',
        one_of('train', 'load'),
    ),
    'reading': Field(
        'posteriors',
        'Input of A: posteriors with one-hot labels, or the map of losses.',
        one_of(*membership_attack.READINGS),
    ),
    'stride': Field(8, 'Distance of the pixels that A reads.', at_least(1)),
    'patch': Field((90, 90), 'Size (height, width) of a patch of A.', schema.size_2d),
    'patches': Field(4, 'Patches of an image in a training step.', at_least(1)),
    'flip': Field(True, 'Mirror half of the patches in training.'),
    'model': models.net_choice(
        'classifier', 'resnet_classifier', 'Attack net A.', only=('resnet_classifier',)
    ),
    'num_steps': Field(1000, 'Steps of the stage `attacker`.', at_least(1)),
    'batch_size': Field(8, 'Images of a step of the stage `attacker`.', at_least(1)),
    'optim': OPTIM,
}
"""Keys of the section `attacker`."""

TESTING = {
    'places': Field(
        'random',
        'Places of the patches of an image: random, or sliding over the image.',
        one_of('random', 'sliding'),
    ),
    'num_patches': Field(10, 'Random patches of an image.', at_least(1)),
    'overlap': Field(
        0.0, 'Smallest share of a sliding patch in common with the next patch.', between(0, 0.9)
    ),
    'fusion': Field(
        'mean_probability',
        'Score of an image from its patches: mean probability (thesis), or sum of logits (code).',
        one_of(*membership_attack.FUSIONS),
    ),
}
"""Keys of the patches under attack. They belong into a section `testing`, free in evaluation."""


class AttackNet(NamedTuple):
    """The net A, and how it reads an image.

    settings     section with the keys of SECTION
    testing      section with the keys of TESTING
    net          A, a net on planes
    num_classes  of the posteriors
    """

    settings: ml_collections.ConfigDict
    testing: ml_collections.ConfigDict
    net: segmentation.Net
    num_classes: int


def make_attack_net(config: ml_collections.ConfigDict, num_classes: int) -> AttackNet:
    """Builds A from the sections `attacker` and `testing`.

    Args:
      config: of the run.
      num_classes: of the posteriors.
    """
    net = segmentation.make_net(
        config.attacker.model,
        membership_attack.NUM_CLASSES,
        config.train.dtype,
        lambda planes: planes,
        kind='classifier',
    )
    return AttackNet(config.attacker, config.testing, net, num_classes)


def new_variables(attack_net: AttackNet, key: PRNGKey) -> Mapping[str, PyTree]:
    """Returns random variables of A."""
    size = tuple(attack_net.settings.patch)
    answer = jax.ShapeDtypeStruct((1, *size, attack_net.num_classes), jnp.float32)
    label = jax.ShapeDtypeStruct((1, *size), jnp.int32)

    def planes(answer: Array, label: Array) -> Array:
        return membership_attack.attack_planes(answer, label, attack_net.settings.reading)

    return attack_net.net.init(rng.named(key, ATTACKER), jax.eval_shape(planes, answer, label))


def planes_of(
    attack_net: AttackNet, answer: Array, label: Array, size: Array
) -> tuple[Array, Array]:
    """Returns the planes of A, [B, h, w, C'], and their rows and columns without padding, [B, 2].

    Args:
      attack_net: the net.
      answer: [B, H, W, C] posteriors.
      label: [B, H, W] train ids.
      size: [B, 2] height and width without padding.
    """
    settings = attack_net.settings
    answer, label = membership_attack.thinned(answer, label, settings.stride)
    planes = membership_attack.attack_planes(answer, label, settings.reading)
    size = membership_attack.grid_size(size, settings.stride)
    return membership_attack.inside(planes, size), size


# --- training -------------------------------------------------------------------------------------


def training_input(queries: Input, settings: ml_collections.ConfigDict) -> Input:
    """Returns the whole images of a training of A, with the feature FILLED.

    Args:
      queries: the same images in an evaluation.
      settings: section with the keys of SECTION.
    """
    return queries._replace(
        batch_size=settings.batch_size,
        batch_key=f'{ATTACKER}.batch_size',
        features=(*queries.features, FILLED),
        reads=queries.features,
        transform=functools.partial(with_filled, size=queries.size),
        made=((FILLED, Feature('number', (2,), dtype='int32')),),
    )


def with_filled(
    example: transforms.Example, generator: np.random.Generator, size: transforms.Size
) -> transforms.Example:
    """Returns an example with FILLED.

    Args:
      example: whose image is brought to `size`, with its aspect ratio kept.
      generator: unused.
      size: (height, width) of the canvas.
    """
    del generator
    _, filled = transforms.letterbox_matrix(example['image'].shape[:2], size)
    return {**example, FILLED: np.array(filled, np.int32)}


def training_patches(
    attack_net: AttackNet, answer: Array, batch: Batch, member: Array, key: PRNGKey
) -> dict[str, Array]:
    """Returns the examples of a training step: 'patches', 'truth' and 'weight', P for each image.

    Args:
      attack_net: the net.
      answer: [B, H, W, C] posteriors of the net that was asked.
      batch: with 'label', FILLED, 'index' and 'weight'.
      member: [B] 1 for members, else 0.
      key: of the stream STREAM. Random numbers belong to the image.
    """
    settings = attack_net.settings
    patch = tuple(settings.patch)
    planes, size = planes_of(attack_net, answer, batch['label'], batch[FILLED])

    # No patch has a pixel of the padding, unless the image is smaller than the patch.
    places_key = rng.of_examples(rng.named(key, 'places'), batch['index'])
    places = membership_attack.random_places(places_key, size, patch, settings.patches)
    patches = membership_attack.cut(planes, places.corners, patch)  # [B, P, h, w, C']
    if settings.flip:
        flip_key = rng.of_examples(rng.named(key, 'flip'), batch['index'])
        patches = membership_attack.flipped(flip_key, patches)
    return {
        'patches': patches.reshape(-1, *patches.shape[2:]),
        'truth': jnp.repeat(member, settings.patches),
        'weight': jnp.repeat(batch['weight'], settings.patches),
    }


def training_terms(outputs: Mapping[str, Array], batch: Batch) -> dict[str, Mean]:
    """Returns the cross-entropy of the verdicts on patches."""
    return {'main': losses.cross_entropy(outputs['logits'], batch['truth'], batch['weight'])}


# --- verdicts -------------------------------------------------------------------------------------


def verdicts(
    attack_net: AttackNet,
    variables: tuple[PyTree, PyTree],
    batch: Batch,
    planes: Array,
    size: Array,
) -> dict[str, Array]:
    """Returns the verdicts of A on images: 'patch' [B, P], 'weight' [B, P] and 'image' [B].

    Args:
      attack_net: the net.
      variables: parameters and batch statistics of A.
      batch: whose 'index' is read.
      planes: [B, h, w, C'], see `planes_of`.
      size: [B, 2] rows and columns without padding.

    Returns:
      The verdicts, high for members.
    """
    testing = attack_net.testing
    patch = tuple(attack_net.settings.patch)
    if testing.places == 'sliding':
        places = membership_attack.sliding_places(size, planes.shape[1:3], patch, testing.overlap)
    else:
        # The same places in every evaluation.
        keys = rng.of_examples(rng.root(0, 'patches of evaluation'), batch['index'])
        places = membership_attack.random_places(keys, size, patch, testing.num_patches)

    patches = membership_attack.cut(planes, places.corners, patch)
    rows = patches.reshape(-1, *patches.shape[2:])
    outputs, _ = attack_net.net.apply(*variables, rows, train=False)
    logits = outputs['logits'].reshape(*places.weight.shape, membership_attack.NUM_CLASSES)
    return {
        'patch': membership_attack.patch_scores(logits),
        'weight': places.weight,
        'image': membership_attack.fused(logits, places.weight, testing.fusion),
    }


def activation(
    attack_net: AttackNet, variables: tuple[PyTree, PyTree], planes: Array, size: Array
) -> Array:
    """Returns the class activation of 'member' in [0, 1], [B, h', w'] (Fig. 7.9).

    The range of each image is that of its part without padding.

    Args:
      attack_net: the net.
      variables: parameters and batch statistics of A.
      planes: [B, h, w, C'], see `planes_of`.
      size: [B, 2] rows and columns of the planes without padding.
    """
    outputs, _ = attack_net.net.apply(*variables, planes, train=False)
    values = outputs['activation'][..., membership_attack.MEMBER]  # [B, h', w']
    shape = jnp.array(values.shape[1:])
    of_planes = jnp.array(planes.shape[1:3])
    valid = segmentation.valid_pixels(-(-size * shape // of_planes), values)

    # Stretch each image to its own range.
    lowest = jnp.where(valid, values, jnp.inf).min((1, 2), keepdims=True)
    largest = jnp.where(valid, values, -jnp.inf).max((1, 2), keepdims=True)
    level = (values - lowest) / jnp.maximum(largest - lowest, 1e-12)
    return jnp.where(valid, level, 0)


def scores_of(verdict: np.ndarray, member: np.ndarray) -> Scores:
    """Returns AUC and AP of verdicts, None before each image has a verdict.

    Args:
      verdict: [N], high for members.
      member: [N] bool.
    """
    if not np.isfinite(verdict).all():
        return {'AUC': None, 'AP': None}
    curve = ranking.roc(verdict, member)
    return {
        'AUC': float(ranking.area(curve)),
        'AP': float(ranking.mean_precision(ranking.precision_recall(verdict, member))),
    }
