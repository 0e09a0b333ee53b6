"""Where a stage without a checkpoint begins: from what `config.init_from` names, then from scratch.

The lower rungs of the driver's ladder. What `init_from.path` names is read once for all stages, when it is first asked
for; a run whose stages all have a checkpoint never asks. `run` is driver.Run.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from segjax import config as config_lib
from segjax import pretrained
from segjax.core import files, notes, parallel, rng, trees
from segjax.data import loader
from segjax.errors import InputError
from segjax.protocol import PyTree, Stage, TrainState
from segjax.train import checkpoints
from segjax.train import stored as stored_files

Source = pretrained.Weights | Mapping[str, PyTree]
"""Published weights, or {'params': .., 'model_state': ..} of another run."""


def has_begun(workdir: pathlib.Path) -> bool:
    """Whether a run folder holds a whole checkpoint."""
    return any(map(has_checkpoint, workdir.glob('*')))


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Whether the folder of a stage holds a whole checkpoint; unfinished and damaged saves have other names."""
    return any(record.parent.name.isdigit() for record in folder.glob('checkpoints/*/record'))


def write_start(run, stages: tuple[Stage, ...], stored: pathlib.Path) -> None:
    """Writes once, before anything is trained, the stages of a run in order and what they begin from.

    start.json: {'stages': [names], 'steps': [of each stage], 'init_from': the section of the config, 'digest': that of
    the parameters}. The digest is '' for a run that begins at random, or that is older than this file.

    Args:
      run: driver.Run.
      stages: all of its stages.
      stored: where the run folder keeps its config, still that of the start before.
    """
    path, begun = run.workdir / files.START, has_begun(run.workdir)
    source = None if begun else run.source()  # read in every process, which all need it later
    if begun and path.exists():
        stored_files.read_start(path)
        return
    if not parallel.is_main():
        return
    config = config_lib.from_json(stored_files.read_config(stored)) if begun else run.config
    known = config_lib.to_json(config)['init_from']
    content = {
        'stages': [stage.name for stage in stages],
        'steps': [stage.num_steps for stage in stages],
        'init_from': known,
        'digest': '' if source is None else digest(source),
    }
    files.write_json(path, content)


def check_later_stages(run, stages: tuple[Stage, ...]) -> None:
    """Raises InputError if a stage without a checkpoint would begin from another start than its run.

    Args:
      run: driver.Run. Its start.json is written, but may be older than the digest in it.
      stages: all of its stages.
    """
    start = run.workdir / files.START
    later = [stage.name for stage in stages if not has_checkpoint(run.workdir / stage.name)]
    if not later or not has_begun(run.workdir) or not start.exists():
        return
    # A run that is older than the digest says nothing about its parameters.
    content = stored_files.read_start(start, ('init_from',))
    known, known_digest = content['init_from'], content.get('digest', '')
    if known.get('path') and not known_digest:
        return
    # The same parameters may lie at another path. The keys choose among them.
    source = run.source()
    found = {'digest': '' if source is None else digest(source)}
    expected = {'digest': known_digest}
    if source is not None and known_digest:
        now = config_lib.to_json(run.config)['init_from']
        keys = [key for key in ('nets', 'partial', 'source') if key in known]
        found |= {key: now[key] for key in keys}
        expected |= {key: known[key] for key in keys}
    if found == expected:
        return
    # The error names what differs.
    wrong = [key for key in expected if found[key] != expected[key]]
    path = known.get('path', '')
    raise InputError(
        f'config.init_from of stage {later[0]!r}, which has not begun',
        got=', '.join(f'{key} {found[key] or "of none"}' for key in wrong),
        expected=', '.join(f'{key} {expected[key] or "of none"}' for key in wrong)
        + ', as the stages that have begun',
        fix=f'--config.init_from.path={path}, with its other keys as {start} has them; or another --workdir',
    )


def tell_unused(run, stages: tuple[Stage, ...]) -> None:
    """Prints a note if `init_from.path` names another start than that of the stages that have begun.

    Args:
      run: driver.Run.
      stages: all of its stages.
    """
    path, start = run.config.init_from.path, run.workdir / files.START
    begun = [stage.name for stage in stages if has_checkpoint(run.workdir / stage.name)]
    if not path or not begun or not start.exists():
        return
    known = stored_files.read_start(start, ('init_from',))['init_from'].get('path', '')
    if _place(path) != _place(known):
        message = f'{path} is not read for {", ".join(begun)}, which began from {known or "random parameters"}'
        notes.tell(notes.Note('config.init_from.path', message, 'another --workdir begins from it'))


def _place(path: str) -> str:
    return path if path.startswith(pretrained.HUB) else os.path.abspath(os.path.expanduser(path))


def digest(source: Source) -> str:
    """Returns twelve hexadecimal digits that depend on the names and values of all arrays, and on no file name."""
    arrays = (
        source.tensors
        if isinstance(source, pretrained.Weights)
        else trees.named_leaves(dict(source))
    )
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f'{name} {array.dtype} {array.shape};'.encode())
        found.update(array.tobytes())
    return found.hexdigest()[:12]


def reader(init_from: ml_collections.ConfigDict) -> Callable[[], Source | None]:
    """A function that gives what the section names (None if it names nothing), and reads it the first time only."""

    @functools.cache
    def source():
        if not init_from.path:
            return None
        if pretrained.is_weights(init_from.path):
            return pretrained.open_weights(init_from)
        pretrained.refuse_other_file(init_from.path)
        return checkpoints.load_params(init_from.path)

    return source


