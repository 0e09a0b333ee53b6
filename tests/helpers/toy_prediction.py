"""The toy pipeline, whose last stage also fills a box of its class map with a class."""

import jax
import jax.numpy as jnp
import toy_pipeline

from segjax.protocol import Prediction
from segjax.spec import Feature

SCHEMA = toy_pipeline.SCHEMA


def make_stages(config, spec):
    """Returns the stages of the toy pipeline with a prediction in the last stage."""
    *before, last = toy_pipeline.make_stages(config, spec)
    size = tuple(config.data.eval_size)

    def apply(state, batch, keys):
        label = jnp.argmax(last.predict(state, batch['image']), -1)
        x0, y0, x1, y1 = (batch['box'][:, 0, i, None, None] for i in range(4))
        rows = jnp.arange(size[0])[None, :, None]
        columns = jnp.arange(size[1])[None, None, :]
        inside = (rows > y0) & (rows < y1) & (columns > x0) & (columns < x1)
        noise = jax.vmap(jax.random.normal)(keys['noise'])
        filled = jnp.where(inside, jnp.int32(batch['class'])[:, None, None], label)
        return {'filled': filled, 'noise': noise}

    prediction = Prediction(
        inputs={
            'image': Feature('image'),
            'box': Feature('boxes', (1, 4)),
            'class': Feature('number', dtype='int32'),
        },
        outputs={'filled': 'classes', 'noise': 'table'},
        apply=apply,
        size=size,
        streams=('noise',),
    )
    return (*before, last._replace(prediction=prediction))
