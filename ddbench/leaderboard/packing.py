"""What goes beside a row, and what a submission lacks, with how to supply it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ddbench.leaderboard.attachments import LABELS, MAX_BYTES, SYNSET, TEACHER, Part, address, beside, needed
from ddbench.leaderboard.images import MAX_PNG_BYTES, MAX_SIDE, clean_png, is_too_wide
from ddbench.leaderboard.result import Result
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, hashed, read_bytes
from ddbench.teachers.remedy import how_to_join, teacher_files

SYNSET_FILE = "synset.safetensors"
LABELS_FILE = "labels.safetensors"

NEEDED, WANTED, OPTIONAL = "needed", "wanted", "optional"
"""Without a needed thing the row cannot be trained again; a wanted one every reader looks for."""


@dataclass(frozen=True)
class Item:
    """One thing of a submission.

    Attributes:
        name: what it is.
        group: needed, wanted or optional.
        there: whether the submission has it.
        text: what it has, or how to supply it.
    """

    name: str
    group: str
    there: bool
    text: str


@dataclass(frozen=True)
class Given:
    """Where the parts of a run are looked for.

    Attributes:
        teacher, labels: files; default: the teacher under ``teachers`` by its hash, ``labels.safetensors`` of the run.
        teachers: root of the teachers.
    """

    teacher: Path | None = None
    labels: Path | None = None
    teachers: Path = Path("teachers")


@dataclass(frozen=True)
class Package:
    """Files that go beside a row, and the list of what is there and what is missing."""

    files: dict[Path, bytes] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)


def find_part(run: Path, part: Part, sha256: str | None, given: Given) -> Path | None:
    """The file of a part of a run; None: it is not at hand.

    Raises:
        UserError: one was given, or lies in the run, that is not the one the evaluation used.
    """
    own = {SYNSET: run / SYNSET_FILE, TEACHER: given.teacher, LABELS: given.labels or run / LABELS_FILE}[part]
    if own is None:
        found = hashed(teacher_files(given.teachers))
        return next((path for one, path in found if one == sha256), None)
    if not own.is_file():
        if part is SYNSET:
            raise UserError(f"{own}: no such synset; a run folder holds one")
        if own in (given.teacher, given.labels):
            raise UserError(f"{part.flag} {own}: no such file")
        return None
    if sha256 is not None and hash_of(own) != sha256:
        again = f"run `ddbench evaluate {run}` again" if part is SYNSET else f"give its own {part.name}, {sha256[:12]}"
        raise UserError(f"{own}: the evaluation is of another {part.name}: {again}")
    return own


def hash_of(path: Path) -> str:
    """Sha256 of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return file_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read it: {error.strerror or error}") from None


def pack(run: Path, path: Path, result: Result, given: Given) -> Package:
    """The files of a submission, and what it lacks.

    Args:
        path: the row's file.

    Raises:
        UserError: the preview is no picture, or a part is not the one that the evaluation used.
    """
    package = Package()
    count = len(result.runs)
    package.items.append(Item("evaluation", NEEDED, True, f"{count} runs under {result.protocol.name}"))
    for part, sha256 in needed(result).items():
        package.items.append(_part(run, path, result, part, sha256, given, package.files))
    if result.synset.budget.unit == "all":
        items = modality(result.synset.modality).items
        package.items.append(Item("synset", NEEDED, True, f"the real {items}, which are not copied"))
    else:
        package.items.append(_preview(run, path, package.files))
    package.items.extend(_words(result))
    return package


def _part(
    run: Path, path: Path, result: Result, part: Part, sha256: str | None, given: Given, files: dict[Path, bytes]
) -> Item:
    place, url = find_part(run, part, sha256, given), address(result, part)
    named = f"sha256 {sha256[:12]}" if sha256 else "unknown sha256"
    if place is not None and place.stat().st_size <= MAX_BYTES:
        files[beside(path, part)] = read_bytes(place, part.name, MAX_BYTES)
        return Item(part.name, NEEDED, True, f"{place.stat().st_size:,} bytes, beside the row")
    if url is not None and sha256 is not None:
        return Item(part.name, NEEDED, True, f"at {url}, {named}")
    if place is None:
        file = f"{part.flag} FILE, and " if part is not SYNSET else ""
        text = f"{named} is not at hand: {file}{part.flag}-url if over {MAX_BYTES:,} bytes"
        if part is TEACHER and result.teacher is not None:
            join = how_to_join(given.teachers, result.synset.dataset, result.teacher)
            text += f"; {join}" if join else ""
        return Item(part.name, NEEDED, False, text)
    size = f"{place.stat().st_size:,} bytes, too large to lie beside the row"
    return Item(
        part.name, NEEDED, False, f"{size}: put it where it can be fetched and give {part.flag}-url https://..."
    )


def _preview(run: Path, path: Path, files: dict[Path, bytes]) -> Item:
    preview = run / "preview.png"
    if not preview.is_file():
        return Item("preview", WANTED, False, f"{preview} is not there; `ddbench distill` and `ddbench import` make it")
    if preview.stat().st_size > MAX_PNG_BYTES:
        return Item("preview", WANTED, False, f"{preview} has more than {MAX_PNG_BYTES:,} bytes")
    data = read_bytes(preview, "preview", MAX_PNG_BYTES)
    if is_too_wide(data):
        return Item("preview", WANTED, False, f"{preview} has more than {MAX_SIDE:,} pixels a side")
    files[path.with_suffix(".png")] = clean_png(data, str(preview))
    return Item("preview", WANTED, True, "beside the row")


def _words(result: Result) -> Iterator[Item]:
    """What the submitter says in words."""
    said = result.submission
    texts: Mapping[str, tuple[str, str, str, str]] = {
        "method name": (WANTED, said.method_title, "--name", '"My method"'),
        "authors": (WANTED, ", ".join(said.authors), "--author", '"A. Author" (repeat for more)'),
        "licence": (WANTED, said.licence, "--licence", "CC-BY-4.0 (of the synset; others may re-train from it)"),
        "code": (OPTIONAL, said.code, "--code", "https://..."),
        "links": (OPTIONAL, ", ".join(said.links), "--link", "https://... (paper, project; repeat for more)"),
        "claims": (
            OPTIONAL,
            ", ".join(f"{claim.student} {claim.value:g}" for claim in said.claims),
            "--claim",
            'STUDENT=FRACTION --claim-source "table 1" (what the authors report)',
        ),
        "note": (OPTIONAL, said.note, "--note", '"a sentence"'),
    }
    for name, (group, text, flag, example) in texts.items():
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        yield Item(name, group, bool(text), shown if text else f"{flag} {example}")
    recipe = result.recipe
    where = "`ddbench distill` keeps it in the run's config.json"
    yield Item("recipe", WANTED, recipe is not None, "the run's configuration" if recipe is not None else where)
    if result.synset.label_kind != "teacher" or result.labels is None:
        scored = result.scores is not None
        yield Item("scores", OPTIONAL, scored, "DD-Ranking's" if scored else "HLR, IOR, LRS, ARS: ddbench scores RUN")
