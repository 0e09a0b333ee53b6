"""The command `python -m benchmarks.data`: wrong arguments, its images, turns and page."""

import argparse
import json

import cv2
import numpy as np
import pytest

from benchmarks import data, data_worker
from benchmarks.workers import WorkerError
from segjax.errors import InputError


@pytest.mark.parametrize(
    'argv, where, fix',
    [
        (['--size', '1000x2048'], '--size', '--size 1008x2048'),
        (['--formats', 'png,jpeq'], '--formats', "did you mean 'jpeg'?"),
        (['--counts', '1,0'], '--counts', '--counts 1,2'),
        (['--counts', ''], '--counts', '--counts 1,2'),
        (['--images', '0'], '--images', '--images 1'),
        (['--rounds', '0'], '--rounds', '--rounds 1'),
        (['--limit', '-1'], '--limit', '--limit 600'),
    ],
)
def test_wrong_arguments(argv, where, fix):
    with pytest.raises(InputError) as caught:
        data.parse(argv)
    assert (caught.value.where, caught.value.fix) == (where, fix)


def test_a_format_that_is_named_twice_is_measured_once():
    assert data.parse(['--formats', 'png,jpeg,png']).formats == ['png', 'jpeg']


def test_readers_of_equal_counts_are_neighbours():
    args = data.parse(['--counts', '1,2'])
    assert [r.name for r in data.readers(args)] == [
        'threads 1',
        'workers 1',
        'threads 2',
        'workers 2',
    ]
    args.torch = 'python'
    assert [r.side for r in data.readers(args)] == 2 * ['segjax', 'segjax', 'torch']


def arguments(**more):
    fields = dict(size=(32, 64), images=2, batch=1, batches=2, rounds=2, limit=9.0)
    return argparse.Namespace(**(fields | more))


@pytest.mark.parametrize('name', data.FORMATS)
def test_the_folder_can_be_read_by_segjax(tmp_path, name):
    size_of_file = data.write_images(tmp_path, name, arguments())
    image = cv2.imread(str(tmp_path / f'images/train/001.{name}'))
    mask = cv2.imread(str(tmp_path / 'masks/train/001.png'), cv2.IMREAD_UNCHANGED)
    assert image.shape == (32, 64, 3) and mask.shape == (32, 64)
    assert mask.max() < data.NUM_CLASSES and size_of_file > 100
    rate = data_worker.read('threads', 1, str(tmp_path), [16, 32], batch_size=8, batches=2)
    assert rate > 0


def test_a_png_is_about_as_large_as_one_of_cityscapes():
    """Files of Cityscapes have 2.3 MB for 1024 x 2048 pixels, 1.1 bytes a pixel."""
    image = data.texture(np.random.default_rng(0), (256, 512))
    _, encoded = cv2.imencode('.png', image)
    assert 0.8 < encoded.size / (256 * 512) < 2


class Side:
    """A worker whose rate is its count, and which cannot start three processes."""

    def __init__(self):
        self.asked = []

    def ask(self, command, limit, *, kind, count, root, size, batch_size, batches):
        assert (command, limit, size, batch_size, batches) == ('read', 9.0, [16, 32], 1, 2)
        self.asked.append((kind, count))
        if count == 3:
            raise WorkerError('segjax: no memory')
        return 10.0 * count


def test_readers_take_turns_and_one_that_fails_is_left_out(tmp_path):
    side = Side()
    order = [data.Reader('threads', count) for count in (1, 3, 2)]
    entry = data.measure({'segjax': side}, order, tmp_path, arguments())
    assert [count for _, count in side.asked] == [1, 3, 2, 2, 1]
    assert entry == {
        'rates': {'threads 1': [10.0, 10.0], 'threads 2': [20.0, 20.0]},
        'errors': {'threads 3': 'segjax: no memory'},
    }


def test_the_page_of_a_record():
    machine = {'commit': 'abc', 'python': '3.11', 'processor': 'A processor'}
    machine |= {'load at start': [0.5, 1, 1], 'load at end': [1.5, 1, 1]}
    rates = {'threads 2': [30.0, 60.0, 45.0], 'torch 2': [20.0, 40.0, 30.0]}
    record = {
        'settings': dict(size=(32, 64), batch=4, counts=[2], rounds=3),
        'machine': machine,
        'formats': {'png': {'bytes': 2_300_000, 'rates': rates, 'errors': {'workers 4': 'why'}}},
    }
    lines = data.page(json.loads(json.dumps(record))).splitlines()
    assert '| png | threads 2 | 2.3 | 45.0 (37.5 to 52.5) | 1.50 |' in lines
    assert '| png | torch 2 | 2.3 | 30.0 (25.0 to 35.0) | - |' in lines
    assert lines[-1] == 'png, workers 4 failed: why'
