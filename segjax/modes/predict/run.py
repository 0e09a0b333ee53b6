"""Runs `--mode predict`: chooses the stage and its use, and loads its state."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.modes.predict import clip_settings, clips, outputs, packs, prediction, rgbd, tiled
from segjax.modes.predict import examples as examples_lib
from segjax.protocol import Stage, TrainState
from segjax.train import driver, initialization

TILES = 'tiles'
PREDICTION = 'prediction'


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    input_folder: str,
    output_folder: str,
    which: str,
    stage_name: str = '',
    pack: str = '',
) -> dict[str, Any]:
    """Runs `--mode predict` on all devices of this process.

    A stage with `predict` predicts class maps in tiles (`tiled.predict_images`), or pools them over
    a clip (`clips.predict_clips`). A stage with a `prediction` applies it to examples
    (`prediction.predict_examples`).

    Args:
      config: of the run.
      workdir: the run folder.
      input_folder: a folder of images or maps, an image or a map, a video, or a JSON list.
      output_folder: for the results.
      which: 'last' or 'best' checkpoint.
      stage_name: '' for the last stage that can predict.
      pack: benchmark for whose server the class maps are packed (packs.py). '': none.

    Returns:
      The summary of `predict_images` or `predict_examples`.

    Raises:
      InputError: a stage that cannot predict this input, a file that is missing or wrong, or more
        than one process.
    """
    source = pathlib.Path(input_folder)
    target = pathlib.Path(output_folder)
    _check_arguments(input_folder, output_folder)
    packed = packs.open_pack(pack, config.data.root, source) if pack else None

    # The input is checked before a net is loaded.
    opened, stages = driver.open_run(config, workdir, 'predict')
    stage = driver.predicting_stage(opened, stages, stage_name)
    method = chosen_method(stage, opened.config.predict.method, source)
    _check_settings(opened.config, stage, method)
    if packed is not None:
        packs.check_method(method == TILES, stage.name)
        packs.check_classes(packed, opened.spec_of(stage.eval_input).classes)
    examples = _checked_input(opened, stage, method, source, target)

    # All devices hold the state of the chosen checkpoint.
    stage, state = driver.load_last_stage(opened, stages, which, stage_name)
    on_host = parallel.to_host(state)
    examples_lib.check_trained(examples, stage, on_host)
    made_by = net_facts(opened, stage, on_host)
    if method == TILES:
        summary = _predict_tiles(opened, stage, state, source, target, made_by)
    else:
        summary = _predict_examples(opened, stage, state, examples, target, made_by)
    _print_summary(summary, input_folder, output_folder)
    if packed is not None:
        path = packs.write(packed, target, opened.spec_of(stage.eval_input).classes)
        print(f'packed: {path} ({len(packed.images)} images)')
    return summary


def _checked_input(
    opened: driver.Run,
    stage: Stage,
    method: str,
    source: pathlib.Path,
    target: pathlib.Path,
) -> list[examples_lib.ExampleFiles]:
    """Returns the examples of a declared prediction, [] for tiles.

    Raises:
      InputError: files that cannot be predicted, or outputs that would become inputs.
    """
    if method == TILES:
        outputs.check_folders(source, target)
        _check_tiles(opened, stage, source)
        return []

    # The files of all examples, of which none may be overwritten.
    declared = prediction.completed(stage.prediction)
    outputs.check_folders(source, target, declared.outputs)
    examples = examples_lib.find_examples(
        source, declared, opened.spec_of(stage.eval_input).classes
    )
    paths = (path for example in examples for path in example.files.values())
    outputs.check_files(paths, target, declared.outputs)
    return examples


def chosen_method(stage: Stage, method: str, source: pathlib.Path | None = None) -> str:
    """Returns 'tiles' or 'prediction'.

    Args:
      stage: can do at least one of them.
      method: config.predict.method.
      source: the input. A JSON list is for 'prediction', a video for 'tiles'. None: no input.

    Raises:
      InputError: the stage cannot do what is asked.
    """
    able = {TILES: stage.predict is not None, PREDICTION: stage.prediction is not None}
    if method and not able[method]:
        other = PREDICTION if method == TILES else TILES
        raise InputError(
            'config.predict.method',
            got=f'{method!r} for stage {stage.name!r}',
            expected=f'{other!r}, which is all that the stage can do',
            fix='leave config.predict.method out',
        )
    if method:
        return method
    is_list = source is not None and _is_list(source)
    if is_list and not able[PREDICTION]:
        raise InputError(
            f'--input {source}',
            got='a JSON list',
            expected=f'images or a video: stage {stage.name!r} predicts class maps of images',
            fix=f'--input {source.parent}',
        )
    return TILES if able[TILES] and not is_list else PREDICTION


def _is_list(source: pathlib.Path) -> bool:
    """Returns whether an input is a JSON list of examples."""
    return source.suffix.lower() == examples_lib.LIST and source.is_file()


def _check_pooling(config: ml_collections.ConfigDict, stage: Stage, method: str) -> None:
    """Raises InputError if predictions without class probabilities would be pooled."""
    if method == PREDICTION and clip_settings.is_pooled(config):
        raise InputError(
            f'{clip_settings.KEY}.use',
            got=f'{config.predict.pooling.use!r} for the declared prediction of {stage.name!r}',
            expected="'none', or class probabilities of images, which are pooled over a clip",
            fix=f'--{clip_settings.KEY}.use=none',
        )


def _check_tiles(opened: driver.Run, stage: Stage, source: pathlib.Path) -> None:
    """Raises InputError for files or clips that cannot be predicted."""
    planes = planes_of(opened, stage)
    if clip_settings.is_pooled(opened.config):
        clips.open_clips(opened.config, opened.spec_of(stage.eval_input), source, planes)
    else:
        tiled.find_sources(source, planes)


def planes_of(opened: driver.Run, stage: Stage) -> rgbd.Planes:
    """Returns the planes that `Stage.predict` sees behind colour."""
    unit = opened.config.predict.depth_unit
    if not stage.predict_planes:
        return rgbd.Planes(None, unit)
    features = pipelines.make_features(opened.config, opened.specs)
    (feature,) = (each for each in features if each.name == stage.predict_planes)
    return rgbd.Planes(feature, unit)


def _predict_tiles(
    opened: driver.Run,
    stage: Stage,
    state: TrainState,
    source: pathlib.Path,
    target: pathlib.Path,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Predicts class maps. The tiles of a batch are split over the devices."""
    topology = opened.topology
    predict = topology.map_rows(stage.predict, row_args=(1,), num_args=2)
    config = opened.config.copy_and_resolve_references().unlock()
    config.predict.batch_size = topology.whole_batch(config.predict.batch_size)
    is_pooled = clip_settings.is_pooled(config)
    predict_all = clips.predict_clips if is_pooled else tiled.predict_images
    return predict_all(
        lambda images: predict(state, topology.put_rows(images)),
        config,
        opened.spec_of(stage.eval_input),
        source,
        target,
        made_by,
        planes_of(opened, stage),
    )


