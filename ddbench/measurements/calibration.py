"""Calibration of trained students: metrics before and after temperature scaling, and reliability diagrams.

The temperature is fitted on three sets, and the row says which: held-out real training images (the headline: it uses
real data beside the synset), the synset itself, and the synset with pixels masked at random, as an interpretation
(``mts_pixel``) of the masked temperature scaling of Zhu et al. (ICCV 2023, arXiv 2307.12463), of which only the
abstract was at hand: ``docs/calibration.md``. Test images are never fitted on, never masked, and always all used,
since the error depends on their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.data.masks import pixel_mask
from ddbench.measurements.calibration_metrics import BINS, Floats, Ints, Temperature, calibration, fit_temperature
from ddbench.measurements.reliability import diagram_files
from ddbench.measurements.suite import Choice, Cost, Finding, Metric, Probe, Suite, Trained
from ddbench.measurements.trained import held_out_images
from ddbench.protocols.plan import Plan
from ddbench.runtime import seeds

MASK_RATIO = 0.4
"""Declared beforehand, chosen on nothing; the outcome depends sharply on it, so the whole curve is kept."""

MASK_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
MASK_DRAWS = 5
"""Masks of each image of the synset."""

FIT_IMAGES = 1000
"""Images of the synset that a temperature is fitted on at most, evenly spread: some synsets are whole training sets."""

BATCH = 256

SCALED = ("ece", "nll", "brier")
"""Metrics that are given after scaling too."""

SUFFIXES = {"held_out": "_scaled", "synset": "_scaled_synset", "masked": "_scaled_masked"}
"""Fitting set -> what its metrics end in."""

_AFTER = {
    "_scaled": "T of held-out real images",
    "_scaled_synset": "T of the synset",
    "_scaled_masked": "T of the masked synset",
}

METRICS: dict[str, Metric] = {
    "ece": Metric(unit="fraction", better="lower", title="ECE, 15 bins"),
    "adaptive_ece": Metric(unit="fraction", better="lower", title="Adaptive ECE, 15 bins of equal number"),
    "classwise_ece": Metric(unit="fraction", better="lower", title="Class-wise ECE, 15 bins"),
    "nll": Metric(unit="nats", better="lower", title="Negative log-likelihood"),
    "brier": Metric(unit="sum of squares", better="lower", title="Brier score, 0 to 2"),
    "overconfidence": Metric(unit="difference", better="lower", title="Confidence less accuracy"),
    "temperature": Metric(unit="factor", better="lower", title="Temperature of held-out real images"),
    **{
        f"{name}{suffix}": Metric(unit=unit, better="lower", title=f"{title}, {after}")
        for suffix, after in _AFTER.items()
        for name, unit, title in (
            ("ece", "fraction", "ECE"),
            ("nll", "nats", "NLL"),
            ("brier", "sum of squares", "Brier"),
        )
    },
}


@dataclass(frozen=True, kw_only=True)
class CalibrationProbe(Probe):
    """All of it for one student.

    Attributes:
        held_out, synset: images of the fitting sets.
    """

    name: str = "calibration"
    held_out: int
    synset: int

    def cost(self, images: int) -> Cost:
        """Forward passes only."""
        masked = self.synset * MASK_DRAWS * len(MASK_RATIOS)
        return Cost(passes=images + self.held_out + self.synset + masked)

    def measure(self, trained: Trained) -> Finding:
        """Metrics of the test set, three temperatures, the metrics they give, and the curve of mask ratios."""
        test, labels = _numbers(trained.logits(trained.test.images)), _classes(trained.test.labels)
        plain = calibration(test, labels)
        metrics = dict(plain.metrics)
        details: dict[str, Any] = {"bins": plain.bins, "others": plain.others, "temperatures": {}, "degenerate": []}
        curve = []
        for name, outputs, classes in _fitting_sets(trained):
            found = fit_temperature(outputs, classes)
            scaled = calibration(test / found.value, labels)
            assert scaled.others["accuracy"] == plain.others["accuracy"], "scaling never changes a prediction"
            ratio = name if isinstance(name, float) else None
            if ratio is not None:
                curve.append({"ratio": ratio, "temperature": found.value, "ece": scaled.metrics["ece"]})
            split = "masked" if ratio is not None else str(name)
            if ratio is None or ratio == MASK_RATIO:
                metrics.update({f"{key}{SUFFIXES[split]}": scaled.metrics[key] for key in SCALED})
                _note(details, split, found)
            if split == "held_out":
                metrics["temperature"] = found.value
                details["bins_scaled"] = scaled.bins
        return Finding(metrics=metrics, details={**details, "mask_curve": curve})


def _note(details: dict[str, Any], split: str, found: Temperature) -> None:
    details["temperatures"][split] = found.value
    if found.degenerate:
        details["degenerate"].append(split)


def _fitting_sets(trained: Trained) -> list[tuple[str | float, Floats, Ints]]:
    """Name (or mask ratio), logits and classes of each set that a temperature is fitted on."""
    found: list[tuple[str | float, Floats, Ints]] = []
    if len(trained.held_out):
        outputs = _numbers(trained.logits(trained.held_out.images))
        found.append(("held_out", outputs, _classes(trained.held_out.labels)))
    pixels, labels = synset_pixels(trained)
    classes = _classes(labels)
    found.append(("synset", _outputs(trained, pixels), classes))
    _, _, height, width = pixels.shape
    for ratio in MASK_RATIOS:
        randomness = seeds.generator(trained.seed, "masked temperature", int(100 * ratio + 0.5))
        draws = [
            _outputs(trained, pixels * pixel_mask(len(pixels), height, width, ratio, randomness).to(pixels.device))
            for _ in range(MASK_DRAWS)
        ]
        found.append((ratio, np.concatenate(draws), np.tile(classes, MASK_DRAWS)))
    return found


def synset_pixels(trained: Trained) -> tuple[Tensor, Tensor]:
    """What the student was trained on, decoded, as pixels (not clamped) and classes; :data:`FIT_IMAGES` at most."""
    inputs = trained.plan.inputs(trained.device)
    count = min(len(inputs), FIT_IMAGES)
    index = (torch.arange(count) * len(inputs) // count).to(inputs.device)
    return trained.plan.preprocess.invert(inputs.batch(index)), inputs.hard_labels[index]


@torch.no_grad()
def _outputs(trained: Trained, pixels: Tensor) -> Floats:
    parts = [trained.model(part.to(trained.device)).cpu() for part in pixels.split(BATCH)]
    return _numbers(torch.cat(parts))


def _numbers(logits: Tensor) -> Floats:
    return logits.double().numpy()


def _classes(labels: Tensor) -> Ints:
    return labels.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class CalibrationSuite(Suite):
    """Calibration on the whole test set.

    Attributes:
        images: the whole test set.
        classes: K.
        held_out: real images for the headline temperature.
        unseen: the synset's method did not see them.
        synset: images of the synset that a temperature is fitted on.
    """

    kind: ClassVar[str] = "calibration"
    images: int
    held_out: int
    unseen: bool
    synset: int
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """:data:`METRICS`."""
        return METRICS

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        split = "held-out real images" if self.unseen else "real training images"
        return {
            "n_test": self.images,
            "n_bins": BINS,
            "norm": "l1",
            "temperature_split": split if self.held_out else "none",
            "temperature_images": self.held_out,
            "temperature_unseen": self.unseen,
            "synset_images": self.synset,
            "mask": "mts_pixel",
            "mask_ratio": MASK_RATIO,
            "mask_draws": MASK_DRAWS,
        }

    @property
    def probes(self) -> Sequence[Probe]:
        """One."""
        return (CalibrationProbe(held_out=self.held_out, synset=self.synset),)

    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Bins summed over seeds, flags counted, the rest averaged."""
        splits = [split for split in SUFFIXES if split in details[0]["temperatures"]]
        made: dict[str, Any] = {"reliability": _reliability([one["bins"] for one in details])}
        if "bins_scaled" in details[0]:
            made["reliability_scaled"] = _reliability([one["bins_scaled"] for one in details])
        made["temperature_degenerate"] = {split: sum(split in one["degenerate"] for one in details) for split in splits}
        made["calibration"] = {
            "temperatures": {split: _mean([one["temperatures"][split] for one in details]) for split in splits},
            **{name: _mean([one["others"][name] for one in details]) for name in ("ece_l2", "largest_gap")},
            "mask_curve": [
                {
                    "ratio": entry["ratio"],
                    **{
                        name: _mean([one["mask_curve"][place][name] for one in details])
                        for name in ("temperature", "ece")
                    },
                }
                for place, entry in enumerate(details[0]["mask_curve"])
            ],
        }
        return made

    def files(self, student: str, details: dict[str, Any]) -> dict[str, bytes]:
        """The reliability diagram as CSV, SVG and PNG; of a student whose calibration was not measured nothing."""
        return diagram_files(student, details["reliability"]) if "reliability" in details else {}


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _reliability(seeds_bins: Sequence[list[list[float]]]) -> list[list[float | int | None]]:
    """Of each bin: n, mean confidence, accuracy; the last two None where it is empty."""
    rows: list[list[float | int | None]] = []
    for same in zip(*seeds_bins, strict=True):
        count, confident, right = (sum(entry[place] for entry in same) for place in range(3))
        rows.append([int(count), confident / count, right / count] if count else [0, None, None])
    return rows


def calibration_suite(choice: Choice, plan: Plan, dataset: Dataset) -> CalibrationSuite:
    """Calibration for a synset. The whole test set is used, whatever ``choice.max_images`` is."""
    held_out, unseen = held_out_images(plan, dataset)
    notes = []
    if not len(held_out):
        notes.append("calibration: the synset is the whole training set: no real images are left for a temperature")
    elif not unseen:
        notes.append(
            f"calibration: the temperature is fitted on {len(held_out)} real training images that the method may have "
            "seen (distil with --holdout for unseen ones)"
        )
    return CalibrationSuite(
        images=len(dataset.test),
        held_out=len(held_out),
        unseen=unseen,
        synset=min(FIT_IMAGES, plan.synset.decoded_images),
        notes=tuple(notes),
    )
