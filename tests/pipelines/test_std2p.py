"""STD2P: inputs of each pooling, pooled scores against loops, gradients, devices, a whole run."""

import ast
import dataclasses
import pathlib
import shlex
from string import digits

import jax
import layouts
import numpy as np
import pytest
from clip_batches import FRAMES, REACH, SIZE, P, make_batch
from fakes import NUM_CLASSES, SPEC
from nets import size
from predicting import contents

from segjax import config as config_lib
from segjax import pipelines
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.core.trees import named_leaves
from segjax.data.labels import NYU40
from segjax.errors import InputError
from segjax.modes import doctor, predict
from segjax.modes.table import plan as table_plan
from segjax.pipelines import std2p as pipeline
from segjax.protocol import DrawnFrames
from segjax.schema import POOLING_USES
from segjax.spec import IGNORE, ClassMap, ClassSpec
from segjax.train import driver

STILLS = dataclasses.replace(SPEC, features=(*SPEC.features, 'depth', 'intrinsics'))
INDOOR = dataclasses.replace(STILLS, features=(*STILLS.features, 'sequence', 'frame'))


def make_config(arg='', **sections):
    """Returns the config of `:smoke` for batches of `make_batch`."""
    config = config_file.load(f'configs/std2p.py:smoke{arg}')
    config.update(sections)
    config.regions.num_regions = P
    config.pooling.update(reach=REACH, interval=1, num_frames=FRAMES)
    config.testing.num_frames = FRAMES
    config.frames.num_steps = 0
    config.augment.crop = SIZE
    return config


# --- the experiments of the thesis ----------------------------------------------------------------


def test_the_net_has_the_published_size():
    config = config_file.load('configs/std2p.py')
    splits = {
        field: {**getattr(INDOOR, field), 'test': getattr(INDOOR, field)['val']}
        for field in ('num_examples', 'max_size', 'class_pixels', 'void_pixels')
    }
    spec = dataclasses.replace(INDOOR, classes=NYU40, **splits)
    (stage,) = pipeline.make_stages(config, spec)
    batch = {
        'image_frames': np.zeros((1, 1, 425, 560, 3), np.uint8),
        'planes_hha_frames': np.zeros((1, 1, 425, 560, 3), np.uint8),
    }
    state = jax.eval_shape(lambda: stage.init(jax.random.key(0), batch, {}))
    assert size(state.params['segmenter']) == 268_889_888
    assert stage.num_steps == 1000
    assert stage.train_input.frames == DrawnFrames(11, tuple(range(-150, 151, 3)), fill=True)
    assert stage.train_input.size == stage.eval_input.size == (425, 560)
    assert stage.eval_input.split == 'test'
    assert stage.train_input.augment.flip == 0


@pytest.mark.parametrize('use', POOLING_USES)
def test_inputs_have_the_features_of_their_pooling(use):
    (stage,) = pipeline.make_stages(make_config(f',use={use}'), INDOOR)
    features = {
        'none': {'image', 'label', 'planes_hha'},
        'superpixel': {'image', 'label', 'planes_hha', 'ids_region'},
        'full': {'ids_region', 'ids_region_frames', 'region_matches'},
        'pixel': {'flow_pixels_frames'},
    }[use]
    if use in ('full', 'pixel'):
        features |= {'image', 'label', 'image_frames', 'planes_hha_frames', 'frame', 'frame_frames'}
    assert set(stage.train_input.features) == set(stage.eval_input.features) == features
    assert bool(stage.train_input.frames) == (use in ('full', 'pixel'))
    names = [feature.name for feature in pipeline.make_features(make_config(), INDOOR)]
    derived = {'planes_hha', 'ids_region', 'region_matches', 'pixel_flows'}
    assert derived | {'flow_next', 'flow_previous'} == set(names)


def test_a_net_is_tested_in_other_ways_than_it_was_trained():
    config = make_config(',use=full,test=superpixel')
    (stage,) = pipeline.make_stages(config, INDOOR)
    assert stage.train_input.frames and not stage.eval_input.frames
    config = make_config(',use=none,test=full')
    config.testing.update(direction='past', reach=1)
    (stage,) = pipeline.make_stages(config, INDOOR)
    assert not stage.train_input.frames
    assert stage.eval_input.frames == DrawnFrames(FRAMES, (-1, 0), fill=True)


