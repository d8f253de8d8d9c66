"""A CUDA device that is not there: what code for a GPU does wrong, seen on a machine that has none.

Within :func:`pretended_cuda` tensors on ``cuda`` are kept and computed by the CPU, under a tag that says where they
belong. What a GPU refuses is refused: tensors of two devices in one operation, a generator of the other device, numpy's
view of what lies on the device. Numbers are the CPU's to the last bit: what differs between devices is the code's.
Not seen: kernels, memory, speed, TF32, the compiler, the device's own random numbers, other processes and threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAME = "cuda:0"
_MOVES = {"aten::copy_", "aten::_copy_from", "aten::set_"}
_SCALARS = {"aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::index_put", "aten::index_put_"}
_INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index", "aten::_index_put_impl_"}
_EITHER = "either"
_SWEEP = 20_000


class Tags:
    """Where storages belong: ``cpu``, ``cuda``, or ``either`` for what a backward pass makes by itself."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[StorageWeakRef, str]] = {}

    def of(self, tensor: torch.Tensor) -> str:
        """The device of a tensor; one made before the pretence lies on the CPU."""
        storage = _storage(tensor)
        found = None if storage is None else self._kept.get(storage._cdata)
        return "cpu" if found is None else found[1]

    def put(self, tensor: torch.Tensor, kind: str) -> None:
        """Say where a tensor's storage belongs."""
        storage = _storage(tensor)
        if storage is None:
            return
        if len(self._kept) >= _SWEEP:
            self._kept = {key: one for key, one in self._kept.items() if not one[0].expired()}
        # the weak reference keeps the address from being given to another storage
        self._kept[storage._cdata] = (StorageWeakRef(storage), kind)


def _storage(tensor: torch.Tensor) -> Any:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()
    except NotImplementedError:  # sparse
        return None


