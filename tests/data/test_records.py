"""Prepared records: many shards, interrupted and damaged preparations, full disks, the cache."""

import concurrent.futures
import errno
import fcntl
import json
import os
import pathlib
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import types

import layouts
import numpy as np
import pytest

from segjax import data
from segjax.data import cache, index, records, shards
from segjax.data.builders import base
from segjax.errors import InputError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path):
    """Returns the config of 5 and 3 stills, with a shard for every example."""
    layouts.write_camvid(tmp_path / 'raw')
    return layouts.data_config('camvid', tmp_path / 'raw', tmp_path / 'cache')


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, 'SHARD_BYTES', 1)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- many shards ----------------------------------------------------------------------------------


def open_shards(folder):
    links = (os.path.join('/proc/self/fd', name) for name in os.listdir('/proc/self/fd'))
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return sum(target.startswith(str(folder)) and 'array_record' in target for target in targets)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc')
def test_few_of_many_shards_are_open_at_once(config, small_shards, monkeypatch):
    prepared = data.prepare(config)
    expected = [prepared.open_split('train+val', ('image',))[i]['image'] for i in range(8)]
    monkeypatch.setattr(records, 'READERS', records.Readers())
    monkeypatch.setattr(records, 'max_readers', lambda: 2)
    before = open_shards(prepared.folder)
    source = prepared.open_split('train+val', ('image',))
    for opened in (source, pickle.loads(pickle.dumps(source))):
        order = [7, 0, 3, 3, 1, 6, 5, 2, 4] * 30
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for i, example in zip(order, pool.map(opened.__getitem__, order), strict=True):
                np.testing.assert_array_equal(example['image'], expected[i])
        assert 1 <= open_shards(prepared.folder) - before <= 2


@pytest.mark.parametrize('limit', [64, 256])
def test_a_process_with_few_files_keeps_few_shards_open(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        assert records.max_readers() == limit // 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_shard_ends_with_the_example_that_fills_it(config, monkeypatch):
    folder = data.prepare(config).folder
    sizes = [path.stat().st_size for path in folder.glob('*train.array_record*')]
    assert len(sizes) == 1
    shutil.rmtree(folder)
    monkeypatch.setattr(shards, 'SHARD_BYTES', 5000)
    folder = data.prepare(config).folder
    described = json.loads((folder / 'dataset_info.json').read_text(encoding='utf-8'))
    lengths = [[int(n) for n in split['shardLengths']] for split in described['splits']]
    assert lengths == [[2, 2, 1], [2, 1]]


# --- interrupted preparations ---------------------------------------------------------------------

CHILD = """
import os, sys
import layouts
from segjax import data
from segjax.data import shards

base = shards.base
root, cache, journal, kills = sys.argv[1:]
shards.SHARD_BYTES = 5000
inspect = base.FileDataset.inspect
write_shard = shards._write_shard
written = 0

def counted_inspect(self, item):
    with open(journal, 'a') as file:
        file.write(item.name + '\\n')
    return inspect(self, item)

def killing_write_shard(*args):
    global written
    written += 1
    if kills and written > int(kills):
        os.kill(os.getpid(), 9)
    return write_shard(*args)

base.FileDataset.inspect = counted_inspect
shards._write_shard = killing_write_shard
base.host.cores = lambda: 1
data.prepare(layouts.data_config('camvid', root, cache))
"""


def child(tmp_path, kills=''):
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / 'tests/helpers')))
    arguments = [str(tmp_path / name) for name in ('raw', 'cache', 'journal')]
    result = subprocess.run(
        [sys.executable, '-c', CHILD, *arguments, kills],
        env={**os.environ, 'PYTHONPATH': paths},
        capture_output=True,
        text=True,
    )
    return result


