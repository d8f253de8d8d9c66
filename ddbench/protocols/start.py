"""From names and settings to stored labels: what the command line and a caller share. Loads torch when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.protocols.protocol import protocol
from ddbench.protocols.teacher import choose_teacher
from ddbench.runtime.common import Common
from ddbench.runtime.device import own_threads, resolve_device
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.teachers.remedy import how_to_join, named

if TYPE_CHECKING:
    from ddbench.data.dataset import Dataset
    from ddbench.protocols.labels import StoredLabels
    from ddbench.protocols.plan import Plan
    from ddbench.teachers.store import Teacher


@dataclass(frozen=True, kw_only=True)
class Asked(Common):
    """Which labels are to be stored: what the flags of ``ddbench relabel`` say."""

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


@dataclass(frozen=True)
class Relabelled:
    """A teacher's labels of a synset's views.

    Attributes:
        plan: synset and protocol.
        stored: the file.
        beside: whether it lies where an evaluation looks for it by itself.
    """

    plan: Plan
    stored: StoredLabels
    beside: bool


def relabel(run: Path, asked: Asked) -> Relabelled:
    """Store a teacher's logits of every augmented view of a synset; a killed try goes on.

    Args:
        run: a run folder, or a synset file.

    Raises:
        UserError: whatever the user can mend, before anything is written; a teacher may be trained first.
    """
    wanted = protocol(asked.protocol)
    if asked.teacher is not None and asked.teacher_student is not None:
        raise UserError("--teacher names a file and --teacher-student a network: give one of the two")
    from ddbench.data.load import load_dataset
    from ddbench.protocols import relabel as labelling
    from ddbench.protocols.plan import Plan, labels_path
    from ddbench.protocols.training import Settings
    from ddbench.runtime.files import file_hash
    from ddbench.synset import check_against, read_synset, synset_path

    path = synset_path(run)
    synset = read_synset(path)
    side = synset.images.shape[-1]
    dataset = load_dataset(
        synset.dataset, asked.data, size=side, download=asked.download, skip_broken=asked.skip_broken
    )
    out = asked.out or labels_path(path)
    earlier, begun = labelling.earlier_try(out)
    threads = own_threads(asked.threads or begun, dataset.spec.size)
    plan = Plan(
        synset=synset,
        protocol=wanted,
        preprocess=check_against(path, synset, dataset),
        flip=dataset.spec.flip,
        synset_sha256=file_hash(path),
    )
    epochs = plan.epochs if asked.epochs is None else asked.epochs
    resolve_device(asked.device)
    labelling.check_relabel(plan, epochs, asked.seed, out)
    console = Console(asked.quiet)
    stored = labelling.relabel(
        plan=plan,
        teacher=_teacher(run, asked, plan, dataset, out, earlier, threads, console),
        epochs=epochs,
        seed=asked.seed,
        out=out,
        settings=Settings(device=asked.device, threads=threads),
        console=console,
    )
    return Relabelled(plan, stored, beside=out == labels_path(path))


def _teacher(
    run: Path,
    asked: Asked,
    plan: Plan,
    dataset: Dataset,
    out: Path,
    earlier: str | None,
    threads: int,
    console: Console,
) -> Teacher:
    """The flag's teacher, the synset's own, that of an earlier try, the best that fits, or one that is trained.

    Raises:
        UserError: the wanted one is not there, was trained on other data or another input, or cannot be trained.
    """
    from ddbench.data.preprocess import kind_of
    from ddbench.networks.check import check_student
    from ddbench.networks.names import parse_student
    from ddbench.teachers.recipe import TeacherRecipe
    from ddbench.teachers.store import check_teacher
    from ddbench.teachers.train import ensure_teacher, summary

    synset, student = plan.synset, None
    if asked.teacher_student is not None:
        student = str(parse_student(asked.teacher_student))
        check_student(student, dataset.spec.channels, dataset.spec.size)
    found = choose_teacher(
        asked.teachers,
        synset,
        given=asked.teacher,
        student=student,
        earlier=earlier,
        preprocess=plan.preprocess,
    )
    if found is not None:
        check_teacher(found, dataset, plan.preprocess)
        console.say(f"teacher: {found.path} ({summary(found)})")
        return found
    if synset.teacher is not None and student is None:
        join = how_to_join(asked.teachers, synset.dataset, synset.teacher)
        remedy = f"{join}; or give" if join else "give"
        raise UserError(
            f"{run}: its own teacher ({named(synset.teacher)}) is not in {asked.teachers}; {remedy} --teacher FILE or "
            "--teachers DIR, or --teacher-student for another one"
        )
    if out.exists():
        raise UserError(
            f"{out} holds the labels of a teacher (sha256 {str(earlier)[:12]}) that is not in {asked.teachers}; give "
            "--teachers DIR, choose another --out, or remove that file"
        )
    kind = kind_of(plan.preprocess, dataset)
    if kind is None:
        raise UserError(
            f"{run}: no teacher in {asked.teachers} has its preprocess (mean {list(plan.preprocess.mean)}), and "
            "none can be trained by name; give --teacher FILE"
        )
    holdout = synset.config.get("holdout")
    return ensure_teacher(
        root=asked.teachers,
        dataset=dataset,
        data=asked.data,
        student=student,
        preprocess_kind=kind,
        holdout=holdout if isinstance(holdout, float) and 0 <= holdout <= 0.9 else TeacherRecipe().holdout,
        device=asked.device,
        threads=threads,
        compile=asked.compile,
        console=console,
    )
