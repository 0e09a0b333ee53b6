"""Denoise Activation (DA): removes classes from an inpainted box that its surroundings do not have.

He, Xiao, Zhang, Lei, Wang, Lu: Reducing Noise Pixels and Metric Bias in Semantic Inpainting on
Segmentation Map, section 3.2. A generator fills the box of a label map with an object of a target
class. Objects that the box cuts in two continue inside. So the classes inside are the target class
and the classes on the ring of pixels around the box. All further classes are noise.

    M        [B, H, W] bool, the box: True inside
    M^1      its ring, `boundary`                                            Eq. 3
    f^N      [B, k] bool, the classes that may appear, `noise_filter`        Eq. 4
    P        [B, H, W, k] output of the generator, before a softmax
    P^d      `denoised`, for training                                        Eq. 5, 6
    P f^N    `filtered`, for testing                                         Eq. 9
    S        `inpainted`, the completed label map                            Eq. 2, 8, 9

The filter depends on the input alone, so a pipeline computes it once for each example.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.ops.pool import max_pool

MODES = ('none', 'train', 'test', 'both')
"""Names the uses of the activation: in training (Eq. 6), in testing (Eq. 9), or in both."""

TRAIN_FILTERS = ('zero_logit', 'neg_inf', 'post_softmax')
"""Names the forms of Eq. 5, see `denoised`."""

TEST_FILTERS = ('prob', 'logit_literal', 'neg_inf')
"""Names the forms of Eq. 9, see `filtered`."""

BOTH_INPUTS = ('denoised', 'generated')
"""Names the map that Eq. 9 filters in mode 'both': P^d of Eq. 6, or the generator's P."""

LOWEST = -1e9
"""Logit in place of minus infinity, whose softmax is 0 and whose gradient is not NaN."""

SMALLEST_SUM = 1e-18
"""Lower limit of a divisor. The gradient divides by its square, which is still a float32."""


class DenoiseActivation(NamedTuple):
    """Settings of the activation. Each option is a reading of an ambiguous equation.

    mode          a name of MODES
    train_filter  a name of TRAIN_FILTERS
    test_filter   a name of TEST_FILTERS
    slope         slope of the leaky ReLU of Eq. 5 below 0. The paper gives no number
    both_input    a name of BOTH_INPUTS
    """

    mode: str = 'train'
    train_filter: str = 'zero_logit'
    test_filter: str = 'prob'
    slope: float = 0.2
    both_input: str = 'denoised'

    @property
    def in_training(self) -> bool:
        """Returns whether the training loss is computed on P^d (Eq. 7)."""
        return self.mode in ('train', 'both')

    @property
    def in_testing(self) -> bool:
        """Returns whether the test filters classes (Eq. 9)."""
        return self.mode in ('test', 'both')


def check_activation(activation: DenoiseActivation, where: str) -> None:
    """Raises InputError unless the settings are known names and a slope in [0, 1].

    Args:
      activation: any values.
      where: config section that the error names.
    """
    names = {
        'mode': MODES,
        'train_filter': TRAIN_FILTERS,
        'test_filter': TEST_FILTERS,
        'both_input': BOTH_INPUTS,
    }
    for field, known in names.items():
        value = getattr(activation, field)
        if value not in known:
            raise unknown_name(f'{where}.{field}', value, known)
    if not 0 <= activation.slope <= 1:
        raise InputError(
            f'{where}.slope',
            got=repr(activation.slope),
            expected='a number from 0 to 1, the slope of the leaky ReLU below 0',
            fix=f'--{where}.slope=0.2',
        )


def boundary(mask):
    """Returns the ring of pixels around each box (Eq. 3).

        M^1 = dilate(M) - M     with a 3 x 3 kernel of ones

    The ring is a pixel wide and includes the corners. At the border of the image only the sides
    inside the image count.

    Args:
      mask: [B, H, W] bool, of any shape inside.

    Returns:
      [B, H, W] bool.
    """
    dilated = max_pool(mask[..., None].astype(jnp.float32), 3, 1, padding=1)
    return (dilated[..., 0] > 0) & ~mask


def noise_filter(label, mask, target, num_classes: int):
    """Returns the classes that may appear inside each box (Eq. 4).

        f^N = min( sum over pixels of P^u M^1 + onehot(target), 1 )

    Args:
      label: [B, H, W] integer train ids. Only the ring is read, so the map may be complete or have
        the target class inside the box. Ignored pixels (255) belong to no class.
      mask: [B, H, W] bool, the box.
      target: [B] integer class of the object.
      num_classes: k.

    Returns:
      [B, k] bool. It has no gradient.
    """
    classes = jnp.arange(num_classes)
    ring = boundary(mask)[..., None]
    touching = (label[..., None] == classes) & ring  # [B, H, W, k]
    return touching.any((1, 2)) | (target[:, None] == classes)


