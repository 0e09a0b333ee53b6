"""docs/config.md lists every key, and is what its command prints."""

import pathlib
import re

import pytest

from segjax import config as config_lib
from segjax import pipelines
from segjax.config import reference, validation

FILE = pathlib.Path(__file__).resolve().parents[2] / 'docs/config.md'


def test_the_file_is_what_the_command_prints():
    content = FILE.read_text(encoding='utf-8')
    assert content == reference.text(), f'docs/config.md is stale. Renew it: {reference.COMMAND}'
    assert reference.COMMAND in content


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_every_key_of_the_default_config_is_listed(pipeline):
    content = FILE.read_text(encoding='utf-8')
    schema = config_lib.schema_of(pipeline)
    for where, field, _ in validation.walk(schema, config_lib.defaults(pipeline), ''):
        path = where.removeprefix('config.')
        section, _, key = path.rpartition('.')
        entry = config_lib.entry_at(schema, filter(None, section.split('.')))
        if hasattr(entry, 'options') and key != 'name':
            assert f'| `{key}` |' in content, where
        elif section.rpartition('.')[2].startswith('optim'):
            assert f'| `optim.{key}` |' in content and f'`{section}' in content, where
        else:
            # A section that repeats another section refers to it.
            row = re.search(rf'^\| `{section}` \| .*with the keys of `(.+)`', content, re.MULTILINE)
            listed = f'{row[1]}.{key}' if row else path
            assert f'| `{listed}` |' in content, where
        assert field.doc.replace('|', r'\|') in content, where
