"""The one runner of all methods: checks, loop, progress, tracking, checkpoints, resume, validation, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddbench.config import check_config, recorded_config
from ddbench.data.dataset import Dataset, Split, holdout_split, validation_sample
from ddbench.data.load import data_root
from ddbench.data.preprocess import fit_preprocess
from ddbench.distillation.folder import (
    CHECKPOINT,
    Rhythm,
    check_code,
    check_folder,
    checkpoint,
    claim_folder,
    recorded,
    resume,
)
from ddbench.methods.base import Context, Distilled, Method, NotFiniteError, check_ipc
from ddbench.methods.needs import TOLD_OF_ALL, Need, Request
from ddbench.networks.check import check_student
from ddbench.preview import preview_png
from ddbench.protocols.plan import Plan, own_protocol
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.training import Settings, train_student
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import check_writable, write_bytes, write_json
from ddbench.runtime.origin import code_record
from ddbench.runtime.progress import Console
from ddbench.runtime.ranks import ALONE, Ranks
from ddbench.runtime.resources import Meter
from ddbench.runtime.tracking import Tracker, check_tracker, open_trackers
from ddbench.synset import FILE, Synset, write_synset
from ddbench.training.twice import check_twice, plain_attention


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run that are not the method's own.

    Attributes:
        ipc, student, seed, preprocess, holdout: what decides the product, with the method's config.
        validate_every: iterations between two validations on the held-out images; 0: never.
        validate_epochs: epochs of the student that is validated.
        track: tracker.
        checkpoint_every: iterations between two checkpoints; 0: by time (:class:`folder.Rhythm`).
        flags: instances of the flags of the method's needs; what is not in it has its defaults.
        asked: what a recipe wants of a need beside its flags, by the need's key.
        download: what a need may fetch from the network.
        ranks: the processes that share the work of a step; the first one writes.
    """

    ipc: int
    student: str
    seed: int
    preprocess: str
    holdout: float
    validate_every: int
    validate_epochs: int
    track: str
    checkpoint_every: int
    device: str
    threads: int
    compile: str
    flags: tuple[Any, ...] = ()
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    download: bool = False
    ranks: Ranks = ALONE


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
    check_config(config)
    meter, needs, code, ranks = Meter(), kind.needs(config), code_record(kind), settings.ranks
    with ranks.first():
        context, request = look(name, kind, needs, dataset, data, settings, out, console)
    kind.check(config, context)
    _check_shares(kind, config, context)
    attention = attention_for(kind, context)
    for need in _late(needs):
        need.check(request)
    resolved = resolved_settings(name, config, context, settings) | references(needs, context.resources, request)
    check_folder(out, resolved)
    check_code(out, code, console)
    path = out / FILE
    if not path.exists():
        with meter.paused(), ranks.first():  # what is made for all runs has its cost in its own record
            context = replace(context, resources={**context.resources, **_obtain(_late(needs), request, out)})
        resolved |= references(needs, context.resources, request)
    if ranks.leads:
        claim_folder(out, resolved, code)
    _tell_repeats(kind, context)
    if path.exists():
        (out / CHECKPOINT).unlink(missing_ok=True)
        console.say(f"finished already: {path}")
        return path
    devices.prepare(settings.threads, say=console.say)
    method = kind(config, context)
    with attention:
        method.setup()
        done = resume(out, method, meter, console)
        ranks.agree(done, f"{out} is not the same folder for all processes, its checkpoints differ")
        if not ranks.leads:
            _follow(method, done)
            return path
        with meter.paused():  # as above
            prepared = method.prepare()
        trackers = open_trackers(settings.track, out, resolved, done, console) if method.iterations else []
        try:
            _loop(method, done, settings, out, resolved, trackers, meter)
        finally:
            for tracker in trackers:
                tracker.close()
    synset = _wrap(method.distilled(), method, resolved)
    write_bytes(out / "preview.png", preview_png(synset, context.preprocess))
    upstream = dict.fromkeys(TOLD_OF_ALL) | {need.key: need.cost(context.given(need)) for need in needs} | prepared
    cost = meter.report(devices.describe(context.device), iterations=method.iterations, upstream=upstream)
    write_json(out / "cost.json", cost | ranks.record())
    write_synset(path, synset)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return path


