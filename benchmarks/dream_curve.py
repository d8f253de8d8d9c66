"""Does DREAM spare iterations? Held-out accuracy against the steps of the images, on digits or MNIST.

IDC with random real batches and with representative ones (``--sampler dream``), from the same first images, under the
same networks and augmentations; DREAM, which also chooses its first images; and DM by its recipe, to its end. Scored
on training images that are held out, never on the test set. A step is a sweep over the classes (IDC, DREAM) or an
iteration (DM): every image is moved once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """What is run on a dataset, all of it much smaller than what is published.

    Attributes:
        runs: seeds of the distillation.
        students: networks that each synset is scored with, of so many epochs.
        at: steps after which that is done.
        batches: real images of a class in a step; a panel each.
        idc, dm: settings of the methods; DM's go on to the end, and its accuracy there is a goal for the others.
    """

    name: str
    student: str
    holdout: float
    runs: int
    students: int
    epochs: int
    at: tuple[int, ...]
    batches: tuple[int, ...]
    idc: dict[str, Any]
    dm: dict[str, Any]


SETTINGS = {
    "digits": Setting(
        name="digits",
        student="convnet-d2-w32-in",
        holdout=0.3,
        runs=5,
        students=2,
        epochs=200,
        at=(0, 10, 20, 40, 80, 120),
        batches=(8, 32),
        idc={"iterations": 8, "inner_steps": 20, "factor": 1, "net_images": 128, "lr_images": 0.003},
        dm={"iterations": 2000, "lr_images": 1.0},
    ),
    "mnist": Setting(
        name="mnist",
        student="convnet-d3-w32-in",
        holdout=0.9,
        runs=3,
        students=1,
        epochs=200,
        at=(0, 10, 20, 40, 80, 120),
        batches=(32,),
        idc={"iterations": 20, "inner_steps": 20, "factor": 2, "net_images": 128, "lr_images": 0.005},
        dm={"iterations": 1000, "lr_images": 10.0, "batch_real": 64},
    ),
}
KINDS: dict[str, dict[str, Any]] = {
    "IDC": {"sampler": "random", "init": "mix"},
    "IDC, sampler dream": {"sampler": "dream", "init": "mix"},
    "DREAM": {"sampler": "dream", "init": "dream"},
}
COLOURS = {"IDC": "#4c566a", "IDC, sampler dream": "#b8860b", "DREAM": "#b22222", "DM": "#2e6f40"}


def curve(method: Any, setting: Setting, at: Sequence[int]) -> list[float]:
    """Held-out accuracy in % (mean of the students) after some steps of a method."""
    method.setup()
    made = []
    for iteration in range(at[-1] + 1):
        if iteration in at:
            made.append(score(method, setting))
        if iteration < at[-1]:
            method.step(iteration)
    return made


def score(method: Any, setting: Setting) -> float:
    """Held-out accuracy in % of what a method has made by now."""
    from ddbench.protocols.plan import Plan
    from ddbench.protocols.protocol import PROTOCOLS, changed
    from ddbench.protocols.training import Settings, train_student
    from ddbench.synset import Budget, Synset

    context, product = method.context, method.distilled()
    protocol, _ = changed(PROTOCOLS["hard-v1"], epochs=setting.epochs)
    synset = Synset(
        images=product.images,
        labels=product.labels,
        preprocess=context.preprocess.to_json(),
        budget=Budget("ipc", context.ipc),
        dataset=setting.name,
        fingerprint=context.dataset.fingerprint,
        class_names=context.dataset.spec.class_names,
        method="idc",
        config={},
        seed=context.seed,
        decoder=product.decoder,
    )
    plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=False)
    how = Settings(device="cpu", threads=1)
    students = range(setting.students)
    return 100 * mean([train_student(plan, context.held_out, setting.student, s, how)["accuracy"] for s in students])


def contexts(setting: Setting, data: Path | None, ipc: int) -> list[Any]:
    """One run's surroundings for each seed."""
    import torch

    from ddbench.data.dataset import holdout_split, validation_sample
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods.base import Context
    from ddbench.runtime.progress import Console

    dataset = load_dataset(setting.name, data)
    train, held_out = holdout_split(dataset.train, setting.holdout, CLASSES)
    return [
        Context(
            dataset=dataset,
            train=train,
            held_out=validation_sample(held_out),
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=ipc,
            student=setting.student,
            seed=seed,
            device=torch.device("cpu"),
            folder=Path(),
            compile="off",
            console=Console(quiet=True),
        )
        for seed in range(setting.runs)
    ]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def difference(ours: Sequence[float], others: Sequence[float]) -> str:
    """Mean paired difference over runs with its 95 % interval."""
    from ddbench.statistics import summarise

    found = summarise([a - b for a, b in zip(ours, others, strict=True)])
    return f"{found['mean']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"


def reached(setting: Setting, lines: dict[str, list[list[float]]], goal: float) -> str:
    """The first of the steps at which each kind is, on average, at least as good as a goal."""
    found = []
    for name in KINDS:
        columns = zip(setting.at, zip(*lines[name], strict=True), strict=True)
        steps = [step for step, column in columns if mean(column) >= goal]
        found.append(f"{name} {steps[0] if steps else f'not within {setting.at[-1]}'}")
    return "; ".join(found)


