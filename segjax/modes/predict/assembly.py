"""Assembles the class map and the confidence of one image from the predictions of its tiles."""

from collections.abc import Iterable, Iterator

import numpy as np

from segjax.data import transforms
from segjax.data.image_files import ImageSource
from segjax.modes.predict import tiles
from segjax.modes.predict.plan import PredictPlan, net_sizes

STRIP_PIXELS = 1 << 22
"""Pixels at the original size that are decided at a time: bounds the memory."""


class Assembly:
    """One image whose prediction is in progress.

    `cuttings` yields its tiles. `add` expects their predictions in the same order. Planes [H, W, 3]
    uint8 are channels of the tiles behind colour.

    digest      of the image file; '' if the caller needs none
    classes     [H, W] uint8 train ids
    confidence  [H, W] uint8, 255 x the largest probability
    """

    def __init__(
        self,
        source: ImageSource,
        image: np.ndarray,
        plan: PredictPlan,
        num_classes: int,
        digest: str = '',
        planes: np.ndarray | None = None,
    ):
        self.source = source
        self.digest = digest
        self.image = image
        self.planes = planes
        self.size = image.shape[:2]
        # Per scale: how the resized image is cut, blended, and resized back.
        self.grids = [
            tiles.cut(size, plan.tile, plan.overlap) for size in net_sizes(self.size, plan)
        ]
        self.canvases = [tiles.Canvas(num_classes, grid) for grid in self.grids]
        self.vertical = [tiles.interpolation(grid.size[0], self.size[0]) for grid in self.grids]
        # The tiles of all scales in one order. Each view has the same share in the mean.
        self.places = tiles.schedule(self.grids, plan.mirror)
        self.share = 1 / (len(plan.scales) * (2 if plan.mirror else 1))
        # Rows above `decided` are final.
        self.decided = 0
        self.classes = np.zeros(self.size, np.uint8)
        self.confidence = np.zeros(self.size, np.uint8)

    def cuttings(self) -> Iterator[tuple[tiles.TilePlace, np.ndarray]]:
        """Yields the place and the pixels of every tile."""
        padded = []
        for grid in self.grids:
            resized = transforms.resize_image(self.image, grid.size)
            if self.planes is not None:
                planes = transforms.resize_image(self.planes, grid.size)
                resized = np.concatenate([resized, planes], axis=-1)
            padded.append(tiles.pad(resized, grid))
        for place in self.places:
            yield place, tiles.take(padded[place.scale], self.grids[place.scale], place)

    def add(self, place: tiles.TilePlace, probabilities: np.ndarray) -> bool:
        """Adds the prediction [C, h, w] of a tile. Returns True once the image is complete."""
        self.canvases[place.scale].add(probabilities, place, self.share)
        if place.closes_row:
            self._decide()
        return self.decided == self.size[0]

    def _decide(self) -> None:
        """Decides the rows that have become final at every scale, then frees their memory."""
        # A row is final once all rows that its interpolation reads are finished, at all scales.
        final = min(
            int(np.searchsorted(vertical.upper, canvas.finished))
            for vertical, canvas in zip(self.vertical, self.canvases)
        )

        # Strip by strip and class by class, so that no float map of the whole image exists.
        step = max(1, STRIP_PIXELS // self.size[1])
        num_classes = len(self.canvases[0].rows)
        for start in range(self.decided, final, step):
            stop = min(start + step, final)
            planes = (self._plane(index, start, stop) for index in range(num_classes))
            self._finish(planes, start, stop)
        self.decided = max(self.decided, final)

        # Later rows may still read the rows from `lower` on.
        if self.decided < self.size[0]:
            for vertical, canvas in zip(self.vertical, self.canvases):
                canvas.drop(int(vertical.lower[self.decided]))
        else:
            self.canvases.clear()  # the finished maps may have to wait for a writer

    def _finish(self, planes: Iterable[np.ndarray], start: int, stop: int) -> None:
        """Decides the rows start .. stop - 1 from the probabilities of each class."""
        self.classes[start:stop], best = argmax(planes)
        self.confidence[start:stop] = confidence(best)

    def _plane(self, index: int, start: int, stop: int) -> np.ndarray:
        """Returns the probability of one class in rows start .. stop - 1 at the original size."""
        return sum(
            tiles.resized_rows(canvas, index, vertical, start, stop, self.size[1])
            for canvas, vertical in zip(self.canvases, self.vertical)
        )


class WholeAssembly(Assembly):
    """An image whose class probabilities are kept.

    probabilities  [C, H, W] float32. The class map and the confidence stay 0
    """

    def __init__(
        self,
        source: ImageSource,
        image: np.ndarray,
        plan: PredictPlan,
        num_classes: int,
        planes: np.ndarray | None = None,
    ):
        super().__init__(source, image, plan, num_classes, planes=planes)
        self.probabilities = np.zeros((num_classes, *self.size), np.float32)

    def _finish(self, planes: Iterable[np.ndarray], start: int, stop: int) -> None:
        """Keeps the probabilities of the rows start .. stop - 1."""
        for index, plane in enumerate(planes):
            self.probabilities[index, start:stop] = plane


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Returns 255 x the probability of the predicted class, a float32 map of whole numbers."""
    return np.round(255 * np.minimum(probabilities, 1))


def argmax(planes: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the largest plane at every pixel while holding one plane at a time.

    Args:
      planes: arrays of one shape, by class.

    Returns:
      (index uint8, value) of the largest plane at every pixel, the first of equal planes.
    """
    planes = iter(planes)
    best = next(planes)
    winner = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(planes, start=1):
        np.copyto(winner, index, where=plane > best)
        np.maximum(best, plane, out=best)
    return winner, best
