"""Students are asked before work: a second derivative, and no hidden draws."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.distillation import runner
from ddbench.experts.sharpness import gradient_penalty
from ddbench.methods import METHODS
from ddbench.networks.build import build_student
from ddbench.runtime.errors import UserError
from ddbench.runtime.progress import Console
from ddbench.training.curvature import curvature_penalty
from ddbench.training.flat import FlatNet, flatten_parameters
from ddbench.training.inner import InnerLoop
from ddbench.training.problem import InnerProblem, match_term
from ddbench.training.twice import attention_of, check_batches, check_steady, check_twice, plain_attention

SHAPE = (1, 4, 4)


class Attention(nn.Module):
    """Torch's attention over four tokens, with dropout that is off in evaluation."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(len(x), 1, 4, 4)
        return F.scaled_dot_product_attention(q, q, q, dropout_p=self.dropout if self.training else 0.0).flatten(1)


class Noisy(nn.Module):
    """Draws, and has no number that says so."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


def net_with(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 16), layer, nn.Linear(16, 3))


def ask(layer: nn.Module) -> bool:
    return check_twice(net_with(layer), SHAPE, 3, "mine", "MTT")


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Hardswish(), nn.SiLU(), nn.LayerNorm(16)], ids=str)
def test_layers_that_can_be_differentiated_twice(layer: nn.Module):
    assert not ask(layer)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_needs_its_plain_form(dropout: float):
    """Dropout hides it in the network itself, and is off in the flat one."""
    assert ask(Attention(dropout))


class Unit(nn.Module):
    """Rows of length 1; the second derivative of the length is not finite at a row of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(torch.cat([x, 0 * x], 0), dim=1)[: len(x)]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Unit(), r"--student mine: MTT .* \(layer 2, Unit\): its second derivative is not finite"),
        (nn.Hardsigmoid(), r"--student mine: MTT .* \(layer 2, Hardsigmoid\): .*hardsigmoid.*; use convnet-d2-w32-in$"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), "weight norm is wrong in torch .*; use convnet"),
    ],
    ids=["norm of zeros", "hardsigmoid", "weight norm"],
)
def test_layers_that_cannot(layer: nn.Module, message: str):
    with pytest.raises(UserError, match=message) as caught:
        ask(layer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("penalty", ["smooth", "curvature"])
def test_a_layer_without_weights_below_all_weights_is_seen_by_a_penalty(penalty: str):
    """Its backward pass is no part of a gradient in the weights, but of one in the images."""
    below = nn.Sequential(nn.Flatten(), nn.Hardsigmoid(), nn.Linear(16, 3))
    assert not check_twice(below, SHAPE, 3, "mine", "MTT"), "there the weights' gradient has a derivative"
    x = torch.rand(2, *SHAPE)
    labels = torch.arange(2)
    made = {
        "smooth": lambda: gradient_penalty(below, x),
        "curvature": lambda: curvature_penalty(lambda x: F.cross_entropy(below(x), labels), x, 0.1),
    }
    with pytest.raises(RuntimeError, match="hardsigmoid_backward"):
        made[penalty]().backward()
    with pytest.raises(UserError, match=r"--student mine: the penalty .*\(layer 1, Hardsigmoid\)"):
        attention_of(below, SHAPE, 3, "mine", "the penalty")


def test_a_penalty_of_networks_that_can():
    for below in (nn.Identity(), nn.ReLU(), nn.Hardswish(), nn.AvgPool2d(2, ceil_mode=True, padding=0)):
        net = nn.Sequential(below, nn.Flatten(), nn.LazyLinear(8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))
        net(torch.zeros(2, *SHAPE))
        assert isinstance(attention_of(net, SHAPE, 3, "mine", "the penalty"), nullcontext)
        gradient_penalty(net, torch.rand(2, *SHAPE)).backward()
    assert not isinstance(attention_of(net_with(Attention()), SHAPE, 3, "mine", "the penalty"), nullcontext)


def test_asking_leaves_network_and_generator():
    net = net_with(nn.BatchNorm1d(16))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    check_twice(net, SHAPE, 3, "mine", "MTT")
    check_steady(net, SHAPE, "mine")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("batch", "images", "refused"),
    [(1, 3, True), (2, 3, True), (2, 4, False), (3, 3, False), (0, 3, False), (3, 1, False)],
)
def test_a_batch_of_one_image_is_refused_for_a_network_that_cannot_take_it(batch: int, images: int, refused: bool):
    with pytest.raises(UserError, match=f"--batch-syn {batch}: of {images}") if refused else nullcontext():
        check_batches(batch, images, net_with(nn.BatchNorm1d(16)), SHAPE, "mine")
    check_batches(batch, images, net_with(nn.Identity()), SHAPE, "mine")