def with_preprocess(
    config: ml_collections.ConfigDict, stored: pathlib.Path, source: Callable[[], Source | None]
) -> ml_collections.ConfigDict:
    """The config with the `preprocess` of the weights it starts from; a run that has begun keeps its own.

    Args:
      config: not changed.
      stored: where the run folder keeps its config.
      source: from `reader`.
    """
    if not pretrained.is_weights(config.init_from.path):
        return config
    if has_begun(stored.parent):
        return with_stored_preprocess(config, stored_files.read_config(stored))
    return pretrained.adopt_scheme(config, source().scheme, _default_preprocess(config))


def with_stored_preprocess(
    config: ml_collections.ConfigDict, stored: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the config with the `preprocess` that its run adopted from a file of weights.

    Args:
      config: not changed.
      stored: the config that the run folder keeps.
    """
    default = _default_preprocess(config)
    if (
        not default
        or 'preprocess' not in stored
        or not pretrained.is_weights(config.init_from.path)
    ):
        return config
    return (
        pretrained.adopt_scheme(config, stored['preprocess'], default)
        if config.preprocess == default
        else config
    )


def _default_preprocess(config: ml_collections.ConfigDict) -> str:
    return config_lib.defaults(config.pipeline).preprocess if 'preprocess' in config else ''


def check_weights(run, states: Mapping[str, TrainState]) -> None:
    """Raises InputError for parameters that the nets of no stage take, or not whole, before anything compiles.

    Args:
      run: driver.Run.
      states: from `abstract_states`.
    """
    source = run.source()
    if isinstance(source, pretrained.Weights):
        _check_weights(run, states, source)
    elif source is not None:
        _check_run_folder(run, states, source)


def _check_weights(run, states: Mapping[str, TrainState], weights: pretrained.Weights) -> None:
    """Raises InputError for published weights that the nets of no stage take."""
    nets, taken = {}, False
    for abstract in states.values():
        nets |= abstract.params
        taken |= pretrained.load_for(abstract, weights, run.config.init_from)[0] is not None
    if not taken:
        raise pretrained.nothing_fits(weights, run.config.init_from, nets)


def _check_run_folder(run, states: Mapping[str, TrainState], source: Mapping[str, PyTree]) -> None:
    """Raises InputError for parameters of another run that some stage does not take."""
    earlier: set[str] = set()
    for state in states.values():
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        inherited = earlier & set(
            state.params
        )  # perhaps: whether a net is taken over shows in values alone
        checkpoints.merge_params(abstract, source, run.config.init_from.nets, inherited)
        earlier |= set(state.params)


def initial_state(run, stage: Stage, earlier: Mapping[str, TrainState]) -> TrainState:
    """A fresh state on the host, with the parameters that `config.init_from` names.

    Args:
      run: driver.Run.
      stage: any of its stages.
      earlier: the final states of the stages before, on the host.

    Raises:
      InputError: parameters that do not fit, or none that a pattern of `init_from.nets` finds.
    """
    # Not compiled as a whole: small programs that all nets share take a tenth of the time.
    state = parallel.to_host(stage.init(*arguments(run, stage, earlier)))
    source = run.source()
    if source is None:
        return state
    summaries, patterns = [], run.config.init_from.nets
    if isinstance(source, pretrained.Weights):
        source, listing = pretrained.load_for(
            state, source, run.config.init_from
        )  # has looked at the patterns
        summaries, patterns = [listing], ('.*',)
    if source is not None:
        state, summary = checkpoints.merge_params(
            state, source, patterns, _inherited(state, earlier)
        )
        summaries.append(summary)
    if parallel.is_main():
        print(f'stage {stage.name!r}: ' + '\n'.join(summaries), flush=True)
    return state


def abstract_state(run, stage: Stage, earlier: Mapping[str, TrainState]) -> TrainState:
    """Shapes and types of a stage's state; those of `earlier` may be abstract, too."""
    return jax.eval_shape(stage.init, *arguments(run, stage, earlier))


def abstract_states(run, stages: Sequence[Stage]) -> dict[str, TrainState]:
    """Returns `abstract_state` of every stage, by name."""
    states = {}
    for stage in stages:
        states[stage.name] = abstract_state(run, stage, states)
    return states


def arguments(run, stage: Stage, earlier: Mapping[str, TrainState]):
    """Returns those of `stage.init`: a key that all stages share, zeros as the batch, earlier states."""
    inputs = stage.train_input or stage.eval_input
    batch = loader.zeros(inputs, max(1, inputs.batch_size // run.topology.count))
    return rng.root(run.config.seed, 'init'), batch, dict(earlier)


def _inherited(state: TrainState, earlier: Mapping[str, TrainState]) -> set[str]:
    """Nets that the stage took over as an earlier stage left them: trained in this run already."""

    def same(a, b):
        pairs = [trees.named_leaves(tree) for tree in (a, b)]
        return pairs[0].keys() == pairs[1].keys() and all(
            np.array_equal(leaf, pairs[1][name]) for name, leaf in pairs[0].items()
        )

    return {
        net
        for before in earlier.values()
        for net, params in before.params.items()
        if net in state.params and same(state.params[net], params)
    }
