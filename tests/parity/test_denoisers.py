"""Denoisers of maps against torch twins: equal weights, maps and gradients in float64.

The twins are written from the papers, with the names of the releases. These tests are skipped
without torch, see test_torch.py.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from segjax import models

torch = pytest.importorskip('torch')
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

K = 5
WIDTH = 1 / 8


@pytest.fixture(autouse=True, scope='module')
def exact():
    with jax.enable_x64(True):
        yield


# --- twins ----------------------------------------------------------------------------------------


def conv(i, o, k=3, dilation=1, **args):
    return nn.Conv2d(i, o, k, padding=dilation * (k // 2), dilation=dilation, **args)


class ADNetTwin(nn.Module):
    def __init__(self, n=8):
        super().__init__()
        for layer in range(1, 16):
            dilation = 2 if layer in (2, 5, 9, 12) else 1
            first = conv(K if layer == 1 else n, n, dilation=dilation, bias=False)
            self.add_module(f'conv1_{layer}', nn.Sequential(first, nn.BatchNorm2d(n), nn.ReLU()))
        self.conv1_16 = conv(n, K, bias=False)
        self.conv3 = conv(2 * K, K, 1)

    def forward(self, x):
        y = x
        for layer in range(1, 17):
            y = getattr(self, f'conv1_{layer}')(y)
        return x - self.conv3(torch.tanh(torch.cat([x, y], 1))) * y


class UNetBlock(nn.Module):
    def __init__(self, i, o, down):
        super().__init__()
        self.block = nn.Sequential(conv(i, o), nn.LeakyReLU(0.2), conv(o, o), nn.LeakyReLU(0.2))
        self.downsample = nn.Conv2d(o, o, 4, 2, 1, bias=False) if down else None

    def forward(self, x):
        return self.block(x)


class UNetUp(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.up = nn.ConvTranspose2d(i, o, 2, 2)
        self.conv_block = UNetBlock(i, o, False)

    def forward(self, x, skip):
        return self.conv_block(torch.cat([self.up(x), skip], 1))


class UNetDTwin(nn.Module):
    def __init__(self, n=4, depth=5):
        super().__init__()
        sizes = [n * 2**i for i in range(depth)]
        inputs = [K, *sizes]
        self.down_path = nn.ModuleList(
            UNetBlock(inputs[i], sizes[i], i + 1 < depth) for i in range(depth)
        )
        self.up_path = nn.ModuleList(UNetUp(2 * o, o) for o in reversed(sizes[:-1]))
        self.last = conv(n, K)

    def forward(self, maps):
        x = maps
        skips = []
        for block in self.down_path:
            x = block(x)
            if block.downsample is not None:
                skips.append(x)
                x = block.downsample(x)
        for up in self.up_path:
            x = up(x, skips.pop())
        return maps - self.last(x)


class Sequence(nn.Module):
    """Layers under the name `body`, and a function of (input, output)."""

    def __init__(self, *layers, end=lambda x, y: y):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.end = end

    def forward(self, x):
        return self.end(x, self.body(x))


class MergeTwin(nn.Module):
    def __init__(self, n):
        super().__init__()

        def branch(a, b):
            return nn.Sequential(conv(n, n, 3, a), nn.ReLU(), conv(n, n, 3, b), nn.ReLU())

        self.body1 = branch(1, 2)
        self.body2 = branch(3, 4)
        self.body3 = nn.Sequential(conv(2 * n, n), nn.ReLU())

    def forward(self, x):
        return self.body3(torch.cat([self.body1(x), self.body2(x)], 1)) + x


class AttentionTwin(nn.Module):
    def __init__(self, n, inner):
        super().__init__()
        self.c1 = Sequence(conv(n, inner, 1), nn.ReLU())
        self.c2 = Sequence(conv(inner, n, 1), nn.Sigmoid())

    def forward(self, x):
        return x * self.c2(self.c1(x.mean((2, 3), keepdim=True)))


class RIDNetTwin(nn.Module):
    def __init__(self, n=8):
        super().__init__()

        def residual(x, y):
            return F.relu(x + y)

        def block():
            parts = {
                'r1': MergeTwin(n),
                'r2': Sequence(conv(n, n), nn.ReLU(), conv(n, n), end=residual),
                'r3': Sequence(
                    conv(n, n), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n, 1), end=residual
                ),
                'ca': AttentionTwin(n, 1),
            }
            named = nn.Sequential()
            for name, part in parts.items():
                named.add_module(name, part)
            return named

        self.head = Sequence(conv(K, n), nn.ReLU())
        for i in range(1, 5):
            self.add_module(f'b{i}', block())
        self.tail = conv(n, K)

    def forward(self, x):
        y = self.head(x)
        for i in range(1, 5):
            y = getattr(self, f'b{i}')(y)
        return x + self.tail(y)


class FFDNetTwin(nn.Module):
    def __init__(self, n=12, num_layers=12, level=0.1):
        super().__init__()
        layers = [conv(4 * K + 1, n)]
        for _ in range(num_layers - 2):
            layers += [nn.ReLU(), conv(n, n)]
        self.model = nn.Sequential(*layers, nn.ReLU(), conv(n, 4 * K))
        self.level = level

    def forward(self, x):
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), mode='replicate')
        x = F.pixel_unshuffle(x, 2)
        level = torch.full_like(x[:, :1], self.level)
        x = self.model(torch.cat([x, level], 1))
        return F.pixel_shuffle(x, 2)[:, :, :height, :width]


# name -> (twin, size of the maps)
TWINS = {
    'adnet': (ADNetTwin, (9, 14)),
    'unetd': (UNetDTwin, (16, 32)),
    'ridnet': (RIDNetTwin, (9, 14)),
    'ffdnet': (FFDNetTwin, (9, 14)),
}

# --- weights --------------------------------------------------------------------------------------


def randomise(module):
    """Sets random float64 numbers everywhere, with kernels that keep the scale of activations."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.ndim == 4:
                limit = (6 / tensor[0].numel()) ** 0.5
                tensor.uniform_(-limit, limit, generator=generator)
            elif tensor.is_floating_point():
                is_positive = name.endswith('weight') or name.endswith('running_var')
                low = 0.5 if is_positive else -0.2
                tensor.uniform_(low, low + 0.7, generator=generator)
    return module


