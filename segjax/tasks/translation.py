"""Translation of label maps to images: a painter, its discriminator, their losses and scores.

Method, top to bottom:

1. A label map becomes a layout of C + 2 channels: the classes, void, and perhaps edges.
2. The painter maps a layout to an image in [-1, 1]. `mask_to_image` paints a box of an image.
3. The discriminator judges layout and image together, on several scales.
4. The losses of Wang et al. 2018 (pix2pixHD), with the weights of `painter.weights`:

       L_G = adversarial LSGAN(D(layout, painted), 1) + feature_matching FM + vgg VGG + l1 L1
       L_D = 1/2 LSGAN(D(layout, image), 1) + 1/2 LSGAN(D(layout, painted), 0)

5. The scores are PSNR and SSIM. A frozen segmentation net can judge the images too.

Hong et al. 2018 train `mask_to_image` with these losses. Its discriminator sees the box alone.

Sources: Wang et al., High-Resolution Image Synthesis and Semantic Manipulation with Conditional
GANs, CVPR 2018. Hong et al., Learning Hierarchical Semantic Image Manipulation through Structured
Representations, NeurIPS 2018.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import means, optim, parallel, rng
from segjax.errors import InputError
from segjax.losses import image as image_losses
from segjax.losses import perceptual
from segjax.metrics import confusion
from segjax.metrics import image as image_metrics
from segjax.ops import edges, images, resize
from segjax.protocol import (
    Array,
    Batch,
    Input,
    Keys,
    Mean,
    Metrics,
    Picture,
    Prediction,
    PRNGKey,
    PyTree,
    Scores,
    Stage,
    TrainState,
)
from segjax.schema import OPTIM, Field, at_least, one_of, typed_text
from segjax.spec import IGNORE, DataSpec, Feature
from segjax.tasks import adversarial, segmentation, sources, supervised
from segjax.tasks.evaluation import Evaluation, Pictures, of_images

PAINTERS = ('pix2pixhd_global', 'pix2pixhd_local', 'mask_to_image')
"""Generators that paint label maps."""

PAINTER = {
    'model': models.net_choice(
        'generator', PAINTERS[0], 'Painter, from a label map to an image.', only=PAINTERS
    ),
    'discriminator': models.net_choice(
        'discriminator',
        'multiscale',
        'Judge of label maps with their images.',
        only=('multiscale',),
    ),
    'features': models.net_choice(
        'features',
        'vgg19',
        "Frozen net of the perceptual loss. Its weights come from the row 'vgg' of "
        'init_from.sources.',
    ),
    'input': Field(
        'image',
        'Pictures that are painted: whole images, or crops around objects, of which the box of '
        'the object is painted.',
        one_of('image', 'crop'),
    ),
    'instance_edges': Field(
        True, 'Add a channel with the edges between classes and between instances.'
    ),
    'weights': {
        'adversarial': Field(1.0, 'Weight of the loss against the discriminator.', at_least(0)),
        'feature_matching': Field(
            10.0, 'Weight of the distance between features of the discriminator.', at_least(0)
        ),
        'vgg': Field(
            10.0,
            'Weight of the distance between features of VGG19. 0 leaves VGG19 out.',
            at_least(0),
        ),
        'l1': Field(
            0.0,
            'Weight of the L1 distance between painted images and photos. 0 as published.',
            at_least(0),
        ),
    },
    'fix_global': Field(
        0,
        'Net pix2pixhd_local: first steps in which its global generator stays fixed. '
        'Then all of the painter is trained, by a new optimiser.',
        at_least(0),
    ),
    'optim': OPTIM,
    'optim_discriminator': OPTIM,
}
"""Keys of the section `painter`."""

SEGMENTER = {
    'use': Field(
        'none',
        "Score painted images by a segmentation net, which comes from the row 'segmenter' of "
        'init_from.sources.',
        one_of('none', 'load'),
    ),
    'model': models.net_choice(
        'segmentation', 'erfnet', 'Segmentation net that scores painted images.'
    ),
    'preprocess': segmentation.PREPROCESS,
}
"""Keys of the section `segmenter`."""

NET = 'painter'
"""Name of the painter in a state, and of its config section."""
DISCRIMINATOR = 'painter_discriminator'
VGG = 'vgg'
JUDGE = 'segmenter'
"""Names of the discriminator and of the frozen nets in a state."""


# --- layouts --------------------------------------------------------------------------------------


def num_channels(section: ml_collections.ConfigDict, spec: DataSpec) -> int:
    """Returns the channels of a layout: the C classes, void, and the edges if they are used."""
    return spec.classes.num_classes + 1 + section.instance_edges


def make_layout(label: Array, spec: DataSpec, edge_map: Array | None = None) -> Array:
    """Returns the layout of label maps, [B, H, W, C + 1] or [B, H, W, C + 2] float32.

    Args:
      label: [B, H, W] train ids. All ids from C on are void, the class C.
      spec: of the data set.
      edge_map: [B, H, W] bool, the last channel: `true_edges` or `completed_edges`. None: no edges.
    """
    num_classes = spec.classes.num_classes
    layout = jax.nn.one_hot(jnp.minimum(label, num_classes), num_classes + 1)
    if edge_map is None:
        return layout
    return jnp.concatenate([layout, edge_map[..., None].astype(jnp.float32)], -1)


def true_edges(label: Array, instance: Array, valid: Array | None = None) -> Array:
    """Marks the pixels that have a neighbour of another class or of another instance.

    The instance maps of Cityscapes, from which pix2pixHD computes its edges, hold the classes of
    all pixels that belong to no instance.

    Args:
      label: [B, H, W] train ids.
      instance: [B, H, W] ids, 0 for no instance.
      valid: [B, H, W] bool, the pixels that are no padding. None: all.

    Returns:
      [B, H, W] bool.
    """
    return edges.instance_edges(label, valid) | edges.instance_edges(instance, valid)


def completed_edges(label: Array, instance: Array, mask: Array) -> Array:
    """Marks the edges of a label map whose box was completed by a net.

    No instance map of the new object exists. Inside the box, and between a pixel inside and a pixel
    outside, classes alone make edges.

    Args:
      label: [B, H, W] train ids, completed inside the box.
      instance: [B, H, W] ids of the picture before. Ids inside the box are not read.
      mask: [B, H, W], 1 inside the box.

    Returns:
      [B, H, W] bool.
    """
    return edges.instance_edges(label) | edges.instance_edges(instance, mask == 0)


class Example(NamedTuple):
    """Label maps and photos of a batch, as nets read them.

    label   [B, H, W] train ids at the size of the photo, 255 for void and padding
    layout  [B, H, W, K] of `make_layout`
    mask    [B, H, W] bool, the box that is painted. None: the whole image is painted
    photo   [B, H, W, 3] float32 in [-1, 1]
    """

    label: Array
    layout: Array
    mask: Array | None
    photo: Array


def example_of(
    section: ml_collections.ConfigDict,
    spec: DataSpec,
    batch: Batch,
    label: Array,
    instance: Array | None,
    valid: Array | None = None,
) -> Example:
    """Returns the label maps and photos of a batch.

    Args:
      section: config.painter.
      spec: of the data set.
      batch: has 'image' and, of crops, 'mask_box'.
      label: [B, H, W] train ids at the size of the images.
      instance: [B, H, W] ids, read for edges alone.
      valid: [B, H, W] bool, the pixels that are no padding. None: all.
    """
    edge_map = true_edges(label, instance, valid) if section.instance_edges else None
    mask = batch['mask_box'] > 0 if section.input == 'crop' else None
    photo = images.normalize(batch['image'], 'symmetric')
    return Example(label, make_layout(label, spec, edge_map), mask, photo)


def evaluation_example(
    section: ml_collections.ConfigDict, spec: DataSpec, batch: Batch
) -> tuple[Example, Array]:
    """Returns an evaluation batch at the size of its images, and the pixels that are no padding."""
    valid = segmentation.valid_pixels(batch['size'], batch['image'])
    label = segmentation.to_image(batch['label'], batch)
    instance = None
    if section.instance_edges:
        instance = segmentation.to_image(batch['instance'], batch, fill=0)
    return example_of(section, spec, batch, label, instance, valid), valid


def features(section: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the features of a batch that a painter reads, for `Input.features`."""
    mask = ('mask_box',) if section.input == 'crop' else ()
    instance = ('instance',) if section.instance_edges else ()
    return ('image', 'label', *mask, *instance)


