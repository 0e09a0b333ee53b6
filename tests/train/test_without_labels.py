"""A run on a data set without labels: records, doctor, training, report and refusals."""

import json

import numpy as np
import portraits
import pytest

from segjax import data, pipelines
from segjax.data import records
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.protocol import Input
from segjax.spec import NO_CLASSES, DataSpec
from segjax.train import data_sets, driver

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, cache):
    """Returns the folder and the scores of a finished run."""
    workdir = tmp_path_factory.mktemp('portraits') / 'run'
    return workdir, driver.train(portraits.make_config(cache), str(workdir))


def test_records_hold_the_examples_and_the_size_of_the_largest_image(cache):
    config = portraits.make_config(cache)
    prepared = data.prepare(config.data)
    spec = prepared.spec
    assert spec.classes == NO_CLASSES
    assert spec.features == ('image', 'points_face', 'name')
    assert spec.num_examples == portraits.COUNTS
    assert spec.max_size == {'train': (28, 20), 'val': (28, 20)}
    assert spec.class_pixels == {'train': (), 'val': ()}
    for split in portraits.COUNTS:
        source = prepared.open_split(split, spec.features)
        for number in range(len(source)):
            image, points = portraits.draw(split, number)
            np.testing.assert_array_equal(source[number]['image'], image)
            np.testing.assert_array_equal(source[number]['points_face'], points)
    assert records.is_ready(prepared.folder)
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_content_of_a_split_has_a_digest(cache):
    spec = data.prepare(portraits.make_config(cache).data).spec
    assert len(spec.digest['train']) == 32
    assert spec.digest['train'] != spec.digest['val']


def test_slices_and_lists_are_splits(cache, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('train_03\ntrain_01\n')
    lists = (f'few=train:{names}',)
    config = portraits.make_config(cache, data=dict(lists=lists, train_split='train[:50%]'))
    prepared = data_sets.prepare(config)['data']
    source = prepared.open_input(Input('few', 1, ('image',), portraits.SIZE), 'name')
    assert [source[i]['name'] for i in range(2)] == ['train_03', 'train_01']
    assert prepared.spec.max_size['few'] == (28, 20)
    assert len(prepared.open_input(Input('train[:50%]', 1, ('image',), portraits.SIZE))) == 6


def test_labelled_examples_do_not_exist(cache):
    prepared = data.prepare(portraits.make_config(cache).data)
    inputs = Input('train', 1, ('image',), portraits.SIZE, examples='labelled')
    with pytest.raises(InputError, match='the data set has no labels') as error:
        prepared.open_input(inputs)
    assert "examples='all'" in error.value.expected


def test_doctor_describes_examples_without_labels_and_finds_nothing(cache):
    config = portraits.make_config(cache)
    text = doctor.report(doctor.examine(config))
    assert 'no classes: the examples have no labels' in text
    assert 'train           12        12' in text
    assert text.endswith('0 errors, 0 warnings')


def test_doctor_counts_examples_where_labels_do_not_exist(cache):
    config = portraits.make_config(cache, train=dict(batch_size=16))
    (finding,) = [each for each in doctor.diagnose(config) if each.severity == 'warning']
    assert finding.where == 'config.train.batch_size'
    assert finding.message.startswith("16, but 'train' has 12 examples")
    config = portraits.make_config(cache, data=dict(eval_split='test'))
    (finding,) = [each for each in doctor.diagnose(config) if each.severity == 'error']
    assert finding.fix == '--config.data.eval_split=val'


def test_a_run_trains_scores_and_reports(finished):
    workdir, scores = finished
    assert 0 < scores['painting']['error'] < 1
    page = (workdir / 'report.html').read_text()
    assert '12 examples, up to 28x20' in page
    assert 'labelled' not in page.partition('Configuration')[0]
    assert list((workdir / 'painting' / 'pictures').glob('*/painted.png'))


def test_an_evaluation_gives_the_same_scores(finished, cache):
    workdir, scores = finished
    assert driver.evaluate(portraits.make_config(cache), str(workdir)) == scores


# --- refusals -------------------------------------------------------------------------------------

SEGMENTATION = ('supervised', 'learned_dilation', 'shape_classifier')


@pytest.mark.parametrize('pipeline', SEGMENTATION)
def test_a_pipeline_that_reads_labels_names_the_fix(cache, tmp_path, pipeline):
    config = portraits.make_config(cache, pipeline, augment=dict(crop=(32, 32)))
    with pytest.raises(InputError, match="data set 'portraits'") as error:
        driver.train(config, str(tmp_path))
    assert error.value.got == 'no classes: its examples have no labels'
    assert error.value.fix.startswith('--config.data.name=streets')
    (finding,) = [each for each in doctor.diagnose(config) if each.severity == 'error']
    assert finding.fix == error.value.fix


@pytest.mark.slow
def test_the_fix_works(cache):
    config = portraits.make_config(cache, 'supervised', data=dict(name='streets'))
    assert not [each for each in doctor.diagnose(config) if each.severity == 'error']


def test_a_stage_that_reads_labels_of_a_section_names_the_section(cache):
    config = portraits.make_config(cache)
    spec = data.prepare(config.data).spec
    (stage,) = pipelines.make_stages(config, {'data': spec})
    assert stage.eval_input.examples == 'all'
    with pytest.raises(InputError, match=r'labels, which stage .painting. reads') as error:
        spec.check_labels("stage 'painting'", 'shadow')
    assert error.value.fix.startswith('--config.shadow.name=')
