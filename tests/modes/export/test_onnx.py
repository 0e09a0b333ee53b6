"""ONNX files: onnxruntime computes the outputs of the run. Skipped without jax2onnx."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import nets
import numpy as np
import pytest

from segjax import models
from segjax.errors import InputError
from segjax.modes.export import examples, onnx_file, page
from segjax.modes.export.program import Program
from segjax.modes.export.uses import Use
from segjax.spec import Feature

SIZE = (32, 64)


@pytest.fixture(scope='module', autouse=True)
def packages():
    """Skips all tests if a package is absent."""
    pytest.importorskip('jax2onnx')
    pytest.importorskip('onnxruntime')


class Residual(nn.Module):
    """Two convolutions around a residual connection, whose layout the converter gets wrong."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        for _ in range(2):
            x = nn.relu(x + nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        return {'logits': nn.Conv(3, (1, 1))(x)}


def program_of(net):
    """Returns the program of a net with random variables."""
    variables = nets.random_variables(net, (1, *SIZE, 3))

    def function(weights, inputs):
        outputs = net.apply(variables, inputs['image'] / 255.0, train=False)
        probabilities = nn.softmax(outputs['logits'])
        return {
            'probabilities': probabilities,
            'brightness': inputs['image'].astype(jnp.float32).mean(3),
        }

    return Program(function, {}, {'image': jax.ShapeDtypeStruct((*SIZE, 3), 'uint8')})


def images(rows):
    return {'image': np.random.default_rng(0).integers(0, 256, (rows, *SIZE, 3), np.uint8)}


@pytest.mark.parametrize('batch', [None, 3])
def test_a_residual_net(tmp_path, batch):
    program = program_of(Residual())
    onnx_file.write(tmp_path, program, batch)
    expected = program.function({}, images(3))
    differences = onnx_file.check(tmp_path, images(3), expected)
    assert set(differences) == {'probabilities', 'brightness'}
    assert all(each.largest < 1e-5 * each.scale for each in differences.values())


def net_program(name, fields):
    """Returns the program of a net of the registry."""
    net = models.build(
        'segmentation', name, num_classes=19, dtype='float32', axis_name=None, **fields
    )
    return program_of(net)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, fields',
    [
        ('erfnet', dict(width=1 / 4, first_maps=32)),
        ('bisenet', dict(width=1 / 16)),
        ('bisenet', dict(width=1 / 16, release='coin')),
        ('deeplab_largefov', dict(width=1 / 64)),
        ('deeplab_v2', dict(width=1 / 16, num_layers=50)),
        ('fcn', dict(width=1 / 64)),
        ('pspnet', dict(width=1 / 16)),
    ],
)
def test_nets_that_convert(tmp_path, name, fields):
    program = net_program(name, fields)
    onnx_file.write(tmp_path, program, 1)
    expected = jax.jit(program.function)({}, images(1))
    differences = onnx_file.check(tmp_path, images(1), expected)
    assert all(each.largest < 1e-3 * each.scale for each in differences.values())


@pytest.mark.slow
@pytest.mark.parametrize('backbone', ['xception41', 'resnet50'])
def test_depthwise_convolutions_have_no_translation(tmp_path, backbone):
    """Their form depends on the platform, and the converter knows no such choice."""
    program = net_program('deeplab_v3plus', dict(width=1 / 16, backbone=backbone))
    with pytest.raises(InputError, match='platform_index'):
        onnx_file.write(tmp_path, program, 1)


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    program = program_of(Residual())
    onnx_file.write(tmp_path, program, None)
    use = Use(None, program.inputs, {'image': Feature('image')}, {}, SIZE)
    exported = page.Exported(use, program, None, ('cpu',), None, '')
    text = page.onnx_section(exported, onnx_file.MODEL)
    (code,) = re.findall(r'```py\n(.*?)```', text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names['outputs']['probabilities'].shape == (2, *SIZE, 3)


def test_other_results_are_refused(tmp_path):
    program = program_of(Residual())
    onnx_file.write(tmp_path, program, None)
    expected = program.function({}, images(1))
    wrong = {**expected, 'brightness': expected['brightness'] + 20}
    with pytest.raises(InputError, match='100% of the values of brightness'):
        onnx_file.check(tmp_path, images(1), wrong)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / onnx_file.MODEL).write_bytes(b'none')
    with pytest.raises(InputError, match='onnxruntime refuses'):
        onnx_file.check(tmp_path, images(1), {})


@pytest.mark.parametrize('batch, fix', [(None, '--batch 1'), (1, '--formats stablehlo')])
def test_an_operation_without_a_translation_is_refused(tmp_path, batch, fix):
    def function(weights, inputs):
        image = inputs['image'].astype(jnp.float32)
        return {'sum': jax.lax.platform_dependent(image, cpu=jnp.sin, default=jnp.cos)}

    program = Program(function, {}, {'image': jax.ShapeDtypeStruct((*SIZE, 3), 'uint8')})
    with pytest.raises(InputError) as error:
        onnx_file.write(tmp_path, program, batch)
    assert error.value.where == '--formats onnx' and 'platform_index' in error.value.got
    assert error.value.fix == fix


def test_far_values_are_counted():
    values = {'a': np.array([1.0, 1.02, 0.999, -1.0])}
    expected = {'a': np.array([1.0, 1.0, 1.0, -1.0])}
    assert examples.compare(values, expected)['a'].far == 0.25
