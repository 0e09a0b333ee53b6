"""The training loop of every pipeline: stage -> step -> log -> evaluate -> checkpoint.

It knows no loss and no net.

A stage starts from the newest whole checkpoint of the run folder, else from `config.init_from`,
else from random parameters. Everything that is written after step s depends on (config, s) alone:

  * the position in the data is the step,
  * random keys are folded from the step,
  * the open logging window is part of the checkpoint.

A run that was killed and started again therefore ends bit-identical to an undisturbed run.
"""

import contextlib
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from segjax import config as config_lib
from segjax.core import environment, files, notes, parallel, paths
from segjax.errors import InputError
from segjax.protocol import Mean, Metrics, Scores, Stage, TrainState
from segjax.report import page
from segjax.report.scores import MADE_BY, score_table
from segjax.train import (
    divergence,
    evaluation,
    extension,
    initialization,
    opening,
    pictures,
    products,
    same_run,
    states,
    stored,
)
from segjax.train.batches import Batches, train_batches, training_input
from segjax.train.checkpoints import Checkpoints
from segjax.train.journal import Journal
from segjax.train.opening import checked_run, open_run
from segjax.train.run import Run
from segjax.train.stage_functions import Functions, map_functions, root_key, stage_keys
from segjax.train.states import Record, load_last_stage, load_stage, predicting_stage
from segjax.train.stop import Preempted, StopSignal
from segjax.train.stored import CONFIG, ENVIRONMENT, SCORES

__all__ = [
    'CONFIG',
    'SCORES',
    'Run',
    'checked_run',
    'evaluate',
    'load_last_stage',
    'load_stage',
    'map_functions',
    'open_run',
    'predicting_stage',
    'root_key',
    'train',
    'train_batches',
]


# --- a run ----------------------------------------------------------------------------------------


def train(
    config: ml_collections.ConfigDict,
    workdir: str,
    stop: StopSignal | None = None,
    extend: bool = False,
) -> dict[str, Scores]:
    """Trains all stages, or resumes them, and evaluates. Writes scores.json and report.html.

    Args:
      config: unchecked.
      workdir: the run folder.
      stop: signal shared by several runs, entered by the caller. None creates one for this run.
      extend: whether the config may have more steps than the run folder says.

    Returns:
      The scores by stage.
    """
    if extend:
        same_run.check_begun(paths.local('--workdir', workdir).absolute())
    with contextlib.nullcontext(stop) if stop else StopSignal() as stop:
        run, stages = open_run(config, workdir, 'train', stop)
        with opening.locked(run.workdir):
            _prepare_folder(run, stages, extend)
            try:
                all_scores = _train_stages(run, stages, stop)
            except BaseException:
                # After a divergence or a preemption the report shows the curves so far. The report
                # may fail too, for example on a full disk: the first error is the one to show.
                with contextlib.suppress(OSError):
                    _write_report(run)
                raise
            _write_report(run)
            return all_scores


def _prepare_folder(run: Run, stages: tuple[Stage, ...], extend: bool) -> None:
    """Compares config, data and source with the run folder, and writes them into it."""
    # Everything up to `extension.apply` compares with config.json of the start before.
    longer = same_run.check_resumed(run.workdir, run.config, extend)
    same_run.check_data(run.workdir, run.specs, stages)
    initialization.write_start(run, stages, run.workdir / CONFIG)
    initialization.check_later_stages(run, stages)
    initialization.tell_unused(run, stages)
    if longer:
        extension.apply(run, stages)
    if parallel.is_main():
        files.write_json(run.workdir / CONFIG, config_lib.to_json(run.config))
        same_run.write_specs(run.workdir, run.specs)
        versions = environment.describe_topology(run.topology)
        files.write_json(run.workdir / ENVIRONMENT, versions)


def _train_stages(run: Run, stages: tuple[Stage, ...], stop: StopSignal) -> dict[str, Scores]:
    """Trains and scores the stages in order. Later stages get states and arrays on the host."""
    readers = states.last_readers(run, stages)
    earlier: dict[str, Any] = {}
    all_scores: dict[str, Scores] = {}
    for number, stage in enumerate(stages):
        if stop.reached():
            raise Preempted(f'stage {stage.name!r} had not begun')
        last = stage is stages[-1]
        compare = len(stages) > 1
        finished = _train_and_score(run, stage, earlier, stop, last, compare)
        all_scores[stage.name] = finished.scores
        earlier |= initialization.handed_on(stage, finished.state, finished.arrays)
        run = run.with_products(stage.name, finished.arrays)
        earlier = states.keep_read(earlier, readers, number + 1)
        del finished
    if parallel.is_main():
        files.write_json(run.workdir / SCORES, all_scores)
    return all_scores


