"""Image files on disk: which files are listed, which are refused, and what is read."""

import chex
import cv2
import numpy as np
import pytest

from segjax.data import image_files
from segjax.errors import InputError


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_names_are_paths_without_extension_and_hidden_files_are_left_out(tmp_path):
    for name in ('b.png', 'city/a.v2.JPG', '.hidden.png', '.cache/x.png', 'city/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(
            cv2.imencode(name[-4:].replace('.txt', '.png'), noise(4, 5))[1].tobytes()
        )
    assert [source.name for source in image_files.find_images(tmp_path)] == ['b', 'city/a.v2']


def test_truncated_jpeg_with_a_whole_thumbnail_is_found(tmp_path):
    """Truncates a file whose thumbnail ends with an end-of-image marker of its own."""
    thumbnail = cv2.imencode('.jpg', noise(8, 8))[1].tobytes()
    photo = cv2.imencode('.jpg', noise(64, 64))[1].tobytes()
    header = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    path = tmp_path / 'photo.jpg'
    path.write_bytes(photo[:2] + header + photo[2:])
    assert image_files.inspect(path) == ('', False)
    path.write_bytes((photo[:2] + header + photo[2:])[:-50])
    assert 'truncated JPEG' in image_files.inspect(path)[0]


def test_bytes_behind_the_end_of_an_image_do_no_harm(tmp_path):
    for extension in ('.png', '.jpg'):
        path = tmp_path / f'photo{extension}'
        path.write_bytes(cv2.imencode(extension, noise(9, 9))[1].tobytes() + bytes(5000))
        assert image_files.inspect(path) == ('', False)
        chex.assert_shape(image_files.read_image(path), (9, 9, 3))


@pytest.mark.parametrize('extension', ['.png', '.tiff', '.webp'])
def test_alpha_is_seen_and_dropped(tmp_path, extension):
    path = tmp_path / f'image{extension}'
    image = noise(6, 7, 4)
    image[..., 3] |= 128  # WebP forgets the colour of transparent pixels
    cv2.imwrite(str(path), image, [cv2.IMWRITE_WEBP_QUALITY, 101])
    assert image_files.inspect(path) == ('', True)
    np.testing.assert_array_equal(image_files.read_image(path), image[..., 2::-1])


def test_photographs_stand_upright(tmp_path):
    """Reads EXIF orientation 6: the camera was turned, so rows become columns."""
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255
    tiff = b'II*\0' + (8).to_bytes(4, 'little') + (1).to_bytes(2, 'little')
    tiff += b''.join(
        v.to_bytes(n, 'little') for v, n in ((0x112, 2), (3, 2), (1, 4), (6, 4), (0, 4))
    )
    body = b'Exif\0\0' + tiff
    photo = cv2.imencode('.jpg', image)[1].tobytes()
    path = tmp_path / 'photo.jpg'
    path.write_bytes(
        photo[:2] + b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body + photo[2:]
    )
    upright = image_files.read_image(path)
    chex.assert_shape(upright, (32, 16, 3))
    assert upright[:8].min() > 200 and upright[24:].max() < 50


def test_missing_folder_and_single_file(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), noise(3, 3))
    for path in (tmp_path / 'none', tmp_path / 'a.png'):
        with pytest.raises(InputError, match='existing folder'):
            image_files.find_images(path)


def test_real_photographs_pass_the_checks(real_data):
    sources = image_files.find_images(real_data / 'camvid' / 'val')
    assert len(sources) == 101
    chex.assert_shape(image_files.read_image(sources[0].path), (360, 480, 3))
