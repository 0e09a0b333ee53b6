"""Frozen nets that a pipeline reads from other runs: rows of `config.init_from.sources`."""

import re

import ml_collections

from segjax.errors import InputError
from segjax.schema import typed_text


def has_source(config: ml_collections.ConfigDict, net: str) -> bool:
    """Returns whether a row of `init_from.sources` names a net."""
    return any(re.match(row[0], f'{net}/') for row in config.init_from.sources)


def source_of(config: ml_collections.ConfigDict, net: str) -> str:
    """Returns the path from which a net starts: that of its row, else `init_from.path`."""
    rows = (row[1] for row in config.init_from.sources if re.match(row[0], f'{net}/'))
    return next(rows, config.init_from.path)


def check_source(
    config: ml_collections.ConfigDict, net: str, example: tuple[str, str], otherwise: str
) -> None:
    """Raises InputError unless a row of `init_from.sources` names a frozen net.

    Args:
      config: of the run.
      net: its name.
      example: a path of such a source, and its content.
      otherwise: a fix that does without the net.
    """
    if has_source(config, net):
        return
    path, content = example
    rows = [tuple(row) for row in config.init_from.sources]
    typed = typed_text((*rows, (net, path)))
    raise InputError(
        'config.init_from.sources',
        got=f'no row for the net {net!r}',
        expected=f'a row with {content}',
        fix=f'--config.init_from.sources={typed}, with the path of the file; or {otherwise}',
    )
