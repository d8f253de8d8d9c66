"""``ddbench scores``: DD-Ranking's HLR, IOR, LRS and ARS of a synset, from evaluations that are all kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.engine import Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.shards import Sharded, print_status, with_shard
from ddbench.evaluation.ddranking.definitions import SCORES, TITLES, UNITS
from ddbench.leaderboard.scoring import Asked, Scored, score, status
from ddbench.statistics import FRACTION, interval_words


@dataclass(frozen=True, kw_only=True)
class Args(Asked, Engines, Sharded):
    """DD-Ranking's scores of a synset: how well it does without soft labels and augmentation, against random images.

    Everything trained is kept: killed at any moment, the same command goes on.
    """

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""


EXAMPLES = """  ddbench scores runs/digits-ipc1-mtt-s0
  ddbench scores runs/digits-ipc1-mtt-s0 --student mlp-d3-w128 --repeats 10
  ddbench scores runs/my-rded --protocol rded --teacher teachers/cifar10/convnet-d3-w128-bn/0a1b2c3d.safetensors
  ddbench scores runs/digits-ipc1-mtt-s0 --epochs 100 --cache /tmp/cache     # a quick look: non-standard
  ddbench scores runs/digits-ipc1-mtt-s0 --shard 0/2                         # and 1/2 elsewhere: the last one writes
  ddbench scores runs/digits-ipc1-mtt-s0 --status"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    run_scores(parse(Args, with_shard(argv), "ddbench scores", str(Args.__doc__), EXAMPLES))


def run_scores(args: Args) -> None:
    """Score as the flags say and print the table."""
    shard = args.part
    if args.status:
        print_status(*status(args.run, args))
        return
    with fan_out(args) as asked:
        scored = score(asked.run, asked, shard)
    _print(scored)


def _print(scored: Scored) -> None:
    result = scored.data
    synset, own = result["synset"], result["protocol"]
    subject = f"{synset['method']} on {synset['dataset']}, ipc {synset['budget']['value']}"
    print(f"{subject}, {own['name']}, {result['student']}, {len(result['repeats'])} repeats (mean, 95 % interval)")
    if scored.marks:
        print(f"  NON-STANDARD: {scored.marks}")
    width = max(map(len, TITLES.values()))
    for name in (*SCORES, *result["legs"]):
        if name == next(iter(result["legs"])):
            print("  test accuracy (fraction)")
        if name not in result["summary"]:
            lost = [str(one["seed"]) for one in result["repeats"] if name not in one]
            count = f"{len(lost)} of {len(result['repeats'])}"
            print(f"  {TITLES[name]:<{width}} diverged: repeats {', '.join(lost)} ({count}); it has no mean")
            continue
        entry, digits = result["summary"][name], 2 if name in ("lrs", "ars") else 4
        words = interval_words(entry, 1, digits, unit=UNITS.get(name, FRACTION))
        print(f"  {TITLES[name]:<{width}} {entry['mean']:8.{digits}f}   {words}")
    print(f"result: {scored.path}")
