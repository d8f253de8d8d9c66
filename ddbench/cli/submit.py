"""``ddbench submit RUN``: turn an evaluated run into a row of the board."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional, UseAppendAction

from ddbench.cli.parse import parse

if TYPE_CHECKING:
    from ddbench.leaderboard.submit import Plan

DESCRIPTION = """Put the evaluation of a run on a board: results/<dataset>/<budget>/<method>/<id>.json with its preview
and synset beside it. Works for a run of `ddbench distill` and for a synset made elsewhere (`ddbench import`). Every
single run is kept, and the id is the hash of the content: submitting the same thing twice changes nothing. --dry-run
lists what is there and what is missing. `ddbench leaderboard build` then writes the pages. docs/submitting.md says how
to bring a row to a board of others."""

EXAMPLES = """  ddbench submit runs/my-synset --dry-run
  ddbench submit runs/my-synset --name "MTT, 5000 iterations" --author "A. Author" --licence MIT \\
      --claim convnet-d3-w128-in=0.887 --claim-source "table 1 of the paper"
  ddbench submit runs/my-synset --protocol dc-legacy
  ddbench submit runs/my-synset --task tasks/digits-continual.json --task tasks/digits-nas.json
  ddbench submit runs/imported --method kip --synset-url https://example.org/kip.safetensors --all"""


@dataclass
class SubmitArgs:
    """Flags of ``submit``."""

    run: Positional[Path]
    """Folder of the run, evaluated with `ddbench evaluate`, or the synset file in it."""
    leaderboard: Path = Path("leaderboard")
    """Folder of the board."""
    protocol: str | None = None
    """Which evaluation, when the run has several: its name, or the file that `ddbench evaluate --out` wrote; default:
    the only one, or the only standard one."""
    all: bool = False
    """All standard evaluations of the run: a row each."""
    name: str = ""
    """How the method is called on the board."""
    method: str = ""
    """Name of the method of an imported synset, where `ddbench import` was not told: small letters, digits, dashes."""
    author: UseAppendAction[tuple[str, ...]] = ()
    """Who submits; may be repeated."""
    link: UseAppendAction[tuple[str, ...]] = ()
    """http(s) address of the paper or project; may be repeated."""
    code: str = ""
    """http(s) address of the code."""
    licence: str = ""
    """Licence of the synset."""
    note: str = ""
    """A few sentences for the row."""
    claim: UseAppendAction[tuple[str, ...]] = ()
    """What the authors report, as STUDENT=FRACTION; stands beside what was measured; may be repeated."""
    claim_source: UseAppendAction[tuple[str, ...]] = ()
    """Where they report it: once for all claims, or once for each."""
    synset_url: str = ""
    """http(s) address of the synset file, when it is too large to lie beside the row (2 MB)."""
    teacher: Path | None = None
    """File of the teacher that labelled views; default: looked for under --teachers by its hash."""
    teachers: Path = Path("teachers")
    """Root of the teachers (ddbench teacher)."""
    teacher_url: str = ""
    """http(s) address of the teacher file, when it is too large to lie beside the row."""
    labels: Path | None = None
    """File of the stored labels that were replayed; default: labels.safetensors of the run."""
    labels_url: str = ""
    """http(s) address of the stored labels, when they are too large to lie beside the row."""
    task: UseAppendAction[tuple[Path, ...]] = ()
    """Result of a task that has the run (tasks/<dataset>-<task>.json): columns of their own; may be repeated."""
    leave_out: UseAppendAction[tuple[str, ...]] = ()
    """A student of the evaluation that is not to be on the row, such as one that diverged; may be repeated."""
    dry_run: bool = False
    """Say what would be written and what is missing, and write nothing."""


def main(argv: list[str]) -> None:
    """Run ``ddbench submit``.

    Raises:
        UserError: no run, no evaluation, one of another synset, or a value that the result schema refuses.
    """
    args = parse(SubmitArgs, argv, "ddbench submit", DESCRIPTION, EXAMPLES)
    from ddbench.leaderboard.packing import Given
    from ddbench.leaderboard.submit import Submission, parse_claim, submit_run

    submission = Submission(
        method=args.method,
        method_title=args.name,
        authors=args.author,
        links=args.link,
        code=args.code,
        licence=args.licence,
        note=args.note,
        claims=[parse_claim(claim) for claim in args.claim],
        claim_source=args.claim_source,
        synset_url=args.synset_url,
        teacher_url=args.teacher_url,
        labels_url=args.labels_url,
        leave_out=args.leave_out,
        tasks=args.task,
    )
    given = Given(teacher=args.teacher, labels=args.labels, teachers=args.teachers)

    made = submit_run(
        args.run,
        args.leaderboard,
        submission,
        given,
        protocol=args.protocol,
        every=args.all,
        dry_run=args.dry_run,
    )
    any_written = False
    for plan, paths in made:
        if args.protocol is None and not args.all:
            _say_which(args.run)
        _say(plan, paths, args.dry_run)
        _say_whose_labels(args.leaderboard, plan)
        any_written = any_written or bool(paths)
    if any_written:
        print(f"next: ddbench leaderboard build --leaderboard {shlex.quote(str(args.leaderboard))}")


def _say_which(run: Path) -> None:
    """Which evaluation of several is taken though none was named."""
    from ddbench.leaderboard.evaluated import evaluation_path, evaluations

    taken = evaluation_path(run, None).stem
    others = [path.stem for path in evaluations(run) if path.stem != taken]
    if others:
        print(f"taking {taken}, the only standard evaluation; --protocol takes another: {', '.join(others)}")


def _say(plan: Plan, paths: list[Path], dry_run: bool) -> None:
    """What was written for one row, or would be."""
    added = ", ".join(map(str, plan.attachments))
    if dry_run:
        if plan.known:
            print(f"already there: {plan.path}" + (f"; would add {added}" if added else ""))
        else:
            print(f"would write {', '.join(map(str, [*plan.attachments, plan.path]))}")
        _print_items(plan)
    elif plan.known:
        print(f"already there: {plan.path}" + (f"; added {added}" if paths else ", nothing to do"))
    else:
        print(f"wrote {', '.join(map(str, paths))}")
    if plan.kept:
        print(f"kept from {plan.result.supersedes}, whose place the row takes: {', '.join(plan.kept)}")
    if not plan.known and not plan.result.protocol.standard:
        print("the row is non-standard: protocol settings were altered")
    for item in plan.lacks if not dry_run else []:
        print(f"nobody else can train this row again: {item.name} {item.text}")


def _say_whose_labels(board: Path, plan: Plan) -> None:
    """Whether random images of the row's table had another teacher, and where that is."""
    from ddbench.leaderboard.submit import other_teachers

    others = other_teachers(board, plan.result)
    if others:
        usable = plan.result.teacher is not None and others[0].is_file()
        again = f"; evaluate with --teacher {shlex.quote(str(others[0]))} to compare the images alone" if usable else ""
        print(f"note: another teacher labelled random images of this table, and the board says so{again}")


def _print_items(plan: Plan) -> None:
    """What the submission has and what it lacks."""
    from ddbench.leaderboard.packing import NEEDED, OPTIONAL, WANTED

    heads = {
        NEEDED: "needed for training the row again",
        WANTED: "wanted: what every reader looks for",
        OPTIONAL: "optional",
    }
    for group, head in heads.items():
        print(f"{head}:")
        for item in plan.items:
            if item.group == group:
                print(f"  {'there  ' if item.there else 'missing'}  {item.name:<13} {item.text}")
