"""THE loop: stage -> step -> log -> evaluate -> checkpoint, for every pipeline. It knows no loss and no net.

Resuming is a ladder: the newest whole checkpoint of this run folder, then `config.init_from`, then scratch. What is
written after step s is a function of (config, s) alone, so a run that was killed at any moment and started again ends
bit-identical to one that was not: the data position is the step, keys are folded from it, and the open logging window
is part of the checkpoint.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from segjax import checkpoints, data, evaluation, health, logs, parallel, pipelines, report, rng, scores
from segjax import config as config_lib
from segjax.data import loader
from segjax.data.spec import DataSpec
from segjax.errors import InputError
from segjax.journal import Journal
from segjax.protocol import Mean, Scores, Stage, TrainState


class Run(NamedTuple):
    """What all stages of a run share."""

    config: ml_collections.ConfigDict
    spec: DataSpec
    workdir: pathlib.Path
    topology: parallel.Topology


class Functions(NamedTuple):
    """A stage's functions, mapped over the devices; they compile when first called."""

    train: Callable  # (state, batch, root key) -> (state, metrics, flags)
    evaluate: Callable  # (state, batch, root key, batch number) -> metrics


# --- entry points -----------------------------------------------------------------------------------------------------


def open_run(config: ml_collections.ConfigDict, workdir: str) -> tuple[Run, tuple[Stage, ...]]:
    """Prepares the data and makes the stages; every check that needs no compiler happens here."""
    config_lib.validate(config)
    if config.train.dtype == 'float64' and not jax.config.jax_enable_x64:
        fix = 'start with JAX_ENABLE_X64=1 in the environment'
        raise InputError('config.train.dtype', got="'float64' without 64-bit mode", expected='64-bit mode', fix=fix)
    topology = parallel.topology(config.parallel.mode)
    spec = data.prepare(config.data)
    stages = pipelines.load(config.pipeline).make_stages(config, spec)
    for stage in stages:
        if stage.train_input is not None:
            topology.check_batch_size('train.batch_size', stage.train_input.batch_size, config.train.accumulate)
        topology.check_batch_size('evaluate.batch_size', stage.eval_input.batch_size)
    return Run(config, spec, pathlib.Path(workdir).expanduser().absolute(), topology), stages


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Scores]:
    """Trains all stages (or goes on with them), evaluates, writes scores.json and report.html."""
    run, stages = open_run(config, workdir)
    _check_same_config(run)
    if parallel.is_main():
        logs.write_json(run.workdir / 'config.json', config_lib.to_json(config))
        kind, count = run.topology.devices[0].device_kind, run.topology.count
        logs.write_json(run.workdir / 'environment.json', logs.environment(kind, count, jax.process_count()))
    return _through_stages(run, stages, train_stage)


def evaluate(config: ml_collections.ConfigDict, workdir: str, which: str = 'last') -> dict[str, Scores]:
    """Scores of the newest (or the best) checkpoint of every stage."""
    run, stages = open_run(config, workdir)

    def load(run, stage, earlier):
        return load_stage(run, stage, earlier, which), None

    return _through_stages(run, stages, load)


def _through_stages(run: Run, stages: tuple[Stage, ...], get_state: Callable) -> dict[str, Scores]:
    states, all_scores = {}, {}
    try:
        for stage in stages:
            state, totals = get_state(run, stage, states)
            if totals is None:
                totals = _evaluate(run, stage, map_functions(run, stage), state)
            all_scores[stage.name] = stage.finalize(totals)
            states[stage.name] = parallel.to_host(state)
            if parallel.is_main():
                logs.write_json(run.workdir / stage.name / 'scores.json', all_scores[stage.name])
                keys = rng.streams(_root(run, stage, 'evaluate'), stage.streams, 0, 0)
                evaluation.write_pictures(run, stage, keys, states[stage.name], totals)
                print(scores.score_table(all_scores[stage.name]), flush=True)
        if parallel.is_main():
            logs.write_json(run.workdir / 'scores.json', all_scores)
    finally:
        # Also after a divergence or a preemption: the curves up to there are what one wants to look at.
        if parallel.is_main() and (run.workdir / 'config.json').exists():
            print(f'report: {report.write(run.workdir, run.spec)}', flush=True)
    return all_scores


# --- one stage --------------------------------------------------------------------------------------------------------


