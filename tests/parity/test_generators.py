"""Generators, discriminator and perceptual loss against torch twins: equal weights, equal results.

These tests are skipped without torch, see test_torch.py. The twins are written from the papers and
the description of the released code, with torch's own layers. Where the release overwrites the
input of a residual block by its ReLU, the twin also does. All numbers are float64, except the
statistics of instance norms and the outputs of our nets, which are float32.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from segjax import models  # noqa: E402
from segjax.losses import adversarial, perceptual  # noqa: E402
from segjax.models.backbones.vgg import VGG19Features  # noqa: E402
from segjax.models.generators import multiscale  # noqa: E402

WIDTH = 1 / 8
LEAVES = {
    'weight': ('params', 'kernel'),
    'bias': ('params', 'bias'),
    'scale': ('params', 'scale'),
    'running_mean': ('batch_stats', 'mean'),
    'running_var': ('batch_stats', 'var'),
}


@pytest.fixture(autouse=True, scope='module')
def exact_and_quick_to_compile():
    with jax.enable_x64(True):
        before = jax.config.read('jax_disable_most_optimizations')
        jax.config.update('jax_disable_most_optimizations', True)
        yield
        jax.config.update('jax_disable_most_optimizations', before)


# --- twins ----------------------------------------------------------------------------------------


def norm(kind, channels):
    return nn.BatchNorm2d(channels) if kind == 'batch' else nn.InstanceNorm2d(channels)


class Down(nn.Module):
    def __init__(self, i, o, kind):
        super().__init__()
        self.shortcut_conv = nn.Conv2d(i, o, 1, stride=2)
        self.shortcut_norm = norm(kind, o)
        self.deep_conv = nn.Conv2d(i, o, 4, stride=2, padding=1)
        self.deep_norm = norm(kind, o)

    def forward(self, x):
        deep = self.deep_norm(self.deep_conv(F.relu_(x)))  # overwrites x
        return deep + self.shortcut_norm(self.shortcut_conv(x))


class Up(nn.Module):
    def __init__(self, i, o, kind):
        super().__init__()
        self.shortcut_conv = nn.Conv2d(i, o, 1)
        self.shortcut_norm = norm(kind, o)
        self.deep_conv = nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)
        self.deep_norm = norm(kind, o)

    def forward(self, x):
        deep = self.deep_norm(self.deep_conv(F.relu_(x)))  # overwrites x
        shortcut = self.shortcut_norm(self.shortcut_conv(x))
        return deep + F.interpolate(shortcut, scale_factor=2, mode='bilinear', align_corners=True)


class Residual(nn.Module):
    def __init__(self, c, kind):
        super().__init__()
        self.conv_0 = nn.Conv2d(c, c, 3)
        self.norm_0 = norm(kind, c)
        self.conv_1 = nn.Conv2d(c, c, 3)
        self.norm_1 = norm(kind, c)
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x):
        y = F.relu(self.norm_0(self.conv_0(self.pad(x))))
        return x + self.norm_1(self.conv_1(self.pad(y)))


class Dilated(nn.Module):
    def __init__(self, c, dilation, kind):
        super().__init__()
        layer = functools.partial(nn.Conv2d, c, c, 3, padding=dilation, dilation=dilation)
        self.conv_0 = layer(bias=False)
        self.norm_0 = norm(kind, c)
        self.conv_1 = layer(bias=False)
        self.norm_1 = norm(kind, c)

    def forward(self, x):
        y = F.relu(self.norm_0(self.conv_0(x)))
        return F.relu(x + self.norm_1(self.conv_1(y)))


class TwoStream(nn.Module):
    def __init__(self, classes, channels, last, kind, dilated):
        super().__init__()
        a, b, c, d = channels
        self.stem_conv = nn.Conv2d(2 * classes, a, 7, stride=2, padding=3)
        self.stem_norm = norm(kind, a)
        for i, (n, m) in enumerate([(a, b), (b, c), (c, d)]):
            self.add_module(f'down_{i}', Down(n, m, kind))
        self.dilated = [f'dilated_{i}' for i in range(2 * dilated)]
        for name, dilation in zip(self.dilated, (2, 4)):
            self.add_module(name, Dilated(d, dilation, kind))
        for i in range(3):
            self.add_module(f'latent_{i}', Residual(d, kind))
        for stream, sizes in {
            'context': [(d, c), (2 * c, b), (2 * b, a), (2 * a, last)],
            'object': [(d, c), (c, b), (b, a), (a, last)],
        }.items():
            for i in range(3):
                self.add_module(f'{stream}_latent_{i}', Residual(d, kind))
            for i, (n, m) in enumerate(sizes):
                self.add_module(f'{stream}_up_{i}', Up(n, m, kind))
            outputs = classes if stream == 'context' else 1
            self.add_module(f'{stream}_head', nn.Conv2d(last, outputs, 3, padding=1))

    def forward(self, x):
        # A ReLU whose result may be overwritten.
        stem = torch.clamp(self.stem_norm(self.stem_conv(x)), min=0)
        half = self.down_0(stem)
        quarter = self.down_1(half)
        x = self.down_2(quarter)
        for name in [*self.dilated, *(f'latent_{i}' for i in range(3))]:
            x = self.get_submodule(name)(x)
        results = []
        for stream in ('context', 'object'):
            y = x
            for i in range(3):
                y = self.get_submodule(f'{stream}_latent_{i}')(y)
            for i, skip in enumerate([None, quarter, half, stem]):
                if stream == 'context' and i > 0:
                    y = torch.cat([skip, y], 1)
                y = self.get_submodule(f'{stream}_up_{i}')(y)
            results.append(self.get_submodule(f'{stream}_head')(y))
        return results


class ConvNorm(nn.Module):
    def __init__(self, conv, channels, kind):
        super().__init__()
        self.conv = conv
        self.norm = norm(kind, channels)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    def __init__(self, inputs, features, halvings, kind):
        super().__init__()
        self.halvings = halvings
        self.stem = ConvNorm(nn.Conv2d(inputs, features, 7), features, kind)
        for i in range(1, halvings + 1):
            n = features * 2**i
            self.add_module(
                f'half_{i}', ConvNorm(nn.Conv2d(n // 2, n, 3, stride=2, padding=1), n, kind)
            )

    def forward(self, x):
        maps = [self.stem(F.pad(x, (3, 3, 3, 3), mode='reflect'))]
        for i in range(1, self.halvings + 1):
            maps.append(self.get_submodule(f'half_{i}')(maps[-1]))
        return maps


class Decoder(nn.Module):
    def __init__(self, features, doublings, kind, with_skips=False):
        super().__init__()
        self.doublings = doublings
        for i in range(doublings):
            n = features * 2 ** (doublings - i)
            layer = nn.ConvTranspose2d(
                2 * n if with_skips and i else n, n // 2, 3, stride=2, padding=1, output_padding=1
            )
            self.add_module(f'double_{i}', ConvNorm(layer, n // 2, kind))

    def forward(self, x, skips=()):
        for i in range(self.doublings):
            if skips and i:
                x = torch.cat([skips[i - 1], x], 1)
            x = self.get_submodule(f'double_{i}')(x)
        return x


class Head(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv = nn.Conv2d(features, 3, 7)

    def forward(self, x):
        return torch.tanh(self.conv(F.pad(x, (3, 3, 3, 3), mode='reflect')))


class Trunk(nn.Module):
    def __init__(self, inputs, features, halvings, blocks, kind):
        super().__init__()
        self.encoder = Encoder(inputs, features, halvings, kind)
        for i in range(blocks):
            self.add_module(f'block_{i}', Residual(features * 2**halvings, kind))
        self.decoder = Decoder(features, halvings, kind)
        self.blocks = blocks

    def forward(self, x):
        x = self.encoder(x)[-1]
        for i in range(self.blocks):
            x = self.get_submodule(f'block_{i}')(x)
        return self.decoder(x)


class Global(nn.Module):
    def __init__(self, inputs, features, halvings, blocks, kind):
        super().__init__()
        self.trunk = Trunk(inputs, features, halvings, blocks, kind)
        self.head = Head(features)

    def forward(self, x):
        return [self.head(self.trunk(x))]


class Local(nn.Module):
    def __init__(self, inputs, features, halvings, blocks, local_blocks, kind):
        super().__init__()
        self.trunk = Trunk(inputs, features, halvings, blocks, kind)
        half = features // 2
        self.local_encoder = Encoder(inputs, half, 0, kind)
        self.local_half = ConvNorm(
            nn.Conv2d(half, features, 3, stride=2, padding=1), features, kind
        )
        for i in range(local_blocks):
            self.add_module(f'local_block_{i}', Residual(features, kind))
        self.local_decoder = Decoder(half, 1, kind)
        self.head = Head(half)
        self.local_blocks = local_blocks
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x):
        y = self.local_half(self.local_encoder(x)[0]) + self.trunk(self.pool(x))
        for i in range(self.local_blocks):
            y = self.get_submodule(f'local_block_{i}')(y)
        return [self.head(self.local_decoder(y))]


class Painter(nn.Module):
    def __init__(self, classes, features, halvings, blocks, kind):
        super().__init__()
        self.image_encoder = Encoder(3, features, halvings, kind)
        self.layout_encoder = Encoder(classes, features, halvings, kind)
        for i in range(blocks):
            self.add_module(f'block_{i}', Residual(features * 2**halvings, kind))
        self.decoder = Decoder(features, halvings, kind, with_skips=True)
        self.head = Head(features)
        self.blocks = blocks
        self.pool = nn.MaxPool2d(2**halvings)

    def forward(self, image, layout, mask):
        outside = image * (1 - mask)
        maps = self.image_encoder(outside)
        inside = self.pool(mask)
        x = (1 - inside) * maps[-1] + inside * self.layout_encoder(layout)[-1]
        for i in range(self.blocks):
            x = self.get_submodule(f'block_{i}')(x)
        painted = self.head(self.decoder(x, maps[-2:0:-1]))
        return [(1 - mask) * outside + mask * painted]


class Patches(nn.Module):
    def __init__(self, inputs, features, kind, padding=2, norm_bias=True):
        super().__init__()
        sizes = [inputs, features, 2 * features, 4 * features, 8 * features, 1]
        for i, (n, m) in enumerate(itertools.pairwise(sizes)):
            is_normed = 0 < i < 4
            layer = functools.partial(nn.Conv2d, n, m, 4, stride=2 if i < 3 else 1)
            self.add_module(f'conv_{i}', layer(padding=padding, bias=norm_bias or not is_normed))
            if is_normed:
                self.add_module(f'norm_{i}', norm(kind, m))

    def forward(self, x):
        maps = []
        for i in range(5):
            x = self.get_submodule(f'conv_{i}')(x)
            if 0 < i < 4:
                x = self.get_submodule(f'norm_{i}')(x)
            if i < 4:
                x = F.leaky_relu(x, 0.2)
            maps.append(x)
        return maps


class Multiscale(nn.Module):
    def __init__(self, inputs, features, kind):
        super().__init__()
        self.scale_0 = Patches(inputs, features, kind)
        self.scale_1 = Patches(inputs, features, kind)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x, gate):
        x = x * gate
        return [*self.scale_0(x), *self.scale_1(self.pool(x))]


class AtrousPooling(nn.Module):
    def __init__(self, i, o, kind):
        super().__init__()
        for d in (1, 2, 4):
            self.add_module(f'dilated_{d}', nn.Conv2d(i, o, 3, padding=d, dilation=d))
        self.stride = nn.Conv2d(3 * o, o, 3, stride=2, padding=1)
        self.norm = norm(kind, o)

    def forward(self, x):
        x = torch.cat([self.get_submodule(f'dilated_{d}')(x) for d in (1, 2, 4)], 1)
        return F.leaky_relu(self.norm(self.stride(x)), 0.2)


def layout_encoder(sizes, kind):
    """Returns the blocks of these channels, which are named as ours."""
    blocks = nn.Sequential()
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        blocks.add_module(f'block_{i}', AtrousPooling(n, m, kind))
    return blocks


class LayoutDiscriminator(nn.Module):
    def __init__(self, sizes, channels, widths, kind):
        super().__init__()
        self.layout = layout_encoder(sizes, kind)
        self.scales = [f'scale_{i}' for i in range(len(widths))]
        for name, features in zip(self.scales, widths):
            self.add_module(name, Patches(sizes[-1] + channels, features, kind, padding=1))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, layout, features):
        x = torch.cat([self.layout(layout), features], 1)
        maps = []
        for i, name in enumerate(self.scales):
            x = self.pool(x) if i else x
            maps += self.get_submodule(name)(x)
        return maps


class FeatureUNet(nn.Module):
    """Encoder of the layout, and the U-Net of BicycleGAN on maps with repeated borders."""

    def __init__(self, sizes, outputs, code, depth, features, kind):
        super().__init__()
        self.layout = layout_encoder(sizes, kind)
        fields = dict(bias=True, skip_first=False, outputs=outputs, last=nn.Identity())
        unet = UNet(sizes[-1], code, depth, features, kind, **fields)
        self.levels = unet.levels
        self.unet = [unet]

    def forward(self, layout, code):
        x = self.layout(layout)
        height, width = x.shape[2:]
        multiple = 2 ** self.unet[0].depth
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode='replicate')
        return [y[..., :height, :width] for y in self.unet[0](x, code)]


class UNet(nn.Module):
    """U-Net with a code at every level, or without (pix2pix). `levels` holds all layers."""

    def __init__(
        self,
        inputs,
        code,
        depth,
        features,
        kind,
        bias,
        skip_first,
        bilinear=False,
        outputs=3,
        last=None,
    ):
        super().__init__()
        self.last = last or nn.Tanh()
        channels = [features * min(2**i, 8) for i in range(depth)]
        self.levels = nn.Module()
        self.depth, self.skip_first, self.bilinear = depth, skip_first, bilinear
        for i in range(depth):
            n = (inputs if i == 0 else channels[i - 1]) + code
            conv = nn.Conv2d(n, channels[i], 4, stride=2, padding=1, bias=bias)
            self.levels.add_module(f'down_{i}', conv)
            if 0 < i < depth - 1:
                self.levels.add_module(f'down_norm_{i}', norm(kind, channels[i]))
            n = channels[i] if i == depth - 1 else 2 * channels[i]
            m = channels[i - 1] if i else outputs
            if bilinear:
                layer = nn.Module()
                layer.conv = nn.Conv2d(n, m, 3, bias=bias or i == 0)
            else:
                layer = nn.ConvTranspose2d(n, m, 4, stride=2, padding=1, bias=bias or i == 0)
            self.levels.add_module(f'up_{i}', layer)
            if i:
                self.levels.add_module(f'up_norm_{i}', norm(kind, m))

    def up(self, x, i):
        layer = self.levels.get_submodule(f'up_{i}')
        if not self.bilinear:
            return layer(x)
        x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        return layer.conv(F.pad(x, (1, 1, 1, 1), mode='reflect'))

    def level(self, x, i, code):
        if code is not None:
            planes = code[:, :, None, None].expand(*code.shape, *x.shape[2:])
            x = torch.cat([x, planes], 1)
        y = x if i == 0 else F.leaky_relu(x, 0.2)
        y = self.levels.get_submodule(f'down_{i}')(y)
        if i < self.depth - 1:
            if i:
                y = self.levels.get_submodule(f'down_norm_{i}')(y)
            inner = self.level(y, i + 1, code)
            y = torch.cat([y, inner] if self.skip_first else [inner, y], 1)
        y = self.up(F.relu(y), i)
        return self.levels.get_submodule(f'up_norm_{i}')(y) if i else self.last(y)

    def forward(self, x, code=None):
        return [self.level(x, 0, code)]


class Heads(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.mean = nn.Linear(features, 5)
        self.log_variance = nn.Linear(features, 5)

    def forward(self, x):
        x = x.flatten(1)
        return [self.log_variance(x), self.mean(x)]


class EncoderBlock(nn.Module):
    def __init__(self, i, o, kind):
        super().__init__()
        self.norm_0 = norm(kind, i)
        self.conv_0 = nn.Conv2d(i, i, 3, padding=1)
        self.norm_1 = norm(kind, i)
        self.conv_1 = nn.Conv2d(i, o, 3, padding=1)
        self.shortcut = nn.Conv2d(i, o, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        y = self.conv_0(F.leaky_relu(self.norm_0(x), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(y), 0.2))
        return self.pool(y) + self.shortcut(self.pool(x))


class ResNetEncoder(nn.Module):
    def __init__(self, features, blocks, kind):
        super().__init__()
        self.stem = nn.Conv2d(3, features, 4, stride=2, padding=1)
        sizes = [features * min(i + 1, 4) for i in range(blocks + 1)]
        self.blocks = [f'block_{i}' for i in range(blocks)]
        for name, (i, o) in zip(self.blocks, itertools.pairwise(sizes)):
            self.add_module(name, EncoderBlock(i, o, kind))
        self.pool = nn.AvgPool2d(8)
        self.heads = Heads(sizes[-1])

    def forward(self, x):
        x = self.stem(x)
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return self.heads(self.pool(F.leaky_relu(x, 0.2)))


class ConvEncoder(nn.Module):
    def __init__(self, features, layers, kind):
        super().__init__()
        sizes = [3, *(features * min(2**i, 4) for i in range(layers))]
        self.layers = layers
        for i, (n, m) in enumerate(itertools.pairwise(sizes)):
            self.add_module(f'conv_{i}', nn.Conv2d(n, m, 4, stride=2, padding=1))
            if i:
                self.add_module(f'norm_{i}', norm(kind, m))
        self.pool = nn.AvgPool2d(8)
        self.heads = Heads(sizes[-1])

    def forward(self, x):
        for i in range(self.layers):
            x = self.get_submodule(f'conv_{i}')(x)
            if i:
                x = self.get_submodule(f'norm_{i}')(x)
            x = F.leaky_relu(x, 0.2)
        return self.heads(self.pool(x))


# --- comparison -----------------------------------------------------------------------------------


def our_tree(module, of=lambda tensor: tensor):
    """Returns {'params': .., 'batch_stats': ..} of a twin, whose names are those of our nets."""
    tree = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        owner, _, leaf = name.rpartition('.')
        layer = module.get_submodule(owner)
        if leaf == 'num_batches_tracked' or of(tensor) is None:
            continue
        if leaf == 'weight' and isinstance(layer, nn.BatchNorm2d):
            leaf = 'scale'
        array = of(tensor).detach().numpy().copy()
        if array.ndim == 2:
            array = array.T
        if array.ndim == 4:
            is_transposed = isinstance(layer, nn.ConvTranspose2d)
            array = array.transpose((2, 3, 0, 1) if is_transposed else (2, 3, 1, 0))
        collection, new = LEAVES[leaf]
        tree[(collection, *owner.split('.'), new)] = array
    return unflatten_dict(tree)


def randomise(module):
    """Sets random float64 parameters that keep the scale of activations."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    for layer in module.modules():
        for name, tensor in [*layer.named_parameters(recurse=False)]:
            number = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            if isinstance(layer, nn.BatchNorm2d):
                low, high = (0.5, 1.5) if name == 'weight' else (-0.2, 0.2)
            else:
                fan = tensor[0].numel() if name == 'weight' else 24
                low, high = -((6 / fan) ** 0.5), (6 / fan) ** 0.5
            with torch.no_grad():
                tensor.copy_(low + (high - low) * number)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module


