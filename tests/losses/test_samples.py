"""Losses of several images: the assignment, the distances, memory, and the two-pass form."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from segjax.core.means import masked_mean
from segjax.errors import InputError
from segjax.losses import samples
from segjax.losses.samples import assigned_errors, feature_distances, neighbours_enhanced
from segjax.protocol import Mean

RNG = np.random.default_rng(0)
match = jax.jit(samples.match)

B, N, M = 3, 4, 3
WEIGHT = np.array([1.0, 0.0, 0.5], np.float32)
SIZES = {'image': (5, 6, 3), 'conv1_2': (4, 5, 2), 'conv2_2': (2, 3, 7)}
FACTORS = {'image': 1.0, 'conv1_2': 0.25, 'conv2_2': 3.0}


def features(count, seed, scale=1.0):
    """Returns random features {layer: [B, count, h, w, C]}."""
    rng = np.random.default_rng(seed)
    return {
        layer: (scale * rng.normal(size=(B, count, *size))).astype(np.float32)
        for layer, size in SIZES.items()
    }


OUTPUTS = features(N, 1)
TARGETS = features(M, 2)


# --- distances ------------------------------------------------------------------------------------


def distances_by_loop(outputs, targets, factors):
    """Computes Eq. 5.6 pair by pair in float64."""
    first = next(iter(factors))
    num_outputs = outputs[first].shape[1]
    num_targets = targets[first].shape[1]
    costs = np.zeros((B, num_outputs, num_targets))
    for b, i, j in np.ndindex(costs.shape):
        for layer, factor in factors.items():
            difference = outputs[layer][b, i].astype(np.float64) - targets[layer][b, j]
            costs[b, i, j] += factor * np.abs(difference).mean()
    return costs


def distances_at_once(outputs, targets, factors):
    """Computes Eq. 5.6 from arrays [B, n, m, h, w, C]."""
    total = 0.0
    for layer, factor in factors.items():
        fixed = jax.lax.stop_gradient(targets[layer])
        difference = outputs[layer][:, :, None] - fixed[:, None]
        total = total + factor * jnp.abs(difference).mean((3, 4, 5))
    return total


@pytest.mark.parametrize('scale', [1.0, 100.0], ids=['normalised', 'range_255'])
def test_distances_are_the_formula(scale):
    outputs = features(N, 1, scale)
    targets = features(M, 2, scale)
    got = jax.jit(feature_distances)(outputs, targets, FACTORS)
    chex.assert_type(got, jnp.float32)
    np.testing.assert_allclose(got, distances_by_loop(outputs, targets, FACTORS), rtol=1e-6)


def test_targets_may_be_uint8_images():
    outputs = {'image': RNG.uniform(-9, 260, (B, N, 4, 5, 3)).astype(np.float32)}
    targets = {'image': RNG.integers(0, 256, (B, M, 4, 5, 3), dtype=np.uint8)}
    got = feature_distances(outputs, targets, {'image': 1.0})
    expected = distances_by_loop(outputs, targets, {'image': 1.0})
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_large_image_is_summed_exactly_enough():
    outputs = {'image': RNG.uniform(0, 255, (B, 1, 128, 128, 64)).astype(np.float32)}
    targets = {'image': RNG.uniform(0, 255, (B, 1, 128, 128, 64)).astype(np.float32)}
    got = jax.jit(feature_distances)(outputs, targets, {'image': 1.0})
    expected = distances_by_loop(outputs, targets, {'image': 1.0})
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_layers_without_a_factor_do_not_count_and_the_image_is_a_layer_like_any():
    for layer in SIZES:
        only = {layer: 2.0}
        got = feature_distances(OUTPUTS, TARGETS, only)
        expected = distances_by_loop(OUTPUTS, TARGETS, only)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_half_features_are_compared_in_float32():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), OUTPUTS)
    full = jax.tree.map(lambda x: x.astype(jnp.float32), half)

    def total(outputs):
        return feature_distances(outputs, TARGETS, FACTORS).sum()

    evaluate = jax.jit(jax.value_and_grad(total))
    value, gradient = evaluate(half)
    expected, expected_gradient = evaluate(full)
    assert value == expected and value.dtype == jnp.float32
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected_gradient)
    chex.assert_trees_all_equal(gradient, rounded)


def test_gradients_are_equal_to_those_of_the_plain_formulation():
    shares = RNG.normal(size=(B, N, M)).astype(np.float32)

    def gradient_of(distances):
        def total(outputs, targets, factors):
            return (shares * distances(outputs, targets, factors)).sum()

        return jax.jit(jax.grad(total, (0, 1, 2)))(OUTPUTS, TARGETS, FACTORS)

    ours, of_targets, of_factors = gradient_of(feature_distances)
    expected, _, of_factors_expected = gradient_of(distances_at_once)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(of_factors, of_factors_expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(of_targets, jax.tree.map(jnp.zeros_like, of_targets))


def test_gradients_are_finite_differences():
    shares = RNG.normal(size=(B, N, M))

    def total(outputs):
        return (shares * distances_by_loop(outputs, TARGETS, FACTORS)).sum()

    gradient = jax.grad(lambda x: (shares * feature_distances(x, TARGETS, FACTORS)).sum())(OUTPUTS)
    step = 1e-6
    for layer in SIZES:
        for _ in range(5):
            place = tuple(RNG.integers(OUTPUTS[layer].shape))
            ends = []
            for sign in (-1, 1):
                moved = OUTPUTS[layer].astype(np.float64)
                moved[place] += sign * step
                ends.append(total({**OUTPUTS, layer: moved}))
            slope = (ends[1] - ends[0]) / (2 * step)
            np.testing.assert_allclose(gradient[layer][place], slope, rtol=1e-4, atol=1e-6)


def test_equal_features_are_not_pushed():
    same = {'image': OUTPUTS['image'][:, :1]}
    gradient = jax.grad(lambda x: feature_distances(x, same, {'image': 1.0}).sum())(same)
    np.testing.assert_array_equal(gradient['image'], 0)


def test_a_bad_number_is_shown_by_its_own_costs_alone():
    poisoned = {**OUTPUTS, 'image': np.array(OUTPUTS['image'])}
    poisoned['image'][1, 2, 0, 0, 0] = np.nan
    got = np.asarray(feature_distances(poisoned, TARGETS, FACTORS))
    bad = np.zeros((B, N, M), bool)
    bad[1, 2] = True
    np.testing.assert_array_equal(np.isnan(got), bad)


@pytest.mark.parametrize(
    'outputs, factors, message',
    [
        (OUTPUTS, {}, 'at least one factor'),
        (OUTPUTS, {'conv9_9': 1.0}, 'conv9_9'),
        ({**OUTPUTS, 'image': TARGETS['conv1_2']}, FACTORS, 'the layer image'),
        ({'image': OUTPUTS['image'][0]}, {'image': 1.0}, 'h, w, C'),
        ({'image': OUTPUTS['image'][:1]}, {'image': 1.0}, 'the layer image'),
    ],
    ids=['no_factor', 'unknown_layer', 'size', 'rank', 'batch'],
)
def test_layers_that_cannot_be_compared(outputs, factors, message):
    with pytest.raises(InputError, match=message):
        feature_distances(outputs, TARGETS, factors)


# --- memory ---------------------------------------------------------------------------------------


def sizes_of(jaxpr):
    """Yields the number of elements of every array in a jaxpr and in the jaxprs inside."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield int(np.prod(variable.aval.shape))
        for inner in jaxprs_in_params(equation.params):
            yield from sizes_of(inner)


