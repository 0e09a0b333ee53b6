"""Examines the data set of a config section on its own: its files, its classes and its lists."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.data import builders, index
from segjax.data.builders.base import Dataset
from segjax.data.view import View, make_view
from segjax.errors import InputError
from segjax.modes.doctor import reading
from segjax.modes.doctor.findings import Finding, SplitSummary, from_error, has_error
from segjax.spec import IGNORE, ClassSpec, DataSpec
from segjax.train import data_sets


class Examined(NamedTuple):
    """A data set as its config section sees it.

    where     the name of the data set
    classes   of the section; None if the data set could not be opened
    splits    summaries of its splits and lists, with the classes of the section
    findings  about the data set alone
    dataset   the reader of the data set; None if it could not be opened
    spec      the description that preparing would write; None after an error
    view      class map and lists of the section; None after an error
    """

    where: str
    classes: ClassSpec | None
    splits: dict[str, SplitSummary]
    findings: list[Finding]
    dataset: Dataset | None = None
    spec: DataSpec | None = None
    view: View | None = None


def examine_section(name: str, section: Any, check_stop: Callable[[], None]) -> Examined:
    """Reads the whole data set of a config section.

    Args:
      name: of the section.
      section: with all keys of `config.data`.
      check_stop: called between examples, raises to stop.
    """
    try:
        with data_sets.named(name):
            dataset = builders.load(section)
            splits = dataset.splits()
    except InputError as error:
        return Examined(f'data set {section.name!r}', None, {}, [from_error(error)])

    # The files, then the splits as a whole.
    summaries, findings = reading.read_splits(dataset, splits, check_stop)
    findings += reading.start_at_one(dataset, summaries)
    findings += reading.duplicates(summaries)
    examined = Examined(dataset.where, dataset.classes, summaries, findings, dataset)
    if has_error(findings):
        return examined

    # The class map and the lists choose among examples without problems.
    facts = {split: index.of_facts(summary.facts) for split, summary in summaries.items()}
    own = data_spec(dataset, summaries, facts)
    try:
        with data_sets.named(name):
            view = make_view(section, dataset.where, own, facts.__getitem__)
            spec = view.described(own)
    except InputError as error:
        return examined._replace(findings=[*findings, from_error(error)])
    seen = _as_seen(view, summaries)
    return examined._replace(classes=spec.classes, splits=seen, spec=spec, view=view)


def data_spec(
    dataset: Dataset, splits: Mapping[str, SplitSummary], facts: Mapping[str, index.Index]
) -> DataSpec:
    """Returns the DataSpec that preparing the data set would write, without class map and lists.

    Args:
      dataset: the data set.
      splits: the summaries of its splits.
      facts: of the examples of each split.
    """
    # The counts are the counts that a preparation would write.
    num_classes = dataset.classes.num_classes
    num_examples = {}
    max_size = {}
    class_pixels = {}
    void_pixels = {}
    for name, split in splits.items():
        num_examples[name] = len(split.items)
        max_size[name] = tuple(np.max(list(split.sizes), axis=0).tolist())
        class_pixels[name] = tuple(split.counts[:num_classes].tolist())
        void_pixels[name] = int(split.counts[IGNORE])
    return DataSpec(
        name=dataset.name,
        classes=dataset.classes,
        features=dataset.features([item for split in splits.values() for item in split.items]),
        num_examples=num_examples,
        max_size=max_size,
        class_pixels=class_pixels,
        void_pixels=void_pixels,
        declared=dict(dataset.declared),
        class_maps=dict(dataset.class_maps),
        **index.spec_fields(facts),
    )


def _as_seen(view: View, splits: Mapping[str, SplitSummary]) -> dict[str, SplitSummary]:
    """Returns the summaries with merged classes, and summaries of the lists."""
    seen = dict(splits)
    if view.class_map is not None:
        for name, summary in splits.items():
            facts = view.facts(name)
            seen[name] = summary._replace(counts=_counts(facts), facts=index.rows(facts))
    for name, of_list in view.lists.items():
        facts = view.facts(name)
        items = []
        for split in of_list.split.split('+'):
            items += splits[split].items
        seen[name] = SplitSummary(
            items=[items[position] for position in of_list.positions],
            sizes=index.sizes(facts),
            counts=_counts(facts),
            ids=frozenset(),
            digests={},
            facts=index.rows(facts),
        )
    return seen


def _counts(facts: index.Index) -> np.ndarray:
    """Returns the pixels of each train id, [256], void at 255."""
    counts = np.zeros(256, np.int64)
    pixels = facts.class_pixels.sum(axis=0, dtype=np.int64)
    counts[: len(pixels)] = pixels
    counts[IGNORE] = facts.void_pixels.sum()
    return counts
