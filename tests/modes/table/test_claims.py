"""Tests claims: differences, verdicts, conditions, and the share of chance."""

import math
import pathlib

import pytest
from paper_table import FILE, start
from scipy import integrate

from segjax.core import files
from segjax.modes.table.cells import Cell
from segjax.modes.table.claims import by_chance, compare
from segjax.modes.table.spec import Claim, Column, Condition, Row, Table

CLAIMED = Table(
    '',
    '',
    (Column('x', 'x'),),
    (Row('a', '', '', {'x': 3.5}), Row('b', '', '', {'x': 2.0}), Row('c', '', '')),
    {},
)


@pytest.mark.parametrize(
    'a, b, differences, std, agreeing, verdict',
    [
        # Differences 3, 3.5, 4: mean 3.5, sum of squares 0.5, std 0.5.
        # t(2) = 4.303 standard errors are 1.24.
        ({0: 5, 1: 6, 2: 7}, {0: 2, 1: 2.5, 2: 3}, {0: 3, 1: 3.5, 2: 4}, 0.5, 3, 'holds'),
        # Differences 5, 4, 0: mean 3, squares 4 + 1 + 9, std sqrt(7) = 2.6458.
        # 4.303 standard errors are 6.57 > 3.
        (
            {0: 45, 1: 46, 2: 44},
            {0: 40, 1: 42, 2: 44},
            {0: 5, 1: 4, 2: 0},
            7**0.5,
            2,
            'holds, within spread',
        ),
        # The same without the third seed: std sqrt(1/2), 12.7 standard errors are 6.35.
        # Unpaired seeds do not count.
        (
            {0: 45, 1: 46, 3: 9},
            {0: 40, 1: 42, 2: 44},
            {0: 5, 1: 4},
            0.5**0.5,
            2,
            'holds, within spread',
        ),
        ({0: 1, 1: 2}, {0: 4, 1: 5}, {0: -3, 1: -3}, 0.0, 0, 'does not hold'),
        ({0: 1, 1: 6}, {0: 4, 1: 5}, {0: -3, 1: 1}, 8**0.5, 1, 'does not hold, within spread'),
        ({0: 2}, {0: 1}, {0: 1}, None, 1, 'holds, one seed'),
        ({0: 2}, {0: 2}, {0: 0}, None, 0, 'undecided, one seed'),
        # Two rows that never differ say nothing about their order, whatever the number of seeds.
        ({0: 2, 1: 3, 2: 4}, {0: 2, 1: 3, 2: 4}, {0: 0, 1: 0, 2: 0}, 0.0, 0, 'undecided'),
        ({0: 2, 1: 3}, {0: 2, 1: 3}, {0: 0, 1: 0}, 0.0, 0, 'undecided'),
        ({0: 3, 1: 2}, {0: 2, 1: 3}, {0: 1, 1: -1}, 2**0.5, 1, 'undecided, within spread'),
        ({0: 2}, {1: 1}, {}, None, 0, 'not measured'),
    ],
)
def test_a_claim_is_judged_by_the_differences_of_each_seed(
    a, b, differences, std, agreeing, verdict
):
    cells = {('a', 'x'): Cell(a), ('b', 'x'): Cell(b), ('c', 'x'): Cell({})}
    compared = compare(CLAIMED, Claim('', 'x', 'a', 'b'), cells)
    assert compared.published == 1.5 and compared.ours.values == differences
    assert compared.ours.std == (None if std is None else pytest.approx(std))
    assert (compared.agreeing, compared.verdict) == (agreeing, verdict)
    other = compare(CLAIMED, Claim('', 'x', 'c', 'a'), cells)
    assert (other.published, other.verdict) == (None, 'not measured')


def test_a_claim_about_a_speed_rests_on_one_measurement():
    table = CLAIMED._replace(columns=(Column('x', 'speed/train/ms_per_image'),))
    for a, said in ((5.0, 'holds'), (4.0, 'undecided'), (3.0, 'does not hold')):
        cells = {
            ('a', 'x'): Cell({0: a}, quartiles=(1.0, 9.0)),
            ('b', 'x'): Cell({0: 4.0}, quartiles=(3.0, 5.0)),
        }
        assert compare(table, Claim('', 'x', 'a', 'b'), cells).verdict == f'{said}, one measurement'


def t_density(x: float, degrees: int) -> float:
    """Computes the density of Student's t-distribution."""
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    return scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2)


def test_the_smallest_effect_is_the_half_width_of_the_interval():
    cells = {('a', 'x'): Cell({0: 3, 1: 3.5, 2: 4}), ('b', 'x'): Cell({0: 0, 1: 0, 2: 0})}
    found = compare(CLAIMED, Claim('', 'x', 'a', 'b'), cells)
    t = found.smallest_effect / (0.5 / math.sqrt(3))  # std 0.5, three seeds
    inside, _ = integrate.quad(t_density, -t, t, args=(2,))
    assert inside == pytest.approx(0.95, abs=1e-6)
    single = compare(CLAIMED, Claim('', 'x', 'a', 'b'), {key: Cell({0: 1}) for key in cells})
    assert single.smallest_effect is None and not single.tested


CONDITIONED = CLAIMED._replace(columns=(Column('x', 'x'), Column('PSNR', 'PSNR', unit='dB')))


