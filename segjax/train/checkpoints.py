"""Saving and restoring everything that moves: a thin, strict layer over orbax.

A checkpoint holds the whole TrainState plus a small JSON record (config, the open logging window). The data position is
a function of the step and needs no saving. What is written is host numpy arrays, so a checkpoint does not depend on the
number or kind of devices.
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
from segjax.core.trees import named_leaves, path_name
from segjax.errors import InputError
from segjax.protocol import PyTree, TrainState
from segjax.train import stored

_POLICIES = ocp.checkpoint_managers
FEW = 8
"""Modules of another shape that a run may leave out. More of them are another net."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the older ones are still good."""


class _Saved(NamedTuple):
    """Describes a checkpoint to a preservation policy of orbax."""

    step: int
    metrics: dict[str, float] | None


class Checkpoints:
    """The checkpoints of one stage. Use as a context manager: leaving it waits for the save that is under way.

    Args:
      folder: <workdir>/<stage>/checkpoints.
      monitor: (score name, 'max' or 'min') by which the best ones are kept.
      keep_last: newest checkpoints kept, from which a run resumes.
      keep_best: best ones kept beside them, whole, so that they can be resumed from too.
      read_only: for whoever only looks: makes no folder and leaves unfinished saves alone, which may be those of a
        training that is going on.
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
        self._folder = folder.absolute()
        policies = [_POLICIES.LatestN(keep_last)]
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
            if kind is None:  # do not hide the error that brought us here
                raise self._failure(error) from error

    def save(self, state: TrainState, record: dict[str, Any], scores: dict[str, float]) -> None:
        """Starts saving `state` under its own step; the write goes on in the background.

        Raises CheckpointError if this or the save before failed (a full disk); older checkpoints stay as they are.
        """
        host = parallel.to_host(state)
        step = int(host.step)
        try:
            self._in_call = True
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_named(host)), record=ocp.args.JsonSave(record)
                ),
                metrics=self._metrics(scores),
                force=True,
            )
        except Exception as error:
            raise self._failure(error) from error
        finally:
            self._in_call = False

    def add_scores(self, step: int, scores: dict[str, float]) -> None:
        """Gives a saved checkpoint the score that it was saved without, and removes those no longer kept.

        Only the file of the score is written, and whole: the checkpoint can be resumed from at any moment.
        """
        metrics = self._metrics(scores)
        if metrics is None:
            return
        if parallel.is_main():
            # The place where orbax keeps the metrics of a save.
            files.write_json(self._folder / str(step) / 'metrics' / 'metrics', metrics)
        parallel.barrier('scores of a checkpoint')
        self._manager.reload()
        # Orbax applies its policy only when it saves.
        saved = [_Saved(number, self._manager.metrics(number)) for number in self.steps()]
        keep = self._policy.should_preserve(saved, context=_POLICIES.PreservationContext())
        for checkpoint, kept in zip(saved, keep, strict=True):
            if not kept:
                self._manager.delete(checkpoint.step)

    def _metrics(self, scores: dict[str, float]) -> dict[str, float] | None:
        """Returns what orbax ranks a checkpoint by; None for a score that is missing or not finite."""
        score = scores.get(self._name)
        # NaN compares with nothing: it would push the best checkpoint out.
        return None if score is None or not np.isfinite(score) else {'score': float(score)}

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises CheckpointError if it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            raise self._failure(error) from error

    def is_saving(self) -> bool:
        """Returns whether a checkpoint is being written now, in the background or in a call of `save` or `wait`."""
        return self._in_call or self._manager.is_saving_in_progress()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        return self._manager.best_step()

    def restore(
        self, abstract: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read whole, or that of `step`; None if there is none.

        A damaged one is reported and passed over. One of another shape is an InputError: starting over in silence
        would throw the user's training away.

        Args:
          abstract: the expected state (`jax.eval_shape` of init).
        """
        candidates = [step] if step is not None else sorted(self.steps(), reverse=True)
        damaged = []
        for candidate in candidates:
            try:
                found = self._manager.restore(
                    candidate,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(), record=ocp.args.JsonRestore()
                    ),
                )
                raw, record = found['state'], dict(found['record'])
            except (MemoryError, PermissionError):
                raise
            except Exception as error:
                damaged.append(candidate)
                first_line = (str(error).splitlines() or [type(error).__name__])[0]
                logging.error(
                    'checkpoint %s/%d cannot be read (%s): trying the one before',
                    self._folder,
                    candidate,
                    first_line,
                )
                continue
            if parallel.of_main(candidate) != candidate:
                raise RuntimeError(
                    f'{self._folder}: the processes read different checkpoints, {candidate} here'
                )
            self._set_aside(damaged)
            return _strict(raw, abstract, self._folder / str(candidate)), record
        if candidates:
            raise InputError(
                str(self._folder),
                got=f'checkpoints of steps {candidates}, none of them readable',
                expected='at least one whole checkpoint',
                fix=f'to start over: mv {self._folder} {self._folder}_damaged',
            )
        return None

    def _set_aside(self, damaged: list[int]) -> None:
        """Renames damaged checkpoints, whose steps will be saved again."""
        if self._read_only or not damaged:
            return
        if parallel.is_main():
            for step in damaged:
                (self._folder / str(step)).rename(self._folder / f'damaged_{step}_{time.time_ns()}')
        parallel.barrier('damaged checkpoints')
        self._manager.reload()

    def _failure(self, error: Exception) -> CheckpointError:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return CheckpointError(
            f'{self._folder}\n  got:      {lines[0][:300]}\n  expected: a checkpoint on the disk'
            '\n  fix:      free disk space or check permissions, then start the same command again: '
            'it resumes from the newest whole checkpoint'
        )


