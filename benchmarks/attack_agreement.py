"""Our gradient attacks against torchattacks, image by image: the same verdict?

A small ConvNet trained on the digits, its 500 test images, mean/std and ZCA inside the model, several bounds. VMI-FGSM
and Jitter draw random numbers, so two runs of the library differ too: its agreement with itself under another seed is
beside ours. torchattacks is no dependency of ddbench, and its pins do not fit: ``pip install --no-deps
torchattacks==3.5.1``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "unit"))

IMAGES, STEPS, STEP = 500, 10, 2


def main() -> None:
    """Print the table."""
    common.parser(__doc__ or "").parse_args()
    warnings.filterwarnings("ignore")
    import torch
    import torchattacks
    from robust_student import student, trained

    from ddbench.measurements.robustness.attack_probes import ascent
    from ddbench.measurements.robustness.attacks import Draws, ascend, random_start
    from ddbench.measurements.robustness.budgets import Attack

    index = torch.arange(IMAGES)
    library: dict[str, Callable[[Any, float], Any]] = {
        "fgsm": lambda model, eps: torchattacks.FGSM(model, eps=eps),
        "pgd": lambda model, eps: torchattacks.PGD(model, eps, STEP / 255, STEPS, random_start=False),
        "vmi": lambda model, eps: torchattacks.VMIFGSM(model, eps, STEP / 255, STEPS),
        "jitter": lambda model, eps: torchattacks.Jitter(model, eps, STEP / 255, STEPS),
    }
    lines = [
        "| preprocess | attack | eps | accuracy, ddbench | torchattacks | same verdict | torchattacks with itself |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("meanstd", "zca"):
        model = student(kind)
        test = trained(model, IMAGES).test
        x, y = test.images.float() / 255, test.labels
        for name, make in library.items():
            for bound in (4, 8, 16):
                how = ascent(Attack(kind=name, eps=bound, steps=STEPS, step=STEP, random_start=name == "jitter"))
                start = random_start(index, tuple(x.shape[1:]), how, 0, name) if how.random_start else None
                ours = model(ascend(model, x, y, how, start, Draws(index, 0, name))).argmax(1) == y
                theirs = []
                for seed in (0, 1):
                    torch.manual_seed(seed)
                    theirs.append(model(make(model, bound / 255)(x, y)).argmax(1) == y)
                same, itself = ((theirs[0] == other).float().mean() for other in (ours, theirs[1]))
                accuracies = f"{float(ours.float().mean()):.3f} | {float(theirs[0].float().mean()):.3f}"
                lines.append(
                    f"| {kind} | {name} | {bound}/255 | {accuracies} | {float(same):.3f} | {float(itself):.3f} |"
                )
    title = f"Attacks against torchattacks {version('torchattacks')}, {IMAGES} images of the digits"
    common.report(__file__, title, lines, "python benchmarks/attack_agreement.py")


if __name__ == "__main__":
    main()
