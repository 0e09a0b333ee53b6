"""Loads single nets from sources of their own: the rows of `config.init_from.sources`.

A row names nets by a pattern, and the file or the run that their parameters come from. All arrays
of such a net come from its source. config.preprocess is never adopted from a row: a feature net
prepares its images itself. The remaining nets start from `config.init_from.path`, or at
random. A net that no optimiser owns, as a feature net of a loss or of a metric, is loaded alike.
"""

import difflib
import functools
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from segjax import pretrained
from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.protocol import PyTree, TrainState
from segjax.schema import typed_text
from segjax.train import checkpoints, stored
from segjax.train.run import NetSource, Source

WHERE = 'config.init_from.sources'
SHOWN = 3
"""Number of differing arrays that an error shows."""


def open_rows(
    init_from: ml_collections.ConfigDict, read: Callable[[str, str], Source]
) -> tuple[NetSource, ...]:
    """Returns the rows of `init_from.sources`. Nothing is read before a row is loaded.

    Args:
      init_from: section of the config.
      read: (path, release) -> the parameters of a source. It is called once for each pair.
    """
    rows = [(*row, '')[:3] for row in init_from.sources]
    cached = functools.cache(read)

    def load(number: int) -> Source:
        _, path, release = rows[number]
        try:
            return cached(path, release)
        except InputError as error:
            raise _of_row(error, rows, number) from error

    return tuple(
        NetSource(*row, load=functools.partial(load, number)) for number, row in enumerate(rows)
    )


def _of_row(error: InputError, rows: Sequence[tuple[str, str, str]], number: int) -> InputError:
    """Returns an error about `init_from.path` or `init_from.source` as an error about a row."""
    pattern, path, _ = rows[number]
    where = error.where
    if where.startswith('config.init_from.'):
        where = f'{WHERE}, row {pattern!r}'
    fix = error.fix
    release = re.match(r'--config\.init_from\.source=(\w+)', fix)
    if release:
        chosen = [*rows[:number], (pattern, path, release[1]), *rows[number + 1 :]]
        fix = f'{_argument(chosen)}, or another release'
    elif '--config.init_from.' in fix:
        without = [*rows[:number], *rows[number + 1 :]]
        fix = f'the path of an existing source; or {_argument(without)}, which leaves it out'
    return error.replaced(where=where, fix=fix)


def _argument(rows: Iterable[Sequence[str]]) -> str:
    """Returns the argument that sets the rows."""
    value = tuple(tuple(row if len(row) == 2 or row[2] else row[:2]) for row in rows)
    return f'--{WHERE}={typed_text(value)}'


def _argument_without(rows: Sequence[NetSource], row: NetSource) -> str:
    """Returns the argument that sets all rows but one."""
    return _argument(other[:3] for other in rows if other is not row)


# --- rows and nets --------------------------------------------------------------------------------


def of_net(rows: Iterable[NetSource], net: str) -> NetSource | None:
    """Returns the row whose pattern matches a net, None if no pattern does."""
    return next((row for row in rows if _matches(row, net)), None)


def _matches(row: NetSource, net: str) -> bool:
    """Returns whether the pattern of a row matches a net, as init_from.nets matches net/module."""
    return re.match(row.pattern, f'{net}/') is not None


def owned(rows: Iterable[NetSource], nets: Iterable[str]) -> dict[str, NetSource]:
    """Returns {net: row} of the nets that have a row."""
    rows = tuple(rows)
    found = {net: of_net(rows, net) for net in nets}
    return {net: row for net, row in found.items() if row is not None}


def without(state: TrainState, nets: Collection[str]) -> TrainState:
    """Returns a state without the parameters and the batch statistics of some nets."""

    def remaining(trees: Mapping[str, PyTree]) -> dict[str, PyTree]:
        return {net: tree for net, tree in trees.items() if net not in nets}

    return state.replace(params=remaining(state.params), model_state=remaining(state.model_state))


# --- checks ---------------------------------------------------------------------------------------


def check(rows: Sequence[NetSource], states: Mapping[str, TrainState], partial: bool) -> None:
    """Raises InputError for rows that name no net, name a net twice, or do not fit their nets.

    Args:
      rows: of the run.
      states: by stage. Their arrays may be abstract.
      partial: config.init_from.partial.
    """
    nets = sorted({net for state in states.values() for net in state.params})
    for row in rows:
        if not any(_matches(row, net) for net in nets):
            raise _matches_nothing(rows, row, nets)
    for net in nets:
        claims = [row for row in rows if _matches(row, net)]
        if len(claims) > 1:
            raise InputError(
                WHERE,
                got=f'{claims[0].pattern!r} and {claims[1].pattern!r}, which both match {net!r}',
                expected='a single source for each net',
                fix=_argument_without(rows, claims[1]),
            )
    for state in states.values():
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        load(rows, abstract, partial)


def _matches_nothing(rows: Sequence[NetSource], row: NetSource, nets: Sequence[str]) -> InputError:
    """Returns the error about a row whose pattern matches no net."""
    fix = _argument_without(rows, row)
    near = difflib.get_close_matches(row.pattern, nets, n=1, cutoff=0.5)
    if near and of_net(rows, near[0]) is None:
        fix = _argument((near[0], *old[1:3]) if old is row else old[:3] for old in rows)
    return InputError(
        WHERE,
        got=f'{row.pattern!r}, which matches no net',
        expected=f'patterns of the nets {", ".join(nets)}',
        fix=fix,
    )


