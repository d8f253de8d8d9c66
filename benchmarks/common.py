"""What the benchmark scripts share: measuring in fresh processes, and writing tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOAD = os.getloadavg()[0]
"""Processes at work on the machine when the script began."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles what it imports, torch too, anew


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


def command(script: str) -> str:
    """The command as it was given, for the head of a table."""
    return " ".join(["python", f"benchmarks/{Path(script).name}", *(one for one in sys.argv[1:] if one != "--write")])


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


def random_pixels(per_class: int) -> tuple[Any, Any]:
    """Pixels uint8 ``(N, 1, 28, 28)`` and labels of ten classes: neither time nor memory depends on what they show."""
    import torch

    g = torch.Generator().manual_seed(0)
    labels = torch.arange(10 * per_class) % 10
    return torch.randint(256, (len(labels), 1, 28, 28), generator=g, dtype=torch.uint8), labels


def plain_input(pixels: Any) -> Any:
    """Pixels as the input of a plain loop: float32, by Fashion-MNIST's mean and deviation."""
    return (pixels.float() / 255 - 0.2861) / 0.3530


def plain_features(width: int, norm: str = "in") -> Any:
    """The ConvNet of depth 3 for one-channel 28 px images without its classifier, as plain modules."""
    from torch import nn

    layers: list[nn.Module] = []
    for index in range(3):
        layers += [
            nn.Conv2d(1 if index == 0 else width, width, 3, padding=3 if index == 0 else 1),
            nn.GroupNorm(width, width) if norm == "in" else nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten())


def plain_network(width: int) -> Any:
    """:func:`plain_features` with its classifier of ten classes."""
    from torch import nn

    return nn.Sequential(*plain_features(width), nn.Linear(width * 16, 10))


def made_method(
    name: str, settings: dict[str, Any], pixels: Any, labels: Any, *, ipc: int, student: str, **more: Any
) -> Any:
    """A method as ``ddbench distill`` sets it up, on images as Fashion-MNIST's.

    Args:
        settings: of the method.
        more: ``compile`` (default: off), and ``experts``: a store.
    """
    import torch

    from ddbench.data.dataset import Split, make_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.data.specs import DATASETS
    from ddbench.methods import METHODS
    from ddbench.methods.base import Context
    from ddbench.methods.needs.experts import Experts
    from ddbench.runtime import device
    from ddbench.runtime.progress import Console

    device.prepare(1)
    split = Split(pixels, labels)
    dataset = make_dataset(DATASETS["fashion-mnist"], split, split)
    context = Context(
        dataset=dataset,
        train=split,
        held_out=split,
        preprocess=fit_preprocess(dataset, "meanstd"),
        ipc=ipc,
        student=student,
        seed=0,
        device=torch.device("cpu"),
        folder=Path(),
        compile=more.get("compile", "off"),
        console=Console(quiet=True),
    )
    if "experts" in more:
        context = context.give(Experts, more["experts"])
    kind = METHODS.get(name)
    method = kind(kind.config_class(**settings), context)
    method.setup()
    return method


def timed(step: Callable[[int], object], rounds: int) -> list[float]:
    """CPU seconds of each of the rounds."""
    seconds = []
    for number in range(rounds):
        begin = time.process_time()
        step(number)
        seconds.append(time.process_time() - begin)
    return seconds
