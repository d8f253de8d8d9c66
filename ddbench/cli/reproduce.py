"""``ddbench reproduce PLAN``: fill the cells of a plan that have no row yet, cheapest first, in a time budget."""

from __future__ import annotations

import contextlib
import fnmatch
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.leaderboard.plans import Plan, PlanCell, find_plan, result_of
from ddbench.protocols.protocol import protocol
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable
from ddbench.runtime.locks import held
from ddbench.runtime.progress import Console

if TYPE_CHECKING:
    from ddbench.methods.needs import Need


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Fill a board by a plan: experts, teachers, synsets, scores and rows of every cell that has no row yet.

    Killed at any moment, or stopped by its budget, the same command goes on where it was.
    """

    plan: tyro.conf.Positional[str]
    """A shipped plan (ddbench list plans), or a TOML file (docs/reproduce.md)."""
    budget: str | None = None
    """Stop after this time: 30m, 2h, 1h30m, 90s; what is unfinished then goes on with the next call. Default: never."""
    only: str = "*"
    """Cells whose name fits this pattern, such as "*-mtt-*" or "*/hard-v1"."""
    out: Path | None = None
    """Folder for experts, teachers, runs and logs; default: reproduce/<plan>."""
    leaderboard: Path = Path("leaderboard")
    """Folder of the board."""
    workers: int = 1
    """Cells at once, each in its own process; 0: one a core."""
    dry_run: bool = False
    """Print the cells, what is there and what is to be done, and do nothing."""


EXAMPLES = """  ddbench reproduce digits-cpu --dry-run
  ddbench reproduce digits-cpu --budget 30m --workers 2
  ddbench reproduce cifar10-gpu --budget 8h --only "*-ipc1-*" --download
  ddbench reproduce my-plan.toml --out /data/my-plan --leaderboard my-board"""


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: the plan is malformed, or some of its cells failed (after all others were done).
    """
    args = parse(Args, argv, "ddbench reproduce", str(Args.__doc__), EXAMPLES)
    seconds = None if args.budget is None else parse_span(args.budget)
    plan = find_plan(args.plan)
    _check_flags(plan)
    workers, threads = worker_count(args.workers, args.threads)
    cells = [cell for cell in plan.cells if fnmatch.fnmatchcase(cell.name, args.only)]
    if not cells:
        raise UserError(f"--only {args.only}: fits none of the {len(plan.cells)} cells, e.g. {plan.cells[0].name}")
    deadline = None if seconds is None else time.monotonic() + seconds
    open_cells = _missing(args, cells)
    failed: dict[str, str] = {}
    if open_cells and not args.dry_run:
        failed = _fill(args, plan, open_cells, workers, threads, deadline)
        from ddbench.leaderboard.pages.page import build

        build(args.leaderboard)
    _print(args, plan, cells, failed)
    if failed:
        name, message = next(iter(failed.items()))
        raise UserError(f"{len(failed)} cell(s) failed; the first, {name}: {message}")


def parse_span(text: str) -> float:
    """Seconds of a span such as ``1h30m``.

    Raises:
        UserError: another form, or nothing.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UserError(f"--budget {text}: expected a time such as 30m, 2h, 1h30m or 90s")
    return float(total)


def _check_flags(plan: Plan) -> None:
    """Refuse methods that are not there before anything is made."""
    from ddbench.methods import METHODS

    for cell in plan.cells:
        if cell.method not in METHODS:
            raise UserError(f"plan {plan.name}: unknown method {cell.method!r}{suggest(cell.method, METHODS)}")


def _missing(args: Args, cells: Sequence[PlanCell]) -> list[PlanCell]:
    """Cells without a row, cheapest first."""
    results = _results(args)
    found = [cell for cell in cells if result_of(cell, results) is None]
    return sorted(found, key=lambda cell: cell.minutes)


def _results(args: Args) -> list[Result]:
    from ddbench.leaderboard.schema import load_results

    return load_results(args.leaderboard)


def _out(args: Args, plan: Plan) -> Path:
    return args.out or Path("reproduce") / plan.name


def _fill(
    args: Args, plan: Plan, cells: list[PlanCell], workers: int, threads: int, deadline: float | None
) -> dict[str, str]:
    """Do the cells until all are done or the time is up; returns the messages of those that failed."""
    from ddbench.runtime.jobs import run_jobs

    out = _out(args, plan)
    ensure_writable(out)
    ensure_writable(args.leaderboard)
    shared = {
        "out": out,
        "leaderboard": args.leaderboard,
        "submission": plan.submission,
        "common": _common(args, threads),
    }
    failed: dict[str, str] = {}
    console = Console(args.quiet)
    console.say(f"{len(cells)} cells to do, logs in {out / 'logs'}")
    with console.bar(f"reproduce {plan.name}", len(cells)) as bar:
        for index, message in run_jobs("ddbench.cli.reproduce:do_cell", shared, cells, workers, deadline):
            name = cells[index].name
            if message:
                failed[name] = message
                console.say(f"{name} failed: {message}")
            bar.advance(name)
    if deadline is not None and time.monotonic() >= deadline:
        console.say("the budget is spent; the same command goes on")
    return failed


def _common(args: Args, threads: int) -> list[str]:
    flags = ["--device", args.device, "--threads", str(threads), "--compile", args.compile, "--quiet"]
    if args.data is not None:
        flags += ["--data", str(args.data)]
    return [*flags, "--download"] if args.download else flags


def do_cell(shared: dict[str, Any], cell: PlanCell) -> str:
    """Everything of one cell, through the verbs; run by a worker. Returns why it failed, or nothing.

    What the verbs print goes to a log. Experts, teachers and synsets that other cells want too are made by one worker
    at a time; the others wait and find them.
    """
    out: Path = shared["out"]
    log = out / "logs" / f"{cell.name.replace('/', '-')}.log"
    ensure_writable(log.parent)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            _do(shared, cell, out)
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"failed: {message}")
            return message
    return ""


def _do(shared: dict[str, Any], cell: PlanCell, out: Path) -> None:
    from ddbench.cli import teacher
    from ddbench.cli.distill import needed
    from ddbench.cli.main import dispatch

    common: list[str] = shared["common"]
    run = out / "runs" / cell.run
    with held(out / "locks" / "experts"):
        buffer = _buffer_flags(cell)
        if buffer:
            _say_and([*buffer, "--buffers", str(out / "expert_trajectories"), "--workers", "1", *common], dispatch)
    data = ["--dataset", cell.dataset, *_pair("--size", cell.size)]
    given: list[str] = []
    if cell.teacher is not None:
        with held(out / "locks" / "teacher"):
            flags = [*data, "--teachers", str(out / "teachers"), *cell.teacher, *common]
            given = ["--teacher", str(teacher.trained(flags))]
    distill = ["distill", "--method", cell.method, *data, "--seed", str(cell.seed), "--out", str(run)]
    distill += [*_pair("--ipc", cell.ipc or None), "--recipe", cell.recipe, *_pair("--student", cell.student)]
    distill += cell.distill
    needs = needed(distill)
    distill += [word for need in needs for word in _root_flags(need, out)]
    with _turns(out / "locks", needs, cell.run):
        _say_and([*distill, *common], dispatch)
    score = ["evaluate", str(run), "--protocol", cell.protocol, "--seeds", str(cell.seeds), "--workers", "1"]
    score += [*_pair("--students", ",".join(cell.students)), *_pair("--size", cell.size)]
    score += [*given, "--teachers", str(out / "teachers"), *cell.evaluate]
    _say_and([*score, *common], dispatch)
    with held(out / "locks" / "board"):
        _say_and(_submit_flags(shared, cell, run), dispatch)


def _root_flags(need: Need[Any], out: Path) -> list[str]:
    """Where a need keeps things: in the plan's folder, under the name that it has by default."""
    if need.root is None:
        return []
    return [f"--{need.root.replace('_', '-')}", str(out / getattr(need.flags(), need.root).name)]


