"""Making stored labels: a teacher labels the view of every image in every epoch (relabel, as in FKD and SRe2L).

The file may be tens of GB and hours in the making, so it is written in place, epoch by epoch, under a name of its own
(``.labels.safetensors.partial``) beside a small record of how far it is, and renamed at the end. A killed run goes on
at the last whole epoch and ends in the same bytes: every draw is named by seed and epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ddbench.protocols.labels import (
    KIND,
    MAX_LABELS,
    SCHEMA,
    StoredLabels,
    label_bytes,
    label_prefix,
    probe_of,
    read_labels,
)
from ddbench.protocols.plan import Plan, view_settings
from ddbench.protocols.targets import teacher_labels
from ddbench.protocols.training import Settings
from ddbench.runtime import device as devices
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable, gone, plain_or_absent, read_json, write_json
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.signs import end_turn, turn
from ddbench.runtime.tensors import open_tensors
from ddbench.teachers.store import Teacher
from ddbench.training.loops import Inputs, Labels, views

PROGRESS_KIND = "ddbench-labels-progress"

SAVE_SECONDS = 1.0
"""A kill loses no more work than this: epochs are recorded as done at most so often, each time after a sync."""


def check_relabel(plan: Plan, epochs: int, seed: int, out: Path) -> None:
    """Refuse what needs no teacher to be refused, before one is trained.

    Raises:
        UserError: a protocol that learns from no teacher, fewer than one epoch, a negative seed, an unknown
            augmentation, something else at ``out``, a folder that cannot be written to, or too little space there.
    """
    protocol = plan.protocol
    if protocol.labels not in ("stored", "teacher"):
        raise UserError(
            f"protocol {protocol.name} takes its labels from the synset ({protocol.labels!r}), there is nothing to "
            "store; use --protocol fkd"
        )
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: expected at least 1")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected at least 0")
    plan.policy  # noqa: B018 (parsed, so that a wrong name is told now)
    if out.is_dir():
        raise UserError(f"--out {out}: a folder, expected the name of a file")
    plain_or_absent(_partial_paths(out)[0], "unfinished label file")
    if out.exists():
        try:
            found = read_labels(out)
        except UserError as error:
            raise UserError(f"{error}; choose another --out, or remove this file if nothing needs it") from None
        _same(out, found, _subject(plan, seed), epochs)
    else:
        _check_space(plan, epochs, out)


def _subject(plan: Plan, seed: int) -> dict[str, Any]:
    """What labels are of, whoever gives them."""
    return {
        "synset_sha256": plan.synset_sha256,
        "views": view_settings(plan),
        "seed": seed,
        "images": plan.synset.decoded_images,
        "classes": plan.synset.classes,
    }


def _same(out: Path, found: StoredLabels, subject: dict[str, Any], epochs: int) -> None:
    """Refuse labels of something else, or of fewer epochs.

    Raises:
        UserError: names what differs.
    """
    for name, value in subject.items():
        old = getattr(found, name)
        if old != value:
            for part in value if isinstance(value, dict) else ():
                if old.get(part) != value[part]:
                    name, old, value = f"{name}.{part}", old.get(part), value[part]
                    break
            raise UserError(
                f"{out} holds other labels ({name} {str(old)[:60]}, not {str(value)[:60]}); choose another --out, or "
                "remove that file"
            )
    if found.epochs < epochs:
        raise UserError(
            f"{out} holds labels of {found.epochs} epochs, not {epochs}; choose another --out, or remove that file"
        )


def _check_space(plan: Plan, epochs: int, out: Path) -> None:
    folder = next((one for one in out.absolute().parents if one.exists()), Path())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UserError(f"--out {out}: cannot write to {folder}; choose a folder you may write to")
    images, classes = plan.synset.decoded_images, plan.synset.classes
    wanted = label_bytes(epochs, images, classes)
    product = f"{epochs} epochs x {images} images x {classes} classes x 2 bytes"
    if wanted > MAX_LABELS:
        most = MAX_LABELS // (wanted // epochs)
        lower = f"lower --epochs to {most} or less, " if most else ""
        raise UserError(
            f"{out}: the labels would take {wanted:,} bytes ({product}), more than the {MAX_LABELS:,} that are read: "
            f"{lower}take a synset of fewer images, or evaluate with --protocol kd-v1, whose teacher labels without "
            "storing"
        )
    partial, _ = _partial_paths(out)
    there = getattr(partial.stat(), "st_blocks", 0) * 512 if partial.exists() else 0
    free = shutil.disk_usage(folder).free
    if wanted > free + there:
        raise UserError(
            f"{out}: the labels take {_size(wanted)} ({product}), but {folder} has {_size(free + there)}: free some "
            "space, choose another --out, lower --epochs, or evaluate with --protocol kd-v1, whose teacher labels "
            "without storing"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _partial_paths(out: Path) -> tuple[Path, Path]:
    """The unfinished file, and the record of how far it is."""
    return out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.partial.json")


def earlier_try(out: Path) -> tuple[str | None, int]:
    """sha256 of the teacher, and threads, of the labels at ``out``, or of what a killed run left; None and 0 for none.

    The same command must go on with them, though a better teacher may have come into the store since.
    """
    for path in (out, _partial_paths(out)[0]):
        try:
            with open_tensors(path, KIND, SCHEMA) as (_, header):
                teacher = header.get("teacher")
        except UserError:
            continue
        if isinstance(teacher, dict) and isinstance(teacher.get("sha256"), str):
            return str(teacher["sha256"]), devices.threads_of(header)
    return None, 0


def relabel(
    *,
    plan: Plan,
    teacher: Teacher,
    epochs: int,
    seed: int,
    out: Path,
    settings: Settings,
    console: Console,
) -> StoredLabels:
    """Label the views of every epoch and store the logits at ``out``; the cost goes to ``<out stem>.cost.json``.

    A killed run goes on at the last whole epoch (what another configuration left is begun again), and ends in the same
    bytes; a finished file of at least so many epochs is left as it is. The teacher must have been checked
    (:func:`ddbench.teachers.store.check_teacher`).

    Args:
        plan: the synset and the protocol whose views are labelled.
        seed: names order and augmentation of the views.

    Raises:
        UserError: as :func:`check_relabel`; ``out`` holds other labels; logits that are not finite in float16; the disk
            refuses.
    """
    check_relabel(plan, epochs, seed, out)
    meter = Meter()
    device = devices.resolve_device(settings.device)
    subject = {
        **_subject(plan, seed),
        "teacher": json.loads(canonical_json(teacher.reference())),
        "precision": settings.precision,
    }
    if out.exists():
        return _finished(out, subject, epochs, console)
    devices.prepare(settings.threads, say=console.say)
    inputs = plan.inputs(device)
    label = teacher_labels(teacher, plan.protocol, device, settings.precision)

    def logits_of(epoch: int) -> Tensor:
        return _epoch(plan, inputs, label, seed, epoch, teacher)

    header = {
        "kind": KIND,
        "schema": SCHEMA,
        **subject,
        "epochs": epochs,
        "probe": _first_probe(plan, inputs, label, seed, teacher),
        "dataset": plan.synset.dataset,
        "dataset_fingerprint": plan.synset.fingerprint,
        "device": device.type,
        "threads": settings.threads,
        "versions": devices.versions(),
    }
    shape = (epochs, subject["images"], subject["classes"])
    with turn(out, "label file", console.say, meter):
        if out.exists():  # another process made it meanwhile
            return _finished(out, subject, epochs, console)
        _write(out, header, shape, logits_of, meter, devices.describe(device), console)
    return read_labels(out)


def _finished(out: Path, subject: dict[str, Any], epochs: int, console: Console) -> StoredLabels:
    """The labels at ``out``, if they are the wanted ones.

    Raises:
        UserError: they are others, or fewer, or hold NaN.
    """
    found = read_labels(out)
    _same(out, found, subject, epochs)
    found.verify()
    for left in _partial_paths(out):
        left.unlink(missing_ok=True)
    end_turn(out)
    console.say(f"finished already: {out}")
    return found


def _first_probe(plan: Plan, inputs: Inputs, label: Labels, seed: int, teacher: Teacher) -> dict[str, Any]:
    """Of the first view; its labels are checked too, so that a broken teacher is refused before anything is written."""
    with seeds.isolated(seed, "dropout", 0):
        view = next(views(inputs, batch=plan.batch, policy=plan.policy, seed=seed, epoch=0))
        _halved(label(view), view.index, 0, teacher)
    return probe_of(view)


def _epoch(plan: Plan, inputs: Inputs, label: Labels, seed: int, epoch: int, teacher: Teacher) -> Tensor:
    """Logits of an epoch's views, float16 ``(N, K)`` on the CPU."""
    made = torch.empty(len(inputs), plan.synset.classes, dtype=torch.float16)
    # Named by the epoch: a teacher with dropout in batch mode draws the same after a resume.
    with seeds.isolated(seed, "dropout", epoch):
        for view in views(inputs, batch=plan.batch, policy=plan.policy, seed=seed, epoch=epoch):
            made[view.index.cpu()] = _halved(label(view), view.index, epoch, teacher)
    return made


