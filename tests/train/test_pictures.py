"""Pictures of an evaluation: the forms of `Stage.render`, in files, report and TensorBoard."""

import json
import types

import cv2
import jax.numpy as jnp
import numpy as np
import plain_pipeline
import pytest
from fakes import SPEC
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segjax import config as config_lib
from segjax import pipelines
from segjax.protocol import Input, Picture
from segjax.tasks.evaluation import of_images
from segjax.train import driver, pictures

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

SIZE = (32, 64)
FILLED = (32, 61)
LABEL = (20, 38)
"""Size of the only label. The largest label of the split, of which SPEC knows, is 40x70."""


class OneExample:
    """A source with one letterboxed image and a smaller label."""

    def __init__(self, *features):
        rng = np.random.default_rng(0)
        height, width = LABEL
        example = {
            'image': rng.integers(0, 256, (height, width, 3), np.uint8),
            'label': rng.integers(0, 5, LABEL).astype(np.uint8),
            'name': 'street',
        }
        self.example = {key: example[key] for key in (*features, 'name')}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.example


def panels_of(features, render):
    """Returns the panels of the example as {name: Panel}."""
    run = types.SimpleNamespace(spec=SPEC, spec_of=lambda inputs: SPEC)
    inputs = Input('val', 1, features, SIZE)

    def ordered(*arguments):
        return pictures._in_order(render(*arguments))

    example = pictures._entry(run, inputs, OneExample(*features), 0, 0.5, ordered, {}, None)
    assert (example['name'], example['index'], example['score']) == ('street', 0, 0.5)
    return example['pictures']


def canvas(*shape):
    return np.arange(np.prod(shape) * 3).reshape(1, *shape, 3).astype(np.uint8)


# --- one example ----------------------------------------------------------------------------------


def test_a_picture_loses_its_padding_and_a_plain_array_is_shown_whole():
    """The shape of a plain array says nothing: also that of the images and of the labels."""

    def render(state, batch, keys):
        return {
            'map': Picture(canvas(40, 70), batch['label_size']),
            'scene': Picture(canvas(*SIZE), batch['size']),
            'of_image_shape': canvas(*SIZE),
            'of_label_shape': canvas(40, 70),
        }

    panels = panels_of(('image', 'label'), render)
    assert list(panels) == ['image', 'map', 'scene', 'of_image_shape', 'of_label_shape']
    shapes = {name: panel.pixels.shape[:2] for name, panel in panels.items()}
    assert shapes == {
        'image': FILLED,
        'map': LABEL,
        'scene': FILLED,
        'of_image_shape': SIZE,
        'of_label_shape': (40, 70),
    }
    np.testing.assert_array_equal(panels['map'].pixels, canvas(40, 70)[0, : LABEL[0], : LABEL[1]])
    np.testing.assert_array_equal(panels['of_image_shape'].pixels, canvas(*SIZE)[0])


@pytest.mark.parametrize(
    'features, expected', [(('image',), ['image', 'scene']), (('label',), ['scene'])]
)
def test_stages_without_labels_or_without_images_have_pictures(features, expected):
    assert list(panels_of(features, lambda *_: {'scene': canvas(96, 64)})) == expected


@pytest.mark.parametrize(
    'pixels, shape, first',
    [
        (np.full((2, 4, 6), 7, np.uint8), (4, 6, 1), 7),
        (np.full((2, 4, 6, 1), 7, np.uint8), (4, 6, 1), 7),
        (np.ones((2, 4, 6), bool), (4, 6, 1), 255),
        (np.ones((2, 5, 4, 6, 1), bool), (5, 4, 6, 1), 255),
        (np.full((2, 5, 4, 6, 3), 7, np.uint8), (5, 4, 6, 3), 7),
        (np.full((2, 3, 5, 4, 6, 3), 7, np.uint8), (3, 5, 4, 6, 3), 7),
    ],
)
def test_forms_of_pixels(pixels, shape, first):
    panel = pictures.first_panel(pixels)
    assert panel.pixels.shape == shape and panel.pixels.dtype == np.uint8
    assert np.all(panel.pixels == first)
    cut = pictures.first_panel(Picture(pixels, np.array([[3, 2], [1, 1]])))
    assert cut.pixels.shape == (*shape[:-3], 3, 2, shape[-1])


