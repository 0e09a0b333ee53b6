"""SUN3D: RGB-D video of rooms, with a few labelled frames."""

import contextlib
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from segjax.core.notes import Note
from segjax.data.builders import base, rgbd
from segjax.data.builders.base import Item
from segjax.data.builders.rgbd import MILLIMETRES, Clip, RgbdDataset
from segjax.data.image_files import COPY_AGAIN, by_name, find
from segjax.data.labels import NYU4, NYU13, NYU40, NYU40_IDS, LabelCoding, merge
from segjax.errors import InputError
from segjax.spec import ClassMap, ClassSpec

SPLIT = 'test'
LABEL_FOLDER = 'label40'

FILE_NAME = re.compile(r'(?P<frame>\d+)-(?P<time>\d+)')
"""Number of the frame, and its time in microseconds."""

MAX_LAG = 50_000
"""Microseconds from an image to its depth. The sensor takes both 30 times a second."""

ROTATION = 3
"""Bits by which the files rotate millimetres to the left."""

ROTATED_SHARE = 0.9
"""Smallest share of the pixels of a rotated file that have 0 or 1 in their low bits."""

INTO_PROPS = ('shower curtain', 'bathtub', 'toilet', 'towel', 'bag')
"""Classes that `SUN3D33` merges into otherprop.

The paper says only that their number is five. These classes are rare or belong to bathrooms: they
are our guess.
"""


def merge_33(into_props: tuple[str, ...] = INTO_PROPS) -> ClassMap:
    """Builds the class map from the 40 classes of NYUDv2 to the 33 classes of SUN3D.

    Floor mat becomes floor, and dresser becomes otherfurniture. The five classes become otherprop.

    Args:
      into_props: five names of classes.
    """
    into = {'floor mat': 'floor', 'dresser': 'otherfurniture'}
    into |= dict.fromkeys(into_props, 'otherprop')
    kept = [number for number, name in enumerate(NYU40.names) if name not in into]
    classes = ClassSpec(
        tuple(NYU40.names[number] for number in kept),
        tuple(NYU40.palette[number] for number in kept),
        tuple(NYU40.ids[number] for number in kept),
    )
    groups: dict[str, list[str]] = {name: [name] for name in classes.names}
    for name, target in into.items():
        groups[target].append(name)
    return merge(NYU40, classes, tuple(groups.values()))


SUN3D33 = merge_33()
"""The 33 classes of SUN3D with a guess of the five unpublished classes (`INTO_PROPS`).

A file as `data.class_map` chooses further merges.
"""


class Moment(NamedTuple):
    """The name of a file of a video.

    frame  its number
    time   in microseconds
    """

    frame: int
    time: int


class Sun3d(RgbdDataset):
    """SUN3D: labelled frames with their video, 40 classes of NYUDv2. Its only split is `test`.

    Files are {sequence}/image/{frame}-{time}.jpg, {sequence}/depth/{frame}-{time}.png and
    {sequence}/intrinsics.txt, as in the download, at any depth below the root folder. Labels are
    `{sequence}/label40/{frame}-{time}.png`, or `{frame}.png`, with the ids 1..40 of NYUDv2, and 0
    is void. The download has polygons with free names, so these files must be made. Sequences
    without `label40` are skipped. Extrinsics are not read.

    Each labelled frame is the target of its own clip (`rgbd.around_targets`). The depth of an image
    is the depth file that is nearest in time.

    Depth. The files hold millimetres whose bits are rotated by three to the left. Files without the
    rotation are recognised by their low bits. With `rgbd.depth_scale`, files are read without a
    rotation.

    Classes. The class map `33` has the 33 classes of Deng et al.: floor mat becomes floor,
    dresser becomes otherfurniture, and five classes become otherprop. The five classes are not
    published. The default, `INTO_PROPS`, is a guess. A file chooses five classes itself:

        classes:
          - wall
          - {name: floor, from: [floor, floor mat]}
          - ...

    A net that was trained on NYUDv2 predicts among the 40 classes. With a class map, the train id
    `DataSpec.merge.train_ids[c]` is the merged class of a predicted class c.

    Sources: Xiao et al., SUN3D, ICCV 2013, and its SUN3Dtoolbox. Deng et al., Semantic Segmentation
    of RGBD Images with Mutex Constraints, ICCV 2015, for the labelled frames.
    """

    def __init__(self, config: Any):
        super().__init__(config, NYU40)
        self.class_maps = {'33': SUN3D33, '13': NYU13, '4': NYU4}
        self._declared_scale = config.rgbd.depth_scale
        self._folders = rgbd.find_sequences(self.root)

    def options(self):
        """Returns the coding of the labels, the unit of the depth, and the choice of frames."""
        frames = [self.interval, self.steps]
        return [base.describe(NYU40_IDS), self._declared_scale, frames, MAX_LAG]

    def coding(self, item: Item) -> LabelCoding:
        """Returns the coding of all label files."""
        return NYU40_IDS

    def splits(self):
        """Returns ('test',): the published scores are measured on all labelled frames."""
        if not self._sequences():
            raise InputError(
                str(self.root),
                got=f'no sequence with a folder {LABEL_FOLDER}',
                expected=f'{{sequence}}/image, depth, intrinsics.txt and {LABEL_FOLDER}',
                fix=f'{LABEL_FOLDER} holds label maps with the ids 1..40 of NYUDv2, named like '
                'the images',
            )
        return (SPLIT,)

    def _sequences(self) -> list[pathlib.Path]:
        """Returns the folders of the labelled sequences, sorted."""
        return [folder for folder in self._folders if (folder / LABEL_FOLDER).is_dir()]

    def notes_of_folders(self):
        """Returns a note if sequences are skipped."""
        labelled = self._sequences()
        skipped = [folder for folder in self._folders if folder not in labelled]
        if not skipped:
            return []
        message = f'passed over, without {LABEL_FOLDER}: {len(skipped)} sequences, as {skipped[0]}'
        return [Note(str(self.root), message)]

    def scan(self, split):
        """Lists the clips around the labelled frames of all sequences."""
        items: list[Item] = []
        problems: list[InputError] = []
        for folder in self._sequences():
            try:
                clip, clip_problems = self._clip(folder)
            except InputError as error:
                problems.append(error)
                continue
            of_clip, target_problems = rgbd.around_targets(split, clip, self.interval, self.steps)
            used = {item.frame for item in of_clip}
            problems += [problem for frame, problem in clip_problems if frame in used]
            problems += target_problems
            items += of_clip
        return items, problems + base.incomplete_feature('intrinsics', items)

    def _clip(self, folder: pathlib.Path) -> tuple[Clip, list[tuple[int, InputError]]]:
        """Returns a sequence, and the images without depth by number."""
        images = _by_moment(find(folder / 'image'))
        depths = _by_moment(find(folder / 'depth', ('.png',)))
        times = sorted(depths, key=lambda moment: moment.time)
        ordered = np.array([moment.time for moment in times], np.int64)
        nearest = {}
        problems = []
        for moment, path in images.items():
            place = None
            if len(ordered):
                place = int(np.abs(ordered - moment.time).argmin())
            if place is None or abs(times[place].time - moment.time) > MAX_LAG:
                problem = InputError(
                    str(path),
                    got=f'no depth within {MAX_LAG / 1e6} s',
                    expected=f'a file in {folder / "depth"} of about the same time',
                    fix='complete the download',
                )
                problems.append((moment.frame, problem))
            else:
                nearest[moment.frame] = depths[times[place]]

        # The whole sequence has the same camera.
        files = {}
        if (folder / 'intrinsics.txt').exists():
            files['intrinsics'] = folder / 'intrinsics.txt'
        by_frame = {moment.frame: path for moment, path in images.items()}
        name = folder.relative_to(self.root).as_posix()
        labels = _labels(folder / LABEL_FOLDER)
        clip = Clip(name, folder, by_frame, nearest, labels, files)
        return clip, problems

    def read_intrinsics(self, path, size):
        """Returns the matrix of a camera file: nine numbers, by rows."""
        return read_matrix(path, 3)

    def read_depth(self, path):
        """Reads and checks a depth file, with or without rotated bits."""
        if self._declared_scale:
            return super().read_depth(path)
        depth = millimetres(rgbd.read_units(path)).astype(np.float32) / np.float32(MILLIMETRES)
        rgbd.check_depth(depth, str(path), MILLIMETRES)
        return depth


