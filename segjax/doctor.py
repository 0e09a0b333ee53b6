"""`--mode doctor`: everything that is wrong with a data set and its config, before anything is trained.

Reads every file the way preparing does, but goes on after a problem. Exit code 1 if there is an error; a warning is
something to look at that does not stop training.
"""

import collections
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax import advice, pipelines
from segjax import config as config_lib
from segjax.data import builders, loader, transforms
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.data.labels import OFF_BY_ONE
from segjax.data.spec import IGNORE, ClassSpec, DataSpec, split_names
from segjax.errors import InputError
from segjax.protocol import Stage

SHOWN = 5
"""Findings of one kind that the report prints in full."""


class Finding(NamedTuple):
    """severity is 'error', 'warning' or 'note'; where names a file, a split or a config key."""

    severity: str
    where: str
    message: str
    fix: str


class SplitSummary(NamedTuple):
    """A split as it was read: examples without problems are counted in `sizes`, `counts` and `digests`.

    items     all examples
    sizes     (height, width) of the labels -> number
    counts    [256] pixels of each train id
    ids       ids in the label files, readable or not as train ids
    digests   hash of an image -> names of the files, or examples, that hold it
    num_labelled  number of examples with a labelled pixel
    """

    items: list[Item]
    sizes: collections.Counter
    counts: np.ndarray
    ids: frozenset[int]
    digests: dict[str, list[str]]
    num_labelled: int = 0


class Diagnosis(NamedTuple):
    """What `report` prints; `classes` is None if the data set could not be opened."""

    where: str
    classes: ClassSpec | None
    splits: dict[str, SplitSummary]
    findings: list[Finding]


def diagnose(config: Any) -> list[Finding]:
    """All findings about `config` and its data set, errors and warnings."""
    return examine(config).findings


def main(config: Any) -> int:
    """Prints the report; 1 if there is an error, else 0."""
    diagnosis = examine(config)
    print(report(diagnosis), flush=True)
    return int(any(finding.severity == 'error' for finding in diagnosis.findings))


def examine(config: Any) -> Diagnosis:
    """Reads the whole data set of a config."""
    findings = []
    try:
        config_lib.validate(config)
    except InputError as error:
        findings.append(_from_error(error))
    try:
        dataset = builders.load(config.data)
        names = dataset.splits()
    except InputError as error:
        return Diagnosis(f'data set {config.data.name!r}', None, {}, [*findings, _from_error(error)])
    splits = {}
    for split in names:
        splits[split], found = _read_split(dataset, split)
        findings += found
    findings += _starts_at_one(dataset, splits)
    findings += _duplicates(splits)
    findings += _unseen_classes(dataset.classes, splits, config)
    findings += _config_against_data(config, splits)
    if not any(finding.severity == 'error' for finding in findings):
        findings += _net_against_config(config, dataset, splits)
    findings += [Finding('note', *note) for note in dataset.notes()]
    return Diagnosis(dataset.where, dataset.classes, splits, findings)


def _from_error(error: InputError) -> Finding:
    return Finding('error', error.where, f'got {error.got}; expected {error.expected}', error.fix)


def _read_split(dataset: Dataset, split: str) -> tuple[SplitSummary, list[Finding]]:
    items, problems = dataset.scan(split)
    summary = SplitSummary(items, collections.Counter(), np.zeros(256, np.int64), frozenset(), {})
    if not items and not problems:
        got = 'no examples'
        problems = [InputError(f'split {split!r} of {dataset.where}', got=got, expected='at least one example')]

    def inspect(item: Item):
        """Only what the summary needs: the images of a large set do not fit into memory."""
        record, found, ids = dataset.inspect(item)
        digest = hashlib.sha1(record.features['image']).hexdigest() if record else None
        return found, ids, record and (record.histogram, record.size, digest)

    ids: frozenset[int] = frozenset()
    frames, num_labelled = [], 0
    for item, (found, seen, good) in zip(items, base.ordered_map(inspect, items), strict=True):
        problems += found
        ids |= seen
        if good:
            histogram, size, digest = good
            summary.counts[:] += histogram
            num_labelled += bool(histogram[:IGNORE].any())
            summary.sizes[size] += 1
            frames.append((item, size))
            summary.digests.setdefault(digest, []).append(str(item.files['image']) if item.files else item.name)
    summary = summary._replace(ids=ids, num_labelled=num_labelled)
    if summary.sizes:
        problems += base.check_classes(dataset, items, summary.counts, ids) + base.check_clips(frames)
    return summary, [_from_error(problem) for problem in problems]


