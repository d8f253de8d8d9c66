"""The tables by kind of labels say what the board says."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from made_board import STUDENTS, made_result, put
from scripts import benchmark


@pytest.fixture
def tables() -> ModuleType:
    return benchmark("label_tables")


def test_a_table_for_each_kind_of_labels_and_protocol(tables: ModuleType, tmp_path: Path) -> None:
    for ipc in (1, 10):
        for place, method in enumerate(("dm", "mtt")):
            put(tmp_path, made_result(method, ipc=ipc, accuracy=0.7 + place / 10, rich=False))
        for seed in range(2):
            put(tmp_path, made_result("random", ipc=ipc, accuracy=0.5, seed=seed, rich=False))
    put(tmp_path, made_result("datm", labels="soft", accuracy=0.8, rich=False))
    put(tmp_path, made_result("random", labels="teacher", accuracy=0.6, rich=False))
    text = tables.page(tmp_path, ["digits"])
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## digits: hard labels, `hard-v1`", "## digits: one soft label an image, `soft-v1`"]
    assert f"Student `{STUDENTS[0]}`" in text
    lines = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    hard = {line[0]: line[1:] for line in lines[: lines.index(["---", *["---:", "---", "---:"] * 2]) + 4]}
    assert list(hard)[-3:] == ["mtt", "dm", "random"], "best of the largest budget first, random images last"
    assert hard["mtt"][0].startswith("80.")
    assert hard["mtt"][1].startswith("above random by 3")
    assert hard["mtt"][2] == "523 bit"
    assert hard["random"][1] == ""
    assert text == tables.page(tmp_path, ["digits"])


def test_a_dataset_without_rows_has_no_table(tables: ModuleType, tmp_path: Path) -> None:
    put(tmp_path, made_result("dm", rich=False))
    assert "##" not in tables.page(tmp_path, ["cifar10"])


def test_a_label_of_the_image_is_none_of_the_view(tables: ModuleType, tmp_path: Path) -> None:
    for protocol in ("labels-once", "labels-view"):
        put(tmp_path, made_result("dm", labels="teacher", protocol=protocol, rich=False))
    heads = [line for line in tables.page(tmp_path, ["digits"]).splitlines() if line.startswith("## ")]
    assert sorted(heads) == [
        "## digits: a teacher's label of every image, `labels-once`",
        "## digits: a teacher's label of every view, `labels-view`",
    ]


def test_a_student_of_random_images_alone_is_not_shown(tables: ModuleType, tmp_path: Path) -> None:
    """Random images may have more students than the methods beside them: the methods are not left out for one."""
    usual, own = tables.STUDENTS["digits"], "convnet-d2-w32x2-nn"
    put(tmp_path, made_result("frepo", labels="soft", accuracy=0.9, names=(own,), rich=False))
    put(tmp_path, made_result("random", labels="soft", accuracy=0.5, names=(usual, own), rich=False))
    text = tables.page(tmp_path, ["digits"])
    assert f"Student `{own}`" in text
    assert "| frepo | 90." in text