def gradient_of_distances(distances):
    def total(outputs, targets):
        return (distances(outputs, targets, {'image': 1.0}) ** 2).sum()

    return jax.value_and_grad(total)


def shapes_of(num_outputs, num_targets):
    """Returns shapes of (outputs, targets) of a layer of 48 x 48 x 8."""
    return tuple(
        {'image': jax.ShapeDtypeStruct((2, count, 48, 48, 8), jnp.float32)}
        for count in (num_outputs, num_targets)
    )


def test_no_array_of_the_gradient_is_larger_than_the_outputs():
    shapes = shapes_of(8, 6)
    pairs = 6 * shapes[0]['image'].size
    for distances, largest in (
        (feature_distances, shapes[0]['image'].size),
        (distances_at_once, pairs),
    ):
        jaxpr = jax.make_jaxpr(gradient_of_distances(distances))(*shapes)
        assert max(sizes_of(jaxpr.jaxpr)) == largest


def test_compiled_memory_does_not_grow_with_pairs():
    def temporary(num_targets):
        compiled = jax.jit(gradient_of_distances(feature_distances)).lower(
            *shapes_of(8, num_targets)
        )
        return compiled.compile().memory_analysis().temp_size_in_bytes

    outputs, targets = (4 * x['image'].size for x in shapes_of(8, 8))
    few = temporary(2)
    many = temporary(8)
    assert many < 2 * outputs + 2 * targets  # all pairs need 8 times the outputs
    assert many - few < 2 * 6 * targets / 8


