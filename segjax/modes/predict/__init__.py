"""`--mode predict`: class maps for a folder of images of any size, from one compiled net.

For every image of the input folder (sub-folders are kept) four 8-bit PNGs of the image's own size are
written:

    ids/<name>.png         the data set's own ids, one channel: what benchmark servers want
    color/<name>.png       the classes in the palette's colours
    overlay/<name>.png     colours over the image, half and half
    confidence/<name>.png  255 x the largest class probability

Scale. Evaluation fits every image into `data.eval_size`, so that is what happens here to images up to the size
of the data set's largest. Larger ones keep the scale of the largest, base_scale = min(eval_size / max_size) (0.5
for Cityscapes evaluated at 512x1024), and are cut into overlapping tiles of `predict.tile` (ops/tiles.py):

    scale(image) = max(base_scale, min(eval_size / image size)), times each of `predict.scales`

Tiles are predicted in batches of `predict.batch_size` that run on from one image into the next, blended,
averaged over mirrored views, resized bilinearly to the original size and averaged over scales; the class is
the argmax there.

Memory. Probabilities exist for one band of an image only: tile rows are predicted from top to bottom,
finished rows are resized and decided at once, in strips of at most `STRIP_PIXELS`, one class at a time. A
10000x8000 image thus needs its uint8 planes and about two rows of tiles of float32 probabilities per scale.

Again. Files are written under another name and renamed, so a file that exists is whole. `predict.jsonl` in the
output folder lists the finished images with digests of their files. A second run skips an image only if its
file has the listed digest. `predict.json` says what the results were made with: the digest of the net's
arrays, the run, its step and config, the classes. Another net or setting needs another (or an emptied) folder.
"""

import hashlib
import json
import os
import pathlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

from segjax import config as config_lib
from segjax.core import files, parallel
from segjax.data import transforms
from segjax.data.image_files import ImageSource, find_images, read_image
from segjax.errors import InputError
from segjax.modes.predict import tiles
from segjax.spec import ClassSpec, DataSpec
from segjax.train import driver, initialization, log_files, stored

OUTPUTS = ('ids', 'color', 'overlay', 'confidence')
RECORD = 'predict.json'
FINISHED = 'predict.jsonl'
STRIP_PIXELS = 1 << 22
WRITERS = 4

PredictFn = Callable[[np.ndarray], jax.Array]


class PredictPlan(NamedTuple):
    """How images are cut.

    tile, overlap, scales, batch_size  see config.predict
    mirror      also predict the mirrored tile
    eval_size   (height, width) into which images are fitted
    base_scale  they shrink no further than this
    """

    tile: tuple[int, int]
    overlap: float
    scales: tuple[float, ...]
    mirror: bool
    batch_size: int
    eval_size: tuple[int, int]
    base_scale: float


# --- checks ---


def make_predict_plan(config: ml_collections.ConfigDict, spec: DataSpec) -> PredictPlan:
    """The plan of a config; raises InputError for scales that are none."""
    settings = config.predict
    scales = tuple(float(s) for s in settings.scales)
    if not scales or min(scales) <= 0:
        fix = '--config.predict.scales="(1.0,)"'
        raise InputError(
            'config.predict.scales', got=str(scales), expected='one or more numbers > 0', fix=fix
        )
    return PredictPlan(
        tile=tuple(settings.tile) or tuple(config.data.eval_size),
        overlap=settings.overlap,
        scales=scales,
        mirror=settings.flip,
        batch_size=settings.batch_size,
        eval_size=tuple(config.data.eval_size),
        base_scale=base_scale(config, spec),
    )


def base_scale(config: ml_collections.ConfigDict, spec: DataSpec) -> float:
    """By how much the data set's largest image shrinks for the net: min over axes of eval_size / max_size."""
    return float(
        np.min(np.array(config.data.eval_size) / spec.split(config.data.eval_split).max_size)
    )


def check_folders(input_folder: pathlib.Path, output_folder: pathlib.Path) -> None:
    """Raises InputError for an output folder in the input folder (its pictures would be the next run's input), or
    whose results lie around the input."""
    where, inside = input_folder.resolve(), output_folder.resolve()
    results = [inside / name for name in OUTPUTS]
    if inside.is_relative_to(where) or any(where.is_relative_to(folder) for folder in results):
        raise InputError(
            '--output',
            got=f'{output_folder} for --input {input_folder}',
            expected='folders that do not contain each other: outputs would become inputs',
            fix=f'--output {where.parent / (where.name + "_predicted")}',
        )