def svg(setting: Setting, panels: dict[int, dict[str, list[list[float]]]], goal: float) -> str:
    """A panel for each batch size: mean of the runs as a line, their range as a band, DM's end as a broken line."""
    width, height, left, top, gap = 380, 260, 46, 30, 30
    at = setting.at
    every = [value for lines in panels.values() for runs in lines.values() for run in runs for value in run]
    low, high = 5 * (min(every) // 5), 5 * -(-max(every) // 5)
    parts = []
    for number, (batch, lines) in enumerate(panels.items()):
        origin = left + number * (width + left + gap)

        def place(step: float, value: float, origin: int = origin) -> str:
            return f"{origin + width * step / at[-1]:.1f},{top + height * (high - value) / (high - low):.1f}"

        parts.append(f'<text x="{origin}" y="{top - 10}">{batch} real images of a class in a step</text>')
        for tick in range(int(low), int(high) + 1, 5):
            x, y = place(0, tick).split(",")
            parts.append(f'<line x1="{x}" y1="{y}" x2="{origin + width}" y2="{y}" stroke="#dddddd"/>')
            parts.append(f'<text x="{origin - 6}" y="{float(y) + 4}" text-anchor="end">{tick}</text>')
        for tick in range(0, at[-1] + 1, 40):
            x, y = place(tick, low).split(",")
            parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{tick}</text>')
        ends = f"{place(0, goal)} {place(at[-1], goal)}"
        parts.append(f'<polyline points="{ends}" fill="none" stroke="{COLOURS["DM"]}" stroke-dasharray="5 4"/>')
        for place_of, name in enumerate(lines):
            colour = COLOURS[name]
            columns = list(zip(*lines[name], strict=True))
            upper = [place(step, max(column)) for step, column in zip(at, columns, strict=True)]
            lower = [place(step, min(column)) for step, column in zip(at, columns, strict=True)]
            middle = [place(step, mean(column)) for step, column in zip(at, columns, strict=True)]
            band = " ".join([*upper, *reversed(lower)])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.12"/>')
            parts.append(f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colour}" stroke-width="2"/>')
            y = top + height - 14 - 16 * place_of
            label = f"{name} (broken: after {setting.dm['iterations']:,})" if name == "DM" else name
            parts.append(f'<text x="{origin + width - 8}" y="{y}" text-anchor="end" fill="{colour}">{label}</text>')
        parts.append(f'<text x="{origin + width / 2}" y="{top + height + 34}" text-anchor="middle">steps</text>')
    full = len(panels) * (width + left + gap)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {top + height + 44}" width="{full}"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-family="sans-serif" font-size="12">', ground, *parts, "</svg>", ""])


def table(setting: Setting, batch: int, lines: dict[str, list[list[float]]], goal: float) -> list[str]:
    """One panel in numbers."""
    names = list(lines)
    rows = [f"{batch} real images of a class in a step:", "", f"| steps | {' | '.join(names)} | sampler alone |"]
    rows.append("|---" * (len(names) + 2) + "|")
    for place, step in enumerate(setting.at):
        column = {name: [run[place] for run in runs] for name, runs in lines.items()}
        means = " | ".join(f"{mean(values):.1f}" for values in column.values())
        rows.append(f"| {step} | {means} | {difference(column['IDC, sampler dream'], column['IDC'])} |")
    last = mean([run[-1] for run in lines["IDC"]])
    rows += ["", f"Steps to DM's accuracy after {setting.dm['iterations']:,} ({goal:.1f}): "]
    rows[-1] += f"{reached(setting, lines, goal)}. To IDC's last ({last:.1f}): {reached(setting, lines, last)}."
    return [*rows, ""]


def main() -> None:
    """Run, print, and with --write store table and picture."""
    from ddbench.methods.dm import DM, DMConfig
    from ddbench.methods.idc import IDC, IDCConfig
    from ddbench.runtime import device

    parsed = common.parser(str(__doc__))
    parsed.add_argument("--ipc", type=int, default=1)
    parsed.add_argument("--dataset", choices=SETTINGS, default="digits")
    parsed.add_argument("--data", type=Path, help="where MNIST is")
    arguments = parsed.parse_args()
    device.prepare(1)
    setting = SETTINGS[arguments.dataset]
    runs = contexts(setting, arguments.data, arguments.ipc)
    distribution = [
        curve(DM(DMConfig(**setting.dm), one), setting, (*setting.at, setting.dm["iterations"])) for one in runs
    ]
    goal = mean([run[-1] for run in distribution])
    panels: dict[int, dict[str, list[list[float]]]] = {}
    tables = []
    for batch in setting.batches:
        panels[batch] = {
            name: [
                curve(IDC(IDCConfig(**setting.idc, batch_real=batch, **own), one), setting, setting.at) for one in runs
            ]
            for name, own in KINDS.items()
        }
        panels[batch]["DM"] = [run[:-1] for run in distribution]
        tables += table(setting, batch, panels[batch], goal)
    own = Path(__file__)
    if setting.name != "digits":
        own = own.with_name(f"dream_curve_{setting.name}.py")
    lines = [
        f"Mean held-out accuracy (%) of {setting.runs} runs, {setting.students} student(s) of {setting.epochs} epochs "
        f"each, IPC {arguments.ipc}, {setting.student}, {setting.holdout:.0%} of the training images held out; band:",
        "range of the runs. Last column: IDC with `--sampler dream` less IDC from the same first images, paired by "
        "seed, with its 95 % interval.",
        "",
        f"![held-out accuracy against steps]({own.stem}.svg)",
        "",
        *tables,
    ]
    command = f"python benchmarks/dream_curve.py{'' if setting.name == 'digits' else f' --dataset {setting.name}'}"
    common.report(str(own), f"DREAM against IDC and DM on {setting.name}", lines, command)
    if "--write" in sys.argv:
        own.with_suffix(".svg").write_text(svg(setting, panels, goal))


if __name__ == "__main__":
    sys.exit(main())
