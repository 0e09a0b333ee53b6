"""Torch twins of the nets of segjax: equal layers, equal parameters, equal outputs.

The backbones are the classes of torchvision and timm, dilated as in the releases. All other layers
are written here from the papers. The names of the modules are those of the releases.
`tests/parity/test_torch.py` compares logits and gradients of these nets with those of segjax.

A net of `NETS` maps float images [B, 3, H, W] to a list of logits [B, C, h, w]: those of the main
head, then those of the auxiliary heads in the order of their names. Logits have the size of the
image, except those of ERFNet's encoder.

Enlargements have aligned corners, as in the releases. segjax puts features on a grid of pixels.
Both are equal at sizes of stride k + 1 pixels, and cost the same at all sizes.
"""

import functools
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

# torchvision registers compiled operators at import. Some builds lack them, and the nets need none.
sys.modules.setdefault(
    'torchvision._meta_registrations', types.ModuleType('torchvision._meta_registrations')
)

import torchvision.models.efficientnet as tv_efficientnet  # noqa: E402
import torchvision.models.resnet as tv_resnet  # noqa: E402
import torchvision.models.vgg as tv_vgg  # noqa: E402
from timm.models import resnet as timm_resnet  # noqa: E402
from timm.models import xception_aligned as timm_xception  # noqa: E402

RESNETS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Number of layers -> number of blocks of each stage."""

VGG = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""(number of convolutions, channels) of each stage of VGG16."""

ERFNET_DILATIONS = (2, 4, 8, 16)


# --- parts ----------------------------------------------------------------------------------------


class Twin(nn.Module):
    """Named parts and a forward function of them.

    auxiliary  whether a whole net returns the logits of auxiliary heads. Inference needs none
    """

    def __init__(self, forward: Callable | None, **parts: nn.Module):
        """Keeps the parts, and `forward`, which is called with the twin and its inputs."""
        super().__init__()
        self.auxiliary = True
        self.run = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *x):
        """Calls the forward function."""
        return self.run(self, *x)


def scaled(channels: int, width: float) -> int:
    """Returns the channels of a layer whose width is multiplied by `width`, at least 1."""
    return max(1, round(channels * width))


def conv(
    i: int,
    o: int,
    k: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | None = None,
    bias: bool = False,
    **options: Any,
) -> nn.Conv2d:
    """Returns a convolution from `i` to `o` channels.

    Without `padding`, a square kernel is padded to keep the size.
    """
    if padding is None:
        padding = k // 2
    return nn.Conv2d(i, o, k, padding=padding, bias=bias, **options)


def conv_bn(i: int, o: int, k: int = 1, stride: int = 1) -> Twin:
    """Returns a convolution with batch norm and ReLU."""
    return Twin(
        lambda m, x: F.relu(m.bn(m.conv(x))),
        conv=conv(i, o, k, stride=stride),
        bn=nn.BatchNorm2d(o),
    )


def separable(i: int, o: int, dilation: tuple[int, int] = (1, 1)) -> Twin:
    """Returns a separable convolution with a ReLU after both of its batch norms."""
    depthwise = nn.Conv2d(i, i, 3, padding=dilation, dilation=dilation, groups=i, bias=False)
    return Twin(
        lambda m, x: F.relu(m.bn_pw(m.conv_pw(F.relu(m.bn_dw(m.conv_dw(x)))))),
        conv_dw=depthwise,
        bn_dw=nn.BatchNorm2d(i),
        conv_pw=conv(i, o),
        bn_pw=nn.BatchNorm2d(o),
    )


