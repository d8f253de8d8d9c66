"""What a published file holds: tensors and numbers, bounded in size, nothing in it executed, not yet judged."""

from __future__ import annotations

import zipfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddbench.runtime.errors import UserError
from ddbench.runtime.files import plain_file
from ddbench.runtime.pickles import begins_as_torch, load_pt
from ddbench.runtime.tensors import MAX_HEADER, parse_header
from ddbench.synset import KIND, SCHEMA

MAX_FILE = 4 * 2**30
"""Bytes of a file, and of what it unfolds to; images of a folder together."""

IMAGES = ("images", "image", "data", "x")
LABELS = ("labels", "label", "targets", "y")
RATES = ("lr", "syn_lr", "learned_lr")
"""Names under which published dicts and archives keep the parts of a set."""

BESIDE_PARAMETERS = {"header", "labels", "lr", "pixels", "stage"}
"""Arrays of an export that are no parameters."""

PLAIN = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8))
PLAIN |= {torch.int8, torch.int16, torch.int32, torch.int64}
WIDE = frozenset((torch.uint16, torch.uint32, torch.uint64))
"""Types that all of torch computes with, and those that become int64 for it."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The parts of a published set as they were found.

    Attributes:
        form: the form of the file in words.
        images: of any shape and dtype.
        labels, lr, stage: None where the file has none.
        header: of a file that ``ddbench export`` wrote.
        parameters: arrays by name that the decoder of its header makes images of; there are no others then.
        named: labels are the dataset's own numbers already (folders named by class).
        sets: how many the file has, of which this is one.
        unread: names in the file that are none of those that are known.
    """

    form: str
    images: Tensor
    labels: Tensor | None = None
    lr: Tensor | None = None
    stage: Tensor | None = None
    header: dict[str, Any] | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    named: bool = False
    sets: int = 1
    unread: tuple[str, ...] = ()


