"""CycleGAN-ERFNet with noise injected into the latent segmentation.

Löhdefink, Fingscheidt: Improving Performance of Semantic Segmentation CycleGANs by Noise Injection into the Latent
Segmentation Space. Symbols and equation numbers are the paper's.

Method, top to bottom. A segmenter G maps an image to a latent segmentation, a painter F maps it back.

  forward cycle    image x_bar -> G -> latent y~ -> noise -> y^ -> F -> reconstruction x^rec   J_seg, J_rec_x
  backward cycle   labels y_bar -> F -> synthetic image x -> G -> latent y~rec                 J_adv, J_rec_y

Without the noise, G and F agree on a watermark: G hides the image in the small numbers of the latent, F reads it, and
the cycle teaches neither of them anything. A step (Table 1) updates G and F with the discriminator D fixed, then D with
G and F fixed, on the same batch; D sees synthetic images out of a pool of earlier ones.

Each cycle keeps its own running batch statistics (`cycle.statistics`). Auxiliary heads of other nets are not trained.
In bfloat16 the latent itself is rounded to eight bits on its way into F.

Besides the paper: images without labels join the forward cycle and label maps without images the backward cycle
(`unpaired`), and evaluation asks how much of a reconstruction hangs on a watermark (`probes`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import optim, parallel, segmenter
from segjax.config import OPTIM, Field, above, at_least, between, one_of, strings
from segjax.data.spec import DataSpec
from segjax.errors import InputError
from segjax.losses import adversarial
from segjax.losses import image as image_losses
from segjax.losses import segmentation as losses
from segjax.metrics import image as image_metrics
from segjax.models import patchgan
from segjax.ops import image_pool, images, noise, residual, resize
from segjax.protocol import Array, Batch, Input, Keys, Mean, Metrics, PRNGKey, Scores, Stage, TrainState

SCHEMA = {
    'model': segmenter.model_choice('G, the net that segments', init_std=0.02),
    'painter': segmenter.model_choice(
        'F, the net that paints an image from a segmentation', first_maps=32, init_std=0.02
    ),
    'discriminator': {
        'features': Field(64, 'channels after the first layer', at_least(1)),
        'num_layers': Field(3, 'layers of stride 2; 3 is the discriminator of 70x70 patches', at_least(1)),
        'init_std': Field(0.02, 'kernels start as N(0, init_std^2)', above(0)),
        'forms': Field('fast', 'of its convolutions, see ops/conv.py', one_of('fast', 'naive')),
    },
    'cycle': {
        'alpha': Field(0.5, 'Eq. 5: weight of J_seg against J_rec_x', between(0, 1)),
        'beta': Field(1 / 11, 'Eq. 6: weight of J_adv against J_rec_y', between(0, 1)),
        'gamma': Field(20 / 31, 'Eq. 7: weight of the forward against the backward cycle', between(0, 1)),
        'l1_reduction': Field(
            'mean', 'J_rec_x: mean over channels, or their sum as Eq. 3 is written', one_of('mean', 'sum_channels')
        ),
        'latent_range': Field(
            'raw',
            'y~: the logits (the text), tanh of them, or tanh for the noise alone (what the measured SNRs suggest)',
            one_of('raw', 'tanh', 'tanh_noise_only'),
        ),
        'painter_input': Field('logits', 'what F gets in the forward cycle', one_of('logits', 'softmax')),
        'pool_size': Field(50, 'synthetic images kept for the discriminator; 0: the newest only', at_least(0)),
        'statistics': Field(
            'each',
            'running batch statistics: each cycle has its own, or G and F mix those of both, as in PyTorch',
            one_of('each', 'mixed'),
        ),
    },
    'loss': segmenter.CLASS_WEIGHTS,
    'noise': {
        'name': Field('quantize', 'what is injected into the latent segmentation', one_of(*noise.NAMES)),
        'bits': Field(2, 'quantize: 2 ** bits levels in [-1, 1]', at_least(1)),
        'snr': Field(7.38, 'gaussian: signal-to-noise ratio in dB'),
        'snr_norm': Field('eq11_consistent', 'gaussian: reading of Eq. 13', one_of(*noise.SNR_NORMS)),
        'ste_clip': Field(False, 'quantize: no gradient where the latent is outside [-1, 1]'),
    },
    'compare': Field((), "injectors to train first, a stage each, as ('none',) or ('gaussian:20',)", strings),
    'probes': Field(
        ('none', 'quantize:4', 'quantize:2', 'max_only', 'gaussian:20'),
        'injectors that replace the trained one in evaluation, to see what the reconstruction hangs on. The quantisers '
        'also clip a latent that leaves [-1, 1]; Gaussian noise is relative to its energy',
        strings,
    ),
    'unpaired': {
        'batch_size': Field(0, 'images without labels, and label maps without images, in a step; 0: none', at_least(0)),
        'maps': Field(
            'labelled',
            'whose label maps: those of the labelled images, or of the rest, in another order than the images',
            one_of('labelled', 'rest'),
        ),
    },
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """One stage per injector of `compare`, then the one of `noise`; they share nothing but the data."""
    _check(config)
    chosen = noise.Injector(**config.noise)
    others = parse_injectors(config, 'compare')
    labels = [noise.label(injector) for injector in (*others, chosen)]
    if len(set(labels)) < len(labels):
        raise InputError(
            'config.compare', got=', '.join(labels), expected='injectors that differ, from config.noise too'
        )
    names = [f'cyclegan_{label}' for label in labels] if others else ['cyclegan']
    return tuple(make_stage(config, spec, name, one) for name, one in zip(names, (*others, chosen), strict=True))


def _check(config: ml_collections.ConfigDict) -> None:
    """What can be wrong with the sizes and the trained injector, before anything is built."""
    noise.check(noise.Injector(**config.noise), 'config.noise')
    for key, size in (('augment.crop', config.augment.crop), ('data.eval_size', config.data.eval_size)):
        if size[0] % 8 or size[1] % 8:
            raise InputError(f'config.{key}', got=f'{tuple(size)}', expected='height and width divisible by 8')
        try:
            patchgan.output_size(*size, config.discriminator.num_layers)
        except InputError as error:
            raise error.at(f'config.{key}') from None


def parse_injectors(config: ml_collections.ConfigDict, key: str) -> list[noise.Injector]:
    """Those of `probes` or `compare`, with the details that config.noise sets."""
    details = {'snr_norm': config.noise.snr_norm, 'ste_clip': config.noise.ste_clip}
    return [noise.parse(text, f'config.{key}', **details) for text in config[key]]


def make_stage(config: ml_collections.ConfigDict, spec: DataSpec, name: str, injector: noise.Injector) -> Stage:
    """The training with one injector."""
    nets = make_nets(config, segmenter.num_outputs(config, spec))
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=segmenter.train_input(config)._replace(beside=unpaired_inputs(config)),
        eval_input=segmenter.eval_input(config),
        streams=('dropout',),
        shared_streams=('noise', 'pool'),
        init=make_init(config, spec, nets, injector),
        train_step=make_train_step(config, spec, nets, injector),
        monitor=('mIoU', 'max'),
        **make_evaluation(config, spec, nets, injector),
    )


def unpaired_inputs(config: ml_collections.ConfigDict) -> tuple[tuple[str, Input], ...]:
    """'photo': images without labels; 'map': label maps without images. Both are drawn on their own."""
    if not config.unpaired.batch_size:
        return ()
    fraction = config.data.labelled_fraction
    if fraction == 1 and config.unpaired.maps == 'rest':
        got, expected = "'rest', and data.labelled_fraction 1 leaves none", "'labelled', or a fraction below 1"
        raise InputError('config.unpaired.maps', got=got, expected=expected)
    rest = (fraction, 1.0) if fraction < 1 else (0.0, 1.0)
    inputs = segmenter.train_input(config)._replace(
        batch_size=config.unpaired.batch_size, batch_key='unpaired.batch_size'
    )
    maps = rest if config.unpaired.maps == 'rest' else inputs.part
    return (
        ('photo', inputs._replace(features=('image',), part=rest)),
        ('map', inputs._replace(features=('label',), part=maps)),
    )


# --- the nets ---------------------------------------------------------------------------------------------------------

GENERATORS = ('segmenter', 'painter')


class Nets(NamedTuple):
    """G, F and D; images are float32 in [-1, 1], segmentations [B, H, W, S]."""

    segmenter: segmenter.Net
    painter: segmenter.Net
    discriminator: patchgan.PatchGAN


def make_nets(config: ml_collections.ConfigDict, num_classes: int) -> Nets:
    def as_it_is(x):
        return x

    dtype, discriminator = config.train.dtype, config.discriminator
    return Nets(
        segmenter=segmenter.make_net(config.model, num_classes, dtype, as_it_is),
        painter=segmenter.make_net(config.painter, 3, dtype, as_it_is),
        discriminator=patchgan.PatchGAN(**discriminator, dtype=jnp.dtype(dtype)),
    )


def make_init(config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector) -> Callable:
    """`Stage.init`: fresh nets, their two optimisers, and an empty pool."""

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        keys = dict(zip((*GENERATORS, 'discriminator'), jax.random.split(key, 3), strict=True))
        image = jax.ShapeDtypeStruct((1, *batch['image'].shape[1:]), jnp.float32)
        latent = jax.ShapeDtypeStruct((*image.shape[:3], segmenter.num_outputs(config, spec)), jnp.float32)
        variables = {
            'segmenter': nets.segmenter.init(keys['segmenter'], image),
            'painter': nets.painter.init(keys['painter'], latent),
        }
        params = {net: variables[net].pop('params') for net in GENERATORS}
        params['discriminator'] = nets.discriminator.lazy_init(keys['discriminator'], image)['params']
        variables |= {backward(net, config): variables[net] for net in GENERATORS}
        return TrainState(
            step=jnp.int32(0),
            params=params,
            model_state=variables,
            opt_state={name: transform.init(owned) for name, (transform, owned) in optimisers(config, params).items()},
            extra={
                'pool': image_pool.init(config.cycle.pool_size, image.shape[1:]),
                'noise': {'bits': jnp.float32(injector.bits), 'snr': jnp.float32(injector.snr)},
                **optim.start_average(_only(params, *GENERATORS), variables, config.train.ema),
            },
        )

    return init


def optimisers(config: ml_collections.ConfigDict, params: Mapping[str, Any]) -> dict[str, tuple]:
    """{name: (optimiser, parameters it owns)}: one for G and F together, one for D."""
    owned = {'generators': _only(params, *GENERATORS), 'discriminator': _only(params, 'discriminator')}
    sections = {'generators': config.optim, 'discriminator': config.optim_discriminator}
    return {name: (optim.make(sections[name], config.train.num_steps, nets), nets) for name, nets in owned.items()}


# --- the two cycles ---------------------------------------------------------------------------------------------------


class Cycles(NamedTuple):
    """What both cycles produce of a batch; y~ before, y^ after the noise."""

    logits: Array  # of G on the image
    latent: Array  # y~
    noisy: Array  # y^
    reconstruction: Array  # x^rec
    synthetic: Array  # x
    logits_again: Array  # of G on the synthetic image


def backward(net: str, config: ml_collections.ConfigDict) -> str:
    """Where a net's batch statistics of the backward cycle are kept.

    A label map is nothing like a latent, a synthetic image not quite a real one: of statistics that mix both cycles,
    F's reconstructions in evaluation came out 5 dB worse (docs/worklog.md).
    """
    return net if config.cycle.statistics == 'mixed' else f'{net}_backward'


def latent_of(logits: Array, latent_range: str) -> tuple[Array, Array]:
    """(what the softmax gets, what the noise gets): the text does not say what bounds the latent, if anything does."""
    bounded = jnp.tanh(logits)
    return {'raw': (logits, logits), 'tanh': (bounded, bounded), 'tanh_noise_only': (logits, bounded)}[latent_range]


def noise_keys(key: PRNGKey, index: Array) -> Array:
    """A key for every example, wherever it stands in the batch and on whichever device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def injector_of(state: TrainState, injector: noise.Injector) -> noise.Injector:
    """The injector with its numbers from the state: runs that differ in them alone share their compiled programs."""
    return injector._replace(**state.extra['noise'])