# --- painting -------------------------------------------------------------------------------------


def make_net(config: ml_collections.ConfigDict, section: ml_collections.ConfigDict) -> nn.Module:
    """Builds the painter of a section."""
    return models.build_from(
        'generator',
        section.model,
        out_channels=3,
        dtype=config.train.dtype,
        axis_name=parallel.AXIS,
    )


def net_inputs(
    section: ml_collections.ConfigDict, layout: Array, photo: Array, mask: Array | None
) -> tuple[Array, ...]:
    """Returns the arguments of a painter."""
    if section.model.name != 'mask_to_image':
        return (layout,)
    assert mask is not None, 'check_section refuses whole images'
    return (photo, layout, mask[..., None])


def make_paint(
    config: ml_collections.ConfigDict, spec: DataSpec, section: ml_collections.ConfigDict
) -> Callable[..., Array]:
    """Returns a trained painter as a function, for evaluation and for other stages.

    The function maps (params, model_state, layout, image, mask) to [B, H, W, 3] float32 in [-1, 1]:

      params       of the painter, its entry of a state
      model_state  of the painter
      layout       [B, H, W, K] of `make_layout`, with edges if the painter was trained with edges
      image        [B, H, W, 3] in [-1, 1]
      mask         [B, H, W], 1 where the picture is painted. Elsewhere it is `image`. None: the
                   whole picture is painted, and `image` is not read

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys PAINTER.
    """
    net = make_net(config, section)
    channels = num_channels(section, spec)

    def paint(params, model_state, layout: Array, image: Array, mask: Array | None) -> Array:
        if layout.shape[-1] != channels:
            raise InputError(
                'layout of the painter',
                got=f'{layout.shape[-1]} channels',
                expected=f'{channels}: the classes, void'
                + ', and edges (true_edges, completed_edges)' * section.instance_edges,
            )
        inputs = net_inputs(section, layout, image, mask)
        outputs, _ = segmentation.apply_net(net, params, model_state, *inputs, train=False)
        picture = outputs['image']
        return picture if mask is None else jnp.where(mask[..., None] > 0, picture, image)

    return paint


