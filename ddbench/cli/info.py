"""``ddbench info PLACE``: what a folder or file is, its settings, its evaluations, and what to do next. No torch."""

from __future__ import annotations

import contextlib
import json
import shlex
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.distill import evaluation_command
from ddbench.cli.parse import parse
from ddbench.cli.places import Place, export, part_of_a_run, submission, with_experts, with_model
from ddbench.evaluation.result import is_fixed, ranked_by, said_before
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime.errors import UserError, visible
from ddbench.runtime.files import parse_json, plain_file, read_json
from ddbench.statistics import count_words, interval_words
from ddbench.tasks.costs import cost_of_sets
from ddbench.teachers.remedy import teacher_files, unfinished_files

MAX_HEADER = 64 * 2**20
LONGEST = 100
"""Letters of a value that are printed."""

KEY = "ddbench"
TASK = "ddbench-task"
EVALUATION = "ddbench-evaluation"
RESULTS = {
    TASK: "results of tasks",
    EVALUATION: "evaluations",
    "ddbench-scores": "files of DD-Ranking's scores",
}
"""What a folder may hold several of: words for many."""
BEGUN = {TASK: "tasks that are not finished", EVALUATION: "evaluations that are not finished"}

TITLES = {
    "ddbench-synset": "synset",
    "ddbench-teacher": "teacher",
    "ddbench-labels": "stored labels of every view",
    "ddbench-evaluation": "evaluation",
    "ddbench-result": "row of a board",
    "ddbench-scores": "DD-Ranking's scores",
    "ddbench-trajectories": "store of experts",
    "ddbench-diffusion": "diffusion model",
    "ddbench-task": "result of a task",
    "ddbench-student-weights": "trained student of an evaluation",
    "ddbench-checkpoint": "checkpoint of a run that is not finished",
    "ddbench-teacher-checkpoint": "checkpoint of a teacher that is not finished",
    "ddbench-diffusion-checkpoint": "checkpoint of a diffusion model that is not finished",
}
"""What a file's ``kind`` means."""

SETTINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "ddbench-synset": (
        *(("method", "method"), ("dataset", "dataset"), ("budget", "budget.unit"), ("", "budget.value")),
        *(("student", "student"), ("seed", "seed"), ("preprocess", "preprocess.kind"), ("labels", "label_kind")),
        *(("space", "space"), ("decoder", "decoder"), ("teacher", "teacher.student"), ("config", "config")),
    ),
    "ddbench-teacher": (
        *(("dataset", "dataset"), ("student", "student"), ("test accuracy", "test_accuracy"), ("recipe", "recipe")),
    ),
    "ddbench-labels": (("epochs", "epochs"), ("images", "images"), ("teacher", "teacher.student")),
    "ddbench-evaluation": (
        *(("method", "synset.method"), ("dataset", "synset.dataset"), ("budget", "synset.budget.unit")),
        *(("", "synset.budget.value"), ("protocol", "protocol.name"), ("changed", "protocol.changed")),
    ),
    "ddbench-result": (
        *(("method", "synset.method"), ("dataset", "synset.dataset"), ("budget", "synset.budget.unit")),
        *(("", "synset.budget.value"), ("protocol", "protocol.name")),
    ),
    "ddbench-scores": (("method", "synset.method"), ("dataset", "synset.dataset"), ("student", "student")),
    "ddbench-trajectories": (("dataset", "dataset"), ("student", "student"), ("recipe", "recipe")),
    "ddbench-diffusion": (("dataset", "dataset"), ("parameters", "parameters"), ("recipe", "recipe")),
    "ddbench-task": (
        *(("task", "task"), ("dataset", "head.dataset.name"), ("protocol", "head.protocol.name")),
        *(("changed", "head.protocol.changed"), ("student", "head.student"), ("seeds", "head.seeds")),
        *(("config", "head.config"),),
    ),
    "ddbench-student-weights": (("student", "student"), ("seed", "seed"), ("accuracy", "accuracy")),
    "ddbench-checkpoint": (("steps done", "done"),),
    "ddbench-teacher-checkpoint": (("epochs done", "done"),),
    "ddbench-diffusion-checkpoint": (("steps done", "done"),),
    "ddbench-run": (("method", "method"), ("dataset", "dataset"), ("ipc", "ipc"), ("student", "student")),
}
"""What is told of a kind: words, and where its header says it; without words it goes on with the one before."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """What a run, synset, store, teacher, evaluation, task or board is, how it was made, and what to do with it."""

    place: tyro.conf.Positional[Path]
    """A folder or file that ddbench made."""
    json: bool = False
    """Print JSON for other programs."""


GO_ON = "repeat its `ddbench {}` command: it goes on where it was"
DIVERGED = (
    "repeat its `ddbench distill` command with other settings, often a lower rate, and another --out: as it was, it "
    "ends where it did (last_good.safetensors is the synset before that)"
)

EXAMPLES = """  ddbench info runs/digits-ipc1-mtt-s0
  ddbench info runs/digits-ipc1-mtt-s0/evaluations/hard-v1.json
  ddbench info tasks
  ddbench info expert_trajectories --json"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench info", str(Args.__doc__), EXAMPLES)
    found = describe(args.place)
    if args.json:
        print(json.dumps(found, indent=1, default=str))  # in ASCII: half a character cannot be printed
        return
    for line in _lines(found):
        print(visible(line))  # foreign files have their say here


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """For a terminal."""
    yield f"{found['what']}: {found['path']}"
    width = max(map(len, found["settings"]), default=0)
    for name, value in found["settings"].items():
        yield f"  {name:<{width}}  {_short(value)}"
    for name, table in found["evaluations"].items():
        yield f"  evaluation {name}" + ("" if table["standard"] else "  NON-STANDARD")
        for student, entry in table["students"].items():
            words = interval_words(entry, 100, 2)
            figure = f"{said_before(table['metric'], table['title'])}{100 * entry['mean']:6.2f} %"
            seeds = "one fixed network" if table["fixed_network"] else count_words(entry["n"], "seed")
            yield f"    {student:<24} {figure}  {words}{'  ' if words else ''}({seeds})"
        for student, count in table["diverged"].items():
            yield f"    {student:<24} diverged ({count_words(count, 'seed')})"
        if table["measured"]:
            yield f"    measured: {', '.join(table['measured'])}"
    for command in found["next"]:
        yield f"next: {command}"


