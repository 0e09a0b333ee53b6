"""CRN against a torch twin of the published architecture: equal weights, images and gradients.

These tests are skipped without torch, see test_torch.py. All numbers are float64, except the
statistics of layer norms and the images of our net, which are float32.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from torch.nn import functional as F  # noqa: E402, N812

from segjax.models.generators.crn import CRN  # noqa: E402

SPLIT = 2
RATIO = 0.5
EPSILON = 1e-5


def as_torch(kernel):
    return torch.tensor(np.asarray(kernel, np.float64).transpose(3, 2, 0, 1), requires_grad=True)


def twin(params, condition, code):
    """Returns (image [B, 3, H, W], {path: tensor} of the parameters) for a code [C]."""
    tensors = {}
    modules = {**params['f1'], **params['f2']}
    head = modules.pop('head')
    x = None
    for i in range(len(modules)):
        height = condition.shape[2] >> (len(modules) - 1 - i)
        width = condition.shape[3] * height // condition.shape[2]
        y = F.interpolate(condition, (height, width), mode='area')
        if x is not None:
            larger = F.interpolate(x, (height, width), mode='bilinear', align_corners=True)
            y = torch.cat([larger, y], 1)
        for k in (0, 1):
            module = modules[f'module_{i}']
            kernel = as_torch(module[f'conv_{k}']['kernel'])
            scale, shift = (
                torch.tensor(np.asarray(module[f'norm_{k}'][name], np.float64), requires_grad=True)
                for name in ('scale', 'bias')
            )
            tensors |= {(i, k, 'kernel'): kernel, (i, k, 'scale'): scale, (i, k, 'bias'): shift}
            y = F.conv2d(y, kernel, padding=1)
            y = F.layer_norm(y, y.shape[1:], eps=EPSILON)
            y = y * scale[:, None, None] + shift[:, None, None]
            y = F.leaky_relu(y, 0.2)
        if i == SPLIT - 1:
            kept = torch.tensor(code > RATIO)
            y = y * kept[:, None, None] / (1 - RATIO)
        x = y
    bias = torch.tensor(np.asarray(head['bias'], np.float64))
    return F.conv2d(x, as_torch(head['kernel']), bias), tensors


@pytest.mark.parametrize('forms', ['fast', 'naive'])
def test_images_and_gradients_are_those_of_torch(forms):
    rng = np.random.default_rng(0)
    net = CRN(width=1 / 64, split_at=SPLIT, drop_ratio=RATIO, norm_epsilon=EPSILON, forms=forms)
    condition = rng.normal(size=(2, 16, 32, 5)).astype(np.float32)
    codes = rng.uniform(size=(2, *net.code_shape(16, 32))).astype(np.float32)
    params = jax.jit(net.init)(jax.random.key(0), condition, codes)['params']
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype('f'), params)

    def loss(params):
        image = net.apply({'params': params}, condition, codes)['image'][:, 1]
        return (image**2).mean(), image

    (_, image), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    inputs = torch.tensor(condition.astype(np.float64).transpose(0, 3, 1, 2))
    expected, tensors = twin(params, inputs, codes[1])
    (expected**2).mean().backward()
    theirs = expected.detach().numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(image, theirs, rtol=1e-3, atol=1e-3)
    for (i, k, leaf), tensor in tensors.items():
        part = gradients['f1' if i < SPLIT else 'f2'][f'module_{i}']
        ours = part[f'conv_{k}' if leaf == 'kernel' else f'norm_{k}'][leaf]
        wanted = tensor.grad.numpy()
        wanted = wanted.transpose(2, 3, 1, 0) if leaf == 'kernel' else wanted
        assert np.abs(ours - wanted).max() < 1e-3 * np.abs(wanted).max(), (i, k, leaf)
