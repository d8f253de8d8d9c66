"""A small vision transformer with the sizes of DC-BENCH's (Dosovitskiy et al. 2021, pre-norm, class token)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.base import Student

_DROPOUT = 0.1


class Attention(nn.Module):
    """Multi-head self-attention with pre-norm: ``(N, T, width)`` to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # Written out because the fused attention of torch has no double backward.
        weights = (q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)).softmax(-1)
        mixed = (self.dropout(weights) @ v).transpose(1, 2).flatten(2)
        result: Tensor = self.dropout(self.out(mixed))
        return result


class FeedForward(nn.Module):
    """Pre-norm, one hidden layer as wide as the token: ``(N, T, width)`` to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(self.norm(x))))))
        return result


class ViT(Student):
    """At most 8x8 patches (4 px at 28 and 32 px), class token, learned positions, ``depth`` blocks, one linear layer.

    Images that are no multiple of the patch are padded with zeros, so that no pixel is lost.
    """

    def __init__(self, *, channels: int, size: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        patch = math.ceil(size / 8)
        side = math.ceil(size / patch)
        missing = side * patch - size
        self.padding = (missing // 2, missing - missing // 2) * 2
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, side * side + 1, width))
        self.dropout = nn.Dropout(_DROPOUT)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            self.blocks.append(Attention(width))
            self.blocks.append(FeedForward(width))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        x = self.patches(F.pad(x, self.padding)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(x + self.positions)
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.norm(x[:, 0])
        return result
