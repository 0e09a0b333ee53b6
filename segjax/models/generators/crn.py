"""Cascaded refinement network (CRN) with one or several images for each condition.

Modules refine features from the smallest resolution to the largest. Each module doubles the
resolution and reads the condition again, averaged to its own size. Behind some module the net can
split into branches, each of which makes an image. The modules in front of the split are f1, all
further modules are f2:

    single      an image without a split
    late        no split. The last convolution has the channels of all images (Chen & Koltun)
    separate    every branch has its own parameters of f2
    shared      all branches share f2. A latent code drops features of f1 (ops/codes.py), so that
                each code makes its own image:  Y_i = f2(f1(X), d(z_i))    (Eq. 5.1)

Sources: Chen, Koltun: Photographic Image Synthesis with Cascaded Refinement Networks, ICCV 2017,
with the settings of the released code. He, thesis chapter 5, Fig. 5.3; He, Schiele, Fritz: Diverse
Conditional Image Generation by Stochastic Regression with Latent Drop-Out Codes, ECCV 2018.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from segjax.errors import InputError, unknown_name
from segjax.models.layers import add_bias, scaled, xavier_uniform
from segjax.ops import codes as latent
from segjax.ops import resize
from segjax.ops.conv import FORMS, conv_in_loop

BRANCHES = ('shared', 'separate', 'late', 'single')
"""Names the ways in which the net makes several images."""

DROPOUTS = ('channel', 'classic')
"""Names the kinds of drop-out: of whole channels, or of single features."""

SLOPE = 0.2
"""Slope of the leaky ReLU below 0."""


class Plan(NamedTuple):
    """Sizes of a net for images of some size, a number for each module.

    sizes     (height, width) of the features
    channels  of the features
    """

    sizes: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]


class BranchConv(nn.Module):
    """Convolution of features, and of a condition that the branches of an example share.

        y = conv(concat(features, condition))

    features     channels of the output
    kernel_size  side of the kernel, odd. The convolution keeps the size
    use_bias     whether there is a bias, which starts at 0
    dtype        of the computation. Parameters are float32
    forms        implementation: 'fast' convolves the condition once for all branches, and has a
                 gradient that is fast in loops. 'naive' repeats the condition
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = False
    dtype: Any = jnp.float32
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x, condition=None):
        """Returns the convolution.

        Args:
          x: [B n, h, w, C], the n branches of an example in a row. None: the condition alone.
          condition: [B, h, w, K]. None: the features alone.

        Returns:
          [B n, h, w, features].
        """
        parts = [part.astype(self.dtype) for part in (x, condition) if part is not None]
        channels = sum(part.shape[-1] for part in parts)
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param('kernel', xavier_uniform, shape, jnp.float32)
        if len(parts) == 2:
            y = self._joined(*parts, kernel)
        else:
            y = conv_in_loop(parts[0], kernel, self.forms)
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32)
            y = add_bias(y, bias)
        return y

    def _joined(self, x, condition, kernel):
        """Returns the convolution of features [B n, h, w, C] and their condition [B, h, w, K]."""
        batch = condition.shape[0]
        branches = x.shape[0] // batch
        if self.forms == 'naive':
            repeated = jnp.repeat(condition, branches, axis=0)
            return conv_in_loop(jnp.concatenate([x, repeated], -1), kernel, self.forms)

        # The sum over input channels is the sum over features and the sum over the condition.
        of_features = conv_in_loop(x, kernel[:, :, : x.shape[-1]], self.forms)
        of_condition = conv_in_loop(condition, kernel[:, :, x.shape[-1] :], self.forms)
        by_branch = of_features.reshape(batch, branches, *of_features.shape[1:])
        return (by_branch + of_condition[:, None]).reshape(of_features.shape)


class Refinement(nn.Module):
    """Refinement module: two 3x3 convolutions, each with layer norm and leaky ReLU.

    It reads the features of the module before, enlarged bilinearly with aligned corners, and the
    condition. The layer norm computes mean and variance of each example over H, W and C. Scale and
    shift are numbers of each channel.

    features      channels of the output
    norm_epsilon  added to the variance
    dtype         of activations. Parameters and the statistics of norms are float32
    forms         implementation: 'fast' or 'naive', as in BranchConv
    """

    features: int
    norm_epsilon: float = 1e-12
    dtype: Any = jnp.float32
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x, condition):
        """Returns the refined features.

        Args:
          x: [B n, h / 2, w / 2, C], or None in the first module.
          condition: [B, h, w, K].

        Returns:
          [B n, h, w, features].
        """
        norm = functools.partial(
            nn.LayerNorm,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
            reduction_axes=(1, 2, 3),
            feature_axes=-1,
            use_fast_variance=False,  # E[x^2] - E[x]^2 cancels where the mean is large.
        )
        if x is not None:
            x = resize.bilinear(x, condition.shape[1:3], align_corners=True)
        conv = functools.partial(BranchConv, self.features, dtype=self.dtype, forms=self.forms)
        x = conv(name='conv_0')(x, condition)
        x = norm(name='norm_0')(x)
        x = nn.leaky_relu(x, SLOPE)
        x = conv(name='conv_1')(x)
        x = norm(name='norm_1')(x)
        return nn.leaky_relu(x, SLOPE)


