"""The evaluations of a run that a row can be made of: which there are, which is taken, and what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddbench.leaderboard.packing import SYNSET_FILE
from ddbench.leaderboard.schema import MAX_RESULT_BYTES
from ddbench.protocols.protocol import read_protocol
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json

EVALUATION_KIND = "ddbench-evaluation"
EVALUATION_SCHEMA = 1
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


def run_folder(place: Path) -> Path:
    """The folder of a run: the place itself, or where its synset file lies.

    Raises:
        UserError: nothing is there, or another file.
    """
    if place.is_dir():
        return place
    if not place.exists():
        raise UserError(f"{place}: no such run folder; `ddbench distill ... --out {place}` makes one")
    if place.suffix == ".json":
        raise UserError(
            f"{place}: a file; of an evaluation it goes with its run: ddbench submit RUN --protocol {place}"
        )
    if place.name != SYNSET_FILE:
        raise UserError(f"{place}: a file; expected the folder of a run, or the {SYNSET_FILE} in it")
    return place.parent


def evaluations(run: Path) -> list[Path]:
    """The evaluations of a run, by name.

    Raises:
        UserError: no such run, or none.
    """
    folder = run_folder(run) / "evaluations"
    found = sorted(path for path in folder.glob("*.json") if not path.name.endswith(".cost.json"))
    if not found:
        raise UserError(
            f"{run}: not evaluated yet: run `ddbench evaluate {run}` first (or, of one with --out, give that file by "
            "--protocol)"
        )
    return found


def standard_evaluations(run: Path) -> list[str]:
    """Names of the evaluations of a run that altered nothing of their protocol.

    Raises:
        UserError: none, or one is malformed.
    """
    names = [path.stem for path in evaluations(run) if _is_standard(read_evaluation(path))]
    if not names:
        raise UserError(f"{run}: no standard evaluation; choose one with --protocol, or run `ddbench evaluate {run}`")
    return names


def _is_standard(evaluation: dict[str, Any]) -> bool:
    protocol = evaluation["protocol"]
    return isinstance(protocol, dict) and protocol.get("standard") is True


def evaluation_path(run: Path, protocol: str | None) -> Path:
    """The evaluation that is to be submitted: the one that is named, the only one, or the only standard one.

    Args:
        protocol: its name, a protocol's TOML file, or the evaluation's own file (``evaluate --out``).

    Raises:
        UserError: none of that name, or several and none named.
    """
    if protocol is not None and protocol.endswith(".json") and Path(protocol).is_file():
        return Path(protocol)
    found = evaluations(run)
    names = [path.stem for path in found]
    if protocol is not None and protocol.endswith(".toml"):
        protocol = _evaluated_by(protocol, found)
    if protocol is not None:
        if protocol not in names:
            raise UserError(
                f"--protocol {protocol}: no such evaluation{suggest(protocol, names)} in {run}; there are: "
                f"{', '.join(names)}; or run `ddbench evaluate {run} --protocol {protocol}`"
            )
        return found[names.index(protocol)]
    if len(found) == 1:
        return found[0]
    standard = [path for path in found if _is_standard(read_evaluation(path))]
    if len(standard) != 1:
        every = " (or --all, the standard ones)" if standard else ", none of them standard"
        raise UserError(f"{run}: several evaluations; choose one with --protocol{every}: {', '.join(names)}")
    return standard[0]


def _evaluated_by(file: str, found: list[Path]) -> str:
    """Name of the evaluation under a protocol of the submitter's own.

    Raises:
        UserError: no such protocol, or its settings are not those that were evaluated.
    """
    own = read_protocol(Path(file))
    for path in found:
        if path.stem == own.name and read_evaluation(path)["protocol"].get("hash") != own.hash:
            raise UserError(
                f"--protocol {file}: {path} was evaluated with other settings of {own.name}; give these a name of "
                "their own and evaluate, or submit those by name"
            )
    return own.name


def _are_runs(found: object) -> bool:
    if not isinstance(found, list):
        return False
    return all(isinstance(run, dict) and isinstance(run.get("student"), str) and "seed" in run for run in found)


def read_evaluation(path: Path) -> dict[str, Any]:
    """What ``ddbench evaluate`` wrote, with everything that a row takes of it.

    Raises:
        UserError: something else, not whole, or made by a newer ddbench.
    """
    return checked_evaluation(path, read_json(path, "run evaluation", MAX_RESULT_BYTES))


def checked_evaluation(path: Path, evaluation: Any) -> dict[str, Any]:
    """The content of an evaluation's file, as :func:`read_evaluation` gives it.

    Raises:
        UserError: something else, not whole, or made by a newer ddbench.
    """
    if not isinstance(evaluation, dict) or evaluation.get("kind") != EVALUATION_KIND:
        raise UserError(f"{path}: not an evaluation; `ddbench evaluate RUN` writes one")
    version = evaluation.get("schema")
    if isinstance(version, int) and version > EVALUATION_SCHEMA:
        raise UserError(f"{path}: schema {version} was made by a newer ddbench (this one reads 1): upgrade")
    missing = [name for name in COPIED if name not in evaluation]
    if version != EVALUATION_SCHEMA or missing:
        raise UserError(f"{path}: not a whole evaluation ({', '.join(missing) or 'schema'} missing); evaluate again")
    for name in ("runs", "diverged"):
        if not _are_runs(evaluation.get(name, [])):
            raise UserError(f"{path}: {name}: expected a list of runs, each with student and seed; evaluate again")
    found = evaluation.get("findings", [])
    if not isinstance(found, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("kind"), str) for entry in found
    ):
        raise UserError(f"{path}: findings: expected a list, each with its kind; evaluate again")
    for name in ("synset", "protocol", "metrics", "measured"):
        if not isinstance(evaluation.get(name, {}), dict):
            raise UserError(f"{path}: {name}: expected a table; evaluate again")
    for name in ("learning_rates", "summary", "details"):
        table = evaluation.get(name, {})
        if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
            raise UserError(f"{path}: {name}: expected a table by student; evaluate again")
    return evaluation