def paint_input(noisy: Array, config: ml_collections.ConfigDict) -> Array:
    """What F gets in the forward cycle."""
    return jax.nn.softmax(noisy) if config.cycle.painter_input == 'softmax' else noisy


# --- training (Table 1) -----------------------------------------------------------------------------------------------


def inputs_of(batch: Batch, config: ml_collections.ConfigDict, spec: DataSpec) -> dict[str, Array]:
    """Table 1, step 1: images in [-1, 1] and label maps, the paired ones first.

    The noise of an unpaired image must not be that of a paired one with the same position in its split.
    """
    image, index = batch['image'], 2 * batch['index']
    label = segmenter.train_label(batch['label'], config, spec)
    if config.unpaired.batch_size:
        image = jnp.concatenate([image, batch['photo/image']])
        index = jnp.concatenate([index, 2 * batch['photo/index'] + 1])
        label = jnp.concatenate([label, segmenter.train_label(batch['map/label'], config, spec)])
    return {'image': images.normalize(image, 'symmetric'), 'label': label, 'index': index}


def make_cycles(config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets) -> Callable:
    """Table 1, step 2: (params, model_state, inputs, keys, injector) -> (Cycles, batch statistics)."""
    cycle, num_classes = config.cycle, segmenter.num_outputs(config, spec)
    of_backward = {net: backward(net, config) for net in GENERATORS}

    def run_cycles(params, model_state, inputs: Mapping[str, Array], keys: Keys, injector: noise.Injector):
        dropout = jax.random.split(keys['dropout'], 4)

        logits, g = _apply(nets.segmenter, params['segmenter'], model_state['segmenter'], inputs['image'], dropout[0])
        _, latent = latent_of(logits, cycle.latent_range)
        noisy = noise.inject(injector, latent, noise_keys(keys['noise'], inputs['index']))
        painted = paint_input(noisy, config)
        reconstruction, f = _apply(nets.painter, params['painter'], model_state['painter'], painted, dropout[1])

        statistics = {'segmenter': g, 'painter': f}
        before = {**model_state, **statistics}
        one_hot = jax.nn.one_hot(inputs['label'], num_classes)
        synthetic, f = _apply(nets.painter, params['painter'], before[of_backward['painter']], one_hot, dropout[2])
        logits_again, g = _apply(
            nets.segmenter, params['segmenter'], before[of_backward['segmenter']], synthetic, dropout[3]
        )
        statistics |= {of_backward['segmenter']: g, of_backward['painter']: f}
        return Cycles(logits, latent, noisy, reconstruction, synthetic, logits_again), statistics

    return run_cycles


