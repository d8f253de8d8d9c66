"""``hub:OWNER/NAME`` or ``hub:FOLDER``: image datasets in parquet files, as Hugging Face's ``datasets`` writes them."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ddbench.data.cache import Listing, alone, load_listing, unless_refused
from ddbench.data.dataset import Dataset, stratified
from ddbench.data.folder import SPLIT_WORDS, TEST_FRACTION
from ddbench.data.limits import require_disk, require_memory
from ddbench.data.spec import DatasetSpec
from ddbench.data.specs import HUB
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, parse_json, plain_file, read_json, write_json
from ddbench.runtime.folders import expanded
from ddbench.runtime.hub_library import anew, check_name, library, parquet, told, whole_file
from ddbench.runtime.interruption import leaving
from ddbench.runtime.progress import Console

VERSION = 1
"""Raised when the same files would give other images."""

IMAGES = ("image", "img", "pixel_values")
LABELS = ("label", "fine_label", "labels", "target", "class")
"""Columns that are taken where several could be meant."""

MAX_FEATURES = 2**24
"""Bytes of the description of the columns; a hundred thousand class names have fewer."""

MAX_CLASSES = 100_000
MAX_ROWS = 10**8
ROWS = 256
BATCH_BYTES = 2**30
"""So many images are in memory at a time."""

INDEX = "index.json"

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")
"""One of several files of a split: what it is called, its number, how many there are, and the hash of older files."""

Opened = dict[str, list[tuple[Path, Any]]]
"""A split -> its parquet files."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What is taken from the files.

    Attributes:
        image, label: names of columns.
        class_names: in label order; empty where the labels are texts, or numbers without names.
    """

    image: str
    label: str
    class_names: tuple[str, ...]


def load_hub(spec: DatasetSpec, root: Path, download: bool = False, console: Console | None = None) -> Dataset:
    """The images of a folder of parquet files, or of a dataset of the hub that is on this machine or fetched.

    Training, validation and test files are known by their names (``train-00000-of-00002.parquet``,
    ``default/test/0000.parquet``); the validation images are the test set where there is no other, and a fixed
    stratified fifth is where there is neither. The images are laid down as files in ``root/hub``, once.

    Raises:
        UserError: no pyarrow, no such dataset, several sets in it, files that are missing or name the classes in
            different ways, no column of images or of one label an image, damaged files, no room on the disk of
            ``root``, or images as :func:`ddbench.data.cache.load_listing` says.
    """
    folder = _folder(spec.name.removeprefix(HUB), download, console is not None and console.quiet, root)
    parts, notes = _parts(folder)
    laid, names, labels = _laid_down(folder, parts, root)
    files = {
        part: [(_file(laid, part, row), label) for row, label in enumerate(found)] for part, found in labels.items()
    }
    train, test = files["train"], files.get("test", files.get("validation", []))
    note = f"scored on the {'test' if 'test' in files else 'validation'} images"
    if not test:
        note = "no test images: a fixed fifth of each class is the test set"
        held = stratified(torch.tensor(labels["train"]), len(names), TEST_FRACTION, "hub-test").tolist()
        test = [one for one, out in zip(train, held, strict=True) if out]
        train = [one for one, out in zip(train, held, strict=True) if not out]
    elif "test" in files and "validation" in files:
        notes.append("left out: the validation images (there are test images)")
    listing = Listing(laid, names, train, test, upright=True, notes=(*notes, note))
    return load_listing(replace(spec, note=note), listing, root, console)


def _folder(place: str, download: bool, quiet: bool, root: Path) -> Path:
    """The folder that a name means: one that is there, else the hub's, with ``OWNER/NAME/PART`` a folder in it."""
    if expanded(place).is_dir():
        folder = expanded(place).resolve()
        if (folder / "synset.json").is_file():
            raise UserError(f"{folder}: a synset, not real images; ddbench import {place} --out RUN reads it")
        return folder
    name, part = "/".join(place.split("/")[:2]), "/".join(place.split("/")[2:])
    try:
        check_name(name)
    except UserError:
        raise UserError(f"--dataset {HUB}{place}: neither a folder nor OWNER/NAME of a dataset on the hub") from None
    hub = library(f"--dataset {HUB}{name} needs")
    patterns = [f"{part}/*.parquet" if part else "*.parquet"]
    note = root / "hub" / f"{hashlib.sha256(f'{name}/{part}'.encode()).hexdigest()[:20]}.begun"
    snapshot = partial(
        hub.HfApi(library_name="ddbench").snapshot_download, name, repo_type="dataset", allow_patterns=patterns
    )

    def here() -> Path | None:
        with suppress(hub.errors.LocalEntryNotFoundError):
            return Path(snapshot(local_files_only=True))
        return None

    with _begun(note, place, download, here), told(hub, name, quiet):
        try:
            found = leaving(partial(snapshot, local_files_only=not download))
        except hub.errors.LocalEntryNotFoundError:
            if download:
                raise
            raise UserError(f"--dataset {HUB}{place}: not on this machine; get it with --download") from None
    return Path(found) / part


