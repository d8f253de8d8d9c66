"""One attack at one strength as a probe: which images of a student survive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddbench.measurements.robustness import attacks, external
from ddbench.measurements.robustness.budgets import NEIGHBOURS, PARTS, Attack
from ddbench.measurements.suite import Cost, Finding, Probe, Trained

LARGE = 96
"""Above this side, in pixels, a quarter of the images go at once: activations must fit into memory."""


@dataclass(frozen=True, kw_only=True)
class CleanProbe(Probe):
    """The images as they are, in the arithmetic of the attacks."""

    name: ClassVar[str] = "clean"  # type: ignore[misc]

    def cost(self, images: int) -> Cost:
        """One pass."""
        return Cost(passes=images)

    def measure(self, trained: Trained) -> Finding:
        """``correct``: which images are classified rightly."""
        return _finding(torch.cat([right for _, _, right in _batches(trained)]))


@dataclass(frozen=True, kw_only=True)
class AttackProbe(Probe):
    """One attack on every image that is classified rightly; the others count as broken and are not touched.

    Attributes:
        attack: what is done.
        classes: K.
    """

    attack: Attack
    classes: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """The attack's."""
        return self.attack.name

    def cost(self, images: int) -> Cost:
        """As if no image were broken: an upper bound."""
        return Cost(passes=images * self.attack.passes(self.classes))

    def measure(self, trained: Trained) -> Finding:
        """``correct``: which images are right before the attack and after it; and for those that look for the
        smallest perturbation its median norm.

        Raises:
            ValueError: the attack left its bound.
        """
        correct, norms = [], []
        for index, x, right in _batches(trained):
            survived = right.clone()
            y = trained.test.labels[index].to(x.device)
            if bool(right.any()):
                if self.attack.eps:
                    survived[right] = self._survivors(trained, index[right.cpu()], x[right], y[right])
                else:
                    found = self._smallest(trained, x[right], y[right])
                    norms.append(found.cpu())
                    survived[right] = found.isinf()
            correct.append(survived)
        return _finding(torch.cat(correct), self._median(norms))

    def _survivors(self, trained: Trained, index: Tensor, x: Tensor, y: Tensor) -> Tensor:
        attack, seed = self.attack, trained.seed
        eps = attack.eps / 255
        adv = x
        if attack.kind == "autoattack":
            adv = external.autoattack(trained.model, x, y, eps, self.classes, seed)
        elif attack.kind == "square":
            adv = external.square(trained.model, x, y, eps, self.classes, seed, attack.steps)
        elif attack.kind in PARTS:
            adv = external.part(trained.model, x, y, attack.kind, eps, self.classes, seed)
        else:
            how, start, draws = ascent(attack), None, None
            if how.random_start:
                start = attacks.random_start(index, tuple(x.shape[1:]), how, seed, self.name).to(x.device)
            if attack.kind in ("vmi", "jitter"):
                draws = attacks.Draws(index, seed, self.name)
            adv = attacks.ascend(trained.model, x, y, how, start, draws)
        attacks.check_perturbation(self.name, x, adv, attack.norm, eps)
        with torch.no_grad():
            survived: Tensor = trained.model(adv).argmax(1) == y
        return survived

    def _smallest(self, trained: Trained, x: Tensor, y: Tensor) -> Tensor:
        how = self.attack
        if how.kind == "deepfool":
            return external.deepfool(trained.model, x, y, steps=how.steps, overshoot=OVERSHOOT)
        return external.carlini_wagner(
            trained.model, x, y, constant=how.constant, searches=how.searches, steps=how.steps, lr=how.step
        )

    def _median(self, norms: list[Tensor]) -> dict[str, float]:
        """The lower median; nothing where no image was attacked or where half of them resisted."""
        found = torch.cat(norms) if norms else torch.empty(0)
        if 2 * int(found.isinf().sum()) >= len(found):
            return {}
        return {f"{self.attack.kind}_l2": float(found.median())}


OVERSHOOT = 0.02
"""Of DeepFool: its paper's."""


def ascent(attack: Attack) -> attacks.Ascent:
    """The gradient ascent of an attack of ours."""
    eps = attack.eps / 255
    if attack.kind == "fgsm":
        return attacks.Ascent.fgsm(eps)
    return attacks.Ascent(
        eps=eps,
        steps=attack.steps,
        step=attack.step / 255,
        norm=attack.norm,
        loss="jitter" if attack.kind == "jitter" else attack.loss,
        momentum=1.0 if attack.kind in ("mim", "vmi") else None,
        neighbours=NEIGHBOURS if attack.kind == "vmi" else 0,
        random_start=attack.random_start,
    )


def _batches(trained: Trained) -> Any:
    """Positions, pixels in [0, 1] on the device, and which are classified rightly, in batches that nothing changes."""
    images = trained.test.images
    size = external.BATCH if images.shape[-1] <= LARGE else external.BATCH // 4
    for index in torch.arange(len(images)).split(size):
        x = images[index].to(trained.device).float() / 255
        with torch.no_grad():
            right = trained.model(x).argmax(1) == trained.test.labels[index].to(x.device)
        yield index, x, right


def _finding(correct: Tensor, metrics: dict[str, float] | None = None) -> Finding:
    return Finding(metrics=metrics or {}, bits={"correct": correct.cpu().numpy()})
