"""``d3hr``: groups of latents that have the statistics of their class's inverted images, decoded by a diffusion model.

Zhao, Wu, Jiang, Gu, Wang, Xu, Zhao, Lin: "Taming Diffusion for Dataset Distillation with High Representativeness",
ICML 2025 (arXiv 2505.18399). Every image of a class is inverted by DDIM to a noisy level t*, where the latents of a
class are nearly a diagonal Gaussian; its mean mu and standard deviation sigma are fitted, many candidate groups of IPC
latents are drawn from it, and the group whose own statistics fit best is sampled back to images, without noise:

    score(g) = |mean_g - mu| + w_std |std_g - sigma| + w_skew |skew_g|          (the least wins; norms are Euclidean)

``paper_code`` gives what the released code does. Deviations from it are listed in ``methods/d3hr/README.md``. Soft
labels are the evaluator's: protocol ``rded``, which the published training changes (same card).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddbench.config import Here, setting
from ddbench.diffusion.ddim import check_grid, sampling_moves
from ddbench.diffusion.latents import moments, normality
from ddbench.diffusion.recipe import TIMESTEPS
from ddbench.methods.base import Context
from ddbench.methods.facts import Facts
from ddbench.methods.families.generation import Draw, Generation, GenerationConfig
from ddbench.runtime import seeds

LEAST_STD = 1e-4
"""Standard deviations are not taken as less: a border pixel that is always black has nearly none."""

CHUNK_NUMBERS = 2**21
"""Normals that are judged at once, in float64: the memory of the search. Its result does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class D3HRConfig(GenerationConfig):
    """Settings of D3HR."""

    start: int = setting(600, at_least=0)
    """Time t* of the level to which images are inverted and from which groups are sampled."""
    candidates: int = setting(10_000, at_least=1, expected="at least 1 group")
    """Groups that are drawn for each class, of which the best is kept."""
    images: int = setting(0, also=(0,), at_least=2, expected="0 (all) or at least 2: one image has no spread")
    """Real images of each class that are inverted, evenly spread over it; 0: all."""
    skew: Literal["auto", "per_coordinate", "per_image"] = setting("auto", unless=("skew_weight", 0))
    """Skewness over the group, per_coordinate, or of the coordinates of each image, per_image, as the released code has
    it; auto: by paper_code."""
    std_weight: float = setting(1.0, at_least=0, below=1e6, expected="0 or a positive number")
    """Weight of the standard deviations beside the means."""
    skew_weight: float = setting(-1.0, also=(-1,), at_least=0, below=1e6, expected="0 or a positive number")
    """Weight of the skewness; -1: 0.5 as in the paper, 0.1 with paper_code."""
    paper_code: bool = False
    """As the released code: sampling begins one step above the level of the statistics and ends at time 1, inversion
    begins at time 0, all classes use the same normals."""


def _skew_kind(config: D3HRConfig) -> str:
    """Over what the skewness is taken."""
    if config.skew != "auto":
        return config.skew
    return "per_image" if config.paper_code else "per_coordinate"


def skewness(z: Tensor, kind: str) -> Tensor:
    """Adjusted sample skewness of standardised latents ``(..., IPC, D)``.

    Returns:
        ``per_coordinate``: over the group, ``(..., D)``; ``per_image``: over the coordinates, ``(..., IPC)``.
    """
    axis = -2 if kind == "per_coordinate" else -1
    n = z.shape[axis]
    return z.pow(3).sum(axis) * (n / ((n - 1) * (n - 2)))


def group_scores(normals: Tensor, sigma: Tensor, *, kind: str, std_weight: float, skew_weight: float) -> Tensor:
    """Scores of groups ``mu + sigma * normals``; the less the better.

    Means and standard deviations are taken over the group, unbiased; a group of one has neither standard deviation nor
    skewness, one of two no skewness per coordinate: these terms are left out. mu itself plays no part.

    Args:
        normals: float64 ``(groups, IPC, D)``.
        sigma: float64 ``(D,)``.
        kind: ``per_coordinate`` or ``per_image`` (:func:`skewness`).

    Returns:
        float64 ``(groups,)``.
    """
    ipc = normals.shape[1]
    mean = normals.mean(1)
    score: Tensor = (sigma * mean).norm(dim=-1)
    if ipc == 1:
        return score
    std = normals.std(1)
    score = score + std_weight * (sigma * (std - 1)).norm(dim=-1)
    if skew_weight and (kind == "per_image" or ipc > 2):
        z = (normals - mean.unsqueeze(1)) / std.unsqueeze(1)
        score = score + skew_weight * skewness(z, kind).norm(dim=-1)
    return score


def draw_group(seed: int, purpose: tuple[str | int, ...], number: int, shape: tuple[int, int]) -> Tensor:
    """Standard normals of candidate group ``number``, float64 ``(IPC, D)``; named, so that any group is drawn again."""
    generator = seeds.generator(seed, *purpose, number)
    return torch.randn(shape, generator=generator, dtype=torch.float32).double()


