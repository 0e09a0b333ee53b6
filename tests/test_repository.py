"""The files at the root of the repository that people and tools read: changelog, citation, CI, hooks."""

import pathlib
import re

import pytest
import yaml
from house import PACKAGE, REPOSITORY

from segjax import schema

CHANGELOG = (REPOSITORY / 'CHANGELOG.md').read_text()
CONTRIBUTING = (REPOSITORY / 'CONTRIBUTING.md').read_text()
WORKFLOWS = REPOSITORY / '.github/workflows'


@pytest.mark.parametrize('old', schema.RENAMED)
def test_the_changelog_names_every_renamed_key(old):
    new = schema.RENAMED[old]
    assert re.search(
        rf'^\| `{re.escape(old)}`.* \| `{re.escape(new)}` \|$', CHANGELOG, re.MULTILINE
    )


def modules(cell: str) -> list[pathlib.Path]:
    """Returns the paths of the modules in a cell, which may leave out the package of later names."""
    paths: list[pathlib.Path] = []
    for name in re.findall(r'`([\w.]+)`', cell):
        whole = pathlib.Path(*name.split('.'))
        paths.append(whole if name.startswith('segjax.') else paths[-1].parent / whole)
    return paths


def test_the_changelog_names_new_modules_that_exist():
    rows = re.findall(r'^\| (`segjax\..*) \| (`segjax\..*) \|$', CHANGELOG, re.MULTILINE)
    assert len(rows) > 20
    for _, new in rows:
        for path in modules(new):
            file = (REPOSITORY / path).with_suffix('.py')
            assert file.is_file() or (REPOSITORY / path / '__init__.py').is_file(), path


def test_the_citation_names_the_papers():
    citation = yaml.safe_load((REPOSITORY / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= set(citation)
    assert len(citation['references']) == 4
    for reference in citation['references']:
        assert {'type', 'title', 'authors'} <= set(reference)
    text = (PACKAGE / '__init__.py').read_text()
    assert f"__version__ = '{citation['version']}'" in text


def test_contributing_names_files_that_exist():
    quoted = re.findall(r'`((?:segjax|configs|tests|docs|launch)/[\w./]*)`', CONTRIBUTING)
    missing = [path for path in quoted if not (REPOSITORY / path).exists()]
    assert quoted and all('mine' in path for path in missing), missing


def test_contributing_names_the_jobs_of_ci():
    jobs = yaml.safe_load((WORKFLOWS / 'ci.yml').read_text())['jobs']
    rows = re.findall(r'^\| (\w+) \| .* \|$', CONTRIBUTING, re.MULTILINE)
    assert set(rows) - {'job', 'nightly'} == set(jobs)
    nightly = yaml.safe_load((WORKFLOWS / 'nightly.yml').read_text())
    assert 'bash launch/test.sh -m slow' in str(nightly['jobs'])


def test_ruff_has_one_version():
    hooks = (REPOSITORY / '.pre-commit-config.yaml').read_text()
    pinned = re.search(r'^ruff==(\S+)$', (REPOSITORY / 'constraints.txt').read_text(), re.MULTILINE)
    assert f'rev: v{pinned[1]}\n' in hooks
