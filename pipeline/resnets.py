"""Residual networks for small images, as the distillation literature trains them.

A stem, three layers of n blocks at the size of the picture, a half and a quarter of it, and a
linear layer; a block has two 3x3 convolutions. Names, shapes and initial values are those of
RepDistiller (Tian et al., 2020). The taps are `stem`, `layer1` to `layer3` `(n, C, h, w)` and
`pooled` `(n, C)`.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.errors import MenteeError


def residual(name: str, classes: int, dropout: float) -> nn.Module:
    """The network of a name: resnet<depth>, resnet<depth>x4 or wrn_<depth>_<width>."""
    if found := re.fullmatch(r"resnet(\d+)(x4)?", name):
        return resnet(int(found[1]), bool(found[2]), classes, dropout)
    if found := re.fullmatch(r"wrn_(\d+)_(\d+)", name):
        return wide_resnet(int(found[1]), int(found[2]), classes, dropout)
    raise MenteeError(
        f"student.model: {name!r} is none of fiveconv, resnet<depth>, resnet<depth>x4, "
        f"wrn_<depth>_<width>, torchvision:NAME and timm:NAME"
    )


def resnet(depth: int, wide: bool, classes: int, dropout: float) -> nn.Module:
    """He et al. (2016), section 4.2: depth 6n + 2.

    The layers have 16, 32 and 64 channels, or four times as many, after a stem of 16 or 32.
    """
    stem, *channels = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    start = nn.Sequential(_convolution(3, stem), nn.BatchNorm2d(stem), nn.ReLU(inplace=True))
    layers = _layers(Block, (depth - 2) // 6, [stem, *channels])
    return _network({"stem": start, **layers}, channels[-1], classes, dropout)


def wide_resnet(depth: int, width: int, classes: int, dropout: float) -> nn.Module:
    """Zagoruyko and Komodakis (2016): depth 6n + 4, and 16, 32 and 64 channels times the width."""
    channels = [16 * width, 32 * width, 64 * width]
    layers = _layers(PreActivationBlock, (depth - 4) // 6, [16, *channels])
    end = nn.Sequential(nn.BatchNorm2d(channels[-1]), nn.ReLU(inplace=True))
    parts = {"stem": _convolution(3, 16), **layers, "activation": end}
    network = _network(parts, channels[-1], classes, dropout)
    nn.init.zeros_(network.get_parameter("classifier.bias"))
    return network


class Block(nn.Module):
    """Convolution and normalisation twice, with a ReLU between and one after the sum."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels_in, channels, stride),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            _convolution(channels, channels),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential()
        if channels_in != channels:
            self.shortcut.append(nn.Conv2d(channels_in, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(maps) + self.shortcut(maps))


class PreActivationBlock(nn.Module):
    """Normalisation, ReLU and convolution twice; nothing touches the sum.

    Where the channels change, the shortcut starts behind the first ReLU, as in the authors' code.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            _convolution(channels_in, channels, stride),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            _convolution(channels, channels),
        )
        self.shortcut = None
        if channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        active = self.activation(maps)
        kept = self.shortcut(active) if self.shortcut else maps
        return kept + self.body(active)


def _convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)


def _layers(
    block: type[Block] | type[PreActivationBlock], blocks: int, channels: Sequence[int]
) -> dict[str, nn.Module]:
    """layer1 to layer3 of so many blocks; channels: the stem's, then the layers'."""
    layers: dict[str, nn.Module] = {}
    for number in (1, 2, 3):
        before, after = channels[number - 1 : number + 1]
        first = block(before, after, stride=1 if number == 1 else 2)
        others = [block(after, after, stride=1) for _ in range(blocks - 1)]
        layers[f"layer{number}"] = nn.Sequential(first, *others)
    return layers


def _network(parts: dict[str, nn.Module], channels: int, classes: int, dropout: float) -> nn.Module:
    """The parts, a mean over all places, dropout and a linear layer."""
    network = nn.Sequential(
        OrderedDict(
            **parts,
            pooled=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            dropout=nn.Dropout(dropout),
            classifier=nn.Linear(channels, classes),
        )
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
