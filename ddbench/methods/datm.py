"""DATM: dataset distillation by difficulty-aligned trajectory matching.

Guo, Wang, Cazenavette, Li, Zhang, You: *Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory
Matching*, ICLR 2024; arXiv 2310.05773; code: NUS-HPC-AI-Lab/DATM.

Trajectory matching (:mod:`ddbench.methods.families.trajectory`) with three changes. Which part of the trajectories is
matched follows the budget: start epochs from a window [T-, U), whose end U can grow from ``--first-end`` to T+ over the
first ``--growth`` iterations. Labels are logits that are learned with the images: soft cross-entropy in the student's
steps, SGD with momentum on the logits. A step whose matching loss is above ``--skip-above`` is not taken.

First images are real ones that an expert classifies right, first labels the mean logits of the experts that do.

Deviations from the public code, all listed in ``methods/datm/README.md``: those of MTT; an image that no expert
classifies right gets a label all the same; the gradient is exact in the memory of one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.methods.base import Context, State, repeated
from ddbench.methods.facts import Facts
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.canvas import Learned
from ddbench.methods.parts.segments import Segment
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.statistics import count_words
from ddbench.training.problem import InnerResult
from ddbench.training.trajectory_losses import first_right, mean_right_logits, window_end


@dataclass(frozen=True, kw_only=True)
class DATMConfig(InnerConfig):
    """Settings of DATM; names of the public code's configs in brackets."""

    init: Literal["correct", "real", "noise", "dream"] = "correct"  # type: ignore[assignment]
    """First images: real ones that an expert classifies right, random real ones, normal noise, or DREAM's choice."""
    first_end: int = setting(0, at_least=0)
    """End of the window of start epochs at the first iteration (current_max_start_epoch); 0: T+ from the beginning."""
    growth: int = setting(1000, at_least=1, expected="a positive number", unless=("first_end", 0))
    """Iterations in which the window's end grows from --first-end to --max-start-epoch (expansion_end_epoch)."""
    lr_labels: float = setting(10.0, at_least=0)
    """Learning rate of the labels' logits (lr_y)."""
    momentum_labels: float = setting(0.9, at_least=0, below=1, unless=("lr_labels", 0))
    """Momentum of the labels' optimiser (Momentum_y)."""
    label_experts: int = setting(0, at_least=0, expected="at least 0 (0: all)")
    """Experts whose last weights give the first labels; 0: all."""
    skip_above: float = setting(1.0, above=0, expected="a positive number")
    """An outer step whose matching loss is larger is not taken (threshold)."""


