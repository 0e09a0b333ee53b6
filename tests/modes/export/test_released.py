"""Weights in the namings of releases: what is written is read back as the same arrays."""

import jax
import numpy as np
import pytest
import release_nets

from segjax import pretrained
from segjax.core import trees
from segjax.errors import InputError
from segjax.modes.export import released
from segjax.modes.export.program import Program
from segjax.protocol import TrainState


def state_of(variables, **extra):
    """Returns a state with a net 'segmenter', and a net that no prediction reads."""
    statistics = {key: value for key, value in variables.items() if key != 'params'}
    params = {'segmenter': variables['params'], 'critic': {'kernel': np.ones(3)}}
    return TrainState(np.int32(1), params, {'segmenter': statistics}, {}, extra)


def program_of(variables):
    """Returns a program that reads a net. Its function is never called."""
    names = trees.named_leaves(variables['params'])
    return Program(None, {f'params/segmenter/{name}': leaf for name, leaf in names.items()}, {})


@pytest.mark.parametrize('source', release_nets.NETS)
def test_every_release_is_written_and_read_back(source, tmp_path):
    variables = release_nets.variables_of(source)
    state = state_of(variables)
    found = released.releases(program_of(variables), state)
    (release,) = [each for each in found if source in (each.naming, *each.shared)]
    facts = released.write(tmp_path, found, state)
    assert set(facts) == {path.name for path in tmp_path.iterdir()} == {each.file for each in found}
    tensors = pretrained.read(str(tmp_path / release.file))
    assert len(tensors) == release.arrays <= release.total == len(trees.named_leaves(variables))
    loaded, report = pretrained.import_weights(tensors, variables, pretrained.SOURCES[source])
    assert len(report.loaded) == release.arrays and not report.unused
    values = trees.named_leaves(variables)
    for name, array in trees.named_leaves(loaded).items():
        np.testing.assert_array_equal(array, values[name])


def test_a_net_with_the_backbone_of_another_release_has_two_files(tmp_path):
    variables = release_nets.variables_of('coin')
    found = released.releases(program_of(variables), state_of(variables))
    by_naming = {each.naming: each for each in found}
    assert set(by_naming) == {'coin', 'resnet'}
    assert by_naming['coin'].arrays == by_naming['coin'].total > by_naming['resnet'].arrays
    assert by_naming['coin'].file == 'segmenter.coin.safetensors'


def test_averages_are_written(tmp_path):
    variables = release_nets.variables_of('erfnet')
    double = {'segmenter': jax.tree.map(lambda array: 2 * array, variables['params'])}
    state = state_of(variables, ema={'params': double, 'model_state': {}})
    found = released.releases(program_of(variables), state)
    released.write(tmp_path, found, state)
    (release,) = [each for each in found if each.naming == 'erfnet']
    tensors = pretrained.read(str(tmp_path / release.file))
    bias = variables['params']['decoder']['output_conv']['bias']
    np.testing.assert_array_equal(tensors['decoder.output_conv.bias'], 2 * bias)


def test_a_net_of_no_release_is_refused():
    variables = {'params': {'conv': {'kernel': np.ones((3, 3, 3, 5))}}}
    with pytest.raises(InputError) as error:
        released.releases(program_of(variables), state_of(variables))
    assert error.value.got == 'nets that no release has: segmenter'
