"""A segmentation net that can only be queried, with a defence between the net and its users.

A query is an image, and the answer are the posteriors of its pixels. A defence changes the answer,
so that it tells less about the training images. Most defences are functions of posteriors
(segjax/ops/posteriors.py). Two defences need the net:

    dropout    the net keeps its drop-out layer, with another rate
    obfuscate  synthetic features of the predicted labels pass the decoder of the net (Eq. 7.1)

Random numbers of a defence depend on the pixels of the query and on a secret. So a repeated query
has the same answer.

Source: He, thesis, Secs. 7.3 and 7.4.2.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from segjax.core import rng
from segjax.errors import InputError
from segjax.ops import images, posteriors, windows
from segjax.protocol import Array, Batch, PRNGKey, PyTree, TrainState
from segjax.schema import Field, at_least, one_of
from segjax.spec import DataSpec
from segjax.tasks import bicycle, feature_synthesis, translation
from segjax.tasks.feature_synthesis import SEGMENTER, Synthesis

NONE = 'none'
DEFENCES = (NONE, 'argmax', 'dropout', 'gaussian', 'obfuscate', 'temperature', 'top_k')
"""Names of the defences."""

DEFENCE = {
    'defence': Field(NONE, 'Defence of the victim.', one_of(*DEFENCES)),
    'strength': Field(
        0.0,
        'Strength of the defence: rate of dropout, variance of gaussian, factor d of obfuscate, '
        'degree of temperature, or the k of top_k.',
        at_least(0),
    ),
    'gaussian_reading': Field(
        'predicted_label',
        'Noise of gaussian: on the predicted label with a variance (thesis), or on all classes '
        'with a standard deviation (code).',
        one_of(*posteriors.READINGS),
    ),
    'secret': Field(0, 'Seed of the random numbers of the defence.', at_least(0)),
}
"""Keys of a defence. They belong into a section `testing`, which is free in evaluation."""


class GuardedNet(NamedTuple):
    """A net that answers queries.

    config     of the run. `testing` has the keys of DEFENCE
    spec       of the data set
    net        linen module
    synthesis  the split net and the generator of its features. None: no defence obfuscate
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    net: nn.Module
    synthesis: Synthesis | None = None


# --- answers --------------------------------------------------------------------------------------


def query(guarded: GuardedNet, params: PyTree, model_state: PyTree, batch: Batch) -> Array:
    """Returns the posteriors of a net without a defence, [B, H, W, C] float32.

    Args:
      guarded: the net.
      params: its parameters.
      model_state: its batch statistics.
      batch: 'image' [B, H, W, 3] uint8, and 'size' if the images are padded. With `evaluate.crop`
        the net sees crops, whose posteriors are averaged.
    """

    def answer(image: Array) -> Array:
        return _softmax(guarded, _logits(guarded, params, model_state, image))

    return _on_crops(guarded, answer, batch)


def defended_query(guarded: GuardedNet, state: TrainState, batch: Batch) -> Array:
    """Returns the posteriors behind the defence of `config.testing`, [B, H, W, C] float32.

    Args:
      guarded: the net.
      state: with the net 'segmenter', and the generator of the defence obfuscate.
      batch: as in `query`.
    """
    # Random numbers belong to the image, whatever the batch.
    testing = guarded.config.testing
    keys = posteriors.image_keys(secret_key(testing.secret), batch['image'], size_of(batch))
    own = (state.params[SEGMENTER], state.model_state[SEGMENTER])

    # Two defences act inside of the net.
    def answer(image: Array) -> Array:
        if testing.defence == 'dropout':
            return _softmax(guarded, _logits_with_dropout(guarded, *own, image, keys))
        real = _softmax(guarded, _logits(guarded, *own, image))
        if testing.defence == 'obfuscate':
            synthetic = _synthetic_posteriors(guarded, state, real, keys)
            return posteriors.obfuscate(real, synthetic, testing.strength)
        return real

    answers = _on_crops(guarded, answer, batch)
    match testing.defence:
        case 'argmax':
            return posteriors.argmax(answers)
        case 'gaussian':
            return posteriors.gaussian(answers, keys, testing.strength, testing.gaussian_reading)
        case 'temperature':
            return posteriors.temperature(answers, testing.strength)
        case 'top_k':
            return posteriors.top_k(answers, int(testing.strength))
    return answers


