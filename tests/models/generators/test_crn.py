"""CRN: the published net against NumPy, its sizes, its branches, and loops over their codes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from nets import shapes_at, size

from segjax import models
from segjax.errors import InputError
from segjax.models.generators.crn import BRANCHES, CRN
from segjax.models.registry import field_docs
from segjax.ops import codes as latent

NARROW = dict(width=1 / 128, first_height=4, norm_epsilon=1e-5)
SHALLOW = dict(width=1 / 128, first_height=8, norm_epsilon=1e-5, split_at=1)
HEIGHT = 16
WIDTH = 32


def condition_of(batch=2, channels=3, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, height, width, channels)).astype(np.float32)


def variables_of(net, condition, codes=None, seed=0):
    """Returns random variables without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), condition, codes))

    def draw(path, leaf):
        if path[-1].key == 'scale':
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[-4:-1]) if path[-1].key == 'kernel' else 25
        return rng.normal(size=leaf.shape).astype(np.float32) / np.float32(fan_in**0.5)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def codes_of(net, *lead, height=HEIGHT, width=WIDTH, seed=2):
    """Returns random codes [*lead, *code_shape]."""
    num = int(np.prod(lead))
    drawn = latent.draw(jax.random.key(seed), num, net.code_shape(height, width))
    return drawn.reshape(*lead, *drawn.shape[1:])


def compiled(net, **arguments):
    return jax.jit(lambda *inputs: net.apply(*inputs, **arguments))


# --- the published net ----------------------------------------------------------------------------


