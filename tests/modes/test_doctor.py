"""The doctor finds every problem and reports it once. It finds none where there is none."""

import os
import pathlib
import shlex
import shutil
import signal

import layouts
import ml_collections
import numpy as np
import pytest
import shallow_nets
from fakes import SPEC
from PIL import Image

from segjax import config as config_lib
from segjax import data
from segjax.config import config_file
from segjax.core import parallel
from segjax.data import builders, index, kinds, loader, transforms
from segjax.data.worlds import streets
from segjax.errors import InputError
from segjax.modes import doctor
from segjax.modes.doctor import reading, refusals
from segjax.train import checks, driver
from segjax.train.batches import declared_in_batch
from segjax.train.stop import Preempted, StopSignal

ROOT = pathlib.Path(__file__).parents[2]


def experiment(data_config, **augment):
    """Returns a whole config with the given section `data`."""
    config = config_lib.defaults('supervised')
    config_lib.update(
        config,
        data={
            key: value
            for key, value in data_config.items()
            if not isinstance(value, ml_collections.ConfigDict)
        },
        train=dict(batch_size=2),
        augment=dict(crop=(16, 32)) | augment,
    )
    config.data.eval_size = layouts.SIZE
    config.model.blocks = (1, 1, 0, 0)
    return config


pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    shallow_nets.use(monkeypatch)


@pytest.fixture
def mine(tmp_path):
    """Writes a correct data set `folder`. Returns its path and a config."""
    _, classes = layouts.write_folder(tmp_path / 'mine')
    data_config = layouts.data_config(
        'folder', tmp_path / 'mine', tmp_path / 'cache', classes=classes
    )
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
        masks = np.stack(
            [
                np.asarray(Image.open(path))
                for path in sorted((root / 'masks' / split).glob('*.png'))
            ]
        )
        np.testing.assert_array_equal(
            diagnosis.splits[split].counts, np.bincount(masks.ravel(), minlength=256)
        )
        share = 100 * np.mean(masks == 1)
        line = next(line for line in doctor.report(diagnosis).splitlines() if ' car ' in line)
        assert f'{share:.3g} %' in line


def test_names_of_lists_fit_into_the_tables(mine):
    config = mine[1]
    names = ('victim_members', 'victim_non_members')
    config.data.lists = tuple(f'{name}=train:draw(1)' for name in names)
    lines = doctor.report(doctor.examine(config)).splitlines()
    heads = next(line for line in lines if ' class ' in line)
    assert heads.split()[2:6] == ['train', 'val', *names]
    for name in names:
        assert any(line.split()[:3] == [name, '1', '1'] for line in lines)


def test_a_list_that_cannot_be_drawn_is_a_single_error(mine):
    config = mine[1]
    config.data.lists = ('members=train:draw(900)', 'rest=train:draw(1)')
    config.data.train_split = 'members'
    config.data.eval_split = 'rest'
    (finding,) = errors(config)
    assert 'draw(900)' in finding.where
    config.data.eval_split = 'rst'
    assert {finding.where for finding in errors(config)} > {'config.data.eval_split'}


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
        assert any('1..3 and never 0' in finding.message for finding in found)


def test_many_of_a_kind_are_summed_up(tmp_path):
    _, path = layouts.write_folder(tmp_path / 'mine', ids=(0, 5), count=12, splits=('train',))
    config = experiment(
        layouts.data_config('folder', tmp_path / 'mine', tmp_path, classes=path, eval_split='train')
    )
    assert len(errors(config)) == 12
    printed = doctor.report(doctor.examine(config))
    assert printed.count('label ids 5') == doctor.SHOWN and 'and 7 more of this kind' in printed