@pytest.mark.slow
@pytest.mark.parametrize('kills', [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_preparation_that_is_killed_some_times_ends_as_an_undisturbed_one(
    tmp_path, monkeypatch, kills
):
    layouts.write_camvid(tmp_path / 'raw', counts=(('train', 14), ('val', 4)))
    config = layouts.data_config('camvid', tmp_path / 'raw', tmp_path / 'undisturbed')
    with monkeypatch.context() as patch:
        patch.setattr(shards, 'SHARD_BYTES', 5000)
        expected = content(data.prepare(config).folder)
    for _ in range(kills):
        assert child(tmp_path, kills='1').returncode == -signal.SIGKILL
    last = child(tmp_path)
    assert last.returncode == 0, last.stderr
    config.cache = str(tmp_path / 'cache')
    assert content(data.prepare(config).folder) == expected
    # Every start reads at most two examples ahead and one of each split to estimate the size.
    inspected = (tmp_path / 'journal').read_text().splitlines()
    assert len(inspected) <= 18 + (kills + 1) * (2 + 2 + 2)
    assert f'{2 * kills} of 14 examples' in last.stdout


def test_a_kill_at_the_very_end_loses_no_shard(config, small_shards, monkeypatch):
    expected = content(data.prepare(config).folder)
    shutil.rmtree(records_folder(config))
    rename = pathlib.Path.rename

    def killed(self, target):
        if self.suffix == '.partial':
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, 'rename', killed)
        with pytest.raises(KeyboardInterrupt):
            data.prepare(config)
    monkeypatch.setattr(shards, '_write_shard', None)
    assert content(data.prepare(config).folder) == expected


def records_folder(config):
    (folder,) = (path for path in pathlib.Path(config.cache).iterdir() if path.is_dir())
    return folder


def test_a_stop_keeps_whole_shards(config, small_shards, monkeypatch):
    calls = 0

    def stop_at_the_fourth():
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.prepare(config, stop_at_the_fourth)
    written = []
    write_shard = shards._write_shard
    monkeypatch.setattr(
        shards, '_write_shard', lambda *args: written.append(args[1:3]) or write_shard(*args)
    )
    data.prepare(config)
    assert written == [('train', 3), ('train', 4), ('val', 0), ('val', 1), ('val', 2)]


def test_a_changed_or_cut_shard_of_a_partial_preparation_is_written_again(config, small_shards):
    expected = content(data.prepare(config).folder)
    partial = records_folder(config).rename(f'{records_folder(config)}.partial')
    (partial / 'camvid-train.array_record-00002-of-00005').write_bytes(b'cut')
    assert content(data.prepare(config).folder) == expected


# --- the command line -----------------------------------------------------------------------------


def command(config, *arguments, files=None, **options):
    """Starts segjax on a data set. `files` is the largest size of a file in bytes."""

    def limit():
        if files:
            resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))

    settings = [f'--config.data.{key}={config[key]}' for key in ('name', 'root')]
    call = [
        sys.executable,
        '-m',
        'segjax.main',
        '--config',
        'configs/supervised.py',
        *settings,
        *arguments,
    ]
    return subprocess.Popen(
        call,
        cwd=REPOSITORY,
        env={**os.environ, 'SEGJAX_CACHE': str(config.cache), **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def test_preparing_alone_needs_no_workdir(config):
    process = command(config, '--mode', 'prepare')
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f'prepared: {records_folder(config)} (train 5, val 3 examples)' in out


@pytest.mark.slow
def test_sigterm_ends_a_preparation_within_seconds(config, tmp_path):
    layouts.write_camvid(tmp_path / 'raw', counts=(('train', 4000),))
    process = command(config, '--mode', 'prepare')
    while not any(pathlib.Path(config.cache).glob('*.partial/train*')):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    _, err = process.communicate()
    assert process.returncode == 75 and time.monotonic() - start < 5
    assert (
        err.splitlines()[-1]
        == 'preempted: the data set is not prepared completely; the same command resumes'
    )


@pytest.mark.slow
def test_a_full_disk_is_no_traceback(config, tmp_path):
    layouts.write_camvid(tmp_path / 'raw', counts=(('train', 400),))
    process = command(config, '--mode', 'prepare', files=200_000)
    _, err = process.communicate()
    assert process.returncode == 1
    assert 'Traceback' not in err and 'free disk space, or set $SEGJAX_CACHE' in err
    (partial,) = pathlib.Path(config.cache).glob('*.partial')
    process = command(config, '--mode', 'prepare')
    process.communicate()
    assert process.returncode == 0 and not partial.exists()


def test_too_little_space_is_said_before_anything_is_written(config, monkeypatch):
    usage = shutil.disk_usage('/')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r'1,000 bytes free\n.*about [0-9,]+ bytes') as caught:
        data.prepare(config)
    needed = int(str(caught.value).split('about ')[1].split()[0].replace(',', ''))
    monkeypatch.undo()
    sizes = [path.stat().st_size for path in pathlib.Path(config.root).rglob('*.png')]
    assert 0.8 * sum(sizes) < needed < 1.5 * sum(sizes)
    assert not any(path.name.startswith('train') for path in pathlib.Path(config.cache).rglob('*'))


def test_an_unusual_first_example_does_not_say_how_much_space_all_need(tmp_path, monkeypatch):
    """Prepares depth whose first map is empty: a file of 10 bytes with an array of full size."""
    items = []
    for number in range(100):
        path = tmp_path / f'{number}.png'
        path.write_bytes(bytes(10 if number == 0 else 1000))
        items.append(base.Item('train', path.name, {'depth': path}))
    record = base.Record(
        {'depth': np.zeros((10, 100), np.float32)}, np.zeros(256, np.int64), (10, 100)
    )
    inspection = base.Inspection(record, [], frozenset())
    dataset = types.SimpleNamespace(inspect=lambda item: inspection, where='a data set')
    (tmp_path / 'partial').mkdir()
    free = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shards.shutil, 'disk_usage', lambda path: free)
    shards._check_space(dataset, {'train': items}, tmp_path / 'partial')
    free.free = 300_000
    with pytest.raises(InputError, match='bytes free'):
        shards._check_space(dataset, {'train': items}, tmp_path / 'partial')


