"""The command `python -m benchmarks.published`: the numbers, their reasons, its page and errors."""

import json

import flax.linen as nn
import pytest
from house import REPOSITORY

from benchmarks import (
    published,
    published_constants,
    published_data,
    published_formulas,
    published_nets,
    published_rates,
    published_shapes,
    published_trainings,
)
from benchmarks import published_number as numbers
from benchmarks.published_number import Number
from segjax.errors import InputError

SMALL_NETS = ('VGG', 'LargeFOV, 19', 'FCN-16s', 'PatchGAN', 'ADNet (ADCNN), 35', 'RIDNet, 49')
"""Nets of few layers. The slow test counts all of them."""


def small(number):
    return any(name in number.quantity for name in SMALL_NETS)


QUICK = {
    'nets': [
        number for number in (*published_nets.PRINTED, *published_nets.COUNTED) if small(number)
    ],
    'shapes': [number for number in published_shapes.SHAPES if 'LargeFOV' in number.quantity],
    'formulas': published_formulas.FORMULAS,
    'constants': published_constants.CONSTANTS,
    'data': published_data.DATA,
    'rates': published_rates.RATES,
    'settings': published_trainings.TRAININGS,
}


@pytest.mark.parametrize('group', QUICK)
def test_numbers_are_equal_or_differ_for_a_stated_reason(group):
    assert len(QUICK[group]) > 3
    compared = [numbers.compare(number) for number in QUICK[group]]
    assert [c for c in compared if numbers.problem(c)] == []


@pytest.mark.slow
@pytest.mark.parametrize('group', ['printed', 'counted', 'shapes'])
def test_all_nets(group):
    compared = [numbers.compare(number) for number in published.GROUPS[group].numbers]
    assert [c for c in compared if numbers.problem(c)] == []


def test_every_number_has_a_source_and_a_name_of_its_own():
    for name, group in published.GROUPS.items():
        keys = [(number.quantity, number.source) for number in group.numbers]
        assert len(set(keys)) == len(keys), name
        assert all(quantity and source for quantity, source in keys), name


@pytest.mark.parametrize('page', ['published_numbers.md', 'README.md'])
def test_the_results_have_the_sum(page):
    """Fails if a number was added: `python -m benchmarks.published` renews the page."""
    listed = [number for group in published.GROUPS.values() for number in group.numbers]
    different = sum(bool(number.reason) for number in listed)
    text = (REPOSITORY / 'docs/results' / page).read_text(encoding='utf-8')
    assert published.verdict(len(listed) - different, len(listed)) in text


def test_texts_fit_into_a_table():
    for group in published.GROUPS.values():
        for number in group.numbers:
            assert '|' not in number.quantity + number.source + number.reason


# --- comparison -----------------------------------------------------------------------------------


def compared(published_value, here, form, reason=''):
    return numbers.compare(Number('n', published_value, 's', lambda: here, form, reason))


@pytest.mark.parametrize(
    'value, here, form, difference',
    [
        (1448, 1488, numbers.whole, '+40'),
        (54.414e6, 54_413_955, numbers.millions(3), ''),
        (54.414e6, 54_414_600, numbers.millions(3), '+600'),
        (7.38, -5.63, numbers.decimals(2, 'dB'), '-13.01'),
        (7.38, 7.3849, numbers.decimals(2, 'dB'), ''),
        (1e-4, 2e-5, numbers.digits(4), '-8e-05'),
        ((90, 90), (90, 91), numbers.size, 'differs'),
        ('raw', 'tanh', numbers.words, 'differs'),
        (True, False, numbers.words, 'differs'),
        (True, True, numbers.words, ''),
    ],
)
def test_numbers_are_compared_in_the_digits_of_the_source(value, here, form, difference):
    assert compared(value, here, form).difference == difference


@pytest.mark.parametrize(
    'value, form, text',
    [
        (2_066_836, numbers.whole, '2,066,836'),
        (54_413_955, numbers.millions(3), '54.414 M'),
        (2e-4, numbers.digits(4), '0.0002'),
        (-0.554, numbers.decimals(2, 'dB'), '-0.55 dB'),
        (11.2, numbers.decimals(0), '11'),
        ((90, 90, 1024), numbers.size, '90x90x1024'),
        ((0.5, 2.0, 7), numbers.listing, '0.5, 2, 7'),
    ],
)
def test_forms(value, form, text):
    assert form(value) == text