def defence_in_words(testing: ml_collections.ConfigDict) -> str:
    """Returns the name of a defence with its strength, such as 'gaussian 0.5'."""
    if testing.defence in (NONE, 'argmax'):
        return testing.defence
    words = f'{testing.defence} {testing.strength:g}'
    is_of_code = testing.gaussian_reading == 'all_classes'
    if testing.defence == 'gaussian' and is_of_code:
        words += ' (all_classes)'
    return words


def secret_key(seed: int) -> PRNGKey:
    """Returns the secret key of a defence, from `testing.secret`."""
    return rng.root(seed, 'defence')


def size_of(batch: Batch) -> Array:
    """Returns height and width of each image without padding, [B, 2]."""
    if 'size' in batch:
        return batch['size']
    rows, *size, _ = batch['image'].shape
    return jnp.broadcast_to(jnp.array(size, jnp.int32), (rows, 2))


def _on_crops(guarded: GuardedNet, answer, batch: Batch) -> Array:
    """Applies a function of images to whole images, or to the crops of `evaluate.crop`."""
    settings = guarded.config.evaluate
    if not settings.crop:
        return answer(batch['image'])
    overlap = 1 - settings.stride
    return windows.average(answer, batch['image'], size_of(batch), tuple(settings.crop), overlap)


def _softmax(guarded: GuardedNet, logits: Array) -> Array:
    """Returns the posteriors of the classes. Void, as a class of the net, is left out."""
    logits = logits[..., : guarded.spec.classes.num_classes]
    return jax.nn.softmax(logits.astype(jnp.float32))


def _logits(guarded: GuardedNet, params: PyTree, model_state: PyTree, image: Array) -> Array:
    """Returns the logits of images [B, H, W, 3] uint8 in evaluation mode."""
    x = images.normalize(image, guarded.config.preprocess)
    return guarded.net.apply({'params': params, **model_state}, x, train=False)['logits']


def _logits_with_dropout(
    guarded: GuardedNet, params: PyTree, model_state: PyTree, image: Array, keys: Array
) -> Array:
    """Returns logits of a net that keeps its drop-out layer, with a key for each image."""
    # Batch norms keep their running statistics, and all pixels have logits.
    fields = {'dropout': guarded.config.testing.strength}
    kept = {'frozen_norm': True, 'logit_stride': None}
    fields |= {key: value for key, value in kept.items() if hasattr(guarded.net, key)}
    net = guarded.net.clone(**fields)
    variables = {'params': params, **model_state}

    def of_image(image: Array, key: Array) -> Array:
        x = images.normalize(image[None], guarded.config.preprocess)
        outputs, _ = net.apply(
            variables, x, train=True, rngs={'dropout': key}, mutable=['batch_stats']
        )
        return outputs['logits'][0]

    return jax.vmap(of_image)(image, keys)


def _synthetic_posteriors(
    guarded: GuardedNet, state: TrainState, real: Array, keys: Array
) -> Array:
    """Returns D(G(y)) for the labels y that the net predicts, with a code for each image."""
    synthesis = guarded.synthesis
    assert synthesis is not None, '`check` refuses the defence'
    assert synthesis.gan is not None
    shape = synthesis.gan.code_shape
    codes = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    label = jnp.argmax(real, -1)
    drawn = feature_synthesis.generated(synthesis, state.params, state.model_state, label, codes)
    scale = state.params[feature_synthesis.scale_name(synthesis.tap)]
    logits = feature_synthesis.decoded_logits(
        synthesis,
        state.params[SEGMENTER],
        state.model_state[SEGMENTER],
        feature_synthesis.restored(scale, drawn),
        label.shape[1:3],
    )
    return _softmax(guarded, logits)


# --- the generator of features --------------------------------------------------------------------


def make_victim(config: ml_collections.ConfigDict, spec: DataSpec, net: nn.Module) -> GuardedNet:
    """Builds a net with the defence of `testing`, and with the generator that `features` names.

    Raises:
      InputError: a defence that the net cannot have, or a tap that does not split the net.
    """
    synthesis = None
    if config.features.use != NONE:
        synthesis = feature_synthesis.make_synthesis(config, spec, net, config.features.tap)
        synthesis = feature_synthesis.with_gan(synthesis, config, lambda batch: (batch, batch))
    victim = GuardedNet(config, spec, net, synthesis)
    check(victim)
    return victim


