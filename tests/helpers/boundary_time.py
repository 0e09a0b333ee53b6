"""Times the boundary benchmark on random maps: `python -m tests.helpers.boundary_time 425 560`.

Arguments are height and width. The truth has 80 cells of 13 classes. Predictions are contours of
further cells, and class probabilities with more and more noise.
"""

import sys
import time

import cv2
import numpy as np

from segjax.metrics import boundary

NUM_CLASSES = 13


def cells(rng, size, number):
    """Returns the number of the nearest of `number` random points at each pixel, [H, W]."""
    points = rng.uniform(0, size, (number, 2))
    places = np.stack(np.indices(size), -1)[:, :, None]
    return ((places - points) ** 2).sum(-1).argmin(-1)


def probabilities(rng, labels, blur, noise):
    """Returns the softmax of blurred labels and smooth noise, [H, W, C]."""
    logits = 6 * np.eye(NUM_CLASSES)[labels]
    logits = cv2.GaussianBlur(logits, (0, 0), 3)
    smooth = cv2.GaussianBlur(rng.normal(size=logits.shape), (0, 0), blur)
    logits += noise * smooth / smooth.std()
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def main() -> None:
    """Prints CPU seconds and numbers of boundary pixels for each kind of map."""
    size = (int(sys.argv[1]), int(sys.argv[2]))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, 80)[cells(rng, size, 80)]
    truth = boundary.class_truth(labels)

    # Contours between cells have a random strength, as in a hierarchy of regions.
    regions = cells(rng, size, 300)
    heights = rng.random(300)
    contours = boundary.label_boundaries(regions) * heights[regions]
    maps = {'labels': boundary.label_boundaries(labels), 'contours of 300 regions': contours}
    for name, blur, noise in (('smooth', 8, 1.5), ('noisy', 2, 1.5), ('very noisy', 1, 4.0)):
        maps[f'probabilities, {name}'] = np.asarray(
            boundary.boundary_strength(probabilities(rng, labels, blur, noise))
        )

    for name, strengths in maps.items():
        start = time.process_time()
        counts = boundary.image_counts(strengths, truth).sum
        seconds = time.process_time() - start
        predicted = counts[:-1, 1]
        print(
            f'{name}: {seconds:.1f} s, {len(np.unique(predicted))} different maps, '
            f'{predicted.max():.0f} predicted and {counts[0, 3]:.0f} true pixels'
        )


if __name__ == '__main__':
    main()
