"""Images that are mapped from a file: pages that were read stay resident until they are given back.

A map grows to the whole file, as long as the system has memory; what it holds can be taken back at any time, but counts
where memory is limited (a job of a cluster, a container). So whoever goes through images says what it read, and after
:data:`KEPT` bytes the pages of the map are given back. Read again they come from the system's cache, or from the disk.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass

from torch import Tensor

KEPT = 128 * 2**20
"""Resident bytes of a map, about."""

AROUND = 64 * 2**10
"""What the kernel maps for one byte that is read somewhere, if its cache holds that."""


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
    place = images.data_ptr()
    for one in _MAPS:
        if one.start <= place < one.end:
            one.read += images.numel() * images.element_size() if size is None else size
            if one.read >= KEPT:
                one.read = 0
                _give_back(one, images)


def gather(images: Tensor, index: Tensor | slice) -> Tensor:
    """``images[index]``, a copy where the index is a tensor; pages that this read are given back in time."""
    found = images[index]
    if _MAPS and not isinstance(index, slice) and len(images):
        was_read(images, len(found) * (images[0].numel() * images.element_size() + AROUND))
    return found


def _give_back(one: _Map, images: Tensor) -> None:
    file = one.file()
    written = one.version is not None and images._version != one.version
    if file is not None and not file.closed and not written and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
