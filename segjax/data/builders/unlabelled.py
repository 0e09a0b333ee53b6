"""Data sets of images without labels, each image with a further feature such as landmarks."""

import abc
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.builders.base import Attempts, FileDataset, Inspection, Item
from segjax.data.labels import LabelCoding
from segjax.errors import InputError
from segjax.spec import NO_CLASSES


class UnlabelledDataset(FileDataset):
    """Images without labels, which may be crops, and a further feature of each image.

    feature  name of the further feature
    """

    feature: str

    def __init__(self, name: str, root: str):
        """Checks that the folder exists. Arguments and errors: `FileDataset`."""
        super().__init__(name, root, NO_CLASSES)

    def coding(self, item: Item) -> LabelCoding:
        """Raises NotImplementedError, because no image has a label."""
        raise NotImplementedError(f'{self.where} has no labels')

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns image, the further feature, and the name."""
        return ('image', self.feature, 'name')

    def crop(self, item: Item, size: tuple[int, int]) -> np.ndarray | None:
        """Returns the part of an image that is stored, None for the whole image.

        Args:
          item: the example.
          size: (height, width) of the image.

        Returns:
          [4] whole numbers x0, y0, x1, y1: columns x0 .. x1 - 1 and rows y0 .. y1 - 1.

        Raises:
          InputError: no such part.
        """
        return None

    @abc.abstractmethod
    def further(self, item: Item, size: tuple[int, int], part: np.ndarray) -> Any:
        """Returns the value of the further feature of a crop.

        Args:
          item: the example.
          size: (height, width) of the image.
          part: [4] of `crop`.

        Raises:
          InputError: a problem of the value.
        """

    def examine(self, item: Item) -> Inspection:
        """Reads and checks an image and its further feature, and crops both."""
        # Read all files before the result, because every problem is wanted.
        attempts = Attempts()
        image = attempts.call(image_files.read_encoded, item.files['image'])
        if image is None:
            return Inspection(None, attempts.problems)
        encoded, size, notes = image
        part = attempts.call(self.crop, item, size)
        whole = part is None
        if whole:
            part = np.array([0, 0, size[1], size[0]])
        value = None
        if not attempts.problems:
            value = attempts.call(self.further, item, size, part)
        if attempts.problems:
            return Inspection(None, attempts.problems)
        self._note(notes)

        # A whole image keeps the bytes of its file.
        left, top, right, bottom = part.tolist()
        if not whole:
            encoded = image_files.encode_png(image_files.decode(encoded)[top:bottom, left:right])
        features = {'image': encoded, self.feature: value, **base.text_features(item)}
        return Inspection(base.without_label(features, (bottom - top, right - left)), [])


def square(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the square around a box, in whole pixels inside of the image.

    The square has the centre and the longer side of the box. It moves into the image, and is
    smaller than the box only where the image is.

    Args:
      box: [4] x0, y0, x1, y1. The image covers [-0.5, W - 0.5] x [-0.5, H - 0.5].
      size: (height, width) of the image.

    Returns:
      [4] whole numbers, as in `UnlabelledDataset.crop`.
    """
    limits = np.array([size[1], size[0]])
    sides = box[2:] - box[:2]
    side = max(1, round(float(sides.max())))
    kept = np.minimum(side, limits)
    centre = (box[:2] + box[2:]) / 2 + 0.5
    first = np.clip(np.round(centre - side / 2).astype(np.int64), 0, limits - kept)
    return np.concatenate([first, first + kept])


def check_box(box: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raises InputError for a box without an area inside the image.

    Args:
      box: [4] x0, y0, x1, y1.
      size: (height, width) of the image.
      where: the file of the box.
    """
    inside = np.minimum(box[2:], [size[1] - 0.5, size[0] - 0.5]) - np.maximum(box[:2], -0.5)
    if np.isfinite(box).all() and (inside > 0).all():
        return
    raise InputError(
        where,
        got=f'the box {box.tolist()}',
        expected=f'x0, y0, x1, y1 with an area inside of {size[1]}x{size[0]} pixels',
    )


def without_partner(
    names: Iterable[str], place: pathlib.Path, kind: str, partner: str, fix: str
) -> list[InputError]:
    """Returns a problem for each name that lacks a partner.

    Args:
      names: of the images or values.
      place: file or folder of the names.
      kind: 'an image' or 'landmarks'.
      partner: words for the missing partner.
      fix: advice.
    """
    problems = []
    for name in sorted(names):
        problems.append(
            InputError(
                f'{name} in {place}', got=f'{kind} without {partner}', expected=partner, fix=fix
            )
        )
    return problems
