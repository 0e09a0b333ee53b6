"""Every experiment of configs/, in every variant that its docstring names.

Each experiment resolves, fits its nets, and steps.
"""

import ast
import dataclasses
import math
import pathlib
import re
import shlex
import types

import jax
import numpy as np
import pytest
import shallow_nets

from segjax import config as config_lib
from segjax import models, pipelines
from segjax.config import config_file
from segjax.core import optim, parallel, rng
from segjax.core.trees import named_leaves
from segjax.data import labels, loader, transforms
from segjax.data.face_points import FEATURE
from segjax.errors import InputError
from segjax.spec import ClassSpec, DataSpec
from segjax.train import checks, driver

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((REPOSITORY / 'configs').glob('*.py'))
CLASSES = {
    'ade20k': labels.ADE20K,
    'ade20k_bedroom': labels.ADE20K_BEDROOM,
    'apolloscape': labels.APOLLOSCAPE,
    'bdd100k': labels.CITYSCAPES_TRAIN_IDS.classes,
    'camvid': labels.CAMVID,
    'cityscapes': labels.CITYSCAPES,
    'cityscapes_all': labels.CITYSCAPES_ALL,
    'cityscapes_video': labels.CITYSCAPES,
    'coco_panoptic': labels.COCO_PANOPTIC,
    'streets': labels.CITYSCAPES,
    'vistas': labels.VISTAS,
    'nyu_depth': labels.NYU40,
    'rooms': labels.NYU40,
    'faces': labels.FACE_PARTS,
    'heads': labels.HEAD_PARTS,
    'lfw': ClassSpec((), (), ()),
    'landmark_folder': ClassSpec((), (), ()),
    'oxford_pet': ClassSpec((), (), ()),
    'folder': ClassSpec(('background', 'car'), ((0, 0, 0), (1, 1, 1)), (0, 1)),
    'rgbd_folder': ClassSpec(('background', 'chair'), ((0, 0, 0), (1, 1, 1)), (0, 1)),
}
PORTRAITS = {
    'faces': 'points_face',
    'lfw': 'points_face',
    'landmark_folder': 'points_face',
    'heads': 'normals',
    'oxford_pet': 'normals',
}
"""Features of data sets whose images are drawn from them."""
VIDEO = {
    'apolloscape': ('intrinsics', 'pose'),
    'cityscapes_video': ('intrinsics',),
    'streets': ('intrinsics', 'pose', 'depth'),
    'nyu_depth': ('intrinsics', 'depth', 'frame'),
    'rgbd_folder': ('intrinsics', 'depth', 'frame'),
    'rooms': ('intrinsics', 'pose', 'depth', 'frame'),
}
MERGED = {
    '13': labels.NYU13.classes,
    '4': labels.NYU4.classes,
    'things': labels.COCO_THINGS.classes,
}


def variants(path: pathlib.Path) -> list[str]:
    """'' and the names that the error for an unknown variant lists."""
    with pytest.raises(InputError) as error:
        config_file.load(f'{path}:no_such_variant')
    return ['', *error.value.expected.removeprefix('one of ').split(', ')]


EXPERIMENTS = [f'{path}:{variant}' for path in FILES for variant in variants(path)]


SOURCES = (
    *('conditional_gan', 'dense_features', 'dropout_codes', 'label_to_image'),
    *('membership', 'pixel_neighbours', 'semantic_inpainting'),
)
"""Pipelines with a net that comes from a file."""


def load(experiment):
    """Returns the config of an experiment, with names of the files that it cannot do without."""
    config = config_file.load(experiment)
    if config.pipeline in SOURCES:
        config.init_from.update(path='runs/painter', sources=(('vgg', 'vgg19.pth'),))
    return config


def short(experiment):
    return experiment.rpartition('/')[2]