def describe(place: Path) -> dict[str, Any]:
    """What a place is: ``what``, ``path``, ``settings``, ``evaluations`` by name, ``next`` (commands).

    Only headers are read.

    Raises:
        UserError: it is not there, or nothing that ddbench made.
    """
    if place.is_dir():
        return _folder(place)
    plain_file(place, "file or folder")
    known = part_of_a_run(place) or export(place)
    if known is not None:
        return _known(known, place)
    header = _header(place)
    kind = str(header.get("kind"))
    if kind not in TITLES:
        raise UserError(f"{place}: a file of kind {kind[:60]!r}, which `ddbench info` does not know")
    found = _found(TITLES[kind], place, _settings(kind, header))
    if kind == "ddbench-synset":
        found["next"] = [evaluation_command(place, str(header.get("method")), header)]
    elif kind == "ddbench-evaluation":
        found["evaluations"] = {place.stem: _evaluation(place, header)}
        found["next"] = submission(place)
    elif kind == "ddbench-teacher":
        found["next"] = [f"ddbench evaluate RUN --protocol kd-v1 --teacher {_quoted(place)}"]
    elif kind == "ddbench-labels":
        found["next"] = [_replayed(place, header)]
    elif kind == "ddbench-result":
        board = _quoted(place.absolute().parents[4]) if len(place.absolute().parents) > 4 else "BOARD"
        found["next"] = [f"ddbench leaderboard show --leaderboard {board}"]
    elif kind == TASK:
        found["settings"] |= _runs_of(header)
        if (cost := cost_of_sets(place)) is not None:
            found["settings"]["cost"] = str(cost)
        found["next"] = [f"ddbench submit RUN --task {_quoted(place)}"]
    return found


def _known(known: Place, place: Path) -> dict[str, Any]:
    found = _found(known.what, place, _settings("ddbench-synset", known.header) | known.settings)
    found["next"] = known.next
    return found


def _replayed(labels: Path, header: Mapping[str, Any]) -> str:
    """The command that trains with stored labels, for as many epochs as they are of."""
    epochs = header.get("epochs")
    fewer = f" --epochs {epochs}" if isinstance(epochs, int) and epochs < PROTOCOLS["fkd"].epochs else ""
    run = labels.absolute().parent
    shown = (labels.parent if labels.parent.name else run) if (run / "synset.safetensors").is_file() else "RUN"
    return f"ddbench evaluate {_quoted(shown)} --protocol fkd --labels {_quoted(labels)}{fewer}"


def _quoted(value: object) -> str:
    """A word of a command."""
    return shlex.quote(str(value))