def test_a_difference_needs_a_reason_and_a_reason_needs_a_difference():
    assert numbers.problem(compared(1, 1, numbers.whole)) == ''
    assert numbers.problem(compared(1, 2, numbers.whole, 'a misprint')) == ''
    assert 'no reason' in numbers.problem(compared(1, 2, numbers.whole))
    assert 'equal (1)' in numbers.problem(compared(1, 1, numbers.whole, 'a misprint'))


# --- the values here ------------------------------------------------------------------------------


def test_epochs_are_steps_times_batch_over_images(monkeypatch):
    values = {'train.num_steps': 300, 'train.batch_size': 4}
    monkeypatch.setattr(published_trainings, 'value_of', lambda config, key: values[key])
    assert published_trainings.epochs('c', 12, 100, 's').compute() == 12


@pytest.mark.parametrize('share, step', [('at first', 0), ('half-way', 10_000), ('last', 19_999)])
def test_rates_are_those_of_the_formula(share, step):
    moment = published_rates.LAST if share == 'last' else share
    rate = published_rates.rate_of('learned_dilation', 'optim', 'train.num_steps', moment)
    assert rate == pytest.approx(1e-3 * (1 - step / 20_000) ** 0.9, rel=1e-5)


class TwoLayers(nn.Module):
    """A net of two modules, 3 to 4 and 4 to 5 features."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5, name='second')(nn.Dense(4, name='first')(x))


def test_a_part_of_a_net_is_counted_alone():
    net = TwoLayers()
    assert published_nets.parameters(net) == (3 * 4 + 4) + (4 * 5 + 5)
    assert published_nets.parameters(net, (7, 3), part='first') == 3 * 4 + 4
    assert published_nets.parameters(net, part='second', further=100) == 125


# --- the command ----------------------------------------------------------------------------------

MADE_UP = (
    Number('images', 10, 'a paper', lambda: 10, numbers.whole),
    Number('rate', 1e4, 'a paper', lambda: 1e-4, numbers.digits(4), 'A misprint'),
)
UNEXPLAINED = Number('classes', 8, 'a paper', lambda: 7, numbers.whole)


@pytest.fixture
def groups(monkeypatch):
    """Replaces the tables by a table of two numbers."""
    made_up = {'data': published.Group('Data', 'Made up.', MADE_UP)}
    monkeypatch.setattr(published, 'GROUPS', made_up)
    return made_up


def test_the_page_has_the_numbers_and_their_sum(groups, tmp_path, capsys):
    record = published.main(['--output', f'{tmp_path}/page'])
    assert json.loads((tmp_path / 'page.json').read_text()) == record
    text = (tmp_path / 'page.md').read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    lines = text.splitlines()
    assert '**1 of 2 numbers are equal.** 1 differs for a stated reason.' in lines
    assert '| Data | 1 | 2 |' in lines
    assert '| images | 10 | 10 | equal | a paper |' in lines
    assert '| rate | 1e+04 | 0.0001 | -1e+04 | a paper |' in lines
    assert '| rate | 1e+04 | 0.0001 | A misprint | a paper |' in lines
    assert '- Command: `python -m benchmarks.published`' in lines


def test_an_unexplained_difference_is_named_and_ends_with_1(groups, tmp_path):
    groups['data'] = groups['data']._replace(numbers=(*MADE_UP, UNEXPLAINED))
    with pytest.raises(SystemExit) as stopped:
        published.main(['--output', f'{tmp_path}/page'])
    assert stopped.value.code == 1
    text = (tmp_path / 'page.md').read_text()
    assert '- classes: 8 published, 7 here, and no reason is stated' in text


def test_the_command_of_chosen_tables():
    assert published.command(['data', 'rates']).endswith('--groups data,rates')


def test_an_unknown_table_is_refused_with_the_nearest_name():
    with pytest.raises(InputError) as caught:
        published.parse(['--groups', 'data,rate'])
    assert caught.value.where == '--groups' and "'rates'" in caught.value.fix
