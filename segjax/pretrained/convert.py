"""Arrays of a release as ours, and ours as the release's. Tensors that do not fit are errors.

The layouts of torch and of this project:

    array                        torch                         here
    kernel                       [out, in, kh, kw]             [kh, kw, in, out]
    transposed convolution       [in, out, kh, kw]             [kh, kw, in, out]
    linear layer                 [out, in]                     [in, out]
    linear layer on features     [out, in kh kw]               [kh, kw, in, out], a convolution
    batch norm                   weight, bias                  scale, bias
                                 running_mean, running_var     mean, var
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from segjax.core.trees import named_leaves
from segjax.errors import InputError
from segjax.pretrained.sources import Naming
from segjax.protocol import PyTree

LEAVES = {
    'kernel': 'weight',
    'bias': 'bias',
    'scale': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
}
"""Name of an array here -> name in torch. No release has learned dilations."""

# Our axes in the order of torch's.
_FORWARD = (3, 2, 0, 1)
_TRANSPOSED = (2, 3, 0, 1)
_LINEAR = (1, 0)
_COUNTER = 'num_batches_tracked'
_LISTED = 24
"""Number of modules that a printed report lists."""
_UNUSED = 8
"""Number of unused tensors that a printed report lists."""


class TensorPlace(NamedTuple):
    """Place of an array of ours in a file."""

    path: str  # of our module, relative to the naming's anchor: 'resnet/layer1_0/conv1'
    tensor: str  # name in the release: 'layer1.0.conv1.weight'
    shape: tuple[int, ...]  # shape in the release
    axes: tuple[int, ...]  # ours.transpose(axes) is theirs


class Report(NamedTuple):
    """Results of an import, by name."""

    loaded: tuple[str, ...]  # arrays of ours
    initialised: tuple[str, ...]  # modules that keep their random initialisation, with the reason
    unused: tuple[str, ...]  # tensors of the file
    notes: tuple[str, ...] = ()

    def __str__(self):
        counts = {}
        for name in self.loaded:
            part = name.split('/')[1]
            counts[part] = counts.get(part, 0) + 1
        lines = [f'  + {part}: {count} arrays from the file' for part, count in counts.items()]
        lines += [f'  - {line}' for line in self.initialised[:_LISTED]]
        if self.initialised[_LISTED:]:
            lines.append(f'  - and {len(self.initialised) - _LISTED} more')
        if self.unused:
            more = f' and {len(self.unused) - _UNUSED} more' if self.unused[_UNUSED:] else ''
            lines.append('  not used of the file: ' + ', '.join(self.unused[:_UNUSED]) + more)
        lines += [f'  note: {note}' for note in self.notes]
        return '\n'.join(lines)


# --- places of arrays -----------------------------------------------------------------------------


def places(variables: Mapping[str, PyTree], naming: Naming) -> dict[str, TensorPlace]:
    """Returns {'params/resnet/conv1/kernel': place} of the arrays of a net that a release has.

    Args:
      variables: {'params': .., 'batch_stats': ..} of the net. The arrays may be abstract.
      naming: of the release.
    """
    leaves = named_leaves(dict(variables))
    numbers = _numbers(leaves, naming)
    slots = {}
    for name, leaf in leaves.items():
        path, _, kind = _inner(name).rpartition('/')
        if kind not in LEAVES:
            continue
        for base in numbers:
            inner = path.removeprefix(base)
            if not path.startswith(base) or not re.fullmatch(naming.scope, inner):
                continue
            axes = _axes(kind, len(leaf.shape), inner, naming)
            slots[name] = TensorPlace(
                path=inner,
                tensor=f'{naming.theirs(inner, numbers[base])}.{LEAVES[kind]}',
                shape=tuple(leaf.shape[axis] for axis in axes),
                axes=axes,
            )
    return slots


def _inner(name: str) -> str:
    """Returns 'resnet/conv1/kernel' for 'params/resnet/conv1/kernel'."""
    return name.partition('/')[2]


def _modules(names: Iterable[str]) -> set[str]:
    """Returns {'resnet/conv1'} for ['params/resnet/conv1/kernel']."""
    return {_inner(name).rpartition('/')[0] for name in names}


def _numbers(names: Collection[str], naming: Naming) -> dict[str, dict[str, str]]:
    """Returns {base: Naming.numbers} for each base, a path in front of the naming's anchor.

    For the anchor 'resnet' and the array 'params/cp/resnet/conv1/kernel' the base is 'cp/'.
    """
    bases = {''}
    if naming.anchor:
        matches = [re.match(rf'\w+/((?:\w+/)*?){naming.anchor}/', name) for name in names]
        bases = {match[1] for match in matches if match}
    modules = _modules(names)
    numbers = {}
    for base in bases:
        inside = [module.removeprefix(base) for module in modules if module.startswith(base)]
        numbers[base] = naming.numbers(inside)
    return numbers


def _axes(kind: str, num_axes: int, path: str, naming: Naming) -> tuple[int, ...]:
    """Returns our axes in the order of the release's, for an array of this kind in a module."""
    if kind != 'kernel':
        return tuple(range(num_axes))
    if num_axes == 2:
        return _LINEAR
    return _TRANSPOSED if re.fullmatch(naming.transposed, path) else _FORWARD


