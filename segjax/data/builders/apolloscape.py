"""Apolloscape's scene parsing: labelled street video with cameras and poses.

Preparation crops and reduces all maps.
"""

import collections
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.data import image_files, transforms
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Inspection, Item, Record
from segjax.data.image_files import by_name, check_links, find, subfolders
from segjax.data.labels import APOLLOSCAPE, APOLLOSCAPE_IDS, LabelCoding
from segjax.errors import InputError

FULL_SIZE = (2710, 3384)
"""(height, width) of the images. The units of cameras and crop are pixels of these images."""

CAMERAS = {
    5: (2304.54786556982, 2305.875668062, 1686.23787612802, 1354.98486439791),
    6: (2300.39065314361, 2301.31478860597, 1713.21615190657, 1342.91100799715),
}
"""fx, fy, cx, cy by the camera's number.

The images are free of distortion (dataset-api, utils/data.py).
"""

SIZE = (256, 832)
"""(height, width) of the records.

This is the size in Papadopoulos et al., Semantic Image Segmentation Guided by Scene Geometry.
"""

ROWS = 1041
"""Rows of the crop: 256 * 3384 / 832, which leaves pixels square."""

TOP = 1350
"""The first row of the crop.

This row is our choice. The paper says only that sky and bonnet are cut off. The cameras look up by
8 to 10 degrees (poses in dataset-api), so the horizon is near row 1700, far below the principal
point. Rows 1350 .. 2390 have the horizon at a third of their height. They lie inside 1232 .. 2500,
the crop of dataset-api for stereo.
"""

SPLITS = ('train', 'val')
VAL_PARTS = 5
"""On a road with a single record, the last of this number of parts is `val`."""

DEPTH_UNIT = 1 / 200  # metres
NO_DEPTH = 65535
FIRST_INSTANCE = 1000  # instanceIds: class id * 1000 + number
MOVABLE = range(APOLLOSCAPE.names.index('car'), APOLLOSCAPE.names.index('tricycle') + 1)
"""Train ids of things that move."""

KINDS = ('ColorImage', 'Label', 'Depth', 'Pose')
ROAD = re.compile(r'road\d+_(ins|seg)')
CAMERA_FOLDER = re.compile(r'Camera[ _]?(\d)')
FRAME_NAME = re.compile(r'\d{6}_\d{9}_Camera_(?P<camera>\d)')
"""Day, time and camera. Sorted names are in the order of time."""
LAYOUT = (
    '{road}_{ins|seg}/{ColorImage|Label}/{record}/{Camera 5}, '
    'or {ColorImage|Label}/{road}_{ins|seg}/...'
)
POSE_LINE = (
    'r00 r01 r02 t0 r10 r11 r12 t1 r20 r21 r22 t2 0 0 0 1 {image}, '
    'R a rotation, for each image of the folder'
)

Frames = Mapping[str, pathlib.Path]
"""Images by name, in the order of time."""


class Place(NamedTuple):
    """A clip: a camera in a record."""

    road: str
    record: str
    camera: int

    def __str__(self) -> str:
        return f'{self.road}/{self.record}/Camera_{self.camera}'


class ImageList(NamedTuple):
    """An official list of frames.

    path   its file
    names  of the frames
    """

    path: pathlib.Path
    names: frozenset[str]


