"""What every modality and every method for graphs promises, and what is refused across modalities."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, contents

from ddbench.data.specs import is_read_elsewhere, modality_of
from ddbench.graphs.graphset import make_graphs
from ddbench.graphs.read import Source, write_compact
from ddbench.graphs.splits import Split as Parts
from ddbench.leaderboard.retrain import Request, make_job
from ddbench.leaderboard.schema import load_results
from ddbench.methods import METHODS
from ddbench.methods.base import Method
from ddbench.modalities import MODALITIES, modality
from ddbench.modalities.base import Modality
from ddbench.runtime.tensors import open_tensors, write_tensors
from ddbench.synset import KIND, SCHEMA

Command = Callable[..., "object"]
STUDENT = "gin-d1-w4-mean"
CARDS = Path(__file__).parents[2] / "methods"
PAIRS = [
    (name, kind)
    for name in METHODS
    for kind in MODALITIES
    if kind in (*METHODS.get(name).modalities, *METHODS.get(name).variants)
]
GRAPH_METHODS = [name for name, kind in PAIRS if kind == "graph"]
IMAGE_ONLY = [name for name in METHODS if name not in GRAPH_METHODS]
REAL = ("random", "herding", "kcenter")


def flags(name: str) -> list[str]:
    """Settings with which a method for graphs ends at once."""
    path = CARDS / name / "smoke.toml"
    graphs_alone = "image" not in METHODS.get(name).modalities
    config = tomllib.loads(path.read_text())["config"] if path.is_file() and graphs_alone else {}
    config |= {"max_bytes": 500} if name in REAL else {}
    values = {key: value if isinstance(value, list) else [value] for key, value in config.items()}
    return [word for key, own in values.items() for word in (f"--{key.replace('_', '-')}", *map(str, own))]


def distilled(ddb: Command, name: str, out: Path, *more: object) -> Path:
    found = ddb("distill", "--method", name, "--dataset", "graphs:made", "--out", out, *flags(name), *more)
    assert found.code == 0, found.err
    return out


def scored(ddb: Command, run: Path, *more: object) -> dict:
    students = ("--students", STUDENT, "--seeds", 2, "--workers", 1, "--threads", 1)
    found = ddb("evaluate", run, *students, *more)
    assert found.code == 0, found.err
    return json.loads((run / "evaluations" / "graph-v1.json").read_text())


@pytest.mark.parametrize("name", list(MODALITIES))
def test_modality(name: str):
    kind = modality(name)
    assert isinstance(kind, Modality)
    assert (kind.name, modality(name) is kind) == (name, True)
    assert kind.standard(kind.usual_protocol) is not None
    assert set(kind.standard(kind.usual_protocol).settings()) <= kind.setting_names
    assert "accuracy" in kind.metrics


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_pair(name: str, kind: str):
    """A method that claims a modality has a class for it, with a title and a config of defaults."""
    found = METHODS.get(name).fitting(name, "data", kind)
    assert issubclass(found, Method)
    assert kind in found.modalities
    assert found.title
    found.config_class()


@pytest.mark.parametrize("name", GRAPH_METHODS)
def test_graphs_from_end_to_end(name: str, ddb: Command, tmp_path: Path):
    """Same command, same bytes; scored twice, as it was; the file says what it is."""
    one, two = (distilled(ddb, name, tmp_path / folder) for folder in ("one", "two"))
    assert contents(one, "cost.json") == contents(two, "cost.json")
    steps = {"metrics.jsonl"} if hasattr(METHODS.get(name).config_class, "iterations") else set()
    assert {"config.json", "cost.json", "preview.png", "synset.safetensors"} == set(contents(one)) - steps
    synset = modality("graph").read(one / "synset.safetensors")
    assert (synset.method, synset.dataset, synset.modality) == (name, "graphs:made", "graph")
    assert synset.budget.unit == ("all" if name == "full" else "bytes")
    found = scored(ddb, one)
    stored = found["synset"]["bytes"]
    assert stored["total"] == synset.payload.bytes == stored["images"] + stored["labels"]
    assert set(found["metrics"]) == {"accuracy", "roc_auc"}
    assert [run["seed"] for run in found["runs"]] == [0, 1]
    assert contents(one, "cost.json") == (scored(ddb, one) and contents(one, "cost.json"))


def test_an_evaluation_is_gone_on_with(ddb: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped after a run, it goes on; shards put together are the same bytes."""
    import ddbench.graphs.scoring as scoring

    run = distilled(ddb, "random", tmp_path / "run")
    whole, real = scored(ddb, run), scoring.scored
    again = Path(shutil.copytree(run, tmp_path / "again", ignore=shutil.ignore_patterns("evaluations")))
    seeds: list[int] = []

    def dying(payload, dataset, student, protocol, seed):
        if seeds == [0]:
            seeds.append(seed)
            raise KeyboardInterrupt
        seeds.append(seed)
        return real(payload, dataset, student, protocol, seed)

    monkeypatch.setattr(scoring, "scored", dying)
    ddb("evaluate", again, "--students", STUDENT, "--seeds", 2, "--workers", 1, "--threads", 1)
    assert not (again / "evaluations" / "graph-v1.json").exists()
    assert scored(ddb, again) == whole
    assert seeds == [0, 1, 1], "the first is not done again"
    third = Path(shutil.copytree(run, tmp_path / "third", ignore=shutil.ignore_patterns("evaluations")))
    how = ("--students", STUDENT, "--seeds", 2, "--workers", 1, "--threads", 1)
    for shard in ("1/2", "0/2"):
        ddb("evaluate", third, *how, "--shard", shard)
    name = Path("evaluations") / "graph-v1.json"
    assert (third / name).read_bytes() == (run / name).read_bytes()


