"""Images with depth: superpixels and nets that see it, what is refused, and what is made again."""

import shutil
import subprocess

import cv2
import jax.numpy as jnp
import layouts
import numpy as np
import pytest
from predicting import CLASSES, contents, make_stage, read, save

from segjax import pipelines
from segjax.data import hha, regions
from segjax.errors import InputError
from segjax.tasks import clip_pooling

SIZE = (16, 24)
"""(height, width) of the frames and of the tiles."""
CAMERA = np.array([[24, 0, 12], [0, 24, 8], [0, 0, 1]], np.float32)

pytestmark = pytest.mark.usefixtures('in_threads')


@pytest.fixture
def clip(tmp_path):
    """Writes a clip of five frames. Returns the folder above it, and its content."""
    numbers = {'kitchen': (range(101, 106), ())}
    written, _ = layouts.write_rgbd_folder(tmp_path / 'in', numbers, SIZE)
    content = {}
    for (_, number), (image, units, _) in written.items():
        content[number] = (image, units.astype(np.float32) * np.float32(0.001))
    return tmp_path / 'in', content


def colours(state, images):
    """Predicts the colour channels as class probabilities."""
    return jnp.asarray(images, jnp.float32) / 255


@pytest.fixture
def colour_run(toy):
    """Returns a run whose net predicts the colour channels as class probabilities."""
    return toy(make_stage(predict=colours))


@pytest.fixture
def hha_run(toy, monkeypatch):
    """Returns a run whose net predicts the channels of HHA as class probabilities."""
    monkeypatch.setattr(pipelines, 'make_features', lambda config, specs: (hha.hha_feature(),))

    def predict(state, images):
        assert images.shape[-1] == 6
        return jnp.asarray(images[..., 3:], jnp.float32) / 255

    return toy(make_stage(predict=predict, predict_planes='planes_hha'))


def pooling(use, **settings):
    return dict(pooling=dict(use=use, interval=1, reach=1, **settings))


def ids_of(scores):
    return np.array(CLASSES.ids)[scores.argmax(-1)]


# --- superpixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize('method', ['hierarchy', 'felzenszwalb'])
def test_superpixels_see_the_depth_of_the_input(tmp_path, clip, colour_run, method):
    folder, content = clip
    results = {}
    for depth in (True, False):
        target = tmp_path / f'out_{depth}'
        settings = pooling('superpixel', region_method=method, region_depth=depth)
        summary = colour_run.predict(folder, target, **settings)
        assert summary['images'] == 5
        compute = regions.region_feature(method, depth=depth).compute
        for number, (image, metres) in content.items():
            scores = [image.astype(np.float32) / 255]
            ids = compute({'image': image, 'depth': metres})
            pooled = clip_pooling.pool_clip(scores, [ids], None, None, 0, 550, mode='superpixel')
            found = read(target / f'ids/kitchen/{number:06}.png')
            assert (found == ids_of(pooled)).mean() > 0.999
        results[depth] = contents(target)
    assert results[True] != results[False]


def test_a_window_sees_depth(tmp_path, clip, colour_run):
    """The frames are equal, so that a window adds nothing to a frame."""
    folder, content = clip
    image, metres = content[101]
    for number in content:
        for kind, value in (('image', image), ('depth', np.round(metres * 1000).astype(np.uint16))):
            layouts.save(folder / f'kitchen/{kind}/{number:06}.png', value)
    colour_run.predict(folder, tmp_path / 'full', **pooling('full', flow_method='dis'))
    colour_run.predict(folder, tmp_path / 'alone', **pooling('superpixel'))
    for number in content:
        full, alone = (
            read(tmp_path / f'{use}/ids/kitchen/{number:06}.png') for use in ('full', 'alone')
        )
        np.testing.assert_array_equal(full, alone)


def test_a_net_of_colour_ignores_depth(tmp_path, clip, colour_run):
    folder, content = clip
    colour_run.predict(folder, tmp_path / 'out')
    for number, (image, _) in content.items():
        ids = read(tmp_path / f'out/ids/kitchen/{number:06}.png')
        np.testing.assert_array_equal(ids, ids_of(image))


