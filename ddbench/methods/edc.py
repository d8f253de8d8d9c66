"""EDC: the recovery of G-VBSM from real images, half towards the statistics of the images' own classes.

Shao, Zhou, Chen, Shen; NeurIPS 2024; arXiv 2404.13733; code: shaoshitong/EDC.

Several teachers in turn, statistics of batch norms and convolutions, *soft category-aware matching* (half of the
distance is to the mean over the batch's classes of their statistics), real images as start, few steps; all in
:mod:`ddbench.methods.families.several_teachers`. With one teacher, no convolutions, no average, no category and SRe2L's
start and views it is SRe2L.

Deviations from the public code, all listed in ``methods/edc/README.md``: those of SRe2L; running averages begin with
the first value and anew with every batch of images; per-class patch statistics are not swapped; random real images as
start everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.recovery import SHARE
from ddbench.methods.families.several_teachers import SeveralTeachers, SeveralTeachersConfig


@dataclass(frozen=True, kw_only=True)
class EDCConfig(SeveralTeachersConfig):
    """Settings of EDC; the defaults are those of its public script for CIFAR-10 at IPC 1."""

    iterations: int = setting(75, at_least=1)
    """Steps of each batch of images."""
    lr_images: float = setting(0.05, above=0)
    """Learning rate of the images (network-input units); falls to 0 by a cosine."""
    crop_scale: float = setting(0.08, above=0, at_most=1, expected=SHARE)
    """Least share of the image that a view shows (RandomResizedCrop); 1: no crop."""
    flip: bool = True
    """Mirror views at random; left out on digits."""
    jitter: int = setting(0, at_least=0)
    """Largest shift of a view in pixels, on each axis, round the border."""


class EDC(SeveralTeachers[EDCConfig]):
    """Real images moved until several teachers' layers see the statistics of their classes."""

    config_class = EDCConfig
    facts = Facts(
        title="EDC",
        line="real images moved towards several teachers' statistics, half those of their own classes",
        family="recovery from a teacher",
        protocol="edc-ema",
        student=False,
        paper="Elucidating the Design Space of Dataset Condensation",
        authors=("Shitong Shao", "Zikai Zhou", "Huanran Chen", "Zhiqiang Shen"),
        venue="NeurIPS",
        year=2024,
        arxiv="2404.13733",
        code="https://github.com/shaoshitong/EDC",
        licence="none stated",
    )
