"""The optimiser and the training loop against PyTorch's and against loops written out by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from plain_training import plain_loop
from torch import nn

from ddbench.data.policy import parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.experts.recipe import ExpertRecipe
from ddbench.experts.sharpness import train_expert
from ddbench.networks.build import build_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.light import light
from ddbench.training.flat import flatten_parameters
from ddbench.training.loops import Inputs, accuracy, drop_after, forward_flops, predict, train
from ddbench.training.losses import cross_entropy, matching_loss
from ddbench.training.optimizers import (
    OptimizerSettings,
    check_optimizer,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from ddbench.training.sgd import SGD

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The optimiser


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 5e-2])
def test_sgd_is_that_of_torch(momentum: float, weight_decay: float):
    ours = [random_tensor(*shape, seed=i, dtype=torch.float64) for i, shape in enumerate([(3, 4), (5,), (2, 2, 2)])]
    theirs = [part.clone() for part in ours]
    for part in (*ours, *theirs):
        part.requires_grad_()
    one = SGD(ours, 0.1, momentum, weight_decay)
    two = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    for step in range(5):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            skipped = index == 1 and step == 0  # a parameter without a gradient stays where it is
            a.grad = None if skipped else random_tensor(*a.shape, seed=100 * step + index, dtype=torch.float64)
            b.grad = None if skipped else a.grad.clone()
        if step == 3:
            for optimizer in (one, two):
                for group in optimizer.param_groups:
                    group["lr"] *= 0.1
        one.step()
        two.step()
        for a, b in zip(ours, theirs, strict=True):
            assert float((a - b).detach().abs().max()) <= 1e-12
    one.zero_grad()
    assert all(part.grad is None for part in ours)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Rprop])
def test_light_optimiser_takes_the_steps_of_torchs(kind: type[torch.optim.Optimizer]):
    sides = []
    for make in (kind, light(kind)):
        weights = [random_tensor(3, 4).requires_grad_(), random_tensor(5, seed=1).requires_grad_()]
        stepper = make([{"params": weights[:1], "weight_decay": 0.1} if kind is torch.optim.AdamW else weights[0]])
        stepper.add_param_group({"params": weights[1:], "lr": 0.03})
        for step in range(4):
            stepper.zero_grad()
            sum((part * random_tensor(*part.shape, seed=step + 2)).sin().sum() for part in weights).backward()
            stepper.step()
            if step == 1:
                stepper.load_state_dict(stepper.state_dict())
        sides.append(weights)
    assert all(torch.equal(one, two) for one, two in zip(*sides, strict=True))


def test_light_optimisers_leave_torchs_compiler_alone():
    code = """
import sys, torch
from ddbench.training.optimizers import OptimizerSettings, make_optimizer
from ddbench.runtime.light import light
weight = torch.ones(2, requires_grad=True)
for stepper in (
    make_optimizer([weight], OptimizerSettings(name="adamw", weight_decay=0.1, decay_vectors=False)),
    light(torch.optim.Adam)([weight], fused=True),
):
    stepper.zero_grad()
    (weight**2).sum().backward()
    stepper.step()
    stepper.load_state_dict(stepper.state_dict())
weight = torch.ones(2, requires_grad=True)
def closure():
    weight.grad = 2 * weight.detach()
    return (weight**2).sum()
