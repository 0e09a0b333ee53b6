"""Names of the leaves of a tree: what checkpoints, health checks and patterns over parameters call an array."""

from typing import Any

import jax

from segjax.protocol import PyTree


def path_name(path) -> str:
    """'segmenter/encoder/Conv_0/kernel' for a key path of jax.tree_util, whatever containers it runs through."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """{name: leaf} in the order of the leaves."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
