"""Arrays of a release as ours, and ours as the release's. Strict: what does not fit is an error, not a shrug.

torch keeps kernels as [out, in, kh, kw] and those of transposed convolutions as [in, out, kh, kw]; here both are
[kh, kw, in, out]. Linear layers are [out, in] there and [in, out] here; one on flattened features, [out, in kh kw], is
a convolution here. torch's batch norms call scale, bias, mean and var weight, bias, running_mean and running_var.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

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
# Axes of ours in the order of torch's, of convolutions and of linear layers.
_FORWARD, _TRANSPOSED, _LINEAR = (3, 2, 0, 1), (2, 3, 0, 1), (1, 0)
_COUNTER = 'num_batches_tracked'


class TensorPlace(NamedTuple):
    """Where an array of ours is in a file."""

    path: str  # of our module, as a source's patterns want it
    tensor: str  # its name in the release
    shape: tuple[int, ...]  # its shape in the release
    axes: tuple[int, ...]  # ours.transpose(axes) is theirs


class Report(NamedTuple):
    """What an import did, by name."""

    taken: tuple[str, ...]  # arrays of ours
    left: tuple[str, ...]  # modules of ours that stay as they were drawn, with the reason
    unused: tuple[str, ...]  # tensors of the file
    notes: tuple[str, ...] = ()

    def __str__(self):
        counts = {}
        for name in self.taken:
            part = name.split('/')[1]
            counts[part] = counts.get(part, 0) + 1
        lines = [f'  + {part}: {count} arrays from the file' for part, count in counts.items()]
        lines += [f'  - {one}' for one in self.left[:24]]
        lines += [f'  - and {len(self.left) - 24} more'] if self.left[24:] else []
        if self.unused:
            more = f' and {len(self.unused) - 8} more' if self.unused[8:] else ''
            lines.append('  not used of the file: ' + ', '.join(self.unused[:8]) + more)
        return '\n'.join(lines + [f'  note: {note}' for note in self.notes])


def places(variables: Mapping[str, PyTree], source: Naming) -> dict[str, TensorPlace]:
    """{'params/resnet/conv1/kernel': Place}: what a source has of a net. Arrays of ours may be abstract."""
    leaves = named_leaves(dict(variables))
    bases = {''}
    if source.anchor:
        bases = {
            m[1] for name in leaves if (m := re.match(rf'\w+/((?:\w+/)*?){source.anchor}/', name))
        }
    modules = {name.partition('/')[2].rpartition('/')[0] for name in leaves}
    numbers = {
        base: source.numbers(m.removeprefix(base) for m in modules if m.startswith(base))
        for base in bases
    }
    found = {}
    for name, leaf in leaves.items():
        _, _, rest = name.partition('/')
        path, _, kind = rest.rpartition('/')
        if kind not in LEAVES:  # learned dilations, which no release has
            continue
        for base in bases:
            inner = path.removeprefix(base)
            if not path.startswith(base) or not re.fullmatch(source.scope, inner):
                continue
            axes = tuple(range(len(leaf.shape)))
            if kind == 'kernel' and len(axes) == 2:
                axes = _LINEAR
            elif kind == 'kernel':
                axes = _TRANSPOSED if re.fullmatch(source.transposed, inner) else _FORWARD
            shape = tuple(leaf.shape[axis] for axis in axes)
            found[name] = TensorPlace(
                inner, f'{source.theirs(inner, numbers[base])}.{LEAVES[kind]}', shape, axes
            )
    return found


def import_weights(
    tensors: Mapping[str, np.ndarray],
    variables: Mapping[str, PyTree],
    source: Naming,
    *,
    where: str = 'the file',
    partial: bool = False,
    wanted: Callable[[str], bool] = lambda name: True,
) -> tuple[dict[str, PyTree], Report]:
    """The arrays of a net that a file has.

    Args:
      tensors: of the file.
      variables: {'params': .., 'batch_stats': ..} of the net; shapes matter, values do not.
      source: the file's naming.
      where: the file's name, for errors.
      partial: what is missing, too much, or of another shape is listed in the report instead of being an error.
      wanted: says of 'resnet/conv1/kernel' whether it is to be taken.

    Returns:
      (tree of the arrays taken, structured as `variables`; report).

    Raises:
      InputError: a tensor that is missing, has no place, has another shape, or is not finite.
    """
    given = {source.canonical(name): name for name in tensors}
    slots = places(variables, source)
    asked = {name: place for name, place in slots.items() if wanted(name.partition('/')[2])}
    missing, wrong, excused = [], [], {}
    for place in asked.values():
        found = tensors[given[place.tensor]] if place.tensor in given else None
        if found is not None and _can_be_taken(source, place, found.shape):
            continue
        reason = _excuse(source, place, found)
        if reason or partial:
            excused.setdefault(place.path, reason or _complaint(place, found))
        elif found is None:
            missing.append(f'no tensor {place.tensor} {place.shape}')
        else:
            wrong.append(_complaint(place, found))
    used = {place.tensor for place in slots.values()}
    surplus = [t for t in given if t not in used and not t.endswith(_COUNTER)]
    strange = [] if partial else [t for t in surplus if not re.fullmatch(source.surplus, t)]
    if missing or wrong or strange:
        unexpected = [
            f'tensor {given[t]} {tuple(tensors[given[t]].shape)} that has no place here'
            for t in strange
        ]
        shown = wrong[:3] + missing[:3] + unexpected[:3]
        matching = len(asked) - len(missing) - len(wrong)
        counts = f'{matching} of {len(asked)} tensors match, {len(missing)} are missing, '
        counts += f'{len(wrong)} have another shape, {len(strange)} have no place here'
        raise InputError(
            where,
            got=f'{source.release}, of which {counts}: ' + '; '.join(shown),
            expected=f'a net that these weights are of: {source.fits}',
            fix=f'--config.init_from.partial=True loads the {matching} that match; or set --config.model to that net',
        )
    taken, samples = {}, []
    for name, place in asked.items():
        if place.path in excused:
            continue
        tensor = np.asarray(tensors[given[place.tensor]])
        whole = _sampled_shape(source, place, tensor.shape)
        if whole and not _fits(tensor.shape, place.shape):
            tensor = sample(tensor.reshape(whole), place.shape)
            samples.append(f'{place.tensor} {whole}: a sample of {place.shape}')
        tensor = tensor if tensor.dtype == np.float64 else tensor.astype(np.float32, copy=False)
        if not np.isfinite(tensor).all():
            raise InputError(
                where, got=f'NaN or infinity in {given[place.tensor]}', expected='finite numbers'
            )
        taken[name] = tensor.reshape(place.shape).transpose(np.argsort(place.axes))
    left = [f'{path}: stays as drawn ({reason})' for path, reason in excused.items()]
    inside = {name.partition('/')[2] for name in slots}
    outside = {
        _smallest_outside(n.partition('/')[2], inside)
        for n in named_leaves(dict(variables))
        if n not in slots
    }
    left += [f'{part}: stays as drawn (no part of {source.release})' for part in sorted(outside)]
    used = {place.tensor for name, place in asked.items() if name in taken}
    unused = tuple(given[t] for t in given if t not in used and not t.endswith(_COUNTER))
    paths = {name.partition('/')[2].rpartition('/')[0] for name in named_leaves(dict(variables))}
    notes = tuple(
        text for pattern, text in source.notes if any(re.fullmatch(pattern, path) for path in paths)
    )
    report = Report(tuple(taken), tuple(left), unused, (*samples, *notes))
    return traverse_util.unflatten_dict(taken, sep='/'), report


def export_weights(variables: Mapping[str, PyTree], source: Naming) -> dict[str, np.ndarray]:
    """Our arrays under the release's names and in its layout: the inverse of `import_weights`."""
    leaves = named_leaves(dict(variables))
    return {
        place.tensor: np.ascontiguousarray(np.asarray(leaves[name]).transpose(place.axes))
        for name, place in places(variables, source).items()
    }


