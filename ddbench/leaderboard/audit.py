"""Everything under ``results/`` of a board that is not a row's own content: names, links, sizes, attachments, lineage.

Nothing is followed, decoded or read before its name and size were looked at. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ddbench.leaderboard.attachments import MAX_BYTES, PARTS, beside, check_part
from ddbench.leaderboard.images import MAX_PNG_BYTES, published_png
from ddbench.leaderboard.kept import Kept, board_digest
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import MAX_RESULT_BYTES, RESULTS, load_results, result_path, same_subject
from ddbench.leaderboard.superseding import what_is_lost
from ddbench.leaderboard.verification import SUFFIX, load_verifications
from ddbench.runtime.errors import UserError
from ddbench.runtime.temporary import is_temporary

LIMITS = {
    ".json": MAX_RESULT_BYTES,
    SUFFIX: MAX_RESULT_BYTES,
    ".png": MAX_PNG_BYTES,
    **{part.suffix: MAX_BYTES for part in PARTS},
}
"""End of a file's name, after the row's id -> largest size in bytes."""

_NAME = re.compile(r"([0-9a-f]{16})(\.[a-z.]+)")
_FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,79}")


def check_board(root: Path) -> dict[str, int]:
    """Check a whole board: every row, every file beside one, every verification.

    Returns:
        How many there are: ``rows``, ``files`` (beside rows), ``verified``.

    Raises:
        UserError: the first thing that is wrong.
    """
    return known_or_checked(root)[1]


def known_or_checked(root: Path) -> tuple[list[Result] | None, dict[str, int]]:
    """As :func:`checked_results`; None for the rows where these very files passed before (:mod:`.kept`)."""
    kept, before = Kept(root), board_digest(root / RESULTS)
    known = None if before is None else kept.product("check", before)
    if known is not None:
        return None, dict(json.loads(known))
    results, counts = checked_results(root)
    if before is not None and board_digest(root / RESULTS) == before:  # nobody wrote meanwhile
        kept.keep("check", before, json.dumps(counts))
    return results, counts


def checked_results(root: Path) -> tuple[list[Result], dict[str, int]]:
    """The rows of a board that was checked as :func:`check_board` does, and its counts.

    Raises:
        UserError: the first thing that is wrong.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such leaderboard folder; `ddbench submit RUN --leaderboard {root}` makes one")
    names = board_files(root)
    results = load_results(root)
    check_lineage(results)
    check_real(results)
    count, marks = 0, Kept(root).marks("previews")
    for result in results:
        path = root / result_path(result)
        suffixes = names.pop(path, set())
        for part in PARTS:
            if part.suffix in suffixes:
                check_part(beside(path, part), part, result)
        if ".png" in suffixes:
            published_png(path.with_suffix(".png"), marks)
        count += len(suffixes)
    marks.keep()
    return results, {"rows": len(results), "files": count, "verified": len(load_verifications(root, results))}


PATIENCE = 1.0
"""Seconds in which the row of files that lie without one may still come."""


def board_files(root: Path) -> dict[Path, set[str]]:
    """Row file -> ends of the names of what lies beside it, for all of ``results/``; names, kinds and sizes checked.

    Raises:
        UserError: a link, a special file, a name that no file of a board has, a file that is too large, or one whose
            row is not there.
    """
    until = time.monotonic() + PATIENCE
    while True:
        found = _board_files(root)
        alone = next((row for row in found if not row.is_file()), None)
        if alone is None:
            return found
        if time.monotonic() > until:
            raise UserError(
                f"{alone.with_suffix(min(found[alone]))}: lies beside a row that is not there ({alone.name})"
            )
        time.sleep(PATIENCE / 10)  # a submission writes its row last


def _board_files(root: Path) -> dict[Path, set[str]]:
    found: dict[Path, set[str]] = {}
    for path in _files(root / RESULTS):
        if is_temporary(path):
            continue
        match = _NAME.fullmatch(path.name)
        depth = len(path.relative_to(root).parts)
        if match is None or match[2] not in LIMITS or depth != 5:
            raise UserError(
                f"{_shown(path)}: not a file of a board; expected results/<dataset>/<budget>/<method>/<id> and one of "
                f"{', '.join(LIMITS)}"
            )
        size = path.lstat().st_size
        if size > LIMITS[match[2]]:
            raise UserError(f"{path}: {size:,} bytes is too large (at most {LIMITS[match[2]]:,})")
        beside_row = found.setdefault(path.with_name(f"{match[1]}.json"), set())
        if match[2] != ".json":
            beside_row.add(match[2])
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Regular files below a folder in order; links are refused, not followed."""
    if not folder.exists() and not folder.is_symlink():
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if _is_plain(folder, folder=True) else []
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            if not _FOLDER.fullmatch(entry.name):
                raise UserError(f"{_shown(path)}: not a folder of a board; expected small letters, digits and dashes")
            yield from _files(path)
        elif _is_plain(path, folder=False):
            yield path


def _is_plain(path: Path, *, folder: bool) -> bool:
    """Whether it is there; it is then a file or folder."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:  # what another process wrote has its own name now
        return False
    if not (stat.S_ISDIR(mode) if folder else stat.S_ISREG(mode)):
        what = "a link" if stat.S_ISLNK(mode) else "neither file nor folder"
        raise UserError(f"{_shown(path)}: {what}; a board has plain files and folders only: remove it")
    return True


def _shown(path: Path) -> str:
    """A path whose last part somebody else chose, for a message."""
    return f"{path.parent / ascii(path.name)[1:-1][:80]}"


def check_lineage(results: Sequence[Result]) -> None:
    """A row supersedes only one of the same synset under the same protocol that has no more runs, and all of it.

    Raises:
        UserError: it takes the place of another one.
    """
    known: Mapping[str, Result] = {result.id: result for result in results}
    for result in results:
        old = known.get(result.supersedes or "")
        if old is not None and (same_subject(old) != same_subject(result) or len(old.runs) > len(result.runs)):
            raise UserError(
                f"{result_path(result)}: supersedes {old.id}, which is of another synset or protocol, or has more "
                "runs; submit it again"
            )
        lost = None if old is None else what_is_lost(old, result)
        if old is not None and lost is not None:
            where = f"{result_path(result)}: supersedes {old.id}"
            raise UserError(f"{where}, which has {lost[0]}, and it has not: {lost[1]}, then submit again")


def check_real(results: Sequence[Result]) -> None:
    """Rows of the same data say the same of the real training set, which their compression is told against.

    Raises:
        UserError: two do not; which of them is wrong cannot be told without the data.
    """
    first: dict[str, Result] = {}
    for result in results:
        other = first.setdefault(result.synset.dataset_fingerprint, result)
        ours, theirs = (one.synset.bytes for one in (result, other))
        if (ours.real, ours.real_images) != (theirs.real, theirs.real_images):
            raise UserError(
                f"{result_path(result)}: its real training set has {ours.real:,} bytes and {ours.real_images:,} items, "
                f"that of {other.id}, which is of the same data, {theirs.real:,} and {theirs.real_images:,}: one of "
                "the two rows is wrong; evaluate and submit it again"
            )