@contextlib.contextmanager
def _turns(locks: Path, needs: Sequence[Need[Any]], run: str) -> Iterator[None]:
    """What a run may make first is for others too, so runs with such a need take their turns; others have their own."""
    keys = sorted(need.key for need in needs if not need.early)
    with contextlib.ExitStack() as stack:
        for key in keys or [run]:
            stack.enter_context(held(locks / key))
        yield


def _buffer_flags(cell: PlanCell) -> list[str]:
    """The ``buffer`` command of the cell's recipe, when its method needs experts."""
    from ddbench.distillation.start import choose, needed_experts

    chosen = choose(
        cell.method,
        recipe=cell.recipe,
        dataset=cell.dataset,
        ipc=cell.ipc,
        student=cell.student or None,
        size=cell.size,
    )
    if needed_experts(chosen) is None:
        return []
    if chosen.recipe is None:
        raise UserError(f"{cell.method} has no recipe for {cell.dataset}, ipc {cell.ipc}, that says which experts")
    return ["buffer", "--recipe", f"{cell.method}/{chosen.recipe.name}"]


def _submit_flags(shared: dict[str, Any], cell: PlanCell, run: Path) -> list[str]:
    flags = ["submit", str(run), "--protocol", protocol(cell.protocol).name]
    flags += ["--leaderboard", str(shared["leaderboard"]), "--teachers", str(shared["out"] / "teachers")]
    flags += [*_pair("--name", cell.title), *_pair("--note", cell.note)]
    for key, value in shared["submission"].items():
        flags += [f"--{key}", value]
    for target in cell.published:
        flags += ["--claim", f"{target.student}={target.value!r}", "--claim-source", target.source]
    return flags


def _pair(flag: str, value: Any) -> list[str]:
    return [flag, str(value)] if value else []


def _say_and(argv: list[str], act: Any) -> None:
    print("$ ddbench " + " ".join(argv), flush=True)
    act(argv)


def _print(args: Args, plan: Plan, cells: Sequence[PlanCell], failed: dict[str, str]) -> None:
    """The cells with what was measured beside what is published."""
    results = _results(args)
    done = 0
    print(f"{plan.title}")
    width = max(len(cell.name) for cell in cells)
    for cell in cells:
        result = result_of(cell, results)
        if result is None:
            state = "failed" if cell.name in failed else "open"
            targets = "; ".join(f"published {100 * one.value:.1f} ({one.student})" for one in cell.published)
            print(f"  {cell.name:<{width}}  {state:<7} about {cell.minutes:g} min  {targets}".rstrip())
            continue
        done += 1
        published = {one.student: one.value for one in cell.published}
        parts = []
        for student in cell.students or tuple(result["summary"]):
            entry = result["summary"][student]["accuracy"]
            target = f", published {100 * published[student]:.1f}" if student in published else ""
            parts.append(f"{student} {100 * entry['mean']:.1f}{target}")
        print(f"  {cell.name:<{width}}  {'; '.join(parts)}")
    print(f"{done} of {len(cells)} cells have a row in {args.leaderboard}")
