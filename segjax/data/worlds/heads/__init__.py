"""`heads`: procedural heads of cats and dogs with exact normals and a label of their parts.

`head(seed, split, index, size)` is a pure function. The shape of a head (proportions and pose)
decides normals and label. The looks (fur, pattern, eyes, lamp, backdrop) come from a random
generator of their own, so the appearance is independent of the normals. `render(shape, looks,
size)` shows any looks on any shape.

looks.py lists the factors that normals leave open, with their distributions.
"""

from segjax.data.worlds.heads.looks import Looks, draw_looks
from segjax.data.worlds.heads.paint import paint as render
from segjax.data.worlds.heads.surface import Shape, draw_shape
from segjax.data.worlds.streets.scene import generator
from segjax.data.worlds.studio import check_address

__all__ = ['Looks', 'Shape', 'head', 'looks_of', 'render', 'shape_of']


def shape_of(seed: int, split: str, index: int) -> Shape:
    """Returns the shape of a head of the world."""
    return draw_shape(generator(seed, split, index, 1))


def looks_of(seed: int, split: str, index: int) -> Looks:
    """Returns the looks of a head of the world."""
    return draw_looks(generator(seed, split, index, 2))


def head(seed: int, split: str, index: int, size: tuple[int, int]) -> dict:
    """Renders a head of the world.

    Args:
      seed: of the world.
      split: name of the split.
      index: number of the head.
      size: (height, width).

    Returns:
      image    [H, W, 3] uint8 RGB
      label    [H, W] uint8 parts, which are the classes of surface.py
      normals  [H, W, 3] float32 unit normals towards the camera (x right, y down, z forward), 0 on
               the backdrop

    Raises:
      InputError: a negative seed or index, or a size below 8 x 8.
    """
    check_address('heads', seed, index, size)
    return render(shape_of(seed, split, index), looks_of(seed, split, index), size)
