"""`faces`: procedural human faces with 68 exact landmarks and a label of their parts.

`face(seed, split, index, size)` is a pure function. The shape of a face (proportions, expression
and pose) decides the landmarks. The looks (skin, hair, eyes, beard, glasses, clothes, lamp,
backdrop) come from a random generator of their own, so the appearance is independent of the
landmarks. `render(shape, looks, size)` shows any looks on any shape.

looks.py lists the factors that landmarks leave open, with their distributions.
"""

import numpy as np

from segjax.data.worlds.faces import paint
from segjax.data.worlds.faces import shape as shapes
from segjax.data.worlds.faces.looks import Looks, draw_looks
from segjax.data.worlds.faces.shape import Shape, draw_shape
from segjax.data.worlds.streets.scene import generator
from segjax.data.worlds.studio import check_address


def shape_of(seed: int, split: str, index: int) -> Shape:
    """Returns the shape of a face of the world."""
    return draw_shape(generator(seed, split, index, 1))


def looks_of(seed: int, split: str, index: int) -> Looks:
    """Returns the looks of a face of the world."""
    return draw_looks(generator(seed, split, index, 2))


def face(seed: int, split: str, index: int, size: tuple[int, int]) -> dict:
    """Renders a face of the world.

    Args:
      seed: of the world.
      split: name of the split.
      index: number of the face.
      size: (height, width).

    Returns:
      As `render`.

    Raises:
      InputError: a negative seed or index, or a size below 8 x 8.
    """
    check_address('faces', seed, index, size)
    return render(shape_of(seed, split, index), looks_of(seed, split, index), size)


def render(shape: Shape, looks: Looks, size: tuple[int, int]) -> dict:
    """Renders looks on a shape.

    Returns:
      image   [H, W, 3] uint8 RGB
      label   [H, W] uint8 parts, which are the classes of paint.py. The part that covers the centre
              of a pixel decides
      points  [68, 2] float32 landmarks (x, y) in pixels, in the order of `face_points`
    """
    image, label = paint.paint(shape, looks, size)
    points = shapes.landmarks(shape, size).astype(np.float32)
    return {'image': image, 'label': label, 'points': points}
