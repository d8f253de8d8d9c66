"""The one runner of all methods: checks, loop, progress, tracking, checkpoints, resume, validation, cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.config import check_config, recorded_config
from ddbench.data.dataset import Dataset, holdout_split, validation_sample
from ddbench.data.load import data_root
from ddbench.data.preprocess import Preprocess, fit_preprocess
from ddbench.diffusion.library import diffusers
from ddbench.diffusion.store import DiffusionModel, check_model, find_model, open_model
from ddbench.diffusion.train import ensure_model
from ddbench.distillation.folder import CHECKPOINT, check_folder, checkpoint, claim_folder, recorded, resume
from ddbench.experts.recipe import ExpertRecipe
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, check_ipc
from ddbench.methods.needs import find_experts
from ddbench.methods.upstream import upstream_cost
from ddbench.networks.check import check_student
from ddbench.networks.names import parse_student
from ddbench.preview import preview_png
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.training import Settings, train_student
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import ensure_writable, write_bytes, write_json
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.tracking import Tracker, check_tracker, open_trackers
from ddbench.synset import FILE, Synset, write_synset
from ddbench.teachers.store import Teacher, check_teacher, default_teacher, find_teacher
from ddbench.teachers.train import ensure_teacher

CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run that are not the method's own.

    Attributes:
        ipc, student, seed, preprocess, holdout: what decides the product, with the method's config.
        buffers: root of the trajectory store.
        experts: the experts that a recipe asks for (``None``: any that fit), and how many.
        validate_every: iterations between two validations on the held-out images; 0: never.
        validate_epochs: epochs of the student that is validated.
        track: tracker.
        checkpoint_every: iterations between two checkpoints; 0: every :data:`CHECKPOINT_SECONDS`.
        teachers: root of the teachers.
        teacher_student: architecture of the teacher; ``None``: the default one for the image size.
        diffusions: root of the diffusion models, and of the latents that methods cache (``latents/`` in it).
        diffusion_model: folder or hub name of a model of one's own choice; ``None``: the one of the root that fits.
        download: fetch that model where it is not on this machine.
    """

    ipc: int
    student: str
    seed: int
    preprocess: str
    holdout: float
    buffers: Path
    experts: tuple[int, ExpertRecipe] | None
    validate_every: int
    validate_epochs: int
    track: str
    checkpoint_every: int
    device: str
    threads: int
    compile: str
    teachers: Path = Path("teachers")
    teacher_student: str | None = None
    diffusions: Path = Path("diffusions")
    diffusion_model: str | None = None
    download: bool = False


