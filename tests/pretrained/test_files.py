"""Files of weights: read back as written, and clear words about those that cannot be read."""

import shlex
import sys

import numpy as np
import pytest

from segjax import pretrained
from segjax.errors import InputError

TENSORS = {'conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), 'bn1.bias': np.ones(2, np.float16)}


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_read_gives_what_was_written(ending, tmp_path):
    path = str(tmp_path / f'w.{ending}')
    # A view with torch's axes swapped: what is written must be its values, not the memory behind it.
    pretrained.write(path, TENSORS | {'view': TENSORS['conv1.weight'].transpose(3, 2, 1, 0)})
    found = pretrained.read(path)
    assert found.keys() == {*TENSORS, 'view'}
    np.testing.assert_array_equal(found['view'], TENSORS['conv1.weight'].transpose(3, 2, 1, 0))
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_a_damaged_file_is_named(ending, tmp_path):
    path = tmp_path / f'w.{ending}'
    pretrained.write(str(path), TENSORS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match='cannot be read') as caught:
        pretrained.read(str(path))
    assert caught.value.where == str(path)


def test_an_absent_file_says_how_to_go_on_without(tmp_path):
    with pytest.raises(InputError, match='which is no file'):
        pretrained.read(str(tmp_path / 'w.npz'))
    with pytest.raises(InputError, match='ending'):
        pretrained.write(str(tmp_path / 'w.pth'), TENSORS)


def test_without_torch_a_pth_says_how_to_convert_it(tmp_path, monkeypatch):
    path = tmp_path / 'resnet18.pth'
    path.write_bytes(b'x')
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(InputError, match=r"without torch[\s\S]*python -c .*load\('resnet18.pth'"):
        pretrained.read(str(path))


def test_the_hub_needs_its_package_and_a_whole_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match='pip install huggingface_hub'):
        pretrained.read('hf:timm/resnet18.tv_in1k/model.safetensors')
    for short in ('hf:timm/resnet18', 'hf:timm', 'hf:timm/resnet18/model.bin'):
        with pytest.raises(InputError, match='hf:owner/name/file'):
            pretrained.read(short)


def test_the_hub_is_asked_for_repository_and_file(monkeypatch, tmp_path):
    pretrained.write(str(tmp_path / 'w.npz'), TENSORS)

    class Hub:
        @staticmethod
        def hf_hub_download(repository, file):
            assert (repository, file) == ('timm/net', 'sub/w.npz')
            return str(tmp_path / 'w.npz')

    monkeypatch.setitem(sys.modules, 'huggingface_hub', Hub)
    assert pretrained.read('hf:timm/net/sub/w.npz').keys() == TENSORS.keys()

    def unreachable(repository, file):
        raise ConnectionError('no route to host')

    monkeypatch.setattr(Hub, 'hf_hub_download', unreachable)
    with pytest.raises(InputError, match='no route to host'):
        pretrained.read('hf:timm/net/w.npz')


@pytest.mark.parametrize(
    'path, expected',
    [('w.safetensors', True), ('a/w.pth.tar', True), ('hf:a/b/c.npz', True), ('runs/first', False), ('', False)],
)
def test_is_weights(path, expected):
    assert pretrained.is_weights(path) == expected


def test_a_caffemodel_is_refused_with_a_command_that_is_python():
    with pytest.raises(InputError, match=r'weights\.npz') as caught:
        pretrained.read('net.caffemodel')
    assert pretrained.is_weights('net.caffemodel') and caught.value.fix.endswith('deploy.prototxt net.caffemodel')
    program = shlex.split(caught.value.fix.partition(': ')[2])[2]
    compile(program, 'fix', 'exec')
