"""A network linearised in its weights: features at the base, and the directional derivative of the logits.

``o(x) = J(x) delta`` with ``J`` the Jacobian of the logits in the flat weights at the base (without the base's logits).
Both maps are differentiable in x, for networks whose activations have a second derivative.
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ddbench.networks.base import Student
from ddbench.training.flat import FlatNet

with warnings.catch_warnings():
    # Forward mode imports this at its first use, and torch 2.15 then warns about its own torch.jit.script.
    warnings.simplefilter("ignore", FutureWarning)
    import torch._decomp.decompositions_for_jvp


class _Both(nn.Module):
    """Features and logits of one pass."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.student.features(x)
        return features, self.student.classifier(features)


class Linearised:
    """A student as a function of flat weights, with its features.

    Args:
        student: no norm that has statistics, no dropout. tangent_of_last: whether the last layer's weights (not its
        biases) have a tangent; where they have none, they are
            expected to be solved for in closed form.
    """

    def __init__(self, student: Student, tangent_of_last: bool = False) -> None:
        self._net = FlatNet(_Both(student))
        mask = []
        for name, parameter in student.named_parameters():
            mask.append(torch.full((parameter.numel(),), float(tangent_of_last or name != "classifier.weight")))
        self.mask = torch.cat(mask)
        """1 for weights that have a tangent, float32 ``(P,)``."""
        self.last = [name for name, _ in student.named_parameters()].index("classifier.weight")

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Linearised:
        """Move the constants."""
        self._net.to(device, dtype)
        self.mask = self.mask.to(device=device, dtype=dtype)
        return self

    def last_slice(self) -> slice:
        """Where the last layer's weights lie in a flat vector."""
        start = sum(self._net.sizes[: self.last])
        return slice(start, start + self._net.sizes[self.last])

    def both(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(N, F)`` and logits ``(N, C)`` at weights ``(P,)``."""
        out = functional_call(self._net.module, self._net.unflatten(theta), (x,))
        return cast(tuple[Tensor, Tensor], out)

    def push(self, theta: Tensor, x: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(N, F)`` and ``J(x) tangent`` ``(N, C)``; differentiable in x."""
        primal, tangents = cast(Any, jvp(lambda weights: self.both(weights, x), (theta,), (tangent,)))
        return primal[0], tangents[1]

    def pull(self, theta: Tensor, x: Tensor, cotangent: Tensor) -> Tensor:
        """``J(x)^T cotangent`` ``(P,)``, 0 for weights without a tangent; not differentiable."""
        weights = theta.detach().requires_grad_()
        (found,) = torch.autograd.grad((self.both(weights, x.detach())[1] * cotangent).sum(), weights)
        return found * self.mask