def to_torch(x):
    return torch.tensor(x).movedim(-1, 1)


def difference(ours, theirs):
    """Returns the largest difference of two trees, relative to the largest value of each array.

    Arrays that are 0 up to rounding, as gradients of biases in front of an instance norm, are
    compared with the largest value of the tree.
    """
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(theirs))
    worst = 0.0
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        size = np.abs(y).max()
        scale = size if size > 1e-9 * largest else largest
        worst = max(worst, np.abs(np.asarray(x) - y).max() / scale)
    return worst


def check(label, net, twin, *inputs):
    """Compares outputs in both modes, and gradients and running means in training."""
    randomise(twin)
    variables = our_tree(twin)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, train=False))
    chex.assert_trees_all_equal_shapes(variables, dict(shapes))
    arrays = [to_torch(x) for x in inputs]

    twin.eval()
    with torch.no_grad():
        expected = [y.movedim(1, -1).numpy() for y in twin(*[x.clone() for x in arrays])]
    outputs = jax.jit(lambda v: net.apply(v, *inputs, train=False))(variables)
    figures = {'evaluation': difference(jax.tree.leaves(outputs), expected)}

    twin.train()
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(y.shape) / y.size**0.5 for y in expected]
    outputs = [y.movedim(1, -1) for y in twin(*[x.clone() for x in arrays])]
    sum((y * torch.tensor(w)).sum() for y, w in zip(outputs, weights)).backward()
    expected = [y.detach().numpy() for y in outputs]

    def loss(params):
        outputs, updates = net.apply(
            {**variables, 'params': params}, *inputs, train=True, mutable=['batch_stats']
        )
        outputs = jax.tree.leaves(outputs)
        return sum((y * w).sum() for y, w in zip(outputs, weights)), (outputs, updates)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, (outputs, updates)), gradients = step(variables['params'])
    figures['training'] = difference(outputs, expected)
    theirs = our_tree(twin, lambda tensor: tensor.grad)['params']
    figures['gradients'] = difference(gradients, theirs)
    if 'batch_stats' in variables:
        figures['running means'] = difference(
            only_means(updates['batch_stats']), only_means(our_tree(twin)['batch_stats'])
        )
    print(f'\n{label}: ' + ', '.join(f'{key} {value:.1e}' for key, value in figures.items()))
    assert max(figures.values()) < 5e-5, figures


