"""Reads JSON and YAML files strictly. A key that occurs twice is an error."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

_DEEP = 'nested too deeply'


def read(path: pathlib.Path) -> str:
    """Returns the text of a file in UTF-8, without the byte-order mark of some editors."""
    return path.read_text(encoding='utf-8-sig')


def parse_json(text: str) -> Any:
    """Returns the content of a JSON text.

    Raises:
      ValueError: the text is no JSON, or a key occurs twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(_DEEP) from None


def parse_yaml(text: str) -> Any:
    """Returns the content of a YAML text.

    Raises:
      ValueError: the text is no YAML, or a key occurs twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError(_DEEP) from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of a JSON object as a dict. Raises ValueError if a key occurs twice."""
    _check_unique([key for key, _ in pairs])
    return dict(pairs)


def _check_unique(keys: Sequence[str], place: str = '') -> None:
    """Raises ValueError if a key occurs twice in a section."""
    earlier = set()
    for key in keys:
        if key in earlier:
            raise ValueError(f'key {key!r} twice{place}')
        earlier.add(key)


class _Loader(yaml.SafeLoader):
    """A loader for plain values that accepts each key once per section."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _check_unique(keys, f' in the section at line {node.start_mark.line + 1}')
        return super().construct_mapping(node, deep)