class Cascade(nn.Module):
    """Refinement modules in a row, and a 1x1 convolution at their end.

    outputs       channels of the 1x1 convolution. 0: there is no convolution
    norm_epsilon  as in Refinement
    dtype         as in Refinement
    forms         as in Refinement
    """

    outputs: int
    norm_epsilon: float = 1e-12
    dtype: Any = jnp.float32
    forms: str = 'fast'

    @nn.compact
    def __call__(self, x, conditions: Sequence, channels: Sequence[int], first: int):
        """Returns the features of the last module, or the result of the convolution.

        Args:
          x: [B n, h, w, C] features of the module before the first, or None.
          conditions: condition [B, h, w, K] at the size of each module.
          channels: of each module.
          first: number of the first module in the whole net.

        Returns:
          [B n, H, W, C] in `dtype`.
        """
        modules = zip(conditions, channels, strict=True)
        for i, (condition, features) in enumerate(modules, start=first):
            module = Refinement(
                features, self.norm_epsilon, self.dtype, self.forms, name=f'module_{i}'
            )
            x = module(x, condition)
        if not self.outputs:
            return x
        head = BranchConv(self.outputs, 1, True, self.dtype, self.forms, name='head')
        return head(x)


class CRN(nn.Module):
    """Cascaded refinement network that makes images from a condition.

    `__call__` is `trunk` (f1) followed by `branch` (f2). Both are methods of `apply`, so that a
    loop over chunks of codes computes f1 once. Parameters are under `f1` and `f2`. Parameters of
    'separate' branches have a leading axis of num_branches under `f2`.

    out_channels   channels of an image
    first_height   height of the smallest resolution. Heights double up to the height of the image
    channels       channels of the modules
    last_channels  channels of the last modules
    last_modules   number of modules with last_channels. The release has 2 at 256 rows
    width          factor on the channels of all modules
    split_at       number of modules of f1, in front of the split into branches
    branches       how several images are made: 'shared', 'separate', 'late' or 'single'
    num_branches   number of images of 'separate' and 'late'. In 'shared' the codes say the number
    dropout        drop-out at the split of 'shared': of a whole 'channel', or 'classic'
    drop_ratio     share of features that codes of 'shared' drop
    norm_epsilon   added to the variance in layer norms. A condition of 0 everywhere has gradients
                   that grow with the inverse of its root, module by module
    forms          implementation: 'fast' convolves the condition once for all branches, and has
                   gradients that are fast in loops on a CPU. 'naive' repeats the condition
    dtype          of activations. Parameters, statistics of norms, and images are float32
    axis_name      not used: no norm shares statistics between devices
    """

    out_channels: int = 3
    first_height: int = 4
    channels: int = 1024
    last_channels: int = 512
    last_modules: int = 1
    width: float = 1.0
    split_at: int = 2
    branches: str = 'shared'
    num_branches: int = 10
    dropout: str = 'channel'
    drop_ratio: float = 0.5
    norm_epsilon: float = 1e-12
    forms: str = 'fast'
    dtype: Any = jnp.float32
    axis_name: str | None = None

    def setup(self):
        for name, value, known in (
            ('branches', self.branches, BRANCHES),
            ('dropout', self.dropout, DROPOUTS),
            ('forms', self.forms, FORMS),
        ):
            if value not in known:
                raise unknown_name(f'crn: {name}', value, known)
        if self.branches in ('separate', 'late') and self.num_branches < 1:
            raise InputError(
                'crn: num_branches', got=str(self.num_branches), expected='at least 1 branch'
            )
        images = self.num_branches if self.branches == 'late' else 1
        cascade = functools.partial(
            Cascade, norm_epsilon=self.norm_epsilon, dtype=self.dtype, forms=self.forms
        )
        self.f1 = cascade(0)
        self.f2 = cascade(self.out_channels * images)

    def __call__(self, condition, codes=None, train: bool = False):
        """Returns the images of a condition.

        Args:
          condition: [B, H, W, K] floating point.
          codes: of 'shared', [n, *code_shape] for all examples, or [B, n, *code_shape], codes of
            each example. The remaining kinds of branches ignore it.
          train: has no effect. Drop-out depends on the codes alone.

        Returns:
          {'image': [B, n, H, W, out_channels] float32}. Images are meant for [-1, 1], but the last
          convolution is linear. n is num_branches in 'separate' and 'late', and 1 in 'single'.

        Raises:
          InputError: a size that the modules cannot double, or codes of another shape.
        """
        del train
        features = self.trunk(condition)
        return {'image': self.branch(features, condition, codes)}

    def trunk(self, condition):
        """Returns f1(X), the features in front of the split.

        Args:
          condition: X, [B, H, W, K] floating point.

        Returns:
          [B, h, w, C] in `dtype`.
        """
        plan = self.plan(*condition.shape[1:3])
        conditions = _shrink(condition, plan.sizes[: self.split_at])
        return self.f1(None, conditions, plan.channels[: self.split_at], 0)

    def branch(self, features, condition, codes=None):
        """Returns f2(f1(X), d(z)), an image for each branch.

        Args:
          features: f1(X), of `trunk`.
          condition: X, [B, H, W, K] floating point.
          codes: z, as in `__call__`.

        Returns:
          [B, n, H, W, out_channels] float32.
        """
        batch, *size = condition.shape[:3]
        plan = self.plan(*size)
        conditions = _shrink(condition, plan.sizes[self.split_at :])
        channels = plan.channels[self.split_at :]
        if self.branches == 'separate':
            return self._separate(features, conditions, channels)

        # Branches of an example are in a row of the batch.
        if self.branches == 'shared':
            codes = self._check_codes(codes, batch, self.code_shape(*size))
            features = latent.drop(features[:, None], codes, self.drop_ratio)  # [B, n, h, w, C]
            features = features.reshape(-1, *features.shape[2:])
        y = self.f2(features, conditions, channels, self.split_at)
        y = y.astype(jnp.float32)
        if self.branches == 'late':
            # Image i has the channels i, n + i, 2 n + i.
            y = y.reshape(*y.shape[:3], self.out_channels, self.num_branches)
            return jnp.moveaxis(y, -1, 1)
        return y.reshape(batch, -1, *y.shape[1:])

    def _separate(self, features, conditions: Sequence, channels: Sequence[int]):
        """Returns [B, num_branches, H, W, out_channels] by f2 with parameters of each branch."""

        def run(f2, carry, _):
            y = f2(features, conditions, channels, self.split_at)
            return carry, y.astype(jnp.float32)

        # A loop. XLA:CPU takes several times as long for convolutions with batched kernels.
        loop = nn.scan(
            run,
            variable_axes={'params': 0},
            split_rngs={'params': True},
            out_axes=1,
            length=self.num_branches,
        )
        _, images = loop(self.f2, (), None)
        return images

    def _check_codes(self, codes, batch: int, shape: tuple[int, ...]):
        """Returns codes with an axis of examples: [B or 1, n, *shape]."""
        expected = f'codes [n, {", ".join(map(str, shape))}], or with {batch} examples in front'
        if codes is None:
            raise InputError('crn: codes', got='no codes', expected=expected)
        lead = codes.shape[: codes.ndim - len(shape)]
        is_code = codes.shape[len(lead) :] == shape
        fits = len(lead) == 1 or (len(lead) == 2 and lead[0] == batch)
        if not is_code or not fits:
            raise InputError('crn: codes', got=f'shape {codes.shape}', expected=expected)
        return codes if len(lead) == 2 else codes[None]

    @nn.nowrap
    def code_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Returns the shape of a code for images of some size: (C,), or (h, w, C) of 'classic'."""
        plan = self.plan(height, width)
        channels = plan.channels[self.split_at - 1]
        if self.dropout == 'channel':
            return (channels,)
        return (*plan.sizes[self.split_at - 1], channels)

    @nn.nowrap
    def plan(self, height: int, width: int) -> Plan:
        """Returns sizes and channels of all modules for images of some size.

        Raises:
          InputError: the size is no power of 2 times the smallest resolution, or the split lies
            outside of the modules.
        """
        # The smallest resolution is one of the halved sizes.
        halvings = _halvings(height, width)
        heights = [height >> k for k in reversed(range(halvings + 1))]
        if self.first_height not in heights:
            fitting = [h for h in heights if h >= self.first_height] or heights
            raise InputError(
                'crn: size of the condition',
                got=f'height {height}, width {width}, first_height {self.first_height}',
                expected='height = first_height 2^k, and a width that is a multiple of 2^k',
                fix=f'--config.model.first_height={fitting[0]}',
            )

        # The largest resolution is the size of the image.
        modules = heights[::-1].index(self.first_height) + 1
        if not 1 <= self.split_at <= modules:
            raise InputError(
                'crn: split_at',
                got=f'{self.split_at}, for {modules} modules',
                expected=f'a number of modules from 1 to {modules}',
                fix=f'--config.model.split_at={min(2, modules)}',
            )

        # The last modules have fewer channels.
        many = scaled(self.channels, self.width)
        few = scaled(self.last_channels, self.width)
        num_few = min(self.last_modules, modules)
        sizes = tuple((height >> k, width >> k) for k in reversed(range(modules)))
        return Plan(sizes, (many,) * (modules - num_few) + (few,) * num_few)


def _halvings(height: int, width: int) -> int:
    """Returns how often height and width can be halved to whole numbers."""
    halvings = 0
    while height % 2 == 0 and width % 2 == 0:
        height //= 2
        width //= 2
        halvings += 1
    return halvings


def _shrink(condition, sizes: Sequence[tuple[int, int]]) -> list:
    """Returns the condition [B, H, W, K] at several sizes, as float32 means over areas."""
    condition = condition.astype(jnp.float32)
    return [resize.shrink(condition, condition.shape[1] // height) for height, _ in sizes]
