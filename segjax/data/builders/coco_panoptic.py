"""COCO's panoptic segmentations: PNG files of segment ids, and a JSON file for each split."""

import pathlib
import threading
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.core.notes import Note
from segjax.data.builders import base
from segjax.data.builders.base import Item
from segjax.data.builders.segments import SegmentDataset, Segments
from segjax.data.image_files import COPY_AGAIN, by_name, find
from segjax.data.labels import (
    COCO_PANOPTIC,
    COCO_PANOPTIC_IDS,
    COCO_THINGS,
    NUM_COCO_THINGS,
    LabelCoding,
)
from segjax.errors import InputError
from segjax.spec import Feature

FOLDERS = {'train': 'train2017', 'val': 'val2017'}
SHOWN = 5
"""Segments that an error names."""
LAST_ID = 256**3 - 1
"""Largest id that the colours of a pixel can hold."""


class Listed(NamedTuple):
    """What the JSON file says about an image.

    size        (height, width)
    ids         [n] int64, ids of the segments
    categories  [n] int64, their category ids
    crowds      [n] bool, whether a segment is a group of objects that were not told apart
    """

    size: tuple[int, int]
    ids: np.ndarray
    categories: np.ndarray
    crowds: np.ndarray


class CocoPanoptic(SegmentDataset):
    """COCO 2017 with panoptic segmentations: 80 things (0..79) and 53 kinds of stuff (80..132).

    `annotations/panoptic_{train,val}2017.json` lists the segments of the PNG files in the folder
    `annotations/panoptic_{train,val}2017` (or `panoptic_{train,val}2017`). A pixel (R, G, B) has
    the segment id R + 256 G + 65536 B, and 0 is unlabelled. Categories have train ids in the
    ascending order of their ids. The class map `things` makes stuff void.

    `instance` has the segment ids of things, 0 for stuff and for crowds (`iscrowd`). It is of kind
    'ids', because segment ids have 24 bits. Images in `{train,val}2017` (or `images/...`) are
    optional: without these folders, examples have no feature 'image'.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019 (arXiv:1801.00868), panopticapi.
    """

    declared = types.MappingProxyType({'instance': Feature('ids')})

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, COCO_PANOPTIC)
        self.class_maps = {'things': COCO_THINGS}
        self._listed: dict[str, dict[str, Listed]] = {}
        self._reading = threading.Lock()

    def options(self):
        """Returns the coding of the categories, and the rule for crowds."""
        return [base.describe(COCO_PANOPTIC_IDS), 'crowds are no instances']

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of category ids, which the segments of a file refer to."""
        return COCO_PANOPTIC_IDS

    def splits(self):
        """Returns the splits whose JSON file exists."""
        splits = tuple(split for split in FOLDERS if self._json(split).is_file())
        if not splits:
            raise InputError(
                str(self.root),
                got='no file annotations/panoptic_train2017.json or panoptic_val2017.json',
                expected='annotations/panoptic_{train,val}2017.json, and folders of this name',
                fix='unpack panoptic_annotations_trainval2017.zip, '
                'and the two archives of PNG files in it',
            )
        return splits

    def _json(self, split: str) -> pathlib.Path:
        """Returns the path of the JSON file of a split."""
        return self.root / 'annotations' / f'panoptic_{FOLDERS[split]}.json'

    def _masks(self, split: str) -> pathlib.Path:
        """Returns the folder of the PNG files of a split."""
        name = f'panoptic_{FOLDERS[split]}'
        above = self.root / name
        return above if above.is_dir() else self.root / 'annotations' / name

    def _images(self, split: str) -> pathlib.Path | None:
        """Returns the folder of the images of a split, None if it does not exist."""
        for folder in (self.root / FOLDERS[split], self.root / 'images' / FOLDERS[split]):
            if folder.is_dir():
                return folder
        return None

    def notes_of_folders(self):
        """Returns a note for each split without images."""
        notes = []
        for split in self.splits():
            if self._images(split) is None:
                message = f'no folder {FOLDERS[split]}: the examples have no images'
                notes.append(Note(str(self.root), message))
        return notes

    def scan(self, split):
        """Pairs the PNG files of a split with the entries of its JSON file, and with images."""
        images = None
        try:
            listed = self._entries(split)
            labels = by_name(find(self._masks(split), ('.png',)), lambda path: path.stem)
            folder = self._images(split)
            if folder is not None:
                images = by_name(find(folder), lambda path: path.stem)
        except InputError as error:
            return [], [error]

        # Images are files of their own, and JSON entries are not.
        names, problems = self._paired(split, listed, labels)
        if images is not None:
            place = str(self._masks(split) / '{name}.png')
            with_images, unpaired = base.pair(split, images, labels, place)
            names = sorted(set(names) & set(with_images))
            problems += unpaired
        items = []
        for name in names:
            files = {'label': labels[name], 'segments': self._json(split)}
            if images is not None:
                files['image'] = images[name]
            items.append(Item(split, name, files))
        return items, problems

    def _paired(
        self, split: str, listed: Mapping[str, Listed], labels: Mapping[str, pathlib.Path]
    ) -> tuple[list[str], list[InputError]]:
        """Returns the names with a PNG file and a JSON entry, and a problem for the remaining."""
        problems = []
        for name in sorted(listed.keys() - labels.keys()):
            problems.append(
                InputError(
                    str(self._masks(split) / f'{name}.png'),
                    got='no such file',
                    expected=f'the segments that {self._json(split)} lists',
                    fix='complete the download',
                )
            )
        for name in sorted(labels.keys() - listed.keys()):
            problems.append(
                InputError(
                    str(labels[name]),
                    got=f'a file that {self._json(split)} does not list',
                    expected='an entry of `annotations` for each file',
                    fix='move it away, or complete the JSON file',
                )
            )
        return sorted(listed.keys() & labels.keys()), problems

    def _entries(self, split: str) -> dict[str, Listed]:
        """Returns the content of the JSON file of a split by name. The file is read once."""
        with self._reading:
            if split not in self._listed:
                self._listed[split] = read_entries(self._json(split))
            return self._listed[split]

    def decode(self, colors, item):
        """Returns train ids and instances, or the differences between the file and its entry."""
        listed = self._entries(item.split)[item.name]
        pixels = colors.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        problems = segment_problems(pixels, listed, item)
        if problems:
            return None, problems

        # Look up the segments of all pixels at once. Position 0 means unlabelled.
        order = np.argsort(listed.ids)
        ids = np.concatenate([[0], listed.ids[order]])
        categories = np.concatenate([[0], listed.categories[order]])
        train_ids = COCO_PANOPTIC_IDS.train_ids[categories]
        is_object = (train_ids < NUM_COCO_THINGS) & ~np.concatenate([[True], listed.crowds[order]])
        places = np.searchsorted(ids, pixels)
        instance = np.where(is_object, ids, 0)[places].astype(np.int32)
        return Segments(train_ids[places], instance), []


def segment_problems(pixels: np.ndarray, listed: Listed, item: Item) -> list[InputError]:
    """Returns the differences between a PNG file and its JSON entry.

    Args:
      pixels: [H, W] int32 segment ids of the PNG file.
      listed: the entry.
      item: names the files.
    """
    where = str(item.files['label'])
    source = item.files['segments'].name
    problems = []
    if pixels.shape != listed.size:
        got = '{1}x{0} pixels'.format(*pixels.shape)
        expected = '{1}x{0} pixels, as {2} says'.format(*listed.size, source)
        problems.append(InputError(where, got=got, expected=expected, fix=COPY_AGAIN))

    # Each segment of the file is listed once, and each listed segment has pixels.
    ids, counts = np.unique(pixels, return_counts=True)
    unlisted = (ids != 0) & ~np.isin(ids, listed.ids)
    if unlisted.any():
        shown = zip(ids[unlisted][:SHOWN], counts[unlisted], strict=False)
        named = ', '.join(f'{number} ({count} pixels)' for number, count in shown)
        got = f'segments that {source} does not list: {named}{_more(unlisted.sum())}'
        expected = 'an entry of `segments_info` for each segment'
        problems.append(InputError(where, got=got, expected=expected, fix=COPY_AGAIN))
    absent = listed.ids[~np.isin(listed.ids, ids)]
    if absent.size:
        named = ', '.join(map(str, absent[:SHOWN]))
        got = f'no pixels of segments that {source} lists: {named}{_more(absent.size)}'
        expected = 'pixels of each segment in `segments_info`'
        problems.append(InputError(where, got=got, expected=expected, fix=COPY_AGAIN))

    # A category that is no category of COCO.
    unknown = np.flatnonzero(~_is_category(listed.categories))
    if unknown.size:
        first = unknown[:SHOWN]
        pairs = zip(listed.categories[first], listed.ids[first], strict=True)
        named = ', '.join(f'{category} of segment {number}' for category, number in pairs)
        problems.append(
            InputError(
                where,
                got=f'categories in {source} that are unknown: {named}{_more(unknown.size)}',
                expected=f'ids of the {COCO_PANOPTIC.num_classes} categories of COCO',
            )
        )
    return problems


def _more(number: int) -> str:
    """Returns the end of a list that shows its first entries only."""
    return f', and {number - SHOWN} more' if number > SHOWN else ''


def _is_category(categories: np.ndarray) -> np.ndarray:
    """Returns [n] bool, whether numbers are category ids of COCO."""
    return np.isin(categories, COCO_PANOPTIC.ids)


def read_entries(path: pathlib.Path) -> dict[str, Listed]:
    """Returns the content of a JSON file of panoptic segmentations by the stem of the PNG file.

    Raises:
      InputError: the file cannot be parsed, lacks a part, or describes a segment or an image twice.
        A category has another name or id than in COCO.
    """
    content = base.read_json(path)
    _check_parts(path, content)
    _check_categories(path, content['categories'])
    entries: dict[str, Listed] = {}
    sizes = {}
    for position, image in enumerate(content['images']):
        try:
            if image['id'] in sizes:
                raise ValueError(f'id {image["id"]!r} twice')
            sizes[image['id']] = (_whole(image['height']), _whole(image['width']))
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(path, f'entry {position} of images', error) from error

    # The segments of each image, as arrays: the whole file takes much more memory.
    for position, annotation in enumerate(content['annotations']):
        try:
            name = pathlib.PurePosixPath(annotation['file_name']).stem
            segments = annotation['segments_info']
            ids = np.array([_whole(each['id']) for each in segments], np.int64)
            categories = np.array([_whole(each['category_id']) for each in segments], np.int64)
            crowds = np.array([_is_crowd(each) for each in segments], bool)
            size = sizes[annotation['image_id']]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed(path, f'entry {position} of annotations', error) from error
        if name in entries or len(np.unique(ids)) < len(ids):
            got = f'{name}.png, or a segment of it, twice'
            raise InputError(str(path), got=got, expected='each file and each segment once')
        entries[name] = Listed(size, ids, categories, crowds)
    return entries


def _whole(value: Any) -> int:
    """Returns an id or a size of a JSON file. Raises ValueError if it cannot be one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= LAST_ID or value != int(value):
        raise ValueError(f'{value!r:.40} is no whole number from 1 to {LAST_ID}')
    return int(value)