def test_a_net_may_be_tested_with_other_regions():
    config = make_config(',use=none,test=full')
    finer = make_config(',use=none,test=full')
    finer.regions.thresholds = (0.05,)
    finer.flow.preset = 'fast'
    values = config_lib.to_json(config), config_lib.to_json(finer)
    assert config_lib.differences(*values, free=config_lib.FREE_IN['evaluate']) == []
    assert len(config_lib.differences(*values, free=config_lib.FREE_IN['train'])) == 2


def refusals(config, spec):
    """Returns the fixes of the training and of the test that a data set cannot serve, '' if it can.

    An input that is refused reads features that the data set has.
    """
    specs = pipelines.promised(config, {'data': spec})
    (stage,) = pipelines.make_stages(config, specs)
    fixes = []
    for inputs in (stage.train_input, stage.eval_input):
        assert set(inputs.stored) <= set(specs['data'].features) or inputs.frames
        fixes.append(inputs.refusal.fix if inputs.refusal else '')
    return fixes


@pytest.mark.parametrize(('hha', 'channels'), [(True, 6), (False, 3)])
def test_images_are_predicted_at_their_size_from_all_that_the_net_sees(hha, channels):
    (stage,) = pipeline.make_stages(make_config(f',net=fcn,use=superpixel,hha={hha}'), INDOOR)
    assert stage.predict_planes == ('planes_hha' if hha else '')
    state = jax.eval_shape(lambda: stage.init(jax.random.key(0), make_batch(), {}))
    images = jax.ShapeDtypeStruct((1, 16, 24, channels), np.uint8)
    assert jax.eval_shape(stage.predict, state, images).shape == (1, 16, 24, NUM_CLASSES)


def test_colour_alone_needs_no_depth():
    with pytest.raises(InputError, match=r'--config.hha=False'):
        pipeline.make_features(make_config(), SPEC)
    config = make_config(',hha=false,use=superpixel')
    training, testing = refusals(config, SPEC)
    assert training == '--config.regions.depth=False'
    assert testing == '--config.testing.use=none, or --config.regions.depth=False in training'
    config.testing.use = 'none'
    assert refusals(config, SPEC) == [training, '']
    config.testing.use = ''
    config.regions.depth = False
    assert refusals(config, SPEC) == ['', '']
    (stage,) = pipeline.make_stages(config, SPEC)
    assert set(stage.train_input.features) == {'image', 'label', 'ids_region'}
    assert stage.predict is not None


@pytest.mark.parametrize(
    ('changes', 'fix'),
    [
        ({'pooling.interval': 5}, 'pooling.reach=5'),
        ({'testing.reach': 3}, 'testing.reach=2'),
        ({'pooling.interval': 2, 'testing.reach': 1}, 'testing.reach=2'),
        ({'pooling.spatial': 'max', 'pooling.border': 1}, 'pooling.border=0'),
        ({'testing.merge': '13'}, "testing.merge=''"),
        ({'regions.edge_files': ('a',)}, "regions.edge_files='()'"),
        ({'regions.edges': 'structured'}, 'regions.edges=gradients'),
        ({'evaluate.crop': (16, 16)}, "evaluate.crop='()'"),
    ],
)
def test_settings_that_contradict_each_other_have_a_fix_that_works(changes, fix):
    config = make_config()
    for key, value in changes.items():
        section, key = key.split('.')
        config[section][key] = value
    with pytest.raises(InputError) as error:
        pipeline.make_features(config, INDOOR)
    assert error.value.fix == f'--config.{fix}'
    (typed,) = shlex.split(fix)
    key, value = typed.split('=')
    section, key = key.split('.')
    config[section][key] = ast.literal_eval(value) if value[:1] in ('(', *digits) else value
    pipeline.make_features(config, INDOOR)


@pytest.mark.parametrize(
    ('interval', 'reach', 'fixes'),
    [
        (4, 9, ['pooling.interval=3']),
        (2, 9, ['pooling.interval=3']),
        (2, 2, ['pooling.interval=3', 'pooling.reach=3']),
    ],
)
def test_an_interval_that_clips_do_not_have_would_match_nothing(interval, reach, fixes):
    config = make_config()
    config.pooling.update(interval=interval, reach=reach)
    # Rooms have all frames. Clips of NYUDv2 have every third frame.
    assert refusals(config, INDOOR) == ['', '']
    config.data.name = 'nyu_depth'
    in_training = ' '.join(f'--config.{fix}' for fix in fixes)
    in_testing = f'--config.testing.use=superpixel, or {in_training} in training'
    assert refusals(config, INDOOR) == [in_training, in_testing]
    config.testing.use = 'superpixel'
    assert refusals(config, INDOOR) == [in_training, '']
    config.testing.use = ''
    for fix in fixes:
        key, value = fix.split('=')
        config.update_from_flattened_dict({key: int(value)})
    assert refusals(config, INDOOR) == ['', '']


