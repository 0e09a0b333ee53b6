"""Monocular normals: true normals, devices, and a run that is killed."""

import sys

import jax
import numpy as np
import pytest
from fakes import SPEC, train_batch
from run_folders import REPOSITORY, assert_same_run, kill_on_the_way, run_to_the_end, stop_at
from toy_heads import random_normals

from segjax import config as config_lib
from segjax.config import config_file
from segjax.core import parallel, rng
from segjax.data import transforms
from segjax.pipelines import monocular_normals as pipeline
from segjax.train import driver
from segjax.train.stop import Preempted

pytestmark = pytest.mark.usefixtures('functions_are_mapped_once')

CONFIG = str(REPOSITORY / 'configs/monocular_normals.py:smoke')
SIZE = (24, 40)
INTRINSICS = np.array([[37.0, 0, 18.3], [0, 41.0, 11.1], [0, 0, 1]])
TOLERANCE = 0.01

# --- true normals ---------------------------------------------------------------------------------


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)


def plane_depth(normal, distance):
    """Returns the depth [H, W] of the plane normal . P = -distance, 0 where no ray meets it."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(INTRINSICS).T
    depth = -distance / (rays @ normal)
    return np.where(depth > 0, depth, 0)


def two_planes():
    """Returns (depth, true normals [H, W, 3]) of a wall that hides a part of the ground."""
    ground = unit(0.1, -1, -0.05)
    wall = unit(0.7, 0.1, -1)
    ground_depth = plane_depth(ground, 1.5)
    wall_depth = plane_depth(wall, 3.0)
    is_wall = np.zeros(SIZE, bool)
    is_wall[:, :15] = True
    depth = np.where(is_wall, wall_depth, np.where(ground_depth < 60, ground_depth, 0))
    normals = np.where(is_wall[..., None], wall, ground)
    return depth.astype(np.float32), np.where(depth[..., None] > 0, normals, 0)


@pytest.mark.parametrize(
    'normal', [unit(0, 0, -1), unit(0.1, -1, -0.1), unit(-0.8, 0.2, -1), unit(1, 0, -0.2)]
)
def test_normals_of_a_plane_are_exact(normal):
    depth = plane_depth(normal, 2.0)
    found = pipeline.normals_from_depth(depth, INTRINSICS, TOLERANCE)
    seen = (found != 0).any(-1)
    assert seen[depth > 0].mean() > 0.9 and not seen[depth == 0].any()
    np.testing.assert_allclose(found[seen], np.broadcast_to(normal, found[seen].shape), atol=1e-5)
    assert found.dtype == np.float32


def test_normals_do_not_cross_edges():
    depth, normals = two_planes()
    found = pipeline.normals_from_depth(depth, INTRINSICS, TOLERANCE)
    seen = (found != 0).any(-1)
    assert seen[16:, 13:17].all(), 'pixels on both sides of the edge have normals'
    np.testing.assert_allclose(found[seen], normals[seen], atol=2e-3)


def test_thin_things_have_no_normal():
    depth = np.full(SIZE, 20.0)
    depth[:, 10] = 3.0
    found = pipeline.normals_from_depth(depth, INTRINSICS, TOLERANCE)
    assert not found[:, 10].any() and found[:, [9, 11]].any(-1).all()


def test_a_flipped_example_has_the_normals_of_the_flipped_scene():
    depth, _ = two_planes()
    intrinsics = INTRINSICS.astype(np.float32)
    normals = pipeline.normals_from_depth(depth, intrinsics, TOLERANCE)
    example = {'depth': depth, 'intrinsics': intrinsics, 'normals': normals}
    moved = transforms.apply_geometry(example, transforms.flip_matrix(SIZE[1]), SIZE)
    again = pipeline.normals_from_depth(moved['depth'], moved['intrinsics'], TOLERANCE)
    np.testing.assert_allclose(moved['normals'], again, atol=1e-5)
    np.testing.assert_array_equal(moved['normals'][..., 0], -normals[:, ::-1, 0])
    np.testing.assert_array_equal(moved['normals'][..., 1:], normals[:, ::-1, 1:])


# --- a step on one device and on eight ------------------------------------------------------------


def make_config():
    config = config_lib.defaults('monocular_normals')
    # No dropout: the devices of a topology draw different masks.
    config.model.update(width=0.25, blocks=(0, 1, 0, 0), dropout=(0.0, 0.0))
    config_lib.update(
        config,
        train=dict(batch_size=8, num_steps=30, dtype='float64'),
        augment=dict(crop=(16, 32)),
        data=dict(eval_size=(16, 32)),
        # Plain SGD: Adam would turn the rounding noise of a zero gradient into full steps.
        optim=dict(name='sgd', momentum=0.0, learning_rate=0.05, schedule='constant'),
    )
    return config


def parameters_after(num_steps, devices=1, mode='pmap'):
    """Returns the parameters after steps on one batch, computed in float64."""
    with jax.enable_x64(True):
        (stage,) = pipeline.make_stages(make_config(), SPEC)
        topology = parallel.topology(mode, devices)
        batch = {**train_batch(size=(16, 32)), 'normals': random_normals((8, 16, 32))}
        # Devices have different numbers of measured pixels.
        batch['normals'][:3, :10] = 0
        root = rng.root(0, 'test')

        def step(state, batch):
            keys = rng.streams(root, stage.streams, state.step, parallel.device_index())
            state, _ = stage.train_step(state, batch, keys)
            return state, parallel.replica_mismatch(state)

        step = topology.spmd(step, num_args=2)
        state = topology.put_replicated(parallel.to_host(stage.init(root, batch, {})))
        for _ in range(num_steps):
            state, mismatch = step(state, topology.put_batch(batch))
            assert int(mismatch) == 0
        return parallel.to_host(state).params


@pytest.fixture(scope='module')
def on_one_device():
    return parameters_after(0), parameters_after(1)


@pytest.mark.parametrize('mode', ['pmap', pytest.param('shard_map', marks=pytest.mark.slow)])
def test_the_gradient_is_the_same_on_eight_devices(on_one_device, mode):
    start, expected = on_one_device
    after = parameters_after(1, 8, mode)
    move = jax.tree.map(np.subtract, after, start)
    expected_move = jax.tree.map(np.subtract, expected, start)
    leaves = jax.tree_util.tree_leaves_with_path(move)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected_move), strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-6, path


# --- a run ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_was_stopped_equals_a_whole_run(one_device, tmp_path, monkeypatch):
    config = config_file.load(CONFIG)
    config_lib.update(
        config,
        train=dict(num_steps=2),
        logging=dict(checkpoint_every=0, eval_every=0, num_pictures=0),
    )
    whole = driver.train(config, str(tmp_path / 'whole'))
    with monkeypatch.context() as patch, pytest.raises(Preempted, match='saved at step 1'):
        stop_at(patch, 'normals', 1)
        driver.train(config, str(tmp_path / 'parts'))
    assert driver.train(config, str(tmp_path / 'parts')) == whole
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=('normals',))
    assert whole['normals'].keys() >= {'mean_angle', 'baseline_constant', 'baseline_ground'}


@pytest.mark.slow
def test_a_run_that_was_killed_equals_a_whole_run(tmp_path):
    def command(folder):
        arguments = ['--config', CONFIG, '--workdir', str(folder)]
        every = ['--config.logging.log_every=1', '--config.logging.checkpoint_every=1']
        return [sys.executable, '-m', 'segjax.main', *arguments, *every]

    run_to_the_end(command(tmp_path / 'whole'))
    kill_on_the_way(command(tmp_path / 'parts'), tmp_path / 'parts/normals', 2, False)
    run_to_the_end(command(tmp_path / 'parts'))
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', stages=('normals',))