def _by_moment(paths: list[pathlib.Path]) -> dict[Moment, pathlib.Path]:
    """Returns the files of a video by frame and time.

    Raises:
      InputError: another form of file name, or a number twice.
    """
    files = by_name(paths, lambda path: path.stem)
    moments = {}
    frames: dict[int, pathlib.Path] = {}
    for name, path in files.items():
        match = FILE_NAME.fullmatch(name)
        if not match:
            raise InputError(
                str(path),
                got='another file name',
                expected=f'{{frame}}-{{microseconds}}{path.suffix}',
                fix='rename it or move it away',
            )
        moment = Moment(int(match['frame']), int(match['time']))
        if moment.frame in frames:
            got = f'the same number as {frames[moment.frame]}'
            raise InputError(str(path), got=got, expected='one file per frame', fix='move it away')
        frames[moment.frame] = path
        moments[moment] = path
    return moments


def _labels(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the label files of a sequence by the number of the frame.

    Raises:
      InputError: another form of file name.
    """
    labels = {}
    for path in find(folder, ('.png',)):
        frame = path.stem.partition('-')[0]
        if not frame.isdecimal():
            raise InputError(
                str(path),
                got='another file name',
                expected='{frame}.png or {frame}-{microseconds}.png',
                fix='rename it or move it away',
            )
        labels[int(frame)] = path
    return labels


def millimetres(units: np.ndarray) -> np.ndarray:
    """Returns the millimetres of a depth file, whose bits may be rotated by three to the left.

    A distance below 16.384 m uses 14 bits. Rotated, its three low bits are 0 or 1. In a file of
    plain millimetres, these bits are 0 or 1 for about a quarter of the pixels.

    Args:
      units: [H, W] uint16, the numbers of the file.

    Returns:
      [H, W] uint16.
    """
    measured = units[units > 0]
    low_bits = (1 << ROTATION) - 1
    if measured.size == 0 or np.mean((measured & low_bits) <= 1) < ROTATED_SHARE:
        return units
    return (units >> ROTATION) | (units << (16 - ROTATION))


def read_matrix(path: pathlib.Path, n: int) -> np.ndarray:
    """Returns the upper left [3, 3] of an n x n matrix in a text file, float32.

    Raises:
      InputError: the file cannot be read, or has another number of values.
    """
    with contextlib.suppress(OSError, ValueError):
        values = path.read_text(encoding='utf-8').split()
        return np.array(values, np.float32).reshape(n, n)[:3, :3]
    raise InputError(
        str(path),
        got='no such matrix',
        expected=f'{n} rows of {n} numbers: [[fx, 0, cx, ..], [0, fy, cy, ..], [0, 0, 1, ..]]',
        fix=COPY_AGAIN,
    )
