"""DD-Ranking's scores: hard label recovery, improvement over random, and the two that are derived from them.

Definitions are those of DD-Ranking (Li et al. 2025) with accuracies as *fractions* in [0, 1]; its released code feeds
percentages into the exponential, which leaves the range of 0 to 100 (``docs/scores.md``). Everything is computed for
each repeat and then averaged. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ddbench.protocols.protocol import PROTOCOLS, Protocol, changed
from ddbench.protocols.settings import plain
from ddbench.runtime.errors import UserError
from ddbench.statistics import SIGNED, Statistics, summarise

WEIGHT = 0.5
"""DD-Ranking's w of LRS and gamma of ARS."""


def hlr(real_hard: float, syn_hard: float) -> float:
    """Hard label recovery, in [-1, 1]; lower is better.

    Args:
        real_hard: accuracy after training on all real images with hard labels.
        syn_hard: accuracy after training on the synset with hard labels.

    Raises:
        ValueError: not a fraction.
    """
    return _fraction("real_hard", real_hard) - _fraction("syn_hard", syn_hard)


def ior(syn: float, random: float) -> float:
    """Improvement over random, in [-1, 1]; higher is better.

    Args:
        syn: accuracy under the method's own protocol.
        random: accuracy of a random real subset of the same budget under that protocol.

    Raises:
        ValueError: not a fraction.
    """
    return _fraction("syn", syn) - _fraction("random", random)


def alpha(recovery: float, improvement: float, weight: float = WEIGHT) -> float:
    """``weight * IOR - (1 - weight) * HLR``, in [-1, 1].

    Raises:
        ValueError: a difference outside [-1, 1], or a weight outside [0, 1].
    """
    weight = _fraction("weight", weight)
    return weight * _difference("ior", improvement) - (1 - weight) * _difference("hlr", recovery)


def lrs(recovery: float, improvement: float, weight: float = WEIGHT) -> float:
    """Label robust score: 0 (worst) to 100, 26.89 where HLR and IOR are 0.

    Raises:
        ValueError: as :func:`alpha`.
    """
    return scaled(alpha(recovery, improvement, weight))


def beta(a1: float, a0: float, gamma: float = WEIGHT) -> float:
    """``gamma * A1 + (1 - gamma) * A0``, in [-1, 1].

    Raises:
        ValueError: a difference outside [-1, 1], or a gamma outside [0, 1].
    """
    gamma = _fraction("gamma", gamma)
    return gamma * _difference("a1", a1) + (1 - gamma) * _difference("a0", a0)


def ars(a1: float, a0: float, gamma: float = WEIGHT) -> float:
    """Augmentation robust score: 0 (worst) to 100, 26.89 where the synset is as good as random images.

    Args:
        a1: improvement over random with the protocol's augmentation.
        a0: improvement over random without augmentation.

    Raises:
        ValueError: as :func:`beta`.
    """
    return scaled(beta(a1, a0, gamma))


