"""Networks trained at once against the same networks trained one by one, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ddbench.data.augment import Strategy
from ddbench.data.policy import Policy, parse_policy
from ddbench.data.preprocess import Preprocess
from ddbench.networks.build import build_student
from ddbench.training.loops import Inputs, View, drop_after, own_labels, predict, train, views
from ddbench.training.many import draws_in_training, many_views, predict_many, train_many
from ddbench.training.optimizers import OptimizerSettings

CPU = torch.device("cpu")
SEEDS = (3, 9, 4)
CLASSES = 5
MOMENTUM = OptimizerSettings(lr=0.05, momentum=0.9, weight_decay=5e-2)


pytestmark = pytest.mark.usefixtures("one_thread")


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs_on(device: torch.device = CPU, *, channels: int = 1, soft: bool = False) -> Inputs:
    """23 images: with batches of 10 the last one is smaller."""
    labels = random_tensor(23, CLASSES, seed=1) if soft else torch.arange(23) % CLASSES
    return Inputs(random_tensor(23, channels, 8, 8), labels, None, device)


def networks(name: str, *, channels: int = 1, device: torch.device = CPU) -> list[nn.Module]:
    return [
        build_student(name, channels=channels, size=8, classes=CLASSES, seed=10 + seed).double().to(device)
        for seed in SEEDS
    ]


def tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in [*net.named_parameters(), *net.named_buffers()]}


def compare(name: str, inputs: Inputs, tolerance: float = 1e-9, **settings: Any) -> None:
    """Train both ways; weights, statistics, losses and accuracies must agree, and the weights must have moved."""
    channels = inputs.shape[0]
    alone, together = (networks(name, channels=channels, device=inputs.device) for _ in range(2))
    before = [tensors(net) for net in networks(name, channels=channels, device=inputs.device)]
    settings = {"epochs": 4, "batch": 10, "optimizer": MOMENTUM, "policy": None, **settings}
    rows = [list(train(net, inputs, seed=seed, **settings)) for net, seed in zip(alone, SEEDS, strict=True)]
    found = list(train_many(together, inputs, seeds=SEEDS, **settings))
    for one, other, start in zip(alone, together, before, strict=True):
        mine, reference = tensors(other), tensors(one)
        for key in reference:
            torch.testing.assert_close(mine[key], reference[key], rtol=0, atol=tolerance)
        assert any(float((mine[key] - start[key]).abs().max()) > 1e-3 for key in mine)
    assert [[epoch.number for epoch in epochs] for epochs in found] == [[number] * 3 for number in (1, 2, 3, 4)]
    for position, row in enumerate(rows):
        for epoch, epochs in zip(row, found, strict=True):
            assert epochs[position].loss == pytest.approx(epoch.loss, rel=1e-5)
            assert epochs[position].accuracy == pytest.approx(epoch.accuracy)


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("name", ["convnet-d2-w4-in", "convnet-d2-w4-bn", "mlp-d3-w8"])
def test_each_network_is_trained_as_if_alone(name: str, rebuild: bool) -> None:
    """DSA, momentum, weight decay, a drop of the rate, last smaller batches."""
    compare(name, inputs_on(), policy=parse_policy("dsa"), factor=drop_after(2), rebuild=rebuild)


@pytest.mark.parametrize(
    "name",
    ["convnet-d2-w4-gn-swish", "convnet-d1-w4-ln-sigmoid-none", "convnet-d2-w4-nn-leaky-max", "lenet"],
)
def test_other_students(name: str) -> None:
    compare(name, inputs_on(channels=3))


@pytest.mark.parametrize("policy", ["crop+flip", "color", "crop+dsa+mixup", "rrc+cutmix"])
def test_policies(policy: str) -> None:
    compare("convnet-d1-w4-bn", inputs_on(), policy=parse_policy(policy))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("decay_vectors", [False, True])
def test_optimisers(name: str, decay_vectors: bool) -> None:
    """Without the decay of vectors, a stack of biases is a matrix, and must not decay either."""
    settings = OptimizerSettings(name=name, lr=0.01, weight_decay=0.5, decay_vectors=decay_vectors)
    compare("mlp-d2-w8", inputs_on(), optimizer=settings, factor=drop_after(2))


def test_the_decay_of_vectors_makes_a_difference() -> None:
    biases = []
    for decay_vectors in (False, True):
        nets = networks("mlp-d2-w8")
        settings = OptimizerSettings(lr=0.01, weight_decay=0.5, decay_vectors=decay_vectors)
        for _ in train_many(nets, inputs_on(), epochs=2, batch=10, optimizer=settings, policy=None, seeds=SEEDS):
            pass
        biases.append(tensors(nets[0])["hidden.0.bias"])
    assert float((biases[0] - biases[1]).abs().max()) > 1e-4


def test_soft_labels_and_a_rate_of_its_own_every_epoch() -> None:
    compare("convnet-d1-w4-in", inputs_on(soft=True), factor=lambda epoch: 1 / (1 + epoch))
    compare("convnet-d1-w4-in", inputs_on(soft=True), policy=parse_policy("mixup"))


def test_labels_and_loss_of_the_caller() -> None:
    inputs = inputs_on()
    teacher = networks("mlp-d2-w8")[0]
    seen: list[View] = []

    def labels(view: View) -> Tensor:
        seen.append(view)
        with torch.no_grad():
            logits: Tensor = teacher(view.x)
        return logits

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return ((target / 2).softmax(1) * (target.log_softmax(1) - (logits / 2).log_softmax(1))).sum(1).mean()

    compare("convnet-d1-w4-bn", inputs, policy=parse_policy("dsa"), labels=labels, loss=loss)
    assert len(seen) == 2 * 3 * 4 * 3  # two ways, three batches an epoch, four epochs, three networks
    # In order of networks at once, in order of epochs alone: the same views.
    alone, together = seen[:36], seen[36:]
    for network in range(3):
        for batch in range(12):
            one, other = alone[12 * network + batch], together[3 * batch + network]
            assert torch.equal(one.index, other.index)
            assert one.epoch == other.epoch
            torch.testing.assert_close(one.x, other.x)


def test_one_view_seed_for_all() -> None:
    compare("mlp-d2-w8", inputs_on(), view_seed=77, policy=parse_policy("dsa"))


def test_own_labels_by_hand_are_the_default() -> None:
    inputs = inputs_on()
    compare("mlp-d2-w8", inputs, labels=own_labels(inputs))


def test_bfloat16() -> None:
    """Autocast as in the plain loop; what is summed in another order differs in the eighth bit."""
    inputs = Inputs(random_tensor(23, 1, 8, 8).float(), torch.arange(23) % CLASSES, None, CPU)
    nets = [[net.float() for net in networks("convnet-d1-w4-in")] for _ in range(3)]
    settings: dict[str, Any] = {"epochs": 1, "batch": 23, "optimizer": MOMENTUM, "policy": None}
    for net, seed in zip(nets[0], SEEDS, strict=True):
        list(train(net, inputs, seed=seed, precision="bfloat16", **settings))
    list(train_many(nets[1], inputs, seeds=SEEDS, precision="bfloat16", **settings))
    list(train_many(nets[2], inputs, seeds=SEEDS, **settings))
    for one, other, exact in zip(*nets, strict=True):
        for key, value in tensors(one).items():
            torch.testing.assert_close(tensors(other)[key], value, rtol=0, atol=5e-3)
        assert any(not torch.equal(value, tensors(exact)[key]) for key, value in tensors(other).items())
    logits = predict_many(nets[1], inputs, precision="bfloat16")
    assert logits.dtype == torch.float32
    assert 0 < float((logits - predict_many(nets[1], inputs)).abs().max()) < 0.1


def test_the_compiler_is_given_full_batches_only() -> None:
    calls: list[int] = []

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(arguments[2].shape[1])
            return function(*arguments)

        return call

    nets = networks("mlp-d2-w8")
    settings: dict[str, Any] = {"epochs": 2, "batch": 10, "optimizer": MOMENTUM, "policy": None, "seeds": SEEDS}
    list(train_many(nets, inputs_on(), compiler=compiler, **settings))
    assert calls == [10, 10, 10, 10]


@pytest.mark.parametrize("norm", ["in", "bn"])
def test_a_step_compiles_whole(norm: str) -> None:
    """One graph, without a C++ compiler; running statistics are written in it."""

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
        return made

    results = []
    for given in (None, compiler):
        nets = networks(f"convnet-d1-w4-{norm}")
        settings: dict[str, Any] = {"epochs": 2, "batch": 23, "optimizer": MOMENTUM, "policy": None, "seeds": SEEDS}
        list(train_many(nets, inputs_on(), compiler=given, **settings))
        results.append(nets)
    for one, other in zip(*results, strict=True):
        for key, value in tensors(one).items():
            torch.testing.assert_close(tensors(other)[key], value, rtol=0, atol=1e-9)


def test_networks_hold_their_weights_when_the_training_is_broken_off() -> None:
    short, long, fresh = networks("mlp-d2-w8"), networks("mlp-d2-w8"), networks("mlp-d2-w8")
    settings: dict[str, Any] = {"batch": 10, "optimizer": MOMENTUM, "policy": None, "seeds": SEEDS}
    list(train_many(short, inputs_on(), epochs=2, **settings))
    running = train_many(long, inputs_on(), epochs=9, **settings)
    next(running)
    assert torch.equal(tensors(long[0])["classifier.weight"], tensors(fresh[0])["classifier.weight"])
    next(running)
    assert isinstance(running, Iterator)
    running.close()  # type: ignore[attr-defined]
    for one, other in zip(short, long, strict=True):
        for key, value in tensors(one).items():
            assert torch.equal(tensors(other)[key], value)


def test_networks_are_left_in_training_mode_and_without_gradients() -> None:
    nets = [net.eval() for net in networks("convnet-d1-w4-bn")]
    before = torch.random.get_rng_state()
    list(train_many(nets, inputs_on(), epochs=1, batch=10, optimizer=MOMENTUM, policy=parse_policy("dsa"), seeds=SEEDS))
    assert torch.equal(torch.random.get_rng_state(), before)
    for net in nets:
        assert net.training
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in net.parameters())
        assert all(parameter.grad is None for parameter in net.parameters())


# --- views ---------------------------------------------------------------------------------------------------------

POLICIES = {
    "none": None,
    "dsa": parse_policy("dsa"),
    "dsa, a family an image": Policy((Strategy(per="image"),)),
    "dsa, siamese": Policy((Strategy(siamese=True),)),
    "several parts": parse_policy("flip+crop+color_rotate"),
    "strategies last": parse_policy("rrc+flip+dsa"),
    "mixed": parse_policy("crop+cutmix", mix_probability=0.5),
}


@pytest.mark.parametrize("name", POLICIES)
def test_views_are_those_of_each_seed(name: str) -> None:
    inputs, policy = inputs_on(channels=3), POLICIES[name]
    for epoch in (0, 3):
        alone = [list(views(inputs, batch=10, policy=policy, seed=seed, epoch=epoch)) for seed in SEEDS]
        together = list(many_views(inputs, batch=10, policy=policy, seeds=SEEDS, epoch=epoch))
        assert [tuple(seen.index.shape) for seen in together] == [(3, 10), (3, 10), (3, 3)]
        for position, batches in enumerate(alone):
            for one, stacked in zip(batches, together, strict=True):
                other = stacked.of(position)
                assert torch.equal(other.index, one.index)
                assert other.epoch == one.epoch
                torch.testing.assert_close(other.x, one.x, rtol=0, atol=1e-12)
                assert (other.mix is None) is (one.mix is None)
                if one.mix is not None and other.mix is not None:
                    assert other.mix.share == one.mix.share
                    assert torch.equal(other.mix.partner, one.mix.partner)


def test_views_of_inputs_made_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddbench.training.loops.MATERIALISE_BYTES", 0)
    images = (random_tensor(9, 1, 8, 8).abs() * 60).clamp(0, 255).to(torch.uint8)
    inputs = Inputs(images, torch.arange(9) % 3, Preprocess("meanstd", (0.3,), (0.4,)), CPU)
    (seen,) = many_views(inputs, batch=9, policy=None, seeds=SEEDS, epoch=1)
    for position, seed in enumerate(SEEDS):
        (one,) = views(inputs, batch=9, policy=None, seed=seed, epoch=1)
        assert torch.equal(seen.of(position).x, one.x)


# --- prediction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convnet-d2-w4-bn", "convnet-d2-w4-in", "vit-d1-w16"])
def test_predict_many(name: str) -> None:
    """Dropout is off in evaluation mode, so that vision transformers can be tested at once."""
    inputs = Inputs(random_tensor(300, 1, 8, 8), torch.arange(300) % CLASSES, None, CPU)  # two batches
    nets = networks(name)
    for net in nets:
        for key, buffer in net.named_buffers():
            buffer.copy_(random_tensor(*buffer.shape, seed=len(key)).abs() + 0.5)
    logits = predict_many(nets, inputs)
    assert logits.shape == (3, 300, CLASSES)
    assert logits.dtype == torch.float32
    assert not any(net.training for net in nets)
    torch.testing.assert_close(logits, torch.stack([predict(net, inputs) for net in nets]), rtol=0, atol=1e-6)
    assert not torch.allclose(logits[0], logits[1])


# --- what is refused -----------------------------------------------------------------------------------------------


def refuse(nets: list[nn.Module], message: str, **settings: Any) -> None:
    settings = {"epochs": 1, "batch": 10, "optimizer": MOMENTUM, "policy": None, "seeds": SEEDS, **settings}
    before = [{key: value.clone() for key, value in tensors(net).items()} for net in nets]
    with pytest.raises(ValueError, match=message):
        train_many(nets, inputs_on(), **settings)  # when it is called, not at the first epoch
    for net, start in zip(nets, before, strict=True):
        assert all(torch.equal(value, start[key]) for key, value in tensors(net).items())


def test_refused() -> None:
    refuse(networks("vit-d1-w16"), "networks with dropout .* one by one")
    refuse(networks("mlp-d2-w8"), "3 networks and 2 seeds", seeds=(1, 2))
    refuse([], "no network", seeds=())
    refuse([*networks("mlp-d2-w8")[:2], networks("mlp-d2-w16")[0]], "network 2 is of another architecture")
    refuse([*networks("mlp-d2-w8")[:2], networks("mlp-d2-w8")[0].float()], "network 2 is of another architecture, type")
    refuse(networks("mlp-d2-w8"), "'lbfgs' is not element by element", optimizer=OptimizerSettings(name="lbfgs"))


def test_networks_that_draw() -> None:
    assert draws_in_training(networks("vit-d1-w16")[0])
    assert not draws_in_training(networks("convnet-d1-w4-bn")[0])
    assert not draws_in_training(nn.Sequential(nn.Dropout(0.0)))
    assert draws_in_training(nn.Sequential(nn.Dropout2d(0.1)))
    assert draws_in_training(nn.Sequential(StochasticDepth(0.1, "row")))
    assert draws_in_training(nn.MultiheadAttention(4, 1, dropout=0.1))
    assert not draws_in_training(nn.MultiheadAttention(4, 1))


def test_draws_that_do_not_show_are_refused_at_the_first_step() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear(nn.functional.dropout(x.flatten(1), 0.5, self.training))
            return result

    nets: list[nn.Module] = [Hidden().double() for _ in SEEDS]
    with pytest.raises(RuntimeError, match="random"):
        list(train_many(nets, inputs_on(), epochs=1, batch=10, optimizer=MOMENTUM, policy=None, seeds=SEEDS))


class Hidden(nn.Module):
    """Dropout that no module shows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


