"""The tables of graphs in the documents say what the board says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from made_board import made_result, put
from scripts import benchmark

from ddbench.leaderboard.board import read_board


@pytest.fixture
def graph_rows() -> ModuleType:
    return benchmark("graph_rows")


def test_a_row_has_the_scores_of_the_students_of_one_pooling(graph_rows: ModuleType, tmp_path: Path):
    for method in ("dm", "random"):
        put(tmp_path, made_result(method, rich=False))
    (cell,) = read_board(tmp_path).cells
    shown = sorted(cell.students)
    pooling = shown[0][-3:]
    named = [one for one in shown if one.endswith(pooling)]
    head, _, first, random = graph_rows.table(cell, pooling)
    assert head.count("accuracy, ") == len(named)
    assert [line.split(" | ")[0] for line in (first, random)] == ["| dm", "| random"]
    mean = cell.rows[0].scores[cell.main(named[0])].statistics["mean"]
    assert f" {100 * mean:.1f} ± " in first


def test_sections_stand_between_their_marks(graph_rows: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text = "".join(f"a\n<!-- board: {one} -->old<!-- end of board: {one} -->\nb\n" for one in graph_rows.SETS)
    filled = graph_rows.filled(text, tmp_path)
    assert "old" not in filled
    assert graph_rows.filled(filled, tmp_path) == filled
    with pytest.raises(ValueError, match="mutag --> stands 0 times"):
        graph_rows.filled("no marks", tmp_path)