def make_generator_loss(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> Callable:
    """Table 1, step 3: state -> the terms of Eq. 7 as a function of G and F, with D as it is in the state."""
    cycle, run_cycles = config.cycle, make_cycles(config, spec, nets)
    rule, k = config.loss.class_weights, config.loss.weight_k
    class_weights = losses.class_weights(*segmenter.class_pixels(config, spec), rule, k=k)

    def cross_entropy(logits: Array, label: Array) -> Mean:
        scores, _ = latent_of(logits, cycle.latent_range)
        return losses.cross_entropy(scores, label, jnp.ones(len(label)), class_weights=class_weights)

    def generator_loss(state: TrainState) -> Callable:
        def loss_fn(params, model_state, batch: Batch, keys: Keys):
            inputs = inputs_of(batch, config, spec)
            image, label = inputs['image'], inputs['label']
            found, model_state = run_cycles(params, model_state, inputs, keys, injector_of(state, injector))
            verdict = nets.discriminator.apply({'params': state.params['discriminator']}, found.synthetic)
            rows = len(batch['label'])  # the paired ones
            terms = {
                'seg': cross_entropy(found.logits[:rows], label[:rows]),  # Eq. 1
                'adv': adversarial.least_squares(verdict, 1.0, jnp.ones(len(label))),  # Eq. 2
                'rec_x': image_losses.l1(  # Eq. 3
                    found.reconstruction, image, jnp.ones(len(image)), cycle.l1_reduction
                ),
                'rec_y': cross_entropy(found.logits_again, label),  # Eq. 4
            }
            measured = {} if injector.name == 'none' else {'snr': noise.measured_snr(found.latent, found.noisy)}
            painted = {'synthetic': found.synthetic[:rows], 'synthetic_unpaired': found.synthetic[rows:]}
            return terms, model_state, {**{k: v for k, v in painted.items() if len(v)}, **measured}

        return loss_fn

    return generator_loss


def make_discriminator_loss(nets: Nets) -> Callable:
    """Table 1, step 5: Eq. 8, as a function of D."""

    def discriminator_loss(params, model_state, examples: Batch, keys: Keys):
        terms = {}
        for name, target in (('real', 1.0), ('generated', 0.0)):
            verdict = nets.discriminator.apply({'params': params['discriminator']}, examples[name])
            terms[name] = adversarial.least_squares(verdict, target, jnp.ones(len(verdict)))
        return terms, model_state, {}

    return discriminator_loss


def loss_weights(config: ml_collections.ConfigDict) -> dict[str, float]:
    """Of the terms of the generators' loss."""
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
    """`Stage.train_step`: one iteration of Table 1."""
    weights, accumulate = loss_weights(config), config.train.accumulate
    generator_loss, discriminator_loss = (
        make_generator_loss(config, spec, nets, injector),
        make_discriminator_loss(nets),
    )

    def update(state: TrainState, name: str, grads) -> TrainState:
        transform, _ = optimisers(config, state.params)[name]
        return optim.apply(state, name, transform, grads)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        # Steps 2 to 4: G and F, with D fixed.
        value_and_grad = parallel.global_value_and_grad(
            generator_loss(state), weights.__getitem__, accumulate, shared=('noise',)
        )
        generators = _only(state.params, *GENERATORS)
        (loss, terms, model_state, found), grads = value_and_grad(generators, state.model_state, batch, keys)
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'learning_rate': optim.learning_rate(config.optim, config.train.num_steps, state.step),
            **{f'loss_{name}': term for name, term in terms.items()},
        }
        if 'snr' in found:
            metrics['SNR'] = Mean(found['snr'].sum(), jnp.float32(len(found['snr'])))
        state = update(state, 'generators', grads).replace(model_state=model_state)

        # Steps 5 and 6: D, with G and F fixed; its generated images come out of the pool, which all devices share.
        # Paired ones first, on any number of devices.
        parts = [parallel.all_rows(found[k]) for k in ('synthetic', 'synthetic_unpaired') if k in found]
        drawn, pool = image_pool.query(state.extra['pool'], jnp.concatenate(parts), keys['pool'])
        drawn = jnp.split(drawn, [len(parts[0])])[: len(parts)]
        examples = {
            'real': inputs_of(batch, config, spec)['image'],
            'generated': jnp.concatenate([parallel.own_rows(part) for part in drawn]),
        }
        value_and_grad = parallel.global_value_and_grad(discriminator_loss, lambda name: 1.0, accumulate)
        (loss, terms, _, _), grads = value_and_grad(_only(state.params, 'discriminator'), {}, examples, keys)
        metrics['loss_discriminator'] = Mean(loss, jnp.float32(1))
        state = update(state, 'discriminator', grads).replace(extra={**state.extra, 'pool': pool})

        state = optim.update_average(state, config.train.ema)
        return state.replace(step=state.step + 1), metrics

    return train_step


