"""``ddbench info``: what a place is, from headers alone; and what `distill` says is next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import EAGER, TINY, distill_tiny, random_tiny

from ddbench.cli.distill import evaluation_command
from ddbench.methods import METHODS, facts_of, fitting_protocol
from ddbench.runtime.tensors import write_tensors


def test_an_evaluation_says_how_it_is_submitted(random_run: Path, ddb: Callable, tmp_path: Path):
    """Where it can be: not where a setting differs from the protocol's, nor where it lies in no run."""
    brief = tmp_path / "brief.toml"
    brief.write_text('name = "brief-v1"\nbase = "hard-v1"\nepochs = 2\n')
    command = ["evaluate", random_run, "--students", TINY, "--seeds", 1, "--workers", 1, *EAGER]
    submits = f"next: ddbench submit {random_run} --protocol brief-v1"
    assert ddb(*command, "--protocol", brief).out.splitlines()[-1] == submits
    assert submits in ddb("info", random_run).out
    for flags in (("--protocol", "hard-v1", "--epochs", 2), ("--protocol", brief, "--out", tmp_path / "elsewhere")):
        made = ddb(*command, *flags)
        assert (made.code, "next:" in made.out) == (0, False), made.err


def test_a_run_with_its_evaluation(random_run: Path, ddb: Callable):
    result = ddb("info", random_run)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"run: {random_run}"
    for words in ("  method      random", "  dataset     digits", "  budget      ipc 1"):
        assert words in lines
    evaluation = next((random_run / "evaluations").glob("*3-max_images=100.json"))
    summary = json.loads(evaluation.read_text())["summary"]
    (student,) = summary
    (told,) = [line for line in lines if line.startswith(f"    {student}")]
    assert f"{100 * summary[student]['accuracy']['mean']:6.2f} %" in told
    assert "(2 seeds)" in told
    assert lines[-1] == f"next: ddbench evaluate {random_run}", "a non-standard evaluation is no row of a board"

    found = json.loads(ddb("info", random_run, "--json").out)
    mean = found["evaluations"][evaluation.stem]["students"][student]["mean"]
    assert mean == summary[student]["accuracy"]["mean"]
    assert json.loads(ddb("info", evaluation, "--json").out)["evaluations"][evaluation.stem]["standard"] is False


def test_what_diverged_is_told(random_run: Path, buffers: Path, tmp_path: Path, ddb: Callable):
    """A run that would end where it did is not said to go on, and a student without a mean is not left out."""
    assert ddb(*distill_tiny(buffers, tmp_path / "run", "--lr-images", 1e30)).code == 2
    found = ddb("info", tmp_path / "run").out
    assert found.startswith("run that diverged: ")
    assert "with other settings" in found
    assert "goes on" not in found
    evaluation = next((random_run / "evaluations").glob("*3-max_images=100.json"))
    content = json.loads(evaluation.read_text())
    lost = [{"student": "mlp-d3-w128", "seed": seed, "diverged": "outputs are not finite"} for seed in (1, 3)]
    evaluation.write_text(json.dumps(content | {"diverged": lost}))
    assert f"    {'mlp-d3-w128':<24} diverged (2 seeds)\n" in ddb("info", evaluation).out


