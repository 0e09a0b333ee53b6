"""Compares the splits that a config names with the splits of the data set."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from segjax.data import index
from segjax.modes.doctor.findings import Finding, SplitSummary
from segjax.protocol import Stage
from segjax.spec import split_names


def splits_of_config(config: Any, splits: Mapping[str, SplitSummary]) -> list[Finding]:
    """Finds splits that the data set does not have, and training on images of the evaluation."""
    findings = []
    # A list that could not be made is an error already.
    listed = {entry.partition('=')[0].strip() for entry in config.data.lists}
    for key in ('train_split', 'eval_split'):
        for name in split_names(config.data[key]):
            if name not in splits and name not in listed:
                message = (
                    f'got {config.data[key]!r}; expected one of {", ".join(splits)}, '
                    'or slices and sums of these splits'
                )
                fix = _known_split(config, splits, key, name)
                findings.append(Finding('error', f'config.data.{key}', message, fix))

    # Lists of examples may share images with any split.
    own = {name: split for name, split in splits.items() if not is_list(name, split)}
    if not findings and len(own) < len(splits):
        return _common_examples(config, splits, own)

    # Two slices of one split may well have no image in common.
    trained = config.data.train_split
    evaluated = config.data.eval_split
    common = set(split_names(trained)) & set(split_names(evaluated))
    if common and not ('[' in trained and '[' in evaluated):
        message = f'{evaluated!r} is trained on ({trained!r})'
        fix = separate_images(config, own)
        findings.append(Finding('warning', 'config.data.eval_split', message, fix))
    return findings


def is_list(name: str, split: SplitSummary) -> bool:
    """Returns whether a split is a list of examples, which belong to other splits."""
    return any(item.split != name for item in split.items)


def _common_examples(
    config: Any, splits: Mapping[str, SplitSummary], own: Mapping[str, SplitSummary]
) -> list[Finding]:
    """Warns if a data set with lists is evaluated on examples that are trained on.

    Args:
      config: of the run. Its splits exist.
      splits: of the data set, lists included.
      own: of the data set, without lists.
    """
    trained = config.data.train_split
    evaluated = config.data.eval_split
    try:
        seen = _examples(trained, splits)
        shared = seen & _examples(evaluated, splits)
    except ValueError:  # a malformed slice, which opening the input refuses
        return []
    if not shared:
        return []
    message = f'{len(shared)} examples of {evaluated!r} are trained on ({trained!r})'
    unseen = {name: split for name, split in own.items() if not seen & _examples(name, splits)}
    fix = separate_images(config, unseen or own)
    return [Finding('warning', 'config.data.eval_split', message, fix)]


def _examples(split: str, splits: Mapping[str, SplitSummary]) -> set[tuple[str, str]]:
    """Returns (plain split, name) of the examples of a split, with slices, sums and lists."""
    counts = {name: len(summary.items) for name, summary in splits.items()}
    examples = set()
    for name, first, end in index.slices(split, counts):
        examples |= {(item.split, item.name) for item in splits[name].items[first:end]}
    return examples


def _known_split(config: Any, splits: Mapping[str, SplitSummary], key: str, name: str) -> str:
    """Returns an assignment of a split that the data set has and the other key does not use.

    Args:
      config: of the run.
      splits: of the data set.
      key: 'train_split' or 'eval_split'.
      name: the unknown split. The assignment prefers a split with a similar name.
    """
    other = config.data['eval_split' if key == 'train_split' else 'train_split']
    used = split_names(other)
    unused = [split for split in splits if split not in used and splits[split].num_useful]
    near = difflib.get_close_matches(name, unused, n=1, cutoff=0.5) or unused[:1]
    return f'--config.data.{key}={near[0]}' if near else separate_images(config, splits)


def separate_images(config: Any, splits: Mapping[str, SplitSummary]) -> str:
    """Returns assignments with which no evaluation image is trained on."""
    trained = split_names(config.data.train_split)
    for split in splits:
        if split not in trained and splits[split].num_useful:
            return f'--config.data.eval_split={split}'

    # There is no other split of use: a tenth of a split is held out.
    for split in (*trained, *splits):
        if split in splits and len(splits[split].items) > 1:
            held_out = max(1, len(splits[split].items) // 10)
            return (
                f'--config.data.train_split="{split}[:-{held_out}]" '
                f'--config.data.eval_split="{split}[-{held_out}:]"'
            )
    return 'add images: at least one to train on and one to evaluate on'


def without_labels(
    config: Any, stages: Iterable[Stage], splits: Mapping[str, Mapping[str, SplitSummary]]
) -> list[Finding]:
    """Finds splits without a labelled example from which a stage reads labelled examples.

    Args:
      config: of the run.
      stages: of the run.
      splits: summaries of the splits of each data set, by config section.
    """
    # The splits in the order in which stages name them.
    needed: dict[tuple[str, str], None] = {}
    for stage in stages:
        for stage_input in (stage.train_input, stage.eval_input):
            inputs = stage_input.with_unpaired() if stage_input is not None else ()
            for each in inputs:
                if each.examples == 'labelled' and each.data in splits:
                    needed[each.data, each.split] = None

    message = 'no labelled example, but the net is trained or scored on labelled examples'
    findings = []
    for section, split in needed:
        of_section = splits[section]
        labelled = {name: each for name, each in of_section.items() if each.num_labelled}
        if any(name in labelled for name in split_names(split)):
            continue
        if section != 'data':
            where = f'split {split!r} of {section}'
            findings.append(Finding('error', where, message, 'label some images of this split'))
            continue
        fix = separate_images(config, labelled) if labelled else 'label some images of this split'
        findings.append(Finding('error', f'split {split!r}', message, fix))
    return findings
