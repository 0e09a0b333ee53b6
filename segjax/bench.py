"""`--mode bench`: how fast a config trains, evaluates, predicts and reads its data, and what its programs cost.

What is timed, for every stage of the config:

    train     one optimiser step of the global batch: transfer to the devices, step, results ready
    evaluate  one evaluation batch, likewise
    predict   one batch of tiles as `--mode predict` calls it, on one device
    input     reading, decoding and augmenting training batches while the devices are idle

Programs are compiled ahead of time with the persistent cache off: `compile_seconds` is what the first start on a
machine pays, `lower_seconds` (tracing) what every start pays. FLOPs and bytes are XLA's own estimates for the program
of one device (a multiply-add is two); kernels that XLA does not see inside count 0. Every repetition waits for its
result, after warm-up calls that do not count. Figures are the median and the quartiles over repetitions.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from segjax import data, driver, logs, parallel, rng
from segjax.data import loader
from segjax.data.spec import DataSpec
from segjax.protocol import Input, PyTree, Stage, TrainState

REPETITIONS, WARM_UP = 10, 2
COLUMNS = ('stage', 'what', 'batch', 'size', 'images/s', 'ms', 'spread', 'trace s', 'compile s', 'GFLOP', 'peak MB')


class Measurement(NamedTuple):
    """Seconds of repeated calls, warm-up excluded."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.seconds, (0.25, 0.75))
        return float(low), float(high)

    def record(self) -> dict[str, Any]:
        return {'repetitions': len(self.seconds), 'median_seconds': self.median, 'quartiles_seconds': self.quartiles}


class Ratio(NamedTuple):
    """Time of a variant over the time of the reference in the same round: median and quartiles over rounds."""

    median: float
    quartiles: tuple[float, float]


# --- clocks ---


def measure(call: Callable[[], PyTree], repetitions: int = REPETITIONS, warm_up: int = WARM_UP) -> Measurement:
    """Times `call()`, its arrays ready; `warm_up` calls come first and do not count."""
    return measure_in_turn({'only': call}, repetitions, warm_up)['only']


def measure_in_turn(
    calls: Mapping[str, Callable[[], PyTree]], repetitions: int = REPETITIONS, warm_up: int = WARM_UP
) -> dict[str, Measurement]:
    """Times several calls in rounds, one of each per round, so that a machine that slows down hurts all alike.

    Every other round goes backwards: what runs after a given neighbour changes, too.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repetitions):
        names = list(calls) if turn % 2 == 0 else list(reversed(calls))
        for name in names:
            start = time.perf_counter()
            jax.block_until_ready(calls[name]())
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Measurement(tuple(values)) for name, values in seconds.items()}


def ratios(measurements: Mapping[str, Measurement], reference: str) -> dict[str, Ratio]:
    """Each variant's time over the reference's, paired by round (`measure_in_turn`); the reference's own is 1."""
    base = np.array(measurements[reference].seconds)
    found = {}
    for name, measurement in measurements.items():
        paired = np.array(measurement.seconds) / base
        low, high = np.quantile(paired, (0.25, 0.75))
        found[name] = Ratio(float(np.median(paired)), (float(low), float(high)))
    return found


def compare(
    variants: Mapping[str, tuple[Callable, Sequence]], repetitions: int = REPETITIONS, warm_up: int = WARM_UP
) -> tuple[dict[str, Measurement], dict[str, Ratio]]:
    """Times variants of one computation against the first of them, in turn.

    Args:
      variants: {name: (function, arguments)}; the functions are jitted (or compiled) and donate nothing.
      repetitions: timed rounds.
      warm_up: rounds before (the first one compiles).

    Returns:
      Measurements and ratios to the first variant, both by name.

    Example:
      times, ratio = compare({'naive': (naive_step, args), 'fast': (fast_step, args)})
      ratio['fast'].median  # 0.6: takes 60 % of the naive one's time
    """
    calls = {name: (lambda fn=fn, args=args: fn(*args)) for name, (fn, args) in variants.items()}
    measurements = measure_in_turn(calls, repetitions, warm_up)
    return measurements, ratios(measurements, next(iter(variants)))


# --- programs ---


class Program(NamedTuple):
    """A compiled program and what it costs, for one device.

    flops, bytes_accessed  XLA's estimates of one call; None where the backend gives none
    memory                 bytes: temporaries, arguments, outputs, what arguments and outputs share, and the peak
                           (temporaries + arguments + outputs - shared); None likewise
    """

    call: Callable
    lower_seconds: float
    compile_seconds: float
    flops: float | None
    bytes_accessed: float | None
    memory: dict[str, int] | None

    def record(self) -> dict[str, Any]:
        return {key: value for key, value in self._asdict().items() if key != 'call'}


