"""Published weights. `config.init_from.path` may be a file in the naming of a release.

The releases are in sources.SOURCES.

    tensors = read('resnet50.safetensors')
    key = detect(tensors, 'resnet50.safetensors')
    tree, report = import_weights(tensors, variables, SOURCES[key])
    write('ours.safetensors', export_weights(variables, SOURCES[key]))
"""

import functools
import re
from collections.abc import Mapping, Sequence
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
    """Tensors of a file, and the source they come from."""

    path: str
    tensors: dict[str, np.ndarray]
    source: str  # a key of SOURCES

    @property
    def naming(self) -> Naming:
        """Returns the naming of the tensors."""
        return SOURCES[self.source]

    @property
    def scheme(self) -> str:
        """Returns how images were prepared for these weights, a key of ops.images.SCHEMES."""
        return self.naming.scheme


def open_weights(init_from: ml_collections.ConfigDict) -> Weights:
    """Reads the file that a config's section `init_from` names.

    Raises:
      InputError: the file cannot be read, or is in no known naming.
    """
    tensors = read(init_from.path)
    return Weights(init_from.path, tensors, detect(tensors, init_from.path, init_from.source))


def adopt_scheme(
    config: ml_collections.ConfigDict, scheme: str, default: str
) -> ml_collections.ConfigDict:
    """Returns the config with the preparation of images that its weights were trained with.

    A `preprocess` at its default is set. Another value is an error, and so is a pipeline without
    that key, unless init_from.preprocess is 'keep'.

    Args:
      config: not changed.
      scheme: of the weights.
      default: of config.preprocess.

    Raises:
      InputError: the config prepares images in another way.
    """
    if config.init_from.preprocess == 'keep':
        return config
    is_fixed = 'preprocess' not in config
    if not is_fixed and config.preprocess == scheme:
        return config
    if is_fixed or config.preprocess != default:
        pipeline = f'pipeline {config.pipeline!r}, which has its own'
        raise InputError(
            'config.preprocess',
            got=pipeline if is_fixed else repr(config.preprocess),
            expected=f'{scheme!r}, with which {config.init_from.path} was trained',
            fix=f'--config.preprocess={scheme}, or --config.init_from.preprocess=keep to train '
            'with other images',
        )
    config = config.copy_and_resolve_references()
    config.preprocess = scheme
    return config


def load_for(
    state: TrainState, weights: Weights, init_from: ml_collections.ConfigDict
) -> tuple[dict[str, dict[str, PyTree]] | None, str]:
    """Loads the weights of a file for the nets of a state, whose arrays may be abstract.

    `init_from.nets` says which arrays to load. A net is skipped if the file has none of them.
    Otherwise all of them must be in the file, see `import_weights`.

    Args:
      state: with the nets.
      weights: from `open_weights`.
      init_from: section of the config.

    Returns:
      ({'params': {net: ..}, 'model_state': {net: ..}} or None if the file has no net, text to
      print).
    """
    naming = weights.naming
    tensors = {naming.canonical(name) for name in weights.tensors}
    loaded = {'params': {}, 'model_state': {}}
    lines = [f'{weights.path}: {naming.release} (source {weights.source!r})']
    for net, params in state.params.items():
        variables = {'params': params, **state.model_state.get(net, {})}
        wanted = functools.partial(_is_wanted, init_from.nets, net)
        # A net of which the file has nothing keeps its initialisation. That is no error.
        asked = [
            place.tensor
            for name, place in places(variables, naming).items()
            if wanted(name.partition('/')[2])
        ]
        if not tensors.intersection(asked):
            lines.append(f' {net}: the file has no array of this net')
            continue
        tree, report = import_weights(
            weights.tensors,
            variables,
            naming,
            where=weights.path,
            partial=init_from.partial,
            wanted=wanted,
        )
        loaded['params'][net] = tree.pop('params', {})
        loaded['model_state'][net] = tree
        lines += [f' {net}:', str(report)]
    return (loaded if loaded['params'] else None), '\n'.join(lines)


def _is_wanted(patterns: Sequence[str], net: str, name: str) -> bool:
    """Returns whether a pattern matches the array `name` of a net."""
    return any(re.match(pattern, f'{net}/{name}') for pattern in patterns)


def nothing_fits(
    weights: Weights, init_from: ml_collections.ConfigDict, nets: Mapping[str, PyTree]
) -> InputError:
    """Returns the error about a file of which no net of a run has an array."""
    naming = weights.naming
    patterns = tuple(init_from.nets)
    fix = '--config.init_from.path= starts without weights; or set --config.model to such a net'
    if patterns != ('.*',):
        fix = """'--config.init_from.nets=(".*",)' asks for all modules"""
    return InputError(
        weights.path,
        got=f'weights of {naming.release}, of which the nets have no array: '
        f'{", ".join(sorted(nets))} (init_from.nets is {patterns})',
        expected=f'a net that these weights fit: {naming.fits}',
        fix=fix,
    )
