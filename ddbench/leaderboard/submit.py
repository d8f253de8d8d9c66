"""From an evaluated run to a row: the result, and what goes beside it, put into the board's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.evaluation.result import without_students
from ddbench.leaderboard.attachments import IMPORTED, LABELS, SYNSET, TEACHER, beside, check_own_labels, needed
from ddbench.leaderboard.evaluated import COPIED, evaluation_path, read_evaluation, run_folder, standard_evaluations
from ddbench.leaderboard.packing import NEEDED, Given, Item, find_part, hash_of, pack
from ddbench.leaderboard.recorded import read_cost, read_scores, read_tasks
from ddbench.leaderboard.result import KIND, SCHEMA, Result
from ddbench.leaderboard.rows import RANDOM, REFERENCES
from ddbench.leaderboard.schema import (
    MAX_RESULT_BYTES,
    check_result,
    is_url,
    read_result,
    result_folder,
    result_id,
    result_path,
    same_subject,
    write_result,
)
from ddbench.leaderboard.superseding import check_nothing_lost, with_words_of
from ddbench.leaderboard.verification import SUFFIX
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_bytes, read_json, write_bytes
from ddbench.runtime.signs import turn

COPIED_IF_THERE = ("details", "measured")
CODE = "code"
NOT_RECIPE = (
    CODE,
    "kind",
    "schema",
    "config",
    "versions",
    "dataset",
    "dataset_fingerprint",
    "preprocess",
    "seed",
    "student",
)
"""Parts of a run's configuration that a row has already."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a submitter says about a row; everything else is measured.

    Attributes:
        method: name of the method of an imported synset that has none.
        method_title: how the method is called on the board.
        authors: who submits.
        links: http(s) addresses (paper, project).
        code: http(s) address of the code.
        licence: of the synset.
        note: a few sentences.
        claims: ``(student, value)``: what the authors report, to stand beside what was measured.
        claim_source: where they report it: one for all claims, or one each.
        synset_url, teacher_url, labels_url: where files lie that are too large to lie beside the row.
        leave_out: students of the evaluation that are not on the row, such as those that diverged.
        tasks: results of `ddbench task` that have the synset.
    """

    method: str = ""
    method_title: str = ""
    authors: Sequence[str] = ()
    links: Sequence[str] = ()
    code: str = ""
    licence: str = ""
    note: str = ""
    claims: Sequence[tuple[str, float]] = ()
    claim_source: str | Sequence[str] = ""
    synset_url: str = ""
    teacher_url: str = ""
    labels_url: str = ""
    leave_out: Sequence[str] = ()
    tasks: Sequence[Path] = ()

    def sources(self) -> list[str]:
        """Where each claim is reported.

        Raises:
            UserError: neither one source nor one a claim.
        """
        given = [self.claim_source] if isinstance(self.claim_source, str) else list(self.claim_source)
        if len(given) <= 1:
            return [*given, ""][:1] * len(self.claims)
        if len(given) != len(self.claims):
            raise UserError(
                f"{len(given)} --claim-source for {len(self.claims)} --claim: give one for all, or one each"
            )
        return given


@dataclass(frozen=True)
class Plan:
    """What a submission writes.

    Attributes:
        result: the row.
        path: its file.
        known: the board has the row already.
        attachments: files beside it that are to be written.
        items: what the submission has and what it lacks.
        kept: what it says as the row that it takes the place of, since the submitter said nothing of it.
    """

    result: Result
    path: Path
    known: bool
    attachments: dict[Path, bytes] = field(repr=False)
    items: tuple[Item, ...]
    kept: tuple[str, ...] = ()

    @property
    def lacks(self) -> list[Item]:
        """What is needed for training the row again, and missing."""
        return [item for item in self.items if item.group == NEEDED and not item.there]


def parse_claim(text: str) -> tuple[str, float]:
    """``student=0.887`` as a pair.

    Raises:
        UserError: another form, or not a fraction.
    """
    student, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        raise UserError(f"--claim {text}: expected STUDENT=FRACTION, such as convnet-d3-w128-in=0.887") from None
    if not 0 <= value <= 1:
        raise UserError(f"--claim {text}: expected a fraction between 0 and 1, such as 0.887 for 88.7 %")
    return student, value


def make_result(
    run: Path, protocol: str | None = None, submission: Submission | None = None, given: Given | None = None
) -> Result:
    """The result of an evaluated run.

    Args:
        run: folder of ``ddbench distill`` or ``ddbench import``, scored by ``ddbench evaluate``.
        protocol: name of the evaluation, when there are several.
        given: where files are that the evaluation used, if not where they usually are.

    Raises:
        UserError: no evaluation, several and none named, an evaluation of another synset or with other stored labels,
            or a value that the schema refuses.
    """
    submission = submission or Submission()
    for address in filter(None, (*submission.links, submission.code, *_urls(submission).values())):
        if not is_url(address):
            raise UserError(
                f"{address!r} is not an http(s) address; --link, --code and --...-url take https://... only"
            )
    path = evaluation_path(run, protocol)
    evaluation = without_students(read_evaluation(path), path, submission.leave_out)
    content: dict[str, Any] = {"kind": KIND, "schema": SCHEMA, "supersedes": None}
    content |= {name: evaluation[name] for name in COPIED}
    content |= {name: evaluation[name] for name in COPIED_IF_THERE if name in evaluation}
    content["cost"] = {
        "distill": read_cost(run / "cost.json"),
        "evaluate": read_cost(path.with_name(f"{path.stem}.cost.json"), submission.leave_out),
    }
    config = _config(run)
    recipe = {name: value for name, value in config.items() if name not in NOT_RECIPE}
    if recipe:
        content["recipe"] = recipe
    if config.get(CODE) is not None:
        content[CODE] = config[CODE]
    content["submission"] = said = _said(submission)
    result = _named(content, str(path))
    if submission.method:
        content["synset"] = {**content["synset"], "method": _method(result, submission.method)}
    for (student, value), source in zip(submission.claims, submission.sources(), strict=True):
        known = result.students
        if student not in known:
            near = suggest(student, known)
            raise UserError(f"--claim {student}: not evaluated{near}; students of {path.name}: {', '.join(known)}")
        said["claims"].append({"student": student, "metric": result.main_metric, "value": value, "source": source})
    scores = read_scores(run / "scores" / path.name, result)
    if scores:
        content["scores"] = scores
    if submission.tasks:
        content["tasks"] = read_tasks(submission.tasks, result)
    if result.labels is not None:
        labels = find_part(run, LABELS, None, given or Given())
        if labels is not None:
            check_own_labels(labels, result)
            said["labels_sha256"] = hash_of(labels)
    result = _named(content, str(path))
    find_part(run, SYNSET, needed(result).get(SYNSET, result.synset.sha256), given or Given())
    return result


def _urls(submission: Submission) -> dict[str, str]:
    found = {name: getattr(submission, name) for name in ("synset_url", "teacher_url", "labels_url")}
    return {name: url for name, url in found.items() if url}


def _said(submission: Submission) -> dict[str, Any]:
    return {
        "method_title": submission.method_title,
        "authors": list(submission.authors),
        "links": list(submission.links),
        "code": submission.code,
        "licence": submission.licence,
        "note": submission.note,
        "claims": [],
        **_urls(submission),
    }


def _method(result: Result, name: str) -> str:
    own = result.synset.method
    if own == IMPORTED and name in REFERENCES:
        raise UserError(f"--method {name}: what other rows are compared with, drawn here; choose another name")
    if own not in (IMPORTED, name):
        raise UserError(f"--method {name}: the synset was made by {own}; only an imported synset can be named")
    return name


def _config(run: Path) -> dict[str, Any]:
    """The run's configuration; empty where there is none."""
    path = run / "config.json"
    config = read_json(path, "run configuration", MAX_RESULT_BYTES) if path.is_file() else None
    return config if isinstance(config, dict) else {}