def make_box_painter(
    config: ml_collections.ConfigDict, spec: DataSpec, section: ml_collections.ConfigDict
) -> Callable[..., Array]:
    """Returns the painter of a state, for the boxes of completed label maps.

    The function maps (state, label, image, mask, instance) to [B, H, W, 3] uint8:

      state     holds the net 'painter'
      label     [B, H, W] completed train ids, 255 or C for void
      image     [B, H, W, 3] uint8, the photos, which remain outside of the boxes
      mask      [B, H, W] bool, the boxes
      instance  [B, H, W] ids outside of the boxes, for the edges. None: edges of classes alone

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys PAINTER.
    """
    paint = make_paint(config, spec, section)

    def paint_boxes(
        state: TrainState, label: Array, image: Array, mask: Array, instance: Array | None
    ) -> Array:
        label = jnp.where(label == spec.classes.num_classes, IGNORE, label)
        edge_map = None
        if section.instance_edges:
            known = jnp.zeros_like(label) if instance is None else instance
            edge_map = completed_edges(label, known, mask)
        layout = make_layout(label, spec, edge_map)
        photo = images.normalize(image, 'symmetric')
        picture = paint(state.params[NET], state.model_state[NET], layout, photo, mask)
        return images.to_uint8(picture, 'symmetric')

    return paint_boxes


# --- the system -----------------------------------------------------------------------------------


