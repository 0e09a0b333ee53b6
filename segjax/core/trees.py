"""Names of the leaves of a tree, for checkpoints, health checks and patterns over parameters."""

from typing import Any

import jax

from segjax.protocol import PyTree


def path_name(path: tuple[Any, ...]) -> str:
    """Returns 'segmenter/encoder/Conv_0/kernel' for a key path of jax.tree_util.

    The path may run through containers of any kind.
    """
    return jax.tree_util.keystr(path, simple=True, separator='/')


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns {name: leaf} in the order of the leaves."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
