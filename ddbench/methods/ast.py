"""AST: dataset distillation through alignment with smooth and high-quality expert trajectories.

Shen, Yang, Lam; arXiv 2310.10541; code: shenjiyuan123/AST-Alignment-with-Smooth-Expert.

Trajectory matching (:mod:`ddbench.methods.families.trajectory`) on smooth experts (``ddbench buffer --kind smooth``),
with a student that has momentum and four changes: first images are the real ones nearest to the centres of k-means over
an expert's logits; the student's loss is multiplied by a factor of the start epoch; the convolutions of the start are
perturbed; and the student is compared with the expert also after each epoch before the last (intermediate matching).

Deviations from the public code, all listed in ``methods/ast/README.md``: those of MTT; k is the number of images per
class, where the public code has k = 10 and selects nothing below 10 images per class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ddbench.config import Here, setting
from ddbench.data.coreset import k_means
from ddbench.data.dataset import class_indices
from ddbench.data.mapped import gather
from ddbench.methods.base import Context, repeated
from ddbench.methods.facts import Facts
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod
from ddbench.methods.needs.experts import Experts
from ddbench.methods.parts.segments import Segment
from ddbench.runtime import seeds
from ddbench.training.problem import InnerProblem, OuterTerm, match_term
from ddbench.training.trajectory_losses import balance, intermediate_matches, perturbed


@dataclass(frozen=True, kw_only=True)
class ASTConfig(InnerConfig):
    """Settings of AST; flags of the public code in brackets."""

    init: Literal["representative", "real", "noise", "dream"] = "representative"  # type: ignore[assignment]
    """First images: nearest to the k-means centres of a class's logits (avg), random real ones, noise, or DREAM's."""
    momentum_student: float = setting(0.9, at_least=0, below=1)
    """Momentum of the student's SGD (mom)."""
    balance: bool = True
    """Multiply the student's loss by a factor of the start epoch: below 1 early, above 1 late (balance_loss)."""
    perturb: float = setting(1.0, at_least=0)
    """Strength of the perturbation of the start's convolutions; 0: none (weight_perturb)."""
    intermediate: Literal["all", "growing", "none"] = setting("all", unless=("expert_epochs", 1))
    """Matches after each epoch before the last: weight 1 (agg_middle_loss), i/M (adaptive_middle_loss), or none."""


class AST(TrajectoryMethod[ASTConfig]):
    """Trajectory matching with smooth experts, representative images, balanced, perturbed and intermediate matching."""

    config_class = ASTConfig
    facts = Facts(
        title="AST",
        line="matching trajectories of smooth experts, with representative first images",
        family="trajectory matching",
        paper="AST: Effective Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories",
        authors=("Jiyuan Shen", "Wenzhuo Yang", "Kwok-Yan Lam"),
        year=2023,
        arxiv="2310.10541",
        code="https://github.com/shenjiyuan123/AST-Alignment-with-Smooth-Expert",
        licence="MIT",
    )

    @classmethod
    def needs(cls, config: ASTConfig) -> tuple[Experts]:
        """Smooth experts."""
        return (Experts("smooth"),)

    @classmethod
    def idle(cls, config: ASTConfig, context: Context) -> Mapping[str, str]:
        """Matches on the way, where no step of the student lies at one."""
        if config.student_steps >= config.expert_epochs:
            return {}
        return {"intermediate": Here(f"with --student-steps {config.student_steps}, fewer than --expert-epochs")}

    def first_images(self) -> Tensor:
        """Of each class, the images nearest to the k-means centres of one expert's logits at its last epoch."""
        context = self.context
        if self.config.init != "representative":
            return super().first_images()
        indices = self.store.indices
        drawn = torch.randint(len(indices), (), generator=seeds.generator(context.seed, "ast-init"))
        chosen = []
        for label, index in enumerate(class_indices(context.train.labels, context.classes)):
            logits = self.expert_logits(indices[int(drawn)], index)
            nearest = k_means(logits, min(context.ipc, len(index)), seeds.derive(context.seed, "ast-init", label))
            chosen.append(repeated(index[nearest], context.ipc))
        return context.preprocess.apply(gather(context.train.images, torch.cat(chosen)))

    def target_epochs(self) -> tuple[int, ...]:
        """Every epoch that is compared, M at the end."""
        return (*(epochs for _, epochs, _ in self._matches()), self.config.expert_epochs)

    def draw_segment(self, iteration: int) -> Segment:
        """As the family's; the start's convolutions are perturbed by draws of their own."""
        segment = super().draw_segment(iteration)
        if not self.config.perturb:
            return segment
        generator = seeds.generator(self.context.seed, "ast-perturb", iteration)
        noise = torch.randn(len(segment.start), generator=generator).to(segment.start)
        return replace(segment, start=perturbed(segment.start, self.inner.net.shapes, noise, self.config.perturb))

    def scales(self, segment: Segment) -> float:
        """The balanced loss's factor."""
        return balance(segment.start_epoch, self.config.max_start_epoch) if self.config.balance else 1.0

    def terms(self, segment: Segment) -> list[OuterTerm]:
        """The match at the end, and those on the way; each relative to the expert's move from the perturbed start."""
        on_the_way = [
            match_term(step, segment.targets[epochs], segment.start, weight) for step, epochs, weight in self._matches()
        ]
        return [*super().terms(segment), *on_the_way]

    def problem(self, segment: Segment) -> InnerProblem:
        """As the family's, with the student's momentum."""
        return replace(super().problem(segment), momentum=self.config.momentum_student)

    def _matches(self) -> list[tuple[int, int, float]]:
        config = self.config
        return intermediate_matches(config.student_steps, config.expert_epochs, config.intermediate)
