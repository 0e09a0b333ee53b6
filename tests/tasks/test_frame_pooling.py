"""The pooling of a step: against loops, gradients, evaluation, inputs and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_batches import FRAMES, REACH, SIZE, P, make_batch, make_scores
from fakes import NUM_CLASSES

from segjax.data import builders
from segjax.tasks import frame_pooling
from segjax.tasks.clip_features import matches_of


def make_pooling(use, **changes):
    """Returns a pooling of the frames of `make_batch`."""
    values = dict(
        use=use,
        spatial='mean',
        temporal='mean',
        num_frames=FRAMES,
        offsets=tuple(range(-REACH, REACH + 1)),
        interval=1,
        reach=REACH,
        levels=('ids_region',),
        border=0,
        blend=0,
    )
    return frame_pooling.Pooling(**values | changes)


def pool(scores, batch, pooling):
    return jax.jit(lambda scores, batch: frame_pooling.pool(scores, batch, pooling, P))(
        scores, batch
    )


# --- pooling --------------------------------------------------------------------------------------


def looped(scores, batch, use, spatial, temporal, levels):
    """Returns pooled scores by loops over Eqs. 3.1, 3.3 and 3.5."""
    combine = {'mean': np.mean, 'max': np.max}
    result = np.zeros((len(scores), *SIZE, NUM_CLASSES))
    for row in range(len(scores)):
        for level in levels:
            target = batch[level][row]
            for region in np.unique(target):
                values = []
                for place, number in enumerate(batch['frame_frames'][row]):
                    if place and number == batch['frame_frames'][row, place - 1]:
                        continue
                    ids = batch[f'{level}_frames'][row, place]
                    if use == 'superpixel':
                        if number != batch['frame'][row]:
                            continue
                        inside = target == region
                        pixels = scores[row, 0][inside]
                    else:
                        line = number - batch['frame'][row] + REACH
                        matches = batch[matches_of(level)][row, line]
                        pixels = scores[row, place][matches[ids] == region]
                    if len(pixels):
                        values.append(combine[spatial](pixels, axis=0))
                value = combine[temporal](values, axis=0)
                result[row][target == region] += value / len(levels)
    return result


@pytest.mark.parametrize('levels', [1, 2])
@pytest.mark.parametrize('temporal', ['mean', 'max'])
@pytest.mark.parametrize('spatial', ['mean', 'max'])
@pytest.mark.parametrize('use', ['superpixel', 'full'])
def test_scores_are_pooled_as_the_equations_say(use, spatial, temporal, levels):
    names = ('ids_region',) if levels == 1 else ('ids_region_0', 'ids_region_1')
    batch = make_batch(levels=names)
    scores = make_scores()
    if use == 'superpixel':
        scores = scores[:, :1]
    pooling = make_pooling(use, levels=names, spatial=spatial, temporal=temporal)
    pooled = pool(jnp.asarray(scores), batch, pooling)
    expected = looped(scores, batch, use, spatial, temporal, names)
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)


def test_a_frame_in_the_place_of_a_missing_frame_counts_once():
    pooling = make_pooling('full')
    batch = make_batch()
    ids = frame_pooling.target_regions(batch, pooling, 'ids_region')
    np.testing.assert_array_equal(ids[0, 1], batch['ids_region'][0])
    assert (np.asarray(ids[0, 2]) == frame_pooling.NO_REGION).all()
    assert (np.asarray(ids[1, 2]) != frame_pooling.NO_REGION).any()


def test_pixels_are_averaged_along_flow():
    pooling = make_pooling('pixel')
    batch = make_batch()
    batch['flow_pixels_frames'] = np.zeros_like(batch['flow_pixels_frames'])
    batch['flow_pixels_frames'][1, 0, :, :, 0] = 1.0
    batch['flow_pixels_frames'][1, 2] = np.nan
    scores = make_scores()
    pooled = np.asarray(pool(jnp.asarray(scores), batch, pooling))
    np.testing.assert_allclose(pooled[0], scores[0, :2].mean(0), rtol=1e-5, atol=1e-6)
    expected = (scores[1, 1, :, :-1] + scores[1, 0, :, 1:]) / 2
    np.testing.assert_allclose(pooled[1][:, :-1], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pooled[1][:, -1], scores[1, 1, :, -1], rtol=1e-5, atol=1e-6)


def test_without_pooling_the_scores_are_those_of_the_net():
    pooling = make_pooling('none')
    scores = make_scores()[:, :1]
    np.testing.assert_array_equal(frame_pooling.pool(scores, {}, pooling, P), scores[:, 0])


def test_region_maps_and_flow_follow_the_image_in_evaluation():
    """Labels are twice as large as images, and the second example is padded."""
    pooling = make_pooling('full')
    height, width = SIZE
    batch = make_batch()
    whole = {
        **batch,
        'label': batch['label'].repeat(2, 1).repeat(2, 2),
        'ids_region': batch['ids_region'].repeat(2, 1).repeat(2, 2),
        'ids_region_frames': batch['ids_region_frames'].repeat(2, 2).repeat(2, 3),
        'flow_pixels_frames': 2 * batch['flow_pixels_frames'].repeat(2, 2).repeat(2, 3),
        'size': np.array([[height, width], [height - 2, width - 3]], np.int32),
        'label_size': np.array([[2 * height, 2 * width], [2 * height - 4, 2 * width - 6]]),
    }
    at_image = jax.jit(lambda batch: frame_pooling.at_image(batch, pooling))(whole)
    np.testing.assert_array_equal(at_image['ids_region'][0], batch['ids_region'][0])
    np.testing.assert_array_equal(at_image['ids_region_frames'][0], batch['ids_region_frames'][0])
    flows = at_image['flow_pixels_frames'][0]
    np.testing.assert_allclose(flows, batch['flow_pixels_frames'][0])
    inside = np.zeros(SIZE, bool)
    inside[: height - 2, : width - 3] = True
    expected = np.where(inside, batch['ids_region'][1], frame_pooling.NO_REGION)
    np.testing.assert_array_equal(at_image['ids_region'][1], expected)
    assert np.isnan(np.asarray(at_image['flow_pixels_frames'][1])[:, ~inside]).all()


def test_hidden_regions_get_no_gradient():
    """The gradient of a region's score reaches its own pixels alone, in matched frames."""
    pooling = make_pooling('full')
    batch = make_batch()
    ids = np.asarray(frame_pooling.target_regions(batch, pooling, 'ids_region'))
    region = int(ids[1, 0].max())
    target = batch['ids_region'][1] == region

    def score(scores):
        return frame_pooling.pool(scores, batch, pooling, P)[1][target].sum()

    gradient = np.asarray(jax.jit(jax.grad(score))(jnp.asarray(make_scores())))
    assert not gradient[0].any()
    np.testing.assert_array_equal(gradient[1].any(-1), ids[1] == region)


def test_data_sets_around_targets_read_their_interval():
    assert set(builders.AROUND_TARGETS) < set(builders.REGISTRY)
