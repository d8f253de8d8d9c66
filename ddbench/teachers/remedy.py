"""What to do where the teacher that a file names is not in the store. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddbench.data.specs import dataset_slug
from ddbench.runtime.files import hashed, text_hash

ROOT = Path("teachers")
"""Where teachers are kept, unless a command says otherwise."""

FOLDER = "together"
"""Of teachers that were joined, beside the folders of the networks, under that of the dataset."""
PARTIAL = ".partial.safetensors"
"""Ends the name of the checkpoint of a teacher that is not finished."""


def checkpoint_file(teacher: Path) -> Path:
    """Where the training of a teacher keeps what it did: hidden, so that ``*.safetensors`` of a shell is teachers."""
    return teacher.with_name(f".{teacher.stem}{PARTIAL}")


def unfinished_files(root: Path) -> list[Path]:
    """Checkpoints of the teachers under a root that are not finished."""
    return sorted(root.glob(f"*/*/*{PARTIAL}"))


def teacher_files(root: Path, dataset: str | None = None, student: str | None = None) -> list[Path]:
    """Files of the finished teachers under a root, of a dataset and student when these are given."""
    return files_like(root, dataset_slug(dataset) if dataset else "*", student)


def files_like(root: Path, folders: str, student: str | None) -> list[Path]:
    """Files of the finished teachers in the folders of a pattern."""
    pattern = f"{folders}/{student or '*'}/*.safetensors"
    found = (path for path in root.glob(pattern) if not path.name.startswith("."))
    return sorted(path for path in found if not path.name.endswith(PARTIAL))


def together_file(root: Path, dataset: str, hashes: Sequence[str]) -> Path:
    """Where teachers that are taken together in this order belong, by the sha256 of their files."""
    return root / dataset_slug(dataset) / FOLDER / f"{text_hash(list(hashes))[:12]}.safetensors"


def named(reference: Mapping[str, Any]) -> str:
    """A teacher's reference (:meth:`ddbench.teachers.store.Teacher.reference`) in a message."""
    return f"{reference.get('student')}, sha256 {str(reference['sha256'])[:12]}"


def how_to_join(root: Path, dataset: str, reference: Mapping[str, Any]) -> str | None:
    """How the file of several teachers is made again; None: the reference is of a single one.

    Args:
        root: of the teachers.
        dataset: name of the data that they were trained on.
        reference: as a synset or a row keeps it; not trusted.

    Returns:
        Words that name the joined file and the command, and the members that are not in the store either.
    """
    members = reference.get("members")
    if not isinstance(members, list) or len(members) < 2:
        return None
    if not all(isinstance(one, dict) and isinstance(one.get("sha256"), str) for one in members):
        return None
    path = together_file(root, dataset, [one["sha256"] for one in members])
    if path.exists():
        return f"{path}, named after the same teachers, has other bytes: give --teacher {path} to take it"
    files = dict(hashed(teacher_files(root, dataset)))
    places = [str(files.get(one["sha256"], "FILE")) for one in members]
    command = f"`{shlex.join(['ddbench', 'teacher', 'join', *places, '--teachers', str(root)])}` makes it, {path}"
    missing = [named(one) for one in members if one["sha256"] not in files]
    return command + (f", of teachers that are not there either: {'; '.join(missing)}" if missing else "")
