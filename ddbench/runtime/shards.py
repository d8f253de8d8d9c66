"""Work shared out over processes that start by themselves, on any number of machines with a common folder.

A piece of work consists of units with names (a run of a student, an expert, a cell, a row). Shard ``i/n`` does every
n-th unit, beginning with the i-th; what is done already is skipped, so that a rerun is a retry. What a unit leaves is
found by the verb itself (a record, a file); here is only who is at which unit, and which failed, in a folder beside the
result. Nothing there decides a result: two processes at one unit do it twice, to the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ddbench.runtime.errors import Unfinished, UserError, one_line
from ddbench.runtime.files import canonical_json, gone, listed, read_json, text_hash, write_text
from ddbench.runtime.jobs import WorkerDied, resolve, run_jobs, warm
from ddbench.runtime.numbers import whole
from ddbench.runtime.progress import Console
from ddbench.runtime.signs import POLL, Seen, Sign, holder, signs
from ddbench.runtime.temporary import machine

T = TypeVar("T")

CLAIM, FAILED = ".claim", ".failed"
"""Endings of the sign of a process that is at some units, and of the record of a unit that failed."""
PROCESS, NOTE = ".process", ".note"
"""Endings of the sign of a process that hands units out, and of what it notes of a unit."""

ENVIRONMENT = "environment"
"""What a lone ``--shard`` means: as the variables of a Slurm array say."""
SLURM_ID, SLURM_COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
SLURM_MIN, SLURM_STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"


@dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of a piece of work, counted from 0.

    Attributes:
        source: the variable that it was read from; empty: it was said.
    """

    index: int = 0
    count: int = 1
    source: str = ""

    def own(self, units: Sequence[T]) -> list[T]:
        """Its share of the units: every n-th. The list must be the same for all shards, whatever is done already."""
        return list(units[self.index :: self.count])

    def rotated(self, units: Sequence[T]) -> list[T]:
        """All units, those of its own part of the list first."""
        first = len(units) * self.index // self.count
        return [*units[first:], *units[:first]]

    def unfinished(self, unit: str, own: int, left: int, total: int, result: str) -> Unfinished:
        """Its own units are done, those of others are not.

        Args:
            unit: what one is called ("run").
            own: units of this shard.
            left: units of others that are open.
            result: what the last one writes.
        """
        return Unfinished(
            f"{self}: its {unit}s are done ({own} of {total}); {left} of other shards are open, and who does the last "
            f"writes {result}",
            left,
        )

    def __str__(self) -> str:
        return f"shard {self.index}/{self.count}" + (f" (by {self.source})" if self.source else "")


WHOLE = Shard()


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard:
    """The shard that a flag or, without one, the environment of a Slurm array names; by default all of the work.

    Args:
        text: ``i/n`` with i from 0 to n - 1, or with the name of a variable that holds i; :data:`ENVIRONMENT`: as a
            Slurm array says, which must be there; None: as it says, if it is there.

    Raises:
        UserError: another form or range.
    """
    if text is None and SLURM_ID not in environment:
        return WHOLE
    if text is None or text == ENVIRONMENT:
        return _from_slurm(environment)
    first, slash, last = text.partition("/")
    count = whole(last)
    if not slash or not count:
        raise UserError(f"--shard {text:.80}: expected i/n such as 0/4, with i from 0 to n - 1")
    index, source = whole(first), ""
    if index is None:
        source = first
        index = whole(environment.get(first, "")) if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", first) else None
        if index is None:
            raise UserError(
                f"--shard {text:.80}: {first!r:.80} is no number, and no variable of the environment that holds one; "
                f"expected i/n such as 0/{last:.40}"
            )
    if index >= count:
        raise UserError(f"--shard {text:.80}: {index} is too large, the {last} shard(s) are counted from 0")
    return Shard(index, count, source)


def _from_slurm(environment: Mapping[str, str]) -> Shard:
    """The place of a task in its array, whose ids may begin and step as they like.

    Raises:
        UserError: no array, no numbers, or ids with gaps.
    """
    if SLURM_ID not in environment:
        raise UserError(f"--shard: no {SLURM_ID} in the environment; outside of a Slurm array say i/n, such as 0/4")
    wanted = {SLURM_ID: "", SLURM_COUNT: "", SLURM_MIN: "0", SLURM_STEP: "1"}
    found = {name: environment.get(name, default) for name, default in wanted.items()}
    numbers = [whole(value) for value in found.values()]
    if None in numbers:
        name, value = [*found.items()][numbers.index(None)]
        raise UserError(f"--shard: {name} is {value!r:.40}, expected a number; say i/n instead, such as 0/4")
    place, count, least, step = (number or 0 for number in numbers)
    index, left_over = divmod(place - least, max(1, step))
    if left_over or not 0 <= index < count:
        raise UserError(
            f"--shard: {SLURM_ID} {place} is none of {count} ids from {least} on in steps of {step}; submit an array "
            "without gaps, such as 0-3 (what is done is skipped), or say i/n"
        )
    return Shard(index, count, SLURM_ID)


