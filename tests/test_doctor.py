"""The doctor finds everything that is wrong, says it once and exits with 1; and finds nothing where nothing is."""

import pathlib

import layouts
import ml_collections
import numpy as np
import pytest
from PIL import Image

from segjax import config as config_lib
from segjax import config_file, doctor
from segjax.data import transforms
from segjax.data.worlds import streets

ROOT = pathlib.Path(__file__).parents[1]


def experiment(data_config, **augment):
    """A whole config around `config.data`."""
    config = config_lib.defaults('supervised')
    config_lib.update(
        config,
        data={key: value for key, value in data_config.items() if not isinstance(value, ml_collections.ConfigDict)},
        train=dict(batch_size=2),
        augment=dict(crop=(16, 32)) | augment,
    )
    config.data.eval_size = layouts.SIZE
    return config


@pytest.fixture
def mine(tmp_path):
    """A correct data set `folder`: its path and a config."""
    _, classes = layouts.write_folder(tmp_path / 'mine')
    data_config = layouts.data_config('folder', tmp_path / 'mine', tmp_path / 'cache', classes=classes)
    return tmp_path / 'mine', experiment(data_config)


def errors(config):
    return [finding for finding in doctor.diagnose(config) if finding.severity == 'error']


def warnings(config):
    return [finding for finding in doctor.diagnose(config) if finding.severity == 'warning']


def test_nothing_is_wrong(mine, capsys):
    assert doctor.diagnose(mine[1]) == []
    assert doctor.main(mine[1]) == 0
    printed = capsys.readouterr().out
    assert '0 errors, 0 warnings' in printed and '32x24' in printed


def test_nothing_is_written(mine, tmp_path):
    doctor.diagnose(mine[1])
    assert not (tmp_path / 'cache').exists()


def test_table_is_numpys_count(mine):
    root, config = mine
    diagnosis = doctor.examine(config)
    for split in ('train', 'val'):
        masks = np.stack([np.asarray(Image.open(path)) for path in sorted((root / 'masks' / split).glob('*.png'))])
        np.testing.assert_array_equal(diagnosis.splits[split].counts, np.bincount(masks.ravel(), minlength=256))
        share = 100 * np.mean(masks == 1)
        line = next(line for line in doctor.report(diagnosis).splitlines() if ' car ' in line)
        assert f'{share:.3g} %' in line


def test_all_problems_at_once(mine, capsys):
    root, config = mine
    masks, images = root / 'masks/train', root / 'images/train'
    layouts.save(masks / 'shot 0.png', np.full(layouts.SIZE, 9, np.uint8))
    layouts.save(masks / 'shot 1.png', np.zeros((8, 8), np.uint8))
    (images / 'shot 2.jpg').write_bytes((images / 'shot 2.jpg').read_bytes()[:-99])
    layouts.save(masks / 'shot 2.png', np.zeros((*layouts.SIZE, 3), np.uint8))
    layouts.save(root / 'images/val/alone.png', np.zeros((*layouts.SIZE, 3), np.uint8))
    layouts.save(root / 'masks/val/lonely.png', np.zeros(layouts.SIZE, np.uint8))
    config.data.eval_split = 'test'
    config.augment.flip = 2.0
    found = {(finding.where, finding.message.split(';')[0][:30]) for finding in errors(config)}
    expected = {
        (str(masks / 'shot 0.png'), 'got label ids 9 (768 pixels)'),
        (str(masks / 'shot 1.png'), 'got 8x8 pixels'),
        (str(images / 'shot 2.jpg'), 'got a broken image: image file'),
        (str(masks / 'shot 2.png'), 'got a label with three channel'),
        (str(root / 'images/val/alone.png'), 'got an image without a label i'),
        (str(root / 'masks/val/lonely.png'), 'got a label without an image i'),
        ('config.data.eval_split', "got 'test'"),
        ('config.augment.flip', 'got 2.0'),
    }
    assert found == expected
    assert doctor.main(config) == 1
    printed = capsys.readouterr().out
    assert all(where in printed for where, _ in expected) and '8 errors' in printed


