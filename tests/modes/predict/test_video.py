"""Tests videos: frames in, pictures and videos out, resuming, damage."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from predicting import CLASSES, contents, make_stage, noise, read, save

from segjax.errors import InputError
from segjax.modes.predict import outputs, video
from segjax.modes.predict import tiled as tiled_lib

CODEC = {'.mp4': 'mp4v', '.avi': 'MJPG', '.mkv': 'MJPG', '.mov': 'mp4v', '.webm': 'VP80'}
NUM_FRAMES = 7


def blocks(number, size=(32, 48)):
    """Returns a frame of one colour per half, which a codec keeps."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[:, : 8 * (number % 5) + 8, 0] = 250
    frame[:, 8 * (number % 5) + 8 :, 2] = 250
    return frame


def write_video(path, num_frames=NUM_FRAMES, size=(32, 48), rate=12.5, start=0):
    """Writes a video of `blocks`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*CODEC[path.suffix])
    writer = cv2.VideoWriter(str(path), code, rate, size[::-1])
    assert writer.isOpened()
    for number in range(num_frames):
        writer.write(blocks(start + number, size)[..., ::-1])
    writer.release()
    return path


def frames_of(path):
    """Returns (frames, frames per second) of a video."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.stack(frames), capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


def channels(state, images):
    """Predicts the colour channels as class probabilities."""
    return jnp.asarray(images, jnp.float32) / 255


@pytest.fixture
def run(toy):
    return toy(make_stage(predict=channels))


@pytest.mark.parametrize('suffix', video.SUFFIXES)
def test_a_video_gives_pictures_and_videos_of_all_frames(tmp_path, run, suffix):
    path = write_video(tmp_path / f'walk{suffix}')
    summary = run.predict(path, tmp_path / 'out')
    assert (summary['images'], summary['skipped'], summary['others']) == (NUM_FRAMES, 0, [])
    seen, _ = frames_of(path)
    for number, frame in enumerate(seen):
        ids = read(tmp_path / f'out/ids/walk/{number:06d}.png')
        np.testing.assert_array_equal(ids, np.array(CLASSES.ids)[frame.argmax(-1)])
    for kind in ('color', 'overlay'):
        written, rate = frames_of(tmp_path / f'out/{kind}/walk.mp4')
        assert written.shape == (NUM_FRAMES, 32, 48, 3) and rate == pytest.approx(12.5, rel=0.01)
        for number, frame in enumerate(written):
            picture = read(tmp_path / f'out/{kind}/walk/{number:06d}.png').astype(int)
            assert np.abs(frame - picture).mean() < 12
    assert not [path for path in (tmp_path / 'out').rglob('*') if 'partial' in path.name]


def test_an_odd_size_loses_a_row_and_a_column_in_the_video_only(tmp_path, run):
    path = write_video(tmp_path / 'walk.avi', size=(33, 49))
    run.predict(path, tmp_path / 'out')
    assert read(tmp_path / 'out/ids/walk/000000.png').shape == frames_of(path)[0].shape[1:3]
    assert len(frames_of(tmp_path / 'out/color/walk.mp4')[0]) == NUM_FRAMES


def test_an_interrupted_video_is_resumed_with_the_same_results(tmp_path, run, monkeypatch):
    path = write_video(tmp_path / 'walk.avi')
    with monkeypatch.context() as patch:
        written = []

        def dies(*arguments, original=outputs.write_outputs):
            written.append(1)
            if len(written) > 3:
                raise KeyboardInterrupt
            original(*arguments)

        patch.setattr(outputs, 'write_outputs', dies)
        with pytest.raises(KeyboardInterrupt):
            run.predict(path, tmp_path / 'out', batch_size=1)
    before = {
        file: file.stat().st_mtime_ns for file in (tmp_path / 'out/color').rglob('walk/*.png')
    }
    assert 0 < len(before) < NUM_FRAMES and not (tmp_path / 'out/color/walk.mp4').exists()
    summary = run.predict(path, tmp_path / 'out')
    assert summary['skipped'] == len(before)
    assert summary['images'] == NUM_FRAMES - len(before)
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    run.predict(path, tmp_path / 'fresh')
    assert contents(tmp_path / 'out').keys() == contents(tmp_path / 'fresh').keys()
    for name, content in contents(tmp_path / 'fresh').items():
        assert name.endswith('.mp4') or contents(tmp_path / 'out')[name] == content
    again = run.predict(path, tmp_path / 'out')
    assert (again['images'], again['skipped'], again['compile_seconds']) == (0, NUM_FRAMES, 0)
    (tmp_path / 'out/overlay/walk.mp4').unlink()
    run.predict(path, tmp_path / 'out')
    assert len(frames_of(tmp_path / 'out/overlay/walk.mp4')[0]) == NUM_FRAMES


