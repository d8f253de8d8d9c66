"""Which layers and students can be differentiated twice, draw at random, or leave pixels out; not a timing.

A second derivative is what the gradient methods take: of ``g(theta, x) @ eta``, with ``g`` the gradient of a loss in
the weights, by ``(theta, x)``. It is compared with central differences of ``g`` in float64.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.networks.build import build_student
from ddbench.networks.external import _make
from ddbench.networks.names import parse_student
from ddbench.networks.sight import sight
from ddbench.runtime.errors import UserError
from ddbench.training.flat import FlatNet, draws, flatten_parameters, refuses_one
from ddbench.training.twice import plain_attention

STEPS, AGREE = (1e-8, 1e-9, 1e-10), 1e-2
"""Steps so small that hardly a unit bends inside; a derivative that agrees at one of them is right. The allowed error
is relative to the length of the derivative."""

OWN = ("convnet-d4-w16-in", "convnet-d4-w16-bn-max", "convnet-d3-w16-ln-swish", "convnet-d3-w16-gn-sigmoid")
OWN += ("lenet", "alexnet", "resnet18ap-in", "vit-d2-w64")
TORCHVISION = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5")
TORCHVISION += ("efficientnet_b0", "regnet_y_400mf", "mnasnet0_5", "convnext_tiny", "swin_t", "swin_v2_t")
TIMM = ("test_resnet", "test_vit", "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224")
TIMM += ("ghostnet_050", "mobilenetv3_small_050", "lcnet_035", "efficientnet_b0", "mixer_s16_224", "resmlp_12_224")
TIMM += ("coat_tiny", "convnext_atto", "levit_128s", "mobilevit_xxs", "xcit_nano_12_p16_224", "regnetx_002")
TIMM += ("repvit_m0_9",)
STUDENTS = (*OWN, *(f"tv-{name}" for name in TORCHVISION), *(f"timm-{name}" for name in TIMM))


class Attention(nn.Module):
    """Rows ``(N, 16)`` as four tokens of four numbers that look at each other."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(len(x), 1, 4, 4)
        return F.scaled_dot_product_attention(q, q * 2, q * 3, dropout_p=self.dropout).flatten(1)


class Maps(nn.Module):
    """A layer for maps on rows ``(N, 16)``: four channels of 2 x 2."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(len(x), 4, 2, 2)).flatten(1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention (fused)": Attention,
    "attention (dropout 0.1)": lambda: Attention(0.1),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "Mish": nn.Mish,
    "ReLU6": nn.ReLU6,
    "Softplus": nn.Softplus,
    "BatchNorm2d": lambda: Maps(nn.BatchNorm2d(4)),
    "InstanceNorm2d": lambda: Maps(nn.InstanceNorm2d(4)),
    "GroupNorm": lambda: Maps(nn.GroupNorm(2, 4)),
    "LayerNorm": lambda: nn.LayerNorm(16),
    "RMSNorm": lambda: nn.RMSNorm(16),
    "LocalResponseNorm": lambda: Maps(nn.LocalResponseNorm(3)),
    "MaxPool2d": lambda: Maps(nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2))),
    "AdaptiveAvgPool2d": lambda: Maps(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=2))),
    "bicubic interpolation": lambda: Maps(
        nn.Sequential(nn.Upsample(scale_factor=2, mode="bicubic", align_corners=False), nn.AvgPool2d(2))
    ),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
    "MultiheadAttention": lambda: nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True),
}


def first_words(error: Exception) -> str:
    """An error in a table."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:90].replace("|", "/")


