"""Students: names, shapes, parameter counts, norms, and that gradients of gradients work."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from ddbench.networks import (
    GROUPS,
    STUDENTS,
    StudentName,
    check_student,
    default_student,
    expand_students,
    parse_student,
)
from ddbench.networks.build import build_student, parameter_count
from ddbench.networks.convnet import ConvNet
from ddbench.networks.norms import BatchNorm, InstanceNorm
from ddbench.networks.small import LeNet
from ddbench.runtime.errors import UserError


def logits_of(name: str, channels: int, size: int, classes: int = 10) -> Tensor:
    net = build_student(name, channels=channels, size=size, classes=classes, seed=0)
    x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return net(x)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDENTS)
def test_listed_names_are_canonical(name: str) -> None:
    assert str(parse_student(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "convnet-d1-w1-nn-sigmoid-max",
        "convnet-d8-w4096-ln-leaky-none",
        "convnet-d2-w8-gn-swish",
        "convnet-d2-w8-bn-max",
        "mlp-d1-w7",
        "vit-d1-w16",
    ],
)
def test_names_round_trip(name: str) -> None:
    assert str(parse_student(name)) == name


def test_parts_of_a_name() -> None:
    assert parse_student("convnet-d3-w128-in") == StudentName("convnet", 3, 128, "in", "relu", "avg")
    assert parse_student("alexnet") == StudentName("alexnet", norm="nn")
    assert parse_student("lenet") == StudentName("lenet")
    assert parse_student("resnet18ap-bn") == StudentName("resnet18ap", norm="bn")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "convnet",
        "convnet-d3",
        "convnet-d03-w128-in",
        "convnet-d3-w128-in-relu",
        "convnet-d3-w128-in-max-sigmoid",
        "convnet-d3-w128-in\n",
        "convnet-d٣-w128-in",
        "ConvNet-D3-W128-IN",
        "vgg11",
        "vgg11-nn",
        "alexnet-in",
        "resnet18",
        "resnet50-bn",
        "x" * 100_000,
        "convnet-d0-w128-in",
        "convnet-d9-w128-in",
        "convnet-d3-w0-in",
        "convnet-d3-w4097-in",
        "convnet-d3-w" + "9" * 10_000 + "-in",
        "convnet-d3-w30-gn",
        "mlp-d9-w128",
        "vit-d6-w100",
        "vit-d33-w512",
    ],
)
def test_bad_names_give_one_short_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_student(name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert repr(name[:12])[:-1] in message


def test_bad_names_say_what_to_do() -> None:
    with pytest.raises(UserError, match=r"did you mean 'convnet-d3-w128-in'.*examples: convnet"):
        parse_student("ConvNet-D3-W128-IN")
    with pytest.raises(UserError, match="depth d9 is out of range, expected d1 to d8"):
        parse_student("convnet-d9-w128-in")
    with pytest.raises(UserError, match="width w4097 is out of range, expected w1 to w4096"):
        parse_student("mlp-d3-w4097")
    with pytest.raises(UserError, match="divisible by 16"):
        parse_student("vit-d6-w100")


def test_groups_and_lists() -> None:
    assert expand_students("mtt") == GROUPS["mtt"]
    assert len(expand_students("all-small")) == 10
    assert expand_students("lenet, quick ,lenet") == ("lenet", "convnet-d3-w32-in", "mlp-d3-w128")
    for name in STUDENTS:
        assert expand_students(name) == (name,)
    for names in GROUPS.values():
        assert set(names) <= set(STUDENTS)
    for text in ("", " ", "lenet,,lenet", "lenet,", "lenet,nothing"):
        with pytest.raises(UserError):
            expand_students(text)
    with pytest.raises(UserError, match="did you mean 'all-small'"):
        expand_students("allsmall")


def test_default_student() -> None:
    sizes = {8: "convnet-d2-w32-in", 28: "convnet-d3-w128-in", 32: "convnet-d3-w128-in", 64: "convnet-d4-w128-in"}
    sizes |= {48: "convnet-d4-w128-in", 128: "convnet-d5-w128-in", 224: "convnet-d6-w128-in"}
    for size, name in sizes.items():
        assert default_student(size) == name
        check_student(name, 3, size)


def test_check_student() -> None:
    check_student("convnet-d5-w8-in", 1, 28)
    check_student("convnet-d8-w8-in-none", 3, 8)
    with pytest.raises(UserError, match="the most for this size is depth 4"):
        check_student("convnet-d5-w8-in", 3, 28)
    with pytest.raises(UserError, match="at least 8"):
        check_student("lenet", 1, 7)
    with pytest.raises(UserError, match="at least 1 channel"):
        check_student("lenet", 0, 8)
    with pytest.raises(UserError, match="the most for this size is depth 3"):
        build_student("convnet-d4-w8-in", channels=1, size=8, classes=2, seed=0)


def test_names_do_not_import_torch() -> None:
    code = "import sys, ddbench.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- shapes and counts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes", "count"),
    [
        ("convnet-d3-w128-in", 3, 32, 10, 320_010),
        ("convnet-d3-w128-bn", 3, 32, 10, 320_010),
        ("convnet-d3-w128-in", 1, 28, 10, 317_706),
        ("convnet-d3-w32-in", 1, 28, 10, 24_138),
        ("convnet-d3-w128-in", 3, 32, 100, 504_420),
        ("convnet-d4-w128-in", 3, 64, 200, 857_160),
        ("convnet-d5-w128-in", 3, 128, 10, 615_690),
        ("mlp-d3-w128", 3, 32, 10, 411_146),
        ("lenet", 3, 32, 10, 62_006),
        ("alexnet", 3, 32, 10, 1_872_202),
        ("vgg11-in", 3, 32, 10, 9_231_114),
        ("resnet18-in", 3, 32, 10, 11_173_962),
        ("resnet18-bn", 3, 32, 10, 11_173_962),
        ("resnet18ap-bn", 3, 32, 10, 11_250_762),
        ("resnet18ap-in", 3, 32, 10, 11_250_762),
        ("convnet-d3-w128x2-nn-softplus", 3, 32, 10, 1_560_842),
        ("vit-d6-w512", 3, 32, 10, 9_523_722),
    ],
)
def test_parameter_counts(name: str, channels: int, size: int, classes: int, count: int) -> None:
    """Counts of DC's public classes; FRePo's ConvNet and DC-BENCH's ViT by their widths."""
    assert parameter_count(build_student(name, channels=channels, size=size, classes=classes, seed=0)) == count


