"""Every method and verb on the device for a moment, beside the same on the CPU."""

from __future__ import annotations

import contextlib
import io
import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import Report, reason
from benchmarks.gpu.world import TINY, World, smoke_method, tf32

TOLERANCE = 1e-2
"""Of the synset's largest absolute value: sums in another order, after two iterations."""
ACCURACY = 0.05
"""Of a tiny student's accuracy on 500 images."""

AFTER = {
    "distill": ("buffer",),
    "evaluate": ("distill",),
    "evaluate kd-v1": ("distill", "teacher"),
    "relabel": ("distill", "teacher"),
    "scores": ("distill",),
    "export": ("distill",),
    "info": ("distill",),
}
"""Verb -> verbs whose products it takes."""


def run(world: World, report: Report) -> None:
    """Both tables."""
    tf32(False)
    methods(world, report)
    verbs(world, report)


def methods(world: World, report: Report) -> None:
    """Two iterations of every method on digits; the synsets of both devices compared."""
    from ddbench.methods import METHODS

    report.table("Every method, two iterations on digits", ("method", "CPU s", "device s", "apart", "same"))
    for name in METHODS:
        if "image" not in METHODS.get(name).modalities:
            report.row(name, "", "", "", "left out: graphs, on a CPU")
            continue
        try:
            one, seconds = _synset(world, name, "cpu")
            two, device_seconds = _synset(world, name, world.device)
        except ModuleNotFoundError as error:
            report.row(name, "", "", "", f"left out: needs {error.name or error}")
            continue
        except Exception as error:  # told, and the next one is tried
            report.row(name, "", "", "", f"FAILED: {reason(error)}")
            continue
        apart = float((one - two).abs().max() / one.abs().max().clamp(min=1e-12)) if one.shape == two.shape else 1.0
        report.row(name, seconds, device_seconds, apart, "yes" if apart <= TOLERANCE else "NO")


def _synset(world: World, name: str, device: str) -> tuple[Any, float]:
    """The numbers of a method's set after two iterations (all steps where they are no iterations), and seconds."""
    import torch

    begin = time.perf_counter()
    method = smoke_method(world, name, device)
    iterative = "iterations" in {field.name for field in fields(method.config)}
    for iteration in range(min(2, method.iterations) if iterative else method.iterations):
        method.step(iteration)
    made = method.distilled()
    arrays = list(made.parameters.values()) if made.parameters else [made.images]
    return torch.cat([array.detach().float().cpu().flatten() for array in arrays]), time.perf_counter() - begin


def verbs(world: World, report: Report) -> None:
    """Every verb that computes, on digits, through the command line in this process; then what reads its products."""
    report.table("Every verb, on digits", ("verb", "CPU s", "device s", "accuracy apart", "ended well"))
    folders = {device: world.scratch / f"verbs-{device.replace(':', '-')}" for device in ("cpu", world.device)}
    broken: dict[str, str] = {}
    for name, words in _commands():
        missing = next((one for one in AFTER.get(name, ()) if one in broken), None)
        if missing is not None:
            broken[name] = f"left out: {missing} is needed, {broken[missing]}"
            report.row(name, "", "", "", broken[name])
            continue
        spent, failure = [], ""
        for device, folder in folders.items():
            folder.mkdir(exist_ok=True)
            argv = [word.replace("{at}", str(folder)).replace("{device}", device) for word in words]
            begin = time.perf_counter()
            failure = failure or _ended(argv)
            spent.append(time.perf_counter() - begin)
        apart = _accuracies_apart(list(folders.values())) if name.startswith("evaluate") and not failure else ""
        if isinstance(apart, float) and apart > ACCURACY:
            failure = "accuracies differ"
        if failure:
            broken[name] = failure
        report.row(name, spent[0], spent[-1], apart, failure or "yes")


def _commands() -> list[tuple[str, list[str]]]:
    how = ["--device", "{device}", "--threads", "1", "--compile", "off", "--quiet"]
    small = ["--dataset", "digits", "--ipc", "1", "--student", TINY, "--recipe", "none"]
    run, student = "{at}/run", ["--students", TINY, "--seeds", "2"]
    buffer = ["buffer", "--dataset", "digits", "--student", TINY, "--experts", "2", "--epochs", "4", "--lr", "0.02"]
    trajectory = ["--student-steps", "2", "--expert-epochs", "1", "--max-start-epoch", "2", "--lr-images", "10"]
    alone = ["--workers", "1"]
    teacher = ["teacher", "--dataset", "digits", "--student", TINY, "--epochs", "2", "--teachers", "{at}/teachers"]
    distill = ["distill", "--method", "mtt", *small, "--iterations", "2", *trajectory, "--buffers", "{at}/buffers"]
    taught = ["--teachers", "{at}/teachers"]
    return [
        ("buffer", [*buffer, "--batch", "256", "--buffers", "{at}/buffers", *alone, *how]),
        ("teacher", [*teacher, *how]),
        ("distill", [*distill, "--out", run, *how]),
        ("evaluate", ["evaluate", run, *student, "--epochs", "20", *alone, *how]),
        ("evaluate kd-v1", ["evaluate", run, "--protocol", "kd-v1", *student, "--epochs", "2", *taught, *alone, *how]),
        ("relabel", ["relabel", run, "--epochs", "2", *taught, *how]),
        ("scores", ["scores", run, "--student", TINY, "--repeats", "2", "--epochs", "2", *alone, *how]),
        ("export", ["export", run, "--format", "npz", "--out", "{at}/exported"]),
        ("info", ["info", run]),
        ("leaderboard", ["leaderboard", "build", "--leaderboard", "{at}"]),
    ]


def _ended(argv: list[str]) -> str:
    """Run a command; why it failed, or nothing."""
    said = io.StringIO()
    try:
        from ddbench.cli.main import dispatch

        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            dispatch(argv)
    except ModuleNotFoundError as error:
        return f"left out: needs {error.name or error}"
    except SystemExit as stop:
        return "" if not stop.code else f"FAILED: exit code {stop.code}"
    except Exception as error:
        return f"FAILED: {reason(error)}"
    return ""


def _accuracies_apart(folders: list[Path]) -> float:
    """Largest difference of the mean accuracies of the evaluations in two folders."""
    means: list[dict[str, float]] = []
    for folder in folders:
        found = {}
        for path in sorted((folder / "run" / "evaluations").glob("*.json")):
            summary = json.loads(path.read_text(encoding="utf-8")).get("summary", {})
            found |= {f"{path.name} {student}": one["accuracy"]["mean"] for student, one in summary.items()}
        means.append(found)
    return max((abs(means[0][name] - means[-1].get(name, 2.0)) for name in means[0]), default=0.0)
