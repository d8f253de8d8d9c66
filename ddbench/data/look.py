"""Every image file is looked at once before it is decoded: what it is, and whether it can be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

from ddbench.data.images import DEEPEST, Facts, look_at
from ddbench.runtime.device import cores
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json, write_json

AT_ONCE = 1024
"""Files that wait to be looked at."""

SHOWN = 8
"""So many broken files are named in one line."""


@dataclass(kw_only=True)
class Look:
    """What was seen in the files of a dataset.

    Attributes:
        modes: Pillow's mode -> number of files; grey of all of a split's files is one channel.
        channels: 1 when every training image is grey by its mode, else 3.
        smallest, largest: width and height in px of the images with the shortest and the longest side.
        bits: of the values of grey images of more than 8 bits, 8 to 31; the usual 16 where there are none.
        deep, turned, alpha: files with more than 8 bits, with an EXIF orientation, with transparency.
        tiffs: those of the turned that are TIFFs.
        skipped: files that are left out, each with the reason.
        whole: whether all files were read in full, not their headers alone.
    """

    modes: dict[str, int] = field(default_factory=dict)
    channels: int = 1
    smallest: tuple[int, int] = (0, 0)
    largest: tuple[int, int] = (0, 0)
    bits: int = DEEPEST
    deep: int = 0
    turned: int = 0
    tiffs: int = 0
    alpha: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    whole: bool = False


def look_over(train: Sequence[Path], test: Sequence[Path], *, skip_broken: bool) -> Look:
    """Look at all files, in parallel; only their headers are read while none is broken.

    Args:
        skip_broken: read every file in full, and leave out those that are broken.

    Raises:
        UserError: names broken files, all of them that fit into the line.
    """
    paths = [*train, *test]
    seen = _facts(paths, whole=skip_broken)
    if not skip_broken and any(isinstance(one, str) for one in seen):
        refuse_broken(paths)
        # All could be read this time: nothing is left out for an error that passed.
        seen = [_try(path, False) if isinstance(one, str) else one for path, one in zip(paths, seen, strict=True)]
        for one in seen:
            if isinstance(one, str):
                raise UserError(f"{one}; it could be read a moment ago: check that disk")
    skipped = {shown(path): one for path, one in zip(paths, seen, strict=True) if isinstance(one, str)}
    facts = [one for one in seen if not isinstance(one, str)]
    if not facts:
        raise UserError(f"{paths[0].parent if paths else 'images'}: none of {len(paths)} image files can be read")
    values = [one.highest for one in facts if one.highest is not None]
    return Look(
        modes=dict(Counter(one.mode for one in facts).most_common()),
        channels=1 if all(isinstance(one, str) or one.grey for one in seen[: len(train)]) else 3,
        smallest=min((one.size for one in facts), key=min),
        largest=max((one.size for one in facts), key=max),
        bits=max(8, max(values).bit_length()) if values else DEEPEST,
        deep=len(values),
        turned=sum(one.orientation != 1 for one in facts),
        tiffs=sum(one.orientation != 1 and one.tiff for one in facts),
        alpha=sum(one.alpha for one in facts),
        skipped=skipped,
        whole=skip_broken,
    )


def refuse_broken(paths: Sequence[Path]) -> None:
    """Read every file in full and name those that are broken; nothing when there are none.

    Raises:
        UserError: one line for all of them.
    """
    broken = [one for one in _facts(paths, whole=True) if isinstance(one, str)]
    if len(broken) == 1:
        raise UserError(f"{broken[0]}; mend or remove the file, or give --skip-broken")
    if broken:
        more = f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise UserError(
            f"{len(broken)} of {len(paths)} image files cannot be used: {'; '.join(broken[:SHOWN])}{more}; mend or "
            "remove them, or give --skip-broken"
        )


def _facts(paths: Sequence[Path], *, whole: bool) -> list[Facts | str]:
    """What each file is, or why it cannot be used.

    Few files wait at the workers at a time, and what is said of many files is kept once: a million files take little.
    """
    found: list[Facts | str] = []
    known: dict[Facts | str, Facts | str] = {}
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), AT_ONCE):
            seen = pool.map(_try, paths[start : start + AT_ONCE], repeat(whole))
            found += [known.setdefault(one, one) for one in seen]
    return found


def _try(path: Path, whole: bool) -> Facts | str:
    try:
        return look_at(path, whole=whole)
    except UserError as error:
        return shown(error)


def shown(named: object) -> str:
    """A text that names a file, for people and files: what is not UTF-8 in it by its number."""
    return str(named).encode(errors="backslashreplace").decode()


def kept_look(path: Path) -> Look | None:
    """What an earlier call saw; None: nothing, or not readable."""
    if not path.is_file():
        return None
    try:
        found = Look(**read_json(path, "look at a dataset"))
        (found.smallest, found.largest) = ((size[0], size[1]) for size in (found.smallest, found.largest))
        whole = found.channels in (1, 3) and 8 <= found.bits < 32
        counts = (found.deep, found.turned, found.tiffs, found.alpha, *found.modes.values())
        texts = (*found.skipped, *found.skipped.values())
        whole = whole and type(found.whole) is bool
        whole = whole and all(type(one) is int for one in counts) and all(type(one) is str for one in texts)
    except (UserError, TypeError, AttributeError, LookupError):
        return None
    return found if whole else None


def keep_look(path: Path, look: Look) -> None:
    """Write it beside the decoded images."""
    write_json(path, asdict(look))


def report(look: Look, counts: Sequence[Sequence[int]], name: str, names: Sequence[str], notes: Sequence[str]) -> str:
    """A few lines for people, before work: classes, counts, splits, modes, sizes, and what was left out.

    Args:
        counts: images of each class, of the training and of the test set.
        notes: what the layout said.
    """
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    train, test = counts
    lines = [
        f"{name}: {len(names)} classes ({shown}); {sum(train):,} training images ({_span(train)} a class), "
        f"{sum(test):,} test images ({_span(test)} a class)",
        f"  {', '.join(f'{count:,} {mode}' for mode, count in look.modes.items())}, read as "
        f"{'grey' if look.channels == 1 else 'colour'}; {_sizes(look)} px",
    ]
    policy: list[Any] = []
    if look.deep:
        policy.append(f"{look.deep:,} of more than 8 bits a pixel hold {look.bits} bits, scaled to 8")
    if look.turned:
        policy.append(f"{look.turned:,} turned upright by their EXIF orientation")
    if look.alpha:
        policy.append(f"{look.alpha:,} with transparency, which is dropped (the colours below it are used)")
    lines += [f"  {one}" for one in (*policy, *notes)]
    if look.skipped:
        lines.append(f"  left out as broken (--skip-broken): {len(look.skipped):,}: {'; '.join(look.skipped.values())}")
    return "\n".join(lines)


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _sizes(look: Look) -> str:
    low, high = (f"{width} x {height}" for width, height in (look.smallest, look.largest))
    return low if low == high else f"{low} to {high}"
