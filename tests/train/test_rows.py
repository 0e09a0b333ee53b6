"""A run whose examples are the rows of a table: the objects of the images."""

import json

import numpy as np
import pytest
import rows_pipeline
import rows_run
from run_folders import assert_same_run, finish, free_port, start_program, stop_at

from segjax import data, pipelines
from segjax.data import objects
from segjax.data.index import evaluation_generator
from segjax.errors import InputError
from segjax.modes import bench, doctor
from segjax.protocol import DrawnFrames
from segjax.train import driver, features, opening, products
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

STAGES = ('pretrain', 'adversarial')


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, cache):
    """Returns the folder and the scores of an undisturbed run."""
    workdir = tmp_path_factory.mktemp('rows') / 'run'
    return workdir, driver.train(rows_run.make_config(cache), str(workdir))


def tables(config, split='val'):
    """Returns maps and tables of a split, computed without a run."""
    prepared = data.prepare(config.data)
    (feature,) = rows_pipeline.make_features(config, prepared.spec)
    source = prepared.open_split(split, ('label', 'instance', 'name'))
    maps = [source[i] for i in range(len(source))]
    return maps, np.stack([feature.compute(each) for each in maps])


def test_every_object_is_scored_once_at_its_place(finished, cache):
    """Cuts all objects directly, and compares their areas with those of the evaluation."""
    _, scores = finished
    config = rows_run.make_config(cache)
    maps, table = tables(config)
    crop = rows_pipeline.crop_of(config, data.prepare(config.data).spec)
    areas = np.zeros(table.size)
    for index in np.flatnonzero(table):
        image, row = divmod(int(index), rows_pipeline.NUM_OBJECTS)
        example = {**maps[image], 'targets': table[image], 'row': np.int32(row)}
        cut = objects.crop_target(example, evaluation_generator(index), crop)
        areas[index] = cut['mask_object'].sum()
    for stage in STAGES:
        assert scores[stage]['areas'] == areas.tolist()
        assert scores[stage]['examples'] == np.count_nonzero(table) > table.shape[0]
        assert scores[stage]['most'] == 1


def test_arrays_of_all_objects_are_handed_on(finished):
    workdir, scores = finished
    with np.load(workdir / 'pretrain' / products.PRODUCTS) as arrays:
        assert arrays['areas'].tolist() == scores['pretrain']['areas']


def test_an_evaluation_scores_the_same_objects_as_the_run(finished, cache):
    workdir, scores = finished
    assert driver.evaluate(rows_run.make_config(cache), str(workdir)) == scores


def test_pictures_show_ranked_objects(finished, cache):
    """The best and the worst objects have the index of their row, and its name."""
    workdir, _ = finished
    maps, table = tables(rows_run.make_config(cache))
    seen = {}
    for path in sorted((workdir / 'pretrain' / 'pictures').glob('*/info.json')):
        info = json.loads(path.read_text())
        image, row = divmod(info['index'], rows_pipeline.NUM_OBJECTS)
        assert table[image, row]
        assert info['name'] == f'{maps[image]["name"]}, row {row}'
        seen[path.parent.name] = info
    assert {name.rpartition('_')[0] for name in seen} == {'best', 'worst', 'same'}
    ranked = [seen[name]['score'] for name in ('best_00', 'best_01', 'worst_01', 'worst_00')]
    assert ranked == sorted(ranked, reverse=True) and ranked[0] > ranked[-1]


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_continues_with_the_rows_that_it_would_have_read(
    finished, cache, tmp_path, monkeypatch, workers
):
    workdir, scores = finished
    stop_at(monkeypatch, 'pretrain', 2)
    with pytest.raises(Preempted):
        driver.train(rows_run.make_config(cache), str(tmp_path))
    monkeypatch.undo()
    resumed = rows_run.make_config(cache, data=dict(workers=workers))
    assert driver.train(resumed, str(tmp_path)) == scores
    assert_same_run(workdir, tmp_path)


@pytest.mark.slow
@pytest.mark.devices(8)
def test_one_device_and_two_processes_equal_eight_devices(finished, cache, tmp_path):
    """Compares scores of counts exactly, and trained scores up to rounding."""
    _, scores = finished
    finish(start_program('rows_run.py', tmp_path / 'one', cache, devices=1))
    settings = (f'port={free_port()}', 'num_processes=2', 'workers=1')
    pair = [(tmp_path / 'two', cache, *settings, f'process_id={i}') for i in range(2)]
    finish(*(start_program('rows_run.py', *each, devices=2) for each in pair))
    for name in ('one', 'two'):
        found = json.loads((tmp_path / name / 'scores.json').read_text())
        logs = [
            [json.loads(line) for line in (folder / 'pretrain/metrics.jsonl').open()]
            for folder in (tmp_path / name, finished[0])
        ]
        for one, other in zip(*logs, strict=True):
            if one['kind'] == 'train':
                assert one['index'] == other['index']
                assert one['photo'] == pytest.approx(other['photo'], rel=1e-6)
        for stage in STAGES:
            for key in ('areas', 'examples', 'most'):
                assert found[stage][key] == scores[stage][key]
            accuracy = found[stage]['pixel_accuracy']
            assert accuracy == pytest.approx(scores[stage]['pixel_accuracy'], abs=5e-3)


