"""Membership: a set that is the members is found out, images that no set has seen are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EAGER, TINY, random_tiny
from scipy import stats
from sklearn.metrics import roc_auc_score

from ddbench.data.dataset import Dataset, Split, make_dataset
from ddbench.data.load import load_dataset
from ddbench.data.preprocess import fit_preprocess
from ddbench.data.specs import DATASETS, DatasetSpec
from ddbench.protocols.plan import Plan
from ddbench.protocols.protocol import PROTOCOLS
from ddbench.synset import Budget, Synset
from ddbench.tasks import membership, runner
from ddbench.tasks.measures import lira_scores
from ddbench.tasks.membership import Membership, distances, first_images, log_odds, member_table
from ddbench.tasks.record import read_result
from ddbench.training.loops import Inputs

pytestmark = pytest.mark.usefixtures("one_thread")

NOISE = "noise-of-tests"
SMALL = ("--workers", 1, "--seeds", 1, "--quiet", *EAGER)


def read_noise(spec: DatasetSpec, root: Path, download: bool, console: object) -> Dataset:
    """Noise with random labels: what a network knows of it, it has learned by heart."""
    randomness = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (120, 1, 8, 8), generator=randomness, dtype=torch.uint8)
    return make_dataset(spec, Split(images[:80], torch.arange(80) % 2), Split(images[80:], torch.arange(40) % 2))


SPEC = DatasetSpec(
    name=NOISE,
    channels=1,
    size=8,
    classes=2,
    class_names=("a", "b"),
    mean=(0.5,),
    std=(0.3,),
    flip=False,
    source="made by a test",
    reader=read_noise,
)


@pytest.fixture(scope="module", autouse=True)
def noise() -> None:
    DATASETS.register(NOISE, SPEC)


def attacked(ddb: Callable, folder: Path, method: str, *more: object) -> dict:
    """The row of a run of a method on noise."""
    made = ddb("distill", "--method", method, "--dataset", NOISE, "--out", folder / method, "--quiet", *EAGER, *more)
    assert made.code == 0, made.err
    argv = ("task", "membership", folder / method, "--images", 80, "--shadows", 8, "--student", "mlp-d2-w64", *SMALL)
    done = ddb(*argv, "--protocol", "dc-plain", "--epochs", 400, "--out", folder / "x.json")
    assert done.code == 0, done.err
    found = read_result(folder / "x.json")
    assert len(found["units"]) == 9
    return found["results"]["rows"][0]


def test_a_planted_leak_is_found(tmp_path: Path, ddb: Callable):
    """Method ``full``: each shadow's set is its members."""
    row = attacked(ddb, tmp_path, "full")
    assert (row["members"], row["others"], row["first_images"]) == (320, 320, "real")
    assert row["threshold"]["auc"]["mean"] > 0.95
    assert row["lira"]["auc"]["mean"] > 0.95
    assert row["lira"]["tpr_at_fpr_0.01"]["value"] > 0.2
    assert row["distance"]["copies"] == row["distance"]["images"]


def test_images_never_seen_are_not_found(tmp_path: Path, ddb: Callable):
    """One random image a class: 38 of 40 members are in no set."""
    row = attacked(ddb, tmp_path, "random", "--ipc", 1)
    assert 0.35 < row["threshold"]["auc"]["mean"] < 0.65
    assert 0.35 < row["lira"]["auc"]["mean"] < 0.65
    assert row["distance"]["copies"] == 2


def test_each_seed_is_another_student_of_all_members(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """A confidence is the mean over students of different seeds, also between shadows; nothing is held out."""
    drawn: list[int] = []
    images: list[int] = []

    def trained(plan: Plan, student: str, seed: int, settings: object) -> int:
        drawn.append(seed)
        images.append(len(plan.synset.images))
        return len(drawn)

    def predict(number: int, inputs: Inputs) -> torch.Tensor:
        """Logits whose log-odds are the student's number."""
        return number * torch.nn.functional.one_hot(inputs.labels, 2)

    monkeypatch.setattr(membership, "trained", trained)
    monkeypatch.setattr(membership, "predict", predict)
    made = ddb("distill", "--method", "full", "--dataset", NOISE, "--out", tmp_path / "full", "--quiet", *EAGER)
    assert made.code == 0, made.err
    argv = ("task", "membership", tmp_path / "full", "--images", 80, "--shadows", 4, "--student", TINY, *SMALL)
    done = ddb(*argv, "--seeds", 3, "--out", tmp_path / "x.json")
    assert done.code == 0, done.err
    assert len(set(drawn)) == len(drawn) == 4 * 3
    units = [one for one in read_result(tmp_path / "x.json")["units"].values() if "shadow" in one]
    assert {one["shadow"]: set(one["confidences"]) for one in units} == {0: {2.0}, 1: {5.0}, 2: {8.0}, 3: {11.0}}
    members = {one["shadow"]: one["members"].count("1") for one in units}
    assert images == [members[shadow] for shadow in range(4) for _ in range(3)]
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("x.files/*-shadow*/config.json")]
    assert [config["holdout"] for config in configs] == [0.0] * 4


