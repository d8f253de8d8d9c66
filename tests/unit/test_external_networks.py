"""Students from torchvision and timm: names, checks, and that they are the libraries' own networks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from ddbench.networks import GROUPS, STUDENTS, StudentName, check_student, expand_students, parse_student
from ddbench.networks.build import build_student, parameter_count
from ddbench.networks.external import ExternalStudent, last_layer
from ddbench.runtime import seeds
from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet, flatten_buffers, flatten_parameters

LISTED = [name for name in STUDENTS if parse_student(name).library is not None]


pytestmark = pytest.mark.usefixtures("one_thread")


def images(channels: int, size: int, count: int = 2) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tv-resnet50", "tv-vit_b_16", "tv-resnet18-mod", "timm-vit_tiny_patch16_224"])
def test_names_round_trip(name: str) -> None:
    assert str(parse_student(name)) == name


def test_parts_of_a_name() -> None:
    assert parse_student("tv-vgg11") == StudentName("tv-vgg11")
    assert parse_student("tv-resnet18-mod") == StudentName("tv-resnet18", variant="mod")
    assert parse_student("timm-resnet18").library == "timm"
    assert parse_student("tv-resnet18").library == "tv"
    assert parse_student("resnet18-bn").library is None


@pytest.mark.parametrize(
    "name",
    [
        "tv-",
        "tv",
        "timm-",
        "tv-ResNet18",
        "tv-resnet18-bn",
        "tv-resnet18-mod-mod",
        "tv-resnet18\n",
        "tv-../../x",
        "timm-resnet18-mod",
        "tv-" + "a" * 1000,
    ],
)
def test_bad_names_give_one_short_line(name: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_student(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_tag_of_trained_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"fresh ones; leave it out: timm-resnet18$"):
        parse_student("timm-resnet18.a1_in1k")


def test_groups() -> None:
    assert expand_students("all-224") == GROUPS["all-224"]
    assert [name for name in GROUPS["all-224"] if parse_student(name).library != "tv"] == []
    assert len(GROUPS["all-224"]) == len(GROUPS["all-64"]) == 9
    for name in GROUPS["all-64"]:
        check_student(name, 3, 64)


def test_names_alone_import_neither_library() -> None:
    code = (
        "import sys; from ddbench.networks import expand_students; expand_students('all-224,timm-resnet18'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- checks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTED)
def test_listed_names_take_large_images(name: str) -> None:
    for channels, size in ((3, 224), (1, 64)):
        check_student(name, channels, size)


def test_every_listed_name_has_a_linear_classifier() -> None:
    """Tried out without numbers, so that even the large ones take no time."""
    for name in LISTED:
        assert last_layer(parse_student(name), 3, 224) is not None


@pytest.mark.parametrize(
    ("name", "channels", "size", "message"),
    [
        ("tv-resnet50", 3, 32, "images of 32 px are too small, expected at least 64; use tv-resnet50-mod"),
        ("tv-vgg11", 3, 63, "expected at least 64; use one of all-small"),
        ("timm-resnet18", 3, 32, "images of 32 px are too small, expected at least 64"),
        ("tv-resnet18-mod", 3, 28, "images of 28 px are too small, expected at least 32"),
        ("tv-resnet18-mod", 3, 7, "expected at least 8"),
        ("tv-resnet19", 3, 64, r"unknown student 'tv-resnet19' \(did you mean 'tv-resnet18'\?\): torchvision has no"),
        ("tv-vit_b_16", 3, 100, "100 px do not divide into patches of 16 px; expected a multiple of 16"),
        ("tv-vgg11-mod", 3, 64, "only ResNets have a small stem"),
        ("tv-maxvit_t", 3, 64, "does not take images of 3 x 64 x 64: ValueError: .*partition size.*; use another"),
        ("tv-resnet18", 0, 64, "at least 1 channel"),
    ],
)
def test_refused(name: str, channels: int, size: int, message: str) -> None:
    for check in (check_student, lambda *a: build_student(a[0], channels=a[1], size=a[2], classes=2, seed=0)):
        with pytest.raises(UserError, match=message) as caught:
            check(name, channels, size)
        assert "\n" not in str(caught.value)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"'timm-test_missing' needs timm: pip install \"\.\[timm\]\" in the checkout of ddbench$"
    ):
        check_student("timm-test_missing", 3, 64)


def test_checks_leave_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the trial cannot go without numbers."""
    before = torch.random.get_rng_state()
    for name in ("tv-squeezenet1_0", "tv-regnet_y_400mf"):
        check_student(name, 3, 65)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_first_layer_that_is_no_convolution_of_three_channels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "list_models", lambda module: ["odd"])
    monkeypatch.setattr(models, "get_model", lambda name, **options: nn.Sequential(nn.Flatten(), nn.Linear(12288, 10)))
    check_student("tv-odd", 3, 64)
    with pytest.raises(UserError, match="'tv-odd' takes images of 3 channels only, these have 1"):
        check_student("tv-odd", 1, 64)