# --- refusals -------------------------------------------------------------------------------------


def refused(monkeypatch, folder, config, use=driver.train):
    """Returns the error of a run that must compile nothing."""
    monkeypatch.setattr(driver, 'train_stage', lambda *_: pytest.fail('a stage began'))
    monkeypatch.setattr(driver, 'load_stage', lambda *_: pytest.fail('a stage was loaded'))
    with pytest.raises(InputError) as error:
        use(config, str(folder))
    return error.value


def test_a_split_without_objects_is_refused_before_a_step(cache, tmp_path, monkeypatch):
    config = rows_run.make_config(cache, min_side=500)
    error = refused(monkeypatch, tmp_path, config)
    assert "the rows of 'targets'" in error.where and "'train'" in error.where
    assert '16 images with 3 empty rows each' in error.got and 'smaller objects' in error.fix


@pytest.mark.parametrize(
    'table, says',
    [('targts', "did you mean 'targets'"), ('depth', "kind 'depth'"), ('frame', 'shape ()')],
)
def test_a_wrong_table_is_refused_before_it_is_computed(tmp_path, monkeypatch, table, says):
    config = rows_run.make_config(tmp_path / 'cache', table=table)
    error = refused(monkeypatch, tmp_path / 'run', config)
    assert says in f'{error}'
    assert not list((tmp_path / 'cache').glob('*+targets*'))
    found = [each for each in doctor.diagnose(config) if each.severity == 'error']
    assert found and all(says in f'{finding}' for finding in found)
    with pytest.raises(InputError) as of_prepare:
        features.prepare(config, {'data': data.prepare(config.data)}, data.never_stop)
    assert says in f'{of_prepare.value}'
    assert not list((tmp_path / 'cache').glob('*+targets*'))


def test_frames_of_rows_are_refused(cache, tmp_path, monkeypatch):
    original = rows_pipeline.with_objects

    def with_frames(config, spec, inputs):
        return original(config, spec, inputs)._replace(frames=DrawnFrames(2, (-1, 1)))

    monkeypatch.setattr(rows_pipeline, 'with_objects', with_frames)
    error = refused(monkeypatch, tmp_path, rows_run.make_config(cache))
    assert "frames of an input whose examples are the rows of 'targets'" in error.where


def test_a_run_keeps_its_table(finished, cache, monkeypatch):
    """Other limits of objects, by the code of the pipeline, are another table."""
    workdir, _ = finished
    original = rows_pipeline.make_features

    def wider(config, spec):
        (feature,) = original(config, spec)
        return (feature._replace(settings={**feature.settings, 'min_side': 3}),)

    monkeypatch.setattr(rows_pipeline, 'make_features', wider)
    error = refused(monkeypatch, workdir, rows_run.make_config(cache))
    assert "feature 'targets' is computed in another way" in f'{error}'


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_doctor_counts_rows_and_warns_of_a_batch_that_repeats_them(without_traces, tmp_path):
    """Before the table is computed the number of rows is unknown."""
    few = rows_run.make_config(tmp_path, train=dict(batch_size=24), evaluate=dict(batch_size=24))

    def found(config):
        findings = doctor.diagnose(config)
        assert not [each for each in findings if each.severity == 'error'], findings
        rows = [each.message for each in findings if each.where.startswith("rows of 'targets'")]
        return rows, [each for each in findings if each.where == 'config.train.batch_size']

    rows, warned = found(few)
    assert len(rows) == 2 and all('not counted' in message for message in rows) and not warned
    features.prepare(few, {'data': data.prepare(few.data)}, data.never_stop)
    rows, warned = found(few)
    numbers = {}
    for split in ('train', 'val'):
        numbers[split] = int(np.count_nonzero(tables(few, split)[1]))
    assert numbers['train'] > 24 and not warned
    assert [message.split()[0] for message in rows] == [str(numbers[s]) for s in ('train', 'val')]
    many = 8 * (numbers['train'] // 8 + 1)
    rows, warned = found(rows_run.make_config(tmp_path, train=dict(batch_size=many)))
    assert f"'train' has {numbers['train']} rows" in warned[0].message


def test_the_bench_measures_rows(cache, tmp_path):
    config = rows_run.make_config(cache, bench=dict(repetitions=2, warmup=1))
    report = bench.main(config, str(tmp_path))
    for stage in STAGES:
        for part in ('train', 'evaluate', 'input'):
            assert report['stages'][stage][part]['base']['batch_size'] == 8


def test_a_run_is_opened_with_its_rows(cache, tmp_path):
    config = rows_run.make_config(cache)
    run, stages = opening.open_run(config, str(tmp_path), 'train')
    source = run.open_input(stages[0].train_input)
    assert len(source) == np.count_nonzero(tables(config, 'train')[1])
    assert pipelines.has_features(config)
