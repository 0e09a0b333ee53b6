"""The contract of a pipeline. Every pipeline is written against this page.

A pipeline is one file in `segjax/pipelines/` that exports

    make_stages(config, spec) -> tuple[Stage, ...]
    SCHEMA                       the config keys it adds to the shared keys (segjax/schema.py)
    make_features(config, spec) -> tuple[Derived, ...]
                                 optional: features that are computed once from the records

A pipeline with several data sets has a section of its SCHEMA for each additional data set
(`schema.data_set`). Both functions get the specification of such a section as a keyword argument:
`make_stages(config, spec, shadow_data)` for a section `shadow_data`.

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

from segjax.errors import InputError
from segjax.spec import Feature

Array = jax.Array
PyTree = Any
PRNGKey = jax.Array

Batch = Mapping[str, Array]
"""The examples of one device. Keys that every data set has:

image   [B, H, W, 3] uint8, RGB (nets normalise on the device: ops/images.py)
label   [B, H, W] int32 train ids, 255 = ignored everywhere. In evaluation, labels are padded to the
        largest label of the split. They travel to the device as uint8
weight  [B] float32, 1 for an example, 0 for padding that fills the last evaluation batch
index   [B] int32, the position of the example in its split. With `Input.each`: n * (position of
        the image) + row. Padding has an index that no example has
size    [B, 2] int32, evaluation only: height and width of the part of `image` without padding
label_size  [B, 2] int32, evaluation only: height and width of the part of `label` without padding