# --- nets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('use', ['none', 'pixel'])
def test_a_net_sees_hha_of_the_depth(tmp_path, clip, hha_run, use):
    folder, content = clip
    settings = pooling(use, flow_method='dis') if use == 'pixel' else {'batch_size': 3}
    if use == 'pixel':
        settings['pooling']['direction'] = 'past'
    hha_run.predict(folder, tmp_path / 'out', **settings)
    # The first frame has no frame before it, so its pooled probabilities are its own.
    for number in [101] if use == 'pixel' else content:
        image, metres = content[number]
        planes = hha.hha(metres, CAMERA)
        name = f'kitchen/{number:06}.png'
        np.testing.assert_array_equal(read(tmp_path / f'out/ids/{name}'), ids_of(planes))
        confidence = read(tmp_path / f'out/confidence/{name}')
        np.testing.assert_allclose(confidence, planes.max(-1), atol=1)
        colour = read(tmp_path / f'out/color/{name}')
        overlay = cv2.addWeighted(colour, 0.5, image, 0.5, 0)
        np.testing.assert_array_equal(read(tmp_path / f'out/overlay/{name}'), overlay)


def test_planes_are_scaled_and_mirrored_like_colour(tmp_path, clip, hha_run, toy):
    """HHA in the place of the image gives the same prediction in all views."""
    folder, content = clip
    views = dict(flip=True, scales=(1.0, 1.5), tile=(8, 16))
    hha_run.predict(folder, tmp_path / 'out', **views)
    for number, (_, metres) in content.items():
        save(tmp_path / f'planes/{number:06}.png', hha.hha(metres, CAMERA))
    run = toy(make_stage(predict=colours))
    run.predict(tmp_path / 'planes', tmp_path / 'expected', **views)
    for number in content:
        for kind in ('ids', 'confidence'):
            found = read(tmp_path / f'out/{kind}/kitchen/{number:06}.png')
            np.testing.assert_array_equal(
                found, read(tmp_path / f'expected/{kind}/{number:06}.png')
            )


def test_frames_that_are_predicted_alone_have_any_names(tmp_path, clip, hha_run):
    folder, _ = clip
    for kind in ('image', 'depth'):
        for number, name in ((101, 'cat'), (103, 'dog')):
            (folder / f'kitchen/{kind}/{number:06}.png').rename(
                folder / f'kitchen/{kind}/{name}.png'
            )
    hha_run.predict(folder / 'kitchen', tmp_path / 'alone')
    assert {path.stem for path in (tmp_path / 'alone/ids').iterdir()} == {
        *('cat', 'dog', '000102', '000104', '000105')
    }


def test_depth_has_names_of_its_own_with_the_same_numbers(tmp_path, clip, hha_run):
    folder, _ = clip
    hha_run.predict(folder, tmp_path / 'first')
    for path in (folder / 'kitchen/depth').iterdir():
        path.rename(path.with_name(f'depth_{int(path.stem)}.png'))
    hha_run.predict(folder, tmp_path / 'second')
    assert {k: v for k, v in contents(tmp_path / 'first').items() if 'ids' in k} == {
        k: v for k, v in contents(tmp_path / 'second').items() if 'ids' in k
    }


# --- results that are made again ------------------------------------------------------------------


@pytest.mark.parametrize(('use', 'again'), [('none', 1), ('superpixel', 5)])
def test_changed_depth_changes_the_results(tmp_path, clip, hha_run, use, again):
    folder, content = clip
    settings = pooling(use, region_method='slic') if use != 'none' else {}
    hha_run.predict(folder, tmp_path / 'out', **settings)
    assert hha_run.predict(folder, tmp_path / 'out', **settings)['images'] == 0
    units = np.round(content[102][1] * 1000).astype(np.uint16) + 500
    layouts.save(folder / 'kitchen/depth/000102.png', units)
    assert hha_run.predict(folder, tmp_path / 'out', **settings)['images'] == again
    (folder / 'intrinsics.txt').write_text('20 0 12 0 20 8 0 0 1')
    assert hha_run.predict(folder, tmp_path / 'out', **settings)['images'] == 5


