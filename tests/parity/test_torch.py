"""Whole nets against torchvision, timm and torch twins: equal weights, logits and gradients.

These tests are skipped without torch, which is no dependency of the project. To run them, make a
separate environment:

    python3.11 -m venv parity
    parity/bin/pip install torch jax flax ml_collections pytest scipy opencv-contrib-python-headless
    parity/bin/pip install --no-deps torchvision timm efficientnet_pytorch
    parity/bin/pip install safetensors pyyaml huggingface_hub
    parity/bin/python -m pytest tests/parity -s

All numbers are float64, so that a ReLU does not turn rounding into a difference. The backbones are
the real classes of torchvision and timm, dilated as in the releases. The parts on top are written
here from the papers. EfficientNets are whole nets of torchvision, timm and efficientnet_pytorch.
The names of the torch modules are those of the releases, so a test also shows that importing is a
renaming.
"""

import functools
import re
import sys
import types

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

torch = pytest.importorskip('torch')
# torchvision registers compiled operators at import. Some builds lack them, and the nets need none.
sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations')
)
torchvision = pytest.importorskip('torchvision')
timm = pytest.importorskip('timm')

import safetensors.torch as safetensors  # noqa: E402
import torchvision.models.efficientnet as tv_efficientnet  # noqa: E402
import torchvision.models.resnet as tv_resnet  # noqa: E402
import torchvision.models.vgg as tv_vgg  # noqa: E402
from timm.models import resnet as timm_resnet  # noqa: E402
from timm.models import xception_aligned as timm_xception  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from segjax import models, pretrained  # noqa: E402
from segjax.errors import InputError  # noqa: E402
from segjax.models.backbones import resnet as ours  # noqa: E402
from segjax.models.backbones import xception as our_xception  # noqa: E402
from segjax.models.backbones.efficientnet import VARIANTS, EfficientNet  # noqa: E402
from segjax.models.backbones.vgg import STAGES  # noqa: E402
from segjax.models.layers import batch_norm  # noqa: E402
from segjax.models.segmentation.bisenet import BiSeNet  # noqa: E402
from segjax.models.segmentation.deeplab import DeepLabLargeFOV, DeepLabV2  # noqa: E402
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus  # noqa: E402
from segjax.models.segmentation.fcn import FCN  # noqa: E402
from segjax.models.segmentation.pspnet import PSPNet  # noqa: E402
from segjax.pretrained.convert import places  # noqa: E402

LEAVES = {
    ('conv', 'weight'): ('params', 'kernel'),
    ('conv', 'bias'): ('params', 'bias'),
    ('norm', 'weight'): ('params', 'scale'),
    ('norm', 'bias'): ('params', 'bias'),
    ('norm', 'running_mean'): ('batch_stats', 'mean'),
    ('norm', 'running_var'): ('batch_stats', 'var'),
}
WIDTH = 1 / 8
ALIKE = ('efficientnet_timm', 'efficientnet_timm_tf')
"""Sources with equal names of tensors."""


@pytest.fixture(autouse=True, scope='module')
def exact_and_quick_to_compile():
    with jax.enable_x64(True):
        before = jax.config.read('jax_disable_most_optimizations')
        jax.config.update('jax_disable_most_optimizations', True)
        yield
        jax.config.update('jax_disable_most_optimizations', before)


# --- weights --------------------------------------------------------------------------------------


def our_path(name):
    """Returns ('cp', 'resnet', 'layer1_0', 'conv1') for 'cp.resnet.layer1.0.conv1'."""
    parts = []
    for part in name.split('.'):
        if part.isdigit():
            parts[-1] += f'_{part}'
        else:
            parts.append(part)
    return tuple(parts)


def our_array(tensor):
    array = tensor.detach().numpy().copy()  # torch's batch norms write into their buffers
    return array.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim])


def our_maps(maps):
    return [y.detach().movedim(1, -1).numpy() for y in maps]


def our_tree(module, of=lambda tensor: tensor, rename=lambda name: name):
    """Returns {'params': .., 'batch_stats': ..} of a torch module.

    Args:
      module: the torch module.
      of: parameter or statistic -> tensor to return in its place, e.g. its gradient.
      rename: name of a torch module -> name in the release.
    """
    tree = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        owner, _, leaf = name.rpartition('.')
        kind = 'conv' if isinstance(module.get_submodule(owner), nn.Conv2d | nn.Linear) else 'norm'
        if leaf != 'num_batches_tracked' and of(tensor) is not None:
            collection, new = LEAVES[kind, leaf]
            tree[(collection, *our_path(rename(owner)), new)] = our_array(of(tensor))
    return unflatten_dict(tree)


