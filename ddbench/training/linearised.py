"""A network linearised in its weights: features at the base, and the directional derivative of the logits.

``o(x) = J(x) delta`` with ``J`` the Jacobian of the logits in the flat weights at the base (without the base's logits).
Both maps are differentiable in x, for networks whose activations have a second derivative.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
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
        student: no norm that has statistics, no dropout.
        tangent_of_last: whether the last layer's weights (not its biases) have a tangent; where they have none, they
            are expected to be solved for in closed form.
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

    def modules(self) -> list[tuple[str, nn.Module]]:
        """Names as in :meth:`parts`, and modules."""
        return list(self._net.module.named_modules())

    def parts(self, theta: Tensor) -> dict[str, Tensor]:
        """Weights by name, views of a flat vector ``(P,)``."""
        return self._net.unflatten(theta)

    def at(self, theta: Tensor, x: Tensor) -> AtPoint:
        """The Jacobian at weights ``(P,)`` and inputs ``(N, C, H, W)``, for many products; a chain of layers."""
        return AtPoint(self, theta, x)


@dataclass(frozen=True)
class _Layer:
    """A layer with weights: its input, and how that moves with the output of the layer before (None: it does not)."""

    name: str
    module: nn.Conv2d | nn.Linear
    x: Tensor
    moves: tuple[Tensor, Tensor] | None

    def map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self.module, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.module.stride, self.module.padding, self.module.dilation)


class AtPoint:
    """The Jacobian J of a chain of layers at one point; what its products have in common is computed once.

    A pull is a reverse pass through the kept graph. A push goes from layer to layer: with weights W and input a kept,
    an output moves by ``W(moved a) + dW(a)``; what lies between two layers is small, and moves by the gradient in its
    cotangent of its own reverse pass, which is linear in it.

    Attributes:
        features: at the point, ``(N, F)``, without a gradient.
    """

    def __init__(self, net: Linearised, theta: Tensor, x: Tensor) -> None:
        self._net, self._theta = net, theta.detach()
        self._leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            features, self._logits, self._layers = self._chain(x.detach())
        self.features = features.detach()

    def _chain(self, x: Tensor) -> tuple[Tensor, Tensor, list[_Layer]]:
        """Features, logits, and every layer with weights, in order."""
        layers: list[_Layer] = []
        outputs: list[Tensor] = []

        def record(name: str) -> Any:
            def hook(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
                (entered,), moves = inputs, None
                if outputs:
                    cotangent = torch.zeros_like(entered, requires_grad=True)
                    (pulled,) = torch.autograd.grad(entered, outputs[-1], cotangent, create_graph=True)
                    moves = (cotangent, pulled)
                layers.append(_Layer(name, module, entered.detach(), moves))
                outputs.append(output)

            return hook

        kinds = (nn.Conv2d, nn.Linear)
        modules = [(name, part) for name, part in self._net.modules() if isinstance(part, kinds)]
        hooks = [part.register_forward_hook(record(name)) for name, part in modules]
        try:
            features, logits = self._net.both(self._leaf, x)
        finally:
            for hook in hooks:
                hook.remove()
        return features, logits, layers

    def push(self, tangent: Tensor) -> Tensor:
        """``J tangent`` ``(N, C)`` of ``(P,)``; weights without a tangent do not count."""
        weights, moved = self._net.parts(self._theta), self._net.parts(tangent * self._net.mask)
        found: Tensor | None = None
        for layer in self._layers:
            own = layer.map(layer.x, moved[f"{layer.name}.weight"], moved.get(f"{layer.name}.bias"))
            if found is not None and layer.moves is not None:
                cotangent, pulled = layer.moves
                (entered,) = torch.autograd.grad(pulled, cotangent, found, retain_graph=True)
                own += layer.map(entered, weights[f"{layer.name}.weight"], None)
            found = own
        return cast(Tensor, found)

    def pull(self, cotangent: Tensor) -> Tensor:
        """``J^T cotangent`` ``(P,)``, 0 for weights without a tangent."""
        (found,) = torch.autograd.grad(self._logits, self._leaf, cotangent, retain_graph=True)
        return found * self._net.mask
