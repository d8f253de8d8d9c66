"""Filling the cells of a plan that have no row: which, in what order, with which commands. Loads no torch by itself.

A cell's settings are flags of the verbs, so whoever fills it runs verbs: :func:`fill` takes the job by its name.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.data.specs import canonical
from ddbench.leaderboard.attachments import TEACHER, beside
from ddbench.leaderboard.plans import Plan, PlanCell, fits_budget, result_of
from ddbench.leaderboard.schema import load_results, result_path
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError, one_line
from ddbench.runtime.files import check_writable, ensure_writable
from ddbench.runtime.progress import Bar, Console
from ddbench.runtime.shards import Shard, State, Units, run_units
from ddbench.runtime.signs import turn

if TYPE_CHECKING:
    from ddbench.leaderboard.result import Result
    from ddbench.methods.needs import Need
    from ddbench.teachers.store import Teacher


GENERATION = "generation"
"""Family of methods that take a diffusion model, and no teacher, whatever protocol they are meant for."""
ALL = ("--shard", "0/1")
"""Cells are shared out, not what a cell consists of."""
WATCH_SECONDS = 0.5
MAX_NOW = 200
"""Letters that a cell says of what it is at."""
MACHINE = {"--precision", "--at-once"}
"""Settings of ``ddbench evaluate`` that alter no protocol."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all cells of a plan share.

    Attributes:
        out: folder for experts, teachers, runs and logs.
        leaderboard: folder of the board.
        submission: what every row says (author, licence, link, code).
        common: flags of every computing verb; of a cell's verbs :meth:`flags`.
        cores: that a cell may use, of those of the machine.
        shown: whether somebody looks at what the cells that run are at.
    """

    out: Path
    leaderboard: Path
    submission: Mapping[str, str]
    common: tuple[str, ...]
    cores: int
    shown: bool = False

    def flags(self, cell: PlanCell) -> tuple[str, ...]:
        """Flags of every computing verb of a cell: its data may have work for the CPU only, whatever is asked for."""
        found = list(self.common)
        for flag in ("--device", "--compile") if cell.kind.cpu_only else ():
            if flag in found:
                found[found.index(flag) + 1] = "auto"
        return tuple(found)

    @property
    def units(self) -> Units:
        """Who is at which cell."""
        return Units(self.out / "units")

    @property
    def experts(self) -> Path:
        """Root of the experts."""
        return self.out / "expert_trajectories"

    @property
    def teachers(self) -> Path:
        """Root of the teachers."""
        return self.out / "teachers"

    def run(self, cell: PlanCell) -> Path:
        """The run folder of a cell."""
        return self.out / "runs" / cell.run

    def log(self, cell: PlanCell) -> Path:
        """Where what the verbs of a cell print goes."""
        return self.out / "logs" / f"{cell.name.replace('/', '-')}.log"

    def now(self, cell: PlanCell) -> Path:
        """Where a cell that runs says what it is at."""
        return self.log(cell).with_suffix(".now")

    def turn(self, *keys: str) -> contextlib.AbstractContextManager[None]:
        """The turns of what other cells may want too: it is made by one worker at a time, on whatever machine."""
        return _turns(self.out / "locks", keys)


@contextlib.contextmanager
def _turns(folder: Path, keys: Sequence[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for key in sorted(keys):
            stack.enter_context(turn(folder / key, key))
        yield


def choose_cells(plan: Plan, only: str = "*") -> list[PlanCell]:
    """The cells whose name fits a pattern, such as ``*-mtt-*``.

    Raises:
        UserError: none does, or the plan names a method that is not there.
    """
    from ddbench.methods import METHODS, OF_A_FILE

    for cell in plan.cells:
        if cell.method not in METHODS:
            hint = suggest(cell.method, METHODS)
            raise UserError(f"plan {plan.name}: unknown method {cell.method!r}{hint}; {OF_A_FILE}")
    found = [cell for cell in plan.cells if fnmatch.fnmatchcase(cell.name, only)]
    if not found:
        raise UserError(f"--only {only}: fits none of the {len(plan.cells)} cells, e.g. {plan.cells[0].name}")
    return found


def check_teachers(
    plan: Plan, cells: Sequence[PlanCell], workshop: Workshop, needed: Callable[[list[str]], Iterable[Need[Any]]]
) -> None:
    """Refuse cells whose protocol wants a teacher that neither their method brings nor the plan says.

    What a method brings is looked up where its facts leave it open, since that loads torch; without torch it is not.

    Args:
        needed: what the method of a command of ``ddbench distill`` needs.

    Raises:
        UserError: names the cell.
    """
    from ddbench.methods import facts_of

    for cell in cells:
        if cell.teacher is not None or not getattr(cell.kind.protocol(cell.protocol), "needs_teacher", False):
            continue
        facts = facts_of(cell.method)
        clear = (
            facts is not None
            and facts.family != GENERATION
            and facts.protocol in PROTOCOLS
            and PROTOCOLS[facts.protocol].needs_teacher
        )
        if not (clear or importlib.util.find_spec("torch") is None or _brings(cell, workshop, needed)):
            raise UserError(
                f"plan {plan.name}: cell {cell.name}: {cell.protocol} wants a teacher, and {cell.method} brings none: "
                "give the cell teacher = [], or flags of `ddbench teacher` in that list"
            )


def _brings(cell: PlanCell, workshop: Workshop, needed: Callable[[list[str]], Iterable[Need[Any]]]) -> bool:
    try:
        return any(need.key == "teacher" for need in needed(distill_flags(cell, workshop)))
    except UserError:  # of this cell alone, which tells it when it is filled
        return True


def own_cells(cells: Sequence[PlanCell], shard: Shard) -> list[PlanCell]:
    """A shard's share of the cells. Those of one run stay together: a synset is made by one process."""
    runs: dict[str, list[PlanCell]] = {}
    for cell in cells:
        runs.setdefault(cell.run, []).append(cell)
    order = sorted(runs.values(), key=lambda group: sum(cell.minutes for cell in group))
    return [cell for group in shard.own(order) for cell in group]