def _as_dict(state: TrainState) -> dict[str, PyTree]:
    return {f: getattr(state, f) for f in ('step', 'params', 'model_state', 'opt_state', 'extra')}


def _named(state: TrainState) -> dict[str, PyTree]:
    """Nested dicts by path name instead of optax's tuples: what is on the disk can be read without our classes."""
    return traverse_util.unflatten_dict(named_leaves(_as_dict(state)), sep='/')


def _strict(raw: dict[str, PyTree], abstract: TrainState, where: pathlib.Path) -> TrainState:
    """Puts restored arrays into the expected structure; every name and every shape must match."""
    found = named_leaves(raw)
    wanted, treedef = jax.tree_util.tree_flatten_with_path(_as_dict(abstract))
    names = [path_name(p) for p, _ in wanted]
    missing = sorted(set(names) - set(found))
    surplus = sorted(set(found) - set(names))
    shapes = [
        f'{n}: {np.shape(found[n])} {np.asarray(found[n]).dtype}, not {x.shape} {x.dtype}'
        for n, (_, x) in zip(names, wanted)
        if n in found and (np.shape(found[n]) != x.shape or np.asarray(found[n]).dtype != x.dtype)
    ]
    if missing or surplus or shapes:
        examples = (
            [f'no {n}' for n in missing[:3]] + [f'unexpected {n}' for n in surplus[:3]] + shapes[:3]
        )
        raise InputError(
            f'checkpoint {where}',
            got='; '.join(examples) + f' ({len(missing) + len(surplus) + len(shapes)} differences)',
            expected='the arrays of the configured nets and optimisers',
            fix='leave --config and its keys out to use the config of the folder, or take another --workdir',
        )
    leaves = [np.asarray(found[n]) for n in names]
    return TrainState(**jax.tree_util.tree_unflatten(treedef, leaves))


def load_params(path: str) -> dict[str, PyTree]:
    """Returns params and model_state of a run, stage, or checkpoint folder: {'params': .., 'model_state': ..}.

    Of a run folder the last stage with a checkpoint is read, of a stage folder the newest checkpoint.
    """
    folder = pathlib.Path(path).expanduser().absolute()
    if folder.name.isdigit() and (folder / 'state').is_dir():
        newest = folder
    else:
        by_stage = {
            stage: _numbered(folder / stage) for stage in ('', 'checkpoints', *_stages(folder))
        }
        saved = [steps for steps in by_stage.values() if steps]
        if not saved:
            raise InputError(
                'config.init_from.path',
                got=str(folder),
                expected='a run folder or a checkpoint folder of segjax',
                fix='give the --workdir of a run that saved a checkpoint',
            )
        newest = max(saved[-1], key=lambda step: int(step.name))
    tree = _restored(newest)
    # A tree without any array, as the statistics of nets without batch norm, leaves no trace in a checkpoint.
    return {'params': tree['params'], 'model_state': tree.get('model_state', {})}


def _restored(step: pathlib.Path) -> dict[str, PyTree]:
    """Returns the state in the folder of a checkpoint; raises InputError if it is not whole."""
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(step / 'state')
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # orbax raises errors of many types for damaged files
        first = (str(error).splitlines() or [type(error).__name__])[0]
        older = [
            other
            for other in _numbered(step.parent)
            if step.name.isdigit() and int(other.name) < int(step.name)
        ]
        before = max(older, key=lambda other: int(other.name), default=None)
        fix = (
            f'--config.init_from.path={before}, the checkpoint before'
            if before
            else 'copy the run folder again'
        )
        got = f'a checkpoint that cannot be read ({first[:200]})'
        raise InputError(str(step), got=got, expected='a whole checkpoint', fix=fix) from error


def newest_step(folder: pathlib.Path) -> int:
    """Returns the newest saved step in a folder of checkpoints, 0 if there is none."""
    return max((int(step.name) for step in _numbered(folder)), default=0)


