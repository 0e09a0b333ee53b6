"""Segmentation nets that are split at an inner tensor into an encoder and a decoder.

An inner tensor has the name by which `taps` of the net selects it. 'image' is the image itself. For
a tap t of a net S

    En(x) = t(x)        encode
    S(x)  = De(En(x))   decode

Both halves are the net itself, with its parameters under their names. The decoder is the net with
the inner tensor replaced, which is the argument `given` of the nets. Its image is 0, and none of
its results depends on the image. So `jax.jit` removes the encoder from the program of the decoder.

A tap splits a net if every path from the image to the logits passes the tap. A skip connection
around the tap is another path. The equations of the traced net decide: without the tap, nothing
that the logits are computed from may depend on the image. Tracing takes as long as
`jax.eval_shape`, and `decode` traces the net at every call, so call it under `jax.jit`.

Source: Yang He, thesis, chapter 6. A generator makes inputs of the decoder (Eq. 6.1).
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from segjax.errors import InputError, unknown_name
from segjax.models.layers import ALL_TAPS
from segjax.protocol import Array, Keys, PyTree

IMAGE = 'image'
"""Tap in front of all layers: the normalised image."""


def tap_names(net: nn.Module, size: tuple[int, int]) -> tuple[str, ...]:
    """Returns the names of all taps of a net, in the order in which they are computed.

    The first name is IMAGE. It is the only tap of nets without a field `taps`.

    Args:
      net: a segmentation net.
      size: (height, width) of the images.
    """
    return tuple(_trace(net, *size).taps)


def feature_shape(net: nn.Module, tap: str, size: tuple[int, int]) -> tuple[int, int, int]:
    """Returns (height, width, channels) of an inner tensor.

    Args:
      net: a segmentation net.
      tap: a name of `tap_names`.
      size: (height, width) of the images.

    Raises:
      InputError: the net has no such tap.
    """
    taps = _trace(net, *size).taps
    if tap not in taps:
        raise unknown_name('feature_shape: tap', tap, taps)
    return taps[tap].aval.shape[1:]


def check_split(where: str, net: nn.Module, tap: str, size: tuple[int, int]) -> None:
    """Checks that a tap splits a net.

    Args:
      where: config key or argument that holds the name of the tap, for errors.
      net: a segmentation net.
      tap: name of the tap.
      size: (height, width) of the images.

    Raises:
      InputError: the net has no such tap, or its logits can bypass the tap. The first error lists
        all taps, the second error lists the taps that split the net.
    """
    _check(where, tap, _trace(net, *size))


def encode(net: nn.Module, tap: str, params: PyTree, model_state: PyTree, x: Array) -> Array:
    """Computes an inner tensor of a net in evaluation mode.

    Args:
      net: a segmentation net.
      tap: a name of `tap_names`.
      params: parameters of the net.
      model_state: its batch statistics.
      x: [B, H, W, 3] normalised images, as the net gets them.

    Returns:
      [B, h, w, C] float32.

    Raises:
      InputError: the net has no such tap.
    """
    if tap == IMAGE:
        return x.astype(jnp.float32)
    outputs = _with_all_taps(net).apply({'params': params, **model_state}, x, train=False)
    tensors = outputs.get('features', {})
    if tap not in tensors:
        raise unknown_name('encode: tap', tap, [IMAGE, *tensors])
    return tensors[tap].astype(jnp.float32)


def decode(
    net: nn.Module,
    tap: str,
    params: PyTree,
    model_state: PyTree,
    features: Array,
    size: tuple[int, int],
    train: bool = False,
    keys: Keys | None = None,
) -> tuple[dict[str, Any], PyTree]:
    """Computes the outputs of a net from an inner tensor.

    Outputs that depend on the image are left out. These are auxiliary heads and taps in front of
    `tap`. In training, the same rule holds for batch statistics: layers behind `tap` update them,
    and layers in front of `tap` keep them. Gradients of parameters in front of `tap` are 0.

    Args:
      net: a segmentation net.
      tap: a tap that splits the net, see `check_split`.
      params: parameters of the net.
      model_state: its batch statistics.
      features: [B, h, w, C], as from `encode`.
      size: (height, width) of the images of such features.
      train: use the statistics of the batch, and dropout.
      keys: random streams of the net, in training. Layers draw the same numbers from them as in the
        whole net.

    Returns:
      ({'logits': [B, height, width, num_classes] float32, ..}, batch statistics).

    Raises:
      InputError: `tap` does not split the net, or the features have another shape.
    """
    # The image is the input of the net. Any other tap replaces an inner tensor.
    image = features
    options = {}
    if tap != IMAGE:
        image = jnp.zeros(_image_shape(net, size, len(features)), jnp.float32)
        options['given'] = {tap: features}

    # Results that the image reaches without the tap are not of the decoder.
    variables = {'params': params, **model_state}
    program = _trace(net, *size, train)
    _check('decode: tap', tap, program)
    bypassed = program.reached(without=tap)
    outputs, statistics = net.apply(
        variables, image, train=train, rngs=keys, mutable=['batch_stats'], **options
    )
    return (
        _decoder_outputs(outputs, program.outputs, bypassed),
        _decoder_statistics(model_state, statistics, program.statistics, bypassed),
    )


class _Program(NamedTuple):
    """A traced net.

    equations   of the program, in order
    taps        {tap: variable}, in order, first IMAGE
    outputs     variables in the place of the outputs of the net
    statistics  variables in the place of the batch statistics after the call
    """

    equations: list[Any]
    taps: Mapping[str, Any]
    outputs: Mapping[str, Any]
    statistics: PyTree

    def reached(self, without: str) -> set[int]:
        """Returns the ids of variables that depend on the image by a path without a tap."""
        closed = id(self.taps[without])
        reached = {id(self.taps[IMAGE])} - {closed}
        for equation in self.equations:
            if any(id(variable) in reached for variable in equation.invars):
                reached.update(id(variable) for variable in equation.outvars)
                reached.discard(closed)
        return reached

    def splits(self, tap: str) -> bool:
        """Returns whether the logits depend on the image through the tap alone."""
        return id(self.outputs['logits']) not in self.reached(without=tap)


@functools.lru_cache(maxsize=16)
def _trace(net: nn.Module, height: int, width: int, train: bool = False) -> _Program:
    """Traces a net for an image of a size."""
    net = _with_all_taps(net)
    names = []

    def init(key, image):
        return net.init(key, image, train=False)

    def run(image, variables, key):
        outputs, statistics = net.apply(
            variables, image, train=train, rngs={'params': key}, mutable=['batch_stats']
        )
        # JAX sorts the keys of dictionaries that it returns.
        names.extend(outputs.get('features', {}))
        return outputs, statistics

    # Shapes of all arguments are enough. The image is the first variable of the program.
    image = jax.ShapeDtypeStruct(_image_shape(net, (height, width)), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    variables = jax.eval_shape(init, key, image)
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(image, variables, key)
    program: Any = closed.jaxpr
    outputs, statistics = jax.tree.unflatten(jax.tree.structure(shapes), program.outvars)
    taps = {IMAGE: program.invars[0]}
    for name in names:
        taps[name] = outputs['features'][name]
    return _Program(program.eqns, taps, outputs, statistics)


def _check(where: str, tap: str, program: _Program) -> None:
    """Raises InputError for a tap that does not split a traced net, see `check_split`."""
    if tap not in program.taps:
        raise unknown_name(where, tap, program.taps)
    if program.splits(tap):
        return
    cuts = [name for name in program.taps if program.splits(name)]
    raise InputError(
        where,
        got=f'{tap!r}: the logits also depend on the image by a path around this tap',
        expected='a tap that splits the net: ' + ', '.join(cuts),
        fix=f'choose {cuts[-1]!r}, the last of them',
    )


def _with_all_taps(net: nn.Module) -> nn.Module:
    """Returns the net with all its taps. FCN selects taps of its streams by other names."""
    return net.clone(taps=(ALL_TAPS,)) if hasattr(net, 'taps') else net


def _image_shape(net: nn.Module, size: tuple[int, int], count: int = 1) -> tuple[int, ...]:
    """Returns the shape of the input of a net, which has three channels for each stream."""
    return (count, *size, 3 * len(getattr(net, 'streams', (IMAGE,))))


def _decoder_outputs(
    outputs: Mapping[str, Any], variables: Mapping[str, Any], bypassed: set[int]
) -> dict[str, Any]:
    """Returns the outputs of a net whose variables are not among `bypassed`."""
    by_path = flatten_dict(variables)
    kept = {}
    for path, output in flatten_dict(outputs).items():
        if not any(id(variable) in bypassed for variable in jax.tree.leaves(by_path[path])):
            kept[path] = output
    return unflatten_dict(kept)


def _decoder_statistics(old: PyTree, new: PyTree, variables: PyTree, bypassed: set[int]) -> PyTree:
    """Returns new statistics, or old statistics where the variables are among `bypassed`."""

    def choose(variable: Any, before: Array, after: Array) -> Array:
        # A state keeps its types, as in tasks.segmentation.apply_net.
        return before if id(variable) in bypassed else after.astype(before.dtype)

    return jax.tree.map(choose, variables, dict(old), dict(new))