def test_an_error_of_a_file_of_all_images_is_printed_once(tmp_path):
    frames = len(layouts.write_clips(tmp_path))
    camera = tmp_path / 'camera.json'
    camera.write_text('{}')
    config = experiment(layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache'))
    (found,) = errors(config)
    assert found.where == str(camera) and f'({frames} images)' in found.message
    printed = doctor.report(doctor.examine(config))
    assert printed.count(str(camera)) == 1 and '1 error,' in printed


def test_an_error_of_two_inputs_is_printed_once(capsys):
    config = config_file.load('configs/membership.py:smoke')
    config.data.eval_split = 'victim_members'
    assert doctor.main(config) == 1
    printed = capsys.readouterr().out
    assert printed.count("'victim_members' excludes 'victim_members'") == 1
    assert '\n1 error, ' in printed


def test_an_image_next_to_the_splits_is_one_error(mine):
    root, config = mine
    (root / 'images/loose.jpg').write_bytes((root / 'images/train/shot 0.jpg').read_bytes())
    (found,) = [finding for finding in errors(config) if 'loose.jpg' in finding.where]
    assert 'images)' not in found.message


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
    (finding,) = errors(
        experiment(layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache'))
    )
    assert finding.where == str(frame) and '40x32' in finding.message and '32x24' in finding.message


def test_class_never_seen(mine):
    _, config = mine
    pathlib.Path(config.data.classes).write_text('[back, car, tree, bus]')
    found = warnings(config)
    assert [finding.where for finding in found] == ["split 'train'", "split 'val'"]
    assert 'bus (id 3)' in found[0].message and 'cannot learn' in found[0].message
    assert 'do not count' in found[1].message
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
        ('data', 'eval_size', (16, 32), 'images of 24x32 fit as 16x21: 34% is padding'),
        ('data', 'eval_split', 'train', 'is trained on'),
    ],
)
def test_config_against_data_is_a_warning_with_a_fix(mine, section, key, value, says):
    config = mine[1]
    config[section][key] = value
    if key == 'crop':
        config.augment.scale = (0.5, 1.0)
    (found,) = warnings(config)
    assert found.where == f'config.{section}.{key}' and says in found.message
    # Typing the fix removes the warning.
    assert doctor.diagnose(fixed(config, found)) == []


def test_a_batch_larger_than_the_labelled_frames_of_a_video_is_a_warning(tmp_path):
    layouts.write_sequences(tmp_path / 'video', ('train', 'val'))
    config = experiment(
        layouts.data_config('cityscapes_video', tmp_path / 'video', tmp_path / 'cache')
    )
    config.train.batch_size = 3
    (found,) = (
        finding for finding in warnings(config) if finding.where == 'config.train.batch_size'
    )
    assert found.message == "3, but 'train' has 2 labelled examples: a batch repeats images"


@pytest.mark.slow
def test_stages_that_cut_objects_out_see_no_padding(monkeypatch):
    """Images of 32x64 in squares of 32x32 would be padded."""
    config = config_file.load(str(ROOT / 'configs/semantic_inpainting.py:smoke'))
    assert tuple(config.data.eval_size) == (32, 32)
    assert 'config.data.eval_size' not in [finding.where for finding in warnings(config)]
    # Nor do they if the run is refused.
    refusal = InputError('unetd: input', got='height 32', expected='multiples of 64')
    monkeypatch.setattr(checks, 'problems', lambda *_: [refusal])
    places = [finding.where for finding in doctor.diagnose(config)]
    assert 'unetd: input' in places and 'config.data.eval_size' not in places


def test_evaluation_pads_as_much_as_is_said(mine):
    image = np.full((*layouts.SIZE, 3), 255, np.uint8)
    seen = transforms.evaluation({'image': image}, (12, 32), layouts.SIZE)['image']
    assert (seen == 0).mean() == 0.5


def test_an_evaluation_size_of_nearly_the_shape_of_the_images_is_no_mistake(mine):
    config = mine[1]
    config.data.eval_size = (88, 120)
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


SHIPPED = [
    f'configs/{name}.py:smoke'
    for name in (
        *('supervised', 'learned_dilation', 'monocular_normals', 'noise_cyclegan'),
        *('semantic_inpainting', 'shape_classifier', 'std2p', 'dropout_codes'),
        *('dense_features', 'pixel_neighbours', 'membership'),
    )
]
SHIPPED += [
    f'configs/label_to_image.py:smoke,net={net}'
    for net in ('pix2pixhd_global', 'pix2pixhd_local', 'mask_to_image')
]
SHIPPED += [f'configs/conditional_gan.py:smoke,gan={gan}' for gan in ('bicycle', 'pix2pix')]
SHIPPED += [f'configs/learned_dilation.py:smoke,net={net}' for net in ('deeplab_v2', 'pspnet')]
SHIPPED += [f'configs/noise_cyclegan.py:smoke,system={system}' for system in ('erfnet', 'start')]
SHIPPED += [
    f'configs/scene_geometry.py:smoke,method={method}'
    for method in (
        *('holistic', 'per_class', 'baseline', 'klingner', 'novosel'),
        *('chen', 'chen_multitask', 'depth', 'pose'),
    )
]


def test_every_shipped_file_is_among_the_examples():
    assert {path.name for path in (ROOT / 'configs').glob('*.py')} == {
        path.partition(':')[0].removeprefix('configs/') for path in SHIPPED
    }


