"""The table that sets the authors' code of DC beside ours: intervals, cells, and what is kept between calls."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

SCORES = {
    ("public code", "public code"): [50.0, 52.0, 54.0],
    ("public code", "ddbench"): [51.0, 53.0, 55.0],
    ("ddbench", "public code"): [60.0, 61.0, 62.0],
    ("ddbench", "ddbench"): [60.0, 61.0, 62.0],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not (BENCHMARKS / "public_dc.py").is_file():
        pytest.skip("the tests run without the checkout: no benchmarks")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("public_dc")


def test_the_difference_is_paired_by_network(script: Any) -> None:
    """10, 9 and 8: mean 9, deviation 1, quantile 4.30 of two degrees of freedom."""
    assert script.difference([60.0, 61.0, 62.0], [50.0, 52.0, 54.0]) == "+9.0 (+6.5 to +11.5)"
    assert script.difference([60.0], [50.0]) == "+10.0"  # one network has no interval


def test_every_score_stands_in_its_cell(script: Any) -> None:
    made = {"public code": {"cpu_s": 120.0}, "ddbench": {"cpu_s": 90.0}}
    lines = script.table(made, SCORES, 20)
    theirs, ours, gap = (line.split(" | ") for line in lines[-3:])
    assert theirs[:4] == ["| public code", "2.0", "52.0 (47.0 to 57.0)", "53.0 (48.0 to 58.0)"]
    assert theirs[4].startswith("+1.0 (")
    assert ours[:4] == ["| ddbench", "1.5", "61.0 (58.5 to 63.5)", "61.0 (58.5 to 63.5)"]
    assert gap[2].startswith("+9.0 (+6.5")
    assert gap[3].startswith("+8.0 (")
    assert "20 of 1,001" in lines[0]
    assert "3 networks" in lines[1]


def test_what_is_there_is_not_made_again(script: Any, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    assert script.once(path, lambda: {"cpu_s": 1.0}) == {"cpu_s": 1.0}
    assert script.once(path, lambda: pytest.fail("made again")) == json.loads(path.read_text())
