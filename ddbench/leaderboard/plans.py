"""Plans: the cells of a board that one command fills, as TOML. Imports no torch.

Shipped plans are ``plans/<name>.toml`` of the checkout; the wheel carries them as ``ddbench/_content/plans``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ddbench.data.specs import DATASETS, OWN_FORMS, SIZES, canonical, dataset_slug, is_own, modality_of
from ddbench.leaderboard.published import Published, read_published
from ddbench.leaderboard.result import Budget, Result
from ddbench.leaderboard.rows import RANDOM
from ddbench.measurements.suite import SUITES
from ddbench.modalities import Modality, modality
from ddbench.registry import suggest, unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_toml

_PACKAGE = Path(__file__).resolve().parent.parent
MAX_BYTES = 2**20
MAX_CELLS = 10_000
MAX_SEEDS = 1000
RANDOM_SUBSETS = 10
"""Subsets of random images unless a plan says otherwise: the interval of three is too wide to tell a method by."""
MAX_IPC = 1_000_000

CELL_KEYS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "title": (str,),
    "dataset": (str,),
    "size": (int,),
    "ipc": (int, list),
    "max_bytes": (int,),
    "recipe": (str,),
    "student": (str,),
    "run_seeds": (list,),
    "protocols": (list,),
    "students": (list,),
    "seeds": (int,),
    "distill": (list,),
    "evaluate": (list,),
    "teacher": (list,),
    "minutes": (int, float, list),
    "published": (list,),
    "note": (str,),
    "expected": (bool,),
    "deviations": (list,),
    "not_comparable": (str,),
    "config": (dict,),
}
ALTERING = ("epochs", "lr", "lr-source", "augmentation", "mixup", "label-smoothing", "focal-gamma")
"""Flags of ``ddbench evaluate`` that alter a protocol."""
PRECISION = "float32"
"""Of an evaluation whose flags name none; rows of another one stand in another table."""
LISTS = ("distill", "evaluate", "teacher", "deviations")
"""Keys with a list of texts."""
SUBMISSION_KEYS = ("author", "licence", "link", "code")
PLAN_KEYS = ("title", "description", "kind", "defaults", "submission", "cells")
BOARD, REPRODUCTION = "board", "reproduction"
KINDS = (BOARD, REPRODUCTION)
"""A plan fills a board, or measures what others publish: then it says of every figure how it came about."""


@dataclass(frozen=True, kw_only=True)
class PlanCell:
    """One synset under one protocol: one row of the board.

    Attributes:
        method, title: its name, and how the board calls it.
        dataset, size, ipc, max_bytes, seed: what is made, with which seed; ``ipc`` 0 and ``max_bytes`` 0: as many as
            its settings give.
        recipe, student: of ``ddbench distill``; empty: its defaults. ``{ipc}`` in the recipe stands for the IPC.
        protocol, students, seeds: how it is scored, with ``seeds`` networks of each; the protocol is a name or a
            TOML file.
        distill, evaluate: further flags of the two verbs.
        teacher: flags of ``ddbench teacher`` for protocols with a teacher, where the method needs none of its own.
        minutes: expected cost, in minutes of one core or GPU; only the order depends on it.
        expected: whether nobody has measured these minutes yet.
        published: targets.
        note: for the row.
        deviations: how the cell differs from the publication, in words.
        not_comparable: why its accuracy cannot be held against the published one; empty: it can.
        config: settings that a row's synset must have been made with to be this cell's.
    """

    method: str
    title: str = ""
    dataset: str
    size: int | None = None
    ipc: int
    max_bytes: int = 0
    seed: int = 0
    recipe: str = "auto"
    student: str = ""
    protocol: str = "hard-v1"
    students: tuple[str, ...] = ()
    seeds: int = 5
    distill: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    teacher: tuple[str, ...] | None = None
    minutes: float = 1.0
    expected: bool = False
    published: tuple[Published, ...] = ()
    note: str = ""
    deviations: tuple[str, ...] = ()
    not_comparable: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def budget(self) -> str:
        """``ipc10``, ``bytes500``, or ``full`` for all of the real set."""
        if self.method == "full":
            return "full"
        return f"ipc{self.ipc}" if self.ipc else f"bytes{self.max_bytes or ''}"

    @property
    def kind(self) -> Modality:
        """The modality of its data."""
        return modality(modality_of(self.dataset))

    @property
    def run(self) -> str:
        """Name of its run folder; cells that differ in the protocol alone share it."""
        return f"{dataset_slug(self.dataset)}-{self.budget}-{self.method}-s{self.seed}"

    @property
    def name(self) -> str:
        """``digits-ipc1-mtt-s0/hard-v1``."""
        return f"{self.run}/{self.kind.protocol(self.protocol).name}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan file.

    Attributes:
        name: of the file.
        title, description: for people.
        kind: ``board`` or ``reproduction``.
        submission: what every row says (author, licence, link, code).
        cells: in the order of the file.
    """

    name: str
    title: str
    description: str
    kind: str = BOARD
    submission: dict[str, str] = field(default_factory=dict)
    cells: tuple[PlanCell, ...]


