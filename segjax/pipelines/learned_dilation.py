"""Dilated convolutions that learn their dilation: one factor per input channel, fractional, trained with the weights.

He, thesis chapter 4; He, Keuper, Schiele, Fritz: Learning Dilation Factors for Semantic Segmentation of Street Scenes
(GCPR 2017). Equations and the convolution itself: segjax/ops/dilated.py.

Method, top to bottom. Every dilated convolution of a net has a name, that of its parameters ('vgg/conv5_1', 'fc6',
'resnet/layer3_0/conv2', 'aspp/c0'). Those that `dilation.learn` names get a factor for each input channel, which starts
as the dilation of the published net, or uniform in its range; the others stay as they are, or as `dilation.replace`
has them. Training differs from the supervised baseline (segjax/tasks/supervised.py) in three things. The
factors have a rate of their own. Gradients that would lead a factor further out of its range are
dropped, in each image (`dilation.gate`). A first stage may train on other labels, and the second
begins from its parameters (`pretrain`, the paper's coarse labels).

Beside the paper: every evaluation also scores the net with its factors rounded to whole numbers, which runs as fixed
dilated convolutions (models/dilated.py, `freeze`); the state keeps the factors of the start and of each quarter of the
training, so that histograms (Fig. 4.3) show how they moved.
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
from segjax.ops import images
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

RANGES = {2: (1, 4), 4: (1, 8), 6: (1, 11), 12: (7, 17), 18: (13, 23), 24: (19, 29)}
"""Section 4.2.3: dilation of the published net -> range of the factors. LargeFOV's fc6 has (4, 20)."""
QUARTERS = {'start': 0.0, '25 %': 0.25, '50 %': 0.5, '75 %': 0.75}
"""Shares of the training at which the factors are kept."""
PRETRAINING = 'pretraining'


def _dilations(value) -> str | None:
    if not all(
        is_row(v, 2) and isinstance(v[0], str) and is_number(v[1]) and v[1] > 0 for v in value
    ):
        return "pairs of (pattern, dilation above 0), as (('vgg/conv5_.*', 3.0),)"
    return patterns(pattern for pattern, _ in value)


def _ranges(value) -> str | None:
    if not all(
        is_row(v, 3) and isinstance(v[0], str) and all(map(is_number, v[1:])) for v in value
    ):
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
            'Regular expressions for the dilated layers that learn their factors. () is the fixed net.',
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
            'Ranges of the factors, as ((pattern, smallest, largest), ...). The first match counts. '
            'Layers without a match have the range of the paper.',
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
            "in each image ('image', the authors' rule), or in the sum over the batch ('batch', ours).",
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
    """The training, after that on `pretrain.split` where there is one."""
    plan = make_dilations(config, segmentation.num_outputs(config, spec))
    stage = make_stage(config, spec, plan, 'segmentation')
    first = pretraining_config(config, spec)
    return (make_stage(first, spec, plan, PRETRAINING), stage) if first is not None else (stage,)


def pretraining_config(
    config: ml_collections.ConfigDict, spec: DataSpec
) -> ml_collections.ConfigDict | None:
    """The config of the first stage; None without one."""
    split, num_steps = config.pretrain.split, config.pretrain.num_steps
    if not split and not num_steps:
        return None
    if not split or not num_steps:
        got = f'split {split!r} and num_steps {num_steps}'
        raise InputError('config.pretrain', got=got, expected='both, or neither')
    spec.split(split)
    first = config.copy_and_resolve_references()
    first.train.num_steps, first.data.train_split, first.data.labelled_fraction = (
        num_steps,
        split,
        1.0,
    )
    return first


