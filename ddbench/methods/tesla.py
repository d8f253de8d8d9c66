"""TESLA: matching training trajectories in constant memory.

Cui, Wang, Si, Hsieh: *Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory*; ICML 2023;
arXiv 2211.10586; code: justincui03/tesla.

MTT's loss is written with the sum of the student's gradients, ``theta_N = theta_0 - beta G``, and each gradient is
treated as a function of its own batch only: the outer gradient is then a sum of terms of one student step each. It is
not MTT's gradient (the Hessians of the later steps are missing: it is that of MTT with the weights detached at the
input of every step), though the loss is. ``--gradient exact`` is the same method with MTT's gradient, in the same
memory.

Soft labels (``--labels expert``): every image's label is what the segment's target weights say of it, made anew at
every iteration, without a gradient of its own.

Deviations from the public code, all listed in ``methods/tesla/README.md``: those of MTT; the image gradient keeps the
factor 2 that the public code loses; soft labels work on any dataset, and the product's are of its own images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddbench.methods.base import State
from ddbench.methods.facts import Facts
from ddbench.methods.families.trajectory import BATCH, TrajectoryConfig, TrajectoryMethod
from ddbench.methods.parts.segments import Segment
from ddbench.training.distribution import mixes_images
from ddbench.training.problem import InnerResult


@dataclass(frozen=True, kw_only=True)
class TESLAConfig(TrajectoryConfig):
    """Settings of TESLA."""

    gradient: Literal["truncated", "exact"] = "truncated"
    """truncated: as published, without the Hessians of later steps; exact: MTT's gradient, in the same memory."""
    labels: Literal["hard", "expert"] = "hard"
    """hard: classes; expert: soft labels from the expert's target weights (as published for ImageNet-1K)."""


class TESLA(TrajectoryMethod[TESLAConfig]):
    """Matching training trajectories step by step, with soft labels of the expert if wanted."""

    config_class = TESLAConfig
    facts = Facts(
        title="TESLA",
        line="matching trajectories in constant memory, soft labels of the expert",
        family="trajectory matching",
        paper="Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory",
        authors=("Justin Cui", "Ruochen Wang", "Si Si", "Cho-Jui Hsieh"),
        venue="ICML",
        year=2023,
        arxiv="2211.10586",
        code="https://github.com/justincui03/tesla",
        licence="MIT",
    )

    @property
    def inner_mode(self) -> str:
        """The adjoint recursion, with or without its Hessian products."""
        return {"truncated": "truncated", "exact": "adjoint"}[self.config.gradient]

    def setup(self) -> None:
        """Before the first step, soft labels are those of its own target."""
        super().setup()
        if self.config.labels == "expert":
            self.soft_labels = self.expert_labels(self.draw_segment(0))

    @torch.no_grad()
    def expert_labels(self, segment: Segment) -> Tensor:
        """Logits ``(S, K)`` of the images, not augmented, under the segment's target weights."""
        net, images = self.inner.net, self.images.detach()
        parts = [images] if mixes_images(net.module) else images.split(BATCH)
        return torch.cat([net(segment.target, part) for part in parts])

    def labels(self, segment: Segment) -> Tensor:
        """What the student learns; the gradient of soft labels is not used."""
        return self.expert_labels(segment) if self.config.labels == "expert" else self.hard_labels

    def after_step(self, iteration: int, segment: Segment, result: InnerResult) -> dict[str, float]:
        """The product's labels are those that the last segment's target gives to the images of now."""
        if self.config.labels == "expert":
            self.soft_labels = self.expert_labels(segment)
        return {}

    def delivered_labels(self) -> Tensor:
        """Classes, or logits."""
        return self.soft_labels if self.config.labels == "expert" else self.hard_labels

    def state(self) -> State:
        """With the soft labels."""
        state = super().state()
        if self.config.labels == "expert":
            state.tensors["soft_labels"] = self.soft_labels
        return state

    def load_state(self, state: State) -> None:
        """With the soft labels."""
        super().load_state(state)
        if self.config.labels == "expert":
            self.soft_labels = state.tensors["soft_labels"].clone()
