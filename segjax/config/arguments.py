"""Values as a user types them: behind `--config.key=`, and behind the colon of `--config file.py:variant,key=value`."""

import ast
from typing import Any

import ml_collections

from segjax.errors import InputError, unknown_name


def parse_arg(arg: str, variants: tuple[str, ...], **spec: Any) -> ml_collections.ConfigDict:
    """Parses what follows the colon of `--config file.py:variant,key=value`.

    Args:
      arg: the text, '' for the default variant.
      variants: names that may come first.
      **spec: typed arguments with their defaults; the type of the default is the type of the argument.

    Returns:
      A ConfigDict with `variant` ('' if none was named) and one entry for each argument of `spec`.
    """
    out = ml_collections.ConfigDict({'variant': '', **spec})
    for position, item in enumerate(filter(None, arg.split(','))):
        key, equals, text = item.partition('=')
        if not equals and position == 0:
            if key not in variants:
                raise unknown_name('--config file.py:<variant>', key, variants)
            out.variant = key
        elif not equals and isinstance(spec.get(key), bool):
            out[key] = True
        elif key not in spec:
            raise unknown_name('--config file.py:...,<argument>=', key, spec)
        else:
            try:
                out[key] = typed(text, spec[key])
            except ValueError as error:
                raise InputError(
                    f'--config file.py:...,{key}=',
                    got=repr(text),
                    expected=f'a {type(spec[key]).__name__}',
                ) from error
    return out


def typed(text: str, like: Any) -> Any:
    """`text` as a value of the type of `like`; ValueError or SyntaxError if it is none."""
    if isinstance(like, bool):
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ValueError(text)
        return text.lower() in ('true', '1')
    if isinstance(like, tuple):
        value = ast.literal_eval(text)
        if not isinstance(value, tuple | list):
            raise ValueError(text)
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return type(like)(text)
