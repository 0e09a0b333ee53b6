"""The usual problems of user data give an InputError that names the file."""

import pathlib
import struct

import layouts
import numpy as np
import pytest
from PIL import Image

from segjax import data
from segjax.data import image_files
from segjax.data.builders import base
from segjax.data.worlds import streets
from segjax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Returns the path and the config of a correct data set `folder` with three classes."""
    _, classes = layouts.write_folder(tmp_path / 'mine')
    return tmp_path / 'mine', layouts.data_config(
        'folder', tmp_path / 'mine', tmp_path / 'cache', classes=classes
    )


def expect(config, where, *says):
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert str(where) in error.value.where
    for text in says:
        assert text in str(error.value)
    return error.value


def test_the_fixture_is_right(folder):
    assert data.prepare(folder[1]).spec.num_examples == {'train': 3, 'val': 3}


def test_unknown_data_set(folder):
    folder[1].name = 'camvit'
    expect(folder[1], 'config.data.name', 'camvit', "did you mean 'camvid'")


@pytest.mark.parametrize('name', ['camvid', 'cityscapes', 'cityscapes_video', 'folder'])
def test_missing_folder(folder, name):
    folder[1].name = name
    folder[1].root = '/no/such/folder'
    expect(folder[1], 'config.data.root', '/no/such/folder')


@pytest.mark.parametrize('name', ['camvid', 'cityscapes', 'cityscapes_video'])
def test_folder_of_another_layout(folder, name):
    folder[1].name = name
    expect(folder[1], folder[0], 'got:')


def test_no_root(folder, monkeypatch):
    monkeypatch.delenv('CITYSCAPES_DATASET', raising=False)
    folder[1].root = ''
    expect(folder[1], 'config.data.root')
    folder[1].name = 'cityscapes'
    expect(folder[1], 'config.data.root', 'CITYSCAPES_DATASET')


def test_class_file(folder):
    folder[1].classes = ''
    expect(folder[1], 'config.data.classes')
    folder[1].classes = str(folder[0] / 'other.yaml')
    expect(folder[1], 'other.yaml', 'no such file')


def test_image_without_label(folder):
    (folder[0] / 'masks/val/shot 1.png').unlink()
    expect(
        folder[1],
        folder[0] / 'images/val/shot 1.jpg',
        'without a label',
        str(folder[0] / 'masks/val/shot 1.png'),
    )


def test_label_without_image(folder):
    (folder[0] / 'images/train/shot 0.jpg').unlink()
    (folder[0] / 'images/train/shot 2.jpg').unlink()
    expect(folder[1], folder[0] / 'masks/train/shot 0.png', 'without an image', '1 more')


def test_missing_label_folder(tmp_path):
    layouts.write_camvid(tmp_path)
    (tmp_path / 'valannot').rename(tmp_path / 'val_annot')
    expect(
        layouts.data_config('camvid', tmp_path, tmp_path / 'cache'),
        tmp_path / 'valannot',
        'no such folder',
    )


def test_two_images_of_one_name(folder):
    layouts.save(folder[0] / 'images/val/shot 1.png', np.zeros((*layouts.SIZE, 3), np.uint8))
    expect(folder[1], 'shot 1.png', 'the same name', 'shot 1.jpg')


def test_images_beside_the_splits(folder):
    layouts.save(folder[0] / 'images/loose.png', np.zeros((*layouts.SIZE, 3), np.uint8))
    expect(folder[1], 'loose.png')


def test_empty_split(folder):
    for kind in ('images', 'masks'):
        for path in (folder[0] / kind / 'val').iterdir():
            path.unlink()
    expect(folder[1], "split 'val'", 'no examples')


def mask_file(folder):
    return folder[0] / 'masks/val/shot 1.png'


def test_label_of_another_size(folder):
    layouts.save(mask_file(folder), np.zeros((12, 16), np.uint8))
    expect(folder[1], mask_file(folder), '16x12', '32x24', 'shot 1.jpg')


def test_label_id_out_of_range(folder):
    layouts.save(mask_file(folder), np.full(layouts.SIZE, 7, np.uint8))
    expect(folder[1], mask_file(folder), '7 (768 pixels)', '0..2, 255')


def test_labels_that_start_at_one(tmp_path):
    _, classes = layouts.write_folder(tmp_path / 'mine', ids=(1, 2, 3))
    config = layouts.data_config('folder', tmp_path / 'mine', tmp_path / 'cache', classes=classes)
    expect(config, 'masks/train/shot 0.png', 'start at 1')


def test_0_255_masks(tmp_path):
    _, classes = layouts.write_folder(
        tmp_path / 'mine', ids=(0, 255), classes='[background, foreground]'
    )
    config = layouts.data_config('folder', tmp_path / 'mine', tmp_path / 'cache', classes=classes)
    expect(config, 'masks/train/shot 0.png', '0/255 mask', 'id: 255')
    pathlib.Path(classes).write_text('[{name: background, id: 0}, {name: foreground, id: 255}]')
    spec = data.prepare(config).spec
    assert min(spec.class_pixels['train']) > 0 and spec.void_pixels['train'] == 0


def test_colour_mask_without_colours(folder):
    layouts.save(mask_file(folder), np.zeros((*layouts.SIZE, 3), np.uint8))
    expect(folder[1], mask_file(folder), 'three channels, all equal', 'save one of the channels')


def test_jpeg_mask(folder):
    mask_file(folder).unlink()
    layouts.save(mask_file(folder).with_suffix('.jpg'), np.zeros(layouts.SIZE, np.uint8))
    expect(folder[1], mask_file(folder).with_suffix('.jpg'), 'JPEG changes ids')


@pytest.mark.parametrize('cut', [1, 12, 30, 'half', 'all'])
@pytest.mark.parametrize('kind', ['image png', 'image jpg', 'label'])
def test_truncated_files(folder, kind, cut):
    path = mask_file(folder) if kind == 'label' else folder[0] / 'images/val/shot 1.jpg'
    if kind == 'image png':
        path.unlink()
        path = path.with_suffix('.png')
        layouts.save(
            path, np.random.default_rng(0).integers(0, 256, (*layouts.SIZE, 3)).astype(np.uint8)
        )
    content = path.read_bytes()
    path.write_bytes(
        content[: {'half': len(content) // 2, 'all': 0}[cut] if isinstance(cut, str) else -cut]
    )
    expect(folder[1], path, 'empty' if cut == 'all' else 'truncated')


def test_flipped_bit_in_a_png(folder):
    content = bytearray(mask_file(folder).read_bytes())
    content[len(content) // 2] ^= 1
    mask_file(folder).write_bytes(content)
    expect(folder[1], mask_file(folder), 'corrupt PNG')


def test_no_image_at_all(folder):
    (folder[0] / 'images/val/shot 1.jpg').write_text('<html>404</html>')
    expect(folder[1], 'shot 1.jpg', 'no PNG or JPEG')


def test_broken_link(folder):
    path = folder[0] / 'images/val/shot 1.jpg'
    path.unlink()
    path.symlink_to('/no/such/file.jpg')
    expect(folder[1], path, 'No such file')


def test_16_bit_image(folder):
    (folder[0] / 'images/val/shot 1.jpg').unlink()
    layouts.save(folder[0] / 'images/val/shot 1.png', np.zeros(layouts.SIZE, np.uint16))
    expect(folder[1], 'shot 1.png', '16-bit')


def test_rotated_photo(folder):
    path = folder[0] / 'images/val/shot 1.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    expect(folder[1], path, 'orientation 6')


def test_half_a_download(tmp_path):
    layouts.write_cityscapes(tmp_path)
    sorted(tmp_path.rglob('*instanceIds.png'))[0].unlink()
    config = layouts.data_config('cityscapes', tmp_path, tmp_path / 'cache')
    expect(config, 'leftImg8bit.png', 'no instance file for 1 of', 'train')


def test_instances_of_another_size_or_in_colour(tmp_path):
    layouts.write_cityscapes(tmp_path)
    path = next(tmp_path.rglob('*instanceIds.png'))
    config = layouts.data_config('cityscapes', tmp_path, tmp_path / 'cache')
    layouts.save(path, np.zeros((12, 16), np.uint16))
    expect(config, path, '16x12', '32x24')
    layouts.save(path, np.zeros((*layouts.SIZE, 3), np.uint8))
    expect(config, path, 'three channels')


def test_cityscapes_file_name(tmp_path):
    layouts.write_cityscapes(tmp_path)
    path = next((tmp_path / 'leftImg8bit/train').rglob('*.png'))
    path.rename(path.with_name('copy.png'))
    expect(layouts.data_config('cityscapes', tmp_path, tmp_path / 'cache'), 'copy.png', '6 digits')


def test_camera_of_another_size(tmp_path):
    layouts.write_cityscapes(tmp_path)
    camera = next(tmp_path.rglob('*_camera.json'))
    config = layouts.data_config('cityscapes', tmp_path, tmp_path / 'cache')
    camera.write_text('{"intrinsic": {"fx": 70, "fy": 70, "u0": 31, "v0": 24}}')
    expect(config, camera, 'principal point (31.0, 24.0)', '32x24')
    camera.write_text(f'{{"intrinsic": {{"fx": {10**400}, "fy": 70, "u0": 15, "v0": 12}}}}')
    expect(config, camera, '"fx"')
    camera.write_text('{"intrinsic": {"fx": 70, "fy": 70, "u0": 15}}')
    expect(config, camera, 'v0')
    camera.write_text('{"intrinsic": {"fx": 70, "fy": 0, "u0": 15, "v0": 12}}')
    expect(config, camera, 'singular', 'focal lengths')
    camera.write_text('{')
    expect(config, camera)


def test_clip_camera_of_another_size(tmp_path):
    layouts.write_clips(tmp_path)
    (tmp_path / 'camera.json').write_text('{"intrinsics_64x48": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}')
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    expect(config, tmp_path / 'camera.json', 'intrinsics_32x24')
    huge = f'{{"intrinsics_32x24": [[{10**400}, 0, 0], [0, 1, 0], [0, 0, 1]]}}'
    (tmp_path / 'camera.json').write_text(huge)
    expect(config, tmp_path / 'camera.json', 'three rows of three numbers')


def test_frames_of_one_clip_differ_in_size(tmp_path):
    frame = layouts.enlarge_one_frame(tmp_path)
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    expect(
        config, frame, '40x32 pixels', '32x24 pixels, as', 'aachen_000001_000000 of the same clip'
    )


def test_depth_that_is_not_finite(tmp_path, monkeypatch):
    # Whatever data set says it, even a world.
    frame = streets.frame

    def broken(seed, split, clip, number, size):
        found = frame(seed, split, clip, number, size)
        if (split, number) == ('train', 1):
            found['depth'][2, 3] = np.nan
        return found

    monkeypatch.setattr(streets, 'frame', broken)
    config = layouts.data_config('streets', '', tmp_path / 'cache')
    expect(config, 'depth of train_00000_1', "data set 'streets'", 'nan at (2, 3)')


def test_splits_and_features(folder):
    data.prepare(folder[1])
    for split in ('test', 'train[', 'train[:5', 'train[:0%]', 'train[99:]', 'train+tset', ''):
        with pytest.raises(InputError) as error:
            data.prepare(folder[1]).open_split(split, ('image',))
        assert repr(split) in error.value.where and 'mine' in error.value.where
    with pytest.raises(InputError, match="feature 'depth'"):
        data.prepare(folder[1]).open_split('train', ('image', 'depth'))


def test_cache_that_cannot_be_written(folder):
    for place in (folder[1].classes + '/below/a/file', folder[1].classes):
        folder[1].cache = place
        expect(folder[1], 'config.data.cache or $SEGJAX_CACHE', 'which is a file')


@pytest.mark.parametrize('text', ['{"a": 1, "a": 2}', '[' * 50_000])
def test_a_camera_file_with_a_key_twice_or_without_end(tmp_path, text):
    path = tmp_path / 'camera.json'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        base.read_json(path)
    assert error.value.where == str(path) and error.value.fix.startswith('correct it')
    path.write_text('{"a": 1}', encoding='utf-8-sig')
    assert base.read_json(path) == {'a': 1}


@pytest.mark.parametrize('suffix, mode', [('png', 'LA'), ('tif', 'F')])
def test_a_mask_of_another_mode_says_how_to_save_it(tmp_path, suffix, mode):
    path = tmp_path / f'mask.{suffix}'
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(InputError) as error:
        image_files.read_mask(path)
    assert 'save it as' in error.value.fix and 'PNG of' in error.value.fix


def test_chunk_longer_than_the_file(folder):
    content = bytearray(mask_file(folder).read_bytes())
    at = content.index(b'IDAT') - 4
    content[at : at + 4] = struct.pack('>I', 2**31 - 1)
    mask_file(folder).write_bytes(content)
    expect(folder[1], mask_file(folder), 'truncated')
