"""FCN: crops follow from the positions of pixels in each layer, and streams add up."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from nets import random_variables, shapes_of

from segjax.errors import InputError
from segjax.models.layers import Conv
from segjax.models.segmentation import fcn


class Grid:
    """Positions of the pixels of a map on the image: pixel i is at stride i + first, per axis."""

    def __init__(self, stride, first):
        self.stride, self.first = stride, first

    def window(self, kernel, stride=1, padding=0):
        """Returns the grid after a convolution or pooling.

        Pixel i sees pixels from stride i - padding on, `kernel` of them.
        """
        return Grid(self.stride * stride, self.first + self.stride * ((kernel - 1) / 2 - padding))

    def deconvolution(self, kernel, stride):
        """Returns the grid after a transposed convolution.

        Pixel stride i + (kernel - 1) / 2 has the position of pixel i before.
        """
        return Grid(self.stride / stride, self.first - self.stride / stride * (kernel - 1) / 2)

    def crop_onto(self, other):
        """Returns the number of pixels of this grid before the first pixel of the other grid."""
        assert self.stride == other.stride
        return (other.first - self.first) / self.stride


def test_crops_put_maps_onto_each_other():
    image = Grid(1, 0)
    pools = {}
    grid = image.window(3, padding=100)
    for i in range(1, 6):
        grid = pools[i] = grid.window(2, stride=2)
    scores = grid.window(7)
    assert scores.deconvolution(64, 32).crop_onto(image) == fcn._CROP_OF_IMAGE[32]
    for pool, stride in ((4, 16), (3, 8)):
        scores = scores.deconvolution(4, 2)
        assert pools[pool].crop_onto(scores) == fcn._CROP_OF_POOL[stride]
        assert (
            scores.deconvolution(2 * stride, stride).crop_onto(image) == fcn._CROP_OF_IMAGE[stride]
        )


def test_sizes_are_those_of_the_caffe_net():
    taps = ('conv1_1', 'pool4', 'pool5')
    net = fcn.FCN(40, 16, ('color', 'hha'), taps=taps, width=0.125)
    outputs, variables = shapes_of(net, (1, 425, 560, 6))
    sizes = {name: y.shape[1:3] for name, y in outputs['features'].items()}
    expected = {'conv1_1': (623, 758), 'pool4': (39, 48), 'pool5': (20, 24)}
    assert sizes == {f'{s}/{tap}': size for s in ('color', 'hha') for tap, size in expected.items()}
    names = {'/'.join(path[:-1]) for path in flatten_dict(variables['params'])}
    own = {'fc6', 'fc7', 'score_fr', 'score_pool4'} | {
        f'vgg/conv{i}_{j}' for i, n in enumerate((2, 2, 3, 3, 3), start=1) for j in range(1, n + 1)
    }
    assert names == {f'{stream}/{name}' for stream in ('color', 'hha') for name in own}


def test_streams_average_the_last_scores_and_add_those_of_pools():
    single, double = (
        fcn.FCN(3, 16, streams, width=1 / 32) for streams in (('color',), ('color', 'hha'))
    )
    shape = (1, 32, 32, 6)
    variables = random_variables(double, shape)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def of_one(stream, image, **zeroed):
        params = dict(variables['params'][stream])
        for layer in zeroed:
            params[layer] = jax.tree.map(np.zeros_like, params[layer])
        return apply(single, {'params': {'color': params}}, image)

    apply = jax.jit(lambda net, v, x: net.apply(v, x, train=False)['logits'], static_argnums=0)
    parts = [image[..., :3], image[..., 3:]]
    expected = sum(
        0.5 * of_one(stream, x, score_pool4=True) + of_one(stream, x, score_fr=True)
        for stream, x in zip(('color', 'hha'), parts, strict=True)
    )
    got = apply(double, variables, image)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_scores_start_at_zero_and_nothing_else_does():
    starts = {}

    def note(next_fun, args, kwargs, context):
        if isinstance(context.module, Conv):
            starts[context.module.name] = context.module.kernel_init
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(note):
        shapes_of(fcn.FCN(3))
    assert len(starts) == 13 + 2 + 3
    kernels = {name: init(jax.random.key(0), (1, 1, 2, 2)) for name, init in starts.items()}
    assert {name for name, kernel in kernels.items() if not kernel.any()} == {
        'score_fr',
        'score_pool4',
        'score_pool3',
    }


@pytest.mark.parametrize(
    'args, message',
    [({'output_stride': 4}, '32, 16 or 8'), ({'streams': ('a', 'b')}, '3 channels')],
)
def test_impossible_fields_are_explained(args, message):
    with pytest.raises(InputError, match=message):
        shapes_of(fcn.FCN(5, **args))