def plan_submission(run: Path, board: Path, result: Result, given: Given | None = None) -> Plan:
    """Find the place of a result on the board, and what goes with it. Writes nothing.

    A result of the same synset under the same protocol that has no more runs is superseded; what it says, and this one
    says nothing of, stays.

    Raises:
        UserError: the board has more runs of the same thing, one of its files is broken, or a file beside is.
    """
    earlier = _earlier(board, result)
    replaced = {old.supersedes for old in earlier}
    latest = max(
        (old for old in earlier if old.id not in replaced),
        key=lambda old: (len(old.runs), old.id),
        default=None,
    )
    kept: tuple[str, ...] = ()
    if latest is not None:
        content, kept = with_words_of(latest, result)
        result = _named(content, str(run))
    for old in earlier:
        if _content(old) == _content(result):
            path = board / result_path(old)
            package = pack(run, path, old, given or Given())
            lacking = {place: data for place, data in package.files.items() if not place.exists()}
            return Plan(old, path, True, lacking, tuple(package.items))
    if latest is not None and len(latest.runs) > len(result.runs):
        raise UserError(
            f"the board has {len(latest.runs)} runs of this synset under this protocol ({latest.id}), this "
            f"evaluation has {len(result.runs)}: evaluate with more --seeds or --students, then submit again"
        )
    if latest is not None:
        check_nothing_lost(latest, result, run)
    result = _named({**result.to_json(), "supersedes": latest.id if latest else None}, str(run))
    path = board / result_path(result)
    if path.exists():
        if any(_content(old) == _content(result) for old in _earlier(board, result)):  # from another process, just now
            return plan_submission(run, board, result, given)
        raise UserError(f"{path}: another row has this id; add a --note, which gives this one an id of its own")
    package = pack(run, path, result, given or Given())
    return Plan(result, path, False, package.files, tuple(package.items), kept)


