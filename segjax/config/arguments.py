"""Values as a user types them.

They follow `--config.key=`, or the colon of `--config file.py:variant,key=value`.
"""

import ast
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from segjax.errors import InputError, unknown_name

KINDS = {
    bool: 'true or false',
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
    tuple: 'a tuple',
}
"""Names of the types that config keys and arguments have."""


def parse_arg(arg: str, variants: tuple[str, ...], **spec: Any) -> ml_collections.ConfigDict:
    """Parses the text behind the colon of `--config file.py:variant,key=value`.

    Args:
      arg: the text, '' for the default variant.
      variants: names that may come first.
      **spec: typed arguments with their defaults. The type of the default is the type of the
        argument.

    Returns:
      A ConfigDict with `variant` ('' if the text names none) and an entry for each argument of
      `spec`.

    Raises:
      InputError: an unknown variant or argument, an argument twice, or a value of another type.
    """
    parsed = ml_collections.ConfigDict({'variant': '', **spec})
    seen = set()
    for position, item in enumerate(filter(None, arg.split(','))):
        key, equals, text = item.partition('=')
        if key in seen:
            raise InputError(
                f'--config file.py:...,{key}=',
                got=f'{key} twice, in {arg!r}',
                expected='each argument once',
                fix=f'leave {item} out',
            )
        seen.add(key)
        # The first item may be the variant. Later items without `=` are flags.
        if not equals and position == 0:
            if key not in variants:
                raise unknown_name('--config file.py:<variant>', key, variants)
            parsed.variant = key
        elif not equals and isinstance(spec.get(key), bool):
            parsed[key] = True
        elif key not in spec:
            raise unknown_name('--config file.py:...,<argument>=', key, spec)
        else:
            # The default decides how the text is read.
            try:
                parsed[key] = typed(text, spec[key])
            except ValueError as error:
                raise InputError(
                    f'--config file.py:...,{key}=',
                    got=repr(text),
                    expected=KINDS[type(spec[key])],
                    fix=f'{key}={spec[key]}',
                ) from error
    return parsed


def check_choices(
    file: str, args: ml_collections.ConfigDict, choices: Mapping[str, Collection[str]]
) -> None:
    """Raises InputError for an argument of a config file that has an unknown value.

    Args:
      file: path of the config file.
      args: from `parse_arg`.
      choices: known values by argument.
    """
    for name, values in choices.items():
        if args[name] not in values:
            raise unknown_name(f'--config {file}:...,{name}=', args[name], values)


def typed(text: str, like: Any) -> Any:
    """Returns a text as a value of the type of `like`.

    Raises:
      ValueError, SyntaxError: the text is no value of this type.
    """
    if isinstance(like, bool):
        if text.lower() not in ('true', 'false', '1', '0'):
            raise ValueError(text)
        return text.lower() in ('true', '1')
    if isinstance(like, tuple):
        value = ast.literal_eval(text)
        if not isinstance(value, tuple | list):
            raise ValueError(text)
        # A tuple of tuples may be typed as a list of lists.
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return type(like)(text)