class System(NamedTuple):
    """The inputs that all functions of a stage share.

    config         of the run
    spec           of the data set
    section        config.painter
    painter        the net of the label maps
    discriminator  the judge of label maps with their images
    vgg            the features of the perceptual loss. None: its weight is 0
    segmenter      the net that scores painted images. None: no such net
    num_examples   places of the evaluation split
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    section: ml_collections.ConfigDict
    painter: nn.Module
    discriminator: nn.Module
    vgg: nn.Module | None
    segmenter: segmentation.Net | None
    num_examples: int


def make_stage(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    *,
    name: str,
    train_input: Input,
    eval_input: Input,
    num_steps: int,
    segmenter: ml_collections.ConfigDict | None = None,
    num_examples: int | None = None,
) -> Stage:
    """Builds the training of a painter.

    Args:
      config: of the run. Sections train, evaluate and init_from are read.
      spec: of the data set of the inputs.
      section: of the keys PAINTER, config.painter.
      name: of the stage.
      train_input: has the `features` of the section, at one size.
      eval_input: has the same features.
      num_steps: of the stage.
      segmenter: of the keys SEGMENTER. None: no net scores the images.
      num_examples: places of the evaluation split. None: its labelled examples.

    Raises:
      InputError: settings that contradict each other, or a frozen net without a source.
    """
    check_section(config, section, segmenter)
    places = spec.split(eval_input.split).num_labelled if num_examples is None else num_examples
    system = make_system(config, spec, section, segmenter, places)
    is_used = {VGG: system.vgg is not None, JUDGE: system.segmenter is not None}
    return Stage(
        name=name,
        num_steps=num_steps,
        train_input=train_input,
        eval_input=eval_input,
        streams=(),
        init=make_init(system, num_steps),
        train_step=make_train_step(system, num_steps),
        prediction=make_prediction(system, eval_input.size),
        frozen=tuple(net for net, used in is_used.items() if used),
        **make_evaluation(system)._asdict(),
    )


def check_section(
    config: ml_collections.ConfigDict,
    section: ml_collections.ConfigDict,
    segmenter: ml_collections.ConfigDict | None = None,
) -> None:
    """Raises InputError for settings that contradict each other, and nets without a source."""
    net = section.model.name
    if net == 'mask_to_image' and section.input != 'crop':
        raise InputError(
            'config.painter.input',
            got=repr(section.input),
            expected="'crop', because mask_to_image paints the box of an object",
            fix='--config.painter.input=crop',
        )
    if section.fix_global and net != 'pix2pixhd_local':
        raise InputError(
            'config.painter.fix_global',
            got=f'{section.fix_global} with the net {net}',
            expected='0, because only pix2pixhd_local holds a global generator',
            fix='--config.painter.fix_global=0',
        )
    init_from = config.init_from
    if section.fix_global and not (init_from.path or sources.has_source(config, NET)):
        raise InputError(
            'config.init_from.path',
            got=f"'', with painter.fix_global={section.fix_global}",
            expected='the run of the global generator, because random parameters would stay fixed',
            fix='--config.init_from.path=runs/painter with the folder of this run; '
            'or --config.painter.fix_global=0',
        )
    # The decay would move parameters without a gradient.
    if section.fix_global and section.optim.weight_decay:
        raise InputError(
            'config.painter.optim.weight_decay',
            got=f'{section.optim.weight_decay} with fix_global {section.fix_global}',
            expected='0, so that the global generator stays fixed',
            fix='--config.painter.optim.weight_decay=0',
        )
    if section.weights.vgg:
        _check_features(config, section.features)
    if segmenter is not None and segmenter.use == 'load':
        sources.check_source(
            config,
            JUDGE,
            ('runs/segmenter', 'the run of a segmentation net'),
            '--config.segmenter.use=none scores without it',
        )


def _check_features(config: ml_collections.ConfigDict, section: ml_collections.ConfigDict) -> None:
    """Raises InputError for a net of the perceptual loss without its layers or without a source."""
    compared = tuple(perceptual.VGG_WEIGHTS)
    if not set(compared) <= set(section.layers):
        raise InputError(
            'config.painter.features.layers',
            got=str(tuple(section.layers)),
            expected=f'all layers that the perceptual loss compares: {compared}',
            fix=f'--config.painter.features.layers={typed_text(compared)}',
        )
    sources.check_source(
        config,
        VGG,
        (f'{section.name}.pth', f'weights of {section.name.upper()} (torchvision)'),
        '--config.painter.weights.vgg=0 trains without them',
    )


def make_system(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    segmenter: ml_collections.ConfigDict | None,
    num_examples: int,
) -> System:
    """Builds the nets of a stage. Arguments: `make_stage`."""
    dtype = config.train.dtype
    discriminator = models.build_from(
        'discriminator', section.discriminator, dtype=dtype, axis_name=parallel.AXIS
    )
    vgg = None
    if section.weights.vgg:
        vgg = models.build_from('features', section.features, dtype=dtype)
    judge = None
    if segmenter is not None and segmenter.use == 'load':
        prepare = functools.partial(images.normalize, scheme=segmenter.preprocess)
        outputs = segmentation.num_outputs(config, spec)
        judge = segmentation.make_net(segmenter.model, outputs, dtype, prepare)
    painter = make_net(config, section)
    return System(config, spec, section, painter, discriminator, vgg, judge, num_examples)


def make_variables(
    config: ml_collections.ConfigDict,
    spec: DataSpec,
    section: ml_collections.ConfigDict,
    size: tuple[int, int],
) -> Callable[[PRNGKey], Mapping]:
    """Returns key -> new variables of a painter.

    Args:
      config: of the run.
      spec: of the data set.
      section: of the keys PAINTER.
      size: (height, width) of the pictures.
    """
    layout = jax.ShapeDtypeStruct((1, *size, num_channels(section, spec)), jnp.float32)
    photo = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, *size), bool)
    inputs = jax.eval_shape(functools.partial(net_inputs, section), layout, photo, mask)
    return functools.partial(_init_net, make_net(config, section), inputs)


def _init_net(net: nn.Module, inputs: Sequence, key: PRNGKey) -> Mapping:
    """Returns new variables of a net for the shapes of its inputs."""
    return net.lazy_init(key, *inputs, train=False)


def make_init(system: System, num_steps: int) -> Callable:
    """Returns `Stage.init`: painter, discriminator, their optimisers, and the frozen nets."""
    config, spec, section = system[:3]
    channels = num_channels(section, spec)

    def init(key: PRNGKey, batch: Batch, earlier: Mapping[str, TrainState]) -> TrainState:
        size = batch['image'].shape[1:3]

        def maps(count: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((1, *size, count), jnp.float32)

        variables = {
            NET: make_variables(config, spec, section, size)(rng.named(key, NET)),
            DISCRIMINATOR: system.discriminator.lazy_init(
                rng.named(key, DISCRIMINATOR), maps(channels + 3), train=False
            ),
        }
        if system.vgg is not None:
            variables[VGG] = system.vgg.lazy_init(rng.named(key, VGG), maps(3))
        if system.segmenter is not None:
            photo = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
            variables[JUDGE] = system.segmenter.init(rng.named(key, JUDGE), photo)

        # Frozen nets are in the state too, so that a checkpoint is complete.
        ema = system.config.train.ema
        fields = supervised.fields_of(variables)
        return adversarial.fresh_state(*fields, *players(system), num_steps=num_steps, ema=ema)

    return init


# --- training -------------------------------------------------------------------------------------


def players(system: System) -> tuple[adversarial.Player, adversarial.Player]:
    """Returns the painter and the discriminator with their losses."""
    section = system.section
    optimiser = supervised.Optimiser(section.optim, (NET,), 'painter.optim')
    d_optimiser = supervised.Optimiser(
        section.optim_discriminator, (DISCRIMINATOR,), 'painter.optim_discriminator'
    )
    weights = {key: float(section.weights[key]) for key in section.weights}
    return (
        adversarial.Player(
            {NET: optimiser}, functools.partial(painter_loss, system), weights.__getitem__
        ),
        adversarial.Player(
            {DISCRIMINATOR: d_optimiser},
            functools.partial(discriminator_loss, system),
            {'real': 0.5, 'generated': 0.5}.__getitem__,
        ),
    )


def make_train_step(system: System, num_steps: int) -> Callable:
    """Returns `Stage.train_step`: a step of the painter and of the discriminator.

    At the step `fix_global` the optimiser of the painter begins anew, as in the released code. Adam
    would otherwise take large steps with the moments of parameters that had no gradient.
    """
    painter, discriminator = players(system)
    train = system.config.train
    step = adversarial.make_train_step(
        painter, discriminator, num_steps=num_steps, accumulate=train.accumulate, ema=train.ema
    )
    first = system.section.fix_global
    if not first:
        return step

    def train_step(state: TrainState, batch: Batch, keys: Keys) -> tuple[TrainState, Metrics]:
        owned = supervised.select(state.params, painter.nets)
        fresh = painter.optimisers[NET].make(num_steps, owned).init(owned)
        begins = state.step == first
        renewed = jax.tree.map(
            lambda new, old: jnp.where(begins, new, old), fresh, state.opt_state[NET]
        )
        return step(state.replace(opt_state={**state.opt_state, NET: renewed}), batch, keys)

    return train_step


def trained_part(system: System, params: PyTree, step: Array) -> PyTree:
    """Returns the parameters of the painter, of which fixed parameters get no gradient."""
    first = system.section.fix_global
    if not first:
        return params

    def fixed(leaf: Array) -> Array:
        return jnp.where(step < first, jax.lax.stop_gradient(leaf), leaf)

    return {**params, 'trunk': jax.tree.map(fixed, params['trunk'])}


def training_example(system: System, batch: Batch) -> Example:
    """Returns the label maps and photos of a training batch."""
    return example_of(system.section, system.spec, batch, batch['label'], batch.get('instance'))


def judge_pictures(
    system: System, params: PyTree, model_state: PyTree, example: Example, picture: Array
) -> tuple[Any, PyTree]:
    """Returns the verdicts of the discriminator on pictures, and its batch statistics.

    With `mask_to_image` the discriminator sees the box alone.
    """
    seen = jnp.concatenate([example.layout, picture], -1)
    if system.section.model.name == 'mask_to_image':
        seen = seen * example.mask[..., None]
    return segmentation.apply_net(system.discriminator, params, model_state, seen, train=True)


def painter_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss of the painter, with the discriminator and VGG19 of a state.

    Terms whose weight is 0 are not computed.
    """
    weights = system.section.weights
    critic = (state.params[DISCRIMINATOR], state.model_state[DISCRIMINATOR])

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        example = training_example(system, batch)
        weight = batch['weight']
        inputs = net_inputs(system.section, example.layout, example.photo, example.mask)
        own = trained_part(system, params[NET], state.step)
        outputs, statistics = segmentation.apply_net(
            system.painter, own, model_state[NET], *inputs, train=True
        )
        picture = outputs['image']

        # The discriminator stays as it is, and so do its batch statistics.
        terms = {}
        verdicts, _ = judge_pictures(system, *critic, example, picture)
        if weights.adversarial:
            terms['adversarial'] = adversarial.judge_loss(verdicts, 1.0, weight)
        if weights.feature_matching:
            of_photos, _ = judge_pictures(system, *critic, example, example.photo)
            terms['feature_matching'] = perceptual.feature_matching(verdicts, of_photos, weight)

        # Distances to the photo.
        if system.vgg is not None:
            variables = {'params': state.params[VGG]}
            terms['vgg'] = perceptual.vgg_l1(
                system.vgg.apply(variables, picture),
                system.vgg.apply(variables, example.photo),
                weight,
            )
        if weights.l1:
            terms['l1'] = image_losses.l1(picture, example.photo, weight)
        return terms, {NET: statistics}, {'painted': picture}

    return loss_fn


