"""One schema for every experiment: keys, defaults, meaning and checks; nothing compiles before a config has passed.

A config file (`configs/*.py`) starts from `defaults(pipeline)` and assigns; the ConfigDict is locked, so an unknown
key is an error where it is written. `validate` then checks every value against its `Field`.
"""

import ast
import difflib
import functools
import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from segjax.core import paths
from segjax.errors import InputError, unknown_name


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


def one_of(*names: str) -> Callable[[Any], str | None]:
    def check(value):
        if value in names:
            return None
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
        return 'one of ' + ', '.join(map(repr, names)) + (f' (did you mean {near[0]!r}?)' if near else '')

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
        return functools.partial(_tuple_of_net, default=default, is_text=is_text, is_int=is_int, length=length)
    if not is_number(default):
        return lambda value: None
    return above(0) if key == 'width' else at_least(0)


def _tuple_of_net(value: Any, default: tuple, is_text: bool, is_int: bool, length: int | None) -> str | None:
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
    ascending = all(fits(m) for m in value) and all(list(part) == sorted(set(part)) for part in (shares, steps))
    return None if ascending else 'steps >= 1 or shares of num_steps in (0, 1), ascending, as (0.75,) or (1000, 2000)'


def is_row(value: Any, length: int) -> bool:
    """Returns whether an item of a tuple is itself a tuple of this length."""
    return isinstance(value, tuple | list) and len(value) == length


def pattern_factors(value) -> str | None:
    if not all(is_row(v, 2) and isinstance(v[0], str) and is_number(v[1]) and v[1] >= 0 for v in value):
        return "pairs of (pattern, factor), as (('.*/decoder/.*', 10.0),)"
    return patterns(pattern for pattern, _ in value)


def variants_by_name(value) -> dict[str, str]:
    """{name: overrides} of `bench.variants`; a variant without a name goes by its overrides."""
    return dict((item, item) if isinstance(item, str) else item for item in value)


