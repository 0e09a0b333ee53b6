"""The stored features of clips: names, order, offsets, and boundary strengths with their files."""

import ml_collections
import pytest

from segjax import config as config_lib
from segjax.errors import InputError
from segjax.tasks import clip_features


def settings(**changes):
    """Returns `config.regions` with some values."""
    return ml_collections.ConfigDict(config_lib.defaults('std2p').regions.to_dict() | changes)


@pytest.mark.parametrize(('edges', 'needed'), [('hed', 2), ('structured', 1), ('gradients', 0)])
def test_boundary_strengths_need_their_files(edges, needed):
    with pytest.raises(InputError, match=f'expected: {needed} files'):
        clip_features.region_features(settings(edges=edges, edge_files=('a', 'b', 'c')))


@pytest.mark.parametrize(
    ('changes', 'names'),
    [
        ({}, ('ids_region',)),
        ({'method': 'slic', 'thresholds': (0.2, 0.4)}, ('ids_region',)),
        ({'thresholds': (0.1, 0.2, 0.4)}, ('ids_region_0', 'ids_region_1', 'ids_region_2')),
    ],
)
def test_region_maps_have_the_names_of_their_levels(changes, names):
    features = clip_features.region_features(settings(**changes))
    assert tuple(feature.name for feature in features) == names
    assert clip_features.level_names(settings(**changes)) == names
    assert all(feature.reads == ('image', 'depth') for feature in features)


def test_matches_have_a_row_for_each_multiple_of_the_interval():
    pooling = ml_collections.ConfigDict({'reach': 10, 'interval': 4})
    assert clip_features.all_offsets(pooling) == (-8, -4, 0, 4, 8)
    assert clip_features.matches_of('ids_region_2') == 'region_matches_2'


@pytest.mark.parametrize('value', [(), (0.4, 0.2), (0.2, 0.2), (0.0,), (1.5,), ('a',)])
def test_thresholds_ascend_in_their_range(value):
    assert 'from low to high' in clip_features.thresholds(value)
    assert clip_features.thresholds((0.2, 1.0)) is None
