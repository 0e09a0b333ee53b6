"""Times torch's twins: `python -m benchmarks.torch_worker CORES`, run by a Python with torch.

The step is that of `configs/supervised.py`: uint8 images in, weighted cross-entropy of all heads at
the size of the label, Adam. The inference returns the probabilities of the main head.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import serving

if __name__ == '__main__':
    serving.use_cores(int(sys.argv[1]))  # before torch counts the cores

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks import torch_nets

IGNORE = 255
"""Label of pixels without class."""

calls: dict[str, Callable[[], torch.Tensor]] = {}
"""Part -> its call."""


def describe(threads: int, device: str) -> dict[str, Any]:
    """Sets the number of threads, and returns the versions and the device."""
    torch.set_num_threads(threads)
    # XLA's defaults on a GPU: TF32 products, and convolutions chosen by measurement.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return {
        'device': torch.cuda.get_device_name() if device == 'cuda' else 'cpu',
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'oneDNN': torch.backends.mkldnn.is_available(),
    }


def prepare(
    net: str,
    width: float,
    dtype: str,
    device: str,
    folder: str,
    facts: dict[str, Any],
    compiled: bool,
    channels_last: bool,
) -> dict[str, Any]:
    """Builds a net, and its step and inference.

    Args:
      net: a key of torch_nets.NETS.
      width: factor on the channels.
      dtype: of activations, 'float32' or 'bfloat16'.
      device: 'cpu' or 'cuda'.
      folder: holds batch.npz.
      facts: of segjax's worker: classes, weights, settings of Adam.
      compiled: use torch.compile.
      channels_last: memory format of the net and the images.

    Returns:
      {'parameters': number}.
    """
    with np.load(f'{folder}/batch.npz') as batch:
        arrays = {name: np.ascontiguousarray(batch[name]) for name in ('image', 'label')}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    twin = torch_nets.NETS[net](facts['num_classes'], width=width).to(device, memory_format=layout)
    predicting = copy.deepcopy(twin).eval()
    predicting.auxiliary = False

    def logits_of(module: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
        x = prepared(image, layout)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == 'bfloat16'):
            return [y.float() for y in module(x)]

    weights = torch.tensor(facts['class_weights'], device=device)

    def loss_of(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return total_loss(logits_of(twin, image), label, weights, facts['head_weights'])

    def probabilities(image: torch.Tensor) -> torch.Tensor:
        return logits_of(predicting, image)[0].softmax(1)

    if compiled:
        loss_of = torch.compile(loss_of)
        probabilities = torch.compile(probabilities)
    optimiser = adam(twin, facts['optim'])

    def train() -> torch.Tensor:
        image = torch.from_numpy(arrays['image']).to(device)
        label = torch.from_numpy(arrays['label']).to(device)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(image, label)
        loss.backward()
        optimiser.step()
        return loss.detach()

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return probabilities(torch.from_numpy(arrays['image']).to(device))

    calls.update(train=train, predict=predict)
    return {'parameters': sum(parameter.numel() for parameter in twin.parameters())}


def prepared(image: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """Maps uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 1]."""
    x = image.permute(0, 3, 1, 2).float() / 255
    return x.contiguous(memory_format=layout)


def total_loss(
    heads: Sequence[torch.Tensor],
    label: torch.Tensor,
    class_weights: torch.Tensor,
    head_weights: Sequence[float],
) -> torch.Tensor:
    """Computes the weighted sum of the heads' cross-entropies.

    Args:
      heads: logits [B, C, h, w] of the main head, then of auxiliary heads. A classifier has [B, C].
      label: [B, H, W] class of each pixel, 255 for none. A classifier has [B].
      class_weights: [C].
      head_weights: weight of the main head, weight of each auxiliary head.
    """
    label = label.long()
    total = torch.zeros((), device=label.device)
    for i, logits in enumerate(heads):
        if logits.shape[2:] != label.shape[1:]:
            size = label.shape[1:]
            logits = F.interpolate(logits, size, mode='bilinear', align_corners=False)
        loss = F.cross_entropy(logits, label, weight=class_weights, ignore_index=IGNORE)
        total = total + head_weights[min(i, 1)] * loss
    return total


def adam(net: nn.Module, settings: dict[str, float]) -> torch.optim.Optimizer:
    """Returns Adam, fused where torch can. Kernels alone decay, as in segjax."""
    kernels = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [
        {'params': kernels, 'weight_decay': settings['weight_decay']},
        {'params': vectors, 'weight_decay': 0.0},
    ]
    return torch.optim.Adam(
        groups,
        lr=settings['learning_rate'],
        betas=(settings['beta1'], settings['beta2']),
        eps=settings['eps'],
        fused=True,
    )


def wait(result: torch.Tensor) -> None:
    """Waits for a result."""
    if result.is_cuda:
        torch.cuda.synchronize()


def call(part: str) -> dict[str, float]:
    """Times one call of a part."""
    return serving.timed(calls[part], wait)


def memory() -> int | None:
    """Returns the peak memory in bytes: of the device, or of the process on a CPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return serving.peak_memory()


if __name__ == '__main__':
    serving.serve({'describe': describe, 'prepare': prepare, 'call': call, 'memory': memory})