# --- loading --------------------------------------------------------------------------------------


def load(
    rows: Sequence[NetSource],
    state: TrainState,
    partial: bool,
    inherited: Collection[str] = (),
    frozen: Collection[str] = (),
) -> tuple[TrainState, list[str]]:
    """Replaces the arrays of all nets that have a row.

    Args:
      rows: of the run.
      state: a new state, which may be abstract.
      partial: whether arrays that do not fit keep their values. Otherwise they are an error.
      inherited: nets that keep their parameters, because an earlier stage of this run has them.
      frozen: nets that load the averages of a run, if it has averages.

    Returns:
      The new state, and a printable text for each net.

    Raises:
      InputError: a source without any array of its net, or whose arrays differ from the net's.
    """
    listings = []
    params = dict(state.params)
    model_state = dict(state.model_state)
    for net, row in owned(rows, state.params).items():
        if net in inherited:
            listings.append(f'{net}: from an earlier stage')
            continue
        own = without(state, set(state.params) - {net})
        source = row.load()
        if isinstance(source, pretrained.Weights):
            tree, listing = _from_file(rows, row, own, source, partial)
        else:
            source = checkpoints.as_evaluated(source, frozen)
            tree, listing = _from_run(rows, row, own, source, partial)
        params[net] = _replaced(params[net], tree['params'].get(net, {}))
        if net in model_state:
            model_state[net] = _replaced(model_state[net], tree['model_state'].get(net, {}))
        listings.append(listing)
    return state.replace(params=params, model_state=model_state), listings


def _replaced(tree: PyTree, arrays: PyTree) -> PyTree:
    """Replaces the leaves of a tree by the arrays of the same path, in the types of the leaves."""
    given = named_leaves(arrays)

    def choose(name: str, leaf: Any) -> Any:
        return np.asarray(given[name], leaf.dtype) if name in given else leaf

    leaves = [choose(name, leaf) for name, leaf in named_leaves(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _from_file(
    rows: Sequence[NetSource],
    row: NetSource,
    state: TrainState,
    weights: pretrained.Weights,
    partial: bool,
) -> tuple[Mapping[str, PyTree], str]:
    """Returns the arrays of published weights for the net of a state, and a text to print."""
    section = ml_collections.ConfigDict({'nets': ('.*',), 'partial': partial})
    tree, listing = pretrained.load_for(state, weights, section)
    if tree is None:
        (net,) = state.params
        raise InputError(
            row.path,
            got=f'weights of {weights.naming.release}, of which net {net!r} has no array',
            expected=f'a net that these weights fit: {weights.naming.fits}',
            fix=_argument_without(rows, row),
        )
    note = f'  note: trained on images prepared as {weights.scheme!r}; config.preprocess stays'
    return tree, f'{listing}\n{note}'


def _from_run(
    rows: Sequence[NetSource],
    row: NetSource,
    state: TrainState,
    source: Mapping[str, PyTree],
    partial: bool,
) -> tuple[Mapping[str, PyTree], str]:
    """Returns the arrays of a run for the net of a state, and a text to print."""
    (net,) = state.params
    nets = source['params']
    if net not in nets:
        raise InputError(
            row.path,
            got=f'a run with the nets {", ".join(sorted(nets))}',
            expected=f'a run with the net {net!r}',
            fix=_argument_without(rows, row),
        )

    # All differences are collected, so that the error can show several.
    given = _leaves_of(source, net)
    wanted = _leaves_of({'params': state.params, 'model_state': state.model_state}, net)
    fitting = {}
    different = [f'no {name}' for name in wanted if name not in given]
    different += [f'unexpected {name}' for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        if np.shape(given[name]) == wanted[name].shape:
            fitting[name] = given[name]
        else:
            different.append(f'{name}: {np.shape(given[name])}, not {wanted[name].shape}')
    if not fitting or (different and not partial):
        noun = 'difference' if len(different) == 1 else 'differences'
        raise InputError(
            row.path,
            got=f'{"; ".join(sorted(different)[:SHOWN])} ({len(different)} {noun})',
            expected=f'the arrays of net {net!r}, with the model keys and the classes of this run',
            fix=_fix_of_other_net(row, len(fitting)) if fitting else _argument_without(rows, row),
        )
    listing = f'{row.path}: {len(fitting)} of {len(wanted)} arrays of {net}'
    tree = traverse_util.unflatten_dict(fitting, sep='/')
    return {'params': {}, 'model_state': {}, **tree}, listing


def _fix_of_other_net(row: NetSource, num_fitting: int) -> str:
    """Returns the fix for a run whose net has other arrays."""
    path = pathlib.Path(row.path.removesuffix(':best'))
    # The row may name a stage or a checkpoint of the run.
    runs = [folder for folder in (path, *path.parents) if (folder / stored.CONFIG).exists()]
    place = runs[0] if runs else path
    return (
        f'set the model keys as in that run: --mode config --workdir {place} prints them; '
        f'or --config.init_from.partial=True loads the {num_fitting} that fit, '
        'and leaves the remaining arrays random'
    )


def _leaves_of(tree: Mapping[str, PyTree], net: str) -> dict[str, Any]:
    """Returns the parameters and the batch statistics of a net by path."""
    fields = {}
    for field in ('params', 'model_state'):
        fields[field] = {net: tree[field].get(net, {})}
    return named_leaves(fields)
