"""Config keys: what a `Field` and a `Choice` say of a key, the checks of values, and the keys that all pipelines share.

A pipeline adds its own keys as `SCHEMA`. docs/config.md lists all keys.
"""

import difflib
import functools
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Field(NamedTuple):
    """Describes one config key.

    default  value that a config file starts with
    doc      meaning of the key
    check    value -> complaint or None
    before   what runs did that are older than the key; None: the default
    """

    default: Any
    doc: str
    check: Callable[[Any], str | None] = lambda value: None
    before: Any = None


class Choice(NamedTuple):
    """A section whose keys depend on its `name`: a net and its arguments, for instance.

    default  the name
    doc      what is chosen
    options  {name: {key: Field}}
    """

    default: str
    doc: str
    options: Mapping[str, Mapping[str, Field]]


def one_of(*names: str) -> Callable[[Any], str | None]:
    def check(value):
        if value in names:
            return None
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
        return (
            'one of '
            + ', '.join(map(repr, names))
            + (f' (did you mean {near[0]!r}?)' if near else '')
        )

    return check


def at_least(low: float) -> Callable[[Any], str | None]:
    return lambda value: None if value >= low else f'a number >= {low}'


def above(low: float) -> Callable[[Any], str | None]:
    return lambda value: None if value > low else f'a number > {low}'


def between(low: float, high: float) -> Callable[[Any], str | None]:
    return lambda value: None if low <= value <= high else f'a number in [{low}, {high}]'


def share_above_0(value) -> str | None:
    return None if 0 < value <= 1 else 'a number in (0, 1]'


def below_one(value) -> str | None:
    return None if 0 <= value < 1 else 'a number in [0, 1)'


LARGEST_INT = 2**31 - 1
"""Steps, sizes and seeds are int32 on the device."""

LARGEST_FLOAT = 3.4e38
"""A larger number is infinite in float32."""


def is_number(value: Any) -> bool:
    """Returns whether a value is an int or a float; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Returns whether a value is an int; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> str | None:
    """Returns what is expected of a value that no key can have; None for a value that some key can have."""
    if isinstance(value, tuple | list):
        return next((complaint for item in value if (complaint := plain(item))), None)
    if isinstance(value, bool | str):
        return None
    if isinstance(value, int):
        return None if abs(value) <= LARGEST_INT else f'whole numbers of at most {LARGEST_INT}'
    if isinstance(value, float):
        return None if abs(value) <= LARGEST_FLOAT else 'finite numbers'
    return 'numbers, strings, true, false, or tuples of them'


def size_2d(value) -> str | None:
    ok = len(value) == 2 and all(is_whole(v) and v > 0 for v in value)
    return None if ok else '(height, width), two whole numbers > 0'


def size_2d_or_empty(value) -> str | None:
    return None if len(value) == 0 else size_2d(value)


def interval(value) -> str | None:
    ok = len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1]
    return None if ok else '(low, high) with 0 < low <= high'


def scales(value) -> str | None:
    ok = len(value) > 0 and all(is_number(v) and v > 0 for v in value)
    return None if ok else 'at least one number > 0, as (1.0,) or (0.75, 1.0, 1.25)'


FIXED_LENGTH = ('blocks', 'dropout', 'gradient_factors')
"""Arguments of nets whose tuples have a number for each part of the net."""


def argument_of_net(key: str, default: Any) -> Callable[[Any], str | None]:
    """Returns the check of a net's argument: values like the default, and no number below 0."""
    if isinstance(default, tuple):
        is_text = key == 'taps' or any(isinstance(item, str) for item in default)
        is_int = bool(default) and all(map(is_whole, default))
        length = len(default) if key in FIXED_LENGTH else None
        return functools.partial(
            _tuple_of_net, default=default, is_text=is_text, is_int=is_int, length=length
        )
    if not is_number(default):
        return lambda value: None
    return above(0) if key == 'width' else at_least(0)