TRAINED = (
    *('learned_dilation.py:smoke', 'monocular_normals.py:smoke', 'semantic_inpainting.py:smoke'),
    *('shape_classifier.py:smoke', 'dense_features.py:smoke', 'pixel_neighbours.py:smoke'),
    *('net=pix2pixhd_global', 'gan=bicycle', 'method=holistic'),
)
"""Ends of the paths that tests/test_smoke.py trains. Training makes the checks of the doctor.

Variants with a world of their own are not among them.
"""
PARTS = ('method=baseline', 'method=depth', 'method=novosel')
"""Ends of the paths whose stages are also stages of another path."""


def slow_ends(paths, *ends):
    """Returns the parameters of a test, which is slow for paths with given ends."""
    parameters = []
    for path in paths:
        marks = pytest.mark.slow if path.endswith(ends) else ()
        parameters.append(pytest.param(path, marks=marks))
    return parameters


@pytest.mark.parametrize('path', slow_ends(SHIPPED, *TRAINED, *PARTS))
def test_shipped_configs_are_clean(path, capsys):
    config = config_file.load(path)
    if 'system=start' in path:
        config.train.num_steps = 4
    assert doctor.main(config) == 0, capsys.readouterr().out


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
    config = experiment(
        layouts.data_config(name, real_data / folder, tmp_path, eval_split=eval_split)
    )
    assert errors(config) == []


# --- what a run would refuse ----------------------------------------------------------------------


def fixed(config, finding):
    """Returns the config after typing all assignments of a fix, split as a shell splits them."""
    words = shlex.split(finding.fix)
    assert words and all(word.startswith('--config.') for word in words), finding.fix
    _, assignments = config_file.split_arguments(['program', *words])
    changed = config.copy_and_resolve_references().lock()
    config_file.assign(changed, assignments)
    config_lib.validate(changed)
    return changed


def one_value(batch_size=1, accumulate=1, **model):
    """Returns a config of BiSeNet, which pools over the whole image and then normalises."""
    config = config_file.load('configs/supervised.py:smoke')
    config_lib.choose(config, 'model', 'bisenet')
    config_lib.update(config, model=dict(width=0.25, **model))
    config_lib.update(config, train=dict(batch_size=batch_size, accumulate=accumulate))
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ('batch_size', 'accumulate', 'fix'),
    [
        (1, 1, '--config.train.batch_size=2'),
        (4, 4, '--config.train.accumulate=2'),
        (3, 3, '--config.train.accumulate=1'),
    ],
)
def test_batch_norm_of_a_single_value_is_refused(batch_size, accumulate, fix):
    config = one_value(batch_size, accumulate)
    (found,) = errors(config)
    assert found.where == 'config.train.batch_size' and 'cp/conv_avg/bn' in found.message
    assert found.fix == fix
    assert errors(fixed(config, found)) == []


