"""Folders: notes about skipped files and files that are read differently, and contradictions."""

import json
import os
import pathlib
import shutil
import unicodedata

import cv2
import layouts
import numpy as np
import pytest
from PIL import Image

from segjax import data
from segjax.core import notes as notes_lib
from segjax.data import builders, image_files, labels
from segjax.data.camera_checks import check_camera
from segjax.errors import InputError
from segjax.modes import doctor

COLORS = np.array([(0, 0, 255), (128, 64, 128), (255, 0, 0)], np.uint8)
COLOR_CLASSES = (
    '[{name: sky, color: [0, 0, 255]}, '
    '{name: road, color: [128, 64, 128]}, {name: car, color: [255, 0, 0]}]'
)


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(notes_lib, '_told', set())


def make(root, **options):
    written, classes = layouts.write_folder(root / 'mine', **options)
    return written, layouts.data_config('folder', root / 'mine', root / 'cache', classes=classes)


def expect(config, where, *says):
    with pytest.raises(InputError) as error:
        data.prepare(config)
    assert str(where) in error.value.where
    for text in says:
        assert text in str(error.value), str(error.value)
    return error.value


def stored(config, split, feature):
    source = data.prepare(config).open_split(split, (feature, 'name'))
    return {source[i]['name']: source[i][feature] for i in range(len(source))}


def indexed(path, ids, palette):
    image = Image.fromarray(ids, 'P')
    image.putpalette(np.asarray(palette, np.uint8).ravel().tolist())
    image.save(path)


# --- masks in indexed colours ---------------------------------------------------------------------


def test_a_permuted_palette_is_read_by_its_colours(tmp_path, capsys):
    written, config = make(tmp_path, classes=COLOR_CLASSES)
    rng = np.random.default_rng(0)
    for (split, name), (_, ids) in written.items():
        order = rng.permutation(3) if name != 'shot 0' else np.array([1, 2, 0])
        indexed(
            tmp_path / 'mine/masks' / split / f'{name}.png',
            np.argsort(order)[ids].astype(np.uint8),
            COLORS[order],
        )
    for name, label in stored(config, 'train', 'label').items():
        np.testing.assert_array_equal(label, written['train', name][1])
    printed = capsys.readouterr().out
    assert (
        printed.count('note:') == 1
        and 'colours are read, not indices' in printed
        and 'shot 0.png' in printed
    )


def test_palettes_that_agree_or_say_nothing_are_read_by_indices():
    coding = labels.make_coding(
        labels.ClassSpec(('a', 'b'), ((9, 0, 0), (0, 9, 0)), (0, 1)),
        [255],
        {(9, 0, 0): 0, (0, 9, 0): 1},
    )
    ids = np.array([[0, 1, 255]], np.uint8)
    palette = np.full((256, 3), 77, np.uint8)
    assert not labels.indexed_by_color(ids, palette, coding, 'f')  # colours of no class
    palette[:2] = (9, 0, 0), (0, 9, 0)
    assert not labels.indexed_by_color(
        ids, palette, coding, 'f'
    )  # the border of VOC has a colour of its own
    palette[:2] = (0, 9, 0), (9, 0, 0)
    assert labels.indexed_by_color(ids[:, :2], palette, coding, 'f')
    without_colors = coding._replace(colors={})
    assert not labels.indexed_by_color(ids, palette, without_colors, 'f')
    with pytest.raises(InputError, match='of no class'):
        labels.indexed_by_color(ids, palette, coding, 'f')


def test_a_palette_that_is_only_partly_permuted_is_refused(tmp_path):
    _, config = make(tmp_path, classes=COLOR_CLASSES)
    path = tmp_path / 'mine/masks/train/shot 1.png'
    ids = np.array(Image.open(path))
    indexed(path, ids, [COLORS[1], COLORS[0], (7, 7, 7)])
    expect(config, path, 'index 0', '(128, 64, 128)', 'index 2', '(7, 7, 7)', 'grey PNG')


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'train, val',
    [('training', 'validation'), ('Train', 'Val'), ('train', 'valid'), ('TRAIN', 'val')],
)
def test_further_names_of_splits(tmp_path, train, val):
    _, config = make(tmp_path)
    for kind in ('images', 'masks'):
        (tmp_path / 'mine' / kind / 'train').rename(tmp_path / 'mine' / kind / train)
        (tmp_path / 'mine' / kind / 'val').rename(
            tmp_path / 'mine' / kind / (val if kind == 'images' else 'Validation')
        )
    (tmp_path / 'mine/images').rename(tmp_path / 'mine/Images')
    assert data.prepare(config).spec.num_examples == {'train': 3, 'val': 3}


