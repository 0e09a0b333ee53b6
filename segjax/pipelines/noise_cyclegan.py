"""CycleGAN-ERFNet with noise injected into the latent segmentation.

Löhdefink, Fingscheidt: Improving Performance of Semantic Segmentation CycleGANs by Noise Injection
into the Latent Segmentation Space. Symbols and equation numbers are the paper's.

Method, top to bottom. A segmenter G maps an image to a latent segmentation. A painter F maps the
latent segmentation back to an image. There are two cycles:

  forward   image x_bar -> G -> latent y~ -> noise -> y^ -> F -> x^rec      J_seg, J_rec_x
  backward  labels y_bar -> F -> synthetic image x -> G -> latent y~rec     J_adv, J_rec_y

Without the noise, G and F agree on a watermark. G hides the image in the small numbers of the
latent, and F reads it. The noise removes the watermark.

A step (Table 1) updates G and F with the discriminator D fixed. Then it updates D with G and F
fixed, on the same batch. D sees synthetic images out of a pool of earlier synthetic images.

Choices that the paper leaves open:

* The noise works on y~ = tanh(logits / 8), the softmax on the logits. The paper writes y~ for the
  logits themselves. Its quantiser has levels in [-1, 1], and its measured signal-to-noise ratios
  need a latent inside that range. `cycle.latent_range` and `cycle.latent_gain` choose the latent.
* Each cycle keeps its own running batch statistics (`cycle.statistics`).
* Auxiliary heads are not trained.
* In bfloat16 the latent itself is rounded to eight bits on its way into F.

Additions to the paper:

* A first stage can train G alone, so that compared systems begin from the same G (`start`).
* Images without labels can join the forward cycle, and label maps without images the backward cycle
  (`unpaired`).
* Evaluation measures how much of a reconstruction depends on a watermark (`probes`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import optim, parallel, rng
from segjax.errors import InputError
from segjax.losses import adversarial
from segjax.losses import image as image_losses
from segjax.losses import segmentation as losses
from segjax.metrics import image as image_metrics
from segjax.models.generators import patchgan
from segjax.ops import image_pool, images, noise, residual, resize
from segjax.protocol import (
    Array,
    Batch,
    Input,
    Keys,
    Mean,
    Metrics,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, above, at_least, between, one_of, strings
from segjax.spec import DataSpec
from segjax.tasks import segmentation, supervised
from segjax.tasks.evaluation import Evaluation, Pictures, of_images

SCHEMA = {
    'model': models.net_choice(
        'segmentation',
        'erfnet',
        'Segmenter G, from an image to a latent segmentation.',
        init_std=0.02,
    ),
    'painter': models.net_choice(
        'segmentation',
        'erfnet',
        'Painter F, from a segmentation to an image.',
        first_maps=32,
        init_std=0.02,
    ),
    'discriminator': {
        'features': Field(64, 'Channels after the first layer of the discriminator.', at_least(1)),
        'num_layers': Field(
            3,
            'Layers of stride 2 in the discriminator. 3 layers judge patches of 70x70.',
            at_least(1),
        ),
        'init_std': Field(0.02, 'Standard deviation of the initial kernels.', above(0)),
        'forms': Field(
            'fast', 'Implementation of the convolutions (ops/conv.py).', one_of('fast', 'naive')
        ),
    },
    'cycle': {
        'alpha': Field(0.5, 'Weight of J_seg against J_rec_x (Eq. 5).', between(0, 1)),
        'beta': Field(1 / 11, 'Weight of J_adv against J_rec_y (Eq. 6).', between(0, 1)),
        'gamma': Field(
            20 / 31,
            'Weight of the forward cycle against the backward cycle (Eq. 7).',
            between(0, 1),
        ),
        'l1_reduction': Field(
            'mean',
            'Channels in J_rec_x: their mean, or their sum as Eq. 3 is written.',
            one_of('mean', 'sum_channels'),
        ),
        'latent_range': Field(
            'tanh_noise_only',
            'Latent y~ that the noise works on: raw logits, or tanh of the logits. '
            'The softmax sees the logits (raw, tanh_noise_only) or the bounded latent (tanh).',
            one_of('raw', 'tanh', 'tanh_noise_only'),
        ),
        'latent_gain': Field(
            0.125,
            'Factor on the logits in the latent. '
            '1/8 with tanh gives the published signal-to-noise ratios.',
            above(0),
            before=1.0,
        ),
        'painter_input': Field(
            'logits', 'Input of the painter in the forward cycle.', one_of('logits', 'softmax')
        ),
        'pool_size': Field(
            50, 'Synthetic images kept for the discriminator. 0 keeps only the newest.', at_least(0)
        ),
        'statistics': Field(
            'each',
            'Batch statistics: separate for each cycle, or shared by both cycles as in PyTorch.',
            one_of('each', 'mixed'),
        ),
    },
    'loss': segmentation.CLASS_WEIGHTS,
    'noise': {
        'name': Field(
            'quantize', 'Noise that is injected into the latent segmentation.', one_of(*noise.NAMES)
        ),
        'bits': Field(
            2, 'Bits n of the quantiser, which has 2 ** n levels in [-1, 1].', at_least(1)
        ),
        'snr': Field(7.38, 'Signal-to-noise ratio of the Gaussian noise in dB.'),
        'snr_norm': Field(
            'eq11_consistent', 'Reading of Eq. 13 for the Gaussian noise.', one_of(*noise.SNR_NORMS)
        ),
        'ste_clip': Field(
            False, 'Stop the gradient of the quantiser where the latent is outside [-1, 1].'
        ),
    },
    'start': {
        'num_steps': Field(
            0,
            'Steps of a first stage that trains the segmenter alone. '
            'Every CycleGAN begins from it. 0 means no such stage.',
            at_least(0),
        ),
    },
    'compare': Field(
        (),
        "Injectors to train in stages of their own first, as ('none',) or ('gaussian:20',).",
        strings,
    ),
    'probes': Field(
        ('none', 'max_only', 'quantize:4', 'quantize:2', 'gaussian:20'),
        'Injectors used instead of the trained one in evaluation, to measure how much the '
        'reconstruction depends on the hidden watermark.',
        strings,
    ),
    'unpaired': {
        'batch_size': Field(
            0,
            'Images without labels, and label maps without images, in a step. 0 means none.',
            at_least(0),
        ),
        'maps': Field(
            'labelled',
            'Source of the label maps: the labelled images, '
            'or the remaining images in another order.',
            one_of('labelled', 'rest'),
        ),
    },
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}
START = 'start'
"""Name of the first stage, which trains G alone."""
GENERATORS = ('segmenter', 'painter')
"""Names of G and F in the state. The discriminator D is 'discriminator'."""


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds a stage for each injector of `compare` and one for `noise`, after the stage `start`.

    The CycleGANs share the data and the initial parameters of G, F and D (see `make_init`).
    """
    _check_config(config)
    injectors = named_injectors(config)
    stages = []
    if config.start.num_steps:
        stages.append(make_start_stage(config, spec))
    for name, injector in injectors:
        stages.append(make_stage(config, spec, name, injector))
    return tuple(stages)


