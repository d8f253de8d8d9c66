"""Scoring a synset: students x seeds under one protocol; each run is kept as soon as it ends."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddbench.data.augment import parse_strategy
from ddbench.data.dataset import Dataset, Split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import Preprocess
from ddbench.data.specs import resolve_augmentation
from ddbench.evaluate.protocols import Protocol
from ddbench.evaluate.statistics import summarise
from ddbench.networks.build import build_student
from ddbench.networks.names import check_student
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable, file_hash, read_json, write_json, write_text
from ddbench.runtime.jobs import run_jobs
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter, peak_memory
from ddbench.synset import Synset, check_against, read_synset
from ddbench.training.loops import Inputs, OptimizerSettings, accuracy, forward_flops, inputs_of, predict, train

KIND = "ddbench-evaluation"
SCHEMA = 1
Runs = dict[tuple[str, int], Any]
"""What is known of a run, by student and seed."""

COSTS = ("wall_seconds", "cpu_seconds", "peak_memory_bytes")
METRICS = {"accuracy": {"unit": "fraction", "better": "higher", "title": "Test accuracy"}}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker needs to train any student on the synset."""

    synset: Path
    data: Path | None
    size: int | None
    protocol: Protocol
    device: str
    threads: int
    precision: str
    compile: str
    max_images: int | None


def student_lr(synset: Synset, protocol: Protocol) -> float:
    """The learning rate that a protocol uses for a synset.

    Raises:
        UserError: the synset's learned rate is not positive.
    """
    lr = synset.learned_lr
    if not protocol.use_learned_lr or lr is None or lr.ndim:
        return protocol.lr
    if float(lr) <= 0:
        raise UserError(
            f"the synset's learned learning rate is {float(lr):g}, which trains nothing: distil with "
            f"--lr-parametrisation log or a smaller --lr-lr, or evaluate with --protocol dc-legacy (lr {protocol.lr:g})"
        )
    return float(lr)


def train_student(
    synset: Synset, preprocess: Preprocess, test: Split, student: str, seed: int, job: Job, flip: bool
) -> dict[str, Any]:
    """One run: a fresh student is trained on the synset and tested once, on the last epoch's weights."""
    device, protocol = devices.resolve_device(job.device), job.protocol
    _, channels, size, _ = synset.images.shape
    net = build_student(student, channels=channels, size=size, classes=synset.classes, seed=seed).to(device)
    inputs = Inputs(synset.images, synset.labels, preprocess if synset.space == "pixels" else None, device)
    epochs = protocol.full_epochs if synset.budget.unit == "all" else protocol.epochs
    flops = forward_flops(net, inputs.shape) * (3 * len(inputs) * epochs + len(test.labels))
    compiler = devices.choose_compiler(job.compile, flops, device, print)
    last = None
    for last in train(  # noqa: B007 (only the last epoch is looked at)
        net,
        inputs,
        epochs=epochs,
        batch=protocol.batch,
        optimizer=OptimizerSettings(
            name=protocol.optimizer,
            lr=student_lr(synset, protocol),
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        ),
        strategy=parse_strategy(resolve_augmentation(protocol.augmentation, flip)),
        seed=seed,
        decay_after=epochs // 2 + protocol.decay_after,
        rebuild=protocol.rebuild,
        precision=job.precision,
        compiler=compiler,
    ):
        pass
    logits = predict(net, inputs_of(test, preprocess, device), precision=job.precision, compiler=compiler)
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f"{student}, seed {seed}: the student's outputs are not finite after {epochs} epochs at learning rate "
            f"{student_lr(synset, protocol):g} (last training loss {last.loss if last else float('nan'):g})"
        )
    return {"accuracy": accuracy(logits, test.labels)}


@functools.lru_cache(maxsize=1)
def _loaded(synset: Path, sha256: str, data: Path | None, size: int | None) -> tuple[Synset, Preprocess, Dataset]:
    content = read_synset(synset)
    dataset = load_dataset(content.dataset, data, size=size)
    return content, check_against(synset, content, dataset), dataset


def _test_split(dataset: Dataset, max_images: int | None) -> Split:
    return Split(dataset.test.images[:max_images], dataset.test.labels[:max_images])


