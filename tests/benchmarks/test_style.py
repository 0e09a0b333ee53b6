"""The house rules hold for the benchmarks, too."""

import house
import pytest
from house import REPOSITORY

SOURCES = sorted((REPOSITORY / 'benchmarks').glob('*.py'))
STYLE = (
    house.long_functions,
    house.uncommented_functions,
    house.docstring_errors,
    house.parallel_calls,
)
FOR_TORCH = ('serving', 'torch_nets', 'torch_worker', 'torch_data_worker')
"""Modules that torch's Python imports."""


@pytest.mark.parametrize('check', STYLE, ids=lambda check: check.__name__)
@pytest.mark.parametrize('path', SOURCES, ids=lambda path: path.stem)
def test_style(path, check):
    assert check(path) == []


@pytest.mark.parametrize('name', FOR_TORCH)
def test_modules_for_torch_import_nothing_of_segjax(name):
    imported = list(house.imported_modules(REPOSITORY / f'benchmarks/{name}.py'))
    assert not any(module.split('.')[0] in ('segjax', 'jax') for module in imported)
    ours = {m.split('.')[1] for m in imported if m.startswith('benchmarks.')}
    assert ours <= set(FOR_TORCH)
