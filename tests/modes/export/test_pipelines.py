"""All shipped pipelines: each use of each stage is exported, and equals the run."""

import export_differences
import house
import pytest

pytest.importorskip('flatbuffers', reason='jax.export writes files with it')

CONFIGS = sorted((house.REPOSITORY / 'configs').glob('*.py'))
WITHOUT = ('shape_classifier',)
"""Pipelines of which no stage predicts."""


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_process_without_segjax_computes_the_outputs_of_the_run(path, tmp_path):
    measured = list(export_differences.measure_all(str(path), str(tmp_path)))
    assert bool(measured) != (path.stem in WITHOUT)
    for each in measured:
        assert each.facts.batch is None, 'any number of examples'
        for name, difference in each.differences.items():
            assert difference.scale > 0, f'{name} is 0 everywhere'
            assert difference.largest <= 1e-4 * difference.scale, name
