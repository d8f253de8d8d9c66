"""``--ood``: does a student's confidence tell images of other data from the test images?

The score of an image is its largest softmax probability (Hendrycks and Gimpel, ICLR 2017): test images should have
higher ones than images of another dataset, or noise. Both go through the preprocess of the student's own data, and are
enlarged and cut where its protocol tests images so. Nothing
is fitted and no threshold is chosen: the AUROC needs none, and the false positives are counted at the threshold that
keeps 95 % of the test images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddbench.data.dataset import Dataset, Split, balanced
from ddbench.data.load import data_changed, load_dataset
from ddbench.data.specs import DATASETS, dataset_spec, is_own, size_to_load
from ddbench.measurements.suite import NOISE, Choice, Cost, Finding, Metric, Probe, Suite, Trained
from ddbench.protocols.plan import Plan
from ddbench.protocols.training import split_to_test
from ddbench.registry import unknown
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.statistics import auroc

VERSIONS = {False: 1, True: 2}
"""By whether the protocol tests images enlarged: of those both sides are, since version 2."""

KEPT = 0.95
"""Share of the test images that the threshold of the false positives keeps."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OutlierProbe(Probe):
    """Images of other data against the test images.

    Attributes:
        other: a dataset, or :data:`ddbench.measurements.suite.NOISE`.
        root: data folder.
        images: how many of the other data, class-balanced; as many as test images where there are so many.
        fingerprint: of the other data; empty for noise.
    """

    name: str = "ood"
    other: str
    root: Path | None
    images: int
    fingerprint: str = ""

    def cost(self, images: int) -> Cost:
        """One pass over both."""
        return Cost(passes=images + self.images)

    def measure(self, trained: Trained) -> Finding:
        """``ood_auroc`` and ``ood_fpr95``."""
        inside = confidence(trained.logits(trained.test.images))
        outside = confidence(trained.logits(split_to_test(trained.plan, self._others(trained.test.images)).images))
        return Finding(
            metrics={"ood_auroc": auroc(inside, outside), "ood_fpr95": false_positives(inside, outside)},
            details={"other": self.other},
        )

    def _others(self, test: Tensor) -> Split:
        if self.other == NOISE:
            return Split(noise(self.images, tuple(test.shape[1:])), torch.zeros(self.images, dtype=torch.int64))
        found = load_dataset(self.other, self.root, size=size_to_load(self.other, test.shape[-1]))
        if found.fingerprint != self.fingerprint:
            raise data_changed(self.other)
        return balanced(found.test, self.images, found.spec.classes)


def noise(count: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform noise, uint8 ``(count, C, H, W)``: the same images for every synset."""
    return torch.randint(256, (count, *shape), generator=seeds.generator(0, "ood", NOISE)).to(torch.uint8)


def confidence(logits: Tensor) -> Floats:
    """Logarithm of the largest softmax probability of each image ``(N,)``, exact where the probability rounds to 1."""
    z = logits.double().numpy()
    highest = z.argmax(1)[:, None]
    rest = np.exp(z - np.take_along_axis(z, highest, 1))
    np.put_along_axis(rest, highest, 0.0, 1)
    found: Floats = -np.log1p(rest.sum(1))
    return found


def false_positives(inside: Floats, outside: Floats) -> float:
    """Share of ``outside`` that a threshold keeps which keeps at least 95 % of ``inside``: FPR at 95 % TPR."""
    threshold = np.sort(inside)[len(inside) - math.ceil(KEPT * len(inside))]
    return float((outside >= threshold).mean())


@dataclass(frozen=True, kw_only=True)
class OutlierSuite(Suite):
    """One other dataset.

    Attributes:
        images: test images.
        other, root: as the probe's.
        other_images: how many images of it.
        fingerprint: of the other dataset; empty for noise.
        enlarged: whether the protocol tests images enlarged and cut.
    """

    kind: ClassVar[str] = "ood"
    images: int
    other: str
    root: Path | None
    other_images: int
    fingerprint: str = ""
    enlarged: bool = False
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """AUROC and FPR at 95 % TPR."""
        return {
            "ood_auroc": Metric(unit="fraction", better="higher", title=f"AUROC against {self.other}"),
            "ood_fpr95": Metric(unit="fraction", better="lower", title=f"FPR at 95 % TPR, {self.other}"),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "version": VERSIONS[self.enlarged],
            "other": self.other,
            "other_fingerprint": self.fingerprint,
            "other_images": self.other_images,
            "images": self.images,
            "score": "max softmax",
        }

    @property
    def probes(self) -> Sequence[Probe]:
        """One."""
        probe = OutlierProbe(other=self.other, root=self.root, images=self.other_images, fingerprint=self.fingerprint)
        return (probe,)

    def combine(self, findings: Mapping[str, Finding]) -> Finding:
        """The probe's metrics."""
        return Finding(metrics=findings["ood"].metrics)

    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Nothing but the metrics."""
        return {}


def outlier_suite(choice: Choice, plan: Plan, dataset: Dataset) -> Suite:
    """Other data for a synset's dataset.

    Raises:
        UserError: an unknown dataset, a folder, the synset's own dataset, or images of another shape.
    """
    _, channels, size, _ = plan.synset.images.shape
    count = min(choice.max_images or len(dataset.test), len(dataset.test))
    if choice.other == NOISE:
        return OutlierSuite(
            images=count, other=NOISE, root=dataset.root, other_images=count, enlarged=plan.protocol.test_zoom
        )
    where = f"--ood {choice.other}"
    if is_own(choice.other):
        raise UserError(
            f"{where}: a folder or file of one's own has no name others know; expected {NOISE} or a dataset's name"
        )
    if choice.other == dataset.spec.name:
        raise UserError(f"{where}: the synset is of this dataset itself; expected {NOISE} or another one")
    if choice.other not in DATASETS:
        raise unknown("dataset", choice.other, [NOISE, *DATASETS], "--ood")
    spec = dataset_spec(choice.other)
    if spec.channels != channels or (spec.size != size and not spec.resizable):
        raise UserError(
            f"{where}: its images are {spec.channels} x {spec.size} x {spec.size}, the synset's {channels} x {size} x "
            f"{size}; expected {NOISE} or a dataset of this shape"
        )
    other = load_dataset(choice.other, dataset.root, size=size_to_load(choice.other, size))
    return OutlierSuite(
        images=count,
        other=choice.other,
        root=dataset.root,
        other_images=min(count, len(other.test)),
        fingerprint=other.fingerprint,
        enlarged=plan.protocol.test_zoom,
    )