@pytest.mark.parametrize(
    'pixels',
    [np.zeros((1, 4, 6, 3)), np.zeros((1, 4, 6, 2), np.uint8), np.zeros((1, 4), np.uint8)],
    ids=['float', 'two channels', 'no map'],
)
def test_other_pixels_are_refused(pixels):
    with pytest.raises(TypeError, match=r'pictures are uint8 or bool .* got .*\[1, 4'):
        pictures.first_panel(pixels)


def test_captions_name_classes_and_keep_numbers():
    """An id of no class, such as that of a box without an object, stays a number."""
    values = {
        'true class': np.array([2, 0]),
        'class': np.array([[0, 5, 1, -1]], np.int8),
        'class accuracy': np.array([2]),
        'mean class': np.array([1.5]),
    }
    panel = pictures.first_panel(Picture(canvas(8, 8), values=values), ('road', 'car', 'sky'))
    assert panel.values == {
        'true class': 'sky',
        'class': ['road', 5, 'car', -1],
        'class accuracy': 2,
        'mean class': 1.5,
    }
    bare = pictures.first_panel(Picture(canvas(8, 8), values=values)).values
    assert bare['true class'] == 2 and bare['class'] == [0, 5, 1, -1]


def test_the_legend_of_a_picture_keeps_its_colours_and_its_order():
    legend = {'wrong pixel': (220, 40, 40), 'box': (0, 220, 220)}

    def render(state, batch, keys):
        return {'a': Picture(canvas(8, 8), legend=legend)}

    kept = panels_of(('image',), render)['a'].legend
    assert list(kept.items()) == [('wrong pixel', [220, 40, 40]), ('box', [0, 220, 220])]


def test_the_caption_of_an_example_has_the_classes_of_its_data_set():
    def render(state, batch, keys):
        return {'a': Picture(canvas(8, 8), values={'predicted class': np.array([3])})}

    assert panels_of(('image',), render)['a'].values == {'predicted class': SPEC.classes.names[3]}


def test_plain_arrays_of_a_task_get_the_size_of_the_images_and_pictures_keep_theirs():
    own = Picture(canvas(8, 8), np.array([[2, 2]]))
    sized = of_images({'a': canvas(8, 8), 'b': own}, {'size': np.array([[5, 6]])})
    assert sized['b'] is own and list(sized) == ['a', 'b']
    assert pictures.first_panel(sized['a']).pixels.shape == (5, 6, 3)


def test_the_order_of_panels_and_of_numbers_survives_the_compiler():
    def render():
        return {
            'z': Picture(jnp.zeros((1, 2, 2, 3)), None, {'y': jnp.ones(1), 'x': jnp.ones(1)}),
            'a': jnp.zeros(1),
        }

    painted = pictures.jax.jit(lambda: pictures._in_order(render()))()
    assert list(painted) == ['z', 'a'] and list(painted['z'].values) == ['y', 'x']


@pytest.mark.parametrize(
    'num, count, positions', [(10, 4, [0, 2, 5, 7]), (3, 8, [0, 1, 2]), (5, 1, [0])]
)
def test_spread(num, count, positions):
    assert pictures.spread(num, count) == positions


# --- a run without images, labels and classes -----------------------------------------------------


@pytest.fixture(scope='module')
def plain_run(tmp_path_factory):
    pipelines.REGISTRY['plain'] = 'plain_pipeline'
    config = config_lib.defaults('plain')
    config_lib.update(
        config,
        augment=dict(crop=(32, 64)),
        data=dict(threads=1, world=dict(num_train=16, num_val=10, size=(32, 64))),
        train=dict(batch_size=8, num_steps=4),
        evaluate=dict(batch_size=8),
        logging=dict(log_every=2, num_pictures=3),
    )
    workdir = tmp_path_factory.mktemp('plain') / 'run'
    scores = driver.train(config, str(workdir))
    return config, workdir, scores


