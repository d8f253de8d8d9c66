"""Extra measurements in the evaluator: what they see, what is kept and resumed, how they join the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY, contents
from counting_suite import CountingSuite
from PIL import Image

from ddbench.data.dataset import Split, holdout_split, make_dataset
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.evaluation import probing, tasks
from ddbench.evaluation.kept import Kept
from ddbench.evaluation.tasks import run_probe, run_task
from ddbench.leaderboard.schema import check_result, read_result, result_id
from ddbench.measurements import trained
from ddbench.measurements.calibration import calibration_suite, synset_pixels
from ddbench.measurements.calibration_metrics import fit_temperature
from ddbench.measurements.suite import SUITES, Choice, Finding
from ddbench.networks.build import build_student
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.protocols.training import Settings
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.synset import read_synset


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--corruptions`` is the counting suite of the tests."""
    monkeypatch.setitem(SUITES, "corruptions", "counting_suite:counting")


def command(run: Path, *more: object) -> list[object]:
    return [
        *("evaluate", run, "--students", TINY, "--seeds", 2, "--epochs", 20, "--workers", 1, "--quiet"),
        *(*EAGER, *more),
    ]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def plan_of(run: Path, data: Path, **changes: Any) -> tuple[Plan, Any]:
    dataset = load_dataset("digits", data)
    synset = replace(read_synset(run / "synset.safetensors"), **changes)
    return Plan(
        synset=synset, protocol=PROTOCOLS["hard-v1"], preprocess=fit_preprocess(dataset, "meanstd"), flip=False
    ), dataset


# What they see


def test_a_balanced_cut_takes_the_first_of_each_class():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 0, 1, 2, 2])
    split = Split(torch.arange(10).view(10, 1, 1, 1).to(torch.uint8), labels)
    assert trained.balanced(split, 6, 3).images.flatten().tolist() == [0, 1, 3, 4, 5, 7]
    assert trained.balanced(split, 8, 3).images.flatten().tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    assert trained.balanced(split, 10, 3) is split


def test_held_out_images_are_of_those_the_method_did_not_see(finished_runs: Path, data_root: Path):
    plan, dataset = plan_of(finished_runs / "random", data_root)
    assert plan.synset.config["holdout"] == 0.1
    found, unseen = trained.held_out_images(plan, dataset)
    rest, held = holdout_split(dataset.train, 0.1, 10, dataset.root)
    assert unseen
    assert 100 < len(found) <= len(held)
    kept, seen = ({image.numpy().tobytes() for image in part.images} for part in (held, rest))
    images = {image.numpy().tobytes() for image in found.images}
    assert images <= kept
    assert not images & seen


def test_without_a_holdout_the_synset_is_left_out(finished_runs: Path, data_root: Path):
    plan, dataset = plan_of(finished_runs / "random", data_root, config={"holdout": 0.0})
    found, unseen = trained.held_out_images(plan, dataset)
    assert not unseen
    assert torch.bincount(found.labels).tolist() == [50] * 10
    known = {image.numpy().tobytes() for image in plan.synset.images}
    assert not known & {image.numpy().tobytes() for image in found.images}
    # The same synset as network input: its images are recognised all the same.
    as_input = replace(plan, synset=replace(plan.synset, images=plan.preprocess.apply(plan.synset.images)))
    again, _ = trained.held_out_images(as_input, dataset)
    assert torch.equal(again.images, found.images)
    # Which images they are does not hang on the synset's size, so that rows can be compared.
    other, _ = trained.held_out_images(
        replace(plan, synset=replace(plan.synset, images=plan.synset.images[:3], labels=plan.synset.labels[:3])),
        dataset,
    )
    shared = {i.numpy().tobytes() for i in other.images} & {i.numpy().tobytes() for i in found.images}
    assert len(shared) > 490


