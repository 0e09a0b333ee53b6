"""Builds ERFNet without a pipeline, and applies it to a random image.

Prints the number of its parameters, and the shape of the logits.
"""

import jax
import jax.numpy as jnp

import segjax

net = segjax.models.build('segmentation', 'erfnet', num_classes=19, dtype='float32', axis_name=None)
image = jax.random.uniform(jax.random.key(1), (1, 64, 128, 3))

# `lazy_init` reads shapes only, so it computes no activations.
variables = net.lazy_init(jax.random.key(0), image, train=False)
logits = net.apply(variables, image, train=False)['logits']  # [B, H, W, classes]
probabilities = jax.nn.softmax(logits)

num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables['params']))
print(f'parameters: {num_parameters:,}')
print(f'logits: {logits.shape} {logits.dtype}')
print(f'sum of the probabilities of a pixel: {jnp.sum(probabilities[0, 0, 0]):.3f}')
