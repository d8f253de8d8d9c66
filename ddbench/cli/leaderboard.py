"""``ddbench leaderboard build|show|export|verify|truth|check``: a board's pages, tables, exports and checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.cli.parse import parse
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError

VERBS = {
    "build": "write LEADERBOARD.md, index.html and rows/ from the results",
    "show": "print the board",
    "export": "write the board as CSV, Parquet, LaTeX, JSON or SQLite",
    "verify": "train rows again from their synsets and write measured beside claimed",
    "truth": "published figures beside what the board has measured of them (docs/truth.md)",
    "check": "look through a board: rows, files beside them, verifications",
}

HELP = """usage: ddbench leaderboard build|show|export|verify|truth|check [--help] ...

{verbs}

examples:
  ddbench leaderboard build
  ddbench leaderboard build --check                # for CI: fail when the pages are stale
  ddbench leaderboard show --dataset digits --ipc 10
  ddbench leaderboard export --format latex --dataset digits --ipc 10"""


@dataclass
class BuildArgs:
    """Flags of ``leaderboard build``."""

    leaderboard: Path = Path("leaderboard")
    """Folder of the board; its results are in results/."""
    check: bool = False
    """Write nothing; fail when the files differ from a fresh build."""


@dataclass
class ShowArgs:
    """Flags of ``leaderboard show``."""

    leaderboard: Path = Path("leaderboard")
    """Folder of the board; its results are in results/."""
    dataset: str = ""
    """Only this dataset."""
    ipc: int | None = None
    """Only this many images per class."""
    labels: str = ""
    """Only labels of this kind: hard, soft, targets or teacher."""
    protocol: str = ""
    """Only this protocol, by name."""
    student: str = ""
    """Only tables with this student, ranked by it."""
    verified: bool = False
    """Only verified rows, ranked among themselves, and the references."""
    ids: bool = False
    """Print the ids of the rows, for leaderboard verify."""


def main(argv: list[str]) -> None:
    """Run ``ddbench leaderboard``.

    Raises:
        UserError: unknown sub-verb, a broken result, or stale pages with ``--check``.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:<6} {text}" for name, text in VERBS.items())))
    elif argv[0] == "build":
        _build(argv[1:])
    elif argv[0] == "show":
        _show(argv[1:])
    elif argv[0] == "export":
        from ddbench.cli import leaderboard_export

        leaderboard_export.main(argv[1:])
    elif argv[0] == "truth":
        from ddbench.cli import leaderboard_truth

        leaderboard_truth.main(argv[1:])
    elif argv[0] in ("verify", "check"):
        from ddbench.cli import leaderboard_verify

        (leaderboard_verify.verify if argv[0] == "verify" else leaderboard_verify.check)(argv[1:])
    else:
        raise UserError(f"leaderboard: unknown verb {argv[0]!r}{suggest(argv[0], VERBS)}; one of: {', '.join(VERBS)}")


def _build(argv: list[str]) -> None:
    args = parse(
        BuildArgs,
        argv,
        "ddbench leaderboard build",
        "Write LEADERBOARD.md, index.html and rows/, which index.html loads, from the results of a board.",
        "  ddbench leaderboard build\n  ddbench leaderboard build --check",
    )
    from ddbench.leaderboard.audit import known_or_checked
    from ddbench.leaderboard.pages.page import PAGES, build, check

    results, _ = known_or_checked(args.leaderboard)
    paths = check(args.leaderboard, results) if args.check else build(args.leaderboard, results)
    rows = len(paths) - PAGES
    said = [*map(str, paths[:PAGES]), *([f"{rows} files in {paths[-1].parent}"] if rows else [])]
    print(f"{'up to date:' if args.check else 'wrote'} {', '.join(said)}")


def _show(argv: list[str]) -> None:
    args = parse(
        ShowArgs,
        argv,
        "ddbench leaderboard show",
        "Print the board as tables. Bold: rank 1 of its column; rows that cannot be told apart share a rank.",
        "  ddbench leaderboard show\n  ddbench leaderboard show --dataset digits --ipc 10 --student mlp-d3-w128\n"
        "  ddbench leaderboard show --dataset digits --protocol hard-v1 --ids",
    )
    from ddbench.leaderboard.pages.terminal import show_board
    from ddbench.leaderboard.select import Selection

    selection = Selection(args.dataset, args.ipc, args.labels, args.protocol, args.student, args.verified)
    show_board(args.leaderboard, selection, args.ids)
