"""A function of tensors, recorded once as a list of torch's operations and done again without modules and autograd.

On small images a sixth to a third of a step is not arithmetic: modules called, graphs of autograd made and walked. The
operations beneath are the same in every step, so :class:`Recording` writes them down during one call and repeats them:
the same kernels on the same numbers, hence the same bits. :class:`Repeated` does so for a function that is called
often, and trusts a recording only after its results were equal, bit for bit, to those of a plain call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ddbench.training.flat import drawing_modules

LARGEST = 2**28
"""Bytes that the operations of a call may make: beyond, calls cost little beside arithmetic, and are not recorded."""

BEFORE = 4
"""Plain calls with inputs of one form before a recording is made of the next: it takes as long as some of them."""

FORMS = 4
"""Forms of inputs of which recordings are kept."""

Function = Callable[..., Sequence["Tensor | None"]]


class NotRecordedError(Exception):
    """A call looked at a number, drew at random, or made too much: what it did may not be what the next one does."""


class _Recorder(TorchDispatchMode):
    """Keeps every operation of a call: ``(operation, arguments, named arguments, result)``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Mapping[str, Any], Any]] = []
        self.bytes = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, over a CPU second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:  # before it draws: the plain call must draw the same
            raise NotRecordedError(str(func))
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        if not all(isinstance(one, Tensor) or one is None for one in made):
            raise NotRecordedError(str(func))
        self.bytes += sum(one.numel() * one.element_size() for one in made if one is not None)
        if self.bytes > LARGEST:
            raise NotRecordedError(f"{self.bytes} bytes")
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Recording:
    """The operations of one call of a function.

    Tensors that the function computes with and that are not its inputs (weights, statistics of norms) are taken as they
    are at each repetition, and must stay the same objects; numbers and shapes are those of the recorded call.

    Args:
        function: of tensors, giving tensors or None; it must do the same operations at every call with inputs of this
            form. It may differentiate.
        inputs: of the recorded call.

    Attributes:
        results: what the recorded call gave.

    Raises:
        NotRecordedError: it looked at numbers in tensors, drew at random, or made more than :data:`LARGEST` bytes.
    """

    def __init__(self, function: Function, inputs: Sequence[Tensor]) -> None:
        with _Recorder() as recorder:
            self.results = list(function(*inputs))
        self._values: list[Any] = list(inputs)
        self._places: dict[int, int] = {id(one): place for place, one in enumerate(inputs)}
        self._count = len(self._values)
        self._constants: set[int] = set()
        program: list[tuple[Any, list[int], dict[str, Any], list[int], bool]] = []
        for operation, arguments, named, result in recorder.calls:
            if operation is torch.ops.aten.detach.default:  # without autograd it is the tensor itself
                self._places[id(result)] = self._place(arguments[0])
                continue
            taken = [self._argument(one, program) for one in arguments]
            if any(self._known(one) for one in named.values()):
                raise NotRecordedError(f"{operation}: a tensor by name")
            many = isinstance(result, tuple | list)
            given = [self._new(one) for one in (result if many else (result,))]
            program.append((operation, taken, dict(named), given, many))
        self._wanted = [None if one is None else self._place(one) for one in self.results]
        self._calls = self._with_ends(program)
        # what was made meanwhile is not kept, what it was made of is
        self._values = [value if place in self._constants else None for place, value in enumerate(self._values)]
        self._places.clear()

    def __call__(self, *inputs: Tensor) -> list[Tensor | None]:
        """The results for other inputs of the same form, detached."""
        values = self._values.copy()
        values[: self._count] = inputs
        with torch.no_grad():
            for operation, taken, named, given, many, over in self._calls:
                result = operation(*[values[place] for place in taken], **named)
                if many:
                    for place, one in zip(given, result, strict=True):
                        values[place] = one
                else:
                    values[given[0]] = result
                for place in over:
                    values[place] = None
        return [None if place is None else values[place] for place in self._wanted]

    def _known(self, one: Any) -> bool:
        """Whether an argument holds a tensor that is an input, or was made by the call."""
        if isinstance(one, tuple | list):
            return any(self._known(part) for part in one)
        return isinstance(one, Tensor) and id(one) in self._places

    def _argument(self, one: Any, program: list[tuple[Any, list[int], dict[str, Any], list[int], bool]]) -> int:
        """The place of an argument; lists of tensors are put together by a call of their own."""
        if isinstance(one, tuple | list) and self._known(one):
            program.append((_listed, [self._argument(part, program) for part in one], {}, [self._new(None)], False))
            return len(self._values) - 1
        return self._place(one)

    def _place(self, one: Any) -> int:
        """Where a value lies; what is not known yet is a constant."""
        if isinstance(one, Tensor) and id(one) in self._places:
            return self._places[id(one)]
        place = self._new(one)
        self._constants.add(place)
        return place

    def _new(self, one: Any) -> int:
        """A place of its own for a result; an operation in place gives back what lies somewhere already."""
        if isinstance(one, Tensor) and id(one) in self._places:
            return self._places[id(one)]
        self._values.append(one)
        if isinstance(one, Tensor):
            self._places[id(one)] = len(self._values) - 1
        return len(self._values) - 1

    def _with_ends(
        self, program: list[tuple[Any, list[int], dict[str, Any], list[int], bool]]
    ) -> list[tuple[Any, list[int], dict[str, Any], list[int], bool, list[int]]]:
        """Each call with the places that nothing reads after it, so that memory is free as early as in a plain call."""
        last: dict[int, int] = {}
        for number, (_, taken, _, given, _) in enumerate(program):
            last |= dict.fromkeys([*taken, *given], number)
        made = {place for *_, given, _ in program for place in given} - self._constants - set(self._wanted)
        return [
            (*call, [place for place in {*call[1], *call[3]} if place in made and last[place] == number])
            for number, call in enumerate(program)
        ]


