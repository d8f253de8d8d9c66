"""Training under a protocol: targets and losses against independent forms, teachers, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, TINY
from plain_training import plain_loop
from torch import Tensor, nn

from ddbench.data import dataset
from ddbench.data.augment import parse_strategy
from ddbench.data.dataset import Split
from ddbench.data.load import load_dataset
from ddbench.data.policy import Mix, augment
from ddbench.data.preprocess import fit_preprocess
from ddbench.networks.build import build_student
from ddbench.protocols import training
from ddbench.protocols.plan import Plan, check_plan
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.targets import targets
from ddbench.protocols.training import (
    Settings,
    inputs_to_test,
    split_to_test,
    train_student,
    trained_students,
)
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Synset
from ddbench.teachers.store import read_teacher
from ddbench.training import many
from ddbench.training.flat import flatten_parameters
from ddbench.training.loops import View
from ddbench.training.losses import cross_entropy, probability_cross_entropy, soft_target_kl

CPU = torch.device("cpu")
TEACHER = "convnet-d1-w4-bn"


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A poor teacher, trained in a second."""
    from ddbench.cli.main import run

    root = tmp_path_factory.mktemp("teachers")
    argv = ["teacher", "--student", TEACHER, "--epochs", 2, "--teachers", root, "--data", data_root, "--quiet", *EAGER]
    run([str(part) for part in argv])
    return next(root.rglob("*.safetensors"))


def make_plan(name: str = "hard-v1", teacher: Path | None = None, **changes: Any) -> Plan:
    dataset = load_dataset("digits")
    preprocess = fit_preprocess(dataset, "meanstd")
    values: dict[str, Any] = {
        "images": dataset.train.images[:20],
        "labels": torch.arange(10).repeat_interleave(2),
        "preprocess": preprocess.to_json(),
        "budget": Budget("ipc", 2),
        "dataset": "digits",
        "fingerprint": dataset.fingerprint,
        "class_names": dataset.spec.class_names,
        "method": "random",
        "config": {},
        "seed": 0,
    }
    return Plan(
        synset=Synset(**{**values, **changes}),
        protocol=PROTOCOLS[name],
        preprocess=preprocess,
        flip=False,
        teacher=read_teacher(teacher) if teacher else None,
    )


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Losses


def test_cross_entropies_are_one():
    """Classes, probabilities that are one-hot, and logits that are nearly so give the same number."""
    logits, labels = randn(5, 4), torch.tensor([0, 3, 1, 2, 2])
    expected = -sum(float(F.log_softmax(logits, 1)[i, label]) for i, label in enumerate(labels)) / 5
    assert float(cross_entropy(logits, labels)) == pytest.approx(expected, rel=1e-12)
    assert float(probability_cross_entropy(logits, F.one_hot(labels, 4).double())) == pytest.approx(expected, rel=1e-12)
    assert float(cross_entropy(logits, 1e3 * F.one_hot(labels, 4).double())) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("tau_squared", [False, True])
def test_soft_target_kl(temperature: float, tau_squared: bool):
    """The definition, entry by entry."""
    logits, teacher = randn(6, 5), 3 * randn(6, 5, seed=1)
    total = 0.0
    for z, t in zip(logits, teacher, strict=True):
        p = torch.exp(t / temperature) / torch.exp(t / temperature).sum()
        q = torch.exp(z / temperature) / torch.exp(z / temperature).sum()
        total += float((p * (p / q).log()).sum())
    expected = total / 6 * (temperature**2 if tau_squared else 1)
    assert float(soft_target_kl(logits, teacher, temperature, tau_squared)) == pytest.approx(expected, rel=1e-10)
    assert float(soft_target_kl(teacher, teacher, temperature, tau_squared)) == pytest.approx(0, abs=1e-12)


# Targets


def view(plan: Plan, mix: Mix | None = None) -> View:
    inputs = plan.inputs(CPU)
    index = torch.tensor([3, 0, 11, 19])
    return View(x=inputs.batch(index), index=index, epoch=0, mix=mix)


