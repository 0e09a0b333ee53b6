"""Boxes around objects as examples: squares of label maps, with masks of box and object.

Training draws an object of an image anew in each epoch. Evaluation cuts a square around each object
of the split once (data/objects.py). A batch has

  label        [B, S, S] train ids of the square
  mask_box     1 inside the box M of the object
  mask_out     1 inside the box scaled by a random factor
  mask_object  1 at the pixels of the object
  class_id     [B], class of the object. A box without an object has the id k, which no class has

and, if asked for, the photo 'image' and the map 'instance' of the square.
"""

import functools
from typing import Any

import ml_collections

from segjax.data import objects
from segjax.errors import InputError, unknown_name
from segjax.protocol import Derived, Input
from segjax.schema import Field, at_least, between, different_strings, interval
from segjax.spec import DataSpec
from segjax.tasks import segmentation

TARGETS = 'targets'
"""Name of the derived feature that lists the objects of an image."""
FEATURES = ('label', 'mask_box', 'mask_out', 'mask_object', 'class_id')
"""Features of a batch."""

BOXES = {
    'classes': Field(
        (),
        'Names of the classes whose objects have boxes. (): all classes.',
        different_strings,
    ),
    'max_objects': Field(
        32, 'Objects of an image that are scored, the largest first.', at_least(1)
    ),
    'size': Field(256, 'Height and width of the squares, which nets see.', at_least(16)),
    'margin': Field(2.0, 'Side of the square that is cut / longer side of the box.', at_least(1)),
    'min_side': Field(
        128.0, 'Smallest longer side of the box of an object, in pixels.', at_least(1)
    ),
    'max_side': Field(256.0, 'Largest side of a box without an object, in pixels.', at_least(1)),
    'min_share': Field(0.0, 'Smallest pixels of an object / pixels of the map.', between(0, 1)),
    'background': Field(
        0.3, 'Share of training boxes without an object, of class background.', between(0, 1)
    ),
    'outside': Field((1.2, 1.5), 'Smallest and largest factor of the enlarged box.', interval),
    'enlarge': Field(0.0, 'Share of a side by which boxes grow at each edge.', at_least(0)),
    'flip': Field(0.5, 'Probability of a horizontal flip in training.', between(0, 1)),
}
"""Keys of the section `boxes`."""


def features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the table of the objects of each image, for `make_features` of a pipeline."""
    crop = object_crop(config, spec, training=False)
    return (objects.targets_feature(crop, config.boxes.max_objects, name=TARGETS),)


def object_crop(
    config: ml_collections.ConfigDict, spec: DataSpec, training: bool, **options: Any
) -> objects.ObjectCrop:
    """Returns how objects are drawn and cut. Evaluation has no flips and no background boxes.

    Args:
      config: of the run.
      spec: of the data set.
      training: whether the crop is that of training.
      **options: fields of `ObjectCrop` that differ.

    Raises:
      InputError: a class that the data set does not have, or a value out of range.
    """
    _check_section(config.boxes, spec)
    boxes = config.boxes.to_dict()
    del boxes['max_objects']
    names = boxes.pop('classes') or spec.classes.names
    if not training:
        boxes |= {'flip': 0.0, 'background': 0.0}
    background = segmentation.num_outputs(config, spec)
    boxes |= options
    return objects.object_crop(names, spec.classes, background_class=background, **boxes)


def _check_section(section: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError for values of the section `boxes` that do not fit together."""
    for name in section.classes:
        if name not in spec.classes.names:
            raise unknown_name('config.boxes.classes', name, spec.classes.names)
    if section.max_side < section.min_side:
        raise InputError(
            'config.boxes.max_side',
            got=str(section.max_side),
            expected=f'at least boxes.min_side, {section.min_side}',
            fix=f'--config.boxes.max_side={section.min_side}',
        )
    if section.outside[0] < 1:
        larger = tuple(max(factor, 1.0) for factor in section.outside)
        raise InputError(
            'config.boxes.outside',
            got=str(tuple(section.outside)),
            expected='factors of at least 1, because the enlarged box contains the box',
            fix=f'--config.boxes.outside="{larger}"',
        )


def num_boxes(config: ml_collections.ConfigDict, spec: DataSpec) -> int:
    """Returns the places of boxes in the evaluation split: the rows of the tables of its images."""
    return config.boxes.max_objects * spec.split(config.data.eval_split).num_examples


def train_input(config: ml_collections.ConfigDict, spec: DataSpec, names: tuple[str, ...]) -> Input:
    """Returns the labelled training images, with an object that is drawn anew in each epoch."""
    crop = object_crop(config, spec, training=True, keep_instance='instance' in names)
    return _input(
        crop,
        names,
        split=config.data.train_split,
        batch_size=config.train.batch_size,
        part=(0.0, config.data.labelled_fraction),
        examples='labelled',
        transform=functools.partial(objects.crop_object, crop=crop),
        reads=('label', 'instance'),
    )


def eval_input(config: ml_collections.ConfigDict, spec: DataSpec, names: tuple[str, ...]) -> Input:
    """Returns all objects of the evaluation images."""
    crop = object_crop(config, spec, training=False, keep_instance='instance' in names)
    return _input(
        crop,
        names,
        split=config.data.eval_split,
        batch_size=config.evaluate.batch_size,
        each=TARGETS,
        transform=functools.partial(objects.crop_target, crop=crop, targets=TARGETS),
        reads=('label', 'instance', TARGETS, 'row'),
    )


def _input(
    crop: objects.ObjectCrop, names: tuple[str, ...], reads: tuple[str, ...], **options: Any
) -> Input:
    """Returns an input whose transform cuts maps to one size and adds masks."""
    image = ('image',) if 'image' in names else ()
    return Input(
        features=names,
        size=(crop.size, crop.size),
        reads=(*image, *reads),
        made=tuple((name, objects.MADE[name]) for name in names if name in objects.MADE),
        resize=False,
        **options,
    )