def status(cells: Sequence[PlanCell], workshop: Workshop) -> list[State]:
    """What became of each cell, by all processes.

    Raises:
        UserError: the board is broken.
    """
    rows = rows_of(cells, workshop.leaderboard)
    done = {name for name, row in rows.items() if row is not None}
    return workshop.units.states([cell.name for cell in cells], done)


def rows_of(cells: Sequence[PlanCell], leaderboard: Path) -> dict[str, Result | None]:
    """Name of a cell -> its row; None: it has none.

    Raises:
        UserError: the board is broken.
    """
    results = load_results(leaderboard)
    return {cell.name: result_of(cell, results) for cell in cells}


def fill(
    job: str,
    plan: Plan,
    workshop: Workshop,
    cells: Sequence[PlanCell],
    *,
    workers: int,
    deadline: float | None,
    console: Console,
) -> dict[str, str]:
    """Do those of these cells that have no row, cheapest first, until all are done or the time is up; then build the
    pages.

    Args:
        job: ``module:function`` that a worker calls with the workshop and a cell; it says why it failed, or nothing.
        deadline: of ``time.monotonic``; None: never.

    Returns:
        Name -> message of the cells that failed.

    Raises:
        UserError: the board is broken, or a folder cannot be written to.
    """
    from ddbench.leaderboard.pages.page import build

    rows = rows_of(cells, workshop.leaderboard)
    missing = sorted((cell for cell in cells if rows[cell.name] is None), key=lambda cell: cell.minutes)
    if not missing:
        _pages(workshop.leaderboard)
        return {}
    check_writable(workshop.leaderboard)
    ensure_writable(workshop.out)
    ensure_writable(workshop.leaderboard)
    failed: dict[str, str] = {}
    console.say(f"{len(missing)} cells to do, logs in {workshop.out / 'logs'}")
    with console.bar(f"reproduce {plan.name}", len(missing)) as bar, _watched(bar, workshop, missing):
        names = [(cell.name,) for cell in missing]
        for index, message in run_units(
            job,
            workshop,
            missing,
            workers,
            units=workshop.units,
            names=names,
            deadline=deadline,
            survive=True,
            patient=console,
        ):
            name = missing[index].name
            if message:
                message = one_line(message)
                failed[name] = message
                workshop.units.fail(name, message)
                console.say(f"{name} failed: {message}")
            bar.advance(name)
    if deadline is not None and time.monotonic() >= deadline:
        console.say("the budget is spent; the same command goes on")
    build(workshop.leaderboard)
    return failed


@contextlib.contextmanager
def _watched(bar: Bar, workshop: Workshop, cells: Sequence[PlanCell]) -> Iterator[None]:
    """Show beside the bar what the cells that run are at."""
    if not workshop.shown:
        yield
        return
    ended = threading.Event()
    for cell in cells:
        workshop.now(cell).unlink(missing_ok=True)  # of a run that was killed

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            bar.note(at_work(workshop, cells))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def at_work(workshop: Workshop, cells: Sequence[PlanCell]) -> str:
    """What the cells that run are at, in one line."""
    found = []
    for cell in cells:
        with contextlib.suppress(OSError, UnicodeDecodeError):  # it does not run, or has just ended
            found.append(one_line(workshop.now(cell).read_text("utf-8")[:MAX_NOW]))
    return "  |  ".join(filter(None, found))


def _pages(leaderboard: Path) -> None:
    """Build the pages of a board if they are not those of its rows, as when who added the last one was killed.

    Of a board that is not there yet, as where a shard has no cells and others have not begun, there are none.
    """
    from ddbench.leaderboard.pages.page import build, check

    if not leaderboard.exists():
        return
    try:
        check(leaderboard)
    except UserError:
        build(leaderboard)


