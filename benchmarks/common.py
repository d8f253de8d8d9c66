"""What the benchmark scripts share: measuring in fresh processes, and writing tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

LOAD = os.getloadavg()[0]
"""Processes at work on the machine when the script began."""


def measure(script: str, *arguments: object, timeout: float = 3600) -> dict[str, Any]:
    """Run ``script --one ARGUMENTS`` in a fresh process; its last line of output is JSON.

    Every measurement has a process of its own: peak memory and the allocator's settings belong to a process.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, script, "--one", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def machine() -> str:
    """CPU and library versions, for the head of a table."""
    import torch

    from ddbench.runtime.device import describe

    versions = f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}"
    return f"{describe(torch.device('cpu'))}, {versions}"


def sharing() -> str:
    """Whether other work had the processors as well, in a sentence: the figures are then less exact."""
    load = f"load {LOAD:.1f} on {os.cpu_count()} processors at the start"
    return f"Shared machine: {load}." if LOAD > 0.5 else f"Quiet machine: {load}."


def report(script: str, title: str, lines: list[str], command: str) -> None:
    """Print a table, and write it beside the script when ``--write`` was given."""
    text = "\n".join([f"# {title}", "", f"`{command}` on {machine()}. {sharing()}", "", *lines, ""])
    print(text)
    if "--write" in sys.argv:
        Path(script).with_suffix(".md").write_text(text)


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every script has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--write", action="store_true", help="store the table beside the script")
    made.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    return made


def rss() -> int:
    """Resident memory now, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Let the kernel count the peak of resident memory from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Peak of resident memory since :func:`reset_peak`, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def fashion_like(count: int, size: int = 28, channels: int = 1) -> tuple[Any, Any]:
    """Images and labels for timing: Fashion-MNIST where it is installed, else random pixels of its shape.

    Times and memory do not depend on which; the table does not need the data.
    """
    import torch

    from ddbench.runtime.errors import UserError
    from ddbench.runtime.seeds import generator

    if (size, channels) == (28, 1):
        try:
            from ddbench.data.load import load_dataset
            from ddbench.data.preprocess import fit_preprocess

            dataset = load_dataset("fashion-mnist")
            images = fit_preprocess(dataset, "meanstd").apply(dataset.train.images[:count])
            return images, dataset.train.labels[:count]
        except UserError:
            pass
    g = generator(0, "benchmark")
    return torch.randn(count, channels, size, size, generator=g), torch.randint(10, (count,), generator=g)