def denoised(logits, allowed, train_filter: str = 'zero_logit', slope: float = 0.2):
    """Returns the denoised map for the reconstruction loss (Eq. 5, 6).

        P^d = softmax(P^f) + softmax(P),   P^f = leaky_relu(P) f^N     'zero_logit', literal

    The literal form leaves a filtered class the weight e^0 in the first softmax. The further forms
    replace the first softmax. They give filtered classes exactly 0, and agree up to rounding.

        softmax(leaky_relu(P) where f^N, -1e9 elsewhere)               'neg_inf'
        softmax(leaky_relu(P)) f^N, divided by its sum over classes    'post_softmax'

    Args:
      logits: [B, H, W, k], P.
      allowed: [B, k] bool, f^N. At least a class of each example is allowed.
      train_filter: a name of TRAIN_FILTERS.
      slope: of the leaky ReLU below 0.

    Returns:
      [B, H, W, k], float32 at least. The numbers of a pixel add up to 2.
    """
    logits = _in_float32(logits)
    allowed = allowed[:, None, None]
    activated = nn.leaky_relu(logits, slope)
    match train_filter:
        case 'zero_logit':
            first = nn.softmax(activated * allowed)
        case 'neg_inf':
            first = nn.softmax(jnp.where(allowed, activated, LOWEST))
        case 'post_softmax':
            kept = nn.softmax(activated) * allowed
            # All allowed probabilities of a pixel may underflow.
            total = kept.sum(-1, keepdims=True)
            first = kept / jnp.maximum(total, SMALLEST_SUM)
        case _:
            raise unknown_name('train_filter', train_filter, TRAIN_FILTERS)
    return first + nn.softmax(logits)


def filtered(logits, allowed, test_filter: str = 'prob'):
    """Returns the filtered map P f^N, whose largest class completes the label map (Eq. 9).

        softmax(P) f^N, divided by its sum over classes     'prob'
        P f^N                                               'logit_literal'
        P where f^N, -1e9 elsewhere                         'neg_inf'

    With 'prob' and 'neg_inf' the largest class is always allowed, and it is the same class. The
    division of 'prob' changes no largest class. With 'logit_literal' filtered classes have 0, which
    exceeds negative logits. So the literal filter prefers noise where all allowed logits are
    negative, for example if P holds logarithms of probabilities.

    Args:
      logits: [B, H, W, k], P.
      allowed: [B, k] bool, f^N. At least a class of each example is allowed.
      test_filter: a name of TEST_FILTERS.

    Returns:
      [B, H, W, k], float32 at least.
    """
    logits = _in_float32(logits)
    allowed = allowed[:, None, None]
    match test_filter:
        case 'prob':
            # The softmax over allowed classes is the quotient, without underflow.
            return nn.softmax(jnp.where(allowed, logits, LOWEST)) * allowed
        case 'logit_literal':
            return logits * allowed
        case 'neg_inf':
            return jnp.where(allowed, logits, LOWEST)
    raise unknown_name('test_filter', test_filter, TEST_FILTERS)


def training_map(activation: DenoiseActivation, logits, allowed):
    """Returns the map of the reconstruction loss: P^d (Eq. 7), or softmax(P) (Eq. 1).

    Args:
      activation: its settings. Modes 'train' and 'both' give P^d.
      logits: [B, H, W, k], P.
      allowed: [B, k] bool, from `noise_filter`.

    Returns:
      [B, H, W, k] numbers >= 0, float32 at least.
    """
    if activation.in_training:
        return denoised(logits, allowed, activation.train_filter, activation.slope)
    return nn.softmax(_in_float32(logits))


def testing_map(activation: DenoiseActivation, logits, allowed):
    """Returns the map whose largest class is the initial result, in any mode.

        none     softmax(P)                        Eq. 2
        train    P^d                               Eq. 8
        test     `filtered` P                      Eq. 9
        both     P^d where f^N, -1 elsewhere       Eq. 9 of P^d, for both_input='denoised'
                 `filtered` P                      Eq. 9 of P, for both_input='generated'

    P^d is positive, so all forms of Eq. 9 have the same largest class. -1 instead of 0 keeps
    filtered classes below a number that underflows.

    Args:
      activation: its settings.
      logits: [B, H, W, k], P.
      allowed: [B, k] bool, from `noise_filter`.

    Returns:
      [B, H, W, k], float32 at least.
    """
    of_generated = activation.mode == 'both' and activation.both_input == 'generated'
    if activation.mode == 'test' or of_generated:
        return filtered(logits, allowed, activation.test_filter)
    result = training_map(activation, logits, allowed)
    if activation.mode == 'both':
        return jnp.where(allowed[:, None, None], result, -1)
    return result


def inpainted(scores, label, mask):
    """Completes label maps with the largest class of each pixel inside the box (Eq. 2, 8, 9).

        S = argmax(scores) M + label (1 - M)

    Args:
      scores: [B, H, W, k], for example from `testing_map`. Of equal scores the first counts.
      label: [B, H, W] integers. Only pixels outside the box are read, and they stay as they are.
      mask: [B, H, W] bool, the box.

    Returns:
      [B, H, W] in the dtype of label.
    """
    initial = jnp.argmax(scores, -1).astype(label.dtype)
    return jnp.where(mask, initial, label)


def _in_float32(x):
    """Returns x in float32, or in float64 if x is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
