"""Oxford-IIIT Pet: heads of cats and dogs with estimated surface normals."""

import hashlib
import pathlib
from typing import Any
from xml.etree import ElementTree

import numpy as np

from segjax.core import text_files
from segjax.core.notes import Note
from segjax.data import image_files
from segjax.data.builders.base import Item
from segjax.data.builders.unlabelled import (
    UnlabelledDataset,
    check_box,
    square,
    without_partner,
)
from segjax.data.image_files import by_name, find
from segjax.errors import InputError

LISTS = {'train': 'train.txt', 'val': 'val.txt'}
TRAIN_SHARE = 3000 / 3686
"""Share of the images to train on without lists. The official folder gives 3000 and 686 images."""
MIN_LENGTH = 0.1
"""A vector of a file that is shorter than this is no normal."""
DOWNLOAD = 'complete the download'
ADD_NORMALS = 'estimate the normals of this image, or move its .xml file away'


class OxfordPet(UnlabelledDataset):
    """The folders `images`, `annotations/xmls` and `normals`.

    The boxes of heads are in annotations/xmls/NAME.xml. The crop is the square around the box.
    Images without a box are left out.

    normals/NAME.npy or normals/NAME.png has the normals of an image, at the size of the image or of
    the crop. They are no part of the data set: a net must estimate them. .npy: [H, W, 3] with x to
    the right, y down and z forward, so vectors towards the camera have z < 0. .png: 8-bit RGB with
    n = 2 v / 255 - 1, x to the right, y up and z towards the camera. Zero vectors, and black pixels
    of .png files, are background.

    annotations/train.txt and annotations/val.txt have a name on each line, whose further words are
    not read. Without these lists, the MD5 hashes of the names order the images, and the first 3000
    of 3686 are `train`.

    Source: Parkhi et al., "Cats and Dogs" (2012). Which 3000 images were published results trained
    on is not known.
    """

    feature = 'normals'

    def __init__(self, config: Any):
        super().__init__(config.name, config.root)
        self._annotations = self.root / 'annotations'

    def options(self):
        """Returns the version of the reader."""
        return ['oxford_pet', 1]

    def splits(self):
        """Returns ('train', 'val')."""
        for folder in (self.root / 'images', self._annotations / 'xmls', self.root / 'normals'):
            if not folder.is_dir():
                raise InputError(
                    str(folder),
                    got='no such folder',
                    expected='folders images, annotations/xmls and normals',
                    fix=DOWNLOAD,
                )
        return tuple(LISTS)

    def notes_of_folders(self):
        """Returns a note if the names of the images divide them."""
        if self._has_lists():
            return []
        message = 'no lists: a hash of their names divides the images, 3000 of 3686 for train'
        fix = f'put train.txt and val.txt into {self._annotations}'
        return [Note(str(self._annotations), message, fix)]

    def _has_lists(self) -> bool:
        """Returns whether the lists of both splits exist."""
        return all((self._annotations / name).is_file() for name in LISTS.values())

    def _names(self, split: str, with_box: set[str]) -> list[str]:
        """Returns the names of a split.

        Args:
          split: the split.
          with_box: names of the images with a box.

        Raises:
          InputError: a list that cannot be read, or is empty.
        """
        if self._has_lists():
            return read_names(self._annotations / LISTS[split])
        order = sorted(with_box, key=lambda name: hashlib.md5(name.encode()).hexdigest())
        num_train = round(TRAIN_SHARE * len(order))
        return sorted(order[:num_train] if split == 'train' else order[num_train:])

    def scan(self, split):
        """Lists the images of a split that have a box, with their normals."""
        try:
            images = by_name(find(self.root / 'images'), _stem)
            boxes = by_name(find(self._annotations / 'xmls', ('.xml',)), _stem)
            normals = by_name(find(self.root / 'normals', ('.png', '.npy')), _stem)
            names = self._names(split, set(boxes))
        except InputError as error:
            return [], [error]
        place = self._annotations
        chosen = set(names)
        problems = without_partner(chosen - images.keys(), place, 'a name', 'an image', DOWNLOAD)
        problems += without_partner(chosen - boxes.keys(), place, 'a name', 'a box', DOWNLOAD)
        problems += without_partner(
            chosen - normals.keys(), self.root / 'normals', 'a name', 'normals', ADD_NORMALS
        )
        items = []
        for name in names:
            if name in images and name in boxes and name in normals:
                files = {'image': images[name], 'boxes_head': boxes[name], 'normals': normals[name]}
                items.append(Item(split, name, files))
        return items, problems

    def crop(self, item, size):
        """Returns the square around the box of a head."""
        path = item.files['boxes_head']
        box = read_box(path)
        check_box(box, size, str(path))
        return square(box, size)

    def further(self, item, size, part):
        """Returns the normals of a crop, [H, W, 3] float32."""
        path = item.files[self.feature]
        normals = read_normals(path)
        left, top, right, bottom = part.tolist()
        if normals.shape[:2] == size:
            normals = normals[top:bottom, left:right]
        elif normals.shape[:2] != (bottom - top, right - left):
            raise InputError(
                str(path),
                got='{1}x{0} pixels'.format(*normals.shape[:2]),
                expected=f'{size[1]}x{size[0]} pixels, the size of {item.files["image"]}, '
                f'or {right - left}x{bottom - top}, the size of its crop',
            )
        return np.ascontiguousarray(normals)


