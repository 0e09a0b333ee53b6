"""The toy pipeline, whose last stage also completes label maps: a box is filled with a class."""

import jax.numpy as jnp
import toy_pipeline

from segjax.data import objects
from segjax.ops import squares
from segjax.protocol import Prediction
from segjax.spec import Feature

SCHEMA = toy_pipeline.SCHEMA
PIXELS = 16
MARGIN = 2.0


def make_stages(config, spec):
    """Returns the stages of the toy pipeline with edits in the last stage."""
    *before, last = toy_pipeline.make_stages(config, spec)
    size = max(spec.max_size.values())
    return (*before, last._replace(prediction=make_prediction(size, spec.classes.palette)))


def make_prediction(size, palette):
    """Returns edits of maps of about this (height, width), painted in these colours."""
    colors = jnp.array([*palette, *[(0, 0, 0)] * (256 - len(palette))], jnp.uint8)

    def apply(state, batch, keys):
        # The net sees the context of the box, and predicts the class everywhere.
        boxes = batch['box'][:, 0]
        around = squares.squares_of(boxes, MARGIN, batch['size'])
        context = squares.cut(batch['label'], around, PIXELS, sizes=batch['size'])
        filled = jnp.zeros_like(context) + batch['class_id'][:, None, None]
        inside = squares.box_masks(boxes, batch['label'].shape[1:])
        inpainted = squares.paste(filled, around, batch['label'], inside)
        # The object has the pixels that had another class.
        return {
            'inpainted': inpainted,
            'object': batch['label'] != inpainted,
            'picture': colors[inpainted],
        }

    def check(example):
        box = example['box'][0]
        objects.check_edit_box(box, example['size'], 'box', pixels=PIXELS, margin=MARGIN)

    return Prediction(
        inputs={
            'label': Feature('label'),
            'box': Feature('boxes', (1, 4)),
            'class_id': Feature('number', dtype='int32'),
        },
        outputs={'inpainted': 'classes', 'object': 'mask', 'picture': 'image'},
        apply=apply,
        size=tuple(size),
        resize=False,
        check=check,
    )
