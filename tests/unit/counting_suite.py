"""A measurement for tests: counts right answers in two probes and combines their bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ddbench.measurements.suite import Choice, Cost, Finding, Metric, Probe, Suite, Trained


@dataclass(frozen=True, kw_only=True)
class Shifted(Probe):
    """Accuracy after a shift of all pixels."""

    name: str
    shift: float

    def cost(self, images: int) -> Cost:
        return Cost(passes=images)

    def measure(self, trained: Trained) -> Finding:
        pixels = (trained.test.images.float() / 255 + self.shift).clamp(0, 1)
        with torch.no_grad():
            right = (trained.model(pixels.to(trained.device)).argmax(1).cpu() == trained.test.labels).numpy()
        drawn = float(torch.rand(()))  # the evaluator isolates the global generator
        return Finding(
            metrics={}, details={"drawn": drawn, "labels": trained.test.labels.sum().item()}, bits={"ok": right}
        )


@dataclass(frozen=True, kw_only=True)
class CountingSuite(Suite):
    """Two shifts; an image counts where both leave it right."""

    kind: ClassVar[str] = "corruptions"
    images: int

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {"worst": Metric(unit="fraction", better="higher", title="Both shifts")}

    @property
    def settings(self) -> dict[str, Any]:
        return {"images": self.images, "shifts": (0.0, 0.2)}

    @property
    def probes(self) -> Sequence[Probe]:
        return (Shifted(name="none", shift=0.0), Shifted(name="lighter", shift=0.2))

    def combine(self, findings: Mapping[str, Finding]) -> Finding:
        both = findings["none"].bits["ok"] & findings["lighter"].bits["ok"]
        clean = float(findings["none"].bits["ok"].mean())
        details = {"clean": clean, "drawn": findings["none"].details["drawn"], "n": len(both)}
        return Finding(metrics={"worst": float(both.mean())}, details=details)

    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"corruptions": {"clean": [one["clean"] for one in details]}}


def counting(choice: Choice, plan: Any, dataset: Any) -> CountingSuite:
    return CountingSuite(images=min(choice.max_images or 200, len(dataset.test)))
