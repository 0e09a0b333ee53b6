"""All weights that configs/learned_dilation.py documents load, with their net and images."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import models, pretrained
from segjax.config import config_file
from segjax.errors import InputError
from segjax.pretrained.sources import SOURCES
from segjax.train import driver, initialization, opening

CONFIG = pathlib.Path(__file__).resolve().parent.parent.parent / 'configs/learned_dilation.py'
WIDTHS = {'largefov': 1 / 64, 'deeplab_v2': 1 / 32, 'pspnet': 1 / 32}


@functools.cache
def release(net, key, num_classes=21, **args):
    """Returns {name: random array} of the narrow net of a release."""
    module = models.build(
        'segmentation', net, num_classes=num_classes, dtype='float32', axis_name=None, **args
    )
    shapes = jax.eval_shape(
        lambda: module.lazy_init(jax.random.key(0), np.zeros((1, 64, 64, 3)), train=False)
    )
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: draw.standard_normal(s.shape, np.float32), shapes)
    return pretrained.export_weights(variables, SOURCES[key])


def vgg16(key, fc6, fc7):
    """Returns VGG16 with the flattened classifier of ImageNet."""
    tensors = release('fcn', key, width=1 / 64)
    tensors = {name: x for name, x in tensors.items() if not name.startswith((fc6, fc7))}
    draw = np.random.default_rng(1)
    for name, inputs in ((fc6, 8 * 49), (fc7, 64)):
        tensors[f'{name}.weight'] = draw.standard_normal((64, inputs), np.float32)
        tensors[f'{name}.bias'] = draw.standard_normal(64, np.float32)
    return tensors


def coco():
    """Returns the weights of MS-COCO: the ResNet, and a convolution instead of the pyramid."""
    tensors = release('deeplab_v2', 'kazuto', width=1 / 32)
    tensors = {name: x for name, x in tensors.items() if not name.startswith('aspp')}
    return tensors | {
        'fc.weight': np.ones((91, 64, 1, 1), np.float32),
        'fc.bias': np.ones(91, np.float32),
    }


def hed():
    tensors = vgg16('vgg', 'classifier.0', 'classifier.3')
    return {name: x for name, x in tensors.items() if name.startswith('features')}


# Name -> (argument of the config, maker of the file, further changes of the config, modules that
# keep their random initialisation).
STARTS = {
    'LargeFOV, Caffe': (
        ':net=largefov',
        lambda: release('deeplab_largefov', 'largefov_caffe', width=1 / 64),
        {},
        {'fc8'},
    ),
    'VGG16, Caffe': (
        ':net=largefov',
        lambda: vgg16('vgg_caffe', 'fc6', 'fc7'),
        dict(preprocess='caffe'),
        {'fc8'},
    ),
    'VGG16, torchvision': (
        ':net=largefov',
        lambda: vgg16('vgg', 'classifier.0', 'classifier.3'),
        dict(preprocess='imagenet'),
        {'fc8'},
    ),
    'VGG16 without a classifier': (':camvid_vgg', hed, {}, {'fc6', 'fc7', 'fc8'}),
    'DeepLab-v2, COCO': (':net=deeplab_v2', coco, {}, {f'aspp/c{i}' for i in range(4)}),
    'DeepLab-v2 on CamVid': (':camvid,net=deeplab_v2', coco, {}, {f'aspp/c{i}' for i in range(4)}),
    'PSPNet, Cityscapes': (
        ':net=pspnet',
        lambda: release('pspnet', 'semseg', num_classes=19, width=1 / 32, num_layers=101),
        {},
        set(),
    ),
    'PSPNet on CamVid': (
        ':camvid,net=pspnet',
        lambda: release('pspnet', 'semseg', num_classes=19, width=1 / 32, num_layers=101),
        {},
        set(),
    ),
}


def narrow_run(argument, path, **changes):
    """Returns the documented config with a narrow net and a small data set."""
    config = config_file.load(f'{CONFIG}{argument}')
    small = config_file.load(f'{CONFIG}:smoke').data
    with config.unlocked():
        config.data = small
    net = argument.partition('net=')[2] or 'largefov'
    config.model.width = WIDTHS[net]
    sections = dict(train=dict(batch_size=8), evaluate=dict(batch_size=8), augment=dict(resize=()))
    config_lib.update(config, **sections, init_from=dict(path=str(path)), **changes)
    return config


@pytest.fixture
def checked_states(monkeypatch):
    """Returns the dictionary of the abstract states with which a run checks its weights.

    Opening the run traces no step. The test of a run without weights traces the steps of all nets.
    """
    seen = {}
    check_weights = initialization.check_weights
    checked_run = opening.checked_run

    def check(run, states):
        seen.update(states)
        return check_weights(run, states)

    monkeypatch.setattr(initialization, 'check_weights', check)
    without_trace = functools.partial(checked_run, trace_steps=False)
    monkeypatch.setattr(opening, 'checked_run', without_trace)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize('start', STARTS)
def test_documented_weights_are_loaded(start, checked_states, tmp_path, capsys):
    argument, make, changes, drawn = STARTS[start]
    path = tmp_path / 'weights.safetensors'
    pretrained.write(str(path), make())
    run, (stage,) = driver.open_run(
        narrow_run(argument, path, **changes), str(tmp_path / 'run'), 'train'
    )
    assert run.config.preprocess == run.source().scheme
    assert 'init_from.path' not in capsys.readouterr().out, 'no warning with weights'
    state = checked_states[stage.name]
    loaded, listing = pretrained.load_for(state, run.source(), run.config.init_from)
    left = {
        line.split(':')[0].strip(' -')
        for line in listing.splitlines()
        if 'keeps its random initialisation' in line
    }
    assert {name for name in left if not name.endswith('dilation')} == drawn, listing
    assert loaded['params']['segmenter']


def test_another_preparation_than_the_weights_is_refused_with_the_fix_that_works(tmp_path):
    path = tmp_path / 'weights.safetensors'
    pretrained.write(str(path), vgg16('vgg', 'classifier.0', 'classifier.3'))
    with pytest.raises(InputError, match=r'--config\.preprocess=imagenet'):
        driver.open_run(narrow_run(':net=largefov', path), str(tmp_path / 'run'), 'train')


@pytest.mark.parametrize(
    'net',
    [
        'largefov',
        pytest.param('deeplab_v2', marks=pytest.mark.slow),
        pytest.param('pspnet', marks=pytest.mark.slow),
    ],
)
def test_without_weights_a_run_of_the_papers_config_warns(net, tmp_path, capsys):
    """Traces the steps of all nets. ResNets have 18 layers instead of 101, to save time."""
    config = narrow_run(f':net={net}', '')
    if 'num_layers' in config.model:
        config.model.num_layers = 18
    driver.open_run(config, str(tmp_path / 'run'), 'train')
    printed = capsys.readouterr().out
    assert 'config.init_from.path' in printed and '--config.init_from.expected= ' in printed