@contextmanager
def _begun(note: Path, place: str, download: bool, here: Callable[[], Path | None]) -> Iterator[None]:
    """A note while files are fetched: the library takes what a killed download left for all of them, without a word.

    Args:
        here: the snapshot that is on this machine, if any; the same one after a refusal: nothing was begun.

    Raises:
        UserError: without ``download``, such a note is there; the folder cannot be written to.
    """
    if not download:
        if note.exists():
            raise UserError(f"--dataset {HUB}{place}: its download was begun and not finished; go on with --download")
        yield
        return
    ensure_writable(note.parent)
    fresh, before = not note.exists(), here()
    note.touch()
    try:
        yield
    except UserError:
        if fresh and before is not None and here() == before:
            note.unlink(missing_ok=True)
        raise
    note.unlink(missing_ok=True)


def _parts(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """``train``, ``test``, ``validation`` -> its parquet files in order; and what is left aside, in words.

    Raises:
        UserError: no such file, none to train on, several sets side by side, or one of several files is missing.
    """
    parts: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        inner = path.relative_to(folder).parent.parts
        if any(name.startswith(".") for name in (*inner, path.name)):
            continue
        words = [*re.split(r"[^a-z]+", path.stem.lower()), *(name.lower() for name in inner[::-1])]
        split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
        kept = "/".join(name for name in inner if name.lower() not in (*SPLIT_WORDS, "data"))
        parts.setdefault(kept, {}).setdefault(split, []).append(path)
    if not parts:
        raise UserError(f"{folder}: no parquet files in it; other forms: folder:PATH, npz:PATH")
    if len(parts) > 1:
        shown = ", ".join(sorted(parts)[:8]) or "files beside a folder"
        raise UserError(f"{folder}: several sets ({shown}); name one, as a further part of the name: hub:.../PART")
    (found,) = parts.values()
    loose = found.pop("", [])
    if not found:
        found, loose = {"train": loose}, []
    if "train" not in found:
        raise UserError(f"{folder}: files of {', '.join(found)}, but none named train, to train on")
    unused = {"validation"} if "test" in found else set()
    _require_shards([path for split, paths in found.items() if split not in unused for path in paths])
    return found, [f"ignored: {len(loose)} parquet file(s) whose name says no split"] if loose else []


def _require_shards(paths: Sequence[Path]) -> None:
    """Refuse files that count themselves, ``train-00000-of-00002``, where one of them is missing."""
    there: dict[tuple[Path, str, str], set[int]] = {}
    for path in paths:
        if named := SHARD.fullmatch(path.stem):
            there.setdefault((path.parent, named[1], named[3]), set()).add(int(named[2]))
    for (folder, name, count), numbers in there.items():
        first = int(int(count) in numbers)  # some count from 1
        missing = [number for number in range(first, first + int(count)) if number not in numbers]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{folder}: {name}-{missing[0]:05d}-of-{count}.parquet{more} missing; get it with --download, or "
                "rename the files if these are all that is meant"
            )


def _laid_down(
    folder: Path, parts: Mapping[str, list[Path]], root: Path
) -> tuple[Path, tuple[str, ...], dict[str, Any]]:
    """Where the images are as files, the classes, and the labels of each split; made where it is not there."""
    state = [
        (split, path.relative_to(folder).as_posix(), plain_file(path, "parquet file"), path.stat().st_mtime_ns)
        for split, paths in sorted(parts.items())
        for path in paths
    ]
    final = root / "hub" / hashlib.sha256(repr((VERSION, str(folder), state)).encode()).hexdigest()[:20]
    found = _index(final)
    if found is None:
        with unless_refused(final.parent), alone(final.parent / "lock"):
            try:
                found = _index(final) or _lay_down(final, parts)
            except UserError:
                shutil.rmtree(final.with_name(final.name + ".part"), ignore_errors=True)
                raise
    elif not found.get("compared"):  # an earlier version took the class names of the first file for those of all
        _opened(parts)
        with suppress(UserError):  # the folder may be of somebody else
            write_json(final / INDEX, {**found, "compared": True})
    return final, tuple(found["class_names"]), found["labels"]