light(torch.optim.LBFGS)([weight]).step(closure)
print("torch._dynamo" in sys.modules, float(weight.detach().abs().max()) < 1e-3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"], done.stdout + done.stderr


def test_sgd_leaves_the_gradients():
    weight = torch.ones(3, requires_grad=True)
    optimizer = SGD([weight], 0.1, 0.9, 0.5)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(weight.grad, torch.ones(3))
    weight.grad = torch.zeros(3)
    optimizer.step()  # the momentum is not the gradient's storage
    assert torch.equal(weight.grad, torch.zeros(3))


def test_sgd_state_round_trip():
    def steps(optimizer: SGD, weight: torch.Tensor, numbers: range) -> None:
        for number in numbers:
            weight.grad = random_tensor(4, seed=number)
            optimizer.step()

    whole = torch.zeros(4, requires_grad=True)
    optimizer = SGD([whole], 0.1, 0.9)
    steps(optimizer, whole, range(2))
    state = {name: value.clone() for name, value in optimizer.state("m").items()}
    half = whole.detach().clone().requires_grad_()
    again = SGD([half], 0.1, 0.9)
    again.load_state("m", state)
    steps(optimizer, whole, range(2, 5))
    steps(again, half, range(2, 5))
    assert torch.equal(whole, half)
    assert SGD([whole], 0.1, 0.9).state("m") == {}


def test_make_optimizer():
    parameters = [torch.zeros(2, requires_grad=True)]
    assert isinstance(make_optimizer(parameters, OptimizerSettings()), SGD)
    adam = make_optimizer(parameters, OptimizerSettings(name="adam", lr=0.1, options=(("eps", 1e-3),)))
    assert isinstance(adam, torch.optim.Adam)
    assert (adam.param_groups[0]["lr"], adam.param_groups[0]["eps"]) == (0.1, 1e-3)
    nesterov = make_optimizer(parameters, OptimizerSettings(momentum=0.9, options=(("nesterov", 1.0),)))
    assert isinstance(nesterov, torch.optim.SGD)
    with pytest.raises(UserError, match=r"unknown optimiser 'adamm' \(did you mean 'adam"):
        make_optimizer(parameters, OptimizerSettings(name="adamm"))
    with pytest.raises(UserError, match="adam has no option 'momentum'"):
        make_optimizer(parameters, OptimizerSettings(name="adam", momentum=0.9))


@pytest.mark.parametrize(
    ("name", "momentum", "option"),
    [("sgd", 0.9, "nesterov"), ("adam", 0.0, "amsgrad"), ("adamw", 0.0, "amsgrad"), ("rmsprop", 0.9, "centered")],
)
def test_switches_of_an_optimiser_are_numbers(name: str, momentum: float, option: str):
    """As ``--options nesterov=1`` says them: the same steps as torch's own, and 0 is off."""
    kind = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    results = []
    for value in (1.0, 0.0):
        ours, theirs = (random_tensor(5).requires_grad_() for _ in range(2))
        named = {"momentum": momentum} if momentum else {}
        settings = OptimizerSettings(name=name, lr=0.1, momentum=momentum, options=((option, value),))
        check_optimizer([ours], settings)
        steps = [
            (ours, make_optimizer([ours], settings)),
            (theirs, kind[name]([theirs], lr=0.1, weight_decay=0.0, **named, **{option: bool(value)})),
        ]
        for weight, stepper in steps:
            for step in range(4):
                weight.grad = random_tensor(5, seed=step)
                stepper.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        results.append(ours)
    assert not torch.equal(*results)


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("sgd", "nesterov", 0.5, "0 or 1"),
        ("adam", "amsgrad", 2.0, "0 or 1"),
        ("muon", "ns_steps", 2.5, "a whole number"),
    ],
)
def test_numbers_that_are_no_switch_are_refused(name: str, option: str, value: float, expected: str):
    with pytest.raises(UserError, match=rf"--optimizer {name}: {option}={value:g}: expected {expected}"):
        make_optimizer(
            [torch.zeros(2, 2, requires_grad=True)], OptimizerSettings(name=name, options=((option, value),))
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, ()) for name in ("adadelta", "adafactor", "adagrad", "adamax", "asgd", "nadam", "radam", "rprop")),
        *((name, (("amsgrad", 1.0),)) for name in ("adam", "adamw")),
        ("rmsprop", (("centered", 1.0), ("momentum", 0.9))),
        ("sgd", (("nesterov", 1.0), ("momentum", 0.9))),
    ],
)
def test_what_was_gathered_of_other_parameters_is_refused(name: str, options: tuple[tuple[str, float], ...]):
    """Whatever has the parameter's shape, by name: torch takes it, and fails or broadcasts at the next step."""
    settings = OptimizerSettings(name=name, options=options)
    weight = torch.ones(7, requires_grad=True)
    weight.grad = torch.ones(7)
    stepper = make_optimizer([weight], settings)
    stepper.step()
    state = optimizer_state(stepper, "m")
    load_optimizer_state(make_optimizer([weight], settings), "m", state)
    of_it = [key for key, tensor in state.items() if tensor.shape == weight.shape]
    assert of_it
    for key in of_it:
        with pytest.raises(
            ValueError, match=rf"{key.rpartition('.')[2]} of parameter 0 has shape \[1\], expected \[7\]"
        ):
            load_optimizer_state(make_optimizer([weight], settings), "m", {**state, key: torch.zeros(1)})


# The loop