def only_means(statistics):
    """Drops the variances: torch stores the unbiased variance."""
    paths = jax.tree_util.tree_leaves_with_path(statistics)
    return [np.asarray(x) for path, x in paths if path[-1].key == 'mean']


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def box(height, width):
    mask = np.zeros((2, height, width, 1))
    mask[0, 8:29, 5:24] = 1
    mask[1, 3:17, 10:31] = 1
    return mask


def build(kind, name, **fields):
    """Returns a narrow net that computes in float64."""
    return models.build(
        kind, name, **{'dtype': 'float64', 'axis_name': None, 'width': WIDTH, **fields}
    )


@pytest.mark.parametrize('kind, dilated', [('batch', False), ('instance', True)])
def test_two_stream(kind, dilated):
    net = build('generator', 'two_stream', out_channels=5, norm=kind, dilated=dilated)
    twin = TwoStream(5, (8, 12, 16, 32), 4, kind, dilated)
    check(f'two_stream {kind}', net, twin, normal(2, 48, 64, 10))


def test_pix2pixhd_global():
    net = build('generator', 'pix2pixhd_global', out_channels=3, halvings=3, blocks=2)
    check('global', net, Global(6, 8, 3, 2, 'instance'), normal(2, 32, 48, 6))


@pytest.mark.parametrize('kind', ['instance', 'batch'])
def test_pix2pixhd_local(kind):
    fields = dict(out_channels=3, halvings=2, blocks=1, local_blocks=2, norm=kind)
    net = build('generator', 'pix2pixhd_local', **fields)
    check(f'local {kind}', net, Local(6, 8, 2, 1, 2, kind), normal(2, 32, 48, 6))


