"""BDD100K's semantic segmentation in both layouts, and problems of its files."""

import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import builders, class_maps, labels
from segjax.errors import InputError
from segjax.modes.doctor import examined


def config_of(tmp_path):
    return layouts.data_config('bdd100k', tmp_path / 'raw', tmp_path / 'cache')


def findings_of(config):
    """Returns what the doctor says of the files."""
    return examined.examine_section('data', config, lambda: None).findings


@pytest.mark.parametrize('older', [False, True])
def test_train_ids_are_the_labels(tmp_path, older):
    written = layouts.write_bdd100k(tmp_path / 'raw', older)
    prepared = data.prepare(config_of(tmp_path))
    spec = prepared.spec
    assert spec.features == ('image', 'label', 'name')
    assert spec.num_examples == {'train': 4, 'val': 2}, 'test has no labels'
    assert spec.classes.names == labels.CITYSCAPES.names
    assert spec.classes.ids == tuple(range(19))
    for split in ('train', 'val'):
        source = prepared.open_split(split, ('image', 'label', 'name'))
        counts = np.zeros(256, int)
        for i in range(len(source)):
            _, label = written[split, source[i]['name']]
            np.testing.assert_array_equal(source[i]['label'], label)
            assert source[i]['image'].shape == (*layouts.SIZE, 3)
            counts += np.bincount(label.ravel(), minlength=256)
        assert spec.class_pixels[split] == tuple(counts[:19])
        assert spec.void_pixels[split] == counts[255]


@pytest.mark.parametrize('older', [False, True])
def test_the_doctor_finds_nothing(tmp_path, older):
    layouts.write_bdd100k(tmp_path / 'raw', older)
    assert findings_of(config_of(tmp_path)) == []


def test_a_labelled_test_split_is_read(tmp_path):
    layouts.write_bdd100k(tmp_path / 'raw', counts=(('train', 1), ('test', 2)))
    (tmp_path / 'raw/images/10k/test/ffffffff-00000004.jpg').unlink()
    assert builders.load(config_of(tmp_path)).splits() == ('train', 'test')


def test_both_layouts_at_once(tmp_path):
    layouts.write_bdd100k(tmp_path / 'raw')
    layouts.write_bdd100k(tmp_path / 'raw', older=True, counts=(('train', 9),))
    dataset = builders.load(config_of(tmp_path))
    assert len(dataset.listing('train')) == 4
    (note,) = dataset.notes_of_folders()
    assert 'passed over: seg/images, because images/10k exists' in note.message


def test_the_categories_are_those_of_cityscapes(tmp_path):
    written = layouts.write_bdd100k(tmp_path / 'raw')
    config = config_of(tmp_path)
    config.class_map = 'categories'
    source = data.prepare(config).open_split('val', ('label', 'name'))
    _, label = written['val', source[0]['name']]
    table = class_maps.table(labels.CITYSCAPES_CATEGORIES)
    np.testing.assert_array_equal(source[0]['label'], table[label])


def test_the_parent_folder_has_a_fix_that_works(tmp_path):
    layouts.write_bdd100k(tmp_path / 'raw/bdd100k')
    config = config_of(tmp_path)
    with pytest.raises(InputError, match='no folder images/10k or seg/images') as error:
        builders.load(config).splits()
    config.root = error.value.fix.removeprefix('--config.data.root=')
    assert builders.load(config).splits() == ('train', 'val')


def add(path, array):
    """Returns a change that writes an array to a file below the root."""
    return lambda root: layouts.save(root / path, array)


ZEROS = np.zeros(layouts.SIZE, np.uint8)
MASKS = 'labels/sem_seg/masks/train'
WRONG = {
    'another id': (
        False,
        add(f'{MASKS}/00000000-00000005.png', np.full(layouts.SIZE, 19, np.uint8)),
        '00000000-00000005.png',
        'label ids 19',
    ),
    'colours': (
        False,
        add(f'{MASKS}/00000001-00000005.png', np.zeros((*layouts.SIZE, 3), np.uint8)),
        '00000001-00000005.png',
        'three channels',
    ),
    'size': (
        False,
        add(f'{MASKS}/00000002-00000005.png', np.zeros((8, 8), np.uint8)),
        '00000002-00000005.png',
        '8x8 pixels',
    ),
    'label alone': (False, add(f'{MASKS}/x.png', ZEROS), 'x.png', 'a label without an image'),
    'image alone': (
        True,
        add('seg/images/val/alone.png', np.zeros((*layouts.SIZE, 3), np.uint8)),
        'alone.png',
        'seg/labels/val/alone_train_id.png',
    ),
    'no train ids': (
        True,
        add('seg/labels/train/0_drivable_id.png', ZEROS),
        '0_drivable_id.png',
        '_train_id.png',
    ),
}


@pytest.mark.parametrize('older, change, file, says', WRONG.values(), ids=WRONG)
def test_the_doctor_names_wrong_files(tmp_path, older, change, file, says):
    layouts.write_bdd100k(tmp_path / 'raw', older)
    change(tmp_path / 'raw')
    (finding,) = findings_of(config_of(tmp_path))
    assert finding.severity == 'error' and finding.where.endswith(file)
    assert says in finding.message


def test_folders_without_splits_are_named(tmp_path):
    (tmp_path / 'raw/images/10k/all').mkdir(parents=True)
    with pytest.raises(InputError, match='no folder train or val'):
        builders.load(config_of(tmp_path)).splits()
