"""Computes the logits of EfficientNet-lite0 in torch, from the tensors of a published file.

    python torch_lite0.py TENSORS.npz IMAGES.npy LOGITS.npy

It runs in a Python with torch and shares no code with the project. TENSORS.npz has the names of
EfficientNet-PyTorch. IMAGES.npy are normalised, [B, H, W, 3]. Numbers are float64.
"""

import math
import sys

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Of the 16 blocks."""


def conv_same(x, weight, stride=1, groups=1):
    """Convolves with TensorFlow's padding 'SAME': the smaller half of the zeros is in front."""
    size = weight.shape[-1]
    pads = []
    for length in (x.shape[3], x.shape[2]):
        total = max((math.ceil(length / stride) - 1) * stride + size - length, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def main(tensors_file, images_file, logits_file):
    tensors = {name: torch.from_numpy(array) for name, array in np.load(tensors_file).items()}
    tensors = {name: tensor.double() for name, tensor in tensors.items()}

    def norm(x, name):
        arrays = [
            tensors[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')
        ]
        return F.batch_norm(x, *arrays, eps=1e-3)

    x = torch.from_numpy(np.load(images_file)).double().permute(0, 3, 1, 2)
    x = F.relu6(norm(conv_same(x, tensors['_conv_stem.weight'], 2), '_bn0'))
    for i, stride in enumerate(STRIDES):
        block = f'_blocks.{i}.'
        y = x
        if f'{block}_expand_conv.weight' in tensors:
            y = conv_same(y, tensors[f'{block}_expand_conv.weight'])
            y = F.relu6(norm(y, f'{block}_bn0'))
        y = conv_same(y, tensors[f'{block}_depthwise_conv.weight'], stride, groups=y.shape[1])
        y = F.relu6(norm(y, f'{block}_bn1'))
        y = norm(conv_same(y, tensors[f'{block}_project_conv.weight']), f'{block}_bn2')
        x = x + y if x.shape == y.shape else y
    x = F.relu6(norm(conv_same(x, tensors['_conv_head.weight']), '_bn1'))
    logits = F.linear(x.mean((2, 3)), tensors['_fc.weight'], tensors['_fc.bias'])
    np.save(logits_file, logits.numpy())


if __name__ == '__main__':
    main(*sys.argv[1:])
