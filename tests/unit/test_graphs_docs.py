"""The example and the picture of docs/graphs.md, as they stand; pictures of trees."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ddbench.graphs.drawing import MAX_WIDTH, draw_trees
from ddbench.graphs.graphset import make_graphs
from ddbench.graphs.made import made_graphs
from ddbench.graphs.mirage import MirageConfig, distil

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


def test_picture():
    if not PAGE.exists():
        pytest.skip("tests of an unpacked source distribution have no docs/")
    payload = distil(made_graphs(), MirageConfig(depth=2, support=(10,)))
    assert PAGE.with_name("made-trees.svg").read_text(encoding="utf-8") == draw_trees(payload)


def test_a_picture_has_the_nodes_and_lines_of_its_trees():
    payload = distil(made_graphs(), MirageConfig(depth=2, support=(60,)))
    sizes = payload.trees.ptr[1:] - payload.trees.ptr[:-1]
    drawn = ElementTree.fromstring(draw_trees(payload, per_class=10**6))
    nodes = sum(int(sizes[tree]) for tree in payload.items)
    assert len(drawn.findall("{*}circle")) == nodes
    assert len(drawn.findall("{*}line")) == nodes - len(payload.items)
    texts = [text.text for text in drawn.findall("{*}text")]
    assert texts == [f"class {a}: {n} graphs" for a, n in zip(payload.labels, payload.support, strict=True)]
    for circle in drawn.findall("{*}circle"):
        assert 0 < float(circle.get("cx", "")) < float(drawn.get("width", ""))
        assert 0 < float(circle.get("cy", "")) < float(drawn.get("height", ""))


def test_a_picture_has_an_end():
    star = [[0, leaf] for leaf in range(1, 200)]
    graphs = make_graphs("stars", [200, 200], None, [199, 199], star + star, None, [0, 1])
    drawn = ElementTree.fromstring(draw_trees(distil(graphs, MirageConfig(depth=2))))
    assert float(drawn.get("width", "")) <= MAX_WIDTH + 200
    assert "and 1 more" in [text.text for text in drawn.findall("{*}text")]
