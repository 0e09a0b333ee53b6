"""Label maps to images: pix2pixHD on whole images, and the image generator of Hong et al. on crops.

Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs, CVPR
2018. Hong et al., Learning Hierarchical Semantic Image Manipulation through Structured
Representations, NeurIPS 2018.

Method, top to bottom:

1. Examples are whole images, or square crops around a drawn object (`painter.input`).
2. A stage trains the painter against a discriminator (segjax/tasks/translation.py).
3. The local enhancer of pix2pixHD starts from the run of a global generator (`init_from.path`).
   The global generator stays fixed for the first `painter.fix_global` steps.
"""

import functools

import ml_collections

from segjax.data import objects
from segjax.errors import InputError
from segjax.protocol import Input, Stage
from segjax.schema import Field, at_least, between, strings
from segjax.spec import DataSpec
from segjax.tasks import segmentation, translation

SCHEMA = {
    'painter': translation.PAINTER,
    'segmenter': translation.SEGMENTER,
    'objects': {
        'classes': Field(
            (), 'Classes of the objects that are cropped. () means all classes.', strings
        ),
        'margin': Field(
            3.0, 'Side of a crop as a multiple of the longer side of its object.', at_least(1)
        ),
        'min_side': Field(
            128,
            'Smallest longer side of an object, and smallest side of a box, in pixels.',
            at_least(1),
        ),
        'max_side': Field(256, 'Largest side of a box without an object, in pixels.', at_least(1)),
        'background': Field(
            0.3, 'Training: probability of a box without an object.', between(0, 1)
        ),
        'enlarge': Field(
            0.0, 'Share of a side by which the box of an object grows at each edge.', at_least(0)
        ),
    },
}


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the only stage, which trains the painter."""
    section = config.painter
    translation.check_section(config, section, config.segmenter)
    make_inputs = object_inputs if section.input == 'crop' else image_inputs
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
    """Returns crops around objects for training and for evaluation.

    In evaluation each image gives a crop without a flip. Only an image without a suitable object
    gives a box without an object.

    Raises:
      InputError: a size that is no square, an unknown class, or a value out of range.
    """
    sizes = {'augment.crop': config.augment.crop, 'data.eval_size': config.data.eval_size}
    for key, size in sizes.items():
        if size[0] != size[1]:
            longer = max(size)
            raise InputError(
                f'config.{key}',
                got=f'{tuple(size)}',
                expected='a square, because crops around objects are squares',
                fix=f'--config.{key}="({longer}, {longer})"',
            )
    training = {'background': config.objects.background, 'flip': config.augment.flip}
    train_input = segmentation.train_input(config)
    eval_input = segmentation.eval_input(config)
    return (
        _of_objects(config, spec, train_input._replace(augment=None), training),
        _of_objects(config, spec, eval_input, {'background': 0.0, 'flip': 0.0}),
    )


def _of_objects(
    config: ml_collections.ConfigDict, spec: DataSpec, whole: Input, options: dict[str, float]
) -> Input:
    """Returns the input of crops around objects of an input of whole images.

    Args:
      config: of the run.
      spec: of the data set.
      whole: the input of images. Its size is the size of the crops.
      options: further fields of `objects.ObjectCrop`.
    """
    settings = config.objects
    crop = objects.object_crop(
        settings.classes or spec.classes.names,
        spec.classes,
        size=whole.size[0],
        margin=settings.margin,
        min_side=settings.min_side,
        max_side=settings.max_side,
        enlarge=settings.enlarge,
        keep_instance=config.painter.instance_edges,
        **options,
    )
    return whole._replace(
        features=translation.features(config.painter),
        transform=functools.partial(objects.crop_object, crop=crop),
        reads=('image', 'label', 'instance'),
        made=(('mask_box', objects.MADE['mask_box']),),
        resize=False,
    )