@pytest.mark.parametrize("holdout", [0, 0.1])
def test_the_whole_training_set_leaves_none(holdout: float, ddb: Callable, tmp_path: Path, data_root: Path):
    """Whatever --holdout says: method full takes all images."""
    argv = ("distill", "--method", "full", "--dataset", "digits", "--student", TINY, "--holdout", holdout, "--out")
    assert ddb(*argv, tmp_path / "run", *EAGER).code == 0
    plan, dataset = plan_of(tmp_path / "run", data_root)
    found, unseen = trained.held_out_images(plan, dataset)
    assert (len(found), unseen) == (0, False)
    assert "no real images are left" in calibration_suite(Choice(kind="calibration"), plan, dataset).notes[0]
    out = tmp_path / "score.json"
    assert ddb(*command(tmp_path / "run", "--calibration", "--seeds", 1, "--out", out)).code == 0
    names = read(out)["runs"][0]["metrics"]
    assert "temperature" not in names
    assert "ece_scaled_synset" in names
    assert read(out)["measured"]["calibration"]["temperature_split"] == "none"


def test_notes_of_every_suite_are_told_before_the_estimates(capsys: pytest.CaptureFixture[str]):
    suites: Any = [SimpleNamespace(notes=("first", "second")), SimpleNamespace(notes=("third",))]
    estimates: Any = ["an hour"]
    probing.tell(Console(), suites, estimates)
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["first", "second", "third", "an hour"]


def test_images_that_the_teacher_saw_are_not_called_unseen(finished_runs: Path, data_root: Path):
    plan, dataset = plan_of(finished_runs / "random", data_root)
    whole, _ = trained.held_out_images(plan, dataset)
    for changes, expected in (
        ({"teacher": SimpleNamespace(holdout=0.1)}, True),
        ({"teacher": SimpleNamespace(holdout=0.0)}, False),
        ({"stored": SimpleNamespace()}, False),
    ):
        found, unseen = trained.held_out_images(replace(plan, **changes), dataset)
        assert unseen is expected
        assert torch.equal(found.images, whole.images), "which images they are does not depend on it"


