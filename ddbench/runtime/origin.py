"""What code runs: the version of the package, its git commit where it is a checkout, and files of the user's own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ddbench

GIT_SECONDS = 20.0
"""git may take so long before the run goes on without its answer."""


def code_record(kind: type[Any]) -> dict[str, Any]:
    """What code makes something, as plain JSON without paths.

    Args:
        kind: the class that does the work (a method).

    Returns:
        ``version`` of ddbench; ``commit`` (40 or 64 hex digits) and ``dirty`` (whether its package differs from it) of
        the git checkout that the package lies in, null for an installed package; ``method_file``, the sha256 of the
        Python file that the class was loaded from by :func:`ddbench.registry.load_file`, else null.
    """
    module = sys.modules.get(kind.__module__)
    own = getattr(module, "__ddbench_sha256__", None)
    return {"version": ddbench.__version__, **_checkout(Path(ddbench.__file__).parent), "method_file": own}


@functools.cache
def _checkout(package: Path) -> dict[str, Any]:
    """Commit and state of the checkout that tracks a package; a repository that merely surrounds it is none."""
    unknown = {"commit": None, "dirty": None}
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return unknown
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", "--", ".")
    if commit is None or changes is None:
        return unknown
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _git(folder: Path, *command: str) -> str | None:
    """What git prints in a folder; None where it fails or is not there. Nothing in the repository is written."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command],
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
