"""Files of weights: read back as written, and clear words about those that cannot be read."""

import json
import pickle
import shlex
import struct
import sys
import tracemalloc
import typing
import zipfile

import numpy as np
import pytest

from segjax import pretrained
from segjax.core import notes
from segjax.errors import InputError
from segjax.pretrained import archives

TENSORS = {
    'conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    'bn1.bias': np.ones(2, np.float16),
}


@pytest.mark.parametrize('ending', ['safetensors', 'npz'])
def test_read_gives_what_was_written(ending, tmp_path):
    path = str(tmp_path / f'w.{ending}')
    # A view with torch's axes swapped. The file must have its values, not the memory behind it.
    pretrained.write(path, TENSORS | {'view': TENSORS['conv1.weight'].transpose(3, 2, 1, 0)})
    loaded = pretrained.read(path)
    assert loaded.keys() == {*TENSORS, 'view'}
    np.testing.assert_array_equal(loaded['view'], TENSORS['conv1.weight'].transpose(3, 2, 1, 0))
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded[name], tensor)


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


class Word:
    """A name of a module, as a pickle refers to it."""

    def __init__(self, module, name):
        self.module, self.name = module, name


def pickled(value, storages):
    """Returns the bytes of a value as torch writes them.

    Tensors are rebuilt from storages, and names are looked up in modules.
    """

    def write(value):
        if isinstance(value, Word):
            return b'c%s\n%s\n' % (value.module.encode(), value.name.encode())
        if isinstance(value, Called):
            return write(value.word) + write(value.arguments) + b'R'
        if isinstance(value, np.ndarray):
            return write(rebuilt(value))
        if isinstance(value, Kept):
            return (
                write(('storage', Word('torch', value.kind), value.key, 'cpu', value.count)) + b'Q'
            )
        if isinstance(value, dict):
            return b'}(' + b''.join(write(k) + write(v) for k, v in value.items()) + b'u'
        if isinstance(value, tuple):
            return b'(' + b''.join(map(write, value)) + b't'
        if isinstance(value, str):
            return b'X' + struct.pack('<I', len(value.encode())) + value.encode()
        assert isinstance(value, int), value
        return b'I%d\n' % value

    def rebuilt(array):
        kind = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'uint16': 'BFloat16Storage'}[
            str(array.dtype)
        ]
        base = array if array.base is None else array.base
        storages.append(base.tobytes())
        strides = tuple(stride // array.itemsize for stride in array.strides)
        kept = Kept(kind, str(len(storages) - 1), base.size)
        return Called(
            Word('torch._utils', '_rebuild_tensor_v2'), (kept, 0, array.shape, strides, 0, {})
        )

    return b'\x80\x02' + write(value) + b'.'


class Called(typing.NamedTuple):
    word: Word
    arguments: tuple


class Kept(typing.NamedTuple):
    kind: str
    key: str
    count: int


def save(path, value):
    """Writes a file as torch.save does."""
    storages = []
    data = pickled(value, storages)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights/data.pkl', data)
        for number, raw in enumerate(storages):
            archive.writestr(f'weights/data/{number}', raw)


def save_sequence(path, value):
    """Writes a file as torch did before version 1.6."""
    storages = []
    data = pickled(value, storages)
    heads = [pickle.dumps(item, 2) for item in (archives.MAGIC, 1001, {'little_endian': True})]
    keys = pickle.dumps([str(number) for number in range(len(storages))], 2)
    width = [a.itemsize for a in value.values()]
    raw = b''.join(struct.pack('<q', len(x) // w) + x for x, w in zip(storages, width, strict=True))
    path.write_bytes(b''.join(heads) + data + keys + raw)


OPTIONS = Called(Word('argparse', 'Namespace'), ())
MOMENTA = {'state': {0: {'exp_avg': np.ones(3, np.float32)}}, 'param_groups': ()}


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in TENSORS.items()}


@pytest.mark.parametrize(
    'content',
    [
        TENSORS,
        *(
            {key: TENSORS, 'epoch': 1}
            for key in ('model_state_dict', 'net', 'state_dict', 'model', 'ema', 'network')
        ),
        *map(prefixed, ('module.', 'model.', '_orig_mod.', 'module.module.', 'module._orig_mod.')),
        {'state_dict': prefixed('model.') | {'criterion.weight': TENSORS['bn1.bias']}},
        {'state_dict': TENSORS, 'args': OPTIONS, 'optimizer': MOMENTA},
        {'args': OPTIONS, 'model': {'state_dict': TENSORS}, 'model_ema': TENSORS},
    ],
    ids=lambda content: '+'.join(map(str, content))[
        :60
    ],  # an object inside has an address, which differs by process
)
@pytest.mark.parametrize('ending', ['pth', 'pt', 'bin', 'ckpt', 'pth.tar'])
def test_tensors_are_found_in_what_training_scripts_save(content, ending, tmp_path):
    path = tmp_path / f'w.{ending}'
    save(path, content)
    loaded = pretrained.read(str(path))
    assert loaded.keys() - {'criterion.weight'} == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype
        np.testing.assert_array_equal(loaded[name], tensor)


@pytest.mark.parametrize(
    'loaded, left', [('model', 'model_ema'), ('state_dict', 'ema'), ('model', 'net')]
)
def test_a_file_with_two_copies_says_which_is_loaded(loaded, left, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notes, '_told', set())
    path = tmp_path / 'w.pth'
    save(
        path,
        {
            loaded: TENSORS,
            left: {name: 2 * tensor for name, tensor in TENSORS.items()},
            'optimizer': MOMENTA,
        },
    )
    np.testing.assert_array_equal(pretrained.read(str(path))['bn1.bias'], 1)
    (note, message, fix) = capsys.readouterr().out.splitlines()
    assert note == f'note: {path}' and f"'{loaded}' is loaded, {left!r} is not" in message
    program = shlex.split(fix.partition('fix: ')[2])
    assert program[:2] == ['python', '-c'] and f'[{left!r}]' in program[2]
    compile(program[2], 'fix', 'exec')
    save(path, {loaded: TENSORS, left: 3, 'optimizer': MOMENTA})
    pretrained.read(str(path))
    assert not capsys.readouterr().out, 'no second copy'


def test_a_file_of_an_older_torch_is_read(tmp_path):
    path = tmp_path / 'w.pth'
    save_sequence(path, TENSORS)
    for name, tensor in pretrained.read(str(path)).items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


def test_views_and_bfloat16_have_their_values(tmp_path):
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    halves = np.array([0x3F80, 0xC000, 0x3E80], np.uint16)  # 1, -2 and 0.25 in bfloat16
    save(tmp_path / 'w.pth', {'a.weight': base.T, 'b.weight': halves, 'c.weight': base[:, :0]})
    loaded = pretrained.read(str(tmp_path / 'w.pth'))
    np.testing.assert_array_equal(loaded['a.weight'], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(loaded['b.weight'], np.float32([1, -2, 0.25]))
    assert loaded['c.weight'].shape == (2, 0)
    header = json.dumps(
        {'b.weight': {'dtype': 'BF16', 'shape': [3], 'data_offsets': [0, 6]}}
    ).encode()
    (tmp_path / 'w.safetensors').write_bytes(
        struct.pack('<Q', len(header)) + header + halves.tobytes()
    )
    loaded = pretrained.read(str(tmp_path / 'w.safetensors'))
    np.testing.assert_array_equal(loaded['b.weight'], np.float32([1, -2, 0.25]))


def test_nothing_that_a_file_names_is_run(tmp_path):
    target = tmp_path / 'made'
    attack = Called(Word('os', 'mkdir'), (str(target),))
    save(tmp_path / 'w.pth', {'state_dict': TENSORS, 'args': attack})
    assert pretrained.read(str(tmp_path / 'w.pth')).keys() == TENSORS.keys()
    assert not target.exists()


def sequence(value, storages, keys):
    """Returns the bytes of a file before torch 1.6: a pickle and float32 storages."""
    heads = [pickle.dumps(item, 2) for item in (archives.MAGIC, 1001, {'little_endian': True})]
    raw = b''.join(struct.pack('<q', each.size) + each.tobytes() for each in storages)
    return b''.join(heads) + pickled(value, []) + pickle.dumps(keys, 2) + raw


def test_a_storage_inside_an_unknown_object_moves_no_other(tmp_path):
    arrays = [np.arange(4, dtype=np.float32) + 10 * number for number in range(2)]
    rebuild = Word('torch._utils', '_rebuild_tensor_v2')
    tensors = [
        Called(rebuild, (Kept('FloatStorage', key, 4), 0, (4,), (1,), 0, {})) for key in '01'
    ]
    content = {'criterion': Called(Word('nets', 'Loss'), (tensors[0],)), 'a.weight': tensors[1]}
    path = tmp_path / 'w.pth'
    path.write_bytes(sequence(content, arrays, ['0', '1']))
    np.testing.assert_array_equal(archives.read(path)['a.weight'], arrays[1])


def test_a_part_of_a_storage_is_refused(tmp_path):
    kept = Kept('FloatStorage', '0', 4)
    tensor = Called(Word('torch._utils', '_rebuild_tensor'), (kept, 0, (2,), (1,)))
    whole = sequence({'a.weight': tensor}, [np.arange(4, dtype=np.float32)], ['0'])
    view = b'(X\x01\x00\x00\x009I2\nI2\nt'  # the tuple ('9', 2, 2) behind the number of elements
    path = tmp_path / 'w.pth'
    path.write_bytes(whole.replace(b'I4\ntQ', b'I4\n' + view + b'tQ'))
    with pytest.raises(archives.TorchFileError, match='a part of a storage'):
        archives.read(path)


def test_tensors_of_one_storage_share_its_memory(tmp_path):
    flat = np.arange(200_000, dtype=np.float32)
    rebuild = Word('torch._utils', '_rebuild_tensor_v2')
    kept = Kept('FloatStorage', '0', flat.size)
    parts = {
        f'{i}.weight': Called(rebuild, (kept, 1000 * i, (1000,), (1,), 0, {})) for i in range(100)
    }
    path = tmp_path / 'w.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights/data.pkl', pickled(parts, []))
        archive.writestr('weights/data/0', flat.tobytes())
    tracemalloc.start()
    loaded = archives.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(loaded['7.weight'], flat[7000:8000])
    assert peak < 5 * flat.nbytes


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    path = tmp_path / 'w.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('weights/data.pkl', pickled({}, []))
        archive.writestr('weights/data/0', bytes(10**7))
    with pytest.raises(archives.TorchFileError, match='bytes in a file of'):
        archives.read(path)
    repeated = (Kept('FloatStorage', '0', 1), 0, (2**25,), (0,), 0, {})
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(
            'weights/data.pkl',
            pickled({'w': Called(Word('torch._utils', '_rebuild_tensor_v2'), repeated)}, []),
        )
        archive.writestr('weights/data/0', bytes(4))
    with pytest.raises(archives.TorchFileError, match='1 numbers, repeated'):
        archives.read(path)


NO_WEIGHTS = {
    'empty': (b'', 'an empty file'),
    'page': (b'\n<!DOCTYPE html><html>', 'a web page'),
    'pointer': (b'version https://git-lfs.github.com/spec/v1\noid', 'git-lfs'),
    'answer': (b'{"error": "not loaded"}', 'JSON'),
    'noise': (b'x' * 100, 'cannot be read'),
    'pickle': (pickle.dumps({'a': 1}), 'cannot be read'),
}


@pytest.mark.parametrize('ending', ['pth', 'npz', 'safetensors', 'bin'])
@pytest.mark.parametrize('content, got', NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_a_file_that_holds_no_weights_says_what_it_is(content, got, ending, tmp_path):
    path = tmp_path / f'w.{ending}'
    path.write_bytes(content)
    with pytest.raises(InputError, match=got) as error:
        pretrained.read(str(path))
    assert error.value.where == str(path) and error.value.fix


def test_a_damaged_torch_file_a_folder_and_a_whole_module(tmp_path):
    path = tmp_path / 'w.pth'
    save(path, TENSORS)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match='cannot be read'):
            pretrained.read(str(path))
    save(path, Called(Word('nets', 'Net'), ()))
    with pytest.raises(InputError, match='a whole module') as error:
        pretrained.read(str(path))
    assert 'model.state_dict()' in error.value.fix
    save(path, {'epoch': 3, 'optimizer': MOMENTA})
    with pytest.raises(InputError, match='but epoch, optimizer'):
        pretrained.read(str(path))
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(InputError, match='which is a folder'):
        pretrained.read(str(tmp_path / 'folder.pth'))


def test_the_hub_needs_its_package_and_a_whole_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match='pip install huggingface_hub'):
        pretrained.read('hf:timm/resnet18.tv_in1k/model.safetensors')
    for short in ('hf:timm/resnet18', 'hf:timm', 'hf:timm/resnet18/model.onnx'):
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
    [
        ('w.safetensors', True),
        ('a/w.pth.tar', True),
        ('hf:a/b/c.npz', True),
        ('runs/first', False),
        ('', False),
    ],
)
def test_is_weights(path, expected):
    assert pretrained.is_weights(path) == expected