# --- which layers learn -----------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """Describes how one dilated convolution is built.

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
        layer = Layer(self.dilation, None, learned=False)
        if self.layers is not None:
            layer = self.layers['/'.join(self.path)]
        shared = {
            key: getattr(self, key) for key in ('use_bias', 'kernel_init', 'bias_init', 'dtype')
        }
        if layer.dilation_range is None:
            self.conv = Conv(
                self.features, self.kernel_size, dilation=int(layer.dilation), **shared
            )
        else:
            kind = functools.partial(
                dilated.LearnedDilationConv, forms=self.forms, gate=self.gate, **shared
            )
            self.conv = kind(self.features, self.kernel_size, layer.dilation, layer.dilation_range)
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
    """Builds the net of the config and chooses its dilated convolutions; only shapes are computed.

    Raises:
      InputError: a net without dilated convolutions, a pattern that matches none of them, a range or a start that is
        impossible.
    """
    able = [
        name for name, net in models.NETS['segmentation'].items() if 'dilated_conv' in _fields(net)
    ]
    if config.model.name not in able:
        expected = 'a net whose dilated convolutions can be exchanged: ' + ', '.join(able)
        raise InputError('config.model.name', got=repr(config.model.name), expected=expected)
    published, norms = survey(config, num_outputs)
    _check_patterns(config.dilation, published)
    layers = {
        name: choose_layer(config.dilation, name, dilation) for name, dilation in published.items()
    }

    def prepare(image):
        return images.normalize(image, config.preprocess)

    chosen = dict(forms=config.dilation.forms, gate=config.dilation.gate)
    hook = functools.partial(DilatedConv, layers=layers, **chosen)
    hooks = {'dilated_conv': hook}
    if 'logit_stride' in _fields(models.NETS['segmentation'][config.model.name]):
        hooks['logit_stride'] = config.loss.label_stride
    model = ml_collections.ConfigDict({**config.model, **hooks})
    net = segmentation.make_net(model, num_outputs, config.train.dtype, prepare)
    fractional = {name: layer for name, layer in layers.items() if layer.dilation_range is not None}
    ranges = {
        f'{name}/dilation': layer.dilation_range
        for name, layer in fractional.items()
        if layer.learned
    }
    held = tuple(f'{name}/dilation' for name, layer in fractional.items() if not layer.learned)
    return Dilations(net, ranges, held, norms)


