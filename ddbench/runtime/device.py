"""Device, threads, allocator and compiler: the settings of a process that computes."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.runtime.numbers import whole

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks instead of giving them back to the kernel at every training step.

    A third of a CPU training step is otherwise spent on page faults (``benchmarks/plain_loops.py``).
    Returns whether the allocator took the settings (False where there is no glibc).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


MOST_THREADS = 1024

_share = 0


@contextmanager
def share_of(count: int) -> Iterator[None]:
    """Within the block this process shares out so many cores, since others work beside it; 0: all of the machine."""
    global _share
    before, _share = _share, count
    try:
        yield
    finally:
        _share = before


def worker_count(workers: int, threads: int, device: str = "cpu") -> tuple[int, int]:
    """``(workers, threads of each)``: by default one worker a core; on a GPU one, since all would share it.

    Args:
        device: where they compute, as the user named it.

    Raises:
        UserError: a negative number, more threads than any machine has use for, or as :func:`resolve_device`.
    """
    if workers < 0 or threads < 0:
        raise UserError(f"--workers {workers} --threads {threads}: expected at least 0 (0: use every core)")
    if threads > MOST_THREADS:
        raise UserError(f"--threads {threads}: expected at most {MOST_THREADS} (0: use every core)")
    if not workers and device != "cpu" and resolve_device(device).type == "cuda":
        workers = 1
    count = _share or cores()
    workers = workers or max(1, count // (threads or 1))
    return workers, threads or max(1, count // workers)


SMALL_SIDE = 16
"""Images up to this side, in px, are computed with one thread: several would mostly wait for each other."""


def own_threads(threads: int, size: int, beside: int = 1) -> int:
    """Threads of a verb that works in one process: as asked, else one for small images and every core for others.

    Args:
        size: side of the images in px. What a run computes depends on the number of threads in its last bits, so small
            images give the same bytes on machines of any number of cores.
        beside: processes that share this machine's cores, this one included.

    Raises:
        UserError: a negative number.
    """
    if threads == 0 and size <= SMALL_SIDE:
        return 1
    return worker_count(beside, threads)[1]


def begun_threads(*records: Path) -> int:
    """Threads that something was begun with: ``threads`` of the first of these JSON files that says it; 0: none does.

    What is computed depends on the number in its last bits, so whoever goes on does so with the same, on a machine of
    any number of cores.
    """
    for path in records:
        try:
            record = read_json(path, "record")
        except UserError:  # not there, or damaged: whoever reads all of it tells
            continue
        if threads_of(record):
            return threads_of(record)
    return 0


def threads_of(record: Any) -> int:
    """``threads`` of a record that was read; 0: it says none that can be used."""
    count = record.get("threads") if isinstance(record, dict) else None
    return count if type(count) is int and 1 <= count <= MOST_THREADS else 0


def tell_threads(threads: int, say: Callable[[str], None]) -> None:
    """Warn where there are fewer cores than threads, as when a run goes on that was begun on a larger machine."""
    if threads > cores():
        say(f"warning: {threads} threads, as asked for or begun, on {cores()} core(s): slow, the bytes are the same")


def prepare(threads: int, *, tune_allocator: bool = True, say: Callable[[str], None] | None = None) -> None:
    """Set up the process for computing: allocator and the number of threads of torch.

    Results on a CPU may depend on the number of threads in the last bits, so verbs record it.

    Args:
        say: takes a warning where there are fewer cores.
    """
    if say is not None:
        tell_threads(threads, say)
    if tune_allocator:
        keep_freed_memory()
    import torch

    torch.set_num_threads(threads)


def go_on(checkpoint: Any, place: torch.device, say: Callable[[str], None]) -> None:
    """Use the threads that a checkpoint's header says it was begun with; checkpoints of older versions say none.

    Where it says another kind of device than this one, that is told: the last bits are those of neither.
    """
    import torch

    before = checkpoint.get("device", "cpu")
    if before != place.type:
        say(f"warning: begun with --device {before}, going on with {place.type}: the last bits are those of neither")
    begun = threads_of(checkpoint)
    if begun and begun != torch.get_num_threads():
        say(f"with {begun} threads, as it was begun; remove the checkpoint to use others")
        tell_threads(begun, say)
        torch.set_num_threads(begun)


@dataclass(frozen=True)
class _Given:
    """What decides a device beside its name.

    Attributes:
        auto: what ``auto`` means; empty: what this machine has.
        elsewhere: who computes is on other machines.
    """

    auto: str = ""
    elsewhere: bool = False


_given = _Given()


@contextmanager
def auto_is(kind: str, *, elsewhere: bool) -> Iterator[None]:
    """Within the block ``auto`` means ``cpu`` or ``cuda``, as a cluster gives it to jobs, whatever this machine has.

    Args:
        elsewhere: the jobs are on other machines. Where those have GPUs, this one may lack what is named; what is done
            here beside the jobs is then done on the CPU.
    """
    global _given
    before, _given = _given, _Given(kind, elsewhere)
    try:
        yield
    finally:
        _given = before


def resolve_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:<i>`` as a torch device.

    Raises:
        UserError: another name, or a CUDA device that is not there.
    """
    import torch

    if name == "auto":
        name = _given.auto or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, index = name.partition(":")
    number = whole(index if colon else "0")
    if kind != "cuda" or number is None:
        raise UserError(f"--device: {name!r} is none of auto, cpu, cuda, cuda:<number>")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count and _given == _Given("cuda", elsewhere=True):
        return torch.device("cpu")
    if number >= count:
        raise UserError(f"--device {name}: this machine has {count} CUDA device(s); use --device cpu or auto")
    return torch.device("cuda", number) if colon else torch.device("cuda")


