"""A run whose pieces are shared out over processes: each leaves a file, and who finds all of them there merges them.

The files lie in ``parts/`` in the run's folder until the run is finished. They are checkpoints of a method that did one
piece (:meth:`ddbench.methods.base.Method.pieces`) and nothing else; the metrics of its steps are in the header. A run
that was begun in one process goes on in this way from its checkpoint, and the other way round.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.distillation.begin import Run, RunSettings, look, resolved_settings
from ddbench.distillation.folder import (
    CHECKPOINT,
    CHECKPOINT_KIND,
    CONFIG,
    HOW,
    Rhythm,
    check_folder,
    check_there,
    checkpoint,
    damaged,
    read_state,
    resume,
)
from ddbench.distillation.product import check_product, finish, wrap
from ddbench.methods.base import Method, NotFiniteError
from ddbench.methods.base import State as MethodState
from ddbench.methods.returned import checked_state, metrics_of, state_of
from ddbench.modalities import modality
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.files import ensure_writable
from ddbench.runtime.interruption import interruptible
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter, largest, peaks
from ddbench.runtime.shards import State, Units, run_units, turn_state
from ddbench.runtime.signs import end_turns, turn
from ddbench.runtime.tensors import open_tensors
from ddbench.runtime.tracking import open_trackers
from ddbench.synset import FILE

PARTS = "parts"
WORKER = "ddbench.distillation.work:do_piece"
"""What workers do."""

RUN, MERGE = "run", "merge"
"""Turns: at all of a run, and at putting its parts together."""


@dataclass(frozen=True, kw_only=True)
class PieceJob:
    """What a worker needs to do any piece of a run.

    Attributes:
        arguments: of :func:`ddbench.distillation.start.distill`.
    """

    arguments: Mapping[str, Any]


def units_of(out: Path) -> Units:
    """Who is at which piece of a run."""
    return Units(out / "units")


def unit_name(number: int) -> str:
    """What a piece is called among the units of a run."""
    return f"part {number:05d}"


def part_file(out: Path, number: int) -> Path:
    """What a finished piece leaves."""
    return out / PARTS / f"{number:05d}.safetensors"


def begun(out: Path) -> bool:
    """Whether a run is being done in pieces."""
    return (out / PARTS).is_dir()


def clear(out: Path) -> None:
    """Remove what a finished run no longer needs."""
    (out / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(out / PARTS, ignore_errors=True)
    end_turns(units_of(out).folder)
    units_of(out).clear()


@contextmanager
def turn_of(run: Run) -> Iterator[None]:
    """Be the only process that does this run, or this shard of it, for the block; others are waited for.

    A shard waits for a process that does all of the run, and not for other shards.
    """
    folder, say, shard = units_of(run.out).folder, run.context.console.say, run.settings.sharing.shard
    if shard.count == 1:
        with turn(folder / RUN, "run", say, run.meter):
            yield
        return
    with turn(folder / RUN, "run", say, run.meter):
        if not run.product.exists():
            ensure_writable(run.out / PARTS)
    with turn(folder / f"shard-{shard.index}-of-{shard.count}", "shard", say, run.meter):
        yield


def share_out(run: Run) -> None:
    """Do this process's share of the pieces that are open; put all together, if no other is open then.

    Raises:
        UserError: as a step does, or a worker died.
        Unfinished: pieces of other shards are open.
    """
    out, console, sharing, product = run.out, run.context.console, run.settings.sharing, run.product
    ensure_writable(out / PARTS)
    devices.tell_threads(run.settings.threads, console.say)
    devices.tell_shared(sharing.workers, run.settings.device, console.say)
    ranges = run.method().pieces()
    covered = _covered(out, ranges)
    own = sharing.shard.own(range(len(ranges)))
    open_ = set(_open(out, covered, ranges))
    todo = [number for number in own if number in open_]
    title = f"{run.name} ({run.context.dataset.spec.name}, {len(ranges)} parts)"
    work = Piecework(run)
    with work.here(), console.bar(title, len(own), len(own) - len(todo)) as bar:
        jobs = run_units(
            WORKER,
            PieceJob(arguments=sharing.arguments),
            todo,
            sharing.workers,
            units=units_of(out),
            names=[(unit_name(number),) for number in todo],
            patient=console,
        )
        for _, metrics in jobs:
            bar.advance(f"loss {metrics['loss']:.4f}" if "loss" in metrics else "")
        left = len(_open(out, covered, ranges))
        if product.exists():  # by another process, just now
            return
        if left:
            raise sharing.shard.unfinished("part", len(own), left, len(ranges), str(product))
        with turn(units_of(out).folder / MERGE, "run", console.say):
            if not product.exists():
                _merge(run, work.method(), ranges, covered)


def _covered(out: Path, ranges: Sequence[range]) -> int:
    """Pieces that the checkpoint of a run that was begun in one process holds."""
    path = out / CHECKPOINT
    if not path.exists():
        return 0
    with open_tensors(path, CHECKPOINT_KIND, 1) as (_, header):
        done = header.get("done")
    if not isinstance(done, int):
        raise damaged(path, "no number of iterations")
    return sum(steps.stop <= done for steps in ranges)


def _open(out: Path, covered: int, ranges: Sequence[range]) -> list[int]:
    return [number for number in range(covered, len(ranges)) if not part_file(out, number).exists()]


def steps_left(out: Path, ranges: Sequence[range]) -> list[range]:
    """The steps of each piece that is not done."""
    return [ranges[number] for number in _open(out, _covered(out, ranges), ranges)]


class Piecework:
    """A run whose method is set up once, for one piece after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._method: Method[Any] | None = None
        self._stack = ExitStack()
        self._setup = Meter()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Pieces that are done in this process are done by this object for the block."""
        token = _HERE.set(self)
        try:
            with self._stack:
                yield
        finally:
            _HERE.reset(token)

    def method(self) -> Method[Any]:
        """The method, set up."""
        if self._method is None:
            self._setup = Meter()
            devices.prepare(self._run.settings.threads)
            self._method = self._run.method(console=Console(quiet=True))
            self._stack.enter_context(self._run.attention)
            self._method.setup()
            self._beginning = _apart(state_of(self._method))
            self._spent = (self._setup.wall, self._setup.cpu)
        return self._method

    def do(self, number: int) -> dict[str, float]:
        """Do a piece and leave its file; returns the metrics of its last step.

        Raises:
            UserError: as a step does; or a loss is not finite.
        """
        run, method = self._run, self.method()
        steps, path = method.pieces()[number], part_file(run.out, number)
        partial = path.with_suffix(f".{CHECKPOINT}")
        meter, metrics = Meter(), []
        method.load_state(_apart(self._beginning))
        done = resume(partial, method, meter, steps, Console(quiet=True))
        if done > steps.start:
            metrics = _metrics(partial, read_state(partial, method)[1], done - steps.start)
        spent, self._spent = self._spent, (0.0, 0.0)  # setting up counts once
        meter.earlier_wall, meter.earlier_cpu = meter.earlier_wall + spent[0], meter.earlier_cpu + spent[1]
        with meter.paused():
            method.prepare(steps)
        self._do_steps(steps, done, partial, method, meter, metrics)
        if not run.product.exists():  # another process did this piece too, and all of them are merged
            check_there(run.out, run.resolved)
            more = {"metrics": _finite(metrics), **peaks(str(run.context.device))}
            checkpoint(path, method, steps.stop, meter, **more)
        partial.unlink(missing_ok=True)
        return metrics[-1]

    def _do_steps(
        self,
        steps: range,
        done: int,
        partial: Path,
        method: Method[Any],
        meter: Meter,
        metrics: list[dict[str, float]],
    ) -> None:
        """Do the steps of a piece that are not done, with checkpoints; their metrics are added to ``metrics``."""
        rhythm, console = Rhythm(self._run.settings.checkpoint_every), self._run.context.console
        if piecework_here() is not self:  # a worker: who hands the pieces out says it
            console = Console(quiet=True)
        with interruptible(console, "iteration", method.iterations, done, first=steps.start) as interruption:
            for iteration in range(done, steps.stop):
                try:
                    metrics.append(metrics_of(method, iteration, method.step(iteration)))
                except NotFiniteError as error:
                    raise UserError(
                        f"iteration {iteration}: {error}; stopped, other parts go on and are kept"
                    ) from None
                if (rhythm.due(iteration + 1) and iteration + 1 < steps.stop) or interruption.asked:
                    check_there(self._run.out, self._run.resolved)
                    with rhythm.writing():
                        checkpoint(partial, method, iteration + 1, meter, metrics=_finite(metrics))
                    interruption.kept(iteration + 1)


_HERE: ContextVar[Piecework | None] = ContextVar("piecework", default=None)


def _apart(state: MethodState) -> MethodState:
    """A copy: a method may give and take its own tensors, which the next piece changes."""
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
    return replace(state, tensors=tensors, values=copy.deepcopy(state.values))


def piecework_here() -> Piecework | None:
    """That of this process, where it hands the pieces out itself."""
    return _HERE.get()


def _finite(metrics: list[dict[str, float]]) -> list[dict[str, float | None]]:
    """Metrics for JSON."""
    return [{name: value if math.isfinite(value) else None for name, value in one.items()} for one in metrics]


def _metrics(path: Path, header: dict[str, Any], count: int) -> list[dict[str, float]]:
    """The metrics of ``count`` steps in a file's header.

    Raises:
        UserError: there are others.
    """
    found = header.get("metrics")
    try:
        made = [{name: math.nan if v is None else float(v) for name, v in one.items()} for one in found or ()]
    except (AttributeError, TypeError, ValueError) as error:
        raise damaged(path, error) from None
    if len(made) != count:
        raise damaged(path, f"metrics of {len(made)} steps, expected {count}")
    return made


def _merge(run: Run, method: Method[Any], ranges: Sequence[range], covered: int) -> None:
    """Put together what the pieces left: the product and the metrics are those of one process.

    Raises:
        UserError: a file is damaged, or the disk refuses.
    """
    meter, out = Meter(), run.out
    files = [part_file(out, number) for number in range(covered, len(ranges))]
    found = [read_state(path, method) for path in [*([out / CHECKPOINT] if covered else []), *files]]
    try:
        method.load_state(checked_state(method, method.merge([state for state, _ in found]), "merge()"))
        for _, header in found:
            meter.earlier_wall += float(header["wall_seconds"])
            meter.earlier_cpu += float(header["cpu_seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if memory_words(error):
            raise
        raise damaged(out / PARTS, error) from None
    with meter.paused():
        prepared = method.prepare()
    headers = [header for _, header in found][-len(files) :] if files else []
    trackers = open_trackers(
        run.settings.track, out, run.resolved, ranges[covered].start if files else ranges[-1].stop, run.context.console
    )
    try:
        for steps, path, header in zip(ranges[covered:], files, headers, strict=True):
            for iteration, metrics in zip(steps, _metrics(path, header, len(steps)), strict=True):
                for tracker in trackers:
                    tracker.log(iteration + 1, metrics)
    finally:
        for tracker in trackers:
            tracker.close()
    cost = meter.report(devices.hardware(run.settings.device), iterations=method.iterations)
    check_product(method, run.resolved)
    finish(run, wrap(method, run.resolved), cost | largest([cost, *headers]), prepared)


def status(
    name: str,
    kind: type[Method[Any]],
    config: Any,
    *,
    dataset: Dataset,
    data: Path | None,
    settings: RunSettings,
    out: Path,
    console: Console,
) -> tuple[Path, list[State]]:
    """What became of each piece of the run that these arguments of :func:`ddbench.distillation.runner.distill` mean.

    One that one process does, or began, is a piece as a whole. Nothing is written.

    Raises:
        UserError: settings that cannot work, or a folder of another run.
    """
    context, _ = look(name, kind, kind.needs(config), dataset, data, settings, out, console)
    kind.check(config, context)
    if (out / CONFIG).exists():
        said = resolved_settings(name, config, context, settings)
        check_folder(out, {key: value for key, value in said.items() if key not in HOW})
    method, product, units = kind(config, context), out / FILE, units_of(out)
    ranges = method.pieces()
    if len(ranges) < 2 or ((out / CONFIG).exists() and not (begun(out) or product.exists())):
        items = modality(dataset.spec.modality).items
        whole = f"all {method.iterations} steps" if method.iterations else f"the {items}"
        if product.exists():
            return out, [State(unit=whole, state="done")]
        return out, [turn_state(whole, units.folder / RUN)]
    names = [unit_name(number) for number in range(len(ranges))]
    left = [] if product.exists() else _open(out, _covered(out, ranges), ranges)
    return out, units.states(names, set(names) - {unit_name(number) for number in left})
