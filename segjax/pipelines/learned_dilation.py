"""Dilated convolutions that learn their dilation: a fractional factor for each input channel.

He, thesis chapter 4; He, Keuper, Schiele, Fritz: Learning Dilation Factors for Semantic
Segmentation of Street Scenes (GCPR 2017). segjax/ops/dilated.py has the equations and the
convolution itself.

Method, top to bottom. Every dilated convolution of a net has a name, that of its parameters
('vgg/conv5_1', 'fc6', 'resnet/layer3_0/conv2', 'aspp/c0'). The layers that `dilation.learn` names
get a factor for each input channel. A factor starts as the dilation of the published net, or
uniform in its range. The other layers keep their dilation, or get the one in `dilation.replace`.

Training differs from the supervised baseline (segjax/tasks/supervised.py) in three things:

1. The factors have a learning rate of their own.
2. Gradients that would lead a factor further out of its range are dropped, in each image
   (`dilation.gate`).
3. A first stage may train on other labels, and the second begins from its parameters (`pretrain`,
   the paper's coarse labels).

Additions to the paper:

* Every evaluation also scores the net with its factors rounded to whole numbers. That net runs as
  fixed dilated convolutions (models/dilated.py, `freeze`).
* The state keeps the factors of the start and of each quarter of the training, so that histograms
  (Fig. 4.3) show how they moved.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import optim
from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError
from segjax.models import dilated
from segjax.models.layers import Conv
from segjax.ops import dilated as ops
from segjax.protocol import (
    Array,
    Batch,
    Keys,
    Mean,
    Metrics,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, is_number, is_row, one_of, patterns, typed_text
from segjax.spec import DataSpec
from segjax.tasks import segmentation, supervised
from segjax.tasks.evaluation import Evaluation

RANGES = {2: (1, 4), 4: (1, 8), 6: (1, 11), 12: (7, 17), 18: (13, 23), 24: (19, 29)}
"""Section 4.2.3: dilation of the published net -> range of the factors. LargeFOV's fc6: (4, 20)."""
QUARTERS = {'start': 0.0, '25 %': 0.25, '50 %': 0.5, '75 %': 0.75}
"""Shares of the training at which the factors are kept."""
PRETRAINING = 'pretraining'
"""Name of the first stage."""


def _dilations(value) -> str | None:
    """Returns the expected form unless `value` is ((pattern, dilation), ...)."""

    def is_pair(entry) -> bool:
        if not is_row(entry, 2):
            return False
        pattern, dilation = entry
        return isinstance(pattern, str) and is_number(dilation) and dilation > 0

    if not all(map(is_pair, value)):
        return "pairs of (pattern, dilation above 0), as (('vgg/conv5_.*', 3.0),)"
    return patterns(pattern for pattern, _ in value)


def _ranges(value) -> str | None:
    """Returns the expected form unless `value` is ((pattern, smallest, largest), ...)."""

    def is_range(entry) -> bool:
        if not is_row(entry, 3):
            return False
        pattern, smallest, largest = entry
        return isinstance(pattern, str) and is_number(smallest) and is_number(largest)

    if not all(map(is_range, value)):
        return "(pattern, smallest, largest) each, as (('fc6', 4.0, 20.0),)"
    return patterns(pattern for pattern, *_ in value)