def fits(name: str, channels: int, size: int) -> bool:
    try:
        check_student(name, channels, size)
    except UserError:
        return False
    return True


OWN = [name for name in STUDENTS if parse_student(name).library is None]
SMALL = [(1, 8), (1, 28), (3, 32), (3, 64)]
CASES = [(name, *shape) for name in OWN for shape in SMALL if fits(name, *shape)]
LARGE = [
    pytest.param(name, 3, size, marks=[] if name == default_student(size) else [pytest.mark.slow])
    for name in OWN
    for size in (128, 224)
]


@pytest.mark.parametrize(("name", "channels", "size"), [*CASES, *LARGE])
def test_students_take_the_image(name: str, channels: int, size: int) -> None:
    logits = logits_of(name, channels, size, classes=7)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    # A map of one pixel in front of an instance norm would make all images equal.
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("size", [9, 15, 20, 28, 30, 33, 48])
@pytest.mark.parametrize("name", ["convnet-d3-w32-in", "lenet", "alexnet", "vgg11-bn", "resnet18ap-in", "vit-d1-w16"])
def test_students_take_uneven_sizes(name: str, size: int) -> None:
    logits = logits_of(name, 2, size)
    assert logits.isfinite().all()
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("name", GROUPS["all-small"])
def test_classifier_is_linear_in_features(name: str) -> None:
    net = build_student(name, channels=1, size=28, classes=5, seed=3).eval()
    x = torch.randn(2, 1, 28, 28)
    assert isinstance(net.classifier, nn.Linear)
    assert net.features(x).shape == (2, net.classifier.in_features)
    assert torch.equal(net(x), net.classifier(net.features(x)))
    assert list(dict(net.named_parameters()))[-2:] == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize(
    ("name", "channels", "size", "features"),
    [
        ("resnet18ap-in", 1, 28, 512 * 3 * 3),
        ("resnet18ap-in", 3, 32, 512 * 4 * 4),
        ("resnet18ap-bn", 3, 64, 512 * 4 * 4),
        ("resnet18-in", 1, 28, 512),
        ("alexnet", 1, 28, 192 * 4 * 4),
        ("alexnet-bn", 3, 64, 192 * 4 * 4),
        ("vgg11-in", 3, 64, 512),
        ("vit-d6-w512", 3, 32, 512),
    ],
)
def test_size_of_the_last_map(name: str, channels: int, size: int, features: int) -> None:
    net = build_student(name, channels=channels, size=size, classes=2, seed=0)
    assert net.classifier.in_features == features


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 64), (3, 224)])
def test_lenet_keeps_its_map(channels: int, size: int) -> None:
    net = build_student("lenet", channels=channels, size=size, classes=2, seed=0)
    assert isinstance(net, LeNet)
    assert net.linear1.in_features == 400


