"""``ddbench distill``: make a synset with a method; its own flags come from its config dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.cli.parse import parse, peek
from ddbench.cli.settings import Common, own_threads
from ddbench.config import apply_config, check_config_class
from ddbench.distillation.recipes import Recipe, choose_recipe
from ddbench.methods import DESCRIPTIONS, METHODS
from ddbench.registry import load_file
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console


@dataclass(frozen=True, kw_only=True)
class RunArgs(Common):
    """Flags of every method."""

    method: str | None = None
    """Which method (ddbench list methods); --method M --help shows its own flags too."""
    dataset: str | None = None
    """Dataset name (ddbench list datasets), or folder:PATH for your own images; default: the recipe's, else digits."""
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
    buffers: Path = Path("expert_trajectories")
    """Root of the trajectory store, or one store folder (methods that need experts)."""
    teachers: Path = Path("teachers")
    """Root of the teachers (methods that need one; trained first where there is none that fits)."""
    teacher_student: str | None = None
    """Network of the teacher; default: a batch-norm ConvNet that fits the image size."""
    diffusions: Path = Path("diffusions")
    """Root of the diffusion models (methods that need one; trained first where there is none that fits)."""
    diffusion_model: str | None = None
    """Folder of a diffusion model, or a pretrained one's name on the hub (owner/name); default: one of the root."""
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
    """Iterations between checkpoints; 0: every 30 seconds."""
    method_file: Path | None = None
    """A Python file that defines a method class of your own, named by --method."""


EXAMPLES = """  ddbench distill --method mtt --dataset digits --ipc 1
  ddbench distill --method random --dataset cifar10 --ipc 10 --seed 3 --out runs/random-3
  ddbench distill --method mtt --recipe cifar10-ipc10 --buffers expert_trajectories
  ddbench distill --method mtt --dataset folder:my-images --size 32 --ipc 10 --iterations 500
  ddbench distill --method mtt --help                   # with MTT's own flags"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    name = peek(argv, "--method")
    if name is None:
        if "-h" not in argv and "--help" not in argv:
            raise UserError(f"--method is missing; one of: {', '.join(METHODS)}")
        parse(RunArgs, argv, "ddbench distill", _title(None), EXAMPLES)
        return
    method_file = peek(argv, "--method-file")
    if method_file is not None:
        _register(name, Path(method_file))
    kind = METHODS.get(name, "--method")
    recipe = choose_recipe(
        peek(argv, "--recipe") or "auto",
        name,
        {
            "dataset": peek(argv, "--dataset"),
            "ipc": _number(peek(argv, "--ipc")),
            "student": peek(argv, "--student"),
            "size": _number(peek(argv, "--size")),
        },
    )
    where = f"recipe {recipe.name}" if recipe else ""
    config = apply_config(kind.config_class, recipe.config if recipe else {}, where)
    combined = make_dataclass(
        "Distill",
        [("run", RunArgs, field(default=RunArgs())), ("own", kind.config_class, field(default=config))],
        frozen=True,
        kw_only=True,
    )
    default: Any = combined(run=_with_recipe(RunArgs(), recipe), own=config)
    args: Any = parse(combined, argv, "ddbench distill", _title(kind), EXAMPLES, default=default)
    _run(name, kind, args.own, args.run, recipe)


def _title(kind: Any) -> str:
    if kind is None:
        listed = "\n".join(f"  {name:<10} {DESCRIPTIONS.get(name, '')}" for name in METHODS)
        return f"Make a synset. Killed at any moment, the same command goes on.\n\nmethods:\n{listed}"
    return f"Make a synset with {kind.title or kind.__name__}. Killed at any moment, the same command goes on."


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _register(name: str, path: Path) -> None:
    """Take the method class of a file: the one whose ``name`` attribute or lower-case class name is ``name``."""
    from ddbench.methods.base import Method

    module = load_file(path)
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    for kind in kinds:
        if name in (getattr(kind, "name", None), kind.__name__.lower()):
            check_config_class(getattr(kind, "config_class", None), f"--method-file {path}", defaults=True)
            METHODS.register(name, kind)
            return
    listed = ", ".join(kind.__name__.lower() for kind in kinds) or "none"
    raise UserError(f"--method-file {path}: defines no method {name!r}; it defines: {listed}")


def _with_recipe(args: RunArgs, recipe: Recipe | None) -> RunArgs:
    if recipe is None:
        return args
    own = {item.name for item in fields(RunArgs)}
    return replace(args, **{key: value for key, value in recipe.run.items() if key in own})


def _asked_experts(recipe: Recipe, kind: str) -> tuple[int, Any]:
    """Number and settings of the experts that a recipe asks for; of the method's kind where it names none."""
    return recipe.experts.get("experts", 20), replace(recipe.expert_recipe(), kind=recipe.experts.get("kind", kind))


def _run(name: str, kind: Any, config: Any, args: RunArgs, recipe: Recipe | None) -> None:
    from ddbench.cli.settings import open_dataset, student_for
    from ddbench.data.specs import dataset_slug
    from ddbench.distillation.runner import RunSettings, distill

    if args.ipc is None and kind.unit == "ipc":
        raise UserError("--ipc is missing: how many images per class?")
    console = Console(args.quiet)
    dataset = open_dataset(args.dataset or "digits", args.size, args)
    threads = own_threads(args.threads, dataset.spec.size)
    if recipe is not None:
        console.say(f"recipe {name}/{recipe.name} ({recipe.source})")
    budget = f"ipc{args.ipc}" if kind.unit == "ipc" else "full"
    out = args.out or Path("runs") / f"{dataset_slug(dataset.spec.name)}-{budget}-{name}-s{args.seed}"
    path = distill(
        name,
        kind,
        config,
        dataset=dataset,
        data=args.data,
        settings=RunSettings(
            ipc=args.ipc or 0,
            student=student_for(args.student, dataset),
            seed=args.seed,
            preprocess=args.preprocess or "meanstd",
            holdout=0.1 if args.holdout is None else args.holdout,
            buffers=args.buffers,
            teachers=args.teachers,
            teacher_student=args.teacher_student,
            experts=_asked_experts(recipe, kind.expert_kind(config)) if recipe and recipe.experts else None,
            validate_every=args.validate_every or 0,
            validate_epochs=args.validate_epochs,
            track=args.track,
            checkpoint_every=args.checkpoint_every,
            device=args.device,
            threads=threads,
            compile=args.compile,
            diffusions=args.diffusions,
            diffusion_model=args.diffusion_model,
            download=args.download,
        ),
        out=out,
        console=console,
    )
    print(f"synset: {path}   next: ddbench evaluate {out}")
