"""Do DREAM's representatives spare iterations? Held-out accuracy against iterations on digits, with and without them.

IDC with random real batches and with representative ones (``--sampler dream``), from the same first images, under the
same networks and augmentations; and DREAM, which also chooses its first images. Scored on training images that are held
out, never on the test set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

STUDENT = "convnet-d2-w32-in"
HOLDOUT = 0.3
RUNS = 5
STUDENTS = 2
EPOCHS = 300
CLASSES = 10
SCHEDULE = {"iterations": 8, "inner_steps": 20, "factor": 1, "net_images": 128, "lr_images": 0.003}
AT = (0, 10, 20, 40, 80, 120, 160)
BATCHES = (8, 32)
KINDS: dict[str, dict[str, str]] = {
    "IDC": {"sampler": "random", "init": "mix"},
    "IDC, sampler dream": {"sampler": "dream", "init": "mix"},
    "DREAM": {"sampler": "dream", "init": "dream"},
}
COLOURS = ("#4c566a", "#b8860b", "#b22222")


def curve(context: Any, batch: int, settings: dict[str, str]) -> list[float]:
    """Held-out accuracy (mean of a few students) after the steps of ``AT``."""
    from ddbench.evaluate.plan import Plan, Settings, train_student
    from ddbench.evaluate.protocols import PROTOCOLS, changed
    from ddbench.methods.idc import IDC, IDCConfig
    from ddbench.synset import Budget, Synset

    config: Any = IDCConfig(**SCHEDULE, batch_real=batch, **settings)  # type: ignore[arg-type]
    method = IDC(config, context)
    method.setup()
    protocol, _ = changed(PROTOCOLS["hard-v1"], epochs=EPOCHS)
    made = []
    for iteration in range(AT[-1] + 1):
        if iteration in AT:
            product = method.distilled()
            synset = Synset(
                images=product.images,
                labels=product.labels,
                preprocess=context.preprocess.to_json(),
                budget=Budget("ipc", context.ipc),
                dataset="digits",
                fingerprint=context.dataset.fingerprint,
                class_names=context.dataset.spec.class_names,
                method="idc",
                config={},
                seed=context.seed,
            )
            plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=False)
            how = Settings(device="cpu", threads=1)
            scores = [train_student(plan, context.held_out, STUDENT, s, how)["accuracy"] for s in range(STUDENTS)]
            made.append(100 * sum(scores) / len(scores))
        if iteration < AT[-1]:
            method.step(iteration)
    return made


def contexts(ipc: int) -> list[Any]:
    """One run's surroundings for each seed."""
    import torch

    from ddbench.data.dataset import holdout_split
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import fit_preprocess
    from ddbench.methods.base import Context
    from ddbench.runtime.progress import Console

    dataset = load_dataset("digits", None)
    train, held_out = holdout_split(dataset.train, HOLDOUT, CLASSES)
    return [
        Context(
            dataset=dataset,
            train=train,
            held_out=held_out,
            preprocess=fit_preprocess(dataset, "meanstd"),
            ipc=ipc,
            student=STUDENT,
            seed=seed,
            device=torch.device("cpu"),
            folder=Path(),
            compile="off",
            console=Console(quiet=True),
        )
        for seed in range(RUNS)
    ]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def difference(ours: Sequence[float], others: Sequence[float]) -> str:
    """Mean paired difference over runs with its 95 % interval."""
    from ddbench.evaluate.statistics import summarise

    found = summarise([a - b for a, b in zip(ours, others, strict=True)])
    return f"{found['mean']:+.1f} ({found['low']:+.1f} to {found['high']:+.1f})"


