"""Tables of nets, {name: class of a linen module}: what a config may say of one, and how it is made."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn

from segjax.errors import unknown_name

Nets = Mapping[str, type[nn.Module]]


def schema(nets: Nets, kind: str, name: str, given: Collection[str]) -> dict[str, Any]:
    """{argument: default} of what a config may set: fields whose default is a number, a bool, a str or a tuple.

    Args:
      nets: the table.
      kind: what its nets are, for errors.
      name: of the net.
      given: fields that the pipeline sets.

    Raises:
      InputError: unknown name, with the nearest one that exists.
    """
    fields = _arguments(nets, kind, name, given)
    return {key: default for key, default in fields.items() if isinstance(default, bool | int | float | str | tuple)}


def build(nets: Nets, kind: str, name: str, given: Mapping[str, Any], args: Mapping[str, Any]) -> nn.Module:
    """The net called `name`, with the fields that the pipeline gives and those of `args`.

    Raises:
      InputError: unknown name or argument, with the nearest one that exists.
    """
    known = _arguments(nets, kind, name, given)
    for key in args:
        if key not in known:
            raise unknown_name(f'argument of {kind} {name!r}', key, known)
    return nets[name](**given, **args)


def _arguments(nets: Nets, kind: str, name: str, given: Collection[str]) -> dict[str, Any]:
    if name not in nets:
        raise unknown_name(kind, name, nets)
    hidden = {*given, 'parent', 'name'}
    return {f.name: f.default for f in dataclasses.fields(nets[name]) if f.name not in hidden}
