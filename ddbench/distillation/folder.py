"""A run's folder: claim, checkpoint, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddbench.methods.base import Method, State
from ddbench.runtime.errors import UserError
from ddbench.runtime.files import canonical_json, ensure_writable, is_temporary, read_json, write_json
from ddbench.runtime.progress import Console
from ddbench.runtime.resources import Meter
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.synset import FILE

CONFIG = "config.json"


CHECKPOINT = "checkpoint.safetensors"


CHECKPOINT_KIND = "ddbench-checkpoint"


def recorded(out: Path, name: str) -> dict[str, Any] | None:
    """What an earlier try of this run said about its teacher or diffusion model."""
    if not (out / CONFIG).exists():
        return None
    config = read_json(out / CONFIG, "run configuration")
    recorded = config.get(name) if isinstance(config, dict) else None
    return recorded if isinstance(recorded, dict) and isinstance(recorded.get("sha256"), str) else None


def claim_folder(out: Path, resolved: dict[str, Any]) -> None:
    """Make the run folder, or make sure that it is this run's.

    Raises:
        UserError: it holds another run, or something else, or cannot be written to.
    """
    check_folder(out, resolved)
    path = out / CONFIG
    if path.exists():
        if not (out / FILE).exists():
            ensure_writable(out)
        return
    ensure_writable(out)
    write_json(path, resolved)


def check_folder(out: Path, resolved: dict[str, Any]) -> None:
    """Refuse a run folder that is not this run's; one that is not there will do.

    Raises:
        UserError: it holds another run, or something else.
    """
    path = out / CONFIG
    if path.exists():
        differing = _differing(read_json(path, "run configuration"), json.loads(canonical_json(resolved)))
        if differing:
            raise UserError(
                f"{out} holds another run: {', '.join(differing[:4])} differ(s); choose another --out or remove that "
                "folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(not is_temporary(entry) for entry in out.iterdir())):
        raise UserError(f"{out} exists and is no ddbench run; choose another --out")


def _differing(old: Any, new: dict[str, Any]) -> list[str]:
    """Names of the settings of ``new`` that ``old`` does not have alike, as ``name`` or ``table.name``."""
    if not isinstance(old, dict):
        return list(new)
    names = []
    for key, value in new.items():
        found = old.get(key)
        if isinstance(value, dict) and isinstance(found, dict):
            names += [f"{key}.{part}" for part in value if found.get(part) != value[part]]
            names += [f"{key}.{part}" for part in found if part not in value]
        elif found != value:
            names.append(key)
    return sorted(names, key=lambda name: "." in name)


def resume(out: Path, method: Method[Any], meter: Meter, console: Console) -> int:
    path = out / CHECKPOINT
    if not path.exists():
        return 0
    with open_tensors(path, CHECKPOINT_KIND, 1) as (handle, header):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    device = method.context.device
    try:
        done = int(header["done"])
        if not 0 <= done <= method.iterations:
            raise ValueError(f"iteration {done} of {method.iterations}")
        method.load_state(State(tensors={k: v.to(device) for k, v in tensors.items()}, values=header["values"]))
        meter.earlier_wall, meter.earlier_cpu = float(header["wall_seconds"]), float(header["cpu_seconds"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of this run ({' '.join(str(error).split()):.160}); remove it to start again"
        ) from None
    console.say(f"going on at iteration {done} of {method.iterations}")
    return done


def checkpoint(out: Path, method: Method[Any], done: int, meter: Meter) -> None:
    state = method.state()
    header = {
        "kind": CHECKPOINT_KIND,
        "schema": 1,
        "done": done,
        "values": state.values,
        "wall_seconds": meter.wall,
        "cpu_seconds": meter.cpu,
    }
    write_tensors(out / CHECKPOINT, state.tensors, header)