def spec_of(config) -> DataSpec:
    """A data set of that name that exists only as numbers."""
    classes = MERGED.get(config.data.class_map, CLASSES[config.data.name])
    pixels = tuple(1000 + i for i in range(classes.num_classes))
    size = tuple(config.data.eval_size)
    held_out = config.data.eval_split
    portrait = PORTRAITS.get(config.data.name)
    further = (portrait,) if portrait else VIDEO.get(config.data.name, ())
    # Lists of examples are splits too.
    lists = []
    for section in config_lib.data_sections(config.pipeline):
        lists += [entry.partition('=')[0] for entry in config[section].lists]
    num_examples = {'train': 100, held_out: 10, **dict.fromkeys(lists, 10)}
    spec = DataSpec(
        name=config.data.name,
        classes=classes,
        features=('image', 'label', 'name', 'instance', *further),
        num_examples=num_examples,
        max_size=dict.fromkeys(num_examples, size),
        class_pixels=dict.fromkeys(num_examples, pixels),
        void_pixels=num_examples,
        declared={portrait: FEATURE} if portrait == 'points_face' else {},
    )
    return pipelines.promised(config, {'data': spec})['data']


def make_stages(config, spec):
    """Returns the stages of a config, whose additional data sets are like its main data set."""
    further = dict.fromkeys(config_lib.data_sections(config.pipeline)[1:], spec)
    return pipelines.load(config.pipeline).make_stages(config, spec, **further)


def abstract_batch(inputs, evaluation, declared):
    """ShapeDtypeStructs of a batch, as segjax/protocol.py documents them."""
    batch = loader.zeros(inputs, inputs.batch_size, declared)
    if evaluation:
        batch |= {key: np.zeros((inputs.batch_size, 2), np.int32) for key in ('size', 'label_size')}
    return {key: jax.ShapeDtypeStruct(value.shape, value.dtype) for key, value in batch.items()}


@pytest.mark.parametrize('experiment', EXPERIMENTS, ids=short)
def test_it_resolves_and_survives_the_run_folder(experiment):
    config = config_file.load(experiment)
    config_lib.validate(config)
    assert config.is_locked
    assert config_lib.from_json(config_lib.to_json(config)) == config


