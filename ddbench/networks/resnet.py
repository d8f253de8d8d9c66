"""ResNet18 for small images (DC's public code): 3x3 stem without pooling, and the variant with pools for strides."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.norms import make_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: ``(N, inputs, H, H)`` to ``(N, width, H', H')``.

    Args:
        halve: halve the map, by stride or, with ``pooled``, by a 2x2 average pool behind a convolution of stride 1.
    """

    def __init__(self, inputs: int, width: int, norm: str, *, halve: bool, pooled: bool) -> None:
        super().__init__()
        stride = 2 if halve and not pooled else 1
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = make_norm(norm, width)
        self.pool = nn.AvgPool2d(2) if halve and pooled else nn.Identity()
        self.shortcut = nn.Sequential()
        if halve or inputs != width:
            self.shortcut.append(nn.Conv2d(inputs, width, 1, stride=stride, bias=False))
            self.shortcut.append(self.pool)
            self.shortcut.append(make_norm(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pool(F.relu(self.norm1(self.conv1(x))))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(Student):
    """Stem, four stages of two blocks, one linear layer.

    With strides, the map is averaged to 1x1. With ``pooled`` strides (DC's ``_AP``) it goes to the classifier as it is,
    averaged down to the 4x4 of 32 px where it is larger. A halving that would leave one pixel for the next norm is
    left out (8 to 15 px): instance norm turns it into a constant and batch norm refuses it in a batch of one.
    """

    def __init__(self, *, channels: int, size: int, classes: int, norm: str, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.norm = make_norm(norm, 64)
        self.stages = nn.Sequential()
        inputs = 64
        for width in (64, 128, 256, 512):
            halved = size // 2 if pooled else (size + 1) // 2
            halve = width > 64 and halved > 1
            self.stages.append(BasicBlock(inputs, width, norm, halve=halve, pooled=pooled))
            self.stages.append(BasicBlock(width, width, norm, halve=False, pooled=pooled))
            inputs, size = width, halved if halve else size
        end = min(size, 4) if pooled else 1
        self.shrink = nn.AdaptiveAvgPool2d(end) if size > end else nn.Identity()
        self.classifier = nn.Linear(512 * end * end, classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.shrink(self.stages(F.relu(self.norm(self.conv(x)))))
        return maps.flatten(1)