def discriminator_loss(system: System, state: TrainState) -> Callable:
    """Returns the loss of the discriminator on photos and on the pictures of the painter."""

    def loss_fn(params, model_state, batch: Batch, keys: Keys):
        example = training_example(system, batch)
        statistics = model_state[DISCRIMINATOR]
        terms = {}
        for name, picture, target in (
            ('real', example.photo, 1.0),
            ('generated', batch['painted'], 0.0),
        ):
            verdicts, statistics = judge_pictures(
                system, params[DISCRIMINATOR], statistics, example, picture
            )
            terms[name] = adversarial.judge_loss(verdicts, target, batch['weight'])
        return terms, {DISCRIMINATOR: statistics}, {}

    return loss_fn


# --- evaluation -----------------------------------------------------------------------------------


def make_evaluation(system: System) -> Evaluation:
    """Builds the evaluation of a `Stage` that paints.

    PSNR, SSIM        means over the images
    PSNR_box, SSIM_box  the same inside the box, of crops. Outside the box a picture is the photo
    mIoU              of the segmenter on painted images, of crops inside the box
    mIoU_real         of the segmenter on the photos of the same pixels
    mIoU_ratio        mIoU / mIoU_real

    Images are ranked by PSNR, inside the box for crops.
    """
    measure = 'mIoU' if system.segmenter is not None else _key(system, 'PSNR')
    return Evaluation(
        eval_step=functools.partial(eval_step, system),
        finalize=functools.partial(finalize, system),
        render=functools.partial(render, system),
        monitor=(measure, 'max'),
    )


