"""Apolloscape's scene parsing: labelled street video with cameras and poses, cropped and reduced when prepared."""

import collections
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from segjax.data import image_files, transforms
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Inspection, Item, Record
from segjax.data.image_files import by_name, check_links, find
from segjax.data.labels import APOLLOSCAPE, APOLLOSCAPE_IDS, LabelCoding
from segjax.errors import InputError

FULL_SIZE = (2710, 3384)
"""(height, width) of the images; cameras and crop are given in their pixels."""

CAMERAS = {
    5: (2304.54786556982, 2305.875668062, 1686.23787612802, 1354.98486439791),
    6: (2300.39065314361, 2301.31478860597, 1713.21615190657, 1342.91100799715),
}
"""fx, fy, cx, cy by the camera's number; the images are free of distortion (dataset-api, utils/data.py)."""

SIZE = (256, 832)
"""(height, width) of the records, that of Papadopoulos et al., Semantic Image Segmentation Guided by Scene Geometry."""

ROWS = 1041
"""Rows that are kept: 256 * 3384 / 832, which leaves pixels square."""

TOP = 1350
"""The first row that is kept. A choice of ours: the paper says only that sky and bonnet are cut off. The cameras look
up by 8 to 10 degrees (poses in dataset-api), so that the horizon is near row 1700, far below the principal point. Rows
1350 .. 2390 have it at a third of their height and lie inside 1232 .. 2500, what dataset-api keeps for stereo."""

SPLITS = ('train', 'val')
VAL_PARTS = 5
"""Of a road with a single record, one part in so many is `val`."""

DEPTH_UNIT = 1 / 200  # metres
NO_DEPTH = 65535
FIRST_INSTANCE = 1000  # instanceIds: class id * 1000 + number
MOVABLE = range(APOLLOSCAPE.names.index('car'), APOLLOSCAPE.names.index('tricycle') + 1)

KINDS = ('ColorImage', 'Label', 'Depth', 'Pose')
ROAD = re.compile(r'road\d+_(ins|seg)')
CAMERA_FOLDER = re.compile(r'Camera[ _]?(\d)')
FRAME_NAME = re.compile(
    r'\d{6}_\d{9}_Camera_(?P<camera>\d)'
)  # day and time: names in order are frames in order
LAYOUT = '{road}_{ins|seg}/{ColorImage|Label}/{record}/{Camera 5}, or {ColorImage|Label}/{road}_{ins|seg}/...'
POSE_LINE = 'r00 r01 r02 t0 r10 r11 r12 t1 r20 r21 r22 t2 0 0 0 1 {image}, R a rotation, for each image of the folder'

Frames = Mapping[str, pathlib.Path]  # by name, in the order of time


class Place(NamedTuple):
    """A camera in a record, that is, a clip."""

    road: str
    record: str
    camera: int

    def __str__(self) -> str:
        return f'{self.road}/{self.record}/Camera_{self.camera}'


class ImageList(NamedTuple):
    """An official list: its file, and the names of the frames in it."""

    path: pathlib.Path
    names: frozenset[str]


