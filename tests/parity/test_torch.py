"""Whole nets against torchvision, timm and torch twins: equal weights, logits and gradients.

These tests are skipped without torch, which is no dependency of the project. To run them, make a
separate environment:

    python3.11 -m venv parity
    parity/bin/pip install torch jax flax optax ml_collections pytest scipy
    parity/bin/pip install opencv-contrib-python-headless
    parity/bin/pip install --no-deps torchvision timm efficientnet_pytorch
    parity/bin/pip install safetensors pyyaml huggingface_hub
    parity/bin/python -m pytest tests/parity -s

All numbers are float64, so that a ReLU does not turn rounding into a difference. The twins are the
nets of `benchmarks/torch_nets.py`, so the nets that are timed are the nets that are compared here.
Their backbones are the real classes of torchvision and timm. EfficientNets are whole nets of
torchvision, timm and efficientnet_pytorch. The names of the torch modules are those of the
releases, so a test also shows that importing is a renaming.
"""

import functools
import re
import sys
import types

import chex
import flax.linen as linen
import jax
import jax.numpy as jnp
import ml_collections
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
from timm.models import resnet as timm_resnet  # noqa: E402
from timm.models import xception_aligned as timm_xception  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import nets, torch_nets, torch_worker  # noqa: E402
from segjax import models, pretrained  # noqa: E402
from segjax.core import optim  # noqa: E402
from segjax.errors import InputError  # noqa: E402
from segjax.losses import segmentation as losses  # noqa: E402
from segjax.models.backbones import resnet as ours  # noqa: E402
from segjax.models.backbones import xception as our_xception  # noqa: E402
from segjax.models.backbones.efficientnet import VARIANTS, EfficientNet  # noqa: E402
from segjax.models.layers import batch_norm  # noqa: E402
from segjax.models.segmentation.bisenet import BiSeNet  # noqa: E402
from segjax.models.segmentation.deeplab import DeepLabLargeFOV, DeepLabV2  # noqa: E402
from segjax.models.segmentation.deeplab_v3plus import DeepLabV3Plus  # noqa: E402
from segjax.models.segmentation.erfnet import ERFNet  # noqa: E402
from segjax.models.segmentation.fcn import FCN  # noqa: E402
from segjax.models.segmentation.pspnet import PSPNet  # noqa: E402
from segjax.ops import resize  # noqa: E402
from segjax.pretrained.convert import places  # noqa: E402
from segjax.schema import OPTIM  # noqa: E402

