"""Boundary strength by the net HED, as a method of `segjax/data/edges.py`."""

import functools
import multiprocessing
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from segjax import pretrained
from segjax.data import edges
from segjax.data.edges import EdgeMethod
from segjax.errors import InputError
from segjax.models.boundary.hed import HED
from segjax.ops import images
from segjax.pretrained.sources import SOURCES, Naming
from segjax.protocol import Example, PyTree

SIDES = Naming(
    release='HED, side outputs (dsn1 .. dsn5) and their weighted sum (fuse)',
    fits='hed',
    scheme='imagenet',
    marks=(r'dsn1\.weight', r'fuse\.weight'),
    names=((r'^side(\d)$', r'dsn\1'),),
    scope=r'side\d|fuse',
)
"""Names of the layers that HED adds to VGG16."""


def hed(vgg_file: str, side_file: str) -> EdgeMethod:
    """Returns the method that runs HED with published weights.

    Worker processes run it on the CPU. A process loads the weights once, and compiles once for each
    size of an image.

    Args:
      vgg_file: weights of the convolutions of VGG16, in torchvision's names.
      side_file: weights of the side outputs and of their sum, in the names of SIDES.

    Raises:
      InputError: a file is absent.
    """
    edges.check_file(vgg_file, 'weights of VGG16 in HED, features.0.weight .. features.28.bias')
    edges.check_file(side_file, 'weights of the side outputs of HED, dsn1.weight .. fuse.bias')
    compute = functools.partial(_example_hed, vgg_file=str(vgg_file), side_file=str(side_file))
    settings = {'vgg': edges.file_digest(vgg_file), 'sides': edges.file_digest(side_file)}
    return EdgeMethod('hed', ('image',), compute, settings)


def _example_hed(example: Example, vgg_file: str, side_file: str) -> np.ndarray:
    """Returns the strength of 'image' by HED."""
    return hed_strength(example['image'], vgg_file, side_file)


def hed_strength(image: np.ndarray, vgg_file: str, side_file: str) -> np.ndarray:
    """Returns the boundary strength of an image by HED, the square of its probability.

    HED is trained with balanced classes, so its probabilities are too high for single boundaries.
    The square has a sensible number of regions at the usual threshold of 0.2.

    Args:
      image: [H, W, 3] uint8, RGB.
      vgg_file: as in `hed`.
      side_file: as in `hed`.

    Returns:
      [H, W] float32 in [0, 1].

    Raises:
      InputError: a file is damaged, or does not hold the weights.
    """
    detect = _detector(_whole_path(vgg_file), _whole_path(side_file))
    return np.asarray(detect(image)) ** 2


def _whole_path(path: str) -> str:
    """Returns a path without a '~'."""
    return str(pathlib.Path(path).expanduser())


@functools.lru_cache(maxsize=1)
def _detector(vgg_file: str, side_file: str) -> Callable[[np.ndarray], jax.Array]:
    """Returns the compiled net with its weights: image [H, W, 3] uint8 -> probability [H, W]."""
    # Several worker processes cannot share the memory of an accelerator.
    if multiprocessing.parent_process() is not None:
        jax.config.update('jax_platforms', 'cpu')
    net = HED()
    params = load(net, vgg_file, side_file)

    @jax.jit
    def detect(params, image):
        logits = net.apply({'params': params}, images.normalize(image[None], 'imagenet'))['logits']
        return jax.nn.sigmoid(logits[0, :, :, 0])

    return functools.partial(detect, params)


def load(net: HED, vgg_file: str, side_file: str) -> PyTree:
    """Returns the parameters of HED from files.

    Args:
      net: whose width the files have.
      vgg_file: as in `hed`.
      side_file: as in `hed`.

    Raises:
      InputError: a file is damaged, or does not hold the weights.
    """
    sample = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), sample)
    params = {}
    for path, naming in ((vgg_file, SOURCES['vgg']), (side_file, SIDES)):
        tensors = pretrained.read(path)
        try:
            tree, _ = pretrained.import_weights(tensors, variables, naming, where=path)
        except InputError as error:
            raise error.replaced(fix='give the files of VGG16 and of the side outputs') from error
        params |= tree['params']
    return params
