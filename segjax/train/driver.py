"""THE loop: stage -> step -> log -> evaluate -> checkpoint, for every pipeline. It knows no loss and no net.

A stage begins from the newest whole checkpoint of the run folder, then from `config.init_from`, then
from scratch (initialization.py). Everything that is written after step s is a function of (config, s)
alone: the data position is the step, keys are folded from it, and the open logging window is part of
the checkpoint. A run that was killed and started again therefore ends bit-identical to an undisturbed
run.
"""

import contextlib
import fcntl
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging

from segjax import config as config_lib
from segjax import data as data_lib
from segjax import pipelines
from segjax.core import environment, files, host, notes, parallel, paths, processes, rng
from segjax.data import loader
from segjax.errors import InputError
from segjax.protocol import Input, Mean, Scores, Stage, TrainState
from segjax.report import page, scores
from segjax.spec import DataSpec
from segjax.train import (
    advice,
    agreement,
    checkpoints,
    checks,
    divergence,
    evaluation,
    extension,
    initialization,
    same_run,
    stored,
)
from segjax.train.journal import Journal
from segjax.train.same_run import CONFIG, SPEC
from segjax.train.stop import Preempted, StopSignal

SCORES = 'scores.json'  # of a run folder, and of a stage


class Run(NamedTuple):
    """What all stages of a run share."""

    config: ml_collections.ConfigDict
    data: data_lib.Prepared
    workdir: pathlib.Path
    topology: parallel.Topology
    source: Callable[[], initialization.Source | None] = lambda: (
        None
    )  # initialization.reader of config.init_from

    @property
    def spec(self) -> DataSpec:
        return self.data.spec


class Functions(NamedTuple):
    """A stage's functions, mapped over the devices; they compile when first called."""

    train: Callable  # (state, batch, root key) -> (state, metrics, flags)
    evaluate: Callable  # (state, batch, root key, batch number) -> metrics


# --- entry points -----------------------------------------------------------------------------------------------------


def open_run(
    config: ml_collections.ConfigDict, workdir: str, use: str, stop: StopSignal | None = None
) -> tuple[Run, tuple[Stage, ...]]:
    """Prepares the data, makes the stages, checks them, and prints warnings before a run begins.

    Args:
      config: unchecked.
      workdir: the run folder.
      use: 'train', 'evaluate' or 'predict'. Predicting works without the data set, from what the run folder keeps.
      stop: asked while data are prepared.
    """
    run, stages = checked_run(config, workdir, use, stop=stop)
    if use == 'train' and parallel.is_main() and not initialization.has_begun(run.workdir):
        for warning in advice.before_training(run.config, run.spec, stages):
            print(warning, flush=True)
    return run, stages


