"""``--corruptions``: accuracy on test images with the corruptions of CIFAR-10-C, in five severities.

The headline is the mean accuracy over types and severities, and its drop from the clean images. The mean corruption
error (mCE) divides the errors of a type by those of a reference, the same student trained on the whole training set by
the same evaluator; it flatters students of low accuracy, and is there only where such a reference was given.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.measurements.corruption_types import NOISE, SEVERITIES, corrupt, corruption_types
from ddbench.measurements.suite import Choice, Cost, Finding, Metric, Probe, Suite, Trained
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import Protocol
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, read_json
from ddbench.runtime.tensors import check_tensor, open_tensors, write_tensors
from ddbench.statistics import corruption_errors
from ddbench.training.loops import accuracy

VERSIONS = {"glass_blur": 2, "zoom_blur": 2}
"""Type -> version of it, where it is not the first. That of a set is the newest in it: results of sets with another
version are not compared."""

IMAGES = 1000
"""Test images, class-balanced; all where there are fewer."""

SECONDS = 1e-3
"""Estimated CPU seconds for corrupting an image of 32 pixels once."""

KEEP_BYTES = 64 * 2**20
"""Corrupted images of a type up to this size are kept in the data folder for the next student and synset."""

KIND, SCHEMA = "ddbench-corrupted-images", 1

Table = dict[str, tuple[float, ...]]
"""Type -> accuracy at severity 1 to 5."""


@dataclass(frozen=True, kw_only=True)
class CleanProbe(Probe):
    """The images as they are."""

    name: ClassVar[str] = "clean"  # type: ignore[misc]

    def cost(self, images: int) -> Cost:
        """One pass."""
        return Cost(passes=images)

    def measure(self, trained: Trained) -> Finding:
        """``accuracy``, and the name of the student."""
        return Finding(details={"accuracy": _accuracy(trained, trained.test.images), "student": trained.student})


@dataclass(frozen=True, kw_only=True)
class CorruptionProbe(Probe):
    """One type of corruption, all severities.

    Attributes:
        name: of the type.
        size: side of the images in pixels, for the estimate.
        root: data folder where corrupted images are kept; None: nowhere.
    """

    name: str
    size: int
    root: Path | None = None

    def cost(self, images: int) -> Cost:
        """Five passes, and the making of the images."""
        count = images * len(SEVERITIES)
        return Cost(passes=count, seconds=count * SECONDS * max(1, self.size / 32) ** 2)

    def measure(self, trained: Trained) -> Finding:
        """``accuracy`` at each severity."""
        made = corrupted(trained.test.images, self.name, self.root)
        return Finding(details={"accuracy": [_accuracy(trained, images) for images in made]})


def _accuracy(trained: Trained, images: Tensor) -> float:
    return accuracy(trained.logits(images), trained.test.labels)


def corrupted(images: Tensor, name: str, root: Path | None) -> Tensor:
    """The images with one type of corruption at each severity: uint8 ``(5, N, C, H, W)``.

    Args:
        images: uint8 ``(N, C, H, W)``.
        root: data folder; what was made once is read from ``root/corruptions``, unless it is too large to be kept.
    """
    path = None
    if root is not None and images.numel() * len(SEVERITIES) <= KEEP_BYTES:
        path = root / "corruptions" / f"{name}-{_key(name, images)}.safetensors"
        if path.is_file():
            try:
                return _read(path, (len(SEVERITIES), *images.shape))
            except UserError:
                pass  # damaged: made again
    pixels = images.numpy()
    made = torch.from_numpy(np.stack([corrupt(pixels, name, severity) for severity in SEVERITIES]))
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {"images": made}, {"kind": KIND, "schema": SCHEMA, "type": name})
        except (UserError, OSError):
            pass  # a data folder that cannot be written to: made again the next time
    return made


def _key(name: str, images: Tensor) -> str:
    """Names the images and the code that corrupts them."""
    version = VERSIONS.get(name, 1)
    digest = hashlib.sha256(json.dumps([version, list(images.shape), *libraries().items()]).encode())
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()[:20]


@functools.cache
def libraries() -> dict[str, str]:
    """Versions of what the corruptions are made with; their bytes may depend on them (JPEG, random streams)."""
    return {name: version(name) for name in ("numpy", "pillow", "scipy")}


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    with open_tensors(path, KIND, SCHEMA) as (handle, _):
        if check_tensor(path, handle, "images", ("U8",), len(shape)) != shape:
            raise UserError(f"{path}: not the images that were asked for")
        made: Tensor = handle.get_tensor("images")
    return made


@dataclass(frozen=True, kw_only=True)
class CorruptionSuite(Suite):
    """The corruptions that make sense for a size.

    Attributes:
        size: side of the images in pixels.
        root: data folder.
        reference: student -> accuracies of the same student trained on the whole training set.
        reference_sha256: of the file that they come from.
    """

    kind: ClassVar[str] = "corruptions"
    images: int
    size: int
    root: Path | None = None
    reference: dict[str, Table] = field(default_factory=dict)
    reference_sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the corruptions."""
        return corruption_types(self.size)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Mean accuracy, its drop, the mean of the three noises; mCE with a reference."""
        found = {
            "corruption_accuracy": Metric(
                unit="fraction", better="higher", title=f"Accuracy on corrupted images (C{len(self.types)})"
            ),
            "corruption_drop": Metric(unit="difference", better="lower", title="Clean less corrupted accuracy"),
            "noise_accuracy": Metric(unit="fraction", better="higher", title="Accuracy on noisy images"),
        }
        if self.reference:
            found["mce"] = Metric(unit="ratio", better="lower", title="mCE, relative to the whole training set")
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """Set by name, types, severities, images, reference."""
        return {
            "version": max(VERSIONS.get(name, 1) for name in self.types),
            "set": f"C{len(self.types)}",
            "constants": "cifar-c",
            "types": list(self.types),
            "severities": list(SEVERITIES),
            "images": self.images,
            "reference": {"sha256": self.reference_sha256} if self.reference else None,
        }

    @property
    def probes(self) -> Sequence[Probe]:
        """The images as they are, then each type."""
        return (
            CleanProbe(),
            *(CorruptionProbe(name=name, size=self.size, root=self.root) for name in self.types),
        )

    def combine(self, findings: Mapping[str, Finding]) -> Finding:
        """Means over types and severities."""
        table = {name: tuple(findings[name].details["accuracy"]) for name in self.types}
        clean = findings[CleanProbe.name].details
        mean = fmean(value for row in table.values() for value in row)
        metrics = {
            "corruption_accuracy": mean,
            "corruption_drop": clean["accuracy"] - mean,
            "noise_accuracy": fmean(value for name in NOISE for value in table[name]),
        }
        if clean["student"] in self.reference:
            errors = corruption_errors(table, self.reference[clean["student"]])
            if errors is not None:
                metrics["mce"] = fmean(errors.values())
        return Finding(metrics=metrics, details={name: list(row) for name, row in table.items()})

    def pool(self, details: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Means over seeds."""
        return {
            "corruptions": {
                name: [fmean(values) for values in zip(*(one[name] for one in details), strict=True)]
                for name in self.types
            }
        }