def look(
    name: str,
    kind: type[Method[Any]],
    needs: Sequence[Need[Any]],
    dataset: Dataset,
    data: Path | None,
    settings: RunSettings,
    out: Path,
    console: Console,
) -> tuple[Context, Request]:
    """What a method is given before anything is made, and what its needs are asked with.

    Raises:
        UserError: settings that cannot work, or an early need that is not there.
    """
    train, held_out = _split(kind, dataset, settings)
    device = devices.resolve_device(settings.device)
    request = Request(
        method=name,
        dataset=dataset,
        data=data,
        preprocess=fit_preprocess(dataset, settings.preprocess, data_root(data)),
        preprocess_kind=settings.preprocess,
        student=settings.student,
        holdout=settings.holdout,
        device=settings.device,
        threads=settings.threads,
        compile=settings.compile,
        download=settings.download,
        console=console,
        flags=settings.flags,
        asked=settings.asked,
        recorded={need.key: found for need in needs if (found := recorded(out, need)) is not None},
    )
    early = [need for need in needs if need.early]
    for need in early:
        need.check(request)
    context = Context(
        dataset=dataset,
        train=train,
        held_out=validation_sample(held_out),
        preprocess=request.preprocess,
        ipc=settings.ipc,
        student=settings.student,
        seed=settings.seed,
        device=device,
        folder=out,
        compile=settings.compile,
        console=console,
        ranks=settings.ranks,
        resources={need.key: _found(need, request) for need in early},
        architectures={need.key: known for need in needs if (known := need.architecture(request)) is not None},
    )
    return context, request


def _check_shares(kind: type[Method[Any]], config: Any, context: Context) -> None:
    """Refuse more processes than can share a step of a method.

    Raises:
        UserError: names the number of processes, and how many there can be.
    """
    world = context.ranks.world
    terms = kind.terms_of_a_step(config, context) if world > 1 else 1
    if world <= terms:
        return
    if terms == 1:
        raise UserError(
            f"torchrun with {world} processes: a step of {kind.title} with {context.student} is of one piece (it is no "
            "sum over classes or images, or batch norm or dropout ties them together); run ddbench without torchrun"
        )
    raise UserError(
        f"torchrun with {world} processes: a step of {kind.title} has {terms} parts to share here; use "
        f"--nproc-per-node {terms} or less"
    )


def _tell_repeats(kind: type[Method[Any]], context: Context) -> None:
    """Say it where a class has fewer real images than the synset is to have of it."""
    counts = context.train.labels.bincount(minlength=context.classes)
    few = (counts < context.ipc).nonzero()[:, 0].tolist()
    if few and kind.unit == "ipc":
        name = context.dataset.spec.class_names[few[0]]
        context.console.say(
            f"{len(few)} class(es) have fewer training images than --ipc {context.ipc}, e.g. {name!r} with "
            f"{int(counts[few[0]])}: first images that are real ones are repeated"
        )


def attention_for(kind: type[Method[Any]], context: Context) -> AbstractContextManager[None]:
    """The form of attention that the method can work with: torch's choice, or the one with a second derivative.

    Raises:
        UserError: the method needs a second derivative and the student has none.
    """
    if not kind.second_order:
        return nullcontext()
    net = context.network(0).to(context.device)
    if not check_twice(net, context.dataset.spec.shape, context.classes, context.student, kind.title):
        return nullcontext()
    context.console.say(
        f"{context.student}: attention is computed in its plain form, since the fused one has no second derivative, "
        f"which {kind.title} needs"
    )
    return plain_attention()