def distill(
    name: str,
    kind: type[Method[Any]],
    config: Any,
    *,
    dataset: Dataset,
    data: Path | None,
    settings: RunSettings,
    out: Path,
    console: Console,
) -> Path:
    """Run a method; returns the synset's path. A killed run goes on, a finished one is left as it is.

    Raises:
        UserError: whatever the user can mend, before anything is written where possible.
    """
    meter = Meter()
    spec = dataset.spec
    if settings.ipc < 1 and kind.unit == "ipc":
        raise UserError(f"--ipc {settings.ipc}: expected at least 1")
    if settings.validate_every < 0 or settings.checkpoint_every < 0:
        raise UserError("--validate-every and --checkpoint-every: expected at least 0 (0: off / by time)")
    if settings.validate_epochs < 1:
        raise UserError(f"--validate-epochs {settings.validate_epochs}: expected at least 1")
    check_tracker(settings.track)
    check_student(settings.student, spec.channels, spec.size)
    train, held_out = holdout_split(dataset.train, settings.holdout, spec.classes, dataset.root)
    if settings.validate_every and not len(held_out.labels):
        raise UserError(
            "--validate-every needs held-out training images: give --holdout 0.1 (experts then need it too), or "
            "--validate-every 0"
        )
    if kind.unit == "ipc":
        check_ipc(settings.ipc, train, spec.classes, spec.class_names)
    device = devices.resolve_device(settings.device)
    preprocess = fit_preprocess(dataset, settings.preprocess, data_root(data))
    store = None
    if kind.needs.experts:
        store = find_experts(
            method=name,
            kind=kind.expert_kind(config),
            dataset=dataset,
            preprocess=preprocess,
            preprocess_kind=settings.preprocess,
            student=settings.student,
            holdout=settings.holdout,
            buffers=settings.buffers,
            asked=settings.experts,
        )
    context = Context(
        dataset=dataset,
        train=train,
        held_out=validation_sample(held_out),
        preprocess=preprocess,
        ipc=settings.ipc,
        student=settings.student,
        seed=settings.seed,
        device=device,
        folder=out,
        compile=settings.compile,
        console=console,
        experts=store,
        teacher_student=_teacher_student(dataset, settings) if kind.needs.teacher else None,
        latents=settings.diffusions / "latents" if kind.needs.diffusion else None,
    )
    check_config(config)
    kind.check(config, context)
    resolved = _resolved(name, config, context, settings)
    path = out / FILE
    if kind.needs.teacher:
        resolved["teacher"] = _recorded_teacher(out, dataset, settings)
        check_folder(out, resolved)
        if not path.exists():
            penalty = kind.teacher_penalty(config)
            teacher = _teacher(dataset, data, preprocess, settings, out, resolved["teacher"], penalty, console)
            context, resolved["teacher"] = replace(context, teacher=teacher), teacher.reference()
            meter = Meter()  # the teacher's cost is in its own record
    if kind.needs.diffusion:
        diffusers()
        resolved["diffusion"] = recorded(out, "diffusion")
        check_folder(out, resolved)
        if not path.exists():
            model = _diffusion(dataset, settings, resolved["diffusion"], console)
            context, resolved["diffusion"] = replace(context, diffusion=model), model.reference()
            meter = Meter()  # its cost is in its own record
    claim_folder(out, resolved)
    if path.exists():
        (out / CHECKPOINT).unlink(missing_ok=True)
        console.say(f"finished already: {path}")
        return path
    devices.prepare(settings.threads)
    method = kind(config, context)
    method.setup()
    done = resume(out, method, meter, console)
    apart = Meter()
    prepared = method.prepare()
    meter.earlier_wall, meter.earlier_cpu = meter.earlier_wall - apart.wall, meter.earlier_cpu - apart.cpu
    trackers = open_trackers(settings.track, out, resolved, done, console) if method.iterations else []
    try:
        _loop(method, done, settings, out, resolved, trackers, meter)
    finally:
        for tracker in trackers:
            tracker.close()
    synset = _wrap(method.distilled(), method, resolved)
    write_bytes(out / "preview.png", preview_png(synset, preprocess))
    upstream = {**upstream_cost(context.experts, context.teacher, context.diffusion), **prepared}
    cost = meter.report(devices.describe(device), iterations=method.iterations, upstream=upstream)
    write_json(out / "cost.json", cost)
    write_synset(path, synset)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return path


def _recorded_teacher(out: Path, dataset: Dataset, settings: RunSettings) -> dict[str, Any] | None:
    """The teacher that an earlier try of this run had, as the architecture that is asked for now."""
    earlier = recorded(out, "teacher")
    return None if earlier is None else {**earlier, "student": _teacher_student(dataset, settings)}


def _diffusion(
    dataset: Dataset, settings: RunSettings, recorded: dict[str, Any] | None, console: Console
) -> DiffusionModel:
    """The model that is asked for, that of an earlier try, the one of the store that fits, or one trained now.

    Raises:
        UserError: none that fits, and none can be trained.
    """
    if settings.diffusion_model is not None:
        model = open_model(settings.diffusion_model, download=settings.download)
    else:
        found = None if recorded is None else find_model(settings.diffusions, sha256=recorded["sha256"])
        model = found or ensure_model(
            root=settings.diffusions,
            dataset=dataset,
            holdout=settings.holdout,
            device=settings.device,
            threads=settings.threads,
            console=console,
        )
    check_model(model, dataset, settings.holdout)
    return model


def _teacher_student(dataset: Dataset, settings: RunSettings) -> str:
    name = settings.teacher_student
    return str(parse_student(name)) if name else default_teacher(dataset.spec.size)


def _teacher(
    dataset: Dataset,
    data: Path | None,
    preprocess: Preprocess,
    settings: RunSettings,
    out: Path,
    recorded: dict[str, Any] | None,
    penalty: dict[str, Any],
    console: Console,
) -> Teacher:
    """The teacher of an earlier try of the run, else one that fits, trained first where there is none.

    Raises:
        UserError: the run's folder could not be made, or the teacher cannot be trained.
    """
    ensure_writable(next(place for place in (out, *out.absolute().parents) if place.exists()))
    if recorded is not None:
        # A better one that came into the store since would make another synset.
        found = find_teacher(settings.teachers, sha256=recorded["sha256"])
        if found is not None:
            check_teacher(found, dataset, preprocess)
            return found
    return ensure_teacher(
        root=settings.teachers,
        dataset=dataset,
        data=data,
        student=_teacher_student(dataset, settings),
        preprocess_kind=settings.preprocess,
        holdout=settings.holdout,
        device=settings.device,
        threads=settings.threads,
        compile=settings.compile,
        console=console,
        penalty=penalty,
    )