def test_submit_is_told_of_an_evaluation_that_lies_in_a_run(
    random_run: Path, tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "my run"
    shutil.copytree(random_run, run)
    (kept, *_) = (run / "evaluations").glob("*100.json")
    name = kept.rename(kept.with_name("mine.json"))
    monkeypatch.chdir(name.parent)
    for place in (name, Path("mine.json")):
        (command,) = json.loads(ddb("info", place, "--json").out)["next"]
        assert command == f"ddbench submit '{run}' --protocol mine"
    assert ddb(*shlex.split(command)[1:], "--leaderboard", tmp_path / "board", "--dry-run").code == 0
    elsewhere = tmp_path / "elsewhere" / "e.json"
    of_a_row = tmp_path / "evaluations" / "0123456789abcdef" / "hard-v1.json"
    of_no_run = tmp_path / "evaluations" / "hard-v1.json"
    for place in (elsewhere, of_a_row, of_no_run):
        place.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(name, place)
        found = ddb("info", place)
        assert found.code == 0, found.err
        assert "next: " not in found.out


def test_commands_with_blanks_are_quoted(random_run: Path, tmp_path: Path, ddb: Callable):
    run = tmp_path / "my runs" / "a b"
    shutil.copytree(random_run, run)
    assert f"next: ddbench evaluate '{run}'\n" in ddb("info", run).out
    assert f"next: ddbench info '{run}'\n" in ddb("info", run.parent).out
    assert evaluation_command(Path("a b"), "rded") == "ddbench evaluate 'a b' --protocol rded"


def test_the_next_command_of_a_store_and_of_a_row_is_whole(store_folder: Path, ddb: Callable):
    (following,) = json.loads(ddb("info", store_folder, "--json").out)["next"]
    assert f" --ipc 1 --student {store_folder.parent.name} --recipe none --buffers " in following
    board = Path(__file__).parents[2] / "leaderboard"
    row = next(path for path in sorted(board.glob("results/digits/ipc1/dm/*.json")) if "." not in path.stem)
    assert json.loads(ddb("info", row, "--json").out)["next"] == [f"ddbench leaderboard show --leaderboard {board}"]


@pytest.mark.parametrize(
    ("flags", "method"), [(("--preprocess", "zca", "--holdout", 0), "mtt"), (("--kind", "gsam"), "ftd")]
)
def test_the_next_command_of_a_store_finds_its_experts(
    flags: tuple[object, ...], method: str, tmp_path: Path, ddb: Callable
):
    """Whatever they were trained on and how, and however few epochs they have."""
    asked = (
        "--dataset",
        "digits",
        "--student",
        TINY,
        "--experts",
        1,
        "--epochs",
        2,
        "--workers",
        1,
        "--buffers",
        tmp_path,
    )
    assert ddb("buffer", *asked, *flags, "--quiet", *EAGER).code == 0
    (store,) = tmp_path.glob("*/*/*")
    (following,) = told_of(ddb, store)["next"]
    assert f" --method {method} " in following
    few = ("--iterations", 1, "--student-steps", 1, "--out", tmp_path / "run", "--quiet", *EAGER)
    made = ddb(*shlex.split(following)[1:], *few)
    assert (made.code, made.err) == (0, "")


def test_the_next_command_of_images_of_ones_own_says_their_size(store_folder: Path, tmp_path: Path, ddb: Callable):
    store = shutil.copytree(store_folder, tmp_path / "store")
    header = json.loads((store / "manifest.json").read_text()) | {"dataset": "folder:my images", "size": 16}
    (store / "manifest.json").write_text(json.dumps(header))
    assert " --dataset 'folder:my images' --size 16 --ipc 1 " in told_of(ddb, store)["next"][0]
    (store / "manifest.json").write_text(json.dumps(header | {"parent": "0" * 64}))
    assert told_of(ddb, store)["next"] == [], "what a run derived is for that run"
    model = tmp_path / "model"
    model.mkdir()
    recipe = {"holdout": 0.2, "steps": 20}
    about = {"kind": "ddbench-diffusion", "dataset": "hub:o/n", "shape": [3, 32, 32], "recipe": recipe}
    (model / "ddbench.json").write_text(json.dumps(about))
    assert told_of(ddb, model)["next"] == [
        "ddbench distill --method d3hr --dataset hub:o/n --size 32 --holdout 0.2 --ipc 1 --recipe none "
        f"--diffusion-model {model}"
    ]


def test_what_is_what(random_run: Path, store_folder: Path, ddb: Callable):
    first = {
        random_run / "synset.safetensors": "synset: ",
        store_folder: "store of experts: ",
        store_folder.parents[2]: "folder: ",
        Path(__file__).parents[2] / "leaderboard": "board: ",
    }
    for place, words in first.items():
        result = ddb("info", place)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"{words}{place}\n")
        assert "next: ddbench " in result.out
    assert json.loads(ddb("info", store_folder, "--json").out)["settings"]["experts"] == 2


def test_a_folder_of_folders_and_the_result_of_a_task(random_run: Path, tmp_path: Path, ddb: Callable):
    """Runs two folders down are no teachers."""
    place = tmp_path / "project"
    (place / "runs").mkdir(parents=True)
    shutil.copytree(random_run, place / "runs" / "one")
    found = json.loads(ddb("info", place, "--json").out)
    assert found["settings"] == {"runs in its folders": 1}
    assert found["next"] == [f"ddbench info {place}/runs"]

    head = {"dataset": {"name": "digits"}, "protocol": {"name": "hard-v1"}}
    (place / "task.json").write_text(json.dumps({"kind": "ddbench-task", "task": "transfer", "head": head}))
    found = json.loads(ddb("info", place / "task.json", "--json").out)
    assert found["what"] == "result of a task"
    assert found["settings"] == {"task": "transfer", "dataset": "digits", "protocol": "hard-v1"}


