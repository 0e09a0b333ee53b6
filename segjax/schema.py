"""Config keys: their descriptions, the checks of values, and the keys that all pipelines share.

A pipeline adds its own keys as `SCHEMA`. docs/config.md lists all keys.
"""

import dataclasses
import difflib
import functools
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Field(NamedTuple):
    """Describes a config key.

    default  value that a config file starts with
    doc      meaning of the key: a sentence that stands alone
    check    function from a value to a complaint, or to None if the value is right
    before   value of runs that are older than the key; None: the default
    """

    default: Any
    doc: str
    check: Callable[[Any], str | None] = lambda value: None
    before: Any = None


class Choice(NamedTuple):
    """A section whose keys depend on its `name`: a net and its arguments, for instance.

    default  the name that a config file starts with
    doc      meaning of the section: a sentence that stands alone
    options  {name: {key: Field}}
    """

    default: str
    doc: str
    options: Mapping[str, Mapping[str, Field]]


class DataSection(dict):
    """A section that describes a data set, with a Field for each key.

    doc  meaning of the section: a sentence that stands alone
    """

    def __init__(self, fields: Mapping[str, Any], doc: str = ''):
        super().__init__(fields)
        self.doc = doc


# --- Checks: each returns what it expects of a wrong value, and None for a right value ------------


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A check that accepts a few texts."""

    names: tuple[str, ...]

    def nearest(self, value: Any) -> str | None:
        """Returns the name that is most similar to a value, or None."""
        similar = difflib.get_close_matches(str(value), self.names, n=1, cutoff=0.5)
        return similar[0] if similar else None

    def __call__(self, value: Any) -> str | None:
        if value in self.names:
            return None
        near = self.nearest(value)
        hint = f' (did you mean {near!r}?)' if near else ''
        return 'one of ' + ', '.join(map(repr, self.names)) + hint


def one_of(*names: str) -> OneOf:
    """Returns the check that a value is one of these names."""
    return OneOf(names)


def at_least(low: float) -> Callable[[Any], str | None]:
    """Returns the check low <= value."""
    return lambda value: None if value >= low else f'a number >= {low}'


def above(low: float) -> Callable[[Any], str | None]:
    """Returns the check low < value."""
    return lambda value: None if value > low else f'a number > {low}'


def between(low: float, high: float) -> Callable[[Any], str | None]:
    """Returns the check low <= value <= high."""
    return lambda value: None if low <= value <= high else f'a number in [{low}, {high}]'


def share_above_0(value: float) -> str | None:
    """Checks 0 < value <= 1."""
    return None if 0 < value <= 1 else 'a number in (0, 1]'


def below_one(value: float) -> str | None:
    """Checks 0 <= value < 1."""
    return None if 0 <= value < 1 else 'a number in [0, 1)'


LARGEST_INT = 2**31 - 1
"""Steps, sizes and seeds are int32 on the device."""

LARGEST_FLOAT = 3.4e38
"""A larger number is infinite in float32."""


def is_number(value: Any) -> bool:
    """Returns whether a value is an int or a float. True and False are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Returns whether a value is an int. True and False are no numbers."""
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> str | None:
    """Checks that some key can have a value: it can be stored and fits on a device."""
    if isinstance(value, tuple | list):
        return next((complaint for item in value if (complaint := plain(item))), None)
    if isinstance(value, bool | str):
        return None
    if isinstance(value, int):
        return None if abs(value) <= LARGEST_INT else f'whole numbers of at most {LARGEST_INT}'
    if isinstance(value, float):
        return None if abs(value) <= LARGEST_FLOAT else 'finite numbers'
    return 'numbers, strings, true, false, or tuples of them'


def size_2d(value: Sequence) -> str | None:
    """Checks a size (height, width)."""
    ok = len(value) == 2 and all(is_whole(side) and side > 0 for side in value)
    return None if ok else '(height, width), two whole numbers > 0'


def size_2d_or_empty(value: Sequence) -> str | None:
    """Checks a size (height, width), or the empty tuple."""
    return None if len(value) == 0 else size_2d(value)


def interval(value: Sequence) -> str | None:
    """Checks a range (low, high) of positive numbers."""
    ok = len(value) == 2 and all(map(is_number, value)) and 0 < value[0] <= value[1]
    return None if ok else '(low, high) with 0 < low <= high'


def scales(value: Sequence) -> str | None:
    """Checks one or more positive numbers."""
    ok = len(value) > 0 and all(is_number(scale) and scale > 0 for scale in value)
    return None if ok else 'at least one number > 0, as (1.0,) or (0.75, 1.0, 1.25)'


FIXED_LENGTH = ('blocks', 'dropout', 'gradient_factors')
"""Arguments of nets whose tuples have a number for each part of the net."""


def argument_of_net(key: str, default: Any) -> Callable[[Any], str | None]:
    """Returns the check of a net's argument: values like the default, and no number below 0.

    A default below 0 is a value of its own, and the smallest.
    """
    if isinstance(default, tuple):
        is_text = key == 'taps' or any(isinstance(item, str) for item in default)
        is_int = bool(default) and all(map(is_whole, default))
        length = len(default) if key in FIXED_LENGTH else None
        return functools.partial(
            _tuple_of_net, default=default, is_text=is_text, is_int=is_int, length=length
        )
    if not is_number(default):
        return lambda value: None
    return above(0) if key == 'width' else at_least(default if default < 0 else 0)


def _tuple_of_net(
    value: Sequence, default: tuple, is_text: bool, is_int: bool, length: int | None
) -> str | None:
    """Checks a tuple of texts or numbers that is an argument of a net."""
    if is_text:
        return strings(value)
    fits = is_whole if is_int else is_number
    if not all(fits(item) and item >= 0 for item in value):
        return f'{"whole " * is_int}numbers >= 0, as {default}'
    return None if length in (None, len(value)) else f'{length} numbers, as {default}'


def positive_numbers(value: Any) -> str | None:
    """Checks a tuple of numbers above 0, which may be empty."""
    fits = isinstance(value, tuple) and all(is_number(item) and item > 0 for item in value)
    return None if fits else 'a tuple of numbers above 0'


def strings(value: Iterable) -> str | None:
    """Checks a tuple of texts."""
    return None if all(isinstance(item, str) for item in value) else "strings, as ('a', 'b')"


def different_strings(value: Sequence) -> str | None:
    """Checks a tuple of texts that all differ."""
    complaint = strings(value)
    if complaint is None and len(set(value)) < len(value):
        complaint = "each string once, as ('a', 'b')"
    return complaint


def bench_parts(value: Sequence) -> str | None:
    """Checks a tuple of parts that --mode bench times."""
    is_right = bool(value) and different_strings(value) is None and set(value) <= set(BENCH_PARTS)
    return None if is_right else f'different names of {", ".join(BENCH_PARTS)}'


def patterns(value: Iterable) -> str | None:
    """Checks a tuple of regular expressions."""
    for pattern in value:
        if not isinstance(pattern, str):
            return f"regular expressions, as ('.*',); {pattern!r} is no string"
        try:
            re.compile(pattern)
        except re.error as error:
            return f'regular expressions; {pattern!r}: {error}'
    return None


LIST = re.compile(r'(?P<name>\w+)=(?P<split>[\w-]+(?:\+[\w-]+)*):(?P<file>.+)')
"""Form of an entry of `data.lists`."""

DRAW_RULES = ('spread', 'whole', 'single')
DRAW_GROUPS = ('city', 'sequence')
DRAW_BLOCKS = r'[1-9]\d*of[1-9]\d*'
"""Rules and groups of draws, and the form of a group of blocks."""
DRAW = re.compile(
    r'draw\((?P<size>[1-9]\d*)(?:, *seed=(?P<seed>\d+))?'
    rf'(?:, *(?P<rule>{"|".join(DRAW_RULES)})=(?P<group>{"|".join(DRAW_GROUPS)}|{DRAW_BLOCKS}))?\)'
)
"""Form of a draw, which stands for the file of an entry of `data.lists` (data/draws.py)."""


def nearest_draw(text: str) -> str:
    """Returns the draw that a text resembles. Its size and its seed are those of the text.

    A text without a size remains as it is.
    """
    size = re.match(r'draw\( *([1-9]\d*)', text)
    if size is None:
        return text
    seed = re.search(r'seed *= *(\d+)', text)
    start = f'draw({size[1]}' + (f', seed={seed[1]}' if seed else '')
    draws = [f'{start})']
    for rule in DRAW_RULES:
        for group in (*DRAW_GROUPS, *re.findall(DRAW_BLOCKS, text)):
            draws.append(f'{start}, {rule}={group})')
    return difflib.get_close_matches(text, draws, n=1, cutoff=0)[0]


class ExampleLists:
    """The check of lists of examples: NAME=SPLIT:FILE or NAME=SPLIT:draw(SIZE), each NAME once."""

    def nearest(self, value: Any) -> tuple[str, ...] | None:
        """Returns the lists with draws that can be read, None if other parts are wrong too."""
        if not isinstance(value, tuple | list):
            return None
        lists = []
        for entry in value:
            match = LIST.fullmatch(entry) if isinstance(entry, str) else None
            if match is not None and match['file'].startswith('draw('):
                entry = f'{match["name"]}={match["split"]}:{nearest_draw(match["file"])}'
            lists.append(entry)
        return tuple(lists) if self(lists) is None else None

    def __call__(self, value: Iterable) -> str | None:
        names = []
        for entry in value:
            match = LIST.fullmatch(entry) if isinstance(entry, str) else None
            if match is None:
                return f"NAME=SPLIT:FILE texts, as ('members=train:members.txt',); got {entry!r}"
            if match['file'].startswith('draw(') and not DRAW.fullmatch(match['file']):
                forms = (
                    'draw(1488), draw(1488, seed=1), draw(1488, whole=city), '
                    'draw(1488, spread=city), draw(96, single=sequence), draw(90, whole=9of12)'
                )
                return f'a draw of the form {forms}; got {match["file"]!r}'
            names.append(match['name'])
        is_unique = len(set(names)) == len(names)
        return None if is_unique else 'a name of its own for each list'


example_lists = ExampleLists()


def milestones(value: Sequence) -> str | None:
    """Checks milestones of a schedule: steps and shares of the steps, each in ascending order."""
    shares = [milestone for milestone in value if isinstance(milestone, float)]
    steps = [milestone for milestone in value if not isinstance(milestone, float)]
    fits = all(0 < share < 1 for share in shares) and all(
        is_whole(step) and step >= 1 for step in steps
    )
    if fits and shares == sorted(set(shares)) and steps == sorted(set(steps)):
        return None
    return 'steps >= 1 or shares of num_steps in (0, 1), ascending, as (0.75,) or (1000, 2000)'


def is_row(value: Any, length: int) -> bool:
    """Returns whether an item of a tuple is itself a tuple of this length."""
    return isinstance(value, tuple | list) and len(value) == length


def pattern_factors(value: Iterable) -> str | None:
    """Checks pairs of a regular expression and a factor >= 0."""
    for row in value:
        if not (is_row(row, 2) and isinstance(row[0], str) and is_number(row[1]) and row[1] >= 0):
            return "pairs of (pattern, factor), as (('.*/decoder/.*', 10.0),)"
    return patterns(pattern for pattern, _ in value)


def net_sources(value: Iterable) -> str | None:
    """Checks rows of a regular expression, a path, and perhaps the name of a release."""
    example = "rows of (pattern, path) or (pattern, path, release), as (('vgg', 'vgg19.pth'),)"
    for row in value:
        is_text = isinstance(row, tuple | list) and all(isinstance(text, str) for text in row)
        if not is_text or len(row) not in (2, 3) or not all(row[:2]):
            return example
    return patterns(row[0] for row in value)


def bench_variants(value: Iterable) -> str | None:
    """Checks variants of a benchmark: texts of assignments, or pairs of a name and such a text."""
    names = []
    for variant in value:
        pair = (variant, variant) if isinstance(variant, str) else variant
        is_pair = isinstance(pair, tuple) and len(pair) == 2
        if not (
            is_pair and all(isinstance(text, str) and text for text in pair) and '=' in pair[1]
        ):
            return (
                "'section.key=value;section.key=value' strings or (name, such a string) pairs, "
                "as ('model.forms=naive',)"
            )
        names.append(pair[0])
    # The config without changes is measured as 'base'.
    is_unique = len({'base', *names}) == len(names) + 1
    return None if is_unique else "a name of its own for each, not 'base'"


def typed_text(value: Any) -> str:
    """Returns a value as a user types it behind `--config.key=`. `config.typed` reads it."""
    text = str(value)
    # Inside double quotes a shell changes only these characters.
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return shlex.quote(text)


# --- Keys -----------------------------------------------------------------------------------------


DATA_SET_KEYS = ('name', 'root', 'classes', 'class_map', 'lists', 'world', 'rgbd')
"""Keys that describe a data set. Every data section has them."""

DATA = DataSection(
    {
        'name': Field('streets', 'Name of the data set (segjax/data/builders).'),
        'root': Field('', 'Folder of a real data set. Rendered data sets need none.'),
        'classes': Field(
            '',
            'YAML or JSON file with the class list of the data sets `folder` and `rgbd_folder`. '
            'Data sets that you add may read it. Other data sets ignore it.',
        ),
        'class_map': Field(
            '',
            'Merge of the classes into fewer classes: a name that the data set offers, or a YAML '
            'or JSON file. Empty: the classes of the data set.',
        ),
        'lists': Field(
            (),
            'Lists of examples, as NAME=SPLIT:FILE texts. FILE has the name of an example on each '
            'line. draw(SIZE) in place of FILE draws examples that no earlier list has. NAME is '
            'then a further split, with slices as NAME[:10%].',
            example_lists,
        ),
        'cache': Field('', 'Folder for prepared data. Empty: $SEGJAX_CACHE, or ~/.cache/segjax.'),
        'train_split': Field(
            'train', 'Split to train on, with slices such as train[:10%] (syntax of TFDS).'
        ),
        'labelled_fraction': Field(
            1.0,
            'Fraction of the training images whose labels are used. Every run uses the same '
            'images. Class weights count these images alone.',
            share_above_0,
        ),
        'void_class': Field(False, 'Treat unlabelled pixels (255) as an additional class.'),
        'eval_split': Field('val', 'TFDS split to evaluate on.'),
        'eval_size': Field(
            (256, 512),
            'Size (height, width) at which the net sees an image in evaluation.',
            size_2d,
        ),
        'threads': Field(
            0,
            'Threads that read and transform examples. 0 means all usable cores, at most 16. '
            'With workers, 0 means 1 thread per worker.',
            at_least(0),
        ),
        'workers': Field(
            0,
            'Loader processes. 0 loads in threads of the main process. '
            'Derived features are computed in as many processes; with 0, in a process per core.',
            at_least(0),
        ),
        'prefetch': Field(
            16,
            'Examples to read ahead, at least a batch and an example per thread. '
            'Workers read whole batches ahead.',
            at_least(1),
        ),
        'world': {
            'num_train': Field(
                320, 'Number of training examples of a rendered data set.', at_least(1)
            ),
            'num_val': Field(
                64, 'Number of validation examples of a rendered data set.', at_least(1)
            ),
            'size': Field((128, 256), 'Size (height, width) of the rendered images.', size_2d),
            'seed': Field(
                0, 'Seed of a rendered data set. Another seed gives another data set.', at_least(0)
            ),
        },
        'rgbd': {
            'depth_scale': Field(
                0.0,
                'Units per metre of depth files with 16 bits: metres = value / depth_scale. '
                '0: the unit of the data set.',
                at_least(0),
            ),
            'interval': Field(
                3,
                'Numbers from a frame to the next frame of a clip around a labelled frame.',
                at_least(1),
            ),
            'steps': Field(
                50,
                'Largest number of intervals between a labelled frame and a frame of its clip, '
                'in each direction. 0: only labelled frames.',
                at_least(0),
            ),
        },
    }
)


def data_set(doc: str, **defaults: Any) -> DataSection:
    """Returns a section for an additional data set, which a pipeline adds to its SCHEMA.

    An empty `name` means the same data set as `data`, with all its keys.

    Args:
      doc: meaning of the section: a sentence that stands alone.
      **defaults: values of keys that differ from `DATA`, as name='folder', world=dict(seed=1).

    Raises:
      KeyError: a key that no data section has.
    """
    fields = {key: DATA[key] for key in DATA_SET_KEYS}
    name = 'Name of the data set (segjax/data/builders). Empty: the data set of `data`.'
    fields['name'] = Field('', name)
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            changed = {inner: fields[key][inner]._replace(default=v) for inner, v in value.items()}
            fields[key] = {**fields[key], **changed}
        else:
            fields[key] = fields[key]._replace(default=value)
    return DataSection(fields, doc)


AUGMENT = {
    'resize': Field(
        (),
        'Size (height, width) to which images are resized first. () keeps their size.',
        size_2d_or_empty,
    ),
    'scale': Field(
        (1.0, 1.0), 'Range (low, high) of the random scale, which is uniform in it.', interval
    ),
    'rotate': Field(
        0.0, 'Largest random rotation in degrees. It is uniform in +- this value.', between(0, 180)
    ),
    'translate': Field(
        0,
        'Largest random shift along each axis, in pixels. It is uniform in +- this value.',
        at_least(0),
    ),
    'flip': Field(0.5, 'Probability of a horizontal flip.', between(0, 1)),
    'crop': Field(
        (256, 512),
        'Size (height, width) of the training images. Crops are random. Smaller images are padded.',
        size_2d,
    ),
    'brightness': Field(
        0.0, 'Brightness is multiplied by a random factor in 1 +- this value.', between(0, 1)
    ),
    'contrast': Field(
        0.0, 'Contrast is multiplied by a random factor in 1 +- this value.', between(0, 1)
    ),
    'saturation': Field(
        0.0, 'Saturation is multiplied by a random factor in 1 +- this value.', between(0, 1)
    ),
    'hue': Field(
        0.0,
        'Largest random shift of the hue, as a share of the colour circle. '
        'It is uniform in +- this value.',
        between(0, 0.5),
    ),
    'blur': Field(0.0, 'Probability of a Gaussian blur of 5 pixels.', between(0, 1)),
}

RENAMED = {
    'run': 'logging',
    'model.depth': 'model.num_layers',
    'depth_net.depth': 'depth_net.num_layers',
    'pose_net.depth': 'pose_net.num_layers',
    'painter.depth': 'painter.num_layers',
    'geometry.depth': 'geometry.depth_from',
    'geometry.of': 'geometry.semantic_map',
    'geometry.map': 'geometry.depth_map',
}
"""{old: new} paths of renamed keys. Configs of older runs are read under the new names."""

SCHEDULES = ('constant', 'poly', 'linear_tail', 'cosine', 'step')
"""Names of the learning rates over time, see segjax/core/optim.py."""

OPTIM = {
    'name': Field('adam', 'Optimiser of the nets.', one_of('sgd', 'adam', 'adamw')),
    'learning_rate': Field(5e-4, 'Base learning rate, before schedule and factors.', above(0)),
    'momentum': Field(0.9, 'Momentum of SGD.', below_one),
    'nesterov': Field(False, 'Use the Nesterov momentum in SGD.'),
    'beta1': Field(0.9, 'First-moment decay of Adam and AdamW.', below_one),
    'beta2': Field(0.999, 'Second-moment decay of Adam and AdamW.', below_one),
    'eps': Field(1e-8, 'Epsilon of Adam and AdamW.', above(0)),
    'weight_decay': Field(
        0.0,
        'Weight decay. SGD and Adam add it to the gradient (L2). AdamW decouples it.',
        at_least(0),
    ),
    'decay_norm_and_bias': Field(
        False,
        'Also decay biases, scales of normalisation, and all parameters with at most one axis.',
    ),
    'schedule': Field(
        'poly', 'Learning rate over time (segjax/core/optim.py).', one_of(*SCHEDULES)
    ),
    'power': Field(0.9, 'Schedule poly: exponent in (1 - step / num_steps) ** power.', above(0)),
    'constant_fraction': Field(
        0.5,
        'Schedule linear_tail: fraction of the steps before the rate starts to decay to 0.',
        between(0, 1),
    ),
    'milestones': Field(
        (),
        'Schedule step: where the rate drops, ascending. Whole numbers are steps. '
        'Numbers below 1 are shares of num_steps.',
        milestones,
    ),
    'step_factor': Field(
        0.1, 'Schedule step: factor on the rate at each milestone.', between(0, 1)
    ),
    'warmup_steps': Field(0, 'Steps of the linear warm-up. 0 turns the warm-up off.', at_least(0)),
    'warmup_factor': Field(
        0.0, 'Learning rate at the first step, as a fraction of the full rate.', between(0, 1)
    ),
    'factors': Field(
        (),
        'Factors on the learning rate, as ((pattern, factor), ...). '
        'Patterns match whole paths net/module/param.',
        pattern_factors,
    ),
    'clip_norm': Field(
        0.0, 'Largest global norm of the gradients. 0 turns clipping off.', at_least(0)
    ),
}

TRAIN = {
    'batch_size': Field(
        6, 'Images per optimiser step, summed over all devices and processes.', at_least(1)
    ),
    'num_steps': Field(1000, 'Number of optimiser steps.', at_least(0)),
    'accumulate': Field(
        1, 'Micro-batches per step. Gradients are those of the whole batch.', at_least(1)
    ),
    'ema': Field(
        0.0,
        'Decay of the moving average of the parameters that evaluation uses. '
        '0 turns averaging off.',
        below_one,
    ),
    'dtype': Field(
        'float32',
        'Type of activations. Parameters and losses are always float32. '
        'float64 needs JAX_ENABLE_X64=1.',
        one_of('float32', 'bfloat16', 'float64'),
    ),
}

POLICIES = ('cityscapes', 'absent_zero', 'absent_one', 'truth_only')
"""Names of the averages of IoU over classes, see segjax/metrics/confusion.py."""

EVALUATE = {
    'batch_size': Field(
        8,
        'Images per batch of the evaluation, summed over all devices and processes. '
        'The last batch is padded, and every image counts once.',
        at_least(1),
    ),
    'policy': Field(
        'cityscapes',
        'How mIoU treats classes that do not occur: a policy of metrics/confusion.py.',
        one_of(*POLICIES),
    ),
    'resolution': Field(
        'label',
        'Size at which pixels are scored: label size, or size of the image that the net sees.',
        one_of('label', 'image'),
    ),
    'crop': Field(
        (),
        'Size (height, width) of the crops into which images are cut. () keeps images whole.',
        size_2d_or_empty,
    ),
    'stride': Field(
        2 / 3,
        'Largest distance of neighbouring crops, as a fraction of a crop.',
        between(0.1, 1),
    ),
}

LOGGING = {
    'log_every': Field(20, 'Steps between two lines of metrics.jsonl.', at_least(1)),
    'eval_every': Field(
        500, 'Steps between two evaluations. 0 evaluates at the end only.', at_least(0)
    ),
    'checkpoint_every': Field(
        500, 'Steps between two checkpoints. 0 saves at the end only.', at_least(0)
    ),
    'keep_last': Field(2, 'Number of newest checkpoints to keep.', at_least(1)),
    'keep_best': Field(
        1, 'Number of best checkpoints to keep in addition to the newest.', at_least(0)
    ),
    'num_pictures': Field(
        4, 'Number of best and of worst images shown in the report.', at_least(0)
    ),
}

PARALLEL = {
    'mode': Field('pmap', 'How a step is mapped over devices.', one_of('pmap', 'shard_map')),
    'cpu_convolutions': Field(
        'auto',
        'Library of the convolutions on a CPU: YNNPACK, or XLA itself. '
        'auto decides by jaxlib and by the width of the net.',
        one_of('auto', 'ynn', 'xla'),
    ),
    'check_replicas': Field(False, 'Assert after every step that all devices hold the same state.'),
}

POOLING_USES = ('none', 'superpixel', 'full', 'pixel')
"""Ways to pool the scores of a clip. segjax/tasks/clip_pooling.py explains them."""

CLIP = {
    'region_method': Field(
        'hierarchy',
        'Method of the superpixels.',
        one_of('hierarchy', 'slic', 'felzenszwalb'),
    ),
    'num_regions': Field(550, 'Largest number of regions of a frame, P.', at_least(1)),
    'flow_method': Field(
        'edge_aware',
        'Method of optical flow (data/flow.py).',
        one_of('dis', 'edge_aware'),
    ),
    'flow_preset': Field(
        'medium',
        'Accuracy of dense inverse search.',
        one_of('ultrafast', 'fast', 'medium'),
    ),
    'reading': Field(
        'propagated',
        'Rule of correspondences: of the released code, or of the text (direct).',
        one_of('propagated', 'direct'),
    ),
    'match_threshold': Field(0.4, 'Smallest score of a match, tau.', share_above_0),
    'spatial': Field('mean', 'Pooling over the pixels of a region.', one_of('mean', 'max')),
    'temporal': Field('mean', 'Pooling over the frames.', one_of('mean', 'max')),
    'reach': Field(150, 'Largest distance of a frame to the target, in frames.', at_least(1)),
    'interval': Field(3, 'Distance of consecutive frames that may be drawn.', at_least(1)),
    'direction': Field(
        'both',
        'Frames that may be drawn: all, or those before the target.',
        one_of('both', 'past'),
    ),
}
"""Fields of the pooling of a clip, which training, evaluation and prediction share."""

PREDICT = {
    'tile': Field((), 'Size (height, width) of tiles. () means data.eval_size.', size_2d_or_empty),
    'overlap': Field(
        1 / 3, 'Overlap of neighbouring tiles, as a fraction of a tile.', between(0, 0.9)
    ),
    'flip': Field(False, 'Also predict the mirrored image, and average both predictions.'),
    'scales': Field(
        (1.0,), 'Scales at which images are predicted. The predictions are averaged.', scales
    ),
    'batch_size': Field(
        4,
        'Tiles or examples per call of the net, rounded up to a multiple of the number of devices.',
        at_least(1),
    ),
    'method': Field(
        '',
        "How a stage predicts that can do both: 'tiles' for class maps of images, 'prediction' for "
        "its declared prediction. Empty: 'prediction' for a JSON list, 'tiles' for anything else.",
        one_of('', 'tiles', 'prediction'),
    ),
    'depth_unit': Field(
        0.001,
        'Metres per unit of the 16-bit depth files that a prediction reads or writes.',
        above(0),
    ),
    'codes': Field(
        '',
        'Stages that draw samples: the file codes.npz of an earlier prediction, whose codes are '
        'used again.',
    ),
    'pooling': {
        'use': Field(
            'none',
            'Pooling of class probabilities over a clip: a video, or a folder of its frames. '
            "'none' predicts each image alone.",
            one_of(*POOLING_USES),
        ),
        'region_method': CLIP['region_method'],
        'region_threshold': Field(
            0.2, 'Boundary strength at which a hierarchy of superpixels is cut.', share_above_0
        ),
        'region_depth': Field(True, 'Whether superpixels see depth, where the input has depth.'),
        'num_regions': CLIP['num_regions'],
        'flow_method': CLIP['flow_method'],
        'flow_preset': CLIP['flow_preset'],
        'reading': CLIP['reading'],
        'match_threshold': CLIP['match_threshold'],
        'spatial': CLIP['spatial'],
        'temporal': CLIP['temporal'],
        'reach': CLIP['reach']._replace(default=15),
        'interval': CLIP['interval']._replace(
            doc='Distance of consecutive frames of a window, in frames.'
        ),
        'direction': CLIP['direction']._replace(
            doc='Frames of a window: around each frame, or before it.'
        ),
        'merge': Field(
            '',
            'Class map by which predictions of a clip are merged: the 40 classes of NYUDv2 into '
            "'33' of SUN3D. '': none.",
        ),
    },
}

BENCH_PARTS = ('train', 'evaluate', 'predict', 'input')
"""Parts of a stage that --mode bench can time."""
BENCH = {
    'repetitions': Field(10, 'Timed calls of --mode bench.', at_least(1)),
    'warmup': Field(2, 'Untimed calls of --mode bench before the timed calls.', at_least(0)),
    'parts': Field(
        BENCH_PARTS,
        'Parts of a stage that --mode bench times. Without train, nothing is said about all steps.',
        bench_parts,
    ),
    'variants': Field(
        (),
        'Variants that --mode bench measures in turn with this config. A variant is '
        "'key=value;key=value', or (name, 'key=value;key=value').",
        bench_variants,
    ),
}

INIT_FROM = {
    'path': Field(
        '',
        'Source of the parameters of a run without a checkpoint: a run folder, a checkpoint, '
        'or published weights (.safetensors, .npz, .pth, or hf:owner/name/file). Of a run folder '
        'the newest checkpoint is loaded. FOLDER:best loads the checkpoint of the best score.',
    ),
    'expected': Field(
        '', 'Weights that the published experiment starts from. Without a path, a run warns.'
    ),
    'nets': Field(
        ('.*',),
        'Regular expressions for the modules to load, matched against net/module.',
        patterns,
    ),
    'source': Field(
        '',
        'Published weights: the release that named the tensors (segjax/pretrained/sources.py). '
        'Empty: the names are recognised.',
    ),
    'sources': Field(
        (),
        'Sources of single nets, as ((pattern, path), ...) or ((pattern, path, release), ...). '
        'Patterns match names of nets. These nets load nothing from init_from.path, '
        'and config.preprocess is not adopted from their sources.',
        net_sources,
    ),
    'partial': Field(
        False,
        'Published weights, and all sources: load the tensors that fit. Missing and surplus '
        'tensors are listed and are no error.',
    ),
    'preprocess': Field(
        'adopt',
        "Published weights: 'adopt' prepares images as the weights expect. "
        "'keep' prepares images as the config says.",
        one_of('adopt', 'keep'),
    ),
}

SHARED = {
    'pipeline': Field('supervised', 'Name of the pipeline, a file of segjax/pipelines.'),
    'seed': Field(0, 'Random seed of the run.', at_least(0)),
    'data': DATA,
    'augment': AUGMENT,
    'train': TRAIN,
    'evaluate': EVALUATE,
    'logging': LOGGING,
    'parallel': PARALLEL,
    'predict': PREDICT,
    'bench': BENCH,
    'init_from': INIT_FROM,
}
"""Keys and sections of every pipeline."""
