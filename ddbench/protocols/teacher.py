"""Which teacher a verb takes: the flag's, the synset's own, or the best one that fits. No torch at module level."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.data.specs import DATASETS, dataset_flags, preprocess_kind
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import file_hash, read_json
from ddbench.teachers.remedy import ROOT, how_to_join, named

if TYPE_CHECKING:
    from ddbench.data.preprocess import Preprocess
    from ddbench.protocols.protocol import Protocol
    from ddbench.synset import Synset
    from ddbench.teachers.store import Teacher


def choose_teacher(
    root: Path,
    synset: Synset,
    *,
    given: Path | None = None,
    student: str | None = None,
    earlier: str | None = None,
    preprocess: Preprocess | None = None,
) -> Teacher | None:
    """The teacher of a synset; None where there is none.

    In this order: the file that is given; the synset's own, and then no other; that of an earlier try; of those that
    were trained on the synset's data the best on its held-out images.

    Args:
        root: root of the teachers.
        given: file that a flag names.
        student: canonical name of the architecture that is asked for; the synset's own is then passed over.
        earlier: sha256 of the teacher that an earlier try had.
        preprocess: the transform of its input; default: the synset's.

    Raises:
        UserError: the given file is no teacher, or one that might fit cannot be read.
    """
    from ddbench.teachers.store import find_teacher, read_teacher

    if given is not None:
        return read_teacher(given)
    if synset.teacher is not None and student is None:
        return find_teacher(root, sha256=synset.teacher["sha256"])
    fitting = functools.partial(
        find_teacher, root, dataset=synset.dataset, fingerprint=synset.fingerprint, student=student
    )
    found = fitting(sha256=earlier) if earlier else None
    return found or fitting(preprocess=synset.preprocess if preprocess is None else preprocess.to_json())


def _kind(synset: Synset) -> str | None:
    """The word for a synset's preprocess; None: its numbers have none."""
    name, own = synset.dataset, synset.preprocess
    known = name in DATASETS
    found = preprocess_kind(own, (DATASETS[name].mean, DATASETS[name].std) if known else ((), ()))
    return found or (None if known and "mean" in own else str(own.get("kind")))


def recorded(begun: Sequence[Path], path: Path) -> Iterator[str]:
    """sha256 of each teacher that these JSON files say with which this synset's file was scored.

    An evaluation keeps a teacher's reference, scores its hash.
    """
    for place in begun:
        try:
            record = read_json(place, "record")
        except UserError:  # not there, or damaged: whoever reads all of it tells
            continue
        synset, teacher = (record.get(name) for name in ("synset", "teacher")) if isinstance(record, dict) else (0, 0)
        sha256 = teacher.get("sha256") if isinstance(teacher, dict) else teacher
        if isinstance(sha256, str) and isinstance(synset, dict) and synset.get("sha256") == file_hash(path):
            yield sha256


def protocol_teacher(
    wanted: Protocol,
    synset: Synset,
    *,
    given: Path | None,
    root: Path,
    path: Path | None = None,
    begun: Sequence[Path] = (),
) -> Teacher | None:
    """The teacher for training on a synset under a protocol; None for a protocol without one.

    What goes on keeps its teacher, though a better one may have come into the store since.

    Args:
        given: file that a flag names.
        root: root of the teachers.
        path: the synset's file; None: nothing is gone on with.
        begun: JSON files of what is gone on with, which say their teacher; those of other synsets are passed over.

    Raises:
        UserError: there is none, and the message says which command makes one; one was given that nothing needs; or
            as :func:`choose_teacher`.
    """
    if not wanted.needs_teacher:
        if given is not None:
            raise UserError(f"--teacher: protocol {wanted.name} has no teacher; use e.g. --protocol kd-v1")
        return None
    from ddbench.teachers.store import find_teacher

    earlier = list(recorded(begun, path)) if given is None and path is not None else []
    found = next(filter(None, (find_teacher(root, sha256=sha256) for sha256 in earlier)), None)
    found = found or choose_teacher(root, synset, given=given)
    if found is None:
        own, kind = synset.teacher, _kind(synset)
        if own is None and earlier:
            raise UserError(
                f"protocol {wanted.name}: {path} was begun with a teacher (sha256 {earlier[0][:12]}) that is not in "
                f"{root}; give --teacher FILE, that one, or --teachers DIR"
            )
        missing = (
            f"the synset's own teacher ({named(own)})"
            if own is not None
            else f"a teacher of {synset.dataset} with {f'preprocess {kind}' if kind else 'its own mean and std'}"
        )
        if own is not None:
            join = how_to_join(root, synset.dataset, own)
            remedy = f"does not hold it: {join}; or give" if join else "does not hold it: give"
            remedy += " --teacher FILE, that one or another, or --teachers DIR"
        else:
            command = ["ddbench", "teacher", *dataset_flags(synset.dataset, synset.images.shape[-1])]
            command += ["--preprocess", kind] if kind not in (None, "meanstd") else []
            command += ["--teachers", str(root)] if root != ROOT else []
            remedy = f"holds none: train one with `{shlex.join(command)}`, or give --teacher FILE"
        raise UserError(f"protocol {wanted.name} needs {missing}, and {root} {remedy}")
    return found
