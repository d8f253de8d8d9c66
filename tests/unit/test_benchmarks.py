"""Every script of ``benchmarks/`` finds what it imports, so that a move in one of them or in the package is noticed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
ELSEWHERE = {"atheris", "cosmic_ray", "torchattacks", "pyautoattack"}
"""Libraries that a script asks its user to install."""


@pytest.mark.skipif(not SCRIPTS, reason="the tests run without the checkout: no benchmarks")
@pytest.mark.parametrize("name", SCRIPTS)
def test_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    try:
        script = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ELSEWHERE:
            raise
        pytest.skip(f"needs {error.name}")
    assert script.__doc__
