"""``ddbench distill``: make a synset with a method; flags come from its config dataclass and from what it needs."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.cli.engine import ENGINE, Engines, fan_out
from ddbench.cli.parse import parse, peek, settings_in
from ddbench.cli.settings import Common, data_flag
from ddbench.cli.shards import SHARE, Sharded, print_status, with_shard
from ddbench.data.specs import modality_of
from ddbench.distillation.start import Chosen, choose, distill, methods_in, status
from ddbench.methods import METHODS, USUAL_PROTOCOL, description, fitting_protocol, meant_protocol
from ddbench.modalities import IMAGE
from ddbench.runtime.errors import UserError
from ddbench.runtime.ranks import leads
from ddbench.runtime.shards import WHOLE

if TYPE_CHECKING:
    from ddbench.methods.needs import Need


@dataclass(frozen=True, kw_only=True)
class RunArgs(Common, Engines, Sharded):
    """Flags of every method."""

    method: str | None = None
    """Which method (ddbench list methods); --method M --help shows its own flags too, and those of what it needs."""
    dataset: str | None = None
    """Dataset name (ddbench list datasets), or folder:PATH, npz:PATH, hub:OWNER/NAME, graphs:PATH for your own;
    default: the recipe's, else digits."""
    ipc: int | None = None
    """Images per class; default: the recipe's."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    student: str | None = None
    """Network that is matched; default: the recipe's, else a ConvNet that fits the image size."""
    recipe: str = "auto"
    """auto: the shipped recipe for this dataset, IPC and student, if any; none; a name; or FILE.toml[:NAME]."""
    out: Path | None = None
    """Run folder; default: runs/<dataset>-ipc<K>-<method>-s<seed>."""
    seed: int = 0
    """Names every draw of the run."""
    preprocess: str | None = None
    """meanstd or zca; default: the recipe's, else meanstd."""
    holdout: float | None = None
    """Fraction of the training images held out for validation; default: the recipe's, else 0.1."""
    validate_every: int | None = None
    """Iterations between validations on the held-out images; 0: never; default: the recipe's, else 0."""
    validate_epochs: int = 300
    """Epochs of the student that is validated."""
    track: str = "jsonl"
    """jsonl (always on), wandb or tensorboard."""
    checkpoint_every: int = 0
    """Iterations between checkpoints; 0: every 30 seconds. One is written on Ctrl-C and SIGTERM too."""
    method_file: Path | None = None
    """A Python file that defines a method class of your own, named by --method."""
    workers: int = 1
    """Processes that share the work out, if the method's parts need nothing of each other; 0: one a core, on a GPU
    one."""


EXAMPLES = """  ddbench distill --method mtt --dataset digits --ipc 1
  ddbench distill --method random --dataset cifar10 --ipc 10 --seed 3 --out runs/random-3
  ddbench distill --method mtt --recipe cifar10-ipc10
  ddbench distill --method mtt --dataset folder:my-images --size 32 --ipc 10 --iterations 500
  ddbench distill --method dm --dataset digits --ipc 10  # or: torchrun --nproc-per-node 2 -m ddbench distill ...
  ddbench distill --method rded --dataset cifar10 --ipc 10 --workers 4
  ddbench distill --method sre2l --dataset cifar10 --ipc 10 --shard 0/2   # and 1/2 elsewhere: the last one merges
  ddbench distill --method sre2l --dataset cifar10 --ipc 10 --status
  ddbench distill --method mirage --dataset graphs:made --support 0.3
  ddbench distill --method random --dataset graphs:made --max-bytes 500
  ddbench distill --method mine --method-file mine.py --help   # a class Mine of yours (docs/own-method.md)
  ddbench distill --method mtt --help                   # with MTT's own flags, and those of the experts it needs"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    if peek(argv, "--method") is None and ("-h" in argv or "--help" in argv):
        parse(RunArgs, argv, "ddbench distill", _title(None), EXAMPLES)
    parts = _parsed(with_shard(argv))
    if parts["run"].status:
        print_status(*status(**_given(parts)))
        return
    if parts["run"].engine != "local" and not has_pieces(argv):
        raise UserError(f"--engine {parts['run'].engine}: {parts['run'].method} is of one piece; leave it out")
    with fan_out(parts["run"]) as run:
        given = _given(parts | {"run": run})
        path = distill(**given)
    if leads():
        command = evaluation_command(path.parent, str(given["method"]), data=data_of(given)) + data_flag(run.data)
        print(f"synset: {path}   next: {command}")


def arguments(argv: list[str]) -> dict[str, Any]:
    """What the flags say, by name: of the run, of the method, of what it needs.

    Raises:
        UserError: no method, or a flag or value that it does not take.
    """
    return _given(_parsed(with_shard(argv)))


def _parsed(argv: list[str]) -> dict[str, Any]:
    """The flags of the run, under ``run``, of the method, and of each kind of what it needs."""
    if peek(argv, "--method") is None:
        file = peek(argv, "--method-file")
        if file is not None:
            raise UserError(f"--method is missing; {file} defines: {', '.join(methods_in(Path(file))) or 'none'}")
        raise UserError(f"--method is missing; one of: {', '.join(METHODS)}")
    chosen, flags = peeked(argv)
    parts: dict[str, Any] = {"run": replace(RunArgs(), **chosen.run), "own": chosen.config}
    parts |= {f"need{number}": one for number, one in enumerate(flags)}
    combined = make_dataclass(
        "Distill",
        [(name, type(part), field(default=part)) for name, part in parts.items()],
        frozen=True,
        kw_only=True,
    )
    args: Any = parse(combined, argv, "ddbench distill", _title(chosen.kind), EXAMPLES, default=combined(**parts))
    return {name: getattr(args, name) for name in parts}


def _given(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`ddbench.distillation.start.distill`."""
    run: RunArgs = parts["run"]
    given = {name: value for part in parts.values() for name, value in vars(part).items()}
    # A job array distills with a seed a task as a rule: what its variables say counts where --shard asks for it only.
    shard = WHOLE if run.shard is None else run.part
    own = {name: value for name, value in given.items() if name not in (*ENGINE, *SHARE)}
    return own | {"shard": shard, "in_parts": run.engine != "local"}