def documented(path: pathlib.Path):
    """Yields (argument, value) for all values that the docstring of a config file lists."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    for name, values in re.findall(r'`(\w+)=([\w|]+\|[\w|]+)`', docstring):
        yield from ((name, value) for value in values.split('|'))
    listed = docstring.partition('Methods, `method=`:')[2].partition('\n\n')[0]
    yield from (('method', name) for name in re.findall(r'^  (\w+) ', listed, re.MULTILINE))


WITH_ARGUMENTS = [
    f'{path}:{variant},{name}={value}'
    for path in FILES
    for variant in variants(path)
    for name, value in documented(path)
    if variant != 'camvid_vgg' or name != 'net' or value == 'largefov'  # the variant is of that net
    # Variants of the papers have their own net.
    if path.stem != 'label_to_image' or variant in ('quick', 'smoke')
]


@pytest.mark.parametrize('experiment', WITH_ARGUMENTS, ids=short)
def test_every_documented_value_of_an_argument_makes_stages(experiment):
    config = load(experiment)
    config_lib.validate(config)
    if 'system=start' in experiment and not config.train.num_steps:
        config.train.num_steps = 1  # only the variants that have a start train it
    spec = spec_of(config)
    if 'method=pose' in experiment:
        spec = dataclasses.replace(spec, features=('image', 'label', 'name', *VIDEO['streets']))
    for stage in make_stages(config, spec):
        inputs = stage.train_input or stage.eval_input
        assert inputs.features


GENERATORS = ('conditional_gan', 'dropout_codes', 'pixel_neighbours')
"""Experiments with images from landmarks or normal maps."""


@pytest.mark.parametrize('name', GENERATORS)
def test_the_world_is_that_of_the_data_set_of_the_variant(name):
    path = f'{REPOSITORY}/configs/{name}.py'
    with pytest.raises(InputError, match='quick and smoke'):
        config_file.load(f'{path}:pets,world=faces')
    with pytest.raises(InputError, match='one of'):
        config_file.load(f'{path}:quick,world=head')
    assert config_file.load(f'{path}:pets,world=heads').data.name == 'oxford_pet'
    config = config_file.load(f'{path}:quick,world=heads')
    assert (config.data.name, config.condition.name) == ('heads', 'normals')


@pytest.mark.parametrize('name', GENERATORS)
@pytest.mark.parametrize('variant', ['', 'pets', 'photos', 'photos_quick', 'quick', 'smoke'])
def test_generators_train_on_the_whole_images_that_evaluation_shows(name, variant):
    config = config_file.load(f'{REPOSITORY}/configs/{name}.py:{variant}')
    config.augment.flip = 0.0
    size = tuple(config.data.eval_size)
    matrix = transforms.sample_matrix(np.random.default_rng(0), config.augment, (250, 250))
    np.testing.assert_allclose(matrix, transforms.resize_matrix((250, 250), size))


def test_every_net_may_be_chosen_by_argument():
    names = [
        value for name, value in documented(REPOSITORY / 'configs/supervised.py') if name == 'model'
    ]
    assert sorted(names) == sorted(models.NETS['segmentation'])


@pytest.mark.slow
@pytest.mark.parametrize('net', sorted(models.NETS['segmentation']))
def test_every_net_takes_the_steps_of_the_smallest_variant(net, monkeypatch):
    shallow_nets.use(monkeypatch)
    config = config_file.load(f'{REPOSITORY}/configs/supervised.py:smoke,model={net}')
    data = types.SimpleNamespace(spec=spec_of(config), open_input=lambda inputs: range(10))
    run = driver.Run(config, {'data': data}, pathlib.Path('no run'), parallel.topology('pmap', 1))
    stages = pipelines.load(config.pipeline).make_stages(config, run.spec)
    assert list(checks.problems(run, stages, 'train', begun=False)) == []


@pytest.mark.parametrize('variant', ['', 'cityscapes', 'cityscapes_quick', 'quick', 'smoke'])
def test_the_pose_net_alone_has_a_stage_in_every_variant(variant):
    """What is missing is the depth of the data set alone, never a key of the variant."""
    config = config_file.load(f'{REPOSITORY}/configs/scene_geometry.py:{variant},method=pose')
    spec = dataclasses.replace(
        spec_of(config), features=('image', 'label', 'name', *VIDEO['streets'])
    )
    (stage,) = pipelines.load(config.pipeline).make_stages(config, spec)
    assert stage.name == 'pose'


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_the_docstring_tells_of_every_variant_and_has_a_command(path):
    docstring = path.read_text().split('"""')[1]
    for variant in variants(path)[1:]:
        assert re.search(rf'^  {variant} ', docstring, re.MULTILINE), variant
    assert f'bash launch/local.sh --config configs/{path.name}:quick' in docstring
    assert {'quick', 'smoke'} <= set(variants(path))


USUAL = {
    'shape_classifier.py': 'lite0',
    'dense_features.py': None,
    'membership.py': None,
    'monocular_normals.py': None,
    'pixel_neighbours.py': None,
}
"""The variant by which a file is traced, if it is not the paper's. None: all variants are slow.

EfficientNet-B7 takes ten times as long as lite0, under the same config. PSPNet-101 with a GAN takes
half a minute. The large net of monocular_normals.py is that of supervised.py, and the large nets of
pixel_neighbours.py are those of dropout_codes.py.
"""


def unusual_is_slow(experiment):
    """Marks variants as slow.

    They differ from the experiment of the paper in sizes. Tracing each size takes time.
    tests/test_smoke.py trains the smallest.
    """
    file, _, variant = short(experiment).partition(':')
    is_usual = variant == USUAL.get(file, '')
    return pytest.param(
        experiment, marks=() if is_usual else pytest.mark.slow, id=short(experiment)
    )


