"""The contract of a pipeline. Every pipeline is written against this page.

A pipeline is one file in `segjax/pipelines/` that exports

    make_stages(config, spec) -> tuple[Stage, ...]
    SCHEMA                       the config keys it adds to the shared keys (segjax/schema.py)

A `Stage` is one training job made of pure functions. `segjax/train/driver.py` runs the stages in
order. The driver owns the loop, devices, logging, checkpoints and the report. It knows no loss and
no net. A paper that needs two trainings in a row (a depth net, then a segmentation guided by this
net) has two stages. The second stage gets the final state of the first.

The driver maps `train_step` over devices (segjax/core/parallel.py). Inside a step

  * `batch` holds this device's share of the global batch, and `state` is the same on every device.
  * Gradients come from `parallel.global_value_and_grad`, so they are those of the global batch.
  * Metrics are returned as local (sum, count) pairs. The driver sums both over devices, hosts and
    batches and divides once, at the end. So the result does not depend on how examples are
    distributed over devices.
  * `keys` are already specific to (seed, stage, stream name, step, device). Keys of
    `Stage.shared_streams` are equal on all devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
from flax import struct

Array = jax.Array
PyTree = Any
PRNGKey = jax.Array

Batch = Mapping[str, Array]
"""The examples of one device. Keys that every data set has:

image   [B, H, W, 3] uint8, RGB (nets normalise on the device: ops/images.py)
label   [B, H, W] int32 train ids, 255 = ignored everywhere. In evaluation, labels are padded to the
        largest label of the split
weight  [B] float32, 1 for an example, 0 for padding that fills the last evaluation batch
index   [B] int32, the position of the example in its split
size    [B, 2] int32, evaluation only: height and width of the part of `image` without padding
label_size  [B, 2] int32, evaluation only: height and width of the part of `label` without padding
"""

Keys = Mapping[str, PRNGKey]
"""Named random streams, e.g. {'dropout': key, 'noise': key}.

They are already folded with step and device. Keys of `Stage.shared_streams` are folded with the
step alone.
"""


Total = TypeVar('Total', Array, np.ndarray, float)
"""Type of the sums of a `Mean`: on a device, or fetched to the host."""


class Mean(NamedTuple, Generic[Total]):
    """A mean before its division.

    `sum` and `count` may have any shapes that broadcast. Both are summed over devices, hosts and
    batches. A confusion matrix is `Mean(matrix, 1)`, of which only `sum` is read.
    """

    sum: Total
    count: Total

    def value(self) -> Total:
        """Returns sum / count, which is NaN where the count is 0."""
        return self.sum / self.count


Metrics = Mapping[str, Mean[Array]]
Scores = Mapping[str, Any]
"""Results on the host: floats under field names ('mIoU'), lists per class, nested dicts.