def _tuple_of_net(
    value: Any, default: tuple, is_text: bool, is_int: bool, length: int | None
) -> str | None:
    if is_text:
        return strings(value)
    fits = is_whole if is_int else is_number
    if not all(fits(item) and item >= 0 for item in value):
        return f'{"whole " * is_int}numbers >= 0, as {default}'
    return None if length in (None, len(value)) else f'{length} numbers, as {default}'


def strings(value) -> str | None:
    return None if all(isinstance(v, str) for v in value) else "strings, as ('a', 'b')"


def patterns(value) -> str | None:
    for pattern in value:
        if not isinstance(pattern, str):
            return f"regular expressions, as ('.*',); {pattern!r} is no string"
        try:
            re.compile(pattern)
        except re.error as error:
            return f'regular expressions; {pattern!r}: {error}'
    return None


def milestones(value) -> str | None:
    def fits(milestone) -> bool:
        if isinstance(milestone, float):
            return 0 < milestone < 1
        return isinstance(milestone, int) and not isinstance(milestone, bool) and milestone >= 1

    shares = [m for m in value if isinstance(m, float)]
    steps = [m for m in value if not isinstance(m, float)]
    ascending = all(fits(m) for m in value) and all(
        list(part) == sorted(set(part)) for part in (shares, steps)
    )
    return (
        None
        if ascending
        else 'steps >= 1 or shares of num_steps in (0, 1), ascending, as (0.75,) or (1000, 2000)'
    )


def is_row(value: Any, length: int) -> bool:
    """Returns whether an item of a tuple is itself a tuple of this length."""
    return isinstance(value, tuple | list) and len(value) == length


def pattern_factors(value) -> str | None:
    if not all(
        is_row(v, 2) and isinstance(v[0], str) and is_number(v[1]) and v[1] >= 0 for v in value
    ):
        return "pairs of (pattern, factor), as (('.*/decoder/.*', 10.0),)"
    return patterns(pattern for pattern, _ in value)


def bench_variants(value) -> str | None:
    pairs = [(v, v) if isinstance(v, str) else v for v in value]
    ok = all(
        isinstance(p, tuple) and len(p) == 2 and all(isinstance(t, str) and t for t in p)
        for p in pairs
    )
    if not ok or not all('=' in overrides for _, overrides in pairs):
        return "'section.key=value;section.key=value' strings or (name, such a string) pairs, as ('model.forms=naive',)"
    names = [name for name, _ in pairs]
    return (
        None
        if len({'base', *names}) == len(names) + 1
        else "a name of its own for each, not 'base'"
    )


DATA = {
    'name': Field('streets', 'data set, a name of segjax/data/builders'),
    'root': Field('', "folder of a real data set; '' for worlds"),
    'classes': Field('', "only for name='folder': YAML or JSON file with the class list"),
    'cache': Field('', "folder for prepared records; '' is $SEGJAX_CACHE or ~/.cache/segjax"),
    'train_split': Field('train', 'TFDS split to train on, slices such as train[:10%] included'),
    'labelled_fraction': Field(
        1.0,
        'share of the training split that is labelled, the same in all runs; class weights are of all',
        share_above_0,
    ),
    'void_class': Field(
        False, 'train and predict what the labels leave out (255) as one more class'
    ),
    'eval_split': Field('val', 'TFDS split to evaluate on'),
    'eval_size': Field(
        (256, 512), '(height, width) at which the net sees an image in evaluation', size_2d
    ),
    'threads': Field(
        0,
        'Threads that read and transform examples; 0: the usable cores, at most 16, or 1 per worker',
        at_least(0),
    ),
    'workers': Field(0, 'Loader processes; 0: threads of the main process load', at_least(0)),
    'prefetch': Field(
        16,
        'Examples to read ahead, at least a batch and an example per thread; with workers, whole batches',
        at_least(1),
    ),
    'world': {
        'num_train': Field(320, 'worlds only: number of training examples', at_least(1)),
        'num_val': Field(64, 'worlds only: number of validation examples', at_least(1)),
        'size': Field((128, 256), 'worlds only: (height, width) of the rendered images', size_2d),
        'seed': Field(0, 'worlds only: another seed is another world', at_least(0)),
    },
}