def test_a_threshold_of_0_would_match_everything():
    config = make_config()
    config.matching.threshold = 0.0
    with pytest.raises(InputError, match=r'config\.matching\.threshold'):
        config_lib.validate(config)


def test_stills_are_pooled_over_their_superpixels():
    config = make_config(',use=superpixel')
    specs = pipelines.promised(config, {'data': STILLS})
    assert set(specs['data'].features) == {*STILLS.features, 'planes_hha', 'ids_region'}
    assert refusals(config, STILLS) == ['', '']
    (stage,) = pipelines.make_stages(config, specs)
    assert not stage.train_input.frames


@pytest.mark.parametrize(
    ('use', 'test', 'fixes'),
    [
        ('full', '', ['pooling', 'testing']),
        ('pixel', 'superpixel', ['pooling', '']),
        ('superpixel', 'full', ['', 'testing']),
    ],
)
def test_only_inputs_that_read_frames_refuse_stills(use, test, fixes):
    expected = [f'--config.{section}.use=superpixel' if section else '' for section in fixes]
    assert refusals(make_config(f',use={use},test={test}'), STILLS) == expected


# --- training -------------------------------------------------------------------------------------


def run_step(config, devices=1, rows=2):
    """Returns (state before, state after, metrics) of a step on one batch."""
    (stage,) = pipeline.make_stages(config, INDOOR)
    topology = parallel.topology('pmap', devices)
    root = rng.root(0, 'test')

    def step(state, batch):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        return state, parallel.sum_over_devices(metrics)

    batch = make_batch(rows)
    before = parallel.to_host(stage.init(root, batch, {}))
    run = topology.spmd(step, num_args=2)
    state, metrics = run(topology.put_replicated(before), topology.put_batch(batch))
    return before, parallel.to_host(state), parallel.to_host(metrics)


@pytest.fixture(scope='module')
def steps():
    """Returns the state before a step, and (state, metrics) after it on one and on eight devices.

    The net has no batch norm and no drop-out, so that examples do not meet. Its layers before pool4
    are frozen.
    """
    config = make_config(',net=fcn')
    config.model.update(width=0.03125, dropout=0.0)
    config.optim.update(
        weight_decay=0.1, factors=(('segmenter/(color|hha)/vgg/conv[1-4]_.*', 0.0),)
    )
    with jax.enable_x64(True):
        before, *on_one = run_step(config, rows=8)
        _, *on_eight = run_step(config, devices=8, rows=8)
    return before, on_one, on_eight


@pytest.mark.slow
@pytest.mark.devices(8)
def test_eight_devices_make_the_step_of_one(steps):
    before, (expected, metrics), (after, of_eight) = steps
    np.testing.assert_allclose(metrics['loss'].value(), of_eight['loss'].value(), rtol=1e-5)
    moves = [jax.tree.map(np.subtract, each.params, before.params) for each in (expected, after)]
    for a, b in zip(*map(jax.tree.leaves, moves), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a) + 1e-6


def test_parameters_with_a_factor_of_0_are_frozen(steps):
    before, (after, _), _ = steps
    old = named_leaves(before.params)
    moved = {
        name for name, value in named_leaves(after.params).items() if (value != old[name]).any()
    }
    trunk = {name for name in old if any(f'vgg/conv{block}_' in name for block in (1, 2, 3, 4))}
    assert len(trunk) == 2 * 2 * 10 and not moved & trunk
    assert any('vgg/conv5_' in name for name in moved)
    assert any('score_fr' in name for name in moved)


