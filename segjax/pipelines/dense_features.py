"""Segmentation with synthetic dense features: a GAN makes inner features as further training data.

He, Improved Methods and Analysis for Semantic Image Segmentation, thesis, chapter 6. Symbols and
equation numbers are the thesis'.

Method, top to bottom. A segmentation net S is split at an inner tensor (`features.tap`) into an
encoder En and a decoder De.

1. Stage `segmentation`: S is trained on the data, or loaded. It measures the statistics of its
   features (segjax/tasks/feature_synthesis.py).
2. Stage `features`: the generator G learns features from layouts Y, which are one-hot label maps,
   and codes z. S is fixed. The objective is that of BicycleGAN (segjax/tasks/bicycle.py). The
   "PSPNet-score" reads G(Y, z) by De and compares with Y.
3. Stage `refit`: S goes on training, with real images X and with synthetic features (Eq. 6.1):

       L = E(-log De(En(X))) + E(-log De(G(Y, z)))

   Real images train encoder and decoder. Synthetic features enter at the split, so they train the
   decoder alone. Only their labels are smoothed (Eqs. 6.2 and 6.3).

The layouts are label maps of the training split. A share of them may come from another split or
data set, or be predictions on unlabelled images (`layouts`, Table 6.4). With `mining.use` they are
the layouts of the largest losses among random layouts (Sec. 6.2.3).

Rivals share the last stage (`refit.source`): real images alone ('none'), features that are noised
('noise') or mixed ('mixup'), and images of pix2pixHD ('painter'). With `features.tap=image` the
generator makes images, and the whole net is refitted with them (Table 6.3).

Choices that the thesis leaves open:

* G learns features of zero mean and unit variance in each channel.
* With `refit.weights=mixture` every example of a batch counts equally. 'sum' is Eq. 6.1 as written.
* Batch norms keep their statistics in the last stage (`refit.norm`).
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import ml_collections

from segjax import models, schema
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.models import split
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    PRNGKey,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, below_one, between, one_of, typed_text
from segjax.spec import DataSpec
from segjax.tasks import (
    bicycle,
    feature_mixing,
    feature_synthesis,
    hard_layouts,
    scorers,
    segmentation,
    sources,
    supervised,
    synthetic_examples,
    translation,
)
from segjax.tasks.feature_synthesis import SEGMENTER, START, Synthesis


def none_or_bins(value: int) -> str | None:
    """Checks a number of bins. A single bin tells nothing."""
    return None if value == 0 or value >= 2 else 'a number >= 2, or 0'


SCHEMA = {
    'model': models.net_choice('segmentation', 'pspnet', 'Segmentation net S.'),
    'preprocess': segmentation.PREPROCESS,
    'loss': supervised.LOSS,
    'segmentation': {
        'use': Field(
            'train',
            "Net S: trained in the stage `segmentation`, or loaded from init_from. 'load' only "
            'evaluates it.',
            one_of('train', 'load'),
        ),
        'num_steps': Field(1000, 'Steps of the stage `segmentation`.', at_least(1)),
        'batch_size': Field(16, 'Batch size of the stage `segmentation`.', at_least(1)),
        'optim': OPTIM,
    },
    'features': {
        'use': Field(
            'train',
            'Generator of features: trained in the stage `features`, loaded from init_from, or '
            'none.',
            one_of('none', 'train', 'load'),
        ),
        'tap': Field(
            'conv4_12', "Inner tensor at which S is split. 'image' is the image in front of S."
        ),
        'num_steps': Field(1000, 'Steps of the stage `features`.', at_least(1)),
        'batch_size': Field(
            2, 'Batch size of the stage `features`. Half of a batch is encoded.', at_least(2)
        ),
        'num_codes': Field(4, 'Codes of a layout in the score `diversity`.', at_least(1)),
        'bins': Field(
            256, 'Bins of the histograms of real features. 0: no histograms.', none_or_bins
        ),
    },
    'bicycle': feature_synthesis.GAN,
    'refit': {
        'use': Field(
            'train',
            'Training of S with synthetic data in the stage `refit`. none: no such stage.',
            one_of('none', 'train'),
        ),
        'source': Field(
            'generator',
            'Synthetic data: features of the generator, noised or mixed real features, images of '
            'the painter, or none.',
            one_of('generator', 'noise', 'mixup', 'painter', 'none'),
        ),
        'share': Field(0.3, 'Share of synthetic examples in a batch.', below_one),
        'num_synthetic': Field(
            0,
            'Synthetic examples of a batch, in addition to train.batch_size real examples. 0: as '
            'many as `share` says.',
            at_least(0),
        ),
        'weights': Field(
            'mixture',
            "Weights of the two losses: 'mixture' counts all examples of a batch equally, 'sum' "
            'adds both means (Eq. 6.1).',
            one_of('mixture', 'sum'),
        ),
        'label_smoothing': Field(
            1e-4, 'Label smoothing of synthetic examples, epsilon of Eq. 6.3.', between(0, 1)
        ),
        'norm': Field(
            'frozen',
            'Batch norms of S: their running statistics, or the statistics of the batch.',
            one_of('frozen', 'batch'),
        ),
    },
    'layouts': synthetic_examples.LAYOUTS,
    'layout_data': schema.data_set('Data set of the additional layouts.'),
    'mining': hard_layouts.HARD_LAYOUTS,
    'mixing': feature_mixing.FEATURE_MIXING,
    'painter': synthetic_examples.PAINTER,
    'optim': OPTIM,
}

SEGMENTATION = 'segmentation'
FEATURES = 'features'
REFIT = 'refit'
"""Names of the stages."""
GAINS = ('pixel_accuracy', 'class_accuracy', 'mIoU', 'fwIoU')
"""Scores of which the refit shows the difference to the starting net."""
ALL_NETS = '--config.init_from.path=RUN loads all nets of a run'
"""A fix for nets without a source."""
SYNTHETIC = 'synthetic'
"""Prefix of the entries of a batch, and of the losses, of synthetic examples."""


# --- stages ---------------------------------------------------------------------------------------


def make_stages(
    config: ml_collections.ConfigDict, spec: DataSpec, layout_data: DataSpec
) -> tuple[Stage, ...]:
    """Builds the stages `segmentation`, `features` and `refit`, as far as they are used.

    Raises:
      InputError: settings that contradict each other, or a net without a source.
    """
    synthesis = make_synthesis(config, spec, layout_data)
    stages = [segmentation_stage(synthesis)]
    if config.features.use != 'none':
        stages.append(features_stage(synthesis))
    if config.refit.use != 'none':
        stages.append(refit_stage(synthesis))
    return tuple(stages)


def make_synthesis(
    config: ml_collections.ConfigDict, spec: DataSpec, layout_data: DataSpec
) -> Synthesis:
    """Builds S, which is split, and the generator if there is any."""
    net = models.build_from(
        'segmentation',
        config.model,
        num_classes=segmentation.num_outputs(config, spec),
        dtype=config.train.dtype,
        axis_name=parallel.AXIS,
    )
    check(config, spec, layout_data)
    tap = 'image' if config.refit.source == 'painter' else config.features.tap
    synthesis = feature_synthesis.make_synthesis(config, spec, net, tap)
    if config.features.use != 'none':
        synthesis = feature_synthesis.with_gan(synthesis, for_features(config), pair_of)
    return synthesis


def for_features(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config with the steps and the batch size of the stage `features` in `train`."""
    changed = config.copy_and_resolve_references()
    changed.train.num_steps = config.features.num_steps
    changed.train.batch_size = config.features.batch_size
    return changed