def test_own_labels_are_mixed_as_the_images_are():
    plan = make_plan("idc")
    labels, loss = targets(plan, plan.inputs(CPU), CPU, "float32")
    mixed = labels(view(plan, Mix(torch.tensor([1, 0, 3, 2]), 0.75)))
    expected = torch.zeros(4, 10)
    for row, (own, other) in enumerate(((1, 0), (0, 1), (5, 9), (9, 5))):
        expected[row, own] += 0.75
        expected[row, other] += 0.25
    assert torch.equal(mixed, expected)
    logits = randn(4, 10).float()
    assert float(loss(logits, mixed)) == pytest.approx(float(-(expected * logits.log_softmax(1)).sum() / 4), rel=1e-6)


def test_soft_labels_are_mixed_as_probabilities():
    """They are logits: of a mixed image the distributions are blended, not the logits."""
    soft = 4 * randn(20, 10, seed=2).float()
    plan = make_plan("soft-v1", labels=soft)
    plan = replace(plan, protocol=changed(plan.protocol, augmentation="mixup")[0])
    labels, loss = targets(plan, plan.inputs(CPU), CPU, "float32")
    mixed = labels(view(plan, Mix(torch.tensor([1, 0, 3, 2]), 0.75)))
    pairs = ((3, 0), (0, 3), (11, 19), (19, 11))
    shares = [soft[i].exp() / soft[i].exp().sum() for pair in pairs for i in pair]
    expected = torch.stack([0.75 * one + 0.25 * other for one, other in zip(shares[::2], shares[1::2], strict=True)])
    torch.testing.assert_close(mixed, expected)
    logits = randn(4, 10).float()
    assert float(loss(logits, mixed)) == pytest.approx(float(-(expected * logits.log_softmax(1)).sum() / 4), rel=1e-6)


def test_every_number_of_the_augmentation_reaches_the_views():
    """Each protocol's own; where none is said, a crop shows at least one of an image's patches."""
    numbers = {"crop_scale": 0.3, "mix_alpha": 0.4, "mix_probability": 0.7}
    plan = make_plan("kd-v1", patches=2)
    plan = replace(plan, protocol=replace(plan.protocol, augmentation="rrc+patchshuffle+mixup", **numbers))
    policy = plan.policy
    assert policy is not None
    assert (policy.parts, policy.mix, policy.factor) == (("rrc", "patchshuffle"), "mixup", 2)
    assert {name: getattr(policy, name) for name in numbers} == numbers
    unsaid = replace(plan, protocol=replace(plan.protocol, crop_scale=0.0)).policy
    assert unsaid is not None
    assert unsaid.crop_scale == 0.5


def test_teacher_labels_every_view(teacher_path: Path):
    plan = make_plan("kd-v1", teacher_path)
    assert plan.teacher is not None
    labels, loss = targets(plan, plan.inputs(CPU), CPU, "float32")
    seen = view(plan)
    expected = plan.teacher.network(CPU)(seen.x)
    assert torch.equal(labels(seen), expected)
    logits = randn(4, 10).float()
    assert float(loss(logits, expected)) == pytest.approx(float(soft_target_kl(logits, expected, 20.0)), rel=1e-6)


def test_a_teacher_labels_in_the_precision_that_is_asked_for(teacher_path: Path):
    plan = make_plan("kd-v1", teacher_path)
    assert plan.teacher is not None
    net, seen = plan.teacher.network(CPU), view(plan)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(seen.x).float()
    found = targets(plan, plan.inputs(CPU), CPU, "bfloat16")[0](seen)
    assert found.dtype == torch.float32
    assert torch.equal(found, half)
    assert not torch.equal(found, net(seen.x))


def test_teacher_in_batch_mode_uses_the_statistics_of_the_batch(teacher_path: Path):
    plan = make_plan("sre2l-cifar", teacher_path)
    assert plan.teacher is not None
    labels, _ = targets(plan, plan.inputs(CPU), CPU, "float32")
    seen = view(plan)
    net = plan.teacher.network(CPU)
    still = net(seen.x)
    assert torch.allclose(labels(seen), net.train()(seen.x), atol=1e-5)
    assert not torch.allclose(labels(seen), still, atol=1e-2)
    assert torch.equal(labels(seen), labels(seen)), "its running statistics play no part"