def test_mask_to_image():
    net = build('generator', 'mask_to_image', out_channels=3, halvings=3, blocks=2)
    inputs = normal(2, 32, 48, 3), normal(2, 32, 48, 5), box(32, 48)
    check('mask_to_image', net, Painter(5, 8, 3, 2, 'instance'), *inputs)


class Gated:
    """Passes the gate as the second input."""

    def __init__(self, net):
        self.net = net

    def init(self, key, x, gate, train):
        return self.net.init(key, x, train, gate)

    def apply(self, variables, x, gate, train, **args):
        return self.net.apply(variables, x, train, gate, **args)


@pytest.mark.parametrize('kind', ['instance', 'batch'])
def test_multiscale_discriminator(kind):
    net = Gated(build('discriminator', 'multiscale', norm=kind))
    check(f'multiscale {kind}', net, Multiscale(7, 8, kind), normal(2, 48, 40, 7), box(48, 40))


class Pyramid(nn.Module):
    """Discriminator of BicycleGAN, or with a single scale of pix2pix."""

    def __init__(self, inputs, widths, kind, norm_bias):
        super().__init__()
        self.scales = [f'scale_{i}' for i in range(len(widths))]
        for name, features in zip(self.scales, widths):
            self.add_module(name, Patches(inputs, features, kind, 1, norm_bias))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, x):
        maps = []
        for i, name in enumerate(self.scales):
            x = self.pool(x) if i else x
            maps += self.get_submodule(name)(x)
        return maps