def _index(folder: Path) -> dict[str, Any] | None:
    """What an earlier call laid down; None: nothing, or not whole."""
    if not (folder / INDEX).is_file():
        return None
    try:
        found = read_json(folder / INDEX, "index of images", 2**32)
        names, labels = found["class_names"], found["labels"]
        whole = all(isinstance(name, str) for name in names) and "train" in labels
        whole = whole and all(type(one) is int and 0 <= one < len(names) for part in labels.values() for one in part)
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    return found if whole else None


def _lay_down(final: Path, parts: Mapping[str, list[Path]]) -> dict[str, Any]:
    opened, columns = _opened(parts)
    groups = [size for files in opened.values() for _, one in files for size in _groups(one)]
    rows = sum(one.metadata.num_rows for files in opened.values() for _, one in files)
    if rows > MAX_ROWS:
        raise UserError(f"{parts['train'][0].parent}: {rows:,} rows; at most {MAX_ROWS:,} are read")
    require_memory(2 * max(groups, default=0), "reading a group of rows", "write the files again with smaller groups")
    require_disk(sum(groups), final.parent, f"laying down {rows:,} images", "use a --data folder on another disk")
    shutil.rmtree(final, ignore_errors=True)
    part = final.with_name(f"{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    said: dict[str, list[Any]] = {}
    written, room = 0, sum(groups)
    for split, files in opened.items():
        said[split] = []
        for path, one in files:
            for image, label in _rows(path, one, columns):
                target = _file(part, split, len(said[split]))
                if len(said[split]) % 1000 == 0:
                    target.parent.mkdir(parents=True, exist_ok=True)
                written += len(image)
                if written > room:  # equal images are stored once in a file
                    require_disk(written, part, f"laying down {rows:,} images", "use a --data folder on another disk")
                    room = 2 * written
                target.write_bytes(image)
                said[split].append(label)
    names, labels = _numbered(columns, said, parts["train"][0])
    found = {"class_names": list(names), "labels": labels, "compared": True}
    write_json(part / INDEX, found)
    part.rename(final)
    return found


def _groups(opened: Any) -> list[int]:
    """Bytes of each group of rows of a file as it is stored: what is equal in it may be there once."""
    return [opened.metadata.row_group(number).total_byte_size for number in range(opened.metadata.num_row_groups)]


def _file(folder: Path, split: str, row: int) -> Path:
    return folder / split / f"{row // 1000:06d}" / f"{row:09d}"


def _open(path: Path) -> Any:
    _, pq = parquet("--dataset hub:... needs")
    with whole_file(path):
        return pq.ParquetFile(path)


def _opened(parts: Mapping[str, list[Path]]) -> tuple[Opened, Columns]:
    """The files, and what is taken from them: as the first training file says.

    Raises:
        UserError: as :func:`_open` and :func:`_columns`, or the numbers of another file mean other classes.
    """
    opened = {split: [(path, _open(path)) for path in paths] for split, paths in parts.items()}
    columns = _columns(*opened["train"][0])
    known = columns.class_names
    for path, one in (file for files in opened.values() for file in files):
        names = _class_names(path, one, columns.label)
        if known and names and names != known:
            pairs = enumerate(zip_longest(names, known))
            number, (here, there) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{path}: class {number} of {columns.label!r} is {here!r:.60}, in other files {there!r:.60}; "
                "write them with the same class names"
            )
        known = known or names
    return opened, columns


