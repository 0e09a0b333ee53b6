"""Benches a config and its variants, stage by stage."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import environment, files, parallel
from segjax.data import loader
from segjax.errors import InputError
from segjax.modes.bench.clocks import Measurement, measure_in_turn, ratios
from segjax.modes.bench.stages import PARTS, Timed, TimedRun, fresh_runs, prepare
from segjax.modes.bench.text import BASE, table
from segjax.protocol import Stage
from segjax.train import driver
from segjax.train.stop import Preempted, StopSignal

UNTRAINED = (
    'init_from.path=untrained;init_from.sources=();'
    'init_from.source=;init_from.partial=False;init_from.preprocess=adopt'
)
"""Overrides that leave parameters random, which changes no cost.

The path is read by nobody. It stands for the nets that a run would load.
"""


class Variant(NamedTuple):
    """An opened config to be timed. The first variant of a bench is the base of the comparisons."""

    name: str
    overrides: str
    run: driver.Run
    stages: tuple[Stage, ...]


def main(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
    """Runs `--mode bench`: opens the config and its variants, and calls `time_variants`."""
    with StopSignal() as stop:
        variants = open_variants(config, workdir, stop)
        if stop.reached():
            raise Preempted('nothing was timed')
    return time_variants(variants)


# --- variants -------------------------------------------------------------------------------------


def variants_by_name(value: Sequence[str | tuple[str, str]]) -> dict[str, str]:
    """Returns {name: overrides} of `bench.variants`. Overrides without a name are their name."""
    by_name = {}
    for item in value:
        name, overrides = (item, item) if isinstance(item, str) else item
        by_name[name] = overrides
    return by_name


def open_variants(
    config: ml_collections.ConfigDict, workdir: str, stop: StopSignal | None = None
) -> tuple[Variant, ...]:
    """Opens the config and each of `config.bench.variants`, with all checks that need no compiler.

    Args:
      config: with its variants.
      workdir: the run folder.
      stop: asked while data are prepared.

    Raises:
      InputError: a variant that changes nothing known or is no valid config. It names the variant.
    """
    config_lib.validate(config)
    variants = [Variant(BASE, '', *open_untrained(config, workdir, stop))]
    for name, overrides in variants_by_name(config.bench.variants).items():
        try:
            changed = config_file.overridden(config, overrides)
            if changed.bench != config.bench:
                raise InputError(
                    'config.bench', got='changed', expected='the same settings for all variants'
                )
            opened = open_untrained(changed, workdir, stop)
        except InputError as error:
            raise error.at(f'config.bench.variants, {name}: {error.where}') from error
        variants.append(Variant(name, overrides, *opened))
    return tuple(variants)


def open_untrained(
    config: ml_collections.ConfigDict, workdir: str, stop: StopSignal | None = None
) -> tuple[driver.Run, tuple[Stage, ...]]:
    """Opens a config with all of its checks, but its nets begin at random.

    Args:
      config: to open. Its `init_from` is not read.
      workdir: the run folder.
      stop: asked while data are prepared.

    Raises:
      InputError: a refusal of `driver.checked_run`.
    """
    untrained = config_file.overridden(config, UNTRAINED)
    run, stages = driver.checked_run(untrained, workdir, 'train', stop=stop, has_start=False)
    # Random nets do not belong to each other.
    return run, tuple(stage._replace(check_start=None) for stage in stages)


# --- the bench ------------------------------------------------------------------------------------


def time_variants(variants: Sequence[Variant]) -> dict[str, Any]:
    """Benches every stage of every variant at fresh parameters.

    Prints a table and writes <workdir>/bench.json. Stages are compared by their place, because a
    variant may change their names. A place is named after the stage of the base. If the base has
    fewer stages, it is named after the stage of the first variant that has so many. All variants
    are on the devices at once: together they need more memory than each alone.

    Args:
      variants: the base first.

    Returns:
      {'environment': {...}, 'config': of the base, 'variants': {name: overrides}, 'stages': {stage:
      {'train', 'evaluate', 'predict', 'input': {variant: {...}}, 'input_over_train': {variant:
      images/s of the input over images/s of training; below 1 the devices wait}}}}.
      A part is missing if the stage has none, or if `bench.parts` lacks it. Variants with the same
      input settings share one input measurement, under the name of the first.
    """
    base = variants[0].run
    num_stages = max(len(variant.stages) for variant in variants)
    places: list[dict[str, TimedRun]] = [{} for _ in range(num_stages)]
    for variant in variants:
        for by_variant, timed in zip(places, fresh_runs(variant.run, variant.stages)):
            by_variant[variant.name] = timed
    report = {
        'environment': environment.describe_topology(base.topology),
        'config': config_lib.to_json(base.config),
        'variants': {variant.name: variant.overrides for variant in variants},
        'stages': {
            name: bench_stage(by_variant, base.config.bench)
            for name, by_variant in zip(_stage_names(places), places)
        },
    }
    if parallel.is_main():
        files.write_json(base.workdir / 'bench.json', report)
        print(table(report), flush=True)
    return report


def _stage_names(places: Sequence[Mapping[str, TimedRun]]) -> list[str]:
    """Returns a unique name for each place of a stage."""
    names: list[str] = []
    for place, by_variant in enumerate(places, start=1):
        first = next(iter(by_variant.values()))
        name = first.stage.name
        names.append(f'{name} (stage {place})' if name in names else name)
    return names


def bench_stage(
    runs: Mapping[str, TimedRun], settings: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Benches the parts of one stage.

    Args:
      runs: by variant. Times are compared with the times of BASE.
      settings: `config.bench`.

    Returns:
      The parts of the stage, as `time_variants` returns them.
    """
    parts: dict[str, Any] = {}
    training = {name: run for name, run in runs.items() if run.stage.num_steps}

    # The input is measured while the devices are idle. Each distinct input is measured once.
    source = {name: _first_with_same_input(training, run) for name, run in training.items()}
    if 'input' in settings.parts and training:
        distinct = dict.fromkeys(source.values())
        parts['input'] = {name: bench_input(training[name], settings) for name in distinct}

    for part in PARTS:
        entries = bench_calls(prepare(part, runs), settings) if part in settings.parts else None
        if entries:
            parts[part] = entries

    # Figures that follow from these parts.
    if 'input' in parts and 'train' in parts:
        parts['input_over_train'] = {}
        for name in training:
            input_rate = parts['input'][source[name]]['images_per_second']
            train_rate = parts['train'][name]['images_per_second']
            parts['input_over_train'][name] = input_rate / train_rate
    if 'train' in parts:
        parts['whole'] = {
            name: whole_training(run, parts['train'][name]) for name, run in training.items()
        }
    return parts


