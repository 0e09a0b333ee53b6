"""BicycleGAN: many images of a condition, from a generator whose latent code has a known meaning.

A step on B examples, top to bottom. The first half is every second example, from the first on. The
second half only shows its targets B2 to the second discriminator.

    z      = mean + e exp(log_variance / 2)  of E(B1), e ~ N(0, I)
    fake   = G(A1, z)                        cVAE-GAN: an encoded code
    z'     ~ N(0, I)
    fake'  = G(A1, z')                       cLR-GAN: a random code

    L_GE = adversarial GAN(D(fake), 1) + adversarial_random GAN(D2(fake'), 1)
         + l1 |fake - B1| + kl KL(E(B1) || N(0, I)) + code |mean of E(fake') - z'|
    L_D  = GAN(D(B1), 1) + GAN(D(fake), 0)
    L_D2 = GAN(D2(B2), 1) + GAN(D2(fake'), 0)

The last term of L_GE trains G alone: E is fixed there. All gradients are computed with the nets
before the step, which equals the released order. Each net has its own optimiser.

Targets are images, or features of a net. Features are smaller than their conditions, and have their
own nets (FEATURES): DFGAN of the thesis, Sec. 6.2.1.

A code is a vector [n], or a map of vectors [h, w, n]. With a map, E gives a distribution for each
cell, and the codes of all cells are drawn independently. The divergence is a sum over n and a mean
over cells. The distance of codes is a mean over both. So the weights kl and code mean the same for
any number of cells.

Source: Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman, Toward Multimodal Image-to-Image
Translation, NeurIPS 2017, with the weights and the two discriminators of the released code.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.losses import adversarial as gan_losses
from segjax.losses import image as image_losses
from segjax.losses import latent as latent_losses
from segjax.models.generators import layout, multiscale, unet
from segjax.protocol import Array, Batch, Keys, Mean, PRNGKey, PyTree, TrainState
from segjax.schema import OPTIM, Field, at_least, one_of, size_2d_or_empty
from segjax.tasks import adversarial, segmentation, supervised

GENERATORS = ('latent_unet', 'feature_unet')
"""Names of the nets G."""
REDUCTIONS = ('sum', 'mean')
"""Names how the divergence of the codes is reduced over the examples of a batch."""

BICYCLE = {
    'model': models.net_choice(
        'generator',
        'latent_unet',
        'Generator G, from a condition and a code to an image.',
        only=GENERATORS,
    ),
    'encoder': models.net_choice(
        'encoder', 'resnet_encoder', 'Encoder E, from an image to the distribution of its code.'
    ),
    'discriminator': models.net_choice(
        'discriminator',
        'multiscale',
        'Discriminators D and D2, of equal form.',
        **multiscale.BICYCLE_FIELDS,
    ),
    'code_size': Field(8, 'Length of the latent code.', at_least(1)),
    'code_map': Field(
        (),
        'Cells (height, width) of a map of codes, which divide the size of the target. () means a '
        'single code.',
        size_2d_or_empty,
    ),
    'adversarial': Field(
        'least_squares', 'Loss of both discriminators.', one_of(*gan_losses.LOSSES)
    ),
    'conditional': Field(
        False,
        'Show the condition to the discriminators. False as published. The layout_discriminator '
        'always sees it.',
    ),
    'weights': {
        'adversarial': Field(1.0, 'Weight of the loss against D, of encoded codes.', at_least(0)),
        'adversarial_random': Field(
            1.0, 'Weight of the loss against D2, of random codes.', at_least(0)
        ),
        'l1': Field(10.0, 'Weight of the L1 distance to the target.', at_least(0)),
        'kl': Field(0.01, 'Weight of the divergence of codes from N(0, I).', at_least(0)),
        'code': Field(
            0.5,
            'Weight of the distance between a random code and the code of its image.',
            at_least(0),
        ),
    },
    'kl_reduction': Field(
        'sum',
        'Divergence of a batch: the sum over its encoded half, as released with 2 examples a '
        'batch, or the mean over this half.',
        one_of(*REDUCTIONS),
    ),
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}
"""Keys of the section `bicycle`."""

FEATURES = {
    **BICYCLE,
    'model': models.net_choice(
        'generator',
        'feature_unet',
        'Generator G, from a layout and a code to features.',
        only=GENERATORS,
    ),
    'encoder': models.net_choice(
        'encoder',
        'resnet_encoder',
        'Encoder E, from features to the distribution of their code.',
        blocks=2,
        num_layers=3,
    ),
    'discriminator': models.net_choice(
        'discriminator',
        'layout_discriminator',
        'Discriminators D and D2, of equal form.',
        **multiscale.BICYCLE_FIELDS,
    ),
}
"""Keys of a section whose targets are features. E halves them three times: 16 x 32 to 2 x 4."""

GENERATOR = 'bicycle'
ENCODER = 'bicycle_encoder'
DISCRIMINATOR = 'bicycle_discriminator'
RANDOM_DISCRIMINATOR = 'bicycle_random_discriminator'
"""Names of G, E, D and D2 in a state."""

ENCODED = 'bicycle_encoded'
RANDOM = 'bicycle_random'
"""Names of the images of encoded and of random codes among the outputs of the generator's loss."""

