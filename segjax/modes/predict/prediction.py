"""Applies the `Prediction` of a stage to examples of files, and writes its outputs."""

import contextlib
import io
import pathlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from segjax.core import files, rng, trees
from segjax.data import class_maps, kinds
from segjax.data.builders import base
from segjax.errors import InputError
from segjax.modes.predict import fitting, outputs, writers
from segjax.modes.predict import reading as reading_lib
from segjax.modes.predict.batches import Waiting, batched
from segjax.modes.predict.examples import ExampleFiles
from segjax.modes.predict.outputs import Finished
from segjax.protocol import Prediction, TrainState
from segjax.spec import ClassSpec, Merge

ApplyFn = Callable[[Mapping[str, np.ndarray], np.ndarray], Mapping[str, jax.Array]]
"""(batch, [B] uint32 digests of names) -> {name: array}, compiled for a single B."""


class Settings(NamedTuple):
    """Facts about a prediction that files and results depend on.

    prediction  of the stage
    classes     of the data set
    batch_size  examples of a call, a multiple of the number of devices
    depth_unit  metres of a unit in 16-bit depth files
    merge       the classes of label files, and their merge into `classes`. None: no class map
    codes       random codes that all examples share, by name
    """

    prediction: Prediction
    classes: ClassSpec
    batch_size: int
    depth_unit: float
    merge: Merge | None = None
    codes: Mapping[str, np.ndarray] = {}


CODES = 'codes.npz'
"""Name of the file of the random codes."""


def completed(prediction: Prediction) -> Prediction:
    """Returns a prediction whose inputs have their shapes and types.

    Raises:
      InputError: an input of an unknown kind, or without a shape that must be declared.
    """
    inputs = prediction.inputs
    return prediction._replace(inputs={key: kinds.feature_of(key, inputs) for key in inputs})


def apply_with_keys(
    prediction: Prediction,
) -> Callable[[TrainState, Mapping[str, Any], jax.Array, jax.Array], Mapping[str, jax.Array]]:
    """Returns (state, batch, digests, root key) -> outputs, per device.

    The keys of an example depend on the root key and on the digest of its name alone.
    """

    def apply(state, batch, digests, root):
        batch = kinds.in_step(batch, prediction.inputs)
        keys = rng.streams_of_rows(root, prediction.streams, digests)
        return prediction.apply(state, batch, keys)

    return apply


