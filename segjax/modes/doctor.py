"""`--mode doctor`: everything that is wrong with a data set and its config, before anything is trained.

Reads every file the way preparing does, but continues after a problem. What a run would refuse later is an
error (segjax/train/checks.py): exit code 1. A warning does not stop training.
"""

import collections
import difflib
import functools
import hashlib
import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import host, parallel, paths
from segjax.data import builders, cache, index, records, transforms
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.data.labels import OFF_BY_ONE
from segjax.data.listing import Listing
from segjax.errors import InputError
from segjax.protocol import Stage
from segjax.spec import IGNORE, ClassSpec, DataSpec, split_names
from segjax.train import advice, checks, driver, initialization, same_run
from segjax.train.stop import Preempted, StopSignal

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
    facts     of each example, as the records keep them
    """

    items: list[Item]
    sizes: collections.Counter
    counts: np.ndarray
    ids: frozenset[int]
    digests: dict[str, list[str]]
    facts: tuple[index.Fact, ...] = ()

    @property
    def num_labelled(self) -> int:
        """Returns the number of examples with a labelled pixel."""
        return sum(fact.labelled_pixels > 0 for fact in self.facts)


class Diagnosis(NamedTuple):
    """What `report` prints; `classes` is None if the data set could not be opened."""

    where: str
    classes: ClassSpec | None
    splits: dict[str, SplitSummary]
    findings: list[Finding]


def diagnose(config: Any, workdir: str = '') -> list[Finding]:
    """Returns all findings about a config, its data set and its run folder, errors and warnings."""
    return examine(config, workdir).findings


def main(config: Any, workdir: str = '') -> int:
    """Prints the report. Returns 1 if there is an error, else 0; raises Preempted if told to stop."""
    with StopSignal() as stop:

        def check_stop():
            if stop.reached():
                raise Preempted('the data set is not examined completely')

        diagnosis = examine(config, workdir, check_stop)
    print(report(diagnosis), flush=True)
    return int(_has_error(diagnosis.findings))


def examine(
    config: Any, workdir: str = '', check_stop: Callable[[], None] = records.never_stop
) -> Diagnosis:
    """Reads the whole data set of a config, and checks a run that would start now.

    Args:
      config: unchecked.
      workdir: the run folder, '' for none.
      check_stop: called between examples, raises to stop.
    """
    findings = _of_refusal(lambda: config_lib.validate(config))
    if not findings:
        findings = _of_refusal(lambda: checks.check_precision(config))
    try:
        dataset = builders.load(config.data)
        names = dataset.splits()
    except InputError as error:
        return Diagnosis(
            f'data set {config.data.name!r}', None, {}, [*findings, _from_error(error)]
        )
    splits, found = _read_splits(dataset, names, check_stop)
    findings += found
    findings += _starts_at_one(dataset, splits)
    findings += _duplicates(splits)
    findings += _unseen_classes(dataset.classes, splits, config)
    findings += _splits_of_config(config, splits)
    fits = _fits_anything
    if not _has_error(findings):
        refused, fits = _run_against_data(config, dataset, splits, workdir)
        findings += refused
    findings += _sizes_of_config(config, splits, fits)
    findings += [Finding('note', *note) for note in dataset.notes()]
    return Diagnosis(dataset.where, dataset.classes, splits, findings)


def _has_error(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == 'error' for finding in findings)


def _of_refusal(check: Callable[[], Any]) -> list[Finding]:
    """Returns the InputError of a check as a finding, nothing if it passes."""
    try:
        check()
    except InputError as error:
        return [_from_error(error)]
    return []


Fits = Callable[[list[str]], bool]
"""Tells whether a run with other values of some keys passes all checks: ['augment.crop=(96, 128)'] -> bool."""


def _fits_anything(overrides: list[str]) -> bool:
    """Accepts every change, where errors keep the steps from being traced."""
    return True


def _from_error(error: InputError) -> Finding:
    return Finding('error', error.where, f'got {error.got}; expected {error.expected}', error.fix)


def _read_splits(
    dataset: Dataset, names: Sequence[str], check_stop: Callable[[], None] = records.never_stop
) -> tuple[dict[str, SplitSummary], list[Finding]]:
    """Reads all splits. Returns their summaries by name, and a finding for each problem."""
    scans = {split: dataset.scan(split) for split in names}
    every = [item for items, _ in scans.values() for item in items]
    features = dataset.features(every) if every else ()
    splits = {}
    findings = []
    for split, (items, problems) in scans.items():
        splits[split], found = _read_split(dataset, split, items, problems, features, check_stop)
        findings += found
    return splits, findings


def _read_split(
    dataset: Dataset,
    split: str,
    items: list[Item],
    problems: list[InputError],
    features: Sequence[str],
    check_stop: Callable[[], None],
) -> tuple[SplitSummary, list[Finding]]:
    """Reads the examples of a split.

    Args:
      dataset: of the split.
      split: its name.
      items, problems: from `Dataset.scan`.
      features: that all examples of all splits have, which the records keep.
      check_stop: as in `examine`.

    Returns:
      The summary, and a finding for each problem.
    """
    summary = SplitSummary(items, collections.Counter(), np.zeros(256, np.int64), frozenset(), {})
    problems = list(problems)
    if not items and not problems:
        got = 'no examples'
        problems = [
            InputError(
                f'split {split!r} of {dataset.where}', got=got, expected='at least one example'
            )
        ]

    def inspect(item: Item):
        """Keeps only what the summary needs: the images of a large set do not fit into memory."""
        record, found, ids = dataset.inspect(item)
        if record is None:
            return found, ids, None
        digest = hashlib.sha1(record.features['image']).hexdigest()
        fact = index.fact(record.histogram, {name: record.features[name] for name in features})
        return found, ids, (record.histogram, record.size, digest, fact)

    ids: frozenset[int] = frozenset()
    frames = []
    facts = []
    for item, (found, seen, good) in zip(items, base.ordered_map(inspect, items), strict=True):
        check_stop()
        problems += found
        ids |= seen
        if good:
            histogram, size, digest, fact = good
            summary.counts[:] += histogram
            facts.append(fact)
            summary.sizes[size] += 1
            frames.append((item, size))
            summary.digests.setdefault(digest, []).append(
                str(item.files['image']) if item.files else item.name
            )
    summary = summary._replace(ids=ids, facts=tuple(facts))
    if summary.sizes:
        problems += base.check_classes(dataset, items, summary.counts, ids) + base.check_clips(
            frames
        )
    return summary, [_from_error(problem) for problem in problems]


def _starts_at_one(dataset: Dataset, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Ids 1 .. C where 0 .. C-1 are expected: each file alone could be a coincidence, all of them are not."""
    num_classes = dataset.classes.num_classes
    ids = frozenset().union(*(summary.ids for summary in splits.values())) - {IGNORE}
    if (
        dataset.classes.ids != tuple(range(num_classes))
        or 0 in ids
        or num_classes not in ids
        or max(ids) > num_classes
    ):
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