def test_what_the_confidences_say():
    """Both attacks and the paired differences by target, from confidences that know members a little."""
    randomness, member = np.random.default_rng(0), member_table(60, 6).numpy()
    confidences = {"ours": randomness.normal(size=member.shape) + 2 * member}
    confidences["random"] = randomness.normal(size=member.shape) + member
    records: dict[str, dict[str, Any]] = {
        f"{run} {shadow}": {"run": run, "shadow": shadow, "members": mask, "confidences": own[shadow].tolist()}
        for run, own in confidences.items()
        for shadow, mask in enumerate("".join(map(str, line)) for line in member.astype(int))
    }
    for run in confidences:
        records[f"{run} distance"] = {"run": run, "first_images": "real", "distance": {"copies": 0}}
    head = {"runs": [{"label": "ours", "method": "dm"}, {"label": "random", "method": "random"}]}
    found = Membership.results(head, records)

    def areas(scores: Any) -> list[float]:
        """By target; scikit-learn's."""
        return [roc_auc_score(mask, own) for mask, own in zip(member, scores, strict=True)]

    lira = {run: areas([lira_scores(own, member, k) for k in range(6)]) for run, own in confidences.items()}
    for row in found["rows"]:
        assert row["lira"]["auc"]["mean"] == pytest.approx(np.mean(lira[row["run"]]))
        assert row["threshold"]["auc"]["mean"] == pytest.approx(np.mean(areas(confidences[row["run"]])))
        told = Membership.told(head, records, row["run"]).units
        assert [told[target]["lira_auc"] for target in range(6)] == pytest.approx(lira[row["run"]])
    (difference,) = found["differences"]
    assert (difference["run"], difference["against"]) == ("ours", ["random"])
    gap, entry = np.subtract(lira["ours"], lira["random"]), difference["metrics"]["lira_auc"]
    wanted = (gap.mean(), *stats.ttest_1samp(gap, 0).confidence_interval())
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx(wanted)
    assert entry["mean"] > 0.05


@pytest.mark.parametrize(("shadows", "area"), [(4, 0.41), (6, 0.46), (8, 0.47), (16, 0.49)])
def test_lira_of_few_shadows_is_below_a_coin(shadows: int, area: float):
    """What docs/tasks/membership.md says of confidences that tell nothing."""
    randomness, member = np.random.default_rng(0), member_table(8000, shadows).numpy()
    confidences = randomness.normal(size=member.shape)
    targets = range(shadows)
    areas = [roc_auc_score(member[one], lira_scores(confidences, member, one)) for one in targets]
    assert np.mean(areas) == pytest.approx(area, abs=0.012)
    plain = [roc_auc_score(member[one], confidences[one]) for one in targets]
    assert np.mean(plain) == pytest.approx(0.5, abs=0.012)


def test_every_image_is_in_half_of_the_shadows():
    table = member_table(50, 6)
    assert table.shape == (6, 50)
    assert bool((table.sum(0) == 3).all())
    assert bool((member_table(50, 6) == table).all())
    assert len({tuple(row.tolist()) for row in table}) == 6


def test_log_odds():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 900.0, 0.0]])
    p = logits[0].softmax(0)[1]
    found = log_odds(logits, torch.tensor([1, 1]))
    assert float(found[0]) == pytest.approx(float((p / (1 - p)).log()), rel=1e-5)
    assert float(found[1]) == pytest.approx(900 - 0.6931, rel=1e-4)