segjax/data/kinds.py lists shape, type and padding of every kind of feature.
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
"""Results on the host: floats under field names ('mIoU'), lists per class, nested dicts, curves.

They must survive JSON. segjax/metrics/curves.py makes curves.
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


class Picture(NamedTuple):
    """A picture of `Stage.render` with facts about it. A plain array is shown whole.

    pixels  [B, H, W, 3] uint8; a strip [B, n, H, W, 3], or a grid [B, rows, columns, H, W, 3].
            Grey pictures have 1 as last axis, or are [B, H, W]. bool is black and white
    size    [B, 2] height and width of the part without padding; None: everything
    values  {name: [B] or [B, n]} numbers for the caption. Integers whose name ends in 'class' are
            train ids. The caption shows the names of the classes
    legend  {meaning: (red, green, blue)} of colours that belong to no class of the data set. The
            report shows them next to the colours of the classes
    """

    pixels: Array
    size: Array | None = None
    values: Mapping[str, Array] = {}
    legend: Mapping[str, tuple[int, int, int]] = {}


class LabelMaps(NamedTuple):
    """Predicted and true class maps at the resolution of the scores.

    prediction  [B, H, W] train ids below 255. C and larger ids stand for no class
    truth       [B, H, W] train ids, 255 where no prediction counts, as in padding
    size        [B, 2] height and width of the part without padding
    """

    prediction: Array
    truth: Array
    size: Array


# --- examples -------------------------------------------------------------------------------------


Example = Mapping[str, Any]
"""Features of a single example on the host, in numpy."""


class Derived(NamedTuple):
    """A feature that is computed once from the records of a data set, and stored with them.

    The fingerprint of the stored values holds the records, the split, and all fields below except
    `compute`, `data` and `lazy`. If labels are read or choose the examples, it also holds the class
    map of the section. It holds nothing of the code of `compute`. Raise `version` when the function
    changes.

    name      key of the feature in examples
    feature   its kind and shape
    reads     features that `compute` reads. They may be derived features that come before. The
              class map of the data section holds for 'label'
    compute   example -> value. A function of a module, or a `functools.partial` of one, because
              worker processes call it. If `whole` is set: (examples of the split, in order) ->
              values in the same order. It sees the chosen examples alone
    settings  numbers and texts that the value depends on, as JSON
    version   of the function
    frames    offsets of the neighbours that `compute` reads as 'image_frames'. At the ends of a
              clip a neighbour that does not exist is replaced by the nearest frame that does
    whole     whether `compute` sees the whole split at once: a search among all examples
    data      config section of the data set
    examples  examples of the split that get a value, as in `Input.examples`. The value of all
              remaining examples is 0, '' for text. `compute` is not called for them. Another
              feature reads the values only for the same choice, and not of neighbours
    lazy      whether 'x_frames' are sequences that read the feature of a neighbour each time it is
              indexed, instead of arrays. It saves memory if there are many neighbours
    """

    name: str
    feature: Feature
    reads: tuple[str, ...]
    compute: Callable[..., Any]
    settings: Mapping[str, Any] = {}
    version: int = 1
    frames: tuple[int, ...] = ()
    whole: bool = False
    data: str = 'data'
    examples: str = 'all'
    lazy: bool = False


class Product(NamedTuple):
    """The name of an array that an earlier stage hands on (`Stage.hand_on`).

    stage  its stage
    name   of the array
    """

    stage: str
    name: str


class DrawnFrames(NamedTuple):
    """Neighbours that are drawn anew for each example and epoch.

    `count` frames are drawn without replacement from the example itself and the frames of its clip
    at `offsets`. The example itself is always among them. They are in ascending order. Examples
    with fewer than `count` such frames are skipped. With `fill` the example itself takes the places
    of missing frames, and no example is skipped. In evaluation, the frames depend on the index
    alone. The feature 'frame_frames' has their numbers in the clip.
    """

    count: int
    offsets: tuple[int, ...]
    fill: bool = False


class TableFrames(NamedTuple):
    """Neighbours from a table.

    The feature `table` of an example has the positions [count] of its neighbours. It is a stored or
    derived feature of kind 'number' and type 'int32'. Positions count in the plain split in which
    the example lies: a table of 'train' is right for 'train[:10%]' and for 'val+train'.

    With `drawn`, the table has a row of M positions for each neighbour, [count, M]. -1 is no
    position. A position of each row is drawn anew for each example and epoch, all with the same
    probability. A row without a position gives the example itself. The batch feature
    'present_frames' [B, count] is 0 for such rows, and 1 otherwise. Neighbours of another size are
    stretched to the size of the example. In evaluation, the draws depend on the index alone.
    """

    count: int
    table: str
    drawn: bool = False


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
    frames      offsets of the neighbouring frames, e.g. (-1, 1), or `DrawnFrames`, or
                `TableFrames`. The feature 'image_frames' is [B, n, H, W, 3], the neighbours of
                'image'. Frames without all neighbours are skipped and get no index
    examples    examples of the split: 'all', or 'labelled' for examples with a pixel of a class.
                `part` and `index` count the chosen examples only
    data        config section of the data set: 'data' is the main data set
    chosen      only the examples at these positions of the split: the array of a `Product`.
                None: no further choice
    each        a stored or derived feature of kind 'number', type 'int32' and shape (n,): a table.
                Each row whose value is not 0 is an example of its own, in the order of the images
                and of their rows. Images without such a row give no example. `examples`, `chosen`
                and `part` choose images, before the rows are counted. batch['index'] is n * (index
                of the image) + row. So vectors of length n * (number of images) have a place for
                each example, and places without an example have the count 0. '': images are the
                examples
    transform   (example, numpy generator) -> example, called before the augmentation, in threads or
                worker processes. A function of a module, or a `functools.partial` of one. The
                generator depends on (seed, position) in training and on the index in evaluation.
                The result must have all `features`. Further features are dropped
    reads       features of the data set that `transform` reads, also 'name' and 'index', and with
                `each` also 'row'. (): those of `features`
    made        (name, Feature) pairs: `features` that `transform` makes
    resize      whether maps are brought to `size`, and padded in evaluation. False: they keep the
                size that `transform` gave them, which must be `size`
    excludes    splits of the data set that share no example with `split`, as lists of members and
                of non-members. A common example is an error before anything compiles, and so is
                an example that a sum of splits has twice
    refusal     the error of an input that its data set cannot serve. Opening the input raises it,
                so it does not concern a mode that reads other inputs. None: no error
    """

    split: str
    batch_size: int
    features: tuple[str, ...]
    size: tuple[int, int]
    augment: Any = None
    part: tuple[float, float] = (0.0, 1.0)
    batch_key: str = 'train.batch_size'
    unpaired: tuple[tuple[str, 'Input'], ...] = ()
    frames: 'tuple[int, ...] | DrawnFrames | TableFrames' = ()
    examples: str = 'all'
    data: str = 'data'
    chosen: Product | None = None
    each: str = ''
    transform: Callable[[Example, np.random.Generator], Example] | None = None
    reads: tuple[str, ...] = ()
    made: tuple[tuple[str, Feature], ...] = ()
    resize: bool = True
    excludes: tuple[str, ...] = ()
    refusal: InputError | None = None

    @property
    def num_frames(self) -> int:
        """Returns the number of neighbours of an example."""
        if isinstance(self.frames, DrawnFrames | TableFrames):
            return self.frames.count
        return len(self.frames)

    @property
    def stored(self) -> tuple[str, ...]:
        """Returns the features that are read from the data set."""
        # The loader adds weight, index and row. A transform may read a feature and replace it.
        made = [] if self.reads else [name for name, _ in self.made]
        row = ['row'] if self.each else []
        not_stored = {'weight', 'index', *row, *made}
        return tuple(name for name in self.reads or self.features if name not in not_stored)

    def with_unpaired(self) -> tuple['Input', ...]:
        """Returns the input itself, followed by its unpaired inputs."""
        return (self, *(inputs for _, inputs in self.unpaired))

    def bounds(self, num_examples: int) -> tuple[int, int]:
        """Returns `part` as (first, end) positions among `num_examples` chosen examples."""
        first, last = (round(share * num_examples) for share in self.part)
        return first, last


