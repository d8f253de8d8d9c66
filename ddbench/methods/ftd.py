"""FTD: matching the trajectories of flat experts, so that errors add up less from segment to segment.

Du, Jiang, Tan, Zhou, Li: *Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation*; CVPR 2023;
arXiv 2211.11004; code: AngusDujw/FTD-distillation.

The objective is MTT's. Two things differ: the experts are trained by adaptive GSAM (``ddbench buffer --kind gsam``,
:mod:`ddbench.experts.sharpness`), and the product is the exponential moving average of the images over the outer steps.

Deviations from the public code, all listed in ``methods/ftd/README.md``: those of MTT; the average is judged on
networks of its own; experts of different rho and alpha are kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.trajectory import InnerConfig, TrajectoryMethod
from ddbench.methods.needs.experts import Experts


@dataclass(frozen=True, kw_only=True)
class FTDConfig(InnerConfig):
    """Settings of FTD; the experts' are flags of ``ddbench buffer``."""

    ema: float = setting(0.999, at_least=0, below=1)
    """d: share of the old average that is kept at an outer step; 0: the product is the last images."""


class FTD(TrajectoryMethod[FTDConfig]):
    """Matching the trajectories of flat experts; delivers the moving average of the images."""

    config_class = FTDConfig
    facts = Facts(
        title="FTD",
        line="matching trajectories of flat experts, moving average of the images",
        family="trajectory matching",
        paper="Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation",
        authors=("Jiawei Du", "Yidi Jiang", "Vincent Y. F. Tan", "Joey Tianyi Zhou", "Haizhou Li"),
        venue="CVPR",
        year=2023,
        arxiv="2211.11004",
        code="https://github.com/AngusDujw/FTD-distillation",
        licence="none stated",
    )

    @classmethod
    def needs(cls, config: FTDConfig) -> tuple[Experts]:
        """Flat experts."""
        return (Experts("gsam"),)

    def setup(self) -> None:
        """As the family's; the average starts at the first images."""
        super().setup()
        self.canvas.keep_average(self.config.ema)
