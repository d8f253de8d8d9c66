"""What several processes of torchrun compute together and each of them alone: ``ranks_gradients.py DATA BUFFERS OUT``.

OUT is JSON: name -> largest difference, relative to the largest number. In float64, but for IDC, whose preprocessing is
in float32: there a difference of 0 is expected.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import digits_context
from torch import Tensor
from trajectory_context import make_context, started

from ddbench.methods.base import Context
from ddbench.methods.datm import DATM
from ddbench.methods.dc import DC
from ddbench.methods.dm import DM
from ddbench.methods.dsa import DSA
from ddbench.methods.idc import IDC
from ddbench.methods.mtt import MTT
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.tesla import TESLA
from ddbench.runtime.ranks import ALONE, Ranks, join

STUDENT = "convnet-d2-w4-in"


class Double(Context):
    """Networks in float64."""

    def network(self, seed: int) -> torch.nn.Module:
        return super().network(seed).double()


class DoubleBatches(RealBatches):
    """Real images in float64."""

    def batch(self, *args: Any) -> Tensor:
        return super().batch(*args).double()


def trajectory(kind: Any, ranks: Ranks, data: Path, buffers: Path, **settings: Any) -> list[Tensor]:
    """Loss and gradients of an outer iteration, seven images a step of the student."""
    experts = "gsam" if kind is DATM else "sgd"
    context = dataclasses.replace(make_context(buffers, data, Path(), kind=experts), ranks=ranks)
    method = started(kind, context, batch_syn=7, student_steps=3, **settings)
    method.inner.net.to("cpu", torch.float64)
    for one in (method.canvas, method.rate, *([method.soft] if kind is DATM else [])):
        one.value = one.value.double()
    segment = method.draw_segment(0)
    targets = {epochs: target.double() for epochs, target in segment.targets.items()}
    result = method.inner(method.problem(dataclasses.replace(segment, start=segment.start.double(), targets=targets)))
    return [result.loss, result.images, result.lr, *([] if result.labels is None else [result.labels])]


def steps(kind: Any, ranks: Ranks, data: Path, **settings: Any) -> list[Tensor]:
    """Loss and gradient of three steps, and the images after them."""
    context = digits_context(data, Path(), student=STUDENT, ranks=ranks)
    if kind is not IDC:
        context = Double(**vars(context))
    method = kind(kind.config_class(**settings), context)
    kind.check(method.config, context)
    method.setup()
    found: list[Tensor] = []
    if kind is not IDC:
        method.canvas.value = method.canvas.value.double()
        method.canvas.optimizer.parameters = [method.canvas.value]
        descend = method.canvas.step
        method.canvas.step = lambda gradient: (found.append(gradient), descend(gradient))
    for number in range(3):
        found.append(torch.tensor(method.step(number)["loss"], dtype=torch.float64))
    return [*found, *method.canvas.state().values()]


def main(data: Path, buffers: Path, out: Path) -> None:
    """Both ways for each method; every process must come to the same."""
    torch.set_num_threads(1)
    for family in ("gradient_matching", "distribution"):
        sys.modules[f"ddbench.methods.families.{family}"].RealBatches = DoubleBatches  # type: ignore[attr-defined]
    loops = {"outer_loops": 2, "inner_epochs": 2, "batch_real": 9}
    formation = {"inner_steps": 2, "batch_real": 9, "net_images": 100, "lr_images": 0.1}
    cases: dict[str, Callable[[Ranks], list[Tensor]]] = {
        "mtt": lambda ranks: trajectory(MTT, ranks, data, buffers),
        "datm": lambda ranks: trajectory(DATM, ranks, data, buffers, init="real"),
        "tesla": lambda ranks: trajectory(TESLA, ranks, data, buffers),
        "dm": lambda ranks: steps(DM, ranks, data, batch_real=9, mask_ratio=0.2),
        "dc": lambda ranks: steps(DC, ranks, data, **loops),
        "dsa": lambda ranks: steps(DSA, ranks, data, **loops),
        "idc": lambda ranks: steps(IDC, ranks, data, **formation),
    }
    ranks, differences = join(), {}
    for name, case in cases.items():
        differences[name] = max(
            float((ours - theirs).abs().max() / theirs.abs().max())
            for ours, theirs in zip(case(ranks), case(ALONE), strict=True)
        )
    largest = torch.tensor(list(differences.values()), dtype=torch.float64)
    (summed,) = ranks.sum(largest)
    if ranks.leads:
        out.write_text(json.dumps({"world": ranks.world, **dict(zip(differences, summed.tolist(), strict=True))}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