# --- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_a_student_is_the_network_of_torchvision(name: str) -> None:
    net = build_student(f"tv-{name}", channels=3, size=64, classes=7, seed=4)
    with seeds.isolated(4, "init"):
        reference = models.get_model(name, weights=None, num_classes=7)
    assert parameter_count(net) == parameter_count(reference)
    assert net.training
    x = images(3, 64, 4)
    for module in (net, reference):
        with seeds.isolated(0):
            module.train()(x)  # the statistics of batch norms are learned alike
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), reference.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tv-resnet18", "tv-mobilenet_v3_small", "tv-resnet18-mod"])
def test_classifier_is_linear_in_features(name: str) -> None:
    net = build_student(name, channels=2, size=64, classes=5, seed=3).eval()
    x = images(2, 64)
    with torch.no_grad():
        features = net.features(x)
        assert features.shape == (2, net.classifier.in_features)
        assert torch.equal(net(x), net.classifier(features))
    assert list(dict(net.named_parameters()))[-2:] == ["classifier.weight", "classifier.bias"]


def test_without_a_linear_classifier_there_are_no_features() -> None:
    net = build_student("tv-squeezenet1_1", channels=3, size=64, classes=5, seed=3).eval()
    x = images(3, 64)
    assert net(x).shape == (2, 5)
    with pytest.raises(UserError, match="'tv-squeezenet1_1': its last layer is not linear"):
        net.features(x)


def test_vision_transformers_follow_the_size() -> None:
    made = models.VisionTransformer(image_size=64, patch_size=16, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    assert made.encoder.pos_embedding.shape[1] == 1 + 16  # what is expected below: 4 x 4 patches and the class token
    with torch.device("meta"):
        net = build_student("tv-vit_b_16", channels=1, size=64, classes=5, seed=0)
    assert isinstance(net, ExternalStudent)
    assert dict(net.named_parameters())["body.encoder.pos_embedding"].shape == (1, 17, 768)
    assert net.classifier.in_features == 768


def test_the_small_stem() -> None:
    net = build_student("tv-resnet18-mod", channels=3, size=32, classes=10, seed=0)
    # 11,173,962 of the field's small ResNet18: the same layers, batch norm, 3x3 stem.
    assert parameter_count(net) == 11_173_962
    assert isinstance(net, ExternalStudent)
    conv, pool = net.body.get_submodule("conv1"), net.body.get_submodule("maxpool")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert isinstance(pool, nn.Identity)
    with torch.no_grad():
        assert net.body.get_submodule("layer1")(conv(images(3, 32))).shape == (2, 64, 32, 32)


def test_the_small_resnet_is_the_packages_own_one_with_batch_norm() -> None:
    theirs = build_student("tv-resnet18-mod", channels=3, size=32, classes=10, seed=0)
    ours = build_student("resnet18-bn", channels=3, size=32, classes=10, seed=1)
    by_shape = [tuple(parameter.shape) for parameter in ours.parameters()]
    assert [tuple(parameter.shape) for parameter in theirs.parameters()] == by_shape
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.copy_(other)
        x = images(3, 32)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_seed_fixes_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        return flatten_parameters(build_student("tv-squeezenet1_1", channels=1, size=64, classes=2, seed=seed))

    before = torch.random.get_rng_state()
    first = weights(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))


def test_buffers_are_floating_point_and_the_inner_loop_takes_the_network() -> None:
    net = build_student("tv-mobilenet_v3_small", channels=3, size=64, classes=3, seed=0)
    assert all(buffer.is_floating_point() for buffer in net.buffers())
    assert flatten_buffers(net).numel() > 0
    # The momentum and the epsilon of the library's batch norms stay.
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.01)}
    flat = FlatNet(net)
    assert flat(flatten_parameters(net), images(3, 64)).shape == (2, 3)


# --- timm ----------------------------------------------------------------------------------------------------------


