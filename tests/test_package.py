"""The package: what pip installs, what `import segjax` offers, and what an import loads."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib

import house
import pytest
from house import PACKAGE, REPOSITORY

import segjax

PROJECT = tomllib.loads((REPOSITORY / 'pyproject.toml').read_text())
DATA_LIBRARIES = ('tensorflow_datasets', 'array_record', 'grain', 'cv2', 'PIL')


def requirements() -> dict[str, set[str]]:
    """Returns the lines of requirements.txt without comments, by the heading above them."""
    lines: dict[str, set[str]] = {}
    heading = ''
    for line in (REPOSITORY / 'requirements.txt').read_text().splitlines():
        if line.startswith('#'):
            heading = line.removeprefix('# ').partition('.')[0]
        else:
            lines.setdefault(heading, set()).add(line.partition('#')[0].strip())
    return lines


def test_pip_installs_the_run_time_packages_of_requirements_with_the_same_bounds():
    assert set(PROJECT['project']['dependencies']) == requirements()['Run time']


def test_the_extras_are_the_tests_and_tools_of_requirements():
    extras = PROJECT['project']['optional-dependencies']
    tools = {*extras['test'], *extras['dev']} - {'segjax[test]', 'pre-commit', 'pyright'}
    assert tools == requirements()['Tests and tools']


def test_the_oldest_python_is_the_same_everywhere():
    oldest = re.fullmatch(r'>=3\.(\d+)', PROJECT['project']['requires-python'])[1]
    assert PROJECT['tool']['ruff']['target-version'] == f'py3{oldest}'


def test_every_file_of_the_package_is_installed():
    patterns = ['*.py', *PROJECT['tool']['setuptools']['package-data']['*']]
    files = [path for path in PACKAGE.rglob('*') if path.is_file() and path.suffix != '.pyc']
    assert all(any(path.match(pattern) for pattern in patterns) for path in files)
    assert (PACKAGE / 'py.typed').is_file()
    assert all((folder / '__init__.py').is_file() for folder in {path.parent for path in files})


def test_the_console_script_exists():
    from segjax import main

    module, _, name = PROJECT['project']['scripts']['segjax'].partition(':')
    assert module == main.__name__ and callable(getattr(main, name))


def test_the_version_is_a_version():
    assert re.fullmatch(r'\d+\.\d+\.\d+', segjax.__version__)
    assert PROJECT['tool']['setuptools']['dynamic']['version'] == {'attr': 'segjax.__version__'}
    try:
        installed = importlib.metadata.version('segjax')
    except importlib.metadata.PackageNotFoundError:
        return
    assert installed == segjax.__version__


def test_all_rooms_but_the_command_line_are_offered():
    assert set(segjax.__all__) == set(house.ROOMS) - {'main'}
    assert set(dir(segjax)) == {*segjax.__all__, '__version__'}


@pytest.mark.parametrize('room', ['losses', 'metrics', 'ops'])
def test_a_room_of_functions_offers_its_modules(room):
    modules = {path.stem for path in (PACKAGE / room).glob('*.py')} - {'__init__'}
    assert set(getattr(segjax, room).__all__) == modules


def test_an_unknown_room_is_an_error():
    with pytest.raises(AttributeError, match='nothing'):
        segjax.nothing  # noqa: B018


def loaded_by(code: str) -> set[str]:
    """Returns the top-level packages that a fresh Python has loaded after `code`."""
    program = f'{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))'
    done = subprocess.run(
        [sys.executable, '-c', program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return {name.partition('.')[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_alone_loads_neither_jax_nor_numpy():
    assert not loaded_by('import segjax') & {'jax', 'numpy', *DATA_LIBRARIES}


def test_functions_and_nets_load_no_data_library():
    loaded = loaded_by(
        'import segjax; segjax.losses, segjax.metrics, segjax.models, segjax.ops\n'
        'import segjax.metrics.confusion, segjax.losses.segmentation, segjax.ops.warp'
    )
    assert 'jax' in loaded
    assert not loaded & set(DATA_LIBRARIES)
