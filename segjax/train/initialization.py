"""Initialises a stage without a checkpoint: from the sources in `config.init_from`, else at random.

A source is loaded once for all stages, when it is first needed. A run whose stages all have a
checkpoint never loads a source, so the files may be deleted by then.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from segjax.schema import typed_text
from segjax.spec import with_tuples
from segjax.train import checkpoints, net_sources
from segjax.train import stored as stored_files
from segjax.train.batches import declared_in_batch
from segjax.train.run import NetSource, Run, Source

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

    A run with `init_from.sources` adds 'weights': {net: {'pattern', 'path', 'digest'}}, see
    `_starts_of_nets`. A row of a table that evaluates another run adds 'evaluates', the relative
    path of that run.

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
    if config.init_from.sources:
        content['weights'] = _starts_of_nets(run, stages, config.init_from, begun)
    files.write_json(path, content)


def _starts_of_nets(
    run: Run, stages: tuple[Stage, ...], init_from: ml_collections.ConfigDict, begun: bool
) -> dict[str, dict[str, str]]:
    """Returns the source of every net, as start.json records it.

    Args:
      run: the run.
      stages: all of its stages.
      init_from: section of the config of the start.
      begun: whether the run has begun. Its sources may be gone, so digests are ''.

    Returns:
      {net: {'pattern': of its row, 'path': of its source, 'digest': of all arrays of the source}}.
      The pattern is '' without a row, and the path is '' for random parameters. A run that has
      begun lists only nets with a row.
    """
    rows = open_net_sources(init_from) if begun else run.sources
    digests = {row: '' if begun else digest(row.load()) for row in rows}
    starts: dict[str, dict[str, str]] = {}
    for state in abstract_states(run, stages).values():
        own = net_sources.owned(rows, state.params)
        from_path = set() if begun else _nets_from_path(run, net_sources.without(state, own))
        for net in state.params:
            row = own.get(net)
            if row:
                found = (row.pattern, row.path, digests[row])
            elif net in from_path:
                found = ('', init_from.path, digest(run.source()))
            else:
                found = ('', '', '')
            # A stage that initialises a net anew does not hide the source of an earlier stage.
            if found[1] or not (begun or net in starts):
                starts[net] = dict(zip(('pattern', 'path', 'digest'), found, strict=True))
    return starts


def _nets_from_path(run: Run, state: TrainState) -> set[str]:
    """Returns the nets of a state of which `init_from.path` has an array that is wanted."""
    source = run.source()
    if source is None:
        return set()
    if isinstance(source, pretrained.Weights):
        tree, _ = pretrained.load_for(state, source, run.config.init_from)
        return set(tree['params']) if tree else set()
    names = trees.named_leaves(state.params).keys() & trees.named_leaves(source['params']).keys()
    patterns = run.config.init_from.nets
    wanted = [name for name in names if any(re.match(pattern, name) for pattern in patterns)]
    return {name.partition('/')[0] for name in wanted}


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

    content = stored_files.read_start(start, ('init_from',))
    _check_later_nets(run, later, content)

    # A run that is older than the digest says nothing about its parameters.
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


def _check_later_nets(run: Run, later: Sequence[str], content: Mapping[str, Any]) -> None:
    """Raises InputError if nets would start from other `init_from.sources` than before.

    Args:
      run: the run.
      later: stages that have not begun.
      content: of start.json.
    """
    starts = content.get('weights', {})
    expected = {net: start['digest'] for net, start in starts.items() if start['pattern']}
    if '' in expected.values() or not (expected or run.sources):
        return
    # A run that began without sources does not list its nets.
    if starts:
        own = net_sources.owned(run.sources, starts)
        current = {net: digest(row.load()) for net, row in own.items()}
    else:
        current = {row.pattern: digest(row.load()) for row in run.sources}
    if run.sources and expected:
        current['partial'] = run.config.init_from.partial
        expected['partial'] = content['init_from'].get('partial', False)
    wrong = sorted(net for net in {*current, *expected} if current.get(net) != expected.get(net))
    if not wrong:
        return
    before = typed_text(with_tuples(content['init_from'].get('sources', ())))
    fix = f'--{net_sources.WHERE}={before}'
    if 'partial' in wrong:
        fix = f'--config.init_from.partial={expected["partial"]} {fix}'
    raise InputError(
        f'{net_sources.WHERE} of stage {later[0]!r}, which has not begun',
        got=', '.join(f'{net} from {current.get(net, "none")}' for net in wrong),
        expected=', '.join(f'{net} from {expected.get(net, "none")}' for net in wrong)
        + ', as the stages that have begun',
        fix=f'{fix}, or another --workdir',
    )


def _listed(values: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Returns 'digest 0123456789ab, nets (..)' for an error."""
    return ', '.join(f'{key} {values[key] or "of none"}' for key in keys)


