"""Sums per image, against loops over pixels."""

import jax
import numpy as np
import pytest
from scipy import special

from segjax.errors import InputError
from segjax.modes.audit import measure
from segjax.modes.audit.defences import answers, key_of_digest

C = 5


@pytest.fixture(scope='module')
def example():
    """Returns posteriors [2, 7, 9, C], labels and the sums of both images."""
    generator = np.random.default_rng(0)
    label = np.repeat(generator.integers(0, C - 1, (2, 7, 3)), 3, axis=2)
    label[:, 0, :4] = 255
    logits = generator.normal(0, 2, (2, 7, 9, C)) + 2 * np.eye(C)[np.where(label < C, label, 0)]
    posteriors = special.softmax(logits, -1).astype(np.float32)
    keys = jax.numpy.stack([key_of_digest(b'12345678'), key_of_digest(b'87654321')])
    sums = jax.device_get(jax.jit(measure.sums)(posteriors, label, keys))
    return posteriors, label, sums, keys


def loops(posteriors, label):
    """Loss, confidence and logit of each labelled pixel of an image, with its class and place."""
    rows = []
    for (y, x), truth in np.ndenumerate(label):
        if truth < C:
            p = posteriors[y, x].astype(np.float64)
            rest = sum(p[c] for c in range(C) if c != truth)
            values = (-np.log(p[truth]), p.max(), np.log(p[truth]) - np.log(rest))
            rows.append((values, truth, (y, x), int(p.argmax())))
    return rows


def test_signals_matrix_and_histograms(example):
    posteriors, label, sums, _ = example
    for i in range(2):
        rows = loops(posteriors[i], label[i])
        values = np.array([row[0] for row in rows])
        np.testing.assert_allclose(sums.signals[i, 0], values.mean(0), rtol=1e-5)
        matrix = np.zeros((C + 1, C + 1), int)
        for _, truth, _, predicted in rows:
            matrix[truth, predicted] += 1
        np.testing.assert_array_equal(sums.matrix[i, 0], matrix)
        edges = measure.POSTERIOR_EDGES
        expected, _ = np.histogram(values[:, 1].astype(np.float32), edges.astype(np.float32))
        np.testing.assert_array_equal(sums.posteriors[i, 0], expected)
        expected, _ = np.histogram(values[:, 2], measure.LOGIT_EDGES)
        np.testing.assert_array_equal(sums.logits[i, 0], expected)


def test_classes_and_parts(example):
    posteriors, label, sums, _ = example
    for i in range(2):
        rows = loops(posteriors[i], label[i])
        for number in range(C):
            of_class = [row[0] for row in rows if row[1] == number]
            if of_class:
                np.testing.assert_allclose(sums.classes[i, number], np.mean(of_class, 0), rtol=1e-5)
            else:
                assert np.isnan(sums.classes[i, number]).all()
        edge = {
            place
            for _, truth, place, _ in rows
            for _, other, there, _ in rows
            if truth != other and abs(place[0] - there[0]) + abs(place[1] - there[1]) == 1
        }
        near = measure.REACH - 1
        parts = {True: [], False: []}
        for values, _, (y, x), _ in rows:
            distances = [max(abs(y - v), abs(x - u)) for v, u in edge]
            parts[min(distances) <= near].append(values)
        for number, is_boundary in enumerate((True, False)):
            if parts[is_boundary]:
                np.testing.assert_allclose(
                    sums.parts[i, number], np.mean(parts[is_boundary], 0), rtol=1e-5
                )


def test_defences_are_measured_behind_the_net(example):
    posteriors, label, sums, keys = example
    table = answers(C)
    assert list(table) == ['none', 'argmax', 'gaussian_0.5', 'gaussian_1', 'temperature_4', 'top_3']
    assert list(answers(3)) == list(table)[:-1]
    for number, answer in enumerate(table.values()):
        changed = np.asarray(answer(posteriors, keys=keys), np.float64)
        for i in range(2):
            valid = label[i] < C
            predicted = changed[i].argmax(-1)[valid]
            matrix = np.zeros((C + 1, C + 1), int)
            np.add.at(matrix, (label[i][valid], predicted), 1)
            np.testing.assert_array_equal(sums.matrix[i, number], matrix)
            confidence = changed[i].max(-1)[valid].mean()
            assert sums.signals[i, number, 1] == pytest.approx(confidence, rel=1e-5)


def test_the_same_posteriors_get_the_same_noise(example):
    posteriors, label, sums, keys = example
    swapped = jax.device_get(jax.jit(measure.sums)(posteriors[::-1], label[::-1], keys[::-1]))
    for first, second in zip(sums, swapped, strict=True):
        np.testing.assert_array_equal(first, second[::-1])


def test_the_record_leaves_out_images_without_a_label(example):
    _, _, sums, _ = example
    record = measure.Record(tuple('abcde'))
    record.add('x', True, jax.tree.map(lambda values: values[0], sums))
    record.add('y', False, jax.tree.map(lambda values: values[1], sums))
    nothing = jax.tree.map(lambda values: np.zeros_like(values[0]), sums)
    record.add('z', False, nothing)
    measured = record.measured()
    assert measured.names == ('x', 'y') and measured.unlabelled == ('z',)
    np.testing.assert_array_equal(measured.matrices, np.stack([sums.matrix[1], sums.matrix[0]]))
    np.testing.assert_array_equal(measured.posteriors[1], sums.posteriors[0])
    right = np.diagonal(sums.matrix[0, 0]).sum() / sums.matrix[0, 0].sum()
    assert measured.accuracy[0] == pytest.approx(right)
    np.testing.assert_array_equal(measured.signal('logit', 'gaussian_1'), sums.signals[:, 3, 2])
    np.testing.assert_array_equal(measured.label_pixels[1], sums.matrix[1, 0].sum(1)[:-1])


def test_a_record_without_a_label_is_refused(example):
    nothing = jax.tree.map(lambda values: np.zeros_like(values[0]), example[2])
    record = measure.Record(tuple('abcde'))
    assert not record.add('x', True, nothing)
    with pytest.raises(InputError, match='1 images, none with a labelled pixel'):
        record.measured()
