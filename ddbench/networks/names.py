"""Names of students: the grammar, the listed names, the groups. No torch here, so that the command line starts fast.

A name says the whole architecture: ``convnet-d3-w128-in`` is three blocks of width 128 with instance norm;
``convnet-d3-w128x2-nn-softplus`` has widths 128, 256, 512, no norm, and softplus in place of ReLU.
``tv-<name>`` and ``timm-<name>`` are networks of those libraries with fresh weights, for larger images; ``tv-...-mod``
is a ResNet with a 3x3 stem of stride 1 and no max-pool, as SRe2L and RDED use on small ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ddbench.graphs.names import is_student
from ddbench.registry import Table, suggest, unknown
from ddbench.runtime.errors import UserError

SMALLEST_SIZE = 8
SMALLEST_EXTERNAL, SMALLEST_MODIFIED = 64, 32
"""Least side of an image in px for torchvision's and timm's networks, and for the ResNets with a small stem."""

MAX_DEPTH = {"convnet": 8, "mlp": 8, "vit": 32}
MAX_WIDTH = 4096

NORMS = {
    "in": "instance norm",
    "bn": "batch norm",
    "ln": "layer norm over channels, height and width",
    "gn": "group norm, 4 groups",
    "nn": "no norm",
}
ACTIVATIONS = ("relu", "sigmoid", "leaky", "swish", "softplus")
POOLINGS = ("avg", "max", "none")

_EXAMPLE = (
    "examples: convnet-d3-w128-in (w128x2: the width doubles from block to block; "
    "norm in|bn|ln|gn|nn, then -sigmoid|-leaky|-swish|-softplus and -max|-none if wanted), "
    "mlp-d3-w128, vit-d6-w512; from 64 px tv-<torchvision name>, timm-<timm name>"
)

STUDENTS = {
    "convnet-d3-w128-in": "ConvNet, 3 blocks of width 128, instance norm: the field's default at 28 and 32 px",
    "convnet-d3-w128-bn": "ConvNet, 3 blocks of width 128, batch norm",
    "convnet-d4-w128-in": "ConvNet, 4 blocks of width 128, instance norm: the default at 64 px",
    "convnet-d4-w128-bn": "ConvNet, 4 blocks of width 128, batch norm",
    "convnet-d5-w128-in": "ConvNet, 5 blocks of width 128, instance norm: the default at 128 px",
    "convnet-d6-w128-in": "ConvNet, 6 blocks of width 128, instance norm: the default at 224 px",
    "convnet-d2-w32-in": "ConvNet, 2 blocks of width 32, instance norm: the default for 8 px",
    "convnet-d3-w32-in": "ConvNet, 3 blocks of width 32, instance norm: for quick runs on a CPU",
    "convnet-d3-w32-bn": "ConvNet, 3 blocks of width 32, batch norm: for quick runs on a CPU",
    "mlp-d3-w128": "three linear layers, two hidden ones of 128",
    "lenet": "LeNet-5 with ReLU and max pooling",
    "alexnet": "AlexNet for small images, no norm",
    "alexnet-bn": "AlexNet for small images, batch norm",
    "vgg11-in": "VGG11 for small images, instance norm",
    "vgg11-bn": "VGG11 for small images, batch norm",
    "resnet18-in": "ResNet18 for small images, instance norm",
    "resnet18-bn": "ResNet18 for small images, batch norm",
    "resnet18ap-in": "ResNet18 with average pools in place of strides, instance norm",
    "resnet18ap-bn": "ResNet18 with average pools in place of strides, batch norm",
    "vit-d6-w512": "small vision transformer, 6 blocks of width 512, at most 8x8 patches",
    "tv-resnet18-mod": "torchvision's ResNet18, 3x3 stem of stride 1, no max-pool: from 32 px",
    "tv-resnet18": "torchvision's ResNet18, as all that follow for 64 px and more",
    "tv-resnet50": "torchvision's ResNet50",
    "tv-resnet101": "torchvision's ResNet101",
    "tv-efficientnet_b0": "torchvision's EfficientNet-B0",
    "tv-mobilenet_v2": "torchvision's MobileNetV2",
    "tv-alexnet": "torchvision's AlexNet",
    "tv-vgg11": "torchvision's VGG11, no norm",
    "tv-vit_b_16": "torchvision's ViT-B/16, at the size of the images",
    "tv-swin_v2_t": "torchvision's Swin-V2-T",
}
"""The listed names; every other one of the grammar is a student as well (``tv-`` and ``timm-``: of those libraries)."""

GROUPS = {
    "all-small": (
        "convnet-d3-w128-in",
        "convnet-d3-w128-bn",
        "alexnet",
        "vgg11-in",
        "resnet18-in",
        "resnet18-bn",
        "resnet18ap-in",
        "mlp-d3-w128",
        "lenet",
        "vit-d6-w512",
    ),
    "all-64": (
        "convnet-d4-w128-in",
        "convnet-d4-w128-bn",
        "alexnet",
        "vgg11-in",
        "resnet18-in",
        "resnet18-bn",
        "resnet18ap-in",
        "tv-resnet18-mod",
        "vit-d6-w512",
    ),
    "all-224": (
        "tv-resnet18",
        "tv-resnet50",
        "tv-resnet101",
        "tv-efficientnet_b0",
        "tv-mobilenet_v2",
        "tv-alexnet",
        "tv-vgg11",
        "tv-vit_b_16",
        "tv-swin_v2_t",
    ),
    "mtt": ("convnet-d3-w128-in", "alexnet", "vgg11-in", "resnet18ap-in", "resnet18-in"),
    "quick": ("convnet-d3-w32-in", "mlp-d3-w128", "lenet"),
}


@dataclass(frozen=True)
class StudentName:
    """The parts of a student's name; ``str()`` gives the canonical name. Parts that a family lacks are None.

    The family of another library's network is the library and its name there, ``tv-resnet18``; its variant is ``mod``
    for the small stem. The family of a ``registered`` network (:data:`REGISTERED`) is its whole name.
    """

    family: str
    depth: int | None = None
    width: int | None = None
    norm: str | None = None
    activation: str | None = None
    pooling: str | None = None
    doubling: bool = False
    variant: str | None = None
    registered: bool = False

    @property
    def library(self) -> str | None:
        """``tv`` (torchvision) or ``timm``; None for the package's own networks and registered ones."""
        library, dash, _ = self.family.partition("-")
        return library if dash and not self.registered else None

    def __str__(self) -> str:
        parts = [self.family]
        if self.depth is not None:
            parts.append(f"d{self.depth}")
        if self.width is not None:
            parts.append(f"w{self.width}x2" if self.doubling else f"w{self.width}")
        # ConvNets always say their norm; an AlexNet without one is plainly "alexnet".
        if self.norm is not None and (self.norm != "nn" or self.family == "convnet"):
            parts.append(self.norm)
        if self.activation not in (None, "relu"):
            parts.append(str(self.activation))
        if self.pooling not in (None, "avg"):
            parts.append(str(self.pooling))
        if self.variant is not None:
            parts.append(self.variant)
        return "-".join(parts)


