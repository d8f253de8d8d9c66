"""Numbers of tasks on the page: columns of their own, and a section of an opened row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddbench.leaderboard.pages.page import build
from ddbench.leaderboard.result import Result
from ddbench.leaderboard.schema import load_results, result_id, result_path, write_result
from ddbench.tasks.told import Described, Told, stated

HEAD = {
    "config": {"steps": 5},
    "decides": {},
    "precision": "float32",
    "protocol": {"name": "dc-legacy", "hash": "0" * 16, "changed": {}},
    "seeds": 1,
    "student": "convnet-d2-w32-in",
    "threads": 1,
    "versions": {},
}
TOLD = Told(
    over="order",
    metrics={
        "final": Described("fraction", "higher", "Accuracy on all classes after the last step"),
        "regret": Described("fraction", "lower", "Regret <of> the choice"),
    },
    units={order: {"final": 0.8 + order / 100} for order in range(3)},
    stated={"regret": stated(0.01, 0.0, 0.04, 12)},
    beside={"leaks": False},
)


def board_with_tasks(source: Path, root: Path) -> Result:
    """A copy of a board in which one row has a task; returns that row."""
    shutil.copytree(source, root)
    old = next(one for one in load_results(root) if one.synset.method == "mtt" and one.synset.dataset == "digits")
    folder = (root / result_path(old)).parent
    for path in folder.glob(f"{old.id}.*"):
        path.unlink()
    content = {**old.to_json(), "tasks": {"continual": TOLD.to_json(HEAD)}}
    made = Result.from_json({**content, "id": result_id(content)})
    write_result(root / result_path(made), made)
    build(root)
    return made


def test_columns_and_section(visit: Callable[..., Any], board: Path, tmp_path: Path) -> None:
    row = board_with_tasks(board, tmp_path / "board")
    page = visit(tmp_path / "board", f"#row={row.id}")
    page.wait_for_selector("#panel .rest[aria-busy=false], #panel .rest:not([aria-busy])")
    section = page.locator("#panel section", has_text="What was asked")
    text = section.inner_text()
    assert "continual" in text
    assert "intervals over orders; leaks false" in text
    numbers = dict(line.split("\t") for line in section.locator("tbody tr").all_inner_texts())
    assert numbers["Regret <of> the choice"].strip() == "1.0 (0.0 to 4.0)"
    assert numbers["Accuracy on all classes after the last step"].strip() == "81.0 ± 2.5"
    heads = page.locator("thead").all_inner_texts()
    assert any("continual final" in head for head in heads)
    assert "tasks" in page.locator("#columns").inner_text()
