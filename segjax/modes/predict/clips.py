"""Predicts class maps of clips: the class probabilities of frames are pooled over regions and time.

He, Chiu, Keuper, Fritz: STD2P (CVPR 2017), and thesis section 3.4.1: the pooling has no parameters,
so it continues any net of single images to a video. `tasks/clip_pooling.py` has the equations.

Frames flow through three stages at the same time:

1. A frame is read. Worker processes compute its superpixels, the planes that the net sees behind
   colour, and the flow from and to the frame at `interval` before it.
2. The net predicts its tiles. Its class probabilities are kept at its own size.
3. `pool_stream` pools its window once the window is whole. Threads write the pictures.

Memory holds the images, regions and flows of a window, and the probabilities of the frames of a
batch. The pooling 'pixel' also holds the probabilities of a window.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tqdm

from segjax.core import files, host
from segjax.core.notes import Note, tell
from segjax.data import workers
from segjax.data.image_files import COPY_AGAIN, ImageSource, read_image
from segjax.errors import InputError
from segjax.modes.predict import outputs, tiled
from segjax.modes.predict import video as video_lib
from segjax.modes.predict.assembly import WholeAssembly, confidence
from segjax.modes.predict.batches import PredictFn, Waiting, all_tiles, predict_tiles, warm_up
from segjax.modes.predict.clip_settings import KEY, SUPERPIXEL, ClipSettings, make_clip_settings
from segjax.modes.predict.outputs import Finished
from segjax.modes.predict.plan import PredictPlan, make_predict_plan
from segjax.modes.predict.reading import file_size
from segjax.modes.predict.rgbd import COLOUR, LAYOUT, Planes
from segjax.modes.predict.video import Video
from segjax.protocol import Example
from segjax.spec import IGNORE, DataSpec
from segjax.tasks import clip_pooling

ROOT = '.'
"""Name of the clip whose frames lie in the input folder itself."""


class Clip(NamedTuple):
    """A clip to predict.

    name    of its folder below the input folder, or of the video file without extension
    frames  the images in order, or a video
    """

    name: str
    frames: tuple[ImageSource, ...] | Video

    @property
    def num_frames(self) -> int:
        """Returns the number of frames. A video may promise another number, or none (0)."""
        is_video = isinstance(self.frames, Video)
        return self.frames.num_frames if is_video else len(self.frames)

    def frame_names(self, number: int) -> list[str]:
        """Returns the names of the results of the first frames."""
        if isinstance(self.frames, Video):
            return [self.frames.frame_name(place) for place in range(number)]
        return [source.name for source in self.frames[:number]]


def predict_clips(
    predict_fn: PredictFn,
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    input_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    made_by: Mapping[str, Any],
    planes: Planes = COLOUR,
) -> dict[str, Any]:
    """Predicts the frames of a video, or of each folder of frames, with pooling over the clip.

    The list of finished results holds clips: a clip is predicted as a whole, or skipped.

    Args:
      predict_fn: as in `tiled.predict_images`.
      config: only its sections `predict` and `data` are read.
      spec: gives classes, palette, ids and the sizes that the net was trained for.
      input_folder: contains frames, also in sub-folders, or is the path of a video.
      output_folder: receives the results of `tiled.predict_images`.
      made_by: as in `tiled.predict_images`.
      planes: that the net sees behind colour.

    Returns:
      The summary of `tiled.predict_images`. It counts frames.

    Raises:
      InputError: an error of `open_clips`, `check_record` or `check_folders`, before anything
        compiles. Damage that only decoding shows: earlier clips are written.
    """
    # Everything that can be refused is refused before the net compiles and a file is written.
    input_path = pathlib.Path(input_folder)
    output_path = pathlib.Path(output_folder)
    outputs.check_folders(input_path, output_path)
    settings, clips = open_clips(config, spec, input_path, planes)
    outputs.check_classes(settings.classes)
    plan = make_predict_plan(config, spec)
    record = tiled.described(made_by, plan, settings.classes, planes)
    record['pooling'] = _recorded(config.predict.pooling, clips)
    outputs.check_record(output_path, record)
    if settings.regions is not None and 'depth' in spec.features and not has_depth(clips):
        fix = f'an input with {LAYOUT}'
        tell(Note(KEY, 'the input has no depth: superpixels see colour alone', fix))

    # The list of finished clips tells which clips remain.
    finished = Finished(output_path)
    files.write_json(output_path / outputs.RECORD, record)
    num_workers = config.data.workers or host.cores()
    num_classes = spec.classes.num_classes
    job = _Job(predict_fn, plan, num_classes, settings, output_path, finished, num_workers, planes)
    return _predict_all(job, clips)


class _Job(NamedTuple):
    """A net, and the folder that receives its predictions.

    predict_fn   the compiled net
    plan         how images are cut
    num_classes  C of the net
    settings     how clips are pooled
    folder       for the outputs
    finished     list of the finished clips in `folder`
    num_workers  processes that compute regions, planes and flow
    planes       that the net sees behind colour
    """

    predict_fn: PredictFn
    plan: PredictPlan
    num_classes: int
    settings: ClipSettings
    folder: pathlib.Path
    finished: Finished
    num_workers: int
    planes: Planes


# --- clips ----------------------------------------------------------------------------------------


def open_clips(
    config: ml_collections.ConfigDict, spec: DataSpec, path: pathlib.Path, planes: Planes
) -> tuple[ClipSettings, list[Clip]]:
    """Returns the pooling that a config describes, and the clips of the input in order.

    The pooling 'superpixel' has no window, so it accepts any images.

    Args:
      config, spec: as in `predict_clips`.
      path: of the input.
      planes: that the net sees behind colour.

    Raises:
      InputError: an error of `make_clip_settings` or `tiled.find_sources`, or frames that are no
        clip.
    """
    clips = _find_clips(path, planes)
    settings = make_clip_settings(config, spec, has_depth(clips))
    if settings.use == SUPERPIXEL:
        return settings, clips
    return settings, [_checked(clip, settings) for clip in clips]


def has_depth(clips: Sequence[Clip]) -> bool:
    """Returns whether the frames of clips have depth: those of all clips, or of none."""
    frames = clips[0].frames
    return not isinstance(frames, Video) and frames[0].depth is not None


def _recorded(settings: ml_collections.ConfigDict, clips: Sequence[Clip]) -> dict[str, Any]:
    """Returns the pooling as predict.json has it. `region_depth` says whether depth is read.

    Records that are older than this key are those of colour.
    """
    record = settings.to_dict()
    sees_depth = record.pop('region_depth') and has_depth(clips)
    return {**record, 'region_depth': True} if sees_depth else record


def _find_clips(path: pathlib.Path, planes: Planes) -> list[Clip]:
    """Returns the video, or the clips of a folder: the images of each folder are a clip."""
    sources = tiled.find_sources(path, planes)
    if isinstance(sources, Video):
        clips = [Clip(sources.path.stem, sources)]
    else:
        folders = collections.defaultdict(list)
        for source in sources:
            folders[source.name.rpartition('/')[0] or ROOT].append(source)
        clips = [Clip(name, tuple(members)) for name, members in folders.items()]
    return clips


def _checked(clip: Clip, settings: ClipSettings) -> Clip:
    """Returns a clip with its frames in order.

    Raises:
      InputError: a single frame, no frame at the distance of the interval, frames of different
        sizes, or names that do not count.
    """
    is_video = isinstance(clip.frames, Video)
    where = str(clip.frames.path if is_video else clip.frames[0].path.parent)
    number = clip.num_frames
    if number == 1:
        raise InputError(
            where,
            got='a single frame',
            expected=f'a clip: {settings.use!r} pools a window of several frames',
            fix=f'--{KEY}.use={SUPERPIXEL}',
        )
    # The header of a video may give no number.
    if 0 < number <= settings.interval:
        raise InputError(
            where,
            got=f'{number} frames, at an interval of {settings.interval}',
            expected='more frames than the interval, so that a window has several frames',
            fix=f'--{KEY}.interval=1',
        )
    if is_video:
        return clip
    frames = in_order(clip.frames, where)
    _check_sizes(frames)
    return clip._replace(frames=frames)


def in_order(frames: Sequence[ImageSource], where: str) -> tuple[ImageSource, ...]:
    """Returns frames in the order of the number in their names.

    Args:
      frames: of a folder, at least two.
      where: names the folder in errors.

    Raises:
      InputError: names that differ in more than a number, or numbers that do not rise evenly.
    """
    texts = {re.sub(r'\d+', '#', _file_name(frame)) for frame in frames}
    if len(texts) > 1:
        first, second = sorted(texts)[:2]
        raise _no_clip(where, f'frames named {first!r} and {second!r} (# is a number)')
    ordered = sorted(frames, key=_numbers)
    counts = np.array([_numbers(frame) for frame in ordered], dtype=object)
    steps = counts[1:] - counts[:-1]

    # The first step counts: a gap would join two scenes.
    is_rising = steps[0].max(initial=0) > 0 and np.count_nonzero(steps[0]) == 1
    is_even = (steps == steps[0]).all(axis=1)
    if not is_rising or not is_even.all():
        place = 0 if not is_rising else int(np.argmin(is_even))
        pair = [_file_name(frame) for frame in ordered[place : place + 2]]
        raise _no_clip(where, f'{pair[0]!r} and {pair[1]!r}, which do not follow each other')
    return tuple(ordered)


def _file_name(frame: ImageSource) -> str:
    """Returns the name of a frame without its folder."""
    return frame.name.rpartition('/')[2]


def _numbers(frame: ImageSource) -> list[int]:
    """Returns the numbers in the name of a frame."""
    return [int(digits) for digits in re.findall(r'\d+', _file_name(frame))]


def _no_clip(where: str, got: str) -> InputError:
    """Returns the error for a folder whose images are no clip."""
    return InputError(
        where,
        got=got,
        expected='consecutive frames: names that differ in a number, which rises evenly',
        fix=f'a folder for each clip, or --{KEY}.use={SUPERPIXEL}',
    )


def _check_sizes(frames: Sequence[ImageSource]) -> None:
    """Raises InputError for frames of different sizes. Headers alone are read."""
    height, width = file_size(frames[0].path)
    for frame in frames[1:]:
        own = file_size(frame.path)
        if own != (height, width):
            raise InputError(
                str(frame.path),
                got=f'{own[0]}x{own[1]} pixels (height x width)',
                expected=f'{height}x{width} as {frames[0].path.name}: frames have equal sizes',
                fix=f'a folder for each clip, or --{KEY}.use={SUPERPIXEL}',
            )


def digest_of(clip: Clip) -> str:
    """Returns the digest of the files of a clip, in the order of its frames."""
    if isinstance(clip.frames, Video):
        return outputs.content_digest(clip.frames.path)
    return _joined(outputs.source_digest(source) for source in clip.frames)


def _joined(digests: Iterable[str]) -> str:
    """Returns the digest of the digests of frames."""
    return outputs.text_digest('\n'.join(digests))


def _num_finished(job: _Job, clip: Clip) -> int:
    """Returns the number of frames of a finished clip, 0 if the clip is not finished.

    A clip is finished if all outputs of its frames exist and were made from these very files.
    """
    if clip.name not in job.finished.names():
        return 0
    number = int(job.finished.values(clip.name).get('frames', 0))
    paths = []
    for name in clip.frame_names(number):
        paths += outputs.output_paths(job.folder, name)
    is_whole = job.finished.holds(clip.name, paths, lambda: digest_of(clip))
    return number if is_whole else 0


# --- prediction -----------------------------------------------------------------------------------


def _predict_all(job: _Job, clips: Sequence[Clip]) -> dict[str, Any]:
    """Predicts the clips that are not finished. Returns the summary of `predict_clips`."""
    numbers = {clip.name: _num_finished(job, clip) for clip in clips}
    todo = [clip for clip in clips if not numbers[clip.name]]
    job.finished.begin(clip.name for clip in todo)
    skipped = sum(numbers.values())
    # The net compiles before the measured time, and not at all without a clip.
    compile_seconds = 0.0
    if todo:
        channels = job.planes.channels
        compile_seconds = warm_up(job.predict_fn, job.plan, job.num_classes, channels)

    # Clips do not share batches, because a clip is listed when all of its frames are written.
    start = time.perf_counter()
    counts = collections.Counter()
    largest = 0.0
    waiting = Waiting()
    total = sum(clip.num_frames for clip in todo)
    with (
        workers.Pool(job.num_workers) as pool,
        tqdm.tqdm(total=total, unit='image', disable=None) as bar,
    ):
        for clip in todo:
            stream = _Stream(job, clip, pool, waiting)
            stream.run(bar.update)
            numbers[clip.name] = stream.num_frames
            counts.update(
                images=stream.num_frames, tiles=stream.num_tiles, pixels=stream.num_pixels
            )
            largest = max(largest, stream.largest)
    job.finished.sort()
    seconds = time.perf_counter() - start

    # A video also has its results as videos, even if its frames were there already.
    for clip in clips:
        if isinstance(clip.frames, Video):
            tiled.write_videos(job.folder, clip.frames, numbers[clip.name])
            video_lib.check_complete(clip.frames, numbers[clip.name])
    return {
        'images': counts['images'],
        'skipped': skipped,
        'others': job.finished.others(clip.name for clip in clips),
        'tiles': counts['tiles'],
        'largest': largest,
        'megapixels': counts['pixels'] / 1e6,
        'compile_seconds': compile_seconds,
        'seconds': seconds,
        'waiting_seconds': waiting.seconds,
        'images_per_second': counts['images'] / seconds if counts['images'] else 0.0,
    }


@dataclasses.dataclass
class _Opened:
    """A frame that was read.

    source  its file and name
    image   [H, W, 3] uint8
    ids     its regions, in the making. None: not needed
    planes  that the net sees behind its colours, in the making. None: not needed
    onward  its flow to the frame at `interval` after it, in the making. None: there is none
    back    its flow to the frame at `interval` before it, likewise
    """

    source: ImageSource
    image: np.ndarray
    ids: Future | None = None
    planes: Future | None = None
    onward: Future | None = None
    back: Future | None = None


class _Stream:
    """The prediction of a clip, frame by frame.

    num_frames  written so far
    num_tiles   predicted so far
    num_pixels  of the frames that the net has predicted so far
    largest     as in the summary of `predict_clips`
    """

    def __init__(self, job: _Job, clip: Clip, pool: workers.Pool, waiting: Waiting):
        self.num_frames = 0
        self.num_tiles = 0
        self.num_pixels = 0
        self.largest = 0.0
        self._job = job
        self._clip = clip
        self._pool = pool
        self._waiting = waiting
        self._digests: list[str] = []
        # Frames whose probabilities are in the making, and frames that wait for their window.
        self._at_net: collections.deque[_Opened] = collections.deque()
        self._at_pooling: collections.deque[_Opened] = collections.deque()

    def run(self, update: Callable[[], Any]) -> None:
        """Predicts the clip, writes its pictures, and lists it as finished.

        Args:
          update: is called after each frame.

        Raises:
          InputError: a frame that cannot be decoded, of another size, or with too many regions.
        """
        job = self._job
        settings = job.settings
        # A kill leaves no video that belongs to other frames.
        if isinstance(self._clip.frames, Video):
            tiled.remove_videos(job.folder, self._clip.frames)
        pooled = clip_pooling.pool_stream(
            self._frames(),
            settings.num_regions,
            settings.past,
            settings.future,
            interval=settings.interval,
            **settings.options,
        )
        with outputs.WriterThreads() as threads:
            for scores in pooled:
                opened = self._at_pooling.popleft()
                threads.submit(_write, job, opened.source.name, opened.image, scores)
                self.num_frames += 1
                update()

        # All files exist: the writers have ended.
        is_video = isinstance(self._clip.frames, Video)
        digest = self._digests[0] if is_video else _joined(self._digests)
        job.finished.add(self._clip.name, digest, {'frames': self.num_frames})

    def _frames(self) -> Iterator[clip_pooling.Frame]:
        """Yields the frames with their probabilities, regions and flows."""
        job = self._job
        cut_tiles = all_tiles(self._assemblies())
        predicted = predict_tiles(job.predict_fn, job.plan, cut_tiles, self._waiting)
        for assembly, place, probabilities in predicted:
            self.num_tiles += 1
            size = min(np.divide(assembly.grids[0].size, job.plan.eval_size))
            self.largest = max(self.largest, float(size))
            if assembly.add(place, probabilities):
                self.num_pixels += math.prod(assembly.size)
                opened = self._at_net.popleft()
                self._at_pooling.append(opened)
                yield clip_pooling.Frame(
                    np.moveaxis(assembly.probabilities, 0, -1),
                    self._result(opened.ids, opened),
                    self._result(opened.onward, opened),
                    self._result(opened.back, opened),
                )
                # Results that are not kept by the pooling are free.
                opened.ids = opened.onward = opened.back = None

    def _result(self, future: Future | None, opened: _Opened) -> np.ndarray | None:
        """Waits for a map of a frame. Returns None if the map is not needed.

        Raises:
          InputError: the map cannot be computed. The error names the frame.
        """
        if future is None:
            return None
        try:
            return future.result()
        except InputError as error:
            fix = error.fix.replace('config.regions.', f'{KEY}.')
            raise error.replaced(where=f'{opened.source.name}: {error.where}', fix=fix) from error

    def _assemblies(self) -> Iterator[WholeAssembly]:
        """Yields the frames for the net, after their regions and flows have begun."""
        job = self._job
        for opened in self._opened():
            self._at_net.append(opened)
            planes = self._result(opened.planes, opened)
            yield WholeAssembly(opened.source, opened.image, job.plan, job.num_classes, planes)

    def _opened(self) -> Iterator[_Opened]:
        """Reads the frames ahead of the net, and begins their regions, planes and flows."""
        settings = self._job.settings
        planes = self._job.planes
        reads_depth = settings.regions is not None and 'depth' in settings.regions.reads
        # The flow to the frame at `interval` begins before its frame is yielded.
        ahead = settings.interval + self._job.num_workers
        before: collections.deque[_Opened] = collections.deque(maxlen=settings.interval)
        waiting: collections.deque[_Opened] = collections.deque()
        for source, image in self._images():
            opened = _Opened(source, image)
            example = {'image': image}
            if reads_depth or planes.feature is not None:
                example = planes.example(source, image)
            if settings.regions is not None:
                opened.ids = self._begin(settings.regions.compute, example)
            if planes.feature is not None:
                opened.planes = self._begin(planes.feature.compute, example)
            if settings.flow is not None and len(before) == settings.interval:
                earlier = before[0]
                earlier.onward = self._begin_flow(earlier.image, image)
                opened.back = self._begin_flow(image, earlier.image)
            before.append(opened)
            waiting.append(opened)
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def _begin_flow(self, image: np.ndarray, neighbour: np.ndarray) -> Future:
        """Begins the flow of an image to its neighbour."""
        example = {'image': image, 'image_frames': [neighbour]}
        return self._begin(self._job.settings.flow.compute, example)

    def _begin(self, compute: Callable[[Example], np.ndarray], example: Example) -> Future:
        """Begins the computation of a feature in a worker process."""
        return self._pool.submit(_computed, compute, example)

    def _images(self) -> Iterator[tuple[ImageSource, np.ndarray]]:
        """Reads the frames, one at a time.

        Raises:
          InputError: an image that cannot be decoded, or of another size than the first.
        """
        video = self._clip.frames
        if isinstance(video, Video):
            # The digest covers the whole file: frames are decoded from each other.
            self._digests.append(outputs.content_digest(video.path))
            for number, image in video_lib.read_frames(video, lambda number: False):
                yield ImageSource(video.path, video.frame_name(number)), image
            return

        # Before reading: an image that is replaced in between is predicted again next time.
        size = None
        for source in self._clip.frames:
            image = None
            if source.path.is_file():
                self._digests.append(outputs.source_digest(source))
                image = read_image(source.path)
            if image is None:
                raise InputError(
                    str(source.path),
                    got='a frame that is damaged or gone',
                    expected='all frames of a clip: a window reaches over them',
                    fix=f'{COPY_AGAIN}. Finished clips are kept',
                )
            size = size or image.shape
            if image.shape != size and self._job.settings.use != SUPERPIXEL:
                got = f'{image.shape[0]}x{image.shape[1]} pixels (height x width)'
                expected = f'{size[0]}x{size[1]} as the frames before it'
                raise InputError(str(source.path), got=got, expected=expected)
            yield source, image


def _computed(
    compute: Callable[[Example], np.ndarray], example: Example, lease: pathlib.Path
) -> np.ndarray | None:
    """Computes a feature in a worker process. The process ends without its lease file."""
    return compute(example) if lease.exists() else None


def _write(job: _Job, name: str, image: np.ndarray, scores: np.ndarray) -> None:
    """Writes the pictures of a frame from its pooled probabilities [H, W, C]."""
    labels = clip_pooling.label_map(scores)
    best = confidence(scores.max(-1)).astype(np.uint8)
    settings = job.settings
    if settings.merge is not None:
        # Predictions are merged, as in Table 3.6, and not their probabilities.
        merged = np.full(IGNORE + 1, IGNORE, np.uint8)
        merged[: job.num_classes] = settings.merge.train_ids
        labels = merged[labels]
    outputs.write_pictures(job.folder, name, image, labels, best, settings.classes)
