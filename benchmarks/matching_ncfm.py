"""An outer iteration of NCFM against a plain eager PyTorch loop with the default allocator.

Both sides do the same work: a network between the start and the end of an expert; for each of ten classes a real batch
and the decoded synthetic images under one draw of the augmentation, their characteristic functions, one step of AdamW;
then for each class a step on the trained expert's cross-entropy. The plain side is written as public code has it: plain
modules, a class at a time through the network, autograd, ``torch.optim``, and a sampler whose gradient comes from the
same backward pass. One thread, CPU seconds of an iteration, median of the rounds after the first.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

IPC = 10
CLASSES = 10
FACTOR = 2
IMAGES_OF_A_CLASS = 1100
CASES = ("gauss", "learned")
STEPS = ("color", "crop", "cutout")


def plain_network(width: int) -> Any:
    """The ConvNet for one-channel 28 px images as plain modules: features, then the classifier."""
    from torch import nn

    return nn.ModuleList([common.plain_features(width), nn.Linear(width * 16, CLASSES)]).requires_grad_(False)


def plain_sampler(width: int) -> Any:
    """White noise to frequencies."""
    from torch import nn

    layers: list[nn.Module] = []
    for last in (False, False, True):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh() if last else nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def plain_augment(x: Any, randomness: Any) -> Any:
    """Colour, crop and cutout, one draw for all images."""
    from ddbench.data.augment import Strategy, apply, draw

    for family in STEPS:
        x = apply(draw(Strategy((family,), siamese=True), 1, x.shape[-1], randomness), x)
    return x


def plain_characteristic(features: Any, at: Any) -> tuple[Any, Any, Any]:
    """Real part, imaginary part and amplitude."""
    import torch

    angles = torch.matmul(at, features.t())
    real, imaginary = torch.cos(angles).mean(1), torch.sin(angles).mean(1)
    return real, imaginary, torch.sqrt(real * real + imaginary * imaginary)


def plain_loss(real: Any, own: Any, at: Any) -> Any:
    """The matching loss of features."""
    import torch
    import torch.nn.functional as F

    a_real, a_imaginary, a = plain_characteristic(F.normalize(real), at)
    b_real, b_imaginary, b = plain_characteristic(F.normalize(own), at)
    phase = (2 * (a * b - a_real * b_real - a_imaginary * b_imaginary)).clamp(min=1e-12)
    return 300 * torch.sqrt(0.5 * (a - b) ** 2 + 0.5 * phase).mean()


def plain_decode(stored: Any) -> Any:
    """Each stored image as its four quarters, enlarged."""
    import torch
    import torch.nn.functional as F

    half = stored.shape[-1] // FACTOR
    tiles = [stored[:, :, i : i + half, j : j + half] for i in (0, half) for j in (0, half)]
    return F.interpolate(torch.cat(tiles), size=stored.shape[2:], mode="bilinear", align_corners=False)


def plain_iterations(
    case: str, pixels: Any, labels: Any, width: int, batch: int, count: int, rounds: int
) -> list[float]:
    """CPU seconds of the rounds, the straightforward way."""
    import torch
    import torch.nn.functional as F

    from ddbench.runtime.seeds import generator

    images = pixels.float() / 255
    index = [(labels == label).nonzero().flatten() for label in range(CLASSES)]
    synthetic = torch.cat([images[own[:IPC]] for own in index]).requires_grad_()
    optimizer = torch.optim.AdamW([synthetic], lr=1e-3, weight_decay=5e-4)
    start, end, between = (plain_network(width) for _ in range(3))
    sampler = plain_sampler(width * 16) if case == "learned" else None
    ascent = torch.optim.Adam(sampler.parameters(), lr=1e-3, maximize=True) if sampler is not None else None
    randomness = generator(0, "plain")

    def network_input(x: Any) -> Any:
        return plain_augment((x - 0.2861) / 0.3530, randomness)

    def iteration(_: int) -> None:
        share = float(torch.rand((), generator=randomness))
        for one, first, last in zip(between.parameters(), start.parameters(), end.parameters(), strict=True):
            one.data.copy_(share * first.data + (1 - share) * last.data)
        synthetic.data.clamp_(0, 1)
        for label in range(CLASSES):
            chosen = index[label][torch.randperm(len(index[label]), generator=randomness)[:batch]]
            decoded = plain_decode(synthetic[label * IPC : (label + 1) * IPC])
            both = network_input(torch.cat([images[chosen], decoded]))
            at = torch.randn(count, width * 16, generator=randomness)
            at = at if sampler is None else sampler(at)
            with torch.no_grad():
                real = between[0](both[:batch])
            loss = plain_loss(real, between[0](both[batch:]), at)
            optimizer.zero_grad()
            if ascent is not None:
                ascent.zero_grad()
            loss.backward()
            optimizer.step()
            if ascent is not None:
                ascent.step()
            loss.item()
        for label in range(CLASSES):
            x = network_input(plain_decode(synthetic[label * IPC : (label + 1) * IPC]))
            loss = F.cross_entropy(end[1](end[0](x)), torch.full((len(x),), label))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return common.timed(iteration, rounds)


def our_iterations(case: str, pixels: Any, labels: Any, width: int, batch: int, count: int, rounds: int) -> list[float]:
    """CPU seconds of the rounds as ``ddbench distill`` does them."""
    import torch

    from ddbench.experts.recipe import ExpertRecipe
    from ddbench.experts.store import TrajectoryStore
    from ddbench.networks.build import build_student
    from ddbench.training.flat import flatten_parameters

    student = f"convnet-d3-w{width}-in"
    nets = [build_student(student, channels=1, size=28, classes=CLASSES, seed=seed) for seed in (0, 1)]
    parameters = [[name, list(parameter.shape)] for name, parameter in nets[0].named_parameters()]
    curves = {"seed": 0, "loss": [], "train_accuracy": [], "holdout_accuracy": [], "test_accuracy": None}
    with tempfile.TemporaryDirectory() as folder:
        recipe = ExpertRecipe(epochs=1)
        store = TrajectoryStore(folder=Path(folder), recipe=recipe, header={"parameters": parameters})
        store.write_expert(0, torch.stack([flatten_parameters(net) for net in nets]), torch.zeros(2, 0), curves)
        store.scan(0)
        settings = {"batch_real": batch, "frequency_count": count, "frequencies": case, "factor": FACTOR}
        method = common.made_method("ncfm", settings, pixels, labels, ipc=IPC, student=student, experts=store)
        return common.timed(method.step, rounds)


def one(side: str, case: str, width: int, batch: int, count: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of an iteration, and the process's peak memory in bytes."""
    import torch

    torch.set_num_threads(1)
    pixels, labels = common.random_pixels(IMAGES_OF_A_CLASS)
    measured = plain_iterations if side == "plain" else our_iterations
    seconds = measured(case, pixels, labels, width, batch, count, rounds)
    return {"seconds": statistics.median(seconds[1:]), "memory": float(common.peak())}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-real", type=int, default=1024)
    parser.add_argument("--frequency-count", type=int, default=1024, help="as the paper; the public code: 4096")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    if args.one:
        side, case, *numbers = args.one
        print(json.dumps(one(side, case, *map(int, numbers))))
        return
    lines = [
        "| frequencies | side | CPU s an iteration | / plain | bound | peak memory, MB | / plain | bound |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        numbers = (args.width, args.batch_real, args.frequency_count, args.rounds)
        base = common.measure(__file__, "plain", case, *numbers)
        own = common.measure(__file__, "ddbench", case, *numbers)
        for side, found, bounds in (("plain", base, ("", "")), ("ddbench", own, ("0.5", "1.1"))):
            lines.append(
                f"| {case} | {side} | {found['seconds']:.2f} | {found['seconds'] / base['seconds']:.2f} | {bounds[0]} "
                f"| {found['memory'] / 1e6:.0f} | {found['memory'] / base['memory']:.2f} | {bounds[1]} |"
            )
    title = f"NCFM: an outer iteration, convnet-d3-w{args.width}-in, IPC {IPC}, {CLASSES} classes, 28 px"
    settings = f"Real batch {args.batch_real}, {args.frequency_count} frequencies, factor {FACTOR}."
    common.report(__file__, title, [settings, "", *lines], common.command(__file__))


if __name__ == "__main__":
    sys.exit(main())
