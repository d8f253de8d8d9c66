"""VGG11 in the size that DC's public code uses for small images."""

from __future__ import annotations

from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.names import counts_as_32
from ddbench.networks.norms import make_norm

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(Student):
    """Eight 3x3 convolutions with norm and ReLU, five max-pools, one linear layer.

    Below 32 px, pools that would leave one pixel for the next norm are left out: instance norm turns it into a
    constant and batch norm refuses it in a batch of one. Larger maps than the 1x1 of 32 px are averaged down.
    """

    def __init__(self, *, channels: int, size: int, classes: int, norm: str) -> None:
        super().__init__()
        padding = 1
        if counts_as_32(channels, size):
            padding, size = 3, 32
        layers: list[nn.Module] = []
        inputs = channels
        for stage, widths in enumerate(_STAGES):
            for width in widths:
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1 if stage else padding),
                    make_norm(norm, width),
                    nn.ReLU(),
                ]
                inputs = width
            if size >= 4 or stage == len(_STAGES) - 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        if size > 1:
            layers.append(nn.AdaptiveAvgPool2d(1))
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, classes)

    def features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.layers(x)
        return maps.flatten(1)
