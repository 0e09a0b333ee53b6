"""Writes the files of an export that describe it: README.md, classes.json and export.json."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from segjax.modes.export.program import Program
from segjax.modes.export.uses import PROBABILITIES, Use, is_map, kind_of
from segjax.spec import ClassSpec

PROGRAM = 'program.jax'
WEIGHTS = 'weights.npz'
CLASSES = 'classes.json'
RECORD = 'export.json'
README = 'README.md'

MEANINGS = {
    'image': 'RGB',
    'label': 'train ids, the places in classes.json; 255 is void',
    'classes': 'train ids, the places in classes.json; 255 is void',
    'boxes': 'x0, y0, x1, y1 in pixels',
    'points': 'x, y in pixels',
    'depth': 'metres, 0 where it is not measured',
    'normals': 'unit vectors',
    'probabilities': 'of each class, in the order of classes.json',
    'mask': 'true or 1 inside, false or 0 outside',
    'instance': 'a number for each object, 0 where there is none',
    'class_id': 'train id of a class, its place in classes.json',
    'size': 'height and width of the part without padding',
    'draw': 'any numbers: equal numbers give equal samples',
}
"""Meanings of inputs and outputs, by kind or by name."""

CODE = """\
import jax
import numpy as np
from jax import export

with open('{program}', 'rb') as file:
    program = export.deserialize(bytearray(file.read()))
weights = dict(np.load('{weights}'))
run = jax.jit(program.call)
inputs = {{
{inputs}
}}
outputs = run(weights, inputs)
for name, value in outputs.items():
    print(name, value.shape, value.dtype){classes}
"""
"""Python that runs a program."""
ONNX_CODE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession('{file}')
inputs = {{
{inputs}
}}
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, inputs)))
"""
"""Python that runs an ONNX file."""
TO_CLASSES = """
labels = np.argmax(outputs['probabilities'], -1)  # [B, height, width], places in classes.json"""


class Exported(NamedTuple):
    """The facts of an exported program.

    use        of the stage
    program    its inputs and arrays
    batch      examples of a call. None: any number
    platforms  for which it can be compiled
    classes    of the data set
    title      the stage and its run, in words
    """

    use: Use
    program: Program
    batch: int | None
    platforms: tuple[str, ...]
    classes: ClassSpec
    title: str


def described_classes(classes: ClassSpec) -> list[dict[str, Any]]:
    """Returns the content of classes.json: the classes in the order of their train ids."""
    rows = zip(classes.names, classes.ids, classes.palette, strict=True)
    return [{'name': name, 'id': own, 'color': color} for name, own, color in rows]


def described_values(exported: Exported) -> dict[str, Any]:
    """Returns the inputs and outputs of a program, for export.json."""
    inputs = {}
    for name, shape in exported.program.inputs.items():
        inputs[name] = {'shape': ['B', *shape.shape], 'dtype': str(shape.dtype)}
    return {
        'inputs': inputs,
        'outputs': dict(exported.use.outputs),
        'batch': exported.batch,
        'platforms': exported.platforms,
    }


def readme(exported: Exported, sections: Iterable[str]) -> str:
    """Returns the text of README.md.

    Args:
      exported: the facts of the program.
      sections: about the files of each format.
    """
    use = exported.use
    paragraphs = [
        f'# {exported.title}',
        *sections,
        table('input', described_inputs(exported)),
        table('output', {name: [kind, meaning(kind)] for name, kind in use.outputs.items()}),
        f'`{CLASSES}` has name, id and colour of each class. The id is the number of the class in '
        f'files of the data set. `{RECORD}` tells how the files were made.',
        *fitting(use),
    ]
    return '\n\n'.join(paragraphs) + '\n'


def program_section(exported: Exported) -> str:
    """Returns the text about the program of JAX."""
    rows = 'any number of' if exported.batch is None else str(exported.batch)
    return (
        f'`{PROGRAM}` is a program of JAX (StableHLO) for {", ".join(exported.platforms)}. '
        f'`{WEIGHTS}` has its arrays. A call takes {rows} examples. The program prepares images '
        'itself. This code runs it with the packages jax, numpy and flatbuffers, in this folder:'
        f'\n\n```python\n{code(exported)}```'
    )


def onnx_section(exported: Exported, file: str) -> str:
    """Returns the text about the ONNX file."""
    code = ONNX_CODE.format(file=file, inputs=zeros(exported))
    return (
        f'`{file}` is the same program in ONNX, with its arrays. It takes and gives the same '
        f'values:\n\n```py\n{code}```'
    )


def releases_section(releases: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the text about weights in the namings of releases.

    Args:
      releases: facts by file (`released.write`).
    """
    lines = ['Weights in the names and layouts of releases:', '']
    for name, release in releases.items():
        lines.append(
            f'- `{name}`: {release["arrays"]} arrays of the net, as in {release["release"]}. '
            f'Images are prepared as {release["images"]!r}.'
        )
    return '\n'.join(lines)


def fitting(use: Use) -> list[str]:
    """Returns the paragraph about the size of maps, if the program reads maps."""
    if not any(is_map(use, name) for name in use.inputs):
        return []
    height, width = use.size
    text = f'Maps have {height} rows and {width} columns.'
    if PROBABILITIES in use.outputs:
        text += (
            ' `--mode predict` of segjax resizes an image, cuts it into tiles of this size, and '
            'averages the probabilities where tiles overlap.'
        )
    else:
        text += (
            ' `--mode predict` of segjax puts a map into the top left corner, and pads the rest.'
        )
    return [text]


def meaning(name: str) -> str:
    """Returns the meaning of a kind, '' for kinds without a note."""
    return MEANINGS.get(name, '')


def described_inputs(exported: Exported) -> dict[str, list[str]]:
    """Returns shape, type and meaning of each input, for the table of README.md."""
    described = {}
    for name, shape in exported.program.inputs.items():
        axes = ', '.join(['B', *map(str, shape.shape)])
        kind = kind_of(exported.use, name)
        described[name] = [f'[{axes}] {shape.dtype}', meaning(kind) or meaning(name)]
    return described


def table(heading: str, rows: Mapping[str, list[str]]) -> str:
    """Returns a table of Markdown whose first column has the names of the rows."""
    columns = len(next(iter(rows.values()))) + 1
    headings = [heading, 'values', 'meaning'][:columns]
    lines = ['| ' + ' | '.join(headings) + ' |', '|---' * columns + '|']
    for name, cells in rows.items():
        lines.append('| ' + ' | '.join([f'`{name}`', *cells]) + ' |')
    return '\n'.join(lines)


def code(exported: Exported) -> str:
    """Returns the Python of README.md, which runs the program on zeros."""
    is_probable = PROBABILITIES in exported.use.outputs
    return CODE.format(
        program=PROGRAM,
        weights=WEIGHTS,
        inputs=zeros(exported),
        classes=TO_CLASSES if is_probable else '',
    )


def zeros(exported: Exported) -> str:
    """Returns the lines of a dictionary of Python with inputs of zeros."""
    rows = exported.batch or 2
    lines = []
    for name, shape in exported.program.inputs.items():
        lines.append(f"    '{name}': np.zeros({(rows, *shape.shape)}, '{shape.dtype}'),")
    return '\n'.join(lines)