# --- the segmentation net -------------------------------------------------------------------------


def segmentation_stage(synthesis: Synthesis) -> Stage:
    """Builds the training of S, or its evaluation if it is loaded."""
    # A loaded net takes no step.
    config = synthesis.config
    spec = synthesis.spec
    is_loaded = config.segmentation.use == 'load'
    training = scorers.Training(
        config=config,
        net=feature_synthesis.on_images(synthesis, synthesis.net),
        name=SEGMENTER,
        optim=config.segmentation.optim,
        where='segmentation.optim',
        num_steps=0 if is_loaded else config.segmentation.num_steps,
        batch_size=config.segmentation.batch_size,
        batch_key='segmentation.batch_size',
        augment=config.augment,
    )
    train_input = segmentation.train_input(config)._replace(
        batch_size=training.batch_size, batch_key=training.batch_key
    )

    # Only a generator that is trained here needs the statistics of features.
    terms = supervised.make_terms(config, spec)
    infer = functools.partial(feature_synthesis.segment, synthesis)
    return Stage(
        name=SEGMENTATION,
        num_steps=training.num_steps,
        train_input=train_input,
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=scorers.make_init(training),
        train_step=scorers.make_train_step(training, terms, supervised.head_weight(config)),
        hand_on=feature_synthesis.hand_on(synthesis) if trains_generator(config) else None,
        frozen=(SEGMENTER,) if is_loaded else (),
        **segmentation.make_evaluation(config, spec, infer)._asdict(),
    )


