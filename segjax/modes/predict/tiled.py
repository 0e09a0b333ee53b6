"""Predicts class maps in tiles: for a folder of images, an image, or a video."""

import contextlib
import itertools
import math
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import tqdm

from segjax.core import files
from segjax.data.builders import base
from segjax.data.image_files import (
    PHOTO_SUFFIXES,
    ImageSource,
    check_files,
    find_images,
    read_image,
)
from segjax.errors import InputError
from segjax.modes.predict import outputs
from segjax.modes.predict import video as video_lib
from segjax.modes.predict.assembly import Assembly
from segjax.modes.predict.batches import PredictFn, Waiting, all_tiles, predict_tiles, warm_up
from segjax.modes.predict.outputs import Finished
from segjax.modes.predict.plan import PredictPlan, make_predict_plan
from segjax.modes.predict.rgbd import COLOUR, Planes, check_planes, find_rgbd
from segjax.modes.predict.video import Video
from segjax.spec import ClassSpec, DataSpec


def find_sources(path: pathlib.Path, planes: Planes = COLOUR) -> list[ImageSource] | Video:
    """Returns the checked images of a folder, a single checked image, or a video.

    Images have depth where the folder has it (`rgbd.find_rgbd`).

    Raises:
      InputError: an error of `find_images` or `find_rgbd`, a damaged file, or a file of another
        kind. Images or a video without depth, for a net that sees more than colour.
    """
    # Folders.
    if not path.is_file():
        sources = find_rgbd(path, planes) if path.is_dir() else []
        if sources:
            return sources
        sources = find_images(path)
        check_planes(sources, planes)
        return sources

    # A video or an image has no depth.
    suffix = path.suffix.lower()
    if suffix in video_lib.SUFFIXES:
        check_planes([ImageSource(path, path.stem)], planes)
        return video_lib.open_video(path)
    if suffix not in PHOTO_SUFFIXES:
        raise InputError(
            '--input',
            got=str(path),
            expected='a folder of images, or a file '
            + ' '.join((*PHOTO_SUFFIXES, *video_lib.SUFFIXES)),
            fix=f'--input {path.parent}',
        )
    sources = [ImageSource(path, path.stem)]
    check_planes(sources, planes)
    check_files(sources)
    return sources


def predict_images(
    predict_fn: PredictFn,
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    input_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    made_by: Mapping[str, Any],
    planes: Planes = COLOUR,
) -> dict[str, Any]:
    """Predicts every image of a folder, a single image, or every frame of a video.

    Args:
      predict_fn: [B, h, w, c] uint8 -> class probabilities [B, h, w, C]. Compiled for
        B = predict.batch_size, (h, w) = predict.tile and c = planes.channels, the only shape that
        it is called with.
      config: only its sections `predict` and `data` are read.
      spec: gives classes, palette, ids and the sizes that the net was trained for.
      input_folder: contains images, also in sub-folders. Or the path of an image or a video.
      output_folder: receives ids/, color/, overlay/, confidence/, predict.json and predict.jsonl.
      made_by: facts that tell this net from another net ({'run': folder, 'step': 9000}). Must
        survive JSON.
      planes: that the net sees behind colour.

    Returns:
      {'images', 'skipped', 'others', 'tiles', 'largest', 'megapixels', 'compile_seconds',
      'seconds', 'waiting_seconds', 'images_per_second'}. The rate includes reading, blending and
      writing, not compilation. `waiting_seconds` is the part of the time in which the host waits
      for the net.
      `largest` is the size of the largest image as the net sees it, in units of
      `data.eval_size`. `others` names images of earlier calls that are not in the input folder.

    Raises:
      InputError: before anything compiles, for folders that `check_folders` or `find_images`
        refuses. At the end, for damage that only decoding shows. All other images are then written.
    """
    # Everything that can be refused is refused before the net compiles and a file is written.
    input_path = pathlib.Path(input_folder)
    output_path = pathlib.Path(output_folder)
    outputs.check_classes(spec.classes)
    plan = make_predict_plan(config, spec)
    record = described(made_by, plan, spec.classes, planes)
    outputs.check_folders(input_path, output_path)
    sources = find_sources(input_path, planes)
    outputs.check_record(output_path, record)

    # The list of finished images tells which images remain.
    finished = Finished(output_path)
    files.write_json(output_path / outputs.RECORD, record)
    job = _Job(predict_fn, plan, spec.classes, output_path, finished, planes)
    counts = (
        _predict_video(job, sources)
        if isinstance(sources, Video)
        else _predict_folder(job, sources)
    )
    images = counts['images']
    return {**counts, 'images_per_second': images / counts['seconds'] if images else 0.0}