def stored(workdir, rank, panel):
    path = workdir / f'mean/pictures/sample_{rank:02d}/{panel}.png'
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture[..., ::-1] if picture.ndim == 3 else picture


def test_it_trains_evaluates_and_is_scored_again(plain_run):
    config, workdir, scores = plain_run
    assert scores['mean']['distance'] > 0
    again = driver.evaluate(config, str(workdir))
    assert again['mean']['distance'] == scores['mean']['distance']


def test_the_first_examples_are_shown_without_a_rank(plain_run):
    _, workdir, _ = plain_run
    folders = sorted(path.name for path in (workdir / 'mean/pictures').iterdir())
    assert folders == ['sample_00', 'sample_01', 'sample_02']
    info = json.loads((workdir / 'mean/pictures/sample_01/info.json').read_text())
    assert info['index'] == 1 and info['score'] is None and info['name']
    assert info['panels'] == ['zebra', 'cut', 'strip', 'grid', 'grey', 'one_channel', 'mask']


def test_every_form_is_stored_losslessly(plain_run):
    _, workdir, _ = plain_run
    batch = {'index': jnp.array([1])}
    painted = plain_pipeline.render(None, batch, {})
    rgb = np.asarray(painted['zebra'][0])
    np.testing.assert_array_equal(stored(workdir, 1, 'zebra'), rgb)
    np.testing.assert_array_equal(stored(workdir, 1, 'cut'), rgb[:2, :5])
    np.testing.assert_array_equal(stored(workdir, 1, 'grey'), painted['grey'][0])
    np.testing.assert_array_equal(stored(workdir, 1, 'one_channel'), painted['grey'][0])
    np.testing.assert_array_equal(stored(workdir, 1, 'mask'), 255 * (painted['grey'][0] > 20))
    # Three pictures of 2x5, each without padding, with a gap of two white pixels.
    strip = stored(workdir, 1, 'strip')
    assert strip.shape == (2, 3 * 5 + 2 * 2, 3)
    for place in range(3):
        tile = strip[:, 7 * place : 7 * place + 5]
        np.testing.assert_array_equal(tile, rgb[:2, :5] + np.uint8(place))
    assert np.all(strip[:, 5:7] == 255)
    # Two rows of three pictures of 6x8.
    grid = stored(workdir, 1, 'grid')
    assert grid.shape == (2 * 6 + 2, 3 * 8 + 2 * 2, 3)
    np.testing.assert_array_equal(grid[8:14, 20:28], rgb + np.uint8(12))
    assert np.all(grid[6:8] == 255)


def test_numbers_of_pictures_are_stored_and_shown(plain_run):
    _, workdir, _ = plain_run
    info = json.loads((workdir / 'mean/pictures/sample_01/info.json').read_text())
    assert info['captions'] == {
        'cut': {'accuracy': 0.25, 'PSNR': 22.0},
        'strip': {'distance': [1.0, 3.0, None], 'best': 2},
    }
    assert info['columns'] == {'strip': 3, 'grid': 3}
    page = (workdir / 'report.html').read_text()
    assert 'accuracy 25.00 %, PSNR 22 dB' in page and 'best 2' in page
    assert '<span>distance 1</span><span>distance 3</span><span>distance -</span>' in page
    assert 'is missing' not in page


def test_tensorboard_has_every_picture(plain_run):
    _, workdir, _ = plain_run
    board = EventAccumulator(str(workdir / 'mean/tensorboard'), {'images': 0})
    board.Reload()
    tags = set(board.Tags()['images'])
    assert {f'sample_{rank}/{panel}' for rank in range(3) for panel in ('strip', 'mask')} <= tags
    image = board.Images('sample_1/strip')[0]
    assert (image.height, image.width) == (2, 19)
    png = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(png[..., ::-1], stored(workdir, 1, 'strip'))
