"""Three stages that hand arrays on, as a pipeline and as a program that tests kill.

`rank` trains a head, ranks the training examples by their loss, and chooses every second example.
`refine` trains on them, and measures their mean colour. `judge` starts from this colour alone, and
is scored on the host.

usage: python toy_chain.py WORKDIR [KEY=VALUE ...]
keys: mode, num_val, port, process_id, num_processes
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import toy_run

from segjax import pipelines
from segjax.core import means, optim, parallel
from segjax.losses import segmentation as losses
from segjax.ops import images
from segjax.protocol import HandOn, Input, Mean, Observation, Product, Stage, TrainState
from segjax.schema import OPTIM, Field
from segjax.train import driver

SCHEMA = {
    'rank': {'num_steps': Field(3, 'Steps of the first stage.')},
    'refine': {'num_steps': Field(4, 'Steps of the second stage.')},
    'optim': OPTIM,
}
NUM_CHOSEN = 8
STAGES = ('rank', 'refine', 'judge')


def make_config(**sections):
    """Returns the config of the chain, with the small data of `toy_run`."""
    pipelines.REGISTRY['chain'] = 'toy_chain'
    return toy_run.make_config('chain', **sections)


def logits(state, batch):
    """Returns the scores of the classes: a linear function of the colour."""
    head = state.params['head']
    return images.normalize(batch['image'], 'unit') @ head['kernel'] + head['bias']


def example_loss(state, batch):
    """Returns the mean cross-entropy of each example, [B]."""
    weights = batch['label'] < 255
    labels = jnp.where(weights, batch['label'], 0)
    log_likelihood = jax.nn.log_softmax(logits(state, batch))
    picked = jnp.take_along_axis(log_likelihood, labels[..., None], -1)[..., 0]
    return -(picked * weights).sum((1, 2)) / jnp.maximum(weights.sum((1, 2)), 1)


def placed(values, batch, num_examples):
    """Returns a Mean with a place for each example of the split."""
    kept = batch['weight'] > 0
    index = jnp.where(kept, batch['index'], num_examples)
    column = kept.reshape(-1, *[1] * (values.ndim - 1)).astype(jnp.float32)
    total = jnp.zeros((num_examples, *values.shape[1:])).at[index].add(values * column, mode='drop')
    count = jnp.zeros((num_examples, *column.shape[1:])).at[index].add(column, mode='drop')
    return Mean(total, count)


def make_stages(config, spec):
    """Returns the three stages."""
    num_classes = spec.classes.num_classes
    train = Input(
        'train', config.train.batch_size, ('image', 'label'), config.augment.crop, config.augment
    )
    evaluation = Input('val', config.evaluate.batch_size, ('image', 'label'), config.data.eval_size)
    on_train = evaluation._replace(split='train')
    num_train = spec.split('train').num_examples
    num_val = spec.split('val').num_examples

    def init(key, batch, earlier, num_steps, bias=None):
        kernel = 0.1 * jax.random.normal(key, (3, num_classes))
        head = {'kernel': kernel, 'bias': jnp.zeros(num_classes) if bias is None else bias}
        params = {'head': head}
        transform = optim.make(config.optim, num_steps, params)
        return TrainState(jnp.int32(0), params, {}, {'all': transform.init(params)}, {})

    def train_step(state, batch, keys, num_steps):
        def loss(params, model_state, batch, keys):
            scores = logits(state.replace(params=params), batch)
            entropy = losses.cross_entropy(scores, batch['label'], batch['weight'])
            return {'main': entropy}, model_state, {}

        fn = parallel.global_value_and_grad(loss, lambda name: 1.0)
        (value, _, _, _), grads = fn(state.params, state.model_state, batch, keys)
        transform = optim.make(config.optim, num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        return state.replace(step=state.step + 1), {'loss': Mean(value, jnp.float32(1))}

    def eval_step(state, batch, keys):
        kept = batch['weight'] > 0
        loss = jnp.where(kept, example_loss(state, batch), 0)
        return {'loss': Mean(loss.sum(), kept.sum().astype(jnp.float32))}

    def finalize(sums):
        return {name: float(np.mean(mean.value())) for name, mean in sums.items()}

    def judge_init(key, batch, earlier):
        colour = earlier['refine/colour']
        bias = jnp.zeros(num_classes).at[:3].set(colour)
        return init(key, batch, earlier, config.train.num_steps, bias)

    def make_stage(name, num_steps, **parts):
        return Stage(
            name=name,
            num_steps=num_steps,
            streams=(),
            train_step=functools.partial(train_step, num_steps=num_steps),
            eval_step=eval_step,
            finalize=finalize,
            monitor=('loss', 'min'),
            eval_input=evaluation,
            **{
                'init': functools.partial(init, num_steps=num_steps),
                'train_input': train,
                **parts,
            },
        )

    rank = HandOn(
        shapes={'spread': jax.ShapeDtypeStruct((NUM_CHOSEN,), 'int32')},
        inputs=on_train,
        eval_step=lambda state, batch, keys: {
            'loss': placed(example_loss(state, batch), batch, num_train)
        },
        finalize=lambda sums: {
            'spread': np.argsort(sums['loss'].value(), kind='stable')[::2].astype(np.int32)
        },
    )
    spread = Product('rank', 'spread')
    refine = HandOn(
        shapes={'colour': jax.ShapeDtypeStruct((3,), 'float32')},
        inputs=on_train._replace(chosen=spread),
        eval_step=lambda state, batch, keys: {
            'colour': placed(
                images.normalize(batch['image'], 'unit').mean((1, 2))
                + 0.001 * state.params['head']['kernel'][:, 0],
                batch,
                NUM_CHOSEN,
            )
        },
        finalize=lambda sums: {'colour': sums['colour'].value().mean(0).astype(np.float32)},
    )
    observation = Observation(
        outputs=lambda state, batch, keys: {
            'loss': example_loss(state, batch),
            'probabilities': jax.nn.softmax(logits(state, batch)),
        },
        observe=functools.partial(observe, num_examples=num_val),
    )
    return (
        make_stage('rank', config.rank.num_steps, hand_on=rank),
        make_stage(
            'refine',
            config.refine.num_steps,
            hand_on=refine,
            train_input=train._replace(chosen=spread, batch_size=8),
        ),
        make_stage('judge', config.train.num_steps, init=judge_init, observation=observation),
    )


def observe(batch, outputs, num_examples):
    """Returns the loss of each example, its brightest probability, and sums over the rows."""
    brightest = outputs['probabilities'].max((1, 2, 3), initial=0.0)
    both = np.stack([outputs['loss'], brightest], -1)
    return {
        'by_example': means.rows(both, batch['index'], num_examples),
        'seen': Mean(float(len(batch['index'])), float(len(batch['index']))),
        'pixels': Mean((batch['label'] < 255).sum(), batch['label'].size),
    }


def main(workdir, *pairs):
    """Trains the chain in a folder."""
    options = dict(mode='pmap', num_val='10', port='', process_id='0', num_processes='1')
    options.update(pair.split('=') for pair in pairs)
    coordinator = f'127.0.0.1:{options["port"]}' if options['port'] else ''
    parallel.initialize(
        False, coordinator, int(options['num_processes']), int(options['process_id'])
    )
    config = make_config(
        parallel=dict(mode=options['mode'], check_replicas=True),
        data=dict(world=dict(num_val=int(options['num_val']))),
    )
    driver.train(config, workdir)


if __name__ == '__main__':
    main(*sys.argv[1:])
