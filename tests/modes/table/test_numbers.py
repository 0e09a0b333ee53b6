"""Tests the numbers of a table: paths of scores, and reports of missing scores."""

import pathlib

from paper_table import FILE, run_scores, start

from segjax.metrics import curves
from segjax.modes.table import numbers
from segjax.modes.table.cells import Cell, score_at
from segjax.modes.table.numbers import mean_curve, stage_scores
from segjax.modes.table.spec import Row
from segjax.report.scores import all_curves


def test_scores_are_found_by_their_path():
    scores = {
        'mIoU': 0.5,
        'watermark': {'none': {'PSNR': 24}, 'max': {'PSNR': None}},
        'policy': 'x',
        'ok': True,
    }
    assert score_at(scores, 'mIoU') == 0.5
    assert score_at(scores, 'watermark/none/PSNR') == 24.0
    for path in (
        'PSNR',
        'watermark',
        'watermark/max/PSNR',
        'watermark/none/SNR',
        'mIoU/x',
        'policy',
        'ok',
    ):
        assert score_at(scores, path) is None
    for number in (float('nan'), float('inf')):
        assert score_at({'mIoU': number}, 'mIoU') is None, 'no mean can be made of it'


def test_the_stage_of_a_row_is_the_last_unless_it_says_so():
    scores = run_scores(0.5)
    assert stage_scores(Row('a', 'a', ''), scores)['mIoU'] == 0.5
    assert stage_scores(Row('a', 'a', '', stage='first'), scores)['mIoU'] == 0.99
    assert stage_scores(Row('a', 'a', '', stage='second'), scores) == {}
    assert stage_scores(Row('a', 'a', ''), {}) == {}


def test_the_range_of_a_speed_is_that_of_its_rounds():
    assert Cell({0: 5.0}, quartiles=(4.5, 7.0)).range == (4.5, 7.0)
    assert Cell({0: 5.0, 1: 3.0, 2: 4.0}).range == (3.0, 5.0)
    assert Cell({}).range == (None, None)


def test_a_score_or_stage_that_no_run_has_is_said(table_file, trained):
    text = FILE.replace("'mIoU', unit", "'mIuO', unit").replace(
        "augment=strong', {'mIoU': 43.3}", "augment=strong', stage='lst'"
    )
    table_file.write_text(text)
    start(table_file, seeds='0')
    text = pathlib.Path('runs/table.md').read_text()
    assert (
        "- no run has a score 'mIuO' for column mIoU; "
        'there are: mIoU, depth/near/error, IoU/road, IoU/car' in text
    )
    assert "- strong has no stage 'lst'; there are: first, last" in text


def test_a_score_that_is_null_in_every_run_is_not_called_unknown(table_file, trained):
    table_file.write_text(FILE.replace("'error', 'depth/near/error'", "'error', 'IoU/car'"))
    start(table_file, seeds='0', rows='base')
    text = pathlib.Path('runs/table.md').read_text()
    assert "- score 'IoU/car' of column error is empty in every run: nothing to measure" in text
    assert 'no run has a score' not in text


def curve(*points):
    """Returns a curve of the points (x, y)."""
    x, y = zip(*points, strict=True)
    return all_curves({'roc': curves.curve({'attack': (x, y)}, 'false', 'true')})['roc']


def test_a_curve_is_averaged_over_the_seeds_if_their_positions_agree():
    first = curve((0, 0.0), (1, 0.5))
    second = curve((0, 0.5), (1, 1.0))
    moved = curve((0, 0.5), (2, 1.0))
    assert mean_curve([first, second]) == curve((0, 0.25), (1, 0.75))
    assert mean_curve([first, moved]) == first, 'no value of y lies at the same x'
    assert mean_curve([first]) == first


def test_many_lines_are_drawn_apart_with_the_lines_that_all_rows_share(monkeypatch):
    rows = {}
    for row in range(2):
        lines = {'loss': ([0, 1], [row, 1]), 'net': ([0, 1], [0, row]), 'chance': ([0, 1], [0, 1])}
        rows[f'row {row}'] = all_curves({'roc': curves.curve(lines, 'false', 'true')})['roc']
    assert numbers.together('roc', rows).keys() == {'roc'}
    assert len(numbers.together('roc', rows)['roc'].lines) == 6
    monkeypatch.setattr(numbers, 'MOST_LINES', 5)
    apart = numbers.together('roc', rows)
    assert list(apart) == ['roc of loss', 'roc of net']
    for curve_of_line in apart.values():
        assert [line.name for line in curve_of_line.lines] == ['row 0', 'row 1', 'chance']
    assert apart['roc of net'].lines[1].y == [0, 1]
