"""Plan files: what they expand to, which rows count as done, and what bad ones get."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_board import STUDENTS, made_result

from ddbench.cli.reproduce import parse_span
from ddbench.distillation.recipes import choose_recipe
from ddbench.leaderboard.plans import find_plan, read_plan, result_of, shipped_plans
from ddbench.leaderboard.reproduction import Workshop, teacher_flags
from ddbench.leaderboard.schema import load_results
from ddbench.methods import METHODS
from ddbench.runtime.errors import UserError

BOARD = Path(__file__).parents[2] / "leaderboard"
DOCUMENT = BOARD.parent / "docs" / "reproduce.md"
HEAD = '[defaults]\ndataset = "digits"\nstudents = ["convnet-d2-w32-in"]\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_entry_is_one_cell_for_each_ipc_seed_and_protocol(tmp_path: Path) -> None:
    plan = read_plan(
        write(
            tmp_path,
            HEAD + '[[cells]]\nmethod = "mtt"\nipc = [1, 10]\nrun_seeds = [0, 3]\nprotocols = ["hard-v1", "mtt"]\n'
            'minutes = [1, 2.5]\nrecipe = "digits-ipc{ipc}"\n'
            'published = [{ ipc = 10, protocol = "mtt", student = "convnet-d2-w32-in", value = 0.9, source = "S" }]\n',
        )
    )
    names = [cell.name for cell in plan.cells]
    assert len(names) == 8
    assert names[0] == "digits-ipc1-mtt-s0/hard-v1"
    assert names[-1] == "digits-ipc10-mtt-s3/mtt"
    assert {cell.minutes for cell in plan.cells if cell.ipc == 10} == {2.5}
    assert {cell.recipe for cell in plan.cells} == {"digits-ipc1", "digits-ipc10"}
    with_target = [cell.name for cell in plan.cells if cell.published]
    assert with_target == ["digits-ipc10-mtt-s0/mtt", "digits-ipc10-mtt-s3/mtt"]


def test_a_protocol_of_ones_own_is_found_beside_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever the plan is called; a published figure names it as the plan does."""
    (tmp_path / "short.toml").write_text('name = "short"\nepochs = 3\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    figure = 'published = [{ protocol = "short.toml", student = "convnet-d2-w32-in", value = 0.9, source = "S" }]\n'
    text = HEAD + '[[cells]]\nmethod = "dm"\nipc = 1\nprotocols = ["short.toml", "hard-v1"]\n' + figure
    short, usual = read_plan(write(tmp_path, text)).cells
    assert (short.name, usual.name) == ("digits-ipc1-dm-s0/short", "digits-ipc1-dm-s0/hard-v1")
    assert (len(short.published), len(usual.published)) == (1, 0)
    with pytest.raises(UserError, match=r"missing\.toml: cannot read it"):
        read_plan(write(tmp_path, text.replace("short.toml", "missing.toml")))


def test_a_teacher_is_for_the_protocols_that_have_one(tmp_path: Path) -> None:
    body = 'protocols = ["labels-hard", "labels-once", "labels-view"]\nteacher = ["--student", "convnet-d2-w32-bn"]\n'
    plan = read_plan(write(tmp_path, HEAD + '[[cells]]\nmethod = "random"\nipc = 1\nrun_seeds = [0]\n' + body))
    shop = Workshop(out=tmp_path, leaderboard=tmp_path, submission={}, common=(), cores=1)
    found = {cell.protocol: teacher_flags(cell, shop) for cell in plan.cells}
    assert found["labels-hard"] is None
    assert found["labels-once"] == found["labels-view"]
    assert found["labels-once"] is not None
    assert found["labels-once"][-2:] == ["--student", "convnet-d2-w32-bn"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('[[cells]]\nmethod = "mtt"\n', "ipc is None"),
        ('[[cells]]\nmethod = "mtt"\nipc = 0\n', "expected at least 1"),
        ('[[cells]]\nmethod = "mtt"\nipc = 1\nminuets = 3\n', "did you mean"),
        ('[[cells]]\nmethod = "mtt"\nipc = [1, 10]\nminutes = [1, 2, 3]\n', "one for each ipc"),
        ('[[cells]]\nmethod = "mtt"\nipc = 1\nprotocols = ["hard-v9"]\n', "hard-v9"),
        ('[[cells]]\nmethod = "mtt"\nipc = 1\n[[cells]]\nmethod = "mtt"\nipc = 1\n', "there twice"),
        (
            '[[cells]]\nmethod = "mtt"\nipc = 1\npublished = [{ student = "alexnet", value = 0.5, source = "S" }]\n',
            "none",
        ),
        (
            '[[cells]]\nmethod = "mtt"\nipc = 1\n'
            'published = [{ student = "convnet-d2-w32-in", value = 88.7, source = "S" }]\n',
            "fraction",
        ),
        ('[[cells]]\nmethod = "mtt"\nipc = 1\npublished = [{ value = 0.5 }]\n', "needs student"),
        ("[cells]\n", "no [[cells]]"),
        ('[submission]\nlicense = "MIT"\n[[cells]]\nmethod = "mtt"\nipc = 1\n', "did you mean"),
    ],
)
def test_a_bad_plan_gets_one_line(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read_plan(write(tmp_path, HEAD + body))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_plan_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="digits-cpu"):
        find_plan("digit-cpu")
    with pytest.raises(UserError, match="not a plan"):
        find_plan(str(tmp_path / "none.toml"))


