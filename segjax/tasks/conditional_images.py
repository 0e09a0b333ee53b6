"""Images from landmarks or normal maps: conditions, frozen nets, evaluation and prediction.

Parts that every generator of chapter 5 of He's thesis shares:

1. The condition X: a heat map for each landmark, or a normal map.
2. Phi, a frozen net of features, for perceptual losses and for the diversity of samples. The
   diversity can have a Phi of its own, which no generator has learned from.
3. Frozen nets that score samples: landmarks of faces, normals of heads. A first stage trains them,
   or they come from another run.
4. The evaluation of n samples for each condition (segjax/tasks/sampling.py), and predictions.
"""

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax import models
from segjax.core import rng
from segjax.errors import InputError
from segjax.metrics import lpips
from segjax.ops import heat_maps, images
from segjax.ops import normals as normal_ops
from segjax.protocol import (
    Array,
    Batch,
    Input,
    Keys,
    Picture,
    Prediction,
    PRNGKey,
    PyTree,
    Stage,
    TrainState,
)
from segjax.schema import Field, above, one_of
from segjax.spec import DataSpec, Feature
from segjax.tasks import landmarks, normals, sampling, scorers, sources
from segjax.tasks.evaluation import Pictures

POINTS = landmarks.FEATURE
"""Feature of the landmarks, [n, 2]."""
NORMALS = normals.FEATURE
"""Feature of the normal map, [H, W, 3]."""
CONDITIONS = {'landmarks': POINTS, 'normals': NORMALS}

PHI = 'vgg'
"""Name of Phi in a state."""
SCORE_PHI = 'score_vgg'
"""Name of the Phi of scores alone in a state."""
HEADS = 'lpips'
"""Name of the linear heads of LPIPS in a state."""
SAME = 'same'
"""`score_features.use`: losses and scores have the same Phi."""
IMAGE = 'image'
"""Name of the image among the layers of Phi."""

POOLED = {
    'vgg16': ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3'),
    'vgg19': ('conv1_2', 'conv2_2', 'conv3_4', 'conv4_4'),
}
"""Layers in front of the first four poolings, by net. Their pooled maps measure diversity."""

KEYS = {
    'condition': {
        'name': Field(
            'landmarks',
            'Input of the generator: heat maps of landmarks, or a normal map.',
            one_of(*CONDITIONS),
        ),
        'sigma': Field(
            1.5, 'Standard deviation of the heat map of a landmark, in pixels.', above(0)
        ),
    },
    'features': {
        'use': Field(
            'load',
            f"Frozen net Phi of features: loaded from the row '{PHI}' of init_from.sources, or "
            'with random weights, which do not depend on the seed.',
            one_of('load', 'random'),
        ),
        'model': models.net_choice('features', 'vgg19', 'Frozen net Phi of features.'),
    },
    'score_features': {
        'use': Field(
            SAME,
            'Frozen net of features that scores samples: the net of `features`, or a net of its '
            f"own, loaded from the row '{SCORE_PHI}' of init_from.sources or with random weights.",
            one_of(SAME, 'load', 'random'),
        ),
        'model': models.net_choice(
            'features', 'vgg16', 'Net of features that scores samples, if it is not the same.'
        ),
        'lpips': Field(
            False,
            'Score the perceptual distance (LPIPS) between samples, by a loaded vgg16 and linear '
            f"heads from the row '{HEADS}' of init_from.sources.",
        ),
    },
    'landmarks': landmarks.LANDMARKS,
    'normals': normals.NORMALS,
}
"""Config sections of every generator."""


class Phi(NamedTuple):
    """A frozen net of features.

    name     of the net in a state
    section  of the config
    net      the net
    """

    name: str
    section: str
    net: nn.Module