def test_two_folders_of_a_split(tmp_path):
    _, config = make(tmp_path, splits=('train', 'val', 'valid'))
    expect(config, tmp_path / 'mine/images', 'val and valid', 'merge')


@pytest.mark.parametrize('name', ['validate', 'dev', 'train2', 'test_images'])
def test_a_folder_that_may_be_a_split(tmp_path, name):
    _, config = make(tmp_path, splits=('train', 'val', name))
    expect(config, tmp_path / 'mine/images' / name, 'may be a split', 'validation', 'rename')


def test_folders_that_are_no_splits_are_not_shuffled(tmp_path):
    _, config = make(tmp_path, splits=('first', 'second'))
    expect(config, tmp_path / 'mine/images', 'first, second', 'train and val')


def test_no_folder_of_images(tmp_path):
    _, config = make(tmp_path)
    (tmp_path / 'mine/images').rename(tmp_path / 'mine/pictures')
    expect(config, tmp_path / 'mine', 'no folder images, but masks, pictures')


def test_a_folder_beside_the_splits_is_named_and_counted(tmp_path, capsys):
    _, config = make(tmp_path, splits=('train', 'val', 'old'))
    data.prepare(config)
    printed = capsys.readouterr().out
    for kind in ('images', 'masks'):
        assert (
            f'note: {tmp_path}/mine/{kind}/old\n'
            '    passed over: a folder of no split, with 3 images' in printed
        )
    data.prepare(config)
    assert capsys.readouterr().out == ''  # once


def test_errors_in_folders_are_findings_of_the_doctor(tmp_path):
    _, config = make(tmp_path)
    (tmp_path / 'mine/masks/validate').mkdir()
    (tmp_path / 'mine/images/old').mkdir()
    (tmp_path / 'mine/images/old/again').symlink_to('..')
    dataset = builders.load(config)
    dataset.splits()
    assert 'masks/validate' in dataset.scan('train')[1][0].where
    assert dataset.notes() == []
    (tmp_path / 'mine/masks/validate').rmdir()
    assert dataset.scan('train')[1] == []
    assert 'contains the link' in dataset.notes()[0].message


def test_clips_are_split_aloud(tmp_path, capsys):
    layouts.write_clips(tmp_path / 'c')
    (tmp_path / 'c/extra').mkdir()
    data.prepare(layouts.data_config('cityscapes_video', tmp_path / 'c', tmp_path / 'cache'))
    printed = capsys.readouterr().out
    assert (
        'clip seq0002 is val, the remaining 2 are train' in printed
        and '1 folders' in printed
        and 'extra' in printed
    )


def test_of_two_folders_of_labels_the_one_that_is_read_is_said(tmp_path, capsys):
    layouts.write_clips(tmp_path / 'c', clips=2)
    for kind in ('label', 'instance'):
        shutil.copytree(tmp_path / f'c/seq0001/{kind}_predicted', tmp_path / f'c/seq0001/{kind}')
    data.prepare(layouts.data_config('cityscapes_video', tmp_path / 'c', tmp_path / 'cache'))
    printed = capsys.readouterr().out
    assert f'note: {tmp_path}/c/seq0001' in printed and f'note: {tmp_path}/c/seq0000' not in printed
    assert 'label and label_predicted: label_predicted is read' in printed
    assert 'instance and instance_predicted: instance_predicted is read' in printed


@pytest.mark.parametrize(
    'place', ['seq0009', 'seq0001/label_predicted', 'seq0001/instance_predicted', 'seq0001/image']
)
def test_link_to_a_clip_that_is_gone(tmp_path, place):
    layouts.write_clips(tmp_path / 'c')
    link = tmp_path / 'c' / place
    if link.exists():
        shutil.rmtree(link)
    link.symlink_to('/no/such/folder')
    expect(
        layouts.data_config('cityscapes_video', tmp_path / 'c', tmp_path / 'cache'),
        link,
        '/no/such/folder',
    )


def test_random_splits_are_said_aloud(tmp_path, capsys):
    _, config = make(tmp_path, splits=('',), count=20)
    spec = data.prepare(config).spec
    numbers = f'{spec.num_examples["train"]} for train, {spec.num_examples["val"]} for val'
    assert numbers in capsys.readouterr().out


def test_link_to_a_folder_that_contains_it(tmp_path):
    _, config = make(tmp_path)
    (tmp_path / 'mine/images/train/again').symlink_to('..')
    expect(config, tmp_path / 'mine/images/train/again', 'contains the link', 'remove')


