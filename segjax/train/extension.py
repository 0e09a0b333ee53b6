"""Trains longer than planned in the same run folder: the optimiser and the step stay as they are.

A longer plan changes the learning rates of most schedules from the reached step on. A later stage
that began from the shorter training would be stale, so the extension is refused. start.json keeps
the earlier plans.
"""

import pathlib
from collections.abc import Sequence

import ml_collections

from segjax import config as config_lib
from segjax import pipelines
from segjax.core import files, optim, parallel
from segjax.errors import InputError
from segjax.protocol import Stage
from segjax.train import checkpoints, initialization, products, stored
from segjax.train.run import Run
from segjax.train.stored import CONFIG


def apply(run: Run, stages: Sequence[Stage]) -> None:
    """Checks a longer plan, prints its effects, and adds the plan before to start.json.

    Args:
      run: with the longer plan in its config. config.json still holds the plan before.
      stages: of the run, with the longer plan.

    Raises:
      InputError: the stages differ from the plan before, or a later stage began from a stage
        that would train longer.
    """
    before = config_lib.from_json(stored.read_config(run.workdir / CONFIG))
    planned = pipelines.make_stages(before, run.specs)
    old_names = [stage.name for stage in planned]
    new_names = [stage.name for stage in stages]
    if old_names != new_names:
        raise InputError(
            '--extend',
            got=f'stages {", ".join(new_names)}',
            expected=f'the stages of the run: {", ".join(old_names)}',
            fix='extend a stage that has steps already, or another --workdir',
        )
    _check_later_stages(run, planned, stages)
    done = [checkpoints.newest_step(run.workdir / name / 'checkpoints') for name in new_names]
    if not parallel.is_main():
        return
    for old, new, step in zip(planned, stages, done, strict=True):
        if old.num_steps != new.num_steps:
            plans = (old.num_steps, new.num_steps)
            print(describe(run.config, new.name, plans, step), flush=True)
    _record(run.workdir / files.START, planned, stages, done)


def _record(
    path: pathlib.Path, planned: Sequence[Stage], stages: Sequence[Stage], done: Sequence[int]
) -> None:
    """Writes the longer plan into start.json, and adds the plan before to its earlier plans.

    A start that was killed here may come again: a plan is added only once.
    """
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
    """Describes the effects of a longer plan on learning rates and milestones of a stage.

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
        if isinstance(section, ml_collections.ConfigDict) and 'schedule' in section:
            lines.append(f'  {name} ({section.schedule}): {_schedule_change(section, plans, done)}')
    return '\n'.join(lines)


def _schedule_change(section: ml_collections.ConfigDict, plans: tuple[int, int], done: int) -> str:
    """Describes the effect of a longer plan on a schedule.

    Args:
      section: of an optimiser.
      plans: steps before and now.
      done: steps that are trained already.
    """
    before, now = [float(optim.schedule(section, steps)(done)) for steps in plans]
    text = f'the learning rate at step {done} was {before:.4g}'
    if before == now:
        text += ' and stays'
    else:
        text += f' and is {now:.4g} now'
        if now > before:
            text += ': it jumps up'
    # Milestones below 1 are fractions of the plan.
    shares = [share for share in section.milestones if share < 1]
    if shares:
        old, new = [_milestones(shares, total) for total in plans]
        text += f'; the milestones {tuple(shares)} move from steps {old} to {new}'
    return text


def _milestones(shares: Sequence[float], num_steps: int) -> str:
    """Returns the steps of milestones that are fractions of a plan, as text."""
    return ', '.join(str(max(1, round(share * num_steps))) for share in shares)


def _check_later_stages(run: Run, planned: Sequence[Stage], stages: Sequence[Stage]) -> None:
    """Raises InputError for a stage that began from states or arrays that are to change.

    The state of a stage changes if the stage trains longer, or trains anew after the longer stage.
    Its arrays also change if an array that changes chooses the examples that it measures.
    """
    longer = []
    for old, new in zip(planned, stages, strict=True):
        if old.num_steps != new.num_steps:
            longer.append(new.name)
    new_states = set(longer)
    new_arrays = set(longer)
    for stage, earlier in initialization.with_earlier(run, stages):
        begun = initialization.has_checkpoint(run.workdir / stage.name)
        chosen = products.choice_of(stage)
        if not begun:
            new_states.add(stage.name)
        if not begun or (chosen is not None and chosen.stage in new_arrays):
            new_arrays.add(stage.name)
        for key in sorted(products.read_by_training(run, stage, earlier)) if begun else ():
            source, _, array = key.partition('/')
            if source in (new_arrays if array else new_states):
                raise _stale(run, longer, key, stage, stages[-1])


def _stale(run: Run, longer: Sequence[str], key: str, stage: Stage, last: Stage) -> InputError:
    """Returns the error for a stage that began from a state or an array that is to change.

    Args:
      run: the run.
      longer: names of the stages that are to train longer, in order.
      key: of the state or the array from which `stage` has begun.
      stage: the stage.
      last: the last stage of the run.
    """
    source, _, array = key.partition('/')
    cause = source if source in longer else longer[0]
    if array:
        origin = f'which changes {key}, from which stage {stage.name!r} has begun'
    elif source in longer:
        origin = f'from whose shorter training stage {stage.name!r} has begun'
    else:
        origin = f'after which {source!r} trains anew, from which stage {stage.name!r} has begun'
    return InputError(
        '--extend',
        got=f'more steps for stage {cause!r}, {origin}',
        expected=f'more steps only for stages that no trained stage began from, as {last.name!r}',
        fix=f'rm -r {run.workdir / stage.name} trains that stage anew; or another --workdir',
    )