def compile_program(mapped: Callable, *args: PyTree) -> Program:
    """Traces and compiles a jitted (or mapped) function for the shapes of `args`, past the persistent cache."""
    start = time.perf_counter()
    lowered = mapped.lower(*args)
    between = time.perf_counter()
    with without_compilation_cache():
        compiled = lowered.compile()
    end = time.perf_counter()
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Program(
        call=compiled,
        lower_seconds=between - start,
        compile_seconds=end - between,
        flops=_entry(cost, 'flops'),
        bytes_accessed=_entry(cost, 'bytes accessed'),
        memory=memory and _memory(memory),
    )


def _entry(cost: Mapping[str, float] | None, name: str) -> float | None:
    return float(cost[name]) if cost and name in cost else None


def _memory(stats) -> dict[str, int]:
    temporaries, arguments = stats.temp_size_in_bytes, stats.argument_size_in_bytes
    outputs, shared = stats.output_size_in_bytes, stats.alias_size_in_bytes
    return {
        'temporaries': temporaries,
        'arguments': arguments,
        'outputs': outputs,
        'shared': shared,
        'peak': temporaries + arguments + outputs - shared,
    }


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Compiles anew inside: neither reads nor writes the persistent cache."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update('jax_enable_compilation_cache', False)
        compilation_cache.reset_cache()  # whether it is used is remembered from the first compilation on
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', before)
        compilation_cache.reset_cache()


# --- stages ---


