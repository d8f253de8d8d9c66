"""What a publication reports for a cell, as a plan says it, and how ours stands to it. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ddbench.runtime.errors import UserError
from ddbench.statistics import Statistics, student_quantile

KEYS = {"ipc", "protocol", "student", "value", "std", "runs", "networks", "setting", "source", "checked"}
REPRODUCED = ("setting", "source")
"""What a plan of the kind ``reproduction`` must say of every figure."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper reports for a cell: the target.

    Attributes:
        student: whose accuracy.
        value: fraction; None: the figure is known, but nobody has seen it in its source, so it is not printed.
        std: standard deviation over the publication's runs, a fraction; None: not reported.
        runs: independent synsets behind the value; None: not reported.
        networks: networks trained on each of them; None: not reported.
        setting: how the publication trained and tested them, in words.
        source: where it is printed.
        checked: where the figure was seen; empty: it was not checked.
    """

    student: str
    value: float | None
    source: str
    std: float | None = None
    runs: int | None = None
    networks: int | None = None
    setting: str = ""
    checked: str = ""

    @property
    def count(self) -> int:
        """How many independent values are behind the deviation: synsets, or the networks of a single one.

        Where the publication does not say, one: its deviation then counts in full.
        """
        return (self.networks or 1) if self.runs == 1 else (self.runs or 1)


def read_published(
    entries: list[Any], students: Sequence[str], where: str, reproduction: bool
) -> list[tuple[int | None, str | None, Published]]:
    """Targets of a plan's entry, with the IPC and the protocol that each is for (None: every one).

    Args:
        students: of the entry.
        where: the entry, for messages.
        reproduction: whether the plan is of that kind: a figure then says setting and source, and has a value only
            where it says where it was checked.

    Raises:
        UserError: malformed.
    """
    return [_read(entry, students, where, reproduction) for entry in entries]


def _read(
    entry: Any, students: Sequence[str], where: str, reproduction: bool
) -> tuple[int | None, str | None, Published]:
    needs = "student, value and source (ipc and protocol if wanted)"
    if not isinstance(entry, dict) or not set(entry) <= KEYS or not _is_text(entry.get("source")):
        raise UserError(f"{where}: published needs {needs}, got {entry!r:.80}")
    if entry.get("student") not in students:
        raise UserError(
            f"{where}: published: {entry.get('student')!r} is none of the cell's students ({', '.join(students)})"
        )
    value, ipc, own = entry.get("value"), entry.get("ipc"), entry.get("protocol")
    if (value is not None or not reproduction) and not _is_fraction(value):
        raise UserError(f"{where}: published: value is {value!r}, expected a fraction such as 0.463")
    if "std" in entry and not _is_fraction(entry["std"]):
        raise UserError(f"{where}: published: std is {entry['std']!r}, expected a fraction such as 0.006")
    for key in ("ipc", "runs", "networks"):
        if key in entry and (type(entry[key]) is not int or entry[key] < 1):
            raise UserError(f"{where}: published: {key} is {entry[key]!r}, expected a whole number from 1 on")
    for key in ("protocol", "setting", "checked"):
        if key in entry and not _is_text(entry[key]):
            raise UserError(f"{where}: published: {key} is {entry[key]!r}, expected text")
    if reproduction:
        _check_reproduced(entry, where)
    own_keys = {key: entry[key] for key in KEYS - {"ipc", "protocol", "value"} if key in entry}
    return ipc, own, Published(value=value, **own_keys)


def _check_reproduced(entry: dict[str, Any], where: str) -> None:
    """What a plan of reproduction must say beyond what any plan says.

    Raises:
        UserError: it does not.
    """
    for key in REPRODUCED:
        if key not in entry:
            raise UserError(f"{where}: published: {key} is missing; a plan of reproduction says it of every figure")
    if ("value" in entry) != ("checked" in entry):
        raise UserError(
            f"{where}: published: value and checked go together: a figure is printed where somebody has seen it in its "
            "source, and says where; leave both out otherwise"
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < 1


Word = Literal["inside", "above", "below", "not comparable"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How ours stands to what is published.

    Attributes:
        word: ``inside``: the 95 % interval of the difference holds 0.
        difference: ours less published, a fraction; None: nothing to subtract.
        low, high: its interval; None where there is none.
        why: of ``not comparable``, else empty.
    """

    word: Word
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


def judge(ours: Statistics, published: Published, reason: str = "") -> Verdict:
    """The verdict on a measured accuracy.

    The variance of the difference is that of our mean plus that of theirs, ``std² / count``. Where they report no
    deviation, their value counts as exact, which makes the interval narrower than it should be. The degrees of freedom
    are Welch's and Satterthwaite's.

    Args:
        ours: mean, std and n of what is independent: networks of one synset, or the means of several synsets.
        reason: why the two cannot be compared; empty: they can.
    """
    if not reason and published.value is None:
        reason = "the published figure could not be checked"
    if not reason and ours["std"] is None:
        reason = "a single run of ours has no interval"
    if reason or published.value is None or ours["std"] is None:
        difference = None if published.value is None else ours["mean"] - published.value
        return Verdict(word="not comparable", difference=difference, why=reason)
    difference = ours["mean"] - published.value
    parts = [(ours["std"] ** 2 / ours["n"], ours["n"] - 1.0)]
    if published.std is not None:
        count = published.count
        parts.append((published.std**2 / count, count - 1.0 if count > 1 else math.inf))
    variance = sum(part for part, _ in parts)
    half = 0.0
    if variance > 0:
        spread = sum(part**2 / free for part, free in parts if part)
        half = student_quantile(variance**2 / spread if spread else math.inf) * math.sqrt(variance)
    low, high = difference - half, difference + half
    word: Word = "above" if low > 0 else "below" if high < 0 else "inside"
    return Verdict(word=word, difference=difference, low=low, high=high)
