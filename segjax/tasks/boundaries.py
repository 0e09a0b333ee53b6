"""Scores folders of boundaries against folders of annotations (metrics/boundary.py).

A prediction and its truth have the same name below their folders, apart from the suffix.

| file | as a prediction | as truth |
|---|---|---|
| .mat | 'ucm2', an ultrametric contour map | 'groundTruth', boundaries of several annotators |
| .npy of floats or bool | strengths [H, W] or a contour map | none |
| .npy of integers, .png, .bmp, .tif | labels of regions or classes | labels, 255 unlabelled |

The .mat files are those of the Berkeley data set BSDS500.
"""

import pathlib
import zlib
from typing import Any

import numpy as np
from scipy import io

from segjax.core import files
from segjax.data import image_files
from segjax.errors import InputError
from segjax.metrics import boundary
from segjax.protocol import Mean

LABEL_SUFFIXES = ('.npy', '.png', '.bmp', '.tif', '.tiff')
SUFFIXES = ('.mat', *LABEL_SUFFIXES)


def score_folders(
    predictions: pathlib.Path,
    truths: pathlib.Path,
    num_thresholds: int = boundary.NUM_THRESHOLDS,
    max_dist: float = boundary.MAX_DIST,
) -> dict[str, Any]:
    """Scores all images of a folder of annotations.

    Args:
      predictions: folder of contour maps, strengths or labels.
      truths: folder of annotations. Predictions of further images are not read.
      num_thresholds: number of even thresholds between 0 and 1.
      max_dist: largest distance of a match, in diagonals of the image.

    Returns:
      The scores of `boundary.scores`, and 'images', the number of images.

    Raises:
      InputError: no annotation, an image without a prediction, or a file with wrong content.
    """
    truth_files = image_files.by_relative_name(truths, SUFFIXES)
    prediction_files = image_files.by_relative_name(predictions, SUFFIXES)
    if not truth_files:
        expected = f'annotations: {", ".join(SUFFIXES)}'
        raise InputError(str(truths), got='no such file', expected=expected)
    missing = sorted(set(truth_files) - set(prediction_files))
    if missing:
        raise InputError(
            str(predictions),
            got=f'no prediction of {missing[0]!r}, in all {len(missing)} missing',
            expected=f'a file for each of the {len(truth_files)} annotations in {truths}',
        )

    # The counts of all images are added before any division.
    counts = np.zeros((num_thresholds + 1, len(boundary.COUNTS)))
    for name, path in truth_files.items():
        truth = read_truth(path, max_dist)
        prediction = prediction_files[name]
        strengths = read_strengths(prediction, truth.counted.shape)
        try:
            counts += boundary.image_counts(strengths, truth, num_thresholds, max_dist).sum
        except InputError as error:
            raise error.at(str(prediction)) from error
    images = len(truth_files)
    return {**boundary.scores(Mean(counts, np.asarray(images))), 'images': images}


def read_truth(path: pathlib.Path, max_dist: float = boundary.MAX_DIST) -> boundary.Truth:
    """Returns the true boundaries of an image.

    Args:
      path: of a .mat file with 'groundTruth', or of a label map.
      max_dist: largest distance of a match, in diagonals. See `boundary.class_truth`.

    Raises:
      InputError: wrong content.
    """
    try:
        if path.suffix.lower() != '.mat':
            return boundary.class_truth(_read_labels(path), max_dist)
        annotations = _read_mat(path, 'groundTruth').ravel()
        maps = [annotation['Boundaries'][0, 0] for annotation in annotations]
        return boundary.annotated_truth(tuple(maps))
    except InputError as error:
        raise error.at(str(path)) from error
    except (IndexError, ValueError) as error:
        raise InputError(
            str(path),
            got=f"'groundTruth' of another form ({error})",
            expected="a cell of structures with 'Boundaries' for each annotator",
        ) from error


def read_strengths(path: pathlib.Path, size: tuple[int, ...]) -> np.ndarray:
    """Returns the predicted strengths [H, W] of an image.

    Args:
      path: of a .mat file with 'ucm2', of an array, or of a label map.
      size: (height, width) of the image.

    Raises:
      InputError: wrong content, or another size.
    """
    height, width = size
    try:
        if path.suffix.lower() == '.mat':
            return boundary.ucm_strength(_read_mat(path, 'ucm2'), (height, width))
        values = _read_values(path)
        if values.dtype.kind in 'fb':
            return boundary.ucm_strength(values, (height, width))
        return boundary.label_boundaries(values).astype(np.float64)
    except InputError as error:
        raise error.at(str(path)) from error


def _read_mat(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns a variable of a .mat file, or raises InputError."""
    expected = f'a MATLAB file with the variable {name!r}'
    try:
        content = io.loadmat(path)
    except NotImplementedError as error:
        fix = "save it again in MATLAB with the option '-v7'"
        raise InputError(str(path), got='version 7.3', expected=expected, fix=fix) from error
    except (OSError, ValueError, TypeError, zlib.error, io.matlab.MatReadError) as error:
        raise InputError(str(path), got=str(error), expected=expected) from error
    if name not in content:
        names = [key for key in content if not key.startswith('__')]
        raise InputError(str(path), got=f'the variables {names}', expected=expected)
    return content[name]


def _read_values(path: pathlib.Path) -> np.ndarray:
    """Returns the array of a .npy file or of a label image, or raises InputError."""
    if path.suffix.lower() != '.npy':
        return image_files.read_ids(path)
    try:
        return files.read_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(str(path), got=str(error), expected='a whole .npy file') from error


def _read_labels(path: pathlib.Path) -> np.ndarray:
    """Returns a map of whole numbers, or raises InputError."""
    labels = _read_values(path)
    if labels.dtype.kind not in 'iu':
        raise InputError(
            str(path), got=f'an array of {labels.dtype}', expected='labels, which are integers'
        )
    return labels
