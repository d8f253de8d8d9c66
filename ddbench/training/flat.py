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

from ddbench.runtime.seeds import isolated


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


_DROPPING = {"StochasticDepth": "p", "MultiheadAttention": "dropout", "PatchDropout": "prob"}
"""Other modules than dropout that draw in training, and where they keep the probability; by name, as several libraries
have them."""


def drawing_modules(net: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules that draw at random in training, each with its attribute that holds the probability (then above 0).

    A number in an attribute with "drop" in its name (``drop_prob``, ``drop_rate``, ``attention_dropout``) counts as
    one: so networks keep it that call dropout as a function. What draws otherwise, :func:`draws` finds.
    """
    for module in net.modules():
        own = "p" if isinstance(module, _DropoutNd) else _DROPPING.get(type(module).__name__)
        for name, value in list(vars(module).items()):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and value > 0 and (name == own or "drop" in name):
                yield module, name


def draws(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network draws at random in training: it moves torch's generator, or answers one input in two ways.

    Asked of a copy, with two images of noise ``(C, H, W)``; the generators are left as they were.
    """
    device = next(net.parameters()).device
    answers: list[Tensor] = []
    with isolated(0, "draws"), torch.no_grad():
        copied = copy.deepcopy(net).train()
        x = torch.randn(2, *shape, device=device, dtype=next(net.parameters()).dtype)
        for _ in range(2):
            before = _generators(device)
            answers.append(copied(x))
            if not all(map(torch.equal, before, _generators(device))):
                return True
    first, second = answers
    return not torch.allclose(first, second, rtol=1e-4, equal_nan=True)


def refuses_one(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network cannot be trained on a single image ``(C, H, W)``: batch norm of maps of one pixel.

    Asked of a copy; the generators are left as they were.
    """
    first = next(net.parameters())
    with isolated(0, "one"), torch.no_grad():
        copied = copy.deepcopy(net).train()
        try:
            copied(torch.zeros(1, *shape, device=first.device, dtype=first.dtype))
        except ValueError as error:  # torch says "Expected more than 1 value per channel when training"
            return "more than 1 " in str(error)
    return False


def _generators(device: torch.device) -> list[Tensor]:
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.random.get_rng_state(), *own]


class FlatNet:
    """``net(theta, x)``: logits of a network whose weights are views of ``theta``.

    The module is copied and put in training mode. Batch norms use the statistics of the batch and keep none
    (running statistics are not part of a trajectory); dropout and the dropping of paths are off as far as
    :func:`drawing_modules` knows them, because the reverse sweep of the inner loop must see the very function that the
    forward sweep saw.

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
