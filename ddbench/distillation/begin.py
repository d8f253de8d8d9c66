"""The beginning of a run: settings and needs looked at, what cannot work refused, the folder claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddbench.config import check_config, recorded_config
from ddbench.data.dataset import Dataset, Split
from ddbench.data.load import kept_root
from ddbench.distillation.folder import check_code, check_folder, claim_folder, recorded
from ddbench.methods.base import Context, Method
from ddbench.methods.needs import TOLD_OF_ALL, Need, Request
from ddbench.methods.returned import check_sizes
from ddbench.modalities import modality
from ddbench.modalities.base import RunFacts
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import check_writable
from ddbench.runtime.progress import Console
from ddbench.runtime.ranks import ALONE, Ranks
from ddbench.runtime.resources import Meter
from ddbench.runtime.shards import WHOLE, Shard
from ddbench.runtime.tracking import check_tracker
from ddbench.synset import FILE
from ddbench.training.twice import check_twice, plain_attention


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How the pieces of a run (:meth:`ddbench.methods.base.Method.pieces`) are shared out over processes.

    Attributes:
        shard: which of them this process does.
        workers: processes that do them.
        in_parts: do them one by one in any case, as an engine such as Ray wants them.
        arguments: of :func:`ddbench.distillation.start.distill`, by which a worker begins the run for itself.
    """

    shard: Shard = WHOLE
    workers: int = 1
    in_parts: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str:
        """The flag that asks for it; empty: none does, and one process does all steps in turn."""
        if self.shard.count > 1:
            return f"--shard {self.shard.index}/{self.shard.count}"
        return f"--workers {self.workers}" if self.workers > 1 else "--engine ray" if self.in_parts else ""


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
        sharing: how the pieces of the method are shared out.
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
    sharing: Sharing = Sharing()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run whose folder is its own.

    Attributes:
        name, kind, config, settings, out: what it is.
        context: all that the method is given.
        resolved: everything that decides the product's bytes.
        attention: the form of attention that the method works with.
        meter: runs since the beginning.
        code: what code makes it (:func:`ddbench.runtime.origin.code_record`).
        made: folders that were made to claim its own, the innermost first; None: it was begun before.
    """

    name: str
    kind: type[Method[Any]]
    config: Any
    settings: RunSettings
    out: Path
    context: Context
    needs: Sequence[Need[Any]]
    resolved: dict[str, Any]
    attention: AbstractContextManager[None]
    meter: Meter
    code: dict[str, Any]
    made: list[Path] | None

    @property
    def product(self) -> Path:
        """The synset's file."""
        return self.out / FILE

    def method(self, **changes: Any) -> Method[Any]:
        """The method, not set up; ``changes`` are fields of its context."""
        return self.kind(self.config, replace(self.context, **changes))


def begin(
    name: str,
    kind: type[Method[Any]],
    config: Any,
    *,
    dataset: Dataset,
    data: Path | None,
    settings: RunSettings,
    out: Path,
    console: Console,
    code: dict[str, Any],
) -> Run:
    """Check everything, find or make what the method needs, and claim the folder.

    Args:
        code: what code makes the run (:func:`ddbench.runtime.origin.code_record`).

    Raises:
        UserError: whatever the user can mend, before anything is written where possible.
    """
    check_config(config)
    meter, needs, ranks = Meter(), kind.needs(config), settings.ranks
    with ranks.first():
        context, request = look(name, kind, needs, dataset, data, settings, out, console)
    kind.check(config, context)
    check_sizes(kind(config, context))
    _check_shares(kind, config, context)
    _check_pieces(kind, config, context, settings)
    attention = attention_for(kind, context)
    for need in _late(needs):
        need.check(request)
    resolved = resolved_settings(name, config, context, settings) | references(needs, context.resources, request)
    check_folder(out, resolved)
    check_code(out, code, console)
    if not (out / FILE).exists():
        with meter.paused(), ranks.first():  # what is made for all runs has its cost in its own record
            context = replace(context, resources={**context.resources, **_obtain(_late(needs), request, out)})
        resolved |= references(needs, context.resources, request)
    made = claim_folder(out, resolved, code) if ranks.leads else None
    _tell_repeats(kind, config, context)
    _tell_eager(kind, config, context)
    return Run(
        name=name,
        kind=kind,
        config=config,
        settings=settings,
        out=out,
        context=context,
        needs=needs,
        resolved=resolved,
        attention=attention,
        meter=meter,
        code=code,
        made=made,
    )


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
        preprocess=modality(dataset.spec.modality).preprocess(dataset, settings.preprocess, kept_root(data)),
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
        held_out=held_out,
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


def _check_pieces(kind: type[Method[Any]], config: Any, context: Context, settings: RunSettings) -> None:
    """Refuse to share out what is of one piece.

    Raises:
        UserError: names the flag that asks for it.
    """
    asked = settings.sharing.asked
    if not asked:
        return
    if context.ranks.world > 1:
        raise UserError(f"{asked}: torchrun with {context.ranks.world} processes shares the work of a step; use one")
    if settings.validate_every:
        raise UserError(f"{asked}: a part of the images is not validated; give --validate-every 0 with it")
    if len(kind(config, context).pieces()) < 2:
        raise UserError(
            f"{asked}: {kind.title} is of one piece here, its steps need what came before them; leave it out, one "
            "process does all"
        )


def _tell_repeats(kind: type[Method[Any]], config: Any, context: Context) -> None:
    """Say it where a class has fewer real images than the method begins with of it."""
    if kind.unit != "ipc":
        return
    first = kind.begins_with(config, context)
    counts = context.train.labels.bincount(minlength=context.classes)
    few = (counts < first).nonzero()[:, 0].tolist()
    if few:
        name = context.dataset.spec.class_names[few[0]]
        needed = f"--ipc {context.ipc}" if first == context.ipc else f"the {first} first ones of --ipc {context.ipc}"
        context.console.say(
            f"{len(few)} class(es) have fewer training images than {needed}, e.g. {name!r} with "
            f"{int(counts[few[0]])}: first images that are real ones are repeated"
        )


def _tell_eager(kind: type[Method[Any]], config: Any, context: Context) -> None:
    """Say it where a compiler is asked for that the method itself has no use for."""
    if context.compile == "on" and not kind.compiles(config):
        context.console.say(f"--compile on: {kind.title} itself runs eagerly, nothing of its own work is compiled here")


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
    if settings.ipc < 1 and kind.unit == "ipc":
        raise UserError(f"--ipc {settings.ipc}: expected at least 1")
    if settings.validate_every < 0 or settings.checkpoint_every < 0:
        raise UserError("--validate-every and --checkpoint-every: expected at least 0 (0: off / by time)")
    if settings.validate_epochs < 1:
        raise UserError(f"--validate-epochs {settings.validate_epochs}: expected at least 1")
    check_tracker(settings.track)
    said = RunFacts(
        ipc=settings.ipc,
        student=settings.student,
        holdout=settings.holdout,
        preprocess=settings.preprocess,
        validate_every=settings.validate_every,
    )
    return modality(dataset.spec.modality).split(kind, dataset, said)


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
            references[need.key] = found = need.refer(resources[need.key])
            if not isinstance(found, dict) or not isinstance(found.get(need.identity), str):
                raise UserError(
                    f"need {need.key}: refer() returned {found!r:.80}, expected a dict with text at {need.identity!r}; "
                    "mend the need"
                )
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
        "device": devices.kind_of(settings.device),
        "versions": devices.versions(),
        **settings.ranks.record(),
    }
