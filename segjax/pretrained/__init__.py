"""Published weights as a start: `config.init_from.path` may be a file in the naming of a release (sources.SOURCES).

tensors = read('resnet50.safetensors')
key = detect(tensors, 'resnet50.safetensors')
tree, report = import_weights(tensors, variables, SOURCES[key])
write('ours.safetensors', export_weights(variables, SOURCES[key]))
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from segjax.core.paths import HUB, is_weights
from segjax.errors import InputError
from segjax.pretrained.convert import Report, export_weights, import_weights, places
from segjax.pretrained.files import read, refuse_other_file, write
from segjax.pretrained.sources import SOURCES, Naming, detect
from segjax.protocol import PyTree, TrainState

__all__ = [
    'HUB',
    'SOURCES',
    'Naming',
    'Report',
    'Weights',
    'adopt_scheme',
    'detect',
    'export_weights',
    'import_weights',
    'is_weights',
    'load_for',
    'nothing_fits',
    'open_weights',
    'read',
    'refuse_other_file',
    'write',
]


class Weights(NamedTuple):
    """A file of weights, read."""

    path: str
    tensors: dict[str, np.ndarray]
    source: str  # a key of SOURCES

    @property
    def scheme(self) -> str:
        """How images were prepared for them."""
        return SOURCES[self.source].scheme


def open_weights(init_from: ml_collections.ConfigDict) -> Weights:
    """What a config's section `init_from` names; InputError for a file that cannot be read, or in no known naming."""
    tensors = read(init_from.path)
    return Weights(init_from.path, tensors, detect(tensors, init_from.path, init_from.source))


def adopt_scheme(
    config: ml_collections.ConfigDict, scheme: str, default: str
) -> ml_collections.ConfigDict:
    """The config with the preparation of images that its weights were trained with.

    A `preprocess` at its default is set; one that says otherwise is an error, as is a pipeline without that key, unless
    init_from.preprocess is 'keep'.

    Args:
      config: not changed.
      scheme: that of the weights.
      default: of config.preprocess.
    """
    if config.init_from.preprocess == 'keep':
        return config
    got = (
        config.preprocess
        if 'preprocess' in config
        else f'pipeline {config.pipeline!r}, which has its own'
    )
    if got == scheme:
        return config
    if got != default:
        raise InputError(
            'config.preprocess',
            got=f'{got!r}' if 'preprocess' in config else got,
            expected=f'{scheme!r}, with which {config.init_from.path} was trained',
            fix=f'--config.preprocess={scheme}, or --config.init_from.preprocess=keep to train with other images',
        )
    config = config.copy_and_resolve_references()
    config.preprocess = scheme
    return config


def load_for(
    state: TrainState, weights: Weights, init_from: ml_collections.ConfigDict
) -> tuple[dict[str, dict[str, PyTree]] | None, str]:
    """The weights of a file for the nets of a state, whose arrays may be abstract.

    Every net of which the file has at least one tensor that `init_from.nets` asks for, by name, must be in it whole, as
    import_weights says; of the others nothing is taken.

    Returns:
      ({'params': {net: ..}, 'model_state': {net: ..}} or None if no net is in the file, what to print).
    """
    path, tensors, source = weights.path, weights.tensors, SOURCES[weights.source]
    names = {source.canonical(name) for name in tensors}
    found, lines = (
        {'params': {}, 'model_state': {}},
        [f'{path}: {source.release} (source {weights.source!r})'],
    )
    for net, params in state.params.items():

        def wanted(name, net=net):
            return any(re.match(pattern, f'{net}/{name}') for pattern in init_from.nets)

        variables = _variables(params, state.model_state.get(net, {}))
        slots = places(variables, source)
        if not any(
            place.tensor in names and wanted(name.partition('/')[2])
            for name, place in slots.items()
        ):
            lines.append(f' {net}: nothing of it is in the file')
            continue
        tree, report = import_weights(
            tensors, variables, source, where=path, partial=init_from.partial, wanted=wanted
        )
        found['params'][net] = tree.pop('params', {})
        found['model_state'][net] = tree
        lines += [f' {net}:', str(report)]
    return (found if found['params'] else None), '\n'.join(lines)


def nothing_fits(
    weights: Weights, init_from: ml_collections.ConfigDict, nets: Mapping[str, PyTree]
) -> InputError:
    """Returns the error for a file that none of a run's nets takes."""
    source, patterns = SOURCES[weights.source], tuple(init_from.nets)
    fix = '--config.init_from.path= starts without weights; or set --config.model to such a net'
    if patterns != ('.*',):
        fix = """'--config.init_from.nets=(".*",)' asks for all modules"""
    return InputError(
        weights.path,
        got=f'weights of which the nets have no array: {", ".join(sorted(nets))}; they are of {source.release}'
        f' (init_from.nets is {patterns})',
        expected=f'a net that these weights are of: {source.fits}',
        fix=fix,
    )


def _variables(params: PyTree, model_state: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {'params': params, **model_state}