def randomise(module, seed=0):
    """Sets random float64 parameters, with kernels that keep the scale of activations.

    All arrays of batch norms are away from 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()

    def uniform(tensor, low, high):
        with torch.no_grad():
            tensor.copy_(
                torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low)
                + low
            )

    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            limit = (6 / child.weight[0].numel()) ** 0.5
            uniform(child.weight, -limit, limit)
        elif isinstance(child, nn.BatchNorm2d):
            uniform(child.weight, 0.5, 1.5)
            uniform(child.running_mean, -0.2, 0.2)
            uniform(child.running_var, 0.5, 1.5)
        if isinstance(child, nn.Conv2d | nn.Linear | nn.BatchNorm2d) and child.bias is not None:
            uniform(child.bias, -0.2, 0.2)
    return module


# --- comparison -----------------------------------------------------------------------------------


def difference(a, b):
    """Returns the largest relative difference of two trees.

    Differences are divided by the largest value of the array, and at least by 1e-3 of the largest
    value of the tree.
    """
    floor = 1e-3 * max(np.abs(x).max() for x in jax.tree.leaves(b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(np.abs(np.asarray(x) - y).max() / max(np.abs(y).max(), floor) for x, y in pairs)


def images(size, channels=3, batch=2):
    return np.random.default_rng(0).standard_normal((batch, *size, channels))


def check(label, net, twin, x, rename=lambda name: name, release=None):
    """Compares a net with its torch twin, and prints the largest differences.

    It compares outputs in both modes, and gradients and running means in training. The loss is a
    fixed random linear function of the outputs.

    Args:
      label: name for the print.
      net: net(x, train) returns a list of maps, or logits as nets do.
      twin: twin(x) returns a list of maps.
      x: [B, H, W, C].
      rename: name of a module of the twin -> name in the release.
      release: (source, module). The importer must find the same parameters in the module's
        state_dict.
    """
    variables = our_tree(twin, rename=rename)
    if release:
        check_importer(variables, *release)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    chex.assert_trees_all_equal_shapes(variables, dict(shapes))
    image = torch.tensor(x).permute(0, 3, 1, 2)

    twin.eval()
    expected = our_maps(twin(image))
    weights = [
        np.random.default_rng(i).standard_normal(y.shape) / y.size**0.5
        for i, y in enumerate(expected)
    ]
    outputs = jax.jit(lambda v: maps(net.apply(v, x, train=False)))(variables)
    figures = {'logits': difference(outputs, expected)}

    twin.train()
    outputs = twin(image)
    sum((y.movedim(1, -1) * torch.tensor(w)).sum() for y, w in zip(outputs, weights)).backward()
    expected = our_maps(outputs)
    outputs, updates, gradients = our_step(net, variables, x, weights)
    figures['logits in training'] = difference(outputs, expected)
    figures['gradients'] = difference(
        gradients, our_tree(twin, lambda tensor: tensor.grad, rename)['params']
    )
    if 'batch_stats' in variables:
        expected = our_tree(twin, rename=rename)['batch_stats']
        figures['running means'] = difference(means(updates['batch_stats']), means(expected))
    print(f'\n{label}: ' + ', '.join(f'{name} {value:.1e}' for name, value in figures.items()))
    assert max(figures.values()) < 1e-5, figures


def our_step(net, variables, x, weights):
    """Returns (outputs, updates, gradients) in training, for the loss sum(outputs * weights)."""

    @jax.jit
    def step(variables):
        def loss(params):
            outputs, updates = net.apply(
                {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
            )
            outputs = maps(outputs)
            total = sum((y * w).sum() for y, w in zip(outputs, weights))
            return total, (outputs, updates)

        return jax.value_and_grad(loss, has_aux=True)(variables['params'])

    (_, (outputs, updates)), gradients = step(variables)
    return outputs, updates, gradients


def test_a_pth_file_is_read_as_torch_wrote_it(tmp_path):
    """Writes a file as training scripts do: a dict, names from DataParallel, counters, bfloat16."""
    module = randomise(torchvision_resnet(18)).float()
    tensors = {f'module.{name}': tensor for name, tensor in module.state_dict().items()}
    tensors['module.conv1.weight'] = tensors['module.conv1.weight'].bfloat16()
    torch.save({'epoch': 3, 'state_dict': tensors}, tmp_path / 'net.pth.tar')
    loaded = pretrained.read(str(tmp_path / 'net.pth.tar'))
    assert loaded.keys() == module.state_dict().keys()
    assert pretrained.detect(loaded, 'net.pth.tar') == 'resnet'
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(
            loaded[name.removeprefix('module.')],
            tensor.float().numpy() if tensor.is_floating_point() else tensor,
        )
    safetensors.save_file({'w': tensors['module.conv1.weight']}, tmp_path / 'half.safetensors')
    np.testing.assert_array_equal(
        np.asarray(pretrained.read(str(tmp_path / 'half.safetensors'))['w'], np.float32),
        loaded['conv1.weight'],
    )
    (tmp_path / 'damaged.pth').write_bytes((tmp_path / 'net.pth.tar').read_bytes()[:1000])
    with pytest.raises(InputError, match=r'damaged\.pth'):
        pretrained.read(str(tmp_path / 'damaged.pth'))


@pytest.mark.parametrize(
    'make, key, count',
    [
        (torchvision.models.resnet18, 'resnet', 11_176_512),
        (torchvision.models.resnet101, 'resnet', 42_500_160),
        (torchvision.models.vgg16, 'vgg', 138_357_544),
        (timm_resnet.resnet50s, 'resnet', 23_631_808),
        (timm_xception.xception65, 'xception', 37_867_312),
        (timm_xception.xception71, 'xception', 40_289_736),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_whole_modules_have_a_place_for_every_tensor(make, key, count):
    """Imports modules of full size without weights. Only the classifier is unused."""
    with torch.device('meta'):
        shapes = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
    name, args = WHOLE[make.__name__]
    net = models.build('segmentation', name, num_classes=5, dtype='float32', axis_name=None, **args)
    variables = jax.eval_shape(
        lambda: net.lazy_init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    # Broadcast arrays need no memory.
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    assert pretrained.detect(tensors, 'module') == key
    tree, report = pretrained.import_weights(tensors, variables, pretrained.SOURCES[key])
    loaded = sum(array.size for array in jax.tree.leaves(tree['params']))
    unused = sum(np.prod(shapes[name]) for name in report.unused)
    assert all(name.startswith(('fc.', 'classifier.6.', 'head.fc.')) for name in report.unused)
    assert loaded + (unused if key == 'vgg' else 0) == count


WHOLE = {
    'resnet18': ('bisenet', {}),
    'resnet101': ('bisenet', dict(num_layers=101)),
    'vgg16': ('fcn', {}),
    'resnet50s': ('pspnet', {}),
    'xception65': ('deeplab_v3plus', dict(backbone='xception65')),
    'xception71': ('deeplab_v3plus', {}),
}


def check_importer(variables, key, module):
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    source = pretrained.SOURCES[key]
    assert pretrained.detect(tensors, 'twin', key if key in ALIKE else '') == key
    tree, report = pretrained.import_weights(tensors, variables, source)
    loaded, expected = flatten_dict(tree), flatten_dict(variables)
    classifier = {
        path for path in expected if re.fullmatch(source.classifier, '/'.join(path[1:-1]))
    }
    assert loaded.keys() == {path for path in expected if source.anchor in ('', *path)} | classifier
    for path, array in loaded.items():
        np.testing.assert_array_equal(array, expected[path])
    print(f'\n{key}: {len(loaded)} arrays imported, unused: {report.unused}')


def means(statistics):
    """Returns the running means only. torch's running variances are unbiased."""
    return {path: value for path, value in flatten_dict(statistics).items() if path[-1] == 'mean'}


