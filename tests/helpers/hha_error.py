"""Compares HHA with published files: mean absolute differences for several cameras.

usage: python -m tests.helpers.hha_error FOLDER

FOLDER holds nyu_clip/dining_room_0036/{depth,hha} (depth in 1 / 6553.5 metres) and
nyu_stills/{depth,hha} (depth in millimetres), images of 640 x 480. Prints a line for each camera.
"""

import pathlib
import sys
import time

import cv2
import numpy as np
from scipy import optimize

from segjax.data import hha

COLOUR = np.array([[518.857901, 0, 325.582449], [0, 519.469611, 253.736166], [0, 0, 1]])
DEPTH = np.array([[582.624482, 0, 313.044759], [0, 582.691033, 238.443896], [0, 0, 1]])
"""Cameras of the toolbox of NYUDv2. Its pixels count from 1."""

TARGET = '02080'
"""The labelled frame of the clip. Its published HHA is of depth that was filled in another way."""
MISSING = 218
"""Published angle where no depth was measured."""


def moved(camera, x, y):
    """Returns a camera whose pixels have moved by (x, y) to the left and up."""
    camera = camera.copy()
    camera[:2, 2] -= (x, y)
    return camera


CAMERAS = {
    'colour camera': COLOUR,
    'colour camera, pixels from 1': moved(COLOUR, 1, 1),
    'depth camera': DEPTH,
    'depth camera, pixels from 1': moved(DEPTH, 1, 1),
    'depth camera, crop (40, 45)': moved(DEPTH, 40, 45),
    'depth camera, crop (40, 45), pixels from 1': moved(DEPTH, 41, 46),
}


def read_pairs(folder, metres):
    """Returns {name: (depth [H, W] in metres, published HHA [H, W, 3])}."""
    pairs = {}
    for path in sorted((folder / 'hha').glob('*.png')):
        depth = cv2.imread(str(folder / 'depth' / path.name), cv2.IMREAD_UNCHANGED)
        pairs[path.stem] = (depth * metres, cv2.imread(str(path))[..., ::-1])
    return pairs


def differences(pairs, cameras):
    """Returns the absolute differences [n, H, W, 3] for a camera of each pair."""
    values = []
    for (depth, published), camera in zip(pairs, cameras, strict=True):
        values.append(np.abs(hha.hha(depth, camera).astype(int) - published))
    return np.stack(values)


def show(name, difference):
    """Prints the mean and the largest differences [..., 3] of disparity, height and angle."""
    difference = difference.reshape(-1, 3)
    means = ' '.join(f'{mean:8.4f}' for mean in difference.mean(axis=0))
    print(f'{name:60} {means}   {difference.max(axis=0)}', flush=True)


def fitted_camera(depth, published):
    """Fits a camera with square pixels to the height and angle channels of a published image.

    Focal length, principal point, gravity and the lowest point are free: 6 numbers for an image.
    """
    # With the camera matrix 1, normals are covectors of planes in pixels. A camera turns them into
    # normals.
    step = 7
    inner = (slice(12, -12, step), slice(12, -12, step))
    covectors = hha.normals(depth, np.eye(3), hha.ANGLE_RADIUS)[inner].reshape(-1, 3)
    y, x = np.mgrid[: depth.shape[0], : depth.shape[1]]
    points = (100 * depth[..., None] * np.stack([x, y, np.ones_like(x)], axis=-1))[inner]
    points = points.reshape(-1, 3)
    height = published[..., 1][inner].ravel()
    angle = published[..., 2][inner].ravel()
    inside = (height > 2) & (height < 253)

    def camera_of(values):
        focal, x, y = 100 * values[:3]
        return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]])

    def errors(values):
        camera = camera_of(values)
        gravity = np.array([values[3], 1, values[4]])
        gravity /= np.linalg.norm(gravity)
        normals = covectors @ camera
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        angles = np.rad2deg(np.arccos((-normals @ gravity).clip(-1, 1))) + hha.ANGLE_OFFSET
        heights = values[5] - points @ np.linalg.inv(camera).T @ gravity
        return np.concatenate([angles - angle, np.where(inside, heights - height, 0)])

    solution = optimize.least_squares(errors, [10, 0, 0, 0, 0, 130], loss='soft_l1')
    return camera_of(solution.x)


def main(folder):
    """Prints the differences of the clip, of its labelled frame and of the stills."""
    print(f'{"mean absolute difference":59} disparity   height    angle   largest')
    clip = read_pairs(folder / 'nyu_clip' / 'dining_room_0036', 1 / 6553.5)
    target = clip.pop(TARGET)
    for name, camera in CAMERAS.items():
        show(f'clip, {name}', differences(clip.values(), [camera] * len(clip)))
    for name, camera in CAMERAS.items():
        difference = differences([target], [camera])[0]
        show(f'{TARGET}, {name}', difference)
        measured = (target[1][..., 2] != MISSING) & (difference[..., 0] == 0)
        show(f'{TARGET}, {name}, measured', difference[measured])

    stills = read_pairs(folder / 'nyu_stills', 1e-3)
    focal = np.diag([1000.0, 1000.0, 1.0])
    for name, camera in {**CAMERAS, 'focal length 1000, principal point 0': focal}.items():
        show(f'stills, {name}', differences(stills.values(), [camera] * len(stills)))
    cameras = [fitted_camera(*pair) for pair in stills.values()]
    show('stills, fitted camera for each image', differences(stills.values(), cameras))
    numbers = np.array([(camera[0, 0], *camera[:2, 2]) for camera in cameras])
    print('fitted focal lengths and principal points:', numbers.round(1).tolist())

    depth, _ = target
    began = time.perf_counter()
    for _ in range(5):
        hha.hha(depth, COLOUR)
    print(f'{(time.perf_counter() - began) / 5:.3f} s for an image of 640 x 480')


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
