"""DREAM: dataset distillation by representative matching.

Liu, Gu, Wang, Zhu, Jiang, You; ICCV 2023; arXiv 2302.14416; code: lyq312318224/DREAM.

IDC (:mod:`ddbench.methods.families.multi_formation`) whose real batches are not drawn at random: every ten sweeps the
images of each class are clustered by their features under the network at hand, and the batch is one image a cluster,
the nearest to its centre (section 3.2; :mod:`ddbench.data.representative`). The first images are chosen alike.

The sampler is a part that other methods can name (``--sampler dream``, :mod:`ddbench.methods.parts.sampling`).

Deviations from the public code, all listed in ``methods/dream/README.md``: those of IDC; features are of normalised
images; the images of a batch are all different.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.multi_formation import MultiFormation, MultiFormationConfig


@dataclass(frozen=True, kw_only=True)
class DREAMConfig(MultiFormationConfig):
    """Settings of DREAM: IDC's, with other defaults where the public code has them."""

    sampler: Literal["random", "dream"] = "dream"
    """Real images of a batch: random ones of the class, or DREAM's representatives, one a cluster of its features."""
    batch_real: int = setting(128, at_least=1)
    """Real images of a class in one step: the number of clusters."""
    init: Literal["real", "mix", "dream"] = "dream"
    """First images: a real one each (real), f x f reduced real ones each (mix), or such chosen by DREAM (dream)."""


class DREAM(MultiFormation[DREAMConfig]):
    """IDC with representative real batches."""

    config_class = DREAMConfig
    facts = Facts(
        title="DREAM",
        line="IDC with representative real images: one a cluster of features",
        family="multi-formation",
        protocol="idc",
        paper="DREAM: Efficient Dataset Distillation by Representative Matching",
        authors=("Yanqing Liu", "Jianyang Gu", "Kai Wang", "Zheng Zhu", "Wei Jiang", "Yang You"),
        venue="ICCV",
        year=2023,
        arxiv="2302.14416",
        code="https://github.com/lyq312318224/DREAM",
        licence="none stated",
    )
