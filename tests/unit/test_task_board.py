"""Results of tasks as columns of the board: submitted, shown, exported, checked, done again."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, TINY, evaluate_tiny, random_tiny

from ddbench.leaderboard.board import read_board
from ddbench.leaderboard.grouping import build_cells
from ddbench.leaderboard.pages.view import lay_out
from ddbench.leaderboard.retask import _check_described, check_tasks
from ddbench.leaderboard.retrain import Request
from ddbench.leaderboard.schema import check_result, load_results, result_id, result_path
from ddbench.leaderboard.verification import compare_stated, load_verifications
from ddbench.runtime.errors import UserError
from ddbench.statistics import paired_difference, spread_words, summarise
from ddbench.tasks.told import stated

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("--epochs", 2, "--student", TINY, "--workers", 1, "--quiet", *EAGER)
TASKS = {
    "transfer": ("--seeds", 3, "--parts", 2),
    "membership": ("--seeds", 1, "--images", 100, "--shadows", 4),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A folder with runs of random images and herding, evaluated, tasks that have both, and a board of both."""
    from ddbench.cli.main import run

    folder = tmp_path_factory.mktemp("tasks-on-a-board")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DDBENCH_DATA", str(data_root))
        for method in ("random", "kcenter"):
            run([*map(str, random_tiny(method, "--ipc", 2)), "--method", method])
            run([str(word) for word in evaluate_tiny(method, "--seeds", 3)])
        for task, flags in TASKS.items():
            run([str(word) for word in ("task", task, "random", "kcenter", *flags, *SMALL)])
        for method in ("random", "kcenter"):
            run(["submit", method, *given(*TASKS)])
    return folder


def given(*tasks: str) -> list[str]:
    return [word for task in tasks for word in ("--task", f"tasks/digits-{task}.json")]


