"""CycleGAN-ERFNet with noise injected into the latent segmentation.

Löhdefink, Fingscheidt: Improving Performance of Semantic Segmentation CycleGANs by Noise Injection into the Latent
Segmentation Space. Symbols and equation numbers are the paper's.

Method, top to bottom. A segmenter G maps an image to a latent segmentation, a painter F maps it back.

  forward cycle    image x_bar -> G -> latent y~ -> noise -> y^ -> F -> reconstruction x^rec   J_seg, J_rec_x
  backward cycle   labels y_bar -> F -> synthetic image x -> G -> latent y~rec                 J_adv, J_rec_y

The noise works on y~ = tanh(logits / 8), the softmax on the logits. The paper writes y~ for the logits
themselves. Its quantiser has levels in [-1, 1], and its measured signal-to-noise ratios need a latent
inside that range: `cycle.latent_range` and `cycle.latent_gain` say which latent it is.

Without the noise, G and F agree on a watermark. G hides the image in the small numbers of the latent, and
F reads it. A step (Table 1) updates G and F with the discriminator D fixed, then D with G and F fixed, on
the same batch. D sees synthetic images out of a pool of earlier synthetic images.

Each cycle keeps its own running batch statistics (`cycle.statistics`). Auxiliary heads are not trained.
In bfloat16 the latent itself is rounded to eight bits on its way into F.

Not in the paper: a first stage can train G alone, so that compared systems begin from the same G
(`start`). Images without labels join the forward cycle, and label maps without images the backward cycle
(`unpaired`). Evaluation measures how much of a reconstruction depends on a watermark (`probes`).
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
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, above, at_least, between, one_of, strings
from segjax.spec import DataSpec
from segjax.tasks import segmentation, supervised

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
        'Injectors used instead of the trained one in evaluation, to measure how much the reconstruction '
        'depends on the hidden watermark.',
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
            'Source of the label maps: the labelled images, or the remaining images in another order.',
            one_of('labelled', 'rest'),
        ),
    },
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}
START = 'start'
"""Name of the first stage, which trains G alone."""


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Returns a stage for each injector of `compare` and one for `noise`, after the stage `start`.

    The CycleGANs share the data, the initial parameters of F and D, and those of G (see `make_init`).
    """
    _check(config)
    chosen = noise.Injector(**config.noise)
    others = parse_injectors(config, 'compare')
    labels = [noise.label(injector) for injector in (*others, chosen)]
    if len(set(labels)) < len(labels):
        raise InputError(
            'config.compare',
            got=', '.join(labels),
            expected='injectors that differ, from config.noise too',
        )
    names = [f'cyclegan_{label}' for label in labels] if others else ['cyclegan']
    first = (make_start_stage(config, spec),) if config.start.num_steps else ()
    injectors = zip(names, (*others, chosen), strict=True)
    return (*first, *(make_stage(config, spec, name, injector) for name, injector in injectors))