def _halved(logits: Tensor, index: Tensor, epoch: int, teacher: Teacher) -> Tensor:
    """Logits as float16 on the CPU.

    Raises:
        UserError: NaN, or beyond float16's range.
    """
    made = logits.half().cpu()
    bad = ~torch.isfinite(made).all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise UserError(
            f"{teacher.path}: its logits of image {int(index[row])} in epoch {epoch} reach "
            f"{float(logits[row].abs().max()):g}, expected finite values up to 65504 (float16); train another teacher"
        )
    return made


def _write(
    out: Path,
    header: dict[str, Any],
    shape: tuple[int, int, int],
    logits_of: Callable[[int], Tensor],
    meter: Meter,
    hardware: str,
    console: Console,
) -> None:
    """Fill the partial file epoch by epoch and put it into place."""
    prefix, epochs = label_prefix(header, shape), shape[0]
    partial, progress = _partial_paths(out)
    key = hashlib.sha256(prefix).hexdigest()
    ensure_writable(out.parent)
    with _writing(partial) as handle:
        done = _resume(handle, progress, prefix, key, shape, meter, console)

        def save() -> None:
            if not partial.exists():  # what is written now would make a folder that holds nothing but it
                raise gone(partial)
            handle.flush()
            os.fsync(handle.fileno())
            spent = {"wall_seconds": meter.wall, "cpu_seconds": meter.cpu}
            write_json(progress, {"kind": PROGRESS_KIND, "header": key, "epochs": done, **spent})

        saved = time.monotonic()
        try:
            with console.bar("relabel", epochs, done) as bar:
                while done < epochs:
                    try:
                        rows = logits_of(done).numpy().astype("<f2", copy=False)
                    except UserError:  # going on would end there again
                        for left in (partial, progress):
                            left.unlink(missing_ok=True)
                        raise
                    handle.seek(len(prefix) + done * rows.nbytes)
                    handle.write(rows.data)
                    done += 1
                    bar.advance()
                    if time.monotonic() - saved >= SAVE_SECONDS:
                        save()
                        saved = time.monotonic()
            save()
        except KeyboardInterrupt:
            save()
            raise
        write_json(out.with_name(f"{out.stem}.cost.json"), meter.report(hardware, epochs=epochs))
    os.replace(partial, out)
    progress.unlink(missing_ok=True)


