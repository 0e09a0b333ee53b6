"""Pictures of examples of an evaluation, for the report and TensorBoard."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.core import parallel
from segjax.data import loader, table_rows
from segjax.data.index import Source
from segjax.protocol import Array, Input, Keys, Mean, Picture, Stage, TrainState
from segjax.report.pictures import Panel, save_pictures
from segjax.train import log_files
from segjax.train.run import Run
from segjax.train.stage_functions import batch_in_step


def write_pictures(
    run: Run,
    stage: Stage,
    keys: Keys,
    state: TrainState,
    sums: Mapping[str, Mean],
    compare: bool = False,
) -> None:
    """Writes pictures of the best and the worst images, for the report and TensorBoard.

    Images are ranked by metrics['image_score']. A stage without this metric shows its first images.

    Args:
      run: the run.
      stage: any of its stages.
      keys: random streams for `stage.render`.
      state: on the host.
      sums: from `evaluation.totals`.
      compare: whether to add examples that are the same for all stages (group 'same').
    """
    count = run.config.logging.num_pictures
    if stage.render is None or not count:
        return
    inputs = stage.eval_input
    source = run.open_input(inputs, 'name')
    score, groups = _ranked(sums, source, count)
    if compare:
        same = spread(len(source), count)
        groups['same'] = [table_rows.index_at(source, position) for position in same]

    # Each example is rendered alone, so the program compiles once for all groups.
    @jax.jit
    def render(state, batch, keys):
        return _in_order(stage.render(state, batch_in_step(run, inputs, batch), keys))

    folder = run.workdir / stage.name
    board = log_files.TensorBoard(folder / 'tensorboard', int(state.step))
    for group, indices in groups.items():
        entries = [
            _entry(run, inputs, source, index, float(score[index]), render, keys, state)
            for index in indices
        ]
        shown = save_pictures(folder / 'pictures', group, entries)
        for rank, pictures in enumerate(shown):
            for panel, picture in pictures.items():
                board.image(int(state.step), f'{group}_{rank}/{panel}', picture)
    board.close()


def spread(num_examples: int, count: int) -> list[int]:
    """Returns the positions of `count` examples, evenly spread over a split."""
    count = min(count, num_examples)
    return [num_examples * i // count for i in range(count)]


def _ranked(
    sums: Mapping[str, Mean], source: Source, count: int
) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Returns the score of each index, and the indices of the examples to show by group.

    Args:
      sums: from `evaluation.totals`.
      source: of the evaluation.
      count: examples of a group. No example is in two groups.
    """
    if 'image_score' not in sums:
        first = range(min(count, len(source)))
        sample = [table_rows.index_at(source, position) for position in first]
        return np.full(table_rows.end_of(source), np.nan), {'sample': sample}
    # 0 / 0 for an image without a pixel that counts.
    with np.errstate(invalid='ignore'):
        score = np.asarray(sums['image_score'].value())
    ranked = [int(i) for i in np.argsort(score) if np.isfinite(score[i])]
    worst = ranked[: min(count, len(ranked) // 2)]
    best = ranked[::-1][: min(count, len(ranked) - len(worst))]
    return score, {'best': best, 'worst': worst}


def _in_order(pictures: Mapping[str, Picture | Array]) -> collections.OrderedDict:
    """Keeps the order of all entries: a jitted function sorts a plain dict by name."""
    ordered = collections.OrderedDict()
    for panel, picture in pictures.items():
        if isinstance(picture, Picture):
            picture = picture._replace(
                values=collections.OrderedDict(picture.values),
                legend=collections.OrderedDict(picture.legend),
            )
        ordered[panel] = picture
    return ordered


def _entry(
    run: Run,
    inputs: Input,
    source: Source,
    index: int,
    score: float,
    render: Callable,
    keys: Keys,
    state: TrainState,
) -> dict[str, Any]:
    """Returns index, score, name and pictures of an example, for `save_pictures`."""
    spec = run.spec_of(inputs)
    max_size = spec.split(inputs.split).max_size
    batch = loader.examples(source, [index], inputs, max_size=max_size)
    pictures: dict[str, Any] = {}
    if 'image' in batch:
        pictures['image'] = Picture(batch['image'], batch['size'])
    # A single transfer brings all pictures to the host.
    pictures |= parallel.to_host(render(state, batch, keys))
    panels = {
        panel: first_panel(picture, spec.classes.names) for panel, picture in pictures.items()
    }
    example = source[table_rows.position_of(source, index)]
    name = str(example['name'])
    # Several rows of an image need names of their own.
    if inputs.each:
        name = f'{name}, row {example["row"]}'
    return {'index': index, 'score': score, 'name': name, 'pictures': panels}


def first_panel(picture: Picture | np.ndarray, class_names: Sequence[str] = ()) -> Panel:
    """Returns the picture of the first example of a batch, without padding.

    Args:
      picture: an item of the result of `Stage.render`, on the host.
      class_names: names of the train ids, for the caption.

    Raises:
      TypeError: pixels of another shape or type than `Picture` allows.
    """
    picture = picture if isinstance(picture, Picture) else Picture(picture)
    pixels, size, values, legend = picture
    pixels = _with_channels(np.asarray(pixels))[0]
    if size is not None:
        height, width = np.asarray(size)[0]
        pixels = pixels[..., :height, :width, :]
    numbers = {name: np.asarray(value)[0] for name, value in values.items()}
    for name, number in numbers.items():
        if name.endswith('class') and np.issubdtype(number.dtype, np.integer):
            numbers[name] = _named(number, class_names)
    # A jitted function returns the numbers of a colour as arrays.
    colours = {meaning: [int(part) for part in colour] for meaning, colour in legend.items()}
    return Panel(pixels, numbers, colours)


def _named(ids: np.ndarray, class_names: Sequence[str]) -> str | int | list[str | int]:
    """Returns the names of train ids. Ids of no class stay numbers.

    Args:
      ids: [] or [n].
      class_names: by train id.
    """
    names: list[str | int] = []
    for train_id in np.ravel(ids).tolist():
        names.append(class_names[train_id] if 0 <= train_id < len(class_names) else train_id)
    return names if np.ndim(ids) else names[0]


def _with_channels(pixels: np.ndarray) -> np.ndarray:
    """Returns pictures as uint8 with a last axis of 1 or 3 channels."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype == bool:
        pixels = np.uint8(255) * pixels
    if pixels.dtype != np.uint8 or pixels.ndim not in (4, 5, 6) or pixels.shape[-1] not in (1, 3):
        raise TypeError(
            'pictures are uint8 or bool [B, H, W, 3], [B, n, H, W, 3] or '
            f'[B, rows, columns, H, W, 3]; got {pixels.dtype} {list(pixels.shape)}'
        )
    return pixels
