"""What a run cost: wall and CPU seconds, peak memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def peak_memory() -> int:
    """Peak resident memory of this process in bytes (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def gpu_memory(device: str) -> dict[str, int]:
    """Most bytes of a GPU that tensors of this process had, for a cost record; of a CPU nothing.

    Args:
        device: as :func:`ddbench.runtime.device.describe` has it.
    """
    if not device.startswith("cuda"):
        return {}
    import torch

    most = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())]
    return {"peak_gpu_memory_bytes": max(most, default=0)}


PEAKS = ("peak_memory_bytes", "peak_gpu_memory_bytes")
"""Entries of a cost record of which several make one as their largest; the second is there on a GPU only."""


def peaks(device: str) -> dict[str, int]:
    """Both for a cost record.

    Args:
        device: as :func:`gpu_memory`, or a name such as ``cuda``.
    """
    return {"peak_memory_bytes": peak_memory(), **gpu_memory(device)}


def largest(costs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The peaks of several cost records as those of one; 0 bytes of the process where there are none."""
    found: dict[str, Any] = {PEAKS[0]: 0}
    for cost in costs:
        found |= {name: max(found.get(name, 0), cost[name]) for name in PEAKS if name in cost}
    return found


class Meter:
    """Wall and CPU seconds of this process since it was made, less its pauses, and those of earlier tries of the run.

    Args:
        earlier_wall, earlier_cpu: seconds of earlier tries.
    """

    def __init__(self, earlier_wall: float = 0.0, earlier_cpu: float = 0.0) -> None:
        self.earlier_wall = earlier_wall
        self.earlier_cpu = earlier_cpu
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    @property
    def wall(self) -> float:
        """Seconds on the clock, earlier tries included."""
        return self.earlier_wall + time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """CPU seconds, earlier tries included."""
        return self.earlier_cpu + time.process_time() - self._cpu

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is not counted."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wall += time.perf_counter() - wall
            self._cpu += time.process_time() - cpu

    def report(self, device: str, **more: Any) -> dict[str, Any]:
        """The cost record that is written beside a product."""
        return {
            "device": device,
            "cores": os.cpu_count(),
            "wall_seconds": round(self.wall, 3),
            "cpu_seconds": round(self.cpu, 3),
            **peaks(device),
            **more,
        }