class Task(NamedTuple):
    """The inputs that all functions share.

    config     of the run
    spec       of the data set
    phi        net of features of the loss. None: the loss reads no features
    score_phi  net of features of the scores, perhaps the same. None: the scores read no features
    size       (height, width) of the images
    """

    config: ml_collections.ConfigDict
    spec: DataSpec
    phi: Phi | None
    score_phi: Phi | None
    size: tuple[int, int]

    @property
    def feature(self) -> str:
        """Returns the name of the feature of the condition."""
        return CONDITIONS[self.config.condition.name]

    @property
    def channels(self) -> int:
        """Returns K, the channels of the condition."""
        return 3 if self.feature == NORMALS else self.spec.declared[POINTS].shape[0]

    @property
    def phis(self) -> tuple[Phi, ...]:
        """Returns the different nets of features."""
        nets = {phi.name: phi for phi in (self.phi, self.score_phi) if phi is not None}
        return tuple(nets.values())


def make_task(
    config: ml_collections.ConfigDict, spec: DataSpec, layers: Sequence[str] = ()
) -> Task:
    """Builds the task of a config.

    Args:
      config: of the run.
      spec: of the data set.
      layers: of Phi that the loss reads.

    Raises:
      InputError: settings that contradict each other, or a frozen net without a source.
    """
    check(config, spec)
    section = score_section(config)
    scored = score_layers(config)
    size = tuple(config.augment.crop)
    if section == 'features':
        phi = make_phi(config, section, PHI, (*layers, *scored))
        return Task(config, spec, phi, phi, size)
    phi = make_phi(config, 'features', PHI, layers)
    score_phi = make_phi(config, section, SCORE_PHI, scored)
    return Task(config, spec, phi, score_phi, size)


def score_section(config: ml_collections.ConfigDict) -> str:
    """Returns the config section of the net of features that scores samples."""
    return 'features' if config.score_features.use == SAME else 'score_features'


