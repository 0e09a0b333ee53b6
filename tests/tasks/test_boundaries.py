"""Folders of boundaries: formats of predictions and truths, and files that are wrong."""

import numpy as np
import pytest
from scipy import io

from segjax.data import image_files
from segjax.errors import InputError
from segjax.metrics import boundary
from segjax.tasks import boundaries

SIZE = (24, 32)


def half_map(column):
    """Returns a map of two regions that meet behind `column`."""
    labels = np.zeros(SIZE, np.uint8)
    labels[:, column + 1 :] = 1
    return labels


def write_label(path, labels):
    path.write_bytes(image_files.encode_png(labels))


def write_truth(path, *maps):
    """Writes annotations in the form of the Berkeley data set."""
    cell = np.empty((1, len(maps)), object)
    for i, labels in enumerate(maps):
        lines = boundary.thin(boundary.label_boundaries(labels))
        cell[0, i] = {'Segmentation': labels.astype(np.uint16) + 1, 'Boundaries': lines}
    io.savemat(path, {'groundTruth': cell})


def contour_map(labels, strength):
    """Returns the contours [2H + 1, 2W + 1] of regions, in places between pixels."""
    height, width = labels.shape
    contours = np.zeros((2 * height + 1, 2 * width + 1))
    doubled = labels.repeat(2, 0).repeat(2, 1)
    contours[1:-1, 2:-1] = strength * (doubled[:-1, 1:] != doubled[:-1, :-1])[:, 1:]
    contours[0] = contours[1]
    contours[-1] = contours[-2]
    return contours


@pytest.fixture
def folders(tmp_path):
    predictions = tmp_path / 'predictions'
    truths = tmp_path / 'truths'
    predictions.mkdir()
    truths.mkdir()
    return predictions, truths


def test_contour_maps_are_scored_against_several_annotators(folders):
    predictions, truths = folders
    write_truth(truths / 'a.mat', half_map(10), half_map(20))
    write_truth(truths / 'b.mat', half_map(10))
    io.savemat(predictions / 'a.mat', {'ucm2': contour_map(half_map(10), 0.6)})
    np.save(predictions / 'b.npy', contour_map(half_map(25), 0.4).astype(np.float32))
    io.savemat(predictions / 'not_annotated.mat', {'x': 1})
    scores = boundaries.score_folders(predictions, truths, num_thresholds=9)
    assert scores['images'] == 2
    # Above 0.4 the wrong contour of b is gone: 24 of 72 true pixels, and all predictions, match.
    assert scores['ODS_precision'] == 1 and scores['ODS_recall'] == pytest.approx(1 / 3)
    assert scores['ODS_F'] == pytest.approx(0.5)


@pytest.mark.parametrize('form', ['frame', 'no frame', 'pixels', 'bool'])
def test_all_forms_of_contours_are_the_same_line(folders, form):
    predictions, truths = folders
    write_truth(truths / 'a.mat', half_map(10))
    contours = contour_map(half_map(10), 1.0)
    forms = {
        'frame': contours,
        'no frame': contours[1:-1, 1:-1],
        'pixels': contours[2::2, 2::2],
        'bool': contours[2::2, 2::2] > 0,
    }
    np.save(predictions / 'a.npy', forms[form])
    scores = boundaries.score_folders(predictions, truths, num_thresholds=3, max_dist=0.001)
    assert scores['ODS_F'] == 1


def test_label_maps_are_scored_against_label_maps(folders):
    predictions, truths = folders
    truth = half_map(10)
    truth[:, 10:12] = 255
    write_label(truths / 'a.png', truth)
    write_label(predictions / 'a.png', half_map(10))
    (truths / 'deeper').mkdir()
    (predictions / 'deeper').mkdir()
    np.save(truths / 'deeper/b.npy', half_map(20).astype(np.int32))
    np.save(predictions / 'deeper/b.npy', half_map(21).astype(np.int64))
    scores = boundaries.score_folders(predictions, truths, num_thresholds=1, max_dist=0.05)
    assert (scores['ODS_F'], scores['best_threshold'], scores['images']) == (1, 0.5, 2)


def prediction_error(folders, write):
    predictions, truths = folders
    write_truth(truths / 'a.mat', half_map(10))
    write(predictions)
    with pytest.raises(InputError) as error:
        boundaries.score_folders(predictions, truths)
    return error.value


@pytest.mark.parametrize(
    'write, where, got',
    [
        (lambda folder: None, 'predictions', "no prediction of 'a'"),
        (lambda folder: io.savemat(folder / 'a.mat', {'ucm': 1.0}), 'a.mat', "['ucm']"),
        (lambda folder: (folder / 'a.mat').write_bytes(b'no'), 'a.mat', ''),
        (lambda folder: (folder / 'a.npy').write_bytes(b'no'), 'a.npy', ''),
        (lambda folder: np.save(folder / 'a.npy', np.ones((5, 5))), 'a.npy', '5 x 5'),
        (lambda folder: np.save(folder / 'a.npy', 2 * np.ones(SIZE)), 'a.npy', '2 at [0, 0]'),
        (lambda folder: np.save(folder / 'a.npy', np.ones((4, 5), int)), 'a.npy', '4 x 5'),
        (lambda folder: np.save(folder / 'a.npy', np.ones((3, 4, 5))), 'a.npy', '[3, 4, 5]'),
    ],
)
def test_wrong_predictions_are_named(folders, write, where, got):
    error = prediction_error(folders, write)
    assert error.where.endswith(where) and got in error.got


@pytest.mark.parametrize(
    'write, where, got',
    [
        (lambda folder: None, 'truths', 'no such file'),
        (lambda folder: np.save(folder / 'a.npy', np.ones(SIZE)), 'a.npy', 'float64'),
        (
            lambda folder: io.savemat(folder / 'a.mat', {'groundTruth': np.empty((1, 0), object)}),
            'a.mat',
            'no annotator',
        ),
        (
            lambda folder: io.savemat(folder / 'a.mat', {'groundTruth': np.ones((1, 2))}),
            'a.mat',
            'another form',
        ),
    ],
)
def test_wrong_truths_are_named(folders, write, where, got):
    predictions, truths = folders
    np.save(predictions / 'a.npy', np.zeros(SIZE))
    write(truths)
    with pytest.raises(InputError) as error:
        boundaries.score_folders(predictions, truths)
    assert error.value.where.endswith(where) and got in error.value.got
