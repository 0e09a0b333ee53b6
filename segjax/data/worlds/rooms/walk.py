"""The path of a hand-held camera through a room."""

from typing import NamedTuple

import numpy as np

from segjax.data.worlds.render import camera_pose, visibility
from segjax.data.worlds.rooms import looks
from segjax.data.worlds.rooms.layout import Room
from segjax.data.worlds.shapes import Shape

FRAMES_PER_CLIP = 31
TARGET = 15
"""Number of the frame in a clip that has a label."""

FOCAL = 0.81
"""Focal length in image widths, of a Kinect: 519 / 640."""

CLEARANCE = 0.42
"""Metres between the camera and walls."""

BESIDE = 0.12
"""Metres along the floor between the camera and furniture."""

_HALF_VIEW = np.deg2rad(27.0)
_CANDIDATES = 300
_RENDERED = 12

# By train id: how much a view gains that shows the class. Classes of few rooms gain most.
_INTEREST = np.ones(40)
_INTEREST[[looks.WALL, looks.FLOOR, looks.DOOR, looks.WINDOW]] = 0
_INTEREST[[looks.BOOKSHELF, looks.DESK, looks.TABLE, looks.DRESSER, looks.NIGHT_STAND]] = 2
_INTEREST[[looks.SHELVES, looks.LAMP, looks.OTHER_FURNITURE, looks.CEILING, looks.PILLOW]] = 2
_INTEREST[[looks.TOILET, looks.BATHTUB, looks.SHOWER_CURTAIN, looks.SINK, looks.COUNTER]] = 3
_INTEREST[[looks.OTHER_STRUCTURE, looks.REFRIGERATOR, looks.TELEVISION, looks.WHITEBOARD]] = 3
_INTEREST[[looks.BED, looks.SOFA]] = 5


class Walk(NamedTuple):
    """A path through a room. Times count from the target.

    start     [3] position at the target
    step      [2] metres per frame along the floor
    bend      [2] metres per frame^2
    aim       [3] point that the camera looks at
    drift     [3] metres per frame of that point
    shake     [6, 3, 3] amplitude, frequency (radians per frame) and phase of three sines, for
              x, y, z, heading, pitch and roll
    """

    start: np.ndarray
    step: np.ndarray
    bend: np.ndarray
    aim: np.ndarray
    drift: np.ndarray
    shake: np.ndarray

    def places(self, index) -> np.ndarray:
        """Returns the positions [..., 3] of the camera at frames [...]."""
        time = np.asarray(index)[..., None] - TARGET
        places = self.start + self._shaken(index)[..., :3]
        places[..., :2] += self.step * time + self.bend * time**2
        return places

    def aims(self, index) -> np.ndarray:
        """Returns the points [..., 3] that the camera looks at, at frames [...]."""
        return self.aim + self.drift * (np.asarray(index)[..., None] - TARGET)

    def pose(self, index) -> np.ndarray:
        """Returns the camera-to-world pose [4, 4] at a frame."""
        position = self.places(index)
        towards = self.aims(index) - position
        heading = np.arctan2(towards[0], towards[1])
        pitch = np.arctan2(-towards[2], np.hypot(towards[0], towards[1]))
        _, _, _, turn, nod, roll = self._shaken(index)
        return camera_pose(position, heading + turn, pitch + nod, roll)

    def _shaken(self, index) -> np.ndarray:
        """Returns the motion of the hand [..., 6] at frames [...]."""
        amplitude, frequency, phase = np.moveaxis(self.shake, 1, 0)
        time = np.asarray(index)[..., None, None]
        return (amplitude * np.sin(frequency * time + phase)).sum(axis=-1)


def camera_matrix(size: tuple[int, int]) -> np.ndarray:
    """Returns the intrinsics [3, 3] in pixels of images of `size`, float64."""
    height, width = size
    focal = FOCAL * width
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def take_walk(room: Room, shape: Shape) -> Walk:
    """Samples a walk in which the camera touches nothing and shows many things in the target.

    Args:
      room: with its furniture.
      shape: the primitives of the room. Instance 0 is walls, floor and ceiling.
    """
    # Free paths. The zone in the middle is always free: there the camera turns and hardly walks.
    rng = room.decor.rng
    aims = np.stack(room.aims)
    walks = [_candidate(room, rng, aims) for _ in range(_CANDIDATES)]
    free = [walk for walk in walks if _is_free(room, walk)]
    if not free:
        x0, x1, y0, y1 = room.zone
        for walk in walks[:_RENDERED]:
            start = np.array([(x0 + x1) / 2, (y0 + y1) / 2, walk.start[2]])
            free.append(walk._replace(start=start, step=0.15 * walk.step, bend=0.0 * walk.bend))

    # Few of them are rendered, in a small size.
    chosen = sorted(free, key=lambda walk: -_things_ahead(walk, aims))[:_RENDERED]
    scores = [_view(walk, shape) + rng.uniform(0, 2.0) for walk in chosen]
    return chosen[int(np.argmax(scores))]


