"""``ddbench leaderboard export``: the board for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddbench.cli.parse import parse
from ddbench.runtime.errors import UserError

if TYPE_CHECKING:
    from ddbench.leaderboard.rows import Cell

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
    """Only labels of this kind: hard, soft, targets or teacher."""
    protocol: str = ""
    """Only this protocol, by name."""
    student: str = ""
    """Only tables with this student, ranked by it."""
    verified: bool = False
    """Only verified rows, ranked among themselves, and the references."""
    columns: str = ""
    """latex: titles or groups of columns (accuracy, cross, cost, rate, scores, calibration, robustness, corruptions,
    ood, tasks, about) with commas between; default: method,accuracy,cross,stored."""
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
    from ddbench.leaderboard.kept import made_once
    from ddbench.leaderboard.pages.export import BINARY, default_path, write_export
    from ddbench.leaderboard.select import Selection

    if args.format != "latex" and args.layout != "tables":
        raise UserError("--layout is for --format latex; the other formats have everything")
    if args.columns and args.layout == "wide":
        raise UserError("--columns is for --layout tables; wide has one number of each method, dataset and budget")
    if args.format != "latex" and (args.columns or args.spread != "std"):
        raise UserError("--columns and --spread are for --format latex; the other formats have everything")
    selection = Selection(args.dataset, args.ipc, args.labels, args.protocol, args.student, args.verified)

    def chosen() -> list[Cell]:
        return read_board(args.leaderboard).select(selection)

    def make() -> str:
        cells = chosen()
        return f"{len(cells)}\n{_text(args, cells)}"

    out = args.out or default_path(args.leaderboard, args.format)
    if args.format in BINARY:
        cells, text = chosen(), ""
        count = len(cells)
    else:
        said = f"{selection} {args.format} {args.columns} {args.layout} {args.spread}"
        first, _, text = made_once(args.leaderboard, "export", said, make).partition("\n")
        cells, count = [], int(first)
    if out is None:
        print(text, end="")
        return
    write_export(out, args.format, cells, text, args.student)
    what = "everything" if args.format in BINARY else f"{len(text.splitlines())} lines"
    print(f"wrote {out}: {what} of {count} {'table' if count == 1 else 'tables'}{_left_out(args, text)}")


def _left_out(args: ExportArgs, text: str) -> str:
    """What a text says of tables that are not in it."""
    from ddbench.leaderboard.pages.latex import LEFT_OUT

    lines = text.splitlines() if args.format == "latex" else []
    return "".join(f"; {line.removeprefix('% ')}" for line in lines if line.startswith(LEFT_OUT))


def _text(args: ExportArgs, cells: list[Cell]) -> str:
    """These tables in a format that is text."""
    from ddbench.leaderboard.pages.export import csv_text, json_text
    from ddbench.leaderboard.pages.latex import latex_text
    from ddbench.leaderboard.pages.latex_wide import wide_text

    if args.format == "csv":
        return csv_text(cells, args.student)
    if args.format == "json":
        return json_text(cells, args.student)
    if args.layout == "wide":
        return wide_text(cells, args.student, args.spread)
    wanted = [name.strip() for name in args.columns.split(",") if name.strip()]
    return latex_text(cells, wanted, args.student, args.spread)