def _key(system: System, score: str) -> str:
    """Returns the name of a score of the painted region."""
    return f'{score}_box' if system.section.input == 'crop' else score


def painted(system: System, state: TrainState, example: Example) -> Array:
    """Returns pictures in [-1, 1] of the painter that evaluation uses."""
    params, model_state = optim.averaged(state, system.config.train.ema)
    paint = make_paint(system.config, system.spec, system.section)
    return paint(params[NET], model_state[NET], example.layout, example.photo, example.mask)


def eval_step(system: System, state: TrainState, batch: Batch, keys: Keys) -> Metrics:
    """Computes PSNR, SSIM, the colours of classes, and the counts of the segmenter."""
    example, valid = evaluation_example(system.section, system.spec, batch)
    picture = painted(system, state, example)
    weight = batch['weight']
    regions = {'': valid}
    if example.mask is not None:
        regions['_box'] = valid & example.mask

    metrics = {}
    for ending, region in regions.items():
        psnr = image_metrics.psnr(example.photo, picture, valid=region)
        metrics[f'PSNR{ending}'] = mean_over_images(psnr, weight)
        ssim = image_metrics.ssim(
            (example.photo + 1) / 2, (picture + 1) / 2, valid=valid, region=region
        )
        metrics[f'SSIM{ending}'] = mean_over_images(ssim, weight)
    # The last region is the painted region.
    metrics['image_score'] = confusion.per_example(
        psnr, batch['index'], weight, system.num_examples
    )
    metrics['colors'] = class_colors(system, example, region, batch)
    if system.segmenter is not None:
        metrics |= segmenter_counts(system, state, example, picture, region, weight)
    return metrics


