"""``ddbench demo``: the whole pipeline on the embedded digits: experts, MTT, scores against random, a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.cli.parse import parse
from ddbench.cli.settings import worker_count
from ddbench.leaderboard.demonstration import PROTOCOL, SEEDS, SUBSETS, Compared, demonstrate
from ddbench.runtime.progress import Console
from ddbench.statistics import gap_words


@dataclass(frozen=True, kw_only=True)
class Args:
    """Experts, MTT, scores on three architectures against random images, and a leaderboard page, on digits."""

    out: Path = Path("ddbench-demo")
    """Folder for everything that the demo makes."""
    workers: int = 0
    """Processes; 0: one a core."""
    quiet: bool = False
    """Print the table only."""


EXAMPLES = """  ddbench demo
  ddbench demo --out /tmp/demo --workers 1"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench demo", str(Args.__doc__), EXAMPLES)
    workers, _ = worker_count(args.workers, 1)
    made = demonstrate(args.out, workers, Console(args.quiet))
    _print(made.lines)
    print(f"\npage: {made.page}\nsynsets: {made.runs}   pictures: preview.png in each")
    print("next: the same on your own images:  ddbench buffer --dataset folder:PATH --size 32")


def _print(lines: Sequence[Compared]) -> None:
    print(f"\nTest accuracy in % on digits, {PROTOCOL}, {SEEDS} paired seeds, random: {SUBSETS} subsets")
    print(f"{'ipc':>4}  {'student':<18} {'MTT':>6} {'random':>7} {'full':>6}   MTT - random (95 % interval)")
    for one in lines:
        gap = one.gap
        verdict = "tie" if gap["tie"] else "above" if gap["mean"] > 0 else "below"
        print(
            f"{one.ipc:>4}  {one.student:<18} {100 * one.mtt:6.1f} {100 * one.random:7.1f} {100 * one.full:6.1f}   "
            f"{gap_words(gap['mean'], gap['low'], gap['high'])} {verdict}"
        )
