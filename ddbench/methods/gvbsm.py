"""G-VBSM: images recovered from several networks in turn, whose batch norms and convolutions are both matched.

Shao, Yin, Zhou, Zhang, Shen; CVPR 2024; arXiv 2311.17950; code: shaoshitong/G_VBSM_Dataset_Condensation.

SRe2L's recovery with three additions: *generalized statistics* (what convolutions are given, by channel and by patch),
*various backbones* (several teachers, one a step, whose logits label together), *data densification* (the images of a
class, which are made in one batch, spread over more directions); all in
:mod:`ddbench.methods.families.several_teachers`.

Deviations from the public code, all listed in ``methods/gvbsm/README.md``: those of SRe2L; running averages begin with
the first value and anew with every batch of images; images of less than 32 px are not enlarged for densification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.several_teachers import SeveralTeachers, SeveralTeachersConfig


@dataclass(frozen=True, kw_only=True)
class GVBSMConfig(SeveralTeachersConfig):
    """Settings of G-VBSM; the defaults are those of its public script for CIFAR-10, but for its shifts."""

    iterations: int = setting(4000, at_least=1)
    """Steps of each batch of images."""
    lr_images: float = setting(0.05, above=0)
    """Learning rate of the images (network-input units); falls to 0 by a cosine."""
    jitter: int = setting(4, at_least=0)
    """Largest shift of a view in pixels, on each axis, round the border."""
    flip: bool = True
    """Mirror views at random; left out on digits."""
    pad: bool = True
    """Views are first shifted by a window of the zero-padded image (4 px at 32)."""
    category: Literal["none", "class", "local"] = "none"
    """Half of the distance is to the statistics of the batch's classes over all their training images (class), or to
    those of real images drawn for the batch (local); none: all of it is to those of the whole training set."""
    drop: float = setting(0.4, at_least=0, below=1, unless=("convolutions", False))
    """How often a convolution is left out of a step, at random."""
    densify: float = setting(1.0, at_least=0)
    """Weight of the term that spreads the images of a class; needs several of a class in a batch (--order class)."""
    order: Literal["index", "class"] = setting("class", unless=("joint", True))
    """What a batch holds: one image of each class (of up to 100), or class after class, --batch images."""
    start: Literal["noise", "real"] = "noise"
    """What images begin as."""


class GVBSM(SeveralTeachers[GVBSMConfig]):
    """Images recovered from several teachers' class scores, batch norms and convolutions, and spread in each class."""

    config_class = GVBSMConfig
    facts = Facts(
        title="G-VBSM",
        line="recovered from several teachers in turn, batch norms and convolutions matched",
        family="recovery from a teacher",
        protocol="gvbsm",
        student=False,
        paper="Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching",
        authors=("Shitong Shao", "Zeyuan Yin", "Muxin Zhou", "Xindong Zhang", "Zhiqiang Shen"),
        venue="CVPR",
        year=2024,
        arxiv="2311.17950",
        code="https://github.com/shaoshitong/G_VBSM_Dataset_Condensation",
        licence="none stated",
    )
