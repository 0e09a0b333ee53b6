"""The confusion matrix and its scores against tables, scikit-learn and cityscapesScripts."""

import copy
import functools
import json

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
from cityscapesscripts.helpers import labels as cityscapes_labels

from segjax.errors import InputError
from segjax.metrics import confusion

TRAIN_CLASSES = sorted(
    (x for x in cityscapes_labels.labels if not x.ignoreInEval), key=lambda x: x.trainId
)
NAMES = tuple(x.name for x in TRAIN_CLASSES)
count = jax.jit(confusion.confusion, static_argnums=2)


def ones(n):
    return np.ones(n, np.float32)


# --- counting -------------------------------------------------------------------------------------


def test_literal_matrix():
    label = np.array([[[0, 0, 1], [1, 255, 2]], [[0, 0, 0], [0, 0, 0]], [[2, 2, 255], [255, 1, 1]]])
    prediction = np.array(
        [[[0, 1, 1], [7, 0, 2]], [[1, 1, 1], [1, 1, 1]], [[-1, 2, 1], [2, 1, 255]]]
    )
    got = count(prediction, label, 3, np.array([1.0, 0.0, 1.0]))
    chex.assert_type(got.sum, jnp.int32)
    np.testing.assert_array_equal(got.sum, [[1, 1, 0, 0], [0, 2, 0, 2], [0, 0, 2, 1], [0, 0, 0, 0]])
    assert got.count == 1


@pytest.mark.parametrize(('classes', 'dtype'), [(2, np.int32), (19, np.uint8), (150, np.int32)])
def test_is_sklearns_matrix(classes, dtype):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, classes, (3, 31, 47)).astype(dtype)
    label[rng.random(label.shape) < 0.2] = 255
    prediction = rng.integers(0, classes, label.shape).astype(dtype)
    matrix = np.asarray(count(prediction, label, classes, ones(3)).sum)
    valid = label != 255
    expected = sklearn.metrics.confusion_matrix(
        label[valid], prediction[valid], labels=range(classes)
    )
    np.testing.assert_array_equal(matrix[:classes, :classes], expected)
    assert matrix.sum() == valid.sum()