STREAMS = ('latent', 'dropout')
"""`Stage.streams` and `Stage.shared_streams` of the training: keys are folded with the example."""

PairOf = Callable[[Batch], tuple[Array, Array]]
"""Batch -> (condition [B, H, W, K], target [B, h, w, C]), floating point.

Images have the size of their condition. Features are smaller by a stride of `layout.STRIDES`.
"""


class System(NamedTuple):
    """The nets and settings that all functions of a training share.

    config         of the run. The section train is read
    section        of the keys BICYCLE or FEATURES
    where          key of the section, which errors name
    pair_of        condition and target of a batch
    generator      G: net(condition, code, train, keys) -> {'image': ..}
    encoder        E: net(target, train) -> {'mean': .., 'log_variance': ..}
    discriminator  D and D2: net(*inputs, train) -> verdicts of all scales
    judged         (condition, target) -> inputs of D and D2
    batch_key      config key of train.batch_size, which errors name
    """

    config: ml_collections.ConfigDict
    section: ml_collections.ConfigDict
    where: str
    pair_of: PairOf
    generator: nn.Module
    encoder: nn.Module
    discriminator: nn.Module
    judged: Callable[[Array, Array], tuple[Array, ...]]
    batch_key: str = 'train.batch_size'

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Returns the shape of the code of an example: (n,), or (h, w, n) of a map."""
        return (*self.section.code_map, self.section.code_size)


def judged_alone(condition: Array, target: Array) -> tuple[Array, ...]:
    """Returns the input of an unconditional discriminator."""
    del condition
    return (target,)


def judged_together(condition: Array, target: Array) -> tuple[Array, ...]:
    """Returns the input of a conditional discriminator: condition and target in a map.

    A condition that is larger than its target is averaged around each pixel of the target.

    Raises:
      InputError: no stride of `layout.STRIDES` leads from one size to the other.
    """
    sizes = condition.shape[1:3], target.shape[1:3]
    stride = layout.fitting_stride(*sizes)
    if stride is None:
        raise InputError(
            'discriminator of conditions with their targets',
            got=f'sizes {sizes[0]} and {sizes[1]}',
            expected='a condition that is 1, 2, 4, 8 or 16 times as large as its target',
        )
    condition = layout.shrink_layout(condition.astype(target.dtype), stride)
    return (jnp.concatenate([condition, target], -1),)


def judged_as_pair(condition: Array, target: Array) -> tuple[Array, ...]:
    """Returns the inputs of a discriminator that encodes layouts itself."""
    return condition, target


def judged_by(section: ml_collections.ConfigDict) -> Callable[[Array, Array], tuple[Array, ...]]:
    """Returns the function that makes the inputs of the discriminators of a section."""
    if section.discriminator.name == 'layout_discriminator':
        return judged_as_pair
    return judged_together if section.conditional else judged_alone


def make_system(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    pair_of: PairOf,
    out_channels: int,
    where: str = 'bicycle',
    batch_key: str = 'train.batch_size',
) -> System:
    """Builds the nets of a section.

    Args:
      config: of the run.
      section: of the keys BICYCLE or FEATURES.
      pair_of: condition and target of a batch.
      out_channels: C of the target.
      where: key of the section, which errors name.
      batch_key: config key of train.batch_size, which errors name.
    """
    given = {'dtype': config.train.dtype, 'axis_name': parallel.AXIS}
    code = {'code_size': section.code_size, 'code_map': tuple(section.code_map)}
    return System(
        config,
        section,
        where,
        pair_of,
        models.build_from('generator', section.model, out_channels=out_channels, **given),
        models.build_from('encoder', section.encoder, **code, **given),
        models.build_from('discriminator', section.discriminator, **given),
        judged_by(section),
        batch_key,
    )


def make_init(system: System, num_steps: int) -> Callable:
    """Returns `Stage.init`: G, E, D, D2 and their optimisers."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        condition, target = jax.eval_shape(system.pair_of, dict(batch))
        condition = _first_row(condition)
        target = _first_row(target)
        check_strides(system, condition.shape[1:3], target.shape[1:3])
        check_code_map(system, target.shape[1:3])
        code = jax.ShapeDtypeStruct((1, *system.code_shape), jnp.float32)
        judged = jax.eval_shape(system.judged, condition, target)

        # The nets.
        inputs = {
            GENERATOR: (system.generator, (condition, code)),
            ENCODER: (system.encoder, (target,)),
            DISCRIMINATOR: (system.discriminator, judged),
            RANDOM_DISCRIMINATOR: (system.discriminator, judged),
        }
        variables = {}
        for name, (net, arguments) in inputs.items():
            variables[name] = net.lazy_init(rng.named(key, name), *arguments, train=False)
        fields = supervised.fields_of(variables)
        ema = system.config.train.ema
        return adversarial.fresh_state(*fields, *players(system), num_steps=num_steps, ema=ema)

    return init