# --- assignment -----------------------------------------------------------------------------------


def match_by_the_text(costs, present):
    """Assigns the samples of costs[i][j] as section 5.2.2 tells, in plain Python."""
    num_branches = len(costs)
    num_samples = len(costs[0])
    assigned = {}
    free = set(range(num_branches))

    # First, Y0 is assigned to its best branch.
    if present[0]:
        assigned[0] = min(free, key=lambda i: (costs[i][0], i))
        free.remove(assigned[0])

    # The matching proceeds until all samples are assigned.
    waiting = [j for j in range(1, num_samples) if present[j]]
    while waiting:
        proposals = {}
        for j in waiting:
            favourite = min(free, key=lambda i: (costs[i][j], i))
            proposals.setdefault(favourite, []).append(j)
        # Of several samples for a branch, the sample with the smallest loss is assigned.
        for i, suitors in proposals.items():
            winner = min(suitors, key=lambda j: (costs[i][j], j))
            assigned[winner] = i
            free.remove(i)
            waiting.remove(winner)
    return [assigned.get(j, -1) for j in range(num_samples)]


CASES = [(1, 1), (2, 2), (5, 3), (6, 6), (10, 10), (12, 4)]


def random_cases(num_branches, num_samples, count=400):
    """Returns costs and presence. Half the costs are small whole numbers, with many ties."""
    rng = np.random.default_rng(num_branches * 100 + num_samples)
    costs = rng.random((count, num_branches, num_samples), np.float32)
    costs[::2] = rng.integers(0, 4, costs[::2].shape)
    present = rng.random((count, num_samples)) < 0.8
    present[::4] = True
    return costs, present


@pytest.mark.parametrize('num_branches, num_samples', CASES)
def test_the_assignment_follows_the_text(num_branches, num_samples):
    costs, present = random_cases(num_branches, num_samples)
    got = match(costs, present)
    expected = [match_by_the_text(*case) for case in zip(costs.tolist(), present, strict=True)]
    chex.assert_type(got, jnp.int32)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('num_branches, num_samples', CASES)
def test_every_present_sample_has_its_own_branch_and_sample_0_the_best(num_branches, num_samples):
    costs, present = random_cases(num_branches, num_samples)
    got = np.asarray(match(costs, present.astype(np.float32)))
    np.testing.assert_array_equal(got >= 0, present)
    assert got.max() < num_branches and got.min() >= -1
    for branches, exists in zip(got, present, strict=True):
        assert len(set(branches[exists])) == exists.sum()
    first = present[:, 0]
    np.testing.assert_array_equal(got[first, 0], costs[first, :, 0].argmin(1))


