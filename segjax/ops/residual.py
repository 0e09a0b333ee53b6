"""What a latent segmentation says beyond its label map, and a picture of it: there a CycleGAN hides an image."""

import functools

import jax
import jax.numpy as jnp

# The residual may be a thousandth of the latent: no reduced-precision products here.
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

# A component weaker than this share of the strongest one is rounding of a float32 covariance: it stays grey.
_WEAKEST = 1e-3


def latent_residual(latent):
    """Each pixel minus the mean of all pixels of its image that have the same class, argmax over S.

    It is zero if and only if the latent holds nothing but a label map, with one vector per class.

    Args:
      latent: [B, H, W, S].

    Returns:
      [B, H, W, S] float32, of mean zero over the pixels of each class.
    """
    latent = latent.astype(jnp.float32)
    member = jax.nn.one_hot(jnp.argmax(latent, -1), latent.shape[-1])
    pixels = member.sum((1, 2))[..., None]

    def without_class_means(x):
        means = _einsum('bhwk,bhws->bks', member, x) / jnp.maximum(pixels, 1)
        return x - _einsum('bhwk,bks->bhws', member, means)

    # Twice: the rounding of the first mean, relative to the latent, is what the second one takes out.
    return without_class_means(without_class_means(latent))


def residual_picture(residual, strength: float = 1.0):
    """The three leading principal components of a residual as red, green and blue.

    AMPLIFIED: each component is divided by its own standard deviation in this image, and +-3 sigma / strength spans
    black to white. A residual of a thousandth of the latent looks as strong as one of its size; `residual_share` says
    how much there is. A component below a thousandth of the first (rounding), or absent because S < 3, is mid-grey.

    Args:
      residual: [B, H, W, S] floating point.
      strength: factor on the contrast.

    Returns:
      [B, H, W, 3] uint8. The sign of each component is such that its largest loading is positive.
    """
    residual = residual.astype(jnp.float32)
    _, h, w, s = residual.shape
    residual = residual - residual.mean((1, 2), keepdims=True)
    covariance = _einsum('bhws,bhwt->bst', residual, residual) / (h * w)
    variances, vectors = jnp.linalg.eigh(covariance)  # ascending; a vector is a column
    components = min(3, s)
    sigma = jnp.sqrt(jnp.maximum(variances[:, ::-1][:, :components], 0))
    vectors = vectors[:, :, ::-1][:, :, :components]
    largest = jnp.take_along_axis(vectors, jnp.abs(vectors).argmax(1, keepdims=True), 1)
    score = _einsum('bhws,bsk->bhwk', residual, vectors * jnp.sign(largest))
    visible = (sigma > _WEAKEST * sigma[:, :1])[:, None, None]
    score = jnp.where(visible, score / jnp.where(visible, sigma[:, None, None], 1), 0)
    score = jnp.pad(score, ((0, 0), (0, 0), (0, 0), (0, 3 - components)))
    return jnp.clip(jnp.round(127.5 * (1 + strength / 3 * score)), 0, 255).astype(jnp.uint8)


def residual_share(residual, latent):
    """Share of the latent's energy that is residual, sum residual^2 / sum latent^2 per image.

    In [0, 1] for a residual from `latent_residual`, since class means and residual are orthogonal. Its square root is
    the ratio of their root mean squares.

    Args:
      residual: [B, H, W, S].
      latent: [B, H, W, S].

    Returns:
      [B] float32; NaN for a latent that is zero everywhere.
    """

    def energy(x):
        return jnp.sum(x.astype(jnp.float32) ** 2, (1, 2, 3))

    return energy(residual) / energy(latent)