@pytest.mark.parametrize('experiment', [unusual_is_slow(experiment) for experiment in EXPERIMENTS])
def test_full_size_steps_have_the_shapes_of_their_state(experiment):
    """Traces init, train_step and eval_step at full size on one device.

    Tracing finds wrong configs without arithmetic.
    """
    config = load(experiment)
    topology = parallel.topology(config.parallel.mode, 1)
    earlier = {}
    spec = spec_of(config)
    run = types.SimpleNamespace(config=config, topology=topology, spec_of=lambda _: spec)
    for stage in make_stages(config, spec):
        functions = driver.map_functions(run, stage)
        root = rng.root(0, stage.name, 'test')
        inputs = stage.train_input if stage.num_steps else stage.eval_input
        state = jax.eval_shape(
            stage.init, root, abstract_batch(inputs, not stage.num_steps, spec.declared), earlier
        )

        def with_devices(batch):
            return {k: jax.ShapeDtypeStruct((1, *v.shape), v.dtype) for k, v in batch.items()}

        if stage.num_steps:
            batch = with_devices(abstract_batch(stage.train_input, False, spec.declared))
            after, metrics, flags = jax.eval_shape(functions.train, state, batch, root)
            same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
            assert all(jax.tree.leaves(same)), 'a step changes the shape or the type of its state'
            assert metrics['loss'].sum.shape == () and flags['finite']
            parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
            assert parameters > 0
        batch = with_devices(abstract_batch(stage.eval_input, True, spec.declared))
        totals, outputs = jax.eval_shape(functions.evaluate, state, batch, root, np.int32(0))
        sums = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), totals)
        if stage.observation is not None:
            sums |= stage.observation.observe(no_rows(batch), no_rows(outputs))
        with np.errstate(invalid='ignore'):  # nothing was counted
            scores = stage.finalize(sums)
        assert stage.monitor[0] in scores and stage.monitor[1] in ('max', 'min')
        earlier[stage.name] = state
        if stage.hand_on is not None:
            earlier |= {f'{stage.name}/{name}': x for name, x in stage.hand_on.shapes.items()}


def no_rows(shapes):
    """Returns arrays of no example, from shapes [devices, rows, ...]."""
    return {key: np.zeros((0, *shape.shape[2:]), shape.dtype) for key, shape in shapes.items()}


def segmenter_of(name, **arguments):
    """Returns the shapes of the parameters of a segmentation net, as its optimiser gets them."""
    net = models.build(
        'segmentation', name, num_classes=3, dtype='float32', axis_name=None, **arguments
    )
    image = jax.ShapeDtypeStruct((1, 64, 128, 3), np.float32)
    variables = jax.eval_shape(
        lambda key: net.lazy_init(key, image, train=False), jax.random.key(0)
    )
    return {'segmenter': variables['params']}


@pytest.mark.parametrize('release', ['torchseg', 'coin'])
def test_every_layer_of_bisenet_outside_its_resnet_learns_faster(release):
    factors = config_file.load('configs/scene_geometry.py:').optim.factors
    names = named_leaves(segmenter_of('bisenet', release=release))
    faster = {name for name in names if any(re.fullmatch(pattern, name) for pattern, _ in factors)}
    assert faster == {name for name in names if not name.startswith('segmenter/cp/resnet/')}


@pytest.mark.parametrize(
    'name',
    ['erfnet', 'depth_and_segmentation']
    + [pytest.param(name, marks=pytest.mark.slow) for name in ('deeplab_v3plus', 'pspnet')],
)
def test_another_net_does_not_learn_ten_times_as_fast(name):
    config = config_file.load('configs/scene_geometry.py:')
    config_file.assign(config, [config_file.Assignment('model.name', name)])
    params = segmenter_of(name)
    with pytest.raises(InputError, match='matches no parameter') as error:
        optim.make(config.optim, 10, params)
    _, assignments = config_file.split_arguments(['main', *shlex.split(error.value.fix)])
    config_file.assign(config, assignments)
    optim.make(config.optim, 10, params)
    assert config.optim.factors == ()
