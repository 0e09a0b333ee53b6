"""Supervised segmentation: one net, (weighted) cross-entropy. The baseline that every paper compares itself with.

Method, top to bottom: the net predicts logits and, where it has them, logits of auxiliary heads; every head is resized
to the label's size and pays a cross-entropy; one optimiser (segjax/tasks/supervised.py); evaluation resizes logits
to each label's own size (segjax/tasks/segmentation.py).
"""

import jax.numpy as jnp
import ml_collections

from segjax import models
from segjax.core import optim
from segjax.ops import images
from segjax.protocol import Stage, TrainState
from segjax.schema import OPTIM
from segjax.spec import DataSpec
from segjax.tasks import segmentation, supervised

SCHEMA = {
    'model': models.net_choice('segmentation', 'erfnet', 'Net that segments images.'),
    'preprocess': segmentation.PREPROCESS,
    'loss': supervised.LOSS,
    'optim': OPTIM,
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """The single stage of supervised training."""

    def prepare(image):
        return images.normalize(image, config.preprocess)

    net = segmentation.make_net(
        config.model, segmentation.num_outputs(config, spec), config.train.dtype, prepare
    )

    def infer(state: TrainState, image):
        params, model_state = optim.averaged(state, config.train.ema)
        outputs, _ = net.apply(params['segmenter'], model_state['segmenter'], image, train=False)
        return outputs['logits'].astype(jnp.float32)

    return (
        Stage(
            name='segmentation',
            num_steps=config.train.num_steps,
            train_input=segmentation.train_input(config),
            eval_input=segmentation.eval_input(config),
            streams=('dropout',),
            init=supervised.make_init(config, net),
            train_step=supervised.make_supervised_step(
                config, supervised.make_loss(config, spec, net)
            ),
            monitor=('mIoU', 'max'),
            **segmentation.make_evaluation(config, spec, infer),
        ),
    )