def tell_unused(run: Run, stages: tuple[Stage, ...]) -> None:
    """Prints a note for each source in the config that the stages that have begun did not read.

    Args:
      run: the run.
      stages: all of its stages.
    """
    start = run.workdir / files.START
    begun = [stage.name for stage in stages if has_checkpoint(run.workdir / stage.name)]
    init_from = run.config.init_from
    if not (init_from.path or init_from.sources) or not begun or not start.exists():
        return
    content = stored_files.read_start(start, ('init_from',))
    known = content['init_from'].get('path', '')
    if init_from.path and _place(init_from.path) != _place(known):
        _tell_unused('config.init_from.path', init_from.path, begun, known)
    starts = content.get('weights', {}).values()
    of_nets = [start['path'] for start in starts if start['pattern']]
    for row in run.sources:
        if _place(row.path) not in map(_place, of_nets):
            _tell_unused(net_sources.WHERE, row.path, begun, ', '.join(of_nets))


def _tell_unused(key: str, path: str, begun: Sequence[str], known: str) -> None:
    """Prints a note about a path that is not read, because stages began from another source."""
    source = known or 'random parameters'
    message = f'{path} is not read for {", ".join(begun)}, which began from {source}'
    notes.tell(notes.Note(key, message, 'another --workdir begins from it'))


def _place(path: str) -> str:
    """Returns a path in the form in which two spellings of it are equal."""
    return path if path.startswith(pretrained.HUB) else os.path.abspath(os.path.expanduser(path))


# --- the source -----------------------------------------------------------------------------------


def digest(source: Source | None) -> str:
    """Returns twelve hexadecimal digits of the names and values of all arrays, '' for no source.

    Averages of a run follow from the same training as its parameters, and are left out.
    """
    if source is None:
        return ''
    if isinstance(source, pretrained.Weights):
        arrays = source.tensors
    else:
        arrays = trees.named_leaves({field: source[field] for field in ('params', 'model_state')})
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


def open_net_sources(init_from: ml_collections.ConfigDict) -> tuple[NetSource, ...]:
    """Returns the rows of `init_from.sources`. Their paths are read when they are first needed."""

    def read(path: str, release: str) -> Source:
        source = reader(ml_collections.ConfigDict({'path': path, 'source': release}))()
        assert source is not None, 'the schema refuses an empty path'
        return source

    return net_sources.open_rows(init_from, read)


def start_digest(source: Callable[[], Source | None], sources: Sequence[NetSource]) -> str:
    """Returns the digests of all sources of a run as text, '' for a run that starts at random."""
    texts = [digest(source()), *(f'{row.pattern}={digest(row.load())}' for row in sources)]
    return ', '.join(filter(None, texts))


