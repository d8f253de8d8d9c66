"""``ddbench evaluate``: train students on a synset and test each once; measure calibration and robustness."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from ddbench.cli.engine import ENGINE, Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.places import submission
from ddbench.cli.shards import SHARE, Sharded, print_status, with_shard
from ddbench.evaluation.result import side_by_side
from ddbench.evaluation.start import Asked, each_protocol, evaluate_all, status
from ddbench.measurements.suite import BUDGETS, NOISE


@dataclass(frozen=True, kw_only=True)
class Args(Asked, Engines, Sharded):
    """Score a synset: students x seeds under a protocol; accuracy of the last epoch, the test set used once a run."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""


EXAMPLES = """  ddbench evaluate runs/digits-ipc1-mtt-s0
  ddbench evaluate runs/digits-ipc1-mtt-s0 --students convnet-d3-w32-in,mlp-d3-w128 --seeds 10
  ddbench evaluate synset.safetensors --protocol dc-legacy --out score.json
  ddbench evaluate runs/digits-ipc1-mtt-s0 --lr-source search
  ddbench evaluate runs/digits-ipc1-mtt-s0 --calibration                # extends an evaluation that is there
  ddbench evaluate runs/digits-ipc1-mtt-s0 --robustness quick --corruptions --max-images 1000
  ddbench evaluate runs/digits-ipc1-mtt-s0 --keep-weights               # later measurements do not train again
  ddbench evaluate runs/mnist-ipc1-dm-s0 --ood fashion-mnist
  ddbench evaluate runs/digits-ipc10-random-s0 --protocol kd-v1        # after: ddbench teacher
  ddbench evaluate runs/digits-ipc10-random-s0 --protocol regimes      # hard labels, one soft label, a label a view
  ddbench evaluate runs/digits-ipc1-mtt-s0 --protocol my-protocol.toml
  ddbench evaluate runs/digits-ipc1-mtt-s0 --seeds 24 --shard 0/2       # and 1/2 elsewhere: the last one writes
  ddbench evaluate runs/digits-ipc1-mtt-s0 --seeds 24 --status
  ddbench evaluate runs/digits-ipc1-mtt-s0 --seeds 24 --engine ray --gpu-share 0.25"""


GROUPS = {
    "what is trained": (
        *("protocol", "students", "seeds", "teacher", "teachers", "labels"),
        *("epochs", "lr", "lr_source", "augmentation", "label_smoothing", "mixup", "focal_gamma"),
    ),
    "what is measured": (
        "calibration",
        "robustness",
        "corruptions",
        "corruption_reference",
        "ood",
        "max_images",
        "keep_weights",
    ),
    "how it computes": ("device", "workers", "threads", "at_once", "precision", "compile", *ENGINE),
    "how it is shared out": SHARE,
    "where it is, and where it goes": ("data", "download", "skip_broken", "size", "out", "quiet"),
}
"""Heads of the help, with the fields under them."""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = arguments(argv)
    shard = args.part
    if args.status:
        for one in each_protocol(args.run, args):
            print_status(*status(args.run, one))
        return
    with fan_out(args) as asked:
        results = evaluate_all(asked.run, asked, shard)
    for found in results:
        print(found)
        print(f"result: {found.path}")
    if len(results) > 1:
        print("\n".join(side_by_side(results)))
    for command in (one for found in results if found.standard for one in submission(found.path)):
        print(f"next: {command}")


def arguments(argv: list[str]) -> Args:
    """The flags of the verb."""
    return parse(Args, _completed(argv), "ddbench evaluate", str(Args.__doc__), EXAMPLES, groups=GROUPS)


ALONE = {"--robustness": BUDGETS[0], "--ood": NOISE}
"""What a flag means that stands alone or before the run."""


def _completed(argv: list[str]) -> list[str]:
    """The flags, with the values of those that were left without one."""
    found = []
    argv = with_shard(argv)
    for token, following in zip(argv, [*argv, ""][1:], strict=True):
        found.append(token)
        if token in ALONE and (not following or following.startswith("-") or _is_run(following)):
            found.append(ALONE[token])
    return found


def _is_run(token: str) -> bool:
    """Whether it is rather a run or a synset than a value, were it misspelt."""
    from ddbench.data.specs import DATASETS, is_own

    if token in (*BUDGETS, NOISE, *DATASETS) or is_own(token):
        return False
    return bool({"/", os.sep, "."} & set(token)) or Path(token).exists()