# --- one image ---


class Assembly:
    """One image in the making: hands out its tiles and takes their predictions, in the same order.

    digest      of the image file, '' where nobody asks for it
    classes     [H, W] uint8 train ids
    confidence  [H, W] uint8, 255 x the largest probability
    """

    def __init__(
        self,
        source: ImageSource,
        image: np.ndarray,
        plan: PredictPlan,
        num_classes: int,
        digest: str = '',
    ):
        self.source = source
        self.digest = digest
        self.image = image
        self.size = image.shape[:2]
        self.grids = [
            tiles.cut(size, plan.tile, plan.overlap) for size in net_sizes(self.size, plan)
        ]
        self.places = tiles.schedule(self.grids, plan.mirror)
        self.share = 1 / (len(plan.scales) * (2 if plan.mirror else 1))
        self.canvases = [tiles.Canvas(num_classes, grid) for grid in self.grids]
        self.vertical = [tiles.interpolation(grid.size[0], self.size[0]) for grid in self.grids]
        self.decided = 0
        self.classes = np.zeros(self.size, np.uint8)
        self.confidence = np.zeros(self.size, np.uint8)

    def cuttings(self) -> Iterator[tuple[tiles.TilePlace, np.ndarray]]:
        """Every tile's place and pixels."""
        padded = [
            tiles.pad(transforms.resize_image(self.image, grid.size), grid) for grid in self.grids
        ]
        for place in self.places:
            yield place, tiles.take(padded[place.scale], self.grids[place.scale], place)

    def add(self, place: tiles.TilePlace, probabilities: np.ndarray) -> bool:
        """Takes the prediction [C, h, w] of a tile; True once the image is complete."""
        self.canvases[place.scale].add(probabilities, place, self.share)
        if place.closes_row:
            self._decide()
        return self.decided == self.size[0]

    def _decide(self) -> None:
        """Decides the rows that have become final at every scale, and forgets what they alone needed."""
        final = min(
            int(np.searchsorted(v.upper, c.finished)) for v, c in zip(self.vertical, self.canvases)
        )
        step = max(1, STRIP_PIXELS // self.size[1])
        for start in range(self.decided, final, step):
            stop = min(start + step, final)
            planes = (
                self._plane(index, start, stop) for index in range(len(self.canvases[0].rows))
            )
            self.classes[start:stop], best = argmax(planes)
            self.confidence[start:stop] = np.round(255 * np.minimum(best, 1))
        self.decided = max(self.decided, final)
        if self.decided < self.size[0]:
            for vertical, canvas in zip(self.vertical, self.canvases):
                canvas.drop(int(vertical.lower[self.decided]))
        else:
            self.canvases.clear()  # the pictures may wait for a writer; probabilities need not

    def _plane(self, index: int, start: int, stop: int) -> np.ndarray:
        """Probability of one class in rows start .. stop - 1 at the original size, summed over scales."""
        return sum(
            tiles.resized_rows(canvas, index, vertical, start, stop, self.size[1])
            for canvas, vertical in zip(self.canvases, self.vertical)
        )


def net_sizes(size: tuple[int, int], plan: PredictPlan) -> list[tuple[int, int]]:
    """The sizes (height, width) at which the net sees an image of `size`, one for each scale."""
    fitting = min(net / own for net, own in zip(plan.eval_size, size))
    scale = max(plan.base_scale, fitting)
    return [
        tuple(max(1, round(length * scale * factor)) for length in size) for factor in plan.scales
    ]


def argmax(planes: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(index uint8, value) of the largest plane at every pixel, the first where equal; one plane at a time."""
    planes = iter(planes)
    best = next(planes)
    winner = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(planes, start=1):
        np.copyto(winner, index, where=plane > best)
        np.maximum(best, plane, out=best)
    return winner, best


# --- all images ---


def all_tiles(
    assemblies: Iterable[Assembly],
) -> Iterator[tuple[Assembly, tiles.TilePlace, np.ndarray]]:
    for assembly in assemblies:
        for place, pixels in assembly.cuttings():
            yield assembly, place, pixels


@jax.jit
def class_planes(probabilities: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, C, h, w] float32: classes first is what the host blends fast."""
    return jnp.moveaxis(probabilities, -1, 1).astype(jnp.float32)


def predicted(
    predict_fn: PredictFn, plan: PredictPlan, jobs: Iterable[tuple[Any, Any, np.ndarray]]
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Replaces the pixels of (.., .., pixels) by probabilities [C, h, w], in order.

    Always calls `predict_fn` with plan.batch_size tiles, the last batch filled with zeros, and has one
    batch in flight while the host blends the one before.
    """
    pending: deque[tuple[list, jax.Array]] = deque()

    def finish():
        owners, output = pending.popleft()
        for (assembly, place), values in zip(owners, np.asarray(output)):
            yield assembly, place, values

    for batch in batched(jobs, plan.batch_size):
        images = np.zeros((plan.batch_size, *plan.tile, 3), np.uint8)
        for row, (_, _, pixels) in zip(images, batch):
            row[:] = pixels
        owners = [(assembly, place) for assembly, place, _ in batch]
        pending.append((owners, class_planes(predict_fn(images))))
        if len(pending) > 1:
            yield from finish()
    while pending:
        yield from finish()


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def output_path(folder: pathlib.Path, kind: str, source: ImageSource) -> pathlib.Path:
    return folder / kind / f'{source.name}.png'


def content_digest(path: pathlib.Path) -> str:
    """Returns 32 hexadecimal digits for the content of a file. Names, sizes and times do not tell two images apart."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class Finished:
    """The list of finished images in an output folder: an image is added when its four outputs exist.

    Args:
      folder: for the outputs.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._path = folder / FINISHED
        self._lock = threading.Lock()  # writers are threads
        self._digests = {}
        if self._path.exists():
            for line in self._path.read_text(encoding='utf-8').splitlines():
                self._digests |= _entry(line)

    def holds(self, source: ImageSource) -> bool:
        """Returns whether the outputs exist and were made from this very file."""
        exist = all(output_path(self._folder, kind, source).is_file() for kind in OUTPUTS)
        return exist and self._digests.get(source.name) == content_digest(source.path)

    def begin(self, todo: Iterable[ImageSource]) -> None:
        """Strikes images off the list, whose outputs will be written over, and damaged lines."""
        for source in todo:
            self._digests.pop(source.name, None)
        self.sort()

    def sort(self) -> None:
        """Writes the list in the order of the names: images finish in any order."""
        files.write_text(self._path, ''.join(map(_line, sorted(self._digests.items()))))

    def add(self, source: ImageSource, digest: str) -> None:
        """Lists an image whose outputs have been written."""
        with self._lock, self._path.open('a', encoding='utf-8') as file:
            self._digests[source.name] = digest
            file.write(_line((source.name, digest)))

    def others(self, sources: Iterable[ImageSource]) -> list[str]:
        """Returns the names of listed images that are not among the sources."""
        return sorted(set(self._digests) - {source.name for source in sources})


def _line(entry: tuple[str, str]) -> str:
    name, digest = entry
    return (
        json.dumps({'name': name, 'digest': digest}) + '\n'
    )  # ASCII: a torn line can still be decoded


def _entry(line: str) -> dict[str, str]:
    """Returns {name: digest} of a line, {} for a damaged line: its image is predicted again."""
    try:
        content = json.loads(line)
        return {content['name']: content['digest']}
    except (ValueError, KeyError, TypeError):
        return {}


def write_outputs(
    folder: pathlib.Path, assembly: Assembly, classes: ClassSpec, finished: Finished
) -> None:
    """Writes the four pictures of a complete image, `ids` last, and lists the image."""
    color = np.array(classes.palette, np.uint8)[assembly.classes]
    pictures = {
        'confidence': assembly.confidence,
        'overlay': cv2.addWeighted(color, 0.5, assembly.image, 0.5, 0),
        'color': color,
        'ids': np.array(classes.ids, np.uint8)[assembly.classes],
    }
    for kind, picture in pictures.items():
        write_atomically(output_path(folder, kind, assembly.source), files.encode_png(picture))
    finished.add(assembly.source, assembly.digest)


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes beside the file and renames, so that a file of this name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = hashlib.md5(
        path.name.encode()
    ).hexdigest()  # short: file systems limit the bytes of a name
    partial = path.with_name(f'.{name}.{os.getpid()}.partial')
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_record(folder: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Raises InputError if the output folder holds predictions that were made with another net or setting.

    A run folder may have moved: its net is known by its arrays and its config.
    """
    path = folder / RECORD
    if not path.is_file():
        return
    before, now = (
        stored.read_object(path, fix=f'another folder, as --output {folder}_2'),
        log_files.to_json(record),
    )
    compared = sorted({*before, *now} - {'run', 'config'})
    changed = {
        key: (before.get(key), now.get(key)) for key in compared if before.get(key) != now.get(key)
    }
    if 'config' in before and 'config' in now:
        free = (*config_lib.FREE_IN['predict'], *config_lib.UNRECORDED)
        found = config_lib.changes(before['config'], now['config'], free=free)
        changed |= {f'config.{key}': values for key, values in found.items()}
    if changed:
        raise InputError(
            str(path),
            got=', '.join(f'{key} = {new!r}' for key, (_, new) in changed.items()),
            expected=', '.join(f'{key} = {old!r}' for key, (old, _) in changed.items())
            + ', as for what is there',
            fix=f'another folder, as --output {folder}_2, or delete the results in {folder}',
        )


def check_classes(classes: ClassSpec) -> None:
    """Raises InputError unless the classes fit into an 8-bit PNG."""
    if classes.num_classes > 256 or not all(0 <= i <= 255 for i in classes.ids):
        raise InputError(
            'classes',
            got=f'{classes.num_classes} with ids {min(classes.ids)} .. {max(classes.ids)}',
            expected='at most 256 classes with ids 0 .. 255 (8-bit PNG)',
        )


def warm_up(predict_fn: PredictFn, plan: PredictPlan, num_classes: int) -> float:
    """Compiles, checks the output's shape, and returns the seconds that took."""
    start = time.perf_counter()
    output = predict_fn(np.zeros((plan.batch_size, *plan.tile, 3), np.uint8))
    expected = (plan.batch_size, *plan.tile, num_classes)
    if output.shape != expected:
        raise ValueError(f'predict_fn returned shape {output.shape}, expected {expected}')
    class_planes(output).block_until_ready()
    return time.perf_counter() - start


def main(
    config: ml_collections.ConfigDict,
    workdir: str,
    input_folder: str,
    output_folder: str,
    which: str,
) -> dict[str, Any]:
    """`--mode predict`: `run` with the last stage of a run folder that can predict, on one device.

    Args:
      config: of the run.
      workdir: the run folder.
      input_folder, output_folder: see `run`.
      which: 'last' or 'best' checkpoint.

    Returns:
      The summary of `run`.
    """
    for flag, value in (('--input', input_folder), ('--output', output_folder)):
        if not value:
            raise InputError(flag, got='nothing', expected='a folder', fix=f'{flag} some/folder')
    check_folders(
        pathlib.Path(input_folder), pathlib.Path(output_folder)
    )  # before a net is loaded for nothing
    find_images(pathlib.Path(input_folder))
    if jax.process_count() > 1:
        got, fix = (
            f'{jax.process_count()} processes',
            'start it without --coordinator and --distributed',
        )
        raise InputError('--mode predict', got=got, expected='one process', fix=fix)
    opened, stages = driver.open_run(config, workdir, 'predict')
    stage, state = driver.load_last_stage(opened, stages, which)
    state = parallel.to_host(state)
    net = initialization.digest(
        {'params': state.params, 'model_state': state.model_state, 'extra': state.extra}
    )
    state = jax.device_put(state, jax.local_devices()[0])
    jitted = opened.topology.jit(stage.predict)
    made_by = {
        'run': str(opened.workdir.resolve()),
        'stage': stage.name,
        'step': int(state.step),
        'net': net,
        'config': config_lib.recorded(opened.config),
    }
    arguments = (opened.config, opened.spec, input_folder, output_folder, made_by)
    summary = predict_images(lambda images: jitted(state, images), *arguments)
    print(_report(summary, output_folder))
    if summary['largest'] >= 2:
        print(
            f'note: an image is {summary["largest"]:.1f} times as large as what the net was trained on and was cut '
            f'into tiles at that scale; to show it whole, add --config.predict.scales="({1 / summary["largest"]:.3g},)"'
        )
    if summary['others']:
        print(
            f'note: {output_folder} also holds results of images that are not in {input_folder}: '
            + shortened(summary['others'])
        )
    return summary


def shortened(names: Sequence[str]) -> str:
    """Returns the first names and the number of the others, for a message."""
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if names[3:] else '')


def _report(summary: Mapping[str, Any], output_folder: str) -> str:
    if not summary['images']:
        return f'0 images: all {summary["skipped"]} were there already, in {output_folder}'
    return (
        f'{summary["images"]} images ({summary["skipped"]} were there already) in {output_folder}: '
        f'{summary["images_per_second"]:.2f} images/s after {summary["compile_seconds"]:.1f} s of compilation'
    )


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
      predict_fn: [B, h, w, 3] uint8 -> class probabilities [B, h, w, C]; compiled for
        B = predict.batch_size and (h, w) = predict.tile, the only shape it is called with.
      config: its `predict` and `data` sections are read.
      spec: gives classes, palette, ids and the sizes that the net was trained for.
      input_folder: images, also in sub-folders.
      output_folder: gets ids/, color/, overlay/, confidence/, predict.json and predict.jsonl.
      made_by: what tells this net from another ({'run': folder, 'step': 9000}); must survive JSON.

    Returns:
      {'images', 'skipped', 'others', 'tiles', 'largest', 'compile_seconds', 'seconds', 'images_per_second'}; reading,
      blending and writing are included in the rate, compilation is not; `largest` is the size of the largest image, as
      the net sees it, in units of `data.eval_size`; `others` are images of earlier calls that are not in the input.

    Raises:
      InputError: before anything compiles, for what `check_folders` and `find_images` check; at the end for images
        whose damage only decoding shows. All other images are then written.
    """
    input_folder, output_folder = pathlib.Path(input_folder), pathlib.Path(output_folder)
    check_classes(spec.classes)
    plan = make_predict_plan(config, spec)
    classes = {
        'classes': spec.classes.names,
        'ids': spec.classes.ids,
        'palette': spec.classes.palette,
    }
    record = {**made_by, **plan._asdict(), **classes}
    del record['batch_size']  # changes the speed only
    check_folders(input_folder, output_folder)
    sources = find_images(input_folder)
    check_record(output_folder, record)
    finished = Finished(output_folder)
    todo = [source for source in sources if not finished.holds(source)]
    files.write_json(output_folder / RECORD, record)
    others = finished.others(sources)
    finished.begin(todo)
    compile_seconds = warm_up(predict_fn, plan, spec.classes.num_classes) if todo else 0.0

    start = time.perf_counter()
    damaged: list[str] = []
    num_tiles, largest = 0, 0.0
    writing: deque[Future] = deque()
    jobs = all_tiles(assemblies(todo, plan, spec.classes.num_classes, damaged))
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        tqdm.tqdm(total=len(todo), unit='image', disable=None) as bar,
    ):
        for assembly, place, probabilities in predicted(predict_fn, plan, jobs):
            num_tiles += 1
            largest = max(largest, min(np.divide(assembly.grids[0].size, plan.eval_size)))
            if assembly.add(place, probabilities):
                writing.append(
                    pool.submit(write_outputs, output_folder, assembly, spec.classes, finished)
                )
                bar.update()
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
            expected='images that can be decoded; all others are written',
            fix='replace or remove them',
        )
    return {
        'images': len(todo),
        'skipped': len(sources) - len(todo),
        'others': others,
        'tiles': num_tiles,
        'largest': float(largest),
        'compile_seconds': compile_seconds,
        'seconds': seconds,
        'images_per_second': len(todo) / seconds if todo else 0.0,
    }


def assemblies(
    sources: Iterable[ImageSource], plan: PredictPlan, num_classes: int, damaged: list[str]
) -> Iterator[Assembly]:
    """Opens the images one by one; appends the paths of those that cannot be decoded to `damaged`."""
    for source in sources:
        try:
            digest = content_digest(
                source.path
            )  # first: a file that is replaced meanwhile is predicted again
            image = read_image(source.path)
        except FileNotFoundError:  # removed since the folder was listed
            image = None
        if image is None:
            damaged.append(str(source.path))
        else:
            yield Assembly(source, image, plan, num_classes, digest)
