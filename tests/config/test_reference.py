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


def listed_path(path, content):
    """Returns the path under which a key is listed: a section may refer to an equal section."""
    names = path.split('.')
    for number in reversed(range(1, len(names))):
        section = '.'.join(names[:number])
        row = re.search(rf'^\| `{section}` \| .*with the keys of `(.+)`', content, re.MULTILINE)
        if row:
            return '.'.join((row[1], *names[number:]))
    return path


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
            assert f'| `{listed_path(path, content)}` |' in content, where
        assert field.doc.replace('|', r'\|') in content, where
