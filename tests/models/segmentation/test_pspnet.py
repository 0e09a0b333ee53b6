"""PSPNet: the pyramid against its definition, and the positions of features on the image."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import random_variables, shapes_of
from scipy import ndimage

from segjax.errors import InputError
from segjax.models.layers import Conv, batch_norm
from segjax.models.segmentation.pspnet import PSPNet, PyramidPooling


def test_pyramid_is_the_input_and_its_enlarged_means():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 7, 9, 4)).astype(np.float32)
    net = PyramidPooling((1, 3), Conv, functools.partial(batch_norm(False)))
    params, statistics = {}, {}
    for i in range(2):
        params[f'features_{i}_1'] = {'kernel': rng.standard_normal((1, 1, 4, 2)).astype(np.float32)}
        params[f'features_{i}_2'] = {
            'scale': np.ones(2, np.float32),
            'bias': np.float32([0.5, 0.2]),
        }
        statistics[f'features_{i}_2'] = {
            'mean': np.float32([0.1, -0.1]),
            'var': np.ones(2, np.float32),
        }
    y = net.apply({'params': params, 'batch_stats': statistics}, x)
    expected = [x]
    for i, bins in enumerate((1, 3)):
        means = np.zeros((bins, bins, 4))
        for r, s in np.ndindex(bins, bins):
            rows, columns = (
                slice(k * n // bins, -(-(k + 1) * n // bins)) for k, n in ((r, 7), (s, 9))
            )
            means[r, s] = x[0, rows, columns].mean((0, 1))
        means = (
            means @ params[f'features_{i}_1']['kernel'][0, 0]
            - statistics[f'features_{i}_2']['mean']
        )
        means = np.maximum(means / np.sqrt(1 + 1e-5) + params[f'features_{i}_2']['bias'], 0)
        places = np.meshgrid(*(np.linspace(0, bins - 1, n) for n in (7, 9)), indexing='ij')
        maps = [ndimage.map_coordinates(means[..., c], places, order=1) for c in range(2)]
        expected.append(np.stack(maps, -1)[None])
    np.testing.assert_allclose(y, np.concatenate(expected, -1), atol=1e-5)


def test_names_follow_the_release():
    _, variables = shapes_of(PSPNet(5, width=0.125))
    names = {
        '/'.join(path[:-1]) for path in flatten_dict(variables['params']) if path[0] != 'resnet'
    }
    heads = {f'{head}_{i}' for head in ('cls', 'aux') for i in (0, 1, 4)}
    assert names == {f'ppm/features_{i}_{j}' for i in range(4) for j in (1, 2)} | heads


@pytest.mark.parametrize('size', [(33, 41), (37, 46)])
def test_a_prediction_at_stride_8_lies_on_every_eighth_pixel(size):
    net = PSPNet(2, num_layers=18, width=1 / 16)
    variables = random_variables(net)
    image = np.random.default_rng(0).standard_normal((1, *size, 3)).astype(np.float32)

    @jax.jit
    def run(variables, image):
        outputs, inner = net.apply(variables, image, train=False, capture_intermediates=True)
        return outputs['logits'], inner['intermediates']['cls_4']['__call__'][0]

    logits, small = run(variables, image)
    np.testing.assert_allclose(logits[:, ::8, ::8], small, atol=1e-6)
    middle = (small[:, :-1] + small[:, 1:]) / 2
    np.testing.assert_allclose(logits[:, 4::8, ::8][:, : middle.shape[1]], middle, atol=1e-5)


def test_channel_dropout_reaches_both_heads():
    net = PSPNet(2, num_layers=18, dropout=0.5, width=1 / 16)
    variables = shapes_of(net)[1]
    image = np.zeros((2, 16, 16, 3), np.float32)

    def run(variables):
        rngs = {'dropout': jax.random.key(1)}
        return net.apply(variables, image, train=True, rngs=rngs, mutable=['batch_stats'])

    jaxpr = str(jax.make_jaxpr(run)(variables))
    assert 'bool[2,1,1,32]' in jaxpr and 'bool[2,1,1,16]' in jaxpr


def test_impossible_bins_are_explained():
    with pytest.raises(InputError, match='1 or more'):
        shapes_of(PSPNet(5, bins=(1, 0)))
