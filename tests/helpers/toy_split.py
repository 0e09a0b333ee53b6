"""A segmentation net of three convolutions with two taps, and a GAN for its features."""

import flax.linen as nn
import jax.numpy as jnp
import tiny_gans
from fakes import NUM_CLASSES, SPEC

from segjax import config as config_lib
from segjax.models.layers import Conv, Taps, batch_norm
from segjax.ops import resize
from segjax.pipelines import dense_features as pipeline
from segjax.tasks import bicycle
from segjax.tasks.feature_synthesis import Synthesis

SIZE = (16, 32)
STRIDE = 4
CHANNELS = 6
NUM_CODES = 3


class ToyNet(nn.Module):
    """Taps 'first' at stride 2 and 'second' at stride 4, before their ReLUs, and a linear head."""

    num_classes: int = NUM_CLASSES
    taps: tuple[str, ...] = ()
    frozen_norm: bool = False

    @nn.compact
    def __call__(self, x, train: bool, given=None):
        tap = Taps('toy', given)
        size = x.shape[1:3]
        norm = batch_norm(train, frozen=self.frozen_norm, dtype=jnp.float32, axis_name=None)
        x = Conv(5, (3, 3), strides=2, name='first')(x)
        x = tap('first', norm(name='norm')(x))
        x = Conv(CHANNELS, (3, 3), strides=2, name='second')(nn.relu(x))
        x = tap('second', x)
        x = Conv(self.num_classes, (1, 1), name='head')(nn.relu(x))
        outputs = {'logits': resize.bilinear_on_grid(x, size, STRIDE)}
        tapped = tap.pick(self.taps)
        return {**outputs, 'features': tapped} if self.taps else outputs


class Generator(tiny_gans.Generator):
    """The tiny generator on every fourth pixel of a layout."""

    @nn.compact
    def __call__(self, condition, *code, train: bool, keys=None):
        return super().__call__(condition[:, ::STRIDE, ::STRIDE], *code, train=train)


def judged(layout, features):
    """Returns layouts and features together at the size of the features."""
    return (jnp.concatenate([layout[:, ::STRIDE, ::STRIDE], features], -1),)


def make_config(**sections):
    """Returns a config whose optimisers are plain gradient descent."""
    config = config_lib.defaults('dense_features')
    sgd = tiny_gans.SGD
    config_lib.update(
        config,
        augment=dict(crop=SIZE),
        data=dict(eval_size=(32, 64)),
        features=dict(tap='second', num_steps=5, batch_size=8, num_codes=2, bins=8),
        train=dict(batch_size=8, num_steps=5),
        refit=dict(num_synthetic=8),
        mining=dict(use=False),
        optim=sgd,
    )
    for section in (config.bicycle.optim, config.bicycle.optim_discriminator):
        section.update(sgd)
    config.bicycle.code_size = NUM_CODES
    config_lib.update(config, **sections)
    return config


def make_synthesis(config):
    """Returns the split toy net, with a GAN of tiny nets."""
    section = config.bicycle.copy_and_resolve_references().unlock()
    section.model.stride = STRIDE
    section.discriminator.stride = STRIDE
    gan = bicycle.System(
        pipeline.for_features(config),
        section,
        'bicycle',
        pipeline.pair_of,
        Generator(CHANNELS),
        tiny_gans.Encoder(NUM_CODES),
        tiny_gans.Discriminator(),
        judged,
    )
    return Synthesis(config, SPEC, ToyNet(), 'second', STRIDE, CHANNELS, gan)