def test_each_neighbour_has_its_best_branch_unless_an_earlier_winner_took_it():
    costs, present = random_cases(8, 5)
    got = np.asarray(match(costs, present))
    for b, j in itertools.product(range(len(costs)), range(5)):
        if not present[b, j]:
            continue
        better = np.flatnonzero(costs[b, :, j] < costs[b, got[b, j], j])
        assert set(better) <= set(got[b]) - {-1}


def assigned(costs):
    """Returns the branches of all samples of costs [n, m]."""
    costs = np.float32(costs)
    return match(costs[None], np.ones((1, costs.shape[1])))[0].tolist()


def test_sample_0_comes_before_a_neighbour_with_a_smaller_loss():
    assert assigned([[5, 1], [6, 2]]) == [0, 1]


def test_the_smallest_loss_wins_and_the_loser_takes_the_next_free_branch():
    assert assigned([[0, 9, 9], [9, 3, 2], [9, 5, 4]]) == [0, 2, 1]


def test_a_loser_proposes_after_the_winners_of_its_round_have_their_branch():
    # The smallest loss of all free pairs would give branch 2 to sample 1, which lost branch 1.
    costs = [[0, 9, 9, 9], [9, 1, 0.5, 9], [9, 1.1, 9, 2], [9, 7, 9, 9]]
    assert assigned(costs) == [0, 3, 1, 2]


def test_the_lower_index_wins_a_tie():
    assert assigned(np.ones((4, 3))) == [0, 1, 2]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_costs_that_are_no_numbers_leave_a_branch_for_every_sample(bad):
    got = np.asarray(match(np.full((1, 4, 4), bad, np.float32), np.ones((1, 4))))
    assert sorted(got[0]) == [0, 1, 2, 3]


def test_the_largest_costs_never_lead_to_a_branch_twice():
    costs = np.full((1, 3, 3), np.finfo(np.float32).max)
    costs[0, 0] = 0
    assert match(costs, np.ones((1, 3)))[0].tolist() == [0, 1, 2]


def test_the_costs_get_no_gradient():
    costs = RNG.random((B, N, M), np.float32)
    present = np.ones((B, M))
    gradient = jax.grad(lambda x: match(x, present).astype(jnp.float32).sum())(costs)
    np.testing.assert_array_equal(gradient, 0)


def test_fewer_branches_than_samples_are_refused_while_tracing():
    costs = jax.ShapeDtypeStruct((B, 3, 4), jnp.float32)
    present = jax.ShapeDtypeStruct((B, 4), jnp.float32)
    with pytest.raises(InputError, match='fewer branches than samples') as error:
        jax.eval_shape(samples.match, costs, present)
    assert error.value.fix == 'at least 4 branches, or at most 2 neighbours'


# --- losses ---------------------------------------------------------------------------------------

COSTS = RNG.random((B, N, M), np.float32)
BRANCHES = np.array([[2, 0, -1], [1, 3, 0], [3, -1, 1]], np.int32)


def test_the_best_neighbour_is_equation_4():
    total = sum(w * costs[:, 0].min() for w, costs in zip(WEIGHT, COSTS, strict=True))
    got = samples.best_neighbour(COSTS, WEIGHT)
    np.testing.assert_allclose(got, (total, 1.5), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: samples.best_neighbour(x, WEIGHT).value()))(COSTS)
    expected = np.zeros_like(COSTS)
    for b in range(B):
        expected[b, COSTS[b, :, 0].argmin(), 0] = WEIGHT[b] / 1.5
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_of_equal_branches_the_first_gets_the_gradient():
    costs = np.ones((1, N, 1), np.float32)
    gradient = jax.grad(lambda x: samples.best_neighbour(x, np.ones(1)).sum)(costs)
    assert gradient[0, :, 0].tolist() == [1, 0, 0, 0]


