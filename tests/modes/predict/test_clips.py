"""Tests the pooling of clips: equal to pooling by hand, bounded, repaired, resumed, refused."""

import dataclasses
import itertools
import json
import weakref

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from predicting import CLASSES, contents, make_stage, read, save

from segjax import config as config_lib
from segjax.data import correspondences, flow, regions
from segjax.data.image_files import ImageSource
from segjax.errors import InputError
from segjax.modes.predict import clip_settings, clips, outputs, plan
from segjax.modes.predict.assembly import WholeAssembly
from segjax.modes.predict.batches import Waiting, all_tiles, predict_tiles
from segjax.protocol import Prediction
from segjax.schema import CLIP, POOLING_USES
from segjax.spec import IGNORE, ClassMap, ClassSpec, DataSpec
from segjax.tasks import clip_pooling

SIZE = (48, 72)
BLOCK = (16, 24)
NUM_BLOCKS = 9
SPEC = DataSpec(
    name='toy',
    classes=CLASSES,
    features=('image', 'label', 'depth'),
    num_examples={'val': 1},
    max_size={'val': (16, 24)},
    class_pixels={'val': (1, 1, 1)},
    void_pixels={'val': 0},
)

pytestmark = pytest.mark.usefixtures('in_threads')


def block_map():
    """Returns the block of each pixel, [H, W]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return y // BLOCK[0] * 3 + x // BLOCK[1]


TRUTH = np.array(CLASSES.ids)[block_map() % 3]
"""Ids of the classes of the static scene."""


def static_frame(number):
    """Returns a frame of a static scene. Blue is the number of the frame, red the block."""
    blocks = block_map()
    return np.stack([20 * blocks, blocks * 97 % 256, np.full(SIZE, number)], -1).astype(np.uint8)


def mistaken(state, images):
    """Predicts the class of each block. In each frame, a third of the blocks is wrong."""
    blocks = jnp.asarray(images[..., 0], jnp.int32) // 20
    frames = jnp.asarray(images[..., 2], jnp.int32)
    labels = (blocks + ((blocks + frames) % 3 == 0)) % 3
    return jnp.stack([labels == each for each in range(3)], -1).astype(jnp.float32)


def channels(state, images):
    """Predicts the colour channels as class probabilities."""
    return jnp.asarray(images, jnp.float32) / 255


def moving_frame(number):
    """Returns a frame of a textured rectangle that moves in front of texture."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 18, 3), np.uint8)
    image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    patch = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (24, 20))
    image[10:30, 8 + 2 * number : 32 + 2 * number] = patch
    return image


def write_clip(folder, frame_of, number, first=0):
    """Writes frames as images whose names do not sort as their numbers."""
    for place in range(number):
        save(folder / f'walk_{first + place}_left.png', frame_of(place))
    return folder