def test_link_to_a_folder_that_is_gone(tmp_path):
    _, config = make(tmp_path)
    (tmp_path / 'mine/images/train/more').symlink_to('/no/such/folder')
    expect(config, tmp_path / 'mine/images/train/more', '/no/such/folder')


def test_folder_without_permission(tmp_path, monkeypatch):
    _, config = make(tmp_path)
    (tmp_path / 'mine/images/train/locked').mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    expect(config, tmp_path / 'mine/images/train/locked', 'Permission denied')


def test_a_pipe_is_no_image(tmp_path):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/images/train/shot 1.jpg'
    path.unlink()
    os.mkfifo(path)
    expect(config, path, 'no regular file')


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', ['.tif', '.tiff', '.bmp', '.webp', '.TIF'])
def test_other_kinds_of_images(tmp_path, suffix):
    written, config = make(tmp_path)
    for (split, name), (image, _) in written.items():
        path = tmp_path / 'mine/images' / split / f'{name}.jpg'
        path.unlink()
        Image.fromarray(image).save(
            path.with_suffix(suffix), **({'lossless': True} if suffix == '.webp' else {})
        )
    for name, image in stored(config, 'val', 'image').items():
        np.testing.assert_array_equal(image, written['val', name][0])


@pytest.mark.parametrize(
    'suffix, mode', [('.tif', 'L'), ('.tif', 'P'), ('.tif', 'I;16'), ('.bmp', 'L'), ('.bmp', 'P')]
)
def test_other_kinds_of_masks(tmp_path, suffix, mode):
    written, config = make(tmp_path)
    for (split, name), (_, ids) in written.items():
        path = tmp_path / 'mine/masks' / split / f'{name}.png'
        path.unlink()
        if mode == 'P':
            indexed(path.with_suffix(suffix), ids, COLORS)
        else:
            Image.fromarray(ids.astype(np.uint8 if mode == 'L' else np.uint16)).save(
                path.with_suffix(suffix)
            )
    for name, label in stored(config, 'val', 'label').items():
        np.testing.assert_array_equal(label, written['val', name][1])


def test_mask_in_a_tiff_with_losses(tmp_path):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/masks/train/shot 1.png'
    Image.open(path).save(path.with_suffix('.tif'), compression='jpeg')
    path.unlink()
    expect(config, path.with_suffix('.tif'), 'jpeg compression')


def test_colour_mask_of_16_bits(tmp_path):
    _, config = make(tmp_path, classes=COLOR_CLASSES)
    path = tmp_path / 'mine/masks/train/shot 1.png'
    cv2.imwrite(str(path), np.zeros((*layouts.SIZE, 3), np.uint16))
    expect(config, path, '16 bits')


def test_webp_mask(tmp_path):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/masks/train/shot 1.png'
    Image.fromarray(np.array(Image.open(path))).save(path.with_suffix('.webp'))
    path.unlink()
    expect(config, path.with_suffix('.webp'), 'WEBP changes ids')


def test_kinds_that_are_not_read_are_named_and_counted(tmp_path, capsys):
    _, config = make(tmp_path)
    for name in ('shot 1.gif', 'Thumbs.db', '.DS_Store', '._shot 0.png', 'readme.txt', 'more.gif'):
        (tmp_path / 'mine/images/train' / name).write_bytes(b'content')
    data.prepare(config)
    printed = capsys.readouterr().out
    assert printed.count('note:') == 1 and '2 .gif, 1 .txt' in printed and 'more.gif' in printed
    (tmp_path / 'mine/images/train/shot 1.jpg').unlink()
    expect(
        config, 'masks/train/shot 1.png', f'convert {tmp_path}/mine/images/train/shot 1.gif to PNG'
    )


def test_names_that_differ_in_case(tmp_path):
    _, config = make(tmp_path)
    (tmp_path / 'mine/masks/train/shot 1.png').rename(tmp_path / 'mine/masks/train/Shot 1.png')
    expect(config, 'images/train/shot 1.jpg', 'Shot 1.png', 'upper and lower case')


def test_names_in_two_unicode_forms_are_partners(tmp_path):
    written, config = make(tmp_path)
    for kind, suffix, form in (('images', 'jpg', 'NFD'), ('masks', 'png', 'NFC')):
        folder = tmp_path / 'mine' / kind / 'train'
        (folder / f'shot 0.{suffix}').rename(
            folder / unicodedata.normalize(form, f'Zürich.{suffix}')
        )
    label = stored(config, 'train', 'label')[unicodedata.normalize('NFC', 'Zürich')]
    np.testing.assert_array_equal(label, written['train', 'shot 0'][1])
    decomposed = tmp_path / 'mine/images/train' / unicodedata.normalize('NFD', 'Zürich.jpg')
    composed = decomposed.with_name(unicodedata.normalize('NFC', decomposed.name))
    composed.write_bytes(decomposed.read_bytes())
    expect(config, 'images/train/Z', 'Unicode form')


