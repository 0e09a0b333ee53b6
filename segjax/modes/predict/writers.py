"""Encodes the outputs of a `Prediction` as files, by kind."""

import csv
import io
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from segjax.core import files
from segjax.data import image_files
from segjax.errors import unknown_name
from segjax.spec import IGNORE, ClassSpec

TABLE = 'table.csv'


class Writing(NamedTuple):
    """Facts that files of outputs depend on, in addition to the outputs.

    classes     of the data set
    depth_unit  metres of a unit in 16-bit depth files
    """

    classes: ClassSpec
    depth_unit: float


def _classes(train_ids: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W] train ids as ids of the data set and as colours. 255 stays 255, in black."""
    ids = np.full(256, IGNORE, np.uint8)
    ids[: writing.classes.num_classes] = writing.classes.ids
    colors = np.zeros((256, 3), np.uint8)
    colors[: writing.classes.num_classes] = writing.classes.palette
    return [files.encode_png(ids[train_ids]), files.encode_png(colors[train_ids])]


def _probabilities(values: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W, C] as float16, with the names of the classes if C is their number."""
    arrays = {'probabilities': values.astype(np.float16)}
    if values.shape[-1] == writing.classes.num_classes:
        arrays['classes'] = np.array(writing.classes.names)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return [buffer.getvalue()]


def _mask(inside: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W] as 255 where the mask is set, and 0 elsewhere."""
    return [files.encode_png(np.where(inside, np.uint8(255), np.uint8(0)))]


def _image(pixels: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W, 3] uint8."""
    return [files.encode_png(pixels)]