def _resolved(name: str, config: Any, context: Context, settings: RunSettings) -> dict[str, Any]:
    """Everything that decides the product's bytes."""
    store = context.experts
    return {
        "kind": "ddbench-run",
        "schema": 1,
        "method": name,
        "config": recorded_config(config),
        "dataset": context.dataset.spec.name,
        "dataset_fingerprint": context.dataset.fingerprint,
        "ipc": context.ipc,
        "student": context.student,
        "seed": context.seed,
        "preprocess": context.preprocess.to_json(),
        "holdout": settings.holdout,
        "validate_every": settings.validate_every,
        "validate_epochs": settings.validate_epochs,
        "experts": None
        if store is None
        else {"identity": store.identity(), "count": len(store.experts), "recipe": store.recipe.to_json()},
        "teacher": None if context.teacher is None else context.teacher.reference(),
        "threads": settings.threads,
        "compile": settings.compile,
        "device": str(context.device.type),
        "versions": devices.versions(),
    }


def _loop(
    method: Method[Any],
    done: int,
    settings: RunSettings,
    out: Path,
    resolved: dict[str, Any],
    trackers: list[Tracker],
    meter: Meter,
) -> None:
    if not method.iterations:
        return
    context, saved = method.context, time.monotonic()
    with context.console.bar(
        f"{resolved['method']} ({context.dataset.spec.name}, ipc {context.ipc})", method.iterations, done
    ) as bar:
        shown = ""
        for iteration in range(done, method.iterations):
            try:
                metrics = method.step(iteration)
            except NotFiniteError as error:
                checkpoint(out, method, iteration, meter)
                write_synset(out / "last_good.safetensors", _wrap(method.distilled(), method, resolved))
                raise UserError(
                    f"iteration {iteration}: {error}; stopped, the last good state is {out / 'last_good.safetensors'}"
                ) from None
            number = iteration + 1
            last = number == method.iterations
            if settings.validate_every and (number % settings.validate_every == 0 or last):
                metrics["holdout_accuracy"] = _validate(method, settings, resolved)
                shown = f"held-out {metrics['holdout_accuracy']:.3f}"
            for tracker in trackers:
                tracker.log(number, metrics)
            main = f"loss {metrics['loss']:.4f} " if "loss" in metrics else ""
            bar.advance(main + shown)
            due = (
                number % settings.checkpoint_every == 0
                if settings.checkpoint_every
                else time.monotonic() - saved >= CHECKPOINT_SECONDS
            )
            if due or last:
                checkpoint(out, method, number, meter)
                saved = time.monotonic()


def _validate(method: Method[Any], settings: RunSettings, resolved: dict[str, Any]) -> float:
    """Held-out accuracy of one student trained on the synset as it is; never the test set."""
    context = method.context
    synset = _wrap(method.distilled(), method, resolved)
    lr = synset.learned_lr
    if lr is not None and lr.ndim == 0 and float(lr) <= 0:
        return 0.0
    base = PROTOCOLS["hard-v1" if synset.stage is None else "pdd"]
    protocol, _ = changed(base, epochs=settings.validate_epochs)
    plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=context.dataset.spec.flip)
    how = Settings(device=str(context.device), threads=settings.threads)
    try:
        return train_student(plan, context.held_out, context.student, 0, how)["accuracy"]
    except UserError:  # a student that diverges on an unfinished synset is a bad score, not the end of the run
        return 0.0


def _wrap(product: Distilled, method: Method[Any], resolved: dict[str, Any]) -> Synset:
    """The product with its provenance."""
    context = method.context
    experts, teacher = resolved["experts"], resolved["teacher"]
    parents: dict[str, str] = {} if experts is None else {"experts": experts["identity"]}
    if "diffusion" in resolved:
        parents["diffusion"] = resolved["diffusion"]["sha256"]
    if teacher is not None:
        parents["teacher"] = teacher["sha256"]
    return Synset(
        images=product.images,
        labels=product.labels,
        preprocess=resolved["preprocess"],
        budget=method.budget,
        dataset=context.dataset.spec.name,
        fingerprint=context.dataset.fingerprint,
        class_names=context.dataset.spec.class_names,
        method=resolved["method"],
        config={**resolved["config"], "holdout": resolved["holdout"]},
        seed=context.seed,
        student=context.student if method.iterations else None,
        augmentation=method.augmentation,
        learned_lr=product.learned_lr,
        stage=product.stage,
        decode_factor=product.decode_factor,
        patches=product.patches,
        teacher=product.teacher,
        versions=resolved["versions"],
        parents=parents,
    )
