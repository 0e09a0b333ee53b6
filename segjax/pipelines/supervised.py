"""Supervised segmentation: one net and a cross-entropy. All papers compare their methods with it.

Method, top to bottom:

1. The net predicts logits of the classes, and of each auxiliary head if it has auxiliary heads.
2. All logits are resized to the label. Each head adds its (weighted) cross-entropy to the loss.
3. One optimiser updates the net (segjax/tasks/supervised.py).
4. Evaluation resizes logits to the size of each label and computes IoUs
   (segjax/tasks/segmentation.py).
"""

import ml_collections

from segjax import models
from segjax.protocol import Stage
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
    """Builds the single stage of supervised training."""
    net = segmentation.make_image_net(config, segmentation.num_outputs(config, spec))
    infer = segmentation.make_infer(config, net)
    loss = supervised.make_loss(config, spec, net)
    stage = Stage(
        name='segmentation',
        num_steps=config.train.num_steps,
        train_input=segmentation.train_input(config),
        eval_input=segmentation.eval_input(config),
        streams=('dropout',),
        init=supervised.make_init(config, net),
        train_step=supervised.make_supervised_step(config, loss),
        **segmentation.make_evaluation(config, spec, infer)._asdict(),
    )
    return (stage,)
