"""Trackers: JSON lines always, wandb or TensorBoard by name."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Protocol

from ddbench.runtime.errors import UserError, install_words
from ddbench.runtime.files import canonical_json, plain_or_absent, refused, write_atomic
from ddbench.runtime.folders import expanded
from ddbench.runtime.progress import Console

TRACKERS = ("jsonl", "wandb", "tensorboard")


class Tracker(Protocol):
    """Takes the numbers of one iteration."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record ``metrics`` of an iteration (counted from 1)."""

    def close(self) -> None:
        """Flush and let go."""


MAX_LINE = 2**16
"""Bytes of a line of ``metrics.jsonl``; a longer one was not written here."""


def _end_of(path: Path, done: int) -> int:
    """Where the lines of a log end that are of so many iterations; one line at a time is in memory."""
    end = 0
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE):
            try:
                if json.loads(line)["iteration"] > done:
                    break
            except (ValueError, KeyError, TypeError, RecursionError):
                break
            end = file.tell()
    return end


def _copy(path: Path, place: Path, end: int) -> None:
    """The lines of a log up to ``end``, the last one ended, as a file of their own."""
    with open(place, "wb") as target:
        if end == 0:
            return
        with open(path, "rb") as source:
            while piece := source.read(min(end, MAX_LINE)):
                end, last = end - len(piece), piece[-1:]
                target.write(piece)
        if last != b"\n":
            target.write(b"\n")


class JsonLines:
    """``metrics.jsonl``: one line an iteration, cut back to the checkpoint when a run goes on.

    Args:
        done: iterations that the checkpoint holds; later lines, and a torn last one, are dropped.
    """

    def __init__(self, path: Path, done: int) -> None:
        end = _end_of(path, done) if plain_or_absent(path, "log of metrics") else 0
        write_atomic(path, lambda place: _copy(path, place, end))
        self._file = open(path, "a")  # noqa: SIM115 (open for the whole run)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Append one line; numbers that are not finite become null."""
        finite = {name: value if abs(value) < float("inf") else None for name, value in metrics.items()}
        try:
            self._file.write(canonical_json({"iteration": iteration, **finite}) + "\n")
            self._file.flush()
        except OSError as error:
            raise refused(error, Path(self._file.name)) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a full disk, which :meth:`log` has told
            self._file.close()


class _Wandb:
    def __init__(self, folder: Path, config: dict[str, Any], console: Console) -> None:
        import wandb

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None and not (os.environ.get("WANDB_API_KEY") or _netrc_knows_wandb()):
            console.say("wandb: no account configured, recording offline (`wandb sync` uploads it later)")
            mode = "offline"
        self._run = wandb.init(project="ddbench", dir=str(folder), config=config, mode=mode, name=folder.name)

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=iteration)

    def close(self) -> None:
        self._run.finish()


def _netrc_knows_wandb() -> bool:
    netrc = expanded("~/.netrc")
    return netrc.is_file() and "wandb" in netrc.read_text(errors="replace")


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()


def check_tracker(name: str) -> None:
    """Refuse a tracker that is not known, or not installed, before work.

    Raises:
        UserError: names the known ones, or how it is installed.
    """
    if name not in TRACKERS:
        raise UserError(f"--track: {name!r} is none of {', '.join(TRACKERS)}")
    if name != TRACKERS[0] and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name} needs the package {name}: {install_words(name)}")


def open_trackers(name: str, folder: Path, config: dict[str, Any], done: int, console: Console) -> list[Tracker]:
    """The JSON-lines tracker, and the one that ``name`` asks for.

    Raises:
        UserError: unknown name, or its package is not installed.
    """
    check_tracker(name)
    trackers: list[Tracker] = [JsonLines(folder / "metrics.jsonl", done)]
    try:
        if name == "wandb":
            trackers.append(_Wandb(folder, config, console))
        if name == "tensorboard":
            trackers.append(_TensorBoard(folder))
    except ImportError as error:
        raise UserError(f"--track {name}: {error}; {install_words(name)}") from error
    return trackers
