"""Names of the leaves of a tree, for checkpoints, health checks and patterns over parameters."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from segjax.protocol import PyTree


def path_name(path: tuple[Any, ...]) -> str:
    """Returns 'segmenter/encoder/Conv_0/kernel' for a key path of jax.tree_util.

    The path may run through containers of any kind.
    """
    return jax.tree_util.keystr(path, simple=True, separator='/')


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns {name: leaf} in the order of the leaves."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def digest(arrays: Mapping[str, Any]) -> str:
    """Returns twelve hexadecimal digits of the names, types, shapes and values of arrays."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f'{name} {array.dtype} {array.shape};'.encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:12]
