"""A pipeline that uses the whole contract.

Stage `locate` trains on the landmarks of a second data set with another class list. It hands on the
examples of the main data set that stage `segment` trains on, and the weights of its classes. Stage
`segment` reads drawn neighbours and a prepared feature, is scored by a curve, and predicts two
kinds of outputs from three kinds of inputs.
"""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from segjax import schema
from segjax.core import means, optim, parallel
from segjax.losses import segmentation as losses
from segjax.metrics import confusion, curves
from segjax.ops import images
from segjax.protocol import (
    Derived,
    DrawnFrames,
    HandOn,
    Input,
    Mean,
    Observation,
    Picture,
    Prediction,
    Product,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field
from segjax.spec import IGNORE, Feature

SCHEMA = {
    'figures': schema.data_set('Data set with landmarks.', name='figures'),
    'locate': {'num_steps': Field(4, 'Steps of the first stage.')},
    'optim': OPTIM,
    'blur': Field(1.5, 'Standard deviation of the blur before edges, in pixels.'),
}

NUM_CHOSEN = 6
EDGES = Feature('planes', (1,))


# --- prepared features ----------------------------------------------------------------------------


def edges(example, blur):
    """Returns the strength of edges of an image, [H, W, 1] uint8."""
    gray = cv2.GaussianBlur(cv2.cvtColor(example['image'], cv2.COLOR_RGB2GRAY), (0, 0), blur)
    gradients = [cv2.Sobel(gray, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))]
    return np.clip(np.hypot(*gradients), 0, 255).astype(np.uint8)[..., None]


def make_features(config, spec, figures):
    compute = functools.partial(edges, blur=config.blur)
    return (Derived('edges', EDGES, ('image',), compute, settings={'blur': config.blur}),)


# --- nets -----------------------------------------------------------------------------------------


class Locator(nn.Module):
    """Predicts landmarks, in shares of the image, from an image."""

    num_points: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), strides=(2, 2))(x))
        x = nn.relu(nn.Conv(6, (3, 3), strides=(2, 2))(x))
        x = nn.Dense(2 * self.num_points)(x.reshape(x.shape[0], -1))
        return x.reshape(-1, self.num_points, 2)


class Segmenter(nn.Module):
    """Predicts classes from an image, its edges, and the mean of its neighbours."""

    num_classes: int

    @nn.compact
    def __call__(self, image, edges, frames):
        x = jnp.concatenate([image, edges, frames.mean(1)], -1)
        return nn.Conv(self.num_classes, (1, 1))(nn.relu(nn.Conv(8, (3, 3))(x)))


def unit(image):
    return images.normalize(image, 'unit')


# --- stages ---------------------------------------------------------------------------------------


def make_stages(config, spec, figures):
    return locate_stage(config, spec, figures), segment_stage(config, spec)


