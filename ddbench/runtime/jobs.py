"""Independent jobs on several processes of this machine, each job tried again when its process dies.

A job is a picklable payload for one top-level function; it must be idempotent. Workers start warm: a server process
that has imported the function's module and computed nothing (no threads, no CUDA state) forks them, so that torch is
imported once for all. Where there is no forking they are spawned. A worker ends when the process that started it does,
however that ended. Another engine (``ray_jobs.py``) may take the place of these processes.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ddbench.runtime import authors
from ddbench.runtime.errors import OutOfMemory, UserError
from ddbench.runtime.interruption import Interruption, interruptible, what_is_kept
from ddbench.runtime.progress import Console

ATTEMPTS = 3
"""A job whose process dies this often is given up."""

LOOK_SECONDS = 0.2
"""Time between two looks whether an interruption was asked for, where jobs may end by themselves then."""


class WorkerDied(UserError):
    """The processes that tried a job were killed."""


class Engine(Protocol):
    """What runs jobs in place of processes of this machine."""

    def run(
        self,
        target: str,
        shared: Any,
        payloads: Sequence[Any],
        workers: int,
        deadline: float | None,
        *,
        survive: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        """As :func:`run_jobs`."""


_ENGINE: ContextVar[Engine | None] = ContextVar("engine", default=None)


@contextlib.contextmanager
def engine(one: Engine) -> Iterator[None]:
    """Let jobs run on another engine for the block."""
    token = _ENGINE.set(one)
    try:
        yield
    finally:
        _ENGINE.reset(token)


def is_elsewhere() -> bool:
    """Whether jobs run on another engine, which shares them out itself, however many workers are asked for."""
    return _ENGINE.get() is not None


def run_jobs(
    target: str,
    shared: Any,
    payloads: Sequence[Any],
    workers: int,
    deadline: float | None = None,
    *,
    survive: bool = False,
    patient: Console | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yield ``(index, result)`` of ``function(shared, payloads[index])`` as the jobs end, in any order.

    Args:
        target: ``"module:function"``.
        shared: sent once to each worker.
        workers: processes; 1 runs the jobs one after the other in this process.
        deadline: time on the monotonic clock at which unfinished jobs are stopped, whatever they do; with one, all jobs
            run in processes of their own.
        survive: the :class:`WorkerDied` of a job is its result, and the others go on; else it is raised.
        patient: who says that an interruption waits until the jobs at work have kept their steps; None: processes are
            ended at once.

    Raises:
        UserError: a job raised one, or its process died :data:`ATTEMPTS` times.
        RuntimeError: a job raised anything else (with its traceback as text).
    """
    other = _ENGINE.get()
    if other is not None:
        yield from other.run(target, shared, payloads, workers, deadline, survive=survive)
        return
    if deadline is None and (workers <= 1 or len(payloads) <= 1):
        function = resolve(target)
        for index, payload in enumerate(payloads):
            yield index, function(shared, payload)
        return
    warm(target)
    with contextlib.nullcontext() if patient is None else interruptible(patient, "step", 0, 0) as interruption:
        yield from _run_crew(target, shared, payloads, workers, deadline, survive, interruption)


def _run_crew(
    target: str,
    shared: Any,
    payloads: Sequence[Any],
    workers: int,
    deadline: float | None,
    survive: bool,
    interruption: Interruption | None,
) -> Iterator[tuple[int, Any]]:
    """The jobs by processes of their own, as :func:`run_jobs`."""
    context = multiprocessing.get_context(_method())
    waiting = list(range(len(payloads)))[::-1]
    attempts = [0] * len(payloads)
    crew: list[_Worker] = []
    try:
        for _ in range(min(max(1, workers), len(payloads))):
            crew.append(_Worker(context, target, shared))
            crew[-1].give(waiting.pop(), payloads)
        busy = list(crew)
        while busy:
            if interruption is not None and interruption.asked:
                yield from _last_answers(busy, interruption, deadline)
                return
            ready = set(wait([worker.pipe for worker in busy], _left(deadline, interruption)))
            if not ready:
                if deadline is not None and time.monotonic() >= deadline:
                    return
                continue
            for worker in [one for one in busy if one.pipe in ready]:
                index = worker.index
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):  # the process died: its pipe closed
                    worker.stop()
                    busy.remove(worker)
                    crew.remove(worker)
                    attempts[index] += 1
                    given_up = attempts[index] >= ATTEMPTS
                    died = _gave_up(worker)
                    if given_up and not survive:
                        raise died from None
                    if not given_up or waiting:
                        worker = _Worker(context, target, shared)
                        crew.append(worker)
                        busy.append(worker)
                        worker.give(waiting.pop() if given_up else index, payloads)
                    if given_up:
                        yield index, died
                    continue
                result = unwrapped(kind, value)
                if waiting:
                    worker.give(waiting.pop(), payloads)
                else:
                    busy.remove(worker)
                yield index, result
    finally:
        for worker in crew:
            worker.stop()