class Apolloscape(FileDataset):
    """Apolloscape: 22 classes, camera 5.

    Files are {road}_{ins|seg}/{type}/{record}/{Camera 5}/{time}_Camera_5{ending}, like in the
    archives. The layout in dataset-api is also valid: {type}/{road}_{ins|seg}/...

        type        ending, content
        ColorImage  .jpg, 3384x2710 or a smaller copy
        Label       _bin.png (or .png), class ids
                    _instanceIds.png, class id * 1000 + number. Smaller numbers are no instance
        Pose        pose.txt, a line for each image: the camera-to-world matrix, by rows, and the
                    name of the image
        Depth       .png, metres * 200, 0 and 65535 not measured. The folder may be
                    {road}_{ins|seg}_depth/Depth

    Crop. Records contain `ROWS` rows, starting at `TOP` (scaled for smaller copies), at `SIZE`.
    Images are averaged over areas. Labels, instances and depth use nearest neighbours. Intrinsics
    follow the crop. Labels are evaluated at `SIZE`.

    Clips. A camera in a record is a clip with a frame each metre. Its frames are numbered from 0 in
    the order of time, independent of their split.

    Features. Instances, depth and poses are features if every frame has them. Whole roads may lack
    them, and `_seg` roads never have instances. A road with depth or poses for only some of its
    frames is an error. Depth shows the static background. So it counts as not measured where the
    label is a thing that moves. The origin of poses is moved to the place of the first image in
    pose.txt. The official origin is more than ten kilometres away, where 32-bit floats resolve no
    better than a millimetre.

    Splits. Files {road}_{ins|seg}_{train|val}.lst, in the root folder or a folder below it, split
    their road. Each line has an image and, behind a tab, its label. Official lists exist for
    road01_ins, road02_ins and road03_ins. Images of these roads in no list are skipped: they are
    the test set, all void. On a road without lists, the last record by name is `val` and the
    remaining records are `train`. If it has a single record, the last fifth of each clip is `val`.

    Source: ApolloScapeAuto/dataset-api, scene_parsing/README.md.
    """

    cameras: tuple[int, ...] = (5,)

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, APOLLOSCAPE)

    def options(self):
        """Returns the coding of the labels, the cameras and the crop."""
        return [base.describe(APOLLOSCAPE_IDS), self.cameras, CAMERAS, FULL_SIZE, TOP, ROWS, SIZE]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return APOLLOSCAPE_IDS

    def instances(self, ids):
        """Returns the ids of single instances, 0 elsewhere."""
        return np.where(ids >= FIRST_INSTANCE, ids, 0)

    def features(self, items):
        """Returns the features whose files all examples have, the intrinsics, and text."""
        common = set.intersection(*(set(item.files) for item in items)) | {'intrinsics'}
        maps = tuple(
            f for f in ('image', 'label', 'instance', 'depth', 'intrinsics', 'pose') if f in common
        )
        return (*maps, 'sequence', 'frame', 'name')

    def splits(self):
        """Returns ('train', 'val'). Raises InputError without images of the cameras."""
        for folder in self._places():
            check_links(folder)
        if not self._folders('ColorImage'):
            raise InputError(
                str(self.root),
                got=f'no images of camera {" or ".join(map(str, self.cameras))}',
                expected=LAYOUT,
                fix='config.data.root is the folder that holds the roads',
            )
        return SPLITS

    def _places(self) -> list[pathlib.Path]:
        """Returns the folders above the cameras' folders: the root, roads, kinds and records."""
        places = [self.root]
        level = [path for path in subfolders(self.root) if _is_kind_or_road(path)]
        for _ in range(2):
            places += level
            level = list(itertools.chain.from_iterable(map(subfolders, level)))
        return places + level

    def _folders(self, kind: str) -> dict[Place, pathlib.Path]:
        """Returns the folders of a kind ('ColorImage', ...) by clip, in order."""
        # Both layouts: {kind}/{road}, and {road}/{kind} or {road}_depth/{kind}.
        roads = [(path.name, path) for path in self.root.glob(f'{kind}/*')]
        for path in self.root.glob(f'*/{kind}'):
            roads.append((path.parent.name.removesuffix('_depth'), path))

        folders = {}
        for road, folder in roads:
            if not ROAD.fullmatch(road):
                continue
            for path in folder.glob('*/Camera*'):
                match = CAMERA_FOLDER.fullmatch(path.name)
                if match and int(match[1]) in self.cameras:
                    folders[Place(road, path.parent.name, int(match[1]))] = path
        return dict(sorted(folders.items()))

    def _lists(self, split: str) -> dict[str, ImageList]:
        """Returns the official lists of a split, by road."""
        ending = f'_{split}.lst'
        lists = {}
        for path in sorted([*self.root.glob(f'*{ending}'), *self.root.glob(f'*/*{ending}')]):
            names = [name_in_list(path, line) for line in _lines(path) if line.strip()]
            of_cameras = frozenset(name for name in names if camera_of(name) in self.cameras)
            lists[path.name.removesuffix(ending)] = ImageList(path, of_cameras)
        return lists

    def scan(self, split):
        """Lists the frames of a split, road by road."""
        # A folder that cannot be read belongs to no split, so the first split reports it.
        folders = {kind: self._folders(kind) for kind in KINDS}
        clips, problems = read_clips(folders['ColorImage'])
        if split != SPLITS[0]:
            problems = []
        try:
            lists = {name: self._lists(name) for name in SPLITS}
        except InputError as error:
            return [], [*problems, error]
        problems += absent(lists[split], clips)

        # Frames of each clip in this split.
        by_road = collections.defaultdict(list)
        for place, names in members(split, clips, lists).items():
            of_clip = {kind: paths[place] for kind, paths in folders.items() if place in paths}
            items, clip_problems = clip_items(split, place, clips[place], names, of_clip)
            by_road[place.road] += items
            problems += clip_problems

        # A road has depth and poses for all its frames, or for none.
        for items in by_road.values():
            for feature in ('depth', 'pose'):
                problems += base.incomplete_feature(feature, items)
        return list(itertools.chain.from_iterable(by_road.values())), problems

    def examine(self, item: Item) -> Inspection:
        """Reads and checks the files of a frame, and crops and reduces its maps."""
        # Read all files before the result, because every problem is wanted.
        record, problems, ids = super().examine(item)
        values, value_problems = _read_depth_and_pose(item)
        problems = [*problems, *value_problems]
        if record is not None:
            problems += _wrong_sizes(item, record.size, values)
        if problems:
            return Inspection(None, problems, ids)

        # Depth shows the background behind things that move.
        encoded_features = {'image', 'label', 'instance'} & set(record.features)
        encoded = {feature: record.features[feature] for feature in encoded_features}
        maps = {feature: image_files.decode(data) for feature, data in encoded.items()}
        if 'depth' in values:
            moves = np.isin(maps['label'], MOVABLE)
            maps['depth'] = np.where(moves, np.float32(0), values['depth'])

        # Crop the maps and encode them again.
        example = cropped(maps, camera_of(item.files['image'].stem))
        features = {**record.features, **values, **example}
        for feature in encoded_features:
            features[feature] = image_files.encode_png(example[feature])
        return Inspection(Record(features, base.histogram(example['label']), SIZE), [], ids)


