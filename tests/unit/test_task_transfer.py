"""Transfer: the probe is logistic regression, parts are disjoint, equal parts are fully redundant."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EAGER, TINY, random_tiny
from made_students import accuracy_of, student_of
from made_synsets import KINDS, write_run
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.networks.build import build_student
from ddbench.protocols import training
from ddbench.runtime import seeds
from ddbench.synset import Budget, read_synset
from ddbench.tasks import transfer
from ddbench.tasks.learning import few, fitted, linear_probe, own_statistics, probe_accuracy
from ddbench.tasks.record import read_result
from ddbench.tasks.transfer import SCRATCH, Transfer, TransferConfig, finetune, part_of, parts_of
from ddbench.training.loops import Inputs, inputs_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_probe_is_logistic_regression():
    """The minimum of a convex function is where its gradient, here by its closed form, is zero."""
    randomness = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 5, generator=randomness).double(), torch.arange(90) % 3
    x[:, 0] += y
    weight, bias = linear_probe(x, y, 3, 0.02)
    rest = torch.nn.functional.one_hot(y, 3) - (x @ weight.T + bias).softmax(1)
    torch.testing.assert_close(0.02 * weight, rest.T @ x / len(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(rest.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_probe_standardises():
    """A shift and a scale of the features change nothing; a constant feature neither."""
    randomness = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 4, generator=randomness).double(), torch.arange(60) % 2
    x[:, 1] += 4 * y
    moved = torch.cat([x * 1000 + 7, torch.ones(60, 1)], 1).double()
    plain = probe_accuracy((x[:40], y[:40]), (x[40:], y[40:]), 2, 1e-2)
    assert plain == probe_accuracy((moved[:40], y[:40]), (moved[40:], y[40:]), 2, 1e-2)
    assert plain > 0.7


def test_parts_are_disjoint():
    synset = KINDS["grey pixels"]
    tagged = torch.arange(len(synset.images), dtype=torch.uint8)
    images = synset.images.clone()
    images[:, 0, 0, 0] = tagged
    parts = parts_of(type(synset)(**{**vars(synset), "images": images}), 2)
    seen = torch.cat([part.images[:, 0, 0, 0] for part in parts])
    assert sorted(seen.tolist()) == tagged.tolist()
    for part in parts:
        assert part.labels.bincount(minlength=10).tolist() == [1] * 10
        assert (part.budget.unit, part.budget.value) == ("ipc", 1)


def test_parts_are_of_equal_size():
    """Where no class divides: the rest of each would make the first parts the largest."""
    synset = KINDS["grey pixels"]
    labels = torch.arange(10).repeat_interleave(3)
    odd = replace(synset, images=synset.images[:1].repeat(30, 1, 1, 1), labels=labels, budget=Budget("ipc", 3))
    parts = parts_of(odd, 2)
    assert [len(part.images) for part in parts] == [15, 15]
    assert all(int(part.labels.bincount(minlength=10).min()) == 1 for part in parts)


def test_a_part_has_the_rate_of_the_whole():
    """A single learned rate; of several, which belong to stages, none."""
    index = torch.tensor([0, 2, 4])
    for name, rate in (("network input", 0.0187), ("soft labels and stages", None)):
        whole = KINDS[name]
        part = part_of(whole, index)
        assert (part.learned_lr if rate is None else float(part.learned_lr)) == pytest.approx(rate)
        assert part.stage is None
        assert torch.equal(part.images, whole.images[index])
        assert torch.equal(part.labels, whole.labels[index])


def test_what_runs_are_compared_with():
    """All runs with no training; with random images those that are none."""
    scores = {"dm-1": 0.9, "random-1": 0.6, SCRATCH: 0.5}
    records = {run: {"run": run, "seed": 0, "metrics": {"probe": score}} for run, score in scores.items()}
    head = {"runs": [{"label": label, "method": label[:-2]} for label in ("dm-1", "random-1")]}
    found = Transfer.results(head, records)
    assert [row["run"] for row in found["rows"]] == [SCRATCH, "dm-1", "random-1"]
    gaps = {(row["run"], *row["against"]): row["metrics"]["probe"]["mean"] for row in found["differences"]}
    wanted = {("dm-1", SCRATCH): 0.4, ("random-1", SCRATCH): 0.1, ("dm-1", "random-1"): 0.3}
    assert gaps == pytest.approx(wanted)


def test_images_take_another_shape():
    grey = Split(torch.full((2, 1, 28, 28), 77, dtype=torch.uint8), torch.arange(2))
    assert fitted(grey, 3, 8).images.shape == (2, 3, 8, 8)
    assert bool((fitted(grey, 3, 8).images == 77).all())
    back = fitted(fitted(grey, 3, 28), 1, 28)
    assert bool((back.images == grey.images).all())
    green = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    green[:, 1] = 200
    assert int(fitted(Split(green, torch.zeros(1).long()), 1, 4).images[0, 0, 0, 0]) == 117  # .587 * 200


def test_few():
    split = Split(torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1), torch.arange(30) % 3)
    found = few(split, 3, 4, "x")
    assert found.labels.bincount().tolist() == [4, 4, 4]
    assert bool((few(split, 3, 4, "x").images == found.images).all())
    assert len(few(split, 3, 99, "x")) == 30


def test_finetune_learns():
    net: nn.Module = build_student(TINY, channels=1, size=8, classes=10, seed=0)
    randomness = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, 8, 8, generator=randomness), torch.arange(40) % 2
    x[y == 1] += 1.5
    finetune(net, Inputs(x, y, None, torch.device("cpu")), 2, 0, TransferConfig(finetune_epochs=30, finetune_lr=0.05))
    assert net.classifier.out_features == 2
    net.eval()
    assert float((net(x).argmax(1) == y).float().mean()) > 0.9


def test_finetune_is_a_plain_loop():
    """A fresh last layer; torch's SGD with momentum 0.9, shuffled batches, the rate down a cosine."""
    net: nn.Module = build_student("mlp-d2-w8", channels=1, size=8, classes=2, seed=0)
    plain = copy.deepcopy(net).train()
    with seeds.isolated(4, "fresh last layer"):
        plain.classifier = nn.Linear(8, 3)
    x, y = torch.randn(13, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(13) % 3
    config = TransferConfig(finetune_epochs=4, finetune_lr=0.2, finetune_batch=5)
    finetune(net, Inputs(x, y, None, torch.device("cpu")), 3, 4, config)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=0.9)
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.2 * 0.5 * (1 + math.cos(math.pi * epoch / 4))
        named = seeds.generator(seeds.derive(4, "fine-tuning"), "order", epoch)
        for index in torch.randperm(13, generator=named).split(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(plain(x[index]), y[index]).backward()
            optimizer.step()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_finetune_begins_with_a_fresh_last_layer_and_moves_all_others():
    """Also where there are as many classes as before; at a rate of almost nothing only the last layer is another."""

    def tuned(rate: float) -> tuple[bool, list[bool]]:
        net: nn.Module = build_student("mlp-d2-w8", channels=1, size=8, classes=2, seed=0)
        before = [weight.detach().clone() for weight in net.parameters()]
        x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        inputs = Inputs(x, torch.arange(8) % 2, None, torch.device("cpu"))
        finetune(net, inputs, 2, 0, TransferConfig(finetune_epochs=1, finetune_lr=rate))
        kept = [torch.allclose(one, other) for one, other in zip(net.parameters(), before, strict=True)]
        *others, weight, bias = kept
        return weight and bias, others

    last, others = tuned(1e-12)
    assert (last, all(others)) == (False, True)
    last, others = tuned(0.5)
    assert (last, any(others)) == (False, False)


STUDENT = "mlp-d2-w32"
SMALL = ("--epochs", 30, "--seeds", 1, "--student", STUDENT, "--workers", 1, "--quiet", *EAGER, "--out", "x.json")


def test_networks_that_are_tried(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """One as it is built, one trained on the synset: under scikit-learn's probe and fine-tuned, each on test images."""
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    flags = ("--to", "digits", "--to-train", 4, "--finetune-epochs", 20, "--probe-decay", 0.01, "--parts", 0)
    assert ddb("task", "transfer", "a", *flags, *SMALL).code == 0
    found = {one["run"]: one["metrics"] for one in read_result(tmp_path / "x.json")["units"].values()}

    dataset, synset = load_dataset("digits"), read_synset(tmp_path / "a" / "synset.safetensors")
    nets = {
        SCRATCH: build_student(STUDENT, channels=1, size=8, classes=10, seed=0),
        (set(found) - {SCRATCH}).pop(): student_of(synset, STUDENT, 30),
    }
    train, test = few(dataset.train, 10, 4, "transfer train"), few(dataset.test, 10, 200, "transfer test")
    preprocess = own_statistics(train)
    for label, net in nets.items():
        own = {} if label == SCRATCH else {"accuracy": accuracy_of(net, dataset.test)}
        x, other = (net.features(preprocess.apply(part.images)).detach().double().numpy() for part in (train, test))
        scale, probe = StandardScaler().fit(x), LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-8, max_iter=1000)
        own["probe"] = probe.fit(scale.transform(x), train.labels).score(scale.transform(other), test.labels)
        inputs = inputs_of(train, preprocess, torch.device("cpu"))
        finetune(net, inputs, 10, 0, TransferConfig(finetune_epochs=20))
        assert found[label] == pytest.approx({**own, "finetune": accuracy_of(net, test, preprocess)})
    for name in found[SCRATCH]:
        assert len({one[name] for one in found.values()}) == 2, "else one network could stand for the other"


def test_parts_of_noise_tell_nothing_of_each_other(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """A student knows its own part by heart, and guesses on the other's images; the digits it guesses too."""
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("digits")
    named = {"fingerprint": dataset.fingerprint, "class_names": dataset.spec.class_names}
    write_run(tmp_path / "a", replace(KINDS["grey pixels"], **named))
    assert ddb("task", "transfer", "a", "--parts", 2, *SMALL, "--epochs", 100).code == 0
    (found,) = (one["metrics"] for one in read_result(tmp_path / "x.json")["units"].values())
    assert found["cross"] < 0.3
    assert found["part_accuracy"] < 0.3


def test_to_another_dataset(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """Digits to digits: the synset's student beats none, and random images are what others are compared with."""
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    argv = (
        "task",
        "transfer",
        "a",
        "--to",
        "digits",
        "--parts",
        0,
        "--seeds",
        2,
        "--epochs",
        20,
        "--finetune-epochs",
        2,
    )
    done = ddb(*argv, "--student", TINY, "--workers", 1, "--quiet", *EAGER, "--out", "x.json")
    assert done.code == 0, done.err
    found = read_result(tmp_path / "x.json")
    assert found["results"]["rows"][0]["run"] == "scratch"
    assert set(found["results"]["rows"][0]["metrics"]) == {"probe", "finetune"}
    assert set(found["results"]["rows"][1]["metrics"]) == {"accuracy", "probe", "finetune"}
    assert [row["against"] for row in found["results"]["differences"]] == [["scratch"]]
    assert len(found["head"]["decides"]["to_fingerprint"]) == 64


def test_scratch_begins_as_the_students_do(tmp_path: Path, ddb: Callable, monkeypatch: pytest.MonkeyPatch):
    """With the protocol's initialisation: the difference to it is what the training adds."""
    monkeypatch.chdir(tmp_path)
    begun, tried = [], []
    started, take = training.initialise, transfer.features_of

    def initialised(net: nn.Module, scheme: str, seed: int) -> nn.Module:
        begun.append((scheme, seed, started(net, scheme, seed).classifier.weight.detach().clone()))
        return net

    def features(net: nn.Module, inputs: Inputs) -> torch.Tensor:
        tried.append(net.classifier.weight.detach().clone())
        return take(net, inputs)

    monkeypatch.setattr(training, "initialise", initialised)
    monkeypatch.setattr(transfer, "features_of", features)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    argv = ("task", "transfer", "a", "--protocol", "mse-v1", "--to", "digits", "--parts", 0, "--seeds", 1)
    some = ("--epochs", 1, "--to-train", 2, "--to-test", 2, "--finetune-epochs", 1)
    done = ddb(*argv, *some, "--student", TINY, "--workers", 1, "--quiet", *EAGER)
    assert done.code == 0, done.err
    assert [one[:2] for one in begun] == [("lecun", 0)] * 2
    assert torch.equal(tried[0], begun[1][2])


def test_download_is_for_the_other_dataset_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(transfer, "load_dataset", lambda name, data, **how: asked.append((name, data, how)))
    Transfer.fetch(TransferConfig(to="hub:a/b"), tmp_path, 8, True, False)
    Transfer.fetch(TransferConfig(), tmp_path, 8, True, False)
    assert asked == [("hub:a/b", tmp_path, {"size": 8, "download": True, "skip_broken": False})]


def test_refused(tmp_path: Path, ddb: Callable, refused: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ddb(*random_tiny(tmp_path / "a", "--ipc", 2)).code == 0
    argv = ("task", "transfer", "a", "--quiet", *EAGER)
    refused((*argv, "--parts", 3), "--parts 3", "2 image(s)", "choose --parts 2")
    refused((*argv, "--parts", 0), "--parts 0 without --to")
    refused((*argv, "--parts", 1), "--parts", "at least 2")
    assert ddb(*random_tiny(tmp_path / "b", "--ipc", 1)).code == 0
    refused(("task", "transfer", "b", "--quiet", *EAGER), "choose --parts 0 with --to DATASET, or a larger IPC")
    refused((*argv, "--to", "mnits"), "--to: unknown dataset 'mnits'", "mnist")
    refused((*argv, "--to", "graphs:made"), "--to graphs:made: a set of graphs")
    refused((*argv, "--to", "hub:nowhere"), "--to hub:nowhere: neither a folder nor OWNER/NAME")
    refused((*argv, "--to", "mnist"), "mnist")
