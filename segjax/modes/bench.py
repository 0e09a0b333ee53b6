"""`--mode bench`: how fast a config trains, evaluates, predicts and reads its data, and what its programs cost.

Nothing has to be trained first: parameters are fresh. What is timed, for every stage of the config:

    train     one optimiser step of the global batch: batch to the devices, forward, backward, update, metrics
    evaluate  one batch likewise: batch to the devices, forward, metrics at the resolution of the scores
    predict   one batch of tiles as `--mode predict` calls it, on one device: tiles to the device, forward
    input     reading, decoding, augmenting and batching for training, with the config's threads and workers, while the
              devices are idle

`config.bench.variants` names other settings of the same config. Their programs are timed in the same run, one call of
each in turn, so that a machine that slows down hurts all alike; what is compared is the time per image in each round.

Programs are compiled ahead of time with the persistent cache off: `compile_seconds` is what the first start on a
machine pays, `lower_seconds` (tracing) what every start pays. FLOPs and bytes are XLA's own estimates for the program
of one device (a multiply-add is two); kernels that XLA does not see inside count 0. Every repetition waits for its
result, after warm-up calls that do not count. Figures are the median and the quartiles over repetitions.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import environment, files, parallel
from segjax.data import loader
from segjax.errors import InputError
from segjax.protocol import PyTree, Stage, TrainState
from segjax.train import driver, initialization
from segjax.train.stop import Preempted, StopSignal

BASE = 'base'
FRESH = 'init_from.path='  # an override: what parameters hold does not change what they cost
PARTS = ('train', 'evaluate', 'predict')  # of a stage that are programs
INCLUDED = {
    'train': 'batch to the devices, forward, backward, update, metrics',
    'evaluate': 'batch to the devices, forward, metrics at the resolution of the scores',
    'predict': 'tiles to one device, forward; images are tiles',
    'input': 'reading, decoding, augmenting, batching; devices idle',
}
COLUMNS = (
    *('stage', 'what', 'variant', 'batch', 'size', 'images/s', 'ms', 'spread', '/ base'),
    *('trace s', 'compile s', 'GFLOP', 'peak MB'),
)


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
        return {
            'repetitions': len(self.seconds),
            'median_seconds': self.median,
            'quartiles_seconds': self.quartiles,
        }


class Ratio(NamedTuple):
    """Time of a variant over the time of the reference in the same round: median and quartiles over rounds."""

    median: float
    quartiles: tuple[float, float]


# --- clocks ---


def measure_in_turn(
    calls: Mapping[str, Callable[[], PyTree]], repetitions: int, warm_up: int
) -> dict[str, Measurement]:
    """Times calls, their arrays ready, in rounds of one call each; the `warm_up` rounds before do not count.

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
        flops=_cost(cost, 'flops'),
        bytes_accessed=_cost(cost, 'bytes accessed'),
        memory=memory and _memory(memory),
    )


def _cost(cost: Mapping[str, float] | None, name: str) -> float | None:
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


class Variant(NamedTuple):
    """A config to be timed, opened: the first one of a bench is the base that the others are compared with."""

    name: str
    overrides: str
    run: driver.Run
    stages: tuple[Stage, ...]


class TimedRun(NamedTuple):
    """One stage of one variant; the state is on the host."""

    run: driver.Run
    stage: Stage
    state: TrainState


class Timed(NamedTuple):
    """What is called and what one call goes through."""

    call: Callable[[], PyTree]
    program: Program
    batch_size: int
    size: tuple[int, int]


