"""A run's folder: claim, checkpoint, resume."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddbench.methods.base import Method, State
from ddbench.methods.needs import Need
from ddbench.methods.returned import state_of
from ddbench.runtime.errors import UserError, memory_words
from ddbench.runtime.files import canonical_json, ensure_writable, gone, read_json, write_json
from ddbench.runtime.progress import Console
from ddbench.runtime.ranks import PROCESSES
from ddbench.runtime.resources import Meter
from ddbench.runtime.temporary import is_temporary
from ddbench.runtime.tensors import finite_tensors, open_tensors, write_tensors
from ddbench.synset import FILE

CONFIG = "config.json"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_KIND = "ddbench-checkpoint"
EMPTY = ("metrics.jsonl", "preview.png", "cost.json")
"""Files of a run that are worth nothing where there is neither checkpoint nor product."""
CHECKPOINT_SECONDS = 30.0
LONGEST_SHARE = 20
"""Pauses between checkpoints are at least so many times as long as the writing of one."""

CODE = "code"
"""Field of the configuration: what code made the run (:func:`ddbench.runtime.origin.code_record`); its ``also``: other
code that went on with it. A run of which only this differs is the same run."""

HOW = ("threads", "compile", "device")
"""Settings that say how a run computes; each is a flag of the same name."""

_OURS = ("version", "commit", "dirty")


def recorded(out: Path, need: Need[Any]) -> dict[str, Any] | None:
    """What an earlier try of this run said about a need; None: nothing that can be used."""
    if not (out / CONFIG).exists():
        return None
    config = read_json(out / CONFIG, "run configuration")
    found = config.get(need.key) if isinstance(config, dict) else None
    return found if isinstance(found, dict) and isinstance(found.get(need.identity), str) else None


def check_code(out: Path, code: dict[str, Any], console: Console) -> None:
    """Refuse to go on with a run by a changed method file; tell where it was begun by another ddbench.

    A run that is finished stays as it is, and this is said.

    Raises:
        UserError: the method file is not the one that the run was begun with, or the record is damaged.
    """
    earlier = _code_of(out)
    if earlier is None:
        return
    finished = (out / FILE).exists()
    if earlier["method_file"] != code["method_file"]:
        change = f"{_short(earlier['method_file'])}, now {_short(code['method_file'])}"
        if not finished:
            raise UserError(
                f"{out} was begun by a method file that changed since (sha256 {change}): restore the file, or choose "
                "another --out"
            )
        console.warn(
            f"warning: {out} was made by a method file that changed since (sha256 {change}); it stays as it is"
        )
    before, now = ({name: one[name] for name in _OURS} for one in (earlier, code))
    if not finished and before != now:
        console.say(f"warning: {out} was begun by ddbench {_says(before)}, this is {_says(now)}: both are recorded")


def went_on(out: Path, code: dict[str, Any]) -> None:
    """Add the code that goes on with a run, once nothing of what was kept is refused any more.

    A run without a record was begun by an older ddbench, nobody knows which.
    """
    earlier = _code_of(out)
    if earlier is None:
        return
    now = {name: code[name] for name in _OURS}
    known = [{name: one[name] for name in _OURS} for one in (earlier, *earlier.get("also", []))]
    if now not in known:
        config = read_json(out / CONFIG, "run configuration")
        write_json(out / CONFIG, {**config, CODE: {**earlier, "also": [*known[1:], now]}})


def _code_of(out: Path) -> dict[str, Any] | None:
    """What a run says about its code; None: there is no run, or it says nothing."""
    path = out / CONFIG
    config = read_json(path, "run configuration") if path.exists() else None
    found = config.get(CODE) if isinstance(config, dict) else None
    if found is None:
        return None
    also = found.get("also", []) if isinstance(found, dict) else None
    whole = isinstance(also, list) and all(isinstance(one, dict) and set(_OURS) <= set(one) for one in (found, *also))
    if not whole:
        raise UserError(f"{path}: {CODE} is no record of the code that made the run; choose another --out")
    return {"method_file": None, **found}


def _short(digest: Any) -> str:
    return str(digest)[:12] if digest else "none"


def _says(code: dict[str, Any]) -> str:
    commit = f" at {_short(code['commit'])}" if code["commit"] else ""
    return f"{code['version']}{commit}{' with changes' if code['dirty'] else ''}"


def claim_folder(out: Path, resolved: dict[str, Any], code: dict[str, Any]) -> list[Path] | None:
    """Make the run folder and record what code makes it, or make sure that it is this run's.

    Returns:
        The folders that were made, the innermost first; None: the run was begun before.

    Raises:
        UserError: it holds another run, or something else, or cannot be written to.
    """
    check_folder(out, resolved)
    path = out / CONFIG
    if path.exists():
        if not (out / FILE).exists():
            ensure_writable(out)
        return None
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    ensure_writable(out)
    write_json(path, {**resolved, CODE: code})
    return made


def give_up(out: Path, made: Sequence[Path]) -> None:
    """Take away a run folder that was just claimed, if nothing of worth has come into it.

    Args:
        made: folders that were made to claim it.
    """
    if out.is_dir() and {path.name for path in out.iterdir()} <= {CONFIG, *EMPTY}:
        for name in (CONFIG, *EMPTY):
            (out / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there is something else by now
            for folder in made:
                folder.rmdir()


def check_folder(out: Path, resolved: dict[str, Any]) -> None:
    """Refuse a run folder that is not this run's; one that is not there will do.

    Raises:
        UserError: it holds another run, or something else.
    """
    path = out / CONFIG
    if path.exists():
        old, new = read_json(path, "run configuration"), json.loads(canonical_json(resolved))
        differing = _differing(old, new)
        if differing and set(differing) <= set(HOW):
            begun = " ".join(f"--{name} {old.get(name)}" for name in differing)
            raise UserError(f"{out} was begun with {begun}: give it, or choose another --out, or remove that folder")
        if differing:
            data = "dataset_fingerprint" in differing and "dataset" not in differing
            why = " (its data changed, or are read with another --size)" if data else ""
            raise UserError(
                f"{out} holds another run: {', '.join(differing[:4])} differ(s){why}; choose another --out or remove "
                "that folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(not is_temporary(entry) for entry in out.iterdir())):
        raise UserError(f"{out} exists and is no ddbench run; choose another --out")


def check_there(out: Path, resolved: dict[str, Any]) -> None:
    """Refuse to write into a run folder that was taken away or replaced during work.

    What is written would make a folder that looks whole, of which nobody knows how it was made.

    Raises:
        UserError: it is not there, or is not this run's.
    """
    if not (out / CONFIG).exists():
        raise gone(out / CONFIG)
    check_folder(out, resolved)


def _differing(old: Any, new: dict[str, Any]) -> list[str]:
    """Names of the settings of ``new`` that ``old`` does not have alike, as ``name`` or ``table.name``."""
    if not isinstance(old, dict):
        return list(new)
    names = [PROCESSES] if PROCESSES in old and PROCESSES not in new else []
    for key, value in new.items():
        found = old.get(key)
        if isinstance(value, dict) and isinstance(found, dict):
            names += [f"{key}.{part}" for part in value if found.get(part) != value[part]]
            names += [f"{key}.{part}" for part in found if part not in value]
        elif found != value:
            names.append(key)
    return sorted(names, key=lambda name: "." in name)


def resume(path: Path, method: Method[Any], meter: Meter, steps: range, console: Console) -> int:
    """Go on at a checkpoint of these steps; returns the number of the next one.

    Raises:
        UserError: it is damaged, or another run's.
    """
    if not path.exists():
        return steps.start
    state, header = read_state(path, method)
    try:
        done = int(header["done"])
        if not steps.start <= done <= steps.stop:
            raise ValueError(f"iteration {done} of {steps.stop}")
        method.load_state(state)
        meter.earlier_wall, meter.earlier_cpu = float(header["wall_seconds"]), float(header["cpu_seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if memory_words(error):  # nothing is wrong with the file
            raise
        raise damaged(path, error) from None
    console.say(f"going on at iteration {done} of {steps.stop}")
    return done


def read_state(path: Path, method: Method[Any], kind: str = CHECKPOINT_KIND) -> tuple[State, dict[str, Any]]:
    """A state that was kept, on the method's device, and the header of its file.

    Raises:
        UserError: it is damaged.
    """
    with open_tensors(path, kind, 1) as (handle, header):
        try:
            tensors = finite_tensors(handle)
        except ValueError as error:
            raise damaged(path, error) from None
    values = header.get("values")
    if not isinstance(values, dict):
        raise damaged(path, "no values")
    device = method.context.device
    return State(tensors={name: tensor.to(device) for name, tensor in tensors.items()}, values=values), header


def damaged(path: Path, error: object) -> UserError:
    """That a state cannot be gone on from."""
    return UserError(
        f"{path}: not a checkpoint of this run ({' '.join(str(error).split()):.160}); remove it to start again"
    )


class Rhythm:
    """When a run is written: every so many iterations, or by time, and then for at most a twentieth of the time.

    Args:
        every: iterations between two checkpoints; 0: :data:`CHECKPOINT_SECONDS`, or longer where writing takes long.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._saved, self._pause = time.monotonic(), CHECKPOINT_SECONDS

    def due(self, number: int) -> bool:
        """Whether a checkpoint is to be written after ``number`` iterations."""
        if self._every:
            return number % self._every == 0
        return time.monotonic() - self._saved >= self._pause

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing of one."""
        begin = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._pause = max(CHECKPOINT_SECONDS, LONGEST_SHARE * (self._saved - begin))


def checkpoint(path: Path, method: Method[Any], done: int, meter: Meter, **more: Any) -> None:
    """Keep the state of a method after ``done`` iterations, and ``more`` in the header."""
    state = state_of(method)
    header = {
        "kind": CHECKPOINT_KIND,
        "schema": 1,
        "done": done,
        "values": state.values,
        "wall_seconds": meter.wall,
        "cpu_seconds": meter.cpu,
        **more,
    }
    write_tensors(path, state.tensors, header)
