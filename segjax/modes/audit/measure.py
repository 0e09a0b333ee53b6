"""Measures the answers of a net: sums per image on the device, and their record on the host.

Posteriors are measured at once and not kept. An image leaves a few numbers per answer (`defences`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError
from segjax.metrics import confusion
from segjax.metrics.membership_signals import class_signals, image_signals, pixel_signals
from segjax.modes.audit.defences import answers
from segjax.protocol import Array

SIGNALS = ('loss', 'confidence', 'logit')
"""Signals of an image, in the order of the last axis of all arrays of signals."""

PARTS = ('boundary', 'interior')
"""Parts of an image that are attacked on their own."""

REACH = 3
"""Pixels of a boundary are less than REACH rows and columns away from another class."""

POSTERIOR_EDGES = np.linspace(0, 1, 51)
"""Bins of the posterior of the predicted class."""

LOGIT_EDGES = np.linspace(-20, 20, 51)
"""Bins of the logit of the true class. The first and the last bin hold all further pixels."""


class Sums(NamedTuple):
    """Numbers of B images, of D answers, 3 signals and C classes.

    signals     [B, D, 3] means over the labelled pixels
    parts       [B, 2, 3] the same over boundary and interior, without a defence. NaN for no pixel
    classes     [B, C, 3] the same over the pixels of each class, without a defence
    matrix      [B, D, C + 1, C + 1] confusion matrices
    posteriors  [B, D, bins] labelled pixels by the posterior of the predicted class
    logits      [B, D, bins] labelled pixels by the logit of the true class
    """

    signals: Array
    parts: Array
    classes: Array
    matrix: Array
    posteriors: Array
    logits: Array


def sums(posteriors: Array, label: Array, keys: Array) -> Sums:
    """Measures posteriors of images, as they are and behind each defence.

    Args:
      posteriors: [B, H, W, C].
      label: [B, H, W] train ids. Pixels without a class do not count.
      keys: [B] of the defences.
    """
    # One image at a time: each answer is as large as the posteriors.
    return jax.lax.map(lambda row: _of_image(*row), (posteriors, label, keys))


def _of_image(posteriors: Array, label: Array, key: Array) -> Sums:
    """Measures an image: `Sums` without the axis of images."""
    num_classes = posteriors.shape[-1]
    posteriors = posteriors[None].astype(jnp.float32)
    label = label[None]
    rows = []
    for answer in answers(num_classes).values():
        rows.append(_of_answer(answer(posteriors, keys=key[None]), label))
    of_answers = {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}

    # Parts and classes are measured without a defence.
    of_parts = image_signals(posteriors, label, REACH)
    parts = [jnp.stack([of_parts[f'{part}_{name}'][0] for name in SIGNALS]) for part in PARTS]
    of_classes = class_signals(posteriors, label)
    classes = jnp.stack([of_classes[name][0] for name in SIGNALS], -1)
    return Sums(parts=jnp.stack(parts), classes=classes, **of_answers)


def _of_answer(posteriors: Array, label: Array) -> dict[str, Array]:
    """Measures an answer for an image: the fields of `Sums` that have an axis of answers.

    Args:
      posteriors: [1, H, W, C].
      label: [1, H, W].
    """
    num_classes = posteriors.shape[-1]
    means = image_signals(posteriors, label)
    of_pixels = pixel_signals(posteriors, label)
    valid = (label >= 0) & (label < num_classes)
    prediction = jnp.argmax(posteriors, -1)
    return {
        'signals': jnp.stack([means[name][0] for name in SIGNALS]),
        'matrix': confusion.confusion(prediction, label, num_classes, jnp.ones(1)).sum,
        'posteriors': _counts(of_pixels['confidence'], valid, POSTERIOR_EDGES),
        'logits': _counts(of_pixels['logit'], valid, LOGIT_EDGES),
    }


def _counts(values: Array, valid: Array, edges: np.ndarray) -> Array:
    """Counts the valid values by equal bins, [bins] int32. The end bins hold all further values."""
    num_bins = len(edges) - 1
    width = (edges[-1] - edges[0]) / num_bins
    place = jnp.floor((values - edges[0]) / width).astype(jnp.int32)
    place = jnp.clip(place, 0, num_bins - 1)
    return jnp.zeros(num_bins, jnp.int32).at[place.ravel()].add(valid.ravel().astype(jnp.int32))


# --- record ---------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Numbers of all images that a net was asked about.

    names         of the N images with a labelled pixel
    member        [N] bool
    answers       names of the D answers
    classes       names of the C classes
    signals       [N, D, 3], parts [N, 2, 3] and classes_signals [N, C, 3], as in `Sums`
    label_pixels  [N, C] pixels of each class
    accuracy      [N] share of the labelled pixels that are right, without a defence
    matrices      [2, D, C + 1, C + 1] sums of the confusion matrices of non-members and of members
    posteriors    [2, D, bins], and logits: histograms of non-members and of members
    unlabelled    names of images without a labelled pixel, which are left out
    kept          [N + unlabelled] bool, which of the images in question are among the N images
    """

    names: tuple[str, ...]
    member: np.ndarray
    answers: tuple[str, ...]
    classes: tuple[str, ...]
    signals: np.ndarray
    parts: np.ndarray
    class_signals: np.ndarray
    label_pixels: np.ndarray
    accuracy: np.ndarray
    matrices: np.ndarray
    posteriors: np.ndarray
    logits: np.ndarray
    unlabelled: tuple[str, ...]
    kept: np.ndarray

    def signal(self, name: str, answer: str) -> np.ndarray:
        """Returns a signal of all images, [N]."""
        return self.signals[:, self.answers.index(answer), SIGNALS.index(name)]