def bench_variants(value) -> str | None:
    pairs = [(v, v) if isinstance(v, str) else v for v in value]
    ok = all(isinstance(p, tuple) and len(p) == 2 and all(isinstance(t, str) and t for t in p) for p in pairs)
    if not ok or not all('=' in overrides for _, overrides in pairs):
        return "'section.key=value;section.key=value' strings or (name, such a string) pairs, as ('model.forms=naive',)"
    names = [name for name, _ in pairs]
    return None if len({'base', *names}) == len(names) + 1 else "a name of its own for each, not 'base'"


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
    'void_class': Field(False, 'train and predict what the labels leave out (255) as one more class'),
    'eval_split': Field('val', 'TFDS split to evaluate on'),
    'eval_size': Field((256, 512), '(height, width) at which the net sees an image in evaluation', size_2d),
    'threads': Field(
        0, 'Threads that read and transform examples; 0: the usable cores, at most 16, or 1 per worker', at_least(0)
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
    'translate': Field(0, 'random shift, uniform in +- this many pixels along each axis', at_least(0)),
    'flip': Field(0.5, 'probability of a horizontal flip', between(0, 1)),
    'crop': Field((256, 512), '(height, width) of the training images: random crop, padded where smaller', size_2d),
    'brightness': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'contrast': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'saturation': Field(0.0, 'factor uniform in 1 +- this', between(0, 1)),
    'hue': Field(0.0, 'shift uniform in +- this share of the colour circle', between(0, 0.5)),
    'blur': Field(0.0, 'probability of a Gaussian blur of 5 pixels', between(0, 1)),
}

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
    'weight_decay': Field(0.0, 'sgd, adam: added to the gradient (L2); adamw: decoupled', at_least(0)),
    'decay_norm_and_bias': Field(False, 'also decay batch norm parameters and biases'),
    'schedule': Field('poly', 'learning rate over time', one_of(*SCHEDULES)),
    'power': Field(0.9, 'poly: (1 - step / num_steps) ** power', above(0)),
    'constant_fraction': Field(0.5, 'linear_tail: share of the steps before the decay to 0', between(0, 1)),
    'milestones': Field(
        (),
        'Schedule step: where the rate drops, ascending. Whole numbers are steps, numbers below 1 '
        'are shares of num_steps.',
        milestones,
    ),
    'step_factor': Field(0.1, 'Schedule step: factor on the rate at each milestone.', between(0, 1)),
    'warmup_steps': Field(0, 'linear warm-up from warmup_factor * rate', at_least(0)),
    'warmup_factor': Field(0.0, 'where the warm-up starts', between(0, 1)),
    'factors': Field((), 'learning-rate factors: ((pattern over net/module/param, factor), ...)', pattern_factors),
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
        'accumulate': Field(1, 'micro-batches per step; gradients are those of the whole batch', at_least(1)),
        'ema': Field(0.0, 'decay of the averaged parameters used for evaluation; 0: off', below_one),
        'dtype': Field(
            'float32',
            'of activations; parameters and loss stay float32. float64 needs JAX_ENABLE_X64=1',
            one_of('float32', 'bfloat16', 'float64'),
        ),
    },
    'evaluate': {
        'batch_size': Field(8, 'global; the last batch is padded, every image counts once', at_least(1)),
        'policy': Field('cityscapes', 'how mIoU is averaged (metrics/confusion.py)'),
        'resolution': Field(
            'label',
            'Size at which pixels are scored: of the label, or of the image that the net sees.',
            one_of('label', 'image'),
        ),
        'crop': Field((), 'Images are cut into crops of (height, width); () keeps them whole.', size_2d_or_empty),
        'stride': Field(
            2 / 3,
            'Largest distance of neighbouring crops, as a fraction of a crop.',
            between(0.1, 1),
        ),
    },
    'run': {
        'log_every': Field(20, 'steps between lines of metrics.jsonl', at_least(1)),
        'eval_every': Field(500, 'steps between evaluations; 0: at the end only', at_least(0)),
        'checkpoint_every': Field(500, 'steps between checkpoints; 0: at the end only', at_least(0)),
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
        'check_replicas': Field(False, 'assert after every step that all devices hold the same state'),
    },
    'predict': {
        'tile': Field((), '(height, width) of tiles; () is data.eval_size', size_2d_or_empty),
        'overlap': Field(1 / 3, 'share of a tile that it has in common with the next', between(0, 0.9)),
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
        'expected': Field('', 'Weights that the published experiment starts from; without a path, a run warns'),
        'nets': Field(('.*',), 'patterns over net/module: what to take', patterns),
        'source': Field('', "published weights: whose naming (segjax/pretrained/sources.py); '': find out"),
        'partial': Field(False, 'published weights: take what fits, and only list what is missing or too much'),
        'preprocess': Field(
            'adopt',
            "published weights: 'adopt' how their images were prepared, or 'keep' ours",
            one_of('adopt', 'keep'),
        ),
    },
}


class Choice(NamedTuple):
    """A section whose keys depend on its `name`: a net and its arguments, for instance.

    default  the name
    doc      what is chosen
    options  {name: {key: Field}}
    """

    default: str
    doc: str
    options: Mapping[str, Mapping[str, Field]]


def _defaults(schema: Mapping[str, Any] | Choice) -> dict[str, Any]:
    if isinstance(schema, Choice):
        return {'name': schema.default, **_defaults(schema.options[schema.default])}
    return {k: v.default if isinstance(v, Field) else _defaults(v) for k, v in schema.items()}


def schema_of(pipeline: str) -> dict[str, Any]:
    """The shared schema and what the pipeline adds to it."""
    from segjax import pipelines  # here, not above: pipelines are written in terms of this file

    return {**SHARED, **pipelines.load(pipeline).SCHEMA}


def defaults(pipeline: str) -> ml_collections.ConfigDict:
    """A locked config with every key at its default, for a config file to assign to."""
    config = ml_collections.ConfigDict(_defaults({**schema_of(pipeline)}), convert_dict=True)
    config.pipeline = pipeline
    return config.lock()


