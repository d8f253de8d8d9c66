"""DD: loss and gradients against an unroll written out in float64, the learned recipe, and its replay."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import EAGER, digits_context
from made_synsets import made, write_run
from torch import Tensor

from ddbench.decoders.multi_formation import MultiFormation
from ddbench.evaluation.ddranking.definitions import legs
from ddbench.methods.dd import DD, DDConfig
from ddbench.networks.build import build_student
from ddbench.networks.initialise import TRUNCATED_SD, initialise
from ddbench.protocols.plan import Plan, check_plan, own_protocol
from ddbench.protocols.protocol import PROTOCOLS, changed
from ddbench.protocols.replay import replay, replay_network
from ddbench.protocols.training import Settings, trained_students
from ddbench.runtime.errors import UserError
from ddbench.synset import Budget, Replay, Synset, read_synset
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop

pytestmark = pytest.mark.usefixtures("one_thread")

STUDENT = "mlp-d2-w8"
SMALL: dict[str, Any] = {"iterations": 2, "batches": 2, "epochs": 3, "batch_real": 64, "lr_student": 0.1}


def make(data_root: Path, folder: Path, ipc: int = 2, student: str = STUDENT, **settings: Any) -> DD:
    """A method that is set up on digits."""
    context = digits_context(data_root, folder, ipc=ipc, student=student)
    method = DD(DDConfig(**{**SMALL, **settings}), context)
    method.setup()
    return method


def reference(method: DD, start: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Loss, gradients in images, raw rates and logits: the definition, written out for a two-layer MLP in float64."""
    config, classes = method.config, method.context.classes
    images = method.images.detach().double().requires_grad_()
    raw = method.raw.detach().double().requires_grad_()
    logits = None if method.logits is None else method.logits.detach().double().requires_grad_()
    pixels, width = images[0].numel(), 8
    weights = start.double().requires_grad_()

    def net(theta: Tensor, inputs: Tensor) -> Tensor:
        one, two, three, four = theta.split([width * pixels, width, classes * width, classes])
        hidden = (inputs.flatten(1) @ one.view(width, pixels).T + two).clamp(min=0)
        return hidden @ three.view(classes, width).T + four

    per_class = method.context.ipc // config.batches
    theta = weights
    for step in range(config.epochs * config.batches):
        batch = step % config.batches
        chosen = torch.cat(
            [
                torch.arange(batch * per_class, (batch + 1) * per_class) + label * method.context.ipc
                for label in range(classes)
            ]
        )
        labels = torch.arange(classes).repeat_interleave(per_class)
        target = F.one_hot(labels, classes).double() if logits is None else logits[chosen].softmax(1)
        loss = -(target * net(theta, images[chosen]).log_softmax(1)).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        theta = theta - (1 + raw[step].exp()).log() * gradient
    outer = -net(theta, x.double()).log_softmax(1)[torch.arange(len(y)), y].mean()
    wanted = [images, raw] + ([] if logits is None else [logits])
    found = torch.autograd.grad(outer, wanted)
    return outer.detach(), found[0], found[1], None if logits is None else found[2]


@pytest.mark.parametrize("mode", ["adjoint", "unroll"])
@pytest.mark.parametrize("labels", ["hard", "learned"])
def test_gradients(labels: str, mode: str, data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, ipc=4, labels=labels)
    x, y = method.real_batch(0)
    net = method._network(3)
    start = flatten_parameters(net).double()
    loss, images, raw, logits = reference(method, start, x, y)
    method._inner = InnerLoop(FlatNet(net).to("cpu", torch.float64), mode)
    problem = method.problem(start, x.double(), y)
    changes: dict[str, Any] = {"images": problem.images.double(), "lr": F.softplus(method.raw.detach().double())}
    if labels == "learned":
        changes["labels"] = problem.labels.double()
    result = method._inner(dataclasses.replace(problem, **changes))
    torch.testing.assert_close(result.loss, loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.images, images, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.lr * method.raw.detach().double().sigmoid(), raw, rtol=1e-10, atol=1e-12)
    if logits is not None:
        torch.testing.assert_close(result.labels, logits, rtol=1e-10, atol=1e-12)


def test_first_rates_and_labels(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, labels="learned", lr_student=0.02)
    product = method.distilled()
    assert product.learned_lr is not None
    torch.testing.assert_close(product.learned_lr, torch.full((6,), 0.02))
    shares = product.labels.softmax(1)[torch.arange(20), torch.arange(10).repeat_interleave(2)]
    torch.testing.assert_close(shares, torch.full((20,), 0.99))


