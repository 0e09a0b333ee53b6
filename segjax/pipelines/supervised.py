"""Supervised segmentation: one net, (weighted) cross-entropy. The baseline that every paper compares itself with.

Method, top to bottom: the net predicts logits and, where it has them, logits of auxiliary heads; every head is resized
to the label's size and pays a cross-entropy; one optimiser (segjax/training.py); evaluation resizes logits to each
label's own size (segjax/segmenter.py).
"""

import jax.numpy as jnp
import ml_collections

from segjax import segmenter, training
from segjax.config import OPTIM
from segjax.core import optim
from segjax.ops import images
from segjax.protocol import Stage, TrainState
from segjax.spec import DataSpec

SCHEMA = {
    'model': segmenter.model_choice('the segmentation net'),
    'preprocess': segmenter.PREPROCESS,
    'loss': training.LOSS,
    'optim': OPTIM,
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """The single stage of supervised training."""

    def prepare(image):
        return images.normalize(image, config.preprocess)

    net = segmenter.make_net(config.model, segmenter.num_outputs(config, spec), config.train.dtype, prepare)

    def infer(state: TrainState, image):
        params, model_state = optim.averaged(state, config.train.ema)
        outputs, _ = net.apply(params['segmenter'], model_state['segmenter'], image, train=False)
        return outputs['logits'].astype(jnp.float32)

    return (
        Stage(
            name='segmentation',
            num_steps=config.train.num_steps,
            train_input=segmenter.train_input(config),
            eval_input=segmenter.eval_input(config),
            streams=('dropout',),
            init=training.make_init(config, net),
            train_step=training.make_supervised_step(config, training.make_loss(config, spec, net)),
            monitor=('mIoU', 'max'),
            **segmenter.make_evaluation(config, spec, infer),
        ),
    )
