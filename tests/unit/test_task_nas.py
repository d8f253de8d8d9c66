"""Architecture search: the grid, the shared rankings, the same steps for all, held-out images only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import EAGER, random_tiny
from made_students import accuracy_of, student_of
from made_synsets import KINDS

from ddbench.data.dataset import holdout_split
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.networks.names import parse_student
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.runtime import device as devices
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset, read_synset, write_synset
from ddbench.tasks import measures, nas, runner, search
from ddbench.tasks.record import read_result
from ddbench.tasks.search import fitting, grid, read_rankings, write_rankings

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = (
    *("--nets", 4, "--widest", 32, "--real-epochs", 2, "--epochs", 6, "--seeds", 1, "--against", "random"),
    *("--workers", 1, "--quiet", *EAGER),
)


@pytest.fixture
def run(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run ``a`` of one random image a class; it is the working directory."""
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--seed", 1)).code == 0
    return tmp_path


def test_grid():
    names = grid()
    assert len(set(names)) == 720
    assert all(str(parse_student(name)) == name for name in names)
    assert len(grid(64)) == 360
    assert fitting(names, 3, 32) == names
    small = fitting(names, 1, 8)
    assert len(small) == 720 - 4 * 5 * 3 * 2  # depth 4 with either pooling
    assert "convnet-d4-w32-in-leaky-none" in small


def test_steps_of_stages_are_counted_together(data_root: Path):
    """Of two stages of one image a class: a pass over the first, then one over both."""
    synset = KINDS["soft labels and stages"]
    assert synset.stage is not None
    stages = int(synset.stage.max()) + 1
    protocol = replace(PROTOCOLS["pdd"], epochs=2 * stages, full_epochs=2 * stages, batch=1)
    plan = Plan(
        synset=synset,
        protocol=protocol,
        preprocess=fit_preprocess(load_dataset("digits", data_root), "meanstd"),
        flip=False,
    )
    seen = [int((synset.stage <= stage).sum()) for stage in range(stages)]
    assert nas.steps_of(plan) == 2 * sum(seen)
    assert nas.steps_of(replace(plan, protocol=replace(protocol, sequential=False))) == 2 * stages * seen[-1]


def test_what_another_task_writes_at_the_same_time_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, ready = tmp_path / "rankings" / "x.json", threading.Event()

    def record(net: str) -> dict[str, Any]:
        return {f"real {net} seed 0": {"run": "real", "net": net, "seed": 0, "steps": 1, "held_out": 0.5, "test": 0.5}}

    other = threading.Thread(target=lambda: (ready.wait(), write_rankings(path, {}, record("other"))))
    write = search.write_json

    def late(*given: Any) -> None:
        ready.set()
        if threading.current_thread() is not other:
            other.join(0.3)  # it has had the time to write, if it may
        write(*given)

    monkeypatch.setattr(search, "write_json", late)
    other.start()
    write_rankings(path, {}, record("own"))
    other.join()
    assert read_rankings(path, {}).keys() == {"real own seed 0", "real other seed 0"}