def test_squared_error_with_the_true_class(teacher_path: Path):
    plan = make_plan("kd-v1", teacher_path)
    plan = replace(plan, protocol=changed(plan.protocol, loss="mse-gt")[0])
    labels, loss = targets(plan, plan.inputs(CPU), CPU, "float32")
    assert plan.teacher is not None
    seen, logits = view(plan), randn(4, 10).float()
    teacher = plan.teacher.network(CPU)(seen.x)
    truth = F.cross_entropy(logits, torch.tensor([1, 0, 5, 9]))
    expected = float(F.mse_loss(logits, teacher) + 0.025 * truth)
    assert float(loss(logits, labels(seen))) == pytest.approx(expected, rel=1e-6)


def test_soft_labels_at_a_temperature():
    soft = 4 * torch.randn(20, 10, generator=torch.Generator().manual_seed(2))
    plan = make_plan("soft-v1", labels=soft)
    plan = replace(plan, protocol=changed(plan.protocol, temperature=2.0)[0])
    assert torch.equal(plan.inputs(CPU).labels, soft / 2)
    hard = replace(plan, protocol=changed(PROTOCOLS["hard-v1"], labels="hard")[0])
    assert torch.equal(hard.inputs(CPU).labels, soft.argmax(1))


# Whole runs


def by_hand(plan: Plan, epochs: int, teacher: nn.Module) -> nn.Module:
    """kd-v1 written out: AdamW without decay on 1-D parameters, cosine, RDED's batches, KL at 20."""
    net = build_student(TINY, channels=1, size=8, classes=10, seed=0)
    grouped = [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(grouped, lr=0.001)
    x, policy = plan.preprocess.apply(plan.synset.images), plan.policy
    assert policy is not None
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.001 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * epoch / epochs))).item()
        order = torch.randperm(20, generator=seeds.generator(0, "order", epoch))
        randomness = seeds.generator(0, "augment", epoch)
        for index in order.split(10):
            batch, _ = augment(policy, x[index], randomness, plan.preprocess)
            loss = soft_target_kl(net.train()(batch), teacher(batch), 20.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def test_kd_v1_is_what_it_says(teacher_path: Path):
    plan = make_plan("kd-v1", teacher_path)
    plan = replace(plan, protocol=changed(plan.protocol, epochs=3)[0])
    assert plan.teacher is not None
    (net,), _ = trained_students(plan, TINY, [0], Settings(device="cpu", threads=1))
    expected = by_hand(plan, 3, plan.teacher.network(CPU))
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("name", "drop", "rebuilt"), [("hard-v1", 4, False), ("dc-legacy", 5, True)])
def test_optimiser_where_the_rate_drops(name: str, drop: int, rebuilt: bool):
    """In plain PyTorch: hard-v1 keeps its momentum there, the public code's loop begins with a new optimiser."""
    plan = make_plan(name)
    plan = replace(plan, protocol=changed(plan.protocol, epochs=6, augmentation="none")[0])
    (net,), _ = trained_students(plan, TINY, [0], Settings(device="cpu", threads=1))
    x, y = plan.preprocess.apply(plan.synset.images), plan.synset.labels
    settings = {"epochs": 6, "batch": 20, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "decay_after": drop}
    ends = []
    for rebuild in (rebuilt, not rebuilt):
        plain = build_student(TINY, channels=1, size=8, classes=10, seed=0)
        *_, weights = plain_loop(plain, x, y, **settings, rebuild=rebuild, augmentation="none", seed=0)
        ends.append(float((flatten_parameters(net) - weights).abs().max()))
    assert ends[0] < 1e-6
    assert ends[1] > 1e-5


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"fkd", "dd-recipe"}))
def test_every_protocol_trains(name: str, teacher_path: Path):
    more = {"labels": torch.randn(20, 10, generator=torch.Generator().manual_seed(0))} if name == "soft-v1" else {}
    plan = make_plan(name, teacher_path if PROTOCOLS[name].needs_teacher else None, **more)
    plan = replace(plan, protocol=changed(plan.protocol, epochs=2)[0])
    dataset = load_dataset("digits")
    check_plan(plan, dataset)
    test = Split(dataset.test.images[:50], dataset.test.labels[:50])
    found = train_student(plan, test, TINY, 0, Settings(device="cpu", threads=1))
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["alone", "at once"])
def test_precision(seeds: list[int]):
    plan = make_plan("hard-v1")
    plan = replace(plan, protocol=changed(plan.protocol, epochs=2)[0])
    whole, half = (
        trained_students(plan, TINY, seeds, Settings(device="cpu", threads=1, precision=precision))[0][-1]
        for precision in ("float32", "bfloat16")
    )
    assert 0 < float((flatten_parameters(half) - flatten_parameters(whole)).abs().max()) < 0.01


