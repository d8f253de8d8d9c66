"""IDC: dataset condensation via efficient synthetic-data parameterisation.

Kim, Kim, Oh, Yun, Song, Jeong, Ha, Song; ICML 2022; arXiv 2205.14959; code: snu-mllab/Efficient-Dataset-Condensation.

A stored image carries f x f smaller ones (section 4.1, multi-formation); they are matched to real images by the
gradients of convolution kernels under networks that are trained on real data (section 4.2). Objective and schedule:
:mod:`ddbench.methods.families.multi_formation`.

Deviations from the public code, all listed in ``methods/idc/README.md``: explicit seeds; first images are random ones,
reduced by averaging; the product is clamped to [0, 1]; a step whose loss or gradient is not finite is not taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.multi_formation import MultiFormation, MultiFormationConfig


@dataclass(frozen=True, kw_only=True)
class IDCConfig(MultiFormationConfig):
    """Settings of IDC."""


class IDC(MultiFormation[IDCConfig]):
    """Gradient matching of multi-formed images."""

    config_class = IDCConfig
    facts = Facts(
        title="IDC",
        line="several small images in each stored one, matched by gradients",
        family="multi-formation",
        protocol="idc",
        paper="Dataset Condensation via Efficient Synthetic-Data Parameterization",
        authors=(
            "Jang-Hyun Kim",
            "Jinuk Kim",
            "Seong Joon Oh",
            "Sangdoo Yun",
            "Hwanjun Song",
            "Joonhyun Jeong",
            "Jung-Woo Ha",
            "Hyun Oh Song",
        ),
        venue="ICML",
        year=2022,
        arxiv="2205.14959",
        code="https://github.com/snu-mllab/Efficient-Dataset-Condensation",
        licence="MIT",
    )
