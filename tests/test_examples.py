"""The scripts in examples/ run from any folder, and print what their docstrings promise."""

import ast
import os
import re
import runpy
import subprocess
import sys

import compiler
import layouts
import numpy as np
import pytest
import shallow_nets
from house import REPOSITORY
from PIL import Image

from segjax import data
from segjax.config import config_file
from segjax.data.worlds import streets
from segjax.train import driver

EXAMPLES = REPOSITORY / 'examples'


def run(name: str, folder, *arguments: str) -> str:
    """Runs an example in an empty folder, as after `pip install`, and returns its output."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': compiler.QUICKLY},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, output: str) -> float:
    """Returns the number that `pattern` finds in the output."""
    return float(re.search(pattern, output)[1].replace(',', ''))


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*.py')), ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_prints(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 30
    assert '\nPrints ' in ast.get_docstring(ast.parse(text))


def test_every_example_is_run():
    run_here = {'net.py', 'loss_and_confusion.py', 'rank_objects.py', 'sem.py', 'warp.py'}
    run_here |= {'boundary_benchmark.py', 'contours.py', 'scenes.py', 'train.py'}
    assert {path.name for path in EXAMPLES.glob('*.py')} == run_here


def test_a_net_alone(tmp_path):
    output = run('net.py', tmp_path)
    assert number(r'parameters: ([\d,]+)', output) == 2_064_191
    assert 'logits: (1, 64, 128, 19) float32' in output
    assert number(r'probabilities of a pixel: (\S+)', output) == 1


def test_a_loss_and_a_confusion_matrix_alone(tmp_path):
    output = run('loss_and_confusion.py', tmp_path)
    assert 0 < number(r'cross-entropy: ([\d.]+)', output) < 3
    assert 0 < number(r'mean IoU: ([\d.]+)', output) < 1
    assert all(f'{name!r}: ' in output for name in ('road', 'car', 'sky'))


def test_a_warp_and_a_photometric_loss_alone(tmp_path):
    output = run('warp.py', tmp_path)
    errors = {d: number(rf'depth +{d}: error (\S+)', output) for d in (5.0, 10.0, 20.0)}
    assert errors[10.0] < 1e-4 < min(errors[5.0], errors[20.0])


def test_a_training_from_python(tmp_path):
    output = run('train.py', tmp_path, 'run', '2')
    assert 0 <= number(r'segmentation: mean IoU ([\d.]+)', output) <= 1
    assert (tmp_path / 'run/report.html').is_file()
    assert (tmp_path / 'run/scores.json').is_file()


def test_classes_are_ranked_by_their_objects(tmp_path):
    lines = [line.split(None, 1) for line in run('rank_objects.py', tmp_path).splitlines()]
    counts = {name: int(number) for number, name in lines}
    assert len(counts) == 19 and list(counts.values()) == sorted(counts.values(), reverse=True)
    # Only things that move are told apart.
    assert counts['car'] > 0 and counts['road'] == counts['sky'] == 0


def test_boundaries_of_folders_are_scored(tmp_path):
    # Regions that meet at a column. The second prediction is far from its truth.
    for folder, columns in {'predictions': (10, 5), 'truths': (10, 25)}.items():
        (tmp_path / folder).mkdir()
        for name, column in zip('ab', columns, strict=True):
            regions = np.tile(np.arange(30) >= column, (20, 1)).astype(np.int32)
            np.save(tmp_path / folder / name, regions)
    output = run('boundary_benchmark.py', tmp_path, 'predictions', 'truths', '1')
    assert 'ODS: F 0.5000, P 0.5000, R 0.5000\nOIS: F 0.5000' in output
    assert '2 images, best threshold 0.5000' in output


def test_contours_of_images(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :25] = (200, 40, 40)
    image[:18, 25:] = (40, 40, 200)
    (tmp_path / 'images').mkdir()
    Image.fromarray(image).save(tmp_path / 'images/flags.png')
    output = run('contours.py', tmp_path, 'images', 'contours')
    assert number(r'flags: (\d+) regions', output) == 3
    contours = np.load(tmp_path / 'contours/flags.npy')
    assert contours.shape == (79, 119) and contours[10, 49] > 0.2 and contours[10, 20] == 0


def test_scenes_are_a_data_set_of_your_own(tmp_path):
    assert run('scenes.py', tmp_path, 'mine', '1') == 'train: 1 scenes\nval: 1 scenes\n'
    root = tmp_path / 'mine'
    classes = str(root / 'classes.yaml')
    config = layouts.data_config('folder', root, tmp_path / 'cache', classes=classes)
    prepared = data.prepare(config)
    example = prepared.open_split('val', ('label', 'instance'))[0]
    frame = streets.frame(0, 'val', 0, 0, (128, 256))
    np.testing.assert_array_equal(example['label'], frame['label'])
    np.testing.assert_array_equal(example['instance'], frame['instance'])


def test_sem_alone(in_threads, one_device, tmp_path, monkeypatch, capsys):
    """Runs in this process, whose nets have fewer blocks."""
    shallow_nets.use(monkeypatch)
    config = config_file.load(str(REPOSITORY / 'configs/shape_classifier.py:smoke'))
    config.train.num_steps = 1
    driver.train(config, str(tmp_path / 'run'))
    shape = 255 * np.tri(20, dtype=np.uint8)
    for name, pixels in {'triangle': shape, 'mirrored': shape[:, ::-1]}.items():
        mask = np.pad(pixels, ((20, 20), (30, 40)))
        Image.fromarray(mask).save(tmp_path / f'{name}.png')
    capsys.readouterr()
    paths = [str(tmp_path / name) for name in ('run', 'mirrored.png', 'triangle.png')]
    monkeypatch.setattr(sys, 'argv', ['sem.py', *paths])
    runpy.run_path(str(EXAMPLES / 'sem.py'))
    output = capsys.readouterr().out
    assert 0 < number(r'Sem ([\d.]+)', output) < 1
    assert 0.2 < number(r'tIOU ([\d.]+)', output) < 0.5