def checked_run(
    config: ml_collections.ConfigDict,
    workdir: str,
    use: str,
    trace_steps: bool = True,
    stop: StopSignal | None = None,
) -> tuple[Run, tuple[Stage, ...]]:
    """Returns what `open_run` does, and prints nothing.

    Args:
      config, workdir, use, stop: as in `open_run`.
      trace_steps: as in `checks.problems`.

    Raises:
      InputError: the first refusal of `segjax/train/checks.py`. Nothing has been compiled.
    """
    config_lib.validate(config)
    checks.check_precision(config)
    folder = paths.local('--workdir', workdir).absolute()
    if use == 'train' or processes.joined() or not folder.is_dir():
        paths.check_writable('--workdir', folder)
    if use != 'predict':
        agreement.check_start(config, folder, use)
    topology = parallel.topology(config.parallel.mode, options=host.compiler_options(config))
    kept = folder / SPEC
    source = initialization.reader(config.init_from)
    if use == 'train':
        config = initialization.with_preprocess(config, folder / CONFIG, source)
    else:
        config = same_run.as_trained(config, folder, use)
    if use == 'predict' and kept.exists():
        data = data_lib.Prepared(same_run.stored_spec(folder), folder, config.data.name)
    else:
        data = data_lib.prepare(config.data, stop.check_preparing if stop else data_lib.never_stop)
    begun = initialization.has_begun(folder)
    begins_elsewhere = use == 'train' and not begun and config.init_from.path
    agreement.check_data(data, initialization.digest(source()) if begins_elsewhere else '')
    stages = pipelines.load(config.pipeline).make_stages(config, data.spec)
    run = Run(config, data, folder, topology, source)
    for problem in checks.problems(run, stages, use, begun, trace_steps):
        raise problem
    return run, stages


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    stop: StopSignal | None = None,
    extend: bool = False,
) -> dict[str, Scores]:
    """Trains all stages (or goes on with them), evaluates, writes scores.json and report.html.

    Args:
      config: unchecked.
      workdir: the run folder.
      stop: entered by the caller, for several runs in a row; None: a run alone listens for itself.
      extend: whether the config may have more steps than the run folder says.
    """
    if extend:
        same_run.check_begun(paths.local('--workdir', workdir).absolute())
    with contextlib.nullcontext(stop) if stop else StopSignal() as stop:
        run, stages = open_run(config, workdir, 'train', stop)
        with _locked(run.workdir):
            longer = same_run.check_resumed(run.workdir, run.config, extend)
            same_run.check_data(run.workdir, run.spec, stages)
            initialization.write_start(run, stages, run.workdir / CONFIG)
            initialization.check_later_stages(run, stages)
            initialization.tell_unused(run, stages)
            if longer:
                extension.apply(run, stages)
            if parallel.is_main():
                files.write_json(run.workdir / CONFIG, config_lib.to_json(run.config))
                files.write_json(run.workdir / SPEC, run.spec.to_json())
                files.write_json(
                    run.workdir / 'environment.json', environment.describe_topology(run.topology)
                )
            try:
                found = _train_stages(run, stages, stop)
            except BaseException:
                # After a divergence or a preemption the curves up to there are what one wants to look at.
                with contextlib.suppress(
                    OSError
                ):  # a full disk is not the first thing that went wrong
                    _write_report(run)
                raise
            _write_report(run)
            return found


def _train_stages(run: Run, stages: tuple[Stage, ...], stop: StopSignal) -> dict[str, Scores]:
    """Trains and scores the stages in order; later stages get the states of earlier ones as host arrays."""
    states, all_scores = {}, {}
    for stage in stages:
        if stop.reached():
            raise Preempted(f'stage {stage.name!r} had not begun')
        last = stage is stages[-1]
        states[stage.name], all_scores[stage.name] = _train_and_score(
            run, stage, states, stop, last, len(stages) > 1
        )
    if parallel.is_main():
        files.write_json(run.workdir / SCORES, all_scores)
    return all_scores


def _train_and_score(
    run: Run,
    stage: Stage,
    earlier: Mapping[str, TrainState],
    stop: StopSignal,
    last: bool,
    compare: bool,
) -> tuple[TrainState, Scores]:
    """Trains one stage, or takes it from its checkpoint, and scores it.

    Nothing of the stage is left on the devices when this returns: the next stage needs the memory.

    Args:
      run: which this belongs to.
      stage: the stage.
      earlier: final states of the stages before, on the host.
      stop: asked during training and evaluation.
      last: whether no stage follows.
      compare: whether pictures are also made of examples that all stages share.

    Returns:
      The final state, on the host, and the scores.
    """
    state, totals = train_stage(run, stage, earlier, stop)
    host = parallel.to_host(state)
    path = run.workdir / stage.name / SCORES
    if totals is None and not last and path.exists():
        # The stage finished in an earlier start: reuse its scores if the protocol is the same.
        known = stored.read_scores(path)
        if same_run.still_hold(known, _made_by(run, stage, host), run.config):
            return host, known
    if totals is None:
        totals = _evaluate(run, stage, map_functions(run, stage), state, stop)
    found = {**stage.finalize(totals), scores.MADE_BY: _made_by(run, stage, host)}
    if parallel.is_main():
        keys = _keys(stage, root_key(run, stage, 'evaluate'), 0, 0, 0)
        evaluation.write_pictures(run, stage, keys, host, totals, compare=compare)
        files.write_json(path, found)  # last: what has scores is finished, pictures and all
        print(scores.score_table(found), flush=True)
    return host, found


def _made_by(run: Run, stage: Stage, host: TrainState) -> dict[str, Any]:
    return same_run.made_by(run.config, run.spec, stage, int(host.step))