def test_a_caffemodel_is_refused_with_a_command_that_is_python():
    with pytest.raises(InputError, match=r'weights\.npz') as caught:
        pretrained.read('net.caffemodel')
    assert pretrained.is_weights('net.caffemodel') and caught.value.fix.endswith(
        'deploy.prototxt net.caffemodel'
    )
    program = shlex.split(caught.value.fix.partition(': ')[2])[2]
    compile(program, 'fix', 'exec')


def refused(path) -> InputError:
    with pytest.raises(InputError) as error:
        pretrained.read(str(path))
    return error.value


def test_arrays_without_names_objects_and_no_tensors_are_told_apart(tmp_path):
    path = tmp_path / 'w.npz'
    with path.open('wb') as file:
        np.save(file, np.zeros((2, 3)))
    assert refused(path).got == 'a single array of shape (2, 3), without a name'
    np.savez(path, x=np.array([{'a': 1}], object))
    assert 'numpy.savez' in refused(path).fix
    for name in ('w.npz', 'w.safetensors'):
        pretrained.write(str(tmp_path / name), {})
        assert refused(tmp_path / name).got == 'no tensors'


@pytest.mark.parametrize('name', ['w.npy', 'w.h5', 'w.onnx', 'w.tar.gz'])
def test_a_file_of_another_kind_is_no_run_folder(name, tmp_path):
    (tmp_path / name).write_bytes(b'x' * 20)
    with pytest.raises(InputError) as error:
        pretrained.refuse_other_file(str(tmp_path / name))
    assert 'a file of another kind' in error.value.got and '.safetensors' in error.value.expected
    with pytest.raises(InputError, match='no file and no folder') as error:
        pretrained.refuse_other_file(str(tmp_path / 'resnet50'))
    arguments = error.value.fix.split(', or ')
    assert len(arguments) == 2
    for argument in arguments:
        assert argument.startswith('--config.init_from.path='), argument
    pretrained.refuse_other_file(str(tmp_path))
