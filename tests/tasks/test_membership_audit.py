"""The audit of a victim: verdicts and signals by numpy, confusions, scores and known answers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fakes import NUM_CLASSES, SPEC
from toy_membership import (
    SIZE,
    eval_batch,
    make_audit,
    make_config,
    make_state,
    numpy_posteriors,
)

from segjax.core import parallel, rng
from segjax.metrics import membership
from segjax.metrics.membership_signals import image_signals
from segjax.ops import images
from segjax.tasks import guarded_net
from segjax.tasks import membership_audit as task
from segjax.tasks.feature_synthesis import SEGMENTER


def attacked(audit, state, batch):
    return jax.jit(lambda: task.attack(audit, state, batch, {}))()


def test_verdicts_and_signals_by_numpy():
    audit = make_audit()
    state = make_state()
    batch = eval_batch()
    outputs = attacked(audit, state, batch)
    answer = numpy_posteriors(state.params[SEGMENTER], batch['image']).astype(np.float32)
    for name, expected in image_signals(answer, batch['label']).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)

    # The verdict on an image is the mean probability of its patches.
    odds = np.asarray(outputs['verdict_patch'], np.float64)
    assert odds.shape == (8, 3)
    expected = (1 / (1 + np.exp(-odds))).mean(1)
    np.testing.assert_allclose(outputs['verdict_image'], expected, rtol=1e-5)


def test_a_verdict_depends_on_the_image_alone():
    """Neither the place in the batch nor the key of the evaluation matters."""
    audit = make_audit(testing=dict(defence='gaussian', strength=0.5))
    state = make_state()
    batch = eval_batch()
    attack = jax.jit(functools.partial(task.attack, audit, state))
    first = attack(batch, rng.streams(rng.root(0, 'any'), ('a',), 0, 0))
    turned = {key: value[::-1] for key, value in batch.items()}
    again = attack(turned, rng.streams(rng.root(7, 'any'), ('a',), 0, 0))
    for name, values in first.items():
        np.testing.assert_allclose(again[name][::-1], values, rtol=1e-4, atol=1e-5)


def test_sliding_patches_of_the_authors():
    testing = dict(places='sliding', fusion='sum_logits')
    outputs = attacked(make_audit(testing=testing), make_state(), eval_batch())
    # Maps of 4 x 8 in patches of 3 x 4, and a map of 3 x 7.
    assert outputs['verdict_weight'].sum(1).tolist() == [4, 2, 4, 4, 4, 4, 4, 4]


def test_references_answer_without_a_defence():
    audit = make_audit(references=dict(count=2), testing=dict(defence='argmax'))
    state = make_state(references=2)
    batch = eval_batch()
    outputs = attacked(audit, state, batch)
    answer = numpy_posteriors(state.params['reference_1'], batch['image']).astype(np.float32)
    expected = image_signals(answer, batch['label'])['loss']
    np.testing.assert_allclose(outputs['reference_1/loss'], expected, rtol=1e-4)
    # The victim is one-hot.
    assert (np.asarray(outputs['confidence']) == 1).all()


def test_confusions_of_members_and_of_others():
    audit = make_audit()
    state = make_state()
    batch = eval_batch()
    judge = task.make_judge(audit)
    count = functools.partial(task.score_segmentation, audit, judge, keys={})
    metrics = jax.jit(count)(state, batch)
    prediction = numpy_posteriors(state.params[SEGMENTER], batch['image']).argmax(-1)
    for kind, rows in (('members', [0, 1, 2]), ('non_members', [3, 4, 5, 6, 7])):
        expected = np.zeros((NUM_CLASSES, NUM_CLASSES))
        for row in rows:
            valid = batch['label'][row] < NUM_CLASSES
            pairs = (batch['label'][row][valid], prediction[row][valid])
            np.add.at(expected, pairs, 1)
        matrix = np.asarray(metrics[kind].sum)
        np.testing.assert_array_equal(matrix[:NUM_CLASSES, :NUM_CLASSES], expected)


def test_an_untrained_victim_tells_nothing():
    """The interval of the AUC holds 0.5, for a victim that has seen no image."""
    audit = make_audit()
    state = make_state()
    attack = jax.jit(lambda batch: task.attack(audit, state, batch, {}))
    verdicts = []
    losses = []
    for seed in range(16):
        outputs = attack(eval_batch(seed))
        verdicts.append(np.asarray(outputs['verdict_image']))
        losses.append(np.asarray(outputs['loss']))
    member = np.random.default_rng(0).random(128) < 0.5
    for scores in (np.concatenate(verdicts), -np.concatenate(losses)):
        kept = np.isfinite(scores)
        interval = membership.auc_interval(scores[kept], member[kept])
        assert interval['low'] < 0.5 < interval['high']


def test_the_scores_of_an_audit():
    audit = make_audit()
    judge = task.make_judge(audit)
    state = make_state()
    batch = eval_batch()
    outputs = {name: np.asarray(x) for name, x in attacked(audit, state, batch).items()}
    sums = task.observe(audit, batch, outputs)
    count = functools.partial(task.score_segmentation, audit, judge, keys={})
    metrics = jax.jit(count)(state, batch)
    with np.errstate(invalid='ignore'):  # most images of the splits are in no batch
        scores = task.finalize(audit, judge, {**parallel.to_host(metrics), **sums})
    member = batch['index'] < SPEC.num_examples['train']
    verdict = outputs['verdict_image']
    pairs = verdict[member][:, None] - verdict[~member]
    assert scores['AUC'] == pytest.approx((pairs > 0).mean())
    assert scores['attacks']['loss']['AUC'] is not None
    gap = scores['members_mIoU'] - scores['mIoU']
    assert scores['gap_mIoU'] == pytest.approx(gap)
    assert (scores['adversary'], scores['defence']) == ('dependent', 'none')
    assert scores['images'].split()[1::2] == ['members,', 'non-members']


def test_an_audit_of_other_members_is_refused():
    """An evaluation may have other lists than the training, whose images V has not seen."""
    audit = make_audit()
    other = audit._replace(members=audit.members ^ 1)
    for asked in (audit, other, audit._replace(members=None)):
        judge = task.make_judge(asked)
        count = functools.partial(task.score_segmentation, asked, judge, keys={})
        metrics = parallel.to_host(jax.jit(count)(make_state(), eval_batch()))
        known = metrics.get(task.KNOWN)
        if asked is not other:
            assert known is None or known.value() == 1
            continue
        with pytest.raises(task.InputError, match='other images than V was trained on'):
            task.finalize(other, judge, metrics)


def test_pictures_show_where_the_attacker_looks():
    audit = make_audit()
    batch = eval_batch()
    render = functools.partial(task.render, audit, task.make_judge(audit), keys={})
    pictures = jax.jit(render)(make_state(), batch)
    assert set(pictures) == {'prediction', 'truth', 'errors', 'activation'}
    shown = np.asarray(pictures['activation'].pixels)
    assert shown.shape == (8, *SIZE, 3) and shown.dtype == np.uint8
    # Every image has its own range.
    assert all(len(np.unique(picture.reshape(-1, 3), axis=0)) > 5 for picture in shown)


def test_the_activation_of_one_hot_losses_is_that_of_the_attack():
    """Verdicts and pictures read the same planes: the losses over 50."""
    audit = make_audit(
        attacker=dict(reading='loss'), testing=dict(defence='argmax', places='sliding')
    )
    batch = eval_batch()
    answer = np.eye(NUM_CLASSES, dtype=np.float32)[np.zeros((8, *SIZE), int)]
    planes, _ = task.attacked_planes(audit, answer, batch['label'], batch['size'])
    largest = -np.log(np.float32(1e-30)) / 50
    assert sorted(np.unique(planes)) == pytest.approx([0, largest], rel=1e-5)
    plain = make_audit(attacker=dict(reading='loss'))
    planes, _ = task.attacked_planes(plain, answer, batch['label'], batch['size'])
    assert float(planes.max()) == pytest.approx(50 * largest, rel=1e-5)


def test_predictions_are_the_answers_behind_the_defence():
    state = make_state()
    batch = eval_batch()
    image = batch['image']
    for testing in (dict(), dict(defence='gaussian', strength=0.5)):
        audit = make_audit(testing=testing)
        predict = jax.jit(task.make_evaluation(audit).predict)
        expected = guarded_net.defended_query(audit.victim, state, {'image': image})
        np.testing.assert_allclose(predict(state, image), expected, atol=1e-5)


# --- known answers --------------------------------------------------------------------------------


NUMBER = 40
MEMORISED = 10


@functools.cache
def trained():
    """Returns images, labels that no image tells, and a net that has learned the first ten."""
    generator = np.random.default_rng(5)
    image = generator.integers(0, 256, (NUMBER, 8, 8, 3)).astype(np.uint8)
    label = generator.integers(0, NUM_CLASSES, (NUMBER, 8, 8)).astype(np.int32)
    net = Memory()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)

    def loss(params):
        x = images.normalize(jnp.asarray(image[:MEMORISED]), 'unit')
        logits = net.apply(params, x, train=False)['logits']
        picked = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(picked, label[:MEMORISED, ..., None], -1).mean()

    optimiser = optax.adam(1e-2)

    def step(carry, _):
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = (variables, optimiser.init(variables))
    (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=300))(start)
    return image, label, net, params


class Memory(nn.Module):
    """A layer on all pixels: it can learn any labels of a few images."""

    @nn.compact
    def __call__(self, x, train: bool):
        size = x.shape[1:3]
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        x = nn.Dense(size[0] * size[1] * NUM_CLASSES)(x)
        return {'logits': x.reshape(len(x), *size, NUM_CLASSES)}


def losses_of_images():
    """Returns the signal 'loss' of the memorising victim on all images, [N]."""
    image, label, net, params = trained()
    config = make_config()
    guarded = guarded_net.GuardedNet(config, SPEC, net)
    query = jax.jit(functools.partial(guarded_net.query, guarded))
    answer = query(params['params'], {}, {'image': image})
    return np.asarray(image_signals(answer, label)['loss'])


def test_a_victim_that_memorised_ten_images_is_caught():
    member = np.arange(NUMBER) < MEMORISED
    scores = membership.attack_scores(-losses_of_images(), member, resamples=50)
    assert scores['AUC'] > 0.95
    assert scores['intervals']['AUC']['low'] > 0.9


def test_images_that_a_trained_victim_has_not_seen_are_drawn_alike():
    """Two halves of the images that were not learned: the interval of the AUC holds 0.5."""
    rest = -losses_of_images()[MEMORISED:]
    member = np.arange(len(rest)) % 2 == 0
    interval = membership.auc_interval(rest, member)
    assert interval['low'] < 0.5 < interval['high']