def _is_crowd(segment: Mapping[str, Any]) -> bool:
    """Returns whether a segment is a group of objects. Raises ValueError for another value."""
    value = segment.get('iscrowd', 0)
    if value not in (0, 1):
        raise ValueError(f'iscrowd {value!r:.40}, not 0 or 1')
    return bool(value)


def _check_parts(path: pathlib.Path, content: Any) -> None:
    """Raises InputError unless a JSON file has the parts of panoptic segmentations, as lists."""
    parts = ('images', 'annotations', 'categories')
    missing = [part for part in parts if not isinstance(content, dict) or part not in content]
    if missing:
        got = f'no {", ".join(missing)}'
        raise InputError(str(path), got=got, expected=f'{{{", ".join(parts)}}}', fix=COPY_AGAIN)
    for part in parts:
        if not isinstance(content[part], list):
            got = f'{type(content[part]).__name__} {content[part]!r:.60}'
            raise InputError(f'{path}, {part}', got=got, expected='a list', fix=COPY_AGAIN)


def _check_categories(path: pathlib.Path, categories: Any) -> None:
    """Raises InputError for a category of another name or id than in COCO."""
    known = dict(zip(COCO_PANOPTIC.ids, COCO_PANOPTIC.names, strict=True))
    for position, category in enumerate(categories):
        try:
            number = _whole(category['id'])
            name = category['name']
        except (KeyError, TypeError, ValueError) as error:
            raise _malformed(path, f'entry {position} of categories', error) from error
        if known.get(number) != name:
            raise InputError(
                f'{path}, category {number}',
                got=repr(name),
                expected=repr(known[number]) if number in known else 'no category of this id',
                fix='this data set is COCO 2017. Convert other data to masks of ids, '
                "for the data set 'folder'",
            )


def _malformed(path: pathlib.Path, place: str, error: Exception) -> InputError:
    """Returns the error for an entry of a JSON file that lacks a value."""
    return InputError(
        f'{path}, {place}',
        got=f'{type(error).__name__}: {error}',
        expected='images with id, height and width, and annotations with file_name, image_id and '
        'segments_info of id and category_id',
        fix=COPY_AGAIN,
    )