def trains_generator(config: ml_collections.ConfigDict) -> bool:
    """Returns whether a generator is trained in this run."""
    return config.features.use == 'train'


# --- the generator of features --------------------------------------------------------------------


def features_stage(synthesis: Synthesis) -> Stage:
    """Builds the training of the generator on the features of S, or only its evaluation."""
    config = for_features(synthesis.config)
    assert synthesis.gan is not None
    is_loaded = not trains_generator(config)
    scale = feature_synthesis.scale_name(synthesis.tap)
    return Stage(
        name=FEATURES,
        num_steps=0 if is_loaded else config.features.num_steps,
        train_input=segmentation.train_input(config)._replace(batch_key='features.batch_size'),
        eval_input=segmentation.eval_input(config),
        streams=(),
        shared_streams=bicycle.STREAMS,
        init=make_features_init(synthesis),
        train_step=make_features_step(synthesis),
        frozen=(bicycle.GENERATOR, scale) if is_loaded else (),
        check_start=functools.partial(feature_synthesis.check_fingerprint, synthesis),
        **feature_synthesis.make_evaluation(synthesis)._asdict(),
    )


def pair_of(batch: Batch) -> tuple[Array, Array]:
    """Returns the layouts Y [B, H, W, K] and the standardised features [B, h, w, C] of a batch."""
    return batch['layout'], batch['features']


def with_pairs(synthesis: Synthesis, state: TrainState, batch: Batch) -> dict[str, Array]:
    """Returns a training batch with the entries that `pair_of` reads. S gets no gradient."""
    scale = state.params[feature_synthesis.scale_name(synthesis.tap)]
    features = feature_synthesis.encode(
        synthesis, state.params[SEGMENTER], state.model_state[SEGMENTER], batch['image']
    )
    return {
        **batch,
        'layout': translation.make_layout(batch['label'], synthesis.spec),
        'features': feature_synthesis.standardised(scale, features),
    }


def make_features_init(synthesis: Synthesis) -> Callable:
    """Returns `Stage.init`: the fixed net S, its statistics, and the nets of the GAN."""
    gan = synthesis.gan
    config = for_features(synthesis.config)
    init_gan = bicycle.make_init(gan, config.train.num_steps)
    scale = feature_synthesis.scale_name(synthesis.tap)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        fixed = supervised.evaluated_variables(
            earlier[SEGMENTATION], config.train.ema, (SEGMENTER,)
        )
        statistics = feature_synthesis.statistics_of(synthesis, earlier, SEGMENTATION)
        params, model_state = supervised.fields_of({**fixed, scale: {'params': statistics}})

        # The generator learns pairs, of which only the shapes matter here.
        own = supervised.fresh_state(params, model_state, {}, num_steps=0, ema=0.0)
        pairs = jax.eval_shape(functools.partial(with_pairs, synthesis), own, dict(batch))
        state = init_gan(key, pairs, {})
        if trains_generator(config):
            return state.replace(
                params={**state.params, **params},
                model_state={**state.model_state, **model_state},
            )

        # A loaded generator is only evaluated.
        nets = (bicycle.GENERATOR,)
        return supervised.fresh_state(
            {**supervised.select(state.params, nets), **params},
            {**supervised.select(state.model_state, nets), **model_state},
            {},
            num_steps=0,
            ema=config.train.ema,
        )

    return init


def make_features_step(synthesis: Synthesis) -> Callable:
    """Returns `Stage.train_step`: a step of BicycleGAN on the features of S."""
    gan = synthesis.gan
    step = bicycle.make_train_step(gan, synthesis.config.features.num_steps)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        return step(state, with_pairs(synthesis, state, batch), keys)

    return train_step


