"""MLP, LeNet and AlexNet in the sizes that DC's public code uses for small images."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.names import counts_as_32
from ddbench.networks.norms import make_norm


class MLP(Student):
    """``depth`` linear layers with ReLU between them on the flattened image."""

    def __init__(self, *, channels: int, size: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        widths = [channels * size * size] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return x


class LeNet(Student):
    """LeNet-5 with ReLU and max pooling: two 5x5 convolutions, three linear layers.

    The convolutions take 28 px grey images with padding 2 and 32 px ones without, as in DC. Smaller images than 20 px
    are padded in both convolutions, from 64 px on the first one has stride 2 and padding 1, and larger maps than the
    5x5 of a 32 px image are averaged down to that. From 20 px on pools keep a last odd row and column, which nothing
    else would see.
    """

    def __init__(self, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        second = 2 if size < 20 else 0
        first = 2 if counts_as_32(channels, size) else second
        stride = 1
        if size >= 64:
            stride, first = 2, 1
        self.conv1 = nn.Conv2d(channels, 6, 5, stride=stride, padding=first)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=second)
        self.odd = size >= 20
        map_size = self._pooled((size + 2 * first - 5) // stride + 1)
        map_size = self._pooled(map_size + 2 * second - 4)
        self.shrink = nn.AdaptiveAvgPool2d(5) if map_size > 5 else nn.Identity()
        self.linear1 = nn.Linear(16 * min(map_size, 5) ** 2, 120)
        self.linear2 = nn.Linear(120, 84)
        self.classifier = nn.Linear(84, classes)

    def _pooled(self, map_size: int) -> int:
        return (map_size + self.odd) // 2

    def features(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, ceil_mode=self.odd)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, ceil_mode=self.odd)
        x = F.relu(self.linear1(self.shrink(x).flatten(1)))
        return F.relu(self.linear2(x))


class AlexNet(Student):
    """Five convolutions, three max-pools, one linear layer; larger maps than the 4x4 of 32 px are averaged down."""

    def __init__(self, *, channels: int, size: int, classes: int, norm: str) -> None:
        super().__init__()
        grey28 = counts_as_32(channels, size)
        map_size = 4 if grey28 else size // 8
        widths = [channels, 128, 192, 256, 192, 192]
        kernels = [(5, 4 if grey28 else 2), (5, 2), (3, 1), (3, 1), (3, 1)]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for index, (kernel, padding) in enumerate(kernels):
            self.convs.append(nn.Conv2d(widths[index], widths[index + 1], kernel, padding=padding))
            self.norms.append(make_norm(norm, widths[index + 1]))
        self.shrink = nn.AdaptiveAvgPool2d(4) if map_size > 4 else nn.Identity()
        self.classifier = nn.Linear(192 * min(map_size, 4) ** 2, classes)

    def features(self, x: Tensor) -> Tensor:
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))
            if index in (0, 1, 4):
                x = F.max_pool2d(x, 2)
        pooled: Tensor = self.shrink(x)
        return pooled.flatten(1)
