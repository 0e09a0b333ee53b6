"""Scores and pictures of a state, for training and --mode evaluate."""

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from segjax.core import parallel
from segjax.data import loader
from segjax.protocol import Array, Batch, Input, Keys, Mean, Metrics, Stage, TrainState
from segjax.report.pictures import save_pictures
from segjax.train import log_files, observation
from segjax.train.run import Run
from segjax.train.stop import Preempted, StopSignal


def totals(
    run: Run,
    stage: Stage,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None = None,
    inputs: Input | None = None,
) -> dict[str, Mean]:
    """Sums all evaluation metrics over the split, in float64. Every example counts once.

    The Means of `Stage.observation` are among them, if the stage's own input is evaluated.

    Args:
      run: the run.
      stage: any of its stages.
      evaluate: (state, batch, root key, batch number) -> (metrics summed over devices, outputs).
      root: key of the evaluation's random streams.
      state: on the devices.
      stop: asked between batches.
      inputs: the examples; None: `Stage.eval_input`.

    Raises:
      Preempted: the process was told to stop.
      InputError: `Stage.observation` returns other names or shapes than before.
    """
    sums: dict[str, Mean] = {}
    observed: dict[str, Mean] = {}
    own = stage.eval_input if inputs is None else inputs
    for batch, metrics, outputs in _results(run, stage, own, evaluate, root, state, stop):
        _add(sums, metrics)
        if inputs is None and stage.observation is not None:
            rows = run.topology.rows_of_process(outputs)
            observation.add(observed, stage, batch, rows)
    return sums | observation.over_processes(observed)


def _results(
    run: Run,
    stage: Stage,
    inputs: Input,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None,
) -> Iterator[tuple[Batch, Metrics, Mapping[str, Array]]]:
    """Yields (batch on the host, metrics, outputs) of every batch, while the next is computed.

    Arguments are as in `totals`.
    """
    batches = loader.eval_batches(
        run.open_input(inputs),
        inputs,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=run.config.data,
        max_size=run.spec_of(inputs).split(inputs.split).max_size,
    )
    waiting: collections.deque[tuple[Batch, Metrics, Mapping[str, Array]]] = collections.deque()
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            if stop is not None and stop.reached():
                raise Preempted(f'stage {stage.name!r} was being evaluated')
            device_batch = run.topology.put_batch(batch)
            metrics, outputs = evaluate(state, device_batch, root, np.int32(number))
            waiting.append((batch, metrics, outputs))
            # The caller fetches the batch before, while the device works on this batch.
            if len(waiting) > 1 or jax.default_backend() == 'cpu':
                yield waiting.popleft()
    yield from waiting


def _add(sums: dict[str, Mean], metrics: Metrics) -> None:
    """Fetches metrics from the devices and adds them to sums in float64."""
    for name, mean in parallel.to_host(dict(metrics)).items():
        old = sums.get(name, Mean(0.0, 0.0))
        total = old.sum + mean.sum.astype(np.float64)
        count = old.count + mean.count.astype(np.float64)
        sums[name] = Mean(total, count)


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
      run, stage: as in `totals`.
      keys: random streams for `stage.render`.
      state: on the host.
      sums: from `totals`.
      compare: whether to add examples that are the same for all stages (group 'same').
    """
    count = run.config.logging.num_pictures
    render_stage = stage.render
    if render_stage is None or not count:
        return
    inputs = stage.eval_input
    source = run.open_input(inputs, 'name')
    score, groups = _ranked(sums, len(source), count)
    if compare:
        same = min(count, len(source))
        groups['same'] = [len(source) * i // same for i in range(same)]

    # Pictures stay in the order of the stage: a jitted function would sort a plain dict by name.
    render = jax.jit(lambda *arguments: collections.OrderedDict(render_stage(*arguments)))
    folder = run.workdir / stage.name
    board = log_files.TensorBoard(folder / 'tensorboard', int(state.step))
    for group, indices in groups.items():
        entries = [
            _entry(run, inputs, source, index, float(score[index]), render, keys, state)
            for index in indices
        ]
        save_pictures(folder / 'pictures', group, entries)
        for rank, entry in enumerate(entries):
            for panel, picture in entry['pictures'].items():
                board.image(int(state.step), f'{group}_{rank}/{panel}', picture)
    board.close()


def _ranked(
    sums: Mapping[str, Mean], num_examples: int, count: int
) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Returns the score of each example, and the positions of the examples to show by group.

    Args:
      sums: from `totals`.
      num_examples: of the split.
      count: examples of a group. No example is in two groups.
    """
    if 'image_score' not in sums:
        return np.full(num_examples, np.nan), {'sample': list(range(min(count, num_examples)))}
    # 0 / 0 for an image without a pixel that counts.
    with np.errstate(invalid='ignore'):
        score = np.asarray(sums['image_score'].value())
    ranked = [int(i) for i in np.argsort(score) if np.isfinite(score[i])]
    worst = ranked[: min(count, len(ranked) // 2)]
    best = ranked[::-1][: min(count, len(ranked) - len(worst))]
    return score, {'best': best, 'worst': worst}


def _entry(
    run: Run,
    inputs: Input,
    source: Any,
    index: int,
    score: float,
    render: Callable,
    keys: Keys,
    state: TrainState,
) -> dict[str, Any]:
    """Returns index, score, name and pictures of an example, for `save_pictures`."""
    max_size = run.spec_of(inputs).split(inputs.split).max_size
    batch = loader.examples(source, [index], inputs, max_size=max_size)
    pictures = {'image': batch['image']} if 'image' in batch else {}
    pictures |= render(state, batch, keys)
    labels = (tuple(max_size), batch.get('label_size'))
    images = (tuple(inputs.size), batch.get('size'))
    for panel, picture in pictures.items():
        pictures[panel] = _without_padding(np.asarray(picture[0]), [labels, images])
    name = str(source[index]['name'])
    return {'index': index, 'score': score, 'name': name, 'pictures': pictures}


Canvas = tuple[tuple[int, ...], np.ndarray | None]
"""(height, width) of a canvas, and [1, 2] the size of its filled part.

The size is None if the batch has no such map.
"""


def _without_padding(picture: np.ndarray, canvases: Sequence[Canvas]) -> np.ndarray:
    """Cuts the padding off a picture on the canvas of the labels or of the images.

    Args:
      picture: [H, W, 3]. A picture of another size stays whole. A picture of the size of both
        canvases keeps the filled parts of both.
      canvases: of the labels and of the images.
    """
    shape = picture.shape[:2]
    filled = [size[0] for canvas, size in canvases if size is not None and canvas == shape]
    if not filled:
        return picture
    height, width = np.max(filled, axis=0)
    return picture[:height, :width]
