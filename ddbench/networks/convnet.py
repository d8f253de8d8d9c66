"""The ConvNet family: the default student of the field (Gidaris and Komodakis 2018, as in Zhao et al.'s DC)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.names import counts_as_32
from ddbench.networks.norms import make_norm
from ddbench.networks.pooling import average_pool

SOFTPLUS_BETA = 60.0
"""Sharpness of ``softplus(beta x) / beta``: a ReLU with a second derivative, as RCIG has it."""


class ConvBlock(nn.Module):
    """3x3 convolution, norm, activation: ``(N, C_in, H, H)`` to ``(N, C_out, H', H')``."""

    def __init__(self, inputs: int, width: int, norm: str, activation: str, size: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, 3, padding=padding)
        self.norm = make_norm(norm, width, size)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "sigmoid":
            return x.sigmoid()
        if self.activation == "softplus":
            return F.softplus(x, beta=SOFTPLUS_BETA)
        if self.activation == "leaky":
            return F.leaky_relu(x, 0.01)
        return F.silu(x)


class ConvNet(Student):
    """``depth`` blocks of ``conv - norm - activation - pool``, flatten, one linear layer.

    All blocks have the same width, or with ``doubling`` each has twice that of the one before.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        depth: int,
        width: int,
        norm: str,
        activation: str,
        pooling: str,
        doubling: bool = False,
    ) -> None:
        super().__init__()
        padding = 1
        if counts_as_32(channels, size):
            padding, size = 3, 32
        self.pooling = pooling
        self.stages = nn.ModuleList()
        inputs = channels
        for index in range(depth):
            outputs = width * 2**index if doubling else width
            self.stages.append(ConvBlock(inputs, outputs, norm, activation, size, 1 if index else padding))
            size = size if pooling == "none" else size // 2
            inputs = outputs
        self.classifier = nn.Linear(inputs * size * size, classes)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooling == "avg":
            return average_pool(x)
        return F.max_pool2d(x, 2) if self.pooling == "max" else x

    def blocks(self, x: Tensor) -> list[Tensor]:
        """The output ``(N, width, H, H)`` of every block, after the activation and before the pooling."""
        outputs: list[Tensor] = []
        for stage in self.stages:
            outputs.append(cast(Tensor, stage(self._pool(outputs[-1]) if outputs else x)))
        return outputs

    def blocks_and_features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """:meth:`blocks` and :meth:`features` of one forward pass."""
        blocks = self.blocks(x)
        return blocks, self._pool(blocks[-1]).flatten(1)

    def features(self, x: Tensor) -> Tensor:
        return self.blocks_and_features(x)[1]