def bends_at_zero(net: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether it is the scale of a norm: at zero it puts the units behind it exactly on their bend."""
    return any(getattr(module, "weight", None) is parameter for module in net.modules())


def verdicts(net: nn.Module, x: Tensor, classes: int) -> tuple[str, str]:
    """What the second derivative is by reverse-over-reverse and by forward-over-reverse: yes, wrong, or the error."""
    for parameter in net.parameters():
        if parameter.ndim == 1 and not parameter.any() and bends_at_zero(net, parameter):
            nn.init.normal_(parameter, std=0.1)
    flat = FlatNet(net.double())
    theta, x = flatten_parameters(net), x.double()
    y = torch.arange(len(x)) % classes
    generator = torch.Generator().manual_seed(1)
    eta, v, u = (torch.randn(like.shape, generator=generator, dtype=torch.float64) for like in (theta, theta, x))

    def gradient(at: Tensor, images: Tensor, graph: bool = False) -> Tensor:
        at = at if at.requires_grad else at.clone().requires_grad_()
        torch.manual_seed(0)
        return torch.autograd.grad(F.cross_entropy(flat(at, images), y), at, create_graph=graph)[0]

    def difference(step: float) -> float:
        ends = [gradient(theta + sign * step * v, x + sign * step * u) @ eta for sign in (1, -1)]
        return float((ends[0] - ends[1]) / (2 * step))

    wanted = [difference(step) for step in STEPS]

    def judge(found: float, scale: float) -> str:
        right = any(abs(found - one) <= AGREE * scale for one in wanted)
        return "yes" if right else f"wrong: {found:.4g} for {wanted[1]:.4g}"

    try:
        at, images = theta.clone().requires_grad_(), x.clone().requires_grad_()
        pulls = torch.autograd.grad(gradient(at, images, graph=True) @ eta, (at, images))
        length = float(pulls[0].norm() + pulls[1].norm())
        reverse = judge(float((pulls[0] * v).sum() + (pulls[1] * u).sum()), length)
    except (RuntimeError, NotImplementedError) as error:
        reverse = first_words(error)
    try:
        torch.manual_seed(0)
        derive = torch.func.grad(lambda at, images: F.cross_entropy(flat(at, images), y))
        turned = torch.func.jvp(derive, (theta, x), (v, u))[1]
        forward = judge(float(turned @ eta), float(turned.norm()))
    except (RuntimeError, NotImplementedError) as error:
        forward = first_words(error)
    return reverse, forward


def layers() -> list[str]:
    """One line a layer, between two linear ones."""
    lines = ["| layer | second derivative | forward over reverse | in plain attention |", "|---|---|---|---|"]
    for name, make in LAYERS.items():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 16), make(), nn.Linear(16, 3))
        if "dropout" in name:  # the flat network would switch it off
            net[1].dropout = torch.tensor(net[1].dropout)
        if name == "MultiheadAttention":
            net = nn.Sequential(net[0], nn.Unflatten(1, (4, 4)), nn.TransformerEncoderLayer(4, 2, 8, 0.0), nn.Flatten())
            net.append(nn.Linear(16, 3))
        x = torch.randn(5, 6)
        found = verdicts(net, x, 3)
        with plain_attention():
            plain = " / ".join(verdicts(net, x, 3)) if found != ("yes", "yes") else ""
        lines.append(f"| {name} | {found[0]} | {found[1]} | {plain} |")
    return lines


def unseen(name: str, size: int) -> str:
    """Rows that the student does not see."""
    student = parse_student(name)
    if student.library is None:
        return "0"
    try:
        return str(sight(student, 3, size, _make).rows)
    except UserError:
        return "refused by the library"


def students(asked: tuple[str, ...]) -> list[str]:
    """One line a student; of those that are not asked the line that was stored."""
    table = Path(__file__).with_suffix(".md")
    stored = table.read_text().splitlines() if table.exists() else []
    lines = [
        "| student | second derivative | forward over reverse | in plain attention | draws at random | one image | "
        "unseen rows at 64 px | at 72 px |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in STUDENTS:
        if name not in asked:
            lines += [line for line in stored if line.startswith(f"| {name} |")]
            continue
        lost = [unseen(name, size) for size in (64, 72)]
        size = 64 if lost[0] == "0" or parse_student(name).family == "tv-squeezenet1_1" else 70
        net = build_student(name, channels=3, size=size, classes=5, seed=0)
        x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
        drawing = "yes" if draws(net, (3, size, size)) else "no"
        one = "refused" if refuses_one(net, (3, size, size)) else "yes"
        found, plain = verdicts(net, x, 5), ""
        if found != ("yes", "yes"):
            with plain_attention():
                plain = " / ".join(verdicts(net, x, 5))
        lines.append(f"| {name} | {found[0]} | {found[1]} | {plain} | {drawing} | {one} | {lost[0]} | {lost[1]} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Ask and print."""
    made: argparse.ArgumentParser = common.parser(str(__doc__))
    made.add_argument("--students", default=",".join(STUDENTS), help="of the others the stored lines are kept")
    args = made.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torchvision", "timm"))
    lines = [
        f"{versions}; 64 px (70 px where 64 leave pixels out), 4 images, 5 classes, training mode, float64, known "
        "dropout off, scales of norms that start at zero set to small numbers. "
        '"In plain attention": both again under `sdpa_kernel(SDPBackend.MATH)`, where not both are '
        'there. "Draws at random": in training as it is built. "One image": whether it can be trained on one.',
        "",
        *layers(),
        "",
        *students(tuple(args.students.split(","))),
    ]
    command = "python benchmarks/second_derivatives.py"
    common.report(__file__, "Second derivatives, hidden draws and unseen pixels", lines, command)


if __name__ == "__main__":
    main()