def _columns(path: Path, opened: Any) -> Columns:
    """The column of images and that of labels.

    Raises:
        UserError: none, several that could be meant, or several labels an image.
    """
    pa, _ = parquet()
    schema = opened.schema_arrow
    features = _features(schema.metadata)
    kinds = {field.name: field.type for field in schema}
    known = f"(columns: {', '.join(kinds)[:120]})"
    images = [name for name, kind in kinds.items() if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0]
    image = _chosen(images, IMAGES)
    if image is None:
        raise UserError(f"{path}: {len(images)} columns of images, expected one {known}")
    classes = [name for name in kinds if features.get(name, {}).get("_type") == "ClassLabel"]
    label = _chosen([name for name in LABELS if name in kinds] or classes, LABELS)
    if label is None:
        raise UserError(f"{path}: no column of labels that could be meant, expected one of {', '.join(LABELS)} {known}")
    kind = kinds[label]
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        several = " (several labels an image?)" if pa.types.is_nested(kind) else ""
        raise UserError(f"{path}: column {label!r} is {kind}{several}; expected one whole number or text an image")
    return Columns(image=image, label=label, class_names=_class_names(path, opened, label))


def _class_names(path: Path, opened: Any, label: str) -> tuple[str, ...]:
    """The names that a file gives the numbers of a column; none where it says nothing of them."""
    names = _features(opened.schema_arrow.metadata).get(label, {}).get("names", [])
    if not (isinstance(names, list) and all(isinstance(one, str) for one in names) and len(names) <= MAX_CLASSES):
        raise UserError(f"{path}: the class names of column {label!r} are no list of texts")
    return tuple(names)


def _chosen(found: Sequence[str], preferred: Sequence[str]) -> str | None:
    """The one that is there, else the first one in the order of preference."""
    return found[0] if len(found) == 1 else next((name for name in preferred if name in found), None)


def _features(metadata: Any) -> dict[str, Any]:
    """What ``datasets`` wrote about the columns; nothing where it did not, or where that makes no sense."""
    text = (metadata or {}).get(b"huggingface", b"")
    try:
        found = parse_json(text.decode()) if 0 < len(text) <= MAX_FEATURES else {}
        features = found["info"]["features"]
        return {name: one for name, one in features.items() if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return {}


def _rows(path: Path, opened: Any, columns: Columns) -> Iterator[tuple[bytes, Any]]:
    """The encoded image and the label of each row."""
    missing = [name for name in (columns.image, columns.label) if name not in opened.schema_arrow.names]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]!r}, which the first training file has")
    row = 0
    rows = max(1, min(ROWS, BATCH_BYTES // max([1, *_groups(opened)])))  # an image has no more bytes than its group
    with whole_file(path):
        for batch in opened.iter_batches(rows, columns=[columns.image, columns.label]):
            for image, label in zip(batch.column(columns.image), batch.column(columns.label), strict=True):
                content = (image.as_py() or {}).get("bytes")
                if not content or label.as_py() is None:
                    raise UserError(f"{path}, row {row}: no image in it, or no label")
                yield content, label.as_py()
                row += 1
        if row != opened.metadata.num_rows:
            raise UserError(f"{path}: {row:,} rows in place of {opened.metadata.num_rows:,}; {anew(path)}")


def _numbered(columns: Columns, said: dict[str, list[Any]], path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The classes, and the labels as their numbers; a split whose labels are all -1 has none and is left out."""
    kept = {split: labels for split, labels in said.items() if split == "train" or any(one != -1 for one in labels)}
    kinds = {isinstance(one, str) for labels in kept.values() for one in labels}
    if len(kinds) > 1:
        raise UserError(f"{path.parent}: column {columns.label!r} holds texts and, in another file, numbers")
    if True in kinds:
        names = tuple(sorted({str(one) for one in kept["train"]}))
    else:
        highest = max((one for labels in kept.values() for one in labels), default=-1)
        names = columns.class_names or tuple(map(str, range(min(highest, MAX_CLASSES) + 1)))
    places: dict[Any, int] = {name: place for place, name in enumerate(names)} | {n: n for n in range(len(names))}
    for split, labels in kept.items():
        odd = next((one for one in labels if one not in places), None)
        if odd is not None:
            raise UserError(f"{path.parent}: {split} label {odd!r:.60} is none of the {len(names)} classes")
    if len(names) < 2:
        raise UserError(f"{path.parent}: {len(names)} class(es) in column {columns.label!r}, expected at least two")
    numbers = {split: [places[one] for one in labels] for split, labels in kept.items()}
    empty = sorted(set(range(len(names))) - set(numbers["train"]))
    if empty:
        shown = ", ".join(names[label][:40] for label in empty[:5])
        raise UserError(f"{path.parent}: {len(empty)} class(es) without a training image: {shown}")
    return names, numbers