def plans_folder() -> Path | None:
    """The folder of shipped plans: inside the installed package, or of the checkout."""
    for folder in (_PACKAGE / "_content" / "plans", _PACKAGE.parent / "plans"):
        if folder.is_dir():
            return folder
    return None


def shipped_plans() -> dict[str, Path]:
    """Shipped plans by name."""
    folder = plans_folder()
    return {path.stem: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def find_plan(wanted: str) -> Plan:
    """A plan by file or shipped name.

    Raises:
        UserError: neither, or malformed.
    """
    known = shipped_plans()
    if wanted in known:
        return read_plan(known[wanted])
    if not wanted.endswith(".toml"):
        raise unknown("plan", wanted, known)
    return read_plan(Path(wanted))


def read_plan(path: Path) -> Plan:
    """Read and check a plan file.

    Raises:
        UserError: not TOML, too large, an unknown or malformed key, a cell twice, or an unknown protocol or student.
    """
    table = read_toml(path, "plan", MAX_BYTES)
    for key in table:
        if key not in PLAN_KEYS:
            raise UserError(f"{path}: unknown key {key!r}{suggest(key, PLAN_KEYS)}")
    defaults, entries = table.get("defaults", {}), table.get("cells", [])
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no [[cells]]; each names a method, and an ipc unless it is full")
    kind = table.get("kind", BOARD)
    if kind not in KINDS:
        raise UserError(f"{path}: kind is {kind!r:.80}, expected {' or '.join(KINDS)}")
    cells: list[PlanCell] = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, cell {number}"
        _check_keys(defaults, f"{path}, [defaults]")
        _check_keys(entry, where)
        cells += _expand({**defaults, **entry}, where, kind == REPRODUCTION, path.parent)
        if len(cells) > MAX_CELLS:
            raise UserError(f"{path}: more than {MAX_CELLS:,} cells")
    twice = next((name for name, count in Counter(cell.name for cell in cells).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{path}: the cell {twice} is there twice; seeds or protocols must tell them apart")
    return Plan(
        name=path.stem,
        title=_text(table.get("title", path.stem), f"{path}: title"),
        description=_text(table.get("description", ""), f"{path}: description"),
        kind=kind,
        submission=_submission(table.get("submission", {}), path),
        cells=tuple(cells),
    )


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where} is {value!r}, expected text")
    return value


def _submission(table: Any, path: Path) -> dict[str, str]:
    if not isinstance(table, dict):
        raise UserError(f"{path}: submission is no table")
    for key in table:
        if key not in SUBMISSION_KEYS:
            raise UserError(f"{path}: submission: unknown key {key!r}{suggest(key, SUBMISSION_KEYS)}")
    return {key: _text(value, f"{path}: submission.{key}") for key, value in table.items()}


def _check_keys(entry: Any, where: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected a table")
    for key, value in entry.items():
        kinds = CELL_KEYS.get(key)
        if kinds is None:
            raise UserError(f"{where}: unknown key {key!r}{suggest(key, CELL_KEYS)}")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UserError(f"{where}: {key} is {value!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")


def _listed(entry: dict[str, Any], key: str, kind: type, default: list[Any], where: str) -> list[Any]:
    """A value that may be one or several."""
    found = entry.get(key, default)
    found = found if isinstance(found, list) else [found]
    for value in found:
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise UserError(f"{where}: {key} has {value!r}, expected {kind.__name__}")
    return found


def _expand(entry: dict[str, Any], where: str, reproduction: bool, folder: Path) -> list[PlanCell]:
    """The cells of one entry: every IPC with every seed and protocol."""
    for key in ("method", "dataset"):
        if not entry.get(key):
            raise UserError(f"{where}: {key} is missing")
    kind = _check_names(entry, where)
    full = entry["method"] == "full" or kind.unit != "ipc"
    ipcs = _listed(entry, "ipc", int, [0] if full else [], where) if not full else [0]
    if not ipcs or (not full and not 1 <= min(ipcs) <= max(ipcs) <= MAX_IPC):
        raise UserError(f"{where}: ipc is {entry.get('ipc')!r:.80}, expected at least 1, at most {MAX_IPC:,}")
    subsets = RANDOM_SUBSETS if entry["method"] == RANDOM else 1
    run_seeds = _listed(entry, "run_seeds", int, list(range(subsets)), where)
    minutes = _listed(entry, "minutes", float, [1.0], where)
    minutes = minutes * len(ipcs) if len(minutes) == 1 else minutes
    if len(minutes) != len(ipcs) or not all(0 < cost < math.inf for cost in minutes):
        raise UserError(
            f"{where}: minutes is {entry['minutes']!r:.80}, expected one positive number, or one for each ipc"
        )
    if min(run_seeds, default=-1) < 0 or not 1 <= entry.get("seeds", 5) <= MAX_SEEDS:
        raise UserError(f"{where}: expected run_seeds from 0 on, and seeds of at least 1, at most {MAX_SEEDS:,}")
    protocols = _listed(entry, "protocols", str, [kind.usual_protocol], where)
    if not protocols:
        raise UserError(f"{where}: protocols is an empty list, expected at least one (or no such key: hard-v1)")
    if len(ipcs) * len(run_seeds) * len(protocols) > MAX_CELLS:
        raise UserError(
            f"{where}: {len(ipcs):,} ipc x {len(run_seeds):,} run_seeds x {len(protocols):,} protocols are more than "
            f"{MAX_CELLS:,} cells"
        )
    asked = _listed(entry, "students", str, [], where)
    students = tuple(dict.fromkeys(student for name in asked for student in kind.students(name)))
    published = read_published(entry.get("published", []), students, where, reproduction)
    texts = {key: tuple(_listed(entry, key, str, [], where)) for key in LISTS if key in entry}
    _check_standard(texts.get("evaluate", ()), where)
    return [
        PlanCell(
            method=entry["method"],
            title=entry.get("title", ""),
            dataset=entry["dataset"],
            size=entry.get("size"),
            ipc=ipc,
            max_bytes=entry.get("max_bytes", 0),
            seed=seed,
            recipe=entry.get("recipe", "auto").replace("{ipc}", str(ipc)),
            student=entry.get("student", ""),
            protocol=_known_protocol(name, kind, where, folder),
            students=students,
            seeds=entry.get("seeds", 5),
            distill=texts.get("distill", ()),
            evaluate=texts.get("evaluate", ()),
            teacher=texts.get("teacher"),
            minutes=float(cost),
            expected=entry.get("expected", False),
            published=tuple(
                target for budget, own, target in published if budget in (None, ipc) and own in (None, name)
            ),
            note=entry.get("note", ""),
            deviations=texts.get("deviations", ()),
            not_comparable=entry.get("not_comparable", ""),
            config=entry.get("config", {}),
        )
        for ipc, cost in zip(ipcs, minutes, strict=True)
        for seed in run_seeds
        for name in protocols
    ]


def _check_names(entry: dict[str, Any], where: str) -> Modality:
    """The modality of the data; refuses what no cell could be filled with: names are parts of paths, told now."""
    dataset = entry["dataset"]
    if not is_own(dataset) and dataset not in DATASETS:
        raise unknown("dataset", dataset, [*DATASETS, *OWN_FORMS], where)
    if entry.get("size", SIZES.start) not in SIZES:
        raise UserError(f"{where}: size is {entry['size']}, expected {SIZES.start} to {SIZES.stop - 1}")
    kind = modality(modality_of(dataset))
    if entry.get("student"):
        kind.check_student(entry["student"])
    return kind


def _known_protocol(name: str, kind: Modality, where: str, folder: Path) -> str:
    """The name of a protocol that cells can be filled under, or its file, beside the plan where it lies there; a wrong
    one is told now."""
    if name.endswith(".toml") and (folder / name).is_file():
        name = str(folder / name)
    if kind.protocol(name).labels == "stored":
        raise UserError(
            f"{where}: protocol {name} replays stored labels (ddbench relabel), which a plan does not make; use one "
            "whose teacher labels every view, e.g. kd-v1"
        )
    return name


def _check_standard(flags: Sequence[str], where: str) -> None:
    """Refuse flags by which an evaluation is not standard: its row would be none of the cell's."""
    names = [flag.removeprefix("--").partition("=")[0].replace("_", "-") for flag in flags if flag.startswith("--")]
    counted = {"robustness", "corruptions", "ood"} & set(names)  # of which --max-images is the number of images
    wrong = next((one for one in names if one in ALTERING or (one == "max-images" and not counted)), None)
    if wrong is not None:
        raise UserError(
            f"{where}: evaluate has --{wrong}, which alters the protocol, and the row of an altered one fills no cell; "
            "name a protocol of your own in protocols: a TOML file"
        )


def result_of(cell: PlanCell, results: Sequence[Result]) -> Result | None:
    """The row of a cell: same method, data, budget, seed, protocol (unaltered) and precision, with all its students and
    seeds.

    Of several one that no other supersedes, with the most runs. Where the cell names no students, the row has as many
    seeds of some student; where it names a size, or the dataset has one, the row's images are of it.
    """
    wanted = cell.kind.protocol(cell.protocol)
    student = cell.kind.students(cell.student)[0] if cell.student else ""
    flags, replaced = _given(cell.evaluate), {result.supersedes for result in results}
    measures = {name: value for name, value in flags.items() if name in SUITES}
    precision = flags.get("precision") or PRECISION
    found = []
    for result in results:
        synset, used = result.synset, result.protocol
        budget = synset.budget
        fits = (
            synset.method == cell.method
            and canonical(synset.dataset) == canonical(cell.dataset)
            and fits_budget(cell, budget)
            and synset.seed == cell.seed
            and (not student or synset.student in (None, student))
            and (used.name, used.hash, used.standard) == (wanted.name, wanted.hash, True)
            and result.precision == precision
            and cell.config.items() <= _settings(synset.config).items()
            and _size(cell) in (None, synset.shape[-1])
            and all(_is_measured(result.measured or {}, kind, value) for kind, value in measures.items())
            and all(_seeds(result, student) >= cell.seeds for student in cell.students)
            and max(_seeds(result, student) for student in result.students) >= cell.seeds
        )
        if fits:
            found.append(result)
    return max(found, key=lambda result: (result.id not in replaced, len(result.runs), result.id), default=None)


def _seeds(result: Result, student: str) -> int:
    return sum(run.student == student for run in result.runs)


def _size(cell: PlanCell) -> int | None:
    """Side of the images that a cell is about; None: any, as of graphs, or of one's own images where none is named."""
    if cell.kind.name != "image":
        return None
    return cell.size or (DATASETS[cell.dataset].size if cell.dataset in DATASETS else None)


def _given(flags: Sequence[str]) -> dict[str, str]:
    """Flags of ``ddbench evaluate`` by name, with the value of each; empty: its default."""
    found = {}
    for flag, after in zip_longest(flags, flags[1:], fillvalue="--"):
        name, _, value = flag.removeprefix("--").partition("=")
        if flag.startswith("--"):
            found[name] = value or ("" if after.startswith("--") else after)
    return found


def _is_measured(measured: Mapping[str, Any], kind: str, value: str) -> bool:
    """Whether a row has a measurement, with this budget or beside this dataset."""
    setting = {"robustness": "budget", "ood": "other"}.get(kind, "")
    return kind in measured and (not value or not setting or str(measured[kind].get(setting)) == value)


def fits_budget(cell: PlanCell, budget: Budget) -> bool:
    """Whether a row has the budget that a cell asks for."""
    if cell.method == "full" or cell.ipc:
        return budget.unit == "all" if cell.method == "full" else budget == Budget("ipc", cell.ipc)
    return budget.unit == cell.kind.unit and cell.max_bytes in (0, budget.value)


def _settings(config: Any) -> Mapping[str, Any]:
    return config if isinstance(config, dict) else {}
