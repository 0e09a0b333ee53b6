"""Dense optical flow between a frame and its neighbour, as a derived feature.

The method is dense inverse search (Kroeger et al., Fast Optical Flow using Dense Inverse Search,
ECCV 2016, arXiv:1603.03590), with the refinement of OpenCV's class DISOpticalFlow.
"""

import functools

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
"""Settings of OpenCV, from fast to accurate."""


def flow_to(offset: int, name: str = 'flow', preset: str = 'medium', data: str = 'data') -> Derived:
    """Returns the flow of each frame to its neighbour as a derived feature, [H, W, 2] float32.

    (u, v) in pixels: the pixel (x, y) of the frame is at (x + u, y + v) in the neighbour. The flow
    is 0 where the clip ends, because a frame is then its own neighbour.

    Args:
      offset: of the neighbour, not 0. 1 is the next frame.
      name: of the feature.
      preset: a name of PRESETS.
      data: config section of the data set.

    Raises:
      InputError: an unknown preset.
    """
    if preset not in PRESETS:
        raise unknown_name(f'preset of feature {name!r}', preset, PRESETS)
    return Derived(
        name,
        Feature('flow', (2,)),
        reads=('image', 'image_frames'),
        compute=functools.partial(example_flow, preset=preset),
        settings={'method': 'dense inverse search', 'preset': preset},
        frames=(offset,),
        data=data,
    )


def example_flow(example: Example, preset: str) -> np.ndarray:
    """Returns the flow [H, W, 2] of 'image' to the first of its 'image_frames'."""
    return dense_flow(example['image'], example['image_frames'][0], preset)


def dense_flow(image: np.ndarray, neighbour: np.ndarray, preset: str = 'medium') -> np.ndarray:
    """Returns the optical flow between two images.

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
