"""``ddbench teacher``: train a teacher; ``info`` lists those that are there, ``join`` puts several into one file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ddbench.cli.parse import parse, peek
from ddbench.cli.settings import Common, data_flag, own_threads
from ddbench.registry import suggest
from ddbench.runtime.errors import UserError, read_each, tell_damaged, visible
from ddbench.runtime.progress import Console
from ddbench.teachers.recipe import TeacherRecipe

if TYPE_CHECKING:
    from ddbench.teachers.store import Teacher


@dataclass(frozen=True, kw_only=True)
class Args(Common):
    """Train a teacher: a network on the real training images that labels views of synsets and gives features.

    Killed at any moment, the same command goes on.
    """

    dataset: str = "digits"
    """Dataset name (ddbench list datasets), or folder:PATH, npz:PATH, hub:OWNER/NAME for your own images."""
    size: int | None = None
    """Side in pixels for image folders and ImageNet."""
    student: str | None = None
    """Network; default: a batch-norm ConvNet that fits the image size."""
    teachers: Path = Path("teachers")
    """Root of the teachers."""
    settings: TeacherRecipe = field(default_factory=TeacherRecipe)
    """What decides the teacher."""


@dataclass(frozen=True, kw_only=True)
class InfoArgs:
    """A table of the trained teachers."""

    root: tyro.conf.Positional[Path] = Path("teachers")
    """Root of the teachers, or one teacher file."""


@dataclass(frozen=True, kw_only=True)
class JoinArgs(Common):
    """Put several teachers of the same images into one file: a teacher whose logits are the mean of theirs.

    ``ddbench evaluate --teacher FILE`` labels with it. Methods that take several teachers make such a file themselves.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The teacher files, in the order in which they are taken in turn."""
    teachers: Path = Path("teachers")
    """Root of the teachers, where the file is kept."""


EXAMPLES = """  ddbench teacher --dataset digits
  ddbench teacher --dataset cifar10 --student convnet-d3-w128-bn --download
  ddbench teacher --dataset cifar100 --student resnet18-bn --lr 0.1 --epochs 200     # SRe2L's squeeze stage
  ddbench teacher --dataset digits --penalty curvature                               # GUARD's squeeze stage
  ddbench teacher --dataset folder:my-images --size 32 --epochs 60 --teachers my-teachers
  ddbench teacher info
  ddbench teacher join teachers/digits/*-bn/*.safetensors                            # one file, mean of their logits"""

SUBVERBS = ("info", "join")


def main(argv: list[str]) -> None:
    """Run the verb."""
    if argv and not argv[0].startswith("-"):
        if argv[0] not in SUBVERBS:
            raise UserError(
                f"teacher: unknown sub-verb {argv[0]!r}{suggest(argv[0], SUBVERBS)}; one of: {', '.join(SUBVERBS)}"
            )
        {"info": _info, "join": _join}[argv[0]](argv[1:])
        return
    trained(argv)


def trained(argv: list[str], others: Sequence[Teacher] = ()) -> Path:
    """Train the teacher that the flags describe, if it is not there yet; returns its file.

    Args:
        others: teachers elsewhere; the first that was trained as the flags say is taken instead.
    """
    args = parse(Args, argv, "ddbench teacher", str(Args.__doc__), EXAMPLES)
    from ddbench.cli.settings import open_dataset
    from ddbench.networks.names import parse_student
    from ddbench.teachers.store import default_teacher
    from ddbench.teachers.train import summary, train_teacher

    recipe = args.settings
    if recipe.optimizer != "sgd" and peek(argv, "--momentum") is None:
        recipe = replace(recipe, momentum=0.0)
    recipe.check()
    dataset = open_dataset(args.dataset, args.size, args)
    student = str(parse_student(args.student or default_teacher(dataset.spec.size)))
    for one in others:
        if (one.student, one.recipe, one.fingerprint) == (student, recipe.to_json(), dataset.fingerprint):
            print(f"{one.student} on {one.dataset}: {summary(one)}: {one.path}")
            return one.path
    threads = own_threads(args.threads, dataset.spec.size)
    teacher = train_teacher(
        root=args.teachers,
        dataset=dataset,
        data=args.data,
        student=student,
        recipe=recipe,
        device=args.device,
        threads=threads,
        compile=args.compile,
        console=Console(args.quiet),
    )
    print(f"{teacher.student} on {teacher.dataset}: {summary(teacher)}: {teacher.path}")
    return teacher.path


def _info(argv: list[str]) -> None:
    args = parse(InfoArgs, argv, "ddbench teacher info", str(InfoArgs.__doc__), EXAMPLES)
    from ddbench.teachers.store import read_teacher, teacher_files

    files = [args.root] if args.root.is_file() else teacher_files(args.root)
    if not files:
        raise UserError(f"{args.root}: holds no teachers; train one with ddbench teacher --teachers {args.root}")
    teachers, damaged = read_each(files, read_teacher)
    rows: list[tuple[str, ...]] = [
        ("dataset", "student", "epochs", "preprocess", "holdout", "held-out", "test", "MB", "file")
    ]
    for teacher in teachers:
        rows.append(
            (
                teacher.dataset,
                teacher.student,
                str(teacher.recipe.get("epochs", "-")),
                str(teacher.recipe.get("preprocess", teacher.preprocess["kind"])),
                f"{teacher.holdout:g}",
                "-" if teacher.accuracy is None else f"{teacher.accuracy:.3f}",
                f"{teacher.test_accuracy:.3f}",
                f"{teacher.bytes / 1e6:.2f}",
                str(teacher.path),
            )
        )
    if any("penalty" in teacher.recipe for teacher in teachers):
        notes = ["penalty", *(str(teacher.recipe.get("penalty", "-")) for teacher in teachers)]
        rows = [(*row[:-1], note, row[-1]) for row, note in zip(rows, notes, strict=True)]
    if teachers:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print(visible("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
    tell_damaged(damaged, len(files), "teachers")


def _join(argv: list[str]) -> None:
    args = parse(JoinArgs, argv, "ddbench teacher join", str(JoinArgs.__doc__), EXAMPLES)
    from ddbench.data.load import load_dataset
    from ddbench.data.preprocess import Preprocess
    from ddbench.data.specs import size_to_load
    from ddbench.runtime.device import prepare, resolve_device
    from ddbench.teachers.join import check_members, join_teachers
    from ddbench.teachers.store import read_teacher
    from ddbench.teachers.train import summary

    teachers = [read_teacher(path) for path in args.files]
    check_members(teachers)
    first = teachers[0]
    size = size_to_load(first.dataset, first.shape[1])
    dataset = load_dataset(first.dataset, args.data, size=size, download=args.download, skip_broken=args.skip_broken)
    device = resolve_device(args.device)
    prepare(own_threads(args.threads, dataset.spec.size))
    teacher = join_teachers(
        args.teachers,
        teachers,
        dataset=dataset,
        preprocess=Preprocess.from_json(first.preprocess, dataset),
        device=device,
        console=Console(quiet=True),
    )
    print(f"{teacher.student} on {teacher.dataset}: {summary(teacher)}: {teacher.path}")
    more = f"{shlex.quote(str(teacher.path))}{data_flag(args.data)}"
    print(f"next: ddbench evaluate RUN --protocol kd-v1 --teacher {more}")