@pytest.mark.parametrize("kind", ["meanstd", "zca"])
def test_the_model_takes_pixels_and_is_differentiable(kind: str, finished_runs: Path, data_root: Path, tmp_path: Path):
    plan, dataset = plan_of(finished_runs / "random", data_root)
    plan = replace(plan, preprocess=fit_preprocess(dataset, kind, tmp_path))
    net = build_student("convnet-d1-w4-bn", channels=1, size=8, classes=10, seed=3)
    net(torch.randn(8, 1, 8, 8))  # running statistics of its own
    net.eval()
    trained.write_weights(tmp_path, net, student="convnet-d1-w4-bn", seed=3, accuracy=0.5, identity="x")
    how = Settings(device="cpu", threads=1)
    found = trained.open_student(plan, dataset, tmp_path, "convnet-d1-w4-bn", 3, how, 40)
    assert len(found.test) == 40
    pixels = (found.test.images.float() / 255).requires_grad_()
    with torch.no_grad():
        expected = net(plan.preprocess.apply(found.test.images))
    logits = found.model(pixels)
    torch.testing.assert_close(logits.detach(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.logits(found.test.images), expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(logits.sum(), pixels)
    assert bool((gradient.abs().sum((1, 2, 3)) > 0).all())
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert not found.model.training
    inverted, labels = synset_pixels(found)
    torch.testing.assert_close(inverted, plan.synset.images.float() / 255, rtol=0, atol=2e-3)
    assert torch.equal(labels, plan.synset.labels)


def test_a_protocol_that_tests_enlarged_images_has_them_measured(finished_runs: Path, data_root: Path, tmp_path: Path):
    """Test images and those for the temperature, class-balanced and then cut: 14 pixels are 16 wide for a moment."""
    plan, dataset = plan_of(finished_runs / "random", data_root)
    splits = [
        Split(part.images.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :14, :14], part.labels)
        for part in (dataset.train, dataset.test)
    ]
    dataset = make_dataset(replace(dataset.spec, size=14), *splits)
    synset = replace(plan.synset, images=dataset.train.images[:10])
    net = build_student(TINY, channels=1, size=14, classes=10, seed=0)
    trained.write_weights(tmp_path, net, student=TINY, seed=0, accuracy=0.5, identity="x")
    found = {}
    for zoom in (False, True):
        plan = replace(plan, synset=synset, protocol=replace(plan.protocol, test_zoom=zoom))
        found[zoom] = trained.open_student(plan, dataset, tmp_path, TINY, 0, Settings(device="cpu", threads=1), 40)
    for part, cut in ((found[False].test, found[True].test), (found[False].held_out, found[True].held_out)):
        wide = F.interpolate(part.images.float(), size=(16, 16), mode="bilinear", antialias=True)
        assert torch.equal(cut.images, wide[:, :, 1:15, 1:15].round().clamp(0, 255).to(torch.uint8))
        assert not torch.equal(cut.images, part.images)
        assert torch.equal(cut.labels, part.labels)
    assert torch.equal(found[False].test.images, trained.balanced(dataset.test, 40, 10).images)


def test_weights_of_another_student_are_trained_again(tmp_path: Path):
    net = build_student(TINY, channels=1, size=8, classes=10, seed=0)
    trained.write_weights(tmp_path, net, student=TINY, seed=0, accuracy=0.5, identity="x")
    assert trained.has_weights(tmp_path, TINY, 0, 0.5, "x")
    for other in ((TINY, 1, 0.5, "x"), (TINY, 0, 0.6, "x"), (TINY, 0, 0.5, "y")):
        assert not trained.has_weights(tmp_path, *other)
    path = trained.weights_path(tmp_path, TINY, 0)
    path.write_bytes(path.read_bytes()[:-9])
    assert not trained.has_weights(tmp_path, TINY, 0, 0.5, "x")


# In the evaluation


def test_calibration_joins_the_evaluation(ddb: Callable, random_run: Path, tmp_path: Path):
    """In one go, or added to an evaluation that is there: the same bytes."""
    out, later = tmp_path / "a" / "score.json", tmp_path / "b" / "score.json"
    assert ddb(*command(random_run, "--calibration", "--out", out)).code == 0
    result = ddb(*command(random_run, "--out", later))
    assert result.code == 0
    before = read(later)
    result = ddb(*command(random_run, "--calibration", "--out", later))
    assert result.code == 0, result.err
    assert "ECE, 15 bins" in result.out
    assert contents(tmp_path / "a", "cost.json") == contents(tmp_path / "b", "cost.json")
    names = {f"score.reliability/{TINY}.{kind}" for kind in ("csv", "svg", "png")}
    assert set(contents(tmp_path / "a")) == {"score.json", "score.cost.json", *names}
    data = read(later)
    assert [run["metrics"]["accuracy"] for run in data["runs"]] == [
        run["metrics"]["accuracy"] for run in before["runs"]
    ]
    for name in ("ece", "nll", "brier", "overconfidence", "temperature", "ece_scaled", "nll_scaled_masked"):
        assert name in data["metrics"]
        assert data["summary"][TINY][name]["n"] == 2
    details = data["details"][TINY]
    assert sum(row[0] for row in details["reliability"]) == 2 * 500, "the whole test set, for each seed"
    mean = sum(n * (accuracy or 0) for n, _, accuracy in details["reliability"]) / 1000
    assert mean == pytest.approx(data["summary"][TINY]["accuracy"]["mean"])
    assert set(details["temperature_degenerate"]) == {"held_out", "synset", "masked"}
    assert [entry["ratio"] for entry in details["calibration"]["mask_curve"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert data["measured"]["calibration"]["n_test"] == 500
    costs = read(out.with_suffix(".cost.json"))["runs"]
    assert [cost.get("probe") for cost in costs] == [None, "calibration", None, "calibration"]
    # finished: nothing is done again, and a diagram that was lost comes back
    shutil.rmtree(tmp_path / "a" / "score.reliability")
    assert ddb(*command(random_run, "--calibration", "--out", out)).code == 0
    assert contents(tmp_path / "a", "cost.json") == contents(tmp_path / "b", "cost.json")


def test_temperature_of_the_run_is_that_of_its_held_out_images(
    ddb: Callable, random_run: Path, tmp_path: Path, data_root: Path
):
    """Written out by hand for one seed, from training to the fit."""
    out = tmp_path / "score.json"
    assert ddb(*command(random_run, "--calibration", "--seeds", 1, "--out", out)).code == 0
    plan, dataset = plan_of(random_run, data_root)
    from ddbench.protocols.protocol import changed
    from ddbench.protocols.training import trained_students

    short, _ = changed(PROTOCOLS["hard-v1"], epochs=20, full_epochs=20)
    (net,), _ = trained_students(replace(plan, protocol=short), TINY, [0], Settings(device="cpu", threads=1), tests=500)
    held, _ = trained.held_out_images(plan, dataset)
    with torch.no_grad():
        outputs = net.eval()(plan.preprocess.apply(held.images)).double().numpy()
    metrics = read(out)["runs"][0]["metrics"]
    assert metrics["temperature"] == pytest.approx(fit_temperature(outputs, held.labels.numpy()).value, rel=1e-4)


def test_more_seeds_are_pooled_with_those_there(ddb: Callable, random_run: Path, tmp_path: Path):
    out, whole = tmp_path / "score.json", tmp_path / "whole.json"
    assert ddb(*command(random_run, "--calibration", "--out", out)).code == 0
    assert ddb(*command(random_run, "--seeds", 4, "--out", out)).code == 0
    partly = read(out)["summary"][TINY]
    assert (partly["accuracy"]["n"], partly["ece"]["n"]) == (4, 2)
    assert ddb(*command(random_run, "--calibration", "--seeds", 4, "--out", out)).code == 0
    assert ddb(*command(random_run, "--calibration", "--seeds", 4, "--out", whole)).code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_bits_are_combined_and_the_accuracy_stays_standard(
    ddb: Callable, random_run: Path, tmp_path: Path, counting: None
):
    """--max-images bounds the extra measurement only."""
    out = tmp_path / "score.json"
    argv = [part for part in command(random_run, "--out", out) if part not in ("--epochs", 20)]
    assert ddb(*argv, "--corruptions", "--max-images", 50, "--epochs", 20).code == 0
    data = read(out)
    assert "max_images" not in data["protocol"]["changed"]
    assert data["measured"]["corruptions"] == {"images": 50, "shifts": [0.0, 0.2]}
    for run, clean, found in zip(
        data["runs"], data["details"][TINY]["corruptions"]["clean"], data["findings"], strict=True
    ):
        assert (run["metrics"]["accuracy"] * 500) % 1 == pytest.approx(0, abs=1e-6)
        assert run["metrics"]["worst"] <= clean
        assert found["details"]["n"] == 50
    drawn = [found["details"]["drawn"] for found in data["findings"]]
    assert len(set(drawn)) == 2, "the global generator is named by the seed"
    assert not list(tmp_path.glob("score.parts*"))
    assert not list(tmp_path.glob("score.weights*"))


def test_other_settings_are_not_mixed(
    ddb: Callable, random_run: Path, tmp_path: Path, counting: None, refused: Callable
):
    out = tmp_path / "score.json"
    assert ddb(*command(random_run, "--out", out, "--corruptions", "--max-images", 50)).code == 0
    argv = command(random_run, "--out", out, "--corruptions", "--max-images", 60)
    refused(argv, "corruptions measured with other settings", "images differs: 50 there, 60 now", "--out")


def test_a_killed_try_with_other_settings_is_dropped(ddb: Callable, random_run: Path, tmp_path: Path, counting: None):
    """Of a finished evaluation, and of one that is not finished; the bytes are as if it had never been tried."""
    done, whole = tmp_path / "k" / "score.json", tmp_path / "w" / "score.json"

    def stop(job: Any, task: Any) -> Any:
        if task.probe.name == "lighter":
            raise KeyboardInterrupt
        return run_probe(job, task)

    for first in (True, False):
        shutil.rmtree(tmp_path / "k", ignore_errors=True)
        if first:
            assert ddb(*command(random_run, "--out", done)).code == 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "run_probe", stop)
            assert ddb(*command(random_run, "--out", done, "--corruptions", "--max-images", 30)).code == 130
        assert any('"none"' in path.read_text() for path in (tmp_path / "k" / "score.parts").glob("probe-*.part"))
        assert ddb(*command(random_run, "--out", done, "--corruptions", "--max-images", 50)).code == 0
        assert read(done)["measured"]["corruptions"]["images"] == 50
        assert ddb(*command(random_run, "--out", whole, "--corruptions", "--max-images", 50)).code == 0
        assert done.read_bytes() == whole.read_bytes()


def test_a_kind_of_some_students_only(ddb: Callable, random_run: Path, tmp_path: Path):
    """Students of one evaluation may be measured in different ways; it can be submitted and verified."""
    short = tmp_path / "quick.toml"
    short.write_text('name = "quick-2"\nbase = "hard-v1"\nepochs = 4\nfull_epochs = 1\nlr = 0.02\n')
    base = ("evaluate", random_run, "--protocol", short, "--seeds", 2, "--workers", 1, "--quiet", *EAGER)
    assert ddb(*base, "--students", TINY, "--robustness", "--max-images", 30).code == 0
    result = ddb(*base, "--students", "mlp-d1-w4", "--calibration")
    assert result.code == 0, result.err
    data = read(random_run / "evaluations" / "quick-2.json")
    assert "reliability" in data["details"]["mlp-d1-w4"]
    assert "reliability" not in data["details"][TINY]
    board = tmp_path / "board"
    assert ddb("submit", random_run, "--protocol", "quick-2", "--leaderboard", board).code == 0
    verify = ("leaderboard", "verify", "--measured", "--leaderboard", board, "--work", tmp_path / "work", "--quiet")
    assert "identical" in ddb(*verify, "--compile", "off").out


def test_killed_between_probes(ddb: Callable, random_run: Path, tmp_path: Path, counting: None):
    """Trainings and probes that are done are not repeated, and the bytes are those of an uninterrupted evaluation."""
    out, whole = tmp_path / "k" / "score.json", tmp_path / "w" / "score.json"
    argv = command(random_run, "--corruptions", "--calibration", "--out", out)
    done: list[str] = []

    def until(count: int) -> None:
        def training(job: Any, task: Any) -> Any:
            stop(f"train {task.seeds}")
            return run_task(job, task)

        def probe(job: Any, task: Any) -> Any:
            stop(f"{task.seed} {task.probe.name}")
            return run_probe(job, task)

        def stop(what: str) -> None:
            if len(done) == count:
                raise KeyboardInterrupt
            done.append(what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "run_task", training)
            patch.setattr(tasks, "run_probe", probe)
            assert ddb(*argv).code in (0, 130)

    until(4)
    assert not out.exists()
    assert len(list((tmp_path / "k" / "score.weights").iterdir())) == 2
    until(6)
    until(100)
    assert done == [
        *("train (0,)", "train (1,)"),
        *("0 calibration", "0 none", "0 lighter", "1 calibration", "1 none", "1 lighter"),
    ]
    assert ddb(*command(random_run, "--corruptions", "--calibration", "--out", whole)).code == 0
    assert contents(tmp_path / "k", "cost.json") == contents(tmp_path / "w", "cost.json")


def test_lost_weights_are_trained_again(ddb: Callable, random_run: Path, tmp_path: Path, counting: None):
    """Students that were removed after a kill are trained again; a record that is not whole is measured again."""
    out, whole = tmp_path / "k" / "score.json", tmp_path / "w" / "score.json"
    argv = command(random_run, "--corruptions", "--out", out)

    def stop(job: Any, task: Any) -> Any:
        if (task.seed, task.probe.name) == (1, "lighter"):
            raise KeyboardInterrupt
        return run_probe(job, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "run_probe", stop)
        assert ddb(*argv).code == 130
    shutil.rmtree(tmp_path / "k" / "score.weights")
    damaged = next((tmp_path / "k" / "score.parts").glob("probe-*.part"))
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert ddb(*argv).code == 0
    assert ddb(*command(random_run, "--corruptions", "--out", whole)).code == 0
    assert contents(tmp_path / "k", "cost.json") == contents(tmp_path / "w", "cost.json")


def test_another_accuracy_is_told(ddb: Callable, random_run: Path, tmp_path: Path, refused: Callable):
    """An evaluation whose student comes out otherwise here is not extended."""
    out = tmp_path / "score.json"
    assert ddb(*command(random_run, "--out", out)).code == 0
    data = read(out)
    data["runs"][0]["metrics"]["accuracy"] += 0.002
    out.write_text(json.dumps(data))
    result = ddb(*command(random_run, "--calibration", "--out", out))
    assert result.code == 2
    assert "trained again its accuracy is" in result.err
    assert len(result.err.splitlines()) == 1
    assert read(out) == data


def test_seeds_at_once_are_trained_in_whole_blocks(ddb: Callable, random_run: Path, tmp_path: Path):
    """More seeds, and a measurement, of an evaluation that stopped in the middle of a block: as all in one go."""
    out, whole = tmp_path / "score.json", tmp_path / "whole.json"
    more = ("--at-once", 4, "--calibration")
    assert ddb(*command(random_run, "--at-once", 4, "--seeds", 1, "--out", out)).code == 0
    assert ddb(*command(random_run, "--at-once", 4, "--seeds", 5, "--out", out)).code == 0
    assert [run["seed"] for run in read(out)["runs"]] == [0, 1, 2, 3, 4]
    assert ddb(*command(random_run, *more, "--seeds", 6, "--out", out)).code == 0
    assert ddb(*command(random_run, *more, "--seeds", 6, "--out", whole)).code == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    "more", [("--at-once", 2), ("--precision", "bfloat16"), ("--students", "convnet-d1-w4-bn,mlp-d1-w8")]
)
def test_other_ways_to_train(more: tuple[object, ...], ddb: Callable, random_run: Path, tmp_path: Path):
    out = tmp_path / "score.json"
    assert ddb(*command(random_run, "--calibration", *more, "--out", out)).code == 0
    data = read(out)
    for run in data["runs"]:
        right = [row for row in data["findings"] if (row["student"], row["seed"]) == (run["student"], run["seed"])]
        assert right[0]["details"]["others"]["accuracy"] == pytest.approx(run["metrics"]["accuracy"], abs=0.0021)
        assert 0 <= run["metrics"]["ece"] <= 1


def test_teacher_labels(ddb: Callable, random_run: Path, tmp_path: Path):
    """Protocols whose labels come from a teacher: what the student knows is measured all the same."""
    student = "convnet-d1-w4-bn"
    argv = ("teacher", "--student", student, "--epochs", 2, "--teachers", tmp_path / "teachers", "--quiet", *EAGER)
    assert ddb(*argv).code == 0
    out = tmp_path / "score.json"
    more = ("--protocol", "kd-v1", "--teachers", tmp_path / "teachers", "--epochs", 3, "--calibration")
    result = ddb(*command(random_run, *more, "--out", out))
    assert result.code == 0, result.err
    assert read(out)["summary"][TINY]["ece"]["n"] == 2


def test_colour_images_and_two_classes(ddb: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    randomness = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        folder = tmp_path / "mine" / name
        folder.mkdir(parents=True)
        for number in range(8):
            picture = randomness.integers(80 * label, 80 * label + 160, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{number}.png")
    argv = ("distill", "--method", "random", "--dataset", "folder:mine", "--size", 8, "--ipc", 2, "--student", TINY)
    assert ddb(*argv, "--out", "run", "--data", tmp_path / "data", *EAGER).code == 0
    result = ddb(*command(Path("run"), "--calibration", "--data", tmp_path / "data"))
    assert result.code == 0, result.err
    (place,) = [path for path in Path("run/evaluations").glob("*.json") if "cost" not in path.name]
    assert read(place)["measured"]["calibration"]["temperature_images"] >= 2


@pytest.mark.slow
def test_workers_give_the_same(ddb: Callable, random_run: Path, tmp_path: Path):
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert ddb(*command(random_run, "--calibration", "--out", one)).code == 0
    assert ddb(*command(random_run, "--calibration", "--out", two), "--workers", 2).code == 0
    assert one.read_bytes() == two.read_bytes()


def test_estimate_is_shown_beforehand(ddb: Callable, random_run: Path, tmp_path: Path):
    argv = [part for part in command(random_run, "--calibration", "--out", tmp_path / "s.json") if part != "--quiet"]
    lines = ddb(*argv).err.splitlines()
    told = next(n for n, line in enumerate(lines) if line.startswith("calibration: 1 probe(s) x 2 run(s) on 500"))
    assert "minute" in lines[told]
    assert any(line.startswith("measure calibration: 2/2") for line in lines[told:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "full", "images": 100, "eps": 2}, "budget differs: 'full' there, 'quick' now"),
        ({"images": 300, "eps": 2}, "images differs: 300 there, 200 now"),
        ({"eps": 2}, "eps differs: 2 there, 1 now"),
        ({"eps": 0, "steps": 5}, "eps differs: 0 there, 1 now"),
        ({"steps": 5}, "steps differs: 5 there, None now"),
    ],
)
def test_first_setting_that_differs_is_named(changes: dict[str, Any], message: str, tmp_path: Path):
    """The budget and the images before all others, which come by name; settings that are equal never."""
    wanted = {"budget": "quick", "eps": 1, "images": 200}
    suites = [SimpleNamespace(kind="corruptions", settings=wanted)]
    out = tmp_path / "score.json"
    kept = Kept(measured={"corruptions": {**wanted, **changes}}, findings={(TINY, 0, "corruptions"): {}})
    with pytest.raises(UserError, match=f"holds corruptions measured with other settings \\({message}\\)"):
        probing.check_measured(out, kept, suites)
    probing.check_measured(out, Kept(measured={"corruptions": wanted}, findings=kept.findings), suites)
    killed = Kept(measured={"corruptions": {**wanted, **changes}})
    probing.check_measured(out, killed, suites)
    assert killed.measured == {"corruptions": wanted}, "nothing of it is in the finished file: begun again"


@pytest.mark.parametrize(("workers", "minutes"), [(1, 6.0), (2, 3.0), (4, 1.5), (9, 1.5)])
def test_estimate_counts_passes(
    workers: int, minutes: float, random_run: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
):
    """2 probes of 2 seeds, 9,000 passes each at 10 ms an image: the quickest of three trials of 64 images."""
    plan, _ = plan_of(random_run, data_root)
    ends = iter([0.0, 2.0, 10.0, 10.64, 20.0, 21.0])
    monkeypatch.setattr(probing, "time", SimpleNamespace(perf_counter=lambda: next(ends)))
    suites = (CountingSuite(images=9000), CountingSuite(images=1))
    runs = [("corruptions", name, TINY) for name in ("none", "lighter")] * 2
    first, _ = probing.estimates(suites, runs, plan, Settings(device="cpu", threads=1), workers)
    assert (first.kind, first.probes, first.runs, first.images) == ("corruptions", 2, 2, 9000)
    assert first.minutes == pytest.approx(minutes)
    assert probing.estimates(suites, [], plan, Settings(device="cpu", threads=1), workers) == []


def test_estimate_in_words():
    told = [str(probing.Estimate(kind="x", probes=1, runs=2, images=1000, minutes=m)) for m in (0.9, 1.0, 12.6)]
    assert [line.partition("1,000 test images, ")[2] for line in told] == [
        "less than a minute",
        "about 1 min",
        "about 13 min",
    ]


# Mistakes


def test_mistakes_are_told(random_run: Path, refused: Callable):
    refused(command(random_run, "--robustness=fulll"), "unknown budget 'fulll'", "did you mean 'full'")
    refused(command(random_run, "--corruptions", "--max-images", 0), "--max-images 0", "at least 1")
    refused(command(random_run, "--mixup", 1, "--augmentation", "cutmix"), "--mixup 1", "mixes images already")
    refused(command(random_run, "--label-smoothing", 0.1, "--focal-gamma", 3), "choose one")
    refused(command(random_run, "--label-smoothing", 1.5), "--label-smoothing 1.5", "0 to 1")
    refused(command(random_run, "--focal-gamma", 3, "--mixup", 1), "focal loss is n/a", "mixed labels")


def test_malformed_findings_are_refused():
    good = Finding(metrics={"a": 1.0}, details={"b": [1]}, bits={"c": np.array([True, False, True] * 5)}).to_json()
    again = Finding.from_json(json.loads(json.dumps(good)))
    assert again.bits["c"].tolist() == [True, False, True] * 5
    assert (again.metrics, again.details) == ({"a": 1.0}, {"b": [1]})
    for name, value in (
        ("metrics", {"a": float("nan")}),
        ("metrics", {"a": "x"}),
        ("details", []),
        ("bits", {"c": {"n": 99, "packed": "AAAA"}}),
        ("bits", {"c": {"n": 3, "packed": "###"}}),
    ):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Finding.from_json({**good, name: value})


# On the board


def test_measured_columns_are_not_lost_to_a_row_without(
    ddb: Callable, random_run: Path, tmp_path: Path, refused: Callable
):
    submit = ("submit", random_run, "--leaderboard", tmp_path / "board")
    shutil.rmtree(random_run / "evaluations")
    assert ddb(*command(random_run, "--calibration")).code == 0
    assert ddb(*submit).code == 0
    shutil.rmtree(random_run / "evaluations")
    assert ddb(*command(random_run, "--seeds", 4)).code == 0
    refused(list(submit), "has calibration, this evaluation has not", "evaluate with --calibration")
    assert ddb(*command(random_run, "--seeds", 4, "--calibration")).code == 0
    assert ddb(*submit).code == 0


def test_costs_of_a_row_are_one_entry_a_run(ddb: Callable, random_run: Path, tmp_path: Path):
    """However many probes there were: the totals stay, and a row has room."""
    shutil.rmtree(random_run / "evaluations")
    assert ddb(*command(random_run, "--robustness", "--calibration", "--max-images", 20)).code == 0
    (file,) = (random_run / "evaluations").glob("*.cost.json")
    recorded = read(file)
    assert len(recorded["runs"]) > 20
    assert ddb("submit", random_run, "--leaderboard", tmp_path / "board").code == 0
    (path,) = (tmp_path / "board" / "results").rglob("*.json")
    cost = read_result(path).cost.evaluate.to_json()
    assert {(entry["student"], entry["seed"]) for entry in cost["runs"]} == {(TINY, 0), (TINY, 1)}
    assert len(cost["runs"]) == 2
    assert sum(entry["cpu_seconds"] for entry in cost["runs"]) == pytest.approx(recorded["cpu_seconds"], abs=0.05)
    assert max(entry["peak_memory_bytes"] for entry in cost["runs"]) == recorded["peak_memory_bytes"]
    assert cost["cpu_seconds"] == recorded["cpu_seconds"]
    recorded["runs"][0]["cpu_seconds"] = "much"
    file.write_text(json.dumps(recorded))
    result = ddb("submit", random_run, "--leaderboard", tmp_path / "other")
    assert result.code == 2
    assert "is malformed; evaluate again" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        (["--robustness", "ful"], ["did you mean 'full'"]),
        (["--robustness"], ["no such"]),
        (["--robustness", "full"], ["no such"]),
    ],
)
def test_a_misspelt_budget_is_told(tail: list[str], words: list[str], refused: Callable):
    refused(["evaluate", "runs/nowhere", *tail], *words)
    refused(["evaluate", *tail, "runs/nowhere"], *words)


