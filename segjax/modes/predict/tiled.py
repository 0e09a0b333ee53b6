"""Predicts a folder of images with the net of a run folder, or with any compiled net."""

import os
import pathlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from segjax import config as config_lib
from segjax.core import files, parallel
from segjax.data.image_files import ImageSource, find_images, read_image
from segjax.errors import InputError
from segjax.modes.predict import outputs
from segjax.modes.predict.assembly import Assembly
from segjax.modes.predict.batches import PredictFn, all_tiles, predict_tiles, warm_up
from segjax.modes.predict.outputs import Finished
from segjax.modes.predict.plan import PredictPlan, make_predict_plan
from segjax.protocol import Stage, TrainState
from segjax.spec import DataSpec
from segjax.train import driver, initialization

WRITERS = 4  # threads that encode and write pictures


# --- the mode -------------------------------------------------------------------------------------


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    input_folder: str,
    output_folder: str,
    which: str,
) -> dict[str, Any]:
    """Runs `--mode predict`: `predict_images` with the last stage of a run that can predict.

    It uses one device.

    Args:
      config: of the run.
      workdir: the run folder.
      input_folder, output_folder: as in `predict_images`.
      which: 'last' or 'best' checkpoint.

    Returns:
      The summary of `predict_images`.

    Raises:
      InputError: a folder that is missing or wrong, or more than one process.
    """
    # Checked first, so that no net is loaded for nothing.
    _check_arguments(input_folder, output_folder)

    # One device predicts all tiles, with the state of the chosen checkpoint.
    opened, stages = driver.open_run(config, workdir, 'predict')
    stage, state = driver.load_last_stage(opened, stages, which)
    state = parallel.to_host(state)
    made_by = _made_by(opened, stage, state)
    state = jax.device_put(state, jax.local_devices()[0])
    predict = opened.topology.jit(stage.predict)

    summary = predict_images(
        lambda images: predict(state, images),
        opened.config,
        opened.spec,
        input_folder,
        output_folder,
        made_by,
    )
    _print_summary(summary, input_folder, output_folder)
    return summary


def _check_arguments(input_folder: str, output_folder: str) -> None:
    """Raises InputError for missing or wrong folders, and for more than one process."""
    for flag, value in (('--input', input_folder), ('--output', output_folder)):
        if not value:
            raise InputError(flag, got='nothing', expected='a folder', fix=f'{flag} some/folder')
    outputs.check_folders(pathlib.Path(input_folder), pathlib.Path(output_folder))
    find_images(pathlib.Path(input_folder))
    if jax.process_count() > 1:
        raise InputError(
            '--mode predict',
            got=f'{jax.process_count()} processes',
            expected='one process',
            fix='start it without --coordinator and --distributed',
        )


def _made_by(opened: driver.Run, stage: Stage, state: TrainState) -> dict[str, Any]:
    """Returns the facts that tell the predictions of this net from predictions of another net."""
    arrays = {'params': state.params, 'model_state': state.model_state, 'extra': state.extra}
    return {
        'run': str(opened.workdir.resolve()),
        'stage': stage.name,
        'step': int(state.step),
        'net': initialization.digest(arrays),
        'config': config_lib.recorded(opened.config),
    }


def _print_summary(summary: Mapping[str, Any], input_folder: str, output_folder: str) -> None:
    """Prints the number of images, the speed, and notes about sizes and older results."""
    skipped = summary['skipped']
    # The speed has no meaning where every image was there already.
    if summary['images']:
        print(
            f'{summary["images"]} images ({skipped} were there already) in {output_folder}: '
            f'{summary["images_per_second"]:.2f} images/s '
            f'after {summary["compile_seconds"]:.1f} s of compilation'
        )
    else:
        print(f'0 images: all {skipped} were there already, in {output_folder}')
    largest = summary['largest']
    # At this scale, objects are larger than in training.
    if largest >= 2:
        print(
            f'note: an image is {largest:.1f} times as large as the images that the net was '
            f'trained on. It was cut into tiles at that scale. To show it to the net as a whole, '
            f'add --config.predict.scales="({1 / largest:.3g},)"'
        )
    # Results of another folder could be mistaken for these.
    if summary['others']:
        print(
            f'note: {output_folder} also holds results of images that are not in {input_folder}: '
            + shortened(summary['others'])
        )


def shortened(names: Sequence[str]) -> str:
    """Returns the first three names and the number of further names, for a message."""
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if names[3:] else '')


# --- any compiled net -----------------------------------------------------------------------------


