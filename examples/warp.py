"""Warps an image by depth and camera motion, and finds the depth that explains it.

Prints the photometric error of three depths. The error is smallest at the true depth of 10.
"""

import jax
import jax.numpy as jnp

import segjax

HEIGHT, WIDTH, FOCAL = 32, 64, 32.0
intrinsics = jnp.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
motion = jnp.eye(4).at[0, 3].set(1.0)  # target to source camera: one metre along x

# A source image of smooth stripes. A wall at 10 metres moves by 1 / 10 * 32 pixels.
x = jnp.arange(WIDTH, dtype=jnp.float32)
stripes = jnp.stack([jnp.sin(x / 5), jnp.cos(x / 7), jnp.sin(x / 11)], -1)
source = jnp.broadcast_to(stripes, (HEIGHT, WIDTH, 3))
target = segjax.ops.warp.warp(source, jnp.full((HEIGHT, WIDTH), 10.0), motion, intrinsics).image


def error(depth):
    warped = segjax.ops.warp.warp(source, jnp.full((HEIGHT, WIDTH), depth), motion, intrinsics)
    sources = warped.image[None, None], warped.valid[None, None]  # [B, sources, H, W, ...]
    return segjax.losses.geometry.photometric_l1(target[None], *sources, jnp.ones(1)).value()


for depth in (5.0, 10.0, 20.0):
    print(f'depth {depth:4.1f}: error {jax.jit(error)(depth):.4f}')