@pytest.mark.parametrize(
    'fields, twin',
    [
        (multiscale.BICYCLE_FIELDS, Pyramid(3, (8, 4), 'instance', True)),
        (multiscale.PIX2PIX_FIELDS, Pyramid(3, (8,), 'batch', False)),
    ],
    ids=['bicycle', 'pix2pix'],
)
def test_patchgans_of_bicycle_and_pix2pix(fields, twin):
    check('patchgan', build('discriminator', 'multiscale', **fields), twin, normal(2, 64, 48, 3))


@pytest.mark.parametrize('kind', ['batch', 'instance'])
def test_unet_of_pix2pix(kind):
    net = build('generator', 'unet', out_channels=3, num_downs=6, norm=kind)
    twin = UNet(4, 0, 6, 8, kind, bias=kind == 'instance', skip_first=True)
    check(f'unet {kind}', net, twin, normal(2, 64, 128, 4))


@pytest.mark.parametrize('kind, upsample', [('instance', 'transposed'), ('batch', 'bilinear')])
def test_latent_unet(kind, upsample):
    net = build(
        'generator', 'latent_unet', out_channels=3, num_downs=5, norm=kind, upsample=upsample
    )
    is_bilinear = upsample == 'bilinear'
    twin = UNet(4, 8, 5, 8, kind, bias=True, skip_first=False, bilinear=is_bilinear)
    size = (64, 96) if is_bilinear else (96, 32)
    check(f'latent_unet {kind}', net, twin, normal(2, *size, 4), normal(2, 8))


