"""The example of docs/graphs.md, as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "graphs.md"


def test_example(capsys: pytest.CaptureFixture[str]):
    if not PAGE.exists():
        pytest.skip("tests of an unpacked source distribution have no docs/")
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    # fewer updates: the example's form is tested here, what students learn in test_graphs_training
    code = code.replace('graph_protocol("graph-v1")', 'replace(graph_protocol("graph-v1"), updates=5)')
    exec(compile(f"from dataclasses import replace\n{code}", "graphs.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bytes")
    assert [line.split()[0] for line in lines[1:]] == ["mirage", "random", "size"]
    assert all("auc=" in line for line in lines[1:])