def corruption_suite(choice: Choice, plan: Plan, dataset: Dataset) -> Suite:
    """The corruptions for a dataset's images.

    Raises:
        UserError: a reference that is none.
    """
    _, channels, size, _ = plan.synset.images.shape
    if channels not in (1, 3):
        raise UserError(f"--corruptions: images of {channels} channels, expected 1 or 3")
    made = CorruptionSuite(
        images=min(choice.max_images or IMAGES, len(dataset.test)), size=size, root=dataset.root, notes=_notes(size)
    )
    if choice.reference is None:
        return made
    return replace(
        made,
        reference=read_reference(choice.reference, made, dataset.fingerprint, plan.protocol),
        reference_sha256=file_hash(choice.reference),
    )


def _notes(size: int) -> tuple[str, ...]:
    every, types = corruption_types(10**6), corruption_types(size)
    left = [name for name in every if name not in types]
    if not left:
        return ()
    return (f"corruptions: at {size} pixels {', '.join(left)} make no sense and are left out (C{len(types)})",)


def read_reference(path: Path, suite: CorruptionSuite, fingerprint: str, protocol: Protocol) -> dict[str, Table]:
    """Accuracies of each student in an evaluation of the whole training set (method ``full``).

    Args:
        protocol: that it must have been trained under; the epochs of a synset, which it has not, may be others.

    Raises:
        UserError: no such file, no evaluation of ``full`` on this dataset under this protocol, or one whose corruptions
            are others.
    """
    try:
        data = read_json(path, "evaluation")
    except UserError as error:
        raise UserError(f"--corruption-reference {path}: cannot be read as JSON ({error})") from None
    what = "expected an evaluation of method full with --corruptions on the same dataset"
    synset = data.get("synset") if isinstance(data, dict) else None
    if not isinstance(synset, dict) or synset.get("method") != "full":
        raise UserError(f"--corruption-reference {path}: {what}")
    if synset.get("dataset_fingerprint") != fingerprint:
        raise UserError(f"--corruption-reference {path}: it is of other images; {what}")
    trained = data.get("protocol")
    if not isinstance(trained, dict) or trained.get("hash") != _of_real(trained, protocol).hash:
        named = str(trained.get("name"))[:40] if isinstance(trained, dict) else "none"
        raise UserError(
            f"--corruption-reference {path}: trained under another protocol ({named}, or with altered settings); "
            "evaluate full as the synset is evaluated, and without --epochs where they are the synset's anyway"
        )
    measured, details = data.get("measured"), data.get("details")
    found = measured.get("corruptions") if isinstance(measured, dict) else None
    if not isinstance(found, dict) or not isinstance(details, dict):
        raise UserError(f"--corruption-reference {path}: it holds no corruptions; {what}")
    wanted = suite.settings
    for key in wanted.keys() - {"reference"}:
        if found.get(key) != wanted[key]:
            raise UserError(
                f"--corruption-reference {path}: its corruptions have {key} {str(found.get(key))[:60]}, "
                f"these {str(wanted[key])[:60]}; evaluate it with the same flags"
            )
    tables = {
        str(student): {name: _row(path, entry["corruptions"], name) for name in suite.types}
        for student, entry in details.items()
        if isinstance(entry, dict) and isinstance(entry.get("corruptions"), dict)
    }
    if not tables:
        raise UserError(f"--corruption-reference {path}: it holds no corruptions; {what}")
    return tables


def _of_real(trained: Mapping[str, Any], protocol: Protocol) -> Protocol:
    """The protocol with the epochs that an evaluation of all real data tells of synsets."""
    settings = trained.get("settings")
    epochs = settings.get("epochs") if isinstance(settings, dict) else None
    return replace(protocol, epochs=epochs) if type(epochs) is int else protocol


def _row(path: Path, table: Mapping[str, Any], name: str) -> tuple[float, ...]:
    row = table.get(name)
    good = isinstance(row, list) and len(row) == len(SEVERITIES)
    # Written so that NaN fails it.
    if not good or not all(type(value) in (int, float) and 0 <= value <= 1 for value in row or ()):
        raise UserError(f"--corruption-reference {path}: {name} is {str(row)[:60]}, expected 5 accuracies from 0 to 1")
    return tuple(map(float, row or ()))
