"""Tests prediction: geometry with nets of known output, one compilation, checks, resuming."""

import dataclasses
import json
import os
import re
import time
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from segjax import config as config_lib
from segjax import data
from segjax.core import parallel
from segjax.data import transforms
from segjax.data.image_files import ImageSource
from segjax.errors import InputError
from segjax.modes import predict
from segjax.modes.predict import assembly as assembly_lib
from segjax.modes.predict import batches, outputs, tiled
from segjax.protocol import Input, TrainState
from segjax.spec import ClassSpec, DataSpec
from segjax.train import driver

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
IDS = (7, 11, 33)
PER_SPLIT = ('num_examples', 'class_pixels', 'void_pixels')


def make_spec(max_size=(16, 24)):
    return DataSpec(
        name='toy',
        classes=ClassSpec(('red', 'green', 'blue'), PALETTE, IDS),
        features=('image', 'label', 'name'),
        num_examples={'val': 1},
        max_size={'val': max_size},
        class_pixels={'val': (1, 1, 1)},
        void_pixels={'val': 0},
    )


def make_config(eval_size=(16, 24), eval_split='val', **settings):
    defaults = {'tile': (), 'overlap': 1 / 3, 'flip': False, 'scales': (1.0,), 'batch_size': 4}
    return ml_collections.ConfigDict(
        {
            'data': {'eval_size': eval_size, 'eval_split': eval_split},
            'predict': {**defaults, **settings},
        }
    )


def channels(images):
    """Predicts the colour channels as class probabilities."""
    return jnp.asarray(images, jnp.float32) / 255


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[..., ::-1])


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image[..., ::-1] if image.ndim == 3 else image


def whole_probabilities(net, image, config, spec, monkeypatch):
    """Returns the blended probabilities [H, W, C] float32 of one image, before the argmax."""
    plan = predict.make_predict_plan(config, spec)
    strips = []

    def catch(planes):
        strips.append(np.stack(list(planes), axis=-1))
        return np.zeros(strips[-1].shape[:2], np.uint8), strips[-1].max(-1)

    monkeypatch.setattr(assembly_lib, 'argmax', catch)
    source = ImageSource(None, 'image')
    cut_tiles = predict.all_tiles([predict.Assembly(source, image, plan, spec.classes.num_classes)])
    predicted = predict.predict_tiles(net, plan, cut_tiles, batches.Waiting())
    done = [assembly.add(place, values) for assembly, place, values in predicted]
    assert done == [False] * (len(done) - 1) + [True]
    return np.concatenate(strips)


SIZES = [(16, 24), (17, 25), (5, 24), (16, 1), (40, 61), (16, 100), (90, 24)]


@pytest.mark.parametrize('size', SIZES)
def test_identity_net_reproduces_the_image(size, monkeypatch):
    image = noise(*size)
    out = whole_probabilities(channels, image, make_config(flip=True), make_spec(), monkeypatch)
    np.testing.assert_allclose(out, image / 255, atol=5e-7)


@pytest.mark.parametrize('size', SIZES)
def test_constant_stays_constant_at_all_scales(size, monkeypatch):
    config = make_config(scales=(0.5, 1.0, 1.75), flip=True)

    def net(images):
        return jnp.broadcast_to(jnp.array([0.2, 0.5, 0.3]), images.shape)

    out = whole_probabilities(net, noise(*size), config, make_spec((24, 31)), monkeypatch)
    assert out.shape == (*size, 3)
    np.testing.assert_allclose(out, np.broadcast_to([0.2, 0.5, 0.3], out.shape), atol=1e-6)


def test_tiles_of_a_local_net_equal_the_whole_image(monkeypatch):
    kernel = np.random.default_rng(3).normal(size=(3, 3))

    def net(images):
        return jax.nn.softmax(channels(images) @ kernel * 4)

    image = noise(53, 70)
    out = whole_probabilities(net, image, make_config(overlap=0.5), make_spec(), monkeypatch)
    np.testing.assert_allclose(out, net(image[None])[0], atol=1e-6)


def test_blending_hides_border_effects(monkeypatch):
    """A net that pads with zeros errs near a tile's border. With overlap this hardly counts."""

    def net(images):
        kernel = jnp.ones((5, 5, 1, 3)) / 25
        return jax.lax.conv_general_dilated(
            channels(images),
            kernel,
            (1, 1),
            'SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=3,
        )

    image = np.full((60, 90, 3), 255, np.uint8)
    inside = (slice(2, -2), slice(2, -2))
    worst = {
        overlap: np.abs(
            whole_probabilities(net, image, make_config(overlap=overlap), make_spec(), monkeypatch)[
                inside
            ]
            - 1
        ).max()
        for overlap in (0.0, 0.5)
    }
    assert worst[0.0] > 0.3
    assert worst[0.5] < 0.03