def net_digests(run: Run, nets: Iterable[str]) -> dict[str, str]:
    """Returns the digest of the source of every net that has a row in `init_from.sources`.

    A run that has begun is known by its start.json, because its sources may be gone.

    Args:
      run: the run.
      nets: of a stage.
    """
    start = run.workdir / files.START
    if start.exists():
        starts = stored_files.read_start(start).get('weights', {})
        own = [net for net in nets if starts.get(net, {}).get('pattern')]
        return {net: starts[net]['digest'] for net in own}
    if has_begun(run.workdir):
        return {}
    own_rows = net_sources.owned(run.sources, nets)
    return {net: digest(row.load()) for net, row in own_rows.items()}


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
    """Raises InputError if no stage can load a source, or only part of it.

    Args:
      run: the run.
      states: from `abstract_states`.
    """
    net_sources.check(run.sources, states, run.config.init_from.partial)
    source = run.source()
    if isinstance(source, pretrained.Weights):
        _check_published(run, states, source)
    elif source is not None:
        _check_run_folder(run, states, source)


def check_frozen(run: Run, stages: Sequence[Stage], states: Mapping[str, TrainState]) -> None:
    """Raises InputError for a frozen net whose parameters are in no source of the run.

    A source that does not exist yet is not checked (`has_start` of `opening.checked_run`).

    Args:
      run: the run.
      stages: all of its stages.
      states: from `abstract_states`.
    """
    # Most runs have no such net, and read no source here.
    frozen = [stage for stage in stages if stage.frozen]
    if not frozen or (run.config.init_from.path and run.source() is None):
        return
    for stage in frozen:
        state = states[stage.name]
        own = net_sources.owned(run.sources, state.params)
        loaded = _nets_from_path(run, net_sources.without(state, own)) | own.keys()
        missing = [net for net in stage.frozen if net not in loaded]
        if missing:
            raise _no_parameters(run, stage, state, missing[0])


def _no_parameters(run: Run, stage: Stage, state: TrainState, net: str) -> InputError:
    """Returns the error for a frozen net whose parameters are in no source.

    A run may have a net of the same name with other layers.
    """
    init_from = run.config.init_from
    # The nets of the source, of which published weights have none.
    source = run.source()
    nets = {}
    if source is not None and not isinstance(source, pretrained.Weights):
        nets = source['params']
    theirs = trees.named_leaves(nets.get(net, {}))
    if theirs and not theirs.keys() & trees.named_leaves(state.params[net]).keys():
        return InputError(
            'config.init_from',
            got=f'the net {net!r} with other layers in {init_from.path}',
            expected=f'the net of this config, because stage {stage.name!r} does not train it',
            fix='set the keys of the net as in the config.json of that run',
        )
    # The nets that are there show which run it is.
    rows = [tuple(row) for row in init_from.sources]
    typed = typed_text((*rows, (net, f'runs/{net}')))
    known = f', which has the nets {", ".join(sorted(nets))}' if nets else ''
    return InputError(
        'config.init_from',
        got=f'no parameters of the net {net!r} in {init_from.path or "any source"}{known}',
        expected=f'a run that has the net, because stage {stage.name!r} does not train it',
        fix=f'--{net_sources.WHERE}={typed}, with the path of such a run',
    )


def _check_published(
    run: Run, states: Mapping[str, TrainState], weights: pretrained.Weights
) -> None:
    """Raises InputError for published weights that the nets of no stage can load."""
    nets: dict[str, PyTree] = {}
    fits = False
    for abstract in states.values():
        abstract = net_sources.without(abstract, net_sources.owned(run.sources, abstract.params))
        nets |= abstract.params
        fits |= pretrained.load_for(abstract, weights, run.config.init_from)[0] is not None
    if not fits:
        raise pretrained.nothing_fits(weights, run.config.init_from, nets)