def test_neighbours_enhanced_is_equation_5():
    total = 0.0
    expected = np.zeros_like(COSTS)
    for b, j in np.ndindex(B, M):
        if BRANCHES[b, j] >= 0:
            total += WEIGHT[b] * COSTS[b, BRANCHES[b, j], j]
            expected[b, BRANCHES[b, j], j] = WEIGHT[b] / 1.5
    np.testing.assert_allclose(
        neighbours_enhanced(COSTS, BRANCHES, WEIGHT), (total, 1.5), rtol=1e-6
    )
    gradient = jax.jit(jax.grad(lambda x: neighbours_enhanced(x, BRANCHES, WEIGHT).value()))(COSTS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_without_neighbours_both_losses_are_equal():
    present = np.array([[1, 0, 0]] * B)
    enhanced = neighbours_enhanced(COSTS, match(COSTS, present), WEIGHT)
    chex.assert_trees_all_equal(enhanced, samples.best_neighbour(COSTS, WEIGHT))


def test_devices_share_a_batch_without_a_trace():
    devices = jax.devices()[:8]
    count = 2 * len(devices)
    costs = RNG.integers(0, 64, (count, N, M)).astype(np.float32)  # sums are exact
    present = RNG.random((count, M)) < 0.8
    weight = np.ones(count, np.float32)

    def losses(costs, present, weight):
        branches = match(costs, present)
        enhanced = neighbours_enhanced(costs, branches, weight)
        return branches, (enhanced, samples.best_neighbour(costs, weight))

    branches, means = jax.jit(losses)(costs, present, weight)
    shards = [x.reshape(len(devices), 2, *x.shape[1:]) for x in (costs, present, weight)]
    parts, mean_parts = jax.pmap(losses, devices=devices)(*shards)
    np.testing.assert_array_equal(parts.reshape(count, M), branches)
    summed = jax.tree.map(lambda x: x.sum(0), mean_parts)
    chex.assert_trees_all_equal(summed, means)


# --- two passes -----------------------------------------------------------------------------------

ALL_BRANCHES = 7
CONDITION = RNG.normal(size=(B, 5, 6, 3)).astype(np.float32)
CODES = RNG.normal(size=(ALL_BRANCHES, 3)).astype(np.float32)
SOURCE = {
    'kernel': RNG.normal(size=(3, 3)).astype(np.float32),
    'trunk': RNG.normal(size=(B, 5, 6, 3)).astype(np.float32),
}
TWO_LAYERS = {'image': 1.0, 'conv1_2': 2.0}


def render(source, branches):
    """Draws the images of branches [B, k] from the source, and returns two layers of features."""
    codes = jnp.asarray(CODES)[branches][:, :, None, None]
    shared = source['trunk'][:, None] + CONDITION[:, None]
    images = jnp.tanh(shared * codes) @ source['kernel']
    return features_of(images)


def features_of(images):
    return {'image': images, 'conv1_2': jax.nn.relu(jnp.sin(3 * images[:, :, ::2, ::2]))}


SAMPLES = features_of(RNG.normal(size=(B, 4, 5, 6, 3)).astype(np.float32))
PRESENT = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0]], np.float32)


def loss_in_one_pass(source, samples_of=SAMPLES, present=PRESENT):
    everything = jnp.broadcast_to(jnp.arange(ALL_BRANCHES), (B, ALL_BRANCHES))
    costs = feature_distances(render(source, everything), samples_of, TWO_LAYERS)
    branches = match(costs, present)
    return neighbours_enhanced(costs, branches, WEIGHT), branches


def loss_in_two_passes(source, chunk, targets=SAMPLES, present=PRESENT, weight=WEIGHT):
    errors, branches = assigned_errors(
        render,
        source,
        targets,
        present,
        TWO_LAYERS,
        weight,
        num_branches=ALL_BRANCHES,
        chunk=chunk,
    )
    return total_of(errors), branches


def total_of(errors, factors=TWO_LAYERS):
    """Returns the sum of the errors of the layers with their factors."""
    total = sum(factor * errors[layer].sum for layer, factor in factors.items())
    return Mean(total, errors['image'].count)