# --- synthetic examples ---------------------------------------------------------------------------


def with_synthetic(
    synthesis: Synthesis, state: TrainState, batch: Batch, keys: Keys
) -> dict[str, Array]:
    """Returns a batch with synthetic examples: 'synthetic/features', '/label' and '/weight'.

    Mixed examples also have the labels and weights of their partners. Nothing here gets a gradient,
    so synthetic examples do not train the encoder.
    """
    layouts = synthetic_examples.layouts_of(synthesis, state, batch, keys)
    made = {'label': layouts['label'], 'weight': layouts['weight']}
    match synthesis.config.refit.source:
        case 'generator':
            made['features'] = generated_features(synthesis, state, layouts, keys)
        case 'painter':
            made['features'] = synthetic_examples.painted_images(synthesis, state, layouts)
        case _:
            made |= synthetic_examples.mixed_features(synthesis, state, layouts, keys)
    real = {key: value for key, value in batch.items() if '/' not in key}
    return {**real, **{f'{SYNTHETIC}/{key}': value for key, value in made.items()}}


def generated_features(
    synthesis: Synthesis, state: TrainState, layouts: Mapping[str, Array], keys: Keys
) -> Array:
    """Returns G(Y, z) in the units of S, [n, h, w, C]."""
    codes = feature_synthesis.drawn_codes(synthesis, keys['latent'], layouts['index'])
    drawn = feature_synthesis.generated(
        synthesis, state.params, state.model_state, layouts['label'], codes
    )
    scale = state.params[feature_synthesis.scale_name(synthesis.tap)]
    return feature_synthesis.restored(scale, drawn)


# --- the refit ------------------------------------------------------------------------------------


def refit_stage(synthesis: Synthesis) -> Stage:
    """Builds the training of S with real and synthetic examples."""
    # The starting net is scored on the same images.
    config = synthesis.config
    spec = synthesis.spec
    infer = functools.partial(feature_synthesis.segment, synthesis)
    infer_start = functools.partial(feature_synthesis.segment_start, synthesis)
    evaluation = feature_synthesis.with_baseline(
        segmentation.make_evaluation(config, spec, infer),
        segmentation.make_evaluation(config, spec, infer_start),
        START,
    )
    evaluation = evaluation._replace(finalize=functools.partial(with_gains, evaluation.finalize))
    return Stage(
        name=REFIT,
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config)._replace(
            unpaired=synthetic_examples.layout_inputs(synthesis)
        ),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        shared_streams=('latent', 'mining', 'mixing'),
        init=make_refit_init(synthesis),
        train_step=make_refit_step(synthesis),
        frozen=(translation.NET,) if config.refit.source == 'painter' else (),
        **evaluation._asdict(),
    )


def with_gains(finalize: Callable, metrics: Mapping[str, Mean]) -> Scores:
    """Returns the scores, with the differences to the starting net as 'gain_SCORE'."""
    scores = finalize(metrics)
    start = scores[f'baseline_{START}']
    known = [name for name in GAINS if name in start and scores[name] is not None]
    return {**scores, **{f'gain_{name}': scores[name] - start[name] for name in known}}


def make_refit_init(synthesis: Synthesis) -> Callable:
    """Returns `Stage.init`: S, the net from which it starts, and the source of synthetic data."""
    config = synthesis.config
    size = tuple(config.augment.crop)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        ema = config.train.ema
        nets = supervised.evaluated_variables(earlier[SEGMENTATION], ema, (SEGMENTER,))
        if config.refit.source == 'generator':
            names = (bicycle.GENERATOR, feature_synthesis.scale_name(synthesis.tap))
            nets |= supervised.evaluated_variables(earlier[FEATURES], ema, names)
        elif config.refit.source == 'painter':
            make = translation.make_variables(config, synthesis.spec, config.painter, size)
            nets[translation.NET] = make(rng.named(key, translation.NET))
        params, model_state = supervised.fields_of(nets)
        state = supervised.fresh_state(
            params,
            model_state,
            supervised.alone(config),
            num_steps=config.train.num_steps,
            ema=ema,
        )

        # No source of parameters replaces the start.
        start = {'params': params[SEGMENTER], 'model_state': model_state[SEGMENTER]}
        extra = {**state.extra, START: start}
        if config.mining.use:
            extra[synthetic_examples.POOL] = hard_layouts.empty(config.mining, size)
        return state.replace(extra=extra)

    return init