AUGMENT = {
    'resize': Field((), 'resize to (height, width) first; () keeps the size', size_2d_or_empty),
    'scale': Field((1.0, 1.0), 'random scale, uniform in (low, high)', interval),
    'rotate': Field(0.0, 'random rotation, uniform in +- this many degrees', between(0, 180)),
    'translate': Field(
        0, 'random shift, uniform in +- this many pixels along each axis', at_least(0)
    ),
    'flip': Field(0.5, 'probability of a horizontal flip', between(0, 1)),
    'crop': Field(
        (256, 512),
        '(height, width) of the training images: random crop, padded where smaller',
        size_2d,
    ),
    'brightness': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'contrast': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'saturation': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'hue': Field(0.0, 'shift uniform in +- this share of the colour circle', between(0, 0.5)),
    'blur': Field(0.0, 'probability of a Gaussian blur of 5 pixels', between(0, 1)),
}

RENAMED = {
    'run': 'logging',
    'model.depth': 'model.num_layers',
    'depth_net.depth': 'depth_net.num_layers',
    'pose_net.depth': 'pose_net.num_layers',
    'geometry.depth': 'geometry.depth_from',
    'geometry.of': 'geometry.semantic_map',
    'geometry.map': 'geometry.depth_map',
}
"""{old: new} paths of renamed keys and sections. Configs of older runs are read under the new names."""

SCHEDULES = ('constant', 'poly', 'linear_tail', 'cosine', 'step')
"""Names of the learning rates over time, see segjax/core/optim.py."""

OPTIM = {
    'name': Field('adam', 'optimiser', one_of('sgd', 'adam', 'adamw')),
    'learning_rate': Field(5e-4, 'base learning rate', above(0)),
    'momentum': Field(0.9, 'sgd only', below_one),
    'nesterov': Field(False, 'sgd only'),
    'beta1': Field(0.9, 'adam, adamw', below_one),
    'beta2': Field(0.999, 'adam, adamw', below_one),
    'eps': Field(1e-8, 'adam, adamw', above(0)),
    'weight_decay': Field(
        0.0, 'sgd, adam: added to the gradient (L2); adamw: decoupled', at_least(0)
    ),
    'decay_norm_and_bias': Field(False, 'also decay batch norm parameters and biases'),
    'schedule': Field('poly', 'learning rate over time', one_of(*SCHEDULES)),
    'power': Field(0.9, 'poly: (1 - step / num_steps) ** power', above(0)),
    'constant_fraction': Field(
        0.5, 'linear_tail: share of the steps before the decay to 0', between(0, 1)
    ),
    'milestones': Field(
        (),
        'Schedule step: where the rate drops, ascending. Whole numbers are steps, numbers below 1 '
        'are shares of num_steps.',
        milestones,
    ),
    'step_factor': Field(
        0.1, 'Schedule step: factor on the rate at each milestone.', between(0, 1)
    ),
    'warmup_steps': Field(0, 'linear warm-up from warmup_factor * rate', at_least(0)),
    'warmup_factor': Field(0.0, 'where the warm-up starts', between(0, 1)),
    'factors': Field(
        (), 'learning-rate factors: ((pattern over net/module/param, factor), ...)', pattern_factors
    ),
    'clip_norm': Field(0.0, 'clip gradients to this global norm; 0: off', at_least(0)),
}