def write_video(path, number):
    """Writes frames of a static scene as a video."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, SIZE[::-1])
    for place in range(number):
        writer.write(static_frame(place)[..., ::-1])
    writer.release()
    return path


def pooling(use='full', **settings):
    """Returns values of config.predict with a pooling whose window reaches over five frames."""
    values = dict(use=use, interval=1, reach=2, **settings)
    return dict(pooling=values)


def accuracy(folder, number, prefix='walk_', suffix='_left'):
    """Returns the share of right pixels in each frame."""
    frames = [read(folder / f'ids/{prefix}{place}{suffix}.png') for place in range(number)]
    return np.array([(ids == TRUTH).mean() for ids in frames])


@pytest.fixture
def run(toy):
    return toy(make_stage(predict=channels))


@pytest.fixture
def wrong_run(toy):
    return toy(make_stage(predict=mistaken))


# --- values ---------------------------------------------------------------------------------------


def stored_probabilities(frames, config):
    """Returns the class probabilities of frames as the net gives them, [N, H, W, C]."""
    cut = plan.make_predict_plan(config, SPEC)
    source = ImageSource(None, 'frame')
    assemblies = [WholeAssembly(source, frame, cut, 3) for frame in frames]
    for assembly, place, values in predict_tiles(
        lambda images: channels(None, images), cut, all_tiles(assemblies), Waiting()
    ):
        assembly.add(place, values)
    return [np.moveaxis(assembly.probabilities, 0, -1) for assembly in assemblies]


def pooled_by_hand(frames, scores, target, use, method, interval, steps, direction):
    """Returns the pooled scores of a target from its window, computed with `pool_clip`."""
    last = steps if direction == 'both' else 0
    places = [target + interval * step for step in range(-steps, last + 1)]
    places = [place for place in places if 0 <= place < len(frames)]
    compute = regions.region_feature(method, num_regions=550).compute
    window = [frames[place] for place in places]
    pairs = list(itertools.pairwise(window))
    onward = [flow.dense_flow(first, second) for first, second in pairs]
    back = [None, *(flow.dense_flow(second, first) for first, second in pairs)]
    return clip_pooling.pool_clip(
        [scores[place] for place in places],
        [compute({'image': image}) for image in window],
        onward,
        back,
        places.index(target),
        550,
        mode=use,
    )


@pytest.mark.parametrize(
    ('use', 'method', 'interval', 'direction', 'views'),
    [
        ('superpixel', 'felzenszwalb', 1, 'both', {}),
        ('full', 'hierarchy', 1, 'both', {}),
        ('full', 'slic', 2, 'past', {}),
        ('pixel', 'slic', 2, 'both', {'flip': True, 'scales': (1.0, 0.75)}),
    ],
)
def test_a_clip_is_pooled_as_by_hand(tmp_path, run, use, method, interval, direction, views):
    frames = [moving_frame(number) for number in range(7)]
    write_clip(tmp_path / 'in', moving_frame, 7, first=7)
    settings = pooling(use, region_method=method, flow_method='dis', direction=direction)
    settings['pooling'] |= dict(interval=interval, reach=2 * interval)
    summary = run.predict(tmp_path / 'in', tmp_path / 'out', **settings, **views)
    assert (summary['images'], summary['skipped'], summary['others']) == (7, 0, [])
    assert summary['megapixels'] > 0
    assert 0 < summary['waiting_seconds'] < summary['seconds']
    config = run.config.copy_and_resolve_references()
    config_lib.update(config, predict=views)
    scores = stored_probabilities(frames, config)
    for target in range(7):
        window = (interval, 2, direction)
        expected = pooled_by_hand(frames, scores, target, use, method, *window)
        ids = read(tmp_path / f'out/ids/walk_{7 + target}_left.png')
        assert (ids == np.array(CLASSES.ids)[expected.argmax(-1)]).mean() > 0.999
        confidence = read(tmp_path / f'out/confidence/walk_{7 + target}_left.png')
        assert np.abs(confidence - 255 * expected.max(-1)).max() <= 0.51


def test_frames_of_a_static_clip_correct_each_other(tmp_path, wrong_run):
    write_clip(tmp_path / 'in', static_frame, 7)
    right = {}
    for use in POOLING_USES:
        wrong_run.predict(tmp_path / 'in', tmp_path / use, **pooling(use))
        right[use] = accuracy(tmp_path / use, 7)
    # A mistake covers whole regions, so superpixels alone repair nothing.
    np.testing.assert_allclose(right['none'], 2 / 3)
    np.testing.assert_allclose(right['superpixel'], 2 / 3, atol=0.02)
    assert (right['full'] > 0.99).all() and (right['pixel'] > 0.95).all()


def test_past_frames_alone_correct_later_frames(tmp_path, wrong_run):
    write_clip(tmp_path / 'in', static_frame, 6)
    wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling(direction='past'))
    right = accuracy(tmp_path / 'out', 6)
    assert right[0] == pytest.approx(2 / 3) and (right[2:] > 0.99).all()


def test_a_video_is_a_clip(tmp_path, wrong_run):
    path = write_video(tmp_path / 'walk.avi', 6)
    summary = wrong_run.predict(path, tmp_path / 'out', **pooling())
    assert summary['images'] == 6
    names = {part.name for part in (tmp_path / 'out/ids/walk').iterdir()}
    assert names == {f'{number:06d}.png' for number in range(6)}
    for kind in ('color', 'overlay'):
        capture = cv2.VideoCapture(str(tmp_path / f'out/{kind}/walk.mp4'))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6
        capture.release()
        (tmp_path / f'out/{kind}/walk.mp4').unlink()
    again = wrong_run.predict(path, tmp_path / 'out', **pooling())
    assert (again['images'], again['skipped'], again['compile_seconds']) == (0, 6, 0)
    assert (tmp_path / 'out/color/walk.mp4').exists()


def test_each_folder_is_a_clip(tmp_path, wrong_run):
    write_clip(tmp_path / 'in/a', static_frame, 4)
    write_clip(tmp_path / 'in/b/c', lambda number: static_frame(number)[:32], 3)
    summary = wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    assert summary['images'] == 7
    lines = (tmp_path / 'out/predict.jsonl').read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    assert [(line['name'], line['values']['frames']) for line in listed] == [('a', 4), ('b/c', 3)]
    assert read(tmp_path / 'out/ids/b/c/walk_2_left.png').shape == (32, 72)


def test_superpixels_alone_accept_any_images(tmp_path, wrong_run):
    save(tmp_path / 'in/a.png', static_frame(0))
    save(tmp_path / 'in/b.png', static_frame(0)[:32])
    wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling('superpixel'))
    whole = read(tmp_path / 'out/ids/a.png')
    np.testing.assert_array_equal(read(tmp_path / 'out/ids/b.png'), whole[:32])


def test_predictions_are_merged(tmp_path):
    """The first and the last class become one class, and the second class is void."""
    merged = ClassSpec(('thing',), ((9, 8, 7),), (5,))
    spec = dataclasses.replace(SPEC, class_maps={'1': ClassMap(merged, (0, IGNORE, 0))})
    config = config_lib.defaults('supervised')
    settings = dict(use='superpixel', merge='1')
    config_lib.update(config, data=dict(eval_size=(16, 24)), predict=dict(pooling=settings))
    save(tmp_path / 'in/a.png', static_frame(9))

    def predict(images):
        return channels(None, images)

    clips.predict_clips(predict, config, spec, tmp_path / 'in', tmp_path / 'out', {})
    merged_ids = read(tmp_path / 'out/ids/a.png')
    config.predict.pooling.merge = ''
    clips.predict_clips(predict, config, spec, tmp_path / 'in', tmp_path / 'own', {})
    own = read(tmp_path / 'own/ids/a.png')
    assert {*np.unique(own)} > {CLASSES.ids[1]}
    np.testing.assert_array_equal(merged_ids, np.where(own == CLASSES.ids[1], IGNORE, 5))
    color = read(tmp_path / 'out/color/a.png')
    assert {tuple(each) for each in color.reshape(-1, 3)} == {(9, 8, 7), (0, 0, 0)}


def test_depth_that_images_lack_is_noted(tmp_path, capsys):
    config = config_lib.defaults('supervised')
    config_lib.update(config, data=dict(eval_size=(16, 24)))
    config_lib.update(config, predict=pooling('superpixel', region_method='slic'))
    save(tmp_path / 'in/a.png', static_frame(0))
    clips.tell.__globals__['_told'].clear()
    arguments = (config, SPEC, tmp_path / 'in', tmp_path / 'out', {})
    clips.predict_clips(lambda images: channels(None, images), *arguments)
    assert 'superpixels see colour alone' in capsys.readouterr().out


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(('use', 'most'), [('full', 8), ('pixel', 13)])
def test_probabilities_are_kept_for_a_window_alone(tmp_path, wrong_run, monkeypatch, use, most):
    alive = []
    numbers = []

    class Counted(WholeAssembly):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            alive.append(weakref.ref(self.probabilities))
            numbers.append(sum(reference() is not None for reference in alive))

    monkeypatch.setattr(clips, 'WholeAssembly', Counted)
    write_clip(tmp_path / 'in', static_frame, 24)
    settings = pooling(use, flow_method='dis', region_method='slic')
    wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **settings, batch_size=2)
    assert len(numbers) == 24 and max(numbers) <= most


# --- resuming -------------------------------------------------------------------------------------


def test_a_clip_is_finished_or_not(tmp_path, wrong_run, monkeypatch):
    write_clip(tmp_path / 'in/a', static_frame, 4)
    write_clip(tmp_path / 'in/b', static_frame, 5)
    with monkeypatch.context() as patch:
        written = []

        def dies(*arguments, original=outputs.write_pictures):
            written.append(1)
            if len(written) > 6:
                raise KeyboardInterrupt
            original(*arguments)

        patch.setattr(outputs, 'write_pictures', dies)
        with pytest.raises(KeyboardInterrupt):
            wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    assert [json.loads(line)['name'] for line in (tmp_path / 'out/predict.jsonl').open()] == ['a']
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('a/*.png')}
    summary = wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    assert (summary['images'], summary['skipped']) == (5, 4)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    wrong_run.predict(tmp_path / 'in', tmp_path / 'fresh', **pooling())
    assert contents(tmp_path / 'out') == contents(tmp_path / 'fresh')
    again = wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    assert (again['images'], again['skipped'], again['compile_seconds']) == (0, 9, 0)


def test_a_changed_frame_changes_its_clip(tmp_path, wrong_run):
    write_clip(tmp_path / 'in/a', static_frame, 4)
    write_clip(tmp_path / 'in/b', static_frame, 4)
    wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    save(tmp_path / 'in/a/walk_1_left.png', static_frame(7))
    (tmp_path / 'in/b/walk_3_left.png').unlink()
    assert wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())['images'] == 7
    (tmp_path / 'out/ids/a/walk_0_left.png').unlink()
    assert wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())['images'] == 4


def test_another_pooling_needs_another_folder(tmp_path, wrong_run):
    write_clip(tmp_path / 'in', static_frame, 3)
    wrong_run.predict(tmp_path / 'in', tmp_path / 'out')
    assert 'pooling' not in json.loads((tmp_path / 'out/predict.json').read_text())
    with pytest.raises(InputError, match=r'predict\.json[\s\S]*superpixel'):
        wrong_run.predict(tmp_path / 'in', tmp_path / 'out', **pooling('superpixel'))
    wrong_run.predict(tmp_path / 'in', tmp_path / 'pooled', **pooling())
    with pytest.raises(InputError, match=r'predict\.json[\s\S]*pooling'):
        wrong_run.predict(tmp_path / 'in', tmp_path / 'pooled')


# --- errors ---------------------------------------------------------------------------------------


def single(folder):
    save(folder / 'walk_1.png', static_frame(0))


def two(folder):
    write_clip(folder, static_frame, 2)


def sizes(folder):
    write_clip(folder, static_frame, 3)
    save(folder / 'walk_1_left.png', static_frame(0)[:, :64])


def gap(folder):
    write_clip(folder, static_frame, 5)
    (folder / 'walk_2_left.png').unlink()


def photographs(folder):
    save(folder / 'cat.png', static_frame(0))
    save(folder / 'dog.png', static_frame(0))


def scenes(folder):
    for scene in range(2):
        for number in range(2):
            save(folder / f'{scene}_{number}.png', static_frame(0))


def clip(folder):
    write_clip(folder, static_frame, 4)


@pytest.mark.parametrize(
    ('make', 'settings', 'message', 'fix'),
    [
        (single, {}, 'a single frame', '--config.predict.pooling.use=superpixel'),
        (two, {'interval': 2}, '2 frames, at an', '--config.predict.pooling.interval=1'),
        (sizes, {}, '48x64 pixels', 'use=superpixel'),
        (gap, {}, "'walk_1_left' and 'walk_3_left'", 'a folder for each clip'),
        (photographs, {}, "'cat' and 'dog'", 'use=superpixel'),
        (scenes, {}, "'0_1' and '1_0'", 'a folder for each clip'),
        (clip, {'interval': 3}, '2 with an interval', '--config.predict.pooling.reach=3'),
        (clip, {'merge': '13'}, "'13' with data", "--config.predict.pooling.merge=''"),
        (clip, {'use': 'none', 'merge': '13'}, 'without', "--config.predict.pooling.merge=''"),
    ],
)
def test_images_that_are_no_clip_are_refused(tmp_path, run, make, settings, message, fix):
    make(tmp_path / 'in')
    with pytest.raises(InputError, match=message) as error:
        run.predict(tmp_path / 'in', tmp_path / 'out', pooling=pooling()['pooling'] | settings)
    assert fix in error.value.fix
    assert not (tmp_path / 'out').exists()


def test_a_video_of_a_single_frame_is_no_clip(tmp_path, run):
    path = write_video(tmp_path / 'walk.avi', 1)
    with pytest.raises(InputError, match='a single frame'):
        run.predict(path, tmp_path / 'out', **pooling())


def test_a_declared_prediction_has_no_probabilities(tmp_path, toy):
    run = toy(make_stage(prediction=Prediction({}, {}, lambda *arguments: {}, (16, 24))))
    write_clip(tmp_path / 'in', static_frame, 4)
    with pytest.raises(InputError, match='declared prediction') as error:
        run.predict(tmp_path / 'in', tmp_path / 'out', **pooling())
    assert error.value.fix == '--config.predict.pooling.use=none'


def test_too_many_regions_have_a_fix_of_this_mode(tmp_path, run):
    write_clip(tmp_path / 'in', moving_frame, 3)
    settings = pooling(region_method='slic', num_regions=2)
    with pytest.raises(InputError, match=r'walk_\d_left: regions by the method') as error:
        run.predict(tmp_path / 'in', tmp_path / 'out', **settings)
    assert error.value.fix.startswith('--config.predict.pooling.num_regions=')


def test_the_config_names_the_methods_that_exist():
    """The schema lies below the modules of the methods, so it repeats their names."""
    assert {*CLIP['region_method'].check.names} == {*regions.METHODS}
    assert {*CLIP['flow_method'].check.names} == {*flow.METHODS}
    assert {*CLIP['flow_preset'].check.names} == {*flow.PRESETS}
    assert {*CLIP['reading'].check.names} == {*correspondences.READINGS}
    assert {*POOLING_USES} == {clip_settings.NONE, *clip_pooling.MODES}