@pytest.mark.parametrize(
    ('ids', 'classes', 'fix'),
    [((1, 2, 3), '[a, b, c]', 'subtract 1'), ((0, 255), '[a, b]', 'id: 255')],
)
def test_systematic_mistakes(tmp_path, ids, classes, fix):
    _, path = layouts.write_folder(tmp_path / 'mine', ids=ids, classes=classes)
    config = experiment(layouts.data_config('folder', tmp_path / 'mine', tmp_path, classes=path))
    found = errors(config)
    assert found and all(fix in finding.fix for finding in found)
    if ids[0] == 1:
        assert any('1..3, 0 never' in finding.message for finding in found)


def test_many_of_a_kind_are_summed_up(tmp_path):
    _, path = layouts.write_folder(tmp_path / 'mine', ids=(0, 5), count=12, splits=('train',))
    config = experiment(layouts.data_config('folder', tmp_path / 'mine', tmp_path, classes=path, eval_split='train'))
    assert len(errors(config)) == 12
    printed = doctor.report(doctor.examine(config))
    assert printed.count('label ids 5') == doctor.SHOWN and 'and 7 more of this kind' in printed


def test_image_in_two_splits_is_an_error_and_twice_in_one_a_warning(mine):
    root, config = mine
    content = (root / 'images/train/shot 0.jpg').read_bytes()
    (root / 'images/val/shot 2.jpg').write_bytes(content)
    (found,) = errors(config)
    assert found.where.endswith('train/shot 0.jpg') and 'val/shot 2.jpg' in found.message
    (root / 'images/train/shot 1.jpg').write_bytes(content)
    assert any('again' in finding.message for finding in warnings(config))


def test_a_frame_of_another_size_than_its_clip(tmp_path):
    frame = layouts.enlarge_one_frame(tmp_path)
    (finding,) = errors(experiment(layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')))
    assert finding.where == str(frame) and '40x32' in finding.message and '32x24' in finding.message


def test_class_never_seen(mine):
    _, config = mine
    pathlib.Path(config.data.classes).write_text('[back, car, tree, bus]')
    found = warnings(config)
    assert [finding.where for finding in found] == ["split 'train'", "split 'val'"]
    assert 'bus (id 3)' in found[0].message and 'cannot learn' in found[0].message
    assert 'does not count' in found[1].message
    assert doctor.main(config) == 0


def test_void_everywhere(mine):
    root, config = mine
    for path in (root / 'masks/val').glob('*.png'):
        layouts.save(path, np.full(layouts.SIZE, 255, np.uint8))
    (found,) = warnings(config)
    assert found.where == "split 'val'" and 'void' in found.message
    (found,) = errors(config)
    assert found.where == "split 'val'" and 'no labelled example' in found.message


def test_empty_split(mine):
    root, config = mine
    for path in [*(root / 'masks/val').glob('*'), *(root / 'images/val').glob('*')]:
        path.unlink()
    (found,) = errors(config)
    assert "split 'val'" in found.where and 'no examples' in found.message


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'says'),
    [
        ('train', 'batch_size', 7, "'train' has 3 examples"),
        ('augment', 'crop', (32, 32), 'no image is larger than 24x32'),
        ('data', 'eval_size', (32, 32), 'images of 24x32 fit as 24x32: 25% is padding'),
        ('data', 'eval_size', (12, 32), 'images of 24x32 fit as 12x16: 50% is padding'),
        ('data', 'eval_split', 'train', 'is trained on'),
    ],
)
def test_config_against_data(mine, section, key, value, says):
    config = mine[1]
    config[section][key] = value
    if key == 'crop':
        config.augment.scale = (0.5, 1.0)
    (found,) = warnings(config)
    assert found.where == f'config.{section}.{key}' and says in found.message