def test_counts_stay_exact_beyond_float32_integers():
    side = 4099  # 4099**2 = 2**24 + 24585
    label = jnp.zeros((1, side, side), jnp.uint8)
    matrix = count(label.at[0, 0, 0].set(1), label, 2, ones(1)).sum
    np.testing.assert_array_equal(matrix, [[side**2 - 1, 1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize('seed', range(5))
def test_a_merged_matrix_is_the_matrix_of_merged_maps(seed):
    rng = np.random.default_rng(seed)
    classes, merged_classes = 12, 4
    train_ids = rng.choice([0, 1, 2, 3, 255], classes)
    # Some pixels are void, predicted as nothing, or labelled out of range.
    label = rng.choice([*range(classes), classes + 3, 255], (3, 20, 30))
    prediction = rng.integers(-1, classes + 2, (3, 20, 30))
    table = np.full(257, merged_classes)
    table[:classes] = train_ids
    table[255] = 255
    table[-1] = table[classes] = table[classes + 1] = 255  # predictions of nothing
    weight = np.array([1.0, 0.0, 2.0])
    whole = count(prediction, label, classes, weight).sum
    expected = count(table[prediction], table[label], merged_classes, weight).sum
    got = confusion.merged(np.asarray(whole, np.float64), train_ids, merged_classes)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float64 and got[merged_classes].any()


def test_a_merge_of_another_matrix_is_refused():
    with pytest.raises(InputError, match='shape'):
        confusion.merged(np.zeros((4, 4)), (0, 1), 2)


def test_label_out_of_range_is_refused_where_a_human_reads_it():
    label = np.array([[[0, 1, 2, 254, 255]]])
    matrix = np.asarray(count(np.zeros_like(label), label, 2, ones(1)).sum)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [1, 0, 0], [2, 0, 0]])
    with pytest.raises(InputError, match='2 pixels whose label is neither a class nor 255'):
        confusion.scores(matrix, ('a', 'b'), 'cityscapes')


# --- scores ---------------------------------------------------------------------------------------


def test_literal_scores():
    #                   predicted a  b  c  nothing
    matrix = np.array([[6, 2, 0, 2], [1, 4, 0, 0], [0, 0, 5, 0]])
    got = confusion.scores(matrix, ('a', 'b', 'c'), 'cityscapes')
    assert got['policy'] == 'cityscapes'
    assert got['IoU'] == pytest.approx({'a': 6 / 11, 'b': 4 / 7, 'c': 1})
    assert got['accuracy'] == pytest.approx({'a': 0.6, 'b': 0.8, 'c': 1})
    assert got['Dice'] == pytest.approx({'a': 12 / 17, 'b': 8 / 11, 'c': 1})
    assert got['mIoU'] == pytest.approx((6 / 11 + 4 / 7 + 1) / 3)
    assert got['class_accuracy'] == pytest.approx(0.8)
    assert got['mDice'] == pytest.approx((12 / 17 + 8 / 11 + 1) / 3)
    assert got['pixel_accuracy'] == pytest.approx(15 / 20)
    assert got['fwIoU'] == pytest.approx((10 * 6 / 11 + 5 * 4 / 7 + 5) / 20)
    assert json.loads(json.dumps(got)) == got


@pytest.mark.parametrize(
    ('policy', 'iou', 'accuracy', 'dice'),
    [
        ('cityscapes', (0.5, 0.5, 0, None), (0.5, 1, None, None), (2 / 3, 2 / 3, 0, None)),
        ('absent_zero', (0.5, 0.5, 0, 0), (0.5, 1, 0, 0), (2 / 3, 2 / 3, 0, 0)),
        ('absent_one', (0.5, 0.5, 0, 1), (0.5, 1, 1, 1), (2 / 3, 2 / 3, 0, 1)),
        ('truth_only', (0.5, 0.5, None, None), (0.5, 1, None, None), (2 / 3, 2 / 3, None, None)),
    ],
)
def test_policies(policy, iou, accuracy, dice):
    # c is predicted but never true, d is neither.
    matrix = np.array([[4, 2, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    got = confusion.scores(matrix, tuple('abcd'), policy)
    for by_class, mean, expected in (
        ('IoU', 'mIoU', iou),
        ('accuracy', 'class_accuracy', accuracy),
        ('Dice', 'mDice', dice),
    ):
        assert got[by_class] == pytest.approx(dict(zip('abcd', expected)))
        assert got[mean] == pytest.approx(np.mean([x for x in expected if x is not None]))
    assert got['pixel_accuracy'] == 0.6  # 6 / 10, whatever the policy
    assert got['fwIoU'] == 0.5


def test_one_matrix_has_four_mious():
    # 17 classes of IoU 0.8, a class that is only predicted, and an absent class. Published numbers
    # differ in how they count these two.
    matrix = np.zeros((19, 19))
    matrix[range(17), range(17)] = 8
    matrix[range(17), [*range(1, 17), 0]] = 1
    matrix[0, [1, 17]] = 0, 1
    mean_of_seen = np.mean(
        [confusion.scores(matrix, NAMES, 'truth_only')['IoU'][n] for n in NAMES[:17]]
    )
    got = {policy: confusion.scores(matrix, NAMES, policy)['mIoU'] for policy in confusion.POLICIES}
    assert got == pytest.approx(
        {
            'cityscapes': mean_of_seen * 17 / 18,
            'absent_zero': mean_of_seen * 17 / 19,
            'absent_one': (mean_of_seen * 17 + 1) / 19,
            'truth_only': mean_of_seen,
        }
    )
    assert len({round(v, 3) for v in got.values()}) == 4


def test_empty_matrix_has_no_scores():
    got = confusion.scores(np.zeros((3, 3)), ('a', 'b', 'c'), 'cityscapes')
    assert all(
        got[k] is None for k in ('mIoU', 'pixel_accuracy', 'class_accuracy', 'fwIoU', 'mDice')
    )
    assert got['IoU'] == {'a': None, 'b': None, 'c': None}


def test_is_sklearns_jaccard_recall_and_f_score():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 7, (2, 20, 30))
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 7, label.shape))
    got = confusion.scores(count(prediction, label, 7, ones(2)).sum, tuple('abcdefg'), 'cityscapes')
    y = label.ravel()
    p = prediction.ravel()
    for key, metric in (('IoU', 'jaccard'), ('accuracy', 'recall'), ('Dice', 'f1')):
        expected = getattr(sklearn.metrics, f'{metric}_score')(y, p, average=None)
        np.testing.assert_allclose(list(got[key].values()), expected, rtol=1e-12)
    assert got['fwIoU'] == pytest.approx(
        sklearn.metrics.jaccard_score(y, p, average='weighted'), rel=1e-12
    )
    assert got['pixel_accuracy'] == pytest.approx(sklearn.metrics.accuracy_score(y, p), rel=1e-12)


def test_errors():
    with pytest.raises(InputError, match="did you mean 'cityscapes'"):
        confusion.scores(np.eye(2), ('a', 'b'), 'cityscape')
    with pytest.raises(InputError, match='one of absent_one'):
        confusion.check_policy('nan')
    with pytest.raises(InputError, match=r'shape \(2, 2\)'):
        confusion.scores(np.eye(2), ('a', 'b', 'c'), 'cityscapes')
    with pytest.raises(InputError, match=r"\['a'\] more than once"):
        confusion.scores(np.eye(3), ('a', 'b', 'a'), 'cityscapes')
    with pytest.raises(InputError, match='class prior'):
        confusion.class_prior(np.eye(2), [0, 0])


# --- cityscapesScripts ----------------------------------------------------------------------------


def official(label_ids, prediction_ids, folder):
    """Scores pairs of maps of label ids with cityscapesScripts: (average, {class: IoU})."""
    args = copy.copy(evalPixelLevelSemanticLabeling.args)
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    files = []
    for kind, maps in (('pred', prediction_ids), ('gt', label_ids)):
        files.append([str(folder / f'{kind}_{i}.png') for i in range(len(maps))])
        for file, ids in zip(files[-1], maps):
            cv2.imwrite(file, ids)
    result = evalPixelLevelSemanticLabeling.evaluateImgLists(*files, args)
    return result['averageScoreClasses'], {name: result['classScores'][name] for name in NAMES}


def train_ids(ids):
    table = np.full(256, 255, np.int32)
    for x in TRAIN_CLASSES:
        table[x.id] = x.trainId
    return table[ids]


def assert_official(label_ids, prediction_ids, folder):
    prediction = np.stack(list(map(train_ids, prediction_ids)))
    label = np.stack(list(map(train_ids, label_ids)))
    matrix = count(prediction, label, 19, ones(len(label))).sum
    got = confusion.scores(matrix, NAMES, 'cityscapes')
    mean, by_class = official(label_ids, prediction_ids, folder)
    assert got['mIoU'] == pytest.approx(mean, rel=1e-12)
    for name, iou in by_class.items():
        assert got['IoU'][name] == (None if np.isnan(iou) else pytest.approx(iou, rel=1e-12)), name
    return got


def perturbed(ids, rng):
    """Builds a prediction from the truth.

    It is shifted, and has blocks of wrong classes, void predictions and a swapped class.
    """
    out = np.roll(ids, (2, 5), (0, 1))
    blocks = rng.random((ids.shape[0] // 16 + 1, ids.shape[1] // 16 + 1)) < 0.15
    wrong = np.kron(blocks, np.ones((16, 16), bool))[: ids.shape[0], : ids.shape[1]]
    out = np.where(wrong, rng.choice([x.id for x in TRAIN_CLASSES]), out)
    out = np.where(rng.random(ids.shape) < 0.03, rng.choice([0, 4, 9, 30], ids.shape), out)
    return np.where(out == 26, 28, out).astype(np.uint8)


def test_agrees_with_cityscapes_scripts_on_random_maps(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.arange(34)
    ids = ids[~np.isin(ids, [27, 31, 32])]  # truck, train and motorcycle are never true ...
    label = rng.choice(ids, (3, 24, 40)).astype(np.uint8)
    prediction = np.where(
        rng.random(label.shape) < 0.5, label, rng.choice(ids, label.shape)
    ).astype(np.uint8)
    prediction[0, :3, :3] = 31  # ... and a train is predicted,
    ignored = np.isin(label, [x.id for x in cityscapes_labels.labels if x.ignoreInEval])
    prediction[ignored & (rng.random(label.shape) < 0.5)] = (
        32  # a motorcycle only where it cannot matter
    )
    assert ((prediction == 31) & ~ignored).any()
    got = assert_official(label, prediction, tmp_path)
    assert (
        got['IoU']['truck'] is None
        and got['IoU']['train'] == 0
        and got['IoU']['motorcycle'] is None
    )


def test_agrees_with_cityscapes_scripts_on_real_maps(real_data, tmp_path):
    files = sorted((real_data / 'cityscapes_mini').glob('gtFine/*/*/*_labelIds.png'))
    if not files:
        pytest.skip('no cityscapes_mini')
    label = [cv2.imread(str(f), cv2.IMREAD_UNCHANGED)[::4, ::4] for f in files]
    rng = np.random.default_rng(1)
    got = assert_official(label, [perturbed(x, rng) for x in label], tmp_path)
    assert 0.1 < got['mIoU'] < 0.9


# --- blind predictors -----------------------------------------------------------------------------


def test_blind_predictors_literally():
    matrix = np.array(
        [[3, 3, 0], [1, 1, 0], [0, 0, 0]]
    )  # truth 6 and 2, with the additional row and column of `confusion`
    prior = [100, 300]
    np.testing.assert_array_equal(confusion.commonest_class(matrix, prior), [[0, 6], [0, 2]])
    np.testing.assert_array_equal(confusion.class_prior(matrix, prior), [[1.5, 4.5], [0.5, 1.5]])


def test_blind_predictors_are_what_such_predictors_get():
    rng = np.random.default_rng(0)
    label = rng.choice(4, (1, 300, 300), p=[0.5, 0.3, 0.15, 0.05])
    prior = np.array([10, 60, 20, 10])
    truth = count(label, label, 4, ones(1)).sum
    always = count(np.full_like(label, 1), label, 4, ones(1)).sum
    np.testing.assert_array_equal(confusion.commonest_class(truth, prior), always[:4, :4])
    drawn = count(rng.choice(4, label.shape, p=prior / 100), label, 4, ones(1)).sum
    got, expected = (confusion.scores(m, tuple('abcd'), 'cityscapes') for m in
                     (confusion.class_prior(truth, prior), drawn))  # fmt: skip
    assert got['mIoU'] == pytest.approx(expected['mIoU'], abs=0.005)
    assert got['pixel_accuracy'] == pytest.approx(expected['pixel_accuracy'], abs=0.01)


# --- per image ------------------------------------------------------------------------------------


def test_image_iou_is_sklearns_per_image():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 6, (5, 9, 11))
    label[1][label[1] > 2] = 2
    label[rng.random(label.shape) < 0.1] = 255
    label[3] = 255
    prediction = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, 5, label.shape))
    prediction[4] = np.where(
        rng.random(prediction[4].shape) < 0.1, 99, prediction[4]
    )  # predicts nothing there
    got = jax.jit(confusion.image_iou, static_argnums=2)(
        prediction, label, 6, np.array([1, 1, 0, 1, 1])
    )
    for i in (0, 1, 4):
        y = label[i][label[i] != 255]
        p = prediction[i][label[i] != 255]
        present = [c for c in range(6) if c in y or c in p]
        expected = sklearn.metrics.jaccard_score(y, p, labels=present, average='macro')
        assert got[i] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(got[2]) and np.isnan(got[3])
    label[0, 0, 0] = 77
    assert np.isnan(confusion.image_iou(prediction, label, 6, ones(5))[0])


def test_per_example_survives_any_dealing_out():
    place = functools.partial(confusion.per_example, num_examples=6)
    first = place(np.array([0.5, np.nan]), np.array([4, 1]), np.array([1.0, 1.0]))
    second = place(np.array([0.25, 7.0]), np.array([0, 99]), np.array([1.0, 0.0]))
    total = jax.tree.map(jnp.add, first, second)
    np.testing.assert_array_equal(total.count, [1, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(total.value(), [0.25, np.nan, np.nan, np.nan, 0.5, np.nan])
    assert np.isnan(place(np.array([1.0]), np.array([6]), ones(1)).sum).all()