def score_layers(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the layers that the scores read. A layer may be named twice."""
    section = config[score_section(config)]
    pooled = POOLED[section.model.name] if config.testing.features else ()
    compared = lpips.VGG16_LAYERS if config.score_features.lpips else ()
    return (*pooled, *compared)


def make_phi(
    config: ml_collections.ConfigDict, section: str, name: str, layers: Sequence[str]
) -> Phi | None:
    """Builds a net of features, None without layers.

    Args:
      config: of the run.
      section: of the net.
      name: of the net in a state.
      layers: that are read. A layer may be named twice.

    Raises:
      InputError: a net that is loaded, but has no source.
    """
    used = tuple(dict.fromkeys(layers))
    if not used:
        return None
    model = config[section].model
    if config[section].use == 'load':
        sources.check_source(
            config,
            name,
            (f'{model.name}.pth', 'weights of this net (torchvision)'),
            f'--config.{section}.use=random takes random weights',
        )
    net = models.build_from('features', model, layers=used, dtype=config.train.dtype)
    return Phi(name, section, net)


# --- inputs ---------------------------------------------------------------------------------------


def train_input(task: Task, frames: Any = (), further: Sequence[str] = ()) -> Input:
    """Returns the training images with their conditions.

    Args:
      task: of the run.
      frames: `Input.frames`.
      further: features of the frames.
    """
    config = task.config
    return Input(
        split=config.data.train_split,
        batch_size=config.train.batch_size,
        features=('image', task.feature, *further),
        size=task.size,
        augment=config.augment,
        frames=frames,
    )


def eval_input(task: Task) -> Input:
    """Returns the evaluation images with their conditions and the truth of the scores."""
    config = task.config
    return Input(
        split=config.data.eval_split,
        batch_size=config.evaluate.batch_size,
        features=('image', task.feature),
        size=tuple(config.data.eval_size),
    )


# --- conditions -----------------------------------------------------------------------------------


def condition_of(task: Task, value: Array, size: tuple[int, int]) -> Array:
    """Returns the condition X, [B, H, W, K].

    Args:
      task: of the run.
      value: landmarks [B, n, 2] in pixels of a map of this size, or normals [B, H, W, 3].
      size: (H, W).
    """
    if task.feature == NORMALS:
        return value
    return heat_maps.gaussian(value, size, task.config.condition.sigma)


def batch_condition(task: Task, batch: Batch) -> Array:
    """Returns the condition of a batch at the size of its images."""
    value = normals.on_images(batch) if task.feature == NORMALS else batch[task.feature]
    return condition_of(task, value, batch['image'].shape[1:3])


def show_condition(task: Task, batch: Batch) -> Pictures:
    """Paints the condition: heat maps in white, or the normals as colours."""
    condition = batch_condition(task, batch)
    if task.feature == NORMALS:
        return {'condition': Picture(normal_ops.paint(condition), batch['size'])}
    heat = jnp.round(255 * condition.max(-1)).astype(jnp.uint8)
    return {'condition': Picture(heat, batch['size'])}


# --- features -------------------------------------------------------------------------------------


def features_of(phi: Phi | None, params: Mapping[str, PyTree], image: Array) -> dict[str, Array]:
    """Returns Phi of images [..., H, W, 3] in [-1, 1], by layer. The image is a layer, too.

    Phi sees images with the mean and the standard deviation of ImageNet. The layer of the image has
    the same unit.

    Args:
      phi: the net. None: the image is the only layer.
      params: of a state.
      image: the images.
    """
    lead = image.shape[:-3]
    flat = image.reshape(-1, *image.shape[-3:])
    normalised = images.normalize((flat + 1) * 127.5, 'imagenet')
    layers = {IMAGE: normalised}
    if phi is not None:
        layers |= phi.net.apply({'params': params[phi.name]}, normalised)
    return {name: maps.reshape(*lead, *maps.shape[1:]) for name, maps in layers.items()}


def score_maps(task: Task, state: TrainState, image: Array) -> sampling.FeatureMaps:
    """Returns the maps of Phi that the scores read, of images [N, H, W, 3] in [-1, 1].

    They are those behind the first four poolings, and the layers that LPIPS compares.
    """
    config = task.config
    layers = features_of(task.score_phi, state.params, image)
    pooled = {}
    if config.testing.features:
        model = config[score_section(config)].model
        for number, layer in enumerate(POOLED[model.name], start=1):
            pooled[f'pool{number}'] = nn.max_pool(layers[layer], (2, 2), (2, 2))
    if not config.score_features.lpips:
        return sampling.FeatureMaps(pooled)
    compared = {layer: layers[layer] for layer in lpips.VGG16_LAYERS}
    return sampling.FeatureMaps(pooled, compared, lpips.heads_of(state.params[HEADS]))


# --- frozen nets ----------------------------------------------------------------------------------


SCORERS: dict[str, Any] = {'landmarks': landmarks, 'normals': normals}
"""Modules of the nets that score samples, by config section. A section names the stage, too."""


def used_scorers(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the modules of the nets that score the samples of a run, by config section."""
    return {key: module for key, module in SCORERS.items() if config[key].use != models.NO_NET}


def scorer_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Returns the stages that train the nets of the scores."""
    stages = []
    for key, module in used_scorers(config).items():
        section = config[key]
        if section.use == 'train':
            stages.append(module.make_stage(config, spec, section, name=key))
    return tuple(stages)


def loaded_nets(task: Task) -> tuple[str, ...]:
    """Returns the names of the nets that come from other runs or files."""
    config = task.config
    loaded = [module.NET for key, module in SCORERS.items() if config[key].use == 'load']
    loaded += [phi.name for phi in task.phis if config[phi.section].use == 'load']
    if config.score_features.lpips:
        loaded.append(HEADS)
    return tuple(loaded)


def frozen_variables(
    task: Task, key: PRNGKey, earlier: Mapping[str, TrainState]
) -> dict[str, Mapping]:
    """Returns the variables of the frozen nets, {net: variables}, for `Stage.init`.

    Nets that come from `init_from` are drawn here, and replaced by the driver.

    Args:
      task: of the run.
      key: of the seed.
      earlier: states of the stages before.
    """
    config, spec, _, _, size = task
    variables: dict[str, Mapping] = {}
    # The same random nets for all seeds, so that their losses and scores can be compared.
    photo = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    for phi in task.phis:
        variables[phi.name] = phi.net.lazy_init(rng.root(0, phi.name), photo)
    if config.score_features.lpips:
        maps = jax.eval_shape(task.score_phi.net.apply, variables[task.score_phi.name], photo)
        channels = {layer: maps[layer].shape[-1] for layer in lpips.VGG16_LAYERS}
        variables[HEADS] = {'params': lpips.equal_heads(channels)}
    for section, module in used_scorers(config).items():
        variables_of = module.make_variables(config, spec, config[section], size, section)
        variables[module.NET] = variables_of(key, earlier)
    return variables


# --- evaluation and prediction --------------------------------------------------------------------


Draw = Callable[[TrainState, Array, Array | None], Array]
"""(state, condition [B, H, W, K], codes) -> samples [B, n, H, W, 3] in [-1, 1]."""
Codes = Callable[[TrainState], Array]
"""State -> codes [n, ...] of the samples of every example."""


def make_judge(task: Task, draw: Draw, codes: Codes | None) -> sampling.Judge:
    """Returns the evaluation of samples, with the frozen nets of the config.

    Args:
      task: of the run.
      draw: draws samples.
      codes: of the samples. None: the net has no codes.
    """
    config, spec = task.config, task.spec
    functions: dict[str, Any] = {}
    for section, module in used_scorers(config).items():
        scorer = module.make_scorer(config, spec, config[section])
        functions[section] = functools.partial(_scored, module.NET, scorer)
    if score_layers(config):
        functions['features'] = functools.partial(score_maps, task)

    def draw_batch(state: TrainState, batch: Batch, keys: Keys) -> Array:
        return draw(state, batch_condition(task, batch), codes(state) if codes else None)

    return sampling.Judge(
        draw=draw_batch,
        show=functools.partial(show_condition, task),
        frozen=sampling.Frozen(**functions),
        testing=config.testing,
        num_examples=spec.split(config.data.eval_split).num_examples,
        points_key=POINTS if 'landmarks' in functions else '',
        normals_key=NORMALS if 'normals' in functions else '',
    )


def _scored(name: str, scorer: Callable, state: TrainState, image: Array) -> Array:
    """Applies a frozen net of the state to images."""
    return scorer(state.params[name], state.model_state[name], image)


def make_prediction(
    task: Task, draw: Draw, codes: Codes | None, code_shape: tuple[int, ...] = ()
) -> Prediction:
    """Returns the generator for files: a condition in, samples out.

    Landmarks are pixels of an image of the size `data.eval_size`. The codes are those of the file
    `predict.codes`, if it is given.

    Args:
      task: of the run.
      draw: draws samples.
      codes: of the samples. None: the net has no codes.
      code_shape: of a code.

    Raises:
      InputError: a file of codes that the net cannot use.
    """
    # The file is read before anything compiles.
    size = tuple(task.config.data.eval_size)
    path = task.config.predict.codes
    stored = read_codes(path, code_shape) if path and codes is not None else None
    declared = {**task.spec.declared, NORMALS: Feature('normals')}

    def used_codes(state: TrainState) -> Array | None:
        if codes is None:
            return None
        return codes(state) if stored is None else jnp.asarray(stored)

    def apply(state: TrainState, batch: Batch, keys: Keys) -> dict[str, Array]:
        condition = condition_of(task, batch[task.feature], size)
        drawn = draw(state, condition, used_codes(state))
        return {'samples': images.to_uint8(drawn, 'symmetric')}

    return Prediction(
        inputs={task.feature: declared[task.feature]},
        outputs={'samples': 'images'},
        apply=apply,
        size=size,
        check=functools.partial(check_points, size) if task.feature == POINTS else None,
        codes=None if codes is None else lambda state: {'codes': used_codes(state)},
    )


# --- checks ---------------------------------------------------------------------------------------


def check_points(size: tuple[int, int], example: Mapping[str, Any]) -> None:
    """Raises InputError for landmarks outside of an image of the size (height, width)."""
    points = np.asarray(example[POINTS])
    limit = np.array(size[::-1]) - 0.5
    inside = ((points >= -0.5) & (points <= limit)).all(-1)
    if not inside.all():
        number = int(np.flatnonzero(~inside)[0])
        raise InputError(
            POINTS,
            got=f'landmark {number} at {tuple(points[number].tolist())}',
            expected=f'(x, y) in pixels of an image of {size[0]} x {size[1]}',
            fix='scale the landmarks to this size',
        )


def read_codes(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Reads the codes of an earlier prediction, [n, *shape].

    Raises:
      InputError: no such file, another content, or codes of another net.
    """
    where = 'config.predict.codes'
    expected = f'the file codes.npz of a prediction, with codes of shape {["n", *shape]}'
    fix = 'predict without config.predict.codes, which writes codes.npz'
    try:
        # An .npy file is an array, which is no context manager.
        with np.load(path) as stored:
            codes = stored['codes'].astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(where, got=f'{path}: {error}', expected=expected, fix=fix) from error
    if codes.ndim != 1 + len(shape) or codes.shape[1:] != tuple(shape) or not len(codes):
        got = f'codes of shape {list(codes.shape)}'
        raise InputError(where, got=got, expected=expected, fix=fix)
    if not np.isfinite(codes).all():
        raise InputError(where, got='codes with NaN or infinity', expected=expected, fix=fix)
    return codes


def check(config: ml_collections.ConfigDict, spec: DataSpec) -> None:
    """Raises InputError for settings that contradict each other, or a scorer without a source."""
    feature = CONDITIONS[config.condition.name]
    world = 'heads' if feature == NORMALS else 'faces'
    check_feature(spec, feature, 'config.condition.name', f'--config.data.name={world}')

    # Sizes of training and evaluation.
    crop = tuple(config.augment.crop)
    size = tuple(config.data.eval_size)
    if crop != size:
        raise InputError(
            'config.data.eval_size',
            got=f'{size}, with augment.crop {crop}',
            expected='equal sizes, because a generator has a single size',
            fix=f'--config.data.eval_size="{crop}"',
        )
    resize = tuple(config.augment.resize)
    if resize and (resize[0] < crop[0] or resize[1] < crop[1]):
        raise InputError(
            'config.augment.resize',
            got=f'{resize}, with augment.crop {crop}',
            expected='a size as large as the crop, because evaluation shows no border',
            fix=f'--config.augment.resize="{crop}"',
        )

    # Nets that score samples.
    if config.score_features.lpips:
        check_lpips(config)
    for section, module in used_scorers(config).items():
        where = f'config.{section}.use'
        check_feature(spec, module.FEATURE, where, f'--{where}={models.NO_NET}')
        scorers.check_source(config, config[section], module.NET, section)


def check_lpips(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for LPIPS without its heads, or on features that they do not belong to."""
    without = '--config.score_features.lpips=False scores without them'
    heads = ('lpips/weights/v0.1/vgg.pth', 'the linear heads of the package lpips')
    sources.check_source(config, HEADS, heads, without)
    where = score_section(config)
    section = config[where]
    if section.use != 'load' or section.model.name != 'vgg16':
        raise InputError(
            'config.score_features.lpips',
            got=f'True, with {where}.use={section.use!r} and {where}.model.name='
            f'{section.model.name!r}',
            expected='weights of vgg16, on which the heads were trained',
            fix='--config.score_features.use=load --config.score_features.model.name=vgg16, with '
            f'its weights in a row {SCORE_PHI!r} of init_from.sources; or {without}',
        )


def check_feature(spec: DataSpec, key: str, where: str, fix: str) -> None:
    """Raises InputError with a fix if the data set has no such feature."""
    if key in spec.features:
        return
    raise InputError(
        where,
        got=f'data set {spec.name!r}, without the feature {key!r}',
        expected='a data set that has it: faces, landmark_folder and lfw have landmarks, heads and '
        'oxford_pet have normals',
        fix=fix,
    )