def test_every_vit_width_divides() -> None:
    for width in (16, 80, 208, 528):
        assert logits_of(f"vit-d1-w{width}", 3, 8).isfinite().all()


def test_convnet_blocks_come_before_the_pooling() -> None:
    net = build_student("convnet-d3-w8-in", channels=1, size=28, classes=2, seed=0)
    assert isinstance(net, ConvNet)
    x = torch.randn(2, 1, 28, 28)
    blocks = net.blocks(x)
    assert [tuple(block.shape) for block in blocks] == [(2, 8, 32, 32), (2, 8, 16, 16), (2, 8, 8, 8)]
    assert min(block.min().item() for block in blocks) >= 0
    assert torch.equal(nn.functional.avg_pool2d(blocks[-1], 2).flatten(1), net.features(x))


# --- seeds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["convnet-d3-w32-in", "vit-d1-w16"])
def test_seed_fixes_the_weights(name: str) -> None:
    def weights(seed: int) -> Tensor:
        net = build_student(name, channels=1, size=8, classes=2, seed=seed)
        return nn.utils.parameters_to_vector(net.parameters())

    before = torch.random.get_rng_state()
    first = weights(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


# --- norms ---------------------------------------------------------------------------------------------------------


def first_and_second(norm: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    inputs = [x, *norm.parameters()]
    first = torch.autograd.grad(norm(x).sin().sum(), inputs, create_graph=True)
    return [*first, *torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), inputs)]