@pytest.mark.parametrize('kind', ['instance', 'batch'])
def test_feature_unet(kind):
    fields = dict(
        out_channels=7, stride=4, num_downs=3, layout_features=32, layout_norm=kind, norm=kind
    )
    net = build('generator', 'feature_unet', **fields)
    twin = FeatureUNet((5, 4, 8), 7, 6, 3, 8, kind)
    check(f'feature_unet {kind}', net, twin, normal(2, 65, 90, 5), normal(2, 6))


@pytest.mark.parametrize('kind', ['instance', 'batch'])
def test_layout_discriminator(kind):
    fields = dict(stride=4, num_layers=3, layout_features=32, layout_norm=kind, norm=kind)
    net = build('discriminator', 'layout_discriminator', **fields)
    twin = LayoutDiscriminator((5, 4, 8), 7, (8, 4), kind)
    inputs = normal(2, 193, 190, 5), normal(2, 49, 48, 7)
    check(f'layout_discriminator {kind}', net, twin, *inputs)


@pytest.mark.parametrize('kind', ['instance', 'batch'])
def test_encoders(kind):
    net = build('encoder', 'resnet_encoder', code_size=5, blocks=2, norm=kind)
    check(f'resnet encoder {kind}', net, ResNetEncoder(8, 2, kind), normal(2, 64, 64, 3))
    net = build('encoder', 'conv_encoder', code_size=5, num_layers=4, norm=kind)
    check(f'conv encoder {kind}', net, ConvEncoder(8, 4, kind), normal(2, 128, 128, 3))


