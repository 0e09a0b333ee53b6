"""Holds the results of an examination: findings, and a summary of each split."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.data import index
from segjax.data.builders.base import Item
from segjax.errors import InputError
from segjax.spec import ClassSpec


class Finding(NamedTuple):
    """A problem or a note.

    severity  'error', 'warning' or 'note'
    where     names a file, a split or a config key
    message   describes the problem
    fix       how to solve it; '' for none
    """

    severity: str
    where: str
    message: str
    fix: str


class SplitSummary(NamedTuple):
    """A split as it was read. `sizes`, `counts` and `digests` count examples without problems.

    items     all examples
    sizes     (height, width) of the labels -> number
    counts    [256] pixels of each train id
    ids       values in the label files, whether or not they are ids of the data set
    digests   hash of an image -> names of the files, or examples, with this image
    facts     of each example, as the records keep them
    """

    items: list[Item]
    sizes: collections.Counter
    counts: np.ndarray
    ids: frozenset[int]
    digests: dict[str, list[str]]
    facts: tuple[index.Fact, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Returns whether examples have a label. A label without a class has void pixels."""
        return bool(self.counts.any())

    @property
    def num_labelled(self) -> int:
        """Returns the number of examples with a labelled pixel."""
        return sum(fact.labelled_pixels > 0 for fact in self.facts)

    @property
    def num_useful(self) -> int:
        """Returns the number of labelled examples, or of all examples where labels do not exist."""
        return self.num_labelled if self.has_labels else len(self.facts)


class Diagnosis(NamedTuple):
    """The content of the report.

    where     names the data set
    classes   None if the data set could not be opened
    splits    by name
    findings  in the order of the examination
    further   (section, where, classes, splits) of each additional data set
    """

    where: str
    classes: ClassSpec | None
    splits: dict[str, SplitSummary]
    findings: list[Finding]
    further: tuple[tuple[str, str, ClassSpec | None, dict[str, SplitSummary]], ...] = ()


def from_error(error: InputError) -> Finding:
    """Returns an InputError as a finding."""
    expected = f'{error.expected}: {error.meaning}' if error.meaning else error.expected
    return Finding('error', error.where, f'got {error.got}; expected {expected}', error.fix)


def without_repetitions(
    findings: Iterable[Finding], numbers: Mapping[Finding, int] = {}
) -> list[Finding]:
    """Returns each finding once, at its first place.

    A file that belongs to many images, such as a camera file, has the same problem for each image.

    Args:
      findings: in the order of the examination.
      numbers: of the images with the same finding. Above 1, the message states the number.
    """
    merged = []
    for finding in dict.fromkeys(findings):
        number = numbers.get(finding, 0)
        if number > 1:
            finding = finding._replace(message=f'{finding.message} ({number} images)')
        merged.append(finding)
    return merged


def of_refusal(check: Callable[..., Any], *arguments: Any) -> list[Finding]:
    """Calls a check. Returns its InputError as a finding, nothing if it passes."""
    try:
        check(*arguments)
    except InputError as error:
        return [from_error(error)]
    return []


def warnings(advice: Iterable[tuple[str, str, str]]) -> list[Finding]:
    """Returns warnings with the given (where, message, fix)."""
    return [Finding('warning', *entry) for entry in advice]


def has_error(findings: Iterable[Finding]) -> bool:
    """Returns whether one of the findings is an error."""
    return any(finding.severity == 'error' for finding in findings)