def described(
    made_by: Mapping[str, Any], plan: PredictPlan, classes: ClassSpec, planes: Planes
) -> dict[str, Any]:
    """Returns the content of predict.json."""
    record = {**made_by, **plan._asdict(), **outputs.described_classes(classes)}
    del record['batch_size']  # changes only the speed
    if planes.feature is not None:
        record['planes'] = planes.feature.name
        record['depth_unit'] = planes.unit
    return record


class _Job(NamedTuple):
    """A net, and the folder that receives its predictions.

    predict_fn  the compiled net
    plan        how images are cut
    classes     of the predictions
    folder      for the outputs
    finished    list of the finished images in `folder`
    planes      that the net sees behind colour
    """

    predict_fn: PredictFn
    plan: PredictPlan
    classes: ClassSpec
    folder: pathlib.Path
    finished: Finished
    planes: Planes


# --- images ---------------------------------------------------------------------------------------


def _predict_folder(job: _Job, sources: Sequence[ImageSource]) -> dict[str, Any]:
    """Predicts the images that are not finished. Returns the counts of `predict_images`.

    Raises:
      InputError: images that cannot be decoded, after all other images are written.
    """
    todo = [source for source in sources if not _is_finished(job, source)]
    job.finished.begin(source.name for source in todo)
    damaged: list[str] = []
    assemblies = open_images(todo, job.plan, job.classes.num_classes, damaged, job.planes)
    counts = _predict_all(job, assemblies, len(todo))
    if damaged:
        raise outputs.damaged_error(damaged, len(todo), 'images')
    others = job.finished.others(source.name for source in sources)
    return {**counts, 'skipped': len(sources) - len(todo), 'others': others}


def _is_finished(job: _Job, source: ImageSource) -> bool:
    """Returns whether the outputs of an image exist and were made from this very file."""
    paths = outputs.output_paths(job.folder, source.name)
    return job.finished.holds(source.name, paths, lambda: outputs.source_digest(source))


def open_images(
    sources: Iterable[ImageSource],
    plan: PredictPlan,
    num_classes: int,
    damaged: list[str],
    planes: Planes = COLOUR,
) -> Iterator[Assembly]:
    """Opens the images one at a time. Planes are computed in threads, a little ahead.

    Args:
      sources: the image files.
      plan: gives how images are cut.
      num_classes: C of the predictions.
      damaged: receives the paths of images that cannot be decoded.
      planes: that the net sees behind colour.
    """

    def attempt(source: ImageSource) -> Assembly | str:
        try:
            # Before reading: an image that is replaced in between is predicted again next time.
            digest = outputs.source_digest(source)
            image = read_image(source.path)
            if image is None:
                return str(source.path)
            own = planes.compute(source, image)
        except FileNotFoundError as error:  # removed since the folder was listed
            return str(error.filename)
        except InputError as error:
            return f'{source.path}: {error.where}: {error.got}'
        return Assembly(source, image, plan, num_classes, digest, own)

    # Planes take much longer than the image itself.
    with contextlib.ExitStack() as stack:
        attempts: Iterator[Assembly | str] = map(attempt, sources)
        if planes.feature is not None:
            attempts = stack.enter_context(contextlib.closing(base.ordered_map(attempt, sources)))
        for result in attempts:
            if isinstance(result, str):
                damaged.append(result)
            else:
                yield result


