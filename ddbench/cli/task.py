"""``ddbench task``: what synsets are for beside test accuracy; flags come from the task's config dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import tyro

from ddbench.cli.engine import ENGINE, Engines, fan_out
from ddbench.cli.parse import parse
from ddbench.cli.shards import SHARE, Sharded, print_status, with_shard
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.tasks import TASKS, description, task_class
from ddbench.tasks.start import Asked, run, status


@dataclass(frozen=True, kw_only=True)
class Args(Asked, Engines, Sharded):
    """Measure what synsets are for, beside test accuracy. Killed at any moment, the same command goes on."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders, or synset files, of one dataset."""


EXAMPLES = """  ddbench task transfer runs/digits-ipc10-dm-s0 runs/digits-ipc10-random-s0 --to mnist
  ddbench task transfer runs/digits-ipc10-dm-s0 --seeds 3 --parts 5    # redundancy only
  ddbench task continual runs/digits-ipc10-dm-s0 --memory 10 --steps 5
  ddbench task membership runs/digits-ipc1-random-s0 --shadows 16 --seeds 1
  ddbench task nas runs/digits-ipc10-dm-s0 --nets 24 --widest 64 --seeds 1
  ddbench task transfer runs/digits-ipc10-dm-s0 --to mnist --shard 0/2    # and 1/2 elsewhere
  ddbench task membership runs/digits-ipc1-random-s0 --engine ray --workers 4
  ddbench task transfer --help                                         # with the task's own flags"""

GROUPS = {
    "what is trained": ("student", "seeds", "protocol", "epochs"),
    "how it computes": ("device", "workers", "threads", "compile", *ENGINE),
    "how it is shared out": SHARE,
    "where it is, and where it goes": ("data", "download", "skip_broken", "size", "out", "quiet"),
}
"""Heads of the help, with the fields under them."""


def main(argv: list[str]) -> None:
    """Run the verb."""
    if not argv or argv[0].startswith("-"):
        parse(Args, argv, "ddbench task", _title(), EXAMPLES, groups=GROUPS)
        raise UserError(f"which task? one of: {', '.join(TASKS)}; see ddbench task --help")
    name = argv[0]
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    args, config = arguments(name, argv[1:])
    if args.status:
        print_status(*status(name, args.runs, args, config))
        return
    part = args.part
    with fan_out(args) as asked:
        found = run(name, args.runs, asked, config, part)
    print(found)
    if found.cost is not None:
        print(found.cost)
    print(f"result: {found.path}")


def arguments(name: str, argv: list[str]) -> tuple[Args, Any]:
    """The flags of every task, and those of this one as its config."""
    kind = task_class(name).config_class
    parts: dict[str, Any] = {"asked": Args(), "own": kind()}
    combined = make_dataclass(
        "Task", [(part, type(value), field(default=value)) for part, value in parts.items()], frozen=True, kw_only=True
    )
    words = f"{description(name)}.\n\n{Args.__doc__}"
    args: Any = parse(
        combined, with_shard(argv), f"ddbench task {name}", words, EXAMPLES, default=combined(**parts), groups=GROUPS
    )
    return args.asked, args.own


def _title() -> str:
    listed = "\n".join(f"  {name:<12} {description(name)}" for name in TASKS)
    return f"{Args.__doc__}\n\nddbench task TASK RUN ...; TASK --help shows its own flags too.\n\ntasks:\n{listed}"