def mean_over_images(values: Array, weight: Array) -> Mean:
    """Averages values [B] of the examples that are no padding and have a finite value."""
    return means.mean_of_examples(jnp.where(jnp.isfinite(values), values, jnp.nan), weight)


def class_colors(system: System, example: Example, region: Array, batch: Batch) -> Mean:
    """Sums the colours of each class of each image, from which the baseline is computed.

    Returns:
      Mean whose sum is [N, C + 1, 7] for the N places of the split: number of pixels, sums of the
      three channels and sums of their squares, over the pixels of a region. The count is 1.
    """
    counted = region[..., None] & (batch['weight'] > 0)[:, None, None, None]
    classes = jnp.where(counted, example.layout[..., : system.spec.classes.num_classes + 1], 0)
    photo = example.photo
    ones = jnp.ones((*photo.shape[:3], 1), jnp.float32)
    values = jnp.concatenate([ones, photo, photo**2], -1)
    exact = jax.lax.Precision.HIGHEST
    sums = jnp.einsum('bhwk,bhwv->bkv', classes, values, precision=exact)
    is_place = batch['index'][:, None] == jnp.arange(system.num_examples)  # [B, N]
    placed = jnp.where(is_place[..., None, None], sums[:, None], 0).sum(0)
    return Mean(placed, jnp.float32(1))


def segmenter_counts(
    system: System,
    state: TrainState,
    example: Example,
    picture: Array,
    region: Array,
    weight: Array,
) -> dict[str, Mean]:
    """Counts the classes that the segmenter predicts on painted images and on photos."""
    num_classes = system.spec.classes.num_classes
    label = jnp.where(region, example.label, IGNORE)
    counts = {}
    for name, shown in (('painted', picture), ('real', example.photo)):
        outputs, _ = system.segmenter.apply(
            state.params[JUDGE],
            state.model_state[JUDGE],
            images.to_uint8(shown, 'symmetric'),
            train=False,
        )
        logits = outputs['logits'].astype(jnp.float32)[..., :num_classes]
        prediction = jnp.argmax(resize.bilinear(logits, label.shape[1:]), -1)
        counts[f'confusion_{name}'] = confusion.confusion(prediction, label, num_classes, weight)
    return counts