def choose(config: ml_collections.ConfigDict, section: str, name: str) -> None:
    """Sets a `Choice` section to another name, with that one's keys at their defaults."""
    choice = schema_of(config.pipeline)[section]
    if name not in choice.options:
        raise unknown_name(f'config.{section}.name', name, choice.options)
    with config.unlocked():
        config[section] = ml_collections.ConfigDict({'name': name, **_defaults(choice.options[name])})


def update(config: ml_collections.ConfigDict, **sections: Mapping[str, Any]) -> None:
    """`update(config, data=dict(name='camvid', threads=2), seed=1)`: assigns, refusing unknown keys."""
    for key, value in sections.items():
        if not isinstance(value, Mapping):
            config[key] = value
            continue
        for inner, v in value.items():
            if isinstance(v, Mapping):
                config[key][inner].update(v)
            else:
                setattr(config[key], inner, v)


def smoke(config: ml_collections.ConfigDict) -> None:
    """What every `:smoke` begins with: four steps on a few small pictures of `streets`, with all that a run does."""
    update(
        config,
        augment=dict(resize=(), crop=(32, 64)),
        data=dict(name='streets', eval_size=(32, 64), threads=1, world=dict(num_train=16, num_val=10, size=(32, 64))),
        train=dict(batch_size=8, num_steps=4),
        evaluate=dict(batch_size=8),
        run=dict(log_every=1, eval_every=2, checkpoint_every=2, num_pictures=1),
    )


def _walk(schema, values, path):
    """Yields (path, Field, value); raises for keys that are in only one of the two."""
    if isinstance(schema, Choice):
        if values['name'] not in schema.options:
            raise unknown_name(f'config.{path}name', values['name'], schema.options)
        schema = {'name': Field('', schema.doc), **schema.options[values['name']]}
    for key in values:
        if key not in schema:
            raise unknown_name(f'config.{path}{key}', key, schema)
    for key, entry in schema.items():
        if key not in values:
            raise InputError(
                f'config.{path}{key}',
                got='no such key',
                expected=getattr(entry, 'doc', 'a section'),
                fix='start from segjax.config.defaults(pipeline)',
            )
        if isinstance(entry, Field):
            yield f'config.{path}{key}', entry, values[key]
        else:
            yield from _walk(entry, values[key], f'{path}{key}.')


def typed_text(value: Any) -> str:
    """Returns a value as a user types it behind `--config.key=`; `typed` reads it."""
    return shlex.quote(str(value))


def _as_typed(where: str, field: Field) -> str:
    """Returns the argument that sets a key to its default."""
    return f'the default, --{where}={typed_text(field.default)}'


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key and value against the schema; raises InputError at the first that is wrong."""
    if not isinstance(config.pipeline, str):
        got = f'{config.pipeline!r} ({type(config.pipeline).__name__})'
        raise InputError('config.pipeline', got=got, expected='a name', fix='--config.pipeline=supervised')
    for where, field, value in _walk(schema_of(config.pipeline), config, ''):
        kind = float if isinstance(field.default, float) else type(field.default)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            got = f'{value!r} ({type(value).__name__})'
            raise InputError(where, got=got, expected=f'a {kind.__name__}: {field.doc}', fix=_as_typed(where, field))
        complaint = plain(value) or field.check(value)
        if complaint:
            expected = f'{complaint}: {field.doc}'
            raise InputError(where, got=repr(value), expected=expected, fix=_as_typed(where, field))
    paths.check_config(config)
    _check_milestones(config)
    _check_init_from(config.init_from)


def _check_milestones(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for a step schedule without milestones, and for milestones of another schedule."""
    for name, section in config.items():
        if not isinstance(section, ml_collections.ConfigDict) or 'milestones' not in section:
            continue
        is_step = section.schedule == 'step'
        if bool(section.milestones) != is_step:
            value = '(0.75,)' if is_step else '()'
            raise InputError(
                f'config.{name}.milestones',
                got=f'{tuple(section.milestones)} with schedule {section.schedule!r}',
                expected="at least one with schedule 'step', () with any other",
                fix=f'--config.{name}.milestones="{value}"',
            )


