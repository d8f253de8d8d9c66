"""What every student offers."""

from __future__ import annotations

from torch import Tensor, nn


class Student(nn.Module):
    """A classifier of square images ``(N, channels, size, size)`` whose last layer is one linear layer.

    Subclasses register their layers in the order of DC's public classes, ``classifier`` last, so that flat parameter
    vectors recorded by that code have the same meaning here. Only AlexNet has its norms behind all its convolutions:
    the shapes of such vectors do not fit, where there are norms, and importers refuse them.
    """

    classifier: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """The input ``(N, F)`` of the last linear layer."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)``."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
