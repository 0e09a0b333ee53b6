"""The rooms of segjax and the arrows between them, read off the source.

`python -m tests.helpers.house` prints them.

A room is a file or a folder directly below segjax/. An arrow is an import from one room to another,
wherever in a file it stands. Rooms may import only rooms that come earlier in `ROOMS`.
"""

import ast
import functools
import io
import pathlib
import tokenize
from collections.abc import Iterator

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / 'segjax'
SOURCES = sorted(PACKAGE.rglob('*.py'))

ROOMS = (
    # Contracts.
    'errors',
    'schema',
    'spec',
    'protocol',
    # Parts without a paper.
    'core',
    'ops',
    'losses',
    'metrics',
    'models',
    'data',
    'report',
    'pretrained',
    # The papers.
    'tasks',
    'pipelines',
    # Running them.
    'config',
    'train',
    'modes',
    'main',
)
"""All rooms, from the ground up."""

TABLE = (
    'spec',
    'cells',
    'claims',
    'starts',
    'plan',
    'runs',
    'speed',
    'numbers',
    'text',
    'page',
    'loop',
    '__init__',
)
"""Modules of segjax/modes/table. Each may import only earlier ones."""

MAX_FUNCTION_LINES = 60
MAX_UNCOMMENTED_LINES = 20
MAX_LINE_LENGTH = 100

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    """Returns the syntax tree of a file. Callers must not change the tree."""
    return ast.parse(path.read_text(encoding='utf-8'))


def room(path: pathlib.Path) -> str:
    """Returns the room of a file.

    segjax/ops/noise.py is in 'ops', segjax/protocol.py in 'protocol', segjax/__init__.py in ''.
    """
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py').removeprefix('__init__')


def imported_modules(path: pathlib.Path) -> Iterator[str]:
    """Yields the full names that a file imports, at its top and inside functions."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f'{node.module}.{alias.name}'
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def imported_rooms(path: pathlib.Path) -> set[str]:
    """Returns the rooms that a file imports, its own included."""
    names = (name.split('.') for name in imported_modules(path))
    return {parts[1] for parts in names if parts[0] == 'segjax' and len(parts) > 1}


def arrows() -> set[tuple[str, str]]:
    """Returns (importing room, imported room) of all imports between rooms."""
    pairs = set()
    for path in SOURCES:
        importing = room(path)
        for imported in imported_rooms(path):
            if importing and imported != importing:
                pairs.add((importing, imported))
    return pairs


def floors(pairs: set[tuple[str, str]]) -> dict[str, int]:
    """Returns the floor of each room.

    A room without imports is on floor 0. Any other room is one above the highest that it imports.

    Raises:
      ValueError: rooms import each other in a circle.
    """
    floor: dict[str, int] = {}
    while len(floor) < len(ROOMS):
        below = {
            name: {imported for importing, imported in pairs if importing == name}
            for name in ROOMS
            if name not in floor
        }
        placed = {
            name: max((floor[r] + 1 for r in rooms), default=0)
            for name, rooms in below.items()
            if rooms <= set(floor)
        }
        if not placed:
            raise ValueError(f'rooms import each other in a circle: {sorted(below)}')
        floor |= placed
    return floor


# --- style ----------------------------------------------------------------------------------------


def functions(path: pathlib.Path) -> Iterator[Function]:
    """Yields all functions of a file, with methods and functions inside functions."""
    for node in ast.walk(parse(path)):
        if isinstance(node, Function):
            yield node


def long_functions(path: pathlib.Path) -> list[str]:
    """Returns an error for each function of more than MAX_FUNCTION_LINES lines.

    The docstring counts. Decorators do not.
    """
    errors = []
    for function in functions(path):
        length = function.end_lineno - function.lineno + 1
        if length > MAX_FUNCTION_LINES:
            errors.append(f'line {function.lineno}: {function.name} has {length} lines')
    return errors


def uncommented_functions(path: pathlib.Path) -> list[str]:
    """Returns an error for each function without a comment in more than MAX_UNCOMMENTED_LINES.

    The docstring does not count.
    """
    reader = io.StringIO(path.read_text(encoding='utf-8')).readline
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(reader)
        if token.type == tokenize.COMMENT
    }
    errors = []
    for function in functions(path):
        first = function.body[0]
        start = first.end_lineno + 1 if ast.get_docstring(function) else first.lineno
        lines = range(start, function.end_lineno + 1)
        if len(lines) > MAX_UNCOMMENTED_LINES and comments.isdisjoint(lines):
            errors.append(f'line {function.lineno}: {function.name} has no comment')
    return errors


def docstring_errors(path: pathlib.Path) -> list[str]:
    """Returns an error for each docstring whose first line is too long or has no full stop."""
    errors = []
    for node in ast.walk(parse(path)):
        if not isinstance(node, Function | ast.ClassDef | ast.Module):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        first = docstring.partition('\n')[0]
        name = getattr(node, 'name', 'the module')
        if not first.endswith('.'):
            errors.append(f'{name}: no full stop after {first!r}')
        if len(first) > MAX_LINE_LENGTH:
            errors.append(f'{name}: more than {MAX_LINE_LENGTH} characters in {first!r}')
    return errors


def parallel_calls(path: pathlib.Path) -> list[str]:
    """Returns an error for each assignment of several calls to several names at once."""
    errors = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            unpacked = isinstance(node.targets[0], ast.Tuple)
            calls = [value for value in node.value.elts if _has_call(value)]
            if unpacked and len(calls) > 1:
                errors.append(f'line {node.lineno}: {ast.unparse(node)}')
    return errors


def _has_call(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(node))


# --- the command ----------------------------------------------------------------------------------


def main() -> None:
    """Prints the rooms by floor, and counts the arrows."""
    pairs = arrows()
    floor = floors(pairs)
    for level in range(max(floor.values()) + 1):
        print(f'floor {level}  ' + ' '.join(name for name in ROOMS if floor[name] == level))
    up = [pair for pair in pairs if ROOMS.index(pair[1]) > ROOMS.index(pair[0])]
    print(
        f'{len(ROOMS)} rooms, {max(floor.values()) + 1} floors, {len(pairs)} arrows, {len(up)} up'
    )


if __name__ == '__main__':
    main()
