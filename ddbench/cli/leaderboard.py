"""``ddbench leaderboard build|show``: the pages of the board, or the board in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.cli.parse import parse
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError

VERBS = {
    "build": "write LEADERBOARD.md and index.html from the results",
    "show": "print the board",
}

HELP = """usage: ddbench leaderboard build|show [--help] ...

{verbs}

examples:
  ddbench leaderboard build
  ddbench leaderboard build --check                # for CI: fail when the pages are stale
  ddbench leaderboard show --leaderboard leaderboard"""


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
    else:
        raise UserError(f"leaderboard: unknown verb {argv[0]!r}{suggest(argv[0], VERBS)}; one of: {', '.join(VERBS)}")


def _build(argv: list[str]) -> None:
    args = parse(
        BuildArgs,
        argv,
        "ddbench leaderboard build",
        "Write LEADERBOARD.md and a self-contained index.html from the results of a board.",
        "  ddbench leaderboard build\n  ddbench leaderboard build --check",
    )
    from ddbench.leaderboard.page import build, check

    if args.check:
        print(f"up to date: {', '.join(map(str, check(args.leaderboard)))}")
    else:
        print(f"wrote {', '.join(map(str, build(args.leaderboard)))}")


def _show(argv: list[str]) -> None:
    args = parse(
        ShowArgs,
        argv,
        "ddbench leaderboard show",
        "Print the board as tables.",
        "  ddbench leaderboard show",
    )
    from ddbench.leaderboard.page import tables
    from ddbench.leaderboard.terminal import show

    show(tables(args.leaderboard))
