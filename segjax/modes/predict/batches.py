"""Predicts the tiles of many images in batches of one shape."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.modes.predict import tiles
from segjax.modes.predict.assembly import Assembly
from segjax.modes.predict.plan import PredictPlan

PredictFn = Callable[[np.ndarray], jax.Array]
"""[B, h, w, 3 or 6] uint8 -> class probabilities [B, h, w, C]."""


class Waiting:
    """The time in which the host waits for the net.

    The rest of a prediction is work of the host: reading, cutting, blending and writing. On a CPU,
    both share the cores.

    seconds  so far
    """

    def __init__(self):
        self.seconds = 0.0

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Adds the time within the context."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def all_tiles(
    assemblies: Iterable[Assembly],
) -> Iterator[tuple[Assembly, tiles.TilePlace, np.ndarray]]:
    """Yields (image, place, pixels) of every tile, image by image."""
    for assembly in assemblies:
        for place, pixels in assembly.cuttings():
            yield assembly, place, pixels


def predict_tiles(
    predict_fn: PredictFn,
    plan: PredictPlan,
    cut_tiles: Iterable[tuple[Any, Any, np.ndarray]],
    waiting: Waiting,
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Replaces the pixels of each tile by its class probabilities [C, h, w], in order.

    Always calls `predict_fn` with plan.batch_size tiles. The last batch is filled with zeros. One
    batch is in flight on the device while the host blends the batch before it.

    Args:
      predict_fn: the compiled net.
      plan: gives the size of a tile and of a batch.
      cut_tiles: (image, place, pixels [h, w, 3 or 6] uint8), as `all_tiles` yields them.
      waiting: receives the time of all calls, and of waiting for their results.

    Yields:
      (image, place, probabilities) for each tile.
    """
    in_flight: deque[tuple[list, jax.Array]] = deque()
    for batch in batched(cut_tiles, plan.batch_size):
        channels = batch[0][2].shape[-1]
        images = np.zeros((plan.batch_size, *plan.tile, channels), np.uint8)
        for row, (_, _, pixels) in zip(images, batch):
            row[:] = pixels
        owners = [(assembly, place) for assembly, place, _ in batch]
        with waiting.measure():
            planes = class_planes(predict_fn(images))
        in_flight.append((owners, planes))
        if len(in_flight) > 1:
            yield from _fetched(*in_flight.popleft(), waiting)
    while in_flight:
        yield from _fetched(*in_flight.popleft(), waiting)


def _fetched(
    owners: list[tuple[Any, Any]], planes: jax.Array, waiting: Waiting
) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """Waits for a batch and yields (image, place, probabilities), without the filling zeros."""
    with waiting.measure():
        on_host = np.asarray(planes)
    for (assembly, place), values in zip(owners, on_host):
        yield assembly, place, values


@jax.jit
def class_planes(probabilities: jax.Array) -> jax.Array:
    """Moves classes first, [B, h, w, C] -> [B, C, h, w] float32, which the host blends fast."""
    return jnp.moveaxis(probabilities, -1, 1).astype(jnp.float32)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Yields lists of `size` items. The last list may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def warm_up(predict_fn: PredictFn, plan: PredictPlan, num_classes: int, channels: int = 3) -> float:
    """Compiles the net and checks the shape of its output. Returns the seconds that this took.

    Raises:
      ValueError: the output has another shape than [B, h, w, num_classes].
    """
    start = time.perf_counter()
    output = predict_fn(np.zeros((plan.batch_size, *plan.tile, channels), np.uint8))
    expected = (plan.batch_size, *plan.tile, num_classes)
    if output.shape != expected:
        raise ValueError(f'predict_fn returned shape {output.shape}, expected {expected}')
    class_planes(output).block_until_ready()
    return time.perf_counter() - start