def test_whole(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Held-out scores for proxies, test scores for the real ranking only, which a second task finds in its file."""
    monkeypatch.setattr(measures, "DRAWS", 10)
    done = ddb("task", "nas", "a", *SMALL, "--out", "x.json")
    assert (done.code, done.err) == (0, "")
    found = read_result(run / "x.json")
    nets = found["head"]["decides"]["nets"]
    assert set(found["results"]["nets"]) == set(nets)
    label = found["head"]["runs"][0]["label"]
    assert [row["run"] for row in found["results"]["rows"]] == [label, "early stopping", "random"]
    for record in found["units"].values():
        if "net" in record:
            assert ("test" in record) == (record["run"] == "real")
            # Five steps are a pass over the real images: one pass is what early stopping may take of the six steps.
            assert record["steps"] == {"real": 10, "early stopping": 5}.get(record["run"], 6)
    assert len(found["results"]["differences"]) == 2
    for row in found["results"]["rows"]:
        score = {one["net"]: one["held_out"] for one in found["units"].values() if one.get("run") == row["run"]}
        assert row["chosen"] == [net for net in nets if score[net] == max(score.values())]
    as_by_hand(found["units"], label, nets[0], read_synset(run / "a" / "synset.safetensors"))
    (rankings,) = (run / "rankings").iterdir()
    head = json.loads(rankings.read_text())["head"]
    assert len(read_rankings(rankings, head)) == 4

    seen, work = [], runner.work

    def watched(job: Any, unit: Any) -> Any:
        seen.append(unit.name)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return work(job, unit)

    monkeypatch.setattr(runner, "work", watched)
    for _ in range(2):
        ddb("task", "nas", "a", *SMALL, "--out", "y.json")
    assert not [name for name in seen if name.startswith("real")]
    assert (run / "y.json").read_bytes() == (run / "x.json").read_bytes()

    told = ("task", "nas", "a", *SMALL, "--out", "z.json", "--status")
    assert "z.json: 4 done" in ddb(*told).out
    with monkeypatch.context() as patch:  # a ranking of a GPU is another one
        patch.setattr(devices, "recorded_kind", lambda name: {"device": "cuda"})
        assert "z.json: 0 done" in ddb(*told).out

    whole = json.loads(rankings.read_text())
    unit = next(iter(whole["units"]))
    for change in (
        *({"net": "convnet-d1-w64-in"}, {"seed": 9}, {"seed": True}, {"run": "early stopping"}, {"steps": 0}),
        *({"test": 7.5}, {"held_out": True}, {"test": None}),
    ):
        record = {**whole["units"][unit], **change}
        rankings.write_text(json.dumps({**whole, "units": {**whole["units"], unit: record}}))
        with pytest.raises(UserError, match="malformed; remove the file"):
            read_rankings(rankings, head)
    rankings.write_text(json.dumps(whole))
    with pytest.raises(UserError, match="of another training"):
        read_rankings(rankings, {**head, "holdout": 0.5})
    rankings.write_text("[]")
    with pytest.raises(UserError, match="not a file of rankings"):
        read_rankings(rankings, head)


def as_by_hand(units: dict[str, Any], label: str, net: str, synset: Synset) -> None:
    """Scores of a network that is trained here: on the synset, and on real images less those held out to choose by."""
    digits = load_dataset("digits")
    rest, held_out = holdout_split(digits.train, 0.1, 10)
    real = replace(synset, images=rest.images, labels=rest.labels, budget=Budget("all", len(rest)))
    for run, learned, epochs in ((label, synset, 6), ("early stopping", real, 1), ("real", real, 2)):
        student, record = student_of(learned, net, epochs), units[f"{run} {net} seed 0"]
        assert record["held_out"] == pytest.approx(accuracy_of(student, held_out))
        assert run != "real" or record["test"] == pytest.approx(accuracy_of(student, digits.test))


def test_what_the_scores_say(monkeypatch: pytest.MonkeyPatch):
    """One proxy ranks as the real test images do, one in reverse, as the real trainings' held-out scores do: those play
    no part."""
    monkeypatch.setattr(measures, "DRAWS", 10)
    nets, test = ["a", "b", "c", "d"], [0.1, 0.4, 0.2, 0.3]
    scores = {"ours": [0.5, 0.9, 0.6, 0.7], "random": [0.9, 0.2, 0.8, 0.7], "real": [0.9, 0.6, 0.8, 0.7]}
    records = {
        f"{run} {net}": {"run": run, "net": net, "seed": 0, "steps": 7, "held_out": score}
        for run, own in scores.items()
        for net, score in zip(nets, own, strict=True)
    }
    for net, score in zip(nets, test, strict=True):
        records[f"real {net}"]["test"] = score
    head = {"runs": [{"label": "ours", "method": "dm"}], "decides": {"nets": nets}}
    found = nas.Nas.results(head, records)
    assert found["nets"] == dict(zip(nets, test, strict=True))
    ours, random = found["rows"]
    assert (ours["chosen"], random["chosen"]) == (["b"], ["a"])
    values = [{name: one["value"] for name, one in row["metrics"].items()} for row in (ours, random)]
    assert values[0] == pytest.approx({"spearman": 1, "kendall": 1, "spearman_top3": 1, "regret": 0})
    assert values[1] == pytest.approx({"spearman": -1, "kendall": -1, "spearman_top3": -1, "regret": 0.3})
    (difference,) = found["differences"]
    assert (difference["run"], difference["metrics"]["regret"]["value"]) == ("ours", pytest.approx(-0.3))


def test_early_stopping_has_the_steps_of_the_first_run(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Also in a file that another run, of fewer steps, was the first of (its images decode to fewer, say)."""
    monkeypatch.setattr(measures, "DRAWS", 10)
    assert ddb(*random_tiny(run / "b", "--seed", 2)).code == 0
    steps = nas.steps_of
    monkeypatch.setattr(nas, "steps_of", lambda plan: steps(plan) * (3 if plan.synset.seed == 2 else 1))
    for runs, out in ((("a",), "x.json"), (("b", "a"), "x.json"), (("b", "a"), "y.json")):
        assert ddb("task", "nas", *runs, *SMALL, "--out", out).code == 0
        units = read_result(run / out)["units"].values()
        of = {one["steps"] for one in units if one.get("run") == "early stopping"}
        assert of == ({15} if len(runs) == 2 else {5})
    assert (run / "x.json").read_bytes() == (run / "y.json").read_bytes()


def test_real_images_are_seen_as_the_first_run_sees_them(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Also in a file that a run of another mean and std was the first of, and for the seeds that are added."""
    monkeypatch.setattr(measures, "DRAWS", 10)
    assert ddb(*random_tiny(run / "b", "--seed", 2)).code == 0
    path = run / "b" / "synset.safetensors"
    write_synset(path, replace(read_synset(path), preprocess={"kind": "meanstd", "mean": [0.4], "std": [0.1]}))
    for runs, seeds, out in ((("a",), 1, "x.json"), (("b", "a"), 2, "x.json"), (("b", "a"), 2, "y.json")):
        done = ddb("task", "nas", *runs, *SMALL, "--seeds", seeds, "--out", out)
        assert done.code == 0, done.err
    assert (run / "x.json").read_bytes() == (run / "y.json").read_bytes()
    first = read_result(run / "x.json")["units"]
    assert {one.get("run") for one in first.values() if "preprocess" in one} == {"real", "early stopping"}


def test_choice_from_few_images(run: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """So many held-out images of each class, or all; the rankings are files of their own."""
    monkeypatch.setattr(measures, "DRAWS", 10)
    counts: set[tuple[str, int]] = set()
    tested = nas.tested_students

    def watched(plan: Any, split: Any, *more: Any) -> Any:
        counts.add((plan.synset.method, len(split.labels)))
        return tested(plan, split, *more)

    monkeypatch.setattr(nas, "tested_students", watched)
    seen = {}
    for count in (0, 1):
        assert ddb("task", "nas", "a", *SMALL, "--choose-from", count, "--out", f"{count}.json").code == 0
        seen[count], counts = counts, set()
    held_out, few = ({size for method, size in seen[count] if method == "random"} for count in (0, 1))
    assert few == {10}  # one of each class
    assert min(held_out) > 100
    assert len(list((run / "rankings").iterdir())) == 2


def test_refused(run: Path, ddb: Callable, refused: Callable):
    argv = ("task", "nas")
    runs = {"none": ("--holdout", 0), "other": ("--holdout", 0.2), "two": ("--ipc", 2)}
    for name, more in runs.items():
        assert ddb(*random_tiny(run / name, *more)).code == 0
    more = ("--method", "dm", "--init", "noise", "--iterations", 1, "--ipc", 20, "--holdout", 0.9)
    assert ddb(*random_tiny(run / "many", *more)).code == 0
    refused((*argv, "none", *SMALL), "--holdout 0", "no held-out images to choose by; distil it with")
    assert ddb("export", "a", "--out", "pictures").code == 0
    assert ddb("import", "pictures", "--dataset", "digits", "--out", "theirs").code == 0
    assert "distil" not in refused((*argv, "theirs", *SMALL), "was imported", "to choose by; leave it out")
    refused((*argv, "a", "other", *SMALL), "held out 0.2", "one --holdout")
    refused((*argv, "a", "two", *SMALL), "ipc 2", "one IPC")
    refused((*argv, "a", *SMALL, "--nets", 999), "--nets 999", "the grid has 150")
    refused((*argv, "a", *SMALL, "--nets", 3), "--nets", "at least 4")
    refused((*argv, "a", *SMALL, "--against", "full"), "--against full")
    refused((*argv, "a", *SMALL, "--against", "Random,hrding"), "--against: unknown method 'Random'", "'random'")
    refused((*argv, "two", *SMALL, "--against", "dc"), "dc: --ipc 2: the authors give loops", "out of --against")
    refused((*argv, "many", *SMALL), "--against random", "some class has 12", "ipc 20", "leave it out of --against")
    refused((*argv, "a", *SMALL, "--choose-from", 20), "--choose-from 20", "no class has more than 13", "leave it out")
    refused((*argv, "a", *SMALL, "--nets", 100, "--seeds", 10_000), "--seeds times --nets 1000000", "at most 100,000")
