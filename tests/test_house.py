"""The house rules of docs/design.md, read off the source.

The rules say where imports may point, which words live where, and how functions are written.
"""

import ast
import compileall
import pathlib

import house
import pytest
from house import PACKAGE, REPOSITORY, ROOMS, SOURCES

from segjax import pipelines


def by_path(path: pathlib.Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_room_is_in_the_list_and_every_entry_exists():
    assert {house.room(path) for path in SOURCES} - {''} == set(ROOMS)


def test_imports_point_down():
    for path in SOURCES:
        here = house.room(path)
        for there in house.imported_rooms(path):
            if here and there != here:
                assert ROOMS.index(there) < ROOMS.index(here), f'{by_path(path)} imports {there}'


def test_a_pipeline_imports_no_other_pipeline():
    for path in (PACKAGE / 'pipelines').glob('[a-z]*.py'):
        assert 'pipelines' not in house.imported_rooms(path), (
            f'{by_path(path)}: what two pipelines share moves down to tasks'
        )


def test_data_know_no_net():
    for path in (PACKAGE / 'data').rglob('*.py'):
        assert not house.imported_rooms(path) & {'losses', 'metrics', 'models'}, by_path(path)


def test_config_files_see_the_config_alone():
    for path in (REPOSITORY / 'configs').rglob('*.py'):
        assert house.imported_rooms(path) <= {'config', 'errors', 'modes'}, path


def test_config_files_repeat_no_function():
    """Config files share settings by segjax.config, and tables by the vocabulary of tables."""
    places = {}
    for path in (REPOSITORY / 'configs').rglob('*.py'):
        for node in ast.parse(code_of(path)).body:
            if isinstance(node, ast.FunctionDef):
                place = f'{path.name}: {node.name}'
                node.name = ''
                places.setdefault(ast.unparse(node), []).append(place)
    assert [names for names in places.values() if len(names) > 1] == []


def test_every_module_of_the_table_has_its_place():
    assert {path.stem for path in (PACKAGE / 'modes/table').rglob('*.py')} == set(house.TABLE)


@pytest.mark.parametrize('here', house.TABLE)
def test_imports_inside_the_table_point_back(here):
    for name in house.imported_modules(PACKAGE / f'modes/table/{here}.py'):
        if name.startswith('segjax.modes.table.'):
            there = name.split('.')[3]
            assert there in house.TABLE[: house.TABLE.index(here)], f'{here} imports {name}'


def errors_of_sources(check) -> dict[str, list[str]]:
    """Returns {path: errors} of the files in which a check finds errors."""
    errors = {by_path(path): check(path) for path in SOURCES}
    return {path: found for path, found in errors.items() if found}


def code_of(path: pathlib.Path) -> str:
    """The source without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        docstring = (
            body[0].value
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr)
            else None
        )
        if isinstance(docstring, ast.Constant) and isinstance(docstring.value, str):
            docstring.value = ''
    return ast.unparse(tree)


def test_text_files_are_utf_8_on_every_machine():
    for path in SOURCES:
        for node in ast.walk(house.parse(path)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == 'read_text'
            ):
                keywords = {keyword.arg for keyword in node.keywords}
                assert 'encoding' in keywords, f'{by_path(path)}, line {node.lineno}'


def misplaced_words(path: pathlib.Path) -> list[str]:
    """Returns an error for each word that belongs to another file, or to none."""
    code = code_of(path)
    errors = []
    if path.name != 'parallel.py':
        for word in ('jax.pmap', 'shard_map(', 'psum', 'pmean', 'axis_index', 'process_allgather'):
            if word in code:
                errors.append(f'{word} belongs to parallel.py')
    if path.name != 'main.py':
        # grain wants to find its own flags parsed. XLA reads its flags from the environment.
        ours = code
        for foreign in ('flags.FLAGS.is_parsed', 'flags.FLAGS.mark_as_parsed', 'XLA_FLAGS'):
            ours = ours.replace(foreign, '')
        if 'DEFINE_' in ours or 'FLAGS' in ours:
            errors.append('flags belong to main.py')
    for default in ('config.get(', 'cfg.get('):
        if default in code:
            errors.append('a default hidden in .get() hides typos')
    for heavy in (
        'import tensorflow\n',
        'import tensorflow as',
        'from tensorflow ',
        'import torch',
    ):
        if heavy in code:
            errors.append(heavy)
    return errors


def test_words_that_live_in_one_place():
    assert errors_of_sources(misplaced_words) == {}


STYLE = (
    house.long_functions,
    house.uncommented_functions,
    house.docstring_errors,
    house.parallel_calls,
)


@pytest.mark.parametrize('check', STYLE, ids=lambda check: check.__name__)
def test_style(check):
    assert errors_of_sources(check) == {}


BLOCK = '    x = 1\n'


@pytest.mark.parametrize(
    'check, good, bad',
    [
        (house.long_functions, 'def f():\n' + 59 * BLOCK, 'def f():\n' + 60 * BLOCK),
        (house.uncommented_functions, 'def f():\n' + 20 * BLOCK, 'def f():\n' + 21 * BLOCK),
        (
            house.uncommented_functions,
            'def f():\n    """Does."""\n    # Why.\n' + 21 * BLOCK,
            '# Why.\ndef f():\n    """Does. # No comment."""\n' + 21 * BLOCK,
        ),
        (house.docstring_errors, '"""A module.\n\nMore\n"""', '"""A module\n\nMore.\n"""'),
        (
            house.docstring_errors,
            f'class A:\n    """{99 * "a"}."""',
            f'class A:\n    """{100 * "a"}."""',
        ),
        (house.parallel_calls, 'a, b = f(x), 1', 'a, b = f(x), g(y)[0]'),
        (house.parallel_calls, 'a, b = f(g(x))', 'def h():\n    a, b = f(x), g(y)'),
    ],
)
def test_style_errors_are_found(tmp_path, check, good, bad):
    for name, source, count in (('good', good, 0), ('bad', bad, 1)):
        path = tmp_path / f'{name}.py'
        path.write_text(source, encoding='utf-8')
        assert len(check(path)) == count, name


def test_every_file_parses():
    for folder in ('segjax', 'benchmarks', 'configs', 'tests', 'launch'):
        assert compileall.compile_dir(REPOSITORY / folder, quiet=1)


def test_driver_meets_pipelines_only_through_the_registry():
    code = (PACKAGE / 'train/driver.py').read_text()
    assert all(module not in code for module in pipelines.REGISTRY.values())
    assert 'models' not in house.imported_rooms(PACKAGE / 'train/driver.py')
    assert 'losses' not in house.imported_rooms(PACKAGE / 'train/driver.py')


@pytest.mark.parametrize('name', pipelines.REGISTRY)
def test_every_pipeline_exports_the_contract(name):
    module = pipelines.load(name)
    assert callable(module.make_stages) and isinstance(module.SCHEMA, dict) and module.__doc__


def test_every_pipeline_file_is_registered():
    files = {
        f'segjax.pipelines.{p.stem}'
        for p in (PACKAGE / 'pipelines').glob('*.py')
        if p.stem != '__init__'
    }
    assert files == set(pipelines.REGISTRY.values())