def evaluate(
    config: ml_collections.ConfigDict, workdir: str, which: str = 'last'
) -> dict[str, Scores]:
    """Scores the newest ('last') or the best ('best') checkpoint of every stage, into scores_<which>.json.

    The scores of a folder without permission to write are printed alone.

    Raises:
      Preempted: the process was told to stop. Nothing was written; another call begins anew.
    """
    with StopSignal() as stop:
        return _evaluate_stages(config, workdir, which, stop)


def _evaluate_stages(
    config: ml_collections.ConfigDict, workdir: str, which: str, stop: StopSignal
) -> dict[str, Scores]:
    """Does the work of `evaluate`; `stop` is asked while data are prepared, and between batches."""
    run, stages = open_run(config, workdir, 'evaluate', stop)
    same_run.check_classes(run.workdir, run.config, run.spec)
    kept = _keeps_scores(run.workdir)
    states, all_scores = {}, {}
    for stage in stages:
        state = load_stage(run, stage, states, which)
        host = states[stage.name] = parallel.to_host(state)
        totals = _evaluate(run, stage, map_functions(run, stage), state, stop)
        all_scores[stage.name] = {
            **stage.finalize(totals),
            scores.MADE_BY: _made_by(run, stage, host),
        }
        if parallel.is_main():
            print(f'{stage.name}, step {int(host.step)}')
            print(scores.score_table(all_scores[stage.name]), flush=True)
    if kept and parallel.is_main():
        path = run.workdir / f'scores_{which}.json'
        files.write_json(path, all_scores)
        print(f'scores: {path}', flush=True)
    return all_scores


def _keeps_scores(folder: pathlib.Path) -> bool:
    """Returns whether scores can be written into a run folder, and prints a note where they cannot."""
    try:
        paths.check_writable('--workdir', folder)
    except InputError as error:
        fix = f'cp -a {folder} COPY, then --workdir COPY'
        notes.tell(notes.Note(error.where, f'{error.got}: scores are printed, and not kept', fix))
        return False
    return True


def _write_report(run: Run) -> None:
    if parallel.is_main():
        print(f'report: {page.write(run.workdir, run.spec)}', flush=True)


@contextlib.contextmanager
def _locked(workdir: pathlib.Path):
    """Keeps a second training out of a run folder; the system lets go of the lock when the process ends."""
    if not parallel.is_main():
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = 'wait for it, stop it, or take another --workdir'
            raise InputError(
                f'--workdir {workdir}',
                got='a folder in which another process is training',
                expected='a free one',
                fix=fix,
            ) from error
        except OSError as error:
            logging.error(
                '%s: this file system cannot lock (%s); make sure that only one run uses it',
                workdir,
                error,
            )
        yield


# --- one stage --------------------------------------------------------------------------------------------------------


def map_functions(run: Run, stage: Stage) -> Functions:
    """Wraps the stage's pure functions with keys, sums over devices and health flags, and maps them."""

    def train_step(state: TrainState, batch, root):
        keys = _keys(stage, root, state.step, parallel.device_index(), state.step)
        state, metrics = stage.train_step(state, batch, keys)
        flags = {'finite': divergence.finite_by_module(state)}
        if run.config.parallel.check_replicas:
            flags['replica_mismatch'] = parallel.replica_mismatch(state)
        return state, parallel.sum_over_devices(dict(metrics)), flags

    def eval_step(state: TrainState, batch, root, number):
        keys = _keys(stage, root, number, parallel.device_index(), 0)
        return parallel.sum_over_devices(dict(stage.eval_step(state, batch, keys)))

    return Functions(
        train=run.topology.spmd(train_step, num_args=3, donate=(0,)),
        evaluate=run.topology.spmd(eval_step, num_args=4),
    )


def _keys(stage: Stage, root: jax.Array, step, device, shared_step) -> dict[str, jax.Array]:
    """The streams of a stage for one call, on one device."""
    own = rng.streams(root, stage.streams, step, device)
    return own | rng.streams(root, stage.shared_streams, shared_step, 0)