def predict_examples(
    apply_fn: ApplyFn,
    settings: Settings,
    shapes: Mapping[str, tuple[int, ...]],
    examples: Sequence[ExampleFiles],
    folder: pathlib.Path,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """Predicts the examples that are not finished.

    Args:
      apply_fn: the compiled function.
      settings: of the prediction.
      shapes: of the outputs of an example (`output_shapes`).
      examples: in the order of their names. They have been checked.
      folder: receives a folder for each output, table.csv, codes.npz, predict.json and
        predict.jsonl.
      made_by: facts that tell this net from another net.

    Returns:
      {'images', 'skipped', 'others', 'compile_seconds', 'seconds', 'waiting_seconds',
      'images_per_second'}, as `tiled.predict_images` returns them. An image is an example here.

    Raises:
      InputError: results of another net in the folder. Or damage that only decoding shows, at the
        end. All other examples are then written.
    """
    prediction = settings.prediction
    if 'classes' in prediction.outputs.values():
        outputs.check_classes(settings.classes)
    record = _record(made_by, settings)
    outputs.check_record(folder, record)

    # The list of finished examples tells which examples remain.
    finished = Finished(folder)
    files.write_json(folder / outputs.RECORD, record)
    if settings.codes:
        content = io.BytesIO()
        np.savez(content, **settings.codes)
        files.write_bytes(folder / CODES, content.getvalue())
    job = _Job(apply_fn, settings, folder, finished, shapes)
    todo = [example for example in examples if not _is_finished(job, example)]
    finished.begin(example.name for example in todo)
    damaged: list[str] = []
    counts = _predict_all(job, todo, damaged)
    finished.sort()

    # Numbers of finished examples are in the list. The table is made from it as a whole.
    tables = [name for name, kind in prediction.outputs.items() if kind == 'table']
    listed = set(finished.names())
    names = [example.name for example in examples if example.name in listed]
    writers.write_table(folder, tables, {name: finished.values(name) for name in names})
    if damaged:
        raise outputs.damaged_error(damaged, len(todo), 'examples')
    others = finished.others(example.name for example in examples)
    return {**counts, 'skipped': len(examples) - len(todo), 'others': others}


def _record(made_by: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Returns the content of predict.json."""
    prediction = settings.prediction
    return {
        **made_by,
        'inputs': {key: feature._asdict() for key, feature in prediction.inputs.items()},
        'outputs': dict(prediction.outputs),
        # Maps that are not resized make the size, and results do not depend on it.
        **({'size': prediction.size} if prediction.resize else {'resize': False}),
        **({'codes': trees.digest(settings.codes)} if settings.codes else {}),
        'depth_unit': settings.depth_unit,
        **outputs.described_classes(settings.classes),
    }


class _Job(NamedTuple):
    """A prediction, and the folder that receives its outputs.

    apply_fn  the compiled function
    settings  of the prediction
    folder    for the outputs
    finished  list of the finished examples in `folder`
    shapes    of the outputs of an example
    """

    apply_fn: ApplyFn
    settings: Settings
    folder: pathlib.Path
    finished: Finished
    shapes: Mapping[str, tuple[int, ...]]

    def paths(self, output: str, name: str) -> list[pathlib.Path]:
        """Returns the files of an output of an example."""
        kind = self.settings.prediction.outputs[output]
        return writers.output_paths(self.folder, output, kind, name, self.shapes[output])


def _is_finished(job: _Job, example: ExampleFiles) -> bool:
    """Returns whether the outputs of an example exist and were made from these very inputs."""
    paths = [
        path
        for output in job.settings.prediction.outputs
        for path in job.paths(output, example.name)
    ]
    return job.finished.holds(example.name, paths, example.digest)


# --- batches --------------------------------------------------------------------------------------


class _Loaded(NamedTuple):
    """An example that has been read.

    name       of the example
    digest     of its inputs
    values     {feature: array} as the net sees them
    file_size  (height, width) of its files, None without maps
    """

    name: str
    digest: str
    values: Mapping[str, np.ndarray]
    file_size: tuple[int, int] | None


def load(example: ExampleFiles, settings: Settings) -> _Loaded:
    """Reads the maps of an example and fits it into the size of the net.

    Raises:
      InputError: a file that is damaged or gone.
    """
    inputs = settings.prediction.inputs
    coding = class_maps.coding_of(settings.classes, settings.merge)
    reading = reading_lib.Reading(coding, settings.depth_unit)
    try:
        # Before reading: an example that is replaced in between is predicted again next time.
        digest = example.digest()
        maps = {
            key: reading_lib.read_map(path, key, inputs[key], reading)
            for key, path in example.files.items()
        }
    except OSError as error:
        raise InputError(example.where, got=str(error), expected='files that exist') from error
    values = {key: maps[key] if key in maps else example.values[key] for key in inputs}
    fitted, file_size = fitting.fit(values, settings.prediction)
    return _Loaded(example.name, digest, fitted, file_size)


def _load_all(
    todo: Sequence[ExampleFiles], settings: Settings, damaged: list[str]
) -> Iterator[_Loaded]:
    """Reads examples in threads, a little ahead. Examples that cannot be read go to `damaged`."""

    def attempt(example: ExampleFiles) -> _Loaded | str:
        try:
            return load(example, settings)
        except InputError as error:
            return f'{example.where}: {error.where}: {error.got}'

    with contextlib.closing(base.ordered_map(attempt, todo)) as attempts:
        for result in attempts:
            if isinstance(result, str):
                damaged.append(result)
            else:
                yield result


def make_batch(
    loaded: Sequence[_Loaded], settings: Settings
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Stacks examples into a batch of static shape. The last example fills the remaining rows.

    Returns:
      The batch, with `weight` and perhaps `size` (see `Prediction.apply`), and the digests of the
      names, [B] uint32.
    """
    missing = settings.batch_size - len(loaded)
    rows = [*loaded, *[loaded[-1]] * missing]
    batch = {key: np.stack([row.values[key] for row in rows]) for key in loaded[0].values}
    batch['weight'] = np.array([1] * len(loaded) + [0] * missing, np.float32)
    if loaded[0].file_size is not None:
        filled = [fitting.filled_size(row.file_size, settings.prediction) for row in rows]
        batch['size'] = np.array(filled, np.int32)
    digests = np.array([rng.name_digest(row.name) for row in rows], np.uint32)
    return batch, digests


def _predict_all(job: _Job, todo: Sequence[ExampleFiles], damaged: list[str]) -> dict[str, Any]:
    """Predicts and writes examples. One batch is in flight while the host writes the batch before.

    Returns:
      {'images', 'compile_seconds', 'seconds', 'waiting_seconds', 'images_per_second'}.
    """
    settings = job.settings
    start = time.perf_counter()
    compile_seconds = 0.0
    waiting = Waiting()
    num_examples = 0
    in_flight: deque[tuple[list[_Loaded], Mapping[str, jax.Array]]] = deque()
    with (
        outputs.WriterThreads() as threads,
        tqdm.tqdm(total=len(todo), unit='example', disable=None) as bar,
    ):

        def write_oldest():
            loaded, results = in_flight.popleft()
            with waiting.measure():
                arrays = {name: np.asarray(value) for name, value in results.items()}
            for row, example in enumerate(loaded):
                values = {name: array[row] for name, array in arrays.items()}
                threads.submit(_write_example, job, example, values)
                bar.update()

        for loaded in batched(_load_all(todo, settings, damaged), settings.batch_size):
            batch, digests = make_batch(loaded, settings)
            with waiting.measure():
                in_flight.append((loaded, job.apply_fn(batch, digests)))
            # The first call returns when the program is compiled.
            compile_seconds = compile_seconds or waiting.seconds
            num_examples += len(loaded)
            if len(in_flight) > 1:
                write_oldest()
        while in_flight:
            write_oldest()
    seconds = time.perf_counter() - start - compile_seconds
    return {
        'images': num_examples,
        'compile_seconds': compile_seconds,
        'seconds': seconds,
        'waiting_seconds': waiting.seconds - compile_seconds,
        'images_per_second': num_examples / seconds if num_examples else 0.0,
    }


def _write_example(job: _Job, example: _Loaded, values: Mapping[str, np.ndarray]) -> None:
    """Writes the files of an example, then lists it as finished with its numbers."""
    settings = job.settings
    writing = writers.Writing(settings.classes, settings.depth_unit)
    numbers = {}
    for output, value in values.items():
        kind = settings.prediction.outputs[output]
        if kind == 'table':
            is_float = value.dtype.kind in writers.FLOATS
            numbers[output] = (value.astype(np.float32) if is_float else value).tolist()
            continue
        writers.check_values(output, kind, value, settings.classes)
        restored = fitting.restore(kind, value, example.file_size, settings.prediction)
        writers.write_output(job.paths(output, example.name), kind, restored, writing)
    job.finished.add(example.name, example.digest, numbers)


def batch_shapes(settings: Settings) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch of `make_batch`."""
    rows = settings.batch_size
    size = settings.prediction.size
    inputs = settings.prediction.inputs
    shapes = {'weight': jax.ShapeDtypeStruct((rows,), 'float32')}
    for key, feature in inputs.items():
        shape = kinds.value_shape(feature, size)
        shapes[key] = jax.ShapeDtypeStruct((rows, *shape), kinds.device_dtype(key, feature))
        if reading_lib.is_map(feature):
            shapes['size'] = jax.ShapeDtypeStruct((rows, 2), 'int32')
    return shapes


def output_shapes(
    function: Callable, settings: Settings, state: TrainState, root: jax.Array
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the outputs of an example. Traces a function, compiles nothing.

    Args:
      function: of `apply_with_keys`.
      settings: of the prediction.
      state: of the stage.
      root: key of the random streams.

    Raises:
      InputError: an output of an unknown kind.
      ValueError: outputs that contradict their kinds.
    """
    digests = jax.ShapeDtypeStruct((settings.batch_size,), 'uint32')
    shapes = jax.eval_shape(function, state, batch_shapes(settings), digests, root)
    writers.check_outputs(settings.prediction.outputs, shapes, settings.batch_size)
    return {name: shape.shape[1:] for name, shape in shapes.items()}
