"""The part of a latent segmentation beyond its label map, where a CycleGAN hides an image."""

import functools

import jax
import jax.numpy as jnp

# The residual may be a thousandth of the latent, so products here keep full precision.
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

# A component weaker than this share of the strongest is rounding noise of a float32 covariance.
_WEAKEST = 1e-3


def latent_residual(latent):
    """Subtracts from each pixel the mean of the pixels of its class.

        residual(p) = latent(p) - mean_{q: class(q) = class(p)} latent(q),     class = argmax over S

    Means are over each image. The residual is zero if and only if the latent is a label map with a
    single vector per class.

    Args:
      latent: [B, H, W, S].

    Returns:
      [B, H, W, S] float32, with mean zero over the pixels of each class.
    """
    latent = latent.astype(jnp.float32)
    member = jax.nn.one_hot(jnp.argmax(latent, -1), latent.shape[-1])  # [B, H, W, S]
    pixels = member.sum((1, 2))[..., None]  # [B, S, 1]

    def without_class_means(x):
        means = _einsum('bhwk,bhws->bks', member, x) / jnp.maximum(pixels, 1)
        return x - _einsum('bhwk,bks->bhws', member, means)

    # Twice: the second pass removes the rounding error of the first mean.
    residual = without_class_means(latent)
    return without_class_means(residual)


def residual_picture(residual, strength: float = 1.0):
    """Paints the three leading principal components of a residual as red, green and blue.

    AMPLIFIED: each component is divided by its own standard deviation in this image.
    Black to white spans +-3 sigma / strength. A residual of a thousandth of the latent looks as
    strong as a residual of its size. `residual_share` measures the strength. A component is
    mid-grey if it is below a thousandth of the first (rounding), or absent because S < 3.

    Args:
      residual: [B, H, W, S] floating point.
      strength: factor on the contrast.

    Returns:
      [B, H, W, 3] uint8. The sign of each component makes its largest loading positive.
    """
    residual = residual.astype(jnp.float32)
    _, h, w, s = residual.shape
    residual = residual - residual.mean((1, 2), keepdims=True)

    # Principal components, the strongest first. `eigh` returns ascending variances, and vectors as
    # columns.
    covariance = _einsum('bhws,bhwt->bst', residual, residual) / (h * w)  # [B, S, S]
    variances, vectors = jnp.linalg.eigh(covariance)
    components = min(3, s)
    sigma = jnp.sqrt(jnp.maximum(variances[:, ::-1][:, :components], 0))  # [B, 3]
    vectors = vectors[:, :, ::-1][:, :, :components]  # [B, S, 3]
    largest = jnp.take_along_axis(vectors, jnp.abs(vectors).argmax(1, keepdims=True), 1)
    score = _einsum('bhws,bsk->bhwk', residual, vectors * jnp.sign(largest))

    # In units of sigma, with 0 for components that are rounding noise or absent.
    visible = (sigma > _WEAKEST * sigma[:, :1])[:, None, None]
    score = jnp.where(visible, score / jnp.where(visible, sigma[:, None, None], 1), 0)
    score = jnp.pad(score, ((0, 0), (0, 0), (0, 0), (0, 3 - components)))
    picture = jnp.round(127.5 * (1 + strength / 3 * score))
    return jnp.clip(picture, 0, 255).astype(jnp.uint8)


def residual_share(residual, latent):
    """Computes the share of the latent's energy that lies in the residual, for every image.

        sum residual^2 / sum latent^2

    Class means and residual are orthogonal, so the share of a `latent_residual` is in [0, 1]. Its
    square root is the ratio of the root mean squares.

    Args:
      residual: [B, H, W, S].
      latent: [B, H, W, S].

    Returns:
      [B] float32, NaN for a latent that is zero everywhere.
    """

    def energy(x):
        return jnp.sum(x.astype(jnp.float32) ** 2, (1, 2, 3))

    return energy(residual) / energy(latent)
