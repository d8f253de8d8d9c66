"""Build students from their names."""

from __future__ import annotations

from torch import nn

from ddbench.networks.base import Student
from ddbench.networks.check import check_student
from ddbench.networks.convnet import ConvNet
from ddbench.networks.names import StudentName, parse_student
from ddbench.networks.resnet import ResNet18
from ddbench.networks.small import MLP, AlexNet, LeNet
from ddbench.networks.vgg import VGG11
from ddbench.networks.vit import ViT
from ddbench.runtime.seeds import isolated


def build_student(name: str, *, channels: int, size: int, classes: int, seed: int) -> Student:
    """A fresh student with PyTorch's default initialisation, in training mode, on the CPU.

    It takes ``(N, channels, size, size)`` and gives logits ``(N, classes)``. The same seed gives the same weights; no
    global generator is touched. Networks of other libraries have the initialisation that these give them.

    Raises:
        UserError: a wrong name, or images that this student cannot take (``check_student``).
    """
    check_student(name, channels, size)
    with isolated(seed, "init"):
        return _make(parse_student(name), channels, size, classes)


def _make(student: StudentName, channels: int, size: int, classes: int) -> Student:
    if student.library is not None or student.registered:
        from ddbench.networks.external import make_external

        return make_external(student, channels, size, classes)
    family, depth, width, norm = student.family, student.depth or 0, student.width or 0, student.norm or "nn"
    if family == "convnet":
        return ConvNet(
            channels=channels,
            size=size,
            classes=classes,
            depth=depth,
            width=width,
            norm=norm,
            activation=student.activation or "relu",
            pooling=student.pooling or "avg",
            doubling=student.doubling,
        )
    if family == "mlp":
        return MLP(channels=channels, size=size, classes=classes, depth=depth, width=width)
    if family == "vit":
        return ViT(channels=channels, size=size, classes=classes, depth=depth, width=width)
    if family == "lenet":
        return LeNet(channels=channels, size=size, classes=classes)
    if family == "alexnet":
        return AlexNet(channels=channels, size=size, classes=classes, norm=norm)
    if family == "vgg11":
        return VGG11(channels=channels, size=size, classes=classes, norm=norm)
    return ResNet18(channels=channels, size=size, classes=classes, norm=norm, pooled=family == "resnet18ap")


def parameter_count(module: nn.Module) -> int:
    """How many numbers a network learns (buffers not counted)."""
    return sum(parameter.numel() for parameter in module.parameters())
