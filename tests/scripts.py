"""Scripts of ``benchmarks/`` as modules; where the tests run without the checkout, a test that wants one is skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    """The script ``benchmarks/<name>.py``."""
    path = BENCHMARKS / f"{name}.py"
    if not path.is_file():
        pytest.skip("the tests run without the checkout: no benchmarks")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
