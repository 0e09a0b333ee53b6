"""Compares batches, crops and evaluation sizes of a config with the sizes of the images."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from segjax.core import parallel
from segjax.data import transforms
from segjax.modes.doctor.findings import Finding, SplitSummary, warnings
from segjax.train import advice

Size = tuple[int, int]
"""(height, width) in pixels."""
Fits = Callable[[list[str]], bool]
"""Returns whether a run with other values passes all checks: ['augment.crop=(96, 128)'] -> bool."""
STEPS = (64, 32, 16, 8, 4, 2, 1)
"""Divisors whose remainder a changed size keeps if it can, the largest first.

Nets accept only sizes with a certain remainder, often 0, for some power of two.
"""


def fits_anything(overrides: list[str]) -> bool:
    """Accepts every change. Used if errors prevent the steps from being traced."""
    return True


def sizes_of_config(
    config: Any,
    splits: Mapping[str, SplitSummary],
    fits: Fits,
    num_rows: int | None = None,
    sees_images: bool = True,
) -> list[Finding]:
    """Warns of batches, crops and evaluation sizes that do not suit the images.

    Args:
      config: of the run.
      splits: of the data set.
      fits: whether a run with other values passes all checks.
      num_rows: rows of a table that are trained on, 0 if the table is not computed. None: the
        examples are images.
      sees_images: whether a stage is evaluated on whole images.
    """
    findings = []
    train = splits.get(config.data.train_split)
    if train is not None and train.sizes:
        findings += _batch(config, train, num_rows)
        findings += _crop(config, train.sizes, fits)
        commonest, _ = train.sizes.most_common(1)[0]
        findings += warnings(advice.stretched(config, commonest))
    findings += warnings(advice.without_start(config))
    evaluated = splits.get(config.data.eval_split)
    if sees_images and evaluated is not None and evaluated.sizes:
        findings += _eval_size(config, evaluated.sizes, fits)
    return findings


def _batch(config: Any, train: SplitSummary, num_rows: int | None) -> list[Finding]:
    """Warns of a batch that is larger than its split, so that it repeats examples."""
    size = config.train.batch_size
    number = train.num_useful if num_rows is None else num_rows
    if not 0 < number < size:
        return []
    repeated = 'images'
    kind = 'labelled examples' if number < len(train.items) else 'examples'
    if num_rows is not None:
        repeated = kind = 'rows'
    split = config.data.train_split
    message = f'{size}, but {split!r} has {number} {kind}: a batch repeats {repeated}'
    unit = parallel.topology(config.parallel.mode).count * config.train.accumulate
    whole = number // unit * unit
    fix = f'add images: a batch has at least {unit}'
    if whole:
        fix = f'--config.train.batch_size={whole}'
    return [Finding('warning', 'config.train.batch_size', message, fix)]


def _crop(config: Any, sizes: Iterable[Size], fits: Fits) -> list[Finding]:
    """Warns of a crop that is larger than all images, so that it is always padded with void."""
    largest = tuple(config.augment.resize) or tuple(np.max(list(sizes), axis=0).tolist())
    low, high = config.augment.scale
    available = tuple(int(side * high) for side in largest)
    crop = tuple(config.augment.crop)
    if all(side <= limit for side, limit in zip(crop, available)):
        return []
    message = (
        '{}x{} (height x width), but no image is larger than {}x{} after resizing and scaling'
    ).format(*crop, *available)

    # The first choice is a smaller crop that the nets accept, the second choice larger images.
    for step in STEPS:
        smaller = tuple(
            min(side, limit - (limit - side) % step) for side, limit in zip(crop, available)
        )
        assignment = f'augment.crop={smaller}'
        if min(smaller) > 0 and fits([assignment]):
            break
    else:
        factor = max(high * side / limit for side, limit in zip(crop, available))
        assignment = f'augment.scale=({low}, {math.ceil(100 * factor + 1) / 100})'
    return [Finding('warning', 'config.augment.crop', message, _typed(assignment))]


def _typed(assignment: str) -> str:
    """Returns 'key=value' as a word of the command line."""
    key, _, value = assignment.partition('=')
    return f'--config.{key}="{value}"'


def _eval_size(config: Any, sizes: collections.Counter, fits: Fits) -> list[Finding]:
    """Warns of an evaluation size with another aspect than the images.

    The net then computes on black padding.
    """
    image, _ = sizes.most_common(1)[0]
    size = tuple(config.data.eval_size)
    filled, padding = _letterbox(image, size)
    if padding < 0.1:
        return []
    message = (
        '{}x{} (height x width), into which images of {}x{} fit as {}x{}: {:.0%} is padding'
    ).format(*size, *image, *filled, padding)
    assignments = (f'data.eval_size={near}' for near in _suitable_sizes(image, size, filled))
    accepted = (assignment for assignment in assignments if fits([assignment]))
    fix = next(accepted, f'data.eval_size={filled}')
    return [Finding('warning', 'config.data.eval_size', message, _typed(fix))]


def _suitable_sizes(image: Size, size: Size, filled: Size) -> list[Size]:
    """Returns evaluation sizes with the aspect of an image, in the order of preference.

    Sizes that keep the remainder to a large step come first, because nets are more likely to accept
    them. Among these, sizes with an area near the present area come first.

    Args:
      image: (height, width) of the image.
      size: the present evaluation size.
      filled: the part of `size` that the image fills.
    """
    ranks = {}
    for step, steps_more in itertools.product(STEPS, range(4)):
        height = _nearest(filled[0], size[0], step) + steps_more * step
        width = _nearest(height * image[1] / image[0], size[1], step)
        near = (height, width)
        area = math.prod(near)
        if min(near) > 0 and area <= 2 * math.prod(size) and _letterbox(image, near)[1] < 0.1:
            ranks.setdefault(near, (-step, abs(area - math.prod(size))))
    return sorted(ranks, key=ranks.__getitem__)


def _letterbox(image: Size, size: Size) -> tuple[Size, float]:
    """Returns (the size that an image fills of an evaluation size, the share of padding)."""
    _, filled = transforms.letterbox_matrix(image, size)
    return tuple(filled), 1 - math.prod(filled) / math.prod(size)


def _nearest(goal: float, side: int, step: int) -> int:
    """Returns the number nearest to `goal` that has the same remainder to `step` as `side`."""
    return side + round((goal - side) / step) * step
