"""Class maps of all runs on the same images, as files, and what follows from comparing them."""

import contextlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import jax
import numpy as np

from segjax.core import files
from segjax.data import loader, table_rows
from segjax.modes.compare.differences import class_counts
from segjax.modes.compare.runs import Compared, load_state
from segjax.spec import IGNORE
from segjax.train import driver
from segjax.train.pictures import spread
from segjax.train.stage_functions import batch_in_step, stage_keys
from segjax.train.stop import Preempted, StopSignal

BOTH = 0
FIRST = 1
SECOND = 2
NEITHER = 3
VOID = 4
RIGHT: dict[str, tuple[int, int, int]] = {
    'both right': (255, 255, 255),
    'only {first}': (255, 0, 0),
    'only {second}': (0, 255, 255),
    'both wrong': (0, 0, 0),
    'void': (128, 128, 128),
}
"""RGB by which of two predictions is right, in the order of BOTH, FIRST, SECOND, NEITHER, VOID."""


class LabelFiles(NamedTuple):
    """Class maps as files: <folder>/<kind>/<position>.png, train ids.

    folder  of the files
    """

    folder: pathlib.Path

    def write(self, kind: str, position: int, label: np.ndarray) -> None:
        """Writes a class map [H, W].

        Args:
          kind: 'truth', or the number of a run.
          position: of the example.
          label: train ids below 256.
        """
        path = self.folder / kind / f'{position}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.encode_png(label.astype(np.uint8)))

    def read(self, kind: str, position: int) -> np.ndarray:
        """Returns a class map, uint8 [H, W]."""
        return cv2.imread(str(self.folder / kind / f'{position}.png'), cv2.IMREAD_UNCHANGED)

    def example(self, position: int, num_runs: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Returns the truth of an example, and the predictions of all runs."""
        predictions = [self.read(str(number), position) for number in range(num_runs)]
        return self.read('truth', position), predictions


def predict_split(compared: Compared, number: int, store: LabelFiles, stop: StopSignal) -> None:
    """Writes the predictions of a run for all images of its evaluation, and the truth.

    Args:
      compared: the run.
      number: of the run. Run 0 writes the truth.
      store: for the class maps.
      stop: asked between batches.

    Raises:
      Preempted: the process was told to stop.
    """
    run = compared.run
    stage = compared.stage
    inputs = compared.inputs
    state = load_state(compared)
    root = driver.root_key(run, stage, 'evaluate')

    def label_maps(state, batch, batch_number):
        keys = stage_keys(stage, root, batch_number, 0, 0)
        return stage.label_maps(state, batch_in_step(run, inputs, batch), keys)

    # One device predicts as many examples at once as each device does in the evaluation.
    predict = run.topology.jit(label_maps)
    inputs = inputs._replace(batch_size=max(1, inputs.batch_size // run.topology.count))
    source = run.open_input(inputs)
    batches = loader.eval_batches(
        source,
        inputs,
        process_index=0,
        process_count=1,
        data_config=run.config.data,
        max_size=compared.spec.split(inputs.split).max_size,
    )
    with contextlib.closing(batches):
        for batch_number, batch in enumerate(batches):
            if stop.reached():
                raise Preempted(f'{compared.name} was being evaluated')
            maps = jax.device_get(predict(state, batch, np.int32(batch_number)))
            for row in np.flatnonzero(batch['weight']):
                position = table_rows.position_of(source, int(batch['index'][row]))
                height, width = maps.size[row]
                store.write(str(number), position, maps.prediction[row, :height, :width])
                if number == 0:
                    store.write('truth', position, maps.truth[row, :height, :width])


# --- comparison -----------------------------------------------------------------------------------


def disagreement(truth: np.ndarray, predictions: Sequence[np.ndarray]) -> float:
    """Returns the share of the labelled pixels on which not all predictions are equal.

    Args:
      truth: [H, W] train ids. Ignored pixels do not count. The share of no pixels is 0.
      predictions: [H, W] each.
    """
    counted = truth != IGNORE
    differ = np.zeros_like(counted)
    for prediction in predictions[1:]:
        differ |= prediction != predictions[0]
    return float(differ[counted].mean()) if counted.any() else 0.0


def who_is_right(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns BOTH, FIRST, SECOND or NEITHER for each pixel, and VOID for ignored pixels.

    Args:
      truth, first, second: [H, W] train ids.
    """
    wrong_first = first != truth
    wrong_second = second != truth
    # A wrong first prediction leaves the second, which is 2; a wrong second leaves the first, 1.
    right = SECOND * wrong_first + FIRST * wrong_second
    return np.where(truth == IGNORE, VOID, right).astype(np.uint8)


def paint_right(right: np.ndarray) -> np.ndarray:
    """Paints the result of `who_is_right`, uint8 [H, W, 3]."""
    return np.array(list(RIGHT.values()), np.uint8)[right]


class Comparison(NamedTuple):
    """The class maps of a split, compared.

    shares  [N] `disagreement` of each example
    pixels  [R - 1, 5] pixels by `who_is_right` of run 0 and every further run
    counts  [R, N, 3, C] `differences.class_counts` of each run and example
    """

    shares: np.ndarray
    pixels: np.ndarray
    counts: np.ndarray


def compare(store: LabelFiles, num_examples: int, num_runs: int, num_classes: int) -> Comparison:
    """Compares the class maps of all examples."""
    shares = np.zeros(num_examples)
    pixels = np.zeros((num_runs - 1, len(RIGHT)), np.int64)
    counts = np.zeros((num_runs, num_examples, 3, num_classes), np.int64)
    for index in range(num_examples):
        truth, predictions = store.example(index, num_runs)
        shares[index] = disagreement(truth, predictions)
        for number, prediction in enumerate(predictions):
            counts[number, index] = class_counts(truth, prediction, num_classes)
        for pair, second in enumerate(predictions[1:]):
            right = who_is_right(truth, predictions[0], second)
            pixels[pair] += np.bincount(right.ravel(), minlength=len(RIGHT))
    return Comparison(shares, pixels, counts)


def choose(shares: np.ndarray, count: int) -> dict[str, list[int]]:
    """Returns the positions of the examples to show, by group.

    Half of them are the examples of the largest disagreement, the largest first. The further
    examples are spread evenly over the split, so they do not depend on the runs. A split that is
    not larger than `count` is shown as a whole.

    Args:
      shares: [N] disagreement of each example.
      count: examples to show.
    """
    ranked = np.argsort(-shares, kind='stable').tolist()
    if len(shares) <= count:
        return {'disagreement': ranked}
    half = (count + 1) // 2
    groups = {'disagreement': ranked[:half], 'spread': spread(len(shares), count - half)}
    return {group: indices for group, indices in groups.items() if indices}