class _Finished(NamedTuple):
    """A finished stage.

    state   its final state, on the host
    arrays  that it hands on
    scores  of its final state
    """

    state: TrainState
    arrays: Mapping[str, np.ndarray]
    scores: Scores


def _train_and_score(
    run: Run,
    stage: Stage,
    earlier: Mapping[str, Any],
    stop: StopSignal,
    last: bool,
    compare: bool,
) -> _Finished:
    """Trains one stage, or restores it if it is finished, and scores it.

    Nothing of the stage is left on the devices when this returns: the next stage needs the memory.

    Args:
      run: the run.
      stage: the stage.
      earlier: final states of the stages before and their arrays, on the host.
      stop: asked during training and evaluation.
      last: whether no stage follows.
      compare: whether to add pictures of the same examples for all stages.
    """
    state, totals = train_stage(run, stage, earlier, stop)
    final = parallel.to_host(state)
    arrays = products.of_finished(run, stage, state, stop)
    made_by = _made_by(run, stage, final, earlier)
    path = run.workdir / stage.name / SCORES

    # The stage finished in an earlier start. Reuse its scores unless the protocol changed.
    if totals is None and not last and path.exists():
        known = stored.read_scores(path)
        if same_run.still_hold(known, made_by, run.config):
            return _Finished(final, arrays, known)

    if totals is None:
        totals = _evaluate(run, stage, map_functions(run, stage), state, stop)
    scores = {**stage.finalize(totals), MADE_BY: made_by}
    if parallel.is_main():
        keys = stage_keys(stage, root_key(run, stage, 'evaluate'), 0, 0, 0)
        pictures.write_pictures(run, stage, keys, final, totals, compare=compare)
        # The scores come last: a stage that has scores is finished, its pictures included.
        files.write_json(path, scores)
        print(score_table(scores), flush=True)
    return _Finished(final, arrays, scores)


def _made_by(
    run: Run, stage: Stage, state: TrainState, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    read = products.digests_for_scores(run, stage, earlier)
    weights = initialization.net_digests(run, state.params)
    return same_run.made_by(run.config, run.specs, stage, int(state.step), weights, read)


def _write_report(run: Run) -> None:
    if parallel.is_main():
        print(f'report: {page.write(run.workdir, run.specs)}', flush=True)


# --- the evaluation of a run ----------------------------------------------------------------------


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str,
    which: str = 'last',
    stop: StopSignal | None = None,
    keep: bool = True,
) -> dict[str, Scores]:
    """Scores a checkpoint of every stage, and writes scores_<which>.json.

    If the run folder cannot be written to, the scores are only printed.

    Args:
      config: unchecked.
      workdir: the run folder.
      which: 'last' for the newest checkpoints, 'best' for the best.
      stop: signal shared by several runs, entered by the caller. None creates one for this call.
      keep: whether to write the scores.

    Returns:
      The scores by stage.

    Raises:
      Preempted: the process was told to stop. Nothing was written. Another call starts anew.
    """
    with contextlib.nullcontext(stop) if stop else StopSignal() as stop:
        return _evaluate_stages(config, workdir, which, stop, keep)


def _evaluate_stages(
    config: ml_collections.ConfigDict, workdir: str, which: str, stop: StopSignal, keep: bool
) -> dict[str, Scores]:
    """Does the work of `evaluate`. `stop` is asked while data are prepared and between batches."""
    run, stages = open_run(config, workdir, 'evaluate', stop)
    same_run.check_classes(run.workdir, run.config, run.specs)
    writable = keep and _is_writable(run.workdir)
    readers = states.last_readers(run, stages)
    earlier: dict[str, Any] = {}
    all_scores: dict[str, Scores] = {}
    for number, stage in enumerate(stages):
        evaluated = _evaluate_stage(run, stage, earlier, which, stop)
        all_scores[stage.name] = evaluated.scores
        earlier |= initialization.handed_on(stage, evaluated.state, evaluated.arrays)
        run = run.with_products(stage.name, evaluated.arrays)
        earlier = states.keep_read(earlier, readers, number + 1)
        del evaluated
    if writable and parallel.is_main():
        path = run.workdir / f'scores_{which}.json'
        files.write_json(path, all_scores)
        print(f'scores: {path}', flush=True)
    return all_scores


