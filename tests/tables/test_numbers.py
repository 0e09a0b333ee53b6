"""The numbers of a table: where scores are found, what a claim comes to, and what is missing."""

import pathlib

import pytest
from paper_table import FILE, found, start

from segjax.tables.numbers import Cell, compare, score_at, stage_scores
from segjax.tables.spec import Claim, Column, Row, Table


def test_scores_are_found_by_their_path():
    scores = {'mIoU': 0.5, 'watermark': {'none': {'PSNR': 24}, 'max': {'PSNR': None}}, 'policy': 'x', 'ok': True}
    assert score_at(scores, 'mIoU') == 0.5
    assert score_at(scores, 'watermark/none/PSNR') == 24.0
    for path in ('PSNR', 'watermark', 'watermark/max/PSNR', 'watermark/none/SNR', 'mIoU/x', 'policy', 'ok'):
        assert score_at(scores, path) is None


def test_the_stage_of_a_row_is_the_last_unless_it_says_so():
    scores = found(0.5)
    assert stage_scores(Row('a', 'a', ''), scores)['mIoU'] == 0.5
    assert stage_scores(Row('a', 'a', '', stage='first'), scores)['mIoU'] == 0.99
    assert stage_scores(Row('a', 'a', '', stage='second'), scores) == {}
    assert stage_scores(Row('a', 'a', ''), {}) == {}


CLAIMED = Table(
    '', '', (Column('x', 'x'),), (Row('a', '', '', {'x': 3.5}), Row('b', '', '', {'x': 2.0}), Row('c', '', '')), {}
)


@pytest.mark.parametrize(
    'a, b, differences, std, agreeing, verdict',
    [
        # Differences 3, 3.5, 4: mean 3.5, sum of squares 0.5, std 0.5, t(2) = 4.303 standard errors are 1.24.
        ({0: 5, 1: 6, 2: 7}, {0: 2, 1: 2.5, 2: 3}, {0: 3, 1: 3.5, 2: 4}, 0.5, 3, 'holds'),
        # 5, 4, 0: mean 3, squares 4 + 1 + 9, std sqrt(7) = 2.6458, 4.303 standard errors are 6.57 > 3.
        ({0: 45, 1: 46, 2: 44}, {0: 40, 1: 42, 2: 44}, {0: 5, 1: 4, 2: 0}, 7**0.5, 2, 'holds, within spread'),
        # The same without the third seed: std sqrt(1/2), 12.7 standard errors are 6.35. Unpaired seeds do not count.
        ({0: 45, 1: 46, 3: 9}, {0: 40, 1: 42, 2: 44}, {0: 5, 1: 4}, 0.5**0.5, 2, 'holds, within spread'),
        ({0: 1, 1: 2}, {0: 4, 1: 5}, {0: -3, 1: -3}, 0.0, 0, 'does not hold'),
        ({0: 1, 1: 6}, {0: 4, 1: 5}, {0: -3, 1: 1}, 8**0.5, 1, 'does not hold, within spread'),
        ({0: 2}, {0: 1}, {0: 1}, None, 1, 'holds, one seed'),
        ({0: 2}, {0: 2}, {0: 0}, None, 0, 'does not hold, one seed'),
        ({0: 2}, {1: 1}, {}, None, 0, 'not measured'),
    ],
)
def test_a_claim_is_judged_by_the_differences_of_each_seed(a, b, differences, std, agreeing, verdict):
    cells = {('a', 'x'): Cell(a), ('b', 'x'): Cell(b), ('c', 'x'): Cell({})}
    compared = compare(CLAIMED, Claim('', 'x', 'a', 'b'), cells)
    assert compared.published == 1.5 and compared.ours.values == differences
    assert compared.ours.std == (None if std is None else pytest.approx(std))
    assert (compared.agreeing, compared.verdict) == (agreeing, verdict)
    other = compare(CLAIMED, Claim('', 'x', 'c', 'a'), cells)
    assert (other.published, other.verdict) == (None, 'not measured')


def test_a_claim_about_a_speed_rests_on_one_measurement():
    table = CLAIMED._replace(columns=(Column('x', 'speed/train/ms_per_image'),))
    for a, verdict in ((5.0, 'holds, one measurement'), (4.0, 'does not hold, one measurement')):
        cells = {('a', 'x'): Cell({0: a}, quartiles=(1.0, 9.0)), ('b', 'x'): Cell({0: 4.0}, quartiles=(3.0, 5.0))}
        assert compare(table, Claim('', 'x', 'a', 'b'), cells).verdict == verdict


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
    assert "- no run has a score 'mIuO' for column mIoU; there are: mIoU, depth/near/error, IoU/road, IoU/car" in text
    assert "- strong has no stage 'lst'; there are: first, last" in text
