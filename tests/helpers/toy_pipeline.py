"""The smallest pipeline that uses every part of the contract.

The parts are two stages, two optimisers that own different nets, a frozen net without an optimiser,
an array in `extra`, a random stream, and the result of the first stage in the second.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from segjax.core import optim, parallel
from segjax.losses import segmentation as losses
from segjax.metrics import confusion
from segjax.ops import images
from segjax.protocol import Input, Mean, Stage, TrainState
from segjax.schema import OPTIM, Field

SCHEMA = {
    'pretrain': {'num_steps': Field(3, 'Steps of the first stage.')},
    'noise': Field(0.1, 'Standard deviation of the noise on the features.'),
    'optim': OPTIM,
    'optim_critic': OPTIM,
}


class Backbone(nn.Module):
    """A convolution and a batch norm over the global batch."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        return nn.relu(
            nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=parallel.AXIS)(x)
        )


def make_stages(config, spec):
    num_classes = spec.classes.num_classes
    backbone, head, critic = Backbone(), nn.Conv(num_classes, (1, 1)), nn.Conv(1, (3, 3))

    def logits(params, model_state, image, noise=0.0, train=False):
        """Logits and the batch statistics, which move in training only."""
        variables = {'params': params['backbone'], **model_state['backbone']}
        x, updates = backbone.apply(
            variables, images.normalize(image, 'unit'), train, mutable=['batch_stats']
        )
        return head.apply({'params': params['head']}, x + noise), {
            'backbone': updates
        } if train else model_state

    def predict(state, image):
        return jax.nn.softmax(logits(state.params, state.model_state, image)[0])

    def noise_like(image, keys):
        return config.noise * jax.random.normal(keys['noise'], (*image.shape[:3], 6))

    def make_stage(name, num_steps, init, train_step):
        def eval_step(state, batch, keys):
            prediction = jnp.argmax(predict(state, batch['image']), -1)
            return {
                'confusion': confusion.confusion(
                    prediction, batch['label'], num_classes, batch['weight']
                )
            }

        def finalize(metrics):
            return confusion.scores(metrics['confusion'].sum, spec.classes.names, 'cityscapes')

        return Stage(
            name=name,
            num_steps=num_steps,
            streams=('noise',),
            init=init,
            train_step=train_step,
            eval_step=eval_step,
            finalize=finalize,
            monitor=('mIoU', 'max'),
            train_input=Input(
                'train',
                config.train.batch_size,
                ('image', 'label'),
                config.augment.crop,
                config.augment,
            ),
            eval_input=Input(
                'val', config.evaluate.batch_size, ('image', 'label'), config.data.eval_size
            ),
            predict=predict,
        )

    # --- stage 1: backbone and head, one optimiser ------------------------------------------------

    def pretrain_loss(params, model_state, batch, keys):
        noise = noise_like(batch['image'], keys)
        prediction, model_state = logits(params, model_state, batch['image'], noise, train=True)
        return (
            {'main': losses.cross_entropy(prediction, batch['label'], batch['weight'])},
            model_state,
            {},
        )

    def pretrain_init(key, batch, earlier):
        keys = jax.random.split(key)
        x = images.normalize(batch['image'], 'unit')
        variables = backbone.init(keys[0], x, False)
        params = {
            'backbone': variables.pop('params'),
            'head': head.init(keys[1], jnp.zeros((*x.shape[:3], 6)))['params'],
        }
        transform = optim.make(config.optim, config.pretrain.num_steps, params)
        return TrainState(
            jnp.int32(0), params, {'backbone': variables}, {'all': transform.init(params)}, {}
        )

    def pretrain_step(state, batch, keys):
        fn = parallel.global_value_and_grad(
            pretrain_loss, lambda name: 1.0, config.train.accumulate
        )
        (loss, _, model_state, _), grads = fn(state.params, state.model_state, batch, keys)
        transform = optim.make(config.optim, config.pretrain.num_steps, state.params)
        state = optim.apply(state, 'all', transform, grads)
        return state.replace(step=state.step + 1, model_state=model_state), {
            'loss': Mean(loss, jnp.float32(1))
        }

    # --- stage 2: the head against a critic, over the frozen backbone -----------------------------

    def adversarial_loss(params, model_state, batch, keys):
        prediction, _ = logits(
            params, model_state, batch['image'], noise_like(batch['image'], keys)
        )
        verdict = critic.apply({'params': params['critic']}, jax.nn.softmax(prediction))
        terms = {
            'main': losses.cross_entropy(prediction, batch['label'], batch['weight']),
            'fool': Mean(jnp.sum((verdict - 1) ** 2), jnp.float32(verdict.size)),
        }
        return terms, model_state, {'prediction': jax.nn.softmax(prediction)}

    def critic_loss(params, model_state, batch, keys):
        real = jax.nn.one_hot(batch['label'], num_classes)
        score = [critic.apply({'params': params['critic']}, x) for x in (real, batch['fake'])]
        return (
            {
                'critic': Mean(
                    jnp.sum((score[0] - 1) ** 2 + score[1] ** 2), jnp.float32(score[0].size)
                )
            },
            model_state,
            {},
        )

    def adversarial_init(key, batch, earlier):
        x = jnp.zeros((*batch['image'].shape[:3], num_classes))
        params = {**earlier['pretrain'].params, 'critic': critic.init(key, x)['params']}
        owned = {'head': ('head',), 'critic': ('critic',)}
        opt_state = {}
        for name, nets in owned.items():
            part = {n: params[n] for n in nets}
            opt_state[name] = optim.make(
                getattr(config, SECTION[name]), config.train.num_steps, part
            ).init(part)
        extra = {'mean_prediction': jnp.zeros(num_classes)}
        return TrainState(jnp.int32(0), params, earlier['pretrain'].model_state, opt_state, extra)

    def adversarial_step(state, batch, keys):
        fn = parallel.global_value_and_grad(
            adversarial_loss, {'main': 1.0, 'fool': 0.1}.__getitem__
        )
        (loss, _, _, aux), grads = fn(state.params, state.model_state, batch, keys)
        state = optim.apply(state, 'head', transform_of('head', state), {'head': grads['head']})
        fake = {**batch, 'fake': jax.lax.stop_gradient(aux['prediction'])}
        fn = parallel.global_value_and_grad(critic_loss, {'critic': 1.0}.__getitem__)
        (critic_value, *_), grads = fn(state.params, state.model_state, fake, keys)
        state = optim.apply(
            state, 'critic', transform_of('critic', state), {'critic': grads['critic']}
        )
        total = parallel.sum_over_devices(Mean(aux['prediction'].mean((0, 1, 2)), jnp.float32(1)))
        extra = {'mean_prediction': 0.9 * state.extra['mean_prediction'] + 0.1 * total.value()}
        metrics = {
            'loss': Mean(loss, jnp.float32(1)),
            'loss_critic': Mean(critic_value, jnp.float32(1)),
        }
        return state.replace(step=state.step + 1, extra=extra), metrics

    def transform_of(name, state):
        return optim.make(
            getattr(config, SECTION[name]), config.train.num_steps, {name: state.params[name]}
        )

    return (
        make_stage('pretrain', config.pretrain.num_steps, pretrain_init, pretrain_step),
        make_stage('adversarial', config.train.num_steps, adversarial_init, adversarial_step),
    )


SECTION = {'head': 'optim', 'critic': 'optim_critic'}
