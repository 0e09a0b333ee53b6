"""The command `python -m benchmarks.predict`: wrong arguments, its inputs, a run and the page."""

import argparse
import json

import cv2
import pytest

from benchmarks import predict, predict_worker
from segjax.errors import InputError
from segjax.train import stored

CONFIG = {'pipeline': 'supervised'}


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / stored.CONFIG).write_text(json.dumps(CONFIG))
    return str(tmp_path / 'run')


@pytest.mark.parametrize(
    'argv, where, fix',
    [
        (['--sizes', '64x128,64'], '--sizes', '--sizes 256x512'),
        (['--video', '480'], '--video', '--video 256x512'),
        (['--images', '0'], '--images', '--images 1'),
        (['--frames', '0'], '--frames', '--frames 1'),
    ],
)
def test_wrong_arguments(workdir, argv, where, fix):
    with pytest.raises(InputError) as caught:
        predict.parse(['--workdir', workdir, *argv])
    assert (caught.value.where, caught.value.fix) == (where, fix)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match='no run'):
        predict.parse(['--workdir', str(tmp_path)])


def test_inputs_have_the_named_sizes(tmp_path):
    args = argparse.Namespace(sizes=[(64, 96), (32, 48)], images=2, video=(48, 64), frames=3)
    paths = dict(predict.inputs(tmp_path, args))
    assert list(paths) == ['2 images of 64x96', '2 images of 32x48', 'video of 48x64']
    files = sorted(paths['2 images of 64x96'].iterdir())
    assert [cv2.imread(str(file)).shape for file in files] == 2 * [(64, 96, 3)]
    video = cv2.VideoCapture(str(paths['video of 48x64']))
    shapes = []
    while (frame := video.read()[1]) is not None:
        shapes.append(frame.shape)
    assert shapes == 3 * [(48, 64, 3)]


def test_a_worker_predicts_with_the_config_of_the_run(workdir, monkeypatch):
    asked = []

    def main(config, *paths):
        asked.append((config, paths))
        return {'images': 2}

    monkeypatch.setattr(predict_worker.config_lib, 'from_json', lambda values: values)
    monkeypatch.setattr(predict_worker.predict_mode, 'main', main)
    entry = predict_worker.predict(workdir, 'in', 'out')
    assert asked == [(CONFIG, (workdir, 'in', 'out', 'last'))]
    assert entry['images'] == 2 and entry['peak_bytes'] > 1e6


def test_the_page_of_a_record():
    machine = {'commit': 'abc', 'python': '3.11', 'processor': 'A processor'}
    machine |= {'load at start': [0.5, 1, 1], 'load at end': [1.5, 1, 1]}
    entry = dict(images=2, tiles=30, megapixels=48.0, compile_seconds=3.25, seconds=20.0)
    entry |= dict(waiting_seconds=15.0, images_per_second=0.1, peak_bytes=2.5e9)
    record = {
        'settings': dict(sizes=[(4000, 6000)], images=2, video=(480, 640), frames=9),
        'net': {'name': 'erfnet', 'width': 0.5},
        'machine': machine,
        'inputs': {'large': entry, 'video': {'error': 'segjax: no memory'}},
    }
    lines = predict.page(json.loads(json.dumps(record))).splitlines()
    assert '| large | 30 | 3.2 | 20.0 | 0.10 | 2.40 | 25 | 2.5 |' in lines
    assert '- Net: name=erfnet, width=0.5' in lines
    assert lines[-1] == 'video failed: segjax: no memory'
    assert '--sizes 4000x6000 --images 2 --video 480x640 --frames 9`' in '\n'.join(lines)
