"""Pooling of any clip: equal to the pipeline, to loops, and to the windows of a stream."""

import jax
import jax.numpy as jnp
import moving_scene
import numpy as np
import pytest

from segjax.data import correspondences
from segjax.errors import InputError
from segjax.ops import regions
from segjax.spec import IGNORE
from segjax.tasks import clip_pooling, frame_pooling

P = moving_scene.NUM_REGIONS
CLASSES = 4
MOVING = 3
"""Class of the rectangle. Cells have the remaining classes."""
TARGET = 2
FRAMES = 5


def true_labels(frame):
    """Returns the classes of a frame, [H, W]."""
    objects = moving_scene.objects(frame)
    return np.where(objects == P - 1, MOVING, objects % MOVING)


def make_clip(number=FRAMES):
    """Returns the regions and flows of a clip as arguments of `pool_clip`."""
    frames = [moving_scene.frame_features(frame) for frame in range(number)]
    return {
        'ids': np.stack([frame['ids_region'] for frame in frames]),
        'flows_next': np.stack([frame['flow_next'] for frame in frames]),
        'flows_previous': np.stack([frame['flow_previous'] for frame in frames]),
        'num_regions': P,
    }


def random_scores(number=FRAMES, seed=0):
    size = (number, *moving_scene.SIZE, CLASSES)
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def one_hot(labels):
    return np.asarray(jax.nn.one_hot(labels, CLASSES))


def true_scores(number=FRAMES):
    return np.stack([one_hot(true_labels(frame)) for frame in range(number)])


def pipeline_pool(scores, clip, target, mode, reading, spatial, temporal):
    """Returns the pooling of the pipeline, with matches as the loader computes them."""
    number = len(scores)
    offsets = tuple(range(-target, number - target))
    matching = correspondences.Matching(offsets, P, reading=reading)
    way = [offset for offset in offsets if offset]
    example = moving_scene.example(target, range(number), way)
    matches = correspondences.example_matches(example, matching)
    batch = {
        'frame': np.array([target]),
        'frame_frames': np.arange(number)[None],
        'ids_region': clip['ids'][None, target],
        'ids_region_frames': clip['ids'][None],
        'region_matches': matches[None],
    }
    pooling = frame_pooling.Pooling(
        use=mode,
        spatial=spatial,
        temporal=temporal,
        num_frames=number,
        offsets=offsets,
        interval=1,
        reach=target,
        levels=('ids_region',),
        border=0,
        blend=0,
    )
    if mode == 'superpixel':
        scores = scores[target : target + 1]
    return np.asarray(frame_pooling.pool(jnp.asarray(scores)[None], batch, pooling, P)[0])


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('mode', 'reading', 'spatial', 'temporal'),
    [
        ('superpixel', 'propagated', 'mean', 'mean'),
        ('full', 'propagated', 'mean', 'mean'),
        ('full', 'direct', 'mean', 'mean'),
        ('full', 'propagated', 'max', 'mean'),
        ('full', 'propagated', 'mean', 'max'),
    ],
)
@pytest.mark.parametrize('target', [0, TARGET, FRAMES - 1])
def test_a_clip_is_pooled_as_in_the_pipeline(target, mode, reading, spatial, temporal):
    clip = make_clip()
    scores = random_scores()
    options = {'mode': mode, 'reading': reading, 'spatial': spatial, 'temporal': temporal}
    pooled = clip_pooling.pool_clip(scores, target=target, **clip, **options)
    expected = pipeline_pool(scores, clip, target, **options)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_pixels_are_averaged_along_their_way():
    """Still pixels take the mean over all frames in their place. The rectangle moves."""
    clip = make_clip()
    scores = random_scores()
    pooled = clip_pooling.pool_clip(scores, target=TARGET, **clip, mode='pixel')
    expected = np.zeros_like(pooled)
    height, width = moving_scene.SIZE
    for y, x in np.ndindex(height, width):
        seen = []
        for frame in range(FRAMES):
            # A still pixel that the rectangle covers on the way is carried on by its motion.
            place = followed(y, x, TARGET, frame)
            if place is not None:
                seen.append(scores[frame][place])
        expected[y, x] = np.mean(seen, axis=0)
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)


