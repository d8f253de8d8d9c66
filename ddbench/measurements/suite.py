"""Extra measurements on a trained student (calibration, robustness, ...): what they get and what they give.

A *suite* is one kind of measurement with its settings; it consists of *probes*. A probe is the unit of work and of
resume: one attack at one strength, one type of corruption, the calibration. The evaluator runs every probe of a suite
on every trained student and seed, keeps each finding at once, and when all findings of a student and seed are there the
suite combines them (worst case over attacks, mean over corruptions) into the metrics of that run.

Suites and probes are small frozen dataclasses: they travel to worker processes by pickle. This module imports no torch.
"""

from __future__ import annotations

import base64
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ddbench.data.dataset import Dataset, Split
    from ddbench.protocols.plan import Plan

SUITES: dict[str, str] = {
    "calibration": "ddbench.measurements.calibration:calibration_suite",
    "robustness": "ddbench.measurements.robustness.attack_suite:robustness_suite",
    "corruptions": "ddbench.measurements.corruptions:corruption_suite",
    "ood": "ddbench.measurements.outliers:outlier_suite",
}
"""Kind of measurement -> ``"module:builder"``; the builder is a :data:`Builder`."""

BUDGETS = ("quick", "full", "ddrobustbench", "guard", "legacy")
"""What ``--robustness`` may be followed by; alone it means the first."""


NOISE = "noise"
"""What ``--ood`` alone means: no other dataset, but uniform noise."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A student as it came out of its training, ready to be measured.

    Attributes:
        student, seed: which run of the evaluation.
        model: differentiable; pixels float32 in [0, 1] ``(n, C, H, W)`` on ``device`` -> logits float32 ``(n, K)``. The
            preprocess (mean/std or ZCA) is inside. Evaluation mode, float32, no parameter asks for a gradient.
        logits: uint8 images ``(N, C, H, W)`` -> logits float32 ``(N, K)`` on the CPU, without gradients, in batches and
            in the precision of the evaluation: the outputs that its accuracy was read from.
        test: uint8 test images that this suite asked for (:attr:`Suite.images` of them, class-balanced), as the
            protocol tests them (enlarged and cut already, where it does so), in the order of the test set.
        held_out: uint8 real training images, class-balanced, at most 500 (or one a class); never those of the synset.
        held_out_unseen: the synset's method did not see them either (it was distilled with ``--holdout``).
        plan: synset, protocol, preprocess.
        classes: K.
        device: where ``model`` lives.
    """

    student: str
    seed: int
    model: nn.Module
    logits: Callable[[Tensor], Tensor]
    test: Split
    held_out: Split
    held_out_unseen: bool
    plan: Plan
    device: Any

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.plan.synset.classes


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is to be read: ``unit`` ("fraction", "nats", "l2", ...), what is better ("higher", "lower"), and its
    title on the board. A "fraction" must lie in [0, 1].
    """

    unit: str
    better: str
    title: str

    def to_json(self) -> dict[str, str]:
        """As ``metrics`` of an evaluation has it."""
        return {"unit": self.unit, "better": self.better, "title": self.title}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one probe measured on one student and seed; or what a suite made of all its probes.

    Attributes:
        metrics: by name; finite numbers.
        details: plain JSON without NaN.
        bits: name -> one bool per test image (``numpy`` array ``(n,)``), such as whether the image is still classified
            rightly. Kept until the suite has combined its findings, then dropped.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For the records of an evaluation; bits are packed."""
        import numpy as np

        packed = {
            name: {
                "n": len(bits),
                "packed": base64.b64encode(np.packbits(np.asarray(bits, dtype=bool)).tobytes()).decode(),
            }
            for name, bits in self.bits.items()
        }
        return {"metrics": self.metrics, "details": self.details, "bits": packed}

    @staticmethod
    def from_json(data: Any) -> Finding:
        """What :meth:`to_json` gave.

        Raises:
            ValueError, TypeError, KeyError: it is malformed, or a metric is not finite.
        """
        import numpy as np

        metrics = {str(name): float(value) for name, value in data["metrics"].items()}
        if not all(map(math.isfinite, metrics.values())) or not isinstance(data["details"], dict):
            raise ValueError("a finding's metrics are finite numbers, its details an object")
        bits = {}
        for name, entry in data["bits"].items():
            raw, n = base64.b64decode(entry["packed"], validate=True), int(entry["n"])
            if n < 0 or len(raw) != (n + 7) // 8:
                raise ValueError(f"{len(raw)} bytes for {n} bits")
            bits[str(name)] = np.unpackbits(np.frombuffer(raw, np.uint8), count=n).astype(bool)
        return Finding(metrics=metrics, details=data["details"], bits=bits)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a probe takes for one student and seed, without a clock.

    Attributes:
        passes: forward passes of one image; a backward pass counts as two more.
        seconds: CPU seconds of work that is none of the network's (making corrupted images, say).
    """

    passes: float
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both."""
        return Cost(passes=self.passes + other.passes, seconds=self.seconds + other.seconds)


class Probe(ABC):
    """One measurement. Subclasses are frozen dataclasses.

    Attributes:
        name: names the measurement with its strength, such as ``pgd-linf-8``; unique in its suite.
    """

    name: str

    @abstractmethod
    def cost(self, images: int) -> Cost:
        """Estimated work with so many test images."""

    @abstractmethod
    def measure(self, trained: Trained) -> Finding:
        """Measure one student. Every draw comes from ``seeds.generator(trained.seed, <purpose>, ...)``.

        Raises:
            UserError: what a user can cause (a library of an extra is missing).
        """


class Suite(ABC):
    """One kind of measurement with its settings. Subclasses are frozen dataclasses.

    Attributes:
        kind: a key of :data:`SUITES`.
        images: number of test images it wants, class-balanced; the whole test set where that is no more.
        notes: lines to tell the user before the work begins (what is not run, and why).
    """

    kind: ClassVar[str]
    images: int
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Every metric that :meth:`combine` may give."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain JSON, ``measured.<kind>`` of the evaluation: runs measured with other settings are not compared."""

    @property
    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """The measurements, in order."""

    def combine(self, findings: Mapping[str, Finding]) -> Finding:
        """The findings of all probes (by name) on one student and seed as one; a pure function. Bits are dropped after.

        Here: all metrics and details together.
        """
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        for probe in self.probes:
            metrics.update(findings[probe.name].metrics)
            details.update(findings[probe.name].details)
        return Finding(metrics=metrics, details=details)

    def files(self, student: str, details: dict[str, Any]) -> dict[str, bytes]:
        """Files beside the evaluation, by what follows its name (``reliability/x.csv``: ``hard-v1.reliability/x.csv``).

        Args:
            details: what :meth:`pool` gave for this student.
        """
        return {}

    @abstractmethod
    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Details of several seeds (of :meth:`combine`, in order of the seeds) as one: what the evaluation's
        ``details.<student>`` gets. Its keys are of this suite only.
        """


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the user asked for of one kind.

    Attributes:
        kind: a key of :data:`SUITES`.
        budget: of ``--robustness``; empty for the other kinds.
        max_images: ``--max-images``: how many test images; None: the suite's own number.
        reference: ``--corruption-reference``: evaluation of method ``full`` that the mCE is relative to.
        other: ``--ood``: a dataset, or :data:`NOISE`.
    """

    kind: str
    budget: str = ""
    max_images: int | None = None
    reference: Path | None = None
    other: str = NOISE


Builder = Callable[[Choice, "Plan", "Dataset"], Suite]
"""Makes a suite for a synset's plan and dataset; raises UserError for what cannot work, before any long work."""
