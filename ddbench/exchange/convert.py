"""Published images and labels as a synset keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset, chunks
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.data.specs import DatasetSpec
from ddbench.exchange.settings import ImportSettings
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_bytes

FAR = 16.0
"""Network input whose pixels would lie this far from 0 (black) and 1 (white) is none of the dataset."""

SMALLEST = 1e-30
"""Probabilities below this are kept as this: a logit is finite."""

MAX_ORDER_FILE = 8 * 2**20


def as_images(path: Path, images: Tensor, spec: DatasetSpec) -> Tensor:
    """Images ``(N, C, H, W)`` of a dataset, also from ``(N, H, W, C)`` and, of one channel, ``(N, H, W)``.

    Raises:
        UserError: another shape.
    """
    side = (spec.size, spec.size)
    if images.ndim == 4 and tuple(images.shape[1:]) == spec.shape:
        return images
    if images.ndim == 4 and tuple(images.shape[1:]) == (*side, spec.channels):
        return images.permute(0, 3, 1, 2).contiguous()
    if images.ndim == 3 and spec.channels == 1 and tuple(images.shape[1:]) == side:
        return images[:, None]
    raise UserError(
        f"{path}: images of shape {list(images.shape)}, expected (N, {spec.channels}, {spec.size}, {spec.size})"
    )


def preprocess_of(settings: ImportSettings, dataset: Dataset, data: Path | None) -> Preprocess:
    """The transform between pixels and what a student sees.

    Raises:
        UserError: numbers for another number of channels, or a transform that cannot be made.
    """
    channels = dataset.spec.channels
    if settings.mean:
        mean, std = (values * channels if len(values) == 1 else values for values in (settings.mean, settings.std))
        if len(mean) != channels or len(std) != channels:
            raise UserError(f"--mean and --std: {len(mean)} and {len(std)} numbers, expected 1 or {channels}")
        try:
            return Preprocess("meanstd", mean, std)
        except UserError as error:
            raise UserError(f"--mean and --std: {error}") from None
    if settings.preprocess == "none":
        return Preprocess("meanstd", (0.0,) * channels, (1.0,) * channels)
    kind = "meanstd" if settings.preprocess in ("auto", "pixels", "pixels255") else settings.preprocess
    return fit_preprocess(dataset, kind, data)


def transform_name(settings: ImportSettings) -> str:
    """In words, for telling."""
    if settings.mean:
        return "the given numbers"
    return "meanstd" if settings.preprocess in ("auto", "pixels", "pixels255") else settings.preprocess


def with_numbers(name: str, preprocess: Preprocess) -> str:
    """A transform's name with its mean and std, where it has some."""
    if not preprocess.mean:
        return name
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    return f"{name}, mean {mean}, std {std}"


def stored_images(path: Path, images: Tensor, space: str, preprocess: Preprocess) -> Tensor:
    """uint8 pixels where that is exact, else float32 network input.

    Raises:
        UserError: a range that cannot be network input of the dataset.
    """
    if images.dtype == torch.uint8:
        return images
    if space == "input":
        _check_input(path, images, preprocess)
        return images.float()
    top = 1.0 if space == "pixels" else 255.0
    exact = _as_uint8(images, top)
    return exact if exact is not None else preprocess.apply(images.float() / top)


def _as_uint8(images: Tensor, top: float) -> Tensor | None:
    """Floats that are multiples of ``top / 255`` (to rounding) as uint8, else None."""
    tolerance = min(0.25, max(1e-3, 255 * torch.finfo(images.dtype).eps))
    made = torch.empty(images.shape, dtype=torch.uint8)
    start = 0
    for piece in chunks(images):
        scaled = piece.double() * (255 / top)
        whole = scaled.round()
        if bool(((scaled - whole).abs() > tolerance).any()) or float(whole.min()) < 0 or float(whole.max()) > 255:
            return None
        made[start : start + len(piece)] = whole.to(torch.uint8)
        start += len(piece)
    return made


def _check_input(path: Path, images: Tensor, preprocess: Preprocess) -> None:
    for piece in chunks(images):
        shown = preprocess.invert(piece)
        if not (float(shown.min()) >= -FAR and float(shown.max()) <= 1 + FAR):
            raise UserError(
                f"{path}: values from {float(images.min()):.4g} to {float(images.max()):.4g} cannot be network input "
                f"of this dataset: their pixels would go from {float(shown.min()):.4g} to {float(shown.max()):.4g}; "
                "say --preprocess pixels, pixels255, another transform, or --mean and --std"
            )


def stored_labels(labels: Tensor, form: str, temperature: float) -> Tensor:
    """int64 classes ``(N,)``, or float32 ``(N, K)``: targets, or logits; of probabilities those whose softmax at
    ``temperature`` they are.
    """
    if form == "classes":
        return labels.long()
    if form == "onehot":
        return labels.argmax(1)
    if form == "probabilities":
        rows = labels.double()
        return (temperature * (rows / rows.sum(1, keepdim=True)).clamp_min(SMALLEST).log()).float()
    return labels.float()


def class_order(said: str, spec: DatasetSpec) -> tuple[list[int], str]:
    """Dataset class of each published class number, and that in words.

    Raises:
        UserError: names that are no numbers, or a file whose names are not those of the dataset.
    """
    names = spec.class_names
    same = list(range(spec.classes))
    digits = all(name.isascii() and name.isdigit() for name in names)
    if said == "dataset" or (said == "auto" and not digits):
        return same, "class k is the dataset's k-th"
    if said in ("auto", "numbers"):
        if not digits:
            raise UserError(f"--class-order numbers: class {names[0]!r} of {spec.name} is no number")
        order = sorted(same, key=lambda label: int(names[label]))
        if order == same:
            return same, "class k is the dataset's k-th"
        return order, "class k is the k-th by number, not by word (dataset)"
    order = _listed(Path(said), names)
    return order, f"class k is line k of {Path(said).name}"


def _listed(path: Path, names: Sequence[str]) -> list[int]:
    if not path.is_file():
        raise UserError(f"--class-order {path}: expected dataset, numbers, or a text file with a class name a line")
    data = read_bytes(path, "list of class names", MAX_ORDER_FILE)
    try:
        lines = data.decode("utf-8").splitlines()
    except ValueError as error:
        raise UserError(f"--class-order {path}: cannot read it: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if sorted(lines) != sorted(names):
        odd = sorted(set(lines) ^ set(names)) or ["a repeated name"]
        raise UserError(f"--class-order {path}: {len(lines)} names, not the dataset's {len(names)}; see {odd[0]!r:.60}")
    at = {name: label for label, name in enumerate(names)}
    return [at[line] for line in lines]


def reorder(labels: Tensor, order: Sequence[int]) -> Tensor:
    """Labels by published class numbers as labels by the dataset's."""
    if list(order) == list(range(len(order))):
        return labels
    if labels.ndim == 1:
        return torch.tensor(order)[labels]
    made = torch.empty_like(labels)
    made[:, list(order)] = labels
    return made
