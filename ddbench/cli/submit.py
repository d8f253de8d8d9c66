"""``ddbench submit RUN``: turn an evaluated run into a row of the board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional, UseAppendAction

from ddbench.cli.parse import parse

DESCRIPTION = """Put the evaluation of a run on a board: results/<dataset>/<budget>/<method>/<id>.json with its preview
and synset beside it. Every single run is kept, and the id is the hash of the content: submitting the same thing twice
changes nothing. `ddbench leaderboard build` then writes the pages."""

EXAMPLES = """  ddbench submit runs/my-synset
  ddbench submit runs/my-synset --name "MTT, 5000 iterations" --author "A. Author" --licence MIT \\
      --claim convnet-d3-w128-in=0.887 --claim-source "table 1 of the paper"
  ddbench submit runs/my-synset --protocol dc-legacy --dry-run"""


@dataclass
class SubmitArgs:
    """Flags of ``submit``."""

    run: Positional[Path]
    """Folder of the run, evaluated with `ddbench evaluate`."""
    leaderboard: Path = Path("leaderboard")
    """Folder of the board."""
    protocol: str | None = None
    """Which evaluation, when the run has several."""
    name: str = ""
    """How the method is called on the board."""
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
    claim_source: str = ""
    """Where they report it."""
    dry_run: bool = False
    """Say what would be written, and write nothing."""


def main(argv: list[str]) -> None:
    """Run ``ddbench submit``.

    Raises:
        UserError: no evaluation, an evaluation of another synset, or a value that the result schema refuses.
    """
    args = parse(SubmitArgs, argv, "ddbench submit", DESCRIPTION, EXAMPLES)
    from ddbench.leaderboard.submit import Submission, make_result, parse_claim, plan_submission, write_plan

    submission = Submission(
        method_title=args.name,
        authors=args.author,
        links=args.link,
        code=args.code,
        licence=args.licence,
        note=args.note,
        claims=[parse_claim(claim) for claim in args.claim],
        claim_source=args.claim_source,
    )
    plan = plan_submission(args.run, args.leaderboard, make_result(args.run, args.protocol, submission))
    notes = "".join(f"; {note}" for note in plan.notes)
    if plan.known:
        print(f"already there, nothing to do: {plan.path}")
    elif args.dry_run:
        print(f"would write {', '.join(map(str, (*plan.attachments, plan.path)))}{notes}")
    else:
        print(f"wrote {', '.join(map(str, write_plan(plan)))}{notes}")
        print(f"next: ddbench leaderboard build --leaderboard {args.leaderboard}")
    if not plan.known and not plan.result["protocol"]["standard"]:
        print("the row is non-standard: protocol settings were altered")
