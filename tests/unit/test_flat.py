"""Networks as functions of a flat vector, and the state of our SGD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from ddbench.training.flat import FlatNet, drawing_modules, draws, flatten_parameters, refuses_one
from ddbench.training.optimizers import OptimizerSettings, load_optimizer_state, make_optimizer, optimizer_state
from ddbench.training.sgd import SGD


class DropPath(nn.Module):
    """As other libraries have it, by name and attribute."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop_prob):
            return x
        return x * (torch.rand(len(x), 1) >= self.drop_prob)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 1, dropout=0.9, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        result: Tensor = self.attention(x, x, x)[0][:, 0]
        return result


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.9), nn.AlphaDropout(0.9), StochasticDepth(0.9, "row"), DropPath(0.9), Attention()],
    ids=lambda layer: type(layer).__name__,
)
def test_a_flat_network_draws_nothing(layer: nn.Module):
    """It gives in training mode what the network gives in evaluation mode; the network itself still draws."""
    net = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3))
    x = torch.arange(80.0).view(20, 4) / 80
    flat, theta = FlatNet(net), flatten_parameters(net)
    before = torch.random.get_rng_state()
    first = flat(theta, x)
    assert torch.equal(first, flat(theta, x))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(first, net.eval()(x))
    assert list(drawing_modules(net))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(net.train()(x), first)


def moving(dtype: torch.dtype) -> SGD:
    """An optimiser that has made one step."""
    parameter = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    parameter.grad = torch.ones_like(parameter) / 3
    made = SGD([parameter, torch.zeros(2, dtype=dtype, requires_grad=True)], lr=0.1, momentum=0.9)
    made.step()
    return made


def test_loaded_velocities_are_where_the_parameters_are():
    """A checkpoint is read to the CPU in its own type; the parameter says where and what the velocity must be."""
    state = moving(torch.float32).state("momentum")
    assert set(state) == {"momentum.0"}
    other = moving(torch.float64)
    other.load_state("momentum", state)
    (velocity, none) = other.velocities
    assert none is None
    assert velocity is not None
    assert velocity.dtype == torch.float64
    assert velocity.device == other.parameters[0].device
    assert not velocity.requires_grad
    torch.testing.assert_close(velocity, torch.full((2,), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-7)
    state["momentum.0"].zero_()
    assert velocity.all(), "a copy"
    other.step()
    assert other.velocities[0] is velocity


def test_loaded_velocities_go_to_another_device():
    """The meta device stands for a GPU."""
    parameter = torch.zeros(2, device="meta", requires_grad=True)
    made = SGD([parameter], lr=0.1, momentum=0.9)
    made.load_state("momentum", {"momentum.0": torch.ones(2)})
    assert made.velocities[0] is not None
    assert made.velocities[0].device == parameter.device


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_training_goes_on_on_a_gpu(name: str):
    results = []
    for stop in (False, True):
        parameter = torch.ones(3, device="cuda", requires_grad=True)
        settings = OptimizerSettings(name=name, lr=0.1, momentum=0.9 if name == "sgd" else 0.0)
        stepper = make_optimizer([parameter], settings)
        for step in range(4):
            if stop and step == 2:
                kept = {key: value.cpu() for key, value in optimizer_state(stepper, "optimizer").items()}
                stepper = make_optimizer([parameter], settings)
                load_optimizer_state(stepper, "optimizer", kept)
            parameter.grad = torch.full_like(parameter, 1.0 + step)
            stepper.step()
        results.append(parameter.detach().cpu())
    assert torch.equal(*results)


class Functional(nn.Module):
    """Dropout as a function, with its probability in a number of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.drop_rate = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.drop_rate, self.training)


class Constant(nn.Module):
    """Draws whatever its numbers say."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


def rows_net(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), layer, nn.Linear(6, 3))


def test_dropout_that_is_a_function_is_off_in_a_flat_network():
    net = rows_net(Functional())
    assert draws(net, (1, 2, 2))
    flat, theta = FlatNet(net), flatten_parameters(net)
    x = torch.arange(20.0).view(5, 1, 2, 2)
    assert torch.equal(flat(theta, x), flat(theta, x))
    assert not draws(flat.module, (1, 2, 2))
    assert net[2].drop_rate == 0.5, "the network itself still draws"


def test_draws_are_found_by_calling():
    hidden, normed, off = rows_net(Constant()), rows_net(nn.BatchNorm1d(6)), rows_net(nn.Dropout(0.0))
    state = torch.random.get_rng_state()
    assert draws(hidden, (1, 2, 2))
    assert draws(FlatNet(hidden).module, (1, 2, 2))
    assert not draws(normed, (1, 2, 2))
    assert not draws(off, (1, 2, 2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_networks_that_cannot_be_trained_on_one_image():
    assert refuses_one(rows_net(nn.BatchNorm1d(6)), (1, 2, 2))
    assert not refuses_one(rows_net(nn.LayerNorm(6)), (1, 2, 2))
    maps = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    assert not refuses_one(maps, (1, 2, 2))
    assert torch.equal(maps.state_dict()["1.running_mean"], torch.zeros(2)), "the statistics are left"
