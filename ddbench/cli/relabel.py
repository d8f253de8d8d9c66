"""``ddbench relabel``: a teacher's logits of every view of a synset, stored for replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ddbench.cli.parse import parse
from ddbench.cli.settings import Common, own_threads
from ddbench.protocols.protocol import Protocol, protocol
from ddbench.protocols.teacher import choose_teacher, named
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.protocols.labels import StoredLabels
    from ddbench.protocols.plan import Plan
    from ddbench.teachers.store import Teacher


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Store a teacher's logits of every augmented view of a synset, epoch by epoch (FKD), for students to replay."""

    run: tyro.conf.Positional[Path]
    """A run folder, or a synset file."""
    protocol: str = "fkd"
    """Protocol whose views are labelled (ddbench list protocols), or a TOML file with one of your own."""
    teacher: Path | None = None
    """Teacher file; default: the synset's own, else the best one in --teachers that fits, else one that is trained."""
    teachers: Path = Path("teachers")
    """Root of the teachers (ddbench teacher)."""
    teacher_student: str | None = None
    """Network of the teacher; default: any in --teachers, and a batch-norm ConvNet for one that is trained."""
    epochs: int | None = None
    """Epochs to label; default: those that the protocol trains. Students may train fewer."""
    seed: int = 0
    """Names the views: order, crops, mixes."""
    out: Path | None = None
    """File to write; default: labels.safetensors beside the synset."""


EXAMPLES = """  ddbench relabel runs/digits-ipc10-random-s0
  ddbench relabel runs/digits-ipc10-random-s0 --teacher teachers/digits/convnet-d1-w128-bn/1f0c2a4b5d6e.safetensors
  ddbench relabel runs/digits-ipc10-random-s0 --teacher-student convnet-d1-w32-bn --epochs 50 --out 50.safetensors
  ddbench relabel synset.safetensors --protocol my-protocol.toml"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench relabel", str(Args.__doc__), EXAMPLES)
    wanted = protocol(args.protocol)
    if args.teacher is not None and args.teacher_student is not None:
        raise UserError("--teacher names a file and --teacher-student a network: give one of the two")
    from ddbench.cli.settings import open_dataset
    from ddbench.protocols.plan import Plan, labels_path
    from ddbench.protocols.relabel import check_relabel, relabel
    from ddbench.protocols.training import Settings
    from ddbench.runtime.device import resolve_device
    from ddbench.runtime.files import file_hash
    from ddbench.synset import check_against, read_synset, synset_path

    path = synset_path(args.run)
    synset = read_synset(path)
    dataset = open_dataset(synset.dataset, synset.images.shape[-1], args)
    threads = own_threads(args.threads, dataset.spec.size)
    sha256 = file_hash(path)
    plan = Plan(
        synset=synset,
        protocol=wanted,
        preprocess=check_against(path, synset, dataset),
        flip=dataset.spec.flip,
        synset_sha256=sha256,
    )
    epochs = plan.epochs if args.epochs is None else args.epochs
    out = args.out or labels_path(path)
    resolve_device(args.device)
    check_relabel(plan, epochs, args.seed, out)
    console = Console(args.quiet)
    stored = relabel(
        plan=plan,
        synset_sha256=sha256,
        teacher=_teacher(args, plan, dataset, out, threads, console),
        epochs=epochs,
        seed=args.seed,
        out=out,
        settings=Settings(device=args.device, threads=threads),
        console=console,
    )
    _print(args, plan, stored, is_default=out == labels_path(path))


def _teacher(args: Args, plan: Plan, dataset: Dataset, out: Path, threads: int, console: Console) -> Teacher:
    """The flag's teacher, the synset's own, that of an earlier try, the best that fits, or one that is trained.

    Raises:
        UserError: the wanted one is not there, was trained on other data or another input, or cannot be trained.
    """
    from ddbench.data.preprocess import kind_of
    from ddbench.networks.check import check_student
    from ddbench.networks.names import parse_student
    from ddbench.protocols.relabel import earlier_teacher
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.store import check_teacher
    from ddbench.teachers.train import ensure_teacher, summary

    synset, student = plan.synset, None
    if args.teacher_student is not None:
        student = str(parse_student(args.teacher_student))
        check_student(student, dataset.spec.channels, dataset.spec.size)
    found = choose_teacher(
        args.teachers,
        synset,
        given=args.teacher,
        student=student,
        earlier=earlier_teacher(out),
        preprocess=plan.preprocess,
    )
    if found is not None:
        check_teacher(found, dataset, plan.preprocess)
        console.say(f"teacher: {found.path} ({summary(found)})")
        return found
    if synset.teacher is not None and student is None:
        raise UserError(
            f"{args.run}: its own teacher ({named(synset.teacher)}) is not in {args.teachers}; give --teacher FILE or "
            "--teachers DIR, or --teacher-student for another one"
        )
    kind = kind_of(plan.preprocess, dataset)
    if kind is None:
        raise UserError(
            f"{args.run}: no teacher in {args.teachers} has its preprocess (mean {list(plan.preprocess.mean)}), and "
            "none can be trained by name; give --teacher FILE"
        )
    holdout = synset.config.get("holdout")
    return ensure_teacher(
        root=args.teachers,
        dataset=dataset,
        data=args.data,
        student=student,
        preprocess_kind=kind,
        holdout=holdout if isinstance(holdout, float) and 0 <= holdout <= 0.9 else TeacherRecipe().holdout,
        device=args.device,
        threads=threads,
        compile=args.compile,
        console=console,
    )


def _print(args: Args, plan: Plan, stored: StoredLabels, is_default: bool) -> None:
    images = plan.synset.images.numel() * plan.synset.images.element_size()
    print(
        f"labels of {stored.epochs} epochs x {stored.images} images x {stored.classes} classes by "
        f"{stored.teacher.get('student')}: {stored.bytes / 1e6:.2f} MB, {stored.bytes / images:.3g} x the images' bytes"
    )
    print(f"labels: {stored.path}")
    print(f"next: {_next(args, plan.protocol, plan.epochs, stored, is_default)}")


def _next(args: Args, wanted: Protocol, epochs: int, stored: StoredLabels, is_default: bool) -> str:
    """The command that uses the labels."""
    name, advice = args.protocol, ""
    if wanted.labels != "stored" and name.endswith(".toml"):
        advice = f', after putting labels = "stored" into {name}'
    elif wanted.labels != "stored":
        advice = f', where FILE.toml says name = "{name}-stored", base = "{name}" and labels = "stored"'
        name = "FILE.toml"
    where = "" if is_default else f" --labels {stored.path}"
    fewer = f" --epochs {stored.epochs}" if stored.epochs < epochs else ""
    return f"ddbench evaluate {args.run} --protocol {name}{where}{fewer}{advice}"