def _number(name: str, letter: str, digits: str, largest: int) -> int:
    # Compared by length first: int() refuses thousands of digits with an error of its own.
    if len(digits) > len(str(largest)) or not 1 <= int(digits) <= largest:
        shown = digits if len(digits) <= 12 else f"{digits[:12]}..."
        what = {"d": "depth", "w": "width"}[letter]
        raise UserError(
            f"student {_shown(name)}: {what} {letter}{shown} is out of range, "
            f"expected {letter}1 to {letter}{largest}; {_EXAMPLE}"
        )
    return int(digits)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


def _convnet(name: str, match: re.Match[str]) -> StudentName:
    parsed = StudentName(
        "convnet",
        depth=_number(name, "d", match["depth"], MAX_DEPTH["convnet"]),
        width=_number(name, "w", match["width"], MAX_WIDTH),
        norm=match["norm"],
        activation=match["activation"] or "relu",
        pooling=match["pooling"] or "avg",
        doubling=match["doubling"] is not None,
    )
    if parsed.doubling and parsed.width is not None and parsed.width * 2 ** ((parsed.depth or 1) - 1) > MAX_WIDTH:
        raise UserError(f"student {_shown(name)}: its last block is wider than {MAX_WIDTH}")
    if parsed.norm == "gn" and parsed.width is not None and parsed.width % 4:
        raise UserError(f"student {_shown(name)}: gn has 4 groups, so the width must be divisible by 4")
    return parsed


def _mlp(name: str, match: re.Match[str]) -> StudentName:
    return StudentName(
        "mlp",
        depth=_number(name, "d", match["depth"], MAX_DEPTH["mlp"]),
        width=_number(name, "w", match["width"], MAX_WIDTH),
    )


def _vit(name: str, match: re.Match[str]) -> StudentName:
    width = _number(name, "w", match["width"], MAX_WIDTH)
    if width % 16:
        raise UserError(f"student {_shown(name)}: the width of a vit must be divisible by 16, w{width} is not")
    return StudentName("vit", depth=_number(name, "d", match["depth"], MAX_DEPTH["vit"]), width=width)


def _normed(name: str, match: re.Match[str]) -> StudentName:
    return StudentName(match["family"], norm=match["norm"])


def _external(name: str, match: re.Match[str]) -> StudentName:
    return StudentName(match["family"], variant=match.groupdict().get("variant"))


def _tagged(name: str, match: re.Match[str]) -> StudentName:
    raise UserError(
        f"student {_shown(name)}: a tag names trained weights, and students start from fresh ones; "
        f"leave it out: {match['family']}"
    )