SCHEMA = {
    'model': models.net_choice(
        'segmentation', 'deeplab_largefov', 'Segmentation net with dilated convolutions.'
    ),
    'preprocess': segmentation.PREPROCESS,
    'loss': {
        **supervised.LOSS,
        'label_stride': Field(
            1,
            'Compute the loss on every n-th pixel along both axes. '
            '8 matches the output stride of the nets.',
            at_least(1),
        ),
    },
    'dilation': {
        'learn': Field(
            ('.*',),
            'Regular expressions for the dilated layers that learn their factors. '
            '() is the fixed net.',
            patterns,
        ),
        'replace': Field(
            (),
            'Dilations that replace those of the net, as ((pattern, dilation), ...). '
            'Fractions are allowed. Learned layers start from them.',
            _dilations,
        ),
        'ranges': Field(
            (),
            'Ranges of the factors, as ((pattern, smallest, largest), ...). '
            'The first match counts. Layers without a match have the range of the paper.',
            _ranges,
        ),
        'start': Field(
            'constant',
            'Initial factors of a layer: its dilation in all channels, or uniform in its range.',
            one_of('constant', 'uniform'),
        ),
        'rate': Field(
            200_000.0,
            'Learning-rate factor of the dilation factors. 0 keeps the initial factors.',
            at_least(0),
        ),
        'gate': Field(
            'image',
            'Where gradients that lead a factor further out of its range are dropped: '
            "in each image ('image', the authors' rule), "
            "or in the sum over the batch ('batch', ours).",
            one_of(*dilated.GATES),
            before='batch',
        ),
        'forms': Field(
            'fast',
            'Implementation of the dilated convolutions (ops/dilated.py).',
            one_of(*ops.FORMS),
        ),
        'bins': Field(24, 'Number of bars of a histogram.', at_least(1)),
    },
    'pretrain': {
        'split': Field(
            '', 'Split of a first stage of training, such as coarse labels. Empty: no such stage.'
        ),
        'num_steps': Field(0, 'Optimiser steps of the pretraining stage.', at_least(0)),
    },
    'optim': OPTIM,
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the training, after a training on `pretrain.split` if that is set."""
    dilations = make_dilations(config, segmentation.num_outputs(config, spec))
    stage = make_stage(config, spec, dilations, 'segmentation')
    first_config = pretraining_config(config, spec)
    if first_config is None:
        return (stage,)
    return make_stage(first_config, spec, dilations, PRETRAINING), stage


def pretraining_config(
    config: ml_collections.ConfigDict, spec: DataSpec
) -> ml_collections.ConfigDict | None:
    """Returns the config of the first stage. None means that there is none.

    Raises:
      InputError: a split without steps or steps without a split, or a split that does not exist.
    """
    split = config.pretrain.split
    num_steps = config.pretrain.num_steps
    if not split and not num_steps:
        return None
    if not split or not num_steps:
        got = f'split {split!r} and num_steps {num_steps}'
        raise InputError('config.pretrain', got=got, expected='both, or neither')
    spec.split(split)
    first = config.copy_and_resolve_references()
    first.train.num_steps = num_steps
    first.data.train_split = split
    first.data.labelled_fraction = 1.0
    return first


# --- which layers learn ---------------------------------------------------------------------------


class Layer(NamedTuple):
    """How one dilated convolution is built.

    dilation        of all channels, or 'uniform' in `dilation_range`
    dilation_range  None: the dilation is fixed and whole
    learned         whether the factors of its channels are trained
    """

    dilation: float | str
    dilation_range: tuple[float, float] | None
    learned: bool


class DilatedConv(nn.Module):
    """Stands in for a dilated convolution, as `Conv` or as `LearnedDilationConv`.

    Its parameters have the names of that layer.

    layers    {'vgg/conv5_1': Layer}; None: all layers keep their published dilation
    features, kernel_size, dilation, use_bias, kernel_init, bias_init, dtype  as in layers.Conv
    forms, gate  as in LearnedDilationConv
    """

    features: int
    kernel_size: tuple[int, int]
    dilation: int
    layers: Mapping[str, Layer] | None = None
    use_bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: Any = jnp.float32
    forms: str = 'fast'
    gate: str = 'image'

    def setup(self):
        if self.layers is None:
            layer = Layer(self.dilation, None, learned=False)
        else:
            layer = self.layers['/'.join(self.path)]
        shared = dict(
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
        )
        if layer.dilation_range is None:
            dilation = int(layer.dilation)
            self.conv = Conv(self.features, self.kernel_size, dilation=dilation, **shared)
        else:
            self.conv = dilated.LearnedDilationConv(
                self.features,
                self.kernel_size,
                layer.dilation,
                layer.dilation_range,
                forms=self.forms,
                gate=self.gate,
                **shared,
            )
        # The parameters lie where those of the published layer would.
        nn.share_scope(self, self.conv)

    def __call__(self, x):
        return self.conv(x)


class Dilations(NamedTuple):
    """The net, and its factors by the names of their parameters.

    net     on uint8 images
    ranges  of the learned factors
    held    factors that are fractional and fixed
    norms   modules with running statistics
    """

    net: segmentation.Net
    ranges: Mapping[str, tuple[float, float]]
    held: tuple[str, ...]
    norms: tuple[str, ...] = ()


def make_dilations(config: ml_collections.ConfigDict, num_outputs: int) -> Dilations:
    """Builds the net of the config and chooses its dilated convolutions. Only shapes are computed.

    There are two passes. `survey` lists the dilated layers of the published net. Then the net is
    built once, with the layers that `choose_layer` returns.

    Raises:
      InputError: a net without dilated convolutions, a pattern that matches none of them, or an
        impossible range or start.
    """
    _check_net(config.model.name)
    published, norms = survey(config, num_outputs)
    _check_patterns(config.dilation, published)
    layers = {
        name: choose_layer(config.dilation, name, dilation) for name, dilation in published.items()
    }
    net = segmentation.make_image_net(config, num_outputs, _with_layers(config, layers))

    ranges = {}
    held = []
    for name, layer in layers.items():
        if layer.learned:
            ranges[f'{name}/dilation'] = layer.dilation_range
        elif layer.dilation_range is not None:
            held.append(f'{name}/dilation')
    return Dilations(net, ranges, tuple(held), norms)


def _with_layers(
    config: ml_collections.ConfigDict, layers: Mapping[str, Layer]
) -> ml_collections.ConfigDict:
    """Returns config.model with the dilated convolutions of the net exchanged."""
    settings = config.dilation
    hooks: dict[str, Any] = {
        'dilated_conv': functools.partial(
            DilatedConv, layers=layers, forms=settings.forms, gate=settings.gate
        )
    }
    if 'logit_stride' in _fields(config.model.name):
        hooks['logit_stride'] = config.loss.label_stride
    return ml_collections.ConfigDict({**config.model, **hooks})


def survey(
    config: ml_collections.ConfigDict, num_outputs: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns ({dilated layer: published dilation}, modules with running statistics) of the net."""
    dilations = {}

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, DilatedConv) and context.method_name == '__call__':
            dilations['/'.join(module.path)] = module.dilation
        return call(*args, **kwargs)

    # Traces the net on a small image, without arithmetic. `note` sees every layer.
    net = models.build_from(
        'segmentation',
        config.model,
        num_classes=num_outputs,
        dtype=config.train.dtype,
        axis_name=None,
        dilated_conv=DilatedConv,
    )
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    with nn.intercept_methods(note):
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))
    # A module has several statistics. dict.fromkeys keeps the first of each, in order.
    modules = [name.rpartition('/')[0] for name in named_leaves(variables.get('batch_stats', {}))]
    return dilations, tuple(dict.fromkeys(modules))