def _found(what: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return {"what": what, "path": str(path), "settings": settings, "evaluations": {}, "next": []}


def _folder(place: Path) -> dict[str, Any]:
    """A folder by what lies in it."""
    if (place / "synset.safetensors").is_file():
        return _run(place)
    if (place / "config.json").is_file() and _kind(place / "config.json") == "ddbench-run":
        config = _header(place / "config.json")
        lost = (place / "last_good.safetensors").is_file()
        what = "run that diverged" if lost else "run that is not finished"
        found = _found(what, place, _settings("ddbench-run", config))
        found["next"] = [DIVERGED if lost else GO_ON.format("distill")]
        return found
    if (place / "results").is_dir():
        rows = sum("." not in path.stem for path in (place / "results").glob("*/*/*/*.json"))
        found = _found("board", place, {"rows": rows})
        found["next"] = [f"ddbench leaderboard show --leaderboard {_quoted(place)}"]
        return found
    if (place / "manifest.json").is_file():
        return _store(place)
    if (place / "head.json").is_file() and place.suffix == ".parts":
        return _unfinished(place)
    if (place / "ddbench.json").is_file():
        header = _header(place / "ddbench.json")
        found = _found(TITLES["ddbench-diffusion"], place, _settings("ddbench-diffusion", header))
        found["next"] = [with_model(place, header)]
        return found
    known = part_of_a_run(place) or export(place)
    if known is not None:
        return _known(known, place)
    return _things(place)


def _things(place: Path) -> dict[str, Any]:
    """A folder of several things.

    Raises:
        UserError: it holds nothing that ddbench made.
    """
    runs, deeper = (sorted(place.glob(f"{depth}/synset.safetensors")) for depth in ("*", "*/*"))
    parts = {
        "stores of experts": (place.glob("*/*/*/manifest.json"), f"ddbench buffer info {_quoted(place)}"),
        "teachers": (_teachers(place), f"ddbench teacher info {_quoted(place)}"),
        "teachers that are not finished": (unfinished_files(place), GO_ON.format("teacher")),
        "diffusion models": (place.glob("*/*/ddbench.json"), f"ddbench diffusion info {_quoted(place)}"),
        "runs": (runs, *(f"ddbench info {_quoted(one.parent)}" for one in runs[:1])),
        "runs in its folders": (deeper, *(f"ddbench info {_quoted(one.parent.parent)}" for one in deeper[:1])),
    }
    settings = {name: count for name, (files, *_) in parts.items() if (count := sum(1 for _ in files))}
    following = [parts[name][1] for name in settings]
    for kind, words in RESULTS.items():
        results = [path for path in sorted(place.glob("*.json")) if _is(path, kind)]
        heads = place.glob("*.parts/head.json") if kind in BEGUN else ()
        begun = sorted(path.parent for path in heads if _is(path, EVALUATION) == (kind == EVALUATION))
        for name, paths in ((words, results), (BEGUN.get(kind, ""), begun)):
            if paths:
                settings[name] = len(paths)
                following += [f"ddbench info {_quoted(path)}" for path in paths[:1]]
    if not settings:
        raise UserError(f"{place}: holds no run, store, teacher or board that ddbench made, and no result of a task")
    found = _found("folder", place, settings)
    found["next"] = following
    return found


def _teachers(place: Path) -> list[Path]:
    """Files of finished teachers; stored labels of runs lie as deep."""
    return [path for path in teacher_files(place) if not (path.parent / "synset.safetensors").exists()]


def _is(path: Path, kind: str) -> bool:
    """Whether a JSON file is of a kind; what is no JSON is of none."""
    with contextlib.suppress(UserError):
        return _kind(path) == kind
    return False


def _runs_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The runs that a task is about, by label."""
    runs = _at(header, "head.runs")
    labels = [str(run.get("label")) for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
    return {"runs": ", ".join(labels)} if labels else {}


def _unfinished(place: Path) -> dict[str, Any]:
    """Records of an evaluation or a task, beside which there is no result of all of them yet."""
    head = {"head": _header(place / "head.json")}
    if _at(head, "head.kind") == EVALUATION:
        found = _found("evaluation that is not finished", place, _settings(EVALUATION, head["head"]))
        found["settings"]["runs done"] = sum(1 for _ in place.glob("run-*.part"))
        found["next"] = [GO_ON.format("evaluate")]
        return found
    own = {words: value for words, value in _settings(TASK, head).items() if words != "task"}
    found = _found("task that is not finished", place, own | _runs_of(head))
    found["settings"]["units done"] = sum(1 for _ in place.glob("*.part"))
    found["next"] = ["repeat its `ddbench task` command: it goes on where it was (--status says what is left)"]
    return found


def _run(place: Path) -> dict[str, Any]:
    synset = place / "synset.safetensors"
    header = _header(synset)
    found = _found("run", place, _settings("ddbench-synset", header))
    found["settings"]["bytes"] = synset.stat().st_size
    students = sorted((place / "evaluations").glob("*.weights/kept.json"))
    if students:
        found["settings"]["students kept for"] = ", ".join(
            path.parent.name.removesuffix(".weights") for path in students
        )
    for path in sorted((place / "evaluations").glob("*.json")):
        if not path.name.endswith(".cost.json"):
            found["evaluations"][path.stem] = _evaluation(path, _header(path))
    begun = [path.parent.stem for path in sorted((place / "evaluations").glob("*.parts/head.json"))]
    if begun:
        found["settings"]["evaluations that are not finished"] = ", ".join(begun)
    standard = [name for name, table in found["evaluations"].items() if table["standard"]]
    submits = [f"ddbench submit {_quoted(place)} --protocol {_quoted(name)}" for name in standard]
    found["next"] = submits or ([] if begun else [evaluation_command(place, str(header.get("method")), header)])
    found["next"] += [f"repeat the `ddbench evaluate` command of {name}: it goes on where it was" for name in begun]
    return found


def _store(place: Path) -> dict[str, Any]:
    path = place / "manifest.json"
    header = _header(path)
    found = _found(TITLES["ddbench-trajectories"], place, _settings("ddbench-trajectories", header))
    experts = header.get("experts")
    found["settings"]["experts"] = len(experts) if isinstance(experts, dict) else 0
    usable = found["settings"]["experts"] and "parent" not in header  # those that a run derived are its own
    found["next"] = [with_experts(place, header)] if usable else []
    return found


def _evaluation(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Students with the summary of the metric that ranks, and what else was measured.

    Raises:
        UserError: it is malformed.
    """
    try:
        students, main = {}, ranked_by(header["metrics"])
        title = str(header["metrics"][main]["title"])
        fixed = is_fixed(header["synset"], header["protocol"]["settings"])  # its runs are one, and have no spread
        for student, entry in header["summary"].items():
            told = entry[main]
            ends = {end: None if fixed or told[end] is None else float(told[end]) for end in ("low", "high")}
            students[str(student)] = {"mean": float(told["mean"]), "n": int(told["n"]), **ends}
        standard = header["protocol"]["standard"] is True
        measured = sorted(map(str, dict(header.get("measured", {}))))
        lost = dict(Counter(str(run["student"]) for run in header.get("diverged", [])))
        found = {"metric": main, "title": title, "students": students, "diverged": lost, "measured": measured}
        return {"standard": standard, "fixed_network": fixed, **found}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its summary is malformed ({error!r:.80}); evaluate again") from None


def _settings(kind: str, header: Mapping[str, Any]) -> dict[str, Any]:
    """What :data:`SETTINGS` lists, where the header has it."""
    told: dict[str, Any] = {}
    last = ""
    for words, where in SETTINGS[kind]:
        value = _at(header, where)
        if value is None or value in ({}, []):
            continue
        if words:
            told[words] = value
            last = words
        elif last:
            told[last] = f"{told[last]} {value}"
    return told


def _at(header: Any, where: str) -> Any:
    for name in where.split("."):
        header = header.get(name) if isinstance(header, dict) else None
    return header


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(_pairs(value))
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _pairs(table: Mapping[Any, Any]) -> Iterator[str]:
    """``name value`` of each entry that has a value; what kind it is comes first, alone."""
    if "kind" in table:
        yield str(table["kind"])
    for name, value in table.items():
        if name != "kind" and value is not None:
            yield f"{name} {value}"


def _kind(path: Path) -> str:
    return str(_header(path).get("kind"))


def _header(path: Path) -> dict[str, Any]:
    """The JSON of a file, or of the header of a safetensors file.

    Raises:
        UserError: neither, or damaged, or not of ddbench.
    """
    if path.suffix == ".json":
        found = read_json(path, "file of ddbench")
    else:
        found = _tensors_header(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: nothing that ddbench made")
    return found


def _tensors_header(path: Path) -> Any:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise UserError(f"{path}: no safetensors file, and no JSON: nothing that ddbench made")
        text = file.read(length)
    try:
        table = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise UserError(f"{path}: {size:,} bytes are not its whole; copy or make it again")
        found = parse_json(table["__metadata__"][KEY])
        return found | {"staged": "stage" in table} if found.get("kind") == "ddbench-synset" else found
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(f"{path}: a safetensors file that ddbench did not write; see ddbench import") from None
