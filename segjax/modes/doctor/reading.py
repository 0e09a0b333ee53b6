"""Reads all examples of a data set, and finds problems with its files, labels and classes."""

import collections
import functools
import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segjax.data import index, records
from segjax.data.builders import base
from segjax.data.builders.base import Dataset, Item
from segjax.data.labels import OFF_BY_ONE
from segjax.errors import InputError
from segjax.modes.doctor.findings import Finding, SplitSummary, from_error, without_repetitions
from segjax.spec import IGNORE, ClassSpec


class Kept(NamedTuple):
    """The part of an example that the summary needs: the images of a large set exceed the memory.

    histogram  [256] pixels of each train id
    size       (height, width) of the label
    digest     of the image
    fact       as the records keep it
    """

    histogram: np.ndarray
    size: tuple[int, int]
    digest: str
    fact: index.Fact


def read_splits(
    dataset: Dataset, names: Sequence[str], check_stop: Callable[[], None] = records.never_stop
) -> tuple[dict[str, SplitSummary], list[Finding]]:
    """Reads splits completely.

    Args:
      dataset: whose splits are read.
      names: of the splits.
      check_stop: called between examples, raises to stop.

    Returns:
      The summaries by name, and a finding for each problem. Equal problems of several images are
      one finding.
    """
    scans = {split: dataset.scan(split) for split in names}
    all_items = [item for items, _ in scans.values() for item in items]
    features = dataset.features(all_items) if all_items else ()
    splits = {}
    findings: list[Finding] = []
    numbers: collections.Counter[Finding] = collections.Counter()
    for split, (items, problems) in scans.items():
        if not items and not problems:
            where = f'split {split!r} of {dataset.where}'
            problems = [InputError(where, got='no examples', expected='at least one example')]
        splits[split], image_problems = _read_split(dataset, items, features, check_stop)
        image_findings = [from_error(problem) for problem in image_problems]
        findings += map(from_error, problems)
        findings += image_findings
        numbers.update(image_findings)
    return splits, without_repetitions(findings, numbers)


def _read_split(
    dataset: Dataset, items: list[Item], features: Sequence[str], check_stop: Callable[[], None]
) -> tuple[SplitSummary, list[InputError]]:
    """Reads the examples of a split.

    Args:
      dataset: of the split.
      items: the examples.
      features: that all examples of all splits have, which the records keep.
      check_stop: called between examples, raises to stop.

    Returns:
      The summary, and the problems of the examples.
    """
    summary = SplitSummary(items, collections.Counter(), np.zeros(256, np.int64), frozenset(), {})
    problems: list[InputError] = []
    ids: frozenset[int] = frozenset()
    frames = []
    facts = []
    inspect = functools.partial(_inspect, dataset, features)
    results = base.ordered_map(inspect, items)
    for item, (item_problems, item_ids, kept) in zip(items, results, strict=True):
        check_stop()
        problems += item_problems
        ids |= item_ids
        if kept:
            summary.counts[:] += kept.histogram
            summary.sizes[kept.size] += 1
            name = str(item.files.get('image', item.name))
            summary.digests.setdefault(kept.digest, []).append(name)
            facts.append(kept.fact)
            frames.append((item, kept.size))
    summary = summary._replace(ids=ids, facts=tuple(facts))

    # Problems that only all examples together show.
    if summary.sizes:
        problems += base.check_classes(dataset, items, summary.counts, ids)
        problems += base.check_clips(frames)
    return summary, problems


def _inspect(
    dataset: Dataset, features: Sequence[str], item: Item
) -> tuple[list[InputError], frozenset[int], Kept | None]:
    """Reads one example. Returns its problems, the ids of its label, and `Kept` if it has none."""
    record, problems, ids = dataset.inspect(item)
    if record is None:
        return problems, ids, None
    stored = {name: record.features[name] for name in features}
    num_classes = dataset.classes.num_classes
    fact = index.fact(record.histogram, record.size, num_classes, stored, dataset.declared)
    # Examples without an image are told apart by their whole content.
    image = record.features.get('image')
    digest = fact.digest.hex() if image is None else hashlib.sha1(image).hexdigest()
    return problems, ids, Kept(record.histogram, record.size, digest, fact)


# --- problems of the data set as a whole ----------------------------------------------------------


def start_at_one(dataset: Dataset, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Finds labels with ids 1 .. C if 0 .. C-1 are expected.

    In a single file this could be a coincidence. In all files together it is not.
    """
    num_classes = dataset.classes.num_classes
    ids = frozenset().union(*(summary.ids for summary in splits.values())) - {IGNORE}
    if (
        dataset.classes.ids != tuple(range(num_classes))
        or 0 in ids
        or num_classes not in ids
        or max(ids) > num_classes
    ):
        return []
    message = (
        f'the labels hold the ids 1..{num_classes} and never 0, but the {num_classes} classes have '
        f'the ids 0..{num_classes - 1}'
    )
    return [Finding('error', dataset.where, message, OFF_BY_ONE)]


def duplicates(splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Finds images that are in two splits (an error) or twice in a split (a warning).

    A file that several clips of a split share is no duplicate.
    """
    findings = []
    for (name, summary), (other_name, other) in itertools.combinations(splits.items(), 2):
        for digest, files in summary.digests.items():
            if digest in other.digests:
                message = f'the same image is in {other_name!r}: {other.digests[digest][0]}'
                fix = (
                    f'remove it from {name!r} or {other_name!r}: '
                    'scores on training images mean nothing'
                )
                findings.append(Finding('error', files[0], message, fix))
    for split, summary in splits.items():
        for paths in summary.digests.values():
            files = list(dict.fromkeys(paths))
            if len(files) > 1:
                message = f'the same image occurs again in {split!r}: {", ".join(files[1:4])}'
                findings.append(Finding('warning', files[0], message, 'keep one of these images'))
    return findings


def unseen_classes(
    classes: ClassSpec,
    splits: Mapping[str, SplitSummary],
    trained: Collection[str],
    section: str = 'data',
) -> list[Finding]:
    """Warns of splits without labelled pixels, or without a pixel of some classes.

    Args:
      classes: of the data set.
      splits: the summaries of its splits.
      trained: splits to train on.
      section: config section of the data set.
    """
    findings = []
    for split, summary in splits.items():
        # Nothing was read of this split, or it has no labels.
        if not summary.sizes or not classes.num_classes:
            continue
        where = f'split {split!r}' + ('' if section == 'data' else f' of {section}')
        pixels = summary.counts[: classes.num_classes]
        if pixels.sum() == 0:
            # The ids most likely belong to another coding.
            message = 'not a single labelled pixel: everything is void'
            fix = 'check what the ids in the labels mean'
            findings.append(Finding('warning', where, message, fix))
        elif (pixels == 0).any():
            # Names alone would not tell which ids the labels lack.
            unseen = []
            for name, number, count in zip(classes.names, classes.ids, pixels):
                if count == 0:
                    unseen.append(f'{name} (id {number})')
            is_trained = split in trained
            effect = 'they do not count in means over the classes, such as mIoU'
            if is_trained:
                effect = 'a net cannot learn them'
            message = (
                f'{len(unseen)} of {classes.num_classes} classes never seen, {effect}: '
                + ', '.join(unseen)
            )
            # If only the first class is missing, the ids may start at 1.
            fix = 'check the class list' if 0 in pixels[1:] else OFF_BY_ONE
            findings.append(Finding('warning', where, message, fix))
    return findings