def _evaluate_stage(
    run: Run, stage: Stage, earlier: Mapping[str, Any], which: str, stop: StopSignal
) -> _Finished:
    """Scores a checkpoint of a stage, and prints the scores.

    Nothing of the stage is left on the devices when this returns.

    Args:
      run, earlier, stop: as in `_train_and_score`.
      stage: the stage.
      which: as in `evaluate`.
    """
    state = load_stage(run, stage, earlier, which)
    final = parallel.to_host(state)
    totals = _evaluate(run, stage, map_functions(run, stage), state, stop)
    made_by = _made_by(run, stage, final, earlier)
    arrays = products.of_evaluated(run, stage, state, stop)
    scores = {**stage.finalize(totals), MADE_BY: made_by}
    if parallel.is_main():
        print(f'{stage.name}, step {made_by["step"]}')
        print(score_table(scores), flush=True)
    return _Finished(final, arrays, scores)


def _is_writable(folder: pathlib.Path) -> bool:
    """Returns whether scores can be written into a run folder. Prints a note if they cannot."""
    try:
        paths.check_writable('--workdir', folder)
    except InputError as error:
        fix = f'cp -a {folder} COPY, then --workdir COPY'
        message = f'{error.got}: scores are printed, and not kept'
        notes.tell(notes.Note(error.where, message, fix))
        return False
    return True


# --- one stage ------------------------------------------------------------------------------------


