"""Warnings of confounded splits: what fires, what does not, and the regression behind them."""

import numpy as np
import pytest

from segjax.errors import InputError
from segjax.metrics import confound as confounds
from segjax.metrics import ranking

N = 160
MEMBER = np.arange(N) % 2 == 0


def facts_of(rng):
    """Returns facts that do not depend on membership."""
    return {
        'colour': rng.normal(size=(N, 3)),
        'contrast': rng.normal(size=N),
        'sequence': np.array([f's{number}' for number in rng.integers(0, 8, N)]),
    }


def test_a_random_split_gives_no_warning():
    warnings = 0
    for seed in range(8):
        result = confounds.confound(facts_of(np.random.default_rng(seed)), MEMBER)
        warnings += result.note is not None
        assert 0.3 < result.auc < 0.7 and 0.5 < result.chance < 0.75
        assert (result.note is not None) == (result.auc > result.chance)
    assert warnings <= 1, 'at 2.5 % there are more in one of 60 series'


def test_different_sequences_are_named():
    facts = facts_of(np.random.default_rng(0))
    facts['sequence'] = np.where(MEMBER, 'aachen', 'bonn')
    result = confounds.confound(facts, MEMBER)
    assert result.auc == result.by_fact['sequence'] == 1 > result.chance
    assert "'sequence' (1.00 alone)" in result.note.message
    assert '1.00 (1.00 to 1.00)' in result.note.message
    assert 'at random' in result.note.fix


def test_a_difference_in_brightness_is_found_among_many_facts():
    facts = facts_of(np.random.default_rng(1))
    facts['colour'] = facts['colour'] + 0.7 * MEMBER[:, None]
    result = confounds.confound(facts, MEMBER)
    assert result.low > 0.6 and result.note is not None
    assert max(result.by_fact, key=result.by_fact.get) == 'colour'
    assert result.by_fact['contrast'] < 0.65


def test_the_scores_of_a_fold_come_from_the_images_outside_of_it():
    """With one name for each image a regression that sees its own image would be perfect."""
    rng = np.random.default_rng(2)
    names = np.array([f'image {number}' for number in range(N)])
    assert confounds.confound({'name': names}, MEMBER).auc == 0.5
    numbers = rng.normal(size=(N, 2 * N))
    weights, bias = confounds.regress(numbers, MEMBER)
    own = ranking.area(ranking.roc(numbers @ weights + bias, MEMBER))
    assert own == 1
    assert confounds.confound({'noise': numbers}, MEMBER).auc < 0.65


@pytest.mark.parametrize('penalty', [0.1, 1.0])
def test_the_regression_is_that_of_scikit_learn(penalty):
    linear_model = pytest.importorskip('sklearn.linear_model')
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(N, 3)) * [1, 2, 0.3]
    truth = numbers @ [1, -0.5, 2] + rng.normal(size=N) > 0.3
    weights, bias = confounds.regress(numbers, truth, penalty)
    reference = linear_model.LogisticRegression(C=1 / penalty, tol=1e-8).fit(numbers, truth)
    np.testing.assert_allclose(weights, reference.coef_[0], rtol=1e-3)
    assert bias == pytest.approx(reference.intercept_[0], rel=1e-3)


def test_facts_of_an_image_are_its_means():
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (4, 5, 3), np.uint8)
    label = np.array([[0, 0, 2, 255, 255]] * 4)
    got = confounds.image_facts(image, label, 3)
    for channel in range(3):
        assert got['colour'][channel] == pytest.approx(image[..., channel].mean() / 255)
    luminances = [(0.299 * r + 0.587 * g + 0.114 * b) / 255 for r, g, b in image.reshape(-1, 3)]
    assert got['contrast'] == pytest.approx([np.std(luminances)])
    np.testing.assert_array_equal(got['size'], [4, 5])
    np.testing.assert_allclose(got['class_shares'], [2 / 3, 0, 1 / 3])
    nothing = confounds.image_facts(image, np.full((4, 5), 255), 3)
    np.testing.assert_array_equal(nothing['class_shares'], [0, 0, 0])
    assert 'class_shares' not in confounds.image_facts(image)


def test_equal_images_of_members_and_non_members_give_chance():
    image = np.full((4, 5, 3), 100, np.uint8)
    rows = [confounds.image_facts(image, np.zeros((4, 5), int), 2) for _ in range(N)]
    facts = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    result = confounds.confound(facts, MEMBER)
    assert result[:4] == (0.5, 0.5, 0.5, 0.5) and result.note is None


def test_wrong_facts_are_named():
    with pytest.raises(InputError, match=r"fact 'size'.*\n.*\[3\], for 160"):
        confounds.confound({'size': np.zeros(3)}, MEMBER)
    texts = np.full((N, 2), 'a')
    for values in (np.full(N, np.nan), 5.0, 'a', texts, [None] * N):
        with pytest.raises(InputError, match="fact 'size'"):
            confounds.confound({'size': values}, MEMBER)
    few = np.arange(N) < 4
    with pytest.raises(InputError, match='4 of members'):
        confounds.confound({'size': np.zeros(N)}, few)
    with pytest.raises(InputError, match='0 of members'):
        confounds.confound({'size': []}, [])


def test_no_facts_are_refused_and_the_fix_has_facts():
    with pytest.raises(InputError, match='0 facts') as error:
        confounds.confound({}, MEMBER)
    result = eval(error.value.fix, {'confound': confounds.confound, 'numpy': np})
    assert result.auc == 0.5
    with pytest.raises(InputError, match=r'members of shape \[\]'):
        confounds.confound({'size': np.zeros(N)}, True)