def test_mirroring_changes_nothing_for_a_mirror_equivariant_net_and_averages_otherwise(monkeypatch):
    image, spec = noise(20, 50), make_spec()

    def ramp(images):
        column = jnp.linspace(0, 1, images.shape[2])[None, None, :, None]
        return jnp.broadcast_to(column, images.shape)

    for net, expected in ((channels, image / 255), (ramp, np.full((20, 50, 3), 0.5))):
        out = whole_probabilities(net, image, make_config(flip=True), spec, monkeypatch)
        np.testing.assert_allclose(out, expected, atol=1e-6)
    unmirrored = whole_probabilities(ramp, image, make_config(), spec, monkeypatch)
    assert np.abs(unmirrored - 0.5).max() > 0.4


def test_scales_are_those_of_the_data_set(monkeypatch):
    """At two scales, an identity net gives the mean of two resized images."""
    image, spec = noise(44, 62), make_spec((32, 48))
    config = make_config(scales=(1.0, 1.5), overlap=0.5)
    assert predict.base_scale(config, spec) == 0.5
    out = whole_probabilities(channels, image, config, spec, monkeypatch)
    expected = np.zeros((44, 62, 3))
    for height, width in ((22, 31), (33, 46)):
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) / 255
        expected += np.asarray(jax.image.resize(small, (44, 62, 3), 'bilinear')) / 2
    np.testing.assert_allclose(out, expected, atol=1 / 255)  # resized pixels are rounded


@pytest.mark.parametrize('size', [(44, 62), (96, 144), (41, 60), (128, 96)])
def test_the_net_sees_the_pixels_that_it_sees_in_evaluation(size):
    """Holds up to the size of the largest image, and for an image that shrinks by more than 2."""
    image = noise(*size)
    plan = predict.make_predict_plan(make_config(), make_spec((128, 144)))
    assembly = predict.Assembly(ImageSource(None, 'image'), image, plan, 3)
    pixels = next(assembly.cuttings())[1]
    seen = transforms.evaluation({'image': image}, plan.eval_size, (128, 144))
    height, width = seen['size']
    np.testing.assert_array_equal(pixels[:height, :width], seen['image'][:height, :width])


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((32, 48), (16, 24)),  # the data set's own size
        ((16, 48), (8, 24)),  # smaller ones are fitted into eval_size, as in evaluation
        ((8, 8), (16, 16)),
        ((32, 49), (16, 24)),  # larger ones keep base_scale and get tiles
        ((64, 96), (32, 48)),
        ((10, 960), (5, 480)),
    ],
)
def test_net_sizes(size, expected):
    plan = predict.make_predict_plan(make_config(scales=(1.0, 0.5)), make_spec((32, 48)))
    full, half = predict.net_sizes(size, plan)
    assert full == expected
    assert half == tuple(max(1, round(length / 2)) for length in expected)


def test_base_scale_takes_the_tighter_axis_and_all_splits():
    spec = make_spec()
    both = {
        field: {'train': getattr(spec, field)['val'], **getattr(spec, field)} for field in PER_SPLIT
    }
    spec = dataclasses.replace(
        spec, **{**both, 'max_size': {'train': (100, 100), 'val': (80, 200)}}
    )
    assert predict.base_scale(make_config((50, 60), 'val[:10%]'), spec) == 60 / 200
    assert predict.base_scale(make_config((50, 150), 'train[5:]+val'), spec) == 50 / 100
    with pytest.raises(InputError, match="did you mean 'train'"):
        predict.base_scale(make_config(eval_split='trian'), spec)


def test_argmax_equals_numpy():
    planes = np.random.default_rng(0).integers(0, 4, (7, 30, 40)).astype(np.float32)  # many ties
    winner, best = predict.argmax(plane.copy() for plane in planes)
    np.testing.assert_array_equal(winner, planes.argmax(0))
    np.testing.assert_array_equal(best, planes.max(0))