def train_stage(
    run: Run, stage: Stage, earlier: Mapping[str, TrainState], stop: StopSignal
) -> tuple[TrainState, dict[str, Mean] | None]:
    """Trains one stage to its end.

    Returns its final state, on the devices, and the sums of its last evaluation (None if nothing was left to train).
    """
    functions = map_functions(run, stage)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_open_checkpoints(run, stage))
        state, record = _restore(run, stage, earlier, saved) or _begin(run, stage, earlier, saved)
        start = int(state.step)
        state = run.topology.put_replicated(state)
        if start >= stage.num_steps and not record['evaluate']:
            return state, None
        stop.protect(saved.is_saving)
        journal = stack.enter_context(contextlib.closing(_open_journal(run, stage, start, record)))
        totals = None

        def save(step, evaluate, found):
            """`evaluate`: the evaluation of this step is still to be made, by whoever resumes from here."""
            config = config_lib.to_json(run.config)
            record = {'window': journal.window.stored(), 'evaluate': evaluate, 'config': config}
            saved.save(state, record, found)
            journal.clock.resume()

        def evaluate(step):
            nonlocal totals
            totals = _evaluate(run, stage, functions, state, stop)
            found = stage.finalize(totals)
            journal.evaluated(step, found)
            journal.clock.resume()
            return {stage.monitor[0]: found[stage.monitor[0]]}

        if record['evaluate']:
            saved.add_scores(start, evaluate(start))
        batches = stack.enter_context(
            contextlib.closing(train_batches(run, stage.train_input, start))
        )
        pending, root = [], root_key(run, stage, 'train')
        for step in range(start + 1, stage.num_steps + 1):
            state, metrics, flags, waited = _step(run, functions, state, batches, root)
            pending.append((step, metrics, flags))
            journal.step(step, waited)
            due, stopping = _due(run, step, stage.num_steps), stop.reached()
            if any(due) or stopping:
                _drain(pending, journal, stage, saved)
            if due.log:
                journal.close_window(step)
            found = {}
            try:
                if due.evaluate and not stopping:
                    found = evaluate(step)
            except Preempted:
                stopping = True
            if due.save or stopping:
                save(step, due.evaluate and stopping, found)
            if stopping:
                saved.wait()
                raise Preempted(f'stage {stage.name!r} saved at step {step}')
    return state, totals


NO_RECORD = {'window': {}, 'evaluate': False}


def _begin(
    run: Run, stage: Stage, earlier: Mapping[str, TrainState], saved: checkpoints.Checkpoints
):
    """Returns (initial state, record) of a stage without a checkpoint.

    A stage of 0 steps saves the state at once: what it began from may change or go.
    """
    state = initialization.initial_state(run, stage, earlier)
    if not stage.num_steps:
        saved.save(state, {**NO_RECORD, 'config': config_lib.to_json(run.config)}, {})
        saved.wait()
    return state, NO_RECORD


def _step(run: Run, functions: Functions, state, batches: Iterator, root):
    """(state, metrics, flags, seconds waited for input) after one step."""
    began = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - began
    state, metrics, flags = functions.train(state, run.topology.put_batch(batch), root)
    if jax.default_backend() == 'cpu':
        # Simulated devices share few threads: queued collectives starve each other and the process aborts.
        jax.block_until_ready(metrics)
    return state, metrics, flags, waited


class _Due(NamedTuple):
    log: bool
    evaluate: bool
    save: bool


def _due(run: Run, step: int, num_steps: int) -> _Due:
    def every(n):
        return step == num_steps or (n > 0 and step % n == 0)

    keys = run.config.logging
    evaluate = every(keys.eval_every)
    # What was evaluated is saved where the best is to be kept: a score without its parameters is of no use.
    return _Due(
        every(keys.log_every),
        evaluate,
        every(keys.checkpoint_every) or (evaluate and keys.keep_best > 0),
    )


def _drain(pending: list, journal: Journal, stage: Stage, saved: checkpoints.Checkpoints) -> None:
    """Fetches the metrics of the steps since the last call, in order, and stops at the first that is not finite."""
    for step, metrics, flags in pending:
        metrics, flags = parallel.to_host((metrics, flags))
        divergence.check_finite(stage.name, step, metrics, flags, saved.steps)
        journal.window.add(metrics)
    pending.clear()


def _evaluate(
    run: Run, stage: Stage, functions: Functions, state: TrainState, stop: StopSignal
) -> dict[str, Mean]:
    return evaluation.totals(
        run, stage, functions.evaluate, root_key(run, stage, 'evaluate'), state, stop
    )


