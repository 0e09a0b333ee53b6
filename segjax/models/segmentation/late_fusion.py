"""Late fusion: a net of its own for each image, and the mean of their logits.

Source: Gupta, Girshick, Arbelaez, Malik, Learning Rich Features from RGB-D Images, ECCV 2014, for
HHA as a second image, and Long et al., CVPR 2015, for the mean of the scores.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class LateFusion(nn.Module):
    """Applies a copy of a net to each image, and averages the logits.

    Call `net.apply(variables, x, train=...)` like the net itself.

    net      the net. Its copies have parameters of their own, under the names of the streams
    streams  names of the images that the channels of the input hold, three channels each
    """

    net: nn.Module
    streams: tuple[str, ...]

    @nn.compact
    def __call__(self, x, train: bool):
        """Returns the outputs of the net, averaged over the images.

        Args:
          x: [B, H, W, 3 len(streams)] floating point, normalised.
          train: whether batch norms use the statistics of the batch, and drop-out acts.

        Returns:
          {'logits': [B, h, w, C] float32}, and {'aux': {head: logits}} of nets with such heads.
        """
        images = jnp.split(x, len(self.streams), -1)
        outputs = []
        for name, image in zip(self.streams, images, strict=True):
            outputs.append(self.net.copy(parent=self, name=name)(image, train=train))

        def mean(*logits):
            return sum(logits) / len(logits)

        return jax.tree.map(mean, *outputs)
