"""Images that are mapped from a file: pages that were read stay resident until they are given back.

A map grows to the whole file, as long as the system has memory; what it holds can be taken back at any time, but counts
where memory is limited (a job of a cluster, a container). So whoever goes through images says what it read, and after
:data:`KEPT` bytes the pages of the map are given back. Read again they come from the system's cache, or from the disk.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 128 * 2**20
"""Resident bytes of a map, about."""

AROUND = 2 * 2**20
"""What the kernel maps at most for one byte that is read somewhere, if its cache holds that: a large page."""


@dataclass
class _Map:
    """Where a map lies, how far it is used.

    Attributes:
        version: of its tensor when the map was made; a private map that was written to is never given back.
    """

    start: int
    end: int
    file: weakref.ref[mmap.mmap]
    version: int | None
    read: int = 0


_MAPS: list[_Map] = []


def follow(images: Tensor, file: mmap.mmap, *, private: bool) -> Tensor:
    """Give pages of a map back from now on; returns ``images``.

    Args:
        images: over the map, or over a part of it.
        file: the map.
        private: what is written to it does not go to the file.
    """
    _MAPS[:] = [one for one in _MAPS if one.file() is not None]
    start = images.data_ptr()
    end = start + images.numel() * images.element_size()
    _MAPS.append(_Map(start, end, weakref.ref(file), images._version if private else None))
    return images


def was_read(images: Tensor, size: int | None = None) -> None:
    """Say that bytes of images were read or written, which may be mapped or not.

    Args:
        size: how many; None: all of these images.
    """
    own = _map_of(images)
    if own is not None:
        _count(own, images, images.numel() * images.element_size() if size is None else size)


def gather(images: Tensor, index: Tensor | slice) -> Tensor:
    """``images[index]``; where positions are asked for, int64 ``(n,)``, pages are given back as they are read."""
    if isinstance(index, slice) or index.dtype != torch.int64 or index.ndim != 1:
        return images[index]
    own = _map_of(images)
    if own is None:
        return images[index]
    each = images[:1].numel() * images.element_size() + AROUND
    made = images.new_empty((len(index), *images.shape[1:]))
    for rows in torch.arange(len(index)).split(max(1, KEPT // each)):
        made[rows] = images[index[rows]]
        _count(own, images, len(rows) * each)
    return made


def _map_of(images: Tensor) -> _Map | None:
    if not _MAPS or images.device.type != "cpu":
        return None
    place = images.data_ptr()
    return next((one for one in _MAPS if one.start <= place < one.end), None)


def _count(own: _Map, images: Tensor, size: int) -> None:
    """Note what was read, and give the pages back where that is enough."""
    own.read += size
    if own.read < KEPT:
        return
    own.read = 0
    file, written = own.file(), own.version is not None and images._version != own.version
    if file is not None and not file.closed and not written and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
