"""Several data sets in a run: sections of the config, training, restart, and all other modes."""

import json
import shutil
import sys

import layouts
import numpy as np
import pytest
import two_data_sets
from run_folders import HELPERS, assert_same_run, kill_on_the_way, run_to_the_end, stop_at

from segjax import config as config_lib
from segjax import data, pipelines, schema
from segjax.config import config_file, reference
from segjax.config.config_file import Assignment
from segjax.core import parallel
from segjax.data import loader
from segjax.data.labels import CITYSCAPES, CITYSCAPES_CATEGORIES
from segjax.errors import InputError
from segjax.modes import config as config_mode
from segjax.modes import doctor, predict
from segjax.protocol import Input, Product
from segjax.train import agreement, data_sets, driver, product_files, same_run
from segjax.train.batches import train_batches
from segjax.train.run import Run
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

STAGES = ('victim', 'shadow')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the folder and the scores of an undisturbed run."""
    workdir = tmp_path_factory.mktemp('two') / 'run'
    return workdir, driver.train(two_data_sets.make_config(), str(workdir))


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / 'copy')


# --- sections of the config -----------------------------------------------------------------------


def test_a_section_has_the_keys_of_a_data_set_alone():
    section = schema.data_set('Shadow.', name='camvid', world=dict(seed=3))
    assert tuple(section) == schema.DATA_SET_KEYS and section.doc == 'Shadow.'
    assert section['root'] is schema.DATA['root'], 'the same description'
    assert section['name'].default == 'camvid' and section['world']['seed'].default == 3
    assert schema.DATA['name'].default == 'streets' and schema.DATA['world']['seed'].default == 0
    with pytest.raises(KeyError):
        schema.data_set('Shadow.', threads=3)


def test_data_comes_first_among_the_sections():
    config = two_data_sets.make_config()
    assert config_lib.data_sections(config.pipeline) == ('data', 'shadow_data')
    assert config_lib.data_sections('supervised') == ('data',)


def test_a_section_is_set_checked_shown_and_stored_like_any_other():
    config = two_data_sets.make_config()
    config_file.assign(config, [Assignment('shadow_data.world.seed', '7')])
    assert config.shadow_data.world.seed == 7
    assert config_lib.from_json(config_lib.to_json(config)) == config
    text = config_mode.describe(config)
    assert 'shadow_data.world\n' in text and 'shadow_data\n' in text
    with pytest.raises(InputError, match=r'config\.shadow_data\.roots'):
        config_file.assign(config, [Assignment('shadow_data.roots', 'x')])
    config.shadow_data.world.num_val = 0
    with pytest.raises(InputError, match=r'config\.shadow_data\.world\.num_val'):
        config_lib.validate(config)
    with pytest.raises(InputError, match=r'--config\.shadow_data\.root='):
        config_lib.validate(two_data_sets.make_config(shadow_data=dict(root='file://x')))


def test_the_list_of_keys_shows_the_meaning_of_a_section():
    text = reference._pipeline(two_data_sets.SCHEMA, {})
    assert '### shadow_data\n\nData set of the shadow.\n' in text
    assert '| `shadow_data.class_map` |' in text


def test_a_section_without_a_name_is_the_main_data_set(tmp_path):
    shadow = dict(name='', class_map='', world=dict(num_train=6, num_val=5, size=(128, 256)))
    shadow['world']['seed'] = 0
    config = two_data_sets.make_config(shadow_data=shadow)
    config_lib.validate(config)
    sections = data_sets.sections(config)
    assert sections['shadow_data'] == sections['data']
    datasets = data_sets.prepare(config)
    assert datasets['shadow_data'] is datasets['data']
    config.shadow_data.root = 'somewhere'
    with pytest.raises(InputError, match=r'--config\.shadow_data\.name=NAME'):
        config_lib.validate(config)


def test_sections_of_the_same_records_share_a_folder():
    world = dict(num_train=8, num_val=4, size=(32, 64), seed=0)
    datasets = data_sets.prepare(two_data_sets.make_config(shadow_data=dict(world=world)))
    assert datasets['shadow_data'].folder == datasets['data'].folder
    assert datasets['shadow_data'].spec.classes == CITYSCAPES_CATEGORIES.classes
    assert datasets['data'].spec.classes == CITYSCAPES


@pytest.mark.parametrize(
    'changed, says',
    [
        (dict(name='camvit'), r"config\.shadow_data\.name[\s\S]*'camvid'"),
        (dict(name='camvid'), r'--config\.shadow_data\.root=/data/camvid'),
        (dict(class_map='category'), r"config\.shadow_data\.class_map[\s\S]*'categories'"),
        (dict(lists=('m=train:none',)), r'config\.shadow_data\.lists none'),
    ],
)
def test_errors_name_the_keys_of_the_section(changed, says):
    with pytest.raises(InputError, match=says):
        data_sets.prepare(two_data_sets.make_config(shadow_data=changed))


# --- a run ----------------------------------------------------------------------------------------


def test_each_stage_has_the_classes_and_the_images_of_its_data_set(finished):
    workdir, scores = finished
    assert tuple(scores['victim']['IoU']) == CITYSCAPES.names
    assert tuple(scores['shadow']['IoU']) == CITYSCAPES_CATEGORIES.classes.names
    specs = same_run.stored_specs(workdir)
    assert list(specs) == ['data', 'shadow_data']
    assert specs['shadow_data'].num_examples == {'train': 6, 'val': 5}
    digests = {name: scores[name]['made_by']['data']['val'] for name in STAGES}
    assert digests['victim'] == specs['data'].digest['val']
    assert digests['shadow'] == specs['shadow_data'].digest['val']


def test_unpaired_inputs_read_their_own_data_set(tmp_path):
    config = two_data_sets.make_config()
    run, stages = driver.open_run(config, str(tmp_path), 'train')
    batches = train_batches(run, stages[1].train_input, 0)
    batch = next(batches)
    batches.close()
    assert set(batch['index']) <= set(range(6)) and max(batch['photo/index']) <= 7
    photo = stages[1].train_input.unpaired[0][1]
    assert len(run.open_input(photo)) == 8 and len(run.open_input(stages[1].train_input)) == 6


@pytest.mark.slow
def test_a_stopped_run_ends_bit_identical(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        stop_at(patch, 'shadow', 2)
        driver.train(two_data_sets.make_config(), str(tmp_path))
    assert driver.train(two_data_sets.make_config(), str(tmp_path)) == finished[1]
    assert_same_run(finished[0], tmp_path, STAGES)
    for name in ('spec.json', 'specs.json'):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical(tmp_path):
    def command(workdir):
        return [sys.executable, str(HELPERS / 'two_data_sets.py'), str(workdir), '30']

    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    run_to_the_end(command(whole))
    for number, stage in enumerate(STAGES):
        kill_on_the_way(command(killed), killed / stage, 2 + number, while_saving=number == 1)
    run_to_the_end(command(killed))
    assert_same_run(whole, killed, STAGES)
    for name in ('spec.json', 'specs.json'):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()


def test_a_finished_run_reuses_its_scores(finished, copy):
    assert driver.train(two_data_sets.make_config(), str(copy)) == finished[1]
    assert driver.evaluate(two_data_sets.make_config(), str(copy)) == finished[1]


def test_changed_data_of_any_section_are_refused(copy):
    path = copy / 'specs.json'
    stored = json.loads(path.read_text())
    stored['shadow_data']['num_examples']['train'] = 7
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"shadow_data: split 'train' has 6 examples, which were"):
        driver.train(two_data_sets.make_config(), str(copy))


def test_another_class_map_is_another_run(copy):
    config = two_data_sets.make_config(shadow_data=dict(class_map=''))
    with pytest.raises(InputError, match='shadow_data: 19 classes, which were 7'):
        driver.train(config, str(copy))
    with pytest.raises(InputError, match='19 classes, which were 7'):
        driver.evaluate(config, str(copy))
    with pytest.raises(InputError, match=r'shadow_data\.class_map'):
        driver.open_run(config, str(copy), 'predict')


def test_a_class_map_by_another_path_is_the_same_run(tmp_path, capsys):
    content = {'classes': [{'name': 'all', 'from': list(CITYSCAPES.names)}]}
    for name in ('here.json', 'there.json'):
        (tmp_path / name).write_text(json.dumps(content))
    first = two_data_sets.make_config(shadow_data=dict(class_map=str(tmp_path / 'here.json')))
    scores = driver.train(first, str(tmp_path / 'run'))
    second = two_data_sets.make_config(shadow_data=dict(class_map=str(tmp_path / 'there.json')))
    assert driver.train(second, str(tmp_path / 'run'))['shadow']['IoU'] == scores['shadow']['IoU']


def test_an_older_folder_without_further_specifications_resumes(copy):
    (copy / 'specs.json').unlink()
    driver.train(two_data_sets.make_config(), str(copy))
    assert list(same_run.stored_specs(copy)) == ['data', 'shadow_data']


def test_a_run_trains_on_a_list(tmp_path):
    config = two_data_sets.make_config()
    prepared = data_sets.prepare(config)['shadow_data']
    source = prepared.open_split('train', ('name',))
    (tmp_path / 'members.txt').write_text('\n'.join(source[i]['name'] for i in (5, 1, 2, 0)))
    config.shadow_data.lists = (f'members=train:{tmp_path}/members.txt',)
    config.shadow.split = 'members[:50%]'
    run, stages = driver.open_run(config, str(tmp_path / 'run'), 'train')
    assert run.spec_of(stages[1].train_input).parts[0].num_examples == 2
    batches = train_batches(run, stages[1].train_input, 0)
    first = next(batches)
    batches.close()
    assert set(first['index']) == {0, 1}
    driver.train(config, str(tmp_path / 'run'))
    assert same_run.stored_specs(tmp_path / 'run')['shadow_data'].num_examples['members'] == 4

    # Another content of the file is another data set.
    (tmp_path / 'members.txt').write_text('\n'.join(source[i]['name'] for i in (5, 1, 2, 3)))
    with pytest.raises(InputError, match=r"shadow_data: split 'members' has"):
        driver.train(config, str(tmp_path / 'run'))


def test_processes_must_agree_on_every_data_set(monkeypatch):
    facts = {}
    monkeypatch.setattr(agreement.processes, 'joined', lambda: True)
    monkeypatch.setattr(agreement.processes, 'compare', facts.update)
    config = two_data_sets.make_config()
    agreement.check_data(data_sets.prepare(config), '')
    assert {'data', 'shadow_data', 'examples of val', 'examples of val in shadow_data'} <= set(
        facts
    )
    shared = agreement._shared_keys(config)
    assert 'shadow_data.root' not in shared and 'shadow_data.world.seed' in shared


# --- slices and older runs ------------------------------------------------------------------------


@pytest.mark.slow
def test_an_older_run_keeps_the_class_weights_of_whole_splits(tmp_path):
    config = config_file.load('configs/supervised.py:smoke')
    config.model.update(width=0.25, first_maps=32, blocks=(0, 1, 0, 0))
    world = dict(num_train=16, num_val=8, size=(32, 64))
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(train_split='train[:50%]', eval_size=(32, 64), world=world),
        train=dict(batch_size=8, num_steps=1),
        evaluate=dict(batch_size=8),
        logging=dict(num_pictures=0),
    )
    folder = tmp_path / 'run'
    run, _ = driver.open_run(config, str(folder), 'train')
    assert (
        run.spec.parts
        and run.spec.part('train[:50%]').num_examples < run.spec.num_examples['train']
    )
    driver.train(config, str(folder))
    run, _ = driver.open_run(config, str(folder), 'train')
    assert run.spec.parts
    stored = json.loads((folder / 'spec.json').read_text())
    del stored['parts']
    (folder / 'spec.json').write_text(json.dumps(stored))
    run, _ = driver.open_run(config, str(folder), 'train')
    assert not run.spec.parts


# --- examples that an earlier stage chose ---------------------------------------------------------


def test_a_run_opens_the_positions_that_a_stage_hands_on(tmp_path):
    config = two_data_sets.make_config()
    run = Run(config, data_sets.prepare(config), tmp_path, parallel.topology('pmap', 1))
    inputs = Input('train', 2, ('image',), (32, 64), chosen=Product('victim', 'sure'))
    assert len(run.open_input(inputs)) == 8, 'before the stage has finished'
    (tmp_path / 'victim').mkdir()
    stored = product_files.Stored({'sure': np.array([6, 2, 3])}, step=1, examples='')
    (tmp_path / 'victim' / product_files.PRODUCTS).write_bytes(product_files.encode(stored))
    source = run.open_input(inputs, 'name')
    plain = run.data_of(inputs).open_split('train', ('name',))
    assert [source[i]['name'] for i in range(3)] == [plain[i]['name'] for i in (6, 2, 3)]
    np.testing.assert_array_equal(
        loader.examples(source, [2], inputs, (32, 64))['image'][0].shape, (32, 64, 3)
    )
    with pytest.raises(InputError, match="did you mean 'sure'"):
        run.open_input(inputs._replace(chosen=Product('victim', 'shure')))


def test_an_input_of_an_unknown_section_is_refused(tmp_path):
    config = two_data_sets.make_config()
    run = Run(config, data_sets.prepare(config), tmp_path, parallel.topology('pmap', 1))
    inputs = Input('train', 2, ('image',), (32, 64), data='shadow')
    with pytest.raises(InputError, match='one of data, shadow_data'):
        run.open_input(inputs)
    with pytest.raises(InputError, match='one of data, shadow_data'):
        run.spec_of(inputs)


# --- the other modes ------------------------------------------------------------------------------


def test_the_report_has_a_card_for_each_data_set(finished):
    text = (finished[0] / 'report.html').read_text()
    assert 'Data: shadow_data' in text and 'is missing' not in text
    assert CITYSCAPES_CATEGORIES.classes.names[1] in text


def test_the_doctor_shows_each_data_set(capsys, tmp_path):
    config = two_data_sets.make_config()
    assert doctor.main(config, str(tmp_path / 'run')) == 0
    text = capsys.readouterr().out
    assert "shadow_data: data set 'streets'" in text and 'vehicle' in text
    config.shadow_data.class_map = 'category'
    (found,) = (each for each in doctor.diagnose(config) if each.severity == 'error')
    assert found.where == 'config.shadow_data.class_map'


def test_the_doctor_describes_data_as_preparing_does(tmp_path):
    config = two_data_sets.make_config()
    names = data_sets.prepare(config)['data'].open_split('train', ('name',))
    (tmp_path / 'm.txt').write_text('\n'.join(names[i]['name'] for i in (7, 0, 2)))
    config_lib.update(
        config, data=dict(class_map='categories', lists=(f'm=train:{tmp_path}/m.txt',))
    )
    examined = doctor.run.examine_section('data', config.data, lambda: None)
    assert examined.spec == data.prepare(config.data).spec
    assert examined.splits['m'].num_labelled == 3 and len(examined.splits['m'].items) == 3
    assert examined.splits['train'].counts[7:255].sum() == 0
    text = doctor.report(doctor.examine(config))
    assert text.index('\nm ') and 'construction' in text and 'sidewalk' not in text


@pytest.mark.parametrize(
    'trained, evaluated, shared',
    [('train', 'm', 3), ('m', 'train[1:]', 2), ('train[1:2]', 'm', 0), ('m', 'val', 0)],
)
def test_the_doctor_warns_of_lists_that_are_trained_on(tmp_path, trained, evaluated, shared):
    config = two_data_sets.make_config()
    names = data_sets.prepare(config)['data'].open_split('train', ('name',))
    (tmp_path / 'm.txt').write_text('\n'.join(names[i]['name'] for i in (7, 0, 2)))
    config.data.lists = (f'm=train:{tmp_path}/m.txt',)
    config_lib.update(config, data=dict(train_split=trained, eval_split=evaluated))
    found = [each for each in doctor.diagnose(config) if each.where == 'config.data.eval_split']
    assert [each.message.partition(' ')[0] for each in found] == [str(shared)] * bool(shared)
    if found:
        assert found[0].fix == '--config.data.eval_split=val'


def test_the_doctor_reads_the_same_data_set_once(monkeypatch):
    shadow = dict(name='', class_map='', world=dict(num_train=6, num_val=5, size=(128, 256)))
    shadow['world']['seed'] = 0
    config = two_data_sets.make_config(shadow_data=shadow)
    diagnosis = doctor.examine(config)
    assert diagnosis.further == () and not [f for f in diagnosis.findings if f.severity == 'error']


def test_predictions_need_the_run_folder_alone(finished, copy, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    layouts.save(tmp_path / 'in/a.png', layouts.photo(rng, (32, 64)))
    monkeypatch.setattr(data_sets, 'prepare', None)
    config = two_data_sets.make_config()
    run, _ = driver.open_run(config, str(copy), 'predict')
    assert run.specs['shadow_data'].classes == CITYSCAPES_CATEGORIES.classes
    predict.main(config, str(copy), str(tmp_path / 'in'), str(tmp_path / 'out'), 'last')


def test_the_pipelines_that_exist_have_one_data_set():
    for name in ('supervised', 'learned_dilation', 'scene_geometry', 'noise_cyclegan'):
        assert config_lib.data_sections(name) == ('data',)
        assert pipelines.REGISTRY[name]