def test_batch_norms_keep_their_statistics_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: str, num_classes: int, **options: object) -> nn.Module:
        frozen, shared = nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4)
        frozen.running_mean.fill_(1)
        frozen.running_var.fill_(2)
        pool = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), frozen, shared, nn.ReLU(), shared, pool, nn.Flatten(), nn.Linear(4, num_classes)
        )

    monkeypatch.setattr(models, "list_models", lambda module: ["frozen"])
    monkeypatch.setattr(models, "get_model", make)
    net = build_student("tv-frozen", channels=3, size=64, classes=10, seed=0)
    assert isinstance(net, ExternalStudent)
    first, second, third = (part for part in net.body if isinstance(part, nn.BatchNorm2d))
    assert (first.running_mean.tolist(), first.running_var.tolist()) == ([1.0] * 4, [2.0] * 4)
    assert (first.training, second.training) == (False, True)
    assert second is third
    assert first.num_batches_tracked is None
    assert len(flatten_buffers(net)) == 2 * 2 * 4


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    net = build_student("timm-test_resnet", channels=1, size=64, classes=5, seed=4)
    with seeds.isolated(4, "init"):
        reference = timm.create_model("test_resnet", pretrained=False, num_classes=5, in_chans=1)
    x = images(1, 64)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), reference.eval()(x))
        assert torch.equal(net(x), net.classifier(net.features(x)))
    transformer = build_student("timm-test_vit", channels=3, size=64, classes=5, seed=0)
    tokens = dict(transformer.named_parameters())["body.pos_embed"].shape[1]
    assert tokens == 1 + (64 // 16) ** 2
    assert transformer(images(3, 64)).shape == (2, 5)
    with pytest.raises(UserError, match=r"unknown student 'timm-resnet19' \(did you mean 'timm-resnet1"):
        check_student("timm-resnet19", 3, 64)


# --- pixels that are not seen --------------------------------------------------------------------------------------


class Patches(nn.Sequential):
    """Cuts images into patches; as the libraries' networks it ends in zeros, which hide what is seen."""

    def __init__(self, patch: int, stride: int) -> None:
        super().__init__(nn.Conv2d(3, 4, patch, stride=stride), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        nn.init.zeros_(self[3].weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits[:, : self.classes]

    classes = 10


@pytest.mark.parametrize(
    ("name", "patch", "stride", "size", "message"),
    [
        (
            "cut_a",
            14,
            14,
            64,
            r"does not see 23% of the pixels of 64 px images: 8 of 64 rows and 8 of 64 columns .*patches "
            "of 14 px.; use 70 px, or tv-resnet18$",
        ),
        ("cut_b", 16, 16, 72, r"21% of the pixels .*; use 64 or 80 px, or tv-resnet18$"),
        ("cut_c", 7, 7, 64, "1 of 64 rows"),
        ("cut_d", 16, 8, 70, "6 of 70 rows and 6 of 70 columns have no influence; use another size"),
        ("cut_e", 16, 16, 64, None),
        ("cut_f", 3, 2, 64, None),
    ],
)
def test_pixels_without_influence(
    monkeypatch: pytest.MonkeyPatch, name: str, patch: int, stride: int, size: int, message: str | None
) -> None:
    """One row may be lost where convolutions overlap, as SqueezeNet loses it at its own size."""

    def make(_: str, num_classes: int, **options: object) -> nn.Module:
        net = Patches(patch, stride)
        net.classes = num_classes
        return net

    monkeypatch.setattr(models, "list_models", lambda module: [name])
    monkeypatch.setattr(models, "get_model", make)
    if message is None:
        check_student(f"tv-{name}", 3, size)
        return
    with pytest.raises(UserError, match=message) as caught:
        check_student(f"tv-{name}", 3, size)
    assert "\n" not in str(caught.value)


def test_logits_that_do_not_depend_on_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_: str, num_classes: int, **options: object) -> nn.Module:
        norm = nn.GroupNorm(4, 4)  # of a map of one pixel, a channel a group: a constant
        return nn.Sequential(nn.Conv2d(3, 4, 64), norm, nn.Flatten(), nn.Linear(4, num_classes))

    monkeypatch.setattr(models, "list_models", lambda module: ["dead"])
    monkeypatch.setattr(models, "get_model", make)
    with pytest.raises(UserError, match=r"do not depend on images of 64 px .*; use larger images or tv-resnet18$"):
        check_student("tv-dead", 3, 64)


def test_patches_of_timm() -> None:
    pytest.importorskip("timm")
    check_student("timm-vit_tiny_patch16_224", 3, 64)
    with pytest.raises(UserError, match=r"21% of the pixels of 72 px images.*use 64 or 80 px"):
        check_student("timm-vit_tiny_patch16_224", 3, 72)
