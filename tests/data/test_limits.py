"""Limits of the machine and of libraries: large images, and little shared memory."""

import errno
import struct
import types
import zlib

import pytest

from segjax.data import image_files, loader
from segjax.errors import InputError
from segjax.protocol import Input


def write_png(path, width, height):
    """Writes a grey image of zeros without ever holding its pixels."""

    def chunk(kind, data):
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    rows = b''.join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        image_files.PNG_SIGNATURE
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', rows)
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize('read', [image_files.read_encoded, image_files.read_ids])
def test_an_image_that_pillow_refuses_is_to_be_cut(tmp_path, read):
    write_png(tmp_path / 'large.png', 20_000, 20_000)
    with pytest.raises(InputError, match=r'large\.png') as caught:
        read(tmp_path / 'large.png')
    assert '400000000 pixels' in caught.value.got
    assert caught.value.fix == 'cut the image into several'


def test_an_image_that_opencv_refuses_is_found_before_the_first_is_predicted(tmp_path):
    write_png(tmp_path / 'large.png', 40_000, 30_000)
    with pytest.raises(InputError) as caught:
        image_files.find_images(tmp_path)
    assert (
        'large.png: 40000x30000 pixels, more than 1073741824; cut it into several'
        in caught.value.got
    )
    assert image_files.read_image(tmp_path / 'large.png') is None


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS])
def test_a_small_dev_shm_is_named_with_the_key_that_needs_none(number):
    class Batches:
        def __next__(self):
            raise OSError(number, 'no room')

        def close(self):
            pass

    iterator = object.__new__(loader.BatchIterator)
    iterator._ended, iterator._release_workers, iterator._batches = False, lambda: None, Batches()
    with pytest.raises(InputError, match='/dev/shm') as caught:
        next(iterator)
    assert '--config.data.workers=0' in caught.value.fix and caught.value.got == 'no room'


def test_a_disk_error_without_workers_stays_what_it_is():
    data_config = types.SimpleNamespace(threads=1, workers=0, prefetch=1)

    class Source:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise OSError(errno.EIO, 'Input/output error', '/data/x')

    inputs = Input('train', 1, ('image',), (8, 8))
    batches = loader.train_iterator(
        Source(),
        inputs,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
        data_config=data_config,
    )
    with pytest.raises(OSError, match='/data/x'):
        next(batches)
    assert batches._ended