def recorded_kind(name: str) -> dict[str, str]:
    """The kind of a device for the head of a record, whose last bits it decides; of a CPU nothing is said.

    Raises:
        UserError: as :func:`resolve_device`.
    """
    return {} if kind_of(name) == "cpu" else {"device": kind_of(name)}


def kind_of(name: str) -> str:
    """``cpu`` or ``cuda``: the kind of the device that computes, here or where jobs are done.

    Raises:
        UserError: as :func:`resolve_device`.
    """
    here = resolve_device(name).type
    named = _given.auto if name == "auto" else name.partition(":")[0]
    return named if _given.elsewhere else here


def sent(tensor: torch.Tensor, to: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of the CPU on a device, which this process does not wait for: what a step draws, and the like.

    A plain copy to a GPU waits until that has done all it was given before. The tensor may be changed afterwards: what
    is not pinned is copied aside first.
    """
    return tensor.to(device=to, dtype=dtype, non_blocking=tensor.device.type == "cpu")


def hardware(name: str) -> str:
    """:func:`describe` of the device of a name; where only other machines have one, its kind.

    Raises:
        UserError: as :func:`resolve_device`.
    """
    device, kind = resolve_device(name), kind_of(name)
    return describe(device) if device.type == kind else f"{kind}: of other machines"


def tell_shared(workers: int, name: str, say: Callable[[str], None]) -> None:
    """Say where several workers of this machine share one GPU, as all of them do that are asked for.

    Raises:
        UserError: as :func:`resolve_device`.
    """
    if workers < 2 or _given.elsewhere or resolve_device(name).type != "cuda":
        return
    import torch

    count = torch.cuda.device_count()
    more = f"; for all {count} GPUs: --engine ray, or a shard each (docs/scale.md)" if count > 1 else ""
    say(f"--workers {workers}: all on one GPU, each with the data and a network there; 1 may be as fast{more}")


def kind_record(device: torch.device) -> dict[str, str]:
    """As :func:`recorded_kind`, of a device itself."""
    return {} if device.type == "cpu" else {"device": device.type}


def describe(device: torch.device) -> str:
    """Name of the hardware for cost records, e.g. ``cpu: AMD EPYC, AVX2``.

    Of a CPU with the instructions that torch uses, where it names them: the last bits depend on them, and machines of
    one name differ in them.
    """
    import torch

    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"cpu: {_cpu_name()}" + ("" if kernels == "DEFAULT" else f", {kernels}")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import numpy
    import torch

    from ddbench import __version__

    return {
        "ddbench": __version__,
        "torch": torch.__version__.partition("+")[0],
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def compiler_available(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work here: it needs a C++ compiler at run time, on a GPU Triton and one for C."""
    if sys.platform == "win32":
        return False
    if device.type == "cuda":
        names = [os.environ.get("CC") or "gcc", "clang"]
        return importlib.util.find_spec("triton") is not None and any(map(shutil.which, names))
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "c++"))


Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


def choose_compiler(mode: str, flops: float, device: torch.device, say: Callable[[str], None]) -> Compiler | None:
    """``torch.compile`` where it pays, else ``None`` (run eagerly).

    Args:
        mode: ``auto`` compiles when ``flops`` repays the compiler's half minute; the choice rests on the work alone,
            never on a clock, so that the same command gives the same bytes. ``on``, ``off``.
        flops: floating-point operations of the whole job.
        say: takes the line that tells about a fall-back.

    Raises:
        UserError: another mode.
    """
    if mode not in ("auto", "on", "off"):
        raise UserError(f"--compile: {mode!r} is none of auto, on, off")
    if mode == "off" or (mode == "auto" and flops < AUTO_COMPILE_FLOPS[device.type]):
        return None
    if not compiler_available(device):
        wanted = "Triton and C compiler" if device.type == "cuda" else "C++ compiler"
        say(f"no {wanted} found: running eagerly (slower, same method)")
        return None
    import torch

    return functools.partial(torch.compile, dynamic=False)


AUTO_COMPILE_FLOPS = {"cpu": 2e13, "cuda": 1e15}
"""Several minutes of one CPU core, or of a GPU with small networks: below it, compiling (half a minute) is not
repaid."""
