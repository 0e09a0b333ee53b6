"""Parses the text of JSON and YAML files strictly: a repeated key is an error.

It serves files of the user and of run folders. Its errors are ValueErrors without a file name.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

_DEEP = 'nested too deeply'


def read(path: pathlib.Path) -> str:
    """Returns the text of a file in UTF-8, without the mark that some editors put before it."""
    return path.read_text(encoding='utf-8-sig')


def parse_json(text: str) -> Any:
    """Returns the content of a JSON text.

    Raises:
      ValueError: no JSON, or a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(_DEEP) from None


def parse_yaml(text: str) -> Any:
    """Returns the content of a YAML text.

    Raises:
      ValueError: no YAML, or a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError(_DEEP) from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _check_unique([key for key, _ in pairs])
    return dict(pairs)


def _check_unique(keys: Sequence[str], place: str = '') -> None:
    """Raises ValueError for a key that is given twice in the same section."""
    seen = set()
    for key in keys:
        if key in seen:
            raise ValueError(f'key {key!r} twice{place}')
        seen.add(key)


class _Loader(yaml.SafeLoader):
    """Plain values only, and every key once."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _check_unique(keys, f' in the section at line {node.start_mark.line + 1}')
        return super().construct_mapping(node, deep)
