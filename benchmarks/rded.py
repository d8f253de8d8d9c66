"""RDED's selection against a plain loop, and its memory on a folder of images.

Selection: one class of Fashion-MNIST's shape, 300 images, 5 crops each, ConvNet-3-BN of width 128 as the observer. The
plain side is written as public code has it: torchvision's RandomResizedCrop image by image, all crops of the class in
memory, the observer (plain modules) on as many crops at once as the pool has images, float32 scores. One thread, CPU
seconds of a class, median of the rounds after the first; ``tuned`` is the plain side with ddbench's allocator settings.

Memory: a folder of generated 64 px images (``--folder-images``), decoded once and mapped; all ten classes are
distilled. Private memory above that of the process with the data open and the observer loaded: as the allocator gives
nothing back, it is the peak. The mapped pages of the file are not the process's own; the peak with them is printed too.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

IPC = 10
CROPS = 5
STUDENT, SMALL = "convnet-d3-w128-bn", "convnet-d4-w32-bn"
MEMORY_BOUND = 100
"""MB of private memory above the process with the data open."""


def context_of(dataset: Any, student: str, folder: Path) -> Any:
    """What the runner gives to the method, with an untrained observer: cost does not depend on its weights."""
    import torch

    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods.base import Context
    from ddbench.methods.needs.teacher import TrainedTeacher
    from ddbench.networks.build import build_student
    from ddbench.runtime.progress import Console
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.store import read_teacher, write_teacher

    spec = dataset.spec
    preprocess = fit_preprocess(dataset, "meanstd")
    net = build_student(student, channels=spec.channels, size=spec.size, classes=spec.classes, seed=0)
    path = folder / "teacher.safetensors"
    write_teacher(
        path,
        net,
        dataset=dataset,
        preprocess=preprocess,
        student=student,
        recipe=TeacherRecipe(holdout=0.0).to_json(),
        curves={"loss": [], "train_accuracy": [], "holdout_accuracy": []},
        test_accuracy=0.1,
        versions={},
    )
    return Context(
        dataset=dataset,
        train=dataset.train,
        held_out=dataset.test,
        preprocess=preprocess,
        ipc=IPC,
        student=student,
        seed=0,
        device=torch.device("cpu"),
        folder=folder,
        compile="off",
        console=Console(quiet=True),
    ).give(TrainedTeacher, read_teacher(path))


def method_of(context: Any, **config: Any) -> Any:
    """RDED, set up."""
    from ddbench.methods.rded import RDED, RDEDConfig

    settings = RDEDConfig(num_crop=CROPS, **config)
    RDED.check(settings, context)
    method = RDED(settings, context)
    method.setup()
    return method


def plain_network(width: int, norm: Any) -> Any:
    """The ConvNet for one-channel 28 px images as plain modules."""
    from torch import nn

    layers: list[nn.Module] = []
    for index in range(3):
        layers += [
            nn.Conv2d(1 if index == 0 else width, width, 3, padding=3 if index == 0 else 1),
            norm(width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 10))


def plain_class(net: Any, images: Any, label: int, factor: int, mean: float, std: float) -> Any:
    """A class the straightforward way: IPC images as uint8 numbers."""
    import torch
    import torch.nn.functional as F
    from torchvision.transforms import RandomResizedCrop

    side = images.shape[-1]
    size, n = side // factor, len(images)
    cut = RandomResizedCrop(size, ratio=(1, 1), antialias=True)
    crops = torch.stack([torch.stack([cut(image / 255) for _ in range(CROPS)]) for image in images])
    crops = ((crops - mean) / std).transpose(0, 1).reshape(CROPS * n, 1, size, size)
    first = (side - size) // 2
    last = side - size - first
    target = torch.full((n,), label)
    with torch.no_grad():
        losses = torch.cat(
            [
                F.cross_entropy(net(F.pad(x, (first, last, first, last))), target, reduction="none")
                for x in crops.split(n)
            ]
        )
    best, which = losses.view(CROPS, n).min(0)
    order = best.argsort()[: IPC * factor**2]
    kept = crops.view(CROPS, n, 1, size, size)[which[order], order].view(factor, factor, IPC, 1, size, size)
    tiled = kept.permute(2, 3, 0, 4, 1, 5).reshape(IPC, 1, factor * size, factor * size)
    return ((tiled * std + mean).clamp(0, 1) * 255).to(torch.uint8)


def select(side: str, factor: int, images: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a class, and the peak of memory above the process before the first."""
    import torch

    from ddbench.data.dataset import Split, make_dataset
    from ddbench.data.specs import DATASETS
    from ddbench.runtime import device
    from ddbench.runtime.seeds import generator, isolated

    device.prepare(1, tune_allocator=side != "plain")
    spec = DATASETS["fashion-mnist"]
    pixels = torch.randint(256, (10 * images, 1, 28, 28), generator=generator(0, "benchmark"), dtype=torch.uint8)
    split = Split(pixels, torch.arange(10).repeat_interleave(images))
    seconds = []
    if side == "ddbench":
        with tempfile.TemporaryDirectory() as folder:
            dataset = make_dataset(spec, split, Split(pixels[:10], torch.arange(10)))
            method = method_of(context_of(dataset, STUDENT, Path(folder)), mipc=images, factor=factor)
        run = method.step
    else:
        net = plain_network(128, torch.nn.BatchNorm2d).eval()

        def run(label: int) -> Any:
            with isolated(0, "plain", label):
                own = pixels[images * label : images * (label + 1)]
                return plain_class(net, own, label, factor, spec.mean[0], spec.std[0])

    common.reset_peak()
    before = common.rss()
    for label in range(rounds + 1):
        begin = time.process_time()
        run(label)
        seconds.append(time.process_time() - begin)
    return {"seconds": statistics.median(seconds[1:]), "memory": common.peak() - before}