def test_shipped_plans_name_methods_and_recipes_that_are_there() -> None:
    assert {"digits-cpu", "mnist-gpu", "fashion-mnist-gpu", "cifar10-gpu"} <= set(shipped_plans())
    bare = {"random", "full", "herding", "kcenter", "kmeans"}
    for name in shipped_plans():
        for cell in find_plan(name).cells:
            assert cell.method in METHODS, cell.name
            run = {"dataset": cell.dataset, "ipc": cell.ipc or None, "student": cell.student or None, "size": cell.size}
            recipe = choose_recipe(cell.recipe, cell.method, run)
            assert recipe is not None or cell.method in bare or cell.max_bytes, cell.name


def test_tesla_is_scored_by_soft_labels_where_its_recipe_makes_them() -> None:
    cells = [cell for name in shipped_plans() for cell in find_plan(name).cells if cell.method == "tesla"]
    assert cells
    for cell in cells:
        run = {"dataset": cell.dataset, "ipc": cell.ipc, "student": cell.student or None, "size": cell.size}
        recipe = choose_recipe(cell.recipe, cell.method, run)
        assert recipe is not None
        assert (cell.protocol == "soft-v1") == (recipe.config.get("labels") == "expert"), cell.name


def test_the_document_says_what_each_plan_adds_up_to() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([\d.]+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    plans = {name: sum(cell.minutes for cell in find_plan(name).cells) for name in shipped_plans()}
    assert dict(rows) == {name: f"{minutes / 60:.1f}" for name, minutes in plans.items()}


def test_every_method_is_in_the_digits_plan() -> None:
    planned = {cell.method for cell in find_plan("digits-cpu").cells}
    with_digits = {
        name
        for name in METHODS
        if choose_recipe("auto", name, {"dataset": "digits", "ipc": 10, "student": None, "size": None})
    }
    assert with_digits <= planned


def test_random_images_come_as_ten_subsets_by_default(tmp_path: Path) -> None:
    def seeds(more: str) -> list[int]:
        path = tmp_path / "plan.toml"
        path.write_text(f'[[cells]]\ndataset = "digits"\nipc = 1\n{more}\n')
        return [cell.seed for cell in find_plan(str(path)).cells]

    assert seeds('method = "random"') == list(range(10))
    assert seeds('method = "random"\nrun_seeds = [4]') == [4]
    assert seeds('method = "dm"') == [0]


def test_a_row_counts_for_its_cell_only(tmp_path: Path) -> None:
    results = load_results(BOARD)
    one = next(result for result in results if result.synset.method == "mtt")
    ipc, students = one.synset.budget.value, sorted(one.summary)
    seeds = one.summary[students[0]]["accuracy"]["n"]

    def cell_of(**values: object) -> object:
        table = {"method": "mtt", "ipc": ipc, "seeds": seeds, "students": students, "dataset": "digits", **values}
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        return result_of(read_plan(write(tmp_path, f"[[cells]]\n{lines}\n")).cells[0], results)

    assert cell_of() is not None
    assert cell_of(seeds=seeds + 1) is None
    assert cell_of(run_seeds=[7]) is None
    assert cell_of(protocols=["dc-legacy"]) is None
    assert cell_of(ipc=ipc + 1) is None
    assert cell_of(students=[*students, "alexnet"]) is None
    assert cell_of(dataset="mnist") is None
    measured = one.measured or {}
    assert (cell_of(evaluate=["--calibration"]) is not None) == ("calibration" in measured)
    budget = measured["robustness"]["budget"]
    other = "full" if budget == "quick" else "quick"
    for flags in (["--robustness", budget], [f"--robustness={budget}"], ["--robustness", "--calibration"]):
        assert cell_of(evaluate=flags) is not None
    assert cell_of(evaluate=["--robustness", other]) is None
    assert cell_of(evaluate=[f"--robustness={other}", "--calibration"]) is None
    assert cell_of(size=8) is not None
    assert cell_of(size=16) is None
    assert cell_of(evaluate=["--precision", "float32"]) is not None
    assert cell_of(evaluate=["--precision", "bfloat16"]) is None
    results = [replace(result, precision="bfloat16") for result in results]
    assert cell_of(evaluate=["--precision=bfloat16"]) is not None
    assert cell_of() is None
    results = [replace(result, precision="float32") for result in results]
    assert cell_of(students=[]) is not None
    assert cell_of(students=[], seeds=seeds + 1) is None


def test_a_slash_behind_the_folder_of_a_cell_counts_nothing(tmp_path: Path) -> None:
    one = next(result for result in load_results(BOARD) if result.synset.method == "mtt")
    own = replace(one, synset=replace(one.synset, dataset="folder:imgs"))
    table = f'method = "mtt"\nipc = {one.synset.budget.value}\nseeds = 1\nsize = 8\n'
    found = [
        result_of(read_plan(write(tmp_path, f'[[cells]]\n{table}dataset = "{name}"\n')).cells[0], [own])
        for name in ("folder:imgs", "folder:imgs/", "folder:others/")
    ]
    assert found == [own, own, None]


def test_a_group_of_students_is_all_of_them(tmp_path: Path) -> None:
    body = 'dataset = "digits"\nmethod = "mtt"\nipc = 1\nstudents = ["mlp-d1-w8,mlp-d1-w16", "mlp-d1-w8"]\n'
    (cell,) = read_plan(write(tmp_path, f"[[cells]]\n{body}")).cells
    assert cell.students == ("mlp-d1-w8", "mlp-d1-w16")


def test_of_equal_rows_the_one_that_stands(tmp_path: Path) -> None:
    """A row that another of as many runs supersedes is not the cell's, whichever has the larger id."""
    body = f'dataset = "digits"\nmethod = "mtt"\nipc = 1\nseeds = 5\nstudents = ["{STUDENTS[0]}"]\n'
    (cell,) = read_plan(write(tmp_path, f"[[cells]]\n{body}")).cells
    for note in range(4):
        old = made_result(submission={"note": f"{note}"})
        new = made_result(supersedes=old.id)
        assert result_of(cell, [old, new]) == new
        assert result_of(cell, [new, old]) == new


def test_spans_of_time() -> None:
    assert parse_span("30m") == 1800
    assert parse_span("1h30m5s") == 5405
    for text in ("", "30", "m", "0m", "1.5h", "-3m", "9" * 5000 + "h"):
        with pytest.raises(UserError, match="--budget"):
            parse_span(text)


UNFILLABLE = {
    "altered": ('evaluate = ["--epochs", "5"]', "evaluate has --epochs, which alters the protocol"),
    "altered by an underscore": ('evaluate = ["--label_smoothing=0.1"]', "evaluate has --label-smoothing, which"),
    "fewer test images": ('evaluate = ["--calibration", "--max-images", "9"]', "evaluate has --max-images, which"),
    "stored labels": ('protocols = ["fkd"]', "protocol fkd replays stored labels (ddbench relabel), which a plan does"),
    "no teacher": ('protocols = ["kd-v1"]', "random-s0/kd-v1: kd-v1 wants a teacher, and random brings none"),
    "nor by a method meant for one": ('method = "d3hr"\nprotocols = ["rded"]', "wants a teacher, and d3hr brings none"),
}


@pytest.mark.parametrize("case", UNFILLABLE)
def test_a_cell_that_no_row_can_fill_is_refused(case: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    body, words = UNFILLABLE[case]
    method = "" if body.startswith("method") else 'method = "random"\n'
    path = write(tmp_path, f"{HEAD}[[cells]]\nipc = 1\nrun_seeds = [0]\n{method}{body}\n")
    board = ("--leaderboard", tmp_path / "board")
    refused(["reproduce", path, "--dry-run", *board], words)
    refused(["plan", "reproduce", path, *board], words)


@pytest.mark.parametrize(
    "body",
    [
        'method = "random"\nevaluate = ["--robustness", "--max-images", "9"]',
        'method = "random"\nprotocols = ["kd-v1"]\nteacher = []',
        'method = "sre2l"\nprotocols = ["kd-v1"]',
        'method = "herding"\nprotocols = ["kd-v1"]',
        'method = "expertlabels"\nprotocols = ["kd-v1"]\ndistill = ["--select", "herding"]',
    ],
)
def test_a_cell_that_a_row_can_fill_is_taken(body: str, tmp_path: Path, ddb: Callable) -> None:
    """By the settings of the method, too: a coreset brings the teacher that chose it."""
    path = write(tmp_path, f"{HEAD}[[cells]]\nipc = 1\nrun_seeds = [0]\n{body}\n")
    found = ddb("reproduce", path, "--dry-run", "--leaderboard", tmp_path / "board")
    assert (found.code, found.err) == (0, "")
    assert "0 of 1 cells" in found.out


def test_the_plans_in_the_document_are_read(tmp_path: Path) -> None:
    whole, cell = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert [one.method for one in read_plan(write(tmp_path, whole)).cells] == ["mtt"] * 2 + ["random"] * 6
    head = 'kind = "reproduction"\n[[cells]]\nmethod = "dm"\ndataset = "mnist"\nipc = [1, 10]\n'
    head += 'students = ["convnet-d3-w128-in"]\n'
    first, second = read_plan(write(tmp_path, head + cell)).cells
    assert first.config == second.config == {"iterations": 300, "holdout": 0.0}
    assert [(one.value, one.runs) for one in (*first.published, *second.published)] == [(0.705, 5), (None, None)]
