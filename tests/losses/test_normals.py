"""The cosine loss of normals against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
from toy_heads import random_normals

from segjax.losses import normals as losses
from segjax.ops.normals import normalised


def test_the_loss_is_that_of_a_plain_loop():
    truth = random_normals((3, 4, 5))
    raw = np.random.default_rng(1).normal(size=truth.shape).astype(np.float32)
    weight = np.array([1, 0, 1], np.float32)
    total = 0.0
    count = 0
    for row, y, x in np.ndindex(3, 4, 5):
        if weight[row] and truth[row, y, x].any():
            vector = raw[row, y, x].astype(np.float64)
            total += 1 - vector @ truth[row, y, x] / np.linalg.norm(vector)
            count += 1
    mean = losses.cosine(normalised(jnp.asarray(raw)), truth, weight)
    assert mean.count == count
    np.testing.assert_allclose(mean.sum, total, rtol=1e-5)


def test_the_gradient_is_finite_where_the_net_predicts_zero():
    truth = random_normals((1, 2, 3))

    def loss(vectors):
        return losses.cosine(normalised(vectors), truth, jnp.ones(1)).value()

    assert np.isfinite(jax.grad(loss)(jnp.zeros(truth.shape))).all()
