"""Label maps to images: pix2pixHD on whole images, and the image generator of Hong et al. on crops.

Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, CVPR
2018. Hong et al., Learning Hierarchical Semantic Image Manipulation through Structured
Representations, NeurIPS 2018.

Method, top to bottom:

1. Examples are whole images, or square crops around objects (`painter.input`, `boxes`).
2. A stage trains the painter against a discriminator (segjax/tasks/translation.py).
3. The local enhancer of pix2pixHD starts from the run of a global generator (`init_from.path`).
   The global generator stays fixed for the first `painter.fix_global` steps.
"""

import ml_collections

from segjax.protocol import Derived, Input, Stage
from segjax.spec import DataSpec
from segjax.tasks import object_boxes, segmentation, translation

SCHEMA = {
    'painter': translation.PAINTER,
    'segmenter': translation.SEGMENTER,
    'boxes': object_boxes.BOXES,
}


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the table of the objects of each image, for crops."""
    return object_boxes.features(config, spec) if config.painter.input == 'crop' else ()


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the only stage, which trains the painter."""
    section = config.painter
    translation.check_section(config, section, config.segmenter)
    is_crop = section.input == 'crop'
    make_inputs = object_inputs if is_crop else image_inputs
    train_input, eval_input = make_inputs(config, spec)
    stage = translation.make_stage(
        config,
        spec,
        section,
        name='painter',
        train_input=train_input,
        eval_input=eval_input,
        num_steps=config.train.num_steps,
        segmenter=config.segmenter,
        num_examples=object_boxes.num_boxes(config, spec) if is_crop else None,
    )
    return (stage,)


def image_inputs(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Input, Input]:
    """Returns whole images for training and for evaluation."""
    features = translation.features(config.painter)
    return (
        segmentation.train_input(config)._replace(features=features),
        segmentation.eval_input(config)._replace(features=features),
    )


def object_inputs(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Input, Input]:
    """Returns crops around objects. Training draws an object, and evaluation crops each object.

    Raises:
      InputError: an unknown class, or a value out of range.
    """
    features = translation.features(config.painter)
    return (
        object_boxes.train_input(config, spec, features),
        object_boxes.eval_input(config, spec, features),
    )
