"""``ddbench doctor``: what this machine has, and what is missing for which verb."""

from __future__ import annotations

import json
import os
import platform
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ddbench import __version__
from ddbench.cli.parse import parse
from ddbench.runtime.errors import install_words

NEEDED: tuple[str, ...] = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "tyro", "rich", "jinja2"),
    *("jsonschema", "pillow", "pandas", "psutil", "kornia", "higher"),
    *(("zstandard",) if sys.version_info < (3, 14) else ()),
)
"""Packages that every installation has."""

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "parquet": (
        ("pyarrow",),
        "export --format hub, import of such a folder, leaderboard export --format parquet, --dataset hub:FOLDER",
    ),
    "hub": (("huggingface_hub", "pyarrow"), "push, pull, --dataset hub:OWNER/NAME"),
    "timm": (("timm",), "students named timm-..."),
    "diffusion": (("diffusers",), "diffusion train, distill --method d3hr, mgd3, igd, minimax, unguided"),
    "robustness": (("pyautoattack", "foolbox"), "evaluate --robustness full, ddrobustbench, guard, legacy"),
    "ray": (("ray",), "--engine ray: workers on several machines"),
    "wandb": (("wandb",), "distill --track wandb"),
    "tensorboard": (("tensorboard",), "distill --track tensorboard"),
}
"""Extra -> its packages, and what needs them."""

OF_TORCHVISION = "students named tv-..., edc, edc-ema, some downloads"
"""What needs torchvision, which has to be of torch's build."""

FOLDERS = ("expert_trajectories", "teachers", "diffusions", "runs", "leaderboard")
"""What verbs read and write below the current folder unless a flag says otherwise."""

WIDTH = 110

LITTLE_DISK = 2 * 2**30
"""Less free space than this is told as a problem."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Tell what this machine has: versions, device, threads, memory, data, disk; and what is missing for which verb.
    Ends with 1 where something stands in the way of every verb."""

    data: Path | None = None
    """Folder with the datasets; default: $DDBENCH_DATA, else the user's cache folder."""
    json: bool = False
    """Print JSON for other programs."""


EXAMPLES = """  ddbench doctor
  ddbench doctor --data /mnt/datasets
  ddbench doctor --json                            # for a bug report"""


def main(argv: list[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "ddbench doctor", str(Args.__doc__), EXAMPLES)
    found = examine(args.data)
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(found)))
    if found["problems"]:
        sys.exit(1)


def examine(data: Path | None) -> dict[str, Any]:
    """Everything that is told, as plain JSON; nothing is written but for a look whether folders can be."""
    from ddbench.data.load import kept_root

    packages = {name: _version(name) for name in (*NEEDED, *sorted({one for on, _ in EXTRAS.values() for one in on}))}
    root = kept_root(data)
    found: dict[str, Any] = {
        "ddbench": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "package": str(Path(__file__).resolve().parents[1]),
        "packages": packages,
        **_hardware(),
        "data": {"folder": None if root is None else str(root), **_disk(root), "datasets": _datasets(root)},
        "here": {
            "folder": str(Path.cwd()),
            **_disk(Path.cwd()),
            "holds": [one for one in FOLDERS if Path(one).is_dir()],
        },
        "missing": [
            {"for": verbs, "packages": lacking, "install": install_words(extra)}
            for extra, (names, verbs) in EXTRAS.items()
            if (lacking := [name for name in names if packages[name] is None])
        ],
    }
    found["problems"] = list(_problems(found))
    return found


def _version(name: str) -> str | None:
    """Installed version of a package, which is not imported; None: it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    """Device, cores, threads, memory and compiler; ``torch_error`` where torch does not work, and the same of
    torchvision."""
    from ddbench.runtime.device import compiler_available, cores, describe, resolve_device

    found: dict[str, Any] = {"cores": cores(), "environment": _environment(), "torch_error": None, **_memory()}
    found["torchvision_error"] = None
    try:
        import torch

        device = resolve_device("auto")
        torch.ones(2, device=device).sum().item()
        found["device"] = describe(device)
        found["cuda_devices"] = torch.cuda.device_count() if torch.cuda.is_available() else 0
        found["threads"] = torch.get_num_threads()
        found["compiler"] = compiler_available(device)
        if device.type == "cuda":
            found["cuda_memory_available_bytes"], found["cuda_memory_bytes"] = torch.cuda.mem_get_info(device)
    except Exception as error:  # whatever a broken installation or driver raises
        found["torch_error"] = _words(error)
        return found
    try:
        import torchvision  # noqa: F401
    except Exception as error:  # of another build than torch
        found["torchvision_error"] = _words(error)
    return found


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _environment() -> dict[str, str]:
    """Variables that decide threads, devices and folders."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "DDBENCH_DATA", "HF_HOME", "HF_ENDPOINT")
    return {name: os.environ[name] for name in names if name in os.environ}