def _predict_all(job: _Job, assemblies: Iterator[Assembly], total: int) -> dict[str, Any]:
    """Predicts and writes images. Nothing compiles if there is no image.

    Args:
      job: the net and the folder.
      assemblies: the opened images. They are opened when their turn comes.
      total: their expected number, for the progress bar.

    Returns:
      {'images', 'tiles', 'largest', 'megapixels', 'compile_seconds', 'seconds',
      'waiting_seconds'}, as `predict_images` returns them.
    """
    # The net compiles when the first image is open, and not within the measured time.
    first = next(assemblies, None)
    compile_seconds = 0.0
    if first is not None:
        num_classes = job.classes.num_classes
        compile_seconds = warm_up(job.predict_fn, job.plan, num_classes, job.planes.channels)
        assemblies = itertools.chain([first], assemblies)

    # Tiles of several images share batches. A complete image goes to a thread that writes it.
    start = time.perf_counter()
    num_images = 0
    num_tiles = 0
    num_pixels = 0
    largest = 0.0
    waiting = Waiting()
    with (
        outputs.WriterThreads() as threads,
        tqdm.tqdm(total=total, unit='image', disable=None) as bar,
    ):
        cut_tiles = all_tiles(assemblies)
        predicted = predict_tiles(job.predict_fn, job.plan, cut_tiles, waiting)
        for assembly, place, probabilities in predicted:
            num_tiles += 1
            largest = max(largest, min(np.divide(assembly.grids[0].size, job.plan.eval_size)))
            if assembly.add(place, probabilities):
                arguments = (job.folder, assembly, job.classes, job.finished)
                threads.submit(outputs.write_outputs, *arguments)
                num_images += 1
                num_pixels += math.prod(assembly.size)
                bar.update()
    job.finished.sort()
    return {
        'images': num_images,
        'tiles': num_tiles,
        'largest': float(largest),
        'megapixels': num_pixels / 1e6,
        'compile_seconds': compile_seconds,
        'seconds': time.perf_counter() - start,
        'waiting_seconds': waiting.seconds,
    }


# --- videos ---------------------------------------------------------------------------------------


class _Frames:
    """Opens the frames of a video that are not finished, and counts all frames.

    count  number of frames that were read so far
    """

    def __init__(self, job: _Job, video: Video):
        self.count = 0
        self._job = job
        self._video = video
        # The digest covers the whole file: frames are decoded from each other.
        self._digest = outputs.content_digest(video.path)
        self._held = {name for name in job.finished.names() if self._is_finished(name)}
        prefix = video.frame_name(0).rpartition('/')[0] + '/'
        listed = [name for name in job.finished.names() if name.startswith(prefix)]
        job.finished.begin(name for name in listed if name not in self._held)

    def _is_finished(self, name: str) -> bool:
        """Returns whether the outputs of a frame exist and were made from this very file."""
        paths = outputs.output_paths(self._job.folder, name)
        return self._job.finished.holds(name, paths, lambda: self._digest)

    def _is_held(self, number: int) -> bool:
        """Returns whether the outputs of a frame exist."""
        return self._video.frame_name(number) in self._held

    def open(self) -> Iterator[Assembly]:
        """Opens the frames one at a time."""
        num_classes = self._job.classes.num_classes
        for number, image in video_lib.read_frames(self._video, self._is_held):
            self.count = number + 1
            if image is not None:
                source = ImageSource(self._video.path, self._video.frame_name(number))
                yield Assembly(source, image, self._job.plan, num_classes, self._digest)


def _predict_video(job: _Job, video: Video) -> dict[str, Any]:
    """Predicts the frames that are not finished, and writes two videos of all frames.

    Returns the counts of `predict_images`.

    Raises:
      InputError: a damaged video, after everything that can be decoded is written.
    """
    frames = _Frames(job, video)
    assemblies = frames.open()
    first = next(assemblies, None)
    if first is not None:
        # A kill leaves no video that belongs to other frames.
        remove_videos(job.folder, video)
        assemblies = itertools.chain([first], assemblies)
    counts = _predict_all(job, assemblies, video.num_frames)
    names = [video.frame_name(number) for number in range(frames.count)]
    write_videos(job.folder, video, frames.count)
    video_lib.check_complete(video, frames.count)
    skipped = frames.count - counts['images']
    return {**counts, 'skipped': skipped, 'others': job.finished.others(names)}


def remove_videos(folder: pathlib.Path, video: Video) -> None:
    """Removes the videos that `write_videos` wrote."""
    for kind in VIDEO_KINDS:
        video_lib.remove(folder / kind / video.path.stem)


def write_videos(folder: pathlib.Path, video: Video, num_frames: int) -> None:
    """Writes the pictures of a video as videos, unless they exist.

    Args:
      folder: for the outputs.
      video: the input.
      num_frames: its first frames have pictures.
    """
    for kind in VIDEO_KINDS:
        stem = folder / kind / video.path.stem
        if video_lib.written_path(stem) is None:
            names = [video.frame_name(number) for number in range(num_frames)]
            pictures = [outputs.output_path(folder, kind, name) for name in names]
            video_lib.write_video(stem, pictures, video.rate)


VIDEO_KINDS = ('color', 'overlay')
"""Outputs of a video that are also written as a video, next to the folder of their frames."""
