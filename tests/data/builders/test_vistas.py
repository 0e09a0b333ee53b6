"""Mapillary Vistas: both releases, the config file, and the merge to the classes of Cityscapes."""

import json

import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders, class_tables, labels
from segjax.errors import InputError
from segjax.modes.doctor import examined

ROWS = tuple(class_tables.rows(class_tables.VISTAS))
ROWS_V2 = tuple(class_tables.rows(class_tables.VISTAS_V2))


def config_of(tmp_path, name='vistas', **keys):
    return layouts.data_config(name, tmp_path / 'raw', tmp_path / 'cache', **keys)


def is_evaluated(name):
    return name != 'Unlabeled'


def write(tmp_path, name='vistas', **options):
    """Writes a release as it is published."""
    options.setdefault('evaluate', is_evaluated)
    if name == 'vistas':
        return layouts.write_vistas(tmp_path / 'raw', ROWS, **options)
    options = {'labels': 'v2.0/labels', 'config': 'config_v2.0.json'} | options
    return layouts.write_vistas(tmp_path / 'raw', ROWS_V2, **options)


def findings_of(config):
    """Returns what the doctor says of the files."""
    return examined.examine_section('data', config, lambda: None).findings


def test_the_tables_have_the_published_numbers_of_labels():
    assert len(ROWS) == 66 and len(ROWS_V2) == 124
    for rows in (ROWS, ROWS_V2):
        assert [number for _, number, _ in rows] == list(range(len(rows)))
        assert len({name for name, _, _ in rows}) == len(rows)
    assert labels.VISTAS.num_classes == 65 and labels.VISTAS_V2.num_classes == 116
    # Labels of the same name have the same colour in both releases, except for the crosswalk.
    colors = {name: color for name, _, color in ROWS}
    differing = [name for name, _, color in ROWS_V2 if colors.get(name, color) != color]
    assert differing == ['Lane Marking - Crosswalk']


LABELS = {'': 'labels', 'v1.2': 'v1.2/labels'}
CONFIGS = {'': 'config.json', 'v1.2': 'config_v1.2.json'}


@pytest.mark.parametrize('place', LABELS)
def test_indices_are_the_ids(tmp_path, place):
    written = write(tmp_path, labels=LABELS[place], config=CONFIGS[place])
    prepared = data.prepare(config_of(tmp_path))
    spec = prepared.spec
    assert spec.classes == labels.VISTAS and set(spec.class_maps) == {'cityscapes'}
    assert spec.num_examples == {'train': 3, 'val': 2}, 'testing has no labels'
    assert spec.max_size == {'train': (32, 40), 'val': (32, 40)}
    for split, folder in (('train', 'training'), ('val', 'validation')):
        source = prepared.open_split(split, ('image', 'label', 'name'))
        for i in range(len(source)):
            _, ids = written[folder, source[i]['name']]
            np.testing.assert_array_equal(source[i]['label'], np.where(ids == 65, 255, ids))
            assert source[i]['image'].shape[:2] == ids.shape


def test_release_2(tmp_path):
    written = write(tmp_path, 'vistas_v2', config='')
    prepared = data.prepare(config_of(tmp_path, 'vistas_v2'))
    assert prepared.spec.classes == labels.VISTAS_V2
    void = [number for name, number, _ in ROWS_V2 if name in labels.VISTAS_V2_VOID]
    assert len(void) == 8
    source = prepared.open_split('train', ('label', 'name'))
    _, ids = written['training', source[0]['name']]
    # Train ids count the classes before an id.
    expected = np.array([i - sum(v < i for v in void) for i in range(124)])[ids]
    expected[np.isin(ids, void)] = 255
    np.testing.assert_array_equal(source[0]['label'], expected)
    (note,) = builders.load(config_of(tmp_path, 'vistas_v2')).notes_of_folders()
    assert 'no config_v2.0.json' in note.message and 'Person Group' in note.message


def test_the_config_file_decides_which_labels_are_void(tmp_path):
    write(tmp_path, 'vistas_v2', evaluate=lambda name: name not in ('Unlabeled', 'Bird'))
    classes = builders.load(config_of(tmp_path, 'vistas_v2')).classes
    assert classes.num_classes == 122 and 'Bird' not in classes.names
    assert 'Person Group' in classes.names and classes.ids[0] == 1