class Apolloscape(FileDataset):
    """{road}_{ins|seg}/{type}/{record}/{Camera 5}/{time}_Camera_5{ending}: 22 classes, camera 5.

    This is how the archives unpack; {type}/{road}_{ins|seg}/..., as dataset-api describes it, will do as well.

        ColorImage  .jpg, 3384x2710 or a smaller copy
        Label       _bin.png (or .png): class ids; _instanceIds.png: class id * 1000 + number, less: no instance
        Pose        pose.txt: for each image the camera-to-world matrix, by rows, and the name of the image
        Depth       .png: metres * 200, 0 and 65535 not measured; may lie in {road}_{ins|seg}_depth/Depth

    Records hold `ROWS` rows from `TOP` on (scaled, for smaller copies) at `SIZE`: images averaged over areas, labels,
    instances and depth by nearest neighbours, intrinsics moved along. Labels are evaluated at that size, too.

    A camera in a record is a clip. Its frames, one each metre, are numbered from 0 in the order of time, whatever
    split they belong to.

    Instances, depth and poses are features where every frame has them. Whole roads may lack them, and `_seg` roads
    never have instances; a road of which some frames have depth or poses and some not is an error. Depth shows the
    static background, hence counts as not measured where the label is a thing that moves. Poses are moved to a world
    whose origin is the place of the first image in pose.txt: the official origin is more than ten kilometres away,
    where 32-bit floats resolve no better than a millimetre.

    Roads with files {road}_{ins|seg}_{train|val}.lst, in the root folder or one below it, are split by them; each line
    is an image and, behind a tab, its label. There are official ones for road01_ins, road02_ins and road03_ins;
    images in neither are left out (they are the test set, all void). Of other roads the last record by name is
    `val`, the others `train`; of a single record, the last fifth of its clips.

    Source: ApolloScapeAuto/dataset-api, scene_parsing/README.md.
    """

    cameras: tuple[int, ...] = (5,)

    def __init__(self, config: Any):
        super().__init__(config.name, config.root, APOLLOSCAPE)

    def options(self):
        return [base.describe(APOLLOSCAPE_IDS), self.cameras, CAMERAS, FULL_SIZE, TOP, ROWS, SIZE]

    def coding(self, item: Item) -> LabelCoding:
        return APOLLOSCAPE_IDS

    def instances(self, ids):
        return np.where(ids >= FIRST_INSTANCE, ids, 0)

    def features(self, items):
        common = set.intersection(*(set(item.files) for item in items)) | {'intrinsics'}
        maps = tuple(
            f for f in ('image', 'label', 'instance', 'depth', 'intrinsics', 'pose') if f in common
        )
        return (*maps, 'sequence', 'frame', 'name')

    def splits(self):
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
        """Returns the folders above those of the cameras: the root folder, roads, kinds and records."""
        level = [self.root]
        found = [self.root]
        for _ in range(3):
            below = (path for folder in level for path in folder.iterdir())
            level = [path for path in below if path.is_dir() and not path.name.startswith('.')]
            if len(found) == 1:
                level = [
                    path
                    for path in level
                    if path.name in KINDS or ROAD.fullmatch(path.name.removesuffix('_depth'))
                ]
            found += level
        return found

    def _folders(self, kind: str) -> dict[Place, pathlib.Path]:
        """The clips' folders of one kind ('ColorImage', ...), in order."""
        roads = [(path.name, path) for path in self.root.glob(f'{kind}/*')]
        roads += [
            (path.parent.name.removesuffix('_depth'), path) for path in self.root.glob(f'*/{kind}')
        ]
        found = {}
        for road, folder in roads:
            for path in folder.glob('*/Camera*') if ROAD.fullmatch(road) else ():
                match = CAMERA_FOLDER.fullmatch(path.name)
                if match and int(match[1]) in self.cameras:
                    found[Place(road, path.parent.name, int(match[1]))] = path
        return dict(sorted(found.items()))

    def _lists(self, split: str) -> dict[str, ImageList]:
        """Official lists of a split, by road."""
        ending = f'_{split}.lst'
        found = {}
        for path in sorted([*self.root.glob(f'*{ending}'), *self.root.glob(f'*/*{ending}')]):
            names = [name_in_list(path, line) for line in _lines(path) if line.strip()]
            ours = frozenset(name for name in names if camera_of(name) in self.cameras)
            found[path.name.removesuffix(ending)] = ImageList(path, ours)
        return found

    def scan(self, split):
        folders = {kind: self._folders(kind) for kind in KINDS}
        clips, problems = read_clips(folders['ColorImage'])
        if split != SPLITS[0]:
            problems = []  # a folder that cannot be read is in no split: it is told of once
        try:
            lists = {name: self._lists(name) for name in SPLITS}
        except InputError as error:
            return [], [*problems, error]
        problems += absent(lists[split], clips)
        by_road = collections.defaultdict(list)
        for place, names in members(split, clips, lists).items():
            of_clip = {kind: found[place] for kind, found in folders.items() if place in found}
            items, wrong = clip_items(split, place, clips[place], names, of_clip)
            by_road[place.road] += items
            problems += wrong
        for items in by_road.values():
            problems += [
                p for feature in ('depth', 'pose') for p in base.incomplete_feature(feature, items)
            ]
        return [item for items in by_road.values() for item in items], problems

    def examine(self, item: Item) -> Inspection:
        record, problems, ids = super().examine(item)
        problems = [*problems]
        name = item.files['image'].stem
        readers = {'depth': read_depth, 'pose': functools.partial(read_pose, name=name)}
        values = {}
        for feature, read in readers.items():
            if feature in item.files:
                try:
                    values[feature] = read(item.files[feature])
                except InputError as error:
                    problems.append(error)
        if record is not None:
            problems += _wrong_sizes(item, record.size, values)
        if problems:
            return Inspection(None, problems, ids)
        whole = {'image', 'label', 'instance'} & set(record.features)
        maps = {feature: _decode(record.features[feature]) for feature in whole}
        if 'depth' in values:
            maps['depth'] = np.where(
                np.isin(maps['label'], MOVABLE), np.float32(0), values['depth']
            )
        example = cropped(maps, camera_of(name))
        encoded = {feature: image_files.encode_png(example[feature]) for feature in whole}
        features = {**record.features, **values, **example, **encoded}
        return Inspection(Record(features, base.histogram(example['label']), SIZE), [], ids)


