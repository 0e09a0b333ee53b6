"""Files are replaced as a whole or not at all, and locks hold between processes."""

import concurrent.futures
import errno
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from segjax.core import files


@pytest.mark.parametrize('name', ['x' * 251, '道' * 83])
def test_results_of_an_image_with_a_long_name(tmp_path, name):
    files.write_bytes(tmp_path / f'{name}.png', b'content')
    assert [path.name for path in tmp_path.iterdir()] == [f'{name}.png']
    files.write_text(tmp_path / f'{name}.txt', 'content')
    assert (tmp_path / f'{name}.txt').read_text() == 'content'


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def write_bytes(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'write_bytes', write_bytes)
    with pytest.raises(OSError, match='No space'):
        files.write_bytes(tmp_path / 'ids/a.png', b'...')
    assert not list((tmp_path / 'ids').iterdir())


def test_everybody_may_read_a_durable_file(tmp_path):
    path = tmp_path / 'report.html'
    for text in ('first', 'second'):
        files.write_text(path, text)
        assert path.read_text() == text and path.stat().st_mode & 0o777 == 0o644


def test_bytes_that_are_no_text_are_written_as_escapes(tmp_path):
    files.write_text(tmp_path / 'a.txt', 'a\udcffb\n')
    assert (tmp_path / 'a.txt').read_bytes() == b'a\\udcffb\n'


LOCK = """
import sys
from segjax.core import files
file = open(sys.argv[1])
try:
    files.lock(file, shared=sys.argv[2] == 'shared')
except BlockingIOError:
    print('blocked')
"""


@pytest.mark.parametrize(
    'shared, kind, output',
    [(False, 'shared', 'blocked'), (True, 'exclusive', 'blocked'), (True, 'shared', '')],
)
def test_a_lock_holds_against_another_process_until_the_file_is_closed(
    tmp_path, shared, kind, output
):
    path = tmp_path / '.lock'
    command = [sys.executable, '-c', LOCK, path, kind]
    with path.open('w') as file:
        files.lock(file, shared=shared)
        blocked = subprocess.run(command, capture_output=True, text=True, check=True)
        assert blocked.stdout.strip() == output
    free = subprocess.run(command, capture_output=True, text=True, check=True)
    assert free.stdout.strip() == ''


def test_arrays_are_read_by_threads_at_the_same_time(tmp_path):
    paths = [tmp_path / f'{number}.npy' for number in range(8)]
    for number, path in enumerate(paths):
        np.save(path, np.full((3, 2), number))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        arrays = list(pool.map(files.read_array, paths * 50))
    assert [array[0, 0] for array in arrays] == list(range(8)) * 50
    np.testing.assert_array_equal(files.read_array(paths[3], mapped=True), arrays[3])
    with pytest.raises(OSError):
        files.read_array(tmp_path / 'none.npy')
