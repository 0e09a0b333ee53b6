"""Monodepth2: batch statistics in training, in evaluation and over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from depth_nets import TINY, conv, tiny_shapes, uniform
from nets import random_variables


def test_running_statistics_follow_the_normalised_batch_in_training_alone():
    """Checks the first batch norm only. XLA removes all layers behind it."""
    net = TINY['monodepth2']
    image = uniform(2, 16, 24, 3)
    variables = random_variables(net, image.shape)

    def statistics(variables, train):
        return net.apply(variables, image, train=train, mutable=['batch_stats'])[1]['batch_stats'][
            'resnet'
        ]['bn1']

    before = variables['batch_stats']['resnet']['bn1']
    y = conv((image - 0.45) / 0.225, variables['params']['resnet']['conv1'], 2)
    after, resting = jax.jit(
        lambda variables: (statistics(variables, True), statistics(variables, False))
    )(variables)
    np.testing.assert_allclose(
        after['mean'], 0.9 * before['mean'] + 0.1 * y.mean((0, 1, 2)), atol=1e-5
    )
    np.testing.assert_allclose(
        after['var'], 0.9 * before['var'] + 0.1 * y.var((0, 1, 2)), rtol=1e-4
    )
    chex.assert_trees_all_equal(resting, before)


def test_batch_norms_sum_over_devices():
    net = TINY['monodepth2'].clone(axis_name='data')
    _, variables = tiny_shapes('monodepth2')

    def run(variables, image):
        return net.apply(variables, image, train=True, mutable=['batch_stats'])

    jaxpr = jax.make_jaxpr(run, axis_env=[('data', 8)])(variables, jnp.zeros((1, 32, 32, 3)))
    assert str(jaxpr).count('= psum') == 2 * 20  # the mean, then the deviations from it