def named_injectors(config: ml_collections.ConfigDict) -> list[tuple[str, noise.Injector]]:
    """Returns (name of the stage, injector) of all CycleGANs, config.noise last.

    Raises:
      InputError: two injectors are equal.
    """
    compared = parse_injectors(config, 'compare')
    injectors = [*compared, noise.Injector(**config.noise)]
    labels = [noise.label(injector) for injector in injectors]
    if len(set(labels)) < len(labels):
        raise InputError(
            'config.compare',
            got=', '.join(labels),
            expected='injectors that differ from each other and from config.noise',
        )
    names = [f'cyclegan_{label}' for label in labels] if compared else ['cyclegan']
    return list(zip(names, injectors, strict=True))


def _check_config(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for impossible sizes or injectors, before anything is built."""
    noise.check_injector(noise.Injector(**config.noise), 'config.noise')
    sizes = {'augment.crop': config.augment.crop, 'data.eval_size': config.data.eval_size}
    for key, (height, width) in sizes.items():
        if height % 8 or width % 8:
            raise InputError(
                f'config.{key}',
                got=f'{(height, width)}',
                expected='height and width divisible by 8',
            )
        try:
            patchgan.output_size(height, width, config.discriminator.num_layers)
        except InputError as error:
            raise error.at(f'config.{key}') from None


def parse_injectors(config: ml_collections.ConfigDict, key: str) -> list[noise.Injector]:
    """Reads the injectors of `probes` or `compare`, with the details of config.noise."""
    details = {'snr_norm': config.noise.snr_norm, 'ste_clip': config.noise.ste_clip}
    return [noise.parse(text, f'config.{key}', **details) for text in config[key]]


def make_stage(
    config: ml_collections.ConfigDict, spec: DataSpec, name: str, injector: noise.Injector
) -> Stage:
    """Builds the training of a CycleGAN with one injector."""
    nets = make_nets(config, segmentation.num_outputs(config, spec))
    system = System(config, spec, nets, injector)
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config)._replace(unpaired=unpaired_inputs(config)),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=('noise', 'pool'),
        init=make_init(system),
        train_step=make_train_step(system),
        **make_evaluation(system)._asdict(),
    )


def unpaired_inputs(config: ml_collections.ConfigDict) -> tuple[tuple[str, Input], ...]:
    """Returns two inputs with orders of their own: 'photo' has images, 'map' has label maps.

    Raises:
      InputError: label maps of unlabelled images are asked for, and all images are labelled.
    """
    if not config.unpaired.batch_size:
        return ()
    fraction = config.data.labelled_fraction
    if fraction == 1 and config.unpaired.maps == 'rest':
        raise InputError(
            'config.unpaired.maps',
            got="'rest', and data.labelled_fraction 1 leaves none",
            expected="'labelled', or a fraction below 1",
        )
    inputs = segmentation.train_input(config)._replace(
        batch_size=config.unpaired.batch_size, batch_key='unpaired.batch_size'
    )
    # The images without labels, or all images if all have labels.
    rest = (fraction, 1.0) if fraction < 1 else (0.0, 1.0)
    maps = rest if config.unpaired.maps == 'rest' else inputs.part
    return (
        ('photo', inputs._replace(features=('image',), part=rest)),
        ('map', inputs._replace(features=('label',), part=maps)),
    )


def make_start_stage(config: ml_collections.ConfigDict, spec: DataSpec) -> Stage:
    """Builds the first stage: G alone, trained with J_seg for `start.num_steps` steps."""
    config = config.copy_and_resolve_references()
    config.train.num_steps = config.start.num_steps
    config.unpaired.batch_size = 0
    num_outputs = segmentation.num_outputs(config, spec)
    net = segmentation.make_net(config.model, num_outputs, config.train.dtype, symmetric)
    cross_entropy = make_cross_entropy(config, spec)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        logits, statistics = apply_generator(
            net,
            params['segmenter'],
            model_state['segmenter'],
            batch['image'],
            keys['dropout'],
        )
        label = segmentation.train_label(batch['label'], config, spec)
        return {'seg': cross_entropy(logits, label)}, {'segmenter': statistics}, {}  # Eq. 1

    def infer(state: TrainState, image: Array) -> Array:
        segment = averaged_generator(config, net, state, 'segmenter')
        return softmax_input(segment(image), config.cycle)

    weight_of = {'seg': 1.0}.__getitem__
    schedule = supervised.schedule(config)
    return Stage(
        name=START,
        num_steps=config.start.num_steps,
        train_input=segmentation.train_input(config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=supervised.make_init(config, net),
        train_step=supervised.make_train_step(
            loss_fn, supervised.alone(config), weight_of, **schedule
        ),
        **segmentation.make_evaluation(config, spec, infer)._asdict(),
    )


# --- the nets -------------------------------------------------------------------------------------


class Nets(NamedTuple):
    """G, F and D. Images are float32 in [-1, 1], segmentations [B, H, W, S]."""

    segmenter: segmentation.Net
    painter: segmentation.Net
    discriminator: patchgan.PatchGAN


class System(NamedTuple):
    """A CycleGAN with one injector: the inputs that all its functions share."""

    config: ml_collections.ConfigDict
    spec: DataSpec
    nets: Nets
    injector: noise.Injector


def symmetric(image: Array) -> Array:
    """Returns a uint8 image as float32 in [-1, 1]."""
    return images.normalize(image, 'symmetric')


def make_nets(config: ml_collections.ConfigDict, num_outputs: int) -> Nets:
    """Builds G, F and D of the config. `num_outputs` counts void if void is a class."""
    return Nets(
        segmenter=make_generator(config, config.model, num_outputs),
        painter=make_generator(config, config.painter, 3),
        discriminator=patchgan.PatchGAN(
            **config.discriminator, dtype=jnp.dtype(config.train.dtype)
        ),
    )


def make_generator(
    config: ml_collections.ConfigDict, model: ml_collections.ConfigDict, num_outputs: int
) -> segmentation.Net:
    """Builds G or F from its config section, on float inputs that are used as they are."""

    def unchanged(x: Array) -> Array:
        return x

    return segmentation.make_net(model, num_outputs, config.train.dtype, unchanged)


def apply_generator(
    net: segmentation.Net, params, model_state, x: Array, dropout: PRNGKey | None = None
) -> tuple[Array, PyTree]:
    """Applies G or F and returns (float32 output at the size of the input, batch statistics).

    A key for dropout means training. None means evaluation.
    """
    train = dropout is not None
    outputs, statistics = net.apply(params, model_state, x, train=train, dropout=dropout)
    return full_size(outputs, x), statistics


def full_size(outputs: Mapping[str, Array], x: Array) -> Array:
    """Resizes the output of G or F to its input [B, H, W, ...], in float32."""
    return resize.bilinear(outputs['logits'].astype(jnp.float32), x.shape[1:3])


def averaged_generator(
    config: ml_collections.ConfigDict,
    net: segmentation.Net,
    state: TrainState,
    name: str,
    statistics: str = '',
) -> Callable[[Array], Array]:
    """Returns G or F as evaluation uses it, as a function of its input.

    Args:
      config: of the pipeline.
      net: G or F.
      state: holds its parameters.
      name: of the net in the state.
      statistics: name of its batch statistics in the state. '' means `name`.
    """
    apply = segmentation.averaged_net(net, state, config.train.ema, name, statistics)

    def generate(x: Array) -> Array:
        return full_size(apply(x), x)

    return generate


def make_init(system: System) -> Callable:
    """Returns `Stage.init`: three nets, two new optimisers and an empty pool.

    F and D depend on the seed alone, not on the injector. The same holds for G without a stage
    `start`. Otherwise G has the parameters and batch statistics of that stage.
    """
    config, spec, nets, injector = system

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        keys = {net: rng.named(key, net) for net in (*GENERATORS, 'discriminator')}
        image = jax.ShapeDtypeStruct((1, *batch['image'].shape[1:]), jnp.float32)
        latent_shape = (*image.shape[:3], segmentation.num_outputs(config, spec))
        latent = jax.ShapeDtypeStruct(latent_shape, jnp.float32)

        # The nets.
        variables = {'painter': dict(nets.painter.init(keys['painter'], latent))}
        if START in earlier:
            trained = earlier[START]
            variables['segmenter'] = {
                'params': trained.params['segmenter'],
                **trained.model_state['segmenter'],
            }
        else:
            variables['segmenter'] = dict(nets.segmenter.init(keys['segmenter'], image))
        params = {net: variables[net].pop('params') for net in GENERATORS}
        discriminator = nets.discriminator.lazy_init(keys['discriminator'], image)
        params['discriminator'] = discriminator['params']

        # The batch statistics of both cycles begin alike.
        model_state = variables | {backward(net, config): variables[net] for net in GENERATORS}

        opt_state = {}
        for name, (transform, owned) in optimisers(config, params).items():
            opt_state[name] = transform.init(owned)
        generators = supervised.select(params, GENERATORS)
        extra = {
            'pool': image_pool.init(config.cycle.pool_size, image.shape[1:]),
            'noise': {'bits': jnp.float32(injector.bits), 'snr': jnp.float32(injector.snr)},
            **optim.start_average(generators, model_state, config.train.ema),
        }
        return TrainState(jnp.int32(0), params, model_state, opt_state, extra)

    return init


def optimisers(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, tuple]:
    """Returns {name: (optimiser, its parameters)}: one for G and F together, one for D."""
    owned = {
        'generators': supervised.select(params, GENERATORS),
        'discriminator': supervised.select(params, ['discriminator']),
    }
    sections = {'generators': 'optim', 'discriminator': 'optim_discriminator'}
    pairs = {}
    for name, nets in owned.items():
        section = sections[name]
        pairs[name] = (optim.make(config[section], config.train.num_steps, nets, section), nets)
    return pairs


# --- the two cycles -------------------------------------------------------------------------------


class Cycles(NamedTuple):
    """The outputs of both cycles for a batch."""

    logits: Array  # of G on the image
    latent: Array  # y~, before the noise
    noisy: Array  # y^, after the noise
    reconstruction: Array  # x^rec
    synthetic: Array  # x
    logits_again: Array  # of G on the synthetic image


def backward(net: str, config: ml_collections.ConfigDict) -> str:
    """Returns the name of a net's batch statistics in the backward cycle.

    F sees label maps in the backward cycle and latents in the forward cycle, whose statistics
    differ. Evaluated with statistics of both, F reconstructed 5 dB worse (docs/worklog.md).
    """
    return net if config.cycle.statistics == 'mixed' else f'{net}_backward'


def latent_of(logits: Array, cycle: ml_collections.ConfigDict) -> Array:
    """Returns y~, into which the noise is injected.

    The paper does not say how y~ is bounded. The quantiser's levels reach from -1 to 1. The
    published ratios of its noise belong to latents with a root mean square of 0.43 to 0.45.

    On the logits of trained nets, tanh(logits / 8) has the published ratios at 4, 3 and 2 bits
    within 1 dB, and at 1 bit 3 dB less. Logits themselves leave the levels, and all quantisers clip
    alike. Their tanh without the gain lies on the levels and is hardly changed.
    """
    latent = cycle.latent_gain * logits
    return latent if cycle.latent_range == 'raw' else jnp.tanh(latent)


def softmax_input(logits: Array, cycle: ml_collections.ConfigDict) -> Array:
    """Returns the scores of the classes.

    These are the logits, or with `latent_range='tanh'` the bounded latent.
    """
    return latent_of(logits, cycle) if cycle.latent_range == 'tanh' else logits


def noise_keys(key: PRNGKey, index: Array) -> Array:
    """Returns one key per example that does not depend on batch position or device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def injector_of(state: TrainState, injector: noise.Injector) -> noise.Injector:
    """Returns the injector with the numbers of the state.

    Runs that differ in these numbers alone share their compiled programs.
    """
    return injector._replace(**state.extra['noise'])


def paint_input(noisy: Array, config: ml_collections.ConfigDict) -> Array:
    """Returns the input of F in the forward cycle."""
    return jax.nn.softmax(noisy) if config.cycle.painter_input == 'softmax' else noisy


# --- training (Table 1) ---------------------------------------------------------------------------


def inputs_of(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> dict[str, Array]:
    """Returns images in [-1, 1] and label maps, pairs first (Table 1, step 1).

    Paired images have even indices and unpaired images odd indices: their noise must differ.
    """
    image = batch['image']
    index = 2 * batch['index']
    label = segmentation.train_label(batch['label'], config, spec)
    if config.unpaired.batch_size:
        image = jnp.concatenate([image, batch['photo/image']])
        index = jnp.concatenate([index, 2 * batch['photo/index'] + 1])
        map_label = segmentation.train_label(batch['map/label'], config, spec)
        label = jnp.concatenate([label, map_label])
    return {'image': symmetric(image), 'label': label, 'index': index}


def run_cycles(
    system: System,
    params: Mapping[str, PyTree],
    model_state: Mapping[str, PyTree],
    inputs: Mapping[str, Array],
    keys: Keys,
    injector: noise.Injector,
) -> tuple[Cycles, dict[str, PyTree]]:
    """Runs both cycles (Table 1, step 2) and returns (Cycles, batch statistics).

    Args:
      system: the nets and their settings.
      params: of G and F.
      model_state: batch statistics of G and F in both cycles.
      inputs: from `inputs_of`.
      keys: 'dropout' and 'noise'.
      injector: with the numbers of the state.
    """
    config = system.config
    segmenter = system.nets.segmenter
    painter = system.nets.painter
    segmenter_backward = backward('segmenter', config)
    painter_backward = backward('painter', config)
    dropout = jax.random.split(keys['dropout'], 4)
    statistics = dict(model_state)

    # Forward cycle: x_bar -> y~ -> y^ -> x^rec.
    logits, statistics['segmenter'] = apply_generator(
        segmenter, params['segmenter'], statistics['segmenter'], inputs['image'], dropout[0]
    )
    latent = latent_of(logits, config.cycle)
    example_keys = noise_keys(keys['noise'], inputs['index'])
    noisy = noise.inject(injector, latent, example_keys)
    painted = paint_input(noisy, config)
    reconstruction, statistics['painter'] = apply_generator(
        painter, params['painter'], statistics['painter'], painted, dropout[1]
    )

    # Backward cycle: y_bar -> x -> y~rec. Mixed statistics continue from the forward cycle.
    one_hot = jax.nn.one_hot(inputs['label'], segmentation.num_outputs(config, system.spec))
    synthetic, statistics[painter_backward] = apply_generator(
        painter, params['painter'], statistics[painter_backward], one_hot, dropout[2]
    )
    logits_again, statistics[segmenter_backward] = apply_generator(
        segmenter, params['segmenter'], statistics[segmenter_backward], synthetic, dropout[3]
    )
    cycles = Cycles(logits, latent, noisy, reconstruction, synthetic, logits_again)
    return cycles, statistics


def make_cross_entropy(config: ml_collections.ConfigDict, spec: DataSpec) -> Callable:
    """Returns (logits, label) -> Mean: Eqs. 1 and 4, with the class weights of the config."""
    pixels, ignored = segmentation.class_pixels(config, spec)
    rule = config.loss.class_weights
    class_weights = losses.class_weights(pixels, ignored, rule, k=config.loss.weight_k)

    def cross_entropy(logits: Array, label: Array) -> Mean:
        scores = softmax_input(logits, config.cycle)
        weight = jnp.ones(len(label))
        return losses.cross_entropy(scores, label, weight, class_weights=class_weights)

    return cross_entropy


def make_generator_loss(system: System) -> Callable:
    """Returns the loss of the generators (Table 1, step 3).

    It maps a state to the terms of Eq. 7, as a function of G and F. The state holds D. The
    auxiliary outputs are the synthetic images of pairs and of unpaired label maps, and the measured
    signal-to-noise ratios.
    """
    config, spec, nets, _ = system
    cross_entropy = make_cross_entropy(config, spec)

    def generator_loss(state: TrainState) -> Callable:
        def loss_fn(params, model_state, batch: Batch, keys: Keys):
            inputs = inputs_of(batch, config, spec)
            image = inputs['image']
            label = inputs['label']
            injector = injector_of(state, system.injector)
            cycles, model_state = run_cycles(system, params, model_state, inputs, keys, injector)
            critic = {'params': state.params['discriminator']}
            verdict = nets.discriminator.apply(critic, cycles.synthetic)

            pairs = len(batch['label'])
            every_image = jnp.ones(len(image))
            every_map = jnp.ones(len(label))
            reduction = config.cycle.l1_reduction
            terms = {
                # Eq. 1
                'seg': cross_entropy(cycles.logits[:pairs], label[:pairs]),
                # Eq. 2
                'adv': adversarial.least_squares(verdict, 1.0, every_map),
                # Eq. 3
                'rec_x': image_losses.l1(cycles.reconstruction, image, every_image, reduction),
                # Eq. 4
                'rec_y': cross_entropy(cycles.logits_again, label),
            }
            outputs = {'synthetic': cycles.synthetic[:pairs]}
            if len(label) > pairs:
                outputs['synthetic_unpaired'] = cycles.synthetic[pairs:]
            if injector.name != 'none':
                outputs['snr'] = noise.measured_snr(cycles.latent, cycles.noisy)
            return terms, model_state, outputs

        return loss_fn

    return generator_loss


def make_discriminator_loss(nets: Nets) -> Callable:
    """Returns the loss of the discriminator as a function of D (Eq. 8; Table 1, step 5)."""

    def discriminator_loss(params, model_state, examples: Batch, keys: Keys):
        critic = {'params': params['discriminator']}
        terms = {}
        for name, target in (('real', 1.0), ('generated', 0.0)):
            verdict = nets.discriminator.apply(critic, examples[name])
            terms[name] = adversarial.least_squares(verdict, target, jnp.ones(len(verdict)))
        return terms, model_state, {}

    return discriminator_loss


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the weights of the generator loss terms (Eqs. 5 to 7)."""
    cycle = config.cycle
    return {
        'seg': cycle.gamma * cycle.alpha,  # Eqs. 5 and 7
        'rec_x': cycle.gamma * (1 - cycle.alpha),
        'adv': (1 - cycle.gamma) * cycle.beta,  # Eqs. 6 and 7
        'rec_y': (1 - cycle.gamma) * (1 - cycle.beta),
    }


def make_generators_step(system: System) -> Callable:
    """Returns steps 2 to 4 of Table 1, which update G and F with D fixed.

    The function maps (state, batch, keys) to (state, metrics, auxiliary outputs of the loss).
    """
    config = system.config
    weight_of = loss_weights(config).__getitem__
    generator_loss = make_generator_loss(system)

    def generators_step(state: TrainState, batch: Batch, keys: Keys):
        # The loss holds D fixed at its value in `state`.
        value_and_grad = parallel.global_value_and_grad(
            generator_loss(state), weight_of, config.train.accumulate, shared=('noise',)
        )
        generators = supervised.select(state.params, GENERATORS)
        (loss, terms, model_state, outputs), grads = value_and_grad(
            generators, state.model_state, batch, keys
        )

        # Each term is logged, and the signal-to-noise ratio where noise was added.
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(config.optim, config.train.num_steps, state.step),
        }
        for name, term in terms.items():
            metrics[f'loss_{name}'] = term
        if 'snr' in outputs:
            ratios = outputs['snr']
            metrics['SNR'] = Mean(ratios.sum(), jnp.float32(len(ratios)))

        state = _update(config, state, 'generators', grads)
        return state.replace(model_state=model_state), metrics, outputs

    return generators_step


def make_discriminator_step(system: System) -> Callable:
    """Returns steps 5 and 6 of Table 1, which update D with G and F fixed.

    The function maps (state, outputs, batch, keys) to (state, metrics). `outputs` hold the
    synthetic images of `make_generators_step`.
    """
    config = system.config
    discriminator_loss = make_discriminator_loss(system.nets)
    value_and_grad = parallel.global_value_and_grad(
        discriminator_loss, lambda name: 1.0, config.train.accumulate
    )

    def discriminator_step(state: TrainState, outputs, batch: Batch, keys: Keys):
        generated, pool = query_pool(state.extra['pool'], outputs, keys['pool'])
        real = inputs_of(batch, config, system.spec)['image']
        discriminator = supervised.select(state.params, ['discriminator'])
        examples = {'real': real, 'generated': generated}
        (loss, _, _, _), grads = value_and_grad(discriminator, {}, examples, keys)
        state = _update(config, state, 'discriminator', grads)
        state = state.replace(extra={**state.extra, 'pool': pool})
        return state, {'loss_discriminator': Mean(loss, jnp.float32(1))}

    return discriminator_step


def query_pool(pool: PyTree, outputs: Mapping[str, Array], key: PRNGKey) -> tuple[Array, PyTree]:
    """Exchanges synthetic images with the pool, and returns (images for D, the new pool).

    All devices share the pool and query it with the images of all devices. Images of pairs come
    before images of unpaired maps, so the order is the same on any number of devices.
    """
    names = [name for name in ('synthetic', 'synthetic_unpaired') if name in outputs]
    new = [parallel.all_rows(outputs[name]) for name in names]
    drawn, pool = image_pool.query(pool, jnp.concatenate(new), key)
    # Each device continues with its share of both kinds.
    kinds = jnp.split(drawn, [len(new[0])])[: len(new)]
    own = [parallel.own_rows(kind) for kind in kinds]
    return jnp.concatenate(own), pool


def _update(
    config: ml_collections.ConfigDict, state: TrainState, name: str, grads: PyTree
) -> TrainState:
    """Takes one step of an optimiser of `optimisers`."""
    transform, _ = optimisers(config, state.params)[name]
    return optim.apply(state, name, transform, grads)


def make_train_step(system: System) -> Callable:
    """Returns `Stage.train_step`: one iteration of Table 1."""
    generators_step = make_generators_step(system)
    discriminator_step = make_discriminator_step(system)
    ema = system.config.train.ema

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        state, metrics, outputs = generators_step(state, batch, keys)
        state, metrics_of_discriminator = discriminator_step(state, outputs, batch, keys)
        state = optim.update_average(state, ema)
        return state.replace(step=state.step + 1), metrics | metrics_of_discriminator

    return train_step


# --- evaluation -----------------------------------------------------------------------------------


class Judge(NamedTuple):
    """The inputs that the functions of evaluation share.

    system        the CycleGAN
    probes        injectors of config.probes by their labels
    of_segmenter  evaluation of G alone
    """

    system: System
    probes: Mapping[str, noise.Injector]
    of_segmenter: Evaluation


def make_evaluation(system: System) -> Evaluation:
    """Extends the evaluation of segmentation by reconstruction quality (PSNR) and noise (SNR)."""
    config = system.config

    def infer(state: TrainState, image: Array) -> Array:
        segment = averaged_generator(config, system.nets.segmenter, state, 'segmenter')
        return softmax_input(segment(symmetric(image)), config.cycle)

    of_segmenter = segmentation.make_evaluation(config, system.spec, infer)
    probes = {noise.label(probe): probe for probe in parse_injectors(config, 'probes')}
    judge = Judge(system, probes, of_segmenter)
    return of_segmenter._replace(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
        render=functools.partial(render, judge),
    )


def segment_images(system: System, state: TrainState, batch: Batch) -> Array:
    """Returns y~ of the images of a batch, [B, H, W, S]."""
    segment = averaged_generator(system.config, system.nets.segmenter, state, 'segmenter')
    logits = segment(symmetric(batch['image']))
    return latent_of(logits, system.config.cycle)


def reconstruct(system: System, state: TrainState, latents: Sequence[Array]) -> list[Array]:
    """Returns F's images of several latents [B, H, W, S], noisy or not.

    F sees all latents in one batch, because evaluation treats examples separately.
    """
    paint = averaged_generator(system.config, system.nets.painter, state, 'painter')
    inputs = [paint_input(latent, system.config) for latent in latents]
    return jnp.split(paint(jnp.concatenate(inputs)), len(inputs))


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Returns metrics of segmentation, and of every injector PSNR (Eq. 14) and SNR (Eq. 11)."""
    real = batch['weight'] > 0
    valid = segmentation.valid_pixels(batch['size'], batch['image'])
    truth = symmetric(batch['image'])

    # Forward cycle with every injector.
    injectors = {'trained': injector_of(state, judge.system.injector), **judge.probes}
    latent = segment_images(judge.system, state, batch)
    example_keys = noise_keys(keys['noise'], batch['index'])
    noisy = [noise.inject(injector, latent, example_keys) for injector in injectors.values()]
    painted = reconstruct(judge.system, state, noisy)

    metrics = dict(judge.of_segmenter.eval_step(state, batch, keys))
    metrics['latent_residual'] = _mean_over_images(residual_share(latent, valid), real)
    for (name, injector), changed, image in zip(injectors.items(), noisy, painted, strict=True):
        psnr = image_metrics.psnr(truth, image, valid=valid)
        metrics[f'PSNR/{name}'] = _mean_over_images(psnr, real)
        if injector.name != 'none':
            snr = noise.measured_snr(latent, changed, valid)
            metrics[f'SNR/{name}'] = _mean_over_images(snr, real)
    return metrics


def residual_share(latent: Array, valid: Array) -> Array:
    """Returns the share of each latent's energy that its label map does not explain, [B].

    Args:
      latent: [B, H, W, S].
      valid: bool [B, H, W], the pixels that count.
    """
    inside = valid[..., None]
    unexplained = jnp.where(inside, residual.latent_residual(latent), 0.0)
    return residual.residual_share(unexplained, jnp.where(inside, latent, 0.0))


def _mean_over_images(values: Array, real: Array) -> Mean:
    """Averages values [B] of the images that are no padding. The paper averages decibels."""
    return Mean(jnp.where(real, values, 0.0).sum(), real.sum().astype(jnp.float32))


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Returns scores of segmentation, PSNR, SNR, and how many dB each probe costs."""
    values = {name: float(m.value()) for name, m in metrics.items() if np.ndim(m.sum) == 0}
    scores = judge.of_segmenter.finalize(metrics)

    # The report shows scores in this order.
    first = {'mIoU': scores.pop('mIoU')}
    for key in ('PSNR', 'SNR'):
        if f'{key}/trained' in values:
            first[key] = values[f'{key}/trained']
    watermark = {}
    for name in ('trained', *judge.probes):
        psnr = values[f'PSNR/{name}']
        watermark[name] = {
            'PSNR': psnr,
            'SNR': values.get(f'SNR/{name}'),
            'PSNR_lost': values['PSNR/trained'] - psnr,
        }
    return first | scores | {'latent_residual': values['latent_residual'], 'watermark': watermark}


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints the pictures of the paper's Figs. 1 and 3, and the latent's residual, amplified."""
    system = judge.system
    config, spec, nets, _ = system

    # Forward cycle, with and without the noise.
    injector = injector_of(state, system.injector)
    latent = segment_images(system, state, batch)
    noisy = noise.inject(injector, latent, noise_keys(keys['noise'], batch['index']))
    with_noise, without_noise = reconstruct(system, state, [noisy, latent])

    # Backward cycle.
    paint_map = averaged_generator(
        config, nets.painter, state, 'painter', backward('painter', config)
    )
    segment_again = averaged_generator(
        config, nets.segmenter, state, 'segmenter', backward('segmenter', config)
    )
    label = segmentation.label_of_image(batch, config, spec)
    synthetic = paint_map(jax.nn.one_hot(label, segmentation.num_outputs(config, spec)))
    label_again = jnp.argmax(segment_again(synthetic), -1)

    pictures = {
        **judge.of_segmenter.render(state, batch, keys),
        'latent_residual': _residual_picture(latent),
        'noisy_latent_residual': _residual_picture(noisy),
        'reconstruction': images.to_uint8(with_noise, 'symmetric'),
        'reconstruction_without_noise': images.to_uint8(without_noise, 'symmetric'),
        'resegmentation': segmentation.paint(label_again, spec),
        'synthetic': images.to_uint8(synthetic, 'symmetric'),
    }
    if injector.name == 'none':  # pictures with and without noise are equal
        del pictures['noisy_latent_residual']
        del pictures['reconstruction_without_noise']
    return of_images(pictures, batch)


def _residual_picture(latent: Array) -> Array:
    return residual.residual_picture(residual.latent_residual(latent))