def on_corners(y: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resizes bilinearly with aligned corners."""
    return F.interpolate(y, size, mode='bilinear', align_corners=True)


# --- backbones ------------------------------------------------------------------------------------


def stages(resnet: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the outputs of the four stages of a ResNet."""
    x = F.relu(resnet.bn1(resnet.conv1(x)))
    outputs = [resnet.maxpool(x)]
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


def dilate(stage: nn.Module, dilation: int) -> None:
    """Dilates every 3x3 convolution of a stage and removes its stride, as the releases do."""
    for name, module in stage.named_modules():
        if name.endswith('downsample.0'):
            module.stride = (1, 1)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.stride = (1, 1)
            module.dilation = (dilation, dilation)
            module.padding = (dilation, dilation)
        elif isinstance(module, nn.Conv2d):
            module.stride = (1, 1)


def torchvision_resnet(
    num_layers: int, blocks: Sequence[int] | None = None, width: float = 1.0
) -> nn.Module:
    """Returns torchvision's ResNet without classifier.

    Args:
      num_layers: 18, 50 or 101.
      blocks: of each stage. None: those of RESNETS.
      width: factor on all channels.
    """
    block = tv_resnet.BasicBlock if num_layers < 50 else tv_resnet.Bottleneck
    blocks = list(blocks or RESNETS[num_layers])
    net = tv_resnet.ResNet(block, blocks)
    net.fc = nn.Identity()
    # The class has no argument for its channels, so the layers are built again.
    if width != 1:
        n = scaled(64, width)
        net.inplanes = n
        net.conv1 = conv(3, n, 7, stride=2)
        net.bn1 = nn.BatchNorm2d(n)
        for i, count in enumerate(blocks):
            stage = net._make_layer(block, n * 2**i, count, stride=1 if i == 0 else 2)
            net.add_module(f'layer{i + 1}', stage)
    return net


def timm_deep_resnet(blocks: Sequence[int] = RESNETS[50], width: float = 1.0) -> nn.Module:
    """Returns timm's ResNet of bottlenecks with a stem of three 3x3 convolutions."""
    n = scaled(64, width)
    net = timm_resnet.ResNet(
        timm_resnet.Bottleneck,
        tuple(blocks),
        num_classes=0,
        stem_width=n,
        stem_type='deep',
        channels=tuple(n * 2**i for i in range(4)),
    )
    net.fc = nn.Identity()
    return net


def vgg_features(
    pool: Callable[[int], nn.Module], width: float = 1.0, pad_first: int = 1
) -> nn.Sequential:
    """Returns the feature layers of torchvision's VGG16 with other poolings.

    Args:
      pool: number of a pooling, from 0 -> its layer.
      width: factor on all channels.
      pad_first: padding of the first convolution.
    """
    layout: list[int | str] = []
    for count, channels in VGG:
        layout += [scaled(channels, width)] * count + ['M']
    features = tv_vgg.make_layers(layout)
    for i, place in enumerate(vgg_pools(features)):
        features[place] = pool(i)
    features[0].padding = (pad_first, pad_first)
    return features


def vgg_pools(features: nn.Sequential) -> list[int]:
    """Returns the places of the poolings among the feature layers."""
    return [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]


def vgg_names(features: nn.Sequential) -> dict[str, str]:
    """Returns {'features.0': 'conv1_1', ..} for the convolutions among the feature layers."""
    places = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    numbers = []
    for stage, (count, _) in enumerate(VGG, start=1):
        numbers += [f'{stage}_{j}' for j in range(1, count + 1)]
    return {f'features.{i}': f'conv{n}' for i, n in zip(places, numbers, strict=True)}


def xception(num_layers: int, stride: int, width: float = 1.0, middle: int = 16) -> nn.Module:
    """Returns timm's aligned Xception without head.

    Args:
      num_layers: 65 or 71.
      stride: output stride, 16 or 8.
      width: factor on all channels.
      middle: number of blocks of the middle flow.
    """

    def w(*channels: int) -> list[int]:
        return [scaled(c, width) for c in channels]

    # Entry flow, middle flow and exit flow, as in timm's variants.
    entry = {
        65: zip(w(64, 128, 256), w(128, 256, 728), (2, 2, 2)),
        71: zip(w(64, 128, 256, 256, 728), w(128, 256, 256, 728, 728), (2, 1, 2, 1, 2)),
    }[num_layers]
    (n,) = w(728)
    blocks = [dict(in_chs=i, out_chs=o, stride=s) for i, o, s in entry]
    blocks += [dict(in_chs=n, out_chs=n, stride=1) for _ in range(middle)]
    blocks.append(dict(in_chs=n, out_chs=tuple(w(728, 1024, 1024)), stride=2))
    last = dict(stride=1, no_skip=True, start_with_relu=False)
    last |= dict(in_chs=w(1024)[0], out_chs=tuple(w(1536, 1536, 2048)))
    norm = functools.partial(nn.BatchNorm2d, eps=1e-3)
    net = timm_xception.XceptionAligned(
        [*blocks, last], num_classes=0, output_stride=stride, norm_layer=norm
    )

    # The channels of the stem are no arguments of the class, so the stem is replaced.
    layer = functools.partial(timm_xception.ConvNormAct, kernel_size=3, norm_layer=norm)
    net.stem = nn.Sequential(layer(3, *w(32), stride=2), layer(*w(32), *w(64)))
    net.act3 = nn.Identity()
    net.head = nn.Identity()
    return net


# --- ERFNet ---------------------------------------------------------------------------------------


def erfnet_down(i: int, o: int) -> Twin:
    """Returns the block that halves the size: convolution and pooling side by side."""
    return Twin(
        lambda m, x: F.relu(m.bn(torch.cat([m.conv(x), F.max_pool2d(x, 2, 2)], 1))),
        conv=conv(i, o - i, 3, stride=2, bias=True),
        bn=nn.BatchNorm2d(o, eps=1e-3),
    )


def erfnet_up(i: int, o: int) -> Twin:
    """Returns the block that doubles the size."""
    return Twin(
        lambda m, x: F.relu(m.bn(m.conv(x))),
        conv=nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1),
        bn=nn.BatchNorm2d(o, eps=1e-3),
    )