def test_another_video_of_the_same_name_is_predicted_as_a_whole(tmp_path, run):
    path = write_video(tmp_path / 'walk.avi')
    run.predict(path, tmp_path / 'out')
    write_video(path, start=2, num_frames=5)
    assert run.predict(path, tmp_path / 'out')['images'] == 5
    written, _ = frames_of(tmp_path / 'out/color/walk.mp4')
    assert len(written) == 5
    expected = np.array(CLASSES.palette)[frames_of(path)[0][0].argmax(-1)]
    assert np.abs(written[0] - expected).mean() < 12


def test_frames_are_read_one_at_a_time(tmp_path, run, monkeypatch):
    """No frame is decoded long before the results of earlier frames are written."""
    path = write_video(tmp_path / 'walk.avi', num_frames=60)
    ahead = []
    read_so_far = []
    written = []

    def counted(*arguments, original=video.read_frames):
        for item in original(*arguments):
            read_so_far.append(1)
            ahead.append(len(read_so_far) - len(written))
            yield item

    def write(*arguments, original=outputs.write_outputs):
        original(*arguments)
        written.append(1)

    monkeypatch.setattr(tiled_lib.video_lib, 'read_frames', counted)
    monkeypatch.setattr(outputs, 'write_outputs', write)
    run.predict(path, tmp_path / 'out', batch_size=4)
    assert len(written) == 60 and max(ahead) < 25


def test_motion_jpeg_replaces_a_missing_encoder(tmp_path, monkeypatch):
    pictures = []
    for number in range(3):
        save(tmp_path / f'{number}.png', blocks(number))
        pictures.append(tmp_path / f'{number}.png')
    monkeypatch.setattr(video, 'CODECS', (('.mp4', 'none'), ('.avi', 'MJPG')))
    path = video.write_video(tmp_path / 'walk', pictures, 10.0)
    assert path.name == 'walk.avi' and video.written_path(tmp_path / 'walk') == path
    assert len(frames_of(path)[0]) == 3
    monkeypatch.setattr(video, 'CODECS', (('.mp4', 'none'),))
    with pytest.raises(InputError, match='can encode neither'):
        video.write_video(tmp_path / 'walk', pictures, 10.0)


@pytest.mark.parametrize('content', [b'', b'no video at all' * 100, 'cut'])
def test_files_that_are_no_video_are_named(tmp_path, run, content):
    path = tmp_path / 'walk.mp4'
    if content == 'cut':  # the index of an MP4 file is at its end
        content = write_video(path).read_bytes()[:-400]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'walk\.mp4[\s\S]*cannot be opened as a video'):
        run.predict(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_video_without_frames_is_named(tmp_path, run):
    path = write_video(tmp_path / 'walk.avi', num_frames=0)
    with pytest.raises(InputError, match=r'walk\.avi'):
        run.predict(path, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_video_that_ends_early_is_named_and_its_first_frames_are_written(tmp_path, run):
    path = write_video(tmp_path / 'walk.avi', num_frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r'walk\.avi[\s\S]*of 40 frames can be decoded'):
        run.predict(path, tmp_path / 'out')
    num_written = len(list((tmp_path / 'out/ids/walk').iterdir()))
    assert 0 < num_written < 40
    assert len(frames_of(tmp_path / 'out/color/walk.mp4')[0]) == num_written


def test_a_single_image_has_the_results_of_a_folder(tmp_path, run):
    save(tmp_path / 'in/a.png', noise(33, 50))
    run.predict(tmp_path / 'in', tmp_path / 'folder')
    run.predict(tmp_path / 'in/a.png', tmp_path / 'file')
    assert contents(tmp_path / 'folder') == contents(tmp_path / 'file')


def test_files_that_cannot_be_predicted(tmp_path, run):
    (tmp_path / 'notes.txt').write_text('no image')
    with pytest.raises(InputError, match=r'notes\.txt[\s\S]*\.png'):
        run.predict(tmp_path / 'notes.txt', tmp_path / 'out')
    save(tmp_path / 'out/color/a.png', noise(8, 8))
    with pytest.raises(InputError, match='become inputs'):
        run.predict(tmp_path / 'out/color/a.png', tmp_path / 'out')
