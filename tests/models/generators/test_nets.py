"""All generators, encoders and discriminators: sizes, counts, dtypes, gradients, devices.

tests/parity/test_generators.py compares whole nets with torch.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import models
from segjax.models.registry import field_docs

IMAGE = dict(out_channels=3, blocks=1, width=1 / 16)
UNET = dict(out_channels=3, width=1 / 16, num_downs=5)
ENCODER = dict(code_size=3, width=1 / 16)
# Narrow nets: (kind, name, fields, channels of each input). CODE is a code of 8 numbers. QUARTER is
# a map with the size of features at stride 4.
CODE = (8,)
QUARTER = ('quarter', 5)
LAYOUT = dict(stride=4, layout_features=32, width=1 / 16)
SMALL = {
    'feature_unet': (
        'generator',
        'feature_unet',
        dict(out_channels=5, num_downs=2, **LAYOUT),
        (4, CODE),
    ),
    'latent_unet': ('generator', 'latent_unet', UNET, (4, CODE)),
    'unet': ('generator', 'unet', UNET, (4,)),
    'resnet_encoder': ('encoder', 'resnet_encoder', dict(blocks=2, **ENCODER), (3,)),
    'conv_encoder': ('encoder', 'conv_encoder', dict(num_layers=3, **ENCODER), (3,)),
    'two_stream': (
        'generator',
        'two_stream',
        dict(out_channels=5, width=1 / 16, blocks=1, dilated=True),
        (10,),
    ),
    'pix2pixhd_global': ('generator', 'pix2pixhd_global', dict(halvings=2, **IMAGE), (6,)),
    'pix2pixhd_local': (
        'generator',
        'pix2pixhd_local',
        dict(halvings=2, local_blocks=1, **IMAGE),
        (6,),
    ),
    'mask_to_image': ('generator', 'mask_to_image', dict(halvings=2, **IMAGE), (3, 5, 1)),
    'layout_discriminator': (
        'discriminator',
        'layout_discriminator',
        dict(num_scales=1, num_layers=1, **LAYOUT),
        (4, QUARTER),
    ),
    'multiscale': ('discriminator', 'multiscale', dict(width=1 / 16), (7,)),
}
NETS = pytest.mark.parametrize('name', SMALL)
PLAIN = ('unet', 'resnet_encoder', 'layout_discriminator')
"""Nets that run without jit in every test run. The slow tests run all."""


def small(name, **fields):
    kind, key, defaults, _ = SMALL[name]
    given = {'dtype': 'float32', 'axis_name': None, **defaults, **fields}
    return models.build(kind, key, **given)


def inputs_of(name, batch=2, size=None):
    """Returns random inputs. An input of a single channel is a mask with a box."""
    rng = np.random.default_rng(0)
    size = size or ((32, 64) if name.endswith('unet') else (32, 48))
    inputs = []
    for channels in SMALL[name][3]:
        if channels == CODE:
            inputs.append(rng.normal(size=(batch, *CODE)).astype(np.float32))
            continue
        if channels == QUARTER:
            quarter = (size[0] // 4, size[1] // 4, QUARTER[1])
            inputs.append(rng.normal(size=(batch, *quarter)).astype(np.float32))
            continue
        x = rng.uniform(-1, 1, (batch, *size, channels)).astype(np.float32)
        if channels == 1:
            x[:] = 0
            x[:, 5:20, 9:30] = 1
        inputs.append(x)
    return tuple(inputs)


def variables_of(net, inputs, seed=0):
    """Returns random variables without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs, train=False))

    def draw(path, x):
        leaf = path[-1].key
        if leaf in ('scale', 'var'):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        fan = np.prod(x.shape[:-1]) if leaf == 'kernel' else 25
        return rng.uniform(-1, 1, x.shape).astype(np.float32) * np.float32((6 / fan) ** 0.5)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))


def test_every_net_is_here():
    # The net crn has codes instead of norms to choose from, see test_crn.py.
    kinds = ('generator', 'encoder', 'discriminator')
    assert set(SMALL) == {name for kind in kinds for name in models.NETS[kind]} - {'crn'}


