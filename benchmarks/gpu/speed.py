"""Speed: ddbench's loops beside plain eager ones, in this process, on random pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu.report import Report, reason
from benchmarks.gpu.world import World, made_dataset, make_context, plain_network, tf32, timed

PRECISIONS = ("float32", "TF32", "bfloat16")


def run(world: World, report: Report) -> None:
    """All tables; a line that fails says why."""
    for table in (inner_loop, methods, selection, training):  # the longest last
        table(world, report)
    tf32(False)


def _line(
    report: Report,
    world: World,
    words: tuple[object, ...],
    work: Callable[[], object],
    base: float,
    shorter: Callable[[], object] | None = None,
) -> float:
    """Time a piece of work and add its line; returns its seconds (nan where it failed).

    Args:
        base: seconds of the plain side; 0: this is it.
        shorter: what warms up for work that takes so long that it is timed once.
    """
    import torch

    try:
        if shorter is not None:
            shorter()
        once = world.rehearse or shorter is not None
        seconds, memory = timed(world.device, work, rounds=1 if once else 2, warm=not once)
    except (RuntimeError, torch.OutOfMemoryError) as error:
        report.row(*words, "", "", f"FAILED: {reason(error)}")
        return float("nan")
    report.row(*words, seconds, memory, (base or seconds) / seconds)
    return seconds


# inner loop


def inner_loop(world: World, report: Report) -> None:
    """An MTT outer iteration by mode, steps and precision."""
    import torch

    from ddbench.networks.build import build_student
    from ddbench.training.flat import FlatNet, flatten_parameters

    size, channels, images = world.scale(32, 8), 3, world.scale(100, 10)
    student = f"convnet-d3-w{world.width}-in"
    g = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, size, size, generator=g).to(world.device)
    y = (torch.arange(images) % 10).to(world.device)
    module = build_student(student, channels=channels, size=size, classes=10, seed=0).to(world.device)
    start = flatten_parameters(module).detach()
    target = start + 0.01 * torch.randn(len(start), generator=g).to(world.device)
    plain = FlatNet(plain_network(world.width, channels, size).to(world.device))
    heads = ("mode", "steps", "precision", "seconds", "memory, MiB", "times faster than plain")
    report.table(f"Inner loop: an outer iteration, {images} images of {size} px, {student}", heads)
    for steps in (world.scale(40, 2), world.scale(80, 3)):
        for precision in PRECISIONS[:2]:
            tf32(precision == "TF32")
            work = partial(_plain_outer, plain, start, target, x, y, steps)
            base = _line(report, world, ("plain eager", steps, precision), work, 0.0)
            for mode in ("unroll", "adjoint", "truncated"):
                work = partial(_outer, FlatNet(module), mode, start, target, x, y, steps)
                _line(report, world, (mode, steps, precision), work, base)


def _plain_outer(net: Any, start: Any, target: Any, x: Any, y: Any, steps: int) -> None:
    """Autograd through all steps."""
    import torch
    import torch.nn.functional as F

    x = x.clone().requires_grad_()
    lr = torch.tensor(0.01, device=x.device, requires_grad=True)
    theta = start.clone().requires_grad_()
    for _ in range(steps):
        theta = theta - lr * torch.autograd.grad(F.cross_entropy(net(theta, x), y), theta, create_graph=True)[0]
    ((theta - target).pow(2).sum() / (start - target).pow(2).sum()).backward()


def _outer(net: Any, mode: str, start: Any, target: Any, x: Any, y: Any, steps: int) -> None:
    import torch

    from ddbench.training.inner import InnerLoop
    from ddbench.training.problem import InnerProblem, match_term

    lr, terms = torch.tensor(0.01, device=x.device), [match_term(steps, target, start)]
    InnerLoop(net, mode)(InnerProblem(start=start, images=x, labels=y, lr=lr, batches=[None] * steps, terms=terms))


# experts and scoring


def training(world: World, report: Report) -> None:
    """Experts an hour and students scored, one by one and at once, by precision."""
    many, size = world.scale(4, 2), world.scale(32, 8)
    sides = (("plain eager", 0), ("one by one", 1), ("at once", many))
    jobs = (
        ("experts", world.scale(10_000, 40), 1, 0),
        ("scoring, 100 images, 300 passes", world.scale(100, 10), world.scale(300, 2), world.scale(10_000, 20)),
    )
    heads = ("side", "networks", "precision", "seconds", "memory, MiB", "times faster than plain")
    for what, images, passes, tests in jobs:
        title = f"{what}: {many} networks convnet-d3-w{world.width}-in, {images} images of {size} px, {passes} passes"
        report.table(title + (f", {tests} test images" if tests else ", batch 256, DSA"), heads)
        base, data = 0.0, _random_images(images + tests, size)
        for precision in PRECISIONS:
            tf32(precision == "TF32")
            for side, at_once in sides:
                if at_once == 0 and precision == "bfloat16":
                    continue
                work = partial(_train, world, at_once, many, data, (images, passes, tests), precision)
                short = (images, min(passes, 2), min(tests, 256))
                shorter = partial(_train, world, at_once, many, data, short, precision)
                seconds = _line(report, world, (side, many, precision), work, base, shorter)
                base = base or seconds
        if not tests:
            report.say(
                f"Experts of 50 epochs of 50,000 images an hour: {3600 * many * images / 2_500_000:.3g} / seconds."
            )


def _random_images(count: int, size: int) -> tuple[Any, Any]:
    """Random pixels and classes, on the CPU: made before the clock runs."""
    import torch

    g = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, size, size, generator=g), torch.arange(count) % 10


def _train(
    world: World, at_once: int, many: int, data: tuple[Any, Any], shape: tuple[int, int, int], precision: str
) -> None:
    """Train ``many`` networks (``at_once`` 0: by a plain loop) and test them."""
    import torch

    from ddbench.data.policy import parse_policy
    from ddbench.networks.build import build_student
    from ddbench.training.loops import Inputs, predict, train
    from ddbench.training.many import train_many
    from ddbench.training.optimizers import OptimizerSettings

    images, passes, tests = shape
    (x, y), device = (part[: images + tests] for part in data), torch.device(world.device)
    size = x.shape[-1]
    if not at_once:
        x, y = x.to(device), y.to(device)
        for _ in range(many):
            _plain_training(world, x, y, images, passes, size)
        return
    inputs = Inputs(x[:images], y[:images], None, device)
    test = Inputs(x[images:], y[images:], None, device) if tests else None
    settings: dict[str, Any] = {
        "epochs": passes,
        "batch": 256,
        "optimizer": OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=5e-4),
        "policy": parse_policy("dsa"),
        "precision": "bfloat16" if precision == "bfloat16" else "float32",
    }
    name = f"convnet-d3-w{world.width}-in"
    nets = [build_student(name, channels=3, size=size, classes=10, seed=seed).to(device) for seed in range(many)]
    if at_once > 1:
        for _ in train_many(nets, inputs, seeds=range(many), **settings):
            pass
    for seed, net in enumerate(nets):
        for _ in train(net, inputs, seed=seed, **settings) if at_once == 1 else ():
            pass
        if test is not None:
            predict(net, test, precision=settings["precision"])


def _plain_training(world: World, x: Any, y: Any, images: int, passes: int, size: int) -> None:
    import torch
    import torch.nn.functional as F

    from ddbench.data.augment import apply, draw, parse_strategy

    net = plain_network(world.width, 3, size).to(x.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    strategy, g = parse_strategy("color_crop_cutout_flip_scale_rotate"), torch.Generator().manual_seed(0)
    assert strategy is not None
    for _ in range(passes):
        for index in torch.randperm(images, generator=g).to(x.device).split(256):
            own = apply(draw(strategy, len(index), size, g), x[index])
            optimizer.zero_grad()
            F.cross_entropy(net(own), y[index]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        for first in range(images, len(x), 256):
            net(x[first : first + 256]).argmax(1).cpu()


# methods


def methods(world: World, report: Report) -> None:
    """An iteration of DC, DM, DataDAM and RDED on images as Fashion-MNIST's."""
    dataset = made_dataset(world.scale(300, 8))
    batch = world.scale(256, 4)
    heads = ("method", "side", "precision", "seconds", "memory, MiB", "times faster than plain")
    report.table(f"An iteration, width {world.width}, {batch} real images of each of 10 classes (DataDAM: 64)", heads)
    cases = (("dc", 1, "in", batch), ("dm", 10, "in", batch), ("datadam", 10, "bn", min(batch, 64)))
    for name, ipc, norm, real in cases:
        for precision in PRECISIONS[:2]:
            tf32(precision == "TF32")
            work = _plain_matching(world, dataset, name, min(ipc, world.scale(ipc, 2)), norm, real)
            base = _line(report, world, (name, "plain eager", precision), work, 0.0)
            work = _step(world, dataset, name, min(ipc, world.scale(ipc, 2)), norm, real)
            _line(report, world, (name, "ddbench", precision), work, base)


