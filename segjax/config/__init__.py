"""The config of an experiment: its keys and defaults, checks, command line and stored form.

A config file (`configs/*.py`) starts from `defaults(pipeline)` and assigns values. The ConfigDict
is locked, so an unknown key fails at its line. `validate` checks every value against its Field.
"""

from segjax.config.arguments import check_choices, parse_arg, typed
from segjax.config.presets import (
    OF_VARIANT,
    condition_on_normals,
    portrait_args,
    portraits,
    rendered_portraits,
    set_portrait_args,
    small_portraits,
    smaller_portraits,
    smoke,
    smoke_portraits,
)
from segjax.config.stored import (
    FREE,
    FREE_IN,
    UNRECORDED,
    another_config,
    changes,
    differences,
    from_json,
    recorded,
    to_json,
)
from segjax.config.tree import (
    choose,
    data_sections,
    defaults,
    entry_at,
    of_all_data_sets,
    schema_of,
    update,
)
from segjax.config.validation import validate
from segjax.data.draws import published_lists
from segjax.schema import typed_text

__all__ = [
    'FREE',
    'FREE_IN',
    'OF_VARIANT',
    'UNRECORDED',
    'another_config',
    'changes',
    'check_choices',
    'choose',
    'condition_on_normals',
    'data_sections',
    'defaults',
    'differences',
    'entry_at',
    'from_json',
    'of_all_data_sets',
    'parse_arg',
    'portrait_args',
    'portraits',
    'published_lists',
    'recorded',
    'rendered_portraits',
    'schema_of',
    'set_portrait_args',
    'small_portraits',
    'smaller_portraits',
    'smoke',
    'smoke_portraits',
    'to_json',
    'typed',
    'typed_text',
    'update',
    'validate',
]
