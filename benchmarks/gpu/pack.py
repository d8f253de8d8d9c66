"""A folder with what the run needs beside the checkout: pure wheels and data files."""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

WHEELS = (
    *("tyro", "docstring-parser", "typeguard", "typing-extensions", "rich", "markdown-it-py", "mdurl", "pygments"),
    *("jinja2", "pytest", "pluggy", "iniconfig", "packaging"),
)
"""Pure ones that a bare machine may lack: for the verbs of ddbench, and for the tests. What is there is preferred."""
MOST = 64 * 2**20
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def pack(folder: Path, checkout: Path, data: Path | None) -> str:
    """Collect wheels and data; returns what was packed, in words.

    Args:
        folder: emptied first; must be empty, absent, or an earlier pack.
        data: root of datasets that has ``FashionMNIST/raw``; default: Debian's package.

    Raises:
        SystemExit: no Fashion-MNIST, no wheel of a name, or more than 64 MiB with the checkout's files.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "wheels").is_dir():
        raise SystemExit(f"--pack {folder}: it holds other things; give a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "wheels").mkdir(parents=True)
    _wheels(folder / "wheels")
    _digits(folder / "site" / "sklearn" / "datasets" / "data")
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    source = next(
        (place for place in (*([data / "FashionMNIST" / "raw"] if data else []), DEBIAN) if place.is_dir()), None
    )
    if source is None:
        raise SystemExit(
            f"--pack {folder}: no Fashion-MNIST in --data or {DEBIAN} (apt-get install dataset-fashion-mnist)"
        )
    for path in sorted(source.glob("*ubyte*")):
        target = raw / (path.name if path.suffix == ".gz" else f"{path.name}.gz")
        target.write_bytes(path.read_bytes() if path.suffix == ".gz" else gzip.compress(path.read_bytes(), mtime=0))
    own, tracked = _bytes([path for path in folder.rglob("*") if path.is_file()]), _bytes(_tracked(checkout))
    if own + tracked > MOST:
        raise SystemExit(
            f"--pack {folder}: {own / 2**20:.1f} MiB and {tracked / 2**20:.1f} MiB of the checkout are more than "
            f"{MOST / 2**20:.0f} MiB"
        )
    return f"{folder}: {own / 2**20:.1f} MiB; with the checkout's {tracked / 2**20:.1f} MiB it is below 64 MiB"


def _wheels(folder: Path) -> None:
    """Fetch the wheels by pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), *WHEELS], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"--pack: pip download failed: {' '.join(done.stderr.split())[-300:]}")
    for wheel in folder.glob("*.whl"):
        if not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(f"--pack: {wheel.name} is not a pure wheel")


def unpacked(folder: Path, scratch: Path) -> list[Path]:
    """Folders for ``sys.path``: the wheels of a pack, unpacked, and what lies beside them; empty without a pack."""
    site = scratch / "site"
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    return [place for place in (site, folder / "site") if place.is_dir()]


def _digits(folder: Path) -> None:
    """scikit-learn's digits, one file, where the package would have it."""
    found = importlib.util.find_spec("sklearn")
    places = list(found.submodule_search_locations or []) if found else []
    source = Path(places[0], "datasets", "data", "digits.csv.gz") if places else Path()
    if not source.is_file():
        raise SystemExit("--pack: scikit-learn is not here; its digits are what the smoke runs on")
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / source.name)


def _tracked(checkout: Path) -> list[Path]:
    done = subprocess.run(["git", "-C", str(checkout), "ls-files", "-z"], capture_output=True, text=True, check=False)
    return [path for name in done.stdout.split("\0") if name and (path := checkout / name).is_file()]


def _bytes(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