@pytest.mark.parametrize(("precision", "half"), [("float32", False), ("bfloat16", True)])
def test_students_are_tested_in_the_precision_that_they_were_trained_in(precision: str, half: bool):
    seen: list[bool] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(10))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return self.bias.expand(len(x), 10)

    plan, test = make_plan(), Split(load_dataset("digits").test.images[:5], torch.tensor([0, 0, 1, 0, 2]))
    settings = Settings(device="cpu", threads=1, precision=precision)
    found = training.tested_students(plan, test, {0: Watching()}, settings, None)
    assert found == [{"accuracy": 0.6}]
    assert seen == [half]


def test_zoomed_test_images():
    """RDED enlarges to side // 7 * 8 and cuts the centre out: 28 -> 32 -> 28; nothing at 8 px."""
    plan = make_plan("rded")
    small = Split(plan.synset.images, plan.synset.labels)
    assert torch.equal(inputs_to_test(plan, small, CPU).batch(slice(None)), plan.preprocess.apply(small.images))
    images = torch.randint(0, 256, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    wide = F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True)[:, :, 2:30, 2:30]
    expected = plan.preprocess.apply(wide.round().clamp(0, 255).to(torch.uint8))
    assert torch.equal(inputs_to_test(plan, Split(images, torch.tensor([0, 1])), CPU).batch(slice(None)), expected)


def test_zoomed_test_images_are_never_floats_all_at_once(monkeypatch: pytest.MonkeyPatch):
    """Those of ImageNet at 224 px would be 30 GB, and 39 enlarged."""
    images = torch.randint(0, 256, (7, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split, plan, seen = Split(images, torch.zeros(7, dtype=torch.int64)), make_plan("rded"), []
    whole, resize = split_to_test(plan, split).images, F.interpolate

    def counted(x: Tensor, **how: Any) -> Tensor:
        seen.append(len(x))
        return resize(x, **how)

    monkeypatch.setattr(F, "interpolate", counted)
    monkeypatch.setattr(dataset, "CHUNK_BYTES", 3 * 4 * 28 * 28)
    assert torch.equal(split_to_test(plan, split).images, whole)
    assert seen == [3, 3, 1]


def test_augmentation_leaves_flips_out_on_digits():
    plan = make_plan("dc-legacy")
    assert plan.policy is not None
    assert plan.policy.parts == (parse_strategy("color_crop_cutout_scale_rotate"),)
    assert "flip" not in (make_plan("kd-v1").policy or plan.policy).parts


# The command


def test_evaluate_with_a_teacher(ddb: Callable, random_run: Path, teacher_path: Path, tmp_path: Path):
    root = teacher_path.parents[2]
    argv = ["evaluate", random_run, "--protocol", "kd-v1", "--epochs", 2, "--students", TINY, "--seeds", 2]
    argv += ["--workers", 1, *EAGER, "--out", tmp_path / "score.json"]
    result = ddb(*argv, "--teachers", root)
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "score.json").read_text())
    teacher = read_teacher(teacher_path)
    assert data["teacher"] == teacher.reference()
    assert data["synset"]["label_kind"] == "teacher"
    assert data["synset"]["bytes"]["teacher"] == teacher.bytes
    assert f"teacher {teacher.bytes:,}" in result.out
    again = ddb(*argv, "--teacher", teacher_path)
    assert "finished already" in again.err, "the same teacher by name is the same evaluation"