def test_memory_does_not_grow_with_the_height(monkeypatch):
    plan = predict.make_predict_plan(make_config(scales=(0.5, 1.0, 2.0), batch_size=1), make_spec())
    held = {}
    for height in (200, 800):
        assembly = predict.Assembly(
            ImageSource(None, ''), np.zeros((height, 24, 3), np.uint8), plan, 3
        )
        most = 0
        for place in assembly.places:
            assembly.add(place, np.ones((3, 16, 24), np.float32))
            most = max(most, sum(canvas.rows.shape[1] for canvas in assembly.canvases))
        assert assembly.decided == height
        held[height] = most
    assert held[800] == held[200] < 160


# --- folders --------------------------------------------------------------------------------------


def fill(folder):
    """Writes images of five shapes into two folders. Returns the images by name."""
    images = {
        'a': noise(16, 24, 1),
        'city/b': noise(33, 50, 2),
        'city/c': noise(7, 24, 3),
        'city/deep/d.e': noise(16, 25, 4),
        'z': noise(64, 30, 5),
    }
    for name, image in images.items():
        save(folder / f'{name}.png', image)
    return images


def run(folder, net=channels, config=None, output='out', made_by=None):
    return predict.predict_images(
        net,
        config or make_config(),
        make_spec(),
        folder / 'in',
        folder / output,
        made_by or {'step': 3},
    )


def test_outputs_in_one_trace(tmp_path):
    images = fill(tmp_path / 'in')
    traces = []

    @jax.jit
    def net(batch):
        traces.append(batch.shape)
        return channels(batch)

    summary = run(tmp_path, net)
    assert traces == [(4, 16, 24, 3)]
    assert summary['images'] == 5 and summary['skipped'] == 0
    assert summary['tiles'] == 1 + 9 + 1 + 2 + 12
    assert summary['images_per_second'] == pytest.approx(5 / summary['seconds'])
    pixels = sum(image.shape[0] * image.shape[1] for image in images.values())
    assert summary['megapixels'] == pytest.approx(pixels / 1e6)
    for name, image in images.items():
        label = image.argmax(-1)
        color = np.array(PALETTE)[label]
        ids = read(tmp_path / f'out/ids/{name}.png')
        assert ids.dtype == np.uint8 and ids.ndim == 2
        np.testing.assert_array_equal(ids, np.array(IDS)[label])
        np.testing.assert_array_equal(read(tmp_path / f'out/color/{name}.png'), color)
        overlay = read(tmp_path / f'out/overlay/{name}.png').astype(int)
        assert np.abs(overlay - (color + image.astype(int)) / 2).max() <= 0.5
        np.testing.assert_array_equal(read(tmp_path / f'out/confidence/{name}.png'), image.max(-1))
    assert not [p for p in (tmp_path / 'out').rglob('*') if p.name.endswith('.partial')]


def test_waiting_for_the_net_is_told_from_work_of_the_host(tmp_path, monkeypatch):
    fill(tmp_path / 'in')
    pause = 0.02

    def slow_net(images):
        time.sleep(pause)
        return channels(images)

    num_batches = -(-(1 + 9 + 1 + 2 + 12) // 4)
    summary = run(tmp_path, slow_net)
    assert num_batches * pause <= summary['waiting_seconds'] <= summary['seconds']

    def slow_reader(path, original=tiled.read_image):
        time.sleep(pause)
        return original(path)

    # The first image is read before the time starts.
    monkeypatch.setattr(tiled, 'read_image', slow_reader)
    summary = run(tmp_path, output='slow_reader')
    assert summary['seconds'] - summary['waiting_seconds'] >= 4 * pause


def test_gray_alpha_palette_and_jpeg_inputs(tmp_path):
    gray = np.tile(np.arange(24, dtype=np.uint8) * 10, (16, 1))
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in/gray.png'), gray)
    rgba = np.dstack([noise(16, 24), np.zeros((16, 24), np.uint8)])  # transparent everywhere
    cv2.imwrite(str(tmp_path / 'in/alpha.png'), rgba)
    smooth = np.full((16, 24, 3), (20, 200, 60), np.uint8)
    save(tmp_path / 'in/photo.JPG', smooth)
    save(tmp_path / 'in/other.bmp', smooth)
    assert run(tmp_path)['images'] == 4
    np.testing.assert_array_equal(read(tmp_path / 'out/confidence/gray.png'), gray)
    np.testing.assert_array_equal(
        read(tmp_path / 'out/confidence/alpha.png'), rgba[..., :3].max(-1)
    )
    for name in ('photo', 'other'):
        assert (read(tmp_path / f'out/ids/{name}.png') == IDS[1]).all()


def test_interrupted_run_continues_and_gives_the_same_files(tmp_path):
    fill(tmp_path / 'in')
    calls = []

    def dies(images):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return channels(images)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dies)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out/ids').rglob('*.png')}
    assert 0 < len(before) < 5
    summary = run(tmp_path)
    assert summary['skipped'] == len(before) and summary['images'] == 5 - len(before)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    run(tmp_path, output='fresh')
    for path in (tmp_path / 'fresh').rglob('*.*'):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / 'out' / path.relative_to(tmp_path / 'fresh')).read_bytes()
            )