def choose_layer(settings: ml_collections.ConfigDict, name: str, dilation: int) -> Layer:
    """Returns how config.dilation builds the layer `name`, published with this dilation.

    Raises:
      InputError: no range for a learned layer, an impossible range, or a start outside it.
    """
    replacements = [value for pattern, value in settings.replace if re.fullmatch(pattern, name)]
    value = float(replacements[0] if replacements else dilation)
    if not any(re.fullmatch(pattern, name) for pattern in settings.learn):
        # A range of one point is a fixed fractional factor.
        return Layer(value, None if value.is_integer() else (value, value), learned=False)
    low, high = _factor_range(settings, name, dilation)
    if settings.start == 'uniform':
        return Layer('uniform', (low, high), learned=True)
    if not low <= value <= high:
        raise InputError(
            f'config.dilation.replace: layer {name!r}',
            got=f'{value:g}',
            expected=f'a start in its range ({low}, {high})',
        )
    return Layer(value, (low, high), learned=True)


def _factor_range(
    settings: ml_collections.ConfigDict, name: str, dilation: int
) -> tuple[float, float]:
    """Returns the range of a learned layer.

    It is the first of `dilation.ranges` whose pattern matches, or the paper's.
    """
    where = f'config.dilation.ranges: layer {name!r}'
    own = [(low, high) for pattern, low, high in settings.ranges if re.fullmatch(pattern, name)]
    if not own and dilation not in RANGES:
        ranges = (*map(tuple, settings.ranges), (name, 1.0, 2.0 * dilation))
        raise InputError(
            where,
            got='no range',
            expected=f'a range for its dilation of {dilation}: the paper has none',
            fix=f'--config.dilation.ranges={typed_text(ranges)}',
        )
    low, high = own[0] if own else RANGES[dilation]
    if not (0 <= low <= high and high > 0) or math.ceil(low) > math.floor(high):
        expected = '0 <= smallest <= largest with a whole number between them'
        raise InputError(where, got=f'({low}, {high})', expected=expected)
    return low, high