@pytest.mark.parametrize(
    'conditions, psnr, verdict',
    [
        ((), {}, 'holds'),
        ((Condition('PSNR', 'b', 'c', at_least=3),), {'b': 20.5, 'c': 17.25}, 'holds'),
        (
            (Condition('PSNR', 'b', 'c', at_least=3),),
            {'b': 20.5, 'c': 20.0},
            'withheld: PSNR of b over c is 0.5 dB, wanted at least 3',
        ),
        (
            (Condition('PSNR', 'b', 'c', at_least=3, why='no watermark'),),
            {'b': 20.5},
            'withheld: PSNR of b over c was not measured (no watermark)',
        ),
        ((Condition('PSNR', 'b', 'c', at_most=1),), {'b': 7.0, 'c': 8.0}, 'holds'),
        (
            (Condition('PSNR', 'b', 'c', at_most=1),),
            {'b': 7.0, 'c': 9.5},
            'withheld: PSNR of b over c is -2.5 dB, wanted within 1 of 0',
        ),
        (
            (Condition('PSNR', 'b', 'c', at_most=1), Condition('PSNR', 'c', 'b', at_least=3)),
            {'b': 7.0, 'c': 9.5},
            'withheld: PSNR of b over c is -2.5 dB, wanted within 1 of 0; '
            'PSNR of c over b is 2.5 dB, wanted at least 3',
        ),
    ],
)
def test_a_verdict_is_withheld_unless_the_conditions_hold(conditions, psnr, verdict):
    cells = {
        ('a', 'x'): Cell({0: 5, 1: 6, 2: 7.5}),
        ('b', 'x'): Cell({0: 2, 1: 3, 2: 4}),
        ('c', 'x'): Cell({}),
    }
    for key in 'abc':
        # The mean over two seeds is the number of the case.
        cells[key, 'PSNR'] = Cell({0: psnr[key] - 0.25, 1: psnr[key] + 0.25} if key in psnr else {})
    found = compare(CONDITIONED, Claim('', 'x', 'a', 'b', conditions), cells)
    assert found.verdict == verdict
    assert found.tested == (verdict == 'holds')
    unmeasured = compare(CONDITIONED, Claim('', 'x', 'c', 'b', conditions), cells)
    assert unmeasured.verdict == 'not measured'


def test_chance_alone_decides_a_twentieth_of_the_tested_claims():
    cells = {
        ('a', 'x'): Cell({0: 5, 1: 6, 2: 7.5}),
        ('b', 'x'): Cell({0: 2, 1: 3, 2: 4}),
        ('c', 'x'): Cell({}),
    }
    tested = compare(CLAIMED, Claim('', 'x', 'a', 'b'), cells)
    empty = compare(CLAIMED, Claim('', 'x', 'a', 'c'), cells)
    withheld = compare(
        CLAIMED, Claim('', 'x', 'a', 'b', (Condition('x', 'a', 'b', at_least=99),)), cells
    )
    assert by_chance([empty, withheld]) == ''
    text = by_chance([tested] * 12 + [empty, withheld])
    assert text.startswith('12 claims were tested at 5%')
    assert '0.6 of them beyond the spread, 0.3 with the claimed sign' in text
    assert by_chance([tested]).startswith('1 claim was tested')


GATED = FILE.replace(
    "'mIoU', 'strong', 'base'),",
    "'mIoU', 'strong', 'base', "
    "(Condition('error', 'base', 'thin', at_least=0.1, why='thin is too good'),)),",
)
GATED = GATED.replace('Claim, Column', 'Claim, Column, Condition, Difference')
GATED = GATED.replace(
    "        compare=('strong', 'base'),",
    "        compare=('strong', 'base'),\n"
    "        headlines=(Difference('gain', 'mIoU', 'strong', 'base', wanted='at least 3'),\n"
    "            Difference('gap', 'error', 'thin', 'base', unit='m')),",
)


def test_all_outputs_show_what_was_withheld_and_the_headlines(table_file, trained, capsys):
    table_file.write_text(GATED)
    start(table_file)
    verdict = 'withheld: error of base over thin was not measured (thin is too good)'
    headline = 'gain [%]: +3.0 ± 2.6 (3 seeds), mIoU of strong over base; wanted: at least 3'
    texts = {
        name: (pathlib.Path('runs') / f'table.{name}').read_text()
        for name in ('md', 'html', 'json')
    }
    texts['terminal'] = capsys.readouterr().out
    for name, text in texts.items():
        assert verdict in text, name
        if name != 'json':
            assert headline in text and 'gap [m]: not measured, error of thin over base' in text, (
                name
            )
            assert '1 claim was tested at 5%' in text, name
    content = files.read_json(pathlib.Path('runs/table.json'))
    assert content['claims'][0]['only_if'][0]['at_least'] == 0.1
    assert content['headlines'][0]['ours'] == pytest.approx(
        {'0': 5.0, '1': 4.0, '2': 0.0}, abs=1e-9
    )
    lines = pathlib.Path('runs/claims.csv').read_text().splitlines()
    assert lines[0].startswith(
        'claim,column,higher,lower,published,mean,std,n,smallest effect,seed 0,seed 1,seed 2'
    )
    assert lines[1] == 'gain,mIoU,strong,base,,3,2.6457513,3,,5,4,0,at least 3'
    assert (
        lines[3]
        == f'augmentation helps,mIoU,strong,base,3.1,3,2.6457513,3,6.5724106,5,4,0,{verdict}'
    )