def test_name_that_is_no_utf8(tmp_path):
    _, config = make(tmp_path)
    path = os.fsencode(tmp_path / 'mine/images/train/shot 0.jpg')
    os.rename(path, path.replace(b'shot 0', b'stra\xdfe'))
    error = expect(config, 'images/train/stra\\xdfe.jpg', 'no UTF-8', 'convmv')
    str(error).encode('utf-8')


@pytest.mark.parametrize('encoding', ['ascii', 'iso8859-1'])
def test_a_good_name_is_not_blamed_for_the_encoding_of_the_system(tmp_path, monkeypatch, encoding):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/images/train/shot 0.jpg'
    path.rename(path.with_name('köln.jpg'))
    monkeypatch.setattr('sys.getfilesystemencoding', lambda: encoding)
    error = expect(config, 'images/train/köln.jpg', encoding, 'PYTHONUTF8=1')
    assert 'convmv' not in error.fix


@pytest.mark.parametrize('place', ['Camera.JSON', '{clip}/camera.json'])
def test_a_camera_file_at_another_place_is_said_to_be_unread(tmp_path, place):
    layouts.write_clips(tmp_path)
    read = tmp_path / 'camera.json'
    clip = next(tmp_path.glob('*/image')).parent.name
    config = layouts.data_config('cityscapes_video', tmp_path, tmp_path / 'cache')
    assert not [note for note in builders.load(config).notes() if 'camera' in note.message]
    read.rename(tmp_path / place.format(clip=clip))
    found = [
        note for note in builders.load(config).notes() if place.format(clip=clip) in note.message
    ]
    assert len(found) == 1 and str(read) in found[0].fix


@pytest.mark.parametrize('place', ['camera.json', 'Camera.JSON', 'camera/camera.json'])
def test_a_folder_data_set_says_that_it_reads_no_camera_file(tmp_path, place):
    _, config = make(tmp_path)
    assert builders.load(config).notes() == []
    path = tmp_path / 'mine' / place
    path.parent.mkdir(exist_ok=True)
    path.write_text('{}')
    (note,) = builders.load(config).notes()
    assert note.where == str(tmp_path / 'mine') and place in note.message
    assert 'has no cameras' in note.message and 'CONTRIBUTING' in note.fix
    assert 'intrinsics' not in data.prepare(config).spec.features


@pytest.mark.parametrize(
    'place', ['train.txt', 'splits/val.txt', 'ImageSets/Segmentation/trainval.txt']
)
def test_lists_of_splits_are_said_to_be_unread(tmp_path, place):
    _, config = make(tmp_path)
    path = tmp_path / 'mine' / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('shot 0\n')
    found = [note for note in builders.load(config).notes() if place in note.message]
    assert len(found) == 1 and 'not read' in found[0].message


@pytest.mark.parametrize('kind', ['tiff', 'webp', 'png'])
def test_several_pictures_in_a_file(tmp_path, kind):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/images/train/shot 1.jpg'
    path.unlink()
    pages = [Image.new('RGB', layouts.SIZE[::-1], color) for color in ('red', 'blue')]
    pages[0].save(path.with_suffix(f'.{kind}'), save_all=True, append_images=pages[1:])
    expect(config, path.with_suffix(f'.{kind}'), '2 pictures')
    assert '2 pictures' in image_files.inspect(path.with_suffix(f'.{kind}'))[0]


def test_deep_tiff_and_cmyk(tmp_path):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/images/train/shot 1.jpg'
    Image.new('CMYK', layouts.SIZE[::-1]).save(path)
    expect(config, path, 'CMYK')
    assert 'CMYK' in image_files.inspect(path)[0]
    path.unlink()
    cv2.imwrite(str(path.with_suffix('.tif')), np.full((*layouts.SIZE, 3), 40000, np.uint16))
    expect(config, path.with_suffix('.tif'), '16-bit TIFF')


def test_mask_to_be_rotated_when_shown(tmp_path):
    _, config = make(tmp_path)
    path = tmp_path / 'mine/masks/train/shot 1.png'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array(Image.open(path))).save(path, exif=exif)
    expect(config, path, 'orientation 6')