def test_losses_of_the_discriminator():
    rng = np.random.default_rng(0)
    sizes = [[(9, 9, 8), (5, 5, 16), (6, 6, 1)], [(5, 5, 8), (3, 3, 16), (4, 4, 1)]]
    generated, real = (
        [[rng.standard_normal((2, *size)) for size in scale] for scale in sizes] for _ in range(2)
    )
    matching = adversarial_sum = 0.0
    for ours, theirs in zip(generated, real):
        adversarial_sum += F.mse_loss(torch.tensor(ours[-1]), torch.ones(ours[-1].shape).double())
        for x, y in zip(ours[:-1], theirs[:-1]):
            matching += 4 / 2 * 1 / 2 * F.l1_loss(torch.tensor(x), torch.tensor(y))
    got = perceptual.feature_matching(generated, real, np.ones(2)).value()
    np.testing.assert_allclose(got, matching, rtol=1e-6)
    logits = [scale[-1] for scale in generated]
    logistic = sum(
        F.binary_cross_entropy_with_logits(torch.tensor(x), torch.ones(x.shape).double())
        for x in logits
    )
    got = adversarial.logistic_of_scales(logits, 1.0, np.ones(2)).value()
    np.testing.assert_allclose(got, logistic, rtol=1e-6)
    got = adversarial.least_squares_of_scales(logits, 1.0, np.ones(2)).value()
    np.testing.assert_allclose(got, adversarial_sum, rtol=1e-6)