def _tensors(*values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _refuse(what: str, kinds: list[str]) -> None:
    raise RuntimeError(f"{what}: expected all tensors to be on the same device, got {', '.join(kinds)}")


class _Operations(TorchDispatchMode):
    """Checks every operation, and tags what it gives."""

    def __init__(self, tags: Tags) -> None:
        super().__init__()
        self.tags = tags

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors(args, kwargs)
        kinds = [self.tags.of(one) for one in tensors]
        name = func._schema.name
        if "cuda" in kinds and "cpu" in kinds and name not in _MOVES:
            self._check(func, name, args, tensors, kinds)
        out = func(*args, **kwargs)
        kind = "cuda" if "cuda" in kinds else "cpu" if "cpu" in kinds else _EITHER
        known = {storage._cdata for storage in map(_storage, tensors) if storage is not None}
        for one in _tensors(out):
            storage = _storage(one)
            if storage is not None and (storage._cdata not in known or self.tags.of(one) == _EITHER):
                self.tags.put(one, kind)
        return out

    def _check(
        self, func: Any, name: str, args: tuple[Any, ...], tensors: list[torch.Tensor], kinds: list[str]
    ) -> None:
        scalars = torch.Tag.pointwise in func.tags or name in _SCALARS or "foreach" in name
        if name in _INDEXED:
            if self.tags.of(args[0]) == "cpu":
                _refuse(name, kinds)
            inside = {id(one) for one in _tensors(args[1])}
        else:
            inside = set()
        first = bool(tensors) and kinds[0] == "cpu" and func._schema.is_mutable
        for one, kind in zip(tensors, kinds, strict=True):
            if kind == "cpu" and id(one) not in inside and not (scalars and one.dim() == 0 and not first):
                _refuse(name, [f"{kind}{list(tensor.shape)}" for tensor, kind in zip(tensors, kinds, strict=True)])


class _Move(torch.autograd.Function):
    """A copy on the other device; its gradient goes back to where the tensor was."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: torch.Tensor, tags: Tags, kind: str) -> torch.Tensor:
        moved = tensor.clone()
        tags.put(moved, kind)
        return moved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, Tags, str], output: torch.Tensor) -> None:
        ctx.tags, ctx.back = inputs[1], inputs[1].of(inputs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gradient = gradients[0]
        moved = gradient if ctx.tags.of(gradient) == ctx.back else _Move.apply(gradient, ctx.tags, ctx.back)
        return moved, None, None


class _Calls(TorchFunctionMode):
    """Gives calls that name a device the CPU instead, and answers where a tensor is."""

    def __init__(self, tags: Tags) -> None:
        super().__init__()
        self.tags = tags

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        answer = self._answer(func, args)
        if answer is not None:
            return answer
        name = getattr(func, "__name__", "")
        if func is torch.Tensor.to:
            return self._to(args, kwargs)
        if func in (torch.Tensor.cuda, torch.Tensor.cpu):
            return self._moved(args[0], name)
        wanted = None if func is torch._C._nn._parse_to else kwargs.get("device")
        if wanted is not None:
            kwargs["device"] = torch.device("cpu")
        inputs = _tensors(args, kwargs)
        self._check_generator(name, kwargs.get("generator"), wanted, inputs)
        out = func(*args, **kwargs)
        if wanted is not None:
            return self._moved(out, torch.device(wanted).type) if isinstance(out, torch.Tensor) else out
        if not inputs:
            for one in _tensors(out):
                if self.tags.of(one) == _EITHER:
                    self.tags.put(one, "cpu")
        return out

    def _answer(self, func: Any, args: tuple[Any, ...]) -> Any:
        tensor = torch.Tensor
        if func == tensor.device.__get__:  # type: ignore[attr-defined]
            return torch.device(NAME) if self.tags.of(args[0]) == "cuda" else None
        if func == tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return self.tags.of(args[0]) == "cuda"
        if func == tensor.is_cpu.__get__:  # type: ignore[attr-defined]
            return self.tags.of(args[0]) != "cuda"
        if func in (tensor.numpy, tensor.__array__) and self.tags.of(args[0]) == "cuda":
            raise TypeError(f"can't convert {NAME} device type tensor to numpy")
        if func is torch._has_compatible_shallow_copy_type:
            return self.tags.of(args[0]) == self.tags.of(args[1])
        return None

    def _to(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        tensor, *rest = args
        others = dict(kwargs)
        copy = others.pop("copy", False)
        if rest and isinstance(rest[0], torch.Tensor):
            device, dtype = torch.device(self.tags.of(rest[0])), rest[0].dtype
        else:
            device, dtype, _, _ = torch._C._nn._parse_to(*rest, **others)
        made = tensor if dtype is None else torch.Tensor.to(tensor, dtype)
        made = made if device is None else self._moved(made, device.type)
        return made.clone() if copy and made is tensor else made

    def _moved(self, tensor: torch.Tensor, kind: str) -> torch.Tensor:
        before = self.tags.of(tensor)
        if before == kind:
            return tensor
        if before == _EITHER:
            self.tags.put(tensor, kind)
            return tensor
        made: torch.Tensor = _Move.apply(tensor, self.tags, kind)  # type: ignore[no-untyped-call]
        return made

    def _check_generator(self, name: str, generator: Any, wanted: Any, inputs: list[torch.Tensor]) -> None:
        if generator is None:
            return
        kinds = [torch.device(wanted).type] if wanted is not None else [self.tags.of(one) for one in inputs]
        if "cuda" in kinds:
            raise RuntimeError(f"{name}: expected a 'cuda' device type for generator but found 'cpu'")


@contextlib.contextmanager
def pretended_cuda() -> Iterator[None]:
    """Within the block this process, and this thread alone, has one CUDA device, ``cuda:0``."""
    tags = Tags()
    calls = _Calls(tags)
    run_backward: Callable[..., Any] = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def backward(*args: Any, **kwargs: Any) -> Any:
        with calls:  # which a call of backward() leaves
            return run_backward(*args, **kwargs)

    def quiet(optimizer: torch.optim.Optimizer) -> None:
        """Nothing is captured in a graph here."""

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu", *args, **kwargs)

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda device=None: None,
        "get_device_name": lambda device=None: "no device, pretended on the CPU",
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None,
        "max_memory_reserved": lambda device=None: 2**20,
        "memory_reserved": lambda device=None: 2**20,
        "max_memory_allocated": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (2**33, 2**33),
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", backward))
        stack.enter_context(mock.patch.object(torch, "autocast", Autocast))
        stack.enter_context(mock.patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", quiet))
        stack.enter_context(_Operations(tags))
        stack.enter_context(calls)
        yield