def evaluation_command(run: Path, method: str, header: Mapping[str, Any] | None = None, data: str = IMAGE) -> str:
    """The command that scores a run by the protocol that fits it.

    Args:
        header: of its synset, and ``staged``, where they are known; else the method alone decides.
        data: the modality, where there is no header.
    """
    if str((header or {}).get("modality", data)) != IMAGE:  # the usual protocol is the default
        return f"ddbench evaluate {shlex.quote(str(run))}"
    wanted = meant_protocol(method) if header is None else fitting_protocol(method, header)
    return f"ddbench evaluate {shlex.quote(str(run))}" + ("" if wanted == USUAL_PROTOCOL else f" --protocol {wanted}")


def data_of(given: Mapping[str, Any]) -> str:
    """The modality of a run's data, from its arguments."""
    return IMAGE if given["dataset"] is None else modality_of(str(given["dataset"]))


def peeked(argv: list[str]) -> tuple[Chosen, tuple[Any, ...]]:
    """The method that the flags name, its recipe, and the flags of what it needs with the settings in ``argv``.

    Raises:
        UserError: no such method, file or recipe.
    """
    file = peek(argv, "--method-file")
    chosen = choose(
        str(peek(argv, "--method")),
        method_file=None if file is None else Path(file),
        recipe=peek(argv, "--recipe") or "auto",
        dataset=peek(argv, "--dataset"),
        ipc=_number(peek(argv, "--ipc")),
        student=peek(argv, "--student"),
        size=_number(peek(argv, "--size")),
    )
    return chosen, chosen.flags(settings_in(chosen.config, argv))


def has_pieces(argv: list[str]) -> bool:
    """Whether the method that the flags name may be done in pieces; settings and data may leave it one all the same."""
    from ddbench.methods.base import Method

    return peek(argv, "--method") is not None and peeked(argv)[0].kind.pieces is not Method.pieces


def needed(argv: list[str]) -> tuple[Need[Any], ...]:
    """What the method of a command needs with the settings in it."""
    chosen, _ = peeked(argv)
    needs: tuple[Need[Any], ...] = chosen.kind.needs(settings_in(chosen.config, argv))
    return needs


def _title(kind: Any) -> str:
    if kind is None:
        listed = "\n".join(f"  {name:<10} {description(name)}" for name in METHODS)
        return (
            "Make a synset. Killed at any moment, the same command goes on.\n\nA method adds flags of its own and "
            f"of what it needs, such as experts or a teacher: --method M --help.\n\nmethods:\n{listed}"
        )
    return f"Make a synset with {kind.title or kind.__name__}. Killed at any moment, the same command goes on."


def _number(text: str | None) -> int | None:
    """What the full parse makes of it, ``+10`` too: the recipe of another budget would be taken else."""
    with contextlib.suppress(ValueError):
        return None if text is None else int(text)
    return None