def run_job(job: Job, payload: tuple[str, int, str]) -> dict[str, Any]:
    """Train and test one student; run by a worker."""
    student, seed, sha256 = payload
    devices.prepare(job.threads)
    meter = Meter()
    synset, preprocess, dataset = _loaded(job.synset, sha256, job.data, job.size)
    metrics = train_student(
        synset, preprocess, _test_split(dataset, job.max_images), student, seed, job, dataset.spec.flip
    )
    cost = {"wall_seconds": meter.wall, "cpu_seconds": meter.cpu, "peak_memory_bytes": peak_memory()}
    return {"student": student, "seed": seed, "metrics": metrics, "cost": cost}


def evaluate(
    *,
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
) -> dict[str, Any]:
    """Score the synset of ``job``; returns the evaluation that is also written to ``out``.

    Runs that ``out`` (finished) or ``out``'s partial file (killed) hold are not repeated. The bytes of ``out`` do not
    depend on the number of workers nor on interruptions; costs go to ``<out stem>.cost.json``.

    Args:
        difference: protocol settings that were altered by flags; not empty: the result is non-standard.

    Raises:
        UserError: the synset, dataset, students and protocol do not fit each other, or ``out`` is another evaluation.
    """
    devices.resolve_device(job.device)
    sha256 = file_hash(job.synset)
    synset, _, dataset = _loaded(job.synset, sha256, job.data, job.size)
    for student in students:
        check_student(student, dataset.spec.channels, dataset.spec.size)
    student_lr(synset, job.protocol)
    parse_strategy(resolve_augmentation(job.protocol.augmentation, dataset.spec.flip))
    if job.max_images is not None:
        if job.max_images < 1:
            raise UserError(f"--max-images {job.max_images}: expected at least 1")
        difference = {**difference, "max_images": job.max_images}
    head = _head(job, synset, sha256, dataset, difference)
    done, costs = _finished(out, head)
    partial = out.with_name(f"{out.stem}.partial.jsonl")
    kept = _read_partial(partial, head)
    for record in kept:
        _take(record, done, costs)
    wanted = [(student, seed) for student in students for seed in seeds]
    todo = [pair for pair in wanted if pair not in done]
    if not todo and not kept:
        console.say(f"finished already: all {len(wanted)} runs are in {out}")
        partial.unlink(missing_ok=True)
        return {**head, **_tables(done)}
    ensure_writable(out.parent)
    if len(todo) < len(wanted):
        console.say(f"{len(wanted) - len(todo)} of {len(wanted)} runs are there; going on with the others")
    if todo:
        try:
            with (
                open(partial, "a") as log,
                console.bar(f"evaluate ({job.protocol.name})", len(wanted), len(wanted) - len(todo)) as bar,
            ):
                if log.tell() == 0:
                    _append(log, {"head": head})
                payloads = [(student, seed, sha256) for student, seed in todo]
                for _, record in run_jobs("ddbench.evaluate.evaluator:run_job", job, payloads, workers):
                    _append(log, record)
                    _take(record, done, costs)
                    bar.advance(f"{record['student']} {record['metrics']['accuracy']:.3f}")
        except OSError as error:
            raise UserError(f"cannot write {partial}: {error.strerror}; the runs so far are kept") from error
    result = {**head, **_tables(done)}
    write_json(out.with_name(f"{out.stem}.cost.json"), _cost_report(list(costs.values()), job))
    write_json(out, result)
    partial.unlink(missing_ok=True)
    return result


def _take(record: dict[str, Any], done: Runs, costs: Runs) -> None:
    """Put one run into the tables."""
    key = _key(record)
    done.setdefault(key, record["metrics"])
    costs[key] = {"student": record["student"], "seed": record["seed"], **record["cost"]}


def _append(log: Any, record: dict[str, Any]) -> None:
    log.write(canonical_json(record) + "\n")
    log.flush()
    os.fsync(log.fileno())