# --- stages ---------------------------------------------------------------------------------------


class Observation(NamedTuple):
    """Evaluation that is no sum on the device: boundary matching, rankings, the best of n samples.

    outputs  (state, batch, keys) -> {name: [B, ...]}, pure, per device
    observe  (batch, outputs) -> {name: Mean}, in numpy on the host. Both arguments hold the rows of
             this process without padding, so they may have 0 rows. Every call returns the same
             names and shapes. `finalize` gets the Means with those of `eval_step`, which have
             other names. `means.rows` places a value for each example
    """

    outputs: Callable[[TrainState, Batch, Keys], Mapping[str, Array]]
    observe: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Mapping[str, Mean]]


class HandOn(NamedTuple):
    """Arrays that a finished stage hands on to later stages, in addition to its state.

    They are written once, to products.npz in the folder of the stage. Later stages read them as
    `Product` in their inputs, and as earlier['stage/name'] in `init`.

    shapes     {name: jax.ShapeDtypeStruct} of the arrays
    inputs     examples that are measured, in order. None: `finalize` gets an empty mapping
    eval_step  (state, batch, keys) -> metrics, as in `Stage`
    finalize   summed metrics (numpy) -> {name: array}, on the host
    """

    shapes: Mapping[str, jax.ShapeDtypeStruct]
    finalize: Callable[[Mapping[str, Mean]], Mapping[str, np.ndarray]]
    inputs: Input | None = None
    eval_step: Callable[[TrainState, Batch, Keys], Metrics] | None = None


