"""The processes that share one computation: ``torchrun --nproc-per-node N -m ddbench distill ...``. Loads torch late.

Every process (*rank*) runs the same program with the same seeds. Of a sum it computes its share of the terms, and the
sums of all are added up, so that all go on from the same numbers. Rank 0 *leads*: it writes files and tells progress.
A process that is alone has all shares, and nothing is sent: code that uses :class:`Ranks` asks nowhere how many there
are. Between CPUs gloo carries the numbers, between GPUs NCCL.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.numbers import whole

if TYPE_CHECKING:
    from torch import Tensor

MARK = "TORCHELASTIC_RUN_ID"
"""What torchrun tells its processes beside their numbers; others tell numbers too, for work that is not shared."""

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for another: while one validates or writes, the others wait."""

PROCESSES = "processes"
"""How many ranks there are, in a run's record; a run of one process says nothing."""

LOST = "another process of this run ended or does not answer; typed again, the same torchrun goes on where it was"


@dataclass(frozen=True)
class Ranks:
    """The ranks of a computation; as it is, a process that is alone.

    Attributes:
        rank: number of this one, from 0.
        world: how many there are.
        local: number of this one on its machine.
        beside: how many there are on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and tells."""
        return self.rank == 0

    def record(self) -> dict[str, int]:
        """What a run's record says of them: nothing where there is one."""
        return {PROCESSES: self.world} if self.world > 1 else {}

    def share(self, terms: int, rows: int = 1) -> slice:
        """This rank's of some terms of ``rows`` rows each: shares follow each other and differ by a term at most."""
        return slice(self.rank * terms // self.world * rows, (self.rank + 1) * terms // self.world * rows)

    def device(self, name: str) -> str:
        """The device of this rank, where ``name`` is what the user asked for."""
        return name

    def sum(self, *tensors: Tensor) -> list[Tensor]:
        """Each tensor summed over the ranks; shapes, types and devices are those of all ranks."""
        return list(tensors)

    def placed(self, part: Tensor, terms: int, rows: int = 1) -> Tensor:
        """The rows of this rank's :meth:`share` at their place, where the others' are 0: ``(terms * rows, ...)``.

        Their :meth:`sum` has the rows of all.
        """
        if self.world == 1:
            return part
        whole = part.new_zeros((terms * rows, *part.shape[1:]))
        whole[self.share(terms, rows)] = part
        return whole

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the numbers of the one that leads, in place."""

    def agree(self, number: int, words: str) -> None:
        """Make sure that all ranks have the same number.

        Raises:
            UserError: they have not; ``words`` says what that means.
        """

    @contextmanager
    def together(self, kind: type[Exception]) -> Iterator[None]:
        """What one rank raises inside, all raise at its end; no rank waits for one that stopped."""
        yield

    @contextmanager
    def first(self) -> Iterator[None]:
        """What the one that leads does first, and the others after it: they find what it made."""
        yield


ALONE = Ranks()


class Joined(Ranks):
    """Ranks that talk through ``torch.distributed``.

    Every method of theirs that sends something raises :class:`UserError` where another rank is gone.
    """

    def device(self, name: str) -> str:
        """``cuda:<local>`` for a GPU.

        Raises:
            UserError: one GPU is asked for by its number, or there are fewer than processes.
        """
        import torch

        if name.startswith("cuda:") and self.beside > 1:
            raise UserError(
                f"--device {name} with {self.beside} processes on this machine: each takes the GPU of its own number; "
                "use --device cuda"
            )
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found = name == "cuda" or (name == "auto" and there > 0)
        if found and 0 < there < self.beside:
            raise UserError(
                f"torchrun: {self.beside} processes on this machine, which has {there} CUDA device(s), one for each: "
                f"use --nproc-per-node {there}, or --device cpu"
            )
        return f"cuda:{self.local}" if found else name

    def sum(self, *tensors: Tensor) -> list[Tensor]:
        """One message for all of them."""
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with _answers():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """One message a tensor."""
        import torch.distributed as dist

        with _answers():
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def agree(self, number: int, words: str) -> None:
        """As of all ranks."""
        numbers = self._gathered(number)
        if len(set(numbers)) > 1:
            raise UserError(f"{words} ({', '.join(map(str, numbers))} in rank 0 to {self.world - 1})")

    @contextmanager
    def together(self, kind: type[Exception]) -> Iterator[None]:
        """One message."""
        raised = None
        try:
            yield
        except kind as error:
            raised = str(error)
        for text in self._gathered(raised):
            if text is not None:
                raise kind(text)

    @contextmanager
    def first(self) -> Iterator[None]:
        """The others wait before, the one that leads calls them after."""
        if not self.leads:
            self._gathered(None)
        yield
        if self.leads:
            self._gathered(None)

    def _gathered(self, value: Any) -> list[Any]:
        """A small value of each rank."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with _answers():
            dist.all_gather_object(found, value)
        return found


@contextmanager
def _answers() -> Iterator[None]:
    """Talking to the other ranks: where one is gone, that is the one thing to say."""
    try:
        yield
    except RuntimeError as error:  # of gloo, NCCL and the store; torch has no narrower common name for them
        if memory_words(error):
            raise
        raise UserError(LOST) from error


def launched() -> int:
    """How many processes torchrun started for this computation; 1 without torchrun."""
    return _number("WORLD_SIZE", 1) if MARK in os.environ else 1


def leads() -> bool:
    """Whether this process writes and tells: it is alone, or rank 0."""
    return launched() == 1 or _number("RANK", 0) == 0


def join() -> Ranks:
    """The ranks that torchrun started, once all of them are there; :data:`ALONE` without torchrun.

    Raises:
        UserError: this torch cannot do it, or a rank does not come.
    """
    if launched() == 1:
        return ALONE
    import torch
    import torch.distributed as dist

    if not dist.is_available():
        raise UserError("torchrun: this build of torch has no torch.distributed; run without torchrun")
    if not dist.is_initialized():
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        with _answers():
            dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
        atexit.register(_leave)
        threading.Thread(target=_end_with_launcher, args=(os.getppid(),), daemon=True).start()
    return Joined(
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        local=_number("LOCAL_RANK", 0),
        beside=_number("LOCAL_WORLD_SIZE", 1),
    )


def _end_with_launcher(launcher: int) -> None:
    """End this process when torchrun is gone: killed outright it leaves its processes, which would go on writing."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(1)


def tells() -> bool:
    """Whether this process tells why the computation ends: it is alone, or the first of the ranks to ask.

    What ends one rank ends all, and one line is enough.
    """
    if launched() == 1:
        return True
    with suppress(Exception):  # nobody can be asked: told twice is better than not told
        import torch.distributed as dist

        store = dist.TCPStore(  # type: ignore[attr-defined] # torch does not say that it is public, and documents it
            os.environ["MASTER_ADDR"], _number("MASTER_PORT", 0), is_master=False, timeout=timedelta(seconds=10)
        )
        return bool(store.add(f"ddbench/told/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1)
    return True


def _leave() -> None:
    import torch.distributed as dist

    with suppress(Exception):
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    found = whole(os.environ.get(name, ""))
    return default if found is None else found
