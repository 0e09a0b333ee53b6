"""The config of an experiment: keys, defaults, checks, and its forms on the command line and on disk.

A config file (`configs/*.py`) starts from `defaults(pipeline)` and assigns. The ConfigDict is locked,
so an unknown key is an error where it is written. `validate` checks every value against its Field.
"""

from segjax.config.arguments import parse_arg, typed
from segjax.config.presets import smoke
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
from segjax.config.tree import choose, defaults, schema_of, update
from segjax.config.validation import validate
from segjax.schema import typed_text

__all__ = [
    'FREE',
    'FREE_IN',
    'UNRECORDED',
    'another_config',
    'changes',
    'choose',
    'defaults',
    'differences',
    'from_json',
    'parse_arg',
    'recorded',
    'schema_of',
    'smoke',
    'to_json',
    'typed',
    'typed_text',
    'update',
    'validate',
]
