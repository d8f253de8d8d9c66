"""Distilled sets of trees as files: what was written comes back, and damaged files are refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddbench.graphs.made import made_graphs
from ddbench.graphs.mirage import MirageConfig, TreePayload, distil
from ddbench.graphs.reference import SIZE, reference
from ddbench.graphs.store import KIND, facts_of, read_form, read_trees, tensors_of, write_trees
from ddbench.runtime.errors import UserError
from ddbench.runtime.tensors import open_tensors, write_tensors


@pytest.fixture(scope="module")
def payload() -> TreePayload:
    return distil(made_graphs(40), MirageConfig(depth=2, support=(3,)))


def test_what_was_written_comes_back(tmp_path: Path, payload: TreePayload):
    write_trees(tmp_path / "a.safetensors", payload)
    write_trees(tmp_path / "b.safetensors", payload)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = read_trees(tmp_path / "a.safetensors")
    assert found.fingerprint == payload.fingerprint
    for name in ("classes", "node_sizes", "edge_sizes", "depth", "degree_labels", "thresholds", "name", "bytes"):
        assert getattr(found, name) == getattr(payload, name)
    assert (found.trees.ptr == payload.trees.ptr).all()


def other(values: torch.Tensor, at: int, value: int) -> torch.Tensor:
    made = values.to(torch.int64).clone()
    made.view(-1)[at] = value
    return made


DAMAGED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "parent behind": ({"tree_parents": (1, 5)}, {}, "tree_parents holds 5"),
    "parent negative": ({"tree_parents": (1, -1)}, {}, "tree_parents holds -1"),
    "root with a parent": ({"tree_parents": (0, 1)}, {}, "tree_parents holds 1"),
    "label": ({"tree_labels": (0, 4)}, {}, "tree_labels holds 4"),
    "degree": ({"tree_degrees": (0, -3)}, {}, "tree_degrees holds -3"),
    "tree": ({"items": (0, 10**9)}, {}, "items holds 1000000000"),
    "class": ({"labels": (0, 2)}, {}, "labels holds 2"),
    "support": ({"support": (0, 0)}, {}, "a support below 1"),
    "size": ({"tree_sizes": (0, 10**9)}, {}, "tree_sizes do not add up"),
    "size 0": ({"item_sizes": (0, 0)}, {}, "item_sizes do not add up"),
    "a float": ({"support": None}, {}, "support is F32"),
    "classes": ({}, {"classes": 10**9}, "classes 1000000000, expected 2 to"),
    "classes of words": ({}, {"classes": "two"}, "classes 'two'"),
    "columns": ({}, {"node_sizes": [4, 4]}, "tree_labels has 1 columns, expected 2"),
    "no list": ({}, {"node_sizes": 4}, "node_sizes is 4"),
    "no name": ({}, {"name": None}, "name is None"),
    "another kind": ({}, {"kind": "ddbench-synset"}, "ddbench-synset file, expected"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, payload: TreePayload, case: str):
    tensors, changes, words = DAMAGED[case]
    path = tmp_path / "a.safetensors"
    write_trees(path, payload)
    with open_tensors(path, KIND, 1) as (handle, header):
        parts = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    for name, change in tensors.items():
        parts[name] = parts[name].float() if change is None else other(parts[name], *change)
    write_tensors(path, parts, {**header, **changes})
    with pytest.raises(UserError, match=words) as caught:
        read_trees(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tree_sizes", "item_sizes"])
def test_sizes_whose_sum_wraps_round_are_refused(tmp_path: Path, payload: TreePayload, name: str):
    path = tmp_path / "a.safetensors"
    write_trees(path, payload)
    with open_tensors(path, KIND, 1) as (handle, header):
        parts = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
    sizes = parts[name].to(torch.int64)
    sizes[:4] += 2**62  # four of them are 2**64, which is 0 in 64 bits
    write_tensors(path, {**parts, name: sizes}, header)
    with pytest.raises(UserError, match=f"{name} do not add up"):
        read_trees(path)


@pytest.mark.parametrize("support", [0, 2**31, 2**62])
def test_supports_out_of_range_are_refused(tmp_path: Path, payload: TreePayload, support: int):
    path = tmp_path / "a.safetensors"
    write_trees(path, payload)
    with open_tensors(path, KIND, 1) as (handle, header):
        parts = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
    write_tensors(path, {**parts, "support": torch.full_like(parts["support"], support, dtype=torch.int64)}, header)
    with pytest.raises(UserError, match="a support below 1 or above"):
        read_trees(path)


def test_sizes_that_do_not_spread_are_refused(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    payload = reference(SIZE, made_graphs())
    parts = tensors_of(payload)
    write_tensors(path, {**parts, "spread": torch.zeros_like(parts["spread"])}, {"kind": KIND, "schema": 1})
    with (
        open_tensors(path, KIND, 1) as (handle, _),
        pytest.raises(UserError, match="spread: expected numbers above 0"),
    ):
        read_form(path, handle, facts_of(payload))


def test_more_numbers_than_allowed(tmp_path: Path, payload: TreePayload, monkeypatch: pytest.MonkeyPatch):
    """A file of small numbers has eight times its size in memory; a sparse one takes no disk."""
    path = tmp_path / "a.safetensors"
    write_trees(path, payload)
    monkeypatch.setattr("ddbench.graphs.store.MAX_NUMBERS", 100)
    with pytest.raises(UserError, match="numbers, expected at most 100"):
        read_trees(path)


def test_a_cut_file_is_refused(tmp_path: Path, payload: TreePayload):
    path = tmp_path / "a.safetensors"
    write_trees(path, payload)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_trees(path)
