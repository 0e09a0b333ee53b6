"""Shape classification: a net that names the class of an object from its outline alone.

Source: He, Xiao, Zhang, Lei, Wang, Lu: Reducing Noise Pixels and Metric Bias in Semantic Inpainting
on Segmentation Map, sections 3.3, 4.1 and 4.4. The metric Sem (metrics/sem.py) compares the classes
that the net assigns to two shapes.

Every object of a label map is an example. The net sees two binary planes: the pixels of the object,
and its box. The box is tight, unless `enlarge` moves its edges. The section `SHAPES` of a config
describes examples and net, so a pipeline may have this training as one of its stages:

    SCHEMA = {'shapes': shapes.SHAPES}

    def make_features(config, spec):
        return shapes.features(config.shapes, spec)

    stage = shapes.make_stage(
        config, spec, config.shapes, name='shapes', num_steps=.., batch_size=.., where='shapes'
    )

A later stage gets the net as `earlier['shapes']`, and computes Sem with `make_classify`.

Evaluation adds a study of robustness to the scores of the classifier (Fig. 6 of the paper). It
degrades every object in six ways at three levels (metrics/shape.py), and compares how fast 1 - Sem,
tIOU and hamm fall.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import rng
from segjax.data import objects
from segjax.errors import InputError, unknown_name
from segjax.metrics import sem, shape
from segjax.metrics.curves import curve
from segjax.ops import squares
from segjax.protocol import (
    Array,
    Batch,
    Derived,
    Example,
    Input,
    Keys,
    Mean,
    Metrics,
    Picture,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, between, different_strings, one_of
from segjax.spec import IGNORE, DataSpec, Feature
from segjax.tasks import classification
from segjax.tasks.evaluation import Evaluation, Pictures

NAMES = tuple(shape.TRANSFORMATIONS)
LEVELS = 3
"""Levels of a transformation in addition to level 0, which changes nothing."""


def known_transformations(value: Sequence) -> str | None:
    """Checks names of `shape.TRANSFORMATIONS` that all differ."""
    fits = all(name in NAMES for name in value) and len(set(value)) == len(value)
    return None if fits else f'names of transformations, each once: {", ".join(NAMES)}'


SHAPES = {
    'model': models.net_choice(
        'classifier',
        'shape_classifier',
        'Net that classifies shapes.',
        only=('shape_classifier',),
    ),
    **classification.LOSS,
    'optim': OPTIM,
    'classes': Field(
        (),
        'Names of the classes whose objects are classified. Empty: all classes of the data set. '
        'Classes without objects have no examples.',
        different_strings,
    ),
    'num_outputs': Field(
        0,
        'Number of classes that the net tells apart. 0: the number of classes of the objects. '
        'A net that was trained on another data set has its own number.',
        at_least(0),
    ),
    'max_objects': Field(
        30, 'Largest number of objects of an image. The largest objects are kept.', at_least(1)
    ),
    'min_share': Field(
        0.01, 'Smallest area of an object, as a share of the label map.', between(0, 1)
    ),
    'min_side': Field(
        1.0, 'Smallest longer side of the box of an object, in pixels of the label.', at_least(1)
    ),
    'size': Field(256, 'Height and width of the planes that the net sees.', at_least(1)),
    'whole_map': Field(
        True,
        'Whether the whole map is stretched to the planes. Otherwise a square around the object '
        'is cut.',
    ),
    'margin': Field(
        2.0,
        'Side of the square around the object, as a multiple of the longer side of its box. '
        'Used without whole_map.',
        at_least(1),
    ),
    'enlarge': Field(
        0.0, 'Share of a side by which boxes of objects grow at each edge.', at_least(0)
    ),
    'flip': Field(0.0, 'Probability of a horizontal flip in training.', between(0, 1)),
    'transformations': Field(
        NAMES,
        'Transformations (metrics/shape.py) by which the evaluation studies the robustness of Sem. '
        'Empty: no study.',
        known_transformations,
    ),
    'noise_form': Field(
        'add',
        'Study of robustness: whether noise is added to the pixels or replaces them.',
        one_of(*shape.NOISE_FORMS),
    ),
    'clip_noise': Field(False, 'Study of robustness: whether noisy pixels are clipped to [0, 1].'),
}
"""Keys of a section that describes shapes and their classifier."""

TABLE = 'shape_targets'
"""Name of the derived feature with the objects of an image."""

MADE = (
    ('planes', Feature('planes', (2,), dtype='uint8')),
    ('class_id', Feature('number', dtype='int32')),
)
"""Features of an example: object and box, and the position of its class in the list of classes."""


# --- examples -------------------------------------------------------------------------------------


def class_names(section: ml_collections.ConfigDict, spec: DataSpec) -> tuple[str, ...]:
    """Returns the names of the classes whose objects are classified. Their places are class ids."""
    return tuple(section.classes) or spec.classes.names


def crop_of(section: ml_collections.ConfigDict, spec: DataSpec) -> objects.ObjectCrop:
    """Returns how objects are chosen and cut in training."""
    return objects.object_crop(
        class_names(section, spec),
        spec.classes,
        size=section.size,
        margin=section.margin,
        min_side=section.min_side,
        # Objects are never background boxes, whose sides this limits.
        max_side=section.min_side,
        min_share=section.min_share,
        enlarge=section.enlarge,
        flip=section.flip,
        whole_map=section.whole_map,
    )


def features(
    section: ml_collections.ConfigDict,
    spec: DataSpec,
    *,
    where: str = 'shapes',
    name: str = TABLE,
    data: str = 'data',
) -> tuple[Derived, ...]:
    """Returns the table of the objects of each image, for `make_features` of a pipeline.

    Args:
      section: with the keys of `SHAPES`.
      spec: of the data set.
      where: key of the section, for errors.
      name: of the feature.
      data: config section of the data set.

    Raises:
      InputError: a class that the data set does not have.
    """
    for class_name in section.classes:
        if class_name not in spec.classes.names:
            raise unknown_name(f'config.{where}.classes', class_name, spec.classes.names)
    crop = crop_of(section, spec)
    return (objects.targets_feature(crop, section.max_objects, name=name, data=data),)


def shape_of_target(
    example: Example,
    generator: np.random.Generator,
    crop: objects.ObjectCrop,
    table: str,
    is_known: bool = True,
) -> dict[str, np.ndarray]:
    """Returns the planes and the class of an object, for `Input.transform`.

    Args:
      example: has 'label', 'instance', the table and 'row'.
      generator: moves the square around the object, and flips.
      crop: the settings.
      table: key of the table of objects.
      is_known: whether the classes of the net are the classes of the data set.

    Returns:
      planes    [size, size, 2] uint8: 1 on the object, and 1 in its box
      class_id  int32, position of the class in `crop.classes`. 255 if the net does not know them
    """
    cut = objects.crop_target(example, generator, crop, targets=table)
    box = cut['mask_box'] > 0
    inside = (cut['mask_object'] > 0) & box
    class_id = crop.classes.index(int(cut['class_id'])) if is_known else IGNORE
    return {
        'planes': np.stack([inside, box], axis=-1).astype(np.uint8),
        'class_id': np.int32(class_id),
    }


def make_input(
    section: ml_collections.ConfigDict,
    spec: DataSpec,
    *,
    split: str,
    batch_size: int,
    train: bool,
    table: str = TABLE,
    data: str = 'data',
    **options,
) -> Input:
    """Returns an input in which each object is an example.

    Args:
      section: with the keys of `SHAPES`.
      spec: of the data set.
      split: of the data set.
      batch_size: objects of a global batch.
      train: whether shapes are flipped at random.
      table: name of the feature of `features`.
      data: config section of the data set.
      **options: further fields of `Input`.
    """
    crop = crop_of(section, spec)
    transform = functools.partial(
        shape_of_target,
        crop=crop if train else crop._replace(flip=0.0),
        table=table,
        is_known=_is_known(section, spec),
    )
    return Input(
        split=split,
        batch_size=batch_size,
        features=tuple(name for name, _ in MADE),
        size=(section.size, section.size),
        data=data,
        each=table,
        transform=transform,
        reads=('label', 'instance', table, 'row'),
        made=MADE,
        resize=False,
        **options,
    )


# --- net ------------------------------------------------------------------------------------------


def _is_known(section: ml_collections.ConfigDict, spec: DataSpec) -> bool:
    """Returns whether the outputs of the net are the classes of the objects."""
    return section.num_outputs in (0, len(class_names(section, spec)))


def make_task(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    where: str = 'shapes',
) -> classification.Task:
    """Builds the net of a section, with the names of its outputs.

    Args:
      config: of the run.
      spec: of the data set.
      section: with the keys of `SHAPES`.
      where: key of the section, for errors.

    Raises:
      InputError: another number of class weights than of classes.
    """
    names = class_names(section, spec)
    if not _is_known(section, spec):
        names = tuple(f'output {number}' for number in range(section.num_outputs))
    return classification.make_task(
        config,
        names,
        planes='planes',
        truth='class_id',
        model=section.model,
        loss=section,
        where=where,
    )


def make_classify(
    config: ml_collections.ConfigDict, spec: DataSpec, section: ml_collections.ConfigDict
) -> Callable[[PyTree, PyTree, Array], Array]:
    """Returns a frozen classifier, with which metrics/sem.py computes Sem.

        classify = functools.partial(
            make_classify(config, spec, config.shapes),
            state.params['classifier'],
            state.model_state['classifier'],
        )
        distance = sem.sem(classify, inpainted, truth, box)

    Args:
      config: of the run.
      spec: of the data set of the objects.
      section: with the keys of `SHAPES`.

    Returns:
      (parameters of the net, its batch statistics, planes [B, H, W, 2] from `sem.shape_planes`)
      -> logits [B, K] float32.
    """
    net = make_task(config, spec, section).net

    # An evaluation calls the classifier twice for each predictor. Jitted, it is traced once.
    @jax.jit
    def classify(params: PyTree, model_state: PyTree, planes: Array) -> Array:
        outputs, _ = net.apply(params, model_state, planes, train=False)
        return outputs['logits'].astype(jnp.float32)

    return classify


def cut_masks(
    section: ml_collections.ConfigDict, masks: Array, boxes: Array
) -> tuple[Array, Array]:
    """Cuts masks of any size to the planes of the classifier, as an evaluation cuts objects.

        shape, mask_box = cut_masks(config.shapes, shape, boxes)
        truth, _ = cut_masks(config.shapes, truth, boxes)
        distance = sem.sem(classify, shape, truth, mask_box)

    An evaluation also shifts the square around a box. Here the box is in the middle. Boxes are
    enlarged by `section.enlarge`.

    Args:
      section: with the keys of `SHAPES`.
      masks: [B, H, W] bool, or 0 and 1.
      boxes: [B, 4] (x0, y0, x1, y1), tight. The box of the pixels 2 to 5 reaches from 1.5 to 5.5.

    Returns:
      The masks, and the enlarged boxes as masks, both [B, S, S] bool with S = section.size.
    """
    size = masks.shape[1:]
    height, width = size
    sizes = jnp.array([size] * len(masks))
    boxes = squares.enlarged(boxes, section.enlarge, sizes)
    if section.whole_map:
        whole = jnp.array([0, 0, width, height]) - 0.5
        around = jnp.broadcast_to(whole, (len(masks), 4))
    else:
        around = squares.squares_of(boxes, section.margin, sizes)
    inside = squares.box_masks(boxes, size)
    return (
        squares.cut(masks > 0, around, section.size),
        squares.cut(inside, around, section.size),
    )


# --- the stage ------------------------------------------------------------------------------------


def make_stage(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    *,
    name: str,
    num_steps: int,
    batch_size: int,
    where: str,
    batch_key: str = 'train.batch_size',
    table: str = TABLE,
    data: str = 'data',
) -> Stage:
    """Builds the stage that trains and evaluates a classifier of shapes.

    Args:
      config: of the run.
      spec: of the data set.
      section: with the keys of `SHAPES`.
      name, num_steps: of the stage. 0 steps: evaluate only.
      batch_size: objects of a global batch in training.
      where: key of the section, for errors.
      batch_key: key of the batch size, for errors.
      table: name of the feature of `features`.
      data: config section of the data set.

    Raises:
      InputError: a training whose outputs are not the classes of objects, or wrong class weights.
    """
    _check_outputs(section, spec, num_steps, where)
    task = make_task(config, spec, section, where)
    optimisers = classification.optimisers(section.optim, f'{where}.optim')
    num_examples = spec.split(config.data.eval_split).num_examples * section.max_objects
    source = functools.partial(make_input, section, spec, table=table, data=data)

    # The share of labelled images comes before the count of their objects.
    train_input = source(
        split=config.data.train_split,
        batch_size=batch_size,
        train=True,
        batch_key=batch_key,
        part=(0.0, config.data.labelled_fraction),
        examples='labelled',
    )
    eval_input = source(
        split=config.data.eval_split, batch_size=config.evaluate.batch_size, train=False
    )
    return Stage(
        name=name,
        num_steps=num_steps,
        train_input=train_input,
        eval_input=eval_input,
        streams=('dropout',),
        shared_streams=('transformations',),
        init=classification.make_init(task, optimisers, num_steps),
        train_step=classification.make_train_step(
            task, optimisers, num_steps=num_steps, accumulate=config.train.accumulate
        ),
        **make_evaluation(task, section, num_examples, _train_ids(section, spec))._asdict(),
    )


def _train_ids(section: ml_collections.ConfigDict, spec: DataSpec) -> tuple[int, ...]:
    """Returns the train id of each output of the net, () for the outputs of a foreign net."""
    return crop_of(section, spec).classes if _is_known(section, spec) else ()


def _check_outputs(
    section: ml_collections.ConfigDict, spec: DataSpec, num_steps: int, where: str
) -> None:
    """Raises InputError for a training of a net whose outputs are not the classes of objects."""
    if not num_steps or _is_known(section, spec):
        return
    number = len(class_names(section, spec))
    raise InputError(
        f'config.{where}.num_outputs',
        got=f'{section.num_outputs}, in a stage that trains',
        expected=f'0, or {number} for the {number} classes of the objects',
        fix=f'--config.{where}.num_outputs=0',
    )


def make_evaluation(
    task: classification.Task,
    section: ml_collections.ConfigDict,
    num_examples: int,
    train_ids: tuple[int, ...],
) -> Evaluation:
    """Builds the evaluation of a `Stage`: the scores of the classifier, and the study.

    Args:
      task: of the classifier.
      section: with the keys of `SHAPES`.
      num_examples: places of the examples of the evaluation split.
      train_ids: of the outputs of the net, for captions. () for a foreign net.
    """
    study = Study(
        names=tuple(section.transformations),
        noise_form=section.noise_form,
        clip=section.clip_noise,
    )
    plain = classification.make_evaluation(task, num_examples, classification.paint_shape)
    return plain._replace(
        eval_step=functools.partial(eval_step, task, study, num_examples),
        finalize=functools.partial(finalize, task, study),
        render=functools.partial(render, task, study, train_ids),
    )


# --- the study of robustness ----------------------------------------------------------------------


MEASURES = ('1-Sem', 'tIOU', 'hamm')
"""Similarities of a degraded object to the object itself. Each is 1 for equal objects."""


class Study(NamedTuple):
    """The transformations of the study.

    names       of `shape.TRANSFORMATIONS`
    noise_form  a name of `shape.NOISE_FORMS`
    clip        whether noisy values are clipped to [0, 1]
    """

    names: tuple[str, ...]
    noise_form: str
    clip: bool


def degraded(
    study: Study, truth: Array, box: Array, index: Array, key: PRNGKey
) -> dict[str, Array]:
    """Degrades objects by each transformation, at the levels 0 to 3.

    The random numbers of an object depend on its index and on the transformation alone. All levels
    share them: an object that is flipped at level 1 is flipped at levels 2 and 3.

    Args:
      study: the transformations.
      truth: [B, H, W] bool, the objects.
      box: [B, H, W] bool, their boxes.
      index: [B] indices of the examples.
      key: equal on all devices and in all batches.

    Returns:
      {name: [B, 4, H, W] float32}.
    """
    by_name = {}
    for name in study.names:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng.named(key, name), index)
        levels = []
        for level in range(LEVELS + 1):
            levels.append(
                shape.transformed(
                    name,
                    level,
                    truth,
                    box,
                    keys,
                    noise_form=study.noise_form,
                    clip=study.clip,
                )
            )
        by_name[name] = jnp.stack(levels, 1)
    return by_name


def similarities(
    classify: Callable[[Array], Array], changed: Mapping[str, Array], box: Array
) -> Array:
    """Compares degraded objects with the objects themselves.

    1 - Sem compares the classes of the net, which sees noisy values as they are. tIOU and hamm
    compare pixels inside the box. A pixel of a noisy object belongs to the object if its value is
    exactly 1. It agrees with the truth if both values are equal.

    Args:
      classify: planes [B, H, W, 2] float32 -> logits [B, K].
      changed: from `degraded`.
      box: [B, H, W] bool.

    Returns:
      [B, T, 4, 3] float32 by object, transformation, level and measure. tIOU is NaN for an empty
      object.
    """
    stacked = jnp.stack(list(changed.values()), 1)  # [B, T, 4, H, W]
    batch, num_names, num_levels, height, width = stacked.shape
    masks = jnp.broadcast_to(box[:, None, None], stacked.shape)

    # A single call of the net: the program holds the net once.
    planes = jnp.stack([stacked, masks.astype(jnp.float32)], -1)
    logits = classify(planes.reshape(-1, height, width, 2))
    logits = logits.reshape(batch, num_names, num_levels, -1)
    distance = sem.total_variation(logits, logits[:, :, :1])  # level 0 is the truth

    flat = stacked.reshape(-1, height, width)
    truth = jnp.broadcast_to(stacked[:, :, :1], stacked.shape).reshape(flat.shape)
    masks = masks.reshape(flat.shape)
    target = jnp.ones(len(flat))
    overlap = shape.target_iou(flat, truth, target, masks)
    agreement = shape.hamming(flat, truth, masks)
    by_pixel = [x.reshape(batch, num_names, num_levels) for x in (overlap, agreement)]
    return jnp.stack([1 - distance, *by_pixel], -1)


def moments(values: Array, weight: Array) -> Mean:
    """Adds up values and their squares over the objects of a batch, without NaN.

    Args:
      values: [B, ...].
      weight: [B] weight of each example.

    Returns:
      Mean of sums [2, ...] and counts [1, ...].
    """
    weights = weight.reshape(-1, *[1] * (values.ndim - 1))
    counted = (weights > 0) & ~jnp.isnan(values)
    share = jnp.where(counted, weights, 0).astype(jnp.float32)
    values = jnp.where(counted, values, 0)
    sums = jnp.stack([(share * values).sum(0), (share * values**2).sum(0)])
    return Mean(sums, share.sum(0)[None])


def _of_planes(
    task: classification.Task, study: Study, state: TrainState, batch: Batch, keys: Keys
) -> tuple[dict[str, Array], Array]:
    """Returns the degraded objects of a batch, and their `similarities`."""
    truth = batch[task.planes][..., 0] > 0
    box = batch[task.planes][..., 1] > 0
    changed = degraded(study, truth, box, batch['index'], keys['transformations'])
    classify = functools.partial(classification.classify, task, state)
    return changed, similarities(classify, changed, box)


def eval_step(
    task: classification.Task,
    study: Study,
    num_examples: int,
    state: TrainState,
    batch: Batch,
    keys: Keys,
) -> Metrics:
    """Computes the metrics of the classifier, and the similarities of the study."""
    metrics = classification.eval_step(task, num_examples, state, batch, keys)
    if not study.names:
        return metrics
    _, values = _of_planes(task, study, state, batch, keys)
    return {**metrics, 'robustness': moments(values, batch['weight'])}


def finalize(task: classification.Task, study: Study, sums: Mapping[str, Mean]) -> Scores:
    """Turns the sums over the evaluation split into scores.

    In addition to the scores of `classification.finalize`:

    baseline_chance   accuracy of a guess among the classes that occur
    flip_sensitivity  Sem of flipped objects, over the mean fall of tIOU and hamm, at level 3. Below
                      1 the flip changes the class less than the pixels
    robustness        for each transformation the curves of 1 - Sem, tIOU and hamm over the levels,
                      means over the objects
    falls             how far they fall below 1 at each level, with standard errors over the
                      objects. 'Sem_to_tIOU' is the fall of 1 - Sem over the fall of tIOU
    """
    scores = dict(classification.finalize(task, sums))
    commonest = scores.get('baseline_commonest')
    if commonest:
        scores['baseline_chance'] = {'accuracy': commonest['class_accuracy']}
    if not study.names or not np.all(sums['robustness'].count):
        return scores

    # Means and standard errors [T, 4, 3].
    total, squares = np.asarray(sums['robustness'].sum, np.float64)
    count = np.asarray(sums['robustness'].count, np.float64)[0]
    means = total / count
    variance = np.maximum(squares / count - means**2, 0)
    errors = np.sqrt(variance / np.maximum(count - 1, 1))

    falls = {}
    curves = {}
    for name, by_level, error in zip(study.names, means, errors, strict=True):
        curves[name] = level_curve(by_level)
        for level in range(1, LEVELS + 1):
            falls[f'{name} {level}'] = fall_row(1 - by_level[level], error[level])
    if 'flip' in study.names:
        of_sem, of_overlap, of_agreement = 1 - means[study.names.index('flip'), LEVELS]
        scores['flip_sensitivity'] = _quotient(of_sem, (of_overlap + of_agreement) / 2)
    return {**scores, 'robustness': curves, 'falls': falls}


def level_curve(by_level: np.ndarray) -> dict:
    """Returns the curves of a transformation over the levels, from means [4, 3]."""
    levels = np.arange(LEVELS + 1)
    series = {name: (levels, by_level[:, place]) for place, name in enumerate(MEASURES)}
    return curve(series, x_name='level', y_name='similarity')


def fall_row(falls: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """Returns a row of the table of falls.

    Args:
      falls: [3] of 1 - Sem, tIOU and hamm.
      errors: [3] their standard errors.
    """
    of_sem, overlap, agreement = map(float, falls)
    sem_error, overlap_error, agreement_error = map(float, errors)
    return {
        'Sem': of_sem,
        'Sem_error': sem_error,
        'tIOU_fall': overlap,
        'tIOU_fall_error': overlap_error,
        'hamm_fall': agreement,
        'hamm_fall_error': agreement_error,
        'ratio_to_tIOU': _quotient(of_sem, overlap),
        'ratio_to_hamm': _quotient(of_sem, agreement),
    }


def _quotient(numerator: float, denominator: float) -> float | None:
    """Returns a quotient, None for a denominator of 0."""
    return float(numerator / denominator) if denominator > 0 else None


# --- pictures -------------------------------------------------------------------------------------


def render(
    task: classification.Task,
    study: Study,
    train_ids: tuple[int, ...],
    state: TrainState,
    batch: Batch,
    keys: Keys,
) -> Pictures:
    """Paints the shapes with their classes, and for each transformation its levels 0 to 3.

    Noisy values are clipped to [0, 1].
    """
    pictures = classification.render(task, classification.paint_shape, state, batch, keys)
    # A strip of one shape has the size of the strips below it.
    shown = pictures['input']
    pictures['input'] = Picture(
        shown.pixels[:, None, :, :, None],
        values=_with_train_ids(shown.values, train_ids),
        legend=classification.SHAPE_LEGEND,
    )
    if not study.names:
        return pictures
    changed, values = _of_planes(task, study, state, batch, keys)
    box = batch[task.planes][..., 1] > 0
    for place, (name, levels) in enumerate(changed.items()):
        numbers = {measure: values[:, place, :, i] for i, measure in enumerate(MEASURES)}
        pictures[name] = Picture(paint_levels(levels, box), values=numbers)
    return pictures


def _with_train_ids(values: Mapping[str, Array], train_ids: tuple[int, ...]) -> dict[str, Array]:
    """Returns the numbers of a caption, with train ids in place of the outputs of the net."""
    if not train_ids:
        return {'predicted output': values['predicted class']}
    ids = jnp.array(train_ids, jnp.int32)
    named = {name: ids[values[name]] for name in ('true class', 'predicted class')}
    return {**values, **named}


def paint_levels(levels: Array, box: Array) -> Array:
    """Paints degraded objects [B, 4, H, W] in their boxes [B, H, W], in grey.

    Returns:
      [B, 4, H, W, 3] uint8. The value 0 has the grey of the box, and 1 the grey of the object.
    """
    step = classification.OBJECT - classification.INSIDE
    inside = classification.INSIDE + step * jnp.clip(levels, 0, 1)
    grey = jnp.round(jnp.where(box[:, None], inside, classification.OUTSIDE))
    # A trace of blue: the report would take a grey between the two for the colour of a class.
    is_between = (levels > 0) & (levels < 1)
    return jnp.stack([grey, grey, grey + is_between], -1).astype(jnp.uint8)