def _fits(found: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Equal shapes, or those of a linear layer and the convolution that it is."""
    return tuple(found) == shape or (
        len(found) == 2 and len(shape) == 4 and tuple(found) == (shape[0], int(np.prod(shape[1:])))
    )


def _can_be_taken(source: Naming, place: TensorPlace, found: tuple[int, ...]) -> bool:
    """Returns whether an array of the file has our shape, or a shape of which we have a sample."""
    return _fits(found, place.shape) or _sampled_shape(source, place, found) is not None


def _sampled_shape(
    source: Naming, place: TensorPlace, found: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Returns the shape of the release's layer, if `found` is that layer and ours is a sample of it."""
    for pattern, (outputs, inputs, extent) in source.sampled:
        if not re.fullmatch(pattern, place.path):
            continue
        whole = (place.shape[0] * outputs,)
        if len(place.shape) == 4:
            whole += (place.shape[1] * inputs, extent, extent)
        if _fits(found, whole):
            return whole
    return None


def sample(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a regular sample of an array: every fourth of 4096 channels for 1024, taps 0, 3 and 6 of 7 for 3.

    DeepLab starts the fc6 and fc7 of LargeFOV from those of VGG16 so ("decimation").

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


def _smallest_outside(name: str, inside: Collection[str]) -> str:
    """The outermost module around an array of ours that has no array in `inside`."""
    parts = name.split('/')
    for depth in range(1, len(parts)):
        module = '/'.join(parts[:depth])
        if not any(other.startswith(module + '/') for other in inside):
            return module
    return name


def _complaint(place: TensorPlace, found: Any) -> str:
    if found is None:
        return f'no tensor {place.tensor}'
    return f'{place.tensor}: {tuple(found.shape)}, not {place.shape}'


def _excuse(source: Naming, place: TensorPlace, found: Any) -> str:
    """Why it is no error that a tensor is absent or of another shape; '' if it is one."""
    if found is None:
        optional = (source.may_lack, source.classifier, source.may_differ)
        return 'not in the file' if any(re.fullmatch(p, place.path) for p in optional) else ''
    if re.fullmatch(source.classifier, place.path) and tuple(found.shape[1:]) == place.shape[1:]:
        return f'{found.shape[0]} classes in the file, {place.shape[0]} here'
    return _complaint(place, found) if re.fullmatch(source.may_differ, place.path) else ''
