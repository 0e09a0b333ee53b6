"""A pipeline without images, labels and classes: it learns the mean of the camera matrices.

Its pictures have every form that `Stage.render` may return.
"""

import jax
import jax.numpy as jnp

from segjax.core import parallel
from segjax.protocol import Input, Mean, Picture, Stage, TrainState
from segjax.schema import Field

SCHEMA = {'rate': Field(0.1, 'Step of the gradient descent.')}


def render(state, batch, keys):
    """Paints the learned numbers in all forms. Example i has pictures of i + 1 filled rows."""
    rows = batch['index'] + 1
    level = jnp.arange(6 * 8, dtype=jnp.uint8).reshape(6, 8)
    grey = (
        jnp.broadcast_to(level, (len(rows), 6, 8)) + batch['index'].astype(jnp.uint8)[:, None, None]
    )
    rgb = jnp.stack([grey, grey + 100, grey + 200], -1)
    size = jnp.stack([rows, jnp.full_like(rows, 5)], -1)
    strip = jnp.stack([rgb, rgb + 1, rgb + 2], 1)
    distance = jnp.stack([0.5 * rows, 1.5 * rows, jnp.nan * rows], -1)
    return {
        'zebra': rgb,
        'cut': Picture(rgb, size, {'accuracy': rows / 8, 'PSNR': 20.0 + rows}),
        'strip': Picture(strip, size, {'distance': distance, 'best': rows}),
        'grid': Picture(jnp.stack([strip, strip + 10], 1)),
        'grey': grey,
        'one_channel': grey[..., None],
        'mask': grey > 20,
    }


def make_stages(config, spec):
    def loss_of(params, batch):
        distance = ((batch['intrinsics'] - params['net']) ** 2).mean((1, 2))
        return Mean((distance * batch['weight']).sum(), batch['weight'].sum())

    def train_step(state, batch, keys):
        (loss, _, _, _), gradient = parallel.global_value_and_grad(
            lambda params, model_state, batch, keys: ({'main': loss_of(params, batch)}, {}, {}),
            lambda name: 1.0,
        )(state.params, {}, batch, keys)
        params = jax.tree.map(lambda p, g: p - config.rate * g, state.params, gradient)
        return state.replace(step=state.step + 1, params=params), {
            'loss': Mean(loss, jnp.float32(1))
        }

    features = ('intrinsics',)
    size = config.augment.crop
    stage = Stage(
        name='mean',
        num_steps=config.train.num_steps,
        train_input=Input('train', config.train.batch_size, features, size, config.augment),
        eval_input=Input('val', config.evaluate.batch_size, features, size),
        streams=(),
        init=lambda key, batch, earlier: TrainState(
            jnp.int32(0), {'net': jnp.zeros((3, 3))}, {}, {}, {}
        ),
        train_step=train_step,
        eval_step=lambda state, batch, keys: {'distance': loss_of(state.params, batch)},
        finalize=lambda metrics: {'distance': float(metrics['distance'].value())},
        monitor=('distance', 'min'),
        render=render,
    )
    return (stage,)