_SIZE = r"-d(?P<depth>0|[1-9][0-9]*)-w(?P<width>0|[1-9][0-9]*)"
_FORMS: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], StudentName]], ...] = (
    (
        re.compile(
            rf"convnet{_SIZE}(?P<doubling>x2)?-(?P<norm>{'|'.join(NORMS)})"
            rf"(?:-(?P<activation>{'|'.join(ACTIVATIONS[1:])}))?(?:-(?P<pooling>{'|'.join(POOLINGS[1:])}))?"
        ),
        _convnet,
    ),
    (re.compile(rf"mlp{_SIZE}"), _mlp),
    (re.compile(rf"vit{_SIZE}"), _vit),
    (re.compile(r"(?P<family>vgg11|resnet18|resnet18ap)-(?P<norm>in|bn)"), _normed),
    (re.compile(r"(?P<family>alexnet)-(?P<norm>bn)"), _normed),
    (re.compile(r"alexnet"), lambda name, match: StudentName("alexnet", norm="nn")),
    (re.compile(r"lenet"), lambda name, match: StudentName("lenet")),
    (re.compile(r"(?P<family>tv-[a-z0-9_]{1,60})(?:-(?P<variant>mod))?"), _external),
    (re.compile(r"(?P<family>timm-[a-z0-9_]{1,60})"), _external),
    (re.compile(r"(?P<family>timm-[a-z0-9_]{1,60})\.[a-z0-9_.]{1,60}"), _tagged),
)


@dataclass(frozen=True, kw_only=True)
class StudentSpec:
    """A network of another package, or of a script.

    Attributes:
        name: small letters, digits, dashes and underscores; no name that ddbench's own grammar understands.
        build: function, or ``module:function``, that is called as ``(channels, size, classes)`` and gives a fresh
            ``nn.Module`` with random weights from torch's global generator: ``(N, channels, size, size)`` in, logits
            ``(N, classes)`` out. Its last layer should be one ``nn.Linear``: methods that look at features need it.
        title: one line for ``ddbench list students``.
        check: as ``build``, called as ``(channels, size)``: raises :class:`ddbench.UserError` for images that the
            network cannot take. Without one, and after it, the network is tried out.
    """

    name: str
    build: str | Callable[..., Any]
    title: str = ""
    check: str | Callable[..., Any] | None = None


def _check_spec(name: str, spec: StudentSpec) -> None:
    """Refuse a registered name that cannot be one.

    Raises:
        UserError: another name than its own, a malformed one, or one that has a meaning already.
    """
    if name != spec.name or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise UserError(
            f"student {name!r:.80}, named {spec.name!r:.80}: expected one name of small letters, digits, - _"
        )
    if name in GROUPS or any(pattern.fullmatch(name) for pattern, _ in _FORMS):
        raise UserError(f"student {name!r}: this name has a meaning already; rename yours")


REGISTERED: Table[StudentSpec] = Table("student", "ddbench.students", StudentSpec, {}, _check_spec)
"""Students that other packages (entry point group ``ddbench.students``) and scripts add."""


def parse_student(name: str) -> StudentName:
    """The parts of a name.

    Raises:
        UserError: the name does not follow the grammar, or a part is out of range.
    """
    for pattern, make in _FORMS:
        match = pattern.fullmatch(name)
        if match:
            return make(name, match)
    if name in REGISTERED:
        return StudentName(name, registered=True)
    if is_student(name):
        raise UserError(f"student {_shown(name)} learns from graphs, these are images; {_EXAMPLE}")
    known = [*STUDENTS, *REGISTERED]
    raise UserError(f"unknown student {_shown(name)}{suggest(name.lower()[:60], known)}; {_EXAMPLE}")


def expand_students(text: str) -> tuple[str, ...]:
    """Canonical names of a comma list of names and groups, in order, without repeats.

    Raises:
        UserError: an empty list or item, or an unknown name.
    """
    names: dict[str, None] = {}
    for item in (part.strip() for part in text.split(",")):
        if not item:
            raise UserError(
                f"empty student name in {text!r}; expected names or groups ({', '.join(GROUPS)}) with commas"
            )
        for name in GROUPS.get(item, (item,)):
            try:
                names.setdefault(str(parse_student(name)))
            except UserError:
                if suggest(name, GROUPS):
                    raise unknown("group of students", name, GROUPS) from None
                raise
    return tuple(names)


def default_student(size: int) -> str:
    """The ConvNet that the field uses for square images of this size, in px."""
    if size < 16:
        return "convnet-d2-w32-in"  # at 8 px a third block leaves one pixel, and trains far more slowly
    depth = next((depth for depth, largest in ((3, 32), (4, 64), (5, 128)) if size <= largest), 6)
    return f"convnet-d{depth}-w128-in"


def counts_as_32(channels: int, size: int) -> bool:
    """Whether an image is padded to 32 px by the first convolution: grey 28 px only, as in MNIST."""
    return channels == 1 and size == 28
