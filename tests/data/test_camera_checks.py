"""Depth, cameras and poses that make no sense are named with their file."""

import types

import numpy as np
import pytest
from contract_data import SIZE, Figures

from segjax.data.builders.base import Item
from segjax.data.camera_checks import check_geometry
from segjax.errors import InputError

TURNED = np.float32([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
GOOD = {
    'image': np.zeros((2, 4, 6, 3), np.uint8),
    'depth': np.zeros((2, 4, 6), np.float32),
    'intrinsics': np.float32([[[12, 0, 2.5], [0, 12, 1.5], [0, 0, 1]]] * 2),
    'pose': np.stack([TURNED, np.eye(4, dtype=np.float32)]),
    'name': 'a',
}


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def test_good_geometry_passes():
    check_geometry(GOOD, 'a.png')
    check_geometry({'intrinsics': 1e-3 * np.diag([1, -1, 1000.0])}, 'of a tiny map, flipped')


@pytest.mark.parametrize(
    'wrong, message',
    [
        ({'depth': with_value(GOOD['depth'], (1, 2, 3), np.nan)}, r'nan at \(1, 2, 3\)'),
        ({'depth': with_value(GOOD['depth'], (0, 0, 0), np.inf)}, 'inf'),
        ({'depth': GOOD['depth'] - 1}, '48 such pixels'),
        ({'intrinsics': with_value(GOOD['intrinsics'], (1, 1), [6.0, 0.0, 1.5])}, 'singular'),
        ({'intrinsics': with_value(GOOD['intrinsics'], (1, 0, 0), np.nan)}, 'finite'),
        (
            {'intrinsics': with_value(GOOD['intrinsics'], (0, 2), [0, 0, 0])},
            r'\(0, 0, 1\) as the last row',
        ),
        ({'intrinsics': np.ones((2, 4))}, r'\[..., 3, 3\]'),
        ({'pose': 2 * GOOD['pose']}, r'\(0, 0, 0, 1\)'),
        (
            {'pose': with_value(GOOD['pose'], (0, slice(3), 0), -GOOD['pose'][0, :3, 0])},
            'no rotation',
        ),
    ],
)
def test_bad_geometry_is_named(wrong, message):
    with pytest.raises(InputError, match=message) as error:
        check_geometry({**GOOD, **wrong}, 'clip/a.png')
    assert error.value.where == f'{next(iter(wrong))} of clip/a.png'


def test_depth_of_another_size_than_its_image_is_named():
    check_geometry(GOOD, 'a.png', size=(4, 6))
    with pytest.raises(InputError, match='6 x 4 pixels') as error:
        check_geometry(GOOD, 'clip/a.png', size=(8, 12))
    assert error.value.where == 'depth of clip/a.png'
    assert '12 x 8 pixels' in error.value.expected and 'resize' in error.value.fix


class WithDepth(Figures):
    """Figures with depth of a size that may be wrong."""

    def __init__(self, size):
        super().__init__(types.SimpleNamespace(name='figures'))
        self.size = size

    def examine(self, item):
        inspection = super().examine(item)
        inspection.record.features['depth'] = np.ones(self.size, np.float32)
        return inspection


def test_every_data_set_names_the_file_of_depth_of_another_size():
    item = Item('train', 'clip_7', {'depth': 'depth/7.png'}, sequence='clip_7', frame=1)
    assert not WithDepth(SIZE).inspect(item).problems
    problems = WithDepth((16, 32)).inspect(item).problems
    assert [problem.where for problem in problems] == ['depth of clip_7 in depth/7.png']
    assert '32 x 16 pixels' in problems[0].got
