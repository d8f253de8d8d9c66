"""The synset: a distilled set in one file that a stranger can score with no other.

``synset.safetensors`` holds ``images`` (N, C, H, W), or the parameters that a decoder (:mod:`ddbench.decoders`) makes
them of, ``labels`` and, where a method learns them, ``lr`` and ``stage``; its JSON header says which space the images
are in, the preprocess with its numbers, the budget, the evaluation contract and where everything came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.data.limits import require_memory
from ddbench.data.preprocess import Preprocess
from ddbench.decoders.base import MAX_SIDE as MAX_SIDE
from ddbench.decoders.base import Declared, Decoder, check_sizes, decode_all, read_decoder
from ddbench.provenance import MAX_CLASSES as MAX_CLASSES
from ddbench.provenance import Budget as Budget
from ddbench.provenance import Provenance as Provenance
from ddbench.provenance import field_of, hard_label_bytes
from ddbench.provenance import provenance as provenance
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import check_tensor, open_tensors, read_finite, write_tensors
from ddbench.schedule import Replay as Replay
from ddbench.schedule import check_schedule, read_schedule

KIND = "ddbench-synset"
BESIDE = ("labels", "lr", "stage")
"""Arrays of a file beside images or parameters."""
SCHEMA = 1
FILE = "synset.safetensors"
MAX_IMAGES = 5_000_000
TYPES = {torch.float32: "F32", torch.int16: "I16", torch.int32: "I32"}
"""Types of parameters as a file names them."""


@dataclass(frozen=True, kw_only=True)
class Synset(Provenance):
    """A distilled set of images and its provenance.

    Attributes:
        images: uint8 ``(N, C, H, W)`` with ``space`` "pixels", or float32 with ``space`` "input" (after preprocess);
            N = 0 where the decoder makes all images of parameters.
        labels: int64 ``(N,)``, or float32 ``(N, K)``: soft labels as logits, or targets of a regression.
        label_scale: factor that makes logits of targets of a regression; ``None``: the labels are none.
        preprocess: how pixels become network input, as :meth:`Preprocess.to_json`.
        learned_lr: student learning rate learned with the images: one, one a stage or else one a step; ``None``.
        stage: int64 ``(N,)`` stage of each image, from 0 (progressive methods, batches of a learned recipe); ``None``.
        schedule: the learned recipe that it belongs to; ``None``.
        augmentation: strategy that the method distilled with; protocols have their own.
        decoder: what makes more images of each stored one, or all of parameters; None: they are used as stored.
        parameters: the arrays that such a decoder reads, by name, float32 but for positions.
        patches: patches a side that each image was stitched of (RDED's factor); 1: none.
        teacher: reference to the network that labels its views (:meth:`ddbench.teachers.store.Teacher.reference`).
    """

    images: Tensor
    labels: Tensor
    preprocess: dict[str, Any]
    label_scale: float | None = None
    augmentation: str = "none"
    learned_lr: Tensor | None = None
    stage: Tensor | None = None
    schedule: Replay | None = None
    decoder: Decoder | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    patches: int = 1
    teacher: dict[str, Any] | None = None
    modality: str = "image"

    @property
    def space(self) -> str:
        """``pixels`` (uint8) or ``input`` (float32 network input)."""
        return "pixels" if self.images.dtype == torch.uint8 else "input"

    @property
    def label_kind(self) -> str:
        """``hard``, ``soft`` (logits), or ``targets`` (of a regression: no distribution, no logits)."""
        if not self.labels.is_floating_point():
            return "hard"
        return "soft" if self.label_scale is None else "targets"

    @property
    def decoded_images(self) -> int:
        """Number of images that a student is trained on."""
        return len(self.labels) * (1 if self.decoder is None else self.decoder.copies)

    @property
    def decode_factor(self) -> int:
        """Tiles a side that each stored image is cut into; 1: none."""
        return getattr(self.decoder, "factor", 1)

    def decoded(self, preprocess: Preprocess) -> Tensor:
        """What its decoder makes, network input ``(N, C, H, W)``, without gradient; labels go with it tile by tile."""
        assert self.decoder is not None
        need = 4 * self.decoded_images * math.prod(self.images.shape[1:])
        require_memory(2 * need, f"{self.decoded_images:,} decoded images", "use a smaller synset, or a larger machine")
        return decode_all(self.decoder, self.parameters or {"images": self.images}, preprocess, self.classes)

    def plain(self, preprocess: Preprocess) -> Synset:
        """The same with images in place of parameters, to choose some of them; itself where it stores images."""
        if not self.parameters:
            return self
        return replace(self, images=self.decoded(preprocess), decoder=None, parameters={})

    @property
    def image_bytes(self) -> int:
        """Bytes of the images, or of the parameters that they are made of: masks and all that a decoder learned."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.images, *self.parameters.values()))

    @property
    def label_bytes(self) -> int:
        """Bytes of the labels: hard ones ``ceil(log2 K / 8)`` each, others as they are in the file."""
        if self.label_kind != "hard":
            return self.labels.numel() * self.labels.element_size()
        return hard_label_bytes(len(self.labels), self.classes)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all that is handed over: images or parameters, labels, learned rates and stages."""
        arrays = [tensor for tensor in (self.learned_lr, self.stage) if tensor is not None]
        return self.image_bytes + self.label_bytes + sum(tensor.numel() * tensor.element_size() for tensor in arrays)

    @property
    def bits_per_class(self) -> float:
        """:attr:`stored_bytes` as bits, over the number of classes."""
        return 8 * self.stored_bytes / self.classes

    def hard_labels(self) -> Tensor:
        """Class of each image, int64 ``(N,)``: the largest entry of a soft label or target."""
        return self.labels if self.label_kind == "hard" else self.labels.argmax(1)

    def logits(self) -> Tensor:
        """Labels that are no classes as logits ``(N, K)``: targets of a regression times their scale."""
        return self.labels if self.label_scale is None else self.labels * self.label_scale

    def header(self) -> dict[str, Any]:
        """The JSON header of the file; ``schedule`` and ``label_scale`` are in it only where there are such."""
        some: dict[str, Any] = {} if self.schedule is None else {"schedule": self.schedule.to_json()}
        if self.label_scale is not None:
            some["label_scale"] = self.label_scale
        return {
            **some,
            "kind": KIND,
            "schema": SCHEMA,
            "modality": self.modality,
            "space": self.space,
            "label_kind": self.label_kind,
            "preprocess": self.preprocess,
            "budget": {"unit": self.budget.unit, "value": self.budget.value},
            "decoder": None if self.decoder is None else self.decoder.to_json(),
            "patches": self.patches,
            "teacher": self.teacher,
            "dataset": self.dataset,
            "dataset_fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
            "method": self.method,
            "config": self.config,
            "seed": self.seed,
            "student": self.student,
            "augmentation": self.augmentation,
            "versions": self.versions,
            "parents": self.parents,
        }


def write_synset(path: Path, synset: Synset) -> None:
    """Check and write a synset atomically.

    Raises:
        UserError: it breaks the format (NaN, labels out of range, wrong counts), or the disk refuses.
    """
    check_synset(path, synset)
    tensors = {"images": synset.images, **synset.parameters, "labels": synset.labels}
    if synset.parameters:
        del tensors["images"]
    if synset.learned_lr is not None:
        tensors["lr"] = synset.learned_lr.float()
    if synset.stage is not None:
        tensors["stage"] = synset.stage
    write_tensors(path, tensors, synset.header())


def synset_path(place: Path) -> Path:
    """The file of a RUN folder, or the file itself.

    Raises:
        UserError: neither is there.
    """
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        near = [one.name for one in place.parent.glob("*")]
        hint = suggest(place.name, near) + "; ddbench distill and ddbench import make runs"
        if place.is_dir():
            hint = " (is the run finished? repeat its ddbench distill command)"
        if runs := sorted(place.glob(f"*/{FILE}")):
            hint = f" (that folder holds {len(runs)} run(s): name each by itself, such as {runs[0].parent})"
        raise UserError(f"{path}: no such synset{hint}")
    return path


_OF_A_ROW = re.compile(r"([0-9a-f]{16})\.synset\.safetensors")


def on_board(path: Path) -> str | None:
    """The id of the row that a synset's file lies beside on a board; None: it lies on none."""
    found = _OF_A_ROW.fullmatch(path.name)
    return found[1] if found and path.with_name(f"{found[1]}.json").exists() else None


def beside(path: Path, what: str) -> Path:
    """Folder for what is found out about a synset, such as ``evaluations``: in its run.

    A board takes results by submission only, so for the synset of a row it is ``evaluations/<id>`` where the command
    is called.
    """
    row = on_board(path)
    return path.parent / what if row is None else Path(what) / row


def read_synset(path: Path) -> Synset:
    """Read and check a synset file; nothing in it is trusted.

    Raises:
        UserError: truncated, foreign, newer, or with contents out of shape or range; names the file and the value.
    """
    with open_tensors(path, KIND, SCHEMA) as (handle, header):
        if header.get("modality") != "image":
            raise UserError(f"{path}: modality {header.get('modality')!r:.60}: this works on images only")
        decoder = read_decoder(path, header.get("decoder"))
        kind = field_of(path, header, "label_kind", str)
        soft = kind in ("soft", "targets")
        labels_shape = check_tensor(path, handle, "labels", ("F32",) if soft else ("I64",), 2 if soft else 1)
        names, parameters = set(handle.keys()) - set(BESIDE), {}
        if decoder is None or decoder.makes is None:
            images, names = _read_images(path, handle, labels_shape[0]), names - {"images"}
        else:
            found = {name: _declared(handle.get_slice(name)) for name in sorted(names)}
            classes = provenance(path, header)["class_names"]
            check_sizes(path, decoder, labels_shape[0], len(classes), found)
            parameters = {name: read_finite(path, handle, name) for name in found}
            images, names = torch.empty(0, *decoder.makes), set()
        if names:
            what = ", ".join(sorted(names))
            raise UserError(f"{path}: holds {what}, which this version does not know: upgrade ddbench")
        labels = read_finite(path, handle, "labels")
        names = set(handle.keys())
        lr = None
        if "lr" in names:
            if handle.get_slice("lr").get_dtype() != "F32":
                raise UserError(f"{path}: lr is {handle.get_slice('lr').get_dtype()}, expected F32")
            lr = read_finite(path, handle, "lr")
        stage = None
        if "stage" in names:
            check_tensor(path, handle, "stage", ("I64",), 1)
            stage = handle.get_tensor("stage")
    return from_header(path, header, images=images, parameters=parameters, labels=labels, lr=lr, stage=stage)


def _declared(part: Any) -> Declared:
    """Type and shape of a tensor that is not read yet."""
    return Declared(part.get_dtype(), tuple(part.get_shape()))


def _read_images(path: Path, handle: Any, count: int) -> Tensor:
    """The stored images of an open file, one a label."""
    shape = check_tensor(path, handle, "images", ("F32", "U8"), 4)
    if not (0 < shape[0] <= MAX_IMAGES and 0 < shape[1] <= 16 and max(shape[2:]) <= MAX_SIDE and min(shape[2:]) > 0):
        raise UserError(
            f"{path}: images of shape {list(shape)} are out of bounds (N <= {MAX_IMAGES}, side <= {MAX_SIDE})"
        )
    if count != shape[0]:
        raise UserError(f"{path}: {count} labels for {shape[0]} images")
    return read_finite(path, handle, "images")


def from_header(
    path: Path,
    header: dict[str, Any],
    *,
    images: Tensor,
    labels: Tensor,
    lr: Tensor | None,
    stage: Tensor | None,
    parameters: Mapping[str, Tensor] | None = None,
) -> Synset:
    """Put the tensors and the header of a synset together, and check them.

    Raises:
        UserError: a field is missing or of another type, or the whole breaks the format.
    """
    synset = Synset(
        **provenance(path, header),
        images=images,
        labels=labels,
        preprocess=field_of(path, header, "preprocess", dict),
        label_scale=field_of(path, header, "label_scale", float) if header.get("label_kind") == "targets" else None,
        augmentation=field_of(path, header, "augmentation", str),
        learned_lr=lr,
        stage=stage,
        schedule=read_schedule(path, header.get("schedule")),
        decoder=read_decoder(path, header.get("decoder")),
        parameters=parameters or {},
        patches=field_of(path, header, "patches", int) if "patches" in header else 1,
        teacher=field_of(path, header, "teacher", dict) if header.get("teacher") is not None else None,
    )
    if header.get("space") != synset.space:
        raise UserError(f"{path}: space {header.get('space')!r:.60} does not fit {images.dtype} images")
    check_synset(path, synset)
    return synset


def check_synset(path: Path, synset: Synset) -> None:
    """Refuse a synset that breaks the format.

    Args:
        path: where it is, or is to be, for the message.

    Raises:
        UserError: NaN, labels out of range, wrong counts or an unknown unit.
    """
    images, labels, count = synset.images, synset.labels, len(synset.labels)
    if synset.modality != "image":
        raise UserError(f"{path}: modality {synset.modality!r:.60}: this works on images only")
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        raise UserError(f"{path}: images hold NaN or infinite values")
    if synset.label_scale is not None and not (labels.is_floating_point() and 0 < synset.label_scale < 1e6):
        raise UserError(
            f"{path}: label_scale is {synset.label_scale:g}, expected a positive number beside float labels"
        )
    if synset.label_kind != "hard":
        if labels.shape != (count, synset.classes) or not bool(torch.isfinite(labels).all()):
            raise UserError(
                f"{path}: {synset.label_kind} labels of shape {list(labels.shape)}, expected finite "
                f"({count}, {synset.classes})"
            )
    elif len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < synset.classes):
        raise UserError(
            f"{path}: labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {synset.classes - 1}"
        )
    if synset.learned_lr is not None:
        lr = synset.learned_lr
        if lr.ndim > 1 or not lr.is_floating_point() or not bool(torch.isfinite(lr).all()):
            raise UserError(f"{path}: lr is not a finite number (or one a step)")
    if synset.stage is not None:
        if len(synset.stage) != count or int(synset.stage.min()) < 0:
            raise UserError(f"{path}: the stage column does not fit {count} images")
        stages = int(synset.stage.max()) + 1
        if stages != len(synset.stage.unique()):
            raise UserError(f"{path}: the stage column counts {stages} stages, some without an image")
        if synset.schedule is not None:
            check_schedule(path, synset.schedule, stages, synset.learned_lr)
        elif synset.learned_lr is not None and synset.learned_lr.shape not in ((), (stages,)):
            raise UserError(
                f"{path}: lr has shape {list(synset.learned_lr.shape)}, expected one number, or {stages}: one a stage"
            )
    elif synset.schedule is not None:
        raise UserError(f"{path}: has a learned recipe, but no stage column that says which image is in which batch")
    _check_decoder(path, synset)
    if not 1 <= synset.patches <= min(images.shape[2:]):
        raise UserError(f"{path}: patches is {synset.patches}, expected 1 to the side of an image")
    if synset.teacher is not None and not isinstance(synset.teacher.get("sha256"), str):
        raise UserError(f"{path}: its teacher reference has no sha256")
    if synset.budget.unit == "ipc":
        each = synset.budget.value if synset.decoder is None else synset.decoder.per_class(synset.budget.value)
        if each < 1 or count != each * synset.classes:
            raise UserError(
                f"{path}: {count} images for ipc {synset.budget.value} and {synset.classes} classes, expected "
                f"{each * synset.classes}"
            )
        counts = torch.bincount(synset.hard_labels(), minlength=synset.classes)
        if synset.label_kind == "hard" and bool((counts != each).any()):
            label = int((counts != each).nonzero()[0])
            raise UserError(
                f"{path}: {int(counts[label])} images of class {synset.class_names[label]!r}, expected ipc "
                f"{synset.budget.value}" + ("" if each == synset.budget.value else f", decoded {each}")
            )
    elif synset.budget.unit != "all":
        raise UserError(f"{path}: budget unit {synset.budget.unit!r:.60} is none of ipc, all")