# --- import and export ----------------------------------------------------------------------------


def import_weights(
    tensors: Mapping[str, np.ndarray],
    variables: Mapping[str, PyTree],
    naming: Naming,
    *,
    where: str = 'the file',
    partial: bool = False,
    wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[dict[str, PyTree], Report]:
    """Loads the arrays of a net from the tensors of a file.

    Args:
      tensors: of the file.
      variables: {'params': .., 'batch_stats': ..} of the net. Shapes matter, values do not.
      naming: of the file.
      where: name of the file, for errors.
      partial: tensors that are missing, surplus or of another shape are listed in the report
        instead of being errors.
      wanted: whether to load an array, by its name, e.g. 'resnet/conv1/kernel'.

    Returns:
      (tree of the loaded arrays, structured as `variables`, and the report).

    Raises:
      InputError: a tensor that is missing, has no place, has another shape, or is not finite.
    """
    file = _index(tensors, naming, where)
    slots = places(variables, naming)
    asked = {name: place for name, place in slots.items() if wanted(_inner(name))}
    comparison = _compare(file, asked.values(), naming, partial)

    # All differences are reported in one error, before any array is converted.
    if not partial:
        surplus = _surplus(file, slots.values(), naming)
        if comparison.missing or comparison.wrong or surplus:
            raise _mismatch(file, naming, len(asked), comparison, surplus)

    # A module with an excused tensor is left out as a whole.
    asked = {name: place for name, place in asked.items() if place.path not in comparison.excused}
    loaded, samples = _load(file, asked, naming)
    used = {place.tensor for place in asked.values()}
    names = named_leaves(dict(variables))
    report = Report(
        loaded=tuple(loaded),
        initialised=(
            *(_keeps(path, reason) for path, reason in comparison.excused.items()),
            *(_keeps(path, f'no part of {naming.release}') for path in _outside(names, slots)),
        ),
        unused=tuple(file.names[tensor] for tensor in _weights_of(file) if tensor not in used),
        notes=(*samples, *_notes(names, naming)),
    )
    return traverse_util.unflatten_dict(loaded, sep='/'), report


def export_weights(variables: Mapping[str, PyTree], naming: Naming) -> dict[str, np.ndarray]:
    """Returns our arrays under the release's names and in its layout.

    It is the inverse of `import_weights`.
    """
    leaves = named_leaves(dict(variables))
    tensors = {}
    for name, place in places(variables, naming).items():
        array = np.asarray(leaves[name]).transpose(place.axes)
        tensors[place.tensor] = np.ascontiguousarray(array)
    return tensors


class _File(NamedTuple):
    """Tensors of a file by their canonical names (`Naming.canonical`)."""

    where: str  # name of the file, for errors
    tensors: dict[str, np.ndarray]
    names: dict[str, str]  # canonical name -> name in the file


def _index(tensors: Mapping[str, np.ndarray], naming: Naming, where: str) -> _File:
    """Sorts the tensors of a file by their canonical names."""
    names = {naming.canonical(name): name for name in tensors}
    return _File(where, {canonical: tensors[name] for canonical, name in names.items()}, names)


def _weights_of(file: _File) -> list[str]:
    """Returns the canonical names of all tensors except the counters of torch's batch norms."""
    return [tensor for tensor in file.names if not tensor.endswith(_COUNTER)]


class _Comparison(NamedTuple):
    """Places of a net that a file does not fill.

    missing  complaints about absent tensors
    wrong    complaints about tensors of another shape
    excused  {path of a module: reason} of tensors that may be absent or of another shape
    """

    missing: list[str]
    wrong: list[str]
    excused: dict[str, str]


def _compare(
    file: _File, asked: Iterable[TensorPlace], naming: Naming, partial: bool
) -> _Comparison:
    """Compares the places of a net with a file. With `partial` all differences are excused."""
    comparison = _Comparison([], [], {})
    for place in asked:
        tensor = file.tensors.get(place.tensor)
        if tensor is not None and _can_be_loaded(naming, place, tensor.shape):
            continue
        reason = _excuse(naming, place, tensor)
        if reason or partial:
            comparison.excused.setdefault(place.path, reason or _complaint(place, tensor))
        elif tensor is None:
            comparison.missing.append(f'no tensor {place.tensor} {place.shape}')
        else:
            comparison.wrong.append(_complaint(place, tensor))
    return comparison


def _surplus(file: _File, slots: Iterable[TensorPlace], naming: Naming) -> list[str]:
    """Returns the tensors of a file that have no place in the net and may not be left out."""
    used = {place.tensor for place in slots}
    surplus = [tensor for tensor in _weights_of(file) if tensor not in used]
    return [tensor for tensor in surplus if not re.fullmatch(naming.surplus, tensor)]


def _mismatch(
    file: _File, naming: Naming, num_asked: int, comparison: _Comparison, surplus: list[str]
) -> InputError:
    """Returns the error about a file that does not fit the net."""
    unexpected = []
    for tensor in surplus[:3]:
        shape = tuple(file.tensors[tensor].shape)
        unexpected.append(f'tensor {file.names[tensor]} {shape} that has no place here')
    shown = comparison.wrong[:3] + comparison.missing[:3] + unexpected
    matching = num_asked - len(comparison.missing) - len(comparison.wrong)
    counts = (
        f'{matching} of {num_asked} tensors match, {len(comparison.missing)} are missing, '
        f'{len(comparison.wrong)} have another shape, {len(surplus)} have no place here'
    )
    return InputError(
        file.where,
        got=f'{naming.release}, of which {counts}: ' + '; '.join(shown),
        expected=f'a net that these weights fit: {naming.fits}',
        fix=f'--config.init_from.partial=True loads the {matching} that match; '
        'or set --config.model to that net',
    )


def _load(
    file: _File, asked: Mapping[str, TensorPlace], naming: Naming
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns ({name: array}, notes about samples) of tensors that can be loaded.

    Raises:
      InputError: a tensor that is not finite.
    """
    loaded = {}
    samples = []
    for name, place in asked.items():
        tensor = np.asarray(file.tensors[place.tensor])
        whole = _sampled_shape(naming, place, tensor.shape)
        if whole and not _fits(tensor.shape, place.shape):
            tensor = sample(tensor.reshape(whole), place.shape)
            samples.append(f'{place.tensor} {whole}: a sample of {place.shape}')
        if tensor.dtype != np.float64:
            tensor = tensor.astype(np.float32, copy=False)
        if not np.isfinite(tensor).all():
            raise InputError(
                file.where,
                got=f'NaN or infinity in {file.names[place.tensor]}',
                expected='finite numbers',
            )
        loaded[name] = tensor.reshape(place.shape).transpose(np.argsort(place.axes))
    return loaded, samples


# --- the report -----------------------------------------------------------------------------------


def _keeps(path: str, reason: str) -> str:
    """Returns the line about a module that is not loaded."""
    return f'{path}: keeps its random initialisation ({reason})'


def _notes(names: Collection[str], naming: Naming) -> list[str]:
    """Returns the notes of a naming about the modules of a net."""
    modules = _modules(names)
    return [
        text
        for pattern, text in naming.notes
        if any(re.fullmatch(pattern, module) for module in modules)
    ]


def _outside(names: Collection[str], slots: Mapping[str, TensorPlace]) -> list[str]:
    """Returns the outermost modules of a net of which a release has no array."""
    inside = {_inner(name) for name in slots}
    outside = {_smallest_outside(_inner(name), inside) for name in names if name not in slots}
    return sorted(outside)


def _smallest_outside(name: str, inside: Collection[str]) -> str:
    """Returns the outermost module around an array that has no array in `inside`."""
    parts = name.split('/')
    for depth in range(1, len(parts)):
        module = '/'.join(parts[:depth])
        if not any(other.startswith(module + '/') for other in inside):
            return module
    return name


# --- shapes ---------------------------------------------------------------------------------------


def _fits(theirs: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Returns whether a tensor has the shape of a place.

    A linear layer on flattened features also fits the convolution with the same numbers.
    """
    if tuple(theirs) == shape:
        return True
    is_linear = len(theirs) == 2 and len(shape) == 4
    return is_linear and tuple(theirs) == (shape[0], int(np.prod(shape[1:])))


def _can_be_loaded(naming: Naming, place: TensorPlace, theirs: tuple[int, ...]) -> bool:
    """Returns whether a tensor has our shape, or a shape of which we have a sample."""
    return _fits(theirs, place.shape) or _sampled_shape(naming, place, theirs) is not None


def _sampled_shape(
    naming: Naming, place: TensorPlace, theirs: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Returns the shape of the release's layer, if a tensor is of it and ours is a sample of it."""
    for pattern, (outputs, inputs, extent) in naming.sampled:
        if not re.fullmatch(pattern, place.path):
            continue
        whole = (place.shape[0] * outputs,)
        if len(place.shape) == 4:
            whole += (place.shape[1] * inputs, extent, extent)
        if _fits(theirs, whole):
            return whole
    return None


def sample(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a regular sample of an array.

    Of 4096 channels every fourth makes 1024. Of 7 taps 0, 3 and 6 make 3. DeepLab initialises fc6
    and fc7 of LargeFOV in this way from VGG16 ("decimation").

    Args:
      tensor: [O', I', kh', kw'] or [O'].
      shape: (O, I, kh, kw) or (O,). O and I divide O' and I'. The first and last taps are the same.
    """
    for axis, (whole, part) in enumerate(zip(tensor.shape, shape, strict=True)):
        step = whole // part
        if axis >= 2 and part > 1:
            step = (whole - 1) // (part - 1)
        tensor = np.take(tensor, step * np.arange(part), axis)
    return tensor


def _complaint(place: TensorPlace, tensor: np.ndarray | None) -> str:
    """Returns how a tensor of a file differs from a place."""
    if tensor is None:
        return f'no tensor {place.tensor}'
    return f'{place.tensor}: {tuple(tensor.shape)}, not {place.shape}'


def _excuse(naming: Naming, place: TensorPlace, tensor: np.ndarray | None) -> str:
    """Returns why a tensor may be absent or of another shape, or '' if it may not."""
    if tensor is None:
        optional = (naming.may_lack, naming.classifier, naming.may_differ)
        may_lack = any(re.fullmatch(pattern, place.path) for pattern in optional)
        return 'not in the file' if may_lack else ''
    if re.fullmatch(naming.classifier, place.path) and tensor.shape[1:] == place.shape[1:]:
        return f'{tensor.shape[0]} classes in the file, {place.shape[0]} here'
    if re.fullmatch(naming.may_differ, place.path):
        return _complaint(place, tensor)
    return ''
