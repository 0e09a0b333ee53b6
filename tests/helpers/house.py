"""The rooms of segjax and the arrows between them, read off the source.

`python -m tests.helpers.house` prints them.

A room is a file or a folder directly below segjax/. An arrow is an import from one room to another,
wherever in a file it stands. Rooms may import only rooms that come earlier in `ROOMS`.
"""

import ast
import pathlib
from collections.abc import Iterator

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / 'segjax'
SOURCES = sorted(PACKAGE.rglob('*.py'))

ROOMS = (
    # Contracts.
    'errors',
    'protocol',
    'schema',
    'spec',
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


def room(path: pathlib.Path) -> str:
    """Returns the room of a file.

    segjax/ops/noise.py is in 'ops', segjax/protocol.py in 'protocol', segjax/__init__.py in ''.
    """
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py').removeprefix('__init__')


def imported_modules(path: pathlib.Path) -> Iterator[str]:
    """Yields the full names that a file imports, at its top and inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
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
    found = set()
    for path in SOURCES:
        here = room(path)
        found |= {(here, there) for there in imported_rooms(path) if here and there != here}
    return found


def floors(found: set[tuple[str, str]]) -> dict[str, int]:
    """Returns the floor of each room.

    A room without imports is on floor 0. Any other room is one above the highest that it imports.

    Raises:
      ValueError: rooms import each other in a circle.
    """
    floor: dict[str, int] = {}
    while len(floor) < len(ROOMS):
        below = {
            name: {there for here, there in found if here == name}
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


def main() -> None:
    """Prints the rooms by floor, and counts the arrows."""
    found = arrows()
    floor = floors(found)
    for level in range(max(floor.values()) + 1):
        print(f'floor {level}  ' + ' '.join(name for name in ROOMS if floor[name] == level))
    up = [(here, there) for here, there in found if ROOMS.index(there) > ROOMS.index(here)]
    print(
        f'{len(ROOMS)} rooms, {max(floor.values()) + 1} floors, {len(found)} arrows, {len(up)} up'
    )


if __name__ == '__main__':
    main()