def _images(pixels: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [n, H, W, 3] uint8."""
    return [files.encode_png(picture) for picture in pixels]


def _depth(metres: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W] metres as 16-bit units and as float32. 0 means not measured."""
    metres = metres.astype(np.float32)
    measured = np.nan_to_num(metres, nan=0, posinf=np.inf, neginf=0)
    units = np.clip(np.round(measured / writing.depth_unit), 0, 65535).astype(np.uint16)
    return [image_files.encode_png(units), _array(metres)]


def _normals(normals: np.ndarray, writing: Writing) -> list[bytes]:
    """Encodes [H, W, 3] unit vectors n as the colours 255 (n + 1) / 2, and as float32."""
    colors = np.round(255 * (np.clip(np.nan_to_num(normals), -1, 1) + 1) / 2).astype(np.uint8)
    return [files.encode_png(colors), _array(normals.astype(np.float32))]


def _array(values: np.ndarray) -> bytes:
    """Returns the content of a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values))
    return buffer.getvalue()


class OutputKind(NamedTuple):
    """The files of a kind of output, and its shape.

    axes      text of its shape, with the batch
    ndims     numbers of axes that it may have, with the batch
    dtypes    kinds of types that it may have, as in `numpy.dtype.kind`
    channels  length of the last axis, None for any length
    files     (sub-folder, ending) of each file. {n} is the number of a picture
    encode    (value of an example, writing) -> content of each file
    """

    axes: str
    ndims: tuple[int, ...]
    dtypes: str
    channels: int | None
    files: tuple[tuple[str, str], ...]
    encode: Callable[[np.ndarray, Writing], list[bytes]] | None


FLOATS = 'fV'  # NumPy has no bfloat16 of its own: V
OUTPUT_KINDS: Mapping[str, OutputKind] = {
    'classes': OutputKind(
        '[B, H, W] train ids', (3,), 'ui', None, (('ids', '.png'), ('color', '.png')), _classes
    ),
    'probabilities': OutputKind(
        '[B, H, W, C] floats', (4,), FLOATS, None, (('', '.npz'),), _probabilities
    ),
    'mask': OutputKind('[B, H, W] bool', (3,), 'b', None, (('', '.png'),), _mask),
    'image': OutputKind('[B, H, W, 3] uint8', (4,), 'u', 3, (('', '.png'),), _image),
    'images': OutputKind('[B, n, H, W, 3] uint8', (5,), 'u', 3, (('', '_{n:02d}.png'),), _images),
    'depth': OutputKind(
        '[B, H, W] metres', (3,), FLOATS, None, (('', '.png'), ('', '.npy')), _depth
    ),
    'normals': OutputKind(
        '[B, H, W, 3] unit vectors', (4,), FLOATS, 3, (('', '.png'), ('', '.npy')), _normals
    ),
    'table': OutputKind('[B] or [B, n] numbers', (1, 2), FLOATS + 'iub', None, (), None),
}
"""Kinds of `Prediction.outputs`."""


def check_outputs(
    outputs: Mapping[str, str], shapes: Mapping[str, jax.ShapeDtypeStruct], rows: int
) -> None:
    """Checks the outputs of `Prediction.apply` against their kinds.

    Args:
      outputs: {name: kind}.
      shapes: of the outputs of a batch.
      rows: of the batch.

    Raises:
      InputError: an unknown kind.
      ValueError: other outputs than the prediction declares, or a wrong shape or type.
    """
    if set(outputs) != set(shapes):
        raise ValueError(f'apply returned {sorted(shapes)}, the prediction has {sorted(outputs)}')
    for name, kind_name in outputs.items():
        if kind_name not in OUTPUT_KINDS:
            raise unknown_name(f'kind of output {name!r}', kind_name, OUTPUT_KINDS)
        kind = OUTPUT_KINDS[kind_name]
        shape = shapes[name].shape
        fits = len(shape) in kind.ndims and shape[0] == rows
        fits = fits and np.dtype(shapes[name].dtype).kind in kind.dtypes
        if not fits or kind.channels not in (None, shape[-1]):
            raise ValueError(
                f'output {name!r} of kind {kind_name!r} is {shapes[name].dtype}{list(shape)}, '
                f'expected {kind.axes} with B = {rows}'
            )


def output_paths(
    folder: pathlib.Path, output: str, kind: str, name: str, shape: Sequence[int]
) -> list[pathlib.Path]:
    """Returns the files of an output of an example, () for a table.

    Args:
      folder: for all outputs.
      output: its name.
      kind: of the output.
      name: of the example.
      shape: of the output of an example.
    """
    number = shape[0] if kind == 'images' else 1
    paths = []
    for subfolder, ending in OUTPUT_KINDS[kind].files:
        for n in range(number):
            paths.append(folder / output / subfolder / (name + ending.format(n=n)))
    return paths


def check_values(output: str, kind: str, value: np.ndarray, classes: ClassSpec) -> None:
    """Raises ValueError for train ids of no class. 255 is void."""
    if kind != 'classes':
        return
    wrong = np.setdiff1d(value, [*range(classes.num_classes), IGNORE])
    if wrong.size:
        raise ValueError(
            f'output {output!r} holds the train id {wrong[0]}, '
            f'expected 0 .. {classes.num_classes - 1} or {IGNORE}'
        )


def write_output(
    paths: Iterable[pathlib.Path], kind: str, value: np.ndarray, writing: Writing
) -> None:
    """Writes the files of an output, each atomically."""
    encode = OUTPUT_KINDS[kind].encode
    if encode is not None:
        for path, content in zip(paths, encode(value, writing), strict=True):
            files.write_bytes(path, content)


def write_table(
    folder: pathlib.Path, outputs: Iterable[str], rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes table.csv: a row per example, and a column per number.

    An output of several numbers has the columns output_0, output_1, ...

    Args:
      folder: for all outputs.
      outputs: names of the outputs of kind 'table'.
      rows: by name of the example, in order: the numbers of each output.
    """
    names = list(outputs)
    if not names or not rows:
        return
    first = next(iter(rows.values()))
    header = ['name']
    for output in names:
        value = first[output]
        several = isinstance(value, list)
        header += [f'{output}_{i}' for i in range(len(value))] if several else [output]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(header)
    for name, values in rows.items():
        numbers = np.concatenate([np.ravel(np.array(values[o], object)) for o in names])
        writer.writerow([name, *map(_number, numbers)])
    files.write_text(folder / TABLE, text.getvalue())


def _number(value: Any) -> str:
    """Returns a number as text: nine digits tell every float32."""
    return f'{value:.9g}' if isinstance(value, float) else str(value)
