"""A pipeline with two data sets of different classes, as a config and as a program.

The segmenter is trained on `data`, and then a shadow on `shadow_data`. Each batch of the shadow has
unpaired images of `data`.

usage: python two_data_sets.py WORKDIR NUM_STEPS
"""

import sys

import jax
import jax.numpy as jnp
from flax import linen as nn

from segjax import config as config_lib
from segjax import pipelines, schema
from segjax.core import optim, parallel, rng
from segjax.losses import segmentation as losses
from segjax.metrics import confusion
from segjax.ops import images
from segjax.protocol import Input, Mean, Stage, TrainState
from segjax.train import driver

SCHEMA = {
    'shadow': {'split': schema.Field('train', 'Split of `shadow_data` to train on.')},
    'shadow_data': schema.data_set(
        'Data set of the shadow.', name='streets', world=dict(num_train=6, num_val=5)
    ),
    'optim': schema.OPTIM,
}


def make_stages(config, spec, shadow_data):
    photo = Input('train', 8, ('image',), tuple(config.augment.crop), config.augment, data='data')
    victim = _stage(config, 'victim', spec, 'data', 'train', ())
    split = config.shadow.split
    shadow = _stage(config, 'shadow', shadow_data, 'shadow_data', split, (('photo', photo),))
    return victim, shadow


def _stage(config, name, spec, section, split, unpaired):
    """Returns the training of a net of one convolution on a data set."""
    num_classes = spec.classes.num_classes
    net = nn.Conv(num_classes, (3, 3))

    def logits(params, image):
        return net.apply({'params': params['net']}, images.normalize(image, 'unit'))

    def init(key, batch, earlier):
        x = images.normalize(batch['image'], 'unit')
        params = {'net': net.init(rng.named(key, name), x)['params']}
        opt_state = {'all': optim.make(config.optim, config.train.num_steps, params).init(params)}
        return TrainState(jnp.int32(0), params, {}, opt_state, {})

    def loss(params, model_state, batch, keys):
        image = batch['image']
        terms = {
            'main': losses.cross_entropy(logits(params, image), batch['label'], batch['weight'])
        }
        if unpaired:
            mean = logits(params, batch['photo/image']).mean()
            terms['photo'] = Mean(mean**2, jnp.float32(1))
        return terms, model_state, {}

    def train_step(state, batch, keys):
        fn = parallel.global_value_and_grad(loss, lambda term: 1.0, 1)
        (total, _, _, _), grads = fn(state.params, {}, batch, keys)
        transform = optim.make(config.optim, config.train.num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        return state.replace(step=state.step + 1), {'loss': Mean(total, jnp.float32(1))}

    def eval_step(state, batch, keys):
        prediction = jnp.argmax(logits(state.params, batch['image']), -1)
        weight = batch['weight']
        return {'confusion': confusion.confusion(prediction, batch['label'], num_classes, weight)}

    def finalize(metrics):
        return confusion.scores(metrics['confusion'].sum, spec.classes.names, 'cityscapes')

    features = ('image', 'label')
    crop = tuple(config.augment.crop)
    return Stage(
        name=name,
        num_steps=config.train.num_steps,
        streams=(),
        init=init,
        train_step=train_step,
        eval_step=eval_step,
        finalize=finalize,
        monitor=('mIoU', 'max'),
        train_input=Input(
            split, 8, features, crop, config.augment, unpaired=unpaired, data=section
        ),
        eval_input=Input('val', 8, features, spec.split('val').max_size, data=section),
        predict=lambda state, image: jax.nn.softmax(logits(state.params, image)),
    )


def make_config(**sections):
    pipelines.REGISTRY['two_data_sets'] = 'two_data_sets'
    config = config_lib.defaults('two_data_sets')
    world = dict(num_train=8, num_val=4, size=(32, 64))
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(eval_size=(32, 64), threads=1, world=world),
        shadow_data=dict(class_map='categories', world=dict(size=(24, 48), seed=1)),
        train=dict(num_steps=4),
        evaluate=dict(batch_size=8),
        logging=dict(log_every=2, eval_every=2, checkpoint_every=1, num_pictures=1),
    )
    config_lib.update(config, **sections)
    return config


def main(workdir, num_steps):
    parallel.initialize(False, '', 1, 0)
    driver.train(make_config(train=dict(num_steps=int(num_steps))), workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