def _check_init_from(init_from: ml_collections.ConfigDict) -> None:
    """Raises InputError for a key about published weights beside a run folder, where it would change nothing.

    Without a path it may stay: a run that has begun needs no path any more.
    """
    from segjax.pretrained.files import HUB, SUFFIXES, is_weights  # here, not above: --help need not wait for jax

    if not init_from.path or is_weights(init_from.path):
        return
    for key in ('source', 'partial', 'preprocess'):
        default = SHARED['init_from'][key].default
        if init_from[key] != default:
            raise InputError(
                f'config.init_from.{key}',
                got=f'{init_from[key]!r} with {init_from.path}, which is no file of weights but a run folder',
                expected=f'{default!r}: the key is about published weights ({", ".join(SUFFIXES)}, or {HUB}...)',
                fix=f'--config.init_from.{key}={default}, or a file of weights as init_from.path',
            )


LABEL_SIZE = 'label size'


def scored_at(config: ml_collections.ConfigDict) -> str:
    """Returns where pixels are scored, and in which crops, as scores and tables print it."""
    size = LABEL_SIZE
    if config.evaluate.resolution == 'image':
        size = '{}x{}'.format(*config.data.eval_size)
    if not config.evaluate.crop:
        return size
    height, width = config.evaluate.crop
    return f'{size}, crops of {height}x{width}, stride {config.evaluate.stride:.3g}'


def scored_as_asked(scores: Mapping[str, Any], config: ml_collections.ConfigDict) -> bool:
    """Returns whether stored scores of a stage follow the protocol in `config.evaluate`.

    Scores without a policy are none of a segmentation and follow every protocol. Scores without a
    resolution are older than the key and were computed at its default.
    """
    if 'policy' not in scores:
        return True
    asked = (config.evaluate.policy, scored_at(config))
    return (scores['policy'], scores.get('resolution', LABEL_SIZE)) == asked


def parse_arg(arg: str, variants: tuple[str, ...], **spec: Any) -> ml_collections.ConfigDict:
    """Parses what follows the colon of `--config file.py:variant,key=value`.

    Args:
      arg: the text, '' for the default variant.
      variants: names that may come first.
      **spec: typed arguments with their defaults; the type of the default is the type of the argument.

    Returns:
      A ConfigDict with `variant` ('' if none was named) and one entry for each argument of `spec`.
    """
    out = ml_collections.ConfigDict({'variant': '', **spec})
    for position, item in enumerate(filter(None, arg.split(','))):
        key, equals, text = item.partition('=')
        if not equals and position == 0:
            if key not in variants:
                raise unknown_name('--config file.py:<variant>', key, variants)
            out.variant = key
        elif not equals and isinstance(spec.get(key), bool):
            out[key] = True
        elif key not in spec:
            raise unknown_name('--config file.py:...,<argument>=', key, spec)
        else:
            try:
                out[key] = typed(text, spec[key])
            except ValueError as error:
                raise InputError(
                    f'--config file.py:...,{key}=', got=repr(text), expected=f'a {type(spec[key]).__name__}'
                ) from error
    return out


def typed(text: str, like: Any) -> Any:
    """`text` as a value of the type of `like`; ValueError or SyntaxError if it is none."""
    if isinstance(like, bool):
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ValueError(text)
        return text.lower() in ('true', '1')
    if isinstance(like, tuple):
        value = ast.literal_eval(text)
        if not isinstance(value, tuple | list):
            raise ValueError(text)
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return type(like)(text)


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Plain dicts, lists and scalars, as `config.json` and checkpoints store them."""
    return json.loads(json.dumps(config.to_dict()))


def from_json(stored: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config of a run folder; lists become tuples again."""

    def restore(value):
        if isinstance(value, Mapping):
            return {k: restore(v) for k, v in value.items()}
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    config = ml_collections.ConfigDict(_completed(restore(stored))).lock()
    validate(config)
    return config