@pytest.mark.parametrize(
    ("decay_after", "rebuild"), [(None, False), (2, False), (2, True)], ids=["constant", "decay", "rebuild"]
)
@pytest.mark.parametrize("augmentation", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_train_is_a_plain_loop(decay_after: int | None, rebuild: bool, augmentation: str):
    images, labels = random_tensor(23, 1, 8, 8, dtype=torch.float64), torch.arange(23) % 10
    nets = [build_student("convnet-d1-w4-in", channels=1, size=8, classes=10, seed=3).double() for _ in range(2)]
    settings = {"epochs": 4, "batch": 10, "rebuild": rebuild, "seed": 5}
    seen = []
    for epoch in train(
        nets[0],
        Inputs(images, labels, None, CPU),
        optimizer=OptimizerSettings(lr=0.1, momentum=0.9, weight_decay=5e-4),
        policy=parse_policy(augmentation),
        factor=drop_after(decay_after),
        **settings,
    ):
        seen.append(epoch)
    own = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "decay_after": decay_after, "augmentation": augmentation}
    *_, plain = plain_loop(nets[1], images, labels, **own, **settings)
    assert float((flatten_parameters(nets[0]) - plain).abs().max()) <= 1e-10
    assert [epoch.number for epoch in seen] == [1, 2, 3, 4]


def test_decay_and_rebuild_make_a_difference():
    results = []
    images, labels = random_tensor(20, 1, 8, 8), torch.arange(20) % 10
    for decay_after, rebuild in ((None, False), (1, False), (1, True), (2, True)):
        net = build_student("mlp-d1-w8", channels=1, size=8, classes=10, seed=0)
        settings = OptimizerSettings(lr=0.1, momentum=0.9)
        inputs = Inputs(images, labels, None, CPU)
        for _ in train(
            net,
            inputs,
            epochs=3,
            batch=10,
            optimizer=settings,
            policy=None,
            seed=0,
            factor=drop_after(decay_after),
            rebuild=rebuild,
        ):
            pass
        results.append(tuple(flatten_parameters(net).tolist()))
    assert len(set(results)) == 4