def interleaved(array, axis):
    """Moves an axis of 4 K channels, and a level, from (channel, pixel) to (pixel, channel)."""
    order = np.arange(4 * K).reshape(K, 4).T.ravel()
    rest = np.arange(4 * K, array.shape[axis])
    return np.take(array, np.concatenate([order, rest]), axis)


LEAVES = {
    'weight': ('params', 'scale'),
    'bias': ('params', 'bias'),
    'running_mean': ('batch_stats', 'mean'),
    'running_var': ('batch_stats', 'var'),
}


def our_tree(name, module, of):
    """Returns the variables of our net from a twin. of: tensor -> the tensor to return."""
    tree = {}
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for key, tensor in tensors:
        owner, _, leaf = key.rpartition('.')
        if leaf == 'num_batches_tracked' or of(tensor) is None:
            continue
        array = of(tensor).detach().numpy().copy()
        collection, new = LEAVES[leaf]
        if array.ndim == 4:
            new = 'kernel'
            is_transposed = isinstance(module.get_submodule(owner), nn.ConvTranspose2d)
            array = array.transpose((2, 3, 0, 1) if is_transposed else (2, 3, 1, 0))
        if name == 'ffdnet' and owner == 'model.0' and new == 'kernel':
            array = interleaved(array, 2)
        if name == 'ffdnet' and owner == 'model.22':
            array = interleaved(array, -1)
        tree[(collection, *our_path(owner), new)] = array
    return unflatten_dict(tree)


def our_path(owner):
    """Returns ('down_path_0', 'block_2') for 'down_path.0.block.2'."""
    parts = []
    for part in owner.split('.'):
        if part.isdigit():
            parts[-1] += f'_{part}'
        else:
            parts.append(part)
    return parts


# --- comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize('name', TWINS)
def test_a_denoiser_is_its_torch_twin(name):
    make, size = TWINS[name]
    twin = randomise(make())
    net = models.build('denoiser', name, dtype='float64', axis_name=None, width=WIDTH)
    maps = np.random.default_rng(0).standard_normal((2, *size, K))
    variables = our_tree(name, twin, lambda tensor: tensor)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.asarray(maps), train=False))
    chex.assert_trees_all_equal_shapes(variables, dict(shapes))
    image = torch.tensor(maps).permute(0, 3, 1, 2)

    # Evaluation, with the running statistics.
    twin.eval()
    expected = twin(image).detach().permute(0, 2, 3, 1).numpy()
    result = jax.jit(lambda v: net.apply(v, maps, train=False)['logits'])(variables)
    scale = np.abs(expected - maps).max()
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9 * scale)

    # Training, with a fixed random linear function of the result as loss.
    twin.train()
    weights = np.random.default_rng(1).standard_normal(maps.shape)
    result = twin(image)
    (result.permute(0, 2, 3, 1) * torch.tensor(weights)).sum().backward()

    @jax.jit
    def gradients(params):
        def loss(params):
            outputs, _ = net.apply(
                {**variables, 'params': params}, maps, train=True, mutable=['batch_stats']
            )
            return (outputs['logits'] * weights).sum()

        return jax.grad(loss)(params)

    computed = flatten_dict(gradients(variables['params']))
    expected = flatten_dict(our_tree(name, twin, lambda tensor: tensor.grad)['params'])
    assert computed.keys() == expected.keys()
    for path, gradient in expected.items():
        atol = 1e-8 * max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(computed[path], gradient, rtol=1e-8, atol=atol, err_msg=path)