def with_gradient(loss):
    """Returns a function from the source to (value, Mean, branches, gradient)."""

    def value(source):
        mean, branches = loss(source)
        return mean.value(), (mean, branches)

    return jax.jit(jax.value_and_grad(value, has_aux=True))


@pytest.mark.parametrize('chunk', [1, 3, 100])
def test_two_passes_have_value_and_gradient_of_a_single_pass(chunk):
    (value, (mean, branches)), gradient = with_gradient(loss_in_one_pass)(SOURCE)
    two_passes = with_gradient(lambda source: loss_in_two_passes(source, chunk))
    (got, (got_mean, got_branches)), got_gradient = two_passes(SOURCE)
    np.testing.assert_array_equal(got_branches, branches)
    np.testing.assert_array_equal(np.asarray(got_branches) >= 0, PRESENT > 0)
    chex.assert_trees_all_close((got, got_mean), (value, mean), rtol=1e-6)
    chex.assert_trees_all_close(got_gradient, gradient, rtol=1e-4, atol=1e-6)
    assert all(jnp.any(x != 0) for x in jax.tree.leaves(gradient))


def test_as_many_samples_as_branches_take_a_single_pass():
    targets = features_of(RNG.normal(size=(B, ALL_BRANCHES, 5, 6, 3)).astype(np.float32))
    present = (RNG.random((B, ALL_BRANCHES)) < 0.7).astype(np.float32)
    (value, (_, branches)), gradient = with_gradient(
        lambda source: loss_in_one_pass(source, targets, present)
    )(SOURCE)
    (got, (_, got_branches)), got_gradient = with_gradient(
        lambda source: loss_in_two_passes(source, 2, targets, present)
    )(SOURCE)
    np.testing.assert_array_equal(got_branches, branches)
    chex.assert_trees_all_close(got, value, rtol=1e-6)
    chex.assert_trees_all_close(got_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_single_sample_makes_the_loss_of_the_best_neighbour():
    first = {layer: x[:, :1] for layer, x in SAMPLES.items()}
    everything = jnp.broadcast_to(jnp.arange(ALL_BRANCHES), (B, ALL_BRANCHES))

    @jax.jit
    def both(source):
        costs = feature_distances(render(source, everything), first, TWO_LAYERS)
        two_passes, _ = loss_in_two_passes(source, 4, first, PRESENT[:, :1])
        return two_passes, samples.best_neighbour(costs, WEIGHT)

    chex.assert_trees_all_close(*both(SOURCE), rtol=1e-6)


def test_absent_samples_and_examples_without_weight_leave_no_trace():
    poisoned = jax.tree.map(np.array, SAMPLES)
    for x in poisoned.values():
        x[PRESENT == 0] = np.nan
        x[WEIGHT == 0] = np.nan
    results = []
    for targets in (SAMPLES, poisoned):
        two_passes = with_gradient(lambda source, x=targets: loss_in_two_passes(source, 3, x))
        (_, (mean, _)), gradient = two_passes(SOURCE)
        results.append((mean, gradient))
    chex.assert_trees_all_equal(*results)


def test_memory_does_not_grow_with_the_number_of_branches():
    def gradient(num_branches):
        codes = jnp.linspace(-1, 1, num_branches)

        def draw(source, branches):
            scale = codes[branches][:, :, None, None, None]
            return {'image': jnp.tanh(jnp.sin(source[:, None] * scale))}

        def value(source, target):
            present = jnp.ones(target.shape[:2])
            errors, _ = assigned_errors(
                draw,
                source,
                {'image': target},
                present,
                {'image': 1.0},
                jnp.ones(2),
                num_branches=num_branches,
                chunk=2,
            )
            return errors['image'].value()

        return jax.jit(jax.grad(value))

    def temporary(num_branches):
        compiled = gradient(num_branches).lower(source, target).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    source = jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.float32)
    target = jax.ShapeDtypeStruct((2, 3, 32, 32, 8), jnp.float32)
    assert temporary(64) - temporary(8) < 4 * source.size
    jaxpr = jax.make_jaxpr(gradient(64))(source, target)
    assert max(sizes_of(jaxpr.jaxpr)) == target.size