def _step(world: World, dataset: Any, name: str, ipc: int, norm: str, real: int) -> Callable[[], object]:
    """A function that makes the next iteration of a method."""
    from itertools import count

    from ddbench.methods import METHODS

    kind = METHODS.get(name)
    context = make_context(dataset, world.device, world.scratch, ipc=ipc, student=f"convnet-d3-w{world.width}-{norm}")
    method, numbers = kind(kind.config_class(batch_real=real), context), count()
    method.setup()
    return lambda: method.step(next(numbers))


def _plain_matching(world: World, dataset: Any, name: str, ipc: int, norm: str, real: int) -> Callable[[], object]:
    """An iteration as public code has it: a class at a time (with batch norm all at once), autograd over everything."""
    import torch

    from ddbench.data.preprocess import fit_preprocess

    device = torch.device(world.device)
    x = fit_preprocess(dataset, "meanstd").apply(dataset.train.images).to(device)
    y, classes = dataset.train.labels.to(device), dataset.spec.classes
    synthetic = torch.cat([x[y == label][:ipc] for label in range(classes)]).clone().requires_grad_()
    optimizer = torch.optim.SGD([synthetic], lr=0.1, momentum=0.5)

    def iteration() -> None:
        net = plain_network(world.width, 1, dataset.spec.size, norm, classes if name == "dc" else 0).to(device)
        batches = [x[y == label][torch.randperm(int((y == label).sum()))[:real].to(device)] for label in range(classes)]
        own = synthetic.split(ipc)
        if name == "dc":
            loss = sum(
                _gradient_distance(net, one, two, label)
                for label, (one, two) in enumerate(zip(batches, own, strict=True))
            )
        else:
            for parameter in net.parameters():
                parameter.requires_grad = False
            groups = list(zip(batches, own, strict=True)) if norm == "in" else [(torch.cat(batches), synthetic)]
            loss = sum(_feature_distance(net, one, two, ipc, name == "datadam") for one, two in groups)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return iteration


