"""Where a stage without a checkpoint begins: from what `config.init_from` names, then from scratch.

The lower rungs of the driver's ladder. What `init_from.path` names is read once for all stages, when it is first asked
for; a run whose stages all have a checkpoint never asks. `run` is driver.Run.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np

from segjax import checkpoints, logs, parallel, pretrained, rng, trees
from segjax import config as config_lib
from segjax.data import loader
from segjax.protocol import PyTree, Stage, TrainState

Source = pretrained.Weights | Mapping[str, PyTree]
"""Published weights, or {'params': .., 'model_state': ..} of another run."""


def has_begun(workdir: pathlib.Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    return any(workdir.glob('*/checkpoints/*/record'))


def reader(init_from: ml_collections.ConfigDict) -> Callable[[], Source | None]:
    """A function that gives what the section names (None if it names nothing), and reads it the first time only."""

    @functools.cache
    def source():
        if not init_from.path:
            return None
        if pretrained.is_weights(init_from.path):
            return pretrained.open_weights(init_from)
        return checkpoints.load_params(init_from.path)

    return source


def with_preprocess(
    config: ml_collections.ConfigDict, stored: pathlib.Path, source: Callable[[], Source | None]
) -> ml_collections.ConfigDict:
    """The config with the `preprocess` of the weights it starts from; a run that has begun keeps its own.

    Args:
      config: not changed.
      stored: where the run folder keeps its config.
      source: from `reader`.
    """
    if not pretrained.is_weights(config.init_from.path):
        return config
    default = config_lib.defaults(config.pipeline).preprocess if 'preprocess' in config else ''
    if not has_begun(stored.parent):
        return pretrained.adopt_scheme(config, source().scheme, default)
    if not default or config.preprocess != default:
        return config
    return pretrained.adopt_scheme(config, logs.read_json(stored)['preprocess'], default)


def check(run, stages: tuple[Stage, ...]) -> None:
    """Raises InputError for weights that the nets of no stage take, or not whole, before anything compiles."""
    weights = run.source()
    if not isinstance(weights, pretrained.Weights):
        return
    earlier, nets, taken = {}, {}, False
    for stage in stages:
        earlier[stage.name] = abstract = abstract_state(run, stage, earlier)
        nets |= abstract.params
        taken |= pretrained.load_for(abstract, weights, run.config.init_from)[0] is not None
    if not taken:
        raise pretrained.nothing_fits(weights.path, nets)


def initial_state(run, stage: Stage, earlier: Mapping[str, TrainState]) -> TrainState:
    """A fresh state on the host, with the parameters that `config.init_from` names.

    Args:
      run: driver.Run.
      stage: any of its stages.
      earlier: the final states of the stages before, on the host.

    Raises:
      InputError: parameters that do not fit, or none that a pattern of `init_from.nets` finds.
    """
    # Not compiled as a whole: small programs that all nets share take a tenth of the time.
    state = parallel.to_host(stage.init(*_arguments(run, stage, earlier)))
    source = run.source()
    if source is None:
        return state
    summaries, patterns = [], run.config.init_from.nets
    if isinstance(source, pretrained.Weights):
        source, listing = pretrained.load_for(state, source, run.config.init_from)  # has looked at the patterns
        summaries, patterns = [listing], ('.*',)
    if source is not None:
        state, summary = checkpoints.merge_params(state, source, patterns, _inherited(state, earlier))
        summaries.append(summary)
    if parallel.is_main():
        print(f'stage {stage.name!r}: ' + '\n'.join(summaries), flush=True)
    return state


def abstract_state(run, stage: Stage, earlier: Mapping[str, TrainState]) -> TrainState:
    """Shapes and types of a stage's state; those of `earlier` may be abstract, too."""
    return jax.eval_shape(stage.init, *_arguments(run, stage, earlier))


def _arguments(run, stage: Stage, earlier: Mapping[str, TrainState]):
    """Those of `stage.init`; the batch is zeros in the shapes of one device's training batch."""
    inputs = stage.train_input or stage.eval_input
    batch = loader.zeros(inputs, max(1, inputs.batch_size // run.topology.count))
    return rng.root(run.config.seed, stage.name, 'init'), batch, dict(earlier)


def _inherited(state: TrainState, earlier: Mapping[str, TrainState]) -> set[str]:
    """Nets that the stage took over as an earlier stage left them: trained in this run already."""

    def same(a, b):
        pairs = [trees.named_leaves(tree) for tree in (a, b)]
        return pairs[0].keys() == pairs[1].keys() and all(
            np.array_equal(leaf, pairs[1][name]) for name, leaf in pairs[0].items()
        )

    return {
        net
        for before in earlier.values()
        for net, params in before.params.items()
        if net in state.params and same(state.params[net], params)
    }