def erfnet_block(n: int, dropout: float, d: int) -> Twin:
    """Returns the factorised residual block of `n` channels, with dilation `d`."""

    def forward(m, x):
        y = F.relu(m.conv3x1_1(x))
        y = F.relu(m.bn1(m.conv1x3_1(y)))
        y = F.relu(m.conv3x1_2(y))
        y = m.bn2(m.conv1x3_2(y))
        return F.relu(F.dropout2d(y, dropout, m.training) + x)

    return Twin(
        forward,
        conv3x1_1=conv(n, n, (3, 1), padding=(1, 0), bias=True),
        conv1x3_1=conv(n, n, (1, 3), padding=(0, 1), bias=True),
        bn1=nn.BatchNorm2d(n, eps=1e-3),
        conv3x1_2=conv(n, n, (3, 1), padding=(d, 0), dilation=(d, 1), bias=True),
        conv1x3_2=conv(n, n, (1, 3), padding=(0, d), dilation=(1, d), bias=True),
        bn2=nn.BatchNorm2d(n, eps=1e-3),
    )


def in_order(m: Twin, x: torch.Tensor) -> torch.Tensor:
    """Applies `m.layers` one after another."""
    for layer in m.layers:
        x = layer(x)
    return x


def erfnet(
    num_classes: int,
    width: float = 1.0,
    blocks: tuple[int, int, int, int] = (5, 8, 2, 2),
    dropout: tuple[float, float] = (0.03, 0.3),
) -> Twin:
    """Returns ERFNet with the head of its encoder. Thin layers keep their channels (thin_maps)."""
    middle = scaled(64, width)
    wide = scaled(128, width)
    first = max(scaled(16, width), min(16, middle // 2))
    last = max(scaled(16, width), 16)

    # Encoder to stride 8. The list begins with the second block.
    down = [erfnet_down(first, middle)]
    down += [erfnet_block(middle, dropout[0], 1) for _ in range(blocks[0])]
    down.append(erfnet_down(middle, wide))
    for i in range(blocks[1]):
        down.append(erfnet_block(wide, dropout[1], ERFNET_DILATIONS[i % 4]))
    encoder = Twin(
        lambda m, x: in_order(m, m.initial_block(x)),
        initial_block=erfnet_down(3, first),
        layers=nn.ModuleList(down),
        output_conv=conv(wide, num_classes, bias=True),
    )

    # Decoder to stride 1.
    up = [erfnet_up(wide, middle)]
    up += [erfnet_block(middle, 0.0, 1) for _ in range(blocks[2])]
    up.append(erfnet_up(middle, last))
    up += [erfnet_block(last, 0.0, 1) for _ in range(blocks[3])]
    decoder = Twin(
        lambda m, x: m.output_conv(in_order(m, x)),
        layers=nn.ModuleList(up),
        output_conv=nn.ConvTranspose2d(last, num_classes, 2, stride=2),
    )

    def forward(m, x):
        y = m.encoder(x)
        logits = m.decoder(y)
        return [logits, m.encoder.output_conv(y)] if m.auxiliary else [logits]

    return Twin(forward, encoder=encoder, decoder=decoder)


# --- PSPNet ---------------------------------------------------------------------------------------


def pspnet(
    num_classes: int,
    width: float = 1.0,
    blocks: Sequence[int] = RESNETS[50],
    dropout: float = 0.1,
) -> Twin:
    """Returns PSPNet with its auxiliary head on layer3."""
    resnet = timm_deep_resnet(blocks, width)
    dilate(resnet.layer3, 2)
    dilate(resnet.layer4, 4)
    c = 32 * scaled(64, width)

    # The parts have the numbers of the release.
    def pyramid(bins):
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(bins), conv(c, c // 4), nn.BatchNorm2d(c // 4), nn.ReLU()
        )

    def head(i, o):
        return nn.Sequential(
            conv(i, o, 3),
            nn.BatchNorm2d(o),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            conv(o, num_classes, bias=True),
        )

    def forward(m, x):
        *_, y3, y4 = stages(m.resnet, x)
        y = torch.cat([y4, *(on_corners(f(y4), y4.shape[2:]) for f in m.ppm.features)], 1)
        logits = [m.cls(y), m.aux(y3)] if m.auxiliary else [m.cls(y)]
        return [on_corners(y, x.shape[2:]) for y in logits]

    return Twin(
        forward,
        resnet=resnet,
        ppm=Twin(None, features=nn.ModuleList(pyramid(bins) for bins in (1, 2, 3, 6))),
        cls=head(2 * c, scaled(512, width)),
        aux=head(c // 2, scaled(256, width)),
    )


# --- DeepLab and FCN ------------------------------------------------------------------------------


def msra_resnet(num_layers: int, blocks: Sequence[int] | None, width: float = 1.0) -> nn.Module:
    """Returns torchvision's ResNet as in the Caffe nets, at output stride 8.

    The stride is on the first 1x1, and the pooling of the stem rounds up.
    """
    resnet = torchvision_resnet(num_layers, blocks, width)
    resnet.maxpool.ceil_mode = True
    resnet.layer2[0].conv1.stride = (2, 2)
    resnet.layer2[0].conv2.stride = (1, 1)
    dilate(resnet.layer3, 2)
    dilate(resnet.layer4, 4)
    return resnet


def deeplab_v2(
    num_classes: int,
    width: float = 1.0,
    num_layers: int = 101,
    blocks: Sequence[int] | None = None,
) -> Twin:
    """Returns DeepLab-v2 on a single scale."""
    channels = 32 * scaled(64, width)
    branches = {
        f'c{i}': conv(channels, num_classes, 3, padding=rate, dilation=rate, bias=True)
        for i, rate in enumerate((6, 12, 18, 24))
    }
    aspp = Twin(lambda m, x: sum(branch(x) for branch in m.children()), **branches)
    return Twin(
        lambda m, x: [on_corners(m.aspp(stages(m.resnet, x)[-1]), x.shape[2:])],
        resnet=msra_resnet(num_layers, blocks, width),
        aspp=aspp,
    )


def deeplab_largefov(num_classes: int, width: float = 1.0, dropout: float = 0.5) -> Twin:
    """Returns DeepLab-LargeFOV on VGG16."""
    features = vgg_features(
        lambda i: nn.MaxPool2d(3, 2 if i < 3 else 1, 1, ceil_mode=True), width=width
    )
    for place, name in vgg_names(features).items():
        if name.startswith('conv5'):
            layer = features.get_submodule(place.removeprefix('features.'))
            layer.dilation = (2, 2)
            layer.padding = (2, 2)

    # The layers on top. fc6 has the field of view of the release.
    n = scaled(1024, width)

    def forward(m, x):
        y = F.dropout(F.relu(m.fc6(m.features(x))), dropout, m.training)
        y = F.dropout(F.relu(m.fc7(y)), dropout, m.training)
        return [on_corners(m.fc8(y), x.shape[2:])]

    return Twin(
        forward,
        features=features,
        fc6=conv(scaled(512, width), n, 3, padding=12, dilation=12, bias=True),
        fc7=conv(n, n, bias=True),
        fc8=conv(n, num_classes, bias=True),
    )


def bilinear_deconvolution(y: torch.Tensor, factor: int) -> torch.Tensor:
    """Enlarges by FCN's transposed convolution with fixed bilinear kernels."""
    taps = 1 - (torch.arange(2 * factor, device=y.device) - (factor - 0.5)).abs() / factor
    kernel = torch.outer(taps, taps).to(y.dtype).expand(y.shape[1], 1, -1, -1)
    return F.conv_transpose2d(y, kernel, stride=factor, groups=y.shape[1])


def fcn(num_classes: int, width: float = 1.0, stride: int = 8, dropout: float = 0.5) -> Twin:
    """Returns FCN-32s, 16s or 8s on VGG16."""
    features = vgg_features(
        lambda i: nn.MaxPool2d(2, 2, ceil_mode=True), width=width, pad_first=100
    )
    pools = vgg_pools(features)
    n = scaled(4096, width)
    widths = {'pool4': scaled(512, width), 'pool3': scaled(256, width)}
    finer = {32: [], 16: ['pool4'], 8: ['pool4', 'pool3']}[stride]
    offset_of_image = {32: 19, 16: 27, 8: 31}[stride]

    def crop(y, offset, size):
        return y[:, :, offset : offset + size[0], offset : offset + size[1]]

    # Scores of finer poolings are added from coarse to fine. Offsets undo the first padding.
    def forward(m, x):
        y = x
        seen = {}
        for i, layer in enumerate(m.features):
            y = layer(y)
            if i in pools:
                seen[f'pool{pools.index(i) + 1}'] = y
        y = F.dropout(F.relu(m.fc6(y)), dropout, m.training)
        y = F.dropout(F.relu(m.fc7(y)), dropout, m.training)
        y = m.score_fr(y)
        for pool, offset in zip(finer, (5, 9)):
            y = bilinear_deconvolution(y, 2)
            y = y + crop(getattr(m, f'score_{pool}')(seen[pool]), offset, y.shape[2:])
        return [crop(bilinear_deconvolution(y, stride), offset_of_image, x.shape[2:])]

    scores = {f'score_{pool}': conv(widths[pool], num_classes, bias=True) for pool in finer}
    return Twin(
        forward,
        features=features,
        fc6=conv(scaled(512, width), n, 7, padding=0, bias=True),
        fc7=conv(n, n, bias=True),
        score_fr=conv(n, num_classes, bias=True),
        **scores,
    )


# --- BiSeNet --------------------------------------------------------------------------------------


def bisenet_arm(i: int, o: int) -> Twin:
    """Returns the attention refinement from `i` to `o` channels."""

    def forward(m, x):
        f = m.conv(x)
        return f * torch.sigmoid(m.bn_atten(m.conv_atten(f.mean((2, 3), keepdim=True))))

    return Twin(forward, conv=conv_bn(i, o, 3), conv_atten=conv(o, o), bn_atten=nn.BatchNorm2d(o))


def bisenet_head(i: int, o: int, num_classes: int) -> Twin:
    """Returns the head on `i` channels with `o` channels inside."""
    return Twin(
        lambda m, x: m.conv_out(m.conv(x)),
        conv=conv_bn(i, o, 3),
        conv_out=conv(o, num_classes, bias=True),
    )


def bisenet_context_path(enlarge: Callable, width: float) -> Twin:
    """Returns the context path with this enlargement."""
    n = scaled(64, width)

    def context(m, x):
        _, y8, y16, y32 = stages(m.resnet, x)
        mean = m.conv_avg(y32.mean((2, 3), keepdim=True))
        up16 = m.conv_head32(enlarge(m.arm32(y32) + mean, y16.shape[2:]))
        return m.conv_head16(enlarge(m.arm16(y16) + up16, y8.shape[2:])), up16

    return Twin(
        context,
        resnet=torchvision_resnet(18, width=width),
        arm16=bisenet_arm(4 * n, 2 * n),
        arm32=bisenet_arm(8 * n, 2 * n),
        conv_head32=conv_bn(2 * n, 2 * n, 3),
        conv_head16=conv_bn(2 * n, 2 * n, 3),
        conv_avg=conv_bn(8 * n, 2 * n),
    )


def bisenet(num_classes: int, width: float = 1.0, release: str = 'torchseg') -> Twin:
    """Returns BiSeNet on ResNet-18 with its auxiliary heads, of either release."""
    authors = release == 'torchseg'
    main, aux = (64, 256) if authors else (256, 64)
    n = scaled(64, width)
    enlarge = on_corners if authors else functools.partial(F.interpolate, mode='nearest')

    # The releases differ in the gate of the fusion.
    def fuse(m, *maps):
        f = m.convblk(torch.cat(maps, 1))
        mean = f.mean((2, 3), keepdim=True)
        gate = m.conv2(F.relu(m.conv1(mean))) if authors else m.bn(m.conv(mean))
        return f + f * torch.sigmoid(gate)

    def forward(m, x):
        up8, up16 = m.cp(x)
        heads = [m.conv_out(m.ffm(m.sp(x), up8))]
        if m.auxiliary:
            heads += [m.conv_out32(up16), m.conv_out16(up8)]
        return [
            F.interpolate(y, x.shape[2:], mode='bilinear', align_corners=authors) for y in heads
        ]

    gate = dict(conv1=conv(4 * n, 4 * n), conv2=conv(4 * n, 4 * n))
    if not authors:
        gate = dict(conv=conv(4 * n, 4 * n), bn=nn.BatchNorm2d(4 * n))
    spatial_path = Twin(
        lambda m, x: m.conv_out(m.conv3(m.conv2(m.conv1(x)))),
        conv1=conv_bn(3, n, 7, 2),
        conv2=conv_bn(n, n, 3, 2),
        conv3=conv_bn(n, n, 3, 2),
        conv_out=conv_bn(n, 2 * n),
    )
    return Twin(
        forward,
        sp=spatial_path,
        cp=bisenet_context_path(enlarge, width),
        ffm=Twin(fuse, convblk=conv_bn(4 * n, 4 * n), **gate),
        conv_out=bisenet_head(4 * n, scaled(main, width), num_classes),
        conv_out16=bisenet_head(2 * n, scaled(aux, width), num_classes),
        conv_out32=bisenet_head(2 * n, scaled(aux, width), num_classes),
    )


# --- DeepLab-v3+ ----------------------------------------------------------------------------------


def deeplab_v3plus_head(head: str, deep: int, n: int, scale: int, dropout: float) -> Twin:
    """Returns the head 'aspp' or 'dpc' from `deep` to `n` channels, with rates times `scale`."""

    # Dropout is behind the projection of 'aspp', and in front of that of 'dpc'.
    def aspp(m, x):
        mean = m.image_pooling(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        maps = [mean, *(getattr(m, f'aspp{i}')(x) for i in range(4))]
        return F.dropout(m.concat_projection(torch.cat(maps, 1)), dropout, m.training)

    def cell(m, x):
        y0 = m.branch0(x)
        y1 = m.branch1(y0)
        maps = [y0, y1, m.branch2(y1), m.branch3(y0), m.branch4(y0)]
        return m.concat_projection(F.dropout(torch.cat(maps, 1), dropout, m.training))

    if head == 'aspp':
        parts = {
            f'aspp{i}': separable(deep, n, (scale * r, scale * r))
            for i, r in ((1, 6), (2, 12), (3, 18))
        }
        top = Twin(aspp, image_pooling=conv_bn(deep, n), aspp0=conv_bn(deep, n), **parts)
    else:
        rates = ((1, 6), (18, 15), (6, 3), (1, 1), (6, 21))
        parts = {
            f'branch{i}': separable(n if i else deep, n, (scale * r, scale * s))
            for i, (r, s) in enumerate(rates)
        }
        top = Twin(cell, **parts)
    top.add_module('concat_projection', conv_bn(5 * n, n))
    return top


def deeplab_v3plus_decoder(low: int, n: int) -> Twin:
    """Returns the decoder of `n` channels, with `low` channels of the low-level features."""

    def decode(m, y, features):
        features = m.feature_projection0(features)
        y = torch.cat([on_corners(y, features.shape[2:]), features], 1)
        return m.decoder_conv1(m.decoder_conv0(y))

    return Twin(
        decode,
        feature_projection0=conv_bn(n, low),
        decoder_conv0=separable(n + low, n),
        decoder_conv1=separable(n, n),
    )


def xception_features(
    net: nn.Module, low_block: int, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (features, low-level features): the latter after the second layer of a block."""
    y = net.stem(x)
    low = y
    for i, block in enumerate(net.blocks):
        if i != low_block:
            y = block(y)
            continue
        # The ReLU in front of the third layer works in place.
        skip = y
        for name, layer in block.stack.named_children():
            y = layer(y)
            if name == 'conv2':
                low = y.clone()
        y = y + (skip if block.shortcut is None else block.shortcut(skip))
    return y, low


def deeplab_v3plus(
    num_classes: int,
    width: float = 1.0,
    num_layers: int = 71,
    head: str = 'aspp',
    stride: int = 16,
    middle: int = 16,
    dropout: float = 0.1,
) -> Twin:
    """Returns DeepLab-v3+ on Xception-65 or 71.

    At stride 8 timm's Xception-71 lacks the projection of a block that no longer strides. The
    release and segjax keep the projection.
    """
    n = scaled(256, width)
    low_block = {65: 1, 71: 2}[num_layers]

    def forward(m, x):
        y, low = xception_features(m.xception, low_block, x)
        y = m.decoder(getattr(m, head)(y), low)
        return [on_corners(m.logits(y), x.shape[2:])]

    parts = {head: deeplab_v3plus_head(head, scaled(2048, width), n, 16 // stride, dropout)}
    return Twin(
        forward,
        xception=xception(num_layers, stride, width, middle),
        **parts,
        decoder=deeplab_v3plus_decoder(scaled(48, width), n),
        logits=conv(n, num_classes, bias=True),
    )


# --- classifiers ----------------------------------------------------------------------------------


def efficientnet(
    num_classes: int,
    width: float = 1.0,
    variant: str = 'b0',
    scaling: tuple[float, float] = (1.0, 1.0),
    dropout: float = 0.2,
    drop_connect: float = 0.2,
    norm: Callable | None = None,
) -> nn.Module:
    """Returns torchvision's EfficientNet, which maps images to logits [B, num_classes].

    Args:
      num_classes: of the logits.
      width: factor on all channels, in addition to `scaling`.
      variant: 'b0' to 'b7'.
      scaling: factors of the variant on (channels, blocks).
      dropout: rate in front of the classifier.
      drop_connect: rate of stochastic depth.
      norm: makes batch norms. None: torch's.
    """
    blocks, last = tv_efficientnet._efficientnet_conf(
        f'efficientnet_{variant}', width_mult=scaling[0] * width, depth_mult=scaling[1]
    )
    return tv_efficientnet.EfficientNet(
        blocks,
        dropout,
        stochastic_depth_prob=drop_connect,
        num_classes=num_classes,
        last_channel=last,
        norm_layer=norm,
    )


def classifier(num_classes: int, width: float = 1.0) -> Twin:
    """Returns EfficientNet-B0 with its logits in a list."""
    return Twin(lambda m, x: [m.net(x)], net=efficientnet(num_classes, width))


NETS: dict[str, Callable[..., Twin]] = {
    'erfnet': erfnet,
    'bisenet': bisenet,
    'pspnet': pspnet,
    'deeplab_largefov': deeplab_largefov,
    'deeplab_v2': deeplab_v2,
    'deeplab_v3plus': deeplab_v3plus,
    'fcn': fcn,
    'efficientnet': classifier,
}
"""Nets by the names that segjax has for them, called with (num_classes, width=...)."""
