"""Reads the frames of a video one at a time, and writes pictures as a video."""

import math
import pathlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from segjax.core.notes import Note, tell
from segjax.data.image_files import COPY_AGAIN
from segjax.errors import InputError

SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm')
DEFAULT_RATE = 25.0
"""Frames per second of the videos that are written for a video without a frame rate."""

CODECS = (('.mp4', 'mp4v'), ('.avi', 'MJPG'))
"""(suffix, codec) of the videos that are written: the first that OpenCV can write."""


class Video(NamedTuple):
    """A video file.

    path        of the file
    rate        frames per second
    num_frames  number of frames that its header promises, 0 if it promises none
    """

    path: pathlib.Path
    rate: float
    num_frames: int

    def frame_name(self, number: int) -> str:
        """Returns the name of a frame: 'walk/000012' for a file walk.mp4."""
        return f'{self.path.stem}/{number:06d}'


def _open(path: pathlib.Path) -> cv2.VideoCapture:
    """Opens a video file.

    Raises:
      InputError: the file cannot be opened as a video.
    """
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(
            str(path),
            got='a file that cannot be opened as a video',
            expected='a whole ' + ', '.join(SUFFIXES) + ' file whose codec OpenCV can read',
            fix=COPY_AGAIN + ', or convert it: ffmpeg -i VIDEO -c:v libx264 converted.mp4',
        )
    return capture


def open_video(path: pathlib.Path) -> Video:
    """Reads the header and the first frame of a video file.

    Raises:
      InputError: the file cannot be opened, or its first frame cannot be decoded.
    """
    capture = _open(path)
    try:
        has_frame = capture.grab()
        rate = capture.get(cv2.CAP_PROP_FPS)
        num_frames = int(max(0, capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()
    if not has_frame:
        raise InputError(
            str(path),
            got='a video without a frame that can be decoded',
            expected='at least one frame',
            fix=COPY_AGAIN,
        )
    if not (math.isfinite(rate) and rate > 0):
        tell(Note(str(path), f'no frame rate: videos are written at {DEFAULT_RATE:g} frames/s'))
        rate = DEFAULT_RATE
    return Video(path, rate, num_frames)


def read_frames(
    video: Video, skip: Callable[[int], bool]
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yields (number, [H, W, 3] uint8 RGB) of the frames in order. One frame is held at a time.

    Args:
      video: the file.
      skip: whether a frame is not needed. It is decoded, but yielded as None.
    """
    capture = _open(video.path)
    try:
        number = 0
        while capture.grab():
            image = None
            if not skip(number):
                ok, image = capture.retrieve()
                if not ok:
                    return
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield number, image
            number += 1
    finally:
        capture.release()


def check_complete(video: Video, num_read: int) -> None:
    """Raises InputError if clearly fewer frames could be read than the header promises.

    Some containers only estimate their number of frames, so a single missing frame, or one of a
    hundred, is no damage.
    """
    missing = video.num_frames - num_read
    if missing > max(1, video.num_frames // 100):
        raise InputError(
            str(video.path),
            got=f'a damaged video: {num_read} of {video.num_frames} frames can be decoded',
            expected='a whole video. The results of the first frames are written',
            fix=COPY_AGAIN,
        )


def written_path(stem: pathlib.Path) -> pathlib.Path | None:
    """Returns the video that `write_video` wrote for a path without suffix, None without video."""
    paths = [stem.with_name(stem.name + suffix) for suffix, _ in CODECS]
    return next((path for path in paths if path.is_file()), None)


def remove(stem: pathlib.Path) -> None:
    """Removes the videos that `write_video` wrote for a path without suffix."""
    for suffix, _ in CODECS:
        stem.with_name(stem.name + suffix).unlink(missing_ok=True)


def write_video(stem: pathlib.Path, pictures: Sequence[pathlib.Path], rate: float) -> pathlib.Path:
    """Writes PNG files of one size as a video, and renames it when it is whole.

    The video is MPEG-4 in .mp4, or Motion JPEG in .avi if OpenCV has no such encoder. Both codecs
    lose detail, and cut the last row or column of an odd size.

    Args:
      stem: path of the video without suffix.
      pictures: the frames in order, at least one.
      rate: frames per second.

    Returns:
      The path of the video.

    Raises:
      InputError: OpenCV can encode neither format.
    """
    height, width = cv2.imread(str(pictures[0])).shape[:2]
    for suffix, codec in CODECS:
        partial = stem.with_name(f'.{uuid.uuid4().hex}.partial{suffix}')
        writer = cv2.VideoWriter(
            str(partial), cv2.VideoWriter.fourcc(*codec), rate, (width, height)
        )
        try:
            if not writer.isOpened():
                continue
            # Read one picture at a time.
            for path in pictures:
                writer.write(cv2.imread(str(path)))
            writer.release()
            return partial.replace(stem.with_name(stem.name + suffix))
        finally:
            writer.release()
            partial.unlink(missing_ok=True)
    raise InputError(
        str(stem),
        got='an OpenCV that can encode neither ' + ' nor '.join(codec for _, codec in CODECS),
        expected='one of these encoders',
        fix='pip install --force-reinstall opencv-contrib-python-headless',
    )
