"""Files of linear heads: both kinds of names, and clear words about files that do not fit."""

import numpy as np
import pytest

from segjax import pretrained
from segjax.errors import InputError
from segjax.metrics import lpips
from segjax.pretrained.heads import read_heads

CHANNELS = {'conv1_2': 4, 'conv2_2': 6}
HEADS = {
    layer: np.random.default_rng(0).random(count).astype(np.float32)
    for layer, count in CHANNELS.items()
}
WHERE = 'config.lpips.heads'


def published(dropout=True):
    """Returns HEADS as the package lpips stores them, the last layer first."""
    place = 1 if dropout else 0
    return {
        f'lin{i}.model.{place}.weight': head.reshape(1, -1, 1, 1)
        for i, head in reversed(list(enumerate(HEADS.values())))
    }


def written(tmp_path, tensors, ending='npz'):
    path = str(tmp_path / f'heads.{ending}')
    pretrained.write(path, tensors)
    return path


@pytest.mark.parametrize('ending', ['npz', 'safetensors'])
@pytest.mark.parametrize('tensors', [published(), published(dropout=False), HEADS])
def test_heads_are_read_in_the_order_of_the_layers(tmp_path, tensors, ending):
    heads = read_heads(WHERE, written(tmp_path, tensors, ending), CHANNELS)
    assert list(heads) == list(CHANNELS)
    for layer, head in heads.items():
        assert head.dtype == np.float32
        np.testing.assert_array_equal(head, HEADS[layer])


def test_a_file_of_torch_with_the_whole_net_is_read(tmp_path):
    torch = pytest.importorskip('torch')
    tensors = {name: torch.from_numpy(tensor) for name, tensor in published().items()}
    net = {f'net.slice1.{i}.weight': torch.full((4, 3, 3, 3), -1.0) for i in range(5)}
    path = str(tmp_path / 'whole.pth')
    torch.save(tensors | net, path)
    heads = read_heads(WHERE, path, CHANNELS)
    np.testing.assert_array_equal(heads['conv2_2'], HEADS['conv2_2'])


def test_heads_fit_the_distance(tmp_path):
    heads = read_heads(WHERE, written(tmp_path, published()), CHANNELS)
    rng = np.random.default_rng(1)
    features = {layer: rng.random((2, 3, 3, 3, count)) for layer, count in CHANNELS.items()}
    assert np.isfinite(lpips.mean_of_pairs(features, heads)).all()


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize(
    'tensors, message',
    [
        (without(published(), 'lin1.model.1.weight'), r'heads for conv1_2 \(4 channels\)\n'),
        (published() | {'lin2.model.1.weight': np.ones((1, 8, 1, 1))}, r'layer 3 \(8 channels\)'),
        (published() | {'lin0.model.1.weight': np.ones((1, 5, 1, 1))}, r'conv1_2 \(5 channels\)'),
        (published() | {'lin0.model.1.weight': -np.ones((1, 4, 1, 1))}, 'negative or not finite'),
        (HEADS | {'conv1_2': np.full(4, np.nan)}, 'negative or not finite'),
        ({'features.0.weight': np.ones((4, 3, 3, 3))}, 'heads for no layer'),
    ],
)
def test_heads_that_do_not_fit_are_named(tmp_path, tensors, message):
    path = written(tmp_path, tensors)
    with pytest.raises(InputError, match=message) as caught:
        read_heads(WHERE, path, CHANNELS)
    assert caught.value.where == WHERE
    assert path in caught.value.got
    assert 'conv1_2 (4 channels), conv2_2 (6 channels)' in caught.value.expected
    assert caught.value.fix.startswith(f'--{WHERE}= ')


def test_an_absent_file_says_how_to_go_on_without(tmp_path):
    for path, kind in ((tmp_path / 'heads.pth', 'no file'), (tmp_path, 'a folder')):
        with pytest.raises(InputError, match=f'which is {kind}') as caught:
            read_heads(WHERE, str(path), CHANNELS)
        assert caught.value.where == WHERE
        assert caught.value.fix.startswith(f'--{WHERE}= ')


def test_errors_of_the_reader_name_the_config_key(tmp_path):
    path = tmp_path / 'heads.caffemodel'
    path.write_bytes(b'x')
    with pytest.raises(InputError) as caught:
        read_heads(WHERE, str(path), CHANNELS)
    assert caught.value.where == WHERE and str(path) in caught.value.got
