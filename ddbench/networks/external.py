"""Networks of torchvision and timm, and registered ones, as students: fresh weights, any classes and channels.

What follows the size of the images, where the library lets it, is the position table of vision transformers. All else
is the library's own network with the library's initialisation; exceptions are the first convolution where the images
do not have three channels (torchvision; timm makes its own) and in the ``-mod`` ResNets, which have PyTorch's default
initialisation, and plain batch norms, which lose their batch counter (:class:`ddbench.networks.norms.BatchNorm`).
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.networks.base import Student
from ddbench.networks.names import REGISTERED, StudentName
from ddbench.networks.norms import BatchNorm
from ddbench.networks.sight import check_sight
from ddbench.registry import resolve, suggest
from ddbench.runtime.errors import UserError, install_words
from ddbench.runtime.seeds import isolated

_TRIAL_CLASSES = 10


class ExternalStudent(Student):
    """A network of another library: ``body`` gives the input of its last linear layer, ``classifier`` the logits.

    Where the last layer is none (SqueezeNet), ``body`` gives the logits, and there are no features.

    Args:
        name: for messages.
        last: dotted name of the last linear layer in ``body``, or None.
    """

    def __init__(self, name: str, body: nn.Module, last: str | None) -> None:
        super().__init__()
        self.name = name
        self.whole = last is None
        self.body = body
        if last is not None:
            classifier = body.get_submodule(last)
            assert isinstance(classifier, nn.Linear)
            _replace(body, last, nn.Identity())
            self.classifier = classifier

    def features(self, x: Tensor) -> Tensor:
        """The input ``(N, F)`` of the last linear layer.

        Raises:
            UserError: the last layer is no linear one.
        """
        if self.whole:
            raise UserError(f"student {self.name!r}: its last layer is not linear, so it has no features; use another")
        result: Tensor = self.body(x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        if not self.whole:
            return super().forward(x)
        logits: Tensor = self.body(x)
        return logits


def make_external(student: StudentName, channels: int, size: int, classes: int) -> Student:
    """A fresh network from torch's global generator, in training mode.

    Raises:
        UserError: as :func:`last_layer`.
    """
    last = last_layer(student, channels, size)
    net = _make(student, channels, size, classes)
    return net if isinstance(net, Student) else ExternalStudent(str(student), net, last)


@functools.cache
def last_layer(student: StudentName, channels: int, size: int) -> str | None:
    """Dotted name of the linear layer that gives the logits, or None; found by trying the network out.

    The trial goes without numbers, on torch's ``meta`` device, and with them only where that does not work.

    Raises:
        UserError: no such network (with a suggestion), its library is not installed, or it does not take images of
            this shape.
    """
    try:
        with torch.device("meta"):
            return _trial(student, channels, size)
    except UserError:
        raise
    except Exception:
        # Some networks look at numbers while they are made; and a true fault shows again below.
        pass
    try:
        with isolated(0, "trial"):
            return _trial(student, channels, size)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise UserError(
            f"student '{student}' does not take images of {channels} x {size} x {size}: "
            f"{type(error).__name__}: {reason}; use another size or student"
        ) from error


def check_external(student: StudentName, channels: int, size: int) -> None:
    """Refuse a network that does not take images of this shape, or does not see all of them.

    Raises:
        UserError: as :func:`last_layer` and :func:`ddbench.networks.sight.check_sight`.
    """
    last_layer(student, channels, size)
    check_sight(student, channels, size, _make)


def _trial(student: StudentName, channels: int, size: int) -> str | None:
    net = _make(student, channels, size, _TRIAL_CLASSES)
    seen: dict[str, tuple[Tensor, Any]] = {}

    def watch(path: str, module: nn.Module) -> None:
        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            seen[path] = (inputs[0], output)

        module.register_forward_hook(keep)

    for path, module in net.named_modules():
        if isinstance(module, nn.Linear):
            watch(path, module)
    with torch.no_grad():
        logits = net(torch.zeros(2, channels, size, size))
    if not isinstance(logits, Tensor) or logits.shape != (2, _TRIAL_CLASSES):
        got = f"a tensor of shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"student '{student}' gives {got}, expected logits of {_TRIAL_CLASSES} classes; use another")
    found = (path for path, (given, output) in seen.items() if output is logits and given.ndim == 2)
    return next(found, None)


def _make(student: StudentName, channels: int, size: int, classes: int) -> nn.Module:
    make = _registered if student.registered else _torchvision if student.library == "tv" else _timm
    net = make(student, channels, size, classes)
    _forget_counters(net)
    return net


def _registered(student: StudentName, channels: int, size: int, classes: int) -> nn.Module:
    build = resolve(REGISTERED[student.family].build, f"student '{student}'")
    net = build(channels, size, classes)
    if not isinstance(net, nn.Module):
        raise UserError(f"student '{student}': its builder gave {type(net).__name__}, expected torch.nn.Module")
    return net


def _torchvision(student: StudentName, channels: int, size: int, classes: int) -> nn.Module:
    try:
        from torchvision import models
    except ImportError:
        raise UserError(f"student '{student}' needs torchvision: pip install torchvision") from None
    name = student.family.removeprefix("tv-")
    known = models.list_models(module=models)
    if name not in known:
        near = suggest(str(student), [f"tv-{one}" for one in known])
        raise UserError(
            f"unknown student '{student}'{near}: torchvision has no network {name!r}; "
            "expected tv-<name of torchvision.models.list_models(module=torchvision.models)>"
        )
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        patch = int(name.rpartition("_")[2])
        if size % patch:
            raise UserError(
                f"student '{student}': images of {size} px do not divide into patches of {patch} px; "
                f"expected a multiple of {patch}, or use another student"
            )
        options["image_size"] = size
    elif name.startswith("maxvit_"):
        options["input_size"] = (size, size)
    elif name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=True)
    net: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    if student.variant == "mod":
        if not isinstance(net, models.ResNet):
            raise UserError(f"student '{student}': only ResNets have a small stem (-mod); use {student.family}")
        net.conv1 = nn.Conv2d(channels, net.conv1.out_channels, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        _take_channels(net, student, channels)
    return net


def _timm(student: StudentName, channels: int, size: int, classes: int) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise UserError(f"student '{student}' needs timm: {install_words('timm')}") from None
    name = student.family.removeprefix("timm-")
    if not timm.is_model(name):
        near = suggest(str(student), [f"timm-{one}" for one in timm.list_models()])
        raise UserError(
            f"unknown student '{student}'{near}: timm has no network {name!r}; "
            "expected timm-<name of timm.list_models()>"
        )
    make = functools.partial(timm.create_model, name, pretrained=False, num_classes=classes, in_chans=channels)
    net: nn.Module
    try:
        net = make(img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        net = make()
    return net


def _take_channels(net: nn.Module, student: StudentName, channels: int) -> None:
    """Put a convolution for ``channels`` channels in place of the first one.

    Raises:
        UserError: the network does not begin with a convolution of three channels.
    """
    convs = ((path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d))
    path, first = next(convs, ("", None))
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError(
            f"student '{student}' takes images of 3 channels only, these have {channels}; use another student"
        )
    made = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    _replace(net, path, made)


def _forget_counters(net: nn.Module) -> None:
    """Give plain batch norms the form without a batch counter; weights, statistics and mode stay."""
    known: dict[nn.Module, BatchNorm] = {}
    for path, module in list(net.named_modules(remove_duplicate=False)):  # one may stand in two places
        plain = type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats
        if not plain or module.momentum is None:
            continue
        if module not in known:
            made = known[module] = BatchNorm(module.num_features).train(module.training)
            made.eps, made.momentum = module.eps, module.momentum
            made.weight, made.bias = module.weight, module.bias
            made.running_mean, made.running_var = module.running_mean, module.running_var
        _replace(net, path, known[module])


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