def _check(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for impossible sizes or injectors, before anything is built."""
    noise.check_injector(noise.Injector(**config.noise), 'config.noise')
    for key, size in (
        ('augment.crop', config.augment.crop),
        ('data.eval_size', config.data.eval_size),
    ):
        if size[0] % 8 or size[1] % 8:
            raise InputError(
                f'config.{key}', got=f'{tuple(size)}', expected='height and width divisible by 8'
            )
        try:
            patchgan.output_size(*size, config.discriminator.num_layers)
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
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config)._replace(unpaired=unpaired_inputs(config)),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=('noise', 'pool'),
        init=make_init(config, spec, nets, injector),
        train_step=make_train_step(config, spec, nets, injector),
        monitor=('mIoU', 'max'),
        **make_evaluation(config, spec, nets, injector),
    )


def unpaired_inputs(config: ml_collections.ConfigDict) -> tuple[tuple[str, Input], ...]:
    """Returns two inputs with orders of their own: 'photo' has images alone, 'map' label maps alone."""
    if not config.unpaired.batch_size:
        return ()
    fraction = config.data.labelled_fraction
    if fraction == 1 and config.unpaired.maps == 'rest':
        got, expected = (
            "'rest', and data.labelled_fraction 1 leaves none",
            "'labelled', or a fraction below 1",
        )
        raise InputError('config.unpaired.maps', got=got, expected=expected)
    rest = (fraction, 1.0) if fraction < 1 else (0.0, 1.0)
    inputs = segmentation.train_input(config)._replace(
        batch_size=config.unpaired.batch_size, batch_key='unpaired.batch_size'
    )
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
    net = segmentation.make_net(
        config.model, segmentation.num_outputs(config, spec), config.train.dtype, symmetric
    )
    cross_entropy = make_cross_entropy(config, spec)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        image = batch['image']
        logits, statistics = _apply(
            net, params['segmenter'], model_state['segmenter'], image, keys['dropout']
        )
        label = segmentation.train_label(batch['label'], config, spec)
        return {'seg': cross_entropy(logits, label)}, {'segmenter': statistics}, {}

    def infer(state: TrainState, image):
        params, model_state = optim.averaged(state, config.train.ema)
        logits, _ = _apply(net, params['segmenter'], model_state['segmenter'], image)
        return softmax_input(logits, config.cycle)

    return Stage(
        name=START,
        num_steps=config.start.num_steps,
        train_input=segmentation.train_input(config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=supervised.make_init(config, net),
        train_step=supervised.make_train_step(
            loss_fn,
            supervised.alone(config),
            {'seg': 1.0}.__getitem__,
            **supervised.schedule(config),
        ),
        monitor=('mIoU', 'max'),
        **segmentation.make_evaluation(config, spec, infer),
    )


# --- the nets ---------------------------------------------------------------------------------------------------------

GENERATORS = ('segmenter', 'painter')


class Nets(NamedTuple):
    """Holds G, F and D; images are float32 in [-1, 1], segmentations [B, H, W, S]."""

    segmenter: segmentation.Net
    painter: segmentation.Net
    discriminator: patchgan.PatchGAN


def symmetric(image: Array) -> Array:
    """Returns a uint8 image as float32 in [-1, 1]."""
    return images.normalize(image, 'symmetric')


def make_nets(config: ml_collections.ConfigDict, num_classes: int) -> Nets:
    """Builds G, F and D of the config; `num_classes` counts void where it is a class."""

    def as_it_is(x):
        return x

    dtype, discriminator = config.train.dtype, config.discriminator
    return Nets(
        segmenter=segmentation.make_net(config.model, num_classes, dtype, as_it_is),
        painter=segmentation.make_net(config.painter, 3, dtype, as_it_is),
        discriminator=patchgan.PatchGAN(**discriminator, dtype=jnp.dtype(dtype)),
    )


def make_init(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> Callable:
    """Returns `Stage.init`: three nets, two fresh optimisers and an empty pool.

    F and D depend on the seed alone, not on the injector. G does too, unless a stage `start` has trained G:
    then its parameters and batch statistics are used.
    """

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        keys = {net: rng.named(key, net) for net in (*GENERATORS, 'discriminator')}
        image = jax.ShapeDtypeStruct((1, *batch['image'].shape[1:]), jnp.float32)
        latent = jax.ShapeDtypeStruct(
            (*image.shape[:3], segmentation.num_outputs(config, spec)), jnp.float32
        )
        variables = {'painter': dict(nets.painter.init(keys['painter'], latent))}
        if START in earlier:
            begun = earlier[START]
            variables['segmenter'] = {
                'params': begun.params['segmenter'],
                **begun.model_state['segmenter'],
            }
        else:
            variables['segmenter'] = dict(nets.segmenter.init(keys['segmenter'], image))

        params = {net: variables[net].pop('params') for net in GENERATORS}
        params['discriminator'] = nets.discriminator.lazy_init(keys['discriminator'], image)[
            'params'
        ]
        variables |= {backward(net, config): variables[net] for net in GENERATORS}
        return TrainState(
            step=jnp.int32(0),
            params=params,
            model_state=variables,
            opt_state={
                name: transform.init(owned)
                for name, (transform, owned) in optimisers(config, params).items()
            },
            extra={
                'pool': image_pool.init(config.cycle.pool_size, image.shape[1:]),
                'noise': {'bits': jnp.float32(injector.bits), 'snr': jnp.float32(injector.snr)},
                **optim.start_average(_only(params, *GENERATORS), variables, config.train.ema),
            },
        )

    return init


def optimisers(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, tuple]:
    """Returns {name: (optimiser, its parameters)}: one for G and F together, one for D."""
    owned = {
        'generators': _only(params, *GENERATORS),
        'discriminator': _only(params, 'discriminator'),
    }
    sections = {'generators': 'optim', 'discriminator': 'optim_discriminator'}
    num_steps = config.train.num_steps
    return {
        name: (optim.make(config[sections[name]], num_steps, nets, sections[name]), nets)
        for name, nets in owned.items()
    }


# --- the two cycles ---------------------------------------------------------------------------------------------------


class Cycles(NamedTuple):
    """Holds what both cycles produce of a batch."""

    logits: Array  # of G on the image
    latent: Array  # y~, before the noise
    noisy: Array  # y^, after the noise
    reconstruction: Array  # x^rec
    synthetic: Array  # x
    logits_again: Array  # of G on the synthetic image


def backward(net: str, config: ml_collections.ConfigDict) -> str:
    """Returns the name of a net's batch statistics in the backward cycle.

    F sees label maps in the backward cycle and latents in the forward cycle, which have other statistics.
    Evaluated with statistics of both, F reconstructed 5 dB worse (docs/worklog.md).
    """
    return net if config.cycle.statistics == 'mixed' else f'{net}_backward'


def latent_of(logits: Array, cycle: ml_collections.ConfigDict) -> Array:
    """Returns y~, into which the noise is injected.

    The text bounds y~ by nothing. The quantiser's levels reach from -1 to 1, and the published ratios of its noise
    are those of numbers with a root mean square of 0.43 to 0.45. On the logits of trained nets, tanh(logits / 8) has
    the published ratios at 4, 3 and 2 bits within 1 dB and at 1 bit 3 dB less. Logits themselves leave the levels,
    and all quantisers clip alike. Their tanh without the gain lies on the levels and is hardly changed.
    """
    latent = cycle.latent_gain * logits
    return latent if cycle.latent_range == 'raw' else jnp.tanh(latent)


def softmax_input(logits: Array, cycle: ml_collections.ConfigDict) -> Array:
    """Returns the scores of the classes: the logits, or with `latent_range='tanh'` the bounded latent."""
    return latent_of(logits, cycle) if cycle.latent_range == 'tanh' else logits


def noise_keys(key: PRNGKey, index: Array) -> Array:
    """Returns a key for every example, whatever its place in the batch and its device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def injector_of(state: TrainState, injector: noise.Injector) -> noise.Injector:
    """Returns the injector with the numbers of the state.

    Runs that differ in these numbers alone share their compiled programs.
    """
    return injector._replace(**state.extra['noise'])


def paint_input(noisy: Array, config: ml_collections.ConfigDict) -> Array:
    """Returns the input of F in the forward cycle."""
    return jax.nn.softmax(noisy) if config.cycle.painter_input == 'softmax' else noisy


# --- training (Table 1) -----------------------------------------------------------------------------------------------


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
        label = jnp.concatenate([label, segmentation.train_label(batch['map/label'], config, spec)])
    return {'image': symmetric(image), 'label': label, 'index': index}


def make_cycles(config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets) -> Callable:
    """Returns both cycles as one function (Table 1, step 2).

    The function maps (params, model_state, inputs, keys, injector) to (Cycles, batch statistics).
    """
    num_classes = segmentation.num_outputs(config, spec)
    of_backward = {net: backward(net, config) for net in GENERATORS}

    def run_cycles(
        params, model_state, inputs: Mapping[str, Array], keys: Keys, injector: noise.Injector
    ):
        dropout = jax.random.split(keys['dropout'], 4)

        # Forward cycle.
        logits, g = _apply(
            nets.segmenter,
            params['segmenter'],
            model_state['segmenter'],
            inputs['image'],
            dropout[0],
        )
        latent = latent_of(logits, config.cycle)
        noisy = noise.inject(injector, latent, noise_keys(keys['noise'], inputs['index']))
        painted = paint_input(noisy, config)
        reconstruction, f = _apply(
            nets.painter, params['painter'], model_state['painter'], painted, dropout[1]
        )

        # Backward cycle; with mixed statistics it continues those of the forward cycle.
        statistics = {'segmenter': g, 'painter': f}
        before = {**model_state, **statistics}
        one_hot = jax.nn.one_hot(inputs['label'], num_classes)
        synthetic, f = _apply(
            nets.painter, params['painter'], before[of_backward['painter']], one_hot, dropout[2]
        )
        logits_again, g = _apply(
            nets.segmenter,
            params['segmenter'],
            before[of_backward['segmenter']],
            synthetic,
            dropout[3],
        )
        statistics |= {of_backward['segmenter']: g, of_backward['painter']: f}
        return Cycles(logits, latent, noisy, reconstruction, synthetic, logits_again), statistics

    return run_cycles


def make_cross_entropy(config: ml_collections.ConfigDict, spec: DataSpec) -> Callable:
    """Returns (logits, label) -> Mean: Eqs. 1 and 4, with the class weights of the config."""
    rule = config.loss.class_weights
    pixels = segmentation.class_pixels(config, spec)
    class_weights = losses.class_weights(*pixels, rule, k=config.loss.weight_k)

    def cross_entropy(logits: Array, label: Array) -> Mean:
        scores = softmax_input(logits, config.cycle)
        return losses.cross_entropy(
            scores, label, jnp.ones(len(label)), class_weights=class_weights
        )

    return cross_entropy


def make_generator_loss(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> Callable:
    """Returns the loss of the generators (Table 1, step 3).

    The loss maps a state to the terms of Eq. 7, as a function of G and F; D is that of the state.
    """
    cycle = config.cycle
    run_cycles = make_cycles(config, spec, nets)
    cross_entropy = make_cross_entropy(config, spec)

    def generator_loss(state: TrainState) -> Callable:
        def loss_fn(params, model_state, batch: Batch, keys: Keys):
            inputs = inputs_of(batch, config, spec)
            image, label = inputs['image'], inputs['label']
            found, model_state = run_cycles(
                params, model_state, inputs, keys, injector_of(state, injector)
            )
            verdict = nets.discriminator.apply(
                {'params': state.params['discriminator']}, found.synthetic
            )
            rows = len(batch['label'])  # the paired ones
            terms = {
                'seg': cross_entropy(found.logits[:rows], label[:rows]),  # Eq. 1
                'adv': adversarial.least_squares(verdict, 1.0, jnp.ones(len(label))),  # Eq. 2
                'rec_x': image_losses.l1(  # Eq. 3
                    found.reconstruction, image, jnp.ones(len(image)), cycle.l1_reduction
                ),
                'rec_y': cross_entropy(found.logits_again, label),  # Eq. 4
            }
            measured = (
                {}
                if injector.name == 'none'
                else {'snr': noise.measured_snr(found.latent, found.noisy)}
            )
            painted = {
                'synthetic': found.synthetic[:rows],
                'synthetic_unpaired': found.synthetic[rows:],
            }
            return terms, model_state, {**{k: v for k, v in painted.items() if len(v)}, **measured}

        return loss_fn

    return generator_loss


def make_discriminator_loss(nets: Nets) -> Callable:
    """Returns the loss of the discriminator as a function of D (Eq. 8; Table 1, step 5)."""

    def discriminator_loss(params, model_state, examples: Batch, keys: Keys):
        terms = {}
        for name, target in (('real', 1.0), ('generated', 0.0)):
            verdict = nets.discriminator.apply({'params': params['discriminator']}, examples[name])
            terms[name] = adversarial.least_squares(verdict, target, jnp.ones(len(verdict)))
        return terms, model_state, {}

    return discriminator_loss


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Returns the weights of the terms of the generators' loss."""
    cycle = config.cycle
    return {
        'seg': cycle.gamma * cycle.alpha,  # Eqs. 5 and 7
        'rec_x': cycle.gamma * (1 - cycle.alpha),
        'adv': (1 - cycle.gamma) * cycle.beta,  # Eqs. 6 and 7
        'rec_y': (1 - cycle.gamma) * (1 - cycle.beta),
    }


def make_train_step(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> Callable:
    """Returns `Stage.train_step`: one iteration of Table 1."""
    weights = loss_weights(config)
    accumulate = config.train.accumulate
    generator_loss = make_generator_loss(config, spec, nets, injector)
    discriminator_loss = make_discriminator_loss(nets)

    def update(state: TrainState, name: str, grads) -> TrainState:
        transform, _ = optimisers(config, state.params)[name]
        return optim.apply(state, name, transform, grads)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        # Steps 2 to 4: G and F, with D fixed.
        value_and_grad = parallel.global_value_and_grad(
            generator_loss(state), weights.__getitem__, accumulate, shared=('noise',)
        )
        generators = _only(state.params, *GENERATORS)
        (loss, terms, model_state, found), grads = value_and_grad(
            generators, state.model_state, batch, keys
        )
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(config.optim, config.train.num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        if 'snr' in found:
            metrics['SNR'] = Mean(found['snr'].sum(), jnp.float32(len(found['snr'])))
        state = update(state, 'generators', grads).replace(model_state=model_state)

        # Steps 5 and 6: D, with G and F fixed. Its generated images come out of the pool, which all devices share.
        # Pairs come first, on any number of devices.
        parts = [
            parallel.all_rows(found[k]) for k in ('synthetic', 'synthetic_unpaired') if k in found
        ]
        drawn, pool = image_pool.query(state.extra['pool'], jnp.concatenate(parts), keys['pool'])
        drawn = jnp.split(drawn, [len(parts[0])])[: len(parts)]
        examples = {
            'real': inputs_of(batch, config, spec)['image'],
            'generated': jnp.concatenate([parallel.own_rows(part) for part in drawn]),
        }
        value_and_grad = parallel.global_value_and_grad(
            discriminator_loss, lambda name: 1.0, accumulate
        )
        (loss, terms, _, _), grads = value_and_grad(
            _only(state.params, 'discriminator'), {}, examples, keys
        )
        metrics['loss_discriminator'] = Mean(loss, jnp.float32(1))
        state = update(state, 'discriminator', grads).replace(extra={**state.extra, 'pool': pool})

        state = optim.update_average(state, config.train.ema)
        return state.replace(step=state.step + 1), metrics

    return train_step


# --- evaluation -------------------------------------------------------------------------------------------------------


class Judge(NamedTuple):
    """Holds what the functions of evaluation share; `of_segmenter` are those of a plain segmenter."""

    config: ml_collections.ConfigDict
    spec: DataSpec
    nets: Nets
    injector: noise.Injector
    probes: Mapping[str, noise.Injector]
    of_segmenter: Mapping[str, Callable]


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> dict[str, Callable]:
    """Returns `Stage`'s eval_step, finalize, render and predict."""

    def infer(state: TrainState, image):
        segment, _ = generators(config, nets, state)
        return softmax_input(segment(symmetric(image)), config.cycle)

    of_segmenter = segmentation.make_evaluation(config, spec, infer)
    probes = {noise.label(probe): probe for probe in parse_injectors(config, 'probes')}
    judge = Judge(config, spec, nets, injector, probes, of_segmenter)
    own = {name: functools.partial(function, judge) for name, function in EVALUATION.items()}
    return {**own, 'predict': of_segmenter['predict']}


def generators(
    config: ml_collections.ConfigDict,
    nets: Nets,
    state: TrainState,
    statistics: Callable[[str], str] = str,
) -> tuple[Callable, Callable]:
    """Returns G and F as evaluation uses them, as functions of their input.

    Args:
      config: of the pipeline.
      nets: from `make_nets`.
      state: with the parameters.
      statistics: name of a net -> name of its batch statistics.
    """
    params, model_state = optim.averaged(state, config.train.ema)

    def of(name):
        net = getattr(nets, name)
        return lambda x: _apply(net, params[name], model_state[statistics(name)], x)[0]

    return of('segmenter'), of('painter')


def latents(
    judge: Judge, state: TrainState, batch: Batch, keys: Keys, injectors: Sequence[noise.Injector]
) -> tuple[Array, list[Array]]:
    """Returns y~, and y^ of every injector."""
    segment, _ = generators(judge.config, judge.nets, state)
    latent = latent_of(segment(symmetric(batch['image'])), judge.config.cycle)
    of_examples = noise_keys(keys['noise'], batch['index'])
    return latent, [noise.inject(injector, latent, of_examples) for injector in injectors]


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Returns the metrics of a segmenter, and ratios of every injector: PSNR (Eq. 14) and SNR (Eq. 11)."""
    real = batch['weight'] > 0
    valid = segmentation.valid_pixels(batch['size'], batch['image'])
    truth = symmetric(batch['image'])

    def mean(values):
        # Over images: the paper averages decibels.
        return Mean(jnp.where(real, values, 0.0).sum(), real.sum().astype(jnp.float32))

    injectors = {'trained': injector_of(state, judge.injector), **judge.probes}
    latent, noisy = latents(judge, state, batch, keys, tuple(injectors.values()))
    _, paint = generators(judge.config, judge.nets, state)
    painted = _together(paint, [paint_input(one, judge.config) for one in noisy])

    metrics = dict(judge.of_segmenter['eval_step'](state, batch, keys))
    inside = valid[..., None]
    unexplained = jnp.where(inside, residual.latent_residual(latent), 0.0)
    share = residual.residual_share(unexplained, jnp.where(inside, latent, 0.0))
    metrics['latent_residual'] = mean(share)
    for (name, injector), changed, image in zip(injectors.items(), noisy, painted, strict=True):
        metrics[f'PSNR/{name}'] = mean(image_metrics.psnr(truth, image, valid=valid))
        if injector.name != 'none':
            metrics[f'SNR/{name}'] = mean(noise.measured_snr(latent, changed, valid))
    return metrics


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Returns the scores of a segmenter, PSNR and SNR, and what each probe costs the reconstruction."""
    values = {name: float(m.value()) for name, m in metrics.items() if np.ndim(m.sum) == 0}
    scores = judge.of_segmenter['finalize'](metrics)
    first = {'mIoU': scores.pop('mIoU')}
    first |= {
        key: values[f'{key}/trained'] for key in ('PSNR', 'SNR') if f'{key}/trained' in values
    }
    watermark = {
        name: {
            'PSNR': values[f'PSNR/{name}'],
            'SNR': values.get(f'SNR/{name}'),
            'PSNR_lost': values['PSNR/trained'] - values[f'PSNR/{name}'],
        }
        for name in ('trained', *judge.probes)
    }
    return first | scores | {'latent_residual': values['latent_residual'], 'watermark': watermark}


def render(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
    """Returns the pictures of the paper's Figs. 1 and 3, and the latent's residual, amplified."""
    config, spec = judge.config, judge.spec
    _, paint = generators(config, judge.nets, state)
    of_backward = functools.partial(backward, config=config)
    segment_again, paint_map = generators(config, judge.nets, state, of_backward)

    # Forward cycle, with and without the noise.
    latent, (noisy,) = latents(judge, state, batch, keys, (injector_of(state, judge.injector),))
    with_noise, without_noise = _together(
        paint, [paint_input(noisy, config), paint_input(latent, config)]
    )

    # Backward cycle.
    label = segmentation.label_of_image(batch, config, spec)
    synthetic = paint_map(jax.nn.one_hot(label, segmentation.num_outputs(config, spec)))
    pictures = {
        **judge.of_segmenter['render'](state, batch, keys),
        'latent_residual': residual.residual_picture(residual.latent_residual(latent)),
        'noisy_latent_residual': residual.residual_picture(residual.latent_residual(noisy)),
        'reconstruction': images.to_uint8(with_noise, 'symmetric'),
        'reconstruction_without_noise': images.to_uint8(without_noise, 'symmetric'),
        'resegmentation': segmentation.paint(jnp.argmax(segment_again(synthetic), -1), spec),
        'synthetic': images.to_uint8(synthetic, 'symmetric'),
    }
    if judge.injector.name == 'none':  # the same as without noise
        del pictures['noisy_latent_residual'], pictures['reconstruction_without_noise']
    return pictures


EVALUATION = {'eval_step': eval_step, 'finalize': finalize, 'render': render}
"""The functions of a stage that `make_evaluation` binds to a Judge."""


def _together(net: Callable, inputs: Sequence[Array]) -> list[Array]:
    """Returns the outputs of each input, computed in one pass: evaluation treats examples separately."""
    return jnp.split(net(jnp.concatenate(inputs)), len(inputs))


# --- small parts ------------------------------------------------------------------------------------------------------


def _apply(
    net: segmentation.Net, params, model_state, x: Array, dropout: PRNGKey | None = None
) -> tuple[Array, Any]:
    """Returns (output at the size of the input, batch statistics); a key for dropout means training."""
    outputs, model_state = net.apply(
        params, model_state, x, train=dropout is not None, dropout=dropout
    )
    return resize.bilinear(outputs['logits'].astype(jnp.float32), x.shape[1:3]), model_state


def _only(params: Mapping[str, Any], *nets: str) -> dict[str, Any]:
    return {net: params[net] for net in nets}
