"""The data set `portraits`, which has landmarks and no labels, and a pipeline that trains on it.

The pipeline paints a portrait from its landmarks: a linear map gives the mean colour. With
`neighbours.num_clusters` it also learns the colours of neighbours that are drawn.

usage: python portraits.py WORKDIR CACHE [port=N process_id=N num_processes=N workers=N]
"""

import sys

import jax.numpy as jnp
import numpy as np
import toy_run
from flax import linen as nn

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import optim, parallel
from segjax.data import image_files, neighbours
from segjax.data.builders import REGISTRY, base
from segjax.data.builders.base import Dataset, Inspection, Item
from segjax.protocol import Input, Mean, Stage, TableFrames, TrainState
from segjax.schema import OPTIM, Field
from segjax.spec import NO_CLASSES, Feature
from segjax.train import driver

SIZE = (24, 16)
COUNTS = {'train': 12, 'val': 5}
SCHEMA = {
    'optim': OPTIM,
    'neighbours': {
        'num_clusters': Field(0, 'Neighbours of an example.'),
        'percentile': Field(40.0, 'Percentile of the distances of neighbours.'),
    },
}


class Portraits(Dataset):
    """Portraits of two sizes, the larger 28x20, with left eye, right eye and mouth."""

    def __init__(self, config):
        self.declared = {'points_face': Feature('points', (3, 2), pairs=((0, 1),))}
        self.name = config.name
        self.where = f'data set {self.name!r}'
        self.classes = NO_CLASSES

    def options(self):
        return ['portraits', 1]

    def splits(self):
        return tuple(COUNTS)

    def scan(self, split):
        return [Item(split, f'{split}_{number:02}') for number in range(COUNTS[split])], []

    def features(self, items):
        return ('image', 'points_face', 'name')

    def examine(self, item):
        image, points = draw(item.split, int(item.name[-2:]))
        features = {'image': image_files.encode_png(image), 'points_face': points}
        features['name'] = item.name
        return Inspection(base.without_label(features, image.shape[:2]), [])


def draw(split, number):
    """Returns image and landmarks of a portrait."""
    rng = np.random.default_rng([number, split == 'val'])
    size = (28, 20) if number % 3 == 1 else SIZE
    image = np.full((*size, 3), rng.integers(40, 200, 3), np.uint8)
    image += rng.integers(0, 40, image.shape, dtype=np.uint8)
    points = np.array([[5, 8], [10, 8], [7.5, 16]]) + rng.uniform(-2, 2, (3, 2))
    return image, points.astype(np.float32)


def painted(params, batch):
    """Returns the mean colours of the portraits in a batch, [B, 3]."""
    points = jnp.nan_to_num(batch['points_face']).reshape(len(batch['image']), -1)
    return nn.Dense(3).apply({'params': params['painter']}, points / SIZE[1])


def make_features(config, spec):
    if not config.neighbours.num_clusters:
        return ()
    choice = neighbours.Neighbourhood(**config.neighbours, num_positions=3)
    return (neighbours.neighbours_feature(choice),)


def with_neighbours(config, inputs):
    """Returns an input with drawn neighbours."""
    if not config.neighbours.num_clusters:
        return inputs
    frames = TableFrames(config.neighbours.num_clusters, 'number_neighbours', drawn=True)
    features = (*inputs.features, 'image_frames', 'present_frames')
    return inputs._replace(features=features, frames=frames)


def make_stages(config, spec):
    def loss_fn(params, model_state, batch, keys):
        truth = batch['image'].astype(jnp.float32).mean((1, 2)) / 255
        error = jnp.square(painted(params, batch) - truth).mean(-1)
        terms = {'main': Mean((batch['weight'] * error).sum(), batch['weight'].sum())}
        if 'image_frames' in batch:
            near = batch['image_frames'].astype(jnp.float32).mean((2, 3)) / 255
            error = jnp.square(painted(params, batch)[:, None] - near).mean(-1)
            present = batch['weight'][:, None] * batch['present_frames']
            terms['near'] = Mean((present * error).sum(), present.sum())
        return terms, {}, {}

    def init(key, batch, earlier):
        points = jnp.zeros((1, 2 * batch['points_face'].shape[1]))
        params = {'painter': nn.Dense(3).init(key, points)['params']}
        transform = optim.make(config.optim, config.train.num_steps, params)
        return TrainState(jnp.int32(0), params, {}, {'all': transform.init(params)}, {})

    def train_step(state, batch, keys):
        gradient = parallel.global_value_and_grad(loss_fn, lambda name: 1.0)
        (loss, *_), grads = gradient(state.params, state.model_state, batch, keys)
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        return state.replace(step=state.step + 1), {'loss': Mean(loss, jnp.float32(1))}

    def eval_step(state, batch, keys):
        terms, *_ = loss_fn(state.params, {}, batch, keys)
        return {'error': terms['main']} | {key: terms[key] for key in terms if key == 'near'}

    def render(state, batch, keys):
        colours = jnp.clip(255 * painted(state.params, batch), 0, 255).astype(jnp.uint8)
        return {'painted': jnp.broadcast_to(colours[:, None, None], batch['image'].shape)}

    return (
        Stage(
            name='painting',
            num_steps=config.train.num_steps,
            train_input=with_neighbours(
                config,
                Input(
                    config.data.train_split,
                    config.train.batch_size,
                    ('image', 'points_face'),
                    config.augment.crop,
                    config.augment,
                ),
            ),
            eval_input=with_neighbours(
                config,
                Input(
                    config.data.eval_split,
                    config.evaluate.batch_size,
                    ('image', 'points_face'),
                    config.data.eval_size,
                ),
            ),
            streams=(),
            init=init,
            train_step=train_step,
            eval_step=eval_step,
            finalize=lambda metrics: {key: float(mean.value()) for key, mean in metrics.items()},
            monitor=('error', 'min'),
            render=render,
        ),
    )


def register():
    """Adds data set and pipeline to the registries of this process."""
    REGISTRY['portraits'] = Portraits
    pipelines.REGISTRY['portraits'] = 'portraits'


def make_config(cache, pipeline='portraits', **sections):
    register()
    config = config_lib.defaults(pipeline)
    plain = toy_run.make_config()
    for section in ('augment', 'data', 'train', 'evaluate', 'logging'):
        config[section] = plain[section]
    config_lib.update(
        config,
        data=dict(name='portraits', cache=str(cache), eval_size=SIZE),
        augment=dict(crop=SIZE),
    )
    config_lib.update(config, **sections)
    return config


def main(workdir, cache, *pairs):
    """Trains with neighbours in a folder."""
    options = dict(port='', process_id='0', num_processes='1', workers='0')
    options.update(pair.split('=') for pair in pairs)
    coordinator = f'127.0.0.1:{options["port"]}' if options['port'] else ''
    parallel.initialize(
        False, coordinator, int(options['num_processes']), int(options['process_id'])
    )
    data = dict(workers=int(options['workers']))
    driver.train(make_config(cache, data=data, neighbours=dict(num_clusters=3)), workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
