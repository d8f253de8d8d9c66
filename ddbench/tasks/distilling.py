"""A run's method, run again on other data: a step's classes, half of the images.

What the method needs is made of these very images first: experts as the run's were trained, a teacher of the same
network. They are kept in the task's folder, for every run that needs the same; the sets' cost records name their cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ddbench.config import apply_config
from ddbench.data.dataset import Dataset, stratified
from ddbench.diffusion.recipe import LATENT, DiffusionRecipe
from ddbench.diffusion.train import train_model
from ddbench.distillation.begin import look
from ddbench.distillation.runner import RunSettings, distill
from ddbench.experts.recipe import IMPORTED, ExpertRecipe
from ddbench.experts.record import record
from ddbench.methods import METHODS, OF_A_FILE
from ddbench.methods.needs.experts import Experts
from ddbench.methods.needs.flags import DiffusionFlags, ExpertsFlags, TeacherFlags
from ddbench.networks.names import default_student
from ddbench.registry import unknown
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import read_json
from ddbench.runtime.progress import Console
from ddbench.synset import Synset
from ddbench.tasks.base import Job, Run
from ddbench.teachers.store import default_teacher
from ddbench.teachers.together import JOIN

RUN_KIND = "ddbench-run"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A method with its settings.

    Attributes:
        label: names it in results.
        config: the method's own settings; the others have their defaults.
        student: the network that it matches.
        experts: how many experts it was given, and how they were trained; None: it has none, or nothing says it.
        teacher: network of its teacher, or of several joined by commas; None: nothing says it, so the default.
        model: how its diffusion model was trained; None: it has none, or one by the default recipe.
        pretrained: whether its diffusion model was trained by others.
    """

    label: str
    method: str
    config: Mapping[str, Any]
    student: str
    seed: int
    experts: tuple[int, ExpertRecipe] | None = None
    teacher: str | None = None
    model: DiffusionRecipe | None = None
    pretrained: bool = False


def recorded_run(synset: Path) -> dict[str, Any]:
    """The record of the run that made a synset's file, which lies beside it; empty where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = synset.with_name("config.json")
    found = read_json(path, "run configuration") if path.is_file() else None
    return found if isinstance(found, dict) and found.get("kind") == RUN_KIND else {}


def needs_of(run: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What a run was given that nothing else says: experts, a teacher that is not the default one, a diffusion model.

    Args:
        run: the run's record, or ``recipe`` of a row of a board.
        size: side of the images in px.
    """
    found: dict[str, Any] = {}
    experts, teacher, model = (run.get(name) for name in ("experts", "teacher", "diffusion"))
    if isinstance(experts, dict):
        found["experts"] = {name: experts.get(name) for name in ("count", "recipe")}
    if isinstance(teacher, dict) and teacher.get("student") not in (None, default_teacher(size)):
        found["teacher"] = {"student": teacher["student"]}
    if isinstance(model, dict) and (model.get("kind") == LATENT or "recipe" in model):
        found["diffusion"] = {name: model.get(name) for name in ("kind", "recipe")}
    return found


def source_of(run: Run, synset: Synset) -> Source:
    """What made a synset.

    Raises:
        UserError: its experts are described by something else than their number and recipe, or its diffusion model by
            something else than a recipe.
    """
    label, experts, model = run.label, run.needs.get("experts"), run.needs.get("diffusion", {})
    recipe = model.get("recipe")
    count = experts.get("count") if experts else 1
    if type(count) is not int or count < 1:
        raise UserError(f"{label}: its record says {str(count)[:40]!a} experts, expected a number; distil it again")
    return Source(
        label=label,
        method=synset.method,
        config={name: value for name, value in synset.config.items() if name != "holdout"},
        student=synset.student or default_student(synset.images.shape[-1]),
        seed=synset.seed,
        experts=(count, ExpertRecipe.from_json(experts.get("recipe"), f"{label}: experts")) if experts else None,
        teacher=_teacher_of(run, synset),
        model=apply_config(DiffusionRecipe, recipe, f"{label}: diffusion model") if recipe else None,
        pretrained=model.get("kind") == LATENT,
    )


def _teacher_of(run: Run, synset: Synset) -> str | None:
    """The networks of a run's teachers as the flag takes them: of its record, else of the synset's header."""
    said = (run.needs.get("teacher") or synset.teacher or {}).get("student")
    return ",".join(said.split(JOIN)) if isinstance(said, str) else None


def default_source(name: str, size: int) -> Source:
    """A method with its defaults.

    Args:
        size: side of the images in px.
    """
    return Source(label=name, method=name, config={}, student=default_student(size), seed=0)


def sources_beside(against: str, size: int) -> list[Source]:
    """The methods of ``--against``, with their defaults; a name that is there twice counts once.

    Args:
        against: names with commas.
        size: side of the images in px.

    Raises:
        UserError: an unknown method.
    """
    names = dict.fromkeys(filter(None, map(str.strip, against.split(","))))
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, METHODS, "--against")
    return [default_source(name, size) for name in names]


def most_images(source: Source, dataset: Dataset, holdout: float) -> int | None:
    """Images of each class that a method can make from a dataset; None: as many as are wanted."""
    if not METHODS.get(source.method).distinct:
        return None
    labels, classes = dataset.train.labels, dataset.spec.classes
    if holdout:
        labels = labels[~stratified(labels, classes, holdout, "holdout")]
    return int(labels.bincount(minlength=classes).min())


