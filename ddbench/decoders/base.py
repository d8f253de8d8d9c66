"""What a decoder is: a few numbers that say how arrays become images, and a differentiable function of the arrays.

The arrays are a synset's parameters. Each goes through the classes in order along its first axis, so that those of some
classes are a set by themselves, and a large set can be decoded class by class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from torch import Tensor

from ddbench.data.preprocess import Preprocess
from ddbench.decoders import DECODERS
from ddbench.provenance import field_of
from ddbench.runtime.errors import UserError

MAX_SIDE = 1024
MAX_CHANNELS = 16
LARGEST_GAIN = 1024
"""Bytes of images that a stored byte may become: a small file must not ask for a large memory."""

Arrays = Mapping[str, Tensor]


@dataclass(frozen=True)
class Declared:
    """What an array must be: its type as safetensors names it (``F32``, ``I16``, ...), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * int(self.dtype[1:]) // 8


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Base of all decoders; the fields of a subclass are its settings: ``int``, ``float`` or tuples of ``int``.

    A decoder of stored images changes those; it leaves :attr:`makes` and :meth:`declared` alone. Another one makes all
    images out of parameters.
    """

    kind: ClassVar[str]
    """Its name."""

    @property
    def described(self) -> str:
        """What it does, in a line for a card."""
        raise NotImplementedError

    @property
    def copies(self) -> int:
        """Decoded images of each item that has a label; 1 where it makes all images of parameters."""
        return 1

    @property
    def makes(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the images that it makes of parameters; None: it works on stored images."""
        return None

    def declared(self, items: int, classes: int) -> dict[str, Declared]:
        """The arrays that it reads, by name; none where it works on stored images.

        Args:
            items: images that it makes, a multiple of ``classes``.
        """
        return {}

    def per_class(self, ipc: int) -> int:
        """Items of a class that a budget of ``ipc`` images allows."""
        return ipc

    def check(self, path: Path, shape: tuple[int, ...]) -> None:
        """Refuse settings that cannot be, before an array is read.

        Args:
            path: of the synset, for the message.
            shape: ``(C, H, W)`` of its images.

        Raises:
            UserError: names the setting, its value and what is possible.
        """
        if len(shape) != 3 or not (1 <= shape[0] <= MAX_CHANNELS and all(1 <= side <= MAX_SIDE for side in shape[1:])):
            raise UserError(
                f"{path}: its decoder makes images of shape {list(shape)}, expected up to {MAX_CHANNELS} channels and "
                f"sides up to {MAX_SIDE}"
            )

    def check_arrays(self, path: Path, arrays: Arrays) -> None:
        """Refuse contents that cannot be decoded; types and shapes are checked before.

        Raises:
            UserError: names the array and the value.
        """

    def decode(self, arrays: Arrays, preprocess: Preprocess) -> Tensor:
        """Network input ``(N, C, H, W)`` of arrays as they are stored; gradients pass through.

        Args:
            arrays: parameters by name, or ``images`` as a synset stores them.
            preprocess: between pixels and network input.
        """
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """As in the header of a synset."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"kind": self.kind, **{name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}}


def read_decoder(path: Path, found: Any) -> Decoder | None:
    """The decoder that a header names; None: none.

    Raises:
        UserError: an unknown one, or settings that are not its own.
    """
    if found is None:
        return None
    kind = found.get("kind") if isinstance(found, dict) else None
    if isinstance(kind, str) and kind in DECODERS:
        made = DECODERS.get(kind)
        hints = {one.name: get_type_hints(made)[one.name] for one in fields(made)}
        if set(found) == {"kind", *hints}:
            decoder: Decoder = made(**{name: _setting(path, found, name, hint) for name, hint in hints.items()})
            return decoder
    raise UserError(f"{path}: holds a decoder, which this version does not know: upgrade ddbench")


def _setting(path: Path, found: dict[str, Any], name: str, hint: Any) -> Any:
    if hint in (int, float):
        return field_of(path, found, name, hint)
    values = field_of(path, found, name, list)
    if len(values) > 8 or not all(type(value) is int for value in values):
        raise UserError(f"{path}: header field {name!r} is {values!r:.60}, expected whole numbers")
    return tuple(values)


def check_sizes(path: Path, decoder: Decoder, items: int, classes: int, found: Mapping[str, Declared]) -> None:
    """Refuse arrays that a decoder does not declare, before one of them is read.

    Args:
        items: labels of the synset.
        found: types and shapes of the parameters that are there.

    Raises:
        UserError: images that do not divide into the classes, an array that is missing, foreign, or of another type or
            shape, or images of more than :data:`LARGEST_GAIN` times the bytes of the arrays.
    """
    shape = decoder.makes
    assert shape is not None
    decoder.check(path, shape)
    if decoder.copies != 1:
        raise UserError(f"{path}: its decoder {decoder.kind} makes {decoder.copies} images of each label, expected 1")
    if items < 1 or items % classes:
        raise UserError(f"{path}: {items} labels do not divide into {classes} classes")
    wanted = decoder.declared(items, classes)
    for name, one in wanted.items():
        if name not in found:
            raise UserError(f"{path}: has no tensor {name!r}, which its decoder {decoder.kind} reads")
        if found[name] != one:
            raise UserError(
                f"{path}: {name} is {found[name].dtype}{list(found[name].shape)}, but its decoder {decoder.kind} for "
                f"{items} images reads {one.dtype}{list(one.shape)}"
            )
    if unknown := sorted(set(found) - set(wanted)):
        raise UserError(f"{path}: holds {', '.join(unknown)}, which its decoder {decoder.kind} does not read")
    if reason := too_much(decoder, items, classes):
        raise UserError(f"{path}: {reason}")


def too_much(decoder: Decoder, items: int, classes: int) -> str:
    """Why no file may hold such a set: its images are more than :data:`LARGEST_GAIN` times the bytes of its arrays.

    Args:
        items: images that it makes, a multiple of ``classes``.

    Returns:
        Words for a message; empty: a file may.
    """
    assert decoder.makes is not None
    stored = sum(one.bytes for one in decoder.declared(items, classes).values())
    made = 4 * items * math.prod(decoder.makes)
    if made <= LARGEST_GAIN * stored:
        return ""
    return (
        f"{stored:,} bytes of parameters would become {made:,} bytes of images, expected at most {LARGEST_GAIN} times "
        "as many"
    )


def by_class(arrays: Arrays, classes: int) -> Iterator[dict[str, Tensor]]:
    """The arrays of each class in turn, views of the whole."""
    for label in range(classes):
        yield {
            name: tensor[label * (len(tensor) // classes) : (label + 1) * (len(tensor) // classes)]
            for name, tensor in arrays.items()
        }


@torch.no_grad()
def decode_all(decoder: Decoder, arrays: Arrays, preprocess: Preprocess, classes: int) -> Tensor:
    """Network input of all classes, without gradient: decoded class by class, as a method does it."""
    if decoder.makes is None:
        return decoder.decode(arrays, preprocess)
    return torch.cat([decoder.decode(own, preprocess) for own in by_class(arrays, classes)])
