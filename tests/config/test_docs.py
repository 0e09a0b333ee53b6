"""The meaning of every config key is a sentence that can stand alone in an error and in a list."""

import pytest

from segjax import config as config_lib
from segjax import pipelines
from segjax.schema import Choice, Field


def docs_of(schema, path=''):
    """Returns {path of a key or of a choice: its meaning} for all keys of all options."""
    docs = {}
    for key, entry in schema.items():
        if isinstance(entry, Field):
            docs[f'{path}{key}'] = entry.doc
        elif isinstance(entry, Choice):
            docs[f'{path}{key}'] = entry.doc
            for name, keys in entry.options.items():
                docs |= docs_of(keys, f'{path}{key}={name}.')
        else:
            docs |= docs_of(entry, f'{path}{key}.')
    return docs


@pytest.mark.parametrize('pipeline', pipelines.REGISTRY)
def test_every_meaning_is_a_sentence_that_stands_alone(pipeline):
    for path, doc in docs_of(config_lib.schema_of(pipeline)).items():
        words = doc.split()
        assert doc[0].isupper() and doc.endswith('.'), (path, doc)
        assert len(words) >= 3 and words[0].lower() not in ('of', 'as', 'that'), (path, doc)
        assert '  ' not in doc and '\n' not in doc, (path, doc)