def _open_journal(run: Run, stage: Stage, start: int, record: Mapping[str, Any]) -> Journal:
    folder, batch_size = run.workdir / stage.name, stage.train_input.batch_size
    journal = Journal(
        folder, stage.name, stage.num_steps, start, batch_size, record['window'], parallel.is_main()
    )
    journal.config(config_lib.to_json(run.config))
    return journal


# --- states -----------------------------------------------------------------------------------------------------------


def load_stage(run: Run, stage: Stage, earlier: Mapping[str, TrainState], which: str) -> TrainState:
    """The state of the newest ('last') or the best ('best') checkpoint, on the devices."""
    restored = None
    if _checkpoint_folder(run, stage).is_dir():
        with checkpoints.Checkpoints(
            _checkpoint_folder(run, stage), stage.monitor, read_only=True
        ) as saved:
            scored = (
                which == 'best' and stage.num_steps > 0
            )  # a stage of 0 steps has one checkpoint, without a score
            step = saved.best_step() if scored else None
            if scored and step is None and saved.steps():
                got = f'no checkpoint of stage {stage.name!r} with a score {stage.monitor[0]!r}'
                raise InputError(
                    '--checkpoint best', got=got, expected='one saved after an evaluation'
                )
            restored = _restore(run, stage, earlier, saved, step)
    if restored is None and stage.num_steps:
        raise InputError(
            f'--workdir {run.workdir}',
            got=f'no checkpoint of stage {stage.name!r}',
            expected='the folder of a run that has saved one',
            fix='train first: --mode train',
        )
    state = restored[0] if restored else initialization.initial_state(run, stage, earlier)
    return run.topology.put_replicated(state)


def load_last_stage(run: Run, stages: tuple[Stage, ...], which: str) -> tuple[Stage, TrainState]:
    """Returns the last stage that can predict, and its state on the devices (for --mode predict).

    Of the stages before only shapes are needed, unless that stage has no checkpoint.
    """
    able = [number for number, stage in enumerate(stages) if stage.predict is not None]
    if not able:
        raise InputError(
            '--mode predict',
            got=f'pipeline {run.config.pipeline!r}',
            expected='one that predicts labels',
        )
    *before, last = stages[: able[-1] + 1]
    if initialization.has_checkpoint(run.workdir / last.name):
        return last, load_stage(run, last, initialization.abstract_states(run, before), which)
    earlier = {}
    for stage in before:
        earlier[stage.name] = parallel.to_host(load_stage(run, stage, earlier, which))
    return last, load_stage(run, last, earlier, which)


def root_key(run: Run, stage: Stage, use: str) -> jax.Array:
    """The key that a use of a stage ('train', 'evaluate') folds its streams from."""
    return rng.root(run.config.seed, stage.name, use)


def _open_checkpoints(run: Run, stage: Stage) -> checkpoints.Checkpoints:
    keep = run.config.logging
    return checkpoints.Checkpoints(
        _checkpoint_folder(run, stage), stage.monitor, keep.keep_last, keep.keep_best
    )


def _checkpoint_folder(run: Run, stage: Stage) -> pathlib.Path:
    return run.workdir / stage.name / 'checkpoints'


def _restore(
    run: Run, stage: Stage, earlier, saved: checkpoints.Checkpoints, step: int | None = None
):
    if not saved.steps():
        return None
    return saved.restore(initialization.abstract_state(run, stage, earlier), step)


def train_batches(run: Run, inputs: Input, start_step: int) -> Iterator:
    """This process's training batches from a step on; close it."""

    def open_input(inputs: Input, seed: int):
        batches = loader.train_iterator(
            run.data.open_input(inputs),
            inputs,
            seed=seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            data_config=run.config.data,
        )
        return opened.enter_context(contextlib.closing(batches))

    with contextlib.ExitStack() as opened:  # an input that cannot be opened closes those before it
        batches = open_input(inputs, run.config.seed)
        beside = {
            name: open_input(more, rng.derived_seed(run.config.seed, name))
            for name, more in inputs.unpaired
        }
        opened.pop_all()
    return loader.SideBySide(batches, beside) if beside else batches