def _last_answers(
    busy: Sequence[_Worker], interruption: Interruption, deadline: float | None
) -> Iterator[tuple[int, Any]]:
    """Interrupt the jobs at work, and read what they say of it; those that end just now are results as ever."""
    for worker in busy:
        worker.interrupt()
    left = {worker.pipe: worker for worker in busy}
    while left:
        ready = wait(list(left), _left(deadline))
        if not ready:  # the time is up
            return
        for worker in [left.pop(pipe) for pipe in list(left) if pipe in ready]:
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):  # it died, or was killed by the same user
                continue
            if kind == INTERRUPTED:
                interruption.others.append(value)
            else:
                yield worker.index, unwrapped(kind, value)


def _gave_up(worker: _Worker) -> WorkerDied:
    code = worker.process.exitcode
    if code == 1:  # ended by an error before its job: a worker imports the script that started it
        cause = 'in a script of your own, keep its calls under `if __name__ == "__main__":`, else see the error above'
    else:
        cause = "it may lack memory: try fewer --workers"
    return WorkerDied(f"a worker process died {ATTEMPTS} times on the same job (exit code {code}); {cause}")


@contextlib.contextmanager
def _out_of_reach() -> Iterator[None]:
    """What is started in the block is not reached by the Ctrl-C of a terminal, which goes to all its processes: the one
    that started them says what becomes of them. Where signals cannot be blocked (Windows), it is reached."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if _method() == "forkserver":
        resource_tracker.ensure_running()  # it would unblock them here when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def warm(target: str) -> None:
    """Let the server of the workers begin to import what a function needs; returns at once, repeats cost nothing.

    Args:
        target: ``"module:function"`` or ``"module"``. What the first call names is imported; later ones change nothing.
    """
    if _method() == "forkserver" and not is_elsewhere():
        # 3.11 to 3.13 do not hand our sys.path to the server; what it cannot import, each worker imports itself.
        multiprocessing.set_forkserver_preload([target.partition(":")[0]])
        with _out_of_reach():
            forkserver.ensure_running()


def _method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _left(deadline: float | None, interruption: Interruption | None = None) -> float | None:
    """Seconds to wait for an answer; None: as long as it takes."""
    left = [] if deadline is None else [max(0.0, deadline - time.monotonic())]
    return min([*left, *([] if interruption is None else [LOOK_SECONDS])], default=None)


def resolve(target: str) -> Any:
    """The function that ``"module:function"`` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


OUT_OF_MEMORY = "out-of-memory"
"""Kind of the answer of a worker whose job no memory held; the value says what was wanted."""

INTERRUPTED = "interrupted"
"""Kind of the answer of a worker that ended its job where it can be gone on with; the value says where."""


def answer(function: Callable[..., Any], *given: Any) -> tuple[str, Any]:
    """What a worker sends back: ``(kind, value)``, the value being an error's text where there was one."""
    try:
        return "ok", function(*given)
    except UserError as error:
        return "user-error", str(error)
    except Exception as error:
        words = authors.memory(error)
        if words is not None:
            return OUT_OF_MEMORY, words
        told = authors.told(error)
        return ("error", traceback.format_exc()) if told is None else ("user-error", told)


def unwrapped(kind: str, value: Any) -> Any:
    """The value of an answer.

    Raises:
        UserError, RuntimeError: the job raised one, or anything else.
        OutOfMemory: no memory held it.
    """
    if kind == OUT_OF_MEMORY:
        raise OutOfMemory(value)
    if kind == "user-error":
        raise UserError(value)
    if kind == "error":
        raise RuntimeError(f"a worker failed:\n{value}")
    return value


class _Worker:
    def __init__(self, context: Any, target: str, shared: Any) -> None:
        self.pipe, theirs = context.Pipe()
        ordered, self._orders = context.Pipe(duplex=False)
        self.index = -1
        # the server has the environment of when it was started
        arguments = (theirs, ordered, target, shared, dict(os.environ))
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        with _out_of_reach():
            self.process.start()
        theirs.close()
        ordered.close()

    def give(self, index: int, payloads: Sequence[Any]) -> None:
        self.index = index
        with contextlib.suppress(OSError):  # it died since: its closed pipe tells run_jobs
            self.pipe.send(payloads[index])

    def interrupt(self) -> None:
        """As Ctrl-C would: the job ends at once, or after the step that it is at (``interruption.py``)."""
        with contextlib.suppress(OSError):  # it died
            self._orders.send(None)

    def stop(self) -> None:
        self.pipe.close()
        self._orders.close()
        self.process.terminate()
        self.process.join()


def _attend(orders: Connection) -> None:
    """Interrupt the job when that is ordered; end this process when the one that started it is gone, in the middle of a
    job too: whole files only are kept."""
    parent = parent_process()
    assert parent is not None
    if parent.sentinel not in wait([parent.sentinel, orders]):
        with contextlib.suppress(EOFError, OSError):
            orders.recv()
            _thread.interrupt_main()
        wait([parent.sentinel])
    os._exit(1)


def _serve(pipe: Connection, orders: Connection, target: str, shared: Any, environment: dict[str, str]) -> None:
    """The worker's life: take a payload, send back ``(kind, value)``; end when the parent is gone."""
    # a shell's background jobs begin with it ignored; the terminal's own is blocked
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_attend, args=(orders,), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    function = resolve(target)
    while True:
        try:
            payload = pipe.recv()
            try:
                told = answer(function, shared, payload)
            except KeyboardInterrupt as stop:
                told = INTERRUPTED, what_is_kept(stop)
            pipe.send(told)
        except (EOFError, OSError, KeyboardInterrupt):
            return
