"""Stored labels of every view (FKD): a teacher's logits of each epoch's augmented images, written once and replayed.

Fast Knowledge Distillation (Shen and Xing, ECCV 2022), as SRe2L and its successors label their synsets: before any
student is trained, the teacher labels the view of every image in every epoch; a student that is trained on the same
views then needs no teacher. Public code keeps crop, flip, permutation and box of each view beside the logits. Here a
view is named by a seed (:func:`ddbench.training.loops.views`), so the logits and that seed are all there is to keep.

``labels.safetensors`` holds ``logits`` float16 ``(E, N, K)``: row ``[e, i]`` is for the view of epoch e whose base
image is i, with whatever was mixed into it. It may be tens of GB and is read by memory map. How it is made is in
:mod:`ddbench.protocols.relabel`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json
from ddbench.runtime.tensors import KEY, check_tensor, open_tensors
from ddbench.synset import MAX_CLASSES, MAX_IMAGES
from ddbench.training.loops import Labels, View

KIND = "ddbench-labels"
SCHEMA = 1

PROBED = 8
"""Images of the first view whose means are kept, for recognising the views again."""

PROBE_TOLERANCE = 0.01
"""Largest difference of such a mean, in units of the network input; rounding and devices stay far below it."""

MAX_LABELS = 2**40
"""Bytes of stored logits, at most: what is not read is not written."""


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """A file of stored labels that was opened and checked; the logits themselves stay on the disk.

    Attributes:
        path: the file.
        seed: names order and augmentation of the views.
        epochs, images, classes: E, N, K of the logits ``(E, N, K)``.
        synset_sha256: of the synset file whose views were labelled.
        teacher: what labelled them (:meth:`ddbench.teachers.store.Teacher.reference`).
        views: the settings that decide the views, and ``teacher_mode`` (:func:`ddbench.protocols.plan.view_settings`).
        precision: of the teacher's arithmetic.
        probe: of the first view of epoch 0 (``index``, ``share``, ``means``).
        start: where the logits begin in the file, in bytes.
    """

    path: Path
    seed: int
    epochs: int
    images: int
    classes: int
    synset_sha256: str
    teacher: dict[str, Any]
    views: dict[str, Any]
    precision: str
    probe: dict[str, Any]
    start: int

    @property
    def bytes(self) -> int:
        """Size of the logits as stored."""
        return label_bytes(self.epochs, self.images, self.classes)

    def reference(self) -> dict[str, Any]:
        """What a result says about the labels that it used: everything that decides them."""
        return {
            "synset_sha256": self.synset_sha256,
            "teacher": self.teacher,
            "views": self.views,
            "seed": self.seed,
            "epochs": self.epochs,
            "precision": self.precision,
            "bytes": self.bytes,
        }

    def labels(self, device: torch.device) -> Labels:
        """Gives every view its logits, float32 ``(n, K)`` on ``device``.

        An epoch's rows are read, and checked, when its first view asks for them; no other epoch is touched.

        Raises:
            UserError: (by what is returned) an epoch holds NaN or infinity, or the views are not those that were
                labelled, because another version makes other ones of the same seed.
        """
        stored = self._map()
        current, rows = -1, torch.empty(0)

        def of(view: View) -> Tensor:
            nonlocal current, rows
            if view.epoch != current:
                if view.epoch == 0:
                    self._recognise(view)
                rows, current = self._read(stored, view.epoch).to(device), view.epoch
            return rows[view.index].float()

        return of

    def rows(self, epoch: int) -> Tensor:
        """The logits of an epoch, float16 ``(N, K)``.

        Raises:
            UserError: they hold NaN or infinity.
        """
        return self._read(self._map(), epoch)

    def verify(self, epochs: int | None = None) -> None:
        """Read the first so many epochs, by default all.

        Raises:
            UserError: one holds NaN or infinity.
        """
        stored = self._map()
        for epoch in range(self.epochs if epochs is None else epochs):
            self._read(stored, epoch)

    def _map(self) -> np.memmap[Any, np.dtype[np.float16]]:
        shape = (self.epochs, self.images, self.classes)
        return np.memmap(self.path, dtype="<f2", mode="r", offset=self.start, shape=shape)

    def _read(self, stored: np.memmap[Any, np.dtype[np.float16]], epoch: int) -> Tensor:
        """The logits of an epoch, float16 ``(N, K)``."""
        rows = torch.from_numpy(np.array(stored[epoch]))
        if not bool(torch.isfinite(rows).all()):
            raise UserError(
                f"{self.path}: the logits of epoch {epoch} hold NaN or infinite values; remove the file and make it "
                "again with ddbench relabel"
            )
        return rows

    def _recognise(self, view: View) -> None:
        found, wanted = probe_of(view), self.probe
        same = len(found["means"]) == len(wanted["means"]) and all(
            abs(one - other) <= PROBE_TOLERANCE for one, other in zip(found["means"], wanted["means"], strict=True)
        )
        if not (same and found["index"] == wanted["index"] and abs(found["share"] - wanted["share"]) <= 1e-3):
            raise UserError(
                f"{self.path}: the views that this version makes are not those that were labelled; make the labels "
                "again with ddbench relabel"
            )


def label_bytes(epochs: int, images: int, classes: int) -> int:
    """Size of float16 logits ``(E, N, K)``."""
    return 2 * epochs * images * classes


def label_prefix(header: dict[str, Any], shape: tuple[int, int, int]) -> bytes:
    """What a labels file begins with, before its logits ``(E, N, K)``; its length is a multiple of 8 bytes."""
    outer = {
        "__metadata__": {KEY: canonical_json(header)},
        "logits": {"dtype": "F16", "shape": list(shape), "data_offsets": [0, label_bytes(*shape)]},
    }
    text = canonical_json(outer).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def probe_of(view: View) -> dict[str, Any]:
    """What the first view of epoch 0 is recognised by, as JSON: images, their share in a mix, means of the input."""
    means = view.x[:PROBED].float().mean((1, 2, 3)).tolist()
    return {
        "index": view.index[:PROBED].tolist(),
        "share": round(view.mix.share, 4) if view.mix else 1.0,
        "means": [round(mean, 4) for mean in means],
    }


def read_labels(path: Path) -> StoredLabels:
    """Open a labels file and check everything but its logits; nothing in it is trusted.

    Raises:
        UserError: missing, truncated, foreign or newer file, or a header that does not fit its logits.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        epochs, images, classes = check_tensor(path, handle, "logits", ("F16",), 3)
        if set(handle.keys()) != {"logits"}:
            raise UserError(f"{path}: holds more than logits, which this version does not know: upgrade ddbench")
    if label_bytes(epochs, images, classes) > MAX_LABELS:
        raise UserError(f"{path}: logits of shape {[epochs, images, classes]} are more than {MAX_LABELS:,} bytes")
    if not (epochs >= 1 and 1 <= images <= MAX_IMAGES and 2 <= classes <= MAX_CLASSES):
        raise UserError(f"{path}: logits of shape {[epochs, images, classes]} are out of bounds")
    for name, size in (("epochs", epochs), ("images", images), ("classes", classes)):
        if _field(path, header, name, int) != size:
            raise UserError(f"{path}: its header says {header[name]} {name}, its logits have {size}")
    teacher = _field(path, header, "teacher", dict)
    if not isinstance(teacher.get("sha256"), str):
        raise UserError(f"{path}: its teacher reference has no sha256")
    with open(path, "rb") as raw:
        (length,) = struct.unpack("<Q", raw.read(8))
    return StoredLabels(
        path=path,
        seed=_field(path, header, "seed", int),
        epochs=epochs,
        images=images,
        classes=classes,
        synset_sha256=_field(path, header, "synset_sha256", str),
        teacher=teacher,
        views=_field(path, header, "views", dict),
        precision=_field(path, header, "precision", str),
        probe=_checked_probe(path, _field(path, header, "probe", dict)),
        start=8 + length,
    )


def _field(path: Path, header: dict[str, Any], name: str, kind: type) -> Any:
    value = header.get(name)
    if type(value) is not kind:
        raise UserError(f"{path}: header field {name!r} is {value!r:.60}, expected {kind.__name__}")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**53 and math.isfinite(value)


def _checked_probe(path: Path, probe: dict[str, Any]) -> dict[str, Any]:
    index, share, means = (probe.get(name) for name in ("index", "share", "means"))
    numbers = [share, *means] if isinstance(means, list) else [None]
    whole = isinstance(index, list) and 1 <= len(index) == len(numbers) - 1 <= PROBED
    if not whole or not all(_is_number(one) for one in (*numbers, *(index or ()))):
        raise UserError(f"{path}: header field 'probe' is {str(probe)[:60]}, expected index, share and means")
    return probe