def locate_stage(config, spec, figures):
    net = Locator(figures.declared['landmarks'].shape[0])
    scale = jnp.array(config.data.eval_size[::-1], jnp.float32)
    num_examples = spec.split('train').num_examples

    def locate(params, image):
        return net.apply({'params': params['locator']}, unit(image))

    def loss_fn(params, model_state, batch, keys):
        """The mean squared error of the landmarks that exist."""
        landmarks = batch['landmarks']
        exists = jnp.isfinite(landmarks)
        target = jnp.where(exists, landmarks, 0) / scale
        error = jnp.where(exists, locate(params, batch['image']) - target, 0) ** 2
        weight = batch['weight'][:, None, None]
        return {'points': Mean((weight * error).sum(), (weight * exists).sum())}, model_state, {}

    def init(key, batch, earlier):
        params = {'locator': net.init(key, unit(batch['image']))['params']}
        transform = optim.make(config.optim, config.locate.num_steps, params)
        return TrainState(jnp.int32(0), params, {}, {'all': transform.init(params)}, {})

    def train_step(state, batch, keys):
        gradient = parallel.global_value_and_grad(loss_fn, lambda name: 1.0)
        (loss, *_), grads = gradient(state.params, state.model_state, batch, keys)
        transform = optim.make(config.optim, config.locate.num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        return state.replace(step=state.step + 1), {'loss': Mean(loss, jnp.float32(1))}

    def eval_step(state, batch, keys):
        terms, *_ = loss_fn(state.params, state.model_state, batch, keys)
        return {'error': terms['points']}

    def confidence(state, batch, keys):
        """The spread of the predicted landmarks of each example of the main data set."""
        spread = locate(state.params, batch['image']).std((1, 2))
        return {
            'spread': confusion.per_example(spread, batch['index'], batch['weight'], num_examples)
        }

    def choose(metrics):
        spread = metrics['spread'].value()
        chosen = np.argsort(-spread, kind='stable')[:NUM_CHOSEN]
        return {
            'chosen': np.sort(chosen).astype(np.int32),
            'mean': np.float32(spread.mean()),
        }

    def render(state, batch, keys):
        return {'image twice': Picture(jnp.stack([batch['image'], batch['image']], 1))}

    return Stage(
        name='locate',
        num_steps=config.locate.num_steps,
        train_input=Input(
            'train',
            config.train.batch_size,
            ('image', 'landmarks', 'boxes'),
            config.augment.crop,
            config.augment,
            data='figures',
        ),
        eval_input=Input(
            'val',
            config.evaluate.batch_size,
            ('image', 'landmarks'),
            config.data.eval_size,
            data='figures',
        ),
        streams=(),
        init=init,
        train_step=train_step,
        eval_step=eval_step,
        finalize=lambda metrics: {'error': float(metrics['error'].value())},
        monitor=('error', 'min'),
        render=render,
        hand_on=HandOn(
            shapes={
                'chosen': jax.ShapeDtypeStruct((NUM_CHOSEN,), 'int32'),
                'mean': jax.ShapeDtypeStruct((), 'float32'),
            },
            inputs=Input('train', config.evaluate.batch_size, ('image',), config.data.eval_size),
            eval_step=confidence,
            finalize=choose,
        ),
    )


def segment_stage(config, spec):
    num_classes = spec.classes.num_classes
    num_examples = spec.split('val').num_examples
    net = Segmenter(num_classes)
    frames = DrawnFrames(3, (-2, -1, 0, 1, 2))

    def logits(state_params, batch):
        return net.apply(
            {'params': state_params['segmenter']},
            unit(batch['image']),
            batch['edges'] / 255.0,
            unit(batch['image_frames']),
        )

    def loss_fn(params, model_state, batch, keys):
        term = losses.cross_entropy(logits(params, batch), batch['label'], batch['weight'])
        return {'main': term}, model_state, {}

    def init(key, batch, earlier):
        images_of_batch = unit(batch['image']), batch['edges'] / 255.0, unit(batch['image_frames'])
        params = {'segmenter': net.init(key, *images_of_batch)['params']}
        transform = optim.make(config.optim, config.train.num_steps, params)
        extra = {'mean': jnp.asarray(earlier['locate/mean'])}
        return TrainState(jnp.int32(0), params, {}, {'all': transform.init(params)}, extra)

    def train_step(state, batch, keys):
        gradient = parallel.global_value_and_grad(loss_fn, lambda name: 1.0)
        (loss, *_), grads = gradient(state.params, state.model_state, batch, keys)
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        metrics = {'loss': Mean(loss, jnp.float32(1)), 'chosen': index_sum(batch)}
        return state.replace(step=state.step + 1), metrics

    def index_sum(batch):
        index = batch['index'].astype(jnp.float32)
        return Mean(index.sum(), jnp.float32(index.size))

    def eval_step(state, batch, keys):
        prediction = jnp.argmax(logits(state.params, batch), -1)
        matrix = confusion.confusion(prediction, batch['label'], num_classes, batch['weight'])
        return {'confusion': matrix}

    def outputs(state, batch, keys):
        """The share of road that is predicted, and that is true, of each image."""
        road = jax.nn.softmax(logits(state.params, batch))[..., 0]
        known = batch['label'] != IGNORE
        truth = ((batch['label'] == 0) & known).mean((1, 2))
        return {'road': road.mean((1, 2)), 'truth': truth}

    def observe(batch, outputs):
        return {
            name: means.rows(outputs[name], batch['index'], num_examples)
            for name in ('road', 'truth')
        }

    def finalize(metrics):
        scores = confusion.scores(metrics['confusion'].sum, spec.classes.names, 'cityscapes')
        # Frames with too few neighbours have no place.
        placed = metrics['road'].count > 0
        road, truth = (np.sort(metrics[name].sum[placed]) for name in ('road', 'truth'))
        ranks = np.arange(1, len(road) + 1)
        scores['road by rank'] = curves.curve(
            {'predicted': (ranks, road), 'true': (ranks, truth)}, 'rank', 'share', x_scale='log'
        )
        return scores

    def apply(state, batch, keys):
        """Segments an image inside a box, with itself as its neighbours."""
        image = batch['image']
        stage_batch = {
            'image': image,
            'edges': jnp.zeros((*image.shape[:3], 1)),
            'image_frames': image[:, None],
        }
        classes = jnp.argmax(logits(state.params, stage_batch), -1)
        x0, y0, x1, y1 = jnp.split(batch['box'].reshape(-1, 4), 4, -1)
        rows = jnp.arange(image.shape[1])[None, :, None]
        columns = jnp.arange(image.shape[2])[None, None, :]
        inside = (rows > y0[:, :, None]) & (rows < y1[:, :, None])
        inside &= (columns > x0[:, :, None]) & (columns < x1[:, :, None])
        wanted = batch['class'][:, None, None]
        return {
            'classes': jnp.where(inside, wanted, classes),
            'pixels': inside.sum((1, 2)),
        }

    features = ('image', 'label', 'edges', 'image_frames')
    return Stage(
        name='segment',
        num_steps=config.train.num_steps,
        train_input=Input(
            'train',
            config.train.batch_size,
            features,
            config.augment.crop,
            config.augment,
            frames=frames,
            chosen=Product('locate', 'chosen'),
        ),
        eval_input=Input(
            'val', config.evaluate.batch_size, features, config.data.eval_size, frames=frames
        ),
        streams=(),
        init=init,
        train_step=train_step,
        eval_step=eval_step,
        finalize=finalize,
        monitor=('mIoU', 'max'),
        observation=Observation(outputs, observe),
        prediction=Prediction(
            inputs={
                'image': Feature('image'),
                'box': Feature('boxes', (1, 4)),
                'class': Feature('number', dtype='int32'),
            },
            outputs={'classes': 'classes', 'pixels': 'table'},
            apply=apply,
            size=config.data.eval_size,
        ),
    )
