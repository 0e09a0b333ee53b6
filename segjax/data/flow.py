"""Dense optical flow between a frame and its neighbour, as a derived feature.

Two methods:

dis         dense inverse search (Kroeger et al., Fast Optical Flow using Dense Inverse Search,
            ECCV 2016, arXiv:1603.03590), with the refinement of OpenCV's class DISOpticalFlow
edge_aware  reliable matches, which are interpolated along image edges and refined. This is the
            scheme of EpicFlow (Revaud et al., CVPR 2015, arXiv:1501.02565). Motion borders keep to
            edges, and occluded pixels get the motion of the surface that they belong to

The edge-aware method has four steps. The flows of dense inverse search in both directions give
matches on a grid of pixels: a match is kept if the way there and back ends near its start. Each
pixel belongs to its nearest match by geodesic distance, whose steps cost more across image
gradients. Each match gets an affine motion, which is fitted to its nearest matches by this
distance. Variational refinement removes seams between the motions (Brox et al., ECCV 2004).
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from segjax.errors import unknown_name
from segjax.protocol import Derived, Example
from segjax.spec import Feature

PRESETS = {
    'ultrafast': cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    'fast': cv2.DISOPTICAL_FLOW_PRESET_FAST,
    'medium': cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
"""Settings of OpenCV for dense inverse search, from fast to accurate."""


class EdgeAware(NamedTuple):
    """Settings of the edge-aware method.

    stride         pixels between the starts of matches, if the image is small enough
    tolerance      largest distance in pixels between the start and the end of the way there and
                   back
    num_neighbors  nearest matches to which the affine motion of a match is fitted
    sigma          decay of the weights exp(-sigma^2 distance) of these matches
    edge_weight    share of the image gradient in the geodesic distance, of 1000
    spread         largest random shift of a match in pixels
    """

    stride: int = 4
    tolerance: float = 0.5
    num_neighbors: int = 128
    sigma: float = 0.05
    edge_weight: float = 999.0
    spread: float = 0.01


EDGE_AWARE = EdgeAware()

MAX_MATCHES = 32_000
"""OpenCV numbers matches with 16 bits. Larger images have a larger stride."""
MIN_MATCHES = 16
"""Fewer matches are not interpolated. OpenCV needs three matches that are not on a line."""


def flow_to(
    offset: int,
    name: str = 'flow',
    method: str = 'dis',
    preset: str = 'medium',
    data: str = 'data',
) -> Derived:
    """Returns the flow of each frame to its neighbour as a derived feature, [H, W, 2] float32.

    (u, v) in pixels: the pixel (x, y) of the frame is at (x + u, y + v) in the neighbour. The flow
    is 0 where the clip ends, because a frame is then its own neighbour.

    Args:
      offset: of the neighbour, not 0. 1 is the next frame.
      name: of the feature.
      method: a name of METHODS.
      preset: a name of PRESETS, for the dense inverse search of both methods.
      data: config section of the data set.

    Raises:
      InputError: an unknown method or preset.
    """
    if method not in METHODS:
        raise unknown_name(f'method of feature {name!r}', method, METHODS)
    if preset not in PRESETS:
        raise unknown_name(f'preset of feature {name!r}', preset, PRESETS)
    settings = {'method': 'dense inverse search', 'preset': preset}
    if method == 'edge_aware':
        settings |= {'method': 'edge-aware interpolation', **EDGE_AWARE._asdict()}
    return Derived(
        name,
        Feature('flow', (2,)),
        reads=('image', 'image_frames'),
        compute=functools.partial(example_flow, method=method, preset=preset),
        settings=settings,
        frames=(offset,),
        data=data,
    )


def example_flow(example: Example, method: str, preset: str) -> np.ndarray:
    """Returns the flow [H, W, 2] of 'image' to the first of its 'image_frames'."""
    return METHODS[method](example['image'], example['image_frames'][0], preset)


def dense_flow(image: np.ndarray, neighbour: np.ndarray, preset: str = 'medium') -> np.ndarray:
    """Returns the optical flow between two images by dense inverse search.

    Args:
      image: [H, W, 3] uint8, RGB.
      neighbour: [H, W, 3] uint8, RGB.
      preset: a name of PRESETS.

    Returns:
      [H, W, 2] float32, (u, v) in pixels, as in `flow_to`.
    """
    if np.array_equal(image, neighbour):
        return np.zeros((*image.shape[:2], 2), np.float32)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (image, neighbour)]
    return cv2.DISOpticalFlow_create(PRESETS[preset]).calc(*grey, None)


def edge_aware_flow(image: np.ndarray, neighbour: np.ndarray, preset: str = 'medium') -> np.ndarray:
    """Returns the optical flow between two images by edge-aware interpolation of matches.

    Images with fewer than MIN_MATCHES matches keep the flow of dense inverse search, refined.

    Args and result: as `dense_flow`.
    """
    flow = dense_flow(image, neighbour, preset)
    if np.array_equal(image, neighbour):
        return flow
    starts, ends = _matches(flow, dense_flow(neighbour, image, preset))
    if len(starts) >= MIN_MATCHES:
        flow = _interpolated(image, neighbour, starts, ends)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (image, neighbour)]
    return cv2.VariationalRefinement_create().calc(*grey, flow)


METHODS = {'dis': dense_flow, 'edge_aware': edge_aware_flow}
"""Functions (image, neighbour, preset) -> flow."""


def round_trip(flow: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Returns the distance between each pixel and the end of its way there and back.

    Args:
      flow: [H, W, 2] from a frame to its neighbour.
      backward: [H, W, 2] from the neighbour to the frame. It is interpolated bilinearly.

    Returns:
      [H, W] float32 pixels, infinite where the flow leaves the neighbour.
    """
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x += flow[..., 0]
    y += flow[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    back = cv2.remap(backward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside, np.linalg.norm(flow + back, axis=-1), np.float32(np.inf))


def _matches(flow: np.ndarray, backward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the starts and ends [n, 2] float32 of matches (x, y), row by row of a grid."""
    height, width = flow.shape[:2]
    stride = EDGE_AWARE.stride
    while -(-height // stride) * -(-width // stride) > MAX_MATCHES:
        stride += 1
    rows = np.arange(stride // 2, height, stride)
    columns = np.arange(stride // 2, width, stride)
    kept = round_trip(flow, backward)[np.ix_(rows, columns)] <= EDGE_AWARE.tolerance
    i, j = np.nonzero(kept)
    starts = np.stack([columns[j], rows[i]], axis=-1).astype(np.float32)
    return starts, starts + flow[rows[i], columns[j]]


def _interpolated(
    image: np.ndarray, neighbour: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Returns the flow [H, W, 2] of matches, from the affine motion of the nearest match."""
    # OpenCV reads beyond its tables if there are fewer matches than neighbours. It loses all
    # matches of a neighbourhood in which all motions are exactly equal, so they are shifted a bit.
    shift = np.random.default_rng(0).uniform(-EDGE_AWARE.spread, EDGE_AWARE.spread, ends.shape)
    interpolator = cv2.ximgproc.createEdgeAwareInterpolator()
    interpolator.setK(min(EDGE_AWARE.num_neighbors, len(starts)))
    interpolator.setSigma(EDGE_AWARE.sigma)
    interpolator.setLambda(EDGE_AWARE.edge_weight)
    # The smoothing filter of OpenCV depends on the number of threads, and refinement replaces it.
    interpolator.setUsePostProcessing(False)
    return interpolator.interpolate(image, starts, neighbour, ends + shift.astype(np.float32))
