"""An attack net: the part of a canvas that it learns from, its verdicts, activation and scores."""

import jax
import numpy as np
import pytest
from fakes import NUM_CLASSES
from toy_membership import PATCH, SIZE, STRIDE, ToyAttacker, eval_batch, make_config

from segjax.data import transforms
from segjax.protocol import Input
from segjax.tasks import attack_net, segmentation

RNG = np.random.default_rng(0)
ANSWER = RNG.dirichlet(np.ones(NUM_CLASSES), (8, *SIZE)).astype(np.float32)


def make_net(**sections):
    net = segmentation.net_of(ToyAttacker(), lambda planes: planes)
    config = make_config(**sections)
    return attack_net.AttackNet(config.attacker, config.testing, net, NUM_CLASSES)


def variables(made):
    """Returns (parameters, batch statistics) of the toy attack net."""
    new = attack_net.new_variables(made, jax.random.key(0))
    return jax.tree.map(lambda x: 5 * x, new['params']), {}


@pytest.mark.parametrize('size', [(16, 32), (10, 32), (40, 20)])
def test_the_filled_part_is_that_of_the_image_in_its_canvas(size):
    """All further pixels of the canvas are black."""
    config = make_config()
    queries = Input('train', 2, ('image', 'label'), SIZE)
    inputs = attack_net.training_input(queries, config.attacker)
    assert inputs.batch_size == 8 and inputs.batch_key == 'attacker.batch_size'
    example = {'image': np.full((*size, 3), 200, np.uint8), 'label': np.zeros(size, np.uint8)}
    example = inputs.transform(example, np.random.default_rng(0))
    moved = transforms.resized(example, SIZE, dict(inputs.made))
    rows, columns = np.nonzero(moved['image'][..., 0] > 100)
    assert moved[attack_net.FILLED].tolist() == [rows.max() + 1, columns.max() + 1]
    assert (moved['label'] == 0).sum() == np.prod(moved[attack_net.FILLED])


def test_verdicts_are_those_of_the_patches():
    made = make_net(testing=dict(places='sliding', overlap=0.0))
    own = variables(made)
    batch = eval_batch()
    planes, size = attack_net.planes_of(made, ANSWER, batch['label'], batch['size'])
    got = attack_net.verdicts(made, own, batch, planes, size)
    # A map of 3 x 7 inside of the padding has two patches, which meet in a column.
    assert size[1].tolist() == [3, 7]
    kernel = np.asarray(own[0]['fc']['kernel'], np.float64)
    odds = []
    for column in (0, 3):
        patch = np.asarray(planes, np.float64)[1, :3, column : column + PATCH[1]]
        logits = patch.mean((0, 1)) @ kernel
        odds.append(logits[1] - logits[0])
    kept = np.asarray(got['weight'])[1] > 0
    np.testing.assert_allclose(sorted(np.asarray(got['patch'])[1][kept]), sorted(odds), atol=1e-4)
    probability = 1 / (1 + np.exp(-np.array(odds)))
    assert float(got['image'][1]) == pytest.approx(probability.mean(), rel=1e-4)


def test_the_activation_has_the_range_of_the_part_without_padding():
    made = make_net()
    own = variables(made)
    batch = eval_batch()
    planes, size = attack_net.planes_of(made, ANSWER, batch['label'], batch['size'])
    # The padding would have the largest and the smallest activation.
    planes = planes.at[1, 3:, ::2].set(50.0).at[1, 3:, 1::2].set(-50.0)
    level = np.asarray(attack_net.activation(made, own, planes, size))
    for row, (height, width) in enumerate(np.asarray(size)):
        inside = level[row, :height, :width]
        assert inside.min() == 0 and inside.max() == pytest.approx(1)
    assert not level[1, 3:].any() and not level[1, :, 7:].any()
    assert level.shape == (8, SIZE[0] // STRIDE, SIZE[1] // STRIDE)


def test_scores_of_verdicts_by_pairs():
    member = np.array([True, False, False, True])
    scores = attack_net.scores_of(np.array([0.9, 0.1, 0.8, 0.4]), member)
    assert scores['AUC'] == 0.75
    assert scores['AP'] == pytest.approx((1 + 2 / 3) / 2)
    nothing = {'AUC': None, 'AP': None}
    assert attack_net.scores_of(np.array([0.9, np.nan, 0.8, 0.4]), member) == nothing
