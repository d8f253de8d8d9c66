"""``ddbench VERB ...``: finds the verb's module, turns a :class:`UserError` into one line and exit code 2."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ddbench import __version__
from ddbench.registry import suggest
from ddbench.runtime import authors
from ddbench.runtime.errors import LESS, OutOfMemory, Unfinished, UserError, one_line
from ddbench.runtime.interruption import end, what_is_kept
from ddbench.runtime.ranks import launched, tells

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("ddbench.cli.demo", "the whole pipeline on an embedded dataset, in minutes on two cores"),
    "list": ("ddbench.cli.listing", "methods, datasets, students, protocols, tasks, recipes, ... that are known"),
    "data": ("ddbench.cli.data", "what a dataset or your own images hold, with a picture, before work (check)"),
    "info": (
        "ddbench.cli.info",
        "what a run, synset, store, teacher, evaluation, task or board is, and what to do next",
    ),
    "buffer": ("ddbench.cli.buffer", "record experts: networks trained on real data (also: verify, info, import)"),
    "teacher": ("ddbench.cli.teacher", "train a network on real data that labels synsets' views (also: info, join)"),
    "diffusion": (
        "ddbench.cli.diffusion",
        "train a diffusion model on real data, for d3hr, mgd3, igd, minimax (also: info, sample)",
    ),
    "distill": ("ddbench.cli.distill", "make a synset with a method"),
    "evaluate": ("ddbench.cli.evaluate", "train students on a synset and test them once"),
    "task": ("ddbench.cli.task", "what synsets are for: features elsewhere, continual learning, search, privacy"),
    "plan": ("ddbench.cli.plan", "what a buffer, distill, evaluate or reproduce will take: hours, memory, disk"),
    "relabel": ("ddbench.cli.relabel", "store a teacher's labels of every view of a synset, for replay (fkd)"),
    "scores": ("ddbench.cli.scores", "DD-Ranking's scores of a synset: HLR, IOR, LRS, ARS"),
    "submit": ("ddbench.cli.submit", "turn an evaluated run into a leaderboard row"),
    "reproduce": ("ddbench.cli.reproduce", "fill the cells of a plan, cheapest first, within a time budget"),
    "slurm": ("ddbench.cli.slurm", "print or submit the batch script that runs a verb on a Slurm cluster"),
    "leaderboard": ("ddbench.cli.leaderboard", "build or show the board (also: verify, export, truth)"),
    "import": ("ddbench.cli.import_", "read a synset that other code published"),
    "export": ("ddbench.cli.export", "write a synset as PNG folders, preview grid, npz, or a dataset for hubs"),
    "push": ("ddbench.cli.push", "publish a synset on the Hugging Face hub"),
    "pull": ("ddbench.cli.pull", "fetch a synset that was published there"),
    "doctor": ("ddbench.cli.doctor", "what this machine has, and what is missing for which verb"),
    "completion": ("ddbench.cli.completion", "a script by which bash, zsh or fish completes verbs, flags and names"),
}

SHARED = ("distill",)
"""Verbs that several processes of torchrun can do together."""

HELP = """usage: ddbench VERB [--help] ...

The benchmark suite for dataset distillation: a few synthetic images per class (IPC) on which
a network trained from scratch comes close to one trained on everything.

{verbs}

start here:
  ddbench demo                                        # a few minutes: experts, MTT, scores, a page
  ddbench list methods
  ddbench buffer --recipe mtt/digits-ipc1
  ddbench distill --method mtt --dataset digits --ipc 1 --out runs/my-synset
  ddbench evaluate runs/my-synset --students convnet-d2-w32-in,mlp-d3-w128

Every verb has --help with examples. Every long verb goes on where it was when it is killed and repeated."""


def dispatch(argv: Sequence[str]) -> None:
    """Run the verb that ``argv`` names.

    Raises:
        UserError: unknown verb, or whatever the user can mend in the verb's input.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        print(HELP.format(verbs="\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in VERBS.items())))
        return
    if argv[0] in ("-V", "--version"):
        print(f"ddbench {__version__}")
        return
    if argv[0] not in VERBS:
        raise UserError(f"unknown verb {argv[0]!r}{suggest(argv[0], VERBS)}; one of: {', '.join(VERBS)}")
    if launched() > 1 and argv[0] not in SHARED:
        raise UserError(f"torchrun: {argv[0]} is not shared by processes, {', '.join(SHARED)} is; run it by itself")
    importlib.import_module(VERBS[argv[0]][0]).main(list(argv[1:]))


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM, as ``kill``, ``timeout`` and job schedulers send it)."""


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM is an exception here, so that files are closed, workers stopped and the user told, as for Ctrl-C."""

    def end(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clean end short
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread: signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``ddbench`` command."""
    with _termination():
        try:
            _run(argv)
        except SystemExit as stop:
            end(stop.code)
            raise


def _run(argv: Sequence[str] | None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    try:
        dispatch(argv)
        sys.stdout.flush()
    except Unfinished as left:
        print(one_line(left))
    except OutOfMemory as error:  # of a worker
        _tell_memory(error.words, argv)
        sys.exit(2)
    except UserError as error:
        _tell(f"error: {one_line(error)}")
        sys.exit(2)
    except Terminated as stop:
        _tell(f"terminated; {what_is_kept(stop)}")
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt as stop:
        _tell(f"interrupted; {what_is_kept(stop)}")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # `ddbench list | head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        words = authors.memory(error)
        if words is not None:
            _tell_memory(words, argv)
            sys.exit(2)
        line = authors.told(error) or _known(error)
        if line is None:
            raise
        _tell(f"error: {one_line(line)}")
        sys.exit(2)


def _tell_memory(words: str, argv: Sequence[str]) -> None:
    """That memory is not enough, and which flags of the verb take less."""
    _tell(f"error: {one_line(OutOfMemory(words, LESS_MEMORY.get(next(iter(argv), ''), LESS)))}")


LESS_MEMORY = {
    "buffer": "a smaller --batch or --at-once, fewer --workers",
    "teacher": "a smaller --batch or --student",
    "diffusion": "a smaller --batch (train), --count (sample) or --widths",
    "distill": "smaller batches (--batch-real, --batch-syn: see --help with the method), --inner adjoint or a smaller "
    "--memory where the method has it, a smaller --ipc, fewer --workers",
    "evaluate": "a smaller --at-once, fewer --workers",
    "scores": "fewer --workers, a smaller --student",
    "task": "fewer --workers, a smaller --student",
}
"""Verb -> what makes it take less memory."""


def _known(error: Exception) -> str | None:
    """What is told of an error that is no fault of this package; None: it is one, and shows its traceback."""
    if isinstance(error, OSError):  # the disk, a path that is too long, a folder that may not be read
        return str(error)
    if "operator torchvision::" in str(error):  # its import, beside a torch of another build
        return f"torchvision is of another build than torch ({error}): install both from the same index"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "ddbench":
        return f"this verb needs the package {error.name!r}: pip install {error.name}"
    return None


def _tell(text: str) -> None:
    """Why the command ends; of several processes that share it only the first one says so."""
    if tells():
        print(f"ddbench: {text}", file=sys.stderr)