def _split(kind: type[Method[Any]], dataset: Dataset, settings: RunSettings) -> tuple[Split, Split]:
    """Training images for the method and held-out ones, if the run's settings can work.

    Raises:
        UserError: names the flag, its value and what is possible.
    """
    spec = dataset.spec
    if settings.ipc < 1 and kind.unit == "ipc":
        raise UserError(f"--ipc {settings.ipc}: expected at least 1")
    if settings.validate_every < 0 or settings.checkpoint_every < 0:
        raise UserError("--validate-every and --checkpoint-every: expected at least 0 (0: off / by time)")
    if settings.validate_epochs < 1:
        raise UserError(f"--validate-epochs {settings.validate_epochs}: expected at least 1")
    check_tracker(settings.track)
    check_student(settings.student, spec.channels, spec.size)
    train, held_out = holdout_split(dataset.train, settings.holdout, spec.classes, dataset.root, names=spec.class_names)
    if settings.validate_every and not len(held_out.labels):
        raise UserError(
            "--validate-every needs held-out training images: give --holdout 0.1 (experts then need it too), or "
            "--validate-every 0"
        )
    if kind.unit == "ipc":
        check_ipc(settings.ipc, train, spec.classes, spec.class_names, distinct=kind.distinct)
    return train, held_out


def _late(needs: Sequence[Need[Any]]) -> list[Need[Any]]:
    return [need for need in needs if not need.early]


def _found(need: Need[Any], request: Request) -> Any:
    found = need.look(request)
    return need.make(request) if found is None else found


def _obtain(needs: Sequence[Need[Any]], request: Request, out: Path) -> dict[str, Any]:
    """What the needs give, found or made, by their keys.

    Raises:
        UserError: the run's folder could not be made afterwards, or a need cannot be had.
    """
    if needs:
        check_writable(out)
    return {need.key: _found(need, request) for need in needs}


def references(needs: Sequence[Need[Any]], resources: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """What the run's record says of its needs; of those that are not looked up, what an earlier try said."""
    references: dict[str, Any] = dict.fromkeys(TOLD_OF_ALL)
    for need in needs:
        if need.key in resources:
            references[need.key] = need.refer(resources[need.key])
        else:
            earlier = request.recorded.get(need.key)
            references[need.key] = None if earlier is None else need.recorded(earlier, request)
    return references


def resolved_settings(name: str, config: Any, context: Context, settings: RunSettings) -> dict[str, Any]:
    """Everything that decides the product's bytes, but the needs."""
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
        "threads": settings.threads,
        "compile": settings.compile,
        "device": str(context.device.type),
        "versions": devices.versions(),
        **settings.ranks.record(),
    }


def _follow(method: Method[Any], done: int) -> None:
    """What a rank does that does not lead: its share of every step. It writes nothing."""
    for iteration in range(done, method.iterations):
        try:
            method.step(iteration)
        except NotFiniteError:  # as in the rank that leads, which keeps the last good state, tells, and ends all
            method.context.ranks.agree(iteration, "the processes stopped at different iterations")


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
    context, rhythm = method.context, Rhythm(settings.checkpoint_every)
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
            if rhythm.due(number) or last:
                with rhythm.writing():
                    checkpoint(out, method, number, meter)


def _validate(method: Method[Any], settings: RunSettings, resolved: dict[str, Any]) -> float:
    """Held-out accuracy of one student trained on the synset as it is; never the test set."""
    context = method.context
    synset = _wrap(method.distilled(), method, resolved)
    lr = synset.learned_lr
    if lr is not None and lr.ndim == 0 and float(lr) <= 0:
        return 0.0
    base = PROTOCOLS[own_protocol(synset)]
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
    return Synset(
        **vars(product),
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
        versions=resolved["versions"],
        parents={need.key: resolved[need.key][need.identity] for need in method.needs(method.config)},
    )