def check_source(source: Source, remedy: str) -> None:
    """Refuse a method that cannot be run on other data than it was recorded for.

    Args:
        remedy: what to do instead, for the message.

    Raises:
        UserError: an unknown method, one with other settings, or one that needs what is not made on the way.
    """
    if source.method not in METHODS:
        raise UserError(
            f"{source.label}: no method {source.method!r} is known, so it cannot be run again; {remedy} ({OF_A_FILE})"
        )
    kind = METHODS.get(source.method)
    needs = kind.needs(apply_config(kind.config_class, dict(source.config), source.label))
    if source.experts is not None and source.experts[1].kind == IMPORTED:
        raise UserError(f"{source.label}: its experts were imported, and nothing here trains such ones; {remedy}")
    if source.pretrained:
        raise UserError(
            f"{source.label}: its diffusion model was pretrained, and on other images than a part of these; {remedy}"
        )
    unknown = [need.key for need in needs if need.early and (need.key != Experts.key or source.experts is None)]
    if unknown:
        raise UserError(
            f"{source.label}: {source.method} needs {', '.join(unknown)} of the very images that it is run on, and "
            f"nothing says how they are made: name the run's folder, whose config.json does; or {remedy}"
        )


def hardest(counts: Sequence[Tensor]) -> list[int]:
    """Of some parts of a dataset, by the images of each of their classes, those that a method may have too few of.

    Returns:
        Positions of the part with the smallest class, and of that with the fewest images.
    """
    positions = range(len(counts))
    smallest = min(positions, key=lambda one: int(counts[one].min()))
    return sorted({smallest, min(positions, key=lambda one: int(counts[one].sum()))})


def check_again(source: Source, parts: Iterable[Dataset], job: Job, *, ipc: int, holdout: float, remedy: str) -> None:
    """Refuse what the method would refuse of such a part of the data, before the first one is distilled.

    What it looks for in its experts is left to the run, which records them first.

    Raises:
        UserError: in the method's words, and what to do instead.
    """
    kind = METHODS.get(source.method)
    config = apply_config(kind.config_class, dict(source.config), source.label)
    needs = [need for need in kind.needs(config) if not need.early]
    settings = _settings(source, job, ipc, holdout, TeacherFlags(teacher_student=source.teacher))
    for dataset in parts:
        try:
            given = (dataset, job.data, settings, job.folder, Console(quiet=True))
            context, request = look(source.method, kind, needs, *given)
            try:
                kind.check(config, context)
            except LookupError as error:
                if type(error) is not LookupError:  # Context.given of experts raises the plain one
                    raise
            for need in needs:
                need.check(request)
        except UserError as error:
            raise UserError(f"{source.label}: {error}; or {remedy}") from None


def again(source: Source, dataset: Dataset, job: Job, *, ipc: int, holdout: float, out: Path, kept: str) -> Path:
    """Run a method on a dataset that may be a part of the job's; returns the synset's file. A killed run goes on.

    Args:
        ipc: images a class.
        out: run folder.
        kept: names the images, for what is made of them beside the set: experts, a teacher, a diffusion model.
    """
    kind = METHODS.get(source.method)
    models = job.folder / "diffusions" / kept
    flags: list[Any] = [
        TeacherFlags(teachers=job.folder / "teachers" / kept, teacher_student=source.teacher),
        DiffusionFlags(diffusions=models, diffusion_model=_model(source, dataset, job, holdout, models)),
    ]
    if source.experts is not None:
        folder = _experts(source, dataset, job, holdout, job.folder / "experts" / kept)
        flags.append(ExpertsFlags(buffers=folder))
    return distill(
        source.method,
        kind,
        apply_config(kind.config_class, dict(source.config), source.label),
        dataset=dataset,
        data=job.data,
        settings=_settings(source, job, ipc, holdout, *flags),
        out=out,
        console=Console(quiet=True),
    )


def _settings(source: Source, job: Job, ipc: int, holdout: float, *flags: Any) -> RunSettings:
    """Those of the run that is made again."""
    how = job.settings
    return RunSettings(
        ipc=ipc,
        student=source.student,
        seed=source.seed,
        preprocess="meanstd",
        holdout=holdout,
        validate_every=0,
        validate_epochs=1,
        track="jsonl",
        checkpoint_every=0,
        device=how.device,
        threads=how.threads,
        compile=how.compile,
        flags=flags,
    )


def _experts(source: Source, dataset: Dataset, job: Job, holdout: float, root: Path) -> Path:
    """The store of a run's experts, recorded on these images; those that are there are kept."""
    assert source.experts is not None
    count, recipe = source.experts
    store = record(
        root=root,
        dataset=dataset,
        data=job.data,
        student=source.student,
        recipe=replace(recipe, holdout=holdout, preprocess="meanstd"),
        experts=count,
        workers=1,
        threads=job.settings.threads,
        device=job.settings.device,
        compile=job.settings.compile,
        console=Console(quiet=True),
        by_name=False,
    )
    return store.folder


def _model(source: Source, dataset: Dataset, job: Job, holdout: float, root: Path) -> str | None:
    """Folder of a diffusion model that is trained on these images as the run's was; one that is there is kept."""
    if source.model is None:
        return None
    made = train_model(
        root=root,
        dataset=dataset,
        recipe=replace(source.model, holdout=holdout),
        device=job.settings.device,
        threads=job.settings.threads,
        console=Console(quiet=True),
    )
    return str(made.folder)