def _check_decoder(path: Path, synset: Synset) -> None:
    """Refuse a decoder whose settings, arrays or sizes do not fit each other."""
    decoder, images = synset.decoder, synset.images
    if decoder is None or decoder.makes is None:
        if synset.parameters or len(images) != len(synset.labels):
            raise UserError(f"{path}: {len(synset.labels)} labels for {len(images)} images")
        if decoder is not None:
            decoder.check(path, tuple(images.shape[1:]))
        return
    found = {
        name: Declared(TYPES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
        for name, tensor in synset.parameters.items()
    }
    check_sizes(path, decoder, len(synset.labels), synset.classes, found)
    for name, tensor in synset.parameters.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{path}: {name} hold NaN or infinite values")
    decoder.check_arrays(path, synset.parameters)
    if tuple(images.shape) != (0, *decoder.makes) or synset.patches > 1 or synset.stage is not None:
        raise UserError(f"{path}: a set that its decoder {decoder.kind} makes has no stored images, patches or stages")


def own_preprocess(synset: Synset) -> Preprocess | None:
    """The preprocess where the file alone has it: mean and deviation. A ZCA matrix is made of the real images."""
    if synset.preprocess.get("kind") != "meanstd":
        return None
    return Preprocess.from_json(synset.preprocess, None)


def check_against(path: Path, synset: Synset, dataset: Dataset) -> Preprocess:
    """Make sure that a synset belongs to a dataset, and rebuild its preprocess.

    Raises:
        UserError: another dataset, other classes or another image shape than the synset was made for.
    """
    spec = dataset.spec
    if synset.fingerprint != dataset.fingerprint:
        raise UserError(
            f"{path}: made for {synset.dataset} with fingerprint {synset.fingerprint[:12]}, but the {spec.name} data "
            f"here has {dataset.fingerprint[:12]}: other images, classes or order; use the data it was made for"
        )
    if synset.class_names != spec.class_names:
        raise UserError(f"{path}: its {synset.classes} class names are not those of {spec.name} ({spec.classes})")
    if tuple(synset.images.shape[1:]) != (spec.channels, spec.size, spec.size):
        raise UserError(
            f"{path}: images of shape {list(synset.images.shape[1:])}, {spec.name} has "
            f"{[spec.channels, spec.size, spec.size]}"
        )
    return Preprocess.from_json(synset.preprocess, dataset)


def pixels(synset: Synset, preprocess: Preprocess) -> Tensor:
    """The images as uint8 pixels ``(N, C, H, W)`` for looking at: inverted and clamped, not what a student sees.

    Stored ones as they are stored; those of parameters decoded.
    """
    synset = synset.plain(preprocess)
    if synset.space == "pixels":
        return synset.images
    return (preprocess.invert(synset.images).clamp(0, 1) * 255).round().to(torch.uint8)
