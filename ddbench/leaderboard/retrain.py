"""Training a row of the board again from its synset, on this machine; no code of a submission runs.

Everything comes from the row and the files beside it, whose hashes it names: synset, teacher, stored labels, the
protocol's settings, students, seeds, precision and threads. Training goes through the evaluator, so a verification
that was killed goes on where it was.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.data.specs import is_read_elsewhere
from ddbench.leaderboard.anew import begin_anew, bury, end_anew
from ddbench.leaderboard.attachments import SYNSET, Part, address, beside, check_part, needed
from ddbench.leaderboard.columns import repeated
from ddbench.leaderboard.consistency import protocol_of
from ddbench.leaderboard.coverage import all_checked
from ddbench.leaderboard.described import check_described, searched_otherwise
from ddbench.leaderboard.remeasured import measurements, unmeasured
from ddbench.leaderboard.result import Result, Run
from ddbench.leaderboard.retask import check_tasks, tasks_again
from ddbench.leaderboard.schema import RESULTS, load_results, result_path
from ddbench.leaderboard.verification import Verification, load_verifications, make_verification, write_verification
from ddbench.modalities import modality
from ddbench.runtime.errors import UserError, one_line
from ddbench.runtime.files import check_writable, ensure_writable, text_hash
from ddbench.runtime.jobs import WorkerDied, is_elsewhere
from ddbench.runtime.numbers import check_count
from ddbench.runtime.progress import Console
from ddbench.runtime.shards import WHOLE, Shard, State, Units, run_units

if TYPE_CHECKING:
    from ddbench.evaluation.tasks import Job

MAX_EPOCHS = 100_000
"""No known protocol trains a hundredth of it; a row that asks for more would keep a machine busy for nothing."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """How rows are trained again.

    Attributes:
        root: folder of the board.
        work: folder for the trainings themselves, so that they can be resumed.
        files: parts that do not lie beside the row.
        seeds: None: the row's own runs; else so many new networks a student.
        first_seed: of those; None: the one after the row's last.
        device: ``auto``: the kind of device that the row was evaluated on, where this machine has it.
        threads: 0: as many as the row says, since the last bits depend on it.
        folders: whether a row may name a folder of images on this machine as its dataset.
        measured: whether calibration, robustness, tasks and the like are measured again, where the row has them.
        again: whether rows that have a verification are trained anew, not taken from the work folder.
    """

    root: Path
    work: Path
    files: dict[Part, Path] = field(default_factory=dict)
    data: Path | None = None
    seeds: int | None = None
    first_seed: int | None = None
    device: str = "auto"
    threads: int = 0
    compile: str = "auto"
    workers: int = 1
    folders: bool = False
    measured: bool = False
    again: bool = False
    quiet: bool = False

    @property
    def units(self) -> Units:
        """Who is at which row."""
        return Units(self.work / "units")


@dataclass(frozen=True)
class Outcome:
    """What became of one row: a verification, or why there is none; and what else was found of it."""

    id: str
    verification: Verification | None
    refused: str = ""
    notes: tuple[str, ...] = ()


def choose(
    root: Path, ids: Sequence[str], *, again: bool = False, measured: bool = False, shard: Shard = WHOLE
) -> tuple[list[Result], list[str]]:
    """The rows that are to be trained again, cheapest first, and why others are not.

    Args:
        ids: ids, or beginnings of at least 4 digits; none: all that are not superseded, have their files at hand and
            no verification.
        again: also those that have a verification.
        measured: also those whose verification lacks what else they have.
        shard: its share only, of all rows whether they have a verification or not.

    Raises:
        UserError: no such row, several that begin like this, or the board is broken.
    """
    results, chosen, notes = _candidates(root, ids)
    done = all_checked(results, _verified(root, results, measured))
    own = shard.own(sorted(chosen, key=lambda result: (_seconds(result), result.id)))
    for result in own:
        if result.id in done and not again:
            notes.append(f"{result.id} is verified already: {done[result.id].words}; --again repeats it")
    return [result for result in own if again or result.id not in done], notes


def status(request: Request, ids: Sequence[str]) -> list[State]:
    """What became of each row that :func:`choose` takes, by all processes.

    Raises:
        UserError: as :func:`choose`.
    """
    results, chosen, _ = _candidates(request.root, ids)
    done = _verified(request.root, results, request.measured)
    return request.units.states([result.id for result in chosen], done)


def _verified(root: Path, results: Sequence[Result], measured: bool) -> dict[str, Verification]:
    """Result id -> its verification, where it has all that is asked for.

    Args:
        measured: that is what can be measured again beside the accuracy, too.
    """
    found, rows = load_verifications(root, results), {result.id: result for result in results}
    return {name: one for name, one in found.items() if not (measured and unmeasured(rows[name], one))}


def _candidates(root: Path, ids: Sequence[str]) -> tuple[list[Result], list[Result], list[str]]:
    """All rows, those that are named or could be trained again, and what is to be said of them and of others.

    Raises:
        UserError: as :func:`choose`.
    """
    if not (root / RESULTS).is_dir():
        raise UserError(f"{root}: no leaderboard with results; `ddbench submit RUN --leaderboard {root}` makes one")
    results = load_results(root)
    replaced = {result.supersedes: result.id for result in results}
    chosen = [_one(results, name) for name in dict.fromkeys(ids)]
    notes = [f"{row.id} is superseded by {replaced[row.id]}" for row in chosen if row.id in replaced]
    if not ids:
        for result in (row for row in results if row.id not in replaced):
            missing = [part for part in needed(result) if not beside(root / result_path(result), part).is_file()]
            if missing:
                notes.append(f"{result.id} left out: its {missing[0].name} does not lie beside it")
            else:
                chosen.append(result)
    return results, chosen, notes


def prepare(request: Request, ids: Sequence[str], *, shard: Shard = WHOLE) -> tuple[list[Result], list[str]]:
    """:func:`choose` rows and refuse what can be refused before any is trained: of a row that is named, everything.

    Raises:
        UserError: as :func:`choose`; a file of no single row; another ``compile`` than auto, on or off; a named row
            that cannot be trained again as the request says; board or work folder cannot be written to.
    """
    if request.files and len(ids) != 1:
        raise UserError(f"{next(iter(request.files)).flag}: name the one row that it belongs to")
    if request.compile not in ("auto", "on", "off"):
        raise UserError(f"--compile {request.compile}: expected auto, on or off")
    rows, notes = choose(request.root, ids, again=request.again, measured=request.measured, shard=shard)
    for row in rows if ids else []:
        wanted_runs(row, request)
        job = make_job(row, request)
        if not is_elsewhere():  # there the data need not be here
            check_described(row, job)
        if request.measured:
            measurements(row, job)
            check_tasks(row, request)
    check_writable(request.root / RESULTS)
    ensure_writable(request.work)
    bury(request.root, request.units)
    return rows, notes


def _one(results: Sequence[Result], name: str) -> Result:
    found = [result for result in results if len(name) >= 4 and result.id.startswith(name)]
    if len(found) != 1:
        what = "no row has this id" if not found else f"{len(found)} rows begin like this"
        raise UserError(f"{name!a:.80}: {what}; expected the id of a row (show --ids), or 4 digits or more of it")
    return found[0]


def _seconds(result: Result) -> float:
    cost = result.cost.evaluate
    return float(cost.cpu_seconds) if cost else float("inf")


def verify_rows(request: Request, rows: Sequence[Result], max_seconds: float | None = None) -> Iterator[Outcome]:
    """Train rows again, and write and yield each verification as it is done.

    Args:
        max_seconds: what is unfinished then is stopped, and goes on at the next call. Rows are then trained at once,
            ``workers`` of them, each in a process of its own; so they are, as many as it takes, on another engine.
    """
    job, shared, workers = "ddbench.leaderboard.retrain:verify_row", request, 1
    if max_seconds is not None or is_elsewhere():
        shared, workers = replace(request, workers=1, quiet=True), request.workers
    deadline = None if max_seconds is None else time.monotonic() + max_seconds
    names, verified, tried = [(row.id,) for row in rows], [], 0
    if request.again:
        begin_anew(request.root, request.work, request.units, rows)
    for index, outcome in run_units(
        job, shared, rows, workers, units=request.units, names=names, deadline=deadline, survive=True
    ):
        if isinstance(outcome, WorkerDied):
            outcome = Outcome(rows[index].id, None, one_line(outcome))
        tried += 1
        if outcome.verification is None:
            request.units.fail(outcome.id, outcome.refused)
        else:
            verified.append(outcome.id)
        yield outcome
    if request.again and tried == len(rows):
        end_anew(request.work, verified)


def verify_row(request: Request, result: Result) -> Outcome:
    """Train one row again and write its verification; whatever goes wrong is of this row alone."""
    from ddbench.evaluation.evaluator import evaluate
    from ddbench.runtime import device as devices

    try:
        pairs = wanted_runs(result, request)
        job = make_job(result, request)
        check_described(result, job)
        own_names = modality(result.synset.modality).setting_names
        choices = measurements(result, job) if request.measured else []
        device = devices.describe(devices.resolve_device(job.device))
        kind = {"device": device, "versions": devices.versions(), "threads": job.threads, "compile": job.compile}
        kind |= {} if request.seeds is None else {"runs": pairs}  # so that one that diverges is of this request only
        out = request.work / result.id / f"{text_hash(kind)[:12]}.json"
        difference = {key: value for key, value in result.protocol.changed.items() if key in own_names}
        runs: dict[tuple[str, int], Run] = {}
        searched: dict[str, Any] = {}
        for seeds in dict.fromkeys(map(tuple, pairs.values())):  # students with equal seeds are trained together
            evaluation = evaluate(
                job=job,
                students=[student for student, own in pairs.items() if tuple(own) == seeds],
                seeds=seeds,
                difference=difference,
                out=out,
                workers=request.workers,
                console=Console(request.quiet),
                choices=choices,
            )
            for entry in evaluation.get("diverged", []):
                raise UserError(f"{result.id}: {entry['student']}, seed {entry['seed']}: {entry['diverged']}")
            searched |= evaluation["learning_rates"]
            own = (Run(**{name: run[name] for name in ("student", "seed", "metrics")}) for run in evaluation["runs"])
            runs |= {(run.student, run.seed): run for run in own}
        made = make_verification(
            result,
            [runs[student, seed] for student, seeds in pairs.items() for seed in seeds],
            [name for name in repeated(choice.kind for choice in choices) if name in result.metrics],
            device=device,
            threads=job.threads,
            at_once=job.at_once,
            versions=devices.versions(),
            tasks=tasks_again(result, request, job.synset, job.device) if request.measured else None,
        )
        notes = searched_otherwise(result, searched)
        # On another processor an accuracy of the search may differ where the runs, by chance, do not.
        chosen = [note.line for note in notes if note.chosen]
        if chosen and made.verdict == "identical":
            raise UserError(f"row {result.id}: its runs are identical, its search is not: {'; '.join(chosen)}")
        write_verification(request.root, result, made)
    except UserError as error:
        return Outcome(result.id, None, one_line(error))
    except Exception as error:
        traceback.print_exc()
        return Outcome(result.id, None, one_line(f"{type(error).__name__}: {error}"))
    return Outcome(result.id, made, notes=tuple(note.line for note in notes))


def wanted_runs(result: Result, request: Request) -> dict[str, list[int]]:
    """Student -> seeds that are to be trained.

    Raises:
        UserError: no seeds, or a first one without a number of them.
    """
    own = {student: sorted(run.seed for run in result.runs if run.student == student) for student in result.students}
    if request.seeds is None:
        if request.first_seed is not None:
            raise UserError(f"--first-seed {request.first_seed}: say with --seeds how many")
        return own
    if request.seeds < 1 or (request.first_seed or 0) < 0:
        raise UserError(f"--seeds {request.seeds}: expected at least 1, and --first-seed at least 0")
    check_count("--seeds", request.seeds)
    last = max(seed for seeds in own.values() for seed in seeds)
    first = last + 1 if request.first_seed is None else request.first_seed
    return {student: list(range(first, first + request.seeds)) for student in own}


def make_job(result: Result, request: Request) -> Job:
    """What the evaluator needs to train a row again.

    Raises:
        UserError: a file is not at hand or not the row's, or the row asks for what this machine must not do.
    """
    from ddbench.evaluation.tasks import Job

    where = f"row {result.id}"
    protocol, synset = _protocol(result, where), result.synset
    own = is_read_elsewhere(synset.dataset)
    if own and not request.folders:
        raise UserError(
            f"{where} is of {synset.dataset[:80]}, data of its submitter's own: --allow-folders reads those of "
            "that name on this machine"
        )
    kind = modality(synset.modality)
    files = {part: locate(result, part, request) for part in needed(result)}
    path = files.get(SYNSET) or _real_items(result, request)
    if SYNSET in files:
        _check_numbers(files[SYNSET], result)
    paths = {part.name: place for part, place in files.items()}
    return Job(
        synset=path,
        data=request.data,
        size=kind.side_of_row(synset),
        protocol=protocol,
        device=_device(result, request),
        threads=request.threads or result.threads,
        precision=result.precision,
        compile=request.compile,
        max_images=_max_images(result, where),
        teacher=paths.get("teacher"),
        labels=paths.get("stored labels"),
        at_once=result.at_once,
    )


def _protocol(result: Result, where: str) -> Any:
    kind = modality(result.synset.modality)
    protocol = protocol_of(result.protocol, where, kind.name)
    unknown = set(result.protocol.changed) - kind.setting_names - {"max_images"}
    if unknown:
        raise UserError(f"{where} was measured with an altered {min(unknown)}, which verification does not repeat")
    longest = kind.work(protocol)
    if longest > MAX_EPOCHS:
        raise UserError(f"{where} asks for {longest:,} epochs; verification trains at most {MAX_EPOCHS:,}")
    return protocol


def _max_images(result: Result, where: str) -> int | None:
    count = result.protocol.changed.get("max_images")
    if count is not None and (type(count) is not int or count < 1):
        raise UserError(f"{where}: max_images is {str(count)[:40]!a}, expected a number of test images")
    return count


def locate(result: Result, part: Part, request: Request) -> Path:
    """The file of a part of a row, beside it or given; its hash is compared, nothing is downloaded.

    Raises:
        UserError: it is not there, or another one.
    """
    place = beside(request.root / result_path(result), part)
    if place.is_symlink():
        raise UserError(f"{place}: a link; a board has plain files only")
    given = request.files.get(part)
    if given is not None:
        check_part(given, part, result, limit=None)
        return given
    if place.is_file():
        check_part(place, part, result)
        return place
    url, sha256 = address(result, part), needed(result)[part]
    where = f"fetch it from {url}" if url else "ask who submitted it"
    raise UserError(
        f"row {result.id}: its {part.name} does not lie beside it: {where}, then give {part.flag} FILE "
        f"(sha256 {sha256 or 'not named'})"
    )


def _check_numbers(path: Path, result: Result) -> None:
    """Read the synset in full, so that a malformed one is refused before anything is made."""
    kind, said = modality(result.synset.modality), result.synset
    count = kind.count(kind.read(path))
    if count != said.decoded_images:
        raise UserError(f"{path}: decodes to {count} {kind.items}, row {result.id} says otherwise")


def _device(result: Result, request: Request) -> str:
    own = modality(result.synset.modality).device("auto", "auto")
    if own != "auto":  # of a whole board some rows may be for a GPU; this one is not
        return own
    if request.device != "auto":
        return request.device
    from ddbench.runtime.device import resolve_device

    cost = result.cost.evaluate
    on_cpu = cost is None or not cost.device.startswith("cuda")
    return "cpu" if on_cpu else resolve_device("auto").type


def _real_items(result: Result, request: Request) -> Path:
    """The row of all real items needs no file: they are taken from the dataset, as a run in the work folder."""
    from ddbench.data.load import load_dataset
    from ddbench.leaderboard.references import real_run

    said = result.synset
    own = modality(said.modality)
    if said.method != "full":
        raise UserError(f"row {result.id} claims all real {own.items}, but its method is {said.method}")
    size = own.side_of_row(said)
    dataset = load_dataset(said.dataset, request.data, size=size, modality=own.name)
    if dataset.fingerprint != said.dataset_fingerprint:
        raise UserError(f"row {result.id} is of other {said.dataset} data than this machine has")
    config = said.config if isinstance(said.config, dict) else {}
    kind, holdout = own.real_settings(dataset, said.preprocess, config)
    make = functools.partial(real_run, dataset=dataset, data=request.data)
    key = text_hash([kind, holdout, said.seed, dataset.fingerprint])[:12]
    if kind is None or holdout is None:
        raise UserError(f"row {result.id}: its preprocess or held-out fraction is none that ddbench makes")
    return make(request.work / f"full-{key}", "full", ipc=0, seed=said.seed, holdout=holdout, preprocess=kind)
