"""Computes a loss, its gradient, and scores, for logits of any net.

Prints the cross-entropy, the mean IoU, and the IoU of each class.
"""

import jax
import jax.numpy as jnp

import segjax

CLASSES = ('road', 'car', 'sky')
logits = jax.random.normal(jax.random.key(0), (2, 32, 64, 3))  # [B, H, W, classes]
label = jax.random.randint(jax.random.key(1), (2, 32, 64), 0, 3)
label = label.at[:, :4].set(255)  # unlabelled rows
weight = jnp.ones(2)  # 0 marks an image that fills up the batch


def loss(logits):
    # A loss returns a sum and a count, so that several devices can add them up.
    return segjax.losses.segmentation.cross_entropy(logits, label, weight).value()


value, gradient = jax.value_and_grad(loss)(logits)
print(f'cross-entropy: {value:.3f}, norm of the gradient: {jnp.linalg.norm(gradient):.4f}')
counts = segjax.metrics.confusion.confusion(logits.argmax(-1), label, len(CLASSES), weight)
scores = segjax.metrics.confusion.scores(counts.sum, CLASSES, 'cityscapes')
print(f'mean IoU: {scores["mIoU"]:.3f}')
print(f'IoU by class: {scores["IoU"]}')