def test_an_unfinished_run(random_run: Path, ddb: Callable):
    (random_run / "synset.safetensors").unlink()
    out = ddb("info", random_run).out
    assert out.startswith(f"run that is not finished: {random_run}\n")
    assert "next: repeat its `ddbench distill` command" in out


def test_places_that_are_nothing(random_run: Path, tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    refused(["info", tmp_path / "nowhere"], "nowhere: no such file or folder")
    refused(["info", os.devnull], f"{os.devnull}: cannot read this file or folder: it is a device, no plain file")
    (tmp_path / "empty").mkdir()
    refused(["info", tmp_path / "empty"], "empty: holds no run, store, teacher or board")
    (tmp_path / "text.txt").write_text("a text")
    refused(["info", tmp_path / "text.txt"], "text.txt: no safetensors file")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(["info", tmp_path / "deep.json"], "deep.json")
    (tmp_path / "list.json").write_text("[1]")
    refused(["info", tmp_path / "list.json"], "list.json: nothing that ddbench made")
    (tmp_path / "empty" / "config.json").write_text("{}")
    refused(["info", tmp_path / "empty" / "config.json"], "config.json: a file of kind 'None'")
    monkeypatch.chdir(tmp_path / "empty")
    refused(["info", "."], ".: holds no run, store, teacher or board")
    torn = random_run / "synset.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    refused(["info", random_run], "are not its whole")
    evaluation = next((random_run / "evaluations").glob("*100.json"))
    content = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps({**content, "measured": [1.5]}))
    refused(["info", evaluation], "its summary is malformed")
    evaluation.write_text(json.dumps({"kind": "ddbench-evaluation", "summary": [], "protocol": {}}))
    refused(["info", evaluation], "its summary is malformed")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_next_command_names_the_methods_protocol(method: str):
    facts = facts_of(method)
    assert facts is not None
    ending = "" if facts.protocol == "hard-v1" else f" --protocol {facts.protocol}"
    assert evaluation_command(Path("runs/x"), method) == f"ddbench evaluate runs/x{ending}"


def test_the_next_command_of_some():
    assert evaluation_command(Path("r"), "rded") == "ddbench evaluate r --protocol rded"
    assert evaluation_command(Path("r"), "datm") == "ddbench evaluate r --protocol soft-v1"
    assert evaluation_command(Path("r"), "mtt") == "ddbench evaluate r"
    assert evaluation_command(Path("r"), "somebody-elses") == "ddbench evaluate r"


@pytest.mark.parametrize(
    ("method", "header", "protocol"),
    [
        ("imported", {}, "hard-v1"),
        ("imported", {"label_kind": "soft"}, "soft-v1"),
        ("imported", {"decoder": {"factor": 2}}, "idc"),
        ("imported", {"decoder": 7}, "hard-v1"),  # damaged
        ("imported", {"patches": 2}, "rded"),
        ("imported", {"staged": True}, "pdd"),
        ("kip", {"label_kind": "targets"}, "mse-v1"),
        ("datm", {"label_kind": "soft"}, "soft-v1"),
        ("datm", {"label_kind": "hard"}, "hard-v1"),  # imported without its labels
        ("pdd", {"staged": False}, "hard-v1"),
        ("pdd", {}, "pdd"),
        ("rded", {"patches": 1}, "rded"),
        ("tesla", {"label_kind": "soft"}, "hard-v1"),  # whose own labels are soft ones
        ("dd", {"label_kind": "hard"}, "hard-v1"),
    ],
)
def test_the_next_command_fits_the_form(method: str, header: dict[str, Any], protocol: str):
    assert fitting_protocol(method, header) == protocol


def test_import_says_it(tmp_path: Path, ddb: Callable):
    torch.save({"images": torch.rand(10, 1, 8, 8), "labels": torch.softmax(3 * torch.eye(10), 1)}, tmp_path / "set.pt")
    out = tmp_path / "run"
    said = ddb("import", tmp_path / "set.pt", "--dataset", "digits", "--method", "datm", "--out", out, "--quiet").out
    assert said == f"synset: {out / 'synset.safetensors'}   next: ddbench evaluate {out} --protocol soft-v1\n"
    assert f"next: ddbench evaluate {out} --protocol soft-v1" in ddb("info", out).out