LEAVES = {
    ('conv', 'weight'): ('params', 'kernel'),
    ('transposed', 'weight'): ('params', 'kernel'),
    ('transposed', 'bias'): ('params', 'bias'),
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


def our_kind(module):
    """Returns the kind of a layer, the first part of the keys of LEAVES."""
    if isinstance(module, nn.ConvTranspose2d):
        return 'transposed'
    return 'conv' if isinstance(module, nn.Conv2d | nn.Linear) else 'norm'


def our_array(tensor, kind):
    array = tensor.detach().numpy().copy()  # torch's batch norms write into their buffers
    # A transposed convolution has [in, out, k, k] in torch.
    kernel = (2, 3, 0, 1) if kind == 'transposed' else (2, 3, 1, 0)
    return array.transpose({4: kernel, 2: (1, 0), 1: (0,)}[array.ndim])


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
        kind = our_kind(module.get_submodule(owner))
        if leaf != 'num_batches_tracked' and of(tensor) is not None:
            collection, new = LEAVES[kind, leaf]
            tree[(collection, *our_path(rename(owner)), new)] = our_array(of(tensor), kind)
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

    convolutions = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    for child in module.modules():
        if isinstance(child, convolutions):
            limit = (6 / child.weight[0].numel()) ** 0.5
            uniform(child.weight, -limit, limit)
        elif isinstance(child, nn.BatchNorm2d):
            uniform(child.weight, 0.5, 1.5)
            uniform(child.running_mean, -0.2, 0.2)
            uniform(child.running_var, 0.5, 1.5)
        if isinstance(child, (*convolutions, nn.BatchNorm2d)) and child.bias is not None:
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
    module = randomise(torch_nets.torchvision_resnet(18)).float()
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


def staged(resnet):
    """Returns the twin whose outputs are those of the stages of a ResNet."""
    return torch_nets.Twin(lambda m, x: torch_nets.stages(m.resnet, x), resnet=resnet)


def test_resnet18_is_torchvisions():
    twin = randomise(staged(torch_nets.torchvision_resnet(18)))
    check(
        'resnet18, torchvision',
        backbone(18),
        twin,
        images((49, 64)),
        release=('resnet', twin.resnet),
    )


def test_resnet50_is_torchvisions(shallow):
    twin = randomise(staged(torch_nets.torchvision_resnet(50, shallow)))
    check(
        'resnet50 (7 blocks), torchvision',
        backbone(50),
        twin,
        images((33, 64)),
        release=('resnet', twin.resnet),
    )


@pytest.mark.parametrize('stride, dilations', [(16, (1, 2)), (8, (2, 4))])
def test_dilated_deep_resnet_is_timms(shallow, stride, dilations):
    resnet = torch_nets.timm_deep_resnet(shallow, WIDTH)
    for stage, dilation in zip((resnet.layer3, resnet.layer4), dilations):
        if dilation > 1:
            torch_nets.dilate(stage, dilation)
    twin = randomise(staged(resnet))
    net = backbone(50, stem='3x3', output_stride=stride, width=WIDTH)
    check(
        f'resnet50s (7 blocks), timm, stride {stride}',
        net,
        twin,
        images((49, 64)),
        release=('resnet', resnet),
    )


# --- nets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', torch_nets.NETS)
def test_the_nets_that_are_timed_have_our_parameters(name):
    """Compares the parameters at full size, without making them."""
    with torch.device('meta'):
        twin = torch_nets.NETS[name](num_classes=5)
    if name == 'efficientnet':
        net = EfficientNet(5, padding='symmetric')
    else:
        fields = {'encoder_head': True} if name == 'erfnet' else {}
        given = dict(num_classes=5, dtype='float32', axis_name=None)
        net = models.build('segmentation', name, **given, **fields)
    shapes = jax.eval_shape(
        lambda: net.lazy_init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    expected = sum(parameter.numel() for parameter in twin.parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes['params'])) == expected


def test_erfnet():
    twin = randomise(torch_nets.erfnet(5, WIDTH, blocks=(1, 4, 1, 1), dropout=(0.0, 0.0)))
    net = ERFNet(
        5,
        dropout=(0.0, 0.0),
        encoder_head=True,
        width=WIDTH,
        blocks=(1, 4, 1, 1),
        dtype=jnp.float64,
    )
    check('erfnet', net, twin, images((48, 64)), release=('erfnet', twin))


def test_every_net_of_the_bench_has_a_twin():
    assert set(torch_nets.NETS) == set(nets.NETS)


def test_auxiliary_heads_can_be_left_out():
    twin = torch_nets.erfnet(5, WIDTH, blocks=(0, 0, 0, 0)).eval()
    image = torch.zeros(1, 3, 16, 16)
    logits, _ = twin(image)
    twin.auxiliary = False
    (alone,) = twin(image)
    assert torch.equal(alone, logits)


def test_the_benched_loss_is_ours():
    """Compares the sum of a main head and of a coarser auxiliary head, with unlabelled pixels."""
    rng = np.random.default_rng(0)
    heads = [rng.standard_normal((2, *size, 5)) for size in ((16, 24), (2, 3))]
    label = rng.integers(0, 5, (2, 16, 24))
    label[:, :3] = 255
    class_weights = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    expected = 0.0
    for factor, logits in zip((1.0, 0.4), heads):
        logits = resize.bilinear(jnp.asarray(logits), label.shape[1:])
        loss = losses.cross_entropy(logits, label, jnp.ones(2), class_weights=class_weights)
        expected += factor * loss.value()
    loss = torch_worker.total_loss(
        [torch.tensor(logits).movedim(-1, 1) for logits in heads],
        torch.tensor(label),
        torch.tensor(class_weights),
        (1.0, 0.4),
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_benched_adam_is_ours():
    """Compares three steps. Vectors do not decay."""
    settings = dict(learning_rate=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.5)
    config = ml_collections.ConfigDict({key: field.default for key, field in OPTIM.items()})
    config.update(name='adam', schedule='constant', **settings)
    layer = nn.Linear(3, 2)
    params = {
        'net': {'kernel': layer.weight.detach().numpy().T, 'bias': layer.bias.detach().numpy()}
    }
    params = jax.tree.map(jnp.array, params)  # a copy: torch changes its parameters in place
    transform = optim.make(config, 10, params)
    state = transform.init(params)
    optimiser = torch_worker.adam(layer, settings)
    for step in range(3):
        layer.weight.grad = torch.full((2, 3), step - 0.5)
        layer.bias.grad = torch.tensor([1.0, step])
        grads = {'net': {'kernel': jnp.full((3, 2), step - 0.5), 'bias': jnp.array([1.0, step])}}
        optimiser.step()
        updates, state = transform.update(grads, state, params, step=step)
        params = jax.tree.map(jnp.add, params, updates)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(layer.weight.detach().T, params['net']['kernel'])
    close(layer.bias.detach(), params['net']['bias'])


def test_pspnet(shallow):
    twin = randomise(torch_nets.pspnet(5, WIDTH, shallow, dropout=0.0))
    check('pspnet', PSPNet(5, dropout=0.0, width=WIDTH, dtype=jnp.float64), twin, images((65, 49)))


def test_deeplab_v2(shallow):
    twin = randomise(torch_nets.deeplab_v2(5, WIDTH, 50, shallow))
    net = DeepLabV2(5, num_layers=50, width=WIDTH, dtype=jnp.float64)
    check('deeplab_v2', net, twin, images((65, 49)))


def vgg_rename(features):
    names = torch_nets.vgg_names(features)
    return lambda name: f'vgg.{names[name]}' if name in names else name


def test_deeplab_largefov():
    twin = randomise(torch_nets.deeplab_largefov(5, WIDTH, dropout=0.0))
    net = DeepLabLargeFOV(5, dropout=0.0, width=WIDTH, dtype=jnp.float64)
    release = ('vgg', torch_nets.Twin(None, features=twin.features))
    check('deeplab_largefov', net, twin, images((65, 49)), vgg_rename(twin.features), release)


@pytest.mark.parametrize('stride', [32, 16, 8])
def test_fcn(stride):
    twin = randomise(torch_nets.fcn(5, WIDTH, stride, dropout=0.0))
    net = FCN(5, stride, dropout=0.0, width=WIDTH, dtype=jnp.float64)
    rename = vgg_rename(twin.features)
    check(f'fcn-{stride}s', net, twin, images((45, 60)), lambda name: f'color.{rename(name)}')


@pytest.mark.parametrize('release', ['torchseg', 'coin'])
def test_bisenet(release):
    twin = randomise(torch_nets.bisenet(5, WIDTH, release))
    net = BiSeNet(5, release=release, width=WIDTH, dtype=jnp.float64)
    weights = ('coin', twin) if release == 'coin' else None
    check(f'bisenet, {release}', net, twin, images((64, 96)), release=weights)


@pytest.mark.parametrize('depth, stride, head', [(71, 16, 'aspp'), (65, 8, 'dpc')])
def test_deeplab_v3plus(depth, stride, head, monkeypatch):
    monkeypatch.setitem(our_xception.MIDDLE_BLOCKS, depth, 2)
    twin = randomise(
        torch_nets.deeplab_v3plus(5, WIDTH, depth, head, stride, middle=2, dropout=0.0)
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


def narrow_torchvision_efficientnet(variant, num_classes):
    """Returns a variant with a quarter of its channels, and the batch norm of b5 to b7."""
    scaling = VARIANTS[variant]
    return torch_nets.efficientnet(
        num_classes,
        1 / 4,
        variant,
        (scaling.width, scaling.depth),
        dropout=0.0,
        drop_connect=0.0,
        norm=functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
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