def main(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """`--mode bench`: opens the data, makes the stages and benches them; see `run`."""
    opened, stages = driver.open_run(config, workdir)
    return run(config, stages, opened.spec, opened.topology, opened.workdir)


def run(
    config: ml_collections.ConfigDict,
    stages: Sequence[Stage],
    spec: DataSpec,
    topology: parallel.Topology,
    out: pathlib.Path,
    repetitions: int = REPETITIONS,
) -> dict[str, Any]:
    """Benches every stage at freshly initialised parameters; prints a table and writes `out`/bench.json.

    Returns:
      {'environment': {...}, 'config': {...}, 'stages': {name: {'train': {...}, 'evaluate': {...}, 'predict': {...},
      'input': {...}, 'input_over_train': images/s of the input over those of training; below 1 the devices wait}}}.
      An entry is missing where the stage has no such part.
    """
    opened = driver.Run(config, spec, pathlib.Path(out), topology)
    states: dict[str, TrainState] = {}
    results: dict[str, Any] = {}
    for stage in stages:
        key = rng.root(config.seed, stage.name, 'init')
        init = jax.jit(stage.init)
        states[stage.name] = parallel.to_host(init(key, driver.device_batch(opened, stage), dict(states)))
        results[stage.name] = bench_stage(opened, stage, states[stage.name], repetitions)
    report = {
        'environment': logs.environment(topology.devices[0].device_kind, topology.count, jax.process_count()),
        'config': {
            'pipeline': config.pipeline,
            'dtype': config.train.dtype,
            'parallel': topology.mode,
            'devices': topology.count,
        },
        'stages': results,
    }
    if parallel.is_main():
        logs.write_json(opened.workdir / 'bench.json', report)
        print(table(report), flush=True)
    return report


def bench_stage(opened: driver.Run, stage: Stage, state: TrainState, repetitions: int) -> dict[str, Any]:
    """The entries of one stage; `state` is on the host."""
    result = {}
    functions = driver.map_functions(opened, stage)
    if stage.num_steps:
        with contextlib.closing(_train_batches(opened, stage.train_input)) as batches:
            result['input'] = bench_input(batches, stage.train_input, repetitions)
            batch = next(batches)
        result['train'] = bench_train(opened, stage, functions.train, state, batch, repetitions)
        result['input_over_train'] = result['input']['images_per_second'] / result['train']['images_per_second']
    result['evaluate'] = bench_evaluate(opened, stage, functions.evaluate, state, repetitions)
    if stage.predict is not None:
        result['predict'] = bench_predict(opened.config, stage, state, repetitions)
    return result


def bench_input(batches: Iterator, inputs: Input, repetitions: int) -> dict[str, Any]:
    """Time per batch of the training input, one after another and with nothing else to do."""
    # What was read ahead before the clock started is given out first; it would look too fast.
    measurement = measure(lambda: next(batches)['image'], repetitions, warm_up=max(WARM_UP, repetitions // 2))
    # A batch that was ready and one that was waited for differ much: the rate is that of all of them together.
    rate = inputs.batch_size * len(measurement.seconds) / sum(measurement.seconds)
    return {**_shape(inputs.batch_size, inputs.size), 'images_per_second': rate, **measurement.record()}


def bench_train(opened, stage: Stage, train: Callable, state, batch, repetitions: int) -> dict[str, Any]:
    """Time of an optimiser step; the state moves on from call to call, as it is donated."""
    root = rng.root(opened.config.seed, stage.name, 'train')
    current = opened.topology.put_replicated(state)
    program = compile_program(train, current, opened.topology.put_batch(batch), root)

    def step():
        nonlocal current
        current, metrics, _ = program.call(current, opened.topology.put_batch(batch), root)
        return current, metrics

    inputs = stage.train_input
    return _entry_of(measure(step, repetitions), program, inputs.batch_size, inputs.size)


def bench_evaluate(opened, stage: Stage, evaluate: Callable, state, repetitions: int) -> dict[str, Any]:
    """Time of an evaluation batch, resize to the labels' own size and metrics included."""
    inputs = stage.eval_input
    source = data.open_split(opened.config.data, inputs.split, inputs.features)
    rows = [i % len(source) for i in range(inputs.batch_size // jax.process_count())]
    batch = loader.examples(source, rows, inputs, max_size=opened.spec.split(inputs.split).max_size)
    root = rng.root(opened.config.seed, stage.name, 'evaluate')
    state, number = opened.topology.put_replicated(state), np.int32(0)
    program = compile_program(evaluate, state, opened.topology.put_batch(batch), root, number)
    measurement = measure(lambda: program.call(state, opened.topology.put_batch(batch), root, number), repetitions)
    return _entry_of(measurement, program, inputs.batch_size, inputs.size)


def bench_predict(config, stage: Stage, state, repetitions: int) -> dict[str, Any]:
    """Time of a batch of tiles; images/s counts tiles."""
    size = tuple(config.predict.tile) or tuple(config.data.eval_size)
    images = np.random.default_rng(0).integers(0, 256, (config.predict.batch_size, *size, 3), np.uint8)
    state = jax.device_put(state, jax.local_devices()[0])
    program = compile_program(jax.jit(stage.predict), state, images)
    measurement = measure(lambda: program.call(state, images), repetitions)
    return _entry_of(measurement, program, config.predict.batch_size, size)


def _train_batches(opened: driver.Run, inputs: Input) -> Iterator:
    return loader.train_iterator(
        data.open_split(opened.config.data, inputs.split, inputs.features),
        inputs,
        seed=opened.config.seed,
        start_step=0,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        data_config=opened.config.data,
    )


def _shape(batch_size: int, size: tuple[int, int]) -> dict[str, Any]:
    return {'batch_size': batch_size, 'size': tuple(size)}


def _entry_of(measurement: Measurement, program: Program, batch_size: int, size: tuple[int, int]) -> dict[str, Any]:
    return {
        **_shape(batch_size, size),
        'images_per_second': batch_size / measurement.median,
        **measurement.record(),
        **program.record(),
    }


# --- table ---


def table(report: Mapping[str, Any]) -> str:
    """The report as aligned text; the spread is half the distance of the quartiles over the median."""
    environment, config = report['environment'], report['config']
    rows = [COLUMNS]
    lines = [
        f'{config["pipeline"]} on {config["devices"]} x {environment["device"]} ({config["parallel"]}), '
        f'{config["dtype"]}, jax {environment["jax"]}'
    ]
    for name, parts in report['stages'].items():
        rows += [_row(name, what, parts[what]) for what in ('train', 'evaluate', 'predict', 'input') if what in parts]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append('  '.join(cells).rstrip())
    for name, parts in report['stages'].items():
        if 'input_over_train' in parts:
            share = parts['input_over_train']
            verdict = 'the input keeps up' if share >= 1 else 'the devices wait for the input'
            lines.append(f'{name}: input / train = {share:.2f}: {verdict}')
    return '\n'.join(lines)


def _row(stage: str, what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    def number(value, digits, scale=1.0):
        return '-' if value is None else f'{value * scale:.{digits}f}'

    low, high = entry['quartiles_seconds']
    memory = entry.get('memory')
    return (
        stage,
        what,
        str(entry['batch_size']),
        'x'.join(map(str, entry['size'])),
        number(entry['images_per_second'], 2),
        number(entry['median_seconds'], 1, 1e3),
        f'{(high - low) / 2 / entry["median_seconds"]:.0%}',
        number(entry.get('lower_seconds'), 1),
        number(entry.get('compile_seconds'), 1),
        number(entry.get('flops'), 2, 1e-9),
        number(memory and memory['peak'], 0, 1e-6),
    )
