"""Initialises a stage without a checkpoint: from the source in `config.init_from`, else at random.

The source is loaded once for all stages, when it is first needed. A run whose stages all have a
checkpoint never loads it, so the file may be deleted by then.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from segjax import config as config_lib
from segjax import pretrained
from segjax.core import files, notes, parallel, rng, trees
from segjax.data import loader
from segjax.errors import InputError
from segjax.protocol import PRNGKey, PyTree, Stage, TrainState
from segjax.train import checkpoints
from segjax.train import stored as stored_files
from segjax.train.run import Run, Source

# --- the start of a run ---------------------------------------------------------------------------


def has_begun(workdir: pathlib.Path) -> bool:
    """Returns whether a run folder holds a checkpoint, whole or damaged."""
    return any(map(has_checkpoint, workdir.glob('*')))


def has_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether the folder of a stage holds a numbered checkpoint, whole or damaged.

    A stage with a damaged checkpoint has begun: its config must not be replaced. Unfinished saves,
    and damaged checkpoints that were put away, do not count.
    """
    return bool(checkpoints.numbered(folder / 'checkpoints'))


def write_start(run: Run, stages: tuple[Stage, ...], stored: pathlib.Path) -> None:
    """Writes start.json once, before anything is trained: the stages of a run and their source.

    start.json: {'stages': [names in order], 'steps': [of each stage], 'init_from': the section of
    the config, 'digest': of the parameters}. The digest is '' for a run that starts at random, and
    for a run that is older than this file.

    Args:
      run: the run.
      stages: all of its stages.
      stored: config.json of the run folder. It still holds the config of the start before.
    """
    path = run.workdir / files.START
    begun = has_begun(run.workdir)
    # Every process loads the source, because all of them need it later.
    source = None if begun else run.source()
    if begun and path.exists():
        stored_files.read_start(path)
        return
    if not parallel.is_main():
        return
    config = config_lib.from_json(stored_files.read_config(stored)) if begun else run.config
    content = {
        'stages': [stage.name for stage in stages],
        'steps': [stage.num_steps for stage in stages],
        'init_from': config_lib.to_json(config)['init_from'],
        'digest': digest(source),
    }
    files.write_json(path, content)


def check_later_stages(run: Run, stages: tuple[Stage, ...]) -> None:
    """Raises InputError if a stage would start from another source than the stages before.

    Only stages without a checkpoint count.

    Args:
      run: the run. Its start.json is written, but may be older than the digest in it.
      stages: all of its stages.
    """
    start = run.workdir / files.START
    later = [stage.name for stage in stages if not has_checkpoint(run.workdir / stage.name)]
    if not later or not has_begun(run.workdir) or not start.exists():
        return

    # A run that is older than the digest says nothing about its parameters.
    content = stored_files.read_start(start, ('init_from',))
    known = content['init_from']
    known_digest = content.get('digest', '')
    if known.get('path') and not known_digest:
        return

    # The same parameters may lie at another path. The keys select arrays from them.
    source = run.source()
    current = {'digest': digest(source)}
    expected = {'digest': known_digest}
    if source is not None and known_digest:
        section = config_lib.to_json(run.config)['init_from']
        keys = [key for key in ('nets', 'partial', 'source') if key in known]
        current |= {key: section[key] for key in keys}
        expected |= {key: known[key] for key in keys}
    if current == expected:
        return

    # The error names the differences.
    wrong = [key for key in expected if current[key] != expected[key]]
    path = known.get('path', '')
    raise InputError(
        f'config.init_from of stage {later[0]!r}, which has not begun',
        got=_listed(current, wrong),
        expected=f'{_listed(expected, wrong)}, as the stages that have begun',
        fix=f'--config.init_from.path={path}, with its other keys as {start} has them; '
        'or another --workdir',
    )