def _check_net(name: str) -> None:
    """Raises InputError for a net without dilated convolutions that can be exchanged."""
    able = [net for net in models.NETS['segmentation'] if 'dilated_conv' in _fields(net)]
    if name not in able:
        expected = 'a net whose dilated convolutions can be exchanged: ' + ', '.join(able)
        raise InputError('config.model.name', got=repr(name), expected=expected)


def _check_patterns(settings: ml_collections.ConfigDict, layers: Collection[str]) -> None:
    """Raises InputError for a pattern of config.dilation that matches no layer."""
    for key in ('learn', 'replace', 'ranges'):
        for entry in settings[key]:
            pattern = entry if isinstance(entry, str) else entry[0]
            if not any(re.fullmatch(pattern, name) for name in layers):
                raise InputError(
                    f'config.dilation.{key}',
                    got=f'the pattern {pattern!r}, which matches no dilated layer',
                    expected='a regular expression for one of ' + ', '.join(layers),
                )


def _fields(name: str) -> set[str]:
    """Returns the names of the fields of a segmentation net."""
    return {field.name for field in dataclasses.fields(models.NETS['segmentation'][name])}


# --- training -------------------------------------------------------------------------------------


def make_stage(
    config: ml_collections.ConfigDict, spec: DataSpec, dilations: Dilations, name: str
) -> Stage:
    """Builds one training stage. It starts from the stage 'pretraining' if that exists."""
    config = with_rates(config, dilations)
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=make_init(config, dilations),
        train_step=make_train_step(config, spec, dilations),
        **make_evaluation(config, spec, dilations)._asdict(),
    )


def with_rates(
    config: ml_collections.ConfigDict, dilations: Dilations
) -> ml_collections.ConfigDict:
    """Returns the config with the rates of factors and of frozen batch norms in optim.factors."""
    rates = {
        **dict.fromkeys(dilations.ranges, config.dilation.rate),
        **dict.fromkeys(dilations.held, 0.0),
    }
    added = [(re.escape(f'segmenter/{name}'), rate) for name, rate in rates.items()]
    if dilations.norms and config.model.get('frozen_norm', False):
        modules = '|'.join(map(re.escape, dilations.norms))
        added.append((f'segmenter/(?:{modules})/(?:scale|bias)', 0.0))
    config = config.copy_and_resolve_references()
    config.optim.factors = (*config.optim.factors, *added)
    return config


def make_init(config: ml_collections.ConfigDict, dilations: Dilations) -> Callable:
    """Returns `Stage.init`: a new or a pretrained net, a new optimiser, no factors kept yet."""
    fresh = supervised.make_init(config, dilations.net)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        state = fresh(key, batch, earlier)
        if PRETRAINING in earlier:
            trained = earlier[PRETRAINING]
            average = optim.start_average(trained.params, trained.model_state, config.train.ema)
            state = state.replace(
                params=trained.params, model_state=trained.model_state, extra=average
            )
        kept = {}
        for name, factors in factors_of(state.params, dilations).items():
            kept[name] = jnp.zeros((len(QUARTERS), *factors.shape), factors.dtype)
        return state.replace(extra={**state.extra, 'factors': kept})

    return init


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: segmentation.Net) -> Callable:
    """Returns the supervised loss on every `loss.label_stride`-th pixel.

    Nets with a `logit_stride` return logits of these pixels alone. Logits of all pixels are thinned
    here.
    """
    stride = config.loss.label_stride

    def thinned(x: Array) -> Array:
        return x[:, ::stride, ::stride]

    def apply(params, model_state, image, **kwargs):
        outputs, model_state = net.apply(params, model_state, image, **kwargs)

        def thinned_if_whole(x: Array) -> Array:
            return thinned(x) if x.shape[1:3] == image.shape[1:3] else x

        return jax.tree.map(thinned_if_whole, outputs), model_state

    supervised_loss = supervised.make_loss(config, spec, net._replace(apply=apply))

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        batch = {**batch, 'label': thinned(batch['label'])}
        return supervised_loss(params, model_state, batch, keys)

    return loss_fn