def map_functions(run: Run, stage: Stage) -> Functions:
    """Wraps the stage's pure functions with keys, sums over devices and health flags, and maps them."""

    def train_step(state: TrainState, batch, root):
        keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
        state, metrics = stage.train_step(state, batch, keys)
        flags = {'finite': health.finite_by_module(state)}
        if run.config.parallel.check_replicas:
            flags['replica_mismatch'] = parallel.replica_mismatch(state)
        return state, parallel.sum_over_devices(dict(metrics)), flags

    def eval_step(state: TrainState, batch, root, number):
        keys = rng.streams(root, stage.streams, number, parallel.device_index())
        return parallel.sum_over_devices(dict(stage.eval_step(state, batch, keys)))

    return Functions(
        train=run.topology.spmd(train_step, num_args=3, donate=(0,)),
        evaluate=run.topology.spmd(eval_step, num_args=4),
    )


def train_stage(run: Run, stage: Stage, earlier: Mapping[str, TrainState]) -> tuple[TrainState, dict[str, Mean] | None]:
    """Trains one stage to its end.

    Returns its final state, on the devices, and the sums of its last evaluation (None if nothing was left to train).
    """
    functions = map_functions(run, stage)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(_open_checkpoints(run, stage))
        state, record = _restore(run, stage, earlier, saved) or (
            _initial_state(run, stage, earlier),
            {'window': {}},
        )
        start = int(state.step)
        state = run.topology.put_replicated(state)
        if start >= stage.num_steps:
            return state, None
        batches = stack.enter_context(contextlib.closing(_train_batches(run, stage.train_input, start)))
        journal = stack.enter_context(
            contextlib.closing(
                Journal(
                    run.workdir / stage.name,
                    stage.name,
                    stage.num_steps,
                    start,
                    stage.train_input.batch_size,
                    record['window'],
                    parallel.is_main(),
                )
            )
        )
        journal.config(config_lib.to_json(run.config))
        stop = stack.enter_context(health.StopSignal())
        pending, totals = [], None
        root = _root(run, stage, 'train')
        steps = _steps(run, functions, state, batches, root, start, stage.num_steps)
        for step, state, metrics, flags, waited in steps:
            pending.append((step, metrics, flags))
            journal.step(step, waited)
            stopping = stop.reached(step)
            due = _due(run, step, stage.num_steps)
            if any(due) or stopping:
                _drain(pending, journal, stage, saved)
            if due.log:
                journal.close_window(step)
            found = {}
            if due.evaluate:
                totals = _evaluate(run, stage, functions, state)
                found = stage.finalize(totals)
                journal.evaluated(step, found)
            if due.save or stopping:
                saved.save(
                    state,
                    {'window': journal.window.stored(), 'config': config_lib.to_json(run.config)},
                    found,
                )
            if due.evaluate or due.save:
                journal.clock.resume()
            if stopping and step < stage.num_steps:
                saved.wait()
                raise health.Preempted(f'stage {stage.name!r} saved at step {step}')
    return state, totals


def _steps(run: Run, functions: Functions, state, batches: Iterator, root, start: int, stop: int):
    """Yields (step, state, metrics, flags, seconds waited for input) after each step; steps count from 1."""
    for step in range(start + 1, stop + 1):
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        state, metrics, flags = functions.train(state, run.topology.put_batch(batch), root)
        if jax.default_backend() == 'cpu':
            # Simulated devices share few threads: queued collectives starve each other and the process aborts.
            jax.block_until_ready(metrics)
        yield step, state, metrics, flags, waited


class _Due(NamedTuple):
    log: bool
    evaluate: bool
    save: bool


def _due(run: Run, step: int, num_steps: int) -> _Due:
    def every(n):
        return step == num_steps or (n > 0 and step % n == 0)

    keys = run.config.run
    return _Due(every(keys.log_every), every(keys.eval_every), every(keys.checkpoint_every))


def _drain(pending: list, journal: Journal, stage: Stage, saved: checkpoints.Checkpoints) -> None:
    """Fetches the metrics of the steps since the last call, in order, and stops at the first that is not finite."""
    for step, metrics, flags in pending:
        metrics, flags = parallel.to_host((metrics, flags))
        health.check(stage.name, step, metrics, flags, saved.steps)
        journal.window.add(metrics)
    pending.clear()


