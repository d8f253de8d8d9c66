"""MTT: dataset distillation by matching training trajectories.

Cazenavette, Wang, Torralba, Efros, Zhu; CVPR 2022; arXiv 2203.11932; code: GeorgeCazenavette/mtt-distillation.

Each outer iteration (algorithm 1 of the paper): draw an expert and a start epoch t < T+; let a student start from the
expert's weights theta*_t and make N steps of SGD on the synset with the learned rate beta; the loss is the distance of
its weights to theta*_{t+M}, divided by the expert's own move (equation 2); descend in the images and in beta. That is
what :mod:`ddbench.methods.families.trajectory` does, and nothing is changed here.

Deviations from the public code, all listed in ``methods/mtt/README.md``: explicit seeds; T+ - 1 + M <= E is checked;
the gradient is computed by the adjoint recursion (the same numbers, the memory of one step); a step whose loss or
gradient is not finite is not taken; beta may be learned on a logarithmic scale; nothing is chosen on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod


@dataclass(frozen=True, kw_only=True)
class MTTConfig(InnerConfig):
    """Settings of MTT: the family's."""


class MTT(TrajectoryMethod[MTTConfig]):
    """Matching training trajectories."""

    config_class = MTTConfig
    facts = Facts(
        title="MTT",
        line="matching training trajectories",
        family="trajectory matching",
        paper="Dataset Distillation by Matching Training Trajectories",
        authors=("George Cazenavette", "Tongzhou Wang", "Antonio Torralba", "Alexei A. Efros", "Jun-Yan Zhu"),
        venue="CVPR",
        year=2022,
        arxiv="2203.11932",
        code="https://github.com/GeorgeCazenavette/mtt-distillation",
        licence="MIT",
    )
