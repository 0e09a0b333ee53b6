"""Compares rows of a table image by image: mean differences with intervals.

python -m tests.helpers.paired_images TABLE_FOLDER STAGE HIGHER LOWER [HIGHER LOWER ...]

Reads `pixel_accuracy_of_images` and `IoU_of_images` of the scores of each seed. An interval holds
95 % of the bootstrapped means. Whole images are resampled, with the values of all seeds.
"""

import pathlib
import sys

import numpy as np

from segjax.core import files
from segjax.metrics.intervals import grouped_bootstrap

SCORES = ('pixel_accuracy_of_images', 'IoU_of_images')


def values(folder: pathlib.Path, row: str, stage: str, score: str) -> np.ndarray:
    """Returns the values of a row, [seeds, images] in per cent, NaN for no value."""
    seeds = sorted((folder / row).glob('seed_*'))
    rows = [files.read_json(seed / 'scores.json')[stage][score] for seed in seeds]
    return 100 * np.array(rows, float)


def compare(folder: pathlib.Path, stage: str, higher: str, lower: str) -> str:
    """Returns a line with the differences of two rows."""
    cells = [f'{higher} - {lower}']
    for score in SCORES:
        difference = values(folder, higher, stage, score) - values(folder, lower, stage, score)
        images = np.broadcast_to(np.arange(difference.shape[1]), difference.shape)
        found = grouped_bootstrap(difference.ravel(), images.ravel())
        cells.append(f'{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]')
    return '| ' + ' | '.join(cells) + ' |'


def main(folder: str, stage: str, *rows: str) -> None:
    """Prints a line for each pair of rows."""
    print('| rows | pixel accuracy | IoU |')
    for higher, lower in zip(rows[::2], rows[1::2], strict=True):
        print(compare(pathlib.Path(folder), stage, higher, lower))


if __name__ == '__main__':
    main(*sys.argv[1:])
