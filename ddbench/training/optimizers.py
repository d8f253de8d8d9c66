"""Optimisers by name: ours where it is enough, else torch's; what they have gathered, for checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddbench.registry import unknown
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.light import light
from ddbench.training.sgd import SGD


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """An optimiser of ``torch.optim`` by its lower-case name.

    Attributes:
        decay_vectors: False: no weight decay on 1-D parameters (biases, scales and shifts of norms).
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    decay_vectors: bool = True
    options: tuple[tuple[str, float], ...] = ()


Optimizer = torch.optim.Optimizer | SGD


def make_optimizer(parameters: Iterable[Tensor], settings: OptimizerSettings) -> Optimizer:
    """Build the optimiser: our SGD where that is all that is asked for, else torch's.

    Raises:
        UserError: no such optimiser in torch, one that does not take an option, or a number where it takes a switch.
    """
    tensors = list(parameters)
    split = bool(settings.weight_decay) and not settings.decay_vectors
    if settings.name == "sgd" and not settings.options and not split:
        return SGD(tensors, settings.lr, settings.momentum, settings.weight_decay)
    known = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
    if settings.name not in known:
        raise unknown("optimiser", settings.name, known, "--optimizer")
    kind = known[settings.name]
    accepted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": settings.lr}
    if settings.weight_decay or "weight_decay" in accepted:  # some decay by default
        options["weight_decay"] = settings.weight_decay
    if settings.momentum:
        options["momentum"] = settings.momentum
    options.update(settings.options)
    for name in options:
        if name not in accepted:
            raise UserError(f"--optimizer {settings.name} has no option {name!r}; it takes: {', '.join(accepted)}")
        options[name] = _of_kind(options[name], accepted[name].annotation, f"--optimizer {settings.name}: {name}")
    if settings.name in ("sgd", "adam", "adamw"):
        options["fused"] = True  # one kernel a tensor; the same arithmetic
    groups: Any = tensors
    if split:
        groups = [
            {"params": [one for one in tensors if one.ndim > 1]},
            {"params": [one for one in tensors if one.ndim <= 1], "weight_decay": 0.0},
        ]
    made: torch.optim.Optimizer = light(kind)(groups, **options)
    return made


def _of_kind(value: float, kind: Any, where: str) -> Any:
    """A number as the switch or whole number that an option is: torch's fused steps take no other."""
    if kind not in (bool, int) or type(value) is kind:
        return value
    if value % 1 or (kind is bool and value not in (0, 1)):
        raise UserError(f"{where}={value:g}: expected {'0 or 1' if kind is bool else 'a whole number'}")
    return kind(value)


def check_optimizer(
    parameters: Iterable[Tensor], settings: OptimizerSettings, device: torch.device | None = None
) -> None:
    """Take a step with zeros in place of the parameters, so that an optimiser that cannot is told before the work.

    Args:
        parameters: they stay as they are.
        device: where it will work; default: where they are.

    Raises:
        UserError: unknown, an option that it does not take, or a step that it cannot make with such parameters or with
            the gradient alone.
    """
    trial = [torch.zeros_like(one, device=device, requires_grad=True) for one in parameters]
    for one in trial:
        one.grad = torch.zeros_like(one)
    try:
        make_optimizer(trial, settings).step()
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        if memory_words(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--optimizer {settings.name}: {reason:.200}") from None


def optimizer_state(stepper: Optimizer, name: str) -> dict[str, Tensor]:
    """What an optimiser has gathered, as tensors named ``<name>.<...>``, for a checkpoint."""
    if isinstance(stepper, SGD):
        return stepper.state(name)
    return {
        f"{name}.{index}.{key}": torch.as_tensor(value)
        for index, entry in stepper.state_dict()["state"].items()
        for key, value in entry.items()
        if value is not None
    }


def load_optimizer_state(stepper: Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_state` gave.

    Raises:
        ValueError: it is of other parameters.
    """
    if isinstance(stepper, SGD):
        stepper.load_state(name, tensors)
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{name}."):
            index, _, entry = key.removeprefix(f"{name}.").partition(".")
            # torch keeps counters on the CPU, and would ask a GPU for each of them at every step
            state.setdefault(int(index), {})[entry] = (tensor.cpu() if entry == "step" else tensor).clone()
    check_gathered([one for group in stepper.param_groups for one in group["params"]], state)
    stepper.load_state_dict({**stepper.state_dict(), "state": state})


MOMENTUM = "momentum_buffer"
OF_A_PARAMETER = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", MOMENTUM, "square_avg", "acc_delta", "grad_avg", "sum"),
    *("ax", "prev", "step_size", "variance"),  # ASGD, Rprop, Adafactor of vectors
)


def check_gathered(parameters: Sequence[Tensor], state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Refuse what an optimiser has gathered of other parameters; torch takes it and fails at the next step.

    Raises:
        ValueError: a parameter that is not there, or another shape.
    """
    for index, entry in state.items():
        if not 0 <= index < len(parameters):
            raise ValueError(f"the optimiser's state of parameter {index} of {len(parameters)}")
        shape = parameters[index].shape
        for name, tensor in entry.items():
            if name in OF_A_PARAMETER and tensor.shape != shape:
                raise ValueError(f"{name} of parameter {index} has shape {list(tensor.shape)}, expected {list(shape)}")