def test_distances(data_root: Path):
    """Copies have distance 0; a set of grey images is as far from both splits as they are."""
    dataset = load_dataset("digits", data_root)
    preprocess = fit_preprocess(dataset, "meanstd")

    def plan(images: torch.Tensor) -> Plan:
        synset = Synset(
            images=images,
            labels=torch.arange(10),
            preprocess=preprocess.to_json(),
            budget=Budget("ipc", 1),
            dataset="digits",
            fingerprint=dataset.fingerprint,
            class_names=dataset.spec.class_names,
            method="random",
            config={},
            seed=0,
        )
        return Plan(synset=synset, protocol=PROTOCOLS["hard-v1"], preprocess=preprocess, flip=False)

    copied = distances(plan(dataset.train.images[:10]), dataset.train, dataset.test)
    assert (copied["copies"], copied["images"]) == (10, 10)
    assert copied["to_any_training"] == 0
    assert copied["to_unseen"] > 0.05
    test = distances(plan(dataset.test.images[:10]), dataset.train, dataset.test)
    assert (test["copies"], test["to_unseen"]) == (0, 0)
    fewer = Split(dataset.train.images[: len(dataset.test)], dataset.train.labels[: len(dataset.test)])
    alike = distances(plan(dataset.test.images[:10]), fewer, dataset.test)
    assert alike["to_training"] == alike["to_any_training"] > test["to_any_training"] > 0.05, "of as many all"
    grey = distances(plan(torch.full((10, 1, 8, 8), 128, dtype=torch.uint8)), dataset.train, dataset.test)
    own = (dataset.test.images.flatten(1).double() / 255 - 128 / 255).square().mean(1).sqrt().min()
    assert grey["to_unseen"] == pytest.approx(float(own), abs=1e-5)
    synset = plan(dataset.test.images[:10]).synset
    assert first_images(synset) == "real"
    learned = replace(synset, student=TINY, method="dm")
    assert [first_images(replace(learned, config={"init": init})) for init in ("real", "noise")] == ["real", "noise"]
    assert first_images(learned) == "unknown"


def test_stopped_and_refused(tmp_path: Path, ddb: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    argv = ("task", "membership", "a", "--student", TINY, "--epochs", 2, *SMALL)
    refused((*argv, "--shadows", 5), "--shadows 5", "even number")
    refused((*argv, "--shadows", 2), "--shadows", "4 to 1000")
    refused((*argv, "--shadows", 10**9), "--shadows", "4 to 1000")
    refused((*argv, "--images", 20), "--images", "at least 40")
    assert ddb(*random_tiny(tmp_path / "b", "--ipc", 30)).code == 0
    refused((*argv[:2], "b", *argv[3:], "--images", 100), "--images 100", "needs 30")
    fred = ("distill", "--method", "fred-dm", "--dataset", "digits", "--ipc", 1, "--coefficients", 16, "--out", "f")
    assert ddb(*fred, "--iterations", 1, "--batch-real", 4, "--student", TINY, "--quiet", *EAGER).code == 0
    few = (*argv[:2], "f", *argv[3:], "--images", 40, "--shadows", 4)
    refused(few, "has one training image", "give more --images, or leave it out")
    small = (*argv, "--images", 200, "--shadows", 4)
    assert ddb(*small, "--out", "x.json").code == 0
    work, calls = runner.work, []

    def stopping(job: Any, unit: Any) -> Any:
        calls.append(unit)
        if len(calls) in (2, 4, 6):
            raise KeyboardInterrupt
        return work(job, unit)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "work", stopping)
        for _ in range(4):
            ddb(*small, "--out", "z.json")
    assert (tmp_path / "z.json").read_bytes() == (tmp_path / "x.json").read_bytes()
    for part in ("0/3", "1/3", "2/3"):  # each once: the last one does all of the second stage
        assert ddb(*small, "--out", "y.json", "--shard", part).code == 0
        assert (tmp_path / "y.json").exists() == (part == "2/3")
    assert (tmp_path / "y.json").read_bytes() == (tmp_path / "x.json").read_bytes()


def test_shadows_of_another_question_are_not_taken(tmp_path: Path, ddb: Callable, refused: Callable):
    """Also where the result was removed, as the refusal advises: the sets that are left had other members."""
    made = ddb("distill", "--method", "random", "--dataset", NOISE, "--ipc", 1, "--out", tmp_path / "r", *SMALL[4:])
    assert made.code == 0, made.err
    argv = ("task", "membership", tmp_path / "r", "--images", 80, "--student", TINY, "--epochs", 1, *SMALL)
    fresh, again = tmp_path / "fresh.json", tmp_path / "again.json"
    assert ddb(*argv, "--shadows", 8, "--out", fresh).code == 0
    assert ddb(*argv, "--shadows", 4, "--out", again).code == 0
    refused((*argv, "--shadows", 4, "--out", again, "--seeds", 2), "seeds differs")  # the means are over one
    again.unlink()
    assert ddb(*argv, "--shadows", 8, "--out", again).code == 0
    assert again.read_bytes() == fresh.read_bytes()