def test_transparency_is_said(tmp_path, capsys):
    _, config = make(tmp_path)
    for name in ('shot 1', 'shot 2'):
        path = tmp_path / f'mine/images/train/{name}.jpg'
        image = Image.open(path).convert('RGB')
        path.unlink()
        image.putalpha(200)
        image.save(path.with_suffix('.png'))
    data.prepare(config)
    printed = capsys.readouterr().out
    assert 'shot 1.png' in printed and 'transparent pixels' in printed and '2 such files' in printed


def test_dangling_link_in_a_folder_to_predict(tmp_path):
    (tmp_path / 'a.png').symlink_to('/no/such/file.png')
    with pytest.raises(InputError, match='No such file'):
        image_files.find_images(tmp_path)


def test_a_large_image_to_predict_is_no_warning(tmp_path, monkeypatch, recwarn):
    layouts.save(tmp_path / 'a.png', np.zeros((16, 16, 3), np.uint8))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 200)
    assert len(image_files.find_images(tmp_path)) == 1 and not recwarn.list


def test_files_passed_over_in_a_folder_to_predict_are_counted(tmp_path, capsys):
    layouts.save(tmp_path / 'a.png', np.zeros((8, 8, 3), np.uint8))
    for name in ('b.gif', 'c.gif', 'd.HEIC', '.DS_Store'):
        (tmp_path / name).write_bytes(b'content')
    assert [source.name for source in image_files.find_images(tmp_path)] == ['a']
    assert '2 .gif, 1 .heic' in capsys.readouterr().out


def test_alpha_in_a_folder_to_predict_is_said(tmp_path, capsys):
    layouts.save(tmp_path / 'a.png', np.zeros((8, 8, 4), np.uint8))
    image_files.find_images(tmp_path)
    image_files.find_images(tmp_path)
    printed = capsys.readouterr().out
    assert (
        printed.count('an image has an alpha channel, which is dropped') == 1 and 'a.png' in printed
    )


# --- cameras --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'matrix, says',
    [
        (
            [[1.1, 0, 0.51], [0, 2.2, 0.5], [0, 0, 1]],
            'multiply the first row by 64 and the second by 32',
        ),
        ([[2262.5, 0, 1096.9], [0, 2265.3, 513.1], [0, 0, 1]], 'resized'),
        ([[35.0, 0, 16], [0, 35.0, 8], [0, 0, 1]], 'resized'),
        ([[70.0, 0, 32.5], [0, -70.0, 16.2], [0, 0, 1]], 'without a sign'),
        ([[70.0, 0, -5], [0, 70.0, 16.2], [0, 0, 1]], '-5.0'),
        ([[2.0, 0, 32.5], [0, 2.0, 16.2], [0, 0, 1]], '(2, 2)'),
    ],
)
def test_cameras_of_other_pixels(matrix, says):
    with pytest.raises(InputError) as error:
        check_camera(np.array(matrix), (32, 64), 'camera.json')
    assert says in str(error.value) and 'camera.json' in error.value.where


@pytest.mark.parametrize(
    'matrix, size',
    [
        ([[70.0, 0, 32.5], [0, 70.0, 16.2], [0, 0, 1]], (32, 64)),
        ([[70.0, 0, 32.5], [0, 70.0, 4], [0, 0, 1]], (32, 64)),  # rows were cut off
        ([[721.5, 0, 609.6], [0, 721.5, 172.9], [0, 0, 1]], (375, 1242)),  # KITTI
        ([[2262.5, 0, 1096.9], [0, 2265.3, 513.1], [0, 0, 1]], (1024, 2048)),
    ],
)
def test_cameras_of_the_images(matrix, size):
    check_camera(np.array(matrix), size, 'camera.json')


@pytest.mark.parametrize(
    'matrix, says',
    [
        ([[1.1, 0, 0.51], [0, 2.2, 0.5], [0, 0, 1]], 'normalised'),
        ([[40, 0, 15], [0, 41, 11]], 'three rows'),
        ([[40, 0, 15], [0, 'x', 11], [0, 0, 1]], 'three rows'),
    ],
)
def test_camera_of_clips(tmp_path, matrix, says):
    layouts.write_clips(tmp_path / 'c')
    (tmp_path / 'c/camera.json').write_text(json.dumps({'intrinsics_32x24': matrix}))
    config = layouts.data_config('cityscapes_video', tmp_path / 'c', tmp_path / 'cache')
    expect(config, 'camera.json', says)


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor_prints_the_notes(tmp_path):
    _, config = make(tmp_path, splits=('train', 'val', 'old'))
    dataset = builders.load(config)
    found = [doctor.Finding('note', *note) for note in dataset.notes()]
    report = doctor.report(doctor.Diagnosis(dataset.where, None, {}, found))
    assert f'note: {pathlib.Path(config.root)}/images/old' in report