SHARED = {
    'pipeline': Field('supervised', 'which file of segjax/pipelines'),
    'seed': Field(0, 'everything random is a function of it', at_least(0)),
    'data': DATA,
    'augment': AUGMENT,
    'train': {
        'batch_size': Field(6, 'global, over all devices of all processes', at_least(1)),
        'num_steps': Field(1000, 'optimiser steps', at_least(0)),
        'accumulate': Field(
            1, 'micro-batches per step; gradients are those of the whole batch', at_least(1)
        ),
        'ema': Field(
            0.0, 'decay of the averaged parameters used for evaluation; 0: off', below_one
        ),
        'dtype': Field(
            'float32',
            'of activations; parameters and loss stay float32. float64 needs JAX_ENABLE_X64=1',
            one_of('float32', 'bfloat16', 'float64'),
        ),
    },
    'evaluate': {
        'batch_size': Field(
            8, 'global; the last batch is padded, every image counts once', at_least(1)
        ),
        'policy': Field('cityscapes', 'how mIoU is averaged (metrics/confusion.py)'),
        'resolution': Field(
            'label',
            'Size at which pixels are scored: of the label, or of the image that the net sees.',
            one_of('label', 'image'),
        ),
        'crop': Field(
            (),
            'Images are cut into crops of (height, width); () keeps them whole.',
            size_2d_or_empty,
        ),
        'stride': Field(
            2 / 3,
            'Largest distance of neighbouring crops, as a fraction of a crop.',
            between(0.1, 1),
        ),
    },
    'logging': {
        'log_every': Field(20, 'steps between lines of metrics.jsonl', at_least(1)),
        'eval_every': Field(500, 'steps between evaluations; 0: at the end only', at_least(0)),
        'checkpoint_every': Field(
            500, 'steps between checkpoints; 0: at the end only', at_least(0)
        ),
        'keep_last': Field(2, 'newest checkpoints kept', at_least(1)),
        'keep_best': Field(1, 'best checkpoints kept beside them', at_least(0)),
        'num_pictures': Field(4, 'best and worst images in the report, each', at_least(0)),
    },
    'parallel': {
        'mode': Field('pmap', 'how a step is mapped over devices', one_of('pmap', 'shard_map')),
        'cpu_convolutions': Field(
            'auto',
            'Convolutions on a CPU by YNNPACK or by XLA itself; auto: by jaxlib and the width of the net',
            one_of('auto', 'ynn', 'xla'),
        ),
        'check_replicas': Field(
            False, 'assert after every step that all devices hold the same state'
        ),
    },
    'predict': {
        'tile': Field((), '(height, width) of tiles; () is data.eval_size', size_2d_or_empty),
        'overlap': Field(
            1 / 3, 'share of a tile that it has in common with the next', between(0, 0.9)
        ),
        'flip': Field(False, 'also predict the mirrored image and average'),
        'scales': Field((1.0,), 'also predict at these scales and average', scales),
        'batch_size': Field(4, 'tiles per call', at_least(1)),
    },
    'bench': {
        'repetitions': Field(10, '--mode bench: timed calls', at_least(1)),
        'warmup': Field(2, '--mode bench: calls before them', at_least(0)),
        'variants': Field(
            (),
            "what --mode bench measures in turn with this config: 'key=value;key=value' or (name, such a string) each",
            bench_variants,
        ),
    },
    'init_from': {
        'path': Field(
            '',
            'where parameters come from when this run has no checkpoint yet: a run folder, a checkpoint, or published '
            'weights (.safetensors, .npz, .pth, or hf:owner/name/file)',
        ),
        'expected': Field(
            '', 'Weights that the published experiment starts from; without a path, a run warns'
        ),
        'nets': Field(('.*',), 'patterns over net/module: what to take', patterns),
        'source': Field(
            '', "published weights: whose naming (segjax/pretrained/sources.py); '': find out"
        ),
        'partial': Field(
            False, 'published weights: take what fits, and only list what is missing or too much'
        ),
        'preprocess': Field(
            'adopt',
            "published weights: 'adopt' how their images were prepared, or 'keep' ours",
            one_of('adopt', 'keep'),
        ),
    },
}


def typed_text(value: Any) -> str:
    """Returns a value as a user types it behind `--config.key=`; `typed` reads it."""
    return shlex.quote(str(value))
