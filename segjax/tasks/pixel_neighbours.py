"""Pixel-wise nearest neighbours: many images of a smooth image, copied from training images.

A net first regresses a smooth image of a query. Its features are compared with the features of the
training images, smoothed by the same net.

1. The K training images whose global features are nearest to the query (`nearest_images`).
2. For each of them and each pixel of the query the pixel with the nearest features, within a window
   around the same place (`match_pixels`).
3. Each output chooses at each pixel the nearest of the images that it may use, and copies the
   colour of the sharp image (`compose`). Outputs differ by their images (`member_sets`).

Distances are cosine distances. Source: Bansal, Sheikh, Ramanan, PixelNN: Example-based Image
Synthesis, ICLR 2018. The features and the choice of the images of each output are our own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.errors import InputError
from segjax.ops import resize
from segjax.protocol import Array

EPSILON = 1e-12
"""Smallest squared length of a feature that is divided by."""
CHUNK = 1024
"""Pixels of the query, or training images, that are compared at once."""


def unit(features: Array) -> Array:
    """Scales features [..., C] to length 1, in float32. A feature of zeros stays zero."""
    features = features.astype(jnp.float32)
    square = (features**2).sum(-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, EPSILON))


def pixel_features(layers: Mapping[str, Array], size: tuple[int, int]) -> Array:
    """Joins the layers of a net at each pixel, each scaled to length 1 (a hypercolumn).

    Args:
      layers: {name: [B, h, w, C]}, from a net of kind 'features'.
      size: (H, W) of the images.

    Returns:
      [B, H, W, sum of all C] float32 of length 1.
    """
    columns = [unit(resize.bilinear(layer, size)) for layer in layers.values()]
    return unit(jnp.concatenate(columns, -1))


def global_features(layer: Array) -> Array:
    """Returns the features of whole images: the mean over the pixels, scaled to length 1.

    Args:
      layer: [B, h, w, C].

    Returns:
      [B, C] float32.
    """
    return unit(layer.astype(jnp.float32).mean((1, 2)))


def nearest_images(query: Array, bank: Array, count: int, chunk: int = CHUNK) -> Array:
    """Returns the positions of the training images nearest to each query, the nearest first.

    Of equally near images the lower position is first.

    Args:
      query: [B, C] global features.
      bank: [N, C] global features of the training images.
      count: K.
      chunk: training images that are compared at once.

    Returns:
      [B, K] int32.

    Raises:
      InputError: there are fewer training images than K.
    """
    number = bank.shape[0]
    if not 0 < count <= number:
        raise InputError(
            'nearest images', got=str(count), expected=f'1 to {number}, the training images'
        )
    query = unit(query)
    bank = unit(bank)

    # The best K so far compete with the images of the next chunk.
    best = jnp.zeros((query.shape[0], 0), jnp.float32)
    places = jnp.zeros((query.shape[0], 0), jnp.int32)
    for first in range(0, number, chunk):
        part = bank[first : first + chunk]
        similarity = _products(query, part)
        position = jnp.arange(first, first + part.shape[0], dtype=jnp.int32)
        candidates = jnp.concatenate([best, similarity], 1)
        positions = jnp.concatenate(
            [places, jnp.broadcast_to(position, (query.shape[0], part.shape[0]))], 1
        )
        best, order = jax.lax.top_k(candidates, min(count, candidates.shape[1]))
        places = jnp.take_along_axis(positions, order, 1)
    return places


def _products(first: Array, second: Array) -> Array:
    """Returns the scalar products [P, Q] of features [P, C] and [Q, C], exact to float32."""
    return jnp.matmul(first, second.T, precision=jax.lax.Precision.HIGHEST)


class Matches(NamedTuple):
    """The nearest pixel in each of K images, for every pixel of a query.

    similarity  [K, H, W] cosine, in [-1, 1]
    place       [K, H, W] int32, row * W + column in the image
    """

    similarity: Array
    place: Array


def match_pixels(query: Array, candidates: Array, radius: int, chunk: int = CHUNK) -> Matches:
    """Finds the nearest pixel in each of K images, within a window around the same place.

    Of equally near pixels the first in row-major order wins. Memory holds chunk * H * W numbers and
    no more, whatever K.

    Args:
      query: [H, W, C] features of the query.
      candidates: [K, H, W, C] features of the images.
      radius: largest distance of rows and of columns. A negative radius allows the whole image.
      chunk: pixels of the query that are compared at once.
    """
    height, width, channels = query.shape
    pixels = height * width
    chunk = min(chunk, pixels)
    parts = -(-pixels // chunk)
    missing = parts * chunk - pixels
    flat = jnp.pad(unit(query).reshape(pixels, channels), ((0, missing), (0, 0)))
    here = jnp.arange(parts * chunk, dtype=jnp.int32).reshape(parts, chunk)
    there = jnp.arange(pixels, dtype=jnp.int32)

    def match_image(candidate: Array) -> Matches:
        bank = unit(candidate).reshape(pixels, channels)

        def match_part(part: tuple[Array, Array]) -> tuple[Array, Array]:
            features, position = part
            similarity = _products(features, bank)  # [chunk, H W]
            if radius >= 0:
                rows = jnp.abs(position[:, None] // width - there // width)
                columns = jnp.abs(position[:, None] % width - there % width)
                is_near = jnp.maximum(rows, columns) <= radius
                similarity = jnp.where(is_near, similarity, -jnp.inf)
            place = jnp.argmax(similarity, 1).astype(jnp.int32)
            return similarity.max(1), place

        # The padding behind the last pixel of the query is cut off.
        results = jax.lax.map(match_part, (flat.reshape(parts, chunk, channels), here))
        similarity, place = (x.reshape(-1)[:pixels].reshape(height, width) for x in results)
        return Matches(similarity, place)

    return jax.lax.map(match_image, candidates)


def member_sets(generator: np.random.Generator, outputs: int, count: int, size: int) -> np.ndarray:
    """Draws the images that each output may use. The first output may use the nearest `size`.

    Args:
      generator: of the random sets.
      outputs: n.
      count: K, the nearest images, the nearest first.
      size: images of an output.

    Returns:
      [n, K] bool, `size` true values in each row.

    Raises:
      InputError: there are fewer than `size` images.
    """
    if not 0 < size <= count:
        raise InputError('images of an output', got=str(size), expected=f'1 to {count}')
    members = np.zeros((outputs, count), bool)
    for row, member in enumerate(members):
        chosen = np.arange(size) if row == 0 else generator.permutation(count)[:size]
        member[chosen] = True
    return members


def compose(matches: Matches, images: Array, members: Array) -> Array:
    """Copies at each pixel the colour of the nearest pixel among the images of an output.

    Args:
      matches: in K images.
      images: [K, H, W, 3], the sharp images.
      members: [n, K] bool, the images of each output. Each output has an image.

    Returns:
      [n, H, W, 3] in the dtype of the images.
    """
    count, height, width, channels = images.shape
    flat = jnp.asarray(images).reshape(count, height * width, channels)
    rows = jnp.arange(height * width)

    def image_of(member: Array) -> Array:
        similarity = jnp.where(member[:, None, None], matches.similarity, -jnp.inf)
        image = jnp.argmax(similarity, 0).reshape(-1)  # [H W]
        place = matches.place.reshape(count, -1)[image, rows]
        return flat[image, place].reshape(height, width, channels)

    return jax.lax.map(image_of, jnp.asarray(members))


def generate(
    query: Array,
    candidates: Array,
    images: Array,
    members: Array,
    radius: int,
    chunk: int = CHUNK,
) -> Array:
    """Returns n images of a query, see `match_pixels` and `compose`.

    Args:
      query: [H, W, C] features of the smooth image.
      candidates: [K, H, W, C] features of the smooth images of the K nearest training images.
      images: [K, H, W, 3], their sharp images.
      members: [n, K] bool, the images of each output.
      radius: of the window around each pixel, negative for the whole image.
      chunk: pixels of the query that are compared at once.

    Returns:
      [n, H, W, 3] in the dtype of the images.
    """
    return compose(match_pixels(query, candidates, radius, chunk), images, members)