def test_decay_comes_a_pass_early(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, iterations=100, decay_every=30, batch_real=64)
    passes = -(-len(method.context.train) // 64)
    assert passes < 30
    for iteration, factor in ((0, 1.0), (30 - passes - 1, 1.0), (30 - passes, 0.5), (60 - passes, 0.25)):
        method.step(iteration)
        assert method._adam.param_groups[0]["lr"] == pytest.approx(0.01 * factor)


def test_real_batches_are_passes(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, batch_real=500)
    train = method.context.train
    each = -(-len(train) // 500)
    one_pass = torch.cat([method.real_batch(iteration)[1] for iteration in range(each)])
    assert torch.equal(one_pass.bincount(), train.labels.bincount())
    assert not torch.equal(method.real_batch(0)[1], method.real_batch(each)[1])


def test_several_networks_are_averaged(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, networks=2)
    x, y = method.real_batch(0)
    parts = [
        method._inner(method.problem(flatten_parameters(method._network(method._seed(0, number))), x, y)).images
        for number in range(2)
    ]
    assert not torch.equal(*parts)
    method.step(0)
    torch.testing.assert_close(method.images.grad, (parts[0] + parts[1]) / 2)


def synset_of(method: DD) -> Synset:
    """The product as the runner wraps it."""
    context, product = method.context, method.distilled()
    return Synset(
        images=product.images,
        labels=product.labels,
        preprocess=context.preprocess.to_json(),
        budget=method.budget,
        dataset="digits",
        fingerprint=context.dataset.fingerprint,
        class_names=context.dataset.spec.class_names,
        method="dd",
        config={},
        seed=0,
        student=context.student,
        learned_lr=product.learned_lr,
        stage=product.stage,
        schedule=product.schedule,
    )


def plan_of(method: DD, protocol: str = "dd-recipe") -> Plan:
    return Plan(
        synset=synset_of(method), protocol=PROTOCOLS[protocol], preprocess=method.context.preprocess, flip=False
    )


def test_replay_is_what_was_judged(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path, init_networks="fixed")
    method.step(0)
    plan = plan_of(method)
    check_plan(plan, method.context.dataset)
    assert own_protocol(plan.synset) == "dd-recipe"
    assert plan.epochs == 3
    net = replay_network(plan.synset, STUDENT, seed=99)  # the one network, whatever the seed
    replay(net, plan, torch.device("cpu"))
    x, y = method.real_batch(1)
    judged = method._inner(method.problem(flatten_parameters(method._network(method.context.seed)), x, y))
    torch.testing.assert_close(flatten_parameters(net), judged.final)


def test_replay_in_bfloat16(data_root: Path, tmp_path: Path):
    """The weights are those of steps whose forward passes are rounded, as under every other protocol."""
    plan = plan_of(make(data_root, tmp_path))
    (half,), _ = trained_students(plan, STUDENT, [0], Settings(device="cpu", threads=1, precision="bfloat16"))
    (whole,), _ = trained_students(plan, STUDENT, [0], Settings(device="cpu", threads=1))
    twin, synset = replay_network(plan.synset, STUDENT, seed=0), plan.synset
    for step, rate in enumerate(synset.learned_lr):
        chosen = synset.stage == step % 2
        with torch.autocast("cpu", torch.bfloat16):
            logits = twin(synset.images[chosen])
        loss = F.cross_entropy(logits.float(), synset.labels[chosen])
        for parameter, slope in zip(twin.parameters(), torch.autograd.grad(loss, list(twin.parameters())), strict=True):
            parameter.data -= rate * slope
    torch.testing.assert_close(flatten_parameters(half), flatten_parameters(twin))
    assert float((flatten_parameters(half) - flatten_parameters(whole)).abs().max()) > 1e-5


def test_a_batch_of_stored_images_has_all_their_tiles(data_root: Path, tmp_path: Path):
    plan = plan_of(make(data_root, tmp_path, ipc=4))
    tiles = dataclasses.replace(plan, synset=dataclasses.replace(plan.synset, decoder=MultiFormation(factor=2)))
    inputs = tiles.inputs(torch.device("cpu"))
    plain = dataclasses.replace(
        plan.synset,
        images=inputs.batch(slice(None)),
        labels=inputs.labels,
        stage=plan.synset.stage.repeat(4),
        budget=Budget("ipc", 16),
    )
    nets = [replay_network(plain, STUDENT, seed=0) for _ in range(2)]
    for net, one in zip(nets, (tiles, dataclasses.replace(plan, synset=plain)), strict=True):
        replay(net, one, torch.device("cpu"))
    assert torch.equal(*map(flatten_parameters, nets))


def test_fixed_recipe_is_for_one_architecture(data_root: Path, tmp_path: Path):
    synset = synset_of(make(data_root, tmp_path, init_networks="fixed"))
    with pytest.raises(UserError, match="for one network"):
        replay_network(synset, "lenet", 0)
    free = dataclasses.replace(synset, schedule=Replay(epochs=3, init="xavier"))
    one, other = (flatten_parameters(replay_network(free, "lenet", seed)) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_other_protocols_leave_the_recipe(data_root: Path, tmp_path: Path):
    from ddbench.protocols.plan import rate_of

    method = make(data_root, tmp_path)
    for name in ("hard-v1", "pdd", "mtt"):
        plan = plan_of(method, name)
        check_plan(plan, method.context.dataset)
        assert plan.stages == 1
        assert rate_of(plan, STUDENT) == 0.01


def test_recipe_in_the_file(ddb: Callable, tmp_path: Path):
    run = tmp_path / "run"
    flags = ["--iterations", 2, "--batches", 2, "--epochs", 2, "--batch-real", 64, "--student", STUDENT]
    flags += ["--validate-every", 2]
    done = ddb("distill", "--method", "dd", "--dataset", "digits", "--ipc", 2, *flags, "--out", run, *EAGER)
    assert done.code == 0, done.err
    synset = read_synset(run / "synset.safetensors")
    assert synset.schedule == Replay(epochs=2, init="xavier", fixed=None)
    assert synset.learned_lr is not None
    assert synset.learned_lr.shape == (4,)
    assert synset.stage is not None
    assert synset.stage.tolist() == [0, 1] * 10
    result = ddb("evaluate", run, "--protocol", "dd-recipe", "--seeds", 2, "--workers", 1, *EAGER)
    assert result.code == 0, result.err
    assert STUDENT in result.out
    rate = json.loads((run / "evaluations/dd-recipe.json").read_text())["learning_rates"][STUDENT]
    assert (rate["rate"], rate["source"]) == (float(synset.learned_lr.mean()), "synset")
    assert "--compile" not in result.err
    again = ddb("evaluate", run, "--protocol", "dd-recipe", "--seeds", 2, "--workers", 1, "--compile", "on")
    assert "--compile on: a learned recipe is replayed eagerly" in again.err


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        ({"learned_lr": torch.full((5,), 0.1)}, "expected [6]"),
        ({"schedule": Replay(epochs=0, init="xavier")}, "0 epochs"),
        ({"schedule": Replay(epochs=3, init="magic")}, "'magic'"),
        ({"schedule": Replay(epochs=3, init="xavier", fixed=-1)}, "fixed network -1"),
        ({"stage": None}, "no stage column"),
    ],
)
def test_broken_recipes(change: dict[str, Any], needle: str, data_root: Path, tmp_path: Path):
    from ddbench.synset import write_synset

    broken = dataclasses.replace(synset_of(make(data_root, tmp_path / "run")), **change)
    with pytest.raises(UserError) as caught:
        write_synset(tmp_path / "synset.safetensors", broken)
    assert needle in str(caught.value)
    assert not (tmp_path / "synset.safetensors").exists()


def test_replay_needs_a_recipe(data_root: Path, tmp_path: Path):
    method = make(data_root, tmp_path)
    plain = dataclasses.replace(synset_of(method), schedule=None, stage=None, learned_lr=None)
    plan = dataclasses.replace(plan_of(method), synset=plain)
    with pytest.raises(UserError, match="has none; use --protocol hard-v1"):
        check_plan(plan, method.context.dataset)


SILENT: dict[str, tuple[tuple[str, ...], str]] = {
    "epochs": (("--epochs", "5"), "epochs 5, full_epochs 5: protocol dd-recipe replays"),
    "lr": (("--lr", "0.3"), "lr 0.3, lr_source 'protocol': protocol"),
    "lr-source": (("--lr-source", "search"), "lr_source 'search': protocol"),
    "augmentation": (("--augmentation", "dsa"), "augmentation 'dsa': protocol"),
    "mixup": (("--mixup", "0.2"), "augmentation 'mixup', mix_alpha 0.2: protocol"),
    "label-smoothing": (("--label-smoothing", "0.1"), "label_smoothing 0.1: protocol"),
    "focal-gamma": (("--focal-gamma", "2"), "focal_gamma 2.0: protocol"),
}


@pytest.mark.parametrize("flag", SILENT)
def test_settings_that_a_replay_does_not_use_are_refused(flag: str, tmp_path: Path, refused: Callable):
    given, words = SILENT[flag]
    run = write_run(tmp_path / "run", made((1, 8, 8), pixels=True))
    argv = ["evaluate", run, "--protocol", "dd-recipe", "--students", STUDENT, *EAGER]
    refused([*argv, *given], words, "leave it out")
    with pytest.raises(UserError, match="which random real images do not have"):
        legs(PROTOCOLS["dd-recipe"], soft=False, soft_random=False, learned_lr=False, hard_augmentation=False)


def test_a_protocol_of_ones_own_may_test_a_replay_otherwise():
    replayed, told = changed(PROTOCOLS["dd-recipe"], test_zoom=True, labels="hard")
    assert (replayed.replay, told) == (True, {"labels": "hard", "test_zoom": True})
    assert changed(PROTOCOLS["dd-recipe"], replay=False, epochs=5)[0].epochs == 5


def test_batches_divide_the_budget(refused: Callable, tmp_path: Path):
    argv = ["distill", "--method", "dd", "--dataset", "digits", "--ipc", 10, "--student", STUDENT]
    argv += ["--out", tmp_path / "run", *EAGER]
    refused([*argv, "--batches", 3], "--batches 3 with --ipc 10", "choose one of 1, 2, 5, 10")
    refused([*argv, "--init-networks", "fixed", "--networks", 2], "--networks 2", "there is one network")
    argv += ["--init-networks", "fixed", "--iterations", 1]
    refused([*argv, "--seed", -1], "--seed -1", "it names the network, expected 0 or more")


def test_initialisations():
    net = build_student("convnet-d2-w32-nn", channels=3, size=16, classes=10, seed=0)
    default = flatten_parameters(net)
    assert torch.equal(flatten_parameters(initialise(net, "default", 0)), default)
    xavier = initialise(net, "xavier", 0)
    weights = {name: p for name, p in xavier.named_parameters() if p.ndim > 1}
    for weight in weights.values():
        fans = weight[0].numel() + weight.numel() // weight.shape[1]
        assert float(weight.detach().std()) == pytest.approx((2 / fans) ** 0.5, rel=0.1)
    lecun = initialise(build_student("convnet-d2-w32-nn", channels=3, size=16, classes=10, seed=0), "lecun", 0)
    for name, p in lecun.named_parameters():
        if p.ndim == 1:
            assert not p.detach().any(), name
            continue
        sd = p[0].numel() ** -0.5
        assert float(p.detach().std()) == pytest.approx(sd, rel=0.1)
        assert float(p.detach().abs().max()) <= 2 * sd / TRUNCATED_SD + 1e-6


def test_fixed_network_is_marked(ddb: Callable, tmp_path: Path):
    """In the evaluation of its recipe, not where fresh networks are trained."""
    run = tmp_path / "run"
    flags = ["--iterations", 1, "--batches", 1, "--epochs", 2, "--batch-real", 64, "--student", STUDENT]
    argv = ["distill", "--method", "dd", "--dataset", "digits", "--ipc", 1, *flags, "--init-networks", "fixed"]
    assert ddb(*argv, "--out", run, *EAGER).code == 0
    for protocol, marked in (("dd-recipe", True), ("hard-v1", False)):
        out = tmp_path / f"{protocol}.json"
        flags = [
            "--protocol",
            protocol,
            *([] if marked else ["--epochs", 2]),
            "--seeds",
            2,
            "--workers",
            1,
            "--out",
            out,
        ]
        done = ddb("evaluate", run, *flags, *EAGER)
        assert done.code == 0, done.err
        evaluation = json.loads(out.read_text())
        assert evaluation["synset"].get("fixed_network", False) is marked
        if marked:
            one, two = (entry["metrics"]["accuracy"] for entry in evaluation["runs"])
            assert one == two, "one network, whatever the seed"
            assert evaluation["synset"]["bytes"]["other"] > 4 * 64 * 8, "its weights count"
