"""Writes the nets of a program as safetensors, in the namings of published releases."""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from segjax import pretrained
from segjax.core import trees
from segjax.errors import InputError
from segjax.modes.export.program import Program, with_averages
from segjax.pretrained import sources
from segjax.protocol import TrainState


class Release(NamedTuple):
    """A file of weights that is written.

    net     of the state
    naming  key of SOURCES, the first of equal namings
    shared  further keys of SOURCES, whose files have the same names
    arrays  number of its tensors
    total   number of arrays of the net, all of which no backbone has
    """

    net: str
    naming: str
    shared: tuple[str, ...]
    arrays: int
    total: int

    @property
    def file(self) -> str:
        """Returns the name of the file."""
        return f'{self.net}.{self.naming}.safetensors'


def nets_of(program: Program) -> tuple[str, ...]:
    """Returns the nets whose parameters a program reads, in the order of their names."""
    paths = [name.split('/') for name in program.weights]
    return tuple(sorted({path[1] for path in paths if path[0] == 'params'}))


def releases(program: Program, state: TrainState) -> list[Release]:
    """Returns the files that can be written.

    A naming fits a net if the names of its tensors have all marks of the release. A net with a
    backbone of another release fits both namings.

    Args:
      program: reads some nets of the state.
      state: of the stage.

    Raises:
      InputError: no release has the names of a net.
    """
    found = []
    for net in nets_of(program):
        variables = variables_of(state, net)
        by_tensors: dict[frozenset[str], list[str]] = {}
        for key, naming in pretrained.SOURCES.items():
            tensors = {place.tensor for place in pretrained.places(variables, naming).values()}
            if tensors and sources.has_marks(naming, tensors):
                by_tensors.setdefault(frozenset(tensors), []).append(key)
        total = len(trees.named_leaves(variables))
        for tensors, (first, *further) in by_tensors.items():
            found.append(Release(net, first, tuple(further), len(tensors), total))
    if not found:
        raise InputError(
            '--formats safetensors',
            got=f'nets that no release has: {", ".join(nets_of(program)) or "none"}',
            expected='a net in the naming of a release: ' + ', '.join(pretrained.SOURCES),
            fix='--formats stablehlo, whose weights.npz has all arrays',
        )
    return found


def variables_of(state: TrainState, net: str) -> dict[str, Any]:
    """Returns the arrays of a net, as `pretrained.export_weights` gets them."""
    return {'params': state.params[net], **state.model_state.get(net, {})}


def write(
    folder: pathlib.Path, found: Iterable[Release], state: TrainState
) -> dict[str, dict[str, Any]]:
    """Writes the files into a folder.

    Args:
      folder: receives them.
      found: from `releases`.
      state: of the stage, on the host. Averages take the place of parameters.

    Returns:
      Facts for export.json, by file.
    """
    state = with_averages(state)
    facts = {}
    for release in found:
        naming = pretrained.SOURCES[release.naming]
        tensors = pretrained.export_weights(variables_of(state, release.net), naming)
        pretrained.write(str(folder / release.file), tensors)
        facts[release.file] = {
            'release': naming.release,
            'namings': (release.naming, *release.shared),
            'arrays': f'{release.arrays} of {release.total}',
            'images': naming.scheme,
        }
    return facts