# --- perceptual loss ------------------------------------------------------------------------------

SLICES = (2, 7, 12, 21, 30)
"""Ends of the parts of torchvision's `features` whose outputs are compared."""
CONFIG = (8, 8, 'M', 16, 16, 'M', *(4 * [32]), 'M', *(4 * [64]), 'M', *(4 * [64]))


def narrow_vgg19():
    """Returns the layers of torchvision's `features` of VGG19, an eighth as wide."""
    layers = []
    channels = 3
    for entry in CONFIG:
        if entry == 'M':
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
        channels = entry
    return randomise(nn.Sequential(*layers))


def test_perceptual_loss():
    vgg = narrow_vgg19()
    convs = [layer for layer in vgg if isinstance(layer, nn.Conv2d)]
    names = [f'conv{i}_{j}' for i, n in enumerate((2, 2, 4, 4, 1), 1) for j in range(1, n + 1)]
    params = {
        name: {
            'kernel': conv.weight.detach().numpy().transpose(2, 3, 1, 0),
            'bias': conv.bias.detach().numpy(),
        }
        for name, conv in zip(names, convs)
    }
    net = VGG19Features(width=WIDTH, dtype=jnp.float64)
    prediction, target = np.tanh(normal(2, 2, 32, 48, 3))

    @jax.value_and_grad
    def loss(prediction):
        features = [net.apply({'params': {'vgg': params}}, x) for x in (prediction, target)]
        return perceptual.vgg_l1(*features, np.ones(2)).value()

    value, gradient = jax.jit(loss)(prediction)
    ours = to_torch(prediction).requires_grad_()
    expected = 0.0
    for end, factor in zip(SLICES, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)):
        part = vgg[:end]
        expected = expected + factor * F.l1_loss(part(ours), part(to_torch(target)).detach())
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    assert difference([gradient], [ours.grad.movedim(1, -1).numpy()]) < 1e-5