# --- evaluation -------------------------------------------------------------------------------------------------------


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, nets: Nets, injector: noise.Injector
) -> dict[str, Callable]:
    """`Stage`'s eval_step, finalize, render and predict: those of a segmenter, and what the forward cycle is worth."""
    num_classes, latent_range = segmenter.num_outputs(config, spec), config.cycle.latent_range
    probes = {noise.label(probe): probe for probe in parse_injectors(config, 'probes')}

    def nets_of(state: TrainState, statistics: Callable[[str], str] = str):
        """(G, F) as functions of their input, as they are evaluated."""
        params, model_state = optim.averaged(state, config.train.ema)

        def of(net, name):
            return lambda x: _apply(net, params[name], model_state[statistics(name)], x)[0]

        return of(nets.segmenter, 'segmenter'), of(nets.painter, 'painter')

    def infer(state: TrainState, image):
        segment, _ = nets_of(state)
        return latent_of(segment(images.normalize(image, 'symmetric')), latent_range)[0]

    of_segmenter = segmenter.make_evaluation(config, spec, infer)

    def latents(state: TrainState, batch: Batch, keys: Keys, injectors: Sequence[noise.Injector]):
        """y~, and y^ of every injector."""
        segment, _ = nets_of(state)
        latent = latent_of(segment(images.normalize(batch['image'], 'symmetric')), latent_range)[1]
        of_examples = noise_keys(keys['noise'], batch['index'])
        return latent, [noise.inject(one, latent, of_examples) for one in injectors]

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        real, valid = batch['weight'] > 0, segmenter.valid_pixels(batch['size'], batch['image'])
        truth = images.normalize(batch['image'], 'symmetric')

        def mean(values):
            """Over images: the paper averages decibels."""
            return Mean(jnp.where(real, values, 0.0).sum(), real.sum().astype(jnp.float32))

        injectors = {'trained': injector_of(state, injector), **probes}
        latent, noisy = latents(state, batch, keys, tuple(injectors.values()))
        _, paint = nets_of(state)
        painted = _together(paint, [paint_input(one, config) for one in noisy])
        metrics = dict(of_segmenter['eval_step'](state, batch, keys))
        inside = valid[..., None]
        unexplained = jnp.where(inside, residual.latent_residual(latent), 0.0)
        metrics['latent_residual'] = mean(residual.residual_share(unexplained, jnp.where(inside, latent, 0.0)))
        for (name, chosen), one, reconstruction in zip(injectors.items(), noisy, painted, strict=True):
            metrics[f'PSNR/{name}'] = mean(image_metrics.psnr(truth, reconstruction, valid=valid))  # Eq. 14
            if chosen.name != 'none':
                metrics[f'SNR/{name}'] = mean(noise.measured_snr(latent, one, valid))  # Eq. 11
        return metrics

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        values = {name: float(m.value()) for name, m in metrics.items() if np.ndim(m.sum) == 0}
        scores = of_segmenter['finalize'](metrics)
        first = {'mIoU': scores.pop('mIoU')}
        first |= {key: values[f'{key}/trained'] for key in ('PSNR', 'SNR') if f'{key}/trained' in values}
        watermark = {
            name: {
                'PSNR': values[f'PSNR/{name}'],
                'SNR': values.get(f'SNR/{name}'),
                'PSNR_lost': values['PSNR/trained'] - values[f'PSNR/{name}'],
            }
            for name in ('trained', *probes)
        }
        return first | scores | {'latent_residual': values['latent_residual'], 'watermark': watermark}

    def render(state: TrainState, batch: Batch, keys: Keys) -> dict[str, jax.Array]:
        """The paper's Figs. 1 and 3, and what the latent says beside its label map, amplified."""
        _, paint = nets_of(state)
        segment_again, paint_map = nets_of(state, functools.partial(backward, config=config))
        latent, (noisy,) = latents(state, batch, keys, (injector_of(state, injector),))
        label = segmenter.label_of_image(batch, config, spec)
        reconstruction, without_noise = _together(paint, [paint_input(noisy, config), paint_input(latent, config)])
        synthetic = paint_map(jax.nn.one_hot(label, num_classes))
        pictures = {
            **of_segmenter['render'](state, batch, keys),
            'latent_residual': residual.residual_picture(residual.latent_residual(latent)),
            'noisy_latent_residual': residual.residual_picture(residual.latent_residual(noisy)),
            'reconstruction': images.to_uint8(reconstruction, 'symmetric'),
            'reconstruction_without_noise': images.to_uint8(without_noise, 'symmetric'),
            'resegmentation': segmenter.paint(jnp.argmax(segment_again(synthetic), -1), spec),
            'synthetic': images.to_uint8(synthetic, 'symmetric'),
        }
        if injector.name == 'none':  # the same as without noise
            del pictures['noisy_latent_residual'], pictures['reconstruction_without_noise']
        return pictures

    return {'eval_step': eval_step, 'finalize': finalize, 'render': render, 'predict': of_segmenter['predict']}


def _together(net: Callable, inputs: Sequence[Array]) -> list[Array]:
    """What the net makes of each input, in one pass: in evaluation examples do not see each other."""
    return jnp.split(net(jnp.concatenate(inputs)), len(inputs))


# --- small parts ------------------------------------------------------------------------------------------------------


def _apply(net: segmenter.Net, params, model_state, x: Array, dropout: PRNGKey | None = None) -> tuple[Array, Any]:
    """(output at the size of the input, batch statistics), in training where there is a key for dropout."""
    outputs, model_state = net.apply(params, model_state, x, train=dropout is not None, dropout=dropout)
    return resize.bilinear(outputs['logits'].astype(jnp.float32), x.shape[1:3]), model_state


def _only(params: Mapping[str, Any], *nets: str) -> dict[str, Any]:
    return {net: params[net] for net in nets}