def predict_images(
    predict_fn: PredictFn,
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    input_folder: str | os.PathLike,
    output_folder: str | os.PathLike,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Predicts every image of a folder.

    Args:
      predict_fn: [B, h, w, 3] uint8 -> class probabilities [B, h, w, C]. Compiled for
        B = predict.batch_size and (h, w) = predict.tile, the only shape that it is called with.
      config: only its sections `predict` and `data` are read.
      spec: gives classes, palette, ids and the sizes that the net was trained for.
      input_folder: contains images, also in sub-folders.
      output_folder: receives ids/, color/, overlay/, confidence/, predict.json and predict.jsonl.
      made_by: facts that tell this net from another net ({'run': folder, 'step': 9000}). Must
        survive JSON.

    Returns:
      {'images', 'skipped', 'others', 'tiles', 'largest', 'compile_seconds', 'seconds',
      'images_per_second'}. The rate includes reading, blending and writing, not compilation.
      `largest` is the size of the largest image as the net sees it, in units of
      `data.eval_size`. `others` names images of earlier calls that are not in the input folder.

    Raises:
      InputError: before anything compiles, for folders that `check_folders` or `find_images`
        refuses. At the end, for damage that only decoding shows. All other images are then written.
    """
    # Everything that can be refused is refused before the net compiles and a file is written.
    input_folder = pathlib.Path(input_folder)
    output_folder = pathlib.Path(output_folder)
    outputs.check_classes(spec.classes)
    plan = make_predict_plan(config, spec)
    record = _record(made_by, plan, spec)
    outputs.check_folders(input_folder, output_folder)
    sources = find_images(input_folder)
    outputs.check_record(output_folder, record)

    # The list of finished images tells which images remain.
    finished = Finished(output_folder)
    todo = [source for source in sources if not finished.holds(source)]
    files.write_json(output_folder / outputs.RECORD, record)
    others = finished.others(sources)
    finished.begin(todo)
    counts = _predict_all(predict_fn, plan, spec, todo, output_folder, finished)
    return {
        'images': len(todo),
        'skipped': len(sources) - len(todo),
        'others': others,
        **counts,
        'images_per_second': len(todo) / counts['seconds'] if todo else 0.0,
    }


def _record(made_by: Mapping[str, Any], plan: PredictPlan, spec: DataSpec) -> dict[str, Any]:
    """Returns the content of predict.json."""
    classes = {
        'classes': spec.classes.names,
        'ids': spec.classes.ids,
        'palette': spec.classes.palette,
    }
    record = {**made_by, **plan._asdict(), **classes}
    del record['batch_size']  # changes only the speed
    return record


def _predict_all(
    predict_fn: PredictFn,
    plan: PredictPlan,
    spec: DataSpec,
    todo: Sequence[ImageSource],
    output_folder: pathlib.Path,
    finished: Finished,
) -> dict[str, Any]:
    """Predicts and writes the images of `todo`.

    Returns:
      {'tiles', 'largest', 'compile_seconds', 'seconds'}, as `predict_images` returns them.

    Raises:
      InputError: images that cannot be decoded, after all other images are written.
    """
    num_classes = spec.classes.num_classes
    compile_seconds = warm_up(predict_fn, plan, num_classes) if todo else 0.0
    start = time.perf_counter()
    damaged: list[str] = []
    num_tiles = 0
    largest = 0.0
    writing: deque[Future] = deque()
    cut_tiles = all_tiles(open_images(todo, plan, num_classes, damaged))
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        tqdm.tqdm(total=len(todo), unit='image', disable=None) as bar,
    ):
        for assembly, place, probabilities in predict_tiles(predict_fn, plan, cut_tiles):
            num_tiles += 1
            largest = max(largest, min(np.divide(assembly.grids[0].size, plan.eval_size)))
            if assembly.add(place, probabilities):
                arguments = (output_folder, assembly, spec.classes, finished)
                writing.append(pool.submit(outputs.write_outputs, *arguments))
                bar.update()
            # Waiting for the oldest picture bounds the memory, and raises the error of its writer.
            if len(writing) > WRITERS:
                writing.popleft().result()
        for future in writing:
            future.result()
    finished.sort()
    seconds = time.perf_counter() - start
    if damaged:
        raise InputError(
            f'{len(damaged)} of {len(todo)} images',
            got='damaged or gone: ' + ', '.join(damaged),
            expected='images that can be decoded. All other images are written',
            fix='replace or remove them',
        )
    return {
        'tiles': num_tiles,
        'largest': float(largest),
        'compile_seconds': compile_seconds,
        'seconds': seconds,
    }


def open_images(
    sources: Iterable[ImageSource], plan: PredictPlan, num_classes: int, damaged: list[str]
) -> Iterator[Assembly]:
    """Opens the images one at a time.

    Args:
      sources: the image files.
      plan: gives how images are cut.
      num_classes: C of the predictions.
      damaged: receives the paths of images that cannot be decoded.
    """
    for source in sources:
        try:
            # Before reading: an image that is replaced in between is predicted again next time.
            digest = outputs.content_digest(source.path)
            image = read_image(source.path)
        except FileNotFoundError:  # removed since the folder was listed
            image = None
        if image is None:
            damaged.append(str(source.path))
        else:
            yield Assembly(source, image, plan, num_classes, digest)