# --- damaged records ------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b'')


DAMAGED = {
    'shard gone': ('camvid-val.array_record-00000-of-00001', os.remove),
    'shard cut': ('camvid-train.array_record-00000-of-00001', cut),
    'shard empty': ('camvid-train.array_record-00000-of-00001', empty),
    'info gone': ('dataset_info.json', os.remove),
    'info empty': ('dataset_info.json', empty),
    'info cut': ('dataset_info.json', cut),
    'features gone': ('features.json', os.remove),
    'features cut': ('features.json', cut),
    'metadata gone': ('metadata.json', os.remove),
    'metadata cut': ('metadata.json', cut),
    'metadata of nothing': ('metadata.json', lambda path: path.write_text('{}')),
    'index cut': ('index.npz', cut),
    'index empty': ('index.npz', empty),
}


@pytest.mark.parametrize('name, damage', DAMAGED.values(), ids=DAMAGED)
def test_damaged_records_are_prepared_again(config, capsys, name, damage):
    prepared = data.prepare(config)
    expected = content(prepared.folder)
    damage(prepared.folder / name)
    again = data.prepare(config)
    assert again == prepared and content(again.folder) == expected
    assert f'{prepared.folder}: damaged' in capsys.readouterr().out


def test_a_shard_that_breaks_later_names_the_command_that_deletes_it(config, monkeypatch):
    prepared = data.prepare(config)
    monkeypatch.setattr(records, 'READERS', records.Readers())
    source = prepared.open_split('train', ('image',))
    cut(prepared.folder / 'camvid-train.array_record-00000-of-00001')
    with pytest.raises(InputError, match=f'--mode cache --delete {prepared.folder.name}'):
        for i in range(5):
            source[i]