@pytest.fixture
def here(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory."""
    shutil.copytree(done, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def row_of(method: str) -> dict[str, Any]:
    (path,) = Path("leaderboard/results/digits/ipc2", method).glob("*[0-9a-f].json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def replaced(row: dict[str, Any]) -> str:
    """Put a changed row in the place of the method's own, with what lies beside it; returns its id."""
    old, folder = row["id"], Path("leaderboard/results/digits/ipc2", row["synset"]["method"])
    row["id"] = new = result_id(row)
    for path in list(folder.iterdir()):
        if path.name.startswith(old):
            path.rename(path.with_name(path.name.replace(old, new)))
    (folder / f"{new}.json").write_text(json.dumps(row, indent=1, sort_keys=True))
    return new


def test_row(here: Path):
    """Single values with the summary that follows, and what was asked; a row without tasks does not name them."""
    row = row_of("kcenter")
    result = check_result(row, "row")
    assert result.to_json() == row
    assert set(row["tasks"]) == set(TASKS)
    transfer, membership = row["tasks"]["transfer"], row["tasks"]["membership"]
    units = json.loads(Path("tasks/digits-transfer.json").read_text())["units"]
    label = next(name.split(" seed")[0] for name in units if name.startswith("kcenter"))
    values = [units[f"{label} seed {seed} redundancy"]["metrics"]["cross"] for seed in range(3)]
    assert [one["metrics"]["cross"] for one in transfer["units"]] == values
    assert transfer["summary"] == {"cross": summarise(values)}
    assert transfer["question"]["config"]["parts"] == 2
    rows = {one["run"]: one for one in json.loads(Path("tasks/digits-membership.json").read_text())["results"]["rows"]}
    assert membership["summary"]["lira_auc"] == rows[label]["lira"]["auc"]
    rate = rows[label]["lira"]["tpr_at_fpr_0.01"]
    assert membership["summary"]["lira_tpr_at_fpr_0.01"] == stated(rate["value"], rate["low"], rate["high"], 4)
    assert membership["beside"] == {"copies": 20, "first_images": "real"}
    del row["tasks"]
    row["id"] = result_id(row)
    assert "tasks" not in check_result(row, "row").to_json()


def test_columns(here: Path, ddb: Callable):
    (cell,) = read_board(Path("leaderboard")).cells
    named = {one.metric: one for one in cell.measures if one.group == "tasks"}
    assert {name.partition(".")[0] for name in named} == set(TASKS)
    ours, random = cell.rows[0], next(row for row in cell.rows if row.reference == "random")
    cross = named["transfer.cross"]
    assert ours.scores[cross].statistics == row_of("kcenter")["tasks"]["transfer"]["summary"]["cross"]
    assert (ours.scores[cross].rank, ours.scores[cross].odd) == (1, False)
    pair = [cross.values(row.first, TINY) for row in (ours, random)]
    assert paired_difference(pair[0], [pair[1]])["n"] == 3
    titles = [column.title for column in lay_out(cell).columns]
    assert {"transfer cross", "membership LiRA AUC", "membership LiRA TPR at 1 %"} <= set(titles)
    shown = ddb("leaderboard", "show").out
    assert "transfer cross" in " ".join(shown.split())
    assert ddb("leaderboard", "build").code == 0
    assert "transfer cross" in Path("leaderboard/index.html").read_text()
    opened = Path("leaderboard/rows", f"{ours.first.id}.js").read_text()
    assert "intervals over targets" in opened
    assert f"ddbench task transfer RUN --student {TINY} --seeds 3" in opened
    table = list(csv.DictReader(io.StringIO(ddb("leaderboard", "export", "--format", "csv").out)))
    (line,) = [one for one in table if one["method"] == "kcenter" and one["metric"] == "membership.lira_auc"]
    assert (line["n"], line["comparable"]) == ("4", "True")
    assert "transfer cross" in ddb("leaderboard", "export", "--format", "latex", "--columns", "method,tasks").out


def test_other_questions_are_not_compared(here: Path):
    row = row_of("kcenter")
    changed = copy.deepcopy(row)
    changed["tasks"]["transfer"]["question"]["config"]["parts"] = 1
    changed["synset"]["sha256"] = "0" * 64
    changed["synset"]["method"] = "herding"
    changed["id"] = result_id(changed)
    one, other, random = (
        check_result(row, "a"),
        check_result(changed, "b"),
        next(result for result in load_results(Path("leaderboard")) if result.synset.method == "random"),
    )
    (cell,) = build_cells([one, other, random])
    cross = next(measure for measure in cell.measures if measure.metric == "transfer.cross")
    odd = {row.method: row.scores[cross].odd for row in cell.rows}
    assert odd["kcenter"] != odd["herding"]


def test_done_again(here: Path, ddb: Callable):
    """Identical from the files beside the rows alone; a better claim is found out."""
    for name in ("random", "kcenter", "tasks"):
        shutil.rmtree(name)
    made = ddb("leaderboard", "verify", "--measured", "--quiet", *EAGER)
    assert made.code == 0, made.err
    assert "membership, LiRA TPR at 1 %" in made.out
    results = load_results(Path("leaderboard"))
    checks = load_verifications(Path("leaderboard"), results)
    for result in results:
        found = checks[result.id]
        assert found.verdict == "identical"
        assert {name: set(one.compared) for name, one in (found.tasks or {}).items()} == {
            name: set(one.metrics) for name, one in (result.tasks or {}).items()
        }
    assert ddb("leaderboard", "check").code == 0
    assert ddb("leaderboard", "build").code == 0
    assert '"transfer, cross"' in Path("leaderboard/rows", f"{results[0].id}.js").read_text()

    path = next(Path("leaderboard").rglob("*.verified.json"))
    data = json.loads(path.read_text())
    data["tasks"]["transfer"]["compared"]["cross"]["verdict"] = "within"
    path.write_text(json.dumps(data))
    assert "does not follow" in ddb("leaderboard", "check").err
    data["tasks"]["transfer"]["units"] = "none"
    path.write_text(json.dumps(data))
    assert "task 'transfer' is malformed" in ddb("leaderboard", "check").err
    for path in Path("leaderboard").rglob("*.verified.json"):
        path.unlink()

    row = row_of("kcenter")
    task = row["tasks"]["membership"]
    for unit in task["units"]:
        unit["metrics"]["lira_auc"] = 0.0001
    task["summary"]["lira_auc"] = summarise([0.0001] * 4)
    name = replaced(row)
    made = ddb("leaderboard", "verify", name, "--measured", "--quiet", *EAGER)
    assert made.code == 1
    assert "below" in next(line for line in made.out.splitlines() if "LiRA AUC" in line)


def test_verdict_of_a_bootstrap():
    """The claim must lie in the interval of the repetition, however wide the claimed one is."""
    again = stated(0.5, 0.4, 0.7, 8)
    assert compare_stated(stated(0.5, 0, 1, 8), again, "higher").verdict == "identical"
    assert compare_stated(stated(0.65, 0, 1, 8), again, "higher").verdict == "within"
    assert compare_stated(stated(0.8, 0, 1, 8), again, "higher").verdict == "below"
    assert compare_stated(stated(0.8, 0, 1, 8), again, "lower").verdict == "above"
    found = compare_stated(stated(0.65, 0, 1, 8), again, "higher")
    assert found.low == pytest.approx(0.45)  # the repetition's interval would just reach up to the claim
    assert found.high == pytest.approx(0.75)
    assert spread_words(again, "{:.2f}".format, "fraction") == "0.50 (0.40 to 0.70)"


def _rate(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = row["tasks"]["membership"]["summary"]["lira_tpr_at_fpr_0.01"]
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["tasks"]["transfer"]["units"][0]["metrics"].update(cross=0.123), "does not follow"),
        (lambda row: row["tasks"]["transfer"]["units"][0].update(unit=1), "a unit is there twice"),
        (lambda row: row["tasks"]["transfer"]["units"][0]["metrics"].update(cross=1.2), "not a fraction"),
        (lambda row: row["tasks"]["transfer"]["units"][0]["metrics"].update(other=0.2), "'other' is not described"),
        (lambda row: row["tasks"]["transfer"]["metrics"].clear(), "metrics"),
        (
            lambda row: row["tasks"]["transfer"]["summary"].update(more=row["tasks"]["transfer"]["summary"]["cross"]),
            "other metrics than are described",
        ),
        (lambda row: row["tasks"]["transfer"].pop("question"), "'question' is a required property"),
        (lambda row: row["tasks"]["transfer"]["question"].pop("seeds"), "'seeds' is a required property"),
        (lambda row: row["tasks"]["transfer"]["question"].update(more=["x" * 70000]), "tasks.transfer has"),
        (lambda row: _rate(row).update(low=0.9, high=0.1), "neither units nor a stated interval"),
        (lambda row: _rate(row).update(high=1.5), "not a fraction"),
        (lambda row: row["tasks"].clear(), "tasks"),
    ],
)
def test_rows_are_checked(here: Path, change: Callable, words: str):
    row = row_of("kcenter")
    change(row)
    row["id"] = result_id(row)
    with pytest.raises(UserError, match=words):
        check_result(row, "row")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["tasks"]["membership"]["question"]["config"].update(shadows=10**6), "shadows is 1000000"),
        (lambda row: row["tasks"]["transfer"]["question"]["config"].update(to="folder:/etc"), "--allow-folders"),
        (lambda row: row["tasks"]["transfer"]["question"].update(seeds=10**6), "seeds; verification takes 1 to 200"),
        (lambda row: row["tasks"]["transfer"]["question"]["protocol"].update(changed={"epochs": 10**7}), "epochs"),
        (lambda row: row["tasks"].update(unheard=row["tasks"]["transfer"]), "no such task"),
        (lambda row: row["tasks"]["transfer"]["question"].update(config=["download"]), "the settings are not a table"),
        (
            lambda row: row["tasks"]["transfer"]["question"]["config"].update(download=True),
            "unknown setting 'download'",
        ),
        (lambda row: row["tasks"]["transfer"]["question"]["config"].update(to=["folder:/etc"]), "expected"),
        (lambda row: row["tasks"]["transfer"]["question"]["config"].update(parts=-1), "parts"),
        (lambda row: row["synset"]["config"].update(iterations=10**9), "iterations 1000000000 of the method"),
        (lambda row: row["recipe"].update(experts={"count": 10**6}), "1 to 200"),
        (lambda row: row["recipe"].update(experts={"count": 2, "recipe": {"epochs": 10**9}}), "epochs 1000000000"),
        (lambda row: row["recipe"].update(teacher={"student": ["x"]}), "no network"),
    ],
)
def test_what_is_not_done_again(here: Path, change: Callable, words: str):
    """Refused before anything is trained."""
    row = row_of("kcenter")
    change(row)
    row["id"] = result_id(row)
    with pytest.raises(UserError, match=words):
        check_tasks(check_result(row, "row"), Request(root=Path("leaderboard"), work=Path("work")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task: task["metrics"]["cross"].update(better="higher"), "cross is not what"),
        (lambda task: task.update(over="order"), "values over orders"),
        (
            lambda task: (
                task["metrics"].update(more=task["metrics"]["cross"]),
                task["summary"].update(more=stated(0.5, 0, 1, 3)),
            ),
            "more is not what",
        ),
        (
            lambda task: (task.update(units=[]), task["summary"].update(cross=stated(0.5, 0, 1, 3))),
            "cross is not what",
        ),
    ],
)
def test_numbers_that_a_task_does_not_tell_are_not_compared(here: Path, change: Callable, words: str):
    """A row could call a worse number the better one, widen its interval, or name what no repetition has."""
    info = check_result(row_of("kcenter"), "row").tasks
    assert info is not None
    again = info["transfer"]
    _check_described(again, again, "row")
    row = row_of("kcenter")
    change(row["tasks"]["transfer"])
    row["id"] = result_id(row)
    claimed = check_result(row, "row").tasks
    assert claimed is not None
    with pytest.raises(UserError, match=words):
        _check_described(claimed["transfer"], again, "row")