def _listed(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns 'digest 0123456789ab, nets (..)' for an error."""
    return ', '.join(f'{key} {values[key] or "of none"}' for key in keys)


def tell_unused(run: Run, stages: tuple[Stage, ...]) -> None:
    """Prints a note if `init_from.path` differs from the source of the stages that have begun.

    Args:
      run: the run.
      stages: all of its stages.
    """
    path = run.config.init_from.path
    start = run.workdir / files.START
    begun = [stage.name for stage in stages if has_checkpoint(run.workdir / stage.name)]
    if not path or not begun or not start.exists():
        return
    known = stored_files.read_start(start, ('init_from',))['init_from'].get('path', '')
    if _place(path) == _place(known):
        return
    source = known or 'random parameters'
    message = f'{path} is not read for {", ".join(begun)}, which began from {source}'
    notes.tell(notes.Note('config.init_from.path', message, 'another --workdir begins from it'))


def _place(path: str) -> str:
    """Returns a path in the form in which two spellings of it are equal."""
    return path if path.startswith(pretrained.HUB) else os.path.abspath(os.path.expanduser(path))


# --- the source -----------------------------------------------------------------------------------


def digest(source: Source | None) -> str:
    """Returns twelve hexadecimal digits of the names and values of all arrays, '' for no source."""
    if source is None:
        return ''
    if isinstance(source, pretrained.Weights):
        arrays = source.tensors
    else:
        arrays = trees.named_leaves(dict(source))
    return trees.digest(arrays)


def reader(init_from: ml_collections.ConfigDict) -> Callable[[], Source | None]:
    """Returns a cached function that loads the parameters named by `init_from`.

    The function returns None if the section names none.
    """

    @functools.cache
    def source() -> Source | None:
        if not init_from.path:
            return None
        if pretrained.is_weights(init_from.path):
            return pretrained.open_weights(init_from)
        pretrained.refuse_other_file(init_from.path)
        return checkpoints.load_params(init_from.path)

    return source


# --- the preparation of images --------------------------------------------------------------------


def with_preprocess(
    config: ml_collections.ConfigDict, stored: pathlib.Path, source: Callable[[], Source | None]
) -> ml_collections.ConfigDict:
    """Returns the config with the `preprocess` of its published weights.

    A run that has begun keeps the `preprocess` in its folder, and does not load the weights again.

    Args:
      config: not changed.
      stored: config.json of the run folder.
      source: from `reader`.
    """
    if not pretrained.is_weights(config.init_from.path):
        return config
    if has_begun(stored.parent):
        return with_stored_preprocess(config, stored_files.read_config(stored))
    weights = source()
    assert isinstance(weights, pretrained.Weights)
    return pretrained.adopt_scheme(config, weights.scheme, _default_preprocess(config))


def with_stored_preprocess(
    config: ml_collections.ConfigDict, stored: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns the config with the `preprocess` that its run adopted from published weights.

    Args:
      config: not changed.
      stored: the config in the run folder.
    """
    default = _default_preprocess(config)
    if not default or 'preprocess' not in stored:
        return config
    if not pretrained.is_weights(config.init_from.path) or config.preprocess != default:
        return config
    return pretrained.adopt_scheme(config, stored['preprocess'], default)


def _default_preprocess(config: ml_collections.ConfigDict) -> str:
    """Returns the default of `preprocess`, '' for a pipeline without this key."""
    return config_lib.defaults(config.pipeline).preprocess if 'preprocess' in config else ''


# --- checks before anything compiles --------------------------------------------------------------


def check_weights(run: Run, states: Mapping[str, TrainState]) -> None:
    """Raises InputError if no stage can load the source, or only part of it.

    Args:
      run: the run.
      states: from `abstract_states`.
    """
    source = run.source()
    if isinstance(source, pretrained.Weights):
        _check_published(run, states, source)
    elif source is not None:
        _check_run_folder(run, states, source)


def _check_published(
    run: Run, states: Mapping[str, TrainState], weights: pretrained.Weights
) -> None:
    """Raises InputError for published weights that the nets of no stage can load."""
    nets: dict[str, PyTree] = {}
    fits = False
    for abstract in states.values():
        nets |= abstract.params
        fits |= pretrained.load_for(abstract, weights, run.config.init_from)[0] is not None
    if not fits:
        raise pretrained.nothing_fits(weights, run.config.init_from, nets)


def _check_run_folder(
    run: Run, states: Mapping[str, TrainState], source: Mapping[str, PyTree]
) -> None:
    """Raises InputError for parameters of another run that some stage cannot load."""
    earlier: set[str] = set()
    for state in states.values():
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        # Only the values show whether a net is really copied from an earlier stage. Assume so.
        inherited = earlier & set(state.params)
        checkpoints.merge_params(abstract, source, run.config.init_from.nets, inherited)
        earlier |= set(state.params)


# --- states ---------------------------------------------------------------------------------------


def initial_state(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> TrainState:
    """Returns a new state on the host, with the parameters that `config.init_from` names.

    Args:
      run: the run.
      stage: any of its stages.
      earlier: the final states of the stages before and their arrays, on the host (`handed_on`).

    Raises:
      InputError: parameters that do not fit, or a pattern of `init_from.nets` that matches nothing.
    """
    # Run op by op. Compiling the whole initialiser takes ten times as long.
    state = parallel.to_host(stage.init(*arguments(run, stage, earlier)))
    source = run.source()
    if source is None:
        return state
    summaries = []
    patterns = run.config.init_from.nets
    if isinstance(source, pretrained.Weights):
        # Loading applies the patterns, so the merge below must not apply them again.
        source, listing = pretrained.load_for(state, source, run.config.init_from)
        summaries.append(listing)
        patterns = ('.*',)
    if source is not None:
        inherited = _inherited(state, earlier)
        state, summary = checkpoints.merge_params(state, source, patterns, inherited)
        summaries.append(summary)
    if parallel.is_main():
        print(f'stage {stage.name!r}: ' + '\n'.join(summaries), flush=True)
    return state


def abstract_state(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> TrainState:
    """Returns shapes and types of a stage's state. The leaves of `earlier` may be abstract."""
    key, batch, states = arguments(run, stage, earlier)
    return jax.eval_shape(stage.init, key, batch, states)


def abstract_states(run: Run, stages: Sequence[Stage]) -> dict[str, TrainState]:
    """Returns `abstract_state` of every stage, by name."""
    earlier = abstract_earlier(run, stages)
    return {stage.name: earlier[stage.name] for stage in stages}


def abstract_earlier(run: Run, stages: Sequence[Stage]) -> dict[str, Any]:
    """Returns the argument `earlier` of a stage that follows `stages`: shapes and types alone."""
    earlier: dict[str, Any] = {}
    for stage, before in with_earlier(run, stages):
        earlier = before | abstract_entries(run, stage, before)
    return earlier


def with_earlier(run: Run, stages: Sequence[Stage]) -> Iterator[tuple[Stage, dict[str, Any]]]:
    """Yields every stage with its argument `earlier`: shapes and types alone."""
    earlier: dict[str, Any] = {}
    for number, stage in enumerate(stages):
        if number:
            earlier = earlier | abstract_entries(run, stages[number - 1], earlier)
        yield stage, earlier


def abstract_entries(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Returns shapes and types of the entries of a stage in `earlier` (`handed_on`)."""
    shapes = stage.hand_on.shapes if stage.hand_on is not None else {}
    return handed_on(stage, abstract_state(run, stage, earlier), shapes)


def handed_on(stage: Stage, state: TrainState, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a stage in the argument `earlier` of later stages.

    Args:
      stage: the earlier stage.
      state: its final state.
      arrays: {name: array} that it hands on.
    """
    entries: dict[str, Any] = {stage.name: state}
    for name, array in arrays.items():
        entries[f'{stage.name}/{name}'] = array
    return entries


def read_by_init(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> set[str]:
    """Returns the keys of `earlier` on whose values the initial state of a stage depends.

    Args:
      run: the run.
      stage: any of its stages.
      earlier: of the stages before, maybe abstract.
    """
    init_arguments = arguments(run, stage, earlier)
    program: Any = jax.make_jaxpr(stage.init)(*init_arguments).jaxpr
    used = set()
    for equation in program.eqns:
        used |= {id(variable) for variable in equation.invars}
    used |= {id(variable) for variable in program.outvars}

    # The variables of the program are the leaves of the arguments, of which `earlier` is the last.
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(init_arguments)[0]]
    last = len(init_arguments) - 1
    pairs = zip(paths, program.invars, strict=True)
    return {path[1].key for path, variable in pairs if path[0].idx == last and id(variable) in used}


def arguments(
    run: Run, stage: Stage, earlier: Mapping[str, Any]
) -> tuple[PRNGKey, dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arguments of `stage.init`: a key that all stages share, zeros, `earlier`."""
    inputs = stage.train_input or stage.eval_input
    rows = max(1, inputs.batch_size // run.topology.count)
    batch = loader.zeros(inputs, rows, run.declared(inputs))
    return rng.root(run.config.seed, 'init'), batch, dict(earlier)


def _inherited(state: TrainState, earlier: Mapping[str, Any]) -> set[str]:
    """Returns the nets that this stage copied unchanged from an earlier stage of this run."""
    nets = set()
    states = [value for value in earlier.values() if isinstance(value, TrainState)]
    for before in states:
        for net, params in before.params.items():
            if net in state.params and _are_equal(state.params[net], params):
                nets.add(net)
    return nets


def _are_equal(a: PyTree, b: PyTree) -> bool:
    """Returns whether two trees hold the same arrays under the same names."""
    leaves = trees.named_leaves(a)
    others = trees.named_leaves(b)
    return leaves.keys() == others.keys() and all(
        np.array_equal(leaf, others[name]) for name, leaf in leaves.items()
    )