def convolved(x, kernel):
    """Cross-correlates [H, W, I] with a kernel, with zeros around the image."""
    kh, kw = kernel.shape[:2]
    padded = np.pad(x, ((kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    y = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i in range(kh):
        for j in range(kw):
            y += padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[i, j]
    return y


def enlarged(x):
    """Doubles [h, w, C] bilinearly: first and last pixels stay in the corners."""
    for axis in (0, 1):
        length = x.shape[axis]
        place = np.arange(2 * length) * (length - 1) / (2 * length - 1)
        x = np.apply_along_axis(
            lambda line, at=place: np.interp(at, np.arange(len(line)), line), axis, x
        )
    return x


def shrunk(x, height):
    """Averages [H, W, K] over squares."""
    factor = x.shape[0] // height
    rows = []
    for i in range(height):
        strip = x[i * factor : (i + 1) * factor]
        columns = range(0, x.shape[1], factor)
        rows.append([strip[:, j : j + factor].mean((0, 1)) for j in columns])
    return np.array(rows)


def normalised(x, norm, epsilon):
    """Layer norm over height, width and channels, then scale and shift of each channel."""
    deviation = np.sqrt(((x - x.mean()) ** 2).mean() + epsilon)
    return (x - x.mean()) / deviation * norm['scale'] + norm['bias']


def refined(x, condition, module, epsilon):
    for k in (0, 1):
        x = convolved(condition if x is None else x, module[f'conv_{k}']['kernel'])
        x = normalised(x, module[f'norm_{k}'], epsilon)
        x = np.where(x > 0, x, 0.2 * x)
    return x


def reference(params, condition, split_at, epsilon, code=None, ratio=0.5):
    """Returns [H, W, outputs] for a condition [H, W, K], all in float64."""
    modules = {**params['f1'], **params['f2']}
    head = modules.pop('head')
    first_height = condition.shape[0] >> (len(modules) - 1)
    x = None
    for i in range(len(modules)):
        area = shrunk(condition.astype(np.float64), first_height << i)
        if x is not None:
            area = np.concatenate([enlarged(x), area], -1)
        x = refined(None, area, modules[f'module_{i}'], epsilon)
        if i == split_at - 1 and code is not None:
            x = np.where(code > ratio, x / (1 - ratio), 0)
    return convolved(x, head['kernel']) + head['bias']


@pytest.mark.parametrize('forms, split_at', [('fast', 1), ('fast', 2), ('naive', 1), ('fast', 3)])
def test_shared_branches_are_those_of_numpy(forms, split_at):
    net = CRN(split_at=split_at, forms=forms, drop_ratio=0.4, **NARROW)
    condition = condition_of()
    codes = codes_of(net, 3)
    variables = variables_of(net, condition, codes)
    image = compiled(net)(variables, condition, codes)['image']
    for b in range(2):
        for i in range(3):
            code = np.asarray(codes[i])
            expected = reference(variables['params'], condition[b], split_at, 1e-5, code, 0.4)
            np.testing.assert_allclose(image[b, i], expected, rtol=1e-3, atol=1e-3)


def test_a_single_net_is_that_of_numpy():
    net = CRN(branches='single', **NARROW)
    condition = condition_of()
    variables = variables_of(net, condition)
    image = compiled(net)(variables, condition)['image']
    chex.assert_shape(image, (2, 1, HEIGHT, WIDTH, 3))
    for b in range(2):
        expected = reference(variables['params'], condition[b], 2, 1e-5)
        np.testing.assert_allclose(image[b, 0], expected, rtol=1e-3, atol=1e-3)


def test_parameters_of_the_release_at_256_rows():
    net = CRN(branches='late', num_branches=9, last_modules=2)
    outputs, variables = shapes_at(net, 1, 256, 512, 20)
    assert size(variables) == 97_875_483
    chex.assert_shape(outputs['image'], (1, 9, 256, 512, 3))
    assert net.plan(256, 512).channels == (1024,) * 5 + (512,) * 2
    assert net.plan(256, 512).sizes[0] == (4, 8)


@pytest.mark.parametrize(
    'height, channels, first_height, parameters',
    [(96, 3, 6, 73_282_563), (128, 68, 4, 95_483_395)],
)
def test_parameters_of_heads_and_faces(height, channels, first_height, parameters):
    net = CRN(branches='single', first_height=first_height)
    _, variables = shapes_at(net, 1, height, height, channels)
    assert size(variables) == parameters
    assert set(variables) == {'params'}


def test_initialisation_is_xaviers_and_biases_are_0():
    net = CRN(branches='single', width=1 / 32, first_height=8)
    condition = condition_of()
    params = jax.jit(net.init)(jax.random.key(0), condition)['params']
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name == 'kernel':
            positions = leaf.shape[0] * leaf.shape[1]
            limit = np.sqrt(6 / (positions * (leaf.shape[2] + leaf.shape[3])))
            assert np.abs(leaf).max() <= limit
            assert abs(np.std(leaf) * np.sqrt(3) / limit - 1) < 5 / np.sqrt(leaf.size), path
        else:
            np.testing.assert_array_equal(leaf, 1.0 if name == 'scale' else 0.0)


# --- branches -------------------------------------------------------------------------------------


def test_shared_branches_share_all_parameters():
    condition = condition_of()
    net = CRN(**NARROW)
    few = shapes_at(net, *condition.shape, codes=codes_of(net, 2))[1]
    many = shapes_at(net, *condition.shape, codes=codes_of(net, 72))[1]
    single = shapes_at(CRN(branches='single', **NARROW), *condition.shape)[1]
    chex.assert_trees_all_equal_shapes(few, many, single)


def test_a_code_that_keeps_everything_is_the_single_net():
    condition = condition_of()
    net = CRN(drop_ratio=0.0, **SHALLOW)
    codes = codes_of(net, 2)
    variables = variables_of(net, condition, codes)
    images = compiled(net)(variables, condition, codes)['image']
    single = compiled(CRN(branches='single', **SHALLOW))(variables, condition)['image']
    np.testing.assert_allclose(images, np.repeat(single, 2, axis=1), rtol=1e-4, atol=1e-4)


def test_equal_codes_make_equal_images_and_unequal_codes_do_not():
    condition = condition_of()
    net = CRN(**SHALLOW)
    codes = codes_of(net, 2)[np.array([0, 1, 0])]
    variables = variables_of(net, condition, codes)
    image = np.asarray(compiled(net)(variables, condition, codes)['image'])
    np.testing.assert_allclose(image[:, 0], image[:, 2], rtol=1e-5, atol=1e-5)
    assert np.abs(image[:, 0] - image[:, 1]).max() > 0.1


@pytest.mark.parametrize('dropout', ['channel', 'classic'])
def test_codes_of_each_example_select_among_shared_codes(dropout):
    condition = condition_of()
    net = CRN(dropout=dropout, **SHALLOW)
    expected_shape = (8,) if dropout == 'channel' else (8, 16, 8)
    assert net.code_shape(HEIGHT, WIDTH) == expected_shape
    codes = codes_of(net, 5)
    variables = variables_of(net, condition, codes)
    run = compiled(net)
    all_images = run(variables, condition, codes)['image']
    assigned = np.array([[3, 0], [1, 4]])
    images = run(variables, condition, codes[assigned])['image']
    for b in range(2):
        np.testing.assert_allclose(images[b], all_images[b, assigned[b]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('branches', BRANCHES)
def test_trunk_and_branch_are_the_whole_net(branches):
    condition = condition_of()
    net = CRN(branches=branches, num_branches=3, **SHALLOW)
    codes = codes_of(net, 3) if branches == 'shared' else None
    variables = variables_of(net, condition, codes)
    whole = compiled(net)(variables, condition, codes)['image']
    features = compiled(net, method='trunk')(variables, condition)
    chex.assert_shape(features, (2, 8, 16, 8))
    images = compiled(net, method='branch')(variables, features, condition, codes)
    chex.assert_shape(images, (2, 1 if branches == 'single' else 3, HEIGHT, WIDTH, 3))
    np.testing.assert_allclose(images, whole, rtol=1e-5, atol=1e-5)


def test_separate_branches_share_f1_and_have_their_own_f2():
    condition = condition_of()
    net = CRN(branches='separate', num_branches=3, **SHALLOW)
    variables = variables_of(net, condition)
    single = CRN(branches='single', **SHALLOW)
    shapes = shapes_at(single, *condition.shape)[1]['params']
    params = variables['params']
    chex.assert_trees_all_equal_shapes(params['f1'], shapes['f1'])
    assert size(params['f2']) == 3 * size(shapes['f2'])

    image = compiled(net)(variables, condition)['image']
    for i in range(3):
        own = {'f1': params['f1'], 'f2': jax.tree.map(lambda x, i=i: x[i], params['f2'])}
        expected = compiled(single)({'params': own}, condition)['image']
        np.testing.assert_allclose(image[:, i], expected[:, 0], rtol=1e-4, atol=1e-4)


def test_separate_branches_start_unequal():
    net = CRN(branches='separate', num_branches=2, **SHALLOW)
    f2 = jax.jit(net.init)(jax.random.key(0), condition_of())['params']['f2']
    kernel = f2['module_1']['conv_0']['kernel']
    assert np.abs(kernel[0] - kernel[1]).mean() > 0.3 * np.abs(kernel).mean()


def test_late_branches_are_channels_of_a_single_net():
    condition = condition_of()
    net = CRN(branches='late', num_branches=4, **SHALLOW)
    variables = variables_of(net, condition)
    wide = CRN(branches='single', out_channels=12, **SHALLOW)
    channels = compiled(wide)(variables, condition)['image'][:, 0]
    image = compiled(net)(variables, condition)['image']
    for i in range(4):
        expected = channels[..., jnp.array([i, 4 + i, 8 + i])]
        np.testing.assert_array_equal(image[:, i], expected)


def test_examples_of_a_batch_do_not_mix():
    condition = condition_of()
    net = CRN(**SHALLOW)
    codes = codes_of(net, 2)
    variables = variables_of(net, condition, codes)
    run = compiled(net)
    before = run(variables, condition, codes)['image']
    after = run(variables, np.stack([condition[0], -condition[1]]), codes)['image']
    np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 0.1


def test_features_in_front_of_the_split_do_not_depend_on_codes():
    # The drop-out is behind module `split_at`, so f1 ends with the height of this module.
    condition = condition_of()
    for split_at, height in ((1, 4), (2, 8), (3, 16)):
        net = CRN(split_at=split_at, **NARROW)
        shapes = shapes_at(net, *condition.shape, codes=codes_of(net, 2))[1]['params']
        assert set(shapes['f1']) == {f'module_{i}' for i in range(split_at)}
        assert set(shapes['f2']) == {'head', *(f'module_{i}' for i in range(split_at, 3))}
        variables = {'params': shapes}
        features = jax.eval_shape(
            lambda v, net=net: net.apply(v, condition, method='trunk'), variables
        )
        assert features.shape[1] == height


# --- gradients ------------------------------------------------------------------------------------


def assert_close_trees(ours, theirs):
    """Compares gradients by the largest value of each array."""
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        scale = np.abs(y).max()
        assert np.abs(x - y).max() <= 1e-4 * scale + 1e-7, jax.tree_util.keystr(path)


@pytest.mark.parametrize('branches', ['shared', 'separate', 'late'])
def test_every_parameter_has_a_finite_gradient(branches):
    condition = condition_of()
    net = CRN(branches=branches, num_branches=3, **SHALLOW)
    codes = codes_of(net, 3) if branches == 'shared' else None
    variables = variables_of(net, condition, codes)

    def loss(params):
        return jnp.abs(net.apply({'params': params}, condition, codes)['image'] - 0.5).mean()

    gradients = jax.jit(jax.grad(loss))(variables['params'])
    chex.assert_tree_all_finite(gradients)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(gradient != 0), jax.tree_util.keystr(path)


def test_a_branch_without_loss_gets_no_gradient():
    condition = condition_of()
    net = CRN(branches='separate', num_branches=3, **SHALLOW)
    variables = variables_of(net, condition)

    def loss(params):
        return (net.apply({'params': params}, condition)['image'][:, 1] ** 2).mean()

    f2 = jax.jit(jax.grad(loss))(variables['params'])['f2']
    for gradient in jax.tree.leaves(f2):
        assert np.any(gradient[1] != 0)
        np.testing.assert_array_equal(gradient[np.array([0, 2])], 0)


def test_a_loop_over_chunks_of_codes_has_the_gradient_of_all_at_once():
    condition = condition_of()
    net = CRN(**SHALLOW)
    codes = codes_of(net, 6)
    params = variables_of(net, condition, codes)['params']
    target = np.random.default_rng(2).uniform(-1, 1, (2, 6, HEIGHT, WIDTH, 3))

    def at_once(params):
        return ((net.apply({'params': params}, condition, codes)['image'] - target) ** 2).sum()

    @jax.checkpoint
    def of_chunk(params, features, chunk, wanted):
        images = net.apply({'params': params}, features, condition, chunk, method='branch')
        return ((images - wanted) ** 2).sum()

    def in_a_loop(params):
        features = net.apply({'params': params}, condition, method='trunk')
        chunks = codes.reshape(3, 2, *codes.shape[1:])
        wanted = jnp.moveaxis(target.reshape(2, 3, 2, *target.shape[2:]), 1, 0)

        def add(total, row):
            return total + of_chunk(params, features, *row), None

        return lax.scan(add, 0.0, (chunks, wanted))[0]

    value, gradient = jax.jit(jax.value_and_grad(at_once))(params)
    looped_value, looped_gradient = jax.jit(jax.value_and_grad(in_a_loop))(params)
    np.testing.assert_allclose(looped_value, value, rtol=1e-5)
    assert_close_trees(looped_gradient, gradient)


def test_a_loop_over_separate_branches_has_the_gradient_of_all_at_once():
    condition = condition_of()
    net = CRN(branches='separate', num_branches=4, **SHALLOW)
    params = variables_of(net, condition)['params']
    target = np.random.default_rng(2).uniform(-1, 1, (4, 2, HEIGHT, WIDTH, 3))

    def at_once(params):
        images = net.apply({'params': params}, condition)['image']
        return ((jnp.moveaxis(images, 1, 0) - target) ** 2).sum()

    single = CRN(branches='single', **SHALLOW)

    @jax.checkpoint
    def of_branch(f2, features, wanted):
        variables = {'params': {'f2': f2}}
        images = single.apply(variables, features, condition, method='branch')
        return ((images[:, 0] - wanted) ** 2).sum()

    def in_a_loop(params):
        features = net.apply({'params': params}, condition, method='trunk')

        def add(total, row):
            f2, wanted = row
            return total + of_branch(f2, features, wanted), None

        return lax.scan(add, 0.0, (params['f2'], target))[0]

    value, gradient = jax.jit(jax.value_and_grad(at_once))(params)
    looped_value, looped_gradient = jax.jit(jax.value_and_grad(in_a_loop))(params)
    np.testing.assert_allclose(looped_value, value, rtol=1e-5)
    assert_close_trees(looped_gradient, gradient)


def test_a_condition_of_zeros_has_finite_images_and_no_gradient_where_it_counts_nothing():
    condition = condition_of()
    condition[1] = 0
    net = CRN(branches='single', width=1 / 128, first_height=8)  # the published epsilon
    variables = jax.jit(net.init)(jax.random.key(0), condition)
    weight = np.float32([1, 0])[:, None, None, None, None]

    def loss(params):
        image = net.apply({'params': params}, condition)['image']
        return (weight * image**2).sum(), image

    (_, image), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'])
    chex.assert_tree_all_finite((image, gradients))


# --- types, devices, settings ---------------------------------------------------------------------


@pytest.mark.parametrize('branches', ['shared', 'separate'])
def test_images_are_float32_whatever_the_dtype_of_activations(branches):
    condition = condition_of()
    fields = dict(branches=branches, num_branches=2, axis_name=None, out_channels=3, **SHALLOW)
    full, half = (
        models.build('generator', 'crn', dtype=dtype, **fields) for dtype in ('float32', 'bfloat16')
    )
    codes = codes_of(full, 2) if branches == 'shared' else None
    variables = variables_of(full, condition, codes)
    shapes = jax.eval_shape(lambda: half.init(jax.random.key(0), condition, codes))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype('float32')}
    exact = compiled(full)(variables, condition, codes)['image']
    rough = compiled(half)(variables, condition, codes)['image']
    assert rough.dtype == exact.dtype == jnp.float32
    assert compiled(half, method='trunk')(variables, condition).dtype == jnp.bfloat16
    assert 0 < np.abs(rough - exact).mean() < 0.05 * np.abs(exact).mean()


@pytest.mark.devices(8)
def test_one_device_is_eight_devices():
    condition = condition_of(batch=8)
    net = CRN(**SHALLOW)
    codes = codes_of(net, 3)
    variables = variables_of(net, condition, codes)
    whole = compiled(net)(variables, condition, codes)['image']
    step = jax.pmap(
        lambda v, x, z: net.apply(v, x, z)['image'], axis_name='data', in_axes=(None, 0, None)
    )
    split = step(variables, condition[:, None], codes)
    np.testing.assert_allclose(split[:, 0], whole, rtol=1e-4, atol=1e-4)


def test_every_field_of_a_config_has_a_meaning():
    settable = models.schema('generator', 'crn')
    assert set(settable) <= set(field_docs(CRN))
    assert set(settable) == {
        *('first_height', 'channels', 'last_channels', 'last_modules', 'width', 'split_at'),
        *('branches', 'num_branches', 'dropout', 'drop_ratio', 'norm_epsilon', 'forms'),
    }


@pytest.mark.parametrize(
    'fields, shape, message',
    [
        (dict(branches='seperate'), (1, 16, 16, 3), "did you mean 'separate'"),
        (dict(dropout='chanel'), (1, 16, 16, 3), "did you mean 'channel'"),
        (dict(forms='naiv'), (1, 16, 16, 3), "did you mean 'naive'"),
        (dict(branches='late', num_branches=0), (1, 16, 16, 3), 'at least 1 branch'),
        (dict(drop_ratio=1.0), (1, 16, 16, 3), 'not including, 1'),
        (dict(), (1, 20, 24, 3), 'first_height=5'),
        (dict(), (1, 96, 96, 3), 'first_height=6'),
        (dict(split_at=4), (1, 16, 16, 3), 'from 1 to 3'),
        (dict(split_at=0), (1, 16, 16, 3), 'from 1 to 3'),
    ],
)
def test_impossible_nets_are_explained(fields, shape, message):
    net = CRN(width=1 / 128, **fields)
    with pytest.raises(InputError, match=message):
        shapes_at(net, *shape, codes=jnp.zeros((2, 8)))


@pytest.mark.parametrize('codes', [None, (8,), (3, 9), (3, 2, 8), (1, 2, 2, 8)])
def test_codes_that_do_not_fit_are_explained(codes):
    codes = codes and jnp.zeros(codes)
    with pytest.raises(InputError, match=r'codes \[n, 8\], or with 2 examples in front'):
        shapes_at(CRN(**NARROW), 2, 16, 16, 3, codes=codes)