class ApolloscapeStereo(Apolloscape):
    """Apolloscape with both cameras, 5 and 6.

    Each camera is a clip of its own. Both cameras of a record are in the same split.
    """

    cameras = (5, 6)


# --- the frames of a split ------------------------------------------------------------------------


def _is_kind_or_road(path: pathlib.Path) -> bool:
    """Returns whether a folder in the root folder has the name of a kind or a road."""
    return path.name in KINDS or bool(ROAD.fullmatch(path.name.removesuffix('_depth')))


def camera_of(name: str) -> int:
    """Returns the camera of a frame: 5 for 170908_061454764_Camera_5."""
    return int(FRAME_NAME.fullmatch(name)['camera'])


def image_name(path: pathlib.Path, place: Place) -> str:
    """Returns the name of the frame of an image.

    Raises:
      InputError: another form of file name, or another camera.
    """
    if not FRAME_NAME.fullmatch(path.stem) or camera_of(path.stem) != place.camera:
        expected = f'{{day, 6 digits}}_{{time, 9 digits}}_Camera_{place.camera}{path.suffix}'
        raise InputError(
            str(path), got='another file name', expected=expected, fix='rename it or move it away'
        )
    return path.stem


def name_in_list(path: pathlib.Path, line: str) -> str:
    """Returns the frame that a line of an official list names. Raises InputError if it is none."""
    name = pathlib.PurePosixPath(line.split('\t')[0].strip()).stem
    if not FRAME_NAME.fullmatch(name):
        expected = '.../{day}_{time}_Camera_{number}.jpg, a tab and the label, on each line'
        raise InputError(str(path), got=repr(line), expected=expected)
    return name


def read_clips(
    folders: Mapping[Place, pathlib.Path],
) -> tuple[dict[Place, Frames], list[InputError]]:
    """Returns the images of each clip in the order of time, and the problems of the folders."""
    clips = {}
    problems = []
    for place, folder in folders.items():
        try:
            images = by_name(find(folder), functools.partial(image_name, place=place))
        except InputError as error:
            problems.append(error)
            continue
        clips[place] = {name: images[name] for name in sorted(images)}
    return clips, problems


