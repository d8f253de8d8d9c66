"""A network as a function of one flat weight vector, in ``module.parameters()`` order.

Gradients are then taken with respect to one tensor, and vectors compare with those of the public
trajectory-matching code (``specs``: every parameter flattened row-major, one after the other).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd


def flatten_parameters(module: nn.Module) -> Tensor:
    """A *copy* of all parameters as one vector ``(P,)``: later training cannot change it."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).clone()


def load_flat(module: nn.Module, vector: Tensor) -> None:
    """Copy a vector ``(P,)`` into the parameters.

    Raises:
        ValueError: the length is not the module's number of parameters.
    """
    sizes = [parameter.numel() for parameter in module.parameters()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {tuple(vector.shape)} for {sum(sizes)} parameters")
    with torch.no_grad():
        for parameter, part in zip(module.parameters(), vector.split(sizes), strict=True):
            parameter.copy_(part.reshape(parameter.shape))


def flatten_buffers(module: nn.Module) -> Tensor:
    """A copy of all floating-point buffers (batch-norm statistics) as one float32 vector ``(B,)``, B may be 0."""
    floats = [buffer.detach().reshape(-1).float() for buffer in module.buffers() if buffer.is_floating_point()]
    return torch.cat(floats).clone() if floats else torch.zeros(0)


def load_flat_buffers(module: nn.Module, vector: Tensor) -> None:
    """Copy what :func:`flatten_buffers` gave back into the module.

    Raises:
        ValueError: the length is not that of the module's floating-point buffers.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    sizes = [buffer.numel() for buffer in buffers]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a vector of shape {tuple(vector.shape)} for {sum(sizes)} numbers in buffers")
    for buffer, part in zip(buffers, vector.split(sizes), strict=True):
        buffer.copy_(part.reshape(buffer.shape))


_DROPPING = {"StochasticDepth": "p", "DropPath": "drop_prob", "MultiheadAttention": "dropout"}
"""Other modules than dropout that draw in training, and where they keep the probability; by name, as several libraries
have them."""


def drawing_modules(net: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules that draw at random in training, each with its attribute that holds the probability (then above 0)."""
    for module in net.modules():
        attribute = "p" if isinstance(module, _DropoutNd) else _DROPPING.get(type(module).__name__)
        if attribute is not None and getattr(module, attribute, None):
            yield module, attribute


class FlatNet:
    """``net(theta, x)``: logits of a network whose weights are views of ``theta``.

    The module is copied and put in training mode. Batch norms use the statistics of the batch and keep none
    (running statistics are not part of a trajectory); dropout and the dropping of paths are off, because the reverse
    sweep of the inner loop must see the very function that the forward sweep saw.

    Args:
        module: any network.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).train()
        for part in self.module.modules():
            if isinstance(part, _BatchNorm):
                part.track_running_stats = False
                part.running_mean = part.running_var = part.num_batches_tracked = None
        for part, probability in drawing_modules(self.module):
            setattr(part, probability, 0.0)
        named = list(self.module.named_parameters())
        self.names = [name for name, _ in named]
        self.shapes = [tuple(parameter.shape) for _, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        self.size = sum(self.sizes)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> FlatNet:
        """Move the constants of the network (it has no weights of its own in use)."""
        self.module.to(device=device, dtype=dtype)
        return self

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Named views of ``theta`` ``(P,)``."""
        parts = theta.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """Logits ``(N, K)`` for images ``(N, C, H, W)``."""
        result: Tensor = functional_call(self.module, self.unflatten(theta), (x,))
        return result
