"""Measures how far exported programs are from their runs, for the variants :smoke of configs.

Every use of every stage is exported from its initial state, and called in a process without segjax.
A stage that collects data in training, such as the images of PixelNN, takes a step before that.

usage: python tests/helpers/export_differences.py CACHE CONFIG ...
"""

import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import exported

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel
from segjax.errors import InputError
from segjax.modes.bench.stages import TimedRun, fresh_runs, prepare_train
from segjax.modes.export import examples, page, program, uses
from segjax.modes.export import run as export_run
from segjax.modes.predict.run import PREDICTION, TILES
from segjax.train import driver

PLATFORMS = ('cpu', 'cuda', 'tpu')
HEADING = """\
| pipeline | stage | output | batch | arrays, MB | largest difference | largest value | seconds |
|---|---|---|---|---|---|---|---|"""


def open_runs(path: str, cache: str, folder: str) -> list[TimedRun]:
    """Returns the stages of a config with their initial states."""
    config = config_file.load(f'{path}:smoke')
    config_lib.update(config, data=dict(cache=cache))
    run, stages = driver.open_run(config, folder, 'train')
    return fresh_runs(run, stages)


def with_data(timed: TimedRun) -> TimedRun:
    """Takes a step of a stage whose state holds collected data, which is empty at first."""
    if not timed.state.extra or not timed.stage.num_steps:
        return timed
    state, _ = prepare_train(timed).call()
    return timed._replace(state=state)


def export_to(folder: pathlib.Path, facts: page.Exported, state) -> page.Exported:
    """Writes an export that takes any number of examples, or two where it needs a number."""
    try:
        export_run.write(folder, facts, state)
        return facts
    except InputError:
        facts = facts._replace(batch=2)
        export_run.write(folder, facts, state)
        return facts


class Measured(NamedTuple):
    """An exported use of a stage, and its differences from the run.

    facts        of the program
    differences  by output
    seconds      of exporting, and of running in both processes
    """

    facts: page.Exported
    differences: Mapping[str, examples.Difference]
    seconds: float

    def lines(self) -> list[str]:
        """Returns a line of the table for each output."""
        facts = self.facts
        megabytes = sum(array.nbytes for array in facts.program.weights.values()) / 1e6
        lines = []
        for name, found in self.differences.items():
            lines.append(
                f'| {facts.title} | {name} | {facts.batch or "any"} | {megabytes:.2f} '
                f'| {found.largest:.2g} | {found.scale:.3g} | {self.seconds:.0f} |'
            )
        return lines


def measure(timed: TimedRun, method: str) -> Measured:
    """Exports a use of a stage and calls it in a process without segjax."""
    run, stage, state = timed
    began = time.perf_counter()
    state = parallel.to_host(state)
    use = uses.use_of(run, stage, method)
    classes = run.spec_of(stage.eval_input).classes
    title = f'`{run.config.pipeline}` | {stage.name}'
    made = program.make_program(use, state)
    facts = page.Exported(use, made, None, PLATFORMS, classes, title)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / 'exported'
        folder.mkdir()
        facts = export_to(folder, facts, state)
        inputs = export_run.random_inputs(facts)
        outputs, _ = exported.run_readme(folder, inputs)
    expected = export_run.outputs_of_run(facts, state, inputs)
    differences = examples.compare(outputs, expected)
    return Measured(facts, differences, time.perf_counter() - began)


def measure_all(path: str, cache: str) -> Iterator[Measured]:
    """Measures all uses of all stages of a config."""
    with tempfile.TemporaryDirectory() as folder:
        for timed in map(with_data, open_runs(path, cache, folder)):
            able = {TILES: timed.stage.predict, PREDICTION: timed.stage.prediction}
            for method, function in able.items():
                if function is not None:
                    yield measure(timed, method)


def main(cache: str, *paths: str) -> None:
    print(HEADING, flush=True)
    for path in paths:
        for measured in measure_all(path, cache):
            print(*measured.lines(), sep='\n', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