def _first_row(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Returns the shape of the first example of a batch."""
    return jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)


def check_code_map(system: System, size: tuple[int, int]) -> None:
    """Raises InputError for a map of codes that does not divide targets of a size."""
    cells = tuple(system.section.code_map)
    if not cells or unet.divides(cells, size):
        return
    fitting = unet.dividing_cells(cells, size)
    raise InputError(
        f'config.{system.where}.code_map',
        got=f'{cells} for targets of {size[0]}x{size[1]}',
        expected='numbers that divide height and width of the target',
        fix=f"--config.{system.where}.code_map='{fitting}'",
    )


def check_strides(
    system: System, condition_size: tuple[int, int], target_size: tuple[int, int]
) -> None:
    """Raises InputError for nets whose stride does not lead from conditions to targets.

    Args:
      system: with the section of the nets.
      condition_size: (H, W).
      target_size: (h, w).
    """
    # Nets without a stride: a latent_unet keeps the size, and a multiscale judges any size.
    section = system.section
    strides = {'model': 1}
    for key in ('model', 'discriminator'):
        if 'stride' in section[key]:
            strides[key] = section[key].stride

    fitting = layout.fitting_stride(condition_size, target_size)
    for key, stride in strides.items():
        expected = layout.encoded_size(*condition_size, stride)
        if expected == target_size:
            continue
        net = f'config.{system.where}.{key}'
        choice = '' if 'stride' in section[key] else f'--{net}.name=feature_unet '
        raise InputError(
            net,
            got=f'targets of {target_size[0]}x{target_size[1]} and conditions of '
            f'{condition_size[0]}x{condition_size[1]}',
            expected=f'targets of {expected[0]}x{expected[1]}, at stride {stride}',
            fix=f'{choice}--{net}.stride={fitting}' if fitting else '',
        )


# --- the step -------------------------------------------------------------------------------------


def players(system: System) -> tuple[adversarial.Player, adversarial.Player]:
    """Returns the two sides: G with E, and D with D2. Each net has its own optimiser."""
    section = system.section

    def optimisers(key: str, *nets: str) -> dict[str, supervised.Optimiser]:
        where = f'{system.where}.{key}'
        return {net: supervised.Optimiser(section[key], (net,), where) for net in nets}

    weights = loss_weights(system)
    generators = adversarial.Player(
        optimisers('optim', GENERATOR, ENCODER),
        functools.partial(generator_loss, system),
        weights.__getitem__,
    )
    # Real and generated targets count fully, as released.
    discriminators = adversarial.Player(
        optimisers('optim_discriminator', DISCRIMINATOR, RANDOM_DISCRIMINATOR),
        functools.partial(discriminator_loss, system),
        lambda term: 1.0,
    )
    return generators, discriminators


def loss_weights(system: System) -> dict[str, float]:
    """Returns the factor of each term of L_GE, whose divergence is a mean over examples."""
    section = system.section
    weights = {key: float(section.weights[key]) for key in section.weights}
    if section.kl_reduction == 'sum':
        weights['kl'] *= system.config.train.batch_size / 2
    return weights


def make_train_step(system: System, num_steps: int) -> Callable:
    """Returns `Stage.train_step`: a step of G, E, D and D2 on the same batch."""
    train = system.config.train
    return adversarial.make_train_step(
        *players(system),
        num_steps=num_steps,
        accumulate=train.accumulate,
        ema=train.ema,
        shared=STREAMS,
    )


class Halves(NamedTuple):
    """The two halves of a batch.

    condition         A1, [B / 2, H, W, K]
    target            B1, [B / 2, h, w, C]
    weight            [B / 2] of the first half
    index             [B / 2] positions of the first half in their split
    other_condition   A2
    other_target      B2
    other_weight      [B / 2] of the second half
    """

    condition: Array
    target: Array
    weight: Array
    index: Array
    other_condition: Array
    other_target: Array
    other_weight: Array


def halves_of(system: System, batch: Batch) -> Halves:
    """Splits a batch into its even and its odd rows.

    Neighbours are on the same device and in the same micro-batch, so the halves depend on neither.

    Raises:
      InputError: a device has an odd number of examples.
    """
    condition, target = system.pair_of(batch)
    rows = target.shape[0]
    if rows % 2:
        doubled = 2 * system.config.train.batch_size
        raise InputError(
            system.batch_key,
            got=f'{rows} example{"s" * (rows > 1)} for each device and micro-batch',
            expected='an even number, of which the first half is encoded',
            fix=f'--config.{system.batch_key}={doubled}',
        )
    weight = batch['weight']
    return Halves(
        condition[0::2],
        target[0::2],
        weight[0::2],
        batch['index'][0::2],
        condition[1::2],
        target[1::2],
        weight[1::2],
    )


def normal_codes(key: PRNGKey, index: Array, *shape: int) -> Array:
    """Draws a code [B, *shape] from N(0, I) for each example, which depends on key and index alone.

    Args:
      key: of a shared stream.
      index: [B] positions of the examples in their split.
      *shape: of a code, n or h, w, n.
    """
    keys = rng.of_examples(key, index)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def generator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss L_GE of G and E, with the discriminators of a state.

    Terms whose weight is 0 are not computed.
    """
    section = system.section
    weights = section.weights

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        # Encoded codes, and their images.
        halves = halves_of(system, batch)
        weight = halves.weight
        statistics = dict(model_state)
        posterior, statistics[ENCODER] = segmentation.apply_net(
            system.encoder, params[ENCODER], statistics[ENCODER], halves.target, train=True
        )
        latent = {name: rng.named(keys['latent'], name) for name in (ENCODED, RANDOM)}
        noise = normal_codes(latent[ENCODED], halves.index, *system.code_shape)
        codes = {
            ENCODED: posterior['mean'] + noise * jnp.exp(posterior['log_variance'] / 2),
            RANDOM: normal_codes(latent[RANDOM], halves.index, *system.code_shape),
        }
        fakes = {}
        for name, code in codes.items():
            fakes[name], statistics[GENERATOR] = _generate(
                system, params[GENERATOR], statistics[GENERATOR], halves, code, name, keys
            )

        # cVAE-GAN and GAN: gradients for G and E.
        terms = {}
        for name, (net, _, _, _) in _rounds(halves).items():
            term = _FOOLED[name]
            if weights[term]:
                verdicts, _ = _judge(
                    system, state.params[net], state.model_state[net], halves.condition, fakes[name]
                )
                terms[term] = adversarial.judge_loss(verdicts, 1.0, weight, section.adversarial)
        if weights.l1:
            terms['l1'] = image_losses.l1(fakes[ENCODED], halves.target, weight)
        if weights.kl:
            terms['kl'] = latent_losses.kl_to_standard_normal(
                posterior['mean'], posterior['log_variance'], weight
            )

        # cLR-GAN: a gradient for G alone.
        if weights.code:
            terms['code'], statistics[ENCODER] = _code_loss(
                system, params[ENCODER], statistics[ENCODER], fakes[RANDOM], codes[RANDOM], weight
            )
        return terms, statistics, fakes

    return loss_fn


_FOOLED = {ENCODED: 'adversarial', RANDOM: 'adversarial_random'}
"""Names of the terms of L_GE against the discriminator of each kind of images."""


def _rounds(halves: Halves) -> dict[str, tuple[str, Array, Array, Array]]:
    """Returns {kind of images: (its discriminator, condition, target and weight of real pairs)}."""
    return {
        ENCODED: (DISCRIMINATOR, halves.condition, halves.target, halves.weight),
        RANDOM: (
            RANDOM_DISCRIMINATOR,
            halves.other_condition,
            halves.other_target,
            halves.other_weight,
        ),
    }


def _generate(
    system: System,
    params: PyTree,
    model_state: PyTree,
    halves: Halves,
    code: Array,
    name: str,
    keys: Keys,
) -> tuple[Array, PyTree]:
    """Returns the images of the first half and codes, and the batch statistics of G."""
    dropout = rng.of_examples(rng.named(keys['dropout'], name), halves.index)
    outputs, statistics = segmentation.apply_net(
        system.generator,
        params,
        model_state,
        halves.condition,
        code,
        train=True,
        keys=dropout,
    )
    return outputs['image'], statistics


def _code_loss(
    system: System, params: PyTree, model_state: PyTree, fake: Array, code: Array, weight: Array
) -> tuple[Mean, PyTree]:
    """Returns mean |mean of E(fake) - code| without a gradient for E, and its batch statistics."""
    fixed = jax.lax.stop_gradient(params)
    posterior, statistics = segmentation.apply_net(
        system.encoder, fixed, model_state, fake, train=True
    )
    return image_losses.l1(posterior['mean'], code, weight), statistics


def _judge(system: System, params, model_state, condition: Array, target: Array):
    """Returns the verdicts of a discriminator on targets, and its batch statistics."""
    inputs = system.judged(condition, target)
    return segmentation.apply_net(system.discriminator, params, model_state, *inputs, train=True)


def discriminator_loss(system: System, state: TrainState) -> Callable:
    """Returns the losses L_D and L_D2, on targets and on the images of G.

    As released, D2 sees the images of random codes with the conditions A1, and real pairs (A2, B2).
    """
    kind = system.section.adversarial

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        halves = halves_of(system, batch)
        statistics = dict(model_state)
        terms = {}
        for name, (net, *real) in _rounds(halves).items():
            ending = '_random' if name == RANDOM else ''
            generated = (halves.condition, batch[name], halves.weight)
            for term, pairs, target in (('real', real, 1.0), ('generated', generated, 0.0)):
                condition, images, weight = pairs
                verdicts, statistics[net] = _judge(
                    system, params[net], statistics[net], condition, images
                )
                terms[term + ending] = adversarial.judge_loss(verdicts, target, weight, kind)
        return terms, statistics, {}

    return loss_fn


# --- the trained nets -----------------------------------------------------------------------------


def sample(
    system: System,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    condition: Array,
    codes: Array,
) -> Array:
    """Returns images or features of conditions, without dropout: [B, n, h, w, C] float32.

    The codes are computed in turn, so the memory of the net does not grow with n.

    Args:
      system: with the net G.
      params: of a state, or its averages.
      model_state: of the same.
      condition: [B, H, W, K].
      codes: [n, *code_shape] of all examples, or [B, n, *code_shape].
    """
    rows = condition.shape[0]
    if codes.ndim == 1 + len(system.code_shape):
        codes = jnp.broadcast_to(codes, (rows, *codes.shape))

    def images_of(code: Array) -> Array:
        outputs, _ = segmentation.apply_net(
            system.generator,
            params[GENERATOR],
            model_state[GENERATOR],
            condition,
            code,
            train=False,
        )
        return outputs['image']

    images = jax.lax.map(images_of, jnp.moveaxis(codes, 1, 0))  # [n, B, h, w, C]
    return jnp.moveaxis(images, 0, 1)


def encode(
    system: System,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    target: Array,
) -> dict[str, Array]:
    """Returns the distribution of the codes of targets [B, h, w, C].

    Returns:
      {'mean': [B, *code_shape], 'log_variance': [B, *code_shape]}.
    """
    outputs, _ = segmentation.apply_net(
        system.encoder, params[ENCODER], model_state[ENCODER], target, train=False
    )
    return outputs