def followed(y, x, target, frame):
    """Returns the pixel to which the exact flow carries a pixel, None outside of the image."""
    step = 1 if frame > target else -1
    for number in range(target, frame, step):
        horizontal, vertical = moving_scene.flow(number, step)[y, x].astype(int)
        y += vertical
        x += horizontal
        if not (0 <= y < moving_scene.SIZE[0] and 0 <= x < moving_scene.SIZE[1]):
            return None
    return y, x


def test_flow_that_leads_out_of_the_clip_is_not_read():
    clip = make_clip()
    scores = random_scores()
    expected = clip_pooling.pool_clip(scores, target=TARGET, **clip)
    clip['flows_next'] = clip['flows_next'][:-1]
    clip['flows_previous'] = [None, *clip['flows_previous'][1:]]
    pooled = clip_pooling.pool_clip(scores, target=TARGET, **clip)
    np.testing.assert_array_equal(pooled, expected)


def test_regions_that_match_the_same_region_are_a_single_region():
    # Both halves of the second frame match the only region of the target.
    ids = np.array([[[0, 0, 0, 0]], [[0, 1, 1, 1]]], np.int32)
    scores = np.array([[[4, 4, 4, 4]], [[8, 0, 0, 0]]], np.float32)[..., None]
    still = np.zeros((2, 1, 4, 2), np.float32)
    pooled = clip_pooling.pool_clip(scores, ids, still, still, 0, 3, threshold=0.25)
    # The mean of 4 and (8 + 0 + 0 + 0) / 4, not the mean of 4, 8 and 0.
    np.testing.assert_allclose(pooled, np.full((1, 4, 1), 3.0))


def test_pixels_without_a_region_are_0():
    clip = make_clip()
    clip['ids'][:, :3] = -1
    pooled = clip_pooling.pool_clip(np.ones_like(random_scores()), target=TARGET, **clip)
    assert (pooled[:3] == 0).all() and (pooled[3:] == 1).all()


# --- repair ---------------------------------------------------------------------------------------


def test_a_corrupted_target_is_repaired_by_the_frames_around_it():
    clip = make_clip()
    scores = true_scores()
    scores[TARGET] = one_hot((true_labels(TARGET) + 1) % CLASSES)
    full = clip_pooling.pool_clip(scores, target=TARGET, **clip)
    np.testing.assert_array_equal(full.argmax(-1), true_labels(TARGET))
    alone = clip_pooling.pool_clip(scores, target=TARGET, **clip, mode='superpixel')
    assert (alone.argmax(-1) != true_labels(TARGET)).all()


@pytest.mark.parametrize('frame', [0, 1, 3, 4])
def test_another_corrupted_frame_does_no_harm(frame):
    clip = make_clip()
    scores = true_scores()
    scores[frame] = one_hot((true_labels(frame) + 1) % CLASSES)
    full = clip_pooling.pool_clip(scores, target=TARGET, **clip)
    np.testing.assert_array_equal(full.argmax(-1), true_labels(TARGET))


def test_wrong_pixels_inside_a_region_are_outvoted():
    draw = np.random.default_rng(0)
    wrong = draw.uniform(size=moving_scene.SIZE) < 0.3
    noisy = np.where(wrong, draw.integers(0, CLASSES, wrong.shape), true_labels(TARGET))
    scores = true_scores()
    scores[TARGET] = one_hot(noisy)
    alone = clip_pooling.pool_clip(scores, target=TARGET, **make_clip(), mode='superpixel')
    np.testing.assert_array_equal(alone.argmax(-1), true_labels(TARGET))