@contextmanager
def _writing(partial: Path) -> Iterator[BinaryIO]:
    """The partial file, opened without touching what is in it, for this process alone where the system can lock.

    Raises:
        UserError: another process has it, or the disk refuses.
    """
    try:
        partial.touch()
        with open(partial, "r+b") as handle:
            _lock(handle, partial)
            yield handle
    except OSError as error:
        raise UserError(
            f"cannot write {partial}: {error.strerror or error}; free some space and repeat the command, it goes on "
            "where it was"
        ) from error


def _lock(handle: BinaryIO, partial: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{partial}: another ddbench relabel is writing it; wait for it, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        return


def _resume(
    handle: BinaryIO,
    progress: Path,
    prefix: bytes,
    key: str,
    shape: tuple[int, int, int],
    meter: Meter,
    console: Console,
) -> int:
    """Epochs that an earlier try of the same configuration finished; what another one left is begun again."""
    size, found = len(prefix) + label_bytes(*shape), handle.seek(0, os.SEEK_END)
    handle.seek(0)
    if found == size and handle.read(len(prefix)) == prefix:
        done, meter.earlier_wall, meter.earlier_cpu = _progress(progress, key, shape[0])
        if done:
            console.say(f"going on at epoch {done} of {shape[0]}")
            return done
    elif found:
        console.say(
            f"starting again: {handle.name} was left by a run of other settings, device, threads, teacher, synset or "
            "versions"
        )
    progress.unlink(missing_ok=True)
    handle.truncate(0)
    handle.seek(0)
    handle.write(prefix)
    handle.truncate(size)
    return 0


def _progress(path: Path, key: str, epochs: int) -> tuple[int, float, float]:
    """Epochs done, wall and CPU seconds; zeros where the record is missing, malformed or of another file."""
    try:
        data = read_json(path, "progress record")
    except UserError:
        return 0, 0.0, 0.0
    if not isinstance(data, dict) or data.get("kind") != PROGRESS_KIND or data.get("header") != key:
        return 0, 0.0, 0.0
    done, wall, cpu = (data.get(name) for name in ("epochs", "wall_seconds", "cpu_seconds"))
    if type(done) is not int or not 0 <= done <= epochs or type(wall) is not float or type(cpu) is not float:
        return 0, 0.0, 0.0
    return done, wall, cpu