def test_finished_folder_compiles_nothing_and_newer_images_are_done_again(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    never = {
        'images': 0,
        'skipped': 5,
        'tiles': 0,
        'compile_seconds': 0.0,
        'images_per_second': 0.0,
    }
    summary = run(tmp_path, net=None)
    assert {k: summary[k] for k in never} == never
    (tmp_path / 'out/color/z.png').unlink()
    newer = tmp_path / 'out/ids/a.png'
    save(tmp_path / 'in/a.png', noise(16, 24, 9))
    now = newer.stat().st_mtime + 10
    os.utime(tmp_path / 'in/a.png', (now, now))
    assert run(tmp_path)['images'] == 2
    np.testing.assert_array_equal(read(newer), np.array(IDS)[noise(16, 24, 9).argmax(-1)])
    os.utime(tmp_path / 'in/a.png', (now + 99, now + 99))
    assert run(tmp_path)['images'] == 0, 'the time alone tells nothing'


@pytest.mark.parametrize('age', [-1000, 0, 1000])
def test_other_images_of_the_same_names_are_done_again(tmp_path, age):
    """The new files have the size and, at age 0, the time of the old files."""
    for name, seed in (('same', 1), ('other', 2)):
        cv2.imwrite(str(tmp_path / f'{name}.bmp'), noise(16, 24, seed))
    (tmp_path / 'in').mkdir()
    target = tmp_path / 'in/0001.bmp'
    target.write_bytes((tmp_path / 'same.bmp').read_bytes())
    run(tmp_path)
    made = target.stat()
    target.write_bytes((tmp_path / 'other.bmp').read_bytes())
    os.utime(target, (made.st_mtime + age, made.st_mtime + age))
    assert target.stat().st_size == made.st_size
    assert run(tmp_path)['images'] == 1
    np.testing.assert_array_equal(
        read(tmp_path / 'out/ids/0001.png'), np.array(IDS)[read(target).argmax(-1)]
    )
    summary = run(tmp_path)
    assert (summary['images'], summary['skipped'], summary['others']) == (0, 1, [])


def test_results_of_images_that_are_gone_are_named(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    (tmp_path / 'in/a.png').unlink()
    (tmp_path / 'in/z.png').rename(tmp_path / 'in/y.png')
    summary = run(tmp_path)
    assert (summary['images'], summary['skipped'], summary['others']) == (1, 3, ['a', 'z'])
    assert run(tmp_path)['others'] == ['a', 'z']


def test_a_torn_list_of_finished_images_costs_these_images_only(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    path = tmp_path / 'out/predict.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(''.join(lines[:-2]) + lines[-2][:20])
    assert run(tmp_path)['images'] == 2
    assert run(tmp_path)['images'] == 0 and len(path.read_text().splitlines()) == 5


def test_an_image_that_is_removed_meanwhile_is_named(tmp_path, monkeypatch):
    fill(tmp_path / 'in')

    def digest(path, original=outputs.content_digest):
        (tmp_path / 'in/city/b.png').unlink(missing_ok=True)
        return original(path)

    monkeypatch.setattr(outputs, 'content_digest', digest)
    with pytest.raises(InputError, match=r'1 of 5 images[\s\S]*gone: .*b\.png'):
        run(tmp_path)
    assert (tmp_path / 'out/ids/z.png').exists()


def test_names_of_other_alphabets_are_listed(tmp_path):
    names = ['stra\u00dfe', '\u8def\u2028\u9762']
    for name in names:
        (tmp_path / 'in').mkdir(exist_ok=True)
        (tmp_path / f'in/{name}.png').write_bytes(cv2.imencode('.png', noise(8, 8))[1].tobytes())
    run(tmp_path)
    path = tmp_path / 'out/predict.jsonl'
    assert run(tmp_path)['skipped'] == 2
    path.write_bytes(path.read_bytes()[:-30])
    assert run(tmp_path)['images'] == 1


def test_results_that_do_not_say_what_they_are_of_are_made_again(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    (tmp_path / 'out/predict.jsonl').unlink()
    assert run(tmp_path)['images'] == 5


def test_another_net_or_setting_needs_another_folder(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    run(tmp_path, config=make_config(batch_size=2))  # speed only
    with pytest.raises(InputError, match=r'predict.json[\s\S]*step = 4[\s\S]*step = 3'):
        run(tmp_path, made_by={'step': 4})
    with pytest.raises(InputError, match='mirror = True'):
        run(tmp_path, config=make_config(flip=True))
    assert json.loads((tmp_path / 'out/predict.json').read_text())['step'] == 3


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(net='another'), "net = 'another'"),
        (dict(preprocess='caffe'), r"config.preprocess = 'caffe'[\s\S]*config.preprocess = 'unit'"),
        (dict(run='moved'), None),
        (dict(threads=3), None),
    ],
    ids=['net', 'preprocess', 'moved', 'threads'],
)
def test_results_of_another_net_or_config_are_refused(tmp_path, change, message):
    fill(tmp_path / 'in')

    def made_by(preprocess='unit', threads=1, net='net', run='here'):
        config = config_lib.defaults('supervised')
        config_lib.update(config, preprocess=preprocess, data=dict(threads=threads))
        return {'run': run, 'step': 3, 'net': net, 'config': config_lib.recorded(config)}

    run(tmp_path, made_by=made_by())
    if message is None:
        assert run(tmp_path, made_by=made_by(**change))['skipped'] == 5
    else:
        with pytest.raises(InputError, match=message):
            run(tmp_path, made_by=made_by(**change))


def test_results_with_another_palette_are_refused(tmp_path):
    fill(tmp_path / 'in')
    run(tmp_path)
    spec = make_spec()
    classes = ClassSpec(spec.classes.names, PALETTE[::-1], IDS)
    with pytest.raises(InputError, match='palette'):
        changed = dataclasses.replace(spec, classes=classes)
        predict.predict_images(
            channels, make_config(), changed, tmp_path / 'in', tmp_path / 'out', {'step': 3}
        )


def raises_before_the_net(tmp_path, match, **kwargs):
    def net(images):
        raise AssertionError('the net ran before the input was checked')

    with pytest.raises(InputError, match=match):
        run(tmp_path, net, **kwargs)


def test_missing_and_empty_folders(tmp_path):
    raises_before_the_net(tmp_path, r'--input[\s\S]*existing folder')
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/notes.txt').write_text('no image')
    raises_before_the_net(tmp_path, 'no image in')


@pytest.mark.parametrize('output', ['in', 'in/out', '.'])
def test_output_folder_must_not_mix_with_the_input(tmp_path, output):
    save(tmp_path / 'in/a.png', noise(4, 4))
    if output == '.':
        (tmp_path / 'in').rename(tmp_path / 'ids')
        with pytest.raises(InputError, match='become inputs'):
            predict.predict_images(None, make_config(), make_spec(), tmp_path / 'ids', tmp_path, {})
    else:
        raises_before_the_net(tmp_path, 'become inputs', output=output)


def test_output_folder_may_hold_the_input(tmp_path):
    save(tmp_path / 'in/a.png', noise(4, 4))
    assert run(tmp_path, output='.')['images'] == 1


def test_name_collision(tmp_path):
    save(tmp_path / 'in/a.png', noise(4, 4))
    save(tmp_path / 'in/a.jpg', noise(4, 4))
    raises_before_the_net(tmp_path, r'the same name as .*a\.jpg')
    (tmp_path / 'in/a.jpg').rename(tmp_path / 'in/b.jpg')
    assert run(tmp_path)['images'] == 2


def test_all_bad_files_are_named(tmp_path):
    fill(tmp_path / 'in')
    save(tmp_path / 'in/cut.png', noise(30, 30))
    save(tmp_path / 'in/cut.jpg.jpeg', noise(30, 30))
    for name in ('cut.png', 'cut.jpg.jpeg'):
        path = tmp_path / 'in' / name
        path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / 'in/empty.png').touch()
    (tmp_path / 'in/text.jpg').write_text('this is not an image but a text of some length')
    cv2.imwrite(str(tmp_path / 'in/deep.png'), np.zeros((8, 8, 3), np.uint16))
    cv2.imwrite(str(tmp_path / 'in/deeper.tiff'), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(InputError) as error:
        run(tmp_path, None)
    message = str(error.value)
    for text in (
        '6 of 11 images',
        'cut.png: a truncated PNG',
        'cut.jpg.jpeg: truncated JPEG',
        'empty.png: 0 bytes',
        'text.jpg: cannot be decoded',
        'deep.png: 16 bits',
        'deeper.tiff: 16 bits',
    ):
        assert text in message
    assert not (tmp_path / 'out').exists()


def test_damage_inside_a_file_is_reported_and_the_others_are_written(tmp_path):
    images = fill(tmp_path / 'in')
    path = tmp_path / 'in/city/b.png'
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r'1 of 5 images[\s\S]*b\.png'):
        run(tmp_path)
    written = {
        p.relative_to(tmp_path / 'out/ids').with_suffix('').as_posix()
        for p in (tmp_path / 'out/ids').rglob('*.png')
    }
    assert written == set(images) - {'city/b'}


def test_settings_that_cannot_work(tmp_path):
    save(tmp_path / 'in/a.png', noise(4, 4))
    raises_before_the_net(tmp_path, 'predict.scales', config=make_config(scales=()))
    raises_before_the_net(tmp_path, 'predict.scales', config=make_config(scales=(1.0, 0.0)))
    with pytest.raises(InputError, match='8-bit PNG'):
        predict.check_classes(ClassSpec(('plate',), ((0, 0, 0),), (-1,)))
    with pytest.raises(ValueError, match=r'expected \(4, 16, 24, 3\)'):
        run(tmp_path, lambda images: jnp.zeros((4, 8, 12, 3)))


def test_mode_predict_uses_the_chosen_checkpoint_of_the_run(tmp_path, monkeypatch, capsys):
    images = fill(tmp_path / 'in')
    params = {'segmenter': {'order': np.array([2, 0, 1])}}
    state = TrainState(np.int32(7), params, {}, {}, {})
    traces = []

    class ToyStage(NamedTuple):
        name: str = 'segmentation'
        prediction: None = None
        predict_planes: str = ''
        eval_input: Input = Input('val', 1, ('image',), (1, 1))

        def predict(self, state, images):
            traces.append(images.shape)
            return channels(images)[..., state.params['segmenter']['order']]

    def load_last_stage(opened, stages, which, name):
        assert which == 'best'
        return stages[0], state

    prepared = data.Prepared(make_spec(), tmp_path, 'toy')
    config = config_lib.defaults('supervised')
    config_lib.update(config, data=dict(eval_size=(16, 24)))
    opened = driver.Run(config, {'data': prepared}, tmp_path / 'run', parallel.topology('pmap', 1))
    monkeypatch.setattr(driver, 'open_run', lambda config, workdir, use: (opened, (ToyStage(),)))
    monkeypatch.setattr(driver, 'load_last_stage', load_last_stage)
    arguments = (config, str(tmp_path / 'run'), str(tmp_path / 'in'), str(tmp_path / 'out'), 'best')
    assert predict.main(*arguments)['images'] == 5
    assert traces == [(4, 16, 24, 3)]
    ids = read(tmp_path / 'out/ids/z.png')
    np.testing.assert_array_equal(ids, np.array(IDS)[images['z'][..., [2, 0, 1]].argmax(-1)])
    assert json.loads((tmp_path / 'out/predict.json').read_text())['step'] == 7
    out = capsys.readouterr().out
    assert '5 images (0 were there already)' in out
    assert re.search(r'images/s, [\d.]+ megapixels/s after [\d.]+ s of compilation, \d+% of', out)
    assert predict.main(*arguments)['images'] == 0
    out = capsys.readouterr().out
    assert (
        '0 images: all 5 were there already' in out and 'images/s' not in out and 'note' not in out
    )
    state.params['segmenter']['order'] = np.array([0, 1, 2])  # the same run and step, another net
    with pytest.raises(InputError, match=r'net = '):
        predict.main(*arguments)
    state.params['segmenter']['order'] = np.array([2, 0, 1])
    (tmp_path / 'in/a.png').unlink()
    predict.main(*arguments)
    assert 'also holds results of images that are not in' in capsys.readouterr().out
    for position, flag in ((2, '--input'), (3, '--output')):
        with pytest.raises(InputError, match=f'{flag}[\\s\\S]*nothing'):
            predict.main(*arguments[:position], '', *arguments[position + 1 :])
