"""Scores and pictures of a state: the loop over an evaluation split, shared by training and --mode evaluate."""

import collections
import contextlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from segjax.core import parallel
from segjax.data import loader
from segjax.protocol import Mean, Stage, TrainState
from segjax.report import page
from segjax.train import log_files
from segjax.train.stop import Preempted, StopSignal


def totals(
    run,
    stage: Stage,
    evaluate: Callable,
    root: jax.Array,
    state: TrainState,
    stop: StopSignal | None = None,
) -> dict[str, Mean]:
    """Sums of all evaluation metrics over the split, in float64; every example counts once.

    Args:
      run: driver.Run.
      evaluate: (state, batch, root key, batch number) -> metrics summed over devices.
      root: key of the evaluation's random streams.
      state: on the devices.
      stop: asked between batches.

    Raises:
      Preempted: the process was told to stop.
    """
    inputs = stage.eval_input
    source = run.data.open_input(inputs)
    batches = loader.eval_batches(
        source,
        inputs,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=run.config.data,
        max_size=run.spec.split(inputs.split).max_size,
    )
    sums: dict[str, Mean] = {}

    def add(metrics):
        for name, m in parallel.to_host(dict(metrics)).items():
            old = sums.get(name, Mean(0.0, 0.0))
            sums[name] = Mean(
                old.sum + m.sum.astype(np.float64), old.count + m.count.astype(np.float64)
            )

    waiting = []
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            if stop is not None and stop.reached():
                raise Preempted(f'stage {stage.name!r} was being evaluated')
            waiting.append(evaluate(state, run.topology.put_batch(batch), root, np.int32(number)))
            if len(waiting) > 1 or jax.default_backend() == 'cpu':
                add(waiting.pop(0))  # meanwhile the device works on the next batch
    for metrics in waiting:
        add(metrics)
    return sums


def write_pictures(
    run, stage: Stage, keys, state: TrainState, sums: Mapping[str, Mean], compare: bool = False
) -> None:
    """The best and worst images by metrics['image_score'], or the first ones where a stage has no such metric.

    Args:
      run, stage: as in `totals`.
      keys: random streams for `stage.render`.
      state: on the host.
      sums: from `totals`.
      compare: also examples that are the same for all stages, whatever their score (group 'same').
    """
    count = run.config.logging.num_pictures
    if stage.render is None or not count:
        return
    inputs = stage.eval_input
    source = run.data.open_input(inputs, 'name')
    score = np.full(len(source), np.nan)
    groups = {'sample': list(range(min(count, len(source))))}
    if 'image_score' in sums:
        with np.errstate(invalid='ignore'):
            score = np.asarray(sums['image_score'].value())
        ranked = [int(i) for i in np.argsort(score) if np.isfinite(score[i])]
        worst = ranked[: min(count, len(ranked) // 2)]
        groups = {'best': ranked[::-1][: min(count, len(ranked) - len(worst))], 'worst': worst}
    if compare:
        same = min(count, len(source))
        groups['same'] = [len(source) * i // same for i in range(same)]
    # Pictures stay in the order of the stage: a jitted function would return a plain dict sorted by name.
    render = jax.jit(lambda *arguments: collections.OrderedDict(stage.render(*arguments)))
    folder = run.workdir / stage.name
    board = log_files.TensorBoard(folder / 'tensorboard', int(state.step))
    for group, indices in groups.items():
        entries = [
            _entry(run, inputs, source, index, float(score[index]), render, keys, state)
            for index in indices
        ]
        page.save_pictures(folder / 'pictures', group, entries)
        for rank, entry in enumerate(entries):
            for panel, picture in entry['pictures'].items():
                board.image(int(state.step), f'{group}_{rank}/{panel}', picture)
    board.close()


def _entry(run, inputs, source, index, score, render, keys, state):
    """Returns index, score, name and pictures of an example, for `report.save_pictures`."""
    max_size = run.spec.split(inputs.split).max_size
    batch = loader.examples(source, [index], inputs, max_size=max_size)
    pictures = {'image': batch['image']} if 'image' in batch else {}
    pictures |= render(state, batch, keys)
    canvases = [(tuple(max_size), batch.get('label_size')), (tuple(inputs.size), batch.get('size'))]
    for panel, picture in pictures.items():
        pictures[panel] = _without_padding(np.asarray(picture[0]), canvases)
    name = str(source[index]['name'])
    return {'index': index, 'score': score, 'name': name, 'pictures': pictures}


Canvas = tuple[tuple[int, int], np.ndarray | None]
"""(height, width) of a canvas, and [1, 2] the size of its filled part. None: the batch has no such map."""


def _without_padding(picture: np.ndarray, canvases: Sequence[Canvas]) -> np.ndarray:
    """Cuts the padding off a picture on the canvas of the labels or of the images.

    Args:
      picture: [H, W, 3]. A picture of another size stays whole. A picture of the size of both
        canvases keeps the filled parts of both.
      canvases: those of the labels and of the images.
    """
    shape = picture.shape[:2]
    filled = [size[0] for canvas, size in canvases if size is not None and canvas == shape]
    if not filled:
        return picture
    height, width = np.max(filled, axis=0)
    return picture[:height, :width]