# Who is at which unit


@dataclass(frozen=True, kw_only=True)
class State:
    """What became of a unit.

    Attributes:
        state: ``done``, ``running``, ``failed`` or ``open``.
        words: by whom and for how long, or why.
    """

    unit: str
    state: str
    words: str = ""


@dataclass(frozen=True)
class Units:
    """Who is at which units, and which failed: signs and records in a folder that is there as long as it is needed."""

    folder: Path

    @contextmanager
    def at(self, units: Collection[str], driver: str = "") -> Iterator[None]:
        """Be known to be at some units for the block; if it raises an error, they are known to have failed.

        Args:
            driver: names the process that handed them out.

        Raises:
            UserError: the folder in which the work is done was taken away; it is not made again.
        """
        if not self.folder.parent.is_dir():
            raise gone(self.folder.parent)
        for seen in self._claims():
            if seen.dead and set(_units_of(seen)) <= set(units):
                seen.path.unlink(missing_ok=True)
        for unit in units:
            self._record(unit).unlink(missing_ok=True)
        sign = Sign(self.folder, CLAIM, {"units": list(units), "driver": driver})
        sign.enter()
        try:
            yield
        except Exception as error:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if sign.path.exists():  # else the folder was taken away, and is not to come back
                with contextlib.suppress(UserError):  # a full disk, say: why the unit failed is what is to be told
                    for unit in units:
                        self.fail(unit, reason)
            raise
        finally:
            sign.leave()

    def fail(self, unit: str, reason: str) -> None:
        """Record that a unit failed; forgotten when it is tried again.

        Raises:
            UserError: the disk refuses.
        """
        who = {"host": machine(), "pid": os.getpid()}
        write_text(self._record(unit), canonical_json({"unit": unit, "reason": one_line(reason), **who}) + "\n")

    def running(self) -> dict[str, Seen]:
        """Units that living processes are at."""
        return {unit: sign for sign in self._claims() if not sign.dead for unit in _units_of(sign)}

    def states(self, units: Sequence[str], done: Collection[str]) -> list[State]:
        """What became of each unit.

        Args:
            done: those whose results are there.
        """
        claims = {unit: sign for sign in self._claims() for unit in _units_of(sign) if sign.dead}
        claims |= self.running()
        found = []
        for unit in units:
            if unit in done:
                found.append(State(unit=unit, state="done"))
            elif unit in claims:
                found.append(_claimed(unit, claims[unit]))
            else:
                reason = self._reason(unit)
                found.append(State(unit=unit, state="open" if reason is None else "failed", words=reason or ""))
        return found

    @contextmanager
    def process(self) -> Iterator[None]:
        """Be known to hand units out for the block. What was noted is there until somebody finds all at rest."""
        sign = Sign(self.folder, PROCESS)
        sign.enter()
        try:
            yield
        finally:
            sign.leave()
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def at_rest(self) -> bool:
        """Whether no process hands units out."""
        return all(seen.dead for seen in signs(self.folder, PROCESS))

    def note(self, unit: str, value: Any) -> None:
        """Keep something about a unit in a file of its own.

        Raises:
            UserError: the disk refuses.
        """
        write_text(self._record(unit, NOTE), canonical_json({"unit": unit, "value": value}) + "\n")

    def notes(self) -> dict[str, Any]:
        """What was noted of units, by anyone."""
        found = {}
        for path in listed(self.folder, f"*{NOTE}"):
            with contextlib.suppress(UserError, KeyError, TypeError):  # damaged, or gone just now
                note = read_json(path, "note")
                found[str(note["unit"])] = note["value"]
        return found

    def forget(self, units: Collection[str]) -> None:
        """Remove what was noted of these units."""
        for unit in units:
            self._record(unit, NOTE).unlink(missing_ok=True)

    def withdraw(self, driver: str) -> None:
        """Take away the signs of workers that were stopped by the process that handed the units out."""
        for sign in self._claims():
            if sign.content.get("driver") == driver:
                sign.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are others
            self.folder.rmdir()

    def bury(self, done: Callable[[], Collection[str]]) -> None:
        """Take away the signs of dead processes at nothing but units that are done; ``done`` looks which are."""
        dead = [sign for sign in self._claims() if sign.dead]
        there = set(done()) if dead else set()
        for sign in dead:
            if set(_units_of(sign)) <= there:
                sign.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are others, or there is no such folder
            self.folder.rmdir()

    def clear(self) -> None:
        """Forget failures and dead processes; the folder goes, if there is nothing else in it."""
        for path in listed(self.folder, f"*{FAILED}"):
            path.unlink(missing_ok=True)
        for sign in [*self._claims(), *signs(self.folder, PROCESS)]:
            if sign.dead:
                sign.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _claims(self) -> list[Seen]:
        return signs(self.folder, CLAIM)

    def _record(self, unit: str, kind: str = FAILED) -> Path:
        return self.folder / f"{text_hash(unit)[:20]}{kind}"

    def _reason(self, unit: str) -> str | None:
        """Why a unit failed; None: it did not."""
        try:
            found = read_json(self._record(unit), "record of a failure")
        except UserError:
            return None
        if not isinstance(found, dict):
            return None
        return f"{found.get('reason')} (process {found.get('pid')} on {found.get('host')})"