def train_stage(
    run: Run, stage: Stage, earlier: Mapping[str, Any], stop: StopSignal
) -> tuple[TrainState, dict[str, Mean] | None]:
    """Trains one stage. Returns its final state, on the devices, and its last evaluation sums.

    The sums are None if nothing was left to train.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(states.open_checkpoints(run, stage))
        state, record = states.first_state(run, stage, earlier, checkpoints)
        start = int(state.step)
        state = run.topology.put_replicated(state)
        if start >= stage.num_steps and not record['evaluate']:
            return state, None
        stop.protect(checkpoints.is_saving)
        journal = _open_journal(run, stage, start, record)
        stack.callback(journal.close)
        loop = _Loop(run, stage, map_functions(run, stage), checkpoints, journal, stop, record)

        # A stop signal cut this evaluation short. Its checkpoint waits for the score.
        totals = None
        if record['evaluate']:
            totals, scores = loop.run_evaluation(state, start)
            checkpoints.add_scores(start, scores)

        batches = train_batches(run, training_input(stage), start)
        stack.callback(batches.close)
        root = root_key(run, stage, 'train')
        unchecked: list[_Unchecked] = []

        # The order below is the restart guarantee: fetch and check, log, evaluate, save. Do not
        # change it. A checkpoint promises that the log holds every line up to its step.
        for step in range(start + 1, stage.num_steps + 1):
            state, metrics, flags, input_wait = loop.run_step(state, batches, root)
            unchecked.append(_Unchecked(step, metrics, flags))
            journal.step(step, input_wait)
            due = _due(run, step, stage.num_steps)
            stopping = stop.reached()

            # Fetch the metrics since the last log line. Raises Diverged before anything is saved.
            if any(due) or stopping:
                loop.fetch_and_check(unchecked)
            if due.log:
                journal.close_window(step)

            # A stop signal may cut the evaluation short. The next start then makes it up.
            scores = {}
            if due.evaluation and not stopping:
                try:
                    totals, scores = loop.run_evaluation(state, step)
                except Preempted:
                    stopping = True

            # Save after evaluating, so that the checkpoint carries its own score.
            if due.save or stopping:
                loop.save(state, scores, evaluation_pending=due.evaluation and stopping)
            if stopping:
                checkpoints.wait()
                raise Preempted(f'stage {stage.name!r} saved at step {step}')
    return state, totals


class _Unchecked(NamedTuple):
    """The results of a step, still on the devices: fetching them would wait for the step."""

    step: int
    metrics: Metrics
    flags: Mapping[str, Any]


class _Loop(NamedTuple):
    """The parts that all steps of a stage use. `record` is of the state with which it starts."""

    run: Run
    stage: Stage
    functions: Functions
    checkpoints: Checkpoints
    journal: Journal
    stop: StopSignal
    record: Record

    def run_step(
        self, state: TrainState, batches: Batches, root: jax.Array
    ) -> tuple[TrainState, Metrics, Mapping[str, Any], float]:
        """Returns (state, metrics, flags, seconds of waiting for input) of one step."""
        began = time.perf_counter()
        batch = next(batches)
        input_wait = time.perf_counter() - began
        device_batch = self.run.topology.put_batch(batch)
        state, metrics, flags = self.functions.train(state, device_batch, root)
        if jax.default_backend() == 'cpu':
            # Simulated devices share few threads: queued collectives starve each other, and the
            # process aborts.
            jax.block_until_ready(metrics)
        return state, metrics, flags, input_wait

    def fetch_and_check(self, unchecked: list[_Unchecked]) -> None:
        """Adds metrics to the logging window, in the order of their steps, and empties the list.

        Raises:
          Diverged: a loss or a parameter is not finite. The first such step is named.
        """
        for step, metrics, flags in unchecked:
            metrics, flags = parallel.to_host((metrics, flags))
            divergence.check_finite(self.stage.name, step, metrics, flags, self.checkpoints.steps)
            self.journal.window.add(metrics)
        unchecked.clear()

    def run_evaluation(
        self, state: TrainState, step: int
    ) -> tuple[dict[str, Mean], dict[str, float]]:
        """Evaluates a state and logs its scores.

        Returns:
          The sums of the evaluation, and {name: value} of the score that ranks checkpoints.

        Raises:
          Preempted: the process was told to stop.
        """
        totals = _evaluate(self.run, self.stage, self.functions, state, self.stop)
        scores = self.stage.finalize(totals)
        self.journal.evaluated(step, scores)
        self.journal.clock.resume()
        name, _ = self.stage.monitor
        return totals, {name: scores[name]}

    def save(
        self, state: TrainState, scores: Mapping[str, float], evaluation_pending: bool
    ) -> None:
        """Starts to save a checkpoint.

        Args:
          state: saved under its own step.
          scores: of the state, {} without an evaluation.
          evaluation_pending: whether a resumed run must first evaluate this step.
        """
        record = {
            'window': self.journal.window.stored(),
            'evaluate': evaluation_pending,
            'products': self.record['products'],
        }
        self.checkpoints.save(state, states.stored_record(self.run, record), scores)
        self.journal.clock.resume()


class _Due(NamedTuple):
    """Actions that are due after a step."""

    log: bool
    evaluation: bool
    save: bool


def _due(run: Run, step: int, num_steps: int) -> _Due:
    """Returns the actions that are due after a step. All of them are due after the last step."""

    def every(interval: int) -> bool:
        return step == num_steps or (interval > 0 and step % interval == 0)

    intervals = run.config.logging
    evaluation_due = every(intervals.eval_every)
    # If the best checkpoint is kept, every evaluated step is saved.
    keeps_best = evaluation_due and intervals.keep_best > 0
    return _Due(
        log=every(intervals.log_every),
        evaluation=evaluation_due,
        save=every(intervals.checkpoint_every) or keeps_best,
    )


def _evaluate(
    run: Run, stage: Stage, functions: Functions, state: TrainState, stop: StopSignal
) -> dict[str, Mean]:
    """Returns the sums of an evaluation of a state."""
    root = root_key(run, stage, 'evaluate')
    return evaluation.totals(run, stage, functions.evaluate, root, state, stop)


def _open_journal(run: Run, stage: Stage, start: int, record: Record) -> Journal:
    """Opens the log files of a stage. Lines that are later than step `start` are dropped."""
    journal = Journal(
        run.workdir / stage.name,
        stage.name,
        num_steps=stage.num_steps,
        start_step=start,
        batch_size=training_input(stage).batch_size,
        window=record['window'],
        enabled=parallel.is_main(),
    )
    journal.config(config_lib.to_json(run.config))
    return journal