def _check_run_folder(
    run: Run, states: Mapping[str, TrainState], source: Mapping[str, PyTree]
) -> None:
    """Raises InputError for parameters of another run that some stage cannot load.

    A stage may have none of the nets of that run, but not all stages.
    """
    earlier: set[str] = set()
    none_loaded = not any(_nets_from_path(run, state) for state in states.values())
    for state in states.values():
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        # Only the values show whether a net is really copied from an earlier stage. Assume so.
        own = net_sources.owned(run.sources, state.params).keys()
        inherited = (earlier & set(state.params)) | own
        rest = net_sources.without(abstract, own)
        checkpoints.merge_params(rest, source, run.config.init_from.nets, inherited, none_loaded)
        earlier |= set(state.params)


# --- states ---------------------------------------------------------------------------------------


def initial_state(run: Run, stage: Stage, earlier: Mapping[str, Any]) -> TrainState:
    """Returns a new state on the host, with the parameters that `config.init_from` names.

    Args:
      run: the run.
      stage: any of its stages.
      earlier: the final states of the stages before and their arrays, on the host (`handed_on`).

    Raises:
      InputError: parameters that do not fit.
    """
    # Run op by op. Compiling the whole initialiser takes ten times as long.
    state = parallel.to_host(stage.init(*arguments(run, stage, earlier)))
    if run.source() is not None or run.sources:
        state = _with_sources(run, stage, state, earlier)
    if stage.check_start is not None:
        stage.check_start(state)
    return state


def _with_sources(
    run: Run, stage: Stage, state: TrainState, earlier: Mapping[str, Any]
) -> TrainState:
    """Returns a new state with the parameters of all sources. Arguments: `initial_state`."""
    source = run.source()
    inherited = _inherited(state, earlier)

    # The nets without a row of their own start from `init_from.path`.
    own = net_sources.owned(run.sources, state.params).keys()
    rest = net_sources.without(state, own)
    summaries = []
    if source is not None:
        rest, summaries = _from_path(run, rest, source, inherited | own, stage.frozen)
    state, listings = net_sources.load(
        run.sources, state, run.config.init_from.partial, inherited, stage.frozen
    )
    if parallel.is_main():
        print(f'stage {stage.name!r}: ' + '\n'.join(summaries + listings), flush=True)
    return state.replace(
        params={**state.params, **rest.params},
        model_state={**state.model_state, **rest.model_state},
    )


def _from_path(
    run: Run, state: TrainState, source: Source, inherited: set[str], frozen: Collection[str]
) -> tuple[TrainState, list[str]]:
    """Loads the nets of a state from the source at `init_from.path`.

    Args:
      run: the run.
      state: without the nets that have a source of their own.
      source: the parameters.
      inherited: nets that load nothing from the source.
      frozen: nets that load averages, if the source has averages.

    Returns:
      The new state, and texts to print.
    """
    summaries = []
    patterns = run.config.init_from.nets
    if isinstance(source, pretrained.Weights):
        # Loading applies the patterns, so the merge below must not apply them again.
        fresh = net_sources.without(state, inherited)
        source, listing = pretrained.load_for(fresh, source, run.config.init_from)
        summaries.append(listing)
        patterns = ('.*',)
    elif source is not None:
        source = checkpoints.as_evaluated(source, frozen)
    if source is not None:
        # `check_weights` has seen that some stage loads a net.
        state, summary = checkpoints.merge_params(state, source, patterns, inherited, False)
        summaries.append(summary)
    return state, summaries


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
    batch = loader.zeros(inputs, rows, declared_in_batch(run, inputs))
    return rng.root(run.config.seed, 'init'), batch, dict(earlier)


def _inherited(state: TrainState, earlier: Mapping[str, Any]) -> set[str]:
    """Returns the nets that this stage copied unchanged from an earlier stage of this run.

    The stage may have copied the nets themselves, or their averages.
    """
    nets = set()
    states = [value for value in earlier.values() if isinstance(value, TrainState)]
    for before in states:
        averages = before.extra['ema']['params'] if 'ema' in before.extra else {}
        for net, params in (*before.params.items(), *averages.items()):
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