def _predict_examples(
    opened: driver.Run,
    stage: Stage,
    state: TrainState,
    examples: Sequence[examples_lib.ExampleFiles],
    target: pathlib.Path,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Applies the prediction of a stage. The examples of a batch are split over the devices."""
    topology = opened.topology
    keys = opened.config.predict
    spec = opened.spec_of(stage.eval_input)
    declared = prediction.completed(stage.prediction)
    settings = prediction.Settings(
        examples_lib.with_room(declared, examples),
        spec.classes,
        topology.whole_batch(keys.batch_size),
        keys.depth_unit,
        spec.merge,
        codes_of(stage, state),
    )

    # Shapes of the outputs are checked before anything compiles.
    root = rng.root(opened.config.seed, stage.name, 'predict')
    function = prediction.apply_with_keys(settings.prediction)
    shapes = prediction.output_shapes(function, settings, state, root)
    apply = topology.map_rows(function, row_args=(1, 2), num_args=4)

    def apply_fn(batch, digests):
        batch, digests = topology.put_rows((dict(batch), digests))
        return apply(state, batch, digests, root)

    return prediction.predict_examples(apply_fn, settings, shapes, examples, target, made_by)


def codes_of(stage: Stage, state: TrainState) -> dict[str, np.ndarray]:
    """Returns the random codes of a prediction by name, {} without codes."""
    if stage.prediction is None or stage.prediction.codes is None:
        return {}
    codes = stage.prediction.codes(parallel.to_host(state))
    return {name: np.asarray(value) for name, value in codes.items()}


def _check_settings(config: ml_collections.ConfigDict, stage: Stage, method: str) -> None:
    """Raises InputError for keys of config.predict that the method of a stage cannot use."""
    _check_pooling(config, stage, method)
    check_codes(config.predict.codes, stage, method)


def check_codes(path: str, stage: Stage, method: str) -> None:
    """Raises InputError for a file of codes that the prediction of a stage cannot use."""
    has_codes = method == PREDICTION and stage.prediction.codes is not None
    if path and not has_codes:
        raise InputError(
            'config.predict.codes',
            got=path,
            expected="'', because this stage draws no samples by codes",
            fix='leave config.predict.codes out',
        )


def _check_arguments(input_folder: str, output_folder: str) -> None:
    """Raises InputError for missing or wrong paths, and for more than one process."""
    for flag, value in (('--input', input_folder), ('--output', output_folder)):
        if not value:
            raise InputError(flag, got='nothing', expected='a folder', fix=f'{flag} some/folder')
    if not pathlib.Path(input_folder).exists():
        raise InputError(
            '--input',
            got=input_folder,
            expected='an existing folder of images, or an image, a video or a JSON list',
        )
    parallel.check_single_process('--mode predict')


def net_facts(opened: driver.Run, stage: Stage, state: TrainState) -> dict[str, Any]:
    """Returns the facts that tell the predictions of this net from predictions of another net.

    Args:
      opened: the run.
      stage: that predicts.
      state: of the stage, on the host.
    """
    arrays = {'params': state.params, 'model_state': state.model_state, 'extra': state.extra}
    return {
        'run': str(opened.workdir.resolve()),
        'stage': stage.name,
        'step': int(state.step),
        'net': initialization.digest(arrays),
        'config': config_lib.recorded(opened.config),
    }


def _print_summary(summary: Mapping[str, Any], input_folder: str, output_folder: str) -> None:
    """Prints the number of results, the speed, and notes about sizes and older results."""
    skipped = summary['skipped']
    # The speed has no meaning where every image was there already.
    if summary['images']:
        seconds = summary['seconds']
        speed = f'{summary["images_per_second"]:.2f} images/s'
        if 'megapixels' in summary:
            speed += f', {summary["megapixels"] / seconds:.2f} megapixels/s'
        print(
            f'{summary["images"]} images ({skipped} were there already) in {output_folder}: '
            f'{speed} after {summary["compile_seconds"]:.1f} s of compilation, '
            f'{summary["waiting_seconds"] / seconds:.0%} of the time waiting for the net'
        )
    else:
        print(f'0 images: all {skipped} were there already, in {output_folder}')
    largest = summary.get('largest', 0)
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
