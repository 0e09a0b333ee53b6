"""Compares the methods of optical flow on real video, where no exact flow is known.

usage: python -m tests.helpers.flow_error FOLDER

FOLDER holds nyu_clip/dining_room_0036/color and cityscapes_video/seq*/image. Prints for each video
and method, as means over pairs of neighbouring frames:

photometric  absolute difference of a frame and its warped neighbour, of 255, where the flow ends
             inside of the neighbour
round trip   median distance between a pixel and the end of its way there and back, in pixels
consistent   share of pixels whose way there and back ends within 1 pixel of its start
edges        share of the length of motion borders (flow that jumps by more than 1 pixel) within 2
             pixels of an edge of the image
seconds      time for the flow of a pair in one direction
"""

import pathlib
import sys
import time

import cv2
import numpy as np

from segjax.data import flow

NUM_PAIRS = 8
CROP = (slice(45, 470), slice(40, 600))
"""Part of frames of NYUDv2 that has no white border."""


def pairs_of(folder, crop=(slice(None), slice(None))):
    """Returns pairs of neighbouring frames, which are spread over a video."""
    paths = sorted(folder.iterdir())
    pairs = []
    for first in np.linspace(0, len(paths) - 2, NUM_PAIRS).astype(int):
        images = [cv2.imread(str(path))[..., ::-1][crop] for path in paths[first : first + 2]]
        pairs.append([np.ascontiguousarray(image) for image in images])
    return pairs


def warped(image, value):
    """Returns the pixels of a neighbour at the ends of a flow, and whether they lie inside."""
    height, width = value.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x += value[..., 0]
    y += value[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR), inside


def share_at_edges(image, value):
    """Returns the share of motion borders near an edge of the image. NaN without borders."""
    jump = np.zeros(value.shape[:2], bool)
    jump[:, 1:] |= np.linalg.norm(np.diff(value, axis=1), axis=-1) > 1
    jump[1:] |= np.linalg.norm(np.diff(value, axis=0), axis=-1) > 1
    edges = cv2.dilate(cv2.Canny(image, 60, 120), np.ones((5, 5), np.uint8)) > 0
    return edges[jump].mean() if jump.any() else np.nan


def measured(compute, image, neighbour):
    """Returns the numbers of a method for a pair of frames."""
    began = time.perf_counter()
    forward = compute(image, neighbour)
    seconds = time.perf_counter() - began
    distance = flow.round_trip(forward, compute(neighbour, image))
    moved, inside = warped(neighbour, forward)
    difference = np.abs(moved.astype(int) - image)[inside].mean()
    distance = distance[inside]
    consistent = (distance < 1).mean()
    edges = share_at_edges(image, forward)
    return difference, np.median(distance), consistent, edges, seconds


def none(image, neighbour):
    """Returns no flow."""
    return np.zeros((*image.shape[:2], 2), np.float32)


def main(folder):
    """Prints a line for each video and method."""
    videos = {'nyu_clip': pairs_of(folder / 'nyu_clip' / 'dining_room_0036' / 'color', CROP)}
    for sequence in sorted((folder / 'cityscapes_video').glob('seq*')):
        videos[sequence.name] = pairs_of(sequence / 'image')
    print(f'{"":24} photometric  round trip  consistent  edges  seconds')
    for video, pairs in videos.items():
        for name, compute in {'none': none, **flow.METHODS}.items():
            values = np.nanmean([measured(compute, *pair) for pair in pairs], axis=0)
            line = '{:11.3f} {:11.3f} {:11.3f} {:6.3f} {:8.3f}'.format(*values)
            print(f'{video:10} {name:12} {line}', flush=True)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
