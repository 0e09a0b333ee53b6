"""Surface normals from one image: a net with three output channels, and a cosine loss.

Method, top to bottom:

1. Normals are computed once from depth and camera (`normals_from_depth`), as a derived feature.
2. The net predicts a vector for each pixel. Its direction is the normal.
3. The loss is 1 - cos of the angle to the true normal, over the pixels with a true normal.
4. Evaluation measures angles at the size of the label. It compares with two guesses that see no
   image: the best of a few constant normals, and level ground below the horizon.

Normals point towards the camera. x points to the right, y down, z forward.
"""

import functools

import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.data import hha
from segjax.protocol import Array, Batch, Derived, Example, Stage
from segjax.schema import Field, above
from segjax.spec import DataSpec, Feature
from segjax.tasks import normals, scorers, segmentation

SCHEMA = {
    **scorers.net_section('Net that predicts normals.'),
    'edge_tolerance': Field(
        0.01,
        'Largest relative deviation of the inverse depth of three neighbouring pixels from a line. '
        'Pixels that deviate more along an axis have no true normal.',
        above(0),
    ),
}

UP = (0.0, -1.0, 0.0)
FACING = (0.0, 0.0, -1.0)


# --- true normals ---------------------------------------------------------------------------------


def make_features(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Derived, ...]:
    """Returns the normals, which are computed once from depth and camera."""
    settings = {'tolerance': config.edge_tolerance}
    return (
        Derived(
            name='normals',
            feature=Feature('normals'),
            reads=('depth', 'intrinsics'),
            compute=functools.partial(normals_of_example, **settings),
            settings=settings,
        ),
    )


def normals_of_example(example: Example, tolerance: float) -> np.ndarray:
    """Returns the normals of an example, see `normals_from_depth`."""
    return normals_from_depth(example['depth'], example['intrinsics'], tolerance)


def normals_from_depth(depth: np.ndarray, intrinsics: np.ndarray, tolerance: float) -> np.ndarray:
    """Computes surface normals towards the camera from a depth map.

    The normal follows from the slopes of the inverse depth w = 1 / z (`hha.plane_normals`). It is
    exact where three neighbours along each axis lie on one plane.

    Args:
      depth: [H, W] along z, 0 = not measured.
      intrinsics: K [3, 3]. Pixel centres lie at whole coordinates.
      tolerance: largest deviation of three neighbours from a line, relative to w.

    Returns:
      [H, W, 3] float32 unit vectors, 0 where no normal is known.
    """
    # In float32 the differences of inverse depth would lose half of their digits.
    measured = np.isfinite(depth) & (depth > 0)
    inverse = np.full(depth.shape, np.nan)
    inverse[measured] = 1 / depth[measured].astype(np.float64)

    slope_v = _slope(inverse, tolerance)
    slope_u = _slope(inverse.T, tolerance).T

    return hha.plane_normals(inverse, slope_u, slope_v, intrinsics).astype(np.float32)


def _slope(inverse: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns the slope of w along the first axis, NaN where no three neighbours form a line.

    The three neighbours lie around the pixel, behind it or before it. Those nearest to a line are
    taken, so that the slope does not cross an edge.
    """
    padded = np.pad(inverse, ((2, 2), (0, 0)), constant_values=np.nan)
    size = len(inverse)
    before2, before, here, after, after2 = (padded[i : i + size] for i in range(5))
    slopes = np.stack([(after - before) / 2, after - here, here - before])
    bends = np.stack([before - 2 * here + after, here - 2 * after + after2])
    bends = np.concatenate([bends, (before2 - 2 * before + here)[None]])

    # NaN means an unmeasured neighbour.
    deviation = np.nan_to_num(np.abs(bends) / here, nan=np.inf)  # [3, H, W]
    nearest = deviation.argmin(axis=0)[None]
    slope = np.take_along_axis(slopes, nearest, axis=0)[0]
    return np.where(deviation.min(axis=0) <= tolerance, slope, np.nan)


# --- a guess that sees no image -------------------------------------------------------------------


def level_ground(batch: Batch) -> Array:
    """Returns normals [B, H, W, 3]: up below the horizon, and towards the camera above it.

    The horizon is the row of the principal point, as for a level camera.
    """
    rows = jnp.arange(batch['normals'].shape[1])
    scale = batch['label_size'][:, 0] / batch['size'][:, 0]
    horizon = (batch['intrinsics'][:, 1, 2] + 0.5) * scale - 0.5  # [B]
    is_ground = rows > horizon[:, None]  # [B, H]
    guess = jnp.where(is_ground[..., None], jnp.array(UP), jnp.array(FACING))
    return jnp.broadcast_to(guess[:, :, None], batch['normals'].shape)


# --- the stage ------------------------------------------------------------------------------------


def make_stages(config: ml_collections.ConfigDict, spec: DataSpec) -> tuple[Stage, ...]:
    """Builds the single stage."""
    net = segmentation.make_image_net(config, num_outputs=3)
    judge = normals.Judge(
        training=scorers.training_of(config, net, 'segmenter', config, where=''),
        num_examples=spec.split(config.data.eval_split).num_examples,
        with_rms=False,
        guesses={'ground': level_ground},
        features=('intrinsics',),
    )
    return (normals.stage_of(judge, 'normals'),)