def _units_of(sign: Seen) -> list[str]:
    units = sign.content.get("units")
    return [str(unit) for unit in units] if isinstance(units, list) else []


def _claimed(unit: str, sign: Seen) -> State:
    """A unit that a process is at, or was when it died."""
    who = f"process {sign.pid} on {sign.host}"
    if sign.dead:
        return State(unit=unit, state="failed", words=f"{who} ended in it without a word: killed?")
    since = sign.content.get("since")
    spent = f", for {_span(time.time() - since)}" if isinstance(since, float) else ""
    return State(unit=unit, state="running", words=f"{who}{spent}, last sign of life {_span(sign.silent)} ago")


def turn_state(unit: str, path: Path) -> State:
    """What became of a unit that is done in the turn of this path (:func:`ddbench.runtime.signs.turn`)."""
    found = holder(path)
    return State(unit=unit, state="open") if found is None else _claimed(unit, found)


def _span(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def status_lines(title: str, states: Sequence[State]) -> list[str]:
    """A line of counts, and one for each unit that runs or failed."""
    counts = {name: sum(one.state == name for one in states) for name in ("done", "running", "failed", "open")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "done")
    lines = [f"{title}: {told}, of {len(states)}"]
    lines += [f"  {one.state:<7}  {one.unit}  {one.words}" for one in states if one.state in ("running", "failed")]
    return lines


# Doing them


@dataclass(frozen=True, kw_only=True)
class _Shared:
    units: Units
    driver: str
    target: str
    shared: Any


def run_unit(shared: _Shared, payload: tuple[tuple[str, ...], Any]) -> Any:
    """One job of :func:`run_units`, by a worker that is known to be at it."""
    names, own = payload
    with shared.units.at(names, shared.driver):
        return resolve(shared.target)(shared.shared, own)


def run_units(
    target: str,
    shared: Any,
    payloads: Sequence[Any],
    workers: int,
    *,
    units: Units,
    names: Sequence[tuple[str, ...]],
    deadline: float | None = None,
    survive: bool = False,
    patient: Console | None = None,
) -> Iterator[tuple[int, Any]]:
    """:func:`ddbench.runtime.jobs.run_jobs`, of which other processes know what is being done.

    Args:
        names: the units that each payload stands for.
        deadline, survive, patient: as there.

    Raises:
        UserError, RuntimeError: as ``run_jobs``; the units of the job are then known to have failed.
    """
    if workers > 1 or deadline is not None:
        warm(target)
    driver = secrets.token_hex(8)
    wrapped = _Shared(units=units, driver=driver, target=target, shared=shared)
    jobs = list(zip(names, payloads, strict=True))
    try:
        yield from run_jobs(f"{__name__}:run_unit", wrapped, jobs, workers, deadline, survive=survive, patient=patient)
    except WorkerDied:  # its sign stays, and says at what
        raise
    except BaseException:
        units.withdraw(driver)
        raise
    units.withdraw(driver)


def run_common(
    target: str,
    shared: Any,
    payloads: Sequence[Any],
    workers: int,
    *,
    units: Units,
    names: Sequence[str],
    done: Callable[[], Collection[str]],
    shard: Shard,
) -> Iterator[tuple[int, Any]]:
    """Do what every shard needs: each takes what nobody is at, and waits for what others are at.

    Args:
        names: the unit of each payload.
        done: looks which units are there by now.

    Raises:
        UserError, RuntimeError: as :func:`run_units`.
    """
    order = shard.rotated(range(len(payloads)))
    while True:
        there = done()
        left = [index for index in order if names[index] not in there]
        if not left:
            return
        running = units.running()
        free = [index for index in left if names[index] not in running]
        if not free:
            time.sleep(POLL)
            continue
        now = free[: max(workers, -(-len(free) // shard.count))]
        jobs = run_units(
            target, shared, [payloads[i] for i in now], workers, units=units, names=[(names[i],) for i in now]
        )
        for position, value in jobs:
            yield now[position], value