def check_path(path: Path) -> None:
    """Refuse what is neither a folder nor a plain file of bounded size.

    Raises:
        UserError: missing, a pipe or device, or too large.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        return
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: a synset needs no import: ddbench evaluate {path}")
    plain_file(path, "synset", MAX_FILE)


def read_file(path: Path, index: int) -> Content:
    """Read a ``.pt`` or ``.npz`` file.

    Args:
        index: which set of a ``res_*.pt``.

    Raises:
        UserError: no whole file, or one that holds no images.
    """
    if path.suffix == ".npz":
        return _from_npz(path)
    if path.suffix == ".npy":
        return Content(form="an array", images=_from_npy(path, "images"))
    if not begins_as_torch(path):
        raise UserError(f"{path}: nothing that import reads: torch files (.pt), .npz, .npy, folders of images")
    return _from_pt(path, load_pt(path, limit=MAX_FILE), index)


def read_tensor(path: Path, what: str) -> Tensor:
    """The one tensor of a ``.pt`` or ``.npy`` file.

    Raises:
        UserError: it holds something else.
    """
    return _from_npy(path, what) if path.suffix == ".npy" else tensor(load_pt(path, limit=MAX_FILE), path, what)


def tensor(found: Any, path: Path, what: str) -> Tensor:
    """A plain tensor on the CPU, of bounded size also where its strides repeat what is stored.

    Raises:
        UserError: anything else.
    """
    if _numbers(found) and what != "images":
        found = torch.tensor(found, dtype=torch.float64)
    if not isinstance(found, Tensor):
        raise UserError(f"{path}: expected a tensor of {what}, found {type(found).__name__}")
    value: Tensor = found
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise UserError(f"{path}: {what} are a {value.layout} tensor on {value.device}, expected a plain one")
    if value.dtype in WIDE and what != "images":
        value = value.long()
    if value.dtype not in PLAIN:
        raise UserError(f"{path}: {what} are {value.dtype}, expected plain integers or floating-point numbers")
    if value.numel() * value.element_size() > MAX_FILE:
        raise UserError(f"{path}: {what} of shape {list(value.shape)} are too large for a synset")
    return value.detach().contiguous()


def _numbers(value: Any) -> bool:
    """Whether it is a float, or a list of numbers that a float holds."""
    if isinstance(value, list | tuple):
        return all(type(part) in (int, float) and abs(part) < 2**53 for part in value)
    return isinstance(value, float)


def _from_pt(path: Path, content: Any, index: int) -> Content:
    if isinstance(content, Mapping):
        parts = {str(name).removeprefix("module."): value for name, value in content.items()}
        if "data" in parts and not isinstance(parts["data"], Tensor):
            return _from_sets(path, parts["data"], index)
        name, labels, rate = (_first(names, parts) for names in (IMAGES, LABELS, RATES))
        if name is not None:
            return Content(
                form=f"a dict of {', '.join(sorted(parts)[:6])}",
                images=tensor(parts[name], path, "images"),
                labels=tensor(parts[labels], path, "labels") if labels else None,
                lr=tensor(parts[rate], path, "a learning rate") if rate else None,
                stage=tensor(parts["stage"], path, "stages") if "stage" in parts else None,
                unread=_unread(parts, name, labels, rate),
            )
        raise UserError(
            f"{path}: a dict of {listed(parts)}, and no images: they are looked for under "
            f"{', '.join(IMAGES)} (labels: {', '.join(LABELS)}; a rate: {', '.join(RATES)})"
        )
    if isinstance(content, list | tuple) and len(content) in (2, 3):  # IDC, DREAM, NCFM, DSDM
        parts = dict(zip(("images", "labels", "lr"), content, strict=False))
        return Content(
            form=f"a {type(content).__name__} of {', '.join(parts)}",
            images=tensor(parts["images"], path, "images"),
            labels=tensor(parts["labels"], path, "labels"),
            lr=tensor(parts["lr"], path, "a learning rate") if "lr" in parts else None,
        )
    if isinstance(content, list | tuple):
        raise UserError(
            f"{path}: a {type(content).__name__} of {len(content)}, expected a tensor of images, [images, labels] or "
            "[images, labels, rate]"
        )
    return Content(form="a tensor", images=tensor(content, path, "images"))


def _from_sets(path: Path, sets: Any, index: int) -> Content:
    """DC, DSA, DM: ``{"data": [[images, labels], ...], ...}``."""
    if not isinstance(sets, list | tuple) or not sets or not -len(sets) <= index < len(sets):
        raise UserError(f"{path}: --index {index}: holds {len(sets) if isinstance(sets, list | tuple) else 0} set(s)")
    if not isinstance(sets[index], list | tuple) or len(sets[index]) != 2:
        raise UserError(f"{path}: set {index} is not a pair of images and labels")
    images, labels = sets[index]
    return Content(
        form=f"set {index % len(sets) + 1} of {len(sets)}",
        images=tensor(images, path, "images"),
        labels=tensor(labels, path, "labels"),
        sets=len(sets),
    )


def _first(names: tuple[str, ...], parts: Container[str]) -> str | None:
    return next((name for name in names if name in parts), None)


def _unread(parts: Iterable[str], *read: str | None) -> tuple[str, ...]:
    return tuple(sorted({*parts} - {*read, "stage", "header"}))


def listed(names: Iterable[str]) -> str:
    """A few names of a file, each cut short."""
    every = [name[:40] for name in names]
    return (", ".join(every[:8]) or "nothing") + (", ..." if len(every) > 8 else "")


def _from_npy(path: Path, what: str) -> Tensor:
    plain_file(path, "file", MAX_FILE)
    with open(path, "rb") as handle:
        if handle.read(6) != b"\x93NUMPY":
            raise UserError(f"{path}: not a .npy file of a plain array")
    try:
        return _to_torch(path, np.load(path, allow_pickle=False), what)
    except UserError:
        raise
    except Exception as error:  # numpy raises many kinds for a damaged file
        raise UserError(f"{path}: not a whole .npy of a plain array: {error}") from None


def _to_torch(path: Path, array: Any, what: str) -> Tensor:
    return tensor(torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))), path, what)


def _from_npz(path: Path) -> Content:
    plain_file(path, "synset", MAX_FILE)
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
        if unfolded > MAX_FILE:
            raise UserError(f"{path}: unfolds to {unfolded:,} bytes, too large for a synset")
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            found = {
                kind: name
                for kind, names in (("images", IMAGES), ("labels", LABELS), ("lr", RATES), ("stage", ("stage",)))
                if (name := _first(names, file))
            }
            header = _header(path, file["header"]) if "header" in file.files else None
            stored = [] if header is None or "images" in found else sorted({*file.files} - BESIDE_PARAMETERS)
            if "images" not in found and not stored:
                raise UserError(f"{path}: has no array 'images' (it has: {listed(file.files)})")
            arrays = {kind: _to_torch(path, file[name], kind) for kind, name in found.items()}
            parameters = {name: _to_torch(path, file[name], name) for name in stored}
            unread = () if header is not None else _unread(file.files, *found.values())
    except UserError:
        raise
    except Exception as error:  # numpy raises many kinds for a damaged archive
        raise UserError(f"{path}: not a whole .npz of plain arrays: {error}") from None
    form = f"an archive of {', '.join(found.values())}" if header is None else "an export of ddbench"
    return Content(
        form=form,
        images=arrays.get("images", torch.empty(0)),
        parameters=parameters,
        labels=arrays.get("labels"),
        lr=arrays.get("lr"),
        stage=arrays.get("stage"),
        header=header,
        unread=unread,
    )


def _header(path: Path, array: Any) -> dict[str, Any]:
    if array.dtype.kind != "U" or array.ndim != 0 or array.nbytes > 4 * MAX_HEADER:
        raise UserError(f"{path}: its header is no text; the file is damaged")
    return parse_header(path, str(array), KIND, SCHEMA)
