"""Losses of landmarks against loops, at points that do not count, and at their minimum."""

import jax
import numpy as np
import pytest
from scipy import special, stats

from segjax.errors import InputError
from segjax.losses import landmarks as losses
from segjax.ops import heat_maps

SIZE = (24, 32)
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(2, 22, (3, 4, 2)).astype(np.float32)
PREDICTION = (TRUTH + RNG.normal(0, 2, TRUTH.shape)).astype(np.float32)
TRUTH[0, 1] = np.nan
TRUTH[2, 0] = (31.6, 5)
COUNTED = [(0, 0), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3)]
WEIGHT = np.float32([1, 0, 0.5])


def wing_by_hand(x, width, curvature):
    """Returns the wing loss of a number."""
    if abs(x) < width:
        return width * np.log(1 + abs(x) / curvature)
    return abs(x) - (width - width * np.log(1 + width / curvature))


def test_the_wing_loss_is_the_formula_and_continuous():
    x = np.float32([-9, -4, -3.9, 0, 0.1, 2, 4, 4.001, 30])
    expected = [wing_by_hand(value, 4.0, 0.8) for value in x]
    np.testing.assert_allclose(losses.wing(x, 4.0, 0.8), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.vmap(jax.grad(lambda value: losses.wing(value, 4.0, 0.8)))(x)
    np.testing.assert_allclose(np.asarray(gradient)[[0, 3, 8]], [-1, 0, 1], rtol=1e-6)


@pytest.mark.parametrize('form', losses.FORMS)
def test_coordinates_are_compared_in_per_cent_of_the_width(form):
    total = 0.0
    count = 0.0
    for row, number in COUNTED:
        for axis in (0, 1):
            x = 100 * (PREDICTION[row, number, axis] - TRUTH[row, number, axis]) / SIZE[1]
            value = abs(x) if form == 'l1' else wing_by_hand(x, 4.0, 0.8)
            total += WEIGHT[row] * value
            count += WEIGHT[row]
    mean = losses.coordinates(PREDICTION, TRUTH, WEIGHT, SIZE, form)
    np.testing.assert_allclose(mean, (total, count), rtol=1e-5)


def test_points_outside_and_absent_points_have_no_gradient():
    gradient = jax.grad(lambda p: losses.coordinates(p, TRUTH, WEIGHT, SIZE).sum)(PREDICTION)
    moved = np.asarray(gradient).any(-1)
    assert {tuple(place) for place in np.argwhere(moved)} == set(COUNTED)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('grid', [SIZE, (12, 16)])
def test_the_divergence_is_that_of_scipy(grid):
    logits = RNG.normal(size=(3, *grid, 4)).astype(np.float32)
    mean = losses.heat_map_divergence(logits, TRUTH, WEIGHT, SIZE, sigma=6.0)
    total = 0.0
    for row, number in COUNTED:
        x, y = (TRUTH[row, number].astype(np.float64) + 0.5) * grid[1] / SIZE[1] - 0.5
        sigma = 0.06 * grid[1]
        across = stats.norm.pdf(np.arange(grid[1]), x, sigma)
        target = np.outer(stats.norm.pdf(np.arange(grid[0]), y, sigma), across)
        share = special.softmax(logits[row, ..., number].astype(np.float64))
        total += WEIGHT[row] * stats.entropy(target.ravel(), share.ravel())
    np.testing.assert_allclose(mean, (total, WEIGHT @ [3, 0, 3]), rtol=1e-4)


def test_the_divergence_is_zero_at_the_gaussian_itself():
    points = np.where(np.isnan(TRUTH), 0, TRUTH)
    logits = heat_maps.log_gaussian(points, SIZE, sigma=0.06 * SIZE[1])
    mean = losses.heat_map_divergence(logits, TRUTH, WEIGHT, SIZE, sigma=6.0)
    assert abs(mean.value()) < 1e-5


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match='wing'):
        losses.coordinates(PREDICTION, TRUTH, WEIGHT, SIZE, 'wings')