def survey(
    config: ml_collections.ConfigDict,
    num_outputs: int,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns ({dilated layer: published dilation}, modules with running statistics) of the net."""
    found = {}

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, DilatedConv) and context.method_name == '__call__':
            found['/'.join(module.path)] = module.dilation
        return call(*args, **kwargs)

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
    statistics = named_leaves(variables.get('batch_stats', {}))
    return found, tuple(dict.fromkeys(name.rpartition('/')[0] for name in statistics))


def choose_layer(settings: ml_collections.ConfigDict, name: str, dilation: int) -> Layer:
    """Returns what config.dilation makes of the layer `name`, published with this dilation."""
    value = float(
        next((v for pattern, v in settings.replace if re.fullmatch(pattern, name)), dilation)
    )
    if not any(re.fullmatch(pattern, name) for pattern in settings.learn):
        # A range of one point is a fixed fractional factor.
        return Layer(value, None if value.is_integer() else (value, value), learned=False)
    where = f'config.dilation.ranges: layer {name!r}'
    given = [(lo, hi) for pattern, lo, hi in settings.ranges if re.fullmatch(pattern, name)]
    if not given and dilation not in RANGES:
        expected = f'a range for its dilation of {dilation}: the paper has none'
        ranges = (*map(tuple, settings.ranges), (name, 1.0, 2.0 * dilation))
        fix = f'--config.dilation.ranges={typed_text(ranges)}'
        raise InputError(where, got='no range', expected=expected, fix=fix)
    lo, hi = given[0] if given else RANGES[dilation]
    if not (0 <= lo <= hi and hi > 0) or math.ceil(lo) > math.floor(hi):
        expected = '0 <= smallest <= largest with a whole number between them'
        raise InputError(where, got=f'({lo}, {hi})', expected=expected)
    if settings.start == 'constant' and not lo <= value <= hi:
        expected = f'a start in its range ({lo}, {hi})'
        raise InputError(
            f'config.dilation.replace: layer {name!r}', got=f'{value:g}', expected=expected
        )
    return Layer('uniform' if settings.start == 'uniform' else value, (lo, hi), learned=True)


def _check_patterns(settings: ml_collections.ConfigDict, layers: Collection[str]) -> None:
    for key in ('learn', 'replace', 'ranges'):
        for entry in settings[key]:
            pattern = entry if isinstance(entry, str) else entry[0]
            if not any(re.fullmatch(pattern, name) for name in layers):
                raise InputError(
                    f'config.dilation.{key}',
                    got=f'the pattern {pattern!r}, which matches no dilated layer',
                    expected='a regular expression for one of ' + ', '.join(layers),
                )


def _fields(net: type) -> set[str]:
    return {field.name for field in dataclasses.fields(net)}


# --- training ---------------------------------------------------------------------------------------------------------


def make_stage(
    config: ml_collections.ConfigDict, spec: DataSpec, plan: Dilations, name: str
) -> Stage:
    """One training of the net; it goes on from a stage 'pretraining' before it."""
    config = with_rates(config, plan)
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=make_init(config, plan),
        train_step=make_train_step(config, spec, plan),
        monitor=('mIoU', 'max'),
        **make_evaluation(config, spec, plan),
    )


def with_rates(config: ml_collections.ConfigDict, plan: Dilations) -> ml_collections.ConfigDict:
    """Returns the config with the rates of factors and of frozen batch norms in optim.factors."""
    rates = {**dict.fromkeys(plan.ranges, config.dilation.rate), **dict.fromkeys(plan.held, 0.0)}
    own = tuple((re.escape(f'segmenter/{name}'), rate) for name, rate in rates.items())
    if plan.norms and config.model.get('frozen_norm', False):
        modules = '|'.join(map(re.escape, plan.norms))
        own += ((f'segmenter/(?:{modules})/(?:scale|bias)', 0.0),)
    config = config.copy_and_resolve_references()
    config.optim.factors = (*config.optim.factors, *own)
    return config


def make_init(config: ml_collections.ConfigDict, plan: Dilations) -> Callable:
    """`Stage.init`: a fresh net or that of the pretraining; a fresh optimiser; no factors kept yet."""
    fresh = supervised.make_init(config, plan.net)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        state = fresh(key, batch, earlier)
        if PRETRAINING in earlier:
            taken = earlier[PRETRAINING]
            average = optim.start_average(taken.params, taken.model_state, config.train.ema)
            state = state.replace(params=taken.params, model_state=taken.model_state, extra=average)
        kept = {
            name: jnp.zeros((len(QUARTERS), *f.shape), f.dtype)
            for name, f in factors_of(state.params, plan).items()
        }
        return state.replace(extra={**state.extra, 'factors': kept})

    return init


def make_loss(config: ml_collections.ConfigDict, spec: DataSpec, net: segmentation.Net) -> Callable:
    """Returns the supervised loss on every `loss.label_stride`-th pixel.

    Nets with a `logit_stride` return logits of these pixels alone. Logits of all pixels are thinned
    here.
    """

    def thinned(x: Array) -> Array:
        return x[:, :: config.loss.label_stride, :: config.loss.label_stride]

    def apply(params, model_state, image, **kwargs):
        outputs, model_state = net.apply(params, model_state, image, **kwargs)
        whole = image.shape[1:3]
        return jax.tree.map(
            lambda x: thinned(x) if x.shape[1:3] == whole else x, outputs
        ), model_state

    loss_fn = supervised.make_loss(config, spec, net._replace(apply=apply))

    def loss(params, model_state, batch: Batch, keys: Keys):
        return loss_fn(params, model_state, {**batch, 'label': thinned(batch['label'])}, keys)

    return loss


def make_train_step(config: ml_collections.ConfigDict, spec: DataSpec, plan: Dilations) -> Callable:
    """Returns `Stage.train_step`: the supervised step, with a gate on the factors' gradients."""

    def gate(grads: PyTree, params: PyTree) -> PyTree:
        if config.dilation.gate == 'image':  # acted in the layers
            return grads
        return {
            'segmenter': dilated.gate_gradients(
                grads['segmenter'], params['segmenter'], plan.ranges
            )
        }

    supervised_step = supervised.make_supervised_step(
        config, make_loss(config, spec, plan.net), change_grads=gate
    )

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        before = factors_of(state.params, plan)
        state = keep_factors(state, before, config.train.num_steps)
        state, metrics = supervised_step(state, batch, keys)
        after = factors_of(state.params, plan)
        if before:
            moved = jnp.concatenate([jnp.abs(after[name] - before[name]) for name in before])
            metrics['factor_move'] = Mean(moved.sum(), jnp.float32(moved.size))
        return state, metrics

    return train_step


def factors_of(params: PyTree, plan: Dilations) -> dict[str, Array]:
    """The learned factors by name, as the optimiser has them."""
    leaves = named_leaves(params['segmenter'])
    return {name: leaves[name] for name in plan.ranges}


def keep_factors(state: TrainState, factors: Mapping[str, Array], num_steps: int) -> TrainState:
    """Writes down the factors where a quarter of the training begins."""
    begins = jnp.array(quarter_steps(num_steps)) == state.step
    kept = {
        name: jnp.where(begins[:, None], f, state.extra['factors'][name])
        for name, f in factors.items()
    }
    return state.replace(extra={**state.extra, 'factors': kept})


def quarter_steps(num_steps: int) -> list[int]:
    """The steps at which the quarters of a training begin."""
    return [int(share * num_steps) for share in QUARTERS.values()]


# --- evaluation -------------------------------------------------------------------------------------------------------


def whole_factors(params: PyTree, ranges: dilated.Ranges) -> PyTree:
    """Parameters of the net with the factors of `dilated.freeze`, but inside a compiled function, as floats."""

    def rounded(path, param):
        if path_name(path) not in ranges:
            return param
        lo, hi = ranges[path_name(path)]
        return jnp.clip(jnp.floor(param + 0.5), math.ceil(lo), math.floor(hi))

    return jax.tree_util.tree_map_with_path(rounded, params)


def make_evaluation(
    config: ml_collections.ConfigDict, spec: DataSpec, plan: Dilations
) -> dict[str, Callable]:
    """`Stage`'s eval_step, finalize, render and predict: those of a segmenter; with learned factors, also what they
    are and what the net is worth with whole ones."""

    def infer_with(change: Callable[[PyTree], PyTree]) -> Callable:
        def infer(state: TrainState, image):
            params, model_state = optim.averaged(state, config.train.ema)
            net_params, net_state = change(params['segmenter']), model_state['segmenter']
            outputs, _ = plan.net.apply(net_params, net_state, image, train=False)
            return outputs['logits'].astype(jnp.float32)

        return infer

    as_learned = segmentation.make_evaluation(config, spec, infer_with(lambda params: params))
    if not plan.ranges:
        return as_learned
    as_whole = segmentation.make_evaluation(
        config, spec, infer_with(lambda params: whole_factors(params, plan.ranges))
    )

    def eval_step(state: TrainState, batch: Batch, keys: Keys) -> Metrics:
        metrics = dict(as_learned['eval_step'](state, batch, keys))
        metrics['confusion_whole'] = as_whole['eval_step'](state, batch, keys)['confusion']
        # Equal on all devices and in all batches: their mean is themselves.
        one = jnp.float32(1)
        metrics['step'] = Mean(state.step.astype(jnp.float32), one)
        params, _ = optim.averaged(state, config.train.ema)
        for name, factors in factors_of(params, plan).items():
            lo, hi = plan.ranges[name]
            metrics[f'factors/{name}'] = Mean(jnp.clip(factors, lo, hi), one)
            metrics[f'kept/{name}'] = Mean(jnp.clip(state.extra['factors'][name], lo, hi), one)
        return metrics

    def finalize(metrics: Mapping[str, Mean]) -> Scores:
        scores = as_learned['finalize'](metrics)
        whole = as_whole['finalize']({**metrics, 'confusion': metrics['confusion_whole']})['mIoU']
        learned = scores.pop('mIoU')
        change = None if None in (whole, learned) else whole - learned
        begun = [metrics['step'].value() > step for step in quarter_steps(config.train.num_steps)]
        table, histograms = {}, {}
        for name, span in plan.ranges.items():
            layer = name.removesuffix('/dilation')
            factors, kept = (metrics[f'{kind}/{name}'].value() for kind in ('factors', 'kept'))
            table[layer] = factor_scores(factors, span)
            sets = {label: kept[i] for i, label in enumerate(QUARTERS) if begun[i]}
            histograms[layer] = histogram({**sets, 'now': factors}, span, config.dilation.bins)
        rounding = {'mIoU_whole_factors': whole, 'mIoU_change_by_rounding': change}
        return {
            'mIoU': learned,
            **rounding,
            **scores,
            'dilation': table,
            'factor_histograms': histograms,
        }

    return {**as_learned, 'eval_step': eval_step, 'finalize': finalize}


def factor_scores(factors: np.ndarray, span: tuple[float, float]) -> dict[str, float]:
    """Returns mean, standard deviation, smallest and largest of a layer's factors [I], in pixels.

    'rounding_error' is their mean distance from whole numbers in the range.
    """
    whole = np.clip(np.floor(factors + 0.5), math.ceil(span[0]), math.floor(span[1]))
    numbers = {
        'mean': factors.mean(),
        'std': factors.std(),
        'min': factors.min(),
        'max': factors.max(),
    }
    numbers['rounding_error'] = np.abs(whole - factors).mean()
    return {name: float(value) for name, value in numbers.items()}


def histogram(
    sets: Mapping[str, Sequence[float]], span: tuple[float, float], bins: int
) -> dict[str, Any]:
    """{'edges': [bins + 1], 'counts': {label: [bins]}} of factors over their range (Fig. 4.3)."""
    edges = np.linspace(*span, bins + 1)
    counts = {label: np.histogram(values, edges)[0].tolist() for label, values in sets.items()}
    return {'edges': edges.tolist(), 'counts': counts}
