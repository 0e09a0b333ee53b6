"""Data sets whose label files hold a class and an instance of every pixel in their colours."""

import abc
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Inspection, Item, Record
from segjax.errors import InputError


class Segments(NamedTuple):
    """The content of a label file.

    label     [H, W] uint8 train ids, 255 = void
    instance  [H, W] int32, a number for each instance, 0 where there is no instance
    """

    label: np.ndarray
    instance: np.ndarray


class SegmentDataset(FileDataset):
    """A data set of RGB label files. The file `label` gives the features `label` and `instance`.

    Images are optional. The examples have images if every example has an image.
    """

    @abc.abstractmethod
    def decode(self, colors: np.ndarray, item: Item) -> tuple[Segments | None, list[InputError]]:
        """Returns the content of a label file, None if it has problems, and the problems.

        Args:
          colors: [H, W, 3] uint8.
          item: its example.
        """

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns label, instance and name, and image if all examples have an image."""
        with_images = all('image' in item.files for item in items)
        return (*(('image',) if with_images else ()), 'label', 'instance', 'name')

    def examine(self, item: Item) -> Inspection:
        """Reads and checks the image and the segments of an example."""
        # Read both files before the result, because every problem is wanted.
        attempts = base.Attempts()
        image = None
        if 'image' in item.files:
            image = attempts.call(image_files.read_encoded, item.files['image'])
        where = str(item.files['label'])
        colors = attempts.call(_read_colors, item)
        segments = None
        if colors is not None:
            attempts.call(base.check_size, where, colors, item, image[1] if image else None)
            segments, problems = self.decode(colors, item)
            attempts.problems += problems
        if attempts.problems or segments is None:
            return Inspection(None, attempts.problems)

        # Encode the example. Ids of 32 bits are stored as an array.
        features = {
            'label': image_files.encode_png(segments.label),
            'instance': segments.instance.astype(np.int32),
            'name': item.name,
        }
        if 'instance' not in self.declared:
            features['instance'] = image_files.encode_png(segments.instance.astype(np.uint16))
        if image is not None:
            image_bytes, _, notes = image
            features['image'] = image_bytes
            self._note(notes)
        histogram = base.histogram(segments.label)
        return Inspection(Record(features, histogram, segments.label.shape), [])


def _read_colors(item: Item) -> np.ndarray:
    """Returns the colours [H, W, 3] uint8 of the label file of an example.

    Raises:
      InputError: the file cannot be read, or has a single channel.
    """
    path = item.files['label']
    colors = image_files.read_mask(path).ids
    if colors.ndim != 3:
        raise InputError(
            str(path),
            got='one channel',
            expected='three channels (RGB), which hold the class and the instance of each pixel',
            fix=image_files.COPY_AGAIN,
        )
    return colors