# --- a whole run ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_video_of_the_user_is_checked_trained_tested_and_predicted(
    tmp_path, in_threads, one_device
):
    """Labels are on some frames alone. tests/test_smoke.py trains both stages on rooms."""
    root = tmp_path / 'mine'
    _, classes = layouts.write_rgbd_folder(root)
    config = config_file.load('configs/std2p.py:smoke')
    data = dict(name='rgbd_folder', root=str(root), classes=classes, class_map='')
    data |= dict(eval_size=layouts.SIZE, rgbd=dict(interval=1, steps=3))
    train = dict(batch_size=2, num_steps=1)
    config_lib.update(config, data=data, train=train, evaluate=dict(batch_size=1))
    config_lib.update(config, augment=dict(crop=layouts.SIZE), frames=dict(num_steps=0))
    assert doctor.main(config) == 0
    run = str(tmp_path / 'run')
    scores = driver.train(config, run)['segmentation']
    assert 0 <= scores['boundaries']['ODS_F'] <= 1
    (accuracy,) = scores['pixel_accuracy_of_images']
    assert accuracy == pytest.approx(scores['pixel_accuracy'])
    assert len(scores['IoU_of_images']) == 1

    # The test has another pooling than the training.
    config.testing.update(use='pixel', boundary_thresholds=0)
    other = driver.evaluate(config, run, 'last')['segmentation']
    assert np.sum(other['confusion']) == np.sum(scores['confusion']) > 0

    # The net sees HHA of the depth of the input, alone and behind a pooling.
    for use in ('none', 'superpixel'):
        config.predict.pooling.use = use
        summary = predict.main(config, run, str(root / 'val'), str(tmp_path / use), 'last')
        assert summary['images'] == 7
    predictions = [contents(tmp_path / use) for use in ('none', 'superpixel')]
    assert predictions[0].keys() == predictions[1].keys() and predictions[0] != predictions[1]


# --- tables ---------------------------------------------------------------------------------------

TABLES = pathlib.Path(__file__).parents[2] / 'configs/tables'


@pytest.mark.parametrize(
    ('number', 'scale'),
    [
        ('3_2', 'quick'),
        ('3_2', 'paper'),
        ('3_5', 'quick'),
        ('3_5', 'paper'),
        ('3_3', 'quick'),
        ('3_3', 'paper'),
        ('3_6', 'paper'),
    ],
)
def test_the_rows_of_a_table_begin_from_the_net_alone(number, scale, tmp_path):
    path = TABLES / f'std2p_table{number}.py'
    plan = table_plan.make_table_plan(str(path), scale, str(tmp_path))
    rows = {run.row.key: run.config for run in plan.runs if run.seed == plan.seeds[0]}
    for key, config in rows.items():
        assert config.frames.num_steps == 0
        row = plan.table.row(key)
        if row.after:
            assert rows[row.after].pooling.use == 'none'
            assert rows[row.after].data.class_map == config.data.class_map
            assert config.init_from.path.endswith(f'{row.after}/seed_0')
            assert config.pooling.use in ('superpixel', 'full')
        if row.labels:
            assert config.data.class_map == row.labels['classes']
        if 'boundary F' in [column.name for column in plan.table.columns]:
            assert config.testing.boundary_thresholds > 0
        if row.key.startswith('sun3d'):
            assert config.data.name == 'sun3d' and config.testing.merge == '33'
            assert config.data.train_split == config.data.eval_split == 'test'
            assert config.data.rgbd.depth_scale == 0


def test_merged_scores_count_merged_maps():
    """Classes 0 and 1 become one class, and class 4 is ignored."""
    merged = ClassMap(ClassSpec(('a', 'b', 'c'), ((0, 0, 0),) * 3, (0, 1, 2)), (0, 0, 1, 2, IGNORE))
    spec = dataclasses.replace(INDOOR, class_maps={'three': merged})
    config = make_config()
    config.testing.merge = 'three'
    draw = np.random.default_rng(0)
    truth = draw.integers(0, NUM_CLASSES, 500)
    prediction = draw.integers(0, NUM_CLASSES, 500)
    matrix = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1))
    np.add.at(matrix, (truth, prediction), 1)
    scores = pipeline.merged_scores(config, spec, matrix)
    table = np.array(merged.train_ids)
    counted = table[truth] != IGNORE
    right = (table[truth] == table[prediction])[counted]
    assert scores['pixel_accuracy'] == pytest.approx(right.mean())
    config.data.void_class = True
    with_void = np.zeros((NUM_CLASSES + 2, NUM_CLASSES + 2))
    with_void[:NUM_CLASSES, :NUM_CLASSES] = matrix[:NUM_CLASSES, :NUM_CLASSES]
    with_void[NUM_CLASSES] = 7
    assert pipeline.merged_scores(config, spec, with_void) == scores
    config.testing.merge = 'tree'
    with pytest.raises(InputError, match="did you mean 'three'"):
        pipeline.make_stages(config, spec)