def _before(entry: Field | Choice | Mapping[str, Any]) -> Any:
    """Returns the value of a key, or of a section, in runs that are older than it."""
    if isinstance(entry, Choice):
        return _defaults(entry)
    if isinstance(entry, Field):
        return entry.default if entry.before is None else entry.before
    return {key: _before(inner) for key, inner in entry.items()}


def _completed(
    stored: Mapping[str, Any], schema: Mapping[str, Any] | Choice | None = None, path: str = ''
) -> dict[str, Any]:
    """Returns a stored config, completed by what it did before keys that are younger than it existed.

    Args:
      stored: a config, or a section of it.
      schema: of the section; None for a whole config.
      path: of the section, with a point behind it; '' for a whole config.
    """
    if schema is None:
        schema = schema_of(_text_in(stored, 'pipeline', path))
    if isinstance(schema, Choice):
        schema = schema.options.get(_text_in(stored, 'name', path), {})
    if not isinstance(stored, Mapping):
        raise InputError(f'config.{path[:-1]}', got=repr(stored), expected='a section with keys')
    completed = dict(stored)
    for key, entry in schema.items():
        if key not in stored:
            completed[key] = _before(entry)
        elif not isinstance(entry, Field):
            completed[key] = _completed(stored[key], entry, f'{path}{key}.')
    return completed


def _text_in(section: Any, key: str, path: str) -> str:
    """Returns the name under a key of a stored section, by which its schema is known."""
    value = section.get(key) if isinstance(section, Mapping) else section
    if not isinstance(value, str) or not isinstance(section, Mapping):
        raise InputError(f'config.{path}{key}', got=repr(value), expected='a section with this key, a name')
    return value


FREE = (
    'run',
    'parallel',
    'predict',
    'evaluate',
    'bench',
    'init_from',
    'data.root',
    'data.classes',
    'data.cache',
    'data.threads',
    'data.workers',
    'data.prefetch',
)
"""Keys that may change when a run is resumed: they do not change what is learned. Of data.root and data.classes the
contents count, see segjax/train/same_run.py."""

FREE_IN = {
    'train': FREE,
    'evaluate': (
        *FREE,
        'data.name',
        'data.world',
        'data.train_split',
        'data.eval_split',
        'data.eval_size',
        'probes',
    ),
    'predict': (*FREE, 'data.eval_split', 'data.eval_size'),
}
"""Keys that may differ from the config of a run folder, by mode. Evaluation may measure a checkpoint on other images,
at another size or with other injectors. All other keys would change what the net means."""

UNRECORDED = ('run', 'bench', 'predict', 'init_from', 'data.cache', 'data.threads', 'data.workers', 'data.prefetch')
"""Keys that change no score of a checkpoint. What it began from is in start.json."""


def recorded(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the config as scores keep it, without the keys that change none."""
    content = to_json(config)
    for path in UNRECORDED:
        *sections, key = path.split('.')
        inner = content
        for section in sections:
            inner = inner[section]
        del inner[key]
    return content


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str = '', free: Collection[str] = FREE
) -> dict[str, tuple[Any, Any]]:
    """Returns (old value, new value) by key, for every key that matters.

    Args:
      old, new: two configs as `to_json` gives.
      path: of the section that they are, with a point behind it; '' for whole configs.
      free: keys and sections that do not matter; by default those of a resumed run.
    """
    if not path and _text_in(old, 'pipeline', '') == new['pipeline']:
        old = to_json(from_json(old))
    found = {}
    for key in sorted(set(old) | set(new)):
        here = f'{path}{key}'
        if here in free:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= changes(a, b, here + '.', free)
        elif a != b:
            found[here] = (a, b)
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = FREE) -> list[str]:
    """Returns 'train.batch_size: 8, now 16' for every key of `changes`."""
    return [f'{key}: {a!r}, now {b!r}' for key, (a, b) in changes(old, new, free=free).items()]


def another_config(differences: Sequence[str]) -> str:
    """What a folder holds whose config has these `differences`, for an error."""
    more = f' and {len(differences) - 5} more' if differences[5:] else ''
    return 'a run of another config: ' + '; '.join(differences[:5]) + more
