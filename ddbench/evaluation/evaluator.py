"""Scoring a synset: students x seeds under one protocol; each run is kept as soon as it ends.

Extra measurements (calibration, robustness, corruptions: :mod:`ddbench.measurements.suite`) follow the trainings: the
trained students lie in a folder beside the evaluation while probes are open, and each finding is kept at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.evaluation.kept import Kept, begun_at_once, check_there, cost_path, read_kept, same_head
from ddbench.evaluation.parts import (
    HEAD,
    Writer,
    parts_folder,
    probe_unit,
    rate_unit,
    remove_parts,
    run_unit,
    units_of,
    writers,
    writing,
)
from ddbench.evaluation.probing import build_suites, check_measured, combine, open_probes, write_files
from ddbench.evaluation.record import head_of, whole
from ddbench.evaluation.tasks import Job, load_plan
from ddbench.evaluation.weights import LIMIT, clear
from ddbench.evaluation.work import Work, do
from ddbench.measurements.suite import Choice
from ddbench.measurements.trained import weights_folder
from ddbench.modalities import modality
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, file_hash, read_json, text_hash, write_json
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State
from ddbench.statistics import count_words


def evaluate(
    *,
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice] = (),
    keep_weights: bool = False,
    shard: Shard = WHOLE,
    lost_too: bool = False,
) -> dict[str, Any]:
    """Score the synset of ``job``; returns the evaluation that is also written to ``out``.

    Runs and measurements that ``out`` (finished) or the records beside it (killed) hold are not repeated; a run whose
    student is needed for a measurement and is not there any more is trained again and must give the same accuracy. The
    bytes of ``out`` do not depend on the number of workers nor on interruptions; costs go to ``<out stem>.cost.json``.

    Several processes may extend one ``out`` at once, also on several machines that share the folder: the last one to
    end leaves a result with the runs of all. A student with a seed that diverged has no place in the summary; the seeds
    are told in ``diverged``.

    Args:
        difference: protocol settings that were altered by flags; not empty: the result is non-standard.
        choices: extra measurements.
        keep_weights: the trained students stay beside ``out``, up to :data:`ddbench.evaluation.weights.LIMIT` bytes.
        shard: do its share of the runs only, in blocks of seeds that are trained at once; who finds all of them there
            writes ``out``.
        lost_too: keep an evaluation of which every run diverged, else it is refused.

    Raises:
        UserError: synset, dataset, students, teacher and protocol do not fit each other, or ``out`` is another
            evaluation, or measured otherwise.
        Unfinished: the shard's runs are done, those of other shards are not: ``out`` is as it was.
    """
    work = prepared(job, students, seeds, difference, out, workers, console, choices, shard)
    work.keep_weights, work.lost_too = keep_weights, lost_too
    kept, wanted = work.kept, work.wanted
    if not _left(work, kept) and not kept.fresh and _combined(work):
        console.say(f"finished already: all {len(wanted)} runs are in {out}")
        result = whole(work.head, work.plan, kept)
        write_files(out, work.suites, result, only_missing=True)
        if not writers(parts_folder(out)):
            _clear(work, kept)
        return result
    ensure_writable(out.parent)
    if len(work.missing) < len(work.own):
        there = len(work.own) - len(work.missing)
        console.say(f"{there} of {len(work.own)} runs are there; going on with the others")
    _tell_few(work)
    devices.tell_shared(workers, job.device, console.say)
    folder = parts_folder(out)
    with writing(folder) as writer:
        work.writer = writer
        _enter(work, writer)
        do(work)
        check_there(out, work.head)
        others = set(work.wanted) - set(work.own)
        left = others & _left(work, read_kept(out, work.head)) if others else others
        if left:
            raise shard.unfinished("run", len(work.own), len(left), len(wanted), str(out))
        return _finish(work, writer)


def _tell_few(work: Work) -> None:
    """Say where test images are fewer than the classes."""
    count, (_, dataset) = work.job.max_images, load_plan(work.job, work.sha256)
    there = len(dataset.test.labels.unique())
    if count is not None and count < there:
        work.console.say(f"--max-images {count}: of {count} of {there} classes only")


def status(
    *,
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice] = (),
    keep_weights: bool = False,
) -> list[State]:
    """What became of each unit of :func:`evaluate` with these arguments, by all processes; nothing is written.

    Raises:
        UserError: as :func:`evaluate`.
    """
    work = prepared(job, students, seeds, difference, out, workers, console, choices, WHOLE)
    kept, grid = work.kept, job.protocol.lr_grid if job.protocol.lr_source == "search" else ()
    open_runs = {(student, seed, suite.kind, probe.name) for student, seed, suite, probe in work.open}
    units = {rate_unit(one, rate): rate in kept.searches.get(one, {}) for one in students for rate in grid}
    units |= {run_unit(*pair): kept.tried(*pair) for pair in work.wanted}
    units |= {
        probe_unit(*pair, suite.kind, probe.name): (*pair, suite.kind, probe.name) not in open_runs
        for pair in work.wanted
        for suite in work.suites
        for probe in suite.probes
    }
    return units_of(out).states(list(units), {unit for unit, done in units.items() if done})


def _left(work: Work, kept: Kept) -> set[tuple[str, int]]:
    """Runs of all shards that are not there, or not measured."""
    missing = {pair for pair in work.wanted if not kept.tried(*pair)}
    return missing | {(student, seed) for student, seed, _, _ in open_probes(kept, work.wanted, work.suites)}


def prepared(
    job: Job,
    students: Sequence[str],
    seeds: Sequence[int],
    difference: dict[str, Any],
    out: Path,
    workers: int,
    console: Console,
    choices: Sequence[Choice],
    shard: Shard,
) -> Work:
    """What is to be done; everything is checked, nothing is written."""
    devices.resolve_device(job.device)
    sha256 = file_hash(job.synset)
    plan, dataset = load_plan(job, sha256)
    modality(plan.synset.modality).check(plan, dataset, students, seeds, choices)
    if job.at_once < 1:
        raise UserError(f"--at-once {job.at_once}: expected at least 1")
    if job.max_images is not None:
        if job.max_images < 1:
            raise UserError(f"--max-images {job.max_images}: expected at least 1")
        difference = {**difference, "max_images": job.max_images}
    together = _together(job, plan, students, console)
    if job.at_once > 1 and set(together.values()) == {1}:
        job = replace(job, at_once=begun_at_once(out))  # no run depends on what was asked
    suites = build_suites(choices, plan, dataset)
    head = head_of(job, plan, sha256, dataset, difference)
    kept = read_kept(out, head)
    check_measured(out, kept, suites)
    wanted = [(student, seed) for student in students for seed in seeds]
    if job.compile == "on" and getattr(job.protocol, "replay", False):
        console.say("--compile on: a learned recipe is replayed eagerly, step by step")
    blocks = shard.own(list(dict.fromkeys((student, seed // together[student]) for student, seed in wanted)))
    own = [(student, seed) for student, seed in wanted if (student, seed // together[student]) in blocks]
    return Work(
        job=job,
        plan=plan,
        kept=kept,
        suites=suites,
        sha256=sha256,
        identity=text_hash(head)[:16],
        folder=weights_folder(out),
        workers=workers,
        console=console,
        wanted=wanted,
        own=own,
        missing=[pair for pair in own if not kept.tried(*pair)],
        open=open_probes(kept, own, suites),
        out=out,
        head=head,
        shard=shard,
        together=together,
    )


def _together(job: Job, plan: Any, students: Sequence[str], console: Console) -> dict[str, int]:
    """How many neighbouring seeds of each student one training has: where none are stacked, one."""
    if job.at_once == 1:
        return dict.fromkeys(students, 1)
    found = {}
    for student in students:
        reason = modality(plan.synset.modality).alone(plan, student, job.settings)
        found[student] = job.at_once if reason is None else 1
        if reason is not None:
            console.say(f"--at-once {job.at_once}: the seeds of {student} are trained one after another ({reason})")
    return found


def _combined(work: Work) -> bool:
    """Whether what was measured is in the result."""
    return all(
        (*pair, suite.kind) in work.kept.findings
        for pair in work.wanted
        for suite in work.suites
        if pair[0] not in work.kept.lost()
    )


def _finish(work: Work, writer: Writer) -> dict[str, Any]:
    """Put together what is there, of all processes, and remove the records if this one is the last.

    A process that read before another one wrote may replace a better result by a worse one: the records are there until
    a process finds nobody else at work, and nothing to add.
    """
    job, out = work.job, work.out
    device = devices.hardware(job.device)
    while True:
        kept, result = _put_together(work)
        check_there(out, work.head)
        _check_scored(work, kept, writer)
        write_files(out, work.suites, result)
        write_json(cost_path(out), kept.cost_report(device, devices.cores()))
        write_json(out, result)
        writer.leave()
        if writer.others():
            if work.keep_weights:
                clear(out, keep=True)  # lists them, so that the last one leaves them
            work.console.say(f"another process is at work on {out}; it will add its runs")
            return result
        kept, again = _put_together(work)
        costs = read_json(cost_path(out), "cost record")
        if read_json(out, "evaluation") == again and costs["runs"] == kept.cost_report("", 0)["runs"]:
            _clear(work, kept)
            return result
        _enter(work, writer)


def _enter(work: Work, writer: Writer) -> None:
    """Be known as a writer, of this evaluation.

    Raises:
        UserError: another one is at work there.
    """
    writer.enter()
    same_head(writer.folder / HEAD, writer.claim(HEAD, work.head), work.head)


def _check_scored(work: Work, kept: Kept, writer: Writer) -> None:
    """Refuse an evaluation of which every run diverged.

    Raises:
        UserError: names the first.
    """
    if work.lost_too or any(pair in kept.runs for pair in work.wanted):
        return
    if not writer.others():
        remove_parts([path for path, record in kept.records if "diverged" in record], parts_folder(work.out))
    student, seed = work.wanted[0]
    raise UserError(f"{student}, seed {seed}: {kept.diverged[student, seed]}; no student is left to be scored")


def _put_together(work: Work) -> tuple[Kept, dict[str, Any]]:
    """What result and records hold now, and the evaluation made of it."""
    kept = read_kept(work.out, work.head)
    if open_probes(kept, work.wanted, work.suites):
        raise UserError(f"{work.out}: another process measured with other settings meanwhile; choose another --out")
    combine(kept, work.suites)
    return kept, whole(work.head, work.plan, kept)


def _clear(work: Work, kept: Kept) -> None:
    """Remove the records that are in the result, and the students that are not kept.

    What was begun with other measurements stays for who goes on.
    """
    begun = {
        str(record["kind"])
        for _, record in kept.records
        if "probe" in record
        and record["settings"] == kept.identity(record["kind"])
        and (record["student"], record["seed"], record["kind"]) not in kept.findings
        and record["student"] not in kept.lost()
    }
    left = [path for path, record in kept.records if {record.get("measured"), record.get("kind")} & begun]
    remove_parts([path for path, _ in kept.records if path not in left], parts_folder(work.out))
    found = clear(work.out, work.keep_weights) if work.keep_weights or not left else None
    if found is None or not work.keep_weights:
        return
    students = count_words(len(kept.runs), "student")
    said = f"{found.files} of {students} kept, {found.bytes / 1e6:.1f} MB: {work.folder}"
    if found.left_out:
        said += f"; more would be beyond {LIMIT / 1e9:g} GB"
    elif found.files < len(kept.runs):
        said += "; the others were trained before, without --keep-weights"
    work.console.say(said)
