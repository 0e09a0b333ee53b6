"""Labels of unlabelled images, from the predictions of a trained net."""

import jax.numpy as jnp

from segjax.errors import InputError
from segjax.ops import nearest
from segjax.protocol import Array


def pseudo_label(probabilities: Array, threshold: float = 0.7) -> Array:
    """Returns the predicted classes where the net is sure, and the nearest such class elsewhere.

    A prediction is kept where the largest probability exceeds the threshold. The holes are filled
    by `nearest.fill_nearest`. The label map is smoother than the prediction itself.

    Args:
      probabilities: [B, H, W, C], for example of a softmax.
      threshold: in [0, 1).

    Returns:
      [B, H, W] int32 train ids. A map without a sure pixel is 255 everywhere, so that it is
      ignored.

    Raises:
      InputError: the threshold is not in [0, 1).

    Source: He, thesis Sec. 6.3.2, "Pseudo GT masks".
    """
    if not 0 <= threshold < 1:
        raise InputError(
            'pseudo labels: threshold',
            got=str(threshold),
            expected='a probability from 0 up to, but not including, 1',
        )
    prediction = jnp.argmax(probabilities, -1).astype(jnp.int32)
    return nearest.fill_nearest(prediction, probabilities.max(-1) > threshold)
