"""RGB-D frames in files: depth with its unit, and clips of frames around labelled frames."""

import math
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from segjax.core.notes import Note
from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.builders.base import FileDataset, Inspection, Item, Record
from segjax.data.image_files import check_links
from segjax.errors import InputError
from segjax.spec import ClassSpec

SCALE_KEY = 'config.data.rgbd.depth_scale'
INTERVAL_KEY = 'config.data.rgbd.interval'

MILLIMETRES = 1000.0
"""Units per metre of most depth files."""

SCALES = (MILLIMETRES, 6553.5, 5000.0, 10000.0, 100.0)
"""Units per metre that depth files use, the commonest first. 6553.5: 65535 is 10 metres."""

ROOM = (0.2, 20.0)
"""Metres. The median of the measured depth of a room, and almost all its pixels, lie between."""

TYPICAL = (0.5, 12.0)
"""Metres between which the right unit puts the median and the largest depth of a Kinect."""

FAR_SHARE = 0.99
"""Share of the measured pixels that must be nearer than `ROOM` allows."""

SHOWN = 5
"""Frames that an error names."""


class RgbdDataset(FileDataset):
    """A data set of frames with depth. Examples without a label file are void.

    Images and depth are optional: the examples have them if every example has a file. Depth files
    have 16 bits, and 0 where nothing was measured. `unit` is used if `rgbd.depth_scale` is 0.

    unit     units per metre of the depth files, 0 if they have no common unit
    derived  features that every example has without a file
    """

    unit = MILLIMETRES
    derived: tuple[str, ...] = ()

    def __init__(self, config: Any, classes: ClassSpec):
        super().__init__(config.name, config.root, classes)
        self.depth_scale = config.rgbd.depth_scale or self.unit
        self.interval = config.rgbd.interval
        self.steps = config.rgbd.steps

    def features(self, items: Iterable[Item]) -> tuple[str, ...]:
        """Returns label and name, and all features whose files all examples have."""
        items = list(items)
        common = set.intersection(*(set(item.files) for item in items))
        common |= {'label', *self.derived}
        maps = ('image', 'label', 'instance', 'depth', 'intrinsics')
        video = ('sequence', 'frame') if all(item.sequence for item in items) else ()
        return (*(name for name in maps if name in common), *video, 'name')

    def read_depth(self, path: pathlib.Path) -> np.ndarray:
        """Reads and checks a depth map, [H, W] float32 metres, 0 = not measured.

        Without a declared unit, which `scan` refuses, only the size of the result is right.

        Raises:
          InputError: an error of `read_depth` or `check_depth`.
        """
        depth = read_depth(path, self.depth_scale or MILLIMETRES)
        if self.depth_scale:
            check_depth(depth, str(path), self.depth_scale)
        return depth

    def fitted(self, maps: dict[str, np.ndarray], item: Item) -> dict[str, np.ndarray]:
        """Returns the maps of an example at the size of the records. By default nothing changes.

        Args:
          maps: image [H, W, 3] uint8, label [H, W] uint8, instance [H, W], depth [H, W] float32.
          item: the example.

        Raises:
          InputError: the sizes of the maps do not fit.
        """
        check_same_size(maps, item)
        return maps

    def examine(self, item: Item) -> Inspection:
        """Reads and checks the files of a frame: image, depth, label, instances and camera."""
        # Read all files before the result, because every problem is wanted.
        attempts = base.Attempts()
        notes: list[Note] = []
        image = None
        if 'image' in item.files:
            image = attempts.call(image_files.read_encoded, item.files['image'])
        depth = None
        if 'depth' in item.files:
            depth = attempts.call(self.read_depth, item.files['depth'])

        # A frame without a label is void, at the size of its image.
        size = None
        if image is not None:
            size = image[1]
            notes += image[2]
        elif depth is not None:
            size = depth.shape
        ids, label = self._read_label(item, size, attempts, notes)
        maps = {'label': label, 'depth': depth, 'instance': self._read_instance(item, attempts)}
        if not attempts.problems and image is not None:
            maps['image'] = image_files.decode(image[0])
        encoded = image[0] if image is not None else b''
        return self.stored_frame(item, maps, encoded, ids, attempts, notes)

    def stored_frame(
        self,
        item: Item,
        maps: Mapping[str, np.ndarray | None],
        encoded: bytes,
        ids: frozenset[int],
        attempts: base.Attempts,
        notes: Iterable[Note] = (),
    ) -> Inspection:
        """Fits the maps of a frame to the records, and encodes them.

        Args:
          item: the frame.
          maps: as in `fitted`, None for maps that the frame does not have.
          encoded: the file of the image, which is stored if the image does not change.
          ids: values in its label file.
          attempts: has the problems of its files, and collects further problems.
          notes: about its files.
        """
        present = {name: value for name, value in maps.items() if value is not None}
        fitted = None if attempts.problems else attempts.call(self.fitted, present, item)
        if fitted is None:
            return Inspection(None, attempts.problems, ids)
        label = fitted['label']
        intrinsics = self._examine_camera(item, label.shape, attempts)
        if attempts.problems:
            return Inspection(None, attempts.problems, ids)
        self._note(notes)

        # Keep the bytes of an image that does not change.
        features = {'label': image_files.encode_png(label), **base.text_features(item)}
        if 'image' in fitted:
            is_same = bool(encoded) and fitted['image'] is present['image']
            image = encoded if is_same else image_files.encode_png(fitted['image'])
            features['image'] = image
        if 'instance' in fitted:
            instances = self.instances(fitted['instance']).astype(np.uint16)
            features['instance'] = image_files.encode_png(instances)
        if 'depth' in fitted:
            features['depth'] = np.ascontiguousarray(fitted['depth'])
        if intrinsics is not None:
            features['intrinsics'] = intrinsics
        return Inspection(Record(features, base.histogram(label), label.shape), [], ids)

    def _read_label(
        self,
        item: Item,
        size: tuple[int, int] | None,
        attempts: base.Attempts,
        notes: list[Note],
    ) -> tuple[frozenset[int], np.ndarray | None]:
        """Reads the label of a frame. `fitted` compares its size with the size of the image."""
        size = None if 'label' in item.files else size
        return self._examine_label(item, size, attempts, notes)

    def _read_instance(self, item: Item, attempts: base.Attempts) -> np.ndarray | None:
        """Reads the instances of a frame. `fitted` compares their size."""
        return self._examine_instance(item, None, attempts)


