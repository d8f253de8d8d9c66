"""What the parts share: sizes, devices, data, and a method with all that it needs, ready to be stepped."""

from __future__ import annotations

import functools
import importlib.util
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
TINY = "convnet-d1-w4-in"


@dataclass(frozen=True, kw_only=True)
class World:
    """How a run measures.

    Attributes:
        device: name of the device that is measured.
        rehearse: everything small, on any device.
        data: folder with the datasets.
        scratch: folder for what methods need.
    """

    device: str
    rehearse: bool
    data: Path | None
    scratch: Path

    @property
    def width(self) -> int:
        """Channels of the ConvNets."""
        return 4 if self.rehearse else 128

    def scale(self, full: int, small: int) -> int:
        """A size, or the one of a rehearsal."""
        return small if self.rehearse else full


def describe(device: str) -> str:
    """Device and versions."""
    import platform

    import torch

    from ddbench.runtime.device import describe as told

    return f"{told(torch.device(device))}, torch {torch.__version__}, Python {platform.python_version()}"


def sync(device: str) -> None:
    """Wait for the device."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(device: str, work: Callable[[], object], rounds: int = 3, warm: bool = True) -> tuple[float, float]:
    """Median wall seconds of a piece of work, and peak memory of the device in MiB (nan on a CPU)."""
    import torch

    cuda = device.startswith("cuda")
    if warm:
        work()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        sync(device)
        seconds.append(time.perf_counter() - begin)
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else float("nan")
    return median(seconds), memory


def tf32(on: bool) -> None:
    """Let matrix products and convolutions round their inputs to TF32, or not."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def plain_network(width: int, channels: int, size: int, norm: str = "in", classes: int = 10) -> Any:
    """The ConvNet of depth 3 as plain modules of torch; ``classes`` 0: its features."""
    from torch import nn

    layers: list[nn.Module] = []
    for index in range(3):
        inputs, padding = (channels, 3 if channels == 1 else 1) if index == 0 else (width, 1)
        layers += [
            nn.Conv2d(inputs, width, 3, padding=padding),
            nn.GroupNorm(width, width) if norm == "in" else nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    side = (size + 4 if channels == 1 else size) // 8
    head = [nn.Linear(width * side * side, classes)] if classes else []
    return nn.Sequential(*layers, nn.Flatten(), *head)


def made_dataset(images_of_a_class: int, name: str = "fashion-mnist", tests: int = 10) -> Any:
    """Random pixels in the shape of a dataset: neither time nor memory depends on what images show."""
    import torch

    from ddbench.data.dataset import Split, make_dataset
    from ddbench.data.specs import DATASETS

    spec = DATASETS[name]
    g = torch.Generator().manual_seed(0)

    def split(count: int) -> Any:
        labels = torch.arange(spec.classes).repeat_interleave(count)
        shape = (len(labels), spec.channels, spec.size, spec.size)
        return Split(torch.randint(256, shape, generator=g, dtype=torch.uint8), labels)

    return make_dataset(spec, split(images_of_a_class), split(tests))


def make_context(dataset: Any, device: str, folder: Path, *, ipc: int, student: str, holdout: float = 0.0) -> Any:
    """What a method is given."""
    import torch

    from ddbench.data.dataset import holdout_split
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods.base import Context
    from ddbench.runtime.progress import Console

    train, held_out = (
        holdout_split(dataset.train, holdout, dataset.spec.classes) if holdout else (dataset.train, dataset.train)
    )
    return Context(
        dataset=dataset,
        train=train,
        held_out=held_out,
        preprocess=fit_preprocess(dataset, "meanstd"),
        ipc=ipc,
        student=student,
        seed=0,
        device=torch.device(device),
        folder=folder,
        compile="off",
        console=Console(quiet=True),
    )


def smoke_config(name: str, kind: Any) -> tuple[Any, dict[str, Any]]:
    """A method's small settings, and what its ``smoke.toml`` says besides."""
    path = CHECKOUT / "methods" / name / "smoke.toml"
    said = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return kind.config_class(**said.get("config", {})), said


@functools.cache
def teacher_of(scratch: Path, student: str, penalty: str) -> Any:
    """A tiny teacher of digits, trained on the CPU, which every device is given."""
    from ddbench.data.load import load_dataset
    from ddbench.runtime.progress import Console
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.train import train_teacher

    return train_teacher(
        root=scratch / "teachers",
        dataset=load_dataset("digits", scratch),
        data=scratch,
        student=student,
        recipe=TeacherRecipe(epochs=2, penalty=penalty),
        device="cpu",
        threads=1,
        compile="off",
        console=Console(quiet=True),
    )


@functools.cache
def experts_of(scratch: Path, kind: str) -> Any:
    """Two tiny experts of digits, recorded on the CPU."""
    from ddbench.data.load import load_dataset
    from ddbench.data.specs import resolve_augmentation
    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.record import record
    from ddbench.experts.store import find_stores
    from ddbench.runtime.progress import Console

    root = scratch / f"experts-{kind}"
    record(
        root=root,
        dataset=load_dataset("digits", scratch),
        data=scratch,
        student=TINY,
        recipe=ExpertRecipe(epochs=4, augmentation=resolve_augmentation("dsa", False), kind=kind),
        experts=2,
        workers=1,
        threads=1,
        device="cpu",
        compile="off",
        console=Console(quiet=True),
    )
    return next(iter(find_stores(root)))


def has_diffusers() -> bool:
    """Whether diffusion models can be made here."""
    return importlib.util.find_spec("diffusers") is not None


@functools.cache
def diffusion_of(scratch: Path) -> Any:
    """A tiny diffusion model of digits, trained on the CPU for a moment.

    Raises:
        ModuleNotFoundError: its library is not here.
    """
    if not has_diffusers():
        raise ModuleNotFoundError("diffusers", name="diffusers")
    from ddbench.data.load import load_dataset
    from ddbench.diffusion.recipe import DiffusionRecipe
    from ddbench.diffusion.train import train_model
    from ddbench.methods.needs.diffusion import Generator
    from ddbench.runtime.progress import Console

    model = train_model(
        root=scratch / "diffusions",
        dataset=load_dataset("digits", scratch),
        recipe=DiffusionRecipe(steps=4, batch=16, widths=(8, 8), holdout=0.1),
        device="cpu",
        threads=1,
        console=Console(quiet=True),
    )
    return Generator(model=model, latents=scratch / "latents")


def smoke_method(world: World, name: str, device: str) -> Any:
    """A method on digits with small settings and what it needs, set up on a device.

    Raises:
        ModuleNotFoundError: it needs a package that is not here.
    """
    from ddbench.data.load import load_dataset
    from ddbench.methods import METHODS
    from ddbench.methods.needs.diffusion import Diffusion
    from ddbench.methods.needs.experts import Experts
    from ddbench.methods.needs.teacher import TrainedTeacher

    kind = METHODS.get(name)
    config, said = smoke_config(name, kind)
    folder = world.scratch / "runs" / f"{name}-{device.replace(':', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    context = make_context(
        load_dataset("digits", world.scratch), device, folder, ipc=2, student=said.get("student", TINY), holdout=0.1
    )
    for need in kind.needs(config):
        if isinstance(need, Experts):
            context = context.give(Experts, experts_of(world.scratch, need.kind))
        elif isinstance(need, TrainedTeacher):
            student = said.get("teacher_student", TINY)
            teacher = teacher_of(world.scratch, student, need.penalised.get("penalty", "none"))
            context = replace(context, architectures={"teacher": student}).give(TrainedTeacher, teacher)
        elif isinstance(need, Diffusion):
            context = context.give(Diffusion, diffusion_of(world.scratch))
    method = kind(config, context)
    method.setup()
    method.prepare()
    return method
