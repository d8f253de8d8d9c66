"""Whether a student can take images of a shape."""

from __future__ import annotations

from ddbench.networks.names import (
    REGISTERED,
    SMALLEST_EXTERNAL,
    SMALLEST_MODIFIED,
    SMALLEST_SIZE,
    StudentName,
    counts_as_32,
    parse_student,
)
from ddbench.registry import resolve
from ddbench.runtime.errors import UserError


def check_student(name: str, channels: int, size: int) -> None:
    """Refuse a student that cannot take images of this shape.

    A network of another library is tried out, on two images of noise, which imports that library; so is a registered
    one.

    Raises:
        UserError: a wrong name, fewer than 1 channel, images that are too small for it, a ConvNet whose pools would
            leave no pixel, a network of another library that is not there, or one of another library or registered that
            does not take the shape, or does not see every row and column of such images.
    """
    student = parse_student(name)
    if channels < 1:
        raise UserError(f"student {name!r}: images need at least 1 channel, got {channels}")
    if size < SMALLEST_SIZE:
        raise UserError(f"student {name!r}: images of {size} px are too small, expected at least {SMALLEST_SIZE}")
    if student.family == "convnet" and student.pooling != "none" and student.depth is not None:
        most = (32 if counts_as_32(channels, size) else size).bit_length() - 1
        if student.depth > most:
            raise UserError(
                f"student {name!r}: {student.depth} poolings leave no pixel of a {size} px image; "
                f"the most for this size is depth {most}"
            )
    if student.registered:
        _check_registered(student, channels, size)
    if student.library is not None:
        _check_external(student, channels, size)


def _check_registered(student: StudentName, channels: int, size: int) -> None:
    check = REGISTERED[student.family].check
    if check is not None:
        resolve(check, f"student '{student}'")(channels, size)
    _try(student, channels, size)


def _check_external(student: StudentName, channels: int, size: int) -> None:
    least = SMALLEST_EXTERNAL if student.variant is None else SMALLEST_MODIFIED
    if size < least:
        other = "one of all-small"
        if student.family.startswith("tv-resnet") and size >= SMALLEST_MODIFIED:
            other = f"{student.family}-mod"
        raise UserError(
            f"student '{student}': images of {size} px are too small, expected at least {least}; use {other}"
        )
    _try(student, channels, size)


def _try(student: StudentName, channels: int, size: int) -> None:
    from ddbench.networks.external import check_external

    check_external(student, channels, size)
