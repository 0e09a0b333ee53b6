"""Shape classifier: a run, its stop and its kill, its configs, weights and real label maps."""

import sys

import jax
import numpy as np
import pytest
from PIL import Image
from run_folders import REPOSITORY, assert_same_run, kill_on_the_way, run_to_the_end, stop_at

from segjax import config as config_lib
from segjax import data, pretrained
from segjax.config import config_file
from segjax.data.labels import CITYSCAPES_MOVABLE, COCO_THINGS
from segjax.pipelines import shape_classifier as pipeline
from segjax.tasks import shapes
from segjax.train import driver
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

CONFIG = f'{REPOSITORY}/configs/shape_classifier.py'


def smoke(**sections):
    """Returns the smoke config with a study of two transformations and without pictures."""
    config = config_file.load(f'{CONFIG}:smoke')
    config.shapes.transformations = ('noise_mean', 'flip')
    config_lib.update(config, logging=dict(num_pictures=0))
    config_lib.update(config, **sections)
    return config


# --- configs --------------------------------------------------------------------------------------


def test_the_paper_has_80_classes_and_the_movable_classes_are_those_of_cityscapes():
    config = config_file.load(CONFIG)
    assert config.data.class_map == 'things' and COCO_THINGS.classes.num_classes == 80
    assert config.shapes.classes == () and config.shapes.model.backbone == 'b7'
    assert config.shapes.min_share == 0.01 and config.shapes.whole_map
    assert config.train.num_steps == 50 * (332_310 // config.train.batch_size)
    optim = config.shapes.optim
    assert (optim.name, optim.learning_rate, optim.step_factor) == ('adam', 1e-5, 0.7)
    movable = config_file.load(f'{CONFIG}:cityscapes').shapes.classes
    assert tuple(movable) == CITYSCAPES_MOVABLE


@pytest.mark.parametrize('variant', ['', ':lite0', ':cityscapes', ':quick', ':smoke'])
def test_every_variant_is_a_valid_config(variant):
    config = config_file.load(CONFIG + variant)
    config_lib.validate(config)
    # A net that starts at random expects no weights.
    is_pretrained = variant in ('', ':lite0', ':cityscapes')
    assert bool(config.init_from.expected) == is_pretrained
    assert (config.init_from.nets != ('.*',)) == is_pretrained


# --- a run ----------------------------------------------------------------------------------------


def two_steps():
    return smoke(train=dict(num_steps=2), logging=dict(checkpoint_every=0, eval_every=0))


@pytest.mark.slow
def test_a_run_reports_the_study_of_robustness(one_device, in_threads, tmp_path):
    scores = driver.train(two_steps(), str(tmp_path))['shapes']
    assert scores.keys() >= {'accuracy', 'baseline_commonest', 'baseline_chance', 'falls'}
    assert list(scores['robustness']) == ['noise_mean', 'flip']
    report = (tmp_path / 'report.html').read_text()
    assert '1-Sem' in report and 'noise mean' in report


@pytest.mark.slow
def test_a_run_that_was_stopped_equals_a_whole_run(one_device, in_threads, tmp_path, monkeypatch):
    config = two_steps()
    whole = driver.train(config, str(tmp_path / 'whole'))
    with monkeypatch.context() as patch, pytest.raises(Preempted, match='saved at step 1'):
        stop_at(patch, 'shapes', 1)
        driver.train(config, str(tmp_path / 'parts'))
    assert driver.train(config, str(tmp_path / 'parts')) == whole
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=('shapes',))


@pytest.mark.slow
def test_a_run_that_was_killed_equals_a_whole_run(tmp_path):
    def command(folder):
        arguments = ['--config', f'{CONFIG}:smoke', '--workdir', str(folder)]
        every = ['--config.logging.log_every=1', '--config.logging.checkpoint_every=1']
        return [sys.executable, '-m', 'segjax.main', *arguments, *every]

    run_to_the_end(command(tmp_path / 'whole'))
    kill_on_the_way(command(tmp_path / 'parts'), tmp_path / 'parts/shapes', 2, False)
    run_to_the_end(command(tmp_path / 'parts'))
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=('shapes',))


# --- weights --------------------------------------------------------------------------------------


def test_published_weights_fill_the_backbone_alone(weights):
    """The gated convolution and the last layer keep their random parameters."""
    config = config_file.load(f'{CONFIG}:cityscapes')
    config.shapes.model.backbone = 'lite0'
    config.init_from.path = str(weights / 'efficientnet_lite0.safetensors')
    config.data.name = 'streets'
    (stage,) = pipeline.make_stages(config, _streets_spec(config))
    batch = {'planes': np.zeros((2, 64, 64, 2), np.uint8)}
    state = jax.eval_shape(lambda key: stage.init(key, batch, {}), jax.random.key(0))
    loaded, _ = pretrained.load_for(
        state, pretrained.open_weights(config.init_from), config.init_from
    )
    params = loaded['params']['classifier']
    assert set(params) == {'net'} and set(params['net']) == {'efficientnet'}
    stem = params['net']['efficientnet']['conv_stem']['kernel']
    assert np.shape(stem) == (3, 3, 3, 32)
    assert set(state.params['classifier']) == {'gate', 'net'}


def _streets_spec(config):
    """Returns the specification of a small prepared world."""
    config.data.world.update(num_train=2, num_val=1, size=(32, 64))
    return data.prepare(config.data).spec


# --- real label maps ------------------------------------------------------------------------------


def test_objects_of_real_maps_are_examples_of_their_annotated_classes(real_data, tmp_path):
    """The instance files of Cityscapes hold id = 1000 * (label id) + number."""
    config = config_file.load(f'{CONFIG}:cityscapes')
    root = real_data / 'cityscapes_mini'
    config_lib.update(
        config,
        data=dict(root=str(root), cache=str(tmp_path), train_split='train', eval_split='train'),
        shapes=dict(size=96, min_side=128.0, max_objects=20),
    )
    prepared = data.prepare(config.data)
    (table,) = pipeline.make_features(config, prepared.spec)
    source = prepared.open_split('train', ('label', 'instance', 'name'))
    crop = shapes.crop_of(config.shapes, prepared.spec)
    number = 0
    for image in range(len(source)):
        example = source[image]
        (path,) = root.rglob(f'{example["name"]}_gtFine_instanceIds.png')
        annotated = np.asarray(Image.open(path))
        targets = table.compute(example)
        for row, instance in enumerate(targets[targets > 0]):
            label_id = int(np.median(annotated[example['instance'] == instance])) // 1000
            made = shapes.shape_of_target(
                {**example, shapes.TABLE: targets, 'row': np.int32(row)},
                np.random.default_rng(row),
                crop,
                shapes.TABLE,
            )
            name = CITYSCAPES_MOVABLE[made['class_id']]
            assert prepared.spec.classes.ids[prepared.spec.classes.names.index(name)] == label_id
            inside, box = np.moveaxis(made['planes'], -1, 0)
            # A square of twice the longer side of the box has half as long boxes.
            sides = [np.ptp(places) + 1 for places in np.nonzero(box)]
            assert 40 <= max(sides) <= 96 and 0 < inside.sum() <= box.sum()
            number += 1
    assert number > 8