# --- relaxation -----------------------------------------------------------------------------------


def relaxed(source, branches, num_samples=4, share=0.25):
    """Returns the relaxed loss of random branches [B], and the assigned branches."""
    targets = {layer: x[:, :num_samples] for layer, x in SAMPLES.items()}
    errors, assigned = assigned_errors(
        render,
        source,
        targets,
        PRESENT[:, :num_samples],
        TWO_LAYERS,
        WEIGHT,
        num_branches=4 if num_samples == 4 else ALL_BRANCHES,
        chunk=3,
        relaxation=samples.Relaxation(share, branches),
    )
    return total_of(errors), assigned


def relaxed_in_one_pass(source, branches, num_samples=4, share=0.25):
    """Returns the loss (1 - s) assigned + s costs of random branches with the true image."""
    number = 4 if num_samples == 4 else ALL_BRANCHES
    everything = jnp.broadcast_to(jnp.arange(number), (B, number))
    targets = {layer: x[:, :num_samples] for layer, x in SAMPLES.items()}
    costs = feature_distances(render(source, everything), targets, TWO_LAYERS)
    assigned = match(costs, PRESENT[:, :num_samples])
    mean = neighbours_enhanced(costs, assigned, WEIGHT)
    random = (costs[jnp.arange(B), branches, 0] * WEIGHT).sum()
    return Mean((1 - share) * mean.sum + share * random, mean.count), assigned


@pytest.mark.parametrize('num_samples', [1, 3, 4])
def test_a_relaxed_loss_has_value_and_gradient_of_a_single_pass(num_samples):
    """With 4 samples there are as many branches as samples, and a single pass."""
    branches = jnp.array([2, 0, 3])
    want = with_gradient(lambda source: relaxed_in_one_pass(source, branches, num_samples))(SOURCE)
    got = with_gradient(lambda source: relaxed(source, branches, num_samples))(SOURCE)
    chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-6)


def test_the_expected_relaxed_loss_has_the_mean_over_all_branches():
    values = []
    for branch in range(ALL_BRANCHES):
        mean, _ = relaxed(SOURCE, jnp.full(B, branch), num_samples=1)
        values.append(mean.value())
    everything = jnp.broadcast_to(jnp.arange(ALL_BRANCHES), (B, ALL_BRANCHES))
    truth = {layer: x[:, :1] for layer, x in SAMPLES.items()}
    costs = feature_distances(render(SOURCE, everything), truth, TWO_LAYERS)
    mean_cost = (costs[..., 0].mean(1) * WEIGHT).sum() / WEIGHT.sum()
    best = samples.best_neighbour(costs, WEIGHT).value()
    np.testing.assert_allclose(np.mean(values), 0.75 * best + 0.25 * mean_cost, rtol=1e-6)


def test_a_relaxed_loss_trains_a_branch_that_is_never_the_best():
    """Branch 1 is far from every sample, and gets a gradient as the random branch alone."""
    kernels = jnp.array([0.5, 50.0])[:, None, None, None] * jnp.ones((2, 5, 6, 3))

    def value(kernels, relaxation):
        errors, _ = assigned_errors(
            lambda source, branches: {'image': source[branches]},
            kernels,
            {'image': SAMPLES['image'][:, :1]},
            np.ones((B, 1)),
            {'image': 1.0},
            np.ones(B),
            num_branches=2,
            chunk=2,
            relaxation=relaxation,
        )
        return errors['image'].value()

    gradient = jax.grad(value)
    assert not gradient(kernels, None)[1].any()
    assert gradient(kernels, samples.Relaxation(0.001, jnp.ones(B, int)))[1].all()