def make_folder(folder: Path, count: int) -> None:
    """Ten classes of generated 64 px colour images."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class-{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BILINEAR).save(place / f"{number:06}.bmp")


def private() -> int:
    """Resident memory of the process alone, without mapped files, bytes."""
    import psutil

    now = psutil.Process().memory_info()
    return int(now.rss - now.shared)


def folder_memory(count: int) -> dict[str, float]:
    """Memory above the process with the data open, private and with mapped files, bytes; and CPU seconds."""
    from ddbench.data.load import load_dataset
    from ddbench.runtime import device

    device.prepare(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_folder(root / "images", count)
        arguments = (f"folder:{root / 'images'}", root / "data")
        load_dataset(*arguments, size=64)  # decodes; what it needed is let go
        method = method_of(context_of(load_dataset(*arguments, size=64), SMALL, root), factor=2, mipc=300)
        common.reset_peak()
        before, own, begin = common.rss(), private(), time.process_time()
        for label in range(10):
            method.step(label)
        product = method.distilled().images
        assert len(product) == 10 * IPC
        return {
            "seconds": time.process_time() - begin,
            "private": private() - own,
            "memory": common.peak() - before,
            "data": method.context.train.images.nbytes,
        }


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--images", type=int, default=300, help="pool of a class")
    parser.add_argument("--rounds", type=int, default=3, help="classes that are timed, at most 9")
    parser.add_argument("--folder-images", type=int, default=2000)
    args = parser.parse_args()
    if args.one:
        job, *rest = args.one
        numbers = [int(value) for value in rest[-3:]]
        print(json.dumps(folder_memory(*numbers) if job == "folder" else select(job, *numbers)))
        return
    lines = ["| side | factor | CPU s a class | / plain | bound | peak memory, MB |", "|---|---|---|---|---|---|"]
    for factor in (1, 2):
        base = common.measure(__file__, "plain", factor, args.images, args.rounds)
        for side, bound in (("plain", ""), ("tuned", ""), ("ddbench", "0.8")):
            own = base if side == "plain" else common.measure(__file__, side, factor, args.images, args.rounds)
            lines.append(
                f"| {side} | {factor} | {own['seconds']:.2f} | {own['seconds'] / base['seconds']:.2f} | {bound} "
                f"| {own['memory'] / 1e6:.0f} |"
            )
    own = common.measure(__file__, "folder", args.folder_images)
    lines += [
        "",
        f"Folder of {args.folder_images:,} images of 64 px ({own['data'] / 1e6:.0f} MB of pixels to train on, mapped), "
        f"factor 2, {SMALL}: "
        f"{own['private'] / 1e6:.0f} MB above the process with the data open (bound {MEMORY_BOUND}; with "
        f"the pages of the mapped file {own['memory'] / 1e6:.0f}), {own['seconds']:.1f} CPU s.",
    ]
    flags = "".join(
        f" --{name.replace('_', '-')} {getattr(args, name)}"
        for name in ("images", "rounds", "folder_images")
        if getattr(args, name) != parser.get_default(name)
    )
    common.report(__file__, "RDED", lines, f"python benchmarks/rded.py{flags}")


if __name__ == "__main__":
    sys.exit(main())