def test_draws_that_do_not_show_are_found_by_calling() -> None:
    net = nn.Sequential(nn.Flatten(), Hidden(), nn.Linear(64, CLASSES))
    assert not draws_in_training(net)
    assert draws_in_training(net, (1, 8, 8))
    assert not draws_in_training(networks("convnet-d1-w4-bn")[0], (1, 8, 8))


def test_a_last_batch_of_one_is_left_out_where_it_must_be() -> None:
    """23 images in batches of 11, with a norm over the batch behind the pooling."""
    alone, together = (
        [
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)).double()
            for _ in SEEDS
        ]
        for _ in range(2)
    )
    for one, other in zip(alone, together, strict=True):
        one[2].num_batches_tracked = other[2].num_batches_tracked = None
        other.load_state_dict(one.state_dict())
    how: dict[str, Any] = {"epochs": 2, "batch": 11, "optimizer": MOMENTUM, "policy": None}
    found = list(train_many(list(together), inputs_on(), seeds=SEEDS, **how))
    for position, (net, seed) in enumerate(zip(alone, SEEDS, strict=True)):
        for epoch, row in zip(train(net, inputs_on(), seed=seed, **how), found, strict=True):
            assert row[position].loss == pytest.approx(epoch.loss)
        for key, value in tensors(net).items():
            torch.testing.assert_close(tensors(together[position])[key], value)


# --- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["convnet-d2-w4-in", "convnet-d2-w4-bn", "mlp-d3-w8"])
def test_each_network_is_trained_as_if_alone_on_a_gpu(name: str) -> None:
    compare(name, inputs_on(torch.device("cuda")), policy=parse_policy("dsa"), factor=drop_after(2), rebuild=True)
