"""Trackers: JSON lines always, wandb or TensorBoard by name."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Protocol

from ddbench.runtime.errors import UserError, install_words
from ddbench.runtime.files import canonical_json, plain_or_absent, refused, write_text
from ddbench.runtime.folders import expanded
from ddbench.runtime.progress import Console

TRACKERS = ("jsonl", "wandb", "tensorboard")


class Tracker(Protocol):
    """Takes the numbers of one iteration."""

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        """Record ``metrics`` of an iteration (counted from 1)."""

    def close(self) -> None:
        """Flush and let go."""


class JsonLines:
    """``metrics.jsonl``: one line an iteration, cut back to the checkpoint when a run goes on.

    Args:
        done: iterations that the checkpoint holds; later lines, and a torn last one, are dropped.
    """

    def __init__(self, path: Path, done: int) -> None:
        kept = []
        if plain_or_absent(path, "log of metrics"):
            for line in path.read_text(errors="replace").splitlines():
                try:
                    if json.loads(line)["iteration"] > done:
                        break
                except (ValueError, KeyError, TypeError):
                    break
                kept.append(line)
        write_text(path, "".join(f"{line}\n" for line in kept))
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
