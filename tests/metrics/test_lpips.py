"""The perceptual distance against loops and a twin in torch."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.errors import InputError
from segjax.metrics import lpips

RNG = np.random.default_rng(0)
SHAPES = {'conv1': (6, 5, 4), 'conv2': (3, 3, 8)}
HEADS = {layer: RNG.random(shape[-1]).astype(np.float32) for layer, shape in SHAPES.items()}


def features(*lead):
    """Returns features after a ReLU. The first pixel of each layer has no active channel."""
    layers = {}
    for layer, shape in SHAPES.items():
        values = np.maximum(RNG.normal(size=(*lead, *shape)), 0).astype(np.float32)
        values[..., 0, 0, :] = 0
        layers[layer] = values
    return layers


def by_loops(first, second, heads):
    """Returns the distance of features of a single image, {layer: [h, w, C]}."""
    total = 0.0
    for layer, (height, width, channels) in SHAPES.items():
        for y, x in np.ndindex(height, width):
            u = np.float64(first[layer][y, x])
            v = np.float64(second[layer][y, x])
            u = u / (np.sqrt((u**2).sum()) + 1e-10)
            v = v / (np.sqrt((v**2).sum()) + 1e-10)
            for c in range(channels):
                weight = 1.0 if heads is None else float(heads[layer][c])
                total += weight * (u[c] - v[c]) ** 2 / (height * width)
    return total


def pick(layers, *place):
    return {layer: values[place] for layer, values in layers.items()}


@pytest.mark.parametrize('heads', [HEADS, None], ids=['heads', 'without heads'])
def test_distance_is_the_loop(heads):
    first, second = features(3), features(3)
    expected = [by_loops(pick(first, b), pick(second, b), heads) for b in range(3)]
    got = lpips.distance(first, second, heads)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(lpips.distance(second, first, heads), expected, rtol=1e-5)
    np.testing.assert_array_equal(lpips.distance(first, first, heads), 0)


def test_samples_are_compared_with_their_truth_by_broadcasting():
    truth, others = features(2, 1), features(2, 3)
    got = lpips.distance(truth, others, HEADS)
    chex.assert_shape(got, (2, 3))
    for b, i in np.ndindex(2, 3):
        expected = by_loops(pick(truth, b, 0), pick(others, b, i), HEADS)
        np.testing.assert_allclose(got[b, i], expected, rtol=1e-5)


def test_brightness_of_features_does_not_matter():
    first, second = features(2), features(2)
    brighter = {layer: 7 * values for layer, values in second.items()}
    expected = lpips.distance(first, second, HEADS)
    np.testing.assert_allclose(lpips.distance(first, brighter, HEADS), expected, rtol=1e-5)


@pytest.mark.parametrize('heads', [HEADS, None], ids=['heads', 'without heads'])
def test_mean_of_pairs_is_the_loop_over_the_pairs(heads):
    layers = features(2, 4)
    got = lpips.mean_of_pairs(layers, heads)
    chex.assert_type(got, jnp.float32)
    for b in range(2):
        pairs = [(i, j) for i in range(4) for j in range(i)]
        distances = [by_loops(pick(layers, b, i), pick(layers, b, j), heads) for i, j in pairs]
        np.testing.assert_allclose(got[b], np.mean(distances), rtol=1e-5)


def test_a_single_sample_has_no_pair():
    assert np.isnan(lpips.mean_of_pairs(features(2, 1), HEADS)).all()


def test_distance_equals_torch():
    torch = pytest.importorskip('torch')
    first, second = features(3), features(3)
    expected = 0
    for layer, head in HEADS.items():
        x, y = (torch.from_numpy(f[layer]).permute(0, 3, 1, 2) for f in (first, second))
        x = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        y = y / (y.norm(dim=1, keepdim=True) + 1e-10)
        kernel = torch.from_numpy(head)[None, :, None, None]
        difference = torch.nn.functional.conv2d((x - y) ** 2, kernel)
        expected = expected + difference.mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(lpips.distance(first, second, HEADS), expected, rtol=1e-5)


def test_features_and_heads_that_do_not_fit_are_named():
    first = features(2)
    with pytest.raises(InputError, match="'conv1': 5"):
        lpips.distance(first, first, HEADS | {'conv1': np.ones(5)})
    with pytest.raises(InputError, match='heads for the channels'):
        lpips.mean_of_pairs(features(2, 2), {'conv1': HEADS['conv1']})
    with pytest.raises(InputError, match='layers conv1'):
        lpips.distance(first, {'conv1': first['conv1']})


def test_heads_of_a_net_are_its_kernels():
    channels = {layer: len(head) for layer, head in HEADS.items()}
    first, second = features(2), features(2)
    equal = lpips.heads_of(lpips.equal_heads(channels))
    chex.assert_trees_all_equal_shapes(equal, HEADS)
    expected = lpips.distance(first, second)
    np.testing.assert_allclose(lpips.distance(first, second, equal), expected, rtol=1e-6)
