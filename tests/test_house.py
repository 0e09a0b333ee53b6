"""The house rules of docs/design.md, read off the source: where imports may point, and which words live where."""

import ast
import compileall
import pathlib

import pytest

from segjax import pipelines

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / 'segjax'
SOURCES = sorted(PACKAGE.rglob('*.py'))

# A file may import from its own floor and from lower ones.
FLOOR = {
    'host': 0,
    'ops': 0,
    'losses': 1,
    'metrics': 1,
    'models': 1,
    'data': 1,
    'pretrained': 2,
    'segmenter': 3,
    'monodepth': 3,
    'training': 3,
    'pipelines': 4,
}
UPSTAIRS = {
    'advice',
    'checks',
    'driver',
    'origin',
    'evaluation',
    'journal',
    'report',
    'main',
    'predict',
    'bench',
    'doctor',
    'health',
    'checkpoints',
    'tables',
}
# Modules of segjax/modes/table: each may import from those before it.
TABLES = ('spec', 'cells', 'claims', 'starts', 'plan', 'runs', 'speed', 'numbers', 'text', 'page', 'loop', '__init__')


def room(path: pathlib.Path) -> str:
    """'ops' for segjax/ops/noise.py, 'driver' for segjax/train/driver.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_rooms(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'segjax':
            inner = node.module.split('.')[1:]
            yield from ([inner[0]] if inner else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.split('.')[1] for a in node.names if a.name.startswith('segjax.'))


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    for there in imported_rooms(path):
        if here in FLOOR and there in FLOOR and there != here:
            assert FLOOR[there] <= FLOOR[here], f'{here} imports {there}'
        if here in FLOOR:
            assert there not in UPSTAIRS, f'{here} imports {there}'
        if here == 'pipelines' and path.name != '__init__.py':
            assert there != 'pipelines', 'a pipeline imports a pipeline: what two share moves down'
        if here == 'data':
            assert there not in ('losses', 'metrics', 'models')


def test_every_module_of_tables_has_its_place():
    assert {path.stem for path in (PACKAGE / 'tables').rglob('*.py')} == set(TABLES)


@pytest.mark.parametrize('here', TABLES)
def test_imports_inside_tables_point_back(here):
    for node in ast.walk(ast.parse((PACKAGE / f'tables/{here}.py').read_text())):
        if isinstance(node, ast.ImportFrom):
            for name in (f'{node.module}.{alias.name}' for alias in node.names):
                if name.startswith('segjax.modes.table'):
                    there = name.removeprefix('segjax.modes.table').split('.')[1:2]
                    assert set(there) & set(TABLES[: TABLES.index(here)]), f'{here} imports {name}'


def code_of(path: pathlib.Path) -> str:
    """The source without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        docstring = body[0].value if isinstance(body, list) and body and isinstance(body[0], ast.Expr) else None
        if isinstance(docstring, ast.Constant) and isinstance(docstring.value, str):
            docstring.value = ''
    return ast.unparse(tree)


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_text_files_are_utf_8_on_every_machine(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'read_text':
            assert 'encoding' in {keyword.arg for keyword in node.keywords}, f'line {node.lineno}'


@pytest.mark.parametrize('path', SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_words_that_live_in_one_place(path):
    code = code_of(path)
    if path.name != 'parallel.py':
        for word in ('jax.pmap', 'shard_map(', 'psum', 'pmean', 'axis_index', 'process_allgather'):
            assert word not in code, f'{word} belongs to parallel.py'
    if path.name != 'main.py':
        # grain has flags of its own, which it wants to find parsed; XLA reads its flags from the environment.
        ours = code
        for foreign in ('flags.FLAGS.is_parsed', 'flags.FLAGS.mark_as_parsed', 'XLA_FLAGS'):
            ours = ours.replace(foreign, '')
        assert 'DEFINE_' not in ours and 'FLAGS' not in ours, 'flags belong to main.py'
    for default in ('config.get(', 'cfg.get('):
        assert default not in code, 'a default hidden in .get() hides typos'
    for heavy in ('import tensorflow\n', 'import tensorflow as', 'from tensorflow ', 'import torch'):
        assert heavy not in code


def test_every_file_parses():
    for folder in ('segjax', 'configs', 'tests', 'launch'):
        assert compileall.compile_dir(REPOSITORY / folder, quiet=1, force=True)


def test_driver_meets_pipelines_only_through_the_registry():
    code = (PACKAGE / 'driver.py').read_text()
    assert all(module not in code for module in pipelines.REGISTRY.values())
    assert 'models' not in set(imported_rooms(PACKAGE / 'driver.py'))
    assert 'losses' not in set(imported_rooms(PACKAGE / 'driver.py'))


@pytest.mark.parametrize('name', pipelines.REGISTRY)
def test_every_pipeline_exports_the_contract(name):
    module = pipelines.load(name)
    assert callable(module.make_stages) and isinstance(module.SCHEMA, dict) and module.__doc__


def test_every_pipeline_file_is_registered():
    files = {f'segjax.pipelines.{p.stem}' for p in (PACKAGE / 'pipelines').glob('*.py') if p.stem != '__init__'}
    assert files == set(pipelines.REGISTRY.values())
