"""``ddbench leaderboard verify|check``: train rows of a board again; look through a board without training."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ddbench.cli.engine import Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.settings import worker_count
from ddbench.cli.shards import Sharded, print_status, with_shard
from ddbench.runtime.errors import UserError
from ddbench.statistics import range_words

if TYPE_CHECKING:
    from ddbench.leaderboard.result import Result
    from ddbench.leaderboard.verification import Verification

DESCRIPTION = """Train rows of a board again from the synset that lies beside them, under their protocol, with their
students and seeds, and write what came out beside the claim: <id>.verified.json, with a verdict. Nothing is downloaded
and no code of a submission runs. Killed at any moment, the same command goes on. Exit code 1: a row is below its claim,
whatever became of others; 2: none is, and one could not be verified.

verdicts: identical (the same seeds gave the same numbers), within (the 95 % interval of an honest row), above, below"""

EXAMPLES = """  ddbench leaderboard verify                                  # all rows that have no verification yet
  ddbench leaderboard verify ID --again
  ddbench leaderboard verify ID --seeds 10                    # networks that the row has not seen
  ddbench leaderboard verify ID --measured                    # calibration, robustness, corruptions, tasks
  ddbench leaderboard verify --max-minutes 30 --workers 0
  ddbench leaderboard verify --shard 0/4                      # and 1/4, 2/4, 3/4 elsewhere
  ddbench leaderboard verify --status
  ddbench leaderboard verify ID --synset Downloads/large.safetensors"""


@dataclass(frozen=True, kw_only=True)
class VerifyArgs(Engines, Sharded):
    """Flags of ``leaderboard verify``."""

    ids: tyro.conf.Positional[tuple[str, ...]] = ()
    """Rows, by id (the name of a row's file, as submit printed it) or its first digits; default: all that
    stand, have their files at hand and no verification."""
    leaderboard: Path = Path("leaderboard")
    """Folder of the board."""
    seeds: int | None = None
    """Train so many new networks of each student instead of the row's own seeds."""
    first_seed: int | None = None
    """First seed of those; default: the one after the row's last."""
    measured: bool = False
    """Also measure calibration, robustness, corruptions and tasks again, where the row has them; a row whose
    verification lacks them is verified once more."""
    synset: Path | None = None
    """Synset file of the one row that is named, when it does not lie beside it; its sha256 must be the row's."""
    teacher: Path | None = None
    """Teacher file of the one row that is named, likewise."""
    labels: Path | None = None
    """Stored labels of the one row that is named, likewise."""
    again: bool = False
    """Also rows that have a verification: they are trained anew, and it is replaced."""
    max_minutes: float | None = None
    """Stop after so many minutes; the same command goes on. Rows are then trained side by side, --workers at once."""
    allow_folders: bool = False
    """Let a row of its submitter's own images (folder:, npz:, hub:) read what has that name on this machine."""
    work: Path = Path("runs/verify")
    """Folder for the trainings, so that they can be resumed."""
    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    device: str = "auto"
    """cpu, cuda or cuda:<i>; auto: the kind of device that the row was evaluated on, where this machine has it."""
    threads: int = 0
    """Threads of each process; 0: as many as the row says, since the last bits of a result depend on it."""
    compile: str = "auto"
    """torch.compile: auto, on or off."""
    workers: int = 1
    """Runs at once, each in its own process; 0: one a core, on a GPU one."""
    quiet: bool = False
    """Print results and errors only."""


@dataclass
class CheckArgs:
    """Flags of ``leaderboard check``."""

    leaderboard: Path = Path("leaderboard")
    """Folder of the board; its results are in results/."""


def verify(argv: list[str]) -> None:
    """Run ``ddbench leaderboard verify``; exit code 1 when a row is below its claim.

    Raises:
        UserError: no such row, a file that is not the row's, or (after all others were done) a row that cannot be
            trained again.
    """
    args = parse(VerifyArgs, with_shard(argv), "ddbench leaderboard verify", DESCRIPTION, EXAMPLES)
    if args.max_minutes is not None and not args.max_minutes > 0:
        raise UserError(f"--max-minutes {args.max_minutes:g}: expected more than 0")
    from ddbench.leaderboard.attachments import LABELS, SYNSET, TEACHER
    from ddbench.leaderboard.retrain import Request, prepare, status, verify_rows

    shard = args.part
    files = {SYNSET: args.synset, TEACHER: args.teacher, LABELS: args.labels}
    request = Request(
        root=args.leaderboard,
        work=args.work,
        files={part: path for part, path in files.items() if path is not None},
        data=args.data,
        seeds=args.seeds,
        first_seed=args.first_seed,
        device=args.device,
        threads=args.threads,
        compile=args.compile,
        workers=worker_count(args.workers, args.threads or 1, args.device)[0],
        folders=args.allow_folders,
        measured=args.measured,
        again=args.again,
        quiet=args.quiet,
    )
    if args.status:
        print_status(args.leaderboard, status(request, args.ids))
        return
    rows, notes = prepare(request, args.ids, shard=shard)
    for note in notes:
        print(note)
    known = {row.id: row for row in rows}
    refused, verdicts = [], []
    limit = None if args.max_minutes is None else 60 * args.max_minutes
    with fan_out(args):
        for outcome in verify_rows(request, rows, limit):
            row = known.pop(outcome.id)
            if outcome.verification is None:
                refused.append(outcome.refused)
                print(f"{outcome.id} not verified: {outcome.refused}")
            else:
                verdicts.append(outcome.verification.verdict)
                print_verification(row, outcome.verification)
                for note in outcome.notes:
                    print(f"  {note}")
    if known:
        print(f"stopped after {args.max_minutes:g} minutes, {len(known)} row(s) not finished; the same command goes on")
    if verdicts:
        print(f"next: ddbench leaderboard build --leaderboard {shlex.quote(str(args.leaderboard))}")
    if "below" in verdicts:  # it outweighs rows that are refused: each of them is told above
        raise SystemExit(1)
    if refused:
        raise UserError(f"{len(refused)} row(s) cannot be verified; the first: {refused[0]}")


def print_verification(row: Result, made: Verification) -> None:
    """Claimed and measured numbers of each student side by side."""
    from ddbench.evaluation.result import said_before
    from ddbench.leaderboard.columns import SHORT
    from ddbench.leaderboard.coverage import checked

    named = said_before(made.metric, row.metrics[made.metric].title).rstrip()
    synset, unit = row.synset, row.metrics[made.metric].unit
    what = f"{synset.method} on {synset.dataset}, {synset.budget.name}, {row.protocol.name}"
    print(f"{row.id}  {what}: {checked(row, made).words}")
    claims = {claim.student: claim.value for claim in row.submission.claims if claim.metric == made.metric}
    lines = [
        (
            f"{student}, {named}" if named else student,
            _number(claims[student], unit) if student in claims else "-",
            entry,
            unit,
        )
        for student, entry in made.students.items()
    ]
    for metric, table in made.measured.items():
        own = row.metrics[metric].unit
        lines += [(f"{student}, {SHORT.get(metric, metric)}", "-", entry, own) for student, entry in table.items()]
    for task, found in (made.tasks or {}).items():
        units = (row.tasks or {})[task].metrics
        lines += [
            (f"{task}, {SHORT.get(name, name)}", "-", one, units[name].unit) for name, one in found.compared.items()
        ]
    rows = [("student", "published", "claimed", "measured", "within", "runs", "verdict")]
    for name, published, entry, unit in lines:
        show = partial(_number, unit=unit)
        within = range_words(entry.low, entry.high, show, unit) or "-"
        rows.append((name, published, show(entry.claimed), show(entry.measured), within, str(entry.n), entry.verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    aligned = (str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.rjust, str.ljust)
    for cells in rows:
        words = [align(word, width) for align, word, width in zip(aligned, cells, widths, strict=True)]
        print(f"  {'  '.join(words).rstrip()}")
    print(f"  on {made.device}, torch {made.versions.get('torch', '?')}, {made.threads} thread(s)")


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.2f}" if unit == "fraction" else f"{value:.4g}"


def check(argv: list[str]) -> None:
    """Run ``ddbench leaderboard check``.

    Raises:
        UserError: the first thing that is wrong.
    """
    args = parse(
        CheckArgs,
        argv,
        "ddbench leaderboard check",
        "Look through a board: every row, every file beside one (name, size, hash, header, picture), what supersedes "
        "what, every verification. Trains nothing, runs nothing of a submission.",
        "  ddbench leaderboard check",
    )
    from ddbench.leaderboard.audit import check_board

    found = check_board(args.leaderboard)
    print(f"{args.leaderboard}: {found['rows']} rows, {found['files']} files beside them, {found['verified']} verified")
