"""Pictures of a comparison: the same images, the truth, predictions, and which of them is right."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from segjax.core import files
from segjax.modes.compare.labels import Comparison, LabelFiles, paint_right, who_is_right
from segjax.modes.compare.runs import Compared
from segjax.report.pictures import mosaic, save_pictures
from segjax.tasks import segmentation


def panel_names(runs: Sequence[Compared]) -> dict[str, str]:
    """Returns {panel: heading} in the order of a figure. Runs are counted from 1."""
    names = {'image': 'image', 'truth': 'truth'}
    for number, compared in enumerate(runs, start=1):
        names[f'prediction_{number}'] = compared.name
    for number, compared in enumerate(runs[1:], start=2):
        names[f'right_1_{number}'] = f'{runs[0].name} and {compared.name}: which is right'
    return names


def write_group(
    runs: Sequence[Compared],
    store: LabelFiles,
    comparison: Comparison,
    group: str,
    indices: Sequence[int],
    folder: pathlib.Path,
) -> list[dict[str, Any]]:
    """Writes the pictures of a group of examples, and a figure of all of them.

    Args:
      runs: all of them.
      store: with the class maps.
      comparison: of the split.
      group: name of the group.
      indices: of its examples.
      folder: for the pictures.

    Returns:
      For each example its 'index', 'name', 'score' (disagreement) and 'pictures' by panel.
    """
    first = runs[0]
    source = first.run.open_input(first.inputs, 'name')
    entries = []
    for index in indices:
        example = source[index]
        entries.append(
            {
                'index': index,
                'name': str(example['name']),
                'score': float(comparison.shares[index]),
                'pictures': _pictures(runs, store, index, example),
            }
        )
    save_pictures(folder, group, entries)
    figure = mosaic(_figure([entry['pictures'] for entry in entries]))
    files.write_bytes(folder / f'{group}.png', files.encode_png(figure))
    return entries


def _pictures(
    runs: Sequence[Compared], store: LabelFiles, index: int, example: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns the pictures of an example by panel."""
    spec = runs[0].spec
    truth, predictions = store.example(index, len(runs))
    pictures = {'image': np.asarray(example['image'])} if 'image' in example else {}
    pictures['truth'] = np.asarray(segmentation.paint(truth, spec))
    for number, prediction in enumerate(predictions, start=1):
        pictures[f'prediction_{number}'] = np.asarray(segmentation.paint(prediction, spec))
    for number, prediction in enumerate(predictions[1:], start=2):
        right = who_is_right(truth, predictions[0], prediction)
        pictures[f'right_1_{number}'] = paint_right(right)
    return pictures


def _figure(examples: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Returns the pictures of several examples as a grid: a panel a row, an example a column.

    Images get the size of their truth. Smaller examples have a white margin.

    Args:
      examples: pictures by panel, the same panels in all examples.

    Returns:
      uint8 [panels, examples, H, W, 3].
    """
    height, width = np.max([pictures['truth'].shape[:2] for pictures in examples], axis=0)
    panels = list(examples[0])
    grid = np.full((len(panels), len(examples), height, width, 3), 255, np.uint8)
    for column, pictures in enumerate(examples):
        h, w = pictures['truth'].shape[:2]
        for row, panel in enumerate(panels):
            picture = pictures[panel]
            if picture.shape[:2] != (h, w):
                picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
            grid[row, column, :h, :w] = picture
    return grid
