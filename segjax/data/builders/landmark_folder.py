"""Faces of the user: a folder of images with 68 landmarks for each split."""

import pathlib
from typing import Any

import numpy as np

from segjax.data import face_points
from segjax.data.builders import landmarks
from segjax.data.builders.base import Item
from segjax.data.builders.unlabelled import UnlabelledDataset, without_partner
from segjax.data.image_files import by_name, by_relative_name, find, relative_name
from segjax.errors import InputError

SPLITS = ('train', 'val', 'test')
IMAGE_FOLDERS = ('images', 'image')
ADD_LANDMARKS = 'add the landmarks, or move the image away'
ADD_IMAGE = 'add the image, or remove the landmarks'


class LandmarkFolder(UnlabelledDataset):
    """Folders `train`, `val`, `test` of images with 68 landmarks each.

    Images lie in the folder of a split, or in its folder `images` or `image`. A split has its
    landmarks in landmarks.npz, in landmarks.csv, or in .pts files next to the images
    (segjax/data/builders/landmarks.py).
    """

    feature = 'points_face'

    def __init__(self, config: Any):
        self.declared = {self.feature: face_points.FEATURE}
        super().__init__(config.name, config.root)

    def options(self):
        """Returns the version of the reader."""
        return ['landmark_folder', 1]

    def splits(self):
        """Returns the splits whose folder exists."""
        splits = tuple(split for split in SPLITS if (self.root / split).is_dir())
        if not splits:
            raise InputError(
                str(self.root),
                got='no folder train, val or test',
                expected='folders train and val with images and landmarks',
            )
        return splits

    def scan(self, split):
        """Pairs the images of a split with their landmarks."""
        folder = self.root / split
        inner = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), folder)
        try:
            images = by_relative_name(inner)
            places = landmark_places(folder, inner)
        except InputError as error:
            return [], [error]
        items = []
        for name in sorted(images.keys() & places.keys()):
            items.append(Item(split, name, {'image': images[name], self.feature: places[name]}))
        problems = without_partner(
            images.keys() - places.keys(), inner, 'an image', 'landmarks', ADD_LANDMARKS
        )
        problems += without_partner(
            places.keys() - images.keys(), folder, 'landmarks', 'an image', ADD_IMAGE
        )
        return items, problems

    def further(self, item, size, part):
        """Returns the landmarks of an image, [68, 2] float32."""
        return landmarks_of(item.files[self.feature], item.name, size)


def landmark_places(folder: pathlib.Path, images: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the file with the landmarks of each name.

    Args:
      folder: that holds a table of landmarks.
      images: folder of the images, and of .pts files if there is no table.

    Raises:
      InputError: no landmarks, two tables, or a damaged table.
    """
    table = landmarks.find_table(folder, 'landmarks')
    if table is not None:
        shape = face_points.FEATURE.shape
        return dict.fromkeys(landmarks.read_table(table, 'points', shape), table)
    files = by_name(find(images, ('.pts',)), lambda path: relative_name(path, images))
    if not files:
        raise InputError(
            str(folder),
            got='no landmarks',
            expected='landmarks.npz, landmarks.csv, or .pts files next to the images',
        )
    return files


def landmarks_of(path: pathlib.Path, name: str, size: tuple[int, int]) -> np.ndarray:
    """Returns the landmarks of an image, [68, 2] float32.

    Args:
      path: of the file with the landmarks.
      name: of the image.
      size: (height, width) of the image.

    Raises:
      InputError: a damaged file, or landmarks far from the image.
    """
    if path.suffix == '.pts':
        points = landmarks.read_pts(path)
    else:
        points = landmarks.read_table(path, 'points', face_points.FEATURE.shape)[name]
    landmarks.check_places(points, size, f'{name} in {path}')
    return points
