"""``ddbench plan VERB ...``: what a long command will take, before it is begun."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.cli.parse import parse
from ddbench.registry import suggest
from ddbench.runtime.device import own_threads, worker_count
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.runtime.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class Args:
    """What a long command will take: units, operations, hours, memory, disk. Nothing is written where it would write.

    A few of its steps are done here, for some seconds, and the rest is worked out. The verb's own flags follow it.
    """

    workers: int = 0
    """Tell the hours with so many workers like the measured one too, on as many cores, GPUs or machines."""
    seconds: float = 3.0
    """About how long steps are measured (each student of an evaluation)."""
    json: bool = False
    """Print JSON."""


VERBS = ("buffer", "distill", "evaluate", "reproduce")

EXAMPLES = """  ddbench plan buffer --recipe mtt/digits-ipc1
  ddbench plan --workers 8 evaluate runs/digits-ipc1-mtt-s0 --students mtt --seeds 10
  ddbench plan --json distill --method dm --dataset digits --ipc 10
  ddbench plan --workers 4 reproduce digits-cpu"""


def main(argv: list[str]) -> None:
    """Run the verb.

    Raises:
        UserError: no verb, or what the verb would refuse.
    """
    place = next((number for number, word in enumerate(argv) if word in VERBS), len(argv))
    args = parse(Args, _own(argv[:place]), "ddbench plan", str(Args.__doc__), EXAMPLES)
    if place == len(argv):
        raise UserError(f"plan: no verb; one of: {', '.join(VERBS)}, then its own flags")
    if args.workers < 0 or not 0 < args.seconds < float("inf"):
        raise UserError(
            f"--workers {args.workers} --seconds {args.seconds:g}: expected at least 0 workers, and more than 0 seconds"
        )
    verb, flags = argv[place], argv[place + 1 :]
    kinds: dict[str, Callable[[list[str], float], tuple[Forecast, int]]] = {
        "buffer": _buffer,
        "distill": _distill,
        "evaluate": _evaluate,
        "reproduce": _reproduce,
    }
    found, here = kinds[verb](flags, args.seconds)
    counts = sorted({1, here, *([args.workers] if args.workers else [])})
    if args.json:
        print(json.dumps({"verb": verb, **found.to_json(counts), "workers_here": here}, indent=1, sort_keys=True))
    else:
        _print(found, counts, here)


def _own(words: list[str]) -> list[str]:
    """The flags before the verb.

    Raises:
        UserError: a word that is no flag, where the verb should be.
    """
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and before not in ("--workers", "--seconds"):
            raise UserError(
                f"plan {word}: not a verb that is planned{suggest(word, VERBS)}; one of: {', '.join(VERBS)}"
            )
    return words


def _buffer(flags: list[str], seconds: float) -> tuple[Forecast, int]:
    from ddbench.cli.buffer import arguments
    from ddbench.cli.settings import open_dataset, student_for
    from ddbench.experts.forecast import forecast

    args = arguments(flags)
    workers = worker_count(args.workers, args.threads, args.device)[0]
    dataset = open_dataset(args.dataset, args.size, args)
    found = forecast(
        root=args.buffers,
        dataset=dataset,
        data=args.data,
        student=student_for(args.student, dataset),
        recipe=args.settings,
        experts=args.experts,
        threads=own_threads(args.threads, dataset.spec.size, workers),
        device=args.device,
        at_once=args.at_once,
        seconds=seconds,
    )
    return found, workers


def _distill(flags: list[str], seconds: float) -> tuple[Forecast, int]:
    from ddbench.cli.distill import arguments
    from ddbench.distillation.start import forecast

    given = arguments(flags)
    return forecast(seconds, **given), worker_count(given["workers"], given["threads"], given["device"])[0]


def _evaluate(flags: list[str], seconds: float) -> tuple[Forecast, int]:
    from ddbench.cli.evaluate import arguments
    from ddbench.evaluation.start import forecast

    args = arguments(flags)
    return forecast(args.run, args, seconds), worker_count(args.workers, args.threads, args.device)[0]


def _reproduce(flags: list[str], seconds: float) -> tuple[Forecast, int]:
    from ddbench.cli.distill import needed
    from ddbench.cli.main import dispatch
    from ddbench.cli.reproduce import arguments, workshop_of
    from ddbench.leaderboard.forecast import forecast
    from ddbench.leaderboard.plans import find_plan
    from ddbench.leaderboard.reproduction import check_teachers, choose_cells

    args = arguments(flags)
    plan = find_plan(args.plan)
    workers, threads = worker_count(args.workers, args.threads, args.device)

    def make(words: list[str]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            dispatch(words)

    cells, workshop = choose_cells(plan, args.only), workshop_of(args, plan, threads)
    check_teachers(plan, cells, workshop, needed)
    return forecast(
        plan, cells, workshop, threads, make=make, score=lambda words: _evaluate(words[1:], seconds)[0]
    ), workers


def _print(found: Forecast, counts: list[int], here: int) -> None:
    from ddbench.data.limits import available_memory, free_disk, readable

    left = found.all - found.done
    lines: list[tuple[str, Any]] = [("units", f"{left} of {found.all} {found.unit}(s) left")]
    if found.flops is not None:
        lines.append(("operations", f"{found.flops:.3g} FLOPs"))
    for one in found.measured:
        rate = "" if not one.flops else f", {one.flops:.3g} FLOPs, {one.flops / one.seconds / 1e9:.3g} GFLOP/s"
        lines.append(("measured", f"{one.what}: {span(one.seconds)} (of {one.times}){rate}"))
    lines.append(("on", f"{found.device}, {found.threads} thread(s)"))
    for count in counts:
        words = f"{count} worker{'s' if count > 1 else ''}{' (this command here)' if count == here else ''}"
        shared = f" at best: {found.means}, messages not counted" if min(count, found.parts) > 1 and left == 1 else ""
        lines.append(("time", f"{span(found.wall(count))} with {words}{shared}"))
    if found.memory:
        free, where = (available_memory(), "here") if found.free is None else (found.free, "on the GPU")
        lines.append(("memory", f"{readable(found.memory)} a worker; {readable(free)} are free {where}"))
    disk = "not known" if found.disk is None else readable(found.disk)
    lines.append(("disk", f"{disk} in {found.place}; {readable(free_disk(Path(found.place)))} are free there"))
    lines += [("note", note) for note in found.notes]
    print(found.what)
    for name, text in lines:
        print(f"  {name:<10}  {text}")


def span(seconds: float) -> str:
    """A time for people: ``3.2 ms``, ``12 s``, ``7.5 min``, ``3.1 h``."""
    for limit, unit, name in ((1, 1e-3, "ms"), (90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 3600:,.1f} h"