# The ids of convert_cityscapes_labels.m, in the order of the train ids of Cityscapes.
MERGED_IDS = (
    *((13, 41, 24), (15, 2), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,)),
    *((27,), (19,), (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,)),
)


def test_the_merge_is_the_published_merge(tmp_path):
    written = write(tmp_path)
    prepared = data.prepare(config_of(tmp_path, class_map='cityscapes'))
    assert prepared.spec.classes == labels.CITYSCAPES
    table = np.full(66, 255)
    for train_id, ids in enumerate(MERGED_IDS):
        table[list(ids)] = train_id
    assert (table != 255).sum() == 25
    source = prepared.open_split('val', ('label', 'name'))
    for i in range(2):
        _, ids = written['validation', source[i]['name']]
        np.testing.assert_array_equal(source[i]['label'], table[ids])


def test_the_merge_of_release_2_agrees_with_release_1():
    assert tuple(labels.VISTAS_AS_CITYSCAPES) == labels.CITYSCAPES.names
    first = dict(zip(labels.VISTAS.names, labels.VISTAS_CITYSCAPES.train_ids, strict=True))
    second = dict(zip(labels.VISTAS_V2.names, labels.VISTAS_V2_CITYSCAPES.train_ids, strict=True))
    for name in first.keys() & second.keys():
        assert first[name] == second[name], name
    # Kinds of a class of release 1.x, by the form of their names.
    kinds = {
        'Lane Marking - General': ('Lane Marking', 22),
        'Traffic Light': ('Traffic Light', 6),
        'Traffic Sign (Front)': ('Traffic Sign', 4),
    }
    for name, (start, number) in kinds.items():
        merged = [other for other in second if other.startswith(start) and second[other] != 255]
        assert {second[other] for other in merged} == {first[name]}
        assert len(merged) == number
        assert not any('Crosswalk' in other or 'Back' in other for other in merged)
    assert [first[name] for name in ('Car', 'On Rails', 'Curb')] == [13, 16, 1]


def test_the_config_file_of_another_release_has_a_fix_that_works(tmp_path):
    write(tmp_path, 'vistas_v2', config='config.json')
    with pytest.raises(InputError, match='124 labels') as error:
        builders.load(config_of(tmp_path))
    name = error.value.fix.removeprefix('--config.data.name=')
    assert builders.load(config_of(tmp_path, name)).splits() == ('train', 'val')


def rename(content):
    content['labels'][55]['readable'] = 'Auto'


def forget(content):
    del content['labels'][3]['evaluate']


WRONG_CONFIGS = {
    'name': (rename, r"the name 'Auto' of label 55[\s\S]*'Car'"),
    'no evaluate': (forget, r"another form: 'evaluate'"),
    'no labels': (dict.clear, "another form: 'labels'"),
}


@pytest.mark.parametrize('change, says', WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_wrong_config_files_are_refused(tmp_path, change, says):
    write(tmp_path)
    path = tmp_path / 'raw/config.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=says) as error:
        builders.load(config_of(tmp_path))
    assert error.value.where == str(path)


@pytest.mark.parametrize('name', ['vistas', 'vistas_v2'])
def test_the_doctor_names_wrong_files(tmp_path, name):
    write(tmp_path, name)
    config = config_of(tmp_path, name)
    assert findings_of(config) == []
    folder = builders.load(config).listing('train')[0].files['label'].parent
    first, second, third = sorted(folder.iterdir())
    size = (32, 40) if first.stem.startswith('-') else layouts.SIZE
    layouts.save(first, np.full(size, 124, np.uint8))
    second.unlink()
    layouts.save(third, np.zeros((8, 8), np.uint8))
    found = {finding.where: finding.message for finding in findings_of(config)}
    alone = tmp_path / f'raw/training/images/{second.stem}.jpg'
    assert 'label ids 124' in found[str(first)]
    assert '8x8 pixels' in found[str(third)]
    assert 'an image without a label' in found[str(alone)]
    assert len(found) == 3


def test_labels_of_release_2_are_no_labels_of_release_1(tmp_path):
    layouts.write_vistas(tmp_path / 'raw', ROWS_V2, config='')
    findings = findings_of(config_of(tmp_path))
    assert len(findings) == 5
    assert all('label ids 66' in finding.message for finding in findings)


def test_a_folder_without_splits_is_named(tmp_path):
    (tmp_path / 'raw/training').mkdir(parents=True)
    with pytest.raises(InputError, match='no folder training/images'):
        builders.load(config_of(tmp_path)).splits()