def new_generator(synthesis: Synthesis, key: PRNGKey) -> dict[str, Mapping[str, PyTree]]:
    """Returns variables of the generator of features and its statistics, which are then loaded."""
    assert synthesis.gan is not None
    label = jax.ShapeDtypeStruct((1, *synthesis.config.augment.crop), jnp.int32)
    layout = jax.eval_shape(functools.partial(translation.make_layout, spec=synthesis.spec), label)
    code = jax.ShapeDtypeStruct((1, *synthesis.gan.code_shape), jnp.float32)
    name = bicycle.GENERATOR
    generator = synthesis.gan.generator
    # Without a stage that has measured features, the statistics are placeholders.
    statistics = feature_synthesis.statistics_of(synthesis, {}, '')
    return {
        name: generator.lazy_init(rng.named(key, name), layout, code, train=False),
        feature_synthesis.scale_name(synthesis.tap): {'params': statistics},
    }


def check_start(guarded: GuardedNet, state: TrainState) -> None:
    """Raises InputError for a generator that was trained on the features of another net."""
    if guarded.synthesis is None:
        return
    try:
        feature_synthesis.check_fingerprint(guarded.synthesis, state)
    except InputError as error:
        fix = '--config.init_from.path=RUN/features of the run that trained both; or '
        raise error.replaced(fix=f'{fix}--config.features.use={NONE}') from error


# --- checks ---------------------------------------------------------------------------------------


def check(guarded: GuardedNet) -> None:
    """Raises InputError for a defence that the net cannot have, or a wrong strength."""
    # Of each defence: whether its strength is right, the rule, and a right strength.
    testing = guarded.config.testing
    num_classes = guarded.spec.classes.num_classes
    ranges: Mapping[str, tuple[bool, str, float]] = {
        'dropout': (0 <= testing.strength < 1, 'a rate in [0, 1)', 0.1),
        'obfuscate': (0 <= testing.strength <= 1, 'a factor d in [0, 1]', 0.75),
        'temperature': (testing.strength > 0, 'a degree above 0', 2.0),
        'top_k': (
            testing.strength in range(1, num_classes + 1),
            f'a whole number from 1 to {num_classes}, the classes',
            1,
        ),
    }
    is_right, expected, example = ranges.get(testing.defence, (True, '', 0.0))
    if not is_right:
        raise InputError(
            'config.testing.strength',
            got=f'{testing.strength} of the defence {testing.defence}',
            expected=expected,
            fix=f'--config.testing.strength={float(example)}',
        )

    # Two defences need parts of the net.
    if testing.defence == 'dropout':
        _check_dropout(guarded)
    if testing.defence == 'obfuscate' and guarded.synthesis is None:
        raise InputError(
            'config.testing.defence',
            got="'obfuscate' without a generator of features",
            expected='a victim with a generator, from a run of configs/dense_features.py',
            fix='train with --config.features.use=load --config.init_from.path=RUN/features',
        )


def _check_dropout(guarded: GuardedNet) -> None:
    """Raises InputError for a net without a rate of drop-out, or with batch norms that train."""
    rate = getattr(guarded.net, 'dropout', None)
    if isinstance(rate, float) and not _has_free_norms(guarded):
        return
    raise InputError(
        'config.testing.defence',
        got=f"'dropout' of a {type(guarded.net).__name__}",
        expected='a net with a single rate of drop-out, whose batch norms can be frozen',
        fix='--config.model.name=pspnet, fcn, deeplab_largefov or deeplab_v3plus, for the '
        'training; or --config.testing.defence=gaussian',
    )


def _has_free_norms(guarded: GuardedNet) -> bool:
    """Returns whether the net has batch norms that its training mode does not freeze."""
    if hasattr(guarded.net, 'frozen_norm'):
        return False
    image = jax.ShapeDtypeStruct((1, *guarded.config.augment.crop, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(
        lambda key, image: guarded.net.init(key, image, train=False), key, image
    )
    return 'batch_stats' in variables