def _listed(*parts: Any) -> list[Any]:
    return list(parts)


class Repeated:
    """A function of tensors whose calls with inputs of one form are recorded, checked and then repeated.

    Args:
        function: as :class:`Recording` wants it.
        state: tensors that a call changes in place (statistics of norms).
    """

    def __init__(self, function: Function, state: Sequence[Tensor] = ()) -> None:
        self._function, self._state = function, list(state)
        self._seen: dict[Any, int] = {}
        self._made: dict[Any, Recording] = {}

    def __call__(self, *inputs: Tensor) -> list[Tensor | None]:
        """What the function gives, to the bit."""
        form = tuple((one.shape, one.dtype, one.stride()) for one in inputs)
        count = self._seen[form] = self._seen.get(form, 0) + 1
        if count <= BEFORE or (form not in self._made and count > BEFORE + 1):
            return list(self._function(*inputs))
        if count == BEFORE + 1:
            return self._recorded(form, inputs)
        if count == BEFORE + 2:
            return self._checked(form, inputs)
        return self._made[form](*inputs)

    def _recorded(self, form: Any, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        before = [one.clone() for one in self._state]
        if len(self._made) < FORMS:
            try:
                made = self._made[form] = Recording(self._function, _copies(inputs))
                results, made.results = made.results, []
                return results
            except NotRecordedError:
                for one, was in zip(self._state, before, strict=True):
                    one.copy_(was)
        return list(self._function(*inputs))

    def _checked(self, form: Any, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """A plain call, after a repetition that must have come to the same bits, or is never used."""
        before = [one.clone() for one in self._state]
        repeated = [*self._made[form](*_copies(inputs)), *(one.clone() for one in self._state)]
        for one, was in zip(self._state, before, strict=True):
            one.copy_(was)
        results = list(self._function(*inputs))
        if not all(map(_same, repeated, [*results, *self._state])):
            del self._made[form]
        return results


def _copies(inputs: Sequence[Tensor]) -> list[Tensor]:
    """What a function may write into, where another call gets the inputs too."""
    return [one.clone() for one in inputs]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are equal to the bit, NaN and the sign of zero included."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = (each.detach().contiguous().reshape(-1) for each in (one, other))
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8)) if one.numel() else True


def recordable(net: nn.Module, device: torch.device) -> bool:
    """Whether every training step of a network is the same operations: modules of ddbench and torch, nothing drawn."""
    # what another package wrote may count its calls, or look at numbers only later on
    known = all(of_ours(type(part)) and not _hooked(part) for part in net.modules())
    return device.type == "cpu" and known and next(drawing_modules(net), None) is None


def of_ours(function: Any) -> bool:
    """Whether a class or function, or that of a ``functools.partial``, is one of ddbench or torch."""
    home = getattr(getattr(function, "func", function), "__module__", None) or ""
    return home.split(".")[0] in ("ddbench", "torch")


def _hooked(part: nn.Module) -> bool:
    """Whether somebody put a function of their own into a module."""
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or "forward" in vars(part)


class Gradients:
    """An objective whose call leaves its gradients in the parameters of a network.

    Args:
        objective: network inputs and targets -> loss (a scalar) and detached logits.
        repeat: whether its calls may be recorded (:func:`recordable`).
    """

    def __init__(self, net: nn.Module, objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], repeat: bool):
        self._parameters = [one for one in net.parameters() if one.requires_grad]
        self._objective = objective
        self._repeated = Repeated(self._descent, list(net.buffers())) if repeat else None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Detached loss and logits; the gradients take the place of those that were there."""
        for parameter in self._parameters:
            parameter.grad = None  # so that two gradients are not there at once
        value, logits, *gradients = self._descent(x, y) if self._repeated is None else self._repeated(x, y)
        assert value is not None
        assert logits is not None
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return value, logits

    def _descent(self, x: Tensor, y: Tensor) -> list[Tensor | None]:
        value, logits = self._objective(x, y)
        found = torch.autograd.grad(value, self._parameters, allow_unused=True)
        return [value.detach(), logits, *found]