def _evaluate(run: Run, stage: Stage, functions: Functions, state: TrainState) -> dict[str, Mean]:
    return evaluation.totals(run, stage, functions.evaluate, _root(run, stage, 'evaluate'), state)


# --- states -----------------------------------------------------------------------------------------------------------


def load_stage(run: Run, stage: Stage, earlier: Mapping[str, TrainState], which: str) -> TrainState:
    """The state of the newest ('last') or the best ('best') checkpoint, on the devices."""
    with _open_checkpoints(run, stage) as saved:
        step = saved.best_step() if which == 'best' else None
        restored = _restore(run, stage, earlier, saved, step)
    if restored is None and stage.num_steps:
        raise InputError(
            f'--workdir {run.workdir}',
            got=f'no checkpoint of stage {stage.name!r}',
            expected='the folder of a run that has saved one',
            fix='train first: --mode train',
        )
    state = restored[0] if restored else _initial_state(run, stage, earlier)
    return run.topology.put_replicated(state)


def load_last_stage(run: Run, stages: tuple[Stage, ...], which: str) -> tuple[Stage, TrainState]:
    """The last stage that can predict, and its state on the devices (for --mode predict)."""
    states = {}
    for stage in stages:
        states[stage.name] = load_stage(run, stage, parallel.to_host(states), which)
    able = [stage for stage in stages if stage.predict is not None]
    if not able:
        raise InputError('--mode predict', got=f'pipeline {run.config.pipeline!r}', expected='one that predicts labels')
    return able[-1], states[able[-1].name]


def device_batch(run: Run, stage: Stage) -> dict[str, np.ndarray]:
    """Zeros in the shapes of one device's batch, for `init`: what a net looks like must not depend on the data."""
    inputs = stage.train_input if stage.num_steps else stage.eval_input
    if stage.num_steps:
        with contextlib.closing(_train_batches(run, inputs, 0)) as batches:
            batch = next(batches)
    else:
        source = data.open_split(run.config.data, inputs.split, inputs.features)
        batch = loader.examples(source, [0], inputs, max_size=run.spec.split(inputs.split).max_size)
    rows = inputs.batch_size // run.topology.count
    return {k: np.zeros((rows, *v.shape[1:]), v.dtype) for k, v in batch.items()}


def _root(run: Run, stage: Stage, use: str) -> jax.Array:
    return rng.root(run.config.seed, stage.name, use)


def _initial_state(run: Run, stage: Stage, earlier: Mapping[str, TrainState]) -> TrainState:
    state = jax.jit(stage.init)(_root(run, stage, 'init'), device_batch(run, stage), dict(earlier))
    state = parallel.to_host(state)
    if run.config.init_from.path:
        source = checkpoints.load_params(run.config.init_from.path)
        state, summary = checkpoints.merge_params(state, source, run.config.init_from.nets)
        if parallel.is_main():
            print(summary, flush=True)
    return state


def _open_checkpoints(run: Run, stage: Stage) -> checkpoints.Checkpoints:
    keep = run.config.run
    folder = run.workdir / stage.name / 'checkpoints'
    return checkpoints.Checkpoints(folder, stage.monitor, keep.keep_last, keep.keep_best)


def _restore(run: Run, stage: Stage, earlier, saved: checkpoints.Checkpoints, step: int | None = None):
    if not saved.steps():
        return None
    abstract = jax.eval_shape(stage.init, _root(run, stage, 'init'), device_batch(run, stage), dict(earlier))
    return saved.restore(abstract, step)


def _check_same_config(run: Run) -> None:
    path = run.workdir / 'config.json'
    if not path.exists():
        return
    found = config_lib.differences(logs.read_json(path), config_lib.to_json(run.config))
    if found:
        more = f' and {len(found) - 5} more' if found[5:] else ''
        raise InputError(
            f'--workdir {run.workdir}',
            got='a run of another config: ' + '; '.join(found[:5]) + more,
            expected='the config it was started with',
            fix='another --workdir (begin with this run by --config.init_from.path), or undo the change',
        )


def _train_batches(run: Run, inputs, start_step: int):
    return loader.train_iterator(
        data.open_split(run.config.data, inputs.split, inputs.features),
        inputs,
        seed=run.config.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=run.config.data,
    )