def test_a_batch_larger_than_the_labelled_frames_of_a_video_is_a_warning(tmp_path):
    layouts.write_sequences(tmp_path / 'video', ('train', 'val'))
    config = experiment(layouts.data_config('cityscapes_video', tmp_path / 'video', tmp_path / 'cache'))
    config.train.batch_size = 3
    (found,) = (finding for finding in warnings(config) if finding.where == 'config.train.batch_size')
    assert found.message == "3, but 'train' has 2 labelled examples"


def test_evaluation_pads_as_much_as_is_said(mine):
    image = np.full((*layouts.SIZE, 3), 255, np.uint8)
    seen = transforms.evaluation({'image': image}, (12, 32), layouts.SIZE)['image']
    assert (seen == 0).mean() == 0.5


def test_an_evaluation_size_of_nearly_the_shape_of_the_images_is_no_mistake(mine):
    config = mine[1]
    config.data.eval_size = (48, 62)
    assert doctor.diagnose(config) == []


def test_slices_of_one_split_are_no_mistake(mine):
    config = mine[1]
    config.data.train_split, config.data.eval_split = 'train[:2]', 'train[2:]'
    assert doctor.diagnose(config) == []


def test_scaled_images_fill_the_crop(mine):
    config = mine[1]
    config.augment.crop, config.augment.scale = (32, 32), (0.5, 2.0)
    assert doctor.diagnose(config) == []


def test_missing_folder_and_unknown_name(mine, capsys):
    config = mine[1]
    config.data.root = '/no/such/folder'
    (found,) = errors(config)
    assert found.where == 'config.data.root' and '/no/such/folder' in found.message
    config.data.name = 'nothing'
    assert doctor.main(config) == 1
    assert 'config.data.name' in capsys.readouterr().out


def test_streets(tmp_path):
    config = experiment(layouts.data_config('streets', '', tmp_path), crop=(16, 16))
    config.data.world.update(num_train=2, num_val=1, size=(24, 32))
    assert errors(config) == []


SHIPPED = sorted(f'configs/{path.name}:smoke' for path in (ROOT / 'configs').glob('*.py'))
SHIPPED += [f'configs/scene_geometry.py:smoke,method={method}' for method in ('klingner', 'novosel', 'depth', 'pose')]


@pytest.mark.parametrize('path', SHIPPED)
def test_shipped_configs_are_clean(path):
    assert errors(config_file.load(path)) == []


def test_the_shapes_of_later_stages_are_checked():
    config = config_file.load('configs/scene_geometry.py:smoke')
    config.optim.factors = (('no/such/module', 2.0),)
    (found,) = errors(config)
    assert found.where == 'optim.factors' and 'no/such/module' in found.message


def test_geometry_that_makes_no_sense(tmp_path, monkeypatch):
    config = experiment(layouts.data_config('streets', '', tmp_path), crop=(16, 16))
    config.data.world.update(num_train=3, num_val=1, size=(24, 32))
    frame = streets.frame

    def broken(seed, split, clip, number, size):
        found = frame(seed, split, clip, number, size)
        if split == 'train' and number:
            found['depth' if number == 1 else 'pose'][2, 3] = np.nan
        return found

    monkeypatch.setattr(streets, 'frame', broken)
    wrong = [finding.where.split(' in ')[0] for finding in errors(config)]
    assert wrong == ['depth of train_00000_1', 'pose of train_00000_2']


@pytest.mark.parametrize(
    ('name', 'folder', 'eval_split'),
    [
        ('camvid', 'camvid', 'val'),
        ('cityscapes', 'cityscapes_mini', 'train'),
        ('cityscapes_video', 'cityscapes_video', 'val'),
    ],
)
def test_real_data_is_clean(real_data, tmp_path, name, folder, eval_split):
    config = experiment(layouts.data_config(name, real_data / folder, tmp_path, eval_split=eval_split))
    assert errors(config) == []