def test_refused(refused: Callable, random_run: Path, tmp_path: Path, teacher_path: Path):
    run = ["evaluate", random_run, *EAGER]
    refused([*run, "--protocol", "soft-v1"], "soft-v1 needs soft labels", "hard ones", "--protocol hard-v1")
    nowhere = tmp_path / "none"
    refused([*run, "--protocol", "kd-v1", "--teachers", nowhere], "holds none", "ddbench teacher --dataset digits")
    refused([*run, "--teacher", teacher_path], "hard-v1 has no teacher")
    refused([*run, "--protocol", "fkd"], "labels.safetensors is not there", "ddbench relabel")
    refused([*run, "--labels", teacher_path], "takes no stored labels")
    refused([*run, "--lr", 0.1, "--lr-source", "search"], "give one of the two")
    refused([*run, "--augmentation", "cutmx"], "cutmx", "did you mean 'cutmix'")
    refused([*run, "--students", "all-smal"], "all-smal", "all-small")
    refused([*run, "--students", "convnet-d4-w8-in"], "leave no pixel")
    foreign = random_run / "synset.safetensors"
    refused([*run, "--protocol", "kd-v1", "--teacher", foreign], "synset.safetensors", "ddbench-teacher")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": "muon"}, "only supports 2D"),
        ({"optimizer": "sparseadam"}, "dense gradients"),
        ({"optimizer": "lbfgs"}, "closure"),
        ({"optimizer": "adam", "momentum": 0.9}, "has no option 'momentum'"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "has no option 'weight_decay'"),
    ],
    ids=lambda value: value["optimizer"] if isinstance(value, dict) else "",
)
def test_optimisers_that_cannot_train_a_network_are_told_before(settings: dict[str, object], reason: str):
    plain = {"name": "mine", "momentum": 0.0, "weight_decay": 0.0}
    mine = replace(PROTOCOLS["hard-v1"], **{**plain, **settings})
    with pytest.raises(UserError, match=f"protocol mine: optimizer '{settings['optimizer']}': .*{reason}"):
        check_plan(replace(make_plan(), protocol=mine), load_dataset("digits"))


@pytest.mark.parametrize("name", ["rprop", "adagrad", "radam", "adamax"])
def test_any_optimiser_of_torch_trains_a_student(name: str):
    protocol = replace(PROTOCOLS["hard-v1"], name="mine", optimizer=name, momentum=0.0, weight_decay=0.0, epochs=1)
    plan = replace(make_plan(), protocol=protocol)
    check_plan(plan, load_dataset("digits"))
    nets, _ = trained_students(plan, TINY, [3], Settings(device="cpu", threads=1))
    assert all(torch.isfinite(weight).all() for weight in nets[0].parameters())


def test_teacher_of_another_class_order_is_refused(teacher_path: Path):
    dataset = load_dataset("digits")
    plan = make_plan("kd-v1", teacher_path)
    assert plan.teacher is not None
    turned = replace(plan.teacher, class_names=plan.teacher.class_names[::-1])
    with pytest.raises(UserError, match="in another order"):
        check_plan(replace(plan, teacher=turned), dataset)
    with pytest.raises(UserError, match="ddbench teacher"):
        check_plan(replace(plan, teacher=None), dataset)


@pytest.mark.parametrize(("student", "at_once"), [(TINY, [2]), ("vit-d1-w16", [])])
def test_seeds_are_trained_at_once_where_that_can_be(student: str, at_once: list[int], monkeypatch: pytest.MonkeyPatch):
    """Networks that draw in training go one by one, and then are what each is alone, to the last bit."""
    counted: list[int] = []
    together = many.train_many

    def noted(nets: Any, *rest: Any, **how: Any) -> Any:
        counted.append(len(nets))
        return together(nets, *rest, **how)

    monkeypatch.setattr(many, "train_many", noted)
    protocol, _ = changed(PROTOCOLS["hard-v1"], epochs=2)
    plan, how = replace(make_plan(), protocol=protocol), Settings(device="cpu", threads=1)
    nets, _ = trained_students(plan, student, [3, 4], how)
    assert counted == at_once
    for seed, net in zip((3, 4), nets, strict=True):
        (alone,), _ = trained_students(plan, student, [seed], how)
        assert counted == at_once, "one network alone is never stacked"
        pairs = zip(net.parameters(), alone.parameters(), strict=True)
        if at_once:
            assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
        else:
            assert all(torch.equal(one, other) for one, other in pairs)
