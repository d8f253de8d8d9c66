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
from benchmarks.gpu.verbs import before, commands, protocols
from benchmarks.gpu.world import World, smoke_method, tf32

TOLERANCE = 1e-2
"""Of the synset's largest absolute value: sums in another order, after two iterations."""
ACCURACY = 0.05
"""Of a tiny student's accuracy on 500 images."""


def run(world: World, report: Report) -> None:
    """Its tables."""
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
            one, seconds = synset(world, name, "cpu")
            two, device_seconds = synset(world, name, world.device)
        except ModuleNotFoundError as error:
            report.row(name, "", "", "", f"left out: needs {error.name or error}")
            continue
        except Exception as error:  # told, and the next one is tried
            report.row(name, "", "", "", f"FAILED: {reason(error)}")
            continue
        apart = _apart(one, two)
        report.row(name, seconds, device_seconds, apart, "yes" if apart <= TOLERANCE else _otherwise(world, name, one))


def _apart(one: Any, two: Any) -> float:
    """Largest difference of two sets, as a share of the first one's largest value."""
    return float((one - two).abs().max() / one.abs().max().clamp(min=1e-12)) if one.shape == two.shape else 1.0


def _otherwise(world: World, name: str, one: Any) -> str:
    """What is said of a method whose set is another one: whether the CPU's own is too, with other kernels."""
    import torch

    torch.backends.mkldnn.set_flags(False)
    try:
        own = _apart(one, synset(world, name, "cpu")[0])
    finally:
        torch.backends.mkldnn.set_flags(True)
    return f"NO, nor on the CPU with other kernels ({own:.2g} apart)" if own > TOLERANCE else "NO"


def synset(world: World, name: str, device: str, *, again: bool = False) -> tuple[Any, float]:
    """The numbers of a method's set after two iterations (all steps where they are no iterations), and seconds.

    Args:
        again: after the first step go on with a new object, which is given the state of the one before.
    """
    import torch

    begin = time.perf_counter()
    method = smoke_method(world, name, device)
    iterative = "iterations" in {field.name for field in fields(method.config)}
    for iteration in range(min(2, method.iterations) if iterative else method.iterations):
        if again and iteration == 1:
            method = _taken_up(world, name, device, method.state())
        method.step(iteration)
    made = method.distilled()
    arrays = list(made.parameters.values()) if made.parameters else [made.images]
    return torch.cat([array.detach().float().cpu().flatten() for array in arrays]), time.perf_counter() - begin


def _taken_up(world: World, name: str, device: str, state: Any) -> Any:
    """A new object that was given a state, as a checkpoint file brings it: by the CPU to the method's device."""
    from ddbench.methods.base import State

    method = smoke_method(world, name, device)
    tensors = {key: tensor.detach().cpu().clone().to(device) for key, tensor in state.tensors.items()}
    method.load_state(State(tensors=tensors, values=json.loads(json.dumps(state.values))))
    return method


def verbs(world: World, report: Report) -> None:
    """Every verb that computes, on digits, through the command line in this process; then what reads its products."""
    folders = {device: world.scratch / f"verbs-{device.replace(':', '-')}" for device in ("cpu", world.device)}
    broken: dict[str, str] = {}
    for title, lines in (("Every verb", commands()), ("Every protocol for images", protocols())):
        report.table(f"{title}, on digits", ("verb", "CPU s", "device s", "accuracy apart", "ended well"))
        for name, words in lines:
            _verb(report, folders, broken, name, words)


def _verb(report: Report, folders: dict[str, Path], broken: dict[str, str], name: str, words: list[str]) -> None:
    """One line; why it failed is kept in ``broken``."""
    missing = next((one for one in before(name) if one in broken), None)
    if missing is not None:
        broken[name] = f"left out: {missing} is needed, {broken[missing]}"
        report.row(name, "", "", "", broken[name])
        return
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
        for path in sorted({*folder.glob("*.json"), *folder.glob("*/evaluations/*.json")}):
            summary = json.loads(path.read_text(encoding="utf-8")).get("summary", {})
            found |= {
                f"{path.relative_to(folder)} {student}": one["accuracy"]["mean"] for student, one in summary.items()
            }
        means.append(found)
    return max((abs(means[0][name] - means[-1].get(name, 2.0)) for name in means[0]), default=0.0)