def test_a_row_and_its_verification(ddb: Command, tmp_path: Path):
    board = tmp_path / "board"
    for name in ("mirage", "size", "full"):
        run = distilled(ddb, name, tmp_path / name)
        scored(ddb, run)
        found = ddb("submit", run, "--leaderboard", board, "--authors", "A")
        found = ddb("submit", run, "--leaderboard", board) if found.code else found
        assert found.code == 0, found.err
    for verb in (("build",), ("show",), ("export", "--format", "csv")):
        found = ddb("leaderboard", *verb, "--leaderboard", board)
        assert found.code == 0, found.err
    page = (board / "LEADERBOARD.md").read_text()
    assert "mirage" in page
    assert STUDENT in page
    found = ddb("leaderboard", "verify", "--leaderboard", board, "--workers", 1)
    assert found.code == 0, found.err + found.out
    assert found.out.count(": identical") == 3, found.out
    assert is_read_elsewhere("graphs:made/../etc")


@pytest.mark.parametrize("name", IMAGE_ONLY)
def test_methods_of_images_refuse_graphs(name: str, refused: Command, tmp_path: Path):
    argv = ["distill", "--method", name, "--dataset", "graphs:made", "--ipc", 1, "--out", tmp_path / "run"]
    refused(argv, f"--method {name}", "works on images")


@pytest.mark.parametrize("name", [name for name in GRAPH_METHODS if "image" not in METHODS.get(name).modalities])
def test_methods_of_graphs_refuse_images(name: str, refused: Command, tmp_path: Path):
    refused(
        ["distill", "--method", name, "--dataset", "digits", "--out", tmp_path / "run"], "works on graphs", "digits"
    )