class Prediction(NamedTuple):
    """The use of a trained net on files, for --mode predict.

    inputs   {name: Feature} of an example. Maps are read from image files, everything else from a
             JSON list of examples. In inputs of kind 'number' whose name begins with
             'class', the list may hold names of classes for train ids. Label files have the ids of
             the data set. Their train ids are merged by the class map of the section
    outputs  {name: kind}. Kinds: 'classes' [B, H, W] train ids, 'probabilities' [B, H, W, C],
             'mask' [B, H, W] bool, 'image' [B, H, W, 3] uint8, 'images' [B, n, H, W, 3] uint8,
             'depth' [B, H, W], 'normals' [B, H, W, 3], 'table' [B] or [B, n] numbers
    apply    (state, batch, keys) -> {name: array}, pure, per device, without collectives. `batch`
             holds the inputs and 'weight'. With maps it also holds 'size', as in `Batch`. A stream
             of `keys` is a vector [B] with a key for each example
    size     (height, width) into which maps are fitted. Outputs of this size are brought back to
             the size of the files
    streams  names of the random streams in `keys`. They depend on the name of the example and on
             the seed alone
    resize   whether maps are resized to `size`, with their aspect ratio kept. False: maps keep
             their pixels and are padded at the bottom and right. For larger maps `size` grows, so
             `apply` reads the size from its batch. Outputs of this size are cut to the files
    check    example -> None. Raises InputError for values that the net cannot use. It is called for
             all examples before anything compiles. `example` holds the inputs that are no maps, in
             pixels of the files. With maps it also holds 'size', their (height, width)
    check_trained  (state on the host, example) -> None. Raises InputError for values that the net
             could use, but has never seen in training. It is called as `check`
    codes    state -> {name: array}, the random codes that all examples share. They are written
             once, to codes.npz. `config.predict.codes` names such a file, and `make_stages` reads
             it. None: the prediction has no codes
    """

    inputs: Mapping[str, Feature]
    outputs: Mapping[str, str]
    apply: Callable[[TrainState, Batch, Keys], Mapping[str, Array]]
    size: tuple[int, int]
    streams: tuple[str, ...] = ()
    resize: bool = True
    check: Callable[[Example], None] | None = None
    check_trained: Callable[[TrainState, Example], None] | None = None
    codes: Callable[[TrainState], Mapping[str, Array]] | None = None


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
                 `earlier` holds the final states of the earlier stages by name, and the arrays
                 that they hand on as 'stage/name'. `init` is called
                 without jit, because a compiler would take minutes for the random numbers of large
                 nets. It is also called under eval_shape. Nets begin with `lazy_init`, which
                 computes no activations
    train_step   (state, batch, keys) -> (state, metrics), pure, per device. Metrics are scalar
                 Means. NaN checks watch metrics['loss']
    eval_step    (state, batch, keys) -> metrics, pure, per device. It respects batch['weight'].
                 metrics['image_score'], a Mean of [N] vectors with a place for each example of the
                 split, ranks the pictures of the report: larger is better
    finalize     summed metrics (numpy) -> scores, on the host
    monitor      (score name, 'max' or 'min') of the best checkpoint. `finalize` must return the
                 score
    render       (state, batch, keys) -> {'prediction': Picture or [B, H, W, 3] uint8, ...},
                 pictures for report and TensorBoard, in this order
    label_maps   (state, batch, keys) -> LabelMaps, pure, for --mode compare. `eval_step` counts the
                 same predictions
    predict      (state, image [B, H, W, 3] uint8) -> class probabilities [B, H, W, C], for --mode
                 predict, which cuts images of any size into tiles
    predict_planes  name of a derived feature [H, W, 3] uint8, whose channels `predict` sees behind
                 colour: image [B, H, W, 6]. It reads image, depth and intrinsics. '': colour alone
    predict_defence  words for the defence behind which `predict` answers, for --mode audit:
                 'gaussian 0.5', or 'none' while it is off. '': the stage has no defence
    prediction   further uses of the net on files
    observation  additional evaluation on the host
    hand_on      arrays for later stages
    frozen       names of nets that this stage neither trains nor copies from an earlier stage. A
                 run without their parameters in config.init_from is refused. They get the averages
                 of a run that has averages
    check_start  initial state -> None, on the host. Raises InputError for nets that do not fit
                 together, once the parameters of config.init_from are loaded
    """

    name: str
    num_steps: int
    train_input: Input | None
    eval_input: Input
    streams: tuple[str, ...]
    init: Callable[[PRNGKey, Mapping[str, Any], Mapping[str, Any]], TrainState]
    train_step: Callable[[TrainState, Batch, Keys], tuple[TrainState, Metrics]]
    eval_step: Callable[[TrainState, Batch, Keys], Metrics]
    finalize: Callable[[Mapping[str, Mean]], Scores]
    monitor: tuple[str, str]
    shared_streams: tuple[str, ...] = ()
    render: Callable[[TrainState, Batch, Keys], Mapping[str, Array | Picture]] | None = None
    label_maps: Callable[[TrainState, Batch, Keys], LabelMaps] | None = None
    predict: Callable[[TrainState, Array], Array] | None = None
    predict_planes: str = ''
    predict_defence: str = ''
    prediction: Prediction | None = None
    observation: Observation | None = None
    hand_on: HandOn | None = None
    frozen: tuple[str, ...] = ()
    check_start: Callable[[TrainState], None] | None = None

    @property
    def training_inputs(self) -> tuple[Input, ...]:
        """Returns the training input and its unpaired inputs, () without training."""
        return () if self.train_input is None else self.train_input.with_unpaired()

    @property
    def all_inputs(self) -> tuple[Input, ...]:
        """Returns the inputs of training, of the evaluation and of `hand_on`."""
        measured = self.hand_on.inputs if self.hand_on is not None else None
        further = () if measured is None else (measured,)
        return (*self.training_inputs, self.eval_input, *further)