class ApolloscapeStereo(Apolloscape):
    """Both cameras, 5 and 6, each a clip of its own; a record is in one split with both."""

    cameras = (5, 6)


# --- which frames there are -------------------------------------------------------------------------------------------


def camera_of(name: str) -> int:
    """5 for 170908_061454764_Camera_5."""
    return int(FRAME_NAME.fullmatch(name)['camera'])


def image_name(path: pathlib.Path, place: Place) -> str:
    if not FRAME_NAME.fullmatch(path.stem) or camera_of(path.stem) != place.camera:
        expected = f'{{day, 6 digits}}_{{time, 9 digits}}_Camera_{place.camera}{path.suffix}'
        raise InputError(
            str(path), got='another file name', expected=expected, fix='rename it or move it away'
        )
    return path.stem


def name_in_list(path: pathlib.Path, line: str) -> str:
    """The frame that a line of an official list names."""
    name = pathlib.PurePosixPath(line.split('\t')[0].strip()).stem
    if not FRAME_NAME.fullmatch(name):
        expected = '.../{day}_{time}_Camera_{number}.jpg, a tab and the label, on each line'
        raise InputError(str(path), got=repr(line), expected=expected)
    return name


def read_clips(
    folders: Mapping[Place, pathlib.Path],
) -> tuple[dict[Place, Frames], list[InputError]]:
    """The images of each clip in the order of time, and what is wrong with the folders."""
    clips, problems = {}, []
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
    """The frames of every clip that belong to a split, in the order of time.

    Args:
      split: 'train' or 'val'.
      clips: all frames.
      lists: official ones, by split and road.
    """
    records = collections.defaultdict(set)
    for place in clips:
        records[place.road].add(place.record)
    chosen = {}
    for place, images in clips.items():
        frames = list(images)
        if any(place.road in of_split for of_split in lists.values()):
            listed = lists[split][place.road].names if place.road in lists[split] else ()
            chosen[place] = [name for name in frames if name in listed]
            continue
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
    """Some frames of a clip as items, and what is wrong with their files.

    Args:
      split: that the frames belong to.
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
    labels = {**annotations(folders['Label'], ''), **annotations(folders['Label'], '_bin')}
    optional = {
        'instance': annotations(folders['Label'], '_instanceIds'),
        'depth': annotations(folders['Depth'], '') if 'Depth' in folders else {},
        'pose': {},
    }
    if 'Pose' in folders and (folders['Pose'] / 'pose.txt').exists():
        optional['pose'] = dict.fromkeys(names, folders['Pose'] / 'pose.txt')
    # A label without an image is a problem of every split that the clip has a part in.
    wanted = {name: images[name] for name in names}
    concerned = {
        name: path for name, path in labels.items() if name in wanted or name not in images
    }
    paired, problems = base.pair(split, wanted, concerned, str(folders['Label'] / '{name}_bin.png'))
    numbers = {name: number for number, name in enumerate(images)}
    items = []
    for name in paired:
        found = {feature: paths[name] for feature, paths in optional.items() if name in paths}
        files = {'image': images[name], 'label': labels[name], **found}
        items.append(
            Item(split, f'{place.road}/{place.record}/{name}', files, str(place), numbers[name])
        )
    return items, problems


def annotations(folder: pathlib.Path, ending: str) -> dict[str, pathlib.Path]:
    """PNG files with an ending behind the name of a frame, by that name; others are none of ours."""
    found = (
        (path.stem.removesuffix(ending), path)
        for path in find(folder, ('.png',))
        if path.stem.endswith(ending)
    )
    return {name: path for name, path in found if FRAME_NAME.fullmatch(name)}


def absent(lists: Mapping[str, ImageList], clips: Mapping[Place, Frames]) -> list[InputError]:
    """A problem for every list that names images that are not there; lists of roads that are not there do no harm."""
    there = collections.defaultdict(set)
    for place, images in clips.items():
        there[place.road] |= set(images)
    problems = []
    for road, (path, names) in lists.items():
        missing = names - there[road]
        if missing and there[road]:
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


# --- what is in the files ---------------------------------------------------------------------------------------------


def camera_matrix(camera: int, size: transforms.Size) -> np.ndarray:
    """[3, 3] pinhole matrix in pixels of whole images of `size`."""
    fx, fy, cx, cy = CAMERAS[camera]
    return transforms.resize_matrix(FULL_SIZE, size) @ np.array(
        [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    )


def kept_rows(size: transforms.Size) -> tuple[int, int]:
    """First row and number of rows that are kept of images of `size`."""
    return round(TOP * size[0] / FULL_SIZE[0]), round(ROWS * size[0] / FULL_SIZE[0])


def crop_matrix(size: transforms.Size) -> np.ndarray:
    """3x3, from the pixels of images of `size` to those of the records."""
    top, rows = kept_rows(size)
    return transforms.resize_matrix((rows, size[1]), SIZE) @ transforms.translation_matrix(0, -top)


def cropped(maps: Mapping[str, np.ndarray], camera: int) -> dict[str, np.ndarray]:
    """What a record holds of whole maps, and its intrinsics.

    Args:
      maps: image [H, W, 3] uint8, label [H, W] uint8, perhaps instance [H, W] uint16 and depth [H, W] float32.
      camera: its number.

    Returns:
      The maps at `SIZE`, and intrinsics [3, 3] float32 in their pixels.
    """
    image = maps['image']
    size = image.shape[:2]
    top, rows = kept_rows(size)
    others = {key: value for key, value in maps.items() if key != 'image'}
    others['intrinsics'] = camera_matrix(camera, size)
    # Bilinear interpolation would skip most pixels when it divides the width by four, and alias.
    smooth = cv2.INTER_AREA if size[1] >= SIZE[1] else cv2.INTER_LINEAR
    reduced = cv2.resize(image[top : top + rows], SIZE[::-1], interpolation=smooth)
    return {'image': reduced, **transforms.apply_geometry(others, crop_matrix(size), SIZE)}


def _decode(data: bytes) -> np.ndarray:
    """What `base` has checked and encoded: [H, W, 3] RGB or [H, W]."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB) if array.ndim == 3 else array