def make_train_step(
    config: ml_collections.ConfigDict, spec: DataSpec, dilations: Dilations
) -> Callable:
    """Returns `Stage.train_step`: the supervised step, with a gate on the factors' gradients."""

    def gate(grads: PyTree, params: PyTree) -> PyTree:
        # The gate of each image has acted in the layers already.
        if config.dilation.gate == 'image':
            return grads
        gated = dilated.gate_gradients(grads['segmenter'], params['segmenter'], dilations.ranges)
        return {'segmenter': gated}

    loss_fn = make_loss(config, spec, dilations.net)
    supervised_step = supervised.make_supervised_step(config, loss_fn, change_grads=gate)

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        before = factors_of(state.params, dilations)
        state = keep_factors(state, before, config.train.num_steps)
        state, metrics = supervised_step(state, batch, keys)
        after = factors_of(state.params, dilations)
        if before:
            moves = [jnp.abs(after[name] - before[name]) for name in before]
            moved = jnp.concatenate(moves)
            metrics['factor_move'] = Mean(moved.sum(), jnp.float32(moved.size))
        return state, metrics

    return train_step


def factors_of(params: PyTree, dilations: Dilations) -> dict[str, Array]:
    """Returns the learned factors by name, as the optimiser leaves them: not clipped."""
    leaves = named_leaves(params['segmenter'])
    return {name: leaves[name] for name in dilations.ranges}


def keep_factors(state: TrainState, factors: Mapping[str, Array], num_steps: int) -> TrainState:
    """Stores the factors in the state if a quarter of the training begins at this step."""
    begins = jnp.array(quarter_steps(num_steps)) == state.step
    kept = {}
    for name, values in factors.items():
        kept[name] = jnp.where(begins[:, None], values, state.extra['factors'][name])
    return state.replace(extra={**state.extra, 'factors': kept})


def quarter_steps(num_steps: int) -> list[int]:
    """Returns the steps at which the quarters of a training begin."""
    return [int(share * num_steps) for share in QUARTERS.values()]


# --- evaluation -----------------------------------------------------------------------------------


class Judge(NamedTuple):
    """The inputs that the functions of evaluation share.

    config      of the run
    dilations   the net and its learned factors
    as_learned  evaluation of the net with its fractional factors
    as_whole    evaluation of the net with rounded factors
    """

    config: ml_collections.ConfigDict
    dilations: Dilations
    as_learned: Evaluation
    as_whole: Evaluation


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, dilations: Dilations
) -> Evaluation:
    """Extends the evaluation of segmentation by the learned factors, if there are any.

    It adds the factors themselves, and the scores of the net with whole factors.
    """
    net = dilations.net
    as_learned = segmentation.make_evaluation(config, spec, segmentation.make_infer(config, net))
    if not dilations.ranges:
        return as_learned
    whole_net = with_whole_factors(net, dilations.ranges)
    infer_whole = segmentation.make_infer(config, whole_net)
    as_whole = segmentation.make_evaluation(config, spec, infer_whole)
    judge = Judge(config, dilations, as_learned, as_whole)
    return as_learned._replace(
        eval_step=functools.partial(eval_step, judge),
        finalize=functools.partial(finalize, judge),
    )


def with_whole_factors(net: segmentation.Net, ranges: dilated.Ranges) -> segmentation.Net:
    """Returns the net with its factors rounded before it is applied."""

    def apply(params, model_state, image, **kwargs):
        return net.apply(whole_factors(params, ranges), model_state, image, **kwargs)

    return net._replace(apply=apply)


