"""Paths of the user: addresses and read-only folders are refused, with a fix."""

import os

import pytest

from segjax import config as config_lib
from segjax.core import paths
from segjax.errors import InputError


@pytest.mark.parametrize(
    'text, fix',
    [
        (
            'gs://bucket/runs/a b',
            "gcsfuse bucket /mnt/bucket, then --workdir='/mnt/bucket/runs/a b'",
        ),
        ('s3://bucket/r', 'mount-s3 bucket /mnt/bucket, then --workdir=/mnt/bucket/r'),
        ('HDFS://node/r', 'mount the storage at /mnt/node, then --workdir=/mnt/node/r'),
        ('file:///data/r', '--workdir=/data/r'),
        ('https://host/weights/x.npz', 'download it, then --workdir=x.npz'),
        ('hf://owner/name/x.npz', '--workdir=hf:owner/name/x.npz'),
    ],
)
def test_an_address_is_refused_with_the_path_to_type(text, fix):
    with pytest.raises(InputError) as caught:
        paths.local('--workdir', text)
    assert (caught.value.where, caught.value.got, caught.value.fix) == ('--workdir', text, fix)


@pytest.mark.parametrize(
    'text', ['runs/a', '/a//b', 'a:b', '1%20 ü', 'hf:owner/name/x.npz', 'C:/x']
)
def test_a_path_is_no_address(text):
    assert str(paths.local('--workdir', text)) == text.replace('//', '/')


def test_a_home_that_nobody_has_is_an_input_error(monkeypatch):
    with pytest.raises(InputError, match='~nobody-of-that-name/runs: no home'):
        paths.local('--workdir', '~nobody-of-that-name/runs')
    monkeypatch.delenv('HOME')
    monkeypatch.setattr('pwd.getpwuid', lambda uid: {}[uid])
    with pytest.raises(InputError, match='--workdir=/some/folder, or export HOME=/some/folder'):
        paths.local('--workdir', '~/runs')


@pytest.mark.parametrize('key', ['data.root', 'data.cache', 'data.classes', 'init_from.path'])
def test_an_address_in_a_config_is_refused_by_its_key(key):
    config = config_lib.defaults('supervised')
    section, name = key.split('.')
    config[section][name] = 'gs://bucket/x'
    with pytest.raises(InputError, match='gcsfuse') as caught:
        config_lib.validate(config)
    assert caught.value.where == f'config.{key}'
    assert caught.value.fix.endswith(f'--config.{key}=/mnt/bucket/x')


def test_a_folder_below_a_file_or_without_permission_is_refused(tmp_path, monkeypatch):
    file = tmp_path / 'file'
    file.touch()
    for folder in (file, file / 'run'):
        with pytest.raises(InputError, match='which is a file'):
            paths.check_writable('--workdir', folder)
    monkeypatch.setattr(os, 'access', lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=f'no permission to write to {tmp_path}'):
        paths.check_writable('--workdir', tmp_path / 'a/b')
    assert not (tmp_path / 'a').exists()


def test_an_address_in_a_variable_is_refused_with_the_variable_to_set():
    with pytest.raises(InputError) as caught:
        paths.local('$SEGJAX_CACHE', 'gs://bucket/cache')
    assert caught.value.fix == 'gcsfuse bucket /mnt/bucket, then SEGJAX_CACHE=/mnt/bucket/cache'


def test_a_path_that_is_no_text_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r'a path of ASCII characters$'):
        paths.local('--workdir', os.fsdecode(b'r\xff'))
    assert str(paths.local('--workdir', 'ü 漢')) == 'ü 漢'
    monkeypatch.setattr('sys.getfilesystemencoding', lambda: 'iso8859-1')
    with pytest.raises(InputError, match='PYTHONUTF8=1'):
        paths.local('--workdir', 'ü')
    assert str(paths.local('--workdir', 'u')) == 'u'