def members(
    split: str, clips: Mapping[Place, Frames], lists: Mapping[str, Mapping[str, ImageList]]
) -> dict[Place, list[str]]:
    """Returns the frames of every clip that belong to a split, in the order of time.

    Args:
      split: 'train' or 'val'.
      clips: all frames.
      lists: official lists, by split and road.
    """
    records = collections.defaultdict(set)
    for place in clips:
        records[place.road].add(place.record)
    chosen = {}
    for place, images in clips.items():
        frames = list(images)

        # A road with a list is split by its lists.
        if any(place.road in of_split for of_split in lists.values()):
            listed = lists[split][place.road].names if place.road in lists[split] else ()
            chosen[place] = [name for name in frames if name in listed]
            continue

        # Frames from `start` on are `val`: the end of a single record, or all of the last record.
        if len(records[place.road]) == 1:
            start = len(frames) - max(1, len(frames) // VAL_PARTS)
        else:
            start = 0 if place.record == max(records[place.road]) else len(frames)
        chosen[place] = frames[start:] if split == 'val' else frames[:start]
    return chosen


def clip_items(
    split: str,
    place: Place,
    images: Frames,
    names: Sequence[str],
    folders: Mapping[str, pathlib.Path],
) -> tuple[list[Item], list[InputError]]:
    """Returns some frames of a clip as items, and the problems of their files.

    Args:
      split: of the frames.
      place: the clip.
      images: of the whole clip, in the order of time.
      names: of the frames.
      folders: of the clip, by kind.
    """
    if not names:
        return [], []
    if 'Label' not in folders:
        got = f'{len(images)} images and no folder of labels'
        return [], [InputError(str(folders['ColorImage']), got=got, expected=LAYOUT)]

    # Pair images with labels. A label without an image is a problem of every split with frames of
    # the clip.
    labels = {**annotations(folders['Label'], ''), **annotations(folders['Label'], '_bin')}
    of_split = {name: images[name] for name in names}
    of_split_or_alone = {}
    for name, path in labels.items():
        if name in of_split or name not in images:
            of_split_or_alone[name] = path
    label_place = str(folders['Label'] / '{name}_bin.png')
    paired, problems = base.pair(split, of_split, of_split_or_alone, label_place)

    # Add the files that a frame may lack. Numbers count all frames of the clip.
    optional = _optional_files(names, folders)
    numbers = {name: number for number, name in enumerate(images)}
    items = []
    for name in paired:
        files = {'image': images[name], 'label': labels[name]}
        for feature, paths in optional.items():
            if name in paths:
                files[feature] = paths[name]
        item_name = f'{place.road}/{place.record}/{name}'
        items.append(Item(split, item_name, files, str(place), numbers[name]))
    return items, problems


def _optional_files(
    names: Sequence[str], folders: Mapping[str, pathlib.Path]
) -> dict[str, Mapping[str, pathlib.Path]]:
    """Returns the files of instances, depth and poses by frame, for a clip with these folders."""
    files = {
        'instance': annotations(folders['Label'], '_instanceIds'),
        'depth': annotations(folders['Depth'], '') if 'Depth' in folders else {},
        'pose': {},
    }
    if 'Pose' in folders and (folders['Pose'] / 'pose.txt').exists():
        files['pose'] = dict.fromkeys(names, folders['Pose'] / 'pose.txt')
    return files


def annotations(folder: pathlib.Path, ending: str) -> dict[str, pathlib.Path]:
    """Returns the PNG files {name}{ending} of a folder by the name of their frame.

    Files with another form of name are skipped.
    """
    files = {}
    for path in find(folder, ('.png',)):
        name = path.stem.removesuffix(ending)
        if path.stem.endswith(ending) and FRAME_NAME.fullmatch(name):
            files[name] = path
    return files


def absent(lists: Mapping[str, ImageList], clips: Mapping[Place, Frames]) -> list[InputError]:
    """Returns a problem for every list with images that are missing on its road.

    Lists of roads without any image do no harm.
    """
    present = collections.defaultdict(set)
    for place, images in clips.items():
        present[place.road] |= set(images)
    problems = []
    for road, (path, names) in lists.items():
        missing = names - present[road]
        if missing and present[road]:
            got = (
                f'{len(missing)} of {len(names)} images are not there, the first is {min(missing)}'
            )
            fix = 'complete the download, or take the lines out of the list'
            problems.append(
                InputError(
                    str(path), got=got, expected=f'all images of the list in {road}', fix=fix
                )
            )
    return problems


# --- the content of the files ---------------------------------------------------------------------


def camera_matrix(camera: int, size: transforms.Size) -> np.ndarray:
    """Returns the [3, 3] pinhole matrix of a camera, in pixels of whole images of `size`."""
    fx, fy, cx, cy = CAMERAS[camera]
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return transforms.resize_matrix(FULL_SIZE, size) @ matrix


def kept_rows(size: transforms.Size) -> tuple[int, int]:
    """Returns the first row and the number of rows of the crop of images of `size`."""
    return round(TOP * size[0] / FULL_SIZE[0]), round(ROWS * size[0] / FULL_SIZE[0])


def crop_matrix(size: transforms.Size) -> np.ndarray:
    """Returns the 3x3 matrix from pixels of images of `size` to pixels of the records."""
    top, rows = kept_rows(size)
    return transforms.resize_matrix((rows, size[1]), SIZE) @ transforms.translation_matrix(0, -top)


def cropped(maps: Mapping[str, np.ndarray], camera: int) -> dict[str, np.ndarray]:
    """Crops and reduces whole maps to the size of the records, and adds intrinsics.

    Args:
      maps: image [H, W, 3] uint8, label [H, W] uint8, perhaps instance [H, W] uint16 and depth
        [H, W] float32.
      camera: its number.

    Returns:
      The maps at `SIZE`, and intrinsics [3, 3] float32 in their pixels.
    """
    image = maps['image']
    size = image.shape[:2]
    top, rows = kept_rows(size)

    # Bilinear interpolation to a quarter of the width would skip most pixels and alias.
    smooth = cv2.INTER_AREA if size[1] >= SIZE[1] else cv2.INTER_LINEAR
    reduced = cv2.resize(image[top : top + rows], SIZE[::-1], interpolation=smooth)

    # Maps of ids and depth use nearest neighbours, and the camera follows them.
    remaining = {key: value for key, value in maps.items() if key != 'image'}
    remaining['intrinsics'] = camera_matrix(camera, size)
    return {'image': reduced, **transforms.apply_geometry(remaining, crop_matrix(size), SIZE)}


def read_depth(path: pathlib.Path) -> np.ndarray:
    """Reads a depth map, [H, W] float32 metres, 0 = not measured.

    Raises:
      InputError: an error of `image_files.read_ids`, or a file of 8 bits.
    """
    units = image_files.read_ids(path)
    if units.ndim != 2 or units.dtype != np.uint16:
        got = 'three channels' if units.ndim == 3 else '8 bits per pixel'
        raise InputError(str(path), got=got, expected='a 16-bit grey PNG, metres * 200')
    return np.where(units == NO_DEPTH, 0, units * np.float32(DEPTH_UNIT)).astype(np.float32)


def read_pose(path: pathlib.Path, name: str) -> np.ndarray:
    """Reads the pose of a frame, [4, 4] float32, camera to world.

    The origin is the place of the first frame by name.

    Raises:
      InputError: the file cannot be read, has no line for the frame, or its line is malformed.
    """
    numbers = {}
    for line in _lines(path):
        words = line.split()
        if words:
            numbers[words[-1].removesuffix('.jpg')] = words[:-1]
    if name not in numbers:
        raise InputError(str(path), got=f'no line for {name}', expected=POSE_LINE)

    # Move the origin before the rounding to 32 bits.
    first_name = min(numbers)
    pose = _pose(path, name, numbers[name])
    first = _pose(path, first_name, numbers[first_name])
    pose[:3, 3] -= first[:3, 3]
    return pose.astype(np.float32)


def _pose(path: pathlib.Path, name: str, numbers: Sequence[str]) -> np.ndarray:
    """Returns the [4, 4] matrix in a line of a pose file. Raises InputError if it is none."""
    try:
        return np.array(numbers, np.float64).reshape(4, 4)
    except ValueError as error:
        raise InputError(
            str(path), got=f'{" ".join(numbers)!r} for {name}', expected=POSE_LINE
        ) from error


def _read_depth_and_pose(item: Item) -> tuple[dict[str, np.ndarray], list[InputError]]:
    """Returns the depth and the pose of a frame, if it has files for them, and their problems."""
    name = item.files['image'].stem
    readers = {'depth': read_depth, 'pose': functools.partial(read_pose, name=name)}
    values = {}
    problems = []
    for feature, read in readers.items():
        if feature in item.files:
            try:
                values[feature] = read(item.files[feature])
            except InputError as error:
                problems.append(error)
    return values, problems


def _lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a text file. Raises InputError if it cannot be read."""
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        fix = image_files.COPY_AGAIN
        raise InputError(str(path), got=str(error), expected='a text file', fix=fix) from error


def _wrong_sizes(
    item: Item, size: transforms.Size, values: Mapping[str, np.ndarray]
) -> Iterator[InputError]:
    """Yields a problem for an image that is no whole image, and for depth of another size.

    Args:
      item: the frame.
      size: (height, width) of its image.
      values: its depth and pose.
    """
    # Cameras and crop are known for whole images, so the aspect ratio must be the original.
    height, width = size
    full_height, full_width = FULL_SIZE
    shape = f'{full_width}x{full_height}'
    if abs(height * full_width - width * full_height) > full_width or width < SIZE[1] // 4:
        yield InputError(
            str(item.files['image']),
            got=f'{width}x{height} pixels',
            expected=(
                f'{shape}, or a smaller copy of that shape, {SIZE[1] // 4} pixels wide at least'
            ),
            fix='cameras and crop are known for whole images: resize them, do not cut them',
        )
    if 'depth' in values and values['depth'].shape != size:
        yield InputError(
            str(item.files['depth']),
            got='{}x{} pixels'.format(*values['depth'].shape[::-1]),
            expected=f'{width}x{height} pixels, the size of {item.files["image"]}',
        )