# --- depth ----------------------------------------------------------------------------------------


def read_units(path: pathlib.Path) -> np.ndarray:
    """Reads the numbers of a depth file, [H, W] uint16.

    Raises:
      InputError: an error of `image_files.read_ids`, or a file of 8 bits or of three channels.
    """
    units = image_files.read_ids(path)
    if units.ndim != 2 or units.dtype != np.uint16:
        got = 'three channels' if units.ndim == 3 else '8 bits per pixel'
        fix = 'export depth as grey PNG of 16 bits, not as a picture of depth'
        raise InputError(str(path), got=got, expected='a 16-bit grey PNG of depth', fix=fix)
    return units


def read_depth(path: pathlib.Path, scale: float) -> np.ndarray:
    """Reads a depth file, [H, W] float32 metres = value / scale. 0 is not measured.

    Raises:
      InputError: an error of `read_units`.
    """
    return read_units(path).astype(np.float32) / np.float32(scale)


def check_depth(depth: np.ndarray, where: str, scale: float) -> None:
    """Raises InputError for depth that no room has.

    Args:
      depth: [H, W] metres, 0 = not measured.
      where: its file.
      scale: units per metre with which the file was read, 0 for data in metres.

    Raises:
      InputError: no measured pixel. A median outside of `ROOM`, or more than a few pixels behind
        it: the error names the probable unit.
    """
    measured = depth[depth > 0]
    if measured.size == 0:
        raise InputError(
            where,
            got='0 everywhere: no pixel was measured',
            expected='distances along z',
            fix=f'{image_files.COPY_AGAIN}, or move the frame away',
        )
    median, far = np.quantile(measured, (0.5, FAR_SHARE)).tolist()
    if ROOM[0] <= median <= ROOM[1] and far <= ROOM[1]:
        return

    # Another unit may explain the numbers.
    got = f'a median of {median:.3g} m, and {1 - FAR_SHARE:.0%} of the pixels beyond {far:.3g} m'
    expected = f'rooms: a median of {ROOM[0]:g} to {ROOM[1]:g} m, and few pixels behind that'
    likely = likely_scale(measured * scale) if scale else None
    fix = 'check the unit of the depth: rooms are a few metres wide'
    if likely is not None and likely != scale:
        got += f' with {scale:g} units per metre'
        expected += f'. {likely:g} units per metre give {median * scale / likely:.2f} m'
        fix = f'--{SCALE_KEY}={likely:g}'
    raise InputError(where, got=got, expected=expected, fix=fix)