def whole_training(timed: TimedRun, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Extrapolates the measured step to all steps of a stage.

    Evaluations, checkpoints and waiting for the input are not counted.

    Args:
      timed: the stage.
      entry: its measured step, from `bench_calls`.

    Returns:
      {'steps', 'hours', 'flops', 'bytes_accessed'}. FLOPs and bytes are those of all devices
      together, None if XLA gives no estimate.
    """
    steps = timed.stage.num_steps
    # The estimates of a step belong to one device.
    times = steps * timed.run.topology.count
    whole = {'steps': steps, 'hours': steps * entry['median_seconds'] / 3600}
    for name in ('flops', 'bytes_accessed'):
        whole[name] = entry[name] and times * entry[name]
    return whole


def bench_calls(timed: Mapping[str, Timed], settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """Times the variants of one part in turn.

    Args:
      timed: by variant.
      settings: `config.bench`.

    Returns:
      {variant: entry}. If BASE is one of the variants, `over_base` is the ratio of times per image.
    """
    measurements = measure_calls(timed, settings)
    images = per_image(timed, measurements)
    over_base = ratios(images, BASE) if BASE in timed else {}
    entries = {}
    for name, variant in timed.items():
        entry = {
            'batch_size': variant.batch_size,
            'size': variant.size,
            'images_per_second': 1 / images[name].median,
            **measurements[name].record(),
        }
        if over_base:
            entry['over_base'] = over_base[name]._asdict()
        entries[name] = {**entry, **variant.program.record()}
    return entries


def measure_calls(
    timed: Mapping[str, Timed], settings: ml_collections.ConfigDict
) -> dict[str, Measurement]:
    """Times each call in turn, with the repetitions and the warm-up of `config.bench`."""
    calls = {name: variant.call for name, variant in timed.items()}
    return measure_in_turn(calls, settings.repetitions, settings.warmup)


def per_image(
    timed: Mapping[str, Timed], measurements: Mapping[str, Measurement]
) -> dict[str, Measurement]:
    """Divides the seconds of each call by the number of images in its batch."""
    by_name = {}
    for name, measurement in measurements.items():
        batch_size = timed[name].batch_size
        by_name[name] = Measurement(tuple(seconds / batch_size for seconds in measurement.seconds))
    return by_name


# --- the input ------------------------------------------------------------------------------------


def bench_input(timed: TimedRun, settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """Times the training input batch by batch, with nothing else to do.

    Args:
      timed: whose training input is read.
      settings: `config.bench`.
    """
    inputs = timed.stage.train_input
    keys = timed.run.config.data
    rows = inputs.batch_size // jax.process_count()

    # Threads of the main process share a batch. Each thread of a worker makes a batch of its own.
    at_once = loader.num_threads(keys) * keys.workers or 1
    # Batches that were read ahead before the clock started come first and would seem too fast.
    read_ahead = (-(-loader.read_ahead(keys, rows) // rows) + 2) * max(1, keys.workers)
    # Batches that are made at the same time come in bursts. With few bursts the rate would depend
    # on where the last burst is cut.
    repetitions = max(settings.repetitions, 8 * at_once)
    with contextlib.closing(driver.train_batches(timed.run, inputs, 0)) as batches:
        calls = {'input': lambda: next(batches)}
        measurement = measure_in_turn(calls, repetitions, max(settings.warmup, read_ahead))['input']

    # A batch that was ready takes far less time than a batch that was waited for, so the rate is
    # computed over all batches together.
    rate = inputs.batch_size * len(measurement.seconds) / sum(measurement.seconds)
    return {
        'batch_size': inputs.batch_size,
        'size': inputs.size,
        'images_per_second': rate,
        **measurement.record(),
        'threads': loader.num_threads(keys),
        'workers': keys.workers,
    }


def _first_with_same_input(runs: Mapping[str, TimedRun], timed: TimedRun) -> str:
    """Returns the name of the first run that reads its training input with the same settings."""
    settings = _input_settings(timed)
    return next(name for name, other in runs.items() if _input_settings(other) == settings)


def _input_settings(timed: TimedRun) -> tuple:
    return timed.stage.train_input, timed.run.config.data, timed.run.config.seed