def test_distill_says_it(tmp_path: Path, ddb: Callable):
    out = tmp_path / "run"
    said = f"synset: {out / 'synset.safetensors'}   next: ddbench evaluate {out}"
    assert ddb(*random_tiny(out)).out == f"{said}\n"
    assert ddb(*random_tiny(out), "--data", "my data").out == f"{said} --data 'my data'\n"
    frepo = ("distill", "--method", "frepo", "--recipe", "none", "--student", "convnet-d1-w4x2-nn", "--ipc", 1)
    quick = ("--iterations", 1, "--batch-real", 32, "--pool", 2, "--out", tmp_path / "frepo", "--quiet", *EAGER)
    assert ddb(*frepo, *quick).out.endswith(f"next: ddbench evaluate {tmp_path / 'frepo'} --protocol mse-v1\n")


def told_of(ddb: Callable, place: Path) -> dict[str, Any]:
    result = ddb("info", place, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_an_interrupted_evaluation(random_run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Known of the run, of its folder of evaluations and of what was kept."""
    done = sorted(path.stem for path in (random_run / "evaluations").glob("*.json") if ".cost" not in path.name)
    from ddbench.evaluation import tasks

    run_task, count = tasks.run_task, []

    def stop(job: Any, payload: Any) -> Any:
        count.append(payload)
        if len(count) == 2:
            raise KeyboardInterrupt
        return run_task(job, payload)

    monkeypatch.setattr(tasks, "run_task", stop)
    argv = ["evaluate", random_run, "--students", TINY, "--epochs", 2, "--workers", 1, "--quiet", *EAGER]
    assert ddb(*argv).code == 130
    (parts,) = (random_run / "evaluations").glob("*.parts")
    found = told_of(ddb, random_run)
    assert found["settings"]["evaluations that are not finished"] == parts.stem
    assert f"repeat the `ddbench evaluate` command of {parts.stem}: it goes on where it was" in found["next"]
    folder = told_of(ddb, parts.parent)
    assert folder["settings"] == {"evaluations": len(done), "evaluations that are not finished": 1}
    kept = told_of(ddb, parts)
    assert (kept["what"], kept["settings"]["runs done"]) == ("evaluation that is not finished", 1)
    assert kept["settings"]["changed"] == {"epochs": 2, "full_epochs": 2}


def test_exports_are_known(random_run: Path, tmp_path: Path, ddb: Callable):
    whats, nexts = {}, {}
    for name in ("png", "grid", "npz"):
        place = tmp_path / name
        assert ddb("export", random_run, "--format", name, "--out", place).code == 0
        found = told_of(ddb, place)
        whats[name], nexts[name] = found["what"], found["next"]
    assert whats == {name: f"export of form {name}" for name in whats}
    assert nexts["png"] == [f"ddbench import {tmp_path / 'png'} --inspect"]
    assert told_of(ddb, tmp_path / "png")["settings"] == {"classes": 10, "images": 10}
    (command,) = nexts["npz"]
    assert ddb(*shlex.split(command)[1:]).code == 0
    (tmp_path / "hub").mkdir()
    header = {"method": "dm", "dataset": "digits", "budget": {"unit": "ipc", "value": 1}}
    (tmp_path / "hub" / "synset.json").write_text(json.dumps({"kind": "ddbench-hub", "synset": header}))
    found = told_of(ddb, tmp_path / "hub")
    assert (found["what"], found["settings"]["method"]) == ("export of form hub", "dm")


def test_parts_of_a_run_are_known(random_run: Path, ddb: Callable):
    names = {
        "config.json": "settings of a run",
        "cost.json": "what a run took",
        "preview.png": "picture of a run's synset",
    }
    for name, what in names.items():
        found = told_of(ddb, random_run / name)
        assert (found["what"], found["next"]) == (what, [f"ddbench info {random_run}"])
    (cost, *_) = sorted((random_run / "evaluations").glob("*.cost.json"))
    of = cost.with_name(cost.name.replace(".cost", ""))
    found = told_of(ddb, cost)
    assert (found["what"], found["next"]) == (f"what {of.name} took", [f"ddbench info {of}"])


@pytest.mark.parametrize(("epochs", "more"), [(3, " --epochs 3"), (300, "")])
def test_the_next_command_of_stored_labels_says_their_epochs(epochs: int, more: str, random_run: Path, ddb: Callable):
    path = random_run / "labels.safetensors"
    header = {"kind": "ddbench-labels", "schema": 1, "epochs": epochs}
    write_tensors(path, {"x": torch.zeros(1)}, header)
    (command,) = told_of(ddb, path)["next"]
    assert command == f"ddbench evaluate {random_run} --protocol fkd --labels {path}{more}"
