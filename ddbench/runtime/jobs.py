"""Independent jobs on several processes of this machine, each job tried again when its process dies.

A job is a picklable payload for one top-level function; it must be idempotent. Workers are spawned (no
forked threads or CUDA state) and live as long as there is work, so that torch is imported once in each.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ddbench.runtime.errors import UserError

ATTEMPTS = 3
"""A job whose process dies this often is given up."""


def run_jobs(
    target: str, shared: Any, payloads: Sequence[Any], workers: int, deadline: float | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield ``(index, result)`` of ``function(shared, payloads[index])`` as the jobs end, in any order.

    Args:
        target: ``"module:function"``.
        shared: sent once to each worker.
        workers: processes; 1 runs the jobs one after the other in this process.
        deadline: time on the monotonic clock at which unfinished jobs are stopped, whatever they do; with one, all jobs
            run in processes of their own.

    Raises:
        UserError: a job raised one, or its process died :data:`ATTEMPTS` times.
        RuntimeError: a job raised anything else (with its traceback as text).
    """
    if deadline is None and (workers <= 1 or len(payloads) <= 1):
        function = _resolve(target)
        for index, payload in enumerate(payloads):
            yield index, function(shared, payload)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(range(len(payloads)))[::-1]
    attempts = [0] * len(payloads)
    crew: list[_Worker] = []
    try:
        for _ in range(min(max(1, workers), len(payloads))):
            crew.append(_Worker(context, target, shared))
            crew[-1].give(waiting.pop(), payloads)
        busy = list(crew)
        while busy:
            ready = set(wait([worker.pipe for worker in busy], _left(deadline)))
            if not ready:  # the time is up
                return
            for worker in [one for one in busy if one.pipe in ready]:
                index = worker.index
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):  # the process died: its pipe closed
                    worker.stop()
                    attempts[index] += 1
                    if attempts[index] >= ATTEMPTS:
                        raise UserError(
                            f"a worker process died {ATTEMPTS} times on the same job (exit code "
                            f"{worker.process.exitcode}); it may lack memory: try fewer --workers"
                        ) from None
                    busy.remove(worker)
                    crew.remove(worker)
                    worker = _Worker(context, target, shared)
                    crew.append(worker)
                    busy.append(worker)
                    worker.give(index, payloads)
                    continue
                if kind == "user-error":
                    raise UserError(value)
                if kind == "error":
                    raise RuntimeError(f"a worker failed:\n{value}")
                if waiting:
                    worker.give(waiting.pop(), payloads)
                else:
                    busy.remove(worker)
                yield index, value
    finally:
        for worker in crew:
            worker.stop()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class _Worker:
    def __init__(self, context: Any, target: str, shared: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.index = -1
        self.process = context.Process(target=_serve, args=(theirs, target, shared, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, index: int, payloads: Sequence[Any]) -> None:
        self.index = index
        with contextlib.suppress(OSError):  # it died since: its closed pipe tells run_jobs
            self.pipe.send(payloads[index])

    def stop(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, target: str, shared: Any, parent: int) -> None:
    """The worker's life: take a payload, send back ``(kind, value)``; end when the parent is gone."""
    function = _resolve(target)
    while os.getppid() == parent:
        try:
            payload = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            answer = ("ok", function(shared, payload))
        except UserError as error:
            answer = ("user-error", str(error))
        except KeyboardInterrupt:
            return
        except Exception:
            answer = ("error", traceback.format_exc())
        try:
            pipe.send(answer)
        except OSError:
            return