def _head(job: Job, synset: Synset, sha256: str, dataset: Dataset, difference: dict[str, Any]) -> dict[str, Any]:
    """Everything of an evaluation but its runs; two evaluations with equal heads can share runs."""
    real = dataset.train.images.numel()
    lr = synset.learned_lr
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "synset": {
            "sha256": sha256,
            "method": synset.method,
            "dataset": synset.dataset,
            "dataset_fingerprint": synset.fingerprint,
            "modality": synset.modality,
            "budget": {"unit": synset.budget.unit, "value": synset.budget.value},
            "classes": synset.classes,
            "shape": list(synset.images.shape[1:]),
            "images": len(synset.images),
            "label_kind": synset.label_kind,
            "student": synset.student,
            "seed": synset.seed,
            "preprocess": synset.preprocess,
            "config": synset.config,
            "learned_lr": float(lr) if lr is not None and lr.ndim == 0 else None,
            "bytes": synset.storage(real),
        },
        "protocol": {
            "name": job.protocol.name,
            "hash": job.protocol.hash,
            "standard": not difference,
            "changed": difference,
            "settings": job.protocol.settings(),
        },
        "metrics": METRICS,
        "precision": job.precision,
        "threads": job.threads,
        "versions": devices.versions(),
    }


def _finished(out: Path, head: dict[str, Any]) -> tuple[Runs, Runs]:
    """Runs of an earlier, finished evaluation of the same thing, and their costs."""
    if not out.exists():
        return {}, {}
    old = read_json(out, "evaluation")
    if not isinstance(old, dict) or old.get("kind") != KIND:
        raise UserError(f"{out}: not an evaluation; choose another --out")
    _same_head(out, old, head)
    cost = out.with_name(f"{out.stem}.cost.json")
    costs = read_json(cost, "cost record") if cost.exists() else {"runs": []}
    try:
        done = {_key(run): {name: float(run["metrics"][name]) for name in METRICS} for run in old["runs"]}
        spent = {_key(run): {**run, **{name: round(run[name], 3) for name in COSTS}} for run in costs["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{out}: its runs (or their costs beside it) are malformed ({error!r}); remove it") from None
    return done, spent


def _key(run: Any) -> tuple[str, int]:
    return str(run["student"]), int(run["seed"])


def _same_head(place: Path, old: dict[str, Any], head: dict[str, Any]) -> None:
    version = old.get("schema")
    if isinstance(version, int) and version > SCHEMA:
        raise UserError(
            f"{place}: schema {version} was made by a newer ddbench (this one reads up to {SCHEMA}): upgrade, or "
            "choose another --out"
        )
    for name, value in json.loads(canonical_json(head)).items():
        found = old.get(name)
        if found != value:
            part = ""
            if isinstance(value, dict) and isinstance(found, dict):
                part = next((name for name in value if found.get(name) != value[name]), "")
            raise UserError(
                f"{place} holds runs of another evaluation ({name}{'.' + part if part else ''} differs); "
                f"remove it or choose another --out"
            )


def _read_partial(partial: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs of a killed evaluation; a torn last line is dropped."""
    if not partial.exists():
        return []
    text = partial.read_text(errors="replace")
    records, whole = [], ""
    for number, line in enumerate(text.splitlines()):
        try:
            record = json.loads(line)
            if number:
                _take(record, {}, {})
                records.append(record)
            else:
                _same_head(partial, record["head"], head)
        except (ValueError, KeyError, TypeError, AttributeError):
            break
        whole += line + "\n"
    if whole != text:
        write_text(partial, whole)
    return records


def _tables(done: Runs) -> dict[str, Any]:
    runs = [{"student": student, "seed": seed, "metrics": metrics} for (student, seed), metrics in sorted(done.items())]
    summary: dict[str, Any] = {}
    for student in sorted({run["student"] for run in runs}):
        own = [run["metrics"] for run in runs if run["student"] == student]
        summary[student] = {metric: summarise([entry[metric] for entry in own]) for metric in own[0]}
    return {"runs": runs, "summary": summary}


def _cost_report(costs: list[dict[str, Any]], job: Job) -> dict[str, Any]:
    rounded = [
        {name: round(value, 3) if isinstance(value, float) else value for name, value in entry.items()}
        for entry in sorted(costs, key=lambda entry: (entry["student"], entry["seed"]))
    ]
    return {
        "device": devices.describe(devices.resolve_device(job.device)),
        "cores": devices.cores(),
        "wall_seconds": round(sum(entry["wall_seconds"] for entry in rounded), 3),
        "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in rounded), 3),
        "peak_memory_bytes": max(entry["peak_memory_bytes"] for entry in rounded),
        "runs": rounded,
    }
