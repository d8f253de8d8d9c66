"""``ddbench slurm VERB ...``: the batch script that runs a verb on a Slurm cluster, printed or submitted."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

from ddbench.cli.parse import parse
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError
from ddbench.runtime.slurm import Requests, batch_script, submit

SHARED_OUT = (("buffer",), ("evaluate",), ("scores",), ("task",), ("reproduce",), ("leaderboard", "verify"))
"""Verbs with ``--shard``, whose default is the task's place in a Slurm array; ``distill`` must be told so."""


@dataclass(frozen=True, kw_only=True)
class Args(Requests):
    """Print the batch script that runs a verb on a Slurm cluster, or submit it: ddbench slurm [flags] VERB ..."""

    submit: bool = False
    """Submit it by sbatch instead of printing it."""


PROG = "ddbench slurm"
DESCRIPTION = f"""{Args.__doc__}
Task i of an array of n does shard i/n; the tasks need a common folder. A task goes on where it was when its process is
killed, its time is up, its node is lost or it is preempted (docs/scale.md)."""

EXAMPLES = """  ddbench slurm evaluate runs/digits-ipc1-mtt-s0 --seeds 24 > job.sh
  ddbench slurm --submit --array 8 --time 2:00:00 --gpus 1 evaluate runs/digits-ipc1-mtt-s0 --seeds 24
  ddbench slurm --submit --array 20 --at-most 4 --partition gpu --account lab --gpus a100:1 --cpus 8 \\
      buffer --recipe mtt/cifar10-ipc10
  ddbench slurm --submit --time 1-00:00:00 --gpus 1 --options "qos=low constraint=a100" --setup "module load cuda" \\
      distill --method mtt --dataset cifar10 --ipc 10
  ddbench slurm --submit --array 8 --gpus 1 distill --method rded --dataset imagewoof2 --size 224 --ipc 10"""

GROUPS = {
    "what a task asks of Slurm": ("partition", "account", "time", "gpus", "cpus", "memory", "options"),
    "tasks": ("array", "at_most", "name", "logs", "setup"),
    "when it ends too early": ("requeue", "warning", "requeues", "tries"),
    "what is done with the script": ("submit",),
}
"""Heads of the help, with the fields under them."""


def main(argv: list[str]) -> None:
    """Run the verb."""
    from ddbench.cli.main import VERBS

    own, words = _apart(argv)
    args = parse(Args, own, PROG, DESCRIPTION, EXAMPLES, groups=GROUPS)
    if not words:
        raise UserError(f"slurm: which verb? {PROG} [flags] VERB ..., such as {PROG} evaluate RUN; see {PROG} --help")
    if words[0] not in VERBS or words[0] == "slurm":
        raise UserError(f"slurm: unknown verb {words[0]!r}{suggest(words[0], VERBS)}; one of: {', '.join(VERBS)}")
    if {"-h", "--help"} & set(words):
        importlib.import_module(VERBS[words[0]][0]).main(words[1:])
        return
    if args.array is not None:
        words = _in_array(args.array, words)
    text = batch_script(args, [sys.executable, "-m", "ddbench", *words], f"ddbench-{words[0]}")
    if not args.submit:
        print(text, end="")
        return
    number = submit(text)
    print(f"submitted: job {number}" + (f", {args.array} tasks" if args.array else ""))
    print(f"next: squeue --job {number}")


def _in_array(tasks: int, words: list[str]) -> list[str]:
    """The verb and its flags as each task of an array runs them.

    Raises:
        UserError: the tasks would not share the work out.
    """
    verb = tuple(words[:2] if words[0] == "leaderboard" else words[:1])
    pieces = verb == ("distill",) and _shared(words[1:])
    if not pieces and (verb not in SHARED_OUT or (verb == ("buffer",) and words[1:2] and not words[1].startswith("-"))):
        known = ", ".join(" ".join(one) for one in SHARED_OUT)
        raise UserError(
            f"--array {tasks}: the work of {' '.join(words[:3])} is not shared out, only that of {known}, and of "
            "distill with a method whose parts need nothing of each other, such as rded"
        )
    if any(word.partition("=")[0] == "--shard" for word in words):
        raise UserError(f"--array {tasks}: leave --shard out; each task takes its own from its place in the array")
    return [*words, "--shard"] if pieces else words


def _shared(flags: list[str]) -> bool:
    from ddbench.cli.distill import has_pieces

    return has_pieces(flags)


def _apart(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own flags, and the verb with its flags: it begins with the first word that is neither flag nor value."""
    place = 0
    while place < len(argv) and argv[place].startswith("-"):
        flag = argv[place].replace("_", "-")
        alone = "=" in flag or flag in ("-h", "--help", "--submit", "--requeue", "--no-requeue")
        place += 1 if alone else 2
    return argv[:place], argv[place:]