def test_records_that_the_system_does_not_let_read_are_kept(config, monkeypatch):
    folder = data.prepare(config).folder
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    opened = pathlib.Path.open

    def no_descriptor_left(path, *args, **kwargs):
        if path.name == 'dataset_info.json':
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, 'open', no_descriptor_left)
        with pytest.raises(InputError, match=os.strerror(errno.EMFILE)):
            data.prepare(config)
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == before


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs /proc')
def test_a_process_without_a_free_descriptor_finds_no_damage(config):
    folder = data.prepare(config).folder
    program = (
        'import os, pathlib, resource, sys\n'
        'from segjax.data import records\n'
        f'folder = pathlib.Path({str(folder)!r})\n'
        "assert records.damage(folder) == ''\n"
        'resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n'
        'taken = []\n'
        'try:\n'
        '    while True: taken.append(os.dup(0))\n'
        'except OSError: pass\n'
        'try: found = repr(records.damage(folder))\n'
        "except ValueError as error: found = f'refused: {error}'\n"
        'for each in taken: os.close(each)\n'
        'print(found)\n'
    )
    found = subprocess.run(
        [sys.executable, '-c', program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert found.stdout.startswith('refused: ') and os.strerror(errno.EMFILE) in found.stdout, found


def test_damaged_records_that_another_process_uses_stay(config):
    folder = data.prepare(config).folder
    cache.release(folder)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    cut(folder / 'index.npz')
    before = content(folder)
    with pytest.raises(InputError, match='a running process uses'):
        data.prepare(config)
    assert content(folder) == before
    os.close(descriptor)
    data.prepare(config)
    assert not records.damage(folder)


def test_shards_that_were_open_when_they_broke_are_opened_again(config):
    prepared = data.prepare(config)
    source = prepared.open_split('train', ('image',))
    expected = [source[i]['image'] for i in range(5)]
    empty(prepared.folder / 'camvid-train.array_record-00000-of-00001')
    source = data.prepare(config).open_split('train', ('image',))
    for i in range(5):
        np.testing.assert_array_equal(source[i]['image'], expected[i])


def test_a_file_that_cannot_be_read_for_a_while_loses_no_shard(config, small_shards, monkeypatch):
    read = pathlib.Path.read_bytes
    # Threads read several files at once, so the file of the last example fails.
    last = sorted((pathlib.Path(config.root) / 'train').glob('*.png'))[-1]

    def stale(path):
        if path == last:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, 'read_bytes', stale)
    with pytest.raises(InputError, match=os.strerror(errno.ESTALE)):
        data.prepare(config)
    (partial,) = pathlib.Path(config.cache).glob('*.partial')
    assert (partial / 'train-00000.npz').exists()
    monkeypatch.setattr(pathlib.Path, 'read_bytes', read)
    data.prepare(config)


# --- the cache ------------------------------------------------------------------------------------


def cache_mode(config, *arguments):
    result = subprocess.run(
        [sys.executable, '-m', 'segjax.main', '--mode', 'cache', *arguments],
        cwd=REPOSITORY,
        env={**os.environ, 'SEGJAX_CACHE': str(config.cache)},
        capture_output=True,
        text=True,
    )
    return result


def test_the_cache_is_listed_and_emptied_by_name(config):
    folder = data.prepare(config).folder
    partial = shutil.copytree(folder, folder.with_name('camvid-0123456789abcdef.partial'))
    (partial / 'dataset_info.json').unlink()
    (pathlib.Path(config.cache) / 'jax').mkdir()
    os.utime(folder.with_name(f'{folder.name}.lock'), (0, 0))
    (listed_partial, listed) = sorted(cache.entries(pathlib.Path(config.cache)))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert listed_partial.num_examples == -1
    listed = {entry.name: entry for entry in (listed_partial, listed)}[folder.name]
    assert listed == cache.Entry(folder.name, size, 8, 0)
    data.prepare(config)
    cache.release(folder)
    text = cache_mode(config).stdout
    assert (
        folder.name in text
        and partial.name in text
        and 'not complete' in text
        and '8 examples' in text
    )
    unknown = cache_mode(config, '--delete', 'camvid')
    assert unknown.returncode == 1 and folder.name in unknown.stderr
    deleted = cache_mode(config, '--delete', folder.name, '--delete', partial.name)
    assert deleted.returncode == 0, deleted.stderr
    assert (
        not folder.exists()
        and not partial.exists()
        and (pathlib.Path(config.cache) / 'jax').exists()
    )


def test_opening_records_notes_the_time(config):
    folder = data.prepare(config).folder
    os.utime(folder.with_name(f'{folder.name}.lock'), (0, 0))
    data.prepare(config)
    (entry,) = cache.entries(folder.parent)
    assert time.time() - entry.last_use < 60


@pytest.mark.slow
def test_used_records_are_not_deleted(config):
    folder = data.prepare(config).folder
    refused = cache_mode(config, '--delete', folder.name)
    assert (
        refused.returncode == 1 and 'a running process uses' in refused.stderr and folder.exists()
    )
    cache.release(folder)
    assert cache_mode(config, '--delete', folder.name).returncode == 0 and not folder.exists()


def test_a_running_preparation_is_not_deleted(config):
    partial = data.prepare(config).folder
    cache.release(partial)
    partial = partial.rename(f'{partial}.partial')
    lock = cache.locked(partial.with_suffix(''), records.never_stop)
    refused = pytest.raises(InputError, match='a running process uses')
    with lock, refused:
        cache.delete(partial.parent, [partial.name])
    cache.delete(partial.parent, [partial.name])
    assert not partial.exists()


@pytest.mark.parametrize('mode', ['train', 'doctor'])
def test_delete_belongs_to_the_cache(mode):
    result = subprocess.run(
        [sys.executable, '-m', 'segjax.main', '--mode', mode, '--delete', 'x'],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and '--mode cache' in result.stderr


def test_a_cache_that_cannot_be_written_can_be_read(config):
    folder = data.prepare(config).folder
    cache.release(folder)
    for path in (folder, folder.parent):
        path.chmod(0o555)
    try:
        assert data.prepare(config).spec.num_examples == {'train': 5, 'val': 3}
    finally:
        for path in (folder, folder.parent):
            path.chmod(0o755)


def test_records_that_go_away_during_a_run_are_an_input_error(config):
    prepared = data.prepare(config)
    source = prepared.open_split('train', ('image',))
    shutil.rmtree(prepared.folder)
    reads = (
        lambda: prepared.open_split('val', ('image',)),
        lambda: records.load_spec(prepared.folder),
        lambda: index.load(prepared.folder, 'train'),
        lambda: source[0],
    )
    for read in reads:
        with pytest.raises(InputError) as error:
            read()
        assert error.value.fix == 'start again: the data set is prepared again'
    assert len(data.prepare(config).open_split('train', ('image',))) == 5
