"""The one runner of all methods: loop, progress, tracking, checkpoints, resume, validation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.distillation import pieces
from ddbench.distillation.begin import Run, begin
from ddbench.distillation.begin import RunSettings as RunSettings
from ddbench.distillation.begin import attention_for as attention_for
from ddbench.distillation.folder import (
    CHECKPOINT,
    Rhythm,
    check_there,
    checkpoint,
    claim_folder,
    give_up,
    resume,
    went_on,
)
from ddbench.distillation.product import check_product, finish, write
from ddbench.distillation.product import wrap as _wrap
from ddbench.methods.base import Method, NotFiniteError
from ddbench.methods.returned import look_ahead, metrics_of
from ddbench.protocols.plan import Plan, learned_rates, own_protocol
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.training import DivergedError, Settings, train_student
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.runtime.interruption import interruptible
from ddbench.runtime.origin import code_record
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.tracking import Tracker, open_trackers


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

    Of several processes at one run one is at work and the others wait for it, but those that share its pieces out.

    Raises:
        UserError: whatever the user can mend, before anything is written where possible.
        Unfinished: this process's share of the pieces is done, those of others are not.
    """
    told: dict[str, Any] = {"dataset": dataset, "data": data, "settings": settings, "out": out, "console": console}
    run = begin(name, kind, config, **told, code=code_record(kind))
    ranks = settings.ranks
    with ExitStack() as stack:
        with ranks.first():
            if ranks.leads and not run.product.exists():
                stack.enter_context(_given_up(run))
                stack.enter_context(pieces.turn_of(run))
                claim_folder(out, run.resolved, run.code)  # again: who was waited for may have given it up
        if run.product.exists():
            console.say(f"finished already: {run.product}")
        elif settings.sharing.asked or pieces.begun(out):
            if ranks.leads:
                went_on(out, run.code)
            pieces.share_out(run)
        else:
            _steps(run)
    if ranks.leads:
        pieces.clear(out)
    return run.product


@contextmanager
def _given_up(run: Run) -> Iterator[None]:
    """Take the folder of a run away that ends in an error before anything is kept."""
    try:
        yield
    except Exception:
        if run.made is not None:
            give_up(run.out, run.made)
        raise


def _steps(run: Run) -> None:
    """All steps in this process."""
    settings, out, console, ranks, meter = run.settings, run.out, run.context.console, run.settings.ranks, run.meter
    devices.prepare(settings.threads, say=console.say)
    method = run.method()
    with run.attention:
        method.setup()
        done = resume(out / CHECKPOINT, method, meter, range(method.iterations), console)
        ranks.agree(done, f"{out} is not the same folder for all processes, its checkpoints differ")
        if not done:
            look_ahead(method)
        if not ranks.leads:
            _follow(method, done)
            return
        went_on(out, run.code)
        with meter.paused():  # as what is made for all runs
            prepared = method.prepare()
        trackers = open_trackers(settings.track, out, run.resolved, done, console) if method.iterations else []
        try:
            _loop(method, done, settings, out, run.resolved, trackers, meter)
        finally:
            for tracker in trackers:
                tracker.close()
    cost = meter.report(devices.describe(run.context.device), iterations=method.iterations)
    finish(run, _wrap(method, run.resolved), cost, prepared)


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
        check_product(method, resolved)
        return
    context, rhythm = method.context, Rhythm(settings.checkpoint_every)
    title = f"{resolved['method']} ({context.dataset.spec.name}, {method.budget})"
    alone = context.ranks.world == 1
    with (
        context.console.bar(title, method.iterations, done) as bar,
        interruptible(context.console, "iteration", method.iterations, done, alone=alone) as interruption,
    ):
        shown = ""
        for iteration in range(done, method.iterations):
            try:
                metrics = metrics_of(method, iteration, method.step(iteration))
            except NotFiniteError as error:
                check_there(out, resolved)
                checkpoint(out / CHECKPOINT, method, iteration, meter)
                write(out / "last_good.safetensors", _wrap(method, resolved))
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
            if last:
                check_product(method, resolved)
            if rhythm.due(number) or last or interruption.asked:
                check_there(out, resolved)
                with rhythm.writing():
                    checkpoint(out / CHECKPOINT, method, number, meter)
                interruption.kept(number)


def _validate(method: Method[Any], settings: RunSettings, resolved: dict[str, Any]) -> float:
    """Held-out accuracy of one student trained on the synset as it is; never the test set."""
    context = method.context
    synset = _wrap(method, resolved)
    base = PROTOCOLS[own_protocol(synset)]
    protocol, _ = changed(base, epochs=None if base.replay else settings.validate_epochs)
    plan = Plan(synset=synset, protocol=protocol, preprocess=context.preprocess, flip=context.dataset.spec.flip)
    how = Settings(device=str(context.device), threads=settings.threads)
    try:
        learned_rates(synset, protocol)
    except UserError:  # a learned rate may be below 0 for a while
        return 0.0
    try:
        return train_student(plan, context.held_out, context.student, 0, how)["accuracy"]
    except DivergedError:  # a student that diverges on an unfinished synset is a bad score, not the end of the run
        return 0.0