def make_refit_step(synthesis: Synthesis) -> Callable:
    """Returns `Stage.train_step`: a step on Eq. 6.1."""
    config = synthesis.config
    step = supervised.make_train_step(
        make_refit_loss(synthesis),
        supervised.alone(config),
        refit_weights(config),
        **supervised.schedule(config),
        finish=functools.partial(with_candidates, synthesis),
    )
    if not synthetic_examples.num_synthetic(config):
        return step

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        return step(state, with_synthetic(synthesis, state, batch, keys), keys)

    return train_step


def with_candidates(
    synthesis: Synthesis, state: TrainState, batch: Batch, outputs: Mapping[str, Array]
) -> TrainState:
    """Returns the state whose pool of hard layouts has seen the losses of the real examples."""
    settings = synthesis.config.mining
    if not settings.use:
        return state
    pool = hard_layouts.offer(
        state.extra[synthetic_examples.POOL],
        batch['label'],
        outputs['patch_loss'],
        batch['weight'],
        state.step,
        settings,
    )
    return state.replace(extra={**state.extra, synthetic_examples.POOL: pool})


def make_refit_loss(synthesis: Synthesis) -> Callable:
    """Returns the loss of real images and of synthetic features, Eqs. 6.1 to 6.3.

    Terms of synthetic features are called 'synthetic_main', 'synthetic_aux_layer3', ...
    """
    config = synthesis.config
    tap = synthesis.tap
    net, train = refit_net(synthesis)
    on_images = feature_synthesis.on_images(synthesis, net)
    real_terms = supervised.make_terms(config, synthesis.spec)
    synthetic_terms = supervised.make_terms(with_smoothing(config), synthesis.spec)

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        # Real images train encoder and decoder.
        own = (params[SEGMENTER], model_state[SEGMENTER])
        outputs, statistics = on_images.apply(
            *own, batch['image'], train=train, dropout=keys['dropout']
        )
        terms = real_terms(outputs, batch)
        patch_loss = feature_synthesis.patch_losses(outputs['logits'], batch['label'])

        # Synthetic features enter at the split. Only real images are evaluated, so only their
        # statistics are kept.
        synthetic = synthetic_examples.entries_of(batch, SYNTHETIC)
        if synthetic:
            size = batch['image'].shape[1:3]
            outputs, _ = split.decode(
                net,
                tap,
                *own,
                synthetic['features'],
                size,
                train=train,
                keys={'dropout': rng.named(keys['dropout'], SYNTHETIC)},
            )
            made = synthetic_examples.summed_terms(outputs, synthetic, synthetic_terms)
            for name, term in made.items():
                terms[f'{SYNTHETIC}_{name}'] = term
        return terms, {SEGMENTER: statistics}, {'patch_loss': patch_loss}

    return loss_fn


def refit_net(synthesis: Synthesis) -> tuple[nn.Module, bool]:
    """Returns S as the refit trains it, and whether it is applied in training mode.

    Frozen batch norms use their running statistics. A net without the field `frozen_norm` is then
    applied in evaluation mode, without drop-out.
    """
    net = synthesis.net
    if synthesis.config.refit.norm == 'batch':
        return net, True
    if not hasattr(net, 'frozen_norm'):
        return net, False
    return net.clone(frozen_norm=True), True


