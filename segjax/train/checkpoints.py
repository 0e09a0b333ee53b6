"""Saves and restores the whole training state: a thin, strict layer over orbax.

A checkpoint holds the TrainState and a small JSON record (config, the open logging window). The
position in the data is a function of the step, so it is not saved. Arrays are saved as numpy arrays
of the host: a checkpoint does not depend on the number or kind of devices.
"""

import json
import pathlib
import re
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util

from segjax.core import files, parallel
from segjax.core.paths import BEST
from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError, first_line
from segjax.protocol import PyTree, TrainState
from segjax.train import stored

_POLICIES = ocp.checkpoint_managers
FEW = 8
"""Number of modules of another shape that a fix may leave out. More of them are another net."""
SHOWN = 3
"""Number of differences of each kind that an error shows."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. The older checkpoints are still good."""


class _Saved(NamedTuple):
    """Describes a checkpoint to a preservation policy of orbax."""

    step: int
    metrics: dict[str, float] | None


class Checkpoints:
    """The checkpoints of one stage.

    Use it as a context manager. Leaving the context waits for a save that is under way.

    Args:
      folder: <workdir>/<stage>/checkpoints.
      monitor: (score name, 'max' or 'min') that ranks the checkpoints.
      keep_last: number of newest checkpoints to keep. A run resumes from the newest.
      keep_best: number of best checkpoints to keep in addition to the newest.
      read_only: makes no folder and leaves unfinished saves alone. A training may be running there.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        monitor: tuple[str, str],
        keep_last: int = 1,
        keep_best: int = 1,
        read_only: bool = False,
    ):
        self._name, mode = monitor
        self._larger_is_better = mode == 'max'
        self._folder = folder.absolute()
        # A checkpoint is kept if it is among the newest or the best.
        policies: list[Any] = [_POLICIES.LatestN(keep_last)]
        if keep_best:
            policies.append(
                _POLICIES.BestN(
                    get_metric_fn=lambda m: m['score'],
                    reverse=mode == 'min',
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._policy = _POLICIES.AnyPreservationPolicy(policies)
        # A reader changes nothing in the folder of a run that may still be training.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=lambda m: m['score'],
            best_mode=mode,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._read_only = read_only
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._in_call = False

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self._manager.close()
        except Exception as error:
            # An error that ended the context is the first. Do not hide it.
            if kind is None:
                raise self._failure(error) from error

    def save(
        self, state: TrainState, record: Mapping[str, Any], scores: Mapping[str, float]
    ) -> None:
        """Starts to save a state under its own step. Writing continues in the background.

        Args:
          state: on the devices or on the host.
          record: JSON that `restore` returns.
          scores: of the state. Only the score of `monitor` counts.

        Raises:
          CheckpointError: this save or the save before failed, for example on a full disk. Older
            checkpoints stay as they are.
        """
        host = parallel.to_host(state)
        step = int(host.step)
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(_named(host)), record=ocp.args.JsonSave(record)
        )
        try:
            self._in_call = True
            self._manager.save(step, args=content, metrics=self._metrics(scores), force=True)
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._in_call = False

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Adds a score to a checkpoint that was saved without a score.

        Then removes the checkpoints that are not to be kept. Only the file of the score is written,
        atomically. A run can resume from the checkpoint at any moment.
        """
        metrics = self._metrics(scores)
        if metrics is None:
            return
        if parallel.is_main():
            # The file in which orbax keeps the metrics of a save.
            files.write_json(self._folder / str(step) / 'metrics' / 'metrics', metrics)
        parallel.barrier('scores of a checkpoint')
        self._manager.reload()
        # Orbax applies its policy only when it saves.
        saved = [_Saved(number, self._manager.metrics(number)) for number in self.steps()]
        # No policy of this class reads the time, which orbax's type of a checkpoint demands.
        keep = self._policy.should_preserve(
            saved,  # pyright: ignore[reportArgumentType]
            context=_POLICIES.PreservationContext(),
        )
        for checkpoint, kept in zip(saved, keep, strict=True):
            if not kept:
                self._manager.delete(checkpoint.step)

    def _metrics(self, scores: Mapping[str, float]) -> dict[str, float] | None:
        """Returns the metrics by which orbax ranks a checkpoint, None without a finite score.

        NaN compares with nothing. As a metric it would push the best checkpoint out. The direction
        is for readers that do not know the stage (`load_params`).
        """
        score = scores.get(self._name)
        if score is None or not np.isfinite(score):
            return None
        return {'score': float(score), 'larger_is_better': self._larger_is_better}

    def wait(self) -> None:
        """Returns when the last save is on the disk. Raises CheckpointError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written now.

        It may be written in the background or in a call of `save`.
        """
        return self._in_call or self._manager.is_saving_in_progress()

    def steps(self) -> list[int]:
        """Returns the saved steps in ascending order."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint, None if no checkpoint has a score."""
        return self._manager.best_step()

    def restore(
        self, abstract: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns state and record of the newest whole checkpoint, None if there is no checkpoint.

        A damaged checkpoint is reported, and the checkpoint before is tried.

        Args:
          abstract: the expected state (`jax.eval_shape` of init).
          step: of the only checkpoint to try.

        Raises:
          InputError: none of the checkpoints to try can be read, or the arrays are not as expected.
            Starting over would silently discard the user's training.
        """
        # Newest first.
        candidates = [step] if step is not None else sorted(self.steps(), reverse=True)
        damaged: list[int] = []
        for candidate in candidates:
            content = self._read(candidate, is_last=candidate == candidates[-1])
            if content is None:
                damaged.append(candidate)
                continue
            # All processes must resume at the same step.
            if parallel.of_main(candidate) != candidate:
                raise RuntimeError(
                    f'{self._folder}: the processes read different checkpoints, {candidate} here'
                )
            # Damaged checkpoints are put away only after an older checkpoint could be read.
            self._set_aside(damaged)
            raw, record = content
            return _strict(raw, abstract, self._folder / str(candidate)), record
        # Unreadable checkpoints are no reason to start over.
        if step is not None and self.steps() != [step]:
            raise _damaged_step(self._folder / str(step))
        if candidates:
            raise _none_readable(self._folder, candidates)
        return None

    def _read(self, step: int, is_last: bool) -> tuple[dict[str, PyTree], dict[str, Any]] | None:
        """Returns arrays and record of a checkpoint. Returns None if it is damaged.

        Args:
          step: of the checkpoint.
          is_last: whether no other checkpoint is tried if this checkpoint is damaged.
        """
        content = ocp.args.Composite(
            state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
        )
        try:
            read = self._manager.restore(step, args=content)
            return read['state'], dict(read['record'])
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # orbax raises errors of many types for damaged files
            logging.error(
                'checkpoint %s/%d cannot be read (%s)%s',
                self._folder,
                step,
                first_line(error),
                '' if is_last else ': trying the checkpoint before',
            )
            return None

    def _set_aside(self, damaged: Sequence[int]) -> None:
        """Renames damaged checkpoints, because their steps will be saved again."""
        if self._read_only or not damaged:
            return
        if parallel.is_main():
            for step in damaged:
                (self._folder / str(step)).rename(self._folder / f'damaged_{step}_{time.time_ns()}')
        parallel.barrier('damaged checkpoints')
        self._manager.reload()

    def _failure(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f'{self._folder}\n'
            f'  got:      {first_line(error)[:300]}\n'
            '  expected: a checkpoint on the disk\n'
            '  fix:      free disk space or check permissions, then start the same command again: '
            'it resumes from the newest whole checkpoint'
        )


def _damaged_step(folder: pathlib.Path) -> InputError:
    """Returns the error for a damaged checkpoint of several, the only checkpoint to try."""
    aside = folder.with_name(f'damaged_{folder.name}')
    return InputError(
        str(folder),
        got=f'a checkpoint of step {folder.name} that cannot be read',
        expected='a whole checkpoint',
        fix=f'--checkpoint last; or mv {_quoted(folder)} {_quoted(aside)}',
    )


def _none_readable(folder: pathlib.Path, steps: Sequence[int]) -> InputError:
    """Returns the error for a folder of checkpoints that are all damaged."""
    aside = folder.with_name(f'{folder.name}_damaged')
    return InputError(
        str(folder),
        got=f'checkpoints of steps {list(steps)}, none of them readable',
        expected='at least one whole checkpoint',
        fix=f'to start over: mv {_quoted(folder)} {_quoted(aside)}',
    )


def _quoted(path: pathlib.Path) -> str:
    """Returns a path as an argument of a shell."""
    return shlex.quote(str(path))


# --- arrays by name -------------------------------------------------------------------------------


def _as_dict(state: TrainState) -> dict[str, PyTree]:
    return {f: getattr(state, f) for f in ('step', 'params', 'model_state', 'opt_state', 'extra')}


def _named(state: TrainState) -> dict[str, PyTree]:
    """Returns a state as nested dicts by path name, without the tuples of optax.

    Such a file can be read without any class of ours.
    """
    return traverse_util.unflatten_dict(named_leaves(_as_dict(state)), sep='/')


def _strict(raw: dict[str, PyTree], abstract: TrainState, where: pathlib.Path) -> TrainState:
    """Puts restored arrays into the expected structure. Every name, shape and type must match."""
    arrays = named_leaves(raw)
    paths, treedef = jax.tree_util.tree_flatten_with_path(_as_dict(abstract))
    expected = {path_name(path): leaf for path, leaf in paths}
    # All differences are collected, so that the error can show several.
    missing = [f'no {name}' for name in sorted(set(expected) - set(arrays))]
    surplus = [f'unexpected {name}' for name in sorted(set(arrays) - set(expected))]
    different = []
    for name, leaf in expected.items():
        if name in arrays:
            shape = np.shape(arrays[name])
            dtype = np.asarray(arrays[name]).dtype
            if shape != leaf.shape or dtype != leaf.dtype:
                different.append(f'{name}: {shape} {dtype}, not {leaf.shape} {leaf.dtype}')
    if missing or surplus or different:
        examples = '; '.join(missing[:SHOWN] + surplus[:SHOWN] + different[:SHOWN])
        number = len(missing) + len(surplus) + len(different)
        raise InputError(
            f'checkpoint {where}',
            got=f'{examples} ({number} differences)',
            expected='the arrays of the configured nets and optimisers',
            fix='leave --config and its keys out to use the config of the folder, '
            'or use another --workdir',
        )
    # `expected` has the order of the leaves of the structure.
    leaves = [np.asarray(arrays[name]) for name in expected]
    return TrainState(**jax.tree_util.tree_unflatten(treedef, leaves))


# --- parameters of another run --------------------------------------------------------------------


def load_params(path: str) -> dict[str, PyTree]:
    """Loads the parameters of another run.

    Args:
      path: a run folder (its last stage with a checkpoint is loaded), the folder of a stage (its
        newest checkpoint), or the folder of a checkpoint. Behind a run or a stage, ':best' names
        the checkpoint of the best score in place of the newest.

    Returns:
      {'params': .., 'model_state': .., 'averages': {'params': .., 'model_state': ..}}. The averages
      hold the nets that the run evaluated by averaged parameters, and may be empty.

    Raises:
      InputError: no checkpoint, a damaged checkpoint, or no checkpoint with a score for ':best'.
    """
    folder = pathlib.Path(path.removesuffix(BEST)).expanduser().absolute()
    if folder.name.isdigit() and (folder / 'state').is_dir():
        chosen = folder
    else:
        places = ('', 'checkpoints', *_stages(folder))
        # The last place with a checkpoint counts: `_stages` lists the last stage last.
        saved = [steps for steps in map(_with_state, map(folder.joinpath, places)) if steps]
        if not saved:
            raise InputError(
                'config.init_from.path',
                got=str(folder),
                expected='a run folder or a checkpoint folder of segjax',
                fix='give the --workdir of a run that saved a checkpoint',
            )
        steps = saved[-1]
        chosen = _best(steps) if path.endswith(BEST) else steps[0]
    tree = _restored(chosen)
    # A tree without any array, as the statistics of nets without batch norm, is not in the file.
    averages = tree.get('extra', {}).get('ema', {})
    return {
        'params': tree['params'],
        'model_state': tree.get('model_state', {}),
        'averages': {field: averages.get(field, {}) for field in ('params', 'model_state')},
    }


def _best(steps: Sequence[pathlib.Path]) -> pathlib.Path:
    """Returns the checkpoint of the best score.

    Args:
      steps: folders of the checkpoints of a stage, newest first.

    Raises:
      InputError: no checkpoint has a score, or the direction of the scores is not stored.
    """
    ranked = []
    for step in steps:
        path = step / 'metrics' / 'metrics'
        metrics = stored.read_object(path) if path.exists() else {}
        if metrics.keys() >= {'score', 'larger_is_better'}:
            sign = 1 if metrics['larger_is_better'] else -1
            ranked.append((sign * metrics['score'], int(step.name), step))
    if not ranked:
        raise InputError(
            'config.init_from.path',
            got=f'{steps[0].parent}, without a checkpoint that says how good it is',
            expected=f"a run that has saved a checkpoint after an evaluation, for '{BEST}'",
            fix=f'--config.init_from.path={steps[0]}, or another checkpoint of this folder',
        )
    return max(ranked)[2]


def as_evaluated(source: Mapping[str, PyTree], nets: Collection[str]) -> dict[str, PyTree]:
    """Returns the parameters of another run, with the averages of some nets where it has them.

    Args:
      source: from `load_params`.
      nets: that are used as they are, and not trained further.
    """
    chosen = dict(source)
    for field, averages in source.get('averages', {}).items():
        known = {net: tree for net, tree in averages.items() if net in nets}
        chosen[field] = {**source[field], **known}
    return chosen


def _restored(step: pathlib.Path) -> dict[str, PyTree]:
    """Returns the state in the folder of a checkpoint. Raises InputError if it is not whole."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(step / 'state')
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # orbax raises errors of many types for damaged files
        before = _checkpoint_before(step)
        fix = 'copy the run folder again'
        if before is not None:
            fix = f'--config.init_from.path={before}, the checkpoint before'
        got = f'a checkpoint that cannot be read ({first_line(error)[:200]})'
        raise InputError(str(step), got=got, expected='a whole checkpoint', fix=fix) from error


def _checkpoint_before(step: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the checkpoint before the given one, None if there is none."""
    if not step.name.isdigit():
        return None
    older = [path for path in _with_state(step.parent) if int(path.name) < int(step.name)]
    return max(older, key=lambda path: int(path.name), default=None)


# --- the checkpoints of a folder ------------------------------------------------------------------


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the checkpoints in a folder of checkpoints, newest first.

    A checkpoint that lost a part counts. The names of unfinished saves and of damaged checkpoints
    that were put away are no numbers.
    """
    steps = [path for path in folder.glob('*') if re.fullmatch(r'\d+', path.name)]
    steps = [path for path in steps if path.is_dir()]
    return sorted(steps, key=lambda path: int(path.name), reverse=True)


def check_parts(workdir: pathlib.Path) -> None:
    """Raises InputError for a stage whose checkpoints all lack their state or their record.

    Only the names in the folders are read. `Checkpoints.restore` also refuses damaged files.

    Args:
      workdir: the run folder.
    """
    for folder in sorted(workdir.glob('*/checkpoints')):
        steps = numbered(folder)
        complete = [path for path in steps if _has_parts(path)]
        if steps and not complete:
            raise _none_readable(folder, [int(path.name) for path in steps])


def _has_parts(step: pathlib.Path) -> bool:
    """Returns whether the folder of a checkpoint holds a state and a record."""
    return (step / 'state').is_dir() and (step / 'record').is_dir()


def newest_step(folder: pathlib.Path) -> int:
    """Returns the newest saved step in a folder of checkpoints, 0 if there is none."""
    return max((int(step.name) for step in numbered(folder)), default=0)


def recorded_configs(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the newest readable config of every stage of a run that has such a config.

    Checkpoints are tried from the newest to the oldest, as in `Checkpoints.restore`.
    """
    configs = []
    for stage in sorted(folder.glob('*/checkpoints')):
        configs += _newest_config(stage)
    return configs


def _newest_config(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns [the newest readable config in a folder of checkpoints], [] if there is none."""
    for step in numbered(folder):
        path = step / 'record' / 'metadata'
        try:
            return [stored.read_object(path, ('config',))['config']]
        except (InputError, OSError):
            continue
    return []


def _with_state(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints with a state in a folder of checkpoints, newest first."""
    return [step for step in numbered(folder) if (step / 'state').is_dir()]


def _stages(folder: pathlib.Path) -> list[str]:
    """Returns the folders of checkpoints in a run folder, the last stage last.

    start.json gives the order, or scores.json for a run that is older than start.json. Times
    decide only if both are absent: a copy of a folder has new times.
    """
    by_time = sorted(folder.glob('*/checkpoints'), key=lambda path: path.stat().st_mtime)
    known = [str(path.relative_to(folder)) for path in by_time]
    start = folder / files.START
    scores = folder / stored.SCORES
    if start.exists():
        names = stored.read_start(start)['stages']
    elif scores.exists():
        names = stored.read_scores(scores)
    else:
        return known
    order = [f'{name}/checkpoints' for name in names]
    return [stage for stage in known if stage not in order] + order


class _Merge(NamedTuple):
    """Collects the arrays that a merge replaces, keeps and refuses.

    loaded     modules of the loaded arrays
    kept       modules of the arrays that keep their initial values
    inherited  modules of the arrays that an earlier stage of this run hands on
    wrong      {name: both shapes} of arrays with another shape
    clashing   modules with such an array
    """

    loaded: list[str]
    kept: list[str]
    inherited: list[str]
    wrong: dict[str, str]
    clashing: list[str]


def merge_params(
    state: TrainState,
    source: Mapping[str, PyTree],
    patterns: Sequence[str],
    inherited: Collection[str] = (),
    must_match: bool = True,
) -> tuple[TrainState, str]:
    """Replaces arrays of a state by the arrays of the same path in another run.

    Patterns match modules, not kinds of arrays: batch statistics go with the parameters of their
    module.

    Args:
      state: a new state. Shapes are enough to check the source.
      source: {'params': .., 'model_state': ..}, from `load_params`.
      patterns: regular expressions for the start of 'net/module/...'. Matching arrays
        are replaced.
      inherited: nets that keep their parameters, because an earlier stage of this run trained them.
      must_match: whether a pattern must match an array.

    Returns:
      The new state, and a printable list of the modules that were loaded and kept.

    Raises:
      InputError: an array of another shape, or patterns that match nothing although some net could
        be loaded.
    """
    # `merge` collects what was loaded, kept and refused, over both fields.
    merge = _Merge([], [], [], {}, [])
    fields = {}
    for field in ('params', 'model_state'):
        fields[field] = _merge_field(
            getattr(state, field), named_leaves(source[field]), field, patterns, inherited, merge
        )
    # A few names show the kind of mistake.
    if merge.wrong:
        shown = list(merge.wrong.items())[:4]
        raise InputError(
            'config.init_from',
            got='; '.join(f'{name}: {shapes}' for name, shapes in shown),
            expected='arrays of equal shape',
            fix=_without(patterns, merge.clashing),
        )
    # With inherited nets, nothing else needs to match.
    if must_match and not merge.loaded and not inherited:
        raise InputError(
            'config.init_from.nets',
            got=f'{patterns}, which match nothing',
            expected='patterns over net/module, as segmenter/encoder.*',
            fix=_common_nets(state.params, source['params']),
        )
    return state.replace(**fields), _summary(merge)


def _merge_field(
    tree: PyTree,
    arrays: Mapping[str, Any],
    field: str,
    patterns: Sequence[str],
    inherited: Collection[str],
    merge: _Merge,
) -> PyTree:
    """Replaces the arrays of one field of a state, and notes every array in `merge`.

    Args:
      tree: of the state.
      arrays: of the source, by path.
      field: 'params' or 'model_state'.
      patterns, inherited: as in `merge_params`.
      merge: is filled.
    """

    def choose(path, leaf):
        name = path_name(path)
        net, *inner = name.split('/')
        if field == 'model_state':
            inner = inner[1:]  # without the name of the collection, 'batch_stats'
        module = '/'.join([net, *inner])
        if net in inherited:
            merge.inherited.append(module)
            return leaf
        matches = any(re.match(p, module) for p in patterns)
        if not matches or name not in arrays:
            merge.kept.append(module)
            return leaf
        if np.shape(arrays[name]) != leaf.shape:
            merge.wrong[name] = f'{np.shape(arrays[name])}, not {leaf.shape}'
            merge.clashing.append(module.rpartition('/')[0])
            return leaf
        merge.loaded.append(module)
        return np.asarray(arrays[name], leaf.dtype)

    return jax.tree_util.tree_map_with_path(choose, tree)


def _summary(merge: _Merge) -> str:
    """Returns a printable list of the top-level modules.

    '+' marks loaded modules, '=' modules of earlier stages, and '-' kept modules.
    """
    loaded = _top_level(merge.loaded)
    inherited = _top_level(merge.inherited)
    kept = [module for module in _top_level(merge.kept) if module not in loaded]
    counts = [
        f'initialised {len(merge.loaded)} arrays from the checkpoint',
        f'{len(merge.inherited)} from an earlier stage' if inherited else '',
        f'{len(merge.kept)} keep their random initialisation',
    ]
    lines = [', '.join(filter(None, counts)) + ':']
    for mark, modules in (('+', loaded), ('=', inherited), ('-', kept)):
        lines += [f'  {mark} {module}' for module in modules]
    return '\n'.join(lines)


def _top_level(modules: Iterable[str]) -> list[str]:
    """Returns the net and the first module of each path, sorted and once each."""
    return sorted({'/'.join(name.split('/')[:2]) for name in modules})


def _common_nets(nets: Mapping[str, PyTree], source: Mapping[str, PyTree]) -> str:
    """Returns the argument that loads all arrays of the nets that a run and its source share."""
    common = sorted(set(nets) & set(source))
    if not common:
        names = ', '.join(sorted(source))
        return f'--config.init_from.path= starts at random; that start has the nets {names}'
    patterns = tuple(f'{re.escape(net)}/.*' for net in common)
    return f'--config.init_from.nets={shlex.quote(str(patterns))}'


def _without(patterns: Sequence[str], modules: Iterable[str]) -> str:
    """Returns the argument that excludes modules from patterns over net/module."""
    excluded = sorted(set(modules))
    if len(excluded) > FEW:
        return 'the nets of that run: compare the section model of its config.json'
    names = '|'.join(f'{re.escape(module)}/' for module in excluded)
    narrower = ', '.join(json.dumps(f'(?!{names}){pattern}') for pattern in patterns)
    return shlex.quote(f'--config.init_from.nets=({narrower},)')
