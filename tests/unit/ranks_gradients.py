"""What several processes of torchrun compute together and each of them alone: ``ranks_gradients.py DATA BUFFERS OUT``.

OUT is JSON: name -> largest difference, relative to the largest number. In float64, but for IDC and NCFM with Gaussian
frequencies, whose preprocessing is in float32: there a difference of 0 is expected.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from conftest import digits_context
from torch import Tensor
from trajectory_context import make_context, started

from ddbench.data.formation import decode
from ddbench.experts.store import find_stores
from ddbench.methods import ncfm
from ddbench.methods.base import Context
from ddbench.methods.datm import DATM
from ddbench.methods.dc import DC
from ddbench.methods.dm import DM
from ddbench.methods.dsa import DSA
from ddbench.methods.idc import IDC
from ddbench.methods.mtt import MTT
from ddbench.methods.ncfm import NCFM, NCFMConfig
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.batches import RealBatches
from ddbench.methods.parts.frequencies import Frequencies
from ddbench.methods.tesla import TESLA
from ddbench.runtime.ranks import ALONE, Ranks, join
from ddbench.training.optimizers import OptimizerSettings, make_optimizer

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


def joined(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers in one: a bias before a batch norm has a gradient that is nothing but rounding."""
    return torch.cat([tensor.flatten() for tensor in tensors])


class DoubleNCFM(NCFM):
    """In float64, with gradients of images and sampler that can be listened to.

    The sampler learns by SGD: Adam would make a step of the rounding of a gradient that is 0.
    """

    def setup(self) -> None:
        super().setup()
        for net in (self.between, self.trained):
            net.double()
        self.images = self.images.double()
        self.optimizer = make_optimizer([self.images], self._optimizer_settings())
        self.frequencies._net.double()
        self.frequencies._optimizer = make_optimizer(self.frequencies.parameters, OptimizerSettings(lr=0.01))
        self.found: list[Tensor] = []
        ascend = self.frequencies.ascend
        self.frequencies.ascend = lambda gradients: (self.found.append(joined(gradients)), ascend(gradients))

    def _step(self, label: int, own: Tensor | None) -> None:
        if own is not None:
            self.found.append(own)
        super()._step(label, own)


def learned_frequencies(ranks: Ranks, data: Path, buffers: Path) -> list[Tensor]:
    """Gradients of three iterations of NCFM's images and of its sampler, its losses, and what is there after them."""
    experts = next(store for store in find_stores(buffers) if store.recipe.kind == "sgd")
    context = digits_context(data, Path(), ranks=ranks).give(Experts, experts)
    settings = {"batch_real": 9, "frequency_count": 7, "optimizer": "sgd", "lr_images": 0.001, "finetune_steps": 0}
    method = DoubleNCFM(NCFMConfig(frequencies="learned", **settings), context)
    DoubleNCFM.check(method.config, context)
    draw = Frequencies.draw
    with (
        patch.object(ncfm, "RealBatches", DoubleBatches),
        patch.object(ncfm, "formed_input", lambda stored, factor, *_: 2 * decode(stored, factor) - 1),
        patch.object(Frequencies, "draw", lambda *purpose: draw(*purpose).double()),
    ):
        method.setup()
        losses = [torch.tensor(method.step(number)["loss"], dtype=torch.float64) for number in range(3)]
    assert len(method.found) == 3 * 10 * 2, "of images and sampler"
    assert all(float(gradient.norm()) > 1e-6 for gradient in method.found)
    tensors = method.state().tensors
    kinds = ("sampler.", "image_moments")
    parts = [joined(tensors[name] for name in tensors if name.startswith(kind)) for kind in kinds]
    return [*losses, *method.found, tensors["images"], *parts]


def gaussian_frequencies(ranks: Ranks, data: Path, buffers: Path) -> list[Tensor]:
    """Images and moments after three iterations of NCFM."""
    experts = next(store for store in find_stores(buffers) if store.recipe.kind == "sgd")
    context = digits_context(data, Path(), ranks=ranks).give(Experts, experts)
    method = NCFM(NCFMConfig(batch_real=9, frequency_count=7, finetune_steps=2, lr_images=0.1), context)
    method.setup()
    for number in range(3):
        method.step(number)
    tensors = method.state().tensors
    return [tensors[name] for name in tensors if not name.startswith("plateau")]


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
        "ncfm": lambda ranks: gaussian_frequencies(ranks, data, buffers),
        "ncfm, learned": lambda ranks: learned_frequencies(ranks, data, buffers),
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