def likely_scale(units: np.ndarray) -> float | None:
    """Returns the commonest units per metre that make a room of the numbers of a depth file.

    Args:
      units: numbers of the file. 0 is not measured.

    Returns:
      A number of `SCALES`, None if no common unit fits.
    """
    measured = units[units > 0]
    if measured.size == 0:
        return None
    median, far = np.quantile(measured, (0.5, FAR_SHARE)).tolist()
    for scale in SCALES:
        if TYPICAL[0] <= median / scale and far / scale <= TYPICAL[1]:
            return scale
    return None


def undeclared_unit(path: pathlib.Path) -> InputError:
    """Returns the error for depth files without a declared unit. Its fix is the probable unit.

    Args:
      path: a depth file.
    """
    try:
        likely = likely_scale(read_units(path))
    except InputError as error:
        return error
    got = f'0, and depth files without a common unit, as {path}'
    if likely is not None:
        got += f'. Its numbers fit {likely:g} units per metre'
    return InputError(
        SCALE_KEY,
        got=got,
        expected='units per metre: metres = value / depth_scale',
        fix=f'--{SCALE_KEY}={likely or MILLIMETRES:g}',
    )


# --- sizes ----------------------------------------------------------------------------------------


def check_same_size(maps: Mapping[str, np.ndarray], item: Item) -> None:
    """Raises InputError for maps of a frame whose size differs from the size of its image.

    Args:
      maps: by feature, [H, W, ...].
      item: names the files. A frame without an image is compared with its depth.
    """
    whole = 'image' if 'image' in maps else 'depth'
    size = maps.get(whole, maps['label']).shape[:2]
    for name, value in maps.items():
        if value.shape[:2] != size:
            fix = 'resize labels with nearest neighbour only, or export them again'
            if name == 'depth':
                fix = 'export the depth that is projected into the image, at its size'
            raise InputError(
                str(item.files.get(name, item.name)),
                got='{1}x{0} pixels'.format(*value.shape),
                expected='{1}x{0} pixels, the size of {2}'.format(*size, item.files[whole]),
                fix=fix,
            )


# --- clips ----------------------------------------------------------------------------------------


def find_sequences(root: pathlib.Path, names: Collection[str] = ('image',)) -> list[pathlib.Path]:
    """Returns the folders of videos in a folder: those with a folder of images, sorted.

    Folders inside a video are not listed, because they hold many files.

    Args:
      root: the folder, which may be a video itself.
      names: of folders of images, in lower case.
    """
    check_links(root)
    sequences = []
    for parent, folders, _ in os.walk(root, followlinks=True):
        if any(folder.lower() in names for folder in folders):
            sequences.append(pathlib.Path(parent))
            folders.clear()
    return sorted(sequences)


