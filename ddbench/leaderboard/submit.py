"""From an evaluated run to a row: the result, its preview and its synset, put into the board's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ddbench.leaderboard.images import MAX_PNG_BYTES, clean_png
from ddbench.leaderboard.schema import (
    KIND,
    MAX_RESULT_BYTES,
    SCHEMA,
    Result,
    budget_name,
    check_result,
    is_url,
    main_metric,
    read_result,
    result_folder,
    result_id,
    result_path,
    students,
    write_result,
)
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, file_hash, read_json, write_bytes

EVALUATION_KIND = "ddbench-evaluation"
EVALUATION_SCHEMA = 1
SYNSET_FILE = "synset.safetensors"
MAX_SYNSET_BYTES = 2 * 10**6
"""Larger synsets are named by their hash only."""
COPIED = (
    "synset",
    "teacher",
    "labels",
    "protocol",
    "learning_rates",
    "runs",
    "summary",
    "metrics",
    "precision",
    "threads",
    "at_once",
    "versions",
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a submitter says about a row; everything else is measured.

    Attributes:
        method_title: how the method is called on the board.
        authors: who submits.
        links: http(s) addresses (paper, project).
        code: http(s) address of the code.
        licence: of the synset.
        note: a few sentences.
        claims: ``(student, value)``: what the authors report, to stand beside what was measured.
        claim_source: where they report it.
    """

    method_title: str = ""
    authors: Sequence[str] = ()
    links: Sequence[str] = ()
    code: str = ""
    licence: str = ""
    note: str = ""
    claims: Sequence[tuple[str, float]] = ()
    claim_source: str = ""


@dataclass(frozen=True)
class Plan:
    """What a submission writes.

    Attributes:
        result: the row.
        path: its file.
        known: the board has it already; nothing is to be written.
        attachments: files beside it.
        notes: what was left out, in words.
    """

    result: Result
    path: Path
    known: bool
    attachments: dict[Path, bytes]
    notes: tuple[str, ...]


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


def make_result(run: Path, protocol: str | None = None, submission: Submission | None = None) -> Result:
    """The result of an evaluated run.

    Args:
        run: folder of ``ddbench distill``, scored by ``ddbench evaluate``.
        protocol: name of the evaluation, when there are several.

    Raises:
        UserError: no evaluation, several and none named, an evaluation of another synset, or a value that the schema
            refuses.
    """
    submission = submission or Submission()
    for address in filter(None, (*submission.links, submission.code)):
        if not is_url(address):
            raise UserError(f"{address!r} is not an http(s) address; --link and --code take https://... only")
    path = _evaluation_path(run, protocol)
    evaluation = _read_evaluation(path)
    result: Result = {"kind": KIND, "schema": SCHEMA, "id": "0" * 16, "supersedes": None}
    result |= {name: evaluation[name] for name in COPIED}
    result["cost"] = {
        "distill": _read_cost(run / "cost.json"),
        "evaluate": _read_cost(path.with_name(f"{path.stem}.cost.json")),
    }
    said = asdict(submission)
    source = said.pop("claim_source")
    said |= {"authors": list(submission.authors), "links": list(submission.links), "claims": []}
    result["submission"] = said
    _check(result, str(path))
    for student, value in submission.claims:
        known = students(result)
        if student not in known:
            near = suggest(student, known)
            raise UserError(f"--claim {student}: not evaluated{near}; students of {path.name}: {', '.join(known)}")
        said["claims"].append({"student": student, "metric": main_metric(result), "value": value, "source": source})
    _check(result, str(path))
    _check_synset(run / SYNSET_FILE, result)
    return result


def plan_submission(run: Path, board: Path, result: Result) -> Plan:
    """Find the place of a result on the board, and what goes with it. Writes nothing.

    A result of the same synset under the same protocol that has no more runs is superseded.

    Raises:
        UserError: the board has more runs of the same thing, one of its files is broken, or the preview is.
    """
    folder = board / result_folder(result)
    earlier = [
        old for old in map(read_result, sorted(folder.glob("*.json"))) if same_subject(old) == same_subject(result)
    ]
    for old in earlier:
        if _content(old) == _content(result):
            return Plan(old, board / result_path(old), True, {}, ())
    replaced = {old["supersedes"] for old in earlier}
    latest = max(
        (old for old in earlier if old["id"] not in replaced),
        key=lambda old: (len(old["runs"]), old["id"]),
        default=None,
    )
    if latest is not None and len(latest["runs"]) > len(result["runs"]):
        raise UserError(
            f"the board has {len(latest['runs'])} runs of this synset under this protocol ({latest['id']}), this "
            f"evaluation has {len(result['runs'])}: evaluate with more --seeds or --students, then submit again"
        )
    result = {**result, "supersedes": latest["id"] if latest else None}
    result["id"] = result_id(result)
    path = board / result_path(check_result(result, str(run)))
    attachments, notes = _attachments(run, path, result)
    return Plan(result, path, False, attachments, notes)


