"""``ddbench leaderboard truth``: published figures beside what the board has measured of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddbench.cli.parse import parse
from ddbench.runtime.errors import UserError


@dataclass
class Args:
    """Flags of ``leaderboard truth``."""

    leaderboard: Path = Path("leaderboard")
    """Folder of the board; its results are in results/."""
    out: Path = Path("docs/truth.md")
    """The file that --write and --check mean."""
    write: bool = False
    """Write the file instead of printing it."""
    check: bool = False
    """Write nothing; fail when the file differs from a fresh one."""


def main(argv: list[str]) -> None:
    """Print, write or check the document.

    Raises:
        UserError: a broken board, both flags, a folder that is not there, or a stale file with ``--check``.
    """
    args = parse(
        Args,
        argv,
        "ddbench leaderboard truth",
        "Published figures beside what the board has measured of them, from the plans of the kind reproduction.",
        "  ddbench leaderboard truth\n  ddbench leaderboard truth --write\n  ddbench leaderboard truth --check",
    )
    from ddbench.leaderboard.board import read_board
    from ddbench.leaderboard.pages.truth import document
    from ddbench.leaderboard.truth import reproduction_plans, truths
    from ddbench.runtime.files import check_writable, write_text

    if args.write and args.check:
        raise UserError("--write --check: one writes the file, the other compares it; give one of them")
    if args.write:
        check_writable(args.out.parent)
    board = read_board(args.leaderboard)
    text = document(truths(reproduction_plans(), board.results, board.verifications))
    if args.check:
        if not args.out.is_file() or args.out.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(f"{args.out} is stale: run `ddbench leaderboard truth --write` and commit it")
        print(f"up to date: {args.out}")
    elif args.write:
        write_text(args.out, text)
        print(f"wrote {args.out}")
    else:
        print(text, end="")
