"""The toy pipeline with derived features.

The first stage trains on the feature 'color', and both stages are scored on it. No stage reads the
feature 'unread'.
"""

import jax.numpy as jnp
import toy_features
import toy_pipeline

from segjax.protocol import Mean
from segjax.schema import Field

SCHEMA = toy_pipeline.SCHEMA | {
    'version': Field(1, 'Version of the feature.'),
    'journal': Field('', 'File with a line for each call.'),
    'seconds': Field(0.0, 'Duration of each call.'),
}


def make_features(config, spec):
    assert 'color' not in spec.features
    color = toy_features.color(config.journal, config.seconds, version=config.version)
    return color, color._replace(name='unread')


def make_stages(config, spec):
    assert {'color', 'unread'} <= set(spec.features) and set(spec.declared) >= {'color', 'unread'}
    stages = toy_pipeline.make_stages(config, spec)
    return tuple(with_color(stage, config.data.eval_split) for stage in stages)


def with_color(stage, eval_split):
    def add(inputs):
        return inputs._replace(features=(*inputs.features, 'color'))

    def total(batch):
        weight = batch['weight']
        return Mean(jnp.sum(batch['color'] * weight[:, None], 0), jnp.sum(weight))

    def train_step(state, batch, keys):
        state, metrics = stage.train_step(state, batch, keys)
        mean = total(batch)
        return state, metrics | {'red': Mean(mean.sum[0], mean.count)}

    def eval_step(state, batch, keys):
        return {**stage.eval_step(state, batch, keys), 'color': total(batch)}

    def finalize(metrics):
        scores = stage.finalize({'confusion': metrics['confusion']})
        return {**scores, 'color': metrics['color'].value().tolist()}

    return stage._replace(
        train_input=add(stage.train_input) if stage.name == 'pretrain' else stage.train_input,
        eval_input=add(stage.eval_input)._replace(split=eval_split),
        train_step=train_step if stage.name == 'pretrain' else stage.train_step,
        eval_step=eval_step,
        finalize=finalize,
    )