def _starts_at_one(dataset: Dataset, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Ids 1 .. C where 0 .. C-1 are expected: each file alone could be a coincidence, all of them are not."""
    num_classes = dataset.classes.num_classes
    ids = frozenset().union(*(summary.ids for summary in splits.values())) - {IGNORE}
    if dataset.classes.ids != tuple(range(num_classes)) or 0 in ids or num_classes not in ids or max(ids) > num_classes:
        return []
    message = f'the labels hold the ids 1..{num_classes}, 0 never; the {num_classes} classes are 0..{num_classes - 1}'
    return [Finding('error', dataset.where, message, OFF_BY_ONE)]


def _duplicates(splits: Mapping[str, SplitSummary]) -> list[Finding]:
    findings = []
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        for digest in first.digests:
            if digest in second.digests:
                message = f'the same image is in {other!r}: {second.digests[digest][0]}'
                fix = f'take it out of {one!r} or {other!r}: scores on training images mean nothing'
                findings.append(Finding('error', first.digests[digest][0], message, fix))
    for split, summary in splits.items():
        for names in summary.digests.values():
            if len(names) > 1:
                message = f'the same image again in {split!r}: {", ".join(names[1:4])}'
                findings.append(Finding('warning', names[0], message, 'keep one of them'))
    return findings


def _unseen_classes(classes: ClassSpec, splits: Mapping[str, SplitSummary], config: Any) -> list[Finding]:
    findings = []
    for split, summary in splits.items():
        if not summary.sizes:
            continue
        pixels = summary.counts[: classes.num_classes]
        if pixels.sum() == 0:
            message = 'not a single labelled pixel: everything is void'
            findings.append(Finding('warning', f'split {split!r}', message, 'check what the ids in the labels mean'))
        elif (pixels == 0).any():
            unseen = [f'{name} (id {i})' for name, i, n in zip(classes.names, classes.ids, pixels) if n == 0]
            trained = split in split_names(config.data.train_split)
            effect = 'a net cannot learn it' if trained else 'it does not count in mIoU'
            message = f'{len(unseen)} of {classes.num_classes} classes never seen, {effect}: {", ".join(unseen)}'
            fix = 'check the class list' if 0 in pixels[1:] else OFF_BY_ONE
            findings.append(Finding('warning', f'split {split!r}', message, fix))
    return findings


def _config_against_data(config: Any, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    findings = []
    for key in ('train_split', 'eval_split'):
        for name in split_names(config.data[key]):
            if name not in splits:
                message = f'got {config.data[key]!r}; expected one of {", ".join(splits)}, or slices and sums of them'
                findings.append(Finding('error', f'config.data.{key}', message, 'name a split that the data set has'))
    common = set(split_names(config.data.train_split)) & set(split_names(config.data.eval_split))
    if common and not ('[' in config.data.train_split and '[' in config.data.eval_split):
        message = f'{config.data.eval_split!r} is trained on ({config.data.train_split!r})'
        fix = 'evaluate on images that are not trained on, for instance train[:90%] and train[90%:]'
        findings.append(Finding('warning', 'config.data.eval_split', message, fix))
    train = splits.get(config.data.train_split)
    if train is not None and 0 < train.num_labelled < config.train.batch_size:
        kind = 'labelled examples' if train.num_labelled < len(train.items) else 'examples'
        message = f'{config.train.batch_size}, but {config.data.train_split!r} has {train.num_labelled} {kind}'
        findings.append(Finding('warning', 'config.train.batch_size', message, 'a batch then repeats images'))
    if train is not None and train.sizes:
        findings += _crop(config, train.sizes)
        commonest, _ = train.sizes.most_common(1)[0]
        findings += [Finding('warning', *one) for one in advice.stretched(config, commonest)]
    findings += [Finding('warning', *one) for one in advice.without_start(config)]
    evaluated = splits.get(config.data.eval_split)
    if evaluated is not None and evaluated.sizes:
        findings += _eval_size(config, evaluated.sizes)
    return findings


def _net_against_config(config: Any, dataset: Dataset, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Builds the pipeline and traces the initial state of every stage; nothing is computed or compiled."""
    spec = DataSpec(
        name=dataset.name,
        classes=dataset.classes,
        features=dataset.features([item for split in splits.values() for item in split.items]),
        num_examples={name: len(split.items) for name, split in splits.items()},
        max_size={name: tuple(np.max(list(split.sizes), axis=0).tolist()) for name, split in splits.items()},
        class_pixels={name: tuple(split.counts[: dataset.classes.num_classes]) for name, split in splits.items()},
        void_pixels={name: int(split.counts[IGNORE]) for name, split in splits.items()},
        num_unlabelled={name: sum(split.sizes.values()) - split.num_labelled for name, split in splits.items()},
    )
    try:
        stages = pipelines.load(config.pipeline).make_stages(config, spec)
        states = {}
        for stage in stages:
            batch = loader.zeros(stage.train_input or stage.eval_input, 1)
            states[stage.name] = jax.eval_shape(stage.init, jax.random.key(0), batch, dict(states))
    except InputError as error:
        return [_from_error(error)]
    if unlabelled := _without_labels(stages, spec):
        return unlabelled
    return [Finding('warning', *one) for one in advice.untrained(config, stages)] + _memory(config, spec)


def _memory(config: Any, spec: DataSpec) -> list[Finding]:
    """Warns of an evaluation whose logits take gigabytes."""
    at_label = config.evaluate.resolution == 'label'
    max_size = spec.split(config.data.eval_split).max_size
    height, width = max_size if at_label else config.data.eval_size
    gigabytes = config.evaluate.batch_size * height * width * spec.classes.num_classes * 4 / 1e9
    if gigabytes < 4:
        return []
    message = f'the logits of a batch of {height}x{width} labels take {gigabytes:.0f} GB'
    return [Finding('warning', 'config.evaluate.batch_size', message, 'a smaller batch, spread over the devices')]


def _without_labels(stages: Iterable[Stage], spec: DataSpec) -> list[Finding]:
    """Finds splits that have no labelled example, of which a stage wants labelled ones."""
    of_stages = [inputs for stage in stages for inputs in (stage.train_input, stage.eval_input) if inputs is not None]
    every = [each for inputs in of_stages for each in inputs.with_beside()]
    wanted = dict.fromkeys(inputs.split for inputs in every if inputs.examples == 'labelled')
    fix = 'a split with labels, as config.data.train_split or config.data.eval_split'
    return [
        Finding('error', f'split {split!r}', 'no labelled example, but the net is trained or scored on these', fix)
        for split in wanted
        if not spec.split(split).num_labelled
    ]


def _crop(config: Any, sizes: Iterable[tuple[int, int]]) -> list[Finding]:
    """A crop that is larger than all images is always padded with void."""
    largest = tuple(config.augment.resize) or tuple(np.max(list(sizes), axis=0))
    available = [int(side * config.augment.scale[1]) for side in largest]
    if all(crop <= side for crop, side in zip(config.augment.crop, available)):
        return []
    message = '{}x{} (height x width), but no image is larger than {}x{} after resizing and scaling'.format(
        *config.augment.crop, *available
    )
    return [Finding('warning', 'config.augment.crop', message, 'a smaller crop, or a larger augment.scale')]


def _eval_size(config: Any, sizes: collections.Counter) -> list[Finding]:
    """Evaluation fits whole images into one size: where that has another shape, the net works on black padding."""
    (height, width), _ = sizes.most_common(1)[0]
    _, filled = transforms.letterbox_matrix((height, width), config.data.eval_size)
    padding = 1 - math.prod(filled) / math.prod(config.data.eval_size)
    if padding < 0.1:
        return []
    message = '{}x{} (height x width), into which images of {}x{} fit as {}x{}: {:.0%} is padding'.format(
        *config.data.eval_size, height, width, *filled, padding
    )
    return [Finding('warning', 'config.data.eval_size', message, 'choose a size of the shape of the images')]


def report(diagnosis: Diagnosis) -> str:
    """The diagnosis as text: splits, classes, findings."""
    lines = [diagnosis.where, '']
    if diagnosis.splits:
        lines += [*_split_table(diagnosis.splits), '', *_class_table(diagnosis.classes, diagnosis.splits), '']
    for severity in ('error', 'warning', 'note'):
        lines += _listed([finding for finding in diagnosis.findings if finding.severity == severity])
    number = collections.Counter(finding.severity for finding in diagnosis.findings)
    lines.append(f'{_plural(number["error"], "error")}, {_plural(number["warning"], "warning")}')
    return '\n'.join(lines)


def _split_table(splits: Mapping[str, SplitSummary]) -> list[str]:
    lines = [f'{"split":8}{"examples":>10}{"readable":>10}{"void":>9}  size (width x height)']
    for split, summary in splits.items():
        sizes = [f'{width}x{height}' for (height, width), _ in summary.sizes.most_common(3)]
        more = f', ... ({len(summary.sizes)} sizes)' if len(summary.sizes) > 3 else ''
        void = _share(summary.counts[IGNORE], summary.counts.sum())
        examples, readable = len(summary.items), sum(summary.sizes.values())
        lines.append(f'{split:8}{examples:>10}{readable:>10}{void:>9}  {", ".join(sizes)}{more}')
    return lines


def _class_table(classes: ClassSpec, splits: Mapping[str, SplitSummary]) -> list[str]:
    width = max(len(name) for name in (*classes.names, 'class'))
    lines = [f'{"id":>4}  {"class":{width}}' + ''.join(f'{split:>10}' for split in splits) + '  of labelled pixels']
    for index, (name, number) in enumerate(zip(classes.names, classes.ids)):
        shares = (_share(s.counts[index], s.counts[: classes.num_classes].sum()) for s in splits.values())
        lines.append(f'{number:>4}  {name:{width}}' + ''.join(f'{share:>10}' for share in shares))
    return lines


def _share(part: int, whole: int) -> str:
    return '-' if part == 0 else f'{100 * part / whole:.3g} %' if part / whole >= 1e-5 else '<0.001 %'


def _listed(findings: list[Finding]) -> list[str]:
    """Findings, those with the same remedy together and no more than a few of them."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.fix, []).append(finding)
    lines = []
    for fix, group in groups.items():
        for finding in group[:SHOWN]:
            lines += [f'{finding.severity}: {finding.where}', f'    {finding.message}']
        if len(group) > SHOWN:
            lines.append(f'    ... and {len(group) - SHOWN} more of this kind')
        lines += [f'    fix: {fix}', ''] if fix else ['']
    return lines


def _plural(number: int, noun: str) -> str:
    return f'{number} {noun}' + ('' if number == 1 else 's')