They must survive JSON.
"""


class TrainState(struct.PyTreeNode):
    """Everything that changes during a stage.

    It holds arrays only, so that it can be donated, passed through `eval_shape` and restored
    strictly. Functions, configs and keys live in closures.
    """

    step: Array  # int32 scalar, the only clock
    params: dict[str, PyTree]  # by net: {'segmenter': ..., 'discriminator': ...}
    model_state: dict[str, PyTree]  # by net: batch statistics
    opt_state: dict[str, PyTree]  # by optimiser; a net without an optimiser is frozen
    extra: dict[str, PyTree]  # image pool, EMA, latent codes, ...


class Input(NamedTuple):
    """The data of a stage.

    split       a TFDS split: 'train', 'val', 'train[:10%]', 'train+val'
    batch_size  examples of the global batch, over all devices of all processes
    features    keys of the batch in addition to weight and index, e.g. ('image', 'label')
    size        (height, width) of the images that the net sees
    augment     config.augment for training; None: resize only (evaluation)
    part        training: (from, to) as shares of the split, in a fixed shuffled order
    batch_key   training: the config key of `batch_size`, for errors
    unpaired    training: (name, input) pairs of additional inputs. Each input is sampled
                independently. Its batch keys are 'name/image', 'name/index'
    frames      video: offsets of the neighbouring frames, e.g. (-1, 1). The feature 'image_frames'
                is [B, n, H, W, 3], the neighbours of 'image'. Frames without all neighbours are
                skipped and get no index
    examples    examples of the split: 'all', or 'labelled' for examples with a pixel of a class.
                `part` and `index` count the chosen examples only
    """

    split: str
    batch_size: int
    features: tuple[str, ...]
    size: tuple[int, int]
    augment: Any = None
    part: tuple[float, float] = (0.0, 1.0)
    batch_key: str = 'train.batch_size'
    unpaired: tuple[tuple[str, 'Input'], ...] = ()
    frames: tuple[int, ...] = ()
    examples: str = 'all'

    def with_unpaired(self) -> tuple['Input', ...]:
        """Returns the input itself, followed by its unpaired inputs."""
        return (self, *(inputs for _, inputs in self.unpaired))

    def bounds(self, num_examples: int) -> tuple[int, int]:
        """Returns `part` as (first, end) positions among `num_examples` chosen examples."""
        first, last = (round(share * num_examples) for share in self.part)
        return first, last


class Stage(NamedTuple):
    """One training job: pure functions, and the facts that the driver needs to run them.

    name         folder name of the stage in the run folder
    num_steps    number of steps; 0: evaluate only
    train_input  training data; None only if num_steps is 0
    eval_input   data from which scores are computed
    streams      names of the random streams in `keys` of train_step, eval_step and render
    shared_streams  names of streams whose keys are equal on all devices, and in evaluation in all
                 batches. Folded with batch['index'], they make numbers that do not depend on how
                 examples are distributed
    init         (key, batch, earlier) -> TrainState. `key` depends on the seed alone, and
                 rng.named(key, net) gives a net the same initial parameters in every stage. `batch`
                 is one device's example batch, in numpy arrays or traced. Its shapes and dtypes
                 matter, its values do not.
                 `earlier` holds the final states of the earlier stages by name. `init` is called
                 without jit, because a compiler would take minutes for the random numbers of large
                 nets. It is also called under eval_shape. Nets begin with `lazy_init`, which
                 computes no activations
    train_step   (state, batch, keys) -> (state, metrics), pure, per device. Metrics are scalar
                 Means. NaN checks watch metrics['loss']
    eval_step    (state, batch, keys) -> metrics, pure, per device. It respects batch['weight'].
                 metrics['image_score'], a Mean of [N] vectors with a place for each example of the
                 split, ranks the pictures of the report
    finalize     summed metrics (numpy) -> scores, on the host
    monitor      (score name, 'max' or 'min') of the best checkpoint. `finalize` must return the
                 score
    render       (state, batch, keys) -> {'prediction': [B, H, W, 3] uint8, ...}, pictures for
                 report and TensorBoard, in this order. A picture with the size of image or label
                 loses its padding. Any other picture stays whole
    predict      (state, image [B, H, W, 3] uint8) -> class probabilities [B, H, W, C], for --mode
                 predict
    """

    name: str
    num_steps: int
    train_input: Input | None
    eval_input: Input
    streams: tuple[str, ...]
    init: Callable[[PRNGKey, Mapping[str, Any], Mapping[str, TrainState]], TrainState]
    train_step: Callable[[TrainState, Batch, Keys], tuple[TrainState, Metrics]]
    eval_step: Callable[[TrainState, Batch, Keys], Metrics]
    finalize: Callable[[Mapping[str, Mean]], Scores]
    monitor: tuple[str, str]
    shared_streams: tuple[str, ...] = ()
    render: Callable[[TrainState, Batch, Keys], Mapping[str, Array]] | None = None
    predict: Callable[[TrainState, Array], Array] | None = None