def plan_submissions(
    run: Path,
    board: Path,
    submission: Submission,
    given: Given,
    *,
    protocol: str | None = None,
    every: bool = False,
) -> list[Plan]:
    """:func:`plan_submission` of one evaluation, or of every standard one; all are checked before anything is written.

    Raises:
        UserError: a name and all of them, or as :func:`make_result` and :func:`plan_submission`.
    """
    if every and protocol is not None:
        raise UserError(f"--all --protocol {protocol}: give one of the two")
    names = standard_evaluations(run) if every else [protocol]
    results = [make_result(run, name, submission, given) for name in names]
    return [plan_submission(run, board, result, given) for result in results]


def submit_run(
    place: Path,
    board: Path,
    submission: Submission,
    given: Given,
    *,
    protocol: str | None = None,
    every: bool = False,
    dry_run: bool = False,
) -> Iterator[tuple[Plan, list[Path]]]:
    """Put an evaluation of a run on a board, or every standard one; one process at a time writes to a board.

    Everything is planned before the first row is written, and each is handed on as soon as it is: a disk that refuses
    a later one leaves no row untold.

    Args:
        place: folder of the run, or the synset file in it.
        dry_run: write nothing.

    Yields:
        What was planned, each with the files that were written.

    Raises:
        UserError: no such run, or as :func:`plan_submissions` and :func:`write_plan`.
    """
    run = run_folder(place)

    def planned() -> list[Plan]:
        return plan_submissions(run, board, submission, given, protocol=protocol, every=every)

    plans = planned()
    if dry_run or not any(plan.attachments or not plan.known for plan in plans):
        yield from ((plan, []) for plan in plans)
        return
    with turn(board / "submit", "board"):  # so that what another process added is known
        for plan in planned():
            yield plan, write_plan(plan)


def _earlier(board: Path, result: Result) -> list[Result]:
    """Rows of the same subject; whoever submitted them may have called the method otherwise."""
    synset = result.synset
    cell = board / result_folder(result).parent
    sha256 = synset.sha256.encode()
    found = []
    for path in sorted(cell.glob("*/*.json")):
        if path.name.endswith(SUFFIX) or sha256 not in read_bytes(path, "result file", MAX_RESULT_BYTES):
            continue
        old = read_result(path)
        if same_subject(old) == same_subject(result):
            found.append(old)
    return found


def other_teachers(board: Path, result: Result) -> list[Path]:
    """Where the teachers lie that labelled random images in a row's table, as far as they are not the row's own.

    Rows that two teachers labelled differ by more than their images. Broken rows are for ``leaderboard check`` to tell.
    """
    if not result.labeller:
        return []
    folder, rows = board / result_folder(result).with_name(RANDOM), {}
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(SUFFIX):
            with contextlib.suppress(UserError):
                rows[path] = read_result(path)
    replaced = {row.supersedes for row in rows.values()}
    found = {
        str(row.labeller): beside(path, TEACHER)
        for path, row in rows.items()
        if row.id not in replaced
        and (row.protocol.hash, row.precision) == (result.protocol.hash, result.precision)
        and row.synset.dataset_fingerprint == result.synset.dataset_fingerprint
        and row.labeller not in (None, result.labeller)
    }
    return list(found.values())


def write_plan(plan: Plan) -> list[Path]:
    """Write a planned submission, the result last, and return the files; of a known one only what was not there.

    Raises:
        UserError: the folder cannot be written to.
    """
    for path, data in plan.attachments.items():
        write_bytes(path, data)
    if plan.known:
        return list(plan.attachments)
    write_result(plan.path, plan.result)
    return [*plan.attachments, plan.path]


def _content(result: Result) -> dict[str, Any]:
    """What makes it another row: neither what it cost, nor which version of the code gave these very numbers."""
    left = ("id", "cost", "code", "supersedes")
    return {name: value for name, value in result.to_json().items() if name not in left}


def _named(content: dict[str, Any], where: str) -> Result:
    """The row of a content, which gets its id."""
    try:
        name = result_id(content)
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: a text in it is no Unicode (half a character); the run's files are damaged"
        ) from None
    return check_result({**content, "id": name}, where)