def maps(outputs):
    """Returns the logits, then the logits of auxiliary heads in the order of their names."""
    if isinstance(outputs, list):
        return outputs
    return [
        outputs['logits'],
        *(outputs.get('aux', {})[name] for name in sorted(outputs.get('aux', {}))),
    ]


# --- torch twins ----------------------------------------------------------------------------------


class Twin(nn.Module):
    """Named parts and a forward function of them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *x):
        return self.run(self, *x)


def conv(i, o, k=1, **args):
    return nn.Conv2d(
        i, o, k, padding=args.pop('padding', k // 2), bias=args.pop('bias', False), **args
    )


def conv_bn(i, o, k=1, s=1):
    return Twin(
        lambda m, x: F.relu(m.bn(m.conv(x))), conv=conv(i, o, k, stride=s), bn=nn.BatchNorm2d(o)
    )


def dilate(stage, dilation):
    """Dilates every 3x3 convolution of a stage and removes its stride, as the releases do."""
    for name, module in stage.named_modules():
        if name.endswith('downsample.0'):
            module.stride = (1, 1)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.stride, module.dilation, module.padding = (
                (1, 1),
                (dilation,) * 2,
                (dilation,) * 2,
            )
        elif isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def stages(resnet, x):
    x = F.relu(resnet.bn1(resnet.conv1(x)))
    outputs = [resnet.maxpool(x)]
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


def headless(resnet):
    resnet.fc = nn.Identity()
    return resnet


def torchvision_resnet(depth, blocks=None):
    block = tv_resnet.BasicBlock if depth < 50 else tv_resnet.Bottleneck
    return headless(tv_resnet.ResNet(block, list(blocks or ours.BLOCKS[depth])))


def timm_deep_resnet(blocks):
    n = int(64 * WIDTH)
    channels = tuple(n * 2**i for i in range(4))
    net = timm_resnet.ResNet(
        timm_resnet.Bottleneck,
        blocks,
        num_classes=0,
        stem_width=n,
        stem_type='deep',
        channels=channels,
    )
    return headless(net)


def on_corners(y, size):
    return F.interpolate(y, size, mode='bilinear', align_corners=True)


@pytest.fixture
def shallow(monkeypatch):
    """Reduces 50 layers to few blocks, with every kind of block of every stage."""
    blocks = (1, 2, 2, 2)
    monkeypatch.setitem(ours.BLOCKS, 50, blocks)
    return blocks


# --- backbones ------------------------------------------------------------------------------------


def backbone(depth, **fields):
    """Returns a ResNet with the call of a net."""

    class Backbone(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            norm = batch_norm(train, dtype=jnp.float64)
            stages, _ = ours.make_resnet(depth, norm, jnp.float64, None, **fields)(x)
            return list(stages.values())

    return Backbone()


def test_resnet18_is_torchvisions():
    twin = randomise(Twin(lambda m, x: stages(m.resnet, x), resnet=torchvision_resnet(18)))
    check(
        'resnet18, torchvision',
        backbone(18),
        twin,
        images((49, 64)),
        release=('resnet', twin.resnet),
    )


def test_resnet50_is_torchvisions(shallow):
    twin = randomise(Twin(lambda m, x: stages(m.resnet, x), resnet=torchvision_resnet(50, shallow)))
    check(
        'resnet50 (7 blocks), torchvision',
        backbone(50),
        twin,
        images((33, 64)),
        release=('resnet', twin.resnet),
    )


@pytest.mark.parametrize('stride, dilations', [(16, (1, 2)), (8, (2, 4))])
def test_dilated_deep_resnet_is_timms(shallow, stride, dilations):
    resnet = timm_deep_resnet(shallow)
    for stage, dilation in zip((resnet.layer3, resnet.layer4), dilations):
        if dilation > 1:
            dilate(stage, dilation)
    twin = randomise(Twin(lambda m, x: stages(m.resnet, x), resnet=resnet))
    net = backbone(50, stem='3x3', output_stride=stride, width=WIDTH)
    check(
        f'resnet50s (7 blocks), timm, stride {stride}',
        net,
        twin,
        images((49, 64)),
        release=('resnet', resnet),
    )


# --- nets -----------------------------------------------------------------------------------------


def test_pspnet(shallow):
    resnet = timm_deep_resnet(shallow)
    dilate(resnet.layer3, 2)
    dilate(resnet.layer4, 4)
    c = int(2048 * WIDTH)

    def pyramid(bins):
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(bins), conv(c, c // 4), nn.BatchNorm2d(c // 4), nn.ReLU()
        )

    def head(i, o):
        return nn.Sequential(
            conv(i, o, 3), nn.BatchNorm2d(o), nn.ReLU(), nn.Dropout2d(0), conv(o, 5, bias=True)
        )

    def forward(m, x):
        *_, y3, y4 = stages(m.resnet, x)
        y = torch.cat([y4, *(on_corners(f(y4), y4.shape[2:]) for f in m.ppm.features)], 1)
        return [on_corners(m.cls(y), x.shape[2:]), on_corners(m.aux(y3), x.shape[2:])]

    ppm = Twin(None, features=nn.ModuleList(pyramid(bins) for bins in (1, 2, 3, 6)))
    twin = randomise(
        Twin(
            forward,
            resnet=resnet,
            ppm=ppm,
            cls=head(2 * c, int(512 * WIDTH)),
            aux=head(c // 2, int(256 * WIDTH)),
        )
    )
    check('pspnet', PSPNet(5, dropout=0.0, width=WIDTH, dtype=jnp.float64), twin, images((65, 49)))


def msra_resnet(blocks):
    """Returns torchvision's ResNet as in the Caffe nets, at output stride 8.

    The stride is on the first 1x1, and the pooling of the stem rounds up.
    """
    resnet = torchvision_resnet(50, blocks)
    resnet.maxpool.ceil_mode = True
    resnet.layer2[0].conv1.stride, resnet.layer2[0].conv2.stride = (2, 2), (1, 1)
    dilate(resnet.layer3, 2)
    dilate(resnet.layer4, 4)
    return resnet


def test_deeplab_v2(shallow):
    branches = {
        f'c{i}': conv(2048, 5, 3, padding=rate, dilation=rate, bias=True)
        for i, rate in enumerate((6, 12, 18, 24))
    }
    aspp = Twin(lambda m, x: sum(branch(x) for branch in m.children()), **branches)
    twin = randomise(
        Twin(
            lambda m, x: [on_corners(m.aspp(stages(m.resnet, x)[-1]), x.shape[2:])],
            resnet=msra_resnet(shallow),
            aspp=aspp,
        )
    )
    check('deeplab_v2', DeepLabV2(5, num_layers=50, dtype=jnp.float64), twin, images((65, 49)))


def narrow_vgg(pool, pad_first=1):
    """Returns (narrow feature layers of torchvision with other poolings, our names of them)."""
    layout, names = [], []
    for i, (count, channels) in enumerate(STAGES, start=1):
        layout += [int(channels * WIDTH)] * count + ['M']
        names += [f'conv{i}_{j}' for j in range(1, count + 1)]
    features = tv_vgg.make_layers(layout)
    places = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for i, place in enumerate(pools):
        features[place] = pool(i)
    features[0].padding = (pad_first, pad_first)
    return (
        features,
        {f'features.{place}': name for place, name in zip(places, names, strict=True)},
        pools,
    )


def vgg_rename(names):
    return lambda name: f'vgg.{names[name]}' if name in names else name


def test_deeplab_largefov():
    features, names, _ = narrow_vgg(lambda i: nn.MaxPool2d(3, 2 if i < 3 else 1, 1, ceil_mode=True))
    for place, name in names.items():
        if name.startswith('conv5'):
            layer = features[int(place.split('.')[1])]
            layer.dilation = layer.padding = (2, 2)
    n = int(1024 * WIDTH)

    def forward(m, x):
        y = F.relu(m.fc7(F.relu(m.fc6(m.features(x)))))
        return [on_corners(m.fc8(y), x.shape[2:])]

    fc6 = conv(int(512 * WIDTH), n, 3, padding=12, dilation=12, bias=True)
    fc7, fc8 = conv(n, n, bias=True), conv(n, 5, bias=True)
    twin = randomise(Twin(forward, features=features, fc6=fc6, fc7=fc7, fc8=fc8))
    net = DeepLabLargeFOV(5, dropout=0.0, width=WIDTH, dtype=jnp.float64)
    release = ('vgg', Twin(None, features=features))
    check('deeplab_largefov', net, twin, images((65, 49)), vgg_rename(names), release)


@pytest.mark.parametrize('stride', [32, 16, 8])
def test_fcn(stride):
    features, names, pools = narrow_vgg(lambda i: nn.MaxPool2d(2, 2, ceil_mode=True), pad_first=100)
    n, widths = int(4096 * WIDTH), {'pool4': int(512 * WIDTH), 'pool3': int(256 * WIDTH)}
    finer = {32: [], 16: ['pool4'], 8: ['pool4', 'pool3']}[stride]

    def up(y, factor):
        taps = 1 - (torch.arange(2 * factor, dtype=y.dtype) - (factor - 0.5)).abs() / factor
        kernel = torch.outer(taps, taps).expand(y.shape[1], 1, -1, -1)
        return F.conv_transpose2d(y, kernel, stride=factor, groups=y.shape[1])

    def crop(y, offset, size):
        return y[:, :, offset : offset + size[0], offset : offset + size[1]]

    def forward(m, x):
        y, seen = x, {}
        for i, layer in enumerate(m.features):
            y = layer(y)
            if i in pools:
                seen[f'pool{pools.index(i) + 1}'] = y
        y = m.score_fr(F.relu(m.fc7(F.relu(m.fc6(y)))))
        for pool, offset in zip(finer, (5, 9)):
            y = up(y, 2)
            y = y + crop(getattr(m, f'score_{pool}')(seen[pool]), offset, y.shape[2:])
        return [crop(up(y, stride), {32: 19, 16: 27, 8: 31}[stride], x.shape[2:])]

    parts = {f'score_{pool}': conv(widths[pool], 5, bias=True) for pool in finer}
    twin = randomise(
        Twin(
            forward,
            features=features,
            fc6=conv(int(512 * WIDTH), n, 7, padding=0, bias=True),
            fc7=conv(n, n, bias=True),
            score_fr=conv(n, 5, bias=True),
            **parts,
        )
    )
    net = FCN(5, stride, dropout=0.0, width=WIDTH, dtype=jnp.float64)
    check(
        f'fcn-{stride}s',
        net,
        twin,
        images((45, 60)),
        lambda name: f'color.{vgg_rename(names)(name)}',
    )


def bisenet_arm(i):
    """Returns the attention refinement of `i` channels."""

    def forward(m, x):
        f = m.conv(x)
        return f * torch.sigmoid(m.bn_atten(m.conv_atten(f.mean((2, 3), keepdim=True))))

    return Twin(
        forward,
        conv=conv_bn(i, 128, 3),
        conv_atten=conv(128, 128),
        bn_atten=nn.BatchNorm2d(128),
    )


def bisenet_head(i, o):
    """Returns the head on `i` channels with `o` channels inside."""
    return Twin(
        lambda m, x: m.conv_out(m.conv(x)),
        conv=conv_bn(i, o, 3),
        conv_out=conv(o, 5, bias=True),
    )


def bisenet_context_path(enlarge):
    """Returns the context path with this enlargement."""

    def context(m, x):
        _, y8, y16, y32 = stages(m.resnet, x)
        mean = m.conv_avg(y32.mean((2, 3), keepdim=True))
        up16 = m.conv_head32(enlarge(m.arm32(y32) + mean, y16.shape[2:]))
        return m.conv_head16(enlarge(m.arm16(y16) + up16, y8.shape[2:])), up16

    return Twin(
        context,
        resnet=torchvision_resnet(18),
        arm16=bisenet_arm(256),
        arm32=bisenet_arm(512),
        conv_head32=conv_bn(128, 128, 3),
        conv_head16=conv_bn(128, 128, 3),
        conv_avg=conv_bn(512, 128),
    )


@pytest.mark.parametrize('release', ['torchseg', 'coin'])
def test_bisenet(release):
    authors = release == 'torchseg'
    main, aux = (64, 256) if authors else (256, 64)
    enlarge = on_corners if authors else functools.partial(F.interpolate, mode='nearest')

    def fuse(m, *maps):
        f = m.convblk(torch.cat(maps, 1))
        mean = f.mean((2, 3), keepdim=True)
        gate = m.conv2(F.relu(m.conv1(mean))) if authors else m.bn(m.conv(mean))
        return f + f * torch.sigmoid(gate)

    def forward(m, x):
        up8, up16 = m.cp(x)
        heads = m.conv_out(m.ffm(m.sp(x), up8)), m.conv_out32(up16), m.conv_out16(up8)
        return [
            F.interpolate(y, x.shape[2:], mode='bilinear', align_corners=authors) for y in heads
        ]

    gate = dict(conv1=conv(256, 256), conv2=conv(256, 256))
    if not authors:
        gate = dict(conv=conv(256, 256), bn=nn.BatchNorm2d(256))
    twin = Twin(
        forward,
        sp=Twin(
            lambda m, x: m.conv_out(m.conv3(m.conv2(m.conv1(x)))),
            conv1=conv_bn(3, 64, 7, 2),
            conv2=conv_bn(64, 64, 3, 2),
            conv3=conv_bn(64, 64, 3, 2),
            conv_out=conv_bn(64, 128),
        ),
        cp=bisenet_context_path(enlarge),
        ffm=Twin(fuse, convblk=conv_bn(256, 256), **gate),
        conv_out=bisenet_head(256, main),
        conv_out16=bisenet_head(128, aux),
        conv_out32=bisenet_head(128, aux),
    )
    net = BiSeNet(5, release=release, dtype=jnp.float64)
    weights = None if authors else ('coin', twin)
    check(f'bisenet, {release}', net, randomise(twin), images((64, 96)), release=weights)


def narrow_xception(depth, stride, middle):
    """Returns timm's class with fewer channels and `middle` blocks in its middle flow.

    The widths of the stem are no arguments of the class, so the stem is replaced.
    """
    w = lambda *channels: [int(WIDTH * c) for c in channels]  # noqa: E731
    blocks = [
        dict(in_chs=i, out_chs=o, stride=s)
        for i, o, s in {
            65: zip(w(64, 128, 256), w(128, 256, 728), (2, 2, 2)),
            71: zip(w(64, 128, 256, 256, 728), w(128, 256, 256, 728, 728), (2, 1, 2, 1, 2)),
        }[depth]
    ]
    blocks += [dict(in_chs=w(728)[0], out_chs=w(728)[0], stride=1) for _ in range(middle)]
    blocks.append(dict(in_chs=w(728)[0], out_chs=tuple(w(728, 1024, 1024)), stride=2))
    last = dict(
        in_chs=w(1024)[0],
        out_chs=tuple(w(1536, 1536, 2048)),
        stride=1,
        no_skip=True,
        start_with_relu=False,
    )
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
    net = timm_xception.XceptionAligned(
        [*blocks, last], num_classes=0, output_stride=stride, norm_layer=norm
    )
    layer = functools.partial(timm_xception.ConvNormAct, kernel_size=3, norm_layer=norm)
    net.stem = nn.Sequential(layer(3, *w(32), stride=2), layer(*w(32), *w(64)))
    net.act3, net.head = nn.Identity(), nn.Identity()
    return net


def separable(i, o, dilation=(1, 1)):
    depthwise = nn.Conv2d(i, i, 3, padding=dilation, dilation=dilation, groups=i, bias=False)
    return Twin(
        lambda m, x: F.relu(m.bn_pw(m.conv_pw(F.relu(m.bn_dw(m.conv_dw(x)))))),
        conv_dw=depthwise,
        bn_dw=nn.BatchNorm2d(i),
        conv_pw=conv(i, o),
        bn_pw=nn.BatchNorm2d(o),
    )


def deeplab_v3plus_head(head, deep, n, scale):
    """Returns the head 'aspp' or 'dpc' from `deep` to `n` channels, with rates times `scale`."""

    def aspp(m, x):
        mean = on_corners(m.image_pooling(x.mean((2, 3), keepdim=True)), x.shape[2:])
        return m.concat_projection(
            torch.cat([mean, *(getattr(m, f'aspp{i}')(x) for i in range(4))], 1)
        )

    def cell(m, x):
        y0 = m.branch0(x)
        y1 = m.branch1(y0)
        y2, y3, y4 = m.branch2(y1), m.branch3(y0), m.branch4(y0)
        return m.concat_projection(torch.cat([y0, y1, y2, y3, y4], 1))

    if head == 'aspp':
        parts = {
            f'aspp{i}': separable(deep, n, (scale * r, scale * r))
            for i, r in ((1, 6), (2, 12), (3, 18))
        }
        top = Twin(aspp, image_pooling=conv_bn(deep, n), aspp0=conv_bn(deep, n), **parts)
    else:
        rates = ((1, 6), (18, 15), (6, 3), (1, 1), (6, 21))
        parts = {
            f'branch{i}': separable(n if i else deep, n, (scale * r, scale * s))
            for i, (r, s) in enumerate(rates)
        }
        top = Twin(cell, **parts)
    top.add_module('concat_projection', conv_bn(5 * n, n))
    return top


def deeplab_v3plus_decoder(n):
    """Returns the decoder of `n` channels."""

    def decode(m, y, low):
        low = m.feature_projection0(low)
        return m.decoder_conv1(m.decoder_conv0(torch.cat([on_corners(y, low.shape[2:]), low], 1)))

    return Twin(
        decode,
        feature_projection0=conv_bn(n, int(48 * WIDTH)),
        decoder_conv0=separable(n + int(48 * WIDTH), n),
        decoder_conv1=separable(n, n),
    )


# At stride 8 timm's Xception-71 lacks the projection of a block that no longer strides. The release
# and this project keep the projection.
@pytest.mark.parametrize('depth, stride, head', [(71, 16, 'aspp'), (65, 8, 'dpc')])
def test_deeplab_v3plus(depth, stride, head, monkeypatch):
    monkeypatch.setitem(our_xception.MIDDLE_BLOCKS, depth, 2)
    n = int(256 * WIDTH)
    low_block = {65: 1, 71: 2}[depth]

    def forward(m, x):
        low = []
        hook = m.xception.blocks[low_block].stack.conv2.register_forward_hook(
            lambda _m, _x, y: low.append(y.clone())
        )
        y = m.xception.blocks(m.xception.stem(x))
        hook.remove()
        y = getattr(m, head)(y)
        y = m.decoder(y, low[0])
        return [on_corners(m.logits(y), x.shape[2:])]

    twin = randomise(
        Twin(
            forward,
            xception=narrow_xception(depth, stride, middle=2),
            **{head: deeplab_v3plus_head(head, int(2048 * WIDTH), n, 16 // stride)},
            decoder=deeplab_v3plus_decoder(n),
            logits=conv(n, 5, bias=True),
        )
    )
    net = DeepLabV3Plus(
        5,
        f'xception{depth}',
        head,
        output_stride=stride,
        dropout=0.0,
        width=WIDTH,
        dtype=jnp.float64,
    )
    label = f'deeplab_v3plus, xception{depth} (2 middle blocks), {head}, stride {stride}'
    check(label, net, twin, images((65, 49)), release=('xception', twin.xception))


# --- classifiers ----------------------------------------------------------------------------------


def authors_efficientnet(variant, **args):
    port = pytest.importorskip('efficientnet_pytorch')
    # Without an image size, padding is that of the image at hand.
    args = dict(image_size=None, dropout_rate=0.0, drop_connect_rate=0.0) | args
    return port.EfficientNet.from_name(f'efficientnet-{variant}', **args)


def torchvision_efficientnet(variant, **args):
    return getattr(torchvision.models, f'efficientnet_{variant}')(
        dropout=0.0, stochastic_depth_prob=0.0, **args
    )


def narrow_torchvision_efficientnet(variant, **args):
    """Returns a variant with a quarter of its channels, and the batch norm of b5 to b7."""
    scaling = VARIANTS[variant]
    blocks, _ = tv_efficientnet._efficientnet_conf(
        f'efficientnet_{variant}', width_mult=scaling.width / 4, depth_mult=scaling.depth
    )
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
    return tv_efficientnet.EfficientNet(
        blocks, 0.0, stochastic_depth_prob=0.0, norm_layer=norm, **args
    )


def timm_efficientnet(variant, **args):
    return timm.create_model(f'efficientnet_{variant}', **args)


def timm_tf_efficientnet(variant, **args):
    return timm.create_model(f'tf_efficientnet_{variant}', **args)


def calibrate(module, x):
    """Sets the running statistics to those of a batch.

    With random statistics, the activations of 39 blocks grow until rounding matters.
    """
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.tensor(x).permute(0, 3, 1, 2))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return module


TORCH_NORM = dict(norm_epsilon=1e-5, norm_decay=0.9)
AUTHORS_NORM = dict(norm_epsilon=1e-3, norm_decay=0.99)
# Source -> (maker of its module, fields of our net).
EFFICIENTNETS = {
    'efficientnet_torchvision': (torchvision_efficientnet, dict(padding='symmetric')),
    'efficientnet_timm': (timm_efficientnet, dict(padding='symmetric')),
    'efficientnet_timm_tf': (timm_tf_efficientnet, dict(padding='same')),
    'efficientnet_pytorch': (authors_efficientnet, dict(padding='same')),
}


@pytest.mark.parametrize(
    'key, norm',
    [
        ('efficientnet_torchvision', TORCH_NORM),
        ('efficientnet_timm', TORCH_NORM),
        ('efficientnet_timm_tf', AUTHORS_NORM | dict(norm_decay=0.9)),  # timm keeps torch's
        ('efficientnet_pytorch', AUTHORS_NORM),
    ],
)
def test_efficientnet(key, norm):
    make, fields = EFFICIENTNETS[key]
    check_efficientnet(key, 'b0', make, **fields, **norm)


def test_deep_efficientnet():
    fields = dict(padding='symmetric', width=1 / 4, **AUTHORS_NORM)
    check_efficientnet('efficientnet_torchvision', 'b5', narrow_torchvision_efficientnet, **fields)


def check_efficientnet(key, variant, make, **fields):
    net = EfficientNet(5, variant, dropout=0.0, drop_connect=0.0, dtype=jnp.float64, **fields)
    x = images((64, 49))  # Padding differs at even sizes, so sizes are even and odd.
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    slots = places(shapes, pretrained.SOURCES[key]).values()
    names = {place.tensor.rpartition('.')[0]: place.path.replace('/', '.') for place in slots}
    twin = calibrate(randomise(make(variant, num_classes=5)), images((64, 49), batch=4)[2:])
    twin.register_forward_hook(lambda _module, _x, logits: [logits])
    check(f'efficientnet_{variant}, {key}', net, twin, x, names.__getitem__, (key, twin))


@pytest.mark.parametrize('variant, count', [('b1', 7_794_184), ('b7', 66_347_960)])
@pytest.mark.parametrize('key', EFFICIENTNETS)
def test_whole_efficientnets_have_a_place_for_every_tensor(key, variant, count):
    with torch.device('meta'):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in EFFICIENTNETS[key][0](variant).state_dict().items()
        }
    # Broadcast arrays need no memory.
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    net = EfficientNet(1000, variant, forms='naive')
    variables = jax.eval_shape(
        lambda: net.lazy_init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    tree, report = pretrained.import_weights(tensors, variables, pretrained.SOURCES[key])
    assert sum(array.size for array in jax.tree.leaves(tree['params'])) == count
    assert not report.unused and not report.initialised
    written = pretrained.export_weights(tree, pretrained.SOURCES[key])
    assert {name: tensor.shape for name, tensor in written.items()} == {
        name: shape for name, shape in shapes.items() if not name.endswith('num_batches_tracked')
    }