def best_group(
    sigma: Tensor,
    ipc: int,
    candidates: int,
    *,
    seed: int,
    purpose: tuple[str | int, ...],
    kind: str,
    std_weight: float,
    skew_weight: float,
    chunk: int | None = None,
) -> tuple[int, Tensor]:
    """The number of the candidate group with the least score (the first of equals), and all scores.

    Args:
        sigma: float64 ``(D,)``, on the device where groups are judged.
        chunk: groups that are judged at once; default: by :data:`CHUNK_NUMBERS`.

    Returns:
        The number, and float64 ``(candidates,)``.
    """
    size = len(sigma)
    chunk = chunk or max(1, CHUNK_NUMBERS // (ipc * size))
    scores = torch.empty(candidates, dtype=torch.float64)
    for first in range(0, candidates, chunk):
        numbers = range(first, min(first + chunk, candidates))
        normals = torch.stack([draw_group(seed, purpose, number, (ipc, size)) for number in numbers])
        scores[first : first + chunk] = group_scores(
            normals.to(sigma.device), sigma, kind=kind, std_weight=std_weight, skew_weight=skew_weight
        ).cpu()
    return int(scores.argmin()), scores


class D3HR(Generation[D3HRConfig]):
    """D3HR; a step is a class, after the latents of all classes."""

    config_class = D3HRConfig
    facts = Facts(
        title="D3HR",
        line="groups of latents with their class's statistics, decoded by a diffusion model",
        family="generation",
        protocol="rded",
        student=False,
        paper="Taming Diffusion for Dataset Distillation with High Representativeness",
        authors=(
            "Lin Zhao",
            "Yushu Wu",
            "Xinru Jiang",
            "Jianyang Gu",
            "Yanzhi Wang",
            "Xiaolin Xu",
            "Pu Zhao",
            "Xue Lin",
        ),
        venue="ICML",
        year=2025,
        arxiv="2505.18399",
        code="https://github.com/lin-zhao-resoLve/D3HR",
        licence="none stated",
    )

    @classmethod
    def idle(cls, config: D3HRConfig, context: Context) -> Mapping[str, str]:
        """What a group of one or two images has not (:func:`group_scores`), and all of the score of a single group."""
        if config.candidates == 1:
            return dict.fromkeys(("skew", "std_weight", "skew_weight"), "with --candidates 1: there is no choice")
        if context.ipc == 1:
            return dict.fromkeys(("skew", "std_weight", "skew_weight"), Here("with --ipc 1: a group is one image"))
        if context.ipc == 2 and _skew_kind(config) == "per_coordinate":
            return {"skew_weight": Here("with --ipc 2: two values are not skewed; --skew per_image has an effect")}
        return {}

    @classmethod
    def check(cls, config: D3HRConfig, context: Context) -> None:
        super().check(config, context)
        check_grid(config.steps, config.start, TIMESTEPS)

    def setup(self) -> None:
        """Load the model, resolve what the settings leave open."""
        super().setup()
        config = self.config
        check_grid(config.steps, config.start, len(self.backend.alphas))
        self.kind = _skew_kind(config)
        self.skew_weight = (0.1 if config.paper_code else 0.5) if config.skew_weight < 0 else config.skew_weight
        self.moves = sampling_moves(self.backend.alphas, config.steps, config.start, released=config.paper_code)

    def prepare(self, steps: range | None = None) -> dict[str, Any]:
        """Invert the images of these classes, as far as that is not done."""
        config = self.config
        self._latents = self.latents(start=config.start, released=config.paper_code, images=config.images)
        return {"latents": self._latents.make(self.context.console, steps)}

    def draw(self, label: int) -> Draw:
        """The best group of a class.

        Metrics: ``loss`` (its score), ``median_score``, ``worst_score``; of the inverted latents the mean |skewness|
        and |excess kurtosis| of a coordinate.
        """
        config, context = self.config, self.context
        mean, std = moments(self._latents.shards(label))
        std = std.clamp(min=LEAST_STD)
        # The released code seeds its draws alike for every class.
        purpose = ("groups",) if config.paper_code else ("groups", label)
        number, scores = best_group(
            std.to(context.device),
            context.ipc,
            config.candidates,
            seed=context.seed,
            purpose=purpose,
            kind=self.kind,
            std_weight=config.std_weight,
            skew_weight=self.skew_weight,
        )
        normals = draw_group(context.seed, purpose, number, (context.ipc, len(std)))
        latents = (mean + std * normals).float().view(-1, *self.backend.latent_shape)
        skew, kurtosis = normality(self._latents.shards(label), mean, std)
        metrics = {
            "loss": float(scores[number]),
            "median_score": float(scores.median()),
            "worst_score": float(scores.max()),
            "skewness": skew,
            "kurtosis": kurtosis,
        }
        return Draw(latents=latents, moves=self.moves, metrics=metrics)
