"""Whether a student can be differentiated twice: tried on two images before a method that needs it starts.

Fused attention has no second derivative in torch; its plain form ("math") has one. Dropout in it hides that, since
torch then takes the plain form by itself. ``Hardsigmoid`` has none at all, and that of torch's weight norm is wrong
without a word; the norm of a zero vector, as Swin-V2 has it of padding, gives NaN
(``benchmarks/second_derivatives.md``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.names import default_student
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.seeds import isolated
from ddbench.training.flat import FlatNet, draws, flatten_parameters, refuses_one


@contextmanager
def plain_attention() -> Iterator[None]:
    """Let torch's attention take its plain form, which has all derivatives, inside."""
    from torch.nn.attention import SDPBackend, sdpa_kernel  # slow to import

    with sdpa_kernel(SDPBackend.MATH):
        yield


def check_steady(net: nn.Module, shape: tuple[int, ...], student: str) -> None:
    """Refuse a network that draws at random even where all known dropout is off.

    Args:
        shape: ``(C, H, W)``.

    Raises:
        UserError: names the student.
    """
    if draws(FlatNet(net).module, shape):
        raise UserError(
            f"--student {student}: it draws at random in training in a way that cannot be switched off, so that the "
            f"gradient through its training would be that of another network; use {default_student(shape[-1])}"
        )


def check_batches(batch: int, images: int, net: nn.Module, shape: tuple[int, ...], student: str) -> None:
    """Refuse a batch size that leaves one image for a network that cannot be trained on one.

    Args:
        batch: images a step of the student; 0: all.
        images: how many the synset has.
        shape: ``(C, H, W)``.

    Raises:
        UserError: names the flag.
    """
    if 0 < batch < images and (batch == 1 or images % batch == 1) and refuses_one(FlatNet(net).module, shape):
        raise UserError(
            f"--batch-syn {batch}: of {images} images one is left for a batch, and {student} cannot be trained on one "
            "image (a norm of one value); use --batch-syn 0 or another student"
        )


def check_twice(
    net: nn.Module, shape: tuple[int, ...], classes: int, student: str, method: str, *, by_images: bool = False
) -> bool:
    """Refuse a network whose gradient in the weights cannot be differentiated in weights and images.

    Args:
        net: on the device where the method runs.
        shape: ``(C, H, W)``.
        method: its title, for the message.
        by_images: the gradient is that in the images, differentiated in the weights, as a penalty of it is: then what
            lies below the first weights is differentiated twice too.

    Returns:
        Whether it has a second derivative under :func:`plain_attention` only.

    Raises:
        UserError: names the student and the layer.
    """
    fault = _fault(net, shape, classes, by_images)
    if fault is None:
        return False
    with plain_attention():
        fault = _fault(net, shape, classes, by_images)
        if fault is None:
            return True
        layer = _guilty(net, shape)
    reason = (str(fault).strip().splitlines() or [""])[0].split(". ")[0][:160]
    raise UserError(
        f"--student {student}: {method} differentiates its gradient, which it does not allow"
        f"{f' (layer {layer})' if layer else ''}: {reason}; use {default_student(shape[-1])}"
    )


def attention_of(
    net: nn.Module, shape: tuple[int, ...], classes: int, student: str, method: str
) -> AbstractContextManager[None]:
    """The form of attention that a penalty of a network's gradient in the images is learned under: torch's choice, or
    the plain one.

    Args:
        net, shape, classes, student, method: as :func:`check_twice`.

    Raises:
        UserError: it cannot be differentiated twice.
    """
    return plain_attention() if check_twice(net, shape, classes, student, method, by_images=True) else nullcontext()


WRONG = {"WeightNormInterfaceBackward0": "torch's weight norm"}
"""Operations whose second derivative torch gives wrongly and without a word, and what they are called in messages."""


def _fault(net: nn.Module, shape: tuple[int, ...], classes: int, by_images: bool) -> Exception | None:
    """What goes wrong when the gradient of a loss of two images is differentiated: that in the weights by weights and
    images, or that in the images by the weights."""
    flat = FlatNet(net)
    with isolated(0, "twice"):
        theta = flatten_parameters(net).requires_grad_()
        x = torch.randn(2, *shape, device=theta.device).to(theta.dtype).requires_grad_()
        labels = torch.arange(2, device=theta.device) % classes
        try:
            logits = flat(theta, x)
            wrong = _wrong(logits)
            first, second = (x, [theta]) if by_images else (theta, [theta, x])
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), first, create_graph=True)
            pulls = torch.autograd.grad((gradient * torch.randn_like(gradient)).sum(), second)
        except (RuntimeError, NotImplementedError) as error:
            if memory_words(error):
                raise
            return error
    if bool(gradient.isfinite().all()) and not all(bool(pull.isfinite().all()) for pull in pulls):
        return RuntimeError("its second derivative is not finite, though its gradient is")
    return RuntimeError(f"the second derivative of {wrong} is wrong in torch {torch.__version__}") if wrong else None


def _wrong(output: Tensor) -> str | None:
    """An operation in the graph of a tensor whose second derivative is wrong, or None."""
    todo, seen = [output.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in WRONG:
            return WRONG[node.name()]
        todo += [after for after, _ in node.next_functions]
    return None


def _guilty(net: nn.Module, shape: tuple[int, ...]) -> str:
    """Name and class of the innermost module that alone has no finite second derivative, or an empty string."""
    module = FlatNet(net).module
    seen: dict[str, tuple[Any, ...]] = {}

    def watch(path: str, part: nn.Module) -> Any:
        return part.register_forward_pre_hook(lambda _, inputs: seen.update({path: inputs}))

    hooks = [watch(path, part) for path, part in module.named_modules() if path]
    with isolated(0, "twice"), torch.no_grad():
        first = next(module.parameters())
        module(torch.randn(2, *shape, device=first.device).to(first.dtype))
    for hook in hooks:
        hook.remove()
    for path, part in sorted(module.named_modules(), key=lambda item: -item[0].count(".")):
        inputs = seen.get(path, ())
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and not _twice(part, inputs[0]):
            return f"{path}, {type(part).__name__}"
    return ""


def _twice(part: nn.Module, x: Tensor) -> bool:
    x = x.detach().clone().requires_grad_()
    try:
        found = part(x * 1)  # a part that works in place must not meet a leaf
        if not isinstance(found, Tensor) or not found.requires_grad:
            return True
        (gradient,) = torch.autograd.grad(found.square().sum(), x, create_graph=True, allow_unused=True)
        if gradient is not None and gradient.requires_grad:
            (pull,) = torch.autograd.grad(gradient.sum(), x, allow_unused=True)
            return pull is None or not bool(gradient.isfinite().all()) or bool(pull.isfinite().all())
    except RuntimeError:
        return False
    return True