def test_hidden_draws_are_refused():
    check_steady(net_with(nn.Dropout(0.5)), SHAPE, "mine")
    with pytest.raises(UserError, match=r"--student mine: it draws at random .*; use convnet-d2-w32-in$"):
        check_steady(net_with(Noisy()), SHAPE, "mine")


@pytest.mark.parametrize("mode", ["unroll", "adjoint", "truncated"])
def test_the_inner_loop_through_plain_attention(mode: str):
    """Its image gradient is that of differences of the outer loss, but for truncation, which leaves terms out."""
    net = net_with(Attention()).double()
    start = flatten_parameters(net)
    generator = torch.Generator().manual_seed(1)
    images, along = (torch.randn(6, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    target = start + 0.1 * torch.randn(len(start), generator=generator, dtype=torch.float64)

    def solve(x: Tensor) -> Any:
        problem = InnerProblem(
            start=start,
            images=x,
            labels=torch.arange(6) % 3,
            lr=torch.tensor(0.1, dtype=torch.float64),
            batches=[None, None],
            terms=[match_term(2, target, start)],
        )
        return InnerLoop(FlatNet(net).to("cpu", torch.float64), mode)(problem)

    with plain_attention():
        found = float((solve(images).images * along).sum())
        ends = [float(solve(images + sign * 1e-5 * along).loss) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-5
    if mode != "truncated":
        assert found == pytest.approx(difference, rel=1e-5)
    assert found != 0


def test_which_methods_ask():
    twice = {name for name in METHODS if METHODS.get(name).second_order}
    plain = {"ast", "datm", "dc", "dd", "dream", "dsa", "ftd", "idc", "igd", "mtt", "pdd", "tesla"}
    decoded = {f"{decoder}-{base}" for decoder in ("ddif", "fred") for base in ("dc", "mtt")}
    assert twice == plain | decoded


def test_a_run_says_that_attention_takes_its_plain_form(capsys: pytest.CaptureFixture[str]):
    class Spec:
        shape = SHAPE

    class Data:
        spec = Spec()

    class Context:
        student, classes, dataset, device, console = "mine", 3, Data(), torch.device("cpu"), Console(False)

        def network(self, seed: int) -> nn.Module:
            return net_with(Attention())

    context: Any = Context()
    with runner.attention_for(METHODS.get("mtt"), context):
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    told = capsys.readouterr()
    assert "mine: attention is computed in its plain form" in told.out + told.err
    with runner.attention_for(METHODS.get("dm"), context):
        assert torch.backends.cuda.flash_sdp_enabled()


def test_students_of_timm():
    pytest.importorskip("timm")
    vit = build_student("timm-test_vit", channels=3, size=64, classes=3, seed=0)
    assert check_twice(vit, (3, 64, 64), 3, "timm-test_vit", "DC")
    ghost = build_student("timm-ghostnet_050", channels=3, size=64, classes=3, seed=0)
    with pytest.raises(UserError, match="Hardsigmoid"):
        check_twice(ghost, (3, 64, 64), 3, "timm-ghostnet_050", "DC")
    check_steady(ghost, (3, 64, 64), "timm-ghostnet_050")