def read_depth(path: pathlib.Path) -> np.ndarray:
    """[H, W] float32 metres, 0 = not measured; raises InputError as `image_files.read_ids`, and for 8-bit files."""
    units = image_files.read_ids(path)
    if units.ndim != 2 or units.dtype != np.uint16:
        got = 'three channels' if units.ndim == 3 else '8 bits per pixel'
        raise InputError(str(path), got=got, expected='a 16-bit grey PNG, metres * 200')
    return np.where(units == NO_DEPTH, 0, units * np.float32(DEPTH_UNIT)).astype(np.float32)


def read_pose(path: pathlib.Path, name: str) -> np.ndarray:
    """[4, 4] float32, camera to world, of a frame; the origin is where the first frame by name was taken.

    Raises:
      InputError: for a file that cannot be read, has no line for the frame, or something else on it.
    """
    words = {
        line.split()[-1].removesuffix('.jpg'): line.split()[:-1]
        for line in _lines(path)
        if line.strip()
    }
    if name not in words:
        raise InputError(str(path), got=f'no line for {name}', expected=POSE_LINE)
    pose, first = (_pose(path, frame, words[frame]) for frame in (name, min(words)))
    pose[:3, 3] -= first[:3, 3]
    return pose.astype(np.float32)


def _pose(path: pathlib.Path, name: str, numbers: Sequence[str]) -> np.ndarray:
    try:
        return np.array(numbers, np.float64).reshape(4, 4)
    except ValueError as error:
        raise InputError(
            str(path), got=f'{" ".join(numbers)!r} for {name}', expected=POSE_LINE
        ) from error


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except (OSError, ValueError) as error:
        fix = image_files.COPY_AGAIN
        raise InputError(str(path), got=str(error), expected='a text file', fix=fix) from error


def _wrong_sizes(
    item: Item, size: transforms.Size, values: Mapping[str, np.ndarray]
) -> Iterable[InputError]:
    height, width = size
    full_height, full_width = FULL_SIZE
    shape = f'{full_width}x{full_height}'
    if abs(height * full_width - width * full_height) > full_width or width < SIZE[1] // 4:
        yield InputError(
            str(item.files['image']),
            got=f'{width}x{height} pixels',
            expected=f'{shape}, or a smaller copy of that shape, {SIZE[1] // 4} pixels wide at least',
            fix='cameras and crop are known for whole images: resize them, do not cut them',
        )
    if 'depth' in values and values['depth'].shape != size:
        yield InputError(
            str(item.files['depth']),
            got='{}x{} pixels'.format(*values['depth'].shape[::-1]),
            expected=f'{width}x{height} pixels, the size of {item.files["image"]}',
        )
