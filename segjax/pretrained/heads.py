"""Reads the linear heads of the perceptual distance LPIPS (metrics/lpips.py)."""

import pathlib
import re
from collections.abc import Mapping

import numpy as np

from segjax.core.paths import HUB
from segjax.errors import InputError
from segjax.pretrained import files

_PUBLISHED = re.compile(r'lin(\d+)\.model\.[01]\.weight')
"""Name of the head of a layer in files of the package lpips. Layers are numbered from 0."""


def read_heads(where: str, path: str, channels: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Reads the weight of each channel of the compared layers.

    Heads have the names of the package lpips, 'lin0.model.1.weight' [1, C, 1, 1] for the first
    layer. Or they have the names of the layers, 'conv1_2' [C]. All tensors with further names are
    left unread, such as the net in a file that holds both.

    Args:
      where: config key of the path, for messages. Its empty value means a distance without heads.
      path: of a file of tensors (pretrained/files.py).
      channels: number of channels of each compared layer, in the order of the net.

    Returns:
      {layer: [C] float32}.

    Raises:
      InputError: the file is absent or damaged, or its heads do not fit the layers.
    """
    local = pathlib.Path(path).expanduser()
    if not path.startswith(HUB) and not local.is_file():
        kind = 'a folder' if local.is_dir() else 'no file'
        raise InputError(
            where,
            got=f'{path}, which is {kind}',
            expected='a file with the linear heads of LPIPS',
            fix=f'--{where}= compares without heads; the package lpips on PyPI has the files '
            'lpips/weights/v0.1/vgg.pth and alex.pth',
        )
    tensors = _by_layer(files.read(path, where), tuple(channels))

    # Heads of a different net have other channels. Weights of a net may be negative.
    heads = {name: tensor.astype(np.float32).reshape(-1) for name, tensor in tensors.items()}
    sizes = {name: len(head) for name, head in heads.items()}
    if sizes != dict(channels):
        raise _misfit(where, f'{path} with heads for {_text(sizes)}', channels)
    if not all((np.isfinite(head) & (head >= 0)).all() for head in heads.values()):
        raise _misfit(where, f'{path} with weights that are negative or not finite', channels)
    return heads


def _by_layer(tensors: Mapping[str, np.ndarray], layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the heads in a file by the name of their layer, in the order of the layers."""
    published = {}
    for name, tensor in tensors.items():
        match = _PUBLISHED.fullmatch(name)
        if match:
            published[int(match[1])] = tensor
    if not published:
        return {layer: tensors[layer] for layer in layers if layer in tensors}
    by_layer = {}
    for number, tensor in sorted(published.items()):
        is_layer = number < len(layers)
        by_layer[layers[number] if is_layer else f'layer {number + 1}'] = tensor
    return by_layer


def _misfit(where: str, got: str, channels: Mapping[str, int]) -> InputError:
    """Returns the error about a file whose heads do not fit the layers."""
    return InputError(
        where,
        got=got,
        expected=f'heads for {_text(channels)}, with weights of 0 or more',
        fix=f'--{where}= compares without heads; or give the file of heads of this net',
    )


def _text(channels: Mapping[str, int]) -> str:
    """Returns layers with their numbers of channels in words."""
    parts = [f'{layer} ({count} channels)' for layer, count in channels.items()]
    return ', '.join(parts) or 'no layer'