def test_fewer_branches_than_samples_are_refused_before_anything_is_drawn():
    def never(source, branches):
        raise AssertionError

    with pytest.raises(InputError, match='fewer branches than samples'):
        assigned_errors(
            never, SOURCE, SAMPLES, PRESENT, TWO_LAYERS, WEIGHT, num_branches=3, chunk=2
        )


# --- factors of the layers ------------------------------------------------------------------------


def test_errors_of_layers_are_means_over_examples():
    ours = {layer: x[:, 0] for layer, x in OUTPUTS.items()}
    theirs = {layer: x[:, 0] for layer, x in TARGETS.items()}
    errors = samples.layer_errors(ours, theirs, WEIGHT)
    assert set(errors) == set(SIZES)
    for layer, mean in errors.items():
        per_example = np.abs(ours[layer] - theirs[layer]).astype(np.float64).mean((1, 2, 3))
        np.testing.assert_allclose(mean, ((per_example * WEIGHT).sum(), 1.5), rtol=1e-6)


def test_calibrated_layers_have_the_share_of_the_image():
    scales = {'image': 60.0, 'conv1_2': 150.0, 'conv2_2': 0.01}
    ours = {layer: scales[layer] * x[:, 0] for layer, x in OUTPUTS.items()}
    theirs = {layer: scales[layer] * x[:, 0] for layer, x in TARGETS.items()}
    errors = samples.layer_errors(ours, theirs, WEIGHT)
    factors = samples.calibrated(errors)
    assert factors['image'] == 1
    for layer, mean in errors.items():
        share = factors[layer] * mean.value()
        np.testing.assert_allclose(share, errors['image'].value(), rtol=1e-6)
    emphasised = samples.calibrated(errors, {'conv2_2': 10.0})
    np.testing.assert_allclose(emphasised['conv2_2'], 10 * factors['conv2_2'], rtol=1e-6)


def test_calibration_from_the_typical_errors_of_crn_gives_its_table():
    divisors = {'image': 1.0, 'conv1_2': 1.6, 'conv2_2': 2.3, 'conv3_2': 1.8, 'conv4_2': 2.8}
    divisors['conv5_2'] = 0.8
    errors = {}
    for layer, divisor in divisors.items():
        values = jnp.full(B, 30 * divisor)
        errors[layer] = masked_mean(values, jnp.ones(B), WEIGHT)
    factors = jax.jit(lambda x: samples.calibrated(x, samples.EMPHASIS))(errors)
    assert set(factors) == set(samples.CITYSCAPES_256)
    chex.assert_trees_all_close(factors, samples.CITYSCAPES_256, rtol=1e-6)


def test_the_tables_name_the_same_layers_and_stress_the_last():
    tables = (samples.CITYSCAPES_256, samples.GTA_256, samples.CITYSCAPES_512)
    for table in tables:
        assert list(table) == ['image', *(f'conv{k}_2' for k in range(1, 6))]
        assert table['image'] == 1 and table['conv5_2'] == max(table.values())


def test_a_layer_without_errors_gets_no_factor():
    zero = {'image': OUTPUTS['image'][:, 0], 'conv1_2': np.zeros((B, 2))}
    other = {**zero, 'image': zero['image'] + 1}
    factors = samples.calibrated(samples.layer_errors(zero, other, WEIGHT))
    assert factors['conv1_2'] == 0


def test_wrong_layers_are_named():
    ours = {'image': COSTS}
    with pytest.raises(InputError, match='equal layers'):
        samples.layer_errors(ours, {'conv1_2': COSTS}, WEIGHT)
    errors = samples.layer_errors({'conv1_2': COSTS}, {'conv1_2': COSTS}, WEIGHT)
    with pytest.raises(InputError, match="without \\['image'\\]"):
        samples.calibrated(errors)
    with pytest.raises(InputError, match='conv5_2'):
        samples.calibrated(samples.layer_errors(ours, ours, WEIGHT), samples.EMPHASIS)
