"""Opens the data sets of a config: `data`, and the data sections that a pipeline adds."""

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Iterator

import ml_collections
from flax import traverse_util

from segjax import config as config_lib
from segjax import data as data_lib
from segjax.data.view import View
from segjax.errors import InputError
from segjax.schema import DATA_SET_KEYS
from segjax.spec import DataSpec

_KEY = re.compile(rf'\bconfig\.data\.(?=({"|".join(DATA_SET_KEYS)})\b)')
"""Start of a key of the main data set in an error."""


def sections(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """Returns each data section with all keys of `config.data`, by the name of the section.

    A section without a name is `config.data` itself.
    """
    filled = {}
    for name in config_lib.data_sections(config.pipeline):
        section = config.data.copy_and_resolve_references()
        if config[name].name:
            section.update({key: config[name][key] for key in DATA_SET_KEYS})
        filled[name] = section
    return filled


def description(section: ml_collections.ConfigDict) -> str:
    """Returns a text that is equal for sections of the same data set, at the same place."""
    stored = json.loads(section.to_json())
    return json.dumps([stored[key] for key in DATA_SET_KEYS], sort_keys=True)


def prepare(
    config: ml_collections.ConfigDict, check_stop: Callable[[], None] = data_lib.never_stop
) -> dict[str, data_lib.Prepared]:
    """Prepares all data sets of a config. Returns them by their config section.

    Sections that describe the same data set share the handle and the records.

    Args:
      config: valid.
      check_stop: as in `data.prepare`.

    Raises:
      InputError: the first problem of a data set. It names the keys of its section.
    """
    opened: dict[str, data_lib.Prepared] = {}
    datasets = {}
    for name, section in sections(config).items():
        key = description(section)
        if key not in opened:
            with named(name):
                prepared = data_lib.prepare(section, check_stop)
            spec = with_parts(prepared.spec, prepared.view, config)
            opened[key] = prepared._replace(spec=spec)
        datasets[name] = opened[key]
    return datasets


@contextlib.contextmanager
def named(section: str) -> Iterator[None]:
    """Replaces the keys of `config.data` in errors by the keys of another data section."""
    try:
        yield
    except InputError as error:
        if section == 'data':
            raise
        parts = {}
        for part in ('where', 'got', 'expected', 'fix'):
            parts[part] = _KEY.sub(f'config.{section}.', getattr(error, part))
        raise error.replaced(**parts) from error


def with_parts(spec: DataSpec, view: View, config: ml_collections.ConfigDict) -> DataSpec:
    """Adds the exact numbers of the slices and of the share of labels that a config names.

    A slice is the value of any key `split` or `*_split`. Whole splits need no addition.

    Args:
      spec: of the data set.
      view: its examples.
      config: of the run.
    """
    values = traverse_util.flatten_dict(config.to_dict(), sep='.')
    wanted = {}
    for key, value in values.items():
        if key.rpartition('.')[2].endswith('split') and isinstance(value, str) and '[' in value:
            wanted[value, (0.0, 1.0)] = None
    if config.data.labelled_fraction < 1:
        wanted[config.data.train_split, (0.0, config.data.labelled_fraction)] = None

    # The slices of a key may be meant for another data set.
    parts = []
    for split, share in wanted:
        with contextlib.suppress(InputError):
            view.slices(split)
            parts.append((split, share))
    counted = [view.part(split, share) for split, share in parts]
    return dataclasses.replace(spec, parts=tuple(part for part in counted if part.num_examples))
