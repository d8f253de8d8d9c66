"""FRePo: dataset distillation using neural feature regression.

Zhou, Nezhadarya, Ba; NeurIPS 2022; arXiv 2206.00719; code: yongchaoz/FRePo.

Each meta step takes a network of a pool: real images are predicted by kernel ridge regression on its features of the
learned images (section 3: only the last layer is solved for, exactly), and images and learned labels descend by LAMB in
the squared error less the margin of the labels. Then the network is trained one step on the learned set, and replaced
by a fresh one when it is old.

Deviations from the public code, all listed in ``methods/frepo/README.md``: explicit seeds; no batch norm in the
networks of the pool; the system is solved in float64; a temperature for use under cross-entropy is fitted beside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddbench.config import setting
from ddbench.methods.facts import Facts
from ddbench.methods.families.kernel import KernelConfig, KernelMethod, right_share, temperature_slope
from ddbench.runtime import seeds
from ddbench.runtime.device import sent
from ddbench.training.kernel import centred_one_hot, frepo_loss, relative_ridge, ridge_solver
from ddbench.training.outer import AdaBelief, Lamb

LAST_FACTOR = 0.1
"""Share of the rate that the cosine ends at."""

LR_TAU = 0.03


@dataclass(frozen=True, kw_only=True)
class FRePoConfig(KernelConfig):
    """Settings of FRePo; the defaults are those of the public code, but for the number of steps (500,000)."""

    iterations: int = setting(10000, at_least=1)
    """Meta steps."""
    pool: int = setting(10, at_least=1, at_most=1000)
    """Networks in the pool; the i-th, from 0, begins at age 10 i, counted anew from --oldest on."""
    lr_pool: float = setting(3e-4, at_least=0)
    """Learning rate of the Adam that trains the networks of the pool on the learned set."""
    lr_images: float = setting(3e-4, at_least=0)
    """Learning rate of LAMB on the images; falls by a cosine to a tenth."""
    lr_labels: float = setting(3e-4, at_least=0)
    """The same for the labels."""
    ridge: float = setting(1e-6, above=0)
    """Share of the mean diagonal of the Gram matrix that is added to it."""
    batch_pool: int = setting(1000, at_least=1)
    """Learned images that a network of the pool is trained on in its step."""


class FRePo(KernelMethod[FRePoConfig]):
    """Neural feature regression with a pool."""

    config_class = FRePoConfig
    facts = Facts(
        title="FRePo",
        line="neural feature regression: images and labels learned over a pool of networks",
        family="kernel regression",
        protocol="mse-v1",
        paper="Dataset Distillation using Neural Feature Regression",
        authors=("Yongchao Zhou", "Ehsan Nezhadarya", "Jimmy Ba"),
        venue="NeurIPS",
        year=2022,
        arxiv="2206.00719",
        code="https://github.com/yongchaoz/FRePo",
    )

    def first_labels(self) -> Tensor:
        """Centred one-hots, shorter with more classes than ten."""
        return super().first_labels() / math.sqrt(self.context.classes / 10)

    def first_ages(self) -> list[int]:
        """Staggered."""
        return [10 * index % self.config.oldest for index in range(self.config.pool)]

    def setup(self) -> None:
        """As the family's; then LAMB."""
        super().setup()
        config, learned = self.config, self.learned
        self._lamb = Lamb({"images": (learned.images, config.lr_images), "labels": (learned.labels, config.lr_labels)})
        self._warmth = AdaBelief({"tau": (learned.tau, LR_TAU)})

    def steps_of_pool(self, iteration: int) -> int:
        """One."""
        return 1

    def pool_batch(self, count: int, iteration: int, step: int) -> Tensor | None:
        """At most ``batch_pool`` of the learned images."""
        if count <= self.config.batch_pool:
            return None
        generator = seeds.generator(self.context.seed, "pool-batch", iteration, step)
        return sent(torch.randperm(count, generator=generator)[: self.config.batch_pool], self.context.device)

    def meta(self, member: int, x: Tensor, y: Tensor, iteration: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Loss and gradients through the features of the learned images; those of the real ones are constants."""
        theta, learned = self.pool.weights[member], self.learned.leaves()
        with torch.no_grad():
            real = self.net.both(theta, x)[0]
        predicted = real

        def head(outputs: list[Tensor], labels: Tensor) -> Tensor:
            nonlocal predicted
            (features,) = outputs
            solve = ridge_solver(features, relative_ridge(features, self.config.ridge))
            predicted = real @ (features.T @ solve(labels))
            return frepo_loss(predicted, centred_one_hot(y, self.context.classes), labels)

        loss, gradients, _ = self.through(lambda part: self.net.both(theta, part)[:1], learned, head, iteration)
        over_tau = temperature_slope(predicted, y, self.learned.tau)
        metrics = {"loss": float(loss.detach()), "real_accuracy": right_share(predicted, y)}
        return metrics, {**gradients, "tau": over_tau}

    def descend(self, gradients: dict[str, Tensor], iteration: int) -> None:
        """LAMB on images and labels; the temperature follows."""
        cosine = 0.5 * (1 + math.cos(math.pi * iteration / self.config.iterations))
        self._lamb.step(gradients, factor=LAST_FACTOR + (1 - LAST_FACTOR) * cosine)
        self._warmth.step(gradients)

    def optimiser_state(self) -> dict[str, Tensor]:
        """Moments."""
        return {**self._lamb.state("lamb"), **self._warmth.state("warmth")}

    def load_optimiser_state(self, tensors: dict[str, Tensor]) -> None:
        """Take them over."""
        self._lamb.load_state("lamb", tensors)
        self._warmth.load_state("warmth", tensors)
