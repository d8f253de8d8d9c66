"""``ddbench reproduce PLAN``: fill the cells of a plan that have no row yet, cheapest first, in a time budget."""

from __future__ import annotations

import contextlib
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path

import tyro

from ddbench.cli.distill import needed
from ddbench.cli.engine import Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, worker_count
from ddbench.cli.shards import Sharded, print_status, with_shard
from ddbench.evaluation.result import said_before
from ddbench.leaderboard.plans import Plan, PlanCell, find_plan
from ddbench.leaderboard.reproduction import (
    Workshop,
    board_teachers,
    buffer_flags,
    check_teachers,
    choose_cells,
    distill_flags,
    evaluate_flags,
    fill,
    own_cells,
    root_flags,
    rows_of,
    status,
    submit_flags,
    teacher_flags,
)
from ddbench.runtime.device import share_of
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, plain_or_absent
from ddbench.runtime.interruption import part
from ddbench.runtime.progress import Console, aloud, heard, under


@dataclass(frozen=True, kw_only=True)
class Args(Common, Engines, Sharded):
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
    """Cells at once, each in its own process; 0: one a core, on a GPU one."""
    dry_run: bool = False
    """Print the cells, what is there and what is to be done, and do nothing."""


EXAMPLES = """  ddbench reproduce digits-cpu --dry-run
  ddbench reproduce digits-cpu --budget 30m --workers 2
  ddbench reproduce cifar10-gpu --budget 8h --only "*-ipc1-*" --download
  ddbench reproduce digits-cpu --shard 0/2                              # and 1/2 elsewhere
  ddbench reproduce digits-cpu --status
  ddbench reproduce my-plan.toml --out /data/my-plan --leaderboard my-board"""


