"""Pictures of an evaluation: padding, other sizes, stages without labels or without images."""

import types

import numpy as np
import pytest
from fakes import SPEC

from segjax.protocol import Input
from segjax.train import evaluation

SIZE, FILLED, LABEL = (
    (32, 64),
    (32, 61),
    (20, 38),
)  # the split's largest label, of which SPEC knows, is 40x70


class OneExample:
    """A source with one letterboxed image and a smaller label."""

    def __init__(self, *features):
        rng = np.random.default_rng(0)
        height, width = LABEL
        example = {
            'image': rng.integers(0, 256, (height, width, 3), np.uint8),
            'label': rng.integers(0, 5, LABEL).astype(np.uint8),
            'name': b'street',
        }
        self.example = {key: example[key] for key in (*features, 'name')}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.example


def entry(features, render):
    run = types.SimpleNamespace(spec=SPEC)
    inputs = Input('val', 1, features, SIZE)
    return evaluation._entry(run, inputs, OneExample(*features), 0, 0.5, render, {}, None)


def canvas(height, width):
    return np.arange(height * width * 3).reshape(1, height, width, 3).astype(np.uint8)


def test_pictures_lose_their_padding_and_those_of_another_size_stay_whole():
    rendered = {
        'map': canvas(40, 70),
        'scene': canvas(*SIZE),
        'stack': canvas(96, 64),
        'tiny': canvas(8, 16),
    }
    pictures = entry(('image', 'label'), lambda *_: rendered)['pictures']
    assert list(pictures) == ['image', *rendered]
    shapes = {panel: picture.shape[:2] for panel, picture in pictures.items()}
    assert shapes == {
        'image': FILLED,
        'map': LABEL,
        'scene': FILLED,
        'stack': (96, 64),
        'tiny': (8, 16),
    }
    np.testing.assert_array_equal(pictures['stack'], rendered['stack'][0])
    np.testing.assert_array_equal(pictures['map'], rendered['map'][0, : LABEL[0], : LABEL[1]])


@pytest.mark.parametrize(
    'features, expected', [(('image',), {'image', 'scene'}), (('label',), {'scene'})]
)
def test_stages_without_labels_or_without_images_have_pictures(features, expected):
    example = entry(features, lambda *_: {'scene': canvas(96, 64)})
    assert set(example['pictures']) == expected and example['pictures']['scene'].shape == (
        96,
        64,
        3,
    )