def _stem(path: pathlib.Path) -> str:
    """Returns the name of a file without its suffix."""
    return path.stem


def read_names(path: pathlib.Path) -> list[str]:
    """Returns the first word of each line of a list, sorted. Lines that start with # are comments.

    Raises:
      InputError: the list cannot be read, or has a name twice.
    """
    expected = 'the name of an image on each line'
    try:
        lines = text_files.read(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), got=str(error), expected=expected) from error
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith('#')]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(str(path), got=f'{twice} twice', expected='every name once')
    return sorted(names)


def read_box(path: pathlib.Path) -> np.ndarray:
    """Returns the box of a head, [4] float64: x0, y0, x1, y1.

    The file has the first and the last column and row of the box, counted from 1.

    Raises:
      InputError: a damaged file, or no box or several boxes.
    """
    expected = 'an .xml file with a single bndbox of xmin, ymin, xmax and ymax'
    try:
        boxes = ElementTree.parse(path).getroot().findall('object/bndbox')
        if len(boxes) != 1:
            raise ValueError(f'{len(boxes)} boxes')
        corners = [float(boxes[0].findtext(key, '')) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise InputError(str(path), got=str(error), expected=expected, fix=DOWNLOAD) from error
    # The first pixel covers 0.5 .. 1.5 in the file, and -0.5 .. 0.5 here.
    return np.array(corners) + np.array([-1.5, -1.5, -0.5, -0.5])


def read_normals(path: pathlib.Path) -> np.ndarray:
    """Returns unit normals towards the camera, and 0 for background, [H, W, 3] float32.

    Raises:
      InputError: a damaged file, another shape, or vectors away from the camera.
    """
    if path.suffix == '.npy':
        vectors = _npy_vectors(path)
    else:
        vectors = _png_vectors(path)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    is_normal = length > MIN_LENGTH
    normals = np.where(is_normal, vectors / np.maximum(length, MIN_LENGTH), 0)
    away = (normals[..., 2] > 0).sum()
    if 2 * away > is_normal.sum():
        raise InputError(
            str(path),
            got=f'{away} of {int(is_normal.sum())} normals away from the camera',
            expected='normals of the visible surface, towards the camera',
            fix='turn the signs: .npy has z forward, so z < 0; .png has z towards the camera',
        )
    return normals.astype(np.float32)


def _npy_vectors(path: pathlib.Path) -> np.ndarray:
    """Returns the vectors of an .npy file, [H, W, 3] float64."""
    expected = 'finite numbers [H, W, 3]'
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            str(path), got=str(error), expected=expected, fix=image_files.COPY_AGAIN
        ) from error
    is_right = vectors.ndim == 3 and vectors.shape[2] == 3 and vectors.dtype.kind in 'iuf'
    if not is_right or not np.isfinite(vectors).all():
        got = f'{vectors.dtype} of shape {vectors.shape}' if not is_right else 'infinity or NaN'
        raise InputError(str(path), got=got, expected=expected)
    return vectors.astype(np.float64)


def _png_vectors(path: pathlib.Path) -> np.ndarray:
    """Returns the vectors of a .png file, [H, W, 3] float64. Black pixels are 0."""
    encoded, _, _ = image_files.read_encoded(path)
    image = image_files.decode(encoded)
    vectors = 2 * image.astype(np.float64) / 255 - 1
    vectors *= np.array([1, -1, -1])
    return np.where(image.any(axis=-1, keepdims=True), vectors, 0)