def with_smoothing(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config with the label smoothing of synthetic examples in `loss`."""
    changed = config.copy_and_resolve_references()
    changed.loss.label_smoothing = config.refit.label_smoothing
    return changed


def refit_weights(config: ml_collections.ConfigDict) -> Callable[[str], float]:
    """Returns the weight of each term of the loss by its name.

    'mixture' weighs the means of B real and n synthetic examples with B / (B + n) and n / (B + n).
    """
    number = synthetic_examples.num_synthetic(config)
    share = number / (config.train.batch_size + number)
    of_head = supervised.head_weight(config)

    def weight(name: str) -> float:
        head = name.removeprefix(f'{SYNTHETIC}_')
        if config.refit.weights == 'sum':
            return of_head(head)
        return of_head(head) * (1 - share if head == name else share)

    return weight


# --- checks ---------------------------------------------------------------------------------------


def check(config: ml_collections.ConfigDict, spec: DataSpec, layout_data: DataSpec) -> None:
    """Raises InputError for settings that contradict each other, and nets without a source."""
    check_sources(config)
    source = config.refit.source
    if config.refit.use != 'none' and source != 'none' and not refits_synthetic(config):
        raise InputError(
            'config.refit.share',
            got=f'{config.refit.share:g} with config.refit.source={source}',
            expected='a number above 0, because real images alone need no source',
            fix=f'--config.refit.share={SCHEMA["refit"]["share"].default}; or '
            '--config.refit.source=none --config.features.use=none --config.mining.use=False',
        )
    synthetic_examples.check_layouts(config, spec, layout_data)
    if config.loss.name == 'ohem' and config.refit.label_smoothing and refits_synthetic(config):
        raise InputError(
            'config.refit.label_smoothing',
            got=f'{config.refit.label_smoothing:g} with config.loss.name=ohem',
            expected='0, because the loss ohem has no label smoothing',
            fix='--config.refit.label_smoothing=0.0, or --config.loss.name=cross_entropy',
        )


def refits_synthetic(config: ml_collections.ConfigDict) -> bool:
    """Returns whether the run has a stage `refit` with synthetic examples."""
    return config.refit.use != 'none' and synthetic_examples.num_synthetic(config) > 0


def check_sources(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for nets that are needed and come from nowhere."""
    has_path = bool(config.init_from.path)
    refits = config.refit.use != 'none'
    source = config.refit.source

    # The segmentation net and the generator.
    if config.segmentation.use == 'load' and not has_path:
        sources.check_source(
            config,
            SEGMENTER,
            ('runs/segmenter', 'the run or the published weights of the segmentation net'),
            f'{ALL_NETS}; or --config.segmentation.use=train trains it',
        )
    if config.features.use == 'load' and config.segmentation.use == 'train':
        raise InputError(
            'config.features.use',
            got="'load', with a segmentation net that is trained in this run",
            expected='a generator that was trained on the features of the same net',
            fix='--config.segmentation.use=load, or --config.features.use=train',
        )
    if config.features.use == 'load' and not has_path:
        sources.check_source(
            config,
            bicycle.GENERATOR,
            ('runs/features', 'the run of a generator of features'),
            f'{ALL_NETS}; or --config.features.use=train trains it',
        )
    if config.features.use != 'none':
        check_one_source(config)
    # The source of synthetic examples.
    if refits and source == 'generator' and config.features.use == 'none':
        raise InputError(
            'config.refit.source',
            got="'generator', with config.features.use=none",
            expected='a generator: the stage `features` trains it, or an earlier run has it',
            fix='--config.features.use=train, or --config.refit.source=none',
        )
    if source == 'painter' and config.features.use != 'none':
        raise InputError(
            'config.features.use',
            got=f'{config.features.use!r} with config.refit.source=painter',
            expected="'none', because S is split at the image for a painter, not at features.tap",
            fix='--config.features.use=none, or --config.refit.source=generator',
        )
    if refits and source == 'painter' and not has_path:
        sources.check_source(
            config,
            translation.NET,
            ('runs/painter', 'the run of a painter (configs/label_to_image.py)'),
            '--config.refit.source=none refits without synthetic images',
        )


def check_one_source(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a generator and statistics of features that come from two runs.

    Two taps may have features of one shape. Then only the source tells their generators apart.
    """
    scale = feature_synthesis.scale_name(config.features.tap)
    of_generator = sources.source_of(config, bicycle.GENERATOR)
    of_scale = sources.source_of(config, scale)
    if of_generator == of_scale:
        return
    others = tuple(
        tuple(row) for row in config.init_from.sources if not row[0].startswith(bicycle.GENERATOR)
    )
    rows = typed_text((*others, (bicycle.GENERATOR, of_scale)))
    raise InputError(
        'config.init_from.sources',
        got=f'the generator of {of_generator or "no run"}, and the statistics {scale!r} of its '
        f'features of {of_scale or "no run"}',
        expected='both of one run',
        fix=f'--config.init_from.sources={rows}',
    )