def buffer_flags(cell: PlanCell, workshop: Workshop) -> list[str]:
    """The command that records the experts of a cell's recipe; empty where its method needs none.

    Raises:
        UserError: it does, and there is no recipe that says which.
    """
    from ddbench.distillation.start import choose, needed_experts

    chosen = choose(
        cell.method,
        recipe=cell.recipe,
        dataset=cell.dataset,
        ipc=cell.ipc or None,
        student=cell.student or None,
        size=cell.size,
    )
    if needed_experts(chosen) is None:
        return []
    if chosen.recipe is None:
        raise UserError(f"{cell.method} has no recipe for {cell.dataset}, ipc {cell.ipc}, that says which experts")
    recipe = f"{cell.method}/{chosen.recipe.name}"
    flags = ["buffer", "--recipe", recipe, "--buffers", str(workshop.experts), "--workers", "1"]
    return [*flags, *ALL, *workshop.flags(cell)]


def teacher_flags(cell: PlanCell, workshop: Workshop) -> list[str] | None:
    """The flags of the teacher that a cell's protocol wants; None: it wants none, or is told none."""
    if cell.teacher is None or not getattr(cell.kind.protocol(cell.protocol), "needs_teacher", False):
        return None
    return [*_data(cell), "--teachers", str(workshop.teachers), *cell.teacher, *workshop.flags(cell)]


def board_teachers(cell: PlanCell, leaderboard: Path) -> list[Teacher]:
    """The teachers beside the rows of a cell's data and protocol: those of its budget first, of these the most used.

    Rows that others supersede do not count.
    The same flags train another network on another machine, and only rows that one teacher labelled are to be told
    apart by their images.
    """
    from ddbench.teachers.store import read_teacher

    protocol = cell.kind.protocol(cell.protocol)
    uses: Counter[tuple[bool, str]] = Counter()
    places: dict[str, Path] = {}
    results = load_results(leaderboard)
    replaced = {result.supersedes for result in results}
    for result in results:
        synset, place = result.synset, beside(leaderboard / result_path(result), TEACHER)
        same = canonical(synset.dataset) == canonical(cell.dataset) and result.protocol.hash == protocol.hash
        if same and result.id not in replaced and result.teacher is not None and place.is_file():
            sha256 = result.teacher["sha256"]
            uses[fits_budget(cell, synset.budget), sha256] += 1
            places.setdefault(sha256, place)
    found = []
    for _, sha256 in sorted(uses, key=lambda use: (not use[0], -uses[use], use[1])):
        with contextlib.suppress(UserError):  # a damaged file is for ``leaderboard check`` to tell
            teacher = read_teacher(places[sha256])
            found += [teacher] if teacher.sha256 == sha256 else []
    return found


def distill_flags(cell: PlanCell, workshop: Workshop) -> list[str]:
    """The command that makes a cell's synset, without what its needs and the machine add."""
    flags = ["distill", "--method", cell.method, *_data(cell), "--seed", str(cell.seed)]
    flags += [
        "--out",
        str(workshop.run(cell)),
        *_pair("--ipc", cell.ipc),
        *_pair("--max-bytes", cell.max_bytes),
        "--recipe",
        cell.recipe,
    ]
    return [*flags, *_pair("--student", cell.student), *cell.distill]


def root_flags(needs: Sequence[Need[Any]], workshop: Workshop) -> list[str]:
    """Where needs keep things: in the plan's folder, under the name that each root has by default."""
    return [
        word
        for need in needs
        if need.root is not None
        for word in (
            f"--{need.root.replace('_', '-')}",
            str(workshop.out / getattr(need.flags(), need.root).name),
        )
    ]


def evaluate_flags(cell: PlanCell, workshop: Workshop, teacher: Path | None) -> list[str]:
    """The command that scores a cell's synset."""
    flags = ["evaluate", str(workshop.run(cell)), "--protocol", cell.protocol, "--seeds", str(cell.seeds)]
    if MACHINE & {flag.partition("=")[0] for flag in cell.evaluate}:  # they mark the file's name, which submit asks for
        name = cell.kind.protocol(cell.protocol).name
        flags += ["--out", str(workshop.run(cell) / "evaluations" / f"{name}.json")]
    flags += ["--workers", "1", *ALL, *_pair("--students", ",".join(cell.students)), *_pair("--size", cell.size)]
    flags += [*_pair("--teacher", teacher), "--teachers", str(workshop.teachers)]
    return [*flags, *cell.evaluate, *workshop.flags(cell)]


def submit_flags(cell: PlanCell, workshop: Workshop, teacher: Path | None) -> list[str]:
    """The command that makes a cell's row."""
    flags = ["submit", str(workshop.run(cell)), "--protocol", cell.kind.protocol(cell.protocol).name]
    flags += ["--leaderboard", str(workshop.leaderboard)]
    flags += [*_pair("--teacher", teacher), "--teachers", str(workshop.teachers)]
    flags += [*_pair("--name", cell.title), *_pair("--note", cell.note)]
    for key, value in workshop.submission.items():
        flags += [f"--{key}", value]
    for target in (target for target in cell.published if target.value is not None):
        flags += ["--claim", f"{target.student}={target.value!r}", "--claim-source", target.source]
    return flags


def _data(cell: PlanCell) -> list[str]:
    return ["--dataset", cell.dataset, *_pair("--size", cell.size)]


def _pair(flag: str, value: object) -> list[str]:
    return [flag, str(value)] if value else []
