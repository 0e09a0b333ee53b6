"""Converts a program to ONNX by the package jax2onnx, and runs it in onnxruntime.

jax2onnx traces the function, and translates each of its operations. Its graph optimiser removes
transpositions around residual connections in a wrong way (seen in 0.13.1 to 0.17.1: ERFNet becomes
a file that onnxruntime refuses). So those passes are left out. onnxruntime has passes of its own.
A file is kept only if onnxruntime computes the outputs of the run from it.
"""

import contextlib
import importlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from segjax.errors import InputError, first_line
from segjax.modes.export.examples import Difference, compare
from segjax.modes.export.program import Program

MODEL = 'model.onnx'
FAR = 1e-3
"""Largest share of the values of an output that may be far from those of the run."""
STABLEHLO = '--formats stablehlo'
"""Fix of a program that cannot be converted."""
_PASSES = '_OPTIMIZER_PASSES'
"""Table of the passes of the optimiser, which has no public switch."""


class _Shape:
    """Shape and type of an input, whose batch may have a name."""

    def __init__(self, shape: tuple[int | str, ...], dtype: Any):
        self.shape = shape
        self.dtype = dtype


def write(folder: pathlib.Path, program: Program, batch: int | None) -> None:
    """Converts a program and writes it.

    Args:
      folder: receives the file.
      program: from `make_program`. Its arrays become constants.
      batch: examples of a call. None: any number.

    Raises:
      InputError: an operation that the converter does not know, or not for any number of examples.
    """
    names = list(program.inputs)
    rows: int | str = 'B' if batch is None else batch
    shapes = [_Shape((rows, *shape.shape), shape.dtype) for shape in program.inputs.values()]
    outputs = output_names(program)

    def positional(*values):
        results = program.function(program.weights, dict(zip(names, values, strict=True)))
        return tuple(results[name] for name in outputs)

    converter = importlib.import_module('jax2onnx')
    try:
        with _without_transposition_passes():
            converter.to_onnx(
                positional,
                shapes,
                input_names=names,
                output_names=outputs,
                return_mode='file',
                output_path=str(folder / MODEL),
            )
    except Exception as error:  # the package raises errors of many kinds
        fix = '--batch 1' if batch is None else STABLEHLO
        raise _refusal(f'{type(error).__name__}: {first_line(error)}', fix) from error


def output_names(program: Program) -> list[str]:
    """Returns the names of the outputs of a program, in the order of the file."""
    shapes = {}
    for name, shape in program.inputs.items():
        shapes[name] = jax.ShapeDtypeStruct((1, *shape.shape), shape.dtype)
    return sorted(jax.eval_shape(program.function, program.weights, shapes))


@contextlib.contextmanager
def _without_transposition_passes() -> Iterator[None]:
    """Leaves the passes out that move transpositions, where the package has the table of passes."""
    module = importlib.import_module('jax2onnx.converter.ir_optimizations')
    passes = getattr(module, _PASSES, ())
    kept = tuple(each for each in passes if 'transpose' not in str(each))
    try:
        if passes:
            setattr(module, _PASSES, kept)
        yield
    finally:
        if passes:
            setattr(module, _PASSES, passes)


def check(
    folder: pathlib.Path, inputs: Mapping[str, np.ndarray], expected: Mapping[str, jax.Array]
) -> dict[str, Difference]:
    """Runs the file in onnxruntime on a CPU. Returns the difference of each output.

    Args:
      folder: with the file.
      inputs: of the program.
      expected: outputs of the run.

    Raises:
      InputError: a file that onnxruntime refuses, or that computes something else.
    """
    runtime = importlib.import_module('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # shapes that the converter notes before it moves axes
    try:
        session = runtime.InferenceSession(
            str(folder / MODEL), options, providers=['CPUExecutionProvider']
        )
        names = [output.name for output in session.get_outputs()]
        values = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # its errors have no common class
        raise _refusal(f'a file that onnxruntime refuses: {first_line(error)}') from error
    differences = compare(values, expected)
    for name, difference in differences.items():
        if difference.far > FAR:
            share = f'{difference.far:.0%} of the values of {name}'
            raise _refusal(f'a file with other results than the run, in {share}')
    return differences


def _refusal(got: str, fix: str = STABLEHLO) -> InputError:
    """Returns the error about a program that has no ONNX file."""
    return InputError(
        '--formats onnx',
        got=got,
        expected='a program that jax2onnx converts',
        fix=fix,
    )
