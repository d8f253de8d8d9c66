"""Lines with one figure a student have the metric that ranks the table, and say which where it is not accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ddbench.leaderboard.schema import load_results

STUDENT = "gin-d1-w4-mean"
PLAN = f"""
title = "graphs"
[defaults]
dataset = "graphs:made"
seeds = 2
protocols = ["graph-v1"]
students = ["{STUDENT}"]
[[cells]]
method = "mirage"
distill = ["--support", "0.3"]
minutes = 1
"""


def test_figures_of_graphs_are_roc_auc(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("graphs.toml").write_text(PLAN)
    found = ddb("reproduce", "graphs.toml", "--quiet", "--threads", 1)
    assert found.code == 0, found.err
    (row,) = load_results(Path("leaderboard"))
    summary = row.summary[STUDENT]
    auc, accuracy = (100 * summary[metric]["mean"] for metric in ("roc_auc", "accuracy"))
    assert f"{auc:.1f}" != f"{accuracy:.1f}", "figures that tell the two apart"
    found = ddb("reproduce", "graphs.toml", "--dry-run")
    assert f"{STUDENT} ROC-AUC {auc:.1f}\n" in found.out

    (run,) = Path("reproduce/graphs/runs").iterdir()
    found = ddb("evaluate", run, "--students", STUDENT, "--seeds", 2, "--workers", 1, "--threads", 1)
    assert re.search(rf"{STUDENT} +ROC-AUC +{auc:.2f} %", found.out), found.out
    assert re.search(rf"Test accuracy +{accuracy / 100:.4f}", found.out), found.out
    assert re.search(rf"{STUDENT} +ROC-AUC +{auc:.2f} %", ddb("info", run).out)
    told = json.loads(ddb("info", run, "--json").out)["evaluations"]["graph-v1"]
    assert (told["metric"], told["students"][STUDENT]["mean"]) == ("roc_auc", summary["roc_auc"]["mean"])

    found = ddb("leaderboard", "verify", "--workers", 1)
    assert re.search(rf"{STUDENT}, ROC-AUC +- +{auc:.2f} +{auc:.2f} ", found.out), found.out


def test_protocols_side_by_side_of_graphs(ddb: Callable, tmp_path: Path):
    run = tmp_path / "run"
    found = ddb("distill", "--method", "mirage", "--dataset", "graphs:made", "--support", 0.3, "--out", run)
    assert found.code == 0, found.err
    how = ("--students", STUDENT, "--seeds", 2, "--workers", 1, "--threads", 1)
    found = ddb("evaluate", run, *how, "--protocol", "graph-v1,mirage-code")
    assert found.code == 0, found.err
    assert "ROC-AUC in %, and - graph-v1 with its 95 % interval, seeds paired" in found.out
    first = json.loads((run / "evaluations" / "graph-v1.json").read_text())["summary"][STUDENT]["roc_auc"]["mean"]
    assert re.search(rf"\n    graph-v1 +{100 * first:.1f}\n", found.out), found.out