def write_plan(plan: Plan) -> list[Path]:
    """Write a planned submission, the result last, and return the files; a known one writes nothing.

    Raises:
        UserError: the folder cannot be written to.
    """
    if plan.known:
        return []
    for path, data in plan.attachments.items():
        write_bytes(path, data)
    write_result(plan.path, plan.result)
    return [*plan.attachments, plan.path]


def same_subject(result: Result) -> tuple[str, ...]:
    """Two results with the same subject measure the same thing: synset, protocol, altered settings, precision."""
    protocol = result["protocol"]
    return (
        result["synset"]["sha256"],
        protocol["name"],
        protocol["hash"],
        canonical_json(protocol["changed"]),
        result["precision"],
    )


def _content(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("id", "cost", "supersedes")}


def _check(result: Result, where: str) -> None:
    result["id"] = "0" * 16
    result["id"] = result_id(result)
    check_result(result, where)


def _evaluation_path(run: Path, protocol: str | None) -> Path:
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder; `ddbench distill ... --out {run}` makes one")
    found = sorted(path for path in (run / "evaluations").glob("*.json") if not path.name.endswith(".cost.json"))
    names = [path.stem for path in found]
    if not found:
        raise UserError(f"{run}: not evaluated yet: run `ddbench evaluate {run}` first")
    if protocol is not None:
        if protocol not in names:
            raise UserError(
                f"--protocol {protocol}: no such evaluation{suggest(protocol, names)} in {run}; there are: "
                f"{', '.join(names)}; or run `ddbench evaluate {run} --protocol {protocol}`"
            )
        return found[names.index(protocol)]
    if len(found) > 1:
        raise UserError(f"{run}: several evaluations; choose one with --protocol: {', '.join(names)}")
    return found[0]


def _read_evaluation(path: Path) -> dict[str, Any]:
    evaluation = _read_small(path, "run evaluation")
    if not isinstance(evaluation, dict) or evaluation.get("kind") != EVALUATION_KIND:
        raise UserError(f"{path}: not an evaluation; `ddbench evaluate RUN` writes one")
    version = evaluation.get("schema")
    if isinstance(version, int) and version > EVALUATION_SCHEMA:
        raise UserError(f"{path}: schema {version} was made by a newer ddbench (this one reads 1): upgrade")
    missing = [name for name in COPIED if name not in evaluation]
    if version != EVALUATION_SCHEMA or missing:
        raise UserError(f"{path}: not a whole evaluation ({', '.join(missing) or 'schema'} missing); evaluate again")
    return evaluation


def _read_cost(path: Path) -> Any:
    return _read_small(path, "cost record") if path.exists() else None


def _read_small(path: Path, what: str) -> Any:
    if path.is_file() and path.stat().st_size > MAX_RESULT_BYTES:
        raise UserError(
            f"{path}: {path.stat().st_size:,} bytes is too large for a {what} (at most {MAX_RESULT_BYTES:,})"
        )
    return read_json(path, what)


def _check_synset(path: Path, result: Result) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such synset; a run folder holds one")
    try:
        found = file_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot read this synset: {error.strerror or error}") from None
    if found != result["synset"]["sha256"]:
        raise UserError(f"{path}: the evaluation is of another synset: run `ddbench evaluate {path.parent}` again")


def _attachments(run: Path, path: Path, result: Result) -> tuple[dict[Path, bytes], tuple[str, ...]]:
    """The preview and the synset that go beside a result, and notes on what does not."""
    if budget_name(result["synset"]["budget"]) == "full":
        return {}, ("the real images are not copied",)
    files: dict[Path, bytes] = {}
    notes = []
    preview, synset = run / "preview.png", run / SYNSET_FILE
    if not preview.is_file():
        notes.append(f"no preview: {preview} is not there")
    elif preview.stat().st_size > MAX_PNG_BYTES:
        notes.append(f"preview left out: more than {MAX_PNG_BYTES:,} bytes")
    else:
        files[path.with_suffix(".png")] = clean_png(preview.read_bytes(), str(preview))
    if synset.stat().st_size > MAX_SYNSET_BYTES:
        notes.append(f"synset left out (more than {MAX_SYNSET_BYTES:,} bytes); the result names its sha256")
    else:
        files[path.with_name(f"{path.stem}.{SYNSET_FILE}")] = synset.read_bytes()
    return files, tuple(notes)
