"""What an imported set is taken for: told from its numbers, or said by the user; printed at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.preprocess import LARGEST_INPUT, OVERSHOOT, are_pixels255
from ddbench.exchange.read import LABELS, RATES, Content, listed
from ddbench.exchange.settings import ImportSettings
from ddbench.runtime.errors import UserError

CENTRED = 0.25
"""Rows of labels whose sums are as near to 0 as this, and no entry beyond 1.5, may be targets of a regression."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A published set in a few words.

    Attributes:
        file: its name.
        form: form of the file.
        shape, dtype: of the images as they are in the file.
        low, high: range of their values; None where they were not read.
        space: ``pixels`` (uint8, or in [0, 1]), ``pixels255`` or ``input`` (network input).
        stored: how the images are kept, and through what a student sees them; empty before an import.
        label_form: ``classes``, ``onehot``, ``probabilities``, ``logits``, ``targets``; ``none`` where there are none.
        label_shape: of the labels as they are in the file.
        class_order: what class number k means; empty before an import.
        counts: images of each class, by the published numbers.
        decode_factor, patches: as :class:`ddbench.synset.Synset`.
        stages: number of stages; 1: none.
        lr: learned rate, one or several; empty: none.
        notes: what was assumed, and the flag that says otherwise.
    """

    file: str
    form: str
    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None
    space: str
    stored: str = ""
    label_form: str
    label_shape: tuple[int, ...] = ()
    class_order: str = ""
    counts: tuple[int, ...]
    decode_factor: int
    patches: int
    stages: int
    lr: tuple[float, ...]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """For a terminal; each part with the flag that overrides it."""
        spaces = {"pixels": "pixels", "pixels255": "pixels from 0 to 255", "input": "network input"}
        span = "" if self.low is None else f", values {self.low:.4g} to {self.high:.4g}"
        stored = f" -> {self.stored}" if self.stored else ""
        forms = {"none": "none in the file: as many of each class, in class order", "onehot": "one-hot rows"}
        forms |= {"classes": "class numbers", "probabilities": "probabilities (kept as logits)"}
        forms["targets"] = "targets of a regression"
        order = f"; {self.class_order}" if self.class_order else ""
        rate = ", ".join(f"{value:.4g}" for value in self.lr[:4]) + (", ..." if len(self.lr) > 4 else "")
        labels = f" {list(self.label_shape)}" if self.label_shape else ""
        return [
            f"{self.file}: {self.form}",
            f"  images: {list(self.shape)} {self.dtype}{span}: {spaces[self.space]}{stored}"
            " (--preprocess, --mean, --std)",
            f"  labels:{labels} {forms.get(self.label_form, self.label_form)}{self._counted()}{order}"
            " (--label-form, --class-order)",
            f"  decode factor {self.decode_factor} (--decode-factor), patches {self.patches} (--patches), "
            f"stages {self.stages} (--stage), learned rate {rate or 'none'} (--lr)",
            *(f"  note: {note}" for note in self.notes),
        ]

    def _counted(self) -> str:
        if not self.counts:
            return ""
        low, high = min(self.counts), max(self.counts)
        return f", {low if low == high else f'{low} to {high}'} of each of {len(self.counts)} classes"


def describe(path: Path, content: Content, settings: ImportSettings, classes: int | None = None) -> Description:
    """Find out what a file holds as far as its own numbers tell.

    Args:
        classes: number of classes, where the dataset is known.

    Raises:
        UserError: images or labels that can be nothing of what is known, or not what the settings say.
    """
    images, header = content.images, content.header or {}
    if images.ndim not in (3, 4):
        raise UserError(
            f"{path}: images of shape {list(images.shape)}, expected (N, C, H, W), or (N, H, W) of grey ones"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"{path}: images are {images.dtype}, expected uint8 pixels or floating-point numbers")
    if images.numel() == 0:
        raise UserError(f"{path}: holds 0 images (shape {list(images.shape)})")
    if not bool(torch.isfinite(images).all()):
        raise UserError(f"{path}: images hold NaN or infinite values")
    low, high = float(images.min()), float(images.max())
    labels, form = _labels(path, content, settings, len(images), classes)
    notes = _hints(content, settings, labels, form, low, high)
    if "decoder" not in header and settings.decode_factor is None and content.form.startswith(("a list", "a tuple")):
        notes.append("IDC, DREAM and NCFM cut each image at use: if this is theirs, say --decode-factor 2 (or 3)")
    decoder = header.get("decoder")
    factor = decoder.get("factor") if isinstance(decoder, dict) else 1
    return Description(
        file=path.name,
        form=content.form,
        shape=tuple(images.shape),
        dtype=str(images.dtype).removeprefix("torch."),
        low=low,
        high=high,
        space=header_space(header) or find_space(path, images, low, high, settings),
        label_form=form,
        label_shape=() if content.labels is None else tuple(content.labels.shape),
        counts=_counts(labels, form, classes),
        decode_factor=settings.decode_factor or (factor if isinstance(factor, int) else 1),
        patches=settings.patches or (header["patches"] if isinstance(header.get("patches"), int) else 1),
        stages=1 if content.stage is None else len(content.stage.unique()),
        lr=() if content.lr is None else tuple(content.lr.reshape(-1).tolist()),
        notes=tuple(notes),
    )


def describe_folder(path: Path, content: Content, settings: ImportSettings, shape: tuple[int, int, int]) -> Description:
    """What a folder of images holds, as far as that is told without reading them.

    Args:
        content: all but the images.
        shape: number of images, height, width.

    Raises:
        UserError: labels that can be nothing of what is known, or not what the settings say.
    """
    labels, form = _labels(path, content, settings, shape[0], None)
    return Description(
        file=path.name,
        form=content.form,
        shape=shape,
        dtype="image files",
        low=None,
        high=None,
        space="pixels",
        label_form=form,
        label_shape=() if content.labels is None else tuple(content.labels.shape),
        counts=_counts(labels, form, None),
        decode_factor=settings.decode_factor or 1,
        patches=settings.patches or 1,
        stages=1 if content.stage is None else len(content.stage.unique()),
        lr=() if content.lr is None else tuple(content.lr.reshape(-1).tolist()),
    )


def _hints(
    content: Content, settings: ImportSettings, labels: Tensor | None, form: str, low: float, high: float
) -> list[str]:
    """What public codes are known to save in this form, where the file cannot say it."""
    notes = []
    if content.unread:
        notes.append(
            f"not read, for its name is not known: {listed(content.unread)}; labels are looked for under "
            f"{', '.join(LABELS)}, a rate under {', '.join(RATES)}"
        )
    if content.sets > 1 and settings.index == 0:
        notes.append(
            "the first of several sets: DC's are experiments; DataDAM's are one run's, one an evaluation, and the last "
            "is its result: --index -1"
        )
    floats = content.header is None and content.images.is_floating_point()
    guessed = floats and settings.preprocess == "auto" and not settings.mean
    if guessed and low >= -OVERSHOOT and high <= 1 + OVERSHOOT and (low < -1e-6 or high > 1 + 1e-6):
        notes.append("pixels that overshoot 0 to 1, as IDC saves them; if network input, say --preprocess meanstd")
    if form == "logits" and settings.label_form == "auto" and content.header is None:
        assert labels is not None
        if float(labels.sum(1).abs().max()) <= CENTRED and float(labels.abs().max()) <= 1.5:
            notes.append("labels about 0: FRePo's and RCIG's are targets of a regression: --label-form targets")
    return notes


def header_space(header: dict[str, object]) -> str | None:
    """The space that the header of an export names."""
    return str(header["space"]) if header.get("space") in ("pixels", "input") else None


def find_space(path: Path, images: Tensor, low: float, high: float, settings: ImportSettings) -> str:
    """``pixels``, ``pixels255`` or ``input``: as said, else told from the range.

    Raises:
        UserError: values outside the range that the settings name.
    """
    said = settings.preprocess
    if images.dtype == torch.uint8:
        return "pixels"
    if said in ("pixels", "pixels255"):
        top = 1 if said == "pixels" else 255
        normal = top == 255 and low < 0 and high <= LARGEST_INPUT
        if normal or not (-OVERSHOOT * top <= low and high <= (1 + OVERSHOOT) * top):
            raise UserError(
                f"{path}: --preprocess {said}: values from {low:.4g} to {high:.4g}, expected 0 to {top}; leave the "
                "flag out to see what they are taken for"
            )
        return said
    if said != "auto" or settings.mean:
        return "input"
    if path.name.startswith("images_zca"):
        raise UserError(
            f"{path}: MTT's images_zca_*.pt are the pixels that its whitened images show, for pictures; import the "
            "images_*.pt of that step with --preprocess zca, or say --preprocess pixels"
        )
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return "pixels"
    if are_pixels255(images, low, high):
        return "pixels255"
    return "input"


def column(labels: Tensor | None) -> Tensor | None:
    """Labels ``(N, 1)`` as ``(N,)``, others as they are; truth values as 0 and 1, of which torch finds the largest."""
    labels = labels.long() if labels is not None and labels.dtype == torch.bool else labels
    return labels[:, 0] if labels is not None and labels.ndim == 2 and labels.shape[1] == 1 else labels


def _labels(
    path: Path, content: Content, settings: ImportSettings, count: int, classes: int | None
) -> tuple[Tensor | None, str]:
    """Labels ``(N,)`` or ``(N, K)`` of so many images, and their form.

    Raises:
        UserError: they can be nothing of what is known, or not what the settings say.
    """
    labels, header, where = column(content.labels), content.header or {}, settings.labels or path
    if labels is None:
        return None, "none"
    if labels.ndim not in (1, 2) or len(labels) != count or labels.numel() == 0:
        raise UserError(f"{where}: labels of shape {list(labels.shape)} for {count} images")
    if classes is not None and labels.ndim == 2 and labels.shape[1] != classes:
        raise UserError(f"{where}: soft labels of shape {list(labels.shape)}, expected finite ({count}, {classes})")
    if header.get("label_kind") == "targets":
        return labels, "targets"
    return labels, _label_form(where, labels, settings.label_form, own=bool(header))


def _label_form(path: Path, labels: Tensor, said: str, own: bool) -> str:
    """What labels ``(N,)`` or ``(N, K)`` are, compared with what was said.

    Raises:
        UserError: they can be nothing that is known, or not what was said.
    """
    if labels.is_complex() or not bool(torch.isfinite(labels).all()):
        raise UserError(f"{path}: labels hold NaN, infinite or complex values")
    if labels.ndim == 1:
        if not bool(((labels == labels.double().round()) & (labels.double().abs() < 2**31)).all()):
            raise UserError(f"{path}: labels of shape {list(labels.shape)} are no whole class numbers")
        if said not in ("auto", "classes"):
            raise UserError(f"{path}: --label-form {said}: labels of shape {list(labels.shape)} are class numbers")
        return "classes"
    if said == "targets":
        return said
    found = "logits" if own else _soft_form(labels)
    if said == "auto" and found == "neither":
        row = labels[0].tolist()[:4]
        raise UserError(
            f"{path}: rows of labels from 0 to 1 that do not add up to 1 (the first: {row}): neither one-hot, "
            "probabilities nor plain logits; say --label-form logits if that is what they are"
        )
    if said in ("auto", "logits"):
        return found if said == "auto" else "logits"
    if said == found or (said == "probabilities" and found == "onehot"):
        return said
    raise UserError(f"{path}: --label-form {said}: labels of shape {list(labels.shape)} are {_WORDS[found]}")


_WORDS = {
    "onehot": "one-hot rows",
    "probabilities": "rows of probabilities",
    "logits": "rows of numbers that do not add up to 1",
    "neither": "rows of numbers that do not add up to 1",
}


def _soft_form(labels: Tensor) -> str:
    rows = labels.double()
    tolerance = 1e-3 if labels.dtype in (torch.float32, torch.float64) else 2e-2
    in_range = bool((rows >= 0).all() and (rows <= 1 + tolerance).all())
    if not in_range:
        return "logits"
    if not bool(((rows.sum(1) - 1).abs() <= tolerance).all()):
        return "neither"
    return "onehot" if bool(((rows == 0) | (rows == 1)).all()) else "probabilities"


def _counts(labels: Tensor | None, form: str, classes: int | None) -> tuple[int, ...]:
    if labels is None or len(labels) == 0:
        return ()
    hard = labels.argmax(1) if labels.ndim == 2 else labels.long()
    if int(hard.min()) < 0 or int(hard.max()) >= (classes or 100_000):
        return ()
    return tuple(torch.bincount(hard, minlength=classes or 0).tolist())