def main(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """`--mode bench`: opens the config and its variants and benches them; see `run`."""
    with StopSignal() as stop:
        variants = open_variants(config, workdir, stop)
        if stop.reached():
            raise Preempted('nothing was timed')
    return time_variants(variants)


def variants_by_name(value) -> dict[str, str]:
    """{name: overrides} of `bench.variants`; a variant without a name goes by its overrides."""
    return dict((item, item) if isinstance(item, str) else item for item in value)


def open_variants(
    config: ml_collections.ConfigDict, workdir: str, stop: StopSignal | None = None
) -> tuple[Variant, ...]:
    """The config itself and each of `config.bench.variants`; every check that needs no compiler happens here.

    Args:
      config: with its variants.
      workdir: the run folder.
      stop: asked while data are prepared.

    Raises:
      InputError: a variant that changes nothing known or is no valid config; it is named.
    """
    config_lib.validate(config)
    config = config_file.overridden(config, FRESH)
    variants = [Variant(BASE, '', *driver.open_run(config, workdir, 'train', stop))]
    for name, overrides in variants_by_name(config.bench.variants).items():
        try:
            changed = config_file.overridden(config, overrides)
            if changed.bench != config.bench:
                raise InputError(
                    'config.bench', got='changed', expected='the same repetitions for all variants'
                )
            variants.append(
                Variant(name, overrides, *driver.open_run(changed, workdir, 'train', stop))
            )
        except InputError as error:
            raise error.at(f'config.bench.variants, {name}: {error.where}') from error
    return tuple(variants)


def time_variants(variants: Sequence[Variant]) -> dict[str, Any]:
    """Benches every stage of every variant at fresh parameters; prints a table and writes <workdir>/bench.json.

    Stages are compared by their place, as a variant may change their names: a place goes by the base's name for it, or
    that of the first variant that has so many stages. All variants are on the devices at once: together they need more
    memory than each alone.

    Returns:
      {'environment': {...}, 'config': the base's, 'variants': {name: overrides}, 'stages': {stage: {
      'train', 'evaluate', 'predict', 'input': {variant: {...}},
      'input_over_train': {variant: images/s of the input over those of training; below 1 the devices wait}}}}.
      A part is missing where the stage has none. A variant that reads as an earlier one does has no 'input' of its own.
    """
    base = variants[0].run
    jobs: list[dict[str, TimedRun]] = [
        {} for _ in range(max(len(variant.stages) for variant in variants))
    ]
    for variant in variants:
        for of_stage, job in zip(jobs, fresh_jobs(variant.run, variant.stages)):
            of_stage[variant.name] = job
    report = {
        'environment': environment.describe_topology(base.topology),
        'config': config_lib.to_json(base.config),
        'variants': {variant.name: variant.overrides for variant in variants},
        'stages': {
            name: bench_stage(of_stage, base.config.bench)
            for name, of_stage in zip(_stage_names(jobs), jobs)
        },
    }
    if parallel.is_main():
        files.write_json(base.workdir / 'bench.json', report)
        print(table(report), flush=True)
    return report


def fresh_jobs(run: driver.Run, stages: Sequence[Stage]) -> list[TimedRun]:
    """The first stages of a run, each at fresh parameters and after the fresh ones before it."""
    jobs: list[TimedRun] = []
    for stage in stages:
        earlier = {job.stage.name: job.state for job in jobs}
        jobs.append(TimedRun(run, stage, initialization.initial_state(run, stage, earlier)))
    return jobs


def _stage_names(jobs: Sequence[Mapping[str, TimedRun]]) -> list[str]:
    """A name for each place, of which no two are equal."""
    names: list[str] = []
    for place, of_stage in enumerate(jobs, start=1):
        name = next(iter(of_stage.values())).stage.name
        names.append(f'{name} (stage {place})' if name in names else name)
    return names


def bench_stage(
    jobs: Mapping[str, TimedRun], settings: ml_collections.ConfigDict
) -> dict[str, Any]:
    """The parts of one stage, by variant.

    Args:
      jobs: by variant; times are compared with those of BASE.
      settings: `config.bench`.
    """
    parts: dict[str, Any] = {}
    training = {name: job for name, job in jobs.items() if job.stage.num_steps}
    source = {name: _first_that_reads_alike(training, job) for name, job in training.items()}
    inputs = {
        name: bench_input(training[name], settings) for name in dict.fromkeys(source.values())
    }
    for part in PARTS:
        entries = bench_calls(prepare(part, jobs), settings)
        if entries:
            parts[part] = entries
    if training:
        parts['input'] = inputs
        rate = {name: entry['images_per_second'] for name, entry in parts['train'].items()}
        parts['input_over_train'] = {
            n: inputs[source[n]]['images_per_second'] / rate[n] for n in training
        }
    return parts


def bench_calls(timed: Mapping[str, Timed], settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """Times the variants of one part in turn; `over_base`, where BASE is one of them, is the ratio per image."""
    measurements = measure_calls(timed, settings)
    images = per_image(timed, measurements)
    over_base = ratios(images, BASE) if BASE in timed else {}
    return {
        name: {
            'batch_size': one.batch_size,
            'size': one.size,
            'images_per_second': 1 / images[name].median,
            **measurements[name].record(),
            **({'over_base': over_base[name]._asdict()} if over_base else {}),
            **one.program.record(),
        }
        for name, one in timed.items()
    }


def measure_calls(
    timed: Mapping[str, Timed], settings: ml_collections.ConfigDict
) -> dict[str, Measurement]:
    """Seconds of each call, in turn, as often as `config.bench` says."""
    calls = {name: one.call for name, one in timed.items()}
    return measure_in_turn(calls, settings.repetitions, settings.warmup)


def per_image(
    timed: Mapping[str, Timed], measurements: Mapping[str, Measurement]
) -> dict[str, Measurement]:
    """Seconds of each call over the images of its batch."""
    return {
        name: Measurement(
            tuple(seconds / timed[name].batch_size for seconds in measurement.seconds)
        )
        for name, measurement in measurements.items()
    }


def prepare(part: str, jobs: Mapping[str, TimedRun]) -> dict[str, Timed]:
    """The programs of one of PARTS, on the devices, for those jobs whose stage has that part."""
    prepare_one, has_part = {
        'train': (prepare_train, lambda stage: stage.num_steps > 0),
        'evaluate': (prepare_evaluate, lambda stage: True),
        'predict': (prepare_predict, lambda stage: stage.predict is not None),
    }[part]
    return {name: prepare_one(job) for name, job in jobs.items() if has_part(job.stage)}


def prepare_train(job: TimedRun) -> Timed:
    """An optimiser step; the state moves on from call to call, as it is donated."""
    inputs, topology = job.stage.train_input, job.run.topology
    with contextlib.closing(driver.train_batches(job.run, inputs, 0)) as batches:
        batch = next(batches)
    root = driver.root_key(job.run, job.stage, 'train')
    state = topology.put_replicated(job.state)
    train = driver.map_functions(job.run, job.stage).train
    program = compile_program(train, state, topology.put_batch(batch), root)

    def step():
        nonlocal state
        state, metrics, _ = program.call(state, topology.put_batch(batch), root)
        return state, metrics

    return Timed(step, program, inputs.batch_size, inputs.size)


def prepare_evaluate(job: TimedRun) -> Timed:
    """An evaluation batch, resize to the labels' own size and metrics included."""
    inputs, topology = job.stage.eval_input, job.run.topology
    source = job.run.data.open_input(inputs)
    rows = [i % len(source) for i in range(inputs.batch_size // jax.process_count())]
    batch = loader.examples(
        source, rows, inputs, max_size=job.run.spec.split(inputs.split).max_size
    )
    root = driver.root_key(job.run, job.stage, 'evaluate')
    state, number = topology.put_replicated(job.state), np.int32(0)
    evaluate = driver.map_functions(job.run, job.stage).evaluate
    program = compile_program(evaluate, state, topology.put_batch(batch), root, number)

    def step():
        return program.call(state, topology.put_batch(batch), root, number)

    return Timed(step, program, inputs.batch_size, inputs.size)


def prepare_predict(job: TimedRun) -> Timed:
    """A batch of tiles; images are tiles."""
    keys = job.run.config.predict
    size = tuple(keys.tile) or tuple(job.run.config.data.eval_size)
    images = np.random.default_rng(0).integers(0, 256, (keys.batch_size, *size, 3), np.uint8)
    state = jax.device_put(job.state, jax.local_devices()[0])
    program = compile_program(job.run.topology.jit(job.stage.predict), state, images)
    return Timed(lambda: program.call(state, images), program, keys.batch_size, size)


# --- input ---


def bench_input(job: TimedRun, settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """Time per batch of the training input, one after another and with nothing else to do."""
    inputs, keys = job.stage.train_input, job.run.config.data
    rows = inputs.batch_size // jax.process_count()
    # Threads of the main process share a batch, those of workers make a batch each.
    at_once = loader.num_threads(keys) * keys.workers or 1
    # What was read ahead before the clock started is given out first; it would look too fast.
    read_ahead = (-(-loader.read_ahead(keys, rows) // rows) + 2) * max(1, keys.workers)
    # Batches that are made at the same time come in bursts: many bursts, or the rate depends on where one is cut.
    repetitions = max(settings.repetitions, 8 * at_once)
    with contextlib.closing(driver.train_batches(job.run, inputs, 0)) as batches:
        calls = {'input': lambda: next(batches)['image']}
        measurement = measure_in_turn(calls, repetitions, max(settings.warmup, read_ahead))['input']
    # A batch that was ready and one that was waited for differ much: the rate is that of all of them together.
    rate = inputs.batch_size * len(measurement.seconds) / sum(measurement.seconds)
    return {
        'batch_size': inputs.batch_size,
        'size': inputs.size,
        'images_per_second': rate,
        **measurement.record(),
        'threads': loader.num_threads(keys),
        'workers': keys.workers,
    }


def _first_that_reads_alike(jobs: Mapping[str, TimedRun], job: TimedRun) -> str:
    def reading(one: TimedRun):
        return one.stage.train_input, one.run.config.data, one.run.config.seed

    return next(name for name, other in jobs.items() if reading(other) == reading(job))


# --- table ---


def table(report: Mapping[str, Any]) -> str:
    """The report as aligned text; the spread is half the distance of the quartiles over the median."""
    environment, config, stages = report['environment'], report['config'], report['stages']
    lines = [
        f'{config["pipeline"]} on {environment["devices"]} x {environment["device"]} ({config["parallel"]["mode"]}), '
        f'{environment["host cores"]} host cores, {config["train"]["dtype"]}, jax {environment["jax"]}',
        f'median of {config["bench"]["repetitions"]} calls after {config["bench"]["warmup"]} to warm up'
        + (', variants in turn' if report['variants'].keys() - {BASE} else ''),
        *(
            f'{name}: {overrides}'
            for name, overrides in report['variants'].items()
            if name not in (BASE, overrides)
        ),
        *(
            f'{what}: {included}'
            for what, included in INCLUDED.items()
            if any(what in p for p in stages.values())
        ),
        '',
    ]
    rows = [COLUMNS]
    for stage, parts in stages.items():
        for what in INCLUDED:
            rows += [_row(stage, what, name, entry) for name, entry in parts.get(what, {}).items()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append('  '.join(cells).rstrip())
    lines.append('')
    for stage, parts in stages.items():
        lines += _comparisons(stage, parts)
    return '\n'.join(lines)


def _comparisons(stage: str, parts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences below the table: each variant against the base, the input against the training."""
    for what in INCLUDED:
        for name, entry in list(parts.get(what, {}).items())[1:]:
            if 'over_base' in entry:
                low, high = entry['over_base']['quartiles']
                ratio = f'{entry["over_base"]["median"]:.2f} (quartiles {low:.2f} to {high:.2f})'
                yield f'{stage} {what}: time per image of {name} / base = {ratio}'
    for name, share in parts.get('input_over_train', {}).items():
        verdict = 'the input keeps up' if share >= 1 else 'the devices wait for the input'
        yield f'{stage} {name}: images/s of input / train = {share:.2f}: {verdict}'


def _row(stage: str, what: str, variant: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    def number(value, digits, scale=1.0):
        return '-' if value is None else f'{value * scale:.{digits}f}'

    low, high = entry['quartiles_seconds']
    memory = entry.get('memory')
    return (
        stage,
        what,
        variant,
        str(entry['batch_size']),
        'x'.join(map(str, entry['size'])),
        number(entry['images_per_second'], 2),
        number(entry['median_seconds'], 1, 1e3),
        f'{(high - low) / 2 / entry["median_seconds"]:.0%}',
        number(entry['over_base']['median'] if 'over_base' in entry else None, 2),
        number(entry.get('lower_seconds'), 1),
        number(entry.get('compile_seconds'), 1),
        number(entry.get('flops'), 2, 1e-9),
        number(memory and memory['peak'], 0, 1e-6),
    )