class Clip(NamedTuple):
    """The files of a video, by the number of the frame.

    name    of the video
    folder  that holds it
    images  of its frames
    depths  of its frames, {} for a video without depth
    labels  of the labelled frames: the targets
    files   further files of every frame, by feature
    """

    name: str
    folder: pathlib.Path
    images: Mapping[int, pathlib.Path]
    depths: Mapping[int, pathlib.Path]
    labels: Mapping[int, pathlib.Path]
    files: Mapping[str, pathlib.Path] = {}


def around_targets(
    split: str, clip: Clip, interval: int, steps: int, targets: Iterable[int] | None = None
) -> tuple[list[Item], list[InputError]]:
    """Lists the frames around each labelled frame of a video, each target with its own clip.

    The frames of the target t are t + k interval for -steps <= k <= steps, as far as the video
    goes. The sequence of the clip is its target, and `frame` is the number in the video. Only the
    target has a label. A frame near two targets is an example of both clips.

    Args:
      split: of the frames.
      clip: the video.
      interval: numbers between two frames of a clip.
      steps: largest number of intervals in each direction.
      targets: numbers of the chosen labelled frames, None for all.

    Returns:
      The frames in order, and a problem for each target outside of the video, for each clip with
      missing frames, and for frames without depth.
    """
    items: list[Item] = []
    problems: list[InputError] = []
    for target in sorted(clip.labels if targets is None else targets):
        if target not in clip.images:
            problems.append(outside(clip, target))
            continue

        numbers, missing = window(clip, target, interval, steps)
        sequence = f'{clip.name}/{target:05}'
        for number in numbers:
            files = files_of(clip, number)
            if number == target:
                files['label'] = clip.labels[number]
            items.append(Item(split, f'{sequence}/{number:05}', files, sequence, number))
        if missing:
            problems.append(missing_frames(clip, target, missing, interval))
    return items, problems


def window(clip: Clip, target: int, interval: int, steps: int) -> tuple[list[int], list[int]]:
    """Returns the frames around a target, as far as the video goes: those present, and those not.

    Args:
      clip: the video.
      target: number of a frame.
      interval: numbers between two frames of the window.
      steps: largest number of intervals in each direction.
    """
    # Frames before the start and behind the end of the video are not missing.
    numbers = []
    missing = []
    for step in range(-steps, steps + 1):
        number = target + step * interval
        if min(clip.images) <= number <= max(clip.images):
            (numbers if number in clip.images else missing).append(number)
    return numbers, missing


def files_of(clip: Clip, number: int) -> dict[str, pathlib.Path]:
    """Returns the files of a frame by feature, without its label."""
    files = {**clip.files, 'image': clip.images[number]}
    if number in clip.depths:
        files['depth'] = clip.depths[number]
    return files


def outside(clip: Clip, target: int) -> InputError:
    """Returns the error for a label whose frame is not in the video."""
    frames = 'an image with this number'
    if clip.images:
        frames = f'one of the frames {min(clip.images)} to {max(clip.images)}'
    return InputError(
        str(clip.labels[target]),
        got=f'the label of frame {target}, which is not in {clip.folder}',
        expected=frames,
        fix='extract the frames around it, or move the label away',
    )


def missing_frames(clip: Clip, target: int, missing: list[int], interval: int) -> InputError:
    """Returns the error for a clip with missing frames. The frames may have another interval."""
    shown = ', '.join(map(str, missing[:SHOWN]))
    more = f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''
    fix = 'extract the missing frames'
    common = math.gcd(*(number - target for number in clip.images))
    if len(clip.images) == (max(clip.images) - min(clip.images)) // common + 1:
        fix = f'--{INTERVAL_KEY}={common}, if only these frames were extracted'
    return InputError(
        str(clip.folder),
        got=f'no frames {shown}{more}, around the labelled frame {target}',
        expected=f'every frame of number {target} + {interval} k between {min(clip.images)} and '
        f'{max(clip.images)}',
        fix=fix,
    )