def _unseen_classes(
    classes: ClassSpec, splits: Mapping[str, SplitSummary], config: Any
) -> list[Finding]:
    findings = []
    for split, summary in splits.items():
        if not summary.sizes:
            continue
        pixels = summary.counts[: classes.num_classes]
        if pixels.sum() == 0:
            message = 'not a single labelled pixel: everything is void'
            findings.append(
                Finding(
                    'warning', f'split {split!r}', message, 'check what the ids in the labels mean'
                )
            )
        elif (pixels == 0).any():
            unseen = [
                f'{name} (id {i})'
                for name, i, n in zip(classes.names, classes.ids, pixels)
                if n == 0
            ]
            trained = split in split_names(config.data.train_split)
            effect = 'a net cannot learn it' if trained else 'it does not count in mIoU'
            message = f'{len(unseen)} of {classes.num_classes} classes never seen, {effect}: {", ".join(unseen)}'
            fix = 'check the class list' if 0 in pixels[1:] else OFF_BY_ONE
            findings.append(Finding('warning', f'split {split!r}', message, fix))
    return findings


# --- the config against the data ------------------------------------------------------------------------------------


def _splits_of_config(config: Any, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Finds splits that the data set does not have, and training on images of the evaluation."""
    findings = []
    for key in ('train_split', 'eval_split'):
        for name in split_names(config.data[key]):
            if name not in splits:
                message = f'got {config.data[key]!r}; expected one of {", ".join(splits)}, or slices and sums of them'
                fix = _known_split(config, splits, key, name)
                findings.append(Finding('error', f'config.data.{key}', message, fix))
    common = set(split_names(config.data.train_split)) & set(split_names(config.data.eval_split))
    if common and not ('[' in config.data.train_split and '[' in config.data.eval_split):
        message = f'{config.data.eval_split!r} is trained on ({config.data.train_split!r})'
        fix = _separate_images(config, splits)
        findings.append(Finding('warning', 'config.data.eval_split', message, fix))
    return findings


def _known_split(config: Any, splits: Mapping[str, SplitSummary], key: str, name: str) -> str:
    """Returns an assignment of a split that the data set has: the nearest name, or one that the other key leaves."""
    other = config.data['eval_split' if key == 'train_split' else 'train_split']
    unused = [
        split for split in splits if split not in split_names(other) and splits[split].num_labelled
    ]
    near = difflib.get_close_matches(name, unused, n=1, cutoff=0.5) or unused[:1]
    return f'--config.data.{key}={near[0]}' if near else _separate_images(config, splits)


def _separate_images(config: Any, splits: Mapping[str, SplitSummary]) -> str:
    """Returns assignments with which no evaluation image is trained on."""
    trained = split_names(config.data.train_split)
    unused = [split for split in splits if split not in trained and splits[split].num_labelled]
    if unused:
        return f'--config.data.eval_split={unused[0]}'
    first = next(
        (
            split
            for split in (*trained, *splits)
            if split in splits and len(splits[split].items) > 1
        ),
        '',
    )
    if not first:
        return 'add images: at least one to train on and one to evaluate on'
    held_out = max(1, len(splits[first].items) // 10)
    return f'--config.data.train_split="{first}[:-{held_out}]" --config.data.eval_split="{first}[-{held_out}:]"'


def _run_against_data(
    config: Any, dataset: Dataset, splits: Mapping[str, SplitSummary], workdir: str
) -> tuple[list[Finding], Fits]:
    """Finds what a run would refuse; nothing is computed, compiled or written.

    Returns:
      The findings, and whether the run would accept other values.
    """
    facts = {name: index.of_facts(split.facts) for name, split in splits.items()}
    spec = data_spec(dataset, splits, facts)
    folder = pathlib.Path(workdir or 'no run folder').expanduser().absolute()
    try:
        topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
        source = initialization.reader(config.init_from)
        config = initialization.with_preprocess(config, folder / driver.CONFIG, source)
        stages = pipelines.load(config.pipeline).make_stages(config, spec)
    except InputError as error:
        return [_from_error(error)], _fits_anything
    if unlabelled := _without_labels(config, stages, splits):
        return unlabelled, _fits_anything
    run = driver.Run(config, Listing(spec, dataset.where, facts), folder, topology, source)
    findings = _of_refusal(lambda: cache.check_place(config.data.cache))
    if workdir:
        findings += _of_refusal(lambda: paths.check_writable('--workdir', folder))
    findings += _of_refusal(lambda: same_run.check_resumed(folder, config))
    findings += _of_refusal(lambda: same_run.check_data(folder, spec, stages))
    findings += map(
        _from_error, checks.problems(run, stages, 'train', initialization.has_begun(folder))
    )
    if findings:
        return findings, _fits_anything
    warnings = [Finding('warning', *one) for one in advice.untrained(config, stages)]
    return warnings + _memory(config, spec, topology.count), functools.partial(checks.passes, run)


def data_spec(
    dataset: Dataset, splits: Mapping[str, SplitSummary], facts: Mapping[str, index.Index]
) -> DataSpec:
    """Returns the DataSpec that preparing the data set would write; `facts` are those of the splits."""
    return DataSpec(
        name=dataset.name,
        classes=dataset.classes,
        features=dataset.features([item for split in splits.values() for item in split.items]),
        num_examples={name: len(split.items) for name, split in splits.items()},
        max_size={
            name: tuple(np.max(list(split.sizes), axis=0).tolist())
            for name, split in splits.items()
        },
        class_pixels={
            name: tuple(split.counts[: dataset.classes.num_classes].tolist())
            for name, split in splits.items()
        },
        void_pixels={name: int(split.counts[IGNORE]) for name, split in splits.items()},
        **index.spec_fields(facts),
    )


def _memory(config: Any, spec: DataSpec, num_devices: int) -> list[Finding]:
    """Warns of an evaluation whose logits take gigabytes of a device."""
    at_label = config.evaluate.resolution == 'label'
    max_size = spec.split(config.data.eval_split).max_size
    height, width = max_size if at_label else config.data.eval_size
    of_image = height * width * spec.classes.num_classes * 4 / 1e9
    rows = config.evaluate.batch_size // num_devices
    if rows * of_image < 4:
        return []
    message = f'the logits of a batch of {height}x{width} labels take {rows * of_image:.0f} GB of a device'
    fewer = max(1, int(3.9 / of_image))
    fix = f'--config.evaluate.batch_size={fewer * num_devices}'
    if fewer == rows:
        fix = (
            '--config.evaluate.resolution=image, which scores at data.eval_size'
            if at_label
            else 'smaller images'
        )
    return [Finding('warning', 'config.evaluate.batch_size', message, fix)]


def _without_labels(
    config: Any, stages: Iterable[Stage], splits: Mapping[str, SplitSummary]
) -> list[Finding]:
    """Finds splits that have no labelled example, of which a stage wants labelled ones."""
    of_stages = [
        inputs
        for stage in stages
        for inputs in (stage.train_input, stage.eval_input)
        if inputs is not None
    ]
    every = [each for inputs in of_stages for each in inputs.with_unpaired()]
    wanted = dict.fromkeys(inputs.split for inputs in every if inputs.examples == 'labelled')
    labelled = {name: split for name, split in splits.items() if split.num_labelled}
    fix = _separate_images(config, labelled) if labelled else 'label some images of this split'
    return [
        Finding(
            'error',
            f'split {split!r}',
            'no labelled example, but the net is trained or scored on these',
            fix,
        )
        for split in wanted
        if not any(name in labelled for name in split_names(split))
    ]


# --- sizes ------------------------------------------------------------------------------------------------------------


def _sizes_of_config(config: Any, splits: Mapping[str, SplitSummary], fits: Fits) -> list[Finding]:
    """Warns of batches, crops and evaluation sizes that do not suit the images."""
    findings = []
    train = splits.get(config.data.train_split)
    if train is not None and train.sizes:
        findings += _batch(config, train)
        findings += _crop(config, train.sizes, fits)
        commonest, _ = train.sizes.most_common(1)[0]
        findings += [Finding('warning', *one) for one in advice.stretched(config, commonest)]
    findings += [Finding('warning', *one) for one in advice.without_start(config)]
    evaluated = splits.get(config.data.eval_split)
    if evaluated is not None and evaluated.sizes:
        findings += _eval_size(config, evaluated.sizes, fits)
    return findings


def _batch(config: Any, train: SplitSummary) -> list[Finding]:
    """Warns of a batch larger than its split, which repeats images."""
    size = config.train.batch_size
    if not 0 < train.num_labelled < size:
        return []
    kind = 'labelled examples' if train.num_labelled < len(train.items) else 'examples'
    message = f'{size}, but {config.data.train_split!r} has {train.num_labelled} {kind}: a batch repeats images'
    unit = parallel.topology(config.parallel.mode).count * config.train.accumulate
    whole = train.num_labelled // unit * unit
    fix = (
        f'--config.train.batch_size={whole}'
        if whole
        else f'add images: a batch has at least {unit}'
    )
    return [Finding('warning', 'config.train.batch_size', message, fix)]


def _crop(config: Any, sizes: Iterable[tuple[int, int]], fits: Fits) -> list[Finding]:
    """Warns of a crop that is larger than all images, which is always padded with void."""
    largest = tuple(config.augment.resize) or tuple(np.max(list(sizes), axis=0).tolist())
    available = tuple(int(side * config.augment.scale[1]) for side in largest)
    crop = tuple(config.augment.crop)
    if all(side <= limit for side, limit in zip(crop, available)):
        return []
    message = '{}x{} (height x width), but no image is larger than {}x{} after resizing and scaling'.format(
        *crop, *available
    )
    smaller = [
        tuple(min(side, limit - (limit - side) % step) for side, limit in zip(crop, available))
        for step in STEPS
    ]
    named = [f'augment.crop={size}' for size in smaller if min(size) > 0]
    low, high = config.augment.scale
    factor = max(high * side / limit for side, limit in zip(crop, available))
    enlarged = f'augment.scale=({low}, {math.ceil(100 * factor + 1) / 100})'
    fix = next((each for each in named if fits([each])), enlarged)
    return [Finding('warning', 'config.augment.crop', message, _typed(fix))]


STEPS = (64, 32, 16, 8, 4, 2, 1)
"""Nets take sizes of some remainder, often 0, to some power of two: a changed size keeps the remainder if it can."""


def _typed(assignment: str) -> str:
    """Returns 'key=value' as a word of the command line."""
    key, _, value = assignment.partition('=')
    return f'--config.{key}="{value}"'


def _eval_size(config: Any, sizes: collections.Counter, fits: Fits) -> list[Finding]:
    """Warns of an evaluation size of another shape than the images, where the net works on black padding."""
    image, _ = sizes.most_common(1)[0]
    size = tuple(config.data.eval_size)
    filled, padding = _letterbox(image, size)
    if padding < 0.1:
        return []
    message = (
        '{}x{} (height x width), into which images of {}x{} fit as {}x{}: {:.0%} is padding'.format(
            *size, *image, *filled, padding
        )
    )
    named = [f'data.eval_size={near}' for near in _suitable_sizes(image, size, filled)]
    fix = next((each for each in named if fits([each])), f'data.eval_size={filled}')
    return [Finding('warning', 'config.data.eval_size', message, _typed(fix))]


def _suitable_sizes(
    image: tuple[int, int], size: tuple[int, int], filled: tuple[int, int]
) -> list[tuple[int, int]]:
    """Returns evaluation sizes of the shape of an image, those that nets rather take first.

    Args:
      image: (height, width) of the image.
      size: the present evaluation size.
      filled: the part of `size` that the image fills.
    """
    found = {}
    for step, more in itertools.product(STEPS, range(4)):
        height = _nearest(filled[0], size[0], step) + more * step
        near = (height, _nearest(height * image[1] / image[0], size[1], step))
        area = math.prod(near)
        if min(near) > 0 and area <= 2 * math.prod(size) and _letterbox(image, near)[1] < 0.1:
            found.setdefault(near, (-step, abs(area - math.prod(size))))
    return sorted(found, key=found.__getitem__)


def _letterbox(image: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], float]:
    """Returns (the size that an image fills of an evaluation size, the share of padding)."""
    _, filled = transforms.letterbox_matrix(image, size)
    return tuple(filled), 1 - math.prod(filled) / math.prod(size)


def _nearest(goal: float, side: int, step: int) -> int:
    """Returns the number nearest to `goal` that has the remainder of `side` to `step`."""
    return side + round((goal - side) / step) * step


def report(diagnosis: Diagnosis) -> str:
    """The diagnosis as text: splits, classes, findings."""
    lines = [diagnosis.where, '']
    if diagnosis.splits:
        lines += [
            *_split_table(diagnosis.splits),
            '',
            *_class_table(diagnosis.classes, diagnosis.splits),
            '',
        ]
    for severity in ('error', 'warning', 'note'):
        lines += _listed(
            [finding for finding in diagnosis.findings if finding.severity == severity]
        )
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
    lines = [
        f'{"id":>4}  {"class":{width}}'
        + ''.join(f'{split:>10}' for split in splits)
        + '  of labelled pixels'
    ]
    for place, (name, number) in enumerate(zip(classes.names, classes.ids)):
        shares = (
            _share(s.counts[place], s.counts[: classes.num_classes].sum()) for s in splits.values()
        )
        lines.append(f'{number:>4}  {name:{width}}' + ''.join(f'{share:>10}' for share in shares))
    return lines


def _share(part: int, whole: int) -> str:
    return (
        '-' if part == 0 else f'{100 * part / whole:.3g} %' if part / whole >= 1e-5 else '<0.001 %'
    )


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
