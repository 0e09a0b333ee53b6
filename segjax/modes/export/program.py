"""Builds the program of a use: a function of the arrays that it reads and of named inputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from segjax.core import optim, parallel, trees
from segjax.errors import InputError, first_line
from segjax.modes.export.uses import Use
from segjax.protocol import Array, TrainState

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
"""Platforms for which a program can be compiled."""
ANY = 'any'
"""Value of --batch for programs that take any number of examples."""

Values = Mapping[str, Array]


class Program(NamedTuple):
    """A use of a stage, and the arrays that it reads.

    function  ({array: value}, {input: [B, ...]}) -> {output: [B, ...]}, pure
    weights   {array: value} on the host. Names are those of checkpoints: 'params/net/...'
    inputs    {input: shape and type} of an example, without the batch. The program reads all of
              them
    """

    function: Callable[[Values, Values], Values]
    weights: Mapping[str, np.ndarray]
    inputs: Mapping[str, jax.ShapeDtypeStruct]


def make_program(use: Use, state: TrainState) -> Program:
    """Builds the program of a use. It keeps the arrays and the inputs that the outputs depend on.

    Args:
      use: of the stage.
      state: of the stage, on the host. A net with averages has them as its parameters.
    """
    state = with_averages(state)
    stored, restore = _without_averages(state)
    leaves = trees.named_leaves(stored)
    structure = jax.tree.structure(stored)

    # Leaves that no output depends on are zeros, which the compiler removes.
    def function(weights: Values, inputs: Values) -> dict[str, Array]:
        values = []
        for name, leaf in leaves.items():
            values.append(weights.get(name, jnp.zeros(leaf.shape, leaf.dtype)))
        return dict(use.apply(restore(structure.unflatten(values)), inputs))

    zeros = {name: jax.ShapeDtypeStruct(shape.shape, shape.dtype) for name, shape in leaves.items()}
    read = _read(function, zeros, use.inputs)
    placeholders = {name: shape for name, shape in use.inputs.items() if name not in read}

    def of_read_inputs(weights: Values, inputs: Values) -> dict[str, Array]:
        (rows,) = {value.shape[0] for value in inputs.values()}
        absent = {}
        for name, shape in placeholders.items():
            absent[name] = jnp.zeros((rows, *shape.shape), shape.dtype)
        return function(weights, {**inputs, **absent})

    return Program(
        function=of_read_inputs,
        weights={name: np.asarray(leaf) for name, leaf in leaves.items() if name in read},
        inputs={name: shape for name, shape in use.inputs.items() if name in read},
    )


def with_averages(state: TrainState) -> TrainState:
    """Returns a state on the host whose nets have their averages, where there are averages."""
    if 'ema' not in state.extra:
        return state
    params, model_state = parallel.to_host(optim.averaged(state, 1.0))
    return state.replace(params=params, model_state=model_state)


def _without_averages(state: TrainState) -> tuple[TrainState, Callable[[TrainState], TrainState]]:
    """Returns a state of `with_averages` without its copy of the averages, and the inverse.

    A program that chooses between a net and its average then reads each array once.
    """
    if 'ema' not in state.extra:
        return state, lambda stored: stored
    averaged = {field: tuple(nets) for field, nets in state.extra['ema'].items()}
    extra = {name: value for name, value in state.extra.items() if name != 'ema'}

    def restore(stored: TrainState) -> TrainState:
        average = {}
        for field, nets in averaged.items():
            average[field] = {net: getattr(stored, field)[net] for net in nets}
        return stored.replace(extra={**stored.extra, 'ema': average})

    return state.replace(extra=extra), restore


def _read(
    function: Callable, weights: Mapping[str, Any], inputs: Mapping[str, jax.ShapeDtypeStruct]
) -> set[str]:
    """Returns the names of the arrays and of the inputs that the outputs of a function depend on.

    Args:
      function: of a `Program`.
      weights: the shapes of all arrays.
      inputs: of an example.
    """
    exported = export.export(jax.jit(function))(weights, batched(inputs, 2))
    paths = jax.tree_util.tree_leaves_with_path((weights, inputs))
    names = [path[1].key for path, _ in paths]
    return {names[position] for position in exported.module_kept_var_idx}


def batched(inputs: Mapping[str, jax.ShapeDtypeStruct], rows: Any) -> dict[str, Any]:
    """Returns the shapes of inputs with a batch of `rows`, which may be symbolic."""
    shapes = {}
    for name, shape in inputs.items():
        shapes[name] = jax.ShapeDtypeStruct((rows, *shape.shape), shape.dtype)
    return shapes


def export_program(
    program: Program, batch: int | None, platforms: tuple[str, ...]
) -> export.Exported:
    """Lowers a program to StableHLO. Nothing is compiled.

    Args:
      program: from `make_program`.
      batch: number of examples of a call. None: any number.
      platforms: names of PLATFORMS.

    Raises:
      InputError: a program that needs a fixed number of examples, with `batch` None.
    """
    rows = batch if batch is not None else export.symbolic_shape('b')[0]
    lower = export.export(jax.jit(program.function), platforms=platforms)
    weights = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype)
        for name, value in program.weights.items()
    }
    try:
        return lower(weights, batched(program.inputs, rows))
    except (jax.errors.InconclusiveDimensionOperation, TypeError, NotImplementedError) as error:
        if batch is not None:
            raise
        raise InputError(
            '--batch',
            got=f'{ANY}: {first_line(error)}',
            expected='a number of examples, because this program depends on it',
            fix='--batch 1',
        ) from error
