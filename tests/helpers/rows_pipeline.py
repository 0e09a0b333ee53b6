"""The toy pipeline on the objects of the images: each row of a table of objects is an example.

The first stage also trains on a second input of whole images, and measures the area of each object
for the second stage. An evaluation places a score for each object.
"""

import functools

import jax
import jax.numpy as jnp
import toy_pipeline

from segjax.core import means
from segjax.data import objects
from segjax.metrics import confusion
from segjax.protocol import HandOn, Input, Mean, Observation
from segjax.schema import Field

SCHEMA = toy_pipeline.SCHEMA | {
    'min_side': Field(4, 'Smallest longer side of an object, in pixels.'),
    'table': Field('targets', 'Feature whose rows are examples.'),
}
NUM_OBJECTS = 3
SIZE = 24


def crop_of(config, spec):
    names = ('car', 'person', 'rider', 'bicycle', 'bus')
    return objects.object_crop(
        names, spec.classes, size=SIZE, min_side=config.min_side, max_side=9999
    )


def make_features(config, spec):
    return (objects.targets_feature(crop_of(config, spec), NUM_OBJECTS),)


def with_objects(config, spec, inputs):
    """Returns an input whose examples are the objects of its images."""
    return inputs._replace(
        features=('image', 'label', *objects.MADE),
        size=(SIZE, SIZE),
        augment=None,
        each=config.table,
        transform=functools.partial(objects.crop_target, crop=crop_of(config, spec)),
        reads=('image', 'label', 'instance', 'targets', 'row'),
        made=tuple(objects.MADE.items()),
        resize=False,
    )


def make_stages(config, spec):
    stages = toy_pipeline.make_stages(config, spec)
    return tuple(stage_on_objects(config, spec, stage) for stage in stages)


def stage_on_objects(config, spec, stage):
    places = NUM_OBJECTS * spec.split(config.data.eval_split).num_examples
    photos = Input('train', 8, ('image',), (SIZE, SIZE), batch_key='evaluate.batch_size')
    first = stage.name == 'pretrain'

    def train_step(state, batch, keys):
        state, metrics = stage.train_step(state, batch, keys)
        index = batch['index'].astype(jnp.float32)
        shares = {'index': Mean((index**2).sum(), jnp.float32(index.size))}
        if first:
            photo = batch['photo/image'].astype(jnp.float32)
            shares['photo'] = Mean(photo.sum(), jnp.float32(photo.size))
        return state, {**metrics, **shares}

    def placed(values, batch):
        return confusion.per_example(values, batch['index'], batch['weight'], places)

    def area(batch):
        return batch['mask_object'].sum((1, 2)).astype(jnp.float32)

    def eval_step(state, batch, keys):
        metrics = stage.eval_step(state, batch, keys)
        score = batch['mask_object'].mean((1, 2)) + batch['class_id'] / 255
        # A scatter drops the index of padding, whatever its value.
        number = jnp.zeros(places).at[batch['index']].add(1.0)
        counts = Mean(number, jnp.float32(1))
        return {**metrics, 'image_score': placed(score, batch), 'numbers': counts}

    def observe(batch, outputs):
        return {'areas': means.rows(outputs['area'], batch['index'], places)}

    def finalize(metrics):
        scores = stage.finalize({'confusion': metrics['confusion']})
        areas = metrics['areas']
        return {
            **scores,
            'examples': int(metrics['numbers'].sum.sum()),
            'most': int(metrics['numbers'].sum.max()),
            'areas': (areas.sum * (areas.count > 0)).ravel().tolist(),
        }

    trained = with_objects(config, spec, stage.train_input)
    evaluated = with_objects(config, spec, stage.eval_input)
    measured = HandOn(
        shapes={'areas': jax.ShapeDtypeStruct((places,), 'float32')},
        inputs=evaluated,
        eval_step=lambda state, batch, keys: {'areas': placed(area(batch), batch)},
        finalize=lambda metrics: {'areas': metrics['areas'].sum.astype('float32')},
    )
    return stage._replace(
        train_input=trained._replace(unpaired=(('photo', photos),) if first else ()),
        eval_input=evaluated._replace(split=config.data.eval_split),
        train_step=train_step,
        eval_step=eval_step,
        finalize=finalize,
        observation=Observation(lambda state, batch, keys: {'area': area(batch)}, observe),
        hand_on=measured if first else None,
        render=lambda state, batch, keys: {'object': batch['mask_object'] > 0},
    )