def _candidate(room: Room, rng, aims) -> Walk:
    """Samples a walk that may collide."""
    width, depth, _ = room.size
    low = (CLEARANCE, CLEARANCE)
    spot = rng.uniform(low, (width - CLEARANCE, depth - CLEARANCE))
    start = np.array([*spot, rng.uniform(1.2, 1.65)])

    # Some persons walk slowly, some hurry. The aim drifts, so that things leave the view.
    haste = np.exp(rng.normal(0, 0.4))
    direction = rng.uniform(0, 2 * np.pi)
    along = np.array([np.sin(direction), np.cos(direction)])
    across = np.array([along[1], -along[0]])
    speed = haste * rng.uniform(0.012, 0.06)
    aim = aims[rng.integers(len(aims))] + rng.normal(0, 0.2, 3)
    aim[2] = np.clip(0.45 * aim[2] + rng.uniform(0.15, 0.9), 0.1, 1.7)
    drift = haste * rng.normal(0, 0.04, 3) * (1, 1, 0.4)

    # Three sines each: walking, breathing and trembling.
    reach = haste * np.array([0.006, 0.006, 0.008, 0.011, 0.012, 0.014])
    amplitude = reach[:, None] * rng.uniform(0.3, 1.0, (6, 3)) * (1.0, 0.7, 0.35)
    frequency = rng.uniform((0.15, 0.5, 1.2), (0.4, 1.0, 2.6), (6, 3))
    phase = rng.uniform(0, 2 * np.pi, (6, 3))
    shake = np.stack([amplitude, frequency, phase], axis=1)
    bend = across * rng.normal(0, 0.0006)
    return Walk(start, along * speed, bend, aim, drift, shake)


def _things_ahead(walk: Walk, aims) -> int:
    """Returns the number of aims in the direction of the target's view, at a good distance."""
    towards = aims[:, :2] - walk.start[:2]
    distance = np.hypot(*towards.T)
    middle = walk.aim[:2] - walk.start[:2]
    angle = np.arctan2(*towards.T) - np.arctan2(*middle)
    ahead = np.abs(np.angle(np.exp(1j * angle))) < _HALF_VIEW
    return int((ahead & (distance > 1.1) & (distance < 4.5)).sum())


def _view(walk: Walk, shape: Shape) -> float:
    """Returns how good the view of the target is: it has many things, and nothing is too near."""
    size = (24, 32)
    hits = visibility(shape.quads, shape.ellipsoids, camera_matrix(size), walk.pose(TARGET), size)
    surfaces = np.concatenate([shape.quads['surface'], shape.ellipsoids['surface']])
    pixels = np.bincount(surfaces['label'][hits.surface].ravel(), minlength=40)
    instances = surfaces['instance'][hits.surface]
    interest = _INTEREST[pixels > 5].sum()
    num_things = (np.bincount(instances.ravel())[1:] > 5).sum()
    bare = np.maximum(0, (instances == 0).mean() - 0.45)
    near = (hits.inverse_depth > 1 / 0.9).mean()
    return float(interest + 0.4 * num_things - 15 * bare - 20 * near)


def _is_free(room: Room, walk: Walk) -> bool:
    """Returns whether no frame of a walk is in a wall, in furniture or close to them.

    A point of view that is too close would turn the camera too fast.
    """
    index = np.arange(FRAMES_PER_CLIP)
    places = walk.places(index)
    towards = walk.aims(index) - places
    if np.hypot(towards[:, 0], towards[:, 1]).min() < 1.0:
        return False
    x, y, _ = places.T
    width, depth, _ = room.size
    in_room = (x > CLEARANCE) & (x < width - CLEARANCE) & (y > CLEARANCE) & (y < depth - CLEARANCE)
    if not in_room.all():
        return False
    for x0, x1, y0, y1 in room.occupied:
        inside = (x > x0 - BESIDE) & (x < x1 + BESIDE) & (y > y0 - BESIDE) & (y < y1 + BESIDE)
        if inside.any():
            return False
    return True