@NETS
def test_every_field_of_a_config_has_a_meaning(name):
    kind, key, _, _ = SMALL[name]
    assert set(models.schema(kind, key)) <= set(field_docs(models.NETS[kind][key]))
    assert not {'out_channels', 'code_size', 'dtype', 'axis_name'} & set(models.schema(kind, key))
    assert 'width' in models.schema(kind, key)


@NETS
def test_results_are_float32_whatever_the_dtype_of_activations(name):
    inputs = inputs_of(name)
    net = small(name)
    variables = variables_of(net, inputs)
    full = jax.jit(lambda v: net.apply(v, *inputs, train=False))(variables)
    half_net = small(name, dtype='bfloat16')
    half = jax.jit(lambda v: half_net.apply(v, *inputs, train=False))(variables)
    if SMALL[name][0] == 'discriminator':
        assert {x.dtype for maps in half for x in maps[:-1]} == {np.dtype(jnp.bfloat16)}
        full, half = ([maps[-1] for maps in outputs] for outputs in (full, half))
    assert {x.dtype for x in jax.tree.leaves((full, half))} == {np.dtype('float32')}
    shapes = jax.eval_shape(lambda: half_net.init(jax.random.key(0), *inputs, train=True))
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {np.dtype('float32')}
    for x, y in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
        error = np.abs(x - y).mean() / np.abs(x).mean()
        assert 0 < error < 0.1, error


@pytest.mark.slow
@NETS
def test_every_parameter_has_a_finite_gradient(name):
    inputs = inputs_of(name)
    net = small(name, norm='batch')
    variables = variables_of(net, inputs)

    def loss(params):
        outputs, updates = net.apply(
            {**variables, 'params': params}, *inputs, train=True, mutable=['batch_stats']
        )
        outputs = jax.tree.leaves(outputs)
        total = sum((x.astype(jnp.float32) ** 2).mean() for x in outputs)
        return total, updates

    step = jax.value_and_grad(loss, has_aux=True)
    (value, updates), gradients = jax.jit(step)(variables['params'])
    chex.assert_tree_all_finite((value, updates, gradients))
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(gradient != 0), jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in PLAIN else pytest.mark.slow) for name in SMALL]
)
def test_jit_changes_nothing(name):
    inputs = inputs_of(name)
    net = small(name, norm='batch')
    variables = variables_of(net, inputs)

    def apply(variables):
        outputs, _ = net.apply(variables, *inputs, train=True, mutable=['batch_stats'])
        return outputs

    with jax.disable_jit():
        plain = apply(variables)
    chex.assert_trees_all_close(jax.jit(apply)(variables), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@NETS
@pytest.mark.devices(8)
def test_one_device_is_eight_devices(name):
    inputs = inputs_of(name, batch=8, size=(32, 32))
    net = small(name, norm='batch')
    variables = variables_of(net, inputs)
    outputs, updates = jax.jit(lambda v, *x: net.apply(v, *x, train=True, mutable=['batch_stats']))(
        variables, *inputs
    )

    shared = small(name, norm='batch', axis_name='data')
    step = jax.pmap(
        lambda v, *x: shared.apply(v, *x, train=True, mutable=['batch_stats']),
        axis_name='data',
        in_axes=(None, *(0 for _ in inputs)),
    )
    split = [x.reshape(8, 1, *x.shape[1:]) for x in inputs]
    split_outputs, split_updates = step(variables, *split)
    joined = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), split_outputs)
    chex.assert_trees_all_close(joined, outputs, rtol=1e-3, atol=1e-3)
    for device in (0, 7):
        of_device = jax.tree.map(lambda x, i=device: x[i], split_updates)
        chex.assert_trees_all_close(of_device, updates, rtol=1e-4, atol=1e-4)


@NETS
def test_examples_of_a_batch_do_not_mix_in_an_instance_norm(name):
    inputs = inputs_of(name)
    net = small(name, norm='instance')
    variables = variables_of(net, inputs)
    assert set(variables) == {'params'}
    apply = jax.jit(lambda v, *x: net.apply(v, *x, train=True))
    changed = [np.concatenate([x[:1], -x[1:]]) for x in inputs]
    for before, after in zip(
        jax.tree.leaves(apply(variables, *inputs)),
        jax.tree.leaves(apply(variables, *changed)),
        strict=True,
    ):
        np.testing.assert_allclose(before[0], after[0], rtol=1e-4, atol=1e-5)
