"""Scorers: frozen nets that a run trains or loads, a run that stops, and prediction of files."""

import csv

import chex
import cv2
import numpy as np
import pytest
import toy_heads
from run_folders import assert_same_run, stop_at
from scored_pipeline import build_one_layer, make_config, make_stages

from segjax import models
from segjax.core import parallel, rng
from segjax.errors import InputError
from segjax.modes import predict
from segjax.tasks import scorers
from segjax.train import driver
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')


@pytest.fixture(scope='module', autouse=True)
def small_nets():
    """Replaces all segmentation nets by a convolution."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, 'build_from', build_one_layer)
        yield


@pytest.fixture(scope='module')
def whole(small_nets, tmp_path_factory):
    """Returns the folder and the scores of a run that trains a landmark net and uses it."""
    with pytest.MonkeyPatch.context() as patch:
        topology = parallel.topology
        patch.setattr(
            parallel, 'topology', lambda mode='pmap', *_, **options: topology(mode, 1, **options)
        )
        folder = tmp_path_factory.mktemp('scored') / 'run'
        return folder, driver.train(landmarks_alone(), str(folder))


def landmarks_alone(use='train', **sections):
    """Returns the config without a normal net, whose evaluation compiles longer."""
    config = make_config(use=use, **sections)
    config.normals.use = 'none'
    return config


def without_origin(scores):
    """Returns scores without the config and the data that made them."""
    return {name: value for name, value in scores.items() if name != 'made_by'}


def test_a_frozen_net_scores_as_in_the_evaluation_of_its_stage(whole):
    """Both use the averaged parameters."""
    _, scores = whole
    expected = scores['landmarks']['sum_error']
    assert scores['judged']['sum_error'] == pytest.approx(expected, rel=1e-5)


def test_a_loaded_net_scores_as_the_trained_net(whole, one_device, tmp_path):
    folder, scores = whole
    rows = (('landmark_net', str(folder / 'landmarks')),)
    config = landmarks_alone(use='load', init_from=dict(sources=rows))
    loaded = driver.train(config, str(tmp_path / 'run'))
    assert set(loaded) == {'judged'}
    assert without_origin(loaded['judged']) == without_origin(scores['judged'])


@pytest.mark.slow
def test_a_run_that_was_stopped_equals_a_whole_run(one_device, tmp_path, monkeypatch):
    scores = driver.train(make_config(), str(tmp_path / 'whole'))
    for stage in ('landmarks', 'normals'):
        folder = str(tmp_path / stage)
        with monkeypatch.context() as patch, pytest.raises(Preempted, match='saved at step 1'):
            stop_at(patch, stage, 1)
            driver.train(make_config(), folder)
        assert driver.train(make_config(), folder) == scores
        assert_same_run(tmp_path / 'whole', tmp_path / stage, stages=('landmarks', 'normals'))
    # Balls have different numbers of pixels, so means over images differ from means over pixels.
    expected = scores['normals']['mean_angle']
    assert scores['judged']['mean_angle'] == pytest.approx(expected, rel=0.1)


def test_a_net_that_is_loaded_needs_a_source_and_the_fix_works():
    config = make_config(use='load')
    with pytest.raises(InputError, match='landmark_net') as error:
        make_stages(config, toy_heads.SPEC)
    fix = error.value.fix.split('; or --config.')[1].split(' ')[0]
    config.landmarks.use = fix.removeprefix('landmarks.use=')
    config.normals.use = 'none'
    (judged,) = make_stages(config, toy_heads.SPEC)
    assert judged.frozen == ()


def test_a_scorer_has_its_own_steps_batch_and_augmentation():
    config = make_config(num_steps=7)
    config.landmarks.augment.update(rotate=20.0, flip=0.25)
    config.augment.update(rotate=3.0, resize=(40, 40))
    landmarks, normals, _ = make_stages(config, toy_heads.SPEC)
    assert landmarks.num_steps == 7 and landmarks.train_input.batch_size == 8
    assert landmarks.train_input.batch_key == 'landmarks.batch_size'
    augment = landmarks.train_input.augment
    assert (augment.rotate, augment.flip, tuple(augment.resize)) == (20.0, 0.25, (40, 40))
    assert normals.train_input.augment.rotate == 0.0


def test_a_section_without_these_keys_has_those_of_the_run():
    config = make_config(train=dict(num_steps=11, batch_size=5))
    section = config.landmarks.copy_and_resolve_references()
    with section.unlocked():
        for key in ('use', 'num_steps', 'batch_size', 'augment'):
            del section[key]
    training = scorers.training_of(config, None, 'net', section, 'landmarks')
    assert (training.num_steps, training.batch_size) == (11, 5)
    assert training.augment is config.augment and training.where == 'landmarks.optim'


# --- files ----------------------------------------------------------------------------------------


def test_files_of_any_size_get_points_as_shares_of_the_image(whole, one_device, tmp_path):
    folder, _ = whole
    source = tmp_path / 'photos'
    source.mkdir()
    image = toy_heads.head(3)['image']
    for name, factor in (('a', 1), ('b', 2)):
        large = image.repeat(factor, 0).repeat(factor, 1)
        cv2.imwrite(str(source / f'{name}.png'), large)
    config = landmarks_alone(predict=dict(batch_size=2))
    target = tmp_path / 'out'
    predict.main(config, str(folder), str(source), str(target), 'last', 'landmarks')

    first, second = csv.DictReader((target / 'table.csv').open(encoding='utf-8'))
    names = [f'{axis}_{number}' for axis in 'xy' for number in range(5)]
    values = np.array([float(first[name]) for name in names])
    assert ((values > 0) & (values < 1)).all()
    # The larger file is shrunk by whole pixels, so the net sees the same image.
    np.testing.assert_allclose([float(second[name]) for name in names], values, atol=1e-3)
    drawn = cv2.imread(str(target / 'points/b.png'))
    assert drawn.shape == (64, 64, 3) and (drawn[..., 2] > drawn[..., 0].astype(int) + 90).any()


def test_new_variables_depend_on_seed_and_name_of_the_net_alone():
    config = make_config()
    net = scorers.make_net(config, config.landmarks, 5)
    of_net = scorers.make_variables(config, net, 'landmark_net', (32, 32), 'landmarks')
    stage, *_ = make_stages(config, toy_heads.SPEC)
    key = rng.root(0, 'test')
    state = stage.init(key, toy_heads.batch_of(), {})
    variables = of_net(key, {})
    chex.assert_trees_all_equal(variables['params'], state.params['landmark_net'])