class Record:
    """Collects the numbers of images, one after the other."""

    def __init__(self, classes: Sequence[str]):
        """Begins without an image.

        Args:
          classes: names of the classes.
        """
        self._classes = tuple(classes)
        self._names: list[str] = []
        self._member: list[bool] = []
        self._unlabelled: list[str] = []
        self._kept: list[bool] = []
        self._rows: dict[str, list[np.ndarray]] = {}
        self._totals: dict[str, np.ndarray] = {}

    def add(self, name: str, member: bool, of_image: Sums) -> bool:
        """Adds an image, and returns whether it has a labelled pixel.

        Args:
          name: of the image.
          member: whether it is a member.
          of_image: its numbers, without the axis of images.
        """
        matrix = np.asarray(of_image.matrix[0], np.int64)
        pixels = matrix.sum(1)[:-1]
        self._kept.append(bool(pixels.sum()))
        if not self._kept[-1]:
            self._unlabelled.append(name)
            return False
        self._names.append(name)
        self._member.append(member)
        rows = {
            'signals': of_image.signals,
            'parts': of_image.parts,
            'class_signals': of_image.classes,
            'label_pixels': pixels,
            'accuracy': np.trace(matrix) / matrix.sum(),
        }
        for field, value in rows.items():
            self._rows.setdefault(field, []).append(np.asarray(value))

        # Counts are summed over the images of a kind.
        totals = {
            'matrices': of_image.matrix,
            'posteriors': of_image.posteriors,
            'logits': of_image.logits,
        }
        for field, value in totals.items():
            counts = np.asarray(value, np.int64)
            total = self._totals.setdefault(field, np.zeros((2, *counts.shape), np.int64))
            total[int(member)] += counts
        return True

    def measured(self) -> Measured:
        """Returns the numbers of all images that were added.

        Raises:
          InputError: no image has a labelled pixel.
        """
        if not self._names:
            raise InputError(
                'images under attack',
                got=f'{len(self._unlabelled)} images, none with a labelled pixel',
                expected='labels of members and of non-members',
                fix='other lists of --members and --nonmembers',
            )
        rows: Mapping[str, np.ndarray] = {
            field: np.stack(values) for field, values in self._rows.items()
        }
        return Measured(
            names=tuple(self._names),
            member=np.array(self._member),
            answers=tuple(answers(len(self._classes))),
            classes=self._classes,
            unlabelled=tuple(self._unlabelled),
            kept=np.array(self._kept),
            **rows,
            **self._totals,
        )