def scaled(value: float) -> float:
    """``100 (exp(value) - exp(-1)) / (exp(1) - exp(-1))``: [-1, 1] to [0, 100], increasing and convex.

    Raises:
        ValueError: a value outside [-1, 1].
    """
    _difference("value", value)
    return 100 * (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def _fraction(name: str, value: float) -> float:
    if value > 1:
        raise ValueError(f"{name} is {value:g}, expected a fraction in [0, 1]: is it in percent?")
    if not value >= 0:  # NaN, too
        raise ValueError(f"{name} is {value:g}, expected a fraction in [0, 1]")
    return value


def _difference(name: str, value: float) -> float:
    if not -1 <= value <= 1:
        hint = ": is it in percent?" if abs(value) > 1 else ""
        raise ValueError(f"{name} is {value:g}, expected a difference of fractions in [-1, 1]{hint}")
    return value


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Test accuracies of one repeat, fractions; each of a fresh network of the same seed.

    Attributes:
        real_hard: all real images, hard labels.
        syn_hard: the synset, hard labels.
        syn, random: the synset, and this repeat's random subset, under the synset's own protocol.
        syn_plain, random_plain: the same without augmentation.
    """

    real_hard: float
    syn_hard: float
    syn: float
    random: float
    syn_plain: float
    random_plain: float


SCORES = ("hlr", "ior", "a1", "a0", "lrs", "ars")
"""The scores in the order of reading: what was measured first, what is derived from it last."""

UNITS = {**dict.fromkeys(SCORES, SIGNED), "lrs": "points", "ars": "points"}

TITLES = {
    "hlr": "HLR  real - synset, hard labels (lower is better)",
    "ior": "IOR  synset - random, own protocol",
    "a1": "A1   the same, with augmentation",
    "a0": "A0   synset - random, without augmentation",
    "lrs": "LRS  of HLR and IOR, 0 to 100",
    "ars": "ARS  of A1 and A0, 0 to 100",
    "real_hard": "all real images, hard labels",
    "syn_hard": "synset, hard labels",
    "syn": "synset, own protocol",
    "random": "random real images, own protocol",
    "syn_plain": "synset, without augmentation",
    "random_plain": "random real images, without augmentation",
}
"""What scores and accuracies are, in a few words."""


def repeat_scores(one: Accuracies, weight: float = WEIGHT) -> dict[str, float]:
    """The accuracies of a repeat and its :data:`SCORES`.

    Raises:
        ValueError: an accuracy or the weight is no fraction.
    """
    return scores_of(asdict(one), weight)


def scores_of(known: Mapping[str, float], weight: float = WEIGHT) -> dict[str, float]:
    """The accuracies of a repeat, some of which may be missing, and those :data:`SCORES` that follow from them.

    Raises:
        ValueError: an accuracy or the weight is no fraction.
    """
    found = dict(known)
    if {"real_hard", "syn_hard"} <= found.keys():
        found["hlr"] = hlr(found["real_hard"], found["syn_hard"])
    if {"syn", "random"} <= found.keys():
        found["ior"] = found["a1"] = ior(found["syn"], found["random"])
    if {"syn_plain", "random_plain"} <= found.keys():
        found["a0"] = ior(found["syn_plain"], found["random_plain"])
    if {"hlr", "ior"} <= found.keys():
        found["lrs"] = lrs(found["hlr"], found["ior"], weight)
    if {"a1", "a0"} <= found.keys():
        found["ars"] = ars(found["a1"], found["a0"], weight)
    return found


def summary(repeats: Sequence[dict[str, float]]) -> dict[str, Statistics]:
    """Mean, standard deviation (ddof 1) and 95 % Student-t interval over the repeats, of each accuracy and score.

    What a repeat lacks, since a training diverged, is left out: a mean of the other repeats would flatter it.

    Raises:
        ValueError: no repeats.
    """
    names = [name for name in repeats[0] if all(name in one for one in repeats)] if repeats else ["hlr"]
    return {name: summarise([repeat[name] for repeat in repeats]) for name in names}


REAL, SYNSET, RANDOM = "real", "synset", "random"


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One kind of training that the scores need.

    Attributes:
        subject: what is trained on: :data:`REAL`, :data:`SYNSET` or :data:`RANDOM`.
        base, difference: the protocol as a known one and what differs from it.
        protocol: the two put together.
    """

    subject: str
    base: Protocol
    difference: dict[str, Any]
    protocol: Protocol


def own_protocol(label_kind: str) -> str:
    """Name of the protocol that a synset is scored by if none is named."""
    return "soft-v1" if label_kind == "soft" else "hard-v1"


def legs(
    base: Protocol,
    *,
    epochs: int | None = None,
    soft: bool,
    soft_random: bool,
    learned_lr: bool,
    hard_augmentation: bool,
) -> dict[str, Leg]:
    """The six trainings, by the names of :class:`Accuracies`. Legs may be equal; they are then trained once.

    Args:
        base: the synset's own protocol.
        epochs: other number of epochs than the protocol's, for the full set too; the protocol's own alters nothing.
        soft: the synset has soft labels, or targets: labels that are not classes.
        soft_random: the random subsets have soft labels, too.
        learned_lr: the synset carries a learned learning rate, or one a stage.
        hard_augmentation: the legs with hard labels are augmented as the protocol says.

    Raises:
        UserError: epochs out of range, or a protocol that replays stored labels or a learned recipe, which random
            images do not have.
    """
    if base.replay:
        raise UserError(
            f"--protocol {base.name} replays a learned recipe, which random real images do not have; use e.g. hard-v1"
        )
    if base.labels == "stored":
        raise UserError(
            f"--protocol {base.name} replays stored labels, which random real images do not have; use one whose "
            'teacher labels every view (kd-v1, or a TOML file with base = "fkd" and labels = "teacher")'
        )
    epochs = None if epochs == base.epochs else epochs  # what it says anyway alters nothing
    own, difference = changed(base, epochs=epochs, full_epochs=epochs)
    learned = learned_lr and own.lr_source == "synset"
    hard, _ = changed(
        own,
        labels="hard",
        loss="ce",
        augmentation=None if hard_augmentation else "none",
        lr_source="synset" if learned else "search",
    )
    plain = replace(own, augmentation="none")
    return {
        # Searched even where the synset brings its own rate: two synsets of a cell are compared with the same row.
        "real_hard": _leg(REAL, replace(hard, lr_source="search"), False),
        "syn_hard": _leg(SYNSET, hard, soft),
        "syn": Leg(subject=SYNSET, base=base, difference=difference, protocol=own),
        "random": _leg(RANDOM, own, soft_random),
        "syn_plain": _leg(SYNSET, plain, soft),
        "random_plain": _leg(RANDOM, plain, soft_random),
    }


def _leg(subject: str, wanted: Protocol, soft: bool) -> Leg:
    """A leg under the name of the known protocol that is nearest to it, so that equal trainings have equal names."""
    if not soft and wanted.labels in ("hard", "soft"):  # a subject with hard labels has no others
        wanted = replace(wanted, labels="own")
    options = [(one, _differing(wanted, one)) for one in PROTOCOLS.values()]
    base, difference = min(options, key=lambda option: len(option[1]))
    return Leg(subject=subject, base=base, difference=difference, protocol=replace(wanted, name=base.name))


def _differing(one: Protocol, base: Protocol) -> dict[str, Any]:
    """The settings of one that the other has otherwise, those that only one of them records too."""
    unlike = (item.name for item in fields(Protocol) if getattr(one, item.name) != getattr(base, item.name))
    return {name: plain(getattr(one, name)) for name in unlike if name != "name"}