EXPECTED = " (expected)"
"""Behind minutes that nobody has measured."""


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: the plan is malformed, or some of its cells failed (after all others were done).
    """
    args = arguments(argv)
    deadline = None if args.budget is None else time.monotonic() + parse_span(args.budget)
    plan = find_plan(args.plan)
    # cells on other machines: the cores of this one say nothing
    workers, threads = worker_count(args.workers, args.threads or (1 if args.engine == "ray" else 0), args.device)
    cells = choose_cells(plan, args.only)
    workshop = workshop_of(args, plan, threads)
    check_teachers(plan, cells, workshop, needed)
    own, failed = own_cells(cells, args.part), {}
    if args.status:
        print_status(plan.name, status(cells, workshop))
        return
    if line := on_cpu(args, cells):
        print(line)
    if not args.dry_run:
        job, console = "ddbench.cli.reproduce:do_cell", Console(args.quiet)
        workshop = replace(workshop, shown=console.terminal and not args.quiet)
        with fan_out(args):
            failed = fill(job, plan, workshop, own, workers=workers, deadline=deadline, console=console)
    print(plan.title)
    if _print(cells, args.leaderboard, failed) and not args.dry_run:
        workshop.units.clear()
    if failed:
        name, message = next(iter(failed.items()))
        raise UserError(f"{len(failed)} cell(s) failed; the first, {name}: {message}")


def arguments(argv: list[str]) -> Args:
    """The flags of the verb."""
    return parse(Args, with_shard(argv), "ddbench reproduce", str(Args.__doc__), EXAMPLES)


def workshop_of(args: Args, plan: Plan, threads: int) -> Workshop:
    """What all cells share."""
    return Workshop(
        out=args.out or Path("reproduce") / plan.name,
        leaderboard=args.leaderboard,
        submission=plan.submission,
        common=tuple(_common(args)),
        cores=threads,
    )


def on_cpu(args: Args, cells: Sequence[PlanCell]) -> str:
    """What is told of cells that are done on the CPU whatever ``--device`` and ``--compile`` say; empty: nothing."""
    asked = f"--device {args.device}" if args.device.startswith("cuda") else ""
    asked = asked or ("--compile on" if args.compile == "on" else "")
    count = sum(cell.kind.cpu_only for cell in cells)
    if not asked or not count:
        return ""
    return f"{asked}: {count} of {len(cells)} cells are of graphs, which run on the CPU, without a compiler"


def parse_span(text: str) -> float:
    """Seconds of a span such as ``1h30m``.

    Raises:
        UserError: another form, or nothing.
    """
    found = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise UserError(f"--budget {text}: expected a time such as 30m, 2h, 1h30m or 90s")
    return float(total)


def _common(args: Args) -> list[str]:
    flags = ["--device", args.device, "--threads", str(args.threads), "--compile", args.compile, "--quiet"]
    if args.data is not None:
        flags += ["--data", str(args.data)]
    asked = {"--download": args.download, "--skip-broken": args.skip_broken}
    return [*flags, *(flag for flag, on in asked.items() if on)]


def do_cell(workshop: Workshop, cell: PlanCell) -> str:
    """Everything of one cell, through the verbs; run by a worker. Returns why it failed, or nothing.

    What the verbs print goes to a log. Experts, teachers and synsets that other cells want too are made by one worker
    at a time; the others wait and find them.
    """
    log = workshop.log(cell)
    ensure_writable(log.parent)
    plain_or_absent(log, "log")
    terminal = sys.stderr  # above the bar
    alone = workshop.shown and parent_process() is None  # who has workers says it
    told = aloud(lambda text: print(text, file=terminal, flush=True)) if alone else contextlib.nullcontext()
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            with share_of(workshop.cores), told, part(cell.name), _telling(workshop, cell):
                _do(workshop, cell)
        except UserError as error:
            message = " ".join(str(error).split())
            print(f"failed: {message}")
            return message
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}; see {log}"
    return ""


@contextlib.contextmanager
def _telling(workshop: Workshop, cell: PlanCell) -> Iterator[None]:
    """Say what the cell is at, verb by verb, for who looks at the terminal."""
    if not workshop.shown:
        yield
        return
    now = workshop.now(cell)

    def tell(words: str) -> None:
        with contextlib.suppress(OSError):
            now.write_text(f"{cell.name} {words}", "utf-8")

    try:
        with heard(tell):
            yield
    finally:
        now.unlink(missing_ok=True)


def _do(workshop: Workshop, cell: PlanCell) -> None:
    from ddbench.cli import teacher
    from ddbench.cli.main import dispatch

    with workshop.turn("experts"):
        buffer = buffer_flags(cell, workshop)
        if buffer:
            _say_and(buffer, dispatch)
    flags, given = teacher_flags(cell, workshop), None
    if flags is not None:
        with workshop.turn("teacher"), under("teacher"):
            given = teacher.trained(flags, board_teachers(cell, workshop.leaderboard))
    distill = distill_flags(cell, workshop)
    needs = needed(distill)
    # What a run may make first is for others too, so runs with such a need take their turns; others have their own.
    with workshop.turn(*([need.key for need in needs if not need.early] or [cell.run])):
        _say_and([*distill, *root_flags(needs, workshop), *workshop.flags(cell)], dispatch)
    _say_and(evaluate_flags(cell, workshop, given), dispatch)
    _say_and(submit_flags(cell, workshop, given), dispatch)


def _say_and(argv: list[str], act: Callable[[list[str]], object]) -> None:
    print("$ ddbench " + " ".join(argv), flush=True)
    with under(argv[0]):
        act(argv)


def _print(cells: Sequence[PlanCell], leaderboard: Path, failed: Mapping[str, str]) -> bool:
    """The cells with what was measured beside what is published; whether all have a row."""
    rows = rows_of(cells, leaderboard)
    width = max(len(cell.name) for cell in cells)
    for cell in cells:
        result = rows[cell.name]
        if result is None:
            state = "failed" if cell.name in failed else "open"
            targets = "; ".join(
                f"published {100 * one.value:.1f} ({one.student})" for one in cell.published if one.value is not None
            )
            cost = f"about {cell.minutes:g} min{EXPECTED if cell.expected else ''}"
            print(f"  {cell.name:<{width}}  {state:<7} {cost}  {targets}".rstrip())
            continue
        published = {one.student: one.value for one in cell.published if one.value is not None}
        parts, main = [], result.main_metric
        named = said_before(main, result.metrics[main].title)
        for student in cell.students or result.students:
            mean = result.summary[student][main]["mean"]
            target = f", published {100 * published[student]:.1f}" if student in published else ""
            parts.append(f"{student} {named}{100 * mean:.1f}{target}")
        print(f"  {cell.name:<{width}}  {'; '.join(parts)}")
    done = sum(row is not None for row in rows.values())
    if any(cell.expected and rows[cell.name] is None for cell in cells):
        print(f"minutes with{EXPECTED} are expectations for the plan's device; nobody has measured them")
    print(f"{done} of {len(cells)} cells have a row in {leaderboard}")
    return done == len(cells)
