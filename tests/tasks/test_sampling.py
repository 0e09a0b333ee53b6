"""Scores of samples: sizes of targets, padding, and places of examples."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.tasks import sampling

SIZE = (16, 16)
NUM_SAMPLES = 3
NUM_EXAMPLES = 5


def make_judge(draw, **parts):
    """Returns an evaluation with cheap scores."""
    testing = ml_collections.ConfigDict({'top': 2, 'shown': 2, 'fsim': False})
    return sampling.Judge(
        draw=draw,
        show=lambda batch: {},
        frozen=sampling.Frozen(**parts.pop('frozen', {})),
        testing=testing,
        num_examples=NUM_EXAMPLES,
        **parts,
    )


def make_batch(rows=2, size=SIZE):
    """Returns noisy images of an evaluation whose targets have the size of the images."""
    generator = np.random.default_rng(0)
    return {
        'image': generator.integers(0, 255, (rows, *SIZE, 3)).astype(np.uint8),
        'size': np.broadcast_to(np.array(size, np.int32), (rows, 2)),
        'label_size': np.broadcast_to(np.array(size, np.int32), (rows, 2)),
        'weight': np.ones(rows, np.float32),
        'index': np.arange(rows, dtype=np.int32),
    }


def noise(state, batch, keys):
    """Draws the same noise for every condition."""
    drawn = np.random.default_rng(1).uniform(-1, 1, (NUM_SAMPLES, *SIZE, 3)).astype(np.float32)
    return np.broadcast_to(drawn, (len(batch['image']), *drawn.shape))


def normals_of(state, image):
    """Tilts the normal of each pixel by its red value."""
    angle = image[..., 0].astype(jnp.float32) / 255
    return jnp.stack([jnp.sin(angle), 0 * angle, -jnp.cos(angle)], -1)


def eval_step(judge, batch, keys):
    return jax.jit(lambda batch: sampling.eval_step(judge, None, batch, keys))(batch)


def test_true_normals_of_another_size_mark_the_same_pixels():
    judge = make_judge(noise, frozen={'normals': normals_of}, normals_key='normals')
    batch = make_batch()
    known = np.zeros((2, *SIZE, 3), np.float32)
    known[:, 4:9, 3:] = (0, 0, -1)
    plain = eval_step(judge, {**batch, 'normals': known}, {})

    # Each pixel becomes 2 x 2 pixels of a padded file.
    doubled = np.pad(known.repeat(2, 1).repeat(2, 2), ((0, 0), (0, 5), (0, 3), (0, 0)))
    larger = {**batch, 'normals': doubled, 'label_size': 2 * batch['size']}
    again = eval_step(judge, larger, {})
    for name, mean in plain.items():
        np.testing.assert_array_equal(again[name].sum, mean.sum)


def test_landmarks_are_divided_by_the_width_without_padding():
    judge = make_judge(
        noise, frozen={'landmarks': lambda state, image: np.zeros((len(image), 1, 2))}
    )._replace(points_key='points_face')
    batch = {**make_batch(size=(16, 8)), 'points_face': np.full((2, 1, 2), (0.0, 4.0), np.float32)}
    metrics = eval_step(judge, batch, {})
    np.testing.assert_allclose(metrics['sample/landmarks'].sum[:2], 4 / 8)


def test_examples_that_fill_a_batch_do_not_count():
    judge = make_judge(noise)
    batch = make_batch(3)
    batch['weight'][2] = 0
    batch['index'] = np.array([4, 1, NUM_EXAMPLES], np.int32)
    scores = sampling.finalize(judge, eval_step(judge, batch, {}))
    alone = make_batch(3)
    rows = {key: value[:2] for key, value in alone.items()} | {'index': batch['index'][:2]}
    expected = sampling.finalize(judge, eval_step(judge, rows, {}))
    assert scores['RMSE'] == expected['RMSE']
    assert scores['SSIM_best'] > scores['SSIM']


def test_the_kernel_distance_has_samples_of_all_codes():
    def colours_of(state, image):
        return sampling.FeatureMaps({'pool1': image})

    judge = make_judge(noise, frozen={'features': colours_of})
    batch = make_batch(NUM_EXAMPLES)
    metrics = eval_step(judge, batch, {})
    drawn = noise(None, batch, {})[0].mean((1, 2))
    expected = drawn[np.arange(NUM_EXAMPLES) % NUM_SAMPLES]
    np.testing.assert_allclose(metrics['pooled/drawn'].sum, expected, rtol=1e-5, atol=1e-6)


def test_a_single_sample_has_no_diversity():
    maps = sampling.FeatureMaps({'pool1': np.ones((2, 4, 4, 3))}, {'conv': np.ones((2, 4, 4, 3))})
    frozen = sampling.Frozen(features=lambda state, image: maps)
    image = np.zeros((*SIZE, 3), np.float32)
    scores = sampling.feature_scores(frozen, None, image[None], image, 0)
    assert set(scores) == {'pooled/drawn', 'pooled/true'}
