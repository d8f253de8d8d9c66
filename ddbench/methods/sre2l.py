"""SRe2L: squeeze, recover and relabel.

Yin, Xing, Shen; NeurIPS 2023; arXiv 2306.13092; code: VILA-Lab/SRe2L.

Recover (section 3.2): every image starts as noise and is moved by Adam until a trained teacher is sure of its class and
the teacher's batch norms see the mean and variance that they saw in training; one image of each class in a batch, so
that the statistics are those of a batch of different classes. That is what :mod:`ddbench.methods.families.recovery`
does, and nothing is changed here. Squeeze is ``ddbench teacher``, relabel is the evaluator's.

Deviations from the public code, all listed in ``methods/sre2l/README.md``: explicit seeds; pixels are stored, not JPEG;
the teacher is checked for batch norm; labels are made on line in evaluation mode unless a protocol says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.methods.facts import Facts
from ddbench.methods.families.recovery import Recovery, RecoveryConfig


@dataclass(frozen=True, kw_only=True)
class SRe2LConfig(RecoveryConfig):
    """Settings of SRe2L."""


class SRe2L(Recovery[SRe2LConfig]):
    """Images recovered from a teacher's class scores and batch-norm statistics."""

    config_class = SRe2LConfig
    facts = Facts(
        title="SRe2L",
        line="recovered from a teacher's weights and batch-norm statistics",
        family="recovery from a teacher",
        protocol="kd-v1",
        student=False,
        paper="Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
        authors=("Zeyuan Yin", "Eric Xing", "Zhiqiang Shen"),
        venue="NeurIPS",
        year=2023,
        arxiv="2306.13092",
        code="https://github.com/VILA-Lab/SRe2L",
        licence="none stated",
    )
