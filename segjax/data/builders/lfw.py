"""Labeled Faces in the Wild, deep-funnelled: faces with 68 landmarks, cropped to a box."""

import pathlib
from typing import Any

import numpy as np

from segjax.core import text_files
from segjax.data import face_points
from segjax.data.builders import landmarks
from segjax.data.builders.base import Item
from segjax.data.builders.landmark_folder import (
    ADD_LANDMARKS,
    landmark_places,
    landmarks_of,
)
from segjax.data.builders.unlabelled import (
    UnlabelledDataset,
    check_box,
    square,
    without_partner,
)
from segjax.errors import InputError

FOLDER = 'lfw-deepfunneled'
LISTS = {'train': 'peopleDevTrain.txt', 'val': 'peopleDevTest.txt'}
"""View 1 of the data set: 4038 images to train and 1711 to evaluate."""
MARGIN = 1.3
"""Side of the crop in larger extents of the landmarks, without a file of boxes."""
DOWNLOAD = 'complete the download'


class Lfw(UnlabelledDataset):
    """The folder `lfw-deepfunneled` with NAME/NAME_0001.jpg, the two lists, landmarks and boxes.

    The lists are peopleDevTrain.txt (split `train`) and peopleDevTest.txt (split `val`). The
    landmarks are in landmarks.npz or landmarks.csv, under names as NAME_0001, or in .pts files next
    to the images. Neither landmarks nor boxes are part of the data set.

    boxes.npz or boxes.csv has the box x0, y0, x1, y1 of the face in each image. The crop is the
    square around the box. Without boxes, the crop is the square of 1.3 times the larger extent of
    the landmarks, around the centre of their extent.

    Source: Huang et al., "Labeled Faces in the Wild" (2007), and "Learning to align from scratch"
    (2012).
    """

    feature = 'points_face'

    def __init__(self, config: Any):
        self.declared = {self.feature: face_points.FEATURE}
        super().__init__(config.name, config.root)
        self._images = self.root / FOLDER
        self._boxes = landmarks.find_table(self.root, 'boxes')

    def options(self):
        """Returns the version of the reader, and the margin of crops without boxes."""
        return ['lfw', 1, MARGIN]

    def splits(self):
        """Returns the splits whose list exists."""
        splits = tuple(split for split, name in LISTS.items() if (self.root / name).is_file())
        if not splits or not self._images.is_dir():
            missing = FOLDER if splits else ' and '.join(LISTS.values())
            raise InputError(
                str(self.root),
                got=f'no {missing}',
                expected=f'the folder {FOLDER}, and {" and ".join(LISTS.values())}',
                fix=DOWNLOAD,
            )
        return splits

    def scan(self, split):
        """Lists the images of the people of a split, with their landmarks."""
        path = self.root / LISTS[split]
        try:
            people = read_people(path)
            places = landmark_places(self.root, self._images)
            boxes = self._box_table()
        except InputError as error:
            return [], [error]

        # .pts files have names with the folder of the person.
        places = {name.rpartition('/')[2]: place for name, place in places.items()}
        files = {}
        for person, number in people.items():
            for image in range(1, number + 1):
                name = f'{person}_{image:04}'
                files[name] = self._images / person / f'{name}.jpg'
        absent = {name for name, file in files.items() if not file.is_file()}
        present = files.keys() - absent
        problems = without_partner(absent, path, 'a name', 'an image', DOWNLOAD)
        problems += without_partner(
            present - places.keys(), self._images, 'an image', 'landmarks', ADD_LANDMARKS
        )
        if boxes is not None:
            problems += without_partner(
                present - boxes.keys(), self._boxes, 'an image', 'a box', 'add the box of the face'
            )
        items = []
        for name in sorted(present & places.keys()):
            if boxes is not None and name not in boxes:
                continue
            of_item = {'image': files[name], self.feature: places[name]}
            if boxes is not None:
                of_item['boxes_face'] = self._boxes
            items.append(Item(split, name, of_item))
        return items, problems

    def _box_table(self) -> dict[str, np.ndarray] | None:
        """Returns the boxes by name, None without a file of boxes."""
        if self._boxes is None:
            return None
        return landmarks.read_table(self._boxes, 'boxes', (4,))

    def crop(self, item, size):
        """Returns the square around the box of a face, or around its landmarks."""
        boxes = self._box_table()
        if boxes is not None:
            check_box(boxes[item.name], size, f'{item.name} in {self._boxes}')
            return square(boxes[item.name], size)
        path = item.files[self.feature]
        points = landmarks_of(path, item.name, size)
        if np.isnan(points).all():
            where = f'{item.name} in {path}'
            raise InputError(where, got='no landmark', expected='a box, or a landmark')
        low = np.nanmin(points, axis=0)
        high = np.nanmax(points, axis=0)
        half = MARGIN * (high - low).max() / 2
        centre = (low + high) / 2
        return square(np.concatenate([centre - half, centre + half]), size)

    def further(self, item, size, part):
        """Returns the landmarks in pixels of the crop, [68, 2] float32."""
        points = landmarks_of(item.files[self.feature], item.name, size)
        return points - part[:2].astype(np.float32)


def read_people(path: pathlib.Path) -> dict[str, int]:
    """Returns the number of images of each person in a list of LFW.

    The first line has the number of people. Each further line has a name and a number.

    Raises:
      InputError: the list is damaged or incomplete.
    """
    expected = 'the number of people, and a line with name and number of images for each person'
    try:
        first, *lines = text_files.read(path).split('\n')
        people = {}
        for line in lines:
            if line.strip():
                name, number = line.split()
                people[name] = int(number)
        if len(people) != int(first):
            raise ValueError(f'{len(people)} people of {first.strip()}')
    except (OSError, ValueError) as error:
        raise InputError(str(path), got=str(error), expected=expected, fix=DOWNLOAD) from error
    return people
