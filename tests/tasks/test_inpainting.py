"""Scores of completed boxes, their intervals, and the predictors that see no context."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import SPEC

from segjax.core import parallel
from segjax.tasks import inpainting
from segjax.tasks.inpainting import Boxes

K = 5
SIZE = (40, 64)


def box_masks(*boxes):
    """Returns masks [B, H, W] of boxes (top, left, height, width)."""
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (top, left, height, width) in zip(masks, boxes, strict=True):
        mask[top : top + height, left : left + width] = True
    return masks


def random_shapes(number, seed=0):
    return np.random.default_rng(seed).random((number, *SIZE)) > 0.5


stretched = jax.jit(inpainting.stretched, static_argnums=2)


# --- training shapes ------------------------------------------------------------------------------


def test_a_stretched_shape_is_the_content_of_its_box():
    side = inpainting.SHAPE_SIDE
    mask = box_masks((3, 5, side, side))
    shapes = random_shapes(1)
    found = stretched(jnp.array(shapes), jnp.array(mask), side)
    np.testing.assert_array_equal(found[0], shapes[0, 3 : 3 + side, 5 : 5 + side])


def test_a_shape_of_another_size_reads_the_nearest_pixels():
    mask = box_masks((2, 4, 8, 16))
    shapes = random_shapes(1)
    found = stretched(jnp.array(shapes), jnp.array(mask), 32)
    expected = shapes[0, 2:10, 4:20].repeat(4, 0).repeat(2, 1)
    np.testing.assert_array_equal(found[0], expected)


def test_pasting_inverts_stretching():
    mask = box_masks((2, 4, 8, 16), (0, 0, 32, 32), (8, 0, 16, 64))
    shapes = random_shapes(3) & mask
    small = stretched(jnp.array(shapes), jnp.array(mask), 32)
    again = jax.jit(inpainting.pasted)(small, jnp.array(mask))
    np.testing.assert_array_equal(again[:2], shapes[:2])
    # A box that is larger than the shape loses details, and nothing leaves the box.
    assert not again[2][~mask[2]].any()


def shape_batches(steps=3, rows=8):
    generator = np.random.default_rng(7)
    for step in range(steps):
        tops = generator.integers(0, 8, rows)
        mask = box_masks(*[(top, 5, 32, 32) for top in tops])
        batch = {
            'mask_box': mask.astype(np.uint8),
            'mask_object': (random_shapes(rows, step) & mask).astype(np.uint8),
            # K marks boxes without an object.
            'class_id': generator.integers(0, K + 1, rows).astype(np.int32),
        }
        # A cut has skipped all pixels of the last box.
        batch['mask_box'][-1] = 0
        batch['mask_object'][-1] = 0
        yield batch


@pytest.mark.parametrize('devices', [1, 8])
def test_the_memory_holds_the_sum_and_the_last_shape_of_each_class(devices):
    topology = parallel.topology('pmap', devices)
    step = topology.spmd(inpainting.with_shapes, num_args=2)
    seen = topology.put_replicated(inpainting.no_shapes(K))
    total = np.zeros((K, 32, 32))
    count = np.zeros(K)
    last = np.zeros((K, 32, 32))
    for batch in shape_batches():
        seen = step(seen, topology.put_batch(batch))
        for mask, shape, class_id in zip(*batch.values(), strict=True):
            if class_id < K and mask.any():
                top = mask.any(1).argmax()
                content = shape[top : top + 32, 5:37]
                total[class_id] += content
                count[class_id] += 1
                last[class_id] = content
    seen = parallel.to_host(seen)
    np.testing.assert_array_equal(seen['total'], total)
    np.testing.assert_array_equal(seen['count'], count)
    np.testing.assert_array_equal(seen['last'], last)


# --- predictors that see no context ---------------------------------------------------------------


def street():
    """Returns a map whose lower half is class 0, with an object of class 3 in a box."""
    truth = np.ones((1, *SIZE), np.int32)
    truth[:, 20:] = 0
    mask = box_masks((24, 8, 8, 8))
    truth[0, 26:30, 8:16] = 3
    return Boxes(jnp.array(truth), jnp.array([3]), jnp.array(mask))


def memory(mean, last):
    seen = inpainting.no_shapes(K)
    total = seen['total'].at[3].set(4 * mean)
    return {'total': total, 'count': jnp.full(K, 4.0), 'last': seen['last'].at[3].set(last)}


def test_the_predictors_fill_the_box_and_nothing_else():
    boxes = street()
    middle = np.zeros((32, 32))
    middle[8:24] = 1
    seen = memory(0.6 * middle, 1 - middle)
    found = jax.jit(inpainting.baselines, static_argnums=2)(seen, boxes, K)
    inside = np.asarray(boxes.mask[0])
    for name, completed in found.items():
        outside = np.asarray(completed[0])[~inside]
        np.testing.assert_array_equal(outside, np.asarray(boxes.truth[0])[~inside], name)
    assert (np.asarray(found['fill'][0])[inside] == 3).all()
    # The mean shape is the true object, above the class that surrounds the box.
    np.testing.assert_array_equal(found['mean_shape'], boxes.truth)
    box = np.asarray(found['training_shape'][0, 24:32, 8:16])
    assert (box[:2] == 3).all() and (box[2:6] == 0).all() and (box[6:] == 3).all()


def test_the_commonest_class_of_the_ring_ignores_void_and_the_box():
    boxes = street()
    truth = boxes.truth.at[0, 24:32, 8:16].set(4).at[0, 23, 7:17].set(255)
    assert inpainting.commonest_around(truth, boxes.mask, K).tolist() == [0]


# --- scores ---------------------------------------------------------------------------------------

ROWS = 4
IMAGES = 3


def make_judge(complete, classify=None):
    return inpainting.Judge(
        spec=SPEC,
        num_classes=K,
        complete=lambda state, batch: (complete(state, batch), {}),
        truth=lambda batch: Boxes(batch['label'], batch['class_id'], batch['mask_box'] > 0),
        num_boxes=ROWS * IMAGES,
        rows=ROWS,
        reference='gt_in_mask',
        classify=classify,
    )


STATE = types.SimpleNamespace(extra={})
"""A state without training shapes."""


def eval_step(judge, batch, extra=None):
    def of_extra(extra, batch):
        state = types.SimpleNamespace(extra=extra)
        return inpainting.eval_step(judge, state, batch, {})

    return jax.jit(of_extra)(extra or {}, batch)


def batch_of(weight=(1, 1, 1, 0)):
    """Returns three boxes of two images, and padding."""
    boxes = street()
    label = np.repeat(np.asarray(boxes.truth), 4, 0)
    label[1, 26:30, 8:12] = 255
    return {
        'label': jnp.array(label),
        'class_id': jnp.array([3, 3, 1, 3]),
        'mask_box': jnp.array(np.repeat(np.asarray(boxes.mask), 4, 0)),
        'weight': jnp.array(weight, jnp.float32),
        'index': jnp.array([0, 2, ROWS + 1, ROWS * IMAGES]),
    }


def noisy(state, batch):
    """Returns the true maps with a row of class 4 in each box, which is noise."""
    return jnp.where(batch['label'] == 255, 3, batch['label']).at[:, 24, 8:16].set(4)


def test_each_box_is_scored_once_and_padding_never():
    judge = make_judge(noisy)
    scores = inpainting.finalize(judge, eval_step(judge, batch_of()))
    assert scores['boxes'] == 3
    assert scores['NN'] == 8
    assert scores['noisy_boxes'] == 1
    # Ignored pixels do not count: 56 of 64, 40 of 48, and 56 of 64 pixels are right.
    np.testing.assert_allclose(scores['hamm'], (56 / 64 + 40 / 48 + 56 / 64) / 3)
    # The box of class 1 has no pixel of class 1, so it has no tIOU.
    assert scores['tIOU'] == 1.0
    assert scores['per_class']['class 3'] == {
        'tIOU': 1.0,
        'hamm': pytest.approx((56 / 64 + 40 / 48) / 2),
        'NN': 8.0,
        'boxes': 2,
    }
    assert scores['per_class']['class 1']['tIOU'] is None


def test_a_box_without_a_pixel_has_no_score():
    batch = batch_of()
    batch['mask_box'] = batch['mask_box'].at[1].set(False)
    judge = make_judge(noisy)
    scores = inpainting.finalize(judge, eval_step(judge, batch))
    assert scores['boxes'] == 2
    # Zero noise pixels of a box that nobody saw would lower the mean.
    assert scores['NN'] == 8 and scores['noisy_boxes'] == 1


def test_intervals_resample_images():
    judge = make_judge(noisy)
    scores = inpainting.finalize(judge, eval_step(judge, batch_of()))
    low = (56 / 64 + 40 / 48) / 2
    interval = scores['intervals']['hamm']
    np.testing.assert_allclose(interval['low'], low, rtol=1e-6)
    np.testing.assert_allclose(interval['high'], 56 / 64, rtol=1e-6)


def test_gains_over_a_baseline_are_differences_of_the_same_boxes():
    state = types.SimpleNamespace(extra={inpainting.SHAPES_SEEN: memory(np.ones((32, 32)), 0)})
    judge = make_judge(noisy)
    scores = inpainting.finalize(judge, eval_step(judge, batch_of(), state.extra))
    # The filled box is right in 32 of 64, 16 of 48 and 0 of 64 pixels.
    fill = scores['baseline_fill']['hamm']
    np.testing.assert_allclose(fill, (32 / 64 + 16 / 48) / 3)
    gain = scores['gains']['hamm over fill']
    np.testing.assert_allclose(gain['mean'], scores['hamm'] - fill, rtol=1e-6)
    # Box by box: 24 of 64 and 24 of 48 in the first image, 56 of 64 in the second.
    np.testing.assert_allclose([gain['low'], gain['high']], [(24 / 64 + 24 / 48) / 2, 56 / 64])


def test_sem_compares_the_pixels_of_the_target_class_inside_the_box():
    seen = []

    def classify(state, planes):
        seen.append(np.asarray(planes))
        area = planes[..., 0].sum((1, 2))
        return jnp.stack([area, jnp.zeros_like(area)], -1)

    judge = make_judge(lambda state, batch: batch['label'].at[0, 26:30, 8:16].set(0), classify)
    scores = inpainting.finalize(judge, inpainting.eval_step(judge, STATE, batch_of(), {}))
    completed, truth = seen
    assert completed[0, ..., 0].sum() == 0
    assert truth[0, ..., 0].sum() == 32
    assert (truth[..., 1] == np.asarray(batch_of()['mask_box'])).all()
    # The first box lost its object: softmax (0.5, 0.5) against (1, 0). The remaining are equal.
    np.testing.assert_allclose(scores['Sem'], 0.5 / 3, rtol=1e-5)


def test_pictures_show_errors_and_noise_inside_the_box():
    judge = make_judge(noisy)
    pictures = inpainting.render(judge, STATE, batch_of(), {})
    assert list(pictures) == ['prediction', 'incomplete', 'truth', 'errors']
    errors = np.asarray(pictures['errors'].pixels)
    assert (errors[0, 24, 8:16] == inpainting.NOISE_COLOR).all()
    assert (errors[0, 23, 7:17] == inpainting.BOX_COLOR).all()
    assert (errors[0, :20] == 235).all()
    assert pictures['prediction'].values['NN'].tolist() == [8, 8, 8, 8]


def test_label_maps_count_inside_the_box_alone():
    judge = make_judge(noisy)
    maps = inpainting.label_maps(judge, STATE, batch_of(), {})
    counted = np.asarray(maps.truth) != 255
    assert counted[0].sum() == 64 and counted[1].sum() == 48
    assert maps.size.tolist() == [list(SIZE)] * 4