def _memory() -> dict[str, int | None]:
    try:
        import psutil
    except ImportError:
        return {"memory_bytes": None, "memory_available_bytes": None}
    found = psutil.virtual_memory()
    return {"memory_bytes": int(found.total), "memory_available_bytes": int(found.available)}


def _disk(folder: Path | None) -> dict[str, Any]:
    """Free bytes, and whether a file can be made there; of a folder that is not there yet, where it would be."""
    from ddbench.data.limits import free_disk

    if folder is None:
        return {"exists": False, "writable": False, "free_bytes": None}
    there = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), Path())
    return {"exists": folder.is_dir(), "writable": os.access(there, os.W_OK | os.X_OK), "free_bytes": free_disk(folder)}


def _datasets(root: Path | None) -> dict[str, bool]:
    from ddbench.data.places import FILES, find_files

    found = find_files(root) if root is not None else {name: None for name, files in FILES.items() if files}
    return {"digits": True, **{name: path is not None for name, path in found.items()}}


def _problems(found: dict[str, Any]) -> Iterator[str]:
    """What stands in the way of every verb."""
    if lacking := [name for name in NEEDED if found["packages"][name] is None]:
        yield f"not installed: {', '.join(lacking)}; pip install . in the checkout of ddbench"
    if found["torch_error"]:
        yield f"torch does not work here: {found['torch_error']}"
    if not found["here"]["writable"]:
        yield f"{found['here']['folder']}: cannot be written to; call ddbench in another folder, or give --out"
    if found["here"]["free_bytes"] < LITTLE_DISK:
        yield f"{found['here']['folder']}: {_size(found['here']['free_bytes'])} of disk free"


def _size(count: int | None) -> str:
    from ddbench.data.limits import readable

    return "unknown" if count is None else readable(count)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """For a terminal."""
    yield f"ddbench {found['ddbench']} in {found['package']}"
    yield f"python {found['python']} on {found['system']}"
    versions = ", ".join(f"{name} {one}" for name, one in found["packages"].items() if one)
    yield from textwrap.wrap(f"packages  {versions}", WIDTH, subsequent_indent=" " * 10)
    if found["torch_error"] is None:
        lacks = "no Triton or C compiler" if found["cuda_devices"] else "no C++ compiler"
        compiler = "torch.compile can work" if found["compiler"] else f"{lacks}: torch.compile is left out"
        yield f"device    {found['device']} ({found['cuda_devices']} CUDA devices); {compiler}"
        yield f"threads   {found['cores']} cores, torch uses {found['threads']}"
    for name, value in found["environment"].items():
        yield f"variable  {name}={value}"
    yield f"memory    {_size(found['memory_bytes'])}, available {_size(found['memory_available_bytes'])}"
    if "cuda_memory_bytes" in found:
        total, free = (_size(found[name]) for name in ("cuda_memory_bytes", "cuda_memory_available_bytes"))
        yield f"GPU       {total} of memory, available {free}"
    for name in ("data", "here"):
        place = found[name]
        if place["folder"] is None:
            yield f"{name:<10}no folder: this user has no home; give --data FOLDER, or set DDBENCH_DATA"
            continue
        state = "" if place["exists"] else ", not there yet"
        state += "" if place["writable"] else ", CANNOT BE WRITTEN TO"
        yield f"{name:<10}{place['folder']}: {_size(place['free_bytes'])} free{state}"
    there = [name for name, one in found["data"]["datasets"].items() if one]
    absent = [name for name, one in found["data"]["datasets"].items() if not one]
    yield f"datasets  {', '.join(there)}" + (f"; not there: {', '.join(absent)}" if absent else "")
    if found["here"]["holds"]:
        yield f"folders   {', '.join(found['here']['holds'])}"
    for one in found["missing"]:
        yield f"missing   {', '.join(one['packages'])} for {one['for']}: {one['install']}"
    if found["torchvision_error"] is not None and found["packages"]["torchvision"]:
        yield f"broken    torchvision for {OF_TORCHVISION}: {found['torchvision_error']}; install it from torch's index"
    for problem in found["problems"]:
        yield f"PROBLEM   {problem}"
    if not found["problems"]:
        yield "next: ddbench demo"
