"""Measures how far exported programs are from their runs, for the variants :smoke of configs.

Every use of every stage is exported from its initial state, and called in a process without segjax.

usage: python tests/helpers/export_differences.py CACHE CONFIG ...
"""

import pathlib
import sys
import tempfile
import time

import exported
import jax

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel
from segjax.errors import InputError
from segjax.modes.bench.stages import TimedRun, fresh_runs
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


def export_to(folder: pathlib.Path, facts: page.Exported, state) -> page.Exported:
    """Writes an export that takes any number of examples, or two where it needs a number."""
    try:
        export_run.write(folder, facts, state)
        return facts
    except InputError:
        facts = facts._replace(batch=2)
        export_run.write(folder, facts, state)
        return facts


def rows(timed: TimedRun, method: str) -> list[str]:
    """Returns a line of the table for each output of a use."""
    run, stage, state = timed
    began = time.perf_counter()
    state = parallel.to_host(state)
    use = uses.use_of(run, stage, method)
    classes = run.spec_of(stage.eval_input).classes
    made = program.make_program(use, state)
    facts = page.Exported(use, made, None, PLATFORMS, classes, stage.name)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place) / 'exported'
        folder.mkdir()
        facts = export_to(folder, facts, state)
        inputs = export_run.random_inputs(facts)
        outputs, _ = exported.run_readme(folder, inputs)
    expected = jax.jit(use.apply)(state, export_run.whole_inputs(facts, inputs))
    megabytes = sum(array.nbytes for array in made.weights.values()) / 1e6
    seconds = time.perf_counter() - began
    lines = []
    for name, found in examples.compare(outputs, expected).items():
        lines.append(
            f'| `{run.config.pipeline}` | {stage.name} | {name} | {facts.batch or "any"} '
            f'| {megabytes:.2f} | {found.largest:.2g} | {found.scale:.3g} | {seconds:.0f} |'
        )
    return lines


def main(cache: str, *paths: str) -> None:
    print(HEADING, flush=True)
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            for timed in open_runs(path, cache, folder):
                stage = timed.stage
                able = {TILES: stage.predict, PREDICTION: stage.prediction}
                for method in [name for name, function in able.items() if function is not None]:
                    print(*rows(timed, method), sep='\n', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
