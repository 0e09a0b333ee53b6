"""Frames with their neighbours: their choice, their content, and their common motion."""

import chex
import layouts
import ml_collections
import numpy as np
import pytest

from segjax import data
from segjax.data import clips, loader, transforms
from segjax.errors import InputError
from segjax.protocol import Input
from segjax.schema import AUGMENT

SIZE = (16, 32)
FEATURES = ('image', 'image_frames', 'intrinsics', 'pose', 'pose_frames')


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    """Returns a data set with a clip of eight frames and a clip of three frames."""
    config = layouts.data_config('streets', '', tmp_path_factory.mktemp('cache'))
    config.world.update(num_train=11, num_val=1, size=SIZE)
    return data.prepare(config)


def wanted(offsets, features=FEATURES, split='train', augment=None):
    return Input(split, 2, features, SIZE, augment, frames=offsets)


@pytest.mark.parametrize('offsets', [(-1, 1), (1,), (-2, -1, 1, 2), (3,)])
def test_rows_are_those_with_all_neighbours(offsets):
    # Out of order, with a gap after frame 3 of clip a.
    places = [
        ('a', 3),
        ('b', 0),
        ('a', 2),
        ('a', 5),
        ('b', 1),
        ('a', 1),
        ('a', 0),
        ('b', 2),
        ('a', 6),
        ('a', 4 + 3),
    ]
    expected = []
    for i, (clip, frame) in enumerate(places):
        near = [
            places.index((clip, frame + o)) if (clip, frame + o) in places else None
            for o in offsets
        ]
        if None not in near:
            expected.append((i, tuple(near)))
    assert clips.rows(*zip(*places), offsets) == expected
    assert expected or offsets == (-2, -1, 1, 2)


def test_an_example_comes_with_its_neighbours(streets):
    source = streets.open_input(wanted((-1, 1)), 'sequence', 'frame', 'name')
    plain = streets.open_split('train', ('image', 'pose', 'name'))
    by_name = {plain[i]['name']: plain[i] for i in range(len(plain))}
    assert len(source) == 6 + 1
    for i in range(len(source)):
        example = source[i]
        clip, frame = example['sequence'], example['frame']
        for place, offset in enumerate((-1, 1)):
            neighbour = by_name[f'{clip}_{frame + offset}']
            np.testing.assert_array_equal(example['image_frames'][place], neighbour['image'])
            np.testing.assert_array_equal(example['pose_frames'][place], neighbour['pose'])
        np.testing.assert_array_equal(example['image'], by_name[example['name']]['image'])


def test_batches_have_the_shapes_that_init_is_shown(streets):
    inputs = wanted((-1, 1))
    settings = ml_collections.ConfigDict({'threads': 0, 'workers': 0, 'prefetch': 2})
    batches = loader.train_iterator(
        streets.open_input(inputs),
        inputs,
        seed=0,
        start_step=0,
        process_index=0,
        process_count=1,
        data_config=settings,
    )
    batch = next(batches)
    batches.close()
    shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert shapes == {
        key: (value.shape, value.dtype) for key, value in loader.zeros(inputs, 2).items()
    }
    chex.assert_shape(batch['image_frames'], (2, 2, *SIZE, 3))
    chex.assert_shape(batch['pose_frames'], (2, 2, 4, 4))


def test_neighbours_move_with_their_frame(streets):
    augment = ml_collections.ConfigDict({key: field.default for key, field in AUGMENT.items()})
    augment.update({'crop': SIZE, 'scale': (1.0, 2.0), 'flip': 0.5, 'brightness': 0.4})
    example = streets.open_input(wanted((1,)))[2]
    alike = {**example, **{f'{key}_frames': example[key][None] for key in ('image', 'pose')}}
    mirror = np.diag([-1.0, 1, 1, 1])
    mirrored = 0
    for seed in range(8):
        moved = transforms.training(alike, np.random.default_rng(seed), augment)
        for key in ('image', 'pose'):
            np.testing.assert_array_equal(moved[f'{key}_frames'][0], moved[key])
        unchanged = np.array_equal(moved['pose'], example['pose'])
        assert unchanged or np.array_equal(moved['pose'], mirror @ example['pose'] @ mirror)
        mirrored += not unchanged
    assert 0 < mirrored < 8


def test_a_clip_of_one_frame_is_an_error(streets):
    with pytest.raises(InputError, match=r'no frame with neighbours at -1, \+1'):
        streets.open_input(wanted((-1, 1), split='val'))


def test_neighbours_without_frames_are_an_error(streets):
    with pytest.raises(InputError, match='image_frames'):
        streets.open_input(wanted(()))