def test_another_use_of_depth_needs_another_folder(tmp_path, clip, colour_run):
    folder, _ = clip
    settings = pooling('superpixel', region_method='slic')
    colour_run.predict(folder, tmp_path / 'out', **settings)
    settings['pooling']['region_depth'] = False
    with pytest.raises(InputError, match='region_depth'):
        colour_run.predict(folder, tmp_path / 'out', **settings)


def test_a_frame_without_measured_depth_is_named_and_the_others_are_written(
    tmp_path, clip, hha_run
):
    folder, _ = clip
    layouts.save(folder / 'kitchen/depth/000103.png', np.zeros(SIZE, np.uint16))
    with pytest.raises(InputError, match='1 of 5 images') as error:
        hha_run.predict(folder, tmp_path / 'out')
    assert '000103.png' in error.value.got and 'no pixel was measured' in error.value.got
    assert len(list((tmp_path / 'out/ids/kitchen').iterdir())) == 4
    with pytest.raises(InputError, match='no pixel was measured'):
        hha_run.predict(folder, tmp_path / 'pooled', **pooling('superpixel'))


# --- refusals -------------------------------------------------------------------------------------


def refused(run, source, target, **settings):
    """Returns the error of a prediction that writes nothing."""
    with pytest.raises(InputError) as error:
        run.predict(source, target, **settings)
    assert not target.exists()
    return error.value


@pytest.mark.parametrize('kind', ['folder', 'image', 'video'])
def test_images_alone_are_not_enough_for_a_net_that_sees_hha(tmp_path, clip, hha_run, kind):
    folder, content = clip
    source = folder / 'kitchen/image'
    if kind == 'image':
        source = source / '000101.png'
    elif kind == 'video':
        source = tmp_path / 'walk.avi'
        writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*'MJPG'), 10, SIZE[::-1])
        writer.write(content[101][0][..., ::-1])
        writer.release()
    error = refused(hha_run, source, tmp_path / 'out')
    assert 'without depth' in error.got and 'the net sees HHA' in error.expected
    assert 'FOLDER/depth/' in error.fix and 'FOLDER/intrinsics.txt' in error.fix


def test_a_camera_is_needed_for_hha_alone(tmp_path, clip, hha_run, toy):
    folder, _ = clip
    (folder / 'intrinsics.txt').unlink()
    error = refused(hha_run, folder, tmp_path / 'out')
    assert 'no intrinsics.txt' in error.got
    command = error.fix.partition(',')[0].replace('fx 0 cx 0 fy cy', '24 0 12 0 24 8')
    subprocess.run(['bash', '-c', command], check=True)
    hha_run.predict(folder, tmp_path / 'out')
    (folder / 'kitchen/intrinsics.txt').unlink()
    run = toy(make_stage(predict=colours))
    run.predict(folder, tmp_path / 'colour', **pooling('superpixel', region_method='slic'))


def test_another_size_of_depth_has_both_sizes(tmp_path, clip, colour_run):
    folder, _ = clip
    layouts.save(folder / 'kitchen/depth/000104.png', np.full((8, 12), 1500, np.uint16))
    error = refused(colour_run, folder, tmp_path / 'out')
    assert '12x8' in error.got and '24x16' in error.expected and 'to 12x8' in error.fix


def test_another_unit_of_depth_has_a_fix_that_works(tmp_path, clip, colour_run):
    folder, content = clip
    for number, (_, metres) in content.items():
        units = np.round(metres * 10000).astype(np.uint16)
        layouts.save(folder / f'kitchen/depth/{number:06}.png', units)
    error = refused(colour_run, folder, tmp_path / 'out')
    key, _, value = error.fix.partition('=')
    assert key == '--config.predict.depth_unit'
    colour_run.predict(folder, tmp_path / 'out', depth_unit=float(value))


@pytest.mark.parametrize('missing', ['frame', 'clip'])
def test_depth_of_some_frames_is_refused(tmp_path, clip, colour_run, missing):
    folder, _ = clip
    shutil.copytree(folder / 'kitchen', folder / 'hall')
    if missing == 'frame':
        (folder / 'hall/depth/000102.png').unlink()
    else:
        shutil.rmtree(folder / 'hall/depth')
    error = refused(colour_run, folder, tmp_path / 'out')
    assert str(folder / 'hall') in error.where and 'add it' in error.fix
