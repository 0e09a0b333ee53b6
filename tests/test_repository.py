"""Files that people and tools read: design, changelog, citation, CI, hooks."""

import importlib.util
import pathlib
import re

import house
import numpy as np
import pytest
import yaml
from house import PACKAGE, REPOSITORY

from segjax import schema
from segjax.core import files

CHANGELOG = (REPOSITORY / 'CHANGELOG.md').read_text()
CONTRIBUTING = (REPOSITORY / 'CONTRIBUTING.md').read_text()
DESIGN = (REPOSITORY / 'docs/design.md').read_text()
WORKFLOWS = REPOSITORY / '.github/workflows'


@pytest.mark.parametrize('old', schema.RENAMED)
def test_the_changelog_names_every_renamed_key(old):
    new = schema.RENAMED[old]
    assert re.search(
        rf'^\| `{re.escape(old)}`.* \| `{re.escape(new)}` \|$', CHANGELOG, re.MULTILINE
    )


def modules(cell: str) -> list[pathlib.Path]:
    """Returns the paths of the modules in a cell.

    The cell may leave out the package of later names.
    """
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


def test_the_design_lists_every_room():
    table = DESIGN.split('| room | what is in it |')[1].split('\n\n')[0]
    first_cells = [line.split('|')[1] for line in table.splitlines() if line.startswith('| `')]
    rooms = re.findall(r'`(\w+)(?:\.py|/)`', ''.join(first_cells))
    assert sorted(rooms) == sorted(house.ROOMS)


def test_the_arrows_of_the_design_point_down():
    floors = {
        room: int(line.split()[1])
        for line in DESIGN.splitlines()
        if line.startswith(' floor ')
        for room in line[:55].split()[2:]
    }
    assert set(floors) == set(house.ROOMS)
    assert all(floors[below] < floors[above] for above, below in house.arrows())


def test_the_design_names_files_that_exist():
    quoted = re.findall(r'`((?:segjax|configs|tests|docs|launch)/[\w./]*)`', DESIGN)
    assert quoted
    for path in quoted:
        assert (REPOSITORY / path).exists(), path


def test_the_picture_of_readme_is_drawn_from_a_run_folder(tmp_path, monkeypatch):
    path = REPOSITORY / 'docs/make_picture.py'
    spec = importlib.util.spec_from_file_location('make_picture', path)
    make_picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_picture)
    for row in make_picture.ROWS:
        for column in make_picture.COLUMNS:
            file = tmp_path / f'segmentation/pictures/{row}/{column}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files.encode_png(np.full((8, 16, 3), 99, np.uint8)))
    monkeypatch.setattr(make_picture, 'OUT', tmp_path / 'picture.png')
    make_picture.main(str(tmp_path))
    assert (tmp_path / 'picture.png').stat().st_size > 0
