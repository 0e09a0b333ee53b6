"""Training longer than planned, in the same run folder: optimiser and step stay, and the plan becomes longer.

A longer plan changes the learning rates of most schedules from the step that is reached. A later stage that began from
the shorter training would be stale, so it is refused. start.json keeps the plans before.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import files, optim, parallel
from segjax.errors import InputError
from segjax.protocol import Stage, TrainState
from segjax.train import checkpoints, initialization, stored
from segjax.train.same_run import CONFIG


def apply(run, stages: Sequence[Stage]) -> None:
    """Checks a longer plan, prints what it does, and adds the plan before to start.json.

    Args:
      run: driver.Run, with the longer plan in its config. The run folder still keeps the config of the plan before.
      stages: of the run, with the longer plan.

    Raises:
      InputError: other stages than before, or a later stage that began from a stage that would train longer.
    """
    before = config_lib.from_json(stored.read_config(run.workdir / CONFIG))
    planned = pipelines.load(before.pipeline).make_stages(before, run.spec)
    if [stage.name for stage in planned] != [stage.name for stage in stages]:
        raise InputError(
            '--extend',
            got=f'stages {", ".join(stage.name for stage in stages)}',
            expected=f'the stages of the run: {", ".join(stage.name for stage in planned)}',
            fix='extend a stage that has steps already, or another --workdir',
        )
    _check_later_stages(run, planned, stages)
    done = [checkpoints.newest_step(run.workdir / stage.name / 'checkpoints') for stage in stages]
    if parallel.is_main():
        for old, new, step in zip(planned, stages, done, strict=True):
            if old.num_steps != new.num_steps:
                print(
                    describe(run.config, new.name, (old.num_steps, new.num_steps), step), flush=True
                )
        _record(run.workdir / files.START, planned, stages, done)


def _record(
    path: pathlib.Path, planned: Sequence[Stage], stages: Sequence[Stage], done: Sequence[int]
) -> None:
    """Writes the longer plan into start.json, and the plan before once: a start that was killed may come again."""
    content = stored.read_start(path)
    before = [stage.num_steps for stage in planned]
    plans = content.get('plans_before', [])
    if before not in [plan['steps'] for plan in plans]:
        plans = [*plans, {'steps': before, 'done': done}]
    steps = [stage.num_steps for stage in stages]
    files.write_json(path, {**content, 'steps': steps, 'plans_before': plans})


def describe(
    config: ml_collections.ConfigDict, stage: str, plans: tuple[int, int], done: int
) -> str:
    """Returns what a longer plan does to the learning rates and milestones of a stage, in words.

    Args:
      config: of the run.
      stage: name of the stage.
      plans: its steps before and now.
      done: steps that are trained already.
    """
    before, now = plans
    lines = [
        f'stage {stage!r} trains longer: {now} steps instead of {before}, of which {done} are done'
    ]
    for name, section in config.items():
        if not isinstance(section, ml_collections.ConfigDict) or 'schedule' not in section:
            continue
        rates = [float(optim.schedule(section, steps)(done)) for steps in plans]
        text = f'  {name} ({section.schedule}): the learning rate at step {done} was {rates[0]:.4g}'
        if rates[0] == rates[1]:
            text += ' and stays'
        else:
            text += f' and is {rates[1]:.4g} now' + (': it jumps up' if rates[1] > rates[0] else '')
        shares = [share for share in section.milestones if share < 1]
        if shares:
            steps = [
                ', '.join(str(max(1, round(share * total))) for share in shares) for total in plans
            ]
            text += f'; the milestones {tuple(shares)} move from steps {steps[0]} to {steps[1]}'
        lines.append(text)
    return '\n'.join(lines)


def _check_later_stages(run, planned: Sequence[Stage], stages: Sequence[Stage]) -> None:
    """Raises InputError for a stage that has begun from an earlier stage which is to train longer."""
    states = {}
    longer = {
        new.name for old, new in zip(planned, stages, strict=True) if old.num_steps != new.num_steps
    }
    for stage in stages:
        read = earlier_stages_read(run, stage, states)
        states[stage.name] = initialization.abstract_state(run, stage, states)
        stale = sorted(read & longer)
        if stale and initialization.has_checkpoint(run.workdir / stage.name):
            raise InputError(
                '--extend',
                got=f'more steps for stage {stale[0]!r}, from whose shorter training stage {stage.name!r} has begun',
                expected=f'more steps only for stages that no trained stage began from, as {stages[-1].name!r}',
                fix=f'rm -r {run.workdir / stage.name} trains that stage anew; or another --workdir',
            )


def earlier_stages_read(run, stage: Stage, earlier: Mapping[str, TrainState]) -> set[str]:
    """Returns the names of the earlier stages whose states the initial state of a stage depends on.

    Args:
      run: driver.Run.
      stage: any of its stages.
      earlier: abstract states of the stages before.
    """
    arguments = initialization.arguments(run, stage, earlier)
    program: Any = jax.make_jaxpr(stage.init)(*arguments).jaxpr
    used = {id(variable) for equation in program.eqns for variable in equation.invars}
    used |= {id(variable) for variable in program.outvars}
    # The variables of the program are the leaves of the arguments, of which `earlier` is the last.
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(arguments)[0]]
    last = len(arguments) - 1
    pairs = zip(paths, program.invars, strict=True)
    return {path[1].key for path, variable in pairs if path[0].idx == last and id(variable) in used}
