"""Times torch's twins: `python -m benchmarks.torch_worker CORES`, run by a Python with torch.

The step is that of `configs/supervised.py`: uint8 images in, weighted cross-entropy of all heads at
the size of the label, Adam. The inference returns the probabilities of the main head.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Setting(NamedTuple):
    """How a net runs.

    device    'cpu' or 'cuda'
    half      whether activations are bfloat16
    layout    memory format of net and images
    compiled  whether torch.compile is used
    """

    device: str
    half: bool
    layout: torch.memory_format
    compiled: bool


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
    layout = torch.channels_last if channels_last else torch.contiguous_format
    setting = Setting(device, dtype == 'bfloat16', layout, compiled)
    with np.load(f'{folder}/batch.npz') as batch:
        image = np.ascontiguousarray(batch['image'])
        label = np.ascontiguousarray(batch['label'])

    # Training and inference have nets of their own, as the programs of segjax do.
    torch.manual_seed(0)
    twin = torch_nets.NETS[net](facts['num_classes'], width=width)
    twin = twin.to(device, memory_format=layout)
    predicting = copy.deepcopy(twin).eval()
    predicting.auxiliary = False
    calls['train'] = make_train(twin, image, label, facts, setting)
    calls['predict'] = make_predict(predicting, image, setting)
    return {'parameters': sum(parameter.numel() for parameter in twin.parameters())}


def make_train(
    net: nn.Module, image: np.ndarray, label: np.ndarray, facts: dict[str, Any], setting: Setting
) -> Callable[[], torch.Tensor]:
    """Returns a function that makes a step of Adam and returns the loss."""
    device = setting.device
    optimiser = adam(net, facts['optim'])
    class_weights = torch.tensor(facts['class_weights'], device=device)

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        heads = logits_of(net, images, setting)
        return total_loss(heads, labels, class_weights, facts['head_weights'])

    compute = torch.compile(loss_of) if setting.compiled else loss_of

    def train() -> torch.Tensor:
        images = torch.from_numpy(image).to(device)
        labels = torch.from_numpy(label).to(device)
        optimiser.zero_grad(set_to_none=True)
        loss = compute(images, labels)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return train


def make_predict(net: nn.Module, image: np.ndarray, setting: Setting) -> Callable[[], torch.Tensor]:
    """Returns a function that computes the probabilities of the main head."""

    def probabilities(images: torch.Tensor) -> torch.Tensor:
        return logits_of(net, images, setting)[0].softmax(1)

    compute = torch.compile(probabilities) if setting.compiled else probabilities

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return compute(torch.from_numpy(image).to(setting.device))

    return predict


def logits_of(net: nn.Module, image: torch.Tensor, setting: Setting) -> list[torch.Tensor]:
    """Returns the float32 logits of all heads for uint8 images [B, H, W, 3]."""
    x = prepared(image, setting.layout)
    with torch.autocast(setting.device, torch.bfloat16, enabled=setting.half):
        return [logits.float() for logits in net(x)]


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