def test_a_run_refuses_batch_norm_of_a_single_value_before_it_writes_anything(tmp_path):
    with pytest.raises(InputError, match='single value per channel'):
        driver.train(one_value(), str(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
@pytest.mark.parametrize('config', [one_value(2), one_value(4, 2), one_value(frozen_norm=True)])
def test_frozen_statistics_and_several_values_are_no_mistake(config):
    config.evaluate.batch_size = 1
    assert errors(config) == []


@pytest.mark.parametrize(
    ('key', 'value'),
    [('data.eval_size', '(33, 65)'), ('evaluate.crop', '(30, 60)'), ('augment.crop', '(30, 60)')],
)
def test_sizes_that_a_net_does_not_take_are_errors_and_the_fix_works(key, value):
    config = config_file.overridden(
        config_file.load('configs/supervised.py:smoke'), f'{key}={value}'
    )
    found = errors(config)
    assert [finding.where for finding in found] == ['erfnet: input']
    assert f'--config.{key}=' in found[0].fix
    assert errors(fixed(config, found[0])) == []


def test_two_wrong_sizes_have_one_fix():
    config = config_file.load('configs/supervised.py:smoke')
    config.augment.crop = config.data.eval_size = (33, 65)
    (found,) = errors(config)
    assert errors(fixed(config, found)) == []


@pytest.mark.parametrize(('key', 'value'), [('train_split', 'trian'), ('eval_split', 'nothing')])
def test_typing_the_fix_of_an_unknown_split_removes_the_error(mine, key, value):
    config = mine[1]
    config.data[key] = value
    (found,) = errors(config)
    assert doctor.diagnose(fixed(config, found)) == []


def test_images_of_one_split_alone_are_cut_in_two(tmp_path):
    _, path = layouts.write_folder(tmp_path / 'mine', splits=('train',))
    config = experiment(layouts.data_config('folder', tmp_path / 'mine', tmp_path, classes=path))
    (found,) = errors(config)
    assert found.where == 'config.data.eval_split'
    assert [
        one for one in doctor.diagnose(fixed(config, found)) if 'trained on' in one.message
    ] == []
    assert errors(fixed(config, found)) == []


@pytest.mark.parametrize('split', ['train[:0]', 'train[20:]', 'train[x'])
def test_slices_without_images_are_errors(mine, split):
    config = mine[1]
    config.data.train_split = split
    (found,) = errors(config)
    assert found.where.startswith(f'split {split!r}')


def test_too_small_a_share_of_labels(mine):
    config = mine[1]
    config.data.labelled_fraction = 0.1
    (found,) = errors(config)
    assert found.where == 'config.data.labelled_fraction'
    assert errors(fixed(config, found)) == []


def test_batches_that_do_not_divide_over_the_devices(monkeypatch):
    monkeypatch.undo()  # eight devices
    config = config_file.load('configs/supervised.py:smoke')
    config.train.batch_size = config.evaluate.batch_size = 12
    found = errors(config)
    assert [finding.where for finding in found] == ['train.batch_size', 'evaluate.batch_size']
    for finding in found:
        config = fixed(config, finding)
    assert errors(config) == []


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """Returns (config, folder) of a run with a checkpoint."""
    folder = tmp_path_factory.mktemp('begun')
    config = config_file.load('configs/supervised.py:smoke')
    config_lib.update(config, train=dict(num_steps=1, batch_size=2), logging=dict(num_pictures=0))
    config_lib.update(config, data=dict(cache=str(folder / 'cache')))
    one_device = parallel.topology('pmap', 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, 'topology', lambda *_, **__: one_device)
        driver.train(config, str(folder / 'run'))
    return config, folder / 'run'


@pytest.mark.slow
def test_a_run_that_has_begun_keeps_its_batch_on_more_devices(monkeypatch, begun):
    """A run folder accepts no other batch size, so the fix is fewer devices."""
    config, workdir = begun
    monkeypatch.undo()  # eight devices
    (found,) = (one for one in doctor.diagnose(config, str(workdir)) if one.severity == 'error')
    assert found.where == 'train.batch_size' and 'got 2 on 8 devices' in found.message
    assert found.fix == 'XLA_FLAGS=--xla_force_host_platform_device_count=2'


def test_places_that_a_run_cannot_write_to_are_errors(tmp_path, monkeypatch):
    config = config_file.load('configs/supervised.py:smoke')
    file = tmp_path / 'file'
    file.touch()
    for workdir in (file, file / 'run'):
        (found,) = (one for one in doctor.diagnose(config, str(workdir)) if one.severity == 'error')
        assert found.where == '--workdir' and 'which is a file' in found.message
    for cache in (file, file / 'cache'):
        config.data.cache = str(cache)
        (found,) = errors(config)
        assert found.where == 'config.data.cache' and 'which is a file' in found.message
    config.data.cache = ''
    monkeypatch.setenv('SEGJAX_CACHE', str(file))
    (found,) = errors(config)
    assert found.where == '$SEGJAX_CACHE'


def test_float64_needs_64_bit_mode(mine):
    config = mine[1]
    config.train.dtype = 'float64'
    (found,) = errors(config)
    assert found.where == 'config.train.dtype'


def test_weights_that_do_not_fit_and_starts_that_are_not_there(tmp_path):
    config = config_file.load('configs/supervised.py:smoke')
    np.savez(tmp_path / 'other.npz', **{'other.weight': np.zeros((3, 3), np.float32)})
    for path in (tmp_path / 'other.npz', tmp_path / 'gone.npz', tmp_path / 'no run'):
        config.init_from.path = str(path)
        assert len(errors(config)) == 1, path


def test_a_run_folder_of_another_config_and_of_other_data(begun, tmp_path):
    config, folder = begun
    workdir = str(shutil.copytree(folder, tmp_path / 'run'))
    assert doctor.main(config, workdir) == 0
    changed = config_file.overridden(config, 'optim.learning_rate=0.5')
    (found,) = (one for one in doctor.diagnose(changed, workdir) if one.severity == 'error')
    assert found.where == f'--workdir {workdir}' and 'learning_rate' in found.message
    edited = pathlib.Path(workdir) / 'config.json'
    whole = edited.read_text()
    edited.write_text(whole.replace('"learning_rate": 0.0005', '"learning_rate": 0.5'))
    (found,) = (one for one in doctor.diagnose(changed, workdir) if one.severity == 'error')
    assert found.where == str(edited) and 'undo the edit: optim.learning_rate = 0.0005' in found.fix
    edited.write_text(whole)
    stored = pathlib.Path(workdir) / 'spec.json'
    stored.write_text(stored.read_text().replace('"train": 16', '"train": 15', 1))
    (found,) = (one for one in doctor.diagnose(config, workdir) if one.severity == 'error')
    assert 'data that changed' in found.message


@pytest.mark.parametrize('name', ['folder', 'cityscapes_video', 'streets'])
def test_the_data_set_is_described_as_preparing_does(tmp_path, name):
    if name == 'folder':
        _, classes = layouts.write_folder(tmp_path / 'mine')
        data_config = layouts.data_config(
            name, tmp_path / 'mine', tmp_path / 'cache', classes=classes
        )
    elif name == 'cityscapes_video':
        layouts.write_sequences(tmp_path / 'mine', ('train', 'val'))
        data_config = layouts.data_config(name, tmp_path / 'mine', tmp_path / 'cache')
    else:
        data_config = experiment(layouts.data_config(name, '', tmp_path / 'cache')).data
        data_config.world.update(num_train=2, num_val=1, size=(24, 32))
    dataset = builders.load(data_config)
    splits, _ = doctor.read_splits(dataset, dataset.splits())
    facts = {name: index.of_facts(split.facts) for name, split in splits.items()}
    assert doctor.data_spec(dataset, splits, facts) == data.prepare(data_config).spec


SAME_INPUTS = (
    *('gan=pix2pix', 'net=pix2pixhd_global', 'net=pix2pixhd_local'),
    *('method=per_class', 'method=baseline', 'method=klingner', 'method=novosel'),
    *('method=chen', 'method=chen_multitask', 'method=depth'),
)
"""Ends of the paths that are evaluated on the same inputs as another path."""


@pytest.mark.parametrize(
    'path',
    slow_ends(
        [path for path in SHIPPED if 'learned' not in path and 'erfnet' not in path], *SAME_INPUTS
    ),
)
def test_evaluation_is_traced_with_the_shapes_that_it_has(path, tmp_path):
    config = config_file.load(path)
    if 'system=start' in path:
        config.train.num_steps = 4
    run, stages = driver.checked_run(config, str(tmp_path / 'run'), 'train', trace_steps=False)
    for stage in stages:
        inputs = stage.eval_input
        spec = run.spec_of(inputs)
        size = spec.split(inputs.split).max_size
        source = run.open_input(inputs)
        # With a table, not every index is an example.
        indices = source.indices[:2] if inputs.each else range(min(2, len(source)))
        batch = loader.examples(source, indices, inputs, size)
        real = kinds.in_step(batch, declared_in_batch(run, inputs))
        shapes = checks.evaluation_batch(inputs, len(indices), spec)
        assert {key: (x.shape, x.dtype) for key, x in shapes.items()} == {
            key: (x.shape, x.dtype) for key, x in real.items()
        }


def test_a_signal_ends_the_doctor_in_order(monkeypatch):
    ignored = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(reading, 'start_at_one', lambda *_: pytest.fail('nothing asked'))
    monkeypatch.setattr(StopSignal, '__enter__', told_to_stop(StopSignal.__enter__))
    try:
        with pytest.raises(Preempted, match='not examined completely'):
            doctor.main(config_file.load('configs/supervised.py:smoke'))
    finally:
        signal.signal(signal.SIGTERM, ignored)


def told_to_stop(enter):
    """Returns a method that enters a StopSignal, and tells the process to stop."""

    def entered(stop):
        enter(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        return stop

    return entered


def test_an_image_whose_logits_take_gigabytes_is_a_warning():
    """The size of the labels does not matter, because logits of their size never exist at once."""
    config = config_lib.defaults('supervised')
    assert refusals._memory(config, SPEC) == []
    config.data.eval_size = (16384, 16384)
    (finding,) = refusals._memory(config, SPEC)
    assert finding.where == 'config.data.eval_size' and '5 GB' in finding.message
    (argument,) = [word for word in shlex.split(finding.fix) if word.startswith('--config.')]
    smaller = config_file.overridden(config, argument.removeprefix('--config.'))
    assert refusals._memory(smaller, SPEC) == []