def finalize(system: System, metrics: Mapping[str, Mean]) -> Scores:
    """Turns the sums over the evaluation split into scores, and adds a baseline.

    'baseline_class_color' paints each class in a single colour: its mean colour in the evaluation
    split itself. It sees the layout, and no training.
    """
    # The report shows scores in this order.
    scores: dict = {}
    if system.segmenter is not None:
        names = system.spec.classes.names
        policy = system.config.evaluate.policy
        of = {}
        for name in ('painted', 'real'):
            of[name] = confusion.scores(metrics[f'confusion_{name}'].sum, names, policy)
        ours = of['painted']['mIoU']
        real = of['real']['mIoU']
        scores['mIoU'] = ours
        scores['mIoU_real'] = real
        scores['mIoU_ratio'] = ours / real if ours is not None and real else None
    for name in ('PSNR_box', 'SSIM_box', 'PSNR', 'SSIM'):
        if name in metrics:
            count = metrics[name].count
            scores[name] = float(metrics[name].sum / count) if count else None
    if system.segmenter is not None:
        scores['per_class'] = {
            row: {'IoU': of['painted']['IoU'][row], 'IoU_real': of['real']['IoU'][row]}
            for row in names
        }
    baseline = psnr_of_class_colors(np.asarray(metrics['colors'].sum, np.float64))
    scores['baseline_class_color'] = {_key(system, 'PSNR'): baseline}
    return scores


def psnr_of_class_colors(sums: np.ndarray) -> float | None:
    """Returns the mean PSNR of images whose classes have the mean colours of the whole split.

    Images without an error have no finite PSNR, and are left out.

    Args:
      sums: [N, K, 7] of `class_colors`.

    Returns:
      dB, None if no image has a pixel with an error.
    """
    number = sums[:, :, :1]
    first = sums[:, :, 1:4]
    second = sums[:, :, 4:]
    color = first.sum(0) / np.maximum(number.sum(0), 1)  # [K, 3]
    square = (second - 2 * color * first + color**2 * number).sum((1, 2))
    values = 3 * number.sum((1, 2))
    # Rounding may make the error of an image of plain colours negative.
    shown = (values > 0) & (square > 0)
    if not shown.any():
        return None
    return float(np.mean(10 * np.log10(4 * values[shown] / square[shown])))


# --- pictures and predictions ---------------------------------------------------------------------


def render(system: System, state: TrainState, batch: Batch, keys: Keys) -> Pictures:
    """Paints label map and painted image, and of crops the photo without the box."""
    example, valid = evaluation_example(system.section, system.spec, batch)
    picture = painted(system, state, example)
    psnr = image_metrics.psnr(
        example.photo, picture, valid=valid if example.mask is None else valid & example.mask
    )
    shown = images.to_uint8(picture, 'symmetric')
    pictures: Pictures = {
        'label map': segmentation.paint(example.label, system.spec),
        'painted': Picture(shown, batch['size'], {_key(system, 'PSNR'): psnr}),
    }
    if example.mask is not None:
        pictures['outside the box'] = jnp.where(example.mask[..., None], 0, batch['image'])
    return of_images(pictures, batch)


def make_prediction(system: System, size: tuple[int, int]) -> Prediction:
    """Returns the painter for files: a label map in, a picture out.

    With edges an instance map belongs to the label map. Crops also need a photo and the map
    'mask_box', 1 inside the box that is painted.
    """
    section = system.section
    inputs = {'label': Feature('label')}
    if section.instance_edges:
        inputs['instance'] = Feature('instance')
    if section.input == 'crop':
        inputs['image'] = Feature('image')
        inputs['mask_box'] = Feature('instance')

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        label = batch['label']
        valid = segmentation.valid_pixels(batch['size'], label)
        label = jnp.where(valid, label, IGNORE)
        # A painter of whole images reads no photo.
        photo = batch.get('image', jnp.zeros((*label.shape, 3), jnp.uint8))
        example = example_of(
            section,
            system.spec,
            {**batch, 'image': photo},
            label,
            batch.get('instance'),
            valid,
        )
        return {'painted': images.to_uint8(painted(system, state, example), 'symmetric')}

    return Prediction(inputs=inputs, outputs={'painted': 'image'}, apply=apply, size=tuple(size))