def test_a_row_carries_it(ddb: Callable, random_run: Path, tmp_path: Path):
    shutil.rmtree(random_run / "evaluations")
    assert ddb(*command(random_run, "--calibration")).code == 0
    result = ddb("submit", random_run, "--leaderboard", tmp_path / "board")
    assert result.code == 0, result.err
    (path,) = (tmp_path / "board" / "results").rglob("*.json")
    row = read_result(path).to_json()
    assert row["measured"]["calibration"]["n_bins"] == 15
    assert len(row["details"][TINY]["reliability"]) == 15
    assert row["summary"][TINY]["ece_scaled"]["n"] == 2
    assert "findings" not in row
    from ddbench.runtime.errors import UserError

    def broken(change: Callable[[Any], None]) -> str:
        copy = json.loads(json.dumps(row))
        change(copy)
        copy["id"] = result_id(copy)
        with pytest.raises(UserError) as caught:
            check_result(copy, "row")
        return str(caught.value)

    assert "details" in broken(lambda r: r["details"][TINY]["reliability"].append([1, 2, 3]))
    assert "which was not evaluated" in broken(lambda r: r["details"].update({"mlp-d9-w9": {}}))
    assert "bytes" in broken(lambda r: r["measured"]["calibration"].update({"x": "y" * 70_000}))
    assert "details" in broken(lambda r: r["details"][TINY].update({"more": 1}))