@pytest.mark.parametrize("compiling", [False, True])
def test_instance_norm_is_group_norm(compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    mine, reference = InstanceNorm(6).double(), nn.GroupNorm(6, 6).double()
    weights = {"weight": torch.randn(6, dtype=torch.float64), "bias": torch.randn(6, dtype=torch.float64)}
    mine.load_state_dict(weights)
    reference.load_state_dict(weights)
    x = 3 + 2 * torch.randn(4, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(mine(x), reference(x), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(first_and_second(mine, x), first_and_second(reference, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_batch_norm_learns_statistics_in_training_only() -> None:
    net = build_student("convnet-d2-w4-bn", channels=1, size=8, classes=2, seed=0)
    x = 5 + torch.randn(4, 1, 8, 8)
    start = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.eval()(x)
    assert all(torch.equal(buffer, start[name]) for name, buffer in net.named_buffers())
    net.train()(x)
    assert all(not torch.equal(buffer, start[name]) for name, buffer in net.named_buffers())


def test_batch_norm_is_torch_batch_norm() -> None:
    mine, reference = BatchNorm(3), nn.BatchNorm2d(3)
    for _ in range(3):
        x = 2 + torch.randn(4, 3, 5, 5)
        assert torch.equal(mine(x), reference(x))
    assert torch.equal(mine.eval()(x), reference.eval()(x))
    loaded = nn.Sequential(BatchNorm(3)).eval()
    for state in (nn.Sequential(mine).state_dict(), nn.Sequential(reference).state_dict()):
        loaded.load_state_dict(dict(state))  # a plain dict, as from a safetensors file
        assert torch.equal(loaded(x), reference(x))
    assert list(mine.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    mine.reset_running_stats()
    assert torch.equal(mine.running_var, torch.ones(3))


def test_only_batch_norm_mixes_images() -> None:
    x = torch.randn(4, 3, 8, 8)
    other = torch.cat([x[:2], x[2:] * 3 + 1])
    for name, mixes in {"convnet-d2-w8-in": False, "convnet-d2-w8-bn": True}.items():
        net = build_student(name, channels=3, size=8, classes=5, seed=0)
        assert torch.allclose(net(x)[:2], net(other)[:2], atol=1e-5) is not mixes


# --- gradients of gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["in", "bn"])
def test_second_derivatives_of_a_convnet(norm: str) -> None:
    net = build_student(f"convnet-d2-w2-{norm}-swish", channels=1, size=8, classes=2, seed=0).double()
    names = [name for name, _ in net.named_parameters()]
    weights = [parameter.detach().requires_grad_() for parameter in net.parameters()]
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        logits = functional_call(net, dict(zip(names, weights, strict=True)), (x,))
        assert isinstance(logits, Tensor)
        return logits

    assert torch.autograd.gradgradcheck(forward, (x, *weights), fast_mode=True)


@pytest.mark.parametrize(
    "name", ["convnet-d3-w8-bn", *GROUPS["quick"], "alexnet", "vgg11-in", "resnet18ap-bn", "vit-d1-w64"]
)
def test_functional_second_order(name: str) -> None:
    """The one-step function of the inner loop: a vector-Jacobian product over a gradient, in double precision."""
    net = build_student(name, channels=1, size=8, classes=3, seed=0).double()
    net.train(not name.startswith("vit"))  # dropout would draw anew
    params = {key: value.detach() for key, value in net.named_parameters()}
    buffers = dict(net.named_buffers())
    x, y = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 2])

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        logits = functional_call(net, (params, buffers), (x,))
        return nn.functional.cross_entropy(logits, y)

    gradients, pull = vjp(grad(loss), params, x)
    pulled, pulled_x = pull(gradients)

    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    leaf_x = x.clone().requires_grad_()
    first = torch.autograd.grad(loss(leaves, leaf_x), list(leaves.values()), create_graph=True)
    dot = torch.stack([(g * g.detach()).sum() for g in first]).sum()
    expected = torch.autograd.grad(dot, [*leaves.values(), leaf_x], materialize_grads=True)
    # Relative to the largest: behind a norm the exact derivative by a bias is 0.
    largest = max(theirs.abs().max().item() for theirs in expected)
    for ours, theirs in zip([*pulled.values(), pulled_x], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * largest)
    assert pulled_x.abs().max() > 0


@pytest.mark.parametrize("norm", ["in", "bn"])
def test_convnet_compiles_whole(norm: str) -> None:
    """One graph, first and second order, without a C++ compiler."""
    net = build_student(f"convnet-d1-w4-{norm}", channels=1, size=8, classes=3, seed=0)
    params = {key: value.detach() for key, value in net.named_parameters()}
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 2])

    def pulled(params: dict[str, Tensor], x: Tensor) -> Tensor:
        def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
            return nn.functional.cross_entropy(functional_call(net, params, (x,)), y)

        gradients, pull = vjp(grad(loss), params, x)
        return pull(gradients)[1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, of every version others
        compiled = torch.compile(pulled, fullgraph=True, backend="aot_eager")(params, x)
        logits = torch.compile(net, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, pulled(params, x), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits, net(x), rtol=1e-4, atol=1e-5)
