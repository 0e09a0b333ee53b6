"""Shape classifier: the net F of the metric Sem, and how Sem reacts to degraded shapes.

Source: He, Xiao, Zhang, Lei, Wang, Lu: Reducing Noise Pixels and Metric Bias in Semantic Inpainting
on Segmentation Map, sections 3.3, 4.1 and 4.4.

Method, top to bottom:

1. A derived feature lists the objects of each label map. Each object is an example.
2. The net sees two binary planes, the object and its tight box, and predicts the class of the
   object. It is an EfficientNet behind a gated convolution (models/classification).
3. The loss is the cross-entropy of the classes.
4. Evaluation computes accuracies. Then it degrades every object in six ways at three levels, and
   compares how fast 1 - Sem, tIOU and hamm fall (segjax/tasks/shapes.py).
"""

import ml_collections

from segjax.protocol import Derived, Stage
from segjax.spec import DataSpec
from segjax.tasks import shapes

SCHEMA = {'shapes': shapes.SHAPES}


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the table of the objects of each image."""
    return shapes.features(config.shapes, spec)


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the single stage."""
    stage = shapes.make_stage(
        config,
        spec,
        config.shapes,
        name='shapes',
        num_steps=config.train.num_steps,
        batch_size=config.train.batch_size,
        where='shapes',
    )
    return (stage,)