def whole_factors(params: PyTree, ranges: dilated.Ranges) -> PyTree:
    """Rounds the dilation factors like `dilated.freeze`, inside a jitted function, to floats."""

    def rounded(path, param):
        name = path_name(path)
        if name not in ranges:
            return param
        return ops.nearest_whole(param, ranges[name])

    return jax.tree_util.tree_map_with_path(rounded, params)


def eval_step(judge: Judge, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Returns metrics of segmentation with fractional and whole factors, and the factors."""
    metrics = dict(judge.as_learned.eval_step(state, batch, keys))
    metrics['confusion_whole'] = judge.as_whole.eval_step(state, batch, keys)['confusion']

    # These values are equal on all devices and in all batches, so their mean is the value itself.
    once = jnp.float32(1)
    metrics['step'] = Mean(state.step.astype(jnp.float32), once)
    params, _ = optim.averaged(state, judge.config.train.ema)
    for name, factors in factors_of(params, judge.dilations).items():
        low, high = judge.dilations.ranges[name]
        kept = state.extra['factors'][name]
        metrics[f'factors/{name}'] = Mean(jnp.clip(factors, low, high), once)
        metrics[f'kept/{name}'] = Mean(jnp.clip(kept, low, high), once)
    return metrics


def finalize(judge: Judge, metrics: Mapping[str, Mean]) -> Scores:
    """Returns scores of segmentation, the effect of rounding, and statistics of the factors."""
    scores = judge.as_learned.finalize(metrics)
    rounded = {**metrics, 'confusion': metrics['confusion_whole']}
    whole = judge.as_whole.finalize(rounded)['mIoU']
    learned = scores.pop('mIoU')
    change = None if whole is None or learned is None else whole - learned
    table, histograms = factor_tables(judge, metrics)
    return {
        'mIoU': learned,
        'mIoU_whole_factors': whole,
        'mIoU_change_by_rounding': change,
        **scores,
        'dilation': table,
        'factor_histograms': histograms,
    }


def factor_tables(
    judge: Judge, metrics: Mapping[str, Mean]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, Any]]]:
    """Returns {layer: factor_scores} and {layer: histogram}.

    Histograms leave out quarters of the training that have not begun.
    """
    step = metrics['step'].value()
    begun = [step > start for start in quarter_steps(judge.config.train.num_steps)]
    table = {}
    histograms = {}
    for name, span in judge.dilations.ranges.items():
        layer = name.removesuffix('/dilation')
        factors = metrics[f'factors/{name}'].value()
        kept = metrics[f'kept/{name}'].value()
        table[layer] = factor_scores(factors, span)
        sets = {label: kept[i] for i, label in enumerate(QUARTERS) if begun[i]}
        histograms[layer] = histogram({**sets, 'now': factors}, span, judge.config.dilation.bins)
    return table, histograms


def factor_scores(factors: np.ndarray, span: tuple[float, float]) -> dict[str, float]:
    """Returns mean, standard deviation, smallest and largest of a layer's factors [I], in pixels.

    'rounding_error' is their mean distance from whole numbers in the range.
    """
    whole = ops.nearest_whole(factors, span)
    numbers = {
        'mean': factors.mean(),
        'std': factors.std(),
        'min': factors.min(),
        'max': factors.max(),
        'rounding_error': np.abs(whole - factors).mean(),
    }
    return {name: float(value) for name, value in numbers.items()}


def histogram(
    sets: Mapping[str, Sequence[float]], span: tuple[float, float], bins: int
) -> dict[str, Any]:
    """Counts several sets of factors in equal bins of their range (Fig. 4.3).

    Args:
      sets: {label: factors}.
      span: smallest and largest factor.
      bins: number of bins.

    Returns:
      {'edges': [bins + 1], 'counts': {label: [bins]}}.
    """
    edges = np.linspace(*span, bins + 1)
    counts = {label: np.histogram(values, edges)[0].tolist() for label, values in sets.items()}
    return {'edges': edges.tolist(), 'counts': counts}