def _gradient_distance(net: Any, real: Any, own: Any, label: int) -> Any:
    import torch
    import torch.nn.functional as F

    parameters = list(net.parameters())
    answers = []
    for images, keep in ((real, False), (own, True)):
        target = torch.full((len(images),), label, device=images.device)
        answers.append(torch.autograd.grad(F.cross_entropy(net(images), target), parameters, create_graph=keep))
    total = torch.zeros((), device=real.device)
    for a, b in zip(*answers, strict=True):
        if a.dim() > 1:
            a, b = a.detach().reshape(len(a), -1), b.reshape(len(b), -1)
            total = total + torch.sum(1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6))
    return total


def _feature_distance(net: Any, real: Any, own: Any, ipc: int, maps: bool) -> Any:
    import torch
    import torch.nn.functional as F
    from torch import nn

    def answers(images: Any) -> list[Any]:
        found = []
        for layer in net:
            images = layer(images)
            if maps and isinstance(layer, nn.ReLU) and len(found) < 2:
                found.append(F.normalize((images.abs() ** 1).sum(1).flatten(1)))
        return [*found, images]

    classes = len(own) // ipc
    total = torch.zeros((), device=real.device)
    for position, (a, b) in enumerate(zip(answers(real), answers(own), strict=True)):
        a = a.detach().reshape(classes, len(real) // classes, -1).mean(1)
        weight = 100.0 if maps and position < 2 else 1.0
        total = total + weight * ((a - b.reshape(classes, ipc, -1).mean(1)) ** 2).sum()
    return total


# RDED


def selection(world: World, report: Report) -> None:
    """RDED's selection of a class, 5 crops of each image, against torchvision's crops one by one."""
    tf32(False)
    images = world.scale(300, 8)
    dataset = made_dataset(images)
    heads = ("method", "side", "precision", "seconds", "memory, MiB", "times faster than plain")
    report.table(f"RDED: a class of {images} images of 28 px, IPC {world.scale(10, 2)}, width {world.width}", heads)
    try:
        base = _line(report, world, ("rded", "plain eager", "float32"), _plain_selection(world, dataset), 0.0)
    except ModuleNotFoundError as error:
        report.row("rded", "plain eager", "float32", "", "", f"left out: needs {error.name}")
        base = 0.0
    _line(report, world, ("rded", "ddbench", "float32"), _selection(world, dataset), base)


def _selection(world: World, dataset: Any) -> Callable[[], object]:
    from itertools import cycle

    from ddbench.methods.needs.teacher import TrainedTeacher
    from ddbench.methods.rded import RDED, RDEDConfig
    from ddbench.networks.build import build_student
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.store import read_teacher, write_teacher

    student, path = f"convnet-d3-w{world.width}-bn", world.scratch / "rded-teacher.safetensors"
    context = make_context(dataset, world.device, world.scratch, ipc=world.scale(10, 2), student=student)
    write_teacher(
        path,
        build_student(student, channels=1, size=28, classes=10, seed=0),
        dataset=dataset,
        preprocess=context.preprocess,
        student=student,
        recipe=TeacherRecipe(holdout=0.0).to_json(),
        curves={"loss": [], "train_accuracy": [], "holdout_accuracy": []},
        test_accuracy=0.1,
        versions={},
    )
    method = RDED(RDEDConfig(num_crop=5), context.give(TrainedTeacher, read_teacher(path)))
    method.setup()
    classes = cycle(range(method.iterations))
    return lambda: method.step(next(classes))


def _plain_selection(world: World, dataset: Any) -> Callable[[], object]:
    import torch
    import torch.nn.functional as F
    from torchvision.transforms import RandomResizedCrop

    net = plain_network(world.width, 1, 28, "bn").to(world.device).eval()
    images, cut = dataset.train.images[dataset.train.labels == 0], RandomResizedCrop(28, ratio=(1, 1), antialias=True)

    def one_class() -> None:
        crops = torch.stack([torch.stack([cut(image / 255) for _ in range(5)]) for image in images])
        crops = ((crops - 0.2861) / 0.3530).transpose(0, 1).flatten(0, 1)
        target = torch.zeros(len(images), dtype=torch.int64, device=world.device)
        with torch.no_grad():
            parts = [
                F.cross_entropy(net(x.to(world.device)), target, reduction="none") for x in crops.split(len(images))
            ]
        losses = torch.stack(parts)
        best = losses.min(0).values.argsort()[: world.scale(10, 2)]
        crops.unflatten(0, (5, -1))[losses.argmin(0)[best].cpu(), best.cpu()].mul(0.3530).add(0.2861).mul(255).byte()

    return one_class