def test_a_number_called_the_better_one_is_refused_by_verify(here: Path, ddb: Callable):
    row = row_of("kcenter")
    row["tasks"] = {"transfer": row["tasks"]["transfer"]}
    row["tasks"]["transfer"]["metrics"]["cross"]["better"] = "higher"
    made = ddb("leaderboard", "verify", replaced(row), "--measured", "--quiet", *EAGER)
    assert made.code == 2
    assert "cross is not what this ddbench tells" in made.err


def test_another_question_is_not_answered(here: Path, ddb: Callable):
    row = row_of("kcenter")
    row["tasks"]["transfer"]["question"]["decides"] = {"to_fingerprint": "0" * 64}
    name = replaced(row)
    made = ddb("leaderboard", "verify", name, "--measured", "--quiet", *EAGER)
    assert made.code == 2
    assert "would ask otherwise (decides differs)" in made.err


def test_submitting(here: Path, ddb: Callable, refused: Callable):
    refused(("submit", "random", *given("transfer", "transfer")), "a second result of transfer")
    refused(("submit", "random", "--task", "random/config.json"), "no result of a task")
    refused(("submit", "random"), "has the task membership and transfer", "--task tasks/digits-membership.json")
    assert "already there" in ddb("submit", "random", *given(*TASKS)).out
    assert ddb(*random_tiny("other", "--ipc", 2, "--seed", 7)).code == 0
    assert ddb(*evaluate_tiny("other", "--seeds", 3)).code == 0
    refused(("submit", "other", *given("transfer")), "not about this synset", "name the run in `ddbench task transfer`")
    (path,) = Path("leaderboard/results/digits/ipc2/kcenter").glob("*[0-9a-f].json")
    assert check_result(json.loads(path.read_text()), "row").id == path.stem
    assert result_path(replace(check_result(row_of("kcenter"), "row"))) == path.relative_to("leaderboard")
