"""The contract: what a pipeline is made of. Every pipeline is written against this page.

A pipeline is one file in `segjax/pipelines/` that exports

    make_stages(config, spec) -> tuple[Stage, ...]
    SCHEMA                       the config keys it adds to the shared ones (segjax/schema.py)

A `Stage` is one training job made of pure functions. `segjax/train/driver.py` runs the stages in order. It
owns the loop, devices, logging, checkpoints and the report. It knows no loss and no net. A paper that
needs two trainings in a row (a depth net, then the segmentation guided by it) has two stages. The second
stage gets the final state of the first.

How a step runs. The driver maps `train_step` over devices (segjax/core/parallel.py). Inside it

  * `batch` holds this device's share of the global batch, `state` is the same on every device;
  * gradients leave through `parallel.global_value_and_grad`, which makes them those of the global batch;
  * metrics are returned as local (sum, count) pairs, which the driver sums over devices, hosts and batches
    and divides once, at the end: the result does not depend on how the examples were dealt out;
  * `keys` are already specific to (seed, stage, stream name, step, device); those of `Stage.shared_streams` are equal
    on all devices.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import struct

Array = jax.Array
PyTree = Any
PRNGKey = jax.Array

Batch = Mapping[str, Array]
"""One device's examples. Keys that every data set has:

image   [B, H, W, 3] uint8, RGB (nets normalise on the device: ops/images.py)
label   [B, H, W] int32 train ids, 255 = ignored everywhere. In evaluation padded to the largest label of the split
weight  [B] float32, 1 for an example, 0 for padding that fills the last evaluation batch
index   [B] int32, the position of the example in its split
size    [B, 2] int32, evaluation only: height and width of the part of `image` that is not padding
label_size  [B, 2] int32, evaluation only: height and width of the part of `label` that is not padding
"""

Keys = Mapping[str, PRNGKey]
"""Named random streams, e.g. {'dropout': key, 'noise': key}; folded with step and device already, those of
`Stage.shared_streams` with the step alone."""


class Mean(NamedTuple):
    """A mean that is not divided yet. `sum` and `count` may have any shape that broadcasts (a confusion matrix is
    `Mean(matrix, 1)` whose `sum` is read); both add up over devices, hosts and batches."""

    sum: Array
    count: Array

    def value(self):
        """sum / count; NaN where nothing was counted."""
        return self.sum / self.count


Metrics = Mapping[str, Mean]
Scores = Mapping[str, Any]
"""Host-side results: floats under field names ('mIoU'), lists per class, nested dicts. Must survive JSON."""


@struct.dataclass
class TrainState:
    """Everything that moves during a stage; arrays only, so that it can be donated, `eval_shape`d and restored
    strictly. Functions, configs and keys live in closures."""

    step: Array  # int32 scalar, the only clock
    params: dict[str, PyTree]  # by net: {'segmenter': ..., 'discriminator': ...}
    model_state: dict[str, PyTree]  # by net: batch statistics
    opt_state: dict[str, PyTree]  # by optimiser; a net that no optimiser owns is frozen
    extra: dict[str, PyTree]  # image pool, EMA, latent codes, ...


class Input(NamedTuple):
    """What a stage wants to be fed with."""

    split: str  # a TFDS split: 'train', 'val', 'train[:10%]', 'train+val'
    batch_size: int  # global: over all devices of all processes
    features: tuple[
        str, ...
    ]  # keys of the batch in addition to weight and index, e.g. ('image', 'label')
    size: tuple[int, int]  # (height, width) of the images that the net sees
    augment: Any = None  # config.augment for training; None: resize only (evaluation)
    part: tuple[float, float] = (
        0.0,
        1.0,
    )  # training: from .. to which share of the split, in a fixed shuffled order
    batch_key: str = (
        'train.batch_size'  # training: the config key of `batch_size`, which errors name
    )
    # Training: further inputs by name, each drawn on its own (unpaired data); batch['name/image'], batch['name/index']
    unpaired: tuple[tuple[str, 'Input'], ...] = ()
    # Video: examples with neighbours at these places of their clip, as (-1, 1). 'image_frames' among the features is
    # [B, n, H, W, 3], 'image' of the neighbours. Examples that lack one are left out; `index` counts those that stay
    frames: tuple[int, ...] = ()
    # Examples of the split: 'all', or 'labelled', those with a pixel of a class. `part` is a share of
    # the chosen examples, and `index` counts them
    examples: str = 'all'

    def with_unpaired(self) -> tuple['Input', ...]:
        """Returns the input itself, and its unpaired inputs."""
        return (self, *(inputs for _, inputs in self.unpaired))

    def bounds(self, num_examples: int) -> tuple[int, int]:
        """Returns `part` of `num_examples` chosen examples as positions, the last one excluded."""
        first, last = (round(share * num_examples) for share in self.part)
        return first, last


class Stage(NamedTuple):
    """One training job: pure functions and what the driver must know to run them.

    name         folder name of the stage in the run folder
    num_steps    0: evaluate only
    train_input  None only if num_steps is 0
    eval_input   what the scores are computed on
    streams      names of the random streams that train_step, eval_step and render want in `keys`
    shared_streams  names of streams whose keys are equal on all devices, and in evaluation in all batches. Folded with
                 batch['index'], they make numbers that do not depend on how examples were dealt out
    init         (key, batch, earlier) -> TrainState. `key` depends on the seed alone: rng.named(key, net) gives a net
                 the same initial parameters in every stage. `batch` is one device's example batch (shapes and dtypes
                 matter, values do not) and `earlier` holds the final states of the stages before, by name. Called as it
                 is (a compiler would take minutes over the random numbers of large nets) and under eval_shape: nets
                 begin with `lazy_init`, which computes no activations
    train_step   (state, batch, keys) -> (state, metrics), pure, per device; metrics are scalar Means, and
                 metrics['loss'] is what NaN checks watch
    eval_step    (state, batch, keys) -> metrics, pure, per device; respects batch['weight']. metrics['image_score'],
                 a Mean of [N] vectors with a place for each example of the split, ranks the report's pictures
    finalize     summed metrics (numpy) -> scores, on the host
    monitor      (score name, 'max' or 'min'): which checkpoint is the best one; finalize must return that score
    render       (state, batch, keys) -> {'prediction': [B, H, W, 3] uint8, ...}, pictures for report and TensorBoard,
                 in this order. A picture on the canvas of image or label loses its padding, any other stays whole
    predict      (state, image [B, H, W, 3] uint8) -> class probabilities [B, H, W, C], for --mode predict
    """

    name: str
    num_steps: int
    train_input: Input | None
    eval_input: Input
    streams: tuple[str, ...]
    init: Callable[[PRNGKey, Batch, Mapping[str, TrainState]], TrainState]
    train_step: Callable[[TrainState, Batch, Keys], tuple[TrainState, Metrics]]
    eval_step: Callable[[TrainState, Batch, Keys], Metrics]
    finalize: Callable[[Mapping[str, Mean]], Scores]
    monitor: tuple[str, str]
    shared_streams: tuple[str, ...] = ()
    render: Callable[[TrainState, Batch, Keys], Mapping[str, Array]] | None = None
    predict: Callable[[TrainState, Array], Array] | None = None
