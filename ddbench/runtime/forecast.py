"""What a long command will take: units, operations, seconds, memory, disk; from rates that were measured here.

Whoever knows the work (experts, a distillation, an evaluation, a plan of cells) measures a few real steps of it and
gives a :class:`Forecast`; nothing is written where the work would write. Loads torch late.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import ceil
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A piece of the work that was done here.

    Attributes:
        what: which piece, e.g. ``step of mtt``.
        times: how often, within the seconds of the forecast.
        seconds: of one, on the clock.
        flops: floating-point operations of one, as torch counts them (matrix products and convolutions); None: unknown.
    """

    what: str
    times: int
    seconds: float
    flops: float | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a command will take.

    Attributes:
        what: the work in words.
        unit: what can be given to workers, e.g. ``expert``.
        all, done: how many there are, and how many of them are there already.
        seconds: of each unit that is left, for one worker that is alone on its device.
        flops: of all that is left; None: unknown.
        measured: what the seconds rest on.
        memory: bytes that one worker takes at its peak.
        free: bytes of the GPU's memory that a worker finds; None: it takes that of the machine.
        disk: bytes that are written; None: unknown.
        place: the folder that they go to.
        parts: workers that can share one unit; 1: none.
        means: by which they do.
        turns: how many of the units that are left each of several works has that follow each other; empty: it is one.
        device, threads: where it was measured, and with how many threads.
        notes: what is not in it.
    """

    what: str
    unit: str
    all: int
    done: int
    seconds: Sequence[float]
    flops: float | None
    measured: Sequence[Measured]
    memory: int
    disk: int | None
    place: str
    device: str
    threads: int
    parts: int = 1
    means: str = "torchrun"
    notes: Sequence[str] = ()
    turns: Sequence[int] = ()
    free: int | None = None

    def wall(self, workers: int) -> float:
        """Seconds on the clock with so many workers like this one: each takes the longest unit that nobody has yet.

        One unit that several can share is done so by as many as have a part, in whole parts: of ten, one of four has
        three; their messages are not counted. Of works that follow each other the next begins when all units of one
        are done.
        """
        if self.turns:
            ends = [0, *accumulate(self.turns)]
            works = [replace(self, seconds=self.seconds[begin:end], turns=()) for begin, end in pairwise(ends)]
            return sum(work.wall(workers) for work in works)
        if len(self.seconds) == 1:
            return self.seconds[0] * ceil(self.parts / min(workers, self.parts)) / self.parts
        busy = [0.0] * max(1, workers)
        for seconds in sorted(self.seconds, reverse=True):
            heapq.heapreplace(busy, busy[0] + seconds)
        return max(busy)

    def to_json(self, workers: Sequence[int]) -> dict[str, Any]:
        """Plain JSON; ``wall_seconds`` for each number of workers."""
        return {
            "what": self.what,
            "units": {"unit": self.unit, "all": self.all, "done": self.done, "left": self.all - self.done},
            "flops": self.flops,
            "measured": [vars(one) for one in self.measured],
            "device": self.device,
            "threads": self.threads,
            "wall_seconds": {str(count): round(self.wall(count), 3) for count in workers},
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "place": self.place,
            "shared_by": self.parts,
            "notes": list(self.notes),
        }


def added(works: Sequence[Forecast]) -> Forecast:
    """Works that follow each other in one command, as one.

    Args:
        works: at least one; of one unit, on one device, into one folder.
    """
    if len(works) == 1:
        return works[0]
    flops, disk = [one.flops for one in works], [one.disk for one in works]
    return replace(
        works[0],
        what="; then ".join(one.what for one in works),
        all=sum(one.all for one in works),
        done=sum(one.done for one in works),
        seconds=[seconds for one in works for seconds in one.seconds],
        flops=None if None in flops else sum(filter(None, flops)),
        measured=[piece for one in works for piece in one.measured],
        memory=max(one.memory for one in works),
        disk=None if None in disk else sum(filter(None, disk)),
        notes=list(dict.fromkeys(note for one in works for note in one.notes)),
        turns=[len(one.seconds) for one in works],
    )


def count_flops(step: Callable[[], object]) -> float:
    """Floating-point operations of a call by torch's own formulas, in matrix products and convolutions.

    Gradients and their gradients are counted too: torch's own mode, which also tells modules apart, cannot take those.
    """
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    total = 0.0

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            found = func(*args, **(kwargs or {}))
            formula = flop_registry.get(func._overloadpacket)
            if formula is not None:
                total += formula(*args, **(kwargs or {}), out_val=found)
            return found

    with Counter():  # type: ignore[no-untyped-call]
        step()
    return total


def clocked(step: Callable[[int], object], seconds: float, most: int, wait: Callable[[], object]) -> tuple[int, float]:
    """Call ``step(0)``, ``step(1)``, ... for some seconds; how often, and the seconds of one.

    Args:
        most: calls at most, at least 1.
        wait: returns when the device has done all that it was given.
    """
    wait()
    begin = now = time.perf_counter()
    times = 0
    while times < most and (not times or now - begin < seconds):
        step(times)
        wait()
        times, now = times + 1, time.perf_counter()
    return times, (now - begin) / times


def taken_memory(device: Any) -> int:
    """Bytes at the peak so far: of the GPU on one, else of this process."""
    from ddbench.runtime.resources import peak_memory

    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_reserved(device))
    return peak_memory()


def free_memory(device: Any) -> int | None:
    """Bytes of a GPU's memory that are free, or held by this process; None: it is none."""
    if device.type != "cuda":
        return None
    import torch

    return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def waiter(device: Any) -> Callable[[], None]:
    """A function that waits for the device."""
    if device.type != "cuda":
        return lambda: None
    import torch

    return lambda: torch.cuda.synchronize(device)