class DATM(TrajectoryMethod[DATMConfig]):
    """Difficulty-aligned trajectory matching with learned soft labels.

    Attributes:
        soft: the labels, logits ``(S, K)``.
        skipped: outer steps that were not taken.
    """

    config_class = DATMConfig
    facts = Facts(
        title="DATM",
        line="matching trajectories of a difficulty that fits the budget, learned labels",
        family="trajectory matching",
        protocol="soft-v1",
        paper="Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching",
        authors=("Ziyao Guo", "Kai Wang", "George Cazenavette", "Hui Li", "Kaipeng Zhang", "Yang You"),
        venue="ICLR",
        year=2024,
        arxiv="2310.05773",
        code="https://github.com/NUS-HPC-AI-Lab/DATM",
        licence="none stated",
    )

    soft: Learned
    skipped: int

    @classmethod
    def needs(cls, config: DATMConfig) -> tuple[Experts]:
        """Flat experts."""
        return (Experts("gsam"),)

    @classmethod
    def check(cls, config: DATMConfig, context: Context) -> None:
        """As the family's, and the end of the window; tells where there are fewer experts than are asked for."""
        super().check(config, context)
        store, asked = context.given(Experts), config.label_experts
        if asked > len(store.experts):
            there = count_words(len(store.experts), "expert")
            context.console.say(
                f"--label-experts {asked}: {store.folder} has {there}, all of which give the first labels"
            )
        if config.first_end and not config.min_start_epoch < config.first_end <= config.max_start_epoch:
            raise UserError(
                f"--first-end {config.first_end}: expected 0, or more than --min-start-epoch {config.min_start_epoch} "
                f"and at most --max-start-epoch {config.max_start_epoch}"
            )

    @property
    def logits(self) -> Tensor:
        """The labels as they are now, float32 ``(S, K)``."""
        return self.soft.value

    def setup(self) -> None:
        """As the family's; then the first labels, which judge the first images."""
        super().setup()
        self.skipped = 0
        config, logits = self.config, self.first_logits().to(self.context.device)
        self.soft = Learned(
            logits, lr=config.lr_labels, momentum=config.momentum_labels, name="logits", velocity="label_momentum"
        )

    def first_images(self) -> Tensor:
        """Images that the first expert classifies right (the next ones are asked where it finds too few)."""
        if self.config.init != "correct":
            return super().first_images()
        context = self.context
        chosen = []
        for label, index in enumerate(class_indices(context.train.labels, context.classes)):
            order = torch.randperm(len(index), generator=seeds.generator(context.seed, "datm-init", label))
            index = index[order]
            right = first_right(self._right(index, label), min(context.ipc, len(index)))
            chosen.append(repeated(index[right], context.ipc))
        return context.preprocess.apply(gather(context.train.images, torch.cat(chosen)))

    def _right(self, index: Tensor, label: int) -> Iterator[Tensor]:
        """For one expert after the other, which images of a class it classifies right, bool ``(n,)``."""
        for expert in self.store.indices:
            yield self.expert_logits(expert, index).argmax(1) == label

    def first_logits(self) -> Tensor:
        """Mean logits, at their last epoch, of the experts that classify a first image right; ``(S, K)``."""
        experts = self.store.indices[: self.config.label_experts or None]
        logits = torch.stack([self.expert_logits(expert, self.images.detach()) for expert in experts])
        made = mean_right_logits(logits, self.hard_labels.cpu())
        if self.kept is not None:
            made[: len(self.kept.labels)] = self.kept.labels
        return made

    def start_range(self, iteration: int) -> tuple[int, int]:
        """The window of an iteration."""
        config = self.config
        first = config.first_end or config.max_start_epoch
        return config.min_start_epoch, window_end(iteration, first, config.max_start_epoch, config.growth)

    def labels(self, segment: Segment) -> Tensor:
        """The logits."""
        return self.logits

    def descend(self, segment: Segment, result: InnerResult) -> dict[str, float]:
        """Images, beta and labels, unless the matching loss is too large."""
        if float(result.loss) > self.config.skip_above:
            self.skipped += 1
            return {"skipped": 1.0}
        assert result.labels is not None
        found = super().descend(segment, result)
        self.soft.step(result.labels)
        return {**found, "skipped": 0.0, "grad_norm_labels": float(result.labels.norm())}

    def after_step(self, iteration: int, segment: Segment, result: InnerResult) -> dict[str, float]:
        """At the end, say so when most steps were not taken."""
        if iteration == self.iterations - 1 and self.skipped > self.iterations // 2:
            self.context.console.say(
                f"{self.skipped} of {self.iterations} steps had a matching loss above --skip-above "
                f"{self.config.skip_above:g} and were not taken: the student may be too slow (--lr-student, "
                "--student-steps) or the window too late (--max-start-epoch)"
            )
        return {}

    def delivered_labels(self) -> Tensor:
        """The logits."""
        return self.logits

    def state(self) -> State:
        """As the family's, with the logits, their momentum and the number of skipped steps."""
        state = super().state()
        return State(tensors={**state.tensors, **self.soft.state()}, values={**state.values, "skipped": self.skipped})

    def load_state(self, state: State) -> None:
        """Take all of it over."""
        super().load_state(state)
        self.soft.load_state(state.tensors)
        self.skipped = int(state.values["skipped"])
