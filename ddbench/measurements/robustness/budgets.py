"""What ``--robustness`` runs, by name: attacks, bounds and number of images. Imports no torch.

Bounds are numbers over 255 (pixels of 8 bits) and follow the size of the images, because what is visible does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VERSION = 1
"""Of the measurement as a whole; goes into the settings, so that rows of different versions are not compared."""

IMAGES = 1000
"""Test images that are attacked, class-balanced; all where there are fewer."""

L2_EPS = 128
"""Bound of the L2 attack, over 255."""

SANITY_EPS = 128
"""A bound at which nothing can be seen any more: what survives it has hidden its gradient."""

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Of AutoAttack's standard version, in its order; each gets what the earlier ones left."""

TARGETED = ("apgd-t", "fab-t")
"""The parts that have target classes."""


def parts_for(classes: int) -> tuple[str, ...]:
    """The parts that AutoAttack has with so many classes: targeted APGD's loss divides by the fourth largest logit."""
    return tuple(part for part in PARTS if classes > 3 or part != "apgd-t")


NEIGHBOURS = 5
"""Points a step about an image, of VMI-FGSM; as torchattacks has it, which DD-RobustBench uses."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack at one strength.

    Attributes:
        kind: ``fgsm``, ``pgd``, ``mim``, ``vmi``, ``jitter``, ``autoattack`` or one of its parts (``apgd-ce``,
            ``apgd-t``, ``fab-t``, ``square``), ``cw`` or ``deepfool``.
        eps: bound over 255; 0 for those that look for the smallest perturbation.
        norm: ``linf`` or ``l2``.
        steps: of the gradient attacks; queries of Square.
        step: length of a step over 255; learning rate of C&W.
        loss: ``cross-entropy`` or ``margin`` (PGD).
        random_start: of PGD and Jitter.
        constant, searches: C&W's first weight of the loss, and how many weights it tries.
        sanity: no threat, but a test of the attack itself (:data:`SANITY_EPS`).
        variant: ends the name, where a budget has the same attack at one bound twice.
    """

    kind: str
    eps: float = 0
    norm: str = "linf"
    steps: int = 1
    step: float = 0.0
    loss: str = "cross-entropy"
    random_start: bool = False
    constant: float = 0.0
    searches: int = 0
    sanity: bool = False
    variant: str = ""

    @property
    def family(self) -> str:
        """Name without the bound, unique in a budget: ``pgd``, ``pgd_l2``, ``pgd_margin``, ..., ``cw``."""
        name = self.kind if self.loss == "cross-entropy" else f"{self.kind}_{self.loss}"
        name = f"{name}{self.variant}".replace("-", "_")
        return f"{name}_l2" if self.norm == "l2" and self.eps else name

    @property
    def name(self) -> str:
        """Name with the bound, such as ``pgd-linf-8`` or ``cw``."""
        return f"{self.family.removesuffix('_l2')}-{self.norm}-{self.eps:g}" if self.eps else self.kind

    @property
    def library(self) -> str:
        """The package that has it; empty: it is ours."""
        if self.kind in ("autoattack", *PARTS):
            return "pyautoattack"
        return "foolbox" if self.kind in ("cw", "deepfool") else ""

    def passes(self, classes: int) -> float:
        """Forward passes an image takes that is not broken; a backward pass counts as two more."""
        targets = min(9, classes - 1)
        forward = {
            "vmi": 3 * self.steps * (1 + NEIGHBOURS),
            "apgd-ce": 303,
            "apgd-t": 303 * targets,
            "fab-t": 300 * targets,
            "square": self.steps,
            "cw": 3 * self.steps * max(1, self.searches),
            "deepfool": 3 * self.steps * targets,
            # APGD: 100 steps; for each target APGD again and FAB; Square with 5,000 queries.
            "autoattack": 303 + 5000 + (603 if classes > 3 else 300) * targets,
        }
        return forward.get(self.kind, 3 * self.steps) + 2

    def settings(self) -> dict[str, Any]:
        """What it does, for the record: its name and all that is not left out."""
        own = {
            "eps": self.eps,
            "norm": self.norm,
            "steps": self.steps if self.kind not in ("autoattack", *PARTS[:3]) else 0,
            "step": self.step,
            "loss": self.loss if self.kind == "pgd" else "",
            "random_start": self.random_start,
            "constant": self.constant,
            "searches": self.searches,
            "sanity": self.sanity,
        }
        return {"name": self.name, **{key: value for key, value in own.items() if value}}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A named list of attacks.

    Attributes:
        headline: the Linf bound, over 255, at which the worst case over attacks is the headline.
    """

    name: str
    headline: int
    attacks: tuple[Attack, ...]


def bounds(channels: int, size: int) -> tuple[int, tuple[int, ...]]:
    """The headline's Linf bound for images of a size, and all bounds in order; over 255.

    Grey images up to 48 pixels: 8, and 2, 4, 16. Colour: 8, and 1, 2, 4, as students of few images have fallen to the
    floor at 8. Up to 96 pixels: 4, and 1, 2, 8. Larger: 1, and 2, 4.
    """
    if size > 96:
        return 1, (1, 2, 4)
    if size > 48:
        return 4, (1, 2, 4, 8)
    return 8, ((2, 4, 8, 16) if channels == 1 else (1, 2, 4, 8))


def budget(name: str, channels: int, size: int, classes: int = 10) -> Budget:
    """The attacks of a budget for images of a size.

    ``quick``: FGSM and PGD-20 at every bound. ``full``: also PGD in L2, and at the headline's bound AutoAttack and
    Square, and C&W and DeepFool. ``ddrobustbench``, ``guard``, ``legacy``: the settings that DD-RobustBench, GUARD and
    BEARD wrote down, on rightly scaled pixels. With fewer than four classes without :data:`TARGETED` by themselves.

    Raises:
        KeyError: an unknown name.
    """
    headline, every = bounds(channels, size)
    if name in ("quick", "full"):
        return Budget(name=name, headline=headline, attacks=_ours(headline, every, whole=name == "full"))
    if name == "ddrobustbench":
        attacks = tuple(attack for attack in _ddrobustbench() if classes > 3 or attack.kind not in TARGETED)
        return Budget(name=name, headline=4, attacks=attacks)
    return {"guard": _GUARD, "legacy": _LEGACY}[name]


def _ours(headline: int, every: Sequence[int], *, whole: bool) -> tuple[Attack, ...]:
    def pgd(eps: int, **more: Any) -> Attack:
        return Attack(kind="pgd", eps=eps, steps=20, step=eps / 4, random_start=True, **more)

    attacks = [
        *(Attack(kind="fgsm", eps=eps) for eps in every),
        *(pgd(eps) for eps in every),
        pgd(SANITY_EPS, sanity=True),
    ]
    if whole:
        attacks += [
            pgd(L2_EPS, norm="l2"),
            Attack(kind="autoattack", eps=headline),
            Attack(kind="square", eps=headline, steps=5000),
            Attack(kind="cw", norm="l2", steps=100, step=0.05, constant=1.0, searches=5),
            Attack(kind="deepfool", norm="l2", steps=50),
        ]
    return tuple(attacks)


def _ddrobustbench() -> tuple[Attack, ...]:
    """Its params.yaml, row by row: steps of 2/255, ten at each bound and five at the smaller two."""

    def rows(kind: str, **more: Any) -> tuple[Attack, ...]:
        return (
            *(Attack(kind=kind, eps=eps, steps=10, step=2, **more) for eps in (2, 4, 8)),
            *(Attack(kind=kind, eps=eps, steps=5, step=2, variant="5", **more) for eps in (2, 4)),
        )

    return (
        *(Attack(kind="fgsm", eps=eps) for eps in (2, 4, 8)),
        *rows("pgd", random_start=True),
        *rows("pgd", random_start=True, loss="margin"),
        *rows("vmi"),
        *rows("jitter", random_start=True),
        *(Attack(kind="autoattack", eps=eps) for eps in (1, 2, 3, 4)),
        *(Attack(kind=part, eps=eps, steps=5000 if part == "square" else 1) for part in PARTS for eps in (1, 2, 3, 4)),
    )


_GUARD = Budget(
    name="guard",
    headline=1,
    attacks=(
        Attack(kind="pgd", eps=1, steps=100, step=0.25, random_start=True),
        Attack(kind="mim", eps=1, steps=20, step=1),
        Attack(kind="autoattack", eps=1),
        Attack(kind="square", eps=1, steps=5000),
        Attack(kind="cw", norm="l2", steps=100, step=0.01, constant=1e-4, searches=1),
    ),
)

_LEGACY = Budget(
    name="legacy",
    headline=8,
    attacks=(
        Attack(kind="fgsm", eps=8),
        Attack(kind="pgd", eps=8, steps=10, step=2),
        Attack(kind="pgd", eps=L2_EPS, norm="l2", steps=10, step=15),
        Attack(kind="autoattack", eps=8),
        Attack(kind="square", eps=8, steps=5000),
        Attack(kind="cw", norm="l2", steps=100, step=0.01, constant=1.0, searches=1),
        Attack(kind="deepfool", norm="l2", steps=50),
    ),
)