def svg(panels: dict[int, dict[str, list[list[float]]]]) -> str:
    """A panel for each batch size: mean of the runs as a line, their range as a band."""
    width, height, left, top, gap = 380, 260, 46, 30, 30
    every = [value for lines in panels.values() for runs in lines.values() for run in runs for value in run]
    low, high = 5 * (min(every) // 5), 5 * -(-max(every) // 5)
    parts = []
    for number, (batch, lines) in enumerate(panels.items()):
        origin = left + number * (width + left + gap)

        def place(step: float, value: float, origin: int = origin) -> str:
            return f"{origin + width * step / AT[-1]:.1f},{top + height * (high - value) / (high - low):.1f}"

        parts.append(f'<text x="{origin}" y="{top - 10}">{batch} real images of a class in a step</text>')
        for tick in range(int(low), int(high) + 1, 5):
            x, y = place(0, tick).split(",")
            parts.append(f'<line x1="{x}" y1="{y}" x2="{origin + width}" y2="{y}" stroke="#dddddd"/>')
            parts.append(f'<text x="{origin - 6}" y="{float(y) + 4}" text-anchor="end">{tick}</text>')
        for tick in range(0, AT[-1] + 1, 40):
            x, y = place(tick, low).split(",")
            parts.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{tick}</text>')
        for place_of, (name, colour) in enumerate(zip(lines, COLOURS, strict=True)):
            columns = list(zip(*lines[name], strict=True))
            upper = [place(step, max(column)) for step, column in zip(AT, columns, strict=True)]
            lower = [place(step, min(column)) for step, column in zip(AT, columns, strict=True)]
            middle = [place(step, mean(column)) for step, column in zip(AT, columns, strict=True)]
            band = " ".join([*upper, *reversed(lower)])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity="0.12"/>')
            parts.append(f'<polyline points="{" ".join(middle)}" fill="none" stroke="{colour}" stroke-width="2"/>')
            y = top + height - 14 - 16 * place_of
            parts.append(f'<text x="{origin + width - 8}" y="{y}" text-anchor="end" fill="{colour}">{name}</text>')
        parts.append(f'<text x="{origin + width / 2}" y="{top + height + 34}" text-anchor="middle">sweeps</text>')
    full = len(panels) * (width + left + gap)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {top + height + 44}" width="{full}"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-family="sans-serif" font-size="12">', ground, *parts, "</svg>", ""])


def main() -> None:
    """Run, print, and with --write store table and picture."""
    from ddbench.runtime import device

    parsed = common.parser(str(__doc__))
    parsed.add_argument("--ipc", type=int, default=1)
    arguments = parsed.parse_args()
    device.prepare(1)
    panels: dict[int, dict[str, list[list[float]]]] = {}
    table = []
    for batch in BATCHES:
        lines = {
            name: [curve(context, batch, settings) for context in contexts(arguments.ipc)]
            for name, settings in KINDS.items()
        }
        panels[batch] = lines
        table += [f"{batch} real images of a class in a step:", "", f"| sweeps | {' | '.join(KINDS)} | sampler alone |"]
        table.append("|---" * (len(KINDS) + 2) + "|")
        for place, step in enumerate(AT):
            at = {name: [run[place] for run in runs] for name, runs in lines.items()}
            means = " | ".join(f"{mean(values):.1f}" for values in at.values())
            table.append(f"| {step} | {means} | {difference(at['IDC, sampler dream'], at['IDC'])} |")
        table.append("")
    head = [
        f"Mean held-out accuracy (%) of {RUNS} runs, {STUDENTS} students of {EPOCHS} epochs each, IPC {arguments.ipc}, "
        f"{STUDENT}, {HOLDOUT:.0%} of the training images held out; band: range of the runs. Last column: IDC with",
        "`--sampler dream` less IDC from the same first images, paired by seed, with its 95 % interval.",
        "",
        "![held-out accuracy against sweeps](dream_curve.svg)",
        "",
    ]
    common.report(__file__, "DREAM's sampler on digits", [*head, *table], "python benchmarks/dream_curve.py")
    if "--write" in sys.argv:
        Path(__file__).with_suffix(".svg").write_text(svg(panels))


if __name__ == "__main__":
    sys.exit(main())
