"""``ddbench leaderboard export``: the board for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddbench.cli.parse import parse
from ddbench.runtime.errors import UserError

DESCRIPTION = """Write the board for other programs. csv, parquet: one line for each number of each row. latex: with
booktabs, for each table of the board one, or methods by dataset and IPC (--layout wide). json: the index of all tables
and rows. sqlite: results, every single run and all numbers, for queries on large boards."""

EXAMPLES = """  ddbench leaderboard export --format csv --out board.csv
  ddbench leaderboard export --format latex --dataset digits --ipc 10 --columns rank,method,accuracy,stored
  ddbench leaderboard export --format latex --layout wide --labels hard    # methods by dataset and IPC
  ddbench leaderboard export --format sqlite            # leaderboard/index.sqlite
  ddbench leaderboard export --format json --labels hard"""


@dataclass
class ExportArgs:
    """Flags of ``leaderboard export``."""

    format: Literal["csv", "parquet", "latex", "json", "sqlite"]
    """csv, parquet, latex, json or sqlite."""
    leaderboard: Path = Path("leaderboard")
    """Folder of the board; its results are in results/."""
    out: Path | None = None
    """File; default: the terminal, and index.parquet or index.sqlite in the board's folder."""
    dataset: str = ""
    """Only this dataset."""
    ipc: int | None = None
    """Only this many images per class."""
    labels: str = ""
    """Only hard, soft or teacher labels."""
    student: str = ""
    """Only tables with this student; latex ranks by it."""
    verified: bool = False
    """Only verified rows, and the references."""
    columns: str = ""
    """latex: titles or groups of columns (accuracy, cross, cost, scores, calibration, robustness, corruptions, ood,
    about) with commas between; default: method,accuracy,cross,stored."""
    layout: Literal["tables", "wide"] = "tables"
    """latex: a table for each of the board's with all students, or as papers have it, methods by dataset and budget."""
    spread: Literal["std", "interval"] = "std"
    """latex: what stands after the ±, the standard deviation over seeds or half of the 95 % interval."""


def main(argv: list[str]) -> None:
    """Run ``ddbench leaderboard export``.

    Raises:
        UserError: a broken board, an unknown name, or a library that the format needs is not there.
    """
    args = parse(ExportArgs, argv, "ddbench leaderboard export", DESCRIPTION, EXAMPLES)
    from ddbench.leaderboard.board import read_board
    from ddbench.leaderboard.pages.export import BINARY, csv_text, default_path, json_text, write_export
    from ddbench.leaderboard.pages.latex import latex_text
    from ddbench.leaderboard.pages.latex_wide import wide_text
    from ddbench.leaderboard.select import Selection, select

    if args.format != "latex" and args.layout != "tables":
        raise UserError("--layout is for --format latex; the other formats have everything")
    if args.columns and args.layout == "wide":
        raise UserError("--columns is for --layout tables; wide has one number of each method, dataset and budget")
    if args.format != "latex" and (args.columns or args.spread != "std"):
        raise UserError("--columns and --spread are for --format latex; the other formats have everything")
    board = read_board(args.leaderboard)
    cells = select(board.cells, Selection(args.dataset, args.ipc, args.labels, args.student, args.verified))
    text = ""
    if args.format == "csv":
        text = csv_text(cells)
    elif args.format == "json":
        text = json_text(cells)
    elif args.format == "latex" and args.layout == "wide":
        text = wide_text(cells, args.student, args.spread)
    elif args.format == "latex":
        wanted = [name.strip() for name in args.columns.split(",") if name.strip()]
        text = latex_text(cells, wanted, args.student, args.spread)
    out = args.out or default_path(args.leaderboard, args.format)
    if out is None:
        print(text, end="")
        return
    write_export(out, args.format, cells, text)
    what = "everything" if args.format in BINARY else f"{len(text.splitlines())} lines"
    print(f"wrote {out}: {what} of {len(cells)} {'table' if len(cells) == 1 else 'tables'}")