def test_void_pixels_do_not_vote():
    labels = true_labels(TARGET)
    first = make_clip()['ids'][TARGET] == 0
    labels[first] = IGNORE
    second = make_clip()['ids'][TARGET] == 1
    rows, columns = np.nonzero(second)
    labels[rows[1:], columns[1:]] = IGNORE
    scores = true_scores()
    scores[TARGET] = one_hot(labels)
    alone = clip_pooling.pool_clip(scores, target=TARGET, **make_clip(), mode='superpixel')
    predicted = clip_pooling.label_map(alone)
    # A region of void alone stays void. A single pixel decides for the second region.
    assert (predicted[first] == IGNORE).all()
    np.testing.assert_array_equal(predicted[~first], true_labels(TARGET)[~first])


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('past', 'future', 'number'), [(2, 1, 6), (1, 0, 4), (0, 2, 4), (0, 0, 2), (4, 4, 3), (3, 5, 5)]
)
def test_a_stream_is_the_clip_of_each_window(past, future, number):
    clip = make_clip(number)
    scores = random_scores(number)
    fields = zip(scores, clip['ids'], clip['flows_next'], clip['flows_previous'], strict=True)
    stream = clip_pooling.pool_stream(
        (clip_pooling.Frame(*each) for each in fields), P, past, future
    )
    results = list(stream)
    assert len(results) == number
    for target, result in enumerate(results):
        first = max(0, target - past)
        part = slice(first, target + future + 1)
        window = {name: clip[name][part] for name in ('ids', 'flows_next', 'flows_previous')}
        expected = clip_pooling.pool_clip(
            scores[part], target=target - first, num_regions=P, **window
        )
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('mode', ['full', 'pixel'])
@pytest.mark.parametrize(('past', 'future'), [(1, 1), (2, 0), (0, 3)])
def test_a_stream_at_an_interval_is_the_clip_of_every_second_frame(mode, past, future):
    number = 6
    interval = 2
    made = [moving_scene.frame_features(frame, interval=interval) for frame in range(number)]
    scores = random_scores(number)
    frames = []
    for place, each in enumerate(made):
        has_next = place + interval < number
        onward = each['flow_next'] if has_next else None
        back = each['flow_previous'] if place >= interval else None
        frames.append(clip_pooling.Frame(scores[place], each['ids_region'], onward, back))
    stream = clip_pooling.pool_stream(frames, P, past, future, interval=interval, mode=mode)
    for target, result in enumerate(stream):
        places = [target + interval * step for step in range(-past, future + 1)]
        places = [place for place in places if 0 <= place < number]
        expected = clip_pooling.pool_clip(
            scores[places],
            [made[place]['ids_region'] for place in places],
            [made[place]['flow_next'] for place in places],
            [made[place]['flow_previous'] for place in places],
            places.index(target),
            P,
            mode=mode,
        )
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert target == number - 1


def test_an_interval_of_0_is_an_error():
    with pytest.raises(InputError, match='interval from 1'):
        next(clip_pooling.pool_stream([], P, interval=0))


def test_a_stream_without_future_answers_at_once():
    read = []

    def frames():
        for frame in range(3):
            read.append(frame)
            made = moving_scene.frame_features(frame)
            flows = (made['flow_next'], made['flow_previous'])
            yield clip_pooling.Frame(random_scores(1)[0], made['ids_region'], *flows)

    stream = clip_pooling.pool_stream(frames(), P, past=2, future=0)
    for number in range(3):
        next(stream)
        assert len(read) == number + 1


def test_frames_of_a_size_share_a_compiled_program():
    clip = make_clip(6)
    before = clip_pooling._combined._cache_size()
    fields = zip(
        random_scores(6)[..., :3],
        clip['ids'],
        clip['flows_next'],
        clip['flows_previous'],
        strict=True,
    )
    list(clip_pooling.pool_stream((clip_pooling.Frame(*each) for each in fields), P, 2, 1))
    assert clip_pooling._combined._cache_size() == before + 1


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'mode': 'ful'}, 'full'),
        ({'reading': 'propagate'}, 'propagated'),
        ({'spatial': 'median'}, 'pooling of a clip'),
        ({'threshold': 0.0}, 'above 0, up to 1'),
        ({'target': FRAMES}, f'a place of the {FRAMES} frames'),
        ({'num_regions': P - 1}, f'num_regions={P}'),
        ({'flows_next': None}, "mode='superpixel' needs no flow"),
        ({'scores': random_scores(FRAMES - 1)}, 'equal numbers'),
        ({'scores': random_scores()[:, 1:]}, r'\[H, W, C\]'),
    ],
)
def test_wrong_arguments_are_errors(changed, message):
    arguments = {'scores': random_scores(), 'target': TARGET, **make_clip(), **changed}
    with pytest.raises(InputError, match=message):
        clip_pooling.pool_clip(**arguments)


def test_a_region_alone_needs_no_flow():
    clip = make_clip() | {'flows_next': None, 'flows_previous': None}
    scores = random_scores()
    pooled = clip_pooling.pool_clip(scores, target=TARGET, **clip, mode='superpixel')
    values, _ = regions.pool_pixels(scores[TARGET], clip['ids'][TARGET], P)
    np.testing.assert_allclose(pooled, values[clip['ids'][TARGET]], rtol=1e-5, atol=1e-6)