def recorded_configs(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the configs that the newest checkpoint of every stage of a run was saved with, where they are known.

    A damaged checkpoint is passed over, as `Checkpoints.restore` does.
    """
    found = []
    for stage in sorted(folder.glob('*/checkpoints')):
        path = stage / str(newest_step(stage)) / 'record' / 'metadata'
        try:
            found.append(stored.read_object(path, ('config',))['config'])
        except (InputError, OSError):
            continue
    return found


def _numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the whole checkpoints in a folder of checkpoints."""
    return [
        state.parent for state in folder.glob('*/state') if re.fullmatch(r'\d+', state.parent.name)
    ]


def _stages(folder: pathlib.Path) -> list[str]:
    """Returns the folders of checkpoints in a run folder, those of the last stage last.

    The order is that of START, or of the scores of a run that is older than START. Times are no order: a copy of a
    folder has new ones. They decide where nothing else is known.
    """
    by_time = sorted(folder.glob('*/checkpoints'), key=lambda found: found.stat().st_mtime)
    known = list(map(str, (found.relative_to(folder) for found in by_time)))
    for name, key in ((files.START, 'stages'), ('scores.json', None)):
        if (folder / name).exists():
            read = stored.read_start if key else stored.read_scores
            content = read(folder / name)
            order = [f'{stage}/checkpoints' for stage in (content[key] if key else content)]
            return [stage for stage in known if stage not in order] + order
    return known


def merge_params(
    state: TrainState,
    source: dict[str, PyTree],
    patterns: tuple[str, ...],
    inherited: Collection[str] = (),
) -> tuple[TrainState, str]:
    """Replaces the arrays of `state` whose path 'net/module/...' matches a pattern by those of the same path.

    The patterns know modules, not kinds of arrays: batch statistics go with the parameters of their module. Nets in
    `inherited` keep what an earlier stage of this run has learned. Returns the new state and a printable list of what
    was taken and what was left. A matching name of another shape, or patterns that take nothing where there is
    something to take, are an InputError.
    """
    taken, left, clashing = [], [], []
    wrong: dict[str, str] = {}
    fields = {}
    for field in ('params', 'model_state'):
        found = named_leaves(source[field])

        def choose(path, leaf, field=field, found=found):
            name = path_name(path)
            net, *inner = name.split('/')
            module = '/'.join(
                [net, *(inner if field == 'params' else inner[1:])]
            )  # without 'batch_stats'
            wanted = net not in inherited and any(re.match(p, module) for p in patterns)
            if not wanted or name not in found:
                left.append(module)
                return leaf
            if np.shape(found[name]) != leaf.shape:
                wrong[name] = f'{np.shape(found[name])}, not {leaf.shape}'
                clashing.append(module.rpartition('/')[0])
                return leaf
            taken.append(module)
            return np.asarray(found[name], leaf.dtype)

        fields[field] = jax.tree_util.tree_map_with_path(choose, getattr(state, field))
    if wrong:
        raise InputError(
            'config.init_from',
            got='; '.join(f'{name}: {shapes}' for name, shapes in list(wrong.items())[:4]),
            expected='arrays of equal shape',
            fix=_without(patterns, clashing),
        )
    if not taken and not inherited:
        raise InputError(
            'config.init_from.nets',
            got=f'{patterns}, which match nothing',
            expected='patterns over net/module, as segmenter/encoder.*',
            fix=_common_nets(state.params, source['params']),
        )
    modules = sorted({'/'.join(n.split('/')[:2]) for n in taken})
    kept = sorted({'/'.join(n.split('/')[:2]) for n in left} - set(modules))
    lines = [
        f'initialised {len(taken)} arrays from the checkpoint, {len(left)} stay as they were drawn:'
    ]
    lines += [f'  + {m}' for m in modules] + [f'  - {m}' for m in kept]
    return state.replace(**fields), '\n'.join(lines)


def _common_nets(wanted: Mapping[str, PyTree], there: Mapping[str, PyTree]) -> str:
    """Returns the argument that takes all arrays of the nets that a run and its start have in common."""
    common = sorted(set(wanted) & set(there))
    if not common:
        return f'--config.init_from.path= starts at random; that start has the nets {", ".join(sorted(there))}'
    patterns = tuple(f'{re.escape(net)}/.*' for net in common)
    return f'--config.init_from.nets={shlex.quote(str(patterns))}'


def _without(patterns: Sequence[str], modules: Iterable[str]) -> str:
    """Returns the argument that leaves modules out of what patterns over net/module take."""
    left_out = sorted(set(modules))
    if len(left_out) > FEW:
        return 'the nets of that run: compare the section model of its config.json'
    names = '|'.join(f'{re.escape(module)}/' for module in left_out)
    narrower = ', '.join(json.dumps(f'(?!{names}){pattern}') for pattern in patterns)
    return shlex.quote(f'--config.init_from.nets=({narrower},)')