WRONG: dict[str, tuple[list[object], tuple[str, ...]]] = {
    "buffer": (["buffer", "--dataset", "graphs:made"], ("graphs:made", "images only")),
    "teacher": (["teacher", "--dataset", "graphs:made"], ("graphs:made", "images only")),
    "ipc": (["distill", "--method", "random", "--dataset", "graphs:made", "--ipc", 1], ("--ipc 1", "--max-bytes")),
    "no budget": (["distill", "--method", "random", "--dataset", "graphs:made"], ("--max-bytes",)),
    "small": (["distill", "--method", "random", "--dataset", "graphs:made", "--max-bytes", 9], ("allowed are 9",)),
    "size": (["distill", "--method", "mirage", "--dataset", "graphs:made", "--size", 8], ("--size 8",)),
    "holdout": (["distill", "--method", "mirage", "--dataset", "graphs:made", "--holdout", 0.1], ("--holdout",)),
    "zca": (["distill", "--method", "mirage", "--dataset", "graphs:made", "--preprocess", "zca"], ("--preprocess",)),
    "student": (
        ["distill", "--method", "mirage", "--dataset", "graphs:made", "--student", TINY],
        (TINY, "gin-d3-w64-mean"),
    ),
    "empty class": (["distill", "--method", "mirage", "--dataset", "graphs:made", "--support", 80], ("lower support",)),
    "missing": (["distill", "--method", "mirage", "--dataset", "mutag"], ("dataset mutag", "MUTAG")),
    "fold": (["distill", "--method", "mirage", "--dataset", "mutag:12"], ("no such fold",)),
    "plan": (["plan", "distill", "--method", "mirage", "--dataset", "graphs:made"], ("graphs",)),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_refused(case: tuple[list[object], tuple[str, ...]], refused: Command, tmp_path: Path):
    argv, needles = case
    out = ["--out", tmp_path / "run"] if "distill" in argv else []
    refused([*argv, "--data", tmp_path, *out], *needles)


@pytest.mark.parametrize(
    "more",
    [
        ["--students", TINY],
        ["--protocol", "hard-v1"],
        *([flag] for flag in ("--calibration", "--robustness", "--corruptions", "--keep-weights")),
        ["--ood", "noise"],
        ["--epochs", 3],
        ["--lr", 0.1],
        ["--lr-source", "search"],
        ["--max-images", 5],
        ["--precision", "bfloat16"],
    ],
    ids=str,
)
def test_evaluations_of_graphs_refuse_what_is_for_images(
    more: list[object], ddb: Command, refused: Command, tmp_path: Path
):
    run = distilled(ddb, "size", tmp_path / "run")
    refused(["evaluate", run, *more], str(more[0]) if more[0] != "--students" else "graph student")


def split_set(path: Path, classes: list[int], valid: list[int], test: list[int]) -> str:
    """Pairs of nodes of some classes, with a split; the rest of the positions is for training."""
    count = len(classes)
    graphs = make_graphs("pairs", [2] * count, None, [1] * count, [[0, 1]] * count, None, classes)
    train = np.setdiff1d(np.arange(count), [*valid, *test])
    write_compact(path, Source(graphs, Parts(train, np.array(valid), np.array(test))))
    return f"graphs:{path}"


UNSCORED: dict[str, tuple[list[int], list[int], list[int], str, str]] = {
    "one class to test on": ([0, 1] * 6, [0, 1], [3, 5], "graph-v1", "no test graph of class 0, so no ROC-AUC"),
    "a class missing of three": ([0, 1, 2] * 4, [0, 1, 2], [3, 5, 6], "graph-v1", "no test graph of class 1"),
    "one class to choose on": (
        [0, 1] * 6,
        [0, 2],
        [1, 4],
        "mirage",
        "all validation graphs are of class 0, and protocol mirage chooses weights",
    ),
}


@pytest.mark.parametrize("case", UNSCORED.values(), ids=UNSCORED)
def test_parts_that_score_nothing_are_refused_before_training(
    case: tuple, ddb: Command, refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    *parts, protocol, needle = case
    name, run = split_set(tmp_path / "set.npz", *parts), tmp_path / "run"
    found = ddb("distill", "--method", "full", "--dataset", name, "--out", run)
    assert found.code == 0, found.err
    monkeypatch.setattr("ddbench.graphs.scoring.train_student", None)
    refused(["evaluate", run, "--students", STUDENT, "--workers", 1, "--protocol", protocol], needle)
    assert not (run / "evaluations").exists()


def test_a_reference_needs_nothing_to_choose_on(ddb: Command, tmp_path: Path):
    name, run = split_set(tmp_path / "set.npz", [0, 1] * 6, [0, 2], [1, 4]), tmp_path / "run"
    for argv in (["distill", "--method", "size", "--dataset", name, "--out", run], ["evaluate", run, "--workers", 1]):
        found = ddb(*argv, *(["--protocol", "mirage"] if "evaluate" in argv else []))
        assert found.code == 0, found.err


def test_batch_norm_of_a_single_node_is_refused(ddb: Command, refused: Command, tmp_path: Path):
    name, run = split_set(tmp_path / "set.npz", [0, 1] * 6, [0, 1], [2, 3]), tmp_path / "run"
    found = ddb("distill", "--method", "mirage", "--depth", 0, "--dataset", name, "--out", run)
    assert found.code == 0, found.err
    refused(["evaluate", run, "--students", f"{STUDENT}-bn", "--workers", 1], "single node", "without -bn")
    assert not (run / "evaluations").exists()


def test_what_is_for_the_other_modality_is_said(ddb: Command, refused: Command, random_run: Path, tmp_path: Path):
    run = distilled(ddb, "size", tmp_path / "run")
    refused(["evaluate", run, "--protocol", "regimes"], "--protocol labels-hard: it is for images", "mirage")
    refused(["evaluate", random_run, "--protocol", "mirage"], "--protocol mirage: it is for graphs", "hard-v1")
    refused(["evaluate", random_run, "--students", "gin-d2-w16-mean"], "'gin-d2-w16-mean' learns from graphs")


def test_work_on_graphs_is_told_as_of_the_cpu_where_there_is_a_gpu(
    ddb: Command, refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Run, evaluation and row say so, and a row that says otherwise is verified on the CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    run, board = distilled(ddb, "size", tmp_path / "run"), tmp_path / "board"
    scored(ddb, run)
    config, *costs = (
        json.loads((run / name).read_text()) for name in ("config.json", "cost.json", "evaluations/graph-v1.cost.json")
    )
    assert config["device"] == "cpu"
    assert all(cost["device"].startswith("cpu: ") for cost in costs)
    found = ddb("submit", run, "--leaderboard", board)
    assert found.code == 0, found.err
    (row,) = load_results(board)
    cost = replace(row.cost.evaluate, device="cuda: NVIDIA H200")
    told = replace(row, cost=replace(row.cost, evaluate=cost))
    assert make_job(told, Request(root=board, work=tmp_path / "work", folders=True)).device == "cpu"
    new = ["distill", "--method", "size", "--dataset", "graphs:made", "--out", tmp_path / "new"]
    told = Request(root=board, work=tmp_path / "work", device="cuda")
    assert make_job(row, told).device == "cpu", "of a whole board some rows may be for a GPU"
    for argv in (new, ["evaluate", run]):
        refused([*argv, "--device", "cuda"], "--device cuda: work on graphs is done on the CPU")
        refused([*argv, "--compile", "on"], "--compile on: work on graphs is done on the CPU")


def test_verbs_of_images_refuse_a_graph_synset(ddb: Command, refused: Command, tmp_path: Path):
    run = distilled(ddb, "size", tmp_path / "run")
    for argv in (["relabel", run], ["scores", run], ["export", run, "--format", "npz", "--out", tmp_path / "x"]):
        refused(argv, "'graph'")


def changed(path: Path, arrays: Callable[[dict], object], header: Callable[[dict], object]) -> None:
    with open_tensors(path, KIND, SCHEMA) as (handle, found):
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    arrays(tensors)
    header(found)
    write_tensors(path, tensors, found)


def at(name: str, value: int) -> Callable[[dict], object]:
    def change(tensors: dict) -> None:
        own = tensors[name].to(torch.int64)
        own.view(-1)[0] = value
        tensors[name] = own

    return change


def nothing(_: dict) -> None:
    return None


DAMAGED: dict[str, tuple[Callable[[dict], object], Callable[[dict], object], str]] = {
    "end out of range": (at("edges", 10**9), nothing, "edges holds 1000000000"),
    "negative count": (at("nodes_per_graph", -5), nothing, "nodes_per_graph holds"),
    "10^9 nodes": (at("nodes_per_graph", 10**9), nothing, "nodes_per_graph holds"),
    "10^18 edges": (at("edges_per_graph", 10**18), nothing, "edges_per_graph holds"),
    "label": (at("node_labels", 99), nothing, "node_labels holds 99"),
    "class": (at("labels", 7), nothing, "labels holds 7"),
    "more": (lambda t: t.update(extra=torch.zeros(1)), nothing, "extra"),
    "fewer": (lambda t: t.pop("edges"), nothing, "no tensor 'edges'"),
    "floats": (lambda t: t.update(edges=t["edges"].float()), nothing, "edges is F32"),
    "form": (nothing, lambda h: h["graphs"].update(form="clouds"), "clouds"),
    "no form": (nothing, lambda h: h.pop("graphs"), "form None"),
    "sizes": (nothing, lambda h: h["graphs"].update(node_sizes=[10**12]), "node_sizes"),
    "classes": (nothing, lambda h: h["graphs"].update(classes=3), "3 classes"),
    "budget": (nothing, lambda h: h["budget"].update(value=10), "budget of 10"),
    "unit": (nothing, lambda h: h["budget"].update(unit="ipc"), "'ipc'"),
    "other data": (nothing, lambda h: h.update(dataset_fingerprint="f" * 64), "ffffffffffff"),
    "modality": (nothing, lambda h: h.update(modality="sound"), "'sound'"),
    "image": (nothing, lambda h: h.update(modality="image"), "labels is U8[9], expected I64"),
}


@pytest.mark.parametrize("case", DAMAGED.values(), ids=DAMAGED)
def test_damaged_graph_synsets(case: tuple, ddb: Command, refused: Command, tmp_path: Path):
    arrays, header, needle = case
    run = distilled(ddb, "random", tmp_path / "run")
    changed(run / "synset.safetensors", arrays, header)
    refused(["evaluate", run], needle)


def test_names():
    assert modality_of("mutag:3") == modality_of("ogbg-molhiv") == modality_of("graphs:x") == "graph"
    assert modality_of("digits") == modality_of("folder:x") == "image"


def test_size_is_the_number_of_nodes(ddb: Command, tmp_path: Path):
    """Of two classes with the same sizes it tells nothing; its figures are the same for all seeds."""
    found = scored(ddb, distilled(ddb, "size", tmp_path / "run"))
    values = {run["metrics"]["roc_auc"] for run in found["runs"]}
    assert len(values) == 1
    assert 0.2 < values.pop() < 0.8
    assert np.isfinite(found["synset"]["bytes"]["total"])