class Dropping(nn.Module):
    """A linear layer behind a dropout, which keeps what was left of an input of ones."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.masks: list[tuple[bool, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(x.flatten(1), training=self.training)
        self.masks.append(tuple((x != 0).flatten().tolist()))
        return self.linear(x)


@pytest.mark.parametrize("kind", ["sgd", "gsam"])
def test_dropout_is_named_by_seed_and_epoch(kind: str):
    """Every epoch draws others; the same again under the same seed, and the global generator stays as it was."""
    inputs, recipe = Inputs(torch.ones(4, 1, 8, 8), torch.arange(4), None, CPU), ExpertRecipe(kind=kind, epochs=3)

    def masks(seed: int) -> list[tuple[bool, ...]]:
        net, optimizer = Dropping(), OptimizerSettings(lr=0.0)
        before = torch.random.get_rng_state()
        if kind == "gsam":
            list(train_expert(net, inputs, recipe, optimizer, None, seed=seed))
        else:
            list(train(net, inputs, epochs=3, batch=4, optimizer=optimizer, policy=None, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), before)
        return net.masks

    first = masks(0)
    assert len(set(first)) == len(first) >= 3
    assert masks(0) == first
    assert not set(masks(1)) & set(first)


def test_loss_and_accuracy_of_an_epoch():
    """Means over images, not over batches: the last batch is smaller. With learning rate 0 nothing moves."""
    images, labels = random_tensor(7, 1, 8, 8), torch.arange(7)
    net = build_student("mlp-d1-w8", channels=1, size=8, classes=10, seed=0)
    inputs = Inputs(images, labels, None, CPU)
    (epoch,) = train(net, inputs, epochs=1, batch=4, optimizer=OptimizerSettings(lr=0.0), policy=None, seed=0)
    logits = net(images).detach()
    assert epoch.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert epoch.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_soft_labels():
    logits, soft = random_tensor(6, 10), random_tensor(6, 10, seed=1)
    expected = F.cross_entropy(logits, soft.softmax(1))
    assert torch.allclose(cross_entropy(logits, soft), expected, atol=1e-6)
    hard = torch.arange(6)
    assert torch.equal(cross_entropy(logits, hard), F.cross_entropy(logits, hard))
    nearly_hard = F.one_hot(hard, 10).float() * 1000
    assert torch.allclose(cross_entropy(logits, nearly_hard), F.cross_entropy(logits, hard), atol=1e-5)


def test_matching_loss():
    start, target = torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0])
    assert float(matching_loss(target, target, start)) == 0
    assert float(matching_loss(start, target, start)) == 1
    assert float(matching_loss(torch.tensor([3.0, 0.0]), target, start)) == pytest.approx(16 / 25)


def test_predict_and_accuracy():
    images = (random_tensor(300, 1, 8, 8).abs() * 60).clamp(0, 255).to(torch.uint8)  # two batches
    labels = torch.arange(300) % 10
    net = build_student("convnet-d1-w4-bn", channels=1, size=8, classes=10, seed=0)
    preprocess = Preprocess("meanstd", (0.3,), (0.4,))
    logits = predict(net, Inputs(images, labels, preprocess, CPU))
    assert not net.training
    x = (images.float() / 255 - 0.3) / 0.4
    with torch.no_grad():
        expected = net.eval()(x)
    assert logits.shape == (300, 10)
    assert torch.allclose(logits, expected, atol=1e-5)
    found = accuracy(logits, labels)
    assert found == pytest.approx(sum(int(a) == int(b) for a, b in zip(expected.argmax(1), labels, strict=True)) / 300)
    assert accuracy(torch.eye(10), torch.arange(10)) == 1.0
    assert accuracy(torch.eye(10), torch.arange(10).roll(1)) == 0.0


def test_inputs_kept_or_made_batch_by_batch(monkeypatch: pytest.MonkeyPatch):
    """Large sets are preprocessed a batch at a time; the numbers are the same."""
    images = (random_tensor(9, 3, 8, 8).abs() * 60).clamp(0, 255).to(torch.uint8)
    preprocess = Preprocess("meanstd", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    kept = Inputs(images, torch.zeros(9), preprocess, CPU)
    monkeypatch.setattr("ddbench.training.loops.MATERIALISE_BYTES", 0)
    made = Inputs(images, torch.zeros(9), preprocess, CPU)
    index = torch.tensor([4, 0, 8])
    assert torch.equal(kept.batch(index), made.batch(index))
    assert torch.equal(kept.batch(slice(3, 6)), made.batch(slice(3, 6)))
    assert kept.shape == made.shape == (3, 8, 8)
    assert (len(kept), len(made)) == (9, 9)


def test_forward_flops():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert forward_flops(net, (3, 4, 4)) == 2 * 8 * 16 * 27 + 2 * 128 * 10
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(("count", "steps"), [(9, [4, 4]), (10, [4, 4, 2])])
def test_a_last_batch_of_one_is_left_out_where_the_network_cannot_be_trained_on_it(count: int, steps: list[int]):
    """Another image in every epoch; loss and accuracy are means over the images that were seen."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    inputs = Inputs(random_tensor(count, 1, 2, 2), torch.arange(count) % 3, None, torch.device("cpu"))
    trained: list[int] = []
    net.register_forward_pre_hook(lambda module, seen: trained.append(len(seen[0])))
    settings = OptimizerSettings(lr=0.0)
    (epoch,) = train(net, inputs, epochs=1, batch=4, optimizer=settings, policy=None, seed=0, loss=ones)
    assert [size for size in trained if size > 1] == steps
    assert epoch.loss == pytest.approx(1)


def test_accuracy_is_of_the_images_that_were_trained_on():
    """A network that is always right has all of them, also where the last image was left out."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    nn.init.zeros_(net[2].weight)
    net[2].bias.data = torch.tensor([0.0, 9.0, 0.0])
    inputs = Inputs(random_tensor(9, 1, 2, 2), torch.ones(9, dtype=torch.int64), None, CPU)
    (epoch,) = train(net, inputs, epochs=1, batch=4, optimizer=OptimizerSettings(lr=0.0), policy=None, seed=0)
    assert epoch.accuracy == 1


def ones(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A loss of 1 whatever the logits."""
    return logits.sum() * 0 + 1


def test_a_last_batch_of_one_is_trained_on_elsewhere():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.LayerNorm(3))
    inputs = Inputs(random_tensor(9, 1, 2, 2), torch.arange(9) % 3, None, torch.device("cpu"))
    trained: list[int] = []
    net.register_forward_pre_hook(lambda module, seen: trained.append(len(seen[0])))
    list(train(net, inputs, epochs=1, batch=4, optimizer=OptimizerSettings(), policy=None, seed=0))
    assert trained == [1, 4, 4, 1], "once to ask, then the batches"


def test_batches_of_one_image_are_refused_where_none_can_be_trained_on():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    inputs = Inputs(random_tensor(3, 1, 2, 2), torch.arange(3), None, torch.device("cpu"))
    with pytest.raises(UserError, match=r"batches of 1 image: .* use a larger --batch or another student$"):
        next(train(net, inputs, epochs=1, batch=1, optimizer=OptimizerSettings(), policy=None, seed=0))
