import io
import json
import math
import os
import pathlib

import cv2
import ml_collections
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segjax.core import environment, files
from segjax.errors import InputError
from segjax.report import scores
from segjax.train import log_files

CLASSES = ('road', 'traffic light', 'car')


def run(folder: pathlib.Path, start: int, stop: int) -> None:
    """Writes like the driver: a training line every 2 steps, an evaluation every 4 steps."""
    log = log_files.MetricsLog(folder, start)
    for step in range(start + 1, stop + 1):
        if step % 2 == 0:
            log.write(
                step,
                'train',
                {'loss': np.float32(1) / step, 'learning_rate': 0.1 * step, 'bad': math.nan},
            )
        if step % 4 == 0:
            log.write(step, 'eval', {'mIoU': step / 7})
    log.close()


def lines(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


# --- metrics.jsonl --------------------------------------------------------------------------------


def test_metrics_lines_are_sorted_strict_json(tmp_path):
    run(tmp_path, 0, 4)
    text = (tmp_path / 'metrics.jsonl').read_text()
    assert text.splitlines()[0] == (
        '{"step": 2, "kind": "train", "bad": null, "learning_rate": 0.2, "loss": 0.5}'
    )
    assert 'NaN' not in text
    assert [(r['step'], r['kind']) for r in lines(tmp_path)] == [
        (2, 'train'),
        (4, 'train'),
        (4, 'eval'),
    ]


def test_floats_read_back_exactly(tmp_path):
    values = {'third': 1 / 3, 'tiny': 5e-324, 'single': np.float32(0.1)}
    log = log_files.MetricsLog(tmp_path, 0)
    log.write(1, 'train', values)
    log.close()
    assert {k: lines(tmp_path)[0][k] for k in values} == {k: float(v) for k, v in values.items()}


@pytest.mark.parametrize('checkpoint, killed_at', [(4, 7), (4, 4), (8, 11), (6, 6)])
@pytest.mark.parametrize(
    'torn', ['', '{"step": 12, "ki', '{"step": 12, "kind": "train", "loss": 0.1}', '\0\0\0\n']
)
def test_resumed_file_equals_the_uninterrupted_one(tmp_path, checkpoint, killed_at, torn):
    run(tmp_path / 'straight', 0, 12)
    run(tmp_path / 'killed', 0, killed_at)
    with (tmp_path / 'killed/metrics.jsonl').open('a') as file:
        file.write(torn)
    run(tmp_path / 'killed', checkpoint, 12)
    straight, killed = (tmp_path / f / 'metrics.jsonl' for f in ('straight', 'killed'))
    assert killed.read_bytes() == straight.read_bytes()


def test_start_from_scratch_forgets_everything(tmp_path):
    run(tmp_path, 0, 8)
    log_files.MetricsLog(tmp_path, 0).close()
    assert (tmp_path / 'metrics.jsonl').read_bytes() == b''


def test_evaluating_the_last_step_again_adds_no_second_line(tmp_path):
    run(tmp_path, 0, 8)
    before = lines(tmp_path)
    log = log_files.MetricsLog(tmp_path, 8)
    log.write(8, 'eval', {'mIoU': 8 / 7})
    assert lines(tmp_path) == before
    log.write(8, 'eval', {'mIoU': 0.25})  # another value is news
    log.close()
    assert lines(tmp_path)[-1] == {'step': 8, 'kind': 'eval', 'mIoU': 0.25}


def test_lines_are_on_disk_before_close(tmp_path):
    log = log_files.MetricsLog(tmp_path, 0)
    log.write(1, 'train', {'loss': 1.0})
    assert len(lines(tmp_path)) == 1
    log.close()


def test_garbage_in_the_middle_names_file_and_line(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text(
        '{"step": 1, "kind": "train"}\nnonsense\n{"step": 2, "kind": "train"}\n'
    )
    with pytest.raises(InputError, match=r'metrics.jsonl, line 2'):
        log_files.MetricsLog(tmp_path, 2)


def test_what_is_no_scalar_is_refused(tmp_path):
    log = log_files.MetricsLog(tmp_path, 0)
    with pytest.raises(TypeError, match='vector'):
        log.write(1, 'train', {'vector': np.zeros(3)})
    with pytest.raises(ValueError, match='step'):
        log.write(1, 'train', {'step': 3})
    log.close()


def test_timing_is_appended_across_starts(tmp_path):
    for step in (
        5,
        3,
    ):  # a resumed run may go back: nothing is deterministic here, nothing is dropped
        log = log_files.TimingLog(tmp_path)
        log.write(step, {'images_per_second': 10.5})
        log.close()
        with (tmp_path / 'timing.jsonl').open('a') as file:
            file.write('{"step": ')
    records = files.read_lines(tmp_path / 'timing.jsonl')
    assert records == [{'step': s, 'images_per_second': 10.5} for s in (5, 3)]


def test_disabled_logs_touch_no_file(tmp_path):
    folder = tmp_path / 'none'
    for log in (
        log_files.MetricsLog(folder, 0, False),
        log_files.TimingLog(folder, False),
        log_files.TensorBoard(folder, 0, False),
    ):
        if isinstance(log, log_files.TensorBoard):
            log.scalars(1, 'train', {'loss': 1.0})
            log.image(1, 'picture', np.zeros((2, 2, 3), np.uint8))
            log.config({})
        elif isinstance(log, log_files.MetricsLog):
            log.write(1, 'train', {'loss': 1.0})
        else:
            log.write(1, {'loss': 1.0})
        log.close()
    stream = io.StringIO()
    log_files.Progress('stage', 10, 0, enabled=False, stream=stream).update(10, 1.0)
    assert not folder.exists() and stream.getvalue() == ''


# --- files ----------------------------------------------------------------------------------------


def test_json_round_trip_of_everything_scores_hold(tmp_path):
    value = {
        'nan': math.nan,
        'inf': -math.inf,
        'int': np.int64(3),
        'flag': np.bool_(True),
        'single': np.float32(0.5),
        'matrix': np.array([[1.0, np.nan]]),
        'tuple': (1, 'a', None),
        'path': pathlib.Path('a/b'),
        2: 'key',
        'config': ml_collections.ConfigDict({'a': (1, 2), 'b': {'c': 'd'}}),
        'bytes_like': np.arange(3, dtype=np.uint8),
    }
    files.write_json(tmp_path / 'deep/er/x.json', value)
    assert files.read_json(tmp_path / 'deep/er/x.json') == {
        'nan': None,
        'inf': None,
        'int': 3,
        'flag': True,
        'single': 0.5,
        'matrix': [[1.0, None]],
        'tuple': [1, 'a', None],
        'path': 'a/b',
        '2': 'key',
        'config': {'a': [1, 2], 'b': {'c': 'd'}},
        'bytes_like': [0, 1, 2],
    }
    with pytest.raises(TypeError, match='object'):
        files.write_json(tmp_path / 'x.json', {'a': object()})


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / 'scores.json'
    files.write_json(path, {'mIoU': 0.5})

    def no_space(*_):
        raise OSError('no space left on device')

    for name in ('fsync', 'replace'):
        with monkeypatch.context() as patch:
            patch.setattr(log_files.os, name, no_space)
            with pytest.raises(OSError, match='no space'):
                files.write_json(path, {'mIoU': 0.9})
        assert files.read_json(path) == {'mIoU': 0.5}
        assert [f.name for f in tmp_path.iterdir()] == [
            'scores.json'
        ]  # no temporary file left behind


def test_read_json_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        files.read_json(tmp_path / 'a.json')
    for text in ('{"a": ', '[' * 50_000, '{"a": 1, "a": 2}'):
        (tmp_path / 'a.json').write_text(text)
        with pytest.raises(InputError, match='valid JSON'):
            files.read_json(tmp_path / 'a.json')
    (tmp_path / 'a.json').write_text('{"a": 1}', encoding='utf-8-sig')
    assert files.read_json(tmp_path / 'a.json') == {'a': 1}


# --- TensorBoard ----------------------------------------------------------------------------------


def test_tensorboard_events_read_back_and_purge_what_a_killed_run_wrote(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    board = log_files.TensorBoard(tmp_path, 0)
    board.config({'optim': {'learning_rate': 0.5}})
    for step in range(1, 8):
        board.scalars(step, 'train', {'loss': float(step), 'gap': None})
    board.close()
    board = log_files.TensorBoard(tmp_path, 4)
    for step in range(5, 7):
        board.scalars(step, 'train', {'loss': 10.0 * step})
    board.image(6, 'prediction', image)
    board.close()

    events = EventAccumulator(str(tmp_path)).Reload()
    loss = [(e.step, e.value) for e in events.Scalars('train/loss')]
    assert loss == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0)]
    assert events.Tags()['scalars'] == ['train/loss']
    (picture,) = events.Images('prediction')
    assert (picture.height, picture.width, picture.step) == (4, 6, 6)
    decoded = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[
        ..., ::-1
    ]
    np.testing.assert_array_equal(decoded, image)
    text = events.Tensors('config/text_summary')[0].tensor_proto.string_val[0].decode()
    assert json.loads('\n'.join(line[4:] for line in text.splitlines())) == {
        'optim': {'learning_rate': 0.5}
    }


@pytest.mark.parametrize(
    'bad', [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_pictures_of_other_types_are_refused(bad):
    with pytest.raises(TypeError, match='uint8'):
        files.encode_png(bad)


# --- progress -------------------------------------------------------------------------------------


def test_progress_off_a_terminal_prints_plain_lines_every_ten_seconds():
    stream, time = io.StringIO(), [0.0]
    progress = log_files.Progress('segmentation', 100, 20, stream=stream, now=lambda: time[0])
    for step in range(21, 101):
        time[0] += 60.0 if step == 21 else 0.5
        progress.update(step, 1.25 if step % 10 == 0 else None, 31.4159 if step % 10 == 0 else None)
    progress.close()
    out = stream.getvalue().splitlines()
    assert [int(line.split('step ')[1].split('/')[0]) for line in out] == [21, 41, 61, 81, 100]
    assert (
        out[1] == '[segmentation] step 41/100 (41 %), loss 1.25, 31.4 images/s, ETA 0:30'
    )  # 59 steps of 0.5 s; the first, which compiles, does not count
    assert not any(c in stream.getvalue() for c in '\r\x1b')


def test_progress_on_a_terminal_is_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = log_files.Progress('segmentation', 4, 1, stream=stream)
    progress.update(2, 0.5, 12.0)
    progress.message('step 2: mIoU 0.4')
    progress.update(4)
    progress.close()
    assert (
        '\r' in stream.getvalue()
        and '4/4' in stream.getvalue()
        and 'loss 0.5, 12 images/s' in stream.getvalue()
    )
    assert '\nstep 2: mIoU 0.4\n' in stream.getvalue().replace('\r', '\n')


@pytest.mark.parametrize(
    'seconds, text',
    [(0, '0:00'), (59.6, '1:00'), (61, '1:01'), (3600, '1:00:00'), (90061, '25:01:01')],
)
def test_duration(seconds, text):
    assert log_files.duration(seconds) == text


def test_environment_names_versions_of_what_runs():
    import jax

    facts = environment.describe('cpu', 8, 2)
    assert facts['jax'] == jax.__version__ and facts['numpy'] == np.__version__
    assert (facts['device'], facts['devices'], facts['processes']) == ('cpu', 8, 2)


# --- scores as text -------------------------------------------------------------------------------

BY_METRIC = {
    'mIoU': 0.4123, 'pixel_accuracy': 0.9, 'policy': 'cityscapes', 'images': 12345,
    'IoU': {'road': 0.9, 'traffic light': None, 'car': 0.05},
    'accuracy': {'road': 0.96, 'traffic light': math.nan, 'car': 0.5},
    'baseline_commonest': {'mIoU': 0.03}, 'confusion': [[60, 2, 1], [1, 0, 0], [30, 0, 6]],
}  # fmt: skip
BY_CLASS = {
    **{k: v for k, v in BY_METRIC.items() if k not in ('IoU', 'accuracy')},
    'per_class': {
        c: {'IoU': BY_METRIC['IoU'][c], 'accuracy': BY_METRIC['accuracy'][c]} for c in CLASSES
    },
}


@pytest.mark.parametrize('given', [BY_METRIC, BY_CLASS])
def test_score_table(given):
    assert scores.score_table(given) == '\n'.join([
        'per class      IoU %  accuracy %  share of pixels %',
        '---------------------------------------------------',
        'road           90.00       96.00              63.00',
        'traffic light      -           -               1.00',
        'car             5.00       50.00              36.00',
        '',
        'score             this run  commonest',
        '-------------------------------------',
        'mIoU               41.23 %     3.00 %',
        'pixel accuracy     90.00 %          -',
        'policy          cityscapes',
        'images              12,345          -',
    ])  # fmt: skip


def test_score_table_of_other_scores():
    nested = {
        'abs_rel': 0.1234567,
        'depth': {'rmse': 4.5, 'by_range': {'near': {'n': 3}, 'far': {'n': 12}}},
    }
    text = scores.score_table(nested)
    assert 'abs rel    0.1235' in text
    assert '\n  by range   n\n' in text and '\n  far       12\n' in text  # the section is indented
    assert scores.score_table({}) == ''
    assert scores.score_table({'curve': {'x': [0, 1], 'y': [0, 1]}, 'list': [1, 2]}) == ''


def test_score_table_has_units_and_explains_void():
    text = scores.score_table(
        {'mIoU': 0.5, 'mIoU_with_void': 0.4, 'PSNR': 21.5, 'watermark': {'none': {'SNR': 3.5}}}
    )
    assert 'PSNR             21.5 dB' in text and '  watermark  ' not in text and 'SNR dB' in text
    assert ' '.join(text.split()).count(scores.MEANINGS['mIoU_with_void']) == 1
    assert 'void' not in scores.score_table(BY_METRIC)


def test_flat_scalars():
    assert scores.flat_scalars({**BY_METRIC, 'depth': {'near': {'rmse': np.float32(2)}}}) == {
        'mIoU': 0.4123,
        'pixel_accuracy': 0.9,
        'images': 12345,
        'IoU/road': 0.9,
        'IoU/traffic light': None,
        'IoU/car': 0.05,
        'accuracy/road': 0.96,
        'accuracy/traffic light': None,
        'accuracy/car': 0.5,
        'depth/near/rmse': 2.0,
    }


def test_real_scores_of_the_confusion_matrix_fit():
    confusion = pytest.importorskip('segjax.metrics.confusion')
    matrix = np.array([[60, 2, 1], [1, 0, 0], [30, 0, 6]])
    values = confusion.scores(matrix, CLASSES, 'cityscapes')
    parts = scores.split_scores({**values, 'confusion': matrix})
    assert list(parts.tables[scores.PER_CLASS]) == list(CLASSES)
    assert parts.tables[scores.PER_CLASS]['road']['pixels'] == 63
    assert parts.sections == {} and set(parts.values) >= {'mIoU', 'policy'}


def test_a_path_that_is_no_text_is_written_and_read_back(tmp_path):
    name = os.fsdecode(b'r\xff')
    files.write_json(tmp_path / 'x.json', {'path': name})
    assert files.read_json(tmp_path / 'x.json') == {'path': name}
